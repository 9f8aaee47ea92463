"""A18: whatever is edited by hand in the books is named, and what is right is not complained of."""

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from tests.core.posts import refund
from tests.store.books import TERMS, Books, Engine, assert_verified, serving

from tollbridge.core.ledger import Book, Checkpoint, hold_id
from tollbridge.store import prices, processes, usage, verify_payments
from tollbridge.store import seal as seal_module
from tollbridge.store import verify as verify_module
from tollbridge.store.db import Contended, Database, sqlite_path
from tollbridge.store.processes import sweep
from tollbridge.store.seal import seal
from tollbridge.store.tables import metadata
from tollbridge.store.verify import Report, verify
from tollbridge.values import Outcome, Price, Tier

BOOKS = (
    *("hold", "hold_step", "usage", "journal", "entry", "balance", "key_spend", "price_version", "seal"),
    "allowance",
)
# Not of the books: who is frozen and what a plan includes is the operator's word, and from when on a key's spend is
# counted is found once it passes an end.
FREE = {
    ("key_spend", "since"),
    ("allowance", "included"),
    ("balance", "frozen"),
    ("seal", "id"),
}
COLUMNS = [
    (table, column.name)
    for table in BOOKS
    for column in metadata.tables[table].columns
    if (table, column.name) not in FREE
]


async def fill(books: Books) -> None:
    """Something of everything, and all of it sealed."""
    rich = await books.customer(paid=10**6, promo=1000)
    limited = await books.customer(paid=10**6, limit=10**5)
    for number in range(12):
        customer = (rich, limited)[number % 2]
        hold = await books.held(customer, 500)
        if number % 3 == 0:
            await books.ledger.submit(books.extend_op(hold, customer, 1, 100))
        end = books.end_op(hold, customer, 100 * number)
        # Something in every column.
        record = replace(end.record, first_byte_ms=5, finish="stop", attempts=b"[]", streamed=True, searches=1)
        await books.ledger.submit(replace(end, record=record))
    # On included tokens.
    for used in (10, 0):
        op = replace(books.hold_op(rich, 1), period=202612, included=100, tokens=40, least_tokens=1)
        await books.ledger.submit(op)
        await books.ledger.submit(books.end_op(op.id, rich, used))
    swept, spent = await books.held(rich, 50), await books.held(limited, 50)
    await sweep(books.database, books.ledger, books.process.epoch, 1 << 62)
    await books.end(spent, limited, 20)
    await books.ledger.submit(refund(rich.account_id, 10, idempotency_key="refund", reason="because", actor="me"))
    await books.end(swept, rich, 20)
    assert await seal(books.database, settled_ms=-1) == 3


@pytest.fixture
def filled(sqlite_engine: Engine) -> Engine:
    async def main() -> None:
        async with serving(sqlite_engine) as books:
            await fill(books)
            report = await assert_verified(books.database)
            assert report.seals == 3

    asyncio.run(main())
    return sqlite_engine


def verified(engine: Engine) -> Report:
    async def main() -> Report:
        database = engine.database()
        await database.start()
        try:
            return await verify(database)
        finally:
            await database.close()

    return asyncio.run(main())


def edit(engine: Engine, *statements: str) -> None:
    """As a hand with the database's own tools, which no rule of the schema stops."""
    connection = sqlite3.connect(sqlite_path(engine.url), isolation_level=None)
    for pragma in ("foreign_keys=OFF", "ignore_check_constraints=ON"):
        connection.execute(f"PRAGMA {pragma}")
    for statement in statements:
        assert connection.execute(statement).rowcount >= 1, statement
    connection.close()


@pytest.mark.parametrize(("table", "column"), COLUMNS, ids=lambda each: str(each))
def test_an_edit_of_any_column_is_found(filled: Engine, table: str, column: str) -> None:
    """One byte, or 1, more."""
    kind = str(metadata.tables[table].columns[column].type)
    change = {
        "TEXT": f"{column} || 'x'",
        "BLOB": f"CAST(x'00' || {column} AS BLOB)",
    }.get(kind, f"{column} + 1")
    key = metadata.tables[table].primary_key.columns.keys()[-1]
    at = f"(SELECT MAX({key}) FROM {table} WHERE {column} IS NOT NULL)"
    edit(filled, f"UPDATE {table} SET {column} = {change} WHERE {key} = {at}")
    report = verified(filled)
    assert not report.ok
    assert report.problems


