"""Processes, and the holds that they leave behind.

Rule 1  A process has a row with an epoch of its own, and says every `BEAT_S` seconds, in the database's time, that it
        is alive. The ids of its holds begin with the epoch.
Rule 2  A dead process's epoch is fenced before its holds are ended: should it be alive after all, it gets no more.
        A hold that it left ends at its last checkpoint; without one, nothing is charged.
Rule 3  A process is dead if it stopped, if it has gone from this machine, or if it has been silent for `TTL_MS`. Only a
        process that was itself heard all that time may act on silence: an outage of the database kills nobody's holds.
Rule 4  A SQLite file has one server, which holds a lock beside it: when it starts, every process before it is dead.
Rule 5  The lock's file remembers the latest heartbeat that reached the disk. A database that does not have it has lost
        something (its write-ahead log, or everything since a backup) and is not served from.
Rule 6  Of two copies of the books, only one is served from: a file copied to PostgreSQL is marked as such.
Rule 7  What is written to a file that has lost its name is gone when its last process ends: nobody sells on it.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
import time
from pathlib import Path

import msgspec

from tollbridge.core.ledger import End, Record, hold_id
from tollbridge.errors import ConfigError, TollbridgeError, Unavailable
from tollbridge.store.db import Database, Transaction
from tollbridge.store.ledger import Ledger
from tollbridge.store.ledger.rows import decode_record
from tollbridge.values import FOR_EVER, Outcome

_log = logging.getLogger("tollbridge")

BEAT_S = 5.0
# The longest that a hold can live (`Hold.ttl_ms`).
TTL_MS = 1_000_000
# Who was not heard of for so long may be dead.
_ALIVE_MS = 15_000
# If clocks disagree by more than this, one of them has jumped.
_JUMP_MS = 30_000
# More than clocks differ that are set by the network.
_APART_S = 5
_PAGE = 256
# How many ids one statement looks through: this many never take long.
_WINDOW = 20_000
_SMALL_FILE = 64 << 20

# Each end is looked up by itself. A join is not safe on PostgreSQL, which believes that a new process has hardly any
# holds: it compared all of them with all of their ends, and with a few thousand no gateway could start.
_OPEN = (
    "SELECT hold.id, hold.account_id, hold.key_id, hold.expires_at, checkpoint.charge, checkpoint.record "
    "FROM hold LEFT JOIN checkpoint ON checkpoint.hold_id = hold.id WHERE hold.id > $1 AND hold.id <= $2 "
    "AND (SELECT COUNT(*) FROM usage WHERE usage.hold_id = hold.id) = 0 ORDER BY hold.id LIMIT $3"
)


class Fenced(TollbridgeError):
    """Others took this process for dead and are ending its holds: it must stop."""


class FileLost(Fenced):
    """The SQLite file is another one, or none: the books are only in this process, which must go on living (Rule 7)."""


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """The latest heartbeat known to be on disk. `moved`: everything was then copied to PostgreSQL (Rule 6)."""

    epoch: int
    heartbeat_at: int
    moved: bool = False


class FileLock:
    """The lock beside a SQLite file (`<file>-lock`) that its one server holds, with the mark of Rule 5 in it."""

    def __init__(self, database: Path) -> None:
        self.database = database
        self.path = database.with_name(f"{database.name}-lock")
        self._file: int | None = None

    def acquire(self) -> None:
        """ConfigError: another server has it. The lock is released when the process ends, however that happens."""
        if self._file is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            raise ConfigError(
                f"another Tollbridge serves from {self.path.parent}: stop it, or use another data directory"
            ) from error
        self._file = file

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @property
    def mark(self) -> Mark | None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(self.path.read_bytes(), type=Mark)
        return None

    def write_mark(self, mark: Mark) -> None:
        if self._file is not None:
            # Of constant length, so that a mark is replaced whole.
            os.pwrite(self._file, msgspec.json.encode(mark).ljust(64), 0)


class Process:
    """This process's row. `lock` for SQLite; None on PostgreSQL."""

    def __init__(self, database: Database, epoch: int, lock: FileLock | None) -> None:
        self.epoch = epoch
        self._database = database
        self._lock = lock
        self._file = None if lock is None else _file_at(lock.database)
        self._heard_since = time.monotonic()
        self._last: tuple[float, int] | None = None
        self._noted = 0
        self._apart = False
        # For each living epoch, the ids up to which nothing was open at the last sweep but one, and at the last one.
        self._closed: dict[int, tuple[int, int]] = {}

    async def beat(self) -> None:
        """Report that this process is alive. Raises `Fenced` if nobody believes it any more, and `FileLost`."""
        if self._lock is not None and _file_at(self._lock.database, self._file) != self._file:
            raise FileLost(
                f"{self._lock.database} was removed or replaced while this process serves from it: no paid call is "
                f"taken any more. The books are only in an open file, one of /proc/{os.getpid()}/fd: before you stop "
                "this process, copy that to where it was"
            )
        now, apart = await clock(self._database)
        if apart and not self._apart:
            _log.warning("this machine's clock is %s: set both by NTP; see `tollbridge doctor`", apart)
        self._apart = bool(apart)
        noted = self._to_note(now)
        beaten = await self._database.execute(
            "UPDATE process SET heartbeat_at = $2 WHERE epoch = $1 AND fenced_at IS NULL", self.epoch, noted
        )
        if not beaten:
            raise Fenced("this process was taken for dead: its holds are being ended, and it must be started again")
        if self._lock is not None:
            self._lock.write_mark(Mark(self.epoch, noted))
        at = time.monotonic()
        if self._last is not None and self._missed(at, now, *self._last):
            self._heard_since = at
        self._last = at, now

    def unheard(self) -> float:
        """Seconds since the database last took a beat, or since the start."""
        return time.monotonic() - (self._heard_since if self._last is None else self._last[0])

    def _to_note(self, now: int) -> int:
        """The heartbeat to keep, which in a file never goes back, as clocks do.

        A power failure may leave the mark before the last one.
        """
        if self._lock is not None:
            now = self._noted = max(now, self._noted)
        return now

    def _missed(self, at: float, now: int, last_at: float, last_now: int) -> bool:
        """Whether a beat is overdue since the last one, or a clock jumped."""
        waited = int((at - last_at) * 1000)
        return waited > _JUMP_MS or abs(now - last_now - waited) > _JUMP_MS

    async def recover(self, ledger: Ledger) -> int:
        """Before anybody is served, end what certainly dead processes left; how many holds."""
        count = 0
        for epoch, host, pid, stopped_at, _ in await self._others():
            if self._lock is not None or stopped_at is not None or _gone(host, pid):
                count += await self._bury(ledger, epoch)
        return count

    async def sweep(self, ledger: Ledger) -> int:
        """End the holds of dead processes, and expired ones of the living, our own included; how many."""
        count = await self.recover(ledger)
        # Expiry is subject to Rule 3 too: if time jumped, all holds look expired.
        if time.monotonic() - self._heard_since < TTL_MS // 1000:
            return count
        at, now = time.monotonic(), await self._database.now()
        # Nor has the next beat noticed yet that it did.
        if self._last is not None and self._missed(at, now, *self._last):
            return count
        for epoch, _, _, _, heartbeat_at in await self._others():
            if heartbeat_at < now - TTL_MS:
                count += await self._bury(ledger, epoch, unless_heard_since=now - TTL_MS)
            else:
                count += await self._sweep_living(ledger, epoch, now)
        return count + await self._sweep_living(ledger, self.epoch, now)

    async def finish(self) -> None:
        """End this process in order; nothing of it is open. A database that is away is not told: others will notice."""
        try:
            now = self._to_note(await self._database.now())
            await self._database.execute(
                "UPDATE process SET heartbeat_at = $2, stopped_at = $2 WHERE epoch = $1", self.epoch, now
            )
            # A file that was copied back has nothing of what is written now (Rule 7), and must be good to serve from.
            if self._lock is not None and _file_at(self._lock.database, self._file) == self._file:
                self._lock.write_mark(Mark(self.epoch, now))
        except Unavailable as error:
            _log.warning("the database was not told that this process has ended: %s", error)
        if self._lock is not None:
            self._lock.release()

    async def _sweep_living(self, ledger: Ledger, epoch: int, now: int) -> int:
        """End what has expired, looking only behind what was closed as of the last sweep but one.

        Not the last one: an id may have been given out just before it and be used just after.
        """
        before = await _sealed_until(self._database, epoch)
        older, newer = self._closed.get(epoch, (before, before))
        count, closed = await _sweep(self._database, ledger, epoch, now, max(older, before))
        self._closed[epoch] = newer, closed
        return count

    async def _others(self) -> list[tuple[int, str, int, int | None, int]]:
        return [
            (row[0], row[1], row[2], row[3], row[4])
            for row in await self._database.fetch(
                "SELECT epoch, host, pid, stopped_at, heartbeat_at FROM process "
                "WHERE swept_at IS NULL AND epoch <> $1 ORDER BY epoch",
                self.epoch,
            )
        ]

    async def _bury(self, ledger: Ledger, epoch: int, unless_heard_since: int = FOR_EVER) -> int:
        now = await self._database.now()
        await self._database.execute(
            "UPDATE process SET fenced_at = $2 WHERE epoch = $1 AND fenced_at IS NULL AND heartbeat_at < $3",
            *(epoch, now, unless_heard_since),
        )
        fenced = await self._database.fetch("SELECT fenced_at FROM process WHERE epoch = $1", epoch)
        if fenced[0][0] is None:
            return 0
        count = await sweep(self._database, ledger, epoch, FOR_EVER)
        await self._database.execute("UPDATE process SET swept_at = $2 WHERE epoch = $1", epoch, now)
        return count


