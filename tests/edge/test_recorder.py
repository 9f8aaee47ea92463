"""What is kept of an answer for its `Idempotency-Key`, and that it goes on when its caller has gone."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.edge.raw import GET, HEADERS, Client, Response, eventually, running

from tollbridge.edge.downstream import Downstream
from tollbridge.edge.recorder import Recorder
from tollbridge.gateway.replays import KeptAnswer

MOST = 10
OF_ONE_REQUEST = [
    b"x-request-id: req_1",
    b"request-id: req_1",
    b"x-ratelimit-limit-requests: 5",
    b"access-control-allow-origin: *",
]


def whole(body: bytes, status: int = 200) -> Callable[[Recorder], None]:
    return lambda recorder: recorder.respond(status, [*OF_ONE_REQUEST, *HEADERS, b"x: a: b"], body)


def pieces(first: bytes, *others: bytes, end: bytes = b"", status: int = 200) -> Callable[[Recorder], None]:
    def answer(recorder: Recorder) -> None:
        recorder.start(status, [*HEADERS, *OF_ONE_REQUEST], first)
        assert recorder.response_started
        for each in others:
            assert recorder.write(each) is False
        recorder.end(end)

    return answer


def recorded(answer: Callable[[Recorder], None]) -> tuple[KeptAnswer | None, Response]:
    """What was kept, and what the client got."""
    kept: list[KeptAnswer | None] = []

    async def app(downstream: Downstream, _scope: Any) -> None:
        recorder = Recorder(downstream, MOST)
        assert not recorder.response_started
        answer(recorder)
        kept.append(recorder.answer)

    with running(app) as server, Client(server) as client:
        response = client.send(GET).response()
        eventually(lambda: kept)
    return kept[0], response


def test_a_whole_answer_is_kept_without_what_belongs_to_one_request() -> None:
    kept, response = recorded(whole(b"hello"))
    assert kept == KeptAnswer(200, ((b"content-type", b"text/plain"), (b"x", b"a: b")), b"hello", streamed=False)
    assert (response.body, response.headers["x-request-id"]) == (b"hello", "req_1")


def test_a_stream_is_kept_in_one_piece() -> None:
    kept, response = recorded(pieces(b"one", b"two", end=b"six"))
    assert kept == KeptAnswer(200, ((b"content-type", b"text/plain"),), b"onetwosix", streamed=True)
    assert response.body == b"onetwosix"


@pytest.mark.parametrize(
    ("answer", "is_kept"),
    [
        (whole(b"x" * MOST), True),
        (whole(b"x" * (MOST + 1)), False),
        (pieces(b"12345", b"6789", end=b"0"), True),
        (pieces(b"12345", b"67890", end=b"1"), False),
        (pieces(b"12345678901", b"2"), False),
        (whole(b"no", 500), False),
        (pieces(b"no", status=201), False),
    ],
)
def test_only_good_answers_are_kept_that_are_not_too_large(answer: Callable[[Recorder], None], is_kept: bool) -> None:
    kept, response = recorded(answer)
    assert kept is None if not is_kept else kept is not None and kept.body == response.body


def test_an_answer_that_is_cut_is_not_kept() -> None:
    kept: list[KeptAnswer | None] = []
    is_cut = threading.Event()

    async def app(downstream: Downstream, _scope: Any) -> None:
        recorder = Recorder(downstream, MOST)
        recorder.start(200, HEADERS, b"some")
        recorder.abort()
        assert await asyncio.to_thread(is_cut.wait, 30)
        kept.append(recorder.answer)

    with running(app) as server, Client(server) as client:
        assert client.send(GET).file.read().endswith(b"4\r\nsome\r\n")
        is_cut.set()
        eventually(lambda: kept)
    assert kept == [None]


@pytest.mark.parametrize("leaves", [True, False])
def test_an_answer_waits_for_a_caller_who_is_behind_but_not_for_one_who_has_gone(leaves: bool) -> None:
    is_behind = threading.Event()
    found: list[object] = []
    kept: list[KeptAnswer | None] = []

    async def app(downstream: Downstream, _scope: Any) -> None:
        recorder = Recorder(downstream, 1 << 30)
        resumed = asyncio.Event()
        recorder.on_resume(resumed.set)
        recorder.on_disconnect(lambda: found.append("told of who left"))
        recorder.start(200, HEADERS)
        while not recorder.write(b"x" * 65_536):
            pass
        found.append((recorder.paused, downstream.disconnected))
        is_behind.set()
        await resumed.wait()
        found.append((recorder.paused, recorder.write(b"more"), downstream.disconnected))
        recorder.end(b"end")
        kept.append(recorder.answer)

    with running(app) as server, Client(server, receive_buffer=4096) as client:
        client.send(GET)
        assert is_behind.wait(30)
        if leaves:
            client.close()
        else:
            assert client.response().body.endswith(b"xmoreend")
        eventually(lambda: kept)
    assert found == [(True, False), (False, False, leaves)]
    assert kept[0] is not None
    assert kept[0].body.endswith(b"xmoreend")
