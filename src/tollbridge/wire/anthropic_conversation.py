"""Reads a body of POST /v1/messages into a `Conversation`.

Rule 1  Blocks and tools that only Anthropic knows are `Opaque` or extras.
Rule 2  Results of tools are in users' messages there, and in turns of their own in a conversation.
Rule 3  What only tunes how Anthropic serves an answer (caches, tiers, diagnostics) is a hint.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

import msgspec
from msgspec import Raw

from tollbridge.wire.anthropic_body import (
    BODY_RULES,
    Block,
    Body,
    CitationParam,
    CitationsConfig,
    FormatParam,
    OutputConfig,
    Source,
    ThinkingParam,
)
from tollbridge.wire.anthropic_request import ORIGIN
from tollbridge.wire.body import NOTHING, NULL
from tollbridge.wire.conversation import (
    Citation,
    Conversation,
    Document,
    Format,
    Image,
    Opaque,
    Part,
    Reasoning,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from tollbridge.wire.request import wrong

_KNOWN = frozenset(Body.__struct_fields__) - {"cache_control"}
_HINTS = frozenset({"cache_control", "diagnostics", "inference_geo", "service_tier", "speed", "user_profile_id"})
_NAMES = {
    "choices": "n",
    "end_user": "metadata.user_id",
    "format": "output_config.format",
    "parallel_tools": "tool_choice.disable_parallel_tool_use",
    "reasoning": "thinking",
    "stop": "stop_sequences",
    "turns": "messages",
}
_NAMES_OF_EFFORT = _NAMES | {"reasoning": "output_config.effort"}
_CHOICES: dict[str, Literal["auto", "none", "required", "one"]] = {
    "auto": "auto",
    "any": "required",
    "tool": "one",
    "none": "none",
}
# Proofs of other dialects on their way through this one (`sealed`).
_SEALED = re.compile(r"([a-z_]{2,32}):(call:)?(.*)", re.DOTALL)
_decode_content = msgspec.json.Decoder(str | list[Raw]).decode
_decode_block = msgspec.json.Decoder(Block).decode
_decode_source = msgspec.json.Decoder(Source).decode


class _RawMessage(msgspec.Struct, gc=False):
    content: str | list[Raw]


class _Edit(msgspec.Struct, gc=False):
    type: str


class _ContextManagement(msgspec.Struct, gc=False):
    edits: list[_Edit] | None = None


def sealed(origin: str, proof: str, *, of_call: bool = False) -> str:
    """Another dialect's proof, marked so that it finds its way back through a client of this one, who keeps it unread.

    `of_call`: it belongs not to a thought but to the call that follows.
    """
    return proof if not proof or origin in ("", ORIGIN) else f"{origin}:{'call:' if of_call else ''}{proof}"


def _unsealed(text: str) -> tuple[str, str, bool]:
    """Origin, proof, and whether it belongs to a call. Anthropic's own are base64, which has no colon."""
    found = _SEALED.fullmatch(text)
    return (found[1], found[3], found[2] is not None) if found else (ORIGIN if text else "", text, False)


def origin_of(block: Block) -> str | None:
    """The dialect that gave a thought its proof, "" if it has none; None if `block` is not a thought."""
    if block.type == "thinking":
        return _unsealed(block.signature or "")[0]
    return _unsealed(block.data or "")[0] if block.type == "redacted_thinking" else None


def read(typed: Body, fields: dict[str, Raw], *, lenient: bool) -> Conversation:
    """The conversation in `typed`. `fields`: the body's top-level members, without those that are not sent on.
    `lenient`: as in `Conversation`. Raises `InvalidRequest`.
    """
    return _Reading(typed, fields, lenient=lenient).conversation()


