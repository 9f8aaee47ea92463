"""Who calls, by what they present: what is no key costs next to nothing."""

import asyncio
import random
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tollbridge.core import keys
from tollbridge.core.plans import Plan
from tollbridge.errors import InvalidApiKey
from tollbridge.gateway.callers import Callers

PREFIX = "tb_live_"
FLOOD = 100_000
MOST_CPU_S = 0.000_2


def callers_without_a_database() -> Callers:
    async def nobody(_: object) -> None:
        raise AssertionError("the database was asked")

    return Callers(
        find=nobody,
        own=nobody,  # type: ignore[arg-type]
        well_formed=lambda text: keys.well_formed(PREFIX, text),
        plans={},
    )


def test_a_flood_of_made_up_keys_never_reaches_the_database() -> None:
    """B2."""
    callers = callers_without_a_database()
    chance = random.Random(20261122)
    texts = [PREFIX + "".join(chance.choices(keys.ALPHABET, k=38)) for _ in range(FLOOD)]

    async def flood() -> float:
        started = time.thread_time()
        for number, text in enumerate(texts):
            presented = (f"Bearer {text}".encode(), None) if number % 2 else (None, text.encode())
            try:
                await callers.of(*presented)
            except InvalidApiKey:
                continue
            pytest.fail("a made-up key was taken")
        return time.thread_time() - started

    assert asyncio.run(flood()) / FLOOD < MOST_CPU_S


def test_what_was_read_before_a_change_is_not_remembered_after_it() -> None:
    plan = Plan(name="default")
    asked: list[asyncio.Future[str]] = []

    async def find(_: object) -> Any:
        asked.append(asyncio.get_running_loop().create_future())
        name = await asked[-1]
        nothing = dict.fromkeys(("agreed", "models", "networks", "rpm", "tpm", "concurrency", "cost_cap"))
        return SimpleNamespace(key_id=1, account_id=1, plan=name, live=True, has_own=False, **nothing)

    async def scenario() -> None:
        callers = Callers(
            find=find,
            own=find,
            well_formed=lambda _: True,
            plans={"default": plan, "pro": Plan(name="pro")},
        )
        early = asyncio.create_task(callers.of(b"Bearer k", None))
        await asyncio.sleep(0)
        callers.forget()  # the plan became another one, behind what `find` has read
        asked[0].set_result("default")
        assert (await early).plan is plan
        late = asyncio.create_task(callers.of(b"Bearer k", None))
        await asyncio.sleep(0)
        asked[1].set_result("pro")
        assert (await late).plan.name == "pro"
        assert (await callers.of(b"Bearer k", None)).plan.name == "pro"
        assert len(asked) == 2

    asyncio.run(scenario())


def test_a_management_key_is_told_where_it_works() -> None:
    callers = callers_without_a_database()
    key = keys.make(PREFIX + keys.MANAGES, bytes(keys.RANDOM_BYTES))
    with pytest.raises(InvalidApiKey, match="management key"):
        asyncio.run(callers.of(f"Bearer {key}".encode(), None))
