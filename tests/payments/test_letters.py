"""What customers are written about their payments: one mail for each thing that happened, with the right sums in it."""

from datetime import UTC, datetime

import pytest
from tests.payments.conftest import USD, Till
from tests.payments.test_subscriptions import DAY_MS, catch_up, later, only, subscribed, subscribing
from tests.payments.test_top_ups import ready, refuse
from tests.services.conftest import World

from tollbridge.services import top_ups
from tollbridge.services.mail import Mail
from tollbridge.store.db import Transaction


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.payments.stripe_api._PAUSE_S", 0.001)


def written(till: Till) -> list[Mail]:
    """Everything that is written from now on."""
    letters: list[Mail] = []

    async def keep(transaction: Transaction, letter: Mail, now: int) -> None:
        letters.append(letter)

    till.ways.write = keep  # type: ignore[method-assign]
    return letters


@pytest.mark.parametrize(("percent", "tax"), [(0, ""), (19, ", and 1.9 USD of tax")])
def test_a_receipt_says_what_was_bought_and_its_tax(sqlite_world: World, percent: int, tax: str) -> None:
    async def scenario(till: Till) -> None:
        till.stripe.tax_percent, letters = percent, written(till)
        await till.paid()
        await till.send(*till.stripe.events)
        [letter] = letters
        assert (letter.recipient, letter.subject) == ("ada@example.com", "Tollbridge: Receipt INV-000001")
        assert f"your payment has arrived: 10 USD of credit{tax}. Credit never" in letter.text
        assert "/dashboard/billing/invoices\n" in letter.text

    subscribing(sqlite_world, scenario, stripe__automatic_tax="true" if percent else "false")


def test_a_plan_is_written_about_when_it_is_paid_cannot_be_and_has_ended(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        letters = written(till)
        name = await subscribed(till)
        await later(till, 30)
        till.stripe.bill(name, pays=False)
        for _ in range(2):
            await till.send(*till.stripe.events[-2:])
        paid_until = (await only(till)).paid_until
        assert paid_until is not None
        day = datetime.fromtimestamp((paid_until + 7 * DAY_MS) / 1000, UTC).strftime("%-d %B %Y")
        await later(till, 8)
        await catch_up(till)
        await catch_up(till)
        assert [each.subject for each in letters] == [
            "Tollbridge: Receipt INV-000001",
            "Tollbridge: Pro could not be paid",
            "Tollbridge: Pro has ended",
        ]
        assert "your payment of 20 USD for a month of your plan has arrived. Your invoice" in letters[0].text
        assert f"you keep the plan until {day} (UTC)" in letters[1].text
        assert "You are on Free now" in letters[2].text

    subscribing(sqlite_world, scenario)


def test_nobody_is_written_to_about_the_plan_of_a_closed_account(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        letters = written(till)
        name = await subscribed(till)
        await till.database.execute("UPDATE account SET email = public_id || '@closed.invalid'")
        await later(till, 30)
        till.stripe.bill(name, pays=False)
        await till.send(*till.stripe.events[-2:])
        await later(till, 8)
        await catch_up(till)
        assert [each.subject for each in letters] == ["Tollbridge: Receipt INV-000001"]

    subscribing(sqlite_world, scenario)


def test_a_card_that_is_declined_three_times_is_written_about_once(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        await ready(till)
        refuse(till, "insufficient_funds")
        letters = written(till)
        for number in range(5):
            await top_ups.run_due(till.ways)
            await till.send(*till.stripe.events)
            assert len(letters) == (number >= 2)
        assert letters[0].subject == "Tollbridge: Automatic top-ups have stopped"
        assert "have stopped. The card was declined. (insufficient_funds)" in letters[0].text
        assert (await till.state()).paid == 10 * USD

    subscribing(sqlite_world, scenario)
