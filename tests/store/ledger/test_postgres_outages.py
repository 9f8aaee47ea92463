"""PostgreSQL dies, hangs, or does not say whether it committed: nobody is charged twice, and no end is lost."""

import asyncio
import random
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import pytest
import uvloop
from tests.servers import HOST, Postgres
from tests.store.books import Books, Customer, Engine, serving
from tests.store.ledger.crew import Crew, proved, query

from tollbridge.core.ledger import Checkpoint, Ended, Held, Spooled, Verdict
from tollbridge.errors import Unavailable
from tollbridge.store import schema
from tollbridge.store.ledger import Ledger
from tollbridge.store.ledger.postgres import PostgresLedger
from tollbridge.values import Outcome

AMOUNT = 1_000
PLENTY = 1 << 50


class Breakable:
    """A server of this test's own, told what to do from a thread that lives as long as it does."""

    def __init__(self, server: Postgres, thread: ThreadPoolExecutor) -> None:
        self.server = server
        self._thread = thread

    async def do(self, what: Callable[[], object]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, what)

    async def restart(self) -> None:
        await self.do(self.server.kill)
        await asyncio.sleep(0.2)
        await self.do(self.server.start)


@pytest.fixture(scope="module")
def breakable() -> Iterator[Breakable]:
    with ThreadPoolExecutor(1) as thread:
        server = thread.submit(lambda: Postgres().start()).result()
        try:
            yield Breakable(server, thread)
        finally:
            thread.submit(server.stop).result()


def migrate(url: str) -> None:
    asyncio.run(schema.migrate(url))


