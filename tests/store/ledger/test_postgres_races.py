"""Several real processes on one PostgreSQL: money that is there once is granted once."""

import asyncio
import random
import time
from pathlib import Path

import pytest
import uvloop
from tests.servers import Postgres
from tests.store.books import Books, Customer, Engine, serving
from tests.store.ledger.crew import Crew, end_all, proved, query

from tollbridge.core.ledger import Checkpoint, Ended, Held, Refusal, Refused, Spooled, epoch_of
from tollbridge.store import processes, schema
from tollbridge.store.ledger import postgres

AMOUNT = 100_000
MEMBERS = 5


async def be_patient(_: Books) -> None:
    """However slow the machine is: what becomes of those who waited too long has tests of its own."""
    for name, value in {"MOST_WAITING_MS": 30_000, "MOST_PATIENCE_S": 30.0, "SPOOL_AFTER_S": 30.0}.items():
        setattr(postgres, name, value)


async def customers(engine: Engine, count: int, *, paid: int, limit: int | None = None) -> list[Customer]:
    async with serving(engine) as books:
        return [await books.customer(paid=paid, limit=limit) for _ in range(count)]


async def grab(books: Books, customer: Customer, count: int) -> tuple[list[int], list[Refusal]]:
    """Ask for `count` holds at once: the ids of those granted, and why the others were not."""
    asked = [books.hold_op(customer, AMOUNT) for _ in range(count)]
    verdicts = await asyncio.gather(*map(books.ledger.submit, asked))
    granted = [op.id for op, verdict in zip(asked, verdicts, strict=True) if isinstance(verdict, Held)]
    return granted, [verdict.why for verdict in verdicts if isinstance(verdict, Refused)]


async def settle(books: Books, customer: Customer, ids: list[int]) -> int:
    """End holds, whoever made them, at their whole amount; what was charged by this."""
    ended = await end_all(books, [books.end_op(id_, customer, AMOUNT) for id_ in ids])
    return sum(verdict.charged for verdict in ended if not verdict.repeated)


