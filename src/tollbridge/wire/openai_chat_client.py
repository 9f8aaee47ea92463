"""Answers of other dialects, written for clients of OpenAI's chat.

Rule 1  Thoughts go out twice: as DeepSeek's clients read them (`reasoning_content`) and as OpenRouter's do
        (`reasoning_details`, whose pieces are joined by `index`). Only the latter hold the signatures without which
        some models refuse to go on, so callers send them back.
Rule 2  Each choice of a stream begins with a chunk that states the role.
Rule 3  Calls of custom tools are written in their own form, whatever they were to the model. Callers who use the older
        name for functions have room for one call: the first.
Rule 4  Usage is where the caller expects it: see rule 3 of `openai_stream`.
"""

from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.errors import ApiError
from tollbridge.wire import errors, sse, usage
from tollbridge.wire.conversation import (
    Choice,
    Cited,
    Drawn,
    Event,
    Finish,
    Image,
    Reason,
    Refusal,
    RefusalDelta,
    Reply,
    Text,
    TextDelta,
    TextStart,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolCall,
    ToolDelta,
    ToolStart,
)
from tollbridge.wire.dialect import Tail
from tollbridge.wire.exchange import Headers, Names, Receipt
from tollbridge.wire.openai_chat_conversation import FORMATS, custom_names, hides_reasoning, is_legacy
from tollbridge.wire.openai_parts import custom_input, drawn_member, url_citation
from tollbridge.wire.openai_reply import FINISHES
from tollbridge.wire.request import Request

_encode = msgspec.json.encode


class ChatClient:
    """See `dialect.Client`."""

    def render(self, request: Request, names: Names, reply: Reply, receipt: Receipt | None) -> bytes:
        told = _Told(request)
        choices = [{"index": index, **_choice(choice, told)} for index, choice in enumerate(reply.choices)]
        body: dict[str, Any] = {
            "id": names.id,
            "object": "chat.completion",
            "created": names.created,
            "model": names.model,
            "system_fingerprint": "",  # unknown; OpenRouter's SDK refuses an answer without it
            "choices": choices,
        }
        counted = usage.render(reply.usage, receipt)
        if counted is not None:
            body["usage"] = counted
        return _encode(body)

    def writer(self, request: Request, names: Names) -> "ChatWriter":
        return ChatWriter(request, names)


class _Told:
    """How this caller wants its answer written. `customs`: the names of its custom tools."""

    def __init__(self, request: Request) -> None:
        self.legacy = is_legacy(request.fields)
        self.hides = hides_reasoning(request.fields)
        self.customs = custom_names(request.fields)


def _choice(choice: Choice, told: _Told) -> dict[str, Any]:
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[str] = []
    details: list[dict[str, Any]] = []
    calls: list[ToolCall] = []
    annotations: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    length = 0
    for part in choice.parts:
        match part:
            case Text():
                start, length = length, length + len(part.text)
                texts.append(part.text)
                annotations += (_annotation(url_citation(found, start, length)) for found in part.citations)
            case Refusal():
                refusals.append(part.text)
            case Thinking() if not told.hides:
                thoughts.append(part.text)
                details.append(_detail(part, len(details)))
            case ToolCall():
                calls.append(part)
            case Image():
                images.append(drawn_member(part, len(images)))
    if not told.hides:
        details += (_call_detail(call.id, call.signature, call.origin, at) for at, call in _signed(calls, len(details)))
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": "".join(refusals) if refusals else None,
    }
    if annotations:
        message["annotations"] = annotations
    if images:
        message["images"] = images  # OpenRouter's place for drawn pictures
    if any(thoughts):
        message["reasoning_content"] = "\n".join(filter(None, thoughts))
    if details:
        message["reasoning_details"] = details
    if calls and told.legacy:
        message["function_call"] = {"name": calls[0].name, "arguments": calls[0].arguments}
    elif calls:
        message["tool_calls"] = [_call(call, told) for call in calls]
    shown: dict[str, Any] = {
        "message": message,
        "logprobs": choice.logprobs,
        "finish_reason": _finish_reason(choice.reason, has_refusal=bool(refusals), legacy=told.legacy),
    }
    if choice.native:
        shown["native_finish_reason"] = choice.native
    return shown


def _finish_reason(reason: Reason, *, has_refusal: bool, legacy: bool) -> str:
    if reason == "refused" and has_refusal:
        return "stop"  # as OpenAI does: the refusal itself says why
    if reason == "tool_calls" and legacy:
        return "function_call"
    return FINISHES[reason]


def _annotation(citation: dict[str, Any]) -> dict[str, Any]:
    return {"type": "url_citation", "url_citation": citation}


