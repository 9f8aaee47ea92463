"""Sums of all accounts' usage by the day, for whoever asks across accounts or over years; exact at every moment.

    async with usage_days.reading(database) as days:
        sums = await days.by(Group.ACCOUNT, since, until)

They stand beside those of `store.rollups`, which are one account's, by key and price version and by the hour, under the
same rules and a watermark of their own (`meta.summed_by_day`). Each request is counted three times, four times where
the customer's own credential paid: once for each `Group`. A period is from a time on (milliseconds) and before
another; parts of days at its ends are read from the requests themselves, and days are UTC.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from enum import IntEnum
from typing import Any

import msgspec
from msgspec.structs import astuple

from tollbridge.store import rollups
from tollbridge.store.db import Database, Row, Transaction
from tollbridge.store.meta import value
from tollbridge.store.rollups import DAY_MS, EACH_ACCOUNT, advance, by_time

WATERMARK = "summed_by_day"
# The end of a period that has none: the first moment of a day.
EVER = (1 << 62) // DAY_MS * DAY_MS


class Group(IntEnum):
    """What requests are added up by: its id is `Sums.group`. OWN: by key, those that its own credential paid for."""

    PRICE = 0
    ACCOUNT = 1
    KEY = 2
    OWN = 3


class Sums(msgspec.Struct, frozen=True):
    """What requests of one group add up to: tokens, and nano-USD. `group`: an id, or a day's number since 1970."""

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
_OF_USAGE = (
    "COUNT(*) AS requests, CAST(SUM(input + cache_read + cache_write + cache_write_1h) AS BIGINT) AS prompt, "
    + ", ".join(f"CAST(SUM({name}) AS BIGINT) AS {name}" for name in _NAMES[2:])
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
_DAYS = "FROM usage_day WHERE start >= $1 AND start < $2 AND grouped ="
_BY_ID = f"SELECT id, {_KEPT} {_DAYS} $3 GROUP BY id"
_BY_START = f"SELECT start / {DAY_MS}, {_KEPT} {_DAYS} 0 GROUP BY start"
_OF_ID = f"SELECT id, {_KEPT} {_DAYS} $3 AND id = $4 GROUP BY id"
_OF_KEYS = f"SELECT id, {_KEPT} {_DAYS} 2 AND id IN (SELECT id FROM api_key WHERE account_id = $3) GROUP BY id"  # noqa: S608
_ALL = f"FROM usage WHERE {EACH_ACCOUNT}ended_at >= $1 AND ended_at < $2"
_ALL_BY = {
    Group.PRICE: f"SELECT price_version, {_OF_USAGE} {_ALL} GROUP BY 1",
    Group.ACCOUNT: f"SELECT account_id, {_OF_USAGE} {_ALL} GROUP BY 1",
    Group.KEY: f"SELECT key_id, {_OF_USAGE} {_ALL} GROUP BY 1",
    Group.OWN: f"SELECT key_id, {_OF_USAGE} {_ALL} AND flags & 16 <> 0 GROUP BY 1",
}
_ALL_BY_DAY = f"SELECT ended_at / {DAY_MS}, {_OF_USAGE} {_ALL} GROUP BY 1"
_ITS = "FROM usage WHERE account_id = $3 AND ended_at >= $1 AND ended_at < $2"
_ITS_ALL = f"SELECT account_id, {_OF_USAGE} {_ITS} GROUP BY 1"
_ITS_BY_KEY = f"SELECT key_id, {_OF_USAGE} {_ITS} GROUP BY 1"
_ITS_OF_KEY = {
    Group.KEY: f"SELECT key_id, {_OF_USAGE} {_ITS} AND key_id = $4 GROUP BY 1",
    Group.OWN: f"SELECT key_id, {_OF_USAGE} {_ITS} AND key_id = $4 AND flags & 16 <> 0 GROUP BY 1",
}


async def roll_up(database: Database) -> None:
    """Move the watermark to where it may stand now, and the sums with it."""
    sql = by_time(database.dialect, _ADD)

    async def add(transaction: Transaction, before: int, after: int) -> None:
        await transaction.execute(sql, before, after)

    async def drop(transaction: Transaction, after: int) -> None:
        await transaction.execute("DELETE FROM usage_day WHERE start > $1", after)

    await advance(database, WATERMARK, add, drop)


class Days:
    """The sums at one moment. `view` is the snapshot, for whatever else is to be read of it."""

    def __init__(self, view: Transaction, dialect: str, watermark: int) -> None:
        self.view = view
        self._dialect = dialect
        self._watermark = watermark

    async def by(self, group: Group, since: int, until: int) -> list[Sums]:
        """By the group's ids, those of which there was any."""
        return await self._collect((_BY_ID, group), (_ALL_BY[group],), since, until)

    async def by_day(self, since: int, until: int) -> list[Sums]:
        """By the day's number since 1970."""
        return await self._collect((_BY_START,), (_ALL_BY_DAY,), since, until)

    async def of_account(self, account_id: int, since: int, until: int) -> Sums:
        """All of one account."""
        kept = (_OF_ID, Group.ACCOUNT, account_id)
        return _only(account_id, await self._collect(kept, (_ITS_ALL, account_id), since, until))

    async def of_keys(self, account_id: int, since: int, until: int) -> list[Sums]:
        """Each key of one account that was used."""
        return await self._collect((_OF_KEYS, account_id), (_ITS_BY_KEY, account_id), since, until)

    async def of_key(self, key: tuple[int, int], since: int, group: Group = Group.KEY) -> Sums:
        """One key since a time; `key`: the ids of its account and of itself. `Group.OWN`: what that counts, only."""
        rows = (_ITS_OF_KEY[group], *key)
        return _only(key[1], await self._collect((_OF_ID, group, key[1]), rows, since, EVER))

    async def _collect(self, kept: tuple[Any, ...], rows: tuple[Any, ...], since: int, until: int) -> list[Sums]:
        """The whole days of a period from the sums, the rest of it from the requests; groups in the order of ids.

        Each is a statement and its arguments behind the period.
        """
        first, last = -(-since // DAY_MS) * DAY_MS, until // DAY_MS * DAY_MS
        ranges = [(since, until)]
        found: dict[int, Sums] = {}
        if first < last:
            found = {row[0]: Sums(*row) for row in await self.view.fetch(kept[0], first, last, *kept[1:])}
            ranges = [(since, first), (max(first, self._watermark + 1), last), (last, until)]
        statement = by_time(self._dialect, rows[0])
        for begin, end in ranges:
            if begin < end:
                for row in await self.view.fetch(statement, begin, end, *rows[1:]):
                    found[row[0]] = _plus(found.get(row[0]), row)
        return [found[group] for group in sorted(found)]


def _only(id_: int, found: list[Sums]) -> Sums:
    return found[0] if found else Sums(id_, *([0] * len(_NAMES)))


def _plus(before: Sums | None, row: Row) -> Sums:
    if before is None:
        return Sums(*row)
    return Sums(row[0], *(ours + theirs for ours, theirs in zip(astuple(before)[1:], row[1:], strict=True)))


@asynccontextmanager
async def reading(database: Database) -> AsyncIterator[Days]:
    """The sums as they are at this moment; nobody waits for it."""
    async with database.snapshot() as view:
        yield Days(view, database.dialect, await value(view, WATERMARK) or 0)


# --- the proof ----------------------------------------------------------------------------------------------------


# All of one day, by whatever it is grouped; and one account's day, here and in the sums of `store.rollups`.
_ONE_DAY = """
SELECT start, MIN(requests), MAX(requests), MIN(charge), MAX(charge), MIN(promo), MAX(promo), MIN(loss), MAX(loss),
  MIN(cost), MAX(cost), COUNT(*)
FROM (
    SELECT grouped, start, SUM(requests) AS requests, SUM(charge) AS charge, SUM(promo) AS promo, SUM(loss) AS loss,
      SUM(cost) AS cost
    FROM usage_day WHERE grouped < 3 GROUP BY grouped, start
) AS day GROUP BY start
"""
_BOTH = """
SELECT id, start, SUM(requests), SUM(charge), SUM(cost) FROM (
    SELECT id, start, requests, charge, cost FROM usage_day WHERE grouped = 1 AND start < $1
    UNION ALL
    SELECT account_id, start, -requests, -charge, -cost FROM usage_rollup WHERE span = 86400000 AND start < $1
) AS used GROUP BY id, start HAVING SUM(requests) <> 0 OR SUM(charge) <> 0 OR SUM(cost) <> 0
"""


async def check(view: Transaction, complain: Callable[[str], None]) -> None:
    """Name the days whose sums are not those of `store.rollups`, which are proved by themselves."""
    watermarks = [await value(view, name) or 0 for name in (WATERMARK, rollups.WATERMARK)]
    wrong = {start for start, *pairs, count in await view.fetch(_ONE_DAY) if count != 3 or pairs[::2] != pairs[1::2]}
    wrong |= {row[1] for row in await view.fetch(_BOTH, min(watermarks) // DAY_MS * DAY_MS)}
    for start in sorted(wrong):
        complain(
            f"the sums of all accounts of the day from {start} on are not those of its requests; "
            f"delete usage_day and meta.{WATERMARK} to have all sums made anew"
        )
