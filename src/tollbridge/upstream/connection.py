"""One exchange on one socket: the parser, the time-outs, the caps and the back-pressure of an HTTP/1.1 call.

Rules of this file
1. A connection carries one exchange at a time. It is released only if the response was read whole, nothing followed it
   and the request was sent whole; otherwise it is aborted. So no call ever reads another call's bytes.
2. Bytes that arrive on a connection with no exchange drop it.
3. A pool slot is given back when the socket is closed, so `max_connections` bounds sockets.
4. The caller's callbacks run after the parser has returned, once per read of the socket, never inside it.
5. A chunk only leaves a mark that it came; the pool's tick looks at the clock. A time-out is never early and at most
   two ticks late.
6. httptools (llhttp) parses strictly: it refuses obs-fold, bare LF, control characters, and a Content-Length that is
   repeated, a list, or beside Transfer-Encoding. What it lets pass is refused here: codings, foreign statuses, sizes.
7. The parser checks a head but reports none of its headers, because few answers are ever asked for one. Those that are
   wanted are searched for in the checked head, where each line is a header and ends with CRLF.
"""

import asyncio
import contextlib
import math
import re
import socket
from collections.abc import Callable
from typing import Protocol, cast

import msgspec
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from tollbridge.errors import AnswerTooLarge, ConnectionLost, ProtocolError, UpstreamError, UpstreamTimeout

# Bytes kept in memory for a caller that has not yet said what to do with the body.
_UNCLAIMED_BYTES = 64 * 1024
# A body up to this size leaves in one write with its head; a larger one leaves in pieces of this size.
_PIECE_BYTES = 64 * 1024
# If a reused connection dies within this time, the peer had closed it before it saw the request (one round trip); if it
# dies later, the peer was working on it, and a second try would make the provider bill twice.
_STALE_SECONDS = 2.0
# A dead peer of a silent stream is found after 30 + 4 × 15 s.
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))

# Looked for in a head that the parser has accepted, in lower case.
_LENGTH = b"\r\ncontent-length:"
_TRANSFER = b"\r\ntransfer-encoding:"
_CODED = b"-encoding:"
_CODINGS = re.compile(rb"\r\n(content|transfer)-encoding:([^\r]*)")
# The shortest line of a header: a letter, a colon, CRLF.
_LEAST_HEADER = 4

