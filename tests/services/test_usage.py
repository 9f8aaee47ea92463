"""Reports of usage: arranged from sums, named, the dearest first, folded where there are many."""

from msgspec.structs import replace
from tests.store.books import Books, Engine, with_books
from tests.store.conftest import ledger_engine, migrated_file, postgres_engine, sqlite_engine

from tollbridge.services import usage
from tollbridge.services.usage import MOST_SERIES, RANGES, REST, Keys, Report, Series, lines, report
from tollbridge.store import rollups
from tollbridge.store.rollups import Period, Sums
from tollbridge.values import DAY_MS, HOUR_MS, Outcome

__all__ = ["ledger_engine", "migrated_file", "postgres_engine", "sqlite_engine"]

PERIOD = Period(10 * DAY_MS, 13 * DAY_MS, DAY_MS)


def sums(charge: int) -> Sums:
    return Sums(requests=1, charge=charge)


def test_models_and_keys_sum_to_the_total(ledger_engine: Engine) -> None:
    """With more keys than a chart shows: the dearest, then all others as one."""

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        period = RANGES["24h"].period(await books.database.now())
        assert await report(books.database, ada.account_id, period, Keys.STEPS) == Report(
            period, Series("", "Total", Sums(), []), [], []
        )
        keys = [ada, *[await books.key(ada.account_id) for _ in range(MOST_SERIES + 1)]]
        for number, each in enumerate(keys, 1):
            hold = await books.held(each, 10_000)
            await books.ledger.submit(books.end_op(hold, each, 100 * number))
        for is_summed in (False, True):
            if is_summed:
                await books.database.execute("UPDATE usage SET ended_at = ended_at - $1", HOUR_MS)
                await rollups.roll_up(books.database)
                period = RANGES["24h"].period(await books.database.now())
            made = await report(books.database, ada.account_id, period, Keys.STEPS)
            count = len(keys)
            assert [each.total.charge for each in made.keys] == [100 * (count - index) for index in range(count)]
            models = sum(each.total.charge for each in made.models)
            assert made.total.total.charge == models == 100 * sum(range(count + 1))
            drawn = lines(made.keys, period)
            assert [each.label for each in drawn][-1] == REST
            assert [sum(step.charge for step in each.steps) for each in drawn] == [
                *(100 * (count - index) for index in range(MOST_SERIES - 1)),
                100 * sum(range(count - MOST_SERIES + 2)),
            ]
            [total] = lines([made.total], period)
            for number, whole in enumerate(total.steps):
                assert sum(each.steps[number].requests for each in drawn) == whole.requests
            totals = await report(books.database, ada.account_id, period, Keys.TOTALS)
            assert [(each.id, each.total) for each in totals.keys] == [(each.id, each.total) for each in made.keys]
            assert not any(each.parts for each in totals.keys)
            assert (await report(books.database, ada.account_id, period)).keys == []

    with_books(ledger_engine, scenario)


def test_as_many_keys_as_a_chart_shows_have_a_line_each(sqlite_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        keys = [ada, *[await books.key(ada.account_id) for _ in range(MOST_SERIES - 1)]]
        for each in keys:
            await books.end(await books.held(each, 10), each, 10)
        period = RANGES["24h"].period(await books.database.now())
        made = await report(books.database, ada.account_id, period, Keys.STEPS)
        drawn = lines(made.keys, period)
        assert [sum(step.charge for step in each.steps) for each in drawn] == [10] * MOST_SERIES
        assert REST not in [each.label for each in drawn]

    with_books(sqlite_engine, scenario)


def test_a_request_without_a_price_is_of_no_model(sqlite_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        await books.end(await books.held(ada, 10), ada, 10)
        end = books.end_op(await books.held(ada, 10), ada, 0)
        await books.ledger.submit(replace(end, record=replace(end.record, price_version=0, outcome=Outcome.OUR_FAULT)))
        period = RANGES["24h"].period(await books.database.now())
        made = await report(books.database, ada.account_id, period)
        assert [(each.id, each.label) for each in made.models] == [("m", "m"), ("", "No model")]

    with_books(sqlite_engine, scenario)


def test_of_what_costs_the_same_the_most_used_comes_first_and_then_the_first_by_name(sqlite_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        cheap = await books.customer(paid=10**9)
        keys = {"cheap": cheap} | {name: await books.key(cheap.account_id) for name in ("rare", "more", "also rare")}
        for name, charges in {"cheap": [50, 49], "rare": [100], "more": [40, 60], "also rare": [100]}.items():
            await books.database.execute("UPDATE api_key SET label = $2 WHERE id = $1", keys[name].key_id, name)
            for charge in charges:
                hold = await books.held(keys[name], 10_000)
                await books.ledger.submit(books.end_op(hold, keys[name], charge))
        period = RANGES["24h"].period(await books.database.now())
        made = await report(books.database, cheap.account_id, period, Keys.TOTALS)
        assert [each.label for each in made.keys] == ["more", "also rare", "rare", "cheap"]

    with_books(sqlite_engine, scenario)


def test_what_is_too_much_for_a_chart_is_one_series() -> None:
    count = MOST_SERIES + 4
    names = [f"m{count - index}" for index in range(count)]
    series = [Series(name, name, sums(int(name[1:])), [(2, sums(int(name[1:])))]) for name in names]
    drawn = lines(series, PERIOD)
    assert [each.label for each in drawn] == [*names[: MOST_SERIES - 1], REST]
    assert [[step.charge for step in each.steps] for each in drawn[:-1]] == [
        [0, 0, count - index] for index in range(MOST_SERIES - 1)
    ]
    assert [step.charge for step in drawn[-1].steps] == [0, 0, 1 + 2 + 3 + 4 + 5]
    assert [each.label for each in lines(series[:MOST_SERIES], PERIOD)][-1] == f"m{count - MOST_SERIES + 1}"


def test_a_period_ends_with_the_step_that_has_begun() -> None:
    now = 100 * DAY_MS + 5 * HOUR_MS + 1
    assert RANGES["24h"].period(now) == Period(100 * DAY_MS + 6 * HOUR_MS - DAY_MS, 100 * DAY_MS + 6 * HOUR_MS, HOUR_MS)
    for each in usage.RANGES.values():
        period = each.period(now)
        assert period.since % period.step == 0
        assert period.until - period.step <= now < period.until
