"""Payment by card: a thin client of Stripe's HTTP API, of the dozen calls that are needed (docs/decisions/).

Field names and statuses are those of https://docs.stripe.com/api in version `API_VERSION`, which each call names, so
that a change at Stripe's changes nothing here. A test compares the fields below with the official library's.

Rule 1  A call that changes something has an Idempotency-Key made of our own ids: repeated, it is the same call.
Rule 2  Nothing is believed of an event but which object it is about: that object is asked for anew.
Rule 3  Stripe's texts stay here: what is shown is ours, what is kept is a code of theirs.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from tollbridge.core.money import NANO_PER_CENT
from tollbridge.core.payments import Buyer, Card, Payment, Report, Reported, Return, Status
from tollbridge.payments.base import Order, ProcessorRefused, ProcessorUnavailable, Started
from tollbridge.payments.webhook import Event

if TYPE_CHECKING:
    import httpx2

API_VERSION = "2026-10-28.endive"
BASE_URL = "https://api.stripe.com"
NAME = "stripe"

ORDER, ACCOUNT, REFUND = "tollbridge_payment", "tollbridge_account", "tollbridge_refund"
# What an endpoint must be subscribed to; all of it leads to the same: asking for the payment.
EVENTS = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "charge.updated",
    "charge.refunded",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
)
TRIES = 3
TIMEOUT_S = 10.0
_PAUSE_S = 0.2
_PAGE = 100
_MOST_PAGES = 200
_CODE = re.compile(r"[a-z_]{1,60}")
_EXPAND_CHARGE = ("latest_charge.balance_transaction", "payment_method")

T = TypeVar("T")


# --- what is read of Stripe's objects -----------------------------------------------------------------------------


class CardDetails(msgspec.Struct, frozen=True):
    brand: str = "card"
    last4: str = ""


class PaymentMethod(msgspec.Struct, frozen=True):
    id: str
    type: str = ""
    card: CardDetails | None = None


class BalanceTransaction(msgspec.Struct, frozen=True):
    id: str
    amount: int
    fee: int
    currency: str


class Charge(msgspec.Struct, frozen=True):
    id: str
    amount_refunded: int
    disputed: bool
    balance_transaction: BalanceTransaction | str | None = None


class PaymentIntent(msgspec.Struct, frozen=True):
    id: str
    status: str
    amount: int
    amount_received: int
    currency: str
    livemode: bool
    metadata: dict[str, str] = {}
    customer: str | None = None
    latest_charge: Charge | str | None = None
    payment_method: PaymentMethod | str | None = None


class Address(msgspec.Struct, frozen=True):
    line1: str | None = None
    line2: str | None = None
    postal_code: str | None = None
    city: str | None = None
    state: str | None = None
    country: str | None = None


class TaxId(msgspec.Struct, frozen=True):
    value: str | None = None


class CustomerDetails(msgspec.Struct, frozen=True):
    name: str | None = None
    address: Address | None = None
    tax_ids: list[TaxId] | None = None


class TotalDetails(msgspec.Struct, frozen=True):
    amount_tax: int


class Session(msgspec.Struct, frozen=True):
    id: str
    payment_status: str
    livemode: bool
    status: str | None = None
    url: str | None = None
    amount_total: int | None = None
    currency: str | None = None
    client_reference_id: str | None = None
    customer: str | None = None
    metadata: dict[str, str] | None = None
    total_details: TotalDetails | None = None
    customer_details: CustomerDetails | None = None
    payment_intent: PaymentIntent | str | None = None


class Refund(msgspec.Struct, frozen=True):
    id: str
    amount: int
    currency: str
    status: str | None = None
    metadata: dict[str, str] | None = None


class Dispute(msgspec.Struct, frozen=True):
    id: str
    amount: int
    currency: str
    status: str
    balance_transactions: list[BalanceTransaction]


class Customer(msgspec.Struct, frozen=True):
    id: str


class EventObject(msgspec.Struct, frozen=True):
    id: str
    payment_intent: PaymentIntent | str | None = None


class EventData(msgspec.Struct, frozen=True):
    object: EventObject


class StripeEvent(msgspec.Struct, frozen=True):
    id: str
    type: str
    created: int
    data: EventData


class Listed(msgspec.Struct, frozen=True):
    """A page of a list, its objects not yet read."""

    data: list[msgspec.Raw]
    has_more: bool = False


class _Error(msgspec.Struct, frozen=True):
    code: str | None = None
    decline_code: str | None = None
    type: str | None = None


class _Failure(msgspec.Struct, frozen=True):
    error: _Error


class Stripe:
    """Payments through one Stripe account. `automatic_tax`: Stripe adds the tax that is due."""

    name = NAME

    def __init__(self, secret_key: str, *, base_url: str = BASE_URL, automatic_tax: bool = False) -> None:
        self.live = "_live_" in secret_key[:9]
        self._key = secret_key
        self._base_url = base_url
        self.automatic_tax = automatic_tax
        self._client: httpx2.AsyncClient | None = None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    # --- paying -------------------------------------------------------------------------------------------------

    async def start(self, order: Order) -> Started:
        """A Checkout session: a page of Stripe's on which the customer pays."""
        payment = order.payment
        marks = {ORDER: payment.public_id, ACCOUNT: order.account}
        intent: dict[str, Any] = {"metadata": marks}
        if payment.save_card:
            intent["setup_future_usage"] = "off_session"
        params = {
            "mode": "payment",
            "client_reference_id": payment.public_id,
            "customer": order.customer,
            "customer_update": {"name": "auto", "address": "auto"},
            "metadata": marks,
            "payment_intent_data": intent,
            "line_items": [
                {
                    "quantity": 1,
                    "price_data": {
                        "currency": payment.currency,
                        "unit_amount": cents(payment.amount),
                        "product_data": {"name": order.product},
                        "tax_behavior": "exclusive",
                    },
                }
            ],
            # The amount that we ordered is the amount that is paid.
            "adaptive_pricing": {"enabled": False},
            "automatic_tax": {"enabled": self.automatic_tax},
            "billing_address_collection": "required" if self.automatic_tax else "auto",
            "tax_id_collection": {"enabled": True},
            "success_url": order.success_url,
            "cancel_url": order.cancel_url,
        }
        session = await self._post("/v1/checkout/sessions", params, payment.public_id, Session)
        if session.url is None:
            raise ProcessorUnavailable
        return Started(session.id, session.url)

    async def create_customer(self, account: str, email: str) -> str:
        """Stripe's id of our account."""
        params = {"email": email, "metadata": {ACCOUNT: account}}
        return (await self._post("/v1/customers", params, f"customer/{account}", Customer)).id

    async def charge(self, payment: Payment, account: str, card: Card) -> Report:
        """Charge a saved card while nobody is there. ProcessorRefused: declined, or the bank wants its owner."""
        params = {
            "amount": cents(payment.amount),
            "currency": payment.currency,
            "customer": card.customer,
            "payment_method": card.id,
            "off_session": True,
            "confirm": True,
            "metadata": {ORDER: payment.public_id, ACCOUNT: account},
            "expand": _EXPAND_CHARGE,
        }
        intent = await self._post("/v1/payment_intents", params, payment.public_id, PaymentIntent)
        return await self._report_intent(intent, known=False)

    async def forget(self, card: Card) -> None:
        """Detach a saved card."""
        await self._post(f"/v1/payment_methods/{_safe(card.id)}/detach", {}, None, PaymentMethod)

    async def refund(self, payment: Payment, amount: int, ours: str) -> Reported:
        """Give back `amount` nano-USD of a payment, tax included; `ours` is the id that makes it happen once."""
        params = {"payment_intent": payment.intent, "amount": cents(amount), "metadata": {REFUND: ours}}
        return _refund(await self._post("/v1/refunds", params, ours, Refund))

    # --- asking -------------------------------------------------------------------------------------------------

    async def report(self, payment: Payment, *, known: bool) -> Report | None:
        """All that Stripe knows of one of our payments; None: it knows nothing of it.

        `known`: money went back before, so that it must be looked at again even if none seems to be gone now.
        """
        if payment.external_id is None:
            return None
        if payment.external_id.startswith("pi_"):
            intent = await self._get(f"/v1/payment_intents/{_safe(payment.external_id)}", _EXPAND_CHARGE, PaymentIntent)
            return await self._report_intent(intent, known=known)
        expand = [f"payment_intent.{each}" for each in _EXPAND_CHARGE]
        session = await self._get(f"/v1/checkout/sessions/{_safe(payment.external_id)}", expand, Session)
        return await self._report_session(session, known=known, card=payment.save_card)

    async def order_of(self, event: Event) -> tuple[str, str | None]:
        """What an event's object belongs to: (Stripe's id of the order, our id as Stripe has it).

        The order is a session or, for a charge without one, the PaymentIntent. Our id is no proof of anything.
        """
        if event.object_id.startswith("cs_"):
            session = await self._get(f"/v1/checkout/sessions/{_safe(event.object_id)}", (), Session)
            return session.id, (session.metadata or {}).get(ORDER)
        intent_id = event.object_id if event.object_id.startswith("pi_") else event.intent
        if intent_id is None:
            return event.object_id, None
        sessions = await self._list("/v1/checkout/sessions", {"payment_intent": intent_id}, Session)
        if sessions:
            return sessions[0].id, (sessions[0].metadata or {}).get(ORDER)
        intent = await self._get(f"/v1/payment_intents/{_safe(intent_id)}", (), PaymentIntent)
        return intent.id, intent.metadata.get(ORDER)

    async def events(self, since: int) -> list[tuple[Event, int]]:
        """Events from the time `since` on (seconds), with theirs, the newest first: Stripe keeps them for 30 days."""
        params = {"created": {"gte": since}, "types": EVENTS}
        return [
            (Event(each.id, each.type, each.data.object.id, _id_of(each.data.object.payment_intent)), each.created)
            for each in await self._list("/v1/events", params, StripeEvent)
        ]

    async def refunds(self, intent: str) -> tuple[Reported, ...]:
        """What was refunded of a payment."""
        return tuple(map(_refund, await self._list("/v1/refunds", {"payment_intent": intent}, Refund)))

    async def _report_session(self, session: Session, *, known: bool, card: bool) -> Report:
        intent = session.payment_intent if isinstance(session.payment_intent, PaymentIntent) else None
        marks = session.metadata or {}
        tax = session.total_details.amount_tax if session.total_details is not None else 0
        total = session.amount_total or 0
        status = _session_status(session, intent)
        ours = session.livemode is self.live and session.client_reference_id == marks.get(ORDER)
        if status is Status.PAID and intent is not None:
            # What the page showed must be what arrived.
            ours &= (total, session.currency) == (intent.amount_received, intent.currency)
            total = intent.amount_received
        return Report(
            status=status,
            external_id=session.id,
            intent=intent.id if intent is not None else _id_of(session.payment_intent),
            amount=nano(total - tax),
            tax=nano(tax),
            currency=session.currency or "",
            order=marks.get(ORDER) if ours else None,
            account=marks.get(ACCOUNT),
            customer=session.customer,
            fee=_fee(intent, session.currency),
            reversals=await self._reversals(intent, known=known),
            card=_card(intent) if card else None,
            buyer=_buyer(session.customer_details),
            note="the payment was not completed" if status is Status.FAILED else "",
        )

    async def _report_intent(self, intent: PaymentIntent, *, known: bool) -> Report:
        status = _INTENT_STATUS.get(intent.status, Status.PROCESSING)
        received = intent.amount_received if status is Status.PAID else intent.amount
        return Report(
            status=status,
            external_id=intent.id,
            intent=intent.id,
            amount=nano(received),
            currency=intent.currency,
            order=intent.metadata.get(ORDER) if intent.livemode is self.live else None,
            account=intent.metadata.get(ACCOUNT),
            customer=intent.customer,
            fee=_fee(intent, intent.currency),
            reversals=await self._reversals(intent, known=known),
            note="the card could not be charged" if status is Status.FAILED else "",
        )

    async def _reversals(self, intent: PaymentIntent | None, *, known: bool) -> tuple[Reported, ...]:
        charge = intent.latest_charge if intent is not None else None
        if intent is None or not isinstance(charge, Charge):
            return ()
        found: tuple[Reported, ...] = ()
        if known or charge.amount_refunded:
            found += await self.refunds(intent.id)
        if known or charge.disputed:
            disputes = await self._list("/v1/disputes", {"payment_intent": intent.id}, Dispute)
            found += tuple(filter(None, map(_dispute, disputes)))
        return found

    # --- HTTP ---------------------------------------------------------------------------------------------------

    async def _get(self, path: str, expand: Sequence[str], type_: type[T]) -> T:
        return _read(await self._call("GET", path, {"expand": expand}), type_)

    async def _post(self, path: str, params: Mapping[str, Any], once: str | None, type_: type[T]) -> T:
        return _read(await self._call("POST", path, params, once), type_)

    async def _list(self, path: str, params: Mapping[str, Any], type_: type[T]) -> list[T]:
        """All of a list, the newest first."""
        found: list[T] = []
        last: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            page = _read(await self._call("GET", path, {**params, **last, "limit": _PAGE}), Listed)
            found += [_read(bytes(each), type_) for each in page.data]
            if not page.has_more or not page.data:
                return found
            last = {"starting_after": _read(bytes(page.data[-1]), Customer).id}
        raise ProcessorUnavailable

    async def _call(self, method: str, path: str, params: Mapping[str, Any], once: str | None = None) -> bytes:
        """One call, again while Stripe is not to be had: only reading, or with a key that makes it happen once."""
        import httpx2

        headers = {"idempotency-key": once} if once is not None else {}
        form = dict(_flat(params))
        sent: dict[str, Any] = {"params": form} if method == "GET" else {"data": form}
        for attempt in range(1, TRIES + 1):
            try:
                answer = await self._opened().request(method, path, headers=headers, **sent)
            except httpx2.HTTPError as error:
                if attempt == TRIES:
                    raise ProcessorUnavailable from error
            else:
                if answer.status_code < 300:
                    return answer.content
                if not _may_pass(answer.status_code, answer.headers.get("stripe-should-retry")):
                    raise _refusal(answer.status_code, answer.content)
            if attempt < TRIES:
                await asyncio.sleep(_PAUSE_S * 4 ** (attempt - 1))
        raise ProcessorUnavailable

    def _opened(self) -> "httpx2.AsyncClient":
        # Imported with the first call: 130 ms and 18 MB that a gateway without payments never pays.
        import httpx2

        if self._client is None:
            self._client = httpx2.AsyncClient(
                base_url=self._base_url,
                timeout=TIMEOUT_S,
                trust_env=False,
                headers={"authorization": f"Bearer {self._key}", "stripe-version": API_VERSION},
            )
        return self._client


