"""The proof of money in: orders, refunds, vouchers and invoices against the journal, a page at a time.

What the journal itself proves (that entries sum to zero, that balances follow from them) is left to `verify`.
"""

import itertools
from collections.abc import Callable

from tollbridge.core.payments import Return, State, Status
from tollbridge.core.words import plural
from tollbridge.store.db import Row, Transaction
from tollbridge.store.invoices import LAST_NUMBER
from tollbridge.store.meta import value
from tollbridge.store.rows import pages

_PAGE = 2_000
Complain = Callable[[str], None]

# Papers of money that went back or came again: credit notes and corrections. Money never seen to go back has none.
_PAPERS = {
    False: {(Return.REFUND, 1, 0), (Return.DISPUTE, 0, 0)},
    True: {(Return.REFUND, 1, 1), (Return.REFUND, 0, 0), (Return.DISPUTE, 0, 0)},
}

# That an invoice is of no reversal is said so that SQLite does not look for it by that: it would read all invoices.
_PAYMENTS = """
SELECT payment.id, payment.public_id, payment.status, payment.amount, payment.tax, payment.fee, payment.account_id,
  journal.account_id,
  (SELECT CAST(SUM(entry.amount) AS BIGINT) FROM entry WHERE journal_id = journal.id AND book
   = CASE WHEN origin = 'subscription' THEN 'subscription_revenue' ELSE 'customer_paid' END),
  (SELECT CAST(COALESCE(SUM(entry.amount), 0) AS BIGINT) FROM entry WHERE journal_id = journal.id AND book = 'tax'),
  (SELECT CAST(COALESCE(SUM(entry.amount), 0) AS BIGINT) FROM entry JOIN journal AS booked ON booked.id = journal_id
   WHERE booked.idempotency_key = 'fee/' || method || '/' || COALESCE(intent, payment.public_id) AND book = 'fees'),
  (SELECT COUNT(*) FROM invoice WHERE payment_id = payment.id AND invoice.kind = 'invoice'
   AND invoice.amount = payment.amount AND invoice.tax = payment.tax AND invoice.currency = payment.currency
   AND invoice.account_id = payment.account_id AND COALESCE(reversal_id, 0) = 0 AND issued_at = journal.created_at),
  CASE WHEN paid_at = journal.created_at THEN 1 ELSE 0 END,
  CASE WHEN origin = 'subscription' THEN 1 WHEN subscription_id IS NOT NULL THEN -1 ELSE 0 END
   - (SELECT COUNT(*) FROM subscription WHERE subscription.id = subscription_id
      AND subscription.account_id = payment.account_id)
FROM payment LEFT JOIN journal
  ON idempotency_key = CASE WHEN origin = 'subscription' THEN 'subscription/' ELSE 'top-up/' END
  || method || '/' || COALESCE(intent, payment.public_id)
WHERE payment.id > $1 ORDER BY payment.id LIMIT $2
"""
_REVERSALS = """
SELECT reversal.id, reversal.public_id, reversal.state, reversal.credit, payment.account_id, journal.account_id,
  (SELECT CAST(COALESCE(SUM(entry.amount), 0) AS BIGINT) FROM entry
   WHERE journal_id = journal.id AND book IN ('customer_paid', 'subscription_revenue')),
  reversal.amount, (SELECT CAST(COALESCE(SUM(entry.amount), 0) AS BIGINT) FROM entry
   WHERE journal_id = journal.id AND book = 'processor_clearing'),
  (SELECT CAST(COALESCE(SUM(entry.amount), 0) AS BIGINT) FROM entry JOIN journal AS back ON back.id = journal_id
   WHERE back.idempotency_key = reversal.kind || '/' || reversal.public_id || '/returned'
   AND book IN ('customer_paid', 'subscription_revenue')),
  reversal.fee, (SELECT CAST(COALESCE(-SUM(entry.amount), 0) AS BIGINT) FROM entry JOIN journal AS kept
   ON kept.id = journal_id WHERE book = 'fees' AND kept.idempotency_key IN (reversal.kind || '/' || reversal.public_id
    || '/fee', reversal.kind || '/' || reversal.public_id || '/fee/more', reversal.kind || '/' || reversal.public_id
    || '/fee/returned')),
  reversal.kind, (SELECT COUNT(*) FROM invoice WHERE reversal_id = reversal.id AND invoice.kind = 'credit_note'),
  (SELECT COUNT(*) FROM invoice WHERE reversal_id = reversal.id AND invoice.kind = 'correction')
FROM reversal JOIN payment ON payment.id = payment_id LEFT JOIN journal
  ON idempotency_key = reversal.kind || '/' || reversal.public_id
WHERE reversal.id > $1 ORDER BY reversal.id LIMIT $2
"""
_VOUCHERS = """
SELECT voucher.id, voucher.amount, voucher.account_id, voucher.redeemed_at, journal.account_id, journal.created_at,
  (SELECT CAST(SUM(entry.amount) AS BIGINT) FROM entry WHERE journal_id = journal.id
   AND book = CASE WHEN voucher.kind = 'paid' THEN 'customer_paid' ELSE 'customer_promo' END)
FROM voucher LEFT JOIN journal ON idempotency_key = 'voucher/' || CAST(voucher.id AS TEXT)
WHERE voucher.id > $1 ORDER BY voucher.id LIMIT $2
"""
_PAID = "SELECT method, origin = 'subscription', COUNT(*) FROM payment WHERE status = 'paid' GROUP BY 1, 2"
_METHODS = ("stripe", "bank_transfer", "demo")
# Fees of payments and of money that went back, and the fees that are booked.
_FEES = """
SELECT (SELECT COUNT(*) FROM payment WHERE fee <> 0 AND status = 'paid') + (SELECT COUNT(*) FROM reversal JOIN journal
    ON idempotency_key IN (reversal.kind || '/' || public_id || '/fee', reversal.kind || '/' || public_id
    || '/fee/more', reversal.kind || '/' || public_id || '/fee/returned')),
  (SELECT COUNT(*) FROM journal WHERE kind = 'fee')
"""
_BOOKED = "SELECT COUNT(*) FROM journal WHERE idempotency_key LIKE $1"
# How many there were according to the journal, to detect rows that were removed.
_REVERSED = "SELECT (SELECT COUNT(*) FROM reversal WHERE kind = $1), COUNT(*) FROM journal WHERE kind = $1 "
_REVERSED += "AND idempotency_key LIKE $1 || '/%' AND idempotency_key NOT LIKE '%/returned'"
_REDEEMED = "SELECT (SELECT COUNT(*) FROM voucher WHERE account_id IS NOT NULL), COUNT(*) FROM journal "
_REDEEMED += "WHERE idempotency_key LIKE 'voucher/%'"
_NOTES = """
SELECT number, invoice.kind, invoice.amount, invoice.tax, invoice.payment_id, invoice.account_id,
  reversal.credit, reversal.amount - reversal.credit, reversal.payment_id, payment.account_id,
  CASE WHEN invoice.currency = payment.currency AND issued_at = journal.created_at THEN 1 ELSE 0 END
FROM invoice LEFT JOIN reversal ON reversal.id = reversal_id LEFT JOIN payment ON payment.id = reversal.payment_id
LEFT JOIN journal ON idempotency_key = reversal.kind || '/' || reversal.public_id
  || CASE WHEN invoice.kind = 'correction' THEN '/returned' ELSE '' END
WHERE invoice.kind <> 'invoice' AND number > $1 ORDER BY number LIMIT $2
"""
_NUMBERS = "SELECT COUNT(*), COALESCE(MIN(number), 1), COALESCE(MAX(number), 0) FROM invoice"


