"""Customers' own credentials at providers. Each is stored sealed, with a hint to tell them apart."""

import msgspec

from tollbridge.store.db import Transaction
from tollbridge.store.meta import raise_cache_epoch
from tollbridge.store.rows import read_all


class NewOwn(msgspec.Struct, frozen=True, kw_only=True):
    """`exclusive`: models that it serves are never called with the operator's credential."""

    public_id: str
    account_id: int
    provider: str
    label: str
    hint: str
    sealed: bytes
    exclusive: bool

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.public_id}, {self.provider})"


class Own(NewOwn, frozen=True, kw_only=True):
    """A row of `byok`."""

    id: int
    created_at: int


async def add(transaction: Transaction, own: NewOwn, now: int) -> None:
    await transaction.execute(
        "INSERT INTO byok (public_id, account_id, provider, label, hint, sealed, exclusive, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        *(own.public_id, own.account_id, own.provider, own.label, own.hint, own.sealed, own.exclusive, now),
    )
    await raise_cache_epoch(transaction)


async def of_account(database: Transaction, account_id: int) -> list[Own]:
    """All of an account's, in the order in which they are tried: oldest first."""
    rows = await database.fetch(
        "SELECT public_id, account_id, provider, label, hint, sealed, exclusive, id, created_at "
        "FROM byok WHERE account_id = $1 ORDER BY id",
        account_id,
    )
    return read_all(Own, rows)


async def remove(transaction: Transaction, account_id: int | None, public_id: str) -> int | None:
    """Delete one within reach of `account_id` (None: the operator, who reaches all); whose it was, if there was one."""
    found = await transaction.fetch(
        "DELETE FROM byok WHERE public_id = $1 AND (account_id = $2 OR CAST($2 AS BIGINT) IS NULL) "
        "RETURNING account_id",
        *(public_id, account_id),
    )
    await raise_cache_epoch(transaction)
    return int(found[0][0]) if found else None
