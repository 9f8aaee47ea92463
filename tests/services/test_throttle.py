"""B9 on a simulated clock: what a guesser gets, and that the owner is never locked out."""

import asyncio

import pytest
from tests.services.conftest import World

from tollbridge.errors import RateLimited
from tollbridge.services.throttle import (
    FAILURES_A_DAY,
    Door,
    Limit,
    check_door,
    delay_s,
    failed,
    opened,
    spend,
)
from tollbridge.store.db import Database
from tollbridge.values import DAY_MS

START = 1_000_000 * DAY_MS


async def tries(database: Database, door: Door, now: int) -> bool:
    """Whether a guess is let through; it is wrong."""
    try:
        await check_door(database, door, now)
    except RateLimited:
        return False
    await failed(database, door, now)
    return True


def test_delays_double_up_to_a_quarter_of_an_hour() -> None:
    assert [delay_s(failures) for failures in (0, 4, 5, 6, 7, 14, 15, 1000)] == [0, 0, 1, 2, 4, 512, 900, 900]


@pytest.mark.parametrize("guesses", [2_000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_a_guesser_with_many_addresses_gets_a_hundred_guesses_a_day(sqlite_world: World, guesses: int) -> None:
    async def use(database: Database) -> None:
        through = 0
        for number in range(guesses):
            door = Door(account="ada@example.com", client=f"10.0.{number % 200}.1")
            through += await tries(database, door, START + number * DAY_MS // guesses)
        assert 50 < through <= 120
        # Her own browser is counted by itself.
        owner = Door(account="ada@example.com", client="10.0.1.1", device=True)
        await check_door(database, owner, START + DAY_MS - 1)

    sqlite_world.run(use)


def test_a_guesser_with_one_address_waits_and_others_do_not(world: World) -> None:
    async def use(database: Database) -> None:
        door = Door(account="ada@example.com", client="10.6.6.6")
        assert [await tries(database, door, START) for _ in range(7)] == [True] * 5 + [False] * 2
        assert await tries(database, door, START + 1_000)
        assert not await tries(database, door, START + 2_000)
        with pytest.raises(RateLimited) as refused:
            await check_door(database, door, START + 2_000)
        assert refused.value.headers["retry-after"] == "1"
        await check_door(database, Door(account="ada@example.com", client="10.1.1.1"), START + 2_000)
        await opened(database, door)
        assert await tries(database, door, START + 2_000)

    world.run(use)


def test_a_guesser_gets_no_more_guesses_by_making_them_all_at_once(world: World) -> None:
    async def use(database: Database) -> None:
        door = Door(account="ada@example.com", client="10.6.6.6")
        assert sum(await asyncio.gather(*(tries(database, door, START) for _ in range(100)))) == 5
        assert not await tries(database, door, START + 2_000)

    world.run(use)


def test_nor_by_making_them_all_at_once_from_many_addresses(world: World) -> None:
    async def use(database: Database) -> None:
        doors = [Door(account="ada@example.com", client=f"10.6.{number}.1") for number in range(250)]
        assert sum(await asyncio.gather(*(tries(database, door, START) for door in doors))) == FAILURES_A_DAY

    world.run(use)


def test_who_gets_in_uses_up_no_guess(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        for number in range(2 * FAILURES_A_DAY):
            door = Door(account="ada@example.com", client=f"10.6.{number % 200}.1")
            await check_door(database, door, START + number)
            await opened(database, door)
        for number in range(FAILURES_A_DAY):
            assert await tries(database, Door(account="ada@example.com", client=f"10.7.{number}.1"), START + 1_000)

    sqlite_world.run(use)


def test_a_limit_counts_within_its_window(world: World) -> None:
    async def use(database: Database) -> None:
        limit = Limit(2, 1_000)
        assert [await spend(database, "mail", "ada", limit, START + at) for at in (0, 500, 999)] == [True, True, False]
        assert await spend(database, "mail", "eve", limit, START + 999)
        assert await spend(database, "mail", "ada", limit, START + 1_000)

    world.run(use)
