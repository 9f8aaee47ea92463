"""What every test can ask for, and the guard that keeps the network off.

A test that breaks a server starts one of its own (`with Postgres() as server`): the two here are shared.
"""

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import uvloop
from tests.servers import Postgres, Valkey
from tools.npm_install import install

ROOT = Path(__file__).resolve().parent.parent

# Deadlines measure the machine, not the code. Every run of the suite tries the same examples, so that a failure comes
# from a change; `make soak` tries others each time, and each failure prints the blob that reproduces it.
SLOW = [hypothesis.HealthCheck.too_slow]
for profile, derandomize in {"tollbridge": True, "soak": False}.items():
    hypothesis.settings.register_profile(
        profile, deadline=None, print_blob=True, derandomize=derandomize, suppress_health_check=SLOW
    )
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "tollbridge"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A real PostgreSQL, shared by the session."""
    with Postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """The URL of an empty database for this test alone."""
    with postgres_server.database() as url:
        yield url


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[Valkey]:
    """A real Valkey, shared by the session: use your own keys, or a server of your own."""
    with Valkey() as server:
        yield server


@pytest.fixture
def valkey_url(valkey_server: Valkey) -> str:
    """The URL of the shared Valkey, emptied."""
    assert valkey_server.command("FLUSHALL") == b"+OK\r\n"
    return valkey_server.url()


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """`tests/sdk/node_modules` with the packages listed in `tests/sdk/package.json`; fails if Node is missing."""
    return install(ROOT / "tests" / "sdk")


class NetworkUse(Exception):
    """A test tried to leave this machine."""


def _is_local(host: object) -> bool:
    """Loopback, or a name that never resolves (for tests of DNS errors)."""
    name = host.decode() if isinstance(host, bytes) else str(host or "127.0.0.1")
    if name == "localhost" or name.endswith((".localhost", ".invalid")):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _require_local(host: object) -> None:
    if not _is_local(host):
        raise NetworkUse(f"tests may only talk to this machine, not to {host!r}")


@pytest.fixture(autouse=True, scope="session")
def network_off() -> Iterator[None]:
    """Refuse connections and look-ups that leave this machine, through Python's sockets and through uvloop.

    Programs started by a test are not covered.
    """

    real_connect, real_connect_ex = socket.socket.connect, socket.socket.connect_ex
    real_sendto, real_getaddrinfo = socket.socket.sendto, socket.getaddrinfo
    real_create_connection = uvloop.Loop.create_connection

    def require_local_peer(sock: socket.socket, address: Any) -> None:
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            _require_local(address[0])

    def connect(sock: socket.socket, address: Any) -> None:
        require_local_peer(sock, address)
        real_connect(sock, address)

    def connect_ex(sock: socket.socket, address: Any) -> int:
        require_local_peer(sock, address)
        return real_connect_ex(sock, address)

    def sendto(sock: socket.socket, data: Any, *rest: Any) -> int:
        require_local_peer(sock, rest[-1])
        return real_sendto(sock, data, *rest)

    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        _require_local(host)
        return real_getaddrinfo(host, *rest, **options)

    async def create_connection(loop: Any, factory: Any, host: Any = None, *rest: Any, **options: Any) -> Any:
        _require_local(host)
        return await real_create_connection(loop, factory, host, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect_ex)
        patch.setattr(socket.socket, "sendto", sendto)
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        patch.setattr(uvloop.Loop, "create_connection", create_connection)
        yield