@pytest.mark.parametrize("table", [table for table in BOOKS if table != "seal"])
def test_a_row_that_was_taken_away_is_found(filled: Engine, table: str) -> None:
    key = metadata.tables[table].primary_key.columns.keys()[0]
    edit(filled, f"DELETE FROM {table} WHERE {key} = (SELECT MIN({key}) FROM {table})")
    assert not verified(filled).ok


def test_what_is_put_before_the_first_row_is_found(filled: Engine) -> None:
    """As are accounts out of reach of the proof, and with them their money."""
    edit(
        filled,
        "INSERT INTO account (id, public_id, email, plan, created_at) VALUES (-1, 'x', 'x', 'default', 0)",
        "INSERT INTO balance (account_id, paid, promo, held, frozen) VALUES (-1, 5, 0, 0, 0)",
    )
    problems = verified(filled).problems
    for table in ("account", "balance"):
        assert f"1 rows of {table} have an id below 1 or too large, which no row is ever given" in problems


def test_a_seal_that_was_taken_out_of_its_chain_is_found(sqlite_engine: Engine) -> None:
    async def main() -> None:
        async with serving(sqlite_engine) as books:
            customer = await books.customer(paid=1000)
            for _ in range(3):
                await books.end(await books.held(customer, 10), customer, 1)
                await seal(books.database, settled_ms=-1)

    asyncio.run(main())
    edit(sqlite_engine, "DELETE FROM seal WHERE chain = 'usage/1' AND first_id = 1099511627778")
    assert any("a seal is missing" in problem for problem in verified(sqlite_engine).problems)


def test_what_was_edited_is_named(filled: Engine) -> None:
    edit(
        filled,
        "UPDATE usage SET charge = charge + 1 WHERE hold_id = (SELECT MAX(hold_id) FROM usage WHERE charge > 0)",
        "UPDATE entry SET amount = amount + 5 WHERE journal_id = 1 AND line = 0",
    )
    text = "\n".join(verified(filled).problems)
    for part in (
        "charges",
        "the entries of transaction 1 (",
        "account 2: paid is",
        "the seal over 1 to",
        "of usage/1 is broken",
        "of journal is broken",
        "the trial balance is",
    ):
        assert part in text


@pytest.mark.parametrize("meters", ["x", "[]", '{"moons": 1}', '{"searches": "1"}'])
def test_meters_that_cannot_be_read_are_named(filled: Engine, meters: str) -> None:
    edit(filled, f"UPDATE usage SET meters = '{meters}' WHERE hold_id = (SELECT MAX(hold_id) FROM usage)")
    assert any("cannot be read" in problem for problem in verified(filled).problems)


def test_only_the_first_broken_range_is_named(sqlite_engine: Engine) -> None:
    async def main() -> None:
        async with serving(sqlite_engine) as books:
            customer = await books.customer(paid=1000)
            for _ in range(4):
                await books.end(await books.held(customer, 10), customer, 1)
                await seal(books.database, settled_ms=-1)

    asyncio.run(main())
    edit(sqlite_engine, "UPDATE usage SET status = 299 WHERE hold_id = (SELECT MIN(hold_id) FROM usage)")
    assert verified(sqlite_engine).found == 1


def test_an_open_hold_of_a_process_that_was_swept_is_found(sqlite_engine: Engine) -> None:
    async def main() -> None:
        async with serving(sqlite_engine) as books:
            customer = await books.customer(paid=1000)
            await books.held(customer, 10)

    asyncio.run(main())
    edit(sqlite_engine, "UPDATE process SET swept_at = 1")
    assert any("is open, but its process is dead" in problem for problem in verified(sqlite_engine).problems)


async def charged_late(books: Books) -> int:
    """The id of a limited key that was charged 30 when its call was swept, and 50 later, 30 of them promo."""
    customer = await books.customer(paid=1000, promo=60, limit=500)
    hold = await books.held(customer, 100)
    await books.ledger.submit(books.end_op(hold, customer, 30, Outcome.SWEPT))
    assert (await books.end(hold, customer, 80)).charged == 80
    return customer.key_id


