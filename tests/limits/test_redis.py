"""What only shared counters can do wrong: many processes, and a server that is away."""

import asyncio
import functools
import multiprocessing
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from tests.servers import Valkey

from tollbridge.limits import redis
from tollbridge.limits.base import Exceeded, Grant, Rule, Scope
from tollbridge.limits.redis import RedisLimiter

LIMIT = 40
STRICT = Scope("account/1", Rule(requests=LIMIT, strict=True))


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers does so in time, whatever else the machine does."""
    monkeypatch.setattr(redis, "ANSWER_WITHIN_S", 0.9)


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


async def _all(limiter: RedisLimiter, scope: Scope, calls: int, first: int = 0) -> list[Grant | Exceeded]:
    return await asyncio.gather(*(limiter.take(first + number, [scope], 0, 0) for number in range(calls)))


def _admitted(answers: list[Grant | Exceeded]) -> int:
    return sum(isinstance(answer, Grant) for answer in answers)


class PatientLimiter(RedisLimiter):
    """One that waits for a machine with more processes than cores: here only the counting counts."""

    async def _call(self, operations: Sequence[dict[str, Any]], within: float) -> list[list[int]]:
        return await super()._call(operations, 60.0)


def _node(url: str, number: int, calls: int, scope: Scope, admitted: "multiprocessing.Queue[tuple[int, int]]") -> None:
    async def run() -> None:
        limiter = PatientLimiter(url, f"node{number}")
        await limiter.start()
        answers: list[Grant | Exceeded] = []
        for start in range(0, calls, 50):
            answers += await _all(limiter, scope, min(50, calls - start), number * 1_000_000 + start)
        degraded = sum(isinstance(answer, Grant) and answer.degraded for answer in answers)
        await limiter.stop()
        admitted.put((_admitted(answers), degraded))

    asyncio.run(run())


def _race(url: str, nodes: int, calls: int, scope: Scope) -> int:
    context = multiprocessing.get_context("spawn")
    admitted: multiprocessing.Queue[tuple[int, int]] = context.Queue()
    processes = [context.Process(target=_node, args=(url, n, calls, scope, admitted)) for n in range(nodes)]
    for process in processes:
        process.start()
    counts = [admitted.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert [degraded for _, degraded in counts] == [0] * nodes
    return sum(count for count, _ in counts)


def test_a_limit_is_one_limit_on_four_processes(valkey: Valkey) -> None:
    """D3: admitted = allowed, ± 0."""
    assert _race(valkey.url(), 4, 300, Scope("account/1", Rule(requests=700, strict=True))) == 700


@pytest.mark.soak
def test_a_limit_is_one_limit_on_sixteen_processes(valkey: Valkey) -> None:
    """D3: 16 processes, 20,000 calls."""
    assert _race(valkey.url(), 16, 1_250, Scope("account/1", Rule(requests=9_000, strict=True))) == 9_000


def test_places_of_a_process_that_died_come_back(valkey: Valkey) -> None:
    """D7: a slot is a member with a time, kept by the process that lives."""

    async def run() -> None:
        scope = Scope("account/1", Rule(concurrency=2))
        dead, alive = RedisLimiter(valkey.url(), "dead"), RedisLimiter(valkey.url(), "alive")
        await dead.start()
        await alive.start()
        for number in range(2):
            assert isinstance(await dead.take(number, [scope], 0, 0), Grant)
        assert isinstance(await alive.take(7, [scope], 0, 0), Exceeded)
        # As if 90 s had passed since it was last heard of.
        for number in range(2):
            valkey.command("ZADD", "tollbridge:account/1:places", "1", str(number))
        kept = await alive.take(8, [scope], 0, 0)
        assert isinstance(kept, Grant)
        assert isinstance(await alive.take(9, [scope], 0, 0), Grant)
        assert isinstance(await alive.take(10, [scope], 0, 0), Exceeded)
        await dead.stop()
        await alive.stop()

    asyncio.run(run())


@pytest.mark.parametrize("trouble", ["killed", "hung", "script refused"])
def test_each_node_limits_its_share_while_the_server_is_away(
    valkey: Valkey, trouble: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """D4: no error, no wait beyond 50 ms, at most each node's share; afterwards one limit again."""

    async def run() -> None:
        nodes = [RedisLimiter(valkey.url(), f"node{number}") for number in range(2)]
        for node in nodes:
            await node.start()
            await node.look([STRICT], 0, 0)
        await nodes[0].look([STRICT], 0, 0)
        monkeypatch.setattr(redis, "ANSWER_WITHIN_S", 0.05)
        if trouble == "killed":
            valkey.kill()
        elif trouble == "hung":
            valkey.suspend()
        else:
            valkey.command("ACL", "SETUSER", "default", "-evalsha", "-eval")
        admitted, slowest = 0, 0.0
        for node in nodes:
            for number in range(LIMIT * 2):
                started = time.monotonic()
                answer = await node.take(number, [STRICT], 0, 0)
                slowest = max(slowest, time.monotonic() - started)
                admitted += isinstance(answer, Grant)
                assert isinstance(answer, Exceeded) or answer.degraded
            assert node.degraded
        assert admitted == LIMIT
        assert slowest < 0.5  # 50 ms, and what a busy machine adds
        if trouble == "killed":
            valkey.start()
        elif trouble == "hung":
            valkey.resume()
        else:
            valkey.command("ACL", "SETUSER", "default", "+@all")
        monkeypatch.setattr(redis, "ANSWER_WITHIN_S", 0.9)
        for node in nodes:
            await _until(functools.partial(_answers, node))
        fresh = Scope("account/2", STRICT.rule)
        assert sum([_admitted(await _all(node, fresh, LIMIT)) for node in nodes]) == LIMIT
        for node in nodes:
            await node.stop()

    asyncio.run(run())


