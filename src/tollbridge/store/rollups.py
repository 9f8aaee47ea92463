"""Sums of usage by hour and by day, exact at every moment, without touching the hot transaction.

Rule 1  A watermark (`meta.rolled_up`, a time) divides all usage: what ended up to it is in `usage_rollup`, what ended
        after it is read from `usage` itself. Watermark and sums move in one transaction.
Rule 2  The watermark stays `SETTLED_MS` behind the clock: no batch of the ledger takes that long to arrive.
Rule 3  If the clock is set back, so that requests may again end before the watermark, the watermark is set back too,
        and the sums after it are dropped. The next run notices, if it comes within `SETTLED_MS - _APART_MS`.
Rule 4  A reader of sums reads the watermark, the sums and the rest in one snapshot.
Rule 5  All hours and days are UTC. What a swept request cost beyond what it was charged (`late` in the journal) is no
        request of its own: it is read from the journal and counts where it was posted, but is never in the stored sums.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Any

import msgspec

from tollbridge.errors import Unavailable
from tollbridge.store.db import Database, Row, Transaction, run
from tollbridge.store.journal import CHARGE, COST
from tollbridge.store.ledger.rows import read_meters
from tollbridge.store.meta import value
from tollbridge.store.rows import pages, with_list
from tollbridge.values import DAY_MS, HOUR_MS

WATERMARK = "rolled_up"
SETTLED_MS = 30_000
# Another process may have moved the watermark this long after one has read the time.
_APART_MS = 5_000
# One transaction sums up this much time at first. A job that has much to catch up on then takes as much at once as it
# finishes within `_WHOLE_S`, so that nobody waits long for it.
MOST_MS = 600_000
_LEAST_MS = 1_000
_WHOLE_S = 0.05
# How often the job runs, and how many steps it takes at most each time.
EVERY_S = 10.0
_STEPS = 1_000

# Outcomes above 2 are failures that are not the caller's doing (`values.Outcome`).
_OF_EACH = {
    "requests": "COUNT(*)",
    "errors": "CAST(SUM(CASE WHEN outcome > 2 THEN 1 ELSE 0 END) AS BIGINT)",
    "charge": "CAST(SUM(charge) AS BIGINT)",
    "cost": "CAST(SUM(cost) AS BIGINT)",
    "input": "CAST(SUM(input) AS BIGINT)",
    "cache_read": "CAST(SUM(cache_read) AS BIGINT)",
    "cache_write": "CAST(SUM(cache_write) AS BIGINT)",
    "cache_write_1h": "CAST(SUM(cache_write_1h) AS BIGINT)",
    "output": "CAST(SUM(output) AS BIGINT)",
    "reasoning": "CAST(SUM(reasoning) AS BIGINT)",
    "duration_ms": "CAST(SUM(duration_ms) AS BIGINT)",
    "first_byte_ms": "CAST(COALESCE(SUM(first_byte_ms), 0) AS BIGINT)",
    "first_bytes": "COUNT(first_byte_ms)",
    "last_at": "MAX(ended_at)",
}
_SUMMED = ", ".join(_OF_EACH)
_OF_USAGE = ", ".join(f"{of_each} AS {name}" for name, of_each in _OF_EACH.items())
_RARE = "audio_input, audio_output, image_output, searches"
_ADDED = ", ".join(f"{name} = usage_rollup.{name} + excluded.{name}" for name in _SUMMED.split(", ")[:-1])
_SUMS = ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in _SUMMED.split(", ")[:-1])
_RARE_SUMS = ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in _RARE.split(", "))

# SQLite has no index of usage by time alone, but each account's rows are one range of the index that it has.
EACH_ACCOUNT = "account_id IN (SELECT id FROM account) AND "
_ENDED = f"FROM usage WHERE {EACH_ACCOUNT}ended_at > $1 AND ended_at <= $2"
_ADD = f"""
INSERT INTO usage_rollup (account_id, span, start, key_id, price_version, {_SUMMED}, {_RARE})
SELECT account_id, span, hour / span * span, key_id, price_version, {_SUMS}, MAX(last_at), 0, 0, 0, 0
FROM (
    SELECT account_id, key_id, price_version, ended_at / {HOUR_MS} * {HOUR_MS} AS hour, {_OF_USAGE}
    {_ENDED} GROUP BY 1, 2, 3, 4
) AS by_hour CROSS JOIN (SELECT {HOUR_MS} AS span UNION ALL SELECT {DAY_MS}) AS spans WHERE span > 0
GROUP BY account_id, span, hour / span * span, key_id, price_version
ON CONFLICT (account_id, span, start, key_id, price_version) DO UPDATE SET
{_ADDED}, last_at = excluded.last_at
"""  # noqa: S608 - constants
_STEP_RARE = f"SELECT account_id, ended_at, key_id, price_version, meters {_ENDED} AND meters IS NOT NULL"
_ADD_RARE = """
UPDATE usage_rollup SET audio_input = audio_input + $6, audio_output = audio_output + $7,
  image_output = image_output + $8, searches = searches + $9
