"""Who users are at log-in providers."""

from tollbridge.store.db import Transaction


async def find(database: Transaction, issuer: str, subject: str) -> int | None:
    """The id of the user who is `subject` at `issuer`."""
    rows = await database.fetch("SELECT user_id FROM identity WHERE issuer = $1 AND subject = $2", issuer, subject)
    return int(rows[0][0]) if rows else None


async def add(transaction: Transaction, issuer: str, subject: str, user_id: int, now: int) -> None:
    """`Duplicate`: this identity already belongs to somebody else."""
    await transaction.execute(
        "INSERT INTO identity (issuer, subject, user_id, created_at) VALUES ($1, $2, $3, $4)",
        *(issuer, subject, user_id, now),
    )


async def remove(transaction: Transaction, user_id: int, issuer: str) -> bool:
    """Whether the user had one there."""
    return bool(await transaction.execute("DELETE FROM identity WHERE user_id = $1 AND issuer = $2", user_id, issuer))


async def remove_all(transaction: Transaction, user_id: int) -> None:
    await transaction.execute("DELETE FROM identity WHERE user_id = $1", user_id)


async def of_user(database: Transaction, user_id: int) -> list[tuple[str, int]]:
    """(issuer, since when in milliseconds) of everything that a user logs in by elsewhere."""
    rows = await database.fetch(
        "SELECT issuer, created_at FROM identity WHERE user_id = $1 ORDER BY created_at, issuer", user_id
    )
    return [(str(issuer), int(created_at)) for issuer, created_at in rows]
