"""Passkeys: public keys of users' devices."""

import msgspec

from tollbridge.store.db import Transaction
from tollbridge.store.rows import read_all, read_first


class Passkey(msgspec.Struct, frozen=True, kw_only=True):
    """`credential`: its id, chosen by the device; `counter`: the device's count at its last use. In milliseconds."""

    id: int
    user_id: int
    credential: bytes
    public_key: bytes
    counter: int
    label: str
    created_at: int
    used_at: int | None


_SELECT = "SELECT id, user_id, credential, public_key, counter, label, created_at, used_at FROM passkey"


async def add(transaction: Transaction, user_id: int, passkey: tuple[bytes, bytes, int], label: str, now: int) -> None:
    """`passkey`: credential id, public key, counter. `Duplicate`: it is already known."""
    await transaction.execute(
        "INSERT INTO passkey (user_id, credential, public_key, counter, label, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6)",
        *(user_id, *passkey, label, now),
    )


async def of_user(database: Transaction, user_id: int) -> list[Passkey]:
    return read_all(Passkey, await database.fetch(f"{_SELECT} WHERE user_id = $1 ORDER BY id", user_id))


async def find(database: Transaction, credential: bytes) -> Passkey | None:
    rows = await database.fetch(f"{_SELECT} WHERE credential = $1", credential)
    return read_first(Passkey, rows)


async def used(transaction: Transaction, passkey_id: int, counter: int, now: int) -> None:
    await transaction.execute("UPDATE passkey SET counter = $2, used_at = $3 WHERE id = $1", passkey_id, counter, now)


async def remove(transaction: Transaction, user_id: int, passkey_id: int) -> bool:
    """Whether the user had it."""
    return bool(await transaction.execute("DELETE FROM passkey WHERE user_id = $1 AND id = $2", user_id, passkey_id))
