"""Sums of usage are those of its rows at every moment, wherever the watermark stands, and are proved to be."""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from itertools import combinations

import pytest
from msgspec.structs import replace
from tests.store.books import Books, Customer, Engine, with_books

from tollbridge.store import rollups, usage_days
from tollbridge.store.db import open_database
from tollbridge.store.meta import value
from tollbridge.store.rollups import Cells, Period, Sums, by_time
from tollbridge.store.verify import verify
from tollbridge.values import DAY_MS, HOUR_MS, Outcome


async def spend(books: Books, customer: Customer, charge: int, **fields: object) -> None:
    hold = await books.held(customer, 10_000)
    end = books.end_op(hold, customer, charge)
    await books.ledger.submit(replace(end, record=replace(end.record, **fields)))


async def age(books: Books, milliseconds: int) -> None:
    """All requests so far ended so much earlier."""
    await books.database.execute("UPDATE usage SET ended_at = ended_at - $1", milliseconds)


SIXTEEN = {"input": 1, "cache_read": 2, "cache_write": 2, "cache_write_1h": 1, "audio_input": 4}
SIXTEEN |= {"output": 1, "audio_output": 2, "image_output": 3}


async def spend_at(books: Books, customer: Customer, at: int, charge: int) -> None:
    """A request that ended at this time, in milliseconds; `charge` is a multiple of 16 tokens, some of each kind."""
    hold = await books.held(customer, charge)
    end = books.end_op(hold, customer, charge)
    tokens = {name: charge // 16 * parts for name, parts in SIXTEEN.items()}
    await books.ledger.submit(replace(end, record=replace(end.record, streamed=True, **tokens)))
    await books.database.execute("UPDATE usage SET ended_at = $2 WHERE hold_id = $1", hold, at)


async def read(books: Books, customer: Customer, step: int) -> tuple[Cells, Cells]:
    """By price version and by key; the sums of all of the time by key are proved to be those of its steps."""
    period = Period(0, 1 << 60, step)
    async with books.database.snapshot() as view:
        by_price = await rollups.by_price(view, customer.account_id, period)
        whole = await rollups.by_key(view, customer.account_id, period)
        by_key = await rollups.of_keys(view, customer.account_id, period, list(whole))
        assert await rollups.of_keys(view, customer.account_id, period, [-1]) == {}
    for key_id, total in whole.items():
        assert added(each for (_, key), each in by_key.items() if key == key_id) == total
    return by_price, by_key


def added(cells: Iterable[Sums]) -> Sums:
    total = Sums()
    for each in cells:
        total.add(each)
    return total


async def totals(books: Books, customer: Customer, span: int = HOUR_MS) -> Sums:
    used = await read(books, customer, span)
    assert all(start % span == 0 for cells in used for start, _ in cells)
    totals = [added(cells.values()) for cells in used]
    assert totals[0] == totals[1]
    return totals[0]


def test_the_sums_are_selected_in_the_order_of_their_fields() -> None:
    assert f"{rollups._SUMMED}, {rollups._RARE}" == ", ".join(Sums.__struct_fields__)


def test_sums_are_added_field_by_field_and_taken_away_again() -> None:
    one, other = (Sums(*range(first, first + len(Sums.__struct_fields__))) for first in (1, 1_000))
    both = added([one, other])
    for name in Sums.__struct_fields__:
        expected = other.last_at if name == "last_at" else getattr(one, name) + getattr(other, name)
        assert getattr(both, name) == expected, name
    assert both.less(other) == replace(one, last_at=other.last_at)


async def by_rows(books: Books, customer: Customer) -> tuple[int, int, int]:
    rows = await books.database.fetch(
        "SELECT COUNT(*), CAST(COALESCE(SUM(charge), 0) AS BIGINT), CAST(COALESCE(SUM(input), 0) AS BIGINT) "
        "FROM usage WHERE account_id = $1",
        customer.account_id,
    )
    return rows[0][0], rows[0][1], rows[0][2]


async def assert_exact(books: Books, customer: Customer) -> None:
    for span in (HOUR_MS, 6 * HOUR_MS, DAY_MS):
        sums = await totals(books, customer, span)
        assert (sums.requests, sums.charge, sums.input) == await by_rows(books, customer)


def test_sums_are_exact_before_and_after_the_watermark(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, other = await books.customer(paid=10**9), await books.customer(paid=10**9)
        assert await read(books, ada, HOUR_MS) == ({}, {})
        assert await rollups.last_uses(books.database, ada.account_id) == {}
        for days in (40, 3, 1, 0):
            for number in range(4):
                await spend(books, ada, 100 + number, searches=2, audio_input=0, first_byte_ms=7, duration_ms=30)
            await spend(books, other, 7)
            await assert_exact(books, ada)
            if days:
                await age(books, days * DAY_MS)
        before = await totals(books, ada)
        await rollups.roll_up(books.database)
        assert await value(books.database, rollups.WATERMARK) is not None
        rolled = await books.count("usage_rollup")
        assert rolled > 0
        assert await totals(books, ada) == before
        assert before.searches == 2 * before.requests
        assert before.first_bytes == before.requests == 16
        assert before.duration_ms == 30 * 16
        await rollups.roll_up(books.database)
        await assert_exact(books, ada)
        await spend(books, ada, 5)
        await assert_exact(books, ada)
        [(last,)] = await books.database.fetch("SELECT MAX(ended_at) FROM usage WHERE key_id = $1", ada.key_id)
        assert await rollups.last_uses(books.database, ada.account_id) == {ada.key_id: last}

    with_books(ledger_engine, scenario)


MIDNIGHT = 20_000 * DAY_MS
# Each request that ended around a boundary has one bit of the charge: a sum says which of them it counts.
_BOUNDARIES = (0, HOUR_MS, 90 * 60_000, DAY_MS)
AROUND = {
    MIDNIGHT + boundary + off: 16 << (3 * number + off + 1)
    for number, boundary in enumerate(_BOUNDARIES)
    for off in (-1, 0, 1)
}


def test_a_request_counts_once_at_each_boundary_of_hours_days_and_the_watermark(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(books: Books) -> None:
        ada, other = await books.customer(paid=10**13), await books.customer(promo=10**13)
        second = await books.key(ada.account_id)
        for at, charge in AROUND.items():
            await spend_at(books, ada, at, charge)
            await spend_at(books, second, at, charge << 12)
            await spend_at(books, other, at, charge << 24)
        clock = 0

        async def now() -> int:
            return clock + rollups.SETTLED_MS

        monkeypatch.setattr(books.database, "now", now)
        for clock in (MIDNIGHT - 1, MIDNIGHT, MIDNIGHT + 90 * 60_000, MIDNIGHT + DAY_MS, MIDNIGHT + 3 * DAY_MS):
            await rollups.roll_up(books.database)
            assert await value(books.database, rollups.WATERMARK) == clock
            async with books.database.snapshot() as view:
                for edges in combinations((-DAY_MS, 0, HOUR_MS, DAY_MS, 2 * DAY_MS), 2):
                    since, until = (MIDNIGHT + edge for edge in edges)
                    for step in (HOUR_MS, 6 * HOUR_MS, DAY_MS):
                        if since % step or until % step:
                            continue
                        period, expected = Period(since, until, step), Counter[tuple[int, int]]()
                        for at, charge in AROUND.items():
                            if since <= at < until:
                                expected[at // step * step, ada.key_id] += charge
                                expected[at // step * step, second.key_id] += charge << 12
                        keys = [ada.key_id, second.key_id]
                        by_key = await rollups.of_keys(view, ada.account_id, period, keys)
                        assert {place: each.charge for place, each in by_key.items()} == expected
                        for each in by_key.values():
                            for name, parts in SIXTEEN.items():
                                assert getattr(each, name) == each.charge // 16 * parts, name
                            assert (each.requests, each.cost) == (each.charge.bit_count(), each.charge // 2)
                        one = await rollups.of_keys(view, ada.account_id, period, keys[1:])
                        assert one == {place: each for place, each in by_key.items() if place[1] == keys[1]}
                        whole = await rollups.by_key(view, ada.account_id, period)
                        for key in keys:
                            of_key = [each for place, each in by_key.items() if place[1] == key]
                            assert whole.get(key, Sums()) == added(of_key)
                        by_price = await rollups.by_price(view, ada.account_id, period)
                        for start in {start for start, _ in by_key} | {start for start, _ in by_price}:
                            of_start = [each for place, each in by_key.items() if place[0] == start]
                            assert by_price[start, books.price_version] == added(of_start)

    with_books(ledger_engine, scenario)


def test_what_ended_later_is_added_to_the_hour_that_was_begun(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        for number in range(6):
            # Whoever leaves before the end has not failed.
            await spend(
                books, ada, 10, outcome=Outcome.UPSTREAM_DIED if number % 2 else Outcome.CLIENT_LEFT, searches=1
            )
            await rollups.roll_up(books.database)
            await asyncio.sleep(0.005)
        sums = await totals(books, ada)
        assert (sums.requests, sums.errors, sums.charge, sums.searches) == (6, 3, 60, 6)
        assert len((await read(books, ada, DAY_MS))[1]) <= 2
        tail = await books.database.fetch(
            "SELECT COUNT(*) FROM usage WHERE ended_at > $1", await value(books.database, rollups.WATERMARK)
        )
        assert tail == [(0,)]

    with_books(sqlite_engine, scenario)


def test_several_processes_roll_up_once(ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        for _ in range(5):
            # Not in the millisecond of the watermark, which is ahead of the clock here.
            await asyncio.sleep(0.005)
            await spend(books, ada, 10)
            await asyncio.gather(*(rollups.roll_up(books.database) for _ in range(4)))
        await assert_exact(books, ada)

    with_books(ledger_engine, scenario)


def test_a_clock_that_is_set_back_loses_nothing(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        await spend(books, ada, 10)
        now = await books.database.now()
        ahead = now + 10 * HOUR_MS

        async def later() -> int:
            return ahead

        monkeypatch.setattr(books.database, "now", later)
        await rollups.roll_up(books.database)
        monkeypatch.undo()
        await spend(books, ada, 20)
        await rollups.roll_up(books.database)
        await assert_exact(books, ada)
        assert (await totals(books, ada)).charge == 30

    with_books(sqlite_engine, scenario)


@pytest.mark.parametrize("back_ms", [10_000, 29_000, 31_000, 34_000, 39_999, 41_000])
def test_a_clock_that_is_set_back_a_little_between_two_runs_loses_nothing(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, back_ms: int
) -> None:
    """Behind the watermark there are 30 s, and the next run comes 10 s later: requests may end before it unseen."""

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        ahead = 0

        async def now() -> int:
            return time.time_ns() // 1_000_000 + ahead

        monkeypatch.setattr(books.database, "now", now)
        await spend(books, ada, 10)
        ahead = back_ms
        await rollups.roll_up(books.database)
        # Set back, and used at once.
        await spend(books, ada, 20)
        ahead = 10_000
        for _ in range(2):
            await rollups.roll_up(books.database)
            assert (await totals(books, ada)).charge == 30
            await assert_exact(books, ada)
            ahead += 60_000

    with_books(sqlite_engine, scenario)


def test_a_clock_that_was_set_back_before_midnight_loses_nothing_of_the_day_before(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        clock = MIDNIGHT + 600_000

        async def now() -> int:
            return clock

        monkeypatch.setattr(books.database, "now", now)
        await rollups.roll_up(books.database)
        await spend_at(books, ada, MIDNIGHT - 1, 16)
        # Midnight has passed again when the next run comes.
        clock = MIDNIGHT + 5_000
        for _ in range(2):
            await rollups.roll_up(books.database)
            await assert_exact(books, ada)
            clock += 60_000

    with_books(sqlite_engine, scenario)


def test_a_run_that_read_the_time_before_another_one_moved_the_watermark_changes_nothing(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        await spend(books, ada, 10)
        ahead = 60_000

        async def now() -> int:
            return time.time_ns() // 1_000_000 + ahead

        monkeypatch.setattr(books.database, "now", now)
        await rollups.roll_up(books.database)
        moved = await value(books.database, rollups.WATERMARK)
        ahead -= 4_000
        await rollups.roll_up(books.database)
        assert await value(books.database, rollups.WATERMARK) == moved

    with_books(sqlite_engine, scenario)


def test_wrong_sums_are_named(sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        await spend(books, ada, 10)
        await asyncio.sleep(0.005)
        await rollups.roll_up(books.database)
        for change in (
            "UPDATE usage_rollup SET output = output + 1 WHERE span = 86400000",
            "UPDATE usage_rollup SET key_id = key_id + 1 WHERE span = 3600000",
            "DELETE FROM usage_rollup",
        ):
            await books.database.execute(change)
            report = await verify(books.database)
            kinds = Counter("day" if "the day" in problem else "hour" for problem in report.problems)
            assert kinds["day"] == 1, report.problems
        await books.database.execute("DELETE FROM meta WHERE name = $1", rollups.WATERMARK)
        await rollups.roll_up(books.database)

    with_books(sqlite_engine, scenario)


FILL = """
INSERT INTO usage (hold_id, account_id, key_id, ended_at, held, charge, promo, loss, cost, price_version, input,
  cache_read, cache_write, cache_write_1h, output, reasoning, started_at, duration_ms, outcome, status, flags)
SELECT i, i % {accounts}, i % {accounts}, i * 100, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 1, 0, i * 100, 5, 1, 200, 0
FROM generate_series(1, {rows}::bigint) AS n(i)
"""


@pytest.mark.parametrize("accounts", [50, 20_000])
def test_a_turn_on_postgresql_reads_only_what_is_new(accounts: int, postgres_engine: Engine) -> None:
    rows = int(os.environ.get("SOAK_ROWS", "60000"))

    async def main() -> None:
        database = open_database(postgres_engine.url, statement_timeout=300)
        await database.start()
        await database.execute(FILL.format(rows=rows, accounts=accounts))
        await database.execute("ANALYZE usage")
        await database.fetch("SELECT brin_summarize_new_values('usage_by_time')")
        pages = (await database.fetch("SELECT pg_relation_size('usage') / 8192"))[0][0]
        latest = rows * 100
        for statement in (rollups._ADD, rollups._STEP_RARE, usage_days._ADD):
            plan = by_time("postgresql", statement)
            plan = plan.replace("$1", str(latest - 10_000)).replace("$2", str(latest))
            lines = [row[0] for row in await database.fetch(f"EXPLAIN (ANALYZE, BUFFERS) {plan}")]
            # Of few accounts each one's last requests, by the index that there is; of many a bitmap by time.
            scan = next(index for index, line in enumerate(lines) if re.search(r"Scan .*on usage\b", line))
            read = sum(
                map(int, re.findall(r"(?:hit|read)=(\d+)", next(row for row in lines[scan:] if "Buffers" in row)))
            )
            print(f"{lines[scan].split('(')[0].strip()}: {read} of {pages} pages; {lines[-1]}")
            assert read < pages // 4, lines
        await database.close()

    asyncio.run(main())
