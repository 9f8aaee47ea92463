"""What is left of a SQLite file when its server is killed or the power goes: all that was promised (G4, G5, G-1)."""

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.store.books import Books, Engine, assert_verified, serving

from tollbridge.core.ledger import Checkpoint, Held
from tollbridge.errors import ConfigError, Unavailable
from tollbridge.store.db import Database, connect_sqlite, open_database, sqlite_path
from tollbridge.store.processes import FileLock, Mark, begin
from tollbridge.store.seal import seal
from tollbridge.store.verify import verify
from tollbridge.values import Outcome

ROOT = Path(__file__).parents[3]
Event = tuple[str, ...]


def killed(engine: Engine, *, after: int = 0, at: tuple[str, int] | None = None) -> list[Event]:
    """What a server acknowledged before it was killed, when it had said so many lines or at a point of its own."""
    command = [sys.executable, "-m", "tests.store.hammer", engine.url, *(map(str, at) if at else ())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(after + 1)]
        if at is None:
            child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
        assert child.wait() == -signal.SIGKILL
    return [tuple(line.decode().split()) for line in lines if line.endswith(b"\n")]


async def assert_kept(database: Database, events: Iterable[Event]) -> None:
    """Everything that was acknowledged is stored, each hold ended once, and a swept one at no less than was noted."""
    holds = {str(row[0]) for row in await database.fetch("SELECT id FROM hold")}
    steps = {tuple(map(str, row)) for row in await database.fetch("SELECT hold_id, step FROM hold_step")}
    posts = {row[0] for row in await database.fetch("SELECT idempotency_key FROM journal")}
    usage = {str(row[0]): row[1:] for row in await database.fetch("SELECT hold_id, charge + loss, outcome FROM usage")}
    notes: dict[str, int] = {}
    for event in events:
        match event:
            case ("hold", hold):
                assert hold in holds
            case ("step", *step):
                assert tuple(step) in steps
            case ("post", key):
                assert key in posts
            case ("note", hold, amount):
                notes[hold] = int(amount)
            case ("end", hold, amount):
                assert usage[hold] == (int(amount), Outcome.COMPLETED)
                notes.pop(hold, None)
    assert set(usage) == holds
    for hold, noted in notes.items():
        charge, outcome = usage[hold]
        # An end that nobody was told of may have made it.
        assert charge >= noted or outcome == Outcome.COMPLETED


def recover(engine: Engine, events: Iterable[Event]) -> None:
    """The next start: it sweeps before it serves, and then everything is right."""

    async def main() -> None:
        async with serving(engine) as books:
            await assert_kept(books.database, events)
            report = await assert_verified(books.database)
            assert report.open_holds == 0
            customer = await books.customer(paid=100)
            await books.end(await books.held(customer, 10), customer, 10)

    asyncio.run(main())


@pytest.mark.parametrize("kills", [pytest.param(10, id="short"), pytest.param(100, id="long", marks=pytest.mark.soak)])
def test_kill_9_loses_nothing_that_was_acknowledged(sqlite_engine: Engine, kills: int) -> None:
    """The same file again and again, so that recovery of a recovered file is tried too."""
    chance = random.Random(kills)
    events: list[Event] = []
    for _ in range(kills):
        events += killed(sqlite_engine, after=chance.randrange(300))
        recover(sqlite_engine, events)


@pytest.mark.parametrize("kills", [pytest.param(2, id="short"), pytest.param(20, id="long", marks=pytest.mark.soak)])
@pytest.mark.parametrize("point", ["load", "write", "commit", "told"])
def test_kill_9_at_a_named_point(sqlite_engine: Engine, point: str, kills: int) -> None:
    events: list[Event] = []
    chance = random.Random(kills)
    for _ in range(kills):
        before = len(events)
        events += killed(sqlite_engine, at=(point, chance.randrange(15, 200)))
        assert len(events) > before + 1
        recover(sqlite_engine, events)


# --- power loss ----------------------------------------------------------------------------------------------------


