"""Requests of all accounts by the time at which they ended, as they leave the database for another place."""

import msgspec

from tollbridge.core.ids import Ids
from tollbridge.store.db import Database, Row
from tollbridge.store.journal import CHARGE, COST, LOSS, PROMO
from tollbridge.store.ledger.rows import BYOK, ESTIMATED, STREAMED, endpoint_of, read_meters
from tollbridge.store.prices import Terms
from tollbridge.store.rollups import EACH_ACCOUNT, by_time
from tollbridge.values import Outcome


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One request. `late`: only what was charged for it after its sweep.

    Times in milliseconds since 1970, amounts in nano-USD, tokens by meter. `hold` identifies a request for good.
    `account` and `key` are public ids. `id`: the answer's id, as its caller was told. New fields are added at the end,
    so that readers that go by column position keep working.
    """

    hold: int
    late: bool = False
    ended_at: int
    started_at: int
    account: str
    key: str
    model: str
    provider: str
    upstream_model: str
    outcome: str
    status: int
    streamed: bool
    estimated: bool
    byok: bool
    finish: str
    duration_ms: int
    first_byte_ms: int | None
    charge: int
    promo: int
    loss: int
    cost: int
    input: int
    cache_read: int
    cache_write: int
    cache_write_1h: int
    output: int
    reasoning: int
    audio_input: int = 0
    audio_output: int = 0
    image_output: int = 0
    searches: int = 0
    id: str = ""


_FACTS = (
    "hold_id, ended_at, started_at, account.public_id, COALESCE(api_key.public_id, ''), usage.price_version, outcome, "
    "status, flags, COALESCE(finish, ''), duration_ms, first_byte_ms, input, cache_read, cache_write, cache_write_1h, "
    "output, reasoning, meters, charge, promo, loss, cost"
)
_JOINED = "LEFT JOIN account ON account.id = usage.account_id LEFT JOIN api_key ON api_key.id = usage.key_id"
_ENDED = f"""
SELECT {_FACTS} FROM (SELECT * FROM usage WHERE {EACH_ACCOUNT}ended_at >= $1 AND ended_at < $2) AS usage {_JOINED}
ORDER BY ended_at, hold_id
"""  # noqa: S608 - constants
_LATE = f"""
SELECT {_FACTS}, journal.created_at, {CHARGE}, {PROMO}, {LOSS}, {COST}
FROM journal JOIN entry ON journal_id = journal.id
JOIN usage ON usage.hold_id = CAST(SUBSTR(idempotency_key, 6) AS BIGINT) {_JOINED}
WHERE journal.kind = 'late' AND journal.created_at >= $1 AND journal.created_at < $2
GROUP BY journal.id, journal.created_at, usage.hold_id, account.public_id, api_key.public_id
ORDER BY journal.created_at, hold_id
"""  # noqa: S608
_FIRST = """
SELECT MIN((SELECT MIN(ended_at) FROM usage WHERE usage.account_id = account.id AND ended_at >= $1)),
  (SELECT MIN(created_at) FROM journal WHERE kind = 'late' AND created_at >= $1) FROM account
"""


async def first(database: Database, since: int) -> int | None:
    """When the first request at or after `since` ended or was charged late; None: there is none."""
    rows = await database.fetch(_FIRST, since)
    return min((at for at in rows[0] if at is not None), default=None)


async def ended(
    database: Database, since: int, until: int, terms: dict[int, Terms], ids: Ids | None = None
) -> list[Line]:
    """What ended at or after `since` and before `until`, in order; then what was charged late in that time.

    `terms`: those of price versions, filled in as needed and kept there. `ids`: how answers are named; None: lines are
    without an `id`.
    """
    rows = await database.fetch(by_time(database.dialect, _ENDED), since, until)
    late = await database.fetch(_LATE, since, until)
    if not {row[5] for row in (*rows, *late)} <= {0, *terms}:
        stored = await database.fetch("SELECT id, terms FROM price_version")
        terms.update((id_, msgspec.json.decode(text, type=Terms)) for id_, text in stored)
    return [*(_line(row, terms, ids) for row in rows), *(_late(row, terms, ids) for row in late)]


def _late(row: Row, terms: dict[int, Terms], ids: Ids | None) -> Line:
    *facts, at, charge, promo, loss, cost = row
    none = dict.fromkeys(("input", "cache_read", "cache_write", "cache_write_1h", "output", "reasoning"), 0)
    none |= dict.fromkeys(("audio_input", "audio_output", "image_output", "searches"), 0)
    amounts = {"charge": charge, "promo": promo, "loss": loss, "cost": cost}
    return msgspec.structs.replace(_line(tuple(facts), terms, ids), late=True, ended_at=at, **amounts, **none)


def _line(row: Row, terms: dict[int, Terms], ids: Ids | None) -> Line:
    hold, ended_at, started_at, account, key, version, outcome, status, flags, finish, *rest = row
    duration, first_byte, input_, cache_read, cache_write, cache_write_1h, output, reasoning, meters, *amounts = rest
    charge, promo, loss, cost = amounts
    price = terms.get(version)
    rare = read_meters(meters)
    return Line(
        hold=hold,
        ended_at=ended_at,
        started_at=started_at,
        account=account or "",
        key=key,
        model="" if price is None else price.model,
        provider="" if price is None else price.provider,
        upstream_model="" if price is None else price.upstream_model,
        outcome=Outcome(outcome).name.lower(),
        status=status,
        streamed=bool(flags & STREAMED),
        estimated=bool(flags & ESTIMATED),
        byok=bool(flags & BYOK),
        finish=finish,
        duration_ms=duration,
        first_byte_ms=first_byte,
        charge=charge,
        promo=promo,
        loss=loss,
        cost=cost,
        input=input_,
        cache_read=cache_read,
        cache_write=cache_write,
        cache_write_1h=cache_write_1h,
        output=output,
        reasoning=reasoning,
        audio_input=rare.get("audio_input", 0),
        audio_output=rare.get("audio_output", 0),
        image_output=rare.get("image_output", 0),
        searches=rare.get("searches", 0),
        id="" if ids is None else ids.encode(endpoint_of(flags), hold),
    )
