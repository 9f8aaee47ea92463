"""How a record becomes a row of `usage` or of `checkpoint`, and back. The same for both engines."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollbridge.core.ledger import Claimant, EndRow, KeyState, OpenHold, Record
from tollbridge.core.periods import Reset
from tollbridge.values import Outcome

STREAMED, ESTIMATED, SUSPECT, LIMITED, BYOK = 1, 2, 4, 8, 16
# The endpoint is in the three bits above them. What a number means never changes.
_ENDPOINTS = ("chat", "completions", "embeddings", "messages", "responses")
_ENDPOINT_FLAGS = {name: number << 5 for number, name in enumerate(_ENDPOINTS)}

# All columns of `usage`, in the order of `usage_row`. Those added by later migrations stand at the end, are nullable,
# and are left empty in new rows wherever possible: see `store.seal`.
USAGE_COLUMNS = (
    "hold_id, account_id, key_id, ended_at, held, charge, promo, loss, cost, price_version, "
    "input, cache_read, cache_write, cache_write_1h, output, reasoning, "
    "started_at, duration_ms, first_byte_ms, outcome, status, flags, finish, raw, attempts, meters, allowance"
)
# A claim and the end of its hold.
CLAIM = (
    "SELECT claim.hold_id, digest, created_at, outcome, charge, usage.allowance, ended_at "
    "FROM claim LEFT JOIN usage ON usage.hold_id = claim.hold_id"
)
# What a hold must know about one key: for `key_state`.
KEY = (
    "SELECT account_id, revoked_at IS NULL AND disabled_at IS NULL, limit_nano, spent, held, expires_at, "
    "limit_reset, since "
    "FROM api_key LEFT JOIN key_spend ON key_spend.key_id = api_key.id"
)
_RARE_METERS = ("audio_input", "audio_output", "image_output", "searches")


def usage_row(end: EndRow, nothing: Any = None) -> tuple[Any, ...]:
    """`nothing` stands for NULL in a row of `usage`, except in `finish`."""
    record = end.record
    flags = _ENDPOINT_FLAGS[record.endpoint]
    if record.streamed:
        flags += STREAMED
    if record.estimated:
        flags += ESTIMATED
    if record.suspect:
        flags += SUSPECT
    if end.limited:
        flags += LIMITED
    if record.byok:
        flags += BYOK
    meters, first_byte_ms, allowance = nothing, record.first_byte_ms, end.allowance
    if record.audio_input or record.audio_output or record.image_output or record.searches:
        meters = _rare_meters(record)
    return (
        end.hold,
        end.account_id,
        end.key_id,
        end.ended_at,
        end.held,
        end.charge,
        end.promo,
        end.loss,
        record.cost,
        record.price_version,
        record.input,
        record.cache_read,
        record.cache_write,
        record.cache_write_1h,
        record.output,
        record.reasoning,
        record.started_at,
        record.duration_ms,
        nothing if first_byte_ms is None else first_byte_ms,
        int(record.outcome),
        record.status,
        flags,
        record.finish,
        # For bytes, sqlite3 looks for an adapter, which costs more than copying them.
        bytearray(record.raw) if record.raw else nothing,
        record.attempts or nothing,
        meters,
        nothing if allowance is None else allowance,
    )


def endpoint_of(flags: int) -> str:
    """The endpoint of a request, from its `flags`. ValueError: no version has ever written these."""
    number = flags >> 5
    if number >= len(_ENDPOINTS):
        raise ValueError(f"flags {flags}")
    return _ENDPOINTS[number]


def end_row(row: tuple[Any, ...]) -> EndRow:
    """ValueError: not a row that `usage_row` wrote."""
    hold, account_id, key_id, ended_at, held, charge, promo, loss, *rest = row
    cost, price_version, input_, cache_read, cache_write, cache_write_1h, output, reasoning, *rest = rest
    started_at, duration_ms, first_byte_ms, outcome, status, flags, finish, raw, attempts, meters, allowance = rest
    record = Record(
        started_at=started_at,
        duration_ms=duration_ms,
        first_byte_ms=first_byte_ms,
        price_version=price_version,
        input=input_,
        cache_read=cache_read,
        cache_write=cache_write,
        cache_write_1h=cache_write_1h,
        output=output,
        reasoning=reasoning,
        cost=cost,
        outcome=Outcome(outcome),
        status=status,
        streamed=bool(flags & STREAMED),
        estimated=bool(flags & ESTIMATED),
        suspect=bool(flags & SUSPECT),
        byok=bool(flags & BYOK),
        endpoint=endpoint_of(flags),
        finish=finish,
        raw=raw,
        attempts=attempts,
        **read_meters(meters),
    )
    return EndRow(
        hold=hold,
        account_id=account_id,
        key_id=key_id,
        ended_at=ended_at,
        held=held,
        charge=charge,
        promo=promo,
        loss=loss,
        record=record,
        limited=bool(flags & LIMITED),
        allowance=allowance,
    )


def first_of(hold: OpenHold) -> tuple[int, int | None, int | None]:
    """`amount`, `tokens` and `period` of a row of `hold`: what was added since is in `hold_step`."""
    added = sum(hold.steps.values()) if hold.steps else 0
    if hold.tokens is None:
        return hold.amount - added, None, None
    return hold.amount, hold.tokens - added, hold.period


def opened(row: Sequence[Any], steps: dict[int, int], checkpointed: bool) -> OpenHold:
    """From `id, account_id, key_id, amount, limited, tokens, period` of a row of `hold`."""
    id_, account_id, key_id, amount, limited, tokens, period = row
    added = sum(steps.values())
    if tokens is None:
        return OpenHold(id_, account_id, key_id, amount + added, bool(limited), steps, checkpointed)
    return OpenHold(
        id_, account_id, key_id, amount, bool(limited), steps, checkpointed, tokens=tokens + added, period=period
    )


def claimant(row: Sequence[Any]) -> Claimant:
    """From `CLAIM`."""
    hold, request, created_at, outcome, charge, allowance, ended_at = row
    return Claimant(
        hold=hold,
        request=bytes(request),
        created_at=created_at,
        outcome=None if outcome is None else Outcome(outcome),
        charge=charge or 0,
        allowance=allowance,
        ended_at=ended_at or 0,
    )


def key_state(
    key_id: int,
    account_id: int,
    live: bool,
    limit: int | None,
    spent: int | None,
    held: int | None,
    expires_at: int | None,
    reset: str | None,
    since: int | None,
) -> KeyState:
    """From `KEY`; a key without a limit has no spend."""
    return KeyState(
        key_id=key_id,
        account_id=account_id,
        live=bool(live),
        limit=limit,
        spent=spent or 0,
        held=held or 0,
        expires_at=expires_at,
        reset=None if reset is None else Reset(reset),
        since=since or 0,
    )


def _rare_meters(record: Record) -> str:
    """`usage.meters`: the counts of seldom used meters that are not 0, as a JSON object."""
    counts = {name: count for name in _RARE_METERS if (count := getattr(record, name))}
    return msgspec.json.encode(counts).decode()


def read_meters(meters: str | None) -> dict[str, int]:
    """The counts in `usage.meters`, by meter. ValueError: it holds something else."""
    if meters is None:
        return {}
    counts = msgspec.json.decode(meters, type=dict[str, int])
    if not counts.keys() <= set(_RARE_METERS):
        raise ValueError(f"meters of usage that there are not: {meters[:100]}")
    return counts


def encode_record(record: Record) -> bytes:
    """`checkpoint.record`."""
    return msgspec.json.encode(record)


def decode_record(stored: bytes) -> Record:
    return msgspec.json.decode(stored, type=Record)
