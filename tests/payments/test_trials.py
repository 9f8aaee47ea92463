"""I3, I4, I10, I11, fifty times each: whose order is paid, with what, what goes back, and what if Stripe fails.

A trial draws what happens from its number. What must be the end is read off what was drawn and off Stripe's own record,
never off our books. All trials of a test share a database, a Stripe and a gateway, as customers do.
"""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from tests.payments.conftest import USD, Till, opened_till, with_stripe
from tests.payments.fake_stripe import Object
from tests.services.conftest import World, spend
from tests.services.test_accounts import a_key

from tollbridge.core.ledger import Ended, Refusal, Refused
from tollbridge.core.payments import Payment, Status
from tollbridge.errors import Unavailable
from tollbridge.payments.base import ProcessorUnavailable
from tollbridge.services import accounts
from tollbridge.services.payments import Checkout, Payments, open_payments
from tollbridge.store.accounts import Account
from tollbridge.store.ledger import Ledger

CENT = USD // 100
TRIALS, TRIALS_POSTGRESQL = 50, 4
TRANSFER = {"bank_transfer__instructions": "Example Bank"}

# What it came to, in a word.
Trial = Callable[[Till, random.Random], Awaitable[str]]


def count_of(world: World) -> int:
    return TRIALS if world.url.startswith("sqlite:") else TRIALS_POSTGRESQL


async def tried(till: Till, trial: Trial, count: int) -> Counter[str]:
    ends: Counter[str] = Counter()
    for number in range(count):
        till.stripe.events.clear()
        till.stripe.faults.clear()
        try:
            ends[await trial(till, random.Random(number))] += 1
        except BaseException as error:
            error.add_note(f"trial {number}")
            raise
    return ends


def try_all(world: World, trial: Trial, expected: set[str]) -> None:
    """Where all trials are made, each end that there is was reached."""

    async def main() -> Counter[str]:
        async with opened_till(world, **TRANSFER) as till:
            return await tried(till, trial, count_of(world))

    ends = asyncio.run(main())
    assert set(ends) <= expected
    assert set(ends) == expected or count_of(world) < TRIALS, ends


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.payments.stripe_api._PAUSE_S", 0.0)
    monkeypatch.setattr("tollbridge.payments.stripe_api.TIMEOUT_S", 0.25)


async def somebody(till: Till, chance: random.Random) -> Account:
    email = f"{chance.getrandbits(64):x}@example.com"
    return await accounts.create(till.database, email, plans=("default",), actor="test")


async def hear(till: Till, chance: random.Random) -> None:
    """Learn of all that happened, in one of the ways there are; in the end in each of them."""
    ways = ["webhooks", "events", "orders"]
    chance.shuffle(ways)
    for way in ways:
        if way == "webhooks":
            await till.send(*till.stripe.events)
        elif way == "events":
            await till.ways.find_missed()
        else:
            await overdue(till)


async def overdue(till: Till) -> None:
    await till.database.execute("UPDATE payment_event SET retry_at = 1 WHERE done_at IS NULL")
    await till.database.execute("UPDATE payment SET check_at = 1 WHERE check_at IS NOT NULL")
    await till.ways.reconcile()


async def paid_credit(till: Till, account: Account) -> int:
    return (await accounts.get(till.database, account.email)).paid


# --- I3 -------------------------------------------------------------------------------------------------------------


def claims(session: Object) -> list[object]:
    marks = {name: value for name, value in session["metadata"].items() if name.startswith("tollbridge_")}
    return [session["client_reference_id"], session["customer"], marks]


