"""Running the edge: `Server(app, listen(host, port)).run()`.

uvicorn's server on uvloop and httptools, with connections of `edge.connection`, one sweep over their deadlines, and a
shutdown that lets the application finish paid work before its lifespan ends.

How it stops: `on_drain` is called and each answer ends its connection, but new connections are still taken for
`drain_pause`. Then the listening socket is closed. For `drain_idle`, an idle connection may bring one more request,
because a client that sends at the very moment its connection is closed sees a failed request. Running requests may go
on for `drain` after the pause.

When the process runs out of file descriptors, libuv accepts and closes what waits in the backlog (it keeps one spare
descriptor for this) and carries on once there are some again; the cap on connections is there to prevent that.

libuv accepts one connection in each turn of the loop. In a busy process, whose turns are long, a new one (a load
balancer's probe, say) would wait for as many turns as connections stand before it. So after a long turn one more is
accepted for each `_ACCEPT_EVERY_S` that it took. While turns are short a crowd still comes in one by one, and calls
are served in between.
"""

import asyncio
import contextlib
import functools
import logging
import math
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import uvicorn
from uvicorn.config import Config

from tollbridge.edge.connection import Connection, ServerLimits, Shared
from tollbridge.edge.listening import BACKLOG, listen

__all__ = ["LoopLag", "Server", "ServerLimits", "listen"]

_log = logging.getLogger("tollbridge")

_NO_SUPERVISOR = "SIGUSR2 changes nothing here: it is for the supervisor of `serve --workers`. Restart a lone process"
_MOST_FILES = 65_536
# Open files that are neither a caller's connection nor an upstream's: databases, logs, and callers who are refused.
_OTHER_FILES = 128
_REPEAT_S = 60.0
_LAG_TICK = 0.25
_DRAIN_TICK = 0.05
_ACCEPT_EVERY_S = 0.0005
_MOST_AT_ONCE = 64
# Seconds that cancelled requests have to settle.
_CANCELLED = 5.0


class Readable(Protocol):
    """Something that an event loop can watch."""

    def fileno(self) -> int: ...


