"""The guard in conftest.py refuses whatever leaves this machine, and nothing else."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from tests.conftest import NetworkUse

# Set aside for documentation: never a real host.
ELSEWHERE = "203.0.113.7"


@pytest.mark.parametrize("host", [ELSEWHERE, "2001:db8::7", "example.com", "10.0.0.1"])
def test_a_connection_that_leaves_the_machine_is_refused(host: str) -> None:
    with pytest.raises(NetworkUse):
        socket.create_connection((host, 80), timeout=1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as sock, pytest.raises(NetworkUse):
        sock.connect_ex((host, 80))
    with socket.socket(family, socket.SOCK_DGRAM) as sock, pytest.raises(NetworkUse):
        sock.sendto(b"x", (host, 80))


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_event_loops_are_guarded_too(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def connect() -> None:
        await asyncio.get_running_loop().create_connection(asyncio.Protocol, ELSEWHERE, 80)

    with pytest.raises(NetworkUse):
        run(connect())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_loopback_is_open(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def talk() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            transport, _ = await loop.create_connection(asyncio.Protocol, host, port, family=socket.AF_INET)
            transport.close()
        server.close()
        await server.wait_closed()

    run(talk())


def test_unix_sockets_are_open() -> None:
    left, right = socket.socketpair()
    with left, right, socket.socket(socket.AF_UNIX) as sock, pytest.raises(FileNotFoundError):
        sock.connect("/nowhere/socket")
