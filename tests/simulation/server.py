"""One database server as its clients see it: one real transaction at a time, behind a network.

What is stored is a SQLite file with the real schema. What PostgreSQL adds is simulated: statements and answers that
take time, connections that break in between, a COMMIT whose answer never comes, a client that gave up on a statement
that the server still executes, waiting for locks, a server that hangs, dies and comes back.

Rule 1  A write transaction has the database's only lock from its first locking statement to its end, and loses it when
        its connection breaks or its server dies. That is stricter than row locks: what those let through is tested
        with real servers (tests/store/ledger/test_postgres_races.py).
Rule 2  Everybody sees a commit at once, but it lasts only once the log is flushed behind it: a server that dies forgets
        what it had not flushed, which is the end of its write-ahead log (SQLite's file is cut there).
"""

import asyncio
import shutil
import sqlite3
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import asyncpg
from tests.simulation.loop import EPOCH_S, LIFE, Life, VirtualLoop

from tollbridge.core.ledger import Allowance, Balance, Decision, KeyState, State
from tollbridge.store.db import Row, Transaction, Turn, translate_postgres, translate_sqlite
from tollbridge.store.ledger import Counters, postgres_books, sqlite_books
from tollbridge.store.ledger.postgres_books import Books, Swallowed, _Need
from tollbridge.store.ledger.rows import end_row, key_state, opened

T = TypeVar("T")

# The context of what happens on the server, or on the way to it: no process's.
NOBODY = Context()
LOCK_TIMEOUT_S = 0.5
TRIP_S = 0.0005
DISK_S = (0.0005, 0.002, 0.01, 0.05)


class InOrder(dict[Any, None]):
    """A set whose order does not depend on addresses in memory."""

    def add(self, each: Any) -> None:
        self[each] = None

    def discard(self, each: Any) -> None:
        self.pop(each, None)

    remove = discard


class Network(dict[str, float]):
    """How bad it is: the chance, per statement, that it is `lost`, its answer is (`mute`), or it is `slow`."""


class Server:
    """`on_commit` is called after each COMMIT that moves money."""

    def __init__(self, loop: VirtualLoop, chance: Random, path: Path, network: Network) -> None:
        self.loop = loop
        self.chance = chance
        self.network = network
        self.up = True
        self.hangs = False
        self.commits = 0
        self.on_commit: Callable[[], None] = lambda: None
        # Called after each statement, with whose it was and whether it was a COMMIT.
        self.watchers: list[Callable[[Life | None, bool], None]] = []
        self.sessions = InOrder()
        self.forgotten = 0
        self._path = path
        # How much of the log is on disk.
        self._flushed = 0
        self.writer = self.connect()
        self.reader = self.connect()
        self.owner: Session | None = None
        self._queue: deque[tuple[Session, Callable[[], None]]] = deque()
        self._parked: list[Callable[[], None]] = []

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=0, cached_statements=256)
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA wal_autocheckpoint=0")
        return connection

    def close(self) -> None:
        self.writer.close()
        self.reader.close()

    @property
    def now(self) -> int:
        """The database's time, which is true for everybody."""
        return int((EPOCH_S + self.loop.time()) * 1000)

    # --- what happens to it ---

    def crash(self) -> None:
        self.up = False
        self._parked.clear()
        for session in tuple(self.sessions):
            session.lose()
        log = self._log()
        self.forgotten += log.stat().st_size > self._flushed
        left = self._path.with_name(f"{self._path.name}+")
        shutil.copy(self._path, left)
        left.with_name(f"{left.name}-wal").write_bytes(log.read_bytes()[: self._flushed])
        self.close()
        self._path = left
        self.writer, self.reader = self.connect(), self.connect()

    def _log(self) -> Path:
        return self._path.with_name(f"{self._path.name}-wal")

    def flush(self) -> None:
        self._flushed = self._log().stat().st_size

    def start(self) -> None:
        self.up = True

    def hang(self) -> None:
        self.hangs = True

    def go_on(self) -> None:
        self.hangs = False
        parked, self._parked = self._parked, []
        for arrive in parked:
            arrive()

    # --- what sessions do with it ---

    def delay(self) -> float:
        slow = self.chance.random() < self.network.get("slow", 0.0)
        return TRIP_S * (0.5 + self.chance.random()) * (self.chance.choice((20, 200, 1_500)) if slow else 1)

    def arrive(self, work: Callable[[], None]) -> None:
        if self.hangs:
            self._parked.append(work)
        else:
            work()

    def lock(self, session: "Session", then: Callable[[], None]) -> None:
        """Call `then` when `session` has the lock; it is told if that takes too long."""
        if self.owner is session:
            then()
        elif self.owner is None:
            self.owner = session
            self.writer.execute("BEGIN IMMEDIATE")
            then()
        else:
            self._queue.append((session, then))
            self.loop.call_later(LOCK_TIMEOUT_S, self._waited, session, then, context=NOBODY)

    def _waited(self, session: "Session", then: Callable[[], None]) -> None:
        if (session, then) in self._queue:
            self._queue.remove((session, then))
            session.answer(None, asyncpg.LockNotAvailableError("canceling statement due to lock timeout"))

    def commit(self, session: "Session") -> None:
        if self.owner is session:
            self.writer.execute("COMMIT")
            self.commits += 1
            if session.moves_money:
                self.on_commit()
            self._release()

    def roll_back(self, session: "Session") -> None:
        self._queue = deque(each for each in self._queue if each[0] is not session)
        if self.owner is session:
            self.writer.execute("ROLLBACK")
            self._release()

    def _release(self) -> None:
        self.owner = None
        if self._queue:
            session, then = self._queue.popleft()
            # As if it had only just arrived.
            self.loop.call_soon(self.lock, session, then, context=NOBODY)


