"""Credit: what is left, buying more, automatic top-ups, vouchers, and the warning of a low balance."""

from starlette.responses import Response

from tollbridge.core import money
from tollbridge.core.payments import Payment, Status
from tollbridge.core.words import read_whole
from tollbridge.errors import ApiError, Faults, InvalidRequest
from tollbridge.payments.manual import BANK_TRANSFER, DEMO
from tollbridge.services import notices, top_ups, vouchers
from tollbridge.services.sessions import new_token
from tollbridge.store import accounts, payments
from tollbridge.web.forms import Form
from tollbridge.web.page import PAYER, Page
from tollbridge.web.visit import Visit

BILLING = "/dashboard/billing"
RECENT = 10
# How often, and how many times, a waiting page asks.
MOST_LOOKS = 60
OTHER_AMOUNT = "other"
METHODS = {"stripe": "Card", BANK_TRANSFER: "Bank transfer", DEMO: "Demo payment"}
SAVED = {
    "voucher": "The voucher is credited.",
    "top-up": "Automatic top-ups are on.",
    "top-up-off": "Automatic top-ups are off.",
    "card": "Your card is forgotten, here and at Stripe.",
    "alert": "From now on, we write to you when less than that is left.",
    "alert-off": "We will not write to you when credit runs low.",
    "alert-usual": "Your own threshold is removed.",
}
_FORMS = ("checkout", "voucher", "top_up", "alert")


async def credit(visit: Visit, refused: ApiError | None = None, section: str = "") -> Response:
    """`refused`: what was wrong in one of its forms."""
    shared, ways, database = visit.shared, visit.shared.payments(), visit.shared.database
    name = visit.query("payment")
    payment = await ways.look(visit.account, name) if name else None
    # Read after the look, which may have credited it.
    account = await accounts.known(database, visit.account.id)
    current = await top_ups.current(database, account)
    forms = {name: Form() for name in _FORMS}
    forms["checkout"] = Form({"pack": str(ways.packs[0]) if ways.packs else OTHER_AMOUNT})
    if current is not None:
        amounts = {name: money.format_usd(getattr(current, name)) for name in ("threshold", "amount", "daily_cap")}
        forms["top_up"] = Form(amounts)
    if account.alert is not None:
        forms["alert"] = Form({"alert": money.format_usd(account.alert)})
    if refused is not None:
        forms[section] = (await visit.form()).refused(refused, "amount", "code", "threshold", "daily_cap", "alert")
    return visit.render(
        "billing/credit.html",
        status=refused.status if refused is not None else 200,
        saved=SAVED.get(visit.query("saved"), ""),
        account=account,
        low=notices.is_low(account, shared.settings.billing.low_balance),
        payment=payment,
        left=bool(visit.query("canceled")),
        looks=0,
        once=new_token(),
        ways=ways,
        methods=METHODS,
        orders=await ways.orders(account, RECENT),
        gone_back=await payments.gone_back(database, account.id),
        forms=forms,
        top_up=current,
        card=await top_ups.card(database, account),
        offered=top_ups.offered(ways),
        thresholds=shared.settings.billing.low_balance,
    )


async def checkout(visit: Visit) -> Response:
    """Go on to the payment; the same form sent twice is one order."""
    form = await visit.form()
    ways = visit.shared.payments()
    try:
        amount = _chosen(form, ways.packs)
        begun = await ways.start_checkout(
            visit.account, amount, method=form["method"], once=form["once"], save_card=form.flag("save_card")
        )
    except InvalidRequest as error:
        return await credit(visit, error, "checkout")
    what = f"{money.format_usd(amount)} USD by {METHODS[begun.payment.method].lower()}"
    if not begun.repeated:
        await visit.note("payment.ordered", what)
    return visit.redirect(begun.url)


def _chosen(form: Form, packs: tuple[int, ...]) -> int:
    by_value = {str(pack): pack for pack in packs}
    if form["pack"] == OTHER_AMOUNT:
        return form.usd("amount")
    if form["pack"] not in by_value:
        raise InvalidRequest("Choose one of the packs, or another amount.", param="amount")
    return by_value[form["pack"]]


