"""The inference edge: `/v1/…`, without a framework.

Requests come in as a `Downstream` (edge.downstream). Every answer goes out here, errors included, in the caller's
dialect. What happens in between belongs to `gateway`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from ipaddress import ip_address
from typing import Any

import msgspec

from tollbridge.core import money, pricing, tokens
from tollbridge.core.abuse import Refusals
from tollbridge.core.addresses import client_address, customer_of
from tollbridge.core.catalog import Catalog
from tollbridge.core.ledger import Claim
from tollbridge.edge.bodies import Bodies
from tollbridge.edge.downstream import Downstream
from tollbridge.edge.heads import CORS, PREFLIGHT, Head, Names, check_head, check_media, listable, read_cap, read_head
from tollbridge.edge.listings import Listings
from tollbridge.edge.lookups import PATHS, Lookups
from tollbridge.edge.nullless import Nullless
from tollbridge.edge.paths import not_here
from tollbridge.edge.recorder import Recorder
from tollbridge.edge.server import LoopLag
from tollbridge.errors import (
    ApiError,
    ClientGone,
    Forbidden,
    InternalError,
    InvalidApiKey,
    MethodNotAllowed,
    NotFound,
    TollbridgeError,
    Unavailable,
)
from tollbridge.gateway.admission import Admission
from tollbridge.gateway.callers import Caller, Callers
from tollbridge.gateway.holds import AlreadyClaimed
from tollbridge.gateway.large import TAKE_RATE, TAKE_S
from tollbridge.gateway.refusals import WRONG_TOO_OFTEN, add_limits, cooling_down, ran_out
from tollbridge.gateway.relay import AllFailed, Relay
from tollbridge.gateway.replays import Replays, in_progress
from tollbridge.gateway.settlement import Closed, Settlement
from tollbridge.gateway.streams import SSE_HEADERS, LiveStreams, StreamCall, failed_midway
from tollbridge.gateway.ticket import Ticket
from tollbridge.store.ledger import Ledger, away
from tollbridge.telemetry import RequestIds, RequestLine, RequestLog, now_ms
from tollbridge.values import Outcome, Route, Usage
from tollbridge.wire import (
    anthropic_client,
    anthropic_messages,
    openai_chat,
    openai_completions,
    openai_embeddings,
    preferences,
    responses_request,
)
from tollbridge.wire import errors as wire_errors
from tollbridge.wire.exchange import Answer, Receipt, Stream
from tollbridge.wire.request import Request

_LOGGER = logging.getLogger("tollbridge")

JSON = b"content-type: application/json"
# Callers below this path speak Anthropic's dialect.
ANTHROPIC = "/v1/messages"
DEGRADED = b"x-ratelimit-mode: degraded"
NO_STORE = b"cache-control: no-store"


# An endpoint of a known shape is one row.
ENDPOINTS: dict[str, Callable[[bytes], Request]] = {
    "/v1/chat/completions": openai_chat.parse,
    "/v1/responses": responses_request.parse,
    "/v1/messages": anthropic_messages.parse,
    "/v1/completions": openai_completions.parse,
    "/v1/embeddings": openai_embeddings.parse,
}


class Vital(msgspec.Struct):
    """Whether this process takes paid work. `draining`: it takes no more; `lag`: nor while the event loop is behind.

    `leaving`: new requests should go elsewhere, but those that still arrive are served. `given_up`: it will never take
    any again, and somebody must start another.
    """

    lag: LoopLag
    draining: bool = False
    leaving: bool = False
    given_up: bool = False


MOST_LAG_S = 1.0
_NOTHING = Usage()


class Inference:
    """Everything under `/v1`, and the probes: answers the requests that `edge.server` takes in."""

    def __init__(
        self,
        *,
        callers: Callers,
        admission: Admission,
        relay: Relay,
        settlement: Settlement,
        live: LiveStreams,
        replays: Replays,
        bodies: Bodies,
        catalogs: Mapping[int | None, Catalog],
        lookups: Lookups,
        guesses: Refusals[str],
        ledger: Ledger,
        vital: Vital,
        log: RequestLog,
        header_prefix: str,
        trusted_proxies: tuple[str, ...],
    ) -> None:
        self._callers = callers
        self._admission = admission
        self._relay = relay
        self._settlement = settlement
        self._live = live
        self._replays = replays
        self._bodies = bodies
        self._listings = Listings(catalogs)
        self._lookups = lookups
        self._ledger = ledger
        self._vital = vital
        self._log = log
        self._names = Names.of(header_prefix)
        self._trusted_proxies = trusted_proxies
        self._request_id = RequestIds()
        self._guesses = guesses

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request that a page makes on its visitor's behalf: the page made `scope`."""
        await self.answer(scope["extensions"]["tollbridge"], self._read(scope))

    def answer(self, downstream: Downstream, asked: "_Asked | None" = None) -> Coroutine[Any, Any, None]:
        """A coroutine that answers `asked`; when that is None, what the request's own head asks for."""
        if asked is None:
            known = downstream.known
            if known is None:
                asked = self._read(downstream.scope)
            elif (asked := known.digest) is None:
                asked = known.digest = self._read(downstream.scope)
        request_id = self._request_id()
        headers = [b"x-request-id: " + request_id.encode()]
        if asked.is_cross_origin:
            headers += CORS
        if asked.is_anthropic:
            headers.append(b"request-id: " + request_id.encode())
        call = _Call(downstream, downstream, request_id, asked.path, headers, time.monotonic())
        if asked.parse is not None:
            return self._infer(call, asked.head, asked.parse)
        return self._get(call, asked)

    def _read(self, scope: Any) -> "_Asked":
        method, path = scope["method"], scope["path"]
        head = read_head(scope["headers"], self._names.max_cost)
        return _Asked(
            method=method,
            path=path,
            query=scope["query_string"],
            head=head,
            parse=ENDPOINTS.get(path) if method == "POST" else None,
            is_anthropic=path.startswith(ANTHROPIC),
            is_cross_origin=head.origin is not None,
        )

    async def _identify(self, call: "_Call", head: Head) -> Caller:
        """The caller. Raises `InvalidApiKey`, `RateLimited` after too many of those, and `Forbidden` by address."""
        try:
            caller = call.caller = await self._callers.of(head.authorization, head.api_key)
        except InvalidApiKey as wrong:
            self._check_guesses(call, head, wrong)
            raise
        if caller.networks is not None and not caller.may_come_from(self._address(call, head)):
            call.address = self._address(call, head)
            raise Forbidden("This API key may not be used from your address.", code="address_not_allowed")
        return caller

    def _check_guesses(self, call: "_Call", head: Head, wrong: InvalidApiKey) -> None:
        """Tell a client that sends many wrong keys to stop."""
        address = call.address = self._address(call, head)
        # A loopback address is a proxy that does not name its clients: it stands for many.
        if address and not ip_address(address).is_loopback:
            customer = customer_of(address)
            wait = self._guesses.cool_down(customer, call.started)
            if wait > 0:
                raise cooling_down(WRONG_TOO_OFTEN, wait) from wrong
            self._guesses.note(customer, call.started)

    def _address(self, call: "_Call", head: Head) -> str:
        forwarded = b"" if head.forwarded is None else head.forwarded
        return client_address(call.downstream.client, forwarded.decode("latin-1"), self._trusted_proxies)

    # --- paid calls ---

    async def _infer(self, call: "_Call", head: Head, parse: Callable[[bytes], Request]) -> None:
        try:
            caller = self._callers.known(head.authorization, head.api_key, call.started)
            if caller is None or caller.networks is not None:
                caller = await self._identify(call, head)
            call.caller = caller
            vital = self._vital
            if self._ledger.failed or vital.draining or vital.lag.seconds > MOST_LAG_S:
                self._check_vital()
            cap = None if head.is_plain else check_head(head, self._names.max_cost)
            downstream = call.downstream
            body = downstream.whole_body()
            if body is None:
                body = await self._bodies.read(downstream, caller.account_id)
            claim = None
            if head.idempotency_key is not None:
                claim = self._replays.claim(call.path, head.idempotency_key, body)
                if await self._replayed(call, caller, claim):
                    return
            request = preferences.read(parse(body))
            if head.beta is not None:
                request = anthropic_messages.with_betas(request, head.beta)
            try:
                ticket = await self._admission.admit(caller, request, cap, claim)
            except AlreadyClaimed:
                await self._replay(call, caller, claim)
                return
            call.ticket = ticket
            if downstream.disconnected:
                self._leave(call, ticket)
            grant = ticket.grant
            headers = call.headers
            add_limits(headers, grant.requests_room, grant.tokens_room)
            if grant.degraded:
                headers.append(DEGRADED)
            headers.append(self._names.generation + ticket.id.encode())
            recorder = None
            if claim is not None:
                recorder = call.out = Recorder(downstream, self._replays.max_answer)
            try:
                if request.stream:
                    await self._stream(call, ticket, head)
                else:
                    await self._answer(call, ticket)
            finally:
                if not call.closed:
                    # Whatever kept it from being closed is not the caller's fault: the whole hold is released.
                    call.ended = self._settlement.close(ticket, None, _nothing(pricing.Cause.OUR_FAULT), status=500)
            if recorder is not None and recorder.answer is not None:
                await self._replays.keep(ticket.hold, recorder.answer)
        except (Exception, asyncio.CancelledError) as error:
            self._come_to_nothing(call, error)

    async def _replay(self, call: "_Call", caller: Caller, claim: Claim | None) -> None:
        """Another request has the claim: replay its answer, if there is one already."""
        assert claim is not None
        if not await self._replayed(call, caller, claim):
            raise in_progress() from None

    async def _replayed(self, call: "_Call", caller: Caller, claim: Claim) -> bool:
        """Replay the answer that an earlier request with this claim got; False if there is none."""
        kept = await self._replays.find(caller.account_id, claim)
        if kept is None:
            return False
        headers = [*map(b": ".join, kept.headers), self._names.replayed + b"true"]
        if kept.streamed:
            call.out.start(kept.status, call.headers + headers, kept.body)
            call.out.end()
        else:
            call.respond(kept.status, headers, kept.body)
        self._note(call, kept.status)
        return True

    async def _answer(self, call: "_Call", ticket: Ticket) -> None:
        try:
            route, answer = await self._relay.run(ticket)
        except AllFailed as failed:
            self._close_failed(call, failed)
            raise failed.error from failed
        assert answer is not None
        ending = self._ending(ticket, answer)
        call.closed = True
        closed = self._settlement.close(ticket, route, ending)
        receipt = await self._settlement.receipt(closed)
        body = answer.render(receipt)
        call.headers.append(JSON)
        self._tell(call.headers, ticket, route, receipt, b"final")
        call.out.respond(200, call.headers, body)
        if ticket.share is not None:
            call.downstream.when_taken(ticket.let_go, TAKE_S + len(body) / TAKE_RATE)
        self._note_closed(call, 200, closed, route)

    def _ending(self, ticket: Ticket, answer: Answer) -> pricing.Ending:
        said, produces = answer.usage, ticket.demand.produces
        reported = None if said is None else self._settlement.credible(ticket, said)
        if reported is not None:
            counted, produced = _NOTHING, reported.completion > 0 or not produces
        else:
            text, pictures = answer.text(), answer.pictures()
            counted = Usage(
                input=ticket.demand.read,
                output=tokens.count(text) if produces else 0,
                image_output=pictures * tokens.PER_DRAWN,
                estimated=True,
                suspect=answer.suspect or said is not None,
                raw=answer.reported,
            )
            produced = bool(text or pictures) or not produces
        return pricing.Ending(
            cause=pricing.FINISHED, reported=reported, counted=counted, produced=produced, finish=answer.finish
        )

    async def _stream(self, call: "_Call", ticket: Ticket, head: Head) -> None:
        if head.is_openrouters and call.path == "/v1/chat/completions":
            call.out = Nullless(call.out)

        def headers(route: Route) -> list[bytes]:
            held = money.usd_bytes(ticket.held)
            told = [*SSE_HEADERS, *call.headers]
            self._tell(told, ticket, route, Receipt(held, held, money.usd_bytes(ticket.available)), b"hold")
            return told

        stream = StreamCall(ticket, call.out, headers, self._live)
        answered = False
        try:
            await self._relay.run(ticket, stream.attempt)
            answered = True
            ending = await stream.ending
        except AllFailed as failed:
            stream.give_up()
            self._close_failed(call, failed)
            if not stream.started or stream.stream is None:
                raise failed.error from failed
            call.break_off(stream.stream, failed.error)
            self._note(call, 200, code=failed.error.code)
            return
        except BaseException as error:
            ending = stream.abandon()
            if stream.left:
                if isinstance(error, Exception) and not isinstance(error, TollbridgeError):
                    _LOGGER.exception("request %s failed", call.request_id)
            else:
                call.ended = self._close_stream(call, stream, ending)
                if stream.started and stream.stream is not None:
                    call.break_off(stream.stream, Unavailable("The server stopped in the middle of its answer."))
                raise
        closed = self._close_stream(call, stream, ending)
        if stream.left:
            self._note_closed(call, 499, closed, stream.route if answered else None)
        else:
            await self._end_stream(call, stream, ending.cause, closed)

    async def _end_stream(self, call: "_Call", stream: StreamCall, cause: pricing.Cause, closed: Closed) -> None:
        """Send the end of an answer, with what it cost."""
        route, said = stream.route, stream.stream
        assert said is not None
        assert route is not None
        if cause is pricing.Cause.UPSTREAM_FAILED:
            call.break_off(said, failed_midway(route))
        else:
            if cause is pricing.Cause.MONEY_RAN_OUT:
                call.out.write(said.stop(ran_out(stream.ticket.refusal)))
            stream.start()  # if there was nothing to send before the end
            call.out.end(said.end(await self._settlement.receipt(closed)))
        self._note_closed(call, 200, closed, route, stream.first_byte_ms)

    def _close_stream(self, call: "_Call", stream: StreamCall, ending: pricing.Ending) -> Closed:
        call.closed = True
        route = stream.route if stream.asked else None
        return self._settlement.close(stream.ticket, route, ending, first_byte_ms=stream.first_byte_ms)

    def _leave(self, call: "_Call", ticket: Ticket) -> None:
        """The caller left before anything was sent to a provider."""
        call.ended = self._settlement.close(ticket, None, _nothing(pricing.Cause.CLIENT_LEFT), status=499)
        raise ClientGone

    def _come_to_nothing(self, call: "_Call", error: BaseException) -> None:
        if call.ticket is not None:
            call.ticket.let_go()
        if isinstance(error, ApiError):
            call.refuse(error)
            self._note(call, error.status, code=error.code)
        elif isinstance(error, ClientGone):
            self._note(call, 499, code="client_gone")
        elif isinstance(error, asyncio.CancelledError):
            # The time for a graceful shutdown is over. `Downstream.ended` answers, where no answer has begun.
            self._note(call, 200 if call.out.response_started else Unavailable.status, code=Unavailable.code)
            raise error
        else:  # The fault is ours: the log has the details, the caller learns only that there was an error.
            _LOGGER.error("request %s failed", call.request_id, exc_info=error)
            ours = InternalError("The server had an error while processing your request. Please try again.")
            if call.out.response_started:
                call.out.abort()
            else:
                call.refuse(ours)
            self._note(call, ours.status, code=ours.code)

    def _close_failed(self, call: "_Call", failed: AllFailed) -> None:
        ticket = call.ticket
        assert ticket is not None
        ending = _nothing(pricing.Cause.UPSTREAM_FAILED)
        call.closed = True
        call.ended = self._settlement.close(ticket, failed.route, ending, status=failed.error.status)
        call.headers.append(self._names.tried + listable(ticket.tried))

    def _check_vital(self) -> None:
        vital = self._vital
        if self._ledger.failed or vital.given_up:
            raise away()
        if vital.draining:
            raise Unavailable("This server is shutting down. Please try again.")
        if vital.lag.seconds > MOST_LAG_S:
            raise Unavailable("This server is overloaded. Nothing was charged; please try again.")

    def _tell(self, headers: list[bytes], ticket: Ticket, route: Route, receipt: Receipt, basis: bytes) -> None:
        """Add to `headers` the money, which providers answered and failed, the output limit that money set, and the
        fields that could not be sent. `basis`: `hold` while the `receipt` is that of the hold, then `final`.
        """
        names = self._names
        headers += (names.cost + receipt.cost, names.charged + receipt.charge, names.basis + basis)
        if receipt.balance is not None:
            headers.append(names.balance + receipt.balance)
        headers.append(names.route + route.upstream.name.encode("latin-1"))
        if ticket.limit is not None:
            headers.append(names.limit + b"%d" % ticket.limit)
        if ticket.dropped:
            headers.append(names.dropped + listable(ticket.dropped))
        if ticket.tried:
            headers.append(names.tried + listable(ticket.tried))

    # --- everything else ---

    async def _get(self, call: "_Call", asked: "_Asked") -> None:
        try:
            if asked.is_cross_origin and asked.method == "OPTIONS":
                call.respond(204, PREFLIGHT, b"")
            else:
                await self._get_free(call, asked)
        except Exception as error:
            self._come_to_nothing(call, error)

    async def _get_free(self, call: "_Call", asked: "_Asked") -> None:
        method, path, head = asked.method, asked.path, asked.head
        if path in PROBES:
            _require(method, "GET")
            self._probe(call)
        elif path in ENDPOINTS:
            _require(method, "POST")
        elif path == "/v1/models" or path.startswith("/v1/models/"):
            _require(method, "GET")
            caller = await self._identify(call, head)
            wanted = path.removeprefix("/v1/models").removeprefix("/")
            call.respond(200, [JSON], self._listings.answer(caller, wanted, anthropic=head.is_anthropic))
        elif path in PATHS:
            await self._look_up(call, asked)
        else:
            if path.startswith("/v1"):
                await self._identify(call, head)
            raise NotFound(not_here(method, path, KNOWN_PATHS))
        self._note(call, 200)

    async def _look_up(self, call: "_Call", asked: "_Asked") -> None:
        head = asked.head
        _require(asked.method, PATHS[call.path])
        caller = await self._identify(call, head)
        if asked.method == "POST":
            check_media(head)
        cap = read_cap(head.max_cost, self._names.max_cost)
        # Costs nothing, so it must not have more of the server than what is paid for.
        read_body = partial(self._bodies.read, call.downstream, caller.account_id)
        body = await self._lookups.answer(call.path, asked.query, caller, read_body, cap)
        call.respond(200, [JSON, NO_STORE], body)

    def _probe(self, call: "_Call") -> None:
        if call.path != "/ready":
            call.respond(200, [JSON, NO_STORE], b'{"status":"ok"}')
            return
        self._check_vital()
        if self._vital.leaving:
            raise Unavailable("This server is shutting down.")
        call.respond(200, [JSON, NO_STORE], b'{"status":"ready"}')

    def _note(self, call: "_Call", status: int, code: str = "") -> None:
        ticket, caller = call.ticket, call.caller
        # Any other path is the caller's own text, which may be a key pasted into the wrong place.
        path = call.path if call.path in LOGGED_PATHS else ""
        elapsed_ms = int((time.monotonic() - call.started) * 1000)
        line = RequestLine(now_ms(), call.request_id, status, elapsed_ms, path, code, address=call.address)
        if caller is not None:
            line.account, line.key = caller.account_id, caller.key_id
        if ticket is not None:
            line.id, line.model = ticket.id, ticket.model.id
            line.would_refuse = ticket.grant.would_refuse
        if (ended := call.ended) is not None:
            line.outcome = OUTCOME_NAMES[ended.bill.outcome]
            line.charge, line.cost, line.attempts = ended.charge, ended.cost, len(ended.ticket.attempts)
        self._log.add(line)

    def _note_closed(
        self,
        call: "_Call",
        status: int,
        closed: Closed,
        route: Route | None,
        first_byte_ms: int | None = None,
    ) -> None:
        """As `_note`, with the bill. `route`: the one that answered; None when none did."""
        ticket, bill = closed.ticket, closed.bill
        caller, usage = ticket.caller, bill.usage
        # Positional: with more than 15 keyword arguments CPython builds a dict first, for each request.
        self._log.add(
            RequestLine(
                time.time_ns() // 1_000_000,
                call.request_id,
                status,
                int((time.monotonic() - call.started) * 1000),
                call.path,
                "",  # no error
                ticket.id,
                caller.account_id,
                caller.key_id,
                ticket.model.id,
                "" if route is None else route.upstream.name,
                OUTCOME_NAMES[bill.outcome],
                closed.charge,
                closed.cost,
                closed.prompt,
                usage.output,
                first_byte_ms,
                len(ticket.attempts),
                ticket.grant.would_refuse,
            )
        )


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the head of a request asks for. `parse` reads the body of a paid call; None: it is not a paid call."""

    method: str
    path: str
    query: bytes
    head: Head
    parse: Callable[[bytes], Request] | None
    is_anthropic: bool
    is_cross_origin: bool


class _Call(msgspec.Struct, eq=False):
    """One request while it is answered. `out`: where the answer goes; `ended`: the bill of a call that failed."""

    downstream: Downstream
    out: Downstream | Recorder | Nullless
    request_id: str
    path: str
    headers: list[bytes]
    started: float
    caller: Caller | None = None
    address: str = ""
    ticket: Ticket | None = None
    closed: bool = False
    ended: Closed | None = None

    def respond(self, status: int, headers: list[bytes], body: bytes) -> None:
        self.out.respond(status, self.headers + headers, body)

    def refuse(self, error: ApiError) -> None:
        own = [f"{name}: {value}".encode("latin-1") for name, value in error.headers.items()]
        if error.status == 401:
            own.append(b"www-authenticate: Bearer")
        if self.path.startswith(ANTHROPIC):
            body = anthropic_client.render_error(error, self.request_id)
        else:
            body = wire_errors.render(error, self.downstream.scope["headers"])
        self.respond(error.status, [JSON, *own], body)

    def break_off(self, stream: Stream, error: ApiError) -> None:
        self.out.end(stream.fail(error, self.downstream.scope["headers"]))


OUTCOME_NAMES = {outcome: outcome.name.lower() for outcome in Outcome}
PROBES = frozenset({"/health", "/v1/health", "/ready"})
KNOWN_PATHS = ENDPOINTS.keys() | PATHS.keys() | {"/v1/models"}
LOGGED_PATHS = PROBES | KNOWN_PATHS


def _nothing(cause: pricing.Cause) -> pricing.Ending:
    return pricing.Ending(cause=cause, reported=None, counted=Usage(), produced=False, delivered=False)


def _require(method: str, allowed: str) -> None:
    if method != allowed and not (method == "HEAD" and allowed == "GET"):
        allow = "GET, HEAD" if allowed == "GET" else allowed
        raise MethodNotAllowed(f"Use {allowed} here, not {method}.", headers={"allow": allow})
