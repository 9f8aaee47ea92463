"""How an exchange flows: cut, abandoned, paused, uploaded, and what its callbacks hear of it."""

import asyncio
import contextlib
import random
import ssl
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.upstream.bad_server import (
    CHUNKED,
    LOOPS,
    BadServer,
    Peer,
    always,
    certificate,
    chunk,
    chunked,
    eventually,
    once,
    response,
    run,
    silent,
)
from tests.upstream.callers import Sink, ask, post, serving, trusting

from tollbridge.errors import ConnectionLost, ProtocolError, UpstreamError, UpstreamTimeout
from tollbridge.upstream.pool import Limits, Pool

both_loops = pytest.mark.parametrize("loop", LOOPS)
OK = response(body=b"ok")
MEBIBYTE = 1024 * 1024
STREAM = response(headers=CHUNKED)


# ── Broken connections ───────────────────────────────────────────────────────────────────────────────────────────────

EVENTS = [b"data: %d\n\n" % number for number in range(100)]
REPLY = STREAM + b"".join(map(chunk, EVENTS)) + chunk(b"")


def events_in(raw: bytes) -> bytes:
    """The body that stands in the first bytes of REPLY."""
    body, at = b"", len(STREAM)
    for event in EVENTS:
        framed = chunk(event)
        begin = at + framed.index(event)
        body += event[: max(0, len(raw) - begin)]
        at += len(framed)
    return body


@both_loops
@pytest.mark.parametrize("trials", [200, pytest.param(2000, marks=pytest.mark.soak)])
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_e7_a_stream_cut_after_any_byte_ends_in_one_error(loop: str, ending: str, trials: int) -> None:
    chance = random.Random(trials)
    cuts = [chance.randrange(len(REPLY)) for _ in range(trials)]
    coming = iter(cuts)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(REPLY[: next(coming)])
        if ending == "reset":
            await peer.reset()

    async def main() -> None:
        async with serving(script) as (_, pool):
            for cut in cuts:
                try:
                    got = await post(pool)
                except ConnectionLost:
                    # A reset may overtake what was sent before it.
                    assert cut < len(STREAM) or ending == "reset"
                    continue
                assert cut >= len(STREAM)
                sink = Sink(got)
                assert isinstance(await sink.end(), ConnectionLost)
                if ending == "close":
                    assert sink.data == events_in(REPLY[:cut])
                else:
                    assert events_in(REPLY[:cut]).startswith(bytes(sink.data))

    run(loop, main())


@both_loops
def test_e9_a_body_of_stated_length_that_ends_early_is_not_whole(loop: str) -> None:
    async def main() -> None:
        for raw in (response(headers=[(b"Content-Length", b"10")], body=b"half"), STREAM + chunk(b"no end")):
            async with serving(once(raw)) as (_, pool):
                with pytest.raises(ConnectionLost):
                    await ask(pool)

    run(loop, main())


@both_loops
def test_a_body_that_ends_with_its_connection_is_lost_when_that_is_reset(loop: str) -> None:
    arrived = asyncio.Event()  # a reset may overtake what was sent before it

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(response(headers=[], body=b"part"))
        await arrived.wait()
        await peer.reset()

    async def main() -> None:
        async with serving(script) as (_, pool):
            sink = Sink(await post(pool))
            await eventually(lambda: sink.data)
            arrived.set()
            assert isinstance(await sink.end(), ConnectionLost)
            assert sink.data == b"part"

    run(loop, main())