def test_nodes_know_each_other_again_soon_after_a_server_that_forgot_everything(valkey: Valkey) -> None:
    """Also those which nobody asks: else the first that came back would take the whole limit for its share."""

    async def run() -> None:
        nodes = [RedisLimiter(valkey.url(), f"node{number}") for number in range(3)]
        for node in nodes:
            await node.start()
        valkey.kill()
        for node in nodes:
            await node.take(1, [STRICT], 0, 0)
        valkey.start()
        for node in nodes:
            await _until(functools.partial(_answers, node))
        # Sooner than by what keeps running calls alive.
        await _until(lambda: all(node._nodes == len(nodes) for node in nodes))
        valkey.kill()
        fresh = Scope("account/2", STRICT.rule)
        assert sum([_admitted(await _all(node, fresh, LIMIT)) for node in nodes]) <= LIMIT
        valkey.start()
        for node in nodes:
            await node.stop()

    asyncio.run(run())


def test_a_flush_gives_one_burst_at_most(valkey: Valkey) -> None:
    """D5, twenty times; to forget the script costs nothing."""

    async def run() -> None:
        limiter = RedisLimiter(valkey.url(), "node")
        await limiter.start()
        assert _admitted(await _all(limiter, STRICT, LIMIT * 2)) == LIMIT
        for number in range(1, 21):
            valkey.command("FLUSHALL" if number % 2 else "SCRIPT", *(() if number % 2 else ("FLUSH",)))
            let_in = _admitted(await _all(limiter, STRICT, LIMIT * 2, first=1000 * number))
            assert let_in == (LIMIT if number % 2 else 0)
        assert not limiter.degraded
        await limiter.stop()

    asyncio.run(run())


@pytest.mark.parametrize("strict", [True, False])
def test_a_nodes_clock_that_jumps_neither_frees_nor_freezes(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch, strict: bool
) -> None:
    """D10: the server's clock counts, also for a node that is an hour ahead or behind."""

    async def run() -> None:
        nodes = [RedisLimiter(valkey.url(), f"node{number}") for number in range(2)]
        for node in nodes:
            await node.start()
        scope = Scope("account/1", Rule(requests=20, strict=strict))
        today = time.time
        for number in range(20):
            monkeypatch.setattr(time, "time", lambda jump=3_600 * (-1) ** number: today() + jump)
            assert isinstance(await nodes[number % 2].take(number, [scope], 0, 0), Grant)
        refused = await nodes[0].take(99, [scope], 0, 0)
        assert isinstance(refused, Exceeded)
        assert 0 < refused.retry_after <= 60
        for node in nodes:
            await node.stop()

    asyncio.run(run())


@pytest.mark.parametrize("strict", [True, False])
def test_a_servers_clock_that_is_set_back_refuses_nobody_for_longer_than_a_minute(valkey: Valkey, strict: bool) -> None:
    """Or one that takes over from a server whose clock was ahead."""

    async def run() -> None:
        limiter = RedisLimiter(valkey.url(), "node")
        await limiter.start()
        scope = Scope("account/1", Rule(requests=20, strict=strict))
        # As if all of it had been taken just now, by a clock that was an hour ahead.
        hence = (int(time.time()) + 3_600) * 1_000_000
        valkey.command("ZADD", "tollbridge:nodes", str(hence), "node")
        if strict:
            valkey.command("ZADD", "tollbridge:account/1:requests:log", str(hence), "1:20")
        else:
            valkey.command("SET", "tollbridge:account/1:requests", str(hence + 60_000_000))
        refused = await limiter.take(2, [scope], 0, 0)
        assert isinstance(refused, Exceeded)
        assert refused.retry_after <= (60 if strict else 3)
        # Time goes on from there.
        other = Scope("account/2", Rule(requests=20, strict=strict))
        for number in range(20):
            assert isinstance(await limiter.take(3 + number, [other], 0, 0), Grant)
        refused = await limiter.take(99, [other], 0, 0)
        assert isinstance(refused, Exceeded)
        assert 0 < refused.retry_after <= 60
        if not strict:
            await asyncio.sleep(refused.retry_after)
            assert isinstance(await limiter.take(100, [other], 0, 0), Grant)
        await limiter.stop()

    asyncio.run(run())


