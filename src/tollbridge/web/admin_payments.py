"""Payments, refunds, disputes and vouchers, for operators."""

from starlette.responses import Response

from tollbridge.core.payments import Status
from tollbridge.core.words import read_whole
from tollbridge.errors import ApiError, Conflict, Faults, InvalidRequest, KeyReused, NotFound
from tollbridge.payments.base import ProcessorUnavailable
from tollbridge.services import oversight, vouchers
from tollbridge.services.sessions import new_token
from tollbridge.services.vouchers import MadeVoucher
from tollbridge.store import oversight as rows
from tollbridge.store import payments, subscriptions
from tollbridge.store.rows import ABOVE_ALL
from tollbridge.web.admin import A_PAGE, ADMIN, SENT_BEFORE
from tollbridge.web.billing import METHODS
from tollbridge.web.forms import Form
from tollbridge.web.page import OPERATOR, Page
from tollbridge.web.visit import Visit

PAYMENTS = f"{ADMIN}/payments"
VOUCHERS = f"{ADMIN}/vouchers"
SUBSCRIBERS = f"{ADMIN}/subscribers"
MOST_VOUCHERS = 200
SAVED = {
    "confirmed": "The transfer is credited.",
    "refunded": "The money is being returned, and the credit has been taken back.",
    "dismissed": "The order is closed: nothing is credited.",
    "withdrawn": "The voucher is withdrawn: its code is worth nothing now.",
    "cancelled": "No further month is charged. The account keeps its plan until the time it paid for is over.",
}
KINDS = [("promo", "A gift: promotional credit"), ("paid", "Sold elsewhere: paid credit")]


async def list_payments(visit: Visit, refused: ApiError | None = None, section: str = "") -> Response:
    database = visit.shared.database
    status, before = visit.query("status"), visit.before()
    if status not in {"", *Status}:
        raise InvalidRequest(f"A payment is {', '.join(Status)}.", param="status")
    found = await payments.of_status(database, status, before, A_PAGE)
    forms = {"confirm": Form({"reference": visit.query("reference")}), "refund": Form()}
    forms["refund"] = Form({"payment": visit.query("refund")})
    once = new_token()
    if refused is not None:
        sent = await visit.form()
        forms[section] = sent.refused(refused, "reference", "amount", "payment", "reason")
        if isinstance(refused, ProcessorUnavailable):
            once = sent["once"]  # it was booked: sent again, it is the same refund
    return visit.render(
        "admin/payments.html",
        status=refused.status if refused is not None else 200,
        saved=SAVED.get(visit.query("saved"), ""),
        once=once,
        asked=status,
        statuses=list(Status),
        payments=found,
        more=len(found) == A_PAGE,
        first=before == ABOVE_ALL,
        names=await rows.payers(database, status, before, A_PAGE),
        returned=await rows.returned(database, A_PAGE),
        methods=METHODS,
        forms=forms,
    )


async def confirm(visit: Visit) -> Response:
    form = await visit.form()
    try:
        amount = form.usd("amount")
        await visit.shared.payments().confirm(
            form["reference"], amount, actor=visit.actor.name, address=visit.actor.address
        )
    except (InvalidRequest, NotFound) as error:
        return await list_payments(visit, error, "confirm")
    return visit.redirect(f"{PAYMENTS}?saved=confirmed")


async def refund(visit: Visit) -> Response:
    """An empty amount: all that is left of the payment."""
    form = await visit.form()
    try:
        with Faults() as faults:
            amount = faults.of(None, form.usd_if_any, "amount")
            reason = faults.of("", oversight.check_reason, form["reason"])
        await oversight.refund(
            visit.shared.payments(),
            form["payment"].strip(),
            amount,
            reason,
            actor=visit.actor,
            once=form["once"][:100],
        )
    except KeyReused:
        return await list_payments(visit, KeyReused(SENT_BEFORE), "refund")
    except (InvalidRequest, NotFound, ProcessorUnavailable) as error:
        return await list_payments(visit, error, "refund")
    return visit.redirect(f"{PAYMENTS}?saved=refunded")


