"""Vercel's AI SDK with the providers that people point at gateways: compatible, OpenRouter's, OpenAI's, Anthropic's."""

import json
from pathlib import Path

import pytest
from tests.gateway.site import Site, always, run
from tests.sdk.programs import output
from tests.sdk.scripted import ARGUMENTS, TEXT, USED, openai_provider

PROGRAM = Path(__file__).with_name("vercel.mjs")


@pytest.mark.parametrize("provider", ["compatible", "openrouter", "chat", "responses", "messages"])
def test_vercels_sdk_writes_streams_calls_tools_and_makes_objects(node_modules: Path, provider: str) -> None:
    async def test() -> None:
        async with Site(always(openai_provider)) as site:
            base = f"http://127.0.0.1:{site.port}/v1"
            said = json.loads(await output("node", str(PROGRAM), BASE_URL=base, API_KEY=site.key, PROVIDER=provider))
            assert said == {
                "whole": TEXT,
                "wholeUsage": list(USED),
                "streamed": TEXT,
                "streamedUsage": list(USED),
                "finish": "stop",
                "withTool": TEXT,
                "streamedTool": TEXT,
                "cities": ["Paris", "Paris"],
                "object": ARGUMENTS,
                "refused": 404,
            }
            rows = await site.settled(7)
            assert all(row["charge"] > 0 for row in rows)

    assert node_modules.is_dir()
    run(test())
