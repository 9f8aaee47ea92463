"""Which exchange carries a request to a route.

If both sides speak the same dialect, the bytes pass: a row of `_MAKERS`. Any other pair of a caller's dialect
(`_CLIENTS`) and a provider's (`_PROVIDERS`) meets in a `conversation`.
"""

from collections.abc import Callable, Mapping
from typing import ClassVar, TypeAlias

import msgspec

from tollbridge.errors import ConfigError, UnsupportedField
from tollbridge.values import Route
from tollbridge.wire import conversation, quirks
from tollbridge.wire.anthropic_client import AnthropicClient
from tollbridge.wire.anthropic_passing import AnthropicPassing
from tollbridge.wire.anthropic_provider import AnthropicProvider
from tollbridge.wire.dialect import Client, Provider
from tollbridge.wire.exchange import Answer, Counter, Exchange, Names, Outgoing, Stream
from tollbridge.wire.gemini_embeddings import GeminiEmbeddings
from tollbridge.wire.gemini_provider import GeminiProvider
from tollbridge.wire.heedless import is_stream, joined, joined_completion
from tollbridge.wire.openai_answer import CHAT, COMPLETIONS, CompletionAnswer, Shape
from tollbridge.wire.openai_chat import ChatRequest
from tollbridge.wire.openai_chat_client import ChatClient
from tollbridge.wire.openai_chat_provider import OpenAiChat
from tollbridge.wire.openai_embeddings import EmbeddingsAnswer
from tollbridge.wire.openai_stream import CompletionStream
from tollbridge.wire.request import Request
from tollbridge.wire.responses_client import ResponsesClient
from tollbridge.wire.translated import TranslatedAnswer, TranslatedStream, with_one_call


class _PassThrough(msgspec.Struct):
    """OpenAI's dialect on both sides. `asked`: the caller's request."""

    target: ClassVar[bytes]

    asked: Request
    route: Route
    names: Names
    max_tokens: int | None

    def request(self) -> Outgoing:
        target, upstream = self.target, self.route.upstream
        if upstream.paths:
            target = quirks.target_for(self.route, self.asked.endpoint, target.decode())
        asked, dropped = self.asked, quirks.left_out(self.asked, upstream) if upstream.drops else ()
        if isinstance(asked, ChatRequest) and asked.providers_tools:
            asked, unpriced = quirks.without_unpriced_tools(asked, self.route)
            dropped += unpriced
        return Outgoing(target, quirks.body_for(asked, self.route, self.max_tokens), dropped)


class _Completion(_PassThrough):
    shape: ClassVar[Shape]

    def stream(self, output: Counter) -> Stream:
        return CompletionStream(self.shape, self.names, self.asked.include_usage, self.asked.choices, output)


class _Chat(_Completion):
    target = b"/chat/completions"
    shape = CHAT

    def response(self, body: bytes) -> Answer:
        if body.startswith(b"{") or not is_stream(body):
            return CompletionAnswer(CHAT, self.names, body)
        return TranslatedAnswer(_CLIENTS["chat"], self.asked, self.names, joined(OpenAiChat().reader(), body))


class _Completions(_Completion):
    target = b"/completions"
    shape = COMPLETIONS

    def response(self, body: bytes) -> Answer:
        if not body.startswith(b"{") and is_stream(body):
            body = joined_completion(body)
        return CompletionAnswer(COMPLETIONS, self.names, body)


class _Embeddings(_PassThrough):
    target = b"/embeddings"

    def response(self, body: bytes) -> Answer:
        return EmbeddingsAnswer(self.asked, self.names, body)

    def stream(self, output: Counter) -> Stream:
        raise TypeError("embeddings do not stream")


class _Messages(AnthropicPassing):
    def response(self, body: bytes) -> Answer:
        if is_stream(body):
            reply = joined(AnthropicProvider().reader(), body)
            return TranslatedAnswer(_CLIENTS["messages"], self._request, self._names, reply)
        return super().response(body)


class Translated:
    """Different dialects on the two sides: an `Exchange` that may need to be given what URLs point to."""

    def __init__(
        self, sides: tuple[Client, Provider], request: Request, route: Route, names: Names, max_tokens: int | None
    ) -> None:
        self._client, self._provider = sides
        self._request = request
        self._route = route
        self._names = names
        self._max_tokens = max_tokens
        self._conversation = request.conversation()
        if request.lets_omit(route.upstream) and not self._conversation.lenient:
            self._conversation = msgspec.structs.replace(self._conversation, lenient=True)

    def urls(self) -> list[str]:
        """URLs in the request that the provider does not fetch itself."""
        return conversation.urls(self._conversation, lambda part: self._provider.takes_url(part, self._route))

    def supply(self, data: Mapping[str, tuple[str, str]]) -> None:
        """Give it what some of those URLs point to: by URL, media type and base64."""
        self._conversation = conversation.with_data(self._conversation, data)

    def request(self) -> Outgoing:
        """Clients of other dialects do not know this model: many ask for more output than it can write, which providers
        refuse.
        """
        limit, asked, most = self._max_tokens, self._conversation.max_tokens, self._route.output_limit
        if asked is not None and asked > most:
            limit = most if limit is None else min(limit, most)
        return self._provider.outgoing(self._conversation, self._route, limit)

    def response(self, body: bytes) -> Answer:
        provider = self._provider
        reply = joined(provider.reader(), body) if is_stream(body) else provider.reply(body)
        if self._conversation.parallel_tools is False:
            reply = with_one_call(reply)
        return TranslatedAnswer(self._client, self._request, self._names, reply)

    def stream(self, output: Counter) -> Stream:
        writer = self._client.writer(self._request, self._names)
        one_call = self._conversation.parallel_tools is False
        return TranslatedStream(self._provider.reader(), writer, self._request.choices, output, one_call=one_call)


_Maker: TypeAlias = Callable[[Request, Route, Names, int | None], Exchange]

_MAKERS: dict[tuple[str, str], _Maker] = {
    ("chat", "openai_chat"): _Chat,
    ("completions", "openai_chat"): _Completions,
    ("embeddings", "openai_chat"): _Embeddings,
    ("embeddings", "gemini"): GeminiEmbeddings,
    ("messages", "anthropic"): _Messages,
}

_CLIENTS: dict[str, Client] = {
    "chat": ChatClient(),
    "messages": AnthropicClient(),
    "responses": ResponsesClient(),
}
_PROVIDERS: dict[str, Provider] = {
    "openai_chat": OpenAiChat(),
    "gemini": GeminiProvider(),
    "anthropic": AnthropicProvider(),
}


def exchange(request: Request, route: Route, public_id: str, created: int, max_tokens: int | None) -> Exchange:
    """The exchange that carries `request` to `route`.

    `public_id`: the answer's future `id`; `created`: epoch seconds; `max_tokens`: the output limit per choice that
    money sets (None: the caller's). Raises `UnsupportedField` or `ConfigError` if no exchange can carry it.
    """
    make = _MAKERS.get((request.endpoint, route.upstream.dialect))
    names = Names(public_id, route.model, created)
    if make is not None:
        return make(request, route, names, max_tokens)
    client, provider = _CLIENTS.get(request.endpoint), _PROVIDERS.get(route.upstream.dialect)
    if provider is None:
        raise ConfigError(f"{route.upstream.name} speaks {route.upstream.dialect}, which nobody here knows")
    if client is None:
        raise UnsupportedField(
            f"The provider of {route.model} has no /v1/{request.endpoint}. Call /v1/chat/completions with it,"
            " your prompt as a user's message.",
            param="model",
        )
    return Translated((client, provider), request, route, names, max_tokens)
