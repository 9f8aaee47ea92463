"""Mail: single-use links, and the outbox."""

import msgspec

from tollbridge.store.db import Transaction
from tollbridge.store.rows import read_all


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A mail in the outbox. `sealed`: its text, until it has been sent. Times in milliseconds."""

    id: int
    recipient: str
    subject: str
    sealed: bytes | None
    created_at: int
    next_at: int
    sent_at: int | None
    tries: int
    error: str


_LETTER = "SELECT id, recipient, subject, sealed, created_at, next_at, sent_at, tries, error FROM outbox"


async def add_token(
    transaction: Transaction, digest: bytes, kind: str, holder: tuple[int, str], expires_at: int
) -> None:
    """Add a link for `holder`: a user's id, and the address it is sent to. Earlier links stay good."""
    user_id, email = holder
    await transaction.execute(
        "INSERT INTO mail_token (digest, kind, user_id, email, expires_at) VALUES ($1, $2, $3, $4, $5)",
        *(digest, kind, user_id, email, expires_at),
    )


async def find_token(database: Transaction, digest: bytes, kind: str, now: int) -> tuple[int, str] | None:
    """The user of a valid link and the address it was sent to; the link stays valid."""
    rows = await database.fetch(
        "SELECT user_id, email FROM mail_token WHERE digest = $1 AND kind = $2 AND expires_at > $3", digest, kind, now
    )
    return (int(rows[0][0]), str(rows[0][1])) if rows else None


async def take_token(transaction: Transaction, digest: bytes, kind: str, now: int) -> tuple[int, str] | None:
    """Like `find_token`, but uses up the link: of many callers at once, one gets it."""
    rows = await transaction.fetch(
        "DELETE FROM mail_token WHERE digest = $1 AND kind = $2 AND expires_at > $3 RETURNING user_id, email",
        *(digest, kind, now),
    )
    return (int(rows[0][0]), str(rows[0][1])) if rows else None


async def void_tokens(transaction: Transaction, user_id: int) -> None:
    """Invalidate every link that the user was sent before."""
    await transaction.execute("DELETE FROM mail_token WHERE user_id = $1", user_id)


async def void_tokens_of(transaction: Transaction, user_id: int, kind: str) -> None:
    await transaction.execute("DELETE FROM mail_token WHERE user_id = $1 AND kind = $2", user_id, kind)


# --- the outbox ---------------------------------------------------------------------------------------------------


async def put(transaction: Transaction, recipient: str, subject: str, now: int) -> int:
    """Add a mail, whose text is to follow; its id."""
    rows = await transaction.fetch(
        "INSERT INTO outbox (recipient, subject, created_at, next_at, tries, error) "
        "VALUES ($1, $2, $3, $3, 0, '') RETURNING id",
        *(recipient, subject, now),
    )
    return int(rows[0][0])


async def fill(transaction: Transaction, letter_id: int, sealed: bytes) -> None:
    await transaction.execute("UPDATE outbox SET sealed = $2 WHERE id = $1", letter_id, sealed)


async def due(database: Transaction, now: int, count: int) -> list[Letter]:
    """Unsent mails whose time has come, oldest first."""
    rows = await database.fetch(
        f"{_LETTER} WHERE sent_at IS NULL AND sealed IS NOT NULL AND next_at <= $1 ORDER BY id LIMIT $2", now, count
    )
    return read_all(Letter, rows)


async def latest(database: Transaction, count: int) -> list[Letter]:
    """Newest first."""
    rows = await database.fetch(f"{_LETTER} ORDER BY id DESC LIMIT $1", count)
    return read_all(Letter, rows)


async def claim(transaction: Transaction, letter_id: int, tries: int, next_at: int) -> bool:
    """Claim try number `tries` + 1; nobody else begins one before `next_at`."""
    return bool(
        await transaction.execute(
            "UPDATE outbox SET tries = $2 + 1, next_at = $3 WHERE id = $1 AND tries = $2 AND sent_at IS NULL",
            *(letter_id, tries, next_at),
        )
    )


async def sent(database: Transaction, letter_id: int, now: int) -> None:
    await database.execute("UPDATE outbox SET sent_at = $2, sealed = NULL, error = '' WHERE id = $1", letter_id, now)


async def failed(database: Transaction, letter_id: int, error: str) -> None:
    await database.execute("UPDATE outbox SET error = $2 WHERE id = $1", letter_id, error)
