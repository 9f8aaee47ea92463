"""What a payment does to the books, in whatever order its news arrives.

A processor's webhooks come twice, late, in any order, or never. So a webhook is only a hint that something changed: its
receiver asks the processor for the whole truth about that payment (`Report`), and `settle` compares it with our own
order and with what has been booked.

Rule 1  Our row says what was ordered. Credit is given if the processor has the same amount, currency, order and
        customer; anything else is for a person to look at (`Status.REVIEW`) and gives nothing.
Rule 2  Each effect has one idempotency key, made from the processor's ids: booking it a second time changes nothing.
Rule 3  States only go forward (pending → paid; taken → returned), so an old report undoes nothing.
Rule 4  Credit is what was paid before tax. Money that goes back takes its share of the tax with it, in whole cents.
Rule 5  A month of a plan is a purchase, not credit: it is revenue, and no balance moves.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum

import msgspec

from tollbridge.core.ledger import Book, Entry, Kind, Post, entries_of
from tollbridge.core.money import NANO_PER_CENT

CURRENCY = "usd"
ACTOR = "payments"


class Status(StrEnum):
    """How far an order is. The last three are final, unless money arrives after all for what failed or expired."""

    PENDING = "pending"
    PROCESSING = "processing"  # the customer has done their part; a slow payment method has no result yet
    REVIEW = "review"
    PAID = "paid"
    FAILED = "failed"
    EXPIRED = "expired"


class Origin(StrEnum):
    CHECKOUT = "checkout"
    AUTO = "auto"
    SUBSCRIPTION = "subscription"


class Return(StrEnum):
    """Why money goes back. Journal keys begin with these values."""

    REFUND = "refund"
    DISPUTE = "dispute"


class State(StrEnum):
    """The state of money that goes back: requested by us and already debited; gone; returned to us after all."""

    REQUESTED = "requested"
    TAKEN = "taken"
    RETURNED = "returned"


class Payment(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `payment`: an order for credit, or a month of a subscription. Amounts in nano-USD."""

    id: int
    public_id: str
    account_id: int
    once: str
    method: str
    origin: Origin
    amount: int
    currency: str
    status: Status
    external_id: str | None
    intent: str | None
    url: str | None
    save_card: bool
    tax: int
    fee: int
    note: str
    created_at: int
    paid_at: int | None
    check_at: int | None
    subscription_id: int | None = None

    @property
    def total(self) -> int:
        """What the customer paid, tax included."""
        return self.amount + self.tax

    @property
    def book(self) -> Book:
        """The ledger account to which it is booked, and from which money that goes back is taken."""
        return Book.SUBSCRIPTIONS if self.origin is Origin.SUBSCRIPTION else Book.CUSTOMER_PAID


