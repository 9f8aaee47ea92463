"""Providers that speak Anthropic's Messages, for callers who speak another dialect."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.errors import ProtocolError, UpstreamError
from tollbridge.values import Route
from tollbridge.wire import anthropic_request, quirks
from tollbridge.wire.anthropic_models import abilities
from tollbridge.wire.anthropic_reply import REASONS, Block, Event, Message, read_event, read_message
from tollbridge.wire.anthropic_request import ORIGIN
from tollbridge.wire.anthropic_usage import Meter
from tollbridge.wire.body import NOTHING, NULL
from tollbridge.wire.conversation import (
    Choice,
    Citation,
    Cited,
    Conversation,
    Document,
    Finish,
    Fit,
    Image,
    Part,
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
from tollbridge.wire.conversation import Event as Said
from tollbridge.wire.errors import said_in
from tollbridge.wire.event_reader import EventReader
from tollbridge.wire.exchange import Outgoing
from tollbridge.wire.heedless import anthropic_events

TARGET = "/messages"
_NO_INPUT = (NOTHING, NULL, Raw(b"{}"))


class AnthropicProvider:
    """See `dialect.Provider`."""

    def outgoing(self, conversation: Conversation, route: Route, limit: int | None) -> Outgoing:
        fit = Fit(conversation, "Anthropic")
        limits = [each for each in (conversation.max_tokens, limit) if each is not None]
        fields = anthropic_request.body(
            conversation, route.upstream_model, min(limits, default=route.output_limit), fit
        )
        headers = _let_thoughts_go(fields, route)
        quirks.change(fields, route.upstream)
        target = quirks.target_for(route, "messages", TARGET, stream=conversation.stream)
        return Outgoing(target, msgspec.json.encode(fields), tuple(dict.fromkeys(fit.dropped)), headers)

    def takes_url(self, part: Image | Document, route: Route) -> bool:
        return part.url.startswith("https://")

    def reply(self, body: bytes) -> Reply:
        message, _ = read_answer(body)
        meter = Meter()
        meter.read(message.usage)
        return Reply(choices=(_choice(message),), usage=meter.usage, suspect=meter.suspect, reported=meter.reported)

    def reader(self) -> "AnthropicReader":
        return AnthropicReader()


def _let_thoughts_go(fields: dict[str, Any], route: Route) -> tuple[tuple[bytes, bytes], ...]:
    """Have thoughts left out that the model would refuse; returns the headers that this needs.

    Callers of other dialects do not know that thoughts are bound to all that was said before them. An agent that hands
    over to another changes instructions and tools. Anthropic documents the remedy for its own API.
    """
    able = abilities(route.upstream_model)
    if not able.binds or route.upstream.provider != "anthropic" or not _has_thoughts(fields["messages"]):
        return ()
    thinking = fields.get("thinking", {"type": "adaptive"} if not able.off else {})
    if thinking.get("type") != "adaptive":
        return ()
    fields["thinking"] = thinking | {"block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    return ((b"anthropic-beta", b"thinking-binding-controls-2026-08-01"),)


def _has_thoughts(messages: list[dict[str, Any]]) -> bool:
    blocks = (block for message in messages if isinstance(message["content"], list) for block in message["content"])
    return any(isinstance(block, dict) and block.get("type") in ("thinking", "redacted_thinking") for block in blocks)


class AnthropicReader(EventReader[Said]):
    """See `dialect.Reader`."""

    def __init__(self) -> None:
        super().__init__()
        self._meter: Meter = Meter()
        self._tools: dict[int, int] = {}  # block → its number among the calls
        self._signatures: dict[int, str] = {}  # of thoughts that are not over
        self._citations: list[Citation] = []  # of the text that is not over: they come before it
        self._has_text = False
        self._is_finished = False

    def _events_of(self, answer: Any) -> Iterable[Any]:
        return anthropic_events(answer)

    def _take(self, name: bytes, data: bytes, out: list[Said]) -> UpstreamError | None:
        """Read an event; return what is wrong with it."""
        if not data or data.isspace() or self.done:
            return None
        self._head = None
        try:
            event = read_event(data)
        except ProtocolError as error:
            return error
        kind = event.type
        if kind == "content_block_delta":
            self._delta(event, out)
        elif kind == "content_block_start":
            self._start(event, out)
        elif kind == "content_block_stop":
            if event.index in self._signatures:
                out.append(ThinkingEnd(signature=self._signatures.pop(event.index), origin=ORIGIN))
            self._cite(out)
        elif kind == "message_start":
            if event.message is not None:
                self._meter.start(event.message.usage)
        elif kind == "message_delta":
            self._finish(event, out)
        elif kind == "message_stop":
            self.done = True
        else:
            return failure(name, event)
        return None

    def _start(self, event: Event, out: list[Said]) -> None:
        block = event.content_block
        if block is None:
            return
        if block.type == "tool_use":
            number = self._tools[event.index] = len(self._tools)
            out.append(ToolStart(number, block.id or "", block.name or ""))
            if block.input not in _NO_INPUT:  # servers of others send all of it at once
                out.append(ToolDelta(number, bytes(block.input).decode()))
        elif block.type == "redacted_thinking":
            out.append(ThinkingEnd(redacted=block.data or "", origin=ORIGIN))
        elif block.type == "thinking":
            if block.thinking:
                out.append(ThinkingDelta(block.thinking))
            if block.signature:
                self._signatures[event.index] = block.signature
        elif block.type == "text":
            if self._has_text:
                out.append(TextStart())
            self._has_text = True
            if block.text:
                out.append(TextDelta(block.text))

    def _delta(self, event: Event, out: list[Said]) -> None:
        delta = event.delta
        if delta is None:
            return
        kind = delta.type
        if kind == "text_delta":
            if delta.text:
                out.append(TextDelta(delta.text))
        elif kind == "input_json_delta":
            if delta.partial_json and event.index in self._tools:
                out.append(ToolDelta(self._tools[event.index], delta.partial_json))
        elif kind == "thinking_delta":
            if delta.thinking:
                out.append(ThinkingDelta(delta.thinking))
        elif kind == "signature_delta":
            self._signatures[event.index] = self._signatures.get(event.index, "") + (delta.signature or "")
        elif kind == "citations_delta" and delta.citation is not None:
            citation = delta.citation.citation
            if citation is not None:
                self._citations.append(citation)

    def _cite(self, out: list[Said]) -> None:
        out.extend(map(Cited, self._citations))
        self._citations.clear()

    def _finish(self, event: Event, out: list[Said]) -> None:
        self._cite(out)
        self._meter.read(event.usage)
        delta = event.delta
        if delta is None or not delta.stop_reason or self._is_finished:
            return
        self._is_finished = True
        reason = REASONS.get(delta.stop_reason, "stop")
        if reason == "refused" and delta.stop_details is not None and delta.stop_details.explanation:
            out.append(RefusalDelta(delta.stop_details.explanation))
        out.append(Finish(reason, delta.stop_sequence, delta.stop_reason))


def read_answer(body: bytes) -> tuple[Message, bytes]:
    """A whole answer, and the body that it was read from. Raises `UpstreamSaid` or `ProtocolError`."""
    message, body = read_message(body)
    if message.error or message.type == "error":
        raise said_in(message.error)
    if message.content is None:
        raise ProtocolError("the upstream's answer has no content")
    return message, body


def failure(name: bytes, event: Event) -> UpstreamError | None:
    """What an event means that is not part of an answer: the provider's failure, or None (a ping, a future kind)."""
    if event.type == "error" or event.error or name == b"error":
        return said_in(event.error)
    if not event.type:
        return ProtocolError("the upstream sent an event without a type")
    return None


def _choice(message: Message) -> Choice:
    parts = [part for block in message.content or () for part in _parts(block)]
    reason = REASONS.get(message.stop_reason or "", "stop")
    if reason == "refused" and message.stop_details is not None and message.stop_details.explanation:
        parts.append(Refusal(text=message.stop_details.explanation))
    return Choice(
        parts=tuple(parts), reason=reason, stop_sequence=message.stop_sequence, native=message.stop_reason or ""
    )


def _parts(block: Block) -> Iterator[Part]:
    if block.type == "text":
        sources = [source.citation for source in block.citations or ()]
        yield Text(text=block.text or "", citations=tuple(source for source in sources if source is not None))
    elif block.type == "thinking":
        yield Thinking(text=block.thinking or "", signature=block.signature or "", origin=ORIGIN)
    elif block.type == "redacted_thinking":
        yield Thinking(redacted=block.data or "", origin=ORIGIN)
    elif block.type == "tool_use":
        given = "{}" if block.input in _NO_INPUT else bytes(block.input).decode()
        yield ToolCall(id=block.id or "", name=block.name or "", arguments=given)