# --- pure ---------------------------------------------------------------------------------------------------------


def cents(amount: int) -> int:
    """Cents from nano-USD. ValueError: it is no whole number of them."""
    whole, rest = divmod(amount, NANO_PER_CENT)
    if rest:
        raise ValueError("what is paid is a whole number of cents")
    return whole


def nano(amount: int) -> int:
    return amount * NANO_PER_CENT


_INTENT_STATUS = {
    "succeeded": Status.PAID,
    "processing": Status.PROCESSING,
    # Off-session, nobody is there to do it.
    "requires_action": Status.FAILED,
    "requires_payment_method": Status.FAILED,
    "canceled": Status.FAILED,
}


def _session_status(session: Session, intent: PaymentIntent | None) -> Status:
    if session.payment_status == "paid" and session.status == "complete":
        # Paid without a payment is paid with a discount that we never gave.
        return Status.PAID if intent is not None and intent.status == "succeeded" else Status.PROCESSING
    if session.status == "expired":
        return Status.EXPIRED
    if session.status != "complete":
        return Status.PENDING
    failed = intent is not None and intent.status in {"requires_payment_method", "canceled"}
    return Status.FAILED if failed else Status.PROCESSING


def _fee(intent: PaymentIntent | None, currency: str | None) -> int:
    """Stripe's fee, once it is known. In another currency than the payment's it is left to the payout's report."""
    charge = intent.latest_charge if intent is not None else None
    booked = charge.balance_transaction if isinstance(charge, Charge) else None
    if not isinstance(booked, BalanceTransaction) or booked.currency != currency:
        return 0
    return nano(booked.fee)


