"""I5–I8: whatever order a payment's events come in, how often, how many at once, and whoever dies: one credit.

Each schedule takes one payment through a random life (paid at once or slowly, refunded, disputed, won or lost), and
delivers the events while it happens: shuffled, doubled, some never, in parallel, through two gateways on one database,
with crashes, answers that are old when they are acted upon, and a Stripe that fails at random. Then the reconciler
runs. The end must be what Stripe's own record says, to the nano-USD.
"""

import asyncio
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from tests.payments.conftest import USD, Till, with_stripe
from tests.payments.fake_stripe import FakeStripe, Object
from tests.services.conftest import World

from tollbridge.core.payments import Payment, Report, Status
from tollbridge.services import accounts
from tollbridge.services.payments import Payments, open_payments
from tollbridge.store import payments as rows
from tollbridge.store.db import Database, Transaction

CENT = USD // 100
FAST = 15


class Died(Exception):
    """The process was gone at this point."""


class Mortal(Payments):
    """A gateway that dies at a chosen moment: before the inbox is written, after it, in or after the settlement."""

    def arm(self, chance: random.Random | None) -> None:
        self._chance = chance

    def _risk(self) -> None:
        if self._chance is not None and self._chance.random() < 0.15:
            raise Died

    async def _take(self, event: Any) -> bool:
        self._risk()
        return await super()._take(event)

    async def _see_to(self, event: Any) -> None:
        self._risk()
        await super()._see_to(event)

    async def _settle(
        self, transaction: Transaction, payment: Payment, report: Report, event: str | None, now: int
    ) -> Payment:
        self._risk()
        settled = await super()._settle(transaction, payment, report, event, now)
        self._risk()
        return settled

    async def settle(self, payment: Payment, report: Report, event: str | None = None, deed: Any = None) -> Payment:
        if self._chance is not None:
            # The report grows old, and others act on newer ones.
            await asyncio.sleep(self._chance.choice([0, 0, 0.01, 0.03]))
        settled = await super().settle(payment, report, event, deed)
        self._risk()
        return settled


def live(stripe: FakeStripe, session: str, chance: random.Random) -> Iterator[None]:
    """What customer, bank and merchant do with one payment, step by step."""
    slowly = chance.random() < 0.4
    stripe.pay(session, slowly=slowly)
    yield
    if slowly:
        if chance.random() < 0.2:
            stripe.slow_failure(session)
            return
        stripe.slow_success(session)
        yield
    intent = stripe.objects[session]["payment_intent"]
    refunds = []
    for _ in range(chance.choice([0, 0, 1, 2])):
        refunds.append(stripe.refund(intent, chance.choice([100, 250])))
        yield
    for refund in refunds:
        if chance.random() < 0.3:
            stripe.fail_refund(refund["id"])
            yield
    if chance.random() < 0.4:
        dispute = stripe.dispute(intent, chance.choice([None, 500]), inquiry=chance.random() < 0.2)
        yield
        if dispute["balance_transactions"] and chance.random() < 0.7:
            stripe.close_dispute(dispute["id"], won=chance.random() < 0.5)


def expected(stripe: FakeStripe, session: str) -> tuple[int, int]:
    """What Stripe's record leaves the customer and us: (paid credit, clearing), in cents."""
    intent = stripe.objects[stripe.objects[session]["payment_intent"]]
    if intent["status"] != "succeeded":
        return 0, 0
    credit, clearing = intent["amount"], intent["amount"] - stripe.fee_cents
    for each in stripe.objects.values():
        if each.get("payment_intent") != intent["id"]:
            continue
        if each["object"] == "refund" and each["status"] != "failed":
            credit -= each["amount"]
            clearing -= each["amount"]
        elif each["object"] == "dispute":
            moved = sum(booked["amount"] for booked in each["balance_transactions"])
            credit += moved
            clearing += moved - sum(booked["fee"] for booked in each["balance_transactions"])
    return credit, clearing


async def deliver(ways: Mortal, stripe: FakeStripe, event: Object) -> None:
    body, signature = stripe.sign(event)
    try:
        assert await ways.receive(signature, body) in {200, 503}
    except Died:
        return


