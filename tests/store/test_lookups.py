"""What a customer may ask about is its own, and whole: also while it runs, and after a sweep."""

from msgspec.structs import replace
from tests.core.posts import refund
from tests.store.books import Books, Customer, Engine, with_books
from tests.store.test_rollups import MIDNIGHT

from tollbridge.store import lookups
from tollbridge.values import DAY_MS, Outcome


async def strangers(books: Books) -> tuple[Customer, Customer]:
    """A customer's second key, and an account that has the id of that key."""
    ada, _ = await books.customer(paid=10**6, promo=150), await books.customer(paid=1)
    key = await books.key(ada.account_id)
    other = await books.customer(paid=10**6)
    assert other.account_id == key.key_id
    return key, other


def test_nobody_is_told_of_anothers_request(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, other = await strangers(books)
        hold = await books.held(ada, 100)
        assert await lookups.running(books.database, ada.account_id, hold)
        assert not await lookups.running(books.database, other.account_id, hold)
        assert not await lookups.running(books.database, ada.account_id, hold + 1)
        assert await lookups.ended(books.database, ada.account_id, hold) is None
        await books.end(hold, ada, 70)
        found = await lookups.ended(books.database, ada.account_id, hold)
        assert found is not None
        assert (found.end.hold, found.end.charge, found.end.record.cost, found.late) == (hold, 70, 35, 0)
        assert found.terms is not None
        assert found.terms.model == "m"
        assert await lookups.ended(books.database, other.account_id, hold) is None
        assert await lookups.ended(books.database, ada.account_id, hold + 1) is None

    with_books(ledger_engine, scenario)


def test_a_request_is_told_with_what_was_charged_after_its_sweep(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, _ = await strangers(books)
        swept = []
        for charge in (400, 900):
            hold = await books.held(ada, 1_000)
            for outcome, amount in ((Outcome.SWEPT, 100), (Outcome.COMPLETED, charge)):
                end = books.end_op(hold, ada, amount)
                await books.ledger.submit(replace(end, record=replace(end.record, outcome=outcome)))
            found = await lookups.ended(books.database, ada.account_id, hold)
            assert found is not None
            swept.append((found.end.charge, found.end.promo, found.end.record.cost, found.late))
        # Of the gifts of 150, 100 paid for the first sweep and 50 for what came after it.
        assert swept == [(400, 150, 200, 300), (900, 0, 450, 800)]

    with_books(ledger_engine, scenario)


def test_credit_is_what_was_given_and_what_is_left(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, _ = await strangers(books)
        gifted = await books.customer(promo=70)
        await books.end(await books.held(ada, 100), ada, 100)
        await books.ledger.submit(refund(ada.account_id, 1_000, idempotency_key="r", reason="because", actor="me"))
        hold = await books.held(ada, 500)
        credit = await lookups.credit(books.database, ada.account_id)
        assert (credit.paid, credit.promo, credit.held, credit.available) == (999_000, 50, 500, 998_550)
        assert (credit.given, credit.has_paid, credit.frozen) == (999_150, True, False)
        await books.end(hold, ada, 0)
        credit = await lookups.credit(books.database, gifted.account_id)
        assert (credit.available, credit.given, credit.has_paid) == (70, 70, False)

    with_books(ledger_engine, scenario)


def test_tokens_of_the_plan_are_those_used_and_reserved_by_an_account_in_a_month(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, other = await strangers(books)
        for customer, month, used in ((ada, 202611, 11), (ada, 202612, 20), (other, 202612, 7), (ada, 202612, None)):
            op = replace(books.hold_op(customer, 1), period=month, included=100, tokens=40, least_tokens=1)
            await books.ledger.submit(op)
            if used is not None:
                await books.ledger.submit(books.end_op(op.id, customer, used))
        asked = ((ada, 202611), (ada, 202612), (other, 202611), (other, 202612))
        tokens = [await lookups.allowance_used(books.database, each.account_id, month) for each, month in asked]
        assert tokens == [11, 60, 0, 7]
        found = await lookups.allowance(books.database, ada.account_id, 202612)
        assert found is not None
        assert (found.account_id, found.period, found.included, found.used, found.held) == (1, 202612, 100, 20, 40)
        assert await lookups.allowance(books.database, other.account_id, 202611) is None

    with_books(ledger_engine, scenario)


def test_what_a_key_spent_since_a_time_has_what_was_charged_from_that_moment_on(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, other = await strangers(books)
        today = MIDNIGHT + 20 * DAY_MS
        since = (today, today - 3 * DAY_MS, MIDNIGHT)
        times = [at + off for at in since for off in (-1, 0)]
        for customer, unit in ((ada, 1), (Customer(ada.account_id, 1), 100), (other, 100)):
            for number, at in enumerate(times):
                for byok in (False, True):
                    hold = await books.held(customer, 1_000)
                    end = books.end_op(hold, customer, unit << number)
                    await books.ledger.submit(replace(end, record=replace(end.record, byok=byok)))
                    await books.database.execute("UPDATE usage SET ended_at = $1 WHERE hold_id = $2", at, hold)
            hold = await books.held(customer, 1_000)
            for outcome, charge in ((Outcome.SWEPT, 1), (Outcome.COMPLETED, 1 + 3 * unit)):
                await books.ledger.submit(books.end_op(hold, customer, charge, outcome))
            await books.database.execute("UPDATE usage SET ended_at = 5 WHERE hold_id = $1", hold)
        for late_at in times:
            await books.database.execute("UPDATE journal SET created_at = $1 WHERE kind = 'late'", late_at)
            spent = await lookups.spending(books.database, ada.account_id, ada.key_id, since)
            own = [sum(1 << number for number, at in enumerate(times) if at >= begin) for begin in (0, *since)]
            late = [3 if late_at >= begin else 0 for begin in (0, *since)]
            total, *others = (2 * each + more for each, more in zip(own, late, strict=True))
            assert (spent.total, spent.daily, spent.weekly, spent.monthly) == (total + 1, *others)
            assert [spent.byok_total, spent.byok_daily, spent.byok_weekly, spent.byok_monthly] == own

    with_books(ledger_engine, scenario)
