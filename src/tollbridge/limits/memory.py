"""Limits of one process. Never awaits, so `take` is atomic on the event loop."""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar

from tollbridge.limits.base import FULL_RETRY_S, WINDOW_S, Exceeded, Free, Grant, Kind, Room, Rule, Scope, unlimited

# A place whose call never gave it back (which should not happen) is free again after this long.
PLACE_TTL_S = 1_800.0
FORGET_EVERY_S = 60.0
# With a nanosecond of slack for rounding errors.
_WHOLE_S = WINDOW_S + 1e-9


class _Log:
    """A strict limit: what was taken in the last 60 seconds, entry by entry."""

    __slots__ = ("entries", "limit", "used")

    def __init__(self, limit: int) -> None:
        self.used = 0
        self.entries: deque[list[float]] = deque()  # [when, amount]
        self.resize(limit)

    def resize(self, limit: int) -> None:
        self.limit = limit

    def wait(self, amount: int, now: float) -> float:
        """Seconds until `amount` fits; 0 when it does now."""
        over = self.taken(now) + amount - self.limit
        if over <= 0:
            return 0.0
        for when, taken in self.entries:
            over -= int(taken)
            if over <= 0:
                return when + WINDOW_S - now
        return WINDOW_S

    def take(self, amount: int, now: float, asking: bool) -> Room | None:
        """Take and return what is left; the entry is `last`. With `asking`, if it does not fit: None, nothing taken."""
        if asking and self.wait(amount, now):
            return None
        self.entries.append([now, amount])
        self.used += amount
        return self.room(now)

    def undo(self, amount: int) -> None:
        """Undo the last `take`, which was of `amount`."""
        self.entries.pop()
        self.used -= amount

    @property
    def last(self) -> list[float]:
        return self.entries[-1]

    def correct(self, entry: list[float] | None, difference: int, now: float) -> None:
        if entry is not None and entry[0] > now - WINDOW_S:
            entry[1] += difference
            self.used += difference

    def taken(self, now: float) -> int:
        entries = self.entries
        horizon = now - WINDOW_S
        while entries and entries[0][0] <= horizon:
            self.used -= int(entries.popleft()[1])
        return self.used

    def left(self, now: float) -> int:
        return max(0, self.limit - self.taken(now))

    def reset(self, now: float) -> float:
        return max(0.0, self.entries[-1][0] + WINDOW_S - now) if self.entries else 0.0

    def room(self, now: float) -> Room:
        return Room(self.limit, self.left(now), self.reset(now))


class _Bucket:
    """A limit that refills evenly: the generic cell rate algorithm (GCRA), kept as the time when it is full again."""

    __slots__ = ("full_at", "limit", "per_unit")

    last: ClassVar[None] = None  # there are no entries

    def __init__(self, limit: int) -> None:
        self.full_at = 0.0
        self.resize(limit)

    def resize(self, limit: int) -> None:
        """What is left stays the same share of the limit."""
        self.limit = limit
        self.per_unit = WINDOW_S / limit

    def wait(self, amount: int, now: float) -> float:
        """As in `_Log`, for an `amount` up to the limit."""
        if self.full_at <= now:
            return 0.0
        over = amount * self.per_unit - _WHOLE_S + (self.full_at - now)
        return over if over > 0 else 0.0

    def take(self, amount: int, now: float, asking: bool) -> Room | None:
        """As in `_Log`; returns what `room` would."""
        full_at, per_unit = self.full_at, self.per_unit
        if full_at <= now:
            full_at = now
        elif asking and self.wait(amount, now):
            return None
        self.full_at = full_at = full_at + amount * per_unit
        empty = full_at - now
        left = int((WINDOW_S - empty) / per_unit + 1e-6)
        return Room(self.limit, left if left > 0 else 0, empty)

    def undo(self, amount: int) -> None:
        self.full_at -= amount * self.per_unit

    def correct(self, entry: list[float] | None, difference: int, now: float) -> None:
        self.full_at = max(now, self.full_at) + difference * self.per_unit

    def taken(self, now: float) -> int:
        return self.limit - self.left(now)

    def left(self, now: float) -> int:
        return self.room(now).remaining

    def reset(self, now: float) -> float:
        return max(0.0, self.full_at - now)

    def room(self, now: float) -> Room:
        empty = self.full_at - now
        if empty <= 0:
            return Room(self.limit, self.limit, 0.0)
        left = int((WINDOW_S - empty) / self.per_unit + 1e-6)
        return Room(self.limit, left if left > 0 else 0, empty)


