"""Workers on one port: they share the load, are replaced without a failed request, killed in vain, and drained."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

import pytest
from tests.gateway.fleet import Fleet, Load, migrated
from tests.gateway.process import PATIENCE_S, until
from tests.gateway.site import DONE, STREAM_HEAD, Call, always, by_kind, chunk, completion, framed, says, streams
from tests.servers import Postgres
from tests.upstream.bad_server import Peer, Request

from tollbridge.edge.listening import listen
from tollbridge.values import Outcome

OPEN = "SELECT COUNT(*) FROM hold LEFT JOIN usage ON usage.hold_id = hold.id WHERE usage.hold_id IS NULL"


@pytest.fixture
def database_url(postgres_server: Postgres) -> Iterator[str]:
    with postgres_server.database(migrated(postgres_server)) as url:
        yield url


@pytest.mark.parametrize(
    ("workers", "requests"),
    [pytest.param(2, 1_000, id="short"), pytest.param(4, 10_000, marks=pytest.mark.soak, id="long")],
)
def test_a_rolling_restart_fails_no_request(
    tmp_path: Path, database_url: str, valkey_url: str, workers: int, requests: int
) -> None:
    """G17."""

    async def test() -> None:
        answer = always(by_kind(says(completion()), streams([chunk("a"), chunk(finish="stop"), DONE], 0.05)))
        async with Fleet(tmp_path, database_url, valkey_url, answer, workers=workers) as fleet:
            await fleet.all_answer()
            async with Load(fleet, 12) as load, Load(fleet, 4, stream=True) as streaming:
                await load.answered(50)
                while load.answers + streaming.answers < requests and not load.failures + streaming.failures:
                    old = fleet.answering()
                    fleet.process.send_signal(signal.SIGUSR2)
                    await until(partial(_all_but, fleet, old))
                    await load.answered(requests // 5)
            assert load.failures + streaming.failures == []
            rows = await fleet.fetch("SELECT COUNT(*), COUNT(DISTINCT hold_id) FROM usage")
            assert rows == [(load.answers + streaming.answers,) * 2]
            # What an operator reads at the first start is there once, however many workers came and went.
            assert fleet.out.count("/auth/reset?token=") == len(re.findall("models? on http", fleet.out)) == 1

    asyncio.run(test())


@pytest.mark.parametrize("trials", [1, pytest.param(20, marks=pytest.mark.soak)])
def test_a_killed_worker_is_replaced_and_its_holds_come_back(
    tmp_path: Path, database_url: str, valkey_url: str, trials: int
) -> None:
    """G-1, G5: the others serve on, and whoever was cut off can call again at once."""

    async def endless(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD)
        while True:
            await peer.send(framed(chunk("word ")))
            await asyncio.sleep(0.2)

    async def test() -> None:
        answer = always(by_kind(says(completion()), endless))
        async with Fleet(tmp_path, database_url, valkey_url, answer, workers=4) as fleet:
            await fleet.all_answer()
            for _ in range(trials):
                await _kill_one(fleet)

    asyncio.run(test())


async def _kill_one(fleet: Fleet) -> None:
    calls = [await fleet.open(stream=True) for _ in range(16)]
    # The kernel deals them out by chance: until each worker has one.
    while not all(fleet.connections().values()):
        calls.append(await fleet.open(stream=True))
    for call in calls:
        await call.head()
    async with Load(fleet, 16) as load:
        await load.answered(100)
        connections = fleet.connections()
        assert all(connections.values()), "a worker has no client"
        victim = max(connections, key=lambda pid: connections[pid])
        [(epoch,)] = await fleet.fetch("SELECT epoch FROM process WHERE pid = $1 AND stopped_at IS NULL", victim)
        started = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        await load.answered(100) if not load.failures else None
        await until(lambda: len(fleet.answering()) == 4)
        took = time.monotonic() - started
        print(f"replaced after {took:.2f} s; clients were {connections}")
        # Whoever was on that process was cut off once. Nobody else, and nobody after it.
        assert len(load.failures) <= connections[victim]
        failed = len(load.failures)
        load.failures.clear()
        await load.answered(200)
        assert not load.failures, failed
        assert await fleet.fetch(f"{OPEN} AND hold.id >> 40 = $1", epoch) == [(0,)]
        assert took < 60
    for call in calls:
        call.close()
    await until(lambda: _nothing_is_open(fleet))


async def _nothing_is_open(fleet: Fleet) -> bool:
    return await fleet.fetch(OPEN) == [(0,)]


@pytest.mark.parametrize(
    ("count", "trials"), [(20, 1), pytest.param(200, 20, marks=pytest.mark.soak)], ids=["short", "long"]
)
def test_told_to_stop_they_finish_what_they_can(
    tmp_path: Path, database_url: str, valkey_url: str, count: int, trials: int
) -> None:
    """G-3: not ready at once, what ends in time ends, the rest gets its error event, and all of it is settled."""
    go_on = asyncio.Event()

    async def half_endless(request: Request, peer: Peer) -> None:
        text = json.loads(request.body)["messages"][0]["content"]
        await peer.send(STREAM_HEAD + framed(chunk("word ")))
        if text == "endless":
            await peer.closed()
            return
        await go_on.wait()
        for event in (chunk("last"), chunk(finish="stop"), DONE):
            await peer.send(framed(event))
        await peer.send(b"0\r\n\r\n")

    async def test() -> None:
        answer = always(by_kind(says(completion()), half_endless))
        more = '[server]\ndrain = "4s"\ndrain_pause = "4s"\ndrain_idle = "3s"\nmax_connections_per_client = 0\n'
        async with Fleet(tmp_path, database_url, valkey_url, answer, workers=2, more=more) as fleet:
            answered = 0
            for trial in range(trials):
                go_on.clear()
                if trial:
                    await fleet.start()
                await fleet.all_answer()
                answered += await _drain(fleet, count, go_on)
            rows = await fleet.fetch("SELECT outcome, COUNT(*), SUM(CAST(charge > 0 AS INTEGER)) FROM usage GROUP BY 1")
            whole, cut = answered, trials * count // 2
            assert sorted(rows) == [(Outcome.COMPLETED, whole, whole), (Outcome.OUR_FAULT, cut, cut)]

    asyncio.run(test())


async def _drain(fleet: Fleet, count: int, go_on: asyncio.Event) -> int:
    """How many calls were answered whole: half of the streams, and some that are no streams."""
    whole = [await fleet.open(stream=True, text="finite") for _ in range(count // 2)]
    cut = [await fleet.open(stream=True, text="endless") for _ in range(count // 2)]
    for call in [*whole, *cut]:
        status, headers = await call.head()
        assert (status, headers.get("connection")) == (200, "close")
    kept = await fleet.connect()
    kept.writer.write(fleet.request(keep=True))
    assert "connection" not in (await kept.rest()).headers
    assert (await fleet.get("/ready")).status == 200
    fleet.process.send_signal(signal.SIGTERM)
    await until(lambda: _refuses(fleet, "/ready"), 4)
    # A load balancer has time to notice: what it sends meanwhile is answered.
    reply = await fleet.post()
    assert (reply.status, reply.headers["connection"]) == (200, "close")

    answered = len(whole) + 2

    async def closes() -> bool:
        nonlocal answered
        answered += 1
        kept.writer.write(fleet.request(keep=True))
        reply = await kept.rest()
        assert reply.status == 200
        return reply.headers.get("connection") == "close"

    await until(closes, 3)  # its worker may be told later than the one that said that it is not ready
    kept.close()
    go_on.set()
    for call in whole:
        assert "[DONE]" in await _rest(call)
    for call in cut:
        assert "error" in await _rest(call)
    assert await asyncio.wait_for(fleet.process.wait(), PATIENCE_S) == 0
    assert await fleet.fetch(OPEN) == [(0,)]
    assert await fleet.fetch("SELECT COUNT(*) FROM process WHERE stopped_at IS NULL") == [(0,)]
    return answered


async def _rest(call: Call) -> str:
    text = b""
    with contextlib.suppress(asyncio.IncompleteReadError):
        async for piece in call.pieces():
            text += piece
    call.close()
    return text.decode()


def _all_but(fleet: Fleet, old: set[int]) -> bool:
    answering = fleet.answering()
    return len(answering) == fleet.count and not answering & old


async def _refuses(fleet: Fleet, path: str) -> bool:
    return (await fleet.get(path)).status == 503


@pytest.mark.parametrize("jumps", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_workers_whose_clock_jumps_by_an_hour_serve_on(
    tmp_path: Path, database_url: str, valkey_url: str, jumps: int
) -> None:
    """G-7: money lives by the database's time and by intervals; the clock of a machine is for its logs."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(SHIFTED_CLOCK)
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]), "CLOCK_OFFSET": str(offset)}

    async def endless(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD)
        while True:
            await peer.send(framed(chunk("word ")))
            await asyncio.sleep(0.2)

    async def test() -> None:
        answer = always(by_kind(says(completion()), endless))
        async with Fleet(tmp_path, database_url, valkey_url, answer, workers=2, env=environment) as fleet:
            await fleet.all_answer()
            running = fleet.answering()
            stream = await fleet.open(stream=True)
            await stream.head()
            pieces = stream.pieces()
            async with Load(fleet, 6) as load:
                for jump in range(jumps):
                    offset.write_text(str((3600, -3600)[jump % 2]))
                    await load.answered(100)
                    assert await anext(pieces)
                    await until(lambda: _is_wrong_by_an_hour(fleet))
            assert load.failures == []
            stream.close()
            await until(lambda: _nothing_is_open(fleet))
            assert fleet.answering() == running
            # Nothing was taken for expired.
            assert await fleet.fetch("SELECT COUNT(*) FROM usage WHERE outcome = 7") == [(0,)]

    asyncio.run(test())


