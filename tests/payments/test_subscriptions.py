"""A plan that is paid for by the month: from the order over each month to its end, and everything that goes wrong."""

import asyncio
import contextlib
import os
import random
from collections.abc import Callable
from typing import Any

import pytest
from tests.payments.conftest import USD, Till, at_till, settings, with_stripe
from tests.payments.fake_stripe import FakeStripe, Object
from tests.payments.test_verify_payments import problems_after
from tests.services.conftest import World
from tests.services.test_accounts import make

from tollbridge.core.plans import Agreed, Plan
from tollbridge.core.subscriptions import Stage, Subscription
from tollbridge.errors import InvalidRequest
from tollbridge.payments.base import ProcessorUnavailable, Started, Subscribing
from tollbridge.services import invoices, plans
from tollbridge.services.deeds import Actor
from tollbridge.services.payments import open_payments
from tollbridge.services.refunds import refund
from tollbridge.store import accounts
from tollbridge.store import subscriptions as rows
from tollbridge.store.verify import verify

CENT = USD // 100
ADA = Actor("ada@example.com", "127.0.0.1")
DAY_MS = 86_400_000
PRO = {
    "plans__pro__price_usd": "20",
    "plans__pro__included_credit_usd": "2",
    "plans__gold__price_usd": "90",
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.payments.stripe_api._PAUSE_S", 0.001)


def subscribing(world: World, scenario: Any, **more: str) -> None:
    at_till(world, scenario, **PRO, **more)


async def ordered(till: Till, plan: str = "pro") -> str:
    """The session on which a plan was ordered."""
    return ((await till.ways.subscriptions.start(till.account, plan)).url or "").rpartition("/")[2]


async def subscribed(till: Till) -> str:
    """Stripe's id of a subscription whose first month is paid."""
    session = await ordered(till)
    seen = len(till.stripe.events)
    till.stripe.pay(session)
    await till.send(*till.stripe.events[seen:])
    return str(till.stripe.objects[session]["subscription"])


async def only(till: Till) -> Subscription:
    ((id_,),) = await till.database.fetch("SELECT id FROM subscription")
    return await rows.by_id(till.database, id_)


async def letters(till: Till) -> list[str]:
    return [row[0] for row in await till.database.fetch("SELECT subject FROM outbox ORDER BY id")]


async def later(till: Till, days: int) -> None:
    """Let days go by: what we know of the past moves back, Stripe's own clock is the fake's."""
    await till.database.execute(
        "UPDATE subscription SET paid_until = paid_until - $1, created_at = created_at - $1", days * DAY_MS
    )
    for each in till.stripe.objects.values():
        if each["object"] == "subscription":
            each["period_end"] -= days * 86_400
        if each["object"] == "invoice":
            each["lines"]["data"][0]["period"]["end"] -= days * 86_400


async def catch_up(till: Till) -> None:
    await till.database.execute("UPDATE subscription SET check_at = 1 WHERE check_at IS NOT NULL")
    await till.ways.subscriptions.reconcile()


def test_the_first_month_gives_the_plan_and_is_revenue(world: World) -> None:
    async def scenario(till: Till) -> None:
        await subscribed(till)
        ours, account = await only(till), await till.state()
        assert (ours.stage, ours.ending, account.plan) == (Stage.ACTIVE, False, "pro")
        assert (account.paid, account.promo) == (0, 2 * USD)  # what the plan includes, and no more
        assert await till.books() == {
            "processor_clearing": -20 * USD + 59 * CENT,
            "subscription_revenue": 20 * USD,
            "fees": -59 * CENT,
            "customer_promo": 2 * USD,
            "promo_expense": -2 * USD,
        }
        (paper,) = await invoices.papers(till.database, till.ways.issuer, account)
        assert (paper.item, paper.net, paper.paid_by) == ("One month of the plan pro", 20 * USD, "card")
        report = await verify(till.database)
        assert report.ok, report.problems

    subscribing(world, scenario)


def test_what_a_plan_includes_is_not_given_in_a_month_that_is_not_paid_yet(world: World) -> None:
    async def scenario(till: Till) -> None:
        await subscribed(till)
        plan, account = Plan(name="pro", included_credit=3 * USD), till.account.id
        ours = await only(till)
        assert ours.paid_until is not None
        later_on = ours.paid_until + 5 * DAY_MS  # within the time of grace, and in another calendar month

        async def given() -> bool:
            async with till.database.transaction() as transaction:
                return await plans.fill_up_within(till.database, transaction, account, plan, later_on)

        assert await accounts.not_filled_up(till.database, "pro", later_on, 0, 9) == []
        assert not await given()
        # Once it is paid, the gift is there as ever.
        await till.database.execute("UPDATE subscription SET paid_until = $1", later_on + DAY_MS)
        assert await accounts.not_filled_up(till.database, "pro", later_on, 0, 9) == [account]
        assert (await given(), await given()) == (True, False)
        assert await accounts.not_filled_up(till.database, "pro", later_on, 0, 9) == []

    subscribing(world, scenario)


def test_every_event_twice_is_one_month(world: World) -> None:
    async def scenario(till: Till) -> None:
        await subscribed(till)
        await till.send(*till.stripe.events, *reversed(till.stripe.events))
        assert (await till.count("payment"), await till.count("invoice")) == (1, 1)
        assert (await till.books())["subscription_revenue"] == 20 * USD

    subscribing(world, scenario)


def test_tax_of_a_month_is_owed(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        till.stripe.tax_percent = 19
        await subscribed(till)
        books = await till.books()
        assert (books["subscription_revenue"], books["tax"]) == (20 * USD, 380 * CENT)

    subscribing(sqlite_world, scenario, stripe__automatic_tax="true")


def test_each_month_is_booked_and_moves_the_end_on(world: World) -> None:
    async def scenario(till: Till) -> None:
        name = await subscribed(till)
        first = (await only(till)).paid_until
        assert first is not None
        seen = len(till.stripe.events)
        till.stripe.bill(name)
        till.stripe.bill(name)
        await till.send(till.stripe.events[-1])  # one hint of the last month is enough for both
        ours = await only(till)
        assert (ours.paid_until, ours.stage) == (first + 60 * DAY_MS, Stage.ACTIVE)
        await till.send(*till.stripe.events[seen:])
        assert (await till.books())["subscription_revenue"] == 60 * USD
        assert (await till.state()).promo == 2 * USD  # once in a month of the calendar
        assert await till.count("invoice") == 3

    subscribing(world, scenario)


def test_a_month_that_is_not_paid_is_told_and_the_plan_kept_for_a_while(world: World) -> None:
    async def scenario(till: Till) -> None:
        name = await subscribed(till)
        await later(till, 30)
        till.stripe.bill(name, pays=False)
        await till.send(*till.stripe.events[-2:])
        await till.send(*till.stripe.events[-2:])
        assert ((await only(till)).stage, (await till.state()).plan) == (Stage.PAST_DUE, "pro")
        await later(till, 6)
        await catch_up(till)
        assert (await till.state()).plan == "pro"
        await later(till, 2)
        await catch_up(till)
        assert ((await only(till)).stage, (await till.state()).plan) == (Stage.ENDED, "free")
        assert till.stripe.objects[name]["status"] == "canceled"  # nothing is charged any more
        await catch_up(till)
        assert (await only(till)).check_at is None
        assert (await till.books())["subscription_revenue"] == 20 * USD

    subscribing(world, scenario)


def test_a_month_that_is_paid_late_goes_on_as_before(world: World) -> None:
    async def scenario(till: Till) -> None:
        name = await subscribed(till)
        await later(till, 30)
        invoice = till.stripe.bill(name, pays=False)
        await till.send(*till.stripe.events[-2:])
        till.stripe.pay_bill(invoice["id"])
        await till.send(*till.stripe.events[-3:])
        ours = await only(till)
        assert (ours.stage, (await till.state()).plan) == (Stage.ACTIVE, "pro")
        assert (await till.books())["subscription_revenue"] == 40 * USD

    subscribing(world, scenario)


def test_who_cancels_keeps_what_was_paid_for_and_may_think_again(world: World) -> None:
    async def scenario(till: Till) -> None:
        ways = till.ways.subscriptions
        name = await subscribed(till)
        for wanted in (True, False, True):
            await ways.set_ending(till.account, wanted, ADA)
            assert till.stripe.objects[name]["cancel_at_period_end"] is wanted
            await till.send(till.stripe.events[-1])
            assert ((await only(till)).ending, (await till.state()).plan) == (wanted, "pro")
        await later(till, 31)
        till.stripe.end(name)
        await till.send(till.stripe.events[-1])
        assert ((await only(till)).stage, (await till.state()).plan) == (Stage.ENDED, "free")
        with pytest.raises(InvalidRequest):
            await ways.set_ending(till.account, True, ADA)
        assert await subscribed(till) != name  # and it can be bought again
        assert (await till.state()).plan == "pro"

    subscribing(world, scenario)


def test_one_plan_at_a_time_is_paid_for(world: World) -> None:
    async def scenario(till: Till) -> None:
        ways = till.ways.subscriptions
        first = await ordered(till)
        assert await ordered(till) == first  # the same order again
        second = await ordered(till, "gold")
        assert till.stripe.objects[first]["status"] == "expired"
        till.stripe.pay(second)
        await till.send(*till.stripe.events)
        assert (await till.state()).plan == "gold"
        for plan in ("pro", "gold"):
            with pytest.raises(InvalidRequest, match="already"):
                await ways.start(till.account, plan)
        assert await till.count("payment") == 1

    subscribing(world, scenario)


def test_an_order_that_was_paid_while_it_was_taken_back_counts(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        till.stripe.pay(await ordered(till))
        with pytest.raises(InvalidRequest, match="already"):
            await ordered(till, "gold")
        assert (await till.state()).plan == "pro"

    subscribing(sqlite_world, scenario)


def test_an_order_that_was_taken_back_while_it_was_begun_cannot_be_paid(world: World) -> None:
    async def scenario(till: Till) -> None:
        ways = till.ways.subscriptions
        await till.ways.customer(till.account)
        real, asked, gate = ways._stripe.start, asyncio.Event(), asyncio.Event()

        async def slow(order: Subscribing) -> Started:
            if order.subscription.plan == "pro":
                asked.set()
                await gate.wait()
            return await real(order)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ways._stripe, "start", slow)
            first = asyncio.create_task(ways.start(till.account, "pro"))
            await asked.wait()
            gold = await ordered(till, "gold")
            gate.set()
            with pytest.raises(InvalidRequest, match="at the same moment"):
                await first
        sessions = [each for each in till.stripe.objects.values() if each["object"] == "checkout.session"]
        assert {each["amount_total"]: each["status"] for each in sessions} == {2000: "expired", 9000: "open"}
        till.stripe.pay(gold)
        await till.send(*till.stripe.events)
        assert (await till.state()).plan == "gold"

    subscribing(world, scenario)


def test_of_two_plans_that_are_ordered_at_once_nobody_is_sold_the_other(world: World) -> None:
    async def scenario(till: Till) -> None:
        await till.ways.customer(till.account)
        names = ["pro", "gold"] * 3
        begun = await asyncio.gather(
            *(till.ways.subscriptions.start(till.account, each) for each in names), return_exceptions=True
        )
        for name, one in zip(names, begun, strict=True):
            assert isinstance(one, InvalidRequest) or (isinstance(one, Subscription) and one.plan == name)
        assert any(isinstance(one, Subscription) for one in begun)

    subscribing(world, scenario)


def test_who_changes_what_has_ended_at_stripe_hears_of_it(world: World) -> None:
    async def scenario(till: Till) -> None:
        name = await subscribed(till)
        till.stripe.end(name)
        for ending in (True, False):
            with pytest.raises(InvalidRequest, match=r"no longer|does not pay for a plan"):
                await till.ways.subscriptions.set_ending(till.account, ending, ADA)
        assert ((await only(till)).stage, (await till.state()).plan) == (Stage.ENDED, "free")

    subscribing(world, scenario)


def test_a_demo_that_is_paid_twice_at_once_is_one_month(world: World) -> None:
    async def use(database: Any) -> None:
        account = await make(database)
        ways = open_payments(database, settings(**PRO), "http://127.0.0.1:8000")
        await ways.subscriptions.start(account, "pro")
        clicks = (ways.subscriptions.pay_demo(account) for _ in range(5))
        await asyncio.gather(*clicks, return_exceptions=True)
        assert (await Till(FakeStripe(), ways, database, account).books())["subscription_revenue"] == 20 * USD

    world.run(use)


@pytest.mark.parametrize("plan", ["free", "default", "none", "custom"])
def test_a_plan_without_a_price_is_not_sold(sqlite_world: World, plan: str) -> None:
    async def scenario(till: Till) -> None:
        with pytest.raises(InvalidRequest, match="cannot be bought"):
            await till.ways.subscriptions.start(till.account, plan)
        assert await till.count("subscription") == 0

    subscribing(sqlite_world, scenario)


def test_what_was_agreed_is_not_overturned_by_a_purchase(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        known = ("default", "pro")
        await plans.change_plan(till.database, till.account, "default", known, actor="op", agreed=Agreed(rpm=500))
        with pytest.raises(InvalidRequest, match="agreed"):
            await till.ways.subscriptions.start(till.account, "pro")

    subscribing(sqlite_world, scenario)


def test_whom_the_operator_put_elsewhere_stays_there_when_it_ends(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        name = await subscribed(till)
        await plans.change_plan(till.database, till.account, "default", ("default",), actor="op")
        till.stripe.end(name)
        await till.send(till.stripe.events[-1])
        assert ((await only(till)).stage, (await till.state()).plan) == (Stage.ENDED, "default")

    subscribing(sqlite_world, scenario)


@pytest.mark.parametrize("price", [(1999, 0, "usd"), (2000, 0, "eur"), (1, 0, "usd"), (2001, 0, "usd")], ids=str)
def test_a_month_that_is_not_what_was_ordered_gives_nothing(sqlite_world: World, price: tuple[int, int, str]) -> None:
    """I4."""

    async def scenario(till: Till) -> None:
        session = await ordered(till)
        subscribe, tampered = till.stripe._subscribe, price

        def other(session: Object) -> Object:
            session["amount_subtotal"], session["currency"] = tampered[0], tampered[2]
            return subscribe(session)

        till.stripe._subscribe = other  # type: ignore[method-assign]
        till.stripe.pay(session)
        await till.send(*till.stripe.events)
        assert await till.database.fetch("SELECT status FROM payment") == [("review",)]
        assert ((await till.state()).plan, await till.books()) == ("default", {})
        till.stripe.end(till.stripe.objects[session]["subscription"])
        await till.send(till.stripe.events[-1])
        assert (await only(till)).stage is Stage.ABANDONED

    subscribing(sqlite_world, scenario)


@pytest.mark.parametrize(
    "marks",
    [
        {},
        {"tollbridge_subscription": "plan_other", "tollbridge_account": "{account}"},
        {"tollbridge_subscription": "{ours}", "tollbridge_account": "acct_other"},
        {"tollbridge_payment": "{ours}", "tollbridge_account": "{account}"},
    ],
    ids=str,
)
def test_a_month_that_is_marked_as_somebody_elses_gives_nothing(sqlite_world: World, marks: dict[str, str]) -> None:
    async def scenario(till: Till) -> None:
        session = await ordered(till)
        ours = await only(till)
        till.stripe.objects[session]["marks"] = {
            name: value.format(ours=ours.public_id, account=till.account.public_id) for name, value in marks.items()
        }
        till.stripe.pay(session)
        await till.send(*till.stripe.events)
        assert ((await till.state()).plan, await till.books()) == ("default", {})

    subscribing(sqlite_world, scenario)


def test_a_refund_of_a_month_takes_revenue_and_no_credit(world: World) -> None:
    async def scenario(till: Till) -> None:
        name = await subscribed(till)
        ((public_id, intent),) = await till.database.fetch("SELECT public_id, intent FROM payment")
        await refund(till.ways, public_id, 5 * USD, actor="op")
        till.stripe.refund(intent, 300)  # and by Stripe's dashboard
        await till.send(*till.stripe.events)
        books = await till.books()
        assert (books["subscription_revenue"], books["processor_clearing"]) == (12 * USD, -12 * USD + 59 * CENT)
        assert ((await till.state()).available, (await only(till)).external_id) == (2 * USD, name)
        titles = [each.title for each in await invoices.papers(till.database, till.ways.issuer, till.account)]
        assert sorted(titles) == ["Credit note", "Credit note", "Invoice"]
        report = await verify(till.database)
        assert report.ok, report.problems

    subscribing(world, scenario)


def test_a_disputed_month_freezes_the_account(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await subscribed(till)
        ((intent,),) = await till.database.fetch("SELECT intent FROM payment")
        dispute = till.stripe.dispute(intent)
        await till.send(*till.stripe.events[-2:])
        assert (await till.state()).frozen
        till.stripe.close_dispute(dispute["id"], won=True)
        await till.send(*till.stripe.events[-2:])
        assert not (await till.state()).frozen
        assert (await till.books())["subscription_revenue"] == 20 * USD

    subscribing(sqlite_world, scenario)


@pytest.mark.parametrize("fault", ["500", "drop", "lost"])
@pytest.mark.parametrize("times", [1, 2, 3, 5])
def test_stripe_in_trouble_is_a_503_and_one_order(sqlite_world: World, fault: str, times: int) -> None:
    """I11."""

    async def scenario(till: Till) -> None:
        till.stripe.faults = [fault] * times
        for _ in range(4):
            with contextlib.suppress(ProcessorUnavailable):
                session = await ordered(till)
                break
        assert len([each for each in till.stripe.objects if each.startswith("cs_")]) == 1
        till.stripe.pay(session)
        await till.send(*till.stripe.events)
        assert (await till.state()).plan == "pro"

    subscribing(sqlite_world, scenario)


@pytest.mark.parametrize("lost", ["session = NULL, url = NULL", "session = NULL", "external_id = NULL"])
def test_webhooks_that_never_come_and_ids_that_were_lost_are_made_up_for(world: World, lost: str) -> None:
    """I8, I9: we died between asking Stripe and writing down what it said, or nobody told us."""

    async def scenario(till: Till) -> None:
        session = await ordered(till)
        till.stripe.pay(session)
        await till.database.execute(f"UPDATE subscription SET {lost}")
        await till.ways.find_missed()
        assert ((await till.state()).plan, await till.count("payment")) == ("pro", 1)

    subscribing(world, scenario)


def test_an_order_that_nobody_pays_goes_away(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        till.stripe.expire(await ordered(till))
        await catch_up(till)
        assert (await only(till)).stage is Stage.ABANDONED
        assert (await till.state()).plan == "default"
        await ordered(till)

    subscribing(sqlite_world, scenario)


def test_the_demo_pays_with_nothing_and_goes_on_by_the_month(world: World) -> None:
    async def use(database: Any) -> None:
        account = await make(database)
        ways = open_payments(database, settings(**PRO), "http://127.0.0.1:8000")
        till = Till(FakeStripe(), ways, database, account)
        assert (await ways.subscriptions.start(account, "pro")).method == "demo"
        assert (await till.state()).plan == "default"
        await ways.subscriptions.pay_demo(account)
        with pytest.raises(InvalidRequest, match="no demo payment to make"):
            await ways.subscriptions.pay_demo(account)
        first = (await only(till)).paid_until
        assert ((await till.state()).plan, first is not None) == ("pro", True)
        await later(till, 32)
        await catch_up(till)
        await catch_up(till)
        assert (await till.books())["subscription_revenue"] == 40 * USD
        await ways.subscriptions.set_ending(account, True, ADA)
        await later(till, 32)
        await catch_up(till)
        assert ((await only(till)).stage, (await till.state()).plan) == (Stage.ENDED, "free")
        report = await verify(database)
        assert report.ok, report.problems

    world.run(use)


def test_a_plan_is_not_paid_for_by_the_demo_where_demo_payments_have_ended(sqlite_world: World) -> None:
    async def use(database: Any) -> None:
        account = await make(database)
        before = open_payments(database, settings(**PRO), "http://127.0.0.1")
        after = open_payments(database, settings(public_url="https://api.example.com", **PRO), "")
        for ways in (before, after):
            # Nothing is ordered before, and no longer to be had so after.
            with pytest.raises(InvalidRequest, match="no demo payment to make"):
                await ways.subscriptions.pay_demo(account)
            if ways is before:
                await ways.subscriptions.start(account, "pro")
        till = Till(FakeStripe(), after, database, account)
        assert ((await only(till)).stage, (await till.state()).plan) == (Stage.PENDING, "default")

    sqlite_world.run(use)


def test_an_order_that_stripe_never_heard_of_is_begun_again_and_then_given_up(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        till.stripe.faults = ["drop"] * 100
        with pytest.raises(ProcessorUnavailable):
            await ordered(till)
        till.stripe.faults = []
        await catch_up(till)
        begun = await only(till)
        assert (begun.stage, (begun.url or "").startswith(till.stripe.url)) == (Stage.PENDING, True)
        await till.database.execute("UPDATE subscription SET session = NULL, url = NULL, created_at = 1")
        await catch_up(till)
        assert ((await only(till)).stage, (await only(till)).url) == (Stage.ABANDONED, None)

    subscribing(sqlite_world, scenario)


def test_a_demo_that_nobody_pays_goes_away_after_a_day_and_one_that_is_offered_no_more_ends(
    sqlite_world: World,
) -> None:
    async def use(database: Any) -> None:
        account = await make(database)
        ways = open_payments(database, settings(**PRO), "http://127.0.0.1:8000")
        till = Till(FakeStripe(), ways, database, account)
        await ways.subscriptions.start(account, "pro")
        await catch_up(till)
        assert (await only(till)).stage is Stage.PENDING
        await later(till, 1)
        await catch_up(till)
        assert (await only(till)).stage is Stage.ABANDONED
        await database.execute("DELETE FROM subscription")
        await ways.subscriptions.start(account, "pro")
        await ways.subscriptions.pay_demo(account)
        till.ways = open_payments(database, settings(public_url="https://api.example.com", **PRO), "")
        await catch_up(till)
        assert (await only(till)).stage is Stage.ACTIVE
        await later(till, 32)
        await catch_up(till)
        assert ((await only(till)).stage, await till.count("payment")) == (Stage.ENDED, 1)

    sqlite_world.run(use)


def test_while_stripe_is_away_it_is_asked_every_five_minutes(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await ordered(till)
        till.stripe.faults = ["500"] * 100
        before = await till.database.now()
        await catch_up(till)
        check_at = (await only(till)).check_at
        assert check_at is not None
        assert before + 5 * 60_000 <= check_at <= await till.database.now() + 5 * 60_000

    subscribing(sqlite_world, scenario)


def test_where_nobody_can_pay_by_the_month_no_plan_is_sold() -> None:
    transfers = {
        "public_url": "https://api.example.com",
        "bank_transfer__instructions": "IBAN",
        "secret": "0123456789abcdef" * 4,
    }
    ways = open_payments(None, settings(**PRO, **transfers), "")  # type: ignore[arg-type]
    assert ways.subscriptions.offered(1) == []
    assert open_payments(None, settings(**PRO), "").subscriptions.offered(1) == ["gold", "pro"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE payment SET amount = amount + 1", "but the journal has 20000000000"),
        ("UPDATE payment SET origin = 'checkout'", "is paid, but not in the journal"),
        ("UPDATE payment SET status = 'failed'", "is not paid, but in the journal"),
        ("DELETE FROM invoice", "has 0 invoices of its amount"),
    ],
)
def test_a_month_that_was_tampered_with_is_named(sqlite_world: World, statement: str, complaint: str) -> None:
    async def scenario(till: Till) -> None:
        await subscribed(till)
        problems = await problems_after(till, statement)
        assert any(complaint in problem for problem in problems), problems

    subscribing(sqlite_world, scenario)


# --- schedules ----------------------------------------------------------------------------------------------------


class Died(Exception):
    """The process was gone at this point."""


class Risk:
    """What kills a node, now and then: before a month is booked, before and after what follows from it."""

    def __init__(self) -> None:
        self.chance: random.Random | None = None

    def over(self, subscriptions: Any) -> None:
        for name in ("_book", "_take"):
            setattr(subscriptions, name, self._risky(getattr(subscriptions, name)))

    def _risky(self, real: Callable[..., Any]) -> Callable[..., Any]:
        async def risky(*given: Any, **more: Any) -> Any:
            self.run()
            found = await real(*given, **more)
            self.run()
            return found

        return risky

    def run(self) -> None:
        if self.chance is not None and self.chance.random() < 0.15:
            raise Died


async def schedule(till: Till, nodes: list[Any], risk: Risk, seed: int) -> None:
    """A random life of one subscription, its events shuffled, doubled, lost and handled by two nodes that may die."""
    chance, stripe = random.Random(seed), till.stripe
    stripe.events.clear()
    account = await make(till.database, f"{seed}@example.com")
    till.account = account
    session = await ordered(till)
    steps: list[Callable[[], object]] = [lambda: stripe.pay(session)]
    months = chance.randint(0, 3)
    for _ in range(months):
        steps.append(lambda: stripe.bill(stripe.objects[session]["subscription"]))
    ends = chance.random() < 0.5
    if ends:
        steps.append(lambda: stripe.end(stripe.objects[session]["subscription"]))
    seen, pending = 0, list[Object]()
    for step in steps:
        step()
        pending += [each for each in stripe.events[seen:] for _ in range(chance.choice([0, 1, 2, 3]))]
        seen = len(stripe.events)
        chance.shuffle(pending)
        batch = [pending.pop() for _ in range(min(len(pending), chance.randint(0, 4)))]
        stripe.faults = [chance.choice(["", "", "500", "drop", "lost"]) for _ in range(chance.choice([0, 0, 12]))]
        signed = [stripe.sign(event) for event in batch]
        risk.chance = chance
        statuses = await asyncio.gather(
            *(chance.choice(nodes).receive(sent[1], sent[0]) for sent in signed), return_exceptions=True
        )
        risk.chance = None
        assert {each for each in statuses if not isinstance(each, Died)} <= {200, 503}
    stripe.faults = []
    await till.database.execute("UPDATE payment_event SET retry_at = 1 WHERE done_at IS NULL")
    await asyncio.gather(*(node.reconcile() for node in nodes))
    await nodes[0].find_missed()
    ((stage,),) = await till.database.fetch("SELECT stage FROM subscription WHERE account_id = $1", account.id)
    plan = (await till.state()).plan
    # All of it may have been heard of when it was over: then the plan was never had.
    assert (stage, plan) in ([("ended", "free"), ("ended", "default")] if ends else [("active", "pro")])
    revenue = await till.database.fetch(
        "SELECT CAST(SUM(amount) AS BIGINT), count(*) FROM entry JOIN journal ON journal.id = journal_id "
        "WHERE account_id = $1 AND book = 'subscription_revenue'",
        account.id,
    )
    assert revenue == [(20 * USD * (months + 1), months + 1)]
    papers = await till.database.fetch("SELECT count(*) FROM invoice WHERE account_id = $1", account.id)
    assert papers == [(months + 1,)]


def run_schedules(world: World, first: int, count: int) -> None:
    async def main() -> None:
        async with FakeStripe() as stripe, world.opened() as one, world.opened() as two:
            configured = with_stripe(stripe, **PRO)
            nodes = [open_payments(database, configured, "http://x") for database in (one, two)]
            till, risk = Till(stripe, nodes[0], one, None), Risk()  # type: ignore[arg-type]
            for node in nodes:
                risk.over(node.subscriptions)
            for seed in range(first, first + count):
                try:
                    await schedule(till, nodes, risk, seed)
                except BaseException as error:
                    error.add_note(f"seed {seed}")
                    raise
            for node in nodes:
                await node.close()
            report = await verify(one)
            assert report.ok, report.problems

    asyncio.run(main())


def test_whatever_the_schedule_each_month_is_booked_once(world: World) -> None:
    run_schedules(world, 0, 8)


@pytest.mark.soak
@pytest.mark.timeout(1_800)
def test_hundreds_of_lives_are_booked_month_by_month(world: World) -> None:
    run_schedules(world, 100, int(os.environ.get("SCHEDULES", "300")))
