"""The table "What is charged" of docs/billing.md, end to end: one test a row, asserted on the books."""

import asyncio
import json
from typing import Any

import pytest
from tests.gateway.site import (
    DONE,
    INPUT_NANO,
    OUTPUT_NANO,
    STREAM_HEAD,
    Reply,
    Site,
    always,
    by_kind,
    chat,
    chunk,
    completion,
    event,
    framed,
    http,
    run,
    says,
    stream,
    streams,
    usage_chunk,
    used,
)
from tests.upstream.bad_server import Peer, Request

from tollbridge.core.tokens import PER_DRAWN
from tollbridge.gateway import settlement
from tollbridge.store.keys import Rules
from tollbridge.values import Outcome

PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO


def holding(*events: bytes, seconds: float = 30.0) -> Any:
    """Streams `events` and then says nothing for long."""

    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + b"".join(framed(each) for each in events))
        await asyncio.sleep(seconds)

    return answer


def breaking(*events: bytes) -> Any:
    """Streams `events` and resets the connection."""

    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + b"".join(framed(each) for each in events))
        await asyncio.sleep(0.05)
        await peer.reset()
        await peer.request()

    return answer


def test_finished_with_usage_is_charged_as_reported() -> None:
    async def test() -> None:
        async with Site(always(streams(stream()))) as site:
            await site.post("/v1/chat/completions", chat(stream=True))
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"], row["flags"] & 6) == (PRICE, Outcome.COMPLETED, 0)

    run(test())


def test_finished_without_usage_is_counted_here() -> None:
    async def test() -> None:
        async with Site(always(streams(stream(["word "] * 100, usage=None)))) as site:
            await site.post("/v1/chat/completions", chat(stream=True))
            [row] = await site.settled(1)
            assert 90 <= row["output"] <= 135
            assert row["charge"] == row["input"] * INPUT_NANO + row["output"] * OUTPUT_NANO
            assert row["flags"] & 2

    run(test())


@pytest.mark.parametrize("streamed", [False, True])
def test_a_prompt_that_is_counted_here_costs_what_count_tokens_says(streamed: bool) -> None:
    messages = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Hi."}] * 20
    said = streams(stream(usage=None)) if streamed else says(completion(usage=None))

    async def test() -> None:
        async with Site(always(said)) as site:
            counted = await site.post("/v1/messages/count_tokens", {"model": "m", "messages": messages})
            tokens = counted.json["input_tokens"]
            assert 40 * 5 <= tokens <= 40 * 8
            await site.post("/v1/chat/completions", chat(messages=messages, stream=streamed))
            await site.post("/v1/responses", {"model": "m", "input": "Hello!", "stream": streamed})
            first, second = await site.settled(2)
            assert (first["input"], first["flags"] & 2) == (tokens, 2)
            assert 8 <= second["input"] <= 11

    run(test())


def test_caller_who_left_pays_for_what_was_produced_when_the_provider_stops() -> None:
    gone = asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + framed(chunk("Hello there, this is some output. ")))
        await peer.closed()
        gone.set()

    async def test() -> None:
        async with Site(always(answer)) as site:
            call = await site.open("/v1/chat/completions", chat(stream=True))
            await call.head()
            await anext(call.pieces())
            call.reset()
            [row] = await site.settled(1)
            assert row["outcome"] == Outcome.CLIENT_LEFT
            assert row["output"] > 0
            assert row["charge"] == row["input"] * INPUT_NANO + row["output"] * OUTPUT_NANO
            await asyncio.wait_for(gone.wait(), 30)

    run(test())


def test_who_always_leaves_before_the_thoughts_are_counted_pays_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reasoning model's text can be had whole, and left just before the usage that tells of its thoughts."""
    monkeypatch.setattr(settlement, "USUAL_START_MS", 0)
    monkeypatch.setattr(settlement, "THOUGHT_PER_S", 40_000)

    async def answer(request: Request, peer: Peer) -> None:
        await asyncio.sleep(0.1)  # it thinks
        await peer.send(STREAM_HEAD + framed(chunk("The answer.")))
        await asyncio.sleep(0.3)
        await peer.send(b"".join(framed(each) for each in (chunk(finish="stop"), usage_chunk(10, 3_000), DONE)))
        await peer.send(b"0\r\n\r\n")

    async def test() -> None:
        # 0.1 s of thoughts are about 4,000 tokens: 0.008 USD.
        async with Site(always(answer), config='[billing]\nfree_loss_per_day_usd = "0.02"\n') as site:
            for number in range(6):
                call = await site.open("/v1/chat/completions", chat(stream=True))
                await call.head()
                await anext(call.pieces())
                call.reset()
                await site.settled(number + 1)
            rows = await site.settled(6)
            assert {row["outcome"] for row in rows} == {Outcome.CLIENT_LEFT}
            written = [row["output"] for row in rows]
            given = written.index(3_000)
            assert 1 <= given <= 2
            assert max(written[:given]) < 10
            assert written[given:] == [3_000] * (6 - given)

    run(test())


