"""A gateway process with its real parts, on a virtual machine that can lose power, its network or its clock."""

import asyncio
import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.simulation.loop import LIFE, Life, Machine, VirtualLoop
from tests.simulation.provider import Providers
from tests.simulation.server import InOrder, Server, Session, SimulatedBooks, SimulatedDatabase
from tests.simulation.town import Town

from tollbridge.app import Gateway
from tollbridge.core.ledger import Operation, Verdict
from tollbridge.errors import TollbridgeError
from tollbridge.jobs import Jobs
from tollbridge.limits.memory import MemoryLimiter
from tollbridge.services.providers import upstreams
from tollbridge.store import processes
from tollbridge.store.ledger.postgres import CONNECT_S, PostgresLedger
from tollbridge.store.ledger.postgres_books import Books
from tollbridge.store.ledger.spool import Done, Kept, Leftover, Spool, _nothing, leftovers
from tollbridge.upstream import auth
from tollbridge.upstream.health import Health
from tollbridge.upstream.opening import OpenUpstream

RESTART_S = 1.0
_DISK_S = (0.001, 0.001, 0.02, 0.3)


class World:
    """What all nodes share. `saw` is told of each operation, with the future of its verdict."""

    def __init__(self, loop: VirtualLoop, chance: Random, server: Server, providers: Providers, town: Town) -> None:
        self.loop = loop
        self.chance = chance
        self.server = server
        self.providers = providers
        self.town = town
        self.prices = 0
        self.saw: Callable[[Operation, asyncio.Future[Verdict]], None] = lambda op, future: None
        self.limiter: Callable[[Callable[[], float]], MemoryLimiter] = MemoryLimiter
        self.pids = itertools.count(1)


class SimulatedSpool(Spool):
    """`Spool` with a disk that takes its time on the loop. A power cut takes what is not fsynced, or half of it."""

    chance: Random
    all: "list[SimulatedSpool]"

    def __init__(self, directory: Path, epoch: int, started_at: int) -> None:
        super().__init__(directory, epoch, started_at)
        self._group: list[tuple[Sequence[Kept], Done]] = []
        self._writing = False
        self.life = LIFE.get()
        self.all.append(self)

    def append(self, operations: Sequence[Kept], done: Done) -> None:
        self._group.append((operations, done))
        if not self._writing:
            self._writing = True
            self._loop.call_later(self.chance.choice(_DISK_S), self._turn)

    def clear(self) -> None:
        self.append((), _nothing)

    def close(self) -> None:
        self._turn()
        super().close()
        self.all.remove(self)

    def _turn(self) -> None:
        group, self._group, self._writing = self._group, [], False
        if group:
            self._write(group)

    def power_cut(self) -> None:
        if self._group and self.chance.random() < 0.5:
            torn = b"".join(spool_record(op) for operations, _ in self._group for op in operations)
            os.write(self._file, torn[: self.chance.randint(0, len(torn))])
        os.close(self._file)


def simulated_leftovers(directory: Path) -> Iterator[Leftover]:
    """`leftovers` whose locks end with the process that found them."""
    for leftover in leftovers(directory):
        life = LIFE.get()
        assert life is not None
        life.leftovers.append(leftover)
        leftover.release = partial(_release, life, leftover)  # type: ignore[method-assign]
        yield leftover


def _release(life: Life, leftover: Leftover) -> None:
    life.leftovers.remove(leftover)
    Leftover.release(leftover)


def spool_record(op: Kept) -> bytes:
    from tollbridge.store.ledger import spool

    return spool._record(op)


class SimulatedLedger(PostgresLedger):
    """`PostgresLedger`, connected to a `Server`."""

    def __init__(self, world: World, reaches: Callable[[], bool], epoch: int, directory: Path) -> None:
        super().__init__("", epoch, directory)
        self._world = world
        self._reaches = reaches

    def submit(self, op: Operation) -> asyncio.Future[Verdict]:
        future = super().submit(op)
        self._world.saw(op, future)
        return future

    async def _connected(self) -> Books:
        async with asyncio.timeout(CONNECT_S):
            session = await Session.open(self._world.server, self._reaches)
        session.on_lost = self._wake
        return SimulatedBooks(session, self.epoch)


