"""The configured providers, and whether they answer.

`check` asks real questions, in the way in which a customer's call would ask them, because nothing else tries a
provider's address, credential, dialect and name for a model at once: many list their models to anybody. Nothing is held
or charged; the provider bills the operator as for any call.
"""

import asyncio
import ssl
import time
from collections.abc import Sequence

import msgspec

from tollbridge.config import ProviderSettings, Settings
from tollbridge.core import catalog, pricing
from tollbridge.core.catalog import Catalog
from tollbridge.errors import ConfigError, InvalidRequest, NotFound, ProtocolError, UpstreamError
from tollbridge.services import catalog as offered
from tollbridge.upstream.opening import OpenUpstream, open_upstream
from tollbridge.upstream.pool import tls_context
from tollbridge.values import Model, Route, Upstream, Usage
from tollbridge.wire import openai_chat, openai_embeddings, translate
from tollbridge.wire.errors import classify, words
from tollbridge.wire.exchange import Answer

# Longer than a model thinks about this question, shorter than a person waits for nothing.
WITHIN_S = 60.0
# How many questions one provider is asked at once: few enough for the limits of a new account.
AT_ONCE = 4
# What a model may write, its thoughts included.
_OUTPUT = 500
_QUESTION = "Are you there? Answer with one word."
# What is compared when the cheapest model of a provider is looked for.
_TYPICAL = Usage(input=20, output=20)

_MEANINGS = {
    401: "it refuses the credential",
    402: "the account there is out of credit",
    403: "it refuses the credential",
    404: "it knows no such address or model",
    429: "it limits this credential now",
}

# A model, and one of its routes.
_Way = tuple[Model, Route]


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """How one route took the question. `cost`: what the provider bills for it, nano-USD; None: it is not known."""

    provider: str
    model: str
    upstream_model: str
    ok: bool
    detail: str
    ms: int = 0
    cost: int | None = None


def upstreams(settings: Settings) -> dict[str, Upstream]:
    """The configured providers by name, with the operator's credentials."""
    leaves_out = not settings.routing.require_parameters
    return {name: _upstream(name, row, leaves_out) for name, row in settings.providers.items()}


def _upstream(name: str, row: ProviderSettings, leaves_out: bool) -> Upstream:
    return Upstream(
        name=name,
        provider=name,
        dialect=row.dialect,
        base_url=row.base_url,
        auth=row.auth,
        credential=row.api_key.reveal() if row.api_key is not None else "",
        headers=tuple((header, value.reveal()) for header, value in row.headers.items()),
        cancel_stops_billing=row.cancel_stops_billing,
        renames=tuple(row.renames.items()),
        drops=row.drops,
        leaves_out=leaves_out,
        stream_usage=row.stream_usage,
        paths=tuple(row.paths.items()),
        adds=tuple(row.adds.items()),
        connect_timeout=row.connect_timeout,
        first_byte_timeout=row.first_byte_timeout,
        gap_timeout=row.gap_timeout,
        total_timeout=row.total_timeout,
        max_connections=row.max_connections,
    )


class _Refused(UpstreamError):
    """The provider answered with an error."""


async def check(
    settings: Settings, names: Sequence[str] = (), models: Sequence[str] = (), *, every: bool = False
) -> list[Answered]:
    """Ask the providers with these `names`, or all, in the order of the configuration: each by the cheapest model that
    it serves, by these `models`, or by `every` one of its models but those that speak.

    Raises `NotFound` for what is not configured, `ConfigError` if there is nobody to ask.
    """
    known = upstreams(settings)
    if not known:
        raise ConfigError("no provider is configured: the built-in demo provider answers, and needs no check")
    for name in names:
        if name not in known:
            raise NotFound(f"there is no provider {name!r}: configured are {', '.join(known)}")
    built = catalog.build(offered.rows(settings), known, settings.billing.markup_ppm)
    asked = {name: _of(name, built) for name in known if not names or name in names}
    if models:
        wanted = {offered.offer(settings, model).row.id for model in models}
        asked = {name: [way for way in ways if way[0].id in wanted] for name, ways in asked.items()}
        if not any(asked.values()):
            raise NotFound(f"{', '.join(sorted(wanted))}: not served by {', '.join(asked)}")
        asked = {name: ways for name, ways in asked.items() if ways}
    elif every:
        asked = {name: [way for way in ways if not _speaks(way[0])] or ways[:1] for name, ways in asked.items()}
    else:
        asked = {name: ways[:1] for name, ways in asked.items()}
    tls = tls_context() if any(each.base_url.startswith("https") for each in known.values()) else None
    found = await asyncio.gather(*(_ask_all(known[name], tls, ways) for name, ways in asked.items()))
    return [each for of_one in found for each in of_one]


