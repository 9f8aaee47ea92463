"""Keys that manage an account's API keys. As with those, only a digest and a hint of each are here."""

import msgspec

from tollbridge.store.db import Transaction


class ManagementKey(msgspec.Struct, frozen=True, kw_only=True):
    """Times in milliseconds; `used_at` by the minute."""

    id: int
    public_id: str
    account_id: int
    hint: str
    label: str
    created_at: int
    used_at: int | None
    revoked_at: int | None


_SELECT = "SELECT id, public_id, account_id, hint, label, created_at, used_at, revoked_at FROM management_key"


async def create(transaction: Transaction, key: ManagementKey, digest: bytes) -> None:
    """`key.id` is not known yet."""
    await transaction.execute(
        "INSERT INTO management_key (public_id, account_id, digest, hint, label, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6)",
        *(key.public_id, key.account_id, digest, key.hint, key.label, key.created_at),
    )


async def find(database: Transaction, digest: bytes) -> ManagementKey | None:
    """The key with this digest, if it was not revoked."""
    rows = await database.fetch(f"{_SELECT} WHERE digest = $1 AND revoked_at IS NULL", digest)
    return _key(rows[0]) if rows else None


async def of_account(database: Transaction, account_id: int) -> list[ManagementKey]:
    """Those that are not revoked, the newest first."""
    rows = await database.fetch(f"{_SELECT} WHERE account_id = $1 AND revoked_at IS NULL ORDER BY id DESC", account_id)
    return [_key(row) for row in rows]


async def touch(transaction: Transaction, key_id: int, now: int) -> None:
    await transaction.execute("UPDATE management_key SET used_at = $2 WHERE id = $1", key_id, now)


async def revoke(transaction: Transaction, account_id: int, public_id: str, now: int) -> bool:
    """Whether the account has such a key."""
    return bool(
        await transaction.execute(
            "UPDATE management_key SET revoked_at = COALESCE(revoked_at, $3) WHERE account_id = $1 AND public_id = $2",
            *(account_id, public_id, now),
        )
    )


def _key(row: tuple[object, ...]) -> ManagementKey:
    return msgspec.convert(dict(zip(ManagementKey.__struct_fields__, row, strict=True)), ManagementKey)
