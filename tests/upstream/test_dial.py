"""Addresses raced against each other."""

import asyncio
import contextlib
import socket
import time
from typing import Any

import psutil
import pytest
from tests.upstream.bad_server import LOOPS, BadServer, Peer, black_hole, eventually, run, silent

from tollbridge.upstream import dial as dial_module
from tollbridge.upstream.dial import dial

both_loops = pytest.mark.parametrize("loop", LOOPS)


class Resolver:
    """An event loop whose look-ups give the addresses of a test."""

    def __init__(self, *ports: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._ports = ports

    async def getaddrinfo(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in self._ports]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def closed_port() -> int:
    async with BadServer(silent) as server:
        return server.port


@both_loops
def test_an_address_that_leads_nowhere_costs_a_head_start_only(loop: str) -> None:
    async def main() -> None:
        with black_hole() as nowhere:
            async with BadServer(silent) as server:
                begin = time.monotonic()
                sock = await dial(Resolver(nowhere, server.port), "host", 1)  # type: ignore[arg-type]
                assert 0.2 < time.monotonic() - begin < 5
                assert sock.getpeername()[1] == server.port
                sock.close()

    run(loop, main())


@both_loops
def test_an_address_that_refuses_costs_nothing(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial_module, "_HEAD_START_SECONDS", 30)

    async def main() -> None:
        async with BadServer(silent) as server:
            closed = await closed_port()
            async with asyncio.timeout(20):
                sock = await dial(Resolver(closed, closed, server.port), "host", 1)  # type: ignore[arg-type]
            assert sock.getpeername()[1] == server.port
            sock.close()

    run(loop, main())


@both_loops
def test_when_every_address_fails_the_first_reason_is_told(loop: str) -> None:
    async def main() -> None:
        closed = await closed_port()
        for ports in ((closed,), (closed, closed, closed)):
            with pytest.raises(ConnectionRefusedError):
                await dial(Resolver(*ports), "host", 1)  # type: ignore[arg-type]

    run(loop, main())


@both_loops
def test_losers_and_cancelled_races_leave_no_socket(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial_module, "_HEAD_START_SECONDS", 0)
    files = psutil.Process().num_fds

    async def hold(peer: Peer) -> None:
        await peer.closed()

    async def main() -> None:
        async with BadServer(hold) as server:
            await asyncio.sleep(0.01)
            before = files()
            for turns in range(25):
                race = asyncio.create_task(dial(Resolver(*[server.port] * 4), "host", 1))  # type: ignore[arg-type]
                for _ in range(turns):
                    await asyncio.sleep(0)
                if turns % 2:
                    race.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    (await race).close()
            await eventually(lambda: files() <= before)

    run(loop, main())


def test_the_families_take_turns() -> None:
    four, six = [(socket.AF_INET, n) for n in range(3)], [(socket.AF_INET6, n) for n in range(2)]
    assert dial_module._by_turns([*six, *four]) == [six[0], four[0], six[1], four[1], four[2]]
    assert dial_module._by_turns([*four, *six]) == [four[0], six[0], four[1], six[1], four[2]]
    assert dial_module._by_turns(four) == four
