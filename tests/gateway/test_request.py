"""One request through a whole gateway: what the caller gets, and what stands in the books."""

import asyncio
import base64
import json
import struct
import time

import pytest
from tests.gateway.site import (
    DONE,
    INPUT_NANO,
    OUTPUT_NANO,
    Json,
    Site,
    always,
    by_kind,
    chat,
    chunk,
    completion,
    nano,
    run,
    says,
    stream,
    streams,
    usage_chunk,
)

from tollbridge.store.keys import Rules
from tollbridge.values import Outcome

PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO


def test_whole_answer_tells_its_cost_and_what_is_left() -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            reply = await site.post("/v1/chat/completions", chat())
            assert reply.status == 200
            assert nano(reply.headers["x-tollbridge-charged-usd"]) == PRICE
            assert nano(reply.headers["x-tollbridge-upstream-cost-usd"]) == PRICE
            assert nano(reply.headers["x-tollbridge-balance-usd"]) == 10**9 - PRICE
            assert reply.headers["x-tollbridge-cost-basis"] == "final"
            assert reply.headers["x-request-id"].startswith("req_")
            answer = reply.json
            assert answer["id"] == reply.headers["x-tollbridge-generation-id"]
            assert answer["id"].startswith("chatcmpl-")
            assert answer["model"] == "m"
            assert answer["choices"][0]["message"]["content"] == "Hello!"
            assert answer["usage"]["cost"] == pytest.approx(PRICE / 1e9)
            assert answer["usage"]["balance"] == pytest.approx(1 - PRICE / 1e9)
            [row] = await site.settled(1)
            assert (row["charge"], row["cost"], row["input"], row["output"]) == (PRICE, PRICE, 10, 5)
            assert row["outcome"] == Outcome.COMPLETED
            assert await site.balance() == 10**9 - PRICE

    run(test())


def test_provider_gets_the_body_as_it_came_but_for_its_own_model_name_and_credential() -> None:
    seen = []

    async def answer(request: object, peer: object) -> None:
        seen.append(request)
        await says(completion())(request, peer)  # type: ignore[arg-type]

    async def test() -> None:
        async with Site(always(answer)) as site:
            body = b'{ "model":"m","messages" : [{"role":"user","content":"\\u00e9"}],"future_field":{"a":[1,2.50]}}'
            assert (await site.post("/v1/chat/completions", body)).status == 200
        [request] = seen
        assert request.target == b"/v1/chat/completions"  # type: ignore[attr-defined]
        assert request.headers[b"authorization"] == b"Bearer upstream-secret"  # type: ignore[attr-defined]
        sent = request.body  # type: ignore[attr-defined]
        assert json.loads(sent) == {**json.loads(body), "model": "upstream-m"}
        assert b'{"a":[1,2.50]}' in sent
        assert b"\\u00e9" in sent

    run(test())


@pytest.mark.parametrize("asked", [None, True, False])
def test_stream_carries_usage_where_the_caller_expects_it(asked: bool | None) -> None:
    async def test() -> None:
        async with Site(always(streams(stream()))) as site:
            options: Json = {} if asked is None else {"stream_options": {"include_usage": asked}}
            reply = await site.post("/v1/chat/completions", chat(stream=True, **options))
            assert reply.status == 200
            assert reply.headers["content-type"].startswith("text/event-stream")
            assert reply.headers["x-tollbridge-cost-basis"] == "hold"
            assert reply.text == "Hello!"
            assert reply.events[-1] == "[DONE]"
            with_usage = [each for each in reply.chunks if each.get("usage")]
            without_choices = [each for each in reply.chunks if not each["choices"]]
            assert len(with_usage) == (0 if asked is False else 1)
            assert len(without_choices) == (1 if asked else 0)
            for each in with_usage:
                assert each["usage"]["cost"] == pytest.approx(PRICE / 1e9)
                assert each["usage"]["balance"] == pytest.approx(1 - PRICE / 1e9)
            assert {each["id"] for each in reply.chunks} == {reply.headers["x-tollbridge-generation-id"]}
            assert {each["model"] for each in reply.chunks} == {"m"}
            [row] = await site.settled(1)
            assert row["charge"] == PRICE
            assert row["first_byte_ms"] is not None

    run(test())


