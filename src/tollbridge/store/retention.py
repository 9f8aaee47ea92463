"""Dropping old requests without losing what they add up to.

Rule 1  Only sealed ranges are dropped, in the order of each chain, after the seal has been proved once more. By then
        everything in them is in the sums (`store.rollups`, `store.usage_days`), and exported if there is an export.
Rule 2  What a part of such a range adds up to is added to `carried` in the transaction that deletes it: per account
        `requests`, `charge`, `promo`, `loss` and `cost`; `spent` per key with a limit (`part`: since when it counts);
        `tokens` per account and month (`part`). Balances are proved from these and from the rows that are left.
        `late` per transaction that charged a swept request more: its price version (`part`) and key (`amount`).
Rule 3  Each such transaction leaves a `closing`: the range, and a sum over all of `carried`, chained to the one before
        it. `verify` detects any amount, closing or seal that was edited by hand.
Rule 4  Seals stay. A seal whose rows are gone is proved by its closings: together they count as many rows as it did.

That sum adds the SHA-256 of all amounts, as numbers modulo 2**256, so that a changed amount costs only two hashes.
"""

import hashlib
from collections.abc import Callable

import msgspec

from tollbridge.errors import TollbridgeError
from tollbridge.store import rollups, seal, usage_days
from tollbridge.store.db import Database, Row, Transaction, run
from tollbridge.store.meta import next_value, value
from tollbridge.store.rows import pages
from tollbridge.store.seal import Digest, Seal
from tollbridge.values import DAY_MS, FOR_EVER, HOUR_MS

EVERY_S = 3_600.0
# What one transaction drops: nobody waits long for it.
BATCH = 1_000
SPENT, TOKENS = "spent", "tokens"
_LOCK = "closings"

