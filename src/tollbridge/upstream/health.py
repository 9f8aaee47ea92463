"""Which upstreams may be called now, and how fast they are. It is told of every attempt.

Rule 1  A breaker belongs to one credential, the operator's at an upstream or a customer's own: what is wrong with a
        customer's key opens only that key's breaker.
Rule 2  A speed belongs to a model at an upstream, whoever pays. It is a running mean in which the latest answer counts
        for an eighth.
Rule 3  The log says why an upstream is not called, or cannot be until the operator does something; each cause
        at each upstream no more than once a minute.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from math import inf

import msgspec

from tollbridge.core.retry import COUNTS_AGAINST_UPSTREAM, Breaker, Kind
from tollbridge.values import Route

DEFAULT_COOL_S = 5.0
# The most credentials of customers that have a breaker each.
OWNERS_REMEMBERED = 10_000
# A shorter answer says nothing about speed.
LEAST_TOKENS = 16
# No provider writes faster.
MOST_TOKENS_PER_MS = 10

_SHARE = 0.125

COMPLAIN_S = 60.0
# One such failure says that all calls will fail, or that more are asked than can be made, until the operator does
# something.
_FOR_THE_OPERATOR = frozenset({Kind.CREDENTIAL, Kind.OUT_OF_CREDIT, Kind.UNKNOWN_MODEL, Kind.BUSY})

_log = logging.getLogger(__name__)


class Speed(msgspec.Struct, gc=False):
    """Running means, in milliseconds and tokens per second; None: nothing measured yet."""

    first_byte_ms: float | None = None
    tokens_per_s: float | None = None


class Tally(msgspec.Struct, gc=False):
    """Attempts at an upstream since the process started, whoever paid."""

    attempts: int = 0
    failures: dict[Kind, int] = msgspec.field(default_factory=dict)


class Health:
    """`clock` is monotonic seconds. `tallies`: by the upstream's name, for others to read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # By the upstream's name, or by the `owner` of the credential. One that was never in trouble has no entry.
        self._breakers: dict[str | int, Breaker] = {}
        self._own: deque[int] = deque()
        self._speeds: dict[tuple[str, str], Speed] = {}
        self.tallies: dict[str, Tally] = {}
        # By the upstream's name, whoever paid: when a call succeeded last.
        self._well_at: dict[str, float] = {}
        # By the upstream's name and what is wrong: when the log may say so again.
        self._complain_at: dict[tuple[str, Kind], float] = {}

    def rank(self, route: Route) -> int | None:
        """None: it may not be called now; 0: it may; 1: it may, but others should be asked first."""
        if not self._breakers or (breaker := self._known(route)) is None:
            return 0
        now = self._clock()
        return int(breaker.shaky(now)) if breaker.usable(now) else None

    def usable_in(self, routes: Sequence[Route]) -> float:
        """Seconds until the first of `routes` may be called."""
        now = self._clock()
        return min((self._breaker(route).opens_in(now) for route in routes), default=0.0)

    def begin(self, route: Route) -> None:
        if self._breakers and (breaker := self._known(route)) is not None:
            breaker.begin(self._clock())
        tally = self.tallies.get(route.upstream.name) or self._tally(route)
        tally.attempts += 1

    def succeeded(self, route: Route) -> None:
        self._well_at[route.upstream.name] = self._clock()
        if self._breakers and (breaker := self._known(route)) is not None:
            breaker.succeeded(self._clock())

    def failed(
        self, route: Route, kind: Kind, retry_after: float | None = None, why: str = "", seconds: float = 0.0
    ) -> None:
        """An attempt failed. What the caller or our own account did wrong is no failure of the upstream.

        `why`: for the log. `seconds`: how long the attempt took.
        A customer's credential that was refused or is out of credit stays in use: it may be all that they want to use,
        and then they are told each time what is wrong with it. Other routes, if there are any, go first.
        """
        breaker, now = self._breaker(route), self._clock()
        failures = self._tally(route).failures
        failures[kind] = failures.get(kind, 0) + 1
        if kind in COUNTS_AGAINST_UPSTREAM:
            breaker.failed(now, now - seconds, self._well_at.get(route.upstream.name, -inf))
            if not breaker.usable(now):
                self._complain(route, kind, why, now)
            return
        if kind in _FOR_THE_OPERATOR:
            self._complain(route, kind, why, now)
        if kind is Kind.LIMITED:
            breaker.cool(now, DEFAULT_COOL_S if retry_after is None else retry_after)
        elif kind is Kind.OUT_OF_CREDIT and not route.upstream.owner:
            breaker.exhausted(now)
        elif kind in (Kind.CREDENTIAL, Kind.OUT_OF_CREDIT):
            breaker.doubt(now)
        breaker.abandoned()

    def _complain(self, route: Route, kind: Kind, why: str, now: float) -> None:
        name = route.upstream.name
        if not route.upstream.owner and now >= self._complain_at.get((name, kind), now):
            self._complain_at[name, kind] = now + COMPLAIN_S
            _log.warning("calls of %s at the provider %s fail: %s (%s)", route.upstream_model, name, kind.value, why)

    def reconsider(self) -> None:
        """The operator may have mended what was wrong, or replaced a credential: the next calls find out."""
        now = self._clock()
        for breaker in self._breakers.values():
            breaker.reconsider(now)

    def abandoned(self, route: Route) -> None:
        """An attempt ended without telling anything about the upstream (the caller left)."""
        breaker = self._known(route)
        if breaker is not None:
            breaker.abandoned()

    def passed(self, route: Route) -> None:
        """An attempt went elsewhere, because there was no connection to spare: counted, and nothing is wrong."""
        failures = self._tally(route).failures
        failures[Kind.BUSY] = failures.get(Kind.BUSY, 0) + 1
        self.abandoned(route)

    def measured(self, route: Route, first_byte_ms: int | None, tokens: int, ms: int) -> None:
        """An answer of `tokens` tokens came in `ms`, counted from its first byte if `first_byte_ms` is known."""
        key = (route.upstream.name, route.upstream_model)
        speed = self._speeds.get(key)
        if speed is None:
            speed = self._speeds[key] = Speed()
        if first_byte_ms is not None:
            known = speed.first_byte_ms
            speed.first_byte_ms = float(first_byte_ms if known is None else known + (first_byte_ms - known) * _SHARE)
            if tokens > ms * MOST_TOKENS_PER_MS:
                ms += first_byte_ms  # it came all at once: its tokens were written before its first byte
        if tokens >= LEAST_TOKENS and ms > 0:
            latest, mean = tokens * 1000 / ms, speed.tokens_per_s
            speed.tokens_per_s = latest if mean is None else mean + (latest - mean) * _SHARE

    def latency(self, route: Route) -> float:
        """Milliseconds to the first byte; negative if not measured yet, so that the route is tried and measured."""
        speed = self._speeds.get((route.upstream.name, route.upstream_model))
        return -1.0 if speed is None or speed.first_byte_ms is None else speed.first_byte_ms

    def throughput(self, route: Route) -> float:
        """Tokens per second; infinite if not measured yet, so that the route is tried and measured."""
        speed = self._speeds.get((route.upstream.name, route.upstream_model))
        return float("inf") if speed is None or speed.tokens_per_s is None else speed.tokens_per_s

    def _tally(self, route: Route) -> Tally:
        name = route.upstream.name
        tally = self.tallies.get(name)
        if tally is None:
            tally = self.tallies[name] = Tally()
        return tally

    def _known(self, route: Route) -> Breaker | None:
        upstream = route.upstream
        return self._breakers.get(upstream.owner or upstream.name)

    def _breaker(self, route: Route) -> Breaker:
        upstream, found = route.upstream, self._known(route)
        if found is None:
            found = self._breakers[upstream.owner or upstream.name] = Breaker()
            if upstream.owner:
                self._own.append(upstream.owner)
                if len(self._own) > OWNERS_REMEMBERED:
                    del self._breakers[self._own.popleft()]
        return found