class Session:
    """A connection: one statement after another, each with its way there and back."""

    def __init__(self, server: Server, reaches: Callable[[], bool]) -> None:
        self._server = server
        self._reaches = reaches
        self._closed = False
        # What the server is still executing for a client that has gone.
        self._flying = False
        self._waiter: asyncio.Future[Any] | None = None
        self.life = LIFE.get()
        # Whether its transactions touch the books; a heartbeat does not.
        self.moves_money = False
        self.on_lost: Callable[[], None] = lambda: None

    @classmethod
    async def open(cls, server: Server, reaches: Callable[[], bool]) -> "Session":
        """OSError: it cannot be reached."""
        session = cls(server, reaches)
        server.sessions.add(session)
        await session.run(lambda: None)
        return session

    def is_closed(self) -> bool:
        return self._closed

    async def run(self, work: Callable[[], T], *, locks: bool = False, flushes: bool = False) -> T:
        """Have `work` done on the server. Whatever breaks on the way, it may have been done nevertheless."""
        if self._closed:
            raise asyncpg.InterfaceError("connection is closed")
        server = self._server
        waiter = self._waiter = server.loop.create_future()
        lost = server.chance.random() < server.network.get("lost", 0.0)
        self._flying = True
        # The server's own: it continues even if the client's process has died.
        server.loop.call_later(
            server.delay(), server.arrive, lambda: self._arrived(work, lost, locks, flushes), context=NOBODY
        )
        return await waiter  # type: ignore[no-any-return]

    def _arrived(self, work: Callable[[], Any], lost: bool, locks: bool, flushes: bool) -> None:
        if not self._flying:
            return
        if lost or not self._server.up or not self._reaches():
            self.lose()
            return

        def do() -> None:
            server, commits = self._server, self._server.commits
            try:
                result = work()
                for watcher in tuple(server.watchers):
                    watcher(self.life, server.commits > commits)
            except Exception as error:
                self.answer(None, error)
            else:
                if flushes:
                    server.loop.call_later(server.chance.choice(DISK_S), self._flush, context=NOBODY)
                else:
                    self.answer(result, None)

        if locks:
            self._server.lock(self, do)
        else:
            do()

    def _flush(self) -> None:
        if self._flying:
            self._server.flush()
            self.answer(None, None)

    def answer(self, result: Any, error: Exception | None) -> None:
        self._flying = False
        if self._closed:
            self._forget()
            return
        server = self._server
        if server.chance.random() < server.network.get("mute", 0.0) or not self._reaches():
            self.lose()
            return
        server.loop.call_later(server.delay(), self._tell, self._waiter, result, error, context=NOBODY)

    def _tell(self, waiter: "asyncio.Future[Any] | None", result: Any, error: Exception | None) -> None:
        if waiter is None or waiter.done():
            return
        if error is not None:
            waiter.set_exception(error)
        else:
            waiter.set_result(result)

    def lose(self) -> None:
        """Break the connection: the server rolls back, the client learns of it."""
        self._closed, self._flying = True, False
        self._forget()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(asyncpg.ConnectionDoesNotExistError("connection was closed"))
        self.on_lost()

    def terminate(self) -> None:
        """The client gives up, or its process has died. What it sent may still be executed."""
        if self._closed:
            return
        self._closed = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(asyncpg.ConnectionDoesNotExistError("connection was closed"))
            self._waiter.exception()
        if self._server.chance.random() < 0.5:
            self._flying = False
        if not self._flying:
            self._forget()
        self.on_lost()

    async def close(self, **_: float) -> None:
        self.terminate()

    def _forget(self) -> None:
        self._server.roll_back(self)
        self._server.sessions.discard(self)

    # --- as the ledger's statements use a connection ---

    async def execute(self, sql: str, *args: Any) -> str:
        server = self._server
        if sql == "BEGIN":
            await self.run(lambda: None)
        elif sql == "ROLLBACK":
            await self.run(lambda: server.roll_back(self))
        else:
            assert "COMMIT" in sql, sql
            # A COMMIT that does not wait for the disk is followed by a transaction that does.
            waits = "TO off" not in sql or "emit_message" in sql
            await self.run(lambda: server.commit(self), flushes=waits)
        return sql

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        handler = _RECALLS.get(sql)
        assert handler is not None, f"not acted here: {sql}"
        return await self.run(lambda: handler(self.connection, *args))

    async def fetchrow(self, sql: str, *args: Any) -> Row | None:
        rows = await self.fetch(sql, *args)
        return rows[0] if rows else None

    @property
    def connection(self) -> sqlite3.Connection:
        """What it sees: its own transaction, or what is committed."""
        return self._server.writer if self._server.owner is self else self._server.reader