def test_the_spend_of_a_key_is_proved_with_its_late_charges(ledger_engine: Engine) -> None:
    async def main() -> None:
        async with serving(ledger_engine) as books:
            key_id = await charged_late(books)
            assert await books.database.fetch("SELECT spent FROM key_spend") == [(80,)]
            await assert_verified(books.database)
            await books.database.execute("UPDATE key_spend SET spent = 30")
            assert (await verify(books.database)).problems == [f"key {key_id}: spent is 30, but the rows say 80"]
            # It began anew after the sweep and at the true end: only that one counts.
            await books.database.execute("UPDATE usage SET ended_at = ended_at - 60000")
            await books.database.execute("UPDATE key_spend SET since = (SELECT ended_at FROM usage)")
            assert (await verify(books.database)).problems == [f"key {key_id}: spent is 30, but the rows say 80"]
            await books.database.execute("UPDATE key_spend SET since = (SELECT MAX(created_at) FROM journal)")
            assert (await verify(books.database)).problems == [f"key {key_id}: spent is 30, but the rows say 50"]
            # And once more.
            await books.database.execute("UPDATE key_spend SET since = (SELECT MAX(created_at) + 1 FROM journal)")
            assert (await verify(books.database)).problems == [f"key {key_id}: spent is 30, but the rows say 0"]

    asyncio.run(main())


def test_late_charges_from_before_they_were_spent_of_limits_are_right_without(ledger_engine: Engine) -> None:
    """A version before, which may still run beside this one, says of nobody that they are of a key."""

    async def main() -> None:
        async with serving(ledger_engine) as books:
            await charged_late(books)
            assert await books.database.execute("UPDATE journal SET actor = '' WHERE kind = 'late'") == 1
            assert not (await verify(books.database)).ok
            await books.database.execute("UPDATE key_spend SET spent = 30")
            await assert_verified(books.database)

    asyncio.run(main())


def test_only_what_is_late_is_spent_of_the_key_that_it_is_said_to_be_of(ledger_engine: Engine) -> None:
    async def main() -> None:
        async with serving(ledger_engine) as books:
            customer = await books.customer(paid=1000, limit=500)
            for number, actor in enumerate((f"key/{customer.key_id}", "key/", "key/x", f"a key/{customer.key_id}")):
                back = refund(customer.account_id, 10, idempotency_key=f"{number}", reason="", actor=actor)
                await books.ledger.submit(back)
            await assert_verified(books.database)
            await books.database.execute("UPDATE journal SET kind = 'late' WHERE idempotency_key IN ('1', '2', '3')")
            await assert_verified(books.database)

    asyncio.run(main())


def test_prices_are_compared_with_their_digest_and_charges_with_their_price(sqlite_engine: Engine) -> None:
    async def main() -> None:
        async with serving(sqlite_engine) as books:
            customer = await books.customer(paid=1000)
            good, wrong, unknown = [await books.held(customer, 100) for _ in range(3)]
            await books.end(good, customer, 10)
            for hold, change in ((wrong, {"output": 11}), (unknown, {"price_version": 77})):
                end = books.end_op(hold, customer, 10)
                await books.ledger.submit(replace(end, record=replace(end.record, **change)))
            report = await verify(books.database)
            assert [problem.split("hold ")[1] for problem in report.problems] == [
                f"{wrong} charges 10 and loses 0, but what was used is worth 11",
                f"{unknown} refers to price version 77, which does not exist",
            ]

    asyncio.run(main())


def test_charges_are_computed_again_from_seldom_used_meters_and_tiers(ledger_engine: Engine) -> None:
    own = Price(input=1000, output=1000, cache_read=1000, cache_write=1000, cache_write_1h=1000, audio_input=5000)
    price = replace(own, searches=7000, tiers=(Tier(above=30, price=replace(own, audio_input=9000)),))

    async def main() -> None:
        async with serving(ledger_engine) as books:
            (version,) = await prices.register(books.database, [replace(TERMS, price=price, cost=price)])
            customer = await books.customer(paid=10_000)
            due = {
                (10, 0): 10 * 5,
                (30, 2): 30 * 5 + 2 * 7,
                (31, 0): 31 * 9,
            }
            for (heard, searches), charge in due.items():
                end = books.end_op(await books.held(customer, 500), customer, charge)
                record = replace(end.record, price_version=version, output=0, audio_input=heard, searches=searches)
                await books.ledger.submit(replace(end, record=record))
            assert (await verify(books.database)).problems == []
            charged = await usage.charges(books.database, customer.account_id, (0, -1), 1 << 62, 10)
            assert [each.prompt for each in charged] == [10, 30, 31]
            rows = await books.database.fetch("SELECT meters FROM usage ORDER BY hold_id")
            assert [meters for (meters,) in rows] == [
                '{"audio_input":10}',
                '{"audio_input":30,"searches":2}',
                '{"audio_input":31}',
            ]
            await books.database.execute("UPDATE usage SET meters = $1 WHERE charge = 50", '{"audio_input":11}')
            (problem,) = (await verify(books.database)).problems
            assert "but what was used is worth 55" in problem
            await books.database.execute("UPDATE usage SET meters = $1 WHERE charge = 50", '{"pictures":11}')
            assert "cannot be read" in (await verify(books.database)).problems[0]

    asyncio.run(main())


