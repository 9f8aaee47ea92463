"""The rules of payments, without anything around them: reports in any order, twice, and old ones, end the same."""

import itertools
import random
from collections.abc import Iterable

import msgspec
import pytest

from tollbridge.core.ledger import Book, Kind
from tollbridge.core.payments import (
    Expected,
    Origin,
    Payment,
    Report,
    Reported,
    Return,
    Reversal,
    State,
    Status,
    credit_of,
    settle,
)

CENT = 10_000_000
WHO = Expected("acct_1", "cus_1")
ORDER = Payment(
    id=1,
    public_id="pay_1",
    account_id=7,
    once="x",
    method="stripe",
    origin=Origin.CHECKOUT,
    amount=1000 * CENT,
    currency="usd",
    status=Status.PENDING,
    external_id="cs_1",
    intent=None,
    url="http://x",
    save_card=False,
    tax=0,
    fee=0,
    note="",
    created_at=1,
    paid_at=None,
    check_at=None,
)
OPEN = Report(
    status=Status.PENDING,
    external_id="cs_1",
    amount=1000 * CENT,
    currency="usd",
    order="pay_1",
    account="acct_1",
    customer="cus_1",
)
PAID = msgspec.structs.replace(OPEN, status=Status.PAID, intent="pi_1", tax=190 * CENT, fee=60 * CENT)
REFUND = Reported(id="re_1", kind=Return.REFUND, amount=400 * CENT, currency="usd", returned=False)
DISPUTE = Reported(id="dp_1", kind=Return.DISPUTE, amount=790 * CENT, currency="usd", returned=False, fee=15 * CENT)


def with_(*reversals: Reported) -> Report:
    return msgspec.structs.replace(PAID, reversals=reversals)


def back(reported: Reported, fee: int = 0) -> Reported:
    return msgspec.structs.replace(reported, returned=True, fee=fee)


class Books:
    """What a database would hold: the order, what went back, and each idempotency key once."""

    def __init__(self) -> None:
        self.payment = ORDER
        self.reversals: dict[str, Reversal] = {}
        self.posted: dict[str, dict[Book, int]] = {}
        self.credits = 0

    def take(self, report: Report) -> None:
        done = settle(self.payment, list(self.reversals.values()), report, WHO, 5)
        self.payment = done.payment
        self.credits += done.credited
        for each in done.reversals:
            self.reversals[each.public_id] = msgspec.structs.replace(each, id=each.id or len(self.reversals) + 1)
        for post in done.posts:
            assert sum(entry.amount for entry in post.entries) == 0
            entries = {entry.book: entry.amount for entry in post.entries}
            assert self.posted.setdefault(post.idempotency_key, entries) == entries, "one name for two transactions"

    def totals(self) -> dict[Book, int]:
        found = dict.fromkeys(Book, 0)
        for entries in self.posted.values():
            for book, amount in entries.items():
                found[book] += amount
        return {book: amount for book, amount in found.items() if amount}

    def states(self) -> dict[str, State]:
        return {name: each.state for name, each in self.reversals.items()}


def after(reports: Iterable[Report]) -> Books:
    books = Books()
    for report in reports:
        books.take(report)
    return books


def test_a_paid_order_is_credited_with_tax_and_fee() -> None:
    books = after([PAID])
    assert books.payment.status is Status.PAID
    assert books.totals() == {
        Book.CUSTOMER_PAID: 1000 * CENT,
        Book.TAX: 190 * CENT,
        Book.CLEARING: (60 - 1190) * CENT,
        Book.FEES: -60 * CENT,
    }


LIVES = {
    "refunded": [PAID, with_(REFUND)],
    "refund failed": [PAID, with_(REFUND), with_(back(REFUND))],
    "dispute lost": [PAID, with_(REFUND), with_(REFUND, DISPUTE)],
    "dispute won": [PAID, with_(DISPUTE), with_(back(DISPUTE))],
    "dispute won, its fee kept": [PAID, with_(DISPUTE), with_(back(DISPUTE, fee=15 * CENT))],
    "all of it": [PAID, with_(REFUND), with_(REFUND, DISPUTE), with_(back(REFUND), back(DISPUTE))],
}


