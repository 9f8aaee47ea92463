"""Whether models can be called now, as far as this process knows from its own calls.

Providers are named as answers name them; where they are called, and with what, is nobody's business.
"""

import msgspec
from starlette.responses import Response

from tollbridge.core.catalog import Catalog
from tollbridge.upstream.health import Health
from tollbridge.values import Route
from tollbridge.web import models
from tollbridge.web.page import ANYONE, Page
from tollbridge.web.visit import Visit

# Of a route, the worst first.
STATES = ("down", "shaky", "up")


class ProviderState(msgspec.Struct, frozen=True):
    """`routes`: how many models it serves; `first_byte_ms`: the median of the measured ones."""

    name: str
    state: str
    routes: int
    first_byte_ms: int | None
    tokens_per_s: int | None


class Snapshot(msgspec.Struct, frozen=True):
    """`unreachable`: ids of models with no route that can be called now."""

    providers: tuple[ProviderState, ...]
    unreachable: tuple[str, ...]
    total: int

    @property
    def state(self) -> str:
        if self.unreachable:
            return "down"
        return "up" if all(each.state == "up" for each in self.providers) else "shaky"


def snapshot(catalog: Catalog, health: Health) -> Snapshot:
    by_provider: dict[str, list[Route]] = {}
    unreachable = []
    for model in catalog.models.values():
        for route in model.routes:
            by_provider.setdefault(route.upstream.provider, []).append(route)
        if all(health.rank(route) is None for route in model.routes):
            unreachable.append(model.id)
    providers = [_provider(name, routes, health) for name, routes in by_provider.items()]
    providers.sort(key=lambda each: (STATES.index(each.state), -each.routes, each.name))
    return Snapshot(tuple(providers), tuple(unreachable), len(catalog.models))


def _provider(name: str, routes: list[Route], health: Health) -> ProviderState:
    states = {models.state(route, health) for route in routes}
    return ProviderState(
        name=name,
        state=next(state for state in STATES if state in states),
        routes=len(routes),
        first_byte_ms=_median([latency for route in routes if (latency := health.latency(route)) >= 0]),
        tokens_per_s=_median([speed for route in routes if (speed := health.throughput(route)) != float("inf")]),
    )


def _median(values: list[float]) -> int | None:
    return round(sorted(values)[len(values) // 2]) if values else None


async def status(visit: Visit) -> Response:
    return visit.render("public/status.html", seen=snapshot(visit.shared.catalog(), visit.shared.health))


PAGES = (Page("GET", "/status", ANYONE, status),)
