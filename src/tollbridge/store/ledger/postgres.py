"""The ledger on PostgreSQL: one writer, one direct connection, one transaction for everything queued.

Rule 1  The writer takes what queued while the last transaction ran, and never sleeps to collect more. Verdicts are
        given after COMMIT. The order of arrival is the order of effect.
Rule 2  A request for money waits at most `MOST_PATIENCE_S` and is then refused. Money granted to a caller that no
        longer waits is given back.
Rule 3  An end is never refused. One that is not in the database after `SPOOL_AFTER_S` goes to the spool and counts as
        safe once fsynced there (`Spooled`); it stays queued until it is committed. A full disk is tried again.
Rule 4  After a COMMIT whose answer never came, the same operations are sent again with the same ids, and nothing held
        in memory is believed: what is stored decides.
Rule 5  Somebody who keeps an account locked delays only that account. If a batch cannot get its locks in time,
        operations on the locked accounts are set aside and the rest goes on.
Rule 6  A broken connection is replaced at once. If that fails, or the server hangs, the ledger is away: requests for
        money are refused until a connection is up again.

The connection is direct, never through a transaction pooler: statements are prepared, and locks outlive a statement.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Sequence
from functools import partial
from pathlib import Path

import asyncpg

from tollbridge.core.ledger import (
    Checkpoint,
    End,
    Extend,
    Held,
    Hold,
    OpenHold,
    Operation,
    Spooled,
    Verdict,
    hold_id,
)
from tollbridge.errors import ConfigError, Unavailable
from tollbridge.store.db import TRIES, Contended, jitter, translate_postgres
from tollbridge.store.ledger import (
    MOST_IN_BATCH,
    MOST_WAITING,
    MOST_WAITING_MS,
    Counters,
    away,
    behind,
    broken,
    given_back,
    refuse,
)
from tollbridge.store.ledger.postgres_books import Books, Swallowed
from tollbridge.store.ledger.spool import Leftover, Spool, leftovers

MOST_PATIENCE_S = 1.8
SPOOL_AFTER_S = 0.15
TICK_S = 0.1
STATEMENT_S = 2.0
# How long an open transaction waits for its first operation.
BEGUN_S = 0.3
# How often accounts locked by others are checked.
LOOK_S = 0.1
CONNECT_S = 2.0
MOST_BACK_OFF_S = 0.5
# A disk that stays full is reported no more often than this.
COMPLAIN_S = 60.0

SESSION = {
    "application_name": "tollbridge ledger",
    "timezone": "UTC",
    "synchronous_commit": "on",
    # Clean and early: a batch that cannot get its locks is rolled back and tried again.
    "lock_timeout": "500",
    # A process that stops in the middle of a batch must not keep its accounts locked.
    "idle_in_transaction_session_timeout": "1000",
    # A hanging server is detected here (`STATEMENT_S`). The server's own time-out would cut short a COMMIT that waits
    # for a standby, and report success.
    "statement_timeout": "0",
    # Reach every row by its primary key, however small the table, and whatever the planner knows about it.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "jit": "off",
}

_STARTED = "SELECT epoch, started_at FROM process WHERE epoch = ANY($1::bigint[])"

_log = logging.getLogger(__name__)


class _Locked(Exception):
    """Others have kept these accounts locked for longer than a batch waits."""

    def __init__(self, accounts: set[int]) -> None:
        self.accounts = accounts


class _Waiting:
    """An operation and the future of its caller."""

    __slots__ = ("future", "op", "over", "since", "spooled", "unknown")

    def __init__(self, op: Operation, future: asyncio.Future[Verdict], since: float) -> None:
        self.op = op
        self.future = future
        self.since = since
        self.spooled = False
        # Whether it is committed, or never will be.
        self.over = False
        # Whether it was in a transaction whose COMMIT was never answered.
        self.unknown = False

    @property
    def asks_for_money(self) -> bool:
        return not isinstance(self.op, End | Checkpoint)


class PostgresLedger:
    """See `Ledger`. `epoch` is a row of `process`. `directory` keeps the spool: the same at every start."""

    def __init__(self, url: str, epoch: int, directory: Path) -> None:
        self.epoch = epoch
        self.failed = False
        self.counters = Counters()
        self._url = url
        self._directory = directory
        self._last_id = 0
        self._queue: deque[_Waiting] = deque()
        self._batch: list[_Waiting] = []
        # By account, in order of arrival: operations waiting for others to release it (Rule 5).
        self._aside: dict[int, list[_Waiting]] = {}
        self._look_at = 0.0
        # Holds made here that have not ended, as they are stored.
        self._open: dict[int, OpenHold] = {}
        self._books: Books | None = None
        self._troubles = 0  # since the last COMMIT
        self._away = False
        self._stopping = False
        self._spooled = 0  # in the spool, not yet in the database
        self._complain_at = 0.0
        self._parked: dict[int, _Waiting] = {}  # the newest checkpoint of each hold, while away
        self._writer: asyncio.Task[None] | None = None
        self._asleep: asyncio.Future[None] | None = None
        self._ticking: asyncio.TimerHandle | None = None

    def next_id(self) -> int:
        self._last_id += 1
        return hold_id(self.epoch, self._last_id)

    def depth(self) -> int:
        return len(self._queue) + len(self._batch) + sum(map(len, self._aside.values()))

    async def start(self) -> None:
        """Connect, and replay what dead processes left behind. Raises `Unavailable` or `ConfigError`."""
        self._loop = asyncio.get_running_loop()
        found = await self._loop.run_in_executor(None, lambda: list(leftovers(self._directory)))
        try:
            known = await self._open_all([leftover.epoch for leftover in found])
        except BaseException:
            for leftover in found:
                leftover.release()
            await self._disconnect()
            raise
        self._writer = self._loop.create_task(self._write_forever(), name="ledger")
        replays = []
        for leftover in found:
            if known.get(leftover.epoch) == leftover.started_at:
                replays.append(self._replay(leftover))
            else:
                _log.warning("the spool file %s belongs to another database and is left alone", leftover.path)
                leftover.release()
        # A sweep of what they left must see their last checkpoints, not those from before the outage.
        await asyncio.gather(*replays)

    async def _open_all(self, epochs: list[int]) -> dict[int, int]:
        """Open connection and spool; when each process in `epochs` was started, according to the database."""
        try:
            self._books = await self._connected()
            known = dict(await self._books.connection.fetch(_STARTED, [self.epoch, *epochs]))
        except Exception as error:
            raise translate_postgres(error) from error
        try:
            self._spool = Spool(self._directory, self.epoch, known[self.epoch])
        except OSError as error:
            raise ConfigError(f"{self._directory}: the spool of the ledger cannot be kept here: {error}") from error
        return known

    async def stop(self) -> None:
        if self._writer is None:
            return
        self._stopping = True
        self._wake()
        self._watch()
        await self._writer
        self._writer = None
        if self._ticking is not None:
            self._ticking.cancel()
        await self._disconnect()
        await self._loop.run_in_executor(None, self._spool.close)
        # Let through what the spool's thread has just reported.
        await asyncio.sleep(0)
        lost = sum(isinstance(waiting.op, End) and not (waiting.spooled or waiting.over) for waiting in self._queue)
        if lost:
            _log.error("neither the database nor the spool could take the ends of %d calls: they are given away", lost)

    # --- taking operations ----------------------------------------------------------------------------------------

    def submit(self, op: Operation) -> asyncio.Future[Verdict]:
        now = self._loop.time()
        if isinstance(op, Hold | Extend):
            self._require_room(now)
        waiting = _Waiting(op, self._loop.create_future(), now)
        if self._writer is None or self._writer.done():
            refuse(waiting.future, away())
        elif self._away:
            self._submit_away(waiting)
        else:
            self._enqueue(waiting)
        return waiting.future

    def _enqueue(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        if self._asleep is not None:
            self._wake()
        self._watch()

    def _require_room(self, now: float) -> None:
        if self._away or self._stopping or self.failed:
            raise away()
        queue = self._queue
        if queue and (len(queue) >= MOST_WAITING or (now - queue[0].since) * 1000 > MOST_WAITING_MS):
            raise behind()

    def _submit_away(self, waiting: _Waiting) -> None:
        if waiting.asks_for_money:
            refuse(waiting.future, away())
            return
        if isinstance(waiting.op, Checkpoint):
            parked = self._parked.setdefault(waiting.op.hold, waiting)
            if parked is not waiting:
                # Only the newest checkpoint is worth writing, and an outage may be long.
                parked.op = waiting.op
                self._spool.append([waiting.op], partial(self._kept, [waiting]))
                return
        self._enqueue(waiting)
        self._keep([waiting])

    def _watch(self) -> None:
        if self._ticking is None:
            self._ticking = self._loop.call_later(TICK_S, self._tick)

    def _tick(self) -> None:
        """Rules 2 and 3, and the deadline of a statement, for as long as anything waits for the database."""
        self._ticking = None
        sent_at = None if self._books is None else self._books.sent_at
        if self._away or not (self._queue or self._batch or self._aside or sent_at):
            return
        now = self._loop.time()
        for line in ((*self._batch, *self._queue), *self._aside.values()):
            self._keep(_overdue(line, now))
        if self._books is not None and sent_at is not None and time.monotonic() - sent_at > STATEMENT_S:
            self._troubles += 1
            self._books.connection.terminate()
        self._watch()

    def _keep(self, waiting: Sequence[_Waiting]) -> None:
        """Put these into the spool. They stay queued too: the spool is how they survive this process."""
        if not waiting:
            return
        for one in waiting:
            one.spooled = True
        self._spooled += len(waiting)
        kept = [one.op for one in waiting if isinstance(one.op, End | Checkpoint)]
        self._spool.append(kept, partial(self._kept, waiting))

    def _kept(self, those: Sequence[_Waiting], error: OSError | None) -> None:
        """The spool has what these waiting handed over, or could not take it: then it is asked again before long."""
        for waiting in those:
            if error is None:
                if not waiting.future.done():
                    waiting.future.set_result(Spooled())
            elif waiting.spooled and not waiting.over:
                waiting.spooled = False
                self._spooled -= 1
        now = self._loop.time()
        if error is not None and now >= self._complain_at:
            self._complain_at = now + COMPLAIN_S
            _log.error("%s: ends of calls are only in memory, the spool cannot take them: %s", self._directory, error)

    def _wake(self) -> None:
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)

    # --- writing them ---------------------------------------------------------------------------------------------

    async def _write_forever(self) -> None:
        try:
            await self._write_all()
        except Exception:
            _log.critical("the ledger has failed and stops", exc_info=True)
            self.failed = True
            self._queue.extendleft(waiting for waiting in reversed(self._batch) if not waiting.over)
        self._give_up()

    async def _write_all(self) -> None:
        while not (self._stopping and (self._away or not self._queue)):
            books = self._books
            if books is None or books.closed:
                await self._reconnect()
            elif batch := self._take():
                self._batch = batch
                try:
                    await self._write(books)
                except Exception as error:
                    self._put_back(books, error)
                self._batch = []
            elif not self._queue and not self._stopping:
                await self._sleep(books)
            if self._aside and self._loop.time() >= self._look_at:
                await self._look_again()

    async def _sleep(self, books: Books) -> None:
        """Sleep until something arrives, but not for long while a transaction is open."""
        begun = books.begun
        timer = self._loop.call_later(LOOK_S if self._aside else BEGUN_S, self._wake) if begun or self._aside else None
        self._asleep = self._loop.create_future()
        await self._asleep
        self._asleep = None
        if timer is not None:
            timer.cancel()
        if begun and not self._queue:
            with contextlib.suppress(Exception):
                await books.rollback()

    def _take(self) -> list[_Waiting]:
        queue = self._queue
        batch: list[_Waiting] = []
        while queue and len(batch) < MOST_IN_BATCH:
            waiting = queue.popleft()
            if waiting.asks_for_money and waiting.future.done():
                if not (waiting.unknown and isinstance(waiting.op, Hold)):
                    continue
                waiting.op = given_back(waiting.op)
            if waiting.op.account_id in self._aside:
                self._aside[waiting.op.account_id].append(waiting)
            else:
                batch.append(waiting)
        return batch

    async def _write(self, books: Books) -> None:
        """Raises `Unavailable`, `Contended` included: those that are not over have been told nothing."""
        while self._batch:
            batch = self._batch
            try:
                unknown = any(waiting.unknown for waiting in batch)
                await self._commit(books, batch, None if unknown else self._open)
            except _Locked as locked:
                self._set_aside(locked.accounts)
            except Unavailable:
                raise
            except Exception:
                break
            else:
                return
        # An operation that cannot be done must not fail its neighbours.
        for waiting in tuple(self._batch):
            try:
                await self._write_alone(books, waiting)
            except _Locked as locked:
                self._set_aside(locked.accounts)

    def _set_aside(self, accounts: set[int]) -> None:
        batch, self._batch = self._batch, []
        for waiting in batch:
            if waiting.op.account_id in accounts and not waiting.over:
                self._aside.setdefault(waiting.op.account_id, []).append(waiting)
            else:
                self._batch.append(waiting)
        self._look_at = self._loop.time() + LOOK_S

    async def _look_again(self) -> None:
        """Put back what need not wait any longer, and forget those whose callers have left."""
        books = self._books
        if books is None or books.closed:
            return
        for account, line in self._aside.items():
            self._aside[account] = [
                one for one in line if one.unknown or not (one.asks_for_money and one.future.done())
            ]
        try:
            locked = await books.locked_by_others([one.op for line in self._aside.values() for one in line])
        except Exception as error:
            self._put_back(books, error)
            return
        self._look_at = self._loop.time() + LOOK_S
        self._take_back(self._aside.keys() - locked)

    def _take_back(self, accounts: set[int]) -> None:
        for account in accounts:
            self._queue.extendleft(reversed(self._aside.pop(account)))

    async def _write_alone(self, books: Books, waiting: _Waiting) -> None:
        try:
            await self._commit(books, [waiting], None)
        except (Unavailable, _Locked):
            raise
        except Exception as error:
            if isinstance(error, asyncpg.IntegrityConstraintViolationError):
                self.failed = True
            _log.exception("the ledger could not carry out an operation: %s", type(waiting.op).__name__)
            # An end in the spool stays there, for a later start that may know better.
            waiting.over = True
            refuse(waiting.future, broken(error))

    async def _commit(self, books: Books, batch: list[_Waiting], remembered: dict[int, OpenHold] | None) -> None:
        operations = [waiting.op for waiting in batch]
        started = time.perf_counter_ns()
        attempt = 0
        while True:
            attempt += 1
            try:
                decision, holds = await books.apply(operations, remembered)
                await books.commit()
                break
            except Exception as error:
                # A value that the driver cannot send is an `InterfaceError` too, but the connection is fine.
                trouble = error if isinstance(error, ValueError) else translate_postgres(error)
                if isinstance(trouble, Unavailable) and not isinstance(trouble, Contended):
                    raise trouble from error
                await _roll_back(books)
                if isinstance(error, asyncpg.LockNotAvailableError):
                    locked = await self._locked_by_others(books, operations)
                    if locked:
                        self.counters.retries += 1
                        raise _Locked(locked) from error
                hopeless = remembered is None and not isinstance(trouble, Contended | Swallowed)
                if hopeless or attempt > TRIES:
                    raise trouble from error
                if not isinstance(trouble, Contended):
                    # Somebody else may have ended a hold of ours: decide again on what is stored.
                    remembered = None
                self.counters.retries += 1
                await asyncio.sleep(jitter(attempt))
        self._troubles = 0
        self.counters.batches += 1
        self.counters.operations += len(batch)
        self.counters.commit_us = (time.perf_counter_ns() - started) // 1_000
        for hold in decision.holds:
            self._open[hold.id] = hold
        # If nothing was believed, the decision was made on what is stored, not on what is remembered.
        for id_ in (*(step[0] for step in decision.steps), *decision.checkpoints):
            if id_ in holds:
                self._open[id_] = holds[id_]
        self._deliver(batch, decision.verdicts)

    def _deliver(self, batch: list[_Waiting], verdicts: list[Verdict]) -> None:
        settled = 0
        for waiting, verdict in zip(batch, verdicts, strict=True):
            op = waiting.op
            waiting.over = True
            settled += waiting.spooled
            if isinstance(op, End):
                self._open.pop(op.hold, None)
            if not waiting.future.done():
                waiting.future.set_result(verdict)
            elif isinstance(op, Hold) and isinstance(verdict, Held):
                self._enqueue(_Waiting(given_back(op), self._loop.create_future(), self._loop.time()))
        if settled:
            self._spooled -= settled
            if not self._spooled:
                self._spool.clear()

    # --- losing the database and finding it again -----------------------------------------------------------------

    async def _locked_by_others(self, books: Books, operations: Sequence[Operation]) -> set[int]:
        try:
            return await books.locked_by_others(operations)
        except Exception as error:
            raise away() from error

    def _put_back(self, books: Books, error: Exception) -> None:
        """Queue the whole batch again, for another connection: operations already committed will say so."""
        self._troubles += 1
        if not self._away:
            _log.warning("the ledger lost its connection: %r", error.__cause__ or error)
        batch = self._batch
        for waiting in batch:
            if books.committing and not waiting.over:
                waiting.unknown = True
                # The caller may give up on its extension before anybody knows whether it is stored.
                if isinstance(waiting.op, Extend | Checkpoint):
                    self._open.pop(waiting.op.hold, None)
        self._queue.extendleft(waiting for waiting in reversed(batch) if not waiting.over)
        books.connection.terminate()
        self._books = None
        if self._troubles > 1:
            self._go_away()

    async def _reconnect(self) -> None:
        await self._disconnect()
        if self._troubles > 1:
            await asyncio.sleep(min(MOST_BACK_OFF_S, 0.02 * 2 ** min(self._troubles, 10)))
        try:
            self._books = await self._connected()
        except Exception as error:
            if not self._away:
                _log.warning("the ledger cannot reach its database: %r", error)
            self._troubles += 1
            self._go_away()
            return
        if self._away:
            _log.warning("the ledger reaches its database again")
        self._away = False
        self._parked.clear()
        self._watch()

    async def _connected(self) -> Books:
        async with asyncio.timeout(CONNECT_S):
            connection = await asyncpg.connect(self._url, server_settings=SESSION)
            try:
                await _require_writable(connection)
                books = await Books.open(connection, self.epoch)
            except BaseException:
                connection.terminate()
                raise
        connection.add_termination_listener(lambda _: self._wake())
        return books

    async def _disconnect(self) -> None:
        books, self._books = self._books, None
        if books is None or books.closed:
            return
        try:
            await books.connection.close(timeout=CONNECT_S)
        except Exception:  # it is closed anyhow
            books.connection.terminate()

    def _go_away(self) -> None:
        self._away = True
        self._give_up()

    def _give_up(self) -> None:
        """Refuse requests for money, and make everything else safe."""
        self._take_back(set(self._aside))
        for waiting in self._queue:
            if waiting.asks_for_money:
                refuse(waiting.future, away())
        self._keep([waiting for waiting in self._queue if not waiting.asks_for_money and not waiting.spooled])

    def _replay(self, leftover: Leftover) -> Awaitable[object]:
        futures = [self.submit(op) for op in leftover.operations]
        replay = asyncio.gather(*futures, return_exceptions=True)
        replay.add_done_callback(partial(_replayed, leftover))
        return replay


async def _require_writable(connection: "asyncpg.Connection") -> None:
    """Or each batch would find out anew, and the log would say of each connection that it works."""
    if await connection.fetchval("SHOW transaction_read_only") == "on":
        raise asyncpg.ReadOnlySQLTransactionError("the database takes no writes")


def _overdue(line: Iterable[_Waiting], now: float) -> list[_Waiting]:
    """What must go to the spool, from a line in order of arrival. Refuses requests for money that waited too long."""
    late: list[_Waiting] = []
    for waiting in line:
        age = now - waiting.since
        if age < SPOOL_AFTER_S:
            break
        if not waiting.asks_for_money:
            if not waiting.spooled and not waiting.over:
                late.append(waiting)
        elif age >= MOST_PATIENCE_S:
            refuse(waiting.future, away())
    return late


async def _roll_back(books: Books) -> None:
    """Roll back. Unavailable: the connection is unusable."""
    try:
        await books.rollback()
    except Exception as error:
        raise away() from error


def _replayed(leftover: Leftover, outcomes: "asyncio.Future[list[object]]") -> None:
    if outcomes.cancelled() or any(isinstance(outcome, BaseException) for outcome in outcomes.result()):
        leftover.release()
    else:
        leftover.remove()
