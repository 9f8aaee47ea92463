"""A stream that breaks off after some text: whoever reads it must be told so, by the SDK's own means."""

import json
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.gateway.site import Site, always, chunk, run, streams
from tests.sdk.programs import output

PROGRAM = Path(__file__).with_name("broken.mjs")
SAID = "The provider of m broke off in the middle of its answer."
CODE = "upstream_unavailable"
BREAKS = always(streams([chunk("Hello "), chunk("there")]))
VERCELS = ("compatible", "openrouter", "chat", "responses", "messages")
MESSAGES: Any = [{"role": "user", "content": "Hello!"}]


def test_sdks_for_node_tell_that_an_answer_broke_off(node_modules: Path) -> None:
    async def test() -> None:
        async with Site(BREAKS) as site:
            base = f"http://127.0.0.1:{site.port}/v1"
            said = json.loads(await output("node", str(PROGRAM), BASE_URL=base, API_KEY=site.key))
            assert said == {
                "node": {"chat": ["APIError", SAID, CODE], "responses": ["APIError", SAID, CODE]},
                "openrouter": {"chat": [502, SAID, CODE, "error"], "responses": ["response.failed", SAID]},
                "vercel": {name: [[SAID], "error"] for name in VERCELS},
            }

    assert node_modules.is_dir()
    run(test())


def test_clients_for_python_raise_it() -> None:
    async def test() -> None:
        async with (
            Site(BREAKS) as site,
            openai.AsyncOpenAI(base_url=f"{site.url}/v1", api_key=site.key, max_retries=0) as client,
            anthropic.AsyncAnthropic(base_url=site.url, api_key=site.key, max_retries=0) as claude,
        ):
            asked: Any = {"model": "m", "messages": MESSAGES}
            for stream in (
                client.chat.completions.create(**asked, stream=True),
                client.responses.create(model="m", input="hi", stream=True),
            ):
                with pytest.raises(openai.APIError, match=SAID) as caught:
                    [None async for _ in await stream]
                assert caught.value.code == CODE
            with pytest.raises(openai.APIError, match=SAID):
                async with client.responses.stream(model="m", input="hi") as helped:
                    await helped.get_final_response()
            with pytest.raises(anthropic.APIStatusError, match=SAID):
                async with claude.messages.stream(**asked, max_tokens=100) as told:
                    await told.get_final_message()

    run(test())
