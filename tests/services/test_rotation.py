"""Another master secret takes the place of the present one, and nothing that was given out stops working."""

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.services.conftest import World

from tollbridge.config import Settings, Source, read
from tollbridge.errors import ConfigError, InvalidApiKey
from tollbridge.services import accounts, byok, keys, login, management_keys, playground, secrets
from tollbridge.services.deeds import Actor
from tollbridge.services.desk import Desk
from tollbridge.services.mail import Post
from tollbridge.services.passwords import Passwords
from tollbridge.services.rotation import finish, rotate
from tollbridge.services.secrets import Secrets
from tollbridge.store import account_keys as rows_of_keys
from tollbridge.store import key_copies, users
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database, Transaction
from tollbridge.store.rotation import SEALED

PREFIX = "tb_live_"
OLD, NEW = "wq8ZrJ2mB5tYxN0aKcVfLdPsHuGeTo4R", "pL3kXv9QnWb7RtYh2McZs6DfGj8UaEiO"
ACTOR = Actor("test", "")


def settings(data_dir: Path, **environ: str) -> Settings:
    return read(Source(None, (("data_dir", str(data_dir)),)), environ)


class Made(msgspec.Struct):
    """What was given out, and lies in the database, before the secret is rotated."""

    account: Account
    key: str
    shown: str
    manager: str
    player: str
    request: str
    device: str


async def opened(database: Database, chosen: Settings) -> Secrets:
    """As a gateway that starts now."""
    master = secrets.load(chosen)
    await secrets.belongs_to(database, master)
    return master


def desk_of(database: Database, chosen: Settings, master: Secrets) -> Desk:
    return Desk(database, master, Passwords(), Post(database, master, None), "http://localhost", lambda: chosen)


async def fill(database: Database, chosen: Settings, master: Secrets) -> Made:
    account = await accounts.create(database, "ada@example.com", plans=frozenset({"default"}), actor="test")
    desk = desk_of(database, chosen, master)
    made = await keys.create(database, master, account, PREFIX, actor="test")
    shown = await keys.create(database, master, account, PREFIX, actor="test")
    await byok.add(
        database, master, account, provider="up", credential="sk-0123456789abcdefgh", providers={"up"}, actor="test"
    )  # fmt: skip
    manager = await management_keys.create(desk, account.id, "robot", ACTOR)
    player = await playground.key_of(desk, account)

    async def use_case(transaction: Transaction) -> None:
        await key_copies.put(transaction, shown.public_id, master.seal(f"key/{shown.public_id}", shown.text.encode()))
        await transaction.execute(
            "INSERT INTO outbox (id, recipient, subject, sealed, created_at, next_at, tries, error) "
            "VALUES (7, 'a@example.com', 'Hello', $1, 0, 0, 0, '')",
            master.seal("outbox/7", b"a letter"),
        )
        await transaction.execute(
            "INSERT INTO kept_answer (hold_id, sealed, created_at) VALUES (9, $1, 0)", master.seal("answer/9", b"said")
        )
        await transaction.execute(
            'INSERT INTO "user" (public_id, email, operator, created_at, totp_secret, totp_proposed, totp_step) '
            "VALUES ('user_1', 'ada@example.com', $1, 0, $2, $3, 0)",
            *(False, master.seal("totp/user_1", b"totp"), master.seal("totp/user_1", b"the next")),
        )

    async with database.transaction() as transaction:
        await use_case(transaction)
    user = await users.by_email(database, "ada@example.com")
    assert user is not None
    request = master.ids().encode("chat", 77)
    return Made(account, made.text, shown.text, manager.text, player, request, login.device_mark(desk, user))


async def works(database: Database, chosen: Settings, made: Made, master: Secrets, *, use_keys: bool = False) -> None:
    """All that was given out does for somebody who holds `master`."""
    [(_, credential)] = await byok.opened(database, master, made.account.id)
    assert credential == "sk-0123456789abcdefgh"
    for use, sql, text in (
        ("outbox/7", "SELECT sealed FROM outbox", b"a letter"),
        ("answer/9", "SELECT sealed FROM kept_answer", b"said"),
        ("totp/user_1", 'SELECT totp_secret FROM "user"', b"totp"),
        ("totp/user_1", 'SELECT totp_proposed FROM "user"', b"the next"),
    ):
        [(sealed,)] = await database.fetch(sql)
        assert master.open(use, bytes(sealed)) == text
    [(public_id, copy)] = await key_copies.of_account(database, made.account.id)
    assert master.open(f"key/{public_id}", copy).decode() == made.shown
    assert master.ids().decode(made.request) == 77
    desk = desk_of(database, chosen, master)
    user = await users.by_email(database, "ada@example.com")
    assert user is not None
    assert login.is_known(desk, user, made.device)
    assert not login.is_known(desk, user, "another")
    assert await keys.find(database, master, PREFIX + "x" * 38) is None
    if use_keys:
        for key in (made.key, made.shown, await playground.key_of(desk, made.account)):
            found = await keys.find(database, master, key)
            assert found is not None
            assert found.live
        await management_keys.find(desk, f"Bearer {made.manager}")


