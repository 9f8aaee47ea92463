"""Daily sums of all accounts' usage, for queries across accounts or over years; exact at every moment.

    async with usage_days.reading(database) as days:
        sums = await days.by(Group.ACCOUNT, since, until)

They complement those of `store.rollups`, which are kept per account, by key and price version, and by the hour. The
same rules apply, with a watermark of their own (`meta.summed_by_day`). Each request is counted three times, or four if
the customer's own credential paid: once for each `Group`. A period is from a time on (milliseconds) and before
another; parts of days at its ends are read from the requests themselves, and days are UTC.
"""

import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Any

import msgspec
from msgspec.structs import astuple

from tollbridge.store import rollups
from tollbridge.store.db import Database, Row, Transaction
from tollbridge.store.ledger.rows import read_meters
from tollbridge.store.meta import value
from tollbridge.store.rollups import EACH_ACCOUNT, advance, by_time
from tollbridge.store.rows import with_list
from tollbridge.values import DAY_MS, FOR_EVER, Meters

WATERMARK = "summed_by_day"
# As many ids are named in one statement.
_MOST_IDS = 2_000
# The end of a period without one: the first moment of a day.
EVER = FOR_EVER // DAY_MS * DAY_MS


class Group(IntEnum):
    """What requests are summed by: its id is `Sums.group`. OWN: by key, those the customer's own credential paid."""

    PRICE = 0
    ACCOUNT = 1
    KEY = 2
    OWN = 3


# Group, id, and start of the day.
_Place = tuple[int, int, int]


class Sums(msgspec.Struct, frozen=True):
    """What requests of one group add up to: tokens and nano-USD. `group`: an id, or a day's number since 1970."""

    group: int
    requests: int
    prompt: int
    output: int
    charge: int
    promo: int
    loss: int
    cost: int