class _Reading:
    """One request becoming a conversation."""

    def __init__(self, typed: Body, fields: dict[str, Raw], *, lenient: bool) -> None:
        self._typed = typed
        self._fields = fields
        self._lenient = lenient
        self._extras: dict[str, Raw] = {}
        self._tool_names: dict[str, str] = {}
        self._raw_blocks: list[list[Raw]] | None = None

    def conversation(self) -> Conversation:
        typed = self._typed
        turns = tuple(self._turns())
        tools = tuple(self._tools())
        hints = self._members()
        config = typed.output_config or OutputConfig()
        wanted = typed.tool_choice
        parallel = None if wanted is None else wanted.disable_parallel_tool_use
        return Conversation(
            origin=ORIGIN,
            turns=turns,
            stream=bool(typed.stream),
            tools=tools,
            tool_choice=None if wanted is None else ToolChoice(mode=_CHOICES[wanted.type], name=wanted.name or ""),
            parallel_tools=None if parallel is None else not parallel,
            max_tokens=typed.max_tokens,
            temperature=typed.temperature,
            top_p=typed.top_p,
            top_k=typed.top_k,
            stop=tuple(typed.stop_sequences or ()),
            format=_format(config.format or typed.output_format),
            reasoning=_reasoning(typed.thinking, config.effort),
            end_user=(typed.metadata and typed.metadata.user_id) or "",
            extras=self._extras,
            hints=hints,
            names=_NAMES if typed.thinking is not None else _NAMES_OF_EFFORT,
            lenient=self._lenient,
        )

    def _members(self) -> dict[str, Raw]:
        """Put top-level members that only Anthropic knows among the extras; return those that are hints."""
        for name, raw in _members_of(self._fields.get("output_config", NULL)).items():
            if name not in ("effort", "format") and raw != NULL:
                self._extras[f"output_config.{name}"] = raw
        hints = {}
        for name, raw in self._fields.items():
            if name in _KNOWN or raw == NULL:
                continue
            if name in _HINTS or _only_forgets(name, raw):
                hints[name] = raw
            else:
                self._extras[name] = raw
        return hints

    def _tools(self) -> Iterator[Tool]:
        raws: list[Raw] = []
        for index, tool in enumerate(self._typed.tools or ()):
            if not tool.is_function:
                raws = raws or msgspec.json.decode(self._fields["tools"], type=list[Raw])
                self._extras[f"tools[{index}]"] = raws[index]
                continue
            if tool.input_examples != NULL:
                self._extras[f"tools[{index}].input_examples"] = tool.input_examples
            yield Tool(
                name=tool.name or "",
                description=tool.description or "",
                parameters=tool.input_schema,
                strict=tool.strict,
                cache=None if tool.cache_control is None else tool.cache_control.cache,
            )

    def _turns(self) -> Iterator[Turn]:
        system = self._typed.system
        if isinstance(system, str):
            yield Turn(role="system", parts=(Text(text=system),))
        elif system:
            yield Turn(role="system", parts=tuple(Text(text=b.text or "", cache=b.cache) for b in system))
        for index, message in enumerate(self._typed.messages):
            content = message.content
            if isinstance(content, str):
                yield Turn(role=message.role, parts=(Text(text=content),))
                continue
            parts = list(self._parts(index, content))
            results = tuple(part for part in parts if type(part) is ToolResult)
            if results:
                yield Turn(role="tool", parts=results)
                parts = [part for part in parts if type(part) is not ToolResult]
            if parts or not results:
                yield Turn(role=message.role, parts=tuple(parts))

    def _parts(self, index: int, blocks: list[Block]) -> Iterator[Part]:
        seal = ("", "")
        for position, block in enumerate(blocks):
            param = f"messages[{index}].content[{position}]"
            if block.type == "tool_use":
                self._tool_names[block.id or ""] = block.name or ""
                yield ToolCall(
                    id=block.id or "",
                    name=block.name or "",
                    arguments=bytes(block.input).decode(),
                    origin=seal[0],
                    signature=seal[1],
                    cache=block.cache,
                )
                seal = ("", "")
            elif block.type == "redacted_thinking":
                origin, proof, is_of_call = _unsealed(block.data or "")
                if is_of_call:
                    seal = (origin, proof)
                else:
                    yield Thinking(redacted=proof, origin=origin)
            elif block.type == "thinking":
                origin, proof, _ = _unsealed(block.signature or "")
                yield Thinking(text=block.thinking or "", signature=proof, origin=origin)
            elif block.type == "tool_result":
                yield self._result(block, param)
            else:
                part = self._simple(block, param)
                yield part or Opaque(origin=ORIGIN, json=self._raw(index, position), param=param)

    def _result(self, block: Block, param: str) -> ToolResult:
        parts: list[Text | Image | Document | Opaque] = []
        if block.content not in (NOTHING, NULL):
            try:
                content = _decode_content(block.content)
            except msgspec.DecodeError:
                raise wrong(f"{param}.content", BODY_RULES) from None
            for position, raw in enumerate([] if isinstance(content, str) else content):
                inner_param = f"{param}.content[{position}]"
                try:
                    inner = _decode_block(raw)
                except msgspec.DecodeError:
                    raise wrong(inner_param, BODY_RULES) from None
                parts.append(self._simple(inner, inner_param) or Opaque(origin=ORIGIN, json=raw, param=inner_param))
            if isinstance(content, str) and content:
                parts.append(Text(text=content))
        return ToolResult(
            id=block.tool_use_id or "",
            name=self._tool_names.get(block.tool_use_id or "", ""),
            parts=tuple(parts),
            is_error=bool(block.is_error),
            cache=block.cache,
        )

    def _simple(self, block: Block, param: str) -> Text | Image | Document | None:
        """A block that may be in a message or in the result of a tool; None for a kind that only Anthropic knows."""
        if block.type == "text":
            return Text(text=block.text or "", cache=block.cache, citations=tuple(_citations(block.citations)))
        if block.type not in ("image", "document"):
            return None
        try:
            source = _decode_source(block.source)
        except msgspec.DecodeError:
            raise wrong(f"{param}.source", BODY_RULES) from None
        if block.type == "image":
            if source.type not in ("url", "base64"):
                return None
            return Image(url=source.url, data=source.data, media_type=source.media_type, cache=block.cache)
        read: dict[str, Any] = {"title": block.title or "", "cache": block.cache}
        if source.type == "text":
            read |= {"text": source.data, "media_type": "text/plain"}
        elif source.type == "url":
            read |= {"url": source.url, "media_type": "application/pdf"}
        elif source.type == "base64":
            read |= {"data": source.data, "media_type": source.media_type or "application/pdf"}
        else:
            return None
        if _is_cited(block.citations):
            self._extras[f"{param}.citations"] = block.citations
        if block.context:
            self._extras[f"{param}.context"] = Raw(msgspec.json.encode(block.context))
        return Document(**read)

    def _raw(self, index: int, position: int) -> Raw:
        if self._raw_blocks is None:
            messages = msgspec.json.decode(self._fields["messages"], type=list[_RawMessage])
            self._raw_blocks = [[] if isinstance(each.content, str) else each.content for each in messages]
        return self._raw_blocks[index][position]