def test_everything_goes_on_from_before_the_first_step_until_after_the_last(world: World) -> None:
    async def use(database: Database) -> None:
        chosen = settings(world.directory / "kept")
        unaware = await opened(database, chosen)
        made = await fill(database, chosen, unaware)
        file = chosen.data_dir / "secret"
        [old] = file.read_text().split()

        assert (await rotate(database, chosen)).stage == "begun"
        new, second = file.read_text().split()
        assert (second, len(new)) == (old, 64)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        aware = await opened(database, chosen)
        # Nothing is made by the new one while some gateways do not know it.
        assert aware.fingerprint() == unaware.fingerprint()
        fresh = await keys.create(database, aware, made.account, PREFIX, actor="test")
        assert await keys.find(database, unaware, fresh.text) is not None
        await works(database, chosen, made, unaware, use_keys=True)
        await works(database, chosen, made, aware, use_keys=True)

        moved = await rotate(database, chosen)
        # The key that may be shown again is known by the new secret at once, and the playground gets another.
        assert (moved.stage, moved.sealed_anew, moved.keys, moved.management_keys) == ("moved", 6, 2, 1)
        after = await opened(database, chosen)
        assert (after.generation, after.fingerprint()) == (2, Secrets(new).fingerprint())
        assert await secrets.is_behind(database, aware)
        # One that has not heard of it yet reads all, and its look-ups put nothing back.
        await works(database, chosen, made, aware)
        assert await keys.find(database, aware, made.shown) is not None
        with pytest.raises(ConfigError, match=r"^2 API keys and 1 management key were not used .* or add --force$"):
            await finish(database, chosen)
        await works(database, chosen, made, after, use_keys=True)
        assert await keys.find(database, after, fresh.text) is not None
        # The playground has had two keys, and neither is shown among the customer's own.
        ids = {key.public_id for key in await rows_of_keys.of_account(database, made.account.id)}
        own = playground.own_keys(desk_of(database, chosen, after), made.account, ids)
        ended = "SELECT COUNT(*) FROM api_key WHERE label = 'Playground' AND revoked_at IS NOT NULL"
        assert (len(ids), len(own), await database.fetch(ended)) == (5, 2, [(1,)])
        rows = await database.fetch("SELECT DISTINCT pepper_id FROM api_key WHERE revoked_at IS NULL")
        rows += await database.fetch("SELECT pepper_id FROM management_key")
        assert rows == [(2,), (2,)]
        await works(database, chosen, made, aware, use_keys=True)
        assert (await rotate(database, chosen)).sealed_anew == 0

        # What somebody sealed by the old one after that is found too.
        await database.execute("UPDATE outbox SET sealed = $1", Secrets(old).seal("outbox/7", b"a letter"))
        done = await finish(database, chosen)
        assert (done.stage, done.sealed_anew, done.keys, done.management_keys) == ("ended", 1, 0, 0)
        assert file.read_text().split() == [new]
        alone = await opened(database, chosen)
        assert alone.other is None
        for text in (made.key, made.shown, fresh.text):
            assert await keys.find(database, alone, text) is not None
        await management_keys.find(desk_of(database, chosen, alone), f"Bearer {made.manager}")
        assert len(await byok.opened(database, alone, made.account.id)) == 1
        with pytest.raises(ConfigError, match="not the master secret"):
            await secrets.check(database, unaware)
        with pytest.raises(ConfigError, match="is not being rotated"):
            await finish(database, chosen)

        # And once more: the third.
        await rotate(database, chosen)
        await rotate(database, chosen)
        assert (await opened(database, chosen)).generation == 3

    world.run(use)


class Killed(Exception):
    pass


