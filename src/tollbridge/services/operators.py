"""Operators: users who run this gateway. The first one gets in by a link that is printed, not by a known password."""

from tollbridge.core.roles import Role
from tollbridge.services import accounts, sessions
from tollbridge.services.credentials import RESET
from tollbridge.services.first_run import EMAIL
from tollbridge.store import accounts as account_rows
from tollbridge.store import mail, members, users
from tollbridge.store.db import Database, Duplicate, Transaction, run
from tollbridge.store.users import NewUser

LINK_MS = 24 * 3_600_000


async def first_link(database: Database) -> str | None:
    """What the link of an operator holds who has no password yet; None: there is one who has."""
    known = await users.operators(database)
    if any(each.password is not None for each in known):
        return None
    try:
        return await link(database, known[0].email if known else EMAIL)
    except Duplicate:
        return None  # another process was quicker


async def link(database: Database, email: str) -> str:
    """Make the user of this address an operator. What a link holds by which they choose a password, once, for a day.

    InvalidRequest: that is no address.
    """
    address = accounts.normalise(email)
    token = sessions.new_token()
    now = await database.now()

    async def use_case(transaction: Transaction) -> None:
        user = await users.by_email(transaction, address)
        if user is None:
            row = NewUser(public_id=accounts.new_id("user"), email=address, operator=True, verified_at=now)
            user_id = await users.create(transaction, row, now)
        else:
            user_id = user.id
            await users.set_operator(transaction, user_id)
        account = await account_rows.by_email(transaction, address)
        if account is not None and not await members.of_account(transaction, account.id):
            await members.add(transaction, account.id, user_id, Role.OWNER, now)
        await mail.add_token(transaction, sessions.digest(token), RESET, (user_id, address), now + LINK_MS)

    await run(database, use_case)
    return token


def welcome(url: str, token: str) -> str:
    return f"""\
Choose the operator's password here (the link is good once, for 24 hours):

    {url}/auth/reset?token={token}
"""
