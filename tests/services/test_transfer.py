"""From SQLite to PostgreSQL: all of it arrives, or nothing does."""

import asyncio
import contextlib
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Boolean, LargeBinary, Text
from tests.servers import Postgres
from tests.services.conftest import World, hold, spend
from tests.services.test_accounts import make
from tests.services.test_restore import a_key_of, files, spoil

from tollbridge.config import Secret, Settings, Source, read
from tollbridge.core.ledger import Book, Checkpoint, End, Held, Record
from tollbridge.errors import ConfigError, TollbridgeError
from tollbridge.services.secrets import belongs_to, load
from tollbridge.services.transfer import to_postgresql
from tollbridge.store import processes, schema, seal, verify
from tollbridge.store.db import Database, Row, sqlite_path
from tollbridge.store.ledger.postgres import PostgresLedger
from tollbridge.store.ledger.spool import Spool
from tollbridge.store.ledger.sqlite import SqliteLedger
from tollbridge.store.processes import FileLock
from tollbridge.store.tables import metadata
from tollbridge.store.transfer import Transferred
from tollbridge.values import Outcome

PASSWORD = "canary-7d1f0a"
TABLES = metadata.sorted_tables


@pytest.fixture
def settings(sqlite_world: World) -> Settings:
    return read(Source(None, (("data_dir", str(sqlite_world.directory)),)), {})


@pytest.fixture
def target(postgres_url: str, tmp_path: Path) -> World:
    """An empty database, without tables, and the data directory that is served from it."""
    return World(postgres_url, tmp_path / "data")


def copy(settings: Settings, url: str, told: list[str] | None = None) -> Transferred:
    return asyncio.run(to_postgresql(settings, Secret(url), (told if told is not None else []).append))


def refused(settings: Settings, url: str) -> str:
    with pytest.raises(TollbridgeError) as caught:
        copy(settings, url)
    assert PASSWORD not in str(caught.value)
    return str(caught.value)


def fill(world: World, settings: Settings) -> None:
    """An account with a key, that made some calls; sealed."""

    async def use(database: Database) -> None:
        await belongs_to(database, load(settings))
        account = await make(database, credit=1_000)
        key_id = await a_key_of(database, account, settings)
        async with world.serving(database) as ledger:
            for _ in range(5):
                await spend(ledger, account.id, key_id, 7)
        assert await seal.seal(database, settled_ms=-10_000)

    world.run(use)


def rows_of(world: World) -> dict[str, list[Row]]:
    """All that is in the database, in the types of Python."""

    async def use(database: Database) -> dict[str, list[Row]]:
        found = {}
        for table in TABLES:
            names = ", ".join(f'"{name}"' for name in table.columns.keys())  # noqa: SIM118
            order = ", ".join(f'"{column.name}"' for column in table.primary_key)
            flags = [isinstance(column.type, Boolean) for column in table.columns]
            found[table.name] = [
                tuple(bool(each) if flag else each for each, flag in zip(row, flags, strict=True))
                for row in await database.fetch(f'SELECT {names} FROM "{table.name}" ORDER BY {order}')
            ]
        return found

    return world.run(use)


def is_empty(world: World) -> bool:
    rows = rows_of(world)
    return {name for name, _ in rows.pop("meta")} == {"cache_epoch", "schema_oldest"} and not any(rows.values())


# --- what arrives -------------------------------------------------------------------------------------------------