def test_answers_that_are_too_large_because_much_was_asked_for_are_no_providers_fault() -> None:
    """Otherwise anybody could have a provider asked again and again, and left alone for everybody, at no cost."""
    asked: list[str] = []

    def answers(name: str) -> Any:
        async def answer(request: Request, peer: Peer) -> None:
            asked.append(name)
            body = json.loads(request.body)
            much = body.get("logprobs") or "input" in body
            await peer.send(http(200, completion(logprobs="x" * (41 << 20) if much else "")))

        return always(answer)

    async def test() -> None:
        async with Site(answers("up"), others={"other": answers("other")}) as site:
            for _ in range(3):
                reply = await site.post("/v1/chat/completions", chat(logprobs=True, top_logprobs=20, n=8))
                assert (reply.status, reply.json["error"]["code"]) == (400, "answer_too_large")
            for _ in range(3):
                reply = await site.post("/v1/embeddings", {"model": "e", "input": ["hi"] * 100})
                assert (reply.status, reply.json["error"]["code"]) == (400, "answer_too_large")
            assert (await site.post("/v1/chat/completions", chat())).status == 200
            assert asked == ["up"] * 7
            assert [row["charge"] for row in await site.settled(7)] == [0] * 6 + [PRICE]

    run(test())


SPOKEN = "A" * 64_000  # 20 tokens


@pytest.mark.parametrize(
    ("delta", "tokens"),
    [
        ({"tool_calls": [{"index": 0, "custom": {"name": "write", "input": "word " * 100}}]}, 100),
        ({"audio": {"id": "a", "data": SPOKEN}}, 20),
        ({"audio": {"id": "a", "transcript": "word " * 100}}, 100),
    ],
)
def test_caller_who_left_pays_for_text_of_tools_and_for_sound_too(delta: Any, tokens: int) -> None:
    said = chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])

    async def test() -> None:
        async with Site(always(holding(said))) as site:
            call = await site.open("/v1/chat/completions", chat(stream=True))
            await call.head()
            await call.reader.readuntil(b"\n\n")
            call.reset()
            [row] = await site.settled(1)
            assert row["outcome"] == Outcome.CLIENT_LEFT
            written = (row["charge"] - row["input"] * INPUT_NANO) / OUTPUT_NANO
            assert tokens * 0.8 < written < tokens * 1.5

    run(test())


def test_caller_who_left_before_the_first_token_pays_for_the_prompt() -> None:
    asked = asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        asked.set()
        await peer.closed()

    async def test() -> None:
        async with Site(always(answer)) as site:
            call = await site.open("/v1/chat/completions", chat("word " * 200, stream=True))
            await asyncio.wait_for(asked.wait(), 30)
            call.reset()
            [row] = await site.settled(1)
            assert row["outcome"] == Outcome.CLIENT_LEFT
            assert row["output"] == 0
            assert row["input"] > 150
            assert row["charge"] == row["input"] * INPUT_NANO

    run(test())


def test_caller_who_left_is_charged_the_real_usage_where_the_provider_bills_anyway() -> None:
    async def test() -> None:
        script = always(streams(stream(["a", "b", "c"]), pause=0.1))
        async with Site(script, cancel_stops_billing=False) as site:
            call = await site.open("/v1/chat/completions", chat(stream=True))
            await call.head()
            await anext(call.pieces())
            call.reset()
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"]) == (PRICE, Outcome.CLIENT_LEFT)
            assert not row["flags"] & 2

    run(test())


def test_caller_who_left_a_whole_answer_is_charged_as_used() -> None:
    asked, left = asyncio.Event(), asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        asked.set()
        await left.wait()
        await asyncio.sleep(0.1)
        await says(completion())(request, peer)

    async def test() -> None:
        async with Site(always(answer)) as site:
            call = await site.open("/v1/chat/completions", chat())
            await asyncio.wait_for(asked.wait(), 30)
            call.reset()
            left.set()
            [row] = await site.settled(1)
            assert row["charge"] == PRICE

    run(test())


