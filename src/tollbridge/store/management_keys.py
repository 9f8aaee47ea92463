"""Keys that manage an account's API keys. As with those, only a digest and a hint are stored."""

import msgspec

from tollbridge.store.db import Transaction
from tollbridge.store.rows import read, read_all


class ManagementKey(msgspec.Struct, frozen=True, kw_only=True):
    """Times in milliseconds; `used_at` to the minute."""

    id: int
    public_id: str
    account_id: int
    hint: str
    label: str
    created_at: int
    used_at: int | None
    revoked_at: int | None


_COLUMNS = "id, public_id, account_id, hint, label, created_at, used_at, revoked_at"
_SELECT = f"SELECT {_COLUMNS} FROM management_key"  # noqa: S608


async def create(transaction: Transaction, key: ManagementKey, digest: bytes, pepper_id: int) -> None:
    """`key.id` is not known yet, and is ignored."""
    await transaction.execute(
        "INSERT INTO management_key (public_id, account_id, digest, hint, label, created_at, pepper_id) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7)",
        *(key.public_id, key.account_id, digest, key.hint, key.label, key.created_at, pepper_id),
    )


async def find(database: Transaction, digests: tuple[bytes, bytes]) -> tuple[ManagementKey, int] | None:
    """The key with one of these digests, unless it was revoked, and its `pepper_id`."""
    rows = await database.fetch(
        f"SELECT {_COLUMNS}, COALESCE(pepper_id, 1) FROM management_key "  # noqa: S608
        "WHERE digest IN ($1, $2) AND revoked_at IS NULL",
        *digests,
    )
    return (read(ManagementKey, rows[0][:-1]), int(rows[0][-1])) if rows else None


async def of_account(database: Transaction, account_id: int) -> list[ManagementKey]:
    """Those that are not revoked, newest first."""
    rows = await database.fetch(f"{_SELECT} WHERE account_id = $1 AND revoked_at IS NULL ORDER BY id DESC", account_id)
    return read_all(ManagementKey, rows)


async def touch(transaction: Transaction, key_id: int, now: int) -> None:
    await transaction.execute("UPDATE management_key SET used_at = $2 WHERE id = $1", key_id, now)


async def revoke(transaction: Transaction, account_id: int, public_id: str, now: int) -> bool:
    """Revoke; whether the account has such a key."""
    return bool(
        await transaction.execute(
            "UPDATE management_key SET revoked_at = COALESCE(revoked_at, $3) WHERE account_id = $1 AND public_id = $2",
            *(account_id, public_id, now),
        )
    )
