"""Limits on the way of a request, seen from outside: rows D2, D4 and D6 to D9 and D12."""

import asyncio
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from tests.gateway.site import Call, Site, always, by_kind, chat, completion, run, says, stream, streams, used
from tests.servers import Valkey
from tests.upstream.bad_server import Peer, Request

from tollbridge.core.plans import DEFAULT_PLAN
from tollbridge.limits.memory import MemoryLimiter

OK = always(says(completion()))
CHAT = "/v1/chat/completions"
DURATION = re.compile(r"(\d+h)?(\d+m)?\d+(\.\d+)?m?s")


def plan(**limits: Any) -> str:
    lines = "".join(f"{name} = {str(value).lower()}\n" for name, value in limits.items())
    return f"[plans.{DEFAULT_PLAN}]\n{lines}"


class Gate:
    """An upstream that keeps all its answers back until it is opened."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked = 0

    async def answer(self, request: Request, peer: Peer) -> None:
        self.asked += 1
        await self.open.wait()
        await says(completion())(request, peer)


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


async def _let_in(site: Site, gate: Gate, count: int, **fields: Any) -> tuple[int, set[str]]:
    """How many of `count` calls at one time have reached the upstream once the others were refused, and why those."""
    calls = [asyncio.create_task(site.post(CHAT, chat(**fields))) for _ in range(count)]
    before = gate.asked
    while sum(call.done() for call in calls) + gate.asked - before < count:  # noqa: ASYNC110 - of two kinds
        await asyncio.sleep(0.005)
    refused = {call.result().json["error"]["type"] for call in calls if call.done()}
    let_in = gate.asked - before
    gate.open.set()
    replies = await asyncio.gather(*calls)
    gate.open.clear()
    assert sorted(reply.status for reply in replies) == [200] * let_in + [429] * (count - let_in)
    return let_in, refused


def test_of_two_hundred_at_once_as_many_run_as_may() -> None:
    """D12."""

    async def test() -> None:
        gate = Gate()
        async with Site(always(gate.answer), config=plan(concurrency=7)) as site:
            for _ in range(2):
                assert await _let_in(site, gate, 100) == (7, {"concurrency"})

    run(test())


def test_tokens_of_two_hundred_large_requests_at_once_are_reserved_and_reconciled() -> None:
    """D2: what they may use counts when they come, what they used afterwards."""

    async def test() -> None:
        gate = Gate()
        async with Site(always(gate.answer), config=plan(tpm=10_200, strict=True)) as site:
            first, why = await _let_in(site, gate, 200, max_tokens=985)
            assert (first, why) == (10, {"tokens"})
            await site.settled(10)
            # Each used 15 tokens.
            second, why = await _let_in(site, gate, 20, max_tokens=985)
            assert second in (9, 10)
            assert why == {"tokens"}

    run(test())


def test_input_that_can_never_fit_is_told_so_and_not_sent_again() -> None:
    """D6."""

    async def test() -> None:
        async with Site(OK, config=plan(tpm=1_000)) as site:
            reply = await site.post(CHAT, chat("word " * 3_000))
            assert (reply.status, reply.json["error"]["type"]) == (429, "tokens")
            assert reply.headers["x-should-retry"] == "false"
            assert "retry-after" not in reply.headers
            assert "1,000 tokens per minute" in reply.json["error"]["message"]
            slept: list[float] = []
            with pytest.raises(openai.RateLimitError):
                await _sdk(site, lambda client: _ask(client, "word " * 3_000), slept.append)
            assert slept == []

    run(test())


def test_what_a_model_drew_counts_towards_a_token_limit() -> None:
    async def test() -> None:
        drawn = {**used(10, 900), "completion_tokens_details": {"image_tokens": 900}}
        async with Site(always(says(completion(usage=drawn))), config=plan(tpm=1_000, strict=True)) as site:
            assert (await site.post(CHAT, chat(max_tokens=500))).status == 200
            await site.settled(1)
            assert (await site.post(CHAT, chat(max_tokens=500))).status == 429

    run(test())


def test_an_answer_without_a_limit_is_expected_to_be_as_long_as_those_before() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        if asked.is_set():
            await go_on.wait()
        asked.set()
        await says(completion(usage=(10, 400)))(request, peer)

    async def test() -> None:
        async with Site(always(answer), config="[plans.default]\ntpm = 10000\nstrict = true\n") as site:

            async def left() -> int:
                return int((await site.get("/v1/key")).json["data"]["limits"]["tokens"]["remaining"])

            assert (await site.post("/v1/chat/completions", chat())).status == 200
            assert await left() == 10_000 - 410
            running = asyncio.create_task(site.post("/v1/chat/completions", chat()))
            while len(await site.database.fetch("SELECT 1 FROM hold")) == 0:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            # The prompt is few tokens.
            assert 10_000 - 410 - 450 < await left() < 10_000 - 410 - 400
            go_on.set()
            assert (await running).status == 200
            assert await left() == 10_000 - 820

    run(test())


def test_what_credit_refuses_was_a_request_and_used_no_tokens() -> None:
    """An account without credit has a limit too: each call of it asks the ledger."""

    async def test() -> None:
        config = plan(rpm=2, tpm=1_000, concurrency=1, strict=True)
        async with Site(OK, config=config, credit_usd="0.0001") as site:
            for _ in range(2):
                reply = await site.post(CHAT, chat(max_tokens=600))
                assert (reply.status, reply.json["error"]["code"]) == (402, "insufficient_credits")
            reply = await site.post(CHAT, chat(max_tokens=600))
            assert (reply.status, reply.json["error"]["type"]) == (429, "requests")

    run(test())


def test_what_is_refused_before_the_limits_is_not_counted() -> None:
    async def test() -> None:
        async with Site(OK, config=plan(rpm=1, strict=True)) as site:
            assert (await site.post(CHAT, chat(model="no-such-model"))).status == 404
            assert (await site.post(CHAT, chat(max_tokens=0))).status == 400
            assert (await site.post(CHAT, chat())).status == 200
            assert (await site.post(CHAT, chat())).status == 429

    run(test())


def test_many_keys_of_an_account_gain_nothing() -> None:
    """D9."""

    async def test() -> None:
        async with Site(OK, config=plan(rpm=30, strict=True)) as site:
            keys = [await site.make_key() for _ in range(20)]
            calls = [site.post(CHAT, chat(), {"authorization": f"Bearer {key}"}) for key in keys * 3]
            statuses = [reply.status for reply in await asyncio.gather(*calls)]
            assert (statuses.count(200), statuses.count(429)) == (30, 30)

    run(test())


@pytest.mark.parametrize("shared", [False, True])
def test_five_hundred_cut_requests_leave_no_place_and_no_tokens_behind(shared: bool, request: Any) -> None:
    """D7: before the answer, in its midst, at its end, cleanly or by a reset."""

    async def test() -> None:
        chance = random.Random(7)
        config = plan(concurrency=25, tpm=1_000_000)
        if shared:
            config = f'redis_url = "{request.getfixturevalue("valkey").url()}"\n' + config
        gate = Gate()
        upstream = by_kind(gate.answer, streams(stream(["word "] * 10), pause=0.001))
        async with Site(always(upstream), config=config) as site:

            async def cut() -> None:
                call = await site.open(CHAT, chat(stream=True, max_tokens=1_000))
                await asyncio.sleep(chance.choice([0, chance.uniform(0, 0.02)]))
                if chance.random() < 0.5:
                    await call.head()
                    await call.reader.read(chance.randint(1, 2_000))
                _end(call, chance)

            for _ in range(20):
                await asyncio.gather(*(cut() for _ in range(25)))
            deadline = time.monotonic() + 30
            # Nearly at once: when the gateway has seen that the last client left.
            while await _let_in(site, gate, 26) != (25, {"concurrency"}):
                assert time.monotonic() < deadline
            limits = (await site.get("/v1/key")).json["data"]["limits"]
            # Each of them used less than 100 of the thousand that it reserved.
            assert limits["tokens"]["remaining"] > 1_000_000 - 600 * 100

    run(test())


def _end(call: Call, chance: random.Random) -> None:
    if chance.random() < 0.5:
        call.reset()
    else:
        call.close()


@pytest.mark.parametrize(
    "limits", [{"rpm": 5, "strict": True}, {"rpm": 40}, {"tpm": 160, "strict": True}, {"tpm": 200}]
)
def test_the_official_client_waits_as_long_as_it_is_told_and_is_let_in_the_first_time(limits: dict[str, Any]) -> None:
    """D8, fifty refusals of each kind: the client's sleep is the limits' clock."""

    async def test() -> None:
        now = time.monotonic()
        slept: list[float] = []

        def sleep(seconds: float) -> None:
            nonlocal now
            slept.append(seconds)
            now += seconds

        def use(client: openai.OpenAI) -> None:
            while len(slept) < 50:
                before = len(slept)
                answer = client.chat.completions.with_raw_response.create(
                    model="m", messages=[{"role": "user", "content": "hi"}], max_tokens=90
                )
                assert len(slept) - before <= 1, slept[before:]
                _check_headers(answer.headers, limits)

        async with Site(OK, config=plan(**limits)) as site:
            limiter = site.gateway._limiter
            assert isinstance(limiter, MemoryLimiter)
            limiter._clock = lambda: now
            await _sdk(site, use, sleep)
            assert len(slept) == 50

    run(test())


def _check_headers(headers: Any, limits: dict[str, Any]) -> None:
    kind, limit = ("requests", limits["rpm"]) if "rpm" in limits else ("tokens", limits["tpm"])
    assert int(headers[f"x-ratelimit-limit-{kind}"]) == limit
    assert 0 <= int(headers[f"x-ratelimit-remaining-{kind}"]) < limit
    assert DURATION.fullmatch(headers[f"x-ratelimit-reset-{kind}"])


def _ask(client: openai.OpenAI, text: str) -> Any:
    return client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])


async def _sdk(site: Site, use: Callable[[openai.OpenAI], Any], sleep: Callable[[float], None]) -> Any:
    """Run `use` with the official client, which sleeps as it is told to."""

    def call() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("openai._base_client.time.sleep", sleep)
            with openai.OpenAI(base_url=f"http://127.0.0.1:{site.port}/v1", api_key=site.key) as client:
                return use(client)

    return await asyncio.get_running_loop().run_in_executor(None, call)


@pytest.mark.parametrize("trouble", ["killed", "hung"])
def test_without_the_limits_server_calls_go_on_within_their_share(valkey: Valkey, trouble: str) -> None:
    """D4: no error, hardly a wait, and the answers say so; afterwards all is as before."""

    async def test() -> None:
        config = f'redis_url = "{valkey.url()}"\n' + plan(rpm=20, strict=True)
        async with Site(OK, config=config) as site:
            before = [await site.post(CHAT, chat()) for _ in range(5)]
            assert all("x-ratelimit-mode" not in reply.headers for reply in before)
            if trouble == "killed":
                valkey.kill()
            else:
                valkey.suspend()
            waits, during = [], []
            for _ in range(20):
                started = time.monotonic()
                during.append(await site.post(CHAT, chat()))
                waits.append(time.monotonic() - started)
            assert [reply.status for reply in during] == [200] * 15 + [429] * 5
            assert {reply.headers["x-ratelimit-mode"] for reply in during} == {"degraded"}
            assert sorted(waits)[10] < 0.05  # tests/limits measures the slowest
            if trouble == "killed":
                valkey.start()
            else:
                valkey.resume()
            deadline = time.monotonic() + 30
            while site.gateway._limiter.degraded:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            after = await site.post(CHAT, chat())
            assert "x-ratelimit-mode" not in after.headers

    run(test())
