"""OpenAI-like servers, for callers that speak another dialect.

Rule 1  Servers differ in how they tell calls of tools apart: by `index`, by `id`, by neither; in pieces or whole. A
        call begins with a new index, or with an id or a name that differs from the known call's.
Rule 2  A call without an id gets one, derived from the chunk that it began in: the same bytes give the same id.
Rule 3  Signatures of thoughts, if a server has them (OpenRouter's `reasoning_details`), are kept as the JSON that it
        wants back, with pieces joined: nobody else could read them.
Rule 4  After the end was announced, only usage counts.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from tollbridge.errors import ProtocolError, UpstreamError
from tollbridge.values import Route, Usage
from tollbridge.wire import quirks
from tollbridge.wire.body import NULL
from tollbridge.wire.conversation import (
    Choice,
    Citation,
    Cited,
    Conversation,
    Document,
    Drawn,
    Event,
    Finish,
    Image,
    Part,
    Reason,
    Refusal,
    RefusalDelta,
    Reply,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolCall,
    ToolDelta,
    ToolStart,
)
from tollbridge.wire.errors import said_beside, said_in
from tollbridge.wire.event_reader import EventReader
from tollbridge.wire.exchange import Outgoing
from tollbridge.wire.heedless import openai_events
from tollbridge.wire.openai_answer import CHAT
from tollbridge.wire.openai_chat_body import body_of
from tollbridge.wire.openai_chat_conversation import ORIGIN
from tollbridge.wire.openai_parts import drawn_image
from tollbridge.wire.openai_reply import FAILED, REASONS, WITHHELD, read_any, read_completion
from tollbridge.wire.usage import Meter

_SHORT = 12
_MOST_CALLS = 1024


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Raw = NULL


class _Call(msgspec.Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _UrlCitation(msgspec.Struct, gc=False):
    url: str | None = None
    title: str | None = None
    content: str | None = None
    start_index: int | None = None
    end_index: int | None = None


class _Annotation(msgspec.Struct, gc=False):
    url_citation: _UrlCitation | None = None


class _Piece(msgspec.Struct, gc=False):
    """Content in parts (Mistral): a text, or a thought made of texts."""

    text: str | None = None
    thinking: "str | list[_Piece] | None" = None


class _Detail(msgspec.Struct, gc=False, omit_defaults=True):
    """A piece of `reasoning_details`; pieces with the same index belong together."""

    type: str = ""
    text: str | None = None
    summary: str | None = None
    data: str | None = None
    signature: str | None = None
    id: str | None = None
    format: str | None = None
    index: int | None = None


class _Url(msgspec.Struct, gc=False):
    url: str


class _Picture(msgspec.Struct, gc=False):
    """OpenRouter's form of a picture that the model drew."""

    image_url: _Url


class _Message(msgspec.Struct, gc=False):
    """A message, or what a chunk adds to one."""

    content: str | list[_Piece] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    annotations: list[_Annotation] | None = None
    images: Raw = NULL
    reasoning_details: Raw = NULL


class _Choice(msgspec.Struct, gc=False):
    index: int | None = None
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None
    logprobs: Raw = NULL
    usage: Raw = NULL
    error: Any = None


class _XGroq(msgspec.Struct, gc=False):
    usage: Raw = NULL


class _Body(msgspec.Struct, gc=False):
    """A whole answer, or a chunk."""

    object: Raw = NULL
    choices: list[_Choice] | UnsetType | None = UNSET
    usage: Raw = NULL
    error: Any = None
    x_groq: _XGroq | None = None
    base_resp: Any = None
    citations: Raw = NULL  # Perplexity: the addresses that marks like [1] in the text stand for


_decode_body = msgspec.json.Decoder(_Body).decode
_decode_details = msgspec.json.Decoder(list[_Detail] | None).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_pictures = msgspec.json.Decoder(list[_Picture] | None).decode
_decode_addresses = msgspec.json.Decoder(list[str]).decode


class OpenAiChat:
    """See `dialect.Provider`."""

    def outgoing(self, conversation: Conversation, route: Route, limit: int | None) -> Outgoing:
        body, dropped = body_of(conversation, route, limit)
        return Outgoing(quirks.target_for(route, "chat", "/chat/completions"), body, dropped)

    def takes_url(self, part: Image | Document, route: Route) -> bool:
        return isinstance(part, Image)

    def reply(self, body: bytes) -> Reply:
        completion, body = read_completion(body)
        for error in (completion.error, *(choice.error for choice in completion.choices or ())):
            if error:
                raise said_in(error)
        failed = said_beside(completion.base_resp)
        if failed is not None:
            raise failed
        try:
            answer = _decode_body(body)
        except (msgspec.DecodeError, RecursionError):
            raise ProtocolError("the upstream's answer is not a completion") from None
        choices = answer.choices or []
        if not choices:
            raise ProtocolError("the upstream's answer has no choices")
        meter = Meter()
        for raw in (*(choice.usage for choice in choices), completion.usage):
            if raw != NULL:
                meter.read(raw)
        sources = _sources(answer.citations)
        found = tuple(_whole_choice(choice, body, sources) for choice in choices)
        return Reply(choices=found, usage=meter.usage, suspect=meter.suspect, reported=meter.reported)

    def reader(self) -> "ChatReader":
        return ChatReader()


