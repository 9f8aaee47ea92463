"""What Responses answers with: the response object, its items, and its usage.

From https://platform.openai.com/docs/api-reference/responses/object, and https://www.openresponses.org for the members
that are always present.
"""

from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.values import Usage
from tollbridge.wire import usage
from tollbridge.wire.body import NULL
from tollbridge.wire.conversation import Finish, Image, Reason, Thinking
from tollbridge.wire.exchange import Names, Receipt
from tollbridge.wire.openai_parts import custom_input
from tollbridge.wire.responses_body import Body
from tollbridge.wire.responses_conversation import sealed
from tollbridge.wire.responses_tools import Known, search_arguments, shell_action

# Members that repeat the request's, with their values if the request has none.
_ECHOED = {
    "instructions": NULL,
    "max_output_tokens": NULL,
    "max_tool_calls": NULL,
    "metadata": Raw(b"{}"),
    "parallel_tool_calls": Raw(b"true"),
    "presence_penalty": Raw(b"0"),
    "frequency_penalty": Raw(b"0"),
    "prompt_cache_key": NULL,
    "safety_identifier": NULL,
    "temperature": Raw(b"1"),
    "tool_choice": Raw(b'"auto"'),
    "top_logprobs": Raw(b"0"),
    "top_p": Raw(b"1"),
    "truncation": Raw(b'"disabled"'),
    "user": NULL,
}
_FUNCTION = Raw(b'"function"')
_INCOMPLETE: dict[Reason, str] = {"length": "max_output_tokens", "filtered": "content_filter"}

_decode_logprobs = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_tokens = msgspec.json.Decoder(list[dict[str, Raw]] | None).decode
_encode = msgspec.json.Encoder().encode


class Ending(msgspec.Struct, frozen=True):
    """How a response ended. `reason`: why it is incomplete, if it is."""

    status: str
    reason: str | None = None


def ending_of(finish: Finish, *, has_refusal: bool) -> Ending:
    reason = _INCOMPLETE.get(finish.reason)
    if finish.reason == "refused" and not has_refusal:
        reason = "content_filter"
    return Ending("completed" if reason is None else "incomplete", reason)


class Frame:
    """A response without its output."""

    def __init__(self, body: Body, fields: dict[str, Raw], names: Names) -> None:
        self._members: dict[str, Any] = {
            "id": names.id,
            "object": "response",
            "created_at": names.created,
            "completed_at": None,
            "model": names.model,
            "background": False,
            "previous_response_id": None,
            "store": False,
            "service_tier": "default",
            "reasoning": _reasoning(body),
            "text": _text(body, fields),
            "tools": _tools(fields),
        }
        for name, usual in _ECHOED.items():
            value = fields.get(name, NULL)
            self._members[name] = usual if value == NULL else value
        # The stem of its items' ids, unique to this response.
        self._stem = names.id.replace("-", "_").rpartition("_")[2]

    def item_id(self, kind: str, index: int) -> str:
        return f"{kind}_{self._stem}{index:02x}"

    def response(self, ending: Ending, output: list[Any], more: dict[str, Any]) -> dict[str, Any]:
        """The response object. `more`: usage, error, detail."""
        reason = ending.reason
        return {
            **self._members,
            "status": ending.status,
            "incomplete_details": None if reason is None else {"reason": reason},
            "error": None,
            "output": output,
            "usage": None,
            **more,
        }


def _reasoning(body: Body) -> dict[str, Any]:
    asked = body.reasoning
    if asked is None:
        return {"effort": None, "summary": None}
    return {"effort": asked.effort, "summary": asked.summary or asked.generate_summary}


def _text(body: Body, fields: dict[str, Raw]) -> dict[str, Any]:
    text: dict[str, Any] = {"format": {"type": "text"}}
    if body.text is not None:
        asked = msgspec.json.decode(fields["text"], type=dict[str, Raw])
        text |= {name: raw for name, raw in asked.items() if raw != NULL}
    return text


def _tools(fields: dict[str, Raw]) -> list[dict[str, Raw]]:
    raw = fields.get("tools", NULL)
    if raw == NULL:
        return []
    tools = msgspec.json.decode(raw, type=list[dict[str, Raw]])
    for tool in tools:
        if tool.get("type") == _FUNCTION:
            for name in ("description", "parameters", "strict"):
                tool.setdefault(name, NULL)
    return tools


def ended(ending: Ending, counted: Usage | None, receipt: Receipt | None) -> dict[str, Any]:
    """The members of a response that has ended. Its time is told only of one that is complete."""
    shown: dict[str, Any] = {"usage": usage_of(counted, receipt)}
    if receipt is not None and ending.status == "completed":
        shown["completed_at"] = receipt.ended
    return shown


