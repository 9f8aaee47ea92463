"""API keys. The key itself is never stored: only its digest, and a hint of what it looks like."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

import msgspec

from tollbridge.core.plans import Agreed
from tollbridge.store.db import Database, Transaction
from tollbridge.store.meta import raise_cache_epoch

Network = IPv4Network | IPv6Network

_LIST = msgspec.json.Decoder(tuple[str, ...])
# A key by its public id, of one account, or of any.
_WITHIN_REACH = "public_id = $1 AND (account_id = $2 OR CAST($2 AS BIGINT) IS NULL)"


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
    """What a key may do; None: no rule of its own.

    `limit`: nano-USD, which begins anew each `reset` (`daily`, `weekly`, `monthly`). `models`: patterns; `addresses`:
    the callers' networks (`10.0.0.0/8`). `rpm`, `tpm`, `concurrency`: for this key alone. `cost_cap`: nano-USD per
    request. `expires_at`: milliseconds.
    """

    limit: int | None = None
    reset: str | None = None
    models: tuple[str, ...] | None = None
    addresses: tuple[str, ...] | None = None
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    cost_cap: int | None = None
    expires_at: int | None = None

    def columns(self) -> list[Any]:
        """As they are stored, in order."""
        limit, reset, models, addresses, *numbers = (getattr(self, name) for name in Rules.__struct_fields__)
        texts = [None if each is None else msgspec.json.encode(each).decode() for each in (models, addresses)]
        return [limit, None if reset is None else str(reset), *texts, *numbers]


NO_RULES = Rules()


class NewKey(msgspec.Struct, frozen=True, kw_only=True):
    public_id: str
    account_id: int
    digest: bytes
    pepper_id: int
    hint: str
    label: str
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
        "(public_id, account_id, digest, pepper_id, hint, label, created_at, "
        "limit_nano, limit_reset, models, addresses, rpm, tpm, concurrency, cost_cap, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) RETURNING id",
        *(key.public_id, key.account_id, key.digest, key.pepper_id, key.hint, key.label),
        *(now, *key.rules.columns()),
    )
    if key.rules.limit is not None:
        await transaction.execute("INSERT INTO key_spend (key_id, spent, held) VALUES ($1, 0, 0)", rows[0][0])
    # A cache may remember its digest as that of no key.
    await raise_cache_epoch(transaction)


async def revoke(transaction: Transaction, account_id: int | None, public_id: str, now: int) -> tuple[int, bool] | None:
    """The key's account, and whether this changed anything: revoking again does not. The key's next hold is refused.

    None: there is no such key within reach of `account_id` (None: the operator, who reaches all).
    """
    changed = await transaction.execute(
        f"UPDATE api_key SET revoked_at = $3 WHERE {_WITHIN_REACH} AND revoked_at IS NULL",  # noqa: S608
        *(public_id, account_id, now),
    )
    await raise_cache_epoch(transaction)
    found = await transaction.fetch(
        f"SELECT account_id FROM api_key WHERE {_WITHIN_REACH}",  # noqa: S608
        *(public_id, account_id),
    )
    return (int(found[0][0]), changed > 0) if found else None
