"""The official Node client and curl, as the published documentation calls them."""

import json
from pathlib import Path
from typing import Any

from tests.gateway.site import Site, always, by_kind, completion, run, says, stream, streams
from tests.sdk.programs import output

HERE = Path(__file__).parent
VECTORS = {
    "object": "list",
    "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 1.0]}],
    "model": "e",
    "usage": {"prompt_tokens": 2, "total_tokens": 2},
}


async def provider(request: Any, peer: Any) -> None:
    kind = says(VECTORS) if request.target.endswith(b"/embeddings") else by_kind(says(completion()), streams(stream()))
    await kind(request, peer)


def test_node_client_makes_the_published_calls(node_modules: Path) -> None:
    async def test() -> None:
        async with Site(always(provider)) as site:
            base = f"http://127.0.0.1:{site.port}/v1"
            said = json.loads(await output("node", str(HERE / "published.mjs"), BASE_URL=base, API_KEY=site.key))
        assert said["whole"] == said["streamed"] == "Hello!"
        assert said["cost"] > 0
        assert said["embedding"] == [0.25, -0.5, 1.0]
        assert {"m", "e"} <= set(said["models"])
        assert said["refused"] == ["NotFoundError", 404, "model_not_found"]

    assert node_modules.is_dir()
    run(test())


def test_curl_streams_the_published_call() -> None:
    async def test() -> None:
        async with Site(always(provider)) as site:
            said = await output(
                *("curl", "-sN", f"http://127.0.0.1:{site.port}/v1/chat/completions"),
                *("-H", f"Authorization: Bearer {site.key}", "-H", "Content-Type: application/json"),
                *("-d", '{"model":"m","messages":[{"role":"user","content":"Stream a haiku"}],"stream":true}'),
            )
        events = said.strip().split("\n\n")
        assert all(each.startswith("data: ") for each in events)
        assert events[-1] == "data: [DONE]"

    run(test())
