"""Frameworks for Python that people build on, unchanged: langchain-openai, pydantic-ai, and the command `llm`."""

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.gateway.site import Site, always, run
from tests.sdk.programs import output
from tests.sdk.scripted import ARGUMENTS, TEXT, USED, VECTOR, openai_provider

QUESTION = "What is the weather in Paris?"


def with_site(use: Callable[[str, str], Any], calls: int) -> Any:
    """Run `use(base URL, key)` in a thread beside a site; `calls` is how many requests it is charged for."""

    async def test() -> Any:
        async with Site(always(openai_provider)) as site:
            base = f"http://127.0.0.1:{site.port}/v1"
            said = await asyncio.get_running_loop().run_in_executor(None, use, base, site.key)
            rows = await site.settled(calls)
            assert [row["charge"] > 0 for row in rows] == [True] * calls
            return said

    return run(test())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_langchain_chats_streams_calls_tools_and_embeds() -> None:
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    def use(base: str, key: str) -> None:
        # Its own client is never closed: a socket would be collected in some later test, as an error of that one.
        with httpx.Client() as http:
            talk(base, key, http)

    def talk(base: str, key: str, http: httpx.Client) -> None:
        model = ChatOpenAI(model="m", base_url=base, api_key=key, http_client=http)  # type: ignore[arg-type]
        whole = model.invoke(QUESTION)
        assert whole.content == TEXT
        assert whole.usage_metadata is not None
        assert (whole.usage_metadata["input_tokens"], whole.usage_metadata["output_tokens"]) == USED
        parts = list(model.stream(QUESTION, stream_usage=True))
        assert "".join(str(part.content) for part in parts) == TEXT
        assert sum(part.usage_metadata["total_tokens"] for part in parts if part.usage_metadata) == sum(USED)
        plain = list(model.stream(QUESTION, stream_usage=False))
        assert "".join(str(part.content) for part in plain) == TEXT

        tool = {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "Tell the weather.",
                "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
            },
        }
        with_tools = model.bind_tools([tool])
        called = with_tools.invoke(QUESTION)
        assert isinstance(called, AIMessage)
        [call] = called.tool_calls
        assert (call["name"], call["args"]) == ("weather", ARGUMENTS)
        answer = with_tools.invoke([HumanMessage(QUESTION), called, ToolMessage("sunny", tool_call_id=call["id"])])
        assert answer.content == TEXT
        gathered: Any = None
        for part in with_tools.stream(QUESTION):
            gathered = part if gathered is None else gathered + part
        assert gathered.tool_calls[0]["args"] == ARGUMENTS
        shape = {"title": "place", "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
        assert model.with_structured_output(shape, method="json_schema").invoke(QUESTION) == ARGUMENTS

        embeddings = OpenAIEmbeddings(
            model="e",
            base_url=base,
            api_key=key,  # type: ignore[arg-type]
            check_embedding_ctx_length=False,
            http_client=http,
        )
        assert embeddings.embed_documents(["a", "b"]) == [VECTOR, VECTOR]

    with_site(use, 8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pydantic_ai_runs_agents_with_tools_and_typed_answers() -> None:
    from pydantic import BaseModel
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    class Place(BaseModel):
        city: str

    async def use(site: Site, client: openai.AsyncOpenAI) -> None:
        model = OpenAIChatModel("m", provider=OpenAIProvider(openai_client=client))
        asked: list[str] = []

        def weather(city: str) -> str:
            asked.append(city)
            return "sunny"

        agent = Agent(model, tools=[weather])
        done = await agent.run(QUESTION)
        assert done.output == TEXT
        async with agent.run_stream(QUESTION) as stream:
            assert await stream.get_output() == TEXT
        assert asked == ["Paris", "Paris"]
        assert (await Agent(model, output_type=Place).run(QUESTION)).output == Place(city="Paris")
        assert len(await site.settled(5)) == 5

    async def test() -> None:
        async with Site(always(openai_provider)) as site:
            base = f"http://127.0.0.1:{site.port}/v1"
            async with openai.AsyncOpenAI(base_url=base, api_key=site.key) as client:
                await use(site, client)

    run(test())


def test_llm_command_chats_whole_and_streamed(tmp_path: Path) -> None:
    def use(base: str, key: str) -> list[str]:
        settings = {"model_id": "bridge", "model_name": "m", "api_base": base, "api_key_name": "bridge"}
        (tmp_path / "extra-openai-models.yaml").write_text(json.dumps([settings]))
        (tmp_path / "keys.json").write_text(json.dumps({"bridge": key}))
        return [asyncio.run(_llm(tmp_path, *options)) for options in ([], ["--no-stream"])]

    assert with_site(use, 2) == [TEXT, TEXT]


async def _llm(folder: Path, *options: str) -> str:
    command = (sys.executable, "-m", "llm", "-m", "bridge", *options, QUESTION)
    return (await output(*command, LLM_USER_PATH=str(folder))).strip()
