"""Writes a conversation as the body of POST /v1/messages.

Rule 1  `max_tokens` must be sent: the caller's or money's limit, whichever is smaller, else all that the model writes.
Rule 2  There are two roles. Consecutive turns of one role become one message, in which all results of tools come first.
        Instructions before the first turn are `system`; later ones stay in place if the model takes them there, else
        they join `system`. Instructions alone, and after the model's last words, become a user's message. Without
        those, a model that does not go on with its own words is told to.
Rule 3  Anthropic refuses empty text, which says nothing: it is left out.
Rule 4  A model's name tells which fields it takes (`anthropic_models`). What it would refuse is reported to `Fit`,
        except for values that are its default.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
from msgspec import Raw

from tollbridge.wire.anthropic_models import Abilities, abilities
from tollbridge.wire.anthropic_reply import arguments
from tollbridge.wire.anthropic_schemas import Promises, fitted
from tollbridge.wire.body import NULL
from tollbridge.wire.conversation import (
    CONTINUE,
    Audio,
    Cache,
    Conversation,
    Document,
    Fit,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    instructed_at_the_end,
)
from tollbridge.wire.schemas import described

_Json: TypeAlias = dict[str, Any]

ORIGIN = "anthropic"
MIN_BUDGET = 1_024
_MAX_BUDGET = 128_000
_ID = re.compile(r"[a-zA-Z0-9_-]+")
# Members that can be put back in their place.
_TOP_OR_TOOL = re.compile(r"\w+|tools\[\d+\]")
_NOT_ID = re.compile(r"[^a-zA-Z0-9_-]")
_NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')
_OBJECT = Raw(b'"object"')
_MARKS: dict[Cache, _Json] = {"5m": {"type": "ephemeral"}, "1h": {"type": "ephemeral", "ttl": "1h"}}
_CHOICES = {"auto": "auto", "none": "none", "required": "any", "one": "tool"}
# Shares of the limit that thinking may take, as OpenRouter documents them for models that want a budget.
_SHARES = {"minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.95, "max": 0.95}
# From the least to the most: a level that a model does not know becomes the next lower one that it knows.
_LEVELS = ("minimal", "low", "medium", "high", "xhigh", "max")
# The level that a budget stands for, at models that take no budget.
_LEVEL_ABOVE = ((16_384, "high"), (4_096, "medium"))


def body(conversation: Conversation, model: str, max_tokens: int, fit: Fit) -> _Json:
    """The members of the body, in the order of Anthropic's examples. Raises `UnsupportedField`."""
    able = abilities(model)
    fields: _Json = {"model": model, "max_tokens": max_tokens}
    _refuse_unknown(conversation, fit)
    system, fields["messages"] = _Messages(conversation, able, fit).written()
    if system:
        fields["system"] = _as_content(system)
    if conversation.stream:
        fields["stream"] = True
    thinks = _put_thinking(fields, conversation, able, fit)
    _put_sampling(fields, conversation, able, fit, thinks=thinks)
    _put_tools(fields, conversation, able, fit)
    _put_format(fields, conversation, able, fit)
    if conversation.stop:
        fields["stop_sequences"] = conversation.stop
    if conversation.end_user:
        fields["metadata"] = {"user_id": conversation.end_user}
    for name, value in _own(conversation):
        if name.isidentifier():
            fields[name] = value
    return fields


# --- Members ---


def _refuse_unknown(conversation: Conversation, fit: Fit) -> None:
    c = conversation
    lacking = {
        "seed": c.seed is not None,
        "presence_penalty": bool(c.presence_penalty),
        "frequency_penalty": bool(c.frequency_penalty),
        "choices": c.choices > 1,
        "logprobs": bool(c.logprobs),
        "top_logprobs": bool(c.top_logprobs),
        "logit_bias": c.logit_bias is not None and c.logit_bias not in (NULL, Raw(b"{}")),
    }
    for name, is_lacking in lacking.items():
        if is_lacking:
            fit.lacks(name)
    if c.verbosity not in (None, "medium"):
        fit.hint("verbosity")
    for name in c.extras:
        if c.origin != ORIGIN or not _TOP_OR_TOOL.fullmatch(name):
            fit.lacks(name)
    if c.origin != ORIGIN:
        for name in c.hints:
            fit.hint(name)


def _own(conversation: Conversation) -> Iterable[tuple[str, Raw]]:
    """Members that only this dialect has."""
    return (*conversation.extras.items(), *conversation.hints.items()) if conversation.origin == ORIGIN else ()


