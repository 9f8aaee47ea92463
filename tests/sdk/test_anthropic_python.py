"""Anthropic's official client for Python, unchanged, from providers of its own dialect and of another."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import anthropic
import pytest
from tests.gateway.site import Json, Site, always, event, http, run, says, streams
from tests.sdk.scripted import ARGUMENTS, TEXT, USED, openai_provider
from tests.upstream.bad_server import BadServer, Peer, Request

QUESTION: Any = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER: Any = {
    "name": "weather",
    "description": "Tell the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
# A provider of its own dialect beside that of the site.
CONFIG = """
[providers.own]
dialect = "anthropic"
auth = "x-api-key"
base_url = "http://127.0.0.1:{port}/v1"
api_key = "env:TEST_UPSTREAM_KEY"
headers = {{ anthropic-version = "2023-06-01" }}

[[models]]
id = "own"
context_window = 100000
price = {{ input = "1", output = "2" }}
routes = [{{ provider = "own", model = "claude-upstream" }}]
"""


async def own_provider(request: Request, peer: Peer) -> None:
    """Messages as Anthropic has them, whole and streamed."""
    body = json.loads(request.body)
    if request.target.endswith(b"/count_tokens"):
        await says({"input_tokens": 11})(request, peer)
        return
    assert request.headers[b"x-api-key"] == b"upstream-secret"
    answered = any(isinstance(message["content"], list) for message in body["messages"])
    if body.get("tools") and not answered:
        block: Json = {"type": "tool_use", "id": "toolu_1", "name": body["tools"][0]["name"], "input": ARGUMENTS}
        reason = "tool_use"
        parts = [{"type": "input_json_delta", "partial_json": part} for part in ('{"city":', '"Paris"}')]
        empty: Json = {**block, "input": {}}
    else:
        block, reason = {"type": "text", "text": TEXT}, "end_turn"
        parts = [{"type": "text_delta", "text": part} for part in (TEXT[:6], TEXT[6:])]
        empty = {"type": "text", "text": ""}
    usage = {"input_tokens": USED[0], "output_tokens": USED[1]}
    message: Json = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-upstream",
        "content": [block],
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": usage,
    }
    if not body.get("stream"):
        await says(message)(request, peer)
        return
    begun = {**message, "content": [], "stop_reason": None, "usage": {**usage, "output_tokens": 1}}
    said: list[Json] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        *({"type": "content_block_delta", "index": 0, "delta": part} for part in parts),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": USED[1]}},
        {"type": "message_stop"},
    ]
    named = [b"event: %b\n" % str(each["type"]).encode() + event(each) for each in said]
    await streams(named)(request, peer)


def trial(use: Callable[[anthropic.Anthropic, str], None], model: str, calls: int) -> None:
    """Run `use` with the ordinary synchronous client; `calls` is how many requests are charged."""

    async def test(site: Site) -> None:
        def call() -> None:
            base = f"http://127.0.0.1:{site.port}"
            with anthropic.Anthropic(base_url=base, api_key=site.key, max_retries=0) as client:
                use(client, model)

        await asyncio.get_running_loop().run_in_executor(None, call)
        rows = await site.settled(calls)
        assert [row["charge"] > 0 for row in rows] == [True] * calls

    async def start() -> None:
        async with (
            BadServer(always(own_provider)) as own,
            Site(always(openai_provider), config=CONFIG.format(port=own.port)) as site,
        ):
            await test(site)

    run(start())


both_providers = pytest.mark.parametrize("model", ["own", "m"])


@both_providers
def test_text_whole_and_streamed(model: str) -> None:
    def use(client: anthropic.Anthropic, model: str) -> None:
        answer = client.messages.create(model=model, max_tokens=100, system="Be brief.", messages=QUESTION)
        assert [block.text for block in answer.content if block.type == "text"] == [TEXT]
        assert (answer.stop_reason, answer.model) == ("end_turn", model)
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == USED
        with client.messages.stream(model=model, max_tokens=100, messages=QUESTION) as stream:
            assert "".join(stream.text_stream) == TEXT
            final = stream.get_final_message()
        assert final.stop_reason == "end_turn"
        assert (final.usage.input_tokens, final.usage.output_tokens) == USED

    trial(use, model, 2)


@both_providers
def test_tools_whole_and_streamed(model: str) -> None:
    def use(client: anthropic.Anthropic, model: str) -> None:
        asked: Any = {"model": model, "max_tokens": 100, "tools": [WEATHER]}
        first = client.messages.create(messages=QUESTION, **asked)
        assert first.stop_reason == "tool_use"
        [call] = [block for block in first.content if block.type == "tool_use"]
        assert (call.name, call.input) == ("weather", ARGUMENTS)
        result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        history: Any = [
            *QUESTION,
            {"role": "assistant", "content": first.content},
            {"role": "user", "content": [result]},
        ]
        final = client.messages.create(messages=history, **asked)
        assert [block.text for block in final.content if block.type == "text"] == [TEXT]
        with client.messages.stream(messages=QUESTION, **asked) as stream:
            parts = [event.partial_json for event in stream if event.type == "input_json"]
            [streamed] = stream.get_final_message().content
        assert json.loads("".join(parts)) == ARGUMENTS
        assert streamed.type == "tool_use"
        assert streamed.input == ARGUMENTS

    trial(use, model, 3)


@both_providers
def test_tool_runner_and_threads_go_on_with_whole_conversations(model: str) -> None:
    """They begin with a `thread` that Anthropic would keep, and give it up when they are told to."""

    @anthropic.beta_tool
    def weather(city: str) -> str:
        """Tell the weather."""
        return f"sunny in {city}"

    def use(client: anthropic.Anthropic, model: str) -> None:
        asked: Any = {"model": model, "max_tokens": 100}
        runner = client.beta.messages.tool_runner(messages=QUESTION, tools=[weather], **asked)
        assert [block.text for block in runner.until_done().content if block.type == "text"] == [TEXT]
        thread = client.beta.messages.thread(**asked, unsupported_request_behavior="continue_unthreaded")
        for _ in range(2):
            answer = thread.send(*QUESTION)
            assert [block.text for block in answer.content if block.type == "text"] == [TEXT]
        with pytest.raises(anthropic.BadRequestError, match="send the whole conversation"):
            client.beta.messages.thread(**asked).send(*QUESTION)

    trial(use, model, 4)


@both_providers
def test_tokens_are_counted_for_free(model: str) -> None:
    def use(client: anthropic.Anthropic, model: str) -> None:
        counted = client.messages.count_tokens(model=model, messages=QUESTION, tools=[WEATHER])
        # What Anthropic tells its models about tools is some 500 of them.
        assert 505 <= counted.input_tokens <= 700

    trial(use, model, 0)


def test_refusals_are_the_clients_own_exceptions() -> None:
    def use(client: anthropic.Anthropic, model: str) -> None:
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(model="none", max_tokens=100, messages=QUESTION)
        with pytest.raises(anthropic.BadRequestError):
            client.messages.create(model=model, max_tokens=-1, messages=QUESTION)
        with pytest.raises(anthropic.AuthenticationError):
            client.with_options(api_key="no such key").messages.create(model=model, max_tokens=1, messages=QUESTION)

    trial(use, "m", 0)


def test_failure_of_the_provider_is_the_clients_own_exception() -> None:
    async def breaks(request: Request, peer: Peer) -> None:
        await peer.send(http(529, {"error": {"message": "busy"}}))

    async def test() -> None:
        async with Site(always(breaks)) as site:

            def call() -> None:
                base = f"http://127.0.0.1:{site.port}"
                with (
                    anthropic.Anthropic(base_url=base, api_key=site.key, max_retries=0) as client,
                    pytest.raises(anthropic.APIStatusError) as caught,
                    client.messages.stream(model="m", max_tokens=100, messages=QUESTION) as stream,
                ):
                    stream.get_final_message()
                assert caught.value.status_code >= 500

            await asyncio.get_running_loop().run_in_executor(None, call)

    run(test())


def test_models_are_listed_as_anthropic_lists_them() -> None:
    """As Claude Code reads them, which shows only what `data` calls `claude…` or `anthropic…`."""

    async def test() -> None:
        async with Site(always(openai_provider)) as site:
            async with anthropic.AsyncAnthropic(base_url=site.url, api_key=site.key, max_retries=0) as client:
                page = await client.models.list(limit=1000)
                assert [each.id async for each in page] == ["m"]
                [model] = page.data
                assert (model.type, model.display_name, model.created_at.year) == ("model", "m", 1970)
                assert (page.has_more, page.first_id, page.last_id) == (False, "m", "m")
                assert (await client.models.retrieve("m")) == model
                with pytest.raises(anthropic.NotFoundError):
                    await client.models.retrieve("none")
            assert (await site.get("/v1/models")).json["object"] == "list"

    run(test())
