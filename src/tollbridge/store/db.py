"""Access to either database, for everything off the hot path.

    database = open_database("sqlite:///data/tollbridge.db")      # or postgresql://user@host/name
    await database.start()
    rows = await database.fetch("SELECT id, email FROM account WHERE plan = $1", "free")
    async with database.transaction() as tx: ...
    await run(database, use_case)                                 # the same, retried while others are in the way

Rule 1  A statement is plain text that both databases understand, its arguments `$1`, `$2` …
Rule 2  A flag is written as a `bool`; call `bool` on what is read: SQLite has only integers.
Rule 3  Inside `transaction()`, await nothing but its own statements: on SQLite it keeps every other writer out.
Rule 4  Only the errors below are raised here, or a mistake in a statement as the driver reports it.
"""

import asyncio
import contextlib
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from tollbridge.errors import ConfigError, TollbridgeError, Unavailable

if TYPE_CHECKING:
    import asyncpg

T = TypeVar("T")
Row = tuple[Any, ...]

TRIES = 5
BUSY_TIMEOUT_S = 5.0
ASK_AGAIN_S = 0.005
STATEMENT_TIMEOUT_S = 2.0
# For STRICT tables and RETURNING.
LEAST_SQLITE = (3, 37, 0)

# From sqlite3.h. The low byte of an extended code is its primary code.
_BUSY, _LOCKED, _READONLY, _IOERR, _CORRUPT, _FULL, _CANTOPEN, _NOTADB = 5, 6, 8, 10, 11, 13, 14, 26
_CONSTRAINT_PRIMARYKEY, _CONSTRAINT_UNIQUE, _CONSTRAINT_ROWID = 1555, 2067, 2579


class Contended(Unavailable):
    """Another transaction was in the way. Nothing was changed, and another try may succeed: see `run`."""

    code = "ledger_unavailable"


class Duplicate(TollbridgeError):
    """A row with this unique value is already there; nothing was changed."""


class Transaction(Protocol):
    """Statements inside one write transaction."""

    async def fetch(self, sql: str, *args: Any) -> list[Row]: ...

    async def execute(self, sql: str, *args: Any) -> int: ...


class Database(Protocol):
    """One of the two databases. If it is unreachable, full or broken: `Unavailable`, code `ledger_unavailable`."""

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        """The rows of one statement, run as its own transaction."""

    async def execute(self, sql: str, *args: Any) -> int:
        """Run one statement as its own transaction; how many rows it changed."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """A write transaction (BEGIN IMMEDIATE, READ COMMITTED): committed at the end, rolled back by an exception."""

    def snapshot(self) -> AbstractAsyncContextManager[Transaction]:
        """A read-only view of the whole database at this moment; nobody waits for it, however long it is held."""

    async def now(self) -> int:
        """The database's time in milliseconds since the epoch."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


def open_database(url: str, *, statement_timeout: float = STATEMENT_TIMEOUT_S) -> Database:
    """The database at `url`, not yet started. `statement_timeout`, in seconds, applies to PostgreSQL only."""
    if url.startswith("sqlite:"):
        return SqliteDatabase(sqlite_path(url))
    if url.startswith(("postgresql://", "postgres://")):
        return PostgresDatabase(url, statement_timeout)
    raise ConfigError("database_url is sqlite:///path/of/a/file or postgresql://user:password@host/name")


async def run(database: Database, use_case: Callable[[Transaction], Awaitable[T]]) -> T:
    """Run `use_case` in its own transaction, again if others were in the way: five tries, then `Contended`."""
    for attempt in range(1, TRIES):
        try:
            async with database.transaction() as transaction:
                return await use_case(transaction)
        except Contended:
            await asyncio.sleep(jitter(attempt))
    async with database.transaction() as transaction:
        return await use_case(transaction)


def jitter(attempt: int) -> float:
    """Seconds to wait before try number `attempt` + 1: random, up to 4, 8, 16 … ms, so that colliders drift apart."""
    return random.random() * 0.002 * (1 << attempt)  # noqa: S311


# --- SQLite -------------------------------------------------------------------------------------------------------


def sqlite_path(url: str) -> Path:
    """The file of a `sqlite:///relative` or `sqlite:////absolute` URL."""
    path = url.removeprefix("sqlite:///")
    if path == url or not path or "?" in path or ":memory:" in path:
        raise ConfigError("a SQLite database_url is sqlite:///relative/path or sqlite:////absolute/path of a file")
    return Path(path)


