"""Running the edge: `Server(app, listen(host, port)).run()`.

uvicorn's server on uvloop and httptools, with connections of `edge.connection`, one sweep over their deadlines, and a
shutdown that lets the application finish what is paid for before its lifespan ends.

When the process runs out of file descriptors libuv takes and closes what waits in the backlog (it keeps one spare for
this) and goes on once there are some; the cap on connections keeps it from coming to that.
"""

import asyncio
import functools
import resource
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import Config

from tollbridge.edge.connection import Connection, ServerLimits, Shared

__all__ = ["LoopLag", "Server", "ServerLimits", "listen"]

_BACKLOG = 2048
_MOST_FILES = 65_536
_LAG_TICK = 0.25
_DRAIN_TICK = 0.05
# After cancelling what did not end in time: seconds to settle it.
_CANCELLED = 5.0


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one, "::" takes IPv4 as well. OSError when it cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::")


class Server(uvicorn.Server):
    """One process's server of an ASGI application.

    `run()` serves until SIGTERM or SIGINT (in another thread than the main one: until `should_exit` is set), finishes
    what is under way, and returns; SystemExit(3) when the application's start-up failed. A second signal does not wait.
    `on_drain` is called once, when no more connections are taken; `on_reload` at each SIGHUP. Nothing is printed.
    """

    def __init__(
        self,
        app: Callable[..., Any],
        sock: socket.socket,
        limits: ServerLimits | None = None,
        *,
        on_drain: Callable[[], None] | None = None,
        on_reload: Callable[[], object] | None = None,
    ) -> None:
        self.limits = limits or ServerLimits()
        affordable = _open_more_files() // 2  # each request may need a connection to an upstream too
        self.shared = Shared(self.limits, self.limits.max_connections or affordable)
        self.port: int = sock.getsockname()[1]
        self._sock = sock
        self._on_drain = on_drain
        self._on_reload = on_reload
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
            backlog=_BACKLOG,
        )
        super().__init__(config)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets=sockets or [self._sock])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.on_tick(0)  # the first answer has a date too
        await super().startup(sockets=sockets)
        if self._on_reload is not None and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_reload)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's tick, each 0.1 s; the date, its only header of its own, is rendered once for all answers."""
        leaving = await super().on_tick(counter)
        self.shared.date_line = b": ".join(self.server_state.default_headers[0])
        self._sweep()
        return leaving

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes no more connections, lets the present requests end, and only then ends the application's lifespan."""
        self.shared.draining = True
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        if self._on_drain is not None:
            self._on_drain()
        connections, tasks = self.server_state.connections, self.server_state.tasks
        for connection in list(connections):
            connection.shutdown()
        loop = asyncio.get_running_loop()
        end = loop.time() + self.limits.drain
        while (connections or tasks) and not self.force_exit and loop.time() < end:
            await asyncio.sleep(_DRAIN_TICK)
            self._sweep()
        left = list(tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CANCELLED)
        for connection in list(connections):
            connection.transport.abort()
        await self.lifespan.shutdown()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # uvicorn raises the signal again at the end, so that a drained process dies by it instead of returning.
        self.force_exit = self.should_exit
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
