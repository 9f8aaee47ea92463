"""Credit: given once for each idempotency key, by the ledger's own rules, beside a gateway that runs."""

import asyncio
import multiprocessing
from multiprocessing.synchronize import Barrier

import msgspec
import pytest
from tests.services.conftest import World, hold
from tests.services.test_accounts import a_key, make

from tollbridge.core.ledger import Book, Ended, Held, Posted
from tollbridge.errors import InvalidRequest
from tollbridge.services import accounts
from tollbridge.services.credit import grant
from tollbridge.store.accounts import CLOSED, Account
from tollbridge.store.db import Database

USD = 1_000_000_000


async def give(database: Database, account: Account, amount: int, once: str = "g1", reason: str = "welcome") -> Posted:
    return await grant(database, account, amount, reason=reason, actor="test", idempotency_key=once)


def test_a_grant_is_promotional_credit_and_stands_in_the_journal(world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        posted = await give(database, account, 5 * USD)
        assert (posted.available, posted.repeated) == (5 * USD, False)
        after = await accounts.get(database, account.email)
        assert (after.promo, after.paid) == (5 * USD, 0)
        rows = await database.fetch(
            "SELECT kind, reason, actor, book, amount FROM journal JOIN entry ON journal_id = journal.id ORDER BY line"
        )
        assert rows == [
            ("grant", "welcome", "test", Book.PROMO_EXPENSE, -5 * USD),
            ("grant", "welcome", "test", Book.CUSTOMER_PROMO, 5 * USD),
        ]

    world.run(use)


def test_a_repeated_grant_changes_nothing(world: World) -> None:
    """A16."""

    async def use(database: Database) -> None:
        account = await make(database)
        await give(database, account, 5)
        again = await give(database, account, 5)
        assert (again.available, again.repeated) == (5, True)
        assert (await accounts.get(database, account.email)).promo == 5
        deeds = await database.fetch("SELECT actor, detail FROM activity WHERE action = 'credit.granted'")
        assert deeds == [("test", "0.000000005 USD: welcome")]

    world.run(use)


def test_an_idempotency_key_is_for_one_grant(world: World) -> None:
    """A16: another amount, or another account."""

    async def use(database: Database) -> None:
        ada, bob = await make(database), await make(database, "bob@example.com")
        await give(database, ada, 5)
        for account, amount in ((ada, 6), (bob, 5)):
            with pytest.raises(InvalidRequest) as caught:
                await give(database, account, amount)
            assert caught.value.code == "idempotency_key_reused"
        assert (await accounts.get(database, ada.email)).promo == 5
        assert (await accounts.get(database, bob.email)).promo == 0

    world.run(use)


def test_of_fifty_at_once_one_grant_is_made(world: World) -> None:
    """A16: a double click, from several connections."""

    async def use(database: Database) -> None:
        account = await make(database)
        async with world.opened() as second, world.opened() as third:
            each = [database, second, third]
            tries = [give(each[number % 3], account, 5) for number in range(50)]
            results = await asyncio.gather(*tries)
        assert len([posted for posted in results if not posted.repeated]) == 1
        assert (await accounts.get(database, account.email)).promo == 5

    world.run(use)


def test_one_key_for_two_accounts_at_once_is_one_grant(world: World) -> None:
    async def use(database: Database) -> None:
        for turn in range(10):
            ada = await make(database, f"ada{turn}@example.com")
            bob = await make(database, f"bob{turn}@example.com")
            async with world.opened() as second:
                results = await asyncio.gather(
                    give(database, ada, 5, once=f"t{turn}"),
                    give(second, bob, 5, once=f"t{turn}"),
                    return_exceptions=True,
                )
            assert len([each for each in results if isinstance(each, Posted)]) == 1
            assert len([each for each in results if isinstance(each, InvalidRequest)]) == 1

    world.run(use)


@pytest.mark.parametrize("amount", [0, -1, -(1 << 62), 1 << 62, 1 << 80])
def test_an_amount_that_cannot_be_is_refused(world: World, amount: int) -> None:
    """A17."""

    async def use(database: Database) -> None:
        account = await make(database, credit=1)
        with pytest.raises(InvalidRequest, match="an amount must be above zero"):
            await give(database, account, amount)
        assert (await accounts.get(database, account.email)).promo == 1

    world.run(use)


def test_a_balance_never_outgrows_its_column(world: World) -> None:
    """A9."""

    async def use(database: Database) -> None:
        account = await make(database)
        await give(database, account, (1 << 62) - 2)
        with pytest.raises(InvalidRequest):
            await give(database, await accounts.get(database, account.email), 1 << 61, once="g2")

    world.run(use)


def test_nobody_is_given_credit_in_an_account_that_is_closed(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        closed = msgspec.structs.replace(account, email=f"{account.public_id}{CLOSED}")
        with pytest.raises(InvalidRequest, match="this account is closed"):
            await give(database, closed, 5)
        assert (await accounts.get(database, account.email)).promo == 0

    sqlite_world.run(use)


@pytest.mark.parametrize("reason", ["", "  ", "a\nb", "a\x00b", "\ud800", "x" * 501])
def test_a_reason_that_cannot_be_is_refused(sqlite_world: World, reason: str) -> None:
    async def use(database: Database) -> None:
        with pytest.raises(InvalidRequest, match="reason must be 1 to 500 characters"):
            await give(database, await make(database), 5, reason=reason)

    sqlite_world.run(use)


def test_a_grant_beside_a_running_gateway_is_there_for_the_next_call(world: World) -> None:
    """The gateway remembers balances; what others write it learns from the database."""

    async def use(database: Database) -> None:
        account = await make(database, credit=100)
        key_id = await a_key(database, account)
        async with world.serving(database) as ledger, world.opened() as other:
            first = hold(ledger, account.id, key_id, 100)
            held = await ledger.submit(first)
            assert isinstance(held, Held)
            assert held.available == 0
            assert (await give(other, account, 50)).available == 50
            second = await ledger.submit(hold(ledger, account.id, key_id, 50))
            assert isinstance(second, Held)
            assert second.available == 0

    world.run(use)


def test_grants_and_calls_at_once_lose_nothing(world: World) -> None:
    """new-api#4302, one-api#2397: the balance is locked on both databases while a grant is decided."""
    from tests.services.conftest import spend

    async def use(database: Database) -> None:
        account = await make(database, credit=1_000_000)
        key_id = await a_key(database, account)
        async with world.serving(database) as ledger, world.opened() as other:

            async def calls() -> int:
                ended = [await spend(ledger, account.id, key_id, 7) for _ in range(60)]
                return len([each for each in ended if isinstance(each, Ended)])

            async def grants(start: int) -> None:
                for number in range(20):
                    await give(other, account, 11, once=f"{start}/{number}")

            *spent, _, _ = await asyncio.gather(calls(), calls(), grants(0), grants(1))
        after = await accounts.get(database, account.email)
        assert spent == [60, 60]
        assert (after.promo, after.held) == (1_000_000 - 120 * 7 + 40 * 11, 0)

    world.run(use)


def _grant_from_elsewhere(world: World, email: str, start: Barrier) -> None:
    async def use(database: Database) -> None:
        account = await accounts.get(database, email)
        start.wait()
        for number in range(10):
            await give(database, account, 3, once=f"shared/{number}")

    world.run(use)


def test_processes_that_grant_the_same_at_once_grant_it_once(world: World) -> None:
    """A16, T-RACE."""
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(3)
    world.run(lambda database: make(database))
    workers = [spawn.Process(target=_grant_from_elsewhere, args=(world, "ada@example.com", start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    after = world.run(lambda database: accounts.get(database, "ada@example.com"))
    assert after.promo == 30
