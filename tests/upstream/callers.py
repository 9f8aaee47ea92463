"""How the tests call a pool."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

from tests.upstream.bad_server import BadServer, Script

from tollbridge.errors import UpstreamError
from tollbridge.upstream.connection import Connection
from tollbridge.upstream.pool import Limits, Pool, Response, tls_context

HEADERS = [(b"authorization", b"Bearer sk-secret"), (b"content-type", b"application/json")]
# Deadlines 200 times shorter, for what must time out. The total is so much longer that a slow machine does not reach it
# first: tests assert which deadline it was.
BRISK = Limits(connect=0.5, first_byte=0.2, gap=0.2, total=1.2, idle=0.2, queue=0.2)
# What a busy machine adds to a deadline.
LATE = 5.0


class WatchedPool(Pool):
    """Remembers its connections."""

    def __init__(self, base_url: str, limits: Limits) -> None:
        super().__init__(base_url, limits)
        self._opened: list[Connection] = []

    def add(self, connection: Connection) -> None:
        self._opened.append(connection)
        super().add(connection)

    @property
    def reused_total(self) -> int:
        """Calls on a connection that had carried one before."""
        return sum(max(0, connection.served - 1) for connection in self._opened)


@contextlib.asynccontextmanager
async def serving(
    script: Script, limits: Limits | None = None, *, path: str = "", tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[BadServer, WatchedPool]]:
    """A server with this script and a pool for it."""
    async with BadServer(script, tls=tls) as server:
        pool = WatchedPool(server.url + path, limits or Limits())
        try:
            yield server, pool
        finally:
            await pool.close()
            assert pool.connections == pool.idle == pool.waiting == 0


async def post(pool: Pool, body: bytes = b"{}", target: bytes = b"/x") -> Response:
    return await pool.open(b"POST", target, HEADERS, body)


async def ask(pool: Pool, body: bytes = b"{}", target: bytes = b"/x") -> tuple[int, bytes]:
    """(status, whole body)"""
    response = await post(pool, body, target)
    return response.status, await response.read()


def trusting(authority: Path) -> ssl.SSLContext:
    """The product's own client context, which also accepts this certificate."""
    context = tls_context()
    context.load_verify_locations(authority)
    return context


class Sink:
    """A consumer of a piped response."""

    def __init__(self, response: Response) -> None:
        self.data = bytearray()
        self.ends = 0
        self._end: asyncio.Future[UpstreamError | None] = asyncio.get_running_loop().create_future()
        response.pipe(self.data.extend, self._on_end)

    def _on_end(self, error: UpstreamError | None) -> None:
        self.ends += 1
        if self.ends == 1:
            self._end.set_result(error)

    async def end(self) -> UpstreamError | None:
        async with asyncio.timeout(30):
            error = await self._end
        await asyncio.sleep(0)
        assert self.ends == 1
        return error
