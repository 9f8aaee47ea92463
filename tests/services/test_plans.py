"""Plans of accounts, on both databases."""

import pytest
from tests.services.conftest import MASTER, PLANS, World
from tests.services.test_accounts import make

from tollbridge.core.plans import Agreed
from tollbridge.errors import InvalidRequest
from tollbridge.services import keys
from tollbridge.services.plans import change_plan
from tollbridge.store import activity, meta
from tollbridge.store.db import Database
from tollbridge.store.keys import find_key

AGREED = Agreed(rpm=500, tpm=2_000_000, concurrency=7, included_tokens=9, cost_cap=10**9, since=5, until=1 << 60)


def test_a_change_is_seen_with_the_key_told_to_caches_and_remembered(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        made = await keys.create(database, MASTER, account, "tb_live_")
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
        deeds = await activity.page(database, account.id, 1 << 60, 10)
        assert [(deed.actor, deed.action, deed.detail) for deed in deeds] == [("op", "plan.changed", "gold")] * 2

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
        assert await activity.page(database, account.id, 1 << 60, 10) == []

    sqlite_world.run(use)