_RANGE = "hold_id > $1 AND hold_id <= $2"
# 7 is `Outcome.SWEPT`: no other request is charged more afterwards.
_DELTAS = f"""
SELECT kind, account_id AS id, 0 AS part, CAST(SUM(CASE kind WHEN 'charge' THEN charge WHEN 'promo' THEN promo
  WHEN 'loss' THEN loss WHEN 'cost' THEN cost ELSE 1 END) AS BIGINT) AS amount
FROM usage CROSS JOIN (SELECT 'requests' AS kind UNION ALL SELECT 'charge' UNION ALL SELECT 'promo'
  UNION ALL SELECT 'loss' UNION ALL SELECT 'cost') AS kinds
WHERE {_RANGE} GROUP BY kind, account_id
UNION ALL
SELECT 'spent', usage.key_id, COALESCE(since, 0), CAST(SUM(charge) AS BIGINT)
FROM usage LEFT JOIN key_spend ON key_spend.key_id = usage.key_id
WHERE {_RANGE} AND flags & 8 <> 0 AND ended_at >= COALESCE(since, 0) GROUP BY usage.key_id, since
UNION ALL
SELECT 'tokens', usage.account_id, period, CAST(SUM(allowance) AS BIGINT)
FROM usage JOIN hold ON hold.id = hold_id WHERE {_RANGE} AND allowance IS NOT NULL GROUP BY usage.account_id, period
UNION ALL
SELECT 'late', journal.id, price_version, usage.key_id
FROM usage JOIN journal ON idempotency_key = 'late/' || CAST(hold_id AS TEXT)
WHERE {_RANGE} AND outcome = 7
"""  # noqa: S608 - constants
_CARRY = f"""
INSERT INTO carried (kind, id, part, amount) SELECT kind, id, part, amount FROM ({_DELTAS}) AS deltas WHERE amount <> 0
ON CONFLICT (kind, id, part) DO UPDATE SET amount = carried.amount + excluded.amount RETURNING kind, id, part, amount
"""  # noqa: S608
_COUNTS = f"""
SELECT (SELECT COUNT(*) FROM hold WHERE id > $1 AND id <= $2), COUNT(*), MAX(ended_at) FROM usage WHERE {_RANGE}
"""  # noqa: S608
_LAST = "SELECT sum, digest FROM closing ORDER BY id DESC LIMIT 1"
_DELETE = (
    "DELETE FROM usage WHERE hold_id > $1 AND hold_id <= $2",
    "DELETE FROM hold_step WHERE hold_id > $1 AND hold_id <= $2",
    "DELETE FROM hold WHERE id > $1 AND id <= $2",
)
_ADD = """
INSERT INTO closing (chain, first_id, last_id, row_count, until, sum, digest, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_CLOSINGS = (
    "SELECT id, chain, first_id, last_id, row_count, until, created_at, sum, digest FROM closing "
    "WHERE id > $1 ORDER BY id LIMIT $2"
)
_BATCH_END = "SELECT MAX(id) FROM (SELECT id FROM hold WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3) AS batch"
_PAGE = 2_000
_SUMS = (
    "CAST(COALESCE(SUM(requests), 0) AS BIGINT), CAST(COALESCE(SUM(charge), 0) AS BIGINT), "
    "CAST(COALESCE(SUM(cost), 0) AS BIGINT)"
)
_GIFTS = "CAST(COALESCE(SUM(promo), 0) AS BIGINT), CAST(COALESCE(SUM(loss), 0) AS BIGINT)"
_LEFT = (
    f"SELECT COUNT(*), CAST(COALESCE(SUM(charge), 0) AS BIGINT), CAST(COALESCE(SUM(cost), 0) AS BIGINT), {_GIFTS} "  # noqa: S608
    "FROM usage WHERE account_id = $1 AND ended_at < $2 AND ended_at <= $3"
)
_ROLLED = f"SELECT {_SUMS} FROM usage_rollup WHERE account_id = $1 AND start < $2 AND span = $3"  # noqa: S608
_BY_DAY = f"SELECT {_SUMS}, {_GIFTS} FROM usage_day WHERE grouped = 1 AND id = $1 AND start < $2"  # noqa: S608


class Unproved(TollbridgeError):
    """A sealed range is not what its seal says: nothing of it is dropped."""


class Dropped(msgspec.Struct):
    """What is gone: up to which id of each chain, how many rows up to which ids, the last end of all of them.

    `carried`: what they come to, by kind, id and part.
    """

    positions: dict[str, int] = msgspec.field(default_factory=dict)
    counts: dict[str, list[tuple[int, int]]] = msgspec.field(default_factory=dict)
    until: int = 0
    carried: dict[tuple[str, int, int], int] = msgspec.field(default_factory=dict)


async def horizon(database: Transaction) -> int:
    """The last end of all requests that were dropped, in milliseconds: before it some are missing. 0: none is."""
    rows = await database.fetch("SELECT MAX(until) FROM closing")
    return int(rows[0][0] or 0)


async def drop_old(database: Database, keep_ms: int, exported: int = FOR_EVER) -> int:
    """Drop what ended more than `keep_ms` ago, and was exported up to a time; how many requests.

    Unproved: a seal is broken. It may be stopped at any moment, and run from several processes.
    """
    summed = [await value(database, name) or 0 for name in (rollups.WATERMARK, usage_days.WATERMARK)]
    limit = min(await database.now() - keep_ms, exported, *summed)
    chains = await seal.read(database)
    positions: dict[str, int] = dict(await database.fetch("SELECT chain, MAX(last_id) FROM closing GROUP BY chain"))
    count = 0
    for chain, seals in chains.items():
        before = b""
        for sealed in seals if chain.startswith(seal.USAGE) else ():
            if sealed.at > limit:
                break
            after = max(positions.get(chain, 0), sealed.first - 1)
            if after < sealed.first:
                await _prove(database, sealed, before)
            while after < sealed.last:
                after, dropped = await _drop(database, sealed, after)
                count += dropped
            before = sealed.digest
    return count


async def _prove(database: Database, sealed: Seal, before: bytes) -> None:
    digest = Digest(sealed.chain, sealed.first, before)
    async with database.snapshot() as view:
        async for row, parts in seal.holds(view, sealed.first - 1, sealed.last):
            digest.add(row, parts)
    if digest.count != sealed.count or digest.close(sealed.last, sealed.at) != sealed.digest:
        raise Unproved(
            f"the seal over {sealed.first} to {sealed.last} of {sealed.chain} is broken: no request in it is dropped"
        )


async def _drop(database: Database, sealed: Seal, after: int) -> tuple[int, int]:
    """One batch behind `after`; up to which id all is dropped now, and how many were dropped here."""
    found = (await database.fetch(_BATCH_END, after, sealed.last, BATCH))[0][0]
    until = sealed.last if found is None else int(found)
    now = await database.now()

    async def use_case(transaction: Transaction) -> tuple[int, int]:
        # One after the other, whichever chain it is.
        await next_value(transaction, _LOCK)
        there = await transaction.fetch("SELECT MAX(last_id) FROM closing WHERE chain = $1", sealed.chain)
        if (there[0][0] or 0) > after:
            return int(there[0][0]), 0
        holds, ends, last_end = (await transaction.fetch(_COUNTS, after, until))[0]
        if holds != ends:
            raise Unproved(f"a hold between {after + 1} and {until} is open though it is sealed")
        deltas = {row[:3]: row[3] for row in await transaction.fetch(_DELTAS, after, until)}
        carried = await transaction.fetch(_CARRY, after, until)
        for statement in _DELETE:
            await transaction.execute(statement, after, until)
        last = await transaction.fetch(_LAST)
        total, digest = (int.from_bytes(last[0][0], "big"), bytes(last[0][1])) if last else (0, b"")
        total += sum(_hashed(row) - _hashed((*row[:3], row[3] - deltas[row[:3]])) for row in carried)
        total %= 1 << 256
        facts = (sealed.chain, after + 1, until, holds, last_end or 0, now)
        await transaction.execute(_ADD, *facts[:5], total.to_bytes(32, "big"), _chained(digest, facts, total), now)
        return until, holds

    return await run(database, use_case)


def _hashed(row: Row) -> int:
    """Of an amount that is there: one that is 0 might as well not be."""
    return int.from_bytes(hashlib.sha256(msgspec.json.encode(row)).digest(), "big") if row[3] else 0


def _chained(before: bytes, facts: Row, total: int) -> bytes:
    return hashlib.sha256(msgspec.json.encode((before, *facts, f"{total:064x}"))).digest()


# --- the proof ----------------------------------------------------------------------------------------------------


async def read(view: Transaction, complain: Callable[[str], None]) -> Dropped:
    """What was dropped and what it comes to; `complain` where that is not what was left of it."""
    dropped, digest, total = Dropped(), b"", 0
    async for _, *facts, summed, chained in pages(view, _CLOSINGS, _PAGE):
        chain, first, last, count, until, _ = facts
        total = int.from_bytes(summed, "big")
        if _chained(digest, tuple(facts), total) != bytes(chained):
            complain(f"the closing over {first} to {last} of {chain} is broken: it was changed, or one before it")
        if first != dropped.positions.get(chain, first - 1) + 1:
            complain(f"the closing over {first} to {last} of {chain} does not follow on the one before it")
        digest = bytes(chained)
        dropped.positions[chain] = last
        dropped.counts.setdefault(chain, []).append((last, count))
        dropped.until = max(dropped.until, until)
    for kind, id_, part, amount in await view.fetch("SELECT kind, id, part, amount FROM carried"):
        dropped.carried[kind, id_, part] = amount
    if sum(_hashed((*place, amount)) for place, amount in dropped.carried.items()) % (1 << 256) != total:
        complain("what dropped requests come to is not what the last closing says: `carried` was changed")
    return dropped


async def check_sums(view: Transaction, dropped: Dropped, complain: Callable[[str], None]) -> None:
    """Of the days from which requests are missing: all sums of an account are those of what is carried and left."""
    if not dropped.positions:
        return
    until = dropped.until // DAY_MS * DAY_MS + DAY_MS
    summed, by_day = [await value(view, name) or 0 for name in (rollups.WATERMARK, usage_days.WATERMARK)]
    for (account_id,) in await view.fetch("SELECT id FROM account ORDER BY id"):
        names = ("requests", "charge", "cost", "promo", "loss")
        carried = [dropped.carried.get((name, account_id, 0), 0) for name in names]
        for name, watermark, statement, *span in (
            ("hour", summed, _ROLLED, HOUR_MS),
            ("day", summed, _ROLLED, DAY_MS),
            ("day, of all accounts,", by_day, _BY_DAY),
        ):
            left = (await view.fetch(_LEFT, account_id, until, watermark))[0]
            sums = (await view.fetch(statement, account_id, until, *span))[0]
            # Not all sums know of gifts and losses.
            if list(sums) != [ours + theirs for ours, theirs in zip(left, carried, strict=True)][: len(sums)]:
                complain(f"account {account_id}: the sums by {name} are not those of what was dropped and what is left")