class Recording:
    """A server's file and log, and how long the log was whenever the disk had it, with all that was acknowledged."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.synced: list[tuple[int, tuple[Event, ...]]] = []
        self.events: list[Event] = []

    @property
    def file(self) -> Path:
        return self.directory / "tollbridge.db"

    @property
    def log(self) -> Path:
        return self.directory / "tollbridge.db-wal"


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> Recording:
    """Made once: some forty commits, all of them still in the log."""
    live = tmp_path_factory.mktemp("live")
    shutil.copy(migrated_file, live / "tollbridge.db")
    recorded = Recording(tmp_path_factory.mktemp("recorded"))
    # Where the file begins: what came before is in it and not in the log.
    engine = Engine(f"sqlite:///{live / 'tollbridge.db'}", live)

    async def main() -> None:
        books = Books(engine)
        await books.start()
        customer = await books.customer(paid=10**6, promo=1000, limit=10**5)
        shutil.copy(live / "tollbridge.db", recorded.file)
        chance = random.Random(7)

        def synced(*event: object) -> None:
            recorded.events.append(tuple(map(str, event)))
            recorded.synced.append(((live / "tollbridge.db-wal").stat().st_size, tuple(recorded.events)))

        for number in range(12):
            hold = await books.held(customer, 500)
            synced("hold", hold)
            if number % 3 == 0:
                assert isinstance(await books.ledger.submit(books.extend_op(hold, customer, 1, 100)), Held)
                synced("step", hold, 1)
                ids = {"hold": hold, "account_id": customer.account_id, "key_id": customer.key_id}
                note = Checkpoint(**ids, charge=77, record=books.record(77))
                await books.ledger.submit(note)
                synced("note", hold, 77)
            if number % 4:
                charge = chance.randrange(600)
                await books.end(hold, customer, charge)
                synced("end", hold, charge)
        await books.process.beat()
        synced("beat")
        shutil.copy(live / "tollbridge.db-wal", recorded.log)
        await books.stop()

    asyncio.run(main())
    return recorded


def acknowledged(recording: Recording, length: int) -> tuple[Event, ...]:
    """What the disk had promised when the log was so long."""
    return max(((size, events) for size, events in recording.synced if size <= length), default=(0, ()))[1]


def restart(tmp_path: Path, recording: Recording, log: bytes) -> Engine:
    directory = tmp_path / "after"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    shutil.copy(recording.file, directory)
    (directory / "tollbridge.db-wal").write_bytes(log)
    return Engine(f"sqlite:///{directory / 'tollbridge.db'}", directory)


def frames(log: bytes) -> list[int]:
    """Where each frame of a write-ahead log ends (https://www.sqlite.org/fileformat2.html#walformat)."""
    (page_size,) = struct.unpack(">I", log[8:12])
    return list(range(32 + 24 + page_size, len(log) + 1, 24 + page_size))


def test_power_loss_at_any_frame_keeps_what_the_disk_had(recording: Recording, tmp_path: Path) -> None:
    log = recording.log.read_bytes()
    ends = frames(log)
    assert len(ends) > 60
    for end in ends:
        recover(restart(tmp_path, recording, log[:end]), acknowledged(recording, end))


def test_power_loss_in_the_middle_of_a_write_keeps_what_the_disk_had(recording: Recording, tmp_path: Path) -> None:
    """Behind the last sync anything may have reached the disk: parts of pages, in any order, or nothing but zeros."""
    log = recording.log.read_bytes()
    chance = random.Random(11)
    for number in range(40):
        cut = chance.randrange(1, len(log))
        tail = bytearray(log[cut:])
        if number % 4 == 1:
            tail = bytearray(len(tail))
        elif number % 4 == 2:
            tail = bytearray(chance.randbytes(len(tail)))
        elif number % 4 == 3:
            # The sectors behind the sync that made it are any of them.
            for start in range(0, len(tail), 512):
                if chance.random() < 0.5:
                    tail[start : start + 512] = bytes(len(tail[start : start + 512]))
        else:
            tail = bytearray()
        recover(restart(tmp_path, recording, log[:cut] + bytes(tail)), acknowledged(recording, cut))


def test_a_database_that_has_lost_its_log_is_not_served_from(recording: Recording, tmp_path: Path) -> None:
    """H8: without the log, or with a torn one, it would be an older database that looks fine."""
    log = recording.log.read_bytes()
    for remains in (None, log[: len(log) // 2], log[:100] + b"\xff" + log[101:]):
        engine = restart(tmp_path, recording, remains or b"")
        path = sqlite_path(engine.url)
        if remains is None:
            path.with_name(f"{path.name}-wal").unlink()
        lock = FileLock(path)
        lock.acquire()
        heartbeat_at = asyncio.run(newest_heartbeat(recording))
        lock.write_mark(Mark(1, heartbeat_at))
        lock.release()
        with pytest.raises(ConfigError, match="write-ahead log"):
            asyncio.run(Books(engine).start())
    # Whole, it is.
    lock_file = path.with_name(f"{path.name}-lock").read_bytes()
    engine = restart(tmp_path, recording, log)
    path.with_name(f"{path.name}-lock").write_bytes(lock_file)
    recover(engine, recording.events)


async def newest_heartbeat(recording: Recording) -> int:
    copy = recording.directory / "copy"
    copy.mkdir(exist_ok=True)
    for path in (recording.file, recording.log):
        shutil.copy(path, copy)
    database = open_database(f"sqlite:///{copy / 'tollbridge.db'}")
    await database.start()
    rows = await database.fetch("SELECT MAX(heartbeat_at) FROM process")
    await database.close()
    return int(rows[0][0])


# --- damage --------------------------------------------------------------------------------------------------------

MONEY = ("hold", "hold_step", "checkpoint", "usage", "journal", "entry", "balance", "key_spend")


def rows_of(path: Path) -> list[Any]:
    connection = connect_sqlite(path)
    try:
        rows = [connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in MONEY]
        # When a price was first written moves no money, and nobody reads it.
        return [*rows, connection.execute("SELECT id, digest, terms FROM price_version ORDER BY 1").fetchall()]
    finally:
        connection.close()


@pytest.mark.parametrize(
    "flips", [pytest.param(100, id="short"), pytest.param(2000, id="long", marks=pytest.mark.soak)]
)
def test_a_flipped_bit_is_found_or_changes_no_money(sqlite_engine: Engine, flips: int) -> None:
    """H8: the start refuses, or `verify` complains, or every row of money is what it was."""
    path = sqlite_path(sqlite_engine.url)

    async def fill() -> None:
        async with serving(sqlite_engine) as books:
            customers = [await books.customer(paid=10**6, promo=1000, limit=limit) for limit in (10**6, None)]

            async def call(number: int) -> None:
                customer = customers[number % 2]
                hold = await books.held(customer, 500)
                if number % 3 == 0:
                    await books.ledger.submit(books.extend_op(hold, customer, 1, 100))
                await books.end(hold, customer, number)

            await asyncio.gather(*map(call, range(500)))
            await seal(books.database, settled_ms=-1)

    asyncio.run(fill())
    assert not path.with_name(f"{path.name}-wal").exists()
    whole, truth = path.read_bytes(), rows_of(path)
    # Most of the file is zeros, pages of empty tables above all: a bit of a byte that says something is found sooner.
    written = [place for place, byte in enumerate(whole) if byte]
    chance = random.Random(flips)
    found = 0
    for number in range(flips):
        for beside in path.parent.glob("*.db-*"):
            beside.unlink()
        place = chance.choice(written) * 8 + chance.randrange(8) if number % 4 else chance.randrange(len(whole) * 8)
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            asyncio.run(refuse_or_verify(sqlite_engine))
            assert rows_of(path) == truth, f"bit {place} changed a row and nobody noticed"
        except (ConfigError, Unavailable, Damaged, sqlite3.OperationalError, UnicodeDecodeError):
            # The last two: a column lost its name, and the first statement to say it fails.
            found += 1
    assert found > flips // 2


class Damaged(Exception):
    pass


async def refuse_or_verify(engine: Engine) -> None:
    database = engine.database()
    try:
        await database.start()
        lock = FileLock(sqlite_path(engine.url))
        lock.acquire()
        try:
            await begin(database, lock)
        finally:
            lock.release()
        report = await verify(database)
        if not report.ok:
            raise Damaged(report.problems[0])
    finally:
        await database.close()


def test_a_second_server_on_the_same_file_does_not_start(sqlite_engine: Engine) -> None:
    async def main() -> None:
        async with serving(sqlite_engine):
            with pytest.raises(ConfigError, match="another Tollbridge serves"):
                await Books(sqlite_engine).start()
        async with serving(sqlite_engine):
            pass

    asyncio.run(main())


def test_the_lock_of_a_killed_server_is_free(sqlite_engine: Engine) -> None:
    killed(sqlite_engine)
    lock = FileLock(sqlite_path(sqlite_engine.url))
    lock.acquire()
    assert lock.mark is None or lock.mark.epoch == 1
    lock.release()
    assert os.path.exists(lock.path)