_NAMES = Sums.__struct_fields__[1:]
_LIST = ", ".join(_NAMES)
_KEPT = ", ".join(f"CAST(SUM({name}) AS BIGINT)" for name in _NAMES)
_AMOUNTS = ", ".join(f"CAST(SUM({name}) AS BIGINT) AS {name}" for name in _NAMES[3:])
_OF_USAGE = (
    "COUNT(*) AS requests, CAST(SUM(input + cache_read + cache_write + cache_write_1h) AS BIGINT) AS prompt, "
    f"CAST(SUM(output) AS BIGINT) AS output, {_AMOUNTS}"
)
_GROUPS = "SELECT 0 AS grouped UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3"
_ADDED = ", ".join(f"{name} = usage_day.{name} + excluded.{name}" for name in _NAMES)
_ADD = f"""
INSERT INTO usage_day (grouped, id, start, {_LIST})
SELECT grouped, CASE grouped WHEN 0 THEN price_version WHEN 1 THEN account_id ELSE key_id END, start, {_KEPT}
FROM (
    SELECT account_id, key_id, price_version, flags & 16 AS own, ended_at / {DAY_MS} * {DAY_MS} AS start, {_OF_USAGE}
    FROM usage WHERE {EACH_ACCOUNT}ended_at > $1 AND ended_at <= $2 GROUP BY 1, 2, 3, 4, 5
) AS used CROSS JOIN ({_GROUPS}) AS groups WHERE grouped < 3 OR own <> 0 GROUP BY 1, 2, 3
ON CONFLICT (grouped, id, start) DO UPDATE SET {_ADDED}
"""  # noqa: S608 - constants
# Sound and pictures, which few requests have, count as tokens too: they are read request by request, and added.
_ADDED_RARE = f"""
SELECT key_id, price_version, flags & 16, ended_at / {DAY_MS} * {DAY_MS}, account_id, meters
FROM usage WHERE {EACH_ACCOUNT}ended_at > $1 AND ended_at <= $2 AND meters IS NOT NULL
"""  # noqa: S608
_ADD_RARE = (
    "UPDATE usage_day SET prompt = prompt + $4, output = output + $5 WHERE grouped = $1 AND id = $2 AND start = $3"
)
_DAYS = "FROM usage_day WHERE start >= $1 AND start < $2 AND grouped ="
_BY_ID = f"SELECT id, {_KEPT} {_DAYS} $3 GROUP BY id"
_OF_IDS = f"SELECT id, {_KEPT} {_DAYS} $3 AND id IN ($4) GROUP BY id"
# To add up one column and then all of a few rows takes a third of the time of all columns of all rows.
_MOST = f"SELECT id, COUNT(*) OVER () {_DAYS} $3 GROUP BY id ORDER BY SUM(charge) DESC, id LIMIT $4"
_BY_START = f"SELECT start / {DAY_MS}, {_KEPT} {_DAYS} 0 GROUP BY start"
_OF_ID = f"SELECT id, {_KEPT} {_DAYS} $3 AND id = $4 GROUP BY id"
_OF_KEYS = f"SELECT id, {_KEPT} {_DAYS} 2 AND id IN (SELECT id FROM api_key WHERE account_id = $3) GROUP BY id"  # noqa: S608
_ALL = f"FROM usage WHERE {EACH_ACCOUNT}ended_at >= $1 AND ended_at < $2"
# Two statements each: the sums of all requests in a group, and the seldom used meters of each request that has any.
_ALL_BY = {
    Group.PRICE: (
        f"SELECT price_version, {_OF_USAGE} {_ALL} GROUP BY 1",
        f"SELECT price_version, meters {_ALL} AND meters IS NOT NULL",
    ),
    Group.ACCOUNT: (
        f"SELECT account_id, {_OF_USAGE} {_ALL} GROUP BY 1",
        f"SELECT account_id, meters {_ALL} AND meters IS NOT NULL",
    ),
    Group.KEY: (
        f"SELECT key_id, {_OF_USAGE} {_ALL} GROUP BY 1",
        f"SELECT key_id, meters {_ALL} AND meters IS NOT NULL",
    ),
    Group.OWN: (
        f"SELECT key_id, {_OF_USAGE} {_ALL} AND flags & 16 <> 0 GROUP BY 1",
        f"SELECT key_id, meters {_ALL} AND flags & 16 <> 0 AND meters IS NOT NULL",
    ),
}
_ALL_BY_DAY = (
    f"SELECT ended_at / {DAY_MS}, {_OF_USAGE} {_ALL} GROUP BY 1",
    f"SELECT ended_at / {DAY_MS}, meters {_ALL} AND meters IS NOT NULL",
)
_ITS = "FROM usage WHERE account_id = $3 AND ended_at >= $1 AND ended_at < $2"
_ITS_ALL = (
    f"SELECT account_id, {_OF_USAGE} {_ITS} GROUP BY 1",
    f"SELECT account_id, meters {_ITS} AND meters IS NOT NULL",
)
_ITS_BY_KEY = (
    f"SELECT key_id, {_OF_USAGE} {_ITS} GROUP BY 1",
    f"SELECT key_id, meters {_ITS} AND meters IS NOT NULL",
)
_ITS_OF_KEY = {
    Group.KEY: (
        f"SELECT key_id, {_OF_USAGE} {_ITS} AND key_id = $4 GROUP BY 1",
        f"SELECT key_id, meters {_ITS} AND key_id = $4 AND meters IS NOT NULL",
    ),
    Group.OWN: (
        f"SELECT key_id, {_OF_USAGE} {_ITS} AND key_id = $4 AND flags & 16 <> 0 GROUP BY 1",
        f"SELECT key_id, meters {_ITS} AND key_id = $4 AND flags & 16 <> 0 AND meters IS NOT NULL",
    ),
}


async def roll_up(database: Database) -> None:
    """Move the watermark, and the sums with it, as far as it may go now."""
    add_all, added_rare = by_time(database.dialect, _ADD), by_time(database.dialect, _ADDED_RARE)

    async def add(transaction: Transaction, before: int, after: int) -> None:
        await transaction.execute(add_all, before, after)
        rare: dict[_Place, list[int]] = {}
        for *place, account_id, meters in await transaction.fetch(added_rare, before, after):
            sums = Meters(**read_meters(meters))
            for each in _places(tuple(place), account_id):
                _more(rare, each, [sums.prompt, sums.completion])
        for each, more in sorted(rare.items()):
            await transaction.execute(_ADD_RARE, *each, *more)

    async def drop(transaction: Transaction, after: int) -> None:
        await transaction.execute("DELETE FROM usage_day WHERE start > $1", after)

    await advance(database, WATERMARK, add, drop)