def synthetic(number: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """A row of every table, in all types at their edges; the second has no more than it must."""
    for table in TABLES:
        row: dict[str, Any] = {}
        for at, column in enumerate(table.columns):
            if column.nullable and number == 2:
                value: Any = None
            elif isinstance(column.type, Boolean):
                value = number == 1
            elif isinstance(column.type, LargeBinary):
                value = bytes([number, at, 0, 255]) * 8
            elif isinstance(column.type, Text):
                value = f"{table.name}.{column.name} {number} ü 漢 😀 \t\n\\N \\."
            elif column.foreign_keys or column.primary_key:
                value = number
            else:
                value = number + 30_000
            row[column.name] = value
        yield table.name, row


def put_everywhere(world: World) -> None:
    connection = sqlite3.connect(sqlite_path(world.url))
    for name, row in itertools.chain(synthetic(1), synthetic(2)):
        names = ", ".join(f'"{each}"' for each in row)
        connection.execute(f'INSERT INTO "{name}" ({names}) VALUES ({", ".join("?" * len(row))})', list(row.values()))
    connection.commit()
    connection.close()


async def _believed(*_: object) -> verify.Report:
    return verify.Report()


def test_every_row_of_every_table_arrives(
    sqlite_world: World, settings: Settings, target: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_everywhere(sqlite_world)
    before = rows_of(sqlite_world)
    assert all(len(before[table.name]) >= 2 for table in TABLES)
    with monkeypatch.context() as patch:
        # Such rows are no books.
        patch.setattr("tollbridge.store.transfer.verify_view", _believed)
        done = copy(settings, target.url)
    after = rows_of(target)
    stopped = metadata.tables["process"].columns.keys().index("stopped_at")
    assert before["process"][1][stopped] is None
    assert [row[stopped] for row in after["process"]] == [30_001, 30_002]
    assert before.pop("process")[0] == after.pop("process")[0]
    assert after == before
    assert done.rows == {name: len(rows) for name, rows in {**after, "process": "ab"}.items()}
    # Those made by itself stand for no books, so that no proof of them is tried at the end.
    connection = sqlite3.connect(sqlite_path(sqlite_world.url))
    for table in reversed(TABLES):
        connection.execute(f'DELETE FROM "{table.name}"')
    connection.commit()
    connection.close()


def test_new_ids_go_on_behind_the_highest(sqlite_world: World, settings: Settings, target: World) -> None:
    fill(sqlite_world, settings)
    copy(settings, target.url)

    async def next_ids(database: Database) -> dict[str, int]:
        return {
            table.name: (
                await database.fetch(
                    "SELECT nextval(pg_get_serial_sequence($1, $2))",
                    *(f'"{table.name}"', table.autoincrement_column.name),
                )
            )[0][0]
            for table in TABLES
            if table.autoincrement_column is not None
        }

    before = rows_of(sqlite_world)
    for name, next_id in target.run(next_ids).items():
        assert next_id == max((row[0] for row in before[name]), default=0) + 1, name


def test_the_copy_is_proved_and_can_be_served_from(sqlite_world: World, settings: Settings, target: World) -> None:
    fill(sqlite_world, settings)
    before = rows_of(sqlite_world)
    told: list[str] = []
    done = copy(settings, target.url, told)
    assert told == ["proving the books", "copying", "proving the books of the copy"]
    report = sqlite_world.run(verify.verify)
    assert (done.report, report.ok) == (report, True)
    assert (report.holds, report.seals, report.trial_balance[Book.CUSTOMER_PROMO]) == (5, 4, 965)
    assert rows_of(sqlite_world) == before

    async def go_on(database: Database) -> None:
        master = load(settings)
        await belongs_to(database, master)
        async with target.serving(database) as ledger:
            assert ledger.epoch == 2
            await spend(ledger, 1, 1, 7)
        assert await seal.seal(database, settled_ms=-10_000)
        assert await database.fetch("SELECT promo, held FROM balance") == [(1_000 - 42, 0)]
        again = await verify.verify(database)
        assert again.ok, again.problems
        indexed = await database.fetch("SELECT indexdef FROM pg_indexes WHERE indexname = 'usage_by_time'")
        assert "brin" in indexed[0][0]

    target.run(go_on)


def test_what_was_cut_off_is_settled_by_the_first_start(sqlite_world: World, settings: Settings, target: World) -> None:
    """At its last checkpoint; at its true end where a spool of the data directory has it."""
    fill(sqlite_world, settings)

    def record(tokens: int) -> Record:
        return Record(started_at=0, duration_ms=1, price_version=1, input=tokens, outcome=Outcome.COMPLETED)

    async def cut_off(database: Database) -> tuple[End, int, int]:
        process = await processes.begin(database)
        ledger = SqliteLedger(sqlite_path(sqlite_world.url), process.epoch)
        await ledger.start()
        ops = [hold(ledger, 1, 1, 100) for _ in range(3)]
        for op in ops:
            assert isinstance(await ledger.submit(op), Held)
        await ledger.submit(Checkpoint(hold=ops[0].id, account_id=1, key_id=1, charge=40, record=record(40)))
        await ledger.stop()
        [(started_at,)] = await database.fetch("SELECT started_at FROM process WHERE epoch = $1", process.epoch)
        end = End(hold=ops[1].id, account_id=1, key_id=1, charge=50, record=record(50))
        return end, process.epoch, started_at

    async def keep(end: End, epoch: int, started_at: int) -> None:
        spool = Spool(sqlite_world.directory, epoch, started_at)
        done = asyncio.get_running_loop().create_future()
        spool.append([end], done.set_result)
        assert await done is None
        spool.close()

    asyncio.run(keep(*sqlite_world.run(cut_off)))
    assert copy(settings, target.url).report.open_holds == 3

    async def first_start(database: Database) -> None:
        process = await processes.begin(database)
        ledger = PostgresLedger(target.url, process.epoch, settings.data_dir)
        await ledger.start()
        assert await process.recover(ledger) == 2
        await ledger.stop()
        await process.finish()
        assert await database.fetch("SELECT promo, held FROM balance") == [(1_000 - 35 - 40 - 50, 0)]
        report = await verify.verify(database)
        assert report.ok, report.problems

    target.run(first_start)
    assert not list(settings.data_dir.glob("*.spool"))


def test_nobody_serves_from_the_file_after_it_was_copied(
    sqlite_world: World, settings: Settings, target: World, postgres_server: Postgres
) -> None:
    fill(sqlite_world, settings)
    copy(settings, target.url)
    lock = FileLock(sqlite_path(sqlite_world.url))

    async def serve(database: Database) -> None:
        lock.acquire()
        try:
            await processes.begin(database, lock)
        finally:
            lock.release()

    with pytest.raises(ConfigError, match="was copied to PostgreSQL: set database_url") as caught:
        sqlite_world.run(serve)
    assert str(lock.path) in str(caught.value)
    # It can be copied once more, where the first copy is given up.
    with postgres_server.database() as other:
        copy(settings, other)
    lock.path.unlink()
    sqlite_world.run(serve)


# --- what is refused ----------------------------------------------------------------------------------------------


def test_nothing_is_copied_while_a_gateway_runs(sqlite_world: World, settings: Settings, target: World) -> None:
    lock = FileLock(sqlite_path(sqlite_world.url))
    lock.acquire()
    try:
        assert "a gateway serves from" in refused(settings, target.url)
    finally:
        lock.release()
    copy(settings, target.url)


def test_nobody_changes_anything_meanwhile(
    sqlite_world: World, settings: Settings, target: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a command wrote during the copy would be missing in it."""
    fill(sqlite_world, settings)
    tries = []

    async def meanwhile(view: Any, dialect: str) -> verify.Report:
        other = sqlite3.connect(sqlite_path(sqlite_world.url), timeout=0)
        with contextlib.closing(other), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("UPDATE balance SET promo = promo")
        tries.append(dialect)
        return await verify.verify_view(view, dialect)

    monkeypatch.setattr("tollbridge.store.transfer.verify_view", meanwhile)
    copy(settings, target.url)
    assert tries == ["sqlite", "postgresql"]


@pytest.mark.parametrize(
    ("spoiling", "says"),
    [
        ("UPDATE balance SET promo = promo + 1", "the books are wrong in 1 place, and are not copied so: account 1"),
        ("UPDATE alembic_version SET version_num = '0011'", "has schema 0011, not .*: run tollbridge migrate first"),
        ("UPDATE alembic_version SET version_num = '9999'", "has schema 9999, not .*: copy it by the version that did"),
        ("DROP TABLE alembic_version", "has no tables: run tollbridge migrate first"),
        ("DELETE FROM process", "its write-ahead log .* is missing"),
    ],
)
def test_what_is_not_whole_is_not_copied(
    sqlite_world: World, settings: Settings, target: World, tmp_path: Path, spoiling: str, says: str
) -> None:
    fill(sqlite_world, settings)
    FileLock(sqlite_path(sqlite_world.url)).path.write_bytes(b'{"epoch":1,"heartbeat_at":1}')
    whole = sqlite_path(sqlite_world.url).read_bytes()
    spoil(sqlite_path(sqlite_world.url), spoiling)
    before = files(sqlite_world)
    with pytest.raises(TollbridgeError, match=says):
        copy(settings, target.url)
    assert files(sqlite_world) == before
    sqlite_path(sqlite_world.url).write_bytes(whole)
    copy(settings, target.url)


def test_a_damaged_file_is_told_of(sqlite_world: World, settings: Settings, target: World) -> None:
    fill(sqlite_world, settings)
    path = sqlite_path(sqlite_world.url)
    whole = path.read_bytes()
    path.write_bytes(b"not a database at all" * 1000)
    assert f"the database {path}: the file is damaged" in refused(settings, target.url)
    path.write_bytes(whole)


def _sql(statement: str) -> Callable[[str], Coroutine[Any, Any, None]]:
    async def run(url: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    return run


async def _a_start(url: str) -> None:
    """As after a gateway that was started there by mistake."""
    await schema.migrate(url)
    await _sql("INSERT INTO meta (name, value) VALUES ('secret_fingerprint', 1)")(url)


async def _newer(url: str) -> None:
    await schema.migrate(url)
    await _sql("UPDATE alembic_version SET version_num = '9999'; UPDATE meta SET value = 1 WHERE value = 8")(url)


async def _half(url: str) -> None:
    await schema.migrate(url)
    await _sql("DROP TABLE alembic_version")(url)


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (_sql("CREATE TABLE colours (id BIGINT)"), "the target is not empty: it has the table colours, which is none"),
        (_a_start, "the target is not empty: a gateway has used it, or a copy was made before (rows in meta)"),
        (_newer, "the target has schema 9999, of a newer Tollbridge"),
        (_half, "its tables are half made"),
    ],
)
def test_the_target_is_empty(
    sqlite_world: World,
    settings: Settings,
    target: World,
    prepare: Callable[[str], Coroutine[Any, Any, None]],
    says: str,
) -> None:
    fill(sqlite_world, settings)
    before = files(sqlite_world)
    asyncio.run(prepare(target.url))
    assert says in refused(settings, target.url)
    assert {**files(sqlite_world), "tollbridge.db-lock": b""} == {**before, "tollbridge.db-lock": b""}


def test_a_target_that_has_its_tables_already_is_empty(sqlite_world: World, settings: Settings, target: World) -> None:
    fill(sqlite_world, settings)
    asyncio.run(schema.migrate(target.url))
    copy(settings, target.url)
    assert "a copy was made before" in refused(settings, target.url)


def test_a_role_that_may_not_make_tables_is_told_of(sqlite_world: World, settings: Settings, target: World) -> None:
    fill(sqlite_world, settings)
    asyncio.run(_sql("CREATE ROLE guest LOGIN")(target.url))
    says = "the target: the database could not be migrated: permission denied for schema public. Its role must own"
    assert says in refused(settings, target.url.replace("postgres@", "guest@"))
    asyncio.run(_sql("DROP ROLE guest")(target.url))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("/test_", "/nowhere_"), "there is no database of this name: createdb makes one"),
        (
            ("127.0.0.1:", "127.0.0.1:1"),
            "nothing answers there: is PostgreSQL running, and is the address in the target",
        ),
        (("127.0.0.1", "nowhere.invalid"), "its host is not known: is the name in the target right?"),
        (("postgres@", f"nobody:{PASSWORD}@"), "it does not accept the user"),
        (("postgresql://", "sqlite:///"), "the target must be a PostgreSQL database"),
    ],
)
def test_a_target_that_cannot_be_reached_is_told_of(
    sqlite_world: World, settings: Settings, target: World, change: tuple[str, str], says: str
) -> None:
    fill(sqlite_world, settings)
    url = target.url.replace(*change)
    if change[1].endswith(":1"):
        url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:1/x"
    assert says in refused(settings, url)


def test_there_must_be_something_to_copy(tmp_path: Path, target: World) -> None:
    chosen = read(Source(None, (("data_dir", str(tmp_path / "empty")),)), {})
    assert "there is no database" in refused(chosen, target.url)
    assert not (tmp_path / "empty").exists()
    chosen = read(Source(None), {"TOLLBRIDGE_DATABASE_URL": target.url})
    assert "database_url is already PostgreSQL" in refused(chosen, target.url)


# --- what breaks off ----------------------------------------------------------------------------------------------


def test_a_copy_that_is_not_right_is_not_kept(
    sqlite_world: World, settings: Settings, target: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(sqlite_world, settings)

    async def wrong(view: Any, dialect: str) -> verify.Report:
        report = await verify.verify_view(view, dialect)
        if dialect == "postgresql":
            report.holds += 1
        return report

    with monkeypatch.context() as patch:
        patch.setattr("tollbridge.store.transfer.verify_view", wrong)
        assert "the copy was not right, and is not kept" in refused(settings, target.url)
    assert is_empty(target)
    copy(settings, target.url)


def test_a_text_that_postgresql_cannot_hold_is_told_of(sqlite_world: World, settings: Settings, target: World) -> None:
    fill(sqlite_world, settings)
    spoil(sqlite_path(sqlite_world.url), "UPDATE api_key SET label = 'a' || char(0) || 'b'")
    assert "PostgreSQL does not take a row of api_key: " in refused(settings, target.url)
    assert is_empty(target)
    spoil(sqlite_path(sqlite_world.url), "UPDATE api_key SET label = 'ab'")
    copy(settings, target.url)


@contextlib.asynccontextmanager
async def _command(directory: Path, url: str) -> AsyncIterator["asyncio.subprocess.Process"]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tollbridge", "move", "env:TARGET", "--data-dir", str(directory)),
        env={**os.environ, "TARGET": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()


@pytest.mark.parametrize("cut", ["client", "server"])
def test_a_copy_that_was_cut_off_is_started_again(sqlite_world: World, settings: Settings, cut: str) -> None:
    fill(sqlite_world, settings)
    many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) "
    spoil(
        sqlite_path(sqlite_world.url),
        f"INSERT INTO throttle (name, count, since, last) {many} SELECT 'login/' || i, i, i, i FROM n",
    )

    async def cut_off(server: Postgres, url: str) -> str:
        async with _command(sqlite_world.directory, url) as process:
            watch = await asyncpg.connect(server.url())
            under_way = "SELECT COALESCE(MAX(tuples_processed), 0) FROM pg_stat_progress_copy"
            end = time.monotonic() + 60
            while await watch.fetchval(under_way) < 10_000:
                assert process.returncode is None, (await process.communicate())[1].decode()
                assert time.monotonic() < end
            if cut == "client":
                process.send_signal(signal.SIGKILL)
            else:
                server.kill()
            with contextlib.suppress(Exception):
                await watch.close(timeout=1)
            return (await process.communicate())[1].decode()

    with Postgres() as server:
        server.sql("CREATE DATABASE books")
        target = World(server.url("books"), settings.data_dir)
        said = asyncio.run(cut_off(server, target.url))
        if cut == "server":
            assert "the database 127.0.0.1" in said
            assert "Nothing was copied, unless it broke off at the very last moment: run this again" in said
            server.start()
        assert is_empty(target)
        assert FileLock(sqlite_path(sqlite_world.url)).mark is None
        done = copy(settings, target.url)
        assert done.rows["throttle"] == 300_000
        assert done.report == sqlite_world.run(verify.verify)
