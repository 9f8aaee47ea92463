"""What clients do to a gateway: they leave, stall, send too much, and start over. Rows F1 to F4, F8 and F10 to F12."""

import asyncio
import contextlib
import json
import random
import resource
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop
from tests.gateway.site import (
    INPUT_NANO,
    OUTPUT_NANO,
    STREAM_HEAD,
    Call,
    Json,
    Site,
    always,
    chat,
    chunk,
    completion,
    framed,
    lock_books,
    run,
    says,
    stream,
    streams,
    usage_chunk,
    used,
)
from tests.upstream.bad_server import Peer, Request

from tollbridge.core import retry, tokens
from tollbridge.edge.server import ServerLimits
from tollbridge.gateway.streams import Timing
from tollbridge.services import accounts
from tollbridge.values import Outcome

PATH = "/v1/chat/completions"
PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO
LONG_PROMPT = "word " * 10_500
ESTIMATED = 2
WORKERS = 12


def priced(row: Json) -> int:
    return int(row["input"]) * INPUT_NANO + int(row["output"]) * OUTPUT_NANO


class Silent:
    """Takes requests and says nothing, or only how an answer begins."""

    def __init__(self, *events: bytes, head: bool = False) -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()
        self.requests = self.open = 0
        self._first = (STREAM_HEAD if head or events else b"") + b"".join(map(framed, events))

    async def __call__(self, peer: Peer) -> None:
        await peer.request()
        self.requests += 1
        self.open += 1
        if self._first:
            await peer.send(self._first)
        self.asked.set()
        await peer.closed()
        self.open -= 1
        self.left.set()


async def soon(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 30)


# --- F1: before the first token -----------------------------------------------------------------------------------


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("waited", [0.0, 0.4])
def test_leaving_before_the_first_token_costs_the_prompt_unless_the_provider_was_silent(
    head: bool, stops: bool, waited: float
) -> None:
    """F1, at a hundredth of the time; a provider that bills anyway is waited for, but not for ever."""

    async def test() -> None:
        upstream = Silent(head=head)
        # Nobody is silent for so long who is not waited for.
        timing = Timing(tick=0.02, drain=0.1, silent_provider=0.3 if waited else 60.0)
        async with Site(upstream, cancel_stops_billing=stops, timing=timing) as site:
            call = await site.open(PATH, chat("word " * 200, stream=True))
            await soon(upstream.asked)
            await asyncio.sleep(waited)
            call.reset()
            [row] = await site.settled(1, seconds=20)
            await soon(upstream.left)
            if waited:
                assert (row["charge"], row["outcome"]) == (0, Outcome.NO_OUTPUT)
            else:
                assert row["outcome"] == Outcome.CLIENT_LEFT
                assert row["output"] == 0
                assert row["charge"] == row["input"] * INPUT_NANO > 150 * INPUT_NANO

    run(test())


@pytest.mark.soak
@pytest.mark.parametrize("stops", [True, False])
@pytest.mark.parametrize("waited", [0.0, 0.8])
def test_of_two_hundred_who_leave_before_the_first_token_each_pays_what_is_due(stops: bool, waited: float) -> None:
    """F1: fifty at once in each of four cases."""

    async def test() -> None:
        upstream = Silent()
        timing = Timing(tick=0.02, drain=0.1, silent_provider=0.6 if waited else 60.0)
        async with Site(upstream, cancel_stops_billing=stops, timing=timing) as site:
            calls = [await site.open(PATH, chat("word " * 200, stream=True)) for _ in range(50)]
            while upstream.requests < 50:  # noqa: ASYNC110 - many requests, one event
                await asyncio.sleep(0.01)
            await asyncio.sleep(waited)
            for call in calls:
                call.reset()
            rows = await site.settled(50, seconds=20)
            assert {row["outcome"] for row in rows} == {Outcome.NO_OUTPUT if waited else Outcome.CLIENT_LEFT}
            for row in rows:
                assert row["charge"] == (0 if waited else row["input"] * INPUT_NANO)

    run(test())


def test_usage_that_comes_after_the_caller_left_is_what_counts() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        asked.set()
        await left.wait()
        await asyncio.sleep(0.1)
        await streams(stream())(request, peer)

    async def test() -> None:
        async with Site(always(answer), cancel_stops_billing=False) as site:
            call = await site.open(PATH, chat(stream=True))
            await soon(asked)
            call.reset()
            left.set()
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"]) == (PRICE, Outcome.CLIENT_LEFT)

    run(test())


