"""One exchange: what is accepted as an answer, what is refused, when it is given up, and how it flows."""

import asyncio
import gzip
import random

import pytest
from tests.upstream.bad_server import (
    CHUNKED,
    LOOPS,
    Peer,
    always,
    chunk,
    chunked,
    eventually,
    once,
    response,
    run,
)
from tests.upstream.callers import BRISK, LATE, Sink, ask, post, serving

from tollbridge.errors import ProtocolError, UpstreamTimeout
from tollbridge.upstream.pool import Limits

both_loops = pytest.mark.parametrize("loop", LOOPS)
OK = response(body=b"ok")
MEBIBYTE = 1024 * 1024
STREAM = response(headers=CHUNKED)


# ── Answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@both_loops
@pytest.mark.parametrize(
    ("raw", "status", "body", "kept"),
    [
        pytest.param(OK, 200, b"ok", True, id="length"),
        pytest.param(response(500, b"oops"), 500, b"oops", True, id="status"),
        pytest.param(response(body=b""), 200, b"", True, id="empty"),
        pytest.param(chunked(b"a", b"bc" * 3000, b"d"), 200, b"a" + b"bc" * 3000 + b"d", True, id="chunked"),
        pytest.param(chunked(), 200, b"", True, id="chunked empty"),
        pytest.param(STREAM + b"2;name=value\r\nhi\r\n0\r\nX-Trailer: 1\r\n\r\n", 200, b"hi", True, id="trailer"),
        pytest.param(response(headers=[(b"TRANSFER-encoding", b"Chunked")]) + chunk(b""), 200, b"", True, id="case"),
        pytest.param(response(headers=[], body=b"until the end"), 200, b"until the end", False, id="until close"),
        pytest.param(response(headers=[(b"Connection", b"close"), (b"Content-Length", b"2")], body=b"hi"), 200, b"hi",
                     False, id="connection close"),
        pytest.param(response(body=b"old", version=b"1.0"), 200, b"old", False, id="http/1.0"),
        pytest.param(response(headers=[], body=b"older", version=b"1.0"), 200, b"older", False, id="1.0 until close"),
        pytest.param(response(204, headers=[]), 204, b"", True, id="204"),
        pytest.param(response(304, headers=[(b"Content-Length", b"99")]), 304, b"", True, id="304"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK, 200, b"ok",
                     True, id="interim"),
        pytest.param(b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", 200, b"ok", True, id="no reason"),
        pytest.param(response(302, b"moved", [(b"Location", b"http://127.0.0.1:1/"), (b"Content-Length", b"5")]), 302,
                     b"moved", True, id="E18 redirect"),
        pytest.param(response(headers=[(b"Content-Encoding", b"Identity"), (b"Content-Length", b"2")], body=b"hi"), 200,
                     b"hi", True, id="identity"),
    ],
)  # fmt: skip
def test_answers(loop: str, raw: bytes, status: int, body: bytes, kept: bool) -> None:
    """Read twice over: by `read()` and by `pipe()`."""

    async def main() -> None:
        async with serving(once(raw) if not kept else always(raw)) as (server, pool):
            for _ in range(2):
                assert await ask(pool) == (status, body)
                sink = Sink(await post(pool))
                assert await sink.end() is None
                assert bytes(sink.data) == body
            assert server.accepted == (1 if kept else 4)

    run(loop, main())


@both_loops
def test_an_answer_may_be_cut_anywhere(loop: str) -> None:
    raw = b"HTTP/1.1 100 Continue\r\n\r\n" + STREAM + chunk(b"hello ") + chunk(b"world") + chunk(b"")
    cuts = iter(range(1, len(raw)))

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            cut = next(cuts)
            await peer.send(raw[:cut])
            await asyncio.sleep(0.0005)
            await peer.send(raw[cut:])

    async def main() -> None:
        async with serving(script) as (server, pool):
            for _ in range(1, len(raw)):
                assert await ask(pool) == (200, b"hello world")
            assert server.accepted == 1

    run(loop, main())


@both_loops
def test_header_names_are_lower_case_and_values_are_stripped(loop: str) -> None:
    raw = b"HTTP/1.1 200 OK\r\nX-One:  a b\t \r\nx-TWO:\r\nB: 1\r\nb: \xff2\r\nContent-Length: 0\r\n\r\n"

    async def main() -> None:
        async with serving(always(raw)) as (_, pool):
            got = await post(pool)
            await got.read()
            assert got.headers == [
                (b"x-one", b"a b"),
                (b"x-two", b""),
                (b"b", b"1"),
                (b"b", b"\xff2"),
                (b"content-length", b"0"),
            ]
            assert got.header(b"b") == b"1"
            assert got.header(b"retry-after") is None

    run(loop, main())


@both_loops
def test_trailers_are_not_headers(loop: str) -> None:
    raw = STREAM + chunk(b"x") + b"0\r\nRetry-After: 9\r\n\r\n"

    async def main() -> None:
        async with serving(always(raw)) as (_, pool):
            got = await post(pool)
            await got.read()
            assert got.header(b"retry-after") is None

    run(loop, main())


@both_loops
@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.9\r\n", id="E19 another protocol"),
        pytest.param(b"<html><h1>It works!</h1></html>", id="E19 HTTP/0.9"),
        pytest.param(b"\x15\x03\x03\x00\x02\x02\x50", id="E19 TLS alert"),
        pytest.param(bytes(random.Random(1).randbytes(3000)), id="E19 noise"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="a request"),
        pytest.param(b"HTTP/1.1 20 OK\r\n\r\n", id="short status"),
        pytest.param(b"HTTP/1.1 2000 OK\r\n\r\n", id="long status"),
        pytest.param(b"HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n", id="status 99"),
        pytest.param(response(600), id="status 600"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", id="101"),
        pytest.param(b"HTTP/1.1 101 Switching\r\n\r\n", id="bare 101"),
        pytest.param(response(headers=[(b"A", b"b\r\n folded"), (b"Content-Length", b"0")]), id="E17 obs-fold"),
        pytest.param(response(headers=[(b"A", b"b\rSet-Cookie: x"), (b"Content-Length", b"0")]), id="E17 bare CR"),
        pytest.param(response(headers=[(b"A", b"b\nSet-Cookie: x"), (b"Content-Length", b"0")]), id="E17 bare LF"),
        pytest.param(response(headers=[(b"A", b"b\0c"), (b"Content-Length", b"0")]), id="E17 NUL"),
        pytest.param(response(headers=[(b"A", b"b\x1b[31m"), (b"Content-Length", b"0")]), id="E17 control character"),
        pytest.param(response(headers=[(b"A ", b"b"), (b"Content-Length", b"0")]), id="E17 space before colon"),
        pytest.param(response(headers=[(b"", b"b"), (b"Content-Length", b"0")]), id="E17 empty name"),
        pytest.param(response(headers=[(b"Content-Length", b"2")] * 2, body=b"hi"), id="length twice"),
        pytest.param(response(headers=[(b"Content-Length", b"2, 2")], body=b"hi"), id="list of lengths"),
        pytest.param(response(headers=[(b"Content-Length", b"+2")], body=b"hi"), id="length +2"),
        pytest.param(response(headers=[(b"Content-Length", b"-2")], body=b"hi"), id="length -2"),
        pytest.param(response(headers=[(b"Content-Length", b"9" * 30)], body=b"hi"), id="length overflow"),
        pytest.param(response(headers=[*CHUNKED, (b"Content-Length", b"2")], body=chunk(b"")), id="TE and length"),
        pytest.param(response(headers=[(b"Content-Length", b"2"), *CHUNKED], body=chunk(b"")), id="length and TE"),
        pytest.param(response(headers=[*CHUNKED, *CHUNKED], body=chunk(b"")), id="TE twice"),
        pytest.param(response(headers=[(b"Transfer-Encoding", b"gzip, chunked")], body=chunk(b"")), id="TE gzip"),
        pytest.param(response(headers=[(b"Transfer-Encoding", b"xchunked")], body=chunk(b"")), id="TE unknown"),
        pytest.param(response(headers=[(b"Transfer-Encoding", b"identity")], body=b"hi"), id="TE identity"),
        pytest.param(STREAM + b"2\nhi\r\n0\r\n\r\n", id="chunk line ends with LF"),
        pytest.param(STREAM + b"-2\r\nhi\r\n0\r\n\r\n", id="negative chunk"),
        pytest.param(STREAM + b"0x2\r\nhi\r\n0\r\n\r\n", id="hexadecimal prefix"),
        pytest.param(STREAM + b"f" * 17 + b"\r\nhi\r\n0\r\n\r\n", id="chunk overflow"),
        pytest.param(STREAM + b"2\r\nhiX\r\n0\r\n\r\n", id="chunk longer than it says"),
        *(
            pytest.param(
                response(headers=[(b"Content-Encoding", coding), (b"Content-Length", b"%d" % len(body))], body=body),
                id=f"E16 {coding.decode()}",
            )
            for body in [gzip.compress(bytes(50 * MEBIBYTE), 1)[:100_000]]
            for coding in (b"gzip", b"br", b"zstd", b"deflate", b"x-unheard-of", b"identity, gzip")
        ),
    ],
)
def test_refused_answers(loop: str, raw: bytes) -> None:
    """By `open()`, or by the body when the head was good; and the connection is closed."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(raw)
        await peer.closed()

    async def main() -> None:
        async with serving(script) as (_, pool):
            with pytest.raises(ProtocolError) as caught:
                await ask(pool)
            assert "html" not in str(caught.value)
            await eventually(lambda: pool.connections == 0)

    run(loop, main())


# ── Caps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def padded(size: int) -> bytes:
    """A response whose head has exactly this size."""
    bare = len(response(headers=[(b"A", b""), (b"Content-Length", b"2")]))
    return response(headers=[(b"A", b"x" * (size - bare)), (b"Content-Length", b"2")], body=b"ok")


@both_loops
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_head_has_a_greatest_size(loop: str, pieces: int) -> None:
    async def script(peer: Peer) -> None:
        while True:
            raw = padded(int((await peer.request()).body))
            step = -(-len(raw) // pieces)
            for start in range(0, len(raw), step):
                await peer.send(raw[start : start + step])
                await asyncio.sleep(0.001)

    async def main() -> None:
        async with serving(script, Limits(max_head=4096)) as (_, pool):
            for size in (100, 4000, 4095):
                assert await ask(pool, b"%d" % size) == (200, b"ok")
            for size in (4097, 5000, 100_000):
                with pytest.raises(ProtocolError):
                    await ask(pool, b"%d" % size)

    run(loop, main())


@both_loops
def test_there_is_a_greatest_number_of_headers(loop: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            count = int((await peer.request()).body)
            await peer.send(response(headers=[(b"A", b"b")] * (count - 1) + [(b"Content-Length", b"0")]))

    async def main() -> None:
        async with serving(script, Limits(max_headers=50)) as (_, pool):
            assert await ask(pool, b"50") == (200, b"")
            with pytest.raises(ProtocolError):
                await ask(pool, b"51")

    run(loop, main())


@both_loops
@pytest.mark.parametrize(
    ("begin", "more"),
    [
        pytest.param(b"", b"HTTP/1.1 102 Processing\r\n\r\n", id="interim answers"),
        pytest.param(b"HTTP/1.1 200 ", b"reason ", id="reason"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: ", b"value ", id="header"),
        pytest.param(STREAM + chunk(b"x"), b"0" * 50, id="chunk size"),
        pytest.param(STREAM + chunk(b"x") + b"1;", b"extension", id="chunk extension"),
        pytest.param(STREAM + chunk(b"x") + b"0\r\nA: ", b"trailer", id="trailer"),
        pytest.param(STREAM + chunk(b"x") + b"0\r\n", b"A: b\r\n", id="trailers"),
    ],
)
def test_what_brings_no_body_cannot_go_on_for_ever(loop: str, begin: bytes, more: bytes) -> None:
    sent = 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(begin)
        while True:
            await peer.send(more * 100)
            sent += len(more) * 100
            await asyncio.sleep(0)

    async def main() -> None:
        async with serving(script, Limits(max_head=16 * 1024)) as (_, pool):
            async with asyncio.timeout(30):
                with pytest.raises(ProtocolError):
                    await ask(pool)
        assert sent < 8 * MEBIBYTE

    run(loop, main())


@both_loops
def test_chunk_lines_between_pieces_of_body_do_not_add_up(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        for _ in range(40):
            await peer.send(b"1;extension=x\r\n")
            await asyncio.sleep(0.001)
            await peer.send(b".\r\n")
            await asyncio.sleep(0.001)
        await peer.send(chunk(b""))

    async def main() -> None:
        async with serving(script, Limits(max_head=200)) as (_, pool):
            assert await ask(pool) == (200, b"." * 40)

    run(loop, main())


@both_loops
@pytest.mark.parametrize("framing", ["length", "chunked", "until close"])
def test_a_body_has_a_greatest_size(loop: str, framing: str) -> None:
    limit = 300_000

    async def script(peer: Peer) -> None:
        size = int((await peer.request()).body)
        if framing == "chunked":
            await peer.send(STREAM + chunk(b"x" * size) + chunk(b""))
        else:
            headers = [(b"Content-Length", b"%d" % size)] if framing == "length" else []
            await peer.send(response(headers=headers) + b"x" * size)

    async def main() -> None:
        async with serving(script, Limits(max_body=limit)) as (_, pool):
            assert await ask(pool, b"%d" % limit) == (200, b"x" * limit)
            with pytest.raises(ProtocolError, match=str(limit)):
                await ask(pool, b"%d" % (limit + 1))
            sink = Sink(await post(pool, b"%d" % limit))
            assert await sink.end() is None
            sink = Sink(await post(pool, b"%d" % (limit * 5)))
            assert isinstance(await sink.end(), ProtocolError)
            assert len(sink.data) <= limit

    run(loop, main())


# ── Time ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def seconds() -> float:
    return asyncio.get_running_loop().time()


@both_loops
@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 200 OK\r\nA: ", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_e2_an_upstream_that_does_not_answer_times_out(loop: str, said: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(said)
        await peer.closed()

    async def main() -> None:
        async with serving(script, BRISK) as (_, pool):
            begin = seconds()
            with pytest.raises(UpstreamTimeout) as caught:
                await ask(pool)
            assert caught.value.kind == "first_byte"
            assert BRISK.first_byte <= seconds() - begin < BRISK.first_byte + LATE
            await eventually(lambda: pool.connections == 0)

    run(loop, main())


@both_loops
def test_a_head_that_drips_times_out_as_a_whole(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        for byte in OK:
            await peer.send(bytes([byte]))
            await asyncio.sleep(0.02)

    async def main() -> None:
        async with serving(script, BRISK) as (_, pool):
            with pytest.raises(UpstreamTimeout) as caught:
                await ask(pool)
            assert caught.value.kind == "first_byte"

    run(loop, main())


@both_loops
def test_a_body_that_stops_times_out(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + chunk(b"part"))
        await peer.closed()

    async def main() -> None:
        async with serving(script, BRISK) as (_, pool):
            with pytest.raises(UpstreamTimeout) as caught:
                await ask(pool)
            assert caught.value.kind == "gap"
            begin = seconds()
            sink = Sink(await post(pool))
            error = await sink.end()
            assert isinstance(error, UpstreamTimeout)
            assert error.kind == "gap"
            assert sink.data == b"part"
            assert BRISK.gap <= seconds() - begin < BRISK.gap + LATE

    run(loop, main())


@both_loops
def test_e15_a_body_that_drips_within_the_gap_is_read_to_its_end(loop: str) -> None:
    limits = Limits(gap=1.0)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        for _ in range(5):
            await asyncio.sleep(limits.gap / 4)  # in all of them longer than it
            await peer.send(chunk(b"."))
        await peer.send(chunk(b""))
        await peer.closed()

    async def main() -> None:
        async with serving(script, limits) as (_, pool):
            assert await ask(pool) == (200, b".....")

    run(loop, main())


@both_loops
def test_e14_an_endless_stream_is_cut_at_its_total_time(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        while True:
            await peer.send(chunk(b"token "))
            await asyncio.sleep(0.01)

    async def main() -> None:
        async with serving(script, BRISK) as (_, pool):
            begin = seconds()
            sink = Sink(await post(pool))
            error = await sink.end()
            assert isinstance(error, UpstreamTimeout)
            assert error.kind == "total"
            assert BRISK.total - 1e-6 <= seconds() - begin < BRISK.total + LATE  # a clock in floats
            assert len(sink.data) > 6 * 20

    run(loop, main())


@both_loops
def test_a_pause_does_not_run_into_the_gap_but_into_the_total(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + chunk(b"part"))
        await peer.closed()

    async def main() -> None:
        async with serving(script, BRISK) as (_, pool):
            begin = seconds()
            got = await post(pool)
            sink = Sink(got)
            got.pause()
            error = await sink.end()
            assert isinstance(error, UpstreamTimeout)
            assert error.kind == "total"
            assert seconds() - begin >= BRISK.total

            begin = seconds()
            got = await post(pool)
            sink = Sink(got)
            got.pause()
            await asyncio.sleep(BRISK.gap * 1.5)
            got.resume()
            error = await sink.end()
            assert isinstance(error, UpstreamTimeout)
            assert error.kind == "gap"
            assert seconds() - begin >= BRISK.gap * 2.5

    run(loop, main())


@both_loops
def test_an_upstream_that_stops_reading_the_request_times_out(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.head()
        await asyncio.sleep(30)

    async def main() -> None:
        async with serving(script, BRISK) as (_, pool):
            with pytest.raises(UpstreamTimeout) as caught:
                await ask(pool, b"x" * (32 * MEBIBYTE))
            assert caught.value.kind == "gap"

    run(loop, main())


@both_loops
def test_the_first_byte_is_waited_for_from_the_end_of_the_request(loop: str) -> None:
    """A large request over a slow line takes longer than that."""

    async def script(peer: Peer) -> None:
        size = int((await peer.head()).headers[b"content-length"])
        while size:
            size -= len(await peer.receive(min(size, MEBIBYTE)))
            await asyncio.sleep(0.05)
        await peer.send(OK)

    async def main() -> None:
        limits = Limits(first_byte=1.0, gap=2.0)
        async with serving(script, limits) as (_, pool):
            begin = seconds()
            assert await ask(pool, b"x" * (30 * MEBIBYTE)) == (200, b"ok")
            assert seconds() - begin > 1.2

    run(loop, main())
