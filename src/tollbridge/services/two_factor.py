"""A second factor: a secret shared with an authenticator, and recovery codes for the day it is lost."""

import secrets

import msgspec

from tollbridge.core import totp
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.services import accounts, deeds, letters, sessions
from tollbridge.services.desk import Desk
from tollbridge.services.sessions import Client, Presence
from tollbridge.store import activity, members, users
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Transaction, run

RECOVERY_CODES = 10
_CODE_LENGTH = 10
# Without letters and digits that look alike.
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_WRONG = "This is not the code that your authenticator shows now. Wait for the next one."


class Proposal(msgspec.Struct, frozen=True):
    """What an authenticator needs: the secret as people type it, and as a link."""

    secret: str
    uri: str

    def __repr__(self) -> str:
        return "Proposal(…)"


async def propose(desk: Desk, presence: Presence) -> Proposal:
    """A secret for this user, the same one until its first code has been given or the password is another."""
    user = presence.user
    use = f"totp/{user.public_id}"
    sealed = await users.proposed_totp(desk.database, user.id)
    if sealed is None:
        fresh = desk.master.seal(use, secrets.token_bytes(totp.SECRET_BYTES))
        await run(desk.database, lambda transaction: users.propose_totp(transaction, user.id, fresh))
        sealed = await users.proposed_totp(desk.database, user.id)
    assert sealed is not None
    secret = desk.master.open(use, sealed)
    return Proposal(totp.base32(secret), totp.uri(secret, desk.settings.brand.name, user.email))


async def begin(desk: Desk, presence: Presence, code: str, client: Client) -> tuple[str, list[str]]:
    """Switch it on: a token that replaces the present session, and recovery codes, which cannot be shown again.

    What was used before, by who has another authenticator now or few recovery codes left, is void.
    InvalidRequest: the code does not belong to the proposed secret, or the session was ended meanwhile.
    """
    user, now = presence.user, await desk.database.now()
    proposed = await users.proposed_totp(desk.database, user.id)
    step = None
    if proposed is not None:
        secret = desk.master.open(f"totp/{user.public_id}", proposed)
        step = totp.matching_step(secret, code, now, 0)
    if proposed is None or step is None:
        raise InvalidRequest(_WRONG, param="code")
    codes, used, sealed = new_codes(), step, proposed
    deed = "two_factor.on" if user.totp_since is None else "two_factor.replaced"
    done = "turned on" if user.totp_since is None else "replaced"
    letter = letters.way_in(desk, user.email, f"The second factor was {done}")

    async def use_case(transaction: Transaction) -> None:
        await sessions.keep(transaction, presence, now)
        if not await users.begin_totp(transaction, user.id, sealed, used, now):
            raise InvalidRequest(_WRONG, param="code")
        await users.replace_recovery_codes(transaction, user.id, [sessions.digest(each) for each in codes])
        await deeds.note_of_user(transaction, user, deed, client, now)
        await desk.post.put(transaction, letter, now)

    await run(desk.database, use_case)
    desk.post.hurry(letter)
    token = await sessions.renew(desk.database, presence, client, factors=2)
    return token, [f"{each[:5]}-{each[5:]}" for each in codes]


async def end(desk: Desk, presence: Presence, client: Client) -> str:
    """Log in by password alone from now on; the token of the session that continues.

    InvalidRequest: for operators, or the session was ended meanwhile.
    """
    if presence.user.operator:
        raise InvalidRequest("Operators cannot turn off their second factor.")
    now = await desk.database.now()
    letter = letters.way_in(desk, presence.user.email, "The second factor was turned off")

    async def use_case(transaction: Transaction) -> None:
        await sessions.keep(transaction, presence, now)
        await users.end_totp(transaction, presence.user.id)
        await deeds.note_of_user(transaction, presence.user, "two_factor.off", client, now)
        await desk.post.put(transaction, letter, now)

    await run(desk.database, use_case)
    desk.post.hurry(letter)
    return await sessions.renew(desk.database, presence, client, factors=1)


async def drop(database: Database, email: str, *, actor: str) -> None:
    """As `end`, for a user who has lost authenticator and recovery codes; operators too. `actor`: who does it for them.

    InvalidRequest: not an address, or they have none. NotFound: nobody has it.
    """
    address = accounts.normalise(email)
    now = await database.now()

    async def use_case(transaction: Transaction) -> None:
        user = await users.by_email(transaction, address)
        if user is None:
            raise NotFound(f"nobody here has the address {address}", param="email")
        if user.totp_since is None:
            raise InvalidRequest(f"{address} has no second factor", param="email")
        await users.end_totp(transaction, user.id)
        theirs = await members.of_user(transaction, user.id)
        # Operators are never forgotten.
        known = deeds.known_as(theirs, address if user.operator else user.public_id)
        for account_id, whose in ((activity.GATEWAY, known), *((each.account_id, address) for each in theirs)):
            deed = NewDeed(account_id=account_id, actor=actor, action="two_factor.dropped", detail=whose)
            await activity.add(transaction, deed, now)

    await run(database, use_case)


def new_codes() -> list[str]:
    """Each has more than 49 random bits, and a throttle in front of it."""
    return ["".join(secrets.choice(_LETTERS) for _ in range(_CODE_LENGTH)) for _ in range(RECOVERY_CODES)]
