"""What a request holds: how much at first, on which of its routes, and more for another route or a longer answer.

Rule 1  If the money does not cover a route, a cheaper one after it is tried; the refusal is that of the first.
Rule 2  A hold is all money or all tokens that the plan includes. Tokens count the same on every route, except those of
        pictures; a route on which they cannot pay for everything is not called on them.
Rule 3  If all that was wanted is held, the hold sets no limit on the output: a stream's hold grows with it, and what
        another answer costs beyond its hold is taken from the rest of the balance.
"""

from collections.abc import Awaitable, Callable

import msgspec

from tollbridge.core import periods, pricing
from tollbridge.core.ledger import Claim, Claimed, Extend, Held, Hold, Refusal, Refused, Verdict
from tollbridge.core.pricing import Bound, Demand, TokenBound
from tollbridge.errors import ApiError, TollbridgeError
from tollbridge.gateway.callers import Caller
from tollbridge.gateway.policy import Policy
from tollbridge.gateway.refusals import refused, too_dear
from tollbridge.gateway.router import Choice, Router
from tollbridge.gateway.ticket import Ticket
from tollbridge.store.ledger import Ledger
from tollbridge.values import Route

# Asks the ledger for a hold of (want, least), nano-USD, or first of included tokens.
Ask = Callable[[int, int, TokenBound], Awaitable[Verdict]]
# The index of a route to hold for, and the bound of its cost.
Offer = tuple[int, Bound]

_NO_TOKENS = TokenBound()
# Refusals of a hold that a cheaper route may escape.
_TOO_DEAR = frozenset({Refusal.INSUFFICIENT, Refusal.IN_FLIGHT, Refusal.KEY_LIMIT, Refusal.QUOTA, Refusal.TOKENS_HELD})


class AlreadyClaimed(TollbridgeError):
    """Another request with the same idempotency key is running, or has run."""


class Holds:
    def __init__(self, ledger: Ledger, router: Router, policy: Policy) -> None:
        self._ledger = ledger
        self._router = router
        self._policy = policy

    def first_within(self, cap: int, choice: Choice) -> Offer:
        """The first route on which the request stays within its cap; raises `CostCapExceeded`."""
        demand, routes = choice
        for place, route in enumerate(routes):
            bound = self._router.bound(demand, route)
            if _fits(bound, demand, cap):
                return place, bound
        raise too_dear(self._router.bound(demand, routes[0]).want, cap, produces=demand.produces)

    def asking(self, hold: int, caller: Caller, claim: Claim | None, started_at: int) -> Ask:
        """An `Ask` for the hold with this id."""

        def ask(want: int, least: int, tokens: TokenBound) -> Awaitable[Verdict]:
            op = hold_of(hold, caller, (want, least), tokens, started_at)
            return self._ledger.submit(op if claim is None else msgspec.structs.replace(op, claim=claim))

        return ask

    async def reserve(
        self, caller: Caller, choice: Choice, cap: int, ask: Ask, verdict: Verdict | None = None
    ) -> tuple[Offer, Held]:
        """Hold for the first route within the cap, or if the money does not cover it, for the first cheaper one that is
        covered. `verdict`: the ledger's answer for the first, if it has been asked.

        Raises the `ApiError` that says why not, or `AlreadyClaimed`.
        """
        demand, routes = choice
        offer: Offer | None = self.first_within(cap, choice)
        refusal: ApiError | None = None
        while offer is not None:
            place, bound = offer
            if verdict is None:
                tokens = _NO_TOKENS
                if caller.plan.included_tokens:
                    tokens = self._token_bound(demand, routes[place], bound, cap)
                verdict = await ask(min(bound.want, cap), bound.least, tokens)
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

    def limit(self, demand: Demand, route: Route, bound: Bound, held: Held, cap: int) -> int | None:
        """The output limit to send because of what is held, or because of the cap; None: what the caller asked for."""
        has, want = held.amount, bound.want
        if held.tokens:
            has = held.tokens
            want = self._token_bound(demand, route, bound, cap).want
        if has >= want and bound.whole <= cap:
            return None
        if has >= want:
            affordable = pricing.affordable_output(route, cap, bound, demand.choices)
        elif held.tokens:
            affordable = max(0, has - bound.prompt) // demand.choices
        else:
            affordable = pricing.affordable_output(route, has, bound, demand.choices)
        return affordable if demand.output_limit is None else min(affordable, demand.output_limit)

    async def cover(self, ticket: Ticket, route: Route) -> bool:
        """Whether the hold covers the request on `route`, once extended if that is needed and possible.

        If so, the ticket is for that route.
        """
        demand, cap = ticket.demand, ticket.cap
        bound = self._router.bound(demand, route)
        if bound.least > cap:
            return False
        has, want, least = ticket.held, min(bound.want, cap), bound.least
        if ticket.tokens:
            needs = self._token_bound(demand, route, bound, cap)
            if bound.whole and not needs.want and not route.upstream.owner:
                return False  # it may search there for a price, and searches are no tokens
            # For a longer answer the hold grows later; only a route that reads more needs more at once.
            has, least = ticket.tokens, needs.least
            want = needs.want if least > has else has
        if want > has and not await self._extend(ticket, want - has, max(0, least - has)):
            return False
        held = Held(amount=ticket.held, available=ticket.available, tokens=ticket.tokens)
        ticket.limit = self.limit(demand, route, bound, held, cap)
        ticket.model = self._router.models[route.model]
        return True

    async def grow(self, ticket: Ticket, route: Route, tokens: int) -> bool:
        """Hold `tokens` more of output, as far as the request may still use them; False: they cannot be paid for."""
        demand, least = ticket.demand, pricing.LEAST_OUTPUT_TOKENS
        if ticket.limit is not None:
            demand = msgspec.structs.replace(demand, output_limit=ticket.limit)  # what was sent
        bound = self._router.bound(demand, route)
        if ticket.tokens:
            more = min(tokens, bound.prompt + bound.limit * demand.choices - ticket.tokens)
        else:
            more = pricing.further_output(route, demand.prompt, tokens)
            more = min(more, min(ticket.cap, bound.whole) - ticket.held)
            least = pricing.further_output(route, demand.prompt, least)
        return more <= 0 or await self._extend(ticket, more, min(more, least))

    async def _extend(self, ticket: Ticket, want: int, least: int) -> bool:
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

    def _token_bound(self, demand: Demand, route: Route, bound: Bound, cap: int) -> TokenBound:
        return pricing.token_bound(demand, route, bound, cap=cap, default_hold=self._policy.default_hold_tokens)

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


def _fits(bound: Bound, demand: Demand, cap: int) -> bool:
    """Whether what the request asks for is within its cap; without an output limit, at least a short answer."""
    return bound.want <= cap or (bound.least <= cap and demand.output_limit is None)