@both_loops
@pytest.mark.parametrize("trials", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_c5_nobody_reads_the_rest_of_anothers_stream(loop: str, trials: int) -> None:
    """Calls are abandoned, cancelled or cut at random moments; every answer names the call that it belongs to."""

    async def script(peer: Peer) -> None:
        chance = random.Random(peer.number)
        while True:
            request = await peer.request()
            raw = chunked(*([request.body] * 50))
            cut = chance.randrange(len(raw))
            await peer.send(raw[:cut])
            await asyncio.sleep(0)
            if chance.random() < 0.1:
                await peer.reset()
                return
            await peer.send(raw[cut:] + (b"" if chance.random() < 0.9 else chunked(b"foreign")))

    async def main() -> None:
        chance = random.Random(7)
        async with serving(script, Limits(max_connections=4)) as (server, pool):

            async def abandon(marker: bytes) -> None:
                got = await post(pool, marker)
                enough = chance.randrange(len(marker) * 60)
                sink = bytearray()

                def on_data(data: bytes) -> None:
                    sink.extend(data)
                    if len(sink) >= enough:
                        got.close()

                ended = asyncio.get_running_loop().create_future()
                got.pipe(on_data, lambda error: ended.set_result(error))
                await asyncio.sleep(chance.random() * 0.002)
                got.close()
                assert sink == (marker * 50)[: len(sink)]

            async def whole(marker: bytes) -> None:
                status, body = await ask(pool, marker)
                assert (status, body) == (200, marker * 50)

            async def cancelled(marker: bytes) -> None:
                call = asyncio.create_task(ask(pool, marker))
                await asyncio.sleep(chance.random() * 0.002)
                call.cancel()
                assert await call == (200, marker * 50)

            for trial in range(0, trials, 4):
                kinds: list[Any] = [abandon, whole, cancelled, whole]
                results = await asyncio.gather(
                    *(kind(b"<%d>" % (trial + index)) for index, kind in enumerate(kinds)), return_exceptions=True
                )
                for result in results:
                    assert result is None or isinstance(result, (ConnectionLost, asyncio.CancelledError)), result
            assert server.accepted > trials // 10  # many were thrown away
            assert pool.reused_total > trials // 10  # and many were not

    run(loop, main())


# ── Flow ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Source:
    """Sends `size` bytes as one body and counts what the client's side has taken."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        await peer.send(response(headers=[(b"Content-Length", b"%d" % self.size)]))
        block = bytes(range(256)) * 256
        while self.taken < self.size:
            await peer.send(block)
            self.taken += len(block)
        await peer.closed()

    async def stalled(self) -> int:
        """Wait until nothing moves any more; how much was taken."""
        before, looks = -1, 0
        while looks < 5:  # of which a machine that does something else can spoil one
            looks = looks + 1 if before == self.taken else 0
            before = self.taken
            await asyncio.sleep(0.03)
        return before


def contexts(directory: Path, secure: bool) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """(server's, client's)"""
    if not secure:
        return None, None
    made = certificate(directory, "127.0.0.1")
    return made.server, trusting(made.authority)


@both_loops
@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("manner", ["paused", "unclaimed"])
def test_a_slow_reader_slows_the_upstream_down(loop: str, manner: str, secure: bool, tmp_path: Path) -> None:
    """What is not read stays with the sender, but for the kernel's buffers; and it all comes when reading goes on."""
    source = Source(48 * MEBIBYTE)
    server_tls, client_tls = contexts(tmp_path, secure)

    async def main() -> None:
        async with BadServer(source, tls=server_tls) as server:
            pool = Pool(server.url, Limits(max_body=64 * MEBIBYTE), ssl_context=client_tls)
            size = 0
            chunks: list[int] = []
            ended: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()

            def on_data(data: bytes) -> None:
                nonlocal size
                size += len(data)
                chunks.append(len(data))
                if manner == "paused" and len(chunks) % 50 == 3:
                    got.pause()

            got = await post(pool)
            if manner == "paused":
                got.pipe(on_data, ended.set_result)
            before = psutil.Process().memory_info().rss
            assert await source.stalled() < 16 * MEBIBYTE
            seen = size
            await asyncio.sleep(0.05)
            assert size == seen
            assert psutil.Process().memory_info().rss - before < 8 * MEBIBYTE
            if manner == "unclaimed":
                got.pipe(on_data, ended.set_result)
            async with asyncio.timeout(60):
                while not ended.done():
                    got.resume()
                    await asyncio.sleep(0.001)
            assert await ended is None
            assert size == source.size
            assert max(chunks) <= 512 * 1024
            await pool.close()

    run(loop, main())


@both_loops
@pytest.mark.parametrize("secure", [False, True])
def test_nothing_is_lost_when_the_upstream_closes_during_a_pause(loop: str, secure: bool, tmp_path: Path) -> None:
    server_tls, client_tls = contexts(tmp_path, secure)
    body = random.Random(5).randbytes(400_000)

    async def main() -> None:
        async with BadServer(once(response(headers=[], body=body)), tls=server_tls) as server:
            pool = Pool(server.url, Limits(), ssl_context=client_tls)
            got = await post(pool)
            sink = Sink(got)
            got.pause()
            await asyncio.sleep(0.1)
            assert len(sink.data) < len(body)
            got.resume()
            assert await sink.end() is None
            assert bytes(sink.data) == body
            await pool.close()

    run(loop, main())


@both_loops
@pytest.mark.parametrize("secure", [False, True])
def test_a_large_request_waits_for_a_slow_upstream(loop: str, secure: bool, tmp_path: Path) -> None:
    """64 MiB go out whole, and without a second copy in memory while the upstream does not read."""
    server_tls, client_tls = contexts(tmp_path, secure)
    body = bytes(64 * MEBIBYTE)
    reading = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            size = int((await peer.head()).headers[b"content-length"])
            await reading.wait()
            got = 0
            while got < size:
                got += len(await peer.receive(min(size - got, 256 * 1024)))
            await peer.send(response(body=b"%d" % got))

    async def main() -> None:
        async with BadServer(script, tls=server_tls) as server:
            pool = Pool(server.url, Limits(), ssl_context=client_tls)
            before = psutil.Process().memory_info().rss
            call = asyncio.create_task(ask(pool, body))
            await asyncio.sleep(0.3)
            assert psutil.Process().memory_info().rss - before < 16 * MEBIBYTE
            reading.set()
            assert await call == (200, b"%d" % len(body))
            assert await ask(pool, b"x" * 200_000) == (200, b"200000")
            assert server.accepted == 1
            await pool.close()

    run(loop, main())


@both_loops
@pytest.mark.parametrize("rest", ["read on", "stop"])
def test_an_answer_before_the_request_is_sent_ends_the_sending(loop: str, rest: str) -> None:
    received = 0

    async def script(peer: Peer) -> None:
        nonlocal received
        size = int((await peer.head()).headers[b"content-length"])
        if size < 100:
            await peer.receive(size)
            await peer.send(OK)
            return
        await peer.receive(100_000)
        await peer.send(response(413, b"too large"))
        if rest == "read on":
            while True:
                received += len(await peer.receive(4096))
        await asyncio.sleep(30)

    async def main() -> None:
        async with serving(script) as (server, pool):
            async with asyncio.timeout(25):
                assert await ask(pool, b"x" * (64 * MEBIBYTE)) == (413, b"too large")
                assert await ask(pool) == (200, b"ok")
            assert server.accepted == 2
        assert received < 32 * MEBIBYTE

    run(loop, main())


@both_loops
def test_an_answer_that_overtakes_its_request_does_not_cut_it(loop: str) -> None:
    """An upstream may begin to answer while it still reads; a good status does not stop the sending."""

    async def script(peer: Peer) -> None:
        while True:
            size = int((await peer.head()).headers[b"content-length"])
            await peer.send(STREAM)
            got = 0
            while got < size:
                piece = min(size - got, MEBIBYTE)
                await peer.receive(piece)
                got += piece
                await peer.send(chunk(b"."))
            await peer.send(chunk(b""))

    async def main() -> None:
        async with serving(script) as (server, pool):
            for _ in range(2):
                assert await ask(pool, bytes(20 * MEBIBYTE)) == (200, b"." * 20)
            assert server.accepted <= 2

    run(loop, main())


@both_loops
def test_what_came_before_the_pipe_is_delivered_first_and_once(loop: str) -> None:
    async def main() -> None:
        async with serving(always(chunked(b"a", b"b"))) as (_, pool):
            got = await post(pool)
            await eventually(lambda: pool.idle == 1)
            calls: list[bytes | UpstreamError | None] = []
            got.pipe(calls.append, calls.append)
            assert calls == [b"ab", None]
            got.close()
            assert pool.idle == 1

    run(loop, main())


@both_loops
def test_a_response_closed_by_its_consumer_is_heard_no_more(loop: str) -> None:
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        try:
            await peer.send(STREAM)
            while True:
                await peer.send(chunk(b"x"))
                await asyncio.sleep(0.001)
        finally:
            gone.set()

    async def main() -> None:
        async with serving(script) as (_, pool):
            got = await post(pool)
            calls: list[bytes | UpstreamError | None] = []

            def on_data(data: bytes) -> None:
                calls.append(data)
                if len(calls) == 3:
                    got.close()

            got.pipe(on_data, calls.append)
            async with asyncio.timeout(30):
                await gone.wait()  # the upstream stops working
            assert len(calls) == 3
            assert None not in calls
            assert pool.connections == 0
            got.close()
            got.pause()
            got.resume()
            with pytest.raises(ConnectionLost):
                await got.read()

    run(loop, main())


@both_loops
def test_a_whole_response_closed_by_its_consumer_has_no_end(loop: str) -> None:
    async def main() -> None:
        async with serving(always(OK)) as (_, pool):
            got = await post(pool)
            await eventually(lambda: pool.idle == 1)
            ends: list[UpstreamError | None] = []
            got.pipe(lambda data: got.close(), ends.append)
            assert ends == []

    run(loop, main())


@both_loops
def test_what_was_good_before_the_error_is_delivered(loop: str) -> None:
    """Also when both came in one read, together with the head."""

    async def main() -> None:
        async with serving(always(STREAM + chunk(b"good") + b"no size\r\n")) as (_, pool):
            got = await post(pool)
            assert got.status == 200
            sink = Sink(got)
            assert isinstance(await sink.end(), ProtocolError)
            assert sink.data == b"good"

    run(loop, main())


@both_loops
def test_a_body_is_read_as_far_as_wanted_and_waits_without_its_time_being_used_up(loop: str) -> None:
    sent: list[int] = []

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (40 * MEBIBYTE))
            for number in range(40):
                await peer.send(bytes([number]) * MEBIBYTE)
                sent.append(number)

    async def main() -> None:
        async with serving(script, Limits(gap=1.5, total=3.0)) as (_, pool):
            got = await post(pool)
            assert await got.read_up_to(MEBIBYTE) is None
            got.stop_clock()
            await asyncio.sleep(3.5)  # longer than all of the answer may take, and longer than a gap
            assert len(sent) < 30  # the rest waits there
            got.start_clock()
            assert await got.read_up_to(2 * MEBIBYTE) is None
            assert await got.read_up_to(2 * MEBIBYTE) is None
            body = await got.read_up_to(50 * MEBIBYTE)
            assert body == b"".join(bytes([number]) * MEBIBYTE for number in range(40))
            assert got.whole_body() == body
            assert pool.idle == 1

            got = await post(pool)
            assert await got.read_up_to(MEBIBYTE) is None
            await asyncio.sleep(4.5)
            with pytest.raises(UpstreamTimeout, match="total"):  # its time goes on if nobody stops it
                await got.read_up_to(50 * MEBIBYTE)

    run(loop, main())


