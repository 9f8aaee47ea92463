"""B18: the first operator gets in by a link that is printed; there is no known password."""

import asyncio
from pathlib import Path

import pytest
from tests.services.conftest import MASTER, World
from tests.services.test_accounts import make

from tollbridge.config import Source, read
from tollbridge.core.roles import Role
from tollbridge.errors import NotFound
from tollbridge.services import first_run, operators, sessions
from tollbridge.store import accounts, mail, members, users
from tollbridge.store.db import Database


def test_the_first_start_has_a_link_until_there_is_a_password(world: World) -> None:
    async def use(database: Database) -> None:
        await first_run.begin(database, read(Source(), {}), MASTER)
        first, second = await operators.first_link(database), await operators.first_link(database)
        assert first is not None
        assert second is not None
        assert first != second
        now = await database.now()
        assert await mail.find_token(database, sessions.digest(first), "reset", now) is None
        assert await mail.find_token(database, sessions.digest(second), "reset", now) is not None
        [operator] = await users.operators(database)
        assert (operator.email, operator.password) == (first_run.EMAIL, None)
        account = await accounts.by_email(database, first_run.EMAIL)
        assert account is not None
        assert await members.role_of(database, account.id, operator.id) is Role.OWNER
        await database.execute('UPDATE "user" SET password = $1', "$argon2id$…")
        assert await operators.first_link(database) is None

    world.run(use)


def test_the_link_of_a_later_start_is_for_the_operator_who_has_no_password_yet(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        await operators.link(database, "boss@example.com", create=True)
        token = await operators.first_link(database)
        assert token is not None
        found = await mail.find_token(database, sessions.digest(token), "reset", await database.now())
        assert found is not None
        assert found[1] == "boss@example.com"
        assert [each.email for each in await users.operators(database)] == ["boss@example.com"]

    sqlite_world.run(use)


def test_of_several_starts_at_once_none_fails(world: World) -> None:
    async def use(database: Database) -> None:
        async with world.opened() as second, world.opened() as third:
            await asyncio.gather(*(operators.first_link(each) for each in (database, second, third)))
        assert len(await users.operators(database)) == 1

    world.run(use)


def test_a_user_becomes_an_operator(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        with pytest.raises(NotFound, match=r"nobody here has the address ada@example\.com"):
            await operators.link(database, "Ada@Example.com", create=False)
        await operators.link(database, "Ada@Example.com", create=True)
        await operators.link(database, "ada@example.com", create=False)
        [operator] = await users.operators(database)
        assert operator.email == "ada@example.com"
        assert "\n    http://here/auth/reset?token=abc\n" in operators.welcome("http://here", "abc")

    sqlite_world.run(use)


def test_who_was_made_an_operator_is_said_by_their_account(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database, "ada@example.com")
        for email in ("ada@example.com", "boss@example.com"):
            await operators.link(database, email, create=True, actor="cli/root")
        noted = await database.fetch("SELECT detail FROM activity WHERE action = 'operator.linked' ORDER BY id")
        assert noted == [(account.public_id,), ("boss@example.com",)]

    sqlite_world.run(use)


def test_people_reach_the_gateway_where_it_says_else_where_it_was_served_last(tmp_path: Path) -> None:
    settings = read(Source(), {"TOLLBRIDGE_DATA_DIR": str(tmp_path), "TOLLBRIDGE_PORT": "8123"})
    assert operators.address(settings).endswith(":8123")
    operators.remember_address(settings, "http://127.0.0.1:9000")
    assert operators.address(settings) == "http://127.0.0.1:9000"
    said = {"TOLLBRIDGE_DATA_DIR": str(tmp_path), "TOLLBRIDGE_PUBLIC_URL": "https://ours.example"}
    assert operators.address(read(Source(), said)) == "https://ours.example"
    (tmp_path / operators.ADDRESS).write_bytes(b"\xff")
    assert operators.address(settings).endswith(":8123")
