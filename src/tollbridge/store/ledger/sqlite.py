"""The books in one SQLite file: one thread writes, and each transaction takes what queued while the last one ran.

Rule 1  A verdict is told only after COMMIT has returned, which is after the disk has it (WAL, synchronous=FULL).
Rule 2  What the writer remembers of the database is dropped when anybody else has written to it (PRAGMA data_version)
        and when anything went wrong. Holds stay remembered: nobody else ends them, and unique keys guard.
Rule 3  A transaction that fails is undone, and each of its operations tried alone, reading all that it needs: one bad
        operation fails nobody else's.
Rule 4  Disk full, database locked: holds are refused, ends wait in memory and are tried again until there is room.
Rule 5  COMMIT reports an I/O error, the file is damaged, or an amount came out impossible: fail-stop. Nothing is
        written any more; the next start finds out from the file what happened, and sweeps what was open.
"""

import asyncio
import contextlib
import logging
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tollbridge.core.ledger import (
    Allowance,
    Balance,
    Decision,
    End,
    Extend,
    Held,
    Hold,
    KeyState,
    OpenHold,
    Operation,
    Post,
    Record,
    State,
    Verdict,
    decide,
    hold_id,
)
from tollbridge.errors import InternalError, Unavailable
from tollbridge.store.db import Turn, connect_sqlite
from tollbridge.store.ledger import MOST_IN_BATCH, MOST_WAITING, MOST_WAITING_MS, Counters
from tollbridge.store.ledger.rows import (
    CLAIM,
    USAGE_COLUMNS,
    claimant,
    encode_record,
    end_row,
    first_of,
    key_state,
    opened,
    usage_row,
)
from tollbridge.values import Outcome

_log = logging.getLogger(__name__)

_Item = tuple[Operation, "asyncio.Future[Verdict]", float]

# What waits for room, and what is kept until there is some.
_RESERVING = (Hold, Extend)
_KEPT = (End, Post)

_is_cancelled = methodcaller("cancelled")

_MOST_REMEMBERED = 20_000
_MOST_WAITING_S = MOST_WAITING_MS / 1000
_BUSY_TIMEOUT_S = 0.2
_BUSY_TRIES = 5
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
# How long `stop` tries to write on a full disk.
_LAST_TRIES_S = 5.0

# How often the log is copied into the file, when so much has been written since; and from how many pages on the writer
# helps to finish that, so that the log starts over.
_CHECKPOINT_EVERY_S = 0.25
_CHECKPOINT_OPERATIONS = 250
_LONG_LOG = 2_048

# Primary result codes of SQLite that say that nothing was written, and that it may work later.
_AWAY = frozenset({5, 6, 7, 8, 9, 10, 13, 14, 15})  # BUSY LOCKED NOMEM READONLY INTERRUPT IOERR FULL CANTOPEN PROTOCOL
_BROKEN = frozenset({11, 26})  # CORRUPT NOTADB
_IOERR, _IOERR_WRITE, _CONSTRAINT_CHECK = 10, 778, 275

_FENCED = "SELECT fenced_at FROM process WHERE epoch = ?"
_BALANCE = "SELECT account_id, paid, promo, held, frozen FROM balance WHERE account_id = ?"
_KEY = (
    "SELECT account_id, revoked_at IS NULL AND disabled_at IS NULL, limit_nano, spent, held, expires_at, "
    "limit_reset, since "
    "FROM api_key LEFT JOIN key_spend ON key_id = api_key.id WHERE api_key.id = ?"
)
_HOLD = (
    "SELECT hold.id, account_id, key_id, amount, limited, tokens, period, checkpoint.hold_id "
    "FROM hold LEFT JOIN checkpoint ON checkpoint.hold_id = hold.id WHERE hold.id = ?"
)
_STEPS = "SELECT step, amount FROM hold_step WHERE hold_id = ?"
_USAGE = f"SELECT {USAGE_COLUMNS} FROM usage WHERE hold_id = ?"  # noqa: S608 - a constant
_POSTED = "SELECT 1 FROM journal WHERE idempotency_key = ?"

_ALLOWANCE = "SELECT included, used, held FROM allowance WHERE account_id = ? AND period = ?"

