"""Pictures that a model drew, by the official clients of Responses and Messages: whole and streamed, and sent back."""

import asyncio
import json
from typing import Any

import anthropic
import openai
import pytest
from tests.gateway.site import DONE, Json, Site, always, chunk, completion, event, run, says, streams, usage_chunk
from tests.upstream.bad_server import Peer, Request

# Larger than any event that holds text alone.
DATA = "iVBOR" + "A" * (2 << 20) + "w"
QUESTION: Any = [{"role": "user", "content": "Draw a cat."}]
SHOWN = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{DATA}"}, "index": 0}]
PARTS: list[Json] = [{"text": "Here: "}, {"inlineData": {"mimeType": "image/png", "data": DATA}}]


class Provider:
    """`got`: the bodies that it was sent."""

    def __init__(self, dialect: str) -> None:
        self.got: list[Json] = []
        self._answer = self._gemini if dialect == "gemini" else self._openai

    async def __call__(self, request: Request, peer: Peer) -> None:
        self.got.append(json.loads(request.body))
        await self._answer(request, peer)

    async def _gemini(self, request: Request, peer: Peer) -> None:
        used = {"promptTokenCount": 10, "candidatesTokenCount": 5, "totalTokenCount": 15}

        def answer(parts: list[Json], **more: Any) -> Json:
            return {"candidates": [{"content": {"role": "model", "parts": parts}, **more}], "usageMetadata": used}

        if b":stream" in request.target:
            events = [event(answer([PARTS[0]])), event(answer([PARTS[1]], finishReason="STOP"))]
            await streams(events)(request, peer)
        else:
            await says(answer(PARTS, finishReason="STOP"))(request, peer)

    async def _openai(self, request: Request, peer: Peer) -> None:
        if self.got[-1].get("stream"):
            choice = {"index": 0, "delta": {"images": SHOWN}, "finish_reason": None}
            events = [chunk("Here: "), chunk(choices=[choice]), chunk(finish="stop"), usage_chunk(10, 5), DONE]
            await streams(events)(request, peer)
        else:
            answer = completion("Here: ")
            answer["choices"][0]["message"]["images"] = SHOWN
            await says(answer)(request, peer)


def responses(base: str, key: str) -> None:
    with openai.OpenAI(base_url=f"{base}/v1", api_key=key) as client:
        whole = client.responses.create(model="m", input=QUESTION)
        with client.responses.stream(model="m", input=QUESTION) as stream:
            kinds = [each.type for each in stream]
            final = stream.get_final_response()
        assert "response.image_generation_call.completed" in kinds
        for answer in (whole, final):
            assert answer.output_text == "Here: "
            [drawn] = [item for item in answer.output if item.type == "image_generation_call"]
            assert (drawn.result, drawn.status) == (DATA, "completed")
        said: Any = [item.model_dump() for item in whole.output]
        client.responses.create(model="m", input=[*QUESTION, *said, *QUESTION])


def messages(base: str, key: str) -> None:
    with anthropic.Anthropic(base_url=base, api_key=key) as client:
        whole = client.messages.create(model="m", max_tokens=50, messages=QUESTION)
        with client.messages.stream(model="m", max_tokens=50, messages=QUESTION) as stream:
            final = stream.get_final_message()
        for answer in (whole, final):
            text, drawn = (block.to_dict() for block in answer.content)
            assert text["text"] == "Here: "
            assert drawn == {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": DATA}}
        said: Any = {"role": "assistant", "content": [block.to_dict() for block in whole.content]}
        client.messages.create(model="m", max_tokens=50, messages=[*QUESTION, said, *QUESTION])


@pytest.mark.parametrize("dialect", ["openai_chat", "gemini"])
@pytest.mark.parametrize("use", [responses, messages])
def test_a_picture_reaches_the_caller_and_goes_back(use: Any, dialect: str) -> None:
    async def test() -> None:
        provider = Provider(dialect)
        async with Site(always(provider), dialect=dialect) as site:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, use, f"http://127.0.0.1:{site.port}", site.key)
            rows = await site.settled(3)
            assert [row["charge"] > 0 for row in rows] == [True] * 3
        if dialect == "gemini":
            assert provider.got[-1]["contents"][1] == {"role": "model", "parts": PARTS}
        else:
            sent = provider.got[-1]["messages"][1]
            assert (sent["content"], sent["images"]) == ("Here: ", SHOWN)

    run(test())