async def claim_another_order(till: Till, chance: random.Random) -> str:
    payer = await somebody(till, chance)
    victim = chance.choice([payer, await somebody(till, chance)])
    method = chance.choice(["bank_transfer", "bank_transfer", "stripe"])
    # Of a session that is ours and names the amount that was ordered, nothing tells that it is another one's.
    amounts = [5 * USD, 25 * USD, 100 * USD] + [10 * USD] * (method == "bank_transfer")
    theirs = await till.ways.start_checkout(victim, chance.choice(amounts), method=method)
    own = await till.ways.start_checkout(payer, 10 * USD, method="stripe")
    session = till.stripe.objects[till.session(own)]
    before = claims(session)
    name = theirs.payment.public_id
    forged: list[Object] = [
        {"client_reference_id": name},
        {"metadata": {**session["metadata"], "tollbridge_payment": name}},
        {"metadata": {"tollbridge_payment": name, "tollbridge_account": victim.public_id}},
        {"metadata": {**session["metadata"], "tollbridge_account": victim.public_id}},
        {"metadata": {**session["metadata"], "method": method}},
        {"marks": {"tollbridge_payment": name, "tollbridge_account": victim.public_id}},
        {"customer": till.stripe.card("cus_somebody")["customer"]},
    ]
    for change in chance.choice([forged[:3], chance.sample(forged, chance.choice([1, 1, 2, 3]))]):
        session.update(change)
    if chance.random() < 0.5:
        # We died before the session's id was written down: whose it is must be taken from the session.
        for lost in chance.choice([[own], [theirs], [own, theirs]]) if method == "stripe" else [own]:
            await till.database.execute(
                "UPDATE payment SET external_id = NULL, url = NULL WHERE id = $1", lost.payment.id
            )
    till.stripe.pay(session["id"])
    await hear(till, chance)

    kept = claims(session) == before
    ours = await till.ways.order(payer, own.payment.public_id)
    other = await till.ways.order(victim, name)
    assert (ours.status is Status.PAID) is kept
    assert other.status is Status.PENDING or (method == "stripe" and other.status is Status.REVIEW)
    assert other.method == method
    assert await paid_credit(till, payer) == (10 * USD if kept else 0)
    assert victim is payer or await paid_credit(till, victim) == 0
    if method == "bank_transfer":
        await confirm(till, theirs.payment, victim)
    return "its own" if kept else f"{other.method} {other.status}"


async def confirm(till: Till, transfer: Payment, account: Account) -> None:
    """The transfer itself is as good as before."""
    before = await paid_credit(till, account)
    assert transfer.external_id is not None
    await till.ways.confirm(transfer.external_id, transfer.amount, actor="test")
    assert await paid_credit(till, account) == before + transfer.amount


def test_no_session_completes_an_order_that_is_not_its_own(world: World) -> None:
    ends = {"its own", "bank_transfer pending", "stripe pending", "stripe review"}
    try_all(world, claim_another_order, ends)


# --- I4 -------------------------------------------------------------------------------------------------------------

OTHER_AMOUNTS = (0, 1, 999, 1001, 1, 10_000, 100_000, 2**53)
OTHER_CURRENCIES = ("eur", "jpy", "usdc", "", "us", "usd ", "krw")
NOT_PAID = ("unpaid", "no_payment_required", "paid?", "PAID", "")


def tell_lies(till: Till, chance: random.Random) -> None:
    """Events that say other things than what Stripe says when it is asked."""
    for event in till.stripe.events:
        event["data"]["object"].update(
            amount_total=chance.choice(OTHER_AMOUNTS),
            amount=chance.choice(OTHER_AMOUNTS),
            currency=chance.choice(OTHER_CURRENCIES),
            payment_status=chance.choice(("paid", *NOT_PAID)),
            metadata={"amount": "100000", "amount_usd": "1000"},
        )


