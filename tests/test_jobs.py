"""Turns: of all processes one does a job, and when that one is gone another does."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.gateway.process import until

from tollbridge.errors import TollbridgeError, Unavailable
from tollbridge.jobs import Job, Jobs
from tollbridge.store import meta, schema
from tollbridge.store.db import Database, open_database

PROCESSES = 4


async def opened(url: str) -> list[Database]:
    await schema.migrate(url)
    databases = [open_database(url) for _ in range(PROCESSES)]
    for each in databases:
        await each.start()
    return databases


def test_one_of_many_has_the_turn_and_the_next_comes_after_its_time(postgres_url: str) -> None:
    async def main() -> None:
        databases = await opened(postgres_url)

        async def turns() -> int:
            asked = (meta.take_turn(each, "a job", 3600) for each in databases for _ in range(5))
            return sum(await asyncio.gather(*asked))

        for number in range(5):
            assert await turns() == 1
            assert await turns() == 0
            assert await meta.take_turn(databases[0], f"job {number}", 3600) is True
            # An hour later; and then with a clock that was set back by more than that.
            await databases[0].execute("UPDATE meta SET value = value - 3600000 WHERE name = 'turn/a job'")
            assert await turns() == 1
            await databases[0].execute("UPDATE meta SET value = value + 7200000 WHERE name = 'turn/a job'")
        for each in databases:
            await each.close()

    asyncio.run(main())


def test_a_job_of_many_processes_is_done_once_a_turn_by_whoever_is_there(postgres_url: str) -> None:
    done: list[int] = []

    async def main() -> None:
        databases = await opened(postgres_url)

        def jobs(number: int) -> Jobs:
            async def job() -> None:
                done.append(number)

            async def nothing(*_: object) -> None:
                return

            process: Any = SimpleNamespace(beat=nothing, sweep=nothing)
            return Jobs(
                databases[number],
                process,
                cast("Any", None),
                url=postgres_url,
                on_change=lambda: None,
                on_fatal=lambda _: None,
                more=(("mine", 0.5, job),),
            )

        running = [jobs(number) for number in range(PROCESSES)]
        started = asyncio.get_running_loop().time()
        for each in running:
            each.start()
        await until(lambda: len(done) >= 3)
        first = done[0]
        await running[first].stop()
        count = len(done)
        await until(lambda: len(done) >= count + 3)
        took = asyncio.get_running_loop().time() - started
        for each in running:
            await each.stop()
        for database in databases:
            await database.close()
        assert first not in done[count:]
        assert len(done) <= took / 0.5 + 1

    asyncio.run(asyncio.wait_for(main(), 60))


def without_a_database(*more: Job) -> Jobs:
    """Jobs of which all but `more` do nothing."""

    async def nothing(*_: object) -> None:
        return

    process: Any = SimpleNamespace(beat=nothing, sweep=nothing)
    return Jobs(
        cast("Any", SimpleNamespace(dialect="sqlite")),
        process,
        cast("Any", None),
        url="",
        on_change=lambda: None,
        on_fatal=lambda _: None,
        more=more,
    )


def test_a_failure_that_goes_on_is_told_once_and_again_after_it_was_over(caplog: pytest.LogCaptureFixture) -> None:
    turns: list[str] = []

    async def job() -> None:
        turns.append("")
        if 10 <= len(turns) < 20:
            return
        raise TollbridgeError("away" if len(turns) < 25 else "refused")

    async def main() -> None:
        repeated = asyncio.create_task(without_a_database()._repeat("mine", 0.001, job))
        await until(lambda: len(turns) >= 30)
        repeated.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert [each.message for each in caplog.records] == ["mine: away", "mine: away", "mine: refused"]


def test_a_database_that_fails_is_named_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def job() -> None:
        raise Unavailable("The database cannot be reached.", code="ledger_unavailable") from TimeoutError()

    async def main() -> None:
        jobs = without_a_database()
        jobs._url = "postgresql://me:canary@db:5432/books"
        repeated = asyncio.create_task(jobs._repeat("changes", 0.001, job))
        await until(lambda: caplog.records)
        repeated.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))
    [record] = caplog.records
    assert record.message.startswith("changes: the database db:5432/books: it does not answer")


def test_what_nobody_expected_is_shown_once_then_counted_and_then_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that fails each second must not fill the disk with tracebacks."""
    turns: list[str] = []

    async def job() -> None:
        turns.append("")
        if len(turns) == 21:
            monkeypatch.setattr("tollbridge.jobs.REPEAT_S", 0.0)
        if len(turns) == 22:
            monkeypatch.setattr("tollbridge.jobs.REPEAT_S", 60.0)
        if len(turns) == 31:
            return
        if len(turns) > 40:
            int("other")
        raise KeyError(f"changes each time: {len(turns)}")

    async def main() -> None:
        repeated = asyncio.create_task(without_a_database()._repeat("mine", 0.001, job))
        await until(lambda: len(turns) >= 50)
        repeated.cancel()

    caplog.set_level("INFO", "tollbridge")
    asyncio.run(asyncio.wait_for(main(), 60))
    told = [(each.message.partition(":")[0], each.exc_info is not None) for each in caplog.records]
    assert told == [
        ("mine failed", True),
        ("mine failed again, 21 times since it was well", False),
        ("mine is well again after 30 failures", False),
        ("mine failed again, 1 time since it was well", False),
        ("mine failed", True),
    ]
    assert "KeyError in " in caplog.records[1].message
    assert "changes" not in caplog.records[1].message


def test_the_proof_goes_on_after_whatever_broke_it_off(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    proofs: list[str] = []

    async def audit(url: str) -> list[str]:
        proofs.append(url)
        raise OSError("no process could be started")

    monkeypatch.setattr("tollbridge.jobs.audit", audit)
    monkeypatch.setattr("tollbridge.jobs.AUDIT_S", 0.001)

    async def main() -> None:
        proving = asyncio.create_task(without_a_database()._audit())
        await until(lambda: len(proofs) >= 2)
        proving.cancel()

    asyncio.run(asyncio.wait_for(main(), 60))
    assert caplog.records[0].message == "audit failed"
