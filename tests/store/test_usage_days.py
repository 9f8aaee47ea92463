"""Sums by the day agree with the requests, before and behind the watermark, for every way to ask."""

import asyncio
import re
from itertools import combinations

import pytest
from msgspec.structs import replace
from tests.store.books import TERMS, Books, Customer, Engine, with_books
from tests.store.test_rollups import AROUND, MIDNIGHT, age, spend, spend_at
from tests.store.test_rollups import read as sums_of

from tollbridge.core.ledger import End
from tollbridge.store import lookups, prices, retention, rollups, seal, usage_days
from tollbridge.store.db import Transaction
from tollbridge.store.meta import value
from tollbridge.store.usage_days import EVER, Days, Group, Sums
from tollbridge.store.verify import verify
from tollbridge.values import DAY_MS, HOUR_MS, Outcome


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
            own = await days.by(Group.OWN, since, until)
            assert added(own) == await by_rows(books, f"{within} AND flags & 16 <> 0")
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


def test_a_request_counts_once_at_each_boundary_of_days_and_the_watermark(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(books: Books) -> None:
        ada, other = await books.customer(paid=10**16), await books.customer(promo=10**13)
        own, too = await books.key(ada.account_id), await books.key(ada.account_id)
        for at, charge in AROUND.items():
            await spend_at(books, ada, at, charge)
            await spend_at(books, own, at, charge << 12)
            await spend_at(books, other, at, charge << 24)
            await spend_at(books, too, at, charge << 36)
        for each in (own, too):
            await books.database.execute("UPDATE usage SET flags = flags + 16 WHERE key_id = $1", each.key_id)
        clock = 0

        async def now() -> int:
            return clock + rollups.SETTLED_MS

        monkeypatch.setattr(books.database, "now", now)
        for clock in (MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 90 * 60_000, MIDNIGHT + DAY_MS, MIDNIGHT + 3 * DAY_MS):
            await usage_days.roll_up(books.database)
            assert await value(books.database, usage_days.WATERMARK) == clock
            async with usage_days.reading(books.database) as days:
                for edges in combinations((-DAY_MS, 0, 1, HOUR_MS, DAY_MS - 1, DAY_MS, 2 * DAY_MS), 2):
                    since, until = (MIDNIGHT + edge for edge in edges)
                    bits = sum(charge for at, charge in AROUND.items() if since <= at < until)
                    owned = {own.key_id: bits << 12, too.key_id: bits << 36}
                    of_ada = {ada.key_id: bits, **owned}
                    by_account = {ada.account_id: sum(of_ada.values()), other.account_id: bits << 24}
                    by_key = charged(await days.by(Group.KEY, since, until))
                    assert by_key == used_only({**of_ada, other.key_id: bits << 24})
                    assert charged(await days.by(Group.OWN, since, until)) == used_only(owned)
                    assert charged(await days.by(Group.ACCOUNT, since, until)) == used_only(by_account)
                    most, count = await days.most_charged(since, until, 1, [other.account_id])
                    assert (charged(most), count) == (used_only(by_account), 2 * bool(bits))
                    assert charged([await days.of_account(ada.account_id, since, until)]) == {
                        ada.account_id: by_account[ada.account_id]
                    }
                    assert charged(await days.of_keys(ada.account_id, since, until)) == used_only(of_ada)
                    by_day = charged(await days.by_day(since, until))
                    assert sum(by_day.values()) == sum(by_account.values())
                    for day, charge in by_day.items():
                        begin, end = max(since, day * DAY_MS), min(until, (day + 1) * DAY_MS)
                        of_day = sum(bit for at, bit in AROUND.items() if begin <= at < end)
                        assert charge == sum(of_day << shift for shift in (0, 12, 24, 36))
                    after = sum(charge for at, charge in AROUND.items() if since <= at)
                    for key, group, shift in (
                        *((ada, Group.KEY, 0), (own, Group.KEY, 12), (too, Group.KEY, 36)),
                        *((own, Group.OWN, 12), (too, Group.OWN, 36)),
                    ):
                        spent = await days.of_key((key.account_id, key.key_id), since, group)
                        assert charged([spent]) == {key.key_id: after << shift}

    with_books(ledger_engine, scenario)


def charged(sums: list[Sums]) -> dict[int, int]:
    for each in sums:
        assert (each.prompt, each.output, each.cost) == tuple(each.charge * parts // 16 for parts in (10, 6, 8))
        assert (each.requests, each.promo) == (each.charge.bit_count(), (each.charge >> 28 & 0xFFF) << 28)
    return {each.group: each.charge for each in sums}


def used_only(charges: dict[int, int]) -> dict[int, int]:
    return {group: charge for group, charge in charges.items() if charge}


def test_requests_of_one_key_are_told_apart_by_price_and_by_whose_credential_paid(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        (second,) = await prices.register(books.database, [replace(TERMS, upstream_model="another")])
        for charge, version, flags in ((16, 1, 1), (32, 1, 17), (64, second, 1), (128, second, 17)):
            await spend_at(books, ada, MIDNIGHT, charge)
            await books.database.execute(
                "UPDATE usage SET price_version = $2, flags = $3 WHERE charge = $1", charge, version, flags
            )
        for is_summed in (False, True):
            if is_summed:
                await usage_days.roll_up(books.database)
            async with usage_days.reading(books.database) as days:
                found = [charged(await days.by(group, 0, EVER)) for group in Group]
            assert found == [{1: 48, second: 192}, {ada.account_id: 240}, {ada.key_id: 240}, {ada.key_id: 160}]

    with_books(ledger_engine, scenario)


def test_who_was_charged_most_is_who_was_over_all_days(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        often, once = await books.customer(paid=10**9), await books.customer(paid=10**9)
        for at in (MIDNIGHT, MIDNIGHT + DAY_MS):
            await spend_at(books, often, at, 96)
        await spend_at(books, once, MIDNIGHT, 160)
        await usage_days.roll_up(books.database)
        async with usage_days.reading(books.database) as days:
            most, count = await days.most_charged(MIDNIGHT, MIDNIGHT + 2 * DAY_MS, 1)
        assert ([(each.group, each.charge) for each in most], count) == ([(often.account_id, 192)], 2)

    with_books(ledger_engine, scenario)


def test_a_clock_that_is_set_back_counts_nothing_twice_and_loses_nothing(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        await spend(books, ada, 5)
        await age(books, 3 * DAY_MS)
        await spend(books, ada, 10)
        ahead = await books.database.now() + DAY_MS // 2

        async def later() -> int:
            return ahead

        monkeypatch.setattr(books.database, "now", later)
        await usage_days.roll_up(books.database)
        monkeypatch.undo()
        await spend(books, ada, 20)
        for _ in range(2):
            await usage_days.roll_up(books.database)
            await assert_agree(books, [ada])

    with_books(sqlite_engine, scenario)


def test_several_processes_sum_once(ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        for _ in range(4):
            # Not in the millisecond of the watermark, which is ahead of the clock here.
            await asyncio.sleep(0.005)
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
        by_price, by_key = await sums_of(books, ada, DAY_MS)
        for cells, group in ((by_price, books.price_version), (by_key, ada.key_id)):
            ((place, sums),) = cells.items()
            assert place[1] == group
            assert (sums.requests, sums.charge, sums.cost) == (1, 700, 350)
        uses = await lookups.uses_of_keys(books.database, ada.account_id)
        spent = await lookups.spending(books.database, ada.account_id, ada.key_id, (0, 0, 0))
        assert [each.charge for each in uses.values()] == [spent.total] == [700]

    with_books(ledger_engine, scenario)


def test_sound_and_pictures_are_tokens_as_they_are_in_statements(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        await spend(books, ada, 137, input=7, output=100, audio_input=10, audio_output=15, image_output=5)
        for is_summed in (False, True):
            if is_summed:
                await age(books, DAY_MS)
                await usage_days.roll_up(books.database)
                await rollups.roll_up(books.database)
            by_price, _ = await sums_of(books, ada, DAY_MS)
            (cell,) = by_price.values()
            async with usage_days.reading(books.database) as days:
                for group in (Group.PRICE, Group.ACCOUNT, Group.KEY):
                    (sums,) = await days.by(group, 0, EVER)
                    assert (sums.prompt, sums.output) == (cell.prompt, cell.completion) == (17, 120)

    with_books(ledger_engine, scenario)


class Enough(Exception):
    """Rolls back."""


async def problems_after(books: Books, statement: str) -> list[str]:
    problems: list[str] = []

    async def tampered(transaction: Transaction) -> None:
        assert await transaction.execute(statement) > 0, statement
        dropped = await retention.read(transaction, problems.append)
        await usage_days.check(transaction, problems.append, dropped.until)
        await retention.check_sums(transaction, dropped, problems.append)
        raise Enough

    with pytest.raises(Enough):
        async with books.database.transaction() as transaction:
            await tampered(transaction)
    return problems


COLUMNS = ("id", "start", "requests", "prompt", "output", "charge", "promo", "loss", "cost")


async def used(books: Books) -> None:
    """Two accounts, one of which brings a credential of its own, on two days of long ago; summed."""
    for _ in range(2):
        for customer in (await books.customer(paid=10**9, promo=50), await books.customer(promo=10**9)):
            await spend(books, customer, 100, byok=customer.account_id % 2 == 0)
        await age(books, 40 * DAY_MS)
    await asyncio.sleep(0.01)
    await seal.seal(books.database, settled_ms=0)
    await summed(books)


async def summed(books: Books) -> None:
    await asyncio.sleep(0.01)
    await rollups.roll_up(books.database)
    await usage_days.roll_up(books.database)
    # Where nothing waits to be settled, the watermark is a millisecond ahead of the clock.
    await asyncio.sleep(0.01)


def test_whoever_changes_a_sum_is_found_out(ledger_engine: Engine) -> None:
    """In the newest row of each group; and what one has too much, another of its day may have too little."""

    async def scenario(books: Books) -> None:
        await used(books)
        assert await problems_after(books, "UPDATE meta SET value = value WHERE name = 'summed_by_day'") == []
        for group in Group:
            newest = f"(SELECT MAX(start) FROM usage_day WHERE grouped = {group:d})"
            of_it = f"FROM usage_day WHERE grouped = {group:d} AND start = {newest}"
            row = f"grouped = {group:d} AND start = {newest} AND id = (SELECT MAX(id) {of_it})"
            for column in COLUMNS:
                assert await problems_after(books, f"UPDATE usage_day SET {column} = {column} + 1 WHERE {row}"), column
            assert await problems_after(books, f"DELETE FROM usage_day WHERE {row}")
        for group in (Group.ACCOUNT, Group.KEY):
            for column in COLUMNS[2:]:
                moved = f"UPDATE usage_day SET {column} = {column} + CASE id % 2 WHEN 0 THEN 1 ELSE -1 END "
                moved += f"WHERE grouped = {group:d} AND start = (SELECT MAX(start) FROM usage_day)"
                assert await problems_after(books, moved), (group, column)
        names = ", ".join(Sums.__struct_fields__[1:])
        nobodys = f"INSERT INTO usage_day (grouped, id, start, {names}) VALUES (3, 999, {DAY_MS}, 1, 0, 0, 0, 0, 0, 0)"
        [problem] = await problems_after(books, nobodys)
        assert problem.startswith("1 sums of all accounts from 0 on belong to no account or key that exists")

    with_books(ledger_engine, scenario)


def test_sums_of_days_that_are_gone_are_proved_by_what_was_left_of_them(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)

    async def scenario(books: Books) -> None:
        await used(books)
        assert await retention.drop_old(books.database, 0) == 4
        assert (await verify(books.database)).ok
        for column in COLUMNS[2:]:
            moved = f"UPDATE usage_day SET {column} = {column} + CASE id % 2 WHEN 0 THEN 1 ELSE -1 END "
            assert await problems_after(books, f"{moved} WHERE grouped = 1"), column

    with_books(sqlite_engine, scenario)


def test_sums_are_made_anew_as_the_proof_says_when_older_requests_are_gone(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)

    async def scenario(books: Books) -> None:
        await used(books)
        await spend(books, await books.customer(paid=10**9), 10)
        await summed(books)
        assert await retention.drop_old(books.database, 0) == 4
        for table, mark in (("usage_rollup", "rolled_up"), ("usage_day", "summed_by_day")):
            newest = f"start = (SELECT MAX(start) FROM {table})"
            await books.database.execute(f"UPDATE {table} SET charge = charge + 1 WHERE {newest}")
            problem = next(each for each in (await verify(books.database)).problems if table in each)
            found = re.search(
                rf"the rows of {table} with a start of (\d+) or later, and set '{mark}' in meta to (\d+)", problem
            )
            assert found is not None, problem
            await books.database.execute(f"DELETE FROM {table} WHERE start >= $1", int(found[1]))
            await books.database.execute(f"UPDATE meta SET value = $1 WHERE name = '{mark}'", int(found[2]))
            await summed(books)
            assert (await verify(books.database)).ok

    with_books(ledger_engine, scenario)