async def begin(database: Database, lock: FileLock | None = None) -> Process:
    """Register this process. `lock` is that of a SQLite file, already acquired.

    ConfigError: the file is damaged, not the one that was used last (Rule 5), or not served from any more (Rule 6).
    """
    if lock is not None:
        await _require_sound(database)
        await require_newest(database, lock)
        require_unmoved(lock)
    now = await database.now()
    rows = await database.fetch(
        "INSERT INTO process (host, pid, started_at, heartbeat_at) VALUES ($1, $2, $3, $3) RETURNING epoch",
        *(_identity(), os.getpid(), now),
    )
    return Process(database, int(rows[0][0]), lock)


async def clock(database: Database) -> tuple[int, str]:
    """The database's time, and if this machine's is too far from it, how far: `"90 s ahead of the database's"`."""
    before = time.time()
    now = await database.now()
    ahead = (before + time.time()) / 2 - now / 1000
    if abs(ahead) < _APART_S:
        return now, ""
    return now, f"{abs(ahead):,.0f} s {'ahead of' if ahead > 0 else 'behind'} the database's"


async def serving(database: Database, *, beside: int = 0) -> int:
    """How many processes serve from `database`, as far as one can know; `beside`: the epoch of one not to count.

    0 on SQLite: a file has one server, whatever rows the dead have left.
    """
    if database.dialect == "sqlite":
        return 0
    rows = await database.fetch(
        "SELECT COUNT(*) FROM process "
        "WHERE epoch <> $1 AND stopped_at IS NULL AND fenced_at IS NULL AND heartbeat_at > $2",
        *(beside, await database.now() - _ALIVE_MS),
    )
    return int(rows[0][0])


