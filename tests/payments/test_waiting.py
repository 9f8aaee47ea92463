"""Orders that wait, and events that do: who asks Stripe about them, how often, and what ends them."""

import asyncio

import pytest
from tests.payments.conftest import USD, Till, at_till
from tests.services.conftest import World

from tollbridge.core.payments import Status
from tollbridge.errors import InvalidRequest, NotFound, Unavailable
from tollbridge.payments.base import Order, ProcessorRefused, ProcessorUnavailable, Started
from tollbridge.store import payments
from tollbridge.values import HOUR_MS


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.payments.stripe_api._PAUSE_S", 0.001)


def test_an_event_of_a_kind_that_nobody_asked_for_is_taken_and_forgotten(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        event = {**till.stripe.events[-1], "type": "customer.created"}
        await till.send(event)
        assert (await till.count("payment_event"), (await till.state()).paid) == (0, 0)

    at_till(sqlite_world, scenario)


def test_a_webhook_that_could_not_be_written_down_is_asked_for_again(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        body, signature = till.stripe.sign(till.stripe.events[-1])

        async def full(*_: object) -> bool:
            raise Unavailable("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(payments, "receive", full)
            assert await till.ways.receive(signature, body) == 503
        assert await till.ways.receive(signature, body) == 200
        assert (await till.state()).paid == 10 * USD

    at_till(sqlite_world, scenario)


def test_an_event_that_stripe_will_not_tell_us_about_stays_in_the_inbox(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that lost a permission may get it back; only what is gone is given up."""

    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout))
        await till.database.execute("UPDATE payment SET external_id = NULL")

        async def forbidden(_: object) -> tuple[str, str | None]:
            raise ProcessorRefused("not allowed", status=403)

        with monkeypatch.context() as patch:
            patch.setattr(till.ways.stripe, "order_of", forbidden)
            await till.send(till.stripe.events[0])
        assert len(await till.database.fetch("SELECT 1 FROM payment_event WHERE done_at IS NULL")) == 1
        await till.database.execute("UPDATE payment_event SET retry_at = 1")
        await till.ways.reconcile()
        assert (await till.state()).paid == 10 * USD

    at_till(sqlite_world, scenario)


def test_an_order_that_stripe_refuses_to_begin_can_be_tried_again(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(till: Till) -> None:
        async def refuses(_: Order) -> Started:
            raise ProcessorRefused("no")

        with monkeypatch.context() as patch:
            patch.setattr(till.ways.stripe, "start", refuses)
            with pytest.raises(ProcessorUnavailable):
                await till.order(once="form")
        checkout = await till.order(once="form")
        assert (checkout.repeated, checkout.payment.status) == (True, Status.PENDING)

    at_till(sqlite_world, scenario)


def test_of_two_processes_one_asks_about_an_order(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        for number in range(3):
            await till.order(once=str(number))
        await till.database.execute("UPDATE payment SET check_at = 1")
        seen = len(till.stripe.calls)
        await asyncio.gather(till.ways.reconcile(), till.ways.reconcile())
        assert len(till.stripe.calls) == seen + 3

    at_till(sqlite_world, scenario)


def test_a_slow_payment_is_asked_about_every_hour(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        till.stripe.pay(till.session(checkout), slowly=True)
        await till.send(*till.stripe.events)
        waits = "SELECT check_at FROM payment"
        assert round(((await till.database.fetch(waits))[0][0] - await till.database.now()) / HOUR_MS, 1) == 1
        till.stripe.faults = ["500"] * 100
        await till.database.execute("UPDATE payment SET check_at = 1")
        await till.ways.reconcile()
        assert round(((await till.database.fetch(waits))[0][0] - await till.database.now()) / HOUR_MS, 1) == 1

    at_till(sqlite_world, scenario)


@pytest.mark.parametrize("once", ["x" * 301, "a\nb"], ids=["long", "two lines"])
def test_a_form_that_no_page_of_ours_sends_is_refused(sqlite_world: World, once: str) -> None:
    async def scenario(till: Till) -> None:
        with pytest.raises(InvalidRequest, match="at most 300 printable characters"):
            await till.order(once=once)
        assert await till.count("payment") == 0
        await till.order(once="x" * 300)

    at_till(sqlite_world, scenario)


def test_an_unpaid_order_is_dismissed_and_nobody_asks_about_it_again(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        closed = await till.ways.dismiss(checkout.payment.public_id, actor="boss")
        assert (closed.status, closed.note, closed.check_at) == (Status.FAILED, "dismissed by the operator", None)
        paid = await till.paid()
        with pytest.raises(InvalidRequest, match="refund it instead"):
            await till.ways.dismiss(paid.public_id, actor="boss")
        with pytest.raises(NotFound, match="there is no payment 'pay_none'"):
            await till.ways.dismiss("pay_none", actor="boss")
        assert (await till.state()).paid == 10 * USD

    at_till(sqlite_world, scenario)


def test_only_bank_transfers_are_confirmed_by_hand(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await till.order()
        await till.database.execute("UPDATE payment SET external_id = 'TB-STRIPE'")
        for reference in ("TB-NOBODY", "TB-STRIPE"):
            with pytest.raises(NotFound, match=f"no order has the reference '{reference}'"):
                await till.ways.confirm(reference, 10 * USD, actor="boss")
        assert (await till.state()).paid == 0

    at_till(sqlite_world, scenario)
