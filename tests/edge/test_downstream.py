"""One request and its answer, through `Downstream`."""

import asyncio
import gc
import json
import logging
import re
import socket
import threading
import time
import weakref
from typing import Any

import pytest
from tests.edge.raw import GET, HEADERS, Asgi, Client, ask, echo, eventually, post, running

from tollbridge.edge.downstream import Downstream
from tollbridge.errors import PaymentRequired


def test_an_answer_leaves_in_one_segment_with_length_and_date() -> None:
    with running(echo) as server, Client(server) as client:
        client.send(post(b"hello"))
        data = client.socket.recv(65536)
        head, body = data.split(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        assert status == b"HTTP/1.1 200 OK"
        assert re.fullmatch(rb"date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", lines[0])
        assert lines[1:] == [b"content-type: text/plain", b"content-length: 12"]
        assert body == b"POST / hello"


def test_a_connection_is_used_again() -> None:
    with running(echo) as server, Client(server) as client:
        for number in range(50):
            body = b"%d" % number * number
            assert client.send(post(body)).response().body == b"POST / " + body
        assert len(server.server_state.connections) == 1


def test_pipelined_requests_are_answered_in_order_and_one_at_a_time() -> None:
    running_now = 0

    async def slow_first(downstream: Downstream, scope: Any) -> None:
        nonlocal running_now
        running_now += 1
        assert running_now == 1
        body = await downstream.read_body()
        await asyncio.sleep(0.05 if scope["path"] == "/0" else 0)
        running_now -= 1
        downstream.respond(200, HEADERS, scope["raw_path"] + b" " + body)

    with running(slow_first) as server, Client(server) as client:
        client.send(b"".join(post(b"b%d" % number, f"/{number}") for number in range(10)))
        assert [client.response().body for _ in range(10)] == [b"/%d b%d" % (n, n) for n in range(10)]


def test_more_pipelined_requests_than_fit_end_the_connection_after_the_answers() -> None:
    with running(echo, max_pipelined=4) as server, Client(server) as client:
        client.send(GET * 4000)
        answers = [client.response() for _ in range(6)]
        assert [answer.status for answer in answers] == [200] * 5 + [503]
        assert answers[-1].error["code"] == "overloaded"
        assert client.closed()


@pytest.mark.parametrize("cut", [1, 30, 47, 60, 62, 64])
def test_a_request_may_come_in_pieces(cut: int) -> None:
    request = post(b"0123456789")
    with running(echo) as server, Client(server) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.send(request[:cut])
        time.sleep(0.02)
        assert client.send(request[cut:]).response().body == b"POST / 0123456789"


def test_a_chunked_body_is_put_together_and_its_trailers_are_dropped() -> None:
    async def headers_too(downstream: Downstream, scope: Any) -> None:
        body = await downstream.read_body()
        names = b",".join(name for name, _ in scope["headers"])
        downstream.respond(200, HEADERS, names + b" " + body)

    with running(headers_too) as server, Client(server) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n")
        client.send(b"3;ext=1\r\nabc\r\n").send(b"4\r\ndefg\r\n0\r\nAuthorization: Bearer x\r\n\r\n")
        assert client.response().body == b"host,transfer-encoding abcdefg"
        assert client.send(GET).response().status == 200


def test_a_large_body_arrives_whole_and_unread_ones_hold_the_client_back() -> None:
    begin = asyncio.Event()
    held: list[int] = []

    async def late(downstream: Downstream, _scope: Any) -> None:
        await begin.wait()
        held.append(len(downstream.body))
        body = await downstream.read_body()
        downstream.respond(200, HEADERS, b"%d" % len(body))

    with running(late) as server, Client(server) as client:
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.send(post(b"x" * 10_000_000))
        (connection,) = server.server_state.connections
        loop: asyncio.AbstractEventLoop = connection.loop
        loop.call_soon_threadsafe(begin.set)
    assert held[0] < 512 * 1024


def test_a_body_of_the_largest_size_is_taken() -> None:
    async def length(downstream: Downstream, _scope: Any) -> None:
        downstream.respond(200, HEADERS, b"%d" % len(await downstream.read_body()))

    with running(length) as server:
        assert ask(server, post(b"x" * 10 * 1024 * 1024)).body == b"10485760"


def test_the_body_that_nobody_reads_is_skipped_and_the_connection_goes_on() -> None:
    async def unread(downstream: Downstream, scope: Any) -> None:
        downstream.respond(401, HEADERS, scope["raw_path"])

    with running(unread) as server, Client(server) as client:
        for path in ("/1", "/2"):
            client.send(post(b"x" * 1_000_000, path))
            assert client.response().body == path.encode()


def test_continue_is_sent_only_when_the_body_is_asked_for() -> None:
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"

    async def guarded(downstream: Downstream, scope: Any) -> None:
        if scope["path"] == "/secret":
            downstream.respond(401, HEADERS)
        else:
            downstream.respond(200, HEADERS, await downstream.read_body())

    with running(guarded) as server:
        with Client(server) as client:
            assert client.send(head % b"/").response().status == 100
            assert client.send(b"abc").response().body == b"abc"
            assert client.send(GET).response().status == 200
        with Client(server) as client:
            answer = client.send(head % b"/secret").response()
            # Whether the body still comes is the client's choice, so the connection cannot go on.
            assert (answer.status, answer.headers["connection"]) == (401, "close")
            assert client.closed()


def test_http_1_0_gets_a_stream_that_ends_with_the_connection() -> None:
    async def stream(downstream: Downstream, _scope: Any) -> None:
        downstream.start(200, HEADERS, b"one ")
        downstream.write(b"two ")
        downstream.end(b"three")

    with running(stream) as server:
        answer = ask(server, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.body == b"one two three"
    assert answer.headers["connection"] == "close"
    assert "transfer-encoding" not in answer.headers


@pytest.mark.parametrize("behind", [b"", GET, b"nonsense\r\n\r\n"])
@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    ],
)
def test_the_last_request_of_a_connection_is_the_last_whatever_stands_behind_it(head: bytes, behind: bytes) -> None:
    with running(echo) as server, Client(server) as client:
        client.send(head + behind)
        assert client.response().headers["connection"] == "close"
        assert client.closed()


