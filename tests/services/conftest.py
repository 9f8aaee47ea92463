"""A migrated database of each engine, empty for every test, and a gateway's ledger on it."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from tests.servers import Postgres

from tollbridge.core.ledger import End, Held, Hold, Record, Verdict
from tollbridge.services.secrets import Secrets
from tollbridge.store import processes
from tollbridge.store.db import Database, SqliteDatabase, open_database
from tollbridge.store.ledger import Ledger
from tollbridge.store.ledger.postgres import PostgresLedger
from tollbridge.store.ledger.sqlite import SqliteLedger
from tollbridge.store.prices import Terms, register
from tollbridge.store.schema import migrate
from tollbridge.store.verify import verify
from tollbridge.values import Outcome, Price

T = TypeVar("T")

MASTER = Secrets("0123456789abcdef" * 4)
NANO_A_TOKEN = Price(input=1000, output=1000, cache_read=1000, cache_write=1000, cache_write_1h=1000)
TERMS = Terms(model="deepseek-chat", provider="p", upstream_model="m", price=NANO_A_TOKEN, cost=NANO_A_TOKEN)
PLANS = frozenset({"default", "gold"})


class World(msgspec.Struct):
    """A database of one engine, and how to use it from a test."""

    url: str
    directory: Path

    def run(self, use: Callable[[Database], Awaitable[T]]) -> T:
        """Run a use case on an event loop of its own."""

        async def main() -> T:
            async with self.opened() as database:
                return await use(database)

        return asyncio.run(main())

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Database]:
        database = open_database(self.url)
        await database.start()
        try:
            yield database
        finally:
            await database.close()

    @asynccontextmanager
    async def serving(self, database: Database) -> AsyncIterator[Ledger]:
        """The ledger of a running gateway."""
        assert await register(database, [TERMS]) == [1]
        process = await processes.begin(database)
        ledger: Ledger
        if isinstance(database, SqliteDatabase):
            ledger = SqliteLedger(database.path, process.epoch, database.turn)
        else:
            ledger = PostgresLedger(self.url, process.epoch, self.directory)
        await ledger.start()
        try:
            yield ledger
        finally:
            await ledger.stop()
            await process.finish()


def hold(ledger: Ledger, account_id: int, key_id: int, amount: int) -> Hold:
    return Hold(id=ledger.next_id(), account_id=account_id, key_id=key_id, want=amount, least=amount)


async def spend(ledger: Ledger, account_id: int, key_id: int, amount: int) -> Verdict:
    """A call of `amount` tokens for one nano-USD each, or what refused it."""
    op = hold(ledger, account_id, key_id, amount)
    held = await ledger.submit(op)
    if not isinstance(held, Held):
        return held
    record = Record(started_at=0, duration_ms=1, price_version=1, input=amount, outcome=Outcome.COMPLETED)
    return await ledger.submit(End(hold=op.id, account_id=account_id, key_id=key_id, charge=amount, record=record))


def _migrate(url: str) -> None:
    asyncio.run(migrate(url))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "tollbridge.db"
    _migrate(f"sqlite:///{path}")
    return path


def prove(world: World) -> None:
    """Whatever a test did, the books must be right."""
    report = world.run(verify)
    assert report.ok, report.problems


@pytest.fixture
def sqlite_world(migrated_file: Path, tmp_path: Path) -> Iterator[World]:
    path = tmp_path / "data" / "tollbridge.db"
    path.parent.mkdir()
    shutil.copy(migrated_file, path)
    world = World(f"sqlite:///{path}", path.parent)
    yield world
    prove(world)


@pytest.fixture(params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """The same contract on both engines."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_world")
    else:
        server: Postgres = request.getfixturevalue("postgres_server")
        with server.database(template=server.template("migrated", _migrate)) as url:
            world = World(url, tmp_path)
            yield world
            prove(world)