async def check(view: Transaction, complain: Complain) -> None:
    """Name every order, refund, voucher and invoice that the journal does not confirm."""
    await _check_counts(view, complain)
    async for row in pages(view, _PAYMENTS, _PAGE):
        for problem in _of_payment(row):
            complain(f"payment {row[1]} {problem}")
    async for row in pages(view, _REVERSALS, _PAGE):
        for problem in _of_reversal(row):
            complain(f"money that went back ({row[1]}) {problem}")
    async for row in pages(view, _NOTES, _PAGE):
        if not _is_note_of_reversal(row):
            complain(f"invoice {row[0]}, a {row[1]} of {row[2]} and {row[3]} tax, does not match what went back")
    async for id_, amount, account, at, *booked in pages(view, _VOUCHERS, _PAGE):
        if [account, at, amount if account is not None else None] != booked:
            complain(f"voucher {id_}: the journal has another account, time, kind or amount for its credit")
    (count, least, most), = await view.fetch(_NUMBERS)  # fmt: skip
    last = await value(view, LAST_NUMBER) or 0
    if (least, most) != (1, count) or last != most:
        complain(f"the invoices are numbered {least} to {most} and the last number is {last}, but there are {count}")


async def _check_counts(view: Transaction, complain: Complain) -> None:
    """Things in the journal that no longer have a row, or never had one."""
    paid = dict.fromkeys(itertools.product(_METHODS, (False, True)), 0)
    paid |= {(method, bool(recurring)): count for method, recurring, count in await view.fetch(_PAID)}
    for (method, recurring), count in paid.items():
        name = "subscription" if recurring else "top-up"
        booked = (await view.fetch(_BOOKED, f"{name}/{method}/%"))[0][0]
        if booked != count:
            complain(f"{name} payments by {method}: {count} paid, but {booked} in the journal")
    for kind in Return:
        (there, booked) = (await view.fetch(_REVERSED, kind))[0]
        if there != booked:
            complain(f"money that went back by {kind}: {plural(there, 'row')}, but {booked} in the journal")
    (there, booked) = (await view.fetch(_FEES))[0]
    if there != booked:
        complain(f"fees of payments, refunds and disputes: {there}, but {booked} in the journal")
    (there, booked) = (await view.fetch(_REDEEMED))[0]
    if there != booked:
        complain(f"vouchers that were redeemed: {there}, but {booked} in the journal")