class Server(uvicorn.Server):
    """Serves an ASGI application in one process. If the application has a method `answer`, each request is offered to
    that first, as a `Downstream`: it returns a coroutine that answers without ASGI, or None.

    `run()` serves until SIGTERM or SIGINT (outside the main thread: until `should_exit` is set), finishes what is under
    way and returns; it raises SystemExit(3) when the application's start-up failed. SIGINT, which comes from a
    keyboard, waits for requests but not for idle connections; a second one waits for nothing.
    `on_ready` is called once connections are accepted, `on_drain` when that is about to end, `on_reload` at each
    SIGHUP. SIGUSR2, which is meant for supervisors, is logged. `lifeline` becoming readable has the effect of SIGTERM.
    Nothing is printed.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        sock: socket.socket,
        limits: ServerLimits | None = None,
        *,
        on_ready: Callable[[], None] | None = None,
        on_drain: Callable[[], None] | None = None,
        on_reload: Callable[[], object] | None = None,
        lifeline: Readable | None = None,
    ) -> None:
        self.limits = limits or ServerLimits()
        # Each request may also need a connection to an upstream.
        files = _open_more_files()
        affordable = max(files - _OTHER_FILES, files // 2) // 2
        self.shared = Shared(self.limits, self.limits.max_connections or affordable)
        self.port: int = sock.getsockname()[1]
        self._sock = sock
        self._listening: list[socket.socket] = []
        self._accepts = False
        self._on_ready = on_ready
        self._on_drain = on_drain
        self._on_reload = on_reload
        self._lifeline = lifeline
        self._hurried = False
        self._next_sweep = self._next_word = 0.0
        config = Config(
            app,
            loop="uvloop",
            http=self._connection,  # type: ignore[arg-type]
            ws="none",
            interface="asgi3",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
        )
        super().__init__(config)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets=sockets or [self._sock])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.on_tick(0)  # so that the first answer has a date too
        await super().startup(sockets=sockets)
        loop = asyncio.get_running_loop()
        self._listening = sockets or []
        for sock in self._listening:
            sock.setblocking(False)
        if self._on_reload is not None and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._on_reload)
            # By default it would end this process at once, in the middle of answers.
            loop.add_signal_handler(signal.SIGUSR2, _log.warning, _NO_SUPERVISOR)
        if self._lifeline is not None:
            loop.add_reader(self._lifeline.fileno(), self._cut_loose)
        if self._on_ready is not None:
            self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's tick, every 0.1 s. The date, the only header uvicorn adds, is rendered once for all answers."""
        leaving = await super().on_tick(counter)
        self.shared.date_line = b": ".join(self.server_state.default_headers[0])
        self._sweep()
        return leaving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop taking connections, let running requests end, and only then end the application's lifespan."""
        loop, shared, limits = asyncio.get_running_loop(), self.shared, self.limits
        connections, tasks = self.server_state.connections, self.server_state.tasks
        shared.draining = True
        if self._on_drain is not None:
            self._on_drain()
        self._dismiss(math.inf)
        end = loop.time() + limits.drain_pause
        while not self._hurried and loop.time() < end:
            await self._drain_tick()
        self._close_listeners()
        shared.keep_alive = limits.drain_idle
        self._dismiss(loop.time() + limits.drain_idle)
        end += limits.drain
        while (connections or tasks) and not self.force_exit and loop.time() < end:
            if self._hurried:
                shared.keep_alive = 0.0
                self._dismiss(loop.time())
            await self._drain_tick()
        left = list(tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CANCELLED)
        for connection in list(connections):
            connection.transport.abort()
        await self.lifespan.shutdown()

    def _dismiss(self, idle_until: float) -> None:
        for connection in list(self.server_state.connections):
            connection.leave(idle_until)  # type: ignore[union-attr]

    async def _drain_tick(self) -> None:
        await asyncio.sleep(_DRAIN_TICK)
        self._next_sweep = 0.0
        await self.on_tick(0)

    def _close_listeners(self) -> None:
        """Accept what waits in them first: closing a listener resets the connections not accepted yet."""
        self._accept(sys.maxsize)
        listening, self._listening = self._listening, []
        for server in self.servers:
            server.close()
        for sock in listening:
            sock.close()

    def _connection(self, **uvicorns: Any) -> Connection:
        """Called for each connection that libuv accepts."""
        if not self._accepts:
            self._accepts = True
            asyncio.get_running_loop().call_soon(self._accept_more, time.monotonic())
        return Connection(self.shared, **uvicorns)

    def _accept_more(self, began: float) -> None:
        """At the end of a turn in which a connection was accepted, at `began`."""
        self._accepts = False
        self._accept(min(_MOST_AT_ONCE, int((time.monotonic() - began) / _ACCEPT_EVERY_S)))

    def _accept(self, most: int) -> None:
        """Accept what waits in each listener."""
        loop, tasks = asyncio.get_running_loop(), self.server_state.tasks
        for sock in self._listening:
            with contextlib.suppress(OSError):
                for _ in range(most):
                    waiting, _ = sock.accept()
                    task = loop.create_task(self._take(waiting))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

    async def _take(self, waiting: socket.socket) -> None:
        config, state = self.config, self.server_state
        # As uvicorn itself does for an accepted connection.
        protocol = functools.partial(
            Connection, self.shared, config=config, server_state=state, app_state=self.lifespan.state
        )
        await asyncio.get_running_loop().connect_accepted_socket(protocol, waiting)

    def end(self) -> None:
        """Stop as SIGTERM does."""
        self.should_exit = True

    def _cut_loose(self) -> None:
        assert self._lifeline is not None
        asyncio.get_running_loop().remove_reader(self._lifeline.fileno())
        self.end()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not super(): uvicorn raises the signal again at the end, and a drained process would die by it, not return.
        if sig == signal.SIGINT:
            self.force_exit, self._hurried = self.should_exit, True
        self.should_exit = True

    def _sweep(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._next_sweep:
            return
        self._next_sweep = now + self.limits.sweep
        for connection in list(self.server_state.connections):
            connection.sweep(now)  # type: ignore[union-attr]
        if self.shared.refused and now >= self._next_word:
            _log.warning("connections are refused: %s", self.shared.refused)
            self.shared.refused = ""
            self._next_word = now + _REPEAT_S


class LoopLag:
    """How late the loop ran its last timer, in `seconds`: how long a request waits before it is looked at."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to watch the running loop."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LAG_TICK, self._tick, loop, loop.time() + _LAG_TICK)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self.seconds = max(0.0, now - due)
        self._timer = loop.call_at(now + _LAG_TICK, self._tick, loop, now + _LAG_TICK)


def _open_more_files() -> int:
    """Raise the limit of open files as far as allowed and return it. It is often 1024, for programs using select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    enough = _MOST_FILES if hard == unlimited else min(hard, _MOST_FILES)
    if soft != unlimited and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        return enough
    return _MOST_FILES if soft == unlimited else soft
