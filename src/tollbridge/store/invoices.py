"""Invoices, numbered without gaps, and whom they are made out to."""

import msgspec

from tollbridge.core.payments import Buyer, Card
from tollbridge.store import meta
from tollbridge.store.db import Transaction
from tollbridge.store.rows import read_all, read_first

# The row of `meta` with the last number.
LAST_NUMBER = "last_invoice"
_COLUMNS = (
    "number, kind, payment_id, reversal_id, invoice.account_id, issued_at, invoice.amount, invoice.tax, "
    "invoice.currency, seller, buyer, payment.public_id, payment.method, COALESCE(plan, ''), "
    "COALESCE((SELECT MIN(number) FROM invoice AS first WHERE first.payment_id = payment.id AND kind = 'invoice'), 0)"
)
_FROM = (
    "FROM invoice JOIN payment ON payment.id = payment_id "
    "LEFT JOIN subscription ON subscription.id = payment.subscription_id"
)


class Invoice(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `invoice`. `kind`: invoice, credit_note, or correction of a credit note. `seller`, `buyer`: JSON.

    `plan`: the plan of which a month was bought; empty: it was credit. `first`: the number of the payment's invoice.

    `amount` and `tax` in nano-USD, negative on a credit note.
    """

    number: int
    kind: str
    payment_id: int
    reversal_id: int | None
    account_id: int
    issued_at: int
    amount: int
    tax: int
    currency: str
    seller: str
    buyer: str
    payment: str = ""
    method: str = ""
    plan: str = ""
    first: int = 0


async def issue(transaction: Transaction, draft: Invoice) -> int:
    """Write an invoice under the next number, which is returned; the draft's own number is ignored."""
    number = await meta.next_value(transaction, LAST_NUMBER)
    await transaction.execute(
        "INSERT INTO invoice (number, kind, payment_id, reversal_id, account_id, issued_at, amount, tax, currency, "
        "seller, buyer) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        *(number, draft.kind, draft.payment_id, draft.reversal_id, draft.account_id, draft.issued_at, draft.amount),
        *(draft.tax, draft.currency, draft.seller, draft.buyer),
    )
    return number


async def by_number(database: Transaction, number: int) -> Invoice | None:
    rows = await database.fetch(f"SELECT {_COLUMNS} {_FROM} WHERE number = $1", number)
    return read_first(Invoice, rows)


async def of_account(database: Transaction, account_id: int, before: int, count: int) -> list[Invoice]:
    """Up to `count` invoices of an account below number `before`, newest first."""
    rows = await database.fetch(
        f"SELECT {_COLUMNS} {_FROM} WHERE invoice.account_id = $1 AND number < $2 ORDER BY number DESC LIMIT $3",
        *(account_id, before, count),
    )
    return read_all(Invoice, rows)


async def of_period(database: Transaction, since: int, until: int, after: int, count: int) -> list[Invoice]:
    """Up to `count` invoices of all accounts that were issued in a time, above number `after`, oldest first."""
    rows = await database.fetch(
        f"SELECT {_COLUMNS} {_FROM} WHERE issued_at >= $1 AND issued_at < $2 AND number > $3 ORDER BY number LIMIT $4",
        *(since, until, after, count),
    )
    return read_all(Invoice, rows)


async def of_reversal(transaction: Transaction, reversal_id: int) -> set[str]:
    """The kinds of papers that exist for a refund."""
    rows = await transaction.fetch("SELECT kind FROM invoice WHERE reversal_id = $1", reversal_id)
    return {str(row[0]) for row in rows}


async def buyer(database: Transaction, account_id: int) -> Buyer | None:
    rows = await database.fetch("SELECT name, address, tax_id FROM buyer WHERE account_id = $1", account_id)
    return Buyer(name=rows[0][0], address=rows[0][1], tax_id=rows[0][2]) if rows else None


async def buyer_of(transaction: Transaction, payment_id: int) -> str | None:
    """Whom the invoice of a payment was made out to, as JSON."""
    rows = await transaction.fetch(
        "SELECT buyer FROM invoice WHERE payment_id = $1 AND kind = 'invoice' ORDER BY number LIMIT 1", payment_id
    )
    return str(rows[0][0]) if rows else None


async def put_buyer(transaction: Transaction, account_id: int, details: Buyer) -> None:
    await transaction.execute(
        "INSERT INTO buyer (account_id, name, address, tax_id) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (account_id) DO UPDATE SET name = excluded.name, address = excluded.address, "
        "tax_id = excluded.tax_id",
        *(account_id, details.name, details.address, details.tax_id),
    )


async def customer(database: Transaction, account_id: int) -> str | None:
    """The processor's id of an account; None: the processor does not know it."""
    rows = await database.fetch("SELECT customer FROM buyer WHERE account_id = $1", account_id)
    return str(rows[0][0]) if rows and rows[0][0] is not None else None


async def put_customer(transaction: Transaction, account_id: int, customer: str) -> None:
    await transaction.execute(
        "INSERT INTO buyer (account_id, name, address, tax_id, customer) VALUES ($1, '', '', '', $2) "
        "ON CONFLICT (account_id) DO UPDATE SET customer = excluded.customer",
        *(account_id, customer),
    )


async def card(database: Transaction, account_id: int) -> Card | None:
    """An account's saved card."""
    rows = await database.fetch(
        "SELECT customer, card, card_hint FROM buyer WHERE account_id = $1 AND card IS NOT NULL AND customer IS NOT "
        "NULL",
        account_id,
    )
    return Card(*rows[0]) if rows else None


async def put_card(transaction: Transaction, account_id: int, card: Card | None) -> None:
    """Replace the saved card, or remove it (None). The account already has a customer id."""
    await transaction.execute(
        "UPDATE buyer SET card = $2, card_hint = $3 WHERE account_id = $1",
        *(account_id, None if card is None else card.id, None if card is None else card.hint),
    )