def test_what_is_open_is_not_wrong(ledger_engine: Engine) -> None:
    """While calls run, and while others write, the books are in balance at every moment."""

    async def main() -> None:
        async with serving(ledger_engine) as books:
            customer = await books.customer(paid=10**6, promo=5000, limit=10**6)
            stop = asyncio.Event()

            async def work() -> None:
                while not stop.is_set():
                    hold = await books.held(customer, 100)
                    await books.ledger.submit(books.extend_op(hold, customer, 1, 10))
                    note = Checkpoint(
                        hold=hold,
                        account_id=customer.account_id,
                        key_id=customer.key_id,
                        charge=4,
                        record=books.record(4, Outcome.OUR_FAULT),
                    )
                    await books.ledger.submit(note)
                    await books.end(hold, customer, 3)

            working = [asyncio.ensure_future(work()) for _ in range(10)]
            seen_open = 0
            for _ in range(10):
                report = await assert_verified(books.database)
                seen_open += report.open_holds
                assert sum(report.trial_balance.values()) == 0
                # On a disk that is slow the calls may be in its way for longer than it waits; its job comes back.
                while True:
                    with contextlib.suppress(Contended):
                        await seal(books.database, settled_ms=-1)
                        break
            stop.set()
            await asyncio.gather(*working)
            report = await assert_verified(books.database)
            assert seen_open > 0
            assert report.seals > 0
            assert report.holds > 10
            paid, promo, _ = await books.balance(customer)
            assert (report.trial_balance[Book.CUSTOMER_PAID], report.trial_balance[Book.CUSTOMER_PROMO]) == (
                paid,
                promo,
            )

    asyncio.run(main())


def test_an_extension_of_a_hold_on_included_tokens_is_of_tokens(ledger_engine: Engine) -> None:
    async def main() -> None:
        async with serving(ledger_engine) as books:
            customer = await books.customer(paid=1000)
            op = replace(books.hold_op(customer, 1), period=202612, included=100, tokens=40, least_tokens=1)
            await books.ledger.submit(op)
            await books.ledger.submit(books.extend_op(op.id, customer, 1, 25))
            assert await books.database.fetch("SELECT used, held FROM allowance") == [(0, 65)]
            await assert_verified(books.database)
            await books.ledger.submit(books.end_op(op.id, customer, 50))
            assert await books.database.fetch("SELECT used, held FROM allowance") == [(50, 0)]
            await assert_verified(books.database)

    asyncio.run(main())


def test_the_same_is_found_on_both_databases(ledger_engine: Engine) -> None:
    async def main() -> None:
        async with serving(ledger_engine) as books:
            await fill(books)
            await assert_verified(books.database)
            for statement in (
                "UPDATE balance SET paid = paid + 1 WHERE account_id = 1",
                "UPDATE key_spend SET spent = spent + 1 WHERE key_id = 2",
                "UPDATE usage SET raw = NULL WHERE hold_id = (SELECT MIN(hold_id) FROM usage)",
                "DELETE FROM entry WHERE journal_id = 2 AND line = 1",
                "UPDATE price_version SET terms = '{}' WHERE id = 1",
            ):
                assert await books.database.execute(statement) == 1
            found = "\n".join((await verify(books.database)).problems)
            for part in (
                "account 1: paid is",
                "key 2: spent is",
                "of usage/1 is broken",
                "of journal is broken",
                "the entries of transaction 2 (",
                "price version 1 cannot be read",
                "price version 1 was changed: it does not match its digest",
            ):
                assert part in found

    asyncio.run(main())


