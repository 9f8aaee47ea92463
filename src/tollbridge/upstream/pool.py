"""HTTP/1.1 to one origin, for the hot half of the data path: keep-alive connections, callbacks, no task per call.

    pool = Pool("https://api.example.com/v1", Limits())
    response = await pool.open(b"POST", b"/chat/completions", [(b"authorization", b"Bearer …")], body)
    data = await response.read()                 # or response.pipe(on_data, on_end)

Redirects are answers like any other, nothing is decompressed, and the environment's proxy settings are ignored.
"""

import asyncio
import errno
import re
import ssl
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from tollbridge import __version__
from tollbridge.errors import ConfigError, ConnectError, PoolBusy, RoomElsewhere, UpstreamTimeout
from tollbridge.upstream.connection import Connection, Limits, Response
from tollbridge.upstream.dial import dial, reason, tls_context

__all__ = ["Limits", "Pool", "Response", "tls_context"]

_BUFFER_BYTES = 64 * 1024
_TICK_SECONDS = 0.5
_TICKS_PER_LIMIT = 8

_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_OWN_HEADERS = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"connection", b"accept-encoding", b"user-agent", b"te"}
    | {b"trailer", b"upgrade", b"keep-alive", b"proxy-connection", b"expect"}
)
_KNOWN_NAMES = 256
# This machine has no more files, ports or buffers, which is not the upstream's fault.
_NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS})
_KNOWN_HEADS = 64
# Numbers, because CPython raises and drops a TypeError on the way when it looks for bytes in bytes.
_NUL, _SPACE = 0, 32

# What is known about a target before its first call: method, headers, and the head that they make, up to its length.
_NOTHING: tuple[bytes, Sequence[tuple[bytes, bytes]] | None, bytes] = b"", None, b""

# A call in the queue, the next to be served first. Its result is a connection, or None: a slot to connect on.
_Waiter = asyncio.Future[Connection | None]


# Asked by a call that would have to wait: which other pool has room for it, if it may go there.
Elsewhere = Callable[[], "Pool | None"]


class _Wish(NamedTuple):
    until: float
    fresh: bool  # only a connection that has never been used will do
    elsewhere: Elsewhere | None


