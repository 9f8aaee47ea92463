"""Many at once for the same money, through the whole gateway and on both databases: rows A1 to A4, A13 and A20."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import pytest
from tests.gateway.site import INPUT_NANO, OUTPUT_NANO, Reply, Site, always, chat, completion, run, says
from tests.servers import Postgres

from tollbridge.store.keys import Rules

# 100 tokens of answer and the prompt, counted with its margin: what one call holds, and what each is charged.
LIMIT = 100

Databases: TypeAlias = Callable[[], str | None]


def usage_of(held: int) -> tuple[int, int]:
    """Usage that costs exactly what was held, so that money for ten is gone after ten."""
    prompt = (held - LIMIT * OUTPUT_NANO) // INPUT_NANO
    return prompt, LIMIT


async def hold_of_one(database_url: str | None) -> int:
    async with Site(always(says(completion())), database_url=database_url) as site:
        await site.post("/v1/chat/completions", chat(max_tokens=LIMIT))
        [row] = await site.settled(1)
        return int(row["held"])


@pytest.fixture(params=["sqlite", "postgresql"])
def databases(request: pytest.FixtureRequest) -> Iterator[Databases]:
    """Makes URLs of empty databases, one for each site; None is a SQLite file of the site's own."""
    with contextlib.ExitStack() as stack:
        if request.param == "sqlite":
            yield lambda: None
        else:
            server: Postgres = request.getfixturevalue("postgres_server")
            yield lambda: stack.enter_context(server.database())


async def race(site: Site, count: int) -> list[Reply]:
    return await asyncio.gather(*(site.post("/v1/chat/completions", chat(max_tokens=LIMIT)) for _ in range(count)))


def usd(nano: int) -> str:
    return f"{nano // 10**9}.{nano % 10**9:09d}"


def slow(held: int, seen: list[int]) -> Any:
    async def answer(request: Any, peer: Any) -> None:
        seen.append(1)
        await asyncio.sleep(0.2)
        await says(completion(usage=usage_of(held)))(request, peer)

    return always(answer)


@pytest.mark.parametrize("trial", [0, 1, 2, *[pytest.param(n, marks=pytest.mark.soak) for n in range(3, 200)]])
def test_fifty_at_once_with_money_for_ten(databases: Databases, trial: int) -> None:
    """A1: exactly ten reach the provider, whether the calls before them have ended or not."""

    async def test() -> None:
        held = await hold_of_one(databases())
        seen: list[int] = []
        async with Site(slow(held, seen), credit_usd=usd(held * 10), database_url=databases()) as site:
            replies = await race(site, 50)
            statuses = Counter(reply.status for reply in replies)
            assert statuses == {200: 10, 402: 40}
            assert len(seen) == 10
            codes = {reply.json["error"]["code"] for reply in replies if reply.status == 402}
            assert codes <= {"insufficient_credits", "in_flight_budget_exhausted"}
            assert all("balance_usd" in reply.json for reply in replies if reply.status == 402)
            await site.settled(10)
            assert await site.balance() == 0

    run(test())


def test_fifty_at_once_with_a_key_for_ten(databases: Databases) -> None:
    """A2: the account is rich, the key is not."""

    async def test() -> None:
        held = await hold_of_one(databases())
        seen: list[int] = []
        async with Site(slow(held, seen), credit_usd="100", database_url=databases()) as site:
            site.key = await site.make_key(rules=Rules(limit=held * 10))
            replies = await race(site, 50)
            assert Counter(reply.status for reply in replies) == {200: 10, 402: 40}
            refused = [reply.json for reply in replies if reply.status == 402]
            assert {each["error"]["code"] for each in refused} == {"key_limit_exceeded"}
            # Of the account, which has more: what is left of the key's limit stands in the message.
            assert all(90 < each["balance_usd"] < 100 for each in refused)
            assert len(seen) == 10

    run(test())


def test_the_rich_are_held_to_their_money_too(databases: Databases) -> None:
    """A3: no shortcut past the hold, however large the balance."""

    async def test() -> None:
        async with Site(always(says(completion())), credit_usd="1000", database_url=databases()) as site:
            await race(site, 50)
            rows = await site.settled(50)
            assert all(row["held"] > 0 for row in rows)
            [(holds,)] = await site.database.fetch("SELECT COUNT(*) FROM hold")
            assert holds == 50

    run(test())


def test_first_requests_of_a_new_account_are_limited_like_all_others(databases: Databases) -> None:
    """A4."""

    async def test() -> None:
        config = "[plans.default]\nrpm = 20\nstrict = true\nconcurrency = 50\n"
        async with Site(always(says(completion())), config=config, database_url=databases()) as site:
            replies = await race(site, 50)
            assert Counter(reply.status for reply in replies) == {200: 20, 429: 30}

    run(test())


def test_reading_costs_nothing(databases: Databases) -> None:
    """A13."""

    async def test() -> None:
        async with Site(always(says(completion())), database_url=databases()) as site:
            for path in ("/v1/models", "/v1/models/m", "/health", "/v1/health", "/ready", "/v1/nothing"):
                await site.get(path)
            assert await site.usage() == []
            [(transactions,)] = await site.database.fetch("SELECT COUNT(*) FROM journal")
            assert transactions == 1  # the grant that the account began with

    run(test())


def test_hot_account_makes_no_deadlock(databases: Databases) -> None:
    """A20: one account, forty callers, for two seconds."""

    async def test() -> None:
        async with Site(always(says(completion())), credit_usd="100", database_url=databases()) as site:
            end = time.monotonic() + 2
            statuses: Counter[int] = Counter()

            async def call_on() -> None:
                while time.monotonic() < end:
                    statuses[(await site.post("/v1/chat/completions", chat(max_tokens=LIMIT))).status] += 1

            await asyncio.gather(*(call_on() for _ in range(40)))
            # A machine that is busy with something else may make it shed some; never an error, never a wait for ever.
            assert set(statuses) <= {200, 503}
            assert statuses[200] > 100
            await site.settled(statuses[200])

    run(test())