def test_a_server_that_was_never_there_does_not_keep_a_process_from_starting() -> None:
    async def run() -> None:
        limiter = RedisLimiter("redis://127.0.0.1:1/0", "node")
        await limiter.start()
        assert limiter.degraded
        assert _admitted(await _all(limiter, STRICT, LIMIT * 2)) == LIMIT
        await limiter.stop()

    asyncio.run(run())


def test_a_request_whose_caller_left_while_it_was_asked_for_takes_nothing(valkey: Valkey) -> None:
    async def run() -> None:
        limiter = RedisLimiter(valkey.url(), "node")
        await limiter.start()
        scope = Scope("account/1", Rule(concurrency=3, tokens=1000, strict=True))
        for number in range(50):
            task = asyncio.create_task(limiter.take(number, [scope], 0, 10))
            await asyncio.sleep(0)
            if number % 2:
                await asyncio.sleep(0.0003)
            task.cancel()
            done = await asyncio.gather(task, return_exceptions=True)
            if isinstance(done[0], Grant):
                limiter.give_back(done[0], 0)
        try:
            # The last places come back behind the answers, on a slow machine later than the next question.
            for attempt in range(200):
                answers = await _all(limiter, scope, 5, first=100 + 5 * attempt)
                if _admitted(answers) == 3:
                    return
                for answer in answers:
                    if isinstance(answer, Grant):
                        limiter.give_back(answer, 0)
                await asyncio.sleep(0.02)
            pytest.fail(f"{3 - _admitted(answers)} places never came back")
        finally:
            await limiter.stop()

    asyncio.run(run())


@pytest.mark.parametrize("lost", [":log", ":sum"])
def test_half_of_what_a_strict_limit_keeps_is_never_believed_alone(valkey: Valkey, lost: str) -> None:
    """Either key may go first, by its time or by eviction: nothing is owed for ever, nothing is free for ever."""

    async def run() -> None:
        limiter = RedisLimiter(valkey.url(), "node")
        await limiter.start()
        for number in range(3):
            assert _admitted(await _all(limiter, STRICT, LIMIT - 10, first=1000 * number)) == LIMIT - 10
            valkey.command("DEL", f"tollbridge:{STRICT.name}:requests{lost}")
            if lost == ":sum":
                assert _admitted(await _all(limiter, STRICT, LIMIT, first=1000 * number + 500)) == 10
                valkey.command("FLUSHALL")
        await limiter.stop()

    asyncio.run(run())


def test_calls_that_end_or_begin_while_the_server_is_away_have_their_places_there_afterwards(valkey: Valkey) -> None:
    """D7: neither those whose end nobody could tell it of, nor those whose take it did after all."""

    async def run() -> None:
        limiter = RedisLimiter(valkey.url(), "node")
        await limiter.start()
        scope = Scope("account/1", Rule(concurrency=4, tokens=1_000))
        begun = await _all(limiter, scope, 2)
        valkey.suspend()
        begun += await _all(limiter, scope, 4, first=10)
        assert [isinstance(each, Grant) for each in begun] == [True] * 4 + [False] * 2
        for grant in (begun[0], begun[2]):
            assert isinstance(grant, Grant)
            limiter.give_back(grant, 0)
        valkey.resume()
        await _until(functools.partial(_answers, limiter))
        assert _admitted(await _all(limiter, scope, 5, first=100)) == 2
        for grant in (begun[1], begun[3]):
            assert isinstance(grant, Grant)
            limiter.give_back(grant, 0)
        assert _admitted(await _all(limiter, scope, 5, first=200)) == 2
        await limiter.stop()

    asyncio.run(run())


def test_a_server_that_forgot_the_running_calls_is_told_of_them(valkey: Valkey) -> None:
    async def run() -> None:
        limiter = RedisLimiter(valkey.url(), "node")
        await limiter.start()
        scope = Scope("account/1", Rule(concurrency=4))
        await _all(limiter, scope, 3)
        valkey.kill()
        assert _admitted(await _all(limiter, scope, 1, first=10)) == 1
        valkey.start()
        await _until(functools.partial(_answers, limiter))
        assert _admitted(await _all(limiter, scope, 3, first=20)) == 0
        await limiter.stop()

    asyncio.run(run())


