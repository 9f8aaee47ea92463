"""The engine of SQLite where things go wrong: busy, full, failing disks; jumping clocks; mistakes of our own."""

import asyncio
import contextlib
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.store.books import Books, Customer, Engine, assert_verified, serving, with_books

from tollbridge.core.ledger import Ended, Held, Operation, Post, Refused, decide, grant
from tollbridge.errors import InternalError, Unavailable
from tollbridge.store.db import connect_sqlite, sqlite_path
from tollbridge.store.ledger import sqlite as engine_module
from tollbridge.store.ledger import sqlite_books
from tollbridge.store.processes import sweep
from tollbridge.values import Outcome

ROOT = Path(__file__).parents[3]
BUSY, CORRUPT, FULL, IOERR_READ, IOERR_WRITE, IOERR_FSYNC = 5, 11, 13, 266, 778, 1034


class Cursor:
    """A cursor whose statements fail as told; `after`: what failed has happened all the same."""

    def __init__(self, real: sqlite3.Cursor) -> None:
        self._real = real
        self.fail: dict[str, tuple[int, int]] = {}
        self.after = False

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        word = sql.split()[0]
        code, times = self.fail.get(word, (0, 0))
        if not times:
            return self._real.execute(sql, *args)
        self.fail[word] = (code, times - 1)
        if self.after:
            self._real.execute(sql, *args)
        kind = sqlite3.DatabaseError if code == CORRUPT else sqlite3.OperationalError
        error = kind(f"injected {code}")
        error.sqlite_errorcode = code
        raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def tap(books: Books) -> Cursor:
    engine: Any = books.ledger._books  # type: ignore[attr-defined]
    engine._cursor = Cursor(engine._cursor)
    return engine._cursor  # type: ignore[no-any-return]


