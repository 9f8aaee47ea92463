"""A month on paper: every figure is the ledger's, to the last digit, whatever the month held."""

import asyncio
import csv
import io
import json
import random
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest
from tests.payments.conftest import USD, Till, opened_till
from tests.services.conftest import TERMS, World, spend
from tests.services.test_accounts import a_key

from tollbridge.core.ledger import Book, End, Held, Hold, Record
from tollbridge.core.periods import day_text
from tollbridge.errors import InvalidRequest
from tollbridge.services import accounts, margins, statements, vouchers
from tollbridge.services.balance_changes import Line
from tollbridge.services.balance_changes import balance_changes as every_change
from tollbridge.services.credit import grant
from tollbridge.services.refunds import refund
from tollbridge.services.statements import JournalLine, Lines, ModelUse, Period
from tollbridge.store import journal as journal_rows
from tollbridge.store import prices, reports, retention, rollups, seal, usage, usage_days
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database
from tollbridge.store.ledger import Ledger
from tollbridge.store.rollups import Sums
from tollbridge.store.verify import verify
from tollbridge.values import Outcome

ALL = Period("all", 0, 1 << 62)
DAY = 86_400_000


async def busy(till: Till, ledger: Ledger, chance: random.Random) -> None:
    """Some of everything that can happen to an account."""
    key = await a_key(till.database, till.account)
    payment = await till.paid(50 * USD)
    await grant(till.database, till.account, 3 * USD + 7, reason="=welcome", actor="test", idempotency_key="g")
    (code,) = await vouchers.create(till.database, USD, kind="paid", actor="test")
    await vouchers.redeem(till.database, till.account, code.code)
    for _ in range(20):
        await spend(ledger, till.account.id, key, chance.randrange(1, USD // 3))
    await late(ledger, till.account.id, key)
    await refund(till.ways, payment.public_id, 5 * USD, actor="test")
    dispute = till.stripe.dispute((await till.ways.orders(till.account))[0].intent or "", 500)
    await till.send(*till.stripe.events)
    till.stripe.close_dispute(dispute["id"], won=True)
    await till.send(*till.stripe.events)


async def late(ledger: Ledger, account: int, key: int) -> None:
    """A request that was swept, and whose true end came after that."""
    op = Hold(id=ledger.next_id(), account_id=account, key_id=key, want=1000, least=1000)
    assert isinstance(await ledger.submit(op), Held)
    for charge, outcome in ((400, Outcome.SWEPT), (1000, Outcome.COMPLETED)):
        record = Record(started_at=0, duration_ms=1, price_version=1, input=charge, outcome=outcome, cost=charge // 2)
        await ledger.submit(End(hold=op.id, account_id=account, key_id=key, charge=charge, record=record))


def in_a_busy_world(world: World, look: Callable[[Till], Awaitable[None]]) -> None:
    async def main() -> None:
        async with opened_till(world) as till, world.serving(till.database) as ledger:
            await busy(till, ledger, random.Random(4))
            await look(till)

    asyncio.run(main())


def test_opening_and_movements_make_the_closing_and_the_lines_agree(world: World) -> None:
    async def look(till: Till) -> None:
        account = await till.state()
        first = await till.database.fetch("SELECT MIN(created_at) FROM journal")
        month = statements.parse_month(statements.month_of(first[0][0]))
        if month.until <= await till.database.now():  # it ended while all that happened
            following = statements.parse_month(statements.month_of(month.until))
            month = Period("two months", month.since, following.until)
        made = await statements.account_statement(till.database, account, month)
        assert made.opening == 0
        assert made.closing == account.paid + account.promo
        assert [*made.lines][-1].balance == made.closing
        assert sum(line.amount for line in made.lines) == made.closing
        sums = {each.kind: each.amount for each in made.movements}
        assert sums["top_up"] == 51 * USD
        assert sums["grant"] == 3 * USD + 7
        assert sums["refund"] == -5 * USD
        assert "dispute" not in sums  # won: nothing moved
        charged = await till.database.fetch("SELECT CAST(SUM(charge) AS BIGINT) FROM usage")
        assert sums["usage"] == -charged[0][0] - 600
        (use,) = made.models
        assert (use.model, use.requests, use.charge) == ("deepseek-chat", 21, charged[0][0] + 600)
        assert not any("fee" in line.what for line in made.lines)
        short = await statements.account_statement(till.database, account, month, 3)
        assert [*short.lines] == [*made.lines][:3]
        assert short.shortened
        assert msgspec.structs.replace(short, lines=made.lines, shortened=False) == made
        exactly = await statements.account_statement(till.database, account, month, len(made.lines))
        assert (len(exactly.lines), exactly.shortened) == (len(made.lines), False)
        following = statements.parse_month("2099-01")
        after = await statements.account_statement(till.database, account, following)
        assert (after.opening, after.closing, [*after.lines]) == (made.closing, made.closing, [])

    in_a_busy_world(world, look)


def test_each_month_begins_with_what_the_one_before_left(world: World) -> None:
    """What happens in the last and the first moment of a month is in one of the two, and in the same one everywhere."""
    march, april = statements.parse_month("2024-03"), statements.parse_month("2024-04")
    edges = (march.since, march.until, april.until)
    months = [Period(f"{year}", since, until) for year, since, until in zip("bma", (0, *edges), edges, strict=False)]
    times = [edge + off for edge in edges for off in (-1, 0)]

    async def look(till: Till, ledger: Ledger) -> None:
        database, ada = till.database, till.account
        assert await prices.register(database, [msgspec.structs.replace(TERMS, model="another")]) == [2]
        bob = await accounts.create(database, "bob@example.com", plans=("default",), credit=USD, actor="test")
        await grant(database, ada, USD, reason="x", actor="test", idempotency_key="now")
        for account, unit in ((bob, 1_000), (ada, 1)):
            key = await a_key(database, account)
            for number, at in enumerate(times):
                await happened(ledger, database, (account, key), (at, unit << number))
        for month in months:
            bits = sum(1 << number for number, at in enumerate(times) if month.since <= at < month.until)
            before = sum(1 << number for number, at in enumerate(times) if at < month.since)
            made = await statements.account_statement(database, ada, month)
            # A gift of 100, a request of 20, and 6 more for a request of 4 after its sweep.
            assert (made.opening, made.closing) == (70 * before, 70 * (before + bits))
            assert {each.kind: each.amount for each in made.movements} == {"grant": 100 * bits, "usage": -30 * bits}
            assert [*made.lines][-1].balance == made.closing
            assert sum(line.amount for line in made.lines) == made.closing - made.opening
            assert [(each.model, each.charge) for each in made.models] == [
                ("deepseek-chat", 20 * bits),
                ("another", 10 * bits),
            ]
            trial = await statements.trial_balance(database, month)
            opening, moved = ({each.book: getattr(each, name) for each in trial} for name in ("opening", "moved"))
            for sums, of_all in ((opening, before * 1_001), (moved, bits * 1_001)):
                assert sum(sums.values()) == 0
                assert (sums[Book.CUSTOMER_PROMO], sums[Book.PROVIDER_PAYABLE]) == (70 * of_all, 15 * of_all)
            entries = await journal(database, month)
            assert by_book(entries) == moved
            assert all(month.since <= line.at < month.until for line in entries)
            gifts_left = [line for line in entries if line.book == Book.CUSTOMER_PROMO and line.email == ada.email]
            assert sum(line.amount for line in gifts_left) == 70 * bits
            names = {
                "day": sorted({day_text(at) for at in times if month.since <= at < month.until}),
                "model": ["deepseek-chat", "another"],
                "provider": ["p"],
                "account": ["bob@example.com", ada.email],
            }
            for by in margins.BY:
                rows = await margins.margins(database, month, by)
                assert [row.name for row in rows] == names[by]
                total = margins.total(rows)
                assert (total.charged, total.promo, total.cost) == tuple(each * bits * 1_001 for each in (30, 30, 15))
            every = [line async for line in every_change(database, ada.id, month.since)]
            assert [line for line in every if line.amount and line.at < month.until] == [*made.lines]
            assert not month.since or every[0].balance == made.opening

    async def main() -> None:
        async with opened_till(world) as till, world.serving(till.database) as ledger:
            await look(till, ledger)

    asyncio.run(main())


async def happened(ledger: Ledger, database: Database, whose: tuple[Account, int], what: tuple[int, int]) -> None:
    """At one time: a gift, a request, and the sweep of another and its true end."""
    (account, key), (at, unit) = whose, what
    key_of_gift = f"{at}/{account.id}"
    await grant(database, account, 100 * unit, reason="x", actor="test", idempotency_key=key_of_gift)
    await database.execute("UPDATE journal SET created_at = $1 WHERE id = (SELECT MAX(id) FROM journal)", at)
    for price, ends in ((1, [(20, Outcome.COMPLETED)]), (2, [(4, Outcome.SWEPT), (10, Outcome.COMPLETED)])):
        op = Hold(id=ledger.next_id(), account_id=account.id, key_id=key, want=20 * unit, least=20 * unit)
        assert isinstance(await ledger.submit(op), Held)
        for charge, outcome in ends:
            used, cost = charge * unit, charge * unit // 2
            record = Record(started_at=0, duration_ms=1, price_version=price, input=used, outcome=outcome, cost=cost)
            await ledger.submit(End(hold=op.id, account_id=account.id, key_id=key, charge=used, record=record))
        await database.execute("UPDATE usage SET ended_at = $1 WHERE hold_id = $2", at, op.id)
    await database.execute("UPDATE journal SET created_at = $1 WHERE id = (SELECT MAX(id) FROM journal)", at)


def test_models_stand_on_a_statement_by_what_they_cost_each_once() -> None:
    used = {(0, 1): Sums(1, charge=2, output=7), (0, 2): Sums(2, charge=6), (DAY, 1): Sums(1, charge=3, audio_input=5)}
    terms = {1: '{"model": "a"}', 2: '{"model": "b"}'}
    assert statements._models(used, terms) == (ModelUse("b", 2, 0, 0, 6), ModelUse("a", 2, 5, 7, 5))


def test_what_is_charged_while_a_statement_is_read_is_in_none_of_its_figures(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with opened_till(world) as till, world.serving(till.database) as ledger:
            await busy(till, ledger, random.Random(4))
            key = await a_key(till.database, till.account)
            charges = usage.charges

            async def meanwhile(*args: Any) -> list[usage.Charge]:
                monkeypatch.setattr(usage, "charges", charges)
                await spend(ledger, till.account.id, key, 1000)
                return await charges(*args)

            monkeypatch.setattr(usage, "charges", meanwhile)
            period = Period("all", 0, await till.database.now() + DAY)
            made = await statements.account_statement(till.database, till.account, period)
            left = (await till.state()).paid + (await till.state()).promo
            assert [*made.lines][-1].balance == made.closing == left + 1000

    asyncio.run(main())


def test_many_lines_are_kept_in_little_memory_and_in_their_order() -> None:
    lines = Lines()
    for number in range(20_001):
        what = f"maker/model-{number % 7}: {number % 900} tokens in, {number % 300} out"
        lines.add(Line(at=1_790_000_000_000 + number * 977, what=what, amount=-number, balance=10**12 - number))
    assert len(lines) == 20_001
    assert [line.amount for line in lines] == [line.amount for line in lines] == [-number for number in range(20_001)]
    assert [len(some) for some in lines.parts()] == [*[500] * 40, 1]
    # A line by itself is some 250 bytes.
    assert sum(map(len, lines.packed)) < 30 * len(lines)
    assert [*Lines()] == [*Lines().parts()] == []


def test_csv_and_json_say_the_same(sqlite_world: World) -> None:
    async def look(till: Till) -> None:
        period = Period("all", 0, await till.database.now() + DAY)
        made = await statements.account_statement(till.database, till.account, period)
        rows = list(csv.DictReader(io.StringIO("".join(statements.statement_csv(made)))))
        data = json.loads(b"".join(statements.statement_json(made)))
        assert rows[0]["what"] == "opening balance"
        assert rows[-1]["balance_usd"] == data["closing_usd"]
        assert [row["amount_usd"] for row in rows[1:-1]] == [line["amount_usd"] for line in data["lines"]]

    in_a_busy_world(sqlite_world, look)


def test_what_people_wrote_is_no_formula(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        account = await accounts.create(database, "=1+1@example.com", plans=("default",), actor="test")
        for number, text in enumerate(("=1+1", "+1", "-1", "@x")):
            await grant(database, account, USD, reason=text, actor=text, idempotency_key=str(number))
        until = await database.now() + DAY
        lines = [line async for line in statements.journal_lines(database, Period("x", 0, until))]
        cells = [cell for line in lines for cell in statements.journal_row(line)[-2:]]
        assert set(cells) == {"'=1+1", "'+1", "'-1", "'@x"}
        named = [statements.journal_row(line)[3] for line in lines if line.email]
        assert set(named) == {"'=1+1@example.com"}

    sqlite_world.run(use)


@pytest.mark.parametrize("part", [1, 3])
def test_what_is_summed_up_in_parts_is_the_same(world: World, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account with a million transactions, and a journal with millions, are not read by one statement."""

    async def look(till: Till) -> None:
        period = Period("all", 0, await till.database.now() + DAY)
        [(middle,)] = await till.database.fetch("SELECT created_at FROM journal ORDER BY id LIMIT 1 OFFSET 4")
        later = Period("later", middle, period.until)
        whole = [await sums(till, each) for each in (period, later)]
        monkeypatch.setattr(journal_rows, "_PART", part)
        monkeypatch.setattr(reports, "_PART", part)
        for name in ("_AT_ONCE", "_PAGE"):
            monkeypatch.setattr(statements, name, part)
        assert [await sums(till, each) for each in (period, later)] == whole

    async def sums(till: Till, period: Period) -> object:
        made = await statements.account_statement(till.database, till.account, period)
        texts = "".join(statements.statement_csv(made)), json.loads(b"".join(statements.statement_json(made)))
        # The same lines, however many of them are packed at once.
        made, lines = msgspec.structs.replace(made, lines=Lines()), [*made.lines]
        trial = await statements.trial_balance(till.database, period)
        return made, lines, texts, trial, await journal(till.database, period)

    in_a_busy_world(world, look)


CORRECTIONS = (
    "INSERT INTO journal SELECT i, CAST(i AS TEXT), 'grant', {account}, '', '', i FROM {numbers}",
    "INSERT INTO entry (journal_id, line, book, amount) SELECT i, 0, 'revenue', -1 FROM {numbers}",
    "INSERT INTO entry (journal_id, line, book, amount) SELECT i, 1, 'loss', 1 FROM {numbers}",
)


async def corrected(database: Database, count: int) -> Account:
    """An account with `count` transactions, a millisecond apart."""
    counted = f"(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT {count}) SELECT i FROM n)"
    numbers = f"generate_series(1, {count}) AS n(i)" if database.dialect == "postgresql" else counted
    account = await accounts.create(database, "a@example.com", plans=("default",), actor="test")
    for statement in CORRECTIONS:
        await database.execute(statement.format(numbers=numbers, account=account.id))
    return account


async def buffers_read(database: Database, sql: str, *args: int) -> tuple[int, list[str]]:
    """How many pages of 8 KiB PostgreSQL looks at for a query, and its plan."""
    await database.execute("ANALYZE journal, entry")
    plan = [row[0] for row in await database.fetch(f"EXPLAIN (ANALYZE, BUFFERS) {sql}", *args)]
    return sum(map(int, re.findall(r"(?:hit|read)=(\d+)", next(line for line in plan if "Buffers" in line)))), plan


def test_each_page_of_the_journal_is_read_from_where_the_last_one_ended(world: World) -> None:
    """Otherwise a journal of a million lines takes minutes, and each page longer than the one before."""
    count, args = 10_000, (0, 1 << 60, 9_000, 0, 100)

    async def use(database: Database) -> None:
        postgres = database.dialect == "postgresql"
        await corrected(database, count)
        assert [row[:2] for row in await reports.entries(database, 0, 1 << 60, (9_000, 0), 3)] == [
            (9_000, 1),
            (9_001, 0),
            (9_001, 1),
        ]
        if not postgres:
            plan = await database.fetch(f"EXPLAIN QUERY PLAN {reports._ENTRIES}", *args)
            assert any("(rowid>" in row[3] or "(journal_id>" in row[3] for row in plan), plan
            return
        read, lines = await buffers_read(database, reports._ENTRIES, *args)
        assert read < 50, lines

    world.run(use)


def test_each_page_of_an_account_is_read_from_where_the_last_one_ended(world: World) -> None:
    """Otherwise the statement of an account with many transactions groups all of them again for each page."""
    count, half = 10_000, 5_000

    async def use(database: Database) -> None:
        postgres = database.dialect == "postgresql"
        account = await corrected(database, count)
        # Every other one leaves the balance as it is.
        await database.execute("UPDATE entry SET book = 'customer_paid' WHERE line = 1 AND journal_id % 2 = 0")
        await database.execute("UPDATE entry SET book = 'customer_paid' WHERE line = 0 AND journal_id % 4 = 0")
        await database.execute("UPDATE balance SET paid = $1", count // 4)
        found = await journal_rows.lines(database, account.id, (half, 0), 1 << 60, 3)
        assert [(line.id, line.at, line.amount) for line in found] == [(half + n, half + n, 1) for n in (2, 6, 10)]
        args = (account.id, half, 0, 1 << 60, 100)
        if not postgres:
            plan = [row[3] for row in await database.fetch(f"EXPLAIN QUERY PLAN {journal_rows._LINES}", *args)]
            assert any("journal_by_account (account_id=? AND created_at>" in step for step in plan), plan
            assert not any("TEMP B-TREE" in step for step in plan), plan
            return
        read, lines = await buffers_read(database, journal_rows._LINES, *args)
        assert read < 5_000, lines

    world.run(use)


@pytest.mark.parametrize(
    "text",
    ["", "2026", "2026-13", "2026-00", "26-11", "2026-1", "2026-11-01", " 2026-11", "２０26-11"],
    ids=repr,
)
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="a month is like 2026-11"):
        statements.parse_month(text)


def test_a_month_ends_where_the_next_begins() -> None:
    for year in (2026, 2027, 2028):
        for month in range(1, 13):
            name = f"{year}-{month:02d}"
            following = f"{year + month // 12}-{month % 12 + 1:02d}"
            assert statements.parse_month(name).until == statements.parse_month(following).since
            assert statements.month_of(statements.parse_month(name).since) == name
            assert statements.month_of(statements.parse_month(name).until - 1) == name


def test_the_trial_balance_is_zero_and_is_what_verify_finds(world: World) -> None:
    async def look(till: Till) -> None:
        until = await till.database.now() + DAY
        lines = await statements.trial_balance(till.database, Period("x", 0, until))
        report = await verify(till.database)
        assert {line.book: line.closing for line in lines} == report.trial_balance
        assert sum(line.moved for line in lines) == 0
        later = await statements.trial_balance(till.database, Period("y", until, until + DAY))
        assert {line.book: line.opening for line in later} == report.trial_balance
        assert all(line.moved == 0 for line in later)
        lines_of_it = await journal(till.database, Period("x", 0, until))
        assert by_book(lines_of_it) == report.trial_balance
        by_transaction: dict[str, int] = {}
        for line in lines_of_it:
            by_transaction[line.id] = by_transaction.get(line.id, 0) + line.amount
        assert set(by_transaction.values()) == {0}

    in_a_busy_world(world, look)


def test_the_journal_is_whole_when_requests_are_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day of an account is one transaction then; what ended on a later day is there by itself."""
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)

    async def look(till: Till) -> None:
        database = till.database
        await database.execute("UPDATE usage SET ended_at = ended_at - $1", 3 * DAY)
        assert await seal.seal(database, settled_ms=-1)
        for summed in (rollups.roll_up, usage_days.roll_up):
            await asyncio.sleep(0.01)
            await summed(database)
        assert await retention.drop_old(database, 0) == 21
        until = await database.now() + DAY
        lines = await journal(database, Period("x", 0, until))
        day = day_text(until - 4 * DAY)
        gone = {f"usage/{day}/{till.account.id}": f"21 requests on {day}"}
        assert {line.id: line.reason for line in lines if line.kind == "usage"} == gone
        assert {line.email for line in lines} == {till.account.email}
        trial = await statements.trial_balance(database, Period("x", 0, until))
        assert {each.book: each.moved for each in trial} == by_book(lines)

    in_a_busy_world(world, look)


async def journal(database: Database, period: Period) -> list[JournalLine]:
    return [line async for line in statements.journal_lines(database, period)]


def by_book(lines: list[JournalLine]) -> dict[Book, int]:
    sums = dict.fromkeys(Book, 0)
    for line in lines:
        sums[Book(line.book)] += line.amount
    return sums


def test_margins_are_the_ledgers_however_they_are_grouped(world: World) -> None:
    async def look(till: Till) -> None:
        until = await till.database.now() + DAY
        report = await verify(till.database)
        for by in margins.BY:
            rows = await margins.margins(till.database, Period("x", 0, until), by)
            assert sum(row.revenue + row.lost for row in rows) == report.trial_balance[Book.REVENUE]
            assert sum(row.cost for row in rows) == report.trial_balance[Book.PROVIDER_PAYABLE]
            assert sum(row.requests for row in rows) == 21
        (model,) = await margins.margins(till.database, Period("x", 0, until), "model")
        (provider,) = await margins.margins(till.database, Period("x", 0, until), "provider")
        (account,) = await margins.margins(till.database, Period("x", 0, until), "account")
        assert (model.name, provider.name, account.name) == ("deepseek-chat", "p", "ada@example.com")
        with pytest.raises(InvalidRequest, match="by day, model, provider, account"):
            await margins.margins(till.database, ALL, "moon")

    in_a_busy_world(world, look)


def test_a_request_that_nobody_ended_is_named_as_what_it_is(sqlite_world: World) -> None:
    """Its process died before a checkpoint: no price was noted with it."""

    async def main() -> None:
        async with opened_till(sqlite_world) as till, sqlite_world.serving(till.database) as ledger:
            key = await a_key(till.database, till.account)
            await till.paid(50 * USD)
            op = Hold(id=ledger.next_id(), account_id=till.account.id, key_id=key, want=1000, least=1000)
            assert isinstance(await ledger.submit(op), Held)
            record = Record(started_at=0, duration_ms=0, price_version=0, outcome=Outcome.SWEPT, status=500)
            await ledger.submit(End(hold=op.id, account_id=till.account.id, key_id=key, charge=0, record=record))
            for by in ("model", "provider"):
                (row,) = await margins.margins(till.database, ALL, by)
                assert row.name == f"(broken off, {by} not known)"
            statement = await statements.account_statement(till.database, till.account, ALL)
            assert [each.model for each in statement.models] == ["(broken off, model not known)"]

    asyncio.run(main())


def test_an_invoice_of_a_provider_is_compared_model_by_model(sqlite_world: World) -> None:
    async def look(till: Till) -> None:
        period = Period("x", 0, await till.database.now() + DAY)
        (row,) = await margins.drift(till.database, period, "p", "model,amount_usd\nm,$1.50\n")
        recorded = (await verify(till.database)).trial_balance[Book.PROVIDER_PAYABLE]
        assert (row.model, row.invoiced, row.recorded) == ("m", 3 * USD // 2, recorded)
        assert row.difference == 3 * USD // 2 - recorded
        text = '\ufeffDate,Model,Cost\n2026-11-01,other,"1,000.25"\n2026-11-02,other,-0.25\n\n'
        rows = await margins.drift(till.database, period, "p", text)
        assert [(each.model, each.invoiced, each.ppm) for each in rows] == [
            ("other", 1000 * USD, None),
            ("m", 0, -1_000_000),
        ]
        for wrong, why in {
            "": "first line names the columns",
            "a,b\n1,2\n": "first line names the columns",
            "a,cost\n1,2\n": "first line names the columns",
            "model,b\n1,2\n": "first line names the columns",
            "model,cost\nm\n": "line 2 has too few columns",
            "model,cost\nm,1e9\n": "line 2",
            # Commas for decimals are no thousands.
            'model,cost\nm,"12,50"\n': "line 2",
            "model,cost\nm,12,50\n": "line 2 has more columns than the first",
            f"model,cost\nm,{'1' * 200_000}\n": "line 2",
            "model,cost\nm,1.5\nm,NaN\n": "line 3",
        }.items():
            with pytest.raises(InvalidRequest, match=why):
                await margins.drift(till.database, period, "p", wrong)
        with pytest.raises(InvalidRequest, match="no request was ever priced"):
            await margins.drift(till.database, period, "nobody", "model,cost\n")

    in_a_busy_world(sqlite_world, look)