async def schedule(till: Till, nodes: list[Mortal], seed: int) -> None:
    chance = random.Random(seed)
    stripe = till.stripe
    stripe.events.clear()
    account = await accounts.create(till.database, f"{seed}@example.com", plans=("default",), actor="test")
    checkout = await nodes[0].start_checkout(account, 10 * USD, method="stripe")
    session = till.session(checkout)
    if chance.random() < 0.15:
        await till.database.execute("UPDATE payment SET external_id = NULL WHERE id = $1", checkout.payment.id)
    for node in nodes:
        node.arm(chance)
    stripe.faults = [chance.choice(["", "", "", "500", "drop", "lost"]) for _ in range(chance.choice([0, 0, 20]))]
    life, deliveries, seen, steps = live(stripe, session, chance), list[Object](), 0, True
    while steps or deliveries:
        batch = [deliveries.pop() for _ in range(min(len(deliveries), chance.choice([1, 1, 2, 4])))]
        under_way = asyncio.gather(*(deliver(chance.choice(nodes), stripe, event) for event in batch))
        if chance.random() < 0.5 or not batch:
            await asyncio.sleep(chance.choice([0, 0.005]))
            steps = next(life, life) is None
            deliveries += [each for each in stripe.events[seen:] for _ in range(chance.choice([0, 1, 1, 2, 3]))]
            seen = len(stripe.events)
            chance.shuffle(deliveries)
        await under_way
    stripe.faults = []
    for node in nodes:
        node.arm(None)
    await till.database.execute("UPDATE payment_event SET retry_at = 1 WHERE done_at IS NULL")
    await till.database.execute("UPDATE payment SET check_at = 1 WHERE check_at IS NOT NULL")
    await asyncio.gather(*(node.reconcile() for node in nodes))
    await nodes[0].find_missed()
    await check(till, stripe, session, account.email)


async def check(till: Till, stripe: FakeStripe, session: str, email: str) -> None:
    credit, clearing = expected(stripe, session)
    after = await accounts.get(till.database, email)
    assert (after.paid, after.promo, after.held) == (credit * CENT, 0, 0)
    booked = await till.database.fetch(
        "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM entry JOIN journal ON journal.id = journal_id "
        "WHERE account_id = $1 AND book = 'processor_clearing'",
        after.id,
    )
    assert booked == [(-clearing * CENT,)]
    top_ups = await till.database.fetch(
        "SELECT count(*) FROM journal WHERE account_id = $1 AND kind = 'top_up'", after.id
    )
    assert top_ups == [(1 if stripe.objects[session]["payment_status"] == "paid" else 0,)]
    (payment,) = await rows.of_account(till.database, after.id, 1 << 62, 9)
    papers = await till.database.fetch(
        "SELECT kind, COALESCE(reversal_id, 0) FROM invoice WHERE account_id = $1", after.id
    )
    assert len(papers) == len(set(papers))
    assert [kind for kind, _ in papers].count("invoice") == top_ups[0][0]
    assert payment.status is (Status.PAID if top_ups[0][0] else Status.FAILED)
    open_disputes = [
        each
        for each in stripe.objects.values()
        if each["object"] == "dispute"
        and each["payment_intent"] == payment.intent
        and sum(booked["amount"] for booked in each["balance_transactions"])
    ]
    assert after.frozen is bool(open_disputes)
    waiting = await till.database.fetch("SELECT count(*) FROM payment_event WHERE done_at IS NULL")
    assert waiting == [(0,)]


def run_schedules(world: World, first: int, count: int, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("tollbridge.payments.stripe_api._PAUSE_S", 0.0)

    async def main() -> None:
        async with FakeStripe() as stripe, world.opened() as one, world.opened() as two:
            settings = with_stripe(stripe)
            nodes = [mortal(database, open_payments(database, settings, "http://x")) for database in (one, two)]
            till = Till(stripe, nodes[0], one, None)  # type: ignore[arg-type]
            for seed in range(first, first + count):
                try:
                    await schedule(till, nodes, seed)
                except BaseException as error:
                    error.add_note(f"seed {seed}")
                    raise
            for node in nodes:
                await node.close()

    asyncio.run(main())


def mortal(database: Database, ways: Payments) -> Mortal:
    node = Mortal.__new__(Mortal)
    node.__dict__.update(ways.__dict__)
    node.database = database
    node.arm(None)
    return node


def test_whatever_the_schedule_it_is_one_credit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_schedules(world, 0, FAST, monkeypatch)


@pytest.mark.soak
def test_a_thousand_schedules_are_a_thousand_single_credits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_schedules(world, 1_000, int(os.environ.get("SCHEDULES", "1000")), monkeypatch)
