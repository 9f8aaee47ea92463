"""Seals: digests over rows that will not change any more, each including the seal before it.

A seal covers a range of one chain: `journal` (transactions with their entries), `usage/<epoch>` (the holds of one
process with their extensions and ends), `activity` (what people did), `invoice` (papers, with all that they say), or
`price` (the terms of price versions).
`verify` detects any sealed row that was edited by hand.

Rule 1  A range is closed once everything in it ended so long ago that no slow transaction can still add to it.
Rule 2  The digest covers the seal before, the range, the time, and one line of JSON per row in the order of ids.
        Columns added by later versions stand last and are left out of the line while they are empty: what was sealed
        before they existed stays sealed.
Rule 3  Sealing twice, or from two processes, seals once.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec

from tollbridge.core.ledger import hold_id
from tollbridge.store import activity
from tollbridge.store.db import Database, Duplicate, Row, Transaction
from tollbridge.store.ledger.rows import USAGE_COLUMNS
from tollbridge.store.rows import ABOVE_ALL, further
from tollbridge.values import MINUTE_MS

# No statement or batch lasts this long.
SETTLED_MS = 15 * MINUTE_MS
JOURNAL = "journal"
ACTIVITY = "activity"
INVOICE = "invoice"
PRICE = "price"
USAGE = "usage/"

# Rows read, and then hashed, at once: a thousandth of a second of the loop that serves.
_PAGE = 200
# Holds and ends are read by ranges and put together here. A join of them is not safe on PostgreSQL, see `processes`.
_HOLDS = (
    "SELECT id, account_id, key_id, amount, CAST(limited AS INTEGER), expires_at, tokens, period FROM hold "
    "WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3"
)
_ENDS = f"SELECT {USAGE_COLUMNS} FROM usage WHERE hold_id >= $1 AND hold_id <= $2"  # noqa: S608 - a constant
_OPEN = (None,) * len(USAGE_COLUMNS.split(", "))
_STEPS = "SELECT hold_id, step, amount FROM hold_step WHERE hold_id >= $1 AND hold_id <= $2 ORDER BY hold_id, step"
_JOURNAL = (
    "SELECT id, idempotency_key, kind, account_id, reason, actor, created_at FROM journal "
    "WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3"
)
_ENTRIES = (
    "SELECT journal_id, line, book, amount FROM entry WHERE journal_id >= $1 AND journal_id <= $2 "
    "ORDER BY journal_id, line"
)
_INVOICES = (
    "SELECT number, kind, payment_id, reversal_id, account_id, issued_at, amount, tax, currency, seller, buyer "
    "FROM invoice WHERE number > $1 AND number <= $2 ORDER BY number LIMIT $3"
)
_PRICES = "SELECT id, terms, created_at FROM price_version WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3"
_SEALS = "SELECT chain, first_id, last_id, row_count, digest, created_at FROM seal ORDER BY chain, first_id"
# What no id is below or above.
ALL_IDS = (0, ABOVE_ALL)
HOLD_WIDTH = 6
# Columns of `hold` that were added later and stand behind those of its end.
HOLD_TAIL = 2
# Columns of a hold and its end in the first version of the schema.
_FIRST_WIDTH = HOLD_WIDTH + 25


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `seal`."""

    chain: str
    first: int
    last: int
    count: int
    digest: bytes
    at: int


class Digest:
    """The digest of one range, fed with its rows in order."""

    def __init__(self, chain: str, first: int, before: bytes) -> None:
        self.chain = chain
        self.first = first
        self.before = before
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, row: Row, parts: Iterable[Row]) -> None:
        self.count += 1
        while len(row) > _FIRST_WIDTH and row[-1] is None:
            row = row[:-1]
        self._hash.update(msgspec.json.encode((row, list(parts))))
        self._hash.update(b"\n")

    def close(self, last: int, at: int) -> bytes:
        head = msgspec.json.encode((self.chain, self.before, self.first, last, self.count, at))
        return hashlib.sha256(head + self._hash.digest()).digest()


async def holds(database: Transaction, after: int, until: int) -> AsyncIterator[tuple[Row, list[Row]]]:
    """Each hold with its end (empty columns: it is open) and its extensions, in the order of ids."""
    while rows := await database.fetch(_HOLDS, after, until, _PAGE):
        after = further(rows[-1][0], after)
        ends = {end[0]: end for end in await database.fetch(_ENDS, rows[0][0], after)}
        steps = _by_first(await database.fetch(_STEPS, rows[0][0], after))
        for row in rows:
            yield (*row[:HOLD_WIDTH], *ends.get(row[0], _OPEN), *row[HOLD_WIDTH:]), steps.get(row[0], [])


