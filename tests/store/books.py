"""Books to play with: an engine, a started process on it, and customers with money.

with_books(engine, scenario)        # scenario(books) runs, and what it leaves must verify
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from tollbridge.core.ledger import End, Ended, Extend, Held, Hold, Posted, Record, Verdict, grant, top_up
from tollbridge.store import accounts, prices, processes, verify
from tollbridge.store.db import Database, open_database, run, sqlite_path
from tollbridge.store.ledger import Ledger
from tollbridge.store.ledger.sqlite import SqliteLedger
from tollbridge.values import Outcome, Price

NANO_A_TOKEN = Price(input=1000, output=1000, cache_read=1000, cache_write=1000, cache_write_1h=1000)
TERMS = prices.Terms(model="m", provider="p", upstream_model="u", price=NANO_A_TOKEN, cost=NANO_A_TOKEN)


class Engine:
    """A migrated database, and how its hot engine is opened."""

    def __init__(self, url: str, directory: Path) -> None:
        self.url = url
        self.directory = directory
        self.dialect = url.partition(":")[0]

    def database(self) -> Database:
        return open_database(self.url)

    def ledger(self, epoch: int) -> Ledger:
        if self.dialect == "sqlite":
            return SqliteLedger(sqlite_path(self.url), epoch)
        from tollbridge.store.ledger.postgres import PostgresLedger

        return PostgresLedger(self.url, epoch, self.directory)

    def lock(self) -> processes.FileLock | None:
        return processes.FileLock(sqlite_path(self.url)) if self.dialect == "sqlite" else None


class Customer(msgspec.Struct, frozen=True):
    account_id: int
    key_id: int


class Books:
    """A serving process: its database, its row, its ledger."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.database = engine.database()
        self.process: processes.Process
        self.ledger: Ledger
        self.price_version = 0
        self._count = 0

    async def start(self) -> None:
        lock = self.engine.lock()
        if lock is not None:
            lock.acquire()
        await self.database.start()
        try:
            self.process = await processes.begin(self.database, lock)
        except BaseException:
            await self.database.close()
            raise
        self.ledger = self.engine.ledger(self.process.epoch)
        await self.ledger.start()
        await self.process.recover(self.ledger)
        (self.price_version,) = await prices.register(self.database, [TERMS])

    async def stop(self) -> None:
        await self.ledger.stop()
        await self.process.finish()
        await self.database.close()

    async def customer(
        self, *, paid: int = 0, promo: int = 0, limit: int | None = None, expires_at: int | None = None
    ) -> Customer:
        """A new account with this balance and one key."""
        name = f"{self.process.epoch}-{self._count}-{os.urandom(4).hex()}"
        self._count += 1
        account_id = await run(
            self.database,
            lambda tx: accounts.create(tx, public_id=name, email=f"{name}@example.com", plan="p", now=0),
        )
        for post in (
            paid and top_up(account_id, paid, idempotency_key=f"top-up/{name}", reason="", actor=""),
            promo and grant(account_id, promo, idempotency_key=f"grant/{name}", reason="", actor=""),
        ):
            if post:
                assert isinstance(await self.ledger.submit(post), Posted)
        return await self.key(account_id, limit=limit, expires_at=expires_at)

    async def key(self, account_id: int, *, limit: int | None = None, expires_at: int | None = None) -> Customer:
        rows = await self.database.fetch(
            "INSERT INTO api_key (public_id, account_id, digest, pepper_id, hint, label, limit_nano, created_at, "
            "expires_at) VALUES ($1, $2, $3, 1, '', '', $4, 0, $5) RETURNING id",
            *(os.urandom(8).hex(), account_id, os.urandom(32), limit, expires_at),
        )
        return Customer(account_id, rows[0][0])

    def hold_op(self, customer: Customer, want: int, least: int | None = None) -> Hold:
        least = want if least is None else least
        return Hold(
            id=self.ledger.next_id(), account_id=customer.account_id, key_id=customer.key_id, want=want, least=least
        )

    async def hold(self, customer: Customer, want: int, least: int | None = None) -> tuple[int, Verdict]:
        op = self.hold_op(customer, want, least)
        return op.id, await self.ledger.submit(op)

    async def held(self, customer: Customer, want: int, least: int | None = None) -> int:
        """The id of a hold, which must be granted."""
        id_, verdict = await self.hold(customer, want, least)
        assert isinstance(verdict, Held), verdict
        return id_

    def extend_op(self, hold: int, customer: Customer, step: int, want: int, least: int | None = None) -> Extend:
        least = want if least is None else least
        return Extend(
            hold=hold, account_id=customer.account_id, key_id=customer.key_id, step=step, want=want, least=least
        )

    def end_op(self, hold: int, customer: Customer, charge: int, outcome: Outcome = Outcome.COMPLETED) -> End:
        return End(
            hold=hold,
            account_id=customer.account_id,
            key_id=customer.key_id,
            charge=charge,
            record=self.record(charge, outcome),
        )

    async def end(self, hold: int, customer: Customer, charge: int) -> Ended:
        verdict = await self.ledger.submit(self.end_op(hold, customer, charge))
        assert isinstance(verdict, Ended), verdict
        return verdict

    def record(self, charge: int, outcome: Outcome = Outcome.COMPLETED) -> Record:
        """A token costs one nano-USD."""
        return Record(
            started_at=time.time_ns() // 1_000_000,
            duration_ms=1,
            price_version=self.price_version,
            output=charge,
            outcome=outcome,
            cost=charge // 2,
            raw=b'{"completion_tokens":1}',
        )

    async def balance(self, customer: Customer) -> tuple[int, int, int]:
        """(paid, promo, held)"""
        rows = await self.database.fetch(
            "SELECT paid, promo, held FROM balance WHERE account_id = $1", customer.account_id
        )
        return rows[0][0], rows[0][1], rows[0][2]

    async def count(self, table: str) -> int:
        rows = await self.database.fetch(f"SELECT count(*) FROM {table}")
        return int(rows[0][0])


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[Books]:
    books = Books(engine)
    await books.start()
    try:
        yield books
    finally:
        await books.stop()


async def assert_verified(database: Database) -> verify.Report:
    report = await verify.verify(database)
    assert report.ok, report.problems
    return report


def with_books(engine: Engine, scenario: Callable[[Books], Awaitable[Any]]) -> None:
    """Run `scenario` in a serving process of its own; then the books must be right."""

    async def main() -> None:
        async with serving(engine) as books:
            await scenario(books)
            await assert_verified(books.database)

    asyncio.run(main())