def _of(name: str, built: Catalog) -> list[_Way]:
    """The routes to a provider, the best to ask first: chats before embeddings, and cheap ones first, but not those for
    nothing, which are limited most. Models that speak, which may need more than this question, come last.
    """
    now = time.time_ns() // 1_000_000
    ways = [
        (model, pricing.at(route, now))
        for model in built.models.values()
        for route in model.routes
        if route.upstream.name == name
    ]
    costs = {id(route): pricing.cost(_TYPICAL, route) for _, route in ways}

    def rank(way: _Way) -> tuple[bool, bool, bool, int]:
        cost = costs[id(way[1])]
        return _speaks(way[0]), _embeds(way[0]), not cost, cost

    return sorted(ways, key=rank)


def _speaks(model: Model) -> bool:
    return "audio" in model.output_modalities


def _embeds(model: Model) -> bool:
    return model.type == "embedding"


async def _ask_all(upstream: Upstream, tls: ssl.SSLContext | None, ways: Sequence[_Way]) -> list[Answered]:
    if not ways:
        detail = "no model has a route to it: customers never reach it"
        return [Answered(provider=upstream.name, model="", upstream_model="", ok=False, detail=detail)]
    provider = open_upstream(upstream, tls)
    turns = asyncio.Semaphore(AT_ONCE)
    try:
        return await asyncio.gather(*(_ask_in_turn(turns, provider, model, route) for model, route in ways))
    finally:
        for each in provider.pools():
            await each.close()


async def _ask_in_turn(turns: asyncio.Semaphore, provider: OpenUpstream, model: Model, route: Route) -> Answered:
    async with turns:
        started = time.monotonic()
        usage: Usage | None = None
        try:
            async with asyncio.timeout(WITHIN_S):
                usage = (await _answer(provider, model, route)).usage
            ok, detail = True, "answers" if usage else "answers, but does not report its usage: that will be estimated"
        except TimeoutError:
            ok, detail = False, f"no answer within {WITHIN_S:.0f} s"
        except (UpstreamError, InvalidRequest) as error:
            ok, detail = False, str(error)
        return Answered(
            provider=provider.value.name,
            model=model.id,
            upstream_model=route.upstream_model,
            ok=ok,
            detail=detail,
            ms=round((time.monotonic() - started) * 1000),
            cost=pricing.cost(usage, route) if usage else None,
        )


async def _answer(provider: OpenUpstream, model: Model, route: Route) -> Answer:
    """Raises `UpstreamError` or `InvalidRequest`."""
    if _embeds(model):
        body = msgspec.json.encode({"model": model.id, "input": _QUESTION})
        request = openai_embeddings.parse(body)
    else:
        messages = [{"role": "user", "content": _QUESTION}]
        body = msgspec.json.encode({"model": model.id, "messages": messages, "max_tokens": _OUTPUT})
        request = openai_chat.parse(body)
    exchange = translate.exchange(request, route, "check", int(time.time()), None)
    outgoing = exchange.request()
    changing = await provider.token.headers() if provider.token is not None else ()
    headers = (*provider.headers, *changing, *outgoing.headers)
    response = await provider.pool.open(b"POST", outgoing.target, headers, outgoing.body)
    said = await response.read()
    if 300 <= response.status < 400:
        raise ProtocolError(f"it answers with a redirect ({response.status}): is base_url right?")
    if response.status != 200:
        raise _Refused(_refusal(classify(response.status, response.headers, said, time.time()).status, words(said)))
    return exchange.response(said)


def _refusal(status: int, said: str) -> str:
    """`status`: what the refusal means, which may be clearer than the status that was sent."""
    meaning = _MEANINGS.get(status, "it fails" if status >= 500 else "it refuses the question")
    return f"{meaning} ({status})" + (f": {said}" if said else "")
