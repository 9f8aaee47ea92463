"""Backups: taken while a gateway writes, looked through before they are put back."""

import asyncio
import os
import random
import shutil
import sqlite3
from pathlib import Path

import msgspec
import pytest
from tests.services.conftest import World, prove, spend
from tests.services.test_accounts import a_key, make

from tollbridge.config import Secret, Settings, Source, read
from tollbridge.errors import ConfigError, TollbridgeError
from tollbridge.services import accounts
from tollbridge.services.restore import restore
from tollbridge.services.secrets import belongs_to, load
from tollbridge.store.accounts import Account
from tollbridge.store.backup import back_up
from tollbridge.store.db import Database, sqlite_path
from tollbridge.store.processes import Fenced, FileLock


@pytest.fixture
def settings(sqlite_world: World) -> Settings:
    return read(Source(None, (("data_dir", str(sqlite_world.directory)),)), {})


def fill(world: World, settings: Settings, credit: int = 1_000) -> None:
    async def use(database: Database) -> None:
        await belongs_to(database, load(settings))
        account = await make(database, credit=credit)
        key_id = await a_key_of(database, account, settings)
        async with world.serving(database) as ledger:
            for _ in range(5):
                await spend(ledger, account.id, key_id, 7)

    world.run(use)


async def a_key_of(database: Database, account: Account, settings: Settings) -> int:
    from tollbridge.services import keys
    from tollbridge.store.keys import find_key

    master = load(settings)
    made = await keys.create(database, master, account, "tb_live_", actor="test")
    found = await find_key(database, master.digest(made.text))
    assert found is not None
    return found.key_id


def files(world: World) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in world.directory.iterdir() if "shm" not in path.name}


def test_a_backup_brings_everything_back(sqlite_world: World, settings: Settings, tmp_path: Path) -> None:
    fill(sqlite_world, settings)
    back_up(sqlite_world.url, tmp_path / "copy.db")
    assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    sqlite_world.run(lambda database: make(database, "later@example.com"))
    kept = asyncio.run(restore(settings, tmp_path / "copy.db"))
    assert kept is not None
    assert kept.exists()

    async def use(database: Database) -> list[tuple[str, int]]:
        return [(each.email, each.available) async for each in accounts.every(database)]

    assert sqlite_world.run(use) == [("ada@example.com", 1_000 - 35)]
    kept_world = World(f"sqlite:///{kept}", kept.parent)
    assert len(kept_world.run(use)) == 2


def test_a_restored_database_can_be_served_from(sqlite_world: World, settings: Settings, tmp_path: Path) -> None:
    """What the lock's file remembers of the latest heartbeat was true of the database before."""
    from tollbridge.store import processes

    async def beat(database: Database) -> None:
        lock = FileLock(sqlite_path(sqlite_world.url))
        lock.acquire()
        process = await processes.begin(database, lock)
        await process.beat()
        await process.finish()

    fill(sqlite_world, settings)
    back_up(sqlite_world.url, tmp_path / "copy.db")
    sqlite_world.run(beat)
    asyncio.run(restore(settings, tmp_path / "copy.db"))
    sqlite_world.run(beat)


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_nobody_sells_on_from_a_file_that_lost_its_name_and_what_it_holds_can_be_copied_back(
    sqlite_world: World, settings: Settings, tmp_path: Path, how: str
) -> None:
    from tollbridge.store import processes

    fill(sqlite_world, settings)
    path = sqlite_path(sqlite_world.url)
    back_up(sqlite_world.url, tmp_path / "copy.db")

    async def lose(database: Database) -> None:
        lock = FileLock(path)
        lock.acquire()
        process = await processes.begin(database, lock)
        await process.beat()
        opened = os.open(path, os.O_RDONLY)
        if how == "removed":
            path.unlink()
        else:
            shutil.copy(tmp_path / "copy.db", path.with_name("another"))
            path.with_name("another").rename(path)
        with pytest.raises(Fenced, match=rf"{path} was removed or replaced .* /proc/{os.getpid()}/fd"):
            await process.beat()
        rescued = path.with_name("rescued")
        shutil.copy(f"/proc/self/fd/{opened}", rescued)
        os.close(opened)
        rescued.rename(path)
        await process.finish()

    async def begin(database: Database) -> None:
        lock = FileLock(path)
        lock.acquire()
        await (await processes.begin(database, lock)).finish()

    sqlite_world.run(lose)
    sqlite_world.run(begin)


