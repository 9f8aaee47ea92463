"""G5, G-2, G-9: whose holds are ended by others, when, and by whom not."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import time

import pytest
from tests.store.books import Books, Customer, Engine, assert_verified, serving

from tollbridge.errors import ConfigError
from tollbridge.store import processes
from tollbridge.store.db import sqlite_path
from tollbridge.store.processes import TTL_MS, Fenced, FileLock, Process, begin
from tollbridge.values import Outcome


async def another(books: Books, *, host: str = "elsewhere 1 2", pid: int = 1, holds: int = 3) -> tuple[int, Customer]:
    """A process somewhere else with holds that run; it says nothing any more. Its epoch, and whose money it holds."""
    process = await begin(books.database)
    await books.database.execute("UPDATE process SET host = $2, pid = $3 WHERE epoch = $1", process.epoch, host, pid)
    customer = await books.customer(paid=1000)
    ledger = books.engine.ledger(process.epoch)
    await ledger.start()
    here, books.ledger = books.ledger, ledger
    for _ in range(holds):
        await books.held(customer, 100)
    books.ledger = here
    await ledger.stop()
    return process.epoch, customer


async def silent_for(books: Books, epoch: int, ms: int) -> None:
    """As if so much time had passed since the other was heard of; its holds are as old."""
    await books.database.execute("UPDATE process SET heartbeat_at = heartbeat_at - $2 WHERE epoch = $1", epoch, ms)
    await books.database.execute("UPDATE hold SET expires_at = expires_at - $2 WHERE id >> 40 = $1", epoch, ms)


def heard_all_the_time(process: Process) -> None:
    process._heard_since -= TTL_MS


def test_nobody_serves_from_a_file_that_is_damaged(sqlite_engine: Engine) -> None:
    connection = sqlite3.connect(sqlite_path(sqlite_engine.url))
    connection.execute("PRAGMA ignore_check_constraints = ON")
    with connection:
        connection.execute(
            "INSERT INTO hold (id, account_id, key_id, amount, limited, expires_at) VALUES (1, 1, 1, -1, 0, 0)"
        )
    connection.close()

    async def main() -> None:
        said = r"the database file is damaged: CHECK constraint failed in hold\. Restore a backup"
        with pytest.raises(ConfigError, match=said):
            async with serving(sqlite_engine):
                pass

    asyncio.run(main())


def peer(books: Books) -> Process:
    """This process as one of several on PostgreSQL: without the lock of a file, which makes all others dead."""
    return Process(books.database, books.process.epoch, None)


def test_the_living_elsewhere_are_left_alone(ledger_engine: Engine) -> None:
    async def main() -> None:
        async with serving(ledger_engine) as books:
            process = peer(books)
            _, customer = await another(books)
            assert await process.recover(books.ledger) == 0
            heard_all_the_time(process)
            assert await process.sweep(books.ledger) == 0
            assert await books.balance(customer) == (1000, 0, 300)

    asyncio.run(main())


def test_who_has_not_been_heard_of_for_the_life_of_a_hold_is_dead(ledger_engine: Engine) -> None:
    async def main() -> None:
        async with serving(ledger_engine) as books:
            process = peer(books)
            epoch, customer = await another(books)
            await silent_for(books, epoch, TTL_MS + 1_000)
            heard_all_the_time(process)
            assert await process.sweep(books.ledger) == 3
            assert await books.balance(customer) == (1000, 0, 0)
            rows = await books.database.fetch("SELECT DISTINCT outcome, charge FROM usage")
            assert rows == [(Outcome.SWEPT, 0)]
            # It lives after all: it is told so, and given no more.
            with pytest.raises(Fenced):
                await Process(books.database, epoch, None).beat()
            assert await process.sweep(books.ledger) == 0
            await assert_verified(books.database)

    asyncio.run(main())


def test_after_an_outage_of_the_database_nobody_is_taken_for_dead(ledger_engine: Engine) -> None:
    """Everybody is silent then. Whoever comes back first waits until the others have had their time."""

    async def main() -> None:
        async with serving(ledger_engine) as books:
            process = peer(books)
            epoch, customer = await another(books)
            await silent_for(books, epoch, TTL_MS + 1_000)
            assert await process.sweep(books.ledger) == 0
            await process.beat()
            heard_all_the_time(process)
            # A beat is missing: the time starts again.
            process._last = (time.monotonic() - 60, process._last[1] - 60_000) if process._last else None
            await process.beat()
            assert await process.sweep(books.ledger) == 0
            assert await books.balance(customer) == (1000, 0, 300)

    asyncio.run(main())


def test_after_a_jump_of_the_clock_nobody_is_taken_for_dead(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor before the next beat, when all holds look expired and everybody else silent."""

    async def main() -> None:
        async with serving(ledger_engine) as books:
            process = peer(books)
            epoch, customer = await another(books)
            await process.beat()
            mine = await books.held(customer, 50)
            heard_all_the_time(process)
            now = await books.database.now()

            async def later() -> int:
                return now + 3_600_000

            monkeypatch.setattr(books.database, "now", later)
            assert await process.sweep(books.ledger) == 0
            await process.beat()
            assert await process.sweep(books.ledger) == 0
            rows = await books.database.fetch("SELECT fenced_at FROM process WHERE epoch = $1", epoch)
            assert rows == [(None,)]
            assert (await books.end(mine, customer, 20)).charged == 20

    asyncio.run(main())


