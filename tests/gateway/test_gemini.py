"""Models of Gemini through the whole gateway: what the caller sees, what the provider got, what the books say."""

import json
from typing import Any

import msgspec
import pytest
from tests.gateway.site import INPUT_NANO, OUTPUT_NANO, Site, always, chat, run, says, streams
from tests.upstream.bad_server import BadServer, Peer, Request
from tests.upstream.test_auth import account, granted

from tollbridge.core import tokens
from tollbridge.values import Outcome

# cache_read = "0.1"
CACHED_NANO = 100
USAGE = {
    "promptTokenCount": 40,
    "cachedContentTokenCount": 16,
    "candidatesTokenCount": 3,
    "thoughtsTokenCount": 7,
    "totalTokenCount": 50,
}
CHARGE = 24 * INPUT_NANO + 16 * CACHED_NANO + 10 * OUTPUT_NANO


def answer(*parts: dict[str, Any], finish: str | None = None, usage: dict[str, int] | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {"candidates": [candidate], "responseId": "r-1", **({"usageMetadata": usage} if usage else {})}


def event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\r\n\r\n"


CALL = {"functionCall": {"name": "weather", "args": {"city": "Zürich"}}, "thoughtSignature": "c2ln"}


@pytest.fixture(autouse=True)
def _gemini(monkeypatch: pytest.MonkeyPatch) -> None:
    """The site's provider speaks Gemini."""
    monkeypatch.setenv("TOLLBRIDGE_PROVIDERS__UP__DIALECT", "gemini")
    monkeypatch.setenv("TOLLBRIDGE_PROVIDERS__UP__AUTH", "x-goog-api-key")


def test_a_stream_is_translated_and_charged_to_the_token() -> None:
    events = [
        event(answer({"text": "Hel"}, usage={"promptTokenCount": 40, "totalTokenCount": 40})),
        event(answer({"text": "lo!"}, finish="STOP", usage=USAGE)),
    ]
    halves = [each[at : at + 40] for each in events for at in range(0, len(each), 40)]
    seen: list[tuple[bytes, bytes]] = []

    async def script(peer: Peer) -> None:
        request = await peer.request()
        seen.append((request.target, request.headers[b"x-goog-api-key"]))
        await streams(halves)(request, peer)

    async def test() -> None:
        async with Site(script) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True, max_tokens=50))
            assert (reply.status, reply.text) == (200, "Hello!")
            assert seen == [(b"/v1/models/upstream-m:streamGenerateContent?alt=sse", b"upstream-secret")]
            usage = reply.chunks[-1]["usage"]
            assert reply.chunks[-1]["choices"][0]["native_finish_reason"] == "STOP"
            assert (usage["prompt_tokens"], usage["completion_tokens"]) == (40, 10)
            assert usage["prompt_tokens_details"]["cached_tokens"] == 16
            [row] = await site.settled(1)
            assert (row["charge"], row["outcome"], row["finish"]) == (CHARGE, Outcome.COMPLETED, "stop")
            assert (row["input"], row["cache_read"], row["output"], row["reasoning"]) == (24, 16, 10, 7)

    run(test())


