"""What becomes of credit when its account is closed: gifts go back, paid credit is owed until somebody decides."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.payments.conftest import USD, Till, opened_till
from tests.services.conftest import World, hold, spend
from tests.services.test_accounts import a_key

from tollbridge.core.ledger import End, Ended, Held, Record
from tollbridge.errors import InvalidRequest
from tollbridge.services import credit, leave, statements, vouchers
from tollbridge.services.balance_changes import balance_changes
from tollbridge.services.refunds import refund
from tollbridge.services.statements import Period
from tollbridge.store import accounts, oversight
from tollbridge.store.accounts import Account
from tollbridge.store.ledger import Ledger
from tollbridge.store.verify import verify
from tollbridge.values import Outcome

ALL = Period("all", 0, 1 << 62)


def play(world: World, scenario: Callable[[Till, Ledger], Awaitable[None]], **given: str) -> None:
    async def main() -> None:
        async with opened_till(world, **given) as till, world.serving(till.database) as ledger:
            await scenario(till, ledger)

    asyncio.run(main())


async def give(till: Till, amount: int) -> None:
    await credit.grant(till.database, till.account, amount, reason="x", actor="test", idempotency_key=str(amount))


async def closed(till: Till) -> Account:
    return (await leave.close_for(till.ways, till.account.public_id, forfeit=True, actor="boss"))[1]


async def now(till: Till) -> Account:
    return await accounts.known(till.database, till.account.id)


async def books(till: Till) -> dict[str, int]:
    """The trial balance without what is zero; proved, and the same as the statement of the only account."""
    lines = await statements.trial_balance(till.database, ALL)
    assert sum(line.closing for line in lines) == 0
    assert (await verify(till.database)).ok
    account, last = await now(till), 0
    async for line in balance_changes(till.database, account.id):
        last = line.balance
    assert last == account.paid + account.promo
    return {line.book.value: line.closing for line in lines if line.closing}


def test_gifts_go_back_against_their_expense_and_paid_credit_stays_owed(world: World) -> None:
    async def scenario(till: Till, ledger: Ledger) -> None:
        key = await a_key(till.database, till.account)
        payment = await till.paid(10 * USD)
        await give(till, 3 * USD)
        (code,) = await vouchers.create(till.database, 2 * USD, actor="test")
        await vouchers.redeem(till.database, till.account, code.code)
        await spend(ledger, till.account.id, key, USD)
        before = await books(till)
        assert before["promo_expense"] == -4 * USD
        account = await closed(till)
        assert (account.paid, account.promo) == (10 * USD, 0)
        after = await books(till)
        assert after == {name: amount for name, amount in before.items() if "promo" not in name}
        rows = await till.database.fetch(
            "SELECT kind, reason, actor, book, amount FROM journal JOIN entry ON journal_id = journal.id "
            "WHERE idempotency_key LIKE 'closed/%' ORDER BY journal_id, line"
        )
        assert rows == [
            ("grant", "taken back: the account was closed", "closing", "customer_promo", -4 * USD),
            ("grant", "taken back: the account was closed", "closing", "promo_expense", 4 * USD),
        ]
        await credit.take_back_all(till.database)
        assert await books(till) == after
        # The money can still be paid back.
        await refund(till.ways, payment.public_id, None, actor="boss")
        assert "customer_paid" not in await books(till)

    play(world, scenario)


def test_gifts_that_a_running_call_has_reserved_pay_for_it_and_the_rest_goes_back_after_it(world: World) -> None:
    async def scenario(till: Till, ledger: Ledger) -> None:
        key = await a_key(till.database, till.account)
        await till.paid(10 * USD)
        await give(till, 3 * USD)
        running = hold(ledger, till.account.id, key, 11 * USD)
        assert isinstance(await ledger.submit(running), Held)
        account = await closed(till)
        # 2 of the 13 are free: what is reserved stays, whatever it is made of.
        assert (account.paid, account.promo, account.held) == (10 * USD, USD, 11 * USD)
        with pytest.raises(InvalidRequest, match="still running"):
            await credit.write_off(till.database, account, reason="x", actor="boss")
        await credit.take_back_all(till.database)
        assert (await now(till)).promo == USD
        cost = USD // 4
        record = Record(started_at=0, duration_ms=1, price_version=1, input=cost, outcome=Outcome.COMPLETED)
        ended = await ledger.submit(End(hold=running.id, account_id=account.id, key_id=key, charge=cost, record=record))
        assert isinstance(ended, Ended)
        assert (ended.charged, ended.promo, ended.loss) == (cost, cost, 0)
        await asyncio.gather(*(credit.take_back_all(till.database) for _ in range(3)))
        account = await now(till)
        assert (account.paid, account.promo) == (10 * USD, 0)
        assert "promo_expense" not in await books(till)

    play(world, scenario)


def test_paid_credit_is_written_off_only_when_the_operator_says_so_and_what_comes_later_too(world: World) -> None:
    async def scenario(till: Till, _: Ledger) -> None:
        payment = await till.paid(10 * USD)
        with pytest.raises(InvalidRequest, match="only what a closed account"):
            await credit.write_off(till.database, till.account, reason="x", actor="boss")
        account = await closed(till)
        with pytest.raises(InvalidRequest, match="reason"):
            await credit.write_off(till.database, account, reason=" ", actor="boss")
        assert await credit.write_off(till.database, account, reason="not claimed", actor="boss") == 10 * USD
        assert (await books(till))["revenue"] == 10 * USD
        with pytest.raises(InvalidRequest, match="nothing is owed"):
            await credit.write_off(till.database, account, reason="again", actor="boss")
        with pytest.raises(InvalidRequest, match="not have that much paid credit"):
            await refund(till.ways, payment.public_id, None, actor="boss")
        # A bank takes the money back long after that.
        dispute = till.stripe.dispute(payment.intent or "", 1_000)
        await till.send(*till.stripe.events)
        assert (await now(till)).paid == -10 * USD
        assert await credit.write_off(till.database, account, reason="lost", actor="boss") == -10 * USD
        after = await books(till)
        assert (after["revenue"], after["loss"]) == (10 * USD, -10 * USD)
        till.stripe.close_dispute(dispute["id"], won=True)
        await till.send(*till.stripe.events)
        assert (await books(till))["customer_paid"] == 10 * USD
        noted = "SELECT COUNT(*) FROM activity WHERE action = 'credit.written_off'"
        assert await till.database.fetch(noted) == [(2,)]

    play(world, scenario)


def test_what_was_paid_for_a_closed_account_waits_for_nobody_once_it_is_written_off(world: World) -> None:
    async def scenario(till: Till, _: Ledger) -> None:
        order = await till.ways.start_checkout(till.account, 30 * USD, method="bank_transfer")
        account = await closed(till)
        assert order.payment.external_id is not None
        await till.ways.confirm(order.payment.external_id, 30 * USD, actor="boss")
        assert (await oversight.waiting(till.database)).review == 1
        with pytest.raises(InvalidRequest):
            await credit.write_off(till.database, account, reason="", actor="boss")
        assert (await oversight.waiting(till.database)).review == 1
        assert await credit.write_off(till.database, account, reason="unclaimed", actor="boss") == 30 * USD
        assert (await oversight.waiting(till.database)).review == 0
        assert (await books(till))["revenue"] == 30 * USD

    play(world, scenario, bank_transfer__instructions="Pay to X.")


def test_gifts_of_an_overdrawn_account_go_back_with_what_it_owes(world: World) -> None:
    async def scenario(till: Till, ledger: Ledger) -> None:
        key = await a_key(till.database, till.account)
        payment = await till.paid(10 * USD)
        await spend(ledger, till.account.id, key, 5 * USD)
        till.stripe.dispute(payment.intent or "", 1_000)
        await till.send(*till.stripe.events)
        await give(till, 8 * USD)
        account = await closed(till)
        assert (account.paid, account.promo) == (-5 * USD, 5 * USD)
        assert await credit.write_off(till.database, account, reason="lost", actor="boss") == -5 * USD
        after = await books(till)
        assert after["loss"] == -5 * USD
        assert not {"customer_paid", "customer_promo", "promo_expense"} & set(after)

    play(world, scenario)
