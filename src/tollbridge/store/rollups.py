"""Sums of usage by the hour and by the day, exact at every moment, without a word in the hot transaction.

Rule 1  A watermark (`meta.rolled_up`, a time) divides all usage: what ended up to it is in `usage_rollup`, what ended
        after it is read from `usage` itself. Watermark and sums move in one transaction.
Rule 2  The watermark stays `SETTLED_MS` behind the clock: no batch of the ledger is that long on its way.
Rule 3  Should the clock be set back, so that requests may end before the watermark again, the watermark is set back
        too, and the sums behind it are dropped.
Rule 4  Whoever reads sums reads the watermark, the sums and the rest in one snapshot.
Rule 5  All hours and days are UTC. What a swept request cost more than it was charged (`late` in the journal) is no
        usage of its own, and in no sum.
"""

from collections.abc import Callable, Iterable

import msgspec

from tollbridge.store.db import Database, Row, Transaction, run
from tollbridge.store.ledger.rows import read_meters
from tollbridge.store.meta import value

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
WATERMARK = "rolled_up"
SETTLED_MS = 30_000
# So much time is summed in one transaction: nobody waits long for it.
MOST_MS = 600_000
# The job's turns; what it does at most in one of them.
EVERY_S = 10.0
_STEPS = 1_000

_SUMMED = (
    "requests, errors, charge, cost, input, cache_read, cache_write, cache_write_1h, output, reasoning, "
    "duration_ms, first_byte_ms, first_bytes, last_at"
)
_RARE = "audio_input, audio_output, image_output, searches"
_NAMES = f"{_SUMMED}, {_RARE}".split(", ")
# Outcomes above 2 are failures that are not the caller's doing (`values.Outcome`).
_ADDED = ", ".join(f"{name} = usage_rollup.{name} + excluded.{name}" for name in _SUMMED.split(", ")[:-1])
_OF_USAGE = (
    "COUNT(*), CAST(SUM(CASE WHEN outcome > 2 THEN 1 ELSE 0 END) AS BIGINT), CAST(SUM(charge) AS BIGINT), "
    "CAST(SUM(cost) AS BIGINT), CAST(SUM(input) AS BIGINT), CAST(SUM(cache_read) AS BIGINT), "
    "CAST(SUM(cache_write) AS BIGINT), CAST(SUM(cache_write_1h) AS BIGINT), CAST(SUM(output) AS BIGINT), "
    "CAST(SUM(reasoning) AS BIGINT), CAST(SUM(duration_ms) AS BIGINT), "
    "CAST(COALESCE(SUM(first_byte_ms), 0) AS BIGINT), COUNT(first_byte_ms), MAX(ended_at)"
)

# Each account's rows are one range of `usage_by_account`: no index of the hot table is for time alone.
_ADD = f"""
INSERT INTO usage_rollup (account_id, span, start, key_id, price_version, {_SUMMED}, {_RARE})
SELECT account_id, span, ended_at / span * span, key_id, price_version, {_OF_USAGE}, 0, 0, 0, 0
FROM account CROSS JOIN usage CROSS JOIN (SELECT 3600000 AS span UNION ALL SELECT 86400000) AS spans
WHERE usage.account_id = account.id AND ended_at > $1 AND ended_at <= $2
GROUP BY account_id, span, ended_at / span * span, key_id, price_version
ON CONFLICT (account_id, span, start, key_id, price_version) DO UPDATE SET
{_ADDED}, last_at = excluded.last_at
"""  # noqa: S608 - constants
_STEP_RARE = """
SELECT account_id, ended_at, key_id, price_version, meters FROM account CROSS JOIN usage
WHERE usage.account_id = account.id AND ended_at > $1 AND ended_at <= $2 AND meters IS NOT NULL
"""
_ADD_RARE = """
UPDATE usage_rollup SET audio_input = audio_input + $6, audio_output = audio_output + $7,
  image_output = image_output + $8, searches = searches + $9
WHERE account_id = $1 AND span = $2 AND start = $3 AND key_id = $4 AND price_version = $5
"""
_FIRST = """
SELECT MIN((SELECT MIN(ended_at) FROM usage WHERE usage.account_id = account.id AND ended_at > $1)) FROM account
"""
_READ = f"""
SELECT start, key_id, price_version, {_SUMMED}, {_RARE} FROM usage_rollup
WHERE account_id = $1 AND span = $2 AND start >= $3 AND start < $4
"""  # noqa: S608 - constants
_READ_TAIL = f"""
SELECT ended_at / $2 * $2, key_id, price_version, {_OF_USAGE} FROM usage
WHERE account_id = $1 AND ended_at > $5 AND ended_at >= $3 AND ended_at < $4
GROUP BY ended_at / $2 * $2, key_id, price_version
"""  # noqa: S608 - constants
_READ_TAIL_RARE = """
SELECT ended_at / $2 * $2, key_id, price_version, meters FROM usage
WHERE account_id = $1 AND ended_at > $5 AND ended_at >= $3 AND ended_at < $4 AND meters IS NOT NULL
"""


