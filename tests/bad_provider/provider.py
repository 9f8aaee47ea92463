"""The misbehaving provider: an HTTP server on asyncio alone that plays the case named by a request.

A request names a case in double square brackets anywhere in the body (the runner puts it into the user's message), so
that any gateway passes it on. One port speaks all dialects: each case knows its own.
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections import Counter
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from tests.bad_provider.case import Case, End, Forever, Pause, Step
from tests.bad_provider.raw import http

_MARK = re.compile(rb"\[\[([\w/-]+)\]\]")
# The target of a redirect that must not be followed.
TRAP = b"/trap"


class Provider:
    """`calls`: the requests of each case; `trapped`: those that followed a redirect."""

    def __init__(self, cases: Iterable[Case], port: int = 0, host: str = "127.0.0.1") -> None:
        self.calls: Counter[str] = Counter()
        self.trapped = 0
        self.port = port
        self._host = host
        self._cases = {case.name: case for case in cases}
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self._host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError):
            open_ = True
            while open_:
                open_ = await self._answer(await _request(reader), writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def _answer(self, request: tuple[bytes, bytes], writer: asyncio.StreamWriter) -> bool:
        """Play one case; whether the connection may be used again."""
        target, body = request
        if target.startswith(TRAP):
            self.trapped += 1
        found = _MARK.search(body)
        case = self._cases.get(found[1].decode()) if found else None
        if case is None:
            writer.write(http({"error": {"message": "no such case"}}, 404))
            return True
        self.calls[case.name] += 1
        for step in case.steps:
            if isinstance(step, End):
                await _end(step, writer)
                return False
            await _play(step, writer)
        return True


async def _play(step: Step, writer: asyncio.StreamWriter) -> None:
    if isinstance(step, bytes):
        writer.write(step)
        await writer.drain()
    elif isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
    elif isinstance(step, Forever):
        for _ in range(step.most):
            if writer.is_closing():
                return
            writer.write(step.data)
            await writer.drain()
            await asyncio.sleep(0)


async def _end(how: End, writer: asyncio.StreamWriter) -> None:
    await writer.drain()
    await asyncio.sleep(0.02)  # let what was sent arrive: RST must not overtake anything unread
    if how is End.RESET:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()


async def _request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Target and body of the next request, chunked or with a length."""
    lines = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines[1:])}
    if headers.get(b"transfer-encoding", b"").lower() != b"chunked":
        return lines[0].split()[1], await reader.readexactly(int(headers.get(b"content-length", b"0")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return lines[0].split()[1], body