def _members_of(raw: Raw) -> dict[str, Raw]:
    return {} if raw == NULL else msgspec.json.decode(raw, type=dict[str, Raw])


def _only_forgets(name: str, raw: Raw) -> bool:
    """Whether a member only says which old thoughts to leave out: other providers are sent none anyway."""
    if name != "context_management":
        return False
    try:
        edits = msgspec.json.decode(raw, type=_ContextManagement).edits
    except msgspec.DecodeError:
        return False
    return all(edit.type.startswith("clear_thinking") for edit in edits or ())


def _reasoning(thinking: ThinkingParam | None, effort: str | None) -> Reasoning | None:
    if thinking is None:
        return None if effort is None else Reasoning(effort=effort)
    shown = None if thinking.display is None else thinking.display != "omitted"
    if thinking.type in ("disabled", "between_tools"):
        return Reasoning(budget=0)
    if thinking.type == "adaptive":
        return Reasoning(effort=effort, shown=shown)
    if thinking.type != "enabled" or thinking.budget_tokens is None:
        raise wrong("thinking", BODY_RULES)
    return Reasoning(effort=effort, budget=thinking.budget_tokens, shown=shown)


def _format(given: FormatParam | None) -> Format | None:
    if given is None:
        return None
    if given.type != "json_schema" or not bytes(given.schema).startswith(b"{"):
        raise wrong("output_config.format", BODY_RULES)
    return Format(kind="schema", schema=given.schema, strict=True)


def _is_cited(raw: Raw) -> bool:
    try:
        return bool(msgspec.json.decode(raw, type=CitationsConfig).enabled)
    except msgspec.DecodeError:
        return False


def _citations(raw: Raw) -> Iterator[Citation]:
    if raw == NULL:
        return
    try:
        given = msgspec.json.decode(raw, type=list[CitationParam])
    except msgspec.DecodeError:
        return
    for each in given:
        if url := each.url or each.source:
            yield Citation(url=url, title=each.title or "", quote=each.cited_text or "")