def _put_sampling(fields: _Json, conversation: Conversation, able: Abilities, fit: Fit, *, thinks: bool) -> None:
    given = {name: getattr(conversation, name) for name in ("temperature", "top_p", "top_k")}
    if given["temperature"] is not None and given["temperature"] > 1:
        fit.lacks("temperature", "it takes 0 to 1")
        given["temperature"] = None
    # A model that thinks takes its defaults and, before 4.7, a top_p close to 1.
    if not able.samples or thinks:
        lowest = 0.95 if able.samples else 1
        for name, value in given.items():
            if value is None or (name != "top_k" and value == 1) or (name == "top_p" and value >= lowest):
                continue
            fit.lacks(name, "this model takes none" if not able.samples else "a model that thinks takes none")
            given[name] = None
        if not able.samples:
            return
    elif not able.samples_both and given["temperature"] is not None and given["top_p"] is not None:
        if given["top_p"] != 1:
            fit.lacks("top_p", "this model takes temperature or top_p, not both")
        given["top_p"] = None
    fields.update((name, value) for name, value in given.items() if value is not None)


def _put_thinking(fields: _Json, conversation: Conversation, able: Abilities, fit: Fit) -> bool:
    """Whether the model was told to think."""
    wanted = conversation.reasoning
    if wanted is None:
        return False
    if wanted.effort == "none" or wanted.budget == 0:
        if able.off:
            fields["thinking"] = {"type": able.off}
        else:
            fit.lacks("reasoning", "this model always thinks")
        return False
    if able.adapts and not (wanted.budget and able.budgets):
        display = {} if wanted.shown is None else {"display": "summarized" if wanted.shown else "omitted"}
        fields["thinking"] = {"type": "adaptive", **display}
        if wanted.budget:
            fit.hint("reasoning")  # it has no bound there
        level = _level(wanted, able.efforts)
        if level:
            fields["output_config"] = {"effort": level}
        return True
    budget = _budget(wanted, fields["max_tokens"])
    if not budget:
        fit.hint("reasoning")
        return False
    fields["thinking"] = {"type": "enabled", "budget_tokens": budget}
    if wanted.budget and wanted.effort in able.efforts:
        fields["output_config"] = {"effort": wanted.effort}
    if wanted.shown is False:
        fields["thinking"]["display"] = "omitted"
    return True


def _level(wanted: Reasoning, efforts: Sequence[str]) -> str | None:
    effort = wanted.effort
    if effort is None and wanted.budget:
        effort = next((level for above, level in _LEVEL_ABOVE if wanted.budget >= above), "low")
    if effort is None or effort in efforts or effort not in _LEVELS:
        return effort
    known = [level for level in _LEVELS[: _LEVELS.index(effort)] if level in efforts]
    return known[-1] if known else efforts[0] if efforts else None


def _budget(wanted: Reasoning, max_tokens: int) -> int:
    budget = wanted.budget or int(max_tokens * _SHARES.get(wanted.effort or "high", 0.5))
    return budget_within(min(budget, _MAX_BUDGET), max_tokens)


def budget_within(budget: int, max_tokens: int) -> int:
    """A thinking budget that is below `max_tokens`; 0 if there is no room for the least one."""
    budget = min(max(budget, MIN_BUDGET), max_tokens - 1)
    return budget if budget >= MIN_BUDGET else 0


def _put_tools(fields: _Json, conversation: Conversation, able: Abilities, fit: Fit) -> None:
    functions = [_tool(index, tool, able, fit) for index, tool in enumerate(conversation.tools)]
    if able.is_claude and conversation.origin != ORIGIN:
        _fit_promises(functions, conversation, fit)
    tools: list[_Json | Raw] = [*functions]
    tools += [value for name, value in _own(conversation) if name.startswith("tools[")]
    if tools:
        fields["tools"] = tools
    choice = conversation.tool_choice
    if not tools and (choice is None or choice.mode in ("auto", "none")):
        return
    written: _Json | None = None
    if choice is not None:
        if choice.mode in ("required", "one") and not able.forces:
            fit.lacks("tool_choice", "this model cannot be made to call a tool")
        elif choice.mode in ("required", "one") and fields.get("thinking", {}).get("type") == "enabled":
            fit.lacks("tool_choice", "a model that thinks cannot be made to call a tool")
        else:
            written = {"type": _CHOICES[choice.mode]}
            if choice.mode == "one":
                written["name"] = choice.name
    if conversation.parallel_tools is False and (written is None or written["type"] != "none"):
        written = (written or {"type": "auto"}) | {"disable_parallel_tool_use": True}
    if written is not None:
        fields["tool_choice"] = written


