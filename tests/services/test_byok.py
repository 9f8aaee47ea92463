"""Customers' own credentials: sealed, bound to their account, shown by a hint alone."""

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.gateway.site import migrated_file

from tollbridge.errors import ConfigError, InvalidRequest, NotFound
from tollbridge.services import accounts, byok
from tollbridge.services.secrets import Secrets
from tollbridge.store import byok as rows
from tollbridge.store import leaving
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database, open_database, run

TEXT = "sk-customers-own-0123456789"
MASTER = Secrets("m" * 64)


async def opened(path: Path) -> tuple[Database, Account]:
    shutil.copy(await migrated_file(), path)
    database = open_database(f"sqlite:///{path}")
    await database.start()
    return database, await accounts.create(database, "a@example.com", plans={"default"}, actor="test")


async def add(
    database: Database, account: Account, text: str = TEXT, provider: str = "up", label: str = ""
) -> rows.Own:
    return await byok.add(
        database,
        MASTER,
        account,
        provider=provider,
        credential=text,
        providers={"up", "other"},
        label=label,
        actor="test",
    )


def test_a_credential_is_opened_for_its_account_and_stored_for_nobody_to_read(tmp_path: Path) -> None:
    async def test() -> None:
        database, account = await opened(tmp_path / "a.db")
        kept = await add(database, account, f"  {TEXT}\n", label="mine")
        [(own, text)] = await byok.opened(database, MASTER, account.id)
        assert (own.public_id, own.provider, own.label, own.hint, text) == (kept.public_id, "up", "mine", "…6789", TEXT)
        assert TEXT not in repr(own)
        with pytest.raises(ConfigError):
            await byok.opened(database, Secrets("x" * 64), account.id)
        await database.close()

    asyncio.run(test())
    files = b"".join(each.read_bytes() for each in tmp_path.iterdir())
    assert TEXT.encode() not in files


def test_a_row_that_is_moved_to_another_account_opens_for_nobody(tmp_path: Path) -> None:
    async def test() -> None:
        database, account = await opened(tmp_path / "a.db")
        await add(database, account)
        other = await accounts.create(database, "b@example.com", plans={"default"}, actor="test")
        await database.execute("UPDATE byok SET account_id = $1", other.id)
        with pytest.raises(ConfigError):
            await byok.opened(database, MASTER, other.id)
        await database.close()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("text", "provider", "label", "param"),
    [
        ("", "up", "", "credential"),
        ("a\nb", "up", "", "credential"),
        ("schlüssel", "up", "", "credential"),
        ("x" * 5_000, "up", "", "credential"),
        (TEXT, "nobody", "", "provider"),
        (TEXT, "up", "x" * 101, "label"),
    ],
)
def test_what_cannot_be_a_credential_is_refused_and_not_quoted(
    tmp_path: Path, text: str, provider: str, label: str, param: str
) -> None:
    async def test() -> None:
        database, account = await opened(tmp_path / "a.db")
        with pytest.raises(InvalidRequest) as raised:
            await add(database, account, text, provider, label)
        assert raised.value.param == param
        assert not text or text not in str(raised.value)
        await database.close()

    asyncio.run(test())


def test_they_are_tried_in_the_order_they_came_and_are_bounded(tmp_path: Path) -> None:
    async def test() -> None:
        database, account = await opened(tmp_path / "a.db")
        made = [(await add(database, account, f"{TEXT}{number:02}")).public_id for number in range(byok.MOST)]
        assert [own.public_id for own, _ in await byok.opened(database, MASTER, account.id)] == made
        with pytest.raises(InvalidRequest, match="at most"):
            await add(database, account)
        await database.close()

    asyncio.run(test())


def test_only_its_account_and_the_operator_remove_one(tmp_path: Path) -> None:
    async def test() -> None:
        database, account = await opened(tmp_path / "a.db")
        first, second = await add(database, account), await add(database, account)
        for owner, id_ in ((account.id + 1, first.public_id), (None, "byok_none"), (None, "\0")):
            with pytest.raises(NotFound):
                await byok.remove(database, owner, id_, actor="test")
        await byok.remove(database, account.id, first.public_id, actor="test")
        await byok.remove(database, None, second.public_id, actor="test")
        assert await byok.opened(database, MASTER, account.id) == []
        await database.close()

    asyncio.run(test())


def test_a_short_credential_has_no_hint(tmp_path: Path) -> None:
    async def test() -> None:
        database, account = await opened(tmp_path / "a.db")
        assert (await add(database, account, "short-key")).hint == "…"
        await database.close()

    asyncio.run(test())


def test_credentials_go_with_their_account(tmp_path: Path) -> None:
    async def test() -> None:
        database, account = await opened(tmp_path / "a.db")
        stays = await accounts.create(database, "b@example.com", plans={"default"}, actor="test")
        await add(database, account)
        await add(database, stays)
        gone = leaving.pseudonym(account)
        await run(database, lambda transaction: leaving.close_account(transaction, account.id, gone, 1))
        assert await rows.of_account(database, account.id) == []
        assert len(await rows.of_account(database, stays.id)) == 1
        await database.close()

    asyncio.run(test())
