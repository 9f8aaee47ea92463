"""Users: people with a login, and what they log in with."""

import msgspec

from tollbridge.store.db import Transaction
from tollbridge.store.rows import read, read_all, read_first

_COLUMNS = "id, public_id, email, password, operator, created_at, verified_at, totp_since, totp_step"
_SELECT = f'SELECT {_COLUMNS} FROM "user"'  # noqa: S608 - constants


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `user`. `password`: an argon2id hash; None: logs in by other means. Times in milliseconds."""

    id: int
    public_id: str
    email: str
    password: str | None
    operator: bool
    created_at: int
    verified_at: int | None
    totp_since: int | None
    totp_step: int

    def __repr__(self) -> str:
        return f"User({self.public_id})"


class NewUser(msgspec.Struct, frozen=True, kw_only=True):
    public_id: str
    email: str
    password: str | None = None
    operator: bool = False
    verified_at: int | None = None
    consented_at: int | None = None


async def create(transaction: Transaction, user: NewUser, now: int) -> User:
    """`Duplicate`: the address has one."""
    rows = await transaction.fetch(
        'INSERT INTO "user" '  # noqa: S608 - constants
        "(public_id, email, password, operator, created_at, verified_at, consented_at, totp_step) "
        f"VALUES ($1, $2, $3, $4, $5, $6, $7, 0) RETURNING {_COLUMNS}",
        *(user.public_id, user.email, user.password, user.operator, now, user.verified_at, user.consented_at),
    )
    return read(User, rows[0])


async def by_email(database: Transaction, email: str) -> User | None:
    return read_first(User, await database.fetch(f"{_SELECT} WHERE email = $1", email))


async def by_id(database: Transaction, user_id: int) -> User | None:
    return read_first(User, await database.fetch(f"{_SELECT} WHERE id = $1", user_id))


async def operators(database: Transaction) -> list[User]:
    """Oldest first."""
    rows = await database.fetch(f"{_SELECT} WHERE operator = $1 ORDER BY id", True)
    return read_all(User, rows)


async def set_operator(transaction: Transaction, user_id: int) -> None:
    await transaction.execute('UPDATE "user" SET operator = $2 WHERE id = $1', user_id, True)


async def set_password(transaction: Transaction, user_id: int, password: str) -> None:
    await transaction.execute('UPDATE "user" SET password = $2 WHERE id = $1', user_id, password)


async def replace_password(transaction: Transaction, user_id: int, before: str | None, password: str | None) -> bool:
    """Like `set_password`, unless the hash is no longer `before`: False.

    Until the transaction ends, nobody else changes it: with the same one twice, this makes sure that it stays.
    """
    return bool(
        await transaction.execute(
            "UPDATE \"user\" SET password = $3 WHERE id = $1 AND coalesce(password, '') = $2",
            *(user_id, before or "", password),
        )
    )


async def drop_password(transaction: Transaction, user_id: int) -> None:
    await transaction.execute('UPDATE "user" SET password = NULL WHERE id = $1', user_id)


async def take_over(transaction: Transaction, user_id: int, password: str, now: int) -> bool:
    """Note that somebody registered with the address once more, with this password. False: it is verified by now."""
    return bool(
        await transaction.execute(
            'UPDATE "user" SET password = $2, consented_at = $3 WHERE id = $1 AND verified_at IS NULL',
            *(user_id, password, now),
        )
    )


async def was_taken_over(transaction: Transaction, user_id: int) -> bool:
    """Whether somebody registered with the address again after it was first registered."""
    return bool(await transaction.fetch('SELECT 1 FROM "user" WHERE id = $1 AND consented_at > created_at', user_id))


async def drop_ways_in(transaction: Transaction, user_id: int) -> None:
    """Delete all sessions, passkeys and links. Password, second factor and identities at log-in providers stay."""
    await transaction.execute("DELETE FROM session WHERE user_id = $1", user_id)
    await transaction.execute("DELETE FROM passkey WHERE user_id = $1", user_id)
    await transaction.execute("DELETE FROM mail_token WHERE user_id = $1", user_id)


async def set_verified(transaction: Transaction, user_id: int, now: int) -> bool:
    """Whether this was the first time."""
    return bool(
        await transaction.execute(
            'UPDATE "user" SET verified_at = $2 WHERE id = $1 AND verified_at IS NULL', user_id, now
        )
    )


async def set_email(transaction: Transaction, user_id: int, email: str) -> None:
    """`Duplicate`: somebody else has the address."""
    await transaction.execute('UPDATE "user" SET email = $2 WHERE id = $1', user_id, email)


async def delete(transaction: Transaction, user_id: int) -> None:
    """Delete the user and everything they log in with. Their memberships must be gone already."""
    await transaction.execute("DELETE FROM session WHERE user_id = $1", user_id)
    await transaction.execute("DELETE FROM mail_token WHERE user_id = $1", user_id)
    await transaction.execute("DELETE FROM recovery_code WHERE user_id = $1", user_id)
    await transaction.execute("DELETE FROM passkey WHERE user_id = $1", user_id)
    await transaction.execute("DELETE FROM identity WHERE user_id = $1", user_id)
    await transaction.execute('DELETE FROM "user" WHERE id = $1', user_id)


# --- the second factor --------------------------------------------------------------------------------------------


async def totp_secret(database: Transaction, user_id: int) -> bytes | None:
    """Sealed; in use if the user's `totp_since` says so."""
    rows = await database.fetch('SELECT totp_secret FROM "user" WHERE id = $1', user_id)
    return bytes(rows[0][0]) if rows and rows[0][0] is not None else None


