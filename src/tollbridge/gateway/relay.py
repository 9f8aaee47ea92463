"""One attempt after another, until a route answers.

Rule 1  A route is called only when the hold covers what the request may cost on it. For a dearer route the hold is
        extended first; if it cannot be, the route is skipped.
Rule 2  Any failure before output may move on to the next route; `core.retry` says whether and where.
Rule 3  A call does not wait for a connection to one provider while another route of the same model has room: that one
        goes first then. A call on a customer's own credential waits rather than move to one that costs them more.
"""

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NoReturn

import msgspec

from tollbridge.core import retry
from tollbridge.core.retry import Kind, Step
from tollbridge.errors import (
    ApiError,
    ConnectionLost,
    InvalidRequest,
    PoolBusy,
    ProtocolError,
    RoomElsewhere,
    TollbridgeError,
    UpstreamError,
)
from tollbridge.gateway.failures import Failure, failure_of
from tollbridge.gateway.holds import Holds
from tollbridge.gateway.large import LARGE, PIECE, LargeBodies, Share
from tollbridge.gateway.policy import Policy
from tollbridge.gateway.ticket import Attempt, Ticket
from tollbridge.upstream import auth
from tollbridge.upstream.auth import AccessToken
from tollbridge.upstream.fetch import Fetcher
from tollbridge.upstream.health import Health
from tollbridge.upstream.opening import OpenUpstream
from tollbridge.upstream.pool import Elsewhere, Pool, Response
from tollbridge.values import Route
from tollbridge.wire import errors as wire_errors
from tollbridge.wire import translate
from tollbridge.wire.exchange import Answer, Exchange, Outgoing
from tollbridge.wire.translate import Translated

# Waits before the same route is tried again; too short for a caller to notice.
BACK_OFF_S = (0.05, 0.2)
# The most URLs that are fetched for one request.
MOST_URLS = 16
# How often one call moves to where there is room, only to find that others were faster. Then it stays, and waits.
MOST_MOVES = 3


class AllFailed(TollbridgeError):
    """No route answered. `error` is for the caller; `route` is the last one that was tried, None when none was."""

    def __init__(self, error: ApiError, route: Route | None) -> None:
        super().__init__(error.message)
        self.error = error
        self.route = route


class _Failures(msgspec.Struct):
    """What went wrong with a request so far. `index`: of the route being tried; `of_model`: how many attempts at its
    model failed after something was sent; `moves`: how often it went where there was room; `told`: the failure that the
    caller would be told of.
    """

    attempts: list[Attempt] = []
    index: int = 0
    of_model: int = 0
    moves: int = 0
    told: Failure | None = None


class _Supplies(msgspec.Struct):
    """What was fetched for a request, by URL: media type and base64. `failed`: why some URLs could not be."""

    data: dict[str, tuple[str, str]] = {}
    failed: dict[tuple[str, ...], InvalidRequest] = {}


