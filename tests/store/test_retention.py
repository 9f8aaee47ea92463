"""Old requests go, and nothing of what they came to: balances, limits, tokens, statements and sums stay provable."""

import asyncio

import msgspec
import pytest
from tests.store.books import Books, Customer, Engine, serving, with_books
from tests.store.test_rollups import read as sums_of
from tests.store.test_rollups import spend

from tollbridge.services.balance_changes import balance_changes
from tollbridge.store import lookups, reports, retention, rollups, seal, usage_days
from tollbridge.store.retention import Unproved
from tollbridge.store.usage_days import EVER, Group
from tollbridge.store.verify import verify
from tollbridge.values import DAY_MS, Outcome


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended is settled, and a batch is small."""
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)
    monkeypatch.setattr(retention, "BATCH", 3)


async def sum_and_seal(books: Books) -> None:
    await asyncio.sleep(0.01)
    assert await seal.seal(books.database, settled_ms=0)
    await asyncio.sleep(0.01)
    await rollups.roll_up(books.database)
    await usage_days.roll_up(books.database)


async def history(books: Books) -> tuple[Customer, Customer]:
    ada = await books.customer(paid=10**6, promo=500)
    limited = await books.key(ada.account_id, limit=10**5)
    other = await books.customer(paid=10**6)
    for number in range(4):
        await spend(books, ada, 300 + number)
        await spend(books, limited, 10)
        await spend(books, other, 7)
    hold = await books.held(ada, 50)
    assert await books.ledger.submit(books.extend_op(hold, ada, 1, 20))
    await books.end(hold, ada, 60)
    await sum_and_seal(books)
    return ada, limited


async def figures(books: Books, customer: Customer) -> object:
    """All that is ever told of an account's use."""
    async with usage_days.reading(books.database) as days:
        sums = [await days.by(group, 0, EVER) for group in Group], await days.by_day(0, EVER)
    lines = [line async for line in balance_changes(books.database, customer.account_id)]
    return sums, await sums_of(books, customer, DAY_MS), lines[-1].balance, sum(line.amount for line in lines)