def test_a_file_is_served_from_again_though_the_power_failed_after_the_clock_was_set_back(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written to the lock's file last is lost then, and the heartbeat before it may be the later one."""

    async def main() -> None:
        path = FileLock(sqlite_path(sqlite_engine.url)).path
        async with serving(sqlite_engine) as books:
            await books.process.beat()
            mark, now = path.read_bytes(), await books.database.now()

            async def earlier() -> int:
                return now - 3_600_000

            monkeypatch.setattr(books.database, "now", earlier)
            await books.process.beat()
        path.write_bytes(mark)
        async with serving(sqlite_engine):
            pass

    asyncio.run(main())


def test_a_hold_that_has_expired_is_ended_though_its_process_lives(ledger_engine: Engine) -> None:
    async def main() -> None:
        async with serving(ledger_engine) as books:
            process = peer(books)
            epoch, customer = await another(books)
            mine = await books.held(customer, 50)
            kept = await books.held(customer, 50)
            await books.database.execute("UPDATE hold SET expires_at = 0 WHERE id <> $1", kept)
            heard_all_the_time(process)
            assert await process.sweep(books.ledger) == 4
            assert await books.balance(customer) == (1000, 0, 50)
            rows = await books.database.fetch("SELECT fenced_at FROM process WHERE epoch = $1", epoch)
            assert rows == [(None,)]
            assert (await books.end(mine, customer, 20)).charged == 20
            await books.end(kept, customer, 50)
            await assert_verified(books.database)

    asyncio.run(main())


def test_who_died_on_this_machine_or_stopped_is_dead_at_once(ledger_engine: Engine) -> None:
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)

    async def main() -> None:
        async with serving(ledger_engine) as books:
            process = peer(books)
            gone = int(child.stdout)
            here = processes._identity()
            await another(books, host=here, pid=gone, holds=1)
            _, living = await another(books, host=here, pid=os.getpid(), holds=1)
            # The same numbers in another name space of processes are somebody else's.
            _, elsewhere = await another(books, host=f"{here}x", pid=gone, holds=1)
            stopped, _ = await another(books, holds=1)
            await Process(books.database, stopped, None).finish()
            assert await process.recover(books.ledger) == 2
            for customer in (living, elsewhere):
                assert (await books.balance(customer))[2] == 100

    asyncio.run(main())