@pytest.mark.parametrize("partial", [False, True])
def test_answer_that_the_provider_broke_off_costs_what_the_operator_says(partial: bool) -> None:
    config = f'[billing]\ncharge_on_upstream_error = "{"partial" if partial else "none"}"\n'

    async def test() -> None:
        async with Site(always(breaking(chunk("Some words. "), chunk("More words."))), config=config) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            assert reply.status == 200
            assert reply.text == "Some words. More words."
            assert "[DONE]" not in reply.events
            assert reply.chunks[-1]["choices"][0]["finish_reason"] == "error"
            assert reply.chunks[-1]["error"]["code"] == "upstream_unavailable"
            [row] = await site.settled(1)
            assert row["outcome"] == Outcome.UPSTREAM_DIED
            assert (row["charge"] > 0) is partial
            assert row["cost"] > 0

    run(test())


def test_free_answers_of_broken_providers_are_capped_by_account_and_day() -> None:
    config = '[billing]\nfree_loss_per_day_usd = "0.0001"\n[plans.default]\ntpm = 20000\nstrict = true\n'

    async def test() -> None:
        async with Site(always(breaking(chunk("word " * 30))), config=config) as site:
            left = []
            for number in range(3):
                await site.post("/v1/chat/completions", chat(stream=True))
                rows = await site.settled(number + 1)
                left.append((await site.get("/v1/key")).json["data"]["limits"]["tokens"]["remaining"])
            # What is charged counts towards the limits too.
            used = sum(rows[1][meter] for meter in ("input", "output"))
            assert left == [20_000, 20_000 - used, 20_000 - 2 * used]
            assert [row["charge"] > 0 for row in rows] == [False, True, True]
            # To read the configuration again begins no new day.
            await site.gateway.reload()
            await site.post("/v1/chat/completions", chat(stream=True))
            assert [row["charge"] > 0 for row in await site.settled(4)] == [False, True, True, True]

    run(test())


def test_error_of_the_provider_in_the_middle_is_never_counted_as_output() -> None:
    async def test() -> None:
        said = event({"error": {"message": "the secret is sk-12345 " * 50, "type": "server_error"}})
        config = '[billing]\ncharge_on_upstream_error = "partial"\n'
        async with Site(always(streams([chunk("Hi"), said])), config=config) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            assert b"sk-12345" not in reply.body
            [row] = await site.settled(1)
            assert row["output"] == 1

    run(test())


@pytest.mark.parametrize("status", [500, 502, 503, 529])
def test_failure_without_output_is_free(status: int) -> None:
    async def test() -> None:
        async with Site(always(says({"error": {"message": "no"}}, status))) as site:
            reply = await site.post("/v1/chat/completions", chat())
            assert reply.status == 502
            assert reply.json["error"]["code"] == "upstream_unavailable"
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"], row["status"]) == (0, Outcome.NO_OUTPUT, 502)
            # The log says as much, so that one request can be followed there.
            site.gateway._log.flush()
            [line] = [json.loads(each) for part in site.log for each in part.splitlines() if b'"path":"/v1/' in each]
            assert (line["status"], line["outcome"], line["code"]) == (502, "no_output", "upstream_unavailable")
            assert line["attempts"] == len(json.loads(row["attempts"])) > 0

    run(test())


@pytest.mark.parametrize("free_loss", ["1", "0"])
def test_empty_answer_without_a_finish_is_free(free_loss: str) -> None:
    """However much may be given away of answers that broke off."""
    config = f'[billing]\nfree_loss_per_day_usd = "{free_loss}"\n'

    async def test() -> None:
        async with Site(always(says(completion("", usage=(10, 0), finish=None))), config=config) as site:
            assert (await site.post("/v1/chat/completions", chat())).status == 200
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"]) == (0, Outcome.NO_OUTPUT)

    run(test())


PICTURE = "iVBORw0KGgo" * 5_000
IMAGES = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}]
GEMINI_PART = {"inlineData": {"mimeType": "image/png", "data": PICTURE}}


