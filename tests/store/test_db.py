"""Both databases behind the same few statements."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Postgres
from tests.store.books import Engine

from tollbridge.core.ledger import Held, Hold
from tollbridge.errors import ConfigError, Unavailable
from tollbridge.store import db
from tollbridge.store.db import Contended, Database, Duplicate, Transaction, open_database, run
from tollbridge.store.ledger.sqlite import SqliteLedger

SET = "UPDATE meta SET value = $2 WHERE name = $1"
ADD = "INSERT INTO meta (name, value) VALUES ($1, $2)"
GET = "SELECT value FROM meta WHERE name = $1"


def with_database(engine: Engine, scenario: Callable[[Database], Awaitable[Any]]) -> None:
    async def main() -> None:
        database = engine.database()
        await database.start()
        try:
            await scenario(database)
        finally:
            await database.close()

    asyncio.run(main())


def test_whoever_comes_first_to_a_new_file_hinders_nobody(tmp_path: Path) -> None:
    """Eight at once turn it to WAL. Without asking again one of 100 files had somebody refused at once."""

    def connect(path: Path) -> None:
        db.connect_sqlite(path).close()

    with ThreadPoolExecutor(8) as threads:
        for number in range(100):
            list(threads.map(connect, [tmp_path / f"{number}.db"] * 8))


def test_statements_take_numbered_arguments(ledger_engine: Engine) -> None:
    async def scenario(database: Database) -> None:
        assert await database.execute(ADD, "a", 1) == 1
        assert await database.fetch("INSERT INTO meta (name, value) VALUES ($1, $2) RETURNING value", "b", 2) == [(2,)]
        assert await database.fetch(
            "SELECT name, value FROM meta WHERE name = $1 OR value = $2 OR name = $1 ORDER BY name", "a", 2
        ) == [("a", 1), ("b", 2)]
        assert await database.execute("UPDATE meta SET value = value + $1 WHERE name IN ('a', 'b')", 5) == 2
        assert await database.execute("DELETE FROM meta WHERE value > $1", 100) == 0
        assert await database.fetch(GET, "none") == []

    with_database(ledger_engine, scenario)


def test_now_is_in_milliseconds(ledger_engine: Engine) -> None:
    async def scenario(database: Database) -> None:
        assert abs(await database.now() - time.time() * 1000) < 5_000

    with_database(ledger_engine, scenario)


def test_a_unique_value_that_is_there_is_a_duplicate(ledger_engine: Engine) -> None:
    async def scenario(database: Database) -> None:
        await database.execute(ADD, "a", 1)
        with pytest.raises(Duplicate):
            await database.execute(ADD, "a", 2)

        async def both(transaction: Transaction) -> None:
            await transaction.execute(ADD, "b", 2)
            await transaction.execute(ADD, "a", 2)

        with pytest.raises(Duplicate):
            await run(database, both)
        assert await database.fetch(GET, "b") == []

    with_database(ledger_engine, scenario)


def test_a_mistake_in_a_statement_is_raised_as_it_is(ledger_engine: Engine) -> None:
    async def scenario(database: Database) -> None:
        for statement in ("SELEC 1", "SELECT nothing FROM meta", "INSERT INTO balance VALUES (1, 0, -1, 0, NULL)"):
            with pytest.raises(Exception, match=r"syntax|nothing|failed|violates|NOT NULL") as raised:
                await database.fetch(statement)
            assert not isinstance(raised.value, Unavailable | Duplicate)

    with_database(ledger_engine, scenario)


def test_a_transaction_is_all_or_nothing(ledger_engine: Engine) -> None:
    async def scenario(database: Database) -> None:
        await database.execute(ADD, "a", 1)

        async def failing(transaction: Transaction) -> None:
            await transaction.execute(SET, "a", 2)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await run(database, failing)
        assert await database.fetch(GET, "a") == [(1,)]
        async with database.transaction() as transaction:
            await transaction.execute(SET, "a", 3)
            assert await transaction.fetch(GET, "a") == [(3,)]
        assert await database.fetch(GET, "a") == [(3,)]

    with_database(ledger_engine, scenario)


def test_whoever_is_cancelled_leaves_no_transaction_behind(ledger_engine: Engine) -> None:
    """At any point of it."""

    async def scenario(database: Database) -> None:
        await database.execute(ADD, "a", 0)

        async def work() -> None:
            async with database.transaction() as transaction:
                for _ in range(5):
                    await transaction.execute("UPDATE meta SET value = value + 1 WHERE name = $1", "a")

        for number in range(30):
            task = asyncio.ensure_future(work())
            await asyncio.sleep(number * 0.0003)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            ((value,),) = await database.fetch(GET, "a")
            assert value % 5 == 0
        await work()

    with_database(ledger_engine, scenario)


def test_those_in_each_others_way_try_again(ledger_engine: Engine) -> None:
    async def scenario(database: Database) -> None:
        await database.execute(ADD, "a", 0)
        tries = 0

        async def unlucky(transaction: Transaction) -> str:
            nonlocal tries
            tries += 1
            await transaction.execute("UPDATE meta SET value = value + 1 WHERE name = $1", "a")
            if tries < db.TRIES:
                raise Contended("as if another had been first")
            return "done"

        assert await run(database, unlucky) == "done"
        assert await database.fetch(GET, "a") == [(1,)]

        async def hopeless(transaction: Transaction) -> None:
            nonlocal tries
            tries += 1
            raise Contended("again")

        tries = 0
        with pytest.raises(Unavailable) as refused:
            await run(database, hopeless)
        assert (tries, refused.value.code) == (db.TRIES, "ledger_unavailable")

    with_database(ledger_engine, scenario)


def test_writers_at_once_lose_nothing(ledger_engine: Engine) -> None:
    """H5: from several connections, each one read and then write."""

    async def main() -> None:
        databases = [ledger_engine.database() for _ in range(4)]
        for database in databases:
            await database.start()
        await databases[0].execute(ADD, "a", 0)
        lock = " FOR UPDATE" if ledger_engine.dialect == "postgresql" else ""

        async def work(transaction: Transaction) -> None:
            ((value,),) = await transaction.fetch(GET + lock, "a")
            await transaction.execute(SET, "a", value + 1)

        await asyncio.gather(*(run(database, work) for database in databases * 25))
        assert await databases[0].fetch(GET, "a") == [(100,)]
        for database in databases:
            await database.close()

    asyncio.run(main())


def test_turns_are_had_in_the_order_in_which_they_were_asked_for() -> None:
    turn, had = db.Turn(), list[int]()
    assert turn.take(0)
    assert not turn.take(0.01)

    def wait(number: int) -> None:
        assert turn.take(60)
        had.append(number)
        turn.give()

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(5)]
    for waiting, thread in enumerate(threads, 1):
        thread.start()
        while len(turn._queue) < waiting:
            time.sleep(0.001)
    assert not turn.take(0.01)
    turn.give()
    assert turn.take(60)  # behind all who wait
    assert had == [0, 1, 2, 3, 4]
    for thread in threads:
        thread.join()


def test_one_at_a_time_has_its_turn_and_none_is_lost() -> None:
    turn, at_it = db.Turn(), list[int]()
    given_up = [0] * 6

    def work(number: int) -> None:
        for _ in range(2_000):
            if turn.take(0.000_2):
                at_it.append(number)
                assert at_it == [number]
                at_it.clear()
                turn.give()
            else:
                given_up[number] += 1

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(work, range(6)))
    assert sum(given_up) < 12_000
    assert turn.take(0)


@pytest.mark.parametrize("change", ["execute", "fetch", "transaction"])
def test_a_change_of_a_file_waits_for_its_turn_and_gives_it_back(sqlite_engine: Engine, change: str) -> None:
    async def scenario(database: Database) -> None:
        assert isinstance(database, db.SqliteDatabase)

        async def work() -> None:
            if change == "execute":
                await database.execute(ADD, "a", 1)
            elif change == "fetch":
                await database.fetch(f"{ADD} RETURNING value", "a", 1)
            else:
                async with database.transaction() as transaction:
                    await transaction.execute(ADD, "a", 1)

        assert database.turn.take(0)
        task = asyncio.create_task(work())
        await asyncio.sleep(0.1)
        assert not task.done()
        assert await database.fetch(GET, "a") == []
        database.turn.give()
        await task
        assert database.turn.take(1)
        database.turn.give()
        with pytest.raises(Duplicate):
            await work()
        assert database.turn.take(1)

    with_database(sqlite_engine, scenario)


def test_the_ledger_waits_for_its_turn_and_goes_on_without_when_it_takes_long(sqlite_engine: Engine) -> None:
    async def scenario(database: Database) -> None:
        assert isinstance(database, db.SqliteDatabase)
        ledger = SqliteLedger(database.path, 1, database.turn)
        await ledger.start()
        try:
            assert database.turn.take(0)
            verdict = ledger.submit(Hold(id=ledger.next_id(), account_id=1, key_id=1, want=1, least=1))
            await asyncio.sleep(0.05)
            assert not verdict.done()
            assert not isinstance(await asyncio.wait_for(verdict, 30), Held)
        finally:
            await ledger.stop()

    with_database(sqlite_engine, scenario)


def test_a_snapshot_stays_as_it_is_and_nobody_waits_for_it(ledger_engine: Engine) -> None:
    async def scenario(database: Database) -> None:
        await database.execute(ADD, "a", 1)
        async with database.snapshot() as view:
            await view.fetch(GET, "a")
            await database.execute(SET, "a", 2)
            assert await view.fetch(GET, "a") == [(1,)]
            assert await database.fetch(GET, "a") == [(2,)]

    with_database(ledger_engine, scenario)


def test_a_closed_database_is_unavailable(ledger_engine: Engine) -> None:
    async def main() -> None:
        database = ledger_engine.database()
        for _ in range(2):
            with pytest.raises(Unavailable) as refused:
                await database.fetch("SELECT 1")
            assert refused.value.code == "ledger_unavailable"
            await database.start()
            await database.close()
        await database.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "url", ["", "mysql://x", "sqlite:tollbridge.db", "sqlite:///", "sqlite:///:memory:", "sqlite:///a.db?mode=ro"]
)
def test_a_url_that_is_none_says_what_would_be_right(url: str) -> None:
    with pytest.raises(ConfigError, match="sqlite:///"):
        open_database(url)


def test_a_file_that_cannot_be_opened_is_unavailable(tmp_path: Any) -> None:
    async def main() -> None:
        database = open_database(f"sqlite:///{tmp_path / 'missing' / 'file.db'}")
        with pytest.raises(Unavailable) as refused:
            await database.start()
        assert refused.value.code == "ledger_unavailable"

    asyncio.run(main())


def test_a_row_that_cannot_be_read_is_a_damaged_file(sqlite_engine: Engine) -> None:
    async def scenario(database: Database) -> None:
        await database.execute("INSERT INTO meta (name, value) VALUES (CAST(x'ff' AS TEXT), 1)")
        with pytest.raises(Unavailable, match="damaged"):
            await database.fetch("SELECT name FROM meta")

    with_database(sqlite_engine, scenario)


def test_a_server_that_hangs_or_is_gone_is_unavailable_in_time_and_found_again() -> None:
    """H1, H3, G11: within 2.5 s and what a busy machine adds, and no connection of the pool is lost to it."""

    async def main(server: Postgres, url: str) -> None:
        database = open_database(url)
        await database.start()

        async def refused(work: Awaitable[Any]) -> None:
            started = time.monotonic()
            with pytest.raises(Unavailable) as error:
                await work
            assert error.value.code == "ledger_unavailable"
            assert time.monotonic() - started < 6

        async def inside() -> None:
            async with database.transaction() as transaction:
                await transaction.fetch("SELECT 1")
                server.suspend()
                await transaction.fetch("SELECT 1")

        await refused(database.fetch("SELECT pg_sleep(10)"))
        server.suspend()
        await asyncio.gather(*(refused(database.fetch("SELECT 1")) for _ in range(12)))
        server.resume()
        assert await database.fetch("SELECT 1") == [(1,)]
        await refused(inside())
        server.resume()
        server.kill()
        await refused(database.fetch("SELECT 1"))
        other = open_database(url)
        await refused(other.start())
        server.start()
        assert await database.fetch("SELECT 1") == [(1,)]
        await database.close()

    with Postgres() as server, server.database() as url:
        asyncio.run(main(server, url))


def test_no_call_waits_while_a_long_log_is_copied_into_the_file(sqlite_engine: Engine) -> None:
    """The log grows while somebody reads one moment of the books for minutes, and copying it can take seconds."""

    async def scenario(database: Database) -> None:
        assert isinstance(database, db.SqliteDatabase)
        file, log = database.path, database.path.with_name(f"{database.path.name}-wal")
        given: list[int] = []

        class Watched(db.Turn):
            def give(self) -> None:
                given.append(file.stat().st_mtime_ns)
                super().give()

        assert database._writer is not None
        database._writer._turn = Watched()
        rows = "WITH RECURSIVE n(i) AS (SELECT $1 UNION ALL SELECT i + 1 FROM n LIMIT 1000) SELECT 'n' || i, i FROM n"
        before = file.stat().st_mtime_ns
        async with database.snapshot():
            for number in range(20):
                await database.execute(f"INSERT INTO meta (name, value) {rows}", 1_000 * number)
        assert log.stat().st_size > 1_000_000
        given.clear()

        async def use_case(transaction: Transaction) -> None:
            await transaction.execute(f"INSERT INTO meta (name, value) {rows}", 1_000_000)

        for change in (run(database, use_case), database.execute(f"INSERT INTO meta (name, value) {rows}", 2_000_000)):
            last = file.stat().st_mtime_ns
            await change
            assert given.pop() == last
            assert file.stat().st_mtime_ns > last
        assert file.stat().st_mtime_ns > before

    with_database(sqlite_engine, scenario)