def _whole_choice(choice: _Choice, body: bytes, sources: tuple[Citation, ...]) -> Choice:
    message, native = choice.message, choice.finish_reason or ""
    if native in FAILED:
        raise said_in(None)
    if message is None:
        if native != WITHHELD:
            raise ProtocolError("the upstream's answer has a choice without an answer")
        message = _Message()
    parts: list[Part] = []
    details = _Details()
    thought = details.take(message) or message.reasoning_content or message.reasoning or ""
    proof = details.proof()
    if thought or proof:
        parts.append(Thinking(text=thought, signature=proof, origin=ORIGIN))
    texts = [message.content] if isinstance(message.content, str) else []
    for is_thought, text in _pieces(message.content):
        if is_thought:
            parts.append(Thinking(text=text, origin=ORIGIN))
        else:
            texts.append(text)
    if any(texts):
        citations = tuple(map(_citation, _cited(message.annotations)))
        parts.append(Text(text="".join(texts), citations=citations or sources))
    parts += _drawn(message)
    if message.refusal:
        parts.append(Refusal(text=message.refusal))
    calls = [(call.id, call.function) for call in message.tool_calls or () if call.function is not None]
    older = message.function_call
    # Snowflake fills in every member, and so each of its answers has a call of nothing.
    if older is not None and (older.name or _arguments(older.arguments)):
        calls.append((None, older))
    for index, (id_, function) in enumerate(calls):
        if not function.name:
            raise ProtocolError("the upstream called a tool without a name")
        parts.append(
            ToolCall(
                id=id_ or _made_up_id(body, choice.index or 0, index),
                name=function.name,
                arguments=_arguments(function.arguments) or "{}",
            )
        )
    return Choice(
        parts=tuple(parts),
        reason=_reason(native, has_calls=bool(calls), has_refusal=bool(message.refusal)),
        native=native,
        logprobs=None if choice.logprobs == NULL else choice.logprobs,
    )


def _pieces(content: str | list[_Piece] | None) -> Iterator[tuple[bool, str]]:
    """For each part of the content, whether it is a thought, and its text."""
    for piece in content if isinstance(content, list) else ():
        if piece.thinking:
            inner = piece.thinking
            yield True, inner if isinstance(inner, str) else "".join(part.text or "" for part in inner)
        elif piece.text:
            yield False, piece.text


def _drawn(message: _Message) -> Iterator[Image]:
    """Pictures; none where `images` is something else."""
    if message.images != NULL:
        try:
            found = _decode_pictures(message.images) or []
        except (msgspec.DecodeError, RecursionError):
            return
        yield from (drawn_image(picture.image_url.url) for picture in found)


def _cited(annotations: list[_Annotation] | None) -> Iterator[_UrlCitation]:
    for annotation in annotations or ():
        if annotation.url_citation is not None and annotation.url_citation.url:
            yield annotation.url_citation


def _sources(raw: Raw) -> tuple[Citation, ...]:
    """What the addresses beside the choices cite; nothing where `citations` is something else."""
    if raw == NULL:
        return ()
    try:
        return tuple(Citation(url=url) for url in _decode_addresses(raw))
    except msgspec.DecodeError:
        return ()


def _citation(found: _UrlCitation) -> Citation:
    return Citation(
        url=found.url or "",
        title=found.title or "",
        quote=found.content or "",
        start=found.start_index,
        end=found.end_index,
    )


def _arguments(raw: Raw) -> str:
    """Arguments as text. Some servers send the object itself."""
    text = bytes(raw)
    if not text.startswith(b'"'):
        return "" if raw == NULL else text.decode()
    try:
        return _decode_text(text)
    except msgspec.DecodeError:
        return str(read_any(text)).encode(errors="replace").decode()


def _reason(native: str, *, has_calls: bool, has_refusal: bool) -> Reason:
    reason = REASONS.get(native, "stop")
    if reason == "stop" and has_refusal:
        return "refused"
    return "tool_calls" if reason == "stop" and has_calls else reason


