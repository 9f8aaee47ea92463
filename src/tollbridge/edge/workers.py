"""Several workers on one port: `Supervisor` keeps them going, `Berth` is a worker's end of it.

Rule 1  The supervisor does little, imports little and knows nothing about requests, so that nothing brings it down. It
        owns the sockets; a worker is a fresh process of the installed program, which may be newer than its supervisor.
Rule 2  The first worker starts alone: it brings the schema to this version, prints what an operator should read, and
        reports mistakes in the configuration, which are thus reported once. The others follow when it is ready.
Rule 3  A worker that dies is started again after 1, 2, 4 … 30 seconds; after a minute of health the count starts over.
        Meanwhile the others take its connections. When none runs and each has failed to start several times, the
        supervisor ends.
Rule 4  In a rolling restart each worker is replaced in turn: its successor answers before it is told to drain. If a
        successor does not start, the others stay as they are.
Rule 5  A worker whose supervisor has gone drains and ends.

Signals to the supervisor: SIGTERM drains all; SIGINT does so without a pause, and a second one does not wait; SIGHUP
makes all read their configuration again; SIGUSR2 is a rolling restart.
"""

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType

from tollbridge.edge.listening import steer
from tollbridge.errors import ConfigError, TollbridgeError

__all__ = ["Berth", "Supervisor", "worker_command"]

log = logging.getLogger("tollbridge")

READY = b"ready\n"
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
# Before a new start, at first; then 2, 4 … times as long, up to `_MOST_PAUSES`.
_PAUSE_S = 1.0
_MOST_PAUSES = 30.0
_HEALTHY_S = 60.0
# Long, because a start may have to build the index of a large table.
_START_S = 900.0
_LOST_STARTS = 5
# The most bytes of a message about a failed start.
_MOST_SAID = 4096


class Berth:
    """A worker's end: the socket that it listens on, and a channel to its supervisor."""

    def __init__(self, text: str) -> None:
        """`text`: as `Supervisor` gave it to the command."""
        try:
            listener, channel, first = (int(part) for part in text.split(","))
            self.socket = socket.socket(fileno=listener)
            self._channel = socket.socket(fileno=channel)
        except (ValueError, OSError) as error:
            raise ConfigError("--worker is for the workers that serve starts itself: leave it out") from error
        # Children of this process do not get them.
        self.socket.set_inheritable(False)
        self._channel.set_inheritable(False)
        self._channel.setblocking(False)
        # Whether this is the very first worker, which tells the operator where the gateway is.
        self.first = bool(first)

    def fileno(self) -> int:
        """Becomes readable when the supervisor has gone, never before."""
        return self._channel.fileno()

    def ready(self) -> None:
        """This worker answers from now on."""
        self._say(READY)

    def failed(self, why: str) -> None:
        """This worker will not start: `why`, sent as one line."""
        self._say(" ".join(why.split()).encode()[:_MOST_SAID])

    def _say(self, data: bytes) -> None:
        with suppress(OSError):  # the supervisor has gone
            self._channel.send(data)


class _Worker:
    """One process."""

    def __init__(self, pid: int, channel: socket.socket, number: int) -> None:
        self.pid = pid
        self.channel = channel
        self.number = number
        self.started_at = time.monotonic()
        self.ready = False
        self.outdated = False  # it may have read its configuration before the change
        self.said = b""
        self.ends_at: float | None = None

    def listen(self) -> None:
        """Read what it has said."""
        with suppress(OSError):
            while data := self.channel.recv(_MOST_SAID):
                self.said = (self.said + data)[:_MOST_SAID]

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