@both_loops
def test_a_response_closed_unread_is_not_reused_and_one_read_whole_is(loop: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(STREAM + chunk(b"%d" % peer.number))
            await asyncio.sleep(0.02)
            await peer.send(chunk(b""))

    async def main() -> None:
        async with serving(script) as (_, pool):
            closed = await post(pool)
            closed.close()
            assert closed.whole_body() is None
            got = await post(pool)
            assert got.whole_body() is None
            assert await got.read() == b"1"
            assert got.whole_body() == b"1"
            got.close()
            assert await got.read() == b"1"
            assert await ask(pool) == (200, b"1")

    run(loop, main())


@both_loops
def test_a_consumer_that_fails_loses_its_own_stream_only(loop: str) -> None:
    logged: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        async with serving(always(chunked(b"a" * 100_000))) as (_, pool):
            got = await post(pool)
            ends: list[UpstreamError | None] = []

            def on_data(data: bytes) -> None:
                raise RuntimeError("the consumer's mistake")

            with contextlib.suppress(RuntimeError):
                got.pipe(on_data, ends.append)
            got.close()
            assert await ask(pool) == (200, b"a" * 100_000)

    run(loop, main())


@both_loops
def test_a_consumer_that_fails_on_a_later_chunk_is_told_of_the_end_once(loop: str) -> None:
    logged: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM)
        await asyncio.sleep(0.02)
        await peer.send(chunk(b"late"))
        await peer.closed()

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        async with serving(script) as (_, pool):
            got = await post(pool)
            ends: list[UpstreamError | None] = []

            def on_data(data: bytes) -> None:
                raise RuntimeError("the consumer's mistake")

            got.pipe(on_data, ends.append)
            await eventually(lambda: ends)
            assert [type(end) for end in ends] == [ConnectionLost]
            await eventually(lambda: pool.connections == 0)
        assert [str(context["exception"]) for context in logged] == ["the consumer's mistake"]

    run(loop, main())


