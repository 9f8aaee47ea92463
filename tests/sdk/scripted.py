"""A provider with a scripted model: it calls a tool that it is given, writes JSON if it must, and otherwise talks."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.gateway.site import DONE, Json, chunk, completion, says, streams, usage_chunk
from tests.upstream.bad_server import Peer, Request

TEXT = "It is sunny in Paris."
ARGUMENTS = {"city": "Paris"}
# What the model puts into a tool's required parameters.
_WORTH = {**ARGUMENTS, "location": "Paris", "cmd": "echo toll", "command": "echo toll", "description": "Say a word"}
VECTOR = [0.25, -0.5, 1.0]
USED = (20, 7)


async def openai_provider(request: Request, peer: Peer) -> None:
    """Chat and embeddings as OpenAI serves them, whole and streamed."""
    body = json.loads(request.body)
    if request.target.endswith(b"/embeddings"):
        await says(_vectors(body))(request, peer)
        return
    tool = _tool(body)
    text = json.dumps(ARGUMENTS) if _wants_json(body) else TEXT
    if not body.get("stream"):
        await says(_whole(text, tool, thinks="reasoning_effort" in body))(request, peer)
    else:
        await streams(_spoken(text) if tool is None else _calling(tool))(request, peer)


def _vectors(body: Json) -> Json:
    count = len(body["input"]) if isinstance(body["input"], list) else 1
    data = [{"object": "embedding", "index": index, "embedding": VECTOR} for index in range(count)]
    return {"object": "list", "data": data, "model": "e", "usage": {"prompt_tokens": 2, "total_tokens": 2}}


class Call(NamedTuple):
    name: str
    arguments: str  # JSON


def _tool(body: Json) -> Call | None:
    """The call to make: to the first tool whose parameters are understood, until it has been answered."""
    if any(message["role"] == "tool" for message in body["messages"]):
        return None
    for tool in body.get("tools") or ():
        function = tool["function"]
        required = function["parameters"].get("required", ())
        if required and all(name in _WORTH for name in required):
            return Call(function["name"], json.dumps({name: _WORTH[name] for name in required}))
    return None


def _wants_json(body: Json) -> bool:
    return str((body.get("response_format") or {}).get("type", "")).startswith("json")


def _whole(text: str, tool: Call | None, *, thinks: bool) -> Json:
    """An answer with everything that OpenAI's own schema requires."""
    answer = completion(text, USED, "stop" if tool is None else "tool_calls")
    choice = answer["choices"][0]
    choice["logprobs"] = None
    choice["message"] |= {"refusal": None, "annotations": []}
    if thinks:
        choice["message"]["reasoning_content"] = "Paris is often sunny."
        answer["usage"]["completion_tokens_details"] = {"reasoning_tokens": 4}
    if tool is not None:
        function = tool._asdict()
        choice["message"] |= {
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        }
    return answer


def _spoken(text: str) -> Sequence[bytes]:
    words = [word + " " for word in text.split(" ")]
    words[-1] = words[-1].strip()
    nulls = {"system_fingerprint": None, "usage": None}  # as from OpenAI, until usage comes
    return [*(chunk(word, **nulls) for word in words), chunk(finish="stop", **nulls), usage_chunk(*USED), DONE]


def _calling(tool: Call) -> Sequence[bytes]:
    def delta(**call: Any) -> bytes:
        choice = {"index": 0, "delta": {"tool_calls": [{"index": 0, **call}]}, "finish_reason": None}
        return chunk(choices=[choice])

    text = tool.arguments
    start = delta(id="call_1", type="function", function={"name": tool.name, "arguments": ""})
    parts = [delta(function={"arguments": text[at : at + 4]}) for at in range(0, len(text), 4)]
    return [start, *parts, chunk(finish="tool_calls"), usage_chunk(*USED), DONE]
