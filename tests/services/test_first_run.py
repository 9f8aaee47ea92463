"""What a new gateway begins with, once."""

import asyncio
import shlex

import msgspec
import pytest
from tests.services.conftest import MASTER, World
from tests.services.test_accounts import make

from tollbridge.config import Settings, Source, read
from tollbridge.core.keys import well_formed
from tollbridge.errors import ConfigError
from tollbridge.services import accounts, first_run
from tollbridge.services.first_run import First, begin, welcome
from tollbridge.services.keys import MadeKey
from tollbridge.services.secrets import Secrets
from tollbridge.store import key_copies
from tollbridge.store.db import Database
from tollbridge.store.keys import find_key

SETTINGS = read(Source(), {"TOLLBRIDGE_BRAND__KEY_PREFIX": "mb-"})


async def start(database: Database, settings: Settings = SETTINGS) -> First | None:
    return await begin(database, settings, MASTER)


def test_the_first_start_makes_an_account_with_credit_and_a_key(world: World) -> None:
    async def use(database: Database) -> None:
        first = await start(database)
        assert first is not None
        assert well_formed("mb-", first.key.text)
        account = await accounts.get(database, first_run.EMAIL)
        assert (account.promo, first.credit) == (500_000_000, 500_000_000)
        found = await find_key(database, MASTER.digest(first.key.text))
        assert found is not None
        assert (found.account_id, found.live) == (account.id, True)
        assert await key_copies.of_account(database, account.id) == []
        assert await start(database) is None
        assert len([each async for each in accounts.every(database)]) == 1

    world.run(use)


def test_of_several_first_starts_one_is_the_first(world: World) -> None:
    async def use(database: Database) -> None:
        async with world.opened() as second, world.opened() as third:
            results = await asyncio.gather(*(start(each) for each in (database, second, third)))
        assert len([each for each in results if each is not None]) == 1

    world.run(use)


def test_who_has_accounts_has_started_before(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        await make(database)
        assert await start(database) is None

    sqlite_world.run(use)


def test_the_credit_is_the_operators_to_set(sqlite_world: World) -> None:
    settings = read(Source(), {"TOLLBRIDGE_BILLING__SIGNUP_GRANT_USD": "0"})

    async def use(database: Database) -> None:
        first = await start(database, settings)
        assert first is not None
        assert first.credit == (await accounts.get(database, first_run.EMAIL)).promo == 0

    sqlite_world.run(use)


def test_the_key_can_be_shown_again_where_keys_always_are(sqlite_world: World) -> None:
    settings = read(Source(), {"TOLLBRIDGE_KEYS__REVEAL": "always"})

    async def use(database: Database) -> None:
        first = await start(database, settings)
        assert first is not None
        account = await accounts.get(database, first_run.EMAIL)
        ((public_id, sealed),) = await key_copies.of_account(database, account.id)
        assert MASTER.open(f"key/{public_id}", sealed).decode() == first.key.text
        assert "which its dashboard shows too" in welcome(first, "http://127.0.0.1:8000", "m")

    sqlite_world.run(use)


def test_another_master_secret_ends_the_start(world: World) -> None:
    async def use(database: Database) -> None:
        await start(database)
        with pytest.raises(ConfigError, match="not the master secret"):
            await begin(database, SETTINGS, Secrets("another" * 10))

    world.run(use)


def test_what_is_printed_works_as_pasted() -> None:
    text = welcome(First(MadeKey("key_1", "tb_live_abc"), 500_000_000), "http://127.0.0.1:8000", "deepseek-chat")
    assert "$0.50 of credit" in text
    assert "\n    tb_live_abc\n" in text
    assert "which is shown only now" in text
    command = shlex.split(text[text.index("curl") :].replace("\\\n", " "))
    assert command[:2] == ["curl", "http://127.0.0.1:8000/v1/chat/completions"]
    assert command[2:6] == ["-H", "Authorization: Bearer tb_live_abc", "-H", "Content-Type: application/json"]
    body = msgspec.json.decode(command[7])
    assert (body["model"], body["messages"][0]["role"]) == ("deepseek-chat", "user")