WHERE account_id = $1 AND span = $2 AND start = $3 AND key_id = $4 AND price_version = $5
"""
_FIRST = """
SELECT MIN((SELECT MIN(ended_at) FROM usage WHERE usage.account_id = account.id AND ended_at > $1)) FROM account
"""
# Sums by step of time, and by price version or by key; then what has not been summed yet.
_OF_ROLLUPS = f"{_SUMS}, MAX(last_at), {_RARE_SUMS}"
_KEPT = "FROM usage_rollup WHERE account_id = $1 AND span = $2 AND start >= $3 AND start < $4"
_TAIL = "FROM usage WHERE account_id = $1 AND ended_at > $2 AND ended_at >= $3 AND ended_at < $4"
_BY_PRICE = f"SELECT start / $5 * $5, price_version, {_OF_ROLLUPS} {_KEPT} GROUP BY 1, 2"
_BY_KEY = f"SELECT key_id, {_OF_ROLLUPS} {_KEPT} GROUP BY 1"
_OF_KEYS = f"SELECT start / $5 * $5, key_id, {_OF_ROLLUPS} {_KEPT} AND key_id IN ($6) GROUP BY 1, 2"
_TAIL_BY_PRICE = f"SELECT ended_at / $5 * $5, price_version, {_OF_USAGE} {_TAIL} GROUP BY 1, 2"
_TAIL_BY_KEY = f"SELECT ended_at / $5 * $5, key_id, {_OF_USAGE} {_TAIL} GROUP BY 1, 2"
_RARE_BY_PRICE = f"SELECT ended_at / $5 * $5, price_version, meters {_TAIL} AND meters IS NOT NULL"
_RARE_BY_KEY = f"SELECT ended_at / $5 * $5, key_id, meters {_TAIL} AND meters IS NOT NULL"
# Ends that came after the sweep: what was charged then, and what it cost. For dropped rows, `carried` knows whose.
_LATE = """
FROM journal JOIN entry ON journal_id = journal.id
LEFT JOIN usage ON usage.hold_id = CAST(SUBSTR(idempotency_key, 6) AS BIGINT)
LEFT JOIN carried ON carried.kind = 'late' AND carried.id = journal.id
WHERE journal.kind = 'late' AND journal.account_id = $1 AND created_at >= $2 AND created_at < $3
GROUP BY journal.id, created_at, usage.price_version, usage.key_id, carried.part, carried.amount
"""
_LATE_BY_PRICE = (
    f"SELECT created_at / $4 * $4, COALESCE(usage.price_version, carried.part, 0), {CHARGE}, {COST} {_LATE}"
)
_LATE_BY_KEY = f"SELECT created_at / $4 * $4, COALESCE(usage.key_id, carried.amount, 0), {CHARGE}, {COST} {_LATE}"
_LAST_USES = "SELECT key_id, MAX(last_at) FROM usage_rollup WHERE account_id = $1 AND span = 86400000 GROUP BY key_id"
_LATER_USES = "SELECT key_id, MAX(ended_at) FROM usage WHERE account_id = $1 AND ended_at > $2 GROUP BY key_id"


class Sums(msgspec.Struct):
    """What requests add up to: nano-USD, tokens, milliseconds. `first_bytes`: how many know when their answer began.

    `requests` includes `errors`, those that failed through no fault of the caller. `last_at`: when the last one ended.
    """

    requests: int = 0
    errors: int = 0
    charge: int = 0
    cost: int = 0
    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    output: int = 0
    reasoning: int = 0
    duration_ms: int = 0
    first_byte_ms: int = 0
    first_bytes: int = 0
    last_at: int = 0
    audio_input: int = 0
    audio_output: int = 0
    image_output: int = 0
    searches: int = 0

    @property
    def prompt(self) -> int:
        """All tokens read."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h + self.audio_input

    @property
    def completion(self) -> int:
        """All tokens written."""
        return self.output + self.audio_output + self.image_output

    def add(self, other: "Sums") -> None:
        # Called thousands of times for one page, and a loop over names takes four times as long.
        self.requests += other.requests
        self.errors += other.errors
        self.charge += other.charge
        self.cost += other.cost
        self.input += other.input
        self.cache_read += other.cache_read
        self.cache_write += other.cache_write
        self.cache_write_1h += other.cache_write_1h
        self.output += other.output
        self.reasoning += other.reasoning
        self.duration_ms += other.duration_ms
        self.first_byte_ms += other.first_byte_ms
        self.first_bytes += other.first_bytes
        self.audio_input += other.audio_input
        self.audio_output += other.audio_output
        self.image_output += other.image_output
        self.searches += other.searches
        self.last_at = max(self.last_at, other.last_at)

    def less(self, other: "Sums") -> "Sums":
        """What is left without what `other` adds up, a part of it. `last_at` stays."""
        kept = {name: getattr(self, name) - getattr(other, name) for name in Sums.__struct_fields__}
        return Sums(**kept | {"last_at": self.last_at})