def test_where_the_prompt_is_not_reported_it_is_counted_and_the_thoughts_are_charged() -> None:
    told = answer({"text": "A dog."}, finish="STOP", usage={"candidatesTokenCount": 3, "thoughtsTokenCount": 50})
    stream = streams([event(told)])

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await (stream if b"stream" in request.target else says(told))(request, peer)

    async def test() -> None:
        async with Site(script) as site:
            for streamed in (False, True):
                asked = await site.post("/v1/chat/completions", chat("What is it?", stream=streamed))
                assert asked.status == 200
            for row in await site.settled(2):
                assert (row["output"], row["reasoning"], row["flags"] & 2) == (53, 50, 2)
                assert row["input"] > 2
                assert row["charge"] == row["input"] * INPUT_NANO + 53 * OUTPUT_NANO

    run(test())


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("odd", [{"promptTokenCount": 40}, {"promptTokenCount": 40, "candidatesTokenCount": -1}])
def test_an_answer_whose_last_reports_say_nothing_about_output_is_not_free(path: str, odd: dict[str, int]) -> None:
    words = ["lorem ipsum dolor sit amet " * 4] * 4
    first = answer({"text": "Well: "}, usage={"promptTokenCount": 40, "candidatesTokenCount": 2, "totalTokenCount": 42})
    events = [first, *(answer({"text": text}, usage=odd) for text in words), answer(finish="STOP", usage=odd)]
    whole = answer({"text": "".join(words)}, finish="STOP", usage={"promptTokenCount": 40})
    stream = streams([event(each) for each in events])

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            await (stream if b"stream" in request.target else says(whole))(request, peer)

    async def test() -> None:
        async with Site(script) as site:
            said = {"input": "hi"} if path == "/v1/responses" else {"messages": chat()["messages"], "max_tokens": 500}
            for streamed in (False, True):
                asked = await site.post(path, {"model": "m", "stream": streamed, **said})
                assert asked.status == 200
            rows = await site.settled(2)
            assert all(60 <= row["output"] <= 200 for row in rows)
            assert all(row["charge"] == row["input"] * INPUT_NANO + row["output"] * OUTPUT_NANO for row in rows)

    run(test())


@pytest.mark.parametrize("streamed", [False, True])
def test_a_model_that_cannot_call_its_tools_does_not_shut_its_provider(streamed: bool) -> None:
    """Whoever sends such a tool would otherwise take the provider away from everybody."""
    bad = answer(finish="MALFORMED_FUNCTION_CALL", usage=USAGE)
    good = answer({"text": "Hello!"}, finish="STOP", usage=USAGE)

    async def reply(request: Request, peer: Peer) -> None:
        said = good if b"please" in request.body else bad
        await (streams([event(said)]) if streamed else says(said))(request, peer)

    async def test() -> None:
        async with Site(always(reply)) as site:
            for _ in range(10):
                failed = await site.post("/v1/chat/completions", chat(stream=streamed))
                assert (failed.status, failed.json["error"]["code"]) == (502, "upstream_invalid_response")
                assert "calls a tool" in failed.json["error"]["message"]
            assert (await site.post("/v1/chat/completions", chat("please", stream=streamed))).status == 200
            rows = await site.settled(11)
            assert [row["charge"] for row in rows] == [0] * 10 + [CHARGE]

    run(test())


def test_a_call_of_a_tool_comes_back_with_its_signature() -> None:
    bodies: list[dict[str, Any]] = []

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            bodies.append(json.loads(request.body))
            finished = answer(CALL if len(bodies) == 1 else {"text": "7 degrees"}, finish="STOP", usage=USAGE)
            await says(finished)(request, peer)

    async def test() -> None:
        async with Site(script) as site:
            tools = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
            first = await site.post("/v1/chat/completions", chat(tools=tools))
            choice = first.json["choices"][0]
            assert (choice["finish_reason"], choice["native_finish_reason"]) == ("tool_calls", "STOP")
            found = (await site.get(f"/v1/generation?id={first.json['id']}")).json["data"]
            assert (found["finish_reason"], found["native_finish_reason"]) == ("tool_calls", None)
            (call,) = choice["message"]["tool_calls"]
            assert json.loads(call["function"]["arguments"]) == {"city": "Zürich"}
            result = {"role": "tool", "tool_call_id": call["id"], "content": "7"}
            messages = [*chat()["messages"], choice["message"], result]
            second = await site.post("/v1/chat/completions", {"model": "m", "tools": tools, "messages": messages})
            assert second.json["choices"][0]["message"]["content"] == "7 degrees"
            _, said, answered = bodies[1]["contents"]
            assert said["parts"] == [CALL]
            assert answered["parts"] == [{"functionResponse": {"name": "weather", "response": {"output": "7"}}}]
            rows = await site.settled(2)
            assert [row["charge"] for row in rows] == [CHARGE, CHARGE]

    run(test())


