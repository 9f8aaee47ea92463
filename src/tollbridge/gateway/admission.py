"""May this request run, and what may it cost? Everything that can refuse it before anything is sent to a provider.

The order makes refusals cheap: the models and their routes, the cost cap (the request alone decides that), the limits
(one atomic take), the money (one durable hold). The result is a `Ticket`. What was taken is given back when the ticket
is settled, or here when a later step refuses.

If the money does not cover a route, a cheaper one after it is tried; the refusal is that of the first.
"""

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tollbridge.core import periods, pricing
from tollbridge.core.abuse import Abuse
from tollbridge.core.ledger import Claim, Claimed, Held, Hold, Refusal, Refused, Verdict
from tollbridge.core.plans import Plan
from tollbridge.core.pricing import TokenBound
from tollbridge.errors import ApiError, PaymentRequired, RateLimited, TollbridgeError
from tollbridge.gateway.callers import Caller
from tollbridge.gateway.policy import Policy
from tollbridge.gateway.refusals import ASKED_TOO_OFTEN, CUT_TOO_OFTEN, cooling_down, limited, refused, too_dear
from tollbridge.gateway.router import Choice, Router
from tollbridge.limits.base import Exceeded, Grant, Limiter
from tollbridge.store.ledger import Ledger
from tollbridge.values import DAY_MS, Model, Route
from tollbridge.wire.request import Request

# The latest answer counts for one part in this many of a key's running mean.
_MEAN_SHARE = 8
_MEANS_KEPT = 10_000
# How soon an account that is refused again may have been given what its plan includes in a new month.
_FILL_UP_AGAIN_S = 10.0
_NO_TOKENS = TokenBound()
# Refusals of a hold that a cheaper route may escape.
_TOO_DEAR = frozenset({Refusal.INSUFFICIENT, Refusal.IN_FLIGHT, Refusal.KEY_LIMIT, Refusal.QUOTA, Refusal.TOKENS_HELD})


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try of a route that did not answer; kept with the request's record."""

    route: str
    failed: str
    status: int = 0
    ms: int = 0
    # What the provider bills for it as far as is known, nano-USD.
    cost: int = 0


class Ticket(msgspec.Struct, kw_only=True):
    """Permission to run one request: its hold, its routes in order, and the output limit that money sets (None: none).

    The routes may belong to several models, in the caller's order; `model` is that of the route being tried.
    `cap`: the most that the request may cost, nano-USD.
    `held` and `step` grow when the hold is extended. `tokens`: the included tokens held, with `held` 0; 0: the hold is
    on money. `refusal`: why the hold could not be extended. `dropped`: the caller's fields that could not be sent.
    `tried`: the routes that did not answer, each with the reason, worded for a header; `attempts`: the same for the
    record, set once the attempts are over.
    `started` is monotonic seconds, `started_at` epoch milliseconds.
    """

    id: str
    hold: int
    caller: Caller
    request: Request
    model: Model
    routes: Sequence[Route]
    demand: pricing.Demand
    held: int
    available: int
    cap: int
    limit: int | None
    grant: Grant
    started: float
    started_at: int
    step: int = 0
    tokens: int = 0
    refusal: Refusal | None = None
    dropped: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    attempts: Sequence[Attempt] = ()


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """What a request would cost, and whether it would be admitted now (`refusal` says why not).

    `routes`: in the order to try them, each with the bound of its cost. `cap`: the most that the request may cost;
    `held`: what would be held at first; both nano-USD. `limit`: the output limit that money would set.
    """

    demand: pricing.Demand
    routes: Sequence[tuple[Route, pricing.Bound]]
    cap: int
    held: int | None = None
    limit: int | None = None
    refusal: ApiError | None = None


# Asks the ledger for a hold of (want, least), nano-USD, or first of included tokens.
Ask = Callable[[int, int, TokenBound], Awaitable[Verdict]]
# The index of a route to hold for, and the bound of its cost.
Offer = tuple[int, pricing.Bound]


class AlreadyClaimed(TollbridgeError):
    """Another request with the same idempotency key is running, or has run."""