async def require_newest(database: Transaction, lock: FileLock) -> None:
    """ConfigError: the file has lost something that it once had (Rule 5)."""
    if lock.mark is None or not lock.mark.epoch:
        return
    rows = await database.fetch("SELECT heartbeat_at FROM process WHERE epoch = $1", lock.mark.epoch)
    if not rows or rows[0][0] < lock.mark.heartbeat_at:
        raise ConfigError(
            "the database is older than when it was last used: its write-ahead log (the file that ends in -wal) "
            "is missing or damaged. Put it back, or restore a backup"
        )


def require_unmoved(lock: FileLock) -> None:
    """ConfigError: the file must no longer be served from (Rule 6)."""
    if lock.mark is not None and lock.mark.moved:
        raise ConfigError(
            "this database was copied to PostgreSQL: set database_url to that one. Who serves from both sells the "
            f"same credit twice. To give that copy up and go on with this file, remove {lock.path}"
        )


async def mark_moved(database: Transaction, lock: FileLock) -> None:
    """Stop everybody from serving from the file: all of it is on PostgreSQL."""
    newest = await database.fetch("SELECT epoch, heartbeat_at FROM process ORDER BY epoch DESC LIMIT 1")
    epoch, heartbeat_at = newest[0] if newest else (0, 0)
    lock.write_mark(Mark(epoch, heartbeat_at, moved=True))