@both_loops
def test_reading_can_be_cancelled(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(STREAM + chunk(b"part"))
        await peer.closed()

    async def main() -> None:
        async with serving(script) as (_, pool):
            for turns in range(1, 6):
                got = await post(pool)
                reading = asyncio.create_task(got.read())
                for _ in range(turns):
                    await asyncio.sleep(0)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                await eventually(lambda: pool.connections == 0)

    run(loop, main())


@both_loops
def test_many_streams_at_once(loop: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            marker = (await peer.request()).body
            await peer.send(STREAM)
            for _ in range(20):
                await peer.send(chunk(marker))
                await asyncio.sleep(0.001)
            await peer.send(chunk(b""))

    async def main() -> None:
        async with serving(script) as (_, pool):

            async def stream(marker: bytes) -> None:
                for _ in range(3):
                    sink = Sink(await post(pool, marker))
                    assert await sink.end() is None
                    assert sink.data == marker * 20

            await asyncio.gather(*(stream(b"<%d>" % number) for number in range(50)))
            assert pool.idle == pool.connections <= 50

    run(loop, main())


@both_loops
def test_a_silent_server_holds_nothing_when_the_call_is_abandoned(loop: str) -> None:
    async def main() -> None:
        async with serving(silent) as (_, pool):
            calls = [asyncio.create_task(post(pool)) for _ in range(20)]
            await eventually(lambda: pool.connections == 20)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            await eventually(lambda: pool.connections == 0)

    run(loop, main())