class _Details:
    """The `reasoning_details` of a choice, joined."""

    def __init__(self) -> None:
        self._joined: list[_Detail] = []

    def take(self, message: _Message) -> str:
        """Take the details of a message or a piece of one. Returns their text, which may be given nowhere else."""
        if message.reasoning_details == NULL:
            return ""
        try:
            details = _decode_details(message.reasoning_details) or []
        except msgspec.DecodeError:
            return ""
        text = "".join(detail.text or detail.summary or "" for detail in details)
        for detail in details:
            self._join(detail)
        return "" if message.reasoning_content or message.reasoning else text

    def proof(self) -> str:
        """Everything so far as JSON, then start anew; "" while none of it is signed or encrypted."""
        if not any(detail.signature or detail.data for detail in self._joined):
            return ""
        joined, self._joined = self._joined, []
        return msgspec.json.encode(joined).decode()

    def _join(self, detail: _Detail) -> None:
        last = self._joined[-1] if self._joined else None
        if last is None or (last.index, last.type) != (detail.index, detail.type) or detail.index is None:
            self._joined.append(detail)
            return
        for name in ("text", "summary", "data"):
            piece = getattr(detail, name)
            if piece:
                setattr(last, name, (getattr(last, name) or "") + piece)
        last.signature = detail.signature or last.signature
        last.id = last.id or detail.id
        last.format = last.format or detail.format


def _made_up_id(data: bytes, choice: int, index: int) -> str:
    return f"call_{hashlib.blake2s(data, digest_size=9).hexdigest()}{choice:x}{index:02x}"


class _OpenCall:
    """A call of a tool that is being written. `name`: empty until it has begun for the caller."""

    def __init__(self, index: int, given_id: str) -> None:
        self.index = index
        self.given_id = given_id
        self.name = ""
        self.early = ""  # arguments that came before the name


class _State:
    """The state of the choice `index` of a stream."""

    def __init__(self, index: int) -> None:
        self.calls: list[_OpenCall] = []
        self.details = _Details()
        self.has_refusal = False
        self.has_citations = False
        self.is_finished = False
        self._index = index
        self._by_index: dict[int, _OpenCall] = {}

    def take(self, call: _Call, function: _Function, data: bytes, events: list[Event]) -> None:
        """Take a piece of a call from the chunk `data`."""
        name, arguments = function.name or "", _arguments(function.arguments)
        found = self._find(call.index, call.id or "", name)
        if found is None:
            if len(self.calls) >= _MOST_CALLS:
                raise ProtocolError(f"the upstream called more than {_MOST_CALLS} tools")
            found = _OpenCall(len(self.calls), call.id or "")
            self.calls.append(found)
        if call.index is not None:
            self._by_index[call.index] = found
        if not found.name and name:
            found.name = name
            id_ = found.given_id or _made_up_id(data, self._index, found.index)
            events.append(ToolStart(found.index, id_, name, self._index))
            arguments = found.early + arguments
        if not found.name:
            found.early += arguments
        elif arguments:
            events.append(ToolDelta(found.index, arguments, self._index))

    def _find(self, index: int | None, id_: str, name: str) -> _OpenCall | None:
        """The call that a piece belongs to; None: it begins a new one."""
        by_id = next((call for call in self.calls if call.given_id == id_), None) if id_ else None
        last = self.calls[-1] if self.calls else None
        known = (by_id or last) if index is None else self._by_index.get(index)
        if known is None or not name or not known.name:
            return known
        if id_ and id_ != known.given_id:
            return by_id
        if index is None and not id_:
            return None
        return known if name == known.name else None


