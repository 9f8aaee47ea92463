"""Heads that repeat: read without the parser, and never otherwise than by it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.edge.raw import GET, Asgi, Client, post, running

from tollbridge.edge.downstream import Downstream
from tollbridge.edge.repeats import KnownHead, learn
from tollbridge.edge.server import Server

BODIES = st.sampled_from([b"", b"a", b"bc", b"x" * 9, b"y" * 10, b"\r\n\r\n", GET, post(b"z"), b"w" * 70_000])
EXTRAS = st.sampled_from(["", "X-A: 1\r\n", "X-A: 2\r\n", "Authorization: Bearer k\r\n", "content-lengths: 7\r\n"])
PATHS = st.sampled_from(["/", "/v1/chat/completions", "/v1/chat/completions?a=b"])


async def show(downstream: Downstream, scope: Any) -> None:
    """Answers with all that a request says, and which one of its head it is."""
    body = await downstream.read_body()
    known = downstream.known
    if known is not None:
        known.digest = (known.digest or 0) + 1
    seen = {
        "request": [scope["method"], scope["path"], scope["query_string"].decode()],
        "headers": [[name.decode(), value.decode()] for name, value in scope["headers"]],
        "body": body.decode("latin-1"),
        "nth": None if known is None else known.digest,
    }
    downstream.respond(200, [b"content-type: application/json"], json.dumps(seen).encode())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(show, max_body=100_000) as running_server:
        yield running_server


def said(client: Client) -> dict[str, Any]:
    response = client.response()
    assert response.status == 200
    return dict(json.loads(response.body))


@settings(max_examples=120, deadline=None)
@given(
    requests=st.lists(st.tuples(PATHS, EXTRAS, BODIES), min_size=2, max_size=8),
    cuts=st.lists(st.integers(0, 2_000), max_size=6),
    pipelined=st.booleans(),
)
def test_every_request_of_a_connection_is_seen_as_it_was_sent(
    server: Server, requests: list[tuple[str, str, bytes]], cuts: list[int], pipelined: bool
) -> None:
    sent = [post(body, path, extra) for path, extra, body in requests]
    with Client(server) as client:
        if pipelined:
            whole = b"".join(sent)
            for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(whole)], strict=True):
                client.send(whole[start:end])
        for data, (path, extra, body) in zip(sent, requests, strict=True):
            if not pipelined:
                at = min(cuts, default=0)
                client.send(data[:at])
                client.send(data[at:])
            seen = said(client)
            names = [line.split(": ") for line in extra.split("\r\n") if line]
            assert seen["request"] == ["POST", path.partition("?")[0], path.partition("?")[2]]
            assert seen["headers"] == [
                ["host", "a"],
                *([name.lower(), value] for name, value in names),
                ["content-length", str(len(body))],
            ]
            assert seen["body"] == body.decode("latin-1")


def test_what_was_read_of_a_head_is_found_with_the_next_request_of_the_same_head(server: Server) -> None:
    with Client(server) as client:
        nth = [said(client.send(post(body, headers=extra)))["nth"] for body, extra in SEQUENCE]
    # The first one of a head is the parser's, and nothing is kept of it. What differs by more than its length is new.
    assert nth == [None, 1, 2, 3, None, 1, 2, None, 1]


SEQUENCE = [
    *[(b"one", ""), (b"two", ""), (b"three", ""), (b"f" * 1_000, "")],
    *[(b"one", "X-A: 1\r\n"), (b"two", "X-A: 1\r\n"), (b"three", "X-A: 1\r\n")],
    *[(b"one", ""), (b"two", "")],
]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("Content-Length: 100001", 413),
        ("Content-Length: 9999999999", 413),
        ("Content-Length: 99999999999999999999999", 400),
        ("Content-Length: +3", 400),
        ("Content-Length: -3", 400),
        ("Content-Length: 3 3", 400),
        ("Content-Length: 0x3", 400),
        ("Content-Length: 3,3", 400),
        ("Content-Length: \xb2", 400),
        ("Content-Length:", 400),
        ("Content-Length: 3\r\nContent-Length: 3", 400),
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", 400),
        ("Content-Length: 3\n", 400),
    ],
)
def test_a_length_that_is_none_is_refused_behind_a_head_that_is_known(server: Server, line: str, status: int) -> None:
    head = "POST / HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n"
    with Client(server) as client:
        for _ in range(2):
            said(client.send(head.format("Content-Length: 3").encode() + b"abc"))
        assert client.send(head.format(line).encode("latin-1") + b"abc").response().status == status


def test_a_body_of_a_known_head_has_its_deadline() -> None:
    with running(show, body_timeout=0.2) as server, Client(server) as client:
        for _ in range(2):
            said(client.send(post(b"abc")))
        client.send(post(b"abc")[:-1])
        assert client.response().status == 408


def test_a_connection_that_is_to_end_says_so_to_a_known_head_too() -> None:
    with running(show, drain_idle=1.0) as server, Client(server) as client:
        for _ in range(2):
            assert "connection" not in client.send(post(b"abc")).response().headers
        server.shared.draining = True
        assert client.send(post(b"abc")).response().headers["connection"] == "close"


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 3\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        GET,
    ],
)
def test_other_heads_are_always_the_parsers(server: Server, head: bytes) -> None:
    body = b"0\r\n\r\n" if b"chunked" in head else b"abc" if b": 3" in head else b""
    with Client(server) as client:
        for _ in range(3):
            answered = client.send(head + body).response()
            assert json.loads(answered.body)["nth"] is None
            if answered.headers.get("connection") == "close":
                break


def known(head: bytes) -> KnownHead | None:
    scope = {"headers": [(b"host", b"a"), (b"content-length", b"3")]}
    return learn(head, scope, max_body=300)


def test_a_head_is_known_by_all_of_its_bytes() -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH: \t3\r\nX: y\r\n\r\n"
    it = known(head + b"abc")
    assert it is not None
    assert it.match(head + b"abc") == (len(head), 3)
    assert it.match(head) == (len(head), 3)
    longer = head.replace(b"3", b"041")
    assert it.match(longer + b"abc") == (len(longer), 41)
    assert dict(it.scope["headers"]) == {b"host": b"a", b"content-length": b"041"}
    assert it.match(head.replace(b"3", b"300")) == (len(head) + 2, 300)
    for none_or_too_much in (b"0", b"000", b"301", b"999999999"):
        assert it.match(head.replace(b"3", none_or_too_much)) == (0, 0)
    for other in (head[:-1], head.replace(b"y", b"z"), head.replace(b"3", b""), head.lower(), b"", head[1:]):
        assert it.match(other) == (0, 0)


@given(lengths=st.lists(st.sampled_from([b"3", b"30", b"300", b"03", b"33", b"3 ", b"x", b""]), max_size=8))
def test_what_a_head_matches_does_not_depend_on_what_it_matched_before(lengths: list[bytes]) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\nX: y\r\n\r\n"
    it = known(head % b"3")
    assert it is not None
    for digits in lengths:
        fresh = known(head % b"7")
        assert fresh is not None
        data = head % digits + b"333"
        assert it.match(data) == fresh.match(data)
        if digits.isdigit():
            assert it.scope == fresh.scope


def test_a_head_that_is_cut_or_odd_or_very_long_is_not_learnt() -> None:
    assert known(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n") is None
    assert known(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3 \r\n\r\n") is None
    assert known(b"POST / HTTP/1.1\r\nX: " + b"y" * 5_000 + b"\r\nContent-Length: 3\r\n\r\n") is None


def test_an_application_of_asgi_may_change_the_scope_of_a_known_head() -> None:
    async def changing(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        said = json.dumps([scope["path"], "seen" in scope, scope["extensions"].keys() == {"tollbridge"}])
        scope["path"], scope["seen"] = "/changed", True
        scope["extensions"]["more"] = {}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said.encode()})

    with running(Asgi(plain=changing)) as server, Client(server) as client:
        for _ in range(3):
            assert json.loads(client.send(post(b"abc")).response().body) == ["/", False, True]
