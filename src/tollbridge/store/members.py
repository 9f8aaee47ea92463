"""Who belongs to an account, and who is invited to it."""

import msgspec

from tollbridge.core.roles import Role
from tollbridge.store.db import Database, Transaction
from tollbridge.store.rows import read_all, read_first


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A user of an account. `two_factor`: whether they log in with a second factor."""

    public_id: str
    email: str
    role: Role
    since: int
    two_factor: bool


class Belonging(msgspec.Struct, frozen=True, kw_only=True):
    """An account of a user."""

    account_id: int
    public_id: str
    email: str
    role: Role


class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """`email` is invited to `account_id` as `role`, until `expires_at` (milliseconds), by the user `invited_by`.

    `inviter`: the address of that user. Both are None if it is not known who it was.
    """

    public_id: str
    account_id: int
    email: str
    role: Role
    created_at: int
    expires_at: int
    invited_by: int | None
    inviter: str | None


async def add(transaction: Transaction, account_id: int, user_id: int, role: Role, now: int) -> None:
    """`Duplicate`: the user is already a member."""
    await transaction.execute(
        "INSERT INTO membership (account_id, user_id, role, created_at) VALUES ($1, $2, $3, $4)",
        *(account_id, user_id, role.value, now),
    )


async def role_of(database: Transaction, account_id: int, user_id: int) -> Role | None:
    rows = await database.fetch(
        "SELECT role FROM membership WHERE account_id = $1 AND user_id = $2", account_id, user_id
    )
    return Role(rows[0][0]) if rows else None


async def of_account(database: Transaction, account_id: int) -> list[Member]:
    """Oldest first."""
    rows = await database.fetch(
        'SELECT "user".public_id, "user".email, role, membership.created_at, totp_since '
        'FROM membership JOIN "user" ON "user".id = membership.user_id '
        "WHERE account_id = $1 ORDER BY membership.created_at, membership.user_id",
        account_id,
    )
    return [
        Member(public_id=row[0], email=row[1], role=Role(row[2]), since=row[3], two_factor=row[4] is not None)
        for row in rows
    ]


async def of_user(database: Transaction, user_id: int) -> list[Belonging]:
    """The accounts of a user, oldest membership first."""
    rows = await database.fetch(
        "SELECT account.id, account.public_id, account.email, role "
        "FROM membership JOIN account ON account.id = membership.account_id "
        "WHERE user_id = $1 ORDER BY membership.created_at, account.id",
        user_id,
    )
    return read_all(Belonging, rows)


async def recipient(database: Transaction, account_id: int, email: str) -> str:
    """To whom letters about an account go whose address is `email`: there, unless its owners are others by now.

    Who has left an account in other hands is not told what it pays and has left.
    """
    rows = await database.fetch(
        'SELECT "user".email FROM membership JOIN "user" ON "user".id = membership.user_id '
        "WHERE account_id = $1 AND role = $2 ORDER BY membership.created_at, membership.user_id",
        *(account_id, Role.OWNER.value),
    )
    owners = [str(row[0]) for row in rows]
    return email if not owners or email in owners else owners[0]


async def find(transaction: Transaction, account_id: int, public_id: str) -> tuple[int, Role, str] | None:
    """A member's user id, role and address."""
    rows = await transaction.fetch(
        'SELECT user_id, role, email FROM membership JOIN "user" ON "user".id = user_id '
        "WHERE account_id = $1 AND public_id = $2",
        *(account_id, public_id),
    )
    return (int(rows[0][0]), Role(rows[0][1]), str(rows[0][2])) if rows else None


async def lock_owners(database: Database, transaction: Transaction, account_id: int) -> int:
    """How many owners an account has, all of whom stay owners until the transaction ends."""
    lock = " FOR UPDATE" if database.dialect == "postgresql" else ""
    rows = await transaction.fetch(
        f"SELECT user_id FROM membership WHERE account_id = $1 AND role = $2 ORDER BY user_id{lock}",  # noqa: S608
        *(account_id, Role.OWNER.value),
    )
    return len(rows)


async def keep_role(transaction: Transaction, account_id: int, user_id: int, role: Role) -> bool:
    """Whether a user has this role; if so, until the transaction ends."""
    return bool(
        await transaction.execute(
            "UPDATE membership SET role = $3 WHERE account_id = $1 AND user_id = $2 AND role = $3",
            *(account_id, user_id, role.value),
        )
    )


async def set_role(transaction: Transaction, account_id: int, user_id: int, role: Role) -> None:
    await transaction.execute(
        "UPDATE membership SET role = $3 WHERE account_id = $1 AND user_id = $2", account_id, user_id, role.value
    )


async def remove(transaction: Transaction, account_id: int, user_id: int) -> None:
    """Remove a member. Their sessions then look at no account."""
    await transaction.execute(
        "UPDATE session SET account_id = NULL WHERE account_id = $1 AND user_id = $2", account_id, user_id
    )
    await transaction.execute("DELETE FROM membership WHERE account_id = $1 AND user_id = $2", account_id, user_id)


# --- invitations --------------------------------------------------------------------------------------------------

_INVITATION = (
    "SELECT invitation.public_id, account_id, invitation.email, role, invitation.created_at, expires_at, invited_by, "
    '"user".email FROM invitation LEFT JOIN "user" ON "user".id = invited_by'
)


async def invite(transaction: Transaction, invitation: Invitation, digest: bytes) -> None:
    """Invite; replaces an earlier invitation of the same address."""
    await transaction.execute(
        "DELETE FROM invitation WHERE account_id = $1 AND email = $2", invitation.account_id, invitation.email
    )
    await transaction.execute(
        "INSERT INTO invitation (public_id, account_id, email, role, digest, created_at, expires_at, invited_by) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        *(invitation.public_id, invitation.account_id, invitation.email, invitation.role.value),
        *(digest, invitation.created_at, invitation.expires_at, invitation.invited_by),
    )


async def invitations(database: Transaction, account_id: int) -> list[Invitation]:
    rows = await database.fetch(f"{_INVITATION} WHERE account_id = $1 ORDER BY invitation.id", account_id)
    return read_all(Invitation, rows)


async def find_invitation(database: Transaction, digest: bytes, now: int) -> Invitation | None:
    rows = await database.fetch(f"{_INVITATION} WHERE digest = $1 AND expires_at > $2", digest, now)
    return read_first(Invitation, rows)


async def take_back(transaction: Transaction, account_id: int, public_id: str) -> str | None:
    """Withdraw an invitation; the address that was invited, None: there was no such invitation."""
    rows = await transaction.fetch(
        "DELETE FROM invitation WHERE account_id = $1 AND public_id = $2 RETURNING email", account_id, public_id
    )
    return str(rows[0][0]) if rows else None
