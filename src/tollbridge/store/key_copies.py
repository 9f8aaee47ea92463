"""Sealed copies of API keys that may be shown again. A key without one here has been seen for the last time."""

from tollbridge.store.db import Transaction


async def put(transaction: Transaction, public_id: str, sealed: bytes) -> None:
    """Keep the copy of the key `public_id`."""
    await transaction.execute(
        "INSERT INTO key_copy (key_id, sealed) SELECT id, $2 FROM api_key WHERE public_id = $1", public_id, sealed
    )


async def of_account(database: Transaction, account_id: int) -> list[tuple[str, bytes]]:
    """(public id, sealed copy) of the account's keys that are not revoked, oldest first."""
    rows = await database.fetch(
        "SELECT public_id, sealed FROM api_key JOIN key_copy ON key_copy.key_id = api_key.id "
        "WHERE account_id = $1 AND revoked_at IS NULL ORDER BY api_key.id",
        account_id,
    )
    return [(str(row[0]), bytes(row[1])) for row in rows]


async def drop(transaction: Transaction, account_id: int, public_id: str) -> bool:
    """Delete a copy; whether there was one. Of many callers at once, one is told so."""
    return bool(
        await transaction.execute(
            "DELETE FROM key_copy WHERE key_id = (SELECT id FROM api_key WHERE public_id = $2 AND account_id = $1)",
            *(account_id, public_id),
        )
    )