class SimulatedGateway(Gateway):
    """`Gateway` with parts made for it."""

    def __init__(self, world: World, database: SimulatedDatabase) -> None:
        super().__init__(world.town.settings, lambda _: None)
        self._world = world
        self._database = database
        # Parts that take a clock as an argument took the real one on import.
        self._limiter = world.limiter(world.loop.time)
        self._health = Health(world.loop.time)

    async def open(self, process: processes.Process, ledger: SimulatedLedger, fatal: Callable[[], None]) -> None:
        self._process, self.ledger = process, ledger
        await self.price()
        self._jobs = Jobs(
            self._database,
            process,
            ledger,
            url="",
            on_change=self._forget,
            on_fatal=lambda _: fatal(),
        )
        self._jobs.start()

    async def price(self) -> None:
        """What a reload does after the operator has changed prices."""
        assert self.ledger is not None
        self._line = await self._lay_line(self.settings, self.ledger, self._world.town.master)
        self._line.edge._live._calls = InOrder()  # type: ignore[assignment]
        self._line.edge._relay._clock = self._world.loop.time

    async def close(self) -> None:
        assert self._jobs is not None
        assert self.ledger is not None
        assert self._process is not None
        await self._jobs.stop()
        await self.ledger.stop()
        await self._process.finish()
        self._log.flush()
        await self._database.close()

    def _open_upstreams(self, wanted: Any) -> dict[str, OpenUpstream]:
        providers = self._world.providers
        return {name: OpenUpstream(each, providers.pool(), auth.headers(each)) for name, each in wanted.items()}  # type: ignore[arg-type]

    async def _upstream_values(self, settings: Any) -> Any:
        return upstreams(settings)

    async def _read_catalogs(self, settings: Any, upstreams: Any) -> Any:
        return self._world.town.catalogs[self._world.prices]


class Node:
    def __init__(self, world: World, name: str, directory: Path) -> None:
        self.world = world
        self.machine = Machine(name)
        self.directory = directory
        self.online = True
        self.gateway: SimulatedGateway | None = None
        self.running = 0
        self.life: Life | None = None
        self._context: Context | None = None
        self._stop: asyncio.Event | None = None
        directory.mkdir(exist_ok=True)

    @property
    def up(self) -> bool:
        return self.life is not None

    def start(self) -> None:
        if self.life is None:
            self.life, _ = self.world.loop.begin(self.machine, self._live)

    def crash(self) -> None:
        life, self.life, self.gateway, self.running = self.life, None, None, 0
        if life is None:
            return
        self.world.loop.crash(life)
        for leftover in tuple(life.leftovers):
            leftover.release()
        for session in tuple(self.world.server.sessions):
            if session.life is life:
                session.terminate()
        for spool in tuple(SimulatedSpool.all):
            if spool.life is life:
                SimulatedSpool.all.remove(spool)
                spool.power_cut()

    def stop(self) -> None:
        """SIGTERM."""
        if self._stop is not None:
            self._stop.set()

    def call(self, downstream: Any) -> "asyncio.Task[None]":
        """Take a request that has arrived."""
        assert self.gateway is not None
        assert self._context is not None
        return self.world.loop.create_task(self._serve(downstream), context=self._context.copy())

    async def _serve(self, downstream: Any) -> None:
        assert self.gateway is not None
        line = self.gateway._line
        assert line is not None
        self.running += 1
        try:
            await line.edge.answer(downstream)
        finally:
            self.running -= 1

    def reaches(self) -> bool:
        return self.online

    async def _live(self, life: Life) -> None:
        """Act as a supervisor: start, serve until told to stop or taken for dead, and start again after a failure."""
        while True:
            life.pid = next(self.world.pids)
            self._context, self._stop = copy_context(), asyncio.Event()
            again = False
            try:
                gateway = await self._open()
                await self._stop.wait()
                again = gateway.vital.draining
                gateway.drain()
                await self._idle()
                self.gateway = None
                await gateway.close()
            except TollbridgeError:
                self.gateway, again = None, True
            if not again:
                break
            await asyncio.sleep(RESTART_S)
        self.life = None

    async def _idle(self) -> None:
        while self.running:  # noqa: ASYNC110 - as uvicorn does
            await asyncio.sleep(0.5)

    async def _open(self) -> SimulatedGateway:
        assert self._stop is not None
        stop = self._stop
        database = SimulatedDatabase(self.world.server, self.reaches)
        process = await processes.begin(database)
        ledger = SimulatedLedger(self.world, self.reaches, process.epoch, self.directory)
        await ledger.start()
        try:
            await process.recover(ledger)
            gateway = SimulatedGateway(self.world, database)

            def fatal() -> None:
                gateway.drain()
                stop.set()

            await gateway.open(process, ledger, fatal)
        except TollbridgeError:
            with contextlib.suppress(TollbridgeError):
                await ledger.stop()
            raise
        self.gateway = gateway
        return gateway
