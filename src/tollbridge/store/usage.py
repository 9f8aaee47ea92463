"""Reading what requests cost. Only the ledger writes it."""

import msgspec

from tollbridge.store.db import Transaction
from tollbridge.store.ledger.rows import read_meters
from tollbridge.values import Meters


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One charged request: `amount` in nano-USD, `terms` the JSON of its price version.

    `prompt` and `output`: all tokens read, and all written.
    """

    hold: int
    at: int
    amount: int
    prompt: int
    output: int
    terms: str


async def charges(
    database: Transaction, account_id: int, after: tuple[int, int], until: int, count: int
) -> list[Charge]:
    """Up to `count` requests of an account charged before the time `until`, in order, after (time, hold) `after`."""
    rows = await database.fetch(
        "SELECT hold_id, ended_at, charge, input + cache_read + cache_write + cache_write_1h, output, terms, meters "
        "FROM usage LEFT JOIN price_version ON price_version.id = usage.price_version "
        "WHERE account_id = $1 AND (ended_at, hold_id) > ($2, $3) AND ended_at < $4 AND charge > 0 "
        "ORDER BY ended_at, hold_id LIMIT $5",
        *(account_id, *after, until, count),
    )
    return [_charge(*row) for row in rows]


def _charge(hold: int, at: int, amount: int, prompt: int, output: int, *rest: str | None) -> Charge:
    terms, meters = rest
    rare = Meters(**read_meters(meters))
    return Charge(
        hold=hold,
        at=at,
        amount=amount,
        prompt=prompt + rare.prompt,
        output=output + rare.completion,
        terms=terms or "{}",
    )


async def daily(database: Transaction, account_id: int, since: int, until: int) -> list[tuple[int, int, int]]:
    """(Start of day in milliseconds, requests, charge) for each day that cost something, among those already summed."""
    rows = await database.fetch(
        "SELECT start, CAST(SUM(requests) AS BIGINT), CAST(SUM(charge) AS BIGINT) FROM usage_rollup "
        "WHERE account_id = $1 AND span = 86400000 AND start >= $2 AND start < $3 "
        "GROUP BY start HAVING SUM(charge) > 0 ORDER BY start",
        *(account_id, since, until),
    )
    return [(row[0], row[1], row[2]) for row in rows]
