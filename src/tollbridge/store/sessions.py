"""Sessions: browsers that are logged in. The cookie itself is never stored, only its digest."""

import msgspec

from tollbridge.store.db import Transaction
from tollbridge.store.rows import read_all, read_first


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its user may see it. `factors`: how many factors they logged in with. Times in milliseconds."""

    id: int
    public_id: str
    user_id: int
    account_id: int | None
    created_at: int
    seen_at: int
    proved_at: int
    factors: int
    address: str
    agent: str


class NewSession(msgspec.Struct, frozen=True, kw_only=True):
    public_id: str
    digest: bytes
    user_id: int
    account_id: int | None
    factors: int
    address: str
    agent: str


_SELECT = (
    "SELECT id, public_id, user_id, account_id, created_at, seen_at, proved_at, factors, address, agent FROM session"
)


async def create(transaction: Transaction, session: NewSession, now: int) -> None:
    await transaction.execute(
        "INSERT INTO session "
        "(public_id, digest, user_id, account_id, created_at, seen_at, proved_at, factors, address, agent) "
        "VALUES ($1, $2, $3, $4, $5, $5, $5, $6, $7, $8)",
        *(session.public_id, session.digest, session.user_id, session.account_id, now),
        *(session.factors, session.address, session.agent),
    )


async def find(database: Transaction, digest: bytes) -> Session | None:
    rows = await database.fetch(f"{_SELECT} WHERE digest = $1", digest)
    return read_first(Session, rows)


async def of_user(database: Transaction, user_id: int) -> list[Session]:
    """Most recently seen first."""
    rows = await database.fetch(f"{_SELECT} WHERE user_id = $1 ORDER BY seen_at DESC, id DESC", user_id)
    return read_all(Session, rows)


async def touch(database: Transaction, session_id: int, now: int) -> bool:
    """Whether there still is such a session. Within a transaction, it stays until that ends."""
    return bool(await database.execute("UPDATE session SET seen_at = $2 WHERE id = $1", session_id, now))


async def move(transaction: Transaction, session_id: int, account_id: int) -> None:
    """Let the session look at another account from now on."""
    await transaction.execute("UPDATE session SET account_id = $2 WHERE id = $1", session_id, account_id)


async def end(transaction: Transaction, user_id: int, public_id: str) -> bool:
    """End a session; whether the user had it."""
    return bool(
        await transaction.execute("DELETE FROM session WHERE user_id = $1 AND public_id = $2", user_id, public_id)
    )


async def end_all(transaction: Transaction, user_id: int, *, but: int = 0) -> int:
    """End all of them except the one with the id `but`; how many there were."""
    return await transaction.execute("DELETE FROM session WHERE user_id = $1 AND id <> $2", user_id, but)


async def end_oldest(transaction: Transaction, user_id: int, factors: int, keep: int) -> None:
    """End all but the `keep` most recently seen of those with so many factors."""
    await transaction.execute(
        "DELETE FROM session WHERE user_id = $1 AND factors = $2 AND id NOT IN "
        "(SELECT id FROM session WHERE user_id = $1 AND factors = $2 ORDER BY seen_at DESC, id DESC LIMIT $3)",
        *(user_id, factors, keep),
    )