def test_what_was_dropped_is_still_proved(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, limited = await history(books)
        before, trial = await figures(books, ada), (await verify(books.database)).trial_balance
        assert await retention.drop_old(books.database, DAY_MS) == 0
        assert await retention.drop_old(books.database, 0, exported=1) == 0
        assert await retention.drop_old(books.database, 0) == 13
        assert [await books.count(table) for table in ("usage", "hold", "hold_step")] == [0, 0, 0]
        assert await books.count("closing") == 5
        assert await figures(books, ada) == before
        report = await verify(books.database)
        assert (report.problems, report.trial_balance) == ([], trial)
        # It goes on as if nothing had been.
        await spend(books, limited, 10)
        await spend(books, ada, 11)
        await sum_and_seal(books)
        assert await retention.drop_old(books.database, 0) == 2
        # By days, of which another may have begun.
        lines = balance_changes(books.database, ada.account_id)
        assert sum([line.amount async for line in lines if line.amount < 0]) < -1200
        await spend(books, ada, 12)

    with_books(ledger_engine, scenario)


async def on_plan(books: Books, customer: Customer, month: int, used: int) -> None:
    """A request on tokens that the plan includes."""
    op = books.hold_op(customer, 1)
    await books.ledger.submit(msgspec.structs.replace(op, period=month, included=100, tokens=40, least_tokens=1))
    await books.ledger.submit(books.end_op(op.id, customer, used))


def test_tokens_and_gifts_of_what_was_dropped_stay_proved_beside_what_is_left(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 1)

    async def scenario(books: Books) -> None:
        assert await retention.drop_old(books.database, 0) == 0  # nothing was ever summed
        ada, other = await books.customer(promo=10**6), await books.customer(promo=10**6)
        for customer, month, used in ((ada, 202611, 10), (ada, 202612, 20), (other, 202612, 7), (ada, 202612, 5)):
            await on_plan(books, customer, month, used)
        await spend(books, ada, 30)
        await sum_and_seal(books)
        assert await retention.drop_old(books.database, 0) == 5
        rows = await books.database.fetch("SELECT id, part, amount FROM carried WHERE kind = 'tokens'")
        assert {row[:2]: row[2] for row in rows} == {
            (ada.account_id, 202611): 10,
            (ada.account_id, 202612): 25,
            (other.account_id, 202612): 7,
        }
        assert (await verify(books.database)).problems == []
        # Two more of the same day, which are not dropped.
        for customer in (ada, ada, other):
            await spend(books, customer, 50)
            await on_plan(books, customer, 202612, 3)
        await asyncio.sleep(0.01)
        await rollups.roll_up(books.database)
        await usage_days.roll_up(books.database)

    with_books(ledger_engine, scenario)


def test_what_was_charged_after_a_sweep_keeps_its_model_and_its_key(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 1)

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**6, limit=10**5)
        other = await books.key(ada.account_id)
        for key, true_charge in ((ada, 400), (other, 900)):
            hold = await books.held(key, 1_000)
            for charge, outcome in ((100, Outcome.SWEPT), (true_charge, Outcome.COMPLETED)):
                end = books.end_op(hold, key, charge)
                record = msgspec.structs.replace(end.record, outcome=outcome, cost=charge // 2)
                await books.ledger.submit(msgspec.structs.replace(end, record=record))
        await sum_and_seal(books)

        async def told() -> object:
            async with books.database.snapshot() as view:
                late = await reports.late(view, 0, EVER)
            return (
                late,
                await sums_of(books, ada, DAY_MS),
                [await lookups.spending(books.database, ada.account_id, key.key_id, (0, 0, 0)) for key in (ada, other)],
            )

        before = await told()
        assert await retention.drop_old(books.database, 0) == 2
        assert await told() == before
        assert (await verify(books.database)).problems == []
        # Its key's spend is still proved with it, and without it once the limit began anew.
        await books.database.execute("UPDATE key_spend SET spent = spent - 300")
        assert (await verify(books.database)).problems == [f"key {ada.key_id}: spent is 100, but the rows say 400"]
        later = await books.database.now() + 1
        await books.database.execute("UPDATE key_spend SET spent = 0, since = $1", later)

    with_books(ledger_engine, scenario)


def test_several_processes_drop_once_and_one_that_was_stopped_goes_on(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(books: Books) -> None:
        await history(books)
        dropped = retention._drop

        async def dies(*args: object) -> tuple[int, int]:
            await dropped(*args)  # type: ignore[arg-type]
            raise asyncio.CancelledError

        monkeypatch.setattr(retention, "_drop", dies)
        with pytest.raises(asyncio.CancelledError):
            await retention.drop_old(books.database, 0)
        monkeypatch.setattr(retention, "_drop", dropped)
        assert await books.count("closing") == 1
        assert (await verify(books.database)).ok
        counts = await asyncio.gather(*(retention.drop_old(books.database, 0) for _ in range(3)))
        assert sum(counts) == 10
        assert await books.count("usage") == 0

    with_books(ledger_engine, scenario)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE carried SET amount = amount + 1 WHERE kind = 'charge' AND id = 1", "`carried` was changed"),
        ("DELETE FROM carried WHERE kind = 'cost'", "`carried` was changed"),
        ("UPDATE closing SET row_count = row_count + 1 WHERE id = 2", "closing over"),
        ("DELETE FROM closing WHERE id = 1", "one before it"),
        ("DELETE FROM closing WHERE id = 5", "`carried` was changed"),
        ("UPDATE seal SET row_count = row_count + 1 WHERE chain <> 'journal'", "were dropped"),
        ("DELETE FROM seal WHERE chain <> 'journal'", "no seal covers them"),
        ("UPDATE usage_rollup SET charge = charge + 1 WHERE span = 86400000 AND account_id = 1", "sums by day"),
        ("UPDATE usage_rollup SET requests = requests + 1 WHERE span = 3600000 AND account_id = 1", "sums by hour"),
        ("UPDATE usage_day SET promo = promo + 1 WHERE grouped = 2", "sums of all accounts"),
        ("UPDATE usage_day SET loss = loss + 1 WHERE grouped = 2", "sums of all accounts"),
        ("UPDATE balance SET paid = paid + 1 WHERE account_id = 1", "paid is"),
        ("UPDATE key_spend SET spent = spent - 1", "spent is"),
        # The last of those that were dropped.
        (
            (
                "INSERT INTO hold (id, account_id, key_id, amount, limited, expires_at) "
                "SELECT MAX(last_id), 1, 1, 0, FALSE, 0 FROM closing"
            ),
            "is there, but was noted as dropped",
        ),
    ],
)
def test_whoever_changes_what_is_left_is_found_out(sqlite_engine: Engine, change: str, said: str) -> None:
    async def main() -> None:
        async with serving(sqlite_engine) as books:
            await history(books)
            await retention.drop_old(books.database, 0)
            assert await books.database.execute(change)
            report = await verify(books.database)
            assert said in " ".join(report.problems), report.problems

    asyncio.run(main())


def test_nothing_is_dropped_of_a_range_whose_seal_is_broken(sqlite_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        await history(books)
        await books.database.execute("UPDATE usage SET cost = cost + 1 WHERE key_id = 3 AND charge > 0")
        with pytest.raises(Unproved, match="no request in it is dropped"):
            await retention.drop_old(books.database, 0)
        assert await books.count("usage") == 13
        await books.database.execute("UPDATE usage SET cost = cost - 1 WHERE key_id = 3 AND charge > 0")

    with_books(sqlite_engine, scenario)
