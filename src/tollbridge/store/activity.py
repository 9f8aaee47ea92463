"""What was done in an account, for its members to read, and sealed as the books are (`store.seal`).

A row stays for ever, but who did it, what exactly and from where can be forgotten. A seal covers a digest of those,
which includes a random salt that is forgotten with them, so that nobody can test guesses against it.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator

import msgspec

from tollbridge.store.accounts import IS_CLOSED
from tollbridge.store.db import Row, Transaction
from tollbridge.store.rows import further, read_all

# The account of things done to no account: vouchers created, operators linked.
GATEWAY = 0
# The actor of what a deleted user did.
LEFT = "somebody who left"
# How many columns of `_SEALED` a seal covers.
SEALED_WIDTH = 5

_SALT_BYTES = 16
_PAGE = 200
_SEALED = (
    "SELECT id, account_id, at, action, proof, salt, actor, detail, address, "  # noqa: S608 - a constant
    f"EXISTS (SELECT 1 FROM account WHERE account.id = account_id AND {IS_CLOSED}) "
    "FROM activity WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3"
)


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """`actor` did `action` (`key.created`) from `address`. `at`: in milliseconds."""

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
    salt = secrets.token_bytes(_SALT_BYTES)
    await transaction.execute(
        "INSERT INTO activity (account_id, at, actor, action, detail, address, proof, salt) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        *(deed.account_id, now, deed.actor, deed.action, deed.detail, deed.address),
        *(proof(salt, deed.actor, deed.detail, deed.address), salt),
    )


async def page(database: Transaction, account_id: int, before: int, count: int) -> list[Deed]:
    """Up to `count` deeds of an account below id `before`, newest first."""
    rows = await database.fetch(
        "SELECT id, at, actor, action, detail, address FROM activity "
        "WHERE account_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        *(account_id, before, count),
    )
    return read_all(Deed, rows)


async def rename(transaction: Transaction, actor: str) -> None:
    """For somebody who leaves: what they did stays, who they were does not."""
    await transaction.execute("UPDATE activity SET actor = $2, address = '', salt = NULL WHERE actor = $1", actor, LEFT)


async def forget(transaction: Transaction, account_id: int, pseudonym: str) -> None:
    """For an account that is closed: that something was done, and when, stays.

    Who did it stays too if that was an operator, a command or a job: the account did not refund itself.
    """
    await transaction.execute(
        "UPDATE activity SET detail = '', address = '', salt = NULL, "
        "actor = CASE WHEN (actor LIKE 'cli/%' AND actor NOT LIKE '%@%') "
        "OR actor IN ('payments', 'plan', 'sign-up', 'first start') "
        'OR actor IN (SELECT email FROM "user" WHERE operator) THEN actor ELSE $2 END WHERE account_id = $1',
        *(account_id, pseudonym),
    )


def proof(salt: bytes, actor: str, detail: str, address: str) -> bytes:
    return hashlib.sha256(salt + msgspec.json.encode((actor, detail, address))).digest()


async def sealed_rows(database: Transaction, after: int, until: int) -> AsyncIterator[Row]:
    """What a seal covers of each row, in the order of ids, followed by the salt and texts that its proof covers and by
    whether its account is closed."""
    while rows := await database.fetch(_SEALED, after, until, _PAGE):
        after = further(rows[-1][0], after)
        for row in rows:
            yield row


def complaint(row: Row) -> str:
    """What is wrong with a row of `sealed_rows`; "": it still holds the texts it was written with, or has forgotten
    them as `rename` and `forget` do.
    """
    *_, kept, salt, actor, detail, address, closed = row
    if kept is None:
        return ""
    if salt is not None:
        return "" if proof(bytes(salt), actor, detail, address) == bytes(kept) else "says something else than was noted"
    left, forgotten = actor == LEFT, closed and not detail
    return "" if not address and (left or forgotten) else "has lost its proof, and nobody was forgotten there"
