"""A Stripe of our own, on a real socket: sessions with a page that pays, intents, refunds, disputes, signed events.

    async with FakeStripe() as stripe:           # stripe.url is its API; inside the running event loop
        session = stripe.sessions[...]           # as made by the gateway
        stripe.pay(session["id"])                # what the customer does; each action appends to stripe.events
        body, signature = stripe.sign(stripe.events[-1])

    with FakeStripe.beside() as stripe: ...      # on a thread of its own, for whole gateways and browsers

Shapes and states are those of https://docs.stripe.com/api. Faults are made on demand: `stripe.faults` lists what the
next API calls do: "500" (nothing happened), "drop" (the connection ends before anything happened), "lost" (it happened,
and the answer was lost), "hang" (no answer at all).
"""

import asyncio
import contextlib
import hashlib
import hmac
import html
import itertools
import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

SECRET_KEY = "sk_test_" + "aB3dE5gH7jK9mN1p"
SIGNING_SECRET = "whsec_" + "Zx9Yw8Vu7Ts6Rq5Po4Nm3Lk2Ji1Hg0"
Object = dict[str, Any]


class Failure(Exception):
    def __init__(self, status: int, code: str, **more: str) -> None:
        super().__init__(code)
        self.status = status
        self.error = {"code": code, "type": more.pop("type", "invalid_request_error"), "message": "in words", **more}