def _recall_allowances(connection: sqlite3.Connection, accounts: Any, months: Any) -> list[Row]:
    found = []
    for account, month in zip(accounts, months, strict=True):
        row = connection.execute(sqlite_books._ALLOWANCE, (account, month)).fetchone()
        if row is not None:
            found.append((account, month, *row))
    return found


_RECALLS: Mapping[str, Callable[..., list[Row]]] = {
    postgres_books._RECALL_ALLOWANCES: _recall_allowances,
    postgres_books._RECALL_CLAIM: lambda connection, account, name: connection.execute(
        sqlite_books._CLAIM, (account, name)
    ).fetchall(),
    "SELECT epoch, started_at FROM process WHERE epoch = ANY($1::bigint[])": lambda connection, epochs: (
        [
            row
            for epoch in epochs
            for row in connection.execute("SELECT epoch, started_at FROM process WHERE epoch = ?", (epoch,))
        ]
    ),
}


class SimulatedBooks(Books):
    """`Books` with its own rules, on a `Session`: SQLite's statements do what it locks, reads and writes."""

    connection: Session

    def __init__(self, session: Session, epoch: int) -> None:
        super().__init__(session, epoch)
        session.moves_money = True
        self._writer = sqlite_books.Books(session._server.writer, epoch, Turn(), Counters())

    async def _locked(self, need: _Need) -> tuple[State, int, list[int]]:
        return await self._run(lambda: self.connection.run(lambda: self._state(need), locks=True))  # type: ignore[no-any-return]

    def _state(self, need: _Need) -> tuple[State, int, list[int]]:
        one = self.connection.connection.execute
        state = State(balances={}, keys={}, holds={}, ends={}, posted=set())
        state.fenced = one(sqlite_books._FENCED, (self._epoch,)).fetchone() != (None,)
        for account in sorted(need.accounts):
            row = one(sqlite_books._BALANCE, (account,)).fetchone()
            if row is not None:
                state.balances[account] = Balance(row[0], row[1], row[2], row[3], bool(row[4]))
        for key in sorted(need.keys):
            row = one(sqlite_books._KEY, (key,)).fetchone()
            if row is not None:
                state.keys[key] = key_state(key, *row)
        return state, self.connection._server.now, []

    async def _recall(self, need: _Need, state: State) -> None:
        await self._run(lambda: self.connection.run(lambda: self._remember(need, state)))

    def _remember(self, need: _Need, state: State) -> None:
        one = self.connection.connection.execute
        for id_ in need.recall:
            ended = one(sqlite_books._USAGE, (id_,)).fetchone()
            if ended is not None:
                state.ends[id_] = end_row(ended)
                continue
            row = one(sqlite_books._HOLD, (id_,)).fetchone()
            if row is not None:
                state.holds[id_] = opened(
                    row[:-1], dict(one(sqlite_books._STEPS, (id_,)).fetchall()), row[-1] is not None
                )
        keys = [*need.posts, *(f"late/{hold}" for hold in state.ends)]
        state.posted = {key for key in keys if one(sqlite_books._POSTED, (key,)).fetchone()}

    async def _store(self, decision: Decision, now: int) -> None:
        await self._run(lambda: self.connection.run(lambda: self._written(decision, now)))

    def _written(self, decision: Decision, now: int) -> None:
        one = self.connection.connection.execute
        for hold in [*(step[0] for step in decision.steps), *decision.checkpoints]:
            if one("SELECT 1 FROM usage WHERE hold_id = ?", (hold,)).fetchone():
                raise Swallowed
        try:
            self._writer._write(decision, now)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_CHECK:
                raise asyncpg.CheckViolationError(str(error)) from error
            raise Swallowed from error


