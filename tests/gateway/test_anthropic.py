"""Anthropic's models through the whole gateway: what the caller sees, what the provider got, what the books say."""

import json
from typing import Any

import pytest
from tests.gateway.site import (
    INPUT_NANO,
    OUTPUT_NANO,
    STREAM_HEAD,
    Json,
    Site,
    always,
    chat,
    framed,
    run,
    says,
    stream,
    streams,
)
from tests.upstream.bad_server import Peer, Request
from tests.wire.messages import STREAM, TEXT, block, event, events, finish, message_of, start

from tollbridge.values import Outcome

# A catalog price of Anthropic's has all of these: a cache is written at 1.25 and 2 times the price of input.
CONFIG = """
[[models]]
id = "claude"
context_window = 200000
output_limit = 8192
price = { input = "1", output = "2", cache_read = "0.1", cache_write = "1.25", cache_write_1h = "2", searches = "10" }
routes = [{ provider = "up", model = "claude-opus-4-8" }]
"""
USAGE = {
    "input_tokens": 100,
    "cache_creation_input_tokens": 30,
    "cache_read_input_tokens": 1_000,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    "output_tokens": 50,
    "output_tokens_details": {"thinking_tokens": 40},
}
CHARGE = 100 * INPUT_NANO + 1_000 * 100 + 10 * 1_250 + 20 * 2_000 + 50 * OUTPUT_NANO
MESSAGE = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": "claude-opus-4-8",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": USAGE,
}


def message(**fields: Any) -> Json:
    return {"model": "claude", "max_tokens": 500, "messages": [{"role": "user", "content": "Hi"}], **fields}


def site(answer: Any, **options: Any) -> Site:
    return Site(always(answer), dialect="anthropic", config=CONFIG, **options)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_meter_has_its_price(path: str, streamed: bool) -> None:
    raw = start({**USAGE, "output_tokens": 1}) + block(0, TEXT, {"type": "text_delta", "text": "Hi"})
    raw += finish("end_turn", {"output_tokens": 50, "output_tokens_details": {"thinking_tokens": 40}})
    answer = streams([raw[at : at + 70] for at in range(0, len(raw), 70)]) if streamed else says(MESSAGE)

    async def test() -> None:
        async with site(answer) as here:
            asked = message(stream=streamed) if path == "/v1/messages" else chat(model="claude", stream=streamed)
            reply = await here.post(path, asked)
            assert reply.status == 200
            [row] = await here.settled(1)
            assert (row["charge"], row["outcome"], row["finish"]) == (CHARGE, Outcome.COMPLETED, "stop")
            assert (row["input"], row["cache_read"], row["output"], row["reasoning"]) == (100, 1_000, 50, 40)
            if path == "/v1/messages":
                shown = message_of(reply.body) if streamed else reply.json
                assert {**shown["usage"], "cost": round(shown["usage"]["cost"] * 1e9)}.items() >= (
                    USAGE | {"cost": CHARGE}
                ).items()
                assert shown["model"] == "claude"
                assert shown["id"] != "msg_01"

    run(test())


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_a_caller_who_left_pays_for_what_was_read_from_a_cache_as_such(path: str) -> None:
    async def answer(request: Request, peer: Peer) -> None:
        said = block(0, TEXT, {"type": "text_delta", "text": "Hello there, this is some output. "})
        await peer.send(STREAM_HEAD + framed(start({**USAGE, "output_tokens": 1}) + said))
        await peer.closed()

    async def test() -> None:
        async with site(answer) as here:
            asked = message(stream=True) if path == "/v1/messages" else chat(model="claude", stream=True)
            call = await here.open(path, asked)
            await call.head()
            await anext(call.pieces())
            call.reset()
            [row] = await here.settled(1)
            assert row["outcome"] == Outcome.CLIENT_LEFT
            assert (row["input"], row["cache_read"]) == (100, 1_000)
            assert 5 < row["output"] < 12
            read = 100 * INPUT_NANO + 1_000 * 100 + 10 * 1_250 + 20 * 2_000
            assert row["charge"] == read + row["output"] * OUTPUT_NANO
            assert row["flags"] & 2

    run(test())