async def dismiss(visit: Visit) -> Response:
    await visit.shared.payments().dismiss(visit.path("payment"), actor=visit.actor.name, address=visit.actor.address)
    return visit.redirect(f"{PAYMENTS}?saved=dismissed")


async def list_vouchers(visit: Visit) -> Response:
    return await _vouchers(visit, Form({"count": "1"}))


async def _vouchers(visit: Visit, form: Form, made: list[MadeVoucher] | None = None, status: int = 200) -> Response:
    database = visit.shared.database
    found = await vouchers.listed(database, MOST_VOUCHERS)
    return visit.render(
        "admin/vouchers.html",
        status=status,
        form=form,
        made=made,
        saved=SAVED.get(visit.query("saved"), ""),
        kinds=KINDS,
        once=new_token(),
        vouchers=found,
        names=await rows.redeemers(database, MOST_VOUCHERS),
    )


async def create_vouchers(visit: Visit) -> Response:
    """The codes are shown in this answer, and nowhere again."""
    form = await visit.form()
    try:
        with Faults() as faults:
            amount = faults.of(0, form.usd, "amount")
            count = read_whole(form["count"].strip(), 5) or 0
            kind, note = form["kind"], form["note"].strip()
            expires_at = faults.of(None, form.day_if_any, "expires_at")
            faults.of(
                None, vouchers.check, amount, kind=kind, count=count, expires_at=expires_at, note=note, now=visit.now
            )
        made = await vouchers.create(
            visit.shared.database,
            amount,
            kind=kind,
            count=count,
            expires_at=expires_at,
            note=note,
            actor=visit.actor.name,
            address=visit.actor.address,
            once=form["once"],
        )
    except (InvalidRequest, Conflict) as error:
        form = form.refused(error, "amount", "kind", "count", "expires_at", "note")
        return await _vouchers(visit, form, status=error.status)
    return await _vouchers(visit, Form({"count": "1"}), made)


async def withdraw(visit: Visit) -> Response:
    id_ = read_whole(visit.path("voucher"), 17)
    if id_ is None:
        raise NotFound("There is no such voucher.", param="voucher")
    await vouchers.withdraw(visit.shared.database, id_, actor=visit.actor.name, address=visit.actor.address)
    return visit.redirect(f"{VOUCHERS}?saved=withdrawn")


async def list_subscribers(visit: Visit) -> Response:
    before = visit.before()
    found = await subscriptions.page(visit.shared.database, before, A_PAGE)
    return visit.render(
        "admin/subscribers.html",
        saved=SAVED.get(visit.query("saved"), ""),
        subscribers=found,
        more=len(found) == A_PAGE,
        first=before == ABOVE_ALL,
        methods=METHODS,
    )


async def cancel_subscription(visit: Visit) -> Response:
    account = await oversight.find(visit.shared.database, visit.path("account"))
    await visit.shared.payments().subscriptions.set_ending(account, True, visit.actor)
    return visit.redirect(f"{SUBSCRIBERS}?saved=cancelled")


PAGES = (
    Page("GET", PAYMENTS, OPERATOR, list_payments),
    Page("POST", f"{PAYMENTS}/confirm", OPERATOR, confirm, fresh=True),
    Page("POST", f"{PAYMENTS}/refund", OPERATOR, refund, fresh=True),
    Page("POST", f"{PAYMENTS}/{{payment}}/dismiss", OPERATOR, dismiss),
    Page("GET", VOUCHERS, OPERATOR, list_vouchers),
    Page("POST", VOUCHERS, OPERATOR, create_vouchers, fresh=True),
    Page("POST", f"{VOUCHERS}/{{voucher}}/withdraw", OPERATOR, withdraw),
    Page("GET", SUBSCRIBERS, OPERATOR, list_subscribers),
    Page("POST", f"{SUBSCRIBERS}/{{account}}/cancel", OPERATOR, cancel_subscription),
)
