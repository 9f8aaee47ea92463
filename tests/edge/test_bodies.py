"""The bodies of running calls have so much memory and no more, and small ones wait for nothing."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from unittest import mock

import pytest
from tests.gateway.process import until
from tests.gateway.site import Call, Reply, Site, always, chat, completion, framed, http, run, says
from tests.upstream.bad_server import Peer, Request

from tollbridge.edge import bodies
from tollbridge.edge.bodies import Bodies
from tollbridge.edge.connection import ServerLimits
from tollbridge.gateway.large import LARGE
from tollbridge.services import accounts

CHAT = "/v1/chat/completions"
ROOM = 1024 * 1024
SIZE = 600 * 1024


class Held:
    """A provider that answers large requests when it may. `got`: those that it has, by the first word of their text."""

    def __init__(self) -> None:
        self.got: list[str] = []
        self._holds = True
        self._held: list[asyncio.Event] = []
        self.script = always(self._answer)

    def go(self) -> None:
        """Answer all."""
        self._holds = False
        while self._held:
            self.go_first()

    def go_first(self) -> None:
        self._held.pop(0).set()

    async def _answer(self, request: Request, peer: Peer) -> None:
        if len(request.body) > LARGE:
            self.got.append(request.body.partition(b'"content": "')[2].partition(b" ")[0].decode())
            if self._holds:
                self._held.append(may_go := asyncio.Event())
                await may_go.wait()
        await peer.send(http(200, completion()))


def large(name: str = "a", size: int = SIZE) -> bytes:
    return json.dumps(chat(f"{name} x", max_tokens=10, padding="x" * size)).encode()


@contextlib.asynccontextmanager
async def selling(provider: Held) -> AsyncIterator[tuple[Site, Bodies]]:
    patience = mock.patch.dict("os.environ", {"TOLLBRIDGE_PROVIDERS__UP__TIMEOUT": "60s"})
    config = f'[server]\nmax_bodies = "{ROOM >> 20}MiB"\n'
    with patience:
        async with Site(provider.script, credit_usd="10", config=config) as site:
            yield site, site.gateway._bodies
            provider.go()
            await until(lambda: site.gateway._bodies.held == 0)
            assert not site.gateway._bodies._of_account


def asked(site: Site, body: bytes, key: str | None = None) -> asyncio.Task[Reply]:
    headers = {"authorization": f"Bearer {key or site.key}"}
    return asyncio.create_task(site.post(CHAT, body, headers))


def test_a_large_body_waits_until_a_running_call_has_ended() -> None:
    async def test() -> None:
        provider = Held()
        async with selling(provider) as (site, room):
            first = asked(site, large())
            await until(lambda: len(provider.got) == 1)
            assert SIZE < room.held < SIZE + 1000
            second = asked(site, large())
            await asyncio.sleep(0.3)
            assert (len(provider.got), room.held < SIZE + 1000) == (1, True)
            assert (await site.post(CHAT, chat("little"))).status == 200
            provider.go()
            assert [(await first).status, (await second).status] == [200, 200]
            assert len(await site.settled(3)) == 3

    run(test())


@pytest.mark.parametrize("path", ["/v1/estimate", "/v1/messages/count_tokens"])
def test_what_costs_nothing_waits_for_room_like_what_is_paid_for(path: str) -> None:
    async def test() -> None:
        provider = Held()
        async with selling(provider) as (site, room):
            first = asked(site, large())
            await until(lambda: len(provider.got) == 1)
            second = asyncio.create_task(site.post(path, large()))
            await until(lambda: len(room._waiting) == 1)
            assert (await site.post(path, chat("little", max_tokens=10))).status == 200
            assert not second.done()
            provider.go()
            assert [(await first).status, (await second).status] == [200, 200]
            assert len(await site.settled(1)) == 1

    run(test())


def test_who_waits_too_long_is_refused_and_not_charged(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        provider = Held()
        with mock.patch.object(bodies, "PATIENCE_S", 0.2):
            async with selling(provider) as (site, _):
                first = asked(site, large())
                await until(lambda: len(provider.got) == 1)
                for reply in await asyncio.gather(*(asked(site, large()) for _ in range(3))):
                    assert reply.status == 503
                    assert reply.json["error"]["code"] == "overloaded"
                    assert "large requests" in reply.json["error"]["message"]
                    assert reply.headers["retry-after"] == "5"
                provider.go()
                assert (await first).status == 200
                assert len(await site.settled(1)) == 1
        assert [each.message for each in caplog.records if "max_bodies" in each.message] == [
            "large requests are refused: too many arrive at once, or run (see server.max_bodies)"
        ]

    run(test())


def test_one_that_is_larger_than_the_room_is_let_in_alone() -> None:
    async def test() -> None:
        provider = Held()
        async with selling(provider) as (site, room):
            first = asked(site, large(size=ROOM + LARGE))
            await until(lambda: len(provider.got) == 1)
            assert room.held > ROOM + LARGE
            second = asked(site, large(size=LARGE + 1))
            await asyncio.sleep(0.2)
            assert len(provider.got) == 1
            provider.go()
            assert [(await first).status, (await second).status] == [200, 200]

    run(test())


def test_room_goes_to_the_account_that_has_least_of_it() -> None:
    async def test() -> None:
        provider = Held()
        async with selling(provider) as (site, _):
            mine = site.key
            site.account = await accounts.create(
                site.database, "other@example.com", plans=site.settings.plans, actor="test"
            )
            await site.grant("10")
            other = await site.make_key()
            running = [asked(site, large("mine", 400 << 10), mine) for _ in range(2)]
            await until(lambda: len(provider.got) == 2)
            waiting = [asked(site, large("mine", 500 << 10), mine)]
            await until(lambda: len(site.gateway._bodies._waiting) == 1)
            waiting.append(asked(site, large("other", 500 << 10), other))
            await until(lambda: len(site.gateway._bodies._waiting) == 2)
            # Room for this one there is, but others came before.
            waiting.append(asked(site, large("later", LARGE), mine))
            await until(lambda: len(site.gateway._bodies._waiting) == 3)
            provider.go_first()
            await until(lambda: len(provider.got) == 3)
            assert provider.got[2] == "other"
            provider.go()
            assert {reply.status for reply in await asyncio.gather(*running, *waiting)} == {200}

    run(test())


def test_who_leaves_while_waiting_is_not_sent_and_keeps_no_room() -> None:
    async def test() -> None:
        provider = Held()
        async with selling(provider) as (site, room):
            first = asked(site, large())
            await until(lambda: len(provider.got) == 1)
            gone = await site.open(CHAT, large("gone"))
            await until(lambda: len(room._waiting) == 1)
            gone.reset()
            await asyncio.sleep(0.1)
            provider.go()
            assert (await first).status == 200
            await until(lambda: room.held == 0)
            assert provider.got == ["a"]
            assert len(await site.settled(1)) == 1

    run(test())


def test_a_body_in_chunks_is_counted_once_it_is_there() -> None:
    async def test() -> None:
        provider = Held()
        async with selling(provider) as (site, room):
            first = asked(site, large())
            await until(lambda: len(provider.got) == 1)
            little = await in_chunks(site, large("little", 100))
            assert (await little.rest()).status == 200
            little.close()
            second = await in_chunks(site, large())
            await until(lambda: len(room._waiting) == 1)
            provider.go()
            assert [(await first).status, (await second.rest()).status] == [200, 200]
            second.close()

    run(test())


async def in_chunks(site: Site, data: bytes) -> Call:
    call = await site.open(CHAT, b"", {"content-length": "", "transfer-encoding": "chunked"})
    call.writer.write(framed(data[:50]))
    await asyncio.sleep(0.05)
    call.writer.write(framed(data[50:]) + b"0\r\n\r\n")
    return call


def test_one_client_sends_so_much_at_once_and_others_pass_it() -> None:
    # One of the largest bodies may arrive from an address, beside what others send before they have to wait.
    limits = ServerLimits(max_body=SIZE, max_arriving=0, exempt_clients=frozenset())

    async def test() -> None:
        async with Site(always(says(completion())), credit_usd="10", limits=limits) as site:
            body, room = large(size=SIZE - 1000), site.gateway._bodies
            calls = [await half(site, body)]
            await until(lambda: room.held == len(body))
            calls.append(await half(site, body))
            await until(lambda: len(room._waiting) == 1)
            assert room.held == len(body)
            other = await half(site, body, "127.0.0.2")
            await until(lambda: room.held == 2 * len(body))
            for call in (other, *calls):
                call.writer.write(body[len(body) // 2 :])
                assert (await call.rest()).status == 200
                call.close()
            shared = site._server.shared
            assert (room.held, shared.arriving, shared.arriving_per_client) == (0, 0, {})

    run(test())


async def half(site: Site, body: bytes, source: str = "127.0.0.1") -> Call:
    """A call whose client has sent half of its body."""
    call = Call(*await asyncio.open_connection("127.0.0.1", site.port, local_addr=(source, 0)))
    lines = (b"POST " + CHAT.encode() + b" HTTP/1.1", b"host: localhost", b"content-type: application/json")
    length = b"content-length: %d" % len(body)
    head = b"\r\n".join((*lines, b"authorization: Bearer " + site.key.encode(), length, b"\r\n"))
    call.writer.write(head + body[: len(body) // 2])
    return call


def test_waits_that_are_cancelled_leave_no_room_taken() -> None:
    async def test() -> None:
        room = Bodies(ROOM, mock.sentinel.large)
        await room._enter(1, ROOM, lambda: True)
        waiting = [asyncio.create_task(room._enter(account, SIZE, lambda: True)) for account in (1, 2, 3)]
        await asyncio.sleep(0)
        waiting[1].cancel()
        room._leave(1, ROOM, None)  # lets the second's wait end in the same turn
        waiting[0].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, asyncio.CancelledError, type(None)]
        assert (room.held, dict(room._of_account)) == (SIZE, {3: SIZE})

    run(test())


def test_who_has_just_been_cancelled_is_passed_over() -> None:
    async def test() -> None:
        room = Bodies(ROOM, mock.sentinel.large)
        await room._enter(1, ROOM, lambda: True)
        gone, next_one = (asyncio.create_task(room._enter(account, SIZE, lambda: True)) for account in (2, 3))
        await asyncio.sleep(0)
        gone.cancel()
        room._leave(1, ROOM, None)  # before the one that was cancelled has noticed it
        results = await asyncio.gather(gone, next_one, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError, type(None)]
        assert (room.held, dict(room._of_account)) == (SIZE, {3: SIZE})

    run(test())