async def order(visit: Visit) -> Response:
    """How far an order is. A waiting page asks for this until there is news."""
    ways = visit.shared.payments()
    payment = await ways.look(visit.account, visit.path("payment"))
    if not visit.by_htmx or payment.status is not Status.PENDING:
        return visit.redirect(f"{BILLING}?payment={payment.public_id}")
    before = read_whole(visit.query("looks"), 3)
    looks = MOST_LOOKS if before is None else before + 1
    return visit.render("billing/payment.html", payment=payment, ways=ways, left=False, looks=looks)


async def pay_demo(visit: Visit) -> Response:
    visit.check_demo_payment()
    payment = await visit.shared.payments().pay_demo(visit.account, visit.path("payment"))
    return visit.redirect(f"{BILLING}?payment={payment.public_id}")


async def redeem(visit: Visit) -> Response:
    form = await visit.form()
    try:
        voucher = await vouchers.redeem(visit.shared.database, visit.account, form["code"])
    except InvalidRequest as error:
        return await credit(visit, error, "voucher")
    what = f"{money.format_usd(voucher.amount)} USD, {voucher.hint}"
    await visit.note("voucher.redeemed", what)
    return visit.redirect(f"{BILLING}?saved=voucher")


async def switch_top_up_on(visit: Visit) -> Response:
    form, ways = await visit.form(), visit.shared.payments()
    try:
        with Faults() as faults:
            names = ("threshold", "amount", "daily_cap")
            threshold, amount, cap = (faults.of(0, form.usd, name) for name in names)
            faults.of(None, top_ups.check, ways, threshold=threshold, amount=amount, daily_cap=cap)
        await top_ups.switch_on(ways, visit.account, threshold=threshold, amount=amount, daily_cap=cap)
    except InvalidRequest as error:
        return await credit(visit, error, "top_up")
    what = f"{money.format_usd(amount)} USD below {money.format_usd(threshold)} USD"
    await visit.note("top_up.on", what)
    return visit.redirect(f"{BILLING}?saved=top-up#top-up")


async def switch_top_up_off(visit: Visit) -> Response:
    await top_ups.switch_off(visit.shared.database, visit.account)
    await visit.note("top_up.off")
    return visit.redirect(f"{BILLING}?saved=top-up-off#top-up")


async def forget_card(visit: Visit) -> Response:
    await top_ups.forget_card(visit.shared.payments(), visit.account)
    await visit.note("card.removed")
    return visit.redirect(f"{BILLING}?saved=card#top-up")


async def choose_alert(visit: Visit) -> Response:
    """An empty field: as the operator says; 0: never."""
    form = await visit.form()
    try:
        threshold = form.usd_if_any("alert")
        await notices.choose_threshold(visit.shared.database, visit.account, threshold)
    except InvalidRequest as error:
        return await credit(visit, error, "alert")
    what = "" if threshold is None else f"{form['alert'].strip()} USD"
    await visit.note("alert.changed", what)
    saved = {None: "alert-usual", 0: "alert-off"}.get(threshold, "alert")
    return visit.redirect(f"{BILLING}?saved={saved}#alert-title")


def reference(payment: Payment) -> str | None:
    """What the customer writes on a bank transfer."""
    return payment.external_id if payment.method == BANK_TRANSFER else None


PAGES = (
    Page("GET", BILLING, PAYER, credit),
    Page("POST", f"{BILLING}/checkout", PAYER, checkout),
    Page("GET", f"{BILLING}/payments/{{payment}}", PAYER, order),
    Page("POST", f"{BILLING}/payments/{{payment}}/demo", PAYER, pay_demo),
    Page("POST", f"{BILLING}/voucher", PAYER, redeem),
    Page("POST", f"{BILLING}/top-up", PAYER, switch_top_up_on),
    Page("POST", f"{BILLING}/top-up/off", PAYER, switch_top_up_off),
    Page("POST", f"{BILLING}/card/forget", PAYER, forget_card),
    Page("POST", f"{BILLING}/alert", PAYER, choose_alert),
)