class Period(msgspec.Struct, frozen=True):
    """From `since` on and before `until`, in steps of `step` milliseconds. `since` begins a step.

    A step is a number of hours or of days, and steps are counted from 1970.
    """

    since: int
    until: int
    step: int


# Sums by (start of step, price version or key).
Cells = dict[tuple[int, int], Sums]


async def by_price(view: Transaction, account_id: int, period: Period) -> Cells:
    """What an account used, by (start of step, price version), according to `view`, a snapshot."""
    span = HOUR_MS if period.step % DAY_MS else DAY_MS
    cells = _keyed(await view.fetch(_BY_PRICE, account_id, span, period.since, period.until, period.step))
    return _together(cells, await _not_summed(view, account_id, period, _PRICE))


async def by_key(view: Transaction, account_id: int, period: Period) -> dict[int, Sums]:
    """What an account used in a period, by key: whole days from the sums of days, the rest from those of hours."""
    first, last = -(-period.since // DAY_MS) * DAY_MS, period.until // DAY_MS * DAY_MS
    ranges = [(DAY_MS, first, last), (HOUR_MS, period.since, first), (HOUR_MS, last, period.until)]
    sums: dict[int, Sums] = {}
    for span, since, until in ranges if first <= last else [(HOUR_MS, period.since, period.until)]:
        for row in await view.fetch(_BY_KEY, account_id, span, since, until) if since < until else ():
            sums.setdefault(row[0], Sums()).add(Sums(*row[1:]))
    for (_, key_id), more in (await _not_summed(view, account_id, period, _KEY)).items():
        sums.setdefault(key_id, Sums()).add(more)
    return sums


async def of_keys(view: Transaction, account_id: int, period: Period, keys: Sequence[int]) -> Cells:
    """As `by_price`, but by key, of these keys alone: an account may have thousands of them."""
    if not keys:
        return {}
    span = HOUR_MS if period.step % DAY_MS else DAY_MS
    sql, bounds = with_list(_OF_KEYS, len(keys)), (period.since, period.until, period.step)
    cells = _keyed(await view.fetch(sql, account_id, span, *bounds, *keys))
    late = await _not_summed(view, account_id, period, _KEY)
    return _together(cells, {place: each for place, each in late.items() if place[1] in set(keys)})


class _Cell(msgspec.Struct, frozen=True):
    """What is not in the stored sums, by step and one more column: of `usage`, of the journal's late ends."""

    tail: str
    rare: str
    late: str


_PRICE = _Cell(_TAIL_BY_PRICE, _RARE_BY_PRICE, _LATE_BY_PRICE)
_KEY = _Cell(_TAIL_BY_KEY, _RARE_BY_KEY, _LATE_BY_KEY)


async def _not_summed(view: Transaction, account_id: int, period: Period, cell: _Cell) -> Cells:
    """What ended after the watermark, and what was charged late."""
    bounds = (period.since, period.until, period.step)
    tail = (account_id, await value(view, WATERMARK) or 0, *bounds)
    cells = _keyed(await view.fetch(cell.tail, *tail))
    for start, group, meters in await view.fetch(cell.rare, *tail):
        cells[start, group].add(Sums(**read_meters(meters)))
    for start, group, charge, cost in await view.fetch(cell.late, account_id, *bounds):
        cells.setdefault((start, group), Sums()).add(Sums(charge=charge, cost=cost))
    return cells


def _together(cells: Cells, more: Cells) -> Cells:
    for place, each in more.items():
        cells.setdefault(place, Sums()).add(each)
    return cells


async def last_uses(database: Database, account_id: int) -> dict[int, int]:
    """When each key of an account was last used, in milliseconds; keys never used are left out."""
    async with database.snapshot() as view:
        watermark = await value(view, WATERMARK) or 0
        uses = await view.fetch(_LAST_USES, account_id)
        return dict([*uses, *await view.fetch(_LATER_USES, account_id, watermark)])


def by_time(dialect: str, sql: str) -> str:
    """`sql`, which contains `EACH_ACCOUNT`, for the database that runs it: PostgreSQL finds rows by time alone."""
    return sql if dialect == "sqlite" else sql.replace(EACH_ACCOUNT, "")


async def roll_up(database: Database) -> None:
    """Move the watermark, and the sums with it, as far as it may go now. Steps that others take are left to them."""
    add_all, step_rare = by_time(database.dialect, _ADD), by_time(database.dialect, _STEP_RARE)

    async def add(transaction: Transaction, before: int, after: int) -> None:
        await transaction.execute(add_all, before, after)
        for account_id, ended_at, *place, meters in await transaction.fetch(step_rare, before, after):
            counts = read_meters(meters)
            rare = [counts.get(name, 0) for name in _RARE.split(", ")]
            for span in (HOUR_MS, DAY_MS):
                await transaction.execute(_ADD_RARE, account_id, span, ended_at // span * span, *place, *rare)

    async def drop(transaction: Transaction, after: int) -> None:
        await transaction.execute("DELETE FROM usage_rollup WHERE start > $1", after)

    await advance(database, WATERMARK, add, drop)


async def advance(
    database: Database,
    watermark: str,
    add: Callable[[Transaction, int, int], Awaitable[None]],
    drop: Callable[[Transaction, int], Awaitable[None]],
) -> None:
    """Rules 1 to 3 for any sums: `add` what ended after one time and up to another; `drop` what begins after a time."""
    most = MOST_MS
    for _ in range(_STEPS):
        now = await database.now()
        before = await value(database, watermark) or 0
        if now < before + max(0, SETTLED_MS - _APART_MS):
            # The clock was set back since the watermark was moved: requests may have ended before it meanwhile.
            # This whole day is summed anew, and the one before if they may have been of it.
            await _step(database, watermark, (before, (now - HOUR_MS) // DAY_MS * DAY_MS - 1), drop)
            return
        after = latest = now - SETTLED_MS
        if latest <= before:
            return
        if latest - before > most:
            first = (await database.fetch(_FIRST, before))[0][0]
            after = latest if first is None else min(latest, max(before, first - 1) + most)

        async def sums(transaction: Transaction, until: int, since: int = before) -> None:
            await add(transaction, since, until)

        started = time.monotonic()
        try:
            if not await _step(database, watermark, (before, after), sums) or after == latest:
                return
            quick = time.monotonic() - started < _WHOLE_S
            most = min(2 * most, DAY_MS) if quick else max(most // 2, min(most, MOST_MS))
        except Unavailable:
            # One statement cannot read all the requests of so long a time.
            most = min(most, after - before) // 4
            if most < _LEAST_MS:
                raise


async def _step(
    database: Database,
    watermark: str,
    move: tuple[int, int],
    change: Callable[[Transaction, int], Awaitable[None]],
) -> bool:
    """Move the watermark and change the sums in one transaction; False: another process moved it."""

    async def use_case(transaction: Transaction) -> bool:
        moved = await _moved(transaction, watermark, *move)
        if moved:
            await change(transaction, move[1])
        return moved

    return await run(database, use_case)


async def _moved(transaction: Transaction, name: str, before: int, after: int) -> bool:
    """Whether the watermark was still at `before`; of several processes, only one is told so."""
    await transaction.execute("INSERT INTO meta (name, value) VALUES ($1, 0) ON CONFLICT DO NOTHING", name)
    return bool(
        await transaction.execute("UPDATE meta SET value = $3 WHERE name = $1 AND value = $2", name, before, after)
    )


def _keyed(rows: Iterable[Row], width: int = 2) -> dict[Any, Sums]:
    """Sums by the first `width` columns; the others are in the order of the fields, and the last may lack."""
    return {row[:width]: Sums(*row[width:]) for row in rows}


# --- the proof ----------------------------------------------------------------------------------------------------


_ACCOUNTS = "SELECT id FROM account WHERE id > $1 ORDER BY id LIMIT $2"
# The walk goes from one time that has something to the next, so it ends, whatever time a damaged row claims.
_NEXT = """
SELECT (SELECT MIN(ended_at) FROM usage WHERE account_id = $1 AND ended_at >= $2),
  (SELECT MIN(start) FROM usage_rollup WHERE account_id = $1 AND start >= $2)
"""
_ALL_KEPT = f"SELECT start, key_id, price_version, {_SUMMED}, {_RARE} {_KEPT}"
_ROWS = "FROM usage WHERE account_id = $1 AND ended_at >= $3 AND ended_at < $4"
_ALL_ROWS = f"SELECT ended_at / $2 * $2, key_id, price_version, {_OF_USAGE} {_ROWS} GROUP BY 1, 2, 3"
_ALL_RARE = f"SELECT ended_at / $2 * $2, key_id, price_version, meters {_ROWS} AND meters IS NOT NULL"
_PAGE = 2_000
_WINDOW = 32 * DAY_MS
_NEVER = (1 << 63) - 1


async def check(view: Transaction, complain: Callable[[str], None], dropped_until: int = 0) -> None:
    """Name the days and hours of accounts whose sums differ from those of their requests.

    `dropped_until`: the last end of requests that are gone; days that began before it are left out.
    """
    watermark = await value(view, WATERMARK) or 0
    begin = first_whole_day(dropped_until)
    mend = made_anew("usage_rollup", WATERMARK, begin)
    async for account_id, since, until in windows(view, begin, watermark):
        for span in (HOUR_MS, DAY_MS):
            for start, key_id, version in await _differing(view, (account_id, span, since, until), watermark):
                complain(
                    f"account {account_id}: the sums of the {'day' if span == DAY_MS else 'hour'} from {start} on for "
                    f"key {key_id} and price version {version} do not agree with its requests; {mend}"
                )


def first_whole_day(dropped_until: int) -> int:
    """When the first day begins for which all requests are there."""
    return dropped_until // DAY_MS * DAY_MS + DAY_MS if dropped_until else 0


def made_anew(table: str, watermark: str, begin: int) -> str:
    """How to mend sums that are wrong; days before `begin` no longer have the requests to compute them from."""
    if not begin:
        return f"to have all sums computed again, delete all rows of {table} and the row {watermark!r} of meta"
    behind = f"delete the rows of {table} with a start of {begin} or later"
    return f"to have them computed again, {behind}, and set {watermark!r} in meta to {begin - 1}"


async def windows(view: Transaction, begin: int, watermark: int) -> AsyncIterator[tuple[int, int, int]]:
    """(Account, start, end) of windows of days that hold all its requests and sums up to the watermark."""
    async for (account_id,) in pages(view, _ACCOUNTS, _PAGE):
        since = begin
        while (since := await _next(view, account_id, since)) <= watermark:
            yield account_id, since, since + _WINDOW
            since += _WINDOW


async def _next(view: Transaction, account_id: int, since: int) -> int:
    """The start of the first day, from `since` on, on which an account has a request or a sum; else the end of time."""
    [times] = await view.fetch(_NEXT, account_id, since)
    return min((at // DAY_MS * DAY_MS for at in times if at is not None), default=_NEVER)


async def _differing(
    view: Transaction, period: tuple[int, int, int, int], watermark: int
) -> list[tuple[int, int, int]]:
    """(Start, key, price version) of sums that differ from the requests; `period`: account, span, since, until."""
    account_id, span, since, until = period
    kept = _keyed(await view.fetch(_ALL_KEPT, *period), 3)
    rows = (account_id, span, since, min(until, watermark + 1))
    actual = _keyed(await view.fetch(_ALL_ROWS, *rows), 3)
    for start, key_id, version, meters in await view.fetch(_ALL_RARE, *rows):
        # A row that cannot be read is reported by itself.
        with contextlib.suppress(ValueError, TypeError, msgspec.MsgspecError):
            actual[start, key_id, version].add(Sums(**read_meters(meters)))
    return [place for place in sorted(kept.keys() | actual.keys()) if kept.get(place) != actual.get(place)]