# Phases of an exchange, in order. `_BROKEN`: what the parser refused.
_HEAD, _BODY, _ENDED, _BROKEN = range(4)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one upstream may take: seconds, connections, bytes."""

    connect: float = 5.0  # look-up, TCP and TLS together
    first_byte: float = 120.0  # from the request's last byte to the answer's whole head
    gap: float = 60.0  # between two reads of the body, and between two writes of a large request
    total: float = 900.0  # one exchange, its pauses included
    idle: float = 55.0  # how long an unused connection is kept
    queue: float = 10.0  # waiting for a connection when all are busy
    max_connections: int = 256
    max_waiting: int = 256
    max_head: int = 32 * 1024  # also of any other run of bytes without body: chunk lines, trailers, interim answers
    max_headers: int = 128
    # The most embeddings that OpenAI gives at once, 2,048 of 3,072 numbers each, take a little over 32 MiB in base64.
    max_body: int = 40 * 1024 * 1024


class Keeper(Protocol):
    """The owner of connections."""

    limits: Limits
    # Sockets are read into this. One is enough for all, because it is filled and parsed in one go. Without it, the
    # loop's TLS allocates 256 KiB per read, which costs more than all the rest of a call.
    buffer: memoryview

    def add(self, connection: "Connection") -> None:
        """Its socket is open."""

    def release(self, connection: "Connection") -> None:
        """Its exchange is over, and it is fit for another one."""

    def remove(self, connection: "Connection") -> None:
        """Its socket is closed."""


class Response(msgspec.Struct, eq=False):
    """An upstream's answer whose head has arrived. The body is read whole, piped, or abandoned with `close()`.

    A Response must be read to its end or closed: until then it occupies a connection.
    """

    _connection: "Connection | None"  # None: the exchange is over
    _waiter: asyncio.Future[None]
    status: int = 0
    _head: bytes = b""
    _chunks: list[bytes] = []
    _most: float = _UNCLAIMED_BYTES  # how much is received before it pauses
    _on_data: Callable[[bytes], None] | None = None
    _on_end: Callable[[UpstreamError | None], None] | None = None
    _error: UpstreamError | None = None

    def __repr__(self) -> str:
        return f"Response({self.status})"

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names are lower-case; values are bytes without control characters, stripped of surrounding white space.

        Parsed from the head each time.
        """
        found = []
        for line in self._head.split(b"\r\n")[1:-1]:
            name, _, value = line.partition(b":")
            found.append((name.lower(), value.strip(b" \t")))
        return found

    def header(self, name: bytes) -> bytes | None:
        """The first value of the header `name` (lower-case)."""
        for known, value in self.headers:
            if known == name:
                return value
        return None

    def whole_body(self) -> bytes | None:
        """As `read`, if all of it has arrived already; None: it has to be waited for, or has failed."""
        if self._connection is not None or self._error is not None:
            return None
        return b"".join(self._chunks)

    async def read(self) -> bytes:
        """The whole body. Raises UpstreamError. Cancelling closes the response."""
        body = await self.read_up_to(math.inf)
        assert body is not None
        return body

    async def read_up_to(self, most: float) -> bytes | None:
        """As `read`; None once it is clear that the body is longer than `most` bytes. The rest of it waits then, and a
        greater `most` goes on with it.
        """
        connection = self._connection
        if connection is not None:
            self._most = most
            if connection.received > most:
                return None
            self._waiter = connection.loop.create_future()
            connection.resume()
            try:
                await self._waiter
            except BaseException:
                self.close()
                raise
            if self._connection is not None:
                return None
        if self._error is not None:
            raise self._error
        body = b"".join(self._chunks)
        self._chunks[:] = [body]  # not all of it twice
        return body

    def stop_clock(self) -> None:
        """While the body waits because of us, none of its time is used up."""
        if self._connection is not None:
            self._connection.stop_clock()

    def start_clock(self) -> None:
        if self._connection is not None:
            self._connection.start_clock()

    def pipe(self, on_data: Callable[[bytes], None], on_end: Callable[[UpstreamError | None], None]) -> None:
        """Call `on_data` for each read of the socket, then `on_end` exactly once, with None when the body is whole.

        What arrived earlier is delivered before this returns. `on_end` may be called during a pause, if nothing was
        left to read.
        """
        self._on_data, self._on_end = on_data, on_end
        if self._chunks:
            data = b"".join(self._chunks)
            self._chunks.clear()
            if self._connection is not None:
                self._connection.resume()
            on_data(data)
        if self._connection is None and self._on_end is not None:
            on_end(self._error)

    def pause(self) -> None:
        """Stop reading the socket: TCP slows the peer down, and the gap time-out is suspended."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()

    def close(self) -> None:
        """Abandon the rest. The connection is closed unless the body had been read whole; `on_end` is not called."""
        self._on_data = self._on_end = None
        connection = self._connection
        if connection is not None:
            self._connection = None
            self._error = ConnectionLost("the response was abandoned")
            connection.response = None
            connection.drop()

    def _wait(self) -> None:
        if not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, error: UpstreamError | None) -> None:
        self._connection = None
        self._error = error
        waiter = self._waiter
        if not waiter.done():
            waiter.set_result(None)
        if self._on_end is not None:
            self._on_end(error)


class Connection(asyncio.BufferedProtocol):
    """One socket and, while it is busy, the exchange on it. The methods named `on_…` are the parser's."""

    __slots__ = (
        "_barren",
        "_buffer",
        "_feed",
        "_few_headers",
        "_keeper",
        "_limits",
        "_max_body",
        "_max_head",
        "_moved_at",
        "_parser",
        "_parts",
        "_paused",
        "_phase",
        "_progress",
        "_reusable",
        "_sent_at",
        "_started",
        "_stopped_at",
        "_time",
        "_transport",
        "_unread",
        "_until_close",
        "_upload",
        "_write",
        "_write_paused",
        "closed",
        "idle_since",
        "loop",
        "on_body",
        "received",
        "response",
        "served",
        "stale",
    )

    def __init__(self, keeper: Keeper, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.response: Response | None = None
        self.closed = False
        self.served = 0
        self.stale = False
        self.idle_since = 0.0
        self._keeper = keeper
        self._limits = keeper.limits
        self._buffer = keeper.buffer
        self._max_body = keeper.limits.max_body
        self._max_head = keeper.limits.max_head
        self._few_headers = keeper.limits.max_headers * _LEAST_HEADER
        self._time = loop.time
        self._transport: asyncio.Transport | None = None
        self._parts: list[bytes] = []
        # The parser looks up its callbacks once, so this one costs no Python frame per chunk.
        self.on_body = self._parts.append
        self._parser = HttpResponseParser(self)
        self._feed = self._parser.feed_data
        # The part of an incomplete head that has arrived; may hold what followed the head in the same read.
        self._unread = b""
        # Until an answer says otherwise, which is then the last one.
        self._reusable = True
        self._until_close = False
        self._upload: memoryview | None = None
        self._moved_at = 0.0
        self._paused = False
        self._write_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from it
        self._write = self._transport.write
        self._keeper.add(self)
        sock = transport.get_extra_info("socket")
        with contextlib.suppress(OSError):  # some systems refuse options on a socket that the peer has already reset
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                if hasattr(socket, option):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)

    def start(self, response: Response, head: bytes, body: bytes) -> None:
        """Send a request. Everything that happens to it is reported to `response`."""
        self.response = response
        self.served += 1
        self._phase = _HEAD
        self._barren = self.received = 0
        self._started = self._sent_at = self._time()
        self._progress = True
        if len(body) <= _PIECE_BYTES:
            self._write(head + body)
        else:
            self._write(head)
            self._upload = memoryview(body)
            self._send_on()

    def _send_on(self) -> None:
        while self._upload is not None and not self._write_paused:
            piece, rest = self._upload[:_PIECE_BYTES], self._upload[_PIECE_BYTES:]
            self._upload = rest if rest else None
            self._write(piece)
        if self._upload is None:
            self._sent_at = self._time()

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self.response is not None and self._upload is not None:
            self._progress = True
            self._send_on()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        response = self.response
        if response is None:
            self.drop()
            return
        data = self._buffer[:nbytes]
        self._progress = True
        try:
            if self._phase != _HEAD:
                self._feed(data)
            else:
                self._unread += data
                if self._barren + nbytes > self._max_head:
                    self._feed_capped(data)
                else:
                    self._feed(data)
        except (HttpParserError, HttpParserUpgrade, ProtocolError) as refusal:
            self._reusable = False
            if self._phase != _ENDED:  # else the answer is whole, and what follows it belongs to no exchange
                error, self._phase = _as_protocol_error(refusal), _BROKEN
        phase, parts = self._phase, self._parts
        if parts:
            self._barren = 0
            chunk = parts.pop()
            if parts:
                chunk = b"".join((*parts, chunk))
                parts.clear()
            self.received = received = self.received + len(chunk)
            if received > self._max_body:
                self.fail(AnswerTooLarge(f"the upstream's answer is larger than {self._max_body} bytes"))
                return
            on_data = response._on_data
            if on_data is not None:
                on_data(chunk)
                if phase == _BODY or self.response is not response:
                    return
            else:
                response._chunks.append(chunk)
                if received > response._most and phase == _BODY:
                    self.pause()
                    response._wait()
        else:
            self._barren += nbytes
            if self._barren >= self._max_head and phase < _ENDED:
                self.fail(ProtocolError(f"the upstream sent {self._barren} bytes without any body"))
                return
        if phase == _ENDED:
            self._finish(response)
        elif phase == _BROKEN:
            self.fail(error)

    def _feed_capped(self, data: memoryview) -> None:
        """Refuse a head that is too large, however it was split into reads."""
        room = self._max_head - self._barren
        self._feed(data[:room])
        if self._phase == _HEAD:
            raise ProtocolError(f"the head of the upstream's answer is larger than {self._max_head} bytes")
        self._feed(data[room:])

    def on_message_begin(self) -> None:
        if self._phase == _ENDED:
            raise ProtocolError("the upstream sent more than its answer")

    def on_headers_complete(self) -> None:
        response = self.response
        if self._phase != _HEAD or response is None:
            return
        status = self._parser.get_status_code()
        unread = self._unread.lstrip(b"\r\n")  # the parser accepts empty lines before a head
        end = unread.index(b"\r\n\r\n") + 2
        if status != 200 and not 200 <= status <= 599:
            if not 100 <= status < 200:
                raise ProtocolError(f"the upstream answered with status {status}")
            self._unread = unread[end + 2 :]
            return
        self._unread = b""
        head = unread[:end]
        if end > self._few_headers:
            self._check_number(head)
        lower = head.lower()
        if lower.find(_CODED) >= 0:  # `in` raises and drops a TypeError on the way
            _check_codings(lower)
        if not self._parser.should_keep_alive():
            self._reusable = False
            self._until_close = _LENGTH not in lower and _TRANSFER not in lower
        self._phase = _BODY
        response.status = status
        response._head = head
        waiter = response._waiter
        if not waiter.done():
            waiter.set_result(None)

    def _check_number(self, head: bytes) -> None:
        headers = head.count(b"\n") - 1
        if headers > self._limits.max_headers:
            raise ProtocolError(f"the upstream sent {headers} headers")

    def on_message_complete(self) -> None:
        if self._phase == _BODY:  # else an interim answer
            self._phase = _ENDED

    def eof_received(self) -> None:
        response = self.response
        if response is not None and self._phase == _BODY and self._until_close:
            self._finish(response)
        else:
            self._lose()

    def connection_lost(self, exc: Exception | None) -> None:
        self._keeper.remove(self)
        self.closed = True
        self._lose()

    def _lose(self) -> None:
        response = self.response
        if response is None:
            self.drop()
            return
        unheard = self._phase == _HEAD and not self._barren
        self.stale = unheard and self.served > 1 and self._time() - self._started < _STALE_SECONDS
        self.fail(ConnectionLost("the upstream closed the connection before its answer was whole"))

    def _finish(self, response: Response) -> None:
        self.response = None
        if self._phase == _ENDED and self._reusable and self._upload is None and not self.closed:
            if self._paused:
                self.resume()
            self._keeper.release(self)
        else:
            self.drop()
        response._end(None)

    def fail(self, error: UpstreamError) -> None:
        response = self.response
        self.response = None
        self.drop()
        if response is not None:
            response._end(error)

    def drop(self) -> None:
        """Close the socket now, whatever is still in flight."""
        if not self.closed:
            self.closed = True
            if self._transport is not None:
                self._transport.abort()

    def pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._progress = True
            self._transport.resume_reading()

    def stop_clock(self) -> None:
        """Until `start_clock`, no time of the exchange passes."""
        self._stopped_at, self._started = self._started - self._time(), math.inf

    def start_clock(self) -> None:
        self._started = self._stopped_at + self._time()

    def check(self, now: float) -> None:
        """End an exchange whose time is up."""
        if self.response is None:
            return
        limits = self._limits
        if now >= self._started + limits.total:
            self.fail(UpstreamTimeout("total", limits.total))
        elif self._phase == _HEAD and self._upload is None:
            if now >= self._sent_at + limits.first_byte:
                self.fail(UpstreamTimeout("first_byte", limits.first_byte))
        elif self._progress or self._paused:
            self._progress = False
            self._moved_at = now
        elif now >= self._moved_at + limits.gap:
            self.fail(UpstreamTimeout("gap", limits.gap))


def _check_codings(head: bytes) -> None:
    """Refuse a body that is neither plain nor chunked; `head` is in lower case."""
    chunked = False
    for kind, value in _CODINGS.findall(head):
        coding = value.strip(b" \t")
        if kind == b"content":
            if coding not in (b"", b"identity"):
                raise ProtocolError("the upstream compressed its answer though it was asked not to")
        elif chunked or coding != b"chunked":
            raise ProtocolError("the upstream's Transfer-Encoding is not plain chunked")
        else:
            chunked = True


def _as_protocol_error(refusal: Exception) -> ProtocolError:
    """The parser's reasons are its own fixed texts; an error raised in a callback is the context of the parser's."""
    for error in (refusal, refusal.__context__):
        if isinstance(error, ProtocolError):
            return error
    return ProtocolError(f"the upstream's answer is not acceptable HTTP: {refusal}")
