"""Sessions: who is logged in with which browser, for how long, and how sure we are of it."""

import hashlib
import secrets

import msgspec

from tollbridge.core.roles import Role
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.services.accounts import new_id
from tollbridge.store import accounts, members, sessions, users
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.sessions import NewSession, Session
from tollbridge.store.users import User
from tollbridge.values import DAY_MS, HOUR_MS, MINUTE_MS

# (idle, absolute)
USERS = (24 * HOUR_MS, 14 * DAY_MS)
OPERATORS = (30 * MINUTE_MS, 8 * HOUR_MS)
MOST_SESSIONS = 20
# How long a proof of identity is good enough for what cannot be undone.
FRESH_MS = 10 * MINUTE_MS

CHANGED = "Your password was changed in the meantime. Log in with the new one."

ENDED = "You were logged out in the meantime. Log in and try again."

_TOUCH_MS = MINUTE_MS
_LONGEST_AGENT = 200


class Client(msgspec.Struct, frozen=True):
    """The other end: its network address, and what it calls itself."""

    address: str
    agent: str


class Presence(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who is logged in, and the account that they look at. `role`: theirs in `account`."""

    session: Session
    user: User
    account: Account | None
    role: Role | None

    @property
    def half(self) -> bool:
        """Whether a second factor is still missing: until it is given, they are nobody."""
        return is_half(self.user, self.session)

    def fresh(self, now: int) -> bool:
        """Whether they proved who they are a moment ago."""
        return now - self.session.proved_at < FRESH_MS


def is_half(user: User, session: Session) -> bool:
    """Whether `session` of `user` has only the first of two factors."""
    return user.totp_since is not None and session.factors < 2


def digest(token: str) -> bytes:
    """What is stored of a session's token, or of a link's."""
    return hashlib.sha256(token.encode()).digest()


def new_token() -> str:
    """256 random bits, safe in a URL and a cookie."""
    return secrets.token_urlsafe(32)


async def begin(transaction: Transaction, user: User, client: Client, factors: int, now: int) -> str:
    """The token of a new session of `user`, who proved who they are with `factors` factors."""
    belongings = await members.of_user(transaction, user.id)
    token = new_token()
    row = NewSession(
        public_id=new_id("ses"),
        digest=digest(token),
        user_id=user.id,
        account_id=belongings[0].account_id if belongings else None,
        factors=factors,
        address=client.address,
        agent=client.agent[:_LONGEST_AGENT],
    )
    await sessions.create(transaction, row, now)
    # Counted apart: whoever has only the password of somebody with a second factor logs nobody out.
    await sessions.end_oldest(transaction, user.id, factors, MOST_SESSIONS)
    return token


async def find(database: Database, token: str) -> Presence | None:
    """The holder of this token, unless their session has expired or was ended."""
    session = await sessions.find(database, digest(token))
    if session is None:
        return None
    user = await users.by_id(database, session.user_id)
    if user is None:
        return None
    now = await database.now()
    idle, absolute = OPERATORS if user.operator else USERS
    if now - session.seen_at > idle or now - session.created_at > absolute:
        await run(database, lambda transaction: sessions.end(transaction, user.id, session.public_id))
        return None
    if now - session.seen_at > _TOUCH_MS:
        await sessions.touch(database, session.id, now)
    account, role = None, None
    if session.account_id is not None:
        role = await members.role_of(database, session.account_id, user.id)
        account = await accounts.by_id(database, session.account_id) if role is not None else None
    return Presence(session=session, user=user, account=account, role=role)


async def renew(database: Database, presence: Presence, client: Client, *, factors: int) -> str:
    """The token of a session that replaces the present one, after every change of what it may do.

    InvalidRequest: the password was changed since `presence` was read, which ended all sessions but one.
    """
    now = await database.now()

    user = presence.user

    async def use_case(transaction: Transaction) -> str:
        if not await users.replace_password(transaction, user.id, user.password, user.password):
            raise InvalidRequest(CHANGED)
        await sessions.end(transaction, user.id, presence.session.public_id)
        token = await begin(transaction, user, client, factors, now)
        if presence.account is not None:
            session = await sessions.find(transaction, digest(token))
            assert session is not None
            await sessions.move(transaction, session.id, presence.account.id)
        return token

    return await run(database, use_case)


async def keep(transaction: Transaction, presence: Presence, now: int) -> None:
    """Before what lets somebody in later. InvalidRequest: the session was ended since `presence` was read."""
    if not await sessions.touch(transaction, presence.session.id, now):
        raise InvalidRequest(ENDED)


async def end(database: Database, user: User, public_id: str) -> None:
    """Log that browser out; raises `NotFound`."""
    if not await run(database, lambda transaction: sessions.end(transaction, user.id, public_id)):
        raise NotFound("There is no such session.")


async def end_others(database: Database, presence: Presence) -> None:
    """Log all of the user's other browsers out."""
    session = presence.session
    await run(database, lambda transaction: sessions.end_all(transaction, presence.user.id, but=session.id))


async def look_at(database: Database, presence: Presence, account: str) -> None:
    """Switch to another account of the same user; raises `NotFound`."""
    ids = {each.public_id: each.account_id for each in await members.of_user(database, presence.user.id)}
    if account not in ids:
        raise NotFound("There is no such account.")
    await run(database, lambda transaction: sessions.move(transaction, presence.session.id, ids[account]))
