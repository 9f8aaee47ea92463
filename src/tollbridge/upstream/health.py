"""Which upstreams may be called now: one breaker each, told of every attempt."""

import time
from collections.abc import Callable, Sequence

from tollbridge.core.retry import COUNTS_AGAINST_UPSTREAM, Breaker, Kind
from tollbridge.values import Route

DEFAULT_COOL_S = 5.0
# An upstream that is out of credit stays so until somebody pays; asked again this often.
OUT_OF_CREDIT_COOL_S = 60.0


class Health:
    """`clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    def rank(self, route: Route) -> int | None:
        """None: it may not be called now; 0: it may; 1: it may, but others should be asked first."""
        breaker = self._breakers.get(route.upstream.name)
        if breaker is None:
            return 0
        now = self._clock()
        return int(breaker.shaky(now)) if breaker.usable(now) else None

    def usable_in(self, routes: Sequence[Route]) -> float:
        """Seconds until the first of `routes` may be called."""
        now = self._clock()
        return min((self._breaker(route).opens_in(now) for route in routes), default=0.0)

    def begin(self, route: Route) -> None:
        self._breaker(route).begin(self._clock())

    def succeeded(self, route: Route) -> None:
        self._breaker(route).succeeded(self._clock())

    def failed(self, route: Route, kind: Kind, retry_after: float | None = None) -> None:
        """An attempt failed. What the caller or our own money did wrong is no failure of the upstream."""
        breaker, now = self._breaker(route), self._clock()
        if kind in COUNTS_AGAINST_UPSTREAM:
            breaker.failed(now)
            return
        if kind is Kind.LIMITED:
            breaker.cool(now, DEFAULT_COOL_S if retry_after is None else retry_after)
        elif kind is Kind.OUT_OF_CREDIT:
            breaker.cool(now, OUT_OF_CREDIT_COOL_S)
        breaker.abandoned()

    def abandoned(self, route: Route) -> None:
        """An attempt ended without telling anything (the caller left)."""
        self._breaker(route).abandoned()

    def _breaker(self, route: Route) -> Breaker:
        name = route.upstream.name
        found = self._breakers.get(name)
        if found is None:
            found = self._breakers[name] = Breaker()
        return found