def test_backups_are_whole_while_a_gateway_writes(sqlite_world: World, settings: Settings, tmp_path: Path) -> None:
    """G18."""
    copies = [tmp_path / f"{number}.db" for number in range(20)]

    async def use(database: Database) -> None:
        account = await make(database, credit=10_000_000)
        key_id = await a_key(database, account)
        async with sqlite_world.serving(database) as ledger:
            writing = True

            async def write() -> int:
                done = 0
                while writing:
                    await asyncio.gather(*(spend(ledger, account.id, key_id, 7) for _ in range(8)))
                    done += 8
                return done

            writer = asyncio.ensure_future(write())
            for copy in copies:
                await asyncio.to_thread(back_up, sqlite_world.url, copy)
                await asyncio.sleep(random.random() * 0.02)
            writing = False
            assert await writer > 0

    sqlite_world.run(use)
    for copy in copies:
        prove(World(f"sqlite:///{copy}", tmp_path))


def test_nothing_is_put_back_while_a_gateway_runs(sqlite_world: World, settings: Settings, tmp_path: Path) -> None:
    back_up(sqlite_world.url, tmp_path / "copy.db")
    lock = FileLock(sqlite_path(sqlite_world.url))
    lock.acquire()
    try:
        before = files(sqlite_world)
        with pytest.raises(ConfigError, match="another Tollbridge serves"):
            asyncio.run(restore(settings, tmp_path / "copy.db"))
        assert files(sqlite_world) == before
    finally:
        lock.release()


def spoil(path: Path, statement: str) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(statement)
    connection.close()


@pytest.mark.parametrize(
    ("spoiling", "says"),
    [
        ("UPDATE usage SET charge = charge + 1", "the books of the backup are wrong"),
        ("UPDATE balance SET promo = promo + 1", "the books of the backup are wrong"),
        ("UPDATE meta SET value = 7 WHERE name = 'secret_fingerprint'", "not the master secret"),
        (
            "UPDATE alembic_version SET version_num = '9999';UPDATE meta SET value = 9999 WHERE name = 'schema_oldest'",
            "could not be migrated",
        ),
        ("DROP TABLE journal", "no database of Tollbridge"),
    ],
)
def test_a_wrong_backup_changes_nothing(
    sqlite_world: World, settings: Settings, tmp_path: Path, spoiling: str, says: str
) -> None:
    fill(sqlite_world, settings)
    back_up(sqlite_world.url, tmp_path / "copy.db")
    spoil(tmp_path / "copy.db", spoiling)
    before = files(sqlite_world)
    with pytest.raises(TollbridgeError, match=says):
        asyncio.run(restore(settings, tmp_path / "copy.db"))
    assert {**files(sqlite_world), "tollbridge.db-lock": b""} == {**before, "tollbridge.db-lock": b""}


def test_a_refused_backup_leaves_nothing_where_nobody_served(
    sqlite_world: World, settings: Settings, tmp_path: Path
) -> None:
    fill(sqlite_world, settings)
    back_up(sqlite_world.url, tmp_path / "copy.db")
    (tmp_path / "text.db").write_text("not a database")
    elsewhere = msgspec.structs.replace(settings, database_url=Secret(f"sqlite:///{tmp_path}/new/tollbridge.db"))
    with pytest.raises(ConfigError, match=r"text\.db: "):
        asyncio.run(restore(elsewhere, tmp_path / "text.db"))
    assert not list((tmp_path / "new").iterdir())
    assert asyncio.run(restore(elsewhere, tmp_path / "copy.db")) is None
    assert (tmp_path / "new/tollbridge.db").exists()


def test_a_damaged_file_is_no_backup(sqlite_world: World, settings: Settings, tmp_path: Path) -> None:
    fill(sqlite_world, settings)
    back_up(sqlite_world.url, tmp_path / "copy.db")
    whole = (tmp_path / "copy.db").read_bytes()
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("not a database at all, but long enough to be looked at as one " * 100)
    (tmp_path / "cut.db").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flipped.db").write_bytes(whole[:8192] + bytes(4096) + whole[12288:])
    for name in ("empty", "text", "cut", "flipped", "missing"):
        with pytest.raises(ConfigError, match=rf"{name}\.db: "):
            asyncio.run(restore(settings, tmp_path / f"{name}.db"))
    assert not [name for name in files(sqlite_world) if name.startswith(".")]


def test_a_backup_overwrites_nothing(sqlite_world: World, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        back_up(sqlite_world.url, tmp_path / "there")
    with pytest.raises(ConfigError, match="could not be written"):
        back_up(sqlite_world.url, tmp_path / "nowhere" / "copy.db")
    assert (tmp_path / "there").read_text() == "mine"


def test_a_postgresql_database_has_its_own_tools(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use pg_dump"):
        back_up("postgresql://me:canary@db/x", tmp_path / "copy")
