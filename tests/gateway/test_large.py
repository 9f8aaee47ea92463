"""A burst of large bodies leaves the loop to other calls, and has so much memory and no more."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import cast
from unittest import mock

import pytest
from tests.gateway.process import until
from tests.gateway.site import Call, Site, always, chat, completion, http, run, says
from tests.upstream.bad_server import Peer, Request

from tollbridge.core.retry import Kind
from tollbridge.gateway.large import LARGE, PIECE, TURNS, LargeBodies, Share
from tollbridge.gateway.ticket import Ticket
from tollbridge.upstream.pool import Limits, Pool
from tollbridge.values import Outcome

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


# --- memory ---

CHAT = "/v1/chat/completions"
# Of the budget in these tests, and of an answer.
ROOM, SIZE = 4 * PIECE, 3 * PIECE
# An answer that the buffers of sockets do not take on a client's behalf.
HUGE = 16 * PIECE


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    with mock.patch("tollbridge.gateway.large.MOST", size):
        yield


def test_pieces_are_given_while_there_is_room_and_then_in_order() -> None:
    async def test() -> None:
        large = LargeBodies()
        done, first, second, third = Share(large), Share(large), Share(large), Share(large)
        assert all(done.may_have_more() for _ in range(3))
        done.is_read(2 * PIECE + 5)  # a little less than was allowed
        assert large.held == 2 * PIECE + 5
        assert first.may_have_more()
        assert not second.may_have_more()
        waiting = [asyncio.create_task(each.more()) for each in (second, third)]
        await asyncio.sleep(0)
        assert not first.may_have_more()  # others are first
        assert not any(each.done() for each in waiting)
        done.give_back()
        done.give_back()
        await asyncio.gather(*waiting)
        for each in (first, second, third):
            each.give_back()
        assert large.held == 0

    with room_for(ROOM):
        asyncio.run(asyncio.wait_for(test(), 60))


def test_who_leaves_while_it_waits_is_passed_over_and_its_share_is_free() -> None:
    async def test() -> None:
        large = LargeBodies()
        done, leaving, staying = Share(large), Share(large), Share(large)
        assert done.may_have_more()
        done.is_read(ROOM)
        tasks = [asyncio.create_task(each.more()) for each in (leaving, staying)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        leaving.give_back()
        assert not tasks[1].done()
        done.give_back()
        await tasks[1]
        assert large.held == PIECE

    with room_for(ROOM):
        asyncio.run(asyncio.wait_for(test(), 60))


@pytest.mark.parametrize("seed", range(20))
def test_answers_that_each_hold_a_part_go_on_one_after_the_other(seed: int) -> None:
    """None of them ever stops for good, whatever is given up on the way, and no more is held than one beyond it all."""
    chance = random.Random(seed)

    async def test() -> None:
        large, most = LargeBodies(), 0

        async def read(pieces: int) -> None:
            nonlocal most
            share = Share(large)
            try:
                for _ in range(pieces):
                    if not share.may_have_more():
                        await share.more()
                    most = max(most, large.held)
                    for _ in range(chance.randint(0, 3)):
                        await asyncio.sleep(0)
                share.is_read(pieces * PIECE - chance.randrange(PIECE))
                for _ in range(chance.randint(0, 3)):
                    await asyncio.sleep(0)
            finally:
                share.give_back()

        tasks = [asyncio.create_task(read(chance.randint(1, 9))) for _ in range(60)]
        for _ in range(40):
            await asyncio.sleep(0)
            if chance.random() < 0.3:
                chance.choice(tasks).cancel()
        await asyncio.wait(tasks)
        assert large.held == 0
        assert most <= ROOM + 9 * PIECE

    with room_for(ROOM):
        asyncio.run(asyncio.wait_for(test(), 60))


class Large:
    """Answers in two parts: all answers have begun before any goes on. Whoever asks for little gets little."""

    def __init__(self, together: int, size: int) -> None:
        self._begun = 0
        self._together = together
        self._size = size
        self._all = asyncio.Event()

    async def __call__(self, peer: Peer) -> None:
        await always(self._answer)(peer)

    async def _answer(self, request: Request, peer: Peer) -> None:
        if b"little" in request.body:
            await says(completion())(request, peer)
            return
        answer = http(200, completion("x" * self._size))
        await peer.send(answer[: SIZE // 2])
        self._begun += 1
        if self._begun >= self._together:
            self._all.set()
        await self._all.wait()
        await peer.send(answer[SIZE // 2 :])


@contextlib.asynccontextmanager
async def watched(room: int, together: int, size: int) -> AsyncIterator[tuple[Site, LargeBodies, list[int]]]:
    """A site, its budget, and how much of that was held from time to time."""
    held: list[int] = []

    async def watch(large: LargeBodies) -> None:
        while True:
            held.append(large.held)
            await asyncio.sleep(0)

    with room_for(room):
        async with Site(Large(together, size), credit_usd="10") as site:
            assert site.gateway._line is not None
            large = site.gateway._large
            watching = asyncio.create_task(watch(large))
            yield site, large, held
            watching.cancel()
            await until(lambda: large.held == 0)
            assert not site.gateway._health._breakers


def test_many_large_answers_take_no_more_than_the_budget_and_small_ones_do_not_wait() -> None:
    async def test() -> None:
        async with watched(ROOM, 12, SIZE) as (site, large, held):
            asked = [asyncio.create_task(site.post(CHAT, chat(max_tokens=4000))) for _ in range(12)]
            await until(lambda: large.held >= ROOM - PIECE)
            assert (await site.post(CHAT, chat("little"))).status == 200
            replies = await asyncio.gather(*asked)
            assert [reply.status for reply in replies] == [200] * 12
            assert all(len(reply.body) > SIZE for reply in replies)
            assert max(held) <= ROOM + SIZE + PIECE
            rows = await site.settled(13)
            assert {row["outcome"] for row in rows} == {Outcome.COMPLETED}

    run(test())


def test_answers_that_nobody_takes_are_counted_until_their_callers_leave() -> None:
    async def test() -> None:
        async with watched(HUGE + ROOM, 1, HUGE) as (site, _, held):
            idle: list[Call] = [await site.open(CHAT, chat(max_tokens=4000)) for _ in range(2)]
            try:
                await until(lambda: held[-1] > HUGE + PIECE)
                waiting = asyncio.create_task(site.post(CHAT, chat(max_tokens=4000)))
                await asyncio.sleep(2.0)
                assert not waiting.done()
                assert held[-1] > HUGE + PIECE
                assert (await site.post(CHAT, chat("little"))).status == 200
            finally:
                for call in idle:
                    call.reset()
            assert (await waiting).status == 200

    run(test())


def test_who_takes_a_large_answer_a_little_at_a_time_is_cut_off() -> None:
    async def test() -> None:
        with mock.patch.multiple("tollbridge.edge.inference", TAKE_S=1.0, TAKE_RATE=HUGE * 100):
            async with watched(HUGE + ROOM, 1, HUGE) as (site, large, held):
                call = await site.open(CHAT, chat(max_tokens=4000))
                await until(lambda: held[-1] > HUGE)
                taken = 0
                while large.held:
                    taken += len(await call.reader.readexactly(4096))
                    await asyncio.sleep(0.05)
                call.reset()
                assert taken < PIECE

    run(test())


def test_a_provider_that_breaks_off_while_its_answer_had_to_wait_is_not_blamed() -> None:
    async def breaks_off(request: Request, peer: Peer) -> None:
        answer = http(200, completion("x" * HUGE))
        if b"whole" in request.body:
            await peer.send(answer)
        else:
            await peer.send(answer[: HUGE // 2])
            await peer.reset()

    async def test() -> None:
        with room_for(PIECE):
            async with Site(always(breaks_off), credit_usd="10") as site:
                whole = await site.open(CHAT, chat("whole", max_tokens=4000))  # takes all there is, and is not taken
                large = site.gateway._large
                await until(lambda: large.held > HUGE)
                broken = [asyncio.create_task(site.post(CHAT, chat(max_tokens=4000))) for _ in range(2)]
                await asyncio.sleep(0.5)
                assert not any(each.done() for each in broken)
                whole.close()
                replies = [await each for each in broken]
                assert {reply.status for reply in replies} == {503}
                health = site.gateway._health
                assert health.rank(site.gateway._line.catalog.models["m"].routes[0]) == 0  # type: ignore[union-attr]
                assert health.tallies["up"].failures == {Kind.BUSY: 2}
                await until(lambda: large.held == 0)

    run(test())


def test_an_answer_that_is_cancelled_while_it_waits_lets_its_connection_go() -> None:
    async def test() -> None:
        with room_for(PIECE):
            async with Site(always(says(completion("x" * HUGE)))) as site:
                assert site.gateway._line is not None
                relay = site.gateway._line.edge._relay
                Share(site.gateway._large).is_read(PIECE)  # all there is
                pool = Pool(site.upstream.url, Limits())
                try:
                    response = await pool.open(b"POST", b"/", (), b"")
                    waiting = asyncio.create_task(relay._rest_of(cast("Ticket", SimpleNamespace()), response))
                    await asyncio.sleep(0.1)
                    assert pool.connections == 1
                    waiting.cancel()
                    await asyncio.wait((waiting,))
                    await until(lambda: pool.connections == 0, 10)
                finally:
                    await pool.close()

    run(test())


def test_an_error_that_is_large_is_not_read() -> None:
    async def test() -> None:
        ended = asyncio.Event()
        pieces = 0

        async def errs(request: Request, peer: Peer) -> None:
            nonlocal pieces
            try:
                await peer.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n" % (32 * PIECE))
                for _ in range(32):
                    await peer.send(b"x" * PIECE)
                    pieces += 1
            finally:
                ended.set()

        async with Site(always(errs)) as site:
            reply = await site.post(CHAT, chat())
            assert reply.status == 400
            assert len(reply.body) < 1000
            async with asyncio.timeout(30):
                await ended.wait()
            assert pieces < 32

    run(test())
