"""Plans of accounts, on both databases."""

import asyncio
from datetime import UTC, datetime

import pytest
from tests.services.conftest import MASTER, PLANS, World
from tests.services.test_accounts import make

from tollbridge.core.plans import Agreed, Plan
from tollbridge.errors import InvalidRequest
from tollbridge.services import accounts, credit, keys
from tollbridge.services.plans import change_plan, fill_up, fill_up_all, fill_up_within
from tollbridge.store import activity, meta
from tollbridge.store.db import Database
from tollbridge.store.keys import find_key

AGREED = Agreed(rpm=500, tpm=2_000_000, concurrency=7, included_tokens=9, cost_cap=10**9, since=5, until=1 << 60)


def test_a_change_is_seen_with_the_key_told_to_caches_and_remembered(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        made = await keys.create(database, MASTER, account, "tb_live_", actor="test")
        before = await meta.value(database, meta.CACHE_EPOCH)
        changed = await change_plan(database, account, "gold", PLANS, actor="op", agreed=AGREED)
        assert changed.plan == "gold"
        found = await find_key(database, MASTER.digest(made.text))
        assert found is not None
        assert (found.plan, found.agreed) == ("gold", AGREED)
        assert await meta.value(database, meta.CACHE_EPOCH) != before
        await change_plan(database, account, "gold", PLANS, actor="op", agreed=AGREED)
        await change_plan(database, account, "gold", PLANS, actor="op")
        found = await find_key(database, MASTER.digest(made.text))
        assert found is not None
        assert (found.plan, found.agreed) == ("gold", None)
        *deeds, made_key, opened = await activity.page(database, account.id, 1 << 60, 10)
        assert (opened.action, made_key.action) == ("account.opened", "key.created")
        assert [(deed.actor, deed.action) for deed in deeds] == [("op", "plan.changed")] * 2
        assert [deed.detail for deed in deeds] == ["gold", f"gold; agreed: {AGREED.describe()}"]

    world.run(use)


@pytest.mark.parametrize(
    ("plan", "agreed"),
    [("platinum", None), ("gold", Agreed(rpm=0)), ("gold", Agreed(tpm=1 << 40)), ("gold", Agreed(since=2, until=2))],
)
def test_a_plan_that_cannot_be_changes_nothing(sqlite_world: World, plan: str, agreed: Agreed | None) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        with pytest.raises(InvalidRequest):
            await change_plan(database, account, plan, PLANS, actor="op", agreed=agreed)
        assert [deed.action for deed in await activity.page(database, account.id, 1 << 60, 10)] == ["account.opened"]

    sqlite_world.run(use)


MONTHLY = Plan(name="gold", included_credit=1_000)


async def grants(database: Database) -> list[tuple[str, int]]:
    rows = await database.fetch(
        "SELECT idempotency_key, amount FROM journal JOIN entry ON journal_id = journal.id "
        "WHERE book = 'customer_promo' ORDER BY journal.id"
    )
    return [(row[0], row[1]) for row in rows]


def test_included_credit_is_filled_up_once_in_each_of_two_hundred_months(world: World) -> None:
    """A19: whatever day, however often, and with leap days and changes of clocks in between."""

    async def use(database: Database) -> None:
        account = await make(database)
        expected = []
        for number in range(200):
            year, month = 2024 + number // 12, number % 12 + 1
            first = int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000
            last = int(datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000 - 1
            given = []
            for now in (first, last, first):
                async with database.transaction() as transaction:
                    given.append(await fill_up_within(database, transaction, account.id, MONTHLY, now))
            assert given == [number == 0, False, False]
            expected.append((f"plan/{account.id}/{MONTHLY.name}/{year * 100 + month}", 0 if number else 1_000))
        assert await grants(database) == expected

    world.run(use)


def test_what_was_spent_is_filled_up_and_what_others_gave_stays(world: World) -> None:
    async def use(database: Database) -> None:
        poor, rich, frozen = [await make(database, f"{name}@example.com") for name in ("a", "b", "c")]
        for account in (poor, rich, frozen):
            await change_plan(database, account, "gold", PLANS, actor="op")
        await credit.grant(database, poor, 400, reason="r", actor="op", idempotency_key="1")
        await credit.grant(database, rich, 5_000, reason="r", actor="op", idempotency_key="2")
        await accounts.set_frozen(database, frozen.email, True, actor="test")
        for _ in range(2):
            await fill_up_all(database, [MONTHLY, Plan(name="other", included_credit=7)])
        found = [await accounts.get(database, account.email) for account in (poor, rich, frozen)]
        assert [account.promo for account in found] == [1_000, 5_000, 0]
        assert len(await grants(database)) == 4

    world.run(use)


def test_of_fifty_who_fill_up_at_once_one_does(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        given = await asyncio.gather(*(fill_up(database, account.id, MONTHLY) for _ in range(50)))
        assert sorted(given) == [False] * 49 + [True]
        assert [amount for _, amount in await grants(database)] == [1_000]

    world.run(use)
