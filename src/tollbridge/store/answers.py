"""Answers kept, sealed, for requests that may be sent again; and who has claimed an idempotency key."""

from tollbridge.core.ledger import Claimant
from tollbridge.store.db import Database, Transaction
from tollbridge.store.ledger.rows import CLAIM, claimant


async def claimed(database: Transaction, account_id: int, name: bytes) -> Claimant | None:
    """Who claimed this name, with the end of the claim's hold."""
    rows = await database.fetch(f"{CLAIM} WHERE claim.account_id = $1 AND name = $2", account_id, name)
    return claimant(rows[0]) if rows else None


async def find(database: Transaction, hold: int) -> bytes | None:
    rows = await database.fetch("SELECT sealed FROM kept_answer WHERE hold_id = $1", hold)
    return bytes(rows[0][0]) if rows else None


async def keep(database: Database, hold: int, sealed: bytes) -> None:
    now = await database.now()
    await database.execute(
        "INSERT INTO kept_answer (hold_id, sealed, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        *(hold, sealed, now),
    )