# To look for an adapter of None costs CPython's sqlite3 more than to write the column: an empty text stands for it.
_NOTHING = ""
_NULLABLE = frozenset({"first_byte_ms", "raw", "attempts", "meters", "allowance"})
_ADD_HOLD = (
    "INSERT INTO hold (id, account_id, key_id, amount, limited, expires_at, tokens, period) "
    "VALUES (?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''))"
)
_ADD_STEP = "INSERT INTO hold_step (hold_id, step, amount) VALUES (?, ?, ?)"
_USAGE_VALUES = ", ".join("nullif(?, '')" if name in _NULLABLE else "?" for name in USAGE_COLUMNS.split(", "))
_ADD_USAGE = f"INSERT INTO usage ({USAGE_COLUMNS}) VALUES ({_USAGE_VALUES})"  # noqa: S608 - a constant
_ADD_JOURNAL = (
    "INSERT INTO journal (idempotency_key, kind, account_id, reason, actor, created_at) VALUES (?, ?, ?, ?, ?, ?)"
)
_ADD_ENTRY = "INSERT INTO entry (journal_id, line, book, amount) VALUES (?, ?, ?, ?)"
_SET_BALANCE = "UPDATE balance SET paid = ?, promo = ?, held = ? WHERE account_id = ?"
_SET_SPEND = (
    "INSERT INTO key_spend (key_id, spent, held, since) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (key_id) DO UPDATE SET spent = excluded.spent, held = excluded.held, since = excluded.since"
)
_SET_CHECKPOINT = (
    "INSERT INTO checkpoint (hold_id, charge, record) VALUES (?, ?, ?) "
    "ON CONFLICT (hold_id) DO UPDATE SET charge = excluded.charge, record = excluded.record"
)
_SET_ALLOWANCE = (
    "INSERT INTO allowance (account_id, period, included, used, held) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (account_id, period) "
    "DO UPDATE SET included = excluded.included, used = excluded.used, held = excluded.held"
)
_CLAIM = f"{CLAIM} WHERE claim.account_id = ? AND name = ?"
_SET_CLAIM = (
    "INSERT INTO claim (account_id, name, digest, hold_id, created_at) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (account_id, name) "
    "DO UPDATE SET digest = excluded.digest, hold_id = excluded.hold_id, created_at = excluded.created_at"
)
_DROP_CHECKPOINT = "DELETE FROM checkpoint WHERE hold_id = ?"


class MoneyError(AssertionError):
    """A balance came out that no operation may lead to."""


class UnknownCommitError(Exception):
    """COMMIT failed in a way that leaves open whether the transaction is on the disk."""


