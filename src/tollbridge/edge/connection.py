"""One client connection: uvicorn's protocol on httptools, with the deadlines and caps that it lacks.

Rules
1. A connection is idle, inside a head, or inside a body (`_phase`). Each phase has a deadline that moves only when the
   phase changes, so a client that drips bytes gains nothing. While an answer is being made there is no deadline.
2. One sweep for all connections (`edge.server`) checks all deadlines; there is no timer for each.
3. Input that cannot be parsed, is too large or too late ends the connection: nothing more is parsed (`_deaf`), answers
   under way are finished, then comes the error. If a request's body fails, the application that asked for the body
   answers.
4. After such an error the connection lingers: for `linger` seconds, what the client still sends is thrown away, because
   closing with unread bytes makes the kernel send a reset, which can overtake the answer.
5. A client that is behind (`pause_writing`) and takes nothing for `stall` seconds is cut off.
"""

import asyncio
import logging
import math
import urllib.parse
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import httptools
import msgspec
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tollbridge.core.addresses import customer_of
from tollbridge.edge.downstream import Downstream, error_answer, render_head
from tollbridge.edge.repeats import KnownHead, learn
from tollbridge.errors import ApiError, HeadersTooLarge, InvalidRequest, PayloadTooLarge, RequestTimedOut, Unavailable

__all__ = ["Connection", "ServerLimits", "Shared"]

_IDLE, _HEAD, _BODY = range(3)
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
_KNOWN_TARGETS = 256
_KNOWN_LENGTH = 128
_TASK = "request"  # otherwise asyncio makes up a name for each
_UNCOUNTED = 64 * 1024  # of each body; most bodies are smaller, and cost no counting
_FRAMING_BYTES = 64 * 1024  # that a chunked body may take on the wire beyond twice the cap
_SPARE = 64  # connections above a cap that still get a 503; any more are cut
# What is answered even then: whoever asks must not take a full process for a dead one.
_PROBES = frozenset({"/health", "/ready", "/metrics"})
_LOGGER = logging.getLogger("tollbridge.edge")


# Gives the coroutine that answers a request without ASGI, or None.
Answer: TypeAlias = Callable[[Downstream], Coroutine[Any, Any, None] | None]


class ServerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """In seconds, bytes and counts. Some are the operator's to set: docs/reference/settings.md."""

    head_timeout: float = 10.0
    body_timeout: float = 60.0
    keep_alive: float = 75.0
    stall: float = 60.0
    linger: float = 2.0
    drain: float = 120.0
    drain_pause: float = 0.0
    drain_idle: float = 0.0
    sweep: float = 0.5
    max_head: int = 32 * 1024
    max_headers: int = 100
    max_body: int = 10 * 1024 * 1024
    # Of all bodies that are not at work yet: still arriving, or waiting for their turn on a connection. A client (see
    # max_connections_per_client) has a quarter. Eight times max_body if that is more: each has room for two.
    max_arriving: int = 256 * 1024 * 1024
    max_pipelined: int = 16
    high_water: int = 64 * 1024
    max_unsent: int = 256 * 1024
    # 0: half the process's limit of open files.
    max_connections: int = 0
    # Per IPv4 address or IPv6 /64. A reverse proxy is a single address: exempt it. 0: no such cap.
    max_connections_per_client: int = 200
    exempt_clients: frozenset[str] = frozenset({"127.0.0.1", "::1"})