# --- F2: at any byte ----------------------------------------------------------------------------------------------


class Talker:
    """Streams 30 words, reports usage in one of three ways, and remembers what it said to whom."""

    WORDS = 30

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self.said: dict[str, list[str]] = {}

    async def answer(self, request: Request, peer: Peer) -> None:
        user = json.loads(request.body)["user"]
        said = self.said[user] = []
        await peer.send(STREAM_HEAD)
        for number in range(self.WORDS):
            word = self._chance.choice(("a ", "word ", "again ", "nothing "))
            said.append(word)
            usage: Json = {"usage": used(10, number + 1)} if user.startswith("running") else {}
            await peer.send(framed(chunk(word, **usage)))
            if self._chance.random() < 0.3:
                await asyncio.sleep(self._chance.random() * 0.004)
        tail = chunk(finish="stop")
        if not user.startswith("none"):
            tail += usage_chunk(10, self.WORDS)
        await peer.send(framed(tail) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")


class Cut:
    """One trial: read up to `at` bytes of the answer, then go."""

    def __init__(self, user: str, at: int, *, by_reset: bool) -> None:
        self.user = user
        self.at = at
        self.by_reset = by_reset
        self.received = b""

    async def run(self, site: Site, key: str) -> None:
        body = chat("word " * 20, stream=True, user=self.user)
        call = await site.open(PATH, body, {"authorization": f"Bearer {key}"})
        while len(self.received) < self.at:
            piece = await call.reader.read(self.at - len(self.received))
            if not piece:
                break
            self.received += piece
        if self.by_reset and not call.reader.at_eof():
            call.reset()
        else:
            call.close()

    @property
    def delivered(self) -> str:
        """The text of all events that came whole."""
        _, _, body = self.received.partition(b"\r\n\r\n")
        lines = [line[6:] for line in body.split(b"\n")[:-1] if line.startswith(b"data: {")]
        return "".join(choice["delta"].get("content") or "" for line in lines for choice in json.loads(line)["choices"])


async def cut_streams(trials: int, seed: int, *, stops: bool) -> None:
    chance = random.Random(seed)
    talker = Talker(seed)
    async with Site(always(talker.answer), cancel_stops_billing=stops, credit_usd="100") as site:
        cuts = [
            [
                Cut(
                    f"{chance.choice(['end', 'none', 'running'])}-{worker}-{trial}",
                    chance.randrange(1, 9_000),
                    by_reset=chance.random() < 0.5,
                )
                for trial in range(trials // WORKERS)
            ]
            for worker in range(WORKERS)
        ]
        made = [await site.make_key() for _ in cuts]

        async def work(worker: int) -> None:
            for cut in cuts[worker]:
                await cut.run(site, made[worker])

        await asyncio.gather(*map(work, range(WORKERS)))
        rows = await site.settled(sum(map(len, cuts)), seconds=40)
        by_key: dict[int, list[Json]] = {}
        for row in rows:
            by_key.setdefault(row["key_id"], []).append(row)
        for own_cuts, key_id in zip(cuts, sorted(by_key), strict=True):
            for cut, row in zip(own_cuts, by_key[key_id], strict=True):
                check_cut(cut, row, "".join(talker.said[cut.user]), stops=stops)
        assert sum(row["outcome"] == Outcome.CLIENT_LEFT for row in rows) > len(rows) / 4


def check_cut(cut: Cut, row: Json, said: str, *, stops: bool) -> None:
    """G6: price(what upstream reported, else what upstream produced); never 0 for output, never above the hold."""
    assert row["outcome"] in (Outcome.CLIENT_LEFT, Outcome.COMPLETED), (cut.user, row)
    assert 0 < row["charge"] <= row["held"]
    assert row["charge"] == priced(row)
    assert b"error" not in cut.received
    least, most = tokens.count(cut.delivered.encode()), tokens.count(said.encode())
    finished = row["outcome"] == Outcome.COMPLETED or not stops
    if row["flags"] & ESTIMATED:
        assert least <= row["output"] <= most
        assert row["input"] > 10
        assert cut.user.startswith("none") or (stops and (cut.user.startswith("end") or not row["output"])), cut.user
        assert row["output"] == most or not finished
    elif cut.user.startswith("running"):
        assert cut.delivered.count(" ") <= row["output"] <= Talker.WORDS
        assert row["input"] == 10
    else:
        assert (row["input"], row["output"]) == (10, Talker.WORDS)


@pytest.mark.parametrize("stops", [True, False])
def test_stream_cut_at_any_byte_is_charged_what_was_reported_or_produced(stops: bool) -> None:
    """F2, G6."""
    run(cut_streams(156, 1, stops=stops))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("stops", [True, False])
def test_many_streams_cut_at_any_byte_are_charged_what_was_reported_or_produced(stops: bool, seed: int) -> None:
    run(cut_streams(156, 100 + seed, stops=stops))


def test_only_so_many_streams_are_read_on_and_only_for_so_long() -> None:
    """F2: beyond the number of drains a caller who leaves is cut off at once, and charged what was produced."""

    async def test() -> None:
        upstream = Silent(chunk("Hello there. "))
        timing = Timing(tick=0.02, drain=2.0, max_drains=2)
        async with Site(upstream, cancel_stops_billing=False, timing=timing) as site:
            calls = [await site.open(PATH, chat(stream=True)) for _ in range(5)]
            for call in calls:
                await call.head()
                await anext(call.pieces())
            for call in calls:
                call.reset()
            while len(await site.usage()) < 3:  # noqa: ASYNC110 - a database has no event
                await asyncio.sleep(0.01)
            while upstream.open > 2:  # noqa: ASYNC110 - many connections, one number
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            assert upstream.open == 2
            assert len(await site.usage()) == 3
            rows = await site.settled(5)
            assert {row["outcome"] for row in rows} == {Outcome.CLIENT_LEFT}
            assert all(row["charge"] == priced(row) > 0 and row["output"] for row in rows)
            while upstream.open:  # noqa: ASYNC110 - many connections, one number
                await asyncio.sleep(0.01)

    run(test())


@pytest.mark.parametrize("early", [{"usage": used(0, 0)}, {"usage": used(10, 1)}])
def test_report_from_the_beginning_does_not_make_output_free(early: Json) -> None:
    """Some providers send a usage of zeros with every chunk but the last one, others only with the first."""

    async def test() -> None:
        upstream = Silent(chunk("Hello there, ", **early), chunk("this is quite some output. " * 4))
        async with Site(upstream) as site:
            call = await site.open(PATH, chat(stream=True))
            await call.head()
            read = b""
            async for piece in call.pieces():
                read += piece
                if b"quite" in read:
                    break
            call.reset()
            [row] = await site.settled(1)
            assert row["outcome"] == Outcome.CLIENT_LEFT
            assert row["output"] >= 20
            assert row["charge"] == priced(row)

    run(test())


def test_what_was_delivered_before_a_forced_shutdown_is_charged() -> None:
    """Our own fault: what was delivered, if anything was. The provider is hung up on."""

    async def test() -> None:
        upstream = Silent(chunk("Hello there, this is some output. "))
        async with Site(upstream, limits=ServerLimits(drain=0.1)) as site:
            call = await site.open(PATH, chat(stream=True))
            await call.head()
            await anext(call.pieces())
            site._server.should_exit = True
            assert site._serving is not None
            await site._serving
            [row] = await site.settled(1)
            assert row["outcome"] == Outcome.OUR_FAULT
            assert row["charge"] == priced(row) > 0
            assert row["output"] > 0
            await soon(upstream.left)
            call.close()

    run(test())


@pytest.mark.parametrize("streamed", [True, False])
def test_a_call_that_a_forced_shutdown_ends_is_in_the_log_too(streamed: bool) -> None:
    asked = asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        if streamed:
            await peer.send(STREAM_HEAD + framed(chunk("Hello there, this is some output. ")))
        asked.set()
        await asyncio.sleep(60)

    async def test() -> None:
        async with Site(always(answer), limits=ServerLimits(drain=0.1)) as site:
            call = await site.open(PATH, chat(stream=streamed))
            await asked.wait()
            if streamed:
                await call.head()
            site._server.should_exit = True
            assert site._serving is not None
            await site._serving
            [row] = await site.settled(1)
            if streamed:
                said = b"".join([piece async for piece in call.pieces()])
                assert b"The server stopped in the middle of its answer." in said
            else:
                assert (await call.rest()).status == 503
            call.close()
            lines = [json.loads(line) for line in b"".join(site.log).splitlines()]
        [line] = [each for each in lines if each.get("path") == PATH]
        status = 200 if streamed else 503
        assert (line["status"], line["code"], line["outcome"]) == (status, "overloaded", "our_fault")
        assert (line.get("charge", 0), line["key"]) == (row["charge"], row["key_id"])

    run(test())


# --- F3: an answer that is not a stream ---------------------------------------------------------------------------


@pytest.mark.parametrize("requests", [40, pytest.param(200, marks=pytest.mark.soak)])
def test_whole_answer_is_fetched_and_charged_whenever_the_caller_leaves(requests: int) -> None:
    """F3: LiteLLM #13245 charges nothing."""
    chance = random.Random(3)

    async def answer(request: Request, peer: Peer) -> None:
        await asyncio.sleep(0.15)
        await says(completion())(request, peer)

    async def test() -> None:
        asked = asyncio.Event()
        waiting = requests

        async def noted(request: Request, peer: Peer) -> None:
            nonlocal waiting
            waiting -= 1
            if not waiting:
                asked.set()
            await answer(request, peer)

        async with Site(always(noted)) as site:
            calls = [await site.open(PATH, chat(max_tokens=50)) for _ in range(requests)]
            await soon(asked)
            for call in calls:
                await asyncio.sleep(chance.random() * 0.2 / requests)
                call.reset()
            rows = await site.settled(requests, seconds=40)
            assert [row["charge"] for row in rows] == [PRICE] * requests
            assert await site.balance() == 10**9 - requests * PRICE

    run(test())


# --- F4: slow readers ---------------------------------------------------------------------------------------------


async def open_unread(site: Site, body: Json) -> Call:
    """A client that will not read, with as little room in its kernel as there can be."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", site.port))
    call = Call(*await asyncio.open_connection(sock=sock, limit=1024))
    data = json.dumps(body).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {site.key}\r\ncontent-type: application/json\r\n"
    call.writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(data) + data)
    return call


def test_slow_readers_slow_the_provider_down_and_are_cut() -> None:
    """F4: memory stays bounded, the provider is held back, and after a stall the caller is gone."""
    sockets = 20
    sent: dict[int, int] = {}  # by connection; a slow machine may need another for a call
    stopped: dict[int, asyncio.Event] = {}
    piece = framed(chunk("word " * 800))

    async def talk(peer: Peer) -> None:
        await peer.request()
        sent[peer.number], stopped[peer.number] = 0, asyncio.Event()
        await peer.send(STREAM_HEAD)
        try:
            while True:
                await peer.send(piece)
                sent[peer.number] += len(piece)
        finally:
            stopped[peer.number].set()

    async def test() -> None:
        limits = ServerLimits(stall=1.0, sweep=0.1)
        async with Site(talk, credit_usd="1000", limits=limits) as site:
            before = resident()
            calls = [await open_unread(site, chat(stream=True)) for _ in range(sockets)]
            looks, before_that = 0, {-1: 0}
            async with asyncio.timeout(20):
                while looks < 3:  # until every provider is held back
                    looks = looks + 1 if sent == before_that else 0
                    before_that = dict(sent)
                    await asyncio.sleep(0.05)
            assert max(sent.values()) < 12 * 1024 * 1024
            assert resident() - before < 64 * 1024 * 1024
            rows = await site.settled(sockets, seconds=30)
            for each in stopped.values():
                await soon(each)
            assert {row["outcome"] for row in rows} == {Outcome.CLIENT_LEFT}
            assert all(0 < row["charge"] == priced(row) for row in rows)
            for call in calls:
                call.reset()

    run(test())


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def test_slow_reader_that_reads_on_gets_everything() -> None:
    words = [f"{number:05} " for number in range(4_000)]

    async def test() -> None:
        events = [b"".join(chunk(word) for word in words[start : start + 50]) for start in range(0, len(words), 50)]
        tail = [chunk(finish="stop"), usage_chunk(10, 5)]
        async with Site(always(streams([*events, *tail]))) as site:
            call = await open_unread(site, chat(stream=True))
            await asyncio.sleep(0.3)
            reply = await call.rest()
            assert reply.text == "".join(words)
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"]) == (PRICE, Outcome.COMPLETED)
            call.close()

    run(test())


# --- F8: starting over --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [2, pytest.param(200, marks=pytest.mark.soak)])
def test_same_request_twice_is_two_charges_with_an_id_each(times: int) -> None:
    """F8: without an Idempotency-Key, by contract."""

    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            replies = [await site.post(PATH, chat()) for _ in range(times)]
            assert len({reply.headers["x-request-id"] for reply in replies}) == times
            assert len({reply.json["id"] for reply in replies}) == times
            assert [row["charge"] for row in await site.settled(times)] == [PRICE] * times

    run(test())


# --- F10, F11: too much -------------------------------------------------------------------------------------------


async def ask(site: Site, data: bytes) -> tuple[int, Json, float]:
    """Status, error and seconds of work of an answer to raw bytes that may never be a whole request.

    The work is that of this process, whatever else the machine does. Nothing is waited for as long as a deadline is.
    """
    start, clock = time.process_time(), time.monotonic()
    call = Call(*await asyncio.open_connection("127.0.0.1", site.port))
    call.writer.write(data)
    reply = await call.rest()
    elapsed = time.process_time() - start
    assert time.monotonic() - clock < 8
    call.close()
    assert reply.headers["x-request-id"].startswith("req_")
    assert reply.json["detail"] == reply.json["error"]["message"]
    return reply.status, reply.json["error"], elapsed


def head(site: Site, **headers: str) -> bytes:
    own = {"host": "a", "authorization": f"Bearer {site.key}", "content-type": "application/json", **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in own.items() if value)
    return f"POST {PATH} HTTP/1.1\r\n{lines}\r\n".encode()


def whole(site: Site, body: bytes) -> bytes:
    return head(site, content_length=str(len(body))) + body


def too_much(site: Site) -> Iterator[tuple[str, int, bytes]]:
    yield "a length that is too large", 413, head(site, content_length=str(11 * 1024 * 1024))
    yield "an absurd length", 413, head(site, content_length="9" * 15)
    piece = framed(b" " * 1024 * 1024)
    yield "chunks that are too many", 413, head(site, transfer_encoding="chunked") + piece * 11
    yield "a header that is too large", 431, head(site, x_large="x" * 40_000)
    yield "a path that is too long", 431, head(site).replace(PATH.encode(), b"/" + b"x" * 40_000)
    yield "too many headers", 431, head(site, **{f"x_{number}": "y" for number in range(150)})
    deep = b'{"model":"m","messages":' + b"[" * 1_000_000
    yield "open brackets", 400, whole(site, deep)
    yield "deep nesting", 400, whole(site, deep + b"]" * 1_000_000 + b"}")
    nested = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"x":' + b"[" * 65 + b"]" * 65 + b"}"
    yield "nesting a little too deep", 400, whole(site, nested)
    yield "a million messages", 400, whole(site, b'{"model":"m","messages":[' + b"{}," * 999_999 + b"{}]}")
    message = b'{"role":"user","content":""}'
    many = b'{"model":"m","messages":[' + (message + b",") * 350_000 + message + b"]}"
    yield "many good messages", 400, whole(site, many)


def test_too_much_of_anything_is_refused_at_once_and_unread() -> None:
    """F10."""
    never = Silent()

    async def test() -> None:
        async with Site(never) as site:
            await ask(site, head(site, content_length="11000000"))
            for name, status, data in too_much(site):
                found, error, seconds = await ask(site, data)
                assert found == status, (name, error)
                assert seconds < 0.5, name
            assert await site.usage() == []
        assert never.requests == 0

    run(test())


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "zstd", "gzip, identity", "x"])
def test_compressed_requests_are_refused_unread(coding: str) -> None:
    """F11: nothing is decompressed, so that nothing can swell. Not a byte of the body has been sent here."""

    async def test() -> None:
        async with Site(Silent()) as site:
            status, error, seconds = await ask(site, head(site, content_length="1000", content_encoding=coding))
            assert (status, error["code"]) == (415, "unsupported_media_type")
            assert seconds < 0.5

    run(test())


# --- F12: cost burning --------------------------------------------------------------------------------------------


def test_every_cut_pays_for_its_prompt_and_too_many_are_stopped() -> None:
    """F12."""

    async def test() -> None:
        upstream = Silent()
        async with Site(upstream, credit_usd="10") as site:
            for number in range(21):
                upstream.asked.clear()
                call = await site.open(PATH, chat(LONG_PROMPT, stream=True))
                await soon(upstream.asked)
                call.reset()
                rows = await site.settled(number + 1)
                assert rows[-1]["charge"] == rows[-1]["input"] * INPUT_NANO >= 10_000 * INPUT_NANO
            for text in (LONG_PROMPT, "hi"):
                reply = await site.post(PATH, chat(text))
                assert reply.status == 429
                assert reply.json["error"]["code"] == "abuse_cooldown"
                assert 0 < int(reply.headers["retry-after"]) <= 600
            assert len(await site.usage()) == 21
            assert upstream.requests == 21
            other = await accounts.create(site.database, "other@example.com", plans=site.settings.plans, actor="test")
            site.account = other
            await site.grant("1")
            upstream.asked.clear()
            call = await site.open(PATH, chat(stream=True), {"authorization": f"Bearer {await site.make_key()}"})
            await soon(upstream.asked)
            call.reset()
            await site.settled(22)

    run(test())


@pytest.mark.soak
def test_a_thousand_cuts_of_fifty_accounts_are_all_paid() -> None:
    """F12: Σ charged ≥ Σ of what a provider asks for the prompts, and the twenty-second of each account is refused."""

    async def test() -> None:
        upstream = Silent()
        async with Site(upstream, credit_usd="0") as site:
            for number in range(50):
                mail = f"burner{number}@example.com"
                site.account = await accounts.create(site.database, mail, plans=site.settings.plans, actor="test")
                await site.grant("1")
                own = {"authorization": f"Bearer {await site.make_key()}"}
                for cut in range(21):
                    upstream.asked.clear()
                    call = await site.open(PATH, chat(LONG_PROMPT, stream=True, max_tokens=9), own)
                    await asyncio.wait_for(upstream.asked.wait(), 20)
                    call.reset()
                    await site.settled(number * 21 + cut + 1, seconds=20)
                refused = await site.post(PATH, chat(LONG_PROMPT, max_tokens=9), own)
                assert (refused.status, refused.json["error"]["code"]) == (429, "abuse_cooldown")
            rows = await site.usage()
            assert len(rows) == upstream.requests == 50 * 21
            # A word of it is a token.
            assert sum(row["charge"] for row in rows) >= 50 * 21 * 10_500 * INPUT_NANO

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


# --- leaving in each phase ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.99])
def test_leaving_before_the_request_is_whole_leaves_nothing_behind(streamed: bool, share: float) -> None:
    async def test() -> None:
        upstream = Silent()
        async with Site(upstream) as site:
            data = whole(site, json.dumps(chat(stream=streamed)).encode())
            for part in (data[: data.index(b"\r\n\r\n") - 5], data[: int(len(data) * share)]):
                call = Call(*await asyncio.open_connection("127.0.0.1", site.port))
                call.writer.write(part)
                await asyncio.sleep(0.05)
                call.reset()
            await asyncio.sleep(0.05)
            assert await site.usage() == []
            assert upstream.requests == 0
            assert len(site._server.server_state.connections) == 0

    run(test())


@pytest.mark.parametrize("streamed", [True, False])
def test_leaving_while_the_hold_is_written_sends_nothing_and_costs_nothing(streamed: bool) -> None:
    async def test() -> None:
        upstream = Silent()
        async with Site(upstream) as site:
            with await lock_books(site):
                call = await site.open(PATH, chat(stream=streamed))
                await asyncio.sleep(0.1)
                call.reset()
                await asyncio.sleep(0.05)
            [row] = await site.settled(1)
            assert (row["charge"], row["cost"], row["outcome"]) == (0, 0, Outcome.CLIENT_LEFT)
            assert upstream.requests == 0
            assert await site.balance() == 10**9

    run(test())


@contextlib.contextmanager
def full_listener() -> Iterator[int]:
    """The port of a server whose backlog is full: connecting to it hangs."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield listener.getsockname()[1]


HUNG = """
[providers.hung]
base_url = "http://127.0.0.1:{port}/v1"
cancel_stops_billing = {stops}
[[models]]
id = "hung"
price = {{ input = "1", output = "2" }}
routes = [{{ provider = "hung", model = "h" }}]
"""


@pytest.mark.parametrize("stops", ["true", "false"])
def test_leaving_while_the_provider_is_connected_to_costs_nothing(stops: str) -> None:
    """The provider never saw the prompt: there is nothing to drain and nothing to pay."""

    async def test() -> None:
        with full_listener() as port:
            async with Site(Silent(), config=HUNG.format(port=port, stops=stops)) as site:
                call = await site.open(PATH, {**chat(stream=True), "model": "hung"})
                await asyncio.sleep(0.15)
                assert await site.usage() == []
                call.reset()
                [row] = await site.settled(1, seconds=3)
                assert (row["charge"], row["cost"], row["outcome"]) == (0, 0, Outcome.CLIENT_LEFT)

    run(test())


def failing_at(event: asyncio.Event, count: Callable[[], Any]) -> Callable[[Peer], Any]:
    """A provider that fails once `event` is set."""

    async def answer(request: Request, peer: Peer) -> None:
        count()
        await event.wait()
        await says({"error": {"message": "down"}}, 503)(request, peer)

    return always(answer)


@pytest.mark.parametrize("others", [True, False])
def test_nothing_is_tried_again_for_a_caller_who_has_left(others: bool) -> None:
    """The provider bills anyway, so its answer is waited for; it fails, and nobody is left to try another for."""

    async def test() -> None:
        fail, asked = asyncio.Event(), []
        second = Silent()
        script = failing_at(fail, lambda: asked.append(1))
        async with Site(script, cancel_stops_billing=False, others={"second": second} if others else None) as site:
            call = await site.open(PATH, chat(stream=True))
            while not asked:  # noqa: ASYNC110 - it is only a few milliseconds
                await asyncio.sleep(0.005)
            call.reset()
            await asyncio.sleep(0.05)
            fail.set()
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"]) == (0, Outcome.CLIENT_LEFT)
            assert len(asked) == 1
            assert second.requests == 0

    run(test())


def test_an_error_of_ours_is_in_the_log_even_if_the_caller_has_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        fail, asked = asyncio.Event(), asyncio.Event()
        async with Site(failing_at(fail, asked.set), cancel_stops_billing=False) as site:
            monkeypatch.setattr(retry, "decide", lambda *_, **__: 1 // 0)
            call = await site.open(PATH, chat(stream=True))
            await soon(asked)
            call.reset()
            await asyncio.sleep(0.05)
            fail.set()
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"]) == (0, Outcome.CLIENT_LEFT)
        [record] = [record for record in caplog.records if record.exc_info is not None]
        assert "ZeroDivisionError" in caplog.text
        [line] = [line for line in map(json.loads, b"".join(site.log).splitlines()) if line.get("status") == 499]
        assert record.getMessage() == f"request {line['request_id']} failed"

    run(test())


def test_leaving_while_a_second_provider_is_at_work_cuts_it_and_pays_its_prompt() -> None:
    async def test() -> None:
        second = Silent()
        async with Site(always(says({"error": {"message": "down"}}, 503)), others={"second": second}) as site:
            call = await site.open(PATH, chat("word " * 200, stream=True))
            await soon(second.asked)
            call.reset()
            [row] = await site.settled(1)
            await soon(second.left)
            assert row["outcome"] == Outcome.CLIENT_LEFT
            assert row["charge"] == row["input"] * INPUT_NANO > 150 * INPUT_NANO

    run(test())


def test_leaving_during_the_pause_before_another_try_costs_nothing() -> None:
    """The one attempt that there was failed."""

    async def test() -> None:
        failed = asyncio.Event()

        async def answer(request: Request, peer: Peer) -> None:
            await says({"error": {"message": "down"}}, 503)(request, peer)
            failed.set()

        async with Site(always(answer)) as site:
            call = await site.open(PATH, chat(stream=True))
            await soon(failed)
            await asyncio.sleep(0.02)
            call.reset()
            [row] = await site.settled(1)
            assert row["charge"] == 0

    run(test())