class Sums(msgspec.Struct, kw_only=True):
    """What requests add up to: nano-USD, tokens, milliseconds. `first_bytes`: how many say when their answer began.

    `requests` includes `errors`, those that failed through no doing of the caller. `last_at`: when the last one ended.
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
        """All tokens that were read."""
        return self.input + self.cache_read + self.cache_write + self.cache_write_1h + self.audio_input

    @property
    def completion(self) -> int:
        """All tokens that were written."""
        return self.output + self.audio_output + self.image_output

    def add(self, other: "Sums") -> None:
        last = max(self.last_at, other.last_at)
        for name in _NAMES:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.last_at = last


class Cell(msgspec.Struct, frozen=True):
    """The sums of one hour or day (from `start` on), key and price version."""

    start: int
    key_id: int
    price_version: int
    sums: Sums


async def read(database: Database, account_id: int, span: int, since: int, until: int) -> list[Cell]:
    """What an account used from `since` on and before `until`, by hours or days (`span`), keys and prices.

    `since` is the beginning of a span.
    """
    async with database.snapshot() as view:
        watermark = await value(view, WATERMARK) or 0
        period = (account_id, span, since, until)
        cells = await _rolled(view, period)
        tail = _tail(await view.fetch(_READ_TAIL, *period, watermark))
        _add_rare(tail, await view.fetch(_READ_TAIL_RARE, *period, watermark))
    cells += [Cell(start, key_id, version, sums) for (start, key_id, version), sums in tail.items()]
    return cells


async def roll_up(database: Database) -> None:
    """Move the watermark to where it may stand now, and the sums with it; steps that others take are left to them."""
    for _ in range(_STEPS):
        if not await _step(database):
            return


async def _step(database: Database) -> bool:
    """Whether there is more to do at once."""
    now = await database.now()
    before = await value(database, WATERMARK) or 0
    if now < before:
        # All of this day is summed anew.
        await run(database, lambda transaction: _set_back(transaction, before, now // DAY_MS * DAY_MS - 1))
        return False
    latest = now - SETTLED_MS
    if latest <= before:
        return False
    first = (await database.fetch(_FIRST, before))[0][0]
    after = latest if first is None else min(latest, max(before, first - 1) + MOST_MS)

    async def move(transaction: Transaction) -> bool:
        if not await _moved(transaction, before, after):
            return False
        await transaction.execute(_ADD, before, after)
        for account_id, ended_at, *place, meters in await transaction.fetch(_STEP_RARE, before, after):
            counts = read_meters(meters)
            rare = [counts.get(name, 0) for name in _RARE.split(", ")]
            for span in (HOUR_MS, DAY_MS):
                await transaction.execute(_ADD_RARE, account_id, span, ended_at // span * span, *place, *rare)
        return True

    return await run(database, move) and after < latest


async def _set_back(transaction: Transaction, before: int, after: int) -> None:
    if await _moved(transaction, before, after):
        await transaction.execute("DELETE FROM usage_rollup WHERE start > $1", after)


async def _moved(transaction: Transaction, before: int, after: int) -> bool:
    """Whether the watermark still stood at `before`; of several processes one is told so."""
    await transaction.execute("INSERT INTO meta (name, value) VALUES ($1, 0) ON CONFLICT DO NOTHING", WATERMARK)
    return bool(
        await transaction.execute("UPDATE meta SET value = $3 WHERE name = $1 AND value = $2", WATERMARK, before, after)
    )


async def _rolled(view: Transaction, period: tuple[int, int, int, int]) -> list[Cell]:
    return [_cell(row) for row in await view.fetch(_READ, *period)]


def _cell(row: Row) -> Cell:
    start, key_id, version, *sums = row
    return Cell(start, key_id, version, _sums(sums))


def _sums(values: Iterable[int]) -> Sums:
    return Sums(**dict(zip(_NAMES, values, strict=False)))


def _tail(rows: Iterable[Row]) -> dict[Row, Sums]:
    """Sums by start, key and price version."""
    return {row[:3]: _sums(row[3:]) for row in rows}


def _add_rare(sums: dict[Row, Sums], rows: Iterable[Row]) -> None:
    for *place, meters in rows:
        sums[tuple(place)].add(Sums(**read_meters(meters)))


# --- the proof ----------------------------------------------------------------------------------------------------


_ACCOUNTS = """
SELECT account.id, (SELECT MIN(ended_at) FROM usage WHERE usage.account_id = account.id),
  (SELECT MIN(start) FROM usage_rollup WHERE usage_rollup.account_id = account.id)
FROM account WHERE id > $1 ORDER BY id LIMIT $2
"""
_PAGE = 2_000
_WINDOW = 32 * DAY_MS


async def check(view: Transaction, complain: Callable[[str], None]) -> None:
    """Name the days and hours of accounts whose sums are not those of their requests."""
    watermark = await value(view, WATERMARK) or 0
    last = 0
    while accounts := await view.fetch(_ACCOUNTS, last, _PAGE):
        for account_id, *begins in accounts:
            times = [at for at in begins if at is not None]
            since = min(times) // DAY_MS * DAY_MS if times else watermark + 1
            while since <= watermark:
                until = since + _WINDOW
                for span in (HOUR_MS, DAY_MS):
                    await _compare(view, (account_id, span, since, until), watermark, complain)
                since = until
        last = accounts[-1][0]


async def _compare(
    view: Transaction, period: tuple[int, int, int, int], watermark: int, complain: Callable[[str], None]
) -> None:
    account_id, span, since, until = period
    kept = {(cell.start, cell.key_id, cell.price_version): cell.sums for cell in await _rolled(view, period)}
    summed = (account_id, span, since, min(until, watermark + 1), -1)
    actual = _tail(await view.fetch(_READ_TAIL, *summed))
    _add_rare(actual, await view.fetch(_READ_TAIL_RARE, *summed))
    for start, key_id, version in sorted(kept.keys() | actual.keys()):
        place = (start, key_id, version)
        if kept.get(place) != actual.get(place):
            name = "day" if span == DAY_MS else "hour"
            complain(
                f"account {account_id}: the sums of the {name} from {start} on for key {key_id} and price version "
                f"{version} are not those of its requests; delete usage_rollup and meta.{WATERMARK} to have all "
                "sums made anew"
            )