@pytest.mark.parametrize("name", LIVES)
def test_reports_may_be_missed_doubled_and_old(name: str) -> None:
    """What has been seen last and newest counts; whatever came before it, and however often, changes nothing."""
    life = [OPEN, *LIVES[name]]
    end = after(life).totals()
    for count in range(len(life)):
        for seen in itertools.combinations(life[:-1], count):
            assert after([*seen, life[-1]]).totals() == end
    chance = random.Random(name)
    for _ in range(200):
        noise = [chance.choice(life) for _ in range(6)]
        books = after([*noise, life[-1], *noise])
        assert books.totals() == end
        assert books.credits == 1
        assert books.states() == after(life).states()


def test_an_account_is_frozen_when_a_dispute_is_first_heard_of_and_freed_when_it_is_won() -> None:
    books = after([PAID])

    def effect(report: Report) -> tuple[bool, bool]:
        done = settle(books.payment, list(books.reversals.values()), report, WHO, 5)
        books.take(report)
        return done.freeze, done.thaw

    assert effect(with_(DISPUTE)) == (True, False)
    assert effect(with_(msgspec.structs.replace(DISPUTE, fee=16 * CENT))) == (False, False)
    assert effect(with_(back(DISPUTE))) == (False, True)
    assert effect(with_(back(DISPUTE))) == (False, False)
    assert effect(with_(DISPUTE)) == (False, False)


@pytest.mark.parametrize("told", [with_(back(DISPUTE)), with_(REFUND), with_(back(REFUND))], ids=["won", "out", "back"])
def test_an_account_is_not_frozen_by_what_is_over_nor_by_a_refund(told: Report) -> None:
    done = settle(after([PAID]).payment, [], told, WHO, 5)
    assert (len(done.reversals), done.freeze) == (1, False)


def test_a_refund_that_failed_frees_nobody() -> None:
    """Its operator may have frozen the account for reasons of their own."""
    books = after([with_(REFUND)])
    done = settle(books.payment, list(books.reversals.values()), with_(back(REFUND)), WHO, 5)
    assert (len(done.reversals), done.thaw) == (1, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": 999 * CENT},
        {"amount": 1001 * CENT},
        {"amount": 0},
        {"amount": -1000 * CENT},
        {"currency": "eur"},
        {"order": "pay_2"},
        {"order": None},
        {"account": "acct_2"},
        {"account": None},
        {"customer": "cus_2"},
        {"customer": None},
        {"external_id": "cs_2"},
        {"tax": -1},
        {"fee": -1},
    ],
    ids=str,
)
def test_what_was_not_ordered_is_not_credited(wrong: dict[str, object]) -> None:
    books = after([msgspec.structs.replace(with_(REFUND), **wrong)])
    assert (books.payment.status, books.posted, books.reversals) == (Status.REVIEW, {}, {})
    assert books.payment.note


def test_what_another_payment_paid_is_not_credited() -> None:
    processing = msgspec.structs.replace(OPEN, status=Status.PROCESSING, intent="pi_2")
    assert after([processing, PAID]).payment.status is Status.REVIEW
    assert after([msgspec.structs.replace(processing, intent="pi_1"), PAID]).payment.status is Status.PAID


def test_an_account_whose_customer_id_we_do_not_know_yet_is_credited() -> None:
    assert settle(ORDER, [], PAID, Expected("acct_1", None), 5).credited


def test_what_is_booked_is_not_booked_again() -> None:
    books = after([with_(REFUND, DISPUTE)])
    again = settle(books.payment, list(books.reversals.values()), with_(REFUND, DISPUTE), WHO, 6)
    assert (again.payment, again.credited, again.posts, again.reversals) == (books.payment, False, (), ())


@pytest.mark.parametrize("reported", [REFUND, DISPUTE], ids=lambda each: each.kind)
def test_what_comes_back_leaves_the_books_as_they_were(reported: Reported) -> None:
    there_and_back = after([with_(reported), with_(back(reported))])
    assert there_and_back.totals() == after([PAID]).totals()
    assert "top-up/stripe/pi_1" in there_and_back.posted


