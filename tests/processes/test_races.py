"""Many at once for the same money, over four processes: rows A1, A2, A20, B4 (goal G20), D3."""

import asyncio
import time
from collections import Counter
from functools import partial

import pytest
from tests.gateway.process import until
from tests.gateway.site import INPUT_NANO, OUTPUT_NANO, Reply
from tests.processes.fleet import STRICT_RPM, Customer, Fleet, Node, charged, degraded, price

from tollbridge.services import keys

OUTPUT = 100
REVOKED_S = 5.0


async def held_for_one(fleet: Fleet) -> int:
    """What a call holds. From now on it costs as much: what ten have held is not free again for others."""
    customer = await fleet.customer(10**9)
    assert (await fleet.ask(fleet.nodes[0], customer, OUTPUT)).status == 200
    [end] = await fleet.ends(customer)
    held = int(end["held"])
    fleet.upstream.prompt, rest = divmod(held - OUTPUT * OUTPUT_NANO, INPUT_NANO)
    assert rest == 0
    return held


async def fifty(fleet: Fleet, customer: Customer) -> list[Reply]:
    """At once, in turn to each process."""
    nodes = fleet.nodes
    return await asyncio.gather(*(fleet.ask(nodes[n % len(nodes)], customer, OUTPUT) for n in range(50)))


def check_ten_of_fifty(replies: list[Reply], *why: str) -> None:
    """Ten are answered, the others refused for one of these reasons.

    Or because a process is busy: the machine may have let it wait for a second.
    """
    statuses = Counter(reply.status for reply in replies)
    codes = Counter(reply.json["error"]["code"] for reply in replies if reply.status != 200)
    assert statuses[200] == 10, (statuses, codes)
    assert statuses[402] >= 20, (statuses, codes)
    assert codes.keys() <= {*why, "overloaded"}


@pytest.mark.parametrize("rounds", [10, pytest.param(2_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])])
def test_fifty_at_once_with_money_for_ten(fleet: Fleet, rounds: int) -> None:
    async def scenario(fleet: Fleet) -> None:
        held = await held_for_one(fleet)
        for _ in range(rounds):
            asked = fleet.upstream.asked
            customer = await fleet.customer(held * 10)
            replies = await fifty(fleet, customer)
            check_ten_of_fifty(replies, "insufficient_credits", "in_flight_budget_exhausted")
            assert fleet.upstream.asked - asked == 10
            await fleet.await_balance(customer, 0)

    fleet.run(scenario)


@pytest.mark.parametrize("rounds", [5, pytest.param(1_000, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])])
def test_fifty_at_once_on_a_key_with_a_limit_for_ten(fleet: Fleet, rounds: int) -> None:
    async def scenario(fleet: Fleet) -> None:
        held = await held_for_one(fleet)
        for _ in range(rounds):
            customer = await fleet.customer(held * 10_000, limit=held * 10)
            replies = await fifty(fleet, customer)
            check_ten_of_fifty(replies, "key_limit_exceeded")
            await fleet.await_balance(customer, held * (10_000 - 10))

    fleet.run(scenario)


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.soak)])
def test_one_account_on_all_processes_meets_no_deadlock(fleet: Fleet, seconds: float) -> None:
    async def scenario(fleet: Fleet) -> None:
        customer = await fleet.customer(10**15)
        over = time.monotonic() + seconds
        replies: list[Reply] = []

        async def client(node: Node) -> None:
            while time.monotonic() < over:
                replies.append(await fleet.ask(node, customer))

        await asyncio.gather(*(client(node) for node in fleet.nodes for _ in range(8)))
        served = [reply for reply in replies if reply.status == 200]
        refused = {reply.json["error"]["code"] for reply in replies if reply.status != 200}
        assert served
        assert refused <= {"overloaded"}  # the machine may have let a process wait for a second
        await fleet.await_balance(customer, 10**15 - len(served) * price(5))
        assert sum(map(charged, served)) == len(served) * price(5)
        [(deadlocks,)] = await fleet.database.fetch(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
        assert deadlocks == 0

    fleet.run(scenario)


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_a_revoked_key_stops_on_every_process(fleet: Fleet, times: int) -> None:
    """Paid work at once, because each hold asks; all else once the change has been noticed."""

    async def scenario(fleet: Fleet) -> None:
        for _ in range(times):
            customer = await fleet.customer(10**9)
            for node in fleet.nodes:
                assert (await fleet.ask(node, customer)).status == 200
            await keys.revoke(fleet.database, customer.account_id, customer.key_id, actor="test")
            revoked_at = time.monotonic()
            for node in fleet.nodes:
                assert (await fleet.ask(node, customer)).status == 401
            for node in fleet.nodes:
                await until(partial(_is_a_stranger, fleet, node, customer), REVOKED_S)
            assert time.monotonic() - revoked_at < REVOKED_S

    fleet.run(scenario)


async def _is_a_stranger(fleet: Fleet, node: Node, customer: Customer) -> bool:
    return (await fleet.send(node, customer, "GET", "/v1/models")).status == 401


@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_a_strict_limit_is_one_limit_on_all_processes(fleet: Fleet, rounds: int) -> None:
    async def scenario(fleet: Fleet) -> None:
        exact = 0
        for _ in range(2 * rounds + 10):
            customer = await fleet.customer(10**12, plan="strict")
            nodes = fleet.nodes * (STRICT_RPM // 2)  # twice the limit, in turn to each
            replies = await asyncio.gather(*(fleet.ask(node, customer) for node in nodes))
            statuses = Counter(reply.status for reply in replies)
            # A process that waits 50 ms for the shared counters, as on a machine that is busy, keeps its own.
            if degraded(replies):
                assert statuses[200] <= STRICT_RPM * 3 // 2
            else:
                assert statuses == {200: STRICT_RPM, 429: STRICT_RPM}
                exact += 1
            if exact == rounds:
                return
        raise AssertionError("the shared counters never answered in time")

    fleet.run(scenario)