@pytest.mark.parametrize("streamed", [False, True])
def test_log_has_a_line_with_everything_of_a_request_that_was_answered(streamed: bool) -> None:
    async def test() -> None:
        async with Site(always(by_kind(says(completion()), streams(stream())))) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=streamed))
            await site.settled(1)
            while not site.log:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.01)
            [line] = [json.loads(line) for line in b"".join(site.log).splitlines()]
            assert 0 < line.pop("ts") / 1000 - (time.time() - 60) <= 60
            assert 0 <= line.pop("ms") < 60_000
            assert (line.pop("first_byte_ms", None) is not None) == streamed
            [(key,)] = await site.database.fetch("SELECT id FROM api_key")
            assert line == {
                "request_id": reply.headers["x-request-id"],
                "status": 200,
                "path": "/v1/chat/completions",
                "id": reply.headers["x-tollbridge-generation-id"],
                "account": site.account.id,
                "key": key,
                "model": "m",
                "route": reply.headers["x-tollbridge-provider"],
                "outcome": "completed",
                "charge": PRICE,
                "cost": PRICE,
                "prompt_tokens": 10,
                "output_tokens": 5,
            }

    run(test())


def test_usage_is_asked_for_upstream_whatever_the_caller_said() -> None:
    seen = []

    async def answer(request: object, peer: object) -> None:
        seen.append(json.loads(request.body))  # type: ignore[attr-defined]
        await streams(stream())(request, peer)  # type: ignore[arg-type]

    async def test() -> None:
        async with Site(always(answer)) as site:
            await site.post("/v1/chat/completions", chat(stream=True, stream_options={"include_usage": False}))
            await site.post("/v1/chat/completions", chat(stream=True))
        assert [each["stream_options"] for each in seen] == [{"include_usage": True}] * 2

    run(test())


def test_answer_without_usage_is_counted_here_and_marked() -> None:
    async def test() -> None:
        async with Site(always(by_kind(says(completion(usage=None)), streams(stream(usage=None))))) as site:
            whole = await site.post("/v1/chat/completions", chat())
            streamed = await site.post("/v1/chat/completions", chat(stream=True))
            rows = await site.settled(2)
            assert all(row["flags"] & 2 for row in rows)
            assert all(row["charge"] == row["input"] * INPUT_NANO + row["output"] * OUTPUT_NANO > 0 for row in rows)
            assert rows[0]["output"] == rows[1]["output"]
            assert whole.json["usage"]["completion_tokens"] == rows[0]["output"]
            assert streamed.chunks[-1]["usage"]["completion_tokens"] == rows[1]["output"]

    run(test())


def test_usage_of_zero_is_believed() -> None:
    async def test() -> None:
        async with Site(always(says(completion(usage=(0, 0))))) as site:
            reply = await site.post("/v1/chat/completions", chat())
            assert nano(reply.headers["x-tollbridge-charged-usd"]) == 0
            assert await site.balance() == 10**9

    run(test())


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -10, "completion_tokens": 5},
        {"prompt_tokens": 10**12, "completion_tokens": 5},
        {"prompt_tokens": "10", "completion_tokens": 5},
        {"prompt_tokens": 10, "completion_tokens": True},
        {"prompt_tokens": 10, "completion_tokens": 90_000},
        {"prompt_tokens": 200_000, "completion_tokens": 1},
    ],
)
def test_usage_that_cannot_be_true_is_counted_here_and_marked(usage: object) -> None:
    async def test() -> None:
        async with Site(always(says(completion(usage=usage)))) as site:
            assert (await site.post("/v1/chat/completions", chat())).status == 200
            [row] = await site.settled(1)
            assert row["flags"] & 4
            assert 0 < row["charge"] < 50 * (INPUT_NANO + OUTPUT_NANO)

    run(test())


