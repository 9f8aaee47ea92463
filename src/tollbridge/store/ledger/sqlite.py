"""The books in one SQLite file: one thread writes, and each transaction takes what queued while the last one ran.

Rule 1  A verdict is told only after its transaction is on disk.
Rule 2  If no other request is open there is nothing to queue with: as long as the disk is quick, the event loop then
        writes by itself, which saves waking two threads (docs/decisions/0017). The writer sleeps meanwhile.
Rule 3  A transaction that fails is undone, and each of its operations is tried alone, rereading everything it needs:
        one bad operation does not fail its neighbours.
Rule 4  Disk full, database locked: holds are refused; ends wait in memory and are retried until there is room.
Rule 5  COMMIT reports an I/O error, the file is damaged, or an impossible amount came out: fail-stop. Nothing more is
        written; the next start finds out from the file what happened, and sweeps what was open.
"""

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Sequence
from operator import methodcaller
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tollbridge.core.ledger import End, Extend, Held, Hold, Operation, Post, Verdict, hold_id
from tollbridge.store.db import Turn, connect_sqlite
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
from tollbridge.store.ledger.sqlite_books import Books, UnknownCommitError

_log = logging.getLogger(__name__)

_Item = tuple[Operation, "asyncio.Future[Verdict]", float]
# What failed on the loop, and why.
_Trouble = tuple[_Item, Exception]

# What is refused while there is no room, and what is kept until there is.
_RESERVING = (Hold, Extend)
_KEPT = (End, Post)

_is_cancelled = methodcaller("cancelled")

_MOST_WAITING_S = MOST_WAITING_MS / 1000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.5
# How long `stop` keeps trying to write to a full disk.
_LAST_TRIES_S = 5.0
# How often it says why it cannot write, at most.
_TELL_EVERY_S = 60.0

# How often the log is copied into the file, once this many operations have been written since; and from how many pages
# on the writer helps to finish the copy, so that the log starts over.
_CHECKPOINT_EVERY_S = 0.25
_CHECKPOINT_OPERATIONS = 250
_LONG_LOG = 2_048

# Primary result codes of SQLite which say that nothing was written and that it may work later.
_AWAY = frozenset({5, 6, 7, 8, 9, 10, 13, 14, 15})  # BUSY LOCKED NOMEM READONLY INTERRUPT IOERR FULL CANTOPEN PROTOCOL
_BROKEN = frozenset({11, 26})  # CORRUPT NOTADB
_CONSTRAINT_CHECK = 275

# After a commit that took longer than this, the loop does not wait for the next one.
_QUICK_US = 1_000