class FakeStripe:
    """One Stripe account in test mode."""

    def __init__(self, *, live: bool = False) -> None:
        self.live = live
        self.url = ""
        self.webhook_url = ""
        self.objects: dict[str, Object] = {}
        self.events: list[Object] = []
        self.faults: list[str] = []
        self.calls: list[tuple[str, str]] = []
        self.refund_status = "succeeded"
        self.fee_cents = 59
        self.dispute_fee_cents = 1500
        self.tax_percent = 0
        self._once: dict[str, tuple[str, int, Object]] = {}
        self._ids = itertools.count(1)
        self._prefix = hashlib.sha256(str(id(self)).encode()).hexdigest()[:6]
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    # --- serving ------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "FakeStripe":
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave nothing of it in the loop, which on closing would wait for it."""
        assert self._server is not None
        self._server.close()
        for each in self._serving:
            each.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        await self._server.wait_closed()

    @classmethod
    @contextmanager
    def beside(cls, **options: Any) -> Iterator["FakeStripe"]:
        """On a thread of its own."""
        fake, ready, stop = cls(**options), threading.Event(), asyncio.Event()
        loop = asyncio.new_event_loop()

        async def main() -> None:
            async with fake:
                ready.set()
                await stop.wait()

        def serve() -> None:
            with contextlib.closing(loop):
                loop.run_until_complete(main())

        thread = threading.Thread(target=serve)
        thread.start()
        ready.wait()
        try:
            yield fake
        finally:
            loop.call_soon_threadsafe(stop.set)
            thread.join()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._serving.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        parts = urlsplit(target)
        params = nested(parse_qsl(body.decode() if method == "POST" else parts.query))
        if parts.path.startswith("/c/pay/"):
            writer.write(self._page(method, parts.path.rpartition("/")[2], params))
            return True
        fault = self.faults.pop(0) if self.faults else ""
        self.calls.append((method, parts.path))
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "drop":
            return False
        if fault == "500":
            writer.write(answer(500, {"error": {"type": "api_error"}}))
            return True
        status, found = self.handle(method, parts.path, params, headers)
        if fault == "lost":
            return False
        writer.write(answer(status, found))
        await writer.drain()
        return True

    # --- the API ------------------------------------------------------------------------------------------------

    def handle(self, method: str, path: str, params: Object, headers: dict[str, str]) -> tuple[int, Object]:
        if headers.get("authorization") != f"Bearer {SECRET_KEY}":
            return 401, {"error": {"type": "invalid_request_error"}}
        once = headers.get("idempotency-key")
        asked = json.dumps([path, params], sort_keys=True)
        if once is not None and once in self._once:
            before, status, found = self._once[once]
            if before != asked:
                return 400, {"error": {"type": "idempotency_error", "message": "other parameters"}}
            return status, found
        try:
            status, found = 200, self._route(method, path, params)
        except Failure as failure:
            status, found = failure.status, {"error": failure.error}
        found = json.loads(json.dumps(found))
        if once is not None:
            self._once[once] = (asked, status, found)
        return status, found

    def _route(self, method: str, path: str, params: Object) -> Object:
        for verb, pattern, make in self._routes():
            match = re.fullmatch(pattern, path)
            if verb == method and match is not None:
                return self._expanded(make(params, *match.groups()), params.get("expand", []))
        raise Failure(404, "url_invalid")

    def _routes(self) -> tuple[tuple[str, str, Callable[..., Object]], ...]:
        return (
            ("POST", "/v1/customers", self._make_customer),
            ("POST", "/v1/checkout/sessions", self._make_session),
            ("GET", "/v1/checkout/sessions", lambda params: self._listed("cs_", params)),
            ("POST", "/v1/checkout/sessions/(.*)/expire", self._expire_session),
            ("GET", "/v1/checkout/sessions/(.*)", lambda _, id_: self._get("cs_", id_)),
            ("GET", "/v1/subscriptions/(.*)", lambda _, id_: self._get("sub_", id_)),
            ("POST", "/v1/subscriptions/(.*)", self._change_subscription),
            ("DELETE", "/v1/subscriptions/(.*)", lambda _, id_: self._delete_subscription(id_)),
            ("GET", "/v1/invoices", self._list_invoices),
            ("GET", "/v1/invoices/(.*)", self._get_invoice),
            ("POST", "/v1/payment_intents", self._make_intent),
            ("GET", "/v1/payment_intents/(.*)", lambda _, id_: self._get("pi_", id_)),
            ("POST", "/v1/refunds", self._make_refund),
            ("GET", "/v1/refunds", lambda params: self._listed("re_", params)),
            ("GET", "/v1/disputes", lambda params: self._listed("dp_", params)),
            ("GET", "/v1/events", self._list_events),
            ("POST", "/v1/payment_methods/(.*)/detach", self._detach),
        )

    def _get(self, prefix: str, id_: str) -> Object:
        if id_ not in self.objects or not id_.startswith(prefix):
            raise Failure(404, "resource_missing")
        return self.objects[id_]

    def _listed(self, prefix: str, params: Object) -> Object:
        wanted = params.get("payment_intent")
        found = [
            each
            for each in reversed(self.objects.values())
            if each["id"].startswith(prefix) and wanted in {None, each.get("payment_intent")}
        ]
        return paged(found, params)

    def _list_events(self, params: Object) -> Object:
        since = int(params.get("created", {}).get("gte", 0))
        types = set(params.get("types", []))
        found = [
            each for each in reversed(self.events) if each["created"] >= since and (not types or each["type"] in types)
        ]
        return paged(found, params)

    def _expanded(self, found: Object, paths: list[str]) -> Object:
        found = dict(found)
        for path in paths:
            name, _, rest = path.partition(".")
            value = found.get(name)
            if isinstance(value, str):
                value = self.objects[value]
            if isinstance(value, dict):
                found[name] = self._expanded(value, [rest] if rest else [])
        return found

    def _make_customer(self, params: Object) -> Object:
        return self._new("cus", "customer", email=params.get("email"), metadata=params.get("metadata", {}))

    def _make_session(self, params: Object) -> Object:
        (line,) = params["line_items"]
        price = line["price_data"]
        subtotal = int(price["unit_amount"]) * int(line["quantity"])
        tax = subtotal * self.tax_percent // 100 if params["automatic_tax"]["enabled"] == "true" else 0
        if params["customer"] not in self.objects:
            raise Failure(400, "resource_missing")
        once = params.get("payment_intent_data") or {}
        session = self._new(
            "cs_test",
            "checkout.session",
            mode=params["mode"],
            status="open",
            payment_status="unpaid",
            amount_subtotal=subtotal,
            amount_total=subtotal + tax,
            total_details={"amount_tax": tax, "amount_discount": 0, "amount_shipping": 0},
            currency=price["currency"],
            client_reference_id=params.get("client_reference_id"),
            customer=params["customer"],
            customer_details=None,
            metadata=params.get("metadata", {}),
            payment_intent=None,
            success_url=params["success_url"],
            cancel_url=params["cancel_url"],
            subscription=None,
            marks=(params.get("subscription_data") or once).get("metadata", {}),
            future=once.get("setup_future_usage"),
            recurring=price.get("recurring"),
        )
        session["url"] = f"{self.url}/c/pay/{session['id']}"
        return session

    def _make_intent(self, params: Object) -> Object:
        intent = self._new_intent(int(params["amount"]), params["currency"], params["customer"], params["metadata"])
        intent["payment_method"] = params["payment_method"]
        card = self.objects[params["payment_method"]]
        refusal = card.get("refuses", "")
        if refusal:
            intent["status"] = "requires_payment_method"
            self._event("payment_intent.payment_failed", intent)
            raise Failure(402, refusal, type="card_error", decline_code=refusal)
        self._charge(intent)
        self._event("payment_intent.succeeded", intent)
        return intent

    def _make_refund(self, params: Object) -> Object:
        return self.refund(params["payment_intent"], int(params["amount"]), metadata=params.get("metadata", {}))

    def _detach(self, _: Object, id_: str) -> Object:
        card = self._get("pm_", id_)
        card["customer"] = None
        return card

    # --- what customers, banks and the merchant do ----------------------------------------------------------------

    def pay(self, session_id: str, *, slowly: bool = False, address: Object | None = None) -> Object:
        """The customer pays: at once by card, or `slowly` by a method that reports later whether it worked."""
        session = self.objects[session_id]
        if session["status"] != "open":
            raise Failure(400, "session_not_open")
        if session["mode"] == "subscription":
            return self._subscribe(session)
        intent = self._new_intent(
            session["amount_total"], session["currency"], session["customer"], dict(session["marks"])
        )
        intent["payment_method"] = self.card(session["customer"])["id"]
        session.update(status="complete", payment_intent=intent["id"])
        session["customer_details"] = {"name": "Ada Lovelace", "email": "x", "address": address, "tax_ids": []}
        if slowly:
            intent["status"] = "processing"
        else:
            self._charge(intent)
            session["payment_status"] = "paid"
            self._event("payment_intent.succeeded", intent)
        self._event("checkout.session.completed", session)
        return session

    def slow_success(self, session_id: str) -> None:
        session = self.objects[session_id]
        intent = self.objects[session["payment_intent"]]
        self._charge(intent)
        session["payment_status"] = "paid"
        self._event("payment_intent.succeeded", intent)
        self._event("checkout.session.async_payment_succeeded", session)

    def slow_failure(self, session_id: str) -> None:
        session = self.objects[session_id]
        intent = self.objects[session["payment_intent"]]
        intent["status"] = "requires_payment_method"
        self._event("payment_intent.payment_failed", intent)
        self._event("checkout.session.async_payment_failed", session)

    def expire(self, session_id: str) -> None:
        session = self.objects[session_id]
        session["status"] = "expired"
        self._event("checkout.session.expired", session)

    def refund(self, intent_id: str, cents: int, *, metadata: Object | None = None) -> Object:
        """The merchant refunds, through the API or on the dashboard."""
        charge = self._charge_of(intent_id)
        if cents > charge["amount"] - charge["amount_refunded"]:
            raise Failure(400, "charge_already_refunded")
        refund = self._new(
            "re",
            "refund",
            amount=cents,
            currency=charge["currency"],
            payment_intent=intent_id,
            charge=charge["id"],
            status=self.refund_status,
            metadata=metadata or {},
        )
        charge["amount_refunded"] += cents
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self._event("refund.created", refund)
        self._event("charge.refunded", charge)
        return refund

    def fail_refund(self, refund_id: str) -> None:
        """The customer's bank sends a refund back."""
        refund = self.objects[refund_id]
        refund["status"] = "failed"
        self._charge_of(refund["payment_intent"])["amount_refunded"] -= refund["amount"]
        self._event("refund.failed", refund)

    def dispute(self, intent_id: str, cents: int | None = None, *, inquiry: bool = False) -> Object:
        """The customer's bank takes the money back, or only asks."""
        charge = self._charge_of(intent_id)
        amount = charge["amount"] if cents is None else cents
        dispute = self._new(
            "dp",
            "dispute",
            amount=amount,
            currency=charge["currency"],
            payment_intent=intent_id,
            charge=charge["id"],
            status="warning_needs_response" if inquiry else "needs_response",
            reason="fraudulent",
            balance_transactions=[] if inquiry else [self._booked(-amount, self.dispute_fee_cents)],
        )
        charge["disputed"] = True
        self._event("charge.dispute.created", dispute)
        if not inquiry:
            self._event("charge.dispute.funds_withdrawn", dispute)
        return dispute

    def close_dispute(self, dispute_id: str, *, won: bool) -> None:
        dispute = self.objects[dispute_id]
        dispute["status"] = "won" if won else "lost"
        if won:
            dispute["balance_transactions"].append(self._booked(dispute["amount"], -self.dispute_fee_cents))
            self._event("charge.dispute.funds_reinstated", dispute)
        self._event("charge.dispute.closed", dispute)

    def card(self, customer: str, *, refuses: str = "") -> Object:
        """A card that the customer has; `refuses`: how it answers charges made while nobody is there."""
        return self._new(
            "pm",
            "payment_method",
            type="card",
            card={"brand": "visa", "last4": "4242"},
            customer=customer,
            refuses=refuses,
        )

    # --- plans by the month -------------------------------------------------------------------------------------

    def _subscribe(self, session: Object) -> Object:
        assert session["recurring"] == {"interval": "month"}
        made = self._new(
            "sub",
            "subscription",
            status="active",
            cancel_at_period_end=False,
            customer=session["customer"],
            metadata=dict(session["marks"]),
            price=(session["amount_subtotal"], session["total_details"]["amount_tax"], session["currency"]),
            period_end=int(time.time()),
        )
        session.update(status="complete", payment_status="paid", subscription=made["id"])
        self.bill(made["id"])
        self._event("checkout.session.completed", session)
        return session

    def bill(self, subscription_id: str, *, pays: bool = True, days: int = 30) -> Object:
        """The next month begins, and is paid or not."""
        subscription = self.objects[subscription_id]
        net, tax, currency = subscription["price"]
        start = subscription["period_end"]
        subscription["period_end"] = start + days * 86_400
        invoice = self._new(
            "in",
            "invoice",
            status="open",
            subscription=subscription_id,
            customer=subscription["customer"],
            customer_name="Ada Lovelace",
            customer_address=None,
            customer_tax_ids=[],
            currency=currency,
            total=net + tax,
            total_taxes=[{"amount": tax}] if tax else [],
            lines={"data": [{"period": {"start": start, "end": subscription["period_end"]}}]},
            parent={
                "subscription_details": {"subscription": subscription_id, "metadata": dict(subscription["metadata"])}
            },
            payments={"data": []},
        )
        if pays:
            self.pay_bill(invoice["id"])
        else:
            subscription["status"] = "past_due"
            self._event("invoice.payment_failed", invoice)
            self._event("customer.subscription.updated", subscription)
        return invoice

    def pay_bill(self, invoice_id: str) -> None:
        """Pay an invoice, at once or after it failed."""
        invoice = self.objects[invoice_id]
        intent = self._new_intent(invoice["total"], invoice["currency"], invoice["customer"], {})
        intent["payment_method"] = self.card(invoice["customer"])["id"]
        self._charge(intent)
        paid = {"status": "paid", "payment": {"type": "payment_intent", "payment_intent": intent["id"]}}
        invoice["payments"]["data"].append(paid)
        invoice["status"] = "paid"
        subscription = self.objects[invoice["subscription"]]
        subscription["status"] = "active"
        self._event("payment_intent.succeeded", intent)
        self._event("invoice.paid", invoice)
        self._event("customer.subscription.updated", subscription)

    def _change_subscription(self, params: Object, id_: str) -> Object:
        subscription = self._get("sub_", id_)
        if subscription["status"] == "canceled":
            raise Failure(400, "subscription_canceled")
        subscription["cancel_at_period_end"] = params["cancel_at_period_end"] == "true"
        self._event("customer.subscription.updated", subscription)
        return subscription

    def _delete_subscription(self, id_: str) -> Object:
        subscription = self._get("sub_", id_)
        if subscription["status"] == "canceled":
            raise Failure(404, "resource_missing")
        return self.end(id_)

    def end(self, subscription_id: str) -> Object:
        """It ends: it was set to, or nobody pays."""
        subscription = self.objects[subscription_id]
        subscription["status"] = "canceled"
        self._event("customer.subscription.deleted", subscription)
        return subscription

    def _expire_session(self, _: Object, id_: str) -> Object:
        session = self._get("cs_", id_)
        if session["status"] != "open":
            raise Failure(400, "session_not_open")
        self.expire(id_)
        return session

    def _get_invoice(self, params: Object, id_: str) -> Object:
        found = self._get("in_", id_)
        asked = "payments" in params.get("expand", [])
        return {name: value for name, value in found.items() if asked or name != "payments"}

    def _list_invoices(self, params: Object) -> Object:
        found = [
            {name: value for name, value in each.items() if name != "payments"}
            for each in reversed(self.objects.values())
            if each["id"].startswith("in_")
            and (each["subscription"], each["status"]) == (params["subscription"], params["status"])
        ]
        return paged(found, params)

    # --- events -------------------------------------------------------------------------------------------------

    def sign(self, event: Object, *, secret: str = SIGNING_SECRET, at: int | None = None) -> tuple[bytes, str]:
        """An event as it is sent: (body, header)."""
        body = json.dumps({**event, "pending_webhooks": 1}, indent=2).encode()
        return body, signature(body, secret, at)

    def _event(self, type_: str, about: Object) -> None:
        event = self._new(
            "evt",
            "event",
            type=type_,
            api_version="2026-10-28.endive",
            data={"object": json.loads(json.dumps(about))},
        )
        del self.objects[event["id"]]
        self.events.append(event)

    def deliver(self) -> None:
        """Send all events so far to `webhook_url`, for tests that run beside a whole gateway."""
        for event in self.events:
            body, header = self.sign(event)
            request = urllib.request.Request(self.webhook_url, body, {"stripe-signature": header})
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10):
                pass

    # --- within -------------------------------------------------------------------------------------------------

    def _new(self, prefix: str, object_: str, **fields: Any) -> Object:
        id_ = f"{prefix}_{self._prefix}{next(self._ids):06d}"
        made = {"id": id_, "object": object_, "livemode": self.live, "created": int(time.time()), **fields}
        self.objects[id_] = made
        return made

    def _new_intent(self, amount: int, currency: str, customer: str, metadata: Object) -> Object:
        return self._new(
            "pi",
            "payment_intent",
            amount=amount,
            amount_received=0,
            currency=currency,
            customer=customer,
            metadata=metadata,
            status="requires_payment_method",
            latest_charge=None,
            payment_method=None,
        )

    def _charge(self, intent: Object) -> None:
        booked = self._booked(intent["amount"], self.fee_cents, currency=intent["currency"])
        charge = self._new(
            "ch",
            "charge",
            amount=intent["amount"],
            amount_refunded=0,
            refunded=False,
            disputed=False,
            currency=intent["currency"],
            payment_intent=intent["id"],
            balance_transaction=booked["id"],
        )
        self.objects[booked["id"]] = booked
        intent.update(status="succeeded", amount_received=intent["amount"], latest_charge=charge["id"])

    def _booked(self, amount: int, fee: int, *, currency: str = "usd") -> Object:
        return {
            "id": f"txn_{next(self._ids)}",
            "object": "balance_transaction",
            "amount": amount,
            "fee": fee,
            "currency": currency,
        }

    def _charge_of(self, intent_id: str) -> Object:
        return self.objects[self._get("pi_", intent_id)["latest_charge"]]

    def _page(self, method: str, session_id: str, params: Object) -> bytes:
        """The page on which a customer pays."""
        session = self.objects.get(session_id)
        if session is None:
            return answer(404, {})
        if method == "POST":
            self.pay(session_id, slowly=params.get("how") == "slowly")
            head = f"HTTP/1.1 303 See Other\r\nlocation: {session['success_url']}\r\ncontent-length: 0\r\n\r\n"
            if self.webhook_url:
                threading.Thread(target=self.deliver).start()
            return head.encode()
        total = f"{session['amount_total'] / 100:.2f} {session['currency'].upper()}"
        page = (
            f"<!doctype html><html lang=en><title>Pay</title><h1>Pay {total}</h1>"
            "<form method=post><button name=how value=card>Pay by card</button>"
            "<button name=how value=slowly>Pay by bank debit</button></form>"
            f'<a href="{html.escape(session["cancel_url"])}">Back</a>'
        ).encode()
        return b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: %d\r\n\r\n%s" % (
            len(page),
            page,
        )


def signature(body: bytes, secret: str = SIGNING_SECRET, at: int | None = None) -> str:
    stamp = int(time.time()) if at is None else at
    digest = hmac.new(secret.encode(), b"%d.%s" % (stamp, body), hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest},v0={'0' * 64}"


def answer(status: int, found: Object) -> bytes:
    body = json.dumps(found).encode()
    return b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        status,
        len(body),
        body,
    )


def paged(found: list[Object], params: Object) -> Object:
    after = params.get("starting_after")
    ids = [each["id"] for each in found]
    start = ids.index(after) + 1 if after else 0
    limit = int(params.get("limit", 10))
    return {"object": "list", "data": found[start : start + limit], "has_more": len(found) > start + limit}


def nested(pairs: list[tuple[str, str]]) -> Any:
    """`a[b][0]=c` as {"a": {"b": ["c"]}}."""
    root: Object = {}
    for name, value in pairs:
        steps = [step for step in re.split(r"\[|\]\[|\]", name) if step]
        at = root
        for step in steps[:-1]:
            at = at.setdefault(step, {})
        at[steps[-1]] = value
    return lists(root)


def lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    read = {name: lists(each) for name, each in value.items()}
    if read and all(name.isdecimal() for name in read):
        return list(read.values())
    return read
