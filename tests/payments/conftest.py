"""A gateway's payments on a database of each engine, with a fake Stripe of our own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from tests.payments.fake_stripe import SECRET_KEY, SIGNING_SECRET, FakeStripe, Object
from tests.services.conftest import World, migrated_file, sqlite_world, world
from tests.services.test_accounts import make

from tollbridge.config import Settings, Source, read
from tollbridge.core.payments import Payment
from tollbridge.services import accounts
from tollbridge.services.payments import Checkout, Payments, open_payments
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database

__all__ = ["migrated_file", "sqlite_world", "world"]

USD = 1_000_000_000


def settings(**given: str) -> Settings:
    """As configured by environment variables, `stripe__secret_key=…`."""
    variables = {f"TOLLBRIDGE_{name.upper()}": value for name, value in given.items()}
    return read(Source(), variables)


def with_stripe(stripe: FakeStripe, **given: str) -> Settings:
    return settings(
        stripe__secret_key=SECRET_KEY, stripe__webhook_secret=SIGNING_SECRET, stripe__base_url=stripe.url, **given
    )


class Till(msgspec.Struct):
    """One account's payments through one Stripe."""

    stripe: FakeStripe
    ways: Payments
    database: Database
    account: Account

    async def order(self, amount: int = 10 * USD, **more: Any) -> Checkout:
        return await self.ways.start_checkout(self.account, amount, method="stripe", **more)

    async def send(self, *events: Object) -> None:
        """Deliver events as Stripe would."""
        for event in events:
            body, signature = self.stripe.sign(event)
            assert await self.ways.receive(signature, body) == 200

    async def paid(self, amount: int = 10 * USD, **more: Any) -> Payment:
        """A payment that was credited."""
        checkout = await self.order(amount, **more)
        seen = len(self.stripe.events)
        self.stripe.pay(self.session(checkout))
        await self.send(*self.stripe.events[seen:])
        return await self.ways.order(self.account, checkout.payment.public_id)

    def session(self, checkout: Checkout) -> str:
        return checkout.url.rpartition("/")[2]

    async def state(self) -> Account:
        return await accounts.get(self.database, self.account.email)

    async def count(self, table: str) -> int:
        return int((await self.database.fetch(f"SELECT count(*) FROM {table}"))[0][0])

    async def books(self) -> dict[str, int]:
        """The journal's balance of each ledger account."""
        rows = await self.database.fetch("SELECT book, CAST(SUM(amount) AS BIGINT) FROM entry GROUP BY book")
        return {book: int(amount) for book, amount in rows if amount}


@asynccontextmanager
async def opened_till(world: World, **given: str) -> AsyncIterator[Till]:
    async with FakeStripe() as stripe, world.opened() as database:
        account = await make(database)
        ways = open_payments(database, with_stripe(stripe, **given), "http://127.0.0.1:8000")
        try:
            yield Till(stripe, ways, database, account)
        finally:
            await ways.close()


def at_till(world: World, scenario: Callable[[Till], Awaitable[Any]], **given: str) -> None:
    async def main() -> None:
        async with opened_till(world, **given) as till:
            await scenario(till)

    asyncio.run(main())
