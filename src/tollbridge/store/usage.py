"""Reading what requests cost. Written it is by the ledger alone."""

import msgspec

from tollbridge.store.db import Transaction


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One charged request: `amount` in nano-USD, `terms` the JSON of its price version."""

    hold: int
    at: int
    amount: int
    prompt: int
    output: int
    terms: str


async def charges(
    database: Transaction, account_id: int, after: tuple[int, int], until: int, count: int
) -> list[Charge]:
    """Up to `count` requests of an account charged before the time `until`, in order, behind (time, hold) `after`."""
    rows = await database.fetch(
        "SELECT hold_id, ended_at, charge, input + cache_read + cache_write + cache_write_1h, output, terms "
        "FROM usage LEFT JOIN price_version ON price_version.id = usage.price_version "
        "WHERE account_id = $1 AND (ended_at, hold_id) > ($2, $3) AND ended_at < $4 AND charge > 0 "
        "ORDER BY ended_at, hold_id LIMIT $5",
        *(account_id, *after, until, count),
    )
    return [
        Charge(hold=row[0], at=row[1], amount=row[2], prompt=row[3], output=row[4], terms=row[5] or "{}")
        for row in rows
    ]


async def total(database: Transaction, account_id: int, until: int) -> int:
    """What all requests of an account that ended before `until` were charged."""
    rows = await database.fetch(
        "SELECT CAST(COALESCE(SUM(charge), 0) AS BIGINT) FROM usage WHERE account_id = $1 AND ended_at < $2",
        *(account_id, until),
    )
    return int(rows[0][0])
