"""What is old goes, what still counts stays."""

from tests.services.conftest import World

from tollbridge.store.db import Database
from tollbridge.store.forgetting import DAY_MS, forget


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