class Mortal:
    """A database of a process that is killed before one of its writes."""

    def __init__(self, database: Database, writes: int) -> None:
        self._database, self._left = database, writes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def _live(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed

    async def execute(self, sql: str, *args: Any) -> int:
        self._live()
        return await self._database.execute(sql, *args)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        async with self._database.transaction() as transaction:
            yield _MortalTransaction(self, transaction)


class _MortalTransaction:
    def __init__(self, mortal: Mortal, transaction: Transaction) -> None:
        self._mortal, self._transaction = mortal, transaction

    async def fetch(self, sql: str, *args: Any) -> list[tuple[Any, ...]]:
        return await self._transaction.fetch(sql, *args)

    async def execute(self, sql: str, *args: Any) -> int:
        self._mortal._live()
        return await self._transaction.execute(sql, *args)


def test_killed_before_any_write_it_can_be_done_again(world: World) -> None:
    async def use(database: Database) -> None:
        chosen = settings(world.directory / "kept")
        made = await fill(database, chosen, await opened(database, chosen))
        await rotate(database, chosen)
        for step in (rotate, finish):
            deaths = 0
            while True:
                try:
                    await step(Mortal(database, deaths), chosen)
                except Killed:
                    deaths += 1
                    await works(database, chosen, made, await opened(database, chosen), use_keys=deaths > 3)
                else:
                    break
            assert deaths >= (4 if step is rotate else 1)
        alone = await opened(database, chosen)
        assert (alone.other, alone.generation) == (None, 2)
        assert await keys.find(database, alone, made.key) is not None

    world.run(use)


def test_killed_before_the_file_is_cut_it_is_cut_by_whoever_is_next(world: World, monkeypatch: Any) -> None:
    async def use(database: Database) -> None:
        chosen = settings(world.directory / "kept")
        await opened(database, chosen)
        file = chosen.data_dir / "secret"

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        before = file.read_text()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            with pytest.raises(ConfigError, match="cannot be written: No space left"):
                await rotate(database, chosen)
        assert file.read_text() == before
        assert list(chosen.data_dir.iterdir()) == [file]
        await rotate(database, chosen)
        await rotate(database, chosen)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", full)
            with pytest.raises(ConfigError, match="cannot be written"):
                await finish(database, chosen)
        assert len(file.read_text().split()) == 2
        await opened(database, chosen)
        assert (await finish(database, chosen)).stage == "ended"
        assert len(file.read_text().split()) == 1

    world.run(use)


def test_secrets_of_the_configuration_are_the_operators_to_change(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        before = settings(sqlite_world.directory, TOLLBRIDGE_SECRET=OLD)
        made = await fill(database, before, await opened(database, before))
        with pytest.raises(ConfigError, match="a new one there and the present one into secret_previous"):
            await rotate(database, before)
        with pytest.raises(ConfigError, match="not the master secret"):
            await rotate(database, settings(sqlite_world.directory, TOLLBRIDGE_SECRET=NEW))
        both = settings(sqlite_world.directory, TOLLBRIDGE_SECRET=NEW, TOLLBRIDGE_SECRET_PREVIOUS=OLD)
        with pytest.raises(ConfigError, match="does not use the new master secret yet"):
            await finish(database, both)
        await works(database, both, made, await opened(database, both), use_keys=True)
        assert (await rotate(database, both)).stage == "moved"
        with pytest.raises(ConfigError, match=r"the one before it is needed until .* or the setting secret_previous"):
            await opened(database, settings(sqlite_world.directory, TOLLBRIDGE_SECRET=NEW))
        with pytest.raises(ConfigError, match="not the master secret"):
            await opened(database, before)
        done = await finish(database, both, force=True)
        assert (done.stage, done.keys, done.management_keys) == ("ended", 1, 1)
        alone = await opened(database, settings(sqlite_world.directory, TOLLBRIDGE_SECRET=NEW))
        assert await keys.find(database, alone, made.key) is None
        with pytest.raises(InvalidApiKey):
            await management_keys.find(desk_of(database, both, alone), f"Bearer {made.manager}")
        assert not (sqlite_world.directory / "secret").exists()

    sqlite_world.run(use)


def test_a_key_is_found_while_another_process_makes_it_known_by_the_new_secret(world: World) -> None:
    async def use(database: Database) -> None:
        chosen = settings(world.directory / "kept")
        made = await fill(database, chosen, await opened(database, chosen))
        await rotate(database, chosen)
        behind = await opened(database, chosen)
        await rotate(database, chosen)
        ahead = await opened(database, chosen)
        found = await asyncio.gather(
            *(keys.find(database, master, made.key) for _ in range(20) for master in (behind, ahead))
        )
        assert None not in found
        [(pepper_id,)] = await database.fetch("SELECT pepper_id FROM api_key WHERE digest = $1", ahead.digest(made.key))
        assert pepper_id == 2

    world.run(use)


def test_a_row_that_neither_secret_opens_is_counted_and_left(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        chosen = settings(sqlite_world.directory)
        await fill(database, chosen, await opened(database, chosen))
        await database.execute("UPDATE outbox SET sealed = $1", b"x" * 40)
        await rotate(database, chosen)
        moved = await rotate(database, chosen)
        assert (moved.sealed_anew, moved.unreadable) == (5, 1)
        assert await database.fetch("SELECT sealed FROM outbox") == [(b"x" * 40,)]

    sqlite_world.run(use)


def test_two_at_once_are_refused(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    secrets.load(chosen)
    with secrets.alone(chosen), pytest.raises(ConfigError, match="is being rotated by another"), secrets.alone(chosen):
        pytest.fail("both were let in")


def test_each_sealed_column_is_rotated() -> None:
    """Whoever adds a column for `Secrets.seal` names it in `store.rotation`."""
    from tollbridge.store.tables import metadata

    named = {f"{table.name}.{column.name}" for table in metadata.tables.values() for column in table.columns
             if column.name in {"sealed", "totp_secret", "totp_proposed"}}  # fmt: skip
    assert named == set(SEALED)
