"""API keys as their account manages them: everything that may be shown or changed."""

import msgspec

from tollbridge.core.periods import Reset, counts
from tollbridge.store.db import Database, Transaction
from tollbridge.store.keys import Rules
from tollbridge.store.meta import raise_cache_epoch
from tollbridge.store.rows import ABOVE_ALL

_SELECT = """
SELECT limit_nano, limit_reset, models, addresses, rpm, tpm, concurrency, cost_cap, expires_at,
  api_key.id, public_id, hint, label, spent, held, since, created_at, disabled_at, revoked_at
FROM api_key LEFT JOIN key_spend ON key_spend.key_id = api_key.id
"""
_TEXTS = msgspec.json.Decoder(tuple[str, ...])


class AccountKey(Rules, frozen=True, kw_only=True):
    """A key and its rules. Amounts in nano-USD, times in milliseconds.

    `spent`, `held` and `since` are kept only for a key with a limit; `spent` is of the last period with any spending.
    """

    id: int
    public_id: str
    hint: str
    label: str
    spent: int | None
    held: int | None
    since: int | None
    created_at: int
    disabled_at: int | None
    revoked_at: int | None

    @property
    def name(self) -> str:
        return self.label or self.hint

    def spent_by(self, now: int) -> int:
        """What counts towards the limit at `now`; 0 without one."""
        return counts(self.spent or 0, None if self.reset is None else Reset(self.reset), self.since or 0, now)

    def left(self, now: int) -> int:
        """What may still be held at `now`. Only for a key with a limit."""
        assert self.limit is not None
        return max(0, self.limit - self.spent_by(now) - (self.held or 0))

    def state(self, now: int) -> str:
        """`live`, or why it does not work: `revoked`, `expired`, `disabled`."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "live" if self.disabled_at is None else "disabled"


async def of_account(database: Transaction, account_id: int) -> list[AccountKey]:
    """All keys of an account, newest first."""
    rows = await database.fetch(f"{_SELECT} WHERE account_id = $1 ORDER BY api_key.id DESC", account_id)
    return [_key(row) for row in rows]


async def page(
    database: Transaction, account_id: int, before: AccountKey | None, count: int | None
) -> list[AccountKey]:
    """As `of_account`: those made before `before` (None: all), at most `count` of them (None: all)."""
    rows = await database.fetch(
        f"{_SELECT} WHERE account_id = $1 AND api_key.id < $2 ORDER BY api_key.id DESC LIMIT $3",
        *(account_id, ABOVE_ALL if before is None else before.id, ABOVE_ALL if count is None else count),
    )
    return [_key(row) for row in rows]


async def find(database: Transaction, account_id: int, public_id: str) -> AccountKey | None:
    rows = await database.fetch(f"{_SELECT} WHERE account_id = $1 AND public_id = $2", account_id, public_id)
    return _key(rows[0]) if rows else None


async def by_id(database: Transaction, key_id: int) -> AccountKey:
    return _key((await database.fetch(f"{_SELECT} WHERE api_key.id = $1", key_id))[0])


async def locked(database: Database, transaction: Transaction, account_id: int, public_id: str) -> AccountKey | None:
    """The key, locked until the transaction ends."""
    lock = " FOR NO KEY UPDATE OF api_key" if database.dialect == "postgresql" else ""
    rows = await transaction.fetch(f"{_SELECT} WHERE account_id = $1 AND public_id = $2{lock}", account_id, public_id)
    return _key(rows[0]) if rows else None


async def rename(transaction: Transaction, key_id: int, label: str) -> None:
    await transaction.execute("UPDATE api_key SET label = $2 WHERE id = $1", key_id, label)


async def set_disabled(transaction: Transaction, key_id: int, since: int | None) -> None:
    """Refuse the key's next call; with None, accept it again."""
    await transaction.execute("UPDATE api_key SET disabled_at = $2 WHERE id = $1", key_id, since)
    await raise_cache_epoch(transaction)


async def end(transaction: Transaction, key_id: int, at: int) -> None:
    """Let the key expire at `at`, unless it expires earlier."""
    await transaction.execute(
        "UPDATE api_key SET expires_at = CASE WHEN expires_at < $2 THEN expires_at ELSE $2 END WHERE id = $1",
        *(key_id, at),
    )
    await raise_cache_epoch(transaction)


async def set_rules(transaction: Transaction, key: AccountKey, rules: Rules) -> None:
    """Set what the key may do from its next call on. A first limit counts spending from now on."""
    await transaction.execute(
        "UPDATE api_key SET limit_nano = $2, limit_reset = $3, models = $4, addresses = $5, rpm = $6, tpm = $7, "
        "concurrency = $8, cost_cap = $9, expires_at = $10 WHERE id = $1",
        *(key.id, *rules.columns()),
    )
    if rules.limit is not None:
        await transaction.execute(
            "INSERT INTO key_spend (key_id, spent, held) VALUES ($1, 0, 0) ON CONFLICT DO NOTHING", key.id
        )
    await raise_cache_epoch(transaction)


def _key(row: tuple[object, ...]) -> AccountKey:
    values = dict(zip(AccountKey.__struct_fields__, row, strict=True))
    for name in ("models", "addresses"):
        if isinstance(text := values[name], str):
            values[name] = _TEXTS.decode(text)
    return msgspec.convert(values, AccountKey)
