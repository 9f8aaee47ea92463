"""Money that goes back: refunds by the operator and by Stripe's dashboard, disputes lost and won (I7, I10)."""

import asyncio

import pytest
from tests.payments.conftest import USD, Till, at_till, with_stripe
from tests.services.conftest import World, hold, spend
from tests.services.test_accounts import a_key

from tollbridge.core.ledger import Ended, Held, Refusal, Refused
from tollbridge.core.payments import Buyer, Payment, Reversal, State, Status
from tollbridge.errors import InvalidRequest, KeyReused, NotFound
from tollbridge.payments.base import ProcessorRefused, ProcessorUnavailable
from tollbridge.services import invoices
from tollbridge.services.accounts import set_frozen
from tollbridge.services.credit import grant
from tollbridge.services.payments import open_payments
from tollbridge.services.refunds import refund, retry
from tollbridge.store import accounts, leaving
from tollbridge.store.db import run

CENT = USD // 100


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.payments.stripe_api._PAUSE_S", 0.001)


async def give_back(till: Till, payment: Payment, amount: int | None = None) -> None:
    await refund(till.ways, payment.public_id, amount, actor="test")


def test_a_refund_takes_the_credit_and_has_a_credit_note(world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        await give_back(till, payment, 4 * USD)
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 6 * USD
        await give_back(till, payment)
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 0
        papers = await invoices.papers(till.database, till.ways.issuer, till.account)
        assert [(each.number, each.title, each.total) for each in papers] == [
            ("INV-000003", "Credit note", -6 * USD),
            ("INV-000002", "Credit note", -4 * USD),
            ("INV-000001", "Invoice", 10 * USD),
        ]
        rows = await till.database.fetch("SELECT state, external_id FROM reversal ORDER BY id")
        assert [state for state, _ in rows] == ["taken", "taken"]
        assert all(external_id.startswith("re_") for _, external_id in rows)
        with pytest.raises(InvalidRequest, match="0 USD of it can be refunded"):
            await give_back(till, payment)

    at_till(world, scenario)


def test_a_credit_note_is_of_an_invoice_and_goes_to_whom_that_went(world: World) -> None:
    """Whoever they are by now: they moved, or closed the account, in which case nobody else knows their name."""

    async def scenario(till: Till) -> None:
        await till.paid(20 * USD)
        ada = Buyer(name="Ada Ltd", address="1 Street", tax_id="DE1")
        await invoices.set_buyer(till.database, till.account, ada)
        payment = await till.paid()
        await invoices.set_buyer(till.database, till.account, Buyer(name="Another Ltd"))
        await give_back(till, payment, 2 * USD)
        assert payment.intent is not None
        failed = till.stripe.refund(payment.intent, 100)
        await till.send(*till.stripe.events)
        gone, now = leaving.pseudonym(till.account), await till.database.now()
        await run(till.database, lambda transaction: leaving.close_account(transaction, till.account.id, gone, now))
        till.stripe.fail_refund(failed["id"])
        await till.send(*till.stripe.events)
        await give_back(till, payment, 3 * USD)
        papers = await invoices.papers(till.database, till.ways.issuer, till.account)
        bought, of_it = "Prepaid credit", "Prepaid credit, refund of invoice INV-000002"
        assert [(each.title, each.item, each.buyer.name, each.buyer.tax_id) for each in papers] == [
            ("Credit note", of_it, "Ada Ltd", "DE1"),
            ("Correction", of_it, "Ada Ltd", "DE1"),
            ("Credit note", of_it, "Ada Ltd", "DE1"),
            ("Credit note", of_it, "Ada Ltd", "DE1"),
            ("Invoice", bought, "Ada Ltd", "DE1"),
            ("Invoice", bought, "Ada Lovelace", ""),
        ]

    at_till(world, scenario)


def test_what_was_spent_is_not_refunded(world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        key = await a_key(till.database, till.account)
        async with world.serving(till.database) as ledger:
            assert isinstance(await spend(ledger, till.account.id, key, 3 * USD), Ended)
            with pytest.raises(InvalidRequest, match="not have that much paid credit left"):
                await give_back(till, payment)
            await give_back(till, payment, 7 * USD)
        assert (await till.state()).paid == 0
        assert [each for each in till.stripe.objects if each.startswith("re_")] != []

    at_till(world, scenario)


def test_a_gift_is_not_paid_out(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        key = await a_key(till.database, till.account)
        async with sqlite_world.serving(till.database) as ledger:
            assert isinstance(await spend(ledger, till.account.id, key, 4 * USD), Ended)
        await grant(till.database, till.account, 9 * USD, reason="x", actor="x", idempotency_key="x")
        with pytest.raises(InvalidRequest, match="not have that much paid credit left"):
            await give_back(till, payment, 6 * USD + CENT)
        await give_back(till, payment, 6 * USD)
        account = await till.state()
        assert (account.paid, account.promo) == (0, 9 * USD)

    at_till(sqlite_world, scenario)


def test_what_a_call_has_reserved_is_not_paid_out(sqlite_world: World) -> None:
    """As far as gifts do not cover it."""

    async def scenario(till: Till) -> None:
        payment = await till.paid()
        await grant(till.database, till.account, 3 * USD, reason="x", actor="x", idempotency_key="x")
        key = await a_key(till.database, till.account)
        async with sqlite_world.serving(till.database) as ledger:
            assert isinstance(await ledger.submit(hold(ledger, till.account.id, key, 4 * USD)), Held)
            with pytest.raises(InvalidRequest, match="not have that much paid credit left"):
                await give_back(till, payment, 9 * USD + CENT)
            await give_back(till, payment, 9 * USD)
        assert (await till.state()).paid == 1 * USD

    at_till(sqlite_world, scenario)


async def all_at_once(world: World, till: Till, wanted: list[tuple[Payment, int]]) -> int:
    """Ask for these refunds at once, from two processes; how many were made."""
    async with world.opened() as other:
        twin = open_payments(other, with_stripe(till.stripe), "http://x")
        try:
            await twin.orders(till.account)
            asked = [
                refund(ways, payment.public_id, amount, actor="test")
                for payment, amount in wanted
                for ways in (till.ways, twin)
            ]
            results = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await twin.close()
    assert all(isinstance(each, Reversal | InvalidRequest) for each in results), results
    return len([each for each in results if isinstance(each, Reversal)])


def test_no_more_of_a_payment_is_refunded_at_once_than_it_was(world: World) -> None:
    async def scenario(till: Till) -> None:
        for _ in range(5):
            payment, _ = await till.paid(), await till.paid(50 * USD)
            before = (await till.state()).paid
            assert await all_at_once(world, till, [(payment, 6 * USD)] * 2) == 1
            assert (await till.state()).paid == before - 6 * USD

    at_till(world, scenario)


def test_no_more_is_refunded_of_several_payments_at_once_than_is_left_of_the_credit(world: World) -> None:
    async def scenario(till: Till) -> None:
        payments = [await till.paid(each * USD) for each in (10, 11, 12, 13)]
        key = await a_key(till.database, till.account)
        async with world.serving(till.database) as ledger:
            assert isinstance(await spend(ledger, till.account.id, key, 33 * USD), Ended)
        assert await all_at_once(world, till, [(each, each.amount) for each in payments]) == 1
        assert 0 <= (await till.state()).paid <= 3 * USD

    at_till(world, scenario)


@pytest.mark.parametrize("amount", [0, 1, 10 * USD + CENT, -USD])
def test_a_refund_that_cannot_be_is_refused(sqlite_world: World, amount: int) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        with pytest.raises(InvalidRequest, match="10 USD of it can be refunded"):
            await give_back(till, payment, amount)
        assert (await till.state()).paid == 10 * USD

    at_till(sqlite_world, scenario)


def test_what_is_not_paid_is_not_refunded(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.order()
        with pytest.raises(InvalidRequest, match="pending, not paid"):
            await give_back(till, checkout.payment)

    at_till(sqlite_world, scenario)


@pytest.mark.parametrize("fault", ["drop", "lost"])
def test_a_refund_that_stripe_did_not_answer_happens_once(sqlite_world: World, fault: str) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        till.stripe.faults = [fault] * 3
        with pytest.raises(ProcessorUnavailable, match="will be requested"):
            await give_back(till, payment, 4 * USD)
        assert (await till.state()).paid == 6 * USD
        await till.database.execute("UPDATE reversal SET created_at = created_at - 3600000")
        await retry(till.ways)
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 6 * USD
        assert await till.database.fetch("SELECT state FROM reversal") == [("taken",)]
        assert len([each for each in till.stripe.objects if each.startswith("re_")]) == 1

    at_till(sqlite_world, scenario)


def test_a_refund_that_stripe_refuses_is_given_back(world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        assert payment.intent is not None
        till.stripe.refund(payment.intent, 1000)  # on the dashboard; its events are on their way
        with pytest.raises(InvalidRequest, match="Nothing was refunded"):
            await give_back(till, payment, 4 * USD)
        assert (await till.state()).paid == 10 * USD
        await till.send(*till.stripe.events)
        assert (await till.state()).paid == 0
        papers = await invoices.papers(till.database, till.ways.issuer, till.account)
        assert sum(each.total for each in papers) == 0

    at_till(world, scenario)


@pytest.mark.parametrize("trouble", ["refused", "drop"])
def test_a_refund_that_fails_again_holds_up_no_other(sqlite_world: World, trouble: str) -> None:
    async def scenario(till: Till) -> None:
        for payment in [await till.paid(), await till.paid()]:
            till.stripe.faults = ["drop"] * 3
            with pytest.raises(ProcessorUnavailable):
                await give_back(till, payment, 4 * USD)
            if trouble == "refused" and not await till.database.fetch("SELECT 1 FROM reversal WHERE id > 1"):
                till.stripe.refund(str(payment.intent), 1000)  # on the dashboard: nothing is left of this one
        await till.database.execute("UPDATE reversal SET created_at = created_at - 3600000")
        till.stripe.faults = ["drop"] * 3 if trouble == "drop" else []
        await retry(till.ways)
        states = [state for (state,) in await till.database.fetch("SELECT state FROM reversal ORDER BY id LIMIT 2")]
        assert states == [{"refused": "returned", "drop": "requested"}[trouble], "taken"]

    at_till(sqlite_world, scenario)


def test_a_refund_never_answered_is_given_up_after_a_day(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        till.stripe.faults = ["drop"] * 3
        with pytest.raises(ProcessorUnavailable):
            await give_back(till, payment, 4 * USD)
        await till.database.execute("UPDATE reversal SET created_at = 1")
        await retry(till.ways)
        assert (await till.state()).paid == 10 * USD
        assert [each for each in till.stripe.objects if each.startswith("re_")] == []

    at_till(sqlite_world, scenario)


def test_a_refund_that_stripe_made_without_an_answer_is_known_again_days_later(sqlite_world: World) -> None:
    """No event came either: what Stripe lists decides, not how long it has been."""

    async def scenario(till: Till) -> None:
        payment = await till.paid()
        till.stripe.faults = ["lost"] * 3
        with pytest.raises(ProcessorUnavailable):
            await give_back(till, payment, 4 * USD)
        await till.database.execute("UPDATE reversal SET created_at = 1")
        await retry(till.ways)
        assert (await till.state()).paid == 6 * USD
        assert await till.database.fetch("SELECT state FROM reversal") == [("taken",)]

    at_till(sqlite_world, scenario)


def test_a_refund_that_was_just_requested_is_not_asked_for_again_yet(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        till.stripe.faults = ["drop"] * 3
        with pytest.raises(ProcessorUnavailable):
            await give_back(till, payment, 4 * USD)
        for age, there in ((0, 0), (90_000, 1)):
            await till.database.execute("UPDATE reversal SET created_at = created_at - $1", age)
            await retry(till.ways)
            assert len([each for each in till.stripe.objects if each.startswith("re_")]) == there

    at_till(sqlite_world, scenario)


def test_a_refund_that_we_never_asked_for_is_not_asked_for_again(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        till.stripe.refund(str(payment.intent), 400)  # on the dashboard
        await till.send(*till.stripe.events)
        await till.database.execute("UPDATE reversal SET created_at = created_at - 3600000")
        await retry(till.ways)
        assert len([each for each in till.stripe.objects if each.startswith("re_")]) == 1
        assert (await till.state()).paid == 6 * USD

    at_till(sqlite_world, scenario)


def test_of_two_refunds_the_one_that_stripe_refuses_is_given_back(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        await give_back(till, payment, 4 * USD)
        till.stripe.refund(str(payment.intent), 600)  # on the dashboard; its events are on their way
        with pytest.raises(InvalidRequest, match="Nothing was refunded"):
            await give_back(till, payment, 3 * USD)
        assert (await till.state()).paid == 6 * USD
        rows = await till.database.fetch("SELECT amount, state FROM reversal ORDER BY id")
        assert rows == [(4 * USD, "taken"), (3 * USD, "returned")]

    at_till(sqlite_world, scenario)


def test_a_refund_that_stripe_refuses_after_all_is_not_given_back_if_it_happened(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event overtook the answer."""

    async def scenario(till: Till) -> None:
        payment = await till.paid()
        real = till.ways.stripe
        assert real is not None

        async def made_and_refused(paid: Payment, amount: int, name: str) -> None:
            till.stripe.refund(str(paid.intent), amount // CENT, metadata={"tollbridge_refund": name})
            await till.send(*till.stripe.events)
            raise ProcessorRefused("It was refunded before.")

        monkeypatch.setattr(real, "refund", made_and_refused)
        with pytest.raises(InvalidRequest):
            await give_back(till, payment, 4 * USD)
        assert (await till.state()).paid == 6 * USD
        assert await till.database.fetch("SELECT state FROM reversal") == [("taken",)]

    at_till(sqlite_world, scenario)


def test_what_a_failed_refund_had_taken_can_be_refunded_again(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        made = till.stripe.refund(str(payment.intent), 400)
        await till.send(*till.stripe.events)
        till.stripe.fail_refund(made["id"])
        await till.send(*till.stripe.events)
        await give_back(till, payment)
        assert (await till.state()).paid == 0

    at_till(sqlite_world, scenario)


def test_whoever_refunds_and_why_stands_in_the_books_and_in_the_audit_log(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        for reason in ("", "as agreed"):
            await refund(till.ways, payment.public_id, 4 * USD, actor="boss@example.com", reason=reason)
        deeds = "SELECT actor, detail FROM activity WHERE action = 'payment.refunded' ORDER BY id"
        what = f"4 USD of {payment.public_id}"
        assert await till.database.fetch(deeds) == [
            ("boss@example.com", what),
            ("boss@example.com", f"{what}: as agreed"),
        ]
        actors = await till.database.fetch("SELECT actor FROM journal WHERE kind = 'refund'")
        assert actors == [("boss@example.com",)] * 2
        with pytest.raises(NotFound, match="there is no payment 'pay_none'"):
            await refund(till.ways, "pay_none", None, actor="boss@example.com")

    at_till(sqlite_world, scenario)


def test_a_refund_repeated_with_its_key_is_one_and_another_key_is_another(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        again = [await refund(till.ways, payment.public_id, 4 * USD, actor="x", once="k1") for _ in range(2)]
        assert again[0].public_id == again[1].public_id
        other = await refund(till.ways, payment.public_id, 4 * USD, actor="x", once="k2")
        assert other.public_id != again[0].public_id
        with pytest.raises(KeyReused):
            await refund(till.ways, payment.public_id, 1 * USD, actor="x", once="k1")
        assert (await till.state()).paid == 2 * USD

    at_till(sqlite_world, scenario)


def test_a_refund_that_comes_back_is_credit_again(world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        assert payment.intent is not None
        made = till.stripe.refund(payment.intent, 400)
        await till.send(*till.stripe.events)
        till.stripe.fail_refund(made["id"])
        await till.send(*till.stripe.events, *till.stripe.events)
        assert (await till.state()).paid == 10 * USD
        papers = await invoices.papers(till.database, till.ways.issuer, till.account)
        assert [each.title for each in papers] == ["Correction", "Credit note", "Invoice"]

    at_till(world, scenario)


def test_a_refund_heard_of_before_its_payment_is_settled_with_it(world: World) -> None:
    """I7: nothing waits for anything: whoever hears first asks for all."""

    async def scenario(till: Till) -> None:
        checkout = await till.order()
        session = till.stripe.pay(till.session(checkout))
        till.stripe.refund(session["payment_intent"], 1000)
        await till.send(*reversed(till.stripe.events))
        assert (await till.state()).paid == 0
        assert await till.database.fetch("SELECT kind FROM journal WHERE kind <> 'fee' ORDER BY id") == [
            ("top_up",),
            ("refund",),
        ]

    at_till(world, scenario)


def test_only_what_goes_back_takes_a_balance_below_zero_and_then_calls_are_refused(world: World) -> None:
    """I10."""

    async def scenario(till: Till) -> None:
        payment = await till.paid()
        assert payment.intent is not None
        key = await a_key(till.database, till.account)
        async with world.serving(till.database) as ledger:
            assert isinstance(await spend(ledger, till.account.id, key, 7 * USD), Ended)
            till.stripe.refund(payment.intent, 1000)
            await till.send(*till.stripe.events)
            assert (await till.state()).paid == -7 * USD
            refused = await spend(ledger, till.account.id, key, 1)
            assert isinstance(refused, Refused)
            assert refused.why is Refusal.INSUFFICIENT

    at_till(world, scenario)


def test_a_dispute_freezes_the_account_and_takes_the_credit(world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        assert payment.intent is not None
        key = await a_key(till.database, till.account)
        dispute = till.stripe.dispute(payment.intent)
        await till.send(*till.stripe.events)
        account = await till.state()
        assert (account.paid, account.frozen) == (0, True)
        assert (await till.books())["fees"] == -(59 + 1500) * CENT
        async with world.serving(till.database) as ledger:
            refused = await spend(ledger, till.account.id, key, 1)
            assert isinstance(refused, Refused)
            assert refused.why is Refusal.FROZEN
        till.stripe.close_dispute(dispute["id"], won=True)
        await till.send(*till.stripe.events)
        account = await till.state()
        assert (account.paid, account.frozen) == (10 * USD, False)
        assert (await till.books())["fees"] == -59 * CENT

    at_till(world, scenario)


def test_a_dispute_that_is_won_frees_an_account_that_had_lost_one_before_and_was_forgiven(world: World) -> None:
    async def scenario(till: Till) -> None:
        payments = [await till.paid() for _ in range(3)]
        lost = till.stripe.dispute(str(payments[0].intent))
        till.stripe.close_dispute(lost["id"], won=False)
        await till.send(*till.stripe.events)
        assert (await till.state()).frozen
        await accounts.set_frozen(till.database, till.account.id, False)
        second, third = (till.stripe.dispute(str(each.intent)) for each in payments[1:])
        await till.send(*till.stripe.events)
        frozen = []
        for dispute in (second, third):
            till.stripe.close_dispute(dispute["id"], won=True)
            await till.send(*till.stripe.events)
            frozen.append((await till.state()).frozen)
        assert frozen == [True, False]

    at_till(world, scenario)


def test_a_dispute_that_is_won_does_not_free_an_account_that_lost_another(world: World) -> None:
    async def scenario(till: Till) -> None:
        lost, won = [till.stripe.dispute(str((await till.paid()).intent)) for _ in range(2)]
        await till.send(*till.stripe.events)
        till.stripe.close_dispute(lost["id"], won=False)
        till.stripe.close_dispute(won["id"], won=True)
        await till.send(*till.stripe.events)
        assert (await till.state()).frozen

    at_till(world, scenario)


def test_a_dispute_that_is_won_does_not_free_what_the_operator_froze_after_an_earlier_one(world: World) -> None:
    async def scenario(till: Till) -> None:
        for operator in (False, True):
            payment = await till.paid()
            await accounts.set_frozen(till.database, till.account.id, operator)
            dispute = till.stripe.dispute(str(payment.intent))
            await till.send(*till.stripe.events)
            till.stripe.close_dispute(dispute["id"], won=True)
            await till.send(*till.stripe.events)
            assert (await till.state()).frozen == operator

    at_till(world, scenario)


def test_a_dispute_that_is_won_does_not_free_what_the_operator_freed_and_froze_again(world: World) -> None:
    async def scenario(till: Till) -> None:
        dispute = till.stripe.dispute(str((await till.paid()).intent))
        await till.send(*till.stripe.events)
        for frozen in (False, True):
            await set_frozen(till.database, till.account.email, frozen, actor="operator")
        till.stripe.close_dispute(dispute["id"], won=True)
        await till.send(*till.stripe.events)
        assert (await till.state()).frozen

    at_till(world, scenario)


def test_an_account_that_was_closed_during_a_dispute_is_not_freed_when_it_is_won(world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        dispute = till.stripe.dispute(str(payment.intent))
        await till.send(*till.stripe.events)
        name, now = leaving.pseudonym(till.account), await till.database.now()
        await run(till.database, lambda transaction: leaving.close_account(transaction, till.account.id, name, now))
        till.stripe.close_dispute(dispute["id"], won=True)
        await till.send(*till.stripe.events)
        account = await accounts.known(till.database, till.account.id)
        assert (account.paid, account.frozen, account.closed) == (10 * USD, True, True)

    at_till(world, scenario)


@pytest.mark.parametrize("won", [False, True])
def test_a_dispute_may_come_to_cost_more(world: World, won: bool) -> None:
    """Another fee is booked on top of the first, whether it comes while the dispute runs or with its end."""

    async def scenario(till: Till) -> None:
        payment = await till.paid()
        dispute = till.stripe.dispute(str(payment.intent))
        await till.send(*till.stripe.events)
        if won:
            till.stripe.close_dispute(dispute["id"], won=True)
        dispute["balance_transactions"][-1]["fee"] += 2_000
        await till.ways.ask(payment)
        await till.ways.ask(payment)
        account = await till.state()
        assert (account.paid, account.frozen) == ((10 * USD, False) if won else (0, True))
        assert (await till.books())["fees"] == -(59 + 2_000 + (0 if won else 1_500)) * CENT

    at_till(world, scenario)


def test_a_lost_dispute_stays_lost_and_the_account_frozen(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        assert payment.intent is not None
        dispute = till.stripe.dispute(payment.intent)
        till.stripe.close_dispute(dispute["id"], won=False)
        await till.send(*till.stripe.events, *till.stripe.events)
        account = await till.state()
        assert (account.paid, account.frozen) == (0, True)

    at_till(sqlite_world, scenario)


def test_an_account_with_two_disputes_is_free_when_both_are_won(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payments = [await till.paid(), await till.paid()]
        disputes = [till.stripe.dispute(str(each.intent)) for each in payments]
        await till.send(*till.stripe.events)
        assert (await till.state()).frozen
        till.stripe.close_dispute(disputes[0]["id"], won=True)
        await till.send(*till.stripe.events)
        assert (await till.state()).frozen
        till.stripe.close_dispute(disputes[1]["id"], won=True)
        await till.send(*till.stripe.events)
        account = await till.state()
        assert (account.paid, account.frozen) == (20 * USD, False)

    at_till(sqlite_world, scenario)


@pytest.mark.parametrize("is_told_at_once", [False, True])
def test_an_account_that_the_operator_froze_stays_frozen(sqlite_world: World, is_told_at_once: bool) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        await till.database.execute("UPDATE balance SET frozen = $1", True)
        dispute = till.stripe.dispute(str(payment.intent))
        if is_told_at_once:
            await till.send(*till.stripe.events)
        till.stripe.close_dispute(dispute["id"], won=True)
        await till.send(*till.stripe.events)
        assert (await till.state()).frozen

    at_till(sqlite_world, scenario)


def test_an_inquiry_takes_nothing(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        till.stripe.dispute(str(payment.intent), inquiry=True)
        await till.send(*till.stripe.events)
        account = await till.state()
        assert (account.paid, account.frozen) == (10 * USD, False)

    at_till(sqlite_world, scenario)


def test_a_bank_transfer_is_confirmed_once_and_refunded_by_hand(world: World) -> None:
    async def scenario(till: Till) -> None:
        checkout = await till.ways.start_checkout(till.account, 50 * USD, method="bank_transfer")
        reference = checkout.payment.external_id
        assert reference is not None
        assert reference.startswith("TB-")
        with pytest.raises(InvalidRequest, match="another amount"):
            await till.ways.confirm(reference, 49 * USD, actor="test")
        for _ in range(2):
            payment = await till.ways.confirm(reference.lower(), 50 * USD, actor="test")
        assert (payment.status, (await till.state()).paid) == (Status.PAID, 50 * USD)
        made = await refund(till.ways, payment.public_id, 20 * USD, actor="test")
        assert (made.state, (await till.state()).paid) == (State.TAKEN, 30 * USD)

    at_till(world, scenario, bank_transfer__instructions="Example Bank, 12-34")