def test_a_connection_waits_for_the_disk_at_each_commit(tmp_path: Path) -> None:
    connection = connect_sqlite(tmp_path / "file.db")
    values = {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert values == {"journal_mode": "wal", "synchronous": 2}
    connection.close()


# --- others write to the file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clerks", "calls"), [pytest.param(3, 300, id="short"), pytest.param(16, 5_000, id="long", marks=pytest.mark.soak)]
)
def test_the_command_line_works_beside_the_server(sqlite_engine: Engine, clerks: int, calls: int) -> None:
    """H5: neither side sees that the other is there."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=10**9)
        command = [sys.executable, "-m", "tests.store.clerk", sqlite_engine.url, str(customer.account_id), "40"]
        running = [
            await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=ROOT) for _ in range(clerks)
        ]
        for _ in range(calls):
            hold = await books.held(customer, 1000)
            assert (await books.end(hold, customer, 3)).charged == 3
            await asyncio.sleep(0.002)
        granted = 0
        for process in running:
            out, _ = await process.communicate()
            assert process.returncode == 0
            granted += int(out)
        assert granted == clerks * 40 * 7
        paid, promo, held = await books.balance(customer)
        assert (paid + promo, held) == (10**9 + granted - 3 * calls, 0)

    with_books(sqlite_engine, scenario)


def test_a_file_that_is_locked_for_long_refuses_holds_and_keeps_ends(sqlite_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        hold = await books.held(customer, 10)
        blocker = connect_sqlite(sqlite_path(sqlite_engine.url))
        blocker.execute("BEGIN IMMEDIATE")
        end = books.ledger.submit(books.end_op(hold, customer, 7))
        with pytest.raises(Unavailable) as refused:
            await books.held(customer, 10)
        assert refused.value.code == "ledger_unavailable"
        assert not end.done()
        blocker.execute("ROLLBACK")
        blocker.close()
        assert await end == Ended(charged=7, promo=0, loss=0, available=993)
        await books.end(await books.held(customer, 10), customer, 1)

    with_books(sqlite_engine, scenario)


# --- without the writer ---------------------------------------------------------------------------------------------


async def rest(ledger: Any, commit_us: int = 100) -> None:
    """Until the writer sleeps, after a commit that is said to have taken so long."""
    while not ledger._sleeping:  # noqa: ASYNC110 - it is another thread
        await asyncio.sleep(0.001)
    ledger.counters.commit_us = commit_us


def test_who_is_alone_is_not_queued(sqlite_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        first = books.hold_op(customer, 100)
        await rest(books.ledger)
        assert books.ledger.submit(first).result() == Held(100, 900, 0)
        await rest(books.ledger)
        assert books.ledger.submit(books.extend_op(first.id, customer, 1, 10)).done()
        await rest(books.ledger)
        second = books.hold_op(customer, 100)
        queued = books.ledger.submit(second)
        assert not queued.done()
        assert await queued == Held(100, 790, 0)
        await rest(books.ledger)
        ending = books.ledger.submit(books.end_op(first.id, customer, 1))
        assert not ending.done()
        await ending
        await rest(books.ledger)
        assert books.ledger.submit(books.end_op(second.id, customer, 1)).done()
        assert (await books.balance(customer))[0] == 998

    with_books(sqlite_engine, scenario)


def test_the_loop_does_not_wait_for_a_slow_disk_twice(sqlite_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        await rest(books.ledger, commit_us=5_000)
        op = books.hold_op(customer, 10)
        hold = books.ledger.submit(op)
        assert not hold.done()
        await hold
        await rest(books.ledger, commit_us=500)
        assert books.ledger.submit(books.end_op(op.id, customer, 1)).done()

    with_books(sqlite_engine, scenario)


def test_the_loop_does_not_wait_for_others_of_this_process_who_write(sqlite_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        ledger: Any = books.ledger
        await rest(ledger)
        assert ledger._turn.take(0)
        hold = ledger.submit(books.hold_op(customer, 10))
        assert not hold.done()
        ledger._turn.give()
        assert await hold == Held(10, 990, 0)

    with_books(sqlite_engine, scenario)


def test_nobody_overtakes_what_a_writer_is_about_to_find(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer says that it will sleep, and then looks once more whether anything waits."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        ledger: Any = books.ledger
        await rest(ledger)
        with monkeypatch.context() as patched:
            patched.setattr(ledger, "_wake_up", lambda: None)
            assert ledger._turn.take(0)
            first = ledger.submit(books.hold_op(customer, 900))
            ledger._turn.give()
            second = ledger.submit(books.hold_op(customer, 900))
            assert not second.done()
        ledger._wake_up()
        assert isinstance(await first, Held)
        assert isinstance(await second, Refused)

    with_books(sqlite_engine, scenario)


# --- a full disk ----------------------------------------------------------------------------------------------------


class Quota:
    """A disk that is full: this process may make no file longer than the log is now."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self) -> None:
        (log,) = self._directory.glob("*-wal")
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 100, self._before[1]))

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self._before)


class Disk:
    """A disk of its own, filled by another file."""

    def __init__(self, directory: Path) -> None:
        self._ballast = directory / "ballast"

    def fill(self) -> None:
        with contextlib.suppress(OSError), self._ballast.open("ab", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    def free(self) -> None:
        self._ballast.unlink(missing_ok=True)


@pytest.fixture(params=["quota", "disk"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Quota | Disk]]:
    """A directory that can be filled. Where no file system can be mounted, a limit of the process stands in."""
    directory = tmp_path / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)]
    mounted = request.param == "disk" and not subprocess.run(mount, check=False, capture_output=True).returncode
    disk = Disk(directory) if mounted else Quota(directory)
    try:
        yield directory, disk
    finally:
        disk.free()
        if mounted:
            subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_full_disk_refuses_holds_keeps_ends_and_recovers(
    small: tuple[Path, Quota | Disk], migrated_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """H6: twenty times in a row. What is on the disk can be read all the while, and the log says once what is wrong."""
    directory, disk = small
    shutil.copy(migrated_file, directory / "tollbridge.db")
    engine = Engine(f"sqlite:///{directory / 'tollbridge.db'}", directory)

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=10**6)
        for _ in range(20):
            hold = await books.held(customer, 100)
            disk.fill()
            with pytest.raises(Unavailable) as refused:
                await books.held(customer, 10)
            assert refused.value.code == "ledger_unavailable"
            end = books.ledger.submit(books.end_op(hold, customer, 9))
            await asyncio.sleep(0.05)
            assert (await books.balance(customer))[2] == 100
            assert not books.ledger.failed
            assert not end.done()
            disk.free()
            verdict = await asyncio.wait_for(end, 30)
            assert isinstance(verdict, Ended)
            assert (verdict.charged, verdict.repeated) == (9, False)
            await books.end(await books.held(customer, 10), customer, 1)

    with_books(engine, scenario)
    said = [record.getMessage() for record in caplog.records if "the ledger cannot write" in record.getMessage()]
    assert len(said) == 1
    assert re.search(r"ends wait: (database or disk is full|disk I/O error)$", said[0])


