"""A burst of large bodies leaves the loop to other calls."""

import asyncio
import itertools
from unittest import mock

from tests.gateway.site import Site, always, chat, completion, run, says

from tollbridge.gateway.large import LARGE, TURNS, LargeBodies

# So many that nothing but waiting for them takes as many.
MANY = 100_000


class Turns:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        self.count = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.count += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


def test_the_first_begins_at_once_and_the_rest_with_turns_of_the_loop_between() -> None:
    async def test() -> None:
        large, turns, begun = LargeBodies(), Turns(), list[int]()

        async def work() -> None:
            await large.begin()
            begun.append(turns.count)

        await asyncio.gather(*(work() for _ in range(5)))
        gaps = [later - earlier for earlier, later in itertools.pairwise(begun)]
        assert begun[0] <= 1
        assert min(gaps) >= TURNS
        assert max(gaps) <= TURNS + 2
        for _ in range(TURNS + 2):
            await asyncio.sleep(0)
        at = turns.count
        await work()
        assert begun[-1] == at

    asyncio.run(test())


def test_who_stops_waiting_is_passed_over() -> None:
    async def test() -> None:
        large = LargeBodies()
        await large.begin()
        leaving, staying = (asyncio.create_task(large.begin()) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        async with asyncio.timeout(30):
            await staying

    asyncio.run(test())


def test_large_requests_and_large_answers_take_turns_and_others_do_not_wait() -> None:
    async def test() -> None:
        async def turns_of_two(text: str) -> int:
            turns = Turns()
            asked = (site.post("/v1/chat/completions", chat(text, max_tokens=10)) for _ in range(2))
            replies = await asyncio.gather(*asked)
            turns.stop()
            assert [reply.status for reply in replies] == [200, 200]
            return turns.count

        text = "x" * LARGE
        with mock.patch("tollbridge.gateway.large.TURNS", MANY):
            async with Site(always(says(completion())), credit_usd="10") as site:
                assert await turns_of_two(text) > MANY
                assert await turns_of_two("hi") < MANY
            async with Site(always(says(completion(text))), credit_usd="10") as site:
                assert await turns_of_two("hi") > MANY

    run(test())