class Shared:
    """The state that all connections of one server share."""

    def __init__(self, limits: ServerLimits, max_connections: int) -> None:
        self.limits = limits
        self.max_connections = max_connections
        self.connections = 0
        self.per_client: dict[str, int] = {}
        self.max_arriving = max(limits.max_arriving, 8 * limits.max_body)
        self.arriving = 0
        self.arriving_per_client: dict[str, int] = {}
        self.draining = False
        # What the log should say: the cap that connections were refused by, in words.
        self.refused = ""
        self.keep_alive = limits.keep_alive
        self.date_line = b""
        self.targets: dict[bytes, tuple[str, bytes, bytes]] = {}

    def target(self, url: bytes) -> tuple[str, bytes, bytes]:
        """Path, raw path and query of a request target. Remembered, because the same few come over and over."""
        known = self.targets.get(url)
        if known is None:
            parsed = httptools.parse_url(url)
            if not parsed.path:
                raise InvalidRequest("The request target has no path.")
            path = parsed.path.decode("ascii")
            known = (urllib.parse.unquote(path) if "%" in path else path), parsed.path, parsed.query or b""
            if len(self.targets) < _KNOWN_TARGETS and len(url) < _KNOWN_LENGTH:
                self.targets[url] = known
        return known

    def enter(self, client: str) -> int:
        """Count a connection in. Returns the excess over the cap that is exceeded most; 0 when none is."""
        self.connections += 1
        excess, of_client = self.connections - self.max_connections, 0
        if client:
            count = self.per_client[client] = self.per_client.get(client, 0) + 1
            of_client = count - self.limits.max_connections_per_client
        if excess > 0:
            cap = "server.max_connections" if self.limits.max_connections else "the limit of open files (ulimit -n)"
            self.refused = f"{self.max_connections} are open, as many as {cap} allows"
        elif of_client > 0:
            self.refused = (
                f"{client} has as many as server.max_connections_per_client allows. If that is your reverse proxy, add "
                "it to server.exempt_clients"
            )
        return max(excess, of_client, 0)

    def leave(self, client: str) -> None:
        self.connections -= 1
        if client:
            count = self.per_client[client] - 1
            if count:
                self.per_client[client] = count
            else:
                del self.per_client[client]

    def arrive(self, client: str, size: int, most: int) -> bool:
        """Count `size` more bytes of a body in, if `most` are then counted at most. Returns whether they were."""
        of_client = self.arriving_per_client.get(client, 0) + size if client else 0
        if self.arriving + size > most or of_client > most // 4:
            return False
        self.arriving += size
        if client:
            self.arriving_per_client[client] = of_client
        return True

    def arrived(self, client: str, size: int) -> None:
        """Count bytes of a body out."""
        self.arriving -= size
        if client:
            rest = self.arriving_per_client[client] - size
            if rest:
                self.arriving_per_client[client] = rest
            else:
                del self.arriving_per_client[client]

    def counted_as(self, address: str) -> str:
        """Whom a connection counts for: the IPv4 address, the /64 of an IPv6 address, or "" if it is not counted."""
        if address in self.limits.exempt_clients or not self.limits.max_connections_per_client:
            return ""
        return customer_of(address)


def _by_asgi(_downstream: Downstream) -> None:
    """The `answer` of an application that speaks only ASGI."""


