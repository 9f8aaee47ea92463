"""Links that change what one logs in with."""

import asyncio

from tests.services.conftest import World

from tollbridge.services import accounts, credentials, sessions
from tollbridge.store import mail, users
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.users import NewUser

RACES = 100
RUNNERS = 8


def test_of_many_who_follow_a_link_at_once_one_gets_in(world: World) -> None:
    """B13."""

    async def use(database: Database) -> None:
        now = await database.now()
        row = NewUser(public_id=accounts.new_id("user"), email="ada@example.com", password=None, consented_at=now)
        user = (await run(database, lambda transaction: users.create(transaction, row, now))).id
        for number in range(RACES):
            digest = sessions.digest(f"link {number}")

            async def keep(transaction: Transaction, digest: bytes = digest) -> None:
                holder = (user, "ada@example.com")
                await mail.add_token(transaction, digest, credentials.RESET, holder, now + credentials.RESET_MS)

            async def take(transaction: Transaction, digest: bytes = digest) -> bool:
                return await mail.take_token(transaction, digest, credentials.RESET, now) is not None

            await run(database, keep)
            taken = await asyncio.gather(*(run(database, take) for _ in range(RUNNERS)))
            assert taken.count(True) == 1

    world.run(use)


def test_a_password_is_replaced_only_while_it_is_the_one_that_was_read(world: World) -> None:
    async def use(database: Database) -> None:
        now = await database.now()
        row = NewUser(public_id=accounts.new_id("user"), email="ada@example.com", password=None, consented_at=now)
        user = (await run(database, lambda transaction: users.create(transaction, row, now))).id

        async def replaced(before: str | None, after: str | None) -> bool:
            return await run(database, lambda transaction: users.replace_password(transaction, user, before, after))

        assert await replaced(None, None)
        assert not await replaced("a", "b")
        assert await replaced(None, "a")
        assert not await replaced(None, "b")
        assert await replaced("a", "a")
        assert await replaced("a", "b")
        found = await users.by_id(database, user)
        assert found is not None
        assert found.password == "b"

    world.run(use)