def test_what_only_anthropic_knows_passes_both_ways() -> None:
    bodies: list[Json] = []

    async def answer(request: Request, peer: Peer) -> None:
        bodies.append(json.loads(request.body))
        assert request.target == b"/v1/messages"
        await streams([STREAM])(request, peer)

    async def test() -> None:
        async with site(answer) as here:
            own: Json = {
                "tools": [{"type": "web_search_20250305", "name": "web_search"}],
                "context_management": {"edits": []},
            }
            reply = await here.post("/v1/messages", message(stream=True, **own))
            assert bodies == [message(stream=True, **own) | {"model": "claude-opus-4-8"}]
            kinds = [part["type"] for part in message_of(reply.body)["content"]]
            assert kinds[3:5] == ["server_tool_use", "web_search_tool_result"]
            [row] = await here.settled(1)
            assert row["charge"] > 10_000_000  # a search alone

    run(test())


def test_beta_features_that_a_caller_may_have_are_asked_for_beside_our_credential() -> None:
    asked: list[Request] = []

    async def answer(request: Request, peer: Peer) -> None:
        asked.append(request)
        await says(MESSAGE)(request, peer)

    async def test() -> None:
        async with site(answer) as here:
            betas = {"anthropic-beta": "interleaved-thinking-2025-05-14,files-api-2025-04-14"}
            reply = await here.post("/v1/messages", message(), betas)
            assert reply.status == 200
            assert (await here.post("/v1/messages", message())).status == 200
        first, second = (request.headers for request in asked)
        assert first.pop(b"anthropic-beta") == b"interleaved-thinking-2025-05-14"
        for each in (first, second):
            del each[b"content-length"]
        assert first == second

    run(test())


def test_a_search_that_has_no_price_is_refused_or_left_out_and_named() -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}]
    bodies: list[Json] = []

    async def answer(request: Request, peer: Peer) -> None:
        bodies.append(json.loads(request.body))
        await says(MESSAGE)(request, peer)

    async def test() -> None:
        async with site(answer) as here:
            wanted = message(model="m", tools=tools)
            refused = await here.post("/v1/messages", wanted)
            assert refused.status == 400
            assert "'tools[0]' is a search on the web, for which m has no price" in refused.json["detail"]
            reply = await here.post("/v1/messages", wanted | {"provider": {"require_parameters": False}})
            assert (reply.status, reply.headers["x-tollbridge-dropped-fields"]) == (200, "tools[0]")
            assert [sorted(body) for body in bodies] == [["max_tokens", "messages", "model"]]
            await here.settled(2)

    run(test())


def test_iterations_are_charged() -> None:
    parts = [{"input_tokens": 5_000, "output_tokens": 80}, {"input_tokens": 100, "output_tokens": 50}]
    usage = {"input_tokens": 100, "output_tokens": 50, "iterations": parts}

    async def test() -> None:
        async with site(says({**MESSAGE, "usage": usage})) as here:
            await here.post("/v1/messages", message())
            [row] = await here.settled(1)
            assert row["charge"] == 5_100 * INPUT_NANO + 130 * OUTPUT_NANO

    run(test())


def test_included_tokens_pay_for_no_searches() -> None:
    searched = {**USAGE, "server_tool_use": {"web_search_requests": 10}}
    tools = [{"type": "web_search_20250305", "name": "web_search"}]

    async def test() -> None:
        config = CONFIG + "\n[plans.default]\nincluded_tokens = 1000000\n"
        async with Site(always(says({**MESSAGE, "usage": searched})), dialect="anthropic", config=config) as here:
            await here.post("/v1/messages", message())
            await here.post("/v1/messages", message(tools=tools))
            rows = await here.settled(2)
            assert [row["charge"] for row in rows] == [0, CHARGE + 10 * 10_000_000]

    run(test())


