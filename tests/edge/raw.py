"""A real server on a thread, and clients that write bytes, shared by the tests of the edge."""

import json
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

from tollbridge.edge.downstream import Downstream
from tollbridge.edge.server import Server, ServerLimits, listen

Handler = Callable[[Downstream, Any], Coroutine[Any, Any, None]]

HEADERS = [b"content-type: text/plain"]
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def post(body: bytes, path: str = "/", headers: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Asgi:
    """An application that answers by `handler(downstream, scope)`, or by any ASGI callable."""

    def __init__(self, handler: Handler | None = None, plain: Callable[..., Awaitable[None]] | None = None) -> None:
        self.handler = handler
        self.plain = plain
        self.stopped = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.stopped = True
            await send({"type": "lifespan.shutdown.complete"})
        elif self.plain is not None:
            await self.plain(scope, receive, send)
        else:
            raise AssertionError("`answer` answers")

    def answer(self, downstream: Downstream) -> Coroutine[Any, Any, None] | None:
        return self.handler(downstream, downstream.scope) if self.handler is not None else None


async def echo(downstream: Downstream, scope: Any) -> None:
    """Answers with method, path and body."""
    body = await downstream.read_body()
    downstream.respond(200, HEADERS, b"%b %b %b" % (scope["method"].encode(), scope["path"].encode(), body))


@contextmanager
def running(app: Handler | Asgi, **limits: Any) -> Iterator[Server]:
    """The server of `app` on a free loopback port, drained at the end."""
    settings = ServerLimits(**{"sweep": 0.05, "drain": 2.0, **limits})
    server = Server(app if isinstance(app, Asgi) else Asgi(app), listen("127.0.0.1", 0), settings)
    thread = threading.Thread(target=server.run, name="edge")
    thread.start()
    try:
        eventually(lambda: server.started)
        yield server
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()


def eventually(condition: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


class Response(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The error in a body of OpenAI's shape, which is checked."""
        document = json.loads(self.body)
        error = document["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert document["detail"] == error["message"]
        assert self.headers["content-type"] == "application/json"
        assert self.headers["x-request-id"].startswith("req_")
        return dict(error)


class Client:
    """One connection."""

    def __init__(self, server: Server, *, source: str = "127.0.0.1", receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(30)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.bind((source, 0))
        try:
            self.socket.connect(("127.0.0.1", server.port))
        except OSError:
            self.socket.close()
            raise
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def send(self, data: bytes) -> "Client":
        self.socket.sendall(data)
        return self

    def response(self, *, to: str = "GET") -> Response:
        """The next response, including interim ones. `ConnectionResetError` if the server closed without one."""
        if not (line := self.file.readline()):
            raise ConnectionResetError("closed without a response")
        status = int(line.split()[1])
        headers: dict[str, str] = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode("latin-1").partition(": ")
            assert name not in headers
            headers[name] = value
        if to == "HEAD" or status in {100, 204, 304}:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b"".join(self.chunks())
        elif "content-length" in headers:
            body = self.file.read(int(headers["content-length"]))
        else:
            body = self.file.read()
        return Response(status, headers, body)

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.file.readline(), 16):
            yield self.file.read(size)
            assert self.file.readline() == b"\r\n"
        assert self.file.readline() == b"\r\n"

    def closed(self) -> bool:
        """Wait for the server's close; whether it came without another byte."""
        return self.file.read() == b""


def ask(server: Server, request: bytes = GET) -> Response:
    with Client(server) as client:
        return client.send(request).response()