def _tool(index: int, tool: Tool, able: Abilities, fit: Fit) -> _Json:
    written: _Json = {"name": tool.name}
    if tool.description:
        written["description"] = tool.description
    written["input_schema"] = _schema(tool.parameters)
    if tool.strict:
        if able.schemas:
            written["strict"] = True
        else:
            fit.lacks(f"tools[{index}].strict", "this model cannot promise to keep to a schema")
    if tool.cache:
        written["cache_control"] = _MARKS[tool.cache]
    return written


def _fit_promises(tools: list[_Json], conversation: Conversation, fit: Fit) -> None:
    """Make strict tools such as Claude takes of those that it is to keep to."""
    wanted = conversation.format
    promises = Promises(None if wanted is None else wanted.schema)
    for index, tool in enumerate(tools):
        if "strict" not in tool:
            continue
        param = f"tools[{index}].strict"
        tool["input_schema"] = _kept_to(tool["input_schema"], param, fit)
        if not promises.take(tool["input_schema"]):
            fit.lacks(
                param,
                "it promises to keep to the schemas of at most 20 tools, with at most 24 optional members and 16 of"
                " several types",
            )
            del tool["strict"]


def _schema(parameters: Raw | None) -> Raw:
    """A schema that says, as Anthropic requires, that its type is object."""
    if parameters is None:
        return _NO_PARAMETERS
    try:
        members = msgspec.json.decode(parameters, type=dict[str, Raw])
    except (msgspec.DecodeError, RecursionError):
        return parameters
    if "type" in members:
        return parameters
    return Raw(msgspec.json.encode({"type": _OBJECT, **members})) if members else _NO_PARAMETERS


def _kept_to(schema: Raw, param: str, fit: Fit) -> Raw:
    """`schema` as Claude promises to keep to it. `param`: the caller's name for the promise."""
    schema, is_looser = fitted(schema)
    if is_looser:
        fit.hint(param)
    return schema


def _put_format(fields: _Json, conversation: Conversation, able: Abilities, fit: Fit) -> None:
    wanted = conversation.format
    if wanted is None or wanted.kind == "text":
        return
    if wanted.kind == "json" or wanted.schema is None:
        fit.lacks("format", "it writes JSON by a schema, not any JSON")
    elif not able.schemas:
        fit.lacks("format", "this model cannot promise to keep to a schema")
    else:
        schema = described(wanted.schema, wanted.description, fit)
        if able.is_claude and conversation.origin != ORIGIN:
            schema = _kept_to(schema, "format", fit)
        written = {"type": "json_schema", "schema": schema}
        fields["output_config"] = {**fields.get("output_config", {}), "format": written}


# --- Messages ---


