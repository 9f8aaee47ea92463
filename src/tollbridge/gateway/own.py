"""Bring your own key: routes that a customer's own credential pays for.

Such a route is ours with another credential. The provider bills the customer, so that it costs the operator nothing;
the customer pays a share of the route's price as a fee. Its terms are a price version like any other, so that the
books can be checked in the same way.

Rule 1  Connections are shared with the operator's own calls: a credential stands in the headers of one call alone.
Rule 2  What is wrong with the credential is the customer's to mend, and opens no breaker of ours (`upstream.health`).
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tollbridge.core.money import PPM
from tollbridge.values import Price, Route

NOTHING = Price(input=0, output=0, cache_read=0, cache_write=0, cache_write_1h=0)
# Before all routes that cost the full price, and each credential before the next. Routes have orders up to 1,000.
_FIRST = -1_000_000
_APART = 10_000


class OwnCredential(msgspec.Struct, frozen=True):
    """A customer's credential at a provider. `only`: models that it serves are never called with ours."""

    id: int
    provider: str
    credential: str
    only: bool

    def __repr__(self) -> str:
        return f"OwnCredential({self.id}, {self.provider})"


class OwnRoutes:
    """`fee_ppm`: the share of the price that is the fee. `register` gives routes the versions of their terms."""

    def __init__(self, fee_ppm: int, register: Callable[[Sequence[Route]], Awaitable[Sequence[int]]]) -> None:
        self._fee_ppm = fee_ppm
        self._register = register
        # By the version of the terms that they were made of: as many as the catalog has routes.
        self._priced: dict[int, Route] = {}

    async def of(self, own: Sequence[OwnCredential], routes: Sequence[Route]) -> Sequence[Route]:
        """`routes`, and before them those that one of `own` pays for; these alone where a credential is the `only`."""
        made: list[Route] = []
        only = False
        for place, credential in enumerate(own):
            for route in routes:
                if route.upstream.provider == credential.provider:
                    order = _FIRST + place * _APART + route.order
                    made.append(_with(await self._price(route), credential, order))
                    only = only or credential.only
        return made if only else (*made, *routes)

    async def _price(self, route: Route) -> Route:
        known = self._priced.get(route.version)
        if known is None:
            fee = -(-route.multiplier_ppm * self._fee_ppm // PPM)
            priced = msgspec.structs.replace(route, cost=NOTHING, multiplier_ppm=fee, variants=())
            [version] = await self._register([priced])
            known = self._priced[route.version] = msgspec.structs.replace(priced, version=version)
        return known


def _with(route: Route, own: OwnCredential, order: int) -> Route:
    upstream = msgspec.structs.replace(route.upstream, credential=own.credential, owner=own.id)
    return msgspec.structs.replace(route, upstream=upstream, order=order)
