"""What cannot be one unambiguous request ends the connection, and nothing of it reaches the application (F9, F10)."""

import re
from contextlib import suppress
from itertools import pairwise
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from tests.edge.raw import GET, HEADERS, Client, echo, running

from tollbridge.edge.downstream import Downstream

HEAD = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

# Each is followed by what a smuggler wants to be taken for a request of its own.
AMBIGUOUS_HEADS = {
    "content-length and transfer-encoding": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "transfer-encoding and content-length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "the same content-length twice": HEAD + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab",
    "two content-lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nab",
    "two content-lengths in another case": HEAD + b"Content-Length: 2\r\ncontent-LENGTH: 3\r\n\r\nab",
    "a list of content-lengths": HEAD + b"Content-Length: 2, 2\r\n\r\nab",
    "content-length with a plus": HEAD + b"Content-Length: +2\r\n\r\nab",
    "negative content-length": HEAD + b"Content-Length: -2\r\n\r\nab",
    "hexadecimal content-length": HEAD + b"Content-Length: 0x2\r\n\r\nab",
    "content-length with a point": HEAD + b"Content-Length: 2.0\r\n\r\nab",
    "content-length with an exponent": HEAD + b"Content-Length: 2e0\r\n\r\nab",
    "content-length with an underscore": HEAD + b"Content-Length: 1_0\r\n\r\nab",
    "empty content-length": HEAD + b"Content-Length:\r\n\r\nab",
    "content-length in two words": HEAD + b"Content-Length: 1 2\r\n\r\nab",
    "content-length beyond 64 bits": HEAD + b"Content-Length: 18446744073709551618\r\n\r\nab",
    "unknown transfer coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "gzip and chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked and identity": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity, then chunked": HEAD + b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "vertical tab before chunked": HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "quoted chunked": HEAD + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked with a parameter": HEAD + b"Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "empty transfer-encoding": HEAD + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n",
    "chunked in HTTP/1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "space before the colon": HEAD + b"Content-Length : 2\r\n\r\nab",
    "space before transfer-encoding's colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "folded line": HEAD + b"X: a\r\n b\r\n\r\n",
    "folded with a tab": HEAD + b"X: a\r\n\tb\r\n\r\n",
    "folded transfer-encoding": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "first header line begins with a space": b"POST / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n",
    "line feeds alone": b"GET / HTTP/1.1\nHost: a\n\n",
    "one line feed alone": b"GET / HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "line feed at the end of the head": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "carriage return alone": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "NUL in a value": HEAD + b"X: a\x00b\r\n\r\n",
    "control character in a value": HEAD + b"X: a\x01b\r\n\r\n",
    "DEL in a value": HEAD + b"X: a\x7fb\r\n\r\n",
    "control character in a name": HEAD + b"X\x0b: b\r\n\r\n",
    "byte above 127 in a name": HEAD + b"X\xe9: b\r\n\r\n",
    "empty name": HEAD + b": b\r\n\r\n",
    "no colon": HEAD + b"foo\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 spelled out": b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/11.1": b"GET / HTTP/11.1\r\nHost: a\r\n\r\n",
    "lower-case protocol": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space after the version": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "space before the method": b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "space in the target": b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
    "tabs between the words": b"GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n",
    "unknown method": b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n",
    "lower-case method": b"get / HTTP/1.1\r\nHost: a\r\n\r\n",
    "byte above 127 in the target": b"GET /\xe9 HTTP/1.1\r\nHost: a\r\n\r\n",
    "NUL in the target": b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "target without a slash": b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute target without a path": b"GET http://x HTTP/1.1\r\nHost: a\r\n\r\n",
    "tunnel": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "tunnel with a body": b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab",
    "streaming protocol": b"DESCRIBE rtsp://x/y RTSP/2.0\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}

AMBIGUOUS_CHUNKS = {
    "line feed after the size": b"2\nab\r\n0\r\n\r\n",
    "line feed after the data": b"2\r\nab\n0\r\n\r\n",
    "line feed after the last size": b"2\r\nab\r\n0\n\r\n",
    "line feed at the end": b"2\r\nab\r\n0\r\n\n",
    "line feed in an extension": b"2;a\nab\r\n0\r\n\r\n",
    "carriage return in an extension": b"2;a\rb\r\nab\r\n0\r\n\r\n",
    "two carriage returns": b"2\r\r\nab\r\n0\r\n\r\n",
    "not hexadecimal": b"g\r\nab\r\n0\r\n\r\n",
    "0x": b"0x2\r\nab\r\n0\r\n\r\n",
    "minus": b"-2\r\nab\r\n0\r\n\r\n",
    "plus": b"+2\r\nab\r\n0\r\n\r\n",
    "underscore": b"0_2\r\nab\r\n0\r\n\r\n",
    "space after the size": b"2 \r\nab\r\n0\r\n\r\n",
    "space before the size": b" 2\r\nab\r\n0\r\n\r\n",
    "size beyond 64 bits": b"ffffffffffffffffff\r\nab\r\n0\r\n\r\n",
    "more data than said": b"1\r\nab\r\n0\r\n\r\n",
    "less data than said": b"3\r\nab\r\n0\r\n\r\n",
    "no size": b"\r\nab\r\n0\r\n\r\n",
    "no line end after the data": b"2\r\nabXX0\r\n\r\n",
    "content-length in the trailers": b"0\r\nContent-Length: 5\r\n\r\n",
    "transfer-encoding in the trailers": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer without a colon": b"0\r\nX y\r\n\r\n",
}


@pytest.fixture(scope="module")
def tried() -> list[str]:
    return []


@pytest.fixture(scope="module")
def server(tried: list[str]) -> Any:
    async def noting(downstream: Downstream, scope: Any) -> None:
        tried.append(scope["path"])
        await echo(downstream, scope)

    with running(noting) as server:
        yield server


@pytest.mark.parametrize("name", AMBIGUOUS_HEADS)
def test_an_ambiguous_head_is_a_400_and_the_end(name: str, server: Any, tried: list[str]) -> None:
    tried.clear()
    with Client(server) as client:
        client.send(AMBIGUOUS_HEADS[name] + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = client.response()
        assert answer.status == 400
        assert answer.headers["connection"] == "close"
        assert answer.error["type"] == "invalid_request_error"
        assert client.closed()
    assert tried == []


@pytest.mark.parametrize("split", [False, True], ids=["together", "apart"])
@pytest.mark.parametrize("name", AMBIGUOUS_CHUNKS)
def test_an_ambiguous_chunk_is_a_400_and_the_end(name: str, split: bool, server: Any, tried: list[str]) -> None:
    tried.clear()
    body = AMBIGUOUS_CHUNKS[name] + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    with Client(server) as client:
        for piece in [CHUNKED, body] if split else [CHUNKED + body]:
            client.send(piece)
        answer = client.response()
        assert answer.status == 400
        assert answer.headers["connection"] == "close"
        assert answer.error["code"] == "invalid_request_error"
        assert client.closed()
    assert tried == ["/"]


@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=300)
def test_whatever_comes_is_answered_or_ends_the_connection(data: st.DataObject, server: Any) -> None:
    """Requests with some of their bytes changed, in pieces: never silence, and never a fault of ours."""
    whole = [GET, HEAD + b"Content-Length: 5\r\n\r\nhello", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"]
    raw = bytearray(b"".join(data.draw(st.lists(st.sampled_from(whole), min_size=1, max_size=4))))
    bytes_of_weight = st.one_of(st.sampled_from(b"\r\n \t:;,0159\x00\xff"), st.integers(0, 255))
    for _ in range(data.draw(st.integers(0, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(bytes_of_weight)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=3)))
    with Client(server) as client:
        for begin, end in pairwise([0, *cuts, len(raw)]):
            client.send(bytes(raw[begin:end]))
        # A request that is left incomplete is completed by this, or spoilt by it.
        with suppress(ConnectionError):
            client.send(b"\r\n\r\n" * 8 + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n" * 40)
        statuses = set(re.findall(rb"^HTTP/1.1 (\d+) ", client.file.read(), re.MULTILINE))
    assert statuses
    assert statuses <= {b"100", b"200", b"400", b"413", b"431", b"503"}


def test_what_follows_a_bad_request_waits_for_the_answers_before_it(server: Any) -> None:
    with Client(server) as client:
        client.send(GET + GET + b"nonsense\r\n\r\n" + GET)
        assert [client.response().status for _ in range(3)] == [200, 200, 400]
        assert client.closed()


def test_empty_lines_before_a_request_are_passed_over(server: Any) -> None:
    with Client(server) as client:
        assert client.send(b"\r\n\r\n" + GET).response().status == 200


def test_a_body_declared_too_large_is_refused_before_it_comes() -> None:
    with running(echo, max_body=1000) as server, Client(server) as client:
        client.send(HEAD + b"Content-Length: 1001\r\n\r\n")
        answer = client.response()
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert answer.headers["connection"] == "close"
        assert client.closed()


def test_a_client_that_goes_on_sending_still_reads_its_413() -> None:
    """A close on unread bytes would be a reset, and could overtake the answer."""
    with running(echo, max_body=1000) as server, Client(server) as client:
        client.send(HEAD + b"Content-Length: 20000000\r\n\r\n").send(b"x" * 20_000_000)
        assert client.response().status == 413


def test_a_client_that_never_stops_sending_is_cut() -> None:
    def send_on(client: Client) -> None:
        while True:
            client.send(b"x" * 65536)

    with running(echo, max_body=1000, linger=0.2) as server, Client(server) as client:
        client.send(HEAD + b"Content-Length: 20000000\r\n\r\n")
        with pytest.raises(ConnectionError):
            send_on(client)


@pytest.mark.parametrize("piece", [100, 1001])
def test_a_chunked_body_is_counted_as_it_comes(piece: int) -> None:
    with running(echo, max_body=1000) as server, Client(server) as client:
        client.send(CHUNKED)
        for _ in range(1001 // piece + 1):
            client.send(b"%x\r\n%b\r\n" % (piece, b"x" * piece))
        answer = client.response()
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
        assert client.closed()


@pytest.mark.parametrize(
    ("begin", "flood"),
    [(b"", b"1;" + b"e" * 4000 + b"\r\nx\r\n"), (b"0\r\n", b"a: b\r\n" * 1000)],
    ids=["extensions", "trailers"],
)
def test_framing_that_is_no_body_is_counted_too(begin: bytes, flood: bytes) -> None:
    with running(echo, max_body=1000) as server, Client(server) as client:
        client.send(CHUNKED + begin)
        for _ in range(100):
            client.send(flood)
        assert client.response().status == 413


def test_the_largest_head_is_taken_and_a_larger_one_is_not() -> None:
    def padded(size: int) -> bytes:
        head = b"GET / HTTP/1.1\r\nHost: a\r\nX: %b\r\n\r\n"
        return head % (b"x" * (size - len(head) + 2))

    with running(echo) as server:
        with Client(server) as client:
            assert client.send(padded(32 * 1024 - 16)).response().status == 200
        for size in (32 * 1024 + 64, 200_000, 2_000_000):
            with Client(server) as client:
                try:
                    client.send(padded(size))
                except ConnectionError:
                    assert size == 2_000_000
                answer = client.response()
                assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
                assert client.closed()


@pytest.mark.parametrize("piece", [b"GET /" + b"x" * 40_000, b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000])
def test_a_head_without_end_is_refused_as_soon_as_it_is_too_large(piece: bytes) -> None:
    with running(echo) as server, Client(server) as client:
        assert client.send(piece).response().status == 431


def test_a_head_that_drips_is_counted() -> None:
    with running(echo, max_head=1000) as server, Client(server) as client:
        client.send(b"GET / HTTP/1.1\r\n")
        for number in range(100):
            client.send(b"X-%d: y\r\n" % number)
        client.send(b"X: " + b"y" * 400)
        assert client.response().status == 431


def test_a_head_that_begins_in_the_packet_of_a_large_body_is_not_blamed_for_it() -> None:
    body = b"x" * 100_000
    with running(echo) as server, Client(server) as client:
        client.send(HEAD + b"Content-Length: 100000\r\n\r\n")
        client.send(body + GET[:20])
        assert client.response().status == 200
        assert client.send(GET[20:]).response().status == 200


def test_a_hundred_headers_are_taken_and_one_more_is_not() -> None:
    def with_headers(count: int) -> bytes:
        return b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"x%d: y\r\n" % n for n in range(count - 1)) + b"\r\n"

    with running(echo) as server, Client(server) as client:
        assert client.send(with_headers(100)).response().status == 200
        answer = client.send(with_headers(101)).response()
        assert (answer.status, answer.error["code"]) == (431, "headers_too_large")
        assert client.closed()


def test_the_body_fails_while_the_answer_is_already_under_way() -> None:
    async def early(downstream: Downstream, _scope: Any) -> None:
        downstream.respond(200, HEADERS, b"early")

    with running(early) as server, Client(server) as client:
        client.send(CHUNKED)
        assert client.response().body == b"early"
        client.send(b"nonsense\r\n")
        assert client.closed()