async def pay_otherwise(till: Till, chance: random.Random) -> str:
    account = await somebody(till, chance)
    order = await till.ways.start_checkout(account, 10 * USD, method="stripe")
    session = till.stripe.pay(till.session(order))
    intent = till.stripe.objects[session["payment_intent"]]
    what = chance.choice(["lies", "amount", "amount", "currency", "status", "status", "marks"])
    found = chance.choice([[session], [intent], [session, intent]])
    if what == "amount":
        amount = chance.choice(OTHER_AMOUNTS)
        for each in found:
            each["amount_total" if each is session else "amount_received"] = amount
    elif what == "currency":
        currency = chance.choice(OTHER_CURRENCIES)
        for each in found:
            each["currency"] = currency
    elif what == "status":
        session["payment_status"] = chance.choice(NOT_PAID)
    elif what == "marks":
        session["metadata"] |= {"amount": "100000", "tollbridge_amount": "1000", "amount_usd": "1000"}
    if what in {"lies", "marks"} or chance.random() < 0.5:
        tell_lies(till, chance)
    await hear(till, chance)

    after = await till.ways.order(account, order.payment.public_id)
    if what in {"lies", "marks"}:
        assert (after.status, await paid_credit(till, account)) == (Status.PAID, 10 * USD)
        return what
    assert await paid_credit(till, account) == 0
    if what == "status":
        assert after.status is Status.PROCESSING
        session["payment_status"] = "paid"
        await overdue(till)
        assert await paid_credit(till, account) == 10 * USD
        return what
    assert (after.status, after.check_at) == (Status.REVIEW, None)
    assert what in after.note or "order" in after.note
    # What people are looking at stays as it is, whatever Stripe says meanwhile, until they have decided.
    await till.send(*till.stripe.events)
    assert await paid_credit(till, account) == 0
    closed = await till.ways.dismiss(after.public_id, actor="test")
    assert closed.status is Status.FAILED
    return what


def test_only_what_stripe_says_when_asked_is_credited_and_only_if_it_was_ordered(world: World) -> None:
    try_all(world, pay_otherwise, {"lies", "marks", "amount", "currency", "status"})


# --- I10 ------------------------------------------------------------------------------------------------------------


