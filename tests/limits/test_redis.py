"""What only shared counters can do wrong: many processes, and a server that is away."""

import asyncio
import functools
import multiprocessing
import time
from collections.abc import Callable, Iterator

import pytest
from tests.servers import Valkey

from tollbridge.limits.base import Exceeded, Grant, Rule, Scope
from tollbridge.limits.redis import RedisLimiter

LIMIT = 40
STRICT = Scope("account/1", Rule(requests=LIMIT, strict=True))


@pytest.fixture
def valkey() -> Iterator[Valkey]:
    with Valkey() as server:
        yield server


async def _all(limiter: RedisLimiter, scope: Scope, calls: int, first: int = 0) -> list[Grant | Exceeded]:
    return await asyncio.gather(*(limiter.take(first + number, [scope], 0, 0) for number in range(calls)))


def _admitted(answers: list[Grant | Exceeded]) -> int:
    return sum(isinstance(answer, Grant) for answer in answers)


def _node(url: str, number: int, calls: int, scope: Scope, admitted: "multiprocessing.Queue[tuple[int, int]]") -> None:
    async def run() -> None:
        limiter = RedisLimiter(url, f"node{number}")
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
def test_each_node_limits_its_share_while_the_server_is_away(valkey: Valkey, trouble: str) -> None:
    """D4: no error, no wait beyond 50 ms, at most each node's share; afterwards one limit again."""

    async def run() -> None:
        nodes = [RedisLimiter(valkey.url(), f"node{number}") for number in range(2)]
        for node in nodes:
            await node.start()
            await node.look([STRICT], 0, 0)
        await nodes[0].look([STRICT], 0, 0)
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
        for node in nodes:
            await _until(functools.partial(_answers, node))
        fresh = Scope("account/2", STRICT.rule)
        assert sum([_admitted(await _all(node, fresh, LIMIT)) for node in nodes]) == LIMIT
        for node in nodes:
            await node.stop()

    asyncio.run(run())


def test_a_flush_gives_one_burst_at_most(valkey: Valkey) -> None:
    """D5"""

    async def run() -> None:
        limiter = RedisLimiter(valkey.url(), "node")
        await limiter.start()
        assert _admitted(await _all(limiter, STRICT, LIMIT * 2)) == LIMIT
        valkey.command("FLUSHALL")
        assert _admitted(await _all(limiter, STRICT, LIMIT * 2, first=1000)) == LIMIT
        assert not limiter.degraded
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
        assert _admitted(await _all(limiter, scope, 5, first=100)) == 3
        await limiter.stop()

    asyncio.run(run())


def _answers(limiter: RedisLimiter) -> bool:
    return not limiter.degraded


async def _until(true: Callable[[], bool], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
