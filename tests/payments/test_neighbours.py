"""Accounts live side by side: what happens to one of them changes no row of another and is decided by none."""

import contextlib
from typing import Any

import pytest
from tests.payments.conftest import USD, Till
from tests.payments.test_subscriptions import ADA, later, ordered, subscribed, subscribing
from tests.payments.test_top_ups import refuse
from tests.services.conftest import World
from tests.services.test_accounts import make

from tollbridge.core.payments import Buyer, Status
from tollbridge.core.subscriptions import Stage
from tollbridge.errors import InvalidRequest
from tollbridge.payments.base import ProcessorUnavailable
from tollbridge.services import invoices, notices, payments, top_ups
from tollbridge.services.refunds import refund, retry
from tollbridge.store import accounts
from tollbridge.store import invoices as invoice_rows
from tollbridge.store import payments as payment_rows
from tollbridge.store import subscriptions as subscription_rows

BANK = {"bank_transfer__instructions": "Example Bank"}
OWN = (
    "payment WHERE account_id = $1",
    "reversal WHERE payment_id IN (SELECT id FROM payment WHERE account_id = $1)",
    "invoice WHERE account_id = $1",
    "subscription WHERE account_id = $1",
    "balance WHERE account_id = $1",
    "buyer WHERE account_id = $1",
    "auto_top_up WHERE account_id = $1",
    "balance_alert WHERE account_id = $1",
    "low_balance WHERE account_id = $1",
    "journal WHERE account_id = $1",
    "account WHERE id = $1",
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.payments.stripe_api._PAUSE_S", 0.001)


async def everything(till: Till) -> list[Any]:
    return [await till.database.fetch(f"SELECT * FROM {rows} ORDER BY 1", till.account.id) for rows in OWN]


async def beside(till: Till, email: str) -> Till:
    return Till(till.stripe, till.ways, till.database, await make(till.database, email))


async def state(till: Till) -> accounts.Account:
    return await accounts.known(till.database, till.account.id)


async def switch_on(till: Till, cap: int = 50 * USD) -> None:
    await top_ups.switch_on(till.ways, till.account, threshold=20 * USD, amount=50 * USD, daily_cap=cap)


async def a_full_life(till: Till) -> None:
    """Something of every kind, left half done."""
    await till.paid(10 * USD, save_card=True)
    await switch_on(till)
    assert await top_ups.run_due(till.ways) == 1
    await notices.choose_threshold(till.database, till.account, 5 * USD)
    await invoices.set_buyer(till.database, till.account, Buyer(name="Eve Ltd"))
    disputed, refunded = await till.paid(7 * USD), await till.paid(30 * USD)
    await subscribed(till)
    till.stripe.dispute(str(disputed.intent))
    await till.send(*till.stripe.events[-1:])
    till.stripe.faults = ["drop"] * 3
    with pytest.raises(ProcessorUnavailable):
        await refund(till.ways, refunded.public_id, 3 * USD, actor="boss")
    await till.order(40 * USD)
    await till.ways.start_checkout(till.account, 50 * USD, method="bank_transfer")


@pytest.mark.parametrize("who_is_first", ["eve", "ada"])
def test_a_life_beside_another_is_as_if_it_were_alone(world: World, who_is_first: str) -> None:
    async def scenario(till: Till) -> None:
        eve = await beside(till, "eve@example.com") if who_is_first == "eve" else till
        ada = till if who_is_first == "eve" else await beside(till, "zoe@example.com")
        await a_full_life(eve)
        before = await everything(eve)

        await invoices.set_buyer(ada.database, ada.account, Buyer(name="Ada Ltd"))
        first = await ada.paid(10 * USD, save_card=True)
        await switch_on(ada)
        assert await top_ups.run_due(ada.ways) == 1
        second = await ada.paid(20 * USD)
        dispute = ada.stripe.dispute(str(second.intent))
        await ada.send(ada.stripe.events[-1])
        assert (await state(ada)).frozen
        ada.stripe.close_dispute(dispute["id"], won=True)
        await ada.send(ada.stripe.events[-1])
        assert not (await state(ada)).frozen
        await refund(ada.ways, first.public_id, 4 * USD, actor="boss")
        assert ((await state(ada)).paid, (await state(ada)).plan) == (76 * USD, "default")
        papers = await invoices.papers(ada.database, ada.ways.issuer, ada.account)
        assert [(each.title, each.total) for each in papers] == [
            ("Credit note", -4 * USD),
            ("Invoice", 20 * USD),
            ("Invoice", 50 * USD),
            ("Invoice", 10 * USD),
        ]
        assert {each.buyer.name for each in papers} == {"Ada Ltd"}
        await subscribed(ada)
        await ada.ways.subscriptions.set_ending(ada.account, True, ADA)
        ours = await ada.ways.subscriptions.current(ada.account)
        assert ours is not None
        assert (ours.account_id, ours.stage, ours.ending) == (ada.account.id, Stage.ACTIVE, True)
        assert len(await subscription_rows.page(ada.database, 1 << 62, 10)) == 2
        await notices.choose_threshold(ada.database, ada.account, 0)
        unpaid = await ada.order(9 * USD)
        await ada.ways.withdraw(ada.account)
        seen = await ada.ways.order(ada.account, unpaid.payment.public_id)
        assert seen.status is Status.EXPIRED
        await ada.ways.dismiss((await ada.order(8 * USD)).payment.public_id, actor="boss")
        orders = await ada.ways.orders(ada.account)
        assert [each.amount // USD for each in orders] == [8, 9, 20, 20, 50, 10]
        await top_ups.switch_off(ada.database, ada.account)
        assert await top_ups.current(ada.database, ada.account) is None
        await top_ups.forget_card(ada.ways, ada.account)
        await retry(ada.ways)

        assert await everything(eve) == before

    subscribing(world, scenario, **BANK)


def test_the_cap_of_a_day_counts_the_accounts_own_charges_that_were_not_declined(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        eve = await beside(till, "eve@example.com")
        await eve.paid(10 * USD, save_card=True)
        await switch_on(eve)
        assert await top_ups.run_due(eve.ways) == 1
        before = await everything(eve)
        await till.paid(10 * USD, save_card=True)
        await switch_on(till)
        refuse(till, "card_declined")
        assert await top_ups.run_due(till.ways) == 1
        refuse(till, "")
        assert await top_ups.run_due(till.ways) == 1
        assert (await state(till)).paid == 60 * USD
        assert await everything(eve) == before

    subscribing(sqlite_world, scenario)


def test_only_an_accounts_own_unpaid_checkouts_are_counted(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payments, "MOST_PENDING", 1)

    async def scenario(till: Till) -> None:
        eve = await beside(till, "eve@example.com")
        await eve.order()
        await till.paid(10 * USD, save_card=True)
        await switch_on(till)
        till.stripe.faults = ["drop"] * 3
        assert await top_ups.run_due(till.ways) == 1  # and is not answered
        await till.order()
        with pytest.raises(InvalidRequest, match="still unpaid"):
            await till.order()

    subscribing(sqlite_world, scenario)


def test_the_same_form_of_two_accounts_is_two_orders(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        eve = await beside(till, "eve@example.com")
        hers, mine = await eve.order(once="form"), await till.order(once="form")
        assert (hers.payment.account_id, mine.payment.account_id) == (eve.account.id, till.account.id)
        assert (hers.repeated, mine.repeated, hers.url == mine.url) == (False, False, False)

    subscribing(sqlite_world, scenario)


def test_events_wait_each_by_itself(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        eve = await beside(till, "eve@example.com")
        for each in (eve, till):
            each.stripe.pay(each.session(await each.order()))
        [hers, mine] = [each for each in till.stripe.events if each["type"] == "checkout.session.completed"]
        till.stripe.faults = ["500"] * 20
        await till.send(hers)
        till.stripe.faults = []
        waits = "SELECT id, tries, retry_at, done_at FROM payment_event WHERE done_at IS NULL"
        before = await till.database.fetch(waits)
        assert [(id_, tries) for id_, tries, *_ in before] == [(hers["id"], 1)]
        await till.send(mine)
        assert await till.database.fetch(waits) == before
        # Its time has not come, and what is done is done.
        seen = len(till.stripe.calls)
        await till.ways.reconcile()
        assert len(till.stripe.calls) == seen
        till.stripe.pay(till.session(await till.order()))
        till.stripe.faults = ["500"] * 20
        await till.send(till.stripe.events[-1])
        till.stripe.faults = []
        waiting = await till.database.fetch(f"{waits} ORDER BY retry_at")
        assert (len(waiting), waiting[:1]) == (2, before)
        assert ((await state(eve)).paid, (await state(till)).paid) == (0, 10 * USD)

    subscribing(sqlite_world, scenario)


def test_of_two_months_the_one_that_is_due_is_asked_about(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        eve = await beside(till, "eve@example.com")
        await subscribed(eve)
        await subscribed(till)
        await later(till, 10)
        before = await everything(eve)
        seen = len(till.stripe.calls)
        await till.database.execute("UPDATE subscription SET check_at = 1 WHERE account_id = $1", till.account.id)
        with contextlib.suppress(ProcessorUnavailable):
            await till.ways.subscriptions.reconcile()
        assert len(till.stripe.calls) > seen
        assert await everything(eve) == before

    subscribing(sqlite_world, scenario)


def test_lists_are_read_newest_first_and_page_by_page(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        eve = await beside(till, "eve@example.com")
        first, hers = await till.paid(10 * USD), await eve.paid(20 * USD)
        last = (await till.order(30 * USD)).payment
        database = till.database

        async def listed(status: str, before: int, count: int) -> list[int]:
            return [each.id for each in await payment_rows.of_status(database, status, before, count)]

        assert await listed("", 1 << 62, 2) == [last.id, hers.id]
        assert await listed("", hers.id, 2) == [first.id]
        assert await listed("paid", 1 << 62, 2) == [hers.id, first.id]
        assert await listed("pending", 1 << 62, 2) == [last.id]
        assert await listed("review", 1 << 62, 2) == []
        for before, found in ((1 << 62, [last.id, first.id]), (last.id, [first.id]), (first.id, [])):
            page = await payment_rows.of_account(database, till.account.id, before, 2)
            assert [each.id for each in page] == found
        papers = await invoice_rows.of_account(database, till.account.id, 1 << 62, 2)
        assert [each.number for each in papers] == [1]
        assert await invoice_rows.of_account(database, till.account.id, 1, 2) == []
        await subscribed(eve)
        await subscribed(till)
        await ordered(await beside(till, "zoe@example.com"))
        pages = [await subscription_rows.page(database, before, 2) for before in (1 << 62, 2)]
        assert [[each.email for each in page] for page in pages] == [
            ["zoe@example.com", "ada@example.com"],
            ["eve@example.com"],
        ]

    subscribing(sqlite_world, scenario)