class Relay:
    def __init__(
        self,
        upstreams: Mapping[str, OpenUpstream],
        health: Health,
        holds: Holds,
        policy: Policy,
        large: LargeBodies,
        fetcher: Fetcher | None,
    ) -> None:
        """`fetcher`: gets what URLs in messages point to, if the operator allows that."""
        self._fetcher = fetcher
        self._upstreams = upstreams
        self._health = health
        self._holds = holds
        self._policy = policy
        self._clock = time.monotonic
        self._budget = retry.Budget()
        self._large = large

    async def run(
        self, ticket: Ticket, stream: Callable[[Route, Exchange, Outgoing], Awaitable[None]] | None = None
    ) -> tuple[Route, Answer | None]:
        """Call the ticket's routes in turn until one answers; return that route and its answer (None when it streams).

        Raises `AllFailed`. Either way the ticket has the attempts that failed.
        `stream` sends what the exchange wants sent and returns once there is output; if it raises `UpstreamError`, the
        attempt failed before output. Without `stream` the whole answer is read here.
        """
        failures: _Failures | None = None
        supplies = None if self._fetcher is None else _Supplies()
        route, started = ticket.routes[0], self._clock()
        self._budget.request(started)
        while True:
            self._health.begin(route)
            try:
                exchange = translate.exchange(ticket.request, route, ticket.id, ticket.started_at // 1000, ticket.limit)
                if supplies is not None and isinstance(exchange, Translated):
                    await self._supply(exchange, ticket.caller.account_id, supplies)
                outgoing = exchange.request()
                ticket.dropped = outgoing.dropped
                answer: Answer | None = None
                if stream is not None:
                    await stream(route, exchange, outgoing)
                else:
                    response = await self._send(ticket, route, outgoing, None)
                    if response.status != 200:
                        await _refuse(response)
                    body = response.whole_body()
                    if body is None:
                        body = await response.read_up_to(LARGE)
                        if body is None:
                            body = await self._rest_of(ticket, response)
                        if len(body) > LARGE:
                            await self._large.begin()
                    answer = exchange.response(body)
            except RoomElsewhere:
                failures = failures or _Failures()
                route = await self._move(ticket, failures, self._clock() - started)
                started = self._clock()
                continue
            except (UpstreamError, InvalidRequest) as error:
                failed = failure_of(error, ticket, route)
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

    async def _after(self, failed: Failure, failures: _Failures, ticket: Ticket, seconds: float) -> Route:
        """The route to try next, after any wait; `seconds`: how long the failed attempt took. Raises `AllFailed`."""
        routes = ticket.routes
        route = routes[failures.index]
        ticket.let_go()
        if failures.told is None or failed.kind is not Kind.UNSUPPORTED:
            failures.told = failed
        why = failed.why or f"status {failed.status}"
        self._health.failed(route, failed.kind, failed.retry_after, why, seconds)
        attempt = _attempt(route, failed.kind, failed.status, seconds)
        failures.attempts.append(attempt)
        retries = failures.of_model
        failures.of_model += failed.kind not in retry.NEEDS_NO_BUDGET
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
            told.error.status = self._policy.upstream_failed_status
        ticket.attempts = failures.attempts
        raise AllFailed(told.error, route)

    async def _rest_of(self, ticket: Ticket, response: Response) -> bytes:
        """All of a large answer, its rest read as its turn comes. Its share of the memory stays with the ticket."""
        share = ticket.share = Share(self._large)
        most, has_waited = 0, False
        while True:
            if not share.may_have_more():
                has_waited = True
                response.stop_clock()
                try:
                    await share.more()
                except BaseException:
                    response.close()  # no time that passes would ever end it
                    raise
                response.start_clock()
            most += PIECE
            try:
                body = await response.read_up_to(most)
            except ConnectionLost as error:
                if has_waited:
                    raise PoolBusy("the provider broke off while its answer had to wait for others") from error
                raise
            if body is not None:
                share.is_read(len(body))
                return body

    async def open(
        self, ticket: Ticket, route: Route, outgoing: Outgoing, on_sent: Callable[[], None] | None = None
    ) -> Response:
        """Send `outgoing` and return the provider's 200; raises `UpstreamSaid` for any other answer.

        `on_sent` is called when the request leaves: from then on the provider may bill it.
        """
        response = await self._send(ticket, route, outgoing, on_sent)
        if response.status != 200:
            await _refuse(response)
        return response

    def _send(
        self, ticket: Ticket, route: Route, outgoing: Outgoing, on_sent: Callable[[], None] | None
    ) -> Awaitable[Response]:
        """The answer's head, to be awaited. Not a coroutine itself: each wake-up of a call would pass through it."""
        elsewhere = None
        if len(ticket.routes) > 1 and not ticket.waits:
            elsewhere = partial(self._elsewhere, ticket, route)
        upstream = self._upstreams[route.upstream.name]
        headers = upstream.headers
        if route.upstream.owner:
            headers = auth.headers(route.upstream)
        elif upstream.token is not None:
            return _send_with_token(upstream, upstream.token, outgoing, on_sent, elsewhere)
        if outgoing.headers:
            headers = (*headers, *outgoing.headers)
        return upstream.pool.open(b"POST", outgoing.target, headers, outgoing.body, on_sent, elsewhere)

    def _elsewhere(self, ticket: Ticket, route: Route) -> Pool | None:
        """The pool of the first route that a call may move to from `route`."""
        place = next(self._with_room(ticket, route), None)
        return None if place is None else self._upstreams[ticket.routes[place].upstream.name].pool

    def _with_room(self, ticket: Ticket, route: Route) -> Iterator[int]:
        """The places of the routes after `route` that a call may move to because they have room."""
        routes = ticket.routes
        begin = next(place for place, each in enumerate(routes) if each is route) + 1
        for place, other in enumerate(routes[begin:], begin):
            if (
                other.model == route.model
                and (other.upstream.owner or not route.upstream.owner)
                and self._upstreams[other.upstream.name].pool.room > 0
                and self._health.rank(other) is not None
            ):
                yield place

    async def _move(self, ticket: Ticket, failures: _Failures, seconds: float) -> Route:
        """The route to try instead of one that has no room, which goes behind it; the same one again, to be waited for,
        if the hold covers no other. `seconds`: how long the call has waited.
        """
        routes, index = ticket.routes, failures.index
        route = routes[index]
        self._health.passed(route)
        failures.moves += 1
        ticket.waits = failures.moves >= MOST_MOVES
        for place in self._with_room(ticket, route):
            if await self._covers(ticket, routes[place]):
                attempt = _attempt(route, Kind.BUSY, 0, seconds)
                failures.attempts.append(attempt)
                ticket.tried = (*ticket.tried, f"{attempt.route} {attempt.failed}")
                ticket.routes = (*routes[:index], routes[place], *routes[index:place], *routes[place + 1 :])
                return routes[place]
        ticket.waits = True
        return route

    async def _covers(self, ticket: Ticket, route: Route) -> bool:
        try:
            return await self._holds.cover(ticket, route)
        except ApiError:  # the ledger cannot be asked now, and on its own route the call is paid for
            return False

    async def _supply(self, exchange: Translated, account: int, supplies: _Supplies) -> None:
        """Fetch what the provider would not fetch by itself: once, however many models and routes are tried."""
        assert self._fetcher is not None
        urls = exchange.urls()
        if len(urls) > MOST_URLS:
            raise InvalidRequest(f"At most {MOST_URLS} URLs of a request are fetched; send the rest as data.")
        missing = tuple(url for url in urls if url not in supplies.data)
        if missing in supplies.failed:
            raise supplies.failed[missing]
        try:
            fetched = await self._fetcher.fetch_all(missing, account, "messages")
        except InvalidRequest as error:
            supplies.failed[missing] = error
            raise
        data = ((each.media_type, base64.b64encode(each.data).decode()) for each in fetched)
        supplies.data.update(zip(missing, data, strict=True))
        exchange.supply({url: supplies.data[url] for url in urls})

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
            (other_model and routes[index].model == left) or not await self._holds.cover(ticket, routes[index])
        ):
            index += 1
        return index


async def _send_with_token(
    upstream: OpenUpstream,
    token: AccessToken,
    outgoing: Outgoing,
    on_sent: Callable[[], None] | None,
    elsewhere: Elsewhere | None,
) -> Response:
    headers = (*upstream.headers, *await token.headers(), *outgoing.headers)
    return await upstream.pool.open(b"POST", outgoing.target, headers, outgoing.body, on_sent, elsewhere)


async def _refuse(response: Response) -> NoReturn:
    """Raise what an answer other than 200 means."""
    if 300 <= response.status < 400:
        response.close()
        raise ProtocolError("the provider answered with a redirect")
    said = await response.read_up_to(LARGE)
    if said is None:
        response.close()
        said = b""  # no words of an error are that many
    raise wire_errors.classify(response.status, response.headers, said, time.time())


def _attempt(route: Route, kind: Kind, status: int, seconds: float) -> Attempt:
    return Attempt(
        route=f"{route.upstream.name}/{route.upstream_model}", failed=kind.value, status=status, ms=int(seconds * 1000)
    )