def test_stopping_on_a_full_disk_comes_to_an_end(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_LAST_TRIES_S", 0.2)

    async def main() -> None:
        async with serving(sqlite_engine) as books:
            customer = await books.customer(paid=100)
            hold = await books.held(customer, 10)
            tap(books).fail["COMMIT"] = (FULL, 10**9)
            end = books.ledger.submit(books.end_op(hold, customer, 5))
            await books.ledger.stop()
            with pytest.raises(Unavailable):
                await end
        async with serving(sqlite_engine) as books:
            assert await books.balance(customer) == (100, 0, 0)
            await assert_verified(books.database)

    asyncio.run(main())


# --- errors of one moment ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("statement", "code"),
    [(statement, code) for statement in ("BEGIN", "PRAGMA", "COMMIT") for code in (BUSY, FULL, IOERR_WRITE)]
    # Of a COMMIT it would not be known whether it has happened.
    + [("BEGIN", IOERR_READ), ("PRAGMA", IOERR_READ)],
)
def test_an_error_that_passes_harms_nobody_who_ends(sqlite_engine: Engine, statement: str, code: int) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        hold = await books.held(customer, 100)
        tap(books).fail[statement] = (code, 4)
        futures = [
            books.ledger.submit(op)
            for op in (books.hold_op(customer, 10), books.end_op(hold, customer, 60), books.hold_op(customer, 10))
        ]
        verdicts = await asyncio.gather(*futures, return_exceptions=True)
        assert verdicts[1] in (
            Ended(charged=60, promo=0, loss=0, available=940),
            Ended(charged=60, promo=0, loss=0, available=930),
        )
        assert not books.ledger.failed
        assert {type(verdict) for verdict in verdicts[::2]} <= {Unavailable, Held}
        await sweep(books.database, books.ledger, books.process.epoch, 1 << 62)
        assert await books.balance(customer) == (940, 0, 0)

    with_books(sqlite_engine, scenario)


@pytest.mark.parametrize("happened", [True, False])
def test_a_commit_of_which_nobody_knows_stops_everything(sqlite_engine: Engine, happened: bool) -> None:
    """H4, H7: an fsync that failed. The next start finds out, and whoever comes again is told what is so."""

    async def main() -> None:
        async with serving(sqlite_engine) as books:
            customer = await books.customer(paid=1000)
            hold, other = await books.held(customer, 100), await books.held(customer, 100)
            connection = tap(books)
            connection.after = happened
            connection.fail["COMMIT"] = (IOERR_FSYNC, 1)
            in_doubt = books.ledger.submit(books.end_op(hold, customer, 60))
            with pytest.raises(Unavailable) as unknown:
                await in_doubt
            assert unknown.value.code == "ledger_unavailable"
            assert books.ledger.failed
            with pytest.raises(Unavailable):
                books.ledger.submit(books.hold_op(customer, 1))
            with pytest.raises(Unavailable):
                await books.ledger.submit(books.end_op(other, customer, 1))
        async with serving(sqlite_engine) as books:
            await assert_verified(books.database)
            end = await books.end(hold, customer, 60)
            assert (end.charged, end.available) == (60, 940)
            assert end.repeated == happened
            await assert_verified(books.database)

    asyncio.run(main())


