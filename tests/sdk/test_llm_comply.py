"""An independent check of API compliance, llm-comply, against each of our endpoints."""

import json
import sys
from typing import Any

import pytest
from tests.gateway.site import Site, always, run
from tests.sdk.programs import output
from tests.sdk.scripted import openai_provider

# The compaction of OpenAI's own Responses service is no part of the open specification; llm-comply calls it advisory.
ADVISORY = {"compact-response", "compact-missing-model"}
OWN = {"anthropic": ("--auth-header", "x-api-key", "--no-bearer", "-H", "anthropic-version:2023-06-01")}
# It asks for reasoning only of models whose names say that they reason.
MODEL = "claude-sonnet-4-or-gpt-5"
CONFIG = f"""
[[models]]
id = "{MODEL}"
context_window = 100000
price = {{ input = "1", output = "2" }}
routes = [{{ provider = "up", model = "upstream-m" }}]
"""


@pytest.mark.parametrize("dialect", ["openai-chat", "open-responses", "anthropic"])
def test_endpoint_complies(dialect: str) -> None:
    async def test() -> None:
        async with Site(always(openai_provider), config=CONFIG) as site:
            place = ("-u", f"http://127.0.0.1:{site.port}/v1", "-k", site.key, "-m", MODEL)
            own = OWN.get(dialect, ())
            said = await output(sys.executable, "-m", "llm_comply.cli", "--json", "--format", dialect, *place, *own)
        results: list[dict[str, Any]] = json.loads(said[said.index("{") :])["results"]
        assert len(results) >= 8
        wrong = {each["id"]: each for each in results if each["status"] != "passed" and each["id"] not in ADVISORY}
        assert not wrong

    run(test())