def _call(call: ToolCall, told: _Told) -> dict[str, Any]:
    if call.name in told.customs:
        text = custom_input(call.arguments) if call.arguments else ""
        return {"id": call.id, "type": "custom", "custom": {"name": call.name, "input": text}}
    shown: dict[str, Any] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
    if call.signature and call.origin == "gemini":
        shown["extra_content"] = {"google": {"thought_signature": call.signature}}
    return shown


def _signed(calls: list[ToolCall], first: int) -> enumerate[ToolCall]:
    return enumerate((call for call in calls if call.signature), first)


def _detail(thought: Thinking, index: int) -> dict[str, Any]:
    detail: dict[str, Any] = {"type": "reasoning.text", "text": thought.text}
    if thought.redacted:
        detail = {"type": "reasoning.encrypted", "data": thought.redacted}
    elif thought.signature:
        detail["signature"] = thought.signature
    return {**detail, "format": FORMATS.get(thought.origin, thought.origin or "unknown"), "index": index}


def _call_detail(id_: str, signature: str, origin: str, index: int) -> dict[str, Any]:
    word = FORMATS.get(origin, origin or "unknown")
    return {"type": "reasoning.encrypted", "data": signature, "id": id_, "format": word, "index": index}


class _State:
    """The state of one choice of a stream."""

    def __init__(self, before_text: bytes) -> None:
        self.before_text = before_text
        self.length = 0  # of its text; `start`: where that begins which is cited next
        self.start = 0
        self.details = 0
        self.images = 0
        self.is_thinking = False
        self.has_refusal = False
        self.bare: set[int] = set()  # calls without arguments so far
        self.customs: dict[int, list[str]] = {}  # arguments of custom tools' calls, which contain the input