@pytest.mark.parametrize(("kind", "is_believed"), [("web_fetch_20260209", True), ("custom", False)])
def test_what_a_provider_reads_again_in_rounds_of_its_own_tools_is_charged(kind: str, is_believed: bool) -> None:
    """Their results are no part of the request, and all rounds together may exceed the model's window."""
    answer = says({**MESSAGE, "usage": {"input_tokens": 900_000, "output_tokens": 50}})
    tools = [{"type": kind, "name": "web_fetch", "input_schema": {"type": "object"}}]

    async def test() -> None:
        async with site(answer) as here:
            await here.post("/v1/messages", message(tools=tools))
            [row] = await here.settled(1)
            assert (row["charge"] == 900_000 * INPUT_NANO + 50 * OUTPUT_NANO) is is_believed

    run(test())


def test_a_search_whose_name_is_written_in_escapes_is_held_for() -> None:
    body = (
        json.dumps(message(tools=[{"type": "XXX", "name": "x"}])).replace("XXX", r"\u0077eb_search_20250305").encode()
    )

    async def test() -> None:
        async with site(says(MESSAGE)) as here:
            await here.post("/v1/messages", body)
            [row] = await here.settled(1)
            assert row["held"] > 10 * 10_000_000

    run(test())


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions"])
def test_an_overload_in_the_middle_is_an_error_and_free(path: str) -> None:
    raw = start() + block(0, TEXT, {"type": "text_delta", "text": "Hel"})
    broken = raw + event("error", error={"type": "overloaded_error", "message": "Overloaded"})

    async def test() -> None:
        async with site(streams([raw, broken[len(raw) :]], 0.05)) as here:
            asked = message(stream=True) if path == "/v1/messages" else chat(model="claude", stream=True)
            reply = await here.post(path, asked)
            assert reply.status == 200
            if path == "/v1/messages":
                last = events(reply.body)[-1]
                assert (last["type"], last["error"]["type"]) == ("error", "api_error")
            [row] = await here.settled(1)
            assert (row["charge"], row["outcome"]) == (0, Outcome.UPSTREAM_DIED)

    run(test())


def test_an_overload_before_the_first_text_moves_on_to_the_next_route() -> None:
    """A message starts, and pings come, long before its first text."""

    async def test() -> None:
        opening = [start(), event("ping"), event("error", error={"type": "overloaded_error", "message": "Overloaded"})]
        async with Site(
            always(streams(opening, 0.02)), dialect="anthropic", others={"second": always(streams(stream()))}
        ) as here:
            reply = await here.post("/v1/messages", {**message(stream=True), "model": "m"})
            assert reply.headers["x-tollbridge-provider"] == "second"
            kinds = [each["type"] for each in events(reply.body)]
            assert (kinds[0], kinds.count("message_start"), kinds[-1]) == ("message_start", 1, "message_stop")
            [row] = await here.settled(1)
            assert row["charge"] == 10 * INPUT_NANO + 5 * OUTPUT_NANO

    run(test())


@pytest.mark.parametrize(
    ("status", "kind", "expected"),
    [
        (400, "invalid_request_error", (400, "invalid_request_error")),
        (401, "authentication_error", (502, "api_error")),
        (404, "not_found_error", (404, "not_found_error")),
        (429, "rate_limit_error", (429, "rate_limit_error")),
        (529, "overloaded_error", (502, "api_error")),
    ],
)
def test_errors_before_the_answer_mean_what_they_say(status: int, kind: str, expected: tuple[int, str]) -> None:
    body = {"type": "error", "error": {"type": kind, "message": "messages: at least one"}, "request_id": "req_011"}

    async def test() -> None:
        async with site(says(body, status)) as here:
            reply = await here.post("/v1/messages", message(), {"authorization": "", "x-api-key": here.key})
            assert (reply.status, reply.json["error"]["type"]) == expected
            assert reply.json["request_id"] == reply.headers["x-request-id"]
            [row] = await here.settled(1)
            assert row["charge"] == 0

    run(test())