# What time it is can be changed while the program runs. Intervals are measured by another clock.
SHIFTED_CLOCK = """
import os, time

real, real_ns = time.time, time.time_ns

def offset():
    with open(os.environ["CLOCK_OFFSET"]) as file:
        return int(file.read() or 0)

time.time = lambda: real() + offset()
time.time_ns = lambda: real_ns() + offset() * 1_000_000_000
"""


def test_workers_without_files_left_refuse_and_recover(tmp_path: Path, database_url: str, valkey_url: str) -> None:
    """G-5: with 256 files a process, and more callers than that for each."""

    async def test() -> None:
        answer = always(says(completion()))
        async with Fleet(tmp_path, database_url, valkey_url, answer, workers=2, limit_files=256) as fleet:
            await fleet.all_answer()
            running = fleet.answering()
            kept = await fleet.connect()
            flood = []
            for _ in range(900):
                with contextlib.suppress(OSError):
                    flood.append(await fleet.connect())
            for _ in range(3):
                kept.writer.write(fleet.request(keep=True))
                assert (await kept.rest()).status == 200
            for call in flood:
                call.close()
            await until(lambda: _answers(fleet))
            async with Load(fleet, 6) as load:
                await load.answered(50)
            assert load.failures == []
            assert fleet.answering() == running
            kept.close()

    asyncio.run(test())