async def spend_all_that_can_be(ledger: Ledger, account: Account, key: int, chance: random.Random, left: int) -> int:
    """What could be spent of `left`: calls that cost more are refused."""
    spent = 0
    for _ in range(2):
        cost = chance.choice([1, left // 3, left - spent, left + 1, left - spent + 1])
        done = await spend(ledger, account.id, key, cost) if cost > 0 else None
        if 0 < cost <= left - spent:
            assert isinstance(done, Ended)
            spent += cost
        elif cost > 0:
            assert isinstance(done, Refused)
            assert done.why is Refusal.INSUFFICIENT
    return spent


async def take_back(till: Till, chance: random.Random, ledger: Ledger) -> str:
    account = await somebody(till, chance)
    key = await a_key(till.database, account)
    bought: list[Object] = []
    for _ in range(chance.choice([1, 1, 2])):
        order = await till.ways.start_checkout(account, 10 * USD, method="stripe")
        session = till.stripe.pay(till.session(order))
        bought.append(till.stripe.objects[session["payment_intent"]])
    await hear(till, chance)
    balance = len(bought) * 10 * USD
    balance -= await spend_all_that_can_be(ledger, account, key, chance, balance)
    assert await paid_credit(till, account) == balance >= 0

    disputed: list[Object] = []
    for intent in bought:
        seen, left = len(till.stripe.events), 1000
        for cents in chance.choice([(1000,), (250,), (250, 750), (100, 100)]):
            if chance.random() < 0.6:
                till.stripe.refund(intent["id"], cents)
                left -= cents
                balance -= cents * CENT
        if left and chance.random() < 0.5:
            disputed.append(till.stripe.dispute(intent["id"], left))
            balance -= left * CENT
        await till.send(*till.stripe.events[seen:])
        now = await accounts.get(till.database, account.email)
        assert (now.paid, now.promo, now.frozen) == (balance, 0, bool(disputed))
        refused = await spend(ledger, account.id, key, max(balance, 0) + 1)
        assert isinstance(refused, Refused)
        assert refused.why is (Refusal.FROZEN if disputed else Refusal.INSUFFICIENT)
        if not disputed and balance > 0:
            assert isinstance(await spend(ledger, account.id, key, 1), Ended)
            balance -= 1
    for dispute in disputed:
        won = chance.random() < 0.5
        till.stripe.close_dispute(dispute["id"], won=won)
        balance += won * dispute["amount"] * CENT
    await hear(till, chance)
    after = await accounts.get(till.database, account.email)
    assert (after.paid, after.held) == (balance, 0)
    assert after.frozen is any(each["status"] == "lost" for each in disputed)
    return f"{'below' if balance < 0 else 'not below'} zero{', frozen' * after.frozen}"


def test_only_what_goes_back_takes_a_balance_below_zero(world: World) -> None:
    async def main() -> Counter[str]:
        async with opened_till(world) as till, world.serving(till.database) as ledger:

            async def trial(till: Till, chance: random.Random) -> str:
                return await take_back(till, chance, ledger)

            return await tried(till, trial, count_of(world))

    ends = asyncio.run(main())
    assert len(ends) == 4 or count_of(world) < TRIALS, ends


# --- I11 ------------------------------------------------------------------------------------------------------------


def troubles(chance: random.Random, hangs: bool) -> list[str]:
    drawn = [chance.choice(["500", "500", "drop", "lost", "lost", ""]) for _ in range(chance.choice([1, 2, 3, 4, 7]))]
    if hangs:
        drawn[chance.randrange(len(drawn))] = "hang"
    return drawn


async def ask_until_there_is_one(
    till: Till, nodes: list[Payments], account: Account, chance: random.Random
) -> tuple[Checkout, int]:
    """As a customer does, who presses the button again; twice at once, now and then."""
    for tries in range(1, 50):
        node = chance.choice(nodes)
        clicks = chance.choice([1, 1, 2])
        results = await asyncio.gather(
            *(node.start_checkout(account, 10 * USD, method="stripe", once="form") for _ in range(clicks)),
            return_exceptions=True,
        )
        assert not [each for each in results if not isinstance(each, Checkout | ProcessorUnavailable)]
        assert await paid_credit(till, account) == 0
        orders = await till.ways.orders(account)
        assert [each.status for each in orders] == [Status.PENDING]
        if chance.random() < 0.3:
            with contextlib.suppress(ProcessorUnavailable, Unavailable):
                await overdue(till)
        for each in results:
            if isinstance(each, Checkout):
                return each, tries
    raise AssertionError("it never came to a session")


def of_account(till: Till, account: Account, prefix: str) -> list[Object]:
    return [
        each
        for id_, each in till.stripe.objects.items()
        if id_.startswith(prefix) and each["metadata"].get("tollbridge_account") == account.public_id
    ]


def test_whatever_stripe_does_at_checkout_it_is_a_503_or_one_session(world: World) -> None:
    """A second process, or the same one after a restart, is asked as often as the first."""
    assert ProcessorUnavailable.status == 503
    hangs = iter([number % 10 == 9 for number in range(TRIALS)])

    async def main() -> Counter[str]:
        async with opened_till(world) as till, world.opened() as elsewhere:
            second = open_payments(elsewhere, with_stripe(till.stripe), "http://127.0.0.1:8000")

            async def trial(till: Till, chance: random.Random) -> str:
                return await begin(till, chance, [till.ways, second], hangs=next(hangs))

            try:
                return await tried(till, trial, count_of(world))
            finally:
                await second.close()

    ends = asyncio.run(main())
    assert len(ends) == 2 or count_of(world) < TRIALS, ends


async def begin(till: Till, chance: random.Random, nodes: list[Payments], *, hangs: bool) -> str:
    account = await somebody(till, chance)
    till.stripe.faults = troubles(chance, hangs)
    checkout, tries = await ask_until_there_is_one(till, nodes, account, chance)
    till.stripe.faults.clear()
    assert len(of_account(till, account, "cus_")) == 1
    (session,) = of_account(till, account, "cs_")
    assert session["url"] == checkout.url
    till.stripe.pay(session["id"])
    await hear(till, chance)
    assert await paid_credit(till, account) == 10 * USD
    assert len(of_account(till, account, "cs_")) == 1
    assert [each.status for each in await till.ways.orders(account)] == [Status.PAID]
    return "at once" if tries == 1 else "when asked again"
