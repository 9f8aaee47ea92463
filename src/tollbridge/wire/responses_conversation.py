"""Reads a request of Responses into a `Conversation`.

Rule 1  Consecutive items of one side are one turn; what a tool answered is a turn of its own.
Rule 2  A thought comes back with the signature with which it went out: `encrypted_content` is made here (`sealed`), and
        also holds the thought itself, for clients that keep nothing else of it (Codex).
Rule 3  Items that only record what OpenAI's own tools did, or that only offer tools, are left out; items that a model
        would have to understand are refused by name.
"""

import base64
import binascii

import msgspec
from msgspec import Raw

from tollbridge.wire import conversation
from tollbridge.wire.body import NULL
from tollbridge.wire.conversation import (
    Audio,
    Conversation,
    Document,
    Format,
    Image,
    Opaque,
    Reasoning,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from tollbridge.wire.openai_parts import (
    JsonSchema,
    cache_of,
    custom_arguments,
    document_of,
    image_of,
    media_type_of,
    schema_format,
)
from tollbridge.wire.request import Request, wrong
from tollbridge.wire.responses_body import BODY_RULES, Body, Item, Part
from tollbridge.wire.responses_tools import LOCAL_SHELL, TOOL_SEARCH, Tools, found_tools

ORIGIN = "openai_responses"

_SEAL = "tb1."
_NAMES = {
    "turns": "input",
    "max_tokens": "max_output_tokens",
    "format": "text.format",
    "verbosity": "text.verbosity",
    "parallel_tools": "parallel_tool_calls",
    "end_user": "user",
    "logprobs": "include",
}
_KNOWN = frozenset(Body.__struct_fields__) | {"stream_options", "client_metadata"}
# These change neither what an answer says nor what it costs; `max_tool_calls` bounds tools that are refused anyway.
_HINTS = frozenset(
    {
        *("include", "max_tool_calls", "metadata", "prompt_cache_key", "prompt_cache_options"),
        *("prompt_cache_retention", "safety_identifier", "store", "user"),
    }
)
_LOGPROBS = "message.output_text.logprobs"
# `additional_tools` are offered (`responses_tools`); so are those that a search of OpenAI's found.
_TOLD = frozenset({"web_search_call", "file_search_call", "tool_search_call", "tool_search_output", "additional_tools"})


class _Seal(msgspec.Struct, array_like=True):
    origin: str
    text: str
    signature: str
    redacted: str
    call: str = ""


def sealed(thought: Thinking, call: str = "") -> str:
    """`encrypted_content` for what a model thought: opaque to the caller, who sends it back as it is.

    `call`: the id of the tool call that the signature belongs to, if it does.
    """
    seal = _Seal(thought.origin, thought.text, thought.signature, thought.redacted, call)
    return _SEAL + base64.b64encode(msgspec.json.encode(seal)).decode()


def conversation_of(request: Request, body: Body) -> Conversation:
    """Raises `InvalidRequest` naming the field."""
    tools = Tools(body)
    extras = dict(tools.others)
    hints = dict(tools.offered)
    for name, value in request.fields.items():
        if value == NULL:
            continue
        if name in _HINTS:
            hints[name] = value
        elif name not in _KNOWN:
            extras[name] = value
    if body.service_tier is not None:
        (hints if body.service_tier in ("auto", "default") else extras)["service_tier"] = request.fields["service_tier"]
    if body.truncation == "auto":
        extras["truncation"] = request.fields["truncation"]
    asked = body.reasoning
    if asked is not None and asked.mode not in (None, "standard"):
        extras["reasoning.mode"] = Raw(msgspec.json.encode(asked.mode))
    if asked is not None and asked.context not in (None, "auto"):
        hints["reasoning.context"] = Raw(msgspec.json.encode(asked.context))
    choice, functions = _choice(body, tools, extras)
    text = body.text
    logprobs = _LOGPROBS in (body.include or ())
    return Conversation(
        origin=ORIGIN,
        turns=_Turns(request, body, tools).turns,
        stream=request.stream,
        tools=functions,
        tool_choice=choice,
        parallel_tools=body.parallel_tool_calls,
        max_tokens=request.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        logprobs=logprobs or None,
        top_logprobs=body.top_logprobs if logprobs else None,
        format=None if text is None or text.format is None else _format(text.format),
        verbosity=None if text is None else text.verbosity,
        reasoning=_reasoning(body),
        end_user=body.safety_identifier or body.user or "",
        extras=extras,
        hints=hints,
        names=_NAMES,
        lenient=request.require_parameters is False,
    )


def _choice(
    body: Body, tools: Tools, extras: dict[str, Raw]
) -> tuple[ToolChoice | None, tuple[conversation.Tool, ...]]:
    """The tool choice, and the tools that it allows."""
    choice, functions = body.tool_choice, tuple(tools.functions)
    if choice is None or isinstance(choice, str):
        return (None if choice is None else ToolChoice(mode=choice)), functions
    if choice.type in ("function", "custom"):
        if not choice.name:
            raise wrong("tool_choice.name", BODY_RULES, "Missing")
        return ToolChoice(mode="one", name=choice.name), functions
    if choice.type == LOCAL_SHELL:
        return ToolChoice(mode="one", name=LOCAL_SHELL), functions
    if choice.type == "allowed_tools":
        allowed = {tool.name or tool.type for tool in choice.tools or ()}
        left = tuple(tool for tool in functions if tool.name in allowed)
        return ToolChoice(mode=choice.mode or "auto"), left
    extras["tool_choice"] = Raw(msgspec.json.encode(choice.type))
    return None, functions


def _format(wanted: JsonSchema) -> Format:
    match wanted.type:
        case "json_schema":
            if wanted.schema == NULL:
                raise wrong("text.format.schema", BODY_RULES, "Missing")
            return schema_format(wanted)
        case "json_object":
            return Format(kind="json")
        case "text" | None:
            return Format(kind="text")
    raise wrong("text.format", BODY_RULES)


def _reasoning(body: Body) -> Reasoning | None:
    asked = body.reasoning
    if asked is None or (asked.effort is None and not wants_summary(body)):
        return None
    return Reasoning(effort=asked.effort, shown=wants_summary(body) or None)


def wants_summary(body: Body) -> bool:
    """Whether the caller wants thoughts as summaries, not as reasoning text."""
    asked = body.reasoning
    return asked is not None and (asked.summary or asked.generate_summary or "none") != "none"


class _Turns:
    """Reads items in order: what a tool answered gets the tool's name from the calls above it."""

    def __init__(self, request: Request, body: Body, tools: Tools) -> None:
        self._request = request
        self._tools = tools
        self._names: dict[str, str] = {}
        self._signatures: dict[str, _Seal] = {}
        self._said: list[conversation.Part] = []  # by the assistant, until somebody else speaks
        self._turns: list[Turn] = []
        if body.instructions:
            self._turns.append(Turn(role="system", parts=(Text(text=body.instructions),)))
        if isinstance(body.input, str):
            self._turns.append(Turn(role="user", parts=(Text(text=body.input),)))
        else:
            for index, item in enumerate(body.input):
                self._add(index, item)
        self._end_turn()
        self.turns = tuple(self._turns)

    def _end_turn(self) -> None:
        if self._said:
            self._turns.append(Turn(role="assistant", parts=tuple(self._said)))
            self._said = []

    def _add(self, index: int, item: Item) -> None:
        match item.type:
            case "message" | None:
                self._message(index, item)
            case "reasoning":
                self._thought(item)
            case "function_call":
                arguments = self._text(index, "arguments", item.arguments) or "{}"
                self._call(index, item, self._tools.called(item.name or "", item.namespace or ""), arguments)
            case "custom_tool_call":
                arguments = custom_arguments(self._text(index, "input", item.input))
                self._call(index, item, self._tools.called(item.name or "", item.namespace or ""), arguments)
            case "local_shell_call":
                self._call(index, item, LOCAL_SHELL, "{}" if item.action == NULL else bytes(item.action).decode())
            case "tool_search_call" if item.execution == "client":
                self._call(index, item, TOOL_SEARCH, "{}" if item.arguments == NULL else bytes(item.arguments).decode())
            case "tool_search_output" if item.execution == "client":
                self._answer(index, item, (Text(text=found_tools(item.tools or [])),))
            case "function_call_output" | "custom_tool_call_output" | "local_shell_call_output":
                self._result(index, item)
            case "image_generation_call":
                if item.result:
                    self._said.append(Image(data=item.result, media_type=media_type_of(item.result)))
            case kind if kind in _TOLD:
                pass
            case _:
                self._said.append(self._opaque(index, f"input[{index}]"))

    def _opaque(self, index: int, where: str) -> Opaque:
        """The item at `index`, of which what is at `where` is not for that place, or is unknown here."""
        raw = msgspec.json.decode(self._request.fields["input"], type=list[Raw])[index]
        return Opaque(origin=ORIGIN, json=raw, param=where)

    def _message(self, index: int, item: Item) -> None:
        role = item.role or "user"
        content = item.content
        if content is None:
            raise wrong(f"input[{index}].content", BODY_RULES, "Missing")
        if isinstance(content, str):
            parts: list[conversation.Part] = [Text(text=content)]
        else:
            parts = [self._part(f"input[{index}].content[{at}]", index, part) for at, part in enumerate(content)]
        if role == "assistant":
            self._said += parts
        else:
            self._end_turn()
            self._turns.append(Turn(role=role, parts=tuple(parts)))

    def _thought(self, item: Item) -> None:
        seal = _opened(item.encrypted_content)
        if seal is not None and seal.call:
            self._signatures[seal.call] = seal
            return
        content = item.content if isinstance(item.content, list) and item.content else item.summary or []
        if seal is not None:
            thought = Thinking(text=seal.text, signature=seal.signature, redacted=seal.redacted, origin=seal.origin)
        elif item.encrypted_content:
            thought = Thinking(redacted=item.encrypted_content, origin=ORIGIN)
        else:
            thought = Thinking(text="\n".join(part.text or "" for part in content))
        self._said.append(thought)

    def _call(self, index: int, item: Item, name: str, arguments: str) -> None:
        call = item.call_id or item.id
        if not call:
            raise wrong(f"input[{index}].call_id", BODY_RULES, "Missing")
        if not name:
            raise wrong(f"input[{index}].name", BODY_RULES, "Missing")
        self._names[call] = name
        seal = self._signatures.get(call)
        self._said.append(
            ToolCall(
                id=call,
                name=name,
                arguments=arguments,
                signature=seal.signature if seal else "",
                origin=seal.origin if seal else "",
            )
        )

    def _result(self, index: int, item: Item) -> None:
        raw = bytes(item.output)
        parts: list[Text | Image | Document | Opaque] = []
        if raw.startswith(b"["):
            try:
                content = _decode_parts(raw)
            except msgspec.DecodeError:
                raise wrong(f"input[{index}].output", BODY_RULES) from None
            for at, given in enumerate(content):
                where = f"input[{index}].output[{at}]"
                part = self._part(where, index, given)
                parts.append(part if isinstance(part, Text | Image | Document) else self._opaque(index, where))
        else:
            parts.append(Text(text=self._text(index, "output", item.output)))
        self._answer(index, item, tuple(parts))

    def _answer(self, index: int, item: Item, shown: tuple[Text | Image | Document | Opaque, ...]) -> None:
        call = item.call_id or item.id
        if not call:
            raise wrong(f"input[{index}].call_id", BODY_RULES, "Missing")
        self._end_turn()
        result = ToolResult(id=call, name=self._names.get(call) or item.name or "", parts=shown)
        self._turns.append(Turn(role="tool", parts=(result,)))

    def _part(self, where: str, index: int, part: Part) -> conversation.Part:
        cache = cache_of(None, part.prompt_cache_breakpoint)
        match part.type:
            case "input_text" | "output_text" | "text" | None if part.text is not None:
                return Text(text=part.text, cache=cache)
            case "refusal" if part.refusal is not None:
                return Refusal(text=part.refusal)
            case "input_image" if part.image_url:
                return image_of(part.image_url, part.detail, cache, f"{where}.image_url")
            case "input_file" if part.file_data:
                return document_of(part.file_data, part.filename or "", cache)
            case "input_file" if part.file_url:
                return Document(url=part.file_url, title=part.filename or "", cache=cache)
            case "input_audio" if part.input_audio is not None:
                return Audio(data=part.input_audio.data, format=part.input_audio.format)
            case "input_text" | "output_text" | "text":
                raise wrong(f"{where}.text", BODY_RULES, "Missing")
            case "refusal" | "input_audio" as kind:
                raise wrong(f"{where}.{kind}", BODY_RULES, "Missing")
            case "input_image" | "input_file" if part.file_id:
                raise wrong(f"{where}.file_id", BODY_RULES)
            case "input_image":
                raise wrong(f"{where}.image_url", BODY_RULES, "Missing")
            case "input_file":
                raise wrong(f"{where}.file_data", BODY_RULES, "Missing")
        # A kind that is unknown here, perhaps a future one.
        return self._opaque(index, where)

    def _text(self, index: int, member: str, raw: Raw) -> str:
        try:
            return _decode_text(raw)
        except msgspec.DecodeError:
            what = "Missing" if raw == NULL else "Invalid value for"
            raise wrong(f"input[{index}].{member}", BODY_RULES, what) from None


_decode_parts = msgspec.json.Decoder(list[Part]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_seal = msgspec.json.Decoder(_Seal).decode


def _opened(encrypted: str | None) -> _Seal | None:
    """What `sealed` put there; None if it is not ours, or was changed."""
    if encrypted is None or not encrypted.startswith(_SEAL):
        return None
    try:
        return _decode_seal(base64.b64decode(encrypted[len(_SEAL) :], validate=True))
    except (binascii.Error, ValueError, msgspec.DecodeError):
        return None
