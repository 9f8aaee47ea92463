"""OpenRouter's own SDK, whose schemas refuse an answer in which a member is missing."""

import json
from pathlib import Path

from tests.gateway.site import INPUT_NANO, OUTPUT_NANO, Site, always, run
from tests.sdk.programs import output
from tests.sdk.scripted import ARGUMENTS, TEXT, USED, VECTOR, openai_provider

PROGRAM = Path(__file__).with_name("openrouter.mjs")
READ, WRITTEN = USED[0] * INPUT_NANO / 1e9, USED[1] * OUTPUT_NANO / 1e9
COST = (USED[0] * INPUT_NANO + USED[1] * OUTPUT_NANO) / 1e9
CHAT = {
    "upstreamInferenceCost": COST,
    "upstreamInferencePromptCost": READ,
    "upstreamInferenceCompletionsCost": WRITTEN,
}
RESPONSE = {"upstreamInferenceCost": COST, "upstreamInferenceInputCost": READ, "upstreamInferenceOutputCost": WRITTEN}


def test_openrouters_sdk_reads_answers_costs_lists_and_errors(node_modules: Path) -> None:
    async def test() -> None:
        async with Site(always(openai_provider)) as site:
            base = f"http://127.0.0.1:{site.port}/v1"
            said = json.loads(await output("node", str(PROGRAM), BASE_URL=base, API_KEY=site.key))
            _, total, kind = said.pop("generation")
            spent = sum(row["charge"] for row in await site.settled(7)) / 1e9
            assert said == {
                "text": TEXT,
                "costs": [COST, CHAT],
                "streamed": TEXT,
                "streamedCosts": CHAT,
                "asked": [TEXT, COST],
                "called": {"name": "weather", "arguments": json.dumps(ARGUMENTS)},
                "response": RESPONSE,
                "completed": RESPONSE,
                "vector": VECTOR,
                "models": [["m", 100_000, "0.000001", "0.000002"], ["e", 8192, "0.000001", "0"]],
                "key": spent,
                "credits": [1, spent],
                "wrongKey": ["UnauthorizedResponseError", 401, 401, "invalid_api_key", "Incorrect"],
                "wrongModel": ["NotFoundResponseError", 404, 404, "model_not_found", "The"],
                "wrongBody": ["BadRequestResponseError", 400, 400, "invalid_request_error", "Invalid"],
            }
            assert (total, kind) == (COST, "completions")

    assert node_modules.is_dir()
    run(test())