class SimulatedDatabase:
    """`Database` on a `Server`. `reaches`: whether this machine's packets get through."""

    dialect = "sqlite"

    def __init__(self, server: Server, reaches: Callable[[], bool] = lambda: True) -> None:
        self._server = server
        self._reaches = reaches
        self._idle: list[Session] = []

    async def start(self) -> None:
        return

    async def close(self) -> None:
        for session in self._idle:
            session.terminate()

    async def now(self) -> int:
        return await self._once(lambda _: self._server.now)

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        if not sql.lstrip().startswith(("SELECT", "WITH")):
            async with self.transaction() as transaction:
                return await transaction.fetch(sql, *args)
        named = _named(args)
        return await self._once(lambda session: session.connection.execute(sql, named).fetchall())

    async def execute(self, sql: str, *args: Any) -> int:
        async with self.transaction() as transaction:
            return await transaction.execute(sql, *args)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        session = await self._session()
        try:
            transaction = _Statements(session)
            await transaction.begin()
            yield transaction
            await transaction.commit()
        except BaseException:
            session.terminate()
            raise
        self._idle.append(session)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        """All of it as it is now; nobody here waits for it."""
        session = await self._session()
        connection = self._server.connect()
        try:
            connection.execute("BEGIN")
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            yield _View(session, connection)
        finally:
            session.terminate()
            connection.close()

    async def _once(self, work: Callable[[Session], T]) -> T:
        session = await self._session()
        try:
            result = await session.run(lambda: work(session))
        except BaseException as error:
            session.terminate()
            if isinstance(error, Exception):
                raise translate_postgres(error) from error
            raise
        self._idle.append(session)
        return result

    async def _session(self) -> Session:
        while self._idle:
            session = self._idle.pop()
            if not session.is_closed():
                return session
        try:
            return await Session.open(self._server, self._reaches)
        except Exception as error:
            raise translate_postgres(error) from error


class _Statements:
    """A write transaction."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def begin(self) -> None:
        await self._run(lambda: None, locks=True)

    async def commit(self) -> None:
        def work() -> None:
            self._session._server.commit(self._session)
            self._session._server.flush()

        await self._run(work)

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        named = _named(args)
        return await self._run(lambda: self._session.connection.execute(sql, named).fetchall())

    async def execute(self, sql: str, *args: Any) -> int:
        self._session.moves_money |= sql.lstrip().startswith(_MONEY)
        named = _named(args)
        return await self._run(lambda: max(0, self._session.connection.execute(sql, named).rowcount))

    async def _run(self, work: Callable[[], T], *, locks: bool = False) -> T:
        try:
            return await self._session.run(work, locks=locks)
        except sqlite3.Error as error:
            raise translate_sqlite(error) from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise translate_postgres(error) from error


class _View(_Statements):
    """A snapshot's reads."""

    def __init__(self, session: Session, connection: sqlite3.Connection) -> None:
        super().__init__(session)
        self._connection = connection

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        named = _named(args)
        return await self._run(lambda: self._connection.execute(sql, named).fetchall())


_MONEY = ("UPDATE balance", "INSERT INTO entry", "UPDATE api_key")


def _named(args: tuple[Any, ...]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(args, 1)}


__all__ = ["Allowance", "KeyState", "Network", "Server", "Session", "SimulatedBooks", "SimulatedDatabase"]
