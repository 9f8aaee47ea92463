"""`tollbridge serve --workers N` on real PostgreSQL and Valkey, and clients that keep their connections.

async with Fleet(folder, database_url, redis_url, always(says(completion())), workers=4) as fleet:
    await fleet.all_answer()
    async with Load(fleet, clients=16) as load:
        fleet.process.send_signal(signal.SIGUSR2)
        await load.answered(1_000)
    assert load.failures == []
"""

import asyncio
import contextlib
import re
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from tests.gateway.process import PATIENCE_S, Instance, command_line, configure, until
from tests.gateway.site import EMAIL, Call
from tests.servers import Postgres
from tests.upstream.bad_server import BadServer, Peer

from tollbridge.config import Source, read
from tollbridge.core.money import parse_usd
from tollbridge.services import accounts, credit, keys, secrets
from tollbridge.store import schema
from tollbridge.store.db import Row, open_database
from tollbridge.store.verify import verify

# Reasons for which a request may be refused there: the loop or the disk is late.
BUSY = (b"Too many requests are waiting", b"This server is overloaded")


def migrated(server: Postgres) -> str:
    """The name of a template with the newest schema."""
    return server.template("migrated", lambda url: _run(schema.migrate(url)))


def _run(what: Any) -> None:
    asyncio.run(what)


class Fleet(Instance):
    """A supervisor and its workers; `folder` outlives them. The books are verified at the end.

    `top` and `more`: settings before and after the tables of the configuration. `workers` = 0: without that option.
    `key`: an existing one; None: an account with $100 gets one. `sock`: a socket handed over to them.
    """

    def __init__(
        self,
        folder: Path,
        database_url: str,
        redis_url: str,
        script: Callable[[Peer], Any],
        *,
        workers: int,
        top: str = "",
        more: str = "",
        env: Mapping[str, str] | None = None,
        limit_files: int | None = None,
        key: str | None = None,
        sock: socket.socket | None = None,
    ) -> None:
        super().__init__(folder, env)
        self.url = database_url
        self.key = key or ""
        self.count = workers
        self._redis = redis_url
        self._script = script
        self._top = top
        self._more = more
        self._limit_files = limit_files
        self._sock = sock
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        upstream = await self._stack.enter_async_context(BadServer(self._script))
        servers = f'database_url = "{self.url}"\nredis_url = "{self._redis}"\n'
        configure(self.folder, upstream.url, servers + self._top, self._more)
        await self.start()
        self.database = open_database(self.url)
        await self.database.start()
        self._stack.push_async_callback(self.database.close)
        if not self.key and self.count:
            self.key = await self._make_key_here()
        elif not self.key:
            # A version whose tables are not ours.
            await self.make_key("100")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.stop()
            if error is None:
                report = await verify(self.database)
                assert not report.problems, report.problems
                assert report.open_holds == 0
        finally:
            await self._stack.aclose()

    async def _make_key_here(self) -> str:
        settings = read(Source(self.config))
        account = await accounts.create(self.database, EMAIL, plans=settings.plans, actor="test")
        amount = parse_usd("100")
        await credit.grant(
            self.database, account, amount, reason="test", actor="test", idempotency_key=f"test/{account.id}"
        )
        made = await keys.create(
            self.database, secrets.load(settings), account, settings.brand.key_prefix, actor="test"
        )
        return made.text

    async def start(self) -> None:
        command = command_line(self.config, "serve", *(("--workers", str(self.count)) if self.count else ()))
        if self._limit_files is not None:
            command = ["sh", "-c", f'ulimit -n {self._limit_files}; exec "$@"', "sh", *command]
        passed = [] if self._sock is None else [self._sock.fileno()]
        for each in passed:
            handed_over = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&{each}'
            command = ["bash", "-c", handed_over, "bash", *command]
        await self._start(command, passed)

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Tell it to stop, and wait; whatever does not end is killed."""
        family = [*self.workers(), psutil.Process(self.process.pid)] if self.process.returncode is None else []
        if self.process.returncode is None:
            self.process.send_signal(how)
        try:
            return await asyncio.wait_for(self.process.wait(), PATIENCE_S)
        finally:
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()

    def workers(self) -> list[psutil.Process]:
        found = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for each in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if each.status() != psutil.STATUS_ZOMBIE:
                        found.append(each)
        return found

    def answering(self) -> set[int]:
        """The processes that said they are ready and live."""
        said = {int(pid) for pid in re.findall(r"worker \d+ \(process (\d+)\) answers", self.log)}
        return said & {each.pid for each in self.workers()}

    async def all_answer(self) -> None:
        await until(lambda: len(self.answering()) == self.count)

    def connections(self) -> dict[int, int]:
        """How many clients each worker has."""
        return {
            each.pid: sum(link.laddr.port == self.port and bool(link.raddr) for link in each.net_connections("tcp"))
            for each in self.workers()
        }

    async def fetch(self, sql: str, *values: Any) -> list[Row]:
        return await self.database.fetch(sql, *values)


class Load:
    """`clients` callers, each on a connection that it keeps until told otherwise, with pauses in between.

    A request that was sent but not answered with 200 is a failure, unless the machine has too much else to do. Finding
    a connection closed before anything is sent on it is not a failure, nor is being told `Connection: close`: clients
    open another one.
    """

    def __init__(self, fleet: Fleet, clients: int, pause: float = 0.01, **fields: Any) -> None:
        self.answers = 0
        self.shed = 0
        self.failures: list[str] = []
        self.connections = 0
        self._fleet = fleet
        self._clients = clients
        self._pause = pause
        self._fields = fields
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._call_on(number)) for number in range(self._clients)]

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.wait_for(asyncio.gather(*self._tasks), PATIENCE_S)

    async def answered(self, more: int) -> None:
        wanted = self.answers + more
        await until(lambda: self.answers >= wanted or self.failures)

    async def _call_on(self, number: int) -> None:
        request = self._fleet.request(keep=True, **self._fields)
        call: Call | None = None
        while not self._stopped:
            try:
                if call is None or call.reader.at_eof():
                    if call is not None:
                        call.close()
                    self.connections += 1
                    call = await self._fleet.connect()
                call.writer.write(request)
                reply = await call.rest()
            except (OSError, asyncio.IncompleteReadError) as error:
                self.failures.append(repr(error))
                if call is not None:
                    call.close()
                call = None
                continue
            if reply.status == 200:
                self.answers += 1
            elif any(reason in reply.body for reason in BUSY):
                self.shed += 1
            else:
                self.failures.append(f"{reply.status} {reply.body[:200]!r}")
            if reply.headers.get("connection") == "close":
                call.close()
                call = None
            await asyncio.sleep(self._pause * (1 + number % 5))
        if call is not None:
            call.close()