@pytest.mark.parametrize("strict", [True, False])
def test_what_was_admitted_while_the_server_was_away_counts_afterwards(valkey: Valkey, strict: bool) -> None:
    """D4: before, during and after an outage together, one limit."""

    async def run() -> None:
        limiter = RedisLimiter(valkey.url(), "node")
        await limiter.start()
        scope = Scope("account/1", Rule(requests=LIMIT, strict=strict))
        began = time.monotonic()
        before = _admitted(await _all(limiter, scope, 10))
        valkey.suspend()
        # Of those that it was asked for it may do what nobody waits for any more, and hear of them again: this one.
        during = _admitted([await limiter.take(50, [scope], 0, 0), *await _all(limiter, scope, 19, first=100)])
        valkey.resume()
        await _until(functools.partial(_answers, limiter))
        after = _admitted(await _all(limiter, scope, LIMIT, first=200))
        assert (before, during) == (10, 20)
        # What refills meanwhile: two thirds of a request a second.
        refilled = 0 if strict else int((time.monotonic() - began) * LIMIT / 60) + 1
        assert LIMIT - 31 <= after <= LIMIT - 30 + refilled
        await limiter.stop()

    asyncio.run(run())


def test_a_server_that_is_slow_is_left_alone_until_it_is_fast_again(
    valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between probes nobody waits for it: one that is merely alive does not count as back."""

    async def run() -> None:
        limiter = SlowLimiter(valkey.url(), "node")
        await limiter.start()
        # Ten times as much as it is, so that a machine that is busy is not taken for a wait.
        monkeypatch.setattr(redis, "ANSWER_WITHIN_S", 0.5)
        limiter.slow = True
        await limiter.take(0, [STRICT], 0, 0)
        slowest = 0.0
        for number in range(1, 30):
            await asyncio.sleep(0.1)
            started = time.monotonic()
            await limiter.take(number, [STRICT], 0, 0)
            slowest = max(slowest, time.monotonic() - started)
            assert limiter.degraded
        assert slowest < 0.3
        limiter.slow = False
        await _until(functools.partial(_answers, limiter))
        await limiter.stop()

    asyncio.run(run())


class SlowLimiter(RedisLimiter):
    """One whose server needs 0.7 s: more than is waited for an answer, less than for a probe."""

    slow = False

    async def start(self) -> None:
        await super().start()
        fast = self._script

        async def script(**options: Any) -> Any:
            if self.slow:
                await asyncio.sleep(0.7)
            return await fast(**options)

        self._script = script


@pytest.mark.soak
def test_a_hundred_outages(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """D4: in any 60 s at most one and a half times the limit; nobody waits more than 50 ms for it, nobody fails."""
    monkeypatch.setattr(redis, "ANSWER_WITHIN_S", 0.05)

    async def run() -> None:
        chance = random.Random(4)
        nodes = [RedisLimiter(valkey.url(), f"node{number}") for number in range(4)]
        for node in nodes:
            await node.start()
        for node in nodes:
            await node.look([STRICT], 0, 0)
        admitted: deque[float] = deque()
        waits: list[float] = []
        most, number = 0, 0
        for _ in range(100):
            hang = chance.uniform(0.1, 0.4)
            trouble = chance.choice(["hung", "hung", "script refused"])
            for step in range(12):
                if step == 4 and trouble == "hung":
                    valkey.suspend()
                elif step == 4:
                    valkey.command("ACL", "SETUSER", "default", "-evalsha", "-eval")
                elif step == 8 and trouble == "hung":
                    valkey.resume()
                elif step == 8:
                    valkey.command("ACL", "SETUSER", "default", "+@all")
                for node in nodes:
                    number += 1
                    started = time.monotonic()
                    answer = await node.take(number, [STRICT], 0, 0)
                    waits.append(time.monotonic() - started)
                    if isinstance(answer, Grant):
                        admitted.append(started)
                while admitted[0] < time.monotonic() - 60:
                    admitted.popleft()
                most = max(most, len(admitted))
                await asyncio.sleep(hang / 4)
            for node in nodes:
                await _until(functools.partial(_answers, node))
        waits.sort()
        print(f"most in a minute {most} of {LIMIT}, slowest {waits[-1] * 1000:.0f} ms of {len(waits)}")
        assert most <= 1.5 * LIMIT
        # One call in twelve is the first to find the server away. On a busy machine a few of those wait for a core.
        assert waits[int(len(waits) * 0.9)] <= 0.005
        assert waits[int(len(waits) * 0.98)] <= 0.06
        for node in nodes:
            await node.stop()

    asyncio.run(run())


def _answers(limiter: RedisLimiter) -> bool:
    return not limiter.degraded


async def _until(true: Callable[[], bool], within: float = 30.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
