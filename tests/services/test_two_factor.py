"""A second factor that is taken from somebody who has lost it, and what is remembered of that."""

import pytest
from tests.services.conftest import World
from tests.services.test_accounts import make

from tollbridge.core.roles import Role
from tollbridge.services import accounts, leave, two_factor
from tollbridge.store import members, users
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.users import NewUser, User
from tollbridge.store.verify import verify_activity

ADA = "ada@example.com"
NOTED = "SELECT account_id, detail FROM activity WHERE action = 'two_factor.dropped' ORDER BY account_id"


async def with_a_factor(database: Database, *, operator: bool = False) -> User:
    """Who has lost it, and belongs to no account."""
    row = NewUser(public_id=accounts.new_id("user"), email=ADA, operator=operator)
    user = await run(database, lambda transaction: users.create(transaction, row, 1))
    await database.execute('UPDATE "user" SET totp_secret = $1, totp_since = 1', b"sealed")
    return user


@pytest.mark.parametrize("operator", [True, False])
def test_whose_factor_was_dropped_is_said_without_the_address_of_who_can_leave(
    sqlite_world: World, operator: bool
) -> None:
    async def use(database: Database) -> None:
        user = await with_a_factor(database, operator=operator)
        await two_factor.drop(database, ADA, actor="cli/root")
        assert await database.fetch(NOTED) == [(0, ADA if operator else user.public_id)]

    sqlite_world.run(use)


def test_who_leaves_is_not_remembered_by_the_factor_that_was_dropped(world: World) -> None:
    async def use(database: Database) -> None:
        account, user = await make(database, ADA), await with_a_factor(database)

        async def joins(transaction: Transaction) -> None:
            await members.add(transaction, account.id, user.id, Role.OWNER, 1)

        await run(database, joins)
        await two_factor.drop(database, ADA, actor="cli/root")
        noted = [(0, account.public_id), (account.id, ADA)]
        assert await database.fetch(NOTED) == noted
        await leave._close(database, account, user, "cli/root")
        assert await users.by_email(database, ADA) is None
        assert await database.fetch(NOTED) == [noted[0], (account.id, "")]
        assert (await verify_activity(database)).problems == []

    world.run(use)
