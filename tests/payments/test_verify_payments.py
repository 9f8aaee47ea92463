"""What does not agree between payments and books is found, and named."""

import asyncio
import contextlib

from tests.payments.conftest import USD, Till, opened_till
from tests.services.conftest import World

from tollbridge.services import vouchers
from tollbridge.services.refunds import refund
from tollbridge.store.seal import seal
from tollbridge.store.verify import verify
from tollbridge.store.verify_payments import check

VOUCHER = "voucher 1: the journal has another account, time, kind or amount for its credit"
TAMPERINGS = {
    "UPDATE payment SET amount = amount + 1 WHERE id = 1": "is of 10000000001 and 0 tax",
    "UPDATE payment SET tax = 5 WHERE id = 1": "and 5 tax",
    "UPDATE payment SET fee = 0 WHERE id = 1": "cost a fee of 0",
    "UPDATE payment SET account_id = 2 WHERE id = 1": "but the journal has",
    "UPDATE payment SET status = 'failed' WHERE id = 1": "is not paid, but in the journal",
    "UPDATE payment SET status = 'paid' WHERE id = 2": "is paid, but not in the journal",
    "UPDATE payment SET intent = 'pi_other' WHERE id = 1": "is paid, but not in the journal",
    "UPDATE payment SET method = 'demo' WHERE id = 1": "top-up payments by demo: 1 paid, but 0 in the journal",
    "UPDATE reversal SET credit = credit - 1": "took 3999999999, but the journal has 4000000000",
    "UPDATE reversal SET state = 'returned'": "is returned, but the journal gave 0 back",
    "UPDATE reversal SET state = 'gone'": "is in the unknown state 'gone'",
    "UPDATE reversal SET amount = amount + 1": "is of 4000000001 in all, but the journal has 4000000000",
    "UPDATE reversal SET public_id = 'refund_x'": "is not in the journal",
    "UPDATE reversal SET kind = 'dispute'": "money that went back by refund: 0 rows, but 1 in the journal",
    "UPDATE voucher SET redeemed_at = NULL, account_id = NULL": VOUCHER,
    "UPDATE voucher SET amount = 1": VOUCHER,
    "UPDATE voucher SET kind = 'paid'": VOUCHER,
    "UPDATE voucher SET account_id = 2": VOUCHER,
    "DELETE FROM voucher": "vouchers that were redeemed: 0, but 1 in the journal",
    "UPDATE invoice SET number = 7 WHERE number = 2": "numbered 1 to 7",
    "DELETE FROM invoice WHERE number = 1": "has 0 invoices of its amount",
    "UPDATE meta SET value = 9 WHERE name = 'last_invoice'": "the last number is 9",
    "UPDATE invoice SET amount = 1 WHERE number = 1": "has 0 invoices of its amount",
    "UPDATE invoice SET amount = amount + 1 WHERE number = 2": "invoice 2, a credit_note of -3999999999 and 0 tax",
    "UPDATE invoice SET tax = -1 WHERE number = 2": "invoice 2, a credit_note of -4000000000 and -1 tax",
    "UPDATE invoice SET kind = 'note' WHERE number = 2": "invoice 2, a note of -4000000000",
    "UPDATE invoice SET reversal_id = NULL WHERE number = 2": "a credit_note of -4000000000 and 0 tax, does not",
    "UPDATE invoice SET account_id = 2 WHERE number = 1": "has 0 invoices of its amount",
    "UPDATE invoice SET currency = 'eur' WHERE number = 1": "has 0 invoices of its amount",
    "UPDATE invoice SET issued_at = issued_at - 1 WHERE number = 1": "has 0 invoices of its amount",
    "UPDATE invoice SET issued_at = issued_at - 1 WHERE number = 2": "invoice 2, a credit_note of -4000000000",
    "UPDATE payment SET paid_at = paid_at - 1 WHERE id = 1": "was paid at another time than the journal says",
    "UPDATE payment SET subscription_id = 7 WHERE id = 1": "pays for a month of a plan without a subscription",
    "DELETE FROM invoice WHERE number = 2": "is taken, but has 0 credit notes and 0 corrections",
    "INSERT INTO journal VALUES (50, 'fee/stripe/pi_x', 'fee', 1, '', '', 1)": "refunds and disputes: 1, but 2 in",
    "INSERT INTO journal VALUES (50, 'top-up/demo/pay_x', 'top_up', 1, '', '', 1)": "by demo: 0 paid, but 1 in",
    "UPDATE reversal SET fee = 5": "cost a fee of 5, but the journal has 0",
    "UPDATE voucher SET redeemed_at = redeemed_at - 1": VOUCHER,
    "UPDATE invoice SET account_id = 2 WHERE number = 2": "invoice 2, a credit_note of -4000000000 and 0 tax, does not",
}


async def live(till: Till) -> None:
    payment = await till.paid()
    await till.order()
    await refund(till.ways, payment.public_id, 4 * USD, actor="test")
    (made,) = await vouchers.create(till.database, USD, actor="test")
    await vouchers.redeem(till.database, till.account, made.code)


def test_books_of_an_honest_life_are_right(world: World) -> None:
    async def main() -> None:
        async with opened_till(world) as till:
            await live(till)
            report = await verify(till.database)
            assert report.ok, report.problems

    asyncio.run(main())


class Enough(Exception):
    """Rolls back."""


async def problems_after(till: Till, statement: str) -> list[str]:
    problems: list[str] = []
    with contextlib.suppress(Enough):
        async with till.database.transaction() as transaction:
            assert await transaction.execute(statement) == 1, statement
            await check(transaction, problems.append)
            raise Enough
    return problems


def test_each_tampering_is_named(world: World) -> None:
    async def main() -> None:
        async with opened_till(world) as till:
            await live(till)
            await till.database.execute(
                "INSERT INTO account (id, public_id, email, plan, created_at) VALUES (2, 'x', 'x', 'x', 1)"
            )
            await till.database.execute("INSERT INTO balance VALUES (2, 0, 0, 0, $1)", False)
            for statement, complaint in TAMPERINGS.items():
                problems = await problems_after(till, statement)
                assert any(complaint in problem for problem in problems), (statement, problems)

    asyncio.run(main())


def test_what_a_paper_says_is_sealed(world: World) -> None:
    async def main() -> None:
        async with opened_till(world) as till:
            await live(till)
            assert await seal(till.database, settled_ms=-1)
            report = await verify(till.database)
            assert report.ok, report.problems
            for column in ("seller", "buyer"):
                for number in (1, 2):
                    changed = f"UPDATE invoice SET {column} = {column} || ' ' WHERE number = {number}"
                    await till.database.execute(changed)
                    assert any("of invoice is broken" in each for each in (await verify(till.database)).problems)
                    back = f"UPDATE invoice SET {column} = RTRIM({column}) WHERE number = {number}"
                    await till.database.execute(back)
            await till.paid()
            assert await seal(till.database, settled_ms=-1)
            assert (await verify(till.database)).ok

    asyncio.run(main())