class SqliteLedger:
    """See `Ledger`. `epoch` is this process's row in `process`; nobody else may serve from this file.

    `turn`: shared with the `SqliteDatabase` through which this process makes all other changes.
    """

    def __init__(self, path: Path, epoch: int, turn: Turn | None = None) -> None:
        self.epoch = epoch
        self.counters = Counters()
        self._path = path
        self._turn = turn or Turn()
        self._first_id = hold_id(epoch, 0)
        self._last_id = self._first_id
        self._waiting: deque[_Item] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._sleeping = False
        self._stopping = False
        self._failed = True
        self._stalled = False
        self._balances: dict[int, Balance] = {}
        self._keys: dict[int, KeyState] = {}
        self._holds: dict[int, OpenHold] = {}
        self._allowances: dict[tuple[int, int], Allowance] = {}
        self._fenced = False
        self._version = -1
        self._log_is_long = threading.Event()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def failed(self) -> bool:
        return self._failed

    def depth(self) -> int:
        return len(self._waiting)

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._connection = connect_sqlite(self._path, busy_timeout=_BUSY_TIMEOUT_S)
        # A thread of its own does that, so that no commit waits for it.
        self._connection.execute("PRAGMA wal_autocheckpoint=0")
        self._failed = False
        for work in (self._write_for_ever, self._checkpoint_for_ever):
            thread = threading.Thread(target=work, name=f"ledger{work.__name__}", daemon=True)
            thread.start()
            self._threads.append(thread)

    async def stop(self) -> None:
        if not self._threads:
            return
        self._stopping = True
        self._ended.set()
        self._wake.put(None)
        for thread in self._threads:
            await self._loop.run_in_executor(None, thread.join)
        self._threads.clear()
        self._failed = True
        self._connection.close()

    def submit(self, op: Operation) -> asyncio.Future[Verdict]:
        future: asyncio.Future[Verdict] = self._loop.create_future()
        now = time.monotonic()
        if isinstance(op, _RESERVING):
            self._require_room(now)
        elif self._failed or self._stopping:
            _refuse(future, _away())
            return future
        self._waiting.append((op, future, now))
        if self._sleeping:
            self._sleeping = False
            self._wake.put(None)
        return future

    def _require_room(self, now: float) -> None:
        if self._failed or self._stalled or self._stopping:
            raise _away()
        waiting = self._waiting
        if not waiting:
            return
        try:
            is_behind = now - waiting[0][2] > _MOST_WAITING_S
        except IndexError:  # the writer has just taken what waited
            return
        if is_behind or len(waiting) >= MOST_WAITING:
            raise Unavailable("Too many requests are waiting. Try again shortly.", code="overloaded")

    # --- back on the loop ---

    def _resolve(self, batch: Sequence[_Item], verdicts: Sequence[Verdict]) -> None:
        for (op, future, _), verdict in zip(batch, verdicts, strict=True):
            try:
                future.set_result(verdict)
            except asyncio.InvalidStateError:  # nobody waits for it any more
                if isinstance(op, Hold) and isinstance(verdict, Held):
                    self.submit(_given_back(op))

    def _reject(self, batch: Sequence[_Item], error: Exception) -> None:
        for _, future, _ in batch:
            if not future.done():
                _refuse(future, error)

    # --- the writer's thread ---

    def _write_for_ever(self) -> None:
        pause, give_up = _FIRST_PAUSE_S, None
        while True:
            batch = self._take()
            if not batch:
                return
            if self._failed:
                self._tell(self._reject, batch, _away())
                continue
            self._serve(batch)
            if not self._stalled:
                pause, give_up = _FIRST_PAUSE_S, None
                continue
            if self._stopping:
                give_up = give_up or time.monotonic() + _LAST_TRIES_S
                self._failed = time.monotonic() > give_up
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
            self._stalled = bool(self._waiting)

    def _take(self) -> list[_Item]:
        """What has queued, as soon as there is anything; nothing when it is over."""
        waiting = self._waiting
        while not waiting:
            if self._stopping:
                return []
            if self._log_is_long.is_set():
                self._finish_checkpoint()
            self._sleeping = True
            if waiting:
                self._sleeping = False
                break
            self._wake.get()
        return [waiting.popleft() for _ in range(min(len(waiting), MOST_IN_BATCH))]

    def _serve(self, batch: list[_Item]) -> None:
        operations, futures, _ = zip(*batch, strict=True)
        if any(map(_is_cancelled, futures)):
            batch = [item for item in batch if not (item[1].cancelled() and isinstance(item[0], _RESERVING))]
            operations = tuple(item[0] for item in batch)
            if not batch:
                return
        try:
            verdicts = self._transact(operations, careful=False)
        except Exception as error:
            self._sort_out(batch, error)
        else:
            self._stalled = False
            self._tell(self._resolve, batch, verdicts)
        if self._log_is_long.is_set():
            self._finish_checkpoint()

    def _sort_out(self, batch: list[_Item], error: Exception) -> None:
        """After a failed transaction: wait, stop for good, or find whose fault it was."""
        for number, item in enumerate(batch):
            if self._stop_or_wait(batch[number:], error):
                return
            try:
                verdicts = self._transact([item[0]], careful=True)
            except Exception as own_error:
                if self._stop_or_wait(batch[number:], own_error):
                    return
                if _is_impossible(own_error):
                    self._fail(own_error)
                _log.exception("the ledger cannot do this: %s", type(item[0]).__name__)
                self._tell(self._reject, [item], own_error if isinstance(own_error, ValueError) else _broken())
            else:
                self._tell(self._resolve, [item], verdicts)

    def _stop_or_wait(self, batch: list[_Item], error: Exception) -> bool:
        code = getattr(error, "sqlite_errorcode", 0) if isinstance(error, sqlite3.Error) else 0
        if self._failed or isinstance(error, UnknownCommitError) or code & 0xFF in _BROKEN:
            self._fail(error)
            self._tell(self._reject, batch, _away())
            return True
        if code & 0xFF in _AWAY:
            self._stalled = True
            self.counters.retries += 1
            kept = [item for item in batch if isinstance(item[0], _KEPT)]
            self._tell(self._reject, [item for item in batch if not isinstance(item[0], _KEPT)], _away())
            self._waiting.extendleft(reversed(kept))
            return True
        return False

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            _log.critical("the ledger stops: %s", error or type(error).__name__, exc_info=error)
        self._failed = True

    def _tell(self, what: Any, batch: Sequence[_Item], outcome: Any) -> None:
        # The loop may be gone when a test or a crash ends it first; then nobody waits for an answer.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, batch, outcome)

    # --- one transaction ---

    def _transact(self, operations: Sequence[Operation], careful: bool) -> list[Verdict]:
        """The verdicts of `operations`, which are durable. Any exception: nothing was changed, nothing is remembered.

        `careful`: look into the database even for what can only be there when something has gone wrong before.
        """
        ours = self._turn.take(_BUSY_TIMEOUT_S)
        try:
            self._begin()
            try:
                state = self._load(operations, careful)
                now = time.time_ns() // 1_000_000
                decision = decide(state, operations, now)
                self._write(decision, now)
                started = time.perf_counter_ns()
                self._commit()
            except BaseException:
                self._undo()
                raise
        finally:
            if ours:
                self._turn.give()
        counters = self.counters
        counters.batches += 1
        counters.operations += len(operations)
        counters.commit_us = (time.perf_counter_ns() - started) // 1000
        return decision.verdicts

    def _begin(self) -> None:
        for attempt in range(1, _BUSY_TRIES + 1):
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or attempt == _BUSY_TRIES:
                    raise
                self.counters.retries += 1
                time.sleep(random.random() * 0.002 * (1 << attempt))  # noqa: S311
            else:
                return

    def _commit(self) -> None:
        try:
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode
            # A write that was cut short (quota, file size limit) is a full disk; a failed fsync is not.
            if code & 0xFF == _IOERR and code != _IOERR_WRITE:
                raise UnknownCommitError(str(error)) from error
            raise

    def _undo(self) -> None:
        self._version = -1
        self._holds.clear()
        try:
            self._connection.rollback()
        except sqlite3.Error as error:
            raise UnknownCommitError(str(error)) from error

    def _look_for_changes(self) -> None:
        """Forget what is remembered where anybody else may have changed it."""
        version = self._connection.execute("PRAGMA data_version").fetchone()[0]
        remembered = max(len(self._balances), len(self._keys), len(self._allowances))
        if version != self._version or remembered > _MOST_REMEMBERED:
            self._version = version
            self._balances.clear()
            self._keys.clear()
            self._allowances.clear()
            row = self._connection.execute(_FENCED, (self.epoch,)).fetchone()
            self._fenced = row is None or row[0] is not None

    def _load(self, operations: Sequence[Operation], careful: bool) -> State:
        self._look_for_changes()
        balances, keys, holds = self._balances, self._keys, self._holds
        state = State(
            balances=balances,
            keys=keys,
            holds=holds,
            ends={},
            posted=set(),
            fenced=self._fenced,
            allowances=self._allowances,
        )
        for op in operations:
            if isinstance(op, Hold):
                if careful:
                    self._load_hold(state, op.id)
                if op.key_id not in keys:
                    self._load_key(op.key_id)
                if op.period:
                    self._load_allowance(op.account_id, op.period)
                if op.claim is not None:
                    row = self._connection.execute(_CLAIM, (op.account_id, op.claim.name)).fetchone()
                    if row is not None:
                        state.claims[op.account_id, op.claim.name] = claimant(row)
            elif isinstance(op, Post):
                if self._connection.execute(_POSTED, (op.idempotency_key,)).fetchone():
                    state.posted.add(op.idempotency_key)
            else:
                hold = holds.get(op.hold) or self._load_hold(state, op.hold)
                if hold is not None:
                    if hold.limited and hold.key_id not in keys:
                        self._load_key(hold.key_id)
                    if hold.period:
                        self._load_allowance(hold.account_id, hold.period)
            if op.account_id not in balances:
                self._load_balance(op.account_id)
        return state

    def _load_balance(self, account_id: int) -> None:
        row = self._connection.execute(_BALANCE, (account_id,)).fetchone()
        if row is not None:
            self._balances[account_id] = Balance(row[0], row[1], row[2], row[3], bool(row[4]))

    def _load_key(self, key_id: int) -> None:
        row = self._connection.execute(_KEY, (key_id,)).fetchone()
        if row is not None:
            self._keys[key_id] = key_state(key_id, *row)

    def _load_allowance(self, account_id: int, period: int) -> None:
        if (account_id, period) not in self._allowances:
            row = self._connection.execute(_ALLOWANCE, (account_id, period)).fetchone()
            if row is not None:
                self._allowances[account_id, period] = Allowance(account_id, period, *row)

    def _load_hold(self, state: State, hold: int) -> OpenHold | None:
        """The hold if it is open; else its end, if it has one, is in `state`."""
        ended = self._connection.execute(_USAGE, (hold,)).fetchone()
        if ended is not None:
            end = state.ends[hold] = end_row(ended)
            if end.account_id not in self._balances:
                self._load_balance(end.account_id)
            late = f"late/{hold}"
            if end.record.outcome is Outcome.SWEPT and self._connection.execute(_POSTED, (late,)).fetchone():
                state.posted.add(late)
            return None
        row = self._connection.execute(_HOLD, (hold,)).fetchone()
        if row is None:
            return None
        steps = dict(self._connection.execute(_STEPS, (hold,)).fetchall())
        found = self._holds[hold] = opened(row[:-1], steps, row[-1] is not None)
        return found

    def _write(self, decision: Decision, now: int) -> None:
        many = self._connection.executemany
        if decision.holds:
            many(_ADD_HOLD, [_hold_row(hold, expires_at) for hold, expires_at in decision.holds])
        if decision.steps:
            many(_ADD_STEP, decision.steps)
        if decision.ends:
            many(_ADD_USAGE, [usage_row(end, _NOTHING) for end in decision.ends])
        if decision.checkpoints:
            many(
                _SET_CHECKPOINT,
                [(at.hold, at.charge, encode_record(at.record)) for at in decision.checkpoints.values()],
            )
        if decision.forgotten:
            many(_DROP_CHECKPOINT, [(hold,) for hold in decision.forgotten])
        for post in decision.posts:
            self._write_post(post, now)
        if decision.keys:
            _require_possible(min(min(key.spent, key.held) for key in decision.keys.values()))
            many(_SET_SPEND, [(key.key_id, key.spent, key.held, key.since or None) for key in decision.keys.values()])
        if decision.claims:
            claims = decision.claims.items()
            many(_SET_CLAIM, [(*of, each.request, each.hold, each.created_at) for of, each in claims])
        if decision.allowances:
            allowances = decision.allowances.values()
            _require_possible(min(min(each.used, each.held) for each in allowances))
            many(_SET_ALLOWANCE, [(of.account_id, of.period, of.included, of.used, of.held) for of in allowances])
        if decision.balances:
            balances = decision.balances.values()
            _require_possible(min(min(balance.promo, balance.held) for balance in balances))
            rows = [(balance.paid, balance.promo, balance.held, balance.account_id) for balance in balances]
            if many(_SET_BALANCE, rows).rowcount != len(rows):
                raise MoneyError("a balance is missing")

    def _write_post(self, post: Post, now: int) -> None:
        journal = self._connection.execute(
            _ADD_JOURNAL, (post.idempotency_key, post.kind, post.account_id, post.reason, post.actor, now)
        ).lastrowid
        entries = [(journal, line, entry.book, entry.amount) for line, entry in enumerate(post.entries)]
        self._connection.executemany(_ADD_ENTRY, entries)

    # --- moving the log into the file ---

    def _checkpoint_for_ever(self) -> None:
        """Copies most of the log while the writer goes on, then asks it to finish, so that the log starts over."""
        connection = connect_sqlite(self._path)
        copied = 0
        try:
            while not self._ended.wait(_CHECKPOINT_EVERY_S):
                if self.counters.operations - copied < _CHECKPOINT_OPERATIONS:
                    continue
                copied = self.counters.operations
                with contextlib.suppress(sqlite3.Error):
                    _, pages, _ = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                    if pages >= _LONG_LOG:
                        self._log_is_long.set()
        finally:
            connection.close()

    def _finish_checkpoint(self) -> None:
        self._log_is_long.clear()
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")