def usage_of(counted: Usage | None, receipt: Receipt | None) -> dict[str, Any] | None:
    if receipt is not None and receipt.usage is not None:
        counted = receipt.usage
    if counted is None and receipt is None:
        return None
    counted = counted or Usage()
    written = counted.cache_write + counted.cache_write_1h
    shown: dict[str, Any] = {
        "input_tokens": counted.prompt,
        "input_tokens_details": {"cached_tokens": counted.cache_read, "cache_write_tokens": written},
        "output_tokens": counted.completion,
        "output_tokens_details": {"reasoning_tokens": counted.reasoning},
        "total_tokens": counted.prompt + counted.completion,
    }
    if receipt is not None:
        shown.update(usage.money(receipt, "input", "output"))
    return shown


# --- Items ---


def message(id_: str, content: list[dict[str, Any]], status: str) -> dict[str, Any]:
    return {"type": "message", "id": id_, "status": status, "role": "assistant", "content": content}


def output_text(text: str, annotations: list[dict[str, Any]], logprobs: list[Raw]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": annotations, "logprobs": logprobs}


def reasoning(id_: str, thought: Thinking, status: str, *, as_summary: bool) -> dict[str, Any]:
    """A thought; once it is over, with everything needed to send it back."""
    item: dict[str, Any] = {"type": "reasoning", "id": id_, "summary": []}
    if thought.text and as_summary:
        item["summary"] = [{"type": "summary_text", "text": thought.text}]
    elif thought.text:
        item["content"] = [{"type": "reasoning_text", "text": thought.text}]
    if status != "in_progress":
        item["encrypted_content"] = sealed(thought)
    item["status"] = status
    return item


def picture(id_: str, image: Image | None) -> dict[str, Any]:
    """A picture that the model drew; None: it is being drawn."""
    item: dict[str, Any] = {"type": PICTURE, "id": id_, "status": "in_progress", "result": None}
    if image is not None:
        item |= {"status": "completed", "result": image.data}
        item["output_format"] = image.media_type.rpartition("/")[2]
    return item


def call_signature(id_: str, signature: str, origin: str, call: str) -> dict[str, Any]:
    """A tool call's signature, as reasoning: callers send that back, but not extra members of a call."""
    seal = sealed(Thinking(signature=signature, origin=origin), call)
    return {"type": "reasoning", "id": id_, "summary": [], "encrypted_content": seal, "status": "completed"}


def tool_call(id_: str, call: str, known: Known, arguments: str, status: str) -> dict[str, Any]:
    item: dict[str, Any]
    if known.kind == "custom":
        item = {"type": "custom_tool_call", "id": id_, "call_id": call, "name": known.name}
        item["input"] = custom_input(arguments) if arguments else ""
        if known.namespace:
            item["namespace"] = known.namespace
        return {**item, "status": status}
    if known.kind == "local_shell":
        action = shell_action(arguments or '{"command":[]}')
        return {"type": "local_shell_call", "id": id_, "call_id": call, "action": action, "status": status}
    if known.kind == "tool_search":
        item = {"type": "tool_search_call", "id": id_, "call_id": call, "execution": "client"}
        return {**item, "arguments": search_arguments(arguments), "status": status}
    item = {"type": "function_call", "id": id_, "call_id": call, "name": known.name, "arguments": arguments}
    if known.namespace:
        item["namespace"] = known.namespace
    return {**item, "status": status}


PICTURE = "image_generation_call"
PREFIXES = {"function": "fc", "custom": "ctc", "local_shell": "lsh", "tool_search": "tsc"}


def logprobs_of(raw: Raw | None) -> list[Raw]:
    """The tokens in a choice's logprobs, as OpenAI's chat has them.

    There, the bytes of a token that is no text are null, and other servers leave members out; here, both are lists.
    """
    if raw is None:
        return []
    try:
        tokens = _decode_tokens(_decode_logprobs(raw).get("content", NULL)) or []
        for token in tokens:
            others = _decode_tokens(token.get("top_logprobs", NULL)) or []
            token["top_logprobs"] = Raw(_encode([_with_bytes(other) for other in others]))
        return [Raw(_encode(_with_bytes(token))) for token in tokens]
    except msgspec.DecodeError:
        return []


def _with_bytes(token: dict[str, Raw]) -> dict[str, Raw]:
    return token if token.get("bytes", NULL) != NULL else {**token, "bytes": Raw(b"[]")}