def test_a_blocked_prompt_is_an_answer_that_was_filtered() -> None:
    blocked = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 9}}

    async def test() -> None:
        async with Site(always(says(blocked))) as site:
            reply = await site.post("/v1/chat/completions", chat())
            assert reply.status == 200
            assert reply.json["choices"][0]["finish_reason"] == "content_filter"
            await site.settled(1)
            found = await site.get(f"/v1/generation?id={reply.json['id']}")
            assert found.json["data"]["finish_reason"] == "content_filter"

    run(test())


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}, (502, "upstream_auth")),
        (400, {"code": 400, "message": "Invalid value at 'x'", "status": "INVALID_ARGUMENT"}, (400, None)),
        (404, {"code": 404, "message": "models/x is not found", "status": "NOT_FOUND"}, (404, "model_not_found")),
        (
            429,
            {
                "code": 429,
                "message": "quota",
                "status": "RESOURCE_EXHAUSTED",
                "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"}],
            },
            (429, "rate_limit_exceeded"),
        ),
    ],
    ids=["key", "argument", "model", "quota"],
)
def test_errors_mean_what_they_say_and_cost_nothing(
    status: int, body: dict[str, Any], expected: tuple[int, str | None]
) -> None:
    async def test() -> None:
        async with Site(always(says({"error": body}, status))) as site:
            reply = await site.post("/v1/chat/completions", chat())
            assert reply.status == expected[0]
            if expected[1] is not None:
                assert reply.json["error"]["code"] == expected[1]
            if status == 429:
                assert reply.headers["retry-after"] == "35"
            [row] = await site.settled(1)
            assert row["charge"] == 0

    run(test())


def test_a_field_that_gemini_lacks_is_refused_by_name_or_left_out_when_allowed() -> None:
    async def test() -> None:
        async with Site(always(says(answer({"text": "Hi"}, finish="STOP", usage=USAGE)))) as site:
            refused = await site.post("/v1/chat/completions", chat(logit_bias={"5": 1}))
            assert (refused.status, refused.json["error"]["param"]) == (400, "logit_bias")
            allowed = await site.post(
                "/v1/chat/completions", chat(logit_bias={"5": 1}, provider={"require_parameters": False})
            )
            assert allowed.status == 200

    run(test())


@pytest.mark.parametrize("dialect", ["gemini", "openai_chat"])
def test_embeddings_are_counted_here_as_the_texts_that_they_are(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOLLBRIDGE_PROVIDERS__UP__DIALECT", dialect)
    floats = [[0.5, -0.5], [1.0, 0.0]]
    vectors = {
        "embeddings": [{"values": each} for each in floats],
        "data": [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(floats)],
    }

    async def test() -> None:
        async with Site(always(says(vectors))) as site:
            reply = await site.post("/v1/embeddings", {"model": "e", "input": ["a word", "another"]})
            assert reply.status == 200
            assert [each["embedding"] for each in reply.json["data"]] == [[0.5, -0.5], [1.0, 0.0]]
            [row] = await site.settled(1)
            assert row["input"] == tokens.count_prompt(b"a word\nanother")
            assert row["charge"] == row["input"] * INPUT_NANO
            assert reply.json["usage"]["prompt_tokens"] == row["input"]

    run(test())


def test_a_service_account_s_token_stands_in_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.request()
            shown.append(request.headers[b"authorization"])
            await says(answer({"text": "Hi"}, finish="STOP", usage=USAGE))(request, peer)

    async def grants(peer: Peer) -> None:
        await peer.request()
        await peer.send(granted("token-1"))
        await peer.closed()

    async def test() -> None:
        async with BadServer(grants) as google:
            key = msgspec.json.encode(account(f"{google.url}/token")).decode()
            monkeypatch.setenv("TOLLBRIDGE_PROVIDERS__UP__API_KEY", key)
            monkeypatch.setenv("TOLLBRIDGE_PROVIDERS__UP__AUTH", "google-service-account")
            async with Site(script) as site:
                for _ in range(2):
                    assert (await site.post("/v1/chat/completions", chat())).status == 200
                assert shown == [b"Bearer token-1"] * 2
                assert google.accepted == 1

    run(test())
