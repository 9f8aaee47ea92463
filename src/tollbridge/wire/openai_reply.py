"""What OpenAI-like servers send, read with care: only what is needed, and nothing of the wrong shape."""

import json
from typing import Annotated, Any, Literal, NoReturn

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from tollbridge.errors import ProtocolError
from tollbridge.wire.body import NOTHING, NULL
from tollbridge.wire.conversation import Reason

# Reasons to finish that say that the provider failed: OpenRouter's word, and Zhipu's.
FAILED = frozenset({"error", "network_error"})
# What the others say; one that is not listed is a stop.
REASONS: dict[str, Reason] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",  # Mistral
    "model_context_window_exceeded": "length",  # Zhipu
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "filtered",
    "sensitive": "filtered",  # Zhipu
    "insufficient_system_resource": "length",  # DeepSeek: cut off
}
# Azure leaves out the message of an answer that it withholds.
WITHHELD = "content_filter"
# OpenAI's words, by `Reason`.
FINISHES: dict[str, str] = {
    "stop": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "filtered": "content_filter",
    "refused": "content_filter",
    "paused": "stop",
}


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Custom(msgspec.Struct, gc=False):
    name: str | None = None
    input: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function | None = None
    custom: _Custom | None = None


class _Sound(msgspec.Struct, gc=False):
    data: str | None = None
    transcript: str | None = None


class Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    images: Raw | UnsetType = UNSET
    audio: _Sound | None = None


class ChunkChoice(msgspec.Struct, gc=False):
    index: int | UnsetType = UNSET
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    usage: Raw = NULL
    error: Any = None


class _XGroq(msgspec.Struct, gc=False):
    usage: Raw = NULL


class Chunk(msgspec.Struct, gc=False):
    """One event of a stream. Members that are missing are `NOTHING`; a usage that is missing is null."""

    id: Raw = NOTHING
    object: Raw = NOTHING
    created: Raw = NOTHING
    model: Raw = NOTHING
    choices: list[ChunkChoice] | UnsetType | None = UNSET
    usage: Raw = NULL
    error: Any = None
    x_groq: _XGroq | None = None
    base_resp: Any = None


class _Message(msgspec.Struct, gc=False):
    role: Raw = NOTHING
    content: Raw = NOTHING
    images: Raw = NULL


class AnswerChoice(msgspec.Struct, gc=False):
    index: int | UnsetType = UNSET
    message: _Message | None = None
    text: str | None = None
    finish_reason: str | UnsetType | None = UNSET
    usage: Raw = NULL
    error: Any = None

    @property
    def is_whole(self) -> bool:
        """Whether nothing that clients need is missing."""
        if self.index is UNSET or self.finish_reason is UNSET:
            return False
        return self.message is None or (self.message.role is not NOTHING and self.message.content is not NOTHING)


class Completion(msgspec.Struct, gc=False):
    """A whole answer of chat or completions."""

    choices: list[AnswerChoice] | None = None
    usage: Raw = NULL
    error: Any = None
    base_resp: Any = None


class _Picture(msgspec.Struct, gc=False):
    image_url: Raw


class _WholeMessage(msgspec.Struct, gc=False):
    role: Raw
    content: Raw


class _WholeChoice(msgspec.Struct, gc=False):
    index: int
    message: _WholeMessage
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "function_call"] | None
    text: str | None = None
    usage: None = None
    error: None = None


class _Well(msgspec.Struct, gc=False):
    """MiniMax's word that nothing failed."""

    status_code: Literal[0] = 0


class WholeChat(msgspec.Struct, gc=False):
    """An answer of chat with nothing missing, nothing unusual and no error."""

    choices: Annotated[list[_WholeChoice], Meta(min_length=1)]
    usage: Raw = NULL
    error: None = None
    base_resp: _Well | None = None


_decode_chunk = msgspec.json.Decoder(Chunk).decode
_decode_completion = msgspec.json.Decoder(Completion).decode
_decode_whole_chat = msgspec.json.Decoder(WholeChat).decode
_decode_pictures = msgspec.json.Decoder(list[_Picture]).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode

# The members of a message or a delta that hold a model's words, whatever its shape. If both are sent, `reasoning`
# repeats `reasoning_content`; `reasoning_details` repeats either.
_WORDS = frozenset(
    {
        *("content", "text", "thinking", "reasoning_content", "refusal", "audio", "transcript"),
        *("tool_calls", "function_call", "function", "custom", "name", "arguments", "input"),
    }
)