class Days:
    """The sums at one moment. `view` is the snapshot, for reading anything else from it."""

    def __init__(self, view: Transaction, dialect: str, watermark: int) -> None:
        self.view = view
        self._dialect = dialect
        self._watermark = watermark

    async def by(self, group: Group, since: int, until: int) -> list[Sums]:
        """By the group's ids, those with any requests."""
        return await self._collect((_BY_ID, group), (_ALL_BY[group],), since, until)

    async def most_charged(
        self, since: int, until: int, count: int, also: Collection[int] = ()
    ) -> tuple[list[Sums], int]:
        """The accounts that were charged most, at least `count` of those that there are, and how many there are.

        `also`: accounts that are wanted in any case.
        """
        first, last = -(-since // DAY_MS) * DAY_MS, until // DAY_MS * DAY_MS
        most = await self.view.fetch(_MOST, first, last, Group.ACCOUNT, count) if first < last else []
        found: dict[int, Sums] = {}
        await self._add_rows(found, (_ALL_BY[Group.ACCOUNT],), since, until)
        wanted = sorted({row[0] for row in most} | found.keys() | set(also))
        if len(wanted) > _MOST_IDS:  # the sums are far behind
            sums = await self.by(Group.ACCOUNT, since, until)
            return sums, len(sums)
        new = len(found)
        if wanted and first < last:
            for row in await self.view.fetch(with_list(_OF_IDS, len(wanted)), first, last, Group.ACCOUNT, *wanted):
                new -= row[0] in found
                found[row[0]] = _plus(found.get(row[0]), row)
        return list(found.values()), (most[0][1] if most else 0) + new

    async def by_day(self, since: int, until: int) -> list[Sums]:
        """By the day's number since 1970."""
        return await self._collect((_BY_START,), (_ALL_BY_DAY,), since, until)

    async def of_account(self, account_id: int, since: int, until: int) -> Sums:
        """Everything of one account."""
        kept = (_OF_ID, Group.ACCOUNT, account_id)
        return _only(account_id, await self._collect(kept, (_ITS_ALL, account_id), since, until))

    async def of_keys(self, account_id: int, since: int, until: int) -> list[Sums]:
        """Each key of one account that was used."""
        return await self._collect((_OF_KEYS, account_id), (_ITS_BY_KEY, account_id), since, until)

    async def of_key(self, key: tuple[int, int], since: int, group: Group = Group.KEY) -> Sums:
        """One key since a time; `key`: the ids of its account and of itself. `Group.OWN`: only what that counts."""
        rows = (_ITS_OF_KEY[group], *key)
        return _only(key[1], await self._collect((_OF_ID, group, key[1]), rows, since, EVER))

    async def _collect(self, kept: tuple[Any, ...], rows: tuple[Any, ...], since: int, until: int) -> list[Sums]:
        """A period's whole days from the sums, the rest of it from the requests; groups in the order of ids.

        `kept` and `rows` each hold a statement (`rows`: two) and the arguments that follow the period.
        """
        first, last = -(-since // DAY_MS) * DAY_MS, until // DAY_MS * DAY_MS
        found: dict[int, Sums] = {}
        if first < last:
            found = {row[0]: Sums(*row) for row in await self.view.fetch(kept[0], first, last, *kept[1:])}
        await self._add_rows(found, rows, since, until)
        return [found[group] for group in sorted(found)]

    async def _add_rows(self, found: dict[int, Sums], rows: tuple[Any, ...], since: int, until: int) -> None:
        """Add what the sums of a period's whole days do not hold, from the requests themselves."""
        first, last = -(-since // DAY_MS) * DAY_MS, until // DAY_MS * DAY_MS
        ranges = [(since, until)]
        if first < last:
            ranges = [(since, first), (max(first, self._watermark + 1), last), (last, until)]
        statement, rare = (by_time(self._dialect, each) for each in rows[0])
        for begin, end in ranges:
            if begin < end:
                for row in await self.view.fetch(statement, begin, end, *rows[1:]):
                    found[row[0]] = _plus(found.get(row[0]), row)
                for group, meters in await self.view.fetch(rare, begin, end, *rows[1:]):
                    sums = Meters(**read_meters(meters))
                    found[group] = _plus(found[group], (group, 0, sums.prompt, sums.completion, 0, 0, 0, 0))


def _only(id_: int, found: list[Sums]) -> Sums:
    return found[0] if found else Sums(id_, *([0] * len(_NAMES)))


def _plus(before: Sums | None, row: Row) -> Sums:
    if before is None:
        return Sums(*row)
    return Sums(row[0], *(ours + theirs for ours, theirs in zip(astuple(before)[1:], row[1:], strict=True)))


def _places(of: Row, account_id: int) -> list[_Place]:
    """Where a request counts; `of`: its key, its price version, whether the customer's own credential paid, its day."""
    key_id, version, own, start = of
    places = [(Group.PRICE, version, start), (Group.ACCOUNT, account_id, start), (Group.KEY, key_id, start)]
    return [*places, *([(Group.OWN, key_id, start)] if own else [])]


def _more(sums: dict[_Place, list[int]], place: _Place, more: list[int]) -> None:
    before = sums.get(place)
    sums[place] = more if before is None else [ours + theirs for ours, theirs in zip(before, more, strict=True)]


@asynccontextmanager
async def reading(database: Database) -> AsyncIterator[Days]:
    """The sums as they are at this moment; nobody waits for the reader."""
    async with database.snapshot() as view:
        yield Days(view, database.dialect, await value(view, WATERMARK) or 0)


# --- the proof ----------------------------------------------------------------------------------------------------


# Everything of one day, in all groupings; and an account's days in the sums of `store.rollups`.
_ONE_DAY = """
SELECT start, MIN(requests), MAX(requests), MIN(prompt), MAX(prompt), MIN(output), MAX(output), MIN(charge),
  MAX(charge), MIN(promo), MAX(promo), MIN(loss), MAX(loss), MIN(cost), MAX(cost), COUNT(*)
FROM (
    SELECT grouped, start, SUM(requests) AS requests, SUM(prompt) AS prompt, SUM(output) AS output,
      SUM(charge) AS charge, SUM(promo) AS promo, SUM(loss) AS loss, SUM(cost) AS cost
    FROM usage_day WHERE grouped < 3 GROUP BY grouped, start
) AS day GROUP BY start
"""
_ROLLED = f"""
SELECT key_id, price_version, start, CAST(SUM(requests) AS BIGINT),
  CAST(SUM(input + cache_read + cache_write + cache_write_1h + audio_input) AS BIGINT),
  CAST(SUM(output + audio_output + image_output) AS BIGINT), CAST(SUM(charge) AS BIGINT), CAST(SUM(cost) AS BIGINT)
FROM usage_rollup WHERE account_id = $1 AND span = {DAY_MS} AND start >= $2 AND start < $3 GROUP BY 1, 2, 3
"""  # noqa: S608 - constants
_KEPT_OF_ACCOUNT = f"""
SELECT grouped, id, start, {_LIST} FROM usage_day
WHERE start >= $2 AND start < $3 AND grouped = 1 AND id = $1
UNION ALL
SELECT grouped, id, start, {_LIST} FROM usage_day
WHERE start >= $2 AND start < $3 AND grouped IN (2, 3) AND id IN (SELECT id FROM api_key WHERE account_id = $1)
"""  # noqa: S608
_KEPT_OF_PRICES = f"""
SELECT grouped, id, start, {_LIST} FROM usage_day WHERE grouped = 0 AND start >= $1 AND start < $2
"""  # noqa: S608
_COUNT_KEPT = "SELECT COUNT(*) FROM usage_day WHERE start >= $1"
_PLACE = f"key_id, price_version, flags & 16, ended_at / {DAY_MS} * {DAY_MS}"
_ROWS = "FROM usage WHERE account_id = $1 AND ended_at >= $2 AND ended_at < $3"
_ALL_ROWS = f"""
SELECT {_PLACE}, COUNT(*), CAST(SUM(input + cache_read + cache_write + cache_write_1h) AS BIGINT),
  CAST(SUM(output) AS BIGINT), {_AMOUNTS} {_ROWS} GROUP BY 1, 2, 3, 4
"""
_ALL_RARE = f"SELECT {_PLACE}, meters {_ROWS} AND meters IS NOT NULL"


async def check(view: Transaction, complain: Callable[[str], None], dropped_until: int = 0) -> None:
    """Name the days whose sums differ from those of their requests.

    `dropped_until`: the last end of requests that are gone. For days that began before it, the sums must agree with
    each other and with `store.rollups`.
    """
    watermark, other = [await value(view, name) or 0 for name in (WATERMARK, rollups.WATERMARK)]
    begin = rollups.first_whole_day(dropped_until)
    both = min(begin, min(watermark, other) // DAY_MS * DAY_MS)
    wrong = {start for start, *pairs, count in await view.fetch(_ONE_DAY) if count != 3 or pairs[::2] != pairs[1::2]}
    wrong |= await _unlike_rollups(view, both) | await _unlike_requests(view, begin, watermark, complain)
    for start in sorted(wrong):
        mend = rollups.made_anew("usage_day", WATERMARK, begin) if start >= begin else "they cannot be computed again"
        complain(f"the sums of all accounts of the day from {start} on do not agree with its requests; {mend}")


async def _unlike_requests(view: Transaction, begin: int, watermark: int, complain: Callable[[str], None]) -> set[int]:
    """The days from `begin` on with a sum that differs from the requests up to the watermark."""
    wrong: set[int] = set()
    of_prices: dict[_Place, list[int]] = {}
    known = 0
    async for account_id, since, until in rollups.windows(view, begin, watermark):
        actual: dict[_Place, list[int]] = {}
        for place, sums in await _of_requests(view, account_id, since, until, watermark):
            for each in _places(place, account_id):
                _more(of_prices if each[0] == Group.PRICE else actual, each, sums)
        rows = await view.fetch(_KEPT_OF_ACCOUNT, account_id, since, until)
        known += len(rows)
        wrong |= _differing(rows, actual)
    rows = await view.fetch(_KEPT_OF_PRICES, begin, EVER)
    known += len(rows)
    [(there,)] = await view.fetch(_COUNT_KEPT, begin)
    if there != known:
        complain(f"{there - known} sums of all accounts from {begin} on belong to no account or key that exists")
    return wrong | _differing(rows, of_prices)


async def _unlike_rollups(view: Transaction, end: int) -> set[int]:
    """The days before `end` with a sum that differs from `store.rollups`, which does not count gifts or losses."""
    wrong: set[int] = set()
    of_prices: dict[_Place, list[int]] = {}
    async for account_id, since, until in rollups.windows(view, 0, end - 1):
        period = (account_id, since, min(until, end))
        actual: dict[_Place, list[int]] = {}
        for key_id, version, start, *sums in await view.fetch(_ROLLED, *period):
            for each in _places((key_id, version, 0, start), account_id):
                _more(of_prices if each[0] == Group.PRICE else actual, each, sums)
        rows = await view.fetch(_KEPT_OF_ACCOUNT, *period)
        wrong |= _differing([_as_rolled(row) for row in rows if row[0] != Group.OWN], actual)
    rows = await view.fetch(_KEPT_OF_PRICES, 0, end)
    return wrong | _differing([_as_rolled(row) for row in rows], of_prices)


def _as_rolled(row: Row) -> Row:
    *place, requests, prompt, output, charge, _, _, cost = row
    return (*place, requests, prompt, output, charge, cost)


async def _of_requests(
    view: Transaction, account_id: int, since: int, until: int, watermark: int
) -> list[tuple[Row, list[int]]]:
    """(Key, price version, whether the customer's own credential paid, day) and the sums of an account's requests."""
    period = (account_id, since, min(until, watermark + 1))
    found = [(tuple(row[:4]), list(row[4:])) for row in await view.fetch(_ALL_ROWS, *period)]
    for *place, meters in await view.fetch(_ALL_RARE, *period):
        # A row that cannot be read is reported by itself.
        with contextlib.suppress(ValueError, TypeError, msgspec.MsgspecError):
            rare = Meters(**read_meters(meters))
            found.append((tuple(place), [0, rare.prompt, rare.completion, 0, 0, 0, 0]))
    return found


def _differing(kept: list[Row], actual: dict[_Place, list[int]]) -> set[int]:
    """The days whose sums differ from those that are kept."""
    found = {(row[0], row[1], row[2]): list(row[3:]) for row in kept}
    return {place[2] for place in found.keys() | actual.keys() if found.get(place) != actual.get(place)}
