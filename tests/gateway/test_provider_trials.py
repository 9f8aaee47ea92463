"""Each fault of a provider as often as its row says, with a provider of its own for each trial, so that no breaker that
one has opened is met by the next. What callers see and what stands in the books is judged one by one.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, NamedTuple

import pytest
import uvloop
from tests.gateway.site import (
    DONE,
    INPUT_NANO,
    OUTPUT_NANO,
    STREAM_HEAD,
    Json,
    Reply,
    Site,
    always,
    chat,
    chunk,
    completion,
    event,
    framed,
    says,
    stream,
    streams,
    usage_chunk,
)
from tests.upstream.bad_server import BadServer, Peer, Request

Answer = Callable[[Request, Peer], Coroutine[Any, Any, None]]
# What is wrong about a trial, or nothing. The row is None where nothing was held.
Judge = Callable[[Reply, Json | None], bool]

PATH = "/v1/chat/completions"
PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO
SECRET = "sk-proj-abcdef1234567890abcdef"
ERROR = {"error": {"message": f"Your key {SECRET} is bad. See https://internal.example/x", "type": "server_error"}}
AT_ONCE = 16
MODELS_AT_ONCE = 250

MODEL = """
[providers.t{number}]
base_url = "{url}/t{number}/v1"
cancel_stops_billing = true
timeout = "10s"

