"""One request as the inference application sees it: an application with a method `answer` gets a `Downstream`.

It exists beside ASGI's `scope`, `receive` and `send`, which still serve everything else, because awaiting `send` costs
several µs for each streamed chunk and does not tell that the client has gone. `scope["extensions"]["tollbridge"]` is
the same Downstream.

Rules
1. An answer is `respond()`; or `start()`, any number of `write()`, and `end()`. `abort()` cuts it short.
2. Only `read_body()` waits. While `paused`, the client is behind: the application stops reading its upstream and goes
   on at `on_resume`. If it writes on regardless, the connection is cut at `max_unsent` bytes.
3. A client is gone when its socket closes, fails, or reports the end of its sending side: no HTTP client in use closes
   only that half. `on_disconnect` is called at once, at most once, and only while the answer is unfinished. After that
   `disconnected` is true and writing does nothing.
4. Back-pressure, deadlines and keep-alive are the connection's job (`edge.connection`).
"""

import asyncio
import logging
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from uvicorn._types import ASGI3Application, ASGIReceiveEvent, ASGISendEvent
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from tollbridge.edge.repeats import KnownHead
from tollbridge.errors import ApiError, ClientGone, InternalError, Unavailable
from tollbridge.wire.errors import render

if TYPE_CHECKING:
    from tollbridge.edge.connection import Connection

__all__ = ["Downstream", "Headers", "error_answer", "render_head"]

# Each is a line, `name: value`.
Headers = Sequence[bytes]

_WITHOUT_BODY = frozenset({204, 304})
# From this size on, copying the body behind its head costs more than a second buffer in the same system call.
_LARGE = 64 * 1024
_CR, _LF, _NUL = b"\r\n\0"
_END = b"\r\n\r\n"
_LAST_END = b"\r\nconnection: close\r\n\r\n"
_FAILED = "The server had an error while processing your request."
_LOGGER = logging.getLogger("tollbridge.edge")


def error_answer(error: ApiError) -> tuple[list[bytes], bytes]:
    """Headers and body of an error that no application answers, in OpenAI's shape, with its own `x-request-id`."""
    headers = [b"content-type: application/json", b"x-request-id: req_" + secrets.token_hex(12).encode()]
    headers += [f"{name}: {value}".encode("latin-1") for name, value in error.headers.items()]
    return headers, render(error)


def render_head(status: int, date_line: bytes, headers: Headers, framing: bytes, keep_alive: bool) -> bytes:
    """The head of a response. `framing`: a CRLF and one more header line, or b"" for none.

    ValueError if a header holds CR, LF or NUL.
    """
    lines = [date_line, *headers]
    text = b"".join(lines)
    if _CR in text or _LF in text or _NUL in text:
        raise ValueError("a response header holds CR, LF or NUL")
    end = _END if keep_alive else _LAST_END
    return STATUS_LINE[status] + b"\r\n".join(lines) + framing + end