def test_many_rows_are_read_in_pages(ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """No page loses or repeats a row, however small it is."""
    monkeypatch.setattr(verify_module, "_PAGE", 3)
    monkeypatch.setattr("tollbridge.store.seal._PAGE", 2)

    async def main() -> None:
        async with serving(ledger_engine) as books:
            await fill(books)
            monkeypatch.undo()
            whole = await assert_verified(books.database)
            monkeypatch.setattr(verify_module, "_PAGE", 1)
            monkeypatch.setattr("tollbridge.store.seal._PAGE", 5)
            assert await assert_verified(books.database) == whole

    asyncio.run(main())


def test_problems_are_named_up_to_a_number_and_counted_beyond() -> None:
    report = Report()
    for number in range(verify_module.MOST_NAMED + 5):
        report.add(str(number))
    assert len(report.problems) == verify_module.MOST_NAMED
    assert report.found == verify_module.MOST_NAMED + 5
    assert not report.ok


# The rest of the schema moves no money by itself.
OF_MONEY = {
    *("meta", "process", "account", "balance", "api_key", "key_spend", "price_version", "hold", "hold_step"),
    *("checkpoint", "usage", "journal", "entry", "seal", "allowance"),
}


def columns_of_the_books() -> Iterator[tuple[str, str]]:
    for table in (each for each in metadata.tables.values() if each.name in OF_MONEY):
        for column in table.columns:
            yield table.name, column.name


def test_enough_columns_were_tried() -> None:
    assert len(COLUMNS) >= 50
    tried = {*COLUMNS, *FREE}
    rest = {table for table, _ in set(columns_of_the_books()) - tried}
    assert rest == {"meta", "process", "account", "api_key", "checkpoint"}


def test_the_invoice_of_a_payment_is_not_looked_for_among_all(sqlite_engine: Engine) -> None:
    """With 100,000 payments the proof would take half an hour."""

    async def main() -> None:
        database = sqlite_engine.database()
        await database.start()
        plan = [row[3] for row in await database.fetch(f"EXPLAIN QUERY PLAN {verify_payments._PAYMENTS}", 0, 100)]
        await database.close()
        assert any("invoice_by_payment (payment_id=? AND kind=?" in step for step in plan), plan

    asyncio.run(main())


async def _a_process_that_is_new(database: Database, names: str, values: str) -> None:
    """Of whose holds PostgreSQL knows nothing, and believes that there are hardly any."""
    first, count, page = hold_id(7, 1), 1_000, 200
    series = f"FROM generate_series({first}, {first + count - 1}) AS n(i)"
    for table in ("hold", "usage"):
        await database.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    await database.execute(
        "INSERT INTO hold (id, account_id, key_id, amount, limited, expires_at) SELECT i, 1, 1, 1, false, 0 " + series
    )
    await database.execute(f"INSERT INTO usage ({names}) SELECT {values} {series}")
    for sql, bounds in (
        (seal_module._HOLDS, (first - 1, 1 << 62, page)),
        (seal_module._ENDS, (first, first + page)),
        (verify_module._ORPHANS["usage row of hold {} has no hold"], (first - 1, page)),
        (processes._OPEN, (first - 1, first + processes._WINDOW, page)),
    ):
        for number, bound in enumerate(bounds, 1):
            sql = sql.replace(f"${number}", str(bound))
        [(plan,)] = await database.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
        read = re.findall(r'"Actual Rows": ([0-9.]+),\s+"Actual Loops": ([0-9]+)', plan)
        assert sum(float(rows) * int(loops) for rows, loops in read) <= 6 * count, plan


def test_a_page_of_the_proof_or_of_a_sweep_costs_the_same_wherever_it_begins(postgres_engine: Engine) -> None:
    """PostgreSQL joins two orders by merging them: it must not begin one of them at the first row of all."""
    count, page = 20_000, 200

    async def use(database: Database) -> None:
        await database.execute(
            "INSERT INTO hold (id, account_id, key_id, amount, limited, expires_at) "
            f"SELECT i, 1, 1, 1, false, 0 FROM generate_series(1, {count}) AS n(i)"
        )
        columns = [column for column in metadata.tables["usage"].columns if not column.nullable]
        names = ", ".join(f'"{column.name}"' for column in columns)
        values = ", ".join("i" if column.name == "hold_id" else "0" for column in columns)
        await database.execute(f"INSERT INTO usage ({names}) SELECT {values} FROM generate_series(1, {count}) AS n(i)")
        await database.execute("ANALYZE hold, usage")
        orphans = verify_module._ORPHANS["usage row of hold {} has no hold"]
        for sql, bounds in (
            (seal_module._HOLDS, (count - 2 * page, 1 << 62, page)),
            (orphans, (count - 2 * page, page)),
            (processes._OPEN, (count - 2 * page, count, page)),
        ):
            for number, bound in enumerate(bounds, 1):
                sql = sql.replace(f"${number}", str(bound))
            [(plan,)] = await database.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {sql}")
            read = [float(rows) for rows in re.findall(r'"Actual Rows": ([0-9.]+)', plan)]
            assert max(read) <= 2 * page, plan
        await _a_process_that_is_new(database, names, values)

    async def main() -> None:
        database = postgres_engine.database()
        await database.start()
        try:
            await use(database)
        finally:
            await database.close()

    asyncio.run(main())
