"""What is old goes, what still counts stays."""

from typing import Any

import pytest
from tests.services.conftest import World

from tollbridge.store import forgetting
from tollbridge.store.db import Database
from tollbridge.store.forgetting import ANSWERS_MS, forget
from tollbridge.values import DAY_MS


def test_only_what_nobody_needs_is_forgotten(world: World) -> None:
    async def use(database: Database) -> None:
        now = await database.now()
        add = "INSERT INTO throttle (name, count, since, last) VALUES ($1, 1, $2, $2)"
        for name, age in (("login/a", 3), ("login/b", 1), ("grant-mailbox/c", 1000)):
            await database.execute(add, name, now - age * DAY_MS)
        letter = (
            "INSERT INTO outbox (recipient, subject, created_at, next_at, tries, error) VALUES ($1, $1, $2, $2, 0, '')"
        )
        for name, age in (("old", 8), ("new", 6)):
            await database.execute(letter, name, now - age * DAY_MS)
        await forget(database)
        kept = await database.fetch("SELECT name FROM throttle ORDER BY name")
        assert [row[0] for row in kept] == ["grant-mailbox/c", "login/b"]
        assert await database.fetch("SELECT recipient FROM outbox") == [("new",)]

    world.run(use)


def test_no_statement_forgets_so_much_that_others_wait(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(database: Database) -> None:
        now, changed, execute = await database.now(), [], database.execute

        async def watched(sql: str, *args: Any) -> int:
            changed.append(await execute(sql, *args))
            return changed[-1]

        for number in range(7):
            old = now - ANSWERS_MS - 1 if number else now
            await execute(
                "INSERT INTO kept_answer (hold_id, sealed, created_at) VALUES ($1, $2, $3)", number + 1, b"", old
            )
            await execute(
                "INSERT INTO claim (account_id, name, digest, hold_id, created_at) VALUES ($1, $2, $2, $1, $3)",
                *(number + 1, b"%d" % (number % 2), old),
            )
        monkeypatch.setattr(forgetting, "BATCH", 2)
        monkeypatch.setattr(database, "execute", watched)
        await forget(database)
        assert max(changed) == 2
        assert await database.fetch("SELECT hold_id FROM kept_answer") == [(1,)]
        assert await database.fetch("SELECT hold_id FROM claim") == [(1,)]

    world.run(use)
