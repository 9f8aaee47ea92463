"""Four processes, and one of them, their database or their counters go: rows G-1, G-9, H1 to H4, H11, D4, D5."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.gateway.process import until
from tests.gateway.site import Reply
from tests.processes.fleet import STRICT_RPM, Customer, Fleet, Node, charged, degraded, price

BACK_WITHIN_S = 5.0
# What nobody waits longer for; on a machine that others use too, the second.
PATIENCE_S, PATIENCE_BESIDE_OTHERS_S = 2.5, 10.0
PLENTY = 10**15
# A process is found dead by another one on its machine at the next sweep (30 s), and swept: G5.
SWEPT_WITHIN_S = 60.0
CUT_OFF = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tollbridge ledger'"


class Clients:
    """Callers, four a process, that ask until told otherwise. Each answer has a number of tokens of its own."""

    def __init__(self, fleet: Fleet, customer: Customer) -> None:
        self.statuses: Counter[int | str] = Counter()
        self.waited: list[float] = []
        self._fleet = fleet
        self._customer = customer
        self._answered: list[int] = []
        self._over = False
        self._last = 0

    @asynccontextmanager
    async def asking(self) -> AsyncIterator["Clients"]:
        tasks = [asyncio.create_task(self._ask(node)) for node in self._fleet.nodes for _ in range(4)]
        try:
            yield self
        finally:
            self._over = True
            await asyncio.gather(*tasks)

    async def _ask(self, node: Node) -> None:
        while not self._over:
            self._last += 1
            output = self._last
            began = time.monotonic()
            try:
                reply = await self._fleet.ask(node, self._customer, output)
            except OSError:
                self.statuses["gone"] += 1
                await asyncio.sleep(0.05)
                continue
            self.waited.append(time.monotonic() - began)
            self.statuses[reply.status] += 1
            if reply.status == 200:
                assert charged(reply) == price(output)
                self._answered.append(output)
            else:
                assert reply.status == 503, reply
                assert int(reply.headers["retry-after"]) >= 1
                await asyncio.sleep(0.05)

    async def all_of_them_work(self) -> bool:
        """Whether each process has just answered."""
        asked = (self._try(node) for node in self._fleet.nodes)
        return all(await asyncio.gather(*asked))

    async def _try(self, node: Node) -> bool:
        try:
            self._last += 1
            return (await self._fleet.ask(node, self._customer, self._last)).status == 200
        except OSError:
            return False

    async def nothing_is_lost(self) -> None:
        """Every answer that somebody got is in the books, once, at its price; and the balance is what these leave."""
        ends = await self._fleet.ends(self._customer)
        booked = Counter(end["output"] for end in ends if end["charge"])
        assert set(booked.values()) <= {1}
        assert set(self._answered) <= booked.keys(), sorted(set(self._answered) - booked.keys())
        assert all(end["charge"] == price(end["output"]) for end in ends if end["charge"])
        left, held, taken = await self._fleet.money(self._customer)
        assert (left, held) == (PLENTY - taken, 0)
        assert self.statuses[200] == len(self._answered) > 0


@pytest.mark.parametrize("kills", [2, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(3_600)])])
def test_processes_killed_under_load_lose_no_answer(fleet: Fleet, kills: int) -> None:
    """Two at once, and both come back at once: each ends what both have left, and it ends once."""

    async def scenario(fleet: Fleet) -> None:
        clients = Clients(fleet, await fleet.customer(PLENTY))
        fleet.upstream.pause = 0.05
        async with clients.asking():
            for _ in range(kills // 2):
                await asyncio.sleep(random.uniform(0.3, 0.6))
                dying = random.sample(fleet.nodes, 2)
                for node in dying:
                    node.kill()
                await asyncio.to_thread(fleet.start, dying)
                await until(clients.all_of_them_work, BACK_WITHIN_S * 4)
        await until(fleet.nothing_open, 30.0)
        await clients.nothing_is_lost()
        # What others were asked meanwhile was answered.
        assert set(clients.statuses) <= {200, 503, "gone"}
        assert clients.statuses["gone"] > 0

    fleet.run(scenario)


@pytest.mark.soak
def test_what_a_killed_process_held_returns_by_the_others(fleet: Fleet) -> None:
    async def scenario(fleet: Fleet) -> None:
        customer = await fleet.customer(PLENTY)
        fleet.upstream.pause = 2.0
        asked = [asyncio.create_task(fleet.ask(fleet.nodes[0], customer)) for _ in range(10)]
        await until(lambda: _holds(fleet, 10), 10.0)
        fleet.nodes[0].kill()
        await asyncio.gather(*asked, return_exceptions=True)
        await until(fleet.nothing_open, SWEPT_WITHIN_S)
        assert await fleet.balance(customer) == (PLENTY, 0)
        fleet.start([fleet.nodes[0]])

    fleet.run(scenario)


async def _holds(fleet: Fleet, count: int) -> bool:
    return await fleet.open_holds() == count


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(1_800)])])
def test_a_database_that_dies_under_load_loses_no_answer(fleet: Fleet, kills: int) -> None:
    async def scenario(fleet: Fleet) -> None:
        clients = Clients(fleet, await fleet.customer(PLENTY))
        fleet.upstream.pause = 0.05
        async with clients.asking():
            for _ in range(kills):
                await asyncio.sleep(random.uniform(0.3, 0.6))
                await fleet.during(fleet.postgres.kill)
                await asyncio.sleep(0.5)
                await fleet.during(fleet.postgres.start)
                # What a busy machine adds is not the gateway's.
                await until(clients.all_of_them_work, BACK_WITHIN_S * (4 if kills == 1 else 1))
        await until(fleet.nothing_open, 30.0)
        await clients.nothing_is_lost()
        assert clients.statuses[503] > 0

    fleet.run(scenario)


@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_connections_cut_off_at_any_moment_charge_nothing_twice(fleet: Fleet, rounds: int) -> None:
    """Those of the ledgers, from the server's side: now and then a COMMIT is in doubt."""

    async def scenario(fleet: Fleet) -> None:
        clients = Clients(fleet, await fleet.customer(PLENTY))
        async with clients.asking():
            for _ in range(rounds):
                await asyncio.sleep(random.uniform(0.02, 0.1))
                await fleet.database.fetch(CUT_OFF)
            await until(clients.all_of_them_work, BACK_WITHIN_S * 4)
        await until(fleet.nothing_open, 30.0)
        await clients.nothing_is_lost()

    fleet.run(scenario)