def test_a_damaged_file_stops_everything(sqlite_engine: Engine) -> None:
    async def main() -> None:
        async with serving(sqlite_engine) as books:
            customer = await books.customer(paid=1000)
            hold = await books.held(customer, 100)
            tap(books).fail["PRAGMA"] = (CORRUPT, 1)
            with pytest.raises(Unavailable):
                await books.ledger.submit(books.end_op(hold, customer, 60))
            assert books.ledger.failed

    asyncio.run(main())


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the error; the test above covers the rule")
@pytest.mark.parametrize("trials", [pytest.param(2, id="short"), pytest.param(50, id="long", marks=pytest.mark.soak)])
def test_a_disk_that_fails_to_sync_ends_the_server_and_loses_nothing(sqlite_engine: Engine, trials: int) -> None:
    """H7, with the real system call: nothing is acknowledged after it, everything before it is there."""
    from tests.store.ledger.test_sqlite_crash import recover

    events: list[tuple[str, ...]] = []
    for trial in range(trials):
        when = 60 + trial * 17 % 150
        command = [
            *("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync,fsync"),
            *("-e", f"inject=fdatasync,fsync:error=EIO:when={when}+"),
            *(sys.executable, "-m", "tests.store.hammer", sqlite_engine.url),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
        if "ptrace" in done.stderr and not done.stdout:
            pytest.skip("this machine does not let a process be traced")
        assert done.returncode not in (0, -signal.SIGKILL), done.stderr
        assert "Unavailable" in done.stderr
        events += [tuple(line.split()) for line in done.stdout.splitlines()]
        recover(sqlite_engine, events)
    assert len(events) > trials


# --- mistakes of our own -------------------------------------------------------------------------------------------


def test_a_mistake_in_the_rules_fails_the_operation_and_nothing_else(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G-8: an unexpected exception."""

    def mistaken(state: Any, operations: Any, now: int) -> Any:
        if any(isinstance(op, Post) and op.reason == "mistake" for op in operations):
            raise RuntimeError("a mistake")
        return decide(state, operations, now)

    monkeypatch.setattr(sqlite_books, "decide", mistaken)

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=10**6)
        for number in range(100):
            bad = grant(customer.account_id, 5, idempotency_key=f"bad {number}", reason="mistake", actor="")
            futures = [books.ledger.submit(op) for op in (books.hold_op(customer, 1), bad, books.hold_op(customer, 1))]
            verdicts = await asyncio.gather(*futures, return_exceptions=True)
            assert [type(verdict) for verdict in verdicts] == [Held, InternalError, Held]
        assert not books.ledger.failed
        await sweep(books.database, books.ledger, books.process.epoch, 1 << 62)

    with_books(sqlite_engine, scenario)


@pytest.mark.parametrize("amount", ["held", "promo"])
def test_an_impossible_balance_stops_everything(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, amount: str
) -> None:
    """G-8: fail-stop. Nothing of it is written, and no paid work runs after it."""

    def wrong(state: Any, operations: Any, now: int) -> Any:
        decision = decide(state, operations, now)
        for balance in decision.balances.values():
            setattr(balance, amount, -1)
        return decision

    async def main() -> None:
        async with serving(sqlite_engine) as books:
            customer = await books.customer(paid=1000)
            hold = await books.held(customer, 100)
            monkeypatch.setattr(sqlite_books, "decide", wrong)
            with pytest.raises(InternalError):
                await books.ledger.submit(books.end_op(hold, customer, 60))
            assert books.ledger.failed
            monkeypatch.undo()
            with pytest.raises(Unavailable) as refused:
                books.ledger.submit(books.hold_op(customer, 1))
            assert refused.value.code == "ledger_unavailable"
            assert await books.balance(customer) == (1000, 0, 100)
            await assert_verified(books.database)

    asyncio.run(main())


def test_what_the_database_itself_forbids_stops_everything(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with serving(sqlite_engine) as books:
            customer = await books.customer(paid=1000)
            hold = await books.held(customer, 100)
            monkeypatch.setattr(sqlite_books, "_require_possible", lambda least: None)
            real = decide

            def wrong(state: Any, operations: Any, now: int) -> Any:
                decision = real(state, operations, now)
                decision.balances[customer.account_id].held = -5
                return decision

            monkeypatch.setattr(sqlite_books, "decide", wrong)
            with pytest.raises(InternalError):
                await books.ledger.submit(books.end_op(hold, customer, 60))
            assert books.ledger.failed
            await assert_verified(books.database)

    asyncio.run(main())


def test_a_row_that_is_there_already_is_read_again(sqlite_engine: Engine) -> None:
    """What the writer remembers is wrong: another connection ended its hold. The unique key finds out."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        hold = await books.held(customer, 100)
        other = Books(sqlite_engine)
        await other.database.start()
        other.ledger = sqlite_engine.ledger(books.process.epoch)
        await other.ledger.start()
        swept = books.end_op(hold, customer, 0, Outcome.SWEPT)
        assert isinstance(await other.ledger.submit(swept), Ended)
        await other.ledger.stop()
        await other.database.close()
        neighbours = [books.hold_op(customer, 1) for _ in range(3)]
        ops: list[Operation] = [neighbours[0], books.end_op(hold, customer, 60), *neighbours[1:]]
        verdicts = await asyncio.gather(*map(books.ledger.submit, ops))
        assert verdicts[1] == Ended(charged=60, promo=0, loss=0, available=939)
        for op in neighbours:
            await books.end(op.id, customer, 0)

    with_books(sqlite_engine, scenario)


# --- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_ms", [3_600_000, -3_600_000, 86_400_000 * 366])
def test_a_clock_that_jumps_moves_no_money(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, jump_ms: int
) -> None:
    """G-7: what runs is not taken for expired, and what ended before stays as it was."""
    real = time.time_ns

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1000)
        await books.process.beat()
        hold = await books.held(customer, 100)
        monkeypatch.setattr(time, "time_ns", lambda: real() + jump_ms * 1_000_000)
        await books.process.beat()
        assert await books.process.sweep(books.ledger) == 0
        other = await books.held(customer, 100)
        await books.process.beat()
        assert await books.process.sweep(books.ledger) == 0
        monkeypatch.undo()
        await books.process.beat()
        for each in (hold, other):
            assert await books.end(each, customer, 10) == Ended(
                charged=10, promo=0, loss=0, available=890 if each == hold else 980
            )

    with_books(sqlite_engine, scenario)


# --- the log -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [50, 1])
def test_the_log_does_not_grow_for_ever(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Under steady load it starts over again, and is copied into the file on the way."""
    monkeypatch.setattr(engine_module, "_CHECKPOINT_EVERY_S", 0.05)
    monkeypatch.setattr(engine_module, "_LONG_LOG", 256)
    log = sqlite_path(sqlite_engine.url).with_name("tollbridge.db-wal")

    async def scenario(books: Books) -> None:
        customers = [await books.customer(paid=10**6) for _ in range(at_once)]
        stop = time.monotonic() + 3
        written = 0

        async def work(customer: Customer) -> None:
            nonlocal written
            # On a disk that is slow for longer: of fewer nothing could be told.
            while time.monotonic() < stop or written <= 500:
                await books.end(await books.held(customer, 10), customer, 1)
                written += 1

        await asyncio.gather(*map(work, customers))
        # Each call adds at least a page; without starting over, all of them would be there.
        assert log.stat().st_size < max(written * 4096 // 2, 8 << 20)

    with_books(sqlite_engine, scenario)


def test_no_more_is_remembered_than_is_worth_it(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_books, "_MOST_REMEMBERED", 3)

    async def scenario(books: Books) -> None:
        engine: Any = books.ledger._books  # type: ignore[attr-defined]
        customers = [await books.customer(paid=100) for _ in range(12)]
        for left in (90, 89):
            for customer in customers:
                hold = books.hold_op(customer, 10)
                month = {"period": 202_611, "included": 5, "tokens": 9, "least_tokens": 9}
                assert await books.ledger.submit(replace(hold, **month)) == Held(10, left)
                assert max(map(len, (engine._balances, engine._keys, engine._allowances))) <= 4
                assert (await books.end(hold.id, customer, 1)).available == left + 9

    with_books(sqlite_engine, scenario)


def test_a_held_verdict_of_a_refused_customer_is_not_remembered(sqlite_engine: Engine) -> None:
    """After a refusal the next hold sees the balance as it is stored."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=10)
        for _ in range(3):
            _, verdict = await books.hold(customer, 11)
            assert isinstance(verdict, Refused)
        await books.end(await books.held(customer, 10), customer, 10)

    with_books(sqlite_engine, scenario)