class Reversal(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `reversal`; `id` 0: not stored yet. `amount`: with tax; `credit`: what the customer loses of it.

    For a month of a plan, `credit` is what we lose: the amount without its tax.
    """

    id: int = 0
    public_id: str
    payment_id: int
    kind: Return
    external_id: str | None
    amount: int
    credit: int
    fee: int = 0
    state: State
    froze: bool = False
    created_at: int


class Card(msgspec.Struct, frozen=True):
    """A saved card: the processor's ids, and what may be shown."""

    customer: str
    id: str
    hint: str


class Buyer(msgspec.Struct, frozen=True, kw_only=True):
    """The recipient of an invoice."""

    name: str = ""
    address: str = ""
    tax_id: str = ""


class Reported(msgspec.Struct, frozen=True, kw_only=True):
    """Money that went back, as the processor has it. `ours`: the id with which we requested it.

    `fee`: what it cost us so far; negative if that came back.
    """

    id: str
    kind: Return
    amount: int
    currency: str
    returned: bool
    fee: int = 0
    ours: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole truth about one payment as its processor has it now. Amounts in nano-USD; `amount` is before tax.

    `order` and `account`: the public ids that we gave the processor with the order; `customer`: its id for the account.
    """

    status: Status
    external_id: str
    intent: str | None = None
    amount: int
    tax: int = 0
    currency: str
    order: str | None
    account: str | None
    customer: str | None = None
    fee: int = 0
    reversals: tuple[Reported, ...] = ()
    card: Card | None = None
    buyer: Buyer | None = None
    note: str = ""


class Expected(msgspec.Struct, frozen=True):
    """Who ordered, which the report must repeat: the account's public id, and its customer id at the processor.

    `order`: the id of ours under which the processor has it; None: the payment's own.
    """

    account: str
    customer: str | None
    order: str | None = None


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What to write in one transaction. `reversals`: new ones and changed ones."""

    payment: Payment
    credited: bool
    posts: tuple[Post, ...]
    reversals: tuple[Reversal, ...]
    freeze: bool = False
    thaw: bool = False


def settle(payment: Payment, known: Sequence[Reversal], report: Report, expected: Expected, now: int) -> Settlement:
    """Compare an order with what its processor says about it. `now`: milliseconds since the epoch."""
    after, credited = _progress(payment, report, _mismatch(payment, report, expected), now)
    if after.status is not Status.PAID:
        return Settlement(payment=after, credited=False, posts=(), reversals=())
    posts = [_arrived(after)] if credited else []
    if after.fee and not payment.fee:
        posts.append(_fee(after, after.fee, f"fee/{after.method}/{after.intent or after.public_id}"))
    changed: list[Reversal] = []
    gone = {each.public_id: each for each in known}
    disputed = False
    for reported in report.reversals:
        before = next((each for each in known if _same(each, reported)), None)
        reversal = _reversal(after, before, reported, gone.values(), now)
        if reversal == before:
            continue
        changed.append(reversal)
        gone[reversal.public_id] = reversal
        disputed |= before is None and reversal.kind is Return.DISPUTE and reversal.state is State.TAKEN
        posts.extend(_reversal_posts(after, before, reversal))
    return Settlement(
        payment=after,
        credited=credited,
        posts=tuple(posts),
        reversals=tuple(changed),
        freeze=disputed,
        thaw=any(each.kind is Return.DISPUTE and each.state is State.RETURNED for each in changed),
    )


def _progress(payment: Payment, report: Report, mismatch: str | None, now: int) -> tuple[Payment, bool]:
    """The order as it stands after the report, and whether it must be credited now."""
    if payment.status is Status.PAID:
        fee = payment.fee or report.fee
        return msgspec.structs.replace(payment, fee=fee), False
    if report.status is not Status.PAID:
        settled = payment.status in {Status.FAILED, Status.EXPIRED, Status.REVIEW}
        known = {} if mismatch else {"external_id": report.external_id, "intent": report.intent or payment.intent}
        backwards = payment.status is Status.PROCESSING and report.status is Status.PENDING
        if settled or mismatch or backwards:
            return msgspec.structs.replace(payment, **known), False
        return msgspec.structs.replace(payment, status=report.status, note=report.note, **known), False
    if mismatch is not None:
        return msgspec.structs.replace(payment, status=Status.REVIEW, note=mismatch), False
    paid = msgspec.structs.replace(
        payment,
        status=Status.PAID,
        note="",
        external_id=report.external_id,
        intent=report.intent,
        tax=report.tax,
        fee=report.fee,
        paid_at=now,
    )
    return paid, True


def _mismatch(payment: Payment, report: Report, expected: Expected) -> str | None:
    """What in the report differs from the order; None: nothing does."""
    checks = (
        ("amount", payment.amount, report.amount),
        ("currency", payment.currency, report.currency.lower()),
        ("order", expected.order or payment.public_id, report.order),
        ("account", expected.account, report.account),
        ("session", payment.external_id or report.external_id, report.external_id),
        ("payment", payment.intent or report.intent, report.intent),
        ("customer", expected.customer or report.customer, report.customer),
    )
    wrong = [name for name, ordered, said in checks if ordered != said]
    if report.tax < 0 or report.fee < 0:
        wrong.append("tax or fee")
    return f"the processor has another {' and '.join(wrong)} than was ordered" if wrong else None


def _same(known: Reversal, reported: Reported) -> bool:
    if known.external_id is not None:
        return known.external_id == reported.id
    # Requested by us, and its id at the processor not known yet: it must be what we requested.
    return (known.public_id, known.kind, known.amount) == (reported.ours, reported.kind, reported.amount)


def _reversal(
    payment: Payment, before: Reversal | None, reported: Reported, gone: Iterable[Reversal], now: int
) -> Reversal:
    state = State.RETURNED if reported.returned else State.TAKEN
    if before is not None:
        if before.state is State.RETURNED:
            return before
        fee = reported.fee if state is State.RETURNED else max(before.fee, reported.fee, 0)
        return msgspec.structs.replace(before, external_id=reported.id, state=state, fee=max(0, fee))
    return Reversal(
        public_id=reported.id,
        payment_id=payment.id,
        kind=reported.kind,
        external_id=reported.id,
        amount=reported.amount,
        credit=credit_of(payment, reported.amount, gone),
        fee=max(0, reported.fee),
        state=state,
        created_at=now,
    )


def credit_of(payment: Payment, amount: int, gone: Iterable[Reversal]) -> int:
    """How much credit goes back with `amount` of a payment's total; tax goes back in proportion, in whole cents.

    Computed for everything that went back so far, less what `gone` (all that went back before) already took, so that
    the parts of a payment add up to the payment.
    """
    if not payment.tax:
        return amount
    still = [each for each in gone if each.state is not State.RETURNED]
    whole = amount + sum(each.amount for each in still)
    cents = (2 * whole * payment.amount // (payment.total * NANO_PER_CENT) + 1) // 2
    return min(amount, max(0, cents * NANO_PER_CENT - sum(each.credit for each in still)))


# --- journal transactions -----------------------------------------------------------------------------------------


def _arrived(payment: Payment) -> Post:
    """What was paid. The processor owes us all of it; its fee is known later, and a transaction of its own."""
    recurring = payment.origin is Origin.SUBSCRIPTION
    name = "subscription" if recurring else "top-up"
    return Post(
        idempotency_key=f"{name}/{payment.method}/{payment.intent or payment.public_id}",
        kind=Kind.SUBSCRIPTION if recurring else Kind.TOP_UP,
        account_id=payment.account_id,
        entries=entries_of((Book.CLEARING, -payment.total), (Book.TAX, payment.tax), (payment.book, payment.amount)),
        reason=f"{_METHODS.get(payment.method, payment.method)} {payment.public_id}",
        actor=ACTOR,
    )


_METHODS = {"stripe": "card payment", "bank_transfer": "bank transfer", "demo": "demo payment"}


def _reversal_posts(payment: Payment, before: Reversal | None, after: Reversal) -> Iterable[Post]:
    """The steps by which `after` is ahead of `before`: money gone, money returned, and what that cost."""
    if before is None:
        yield taken(payment, after)
    if after.state is State.RETURNED:
        yield given_back(payment, after)
    name = f"{after.kind}/{after.public_id}"
    charged = 0 if before is None else before.fee
    if after.fee != charged:
        step = "fee/returned" if after.fee < charged else "fee/more" if charged else "fee"
        yield _fee(payment, after.fee - charged, f"{name}/{step}")


def taken(payment: Payment, reversal: Reversal) -> Post:
    """Money of a payment goes back where it came from, and the credit with it. This may overdraw the account."""
    entries = _reversal_entries(payment, reversal, 1)
    return _reversal_post(payment, reversal, f"{reversal.kind}/{reversal.public_id}", entries)


def given_back(payment: Payment, reversal: Reversal) -> Post:
    """A refund failed or a dispute was won: the money comes back, and the credit with it."""
    entries = _reversal_entries(payment, reversal, -1)
    return _reversal_post(payment, reversal, f"{reversal.kind}/{reversal.public_id}/returned", entries)


def _reversal_entries(payment: Payment, reversal: Reversal, sign: int) -> tuple[Entry, ...]:
    return entries_of(
        (payment.book, -sign * reversal.credit),
        (Book.TAX, -sign * (reversal.amount - reversal.credit)),
        (Book.CLEARING, sign * reversal.amount),
    )


def _reversal_post(payment: Payment, reversal: Reversal, key: str, entries: tuple[Entry, ...]) -> Post:
    what = {Return.REFUND: "refund of", Return.DISPUTE: "dispute of"}[reversal.kind]
    if key.endswith("/returned"):
        what = {Return.REFUND: "failed refund of", Return.DISPUTE: "dispute won:"}[reversal.kind]
    return Post(
        idempotency_key=key,
        kind=Kind.REFUND if reversal.kind is Return.REFUND else Kind.DISPUTE,
        account_id=payment.account_id,
        entries=entries,
        reason=f"{what} {payment.public_id}",
        actor=ACTOR,
    )


def _fee(payment: Payment, fee: int, key: str) -> Post:
    """What the processor keeps. It moves no customer's balance."""
    return Post(
        idempotency_key=key,
        kind=Kind.FEE,
        account_id=payment.account_id,
        entries=entries_of((Book.CLEARING, fee), (Book.FEES, -fee)),
        reason=f"fee of {payment.public_id}",
        actor=ACTOR,
    )