class _Messages:
    """Gathers turns into messages. Results of tools are kept apart from the rest, to stand first."""

    def __init__(self, conversation: Conversation, able: Abilities, fit: Fit) -> None:
        self._fit = fit
        self._able = able
        self._turns = conversation.turns
        self._system: list[Any] = []
        self._roles: list[str] = []
        self._contents: list[tuple[list[Any], list[Any]]] = []

    def written(self) -> tuple[list[Any], list[_Json]]:
        """The system prompt, and the messages."""
        asked_from = instructed_at_the_end(self._turns)
        for position, turn in enumerate(self._turns):
            if turn.name:
                self._fit.hint("messages[].name")
            if turn.role in ("system", "developer") and position < asked_from:
                self._instruct(position, turn)
            else:
                results, rest = self._message("assistant" if turn.role == "assistant" else "user")
                for part in turn.parts:
                    into = results if type(part) is ToolResult else rest
                    into.extend(self._blocks(part, turn.role))
        if self._roles[-1:] == ["assistant"]:
            said = self._contents[-1][1]
            _end(said)
            if said and not self._able.continues:
                self._message("user")[1].append({"type": "text", "text": CONTINUE})
        messages = [
            {"role": role, "content": _as_content(results + rest)}
            for role, (results, rest) in zip(self._roles, self._contents, strict=True)
            if results or rest
        ]
        if not messages and self._system:  # there must be something to answer
            return [], [{"role": "user", "content": _as_content(self._system)}]
        return self._system, messages

    def _instruct(self, position: int, turn: Turn) -> None:
        blocks = [block for part in turn.parts for block in self._blocks(part, turn.role)]
        if self._roles and self._able.instructs and self._has_place(position):
            self._message("system")[1].extend(blocks)
        else:
            self._system += blocks

    def _has_place(self, position: int) -> bool:
        """Whether a system turn may stand here: after what a user said, and before what the model says or will say."""
        following = (turn.role for turn in self._turns[position + 1 :] if turn.role not in ("system", "developer"))
        return self._roles[-1] in ("user", "system") and next(following, "assistant") == "assistant"

    def _message(self, role: str) -> tuple[list[Any], list[Any]]:
        if not self._roles or self._roles[-1] != role:
            self._roles.append(role)
            self._contents.append(([], []))
        return self._contents[-1]

    def _blocks(self, part: Part, role: str) -> Iterator[Any]:
        match part:
            case Text():
                yield from _text(part)
            case Refusal():
                yield from _text(Text(text=part.text))
            case Thinking():
                if part.origin == ORIGIN and role == "assistant":
                    yield from _thought(part)
            case ToolCall():
                call: _Json = {"type": "tool_use", "id": call_id(part.id), "name": part.name}
                call["input"] = arguments(part.arguments)
                yield _marked(call, part.cache)
            case ToolResult():
                yield self._result(part)
            case Opaque() if part.origin != ORIGIN:
                self._fit.lacks(part.param)
            case Opaque():
                yield part.json
            case Image() | Document() | Audio():
                yield from self._medium(part, role)

    def _medium(self, part: Image | Document | Audio, role: str) -> Iterator[_Json]:
        if role not in ("user", "tool"):
            self._fit.lacks("turns", f"only the role user can send it pictures and documents, not {role}")
        elif isinstance(part, Image):
            if part.detail not in (None, "auto"):
                self._fit.hint("messages[].content[].image_url.detail")
            if part.url:
                source = {"type": "url", "url": part.url}
            else:
                source = {"type": "base64", "media_type": part.media_type, "data": part.data}
            yield _marked({"type": "image", "source": source}, part.cache)
        elif isinstance(part, Document):
            read = _document(part)
            if read is None:
                self._fit.lacks("turns", f"it reads PDF and plain text, not {part.media_type}")
                return
            block: _Json = {"type": "document", "source": read}
            if part.title:
                block["title"] = part.title
            yield _marked(block, part.cache)
        else:
            self._fit.lacks("turns", "it does not take audio")

    def _result(self, part: ToolResult) -> _Json:
        blocks = [block for inner in part.parts for block in self._blocks(inner, "tool")]
        written: _Json = {"type": "tool_result", "tool_use_id": call_id(part.id)}
        if blocks:
            written["content"] = _as_content(blocks)
        if part.is_error:
            written["is_error"] = True
        return _marked(written, part.cache)


def _end(blocks: list[Any]) -> None:
    """Anthropic: "final assistant content cannot end with trailing whitespace"."""
    last = blocks[-1] if blocks else None
    if isinstance(last, dict) and last["type"] == "text":
        last["text"] = last["text"].rstrip()


def _text(part: Text) -> Iterator[_Json]:
    if part.text and not part.text.isspace():
        yield _marked({"type": "text", "text": part.text}, part.cache)


def _thought(part: Thinking) -> Iterator[_Json]:
    if part.redacted:
        yield {"type": "redacted_thinking", "data": part.redacted}
    elif part.signature:
        yield {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _document(part: Document) -> Mapping[str, str] | None:
    """The document's `source`; None for a kind that Anthropic does not read."""
    if part.url:
        return {"type": "url", "url": part.url}
    text = part.text
    if part.data:
        if part.media_type in ("", "application/pdf"):
            return {"type": "base64", "media_type": "application/pdf", "data": part.data}
        if not part.media_type.startswith("text/") and part.media_type != "application/json":
            return None
        try:
            text = base64.b64decode(part.data).decode()
        except (binascii.Error, ValueError):
            return None
    return {"type": "text", "media_type": "text/plain", "data": text}


def _marked(block: _Json, cache: Cache | None) -> _Json:
    if cache:
        block["cache_control"] = _MARKS[cache]
    return block


def _as_content(blocks: list[Any]) -> str | list[Any]:
    """The short form, a string, for a single plain text; else the blocks."""
    if len(blocks) == 1 and isinstance(blocks[0], dict) and blocks[0].keys() == {"type", "text"}:
        text: str = blocks[0]["text"]
        return text
    return blocks


def call_id(given: str) -> str:
    """A call's id in the characters that Anthropic takes; the same for the call and its result."""
    return given if _ID.fullmatch(given) else _NOT_ID.sub("_", given) or "_"
