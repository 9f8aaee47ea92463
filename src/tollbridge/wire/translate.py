"""Which exchange carries a request to a route: one row for each pair of an endpoint and the upstream's dialect.

Where both sides speak the same dialect the bytes pass (`_PassThrough`). A dialect that differs brings a module of its
own with an `Exchange`, and a row here for each endpoint that it can serve.
"""

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from tollbridge.errors import ConfigError
from tollbridge.values import Route
from tollbridge.wire import quirks
from tollbridge.wire.exchange import Answer, Counter, Exchange, Stream
from tollbridge.wire.openai_answer import CHAT, COMPLETIONS, CompletionAnswer, Names, Shape
from tollbridge.wire.openai_embeddings import EmbeddingsAnswer
from tollbridge.wire.openai_stream import CompletionStream
from tollbridge.wire.request import Request


class _PassThrough:
    """OpenAI's dialect on both sides."""

    target: bytes

    def __init__(self, request: Request, route: Route, names: Names, max_tokens: int | None) -> None:
        self._request = request
        self._route = route
        self._names = names
        self._max_tokens = max_tokens

    def request(self) -> tuple[bytes, bytes]:
        return self.target, quirks.body_for(self._request, self._route, self._max_tokens)


class _Completion(_PassThrough):
    shape: Shape

    def response(self, body: bytes) -> Answer:
        return CompletionAnswer(self.shape, self._names, body)

    def stream(self, output: Counter) -> Stream:
        request = self._request
        return CompletionStream(self.shape, self._names, request.include_usage, request.choices, output)


class _Chat(_Completion):
    target = b"/chat/completions"
    shape = CHAT


class _Completions(_Completion):
    target = b"/completions"
    shape = COMPLETIONS


class _Embeddings(_PassThrough):
    target = b"/embeddings"

    def response(self, body: bytes) -> Answer:
        return EmbeddingsAnswer(self._request, self._names, body)

    def stream(self, output: Counter) -> Stream:
        raise TypeError("embeddings do not stream")


_Maker: TypeAlias = Callable[[Request, Route, Names, int | None], Exchange]

_MAKERS: dict[tuple[str, str], _Maker] = {
    ("chat", "openai_chat"): _Chat,
    ("completions", "openai_chat"): _Completions,
    ("embeddings", "openai_chat"): _Embeddings,
}


def exchange(request: Request, route: Route, public_id: str, created: int, max_tokens: int | None) -> Exchange:
    """The exchange that carries `request` to `route`.

    `public_id`: what the answer's `id` will be; `created`: epoch seconds; `max_tokens`: the output limit that money
    sets, per choice (None: as the caller said).
    """
    make = _MAKERS.get((request.endpoint, route.upstream.dialect))
    if make is None:
        raise ConfigError(f"{route.upstream.name} speaks {route.upstream.dialect}, which has no {request.endpoint}")
    names = Names(
        id=msgspec.json.encode(public_id),
        model=msgspec.json.encode(request.model),
        created=str(created).encode(),
    )
    return make(request, route, names, max_tokens)