class Pool:
    """Connections to one upstream origin. It belongs to the event loop of its first call.

    `base_url` is http or https with a host, an optional port, and a path (`path_prefix`) that is put before each
    target; anything else is a ConfigError. `address`: where to connect instead of looking up the host.
    """

    def __init__(
        self,
        base_url: str,
        limits: Limits,
        *,
        ssl_context: ssl.SSLContext | None = None,
        address: str | None = None,
    ) -> None:
        self.limits = limits
        self.buffer = memoryview(bytearray(_BUFFER_BYTES))
        self.opened_total = 0
        self._secure, self._host, self._port, self.path_prefix = _split(base_url)
        self._address = address or self._host
        self._context = ssl_context
        self.origin = f"[{self._host}]" if ":" in self._host else self._host
        if self._port != (443 if self._secure else 80):
            self.origin += f":{self._port}"
        # What stands between the target and the caller's headers.
        self._fixed = (
            f" HTTP/1.1\r\nHost: {self.origin}\r\nUser-Agent: tollbridge/{__version__}\r\n"
            "Accept-Encoding: identity\r\nConnection: keep-alive\r\n"
        ).encode("ascii")
        self._names: set[bytes] = set()
        # By target, because nearly every call has the very headers of the one before. Only tuples, which cannot change.
        self._heads: dict[bytes, tuple[bytes, Sequence[tuple[bytes, bytes]] | None, bytes]] = {}
        self._connections: set[Connection] = set()
        self._connecting = 0
        self._idle: list[Connection] = []
        self._waiters: OrderedDict[_Waiter, _Wish] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        shortest = min(limits.first_byte, limits.gap, limits.total, limits.idle, limits.queue)
        self._tick_seconds = min(_TICK_SECONDS, shortest / _TICKS_PER_LIMIT)
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    @property
    def connections(self) -> int:
        """Open sockets, busy or idle."""
        return len(self._connections)

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Calls waiting for a connection."""
        return len(self._waiters)

    @property
    def room(self) -> int:
        """How many more calls would not have to wait; negative when some do already."""
        taken = self._connecting + len(self._connections) - len(self._idle)
        return self.limits.max_connections - taken - len(self._waiters)

    async def open(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        on_sent: Callable[[], None] | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> Response:
        """Send a request and return when the final head of its answer has arrived.

        `method` is GET or POST: the answer to a HEAD could not be read, since the parser would wait for a body.
        `target` starts with `/` and is put below `base_url`. The headers about connection, length, coding and agent are
        the pool's own; the caller's may not contain CR, LF or NUL (ValueError, before anything is sent).
        `on_sent` is called when there is a connection and the request leaves on it, again if it is sent a second time.
        `elsewhere`: with it, the call waits for a connection only as long as no other pool has room for it; then it
        ends with RoomElsewhere.
        Raises ConnectError, PoolBusy, UpstreamTimeout, ConnectionLost, ProtocolError. Cancelling closes the connection.
        """
        known_method, known_headers, head = self._heads.get(target, _NOTHING)
        if known_headers is headers and known_method == method:
            head += b"%d\r\n\r\n" % len(body)
        else:
            head = self._head(method, target, headers, len(body))
        idle = self._idle
        connection = idle.pop() if idle else None
        if connection is None or connection.closed:
            connection = await self._acquire(elsewhere)
        while True:
            response = Response(connection, connection.loop.create_future())
            try:
                connection.start(response, head, body)
                if on_sent is not None:
                    on_sent()
                await response._waiter
            except BaseException:
                response.close()
                raise
            if response.status:
                return response
            if not connection.stale:
                assert response._error is not None
                raise response._error
            connection = await self._acquire(fresh=True)

    async def close(self) -> None:
        """Abort every connection, busy or idle, and refuse further calls. Returns when the sockets are closed."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(PoolBusy("the pool is closed"))
        self._waiters.clear()
        for connection in tuple(self._connections):
            connection.drop()
        while self._connections:
            self._emptied = asyncio.get_running_loop().create_future()
            await self._emptied

    def _head(self, method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]], length: int) -> bytes:
        names = self._names
        parts = [method, b" ", self.path_prefix, target, self._fixed]
        for name, value in headers:
            if name not in names:
                self._learn(name)
            parts += (name, b": ", value, b"\r\n")
        head = b"".join(parts)
        # Each line ends once, so anything smuggled in changes the count.
        lines = 5 + len(headers)
        if head.count(b"\n") != lines or head.count(b"\r") != lines or _NUL in head:
            raise ValueError("a request's target and header values may not contain CR, LF or NUL")
        if _SPACE in target or target[:1] != b"/":
            raise ValueError("a request's target starts with / and has no spaces")
        if method != b"GET":
            head += b"Content-Length: "
            if isinstance(headers, tuple):
                if len(self._heads) >= _KNOWN_HEADS:
                    self._heads.clear()
                self._heads[target] = method, headers, head
            return head + b"%d\r\n\r\n" % length
        return head + (b"Content-Length: %d\r\n\r\n" % length if length else b"\r\n")

    def _learn(self, name: bytes) -> None:
        if _TOKEN.fullmatch(name) is None or name.lower() in _OWN_HEADERS:
            raise ValueError(f"callers may not send the header {name!r}")
        if len(self._names) < _KNOWN_NAMES:
            self._names.add(name)

    async def _acquire(self, elsewhere: Elsewhere | None = None, *, fresh: bool = False) -> Connection:
        """A connection for the caller's sole use."""
        while True:
            if self._closed:
                raise PoolBusy("the pool is closed")
            while self._idle and not fresh:
                connection = self._idle.pop()
                if not connection.closed:
                    return connection
            if self._connecting + len(self._connections) < self.limits.max_connections:
                self._connecting += 1
                return await self._connect()
            if self._idle:  # a fresh one was asked for: an idle one makes room for it
                self._idle.pop(0).drop()
            if elsewhere is not None and elsewhere() is not None:
                raise self._passed()
            turn = await self._turn(fresh, elsewhere)
            if turn is None:
                return await self._connect()
            if not turn.closed:
                return turn

    def _passed(self) -> RoomElsewhere:
        return RoomElsewhere(f"the {self.limits.max_connections} connections to {self.origin} are busy, others are not")

    async def _turn(self, fresh: bool, elsewhere: Elsewhere | None) -> Connection | None:
        """Wait for a connection, or a slot to connect on. A call that wants a fresh one goes first: it had its turn."""
        if len(self._waiters) >= self.limits.max_waiting:
            raise PoolBusy(f"the {self.limits.max_connections} connections to {self.origin} and their queue are full")
        loop = asyncio.get_running_loop()
        waiter: _Waiter = loop.create_future()
        self._waiters[waiter] = _Wish(loop.time() + self.limits.queue, fresh, elsewhere)
        if fresh:
            self._waiters.move_to_end(waiter, last=False)
        try:
            return await waiter
        except BaseException:
            self._waiters.pop(waiter, None)
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._give_back(waiter.result())
            raise

    def _first_waiter(self) -> _Waiter | None:
        while self._waiters:
            waiter = next(iter(self._waiters))
            if not waiter.done():
                return waiter
            del self._waiters[waiter]
        return None

    def _give_back(self, turn: Connection | None) -> None:
        """Pass what a cancelled waiter had been given on to the next one."""
        if turn is None:
            self._connecting -= 1
            self._pass_on_slot()
        elif not turn.closed:
            self.release(turn)

    def _pass_on_slot(self) -> None:
        if self._connecting + len(self._connections) < self.limits.max_connections:
            waiter = self._first_waiter()
            if waiter is not None:
                del self._waiters[waiter]
                self._connecting += 1
                waiter.set_result(None)

    async def _connect(self) -> Connection:
        """Connect on the slot that the caller took (already counted in `_connecting`)."""
        loop = asyncio.get_running_loop()
        connection = Connection(self, loop)
        if self._secure and self._context is None:
            self._context = tls_context()
        if self._timer is None:
            self._timer = loop.call_later(self._tick_seconds, self._tick, loop)
        try:
            async with asyncio.timeout(self.limits.connect):
                sock = await dial(loop, self._address, self._port)
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=self._context if self._secure else None,
                    server_hostname=self._host if self._secure else None,
                )
        except BaseException as error:
            connection.drop()
            self._connections.discard(connection)  # uvloop does not call connection_lost when cancelled here
            if isinstance(error, TimeoutError):
                raise UpstreamTimeout("connect", self.limits.connect) from error
            if isinstance(error, OSError) and error.errno in _NONE_LEFT:
                raise PoolBusy(f"cannot connect to {self.origin}: {reason(error)}") from error
            if isinstance(error, OSError):
                raise ConnectError(f"cannot connect to {self.origin}: {reason(error)}") from error
            raise
        finally:
            self._connecting -= 1
            self._pass_on_slot()
        if self._closed:
            connection.drop()
        if connection.closed:
            raise ConnectError(f"{self.origin} closed the connection at once")
        self.opened_total += 1
        return connection

    def add(self, connection: Connection) -> None:
        self._connections.add(connection)

    def remove(self, connection: Connection) -> None:
        """The connection's socket is closed."""
        if connection in self._idle:
            self._idle.remove(connection)
        self._connections.discard(connection)
        self._pass_on_slot()
        if not self._connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def release(self, connection: Connection) -> None:
        """Offer a clean, free connection to the first in the queue, or else to the next call."""
        if not self._waiters or (waiter := self._first_waiter()) is None:
            connection.idle_since = connection.loop.time()
            self._idle.append(connection)
        elif self._waiters[waiter].fresh:
            connection.drop()
        else:
            del self._waiters[waiter]
            waiter.set_result(connection)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._connections and not self._connecting:
            self._timer = None
            return
        # First of all, so that an exception in a callback cannot stop the clock.
        self._timer = loop.call_later(self._tick_seconds, self._tick, loop)
        now = loop.time()
        while self._idle and now - self._idle[0].idle_since >= self.limits.idle:
            self._idle.pop(0).drop()
        if self._waiters:
            self._see_to_waiters(now)
        for connection in tuple(self._connections):
            connection.check(now)

    def _see_to_waiters(self, now: float) -> None:
        """End the wait of those whose time is up, and of as many as find room elsewhere, the first of them first."""
        sent: Counter[Pool] = Counter()
        for waiter, wish in tuple(self._waiters.items()):
            if waiter.done():
                continue
            if now >= wish.until:
                error = PoolBusy(f"no connection to {self.origin} became free in {self.limits.queue:g} s")
            else:
                other = wish.elsewhere() if wish.elsewhere is not None else None
                # Those who are told to go arrive there later.
                if other is None or sent[other] >= other.room:
                    continue
                sent[other] += 1
                error = self._passed()
            del self._waiters[waiter]
            waiter.set_exception(error)


def _split(base_url: str) -> tuple[bool, str, int, bytes]:
    """(https?, host, port, path without a trailing slash). Errors do not quote the URL, which may hold a secret."""
    try:
        parts = urlsplit(base_url)
        host = (parts.hostname or "").encode("idna").decode("ascii")
        port = parts.port
        path = parts.path.rstrip("/").encode("ascii")
    except ValueError as error:
        raise ConfigError("an upstream's base_url is not a URL in ASCII") from error
    if parts.scheme not in {"http", "https"} or not host or b" " in path:
        raise ConfigError("an upstream's base_url starts with http:// or https://, names a host and has no spaces")
    if parts.username is not None or parts.query or parts.fragment:
        raise ConfigError("an upstream's base_url has no user, password, query or fragment")
    secure = parts.scheme == "https"
    return secure, host, port or (443 if secure else 80), path
