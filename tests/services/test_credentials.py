"""Links that change what one logs in with."""

import asyncio

import pytest
from tests.services.conftest import MASTER, World
from tests.services.test_accounts import make

from tollbridge.config import Source, read
from tollbridge.core.roles import Role
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.services import accounts, credentials, sessions
from tollbridge.services.desk import Desk
from tollbridge.services.mail import Post
from tollbridge.services.passwords import Passwords
from tollbridge.services.sessions import Client
from tollbridge.store import activity, identities, mail, members, users
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.users import NewUser, User

RACES = 100
RUNNERS = 8
OLD, NEW = "ada@old.example", "ada@example.com"
PASSWORD = "a long one, and a new one"
THERE = Client("203.0.113.7", "a browser")


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


def desk_of(database: Database) -> Desk:
    settings = read(Source(), {"TOLLBRIDGE_REQUIRE_VERIFIED_EMAIL": "always"})
    return Desk(database, MASTER, Passwords(), Post(database, MASTER, None), "http://localhost", lambda: settings)


async def user_of(database: Database, email: str, account_id: int | None = None) -> User:
    """A user with this address, who owns an account."""
    now = await database.now()
    row = NewUser(public_id=accounts.new_id("user"), email=email, password="$argon2id$…", verified_at=None)

    async def use_case(transaction: Transaction) -> User:
        user = await users.create(transaction, row, now)
        if account_id is not None:
            await members.add(transaction, account_id, user.id, Role.OWNER, now)
        return user

    return await run(database, use_case)


def test_who_has_lost_their_mailbox_logs_in_by_another_and_nobody_does_by_the_old_one(world: World) -> None:
    async def use(database: Database) -> None:
        desk = desk_of(database)
        account = await make(database, OLD, credit=5)
        user = await user_of(database, OLD, account.id)
        now = await database.now()
        await run(database, lambda transaction: identities.add(transaction, "https://id", "ada", user.id, now))
        await database.execute('UPDATE "user" SET totp_since = 1 WHERE id = $1', user.id)
        before = await credentials.reset_token(desk, user, credentials.RESET_MS)
        token = await credentials.move(desk, " Ada@OLD.example", "Ada@Example.com", actor="cli/root")
        assert token is not None
        # Whoever reads the old mailbox has no link left that would make this one void.
        assert await credentials.address_of(desk, before, credentials.RESET) is None
        assert await credentials.address_of(desk, token, credentials.RESET) == NEW
        assert (await accounts.get(database, OLD)).id == account.id
        with pytest.raises(InvalidRequest, match="among the first that attackers try"):
            await credentials.reset(desk, token, "ada@example.com", THERE)
        await credentials.reset(desk, token, PASSWORD, THERE)
        moved = await users.by_email(database, NEW)
        assert moved is not None
        assert (moved.id, moved.totp_since) == (user.id, 1)
        assert moved.verified_at is not None
        assert await desk.passwords.matches(moved.password, PASSWORD)
        assert await users.by_email(database, OLD) is None
        assert await identities.find(database, "https://id", "ada") is None
        assert ((await accounts.get(database, NEW)).id, (await accounts.get(database, NEW)).promo) == (account.id, 5)
        sent = [(each.recipient, each.subject.partition(": ")[2]) for each in await mail.latest(database, 9)]
        assert sent == [(OLD, "Your e-mail address was changed"), (NEW, "Choose a new password")]
        deeds = [(each.actor, each.action) for each in await activity.page(database, account.id, 1_000, 9)]
        assert deeds[:3] == [(NEW, "password.reset"), (OLD, "email.changed"), ("cli/root", "email.offered")]
        with pytest.raises(InvalidRequest, match="no longer works"):
            await credentials.reset(desk, token, PASSWORD, THERE)

    world.run(use)


def test_an_address_is_given_to_nobody_who_has_one(world: World) -> None:
    async def use(database: Database) -> None:
        desk = desk_of(database)
        account = await make(database, OLD)
        user = await user_of(database, OLD, account.id)
        with pytest.raises(NotFound, match="nobody here has the address eve@example"):
            await credentials.move(desk, "eve@example.com", NEW, actor="")
        token = await credentials.move(desk, OLD, NEW, actor="")
        assert token is not None
        await make(database, NEW)
        with pytest.raises(InvalidRequest, match="has an account or a login here already"):
            await credentials.move(desk, OLD, NEW, actor="")
        with pytest.raises(InvalidRequest, match="Somebody else uses this address by now"):
            await credentials.reset(desk, token, PASSWORD, THERE)
        same = await users.by_id(database, user.id)
        assert same is not None
        assert (same.email, same.password) == (OLD, user.password)

    world.run(use)


def test_an_account_whose_address_nobody_logs_in_with_has_another_at_once(world: World) -> None:
    async def use(database: Database) -> None:
        desk = desk_of(database)
        account = await make(database, OLD)
        assert await credentials.move(desk, OLD, NEW, actor="cli/root") is None
        assert (await accounts.get(database, NEW)).id == account.id
        # Whoever had it has left it to somebody else, and has a login of their own.
        await user_of(database, "bob@example.com", account.id)
        await user_of(database, NEW)
        assert await credentials.move(desk, NEW, OLD, actor="cli/root") is None
        assert (await accounts.get(database, OLD)).id == account.id
        assert await users.by_email(database, NEW) is not None
        deeds = [each.detail for each in await activity.page(database, account.id, 1_000, 9)]
        assert deeds[:2] == [f"{NEW} → {OLD}", f"{OLD} → {NEW}"]

    world.run(use)