class ChatReader(EventReader[Event]):
    """See `dialect.Reader`."""

    def __init__(self) -> None:
        super().__init__()
        self._meter: Meter = Meter()
        self._states: dict[int, _State] = {}
        self._citations: Raw = NULL  # those beside the choices of the latest chunk
        self._over = False  # output came after the end: what follows may be about another answer
        self._covered = self._uncovered = 0  # pieces of output that came before the last report, and after it

    @property
    def usage(self) -> Usage | None:
        # A report cannot have counted output that came after it; if that is most of the output, it is no use.
        return self._meter.usage if self._uncovered <= self._covered else None

    def _events_of(self, answer: Any) -> Iterable[Any]:
        return openai_events(answer)

    def _take(self, name: bytes, data: bytes, out: list[Event]) -> UpstreamError | None:
        if len(data) <= _SHORT and (word := data.strip()) in (b"", b"[DONE]"):
            if word:
                self.done, self._head = True, None
            return None
        self._head = None
        try:
            chunk = _read_chunk(data)
        except ProtocolError as error:
            return None if self._is_said() else error
        choices = chunk.choices or []
        if self.done:
            self._over = self._over or bool(choices)
            if self._over and self._meter.usage is not None:
                return None
        before = len(out)
        has_usage = self._read_usage(chunk, choices)
        if self.done:
            self._uncovered = 0 if has_usage else self._uncovered
            return None
        said = chunk.error or next((choice.error for choice in choices if choice.error), None)
        if said or name == b"error" or any(choice.finish_reason in FAILED for choice in choices):
            return said_in(said)
        failed = said_beside(chunk.base_resp)
        if failed is not None:
            return failed
        # While it speaks, OpenAI sends chunks that hold nothing.
        if chunk.choices is UNSET and not has_usage and chunk.object != CHAT.chunk and name in (b"", b"message"):
            return ProtocolError("the upstream sent an event without choices")
        self._citations = chunk.citations
        try:
            for position, choice in enumerate(choices):
                self._choice(position if choice.index is None else choice.index, choice, data, out)
        except ProtocolError as error:
            return error
        self._uncovered += len(out) - before
        if has_usage:
            self._covered, self._uncovered = self._covered + self._uncovered, 0
        return None

    def _is_said(self) -> bool:
        """Whether everything that was begun is finished."""
        return self.done or (bool(self._states) and all(state.is_finished for state in self._states.values()))

    def _read_usage(self, chunk: _Body, choices: list[_Choice]) -> bool:
        found = [choice.usage for choice in choices if choice.usage != NULL]
        if chunk.x_groq is not None and chunk.x_groq.usage != NULL:
            found.append(chunk.x_groq.usage)
        if chunk.usage != NULL:
            found.append(chunk.usage)
        for raw in found:
            self._meter.read(raw)
        return bool(found)

    def _choice(self, index: int, choice: _Choice, data: bytes, events: list[Event]) -> None:
        state = self._states.get(index)
        if state is None:
            state = self._states[index] = _State(index)
        if state.is_finished:
            return
        delta = choice.delta if choice.delta is not None else choice.message
        if delta is not None:
            thought = delta.reasoning_content or delta.reasoning
            if delta.reasoning_details != NULL:
                thought = state.details.take(delta) or thought
            if thought:
                events.append(ThinkingDelta(thought, index))
            if delta.content or delta.tool_calls or delta.images != NULL:
                self._prove(index, state, events)
            logprobs = None if choice.logprobs == NULL else choice.logprobs
            if type(delta.content) is str and (delta.content or logprobs is not None):
                events.append(TextDelta(delta.content, index, logprobs))
            self._rarer(index, state, delta, events)
            calls = delta.tool_calls or ()
            if delta.function_call is not None:
                calls = (*calls, _Call(function=delta.function_call))
            for call in calls:
                if call.function is not None:
                    state.take(call, call.function, data, events)
        if choice.finish_reason:
            self._prove(index, state, events)
            state.is_finished = True
            if any(call.early and not call.name for call in state.calls):
                raise ProtocolError("the upstream called a tool without a name")
            native = choice.finish_reason
            has_calls = any(call.name for call in state.calls)
            if not has_calls and not state.has_citations:
                events.extend(Cited(citation, index) for citation in _sources(self._citations))
            reason = _reason(native, has_calls=has_calls, has_refusal=state.has_refusal)
            events.append(Finish(reason, native=native, choice=index))

    def _prove(self, index: int, state: _State, events: list[Event]) -> None:
        proof = state.details.proof()
        if proof:
            events.append(ThinkingEnd(signature=proof, origin=ORIGIN, choice=index))

    def _rarer(self, index: int, state: _State, delta: _Message, events: list[Event]) -> None:
        for is_thought, text in _pieces(delta.content):
            events.append(ThinkingDelta(text, index) if is_thought else TextDelta(text, index))
        if delta.refusal:
            state.has_refusal = True
            events.append(RefusalDelta(delta.refusal, index))
        cited = [Cited(_citation(found), index) for found in _cited(delta.annotations)]
        if cited:
            state.has_citations = True
            events += cited
        events.extend(Drawn(image, index) for image in _drawn(delta))


def _read_chunk(data: bytes) -> _Body:
    try:
        if not data.isascii():
            data.decode()  # what is passed on unread is UTF-8 too
        return _decode_body(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = read_any(data)
    if isinstance(document, dict) and document.get("error"):
        return _Body(error=document["error"])
    try:
        # Half of a surrogate pair: a server cut a character in two.
        return _decode_body(json.dumps(document, ensure_ascii=False).encode(errors="replace"))
    except (msgspec.DecodeError, RecursionError):
        raise ProtocolError("the upstream sent an event of the wrong shape") from None
