"""Reads a chat request into a `Conversation`.

Rule 1  What OpenAI publishes for chat is read by its types; so is what OpenRouter, DeepSeek, Google and Mistral add to
        messages so that reasoning and its signatures can be sent back, and Mistral's words for what OpenAI has too. An
        unknown member is an extra.
Rule 2  `functions` and `function_call` are the older names of `tools` and `tool_choice`: one call a turn, without ids.
"""

from collections.abc import Mapping
from typing import Literal

import msgspec
from msgspec import Raw

from tollbridge.wire.body import NULL
from tollbridge.wire.conversation import (
    Audio,
    Conversation,
    Document,
    Format,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from tollbridge.wire.openai_parts import (
    CacheMark,
    Grammar,
    JsonSchema,
    cache_of,
    custom_arguments,
    custom_tool,
    document_of,
    drawn_image,
    given,
    image_of,
    schema_format,
)
from tollbridge.wire.request import RULES, Request, Stop, read_typed, wrong

ORIGIN = "openai_chat"

# OpenRouter's words for whose signature is in `reasoning_details`.
FORMATS = {"anthropic": "anthropic-claude-v1", "gemini": "google-gemini-v1"}
_ORIGINS = {word: origin for origin, word in FORMATS.items()}

_NAMES = {
    "turns": "messages",
    "choices": "n",
    "format": "response_format",
    "parallel_tools": "parallel_tool_calls",
    "end_user": "user",
    "reasoning": "reasoning_effort",
}
# These change neither what an answer says nor what it costs.
_HINTS = frozenset(
    {
        *("metadata", "store", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "prediction"),
        *("safety_identifier", "transforms", "user"),
    }
)


class _ImageUrl(msgspec.Struct, gc=False):
    url: str
    detail: str | None = None


class _Sound(msgspec.Struct, gc=False):
    data: str
    format: str


class _File(msgspec.Struct, gc=False):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    refusal: str | None = None
    image_url: _ImageUrl | str | None = None
    input_audio: _Sound | None = None
    file: _File | None = None
    document_url: str | None = None
    document_name: str | None = None
    thinking: "str | list[_Part] | None" = None
    cache_control: CacheMark | None = None
    prompt_cache_breakpoint: CacheMark | None = None


class _Function(msgspec.Struct, gc=False):
    name: str
    arguments: str | None = None


class _Google(msgspec.Struct, gc=False):
    thought_signature: str | None = None


class _ExtraContent(msgspec.Struct, gc=False):
    google: _Google | None = None


class _Custom(msgspec.Struct, gc=False):
    name: str
    input: str | None = None


class _Call(msgspec.Struct, gc=False):
    id: str | None = None
    type: str | None = None
    function: _Function | None = None
    custom: _Custom | None = None
    extra_content: _ExtraContent | None = None


class _Detail(msgspec.Struct, gc=False):
    """A piece of OpenRouter's `reasoning_details`; `id`: the tool call that it belongs to, for Gemini's signatures."""

    type: str = ""
    id: str | None = None
    text: str | None = None
    summary: str | None = None
    data: str | None = None
    signature: str | None = None
    format: str | None = None


class _Message(msgspec.Struct, gc=False):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[_Part] | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[_Call] | None = None
    images: list[_Part] | None = None
    function_call: _Function | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    reasoning_details: list[_Detail] | None = None
    audio: Raw = NULL
    cache_control: CacheMark | None = None


class _ToolFunction(msgspec.Struct, gc=False):
    name: str
    description: str | None = None
    parameters: Raw = NULL
    strict: bool | None = None


class _CustomTool(msgspec.Struct, gc=False):
    name: str
    description: str | None = None
    format: Grammar | None = None


class _Tool(msgspec.Struct, gc=False):
    type: str | None = None
    function: _ToolFunction | None = None
    custom: _CustomTool | None = None
    cache_control: CacheMark | None = None


class _Name(msgspec.Struct, gc=False):
    name: str


class _Named(msgspec.Struct, gc=False):
    function: _Name | None = None
    custom: _Name | None = None

    @property
    def name(self) -> str | None:
        named = self.function or self.custom
        return None if named is None else named.name


class _Allowed(msgspec.Struct, gc=False):
    mode: Literal["auto", "required"]
    tools: list[_Named]


class _ToolChoice(_Named, gc=False):
    type: str | None = None
    allowed_tools: _Allowed | None = None


class _ResponseFormat(msgspec.Struct, gc=False):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class _Reasoning(msgspec.Struct, gc=False):
    """OpenRouter's."""

    effort: str | None = None
    max_tokens: int | None = None
    exclude: bool | None = None
    enabled: bool | None = None


class _Thinking(msgspec.Struct, gc=False):
    """DeepSeek's, after Anthropic's."""

    type: str | None = None
    budget_tokens: int | None = None


class _Body(msgspec.Struct, gc=False):
    messages: list[_Message]
    tools: list[_Tool] | None = None
    functions: list[_ToolFunction] | None = None
    tool_choice: Literal["none", "auto", "required", "any"] | _ToolChoice | None = None
    function_call: Literal["none", "auto"] | _Name | None = None
    parallel_tool_calls: bool | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: Stop | None = None
    seed: int | None = None
    random_seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    logit_bias: Raw = NULL
    response_format: _ResponseFormat | None = None
    reasoning_effort: str | None = None
    reasoning: _Reasoning | None = None
    thinking: _Thinking | None = None
    include_reasoning: bool | None = None
    enable_thinking: bool | None = None  # Qwen
    verbosity: str | None = None
    user: str | None = None
    safety_identifier: str | None = None


_DECODER = msgspec.json.Decoder(_Body)
_TOOLS = msgspec.json.Decoder(list[_Tool])
_REASONING = msgspec.json.Decoder(_Reasoning)
# What the gateway itself does as asked is not for the provider.
_DONE_HERE = {"model", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens"}
_KNOWN = frozenset(_Body.__struct_fields__) | _DONE_HERE
_RULES = RULES | {
    "messages[]": 'must be an object, like {"role": "user", "content": "Hello!"}',
    "messages[].content": "must be a string, an array of content parts, or null",
    "messages[].content[].text": "must be a string",
    "messages[].content[].image_url": 'must be an object, like {"url": "https://…"}',
    "messages[].content[].input_audio": 'must be an object, like {"data": "…", "format": "wav"}',
    "messages[].content[].file": "must be an object with file_data and filename",
    "messages[].tool_call_id": "must be the id of a tool call in a message above",
    "messages[].tool_calls": "must be an array of tool calls",
    "messages[].tool_calls[].function": "must be an object with name and arguments, both strings",
    "messages[].name": "must be a string",
    "tools[].function": "must be an object with a name",
    "tools[].custom": "must be an object with a name",
    "tool_choice": 'must be "none", "auto", "required" or {"type": "function", "function": {"name": …}}',
    "parallel_tool_calls": "must be true or false",
    "response_format": 'must be an object of type "text", "json_object" or "json_schema"',
    "response_format.json_schema": "must be an object with a name and a schema",
    "reasoning_effort": 'must be a string, like "low"',
    "top_k": "must be a whole number",
    "seed": "must be a whole number",
    "logprobs": "must be true or false",
    "top_logprobs": "must be a whole number from 0 to 20",
    "user": "must be a string",
}


def is_legacy(fields: Mapping[str, Raw]) -> bool:
    """Whether the caller uses the older name for tools, and so wants calls under it."""
    return fields.get("functions", NULL) != NULL and fields.get("tools", NULL) == NULL


def conversation_of(request: Request) -> Conversation:
    """Raises `InvalidRequest` naming the field."""
    body = read_typed(request.body, _DECODER, _RULES)
    fields = request.fields
    extras, hints = _rest(fields)
    tools = _tools(body, extras)
    choice, tools = _choice(body, tools, extras)
    names = dict(_NAMES)
    if fields.get("max_tokens", NULL) == NULL:
        names["max_tokens"] = "max_completion_tokens"
    asked = [name for name in ("reasoning", "thinking", "enable_thinking") if fields.get(name, NULL) != NULL]
    if asked:
        names["reasoning"] = asked[0]
    if body.seed is None:
        names["seed"] = "random_seed"
    stop = body.stop
    return Conversation(
        origin=ORIGIN,
        turns=_Turns(body.messages, request).turns,
        stream=request.stream,
        tools=tools,
        tool_choice=choice,
        parallel_tools=False if is_legacy(fields) else body.parallel_tool_calls,
        max_tokens=request.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=() if stop is None else (stop,) if isinstance(stop, str) else tuple(stop),
        seed=body.random_seed if body.seed is None else body.seed,
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        choices=request.choices,
        logprobs=body.logprobs or None,
        top_logprobs=body.top_logprobs if body.logprobs else None,
        logit_bias=given(body.logit_bias),
        format=_format(body.response_format),
        reasoning=_reasoning(body),
        verbosity=body.verbosity,
        end_user=body.safety_identifier or body.user or "",
        extras=extras,
        hints=hints,
        names=names,
        lenient=request.require_parameters is False,
    )


def custom_names(fields: Mapping[str, Raw]) -> frozenset[str]:
    """The names of the caller's custom tools."""
    raw = bytes(fields.get("tools", NULL))
    if b'"custom"' not in raw:
        return frozenset()
    return frozenset(tool.custom.name for tool in _TOOLS.decode(raw) if tool.custom is not None)


def hides_reasoning(fields: Mapping[str, Raw]) -> bool:
    """Whether the caller does not want to see what the model thought."""
    raw = fields.get("reasoning", NULL)
    if raw == NULL:
        return fields.get("include_reasoning") == Raw(b"false")
    return read_typed(bytes(raw), _REASONING, _RULES).exclude is True


def _rest(fields: Mapping[str, Raw]) -> tuple[dict[str, Raw], dict[str, Raw]]:
    """Extras and hints."""
    extras: dict[str, Raw] = {}
    hints: dict[str, Raw] = {}
    for name, value in fields.items():
        if name in _KNOWN or value == NULL:
            continue
        is_usual = (name == "service_tier" and bytes(value) in (b'"auto"', b'"default"')) or (
            name == "modalities" and value == Raw(b'["text"]')
        )
        (hints if is_usual or name in _HINTS else extras)[name] = value
    return extras, hints


def _tools(body: _Body, extras: dict[str, Raw]) -> tuple[Tool, ...]:
    found = []
    for index, tool in enumerate(body.tools or ()):
        if tool.custom is not None:
            found.append(custom_tool(tool.custom.name, tool.custom.description or "", tool.custom.format))
            continue
        if tool.function is None:
            if tool.type in (None, "function"):
                raise wrong(f"tools[{index}].function", _RULES, "Missing")
            # A tool that the provider runs itself.
            extras[f"tools[{index}]"] = Raw(msgspec.json.encode(tool.type))
            continue
        found.append(_tool(tool.function, tool.cache_control))
    if not body.tools:
        found += [_tool(function, None) for function in body.functions or ()]
    return tuple(found)


def _tool(function: _ToolFunction, mark: CacheMark | None) -> Tool:
    return Tool(
        name=function.name,
        description=function.description or "",
        parameters=given(function.parameters),
        strict=function.strict,
        cache=cache_of(mark, None),
    )


def _choice(body: _Body, tools: tuple[Tool, ...], extras: dict[str, Raw]) -> tuple[ToolChoice | None, tuple[Tool, ...]]:
    """The tool choice, and the tools that it allows."""
    choice = body.tool_choice
    if choice is None:
        legacy = body.function_call
        if legacy is None or isinstance(legacy, str):
            return (None if legacy is None else ToolChoice(mode=legacy)), tools
        return ToolChoice(mode="one", name=legacy.name), tools
    if isinstance(choice, str):
        return ToolChoice(mode="required" if choice == "any" else choice), tools
    if choice.name is not None:
        return ToolChoice(mode="one", name=choice.name), tools
    if choice.allowed_tools is not None:
        allowed = {tool.name for tool in choice.allowed_tools.tools}
        return ToolChoice(mode=choice.allowed_tools.mode), tuple(tool for tool in tools if tool.name in allowed)
    if choice.type in (None, "function"):
        raise wrong("tool_choice", _RULES)
    extras["tool_choice"] = Raw(msgspec.json.encode(choice.type))
    return None, tools


def _format(given_format: _ResponseFormat | None) -> Format | None:
    if given_format is None:
        return None
    if given_format.type == "json_schema":
        if given_format.json_schema is None:
            raise wrong("response_format.json_schema", _RULES, "Missing")
        return schema_format(given_format.json_schema)
    return Format(kind="text" if given_format.type == "text" else "json")


def _reasoning(body: _Body) -> Reasoning | None:
    effort, budget, shown = body.reasoning_effort, None, body.include_reasoning
    is_wanted = False
    if body.reasoning is not None:
        effort = body.reasoning.effort or effort
        budget = 0 if body.reasoning.enabled is False else body.reasoning.max_tokens
        shown = shown if body.reasoning.exclude is None else not body.reasoning.exclude
        is_wanted = body.reasoning.enabled is True
    elif body.thinking is not None:
        budget = 0 if body.thinking.type == "disabled" else body.thinking.budget_tokens
        is_wanted = body.thinking.type in ("enabled", "adaptive")
    elif body.enable_thinking is not None:
        budget = None if body.enable_thinking else 0
        is_wanted = body.enable_thinking
    # Not to be shown what was thought is no wish to think, which costs.
    if effort is None and budget is None and not shown and not is_wanted:
        return None
    return Reasoning(effort=effort, budget=budget, shown=shown)


class _Turns:
    """Reads messages in order: results of tools get their tool's name from the calls above them."""

    def __init__(self, messages: list[_Message], request: Request) -> None:
        self._request = request
        self._names: dict[str, str] = {}
        self._legacy_id = ""
        self.turns = tuple(self._turn(index, message) for index, message in enumerate(messages))

    def _turn(self, index: int, message: _Message) -> Turn:
        content = self._content(index, message)
        role, name = message.role, message.name or ""
        if role == "assistant":
            return Turn(role=role, parts=self._assistant(index, message, content), name=name)
        if role == "tool" or role == "function":
            result = self._result(index, message, content)
            return Turn(role="tool", parts=(result,))
        return Turn(role=role, parts=content, name=name)

    def _result(self, index: int, message: _Message, content: tuple[Part, ...]) -> ToolResult:
        call = self._legacy_id if message.role == "function" else message.tool_call_id
        if not call:
            raise wrong(f"messages[{index}].tool_call_id", _RULES, "Missing")
        return ToolResult(
            id=call,
            name=self._names.get(call) or message.name or "",
            parts=tuple(
                part if isinstance(part, Text | Image | Document | Opaque) else self._opaque(index, position)
                for position, part in enumerate(content)
            ),
            cache=cache_of(message.cache_control, None),
        )

    def _assistant(self, index: int, message: _Message, content: tuple[Part, ...]) -> tuple[Part, ...]:
        parts: list[Part] = []
        signatures: dict[str, str] = {}
        if message.reasoning_details:
            for detail in message.reasoning_details:
                if detail.id and detail.data and detail.format == FORMATS["gemini"]:
                    signatures[detail.id] = detail.data
                else:
                    parts.append(_thinking(detail))
        elif message.reasoning_content or message.reasoning:
            parts.append(Thinking(text=message.reasoning_content or message.reasoning or ""))
        parts += content
        for position, picture in enumerate(message.images or ()):
            image = picture.image_url
            if image is None:
                raise wrong(f"messages[{index}].images[{position}].image_url", _RULES, "Missing")
            parts.append(drawn_image(image if isinstance(image, str) else image.url))
        if message.refusal:
            parts.append(Refusal(text=message.refusal))
        if message.audio != NULL:
            parts.append(Opaque(origin=ORIGIN, json=message.audio, param=f"messages[{index}].audio"))
        for position, call in enumerate(message.tool_calls or ()):
            parts.append(self._call(index, position, call, signatures))
        if message.function_call is not None:
            self._legacy_id = f"call_{index}"
            self._names[self._legacy_id] = message.function_call.name
            parts.append(_call(self._legacy_id, message.function_call, ""))
        return tuple(parts)

    def _call(self, index: int, position: int, call: _Call, signatures: Mapping[str, str]) -> Part:
        where = f"messages[{index}].tool_calls[{position}]"
        function = call.function
        if call.custom is not None:
            function = _Function(name=call.custom.name, arguments=custom_arguments(call.custom.input or ""))
        if function is None:
            if call.type in (None, "function"):
                raise wrong(f"{where}.function", _RULES, "Missing")
            return Opaque(origin=ORIGIN, json=self._raw(index, "tool_calls", position), param=where)
        if not call.id:
            raise wrong(f"{where}.id", _RULES, "Missing")
        self._names[call.id] = function.name
        google = None if call.extra_content is None else call.extra_content.google
        signature = (google and google.thought_signature) or signatures.get(call.id, "")
        return _call(call.id, function, signature)

    def _content(self, index: int, message: _Message) -> tuple[Part, ...]:
        content = message.content
        if content is None:
            return ()
        if isinstance(content, str):
            return (Text(text=content, cache=cache_of(message.cache_control, None)),)
        return tuple(self._part(index, position, part, message.role) for position, part in enumerate(content))

    def _part(self, index: int, position: int, part: _Part, role: str) -> Part:
        cache = cache_of(part.cache_control, part.prompt_cache_breakpoint)
        where = f"messages[{index}].content[{position}]"
        match part.type:
            case "text" | "input_text" | None if part.text is not None:
                return Text(text=part.text, cache=cache)
            case "image_url" if part.image_url is not None:
                image = part.image_url
                if isinstance(image, str):
                    return image_of(image, None, cache, f"{where}.image_url")
                return image_of(image.url, image.detail, cache, f"{where}.image_url.url")
            case "input_audio" if part.input_audio is not None:
                return Audio(data=part.input_audio.data, format=part.input_audio.format)
            case "file" if part.file is not None and part.file.file_data:
                return document_of(part.file.file_data, part.file.filename or "", cache)
            case "document_url" if part.document_url:
                return document_of(part.document_url, part.document_name or "", cache)
            case "thinking" if part.thinking is not None and role == "assistant":
                thought = part.thinking
                text = thought if isinstance(thought, str) else "".join(each.text or "" for each in thought)
                return Thinking(text=text)
            case "refusal" if part.refusal is not None:
                return Refusal(text=part.refusal)
            case "text" | "image_url" | "input_audio" | "refusal" as kind:
                raise wrong(f"{where}.{kind}", _RULES, "Missing")
        return self._opaque(index, position)

    def _opaque(self, index: int, position: int) -> Opaque:
        """A part of a message that is not for where it stands, or is unknown here."""
        where = f"messages[{index}].content[{position}]"
        return Opaque(origin=ORIGIN, json=self._raw(index, "content", position), param=where)

    def _raw(self, index: int, member: str, position: int) -> Raw:
        """A member's element at `position` in the message at `index`, as the caller wrote it."""
        messages = msgspec.json.decode(self._request.fields["messages"], type=list[dict[str, Raw]])
        return msgspec.json.decode(messages[index][member], type=list[Raw])[position]


def _thinking(detail: _Detail) -> Thinking:
    word = detail.format or ""
    origin = _ORIGINS.get(word, word)
    if detail.data:
        return Thinking(redacted=detail.data, origin=origin)
    return Thinking(text=detail.text or detail.summary or "", signature=detail.signature or "", origin=origin)


def _call(id_: str, function: _Function, signature: str) -> ToolCall:
    origin = "gemini" if signature else ""
    return ToolCall(
        id=id_, name=function.name, arguments=function.arguments or "{}", signature=signature, origin=origin
    )