class SqliteLedger:
    """See `Ledger`. `epoch` is this process's row in `process`; nobody else may serve from this file.

    `turn`: shared with the `SqliteDatabase` through which this process makes all other changes.
    """

    def __init__(self, path: Path, epoch: int, turn: Turn | None = None) -> None:
        self.epoch = epoch
        self.counters = Counters()
        self._path = path
        self._turn = turn or Turn()
        self.next_id = itertools.count(hold_id(epoch, 1)).__next__
        self._waiting: deque[_Item] = deque()
        self._wake: SimpleQueue[_Trouble | None] = SimpleQueue()
        self._sleeping = False
        self._stopping = False
        self._failed = True
        self._stalled = False
        self._tell_after = 0.0
        self._log_is_long = threading.Event()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def failed(self) -> bool:
        return self._failed

    def depth(self) -> int:
        return len(self._waiting)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._books = Books(connect_sqlite(self._path), self.epoch, self._turn, self.counters)
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
        self._books.close()

    def submit(self, op: Operation) -> asyncio.Future[Verdict]:
        future: asyncio.Future[Verdict] = self._loop.create_future()
        now = time.monotonic()
        if isinstance(op, _RESERVING):
            self._require_room(now)
        elif self._failed or self._stopping:
            refuse(future, away())
            return future
        # In this order: a writer about to sleep looks once more for anything waiting.
        if not self._waiting and self._sleeping and self._is_quick_for(op):
            self._serve_here((op, future, now))
        else:
            self._waiting.append((op, future, now))
            if self._sleeping:
                self._wake_up()
        return future

    def _wake_up(self, trouble: _Trouble | None = None) -> None:
        self._sleeping = False
        self._wake.put(trouble)

    def _is_quick_for(self, op: Operation) -> bool:
        """Whether no other request is open and the last commit was quick."""
        others = len(self._books.holds) if isinstance(op, Hold) else len(self._books.holds) - 1
        return others <= 0 and self.counters.commit_us <= _QUICK_US

    def _serve_here(self, item: _Item) -> None:
        """Carry it out on the loop while the writer sleeps. If that does not work, it is left to the writer."""
        try:
            verdict = self._books.apply_at_once(item[0])
        except Exception as error:
            self._wake_up((item, error))
            return
        if verdict is not None:
            item[1].set_result(verdict)
            if self._log_is_long.is_set():
                self._wake_up()
        else:
            self._waiting.append(item)
            self._wake_up()

    def _require_room(self, now: float) -> None:
        if self._failed or self._stalled or self._stopping:
            raise away()
        waiting = self._waiting
        if not waiting:
            return
        try:
            is_behind = now - waiting[0][2] > _MOST_WAITING_S
        except IndexError:  # the writer has just taken what was waiting
            return
        if is_behind or len(waiting) >= MOST_WAITING:
            raise behind()

    # --- back on the loop ---

    def _resolve(
        self, operations: Sequence[Operation], futures: Sequence[asyncio.Future[Verdict]], verdicts: Sequence[Verdict]
    ) -> None:
        for op, future, verdict in zip(operations, futures, verdicts, strict=True):
            try:
                future.set_result(verdict)
            except asyncio.InvalidStateError:  # nobody is waiting for it any more
                if isinstance(op, Hold) and isinstance(verdict, Held):
                    self.submit(given_back(op))

    def _reject(self, batch: Sequence[_Item], error: Exception) -> None:
        for _, future, _ in batch:
            refuse(future, error)

    # --- the writer's thread ---

    def _write_for_ever(self) -> None:
        pause, give_up = _FIRST_PAUSE_S, None
        while True:
            batch, error = self._take()
            if not batch:
                return
            if self._failed:
                self._tell(self._reject, batch, away())
                continue
            if error is None:
                self._serve(batch)
            else:
                self._sort_out(batch, error)
            if not self._stalled:
                pause, give_up = _FIRST_PAUSE_S, None
                continue
            if self._stopping:
                give_up = give_up or time.monotonic() + _LAST_TRIES_S
                self._failed = time.monotonic() > give_up
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
            self._stalled = bool(self._waiting)

    def _take(self) -> tuple[list[_Item], Exception | None]:
        """What has queued, as soon as there is anything; or what failed on the loop; or nothing, once it is over."""
        waiting = self._waiting
        while not waiting:
            if self._stopping and self._wake.empty():  # what failed on the loop may still arrive
                return [], None
            if self._log_is_long.is_set():
                self._finish_checkpoint()
            self._sleeping = True
            if waiting:
                self._sleeping = False
                break
            trouble = self._wake.get()
            if trouble is not None:
                return [trouble[0]], trouble[1]
        return list(map(deque.popleft, itertools.repeat(waiting, min(len(waiting), MOST_IN_BATCH)))), None

    def _serve(self, batch: list[_Item]) -> None:
        operations, futures, _ = zip(*batch, strict=True)
        if any(map(_is_cancelled, futures)):
            batch = [item for item in batch if not (item[1].cancelled() and isinstance(item[0], _RESERVING))]
            if not batch:
                return
            operations, futures, _ = zip(*batch, strict=True)
        try:
            verdicts = self._books.apply(operations)
        except Exception as error:
            self._sort_out(batch, error)
        else:
            self._stalled = False
            self._tell(self._resolve, operations, futures, verdicts)
        if self._log_is_long.is_set():
            self._finish_checkpoint()

    def _sort_out(self, batch: list[_Item], error: Exception) -> None:
        """After a failed transaction: wait, stop for good, or find the operation at fault."""
        for number, item in enumerate(batch):
            if self._stop_or_wait(batch[number:], error):
                return
            try:
                verdicts = self._books.apply([item[0]], careful=True)
            except Exception as own_error:
                if self._stop_or_wait(batch[number:], own_error):
                    return
                if _is_impossible(own_error):
                    self._fail(own_error)
                _log.exception("the ledger could not carry out an operation: %s", type(item[0]).__name__)
                self._tell(self._reject, [item], broken(own_error))
            else:
                self._tell(self._resolve, [item[0]], [item[1]], verdicts)

    def _stop_or_wait(self, batch: list[_Item], error: Exception) -> bool:
        code = getattr(error, "sqlite_errorcode", 0) if isinstance(error, sqlite3.Error) else 0
        if self._failed or isinstance(error, UnknownCommitError) or code & 0xFF in _BROKEN:
            self._fail(error)
            self._tell(self._reject, batch, away())
            return True
        if code & 0xFF in _AWAY:
            self._stalled = True
            if time.monotonic() >= self._tell_after:
                self._tell_after = time.monotonic() + _TELL_EVERY_S
                _log.warning("the ledger cannot write: new calls are refused, and ends wait: %s", error)
            self.counters.retries += 1
            kept = [item for item in batch if isinstance(item[0], _KEPT)]
            self._tell(self._reject, [item for item in batch if not isinstance(item[0], _KEPT)], away())
            self._waiting.extendleft(reversed(kept))
            return True
        return False

    def _fail(self, error: Exception) -> None:
        if not self._failed:
            _log.critical("the ledger has failed and stops: %s", error or type(error).__name__, exc_info=error)
        self._failed = True

    def _tell(self, what: Any, *outcome: Any) -> None:
        # A test or a crash may end the loop first; then nobody is waiting for an answer.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(what, *outcome)

    # --- moving the log into the file ---

    def _checkpoint_for_ever(self) -> None:
        """Copy most of the log while the writer goes on, then ask it to finish, so that the log starts over."""
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
        self._books.finish_checkpoint()


def _is_impossible(error: Exception) -> bool:
    check_failed = isinstance(error, sqlite3.IntegrityError) and error.sqlite_errorcode == _CONSTRAINT_CHECK
    return check_failed or isinstance(error, AssertionError)