@pytest.mark.parametrize("trials", [pytest.param(5, id="short"), pytest.param(50, id="long", marks=pytest.mark.soak)])
def test_two_that_sweep_at_once_have_one_effect(ledger_engine: Engine, trials: int) -> None:
    """G-9. (On SQLite two ledgers on one file stand in for what cannot be.)"""

    async def main() -> None:
        async with serving(ledger_engine) as books:
            other = await begin(books.database)
            ledger = ledger_engine.ledger(other.epoch)
            await ledger.start()
            sweepers = [(peer(books), books.ledger), (other, ledger)]
            for _ in range(trials):
                epoch, customer = await another(books, holds=10)
                await silent_for(books, epoch, TTL_MS + 1_000)
                for process, _ in sweepers:
                    heard_all_the_time(process)
                await asyncio.gather(*(process.sweep(through) for process, through in sweepers))
                assert await books.balance(customer) == (1000, 0, 0)
            assert await books.count("usage") == await books.count("hold")
            await assert_verified(books.database)
            await ledger.stop()

    asyncio.run(main())


def test_a_sweep_begins_behind_what_is_sealed(sqlite_engine: Engine) -> None:
    """So that a start looks through the last hour, not through everything."""

    async def main() -> None:
        async with serving(sqlite_engine) as books:
            from tollbridge.store.seal import seal

            customer = await books.customer(paid=1000)
            for _ in range(3):
                await books.end(await books.held(customer, 10), customer, 1)
            await seal(books.database, settled_ms=-1)
            last = await books.held(customer, 10)
            assert await processes._sealed_until(books.database, books.process.epoch) == last - 1
            assert await processes.sweep(books.database, books.ledger, books.process.epoch, 1 << 62) == 1

    asyncio.run(main())


def test_a_sweep_looks_again_where_something_may_still_come(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An id that was given out before a sweep is used after it; it is found by the next, in whichever window it is."""
    monkeypatch.setattr(processes, "_WINDOW", 2)
    monkeypatch.setattr(processes, "_PAGE", 2)

    async def main() -> None:
        async with serving(ledger_engine) as books:
            process = peer(books)
            heard_all_the_time(process)
            customer = await books.customer(paid=1000)
            late = books.hold_op(customer, 1)
            for _ in range(7):
                await books.end(await books.held(customer, 1), customer, 1)
            kept = await books.held(customer, 1)
            for _ in range(5):
                await books.held(customer, 1)
            await books.database.execute("UPDATE hold SET expires_at = 0 WHERE id > $1", kept)
            assert await process.sweep(books.ledger) == 5
            await books.ledger.submit(late)
            await books.database.execute("UPDATE hold SET expires_at = 0 WHERE id = $1", late.id)
            assert await process.sweep(books.ledger) == 1
            assert process._closed[process.epoch] == (kept - 1, kept - 1)
            assert await process.sweep(books.ledger) == 0
            await books.end(kept, customer, 1)
            await assert_verified(books.database)

    asyncio.run(main())


def test_who_serves_from_a_database_is_counted_by_heartbeats(ledger_engine: Engine) -> None:
    async def scenario() -> None:
        async with serving(ledger_engine) as books:
            here = (await begin(books.database)).epoch
            gone, _ = await another(books)
            before = await processes.serving(books.database, beside=here)
            await silent_for(books, gone, 16_000)
            assert before - await processes.serving(books.database, beside=here) == (books.database.dialect != "sqlite")

    asyncio.run(scenario())


def test_a_process_says_once_that_its_clock_differs_from_the_databases(
    postgres_engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = time.time
    ahead = 0.0
    monkeypatch.setattr(time, "time", lambda: right() + ahead)

    async def main() -> None:
        nonlocal ahead
        async with serving(postgres_engine) as books:
            for seconds in (0.0, 90.0, 90.0, 0.0, -7200.0):
                ahead = seconds
                await books.process.beat()

    asyncio.run(main())
    said = [record.getMessage() for record in caplog.records if "clock" in record.getMessage()]
    assert [line.partition(":")[0] for line in said] == [
        "this machine's clock is 90 s ahead of the database's",
        "this machine's clock is 7,200 s behind the database's",
    ]
