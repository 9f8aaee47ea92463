"""A statement adds up to the balance, however long the history and in whatever pages it is read."""

import asyncio
import random

import pytest
from tests.services.conftest import World, spend
from tests.services.test_accounts import a_key, make

from tollbridge.core.periods import day_text
from tollbridge.services import accounts
from tollbridge.services import balance_changes as module
from tollbridge.services.balance_changes import Line, balance_changes
from tollbridge.services.credit import grant
from tollbridge.store import retention, rollups, seal, usage_days
from tollbridge.store.db import Database
from tollbridge.values import DAY_MS


def test_a_statement_adds_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 3)
    chance = random.Random(7)

    async def use(database: Database) -> None:
        account, other = await make(database, credit=10_000), await make(database, "bob@example.com", credit=5)
        key_id = await a_key(database, account)
        async with world.serving(database) as ledger:
            for number in range(17):
                if chance.random() < 0.4:
                    await grant(database, account, 50, reason=f"no. {number}", actor="t", idempotency_key=str(number))
                else:
                    await spend(ledger, account.id, key_id, chance.choice([0, 1, 99]))
        after = await accounts.get(database, account.email)
        lines = [line async for line in balance_changes(database, account.id)]
        check(lines, 0, after.available)
        assert any(line.what == "deepseek-chat: 99 tokens in, 0 out" and line.amount < 0 for line in lines)
        assert lines[0].what == "grant: first credit"
        middle = lines[len(lines) // 2].at
        later = [line async for line in balance_changes(database, account.id, since=middle)]
        assert later[0].what == "brought forward"
        check(later[1:], later[0].balance, after.available)
        assert later[1:] == [line for line in lines if line.at >= middle]
        assert [line.amount async for line in balance_changes(database, other.id)] == [5]

    world.run(use)


def check(lines: list[Line], running: int, balance: int) -> None:
    for line in lines:
        running += line.amount
        assert line.balance == running
        assert line.amount != 0
    assert running == balance
    assert [line.at for line in lines] == sorted(line.at for line in lines)


def test_where_requests_are_gone_a_statement_is_by_days(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)
    monkeypatch.setattr(retention, "BATCH", 2)

    async def use(database: Database) -> None:
        account = await make(database, credit=10_000)
        key_id = await a_key(database, account)
        today = await database.now() // DAY_MS * DAY_MS
        first, second = today - 4 * DAY_MS, today - 3 * DAY_MS
        async with world.serving(database) as ledger:
            for at, charge in ((first + 1, 100), (second - 2, 15), (second - 1, 20), (second, 3)):
                await spend(ledger, account.id, key_id, charge)
                await database.execute("UPDATE usage SET ended_at = $1 WHERE charge = $2", at, charge)
            assert await seal.seal(database, settled_ms=-1)
            for roll_up in (rollups.roll_up, usage_days.roll_up):
                await asyncio.sleep(0.01)
                await roll_up(database)
            assert await retention.drop_old(database, 0) == 4
            await spend(ledger, account.id, key_id, 4_000)
            # Summed by the day too, but there by itself.
            await asyncio.sleep(0.01)
            await rollups.roll_up(database)
        after = await accounts.get(database, account.email)
        days = [
            (second - 1, f"3 requests on {day_text(first)}", -135, -135),
            (second + DAY_MS - 1, f"1 request on {day_text(second)}", -3, -138),
        ]
        # A time in a day that is one line means all of that day.
        for since, opening, gone in (
            *((0, [], days), (first, [0], days), (first + 5, [0], days), (second - 1, [0], days)),
            *((second, [-135], days[1:]), (second + 5, [-135], days[1:]), (second + DAY_MS, [-138], [])),
        ):
            lines = [line async for line in balance_changes(database, account.id, since)]
            shown = [(line.at, line.what, line.amount, line.balance) for line in lines]
            forward = [(since - since % DAY_MS, "brought forward", 0, balance) for balance in opening]
            assert shown[:-2] == [*forward, *gone], since
            assert [line.amount for line in lines[-2:]] == [10_000, -4_000]
            assert lines[-1].balance == after.available == 5_862

    world.run(use)