async def _is_wrong_by_an_hour(fleet: Fleet) -> bool:
    """By the date of its answers, which is rendered once a second."""
    date = (await fleet.get("/health")).headers["date"]
    return abs(abs(parsedate_to_datetime(date).timestamp() - time.time()) - 3600) < 60


async def _answers(fleet: Fleet) -> bool:
    try:
        return (await fleet.post()).status == 200
    except (OSError, asyncio.IncompleteReadError):
        return False


def test_a_worker_that_was_blocked_sheds_what_waited_and_goes_on(
    tmp_path: Path, database_url: str, valkey_url: str
) -> None:
    """G-6: paid work is refused while the loop is more than a second late; what runs is not lost."""
    go_on = asyncio.Event()

    async def waits(request: Request, peer: Peer) -> None:
        await go_on.wait()
        await says(completion())(request, peer)

    async def test() -> None:
        async with Fleet(tmp_path, database_url, valkey_url, always(waits), workers=2) as fleet:
            await fleet.all_answer()
            begun = [await fleet.open() for _ in range(8)]
            kept = [await fleet.connect() for _ in range(8)]
            await until(lambda: _are_held(fleet, 8))
            for each in fleet.workers():
                each.suspend()
            for call in kept:
                call.writer.write(fleet.request(keep=True))
            await asyncio.sleep(2)
            for each in fleet.workers():
                each.resume()
            go_on.set()
            replies = [await call.rest() for call in kept]
            shed = [reply for reply in replies if reply.status != 200]
            assert shed, "what waited for two seconds was served as if nothing had been"
            for reply in shed:
                assert (reply.status, reply.json["error"]["code"]) == (503, "overloaded")
                assert "retry-after" in reply.headers
            for call in begun:
                assert (await call.rest()).status == 200
            await until(lambda: _answers(fleet))
            for call in [*begun, *kept]:
                call.close()

    asyncio.run(test())


async def _are_held(fleet: Fleet, count: int) -> bool:
    return await fleet.fetch(OPEN) == [(count,)]


def test_a_worker_that_was_taken_for_dead_is_replaced(tmp_path: Path, database_url: str, valkey_url: str) -> None:
    """Its holds are being ended by others: it must not take any more, and a new one can."""

    async def test() -> None:
        async with Fleet(tmp_path, database_url, valkey_url, always(says(completion())), workers=2) as fleet:
            await fleet.all_answer()
            fenced = min(fleet.answering())
            await fleet.database.execute("UPDATE process SET fenced_at = heartbeat_at WHERE pid = $1", fenced)
            await until(lambda: fenced not in fleet.answering() and len(fleet.answering()) == 2)
            assert "it must be started again" in fleet.log

    asyncio.run(test())


def test_two_gateways_on_one_socket_follow_each_other_without_a_failed_request(
    tmp_path: Path, database_url: str, valkey_url: str
) -> None:
    """The new one answers, the old one is told to stop: supervisors too can be replaced."""
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        (folder / "data").mkdir(parents=True)

    async def test() -> None:
        answer = always(says(completion()))
        with listen("127.0.0.1", 0) as sock:
            async with Fleet(folders[0], database_url, valkey_url, answer, workers=2, sock=sock) as old:
                shutil.copy(folders[0] / "data" / "secret", folders[1] / "data" / "secret")
                load = Load(old, 8)
                load.start()
                await load.answered(50)
                async with Fleet(folders[1], database_url, valkey_url, answer, workers=2, key=old.key, sock=sock):
                    await load.answered(100)
                    assert await old.stop() == 0
                    await load.answered(100)
                    await load.stop()
            assert load.failures == []

    asyncio.run(test())
