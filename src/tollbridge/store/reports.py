"""What reports read from the books, besides the sums of requests (`store.usage_days`).

A period is from a time on (milliseconds) and before another. Ask within `Database.snapshot()`, where nobody waits.
"""

from collections.abc import Sequence

import msgspec

from tollbridge.core.ledger import Book
from tollbridge.store.db import Row, Transaction
from tollbridge.store.journal import CHARGE, COST, LOSS, PROMO
from tollbridge.store.rows import ABOVE_ALL, with_list
from tollbridge.values import DAY_MS

# Ends that came after the sweep: how they differ from what the usage row says.
_LATE = f"""
SELECT journal.created_at / {DAY_MS}, COALESCE(usage.price_version, carried.part, 0), journal.account_id,
  {CHARGE}, {PROMO}, {LOSS}, {COST}
FROM journal JOIN entry ON journal_id = journal.id
LEFT JOIN usage ON usage.hold_id = CAST(SUBSTR(idempotency_key, 6) AS BIGINT)
LEFT JOIN carried ON carried.kind = 'late' AND carried.id = journal.id
WHERE journal.kind = 'late' AND journal.created_at >= $1 AND journal.created_at < $2
GROUP BY journal.id, journal.created_at, usage.price_version, carried.part, journal.account_id
"""  # noqa: S608 - constants
# Of transactions from one id to another: what each ledger account had before a time, and what moved on it from then on.
_BOOKS = """
SELECT book, CAST(SUM(CASE WHEN created_at < $1 THEN amount ELSE 0 END) AS BIGINT),
  CAST(SUM(CASE WHEN created_at >= $1 THEN amount ELSE 0 END) AS BIGINT)
FROM journal JOIN entry ON journal_id = journal.id
WHERE journal.id > $3 AND journal.id <= $4 AND journal_id > $3 AND journal_id <= $4 AND created_at < $2 GROUP BY book
"""
# As many as one statement reads well within its time limit.
_PART = 50_000
_PART_END = "SELECT id FROM journal WHERE id > $1 ORDER BY id LIMIT 1 OFFSET $2"
# The bound is repeated for each table: otherwise each page would be looked for from the first transaction on.
_ENTRIES = """
SELECT journal.id, line, journal.created_at, kind, email, book, amount, reason, actor
FROM journal JOIN entry ON journal_id = journal.id LEFT JOIN account ON account.id = journal.account_id
WHERE journal.created_at >= $1 AND journal.created_at < $2
  AND journal.id >= $3 AND journal_id >= $3 AND (journal.id, line) > ($3, $4)
ORDER BY journal.id, line LIMIT $5
"""
_USAGE = """
SELECT hold_id, ended_at, email, charge, promo, loss, cost FROM usage LEFT JOIN account ON account.id = account_id
WHERE ended_at >= $1 AND ended_at < $2 AND hold_id > $3 ORDER BY hold_id LIMIT $4
"""
_EMAILS_OF = "SELECT id, email FROM account WHERE id IN ($1)"


class Late(msgspec.Struct, frozen=True):
    """What one late end added."""

    day: int
    price_version: int
    account_id: int
    charge: int
    promo: int
    loss: int
    cost: int


async def late(view: Transaction, since: int, until: int) -> list[Late]:
    return [Late(*row) for row in await view.fetch(_LATE, since, until)]


async def books(view: Transaction, since: int, until: int) -> dict[Book, tuple[int, int]]:
    """What the journal moved on each ledger account before a period, and in it; requests left out."""
    sums: dict[Book, tuple[int, int]] = {}
    after = 0
    while after < ABOVE_ALL:
        found = await view.fetch(_PART_END, after, _PART - 1)
        end = found[0][0] if found else ABOVE_ALL
        for name, before, within in await view.fetch(_BOOKS, since, until, after, end):
            opening, moved = sums.get(Book(name), (0, 0))
            sums[Book(name)] = opening + before, moved + within
        after = end
    return sums


async def entries(view: Transaction, since: int, until: int, after: tuple[int, int], count: int) -> list[Row]:
    """Journal lines after (transaction, line): id, line, at, kind, email, book, amount, reason, actor."""
    return await view.fetch(_ENTRIES, since, until, *after, count)


async def ends(view: Transaction, since: int, until: int, after: int, count: int) -> list[Row]:
    """Requests after hold `after`: hold, at, email, charge, promo, loss, cost."""
    return await view.fetch(_USAGE, since, until, after, count)


async def price_terms(view: Transaction) -> dict[int, str]:
    """The terms (JSON) of every price version."""
    return dict(await view.fetch("SELECT id, terms FROM price_version"))


async def emails(view: Transaction) -> dict[int, str]:
    return dict(await view.fetch("SELECT id, email FROM account"))


async def emails_of(view: Transaction, ids: Sequence[int]) -> dict[int, str]:
    return dict(await view.fetch(with_list(_EMAILS_OF, len(ids)), *ids)) if ids else {}
