"""Which routes may answer a request, in the order to try them, and what it may cost on each."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tollbridge.core import pricing, routing
from tollbridge.core.catalog import Catalog
from tollbridge.errors import ApiError, NotFound, Unavailable
from tollbridge.gateway.callers import Caller
from tollbridge.gateway.demand import check_length, check_model, demand_of
from tollbridge.gateway.own import OwnRoutes
from tollbridge.gateway.policy import Policy
from tollbridge.gateway.refusals import none_usable
from tollbridge.values import Model, Preferences, Route
from tollbridge.wire.request import Request

_MODELS_KEPT = 10_000
_SUFFIXES = tuple(routing.SUFFIXES)
_NO_WISHES = Preferences()

# What a request asks for, and the routes that may answer it, in the order to try them.
Choice = tuple[pricing.Demand, Sequence[Route]]


class Upstreams(Protocol):
    """What routing asks about upstreams; `upstream.health.Health` answers."""

    def rank(self, route: Route) -> int | None: ...

    def usable_in(self, routes: Sequence[Route]) -> float: ...

    def latency(self, route: Route) -> float: ...

    def throughput(self, route: Route) -> float: ...


class Router:
    """`catalogs`: by the markup of plans (`Plan.markup_ppm`); the one under None has the deployment's own markup."""

    def __init__(
        self, catalogs: Mapping[int | None, Catalog], policy: Policy, upstreams: Upstreams, own: OwnRoutes
    ) -> None:
        self.models = catalogs[None].models
        self._catalogs = catalogs
        self._policy = policy
        self._upstreams = upstreams
        self._own = own
        # Models that callers were allowed to call, each with its route if it has only one, on the same terms at all
        # times. By key, name and endpoint; an entry holds as long as the `Caller` is the very same object.
        self._allowed: dict[tuple[int, str, str], tuple[Caller, Model, Route | None]] = {}

    def bound(self, demand: pricing.Demand, route: Route) -> pricing.Bound:
        return pricing.bound(demand, route, self._policy.default_hold_tokens, self._policy.strict_holds)

    def plain_choice(self, caller: Caller, request: Request, moment: int) -> Choice | None:
        """The choice for nearly every request: one model, no preferences, no credential of the caller's. Else None."""
        if request.preferences is not None or caller.own:
            return None
        asked = (caller.key_id, request.model, request.endpoint)
        known = self._allowed.get(asked)
        if known is not None and known[0] is caller:
            _, model, lone = known
        elif request.model.endswith(_SUFFIXES):
            return None
        else:
            model = self._catalogs[caller.plan.markup_ppm].resolve(request.model)
            check_model(caller, model, request)
            if len(self._allowed) >= _MODELS_KEPT:
                self._allowed.clear()
            lone = model.routes[0] if len(model.routes) == 1 and not model.routes[0].variants else None
            self._allowed[asked] = caller, model, lone
        if lone is not None and self._upstreams.rank(lone) is not None:
            routes: Sequence[Route] = model.routes
        else:
            routes = self._ordered(pricing.all_at(model.routes, moment))
            if not routes:
                raise self._none_usable(model, model.routes)
        demand = demand_of(request)
        check_length(model, demand, request)
        return demand, routes

    async def choice(self, caller: Caller, request: Request, moment: int) -> Choice:
        """The routes of all models that the caller names. If none has any, the first model's refusal is raised."""
        wishes = request.preferences or _NO_WISHES
        demand = demand_of(request)
        routes: list[Route] = []
        refusal: ApiError | None = None
        for name in dict.fromkeys((request.model, *wishes.models)):
            try:
                routes += await self._routes_of(name, caller, request, demand, moment)
            except ApiError as error:
                refusal = refusal or error
        if not routes:
            assert refusal is not None, "a request names a model"
            raise refusal
        return demand, routes

    async def _routes_of(
        self, name: str, caller: Caller, request: Request, demand: pricing.Demand, moment: int
    ) -> list[Route]:
        wishes = request.preferences or _NO_WISHES
        model, sort = _resolve(self._catalogs[caller.plan.markup_ppm], name)
        check_model(caller, model, request)
        check_length(model, demand, request)
        configured = pricing.all_at(model.routes, moment)
        if caller.own:
            configured = await self._own.of(caller.own, configured)
        allowed = routing.allowed(configured, wishes)
        if wishes.require_parameters:
            allowed = [route for route in allowed if request.fields.keys().isdisjoint(route.upstream.drops)]
        if not allowed:
            known = ", ".join(dict.fromkeys(route.upstream.name for route in model.routes))
            raise NotFound(
                f"What `provider` asks for leaves no provider of {model.id}. Its providers are: {known}.",
                code="no_allowed_provider",
                param="provider",
            )
        routes = routing.prefer(self._ordered(allowed), wishes, self._measure(wishes.sort or sort, demand))
        if not routes:
            raise self._none_usable(model, allowed)
        return routes

    def _ordered(self, routes: Sequence[Route]) -> Sequence[Route]:
        if len(routes) == 1:  # most models have one
            return routes if self._upstreams.rank(routes[0]) is not None else ()
        return routing.order(routes, self._upstreams.rank, random.random())  # noqa: S311

    def _measure(self, sort: str | None, demand: pricing.Demand) -> Callable[[Route], float] | None:
        """What routes are sorted by, least first. Ties stay in order: by health, then the caller's own credential."""
        upstreams = self._upstreams
        match sort:
            case "price":
                return lambda route: self.bound(demand, route).want
            case "latency":
                return upstreams.latency
            case "throughput":
                return lambda route: -upstreams.throughput(route)
            case _:
                return None

    def _none_usable(self, model: Model, routes: Sequence[Route]) -> Unavailable:
        return none_usable(model.id, self._upstreams.usable_in(routes), self._policy.no_provider_status)


def _resolve(catalog: Catalog, name: str) -> tuple[Model, str | None]:
    """The model of a name, and how its suffix wants the routes sorted. A model's own name may end in a suffix."""
    try:
        return catalog.resolve(name), None
    except NotFound:
        base, sort = routing.split_suffix(name)
        if sort is None:
            raise
        return catalog.resolve(base), sort
