"""Lists of requests: the newest first, filtered, and never a long search in one statement."""

import pytest
from msgspec.structs import replace
from tests.store.books import Books, Customer, Engine, with_books

from tollbridge.store import requests, rollups
from tollbridge.store.requests import NEWEST, Filter, Place
from tollbridge.values import Outcome

DAY_MS = 86_400_000


async def spend(books: Books, customer: Customer, charge: int, outcome: Outcome = Outcome.COMPLETED) -> int:
    hold = await books.held(customer, 10_000)
    end = books.end_op(hold, customer, charge)
    await books.ledger.submit(replace(end, record=replace(end.record, outcome=outcome)))
    return hold


async def walk(books: Books, account_id: int, wanted: Filter, count: int) -> tuple[list[int], int]:
    """All holds that are found, and in how many pages."""
    found: list[int] = []
    before: Place | None = NEWEST
    pages = 0
    while before is not None:
        page = await requests.page(books.database, account_id, wanted, before, count)
        assert len(page.lines) <= count
        found += [line.hold for line in page.lines]
        before = page.next
        pages += 1
        assert pages < 100
    return found, pages


def test_every_request_is_on_one_page(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, other = await books.customer(paid=10**9), await books.customer(paid=10**9)
        holds = [await spend(books, ada, 10) for _ in range(7)]
        await spend(books, other, 10)
        # At the same moment: the id decides.
        await books.database.execute("UPDATE usage SET ended_at = 5000")
        for count in (1, 2, 3, 7, 8):
            assert (await walk(books, ada.account_id, Filter(), count))[0] == holds[::-1]
        assert (await walk(books, ada.account_id, Filter(since=5000), 3))[0] == holds[::-1]
        assert (await walk(books, ada.account_id, Filter(since=5001), 3))[0] == []
        # Not by when they began.
        for number, hold in enumerate(holds):
            await books.database.execute("UPDATE usage SET ended_at = $1 WHERE hold_id = $2", 5000 - number, hold)
        assert (await walk(books, ada.account_id, Filter(), 2))[0] == holds

    with_books(ledger_engine, scenario)


def test_what_was_charged_after_a_sweep_is_on_its_line_from_that_moment_on(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, other = await books.customer(paid=10**9), await books.customer(paid=10**9)
        for customer, charge in ((ada, 700), (other, 900)):
            hold = await books.held(customer, 1_000)
            for outcome, amount in ((Outcome.SWEPT, 100), (Outcome.COMPLETED, charge)):
                await books.ledger.submit(books.end_op(hold, customer, amount, outcome))
        await spend(books, ada, 30)
        await books.database.execute("UPDATE usage SET ended_at = 5000")
        await books.database.execute("UPDATE journal SET created_at = 5000 WHERE kind = 'late'")
        found = await requests.page(books.database, ada.account_id, Filter(), NEWEST, 10)
        assert [(line.charge, line.cost) for line in found.lines] == [(30, 15), (700, 350)]

    with_books(ledger_engine, scenario)


def test_what_succeeded_is_found_among_failures(ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "WINDOW", 3)

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        wanted: list[int] = []
        now = await books.database.now()
        for number in range(30):
            well = number in {2, 21}
            hold = await spend(books, ada, 10, Outcome.COMPLETED if well else Outcome.NO_OUTPUT)
            at = now - (30 - number) * DAY_MS
            await books.database.execute("UPDATE usage SET ended_at = $2 WHERE hold_id = $1", hold, at)
            if well:
                wanted.insert(0, hold)
        for _ in range(2):
            found, pages = await walk(books, ada.account_id, Filter(failed=False), 2)
            assert found == wanted
            await rollups.roll_up(books.database)
        assert pages < 10

    with_books(ledger_engine, scenario)


def test_a_filter_finds_all_however_far_apart(ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "WINDOW", 3)

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        second = await books.key(ada.account_id)
        wanted: list[int] = []
        times: list[int] = []
        now = await books.database.now()
        for number in range(30):
            rare = number in {2, 21, 22}
            # Whoever leaves before the end has not failed.
            well = Outcome.CLIENT_LEFT if number % 2 else Outcome.COMPLETED
            hold = await spend(books, second if rare else ada, 10, Outcome.OUR_FAULT if rare else well)
            at = now - (30 - number) * DAY_MS
            await books.database.execute("UPDATE usage SET ended_at = $2 WHERE hold_id = $1", hold, at)
            if rare:
                wanted.insert(0, hold)
                times.insert(0, at)
        for _ in range(2):
            for filter_ in (
                Filter(key_id=second.key_id),
                Filter(failed=True),
                Filter(failed=True, key_id=second.key_id),
            ):
                found, pages = await walk(books, ada.account_id, filter_, 2)
                assert found == wanted
                for since, count in ((times[2], 3), (times[2] + 1, 2), (times[1] + 1, 1), (times[0] + 1, 0)):
                    found, _ = await walk(books, ada.account_id, replace(filter_, since=since), 2)
                    assert found == wanted[:count]
            assert len((await walk(books, ada.account_id, Filter(failed=False), 4))[0]) == 27
            version = frozenset({books.price_version})
            assert len((await walk(books, ada.account_id, Filter(versions=version), 4))[0]) == 30
            assert (await walk(books, ada.account_id, Filter(versions=frozenset()), 4))[0] == []
            await rollups.roll_up(books.database)
        # The sums lead past what does not match.
        assert pages < 10

    with_books(ledger_engine, scenario)
