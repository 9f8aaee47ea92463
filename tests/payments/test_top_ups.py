"""Automatic top-ups: one at a time, within the cap, with a stop; and the card that pays for them."""

import asyncio

import pytest
from tests.payments.conftest import USD, Till, at_till, with_stripe
from tests.services.conftest import World
from tests.services.test_accounts import make

from tollbridge.core.payments import Origin, Status
from tollbridge.errors import InvalidRequest
from tollbridge.services import notices, top_ups
from tollbridge.services.credit import grant
from tollbridge.services.payments import open_payments
from tollbridge.store import top_ups as rows


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.payments.stripe_api._PAUSE_S", 0.001)


async def ready(till: Till, *, cap: int = 100 * USD) -> None:
    """A card is saved, and 50 USD are bought whenever less than 20 are left."""
    await till.paid(10 * USD, save_card=True)
    await top_ups.switch_on(till.ways, till.account, threshold=20 * USD, amount=50 * USD, daily_cap=cap)


def refuse(till: Till, why: str) -> None:
    for each in till.stripe.objects.values():
        if each["object"] == "payment_method":
            each["refuses"] = why


def test_a_card_is_saved_with_a_payment_and_charged_below_the_threshold(world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        card = await top_ups.card(till.database, till.account)
        assert card is not None
        assert card.hint == "visa 4242"
        assert await top_ups.run_due(till.ways) == 1
        assert (await till.state()).paid == 60 * USD
        assert await top_ups.run_due(till.ways) == 0
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 60 * USD
        latest, _ = await till.ways.orders(till.account)
        assert (latest.origin, latest.status) == (Origin.AUTO, Status.PAID)
        assert await till.count("invoice") == 2

    at_till(world, scenario)


def test_a_payment_without_leave_saves_no_card(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await till.paid()
        assert await top_ups.card(till.database, till.account) is None
        with pytest.raises(InvalidRequest, match="no card is saved"):
            await top_ups.switch_on(till.ways, till.account, threshold=USD, amount=10 * USD, daily_cap=10 * USD)

    at_till(sqlite_world, scenario)


def test_two_gateways_at_once_charge_once(world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        async with world.opened() as other:
            twin = open_payments(other, with_stripe(till.stripe), "http://x")
            await asyncio.gather(*(top_ups.run_due(each) for each in (till.ways, twin, till.ways, twin)))
            await twin.close()
        assert (await till.state()).paid == 60 * USD

    at_till(world, scenario)


def test_whoever_comes_late_sees_that_it_is_done(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was due when the list was read; since then another gateway has charged the card."""

    async def scenario(till: Till) -> None:
        await ready(till)
        (due,) = await rows.due(till.database, 0, 10)
        assert await top_ups.run_due(till.ways) == 1

        async def old_list(_: object, after: int, _count: int) -> list[int]:
            return [due] if after < due else []

        monkeypatch.setattr(rows, "due", old_list)
        assert await top_ups.run_due(till.ways) == 0
        assert (await till.state()).paid == 60 * USD
        assert len(await till.ways.orders(till.account)) == 2

    at_till(world, scenario)


@pytest.mark.parametrize("cap", [100 * USD, 150 * USD - 1])
def test_the_daily_cap_holds(sqlite_world: World, cap: int) -> None:
    async def scenario(till: Till) -> None:
        await ready(till, cap=cap)
        for _ in range(5):
            await till.database.execute("UPDATE auto_top_up SET threshold = 900000000000")
            await top_ups.run_due(till.ways)
        assert (await till.state()).paid == 110 * USD
        await till.database.execute("UPDATE payment SET created_at = created_at - 90000000")
        await top_ups.run_due(till.ways)
        assert (await till.state()).paid == 160 * USD

    at_till(sqlite_world, scenario)


def test_accounts_at_their_cap_hold_up_no_other(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(till: Till) -> None:
        monkeypatch.setattr(top_ups, "_BATCH", 1)
        await ready(till, cap=50 * USD)
        assert await top_ups.run_due(till.ways) == 1
        await till.database.execute("UPDATE auto_top_up SET threshold = 900000000000")
        other = Till(till.stripe, till.ways, till.database, await make(till.database, "eve@example.com"))
        await ready(other)
        assert await top_ups.run_due(till.ways) == 1
        assert ((await till.state()).paid, (await other.state()).paid) == (60 * USD, 60 * USD)

    at_till(sqlite_world, scenario)


def test_it_stops_after_three_declines_and_says_why(world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        refuse(till, "insufficient_funds")
        for _ in range(5):
            await top_ups.run_due(till.ways)
        state = await top_ups.current(till.database, till.account)
        assert state is not None
        assert (state.failures, state.stopped) == (3, "The card was declined. (insufficient_funds)")
        assert len(await till.ways.orders(till.account)) == 4
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 10 * USD
        refuse(till, "")
        await top_ups.switch_on(till.ways, till.account, threshold=20 * USD, amount=50 * USD, daily_cap=200 * USD)
        await top_ups.run_due(till.ways)
        assert (await till.state()).paid == 60 * USD

    at_till(world, scenario)


def test_a_bank_that_wants_its_customer_is_a_decline(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        refuse(till, "authentication_required")
        await top_ups.run_due(till.ways)
        latest, _ = await till.ways.orders(till.account)
        assert (latest.status, latest.note) == (Status.FAILED, "The card was declined. (authentication_required)")

    at_till(sqlite_world, scenario)


@pytest.mark.parametrize("fault", ["500", "drop", "lost"])
def test_a_charge_that_was_not_answered_happens_once(sqlite_world: World, fault: str) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        till.stripe.faults = [fault] * 3
        await top_ups.run_due(till.ways)
        assert await top_ups.run_due(till.ways) == 0  # that one still runs
        await till.database.execute("UPDATE payment SET check_at = 1 WHERE check_at IS NOT NULL")
        await till.ways.reconcile()
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 60 * USD
        state = await top_ups.current(till.database, till.account)
        assert state is not None
        assert (state.payment_id, state.failures) == (None, 0)

    at_till(sqlite_world, scenario)


def test_a_charge_whose_answer_got_lost_is_credited_by_its_webhook(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        till.stripe.faults = ["lost"] * 3
        await top_ups.run_due(till.ways)
        await till.send(till.stripe.events[-1])
        assert (await till.state()).paid == 60 * USD

    at_till(sqlite_world, scenario)


def test_a_card_that_is_forgotten_is_not_charged(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        await top_ups.forget_card(till.ways, till.account)
        assert await top_ups.run_due(till.ways) == 0
        assert await top_ups.card(till.database, till.account) is None
        (method,) = [each for each in till.stripe.objects.values() if each["object"] == "payment_method"]
        assert method["customer"] is None
        # There is none to forget any more.
        await top_ups.forget_card(till.ways, till.account)

    at_till(sqlite_world, scenario)


def test_where_tax_is_added_there_are_no_automatic_top_ups(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await till.paid(save_card=True)
        with pytest.raises(InvalidRequest, match="not offered here"):
            await top_ups.switch_on(till.ways, till.account, threshold=USD, amount=10 * USD, daily_cap=10 * USD)

    at_till(sqlite_world, scenario, stripe__automatic_tax="true")


def test_a_frozen_account_is_not_charged(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        await till.database.execute("UPDATE balance SET frozen = $1", True)
        assert await top_ups.run_due(till.ways) == 0

    at_till(sqlite_world, scenario)


@pytest.mark.parametrize(
    ("threshold", "amount", "cap"),
    [(0, 10, 10), (-1, 10, 10), (2000, 10, 10), (5, 1, 10), (5, 10, 9), (5, 10, 100_001), (5, 2000, 2000)],
)
def test_amounts_that_cannot_be_are_refused(sqlite_world: World, threshold: int, amount: int, cap: int) -> None:
    async def scenario(till: Till) -> None:
        await till.paid(save_card=True)
        with pytest.raises(InvalidRequest):
            await top_ups.switch_on(
                till.ways, till.account, threshold=threshold * USD, amount=amount * USD, daily_cap=cap * USD
            )

    at_till(sqlite_world, scenario)


@pytest.mark.parametrize(("threshold", "amount", "cap"), [(1, 5, 5), (1000, 1000, 100_000)])
def test_the_least_and_the_most_may_be_wanted(sqlite_world: World, threshold: int, amount: int, cap: int) -> None:
    async def scenario(till: Till) -> None:
        least, most = till.ways.bounds
        assert (least, most) == (5 * USD, 1000 * USD)
        await till.paid(save_card=True)
        await top_ups.switch_on(
            till.ways, till.account, threshold=threshold * USD, amount=amount * USD, daily_cap=cap * USD
        )
        kept = await top_ups.current(till.database, till.account)
        assert kept is not None
        assert (kept.threshold, kept.amount, kept.daily_cap) == (threshold * USD, amount * USD, cap * USD)

    at_till(sqlite_world, scenario)


def test_who_changes_what_they_want_gets_that_and_a_new_start(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        refuse(till, "insufficient_funds")
        assert await top_ups.run_due(till.ways) == 1
        await top_ups.switch_on(till.ways, till.account, threshold=30 * USD, amount=60 * USD, daily_cap=70 * USD)
        kept = await top_ups.current(till.database, till.account)
        assert kept == rows.AutoTopUp(
            account_id=till.account.id, threshold=30 * USD, amount=60 * USD, daily_cap=70 * USD
        )

    at_till(sqlite_world, scenario)


def test_who_chose_a_threshold_is_told_once_until_that_much_is_left_again(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        eve = Till(till.stripe, till.ways, till.database, await make(till.database, "eve@example.com"))

        async def left(usd: int) -> None:
            await till.database.execute("UPDATE balance SET held = paid - $1", usd * USD)

        async def told() -> list[tuple[str, int]]:
            found = await rows.low_by_choice(till.database, 10)
            for each in found:
                async with till.database.transaction() as transaction:
                    assert await rows.told(transaction, each.account_id, each.threshold, 1)
            async with till.database.transaction() as transaction:
                await rows.forget_told(transaction, 0)
            return [(each.email, each.threshold // USD) for each in found]

        for each, threshold in ((till, 3), (eve, 5)):
            await each.paid(10 * USD)
            await notices.choose_threshold(till.database, each.account, threshold * USD)
        assert await told() == []
        await left(2)
        assert [await told(), await told()] == [[("ada@example.com", 3), ("eve@example.com", 5)], []]
        await left(3)
        assert await told() == []
        await left(2)
        assert await told() == [("ada@example.com", 3)]
        await till.database.execute("UPDATE balance SET held = 0")

    at_till(sqlite_world, scenario)


def test_who_has_little_left_is_told_once_for_each_threshold(world: World) -> None:
    async def scenario(till: Till) -> None:
        async def told(threshold: int) -> list[tuple[str, int]]:
            found = await rows.low(till.database, threshold * USD, 10)
            now = await till.database.now()
            for each in found:
                async with till.database.transaction() as transaction:
                    assert await rows.told(transaction, each.account_id, each.threshold, now)
                async with till.database.transaction() as transaction:
                    assert not await rows.told(transaction, each.account_id, each.threshold, now)
            return [(each.email, each.available) for each in found]

        assert await told(5) == []  # who never bought is nobody to be told
        await till.paid(10 * USD)
        assert await told(5) == []
        await till.database.execute("UPDATE balance SET held = 6000000000")
        assert await told(5) == [("ada@example.com", 4 * USD)]
        assert await told(5) == []
        await till.database.execute("UPDATE balance SET held = 9500000000")
        assert await told(1) == [("ada@example.com", USD // 2)]
        assert await told(5) == []
        await till.database.execute("UPDATE balance SET held = 0")
        await grant(till.database, till.account, USD, reason="x", actor="x", idempotency_key="x")
        async with till.database.transaction() as transaction:
            await rows.forget_told(transaction, 5 * USD)
        assert await till.count("low_balance") == 0

    at_till(world, scenario)