def _hold_row(hold: OpenHold, expires_at: int) -> tuple[int | str, ...]:
    limited = 1 if hold.limited else 0
    if hold.tokens is None and not hold.steps:
        return (hold.id, hold.account_id, hold.key_id, hold.amount, limited, expires_at, _NOTHING, _NOTHING)
    amount, tokens, period = first_of(hold)
    if tokens is None or period is None:
        return (hold.id, hold.account_id, hold.key_id, amount, limited, expires_at, _NOTHING, _NOTHING)
    return (hold.id, hold.account_id, hold.key_id, amount, limited, expires_at, tokens, period)


def _require_possible(least: int) -> None:
    if least < 0:
        raise MoneyError("an amount that cannot be negative came out negative")


def _is_impossible(error: Exception) -> bool:
    check_failed = isinstance(error, sqlite3.IntegrityError) and error.sqlite_errorcode == _CONSTRAINT_CHECK
    return check_failed or isinstance(error, AssertionError)


def _away() -> Unavailable:
    return Unavailable("The ledger cannot be written at the moment. Nothing was charged.", code="ledger_unavailable")


def _broken() -> InternalError:
    return InternalError("The ledger failed.")


def _refuse(future: asyncio.Future[Verdict], error: Exception) -> None:
    future.set_exception(error)
    # Not every end is waited for: do not complain that nobody looked.
    future.exception()


def _given_back(op: Hold) -> End:
    record = Record(
        started_at=time.time_ns() // 1_000_000, duration_ms=0, price_version=0, outcome=Outcome.CLIENT_LEFT, status=499
    )
    return End(hold=op.id, account_id=op.account_id, key_id=op.key_id, charge=0, record=record)