def _card(intent: PaymentIntent | None) -> Card | None:
    method = intent.payment_method if intent is not None else None
    if intent is None or intent.customer is None or not isinstance(method, PaymentMethod) or method.card is None:
        return None
    return Card(intent.customer, method.id, f"{method.card.brand} {method.card.last4}".strip())


def _buyer(details: CustomerDetails | None) -> Buyer | None:
    if details is None:
        return None
    address = details.address or Address()
    town = " ".join(filter(None, (address.postal_code, address.city, address.state)))
    lines = filter(None, (address.line1, address.line2, town, address.country))
    tax_id = next((each.value for each in details.tax_ids or () if each.value), "")
    return Buyer(name=details.name or "", address="\n".join(lines), tax_id=tax_id)


def _refund(refund: Refund) -> Reported:
    return Reported(
        id=refund.id,
        kind=Return.REFUND,
        amount=nano(refund.amount),
        currency=refund.currency,
        returned=refund.status in {"failed", "canceled"},
        ours=(refund.metadata or {}).get(REFUND),
    )


def _dispute(dispute: Dispute) -> Reported | None:
    """None: an inquiry, for which no money was taken (yet)."""
    booked = [each for each in dispute.balance_transactions if each.amount]
    if not booked and dispute.status not in {"needs_response", "under_review", "lost"}:
        return None
    return Reported(
        id=dispute.id,
        kind=Return.DISPUTE,
        amount=nano(dispute.amount),
        currency=dispute.currency,
        returned=any(each.amount > 0 for each in booked),
        fee=nano(sum(each.fee for each in booked if each.currency == dispute.currency)),
    )