_Counter = _Log | _Bucket
# What was taken from a scope: from which counter of tokens, how much, and its entry if the counter is a log.
Note = tuple["_Counters", _Counter | None, int, list[float] | None]


class _Counters:
    """The state of one scope. It outlives a change of the rule: a new limit does not start a new minute."""

    __slots__ = ("places", "requests", "rule", "tokens")

    def __init__(self, rule: Rule) -> None:
        self.requests: _Counter | None = None
        self.tokens: _Counter | None = None
        self.places: dict[int, float] = {}
        self.change(rule)

    def change(self, rule: Rule) -> None:
        self.rule = rule
        self.requests = _resized(self.requests, rule.requests, rule.strict)
        self.tokens = _resized(self.tokens, rule.tokens, rule.strict)

    def take(self, grant: Grant, least: int, now: float, asking: bool) -> bool:
        """Take what `grant` is for and note it there. With `asking`, if it does not fit: False, and nothing taken."""
        places = self.rule.concurrency
        if places is not None and asking and len(self.places) >= places and self.full(now):
            return False
        tokens, amount, entry = self.tokens, 0, None
        if tokens is not None:
            amount = grant.tokens
            if amount > tokens.limit:
                if least > tokens.limit:
                    return False
                amount = tokens.limit
            room = tokens.take(amount, now, asking)
            if room is None:
                return False
            entry = tokens.last
            if grant.tokens_room is None or room.remaining < grant.tokens_room.remaining:
                grant.tokens_room = room
        if self.requests is not None:
            room = self.requests.take(1, now, asking)
            if room is None:
                if tokens is not None:
                    tokens.undo(amount)
                return False
            if grant.requests_room is None or room.remaining < grant.requests_room.remaining:
                grant.requests_room = room
        if places is not None:
            self.places[grant.request] = now + PLACE_TTL_S
        grant.notes.append((self, tokens, amount, entry))
        return True

    def full(self, now: float) -> bool:
        """Whether all places are taken, after freeing those that have expired."""
        for request, expires in list(self.places.items()):
            if expires <= now:
                del self.places[request]
        return self.rule.concurrency is not None and len(self.places) >= self.rule.concurrency

    def idle(self, now: float) -> bool:
        counters = (self.requests, self.tokens)
        return not self.places and all(counter is None or not counter.reset(now) for counter in counters)