def connect_sqlite(path: Path, *, busy_timeout: float = BUSY_TIMEOUT_S) -> sqlite3.Connection:
    """A connection as every part of Tollbridge uses it: WAL, autocommit, each commit on disk when it returns."""
    if sqlite3.sqlite_version_info < LEAST_SQLITE:
        raise ConfigError(f"SQLite {'.'.join(map(str, LEAST_SQLITE))} or newer is needed, not {sqlite3.sqlite_version}")
    connection = sqlite3.connect(
        path, timeout=busy_timeout, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        mode = _turned_to_wal(connection, busy_timeout)
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
    except BaseException:
        connection.close()
        raise
    if mode != "wal":
        connection.close()
        raise ConfigError(f"{path}: SQLite's write-ahead log does not work in this place (journal mode {mode})")
    return connection


def translate_sqlite(error: sqlite3.Error | UnicodeDecodeError) -> Exception:
    """`error` as an error of this module, or unchanged if it is a mistake in a statement."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    primary = code & 0xFF
    if primary in {_BUSY, _LOCKED}:
        return Contended("The database is busy. Try again shortly.")
    if code in {_CONSTRAINT_UNIQUE, _CONSTRAINT_PRIMARYKEY, _CONSTRAINT_ROWID}:
        return Duplicate(str(error))
    # Invalid text, in a row or in SQLite's own message, comes without a code.
    unreadable = isinstance(error, UnicodeDecodeError) or (isinstance(error, sqlite3.OperationalError) and not code)
    if unreadable or primary in {_CORRUPT, _NOTADB}:
        return Unavailable("The database file is damaged. Restore a backup.", code="ledger_unavailable")
    if primary in {_READONLY, _IOERR, _FULL, _CANTOPEN}:
        return Unavailable("The database cannot be used.", code="ledger_unavailable")
    return error


def _turned_to_wal(connection: sqlite3.Connection, busy_timeout: float) -> str:
    """The journal mode after asking for WAL. SQLite itself does not wait when several switch a new file at once."""
    end = time.monotonic() + busy_timeout
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != _BUSY or time.monotonic() >= end:
                raise
        time.sleep(ASK_AGAIN_S)


class Turn:
    """Which thread of this process writes to a SQLite file next: the ledger's, or the one for all other changes.

    First come, first served. Left to SQLite, the waiting thread would sleep for milliseconds before asking again.
    SQLite still decides, since other processes may write too: a thread that has waited too long here goes and asks it.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._taken = False
        self._queue: deque[threading.Lock] = deque()

    def take(self, seconds: float) -> bool:
        """Whether the turn is ours, to be handed on with `give`."""
        with self._mutex:
            if not self._taken:
                self._taken = True
                return True
            handed = threading.Lock()
            handed.acquire()
            self._queue.append(handed)
        if handed.acquire(timeout=seconds):
            return True
        with self._mutex:
            if handed in self._queue:
                self._queue.remove(handed)
                return False
        return True

    def give(self) -> None:
        with self._mutex:
            if self._queue:
                self._queue.popleft().release()
            else:
                self._taken = False


class _Lane:
    """One connection in a thread of its own, doing one thing at a time. It is opened on first use."""

    def __init__(self, path: Path) -> None:
        self.lock = asyncio.Lock()
        self._path = path
        self._thread: ThreadPoolExecutor | None = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sqlite")
        self._connection: sqlite3.Connection | None = None

    async def close(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._let_go)
            thread.shutdown(wait=False)

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        return await self.call(lambda: self.cursor(sql, args).fetchall())

    async def execute(self, sql: str, *args: Any) -> int:
        return await self.call(lambda: max(0, self.cursor(sql, args).rowcount))

    async def stream(self, sql: str, size: int) -> AsyncIterator[Row]:
        """The rows of one statement, read `size` at a time."""
        cursor = await self.call(lambda: self.cursor(sql))
        while rows := await self.call(lambda: cursor.fetchmany(size)):
            for row in rows:
                yield row

    def open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = connect_sqlite(self._path)
        return self._connection

    async def call(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise Unavailable("The database is closed.", code="ledger_unavailable")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise translate_sqlite(error) from error

    def cursor(self, sql: str, args: Row = ()) -> sqlite3.Cursor:
        """Run a statement. Call this in the lane's thread."""
        return self.open().execute(sql, {str(number): value for number, value in enumerate(args, 1)})

    def _let_go(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


# After so many changed rows the writer copies the log into the file.
_LONG_LOG_ROWS = 1_000


class _Writer(_Lane):
    """The lane for all changes except the ledger's. Its methods run in its thread."""

    def __init__(self, path: Path, turn: Turn) -> None:
        super().__init__(path)
        self._turn = turn
        self._ours = False
        self._copied = 0

    def open(self) -> sqlite3.Connection:
        if self._connection is None:
            # A commit that copies a long log first (after a backup, or the proof of the books) keeps calls waiting.
            super().open().execute("PRAGMA wal_autocheckpoint=0")
        return super().open()

    def change(self, sql: str, args: Row) -> tuple[int, list[Row]]:
        """Run one statement as its own transaction: how many rows it changed, and what it returns."""
        self._ours = self._turn.take(BUSY_TIMEOUT_S)
        try:
            cursor = self.cursor(sql, args)
            rows = cursor.fetchall()
        finally:
            self._give()
        self._copy_log()
        return max(0, cursor.rowcount), rows

    def begin(self) -> None:
        self._ours = self._turn.take(BUSY_TIMEOUT_S)
        self.cursor("BEGIN IMMEDIATE")

    def commit(self) -> None:
        self.cursor("COMMIT")
        self._give()
        self._copy_log()

    def roll_back(self) -> None:
        try:
            if self._connection is not None and self._connection.in_transaction:
                self._connection.rollback()
        finally:
            self._give()

    def _give(self) -> None:
        if self._ours:
            self._ours = False
            self._turn.give()

    def _copy_log(self) -> None:
        """Copy the log into the file now and then, while others write."""
        connection = self.open()
        if connection.total_changes - self._copied >= _LONG_LOG_ROWS:
            self._copied = connection.total_changes
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()


# How statements begin that change rows and may return them.
_CHANGES = ("INSERT", "UPDATE", "DELETE")
# So that a long read (a page over a year of usage) leaves room for looking up a key.
_READERS = 3


class SqliteDatabase:
    """Several connections that read and one that writes: no read waits for a write or for a long read."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.turn = Turn()
        self._writer: _Writer | None = None
        self._readers: list[_Lane] = []

    async def start(self) -> None:
        self._writer = _Writer(self.path, self.turn)
        self._readers = [_Lane(self.path) for _ in range(_READERS)]
        try:
            await self._readers[0].call(self._readers[0].open)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        lanes = [*self._readers, *([] if self._writer is None else [self._writer])]
        self._writer, self._readers = None, []
        for lane in lanes:
            await lane.close()

    async def now(self) -> int:
        return time.time_ns() // 1_000_000

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        if sql.startswith(_CHANGES):
            writer = self._writing()
            async with writer.lock:
                return (await writer.call(lambda: writer.change(sql, args)))[1]
        lane = next((lane for lane in self._readers if not lane.lock.locked()), None) or self._busy_reader()
        async with lane.lock:
            return await lane.fetch(sql, *args)

    async def execute(self, sql: str, *args: Any) -> int:
        lane = self._writing()
        async with lane.lock:
            return (await lane.call(lambda: lane.change(sql, args)))[0]

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[_Writer]:
        lane = self._writing()
        async with lane.lock:
            try:
                await lane.call(lane.begin)
                yield lane
                await lane.call(lane.commit)
            except BaseException:
                # A cancelled caller leaves its statement running in the thread, which rolls back after it.
                with contextlib.suppress(Exception):
                    await asyncio.shield(lane.call(lane.roll_back))
                raise

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        # On its own connection, so that everybody else goes on.
        beside = _Lane(self.path)
        try:
            await beside.execute("BEGIN")
            # SQLite takes its view at the first read, not at BEGIN.
            await beside.fetch("SELECT 1 FROM sqlite_master LIMIT 1")
            yield beside
        finally:
            await beside.close()

    def _writing(self) -> _Writer:
        if self._writer is None:
            raise Unavailable("The database is closed.", code="ledger_unavailable")
        return self._writer

    def _busy_reader(self) -> _Lane:
        """Any of them: to know which has the shortest queue, it would have to be tracked, and chance does as well."""
        if not self._readers:
            raise Unavailable("The database is closed.", code="ledger_unavailable")
        return random.choice(self._readers)  # noqa: S311


# --- PostgreSQL ---------------------------------------------------------------------------------------------------


def translate_postgres(error: Exception) -> Exception:
    """`error` as an error of this module, or unchanged if it is a mistake in a statement."""
    import asyncpg

    contended = (
        asyncpg.SerializationError,
        asyncpg.DeadlockDetectedError,
        asyncpg.LockNotAvailableError,
        # A migration running beside us changed a table that a prepared statement reads.
        asyncpg.InvalidCachedStatementError,
        asyncpg.OutdatedSchemaCacheError,
    )
    if isinstance(error, contended):
        return Contended("The database is busy. Try again shortly.")
    if isinstance(error, asyncpg.UniqueViolationError):
        return Duplicate(str(error))
    unavailable = (
        OSError,
        TimeoutError,
        asyncpg.PostgresConnectionError,
        asyncpg.OperatorInterventionError,  # statement time-out, shutdown, cannot connect now
        asyncpg.InsufficientResourcesError,  # disk full, too many connections
        asyncpg.PostgresSystemError,
        asyncpg.ReadOnlySQLTransactionError,
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InterfaceError,
    )
    if isinstance(error, unavailable):
        return Unavailable("The database cannot be reached.", code="ledger_unavailable")
    return error


class PostgresDatabase:
    """A small pool of direct connections (no transaction pooler in between: statements are prepared)."""

    dialect = "postgresql"

    def __init__(self, url: str, statement_timeout: float = STATEMENT_TIMEOUT_S) -> None:
        self.url = url
        self._timeout = statement_timeout
        self._pool: asyncpg.Pool | None = None

    async def start(self) -> None:
        import asyncpg

        pool = asyncpg.create_pool(
            self.url,
            min_size=0,
            max_size=8,
            timeout=STATEMENT_TIMEOUT_S,
            reset=_leave_as_it_is,
            # A server that hangs cannot time out by itself.
            command_timeout=self._timeout + 0.25,
            server_settings={
                "application_name": "tollbridge",
                "statement_timeout": str(int(self._timeout * 1000)),
                "idle_in_transaction_session_timeout": "10000",
                "timezone": "UTC",
            },
        )
        try:
            with _translated():
                await pool
                await pool.fetchval("SELECT 1")
        except BaseException:
            pool.terminate()
            raise
        self._pool = pool

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                await pool.close()
        except TimeoutError:
            pool.terminate()

    async def now(self) -> int:
        rows = await self.fetch("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")
        return int(rows[0][0])

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        async with self._connection() as connection:
            return await PostgresTransaction(connection).fetch(sql, *args)

    async def execute(self, sql: str, *args: Any) -> int:
        async with self._connection() as connection:
            return await PostgresTransaction(connection).execute(sql, *args)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["PostgresTransaction"]:
        async with self._connection() as connection, connection.transaction():
            yield PostgresTransaction(connection)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Transaction]:
        async with (
            self._connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield PostgresTransaction(connection)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._pool is None:
            raise Unavailable("The database is closed.", code="ledger_unavailable")
        connection = None
        try:
            with _translated():
                connection = await self._pool.acquire(timeout=STATEMENT_TIMEOUT_S)
                try:
                    yield connection
                except TimeoutError:
                    connection.terminate()
                    raise
        finally:
            if connection is not None:
                await self._pool.release(connection)


async def _leave_as_it_is(_: Any) -> None:
    """Leave a session as it is: nobody here changes one, so the round trip to reset it can be saved. The driver itself
    ends a transaction that was left open."""


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        translated = translate_postgres(error)
        if translated is error:
            raise
        raise translated from error


class PostgresTransaction:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        return [tuple(record) for record in await self._run(self._connection.fetch, sql, args)]

    async def execute(self, sql: str, *args: Any) -> int:
        status: str = await self._run(self._connection.execute, sql, args)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def take_in(self, table: str, columns: Sequence[str], rows: AsyncIterator[Row]) -> None:
        """COPY rows into a table as they arrive."""
        with _translated():
            await self._connection.copy_records_to_table(table, records=rows, columns=columns)

    async def _run(self, method: Callable[..., Awaitable[Any]], sql: str, args: Row) -> Any:
        with _translated():
            try:
                return await method(sql, *args)
            except TimeoutError:
                # The server hangs: drop the connection, so that nobody waits for its rollback either.
                self._connection.terminate()
                raise