def race(
    engine: Engine, rounds: int, why: Refusal, *, paid: int, limit: int | None = None, fresh: bool = False
) -> None:
    """Fifty ask at once for what is there for ten; then everybody ends, at once, all that was granted."""
    everybody = uvloop.run(customers(engine, rounds, paid=paid, limit=limit))
    if fresh:
        uvloop.run(query(engine, "DELETE FROM key_spend RETURNING 1"))
    with Crew(engine, MEMBERS) as crew:
        crew.run(be_patient)
        for customer in everybody:
            results = crew.run(grab, customer, 50 // MEMBERS)
            granted = [id_ for ids, _ in results for id_ in ids]
            assert len(granted) == 10
            assert [reason for _, reasons in results for reason in reasons] == [why] * 40
            assert sum(crew.run(settle, customer, granted)) == 10 * AMOUNT
    uvloop.run(proved(engine))
    # No request goes without a hold, however rich its account.
    assert uvloop.run(query(engine, "SELECT count(*) FROM hold")) == [(10 * rounds,)]


@pytest.mark.parametrize("rounds", [50, pytest.param(2_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_fifty_at_once_with_money_for_ten(postgres_engine: Engine, rounds: int) -> None:
    race(postgres_engine, rounds, Refusal.IN_FLIGHT, paid=10 * AMOUNT)


@pytest.mark.parametrize("rounds", [50, pytest.param(1_000, marks=[pytest.mark.soak, pytest.mark.timeout(900)])])
def test_fifty_at_once_with_a_key_limit_for_ten(postgres_engine: Engine, rounds: int) -> None:
    race(postgres_engine, rounds, Refusal.KEY_LIMIT, paid=10_000 * AMOUNT, limit=10 * AMOUNT)


def test_a_key_limit_holds_from_the_very_first_request(postgres_engine: Engine) -> None:
    race(postgres_engine, 50, Refusal.KEY_LIMIT, paid=10_000 * AMOUNT, limit=10 * AMOUNT, fresh=True)


async def load(books: Books, everybody: list[Customer], seconds: float, tasks: int) -> tuple[int, int, int]:
    """Requests one after the other in each of `tasks`; how many, what they were charged, and batches that failed."""
    until = time.monotonic() + seconds
    rnd = random.Random(books.ledger.epoch)
    done = charged = 0

    async def client() -> None:
        nonlocal done, charged
        while time.monotonic() < until:
            customer, charge = rnd.choice(everybody), rnd.randrange(1_000)
            ended = await books.ledger.submit(books.end_op(await books.held(customer, 1_000), customer, charge))
            # A machine that is busy with other things may need longer for it than anybody waits.
            assert isinstance(ended, Ended | Spooled), ended
            done += 1
            charged += charge

    await asyncio.gather(*(client() for _ in range(tasks)))
    return done, charged, books.ledger.counters.retries


@pytest.mark.parametrize("seconds", [2, pytest.param(60, marks=pytest.mark.soak)])
def test_a_hot_account_and_crossing_batches_meet_no_deadlock(postgres_engine: Engine, seconds: float) -> None:
    # With limits, so that key rows are locked too; few accounts, so that nearly every batch crosses another.
    everybody = uvloop.run(customers(postgres_engine, 20, paid=1 << 50, limit=1 << 50))
    with Crew(postgres_engine, 4) as crew:
        results = crew.run(load, everybody[:1], seconds / 2, 32)
        results += crew.run(load, everybody, seconds / 2, 32)
    assert sum(done for done, *_ in results) > 200 * seconds
    # Whoever waits for a lock for half a second, which is how a deadlock would end, is rolled back: that is rare.
    assert sum(retries for *_, retries in results) <= seconds
    uvloop.run(proved(postgres_engine))
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert uvloop.run(query(postgres_engine, deadlocks)) == [(0,)]
    charged = sum(charged for _, charged, _ in results)
    assert uvloop.run(query(postgres_engine, "SELECT sum(charge)::bigint FROM usage")) == [(charged,)]


# --- processes that are gone, or taken for gone -----------------------------------------------------------------------

TTL_S = 1.0
# As if it ran on another machine: nobody can see whether it lives.
MOVE_AWAY = "UPDATE process SET host = 'elsewhere' WHERE epoch = $1 RETURNING 1"
ENDS = "SELECT count(*), sum(charge)::bigint FROM usage"


async def hurry(_: Books) -> None:
    """The clock of heartbeats, scaled."""
    processes.TTL_MS = int(TTL_S * 1000)


async def notice_gaps(_: Books) -> None:
    processes._JUMP_MS = 500


async def open_some(books: Books, customer: Customer, count: int) -> list[int]:
    """Holds of which every second has a checkpoint at half of it."""
    ids = [await books.held(customer, AMOUNT) for _ in range(count)]
    notes = [
        Checkpoint(
            hold=id_,
            account_id=customer.account_id,
            key_id=customer.key_id,
            charge=AMOUNT // 2,
            record=books.record(AMOUNT // 2),
        )
        for id_ in ids[::2]
    ]
    await asyncio.gather(*map(books.ledger.submit, notes))
    return ids


async def beat_for(books: Books, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        await books.process.beat()
        await asyncio.sleep(0.1)


async def sweep(books: Books) -> int:
    return await books.process.sweep(books.ledger)


async def sweep_young(books: Books) -> int:
    books.process._heard_since = time.monotonic()
    return await sweep(books)


async def beat_and_sweep(books: Books) -> int:
    await books.process.beat()
    return await sweep(books)


@pytest.mark.parametrize("trials", [1, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_what_a_node_that_never_returns_had_open_is_ended_once(
    postgres_server: Postgres, postgres_engine: Engine, trials: int
) -> None:
    for _ in range(trials):
        with postgres_server.database(postgres_server.template("migrated", lambda _: None)) as url:
            engine = Engine(url, postgres_engine.directory)
            (customer,) = uvloop.run(customers(engine, 1, paid=100 * AMOUNT))
            with Crew(engine, 4) as crew:
                crew.run(be_patient)
                crew.run(hurry)
                ids = crew.run_on(0, open_some, customer, 20)
                crew.kill(0)
                uvloop.run(query(engine, MOVE_AWAY, epoch_of(ids[0])))
                # Nobody has been heard for long enough himself to believe that another is dead.
                assert crew.run_on(1, sweep_young) == 0
                assert uvloop.run(proved(engine)).open_holds == 20
                crew.run(beat_for, TTL_S + 0.5)
                assert max(crew.run(sweep)) == 20
            assert uvloop.run(proved(engine)).open_holds == 0
            assert uvloop.run(query(engine, ENDS)) == [(20, 10 * (AMOUNT // 2))]


def test_an_outage_longer_than_the_time_to_live_ends_nobodys_holds(tmp_path: Path) -> None:
    with Postgres() as server, server.database() as url:
        asyncio.run(schema.migrate(url))
        engine = Engine(url, tmp_path)
        (customer,) = uvloop.run(customers(engine, 1, paid=100 * AMOUNT))
        with Crew(engine, 2) as crew:
            crew.run(be_patient)
            crew.run(hurry)
            crew.run(notice_gaps)
            crew.run(beat_for, TTL_S + 0.3)
            ids = crew.run_on(0, open_some, customer, 4)
            uvloop.run(query(engine, MOVE_AWAY, epoch_of(ids[0])))
            server.suspend()
            time.sleep(TTL_S + 0.5)
            server.resume()
            assert crew.run_on(1, beat_and_sweep) == 0
            assert crew.run_on(0, settle, customer, ids) == 4 * AMOUNT
        assert uvloop.run(proved(engine)).open_holds == 0


async def end_truly(books: Books, customer: Customer, ids: list[int]) -> None:
    """This process has been fenced; its calls have ended, though."""
    _, refused = await books.hold(customer, AMOUNT)
    assert refused == Refused(why=Refusal.FENCED)
    ends = [books.end_op(id_, customer, AMOUNT) for id_ in ids]
    assert [verdict.charged for verdict in await end_all(books, ends)] == [AMOUNT] * len(ids)
    assert all(verdict.repeated for verdict in await end_all(books, ends))


def test_a_fenced_process_gets_no_more_and_its_true_ends_are_charged_once(postgres_engine: Engine) -> None:
    engine = postgres_engine
    (customer,) = uvloop.run(customers(engine, 1, paid=100 * AMOUNT, limit=10 * AMOUNT))
    with Crew(engine, 2) as crew:
        crew.run(be_patient)
        crew.run(hurry)
        ids = crew.run_on(0, open_some, customer, 10)
        uvloop.run(query(engine, MOVE_AWAY, epoch_of(ids[0])))
        crew.run_on(1, beat_for, TTL_S + 0.5)
        assert crew.run_on(1, sweep) == 10
        crew.run_on(0, end_truly, customer, ids)
    uvloop.run(proved(engine))
    late = uvloop.run(query(engine, "SELECT idempotency_key FROM journal WHERE kind = 'late'"))
    assert {key for (key,) in late} == {f"late/{id_}" for id_ in ids}
    assert uvloop.run(query(engine, "SELECT paid FROM balance")) == [(90 * AMOUNT,)]
    assert uvloop.run(query(engine, "SELECT spent, held FROM key_spend")) == [(10 * AMOUNT, 0)]