@pytest.mark.parametrize(
    ("reported", "gone", "returned"),
    [
        (REFUND, "refund of pay_1", "failed refund of pay_1"),
        (msgspec.structs.replace(DISPUTE, fee=0), "dispute of pay_1", "dispute won: pay_1"),
    ],
    ids=["refund", "dispute"],
)
def test_each_step_is_booked_by_itself_and_says_what_it_was(reported: Reported, gone: str, returned: str) -> None:
    books = after([PAID])
    said: list[str] = []
    for report in (with_(reported), with_(back(reported))):
        said += [post.reason for post in settle(books.payment, list(books.reversals.values()), report, WHO, 5).posts]
        books.take(report)
    assert said == [gone, returned]


def test_what_a_dispute_costs_only_grows_until_its_money_comes_back() -> None:
    def fees(*cents: int) -> int:
        return after(with_(msgspec.structs.replace(DISPUTE, fee=fee * CENT)) for fee in cents).totals()[Book.FEES]

    assert [fees(15), fees(0, 15), fees(15, 25), fees(15, 10), fees(-5), fees(-5, 15)] == [
        -(60 + fee) * CENT for fee in (15, 15, 25, 15, 0, 15)
    ]
    won = after([with_(DISPUTE), with_(back(DISPUTE, fee=4 * CENT))])
    assert won.totals()[Book.FEES] == -(60 + 4) * CENT
    # More than it cost does not come back.
    assert after([with_(DISPUTE), with_(back(DISPUTE, fee=-4 * CENT))]).totals()[Book.FEES] == -60 * CENT


def test_a_fee_that_is_known_later_is_booked_once() -> None:
    books = after(msgspec.structs.replace(PAID, fee=fee * CENT) for fee in (0, 60, 0, 70))
    assert books.payment.fee == 60 * CENT
    assert books.posted["fee/stripe/pi_1"] == {Book.CLEARING: 60 * CENT, Book.FEES: -60 * CENT}


def test_a_month_of_a_plan_is_revenue_and_what_goes_back_of_it_too() -> None:
    month = msgspec.structs.replace(ORDER, origin=Origin.SUBSCRIPTION)
    done = settle(month, [], with_(REFUND), WHO, 5)
    first, _, refund = done.posts
    assert (first.kind, first.idempotency_key, refund.kind) == (
        Kind.SUBSCRIPTION,
        "subscription/stripe/pi_1",
        Kind.REFUND,
    )
    moved = [{entry.book: entry.amount for entry in post.entries} for post in (first, refund)]
    assert moved[0] == {Book.CLEARING: -1190 * CENT, Book.TAX: 190 * CENT, Book.SUBSCRIPTIONS: 1000 * CENT}
    assert moved[1] == {Book.CLEARING: 400 * CENT, Book.TAX: -64 * CENT, Book.SUBSCRIPTIONS: -336 * CENT}


def test_an_order_goes_forward_only() -> None:
    processing = msgspec.structs.replace(OPEN, status=Status.PROCESSING, intent="pi_1")
    assert after([processing, OPEN]).payment.status is Status.PROCESSING
    assert after([PAID, OPEN, processing]).payment.status is Status.PAID
    failed = msgspec.structs.replace(OPEN, status=Status.FAILED)
    assert after([failed, OPEN]).payment.status is Status.FAILED
    assert after([failed, PAID]).payment.status is Status.PAID


@pytest.mark.parametrize(
    ("before", "said", "now"),
    [
        ("pending", "processing", "processing"),
        ("pending", "failed", "failed"),
        ("pending", "expired", "expired"),
        ("processing", "pending", "processing"),
        ("processing", "failed", "failed"),
        ("failed", "processing", "failed"),
        ("expired", "failed", "expired"),
        ("review", "failed", "review"),
    ],
)
def test_an_unpaid_order_is_what_its_processor_says_until_it_is_closed(before: str, said: str, now: str) -> None:
    order = msgspec.structs.replace(ORDER, status=Status(before), external_id=None, note="before")
    report = msgspec.structs.replace(OPEN, status=Status(said), intent="pi_1", note="said")
    done = settle(order, [], report, WHO, 5).payment
    note = "said" if now == said else "before"
    assert (done.status, done.note, done.external_id, done.intent) == (Status(now), note, "cs_1", "pi_1")
    # An intent that it leaves out is not forgotten, and a report of another order changes nothing.
    assert settle(done, [], msgspec.structs.replace(report, intent=None), WHO, 5).payment.intent == "pi_1"
    assert settle(order, [], msgspec.structs.replace(report, order="pay_2"), WHO, 5).payment == order


