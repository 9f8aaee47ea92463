"""`/api/billing`: balance, orders, invoices and statements for programs. Amounts are decimal USD as texts."""

from typing import Any

import msgspec
from starlette.responses import Response

from tollbridge.core.money import format_usd, parse_usd
from tollbridge.core.payments import Payment
from tollbridge.core.subscriptions import Subscription
from tollbridge.errors import InvalidRequest
from tollbridge.services import invoices
from tollbridge.services.invoices import Paper
from tollbridge.web.api import idempotency_name, read_body
from tollbridge.web.billing import reference
from tollbridge.web.billing_papers import statement_json
from tollbridge.web.page import PAYER, Page
from tollbridge.web.usage import iso, json_response
from tollbridge.web.visit import Visit

API = "/api/billing"


class OrderBody(msgspec.Struct, forbid_unknown_fields=True):
    """`method`: one of `methods` of `/api/billing`."""

    amount_usd: str
    method: str
    save_card: bool = False


async def billing(visit: Visit) -> Response:
    account, ways = visit.account, visit.shared.payments()
    subscription = await ways.subscriptions.current(account)
    least, most = ways.bounds
    return json_response(
        {
            "balance_usd": format_usd(account.available),
            "paid_usd": format_usd(account.paid),
            "promo_usd": format_usd(account.promo),
            "held_usd": format_usd(account.held),
            "plan": account.plan,
            "subscription": None if subscription is None else _subscription(subscription),
            "frozen": account.frozen,
            "methods": ways.methods,
            "packs_usd": [format_usd(pack) for pack in ways.packs],
            "least_usd": format_usd(least),
            "most_usd": format_usd(most),
        }
    )


async def payments(visit: Visit) -> Response:
    found = await visit.shared.payments().orders(visit.account)
    return json_response({"data": [_payment(each) for each in found]})


async def payment(visit: Visit) -> Response:
    return json_response(_payment(await visit.shared.payments().look(visit.account, visit.path("payment"))))


async def order(visit: Visit) -> Response:
    """Order credit; `url` is where a person pays. `Idempotency-Key`: sent again it is the same order."""
    body = await read_body(visit, OrderBody)
    try:
        amount = parse_usd(body.amount_usd)
    except ValueError as error:
        raise InvalidRequest(f"amount_usd: {error}", param="amount_usd") from None
    try:
        begun = await visit.shared.payments().start_checkout(
            visit.account, amount, method=body.method, once=idempotency_name(visit), save_card=body.save_card
        )
    except InvalidRequest as error:
        if error.param == "amount":  # as the form calls it
            error.param = "amount_usd"
        raise
    if not begun.repeated:
        what = f"{format_usd(amount)} USD by {body.method.replace('_', ' ')}"
        await visit.note("payment.ordered", what)
    response = json_response(_payment(begun.payment), 201)
    if begun.repeated:
        response.headers["idempotent-replayed"] = "true"
    return response


async def list_invoices(visit: Visit) -> Response:
    found = await invoices.papers(visit.shared.database, visit.shared.payments().issuer, visit.account)
    return json_response({"data": [_paper(each) for each in found]})


async def invoice(visit: Visit) -> Response:
    issuer = visit.shared.payments().issuer
    paper = await invoices.paper(visit.shared.database, issuer, visit.account, visit.path("invoice"))
    return json_response(_paper(paper))


def _subscription(subscription: Subscription) -> dict[str, Any]:
    return {
        "plan": subscription.plan,
        "status": subscription.stage.value,
        "amount_usd": format_usd(subscription.amount),
        "paid_until": None if subscription.paid_until is None else iso(subscription.paid_until),
        "ending": subscription.ending,
    }


def _payment(payment: Payment) -> dict[str, Any]:
    return {
        "id": payment.public_id,
        "status": payment.status.value,
        "method": payment.method,
        "origin": payment.origin.value,
        "amount_usd": format_usd(payment.amount),
        "tax_usd": format_usd(payment.tax),
        "total_usd": format_usd(payment.total),
        "reference": reference(payment),
        "url": payment.url,
        "created_at": iso(payment.created_at),
        "paid_at": None if payment.paid_at is None else iso(payment.paid_at),
    }


def _paper(paper: Paper) -> dict[str, Any]:
    return {
        "number": paper.number,
        "title": paper.title,
        "issued_at": iso(paper.issued_at),
        "seller": msgspec.structs.asdict(paper.seller),
        "buyer": msgspec.structs.asdict(paper.buyer),
        "item": paper.item,
        "net_usd": format_usd(paper.net),
        "tax_usd": format_usd(paper.tax),
        "total_usd": format_usd(paper.total),
        "paid_by": paper.paid_by,
        "payment": paper.payment,
    }


# Whoever may make keys may make management keys: what only payers may see is not for these.
PAGES = (
    Page("GET", API, PAYER, billing, manage=True),
    Page("GET", f"{API}/payments", PAYER, payments),
    Page("POST", f"{API}/payments", PAYER, order),
    Page("GET", f"{API}/payments/{{payment}}", PAYER, payment),
    Page("GET", f"{API}/invoices", PAYER, list_invoices),
    Page("GET", f"{API}/invoices/{{invoice}}", PAYER, invoice),
    Page("GET", f"{API}/statement", PAYER, statement_json),
)