def finish_reason(kept: str | None) -> str | None:
    """OpenAI's word for how an answer ended. `kept`: how the books have it, as a `Reason` or, where OpenAI's dialect is
    spoken on both sides, in the server's own word.
    """
    word = kept or ""
    return FINISHES.get(REASONS.get(word, word), kept)


def read_chunk(data: bytes) -> Chunk:
    """One event; raises `ProtocolError`. Shapes that only some servers use (content in parts) become plain text."""
    try:
        if not data.isascii():
            data.decode()  # what is passed on unread is UTF-8 too
        return _decode_chunk(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _chunk_of_another_shape(data)


def read_whole_chat(body: bytes) -> WholeChat | None:
    """The answer, if it is like nearly every answer of chat; None: leave it to `read_completion`, which says why."""
    try:
        if not body.isascii():
            body.decode()
        return _decode_whole_chat(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_completion(body: bytes) -> tuple[Completion, bytes]:
    """A whole answer, and the body that it was read from; raises `ProtocolError` unless it is a JSON object."""
    try:
        if not body.isascii():
            body.decode()
        return _decode_completion(body), body
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = read_any(body)
    if isinstance(document, dict) and document.get("error"):
        return Completion(error=document["error"]), body
    try:
        # Lone halves of surrogate pairs, where an answer was cut in the middle of a character, become question marks.
        body = json.dumps(document, ensure_ascii=False).encode(errors="replace")
        return _decode_completion(body), body
    except (msgspec.DecodeError, RecursionError):
        raise ProtocolError("the upstream's answer is not a completion") from None


def read_fields(data: bytes) -> dict[str, Raw]:
    """The members of a JSON object; raises `ProtocolError`."""
    try:
        return _decode_fields(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Half of a surrogate pair is valid by JSON's grammar, and some servers cut characters in two.
        document = read_any(data)
        if not isinstance(document, dict):
            raise ProtocolError("the upstream sent JSON that is not an object") from None
        return {str(name): _plain(value) for name, value in document.items()}


def read_any(data: bytes) -> Any:
    """Any JSON; raises `ProtocolError`."""
    try:
        return json.loads(data.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise ProtocolError("the upstream sent something that is not JSON") from None


def words(value: Any) -> list[str]:
    """The text in a message or delta of any shape, read as plain JSON."""
    found: list[str] = []
    _gather(value, found)
    return found


def pictures_in(images: Raw) -> int:
    """How many pictures a message or a delta brings, in OpenRouter's place for them; none if it is anything else."""
    try:
        return 0 if images == NULL else len(_decode_pictures(images))
    except (msgspec.DecodeError, RecursionError):
        return 0


def _gather(value: Any, found: list[str]) -> None:
    if isinstance(value, str):
        found.append(value)
    elif isinstance(value, list):
        for item in value:
            _gather(item, found)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in _WORDS or (name == "reasoning" and not value.get("reasoning_content")):
                _gather(item, found)


def _chunk_of_another_shape(data: bytes) -> Chunk:
    fields, document = read_fields(data), read_any(data)
    chunk = Chunk(
        id=fields.get("id", NOTHING),
        object=fields.get("object", NOTHING),
        created=fields.get("created", NOTHING),
        model=fields.get("model", NOTHING),
        usage=fields.get("usage", NULL),
        error=document.get("error"),
        base_resp=document.get("base_resp"),
    )
    choices = document.get("choices", UNSET)
    if choices is None:
        chunk.choices = None
    elif choices is not UNSET:
        if not isinstance(choices, list):
            raise ProtocolError("the upstream sent choices that are not an array")
        chunk.choices = [_choice_of_another_shape(choice) for choice in choices]
    return chunk


def _choice_of_another_shape(choice: Any) -> ChunkChoice:
    if not isinstance(choice, dict):
        raise ProtocolError("the upstream sent a choice that is not an object")
    index, finish, delta, text = (choice.get(name) for name in ("index", "finish_reason", "delta", "text"))
    if not isinstance(finish, str | None) or not isinstance(delta, dict | None) or not isinstance(text, str | None):
        raise ProtocolError("the upstream sent a choice of the wrong shape")
    try:
        content = "".join(words(delta))
        images = _plain(delta.get("images")) if delta else NULL
    except RecursionError:
        raise ProtocolError("the upstream sent an event that nests too deep") from None
    return ChunkChoice(
        index=index if isinstance(index, int) and not isinstance(index, bool) else UNSET,
        delta=None if delta is None else Delta(content=content, images=images),
        text=text,
        finish_reason=finish,
        usage=_plain(choice.get("usage")),
        error=choice.get("error"),
    )


def _plain(value: Any) -> Raw:
    """JSON that every reader accepts: a lone half of a surrogate pair becomes a question mark."""
    return Raw(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
