"""Chunks for OpenRouter's SDKs, which refuse null for what they take to be absent or there."""

import json
from typing import Any

from tests.gateway.site import DONE, Site, always, chat, chunk, run, streams, usage_chunk

SDK = {"user-agent": "speakeasy-sdk/typescript 1.3.19 2.914.0 1.0.0 @openrouter/sdk"}
# What a model says is not ours to change, however much it looks like a member.
TEXT = ',"usage":null, "system_fingerprint": null'
NULLS: Any = {"system_fingerprint": None, "usage": None}


def test_openrouters_sdks_get_no_null_and_others_what_the_provider_sent() -> None:
    events = [*[chunk(TEXT, **NULLS)] * 4, chunk(finish="stop", **NULLS), usage_chunk(10, 5), DONE]

    async def test() -> None:
        async with Site(always(streams(events))) as site:
            wishes: tuple[Any, ...] = ({}, {"stream_options": {"include_usage": True}})
            for wish in wishes:
                theirs, others = [
                    await site.post("/v1/chat/completions", chat(stream=True, **wish), headers) for headers in (SDK, {})
                ]
                assert theirs.text == others.text == TEXT * 4
                told = [[(name, each[name]) for name in NULLS if name in each] for each in theirs.chunks]
                assert [names for names in told if names] == [[("usage", theirs.chunks[-1]["usage"])]]
                assert json.dumps(theirs.chunks[-1]["usage"]).startswith('{"prompt_tokens": 10')
                assert others.chunks[0]["usage"] is None
                assert others.chunks[0]["system_fingerprint"] is None

    run(test())
