"""One attempt after another, until a route answers.

Rule 1  A route is called only when the hold covers what the request may cost on it. For a dearer route the hold is
        extended first; if it cannot be, the route is skipped.
Rule 2  Any failure before output may move on to the next route; `core.retry` says whether and where.
Rule 3  What a provider says about its own troubles is for the operator; the caller learns what it means for them.
"""

import asyncio
import base64
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NoReturn

import msgspec

from tollbridge import values
from tollbridge.core import pricing, retry
from tollbridge.core.ledger import Extend, Held, Refused
from tollbridge.core.retry import Kind, Step
from tollbridge.errors import (
    AnswerTooLarge,
    ApiError,
    ConnectError,
    Forbidden,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PoolBusy,
    ProtocolError,
    RateLimited,
    TollbridgeError,
    Unavailable,
    UnsupportedField,
    UpstreamError,
    UpstreamFailed,
    UpstreamTimedOut,
    UpstreamTimeout,
)
from tollbridge.gateway.admission import Admission, Attempt, Ticket
from tollbridge.store.ledger import Ledger
from tollbridge.upstream import auth
from tollbridge.upstream.auth import AccessToken, Headers
from tollbridge.upstream.fetch import Fetcher
from tollbridge.upstream.health import DEFAULT_COOL_S, Health
from tollbridge.upstream.pool import Pool, Response
from tollbridge.values import Route
from tollbridge.wire import errors as wire_errors
from tollbridge.wire import translate
from tollbridge.wire.errors import ModelFailed, UpstreamSaid
from tollbridge.wire.exchange import Answer, Exchange, Outgoing
from tollbridge.wire.translate import Translated

# Waits before the same route is tried again; too short for a caller to notice.
BACK_OFF_S = (0.05, 0.2)
MAX_RETRY_AFTER_S = 60
# The most URLs that are fetched for one request.
MOST_URLS = 16


class Upstream(msgspec.Struct, frozen=True):
    """How to call one upstream: what it is, its connections, its fixed headers, and those that change (`token`)."""

    value: values.Upstream
    pool: Pool
    headers: Headers
    token: AccessToken | None = None


