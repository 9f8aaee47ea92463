"""The ledger on PostgreSQL, where it can do what no other engine can do wrong."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from tests.servers import HOST, Postgres, free_port
from tests.store.books import Books, Customer, Engine, serving, with_books
from tests.store.ledger.crew import Crew, proved, query

from tollbridge.core.ledger import Checkpoint, Ended, Held, Noted, Operation, Refusal, Refused, Spooled
from tollbridge.errors import ConfigError, InternalError, Unavailable
from tollbridge.store import schema
from tollbridge.store.ledger.postgres import PostgresLedger
from tollbridge.values import Outcome

BACKENDS = "FROM pg_stat_activity WHERE application_name = 'tollbridge ledger' AND datname = current_database()"
# Whoever locks a row has a number for it.
HAS_LOCKS = "backend_xid IS NOT NULL"


@asynccontextmanager
async def locked(engine: Engine, customer: Customer) -> AsyncIterator[None]:
    """Somebody else has the account's row."""
    database = engine.database()
    await database.start()
    async with database.transaction() as tx:
        await tx.fetch("SELECT 1 FROM balance WHERE account_id = $1 FOR UPDATE", customer.account_id)
        yield
    await database.close()


def test_what_has_queued_is_one_transaction(postgres_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=10_000)
        before = books.ledger.counters.batches
        holds = [books.hold_op(customer, 10) for _ in range(300)]
        verdicts = await asyncio.gather(*map(books.ledger.submit, holds))
        assert all(isinstance(verdict, Held) for verdict in verdicts)
        await asyncio.gather(*(books.end(op.id, customer, 3) for op in holds))
        assert books.ledger.counters.batches - before == 2
        assert books.ledger.counters.commit_us > 0

    with_books(postgres_engine, scenario)


def test_a_value_that_cannot_be_stored_fails_alone(postgres_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1_000)
        ids = [await books.held(customer, 10) for _ in range(6)]
        ends = [books.end_op(id_, customer, 5) for id_ in ids]
        # The server takes no NUL in a text, the driver no number above 64 bits.
        broken: list[dict[str, Any]] = [{"finish": "st\0op"}, {"duration_ms": 1 << 70}, {"finish": "\ud800"}]
        for place, fields in zip((1, 3, 4), broken, strict=True):
            record = msgspec.structs.replace(ends[place].record, **fields)
            ends[place] = msgspec.structs.replace(ends[place], record=record)
        results = await asyncio.gather(*map(books.ledger.submit, ends), return_exceptions=True)
        assert [isinstance(result, Ended) for result in results] == [True, False, True, False, False, True]
        assert all(isinstance(results[place], InternalError | ValueError) for place in (1, 3, 4))
        assert not books.ledger.failed
        for place in (1, 3, 4):
            await books.end(ids[place], customer, 5)

    with_books(postgres_engine, scenario)


def test_a_row_that_others_have_locked_is_waited_for(postgres_engine: Engine) -> None:
    """Longer than one statement may wait, so that the batch is rolled back and tried again."""

    async def scenario(books: Books) -> None:
        customer, other = await books.customer(paid=100), await books.customer(paid=100)
        async with locked(postgres_engine, customer):
            asked = [books.ledger.submit(books.hold_op(each, 10)) for each in (customer, other)]
            while not books.ledger.counters.retries:  # noqa: ASYNC110 - a counter
                await asyncio.sleep(0.02)
        assert await asyncio.gather(*asked) == [Held(amount=10, available=90)] * 2
        assert books.ledger.counters.retries > 0

    with_books(postgres_engine, scenario)


async def call(books: Books, customer: Customer, times: int) -> None:
    for _ in range(times):
        ended = await books.ledger.submit(books.end_op(await books.held(customer, 10), customer, 1))
        assert isinstance(ended, Ended | Spooled), ended  # a busy machine may need longer than an end waits


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    deadline = time.monotonic() + 20
    while not await true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def written(books: Books) -> None:
    async def nothing_waits() -> bool:
        return books.ledger.depth() == 0

    await until(nothing_waits)