class Admission:
    """`fill_up` gives an account the credit that its plan includes this month, unless it has had it."""

    def __init__(
        self,
        *,
        router: Router,
        policy: Policy,
        limiter: Limiter,
        ledger: Ledger,
        abuse: Abuse,
        public_id: Callable[[str, int], str],
        fill_up: Callable[[int, Plan], Awaitable[object]],
    ) -> None:
        self._router = router
        self._policy = policy
        self._limiter = limiter
        self._ledger = ledger
        self._public_id = public_id
        self._fill_up = fill_up
        # By account and plan: when the credit that it includes was last asked for.
        self._filled: dict[tuple[int, str], float] = {}
        self._mean_output: dict[int, int] = {}
        self._cuts, self._refusals, self._overruns = abuse.cuts, abuse.refusals, abuse.overruns

    async def admit(self, caller: Caller, request: Request, cap: int | None, claim: Claim | None = None) -> Ticket:
        """A ticket; raises the `ApiError` that says why not, or `AlreadyClaimed` if another request has the `claim`.

        `cap`: the caller's own cap for this request, nano-USD.
        """
        started, started_at = time.monotonic(), time.time_ns() // 1_000_000
        if self._cuts.latest or self._refusals.minutes:  # seldom
            self._check_abuse(caller, started)
        router = self._router
        choice = router.plain_choice(caller, request, started_at) or await router.choice(caller, request, started_at)
        demand, routes = choice
        cap = self._cap(caller, cap)
        if self._overruns.accounts:  # seldom
            choice = self._cautious(caller, choice, started_at)
        place, bound = 0, router.bound(choice[0], routes[0])
        want = bound.want
        if want > cap:  # seldom
            place, bound = self._first_within(cap, choice)
            want = min(bound.want, cap)
        hold = self._ledger.next_id()
        amount = self._tokens(caller, demand)
        taken = await self._limiter.take(hold, caller.scopes, demand.prompt, amount)
        grant = taken if isinstance(taken, Grant) else await self._enforced(taken, hold, caller, demand.prompt, amount)
        try:
            verdict: Verdict | None = None
            if claim is None and not caller.plan.included_tokens:  # nearly every request
                op = Hold(id=hold, account_id=caller.account_id, key_id=caller.key_id, want=want, least=bound.least)
                verdict = await self._ledger.submit(op)
            if isinstance(verdict, Held):
                held = verdict
            else:
                ask = self._asking(hold, caller, claim, started_at)
                first = place, bound
                try:
                    (place, bound), held = await self._reserve(caller, choice, first, cap, ask, verdict)
                except (PaymentRequired, RateLimited):
                    if not caller.plan.included_credit or not await self._filled_up(caller, started):
                        raise
                    (place, bound), held = await self._reserve(caller, choice, first, cap, ask)
        except BaseException:
            self._limiter.give_back(grant, 0)
            raise
        route = routes[place]
        # If all that it may cost is held, nothing limits the output.
        limit = None if held.amount >= bound.whole else self._limit(demand, route, bound, held, cap)
        return Ticket(
            id=self._public_id(request.endpoint, hold),
            hold=hold,
            caller=caller,
            request=request,
            model=self._router.models[route.model],
            routes=routes[place:] if place else routes,
            demand=demand,
            held=held.amount,
            available=held.available,
            cap=cap,
            limit=limit,
            grant=grant,
            started=started,
            started_at=started_at,
            tokens=held.tokens,
        )

    async def estimate(self, caller: Caller, request: Request, cap: int | None, ask: Ask) -> Estimate:
        """What `admit` would say now, and what the request may cost. Takes nothing, and neither may `ask`.

        Raises an `ApiError` if there is no route for the request and so no price.
        """
        now = time.time_ns() // 1_000_000
        choice = self._cautious(caller, await self._router.choice(caller, request, now), now)
        demand, chosen = choice
        cap = self._cap(caller, cap)
        routes = [(route, self._router.bound(demand, route)) for route in chosen]
        try:
            self._check_abuse(caller, time.monotonic())
            first = self._first_within(cap, choice)
            scopes = caller.scopes if caller.enforced is None else caller.enforced
            found = await self._limiter.look(scopes, demand.prompt, self._tokens(caller, demand))
            if isinstance(found, Exceeded):
                raise limited(found)
            (place, _), held = await self._reserve(caller, choice, first, cap, ask)
        except ApiError as refusal:
            return Estimate(demand=demand, routes=routes, cap=cap, refusal=refusal)
        route, bound = routes[place]
        limit = self._limit(demand, route, bound, held, cap)
        return Estimate(demand=demand, routes=routes[place:], cap=cap, held=held.amount, limit=limit)

    @property
    def policy(self) -> Policy:
        return self._policy

    def model_of(self, route: Route) -> Model:
        return self._router.models[route.model]

    def _cap(self, caller: Caller, asked: int | None) -> int:
        """The most that a request may cost: the smallest cap of deployment, plan, key and the request itself."""
        cap = self._policy.cost_cap
        if caller.cost_cap is not None and caller.cost_cap < cap:
            cap = caller.cost_cap
        return cap if asked is None or asked > cap else asked

    def bound_on(self, route: Route, ticket: Ticket) -> pricing.Bound:
        """What the ticket's request must hold to be sent on `route`."""
        return self._router.bound(ticket.demand, route)

    def limit_on(self, route: Route, ticket: Ticket, bound: pricing.Bound) -> int | None:
        """The output limit that the ticket's money, or its included tokens, set on `route`."""
        held = Held(amount=ticket.held, available=ticket.available, tokens=ticket.tokens)
        return self._limit(ticket.demand, route, bound, held, ticket.cap)

    def ceiling(self, route: Route, ticket: Ticket) -> int:
        """The most that ever need be held for the ticket's request on `route`, with the output limit that was sent."""
        demand = ticket.demand
        if ticket.limit is not None:
            demand = msgspec.structs.replace(demand, output_limit=ticket.limit)
        return min(ticket.cap, self._router.bound(demand, route).whole)

    def most_tokens(self, route: Route, ticket: Ticket) -> int:
        """The most included tokens that ever need be held for the ticket's request on `route`."""
        bound = self._router.bound(ticket.demand, route)
        limit = bound.limit if ticket.limit is None else min(bound.limit, ticket.limit)
        return bound.prompt + limit * ticket.demand.choices

    def remember(self, ticket: Ticket, output: int) -> None:
        """Learn how long this key's answers are, for the token limits of requests that set no output limit."""
        means = self._mean_output
        key = ticket.caller.key_id
        mean = means.pop(key, None)
        if mean is not None:
            output = mean + (output - mean) // _MEAN_SHARE
        elif len(means) >= _MEANS_KEPT:
            del means[next(iter(means))]
        means[key] = output

    def cut(self, ticket: Ticket) -> None:
        """The caller left before the first token."""
        self._cuts.note(ticket.caller.account_id, ticket.demand.prompt, time.monotonic())

    def _check_abuse(self, caller: Caller, now: float) -> None:
        account = caller.account_id
        wait = self._cuts.cool_down(account, now)
        if wait > 0:
            raise cooling_down(CUT_TOO_OFTEN, wait)
        wait = self._refusals.cool_down(account, now)
        if wait > 0:
            raise cooling_down(ASKED_TOO_OFTEN, wait)

    def _cautious(self, caller: Caller, choice: Choice, moment: int) -> Choice:
        """`choice`; as if the prompt filled the model, if too much was lost today because the account's calls cost more
        than was held for them. Else caps and limits of its own would be a way to pay for nothing but wrong estimates.
        """
        demand, routes = choice
        if self._overruns.given(caller.account_id, moment // DAY_MS) <= self._policy.free_loss_per_day:
            return choice
        window = max(self._router.models[route.model].context_window for route in routes)
        return msgspec.structs.replace(demand, prompt=max(demand.prompt, window)), routes

    def _limit(self, demand: pricing.Demand, route: Route, bound: pricing.Bound, held: Held, cap: int) -> int | None:
        """The output limit to send because of what is held, or because of the cap; None: what the caller asked for.

        If all that was wanted is held, the hold sets no limit: a stream's hold grows with it, and what another answer
        costs beyond its hold is taken from the rest of the balance.
        """
        has, want = held.amount, bound.want
        if held.tokens:
            has = held.tokens
            want = pricing.token_bound(
                demand, route, bound, cap=cap, default_hold=self._policy.default_hold_tokens
            ).want
        if not demand.produces or (has >= want and bound.whole <= cap):
            return None
        if has >= want:
            affordable = pricing.affordable_output(route, cap, bound, demand.choices)
        elif held.tokens:
            affordable = max(0, has - bound.prompt) // demand.choices
        else:
            affordable = pricing.affordable_output(route, has, bound, demand.choices)
        return affordable if demand.output_limit is None else min(affordable, demand.output_limit)

    def _first_within(self, cap: int, choice: Choice) -> Offer:
        """The first route on which the request stays within its cap; raises `CostCapExceeded`."""
        demand, routes = choice
        for place, route in enumerate(routes):
            bound = self._router.bound(demand, route)
            if _fits(bound, demand, cap):
                return place, bound
        raise too_dear(self._router.bound(demand, routes[0]).want, cap, produces=demand.produces)

    async def _enforced(self, refusal: Exceeded, hold: int, caller: Caller, least: int, amount: int) -> Grant:
        """Take only from the limits that are enforced, after this `refusal` by one of all; raises `RateLimited`."""
        if caller.enforced is None:
            self._refusals.note(caller.account_id, time.monotonic())
            raise limited(refusal)
        enforced = await self._limiter.take(hold, caller.enforced, least, amount)
        if isinstance(enforced, Exceeded):
            self._refusals.note(caller.account_id, time.monotonic())
            raise limited(enforced)
        enforced.would_refuse = refusal.type
        return enforced

    def _tokens(self, caller: Caller, demand: pricing.Demand) -> int:
        """Tokens to take from the limits. If the caller set no output limit, the mean of its key's answers counts."""
        output = demand.output_limit
        if output is None:
            output = self._mean_output.get(caller.key_id, 0) if demand.produces else 0
        return demand.prompt + output * demand.choices

    def _asking(self, hold: int, caller: Caller, claim: Claim | None, started_at: int) -> Ask:
        """An `Ask` for the hold with this id."""

        def ask(want: int, least: int, tokens: TokenBound) -> Awaitable[Verdict]:
            op = hold_of(hold, caller, (want, least), tokens, started_at)
            return self._ledger.submit(op if claim is None else msgspec.structs.replace(op, claim=claim))

        return ask

    async def _reserve(
        self, caller: Caller, choice: Choice, first: Offer, cap: int, ask: Ask, verdict: Verdict | None = None
    ) -> tuple[Offer, Held]:
        """Hold for the first offer, or if the money does not cover it, for the first cheaper one that is covered.

        `verdict`: the ledger's answer for the first offer, if it has been asked.
        """
        offer: Offer | None = first
        refusal: ApiError | None = None
        while offer is not None:
            bound = offer[1]
            if verdict is None:
                want = bound.want if bound.want <= cap else cap
                tokens = self._included(choice, offer, cap) if caller.plan.included_tokens else _NO_TOKENS
                verdict = await ask(want, bound.least, tokens)
            if isinstance(verdict, Held):
                return offer, verdict
            if isinstance(verdict, Claimed):
                raise AlreadyClaimed
            if not isinstance(verdict, Refused):
                raise TypeError(f"a hold was answered with {type(verdict).__name__}")
            refusal = refusal or refused(verdict, bound.least)
            offer = self._cheaper(offer, choice, cap) if verdict.why in _TOO_DEAR else None
            verdict = None
        assert refusal is not None
        raise refusal

    async def _filled_up(self, caller: Caller, started: float) -> bool:
        """Whether an account may have credit now: what its plan includes was given to it since its request `started`.

        Only the database knows which month it is, since clocks differ; it is asked no more often than can be borne.
        """
        filled, known = self._filled, (caller.account_id, caller.plan.name)
        if (at := filled.get(known, 0.0)) < started < at + _FILL_UP_AGAIN_S:
            return False
        if at < started:
            await self._fill_up(caller.account_id, caller.plan)
            if len(filled) >= _MEANS_KEPT:
                filled.clear()
            filled[known] = time.monotonic()
        return True

    def _included(self, choice: Choice, offer: Offer, cap: int) -> TokenBound:
        demand, routes = choice
        place, bound = offer
        default_hold = self._policy.default_hold_tokens
        return pricing.token_bound(demand, routes[place], bound, cap=cap, default_hold=default_hold)

    def _cheaper(self, refused: Offer, choice: Choice, cap: int) -> Offer | None:
        """The next route for which less must be held."""
        demand, routes = choice
        before, too_much = refused
        for place in range(before + 1, len(routes)):
            bound = self._router.bound(demand, routes[place])
            if bound.least < too_much.least and _fits(bound, demand, cap):
                return place, bound
        return None


def hold_of(id_: int, caller: Caller, money: tuple[int, int], tokens: TokenBound, started_at: int) -> Hold:
    """A hold of `money` (want, least), or if they suffice of `tokens` of the month in which the request began."""
    if not tokens.want:
        return Hold(id=id_, account_id=caller.account_id, key_id=caller.key_id, want=money[0], least=money[1])
    return Hold(
        id=id_,
        account_id=caller.account_id,
        key_id=caller.key_id,
        want=money[0],
        least=money[1],
        period=periods.month(started_at),
        included=caller.plan.included_tokens,
        tokens=tokens.want,
        least_tokens=tokens.least,
    )


def _fits(bound: pricing.Bound, demand: pricing.Demand, cap: int) -> bool:
    """Whether what the request asks for is within its cap; without an output limit, at least a short answer."""
    return bound.want <= cap or (bound.least <= cap and demand.output_limit is None)
