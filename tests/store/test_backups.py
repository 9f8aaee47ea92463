"""H9, G18: copies of PostgreSQL taken while a gateway writes, put back, and proved. (SQLite's: services/test_restore.)

They are taken with PostgreSQL's own tools, as docs/operate/backup.md says.
"""

import asyncio
import itertools
import random
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.servers import Postgres
from tests.store.books import Books, Customer, Engine, assert_verified, serving
from tests.store.conftest import migrate

from tollbridge.core.ledger import Ended
from tollbridge.errors import Unavailable
from tollbridge.store.db import open_database
from tollbridge.store.seal import seal


class Writing:
    """Calls that go on; `ended` are those whose end was acknowledged, with their charges, in that order."""

    def __init__(self, books: Books, customers: list[Customer]) -> None:
        self.books = books
        self.ended: list[int] = []
        self._customers = customers
        self._over = False

    async def call_for_ever(self) -> None:
        while not self._over:
            customer = random.choice(self._customers)
            try:
                hold = await self.books.held(customer, 100)
            except Unavailable:  # a disk that is busy with the copy
                await asyncio.sleep(0.05)
                continue
            await asyncio.sleep(random.uniform(0, 0.005))
            if isinstance(await self.books.ledger.submit(self.books.end_op(hold, customer, 7)), Ended):
                self.ended.append(hold)

    def stop(self) -> None:
        self._over = True


@asynccontextmanager
async def writing(url: str, folder: Path) -> AsyncIterator[Writing]:
    async with serving(Engine(url, folder)) as books:
        customers = [await books.customer(paid=10**9, limit=limit) for limit in (None, 10**9, None)]
        load = Writing(books, customers)
        tasks = [asyncio.create_task(load.call_for_ever()) for _ in range(8)]
        while len(load.ended) < 50:  # noqa: ASYNC110 - until it runs
            await asyncio.sleep(0.01)
        try:
            yield load
        finally:
            load.stop()
            await asyncio.gather(*tasks)


async def proved(url: str, ended: list[int]) -> None:
    """The books of a copy are right, and hold every end that had been acknowledged when it was begun."""
    database = open_database(url, statement_timeout=60)
    await database.start()
    try:
        await assert_verified(database)
        stored = {row[0] for row in await database.fetch("SELECT hold_id FROM usage")}
        assert set(ended) <= stored
    finally:
        await database.close()


@pytest.mark.parametrize("copies", [2, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_dumps_are_whole_while_a_gateway_writes(postgres_server: Postgres, tmp_path: Path, copies: int) -> None:
    server = postgres_server
    dumps = [server.directory / f"{time.time_ns()}-{number}.dump" for number in range(copies)]
    before: list[list[int]] = []

    async def use(url: str) -> None:
        async with writing(url, tmp_path) as load:
            for number, dump in enumerate(dumps):
                if number % 2:
                    await seal(load.books.database, settled_ms=100)
                before.append(list(load.ended))
                await asyncio.to_thread(server.run, "pg_dump", "--format=custom", f"--file={dump}", url)

    with server.database(server.template("migrated", migrate)) as url:
        asyncio.run(use(url))
    for dump, ended in zip(dumps, before, strict=True):
        with server.database() as other:
            server.run("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={other}", str(dump))
            asyncio.run(proved(other, ended))


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_any_moment_can_be_gone_back_to(tmp_path: Path) -> None:
    """A base backup and the archived log, taken under load: the books as they were at the moment that is named."""
    moments: list[tuple[str, int]] = []
    switched: list[str] = []

    async def use(server: Postgres, url: str) -> None:
        async with writing(url, tmp_path) as load:
            base = ("--pgdata", str(server.directory / "base"), "--dbname", server.url(), "--checkpoint=fast")
            await asyncio.to_thread(server.run, "pg_basebackup", *base)
            for number in range(3):
                await asyncio.sleep(0.3)
                name = f"moment_{number}"
                ended = len(load.ended)
                await asyncio.to_thread(server.sql, f"SELECT pg_create_restore_point('{name}')")
                moments.append((name, ended))
            load.stop()
        switched.append(await asyncio.to_thread(server.sql, "SELECT pg_walfile_name(pg_switch_wal())"))

    with Postgres(archive_mode="on", archive_command="cp %p ../archive/%f") as server:
        archive = server.directory / "archive"
        archive.mkdir()
        archive.chmod(0o777)
        url = server.url("books")
        server.sql("CREATE DATABASE books")
        migrate(url)
        asyncio.run(use(server, url))
        # All that was written before the switch is archived.
        newest = f"SELECT last_archived_wal >= '{switched[0]}' FROM pg_stat_archiver"
        wait_for(lambda: server.sql(newest) == "t")
        counts = []
        for name, ended in moments:
            counts.append(gone_back(server, archive, name))
            assert counts[-1] >= ended
    assert all(earlier < later for earlier, later in itertools.pairwise(counts))


def gone_back(server: Postgres, archive: Path, moment: str) -> int:
    """How many ends a server has that was brought to `moment`; its books are right."""
    again = Postgres(
        restore_command=f"cp {archive}/%f %p", recovery_target_name=moment, recovery_target_action="promote"
    )
    try:
        subprocess.run(["cp", "-a", str(server.directory / "base"), str(again.data)], check=True)
        (again.data / "recovery.signal").touch()
        again.start()
        wait_for(lambda: again.sql("SELECT pg_is_in_recovery()") == "f")
        asyncio.run(proved(again.url("books"), []))
        return int(again.sql("SELECT count(*) FROM usage", database="books"))
    finally:
        again.stop()


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