def _drawing(dialect: str, *, finish: bool = True) -> Any:
    """Answers with one picture, and reports no usage."""
    if dialect == "gemini":
        whole: Any = {"candidates": [{"content": {"parts": [GEMINI_PART]}, "finishReason": "STOP"}]}
        events = [event(whole)]
    else:
        whole = completion(usage=None)
        whole["choices"][0]["message"] = {"role": "assistant", "content": None, "images": IMAGES}
        drawn = chunk(choices=[{"index": 0, "delta": {"images": IMAGES}, "finish_reason": None}])
        events = [drawn, *([chunk(finish="stop"), DONE] if finish else [])]

    async def answer(request: Request, peer: Peer) -> None:
        is_stream = b":stream" in request.target or json.loads(request.body).get("stream")
        await (streams(events) if is_stream else says(whole))(request, peer)

    return always(answer)


@pytest.mark.parametrize("dialect", ["openai_chat", "gemini"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_picture_without_usage_is_charged_by_an_estimate(dialect: str, stream: bool) -> None:
    async def test() -> None:
        async with Site(_drawing(dialect), dialect=dialect) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=stream))
            assert PICTURE.encode() in reply.body
            [row] = await site.settled(1)
            assert row["charge"] == row["input"] * INPUT_NANO + PER_DRAWN * OUTPUT_NANO
            assert (row["outcome"], row["flags"] & 2) == (Outcome.COMPLETED, 2)

    run(test())


@pytest.mark.parametrize(("partial", "drawn"), [("none", 0), ("partial", PER_DRAWN)])
def test_a_picture_whose_provider_fails_after_it_is_output(partial: str, drawn: int) -> None:
    async def test() -> None:
        config = f'[billing]\ncharge_on_upstream_error = "{partial}"\n'
        async with Site(_drawing("openai_chat", finish=False), config=config) as site:
            await site.post("/v1/chat/completions", chat(stream=True))
            [row] = await site.settled(1)
            assert row["outcome"] == Outcome.UPSTREAM_DIED
            assert row["charge"] == (row["input"] * INPUT_NANO + drawn * OUTPUT_NANO if drawn else 0)

    run(test())


def test_reported_tokens_of_pictures_alone_are_output() -> None:
    """Even if the provider says nothing of how it finished."""

    async def test() -> None:
        usage = {**used(10, 50), "completion_tokens_details": {"image_tokens": 50}}
        async with Site(always(says(completion("", usage=usage, finish=None)))) as site:
            await site.post("/v1/chat/completions", chat())
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"]) == (10 * INPUT_NANO + 50 * OUTPUT_NANO, Outcome.COMPLETED)

    run(test())


def test_usage_of_zero_costs_nothing_in_a_stream_too() -> None:
    async def test() -> None:
        events = [chunk("Hi"), chunk(finish="stop"), usage_chunk(0, 0), DONE]
        async with Site(always(streams(events))) as site:
            await site.post("/v1/chat/completions", chat(stream=True))
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"]) == (0, Outcome.COMPLETED)

    run(test())


def test_what_goes_beyond_hold_and_balance_is_our_loss() -> None:
    async def test() -> None:
        # 0.003 USD holds about 1,470 tokens of answer; 4,000 are reported.
        async with Site(always(says(completion(usage=(10, 4000)))), credit_usd="0.003") as site:
            reply = await site.post("/v1/chat/completions", chat())
            assert reply.status == 200
            [row] = await site.settled(1)
            assert row["charge"] == 3_000_000
            assert row["loss"] == 10 * INPUT_NANO + 4000 * OUTPUT_NANO - 3_000_000
            assert await site.balance() == 0

    run(test())


def test_tokens_of_a_prediction_that_were_not_used_are_held_and_charged_as_written() -> None:
    """OpenAI charges all that is predicted as written, however little the answer may be."""
    predicted = {"type": "content", "content": "word " * 20_000}

    async def test() -> None:
        async with Site(always(says(completion(usage=(10, 20_010))))) as site:
            await site.post("/v1/chat/completions", chat(max_tokens=10, prediction=predicted))
            [row] = await site.settled(1)
            assert row["held"] >= row["charge"] == 10 * INPUT_NANO + 20_010 * OUTPUT_NANO

    run(test())


def test_answer_above_its_hold_is_paid_from_the_rest_of_the_balance() -> None:
    config = "[billing]\ndefault_hold_tokens = 100\n"

    async def test() -> None:
        async with Site(always(says(completion(usage=(10, 4000)))), config=config) as site:
            await site.post("/v1/chat/completions", chat())
            [row] = await site.settled(1)
            assert row["held"] < row["charge"] == 10 * INPUT_NANO + 4000 * OUTPUT_NANO
            assert row["loss"] == 0

    run(test())