class AllFailed(TollbridgeError):
    """No route answered. `error` is for the caller; `route` is the last one that was tried, None when none was."""

    def __init__(self, error: ApiError, route: Route | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.route = route


class _Failure(msgspec.Struct, frozen=True):
    kind: Kind
    error: ApiError
    status: int = 0
    retry_after: float | None = None
    # What the log says of it: no words of the provider's.
    why: str = ""


class _Failures(msgspec.Struct):
    """What went wrong with a request so far. `index`: of the route being tried; `of_model`: how many attempts at its
    model failed; `told`: the failure that the caller would be told of.
    """

    attempts: list[Attempt] = []
    index: int = 0
    of_model: int = 0
    told: _Failure | None = None


class Relay:
    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        health: Health,
        admission: Admission,
        ledger: Ledger,
        fetcher: Fetcher | None,
    ) -> None:
        """`fetcher`: gets what URLs in messages point to, if the operator allows that."""
        self._fetcher = fetcher
        self._upstreams = upstreams
        self._health = health
        self._admission = admission
        self._ledger = ledger
        self._clock = time.monotonic
        self._budget = retry.Budget()

    async def run(
        self, ticket: Ticket, stream: Callable[[Route, Exchange, Outgoing], Awaitable[None]] | None = None
    ) -> tuple[Route, Answer | None]:
        """Call the ticket's routes in turn until one answers; return that route and its answer (None when it streams).

        Raises `AllFailed`. Either way the ticket has the attempts that failed.
        `stream` sends what the exchange wants sent and returns once there is output; if it raises `UpstreamError` or
        `UpstreamSaid`, the attempt failed before output. Without `stream` the whole answer is read here.
        """
        failures: _Failures | None = None
        route, started = ticket.routes[0], self._clock()
        self._budget.request(started)
        while True:
            self._health.begin(route)
            try:
                exchange = translate.exchange(ticket.request, route, ticket.id, ticket.started_at // 1000, ticket.limit)
                if self._fetcher is not None and isinstance(exchange, Translated):
                    await self._supply(exchange, ticket.caller.account_id)
                outgoing = exchange.request()
                ticket.dropped = outgoing.dropped
                answer: Answer | None = None
                if stream is not None:
                    await stream(route, exchange, outgoing)
                else:
                    response = await self._send(route, outgoing, None)
                    if response.status != 200:
                        await _refuse(response)
                    body = response.whole_body()
                    answer = exchange.response(await response.read() if body is None else body)
            except (UpstreamError, UpstreamSaid, InvalidRequest) as error:
                failed = _too_much(error, ticket) or _failure(error, route)
                if isinstance(error, UpstreamError):
                    failed = msgspec.structs.replace(failed, why=str(error))
            except BaseException:
                self._health.abandoned(route)
                raise
            else:
                self._health.succeeded(route)
                if failures is not None:
                    ticket.attempts = failures.attempts
                return route, answer
            if failures is None:
                failures = _Failures()
            route = await self._after(failed, failures, ticket, self._clock() - started)
            started = self._clock()

    async def _after(self, failed: _Failure, failures: _Failures, ticket: Ticket, seconds: float) -> Route:
        """The route to try next, after any wait; `seconds`: how long the failed attempt took. Raises `AllFailed`."""
        routes = ticket.routes
        route = routes[failures.index]
        if failures.told is None or failed.kind is not Kind.UNSUPPORTED:
            failures.told = failed
        why = failed.why or f"status {failed.status}"
        self._health.failed(route, failed.kind, failed.retry_after, why, seconds)
        attempt = _attempt(route, failed, seconds)
        failures.attempts.append(attempt)
        retries, failures.of_model = failures.of_model, failures.of_model + 1
        ticket.tried = (*ticket.tried, f"{attempt.route} {failed.status or failed.kind.value}")
        step = self._next(failed.kind, retries, routes, failures.index)
        if step is Step.SAME_ROUTE:
            await asyncio.sleep(BACK_OFF_S[retries])
            return route
        if step is not Step.GIVE_UP:
            failures.index = await self._next_route(ticket, failures.index, other_model=step is Step.NEXT_MODEL)
            if failures.index < len(routes):
                if routes[failures.index].model != route.model:
                    failures.of_model = 0
                return routes[failures.index]
        told = failures.told
        if told.kind is Kind.SERVER_ERROR:
            told.error.status = self._admission.policy.upstream_failed_status
        ticket.attempts = failures.attempts
        raise AllFailed(told.error, route)

    async def open(self, route: Route, outgoing: Outgoing, on_sent: Callable[[], None] | None = None) -> Response:
        """Send `outgoing` and return the provider's 200; raises `UpstreamSaid` for any other answer.

        `on_sent` is called when the request leaves: from then on the provider may bill it.
        """
        response = await self._send(route, outgoing, on_sent)
        if response.status != 200:
            await _refuse(response)
        return response

    def _send(self, route: Route, outgoing: Outgoing, on_sent: Callable[[], None] | None) -> Awaitable[Response]:
        """The answer's head, to be awaited. Not a coroutine itself: each wake-up of a call would pass through it."""
        upstream = self._upstreams[route.upstream.name]
        headers = upstream.headers
        if route.upstream.owner:
            headers = auth.headers(route.upstream)
        elif upstream.token is not None:
            return _send_with_token(upstream, upstream.token, outgoing, on_sent)
        if outgoing.headers:
            headers = (*headers, *outgoing.headers)
        return upstream.pool.open(b"POST", outgoing.target, headers, outgoing.body, on_sent)

    async def _supply(self, exchange: Translated, account: int) -> None:
        """Fetch what the provider would not fetch by itself."""
        assert self._fetcher is not None
        urls = exchange.urls()
        if len(urls) > MOST_URLS:
            raise InvalidRequest(f"At most {MOST_URLS} URLs of a request are fetched; send the rest as data.")
        fetched = await self._fetcher.fetch_all(urls, account, "messages")
        data = ((each.media_type, base64.b64encode(each.data).decode()) for each in fetched)
        exchange.supply(dict(zip(urls, data, strict=True)))

    def _next(self, kind: Kind, retries: int, routes: Sequence[Route], index: int) -> Step:
        """What to do after the route at `index` failed."""
        more_models = routes[-1].model != routes[index].model
        step = retry.decide(kind, retries=retries, more_routes=index + 1 < len(routes), more_models=more_models)
        if step is Step.NEXT_ROUTE and routes[index + 1].model != routes[index].model:
            step = Step.NEXT_MODEL
        if step in (Step.GIVE_UP, Step.NEXT_MODEL) or kind in retry.NEEDS_NO_BUDGET or self._budget.take(self._clock()):
            return step
        return Step.NEXT_MODEL if more_models else Step.GIVE_UP

    async def _next_route(self, ticket: Ticket, index: int, *, other_model: bool) -> int:
        """The index of the next route that the hold covers; the number of routes when there is none."""
        routes, left = ticket.routes, ticket.routes[index].model
        index += 1
        while index < len(routes) and (
            (other_model and routes[index].model == left) or not await self._covers(ticket, routes[index])
        ):
            index += 1
        return index

    async def _covers(self, ticket: Ticket, route: Route) -> bool:
        """Whether the hold covers the request on `route`, once extended if that is needed and possible."""
        bound = self._admission.bound_on(route, ticket)
        if bound.least > ticket.cap:
            return False
        # Included tokens count the same on every route; for a longer answer the hold grows later.
        more = 0 if ticket.tokens else min(bound.want, ticket.cap) - ticket.held
        if more > 0 and not await self.extend(ticket, more, max(0, bound.least - ticket.held)):
            return False
        ticket.limit = self._admission.limit_on(route, ticket, bound)
        ticket.model = self._admission.model_of(route)
        return True

    async def grow(self, ticket: Ticket, route: Route, tokens: int) -> bool:
        """Hold `tokens` more of output, as far as the request may still use them; False: they cannot be paid for."""
        if ticket.tokens:
            more = min(tokens, self._admission.most_tokens(route, ticket) - ticket.tokens)
            return more <= 0 or await self.extend(ticket, more, min(more, pricing.LEAST_OUTPUT_TOKENS))
        more = pricing.further_output(route, ticket.demand.prompt, tokens)
        more = min(more, self._admission.ceiling(route, ticket) - ticket.held)
        least = min(more, pricing.further_output(route, ticket.demand.prompt, pricing.LEAST_OUTPUT_TOKENS))
        return more <= 0 or await self.extend(ticket, more, least)

    async def extend(self, ticket: Ticket, want: int, least: int) -> bool:
        """Hold up to `want` more, at least `least`, of the money or tokens that it is on; False: they are not there."""
        ticket.step += 1
        verdict = await self._ledger.submit(
            Extend(
                hold=ticket.hold,
                account_id=ticket.caller.account_id,
                key_id=ticket.caller.key_id,
                step=ticket.step,
                want=want,
                least=least,
            )
        )
        if not isinstance(verdict, Held):
            ticket.refusal = verdict.why if isinstance(verdict, Refused) else None
            return False
        ticket.held, ticket.tokens = verdict.amount, verdict.tokens
        ticket.available = verdict.available
        return True


async def _send_with_token(
    upstream: Upstream, token: AccessToken, outgoing: Outgoing, on_sent: Callable[[], None] | None
) -> Response:
    headers = (*upstream.headers, *await token.headers(), *outgoing.headers)
    return await upstream.pool.open(b"POST", outgoing.target, headers, outgoing.body, on_sent)


async def _refuse(response: Response) -> NoReturn:
    """Raise what an answer other than 200 means."""
    if 300 <= response.status < 400:
        response.close()
        raise ProtocolError("the provider answered with a redirect")
    raise wire_errors.classify(response.status, response.headers, await response.read(), time.time())


def _attempt(route: Route, failure: _Failure, seconds: float) -> Attempt:
    return Attempt(
        route=f"{route.upstream.name}/{route.upstream_model}",
        failed=failure.kind.value,
        status=failure.status,
        ms=int(seconds * 1000),
    )


def _too_much(error: Exception, ticket: Ticket) -> _Failure | None:
    """Of an answer that is too large because that much was asked for: no provider is to blame, and another one would
    bill for the same.
    """
    if not isinstance(error, AnswerTooLarge) or (
        ticket.demand.choices == 1 and "logprobs" not in ticket.request.fields
    ):
        return None
    return _Failure(
        Kind.REJECTED,
        InvalidRequest(
            "The answer is larger than this gateway reads. Ask for less: fewer choices, a smaller max_tokens, or no"
            " logprobs. You were not charged.",
            code="answer_too_large",
        ),
    )


def _failure(error: UpstreamError | UpstreamSaid | InvalidRequest, route: Route) -> _Failure:
    if isinstance(error, UpstreamSaid):
        return _said(error, route)
    if isinstance(error, UnsupportedField):
        return _Failure(Kind.UNSUPPORTED, error)
    if isinstance(error, InvalidRequest):
        return _Failure(Kind.REJECTED, error)
    if isinstance(error, UpstreamTimeout):
        kind = Kind.UNREACHED if error.kind == "connect" else Kind.TIMED_OUT
        return _Failure(
            kind, UpstreamTimedOut(f"The provider of {route.model} did not answer in time. You were not charged.")
        )
    if isinstance(error, ProtocolError):
        return _Failure(
            Kind.INVALID_RESPONSE,
            UpstreamFailed(
                f"The provider of {route.model} sent an answer that makes no sense. You were not charged.",
                code="upstream_invalid_response",
            ),
        )
    if isinstance(error, ModelFailed):
        return _Failure(
            Kind.MODEL_FAILED,
            UpstreamFailed(
                f"The answer of {route.model} cannot be used: it calls a tool in a way that cannot be read. You were"
                " not charged. Try again.",
                code="upstream_invalid_response",
            ),
        )
    if isinstance(error, PoolBusy):
        return _Failure(
            Kind.LIMITED,
            Unavailable(
                f"All connections to the provider of {route.model} are busy. Try again in a moment.", retry_after=1
            ),
            retry_after=0.0,
        )
    if isinstance(error, ConnectError):
        kind, what = Kind.UNREACHED, "cannot be reached"
    else:
        kind, what = Kind.LOST, "broke off before it answered"
    return _Failure(kind, UpstreamFailed(f"The provider of {route.model} {what}. You were not charged."))


def _said(said: UpstreamSaid, route: Route) -> _Failure:
    """What an error status of a provider means: to us, and to the caller."""
    status = said.status
    if status in (401, 402, 403) and route.upstream.owner:
        kind = Kind.OUT_OF_CREDIT if status == 402 else Kind.CREDENTIAL
        return _Failure(kind, _own_refused(status, route), status)
    if status in (401, 403):
        error: ApiError = UpstreamFailed(
            f"The provider of {route.model} refused this gateway's credential. Your key is fine.", code="upstream_auth"
        )
        return _Failure(Kind.CREDENTIAL, error, status)
    if status == 402:
        error = UpstreamFailed(f"The provider of {route.model} refused this gateway's account.", code="upstream_auth")
        return _Failure(Kind.OUT_OF_CREDIT, error, status)
    if status == 429:
        cool = DEFAULT_COOL_S if said.retry_after is None else said.retry_after
        seconds = min(MAX_RETRY_AFTER_S, max(1, math.ceil(cool)))
        limited = RateLimited(
            f"The provider of {route.model} is limiting requests. Try again in {seconds} s.",
            headers={"retry-after": str(seconds)},
        )
        return _Failure(Kind.LIMITED, limited, status, said.retry_after)
    if status == 404 and said.code == wire_errors.NONE_CAN:
        return _Failure(Kind.UNSUPPORTED, InvalidRequest(said.message), status)
    if status == 404:
        error = NotFound(f"The provider does not know {route.model}.", code="model_not_found", param="model")
        return _Failure(Kind.UNKNOWN_MODEL, error, status)
    if status == 413:
        return _Failure(Kind.REJECTED, PayloadTooLarge(said.message), status)
    if 400 <= status < 500 and status != 408:
        return _Failure(Kind.REJECTED, InvalidRequest(said.message, param=said.param, code=said.code), status)
    if status in (408, 504):
        return _Failure(
            Kind.TIMED_OUT,
            UpstreamTimedOut(f"The provider of {route.model} did not answer in time. You were not charged."),
            status,
        )
    return _Failure(
        Kind.SERVER_ERROR, UpstreamFailed(f"The provider of {route.model} failed. You were not charged."), status
    )


def _own_refused(status: int, route: Route) -> ApiError:
    why = "is out of credit there" if status == 402 else "was refused"
    return Forbidden(
        f"Your own credential at {route.upstream.provider} {why} (status {status}). Fix or remove it; your key here is"
        " fine, and nothing was charged.",
        code="own_credential_refused",
    )
