"""A real server process is killed, stopped and started again: rows G-1, G5 and what operators do."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.process import Instance, command_line, configure, until
from tests.gateway.site import (
    EMAIL,
    INPUT_NANO,
    OUTPUT_NANO,
    STREAM_HEAD,
    always,
    chunk,
    completion,
    framed,
    run,
    says,
)
from tests.upstream.bad_server import BadServer, Peer, Request

from tollbridge.store.db import open_database
from tollbridge.store.verify import verify
from tollbridge.values import Outcome

PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO


class Killed(Instance):
    """One whose books are read when it is over."""

    @property
    def database_url(self) -> str:
        return f"sqlite:///{self.folder / 'data' / 'tollbridge.db'}"

    async def books(self) -> list[dict[str, Any]]:
        """The usage rows, once nothing is held any more; and the books are right."""
        database = open_database(self.database_url)
        await database.start()
        try:
            report = await verify(database)
            assert not report.problems, report.problems
            assert report.open_holds == 0
            rows = await database.fetch("SELECT outcome, charge, output FROM usage ORDER BY hold_id")
            return [dict(zip(("outcome", "charge", "output"), row, strict=True)) for row in rows]
        finally:
            await database.close()


@contextlib.asynccontextmanager
async def instance(tmp_path: Path, script: Callable[[Peer], Any]) -> AsyncIterator[Killed]:
    async with BadServer(script) as upstream:
        configure(tmp_path, upstream.url)
        made = Killed(tmp_path)
        await made.make_key("1")
        await made.start()
        try:
            yield made
        finally:
            if made.process.returncode is None:
                await made.kill()


async def killed_and_restarted(made: Killed) -> list[dict[str, Any]]:
    await made.kill()
    await made.start()
    return await made.books()


TRIALS = [0, *[pytest.param(trial, marks=pytest.mark.soak) for trial in range(1, 50)]]


@pytest.mark.parametrize("trial", TRIALS)
def test_kill_while_the_provider_works_gives_the_hold_back(tmp_path: Path, trial: int) -> None:
    asked = asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        asked.set()
        await peer.closed()

    async def test() -> None:
        async with instance(tmp_path, always(answer)) as made:
            call = await made.open()
            await asyncio.wait_for(asked.wait(), 30)
            rows = await killed_and_restarted(made)
            assert [(row["outcome"], row["charge"]) for row in rows] == [(Outcome.SWEPT, 0)]
            call.close()

    run(test())


@pytest.mark.parametrize("trial", TRIALS)
def test_kill_in_the_middle_of_a_stream_charges_its_last_checkpoint(tmp_path: Path, trial: int) -> None:
    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD)
        while True:
            await peer.send(framed(chunk("word ")))
            await asyncio.sleep(0.02)

    async def test() -> None:
        async with instance(tmp_path, always(answer)) as made:
            call = await made.open(stream=True)
            await call.head()
            pieces = call.pieces()
            end = asyncio.get_running_loop().time() + 7
            delivered = 0
            while asyncio.get_running_loop().time() < end:
                delivered += (await anext(pieces)).count(b"word ")
            [row] = await killed_and_restarted(made)
            assert row["outcome"] == Outcome.SWEPT
            assert 0 < row["output"] <= delivered * 1.3
            assert row["charge"] > row["output"] * OUTPUT_NANO
            call.close()

    run(test())


@pytest.mark.parametrize("trial", TRIALS)
def test_kill_after_answers_loses_none_of_their_charges(tmp_path: Path, trial: int) -> None:
    """Whoever read an answer's receipt has been charged, however the process ended."""

    async def test() -> None:
        async with instance(tmp_path, always(says(completion()))) as made:
            answered = 0

            async def call_on() -> None:
                nonlocal answered
                with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                    while (await made.post()).status == 200:
                        answered += 1

            callers = [asyncio.create_task(call_on()) for _ in range(8)]
            await until(lambda: answered)
            await asyncio.sleep(0.4 + trial * 0.013)
            rows = await killed_and_restarted(made)
            await asyncio.gather(*callers)
            charged = [row for row in rows if row["outcome"] == Outcome.COMPLETED]
            assert answered > 0
            assert answered <= len(charged)
            assert all(row["charge"] == PRICE for row in charged)
            assert all(row["charge"] == 0 for row in rows if row["outcome"] == Outcome.SWEPT)

    run(test())


def test_kill_between_charge_and_answer_charges_once(tmp_path: Path) -> None:
    """The caller never reads its answer; the books have it once, and the restart does not add to it."""

    async def test() -> None:
        async with instance(tmp_path, always(says(completion()))) as made:
            call = await made.open()
            while not (rows := await _usage(made)):  # noqa: ASYNC110 - another process's database
                await asyncio.sleep(0.005)
            assert rows == 1
            rows_after = await killed_and_restarted(made)
            assert [row["charge"] for row in rows_after] == [PRICE]
            call.close()

    run(test())


async def _usage(made: Killed) -> int:
    database = open_database(made.database_url)
    await database.start()
    try:
        [(count,)] = await database.fetch("SELECT COUNT(*) FROM usage")
        return int(count)
    finally:
        await database.close()


def test_stop_lets_a_running_stream_end_and_takes_nothing_new(tmp_path: Path) -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD)
        for word in range(20):
            await peer.send(framed(chunk(f"{word} ")))
            await asyncio.sleep(0.02)
            if word == 10:
                begun.set()
                await closed.wait()
        await peer.send(framed(chunk(finish="stop")) + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async def test() -> None:
        async with instance(tmp_path, always(answer)) as made:
            call = await made.open(stream=True)
            await asyncio.wait_for(begun.wait(), 30)
            made.process.send_signal(signal.SIGTERM)
            await until(lambda: _is_closed(made.port))
            closed.set()
            reply = await call.rest()
            call.close()
            assert reply.events[-1] == "[DONE]"
            assert reply.text == "".join(f"{word} " for word in range(20))
            # uvicorn lets a drained process end by the signal that asked for it.
            assert await asyncio.wait_for(made.process.wait(), 30) in (0, -signal.SIGTERM)
            [row] = await made.books()
            assert row["outcome"] == Outcome.COMPLETED

    run(test())


async def _is_closed(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return True
    writer.close()
    return False


def test_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with instance(tmp_path, always(says(completion()))) as made:
            second = await asyncio.create_subprocess_exec(
                *command_line(made.config, "serve"),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            _, complained = await asyncio.wait_for(second.communicate(), 50)
            assert second.returncode != 0
            assert b"another Tollbridge serves" in complained
            assert (await made.post()).status == 200

    run(test())


@pytest.mark.parametrize("requests", [3_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_memory_stays_flat(tmp_path: Path, requests: int) -> None:
    def resident(pid: int) -> int:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    async def test() -> None:
        async with instance(tmp_path, always(says(completion()))) as made:
            await made.command("credit", "grant", EMAIL, "1000", "--reason", "test")

            async def call_on(count: int) -> None:
                for _ in range(count):
                    assert (await made.post()).status == 200

            # Pages are loaded soon after the start, or with the first one.
            assert (await made.get("/")).status == 200
            await asyncio.gather(*(call_on(requests // 40) for _ in range(8)))
            before = resident(made.process.pid)
            await asyncio.gather(*(call_on(requests // 10) for _ in range(8)))
            assert resident(made.process.pid) - before < 8 * 2**20

    if requests > 10_000:
        asyncio.run(test())
    else:
        run(test())