def test_embeddings_come_in_the_format_that_was_asked_for() -> None:
    floats = [0.25, -1.5, 3.0]
    packed = base64.b64encode(struct.pack("<3f", *floats)).decode()

    def vectors(embedding: object) -> dict[str, object]:
        data = [{"object": "embedding", "index": 0, "embedding": embedding}]
        return {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 3, "total_tokens": 3}}

    async def test() -> None:
        async with Site(always(says(vectors(floats)))) as site:
            plain = await site.post("/v1/embeddings", {"model": "e", "input": "hi"})
            assert plain.json["data"][0]["embedding"] == floats
            coded = await site.post("/v1/embeddings", {"model": "e", "input": "hi", "encoding_format": "base64"})
            assert coded.json["data"][0]["embedding"] == packed
            assert nano(coded.headers["x-tollbridge-charged-usd"]) == 3 * INPUT_NANO
            rows = await site.settled(2)
            assert all(row["output"] == 0 for row in rows)

    run(test())


def test_a_vector_that_holds_no_floats_costs_nothing_and_is_the_provider_s_fault() -> None:
    data = [{"object": "embedding", "index": 0, "embedding": "AAAA"}]
    body = {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 3, "total_tokens": 3}}

    async def test() -> None:
        async with Site(always(says(body))) as site:
            reply = await site.post("/v1/embeddings", {"model": "e", "input": "hi"})
            assert (reply.status, reply.json["error"]["code"]) == (502, "upstream_invalid_response")
            [row] = await site.settled(1)
            assert row["charge"] == 0

    run(test())


def test_completions_are_served_like_chat() -> None:
    answer = {
        "id": "up-1",
        "object": "text_completion",
        "created": 1,
        "model": "upstream-m",
        "choices": [{"index": 0, "text": "Hello!", "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
    }

    async def test() -> None:
        async with Site(always(says(answer))) as site:
            reply = await site.post("/v1/completions", {"model": "m", "prompt": "hi", "max_tokens": 5})
            assert reply.json["choices"][0]["text"] == "Hello!"
            assert reply.json["id"].startswith("cmpl-")
            assert nano(reply.headers["x-tollbridge-charged-usd"]) == PRICE

    run(test())


def test_events_pass_the_moment_they_come() -> None:
    async def test() -> None:
        async with Site(always(streams([chunk("a"), chunk("b"), chunk(finish="stop"), DONE], pause=0.3))) as site:
            call = await site.open("/v1/chat/completions", chat(stream=True))
            await call.head()
            pieces = call.pieces()
            first = await anext(pieces)
            assert b'"a"' in first
            assert b'"b"' not in first
            call.close()
            await site.settled(1)

    run(test())


def test_late_usage_counts_even_when_it_comes_after_the_end() -> None:
    async def test() -> None:
        events = [chunk("Hi"), chunk(finish="stop"), DONE, usage_chunk(10, 5)]
        async with Site(always(streams(events))) as site:
            await site.post("/v1/chat/completions", chat(stream=True))
            [row] = await site.settled(1)
            assert row["charge"] == PRICE

    run(test())


def test_log_says_where_a_key_that_is_not_accepted_came_from() -> None:
    """For whoever bans addresses. Of callers who are let in it says nothing of the kind."""
    proxy = '[server]\ntrusted_proxies = ["127.0.0.1"]\n'

    async def test() -> None:
        async with Site(always(says(completion())), config=proxy) as site:
            there = {"x-forwarded-for": "203.0.113.9"}
            bound = await site.make_key(rules=Rules(addresses=("198.51.100.0/24",)))
            for key, status in (("tb_live_x", 401), (bound, 403), (site.key, 200)):
                headers = {**there, "authorization": f"Bearer {key}"}
                assert (await site.post("/v1/chat/completions", chat(), headers)).status == status
            while b"".join(site.log).count(b"\n") < 3:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.01)
            lines = [json.loads(line) for line in b"".join(site.log).splitlines()]
            said = [(line["code"], line.get("address")) for line in lines if line["status"] != 200]
            assert said == [("invalid_api_key", "203.0.113.9"), ("address_not_allowed", "203.0.113.9")]
            assert "address" not in lines[-1]

    run(test())
