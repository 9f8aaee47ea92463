"""One batch of operations, as one transaction over one SQLite connection.

Rule 1  `apply` returns after COMMIT has, and so after the batch is on disk (WAL, synchronous=FULL).
Rule 2  What is remembered of the database is dropped after anybody else has written to it (PRAGMA data_version), except
        holds, which nobody else ends and unique keys guard. It is all dropped after anything went wrong.
"""

import contextlib
import itertools
import random
import sqlite3
import time
from collections.abc import Sequence, Sized

from tollbridge.core.ledger import (
    Allowance,
    Balance,
    Decision,
    Hold,
    KeyState,
    OpenHold,
    Operation,
    Post,
    State,
    Verdict,
    decide,
)
from tollbridge.store.db import Turn
from tollbridge.store.ledger import Counters
from tollbridge.store.ledger.rows import (
    CLAIM,
    KEY,
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

_MOST_REMEMBERED = 20_000
# How long others may keep the file locked: those of this process, and other processes.
_TURN_S = 0.2
_PATIENCE_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.025

_IOERR, _IOERR_WRITE = 10, 778

_FENCED = "SELECT fenced_at FROM process WHERE epoch = ?"
_BALANCE = "SELECT account_id, paid, promo, held, frozen FROM balance WHERE account_id = ?"
_KEY = f"{KEY} WHERE api_key.id = ?"
_HOLD = (
    "SELECT hold.id, account_id, key_id, amount, limited, tokens, period, checkpoint.hold_id "
    "FROM hold LEFT JOIN checkpoint ON checkpoint.hold_id = hold.id WHERE hold.id = ?"
)
_STEPS = "SELECT step, amount FROM hold_step WHERE hold_id = ?"
_USAGE = f"SELECT {USAGE_COLUMNS} FROM usage WHERE hold_id = ?"  # noqa: S608 - a constant
_POSTED = "SELECT 1 FROM journal WHERE idempotency_key = ?"

_ALLOWANCE = "SELECT included, used, held FROM allowance WHERE account_id = ? AND period = ?"

# To look for an adapter of None costs CPython's sqlite3 more than to write the column: a number that is none of theirs
# stands for it.
_NOTHING = -1
_NULLABLE = frozenset({"first_byte_ms", "raw", "attempts", "meters", "allowance"})
_ADD_HOLD = (
    "INSERT INTO hold (id, account_id, key_id, amount, limited, expires_at, tokens, period) "
    "VALUES (?, ?, ?, ?, ?, ?, nullif(?, -1), nullif(?, -1))"
)
_ADD_STEP = "INSERT INTO hold_step (hold_id, step, amount) VALUES (?, ?, ?)"
_USAGE_VALUES = ", ".join("nullif(?, -1)" if name in _NULLABLE else "?" for name in USAGE_COLUMNS.split(", "))
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


class Books:
    """The books in one file, as the process of row `epoch` in `process` changes them. For one thread at a time.

    `connection` is theirs alone; `turn` is shared with all others of this process who write to the file.
    """

    def __init__(self, connection: sqlite3.Connection, epoch: int, turn: Turn, counters: Counters) -> None:
        self._connection = connection
        # For what every transaction does: each statement on the connection itself makes a cursor first.
        self._cursor = connection.cursor()
        self._epoch = epoch
        self._turn = turn
        self._counters = counters
        # A thread of its own does that, so that no commit waits for it.
        connection.execute("PRAGMA wal_autocheckpoint=0")
        # Who waits, and how long, is said for each transaction.
        connection.execute("PRAGMA busy_timeout=0")
        # Those of this process that have not ended.
        self.holds: dict[int, OpenHold] = {}
        self._balances: dict[int, Balance] = {}
        self._keys: dict[int, KeyState] = {}
        self._allowances: dict[tuple[int, int], Allowance] = {}
        self._fenced = False
        self._version = -1

    def close(self) -> None:
        self._connection.close()

    def apply(self, operations: Sequence[Operation], *, careful: bool = False) -> list[Verdict]:
        """The verdicts of `operations`, which are durable.

        `UnknownCommitError`: whether anything was changed is unknown. Any other exception: nothing was changed, nothing
        is remembered.

        `careful`: look into the database even for what can only be there when something has gone wrong before.
        """
        ours = self._turn.take(_TURN_S)
        try:
            return self._apply(operations, careful, _PATIENCE_S)
        finally:
            if ours:
                self._turn.give()

    def apply_at_once(self, operation: Operation) -> Verdict | None:
        """As `apply`, without waiting for anybody else who writes: then None."""
        if not self._turn.take(0):
            return None
        try:
            return self._apply((operation,), careful=False, patience_s=0)[0]
        except sqlite3.OperationalError as error:
            if _is_busy(error):
                return None
            raise
        finally:
            self._turn.give()

    def finish_checkpoint(self) -> None:
        """Copy the rest of the log into the file. It starts over then, unless somebody still reads from it."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    # --- one transaction ---

    def _apply(self, operations: Sequence[Operation], careful: bool, patience_s: float) -> list[Verdict]:
        self._begin(patience_s)
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
        counters = self._counters
        counters.batches += 1
        counters.operations += len(operations)
        counters.commit_us = (time.perf_counter_ns() - started) // 1000
        return decision.verdicts

    def _begin(self, patience_s: float) -> None:
        """Raises sqlite3.OperationalError: BUSY, where another process keeps the file locked for longer."""
        until, pause = time.monotonic() + patience_s, _FIRST_PAUSE_S
        while True:
            try:
                self._cursor.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() >= until:
                    raise
                if pause == _FIRST_PAUSE_S:
                    self._counters.retries += 1
                time.sleep(pause * (0.5 + random.random()))  # noqa: S311
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            else:
                return

    def _commit(self) -> None:
        try:
            self._cursor.execute("COMMIT")
        except sqlite3.OperationalError as error:
            code = error.sqlite_errorcode
            # A write that was cut short (quota, file size limit) is a full disk; a failed fsync is not.
            if code & 0xFF == _IOERR and code != _IOERR_WRITE:
                raise UnknownCommitError(str(error)) from error
            raise

    def _undo(self) -> None:
        self._version = -1
        self.holds.clear()
        try:
            self._connection.rollback()
        except sqlite3.Error as error:
            raise UnknownCommitError(str(error)) from error

    def _look_for_changes(self) -> None:
        """Forget what is remembered where anybody else may have changed it."""
        version = self._cursor.execute("PRAGMA data_version").fetchone()[0]
        if version != self._version:
            self._version = version
            self._balances.clear()
            self._keys.clear()
            self._allowances.clear()
            row = self._connection.execute(_FENCED, (self._epoch,)).fetchone()
            self._fenced = row is None or row[0] is not None

    def _load(self, operations: Sequence[Operation], careful: bool) -> State:
        self._look_for_changes()
        balances, keys, holds = self._balances, self._keys, self.holds
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
            self._note_size(self._balances)

    def _load_key(self, key_id: int) -> None:
        row = self._connection.execute(_KEY, (key_id,)).fetchone()
        if row is not None:
            self._keys[key_id] = key_state(key_id, *row)
            self._note_size(self._keys)

    def _load_allowance(self, account_id: int, period: int) -> None:
        if (account_id, period) not in self._allowances:
            row = self._connection.execute(_ALLOWANCE, (account_id, period)).fetchone()
            if row is not None:
                self._allowances[account_id, period] = Allowance(account_id, period, *row)
            self._note_size(self._allowances)

    def _note_size(self, remembered: Sized) -> None:
        """Of too much all is forgotten, before the next transaction."""
        if len(remembered) > _MOST_REMEMBERED:
            self._version = -1

    def _load_hold(self, state: State, hold: int) -> OpenHold | None:
        """The hold if it is open; else its end, if it has one, is in `state`."""
        ended = self._connection.execute(_USAGE, (hold,)).fetchone()
        if ended is not None:
            end = state.ends[hold] = end_row(ended)
            if end.account_id not in self._balances:
                self._load_balance(end.account_id)
            late = f"late/{hold}"
            if end.record.outcome is Outcome.SWEPT:
                if self._connection.execute(_POSTED, (late,)).fetchone():
                    state.posted.add(late)
                elif end.limited and end.key_id not in self._keys:
                    self._load_key(end.key_id)
            return None
        row = self._connection.execute(_HOLD, (hold,)).fetchone()
        if row is None:
            return None
        steps = dict(self._connection.execute(_STEPS, (hold,)).fetchall())
        found = self.holds[hold] = opened(row[:-1], steps, row[-1] is not None)
        return found

    def _write(self, decision: Decision, now: int) -> None:
        many = self._cursor.executemany
        if decision.holds:
            many(_ADD_HOLD, map(_hold_row, decision.holds))
        if decision.steps:
            many(_ADD_STEP, decision.steps)
        if decision.ends:
            many(_ADD_USAGE, map(usage_row, decision.ends, itertools.repeat(_NOTHING)))
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
            rows = []
            for account_id, balance in decision.balances.items():
                _require_possible(min(balance.promo, balance.held))
                rows.append((balance.paid, balance.promo, balance.held, account_id))
            if many(_SET_BALANCE, rows).rowcount != len(rows):
                raise MoneyError("a balance is missing")

    def _write_post(self, post: Post, now: int) -> None:
        journal = self._connection.execute(
            _ADD_JOURNAL, (post.idempotency_key, post.kind, post.account_id, post.reason, post.actor, now)
        ).lastrowid
        entries = [(journal, line, entry.book, entry.amount) for line, entry in enumerate(post.entries)]
        self._connection.executemany(_ADD_ENTRY, entries)


def _hold_row(hold: OpenHold) -> tuple[int, ...]:
    limited = 1 if hold.limited else 0
    if hold.tokens is None and not hold.steps:
        return (hold.id, hold.account_id, hold.key_id, hold.amount, limited, hold.expires_at, _NOTHING, _NOTHING)
    amount, tokens, period = first_of(hold)
    if tokens is None or period is None:
        return (hold.id, hold.account_id, hold.key_id, amount, limited, hold.expires_at, _NOTHING, _NOTHING)
    return (hold.id, hold.account_id, hold.key_id, amount, limited, hold.expires_at, tokens, period)


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _require_possible(least: int) -> None:
    if least < 0:
        raise MoneyError("an amount that cannot be negative came out negative")
