"""Bring your own key: routes that a customer's own credential pays for.

Such a route is one of ours with another credential. The provider bills the customer, so it costs the operator nothing;
the customer pays a share of the route's price as a fee. Its terms are a price version like any other, so the books can
be checked in the same way.

Rule 1  Connections are shared with the operator's own calls: a credential is in the headers of its own call only.
Rule 2  Such a call carries nothing of the operator's account: no header that may name it or authenticate as it.
Rule 3  What is wrong with the credential is for the customer to mend, and opens no breaker of ours (`upstream.health`).
"""

from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tollbridge.core.money import PPM
from tollbridge.upstream.auth import takes_key
from tollbridge.values import Price, Route

NOTHING = Price(input=0, output=0, cache_read=0, cache_write=0, cache_write_1h=0)
# Puts them before all routes at the full price, and each credential's before the next. Routes have orders up to 1,000.
_FIRST = -1_000_000
_APART = 10_000


# Words in the names of configured headers that say whose call it is.
_OF_ACCOUNTS = ("auth", "key", "token", "secret", "cookie", "organization", "project", "account")


class OwnCredential(msgspec.Struct, frozen=True):
    """A customer's credential at a provider. `only`: models that it serves are never called with the operator's."""

    id: int
    provider: str
    credential: str
    only: bool

    def __repr__(self) -> str:
        return f"OwnCredential({self.id}, {self.provider})"


class OwnRoutes:
    """`fee_ppm`: the fee, as a share of the price. `register` returns the price versions of routes' terms."""

    def __init__(self, fee_ppm: int, register: Callable[[Sequence[Route]], Awaitable[Sequence[int]]]) -> None:
        self._fee_ppm = fee_ppm
        self._register = register
        # By the version of the full price, so no more than the catalog has.
        self._versions: dict[int, int] = {}

    async def of(self, own: Sequence[OwnCredential], routes: Sequence[Route]) -> Sequence[Route]:
        """`routes`, after those that one of `own` pays for; only the latter if one of these credentials is `only`."""
        made: list[Route] = []
        only = False
        for place, credential in enumerate(own):
            for route in routes:
                if route.upstream.provider == credential.provider and takes_key(route.upstream.auth):
                    made.append(await self._paid_by(credential, route, _FIRST + place * _APART + route.order))
                    only = only or credential.only
        return made if only else (*made, *routes)

    async def _paid_by(self, own: OwnCredential, route: Route, order: int) -> Route:
        made = msgspec.structs.replace(
            route,
            upstream=msgspec.structs.replace(
                route.upstream,
                credential=own.credential,
                owner=own.id,
                headers=tuple(header for header in route.upstream.headers if not _is_operators(header[0])),
            ),
            cost=NOTHING,
            multiplier_ppm=-(-route.multiplier_ppm * self._fee_ppm // PPM),
            order=order,
            variants=(),
        )
        version = self._versions.get(route.version)
        if version is None:
            [version] = await self._register([made])
            self._versions[route.version] = version
        return msgspec.structs.replace(made, version=version)


def _is_operators(name: str) -> bool:
    return any(word in name.lower() for word in _OF_ACCOUNTS)
