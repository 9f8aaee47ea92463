"""What a connection reads from a head, beside what the parser tells of it header by header."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from hypothesis import example, given
from hypothesis import strategies as st
from tests.effort import growth

from tollbridge.errors import ProtocolError
from tollbridge.upstream.connection import Connection, Limits, Response

LIMITS = Limits(max_headers=6)


class Listener:
    """Judges heads by the headers that the parser tells of, one by one."""

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.sized = self.chunked = self.lasting = self.ended = False
        self.parser = HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.status:
            return
        status = self.parser.get_status_code()
        if not 100 <= status <= 599:
            raise ProtocolError(f"the upstream answered with status {status}")
        if status < 200:
            self.headers = []
            return
        if len(self.headers) > LIMITS.max_headers:
            raise ProtocolError(f"the upstream sent {len(self.headers)} headers")
        for name, value in self.headers:
            if name == b"content-length":
                self.sized = True
            elif name == b"transfer-encoding":
                if self.chunked or value.lower() != b"chunked":
                    raise ProtocolError("the upstream's Transfer-Encoding is not plain chunked")
                self.chunked = True
            elif name == b"content-encoding" and value.lower() not in {b"", b"identity"}:
                raise ProtocolError("the upstream compressed its answer though it was asked not to")
        self.lasting = self.parser.should_keep_alive()
        self.status = status

    def on_message_complete(self) -> None:
        self.ended = self.ended or self.status != 0

    def listen(self, reads: list[bytes]) -> str | None:
        """Why what was read is refused."""
        for read in reads:
            try:
                self.parser.feed_data(read)
            except (HttpParserError, HttpParserUpgrade) as refusal:
                for error in (refusal, refusal.__context__):
                    if isinstance(error, ProtocolError):
                        return str(error)
                return f"the upstream's answer is not acceptable HTTP: {refusal}"
            if self.ended:
                break
        return None


class Wire:
    """The transport, the socket and the keeper of one connection."""

    limits = LIMITS

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(64 * 1024))

    def get_extra_info(self, _: str) -> "Wire":
        return self

    def __getattr__(self, _: str) -> Any:
        return lambda *_: None


def read(loop: asyncio.AbstractEventLoop, reads: list[bytes]) -> tuple[Connection, Response]:
    wire: Any = Wire()
    connection = Connection(wire, loop)
    connection.connection_made(wire)
    response = Response(connection, loop.create_future())
    connection.start(response, b"", b"")
    for data in reads:
        if connection.response is None:
            break
        connection.get_buffer(-1)[: len(data)] = data
        connection.buffer_updated(len(data))
    return connection, response


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    made = asyncio.new_event_loop()
    yield made
    made.close()


NAMES = st.sampled_from(
    b"Content-Length Transfer-Encoding Content-Encoding X-Content-Encoding Encoding Connection A Set-Cookie Vary"
    b" Content-Length-X Upgrade Trailer".split()
)
VALUES = st.sampled_from(
    b"|0|2|2 2|chunked|Chunked|gzip|identity|gzip, chunked|close|keep-alive|x|h2c|Accept-Encoding: gzip|"
    b"content-encoding:gzip|\xff|a\tb".split(b"|")
)
BLANKS = st.sampled_from([b"", b" ", b"  ", b"\t", b" \t "])
CASES = st.sampled_from([bytes, bytes.lower, bytes.upper])
HEADERS = st.builds(
    lambda case, name, before, value, after: case(name) + b":" + before + value + after + b"\r\n",
    *(CASES, NAMES, BLANKS, VALUES, BLANKS),
)
STARTS = st.sampled_from(
    [*([b"HTTP/1.1 200 OK\r\n"] * 4), b"HTTP/1.0 200\r\n", b"HTTP/1.1 204 \r\n", b"HTTP/1.1 404 :\r\n"]
)
INTERIM = st.sampled_from([b"", b"", b"\r\n", b"\n", b"HTTP/1.1 100 C\r\nA: b\r\n\r\n", b"HTTP/1.1 103 E\r\n\r\n\r\n"])
CODED = b"\r\nContent-Encoding: gzip\r\n\r\n"
BODIES = st.sampled_from([b"", b"hi", b"2\r\nhi\r\n0\r\n\r\n", b"\r\n\r\n", CODED, b"2\r\nhi\r\n0" + CODED])
HEADS = st.builds(
    lambda interim, start, headers, body: interim + start + b"".join(headers) + b"\r\n" + body,
    *(INTERIM, STARTS, st.lists(HEADERS, max_size=8), BODIES),
)
# Where something is put into it, and what.
SLIPS = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from([b"\r", b"\n", b"\r\n", b" ", b":", b"\0", b"\t", b"\r\n "])),
    max_size=2,
)
CUTS = st.lists(st.integers(0, 200), max_size=3)


@given(HEADS, SLIPS, CUTS)
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", [], [])
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nCONTENT-ENCODING:gzip\r\n\r\nhi", [], [40])
@example(b"\r\n\r\nHTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi", [], [])
@example(b"HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nhi", [], [])
def test_a_head_says_what_its_headers_say_one_by_one(
    loop: asyncio.AbstractEventLoop, raw: bytes, slips: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    for place, slip in slips:
        raw = raw[:place] + slip + raw[place:]
    places = [0, *sorted(cuts), len(raw)]
    reads = [raw[begin:end] for begin, end in itertools.pairwise(places) if begin < end]
    listener = Listener()
    refused = listener.listen(reads)
    connection, response = read(loop, reads)
    assert response.status == listener.status
    assert refused is None or listener.ended or str(response._error) == refused
    if listener.status:
        assert response.headers == listener.headers
        assert connection.response is None or connection._until_close is not (listener.sized or listener.chunked)


@pytest.mark.parametrize(("number", "status"), [(6, 200), (7, 0)])
@pytest.mark.parametrize("header", [b"a:\r\n", b"A-long-name: and a long value of it\r\n"])
def test_headers_are_counted_however_short_they_are(
    loop: asyncio.AbstractEventLoop, number: int, status: int, header: bytes
) -> None:
    _, response = read(loop, [b"HTTP/1.1 200\r\n" + header * number + b"\r\n"])
    assert response.status == status
    assert len(response.headers) == (number if status else 0)


def test_codings_of_many_blanks_are_read_in_no_time(loop: asyncio.AbstractEventLoop) -> None:
    def read_blanks(number: int) -> None:
        raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding:" + b" " * number + b"chunked\r\n\r\n0\r\n\r\n"
        _, response = read(loop, [raw])
        assert repr(response) == "Response(200)"

    assert growth(read_blanks, 3_000, 30_000) < 30