@pytest.mark.parametrize("streamed", [False, True])
def test_answer_above_its_hold_costs_no_more_than_its_cap(streamed: bool) -> None:
    script = by_kind(says(completion(usage=(10, 4000))), streams(stream(usage=(10, 4000))))

    async def test() -> None:
        async with Site(always(script)) as site:
            cap = {"X-Tollbridge-Max-Cost-USD": "0.001"}
            reply = await site.post("/v1/chat/completions", chat(stream=streamed), cap)
            answers = reply.chunks if streamed else [reply.json]
            told = next(each["usage"] for each in answers if each.get("usage"))
            [row] = await site.settled(1)
            assert row["charge"] == round(told["cost"] * 1e9) == 1_000_000
            assert row["loss"] == 10 * INPUT_NANO + 4000 * OUTPUT_NANO - 1_000_000
            assert await site.balance() == 10**9 - 1_000_000

    run(test())


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("own", ["cap", "limit"])
def test_bounds_of_the_customers_own_are_no_way_to_pay_for_nothing_but_the_estimate(own: str, streamed: bool) -> None:
    script = by_kind(says(completion(usage=(50_000, 5))), streams(stream(usage=(50_000, 5))))
    config = '[billing]\nfree_loss_per_day_usd = "0.10"\n'

    async def test() -> None:
        async with Site(always(script), config=config) as site:

            async def call() -> Reply:
                if own == "limit":
                    site.key = await site.make_key(rules=Rules(limit=1_000_000))
                cap = {"X-Tollbridge-Max-Cost-USD": "0.001"} if own == "cap" else {}
                return await site.post("/v1/chat/completions", chat(max_tokens=10, stream=streamed), cap)

            # Each loses 0.049, and the third makes it more than what is given.
            for _ in range(3):
                assert (await call()).status == 200
            assert [row["charge"] for row in await site.settled(3)] == [1_000_000] * 3
            code = "cost_cap_exceeded" if own == "cap" else "key_limit_exceeded"
            assert (await call()).json["error"]["code"] == code
            # A reload of the configuration lets nobody off.
            await site.gateway.reload()
            assert (await call()).json["error"]["code"] == code
            # Whoever can pay for a full context window is served as before.
            site.key = await site.make_key()
            reply = await site.post("/v1/chat/completions", chat(max_tokens=10, stream=streamed))
            assert reply.status == 200
            assert (await site.settled(4))[-1]["charge"] > 40_000_000

    run(test())


def test_an_estimate_after_such_losses_counts_for_the_limits_what_the_request_does() -> None:
    config = '[billing]\nfree_loss_per_day_usd = "0"\n'

    async def test() -> None:
        async with Site(always(says(completion(usage=(50_000, 5)))), config=config) as site:
            cap = {"X-Tollbridge-Max-Cost-USD": "0.001"}
            assert (await site.post("/v1/chat/completions", chat(max_tokens=10), cap)).status == 200
            await site.settled(1)
            site.key = await site.make_key(rules=Rules(tpm=1_000))
            estimate = (await site.post("/v1/estimate", chat(max_tokens=10))).json
            assert (estimate["admitted"], estimate["error"]) == (True, None)
            assert (await site.post("/v1/chat/completions", chat(max_tokens=10))).status == 200

    run(test())


def test_stream_is_charged_once_however_often_usage_is_reported() -> None:
    async def test() -> None:
        events = [
            chunk("a", usage={"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}),
            chunk("b", usage={"prompt_tokens": 10, "completion_tokens": 3, "total_tokens": 13}),
            chunk(finish="stop"),
            usage_chunk(10, 5),
            DONE,
        ]
        async with Site(always(streams(events))) as site:
            await site.post("/v1/chat/completions", chat(stream=True))
            [row] = await site.settled(1)
            assert row["charge"] == PRICE

    run(test())


def test_silent_provider_gets_a_second_chance_elsewhere_and_one_charge() -> None:
    async def test() -> None:
        script = always(says({"error": {"message": "down"}}, 503))
        async with Site(script, others={"second": always(says(completion()))}) as site:
            reply = await site.post("/v1/chat/completions", chat())
            assert reply.status == 200
            assert reply.headers["x-tollbridge-provider"] == "second"
            [row] = await site.settled(1)
            assert row["charge"] == PRICE
            [attempt] = json.loads(row["attempts"])
            assert attempt["route"] == "up/upstream-m"
            assert attempt["status"] == 503

    run(test())
