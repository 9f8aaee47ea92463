"""Limits of one process. Never waits, so that `take` is atomic on the event loop."""

import time
from collections import deque
from collections.abc import Callable, Sequence

from tollbridge.limits.base import WINDOW_S, Exceeded, Free, Grant, Room, Rule, Scope

# A place whose call never gave it back (it should not happen) is free again after this long.
PLACE_TTL_S = 1_800.0
FORGET_EVERY_S = 60.0


class _Log:
    """A strict limit: what was taken in the last 60 seconds, entry by entry."""

    __slots__ = ("entries", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.entries: deque[list[float]] = deque()  # [when, amount]

    def wait(self, amount: int, now: float) -> float:
        """Seconds until `amount` fits; 0 when it does now."""
        horizon = now - WINDOW_S
        entries = self.entries
        while entries and entries[0][0] <= horizon:
            self.used -= int(entries.popleft()[1])
        over = self.used + amount - self.limit
        if over <= 0:
            return 0.0
        for when, taken in entries:
            over -= int(taken)
            if over <= 0:
                return when + WINDOW_S - now
        return WINDOW_S

    def take(self, amount: int, now: float) -> list[float]:
        entry = [now, float(amount)]
        self.entries.append(entry)
        self.used += amount
        return entry

    def correct(self, entry: object, difference: int, now: float) -> None:
        if isinstance(entry, list) and entry[0] > now - WINDOW_S:
            entry[1] += difference
            self.used += difference

    def room(self, now: float) -> Room:
        reset = self.entries[-1][0] + WINDOW_S - now if self.entries else 0.0
        return Room(self.limit, max(0, self.limit - self.used), max(0.0, reset))

    def idle(self, now: float) -> bool:
        return not self.entries or self.entries[-1][0] <= now - WINDOW_S


class _Bucket:
    """A limit that refills evenly: the generic cell rate algorithm, kept as the time when it would be full again."""

    __slots__ = ("full_at", "limit", "per_unit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.per_unit = WINDOW_S / limit
        self.full_at = 0.0

    def wait(self, amount: int, now: float) -> float:
        return max(0.0, max(self.full_at, now) + amount * self.per_unit - now - WINDOW_S - 1e-9)

    def take(self, amount: int, now: float) -> None:
        self.full_at = max(self.full_at, now) + amount * self.per_unit

    def correct(self, entry: object, difference: int, now: float) -> None:
        self.full_at = max(now, self.full_at + difference * self.per_unit)

    def room(self, now: float) -> Room:
        empty = max(0.0, self.full_at - now)
        return Room(self.limit, max(0, int((WINDOW_S - empty) / self.per_unit + 1e-6)), empty)

    def idle(self, now: float) -> bool:
        return self.full_at <= now


class _Counters:
    """The state of one scope."""

    __slots__ = ("places", "requests", "rule", "tokens")

    def __init__(self, rule: Rule) -> None:
        kind = _Log if rule.strict else _Bucket
        self.rule = rule
        self.requests = kind(rule.requests) if rule.requests else None
        self.tokens = kind(rule.tokens) if rule.tokens else None
        self.places: dict[int, float] = {}

    def full(self, now: float) -> bool:
        limit = self.rule.concurrency
        if limit is None or len(self.places) < limit:
            return False
        for request, expires in list(self.places.items()):
            if expires <= now:
                del self.places[request]
        return len(self.places) >= limit

    def idle(self, now: float) -> bool:
        counters = (self.requests, self.tokens)
        return not self.places and all(counter is None or counter.idle(now) for counter in counters)


class MemoryLimiter:
    """A `Limiter` for one process; `clock` is monotonic seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._scopes: dict[str, _Counters] = {}
        self._forget_at = clock() + FORGET_EVERY_S

    async def take(self, request: int, scopes: Sequence[Scope], least: int, tokens: int) -> Grant | Exceeded:
        now = self._clock()
        if now >= self._forget_at:
            self._forget(now)
        counters = [self._counters(scope) for scope in scopes]
        for each in counters:
            refused = self._refuse(each, counters, least, tokens, now)
            if refused is not None:
                return refused
        notes: list[tuple[_Log | _Bucket, object]] = []
        taken = tokens
        for each in counters:
            if each.requests is not None:
                each.requests.take(1, now)
            if each.tokens is not None:
                notes.append((each.tokens, each.tokens.take(min(taken, each.tokens.limit), now)))
            if each.rule.concurrency is not None:
                each.places[request] = now + PLACE_TTL_S
        return Grant(request, scopes, tokens, *self._rooms(counters, now), notes)

    async def look(self, scopes: Sequence[Scope], least: int, tokens: int) -> Free | Exceeded:
        now = self._clock()
        counters = [self._counters(scope) for scope in scopes]
        for each in counters:
            refused = self._refuse(each, counters, least, tokens, now)
            if refused is not None:
                return refused
        return Free(*self._rooms(counters, now))

    def give_back(self, grant: Grant, used: int) -> None:
        now = self._clock()
        for counter, entry in grant.notes:
            counter.correct(entry, used - min(grant.tokens, counter.limit), now)
        grant.notes.clear()
        for scope in grant.scopes:
            counters = self._scopes.get(scope.name)
            if counters is not None:
                counters.places.pop(grant.request, None)

    def _counters(self, scope: Scope) -> _Counters:
        found = self._scopes.get(scope.name)
        if found is None or (found.rule is not scope.rule and found.rule != scope.rule):
            running = found.places if found is not None else {}
            found = self._scopes[scope.name] = _Counters(scope.rule)
            found.places = running
        return found

    def _refuse(
        self, each: _Counters, counters: list[_Counters], least: int, tokens: int, now: float
    ) -> Exceeded | None:
        if each.tokens is not None:
            limit = each.tokens.limit
            if least > limit:
                return Exceeded("tokens", limit, WINDOW_S, True, *self._rooms(counters, now))
            wait = each.tokens.wait(min(tokens, limit), now)
            if wait > 0:
                return Exceeded("tokens", limit, wait, False, *self._rooms(counters, now))
        if each.requests is not None:
            wait = each.requests.wait(1, now)
            if wait > 0:
                return Exceeded("requests", each.requests.limit, wait, False, *self._rooms(counters, now))
        if each.full(now):
            return Exceeded("concurrency", each.rule.concurrency or 0, 1.0, False, *self._rooms(counters, now))
        return None

    def _rooms(self, counters: list[_Counters], now: float) -> tuple[Room | None, Room | None]:
        if len(counters) == 1:
            requests_only, tokens_only = counters[0].requests, counters[0].tokens
            return (
                requests_only.room(now) if requests_only is not None else None,
                tokens_only.room(now) if tokens_only is not None else None,
            )
        requests = [each.requests.room(now) for each in counters if each.requests is not None]
        tokens = [each.tokens.room(now) for each in counters if each.tokens is not None]
        return _tightest(requests), _tightest(tokens)

    def _forget(self, now: float) -> None:
        self._forget_at = now + FORGET_EVERY_S
        for name, counters in list(self._scopes.items()):
            if counters.idle(now):
                del self._scopes[name]


def _tightest(rooms: list[Room]) -> Room | None:
    return min(rooms, key=lambda room: room.remaining) if rooms else None