async def transactions(database: Transaction, after: int, until: int) -> AsyncIterator[tuple[Row, list[Row]]]:
    """Each journal transaction with its entries, in the order of ids."""
    async for pair in _walk(database, _JOURNAL, _ENTRIES, after, until):
        yield pair


async def deeds(database: Transaction, after: int, until: int) -> AsyncIterator[tuple[Row, list[Row]]]:
    """The sealed part of each thing that somebody did, in the order of ids."""
    async for row in activity.sealed_rows(database, after, until):
        yield row[: activity.SEALED_WIDTH], []


async def papers(database: Transaction, after: int, until: int) -> AsyncIterator[tuple[Row, list[Row]]]:
    """Each invoice and credit note, in the order of numbers."""
    async for row in _rows(database, _INVOICES, after, until):
        yield row, []


async def prices(database: Transaction, after: int, until: int) -> AsyncIterator[tuple[Row, list[Row]]]:
    """Each price version, in the order of ids."""
    async for row in _rows(database, _PRICES, after, until):
        yield row, []


async def _rows(database: Transaction, sql: str, after: int, until: int) -> AsyncIterator[Row]:
    while rows := await database.fetch(sql, after, until, _PAGE):
        after = further(rows[-1][0], after)
        for row in rows:
            yield row


async def read(database: Transaction) -> dict[str, list[Seal]]:
    """All seals of each chain, in their order."""
    chains: dict[str, list[Seal]] = {}
    for chain, first, last, count, digest, at in await database.fetch(_SEALS):
        sealed = Seal(chain=chain, first=first, last=last, count=count, digest=bytes(digest), at=at)
        chains.setdefault(chain, []).append(sealed)
    return chains


async def seal(database: Database, settled_ms: int = SETTLED_MS) -> int:
    """Seal everything closed by now; how many seals were set. Runs hourly, beside everything else."""
    now = await database.now()
    epochs = await database.fetch("SELECT epoch FROM process ORDER BY epoch")
    chains = {f"{USAGE}{epoch}": (hold_id(epoch, 0), hold_id(epoch + 1, 0) - 1) for (epoch,) in epochs}
    closed = []
    async with database.snapshot() as view:
        for chain, bounds in {**dict.fromkeys(_WALKS, ALL_IDS), **chains}.items():
            sealed = await _close(view, chain, bounds, now, now - settled_ms)
            if sealed is not None:
                closed.append(sealed)
    count = 0
    for each in closed:
        with contextlib.suppress(Duplicate):
            count += await database.execute(
                "INSERT INTO seal (chain, first_id, last_id, row_count, digest, created_at) "
                "VALUES ($1, $2, $3, $4, $5, $6)",
                *(each.chain, each.first, each.last, each.count, each.digest, each.at),
            )
    return count


async def _close(view: Transaction, chain: str, bounds: tuple[int, int], now: int, until: int) -> Seal | None:
    """The seal over what has closed since the newest one of `chain`; None if nothing has."""
    rows = await view.fetch("SELECT last_id, digest FROM seal WHERE chain = $1 ORDER BY first_id DESC LIMIT 1", chain)
    after, before = (rows[0][0], bytes(rows[0][1])) if rows else (bounds[0], b"")
    digest, last = Digest(chain, after + 1, before), after
    walk, ended = _WALKS.get(chain, (holds, HOLD_WIDTH + 3))
    async for row, parts in walk(view, after, bounds[1]):
        ended_at = row[ended]
        if ended_at is None or ended_at > until:
            break
        digest.add(row, parts)
        last = row[0]
    if not digest.count:
        return None
    return Seal(chain=chain, first=digest.first, last=last, count=digest.count, digest=digest.close(last, now), at=now)


# How the rows of a chain are read, and which column says when a row ended. All other chains are of holds.
_WALKS = {JOURNAL: (transactions, 6), ACTIVITY: (deeds, 2), INVOICE: (papers, 5), PRICE: (prices, 2)}


async def _walk(
    database: Transaction, heads: str, parts: str, after: int, until: int
) -> AsyncIterator[tuple[Row, list[Row]]]:
    while rows := await database.fetch(heads, after, until, _PAGE):
        after = further(rows[-1][0], after)
        by_head = _by_first(await database.fetch(parts, rows[0][0], after))
        for row in rows:
            yield row, by_head.get(row[0], [])


def _by_first(rows: Iterable[Row]) -> dict[Any, list[Row]]:
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(row)
    return found
