"""Writes a conversation of another dialect as the body of OpenAI's chat, for OpenAI and servers that follow it.

Rule 1  Only what OpenAI publishes for chat is sent, and what servers whose models think between calls of tools want
        back within one turn of the user: `reasoning_content` (api-docs.deepseek.com/guides/thinking_mode), and
        `reasoning_details` if they gave any (openrouter.ai/docs/guides/best-practices/reasoning-tokens).
Rule 2  System and developer are one role: OpenAI reads either as the model wants it, other servers know only `system`.
Rule 3  A tool's message holds only text: pictures and files that a tool answered with follow in a user's message.
"""

from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.values import Route, Upstream
from tollbridge.wire import quirks
from tollbridge.wire.conversation import (
    Audio,
    Conversation,
    Document,
    Fit,
    Format,
    Image,
    Opaque,
    Part,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    is_marked,
)
from tollbridge.wire.openai_chat_conversation import ORIGIN
from tollbridge.wire.openai_parts import drawn_member, image_url

# Members that have the same name and meaning in chat and Responses.
_SHARED = frozenset({"service_tier"})
# Hints that only OpenAI's own servers know; others may refuse a request for them.
_OPENAI_HINTS = ("prompt_cache_key", "safety_identifier")
_OPENAI = frozenset({"openai", "azure"})
_EMPTY_SCHEMA = Raw(b'{"type":"object","properties":{}}')


def body_of(conversation: Conversation, route: Route, limit: int | None) -> tuple[bytes, tuple[str, ...]]:
    """The body, and the caller's fields that were left out; raises `UnsupportedField`."""
    upstream = route.upstream
    fit = Fit(conversation, "a server that speaks OpenAI's chat")
    body: dict[str, Any] = {
        "model": route.upstream_model,
        "messages": _Messages(conversation, fit, upstream).messages,
    }
    if conversation.stream:
        body["stream"] = True
        if upstream.stream_usage:
            body["stream_options"] = {"include_usage": True}
    limits = [most for most in (conversation.max_tokens, limit) if most is not None]
    if limits:
        body["max_tokens"] = min(limits)
    if is_marked(conversation):
        fit.hint("cache_control")
    _put_sampling(body, conversation, fit)
    _put_tools(body, conversation)
    _put_answer(body, conversation, fit)
    for name, value in conversation.extras.items():
        if name in _SHARED:
            body[name] = value
        else:
            fit.lacks(name)
    if upstream.provider in _OPENAI:
        for name in _OPENAI_HINTS:
            if name in conversation.hints:
                body[name] = conversation.hints[name]
    for old, new in upstream.renames:
        if old in body:
            body[new] = body.pop(old)
    for name in upstream.drops:
        if name in body:
            fit.hint(name)
    quirks.change(body, upstream)
    return msgspec.json.encode(body), tuple(fit.dropped)


def _put_sampling(body: dict[str, Any], conversation: Conversation, fit: Fit) -> None:
    given: dict[str, Any] = {
        "temperature": conversation.temperature,
        "top_p": conversation.top_p,
        "seed": conversation.seed,
        "presence_penalty": conversation.presence_penalty,
        "frequency_penalty": conversation.frequency_penalty,
        "logprobs": conversation.logprobs,
        "top_logprobs": conversation.top_logprobs,
        "logit_bias": conversation.logit_bias,
        "stop": conversation.stop or None,
        "user": conversation.end_user or None,
    }
    body.update((name, value) for name, value in given.items() if value is not None)
    if conversation.choices > 1:
        body["n"] = conversation.choices
    if conversation.top_k is not None:
        fit.lacks("top_k")


def _put_tools(body: dict[str, Any], conversation: Conversation) -> None:
    if not conversation.tools:
        return
    body["tools"] = [_tool(tool) for tool in conversation.tools]
    if conversation.parallel_tools is not None:
        body["parallel_tool_calls"] = conversation.parallel_tools
    choice = conversation.tool_choice
    if choice is not None:
        named = {"type": "function", "function": {"name": choice.name}}
        body["tool_choice"] = named if choice.mode == "one" else choice.mode


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = _EMPTY_SCHEMA if tool.parameters is None else tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _put_answer(body: dict[str, Any], conversation: Conversation, fit: Fit) -> None:
    if conversation.format is not None:
        body["response_format"] = _format(conversation.format)
    if conversation.verbosity is not None:
        body["verbosity"] = conversation.verbosity
    reasoning = conversation.reasoning
    if reasoning is not None:
        effort = quirks.effort(reasoning.effort, reasoning.budget)
        if effort is not None:
            body["reasoning_effort"] = effort
        if effort != reasoning.effort or effort is None:
            fit.hint("reasoning")


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.kind == "text":
        return {"type": "text"}
    if wanted.kind == "json":
        return {"type": "json_object"}
    schema: dict[str, Any] = {"name": wanted.name or "answer"}
    if wanted.description:
        schema["description"] = wanted.description
    if wanted.schema is not None:
        schema["schema"] = wanted.schema
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": schema}