class MemoryLimiter:
    """A `Limiter` for one process; `clock` is monotonic seconds."""

    degraded = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._scopes: dict[str, _Counters] = {}
        self._forget_at = clock() + FORGET_EVERY_S

    async def take(self, request: int, scopes: Sequence[Scope], least: int, tokens: int) -> Grant | Exceeded:
        if not scopes:
            return unlimited(request)
        now = self._clock()
        if now >= self._forget_at:
            self._forget(now)
        grant = Grant(request, scopes, tokens, None, None, [])
        for scope in scopes:
            counters = self._scopes.get(scope.name)
            if counters is None or counters.rule is not scope.rule:
                counters = self._of(scope)
            if not counters.take(grant, least, now, True):
                return self._refused(grant, least, now)
        return grant

    async def look(self, scopes: Sequence[Scope], least: int, tokens: int) -> Free | Exceeded:
        now = self._clock()
        counters = [self._of(scope) for scope in scopes]
        return _refusal(counters, least, tokens, now) or Free(*_rooms(counters, now))

    def record(self, request: int, scopes: Sequence[Scope], tokens: int) -> list[Note]:
        """Take without asking, for what was admitted elsewhere. The notes belong in its grant."""
        now = self._clock()
        if now >= self._forget_at:
            self._forget(now)
        grant = Grant(request, scopes, tokens, None, None, [])
        for scope in scopes:
            self._of(scope).take(grant, 0, now, False)
        return grant.notes

    def give_back(self, grant: Grant, used: int) -> None:
        notes = grant.notes
        if notes:
            grant.notes = []
            now = self._clock()
            for counters, counter, amount, entry in notes:
                if counter is not None:
                    counter.correct(entry, used - amount, now)
                counters.places.pop(grant.request, None)

    def taken(self) -> list[tuple[Scope, int, int]]:
        """Each scope in use, with the requests and tokens that its minute still holds."""
        now = self._clock()
        found = []
        for name, each in self._scopes.items():
            requests = 0 if each.requests is None else each.requests.taken(now)
            tokens = 0 if each.tokens is None else each.tokens.taken(now)
            if requests or tokens:
                found.append((Scope(name, each.rule), requests, tokens))
        return found

    def _of(self, scope: Scope) -> _Counters:
        counters = self._scopes.get(scope.name)
        if counters is None:
            counters = self._scopes[scope.name] = _Counters(scope.rule)
        elif counters.rule != scope.rule:
            counters.change(scope.rule)
        counters.rule = scope.rule  # the very object, by which `take` recognises it next time
        return counters

    def _refused(self, grant: Grant, least: int, now: float) -> Exceeded:
        """A scope had no room: give back what was taken from the others."""
        for counters, counter, amount, _ in grant.notes:
            if counters.requests is not None:
                counters.requests.undo(1)
            if counter is not None:
                counter.undo(amount)
            counters.places.pop(grant.request, None)
        refusal = _refusal([self._of(scope) for scope in grant.scopes], least, grant.tokens, now)
        assert refusal is not None, "what does not fit is refused"
        return refusal

    def _forget(self, now: float) -> None:
        self._forget_at = now + FORGET_EVERY_S
        for name, counters in list(self._scopes.items()):
            if counters.idle(now):
                del self._scopes[name]


def _resized(counter: _Counter | None, limit: int | None, strict: bool) -> _Counter | None:
    if not limit:
        return None
    kind = _Log if strict else _Bucket
    if type(counter) is not kind:
        return kind(limit)
    counter.resize(limit)
    return counter


def _refusal(counters: Sequence[_Counters], least: int, tokens: int, now: float) -> Exceeded | None:
    """By the limit with the longest wait, so that a caller who waits that long is refused by no other."""
    longest, limit = 0.0, 0
    kind: Kind = "requests"
    for each in counters:
        counter = each.tokens
        if counter is not None:
            if least > counter.limit:
                return Exceeded("tokens", counter.limit, WINDOW_S, True, *_rooms(counters, now))
            wait = counter.wait(tokens if tokens < counter.limit else counter.limit, now)
            if wait > longest:
                longest, kind, limit = wait, "tokens", counter.limit
        counter = each.requests
        if counter is not None:
            wait = counter.wait(1, now)
            if wait > longest:
                longest, kind, limit = wait, "requests", counter.limit
        places = each.rule.concurrency
        if places is not None and len(each.places) >= places and longest < FULL_RETRY_S and each.full(now):
            longest, kind, limit = FULL_RETRY_S, "concurrency", places
    return Exceeded(kind, limit, longest, False, *_rooms(counters, now)) if longest else None


def _rooms(counters: Sequence[_Counters], now: float) -> tuple[Room | None, Room | None]:
    """The rooms of the tightest scope: requests, tokens."""
    requests: Room | None = None
    tokens: Room | None = None
    for each in counters:  # nearly always one
        if each.requests is not None:
            room = each.requests.room(now)
            if requests is None or room.remaining < requests.remaining:
                requests = room
        if each.tokens is not None:
            room = each.tokens.room(now)
            if tokens is None or room.remaining < tokens.remaining:
                tokens = room
    return requests, tokens