class Connection(HttpToolsProtocol):
    """uvicorn's `HttpToolsProtocol`; its server makes one for each accepted socket."""

    cycle: Downstream

    def __init__(
        self,
        shared: Shared,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.shared = shared
        self.peer = ""
        self.deadline = math.inf
        self._answer: Answer = getattr(self.app, "answer", _by_asgi)
        self._counted = ""
        self._phase = _IDLE
        self._excess = False
        self._deaf = False
        self._lingering = False
        self._farewell: ApiError | None = None
        self._active: Downstream | None = None
        self._fed = 0
        self._head_size = 0
        self._body_size = 0
        self._body_wire_size = 0
        self._content_length = 0
        self._hosts = 0
        self._unsent = 0
        # Called when the client has taken what waits for it, or is gone.
        self.untaken: list[Callable[[], None]] = []
        self._stalled_at = math.inf
        self._known: KnownHead | None = None
        # Bytes still to come of a body whose head was known.
        self._missing = 0

    # The transport's calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits = self.shared.limits
        transport.set_write_buffer_limits(limits.high_water)
        self.peer = self.client[0] if self.client else ""
        self._counted = self.shared.counted_as(self.peer)
        self.deadline = self.loop.time() + limits.head_timeout
        excess = self.shared.enter(self._counted)
        if excess > _SPARE:
            transport.abort()
        elif excess:
            self._excess = True
            self.deadline = self.loop.time() + limits.linger

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        self.shared.leave(self._counted)
        if self.cycle is not None:
            self._count_out(self.cycle)
        for waiting, _ in self.pipeline:
            self._count_out(waiting)  # type: ignore[arg-type]
        self.parser = None  # type: ignore[assignment]
        self._deaf = True
        self.flow.resume_writing()
        self._taken()
        active, self._active = self._active, None
        self.cycle = None  # type: ignore[assignment]
        if active is not None:
            active.lost()

    def eof_received(self) -> None:
        if self._active is not None:
            self.transport.abort()  # not close(), which would first wait for unsent bytes

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        known = self._known
        if known is not None and self._phase == _IDLE and self._active is None:
            begin, length = known.match(data)
            if length:
                cycle = self.cycle = Downstream(self, known.scope, not self.shared.draining, known)
                if begin + length == len(data):
                    cycle.body, cycle.more_body = data[begin:], False
                    self.deadline = math.inf
                    self._run(cycle)
                    return
                cycle.length = length
                self._begin(cycle)
                self._body_size, self._missing = 0, length
                data = data[begin:]
        if self._missing:
            data = self._without_parser(data)
            if not data or self._deaf:
                return
        phase, cycle, idle = self._phase, self.cycle, self._active is None
        if not self._feed(data):
            return
        if phase == _IDLE and idle and self._active is not None and not self.pipeline:
            self._learn(data)
        if self._phase == _HEAD:
            # Still the same head, so all of `data` belongs to it.
            if phase != _BODY and self.cycle is cycle:
                self._head_size += len(data)
                if self._head_size > self.shared.limits.max_head:
                    self._stop(HeadersTooLarge("The request head is too large."))
        elif phase == _BODY and self._phase == _BODY:
            self._body_wire_size += len(data)
            # Chunk extensions and trailers never reach on_body.
            if self._body_wire_size > 2 * self.shared.limits.max_body + _FRAMING_BYTES:
                self._stop(PayloadTooLarge("The request body is too large."))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unsent = self.transport.get_write_buffer_size()
        self._stalled_at = self.loop.time() + self.shared.limits.stall

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled_at = math.inf
        self._taken()
        if self._active is not None:
            self._active.resumed()

    def _taken(self) -> None:
        callbacks, self.untaken = self.untaken, []
        for callback in callbacks:
            callback()

    def _without_parser(self, data: bytes) -> bytes:
        """Read the body of a request whose head was known. Returns the rest of `data`, which does not belong to it."""
        body, rest = data[: self._missing], data[self._missing :]
        self._missing -= len(body)
        if body:
            try:
                self.on_body(body)
            except ApiError as error:
                self._stop(error)
                return b""
        if not self._missing:
            self.on_message_complete()
        return rest

    def _learn(self, data: bytes) -> None:
        """Remember the head that `data` began with, if the next one may be the same."""
        cycle = self.cycle
        plain = cycle.keep_alive and not cycle.waiting_for_100_continue and self._content_length > 0
        plain = plain and cycle.scope["http_version"] == "1.1"
        self._known = learn(data, cycle.scope, self.shared.limits.max_body) if plain else None

    def _feed(self, data: bytes) -> bool:
        """Parse `data`. Returns whether what follows can be parsed too."""
        while data:
            self._fed = len(data)
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self._stop(InvalidRequest("This server is not a proxy."))
                else:
                    data = self._without_upgrade() + data[upgrade.args[0] :]
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn: it is ignored
                    continue
            except httptools.HttpParserError as error:
                self._parse_failed(error)
            break
        return not self._deaf

    def _parse_failed(self, error: httptools.HttpParserError) -> None:
        cause = error.__context__
        if isinstance(cause, ApiError):  # raised by a callback below
            self._stop(cause)
            return
        if cause is not None and not isinstance(cause, httptools.HttpParserError):
            _LOGGER.error("a request could not be taken", exc_info=cause)
        self._stop(InvalidRequest("This is not a well-formed HTTP/1.1 request."))

    def _without_upgrade(self) -> bytes:
        """The head of a request that offers an upgrade (the JDK's HTTP client always does), without the offer.

        With the offer, httptools would skip the request's body.
        """
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    # The parser's calls

    def on_message_begin(self) -> None:
        self._phase = _HEAD
        self._head_size = self._body_size = self._body_wire_size = self._content_length = self._hosts = 0
        self.deadline = self.loop.time() + self.shared.limits.head_timeout
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase != _HEAD:
            return  # a trailer
        name = name.lower()
        if name in _FRAMING:
            self._on_framing(name, value)
        self.headers.append((name, value))

    def _on_framing(self, name: bytes, value: bytes) -> None:
        # httptools has refused what is ambiguous: a length beside chunks, two lengths, a coding after `chunked`.
        if name == b"host":
            self._hosts += 1
        elif name == b"content-length":
            self._content_length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise InvalidRequest("The only transfer coding accepted is chunked.")
            self._content_length = -1
        elif value.lower() == b"100-continue":
            self.expect_100_continue = True

    def on_headers_complete(self) -> None:
        parser = self.parser
        if parser.should_upgrade():
            return
        version = parser.get_http_version()
        self._check_head(version)
        path, raw_path, query = self.shared.target(self.url)
        if self._excess and path not in _PROBES:
            raise Unavailable("Too many connections. Please try again.")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": version,
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "method": parser.get_method().decode("ascii"),
            "path": path,
            "raw_path": raw_path,
            "query_string": query,
            "headers": self.headers,
        }
        keep_alive = version == "1.1" and not (self.shared.draining or self._excess) and parser.should_keep_alive()
        cycle = self.cycle = Downstream(self, scope, keep_alive)
        cycle.waiting_for_100_continue = self.expect_100_continue
        cycle.length = self._content_length
        self._begin(cycle)

    def _begin(self, cycle: Downstream) -> None:
        """The head is done and the body to come: hand the request to the application."""
        self._phase = _BODY
        expects_continue = cycle.waiting_for_100_continue
        self.deadline = math.inf if expects_continue else self.loop.time() + self.shared.limits.body_timeout
        if self._active is None:
            self._run(cycle)
        else:
            self.pipeline.appendleft((cycle, self.app))
            # Not at the first one: while reading is paused, we would not see the client leave.
            if len(self.pipeline) >= self.shared.limits.max_pipelined // 2:
                self.flow.pause_reading()

    def _check_head(self, version: str) -> None:
        limits = self.shared.limits
        if len(self.headers) > limits.max_headers:
            raise HeadersTooLarge(f"The request has more than {limits.max_headers} headers.")
        if self._head_size + self._fed > limits.max_head:
            size = len(self.url) + 16 + sum(len(name) + len(value) + 4 for name, value in self.headers)
            if size > limits.max_head:
                raise HeadersTooLarge("The request head is too large.")
        if version == "1.1":
            if self._hosts != 1:
                raise InvalidRequest("A request must have exactly one Host header.")
        elif version != "1.0" or self._hosts > 1 or self._content_length < 0:
            raise InvalidRequest("This is not a well-formed HTTP/1.1 request.")
        if len(self.pipeline) >= limits.max_pipelined:
            raise Unavailable("Too many requests at once on one connection.")
        if self._content_length > limits.max_body:
            raise PayloadTooLarge(f"The request body is larger than {limits.max_body} bytes.")

    def on_body(self, body: bytes) -> None:
        self._body_size += len(body)
        if self._body_size > self.shared.limits.max_body:
            raise PayloadTooLarge(f"The request body is larger than {self.shared.limits.max_body} bytes.")
        size, cycle, most = self._body_size, self.cycle, self.shared.max_arriving
        if size > _UNCOUNTED and not cycle.response_complete and not self._count_in(cycle, size, most):
            raise Unavailable("Too many large request bodies are arriving at once. Please try again.")
        cycle.feed(body)

    def on_message_complete(self) -> None:
        if self._phase != _BODY:
            return  # the head of a declined upgrade
        self._phase = _IDLE
        if self._active is self.cycle:
            self._count_out(self.cycle)
        self.cycle.body_complete()
        self.deadline = math.inf if self._active is not None else self.loop.time() + self.shared.keep_alive

    def _count_in(self, cycle: Downstream, size: int, most: int) -> bool:
        """Count `size` bytes of its body until it is at work or thrown away. Returns whether there was room."""
        more = size - cycle.counted
        if more > 0:
            if not self.shared.arrive(self._counted, more, most):
                return False
            cycle.counted += more
        return True

    def _count_out(self, cycle: Downstream) -> None:
        if cycle.counted:
            self.shared.arrived(self._counted, cycle.counted)
            cycle.counted = 0

    # The application's calls

    def expect_all(self, cycle: Downstream) -> bool:
        """Count all of its body, whose length is known, as if it were there. Returns whether there was room for it."""
        most = self.shared.max_arriving * 3 // 4  # the rest is for what others send before they have to wait
        return not cycle.more_body or self._count_in(cycle, cycle.length, most)

    def _run(self, cycle: Downstream) -> None:
        self._active = cycle
        answering = self._answer(cycle)
        if answering is None:
            answering = cycle.run_asgi(self.app)
        # uvloop's own create_task takes half as long again.
        task = asyncio.Task(answering, loop=self.loop, name=_TASK)
        self.tasks.add(task)
        task.add_done_callback(cycle.ended)

    def expect_body(self) -> None:
        """The client may send its body from now on."""
        self.deadline = self.loop.time() + self.shared.limits.body_timeout

    def overrun(self, size: int) -> None:
        """`size` more bytes were written to a client that is behind. Cuts it off at `max_unsent`."""
        self._unsent += size
        if self.transport.get_write_buffer_size() > self.shared.limits.max_unsent:
            self.transport.abort()

    def on_response_complete(self, closes: bool) -> None:  # type: ignore[override]
        """The answer to the active request has been written. `closes`: it told the client that it is the last one."""
        self._active = None
        if self.transport.is_closing():
            self.deadline = self.loop.time() + self.shared.limits.stall
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if closes:
            self._farewell = None  # the client was told that there is no more
            self._part()
        elif self.pipeline:
            cycle: Downstream = self.pipeline.pop()[0]  # type: ignore[assignment]
            if not cycle.more_body:
                self._count_out(cycle)
            self._run(cycle)
        elif self._deaf:
            self._part()
        elif self._phase == _IDLE:
            self.deadline = self.loop.time() + self.shared.keep_alive
        elif self._phase == _BODY:  # the rest of it is thrown away as it comes
            self.cycle.body = b""
            self._count_out(self.cycle)

    # The server's calls

    def sweep(self, now: float) -> None:
        """Act on deadlines that have passed."""
        if self._stalled_at <= now:
            unsent = self.transport.get_write_buffer_size()
            if unsent >= self._unsent:
                self.transport.abort()
                return
            self._unsent = unsent
            self._stalled_at = now + self.shared.limits.stall
        if self.deadline <= now:
            self._late(now)

    def leave(self, idle_until: float) -> None:
        """The server stops: an answer not begun says so; an idle connection has until `idle_until` for a request."""
        if self._active is not None:
            if not self.cycle.response_started:
                self.cycle.keep_alive = False
        elif self._phase == _IDLE:
            self.deadline = min(self.deadline, idle_until)

    def _late(self, now: float) -> None:
        limits = self.shared.limits
        if self.flow.write_paused:
            self.deadline = now + limits.stall  # the client is still taking an answer; _stalled_at watches that
        elif self._lingering or self.transport.is_closing():
            self.transport.abort()
        elif self._phase == _IDLE:
            self._close()
        elif self._phase == _HEAD:
            self._stop(RequestTimedOut(f"The request head did not arrive within {limits.head_timeout:g} seconds."))
        elif self.flow.read_paused:
            self.deadline = now + limits.body_timeout  # the application is the one that does not read
        else:
            self._stop(RequestTimedOut(f"The request body did not arrive within {limits.body_timeout:g} seconds."))

    # Endings

    def _stop(self, error: ApiError) -> None:
        """Parse no more of what the client sends, and end the connection with `error`."""
        self._deaf = True
        self.deadline = math.inf
        if self._phase == _BODY:
            self.cycle.fail(error)
            self._count_out(self.cycle)
        else:
            self._farewell = error
        if self._active is None:
            self._part()

    def _part(self) -> None:
        """After the last answer: send the error that ended the connection, if any, and close or linger."""
        if self._farewell is not None:
            headers, body = error_answer(self._farewell)
            framing = b"\r\ncontent-length: %d" % len(body)
            head = render_head(self._farewell.status, self.shared.date_line, headers, framing, keep_alive=False)
            self.transport.write(head + body)
        limits = self.shared.limits
        if self.transport.is_closing() or not (self._deaf or self._phase == _BODY):
            self._close()
            return
        self._deaf = self._lingering = True
        unsent = self.transport.get_write_buffer_size()
        self.deadline = self.loop.time() + (limits.stall if unsent else limits.linger)
        self.transport.write_eof()

    def _close(self) -> None:
        self.transport.close()
        self.deadline = self.loop.time() + self.shared.limits.stall