class _Slot:
    """One of the sockets: the worker that serves it and, in a rolling restart, its successor (`coming`)."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None
        self.coming: _Worker | None = None
        self.failures = 0
        self.lost_starts = 0
        self.due: float | None = None


class Supervisor:
    """`Supervisor(sockets, command, drain).run()` serves until told to stop, and returns the exit status.

    `sockets`: one for each worker (`listening.listen_for`). `command(text)`: the program and arguments of a worker that
    makes a `Berth` of `text`. `drain`: seconds that a worker has once told to stop.
    TollbridgeError: the first worker could not start, or later none could; the message is the worker's.
    """

    def __init__(self, sockets: Sequence[socket.socket], command: Callable[[str], list[str]], drain: float) -> None:
        self._sockets = sockets
        self._command = command
        self._drain = drain
        self._slots = [_Slot() for _ in sockets]
        self._leaving: list[_Worker] = []
        self._to_replace: list[int] = []
        self._begun = False
        self._stopping = False
        self._signals: list[int] = []
        self._taking: list[int] = []

    def run(self) -> int:
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {number: signal.signal(number, self._note) for number in (*_SIGNALS, signal.SIGCHLD)}
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        try:
            self._start(0)
            while self._workers() or not self._stopping:
                self._wait(reader)
                self._look()
            return 0
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            for worker in self._workers():
                worker.send(signal.SIGTERM)
            os.close(reader)
            os.close(writer)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals.append(number)

    def _workers(self) -> list[_Worker]:
        of_slots = (worker for slot in self._slots for worker in (slot.worker, slot.coming) if worker is not None)
        return [*of_slots, *self._leaving]

    def _wait(self, wakeup: int) -> None:
        """Wait for a signal, a message from a worker, or the next thing that is due."""
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        workers = self._workers()
        for worker in workers:
            if not worker.ready:
                poll.register(worker.channel, select.POLLIN)
        times = [slot.due for slot in self._slots] + [worker.ends_at for worker in workers]
        times += [worker.started_at + _START_S for worker in workers if not worker.ready]
        pause = min((at - time.monotonic() for at in times if at is not None), default=None)
        poll.poll(None if pause is None else max(0.0, pause) * 1000 + 1)
        with suppress(BlockingIOError):
            while os.read(wakeup, 512):
                pass

    def _look(self) -> None:
        """Do all that is to be done now."""
        while self._signals:
            self._obey(self._signals.pop(0))
        now = time.monotonic()
        for worker in self._workers():
            self._look_at(worker, now)
        if self._stopping:
            return
        for number, slot in enumerate(self._slots):
            if slot.due is not None and now >= slot.due:
                self._start(number)
        self._replace_next()
        taking = [number for number, slot in enumerate(self._slots) if slot.worker is not None and slot.worker.ready]
        if taking != self._taking:
            self._taking = taking
            steer(self._sockets, taking)

    def _look_at(self, worker: _Worker, now: float) -> None:
        if not worker.ready:
            worker.listen()
        status = _ended(worker.pid)
        if status is not None:
            worker.channel.close()
            self._lost(worker, status, now)
        elif not worker.ready and worker.said.startswith(READY):
            self._came(worker)
        elif worker.ends_at is not None and now >= worker.ends_at:
            log.error("worker %d (process %d) does not end: it is killed", worker.number + 1, worker.pid)
            worker.ends_at = None
            worker.send(signal.SIGKILL)
        elif not worker.ready and now >= worker.started_at + _START_S:
            worker.said = f"it was not ready after {_START_S:.0f} seconds".encode()
            worker.send(signal.SIGKILL)

    # --- what happens ---------------------------------------------------------------------------------------------

    def _obey(self, number: int) -> None:
        if number in (signal.SIGTERM, signal.SIGINT):
            self._stop(signal.Signals(number))
        elif number == signal.SIGHUP:
            for slot in self._slots:
                for worker in (slot.worker, slot.coming):
                    if worker is not None and worker.ready:
                        worker.send(signal.SIGHUP)
                    elif worker is not None:
                        worker.outdated = True  # it does not handle this signal yet
        elif self._begun and not self._stopping:
            log.info("the workers are replaced, one after the other")
            self._to_replace = list(range(len(self._slots)))

    def _stop(self, how: signal.Signals) -> None:
        """A second SIGTERM changes nothing: some process managers send it to supervisor and workers alike."""
        if not self._stopping:
            self._stopping = True
            for sock in self._sockets:
                sock.close()  # the workers have theirs, and answer what arrives until they close them
            for slot in self._slots:
                slot.due = None
        for worker in self._workers():
            worker.send(how)
            worker.ends_at = worker.ends_at or time.monotonic() + self._drain

    def _came(self, worker: _Worker) -> None:
        worker.ready = True
        log.info("worker %d (process %d) answers", worker.number + 1, worker.pid)
        if worker.outdated:
            worker.send(signal.SIGHUP)
        slot = self._slots[worker.number]
        slot.lost_starts = 0
        if worker is slot.coming:
            before, slot.worker, slot.coming = slot.worker, worker, None
            slot.due = None
            if before is not None:
                self._leaving.append(before)
                before.send(signal.SIGTERM)
                before.ends_at = time.monotonic() + self._drain
        if not self._begun and not self._stopping:
            self._begun = True
            for number in range(1, len(self._slots)):
                self._start(number)

    def _lost(self, worker: _Worker, status: int, now: float) -> None:
        if worker in self._leaving:
            self._leaving.remove(worker)
            return
        slot = self._slots[worker.number]
        if worker is slot.coming:
            slot.coming = None
            self._to_replace = []
            if slot.worker is None and not self._stopping:
                slot.due = now + _PAUSE_S
            elif not self._stopping:
                log.error("the replacement was given up, the workers stay as they are: %s", _reason(worker, status))
            return
        slot.worker = None
        if self._stopping:
            return
        why = _reason(worker, status)
        if not worker.ready:
            slot.lost_starts += 1
        elif now - worker.started_at >= _HEALTHY_S:
            slot.failures = 0
        pause = self._start_later(slot, why)
        said = (worker.number + 1, worker.pid, why, pause)
        log.error("worker %d (process %d) was lost, %s; the next one starts in %.0f s", *said)

    def _start_later(self, slot: _Slot, why: str) -> float:
        """After how many seconds a worker is started again. TollbridgeError: this is no use, and `why`."""
        if not self._begun or (not self._alive() and all(each.lost_starts >= _LOST_STARTS for each in self._slots)):
            raise TollbridgeError(why)
        pause = min(_MOST_PAUSES, 2.0**slot.failures)
        slot.failures += 1
        slot.due = time.monotonic() + pause * _PAUSE_S
        return pause

    def _alive(self) -> bool:
        return any(slot.worker is not None for slot in self._slots)

    def _replace_next(self) -> None:
        if not self._to_replace or any(slot.coming is not None for slot in self._slots):
            return
        number = self._to_replace.pop(0)
        try:
            self._slots[number].coming = self._spawn(number, first=False)
        except OSError as error:
            self._to_replace = []
            log.error("the replacement was given up, the workers stay as they are: %s", error)  # noqa: TRY400

    def _start(self, number: int) -> None:
        slot = self._slots[number]
        slot.due = None
        if slot.coming is not None:
            return
        try:
            slot.worker = self._spawn(number, first=not self._begun)
        except OSError as error:
            slot.lost_starts += 1
            pause = self._start_later(slot, str(error))
            log.error("worker %d cannot be started, %s; tried again in %.0f s", number + 1, error, pause)  # noqa: TRY400

    def _spawn(self, number: int, *, first: bool) -> _Worker:
        """OSError: there is no room for a process, or the program has gone (it is being replaced, perhaps)."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        passed = self._sockets[number], theirs
        for each in passed:
            each.set_inheritable(True)
        try:
            command = self._command(f"{passed[0].fileno()},{passed[1].fileno()},{int(first)}")
            # In a process group of its own: a terminal's Ctrl+C is for the supervisor alone.
            pid = os.posix_spawn(command[0], command, os.environ, setpgroup=0)
        except OSError:
            ours.close()
            raise
        finally:
            for each in passed:
                each.set_inheritable(False)
            theirs.close()
        return _Worker(pid, ours, number)


def worker_command(text: str) -> list[str]:
    """This process's own command line, for a worker."""
    return [sys.executable, "-m", "tollbridge", *sys.argv[1:], "--worker", text]


def _ended(pid: int) -> int | None:
    """A child's exit status, or minus the number of the signal that killed it; None: it is alive."""
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _reason(worker: _Worker, status: int) -> str:
    said = worker.said.removeprefix(READY).decode(errors="replace").strip()
    if said:
        return said
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
