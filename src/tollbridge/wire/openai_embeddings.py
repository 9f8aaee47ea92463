"""POST /v1/embeddings: as a caller sends it, and its answer from an OpenAI-like server.

A vector is a JSON array of floats, or base64 of its little-endian 32-bit floats. OpenAI's library asks for base64
unless told otherwise, and many servers only know floats, so whatever comes is converted to what was asked for.
"""

import base64
import binascii
import struct
from typing import Any, Literal

import msgspec
from msgspec import Raw

from tollbridge.errors import ProtocolError
from tollbridge.wire import inputs
from tollbridge.wire.body import NULL, check_nesting
from tollbridge.wire.errors import said_in
from tollbridge.wire.event_reader import Metered
from tollbridge.wire.exchange import Names, Receipt
from tollbridge.wire.openai_reply import read_any, read_fields
from tollbridge.wire.request import RULES, ModelName, Request, check_model, read_typed, wrong
from tollbridge.wire.request import read_fields as read_request
from tollbridge.wire.usage import InputMeter, Meter


class Body(msgspec.Struct, gc=False):
    model: ModelName
    input: Raw = NULL
    encoding_format: Literal["float", "base64"] | None = None


class _Item(msgspec.Struct, gc=False):
    embedding: Raw


class _Reply(msgspec.Struct, gc=False):
    data: list[_Item] | None = None
    usage: Raw = NULL
    error: Any = None


_DECODER = msgspec.json.Decoder(Body)
BODY_RULES = {"model": RULES["model"], "input": inputs.rule(empty=False), "encoding_format": "must be float or base64"}

_decode_reply = msgspec.json.Decoder(_Reply).decode
_decode_items = msgspec.json.Decoder(list[dict[str, Raw]]).decode
_decode_vector = msgspec.json.Decoder(list[float]).decode


def parse(body: bytes) -> Request:
    """A request for embeddings. Raises `InvalidRequest` and nothing else, whatever `body` is."""
    fields = read_request(body)
    typed = read_typed(body, _DECODER, BODY_RULES)
    if typed.input == NULL:
        raise wrong("input", BODY_RULES, "Missing")
    count, tokens = inputs.read("input", typed.input, empty=False)
    check_nesting(body, count - 1 if tokens else 0)
    check_model(typed.model)
    return Request(
        endpoint="embeddings",
        model=typed.model,
        stream=False,
        max_tokens=None,
        choices=1,
        include_usage=None,
        encoding_format=typed.encoding_format,
        inputs=count,
        input_tokens=tokens,
        fields=fields,
        body=body,
    )


class EmbeddingsAnswer(Metered):
    """See `exchange.Answer`. Only an answer that has an id gets ours: OpenAI's have none."""

    finish: str | None = None

    def __init__(self, request: Request, names: Names, body: bytes) -> None:
        reply = _read(body)
        if reply.error:
            raise said_in(reply.error)
        items = reply.data or []
        if len(items) != request.inputs:
            raise ProtocolError(f"the upstream sent {len(items)} embeddings for {request.inputs} inputs")
        self._as_base64 = request.encoding_format == "base64"
        wanted = ord('"') if self._as_base64 else ord("[")
        starts = {memoryview(item.embedding)[0] for item in items}
        if not starts <= {ord('"'), ord("[")}:
            raise ProtocolError("the upstream sent an embedding that is no vector")
        # At once: while it is still an answer that makes no sense, another route can give a better one.
        self._converted = None if starts == {wanted} else self._all_of_one_kind(read_fields(body)["data"])
        self._meter: Meter = InputMeter()
        if reply.usage != NULL:
            self._meter.read(reply.usage)
        self._names = names
        self._body = body

    def text(self) -> bytes:
        return b""

    def render(self, receipt: Receipt | None) -> bytes:
        fields: dict[str, Any] = read_fields(self._body)
        fields.setdefault("object", Raw(b'"list"'))
        if self._converted is not None:
            fields["data"] = self._converted
        fields["model"] = self._names.model
        if "id" in fields:
            fields["id"] = self._names.id
        usage = self._meter.render(receipt)
        if usage is not None:
            fields["usage"] = usage
        return msgspec.json.encode(fields)

    def _all_of_one_kind(self, data: Raw) -> Raw:
        items = _decode_items(data)
        for item in items:
            vector = bytes(item["embedding"])
            if self._as_base64 != vector.startswith(b'"'):
                item["embedding"] = to_base64(vector) if self._as_base64 else to_floats(vector)
        return Raw(msgspec.json.encode(items))


def to_base64(vector: bytes) -> Raw:
    """A JSON array of floats as a JSON string of base64; raises `ProtocolError`."""
    try:
        floats = _decode_vector(vector)
        packed = struct.pack(f"<{len(floats)}f", *floats)
    except (msgspec.DecodeError, OverflowError):
        raise ProtocolError("the upstream sent an embedding that is not a vector of floats") from None
    return Raw(b'"' + base64.b64encode(packed) + b'"')


def to_floats(vector: bytes) -> Raw:
    """A JSON string of base64 as a JSON array of floats; raises `ProtocolError`."""
    try:
        packed = base64.b64decode(msgspec.json.decode(vector, type=str), validate=True)
        floats = struct.unpack(f"<{len(packed) // 4}f", packed)
    except (msgspec.DecodeError, binascii.Error, ValueError, struct.error):
        raise ProtocolError("the upstream sent an embedding that is not base64 of floats") from None
    encoded = msgspec.json.encode(floats)
    if b"null" in encoded:  # NaN or an infinity
        raise ProtocolError("the upstream sent an embedding with a number that JSON does not have")
    return Raw(encoded)


def _read(body: bytes) -> _Reply:
    try:
        return _decode_reply(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = read_any(body)
        if isinstance(document, dict) and document.get("error"):
            raise said_in(document["error"]) from None
        raise ProtocolError("the upstream's answer holds no embeddings") from None