def test_head_gets_the_head_alone() -> None:
    async def both(downstream: Downstream, scope: Any) -> None:
        if scope["path"] == "/stream":
            downstream.start(200, HEADERS, b"x")
            downstream.write(b"y")
            downstream.end(b"z")
        else:
            downstream.respond(200, HEADERS, b"12345")

    with running(both) as server, Client(server) as client:
        client.send(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response(to="HEAD").headers["content-length"] == "5"
        client.send(b"HEAD /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.response(to="HEAD").status == 200
        assert client.send(GET).response().body == b"12345"


def test_no_content_has_neither_body_nor_length() -> None:
    async def nothing(downstream: Downstream, _scope: Any) -> None:
        downstream.respond(204, [b"access-control-allow-origin: *"])

    with running(nothing) as server, Client(server) as client:
        answer = client.send(GET).response()
        assert answer.headers.keys() == {"date", "access-control-allow-origin"}
        assert client.send(GET).response().status == 204


def test_each_piece_of_a_stream_is_one_chunk_that_leaves_at_once() -> None:
    pieces: list[bytes] = []

    async def stream(downstream: Downstream, _scope: Any) -> None:
        downstream.start(200, HEADERS)
        for number in range(3):
            piece = b"data: %d\n\n" % number
            downstream.write(piece)
            downstream.write(b"")
            while piece not in b"".join(pieces):  # noqa: ASYNC110 - until another thread has received it
                await asyncio.sleep(0.005)
        downstream.end(b"data: [DONE]\n\n")

    with running(stream) as server, Client(server) as client:
        client.send(GET)
        while not pieces or not pieces[-1].endswith(b"0\r\n\r\n"):
            pieces.append(client.socket.recv(65536))
        assert b"transfer-encoding: chunked" in pieces[0]
        tail = b"".join(pieces).split(b"\r\n\r\n", 1)[1]
        assert tail == b"9\r\ndata: 0\n\n\r\n9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\ne\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
        assert pieces[-2:] == [b"9\r\ndata: 2\n\n\r\n", b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"]


def test_the_head_of_a_stream_takes_its_first_bytes_along() -> None:
    received = threading.Event()

    async def stream(downstream: Downstream, _scope: Any) -> None:
        downstream.start(200, HEADERS, b"first")
        await asyncio.to_thread(received.wait)
        downstream.end()

    with running(stream) as server, Client(server) as client:
        assert client.send(GET).socket.recv(65536).endswith(b"\r\n\r\n5\r\nfirst\r\n")
        received.set()
        assert client.socket.recv(65536) == b"0\r\n\r\n"


def test_an_aborted_stream_is_seen_to_break_off() -> None:
    async def stream(downstream: Downstream, _scope: Any) -> None:
        downstream.on_disconnect(lambda: pytest.fail("it was we who left"))
        downstream.start(200, HEADERS, b"some")
        downstream.abort()
        downstream.write(b"nothing more")
        downstream.end()

    with running(stream) as server, Client(server) as client:
        data = client.send(GET).file.read()
        assert data.endswith(b"4\r\nsome\r\n")


@pytest.mark.parametrize(
    "header",
    [b"x: a\r\nset-cookie: b", b"x: a\nb", b"x: a\rb", b"x: a\0b", b"x\r\ny: a"],
)
def test_a_header_cannot_smuggle_another(header: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def inject(downstream: Downstream, _scope: Any) -> None:
        downstream.respond(200, [header])

    with running(inject) as server, Client(server) as client:
        answer = client.send(GET).response()
        assert (answer.status, answer.error["code"]) == (500, "internal_error")
        assert "set-cookie" not in answer.headers
    assert "a response header holds CR, LF or NUL" in caplog.text


def test_a_second_answer_is_a_mistake() -> None:
    mistakes: list[str] = []

    async def twice(downstream: Downstream, _scope: Any) -> None:
        with pytest.raises(RuntimeError) as unstarted:
            downstream.write(b"before the head")
        downstream.respond(200, HEADERS, b"one")
        with pytest.raises(RuntimeError) as again:
            downstream.respond(200, HEADERS, b"two")
        with pytest.raises(RuntimeError) as more:
            downstream.end(b"three")
        mistakes.extend(str(mistake.value) for mistake in (unstarted, again, more))

    with running(twice) as server, Client(server) as client:
        assert client.send(GET).response().body == b"one"
        assert client.send(GET).response().body == b"one"
    assert mistakes[:3] == [
        "no answer is being streamed",
        "this request has been answered",
        "no answer is being streamed",
    ]


def test_an_exception_is_a_500_that_tells_nothing_and_the_connection_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(downstream: Downstream, scope: Any) -> None:
        if scope["path"] == "/":
            raise KeyError("a secret from the inside")
        downstream.respond(200, HEADERS, b"fine")

    with running(fails) as server, Client(server) as client:
        answer = client.send(post(b"abc")).response()
        assert answer.status == 500
        assert answer.error["type"] == "server_error"
        assert b"secret" not in answer.body
        assert b"Traceback" not in answer.body
        assert client.send(post(b"abc", "/fine")).response().body == b"fine"
    assert "a secret from the inside" in caplog.text


def test_an_error_of_ours_that_the_application_lets_through_is_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    async def refuses(_downstream: Downstream, _scope: Any) -> None:
        raise PaymentRequired("Too little credit.", extra={"balance_usd": b"0.25"}, headers={"retry-after": "3"})

    with running(refuses) as server, Client(server) as client:
        for _ in range(2):
            answer = client.send(GET).response()
            assert (answer.status, answer.headers["retry-after"]) == (402, "3")
            assert answer.error["code"] == "insufficient_credits"
            assert json.loads(answer.body)["balance_usd"] == 0.25
    assert not caplog.records


def test_an_exception_in_the_middle_of_an_answer_cuts_it(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(downstream: Downstream, _scope: Any) -> None:
        downstream.start(200, HEADERS, b"some")
        raise ZeroDivisionError

    with running(fails) as server, Client(server) as client:
        assert client.send(GET).file.read().endswith(b"4\r\nsome\r\n")
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize("begun", [False, True])
def test_an_application_that_returns_early_does_not_hang_its_client(
    begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def forgets(downstream: Downstream, _scope: Any) -> None:
        if begun:
            downstream.start(200, HEADERS, b"some")

    with running(forgets) as server, Client(server) as client:
        client.send(GET)
        if begun:
            assert client.file.read().endswith(b"4\r\nsome\r\n")
        else:
            assert client.response().error["code"] == "internal_error"
    assert "returned without finishing its answer" in caplog.text


def test_an_offered_upgrade_is_passed_over_and_the_body_read() -> None:
    # JDK's HTTP client offers h2c on each plain request.
    offer = "X-Empty:\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIA\r\n"
    head = f"POST /c HTTP/1.1\r\nHost: a\r\n{offer}Transfer-Encoding: chunked\r\n\r\n".encode()
    with running(echo) as server, Client(server) as client:
        client.send(post(b"one", "/1", offer) + post(b"two", "/2", offer) + GET)
        assert [client.response().body for _ in range(3)] == [b"POST /1 one", b"POST /2 two", b"GET / "]
        request = post(b"three", "/3", offer)
        client.send(request[:-5])
        time.sleep(0.02)
        assert client.send(request[-5:]).response().body == b"POST /3 three"
        assert client.send(head + b"4\r\nfour\r\n0\r\n\r\n").response().body == b"POST /c four"
        socket_offer = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n"
        assert client.send(post(b"", "/ws", socket_offer)).response().body == b"POST /ws "
        # No second message may hide behind the offer.
        assert client.send(GET).response().body == b"GET / "


def test_targets_are_split_and_decoded() -> None:
    async def target(downstream: Downstream, scope: Any) -> None:
        parts = (scope["path"].encode(), scope["raw_path"], scope["query_string"])
        downstream.respond(200, HEADERS, b"|".join(parts))

    cases = {
        b"/v1/models/a%2Fb": b"/v1/models/a/b|/v1/models/a%2Fb|",
        b"/v1/models/a/b?x=1&y=%20": b"/v1/models/a/b|/v1/models/a/b|x=1&y=%20",
        b"http://elsewhere/x?y": b"/x|/x|y",
        b"/a#b": b"/a|/a|",
    }
    with running(target) as server, Client(server) as client:
        for _ in range(2):  # from the cache too
            for asked, told in cases.items():
                assert client.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % asked).response().body == told
        for number in range(1000):
            client.send(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % number).response()
        assert len(server.shared.targets) == 256


def test_no_forwarding_header_is_believed() -> None:
    async def who(downstream: Downstream, scope: Any) -> None:
        downstream.respond(200, HEADERS, f"{downstream.client} {scope['client'][0]} {scope['scheme']}".encode())

    claims = "X-Forwarded-For: 8.8.8.8\r\nX-Forwarded-Proto: https\r\nForwarded: for=8.8.8.8\r\n"
    with running(who) as server:
        assert ask(server, post(b"", headers=claims)).body == b"127.0.0.1 127.0.0.1 http"


def test_a_finished_request_leaves_nothing_to_the_garbage_collector() -> None:
    seen: list[weakref.ref[Downstream]] = []

    async def note(downstream: Downstream, scope: Any) -> None:
        seen.append(weakref.ref(downstream))
        downstream.on_disconnect(lambda: downstream.abort())
        await echo(downstream, scope)

    gc.disable()
    try:
        with running(note) as server, Client(server) as client:
            for _ in range(3):
                client.send(post(b"x")).response()
            eventually(lambda: [each() for each in seen[:2]] == [None, None])
    finally:
        gc.enable()


def test_nothing_is_logged_for_ordinary_requests(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), running(Asgi(echo)) as server, Client(server) as client:
        eventually(lambda: len(caplog.records) >= 1)
        caplog.clear()
        client.send(GET).response()
        assert not caplog.records
