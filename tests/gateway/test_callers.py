"""Who calls, by what they present: what is no key costs next to nothing."""

import asyncio
import random
import time

import pytest

from tollbridge.core import keys
from tollbridge.errors import InvalidApiKey
from tollbridge.gateway.callers import Callers

PREFIX = "tb_live_"
FLOOD = 100_000
MOST_CPU_S = 0.000_2


def test_a_flood_of_made_up_keys_never_reaches_the_database() -> None:
    """B2."""

    async def nobody(_: object) -> None:
        raise AssertionError("the database was asked")

    callers = Callers(
        find=nobody,
        own=nobody,  # type: ignore[arg-type]
        well_formed=lambda text: keys.well_formed(PREFIX, text),
        plans={},
    )
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