async def proposed_totp(database: Transaction, user_id: int) -> bytes | None:
    """As `totp_secret`, about to be in use."""
    rows = await database.fetch('SELECT totp_proposed FROM "user" WHERE id = $1', user_id)
    return bytes(rows[0][0]) if rows and rows[0][0] is not None else None


async def propose_totp(transaction: Transaction, user_id: int, sealed: bytes) -> None:
    """Store a secret that is not used until its first code has been given, unless there is one."""
    await transaction.execute(
        'UPDATE "user" SET totp_proposed = $2 WHERE id = $1 AND totp_proposed IS NULL', user_id, sealed
    )


async def drop_proposed_totp(transaction: Transaction, user_id: int) -> None:
    await transaction.execute('UPDATE "user" SET totp_proposed = NULL WHERE id = $1', user_id)


async def begin_totp(transaction: Transaction, user_id: int, sealed: bytes, step: int, now: int) -> bool:
    """Use the proposed secret from now on, the code of this time step being used up. False: it is another by now."""
    return bool(
        await transaction.execute(
            'UPDATE "user" SET totp_secret = totp_proposed, totp_proposed = NULL, totp_since = $4, totp_step = $3 '
            "WHERE id = $1 AND totp_proposed = $2",
            *(user_id, sealed, step, now),
        )
    )


async def end_totp(transaction: Transaction, user_id: int) -> None:
    await transaction.execute(
        'UPDATE "user" SET totp_secret = NULL, totp_since = NULL, totp_proposed = NULL WHERE id = $1', user_id
    )
    await transaction.execute("DELETE FROM recovery_code WHERE user_id = $1", user_id)


async def take_step(transaction: Transaction, user_id: int, step: int) -> bool:
    """Use up the code of a time step. False: it, or a later one, has been used."""
    return bool(
        await transaction.execute('UPDATE "user" SET totp_step = $2 WHERE id = $1 AND totp_step < $2', user_id, step)
    )


async def replace_recovery_codes(transaction: Transaction, user_id: int, digests: list[bytes]) -> None:
    await transaction.execute("DELETE FROM recovery_code WHERE user_id = $1", user_id)
    for digest in digests:
        await transaction.execute("INSERT INTO recovery_code (digest, user_id) VALUES ($1, $2)", digest, user_id)


async def take_recovery_code(transaction: Transaction, user_id: int, digest: bytes) -> bool:
    return bool(
        await transaction.execute("DELETE FROM recovery_code WHERE digest = $1 AND user_id = $2", digest, user_id)
    )


async def count_recovery_codes(database: Transaction, user_id: int) -> int:
    rows = await database.fetch("SELECT count(*) FROM recovery_code WHERE user_id = $1", user_id)
    return int(rows[0][0])
