"""A call does not wait for a full provider while another of its routes has room."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.gateway.process import until
from tests.gateway.site import Reply, Site, always, by_kind, chat, completion, run, says, stream, streams
from tests.gateway.test_byok import MORE, bring
from tests.upstream.bad_server import Peer, Request

from tollbridge.core.retry import Kind
from tollbridge.upstream.pool import Pool

CHAT = "/v1/chat/completions"
ERROR = {"error": {"message": "no"}}
# A call that waits in a queue takes this long at least.
QUEUE_S = 4.0
PRICED = """
[[models]]
id = "priced"
output_limit = 4096
routes = [
  { provider = "up", model = "cheap", price = { input = "1", output = "2" } },
  { provider = "second", model = "dear", price = { input = "1000", output = "2000" } },
]
"""


class Slow:
    """Answers a call when it is told to, the first one apart: that is kept until `release`."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.asked = 0

    async def __call__(self, peer: Peer) -> None:
        await always(self._answer)(peer)

    async def _answer(self, request: Request, peer: Peer) -> None:
        self.asked += 1
        await self.release.wait()
        await by_kind(says(completion("slow")), streams(stream(("slow",))))(request, peer)


def pool_of(site: Site, name: str) -> Pool:
    assert site.gateway._line is not None
    return site.gateway._line.upstreams[name].pool


@contextlib.asynccontextmanager
async def full(site: Site, slow: Slow, name: str = "up", **fields: Any) -> AsyncIterator[asyncio.Task[Reply]]:
    """The provider has one connection, and a call that is not answered yet is on it."""
    pool = pool_of(site, name)
    pool.limits = msgspec.structs.replace(pool.limits, max_connections=1, queue=QUEUE_S)
    held = asyncio.create_task(site.post(CHAT, chat(**fields)))
    await until(lambda: slow.asked == 1)
    try:
        yield held
    finally:
        slow.release.set()
        assert (await held).status == 200


def route_of(reply: Reply) -> str | None:
    assert reply.status == 200, reply
    return reply.headers["x-tollbridge-provider"]


@pytest.mark.parametrize("streamed", [False, True])
def test_it_goes_at_once_to_a_provider_that_has_room(streamed: bool) -> None:
    async def test() -> None:
        slow = Slow()
        quick = always(by_kind(says(completion()), streams(stream())))
        async with Site(slow, others={"second": quick}) as site:
            async with full(site, slow):
                for _ in range(30):
                    begun = time.monotonic()
                    reply = await site.post(CHAT, chat(stream=streamed))
                    assert time.monotonic() - begun < QUEUE_S / 2
                    assert route_of(reply) == "second"
                    assert reply.headers["x-tollbridge-attempts"] == "up/upstream-m busy"
                assert slow.asked == 1
                health = site.gateway._health
                assert health.tallies["up"].failures == {Kind.BUSY: 30}
                assert not health._breakers
            assert route_of(await site.post(CHAT, chat())) == "up"  # in order again

    run(test())


def test_who_waits_for_both_goes_where_there_is_room_first() -> None:
    async def test() -> None:
        slow, other = Slow(), Slow()
        async with (
            Site(slow, others={"second": other}) as site,
            full(site, slow),
            full(site, other, "second") as held,
        ):
            waiting = [asyncio.create_task(site.post(CHAT, chat())) for _ in range(3)]
            await until(lambda: pool_of(site, "up").waiting == 3)
            await asyncio.sleep(0.7)  # longer than the pool's tick
            assert not any(each.done() for each in waiting)
            begun = time.monotonic()
            other.release.set()
            replies = [await each for each in (held, *waiting)]
            assert {route_of(reply) for reply in replies} == {"second"}
            assert time.monotonic() - begun < QUEUE_S / 2

    run(test())


@pytest.mark.parametrize(
    "wishes", [{"only": ["up"]}, {"order": ["up"], "allow_fallbacks": False}, {"allow_fallbacks": False}]
)
def test_it_waits_where_the_caller_wants_no_other(wishes: dict[str, Any]) -> None:
    async def test() -> None:
        slow = Slow()
        async with Site(slow, others={"second": always(says(completion()))}) as site, full(site, slow):
            waiting = asyncio.create_task(site.post(CHAT, chat(provider=wishes)))
            await until(lambda: pool_of(site, "up").waiting == 1)
            slow.release.set()
            assert route_of(await waiting) == "up"

    run(test())


