"""Orders, plans and events that wait: who asks Stripe about them, how often, and what ends them."""

import asyncio

import msgspec
import pytest
from tests.payments.conftest import USD, Till, at_till
from tests.payments.test_subscriptions import ADA, catch_up, only, ordered, subscribed, subscribing
from tests.payments.test_top_ups import ready
from tests.services.conftest import World

from tollbridge.core.payments import Status
from tollbridge.core.subscriptions import Heard, Stage, Subscription
from tollbridge.errors import InvalidRequest, NotFound, Unavailable
from tollbridge.payments.base import Order, ProcessorRefused, ProcessorUnavailable, Started, Subscribing
from tollbridge.services import top_ups
from tollbridge.store import payments
from tollbridge.store import top_ups as top_up_rows
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


def test_an_event_that_comes_again_is_seen_to_if_it_still_waits_and_only_then(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        till.stripe.pay(till.session(await till.order()))
        event = till.stripe.events[-1]
        till.stripe.faults = ["500"] * 20
        await till.send(event)
        till.stripe.faults = []
        await till.send(event)
        assert (await till.state()).paid == 10 * USD
        # Another one that waits makes no difference.
        till.stripe.pay(till.session(await till.order()))
        till.stripe.faults = ["500"] * 20
        await till.send(till.stripe.events[-1])
        till.stripe.faults, seen = [], len(till.stripe.calls)
        await till.send(event)
        assert len(till.stripe.calls) == seen

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


def test_an_order_that_stripe_never_heard_of_is_still_shown(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        till.stripe.faults = ["drop"] * 100
        with pytest.raises(ProcessorUnavailable):
            await till.order()
        till.stripe.faults = []
        (order,) = await till.ways.orders(till.account)
        assert await till.ways.look(till.account, order.public_id) == order

    at_till(sqlite_world, scenario)


def test_stripe_is_not_asked_about_what_is_paid_nor_about_a_transfer(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        transfer = (await till.ways.start_checkout(till.account, 50 * USD, method="bank_transfer")).payment
        paid = await till.paid()
        seen = len(till.stripe.calls)
        for order in (transfer, paid):
            assert await till.ways.look(till.account, order.public_id) == order
        assert len(till.stripe.calls) == seen
        assert transfer.check_at is None

    at_till(sqlite_world, scenario, bank_transfer__instructions="Example Bank")


def test_a_transfer_that_is_confirmed_twice_is_one_deed(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        transfer = (await till.ways.start_checkout(till.account, 50 * USD, method="bank_transfer")).payment
        for _ in range(2):
            await till.ways.confirm(str(transfer.external_id), 50 * USD, actor="boss")
        deeds = await till.database.fetch("SELECT actor, detail FROM activity WHERE action = 'payment.confirmed'")
        assert deeds == [("boss", f"50 USD, {transfer.external_id}")]

    at_till(sqlite_world, scenario, bank_transfer__instructions="Example Bank")


@pytest.mark.parametrize(
    ("given", "base"), [({}, "http://127.0.0.1:8000"), ({"public_url": "https://x.example"}, "https://x.example")]
)
def test_customers_come_back_from_stripe_to_where_the_gateway_is_reached(
    sqlite_world: World, given: dict[str, str], base: str
) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        back = f"{base}/dashboard/billing?payment={checkout.payment.public_id}"
        session = till.stripe.objects[till.session(checkout)]
        assert (session["success_url"], session["cancel_url"]) == (back, f"{back}&canceled=1")

    at_till(sqlite_world, scenario, **given)


def test_an_account_is_one_customer_at_stripe(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        for _ in range(2):
            await till.order()
        assert [path for _, path in till.stripe.calls].count("/v1/customers") == 1

    at_till(sqlite_world, scenario)


def test_missed_events_are_looked_for_from_an_hour_ago(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        async def since() -> int:
            rows = await till.database.fetch("SELECT value FROM meta WHERE name = 'stripe_events_since'")
            return int(rows[0][0])

        await till.ways.find_missed()
        await till.database.execute("UPDATE meta SET value = value - 86400 WHERE name = 'stripe_events_since'")
        await till.ways.find_missed()
        assert abs(await till.database.now() // 1000 - await since() - 3600) < 60

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


def test_what_waits_longest_is_asked_about_first(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.services.payments._BATCH", 1)

    async def scenario(till: Till) -> None:
        orders = [await till.order(once=str(number)) for number in range(3)]
        for order in orders:
            till.stripe.pay(till.session(order))
            due = 3 - order.payment.id
            await till.database.execute("UPDATE payment SET check_at = $1 WHERE id = $2", due, order.payment.id)
        for done in range(1, 4):
            await till.ways.reconcile()
            paid = [each.id for each in await till.ways.orders(till.account) if each.status is Status.PAID]
            assert paid == [each.payment.id for each in orders[::-1]][:done]

    at_till(sqlite_world, scenario)


def test_the_event_that_waits_longest_is_seen_to_first(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.services.payments._BATCH", 1)

    async def scenario(till: Till) -> None:
        till.stripe.pay(till.session(await till.order()))
        till.stripe.faults = ["500"] * 100
        await till.send(*till.stripe.events)
        till.stripe.faults = []
        events = [row[0] for row in await till.database.fetch("SELECT id FROM payment_event ORDER BY id DESC")]
        for number, event in enumerate(events):
            await till.database.execute("UPDATE payment_event SET retry_at = $1 WHERE id = $2", number, event)
        await till.ways.reconcile()
        done = await till.database.fetch("SELECT id FROM payment_event WHERE done_at IS NOT NULL")
        assert (len(events), done) == (2, [(events[0],)])

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


def test_a_top_up_that_was_not_answered_is_asked_about_in_five_minutes(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        till.stripe.faults = ["lost"] * 3
        await top_ups.run_due(till.ways)
        seen = len(till.stripe.calls)
        await till.ways.reconcile()
        assert len(till.stripe.calls) == seen
        [(check_at,)] = await till.database.fetch("SELECT check_at FROM payment WHERE origin = 'auto'")
        assert round((check_at - await till.database.now()) / 60_000) == 5

    at_till(sqlite_world, scenario)


def test_a_top_up_that_was_paid_while_its_card_was_refused_stays_paid(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        assert till.ways.stripe is not None
        charge = till.ways.stripe.charge

        async def paid_and_refused(*given: object) -> None:
            await charge(*given)  # type: ignore[arg-type]
            await till.send(till.stripe.events[-1])
            raise ProcessorRefused("The card was declined.", "card_declined")

        monkeypatch.setattr(till.ways.stripe, "charge", paid_and_refused)
        await top_ups.run_due(till.ways)
        latest, _ = await till.ways.orders(till.account)
        assert (latest.status, (await till.state()).paid) == (Status.PAID, 60 * USD)
        state = await top_ups.current(till.database, till.account)
        assert state is not None
        assert state.failures == 0

    at_till(sqlite_world, scenario)


def test_who_switches_off_in_the_last_moment_is_not_charged(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was due when the list was read."""

    async def scenario(till: Till) -> None:
        await ready(till)
        (due,) = await top_up_rows.due(till.database, 0, 10)

        async def old_list(_: object, after: int, _count: int) -> list[int]:
            return [due] if after < due else []

        monkeypatch.setattr(top_up_rows, "due", old_list)
        await top_ups.forget_card(till.ways, till.account)
        assert await top_ups.current(till.database, till.account) is None
        assert await top_ups.run_due(till.ways) == 0
        assert len(await till.ways.orders(till.account)) == 1

    at_till(sqlite_world, scenario)


def test_a_top_up_whose_card_was_removed_meanwhile_has_failed(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        till.stripe.faults = ["drop"] * 3
        await top_ups.run_due(till.ways)
        await top_ups.forget_card(till.ways, till.account)
        await till.database.execute("UPDATE payment SET check_at = 1 WHERE origin = 'auto'")
        await till.ways.reconcile()
        latest, _ = await till.ways.orders(till.account)
        assert (latest.status, latest.note) == (Status.FAILED, "no card is saved")

    at_till(sqlite_world, scenario)


# --- plans --------------------------------------------------------------------------------------------------------


def test_what_was_changed_while_stripe_was_asked_is_not_undone_by_its_answer(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(till: Till) -> None:
        ways = till.ways.subscriptions
        await subscribed(till)
        assert till.ways.stripe is not None
        follow, asked = till.ways.stripe.subscriptions.follow, 0

        async def overtaken(ours: Subscription) -> Heard | None:
            nonlocal asked
            heard = await follow(ours)
            asked += 1
            if asked == 1:
                await ways.set_ending(till.account, True, ADA)
            return heard

        monkeypatch.setattr(till.ways.stripe.subscriptions, "follow", overtaken)
        await catch_up(till)
        assert ((await only(till)).ending, asked) == (True, 2)

    subscribing(world, scenario)


def test_a_plan_that_changes_whenever_it_is_asked_about_is_still_written_down(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(till: Till) -> None:
        name = await subscribed(till)
        assert till.ways.stripe is not None
        follow, asked = till.ways.stripe.subscriptions.follow, 0

        async def overtaken(ours: Subscription) -> Heard | None:
            nonlocal asked
            heard = await follow(ours)
            asked += 1
            await till.database.execute("UPDATE subscription SET url = $1", f"http://{asked}")
            return heard

        monkeypatch.setattr(till.ways.stripe.subscriptions, "follow", overtaken)
        till.stripe.end(name)
        await catch_up(till)
        assert ((await only(till)).stage, asked) == (Stage.ENDED, 4)

    subscribing(sqlite_world, scenario)


def test_the_page_of_the_plan_need_not_wait_for_the_webhook(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        ways = till.ways.subscriptions
        assert await ways.look(till.account) is None
        session = await ordered(till)
        till.stripe.pay(session)
        till.stripe.faults = ["500"] * 3
        waits = await ways.look(till.account)
        assert waits is not None
        assert waits.stage is Stage.PENDING
        till.stripe.faults = []
        paid = await ways.look(till.account)
        assert paid is not None
        assert (paid.stage, (await till.state()).plan) == (Stage.ACTIVE, "pro")
        seen = len(till.stripe.calls)
        assert await ways.look(till.account) == paid
        assert len(till.stripe.calls) == seen

    subscribing(sqlite_world, scenario)


def test_a_plan_that_stripe_refuses_to_begin_can_be_ordered_again(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(till: Till) -> None:
        assert till.ways.stripe is not None

        async def refuses(_: Subscribing) -> Started:
            raise ProcessorRefused("no")

        with monkeypatch.context() as patch:
            patch.setattr(till.ways.stripe.subscriptions, "start", refuses)
            with pytest.raises(ProcessorUnavailable):
                await ordered(till)
        waits = await till.ways.subscriptions.look(till.account)
        assert waits is not None
        assert (waits.stage, waits.session) == (Stage.PENDING, None)
        till.stripe.pay(await ordered(till))
        await till.send(*till.stripe.events)
        assert (await till.state()).plan == "pro"

    subscribing(sqlite_world, scenario)


def test_an_end_that_was_set_at_stripe_is_shown_here(sqlite_world: World) -> None:
    """Its portal can set a date instead of the end of the month."""

    async def scenario(till: Till) -> None:
        name = await subscribed(till)
        till.stripe.objects[name]["cancel_at"] = 4_000_000_000
        await catch_up(till)
        assert (await only(till)).ending
        till.stripe.objects[name]["cancel_at"] = None
        await catch_up(till)
        assert not (await only(till)).ending

    subscribing(sqlite_world, scenario)


def test_what_stripe_no_longer_has_is_stopped(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await subscribed(till)
        assert till.ways.stripe is not None
        gone = msgspec.structs.replace(await only(till), external_id="sub_gone")
        await till.ways.stripe.subscriptions.stop(gone)

    subscribing(sqlite_world, scenario)


def test_of_two_processes_one_asks_about_a_plan(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await ordered(till)
        await till.database.execute("UPDATE subscription SET check_at = 1")
        seen = len(till.stripe.calls)
        await asyncio.gather(till.ways.subscriptions.reconcile(), till.ways.subscriptions.reconcile())
        assert len(till.stripe.calls) == seen + 1

    subscribing(sqlite_world, scenario)


def test_who_only_pays_for_a_plan_is_not_told_that_no_credit_is_left(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await subscribed(till)
        assert await top_up_rows.low(till.database, 5 * USD, 10) == []
        await till.paid(10 * USD)
        await till.database.execute("UPDATE balance SET held = 10000000000")
        assert [each.available for each in await top_up_rows.low(till.database, 5 * USD, 10)] == [2 * USD]
        await till.database.execute("UPDATE balance SET held = 0")

    subscribing(sqlite_world, scenario)
