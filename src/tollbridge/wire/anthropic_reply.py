"""What Anthropic's servers send, read with care: only what is needed, and nothing of the wrong shape."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from msgspec import Raw

from tollbridge.errors import ProtocolError
from tollbridge.wire.body import NOTHING, NULL
from tollbridge.wire.conversation import Citation, Reason
from tollbridge.wire.openai_reply import read_any

# `model_context_window_exceeded` is a limit like any other; a reason that is not listed ends a turn.
REASONS: dict[str, Reason] = {
    "end_turn": "stop",
    "stop_sequence": "stop_sequence",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "pause_turn": "paused",
    "compaction": "paused",
    "refusal": "refused",
}


T = TypeVar("T")


class CitationSource(msgspec.Struct, gc=False):
    """`url`: of a web page; `source`: of a search result that the caller gave. Others cite the caller's documents."""

    url: str | None = None
    source: str | None = None
    title: str | None = None
    cited_text: str | None = None

    @property
    def citation(self) -> Citation | None:
        url = self.url or self.source
        return Citation(url=url, title=self.title or "", quote=self.cited_text or "") if url else None


class Block(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None
    citations: list[CitationSource] | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = NOTHING


class StopDetails(msgspec.Struct, gc=False):
    explanation: str | None = None


class Delta(msgspec.Struct, gc=False):
    """What an event adds to a block, or to the message."""

    type: str = ""
    text: str | None = None
    thinking: str | None = None
    partial_json: str | None = None
    signature: str | None = None
    citation: CitationSource | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None


class Message(msgspec.Struct, gc=False):
    """A whole answer, or the message of a `message_start`."""

    type: str = ""
    content: list[Block] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    usage: Raw = NULL
    error: Any = None


class Event(msgspec.Struct, gc=False):
    type: str = ""
    index: int = 0
    delta: Delta | None = None
    content_block: Block | None = None
    message: Message | None = None
    usage: Raw = NULL
    error: Any = None


_decode_event = msgspec.json.Decoder(Event).decode
_decode_message = msgspec.json.Decoder(Message).decode


def read_event(data: bytes) -> Event:
    """One event; raises `ProtocolError`."""
    try:
        if not data.isascii():
            data.decode()  # what is passed on unread is UTF-8 too
        return _decode_event(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _whole_characters(_decode_event, data)


def read_message(body: bytes) -> tuple[Message, bytes]:
    """A whole answer, and the body that it was read from; raises `ProtocolError`."""
    try:
        if not body.isascii():
            body.decode()
        return _decode_message(body), body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        repaired = _repaired(body)
        return _whole_characters(_decode_message, repaired), repaired


def arguments(text: str) -> Raw:
    """A call's arguments as an object, which Anthropic requires. Anything else is put into one, so nothing is lost."""
    if not text or text.isspace():
        return Raw(b"{}")
    try:
        raw = text.encode()
        msgspec.json.decode(raw, type=dict[str, Raw])
        return Raw(raw)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return Raw(json.dumps({"invalid_arguments": text}).encode())


def _whole_characters(decode: Callable[[bytes], T], data: bytes) -> T:
    try:
        return decode(_repaired(data))
    except (msgspec.DecodeError, RecursionError):
        raise ProtocolError("the upstream sent something of the wrong shape") from None


def _repaired(data: bytes) -> bytes:
    """`data` with each lone half of a surrogate pair (a character cut in two) as a `?`; raises `ProtocolError`."""
    document = read_any(data)
    try:
        return json.dumps(document, ensure_ascii=False).encode(errors="replace")
    except RecursionError:
        raise ProtocolError("the upstream sent something that nests too deep") from None
