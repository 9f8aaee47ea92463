"""What every limiter must do. Another backend adds a row to `limiter`."""

import asyncio
import itertools
import random
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import pytest
from tests.servers import Valkey

from tollbridge.limits.base import Exceeded, Free, Grant, Limiter, Rule, Scope
from tollbridge.limits.memory import MemoryLimiter
from tollbridge.limits.redis import RedisLimiter

Take = Callable[..., Grant | Exceeded]


class Clock:
    """Seconds, at every limiter's hand: memory's own, and in place of TIME for the script."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(params=["memory", "redis"])
def limiter(request: pytest.FixtureRequest, clock: Clock, runner: asyncio.Runner) -> Iterator[Limiter]:
    if request.param == "memory":
        yield MemoryLimiter(clock)
        return
    shared = ClockedLimiter(request.getfixturevalue("valkey").url(), clock)
    runner.run(shared.start())
    yield shared
    runner.run(shared.stop())


@pytest.fixture(scope="module")
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


class ClockedLimiter(RedisLimiter):
    """One whose script is told the time, with keys of its own."""

    _databases = itertools.count()

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(url, "node")
        self._clock = clock
        self._prefix = f"test{next(self._databases)}:"

    async def start(self) -> None:
        await super().start()
        told = "local now = tonumber(ARGV[4])"
        text, count = re.subn(r"local clock = .*\nlocal now = .*", told, self._script.script)
        assert count == 1
        self._script = self._client.register_script(text)

    async def _call(self, operations: Sequence[dict[str, Any]], within: float) -> list[list[int]]:
        args = [msgspec.json.encode(operations), self._prefix, self._node, int(self._clock.now * 1e6)]
        said: list[Any] = await self._script(args=args)
        return said[1:]


@pytest.fixture
def take(limiter: Limiter, runner: asyncio.Runner) -> Take:
    def take(request: int, *scopes: Scope, least: int = 0, tokens: int = 0) -> Grant | Exceeded:
        return runner.run(limiter.take(request, scopes, least, tokens))

    return take


def scope(name: str = "account/1", **rule: object) -> Scope:
    return Scope(name, Rule(**rule))  # type: ignore[arg-type]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("seed", range(60))
def test_no_minute_brings_more_than_its_bound(
    limiter: Limiter, take: Take, clock: Clock, strict: bool, seed: int
) -> None:
    """D1: strict, never more than the limit in any 60 s; otherwise at most the limit and what refills."""
    chance = random.Random(seed)
    limit = chance.randint(1, 40)
    rule = scope(requests=limit, strict=strict)
    admitted: deque[float] = deque()
    for request in range(600 if isinstance(limiter, MemoryLimiter) else 60):
        clock.now += chance.choice([0.0, 0.0, 0.01, chance.uniform(0, 5), 59.99, 30.0])
        if isinstance(take(request, rule), Grant):
            admitted.append(clock.now)
        while admitted and admitted[0] <= clock.now - 60:
            admitted.popleft()
        assert len(admitted) <= (limit if strict else 2 * limit)


@pytest.mark.parametrize("strict", [True, False])
def test_retry_after_is_true(limiter: Limiter, take: Take, clock: Clock, strict: bool) -> None:
    rule = scope(requests=3, tokens=100, strict=strict)
    for request in range(3):
        assert isinstance(take(request, rule, tokens=10), Grant)
        clock.now += 1
    refused = take(9, rule, tokens=10)
    assert isinstance(refused, Exceeded)
    assert refused.type == "requests"
    clock.now += refused.retry_after - 0.01
    assert isinstance(take(10, rule, tokens=10), Exceeded)
    clock.now += 0.02
    assert isinstance(take(11, rule, tokens=10), Grant)


@pytest.mark.parametrize("strict", [True, False])
def test_all_scopes_are_taken_or_none(limiter: Limiter, take: Take, strict: bool) -> None:
    wide = scope("account/1", requests=10, tokens=1000, concurrency=5, strict=strict)
    narrow = scope("key/1", requests=1, strict=strict)
    assert isinstance(take(1, wide, narrow), Grant)
    refused = [take(request, wide, narrow) for request in range(2, 30)]
    assert all(isinstance(each, Exceeded) for each in refused)
    granted = take(40, wide)
    assert isinstance(granted, Grant)
    assert granted.requests_room is not None
    assert granted.requests_room.remaining == 8


def test_without_scopes_nothing_is_taken_and_nobody_is_asked(limiter: Limiter) -> None:
    """It never waits: the first step of the coroutine is its last."""
    with pytest.raises(StopIteration) as done:
        limiter.take(1, (), 5, 900).send(None)
    grant = done.value.value
    assert grant == Grant(1, (), 0, None, None, [])
    limiter.give_back(grant, 700)


@pytest.mark.parametrize("strict", [True, False])
def test_tokens_are_reserved_and_corrected(limiter: Limiter, take: Take, strict: bool) -> None:
    rule = scope(tokens=1000, strict=strict)
    grant = take(1, rule, least=100, tokens=900)
    assert isinstance(grant, Grant)
    refused = take(2, rule, tokens=200)
    assert isinstance(refused, Exceeded)
    assert refused.type == "tokens"
    limiter.give_back(grant, 300)
    assert isinstance(take(3, rule, tokens=700), Grant)
    assert isinstance(take(4, rule, tokens=1), Exceeded)


@pytest.mark.parametrize("strict", [True, False])
def test_use_beyond_the_estimate_is_owed(limiter: Limiter, take: Take, clock: Clock, strict: bool) -> None:
    rule = scope(tokens=100, strict=strict)
    grant = take(1, rule, tokens=10)
    assert isinstance(grant, Grant)
    limiter.give_back(grant, 150)
    clock.now += 29
    assert isinstance(take(2, rule, tokens=1), Exceeded)
    clock.now += 32
    assert isinstance(take(3, rule, tokens=1), Grant)


def test_input_that_is_larger_than_the_whole_limit_is_hopeless(limiter: Limiter, take: Take) -> None:
    refused = take(1, scope(tokens=100), least=101, tokens=200)
    assert isinstance(refused, Exceeded)
    assert refused.hopeless
    assert isinstance(take(2, scope(tokens=100), least=100, tokens=5000), Grant)


def test_places_are_bounded_and_come_back(limiter: Limiter, take: Take) -> None:
    rule = scope(concurrency=2)
    first = take(1, rule)
    assert isinstance(first, Grant)
    assert isinstance(take(2, rule), Grant)
    refused = take(3, rule)
    assert isinstance(refused, Exceeded)
    assert refused.type == "concurrency"
    limiter.give_back(first, 0)
    limiter.give_back(first, 0)
    assert isinstance(take(4, rule), Grant)
    assert isinstance(take(5, rule), Exceeded)


@pytest.mark.parametrize("strict", [True, False])
def test_looking_says_what_a_request_would_find_and_takes_nothing(
    limiter: Limiter, take: Take, runner: asyncio.Runner, strict: bool
) -> None:
    rule = scope(requests=2, tokens=100, concurrency=2, strict=strict)
    for _ in range(10):
        found = runner.run(limiter.look([rule], 10, 60))
        assert isinstance(found, Free)
        assert found.requests_room is not None
        assert found.requests_room.remaining == 2
    assert isinstance(take(1, rule, least=10, tokens=60), Grant)
    refused = runner.run(limiter.look([rule], 10, 60))
    assert isinstance(refused, Exceeded)
    assert refused.type == "tokens"
    assert isinstance(take(2, rule, least=10, tokens=40), Grant)


def test_scope_without_limits_admits_everything(limiter: Limiter, take: Take) -> None:
    granted: Sequence[Grant | Exceeded] = [take(request, scope(), tokens=10**9) for request in range(100)]
    assert all(isinstance(each, Grant) for each in granted)
    assert take(1).requests_room is None


@pytest.mark.parametrize("strict", [True, False])
def test_who_waits_as_long_as_it_says_is_let_in(limiter: Limiter, take: Take, clock: Clock, strict: bool) -> None:
    """The longest wait of all scopes and kinds counts, not that of the first that refuses."""
    account = scope("account/1", requests=2, tokens=100, strict=strict)
    key = scope("key/1", requests=1, strict=strict)
    assert isinstance(take(1, account, tokens=70), Grant)
    clock.now += 20
    assert isinstance(take(2, key), Grant)
    assert isinstance(take(3, account, tokens=30), Grant)
    refused = take(4, account, key, tokens=40)
    assert isinstance(refused, Exceeded)
    assert refused.type == "requests"
    assert refused.limit == 1
    clock.now += refused.retry_after + 0.001
    assert isinstance(take(5, account, key, tokens=40), Grant)


@pytest.mark.parametrize("strict", [True, False])
def test_refused_calls_cost_nothing(limiter: Limiter, take: Take, clock: Clock, strict: bool) -> None:
    """D11: who asks a hundred times before it is time is let in as early as who waits."""
    rule = scope(requests=2, tokens=100, concurrency=2, strict=strict)
    for request in range(2):
        grant = take(request, rule, tokens=50)
        assert isinstance(grant, Grant)
        limiter.give_back(grant, 50)
    first = take(2, rule, tokens=50)
    assert isinstance(first, Exceeded)
    for request in range(100):
        clock.now += first.retry_after / 101
        assert isinstance(take(3 + request, rule, tokens=50), Exceeded)
    clock.now += first.retry_after / 101 + 0.001
    assert isinstance(take(200, rule, tokens=50), Grant)


@pytest.mark.parametrize("strict", [True, False])
def test_a_changed_limit_is_no_new_minute(limiter: Limiter, take: Take, strict: bool) -> None:
    before, after = scope(requests=3, tokens=90, strict=strict), scope(requests=4, tokens=120, strict=strict)
    grant = take(0, before, tokens=30)
    assert isinstance(grant, Grant)
    assert isinstance(take(1, before, tokens=30), Grant)
    assert isinstance(take(2, before, tokens=30), Grant)
    let_in = [isinstance(take(10 + request, (after, before)[request % 2], tokens=30), Grant) for request in range(20)]
    assert sum(let_in) <= 1
    limiter.give_back(grant, 0)
    found = take(100, scope(tokens=120, strict=strict), tokens=30)
    assert isinstance(found, Grant)


def test_ids_of_64_bits_keep_their_places_apart(limiter: Limiter, take: Take) -> None:
    rule = scope(concurrency=2, tokens=100, strict=True)
    first, second = take(2**62 + 1, rule, tokens=50), take(2**62 + 2, rule, tokens=50)
    assert isinstance(first, Grant)
    assert isinstance(second, Grant)
    assert isinstance(take(2**62 + 3, rule), Exceeded)
    limiter.give_back(first, 0)
    assert isinstance(take(2**62 + 4, rule, tokens=50), Grant)
    assert isinstance(take(2**62 + 5, rule, tokens=1), Exceeded)


def test_changed_rule_applies_at_once_and_running_calls_keep_their_places(limiter: Limiter, take: Take) -> None:
    grant = take(1, scope(concurrency=2))
    assert isinstance(grant, Grant)
    assert isinstance(take(2, scope(concurrency=1)), Exceeded)
