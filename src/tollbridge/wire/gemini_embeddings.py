"""Embeddings from Gemini, for a caller who speaks OpenAI's dialect: `:batchEmbedContents`.

Vectors come as floats and become what was asked for. Gemini reports the tokens that it read in `usageMetadata`
(gemini-embedding-2) or not at all; then they are counted here. A vector shorter than the model's own (`dimensions`) is
not of length 1, unlike OpenAI's (https://ai.google.dev/gemini-api/docs/embeddings).
"""

from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.errors import ProtocolError, UnsupportedField
from tollbridge.values import Route
from tollbridge.wire import quirks, usage
from tollbridge.wire.body import NULL
from tollbridge.wire.errors import said_in
from tollbridge.wire.event_reader import Metered
from tollbridge.wire.exchange import Answer, Counter, Names, Outgoing, Receipt, Stream
from tollbridge.wire.gemini_provider import PATHS
from tollbridge.wire.gemini_usage import InputMeter
from tollbridge.wire.openai_embeddings import to_base64
from tollbridge.wire.openai_reply import read_any
from tollbridge.wire.request import Request

_KNOWN = frozenset({"model", "input", "dimensions", "encoding_format"})
_HINTS = frozenset({"user"})


class _Vector(msgspec.Struct, gc=False):
    values: Raw = NULL


class _Reply(msgspec.Struct, rename="camel", gc=False):
    embeddings: list[_Vector] | None = None
    usage_metadata: Raw = NULL
    error: Any = None


_decode_texts = msgspec.json.Decoder(str | list[str]).decode
_decode_reply = msgspec.json.Decoder(_Reply).decode
_decode_dimensions = msgspec.json.Decoder(int).decode
_decode_vector = msgspec.json.Decoder(list[float]).decode


class GeminiEmbeddings:
    """See `exchange.Exchange`."""

    def __init__(self, request: Request, route: Route, names: Names, max_tokens: int | None) -> None:
        self._request = request
        self._route = route
        self._names = names

    def request(self) -> Outgoing:
        fields = self._request.fields
        can_omit = self._request.lets_omit(self._route.upstream)
        dropped = tuple(
            name for name, value in fields.items() if name in _HINTS or (name not in _KNOWN and value != NULL)
        )
        for name in dropped:
            if name not in _HINTS and not can_omit:
                raise UnsupportedField(f"'{name[:64]}' cannot be sent to Gemini. Leave it out.", param=name[:64])
        if self._request.input_tokens:
            raise UnsupportedField("'input' cannot be sent to Gemini as token ids. Send it as text.", param="input")
        texts = _decode_texts(fields["input"])
        each: dict[str, Any] = {"model": f"models/{self._route.upstream_model}"}
        dimensions = fields.get("dimensions", NULL)
        if dimensions != NULL:
            each["outputDimensionality"] = _whole(dimensions)
        requests = [
            {**each, "content": {"parts": [{"text": text}]}} for text in ([texts] if isinstance(texts, str) else texts)
        ]
        body: dict[str, Any] = {"requests": requests}
        quirks.change(body, self._route.upstream)
        target = quirks.target_for(self._route, "embeddings", PATHS["embeddings"])
        return Outgoing(target, msgspec.json.encode(body), dropped)

    def response(self, body: bytes) -> Answer:
        return GeminiVectors(self._request, self._names, body)

    def stream(self, output: Counter) -> Stream:
        raise TypeError("embeddings do not stream")


class GeminiVectors(Metered):
    """See `exchange.Answer`."""

    finish: str | None = None

    def __init__(self, request: Request, names: Names, body: bytes) -> None:
        reply = _read(body)
        if reply.error:
            raise said_in(reply.error)
        self._vectors = [bytes(vector.values) for vector in reply.embeddings or ()]
        if len(self._vectors) != request.inputs:
            raise ProtocolError(f"the upstream sent {len(self._vectors)} embeddings for {request.inputs} inputs")
        if not all(vector.startswith(b"[") for vector in self._vectors):
            raise ProtocolError("the upstream sent an embedding that is no vector")
        self._as_base64 = request.encoding_format == "base64"
        self._names = names
        self._meter: InputMeter = InputMeter()
        if reply.usage_metadata != NULL:
            self._meter.read(reply.usage_metadata)

    def text(self) -> bytes:
        return b""

    def render(self, receipt: Receipt | None) -> bytes:
        data = [
            {"object": "embedding", "index": index, "embedding": self._shown(vector)}
            for index, vector in enumerate(self._vectors)
        ]
        fields: dict[str, Any] = {"object": "list", "data": data, "model": self._names.model}
        shown = usage.render(self.usage, receipt)
        if shown is not None:
            fields["usage"] = shown
        return msgspec.json.encode(fields)

    def _shown(self, vector: bytes) -> Raw:
        if self._as_base64:
            return to_base64(vector)
        try:
            _decode_vector(vector)
        except msgspec.DecodeError:
            raise ProtocolError("the upstream sent an embedding that is not a vector of floats") from None
        return Raw(vector)


def _whole(dimensions: Raw) -> int:
    try:
        wanted = _decode_dimensions(dimensions)
    except msgspec.DecodeError:
        wanted = 0
    if wanted < 1:
        raise UnsupportedField("'dimensions' must be a whole number of at least 1.", param="dimensions")
    return wanted


def _read(body: bytes) -> _Reply:
    try:
        return _decode_reply(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = read_any(body)
        if isinstance(document, list) and document:
            document = document[0]
        if isinstance(document, dict) and document.get("error"):
            raise said_in(document["error"]) from None
        raise ProtocolError("the upstream's answer holds no embeddings") from None
