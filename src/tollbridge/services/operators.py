"""Operators: users who run this gateway. The first one gets in by a printed link, not by a known password."""

import contextlib

from tollbridge.config import Settings
from tollbridge.core.roles import Role
from tollbridge.errors import NotFound
from tollbridge.services import accounts, deeds, sessions
from tollbridge.services.credentials import RESET
from tollbridge.services.first_run import EMAIL
from tollbridge.store import accounts as account_rows
from tollbridge.store import activity, mail, members, users
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Duplicate, Transaction, run
from tollbridge.store.users import NewUser
from tollbridge.values import DAY_MS

LINK_MS = DAY_MS
# In the data directory: where the gateway was reached when it was last started.
ADDRESS = "address"


async def first_link(database: Database) -> str | None:
    """The token of a link for an operator who has no password yet; None: there is an operator who has one."""
    known = await users.operators(database)
    if any(each.password is not None for each in known):
        return None
    try:
        return await link(database, known[0].email if known else EMAIL, create=True)
    except Duplicate:
        return None  # another process was quicker


async def link(database: Database, email: str, *, create: bool, actor: str = "") -> str:
    """Make the user with this address an operator. The token of a link to choose a password: good once, for a day.

    `actor`: who does it, for the operators' activity; "": nobody, it is the first start. InvalidRequest: not
    an address. NotFound: nobody has it, and `create` does not ask for a new user.
    """
    address = accounts.normalise(email)
    token = sessions.new_token()
    now = await database.now()

    async def use_case(transaction: Transaction) -> None:
        user = await users.by_email(transaction, address)
        if user is None:
            if not create:
                raise NotFound(
                    f"nobody here has the address {address}; --create makes a new operator with it", param="email"
                )
            row = NewUser(public_id=accounts.new_id("user"), email=address, operator=True, verified_at=now)
            user = await users.create(transaction, row, now)
        else:
            await users.set_operator(transaction, user.id)
            if user.verified_at is None:
                # Anybody may have registered with this address: the one who has the link is the one meant.
                await users.drop_password(transaction, user.id)
                await users.end_totp(transaction, user.id)
                await users.drop_ways_in(transaction, user.id)
        account = await account_rows.by_email(transaction, address)
        if account is not None and not await members.of_account(transaction, account.id):
            await members.add(transaction, account.id, user.id, Role.OWNER, now)
        if actor:
            who = deeds.known_as(await members.of_user(transaction, user.id), address)
            deed = NewDeed(account_id=activity.GATEWAY, actor=actor, action="operator.linked", detail=who)
            await activity.add(transaction, deed, now)
        # Of those that were printed before, somebody may have the log.
        await mail.void_tokens_of(transaction, user.id, RESET)
        await mail.add_token(transaction, sessions.digest(token), RESET, (user.id, address), now + LINK_MS)

    await run(database, use_case)
    return token


def remember_address(settings: Settings, url: str) -> None:
    """Keep where this gateway is reached, for links made by other processes."""
    with contextlib.suppress(OSError):  # links then use the configured address
        (settings.data_dir / ADDRESS).write_text(f"{url}\n")


def address(settings: Settings) -> str:
    """Where people reach this gateway: its public URL, else where it was last served, else where it would be."""
    if settings.public_url is not None:
        return settings.public_url
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if kept := (settings.data_dir / ADDRESS).read_text().strip():
            return kept
    return f"http://{settings.host}:{settings.port}"


def welcome(url: str, token: str) -> str:
    return f"""\
Choose the operator's password here (the link works once, for 24 hours):

    {url}/auth/reset?token={token}
"""