@pytest.mark.parametrize("rounds", [1, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_a_database_that_hangs_refuses_in_time(fleet: Fleet, rounds: int) -> None:
    patience = PATIENCE_BESIDE_OTHERS_S if rounds == 1 else PATIENCE_S

    async def scenario(fleet: Fleet) -> None:
        clients = Clients(fleet, await fleet.customer(PLENTY))
        fleet.upstream.pause = 0.05
        async with clients.asking():
            for _ in range(rounds):
                await asyncio.sleep(0.3)
                await fleet.during(fleet.postgres.suspend)
                await asyncio.sleep(3.0)
                await fleet.during(fleet.postgres.resume)
                await until(clients.all_of_them_work, BACK_WITHIN_S * (4 if rounds == 1 else 1))
        await until(fleet.nothing_open, 30.0)
        await clients.nothing_is_lost()
        assert clients.statuses[503] > 0
        waited = sorted(clients.waited)
        assert waited[int(len(waited) * 0.99)] <= patience

    fleet.run(scenario)


@pytest.mark.parametrize("trouble", ["killed", "hung"])
@pytest.mark.parametrize("rounds", [1, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_limits_hold_while_the_shared_counters_are_away(fleet: Fleet, rounds: int, trouble: str) -> None:
    """No error, and never more than one and a half times the limit; afterwards one limit again."""

    async def scenario(fleet: Fleet) -> None:
        for _ in range(rounds):
            # Each has to know of the others: a share is that of the nodes which were last seen.
            await until(lambda: _shared_again(fleet), 30.0)
            customer = await fleet.customer(PLENTY, plan="strict")
            await fleet.during(fleet.valkey.kill if trouble == "killed" else fleet.valkey.suspend)
            try:
                replies = await _twice_the_limit(fleet, customer)
            finally:
                await fleet.during(fleet.valkey.start if trouble == "killed" else fleet.valkey.resume)
            statuses = Counter(reply.status for reply in replies)
            assert set(statuses) <= {200, 429}
            assert 0 < statuses[200] <= STRICT_RPM * 3 // 2
            assert degraded(replies)
            await fleet.await_balance(customer, PLENTY - statuses[200] * price(5))
        await until(lambda: _shared_again(fleet), 30.0)

    fleet.run(scenario)


@pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_counters_that_are_forgotten_allow_one_more_burst_and_no_more_money(fleet: Fleet, rounds: int) -> None:
    async def scenario(fleet: Fleet) -> None:
        for _ in range(rounds):
            await until(lambda: _shared_again(fleet), 30.0)
            customer = await fleet.customer(PLENTY, plan="strict")
            replies = await _twice_the_limit(fleet, customer)
            assert fleet.valkey.command("FLUSHALL") == b"+OK\r\n"
            replies += await _twice_the_limit(fleet, customer)
            statuses = Counter(reply.status for reply in replies)
            assert set(statuses) == {200, 429}
            # A process that could not wait for the counters, on a machine that is busy, counted for itself.
            assert statuses[200] <= (3 if degraded(replies) else 2) * STRICT_RPM
            await fleet.await_balance(customer, PLENTY - statuses[200] * price(5))

    fleet.run(scenario)


async def _twice_the_limit(fleet: Fleet, customer: Customer) -> list[Reply]:
    nodes = fleet.nodes * (2 * STRICT_RPM // len(fleet.nodes))
    return await asyncio.gather(*(fleet.ask(node, customer) for node in nodes))


async def _shared_again(fleet: Fleet) -> bool:
    customer = await fleet.customer(PLENTY, plan="strict")
    replies = await asyncio.gather(*(fleet.ask(node, customer) for node in fleet.nodes))
    return not degraded(replies)
