"""Sums by the day agree with the requests, before and behind the watermark, for every way to ask."""

import asyncio

import pytest
from tests.store.books import Books, Customer, Engine, with_books
from tests.store.test_rollups import age, spend

from tollbridge.core.ledger import End
from tollbridge.store import rollups, usage_days
from tollbridge.store.rollups import DAY_MS, Period
from tollbridge.store.usage_days import EVER, Days, Group, Sums
from tollbridge.values import Outcome


async def by_rows(books: Books, where: str = "1 = 1") -> tuple[int, int, int]:
    rows = await books.database.fetch(
        "SELECT COUNT(*), CAST(COALESCE(SUM(charge), 0) AS BIGINT), CAST(COALESCE(SUM(cost), 0) AS BIGINT) "
        f"FROM usage WHERE {where}"
    )
    return rows[0][0], rows[0][1], rows[0][2]


def added(sums: list[Sums]) -> tuple[int, int, int]:
    return sum(each.requests for each in sums), sum(each.charge for each in sums), sum(each.cost for each in sums)


async def assert_agree(books: Books, customers: list[Customer]) -> None:
    now = await books.database.now()
    noon = now // DAY_MS * DAY_MS - DAY_MS // 2
    async with usage_days.reading(books.database) as days:
        for since, until in ((0, EVER), (noon - 2 * DAY_MS, noon), (noon, noon + 1000), (noon, EVER), (0, now)):
            within = f"ended_at >= {since} AND ended_at < {until}"
            for group in (Group.PRICE, Group.ACCOUNT, Group.KEY):
                assert added(await days.by(group, since, until)) == await by_rows(books, within)
            assert added(await days.by_day(since, until)) == await by_rows(books, within)
            for customer in customers:
                await assert_own(books, days, customer, (since, until))


async def assert_own(books: Books, days: Days, customer: Customer, period: tuple[int, int]) -> None:
    within = f"ended_at >= {period[0]} AND ended_at < {period[1]} AND account_id = {customer.account_id}"
    expected = await by_rows(books, within)
    assert added([await days.of_account(customer.account_id, *period)]) == expected
    assert added(await days.of_keys(customer.account_id, *period)) == expected
    key = (customer.account_id, customer.key_id)
    ever = f"ended_at >= {period[0]} AND key_id = {customer.key_id}"
    assert added([await days.of_key(key, period[0])]) == await by_rows(books, ever)
    assert added([await days.of_key(key, period[0], Group.OWN)]) == await by_rows(books, f"{ever} AND flags & 16 <> 0")


def test_every_way_to_ask_agrees_with_the_requests(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, other = await books.customer(paid=10**9), await books.customer(promo=10**9)
        for days in (40, 2, 1, 1, 0):
            for number in range(3):
                await spend(books, ada, 100 + number)
                await spend(books, other, 7)
            await books.database.execute(
                "UPDATE usage SET flags = flags + 16 WHERE key_id = $1 AND flags & 16 = 0", other.key_id
            )
            await assert_agree(books, [ada, other])
            if days:
                await age(books, days * DAY_MS)
        assert await books.count("usage_day") == 0
        await usage_days.roll_up(books.database)
        assert await books.count("usage_day") > 0
        await assert_agree(books, [ada, other])
        await spend(books, ada, 11)
        await usage_days.roll_up(books.database)
        await assert_agree(books, [ada, other])

    with_books(ledger_engine, scenario)


def test_several_processes_sum_once(ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        for _ in range(4):
            await spend(books, ada, 10)
            await asyncio.gather(*(usage_days.roll_up(books.database) for _ in range(4)))
        await assert_agree(books, [ada])

    with_books(ledger_engine, scenario)


def test_what_a_late_end_charges_is_in_the_sums_of_its_key_and_model(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        hold = await books.held(ada, 1000)
        swept = books.end_op(hold, ada, 100, Outcome.SWEPT)
        await books.ledger.submit(swept)
        late = End(hold=hold, account_id=ada.account_id, key_id=ada.key_id, charge=700, record=books.record(700))
        await books.ledger.submit(late)
        used = await rollups.read(books.database, ada.account_id, Period(0, EVER, DAY_MS))
        for cells, group in ((used.by_price, books.price_version), (used.by_key, ada.key_id)):
            ((place, sums),) = cells.items()
            assert place[1] == group
            assert (sums.requests, sums.charge, sums.cost) == (1, 700, 350)

    with_books(ledger_engine, scenario)
