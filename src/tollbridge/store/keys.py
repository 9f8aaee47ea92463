"""API keys. The key itself is never stored: only its digest, and a hint of what it looks like."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import msgspec

from tollbridge.core.periods import Reset, counts
from tollbridge.core.plans import Agreed
from tollbridge.store.db import Database, Transaction
from tollbridge.store.meta import raise_cache_epoch

Network = IPv4Network | IPv6Network

_LIST = msgspec.json.Decoder(tuple[str, ...])


class KnownKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a request must know about its key. `live`: at the time of reading, not revoked, disabled or expired.

    `pepper_id`: which master secret its digest was made with, counted from 1. `has_own`: its account has credentials of
    its own at providers. `agreed`: with its account, beyond the plan. `models` and `networks`: what it may call, and
    from where; None: anything. `cost_cap`: nano-USD per request.
    """

    key_id: int
    account_id: int
    plan: str
    pepper_id: int
    live: bool
    has_own: bool
    agreed: Agreed | None = None
    models: tuple[str, ...] | None = None
    networks: tuple[Network, ...] | None = None
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    cost_cap: int | None = None


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of a key beside its limit and expiry; None: no such rule.

    `reset`: how often the limit begins anew. `models`: patterns; `addresses`: the callers' networks (`10.0.0.0/8`).
    `rpm`, `tpm`, `concurrency`: for this key alone. `cost_cap`: nano-USD per request.
    """

    reset: Reset | None = None
    models: tuple[str, ...] | None = None
    addresses: tuple[str, ...] | None = None
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    cost_cap: int | None = None


NO_RULES = Rules()
# The columns of `Rules`, in order.
RULES = "limit_reset, models, addresses, rpm, tpm, concurrency, cost_cap"
RULES_WIDTH = 7


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """What may be shown of a key. `spent` and `held` exist only for a key with a limit; `spent` counts from `since`.

    `number`: what the log of requests calls it.
    """

    number: int
    public_id: str
    hint: str
    label: str
    limit: int | None
    spent: int | None
    held: int | None
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    disabled_at: int | None
    since: int | None
    rules: Rules

    def spent_by(self, now: int) -> int:
        """What counts towards the limit at `now`; 0 without one."""
        return counts(self.spent or 0, self.rules.reset, self.since or 0, now)


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    """`limit` in nano-USD and `expires_at` in milliseconds; None: no limit, no expiry."""

    public_id: str
    account_id: int
    digest: bytes
    pepper_id: int
    hint: str
    label: str
    limit: int | None
    expires_at: int | None
    rules: Rules = NO_RULES


async def find_key(database: Database, digest: bytes, other: bytes | None = None) -> KnownKey | None:
    """The key with either digest, in one statement: a key whose digest is just being replaced is found too."""
    rows = await database.fetch(
        "SELECT api_key.id, api_key.account_id, plan, expires_at, revoked_at, disabled_at, "
        "EXISTS (SELECT 1 FROM byok WHERE byok.account_id = api_key.account_id), "
        "models, addresses, api_key.rpm, api_key.tpm, api_key.concurrency, api_key.cost_cap, "
        "account_plan.rpm, account_plan.tpm, account_plan.concurrency, included_tokens, account_plan.cost_cap, "
        "since, until, pepper_id "
        "FROM api_key JOIN account ON account.id = api_key.account_id "
        "LEFT JOIN account_plan ON account_plan.account_id = account.id WHERE digest IN ($1, $2)",
        *(digest, digest if other is None else other),
    )
    if not rows:
        return None
    key_id, account_id, plan, expires_at, revoked_at, disabled_at, has_own, *own = rows[0]
    models, addresses, rpm, tpm, concurrency, cost_cap, *agreed, pepper_id = own
    expired = expires_at is not None and expires_at <= await database.now()
    return KnownKey(
        key_id=key_id,
        account_id=account_id,
        plan=plan,
        pepper_id=pepper_id,
        live=revoked_at is None and disabled_at is None and not expired,
        has_own=bool(has_own),
        agreed=None if agreed[-1] is None else Agreed(**dict(zip(Agreed.__struct_fields__, agreed, strict=True))),
        models=None if models is None else _LIST.decode(models),
        networks=None if addresses is None else tuple(ip_network(each) for each in _LIST.decode(addresses)),
        rpm=rpm,
        tpm=tpm,
        concurrency=concurrency,
        cost_cap=cost_cap,
    )


async def create(transaction: Transaction, key: NewKey, now: int) -> None:
    rows = await transaction.fetch(
        "INSERT INTO api_key "
        "(public_id, account_id, digest, pepper_id, hint, label, limit_nano, created_at, expires_at, "
        "limit_reset, models, addresses, rpm, tpm, concurrency, cost_cap) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) RETURNING id",
        *(key.public_id, key.account_id, key.digest, key.pepper_id, key.hint, key.label),
        *(key.limit, now, key.expires_at, *_columns(key.rules)),
    )
    if key.limit is not None:
        await transaction.execute("INSERT INTO key_spend (key_id, spent, held) VALUES ($1, 0, 0)", rows[0][0])
    # A cache may remember its digest as that of no key.
    await raise_cache_epoch(transaction)


async def of_account(database: Transaction, account_id: int) -> list[Key]:
    """All keys of an account, revoked ones too, oldest first."""
    rows = await database.fetch(
        "SELECT api_key.id, public_id, hint, label, limit_nano, spent, held, created_at, expires_at, revoked_at, "  # noqa: S608
        f"disabled_at, since, {RULES} FROM api_key LEFT JOIN key_spend ON key_spend.key_id = api_key.id "
        "WHERE account_id = $1 ORDER BY api_key.id",
        account_id,
    )
    names = Key.__struct_fields__[:-1]
    return [
        Key(**dict(zip(names, row[:-RULES_WIDTH], strict=True)), rules=rules_of(row[-RULES_WIDTH:])) for row in rows
    ]


def rules_of(columns: Sequence[Any]) -> Rules:
    """Rules from the columns `RULES`."""
    reset, models, addresses, rpm, tpm, concurrency, cost_cap = columns
    return Rules(
        reset=None if reset is None else Reset(reset),
        models=None if models is None else _LIST.decode(models),
        addresses=None if addresses is None else _LIST.decode(addresses),
        rpm=rpm,
        tpm=tpm,
        concurrency=concurrency,
        cost_cap=cost_cap,
    )


def _columns(rules: Rules) -> list[Any]:
    reset, models, addresses, *numbers = msgspec.structs.astuple(rules)
    texts = [None if each is None else msgspec.json.encode(each).decode() for each in (models, addresses)]
    return [None if reset is None else reset.value, *texts, *numbers]


async def revoke(transaction: Transaction, account_id: int | None, public_id: str, now: int) -> int | None:
    """The key's account; None: there is no such key within reach of `account_id` (None: the operator, who reaches all).

    Revoking again changes nothing. The key's next hold is refused.
    """
    found = await transaction.fetch(
        "UPDATE api_key SET revoked_at = COALESCE(revoked_at, $3) "
        "WHERE public_id = $1 AND (account_id = $2 OR CAST($2 AS BIGINT) IS NULL) RETURNING account_id",
        *(public_id, account_id, now),
    )
    await raise_cache_epoch(transaction)
    return int(found[0][0]) if found else None