def _of_payment(row: Row) -> list[str]:
    _, _, status, amount, tax, fee, account, booked_for, paid, booked_tax, fees, invoices, in_time, odd_months = row
    if status != Status.PAID:
        return ["is not paid, but in the journal"] if booked_for is not None else []
    if booked_for is None:
        return ["is paid, but not in the journal"]
    problems = []
    if (account, amount, tax) != (booked_for, paid, booked_tax):
        problems.append(f"is of {amount} and {tax} tax, but the journal has {paid} and {booked_tax}")
    if fees != -fee:
        problems.append(f"cost a fee of {fee}, but the journal has {-fees}")
    if invoices != 1:
        problems.append(f"has {invoices} invoices of its amount, account and day, not 1")
    if not in_time:
        problems.append("was paid at another time than the journal says")
    if odd_months:
        problems.append("pays for a month of a plan without a subscription, or the other way round")
    return problems


def _of_reversal(row: Row) -> list[str]:
    _, _, state, credit, account, booked_for, taken, amount, cleared, returned, fee, fees, *papers = row
    if booked_for is None:
        return ["is not in the journal"]
    problems = []
    if (account, -credit) != (booked_for, taken):
        problems.append(f"took {credit}, but the journal has {-taken}")
    if amount != cleared:
        problems.append(f"is of {amount} in all, but the journal has {cleared}")
    if state not in set(State):
        problems.append(f"is in the unknown state {state!r}")
    if returned != (credit if state == State.RETURNED else 0):
        problems.append(f"is {state}, but the journal gave {returned} back")
    if fee != fees:
        problems.append(f"cost a fee of {fee}, but the journal has {fees}")
    if tuple(papers) not in _PAPERS[state == State.RETURNED]:
        problems.append(f"is {state}, but has {papers[1]} credit notes and {papers[2]} corrections")
    return problems


def _is_note_of_reversal(row: Row) -> bool:
    """Whether a credit note covers all that went back, and a correction all that came again."""
    _, kind, amount, tax, payment, account, credit, credit_tax, reversed_payment, owner, in_time = row
    sign = {"credit_note": -1, "correction": 1}.get(kind)
    if sign is None or credit is None or not in_time:
        return False
    return bool((amount, tax, payment, account) == (sign * credit, sign * credit_tax, reversed_payment, owner))
