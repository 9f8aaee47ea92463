"""H6: the disk of the database is full. Paid calls are refused, whatever only reads works, and all of it recovers."""

import asyncio
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.gateway.site import Site, always, chat, completion, migrated_file, run, says
from tests.servers import Postgres
from tests.store.books import Books, Customer, Engine, assert_verified, serving
from tests.store.conftest import migrate
from tests.store.ledger.test_sqlite import Disk
from tests.upstream.bad_server import Peer, Request

from tollbridge.core.ledger import Ended, Held, Spooled
from tollbridge.errors import Unavailable

CHAT = "/v1/chat/completions"
# Some databases of PostgreSQL, their log, and room for a test.
POSTGRES_MB = 160


@contextmanager
def mounted(directory: Path, megabytes: int) -> Iterator[Disk]:
    directory.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0777", "tmpfs", str(directory)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can make a disk that is small; what SQLite does is tried with a quota too")
    disk = Disk(directory)
    try:
        yield disk
    finally:
        disk.free()
        subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_a_gateway_on_a_full_disk_sells_nothing_and_still_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    calls = 0

    async def answers(request: Request, peer: Peer) -> None:
        nonlocal calls
        calls += 1
        await says(completion())(request, peer)

    async def test(disk: Disk) -> None:
        async with Site(always(answers), credit_usd="1") as site:
            for _ in range(times):
                assert (await site.post(CHAT, chat())).status == 200
                called = calls
                disk.fill()
                refused = await site.post(CHAT, chat())
                assert (refused.status, refused.json["error"]["code"]) == (503, "ledger_unavailable")
                assert int(refused.headers["retry-after"]) > 0
                assert calls == called, "a provider was called without a hold"
                for path in ("/v1/models", "/v1/key", "/health"):
                    assert (await site.get(path)).status == 200, path
                await unheard_for(site, lambda seconds: seconds > 0.5)
                disk.free()
                deadline = time.monotonic() + 30
                while (await site.post(CHAT, chat())).status != 200:
                    assert time.monotonic() < deadline
                await unheard_for(site, lambda seconds: seconds < 0.5)

    monkeypatch.setattr("tollbridge.jobs.BEAT_S", 0.05)
    run(migrated_file())  # which stays, and not on that disk
    with mounted(tmp_path / "small", 4) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "small"))
        run(test(disk))


async def unheard_for(site: Site, right: Callable[[float], bool]) -> None:
    """Wait until the gauge that an operator is woken by says how long nothing could be written."""
    async with asyncio.timeout(30):
        while True:
            told = (await site.get("/metrics")).body.decode()
            [line] = re.findall(r"^tollbridge_heartbeat_age_seconds (\S+)$", told, re.MULTILINE)
            if right(float(line)):
                return
            await asyncio.sleep(0.05)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_postgresql_on_a_full_disk_loses_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may stop, as it does when it cannot write its log. Ends go to the spool, which is on another disk."""
    # The path of a socket is short, and the server's account must reach it.
    with tempfile.TemporaryDirectory() as short, mounted(Path(short), POSTGRES_MB) as disk:
        Path(short).chmod(0o777)
        monkeypatch.setattr(tempfile, "tempdir", short)
        small_log = {"min_wal_size": "32MB", "max_wal_size": "32MB"}
        with Postgres(**small_log) as server:
            url = server.url("books")
            server.sql("CREATE DATABASE books")
            migrate(url)
            spool = tmp_path / "spool"
            spool.mkdir()
            asyncio.run(fill_and_free(server, Engine(url, spool), disk))
            assert "No space left on device" in server.log.read_text()


async def fill_and_free(server: Postgres, engine: Engine, disk: Disk) -> None:
    async with serving(engine) as books:
        customer = await books.customer(paid=10**9)
        for _ in range(20):
            held = [await books.held(customer, 100) for _ in range(10)]
            disk.fill()
            await until_refused(books, customer)
            ends = [await books.ledger.submit(books.end_op(hold, customer, 9)) for hold in held]
            assert all(isinstance(end, Ended | Spooled) for end in ends), ends
            disk.free()
            if not server.running:
                await asyncio.to_thread(server.start)
            async with asyncio.timeout(30):
                while not await granted(books, customer) or waits(books, engine):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            stored = {row[0]: row[1] for row in await books.database.fetch("SELECT hold_id, charge FROM usage")}
            assert all(stored[hold] == 9 for hold in held)
        await assert_verified(books.database)


def waits(books: Books, engine: Engine) -> bool:
    """Whether something is not in the database yet."""
    return books.ledger.depth() > 0 or any(path.stat().st_size for path in engine.directory.glob("*.spool"))


async def until_refused(books: Books, customer: Customer) -> None:
    """What is reserved of the log is used up first."""
    async with asyncio.timeout(60):
        while await granted(books, customer, 500):
            pass


async def granted(books: Books, customer: Customer, count: int = 1) -> bool:
    """Whether so many holds at once are granted. Those that are, are ended."""
    futures = {}
    try:
        for _ in range(count):
            op = books.hold_op(customer, 10)
            futures[op.id] = books.ledger.submit(op)
    except Unavailable:
        pass
    verdicts = await asyncio.gather(*futures.values(), return_exceptions=True)
    held = [id_ for id_, verdict in zip(futures, verdicts, strict=True) if isinstance(verdict, Held)]
    await asyncio.gather(*(books.ledger.submit(books.end_op(id_, customer, 1)) for id_ in held))
    return len(held) == count
