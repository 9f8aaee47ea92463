"""May this request run, and what may it cost? Everything that can refuse it before anything is sent to a provider.

The order makes refusals cheap: the models and their routes, the cost cap (the request alone decides that), the limits
(one atomic take), the money (one durable hold). The result is a `Ticket`. What was taken is given back when the ticket
is settled, or here when a later step refuses.
"""

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tollbridge.core import money, pricing, tokens
from tollbridge.core.abuse import Abuse
from tollbridge.core.ledger import Claim, Held, Hold, Refusal, Verdict
from tollbridge.core.means import Means
from tollbridge.core.plans import Plan
from tollbridge.errors import ApiError, CostCapExceeded, PaymentRequired, RateLimited
from tollbridge.gateway.callers import Caller
from tollbridge.gateway.holds import Ask, Holds
from tollbridge.gateway.policy import Policy
from tollbridge.gateway.refusals import ASKED_TOO_OFTEN, CUT_TOO_OFTEN, cooling_down, limited, unmeasured
from tollbridge.gateway.router import Choice, Router
from tollbridge.gateway.ticket import Ticket
from tollbridge.limits.base import Exceeded, Grant, Limiter
from tollbridge.store.ledger import Ledger
from tollbridge.values import DAY_MS, Route
from tollbridge.wire.request import Request

# How soon an account that is refused again may have been given what its plan includes in a new month.
_FILL_UP_AGAIN_S = 10.0
_FILLED_KEPT = 10_000


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


