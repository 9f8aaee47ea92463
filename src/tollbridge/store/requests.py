"""Requests of an account, newest first: a page at a time, filtered, and never a long search in one statement."""

from collections.abc import Sequence

import msgspec

from tollbridge.store.db import Row, Transaction
from tollbridge.store.journal import CHARGE, COST, PROMO
from tollbridge.store.ledger.rows import STREAMED, endpoint_of, read_meters
from tollbridge.store.meta import value
from tollbridge.store.rollups import WATERMARK
from tollbridge.store.rows import ABOVE_ALL
from tollbridge.values import DAY_MS, FOR_EVER, Meters, Outcome

# How many requests one statement looks through for matches of a filter.
WINDOW = 20_000

_COLUMNS = (
    "hold_id, ended_at, key_id, price_version, charge, cost, input + cache_read + cache_write + cache_write_1h, "
    "cache_read, output, reasoning, started_at, duration_ms, first_byte_ms, outcome, status, flags, finish, meters"
)
_OLDER = "FROM usage WHERE account_id = $1 AND (ended_at, hold_id) < ($2, $3)"
_ORDER = "ORDER BY ended_at DESC, hold_id DESC"
_PAGE = f"SELECT {_COLUMNS} {_OLDER} AND ended_at >= $4 {_ORDER} LIMIT $5"
_BOUND = f"SELECT ended_at, hold_id {_OLDER} AND ended_at >= $4 {_ORDER} LIMIT 1 OFFSET $5"
# `$8`: ids of price versions as ",3,17,", or NULL for all of them. `$9`: 1, only failures; 0, only the others.
_FILTERED = (
    f"SELECT {_COLUMNS} {_OLDER} AND (ended_at, hold_id) >= ($4, $5) "
    "AND (CAST($7 AS BIGINT) IS NULL OR key_id = $7) "
    "AND (CAST($8 AS TEXT) IS NULL OR $8 LIKE '%,' || CAST(price_version AS TEXT) || ',%') "
    "AND (CAST($9 AS BIGINT) IS NULL OR (CASE WHEN outcome > 2 THEN 1 ELSE 0 END) = $9) "
    f"{_ORDER} LIMIT $6"
)
# The last day with matching requests, among those already summed.
_LAST_DAY = (
    "SELECT MAX(start) FROM usage_rollup WHERE account_id = $1 AND span = 86400000 AND start <= $2 "
    "AND (CAST($3 AS BIGINT) IS NULL OR key_id = $3) "
    "AND (CAST($4 AS TEXT) IS NULL OR $4 LIKE '%,' || CAST(price_version AS TEXT) || ',%') "
    "AND (CAST($5 AS BIGINT) IS NULL OR (CASE WHEN $5 = 1 THEN errors ELSE requests - errors END) > 0)"
)

# What was charged for requests of an account after their sweep (`core.ledger`, Rule 6). These are few.
_LATE = f"""
SELECT CAST(SUBSTR(idempotency_key, 6) AS BIGINT), {CHARGE}, {PROMO}, {COST}
FROM journal JOIN entry ON journal_id = journal.id
WHERE journal.account_id = $1 AND journal.kind = 'late' AND journal.created_at >= $2 GROUP BY idempotency_key
"""  # noqa: S608 - constants

Place = tuple[int, int]
NEWEST: Place = (FOR_EVER, ABOVE_ALL)


