"""Ordinary ASGI on the same server: what pages are built on."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.edge.raw import GET, Asgi, Client, eventually, post, running
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from tollbridge.edge.downstream import Downstream

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


async def body_of(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionAbortedError
        body += bytes(message["body"])
        if not message["more_body"]:
            return body


async def answer(send: Send, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})


async def page(scope: Any, receive: Receive, send: Send) -> None:
    body = await body_of(receive)
    await answer(send, scope["path"].encode() + b" " + body, (b"content-type", b"text/html"))


def test_a_page_is_served_again_and_again_also_pipelined() -> None:
    with running(Asgi(plain=page)) as server, Client(server) as client:
        for number in range(3):
            assert client.send(post(b"%d" % number)).response().body == b"/ %d" % number
        client.send(post(b"x" * 300_000, "/1") + GET + post(b"3", "/3"))
        assert [len(client.response().body) for _ in range(3)] == [300_003, 2, 4]


def test_a_body_with_its_length_is_sent_as_it_is() -> None:
    async def file(_scope: Any, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"6")]})
        for piece in (b"abc", b"def"):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    with running(Asgi(plain=file)) as server, Client(server) as client:
        for _ in range(2):
            answered = client.send(GET).response()
            assert (answered.body, answered.headers["content-length"]) == (b"abcdef", "6")
            assert "date" in answered.headers
            assert "server" not in answered.headers


def test_sending_waits_for_a_reader_that_is_behind() -> None:
    sent = [0]

    async def endless(_scope: Any, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(5000):
            await send({"type": "http.response.body", "body": b"x" * 4096, "more_body": True})
            sent[0] += 4096
        await send({"type": "http.response.body"})

    with running(Asgi(plain=endless)) as server, Client(server, receive_buffer=4096) as client:
        client.send(GET)
        eventually(lambda: any(c.flow.write_paused for c in server.server_state.connections))  # type: ignore[union-attr]
        assert sent[0] < 20_000_000
        assert len(client.response().body) == 5000 * 4096


def test_receive_tells_that_the_client_left() -> None:
    told: list[str] = []

    async def waits(_scope: Any, receive: Receive, _send: Send) -> None:
        await body_of(receive)
        told.append((await receive())["type"])

    with running(Asgi(plain=waits)) as server:
        client = Client(server)
        client.send(post(b"abc"))
        eventually(lambda: server.server_state.tasks)
        client.close()
        eventually(lambda: told)
    assert told == ["http.disconnect"]


@pytest.mark.parametrize(
    ("rest", "status"),
    [(b"zz\r\n", 400), (b"3e9\r\n" + b"x" * 1001 + b"\r\n", 413), (b"1\r\nx\r\n", 408)],
    ids=["malformed", "too large", "too late"],
)
def test_a_body_that_fails_is_answered_by_the_server(
    rest: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    with running(Asgi(plain=page), max_body=1000, body_timeout=0.3) as server, Client(server) as client:
        answered = client.send(CHUNKED + rest).response()
        assert answered.status == status
        assert answered.error["type"] == "invalid_request_error"
        assert answered.headers["connection"] == "close"
        assert client.closed()
    assert not caplog.records


def test_continue_comes_with_the_first_receive_only() -> None:
    async def guarded(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/in":
            await page(scope, receive, send)
        else:
            await answer(send, b"no")

    head = b"POST %b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    with running(Asgi(plain=guarded)) as server, Client(server) as client:
        assert client.send(head % b"/in").response().status == 100
        assert client.send(b"abc").response().body == b"/in abc"
        assert client.send(head % b"/out").response().headers["connection"] == "close"
        assert client.closed()


@pytest.mark.parametrize("length", [10, 8_000_000])
def test_a_closing_answer_to_an_unread_body_is_not_lost_in_a_reset(length: int) -> None:
    async def refuse(_scope: Any, _receive: Receive, send: Send) -> None:
        await answer(send, b"no", (b"connection", b"close"))

    with running(Asgi(plain=refuse)) as server, Client(server) as client:
        client.send(post(b"x" * length))
        assert client.response().body == b"no"
        assert client.closed()


def test_an_exception_is_a_500_of_openais_shape(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(_scope: Any, _receive: Receive, _send: Send) -> None:
        raise LookupError("inside")

    with running(Asgi(plain=fails)) as server, Client(server) as client:
        for _ in range(2):
            answered = client.send(GET).response()
            assert (answered.status, answered.error["code"]) == (500, "internal_error")
            assert b"inside" not in answered.body
    assert caplog.text.count("LookupError: inside") == 2


def test_a_task_is_forgotten_when_it_ends_however_it_ends() -> None:
    async def mixed(scope: Any, receive: Receive, send: Send) -> None:
        if scope["path"] == "/fails":
            raise LookupError
        await page(scope, receive, send)

    with running(Asgi(plain=mixed)) as server, Client(server) as client:
        for path, status in (("/", 200), ("/fails", 500), ("/", 200)):
            assert client.send(post(b"1", path)).response().status == status
        eventually(lambda: not server.server_state.tasks)


def test_too_long_a_body_for_its_length_cuts_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def wrong(_scope: Any, _receive: Receive, send: Send) -> None:
        await answer(send, b"four", (b"content-length", b"3"))

    with running(Asgi(plain=wrong)) as server, Client(server) as client:
        assert b"four" not in client.send(GET).file.read()
    assert "longer than Content-Length" in caplog.text


def test_lifespan_state_reaches_each_request() -> None:
    class Stateful(Asgi):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "lifespan":
                scope["state"]["name"] = b"shared"
            await super().__call__(scope, receive, send)

    async def tell(scope: Any, _receive: Receive, send: Send) -> None:
        await answer(send, scope["state"].pop("name"))

    app = Stateful(plain=tell)
    with running(app) as server, Client(server) as client:
        assert [client.send(GET).response().body for _ in range(2)] == [b"shared"] * 2
    assert app.stopped


def test_a_downstream_has_every_attribute_of_the_cycle_that_it_stands_for() -> None:
    """`Downstream` does not call uvicorn's initialiser: a new attribute there must be known here."""
    flow = FlowControl.__new__(FlowControl)
    logger = logging.getLogger("test")
    event = asyncio.Event()
    nothing: Any = None
    cycle = RequestResponseCycle(nothing, nothing, flow, logger, logger, False, [], event, False, True, print)

    class Connection:
        transport = server_state = flow = None
        default_headers: list[Any] = []

    connection: Any = Connection()
    connection.server_state = connection
    downstream = Downstream(connection, {}, keep_alive=True)
    missing = [name for name in vars(cycle) if not hasattr(downstream, name)]
    assert missing == []
    same = {"disconnected", "response_started", "response_complete", "more_body", "chunked_encoding"}
    for name in same | {"expected_content_length", "access_log", "body"}:
        assert getattr(downstream, name) == getattr(cycle, name)
