"""What only the limiter of one process must do."""

import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.limits.base import Exceeded, Free, Grant, Room, Rule, Scope
from tollbridge.limits.memory import MemoryLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def take(limiter: MemoryLimiter, request: int, scope: Scope, tokens: int = 0) -> Any:
    return at_once(limiter.take(request, [scope], 0, tokens))


def at_once(said: Coroutine[Any, Any, Any]) -> Any:
    """It never waits: the first step of the coroutine is its last."""
    try:
        said.send(None)
    except StopIteration as done:
        return done.value


@dataclass
class Call:
    grant: Grant
    used: int
    began: float
    ended: float | None = None


@pytest.mark.parametrize("strict", [True, False])
def test_ten_thousand_patterns_of_arrivals(strict: bool) -> None:
    """D1: in any 60 s requests, and tokens as they were used, stay within their bound.

    Even refill: the limit, what refills, and of tokens what calls that began earlier give back.
    """
    chance = random.Random(1)
    for _ in range(5_000):
        _one_pattern(chance, strict)


def _one_pattern(chance: random.Random, strict: bool) -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    requests, tokens = chance.randint(1, 8), chance.randint(20, 200)
    scope = Scope("account/1", Rule(requests=requests, tokens=tokens, strict=strict))
    pause = chance.choice([0.0, 0.5, 5.0, 20.0])
    calls: list[Call] = []
    for number in range(20):
        clock.now += chance.choice([0.0, chance.uniform(0, pause), 59.999 if pause else 0.0])
        running = [call for call in calls if call.ended is None]
        if running and chance.random() < 0.5:
            call = chance.choice(running)
            limiter.give_back(call.grant, call.used)
            call.ended = clock.now
        grant = take(limiter, number, scope, chance.randint(0, 60))
        if isinstance(grant, Grant):
            calls.append(Call(grant, chance.randint(0, min(grant.tokens, tokens)), clock.now))
        since = clock.now - 60
        minute = [call for call in calls if call.began > since]
        late = sum(
            min(call.grant.tokens, tokens) - call.used
            for call in calls
            if call.began <= since and call.ended is not None and call.ended > since
        )
        assert len(minute) <= (requests if strict else 2 * requests)
        assert sum(call.used for call in minute) <= (tokens if strict else 2 * tokens + late)


@pytest.mark.parametrize("strict", [True, False])
def test_a_clock_that_jumps_neither_frees_nor_freezes(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    """D10: the time of day is not what limits go by."""
    limiter = MemoryLimiter()
    scope = Scope("account/1", Rule(requests=20, strict=strict))
    today = time.time
    for number in range(20):
        jump = 3_600 * (-1) ** number
        monkeypatch.setattr(time, "time", lambda jump=jump: today() + jump)
        monkeypatch.setattr(time, "time_ns", lambda jump=jump: int((today() + jump) * 1e9))
        assert isinstance(take(limiter, number, scope), Grant)
    refused = take(limiter, 99, scope)
    assert isinstance(refused, Exceeded)
    assert 0 < refused.retry_after <= 60


def test_idle_scopes_are_forgotten() -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)

    def scope(number: int) -> Scope:
        return Scope(f"account/{number}", Rule(requests=5, tokens=5, concurrency=1, strict=number % 2 == 0))

    for number in range(100):
        grant = take(limiter, number, scope(number))
        assert isinstance(grant, Grant)
        limiter.give_back(grant, 0)
    clock.now += 200
    take(limiter, 100, scope(100))
    assert len(limiter._scopes) == 1


@given(
    st.sampled_from([1, 7, 60, 3_000, 10**9]),
    st.booleans(),
    st.lists(st.tuples(st.floats(0, 90), st.integers(0, 5_000), st.integers(0, 5_000)), min_size=1, max_size=12),
)
def test_what_a_take_says_is_left_is_what_a_look_finds(
    limit: int, strict: bool, calls: list[tuple[float, int, int]]
) -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    scopes = [Scope("account/1", Rule(requests=limit, tokens=limit, strict=strict))]
    for number, (pause, tokens, used) in enumerate(calls):
        clock.now += pause
        grant = take(limiter, number, scopes[0], tokens)
        counters = limiter._scopes["account/1"]
        assert counters.requests is not None
        assert counters.tokens is not None
        left = counters.requests.room(clock.now), counters.tokens.room(clock.now)
        assert (grant.requests_room, grant.tokens_room) == left
        if isinstance(grant, Grant):
            limiter.give_back(grant, used)


rules = st.builds(
    Rule,
    requests=st.none() | st.integers(1, 6),
    tokens=st.none() | st.integers(1, 300),
    concurrency=st.none() | st.integers(1, 3),
    strict=st.booleans(),
)


@given(
    st.lists(rules, min_size=1, max_size=3),
    st.lists(
        st.tuples(st.floats(0, 40), st.integers(0, 320), st.integers(0, 99), st.none() | st.integers(0, 400)),
        min_size=1,
        max_size=25,
    ),
)
def test_a_take_says_what_a_look_says_and_takes_nothing_where_it_refuses(
    kinds: list[Rule], calls: list[tuple[float, int, int, int | None]]
) -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    scopes = [Scope(f"scope/{number}", rule) for number, rule in enumerate(kinds)]
    for number, (pause, least, more, used) in enumerate(calls):
        clock.now += pause
        tokens = least + more
        before = _state(limiter, scopes, clock.now)
        looked = at_once(limiter.look(scopes, least, tokens))
        taken = at_once(limiter.take(number, scopes, least, tokens))
        if isinstance(looked, Free):
            assert isinstance(taken, Grant)
            if used is not None:
                limiter.give_back(taken, used)
        else:
            assert isinstance(taken, Exceeded)
            assert (taken.type, taken.limit, taken.hopeless) == (looked.type, looked.limit, looked.hopeless)
            assert taken.retry_after == pytest.approx(looked.retry_after, abs=1e-9)
            assert _state(limiter, scopes, clock.now) == before


def _state(limiter: MemoryLimiter, scopes: list[Scope], now: float) -> list[Any]:
    def told(room: Room) -> tuple[int, int, float]:
        return room.limit, room.remaining, round(room.reset, 6)

    found: list[Any] = []
    for scope in scopes:
        counters = limiter._of(scope)
        found.append(set(counters.places))
        found += [told(each.room(now)) for each in (counters.requests, counters.tokens) if each is not None]
    return found


@pytest.mark.parametrize("strict", [True, False])
def test_what_was_taken_is_what_the_minute_still_holds(strict: bool) -> None:
    clock = Clock()
    limiter = MemoryLimiter(clock)
    both = Scope("both", Rule(requests=10, tokens=100, strict=strict))
    scopes = [both, Scope("few", Rule(requests=10, strict=strict)), Scope("long", Rule(tokens=100, strict=strict))]
    for number, scope in enumerate(scopes):
        take(limiter, number, scope, tokens=30)
    limiter.give_back(take(limiter, 9, both, tokens=30), 20)
    assert [(scope.name, *counts) for scope, *counts in limiter.taken()] == [
        ("both", 2, 50),
        ("few", 1, 0),
        ("long", 0, 30),
    ]
    clock.now += 60
    assert limiter.taken() == []