def _proofs(thought: Thinking) -> list[Raw]:
    """The `reasoning_details` in a signature; none if it is another dialect's."""
    if thought.origin != ORIGIN or not thought.signature:
        return []
    try:
        return msgspec.json.decode(thought.signature, type=list[Raw])
    except msgspec.DecodeError:
        return []


class _Messages:
    """The messages of a conversation, in order."""

    def __init__(self, conversation: Conversation, fit: Fit, upstream: Upstream) -> None:
        self.messages: list[dict[str, Any]] = []
        self._fit = fit
        self._takes_thoughts = "reasoning_content" not in upstream.drops
        self._last_user = max((at for at, turn in enumerate(conversation.turns) if turn.role == "user"), default=-1)
        self._shown: list[dict[str, Any]] = []  # pictures and files of tools, until their run of messages is over
        for index, turn in enumerate(conversation.turns):
            self._add(index, turn)
        self._show()

    def _add(self, index: int, turn: Turn) -> None:
        if turn.role == "tool":
            for part in turn.parts:
                if isinstance(part, ToolResult):
                    self._result(part)
            return
        self._show()
        message: dict[str, Any] = {"role": "system" if turn.role == "developer" else turn.role}
        if turn.name:
            message["name"] = turn.name
        if turn.role == "assistant":
            self._assistant(message, turn.parts, is_open=index > self._last_user)
        else:
            message["content"] = self._content(turn.parts)
        self.messages.append(message)

    def _show(self) -> None:
        if self._shown:
            self.messages.append({"role": "user", "content": self._shown})
            self._shown = []

    def _result(self, result: ToolResult) -> None:
        texts = [part.text for part in result.parts if isinstance(part, Text)]
        shown = [part for part in result.parts if not isinstance(part, Text)]
        if shown:
            self._shown.append(
                {"type": "text", "text": f"What the call {result.id} of {result.name or 'a tool'} gave:"}
            )
            self._shown += filter(None, map(self._part, shown))
        self.messages.append({"role": "tool", "tool_call_id": result.id, "content": "\n".join(texts)})

    def _assistant(self, message: dict[str, Any], parts: tuple[Part, ...], *, is_open: bool) -> None:
        texts: list[str] = []
        thoughts: list[str] = []
        proofs: list[Raw] = []
        refusals: list[str] = []
        calls: list[dict[str, Any]] = []
        images: list[dict[str, Any]] = []
        for part in parts:
            match part:
                case Text():
                    texts.append(part.text)
                case Thinking():
                    if part.origin in ("", ORIGIN):
                        thoughts.append(part.text)
                        proofs += _proofs(part)
                case Refusal():
                    refusals.append(part.text)
                case ToolCall():
                    function = {"name": part.name, "arguments": part.arguments}
                    calls.append({"id": part.id, "type": "function", "function": function})
                case Image():
                    images.append(drawn_member(part, len(images)))
                case Opaque():
                    self._fit.lacks(part.param)
                case _:
                    self._fit.lacks("turns", "messages of the assistant can only carry text and pictures")
        message["content"] = "".join(texts) if texts or not (calls or refusals) else None
        if images:
            message["images"] = images  # where the server had put them
        if refusals:
            message["refusal"] = "".join(refusals)
        if calls:
            message["tool_calls"] = calls
        if is_open and self._takes_thoughts and any(thoughts):
            message["reasoning_content"] = "\n".join(thoughts)
        if is_open and self._takes_thoughts and proofs:
            message["reasoning_details"] = proofs

    def _content(self, parts: tuple[Part, ...]) -> str | list[dict[str, Any]]:
        if len(parts) == 1 and isinstance(parts[0], Text):
            return parts[0].text
        return [shown for part in parts if (shown := self._part(part)) is not None]

    def _part(self, part: Part) -> dict[str, Any] | None:
        match part:
            case Text():
                return {"type": "text", "text": part.text}
            case Image():
                shown: dict[str, Any] = {"url": image_url(part)}
                if part.detail is not None:
                    shown["detail"] = part.detail
                return {"type": "image_url", "image_url": shown}
            case Document():
                return self._document(part)
            case Audio():
                return {"type": "input_audio", "input_audio": {"data": part.data, "format": part.format}}
            case Opaque():
                self._fit.lacks(part.param)
            case _:
                self._fit.lacks("turns", "a part of a message belongs to another role")
        return None

    def _document(self, document: Document) -> dict[str, Any] | None:
        if document.text:
            head = f"{document.title}\n\n" if document.title else ""
            return {"type": "text", "text": head + document.text}
        if document.url:
            self._fit.lacks("turns", "a file must come with its data")
            return None
        kind = document.media_type.rpartition("/")[2] or "pdf"
        data = f"data:{document.media_type};base64,{document.data}"
        return {"type": "file", "file": {"filename": document.title or f"document.{kind}", "file_data": data}}
