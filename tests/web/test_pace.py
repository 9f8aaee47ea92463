"""B10: a burst of pages leaves the loop to calls."""

import asyncio

import pytest

from tollbridge.errors import Unavailable
from tollbridge.web.pace import BURST, LONGEST_WAIT_S, SPACING_S, Pace


async def begun_after(pace: Pace) -> float:
    loop = asyncio.get_running_loop()
    asked = loop.time()
    await pace.begin()
    return loop.time() - asked


def test_a_few_pages_begin_at_once_and_the_rest_one_after_the_other() -> None:
    async def test() -> None:
        pace = Pace()
        waits = await asyncio.gather(*(begun_after(pace) for _ in range(BURST + 20)))
        assert max(waits[:BURST]) < SPACING_S
        assert all(wait >= (number + 0.5) * SPACING_S for number, wait in enumerate(waits[BURST:]))

    asyncio.run(test())


def test_what_would_wait_too_long_is_refused_and_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        loop, pace = asyncio.get_running_loop(), Pace()
        monkeypatch.setattr(loop, "time", lambda: 1_000.0)  # nobody's turn comes meanwhile
        most = BURST + int(LONGEST_WAIT_S / SPACING_S)
        tasks = [asyncio.create_task(pace.begin()) for _ in range(most + 500)]
        await asyncio.sleep(0)
        refused = [task for task in tasks if task.done() and task.exception() is not None]
        assert len(refused) in (500, 501)  # sums of floats
        with pytest.raises(Unavailable, match="Too many pages"):
            await pace.begin()
        for task in tasks:
            task.cancel()

    asyncio.run(test())