def test_it_does_not_leave_for_another_model() -> None:
    async def test() -> None:
        slow = Slow()
        second = always(says(completion()))
        async with Site(slow, others={"second": second}, config=MORE) as site, full(site, slow):
            asked = chat(models=["elsewhere"], provider={"allow_fallbacks": False})
            waiting = asyncio.create_task(site.post(CHAT, asked))
            await until(lambda: pool_of(site, "up").waiting == 1)
            slow.release.set()
            reply = await waiting
            assert (route_of(reply), reply.json["model"]) == ("up", "m")

    run(test())


def test_it_waits_rather_than_be_called_where_it_is_not_paid_for() -> None:
    async def test() -> None:
        slow = Slow()
        second = always(says(completion()))
        async with Site(slow, others={"second": second}, config=PRICED, credit_usd="0.02") as site:
            asked = {**chat(max_tokens=1000), "model": "priced"}
            async with full(site, slow):
                waiting = asyncio.create_task(site.post(CHAT, asked))
                await until(lambda: pool_of(site, "up").waiting == 1)
                slow.release.set()
                reply = await waiting
                assert route_of(reply) == "up"
                assert "x-tollbridge-attempts" not in reply.headers

    run(test())


def test_the_hold_is_for_the_route_that_it_goes_to() -> None:
    async def test() -> None:
        slow = Slow()
        second = always(says(completion()))
        async with Site(slow, others={"second": second}, config=PRICED, credit_usd="10") as site:
            async with full(site, slow):
                assert route_of(await site.post(CHAT, {**chat(max_tokens=1000), "model": "priced"})) == "second"
            dear, _ = sorted(await site.settled(2), key=lambda row: -row["held"])
            assert dear["held"] >= 1000 * 2000 * 1000
            assert dear["charge"] == 10 * 1_000_000 + 5 * 2_000_000

    run(test())


def test_a_customers_own_credential_waits_rather_than_cost_them_more() -> None:
    async def test() -> None:
        slow = Slow()
        async with Site(slow, others={"second": always(says(completion()))}) as site:
            await bring(site)
            async with full(site, slow):
                waiting = asyncio.create_task(site.post(CHAT, chat()))
                await until(lambda: pool_of(site, "up").waiting == 1)
                slow.release.set()
                reply = await waiting
                assert route_of(reply) == "up"
                assert reply.json["usage"]["is_byok"] is True

    run(test())


def test_a_provider_that_was_left_for_want_of_room_is_tried_again_when_the_other_fails() -> None:
    """And neither that nor going there is a retry: two of those are left."""

    async def test() -> None:
        slow = Slow()
        failing = 0

        async def fails(request: Request, peer: Peer) -> None:
            nonlocal failing
            failing += 1
            slow.release.set()
            await says(ERROR, 500)(request, peer)

        async with Site(slow, others={"second": always(fails)}) as site, full(site, slow):
            reply = await site.post(CHAT, chat())
            assert route_of(reply) == "up"
            assert reply.headers["x-tollbridge-attempts"] == "up/upstream-m busy, second/second-m 500"

    run(test())


def test_providers_that_cannot_do_it_leave_the_retries_to_those_that_can() -> None:
    asked = 0

    async def cannot(request: Request, peer: Peer) -> None:
        await says({"error": {"message": "No endpoints found that support tool use."}}, 404)(request, peer)

    async def stumbles_twice(request: Request, peer: Peer) -> None:
        nonlocal asked
        asked += 1
        await (says(ERROR, 500) if asked <= 2 else says(completion()))(request, peer)

    async def test() -> None:
        others = {"second": always(cannot), "third": always(stumbles_twice)}
        async with Site(always(cannot), others=others) as site:
            assert route_of(await site.post(CHAT, chat())) == "third"

    run(test())
