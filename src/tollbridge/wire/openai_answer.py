"""Whole answers of chat and completions, from an OpenAI-like server to an OpenAI client."""

from typing import Any

import msgspec
from msgspec import UNSET, Raw

from tollbridge.errors import ProtocolError
from tollbridge.wire.body import NULL
from tollbridge.wire.errors import said_beside, said_in
from tollbridge.wire.event_reader import Metered
from tollbridge.wire.exchange import Names, Receipt
from tollbridge.wire.openai_reply import (
    FAILED,
    WITHHELD,
    pictures_in,
    read_any,
    read_completion,
    read_fields,
    read_whole_chat,
    words,
)
from tollbridge.wire.usage import Meter

_encode = msgspec.json.Encoder().encode
_UNKNOWN = Raw(b'""')


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How chat and completions differ. Members are JSON: `object`, a stream's `chunk`, and a choice without text."""

    object: Raw
    chunk: Raw
    empty: dict[str, Raw]
    is_chat: bool


CHAT = Shape(
    object=Raw(b'"chat.completion"'),
    chunk=Raw(b'"chat.completion.chunk"'),
    empty={"delta": Raw(b"{}")},
    is_chat=True,
)
COMPLETIONS = Shape(
    object=Raw(b'"text_completion"'),
    chunk=Raw(b'"text_completion"'),
    empty={"text": Raw(b'""')},
    is_chat=False,
)


class CompletionAnswer(Metered):
    """See `exchange.Answer`."""

    _is_whole = True

    def __init__(self, shape: Shape, names: Names, body: bytes) -> None:
        self._shape = shape
        self._names = names
        self._meter: Meter = Meter()
        whole = read_whole_chat(body) if shape.is_chat else None
        if whole is None:
            self._read_with_care(body)
            return
        self._body = body
        self.finish: str | None = whole.choices[0].finish_reason
        if whole.usage != NULL:
            self._meter.read(whole.usage)

    def _read_with_care(self, body: bytes) -> None:
        completion, self._body = read_completion(body)
        choices = completion.choices or []
        if completion.error:
            raise said_in(completion.error)
        failed = said_beside(completion.base_resp)
        if failed is not None:
            raise failed
        if not choices:
            raise ProtocolError("the upstream's answer has no choices")
        for choice in choices:
            if choice.error or choice.finish_reason in FAILED:
                raise said_in(choice.error or None)
            if (choice.message if self._shape.is_chat else choice.text) is None:
                if choice.finish_reason != WITHHELD:
                    raise ProtocolError("the upstream's answer has a choice without an answer")
                self._is_whole = False
            if choice.usage != NULL:
                self._meter.read(choice.usage)
            if not choice.is_whole:
                self._is_whole = False
        if completion.usage != NULL:
            self._meter.read(completion.usage)
        finish = choices[0].finish_reason
        self.finish = None if finish is UNSET else finish

    def text(self) -> bytes:
        member = "message" if self._shape.is_chat else "text"
        try:
            found = [text for choice in read_any(self._body)["choices"] for text in words(choice.get(member))]
        except RecursionError:
            raise ProtocolError("the upstream's answer nests too deep") from None
        return "\n".join(found).encode("utf-8", "surrogatepass")

    def pictures(self) -> int:
        completion, _ = read_completion(self._body)
        messages = [choice.message for choice in completion.choices or ()]
        return sum(pictures_in(message.images) for message in messages if message is not None)

    def render(self, receipt: Receipt | None) -> bytes:
        fields = read_fields(self._body)
        if "object" not in fields:
            fields["object"] = self._shape.object
        if self._shape.is_chat:
            # OpenRouter's SDK refuses an answer without it.
            fields.setdefault("system_fingerprint", _UNKNOWN)
        self._names.put_on(fields)
        if not self._is_whole:
            fields["choices"] = _whole(fields["choices"], self._shape)
        usage = self._meter.render(receipt)
        if usage is not None:
            fields["usage"] = usage
        return _encode(fields)


def _whole(raw: Raw, shape: Shape) -> Raw:
    """The choices, with the members that clients need added if the server left them out."""
    choices: list[dict[str, Any]] = msgspec.json.decode(raw, type=list[dict[str, Raw]])
    for index, choice in enumerate(choices):
        choice.setdefault("index", index)
        choice.setdefault("finish_reason", "stop")
        if not shape.is_chat:
            choice.setdefault("text", "")
        else:
            if choice.get("message", NULL) == NULL:
                choice["message"] = Raw(b"{}")
            message = msgspec.json.decode(choice["message"], type=dict[str, Raw])
            message.setdefault("role", Raw(b'"assistant"'))
            message.setdefault("content", NULL)
            choice["message"] = message
    return Raw(msgspec.json.encode(choices))