[[models]]
id = "t{number}"
context_window = 100000
output_limit = 4096
price = {{ input = "1", output = "2", cache_read = "0.1" }}
routes = [{{ provider = "t{number}", model = "m" }}]
"""


class Trial(NamedTuple):
    row: str
    answer: Answer
    right: Judge
    streamed: bool = False


def free(*statuses: int) -> Judge:
    return lambda reply, row: reply.status in statuses and (row is None or row["charge"] == 0)


def paid(reply: Reply, row: Json | None) -> bool:
    return reply.status == 200 and row is not None and row["charge"] == PRICE


def broken_off(reply: Reply, row: Json | None) -> bool:
    """Free, and seen to have failed."""
    if reply.status != 200:
        return free(502)(reply, row)
    return (
        reply.chunks[-1]["choices"][0]["finish_reason"] == "error"
        and b"[DONE]" not in reply.body
        and free(200)(reply, row)
    )


def counted_here(reply: Reply, row: Json | None) -> bool:
    return reply.status == 200 and row is not None and 0 < row["charge"] <= row["held"] and bool(row["flags"])


async def gone(request: Request, peer: Peer) -> None:
    await peer.reset()
    await peer.request()


def cut(size: int) -> Answer:
    whole = b"".join(framed(each) for each in stream(["word "] * 20)[:-2])

    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + whole[: size % (len(whole) - 200)])
        await asyncio.sleep(0.01)
        await peer.reset()
        await peer.request()

    return answer


def all_headers(reply: Reply, row: Json | None) -> bool:
    return paid(reply, row) and not {"set-cookie", "x-evil", "location", "openai-organization"} & reply.headers.keys()


RETRY_AFTER = ("7", "0", "1000000000", "soon", "-1", "Wed, 21 Oct 2099 07:28:00 GMT", "1e3", "", "NaN")
ABSURD: tuple[Any, ...] = (-1, 10**12, "5", True, 1.5, [], {}, 2**70)
SENSELESS = (b"<html>Busy</html>", b"[]", b"null", b"", b'{"choices":"none"}', b'{"choices":[]}', b"\xff", b'"x"', b"{")
EVIL = ("Set-Cookie", "X-Evil", "Location", "OpenAI-Organization")


def limited(reply: Reply, row: Json | None) -> bool:
    return free(429)(reply, row) and 1 <= int(reply.headers["retry-after"]) <= 60


Often = Callable[[int], range]


def refusals(chance: random.Random, often: Often) -> Iterator[Trial]:
    for _ in often(100):
        yield Trial("E1", gone, free(502), chance.random() < 0.5)
    for _ in often(200):
        yield Trial("E3", says(ERROR, 429, {"Retry-After": chance.choice(RETRY_AFTER)}), limited, chance.random() < 0.5)
    for _ in often(300):
        yield Trial("E4", says(ERROR, chance.choice([500, 502, 503, 529])), free(502), chance.random() < 0.5)
    for _ in often(50):
        yield Trial("E5", says(ERROR, chance.choice([401, 403])), free(502), chance.random() < 0.5)
    for _ in often(50):
        yield Trial("E6", says(ERROR, chance.choice([400, 404, 413, 422])), free(400, 404, 413), chance.random() < 0.5)


def broken_streams(chance: random.Random, often: Often) -> Iterator[Trial]:
    words = [chunk("Hel"), chunk("lo"), chunk("!")]
    for _ in often(2_000):
        yield Trial("E7", cut(chance.randrange(10**6)), broken_off, streamed=True)
    for _ in often(200):
        yield Trial("E8", streams([*words[: chance.randrange(4)], event(ERROR)]), broken_off, streamed=True)
    for number in often(200):
        tail = [chunk(finish="stop"), *([usage_chunk(10, 5)] if number % 2 else [])]
        yield Trial("E9", streams([*words, *tail]), paid if number % 2 else counted_here, streamed=True)
    for _ in often(200):
        before = [usage_chunk(10, chance.randrange(5)) for _ in range(chance.randrange(3))]
        twice = [usage_chunk(10, 5)] * chance.randrange(1, 4)
        late = [usage_chunk(10, 5)] if chance.random() < 0.5 else []
        yield Trial("E10", streams([*words, *before, chunk(finish="stop"), *twice, DONE, *late]), paid, streamed=True)


def odd_answers(chance: random.Random, often: Often) -> Iterator[Trial]:
    for _ in often(20):
        yield Trial("E11", says(completion(usage=(0, 0))), free(200))
    for _ in often(200):
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
        usage[chance.choice(["prompt_tokens", "completion_tokens"])] = chance.choice(ABSURD)
        yield Trial("E12", says(completion(usage=usage)), counted_here)
    for _ in often(20):
        bomb = says(b"\x1f\x8b" + bytes(1000), 200, {"Content-Encoding": chance.choice(["gzip", "br", "zstd"])})
        yield Trial("E16", bomb, free(502))
    for _ in often(300):
        headers = {name: f"x{chance.randrange(99)}" for name in chance.sample(EVIL, 3)}
        yield Trial("E17", says(completion(), 200, headers), all_headers)
    for _ in often(30):
        away = {
            "Location": chance.choice(["http://127.0.0.1:1/", "//169.254.169.254/latest", "/x", "file:///etc/passwd"])
        }
        yield Trial("E18", says(b"", chance.choice([301, 302, 303, 307, 308]), away), free(502))
    for _ in often(50):
        yield Trial("E19", says(chance.choice(SENSELESS)), free(502), chance.random() < 0.5)


async def judge(wanted: list[Trial]) -> list[str]:
    """The rows of those whose end was not right."""
    wrong = []

    async def answer(request: Request, peer: Peer) -> None:
        number = int(request.target.split(b"/")[1].removeprefix(b"t"))
        await wanted[number].answer(request, peer)

    async with BadServer(always(answer)) as server:
        config = "".join(MODEL.format(number=number, url=server.url) for number in range(len(wanted)))
        async with Site(always(says(completion())), credit_usd="1000", config=config) as site:
            room = asyncio.Semaphore(AT_ONCE)
            replies: list[Reply] = []

            async def ask(number: int, trial: Trial) -> Reply:
                body = {**chat(stream=trial.streamed, max_tokens=200), "model": f"t{number}"}
                async with room:
                    # A machine that has others to serve may make the gateway shed some: they are none of the trials.
                    while (reply := await site.post(PATH, body)).status == 503 and b'"overloaded"' in reply.body:  # noqa: ASYNC110
                        await asyncio.sleep(0.3)
                return reply

            replies = await asyncio.gather(*(ask(number, trial) for number, trial in enumerate(wanted)))
            rows = {row["hold_id"]: row for row in await site.settled(len(wanted), seconds=30)}
            ids = site._master.ids()
            for trial, reply in zip(wanted, replies, strict=True):
                hold = ids.decode(reply.headers["x-tollbridge-generation-id"])
                secret = SECRET.encode() in reply.body or b"internal.example" in reply.body
                if secret or not trial.right(reply, rows.get(hold) if hold is not None else None):
                    wrong.append(f"{trial.row}: {reply.status} {reply.body[-300:]!r} {rows.get(hold or 0)}")
    return wrong


@pytest.mark.parametrize("times", [0.02, pytest.param(1.0, marks=pytest.mark.soak)])
def test_every_fault_of_a_provider_ends_as_it_must(times: float) -> None:
    """E1 to E19, with the numbers of a long run, or one in fifty of them."""
    chance = random.Random(19)

    def often(count: int) -> range:
        return range(max(1, round(count * times)))

    wanted = [trial for kind in (refusals, broken_streams, odd_answers) for trial in kind(chance, often)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        for start in range(0, len(wanted), MODELS_AT_ONCE):
            assert runner.run(judge(wanted[start : start + MODELS_AT_ONCE])) == []
