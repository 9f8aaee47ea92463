"""What every limiter must do. Another backend adds a row to `limiter`."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence

import pytest

from tollbridge.limits.base import Exceeded, Free, Grant, Limiter, Rule, Scope
from tollbridge.limits.memory import MemoryLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=[MemoryLimiter])
def limiter(request: pytest.FixtureRequest, clock: Clock) -> Limiter:
    make: Callable[[Clock], Limiter] = request.param
    return make(clock)


def take(limiter: Limiter, request: int, *scopes: Scope, least: int = 0, tokens: int = 0) -> Grant | Exceeded:
    return asyncio.run(limiter.take(request, scopes, least, tokens))


def scope(name: str = "account/1", **rule: object) -> Scope:
    return Scope(name, Rule(**rule))  # type: ignore[arg-type]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("seed", range(60))
def test_no_minute_brings_more_than_its_bound(limiter: Limiter, clock: Clock, strict: bool, seed: int) -> None:
    """D1: strict, never more than the limit in any 60 s; otherwise at most the limit and what refills."""
    chance = random.Random(seed)
    limit = chance.randint(1, 40)
    rule = scope(requests=limit, strict=strict)
    admitted: deque[float] = deque()
    for request in range(600):
        clock.now += chance.choice([0.0, 0.0, 0.01, chance.uniform(0, 5), 59.99, 30.0])
        if isinstance(take(limiter, request, rule), Grant):
            admitted.append(clock.now)
        while admitted and admitted[0] <= clock.now - 60:
            admitted.popleft()
        assert len(admitted) <= (limit if strict else 2 * limit)


@pytest.mark.parametrize("strict", [True, False])
def test_retry_after_is_true(limiter: Limiter, clock: Clock, strict: bool) -> None:
    rule = scope(requests=3, tokens=100, strict=strict)
    for request in range(3):
        assert isinstance(take(limiter, request, rule, tokens=10), Grant)
        clock.now += 1
    refused = take(limiter, 9, rule, tokens=10)
    assert isinstance(refused, Exceeded)
    assert refused.type == "requests"
    clock.now += refused.retry_after - 0.01
    assert isinstance(take(limiter, 10, rule, tokens=10), Exceeded)
    clock.now += 0.02
    assert isinstance(take(limiter, 11, rule, tokens=10), Grant)


@pytest.mark.parametrize("strict", [True, False])
def test_all_scopes_are_taken_or_none(limiter: Limiter, strict: bool) -> None:
    wide = scope("account/1", requests=10, tokens=1000, concurrency=5, strict=strict)
    narrow = scope("key/1", requests=1, strict=strict)
    assert isinstance(take(limiter, 1, wide, narrow), Grant)
    refused = [take(limiter, request, wide, narrow) for request in range(2, 30)]
    assert all(isinstance(each, Exceeded) for each in refused)
    granted = take(limiter, 40, wide)
    assert isinstance(granted, Grant)
    assert granted.requests_room is not None
    assert granted.requests_room.remaining == 8


@pytest.mark.parametrize("strict", [True, False])
def test_tokens_are_reserved_and_corrected(limiter: Limiter, strict: bool) -> None:
    rule = scope(tokens=1000, strict=strict)
    grant = take(limiter, 1, rule, least=100, tokens=900)
    assert isinstance(grant, Grant)
    refused = take(limiter, 2, rule, tokens=200)
    assert isinstance(refused, Exceeded)
    assert refused.type == "tokens"
    limiter.give_back(grant, 300)
    assert isinstance(take(limiter, 3, rule, tokens=700), Grant)
    assert isinstance(take(limiter, 4, rule, tokens=1), Exceeded)


@pytest.mark.parametrize("strict", [True, False])
def test_use_beyond_the_estimate_is_owed(limiter: Limiter, clock: Clock, strict: bool) -> None:
    rule = scope(tokens=100, strict=strict)
    grant = take(limiter, 1, rule, tokens=10)
    assert isinstance(grant, Grant)
    limiter.give_back(grant, 150)
    clock.now += 29
    assert isinstance(take(limiter, 2, rule, tokens=1), Exceeded)
    clock.now += 32
    assert isinstance(take(limiter, 3, rule, tokens=1), Grant)


def test_input_that_is_larger_than_the_whole_limit_is_hopeless(limiter: Limiter) -> None:
    refused = take(limiter, 1, scope(tokens=100), least=101, tokens=200)
    assert isinstance(refused, Exceeded)
    assert refused.hopeless
    assert isinstance(take(limiter, 2, scope(tokens=100), least=100, tokens=5000), Grant)


def test_places_are_bounded_and_come_back(limiter: Limiter) -> None:
    rule = scope(concurrency=2)
    first = take(limiter, 1, rule)
    assert isinstance(first, Grant)
    assert isinstance(take(limiter, 2, rule), Grant)
    refused = take(limiter, 3, rule)
    assert isinstance(refused, Exceeded)
    assert refused.type == "concurrency"
    limiter.give_back(first, 0)
    limiter.give_back(first, 0)
    assert isinstance(take(limiter, 4, rule), Grant)
    assert isinstance(take(limiter, 5, rule), Exceeded)


@pytest.mark.parametrize("strict", [True, False])
def test_looking_says_what_a_request_would_find_and_takes_nothing(limiter: Limiter, strict: bool) -> None:
    rule = scope(requests=2, tokens=100, concurrency=2, strict=strict)
    for _ in range(10):
        found = asyncio.run(limiter.look([rule], 10, 60))
        assert isinstance(found, Free)
        assert found.requests_room is not None
        assert found.requests_room.remaining == 2
    assert isinstance(take(limiter, 1, rule, least=10, tokens=60), Grant)
    refused = asyncio.run(limiter.look([rule], 10, 60))
    assert isinstance(refused, Exceeded)
    assert refused.type == "tokens"
    assert isinstance(take(limiter, 2, rule, least=10, tokens=40), Grant)


def test_scope_without_limits_admits_everything(limiter: Limiter) -> None:
    granted: Sequence[Grant | Exceeded] = [take(limiter, request, scope(), tokens=10**9) for request in range(100)]
    assert all(isinstance(each, Grant) for each in granted)
    assert take(limiter, 1).requests_room is None


def test_changed_rule_applies_at_once_and_running_calls_keep_their_places(limiter: Limiter) -> None:
    grant = take(limiter, 1, scope(concurrency=2))
    assert isinstance(grant, Grant)
    assert isinstance(take(limiter, 2, scope(concurrency=1)), Exceeded)


def test_idle_scopes_are_forgotten(clock: Clock) -> None:
    limiter = MemoryLimiter(clock)
    for number in range(100):
        grant = take(limiter, number, scope(f"account/{number}", requests=5, tokens=5, strict=number % 2 == 0))
        assert isinstance(grant, Grant)
        limiter.give_back(grant, 0)
    clock.now += 200
    take(limiter, 1, scope("account/x", requests=5))
    assert len(limiter._scopes) == 1