class Filter(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted; None: all. `since` in milliseconds. `versions`: the price versions charged by."""

    since: int = 0
    key_id: int | None = None
    versions: frozenset[int] | None = None
    failed: bool | None = None

    @property
    def plain(self) -> bool:
        return self.key_id is None and self.versions is None and self.failed is None

    @property
    def _arguments(self) -> tuple[int | None, str | None, int | None]:
        versions = None if self.versions is None else f",{','.join(map(str, sorted(self.versions)))},"
        return self.key_id, versions, None if self.failed is None else int(self.failed)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One request. Nano-USD, tokens, milliseconds. `prompt` and `output`: all tokens read, and all written."""

    hold: int
    ended_at: int
    key_id: int
    price_version: int
    charge: int
    cost: int
    prompt: int
    cached: int
    output: int
    reasoning: int
    started_at: int
    duration_ms: int
    first_byte_ms: int | None
    outcome: Outcome
    status: int
    streamed: bool
    endpoint: str
    finish: str | None

    @property
    def place(self) -> Place:
        return self.ended_at, self.hold


class Late(msgspec.Struct, frozen=True):
    """What a request cost beyond what it was charged when swept, nano-USD."""

    charge: int = 0
    promo: int = 0
    cost: int = 0


class Found(msgspec.Struct, frozen=True):
    """`next`: where to go on; None: there is no more. Few lines with a `next` only mean that the search is not over."""

    lines: list[Line]
    next: Place | None


async def page(database: Transaction, account_id: int, wanted: Filter, before: Place, count: int) -> Found:
    """Up to `count` requests that ended before `before`."""
    if wanted.plain:
        rows = await database.fetch(_PAGE, account_id, *before, wanted.since, count + 1)
        return await _found(database, account_id, rows, count, None)
    rows, end = await _search(database, account_id, wanted, before, count)
    if rows or end is None:
        return await _found(database, account_id, rows, count, end)
    if end[0] > (await value(database, WATERMARK) or 0):
        return Found([], end)
    # No match among this many requests: go on where the sums say that there is one.
    day = (await database.fetch(_LAST_DAY, account_id, end[0], *wanted._arguments))[0][0]
    if day is None or day + DAY_MS <= wanted.since:
        return Found([], None)
    rows, end = await _search(database, account_id, wanted, min(end, (day + DAY_MS, -1)), count)
    return await _found(database, account_id, rows, count, end)


async def _search(
    database: Transaction, account_id: int, wanted: Filter, before: Place, count: int
) -> tuple[list[Row], Place | None]:
    """One more than `count` matches, and the last place that was looked at; None: the search reached the end."""
    bound = await database.fetch(_BOUND, account_id, *before, wanted.since, WINDOW)
    end = (bound[0][0], bound[0][1]) if bound else None
    floor = (wanted.since, -1) if end is None else end
    rows = await database.fetch(_FILTERED, account_id, *before, *floor, count + 1, *wanted._arguments)
    return rows, end


async def late(database: Transaction, account_id: int, since: int) -> dict[int, Late]:
    """By hold: for requests of an account that were swept at or after `since` (milliseconds)."""
    return {hold: Late(*amounts) for hold, *amounts in await database.fetch(_LATE, account_id, since)}


async def _found(database: Transaction, account_id: int, rows: Sequence[Row], count: int, end: Place | None) -> Found:
    lines = [_line(row) for row in rows[:count]]
    swept = [line.ended_at for line in lines if line.outcome is Outcome.SWEPT]
    if swept:
        more = await late(database, account_id, min(swept))
        lines = [_with_late(line, more[line.hold]) if line.hold in more else line for line in lines]
    return Found(lines, lines[-1].place if len(rows) > count else end)


def _with_late(line: Line, more: Late) -> Line:
    return msgspec.structs.replace(line, charge=line.charge + more.charge, cost=line.cost + more.cost)


def _line(row: Row) -> Line:
    *plain, outcome, status, flags, finish, meters = row
    hold, ended_at, key_id, version, charge, cost, prompt, cached, output, reasoning, started, duration, first = plain
    rare = Meters(**read_meters(meters))
    return Line(
        hold=hold,
        ended_at=ended_at,
        key_id=key_id,
        price_version=version,
        charge=charge,
        cost=cost,
        prompt=prompt + rare.prompt,
        cached=cached,
        output=output + rare.completion,
        reasoning=reasoning,
        started_at=started,
        duration_ms=duration,
        first_byte_ms=first,
        outcome=Outcome(outcome),
        status=status,
        streamed=bool(flags & STREAMED),
        endpoint=endpoint_of(flags),
        finish=finish,
    )
