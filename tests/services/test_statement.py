"""A statement adds up to the balance, however long the history and in whatever pages it is read."""

import random

import pytest
from tests.services.conftest import World, spend
from tests.services.test_accounts import a_key, make

from tollbridge.services import accounts
from tollbridge.services import statement as statements
from tollbridge.services.credit import grant
from tollbridge.services.statement import Line, statement
from tollbridge.store.db import Database


def test_a_statement_adds_up(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statements, "_PAGE", 3)
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
        lines = [line async for line in statement(database, account.id)]
        check(lines, 0, after.available)
        assert any(line.what == "deepseek-chat: 99 tokens in, 0 out" and line.amount < 0 for line in lines)
        assert lines[0].what == "grant: first credit"
        middle = lines[len(lines) // 2].at
        later = [line async for line in statement(database, account.id, since=middle)]
        assert later[0].what == "brought forward"
        check(later[1:], later[0].balance, after.available)
        assert later[1:] == [line for line in lines if line.at >= middle]
        assert [line.amount async for line in statement(database, other.id)] == [5]

    world.run(use)


def check(lines: list[Line], running: int, balance: int) -> None:
    for line in lines:
        running += line.amount
        assert line.balance == running
        assert line.amount != 0
    assert running == balance
    assert [line.at for line in lines] == sorted(line.at for line in lines)
