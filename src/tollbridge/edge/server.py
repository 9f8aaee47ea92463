"""Running the edge: `Server(app, listen(host, port)).run()`.

uvicorn's server on uvloop and httptools, with connections of `edge.connection`, one sweep over their deadlines, and a
shutdown that lets the application finish what is paid for before its lifespan ends.

How it stops: `on_drain` is called and answers end their connections, but connections are still taken for `drain_pause`.
Then the listening socket is closed. Idle connections may bring one more request for `drain_idle`: a client that sends
at the moment when its connection is closed has a failed request. What runs may go on for `drain` altogether.

When the process runs out of file descriptors libuv takes and closes what waits in the backlog (it keeps one spare for
this) and goes on once there are some; the cap on connections keeps it from coming to that.
"""

import asyncio
import contextlib
import functools
import math
import resource
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import uvicorn
from uvicorn.config import Config

from tollbridge.edge.connection import Connection, ServerLimits, Shared
from tollbridge.edge.listening import BACKLOG, listen

__all__ = ["LoopLag", "Server", "ServerLimits", "listen"]

_MOST_FILES = 65_536
_LAG_TICK = 0.25
_DRAIN_TICK = 0.05
# After cancelling what did not end in time: seconds to settle it.
_CANCELLED = 5.0


class Readable(Protocol):
    """Something to be watched by a loop."""

    def fileno(self) -> int: ...


class Server(uvicorn.Server):
    """One process's server of an ASGI application. Where that has a method `answer`, each request is offered to it
    first, as a `Downstream`: it returns the coroutine that answers without ASGI, or None.

    `run()` serves until SIGTERM or SIGINT (in another thread than the main one: until `should_exit` is set), finishes
    what is under way, and returns; SystemExit(3) when the application's start-up failed. SIGINT, which comes from a
    keyboard, waits for requests but for no idle connection, and a second one for nothing.
    `on_ready` is called when connections are taken, `on_drain` when that is to end, `on_reload` at each SIGHUP; when
    `lifeline` becomes readable it is as if SIGTERM came. Nothing is printed.
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
        lifeline: "Readable | None" = None,
    ) -> None:
        self.limits = limits or ServerLimits()
        affordable = _open_more_files() // 2  # each request may need a connection to an upstream too
        self.shared = Shared(self.limits, self.limits.max_connections or affordable)
        self.port: int = sock.getsockname()[1]
        self._sock = sock
        self._on_ready = on_ready
        self._on_drain = on_drain
        self._on_reload = on_reload
        self._lifeline = lifeline
        self._hurried = False
        self._next_sweep = 0.0
        config = Config(
            app,
            loop="uvloop",
            http=functools.partial(Connection, self.shared),  # type: ignore[arg-type]
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
        await self.on_tick(0)  # the first answer has a date too
        await super().startup(sockets=sockets)
        loop = asyncio.get_running_loop()
        if self._on_reload is not None and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._on_reload)
        if self._lifeline is not None:
            loop.add_reader(self._lifeline.fileno(), self._cut_loose)
        if self._on_ready is not None:
            self._on_ready()

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's tick, each 0.1 s; the date, its only header of its own, is rendered once for all answers."""
        leaving = await super().on_tick(counter)
        self.shared.date_line = b": ".join(self.server_state.default_headers[0])
        self._sweep()
        return leaving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections, lets the present requests end, and only then ends the application's lifespan."""
        loop, shared, limits = asyncio.get_running_loop(), self.shared, self.limits
        connections, tasks = self.server_state.connections, self.server_state.tasks
        shared.draining = True
        if self._on_drain is not None:
            self._on_drain()
        self._dismiss(math.inf)
        end = loop.time() + limits.drain_pause
        while not self._hurried and loop.time() < end:
            await self._drain_tick()
        self._close_listeners(sockets or [])
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

    def _close_listeners(self, sockets: list[socket.socket]) -> None:
        """With what waits in them taken: closing one resets the connections that nobody has accepted yet."""
        loop = asyncio.get_running_loop()
        for sock in sockets:
            with contextlib.suppress(OSError):
                sock.setblocking(False)
                while True:
                    waiting, _ = sock.accept()
                    task = loop.create_task(self._take(waiting))
                    self.server_state.tasks.add(task)
                    task.add_done_callback(self.server_state.tasks.discard)
        for server in self.servers:
            server.close()
        for sock in sockets:
            sock.close()

    async def _take(self, waiting: socket.socket) -> None:
        config, state = self.config, self.server_state
        # What uvicorn itself makes of an accepted connection.
        protocol = functools.partial(
            config.http_protocol_class,  # type: ignore[call-arg]
            config=config,
            server_state=state,
            app_state=self.lifespan.state,
        )
        await asyncio.get_running_loop().connect_accepted_socket(protocol, waiting)

    def end(self) -> None:
        """As if SIGTERM came."""
        self.should_exit = True

    def _cut_loose(self) -> None:
        assert self._lifeline is not None
        asyncio.get_running_loop().remove_reader(self._lifeline.fileno())
        self.end()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn raises the signal again at the end, so that a drained process dies by it instead of returning.
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


class LoopLag:
    """How late the loop ran its last timer, in seconds: what a request waits before anybody looks at it."""

    def __init__(self) -> None:
        self.lag = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begins to watch the running loop."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LAG_TICK, self._tick, loop, loop.time() + _LAG_TICK)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self.lag = max(0.0, now - due)
        self._timer = loop.call_at(now + _LAG_TICK, self._tick, loop, now + _LAG_TICK)


def _open_more_files() -> int:
    """Raises the limit of open files, 1024 by custom for programs that use select(), as far as allowed; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    enough = _MOST_FILES if hard == unlimited else min(hard, _MOST_FILES)
    if soft != unlimited and soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
        return enough
    return _MOST_FILES if soft == unlimited else soft
