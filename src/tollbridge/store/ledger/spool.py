"""Ends that the database could not take, safe on this machine's disk until it can.

    spool = Spool(directory, epoch, started_at)          # in the loop in which `done` is to be called
    spool.append(operations, done)                       # done(None) once they are fsynced, done(error) if they are not
    spool.clear()                                        # everything appended before is in the database
    for leftover in leftovers(directory): ...            # files of dead processes

Rule 1  A file belongs to one process: `<epoch>-<started_at>.spool`, both as in its row of `process`, so that a file is
        never replayed into another database. The process keeps its file locked for as long as it lives.
Rule 2  A record is appended once and never changed. Replaying it any number of times has the effect of replaying it
        once, because the ledger ends a hold at most once; so a file may be emptied late, never early.
Rule 3  A torn tail is a record that was never acknowledged: it is dropped. A damaged record with others behind it is
        skipped, and the file is kept for a person to look at.

A record is `<II` (length, CRC-32 of the rest), one byte for the kind, and the operation in MessagePack.
"""

import asyncio
import contextlib
import fcntl
import os
import queue
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from tollbridge.core.ledger import Checkpoint, End
from tollbridge.store import disk

Kept = End | Checkpoint
Done = Callable[[OSError | None], None]

_HEAD = struct.Struct("<II")
_NAME = re.compile(r"(\d+)-(\d+)\.spool")
_MAX_RECORD = 1 << 20
_ENCODE = msgspec.msgpack.Encoder().encode
_DECODERS: dict[int, msgspec.msgpack.Decoder[End] | msgspec.msgpack.Decoder[Checkpoint]] = {
    ord("E"): msgspec.msgpack.Decoder(End),
    ord("C"): msgspec.msgpack.Decoder(Checkpoint),
}


class Spool:
    """This process's file, written and fsynced by its own thread so that the event loop never waits for a disk."""

    def __init__(self, directory: Path, epoch: int, started_at: int) -> None:
        """Create and lock the file. OSError if the directory cannot be written: better now than in an outage."""
        self.path = directory / f"{epoch}-{started_at}.spool"
        self._loop = asyncio.get_running_loop()
        self._size = 0
        # After a failed fsync, nobody knows which pages of the file reached the disk.
        self._broken: OSError | None = None
        self._work: queue.SimpleQueue[tuple[Sequence[Kept], Done] | None] = queue.SimpleQueue()
        directory.mkdir(parents=True, exist_ok=True)
        # Lock it before it has its name, so that whoever finds the name finds it locked.
        unnamed = self.path.with_suffix(f".{os.getpid()}")
        self._file = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unnamed.rename(self.path)
        disk.sync(directory)
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    def append(self, operations: Sequence[Kept], done: Done) -> None:
        self._work.put((operations, done))

    def clear(self) -> None:
        """Empty the file. Anything appended after this call stays."""
        self._work.put(((), _nothing))

    def close(self) -> None:
        """Wait until all is written, then release the file; an empty one is removed. Blocks for as long as the disk."""
        self._work.put(None)
        self._thread.join()
        if not self._size and self._broken is None:
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _run(self) -> None:
        running = True
        while running:
            group: list[tuple[Sequence[Kept], Done]] = []
            work = self._work.get()
            with contextlib.suppress(queue.Empty):
                while work is not None:
                    group.append(work)
                    work = self._work.get_nowait()
                running = False
            if group:
                self._write(group)

    def _write(self, group: list[tuple[Sequence[Kept], Done]]) -> None:
        """One write and one fsync for everything queued."""
        last_clear = max((i for i, (operations, _) in enumerate(group) if not operations), default=-1)
        error = self._broken
        if error is None:
            try:
                if last_clear >= 0:
                    os.ftruncate(self._file, 0)
                    self._size = 0
                self._append(b"".join(_record(op) for operations, _ in group[last_clear + 1 :] for op in operations))
            except OSError as problem:
                error = problem
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
            self._loop.call_soon_threadsafe(_tell, [done for _, done in group], error)

    def _append(self, data: bytes) -> None:
        if not data:
            return
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            os.ftruncate(self._file, self._size)  # no torn record before the next one
            raise
        try:
            os.fsync(self._file)
        except OSError as problem:
            self._broken = problem
            raise
        self._size += len(data)


class Leftover:
    """What a dead process left behind. It is locked until `remove` or `release`."""

    def __init__(self, path: Path, file: int, epoch: int, started_at: int) -> None:
        self.path = path
        self.epoch = epoch
        self.started_at = started_at
        self._file = file
        self.operations, self.damaged = _read(path.read_bytes())

    def remove(self) -> None:
        """All of it is in the database. A damaged file is renamed instead of removed."""
        if self.damaged:
            self.path.rename(self.path.with_suffix(".damaged"))
        else:
            self.path.unlink()
        self.release()

    def release(self) -> None:
        """Leave the file for another time, or for another process."""
        os.close(self._file)


def leftovers(directory: Path) -> Iterator[Leftover]:
    """The spools in `directory` whose processes are dead, each for one caller only. Blocks for as long as the disk."""
    for path in sorted(directory.glob("*.spool")):
        named = _NAME.fullmatch(path.name)
        if named is None:
            continue
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            continue
        if os.fstat(file).st_nlink == 0:  # somebody else replayed and removed it
            os.close(file)
            continue
        yield Leftover(path, file, int(named[1]), int(named[2]))


def _record(operation: Kept) -> bytes:
    body = (b"E" if isinstance(operation, End) else b"C") + _ENCODE(operation)
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _read(data: bytes) -> tuple[list[Kept], bool]:
    """The intact records of a file, and whether any but the last was damaged."""
    operations: list[Kept] = []
    offset, damaged, bad = 0, False, False
    # A torn append may leave zeros: they carry nothing.
    written = len(data.rstrip(b"\0"))
    while offset < written:
        damaged |= bad
        if len(data) - offset < _HEAD.size:
            break
        length, checksum = _HEAD.unpack_from(data, offset)
        if not 0 < length <= _MAX_RECORD:
            return operations, True  # not a length, so nothing behind it can be found
        start, offset = offset + _HEAD.size, offset + _HEAD.size + length
        body = data[start:offset]
        decoder = _DECODERS.get(body[0]) if len(body) == length and zlib.crc32(body) == checksum else None
        bad = decoder is None
        if decoder is not None:
            operations.append(decoder.decode(body[1:]))
    return operations, damaged


def _tell(waiting: list[Done], error: OSError | None) -> None:
    for done in waiting:
        done(error)


def _nothing(_: OSError | None) -> None:
    return