def _id_of(object_: PaymentIntent | str | None) -> str | None:
    return object_.id if isinstance(object_, PaymentIntent) else object_


def _safe(id_: str) -> str:
    """An id within a path."""
    if re.fullmatch(r"[A-Za-z0-9_]{1,255}", id_) is None:
        raise ProcessorRefused("that is no id of Stripe's", "resource_missing", status=404)
    return id_


def _flat(params: Mapping[str, Any], within: str = "") -> Any:
    """Stripe's form encoding: `a[b][0]=c`."""
    for name, value in params.items():
        key = f"{within}[{name}]" if within else name
        if isinstance(value, Mapping):
            yield from _flat(value, key)
        elif isinstance(value, list | tuple):
            yield from _flat({str(index): each for index, each in enumerate(value)}, key)
        elif value is not None:
            yield key, str(value).lower() if isinstance(value, bool) else str(value)


def _read(body: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type_)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ProcessorUnavailable from error


def _may_pass(status: int, advice: str | None) -> bool:
    """Whether the same call may succeed later (https://docs.stripe.com/error-low-level)."""
    if advice in {"true", "false"}:
        return advice == "true"
    return status in {408, 409, 425, 429} or status >= 500


def _refusal(status: int, body: bytes) -> Exception:
    if status >= 500 or status in {401, 403, 429}:
        return ProcessorUnavailable()
    try:
        error = msgspec.json.decode(body, type=_Failure).error
    except (msgspec.MsgspecError, UnicodeError):
        return ProcessorUnavailable()
    code = error.decline_code or error.code or error.type or ""
    declined = status == 402
    message = "The card was declined." if declined else "The payment processor refused this."
    return ProcessorRefused(message, code if _CODE.fullmatch(code) else "", status=status)
