"""OpenAI's Responses API, by the official clients for Python and Node, from a provider that has only chat."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel
from tests.gateway.site import Site, always, run
from tests.sdk.programs import output
from tests.sdk.scripted import ARGUMENTS, TEXT, USED, openai_provider

QUESTION = "What is the weather in Paris?"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Tell the weather.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Place(BaseModel):
    city: str


def with_client(use: Callable[[openai.OpenAI], None], calls: int) -> None:
    async def test() -> None:
        async with Site(always(openai_provider)) as site:

            def call() -> None:
                with openai.OpenAI(base_url=f"http://127.0.0.1:{site.port}/v1", api_key=site.key) as client:
                    use(client)

            await asyncio.get_running_loop().run_in_executor(None, call)
            rows = await site.settled(calls)
            assert [row["charge"] > 0 for row in rows] == [True] * calls

    run(test())


def test_text_whole_and_streamed() -> None:
    def use(client: openai.OpenAI) -> None:
        answer = client.responses.create(model="m", input=QUESTION, instructions="Be brief.")
        assert (answer.status, answer.output_text) == ("completed", TEXT)
        assert answer.completed_at is not None
        assert 0 <= answer.completed_at - answer.created_at < 60
        assert answer.usage is not None
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == USED
        with client.responses.stream(model="m", input=[{"role": "user", "content": QUESTION}]) as stream:
            said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
            final = stream.get_final_response()
        assert said == final.output_text == TEXT
        assert final.usage is not None
        assert (final.usage.input_tokens, final.usage.output_tokens) == USED
        order = [event.type for event in client.responses.create(model="m", input=QUESTION, stream=True)]
        assert order[0] == "response.created"
        assert order[-1] == "response.completed"

    with_client(use, 3)


def test_tools_whole_and_streamed() -> None:
    def use(client: openai.OpenAI) -> None:
        asked: list[Any] = [{"role": "user", "content": QUESTION}]
        first = client.responses.create(model="m", input=asked, tools=[WEATHER])
        [call] = [item for item in first.output if item.type == "function_call"]
        assert (call.name, json.loads(call.arguments)) == ("weather", ARGUMENTS)
        answered = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
        history = [*asked, *(item.model_dump(exclude_none=True) for item in first.output), answered]
        assert client.responses.create(model="m", input=history, tools=[WEATHER]).output_text == TEXT
        with client.responses.stream(model="m", input=asked, tools=[WEATHER]) as stream:
            parts = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
            [streamed] = stream.get_final_response().output
        assert len(parts) > 1
        assert json.loads("".join(parts)) == ARGUMENTS
        assert streamed.type == "function_call"
        assert json.loads(streamed.arguments) == ARGUMENTS

    with_client(use, 3)


def test_structured_output() -> None:
    def use(client: openai.OpenAI) -> None:
        assert client.responses.parse(model="m", input=QUESTION, text_format=Place).output_parsed == Place(city="Paris")

    with_client(use, 1)


def test_refusals_are_the_clients_own_exceptions() -> None:
    def use(client: openai.OpenAI) -> None:
        with pytest.raises(openai.NotFoundError):
            client.responses.create(model="none", input=QUESTION)
        with pytest.raises(openai.BadRequestError):
            client.responses.create(model="m", input=QUESTION, max_output_tokens=-1)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="no such key").responses.create(model="m", input=QUESTION)

    with_client(use, 0)


def test_node_client(node_modules: Path) -> None:
    async def test() -> None:
        async with Site(always(openai_provider)) as site:
            base = f"http://127.0.0.1:{site.port}/v1"
            program = Path(__file__).with_name("responses.mjs")
            said = json.loads(await output("node", str(program), BASE_URL=base, API_KEY=site.key))
            assert said == {
                "whole": TEXT,
                "usage": list(USED),
                "streamed": TEXT,
                "last": "response.completed",
                "tool": ["weather", ARGUMENTS],
                "after": TEXT,
                "refused": ["NotFoundError", 404],
            }

    assert node_modules.is_dir()
    run(test())
