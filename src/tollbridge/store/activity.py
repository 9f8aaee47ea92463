"""What was done in an account, for its members to read."""

import msgspec

from tollbridge.store.db import Transaction

# The account of what was done to none: vouchers that were made.
GATEWAY = 0


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """`actor` did `action` (`key.created`) from `address`. `at` in milliseconds."""

    id: int
    at: int
    actor: str
    action: str
    detail: str
    address: str


class NewDeed(msgspec.Struct, frozen=True, kw_only=True):
    account_id: int
    actor: str
    action: str
    detail: str = ""
    address: str = ""


async def add(transaction: Transaction, deed: NewDeed, now: int) -> None:
    await transaction.execute(
        "INSERT INTO activity (account_id, at, actor, action, detail, address) VALUES ($1, $2, $3, $4, $5, $6)",
        *(deed.account_id, now, deed.actor, deed.action, deed.detail, deed.address),
    )


async def page(database: Transaction, account_id: int, before: int, count: int) -> list[Deed]:
    """Up to `count` deeds of an account, the newest first, from the one before the id `before`."""
    rows = await database.fetch(
        "SELECT id, at, actor, action, detail, address FROM activity "
        "WHERE account_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        *(account_id, before, count),
    )
    return [Deed(**dict(zip(Deed.__struct_fields__, row, strict=True))) for row in rows]


async def rename(transaction: Transaction, actor: str, pseudonym: str) -> None:
    """Somebody leaves: what they did stays, who they were does not."""
    await transaction.execute("UPDATE activity SET actor = $2, address = '' WHERE actor = $1", actor, pseudonym)