def test_why_an_order_failed_is_no_note_on_it_once_it_is_paid() -> None:
    failed = msgspec.structs.replace(OPEN, status=Status.FAILED, note="card declined")
    assert after([failed]).payment.note == "card declined"
    assert after([failed, PAID]).payment.note == ""


def test_two_refunds_at_the_processor_are_not_both_the_one_that_we_asked_for() -> None:
    first = msgspec.structs.replace(REFUND, ours="refund_1")
    books = after([with_(first)])
    books.reversals = {"refund_1": msgspec.structs.replace(books.reversals["re_1"], public_id="refund_1")}
    books.take(with_(first, msgspec.structs.replace(first, id="re_2")))
    assert [(each.public_id, each.external_id) for each in books.reversals.values()] == [
        ("refund_1", "re_1"),
        ("re_2", "re_2"),
    ]


def test_a_refund_that_we_asked_for_is_known_again_by_its_amount_too() -> None:
    asked = Reversal(
        id=1,
        public_id="refund_1",
        payment_id=1,
        kind=Return.REFUND,
        external_id=None,
        amount=400 * CENT,
        credit=400 * CENT,
        state=State.REQUESTED,
        created_at=1,
    )
    paid = after([PAID]).payment
    ours = msgspec.structs.replace(REFUND, ours="refund_1")
    (known,) = settle(paid, [asked], with_(ours), WHO, 5).reversals
    assert (known.id, known.external_id, known.state) == (1, "re_1", State.TAKEN)
    other = msgspec.structs.replace(ours, amount=401 * CENT)
    (stranger,) = settle(paid, [asked], with_(other), WHO, 5).reversals
    assert (stranger.id, stranger.public_id) == (0, "re_1")


@pytest.mark.parametrize("tax", [0, 1 * CENT, 70 * CENT, 190 * CENT])
@pytest.mark.parametrize("cents", [1, 3, 7, 99, 333])
def test_the_parts_of_a_payment_that_go_back_come_to_the_payment_in_whole_cents(tax: int, cents: int) -> None:
    """Also when one of them comes back in between, and goes again."""
    payment = msgspec.structs.replace(ORDER, tax=tax)
    gone: list[Reversal] = []

    def goes(amount: int) -> None:
        credit = credit_of(payment, amount, gone)
        assert credit % CENT == 0
        assert 0 <= credit <= amount
        of_it = amount * payment.amount // payment.total
        assert abs(credit - of_it) <= CENT * (2 if gone and gone[0].state is State.RETURNED else 1)
        id_ = f"refund_{len(gone)}"
        gone.append(msgspec.structs.replace(PART, public_id=id_, amount=amount, credit=credit))

    def left() -> int:
        return payment.total - sum(each.amount for each in gone if each.state is not State.RETURNED)

    while left() > payment.total // 2:
        goes(min(cents * CENT, left()))
    gone[0] = msgspec.structs.replace(gone[0], state=State.RETURNED)
    while left():
        goes(min(cents * CENT, left()))
    assert sum(each.credit for each in gone if each.state is not State.RETURNED) == payment.amount


PART = Reversal(
    public_id="",
    payment_id=1,
    kind=Return.REFUND,
    external_id=None,
    amount=0,
    credit=0,
    state=State.TAKEN,
    created_at=1,
)


def test_what_goes_back_at_once_or_one_by_one_takes_the_same() -> None:
    payment = msgspec.structs.replace(ORDER, status=Status.PAID, tax=190 * CENT, intent="pi_1", paid_at=1)
    reported = tuple(
        Reported(id=f"re_{n}", kind=Return.REFUND, amount=333 * CENT, currency="usd", returned=False) for n in range(3)
    )
    at_once = settle(payment, [], msgspec.structs.replace(PAID, reversals=reported), WHO, 5).reversals
    known: list[Reversal] = []
    for each in reported:
        known += settle(payment, known, msgspec.structs.replace(PAID, reversals=(each,)), WHO, 5).reversals
    assert [each.credit for each in at_once] == [each.credit for each in known] == [280 * CENT, 280 * CENT, 279 * CENT]