class Downstream(RequestResponseCycle):
    """The client's side of one request. See the rules above.

    `known`: its head, if that repeats, with what the application has read from it. `client`: the peer's address (""
    when unknown; forwarding headers are not believed). Headers are lines, `name: value`; content-length,
    transfer-encoding, connection and date are added here. A head with CR, LF or NUL inside a line is a ValueError, and
    none of it is sent.
    """

    # Shared by all requests whose head repeats: read only.
    scope: Any
    # What RequestResponseCycle.__init__ sets from eleven keyword arguments for each request. As class attributes they
    # cost nothing until they change. tests/edge/test_downstream_asgi.py keeps the two in step.
    logger = _LOGGER
    access_logger = _LOGGER
    access_log = False
    disconnected = False
    response_started = False
    response_complete = False
    more_body = True
    chunked_encoding: bool | None = None
    expected_content_length = 0
    message_event: asyncio.Event | None = None  # type: ignore[assignment]
    waiting_for_100_continue = False
    body: bytes | bytearray = b""  # type: ignore[assignment]
    # Bytes of the body as the head declares them; -1: it comes in chunks.
    length = 0
    # Bytes of the body that the connection has counted as arriving.
    counted = 0

    _last = False
    _chunked = False
    _whole = False
    _failure: ApiError | None = None
    _gone_callback: Callable[[], None] | None = None
    _resume_callback: Callable[[], None] | None = None

    def __init__(self, connection: "Connection", scope: Any, keep_alive: bool, known: KnownHead | None = None) -> None:
        self.connection = connection
        self.transport = connection.transport
        self.flow = connection.flow
        self.scope = scope
        self.keep_alive = keep_alive
        self.known = known

    # What the application asks

    @property
    def client(self) -> str:
        return self.connection.peer

    @property
    def paused(self) -> bool:
        """Whether more than `high_water` bytes wait for the client."""
        return self.flow.write_paused

    def whole_body(self) -> bytes | None:
        """As `read_body`, if all of it has arrived already; None: call `read_body`, which waits or raises."""
        if self.more_body or self.disconnected or self._failure is not None:
            return None
        body, self.body = bytes(self.body), b""
        return body

    def may_arrive(self) -> bool:
        """Whether a body whose length is known has room to arrive; it keeps that until it is there. Else: ask again."""
        return self.disconnected or self._failure is not None or self.connection.expect_all(self)

    async def read_body(self) -> bytes:
        """The whole body, once; at most `max_body` bytes. A client that waits for `100 Continue` gets it now.

        Raises PayloadTooLarge, RequestTimedOut, InvalidRequest (framing) or ClientGone.
        """
        if self.more_body and not self.disconnected and self._failure is None:
            await self._whole_body()
        if self._failure is not None:
            raise self._failure
        if self.disconnected:
            raise ClientGone
        body, self.body = bytes(self.body), b""
        return body

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when the client leaves before the answer is finished; now, if it has already left."""
        if self.disconnected:
            callback()
        elif not self.response_complete:
            self._gone_callback = callback

    def on_resume(self, callback: Callable[[], None]) -> None:
        """Have `callback` called each time `paused` turns false while the answer is unfinished. The last one counts."""
        self._resume_callback = callback

    def when_taken(self, callback: Callable[[], None], within_s: float) -> None:
        """Have `callback` called once the client has taken nearly all that was written, or is gone. A client that has
        not taken it within that time is cut off.
        """
        if not self.flow.write_paused:
            callback()
            return
        timer = self.connection.loop.call_later(within_s, self.transport.abort)

        def taken() -> None:
            timer.cancel()
            callback()

        self.connection.untaken.append(taken)

    # What it answers

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """The whole answer in one write."""
        if (self.disconnected or self.response_started or self.waiting_for_100_continue) and not self._begins():
            return
        framing = b"" if status in _WITHOUT_BODY else b"\r\ncontent-length: %d" % len(body)
        head = render_head(status, self.connection.shared.date_line, headers, framing, self.keep_alive)
        self.response_started = True
        if not framing or self.scope["method"] == "HEAD":
            self.transport.write(head)
        elif len(body) < _LARGE:
            self.transport.write(head + body)
        else:
            self.transport.writelines((head, body))
        self._finish()

    def start(self, status: int, headers: Headers, data: bytes = b"") -> None:
        """The head of a stream, and its first bytes in the same write.

        For HTTP/1.1 it is chunked; for HTTP/1.0, which has no chunks, it ends with the connection.
        """
        if self._begins():
            chunked = self.scope["http_version"] == "1.1"
            self.keep_alive = self.keep_alive and chunked
            framing = b"\r\ntransfer-encoding: chunked" if chunked else b""
            head = render_head(status, self.connection.shared.date_line, headers, framing, self.keep_alive)
            self.response_started = True
            self._chunked = chunked and self.scope["method"] != "HEAD"
            if self._chunked and data:
                self.transport.write(b"%b%x\r\n%b\r\n" % (head, len(data), data))
            else:
                self.transport.write(head)
                self.write(data)

    def write(self, data: bytes) -> bool:
        """One piece of a stream, in one write; empty data writes nothing. Returns whether the client is behind."""
        if self._chunked and data:
            chunk = b"%x\r\n%b\r\n" % (len(data), data)
            self.transport.write(chunk)
            if self.flow.write_paused:
                self.connection.overrun(len(chunk))
                return True
            return False
        if data:
            self._write_unframed(data)
        return self.flow.write_paused

    def end(self, data: bytes = b"") -> None:
        """The last piece of a stream, and its end, in one write."""
        if self._chunked:
            self._chunked = False
            self.transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data) if data else b"0\r\n\r\n")
        else:
            self._write_unframed(data)
        if not self.disconnected:
            self._finish()

    def abort(self) -> None:
        """Cut the connection, dropping unsent bytes: the client sees an answer that broke off."""
        self._forget()
        if not self.response_complete:
            self.disconnected = True
            self.transport.abort()

    def refuse(self, error: ApiError) -> None:
        """Answer with this error, in OpenAI's shape."""
        self.respond(error.status, *error_answer(error))

    # What the connection tells

    def feed(self, data: bytes) -> None:
        """A piece of the body has arrived."""
        if self.response_complete or self.disconnected:
            return
        if not self.body:
            self.body = data  # nearly always all of it
        else:
            if isinstance(self.body, bytes):
                self.body = bytearray(self.body)
            self.body += data
        if not self._whole:
            if len(self.body) > self.connection.shared.limits.high_water:
                self.flow.pause_reading()
            if self.message_event is not None:
                self.message_event.set()

    def body_complete(self) -> None:
        self.more_body = False
        if self.message_event is not None:
            self.message_event.set()

    def fail(self, error: ApiError) -> None:
        """The body failed to arrive. Asking for it raises `error`; the connection ends with the answer."""
        self._failure = error
        self.body = b""
        self.keep_alive = False
        if self.message_event is not None:
            self.message_event.set()

    def resumed(self) -> None:
        if self._resume_callback is not None:
            self._resume_callback()

    def lost(self) -> None:
        """The client has gone."""
        if self.response_complete:
            return
        callback = self._gone_callback
        self.disconnected = True
        self._forget()
        if callback is not None:
            callback()

    def ended(self, task: asyncio.Task[None]) -> None:
        """The application is done with this request. Whatever it did must not harm the connection.

        If it raised an ApiError, that is the answer, in OpenAI's shape.
        """
        self.connection.tasks.discard(task)
        if task.cancelled():  # the time for a graceful shutdown is over
            self._give_up(Unavailable("The server is shutting down."))
        elif (error := task.exception()) is not None:
            if not isinstance(error, ApiError):
                if not self.disconnected:
                    _LOGGER.error("the application failed", exc_info=error)
                error = InternalError(_FAILED)
            self._give_up(error)
        elif not self.response_complete and not self.disconnected:
            _LOGGER.error("the application returned without finishing its answer")
            self._give_up(InternalError(_FAILED))

    # ASGI

    async def run_asgi(self, app: ASGI3Application) -> None:
        # A scope of its own, to change as it likes. Ours holds no reference to self: no cycle for the collector.
        scope: Any = {**self.scope, "extensions": {"tollbridge": self}}
        if self.connection.app_state:
            scope["state"] = self.connection.app_state.copy()
        await app(scope, self.receive, self.send)

    async def receive(self) -> ASGIReceiveEvent:
        self._arrival()
        self._continue()
        message = await super().receive()
        if self._failure is None or self.disconnected or self.response_complete:
            return message
        if not self.response_started:
            self.refuse(self._failure)
        self.disconnected = True
        return {"type": "http.disconnect"}

    async def send(self, message: ASGISendEvent) -> None:
        self._arrival()
        if self.waiting_for_100_continue:
            self.keep_alive = False
        await super().send(message)
        if self.response_started and not self.keep_alive:
            self._last = self.keep_alive = True  # or uvicorn closes on unread bytes, and the kernel sends a reset

    def on_response(self) -> None:
        self._finish()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        return self.connection.server_state.default_headers

    # Inside

    def _begins(self) -> bool:
        """Whether the client is still there. Decides, before the head is written, whether the connection goes on."""
        if self.disconnected:
            return False
        if self.response_started:
            raise RuntimeError("this request has been answered")
        if self.waiting_for_100_continue:  # whether the client now sends its body or a new request, we cannot tell
            self.waiting_for_100_continue = self.keep_alive = False
        return True

    def _write_unframed(self, data: bytes) -> None:
        if self.disconnected:
            return
        if not self.response_started or self.response_complete:
            raise RuntimeError("no answer is being streamed")
        if self.scope["method"] != "HEAD" and data:
            self._send(data)

    def _send(self, data: bytes) -> None:
        self.transport.write(data)
        if self.flow.write_paused:
            self.connection.overrun(len(data))

    def _finish(self) -> None:
        self.response_complete = True
        if self._gone_callback is not None:  # who wants to hear of resuming wants to hear of this too
            self._resume_callback = self._gone_callback = None
        if self.message_event is not None:
            self.message_event.set()
        self.connection.on_response_complete(self._last or not self.keep_alive)

    def _forget(self) -> None:
        self._chunked = False
        self._resume_callback = self._gone_callback = None
        if self.message_event is not None:
            self.message_event.set()

    def _give_up(self, error: ApiError) -> None:
        if self.response_started:
            self.abort()
        else:
            self.refuse(error)

    def _arrival(self) -> asyncio.Event:
        """Set when something has arrived. Made when first asked for, because most requests never wait."""
        if self.message_event is None:
            self.message_event = asyncio.Event()
            if self.body or not self.more_body or self.disconnected or self._failure is not None:
                self.message_event.set()
        return self.message_event

    def _continue(self) -> None:
        if self.waiting_for_100_continue and not self.disconnected:
            self.waiting_for_100_continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.connection.expect_body()

    async def _whole_body(self) -> None:
        self._whole = True
        self._continue()
        if self.flow.read_paused:
            self.flow.resume_reading()
            self.connection.expect_body()
        arrival = self._arrival()
        while self.more_body and not self.disconnected and self._failure is None:
            await arrival.wait()
            arrival.clear()
