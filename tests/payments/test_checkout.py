"""Buying credit by card, from the order to the balance, and everything that can go wrong between."""

import asyncio
import contextlib
from typing import Any

import pytest
from tests.payments.conftest import USD, Till, at_till
from tests.services.conftest import World

from tollbridge.core.ledger import grant
from tollbridge.core.payments import Status
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.payments.base import Order, ProcessorUnavailable, Started
from tollbridge.services import invoices
from tollbridge.services.accounts import create
from tollbridge.services.refunds import refund
from tollbridge.store import journal, leaving, oversight, payments
from tollbridge.store.accounts import known
from tollbridge.store.db import run
from tollbridge.store.gauges import gauges
from tollbridge.values import HOUR_MS

CENT = USD // 100


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.payments.stripe_api._PAUSE_S", 0.001)


def test_a_paid_session_is_credited_with_its_fee_and_an_invoice(world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid(10 * USD)
        assert (payment.status, payment.fee, payment.tax) == (Status.PAID, 59 * CENT, 0)
        account = await till.state()
        assert (account.paid, account.promo) == (10 * USD, 0)
        assert await till.books() == {
            "customer_paid": 10 * USD,
            "processor_clearing": -10 * USD + 59 * CENT,
            "fees": -59 * CENT,
        }
        (paper,) = await invoices.papers(till.database, till.ways.issuer, account)
        assert (paper.number, paper.title, paper.net, paper.total) == ("INV-000001", "Invoice", 10 * USD, 10 * USD)
        assert (paper.buyer.name, paper.seller.name, paper.paid_by) == ("Ada Lovelace", "Tollbridge", "card")

    at_till(world, scenario)


def test_every_event_twice_is_one_credit(world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        await till.send(*till.stripe.events, *till.stripe.events)
        assert (await till.state()).paid == 10 * USD
        assert await till.count("invoice") == 1
        assert payment.status is Status.PAID

    at_till(world, scenario)


def test_a_slow_payment_is_credited_when_it_has_arrived(world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        session = till.session(checkout)
        till.stripe.pay(session, slowly=True)
        await till.send(*till.stripe.events)
        order = await till.ways.order(till.account, checkout.payment.public_id)
        assert (order.status, (await till.state()).paid) == (Status.PROCESSING, 0)
        till.stripe.slow_success(session)
        await till.send(till.stripe.events[-1])
        assert (await till.state()).paid == 10 * USD

    at_till(world, scenario)


def test_a_slow_payment_that_fails_gives_nothing(world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout), slowly=True)
        till.stripe.slow_failure(till.session(checkout))
        await till.send(*till.stripe.events)
        order = await till.ways.order(till.account, checkout.payment.public_id)
        assert (order.status, (await till.state()).paid) == (Status.FAILED, 0)

    at_till(world, scenario)


def test_tax_is_owed_and_no_credit(world: World) -> None:
    async def scenario(till: Till) -> None:
        till.stripe.tax_percent = 19
        payment = await till.paid(10 * USD)
        assert (payment.tax, (await till.state()).paid) == (190 * CENT, 10 * USD)
        assert (await till.books())["tax"] == 190 * CENT
        assert payment.intent is not None
        till.stripe.refund(payment.intent, 1190)
        await till.send(*till.stripe.events[-2:])
        assert (await till.state()).paid == 0
        assert "tax" not in await till.books()

    at_till(world, scenario, stripe__automatic_tax="true")


def test_an_order_asked_for_twice_is_one_session(world: World) -> None:
    """I11."""

    async def scenario(till: Till) -> None:
        first = await till.order(once="form-1")
        again = await till.order(once="form-1")
        assert (first.payment.public_id, first.url) == (again.payment.public_id, again.url)
        assert [path for _, path in till.stripe.calls].count("/v1/checkout/sessions") == 1
        with pytest.raises(InvalidRequest, match="other values"):
            await till.order(20 * USD, once="form-1")

    at_till(world, scenario)


@pytest.mark.parametrize("fault", ["500", "drop", "lost"])
@pytest.mark.parametrize("times", [1, 2, 3, 5])
def test_stripe_in_trouble_at_checkout_is_a_503_and_one_session(sqlite_world: World, fault: str, times: int) -> None:
    """I11: our key is sent again, so that whatever got lost, there is one session."""

    async def scenario(till: Till) -> None:
        await till.order()  # Stripe knows the account
        till.stripe.faults = [fault] * times
        for _ in range(3):
            with contextlib.suppress(ProcessorUnavailable):
                checkout = await till.order(once="form")
                break
        assert ProcessorUnavailable.status == 503
        sessions = [each for each in till.stripe.objects if each.startswith("cs_")]
        assert len(sessions) == 2
        till.stripe.pay(till.session(checkout))
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 10 * USD
        assert await till.count("payment") == 2

    at_till(sqlite_world, scenario)


@pytest.mark.parametrize(
    "amount", [0, 499 * CENT, 1000 * USD + CENT, 10 * USD + 1, 50 * USD + CENT // 2, -10 * USD], ids=str
)
def test_an_amount_that_is_not_sold_is_refused(sqlite_world: World, amount: int) -> None:
    async def scenario(till: Till) -> None:
        with pytest.raises(InvalidRequest, match="from 5 to 1000 USD"):
            await till.order(amount)
        assert await till.count("payment") == 0

    at_till(sqlite_world, scenario)


def test_a_pack_may_be_outside_of_the_bounds(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        assert till.ways.packs == (2 * USD, 5000 * USD)
        assert (await till.paid(5000 * USD)).status is Status.PAID

    at_till(sqlite_world, scenario, billing__packs_usd="[2, 5000]")


def change(name: str, value: Any, where: str = "cs_") -> Any:
    def tamper(till: Till) -> None:
        for id_, each in till.stripe.objects.items():
            if id_.startswith(where) and name in each:
                each[name] = value(each[name]) if callable(value) else value

    return tamper


TAMPERED = {
    "amount of the session": change("amount_total", 5000),
    "amount received": change("amount_received", 999, "pi_"),
    "amount received is nothing": change("amount_received", 0, "pi_"),
    "currency": change("currency", "jpy"),
    "currency of another case": change("currency", "eur"),
    "order": change("client_reference_id", "pay_somebodyelses"),
    "order is gone": change("client_reference_id", None),
    "order in the metadata": change("metadata", lambda marks: {**marks, "tollbridge_payment": "pay_x"}),
    "account in the metadata": change("metadata", lambda marks: {**marks, "tollbridge_account": "acct_x"}),
    "no metadata": change("metadata", {}),
    "customer": change("customer", "cus_somebodyelse"),
    "mode": change("livemode", True),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_was_not_ordered_is_for_people_to_look_at(sqlite_world: World, what: str) -> None:
    """I3, I4: nothing is credited unless Stripe's own record agrees with our row."""

    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        TAMPERED[what](till)
        await till.send(*till.stripe.events)
        order = await till.ways.order(till.account, checkout.payment.public_id)
        assert (order.status, (await till.state()).paid) == (Status.REVIEW, 0)
        assert order.note.startswith("the processor has another")
        await till.ways.reconcile()
        assert (await till.state()).paid == 0
        for _ in range(2):
            closed = await till.ways.dismiss(order.public_id, actor="test")
            assert (closed.status, closed.note) == (Status.FAILED, order.note)
            deeds = await till.database.fetch("SELECT detail FROM activity WHERE action = 'payment.dismissed'")
            assert deeds == [(order.public_id,)]

    at_till(sqlite_world, scenario)


@pytest.mark.parametrize("status", ["unpaid", "no_payment_required", "paid?"])
def test_a_session_that_is_not_paid_is_not_credited(sqlite_world: World, status: str) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        change("payment_status", status)(till)
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 0
        order = await till.ways.order(till.account, checkout.payment.public_id)
        assert order.status is Status.PROCESSING

    at_till(sqlite_world, scenario)


def test_a_payment_by_another_method_is_not_completed_through_stripe(world: World) -> None:
    """I3, new-api#4353: an order for a bank transfer, and a session that claims it."""

    async def scenario(till: Till) -> None:
        transfer = await till.ways.start_checkout(till.account, 10 * USD, method="bank_transfer")
        checkout = await till.order()
        session = till.stripe.objects[till.session(checkout)]
        till.stripe.pay(session["id"])
        theirs = transfer.payment.public_id
        session["client_reference_id"] = theirs
        session["metadata"] = {"tollbridge_payment": theirs, "tollbridge_account": till.account.public_id}
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 0
        assert (await till.ways.order(till.account, theirs)).status is Status.PENDING

    at_till(world, scenario, bank_transfer__instructions="Example Bank")


def test_a_session_of_somebody_else_in_the_same_stripe_account_is_none_of_ours(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        ours = till.stripe.objects[till.session(checkout)]
        theirs = {**ours, "id": "cs_test_theirs"}
        till.stripe.objects["cs_test_theirs"] = theirs
        till.stripe.pay("cs_test_theirs")
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 0
        assert await till.database.fetch("SELECT 1 FROM payment_event WHERE done_at IS NULL") == []

    at_till(sqlite_world, scenario)


def test_a_webhook_that_never_came_is_made_up_for(world: World) -> None:
    """I9."""

    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        await till.ways.reconcile()
        assert (await till.state()).paid == 0  # not due yet: five minutes
        await till.database.execute("UPDATE payment SET check_at = 1")
        await till.ways.reconcile()
        assert (await till.state()).paid == 10 * USD
        assert await till.database.fetch("SELECT check_at FROM payment") == [(None,)]

    at_till(world, scenario)


@pytest.mark.parametrize("is_away", [False, True])
def test_an_order_is_asked_about_every_five_minutes_until_it_is_paid(sqlite_world: World, is_away: bool) -> None:
    async def scenario(till: Till) -> None:
        await till.order()
        till.stripe.faults = ["500"] * 100 if is_away else []
        await till.database.execute("UPDATE payment SET check_at = 1")
        before = await till.database.now()
        await till.ways.reconcile()
        [(check_at,)] = await till.database.fetch("SELECT check_at FROM payment")
        assert before + 5 * 60_000 <= check_at <= await till.database.now() + 5 * 60_000

    at_till(sqlite_world, scenario)


def test_of_fifty_webhooks_that_never_came_all_are_made_up_for_within_ten_minutes(sqlite_world: World) -> None:
    """I9: an order is asked for five minutes after it was made, by whoever has its turn, once."""

    async def scenario(till: Till) -> None:
        for number in range(50):
            till.stripe.pay(till.session(await till.order(once=str(number))))
        now = await till.database.now()
        [(first, last)] = await till.database.fetch("SELECT MIN(check_at), MAX(check_at) FROM payment")
        assert now < first <= last <= now + 5 * 60_000
        await till.database.execute("UPDATE payment SET check_at = check_at - $1", 6 * 60_000)
        await asyncio.gather(till.ways.reconcile(), till.ways.reconcile())
        assert (await till.state()).paid == 500 * USD
        assert await till.count("invoice") == 50

    at_till(sqlite_world, scenario)


def test_the_page_that_the_customer_comes_back_to_need_not_wait_for_the_webhook(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        seen = await till.ways.look(till.account, checkout.payment.public_id)
        assert (seen.status, (await till.state()).paid) == (Status.PAID, 10 * USD)

    at_till(sqlite_world, scenario)


def test_events_that_were_missed_are_found(world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        assert payment.intent is not None
        till.stripe.refund(payment.intent, 400)
        assert await till.ways.find_missed() == 2
        assert (await till.state()).paid == 6 * USD
        assert await till.ways.find_missed() == 0
        # What happened before the last look may be listed only now.
        till.stripe.refund(payment.intent, 100)
        for event in till.stripe.events[-2:]:
            event["created"] -= 1_800
        assert await till.ways.find_missed() == 2
        assert (await till.state()).paid == 5 * USD

    at_till(world, scenario)


def test_an_unpaid_session_expires(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.expire(till.session(checkout))
        await till.send(*till.stripe.events)
        order = await till.ways.order(till.account, checkout.payment.public_id)
        assert (order.status, order.check_at) == (Status.EXPIRED, None)

    at_till(sqlite_world, scenario)


def test_orders_of_an_account_that_closes_are_taken_back_and_what_arrives_yet_waits_for_a_person(world: World) -> None:
    async def scenario(till: Till) -> None:
        database, ways = till.database, till.ways
        unpaid, late = await till.order(), await till.order(20 * USD)
        await ways.start_checkout(till.account, 30 * USD, method="bank_transfer")
        await ways.withdraw(till.account)
        states = [each["status"] for name, each in till.stripe.objects.items() if name.startswith("cs_")]
        assert states == ["expired", "expired"]
        # One of them was paid on the way.
        await database.execute("UPDATE payment SET status = 'processing' WHERE public_id = $1", late.payment.public_id)
        now = await database.now()
        gone = leaving.pseudonym(till.account)
        await run(database, lambda transaction: leaving.close_account(transaction, till.account.id, gone, now))
        orders = {each.amount: each for each in await ways.orders(till.account)}
        assert orders[10 * USD].public_id == unpaid.payment.public_id
        assert (orders[10 * USD].status, orders[30 * USD].status) == (Status.EXPIRED, Status.FAILED)
        assert (await oversight.waiting(database)).transfers == 0
        till.stripe.objects[till.session(late)]["status"] = "open"
        till.stripe.pay(till.session(late))
        await till.send(*till.stripe.events[-3:])
        reference = orders[30 * USD].external_id
        assert reference is not None
        await ways.confirm(reference, 30 * USD, actor="boss")
        assert (await known(database, till.account.id)).paid == 50 * USD
        found = await payments.of_status(database, "review", 1 << 62, 10)
        assert {(each.status, each.amount, each.note) for each in found} == {
            (Status.PAID, 20 * USD, "the account is closed: refund it"),
            (Status.PAID, 30 * USD, "the account is closed: refund it"),
        }
        assert (await oversight.waiting(database)).review == (await gauges(database)).payments_in_review == 2
        assert set(await oversight.payers(database, "review", 1 << 62, 10)) == {till.account.id}
        for left, each in zip((1, 0), found, strict=True):
            await refund(ways, each.public_id, None, actor="boss")
            assert (await oversight.waiting(database)).review == left
        assert (await oversight.waiting(database)).review == (await known(database, till.account.id)).paid == 0
        assert await till.count("outbox") == 0

    at_till(world, scenario, bank_transfer__instructions="Pay to X.")


def test_a_page_that_is_made_while_its_account_closes_is_closed_too(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        assert till.ways.stripe is not None
        start, database = till.ways.stripe.start, till.database

        async def slow(order: Order) -> Started:
            started = await start(order)
            gone, now = leaving.pseudonym(till.account), await database.now()
            await run(database, lambda transaction: leaving.close_account(transaction, till.account.id, gone, now))
            return started

        till.ways.stripe.start = slow  # type: ignore[method-assign]
        checkout = await till.order()
        assert till.stripe.objects[till.session(checkout)]["status"] == "expired"

    at_till(sqlite_world, scenario)


def test_what_stripe_could_not_be_asked_for_waits_in_the_inbox(world: World) -> None:
    """I8."""

    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        till.stripe.faults = ["500"] * 100
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 0
        till.stripe.faults = []
        await till.database.execute("UPDATE payment_event SET retry_at = 1 WHERE done_at IS NULL")
        await till.ways.reconcile()
        assert (await till.state()).paid == 10 * USD
        assert await till.database.fetch("SELECT 1 FROM payment_event WHERE done_at IS NULL") == []

    at_till(world, scenario)


def test_an_event_that_cannot_be_seen_to_is_tried_after_ever_longer_waits(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        till.stripe.faults = ["500"] * 1_000
        await till.send(till.stripe.events[0])
        waits = []
        for _ in range(8):
            [(retry_at,)] = await till.database.fetch("SELECT retry_at FROM payment_event")
            waits.append(round((retry_at - await till.database.now()) / 60_000))
            await till.database.execute("UPDATE payment_event SET retry_at = 1")
            await till.ways.reconcile()
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]

    at_till(sqlite_world, scenario)


def test_an_event_of_what_stripe_no_longer_has_is_not_asked_about_again(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        [event, *_] = till.stripe.events
        event["data"]["object"] = {"id": "cs_test_gone", "object": "checkout.session"}
        await till.send(event)
        assert await till.database.fetch("SELECT 1 FROM payment_event WHERE done_at IS NULL") == []
        assert (await till.state()).paid == 0

    at_till(sqlite_world, scenario)


@pytest.mark.parametrize("is_paid", [False, True])
def test_what_the_books_have_under_the_same_name_is_for_people_to_look_at(world: World, is_paid: bool) -> None:
    """Nothing of such a report is booked: not the credit before its fee, nor a refund of what was paid before."""

    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        intent = str(till.stripe.objects[till.session(checkout)]["payment_intent"])
        name = f"fee/stripe/{intent}"
        if is_paid:
            await till.send(*till.stripe.events)
            name = f"refund/{till.stripe.refund(intent, 400)['id']}"
        other = grant(till.account.id, USD, idempotency_key=name, reason="by hand", actor="test")
        now = await till.database.now()
        await run(till.database, lambda transaction: journal.post(till.database, transaction, other, now))
        before = await till.books()
        await till.send(*till.stripe.events)
        order = await till.ways.order(till.account, checkout.payment.public_id)
        if is_paid:
            assert (order.status, order.note) == (Status.PAID, "")
        else:
            assert (order.status, order.note) == (Status.REVIEW, f"{name} stands for something else")
        assert await till.books() == before
        assert order.check_at is None
        assert (await till.ways.ask(order)).status is order.status
        # Not asked again at once: there was such a line in the log every minute.
        waits = "SELECT retry_at FROM payment_event WHERE done_at IS NULL"
        late = [at - await till.database.now() for (at,) in await till.database.fetch(waits)]
        assert {round(each / HOUR_MS, 1) for each in late} == ({1.0} if is_paid else set())

    at_till(world, scenario)


def test_a_session_whose_id_we_never_learned_is_still_ours(world: World) -> None:
    """We died between making it and writing it down."""

    async def scenario(till: Till) -> None:
        checkout = await till.order()
        await till.database.execute("UPDATE payment SET external_id = NULL, url = NULL")
        till.stripe.pay(till.session(checkout))
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 10 * USD

    at_till(world, scenario)


def test_an_order_that_stripe_never_heard_of_is_begun_again_and_then_given_up(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        till.stripe.faults = ["drop"] * 100
        with pytest.raises(ProcessorUnavailable):
            await till.order()
        till.stripe.faults = []
        await till.database.execute("UPDATE payment SET check_at = 1")
        await till.ways.reconcile()
        ((url,),) = await till.database.fetch("SELECT url FROM payment")
        assert url.startswith(till.stripe.url)
        await till.database.execute("UPDATE payment SET check_at = 1, created_at = 1, external_id = NULL")
        await till.ways.reconcile()
        assert await till.database.fetch("SELECT status FROM payment") == [("failed",)]

    at_till(sqlite_world, scenario)


def test_an_order_is_its_accounts_alone(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        other = await create(till.database, "eve@example.com", plans=("default",), actor="test")
        with pytest.raises(NotFound):
            await till.ways.order(other, checkout.payment.public_id)
        await till.paid()
        with pytest.raises(NotFound):
            await invoices.paper(till.database, till.ways.issuer, other, "INV-000001")
        assert (await invoices.paper(till.database, till.ways.issuer, till.account, "INV-000001")).net == 10 * USD

    at_till(sqlite_world, scenario)
