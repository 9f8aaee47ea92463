"""The power fails: what the disk had is all that is left, and nobody was told of anything else.

A killed server loses nothing, because the operating system writes what it was given. So the log is cut by hand: a copy
of the server's files from before the load is given the log as far as it was flushed at some moment, zeros after that,
and recovers from it. No data page is newer than the copy, which is the most that recovery may have to do.

    the log      ────────────●──────────────●─────…        ● flushed at the end of a moment that was noted
    the answers   a  b  c  d   e  f           g            all that came before that moment began must be there
"""

import asyncio
import random
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest
import uvloop
from tests.servers import Postgres
from tests.store.books import Books, Customer, Engine, serving
from tests.store.ledger.crew import Crew, proved, query

from tollbridge.core.ledger import Ended
from tollbridge.store import schema

SEGMENT = 16 << 20
CONTROL = Path("global/pg_control")
CHARGE = 7
MEMBERS = 4
# No page is written and no segment recycled while the load runs; and nobody but who waits for it flushes the log.
SETTINGS = {"checkpoint_timeout": "1h", "max_wal_size": "10GB", "wal_writer_delay": "10s"}


class Moment(NamedTuple):
    """What was flushed for certain of all that was answered before `at` (time.monotonic())."""

    at: float
    flushed: int


class Told(NamedTuple):
    """When a caller was told that this hold was made, or that it had ended."""

    at: float
    hold: int
    ended: bool


@dataclass(frozen=True)
class Recording:
    base: Path
    log: Path
    database: str
    moments: list[Moment]
    told: list[Told]


async def load(books: Books, customers: list[Customer], seconds: float) -> list[Told]:
    """Half of all calls go to the first account, so that the processes build on each other's batches."""
    told: list[Told] = []
    over = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < over:
            customer = random.choice((customers[0], random.choice(customers)))
            hold = await books.held(customer, 100)
            told.append(Told(time.monotonic(), hold, ended=False))
            ended = await books.ledger.submit(books.end_op(hold, customer, CHARGE))
            if isinstance(ended, Ended):
                told.append(Told(time.monotonic(), hold, ended=True))

    await asyncio.gather(*(client() for _ in range(8)))
    return told


def watch(url: str, over: threading.Event) -> list[Moment]:
    async def run() -> list[Moment]:
        connection = await asyncpg.connect(url)
        moments: list[Moment] = []
        while not over.is_set():
            at = time.monotonic()
            flushed = await connection.fetchval("SELECT pg_current_wal_flush_lsn() - '0/0'::pg_lsn")
            moments.append(Moment(at, int(flushed)))
        await connection.close()
        return moments

    return asyncio.run(run())


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recording]:
    folder = tmp_path_factory.mktemp("power")
    with Postgres(**SETTINGS) as server:
        server.sql("CREATE DATABASE books")
        engine = Engine(server.url("books"), folder)
        asyncio.run(schema.migrate(engine.url))

        async def open_accounts() -> list[Customer]:
            async with serving(engine) as books:
                return [await books.customer(paid=1 << 50, limit=1 << 50) for _ in range(10)]

        customers = uvloop.run(open_accounts())
        server.halt()
        copy(server.data, folder / "base")
        server.start()
        # As the files of a server that runs: what was shut down in order would not read its log.
        copy(server.data / CONTROL, folder / "base" / CONTROL)
        over = threading.Event()
        moments: list[Moment] = []
        watcher = threading.Thread(target=lambda: moments.extend(watch(engine.url, over)))
        with Crew(engine, MEMBERS) as crew:
            watcher.start()
            told = sorted(one for each in crew.run(load, customers, 1.5) for one in each)
            over.set()
            watcher.join()
        server.kill()
        copy(server.data / "pg_wal", folder / "log")
        yield Recording(folder / "base", folder / "log", "books", moments, told)


def copy(source: Path, target: Path) -> None:
    """With owners and rights."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def recover(recording: Recording, cut: int, folder: Path, server: Postgres) -> Engine:
    """The server, started on what was left of the log before `cut`."""
    copy(recording.base, server.data)
    log = server.data / "pg_wal"
    for old in log.glob("0*"):
        old.unlink()
    for path in sorted(recording.log.glob("0*")):
        start = segment_start(path.name)
        if start >= cut:
            continue
        copy(path, log / path.name)
        if cut < start + SEGMENT:
            with (log / path.name).open("r+b") as file:
                file.truncate(cut - start)
                file.truncate(SEGMENT)
    server.start()
    return Engine(server.url(recording.database), folder)


def segment_start(name: str) -> int:
    """Where in the log a segment begins, by its name: timeline, high and low half, eight hexadecimal digits each."""
    return (int(name[8:16], 16) << 32) + int(name[16:24], 16) * SEGMENT


def assert_kept(recording: Recording, moment: Moment, engine: Engine) -> int:
    """The books are right, and all that was told before the moment stands in them; how much that was."""
    uvloop.run(proved(engine))
    held = {row[0] for row in uvloop.run(query(engine, "SELECT id FROM hold"))}
    ended = dict(uvloop.run(query(engine, "SELECT hold_id, charge FROM usage")))
    told = [one for one in recording.told if one.at < moment.at]
    lost = [one for one in told if (ended.get(one.hold) != CHARGE if one.ended else one.hold not in held)]
    assert not lost, f"{len(lost)} of {len(told)} are lost"
    return len(told)


def chosen(recording: Recording, count: int) -> list[Moment]:
    """Different ones in which something was running."""
    first, last = recording.told[0].at, recording.told[-1].at
    moments = {moment.flushed: moment for moment in reversed(recording.moments) if first < moment.at < last}
    return sorted(random.sample(sorted(moments.values()), min(count, len(moments))))


@pytest.mark.parametrize("cuts", [3, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])])
def test_power_loss_keeps_all_that_anybody_was_told(recording: Recording, tmp_path: Path, cuts: int) -> None:
    kept = 0
    for moment in chosen(recording, cuts):
        server = Postgres()
        try:
            kept += assert_kept(recording, moment, recover(recording, moment.flushed, tmp_path, server))
        finally:
            server.stop()
    assert kept > 0


@pytest.mark.parametrize("cuts", [1, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])])
def test_power_loss_in_the_middle_of_a_record_keeps_all_before_it(
    recording: Recording, tmp_path: Path, cuts: int
) -> None:
    """The disk had begun with what follows: any byte of the log may be its last."""
    for moment in chosen(recording, cuts):
        server = Postgres()
        try:
            cut = moment.flushed + random.randrange(1, 20_000)
            assert_kept(recording, moment, recover(recording, cut, tmp_path, server))
        finally:
            server.stop()
