"""Prompts that no model of that name can read are refused unsent."""

from typing import Any

import pytest
from tests.gateway.site import Json, Site, always, chat, completion, run, says

SMALL = """
[[models]]
id = "small"
context_window = 1000
price = { input = "1", output = "2" }
routes = [{ provider = "up", model = "small" }]

[[models]]
id = "small-e"
type = "embedding"
context_window = 1000
price = { input = "1" }
routes = [{ provider = "up", model = "small-e" }]
"""
# More than a token each, so that a thousand of them fill the window.
WORDS = "word " * 1_000
VECTORS = [{"object": "embedding", "index": index, "embedding": [0.5]} for index in range(3)]
EMBEDDED = {"object": "list", "data": VECTORS, "model": "x", "usage": {"prompt_tokens": 3_000, "total_tokens": 3_000}}


def ask(text: str, **fields: Any) -> Json:
    return {**chat(text, **fields), "model": "small"}


def embed(*texts: str) -> Json:
    return {"model": "small-e", "input": list(texts)}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        # The count is an estimate: what may be twice as long as the window is left to the provider.
        ("chat/completions", ask(WORDS + WORDS[:3_000]), None),
        ("chat/completions", ask(WORDS * 3), "messages"),
        ("chat/completions", ask(WORDS * 3, provider={"order": ["up"]}), "messages"),
        ("embeddings", embed(WORDS * 3), "input"),
        # Each text has a window to itself.
        ("embeddings", embed(WORDS, WORDS, WORDS), None),
        ("embeddings", embed(WORDS * 3, WORDS * 3), "input"),
    ],
)
def test_a_prompt_that_is_certainly_too_long_is_refused_unsent(path: str, body: Json, param: str | None) -> None:
    async def test() -> None:
        answer: Any = says(EMBEDDED if path == "embeddings" else completion())
        async with Site(always(answer), config=SMALL) as site:
            reply = await site.post(f"/v1/{path}", body)
            if param is None:
                assert reply.status == 200
                return
            assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")
            assert reply.json["error"]["param"] == param
            assert "at most 1,000" in reply.json["error"]["message"]
            assert site.upstream.accepted == 0

    run(test())


@pytest.mark.parametrize(
    ("path", "body", "right"),
    [
        ("chat/completions", {**chat(), "model": "small-e"}, "use /v1/embeddings"),
        ("embeddings", {"model": "small", "input": "hi"}, "use /v1/chat/completions"),
    ],
)
def test_who_calls_a_model_of_another_kind_is_told_where(path: str, body: Json, right: str) -> None:
    async def test() -> None:
        async with Site(always(says(completion())), config=SMALL) as site:
            reply = await site.post(f"/v1/{path}", body)
            assert (reply.status, reply.json["error"]["param"]) == (400, "model")
            assert right in reply.json["error"]["message"]
            assert site.upstream.accepted == 0

    run(test())