def test_an_account_that_others_keep_locked_delays_nobody_else(postgres_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer, other = await books.customer(paid=100), await books.customer(paid=1_000)
        running = await books.held(customer, 10)
        async with locked(postgres_engine, customer):
            asked = books.ledger.submit(books.hold_op(customer, 10))
            ended = books.ledger.submit(books.end_op(running, customer, 7))
            await call(books, other, 20)
            # One batch found out, and all others went on.
            assert books.ledger.counters.retries == 1
            assert await ended == Spooled()
            with pytest.raises(Unavailable):
                await asked
            # What comes now waits behind what has waited, or is told so in time.
            assert await books.ledger.submit(books.end_op(running, customer, 9)) == Spooled()
            await call(books, other, 1)
        await call(books, customer, 1)
        await written(books)
        assert await books.balance(customer) == (92, 0, 0)
        assert await books.balance(other) == (979, 0, 0)
        assert books.ledger.counters.retries == 1

    with_books(postgres_engine, scenario)


def test_a_key_that_others_keep_locked_delays_its_account_alone(postgres_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer, other = await books.customer(paid=100, limit=50), await books.customer(paid=100)
        await books.end(await books.held(customer, 10), customer, 1)
        async with books.database.transaction() as tx:
            await tx.fetch("SELECT 1 FROM key_spend WHERE key_id = $1 FOR UPDATE", customer.key_id)
            asked = books.ledger.submit(books.hold_op(customer, 10))
            await call(books, other, 10)
            # Nor is it tried again for as long as the key is seen to be locked.
            await asyncio.sleep(0.5)
            await call(books, other, 10)
            assert books.ledger.counters.retries == 1
            with pytest.raises(Unavailable):
                await asked
        await call(books, customer, 1)
        await written(books)
        assert await books.balance(customer) == (98, 0, 0)

    with_books(postgres_engine, scenario)


def test_stopping_keeps_the_ends_of_an_account_that_others_keep_locked(postgres_engine: Engine) -> None:
    async def scenario() -> None:
        async def noticed() -> bool:
            return books.ledger.counters.retries > 0

        async def ended_after_all() -> bool:
            return (await books.balance(customer))[2] == 0

        async with serving(postgres_engine) as books:
            customer = await books.customer(paid=100)
            running = await books.held(customer, 10)
            async with locked(postgres_engine, customer):
                ended = books.ledger.submit(books.end_op(running, customer, 7))
                asked = books.ledger.submit(books.hold_op(customer, 10))
                await until(noticed)
                await books.ledger.stop()
            assert await ended == Spooled()
            with pytest.raises(Unavailable):
                await asked
        async with serving(postgres_engine) as books:
            await until(ended_after_all)
            assert await books.balance(customer) == (93, 0, 0)

    uvloop.run(scenario())
    uvloop.run(proved(postgres_engine))


def test_a_batch_lets_go_of_its_locks_before_the_disk_has_it_and_tells_nobody_until_then(tmp_path: Path) -> None:
    # Whoever makes the disk work waits 0.1 s before.
    with Postgres(commit_delay="100000", commit_siblings="0") as server, server.database() as url:
        asyncio.run(schema.migrate(url))

        async def scenario(books: Books) -> None:
            customer = await books.customer(paid=100)
            before = time.monotonic()
            asked = books.ledger.submit(books.hold_op(customer, 10))
            while (await books.balance(customer))[2] == 0:
                assert not asked.done()
            async with books.database.transaction() as tx:
                await tx.fetch("SELECT 1 FROM balance WHERE account_id = $1 FOR UPDATE NOWAIT", customer.account_id)
                assert not asked.done()
            assert isinstance(await asked, Held)
            assert time.monotonic() - before >= 0.1

        with_books(Engine(url, tmp_path), scenario)


def test_a_hold_whose_caller_leaves_while_it_is_made_is_given_back(postgres_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        async with locked(postgres_engine, customer):
            asked = books.ledger.submit(books.hold_op(customer, 10))
            await asyncio.sleep(0.1)
            asked.cancel()
        await books.end(await books.held(customer, 10), customer, 1)
        assert await books.balance(customer) == (99, 0, 0)
        assert await books.database.fetch("SELECT charge FROM usage WHERE outcome = $1", Outcome.CLIENT_LEFT) == [(0,)]

    with_books(postgres_engine, scenario)


def test_a_ledger_that_is_behind_refuses_holds_and_takes_ends(postgres_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        running = await books.held(customer, 10)
        async with locked(postgres_engine, customer):
            first = books.ledger.submit(books.hold_op(customer, 10))
            await asyncio.sleep(0.02)
            second = books.ledger.submit(books.hold_op(customer, 10))
            await asyncio.sleep(0.3)
            with pytest.raises(Unavailable) as refused:
                books.ledger.submit(books.hold_op(customer, 10))
            assert refused.value.code == "overloaded"
            ended = books.ledger.submit(books.end_op(running, customer, 10))
            assert books.ledger.depth() == 3
        assert isinstance(await first, Held)
        assert isinstance(await second, Held)
        await ended
        await books.held(customer, 10)

    with_books(postgres_engine, scenario)


def test_a_hold_that_somebody_else_ended_takes_no_extension_and_no_checkpoint(postgres_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        # One more that runs: the account's `held` alone would not show that something is wrong.
        extended, noted, ended, running = [await books.held(customer, 10) for _ in range(4)]
        async with serving(postgres_engine) as others:
            for id_ in (extended, noted, ended):
                await others.end(id_, customer, 4)
        refusal = await books.ledger.submit(books.extend_op(extended, customer, 1, 10))
        assert refusal == Refused(why=Refusal.NO_HOLD)
        note = Checkpoint(
            hold=noted, account_id=customer.account_id, key_id=customer.key_id, charge=9, record=books.record(9)
        )
        assert await books.ledger.submit(note) == Noted()
        again = await books.end(ended, customer, 9)
        assert (again.repeated, again.charged) == (True, 4)
        assert await books.count("hold_step") == await books.count("checkpoint") == 0
        assert await books.balance(customer) == (88, 0, 10)
        await books.end(running, customer, 0)

    with_books(postgres_engine, scenario)


def test_whoever_fences_a_process_waits_for_its_batch(postgres_engine: Engine) -> None:
    """So that a sweep that follows finds every hold that was granted."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        async with locked(postgres_engine, customer):
            asked = books.ledger.submit(books.hold_op(customer, 10))
            await asyncio.sleep(0.1)
            fence = asyncio.create_task(books.database.execute("UPDATE process SET fenced_at = 1"))
            await asyncio.sleep(0.1)
            assert not fence.done()
        assert isinstance(await asked, Held)
        await fence
        assert await books.ledger.submit(books.hold_op(customer, 10)) == Refused(why=Refusal.FENCED)

    with_books(postgres_engine, scenario)


@pytest.mark.parametrize("when", ["idle", "under load"])
def test_a_connection_that_is_cut_off_is_replaced_without_a_refusal(postgres_engine: Engine, when: str) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=1 << 40)
        over = False

        async def client() -> None:
            while not over:
                await call(books, customer, 1)

        clients = [asyncio.create_task(client()) for _ in range(8 if when == "under load" else 0)]
        for _ in range(5):
            [(pid,)] = await books.database.fetch(f"SELECT pid {BACKENDS}")
            assert await books.database.fetch("SELECT pg_terminate_backend($1)", pid) == [(True,)]
            await asyncio.sleep(0.1)
            # On a busy machine it may still live for a while. Two cut off at once would be an outage.
            async with asyncio.timeout(30):
                while await books.database.fetch(f"SELECT pid {BACKENDS}") in ([], [(pid,)]):
                    await call(books, customer, 1)
            await call(books, customer, 1)
        over = True
        await asyncio.gather(*clients)

    with_books(postgres_engine, scenario)


async def _refused(books: Books, customer: Customer) -> None:
    with pytest.raises(Unavailable):
        await books.ledger.submit(books.hold_op(customer, 1))


def test_a_database_that_takes_no_writes_is_away_until_it_does(
    postgres_engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """A replica, say: it lets everybody in, so each new connection looks like the end of the outage."""

    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100)
        [(name,)] = await books.database.fetch("SELECT current_database()")
        await books.database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await books.database.fetch(f"SELECT pg_terminate_backend(pid) {BACKENDS}")
        for _ in range(20):
            await _refused(books, customer)
            await asyncio.sleep(0.05)
        # This connection began before.
        await books.database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = off')
        await until_served(books, customer)
        await books.end(await books.held(customer, 10), customer, 1)
        said = [each.message.partition(":")[0].removeprefix("the ledger ") for each in caplog.records]
        # Whether it notices that its connection is gone, or is told so when it asks, is chance.
        assert [each for each in said if each != "lost its connection"] == [
            "cannot reach its database",
            "reaches its database again",
        ]

    with_books(postgres_engine, scenario)


def test_a_newer_version_may_add_a_column_beside_it(postgres_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        customer = await books.customer(paid=100, limit=100)
        for table in ("hold", "usage", "balance", "key_spend", "api_key", "process"):
            running = await books.held(customer, 10)
            await books.database.execute(f"ALTER TABLE {table} ADD COLUMN new_in_{table} bigint")
            await books.end(running, customer, 1)

    with_books(postgres_engine, scenario)


def test_an_amount_that_cannot_be_stops_all_paid_work(postgres_engine: Engine) -> None:
    async def scenario() -> None:
        async with serving(postgres_engine) as books:
            customer = await books.customer(paid=100)
            running = await books.held(customer, 10)
            await books.database.execute("UPDATE balance SET held = 3")  # by hand
            with pytest.raises(InternalError):
                await books.ledger.submit(books.end_op(running, customer, 10))
            assert books.ledger.failed
            with pytest.raises(Unavailable):
                books.ledger.submit(books.hold_op(customer, 1))

    asyncio.run(scenario())


def test_an_operation_that_comes_after_the_stop_is_told(postgres_engine: Engine) -> None:
    async def scenario() -> None:
        async with serving(postgres_engine) as books:
            customer = await books.customer(paid=100)
            running = await books.held(customer, 10)
            await books.ledger.stop()
            end: Operation = books.end_op(running, customer, 1)
            with pytest.raises(Unavailable):
                await books.ledger.submit(end)
            with pytest.raises(Unavailable):
                books.ledger.submit(books.hold_op(customer, 1))

    asyncio.run(scenario())


def test_a_start_that_cannot_be_says_why(postgres_engine: Engine, tmp_path: Path) -> None:
    async def scenario() -> None:
        with pytest.raises(Unavailable):
            await PostgresLedger(f"postgresql://postgres@{HOST}:{free_port()}/x", 1, tmp_path).start()
        async with serving(postgres_engine) as books:
            (tmp_path / "file").touch()
            ledger = PostgresLedger(postgres_engine.url, books.process.epoch, tmp_path / "file")
            with pytest.raises(ConfigError, match="file"):
                await ledger.start()
            await ledger.stop()

    asyncio.run(scenario())


async def keep_busy(books: Books, customer: Customer, seconds: float) -> int:
    """How many holds were made and ended. Who was stopped finds his first ones refused, or safe in the spool."""
    until = time.monotonic() + seconds
    served = 0
    while time.monotonic() < until:
        with contextlib.suppress(Unavailable):
            hold = await books.held(customer, 10)
            ended = await books.ledger.submit(books.end_op(hold, customer, 1))
            assert isinstance(ended, Ended | Spooled)
            served += 1
        await asyncio.sleep(0)
    return served


async def until_served(books: Books, customer: Customer) -> None:
    while not await keep_busy(books, customer, 0.1):
        pass


async def process_id(_: Books) -> int:
    return os.getpid()


def test_a_process_that_stops_in_the_middle_of_a_batch_does_not_keep_its_accounts_locked(
    postgres_engine: Engine,
) -> None:
    async def stop_inside_a_transaction(books: Books, pid: int) -> None:
        for _ in range(2_000):
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.01)
            if await books.database.fetch(f"SELECT 1 {BACKENDS} AND state = 'idle in transaction' AND {HAS_LOCKS}"):
                return
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.004)
        pytest.fail("it was never met inside a transaction")

    met = asyncio.Event()

    async def busy_until_met(crew: Crew, customer: Customer) -> None:
        while not met.is_set():
            await asyncio.to_thread(crew.run_on, 0, keep_busy, customer, 2.0)

    async def scenario() -> None:
        async with serving(postgres_engine) as books:
            customer = await books.customer(paid=1 << 40)
            with Crew(postgres_engine, 1) as crew:
                pid = crew.run_on(0, process_id)
                busy = asyncio.create_task(busy_until_met(crew, customer))
                await asyncio.sleep(0.1)
                try:
                    await stop_inside_a_transaction(books, pid)
                    # One second until the server ends the idle transaction, and some for a busy machine.
                    async with asyncio.timeout(20):
                        await until_served(books, customer)
                finally:
                    met.set()
                    os.kill(pid, signal.SIGCONT)
                await busy

    uvloop.run(scenario())
    assert uvloop.run(proved(postgres_engine)).open_holds == 0
    assert uvloop.run(query(postgres_engine, "SELECT count(*) FROM usage WHERE charge <> 1")) == [(0,)]