class ChatWriter:
    """See `dialect.Writer`."""

    def __init__(self, request: Request, names: Names) -> None:
        self._asked = request.include_usage
        self._told = _Told(request)
        self._states: dict[int, _State] = {}
        self._head = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % (
            _encode(names.id),
            names.created,
            _encode(names.model),
        )
        self._end = b'],"usage":null}\n\n' if self._asked else b"]}\n\n"
        self._after_text = b'},"logprobs":null,"finish_reason":null}' + self._end

    def write(self, events: list[Event]) -> bytes:
        return b"".join([self._event(event) for event in events])

    def _event(self, event: Event) -> bytes:
        state, begin = self._states.get(event.choice), b""
        if state is None:
            state, begin = self._begin(event.choice)
        match event:
            case TextDelta():
                state.length += len(event.text)
                state.is_thinking = False
                if event.logprobs is None and not begin:  # nearly all events
                    return b"%b%b%b" % (state.before_text, _encode(event.text), self._after_text)
                delta = b'{"content":%b}' % _encode(event.text)
                return begin + self._chunk(event.choice, delta, event.logprobs)
            case ThinkingDelta():
                return begin if self._told.hides else begin + self._thought(event, state)
            case ThinkingEnd():
                return begin if self._told.hides else begin + self._end_of_thought(event, state)
            case ToolStart() | ToolDelta() if event.index and self._told.legacy:
                return begin
            case ToolDelta():
                return begin + self._arguments(event, state)
            case ToolStart():
                return begin + self._call(event, state)
            case RefusalDelta():
                state.has_refusal = True
                return begin + self._chunk(event.choice, b'{"refusal":%b}' % _encode(event.text))
            case TextStart():
                state.start = state.length
                return begin
            case Cited():
                citation = url_citation(event.citation, state.start, state.length)
                return begin + self._chunk(event.choice, _encode({"annotations": [_annotation(citation)]}))
            case Drawn():
                state.is_thinking = False
                state.images += 1
                shown = drawn_member(event.image, state.images - 1)
                return begin + self._chunk(event.choice, _encode({"images": [shown]}))
            case _:
                return begin

    def end(self, tail: Tail) -> bytes:
        counted = None if self._asked is False else usage.render(tail.usage, tail.receipt)
        more: dict[str, Any] = {}
        if tail.detail:
            more["detail"] = tail.detail
        # Clients parse arguments as JSON, but a call without arguments has brought no piece of them.
        bare = [ToolDelta(call, "{}", at) for at, state in self._states.items() for call in sorted(state.bare)]
        out = [self.write(list[Event](bare)), *self._custom_inputs()]
        # A choice that said nothing (its prompt was blocked) has not begun yet.
        out += [self._begin(finish.choice)[1] for finish in tail.finishes if finish.choice not in self._states]
        for position, finish in enumerate(tail.finishes):
            is_last = position == len(tail.finishes) - 1
            if self._asked:
                more["usage"] = None
            elif is_last and counted is not None:
                more["usage"] = counted
            out.append(self._own([self._finish(finish)], more))
        if self._asked and counted is not None:
            out.append(self._own([], {"usage": counted}))
        out.append(sse.DONE)
        return b"".join(out)

    def _custom_inputs(self) -> list[bytes]:
        """The inputs of custom tools, which go out whole because they are inside JSON that came in pieces."""
        calls = [
            (at, call, "".join(text)) for at, state in self._states.items() for call, text in state.customs.items()
        ]
        return [
            self._chunk(at, _encode({"tool_calls": [{"index": call, "custom": {"input": custom_input(text)}}]}))
            for at, call, text in calls
        ]

    def fail(self, error: ApiError, asked: Headers = ()) -> bytes:
        choice = {"index": 0, "delta": {"content": ""}, "logprobs": None, "finish_reason": "error"}
        return self._own([choice], errors.members(error, asked)) + errors.repeated(error, asked)

    # --- One event ---

    def _begin(self, choice: int) -> tuple[_State, bytes]:
        """A new choice's state, and the chunk that it begins with."""
        before_text = b'%b{"index":%d,"delta":{"content":' % (self._head, choice)
        state = self._states[choice] = _State(before_text)
        return state, self._chunk(choice, b'{"role":"assistant","content":"","refusal":null}')

    def _chunk(self, choice: int, delta: bytes, logprobs: Raw | None = None) -> bytes:
        said = b"null" if logprobs is None else bytes(logprobs).replace(b"\n", b" ")
        return b'%b{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":null}%b' % (
            self._head,
            choice,
            delta,
            said,
            self._end,
        )

    def _own(self, choices: list[dict[str, Any]], more: dict[str, Any]) -> bytes:
        """An event with `more` members than usual."""
        tail = _encode(more)[1:-1]
        return b"%b%b]%b}\n\n" % (self._head, _encode(choices)[1:-1], b"," + tail if tail else b"")

    def _thought(self, event: ThinkingDelta, state: _State) -> bytes:
        if not state.is_thinking:
            state.is_thinking = True
            state.details += 1
        text = _encode(event.text)
        delta = b'{"reasoning_content":%b,"reasoning_details":[{"type":"reasoning.text","text":%b,"index":%d}]}'
        return self._chunk(event.choice, delta % (text, text, state.details - 1))

    def _end_of_thought(self, event: ThinkingEnd, state: _State) -> bytes:
        was_thinking, state.is_thinking = state.is_thinking, False
        if not event.redacted and not event.signature:
            return b""
        if event.redacted or not was_thinking:
            state.details += 1
        detail = _detail(
            Thinking(signature=event.signature, redacted=event.redacted, origin=event.origin), state.details - 1
        )
        return self._chunk(event.choice, _encode({"reasoning_details": [detail]}))

    def _call(self, event: ToolStart, state: _State) -> bytes:
        state.is_thinking = False
        if event.name in self._told.customs:
            state.customs[event.index] = []
        else:
            state.bare.add(event.index)
        if self._told.legacy:
            return self._chunk(event.choice, _encode({"function_call": {"name": event.name, "arguments": ""}}))
        call = ToolCall(id=event.id, name=event.name, arguments="", signature=event.signature, origin=event.origin)
        delta: dict[str, Any] = {"tool_calls": [{"index": event.index, **_call(call, self._told)}]}
        if event.signature and not self._told.hides:
            delta["reasoning_details"] = [_call_detail(event.id, event.signature, event.origin, state.details)]
            state.details += 1
        return self._chunk(event.choice, _encode(delta))

    def _arguments(self, event: ToolDelta, state: _State) -> bytes:
        if event.index in state.customs:
            state.customs[event.index].append(event.arguments)
            return b""
        state.bare.discard(event.index)
        text = _encode(event.arguments)
        if self._told.legacy:
            return self._chunk(event.choice, b'{"function_call":{"arguments":%b}}' % text)
        delta = b'{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (event.index, text)
        return self._chunk(event.choice, delta)

    def _finish(self, finish: Finish) -> dict[str, Any]:
        state = self._states.get(finish.choice)
        has_refusal = state is not None and state.has_refusal
        reason = _finish_reason(finish.reason, has_refusal=has_refusal, legacy=self._told.legacy)
        choice: dict[str, Any] = {"index": finish.choice, "delta": {}, "logprobs": None, "finish_reason": reason}
        if finish.native:
            choice["native_finish_reason"] = finish.native
        return choice