@pytest.fixture
def engine(breakable: Breakable, tmp_path: Path) -> Iterator[Engine]:
    template = breakable.server.template("migrated", migrate)
    with breakable.server.database(template) as url:
        # As on a server where somebody wanted speed: the books are durable all the same.
        breakable.server.sql(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = off")
        try:
            yield Engine(url, tmp_path)
        finally:
            breakable.server.resume()


async def ask(books: Books, customer: Customer) -> tuple[int, Verdict | Unavailable]:
    """A hold's id, and what came of it."""
    op = books.hold_op(customer, AMOUNT)
    try:
        return op.id, await books.ledger.submit(op)
    except Unavailable as error:
        return op.id, error


async def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def settled(books: Books, engine: Engine) -> None:
    """Until everything is in the database, and the spool holds nothing."""
    await until(lambda: not books.ledger.depth() and not spool_size(engine))


async def recovered(books: Books, customer: Customer) -> None:
    """Until holds are granted again, which must not take long: that much is for a machine that does much else."""
    deadline = time.monotonic() + 20
    while True:
        id_, granted = await ask(books, customer)
        if isinstance(granted, Held):
            await books.end(id_, customer, 0)
            return
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def spool_size(engine: Engine) -> int:
    return sum(path.stat().st_size for path in engine.directory.glob("*.spool"))


async def load(books: Books, customers: list[Customer], over: Callable[[], bool]) -> tuple[int, int, int]:
    """One client's requests until told otherwise: charged, refused, and ends that went to the spool."""
    charged = refused = spooled = 0
    while not over():
        customer = random.choice(customers)
        id_, granted = await ask(books, customer)
        if not isinstance(granted, Held):
            assert isinstance(granted, Unavailable), granted
            assert granted.status == 503
            refused += 1
            await asyncio.sleep(0.02)
            continue
        await asyncio.sleep(random.uniform(0, 0.02))  # what the call takes
        charge = random.randrange(AMOUNT)
        ended = await books.ledger.submit(books.end_op(id_, customer, charge))
        assert isinstance(ended, Ended | Spooled), ended
        spooled += isinstance(ended, Spooled)
        charged += charge
    return charged, refused, spooled


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_a_database_killed_under_load_loses_no_end_and_doubles_none(
    breakable: Breakable, engine: Engine, kills: int
) -> None:
    async def scenario() -> int:
        async with serving(engine) as books:
            customers = [await books.customer(paid=PLENTY) for _ in range(8)]
            over = False
            clients = [asyncio.create_task(load(books, customers, lambda: over)) for _ in range(32)]
            for _ in range(kills):
                await asyncio.sleep(random.uniform(0.1, 0.4))
                await breakable.restart()
                await recovered(books, customers[0])
            over = True
            results = await asyncio.gather(*clients)
            await settled(books, engine)
            assert sum(refused for _, refused, _ in results) > 0
            assert sum(spooled for *_, spooled in results) > 0
            return sum(charged for charged, *_ in results)

    charged = uvloop.run(scenario())
    assert uvloop.run(proved(engine)).open_holds == 0
    assert uvloop.run(query(engine, "SELECT sum(charge)::bigint FROM usage")) == [(charged,)]


@pytest.mark.parametrize("trials", [2, pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
def test_a_database_that_hangs_refuses_in_time_and_keeps_the_ends(
    breakable: Breakable, engine: Engine, trials: int
) -> None:
    async def refused(books: Books, customer: Customer, most: float) -> None:
        started = time.monotonic()
        _, refusal = await ask(books, customer)
        assert isinstance(refusal, Unavailable), refusal
        assert refusal.headers["retry-after"] == "2"
        assert time.monotonic() - started <= most

    async def scenario() -> None:
        async with serving(engine) as books:
            customer = await books.customer(paid=PLENTY)
            for _ in range(trials):
                await hang(books, customer)
                await recovered(books, customer)
                await settled(books, engine)

    async def hang(books: Books, customer: Customer) -> None:
        running = [await books.held(customer, AMOUNT) for _ in range(10)]
        await breakable.do(breakable.server.suspend)
        try:
            started = time.monotonic()
            asked = [asyncio.create_task(refused(books, customer, 5.0)) for _ in range(10)]
            ends = [books.ledger.submit(books.end_op(id_, customer, 7)) for id_ in running]
            assert await asyncio.gather(*ends) == [Spooled()] * 10
            assert time.monotonic() - started <= 1.8  # whoever waited for the server would wait for 2 s
            await asyncio.gather(*asked)
            await refused(books, customer, 1.5)  # from now on it is known
        finally:
            await breakable.do(breakable.server.resume)

    uvloop.run(scenario())
    # What was granted to somebody who had been refused meanwhile was given back.
    assert uvloop.run(proved(engine)).open_holds == 0
    assert uvloop.run(query(engine, "SELECT sum(charge)::bigint FROM usage")) == [(70 * trials,)]


class Cutter:
    """Between the ledger and its database: cuts the connection at the next COMMIT in one of three ways."""

    LOST, SENT, DONE = range(3)

    def __init__(self, port: int) -> None:
        self.cut: int | None = None
        self.cuts = 0
        self.refuses = False
        self._port = port

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._connected, HOST, 0)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        up_reader, up_writer = await asyncio.open_connection(HOST, self._port)
        down = asyncio.create_task(self._copy(up_reader, writer))
        try:
            while data := await reader.read(65_536):
                if self.cut is not None and data.startswith(b"Q") and b"COMMIT" in data:
                    how, self.cut = self.cut, None
                    self.cuts += 1
                    await self._cut(how, data, down, up_writer)
                    return
                up_writer.write(data)
        except ConnectionError:
            pass
        finally:
            down.cancel()
            up_writer.close()
            writer.transport.abort()

    async def _cut(self, how: int, data: bytes, down: "asyncio.Task[None]", up: asyncio.StreamWriter) -> None:
        if how == self.LOST:
            return
        down.cancel()  # the answer stays here
        up.write(data)
        await up.drain()
        if how == self.DONE:
            await asyncio.sleep(0.02)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)


class Through(Engine):
    """Everything reaches the database directly, but for the ledger."""

    def __init__(self, engine: Engine, port: int) -> None:
        super().__init__(engine.url, engine.directory)
        self._ledger_url = engine.url.replace(f":{port_of(engine)}/", f":{port}/") + "?sslmode=disable"

    def ledger(self, epoch: int) -> Ledger:
        return PostgresLedger(self._ledger_url, epoch, self.directory)


def port_of(engine: Engine) -> int:
    return int(engine.url.partition("@")[2].partition(":")[2].partition("/")[0])


@asynccontextmanager
async def serving_through_cutter(engine: Engine) -> AsyncIterator[tuple[Books, Cutter]]:
    cutter = Cutter(port_of(engine))
    async with cutter.listening() as port, serving(Through(engine, port)) as books:
        yield books, cutter


@pytest.mark.parametrize("trials", [50, pytest.param(200, marks=pytest.mark.soak)])
def test_a_commit_that_nobody_answered_is_neither_lost_nor_done_twice(postgres_engine: Engine, trials: int) -> None:
    async def scenario() -> int:
        charged = 0
        async with serving_through_cutter(postgres_engine) as (books, cutter):
            customer = await books.customer(paid=PLENTY)
            for trial in range(trials):
                cutter.cut = trial % 3
                id_ = await books.held(customer, AMOUNT)
                extended = books.ledger.submit(books.extend_op(id_, customer, 1, AMOUNT))
                assert await extended == Held(amount=2 * AMOUNT, available=PLENTY - charged - 2 * AMOUNT)
                cutter.cut = (trial // 3) % 3
                end = books.end_op(id_, customer, trial)
                # On a slow machine the answer may take too long; then the same end is told again.
                while isinstance(ended := await books.ledger.submit(end), Spooled):
                    pass
                assert isinstance(ended, Ended)
                assert (ended.charged, ended.loss) == (trial, 0)
                charged += trial
                assert ended.available == PLENTY - charged
            assert cutter.cuts == 2 * trials
        return charged

    charged = uvloop.run(scenario())
    assert uvloop.run(proved(postgres_engine)).open_holds == 0
    rows = uvloop.run(query(postgres_engine, "SELECT count(*), sum(charge)::bigint FROM usage"))
    assert rows == [(trials, charged)]


@pytest.mark.parametrize(("cut", "made"), [(Cutter.LOST, 0), (Cutter.SENT, 1), (Cutter.DONE, 1)])
def test_a_hold_that_was_refused_and_committed_all_the_same_is_given_back(
    postgres_engine: Engine, cut: int, made: int
) -> None:
    async def scenario() -> None:
        async with serving_through_cutter(postgres_engine) as (books, cutter):
            customer = await books.customer(paid=PLENTY)
            cutter.cut, cutter.refuses = cut, True
            id_, refusal = await ask(books, customer)
            assert isinstance(refusal, Unavailable)
            cutter.refuses = False
            await recovered(books, customer)
            for table, column in (("hold", "id"), ("usage", "hold_id")):
                rows = await books.database.fetch(f"SELECT count(*) FROM {table} WHERE {column} = $1", id_)
                assert rows == [(made,)]

    uvloop.run(scenario())
    assert uvloop.run(proved(postgres_engine)).open_holds == 0


async def open_some(books: Books, customer: Customer, count: int) -> list[int]:
    return [await books.held(customer, AMOUNT) for _ in range(count)]


async def end_while_away(books: Books, customer: Customer, ids: list[int]) -> list[Verdict]:
    ends = [books.ledger.submit(books.end_op(id_, customer, 9)) for id_ in ids]
    return list(await asyncio.gather(*ends))


def outlived(
    breakable: Breakable, engine: Engine, meanwhile: Callable[[Crew, Customer, list[int]], None]
) -> list[tuple[Outcome, int, int]]:
    """How five requests ended whose process dies in an outage of the database, when both are back.

    By outcome: how many, and what they were charged. `meanwhile`: what it still does while the database is away.
    """

    async def customer_of() -> Customer:
        async with serving(engine) as books:
            return await books.customer(paid=PLENTY)

    async def come_back() -> None:
        async with serving(engine) as books:
            await settled(books, engine)

    customer = uvloop.run(customer_of())
    with Crew(engine, 1) as crew:
        ids = crew.run_on(0, open_some, customer, 5)
        uvloop.run(breakable.do(breakable.server.kill))
        meanwhile(crew, customer, ids)
        crew.kill(0)
    uvloop.run(breakable.do(breakable.server.start))
    assert spool_size(engine) > 0
    uvloop.run(come_back())
    assert list(engine.directory.glob("*.spool")) == []
    assert uvloop.run(proved(engine)).open_holds == 0
    rows = uvloop.run(query(engine, "SELECT outcome, count(*), sum(charge)::bigint FROM usage GROUP BY 1 ORDER BY 1"))
    return [(Outcome(outcome), count, charge) for outcome, count, charge in rows]


def test_ends_outlive_both_the_database_and_the_process(breakable: Breakable, engine: Engine) -> None:
    def meanwhile(crew: Crew, customer: Customer, ids: list[int]) -> None:
        assert crew.run_on(0, end_while_away, customer, ids[:3]) == [Spooled()] * 3

    # The two that had not ended were released, and no end came late.
    assert outlived(breakable, engine, meanwhile) == [(Outcome.COMPLETED, 3, 27), (Outcome.SWEPT, 2, 0)]


async def note_while_away(books: Books, customer: Customer, ids: list[int]) -> list[Verdict]:
    """Checkpoints of streams that go on: three of each, ever more."""
    verdicts: list[Verdict] = []
    for charge in (3, 6, 9):
        end = [books.end_op(id_, customer, charge) for id_ in ids]
        notes = [
            Checkpoint(
                hold=each.hold, account_id=each.account_id, key_id=each.key_id, charge=charge, record=each.record
            )
            for each in end
        ]
        verdicts = list(await asyncio.gather(*(books.ledger.submit(note) for note in notes)))
    return verdicts


def test_the_last_checkpoint_of_an_outage_counts_where_the_process_died_in_it(
    breakable: Breakable, engine: Engine
) -> None:
    def meanwhile(crew: Crew, customer: Customer, ids: list[int]) -> None:
        crew.run_on(0, end_while_away, customer, ids[:2])
        crew.run_on(0, note_while_away, customer, ids[2:4])

    assert outlived(breakable, engine, meanwhile) == [(Outcome.COMPLETED, 2, 18), (Outcome.SWEPT, 3, 18)]


@contextmanager
def no_room() -> Iterator[None]:
    """No file of this process may grow, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_ends_that_a_full_disk_refused_are_kept_once_it_has_room(
    breakable: Breakable, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(engine) as books:
            customer = await books.customer(paid=PLENTY)
            ids = await open_some(books, customer, 3)
            ledger = books.ledger
            await breakable.do(breakable.server.kill)
            with no_room():
                futures = [ledger.submit(books.end_op(id_, customer, 5)) for id_ in ids]
                await until(lambda: "the spool cannot take them" in caplog.text)
                # It is tried again, and complains once.
                await asyncio.sleep(2.0)
            assert caplog.text.count("the spool cannot take them") == 1
            assert not any(future.done() for future in futures)
            async with asyncio.timeout(8):
                assert await asyncio.gather(*futures) == [Spooled()] * 3
                await ledger.stop()
            assert spool_size(engine) > 0
            await breakable.do(breakable.server.start)
        async with serving(engine) as books:
            await settled(books, engine)

    uvloop.run(scenario())
    assert uvloop.run(proved(engine)).open_holds == 0
    assert uvloop.run(query(engine, "SELECT count(*), sum(charge)::bigint FROM usage")) == [(3, 15)]


def test_a_process_that_stops_says_what_it_could_not_keep_anywhere(
    breakable: Breakable, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(engine) as books:
            customer = await books.customer(paid=PLENTY)
            ids = await open_some(books, customer, 3)
            await breakable.do(breakable.server.kill)
            with no_room():
                for id_ in ids:
                    books.ledger.submit(books.end_op(id_, customer, 5))
                await until(lambda: "the spool cannot take them" in caplog.text)
                async with asyncio.timeout(8):
                    await books.ledger.stop()
            assert "neither the database nor the spool could take the ends of 3 calls" in caplog.text
            await breakable.do(breakable.server.start)

    uvloop.run(scenario())


@pytest.mark.parametrize("how", ["is gone", "hangs"])
def test_stopping_without_a_database_keeps_the_ends(breakable: Breakable, engine: Engine, how: str) -> None:
    server = breakable.server

    async def scenario() -> None:
        async with serving(engine) as books:
            customer = await books.customer(paid=PLENTY)
            ids = await open_some(books, customer, 3)
            ledger = books.ledger
            await breakable.do(server.kill if how == "is gone" else server.suspend)
            futures = [ledger.submit(books.end_op(id_, customer, 5)) for id_ in ids]
            async with asyncio.timeout(8):
                await ledger.stop()
            assert [future.result() for future in futures] == [Spooled()] * 3
            assert spool_size(engine) > 0
            await breakable.do(server.start if how == "is gone" else server.resume)
        async with serving(engine) as books:
            await settled(books, engine)

    uvloop.run(scenario())
    assert uvloop.run(proved(engine)).open_holds == 0
    assert uvloop.run(query(engine, "SELECT count(*), sum(charge)::bigint FROM usage")) == [(3, 15)]


def test_only_the_newest_checkpoint_of_an_outage_is_written(breakable: Breakable, engine: Engine) -> None:
    async def scenario() -> None:
        async with serving(engine) as books:
            customer = await books.customer(paid=PLENTY)
            (id_,) = await open_some(books, customer, 1)
            await breakable.do(breakable.server.kill)
            await asyncio.sleep(0.3)
            note = partial(Checkpoint, hold=id_, account_id=customer.account_id, key_id=customer.key_id)
            for charge in (3, 5, 8):
                assert await books.ledger.submit(note(charge=charge, record=books.record(charge))) == Spooled()
            assert books.ledger.depth() == 1
            await breakable.do(breakable.server.start)
            await settled(books, engine)
            assert await books.database.fetch("SELECT charge FROM checkpoint") == [(8,)]
            await books.end(id_, customer, 8)

    uvloop.run(scenario())
    assert uvloop.run(proved(engine)).open_holds == 0


def test_the_spool_of_another_database_is_not_replayed(
    breakable: Breakable, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        async with serving(engine) as books:
            customer = await books.customer(paid=PLENTY)
            ids = await open_some(books, customer, 2)
            await breakable.do(breakable.server.kill)
            futures = [books.ledger.submit(books.end_op(id_, customer, 5)) for id_ in ids]
            await books.ledger.stop()
            await asyncio.gather(*futures)
            await breakable.do(breakable.server.start)
            # As when the address in the configuration changed: same epoch, another process.
            await books.database.execute("UPDATE process SET started_at = started_at + 1")
        async with serving(engine) as books:
            assert books.ledger.depth() == 0
            assert await books.count("usage WHERE charge > 0") == 0

    uvloop.run(scenario())
    assert spool_size(engine) > 0
    assert "belongs to another database" in caplog.text