class Admission:
    """`lengths`: how many tokens the answers to each key have, for requests that set no output limit.

    `fill_up` gives an account the credit that its plan includes this month, unless it has had it.
    """

    def __init__(
        self,
        *,
        router: Router,
        policy: Policy,
        limiter: Limiter,
        ledger: Ledger,
        holds: Holds,
        lengths: Means,
        abuse: Abuse,
        public_id: Callable[[str, int], str],
        fill_up: Callable[[int, Plan], Awaitable[object]],
    ) -> None:
        self._router = router
        self._policy = policy
        self._limiter = limiter
        self._ledger = ledger
        self._holds = holds
        self._lengths = lengths
        self._public_id = public_id
        self._fill_up = fill_up
        # By account and plan: when the credit that it includes was last asked for.
        self._filled: dict[tuple[int, str], float] = {}
        self._cuts, self._refusals, self._overruns = abuse.cuts, abuse.refusals, abuse.overruns
        self._exposures = abuse.exposures

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
        exposure = 0
        if demand.unmeasured or self._overruns.accounts:  # seldom
            choice, exposure = self._cautious(caller, choice, started_at)
            if exposure:
                self._exposures.add(caller.account_id, exposure)
        grant: Grant | None = None
        try:
            place, bound = 0, router.bound(choice[0], routes[0])
            want = bound.want
            if want > cap:  # seldom
                place, bound = self._holds.first_within(cap, choice)
                want = min(bound.want, cap)
            hold = self._ledger.next_id()
            amount = self._tokens(caller, demand)
            taken = await self._limiter.take(hold, caller.scopes, demand.prompt, amount)
            if isinstance(taken, Grant):
                grant = taken
            else:
                grant = await self._enforced(taken, hold, caller, demand.prompt, amount)
            verdict: Verdict | None = None
            if claim is None and not caller.plan.included_tokens:  # nearly every request
                op = Hold(id=hold, account_id=caller.account_id, key_id=caller.key_id, want=want, least=bound.least)
                verdict = await self._ledger.submit(op)
            if isinstance(verdict, Held):
                held = verdict
            else:
                ask = self._holds.asking(hold, caller, claim, started_at)
                try:
                    (place, bound), held = await self._holds.reserve(caller, choice, cap, ask, verdict)
                except (PaymentRequired, RateLimited):
                    if not caller.plan.included_credit or not await self._filled_up(caller, started):
                        raise
                    (place, bound), held = await self._holds.reserve(caller, choice, cap, ask)
        except BaseException as refusal:
            if grant is not None:
                self._limiter.give_back(grant, 0)
            if exposure:
                self._exposures.end(caller.account_id, exposure)
            if isinstance(refusal, ApiError) and demand.unmeasured and choice[0] is not demand:
                raise self._explained(refusal, caller) from None
            raise
        route = routes[place]
        # If all that it may cost is held, nothing limits the output.
        limit = None if held.amount >= bound.whole else self._holds.limit(demand, route, bound, held, cap)
        return Ticket(
            id=self._public_id(request.endpoint, hold),
            hold=hold,
            caller=caller,
            request=request,
            model=router.models[route.model],
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
            exposure=exposure,
        )

    async def estimate(self, caller: Caller, request: Request, cap: int | None, ask: Ask) -> Estimate:
        """What `admit` would say now, and what the request may cost. Takes nothing, and neither may `ask`.

        Raises an `ApiError` if there is no route for the request and so no price.
        """
        now = time.time_ns() // 1_000_000
        choice = await self._router.choice(caller, request, now)
        demand, chosen = choice
        choice, _ = self._cautious(caller, choice, now)
        cap = self._cap(caller, cap)
        routes = [(route, self._router.bound(choice[0], route)) for route in chosen]
        try:
            self._check_abuse(caller, time.monotonic())
            self._holds.first_within(cap, choice)  # the limits are not asked about what is too dear
            scopes = caller.scopes if caller.enforced is None else caller.enforced
            found = await self._limiter.look(scopes, demand.prompt, self._tokens(caller, demand))
            if isinstance(found, Exceeded):
                raise limited(found)
            (place, bound), held = await self._holds.reserve(caller, choice, cap, ask)
        except ApiError as refusal:
            why = self._explained(refusal, caller) if demand.unmeasured and choice[0] is not demand else refusal
            return Estimate(demand=demand, routes=routes, cap=cap, refusal=why)
        limit = self._holds.limit(demand, chosen[place], bound, held, cap)
        return Estimate(demand=demand, routes=routes[place:], cap=cap, held=held.amount, limit=limit)

    def _cap(self, caller: Caller, asked: int | None) -> int:
        """The most that a request may cost: the smallest cap of deployment, plan, key and the request itself."""
        cap = self._policy.cost_cap
        if caller.cost_cap is not None and caller.cost_cap < cap:
            cap = caller.cost_cap
        return cap if asked is None or asked > cap else asked

    def _check_abuse(self, caller: Caller, now: float) -> None:
        account = caller.account_id
        wait = self._cuts.cool_down(account, now)
        if wait > 0:
            raise cooling_down(CUT_TOO_OFTEN, wait)
        wait = self._refusals.cool_down(account, now)
        if wait > 0:
            raise cooling_down(ASKED_TOO_OFTEN, wait)

    def _cautious(self, caller: Caller, choice: Choice, moment: int) -> tuple[Choice, int]:
        """What to hold for, and what the request may cost beyond that, nano-USD.

        If too much was lost today because the account's calls cost more than was held for them, it is as if the prompt
        filled the model: else caps and limits of its own would be a way to pay for nothing but wrong estimates. What a
        prompt that nobody can measure may lose is limited before: of many at once it would be known too late.
        """
        demand, routes = choice
        account = caller.account_id
        left = self._policy.free_loss_per_day - self._overruns.given(account, moment // DAY_MS)
        if left >= 0 and not demand.unmeasured:
            return choice, 0
        # No more is read than that, whatever an estimate's margin.
        window = tokens.without_margin(max(self._router.models[route.model].context_window for route in routes))
        whole = msgspec.structs.replace(demand, prompt=max(demand.prompt, window))
        if not demand.unmeasured:
            return (whole, routes), 0
        bounds = [(self._router.bound(whole, route), route) for route in routes]
        dearest = max(money.round_up(bound.prompt_price, route.multiplier_ppm) for bound, route in bounds)
        if not dearest:
            return choice, 0
        left = max(0, left - self._exposures.of(account))
        prompt = max(demand.prompt, whole.prompt - left * whole.prompt // dearest)
        if prompt > demand.prompt:
            demand = msgspec.structs.replace(demand, prompt=prompt)
        return (demand, routes), (whole.prompt - prompt) * dearest // whole.prompt

    def _explained(self, refusal: ApiError, caller: Caller) -> ApiError:
        """`refusal` of a request for which `_cautious` asked for more; says so if it is for want of money."""
        if isinstance(refusal, PaymentRequired | CostCapExceeded) or refusal.code == Refusal.QUOTA.value:
            return unmeasured(refusal, others=self._exposures.of(caller.account_id) > 0)
        return refusal

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
            output = self._lengths.of(caller.key_id) if demand.produces else 0
        return demand.prompt + output * demand.choices

    async def _filled_up(self, caller: Caller, started: float) -> bool:
        """Whether an account may have credit now: what its plan includes was given to it since its request `started`.

        Only the database knows which month it is, since clocks differ; it is asked no more often than can be borne.
        """
        filled, known = self._filled, (caller.account_id, caller.plan.name)
        if (at := filled.get(known, 0.0)) < started < at + _FILL_UP_AGAIN_S:
            return False
        if at < started:
            await self._fill_up(caller.account_id, caller.plan)
            if len(filled) >= _FILLED_KEPT:
                filled.clear()
            filled[known] = time.monotonic()
        return True