async def _require_sound(database: Database) -> None:
    """Check a file small enough to be read in an instant; a larger one is checked when its books are verified."""
    pages = await database.fetch("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
    if pages[0][0] > _SMALL_FILE:
        return
    found = await database.fetch("PRAGMA quick_check(1)")
    if found[0][0] != "ok":
        raise ConfigError(f"the database file is damaged: {found[0][0]}. Restore a backup")


async def sweep(database: Database, ledger: Ledger, epoch: int, now: int) -> int:
    """End the holds of `epoch` that expired before `now`, each at its last checkpoint; how many."""
    count, _ = await _sweep(database, ledger, epoch, now, await _sealed_until(database, epoch))
    return count


async def _sweep(database: Database, ledger: Ledger, epoch: int, now: int, after: int) -> tuple[int, int]:
    """How many of the holds behind id `after` were ended, and up to which id none is open."""
    ends = hold_id(epoch + 1, 0)
    newest = await database.fetch("SELECT MAX(id) FROM hold WHERE id > $1 AND id < $2", after, ends)
    last: int = newest[0][0] or after
    count, first_open = 0, last + 1
    while after < last:
        until = min(after + _WINDOW, last)
        rows = await database.fetch(_OPEN, after, until, _PAGE)
        expired = [row for row in rows if row[3] < now]
        first_open = min([first_open, *(row[0] for row in rows if row[3] >= now)])
        await asyncio.gather(*(ledger.submit(_swept(*row)) for row in expired))
        count += len(expired)
        after = rows[-1][0] if len(rows) == _PAGE else until
    return count, first_open - 1


async def _sealed_until(database: Transaction, epoch: int) -> int:
    """Up to this id, nothing of `epoch` is open: it is sealed."""
    rows = await database.fetch("SELECT MAX(last_id) FROM seal WHERE chain = $1", f"usage/{epoch}")
    return max(rows[0][0] or 0, hold_id(epoch, 0))


def _swept(id_: int, account_id: int, key_id: int, expires_at: int, charge: int | None, record: bytes | None) -> End:
    if charge is None or record is None:
        made_at = expires_at - TTL_MS
        last = Record(started_at=made_at, duration_ms=0, price_version=0, outcome=Outcome.SWEPT, status=500)
    else:
        last = msgspec.structs.replace(decode_record(record), outcome=Outcome.SWEPT)
    return End(hold=id_, account_id=account_id, key_id=key_id, charge=charge or 0, record=last)


def _identity() -> str:
    """The scope in which process ids mean the same: the machine since its last boot, and the PID namespace."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def _file_at(path: Path, unknown: tuple[int, int] | None = None) -> tuple[int, int] | None:
    """The file that has this name: (device, inode); None: there is none. `unknown`: what to say if nobody can tell."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    except OSError:
        return unknown
    return found.st_dev, found.st_ino


def _gone(host: str, pid: int) -> bool:
    if host.count(" ") != 2 or host != _identity():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
