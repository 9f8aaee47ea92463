"""Logging in by what another service says about somebody."""

import msgspec

from tollbridge.config import Settings
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.services import accounts, deeds, letters, login, register
from tollbridge.services.desk import Desk
from tollbridge.services.login import Entered
from tollbridge.services.sessions import Client, Presence
from tollbridge.store import identities, members, users
from tollbridge.store.db import Duplicate, Transaction, run
from tollbridge.store.users import NewUser, User

# Another service does not decide who runs the gateway, not even one that somebody used before they became an operator.
OF_OPERATORS = "Operators log in with their password."


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What `issuer` says: who it was (`subject`, which never changes), and an address if it knows that it is theirs."""

    issuer: str
    subject: str
    email: str | None


async def is_taken(desk: Desk, claim: Claim) -> bool:
    """Whether somebody opened an account with this address and a password, and nobody knows whether it was theirs.

    If it was, they say so by that password (`enter_as_before`), and lose nothing. The mark of a known browser would not
    say it: whoever had this browser before may have registered with the address of somebody else.
    """
    database = desk.database
    if claim.email is None or await identities.find(database, claim.issuer, claim.subject) is not None:
        return False
    user = await users.by_email(database, accounts.normalise(claim.email))
    if user is None or user.operator or user.password is None or user.verified_at is not None:
        return False
    return bool(await members.of_user(database, user.id)) and not await users.was_taken_over(database, user.id)


async def enter_as_before(desk: Desk, claim: Claim, password: str, client: Client, device: str = "") -> Entered:
    """As `enter`, for who knows the password that was chosen with the address: all that they have set up stays.

    Raises as `login.by_password` too.
    """
    registered = await login.by_password(desk, claim.email or "", password, client, device)
    return await enter(desk, claim, client, registered=registered)


async def enter(desk: Desk, claim: Claim, client: Client, *, registered: User | None = None) -> Entered:
    """Let in somebody whom the issuer has recognised; a new user gets an account.

    `registered`: who they have proved by a password to be. InvalidRequest: the issuer knows no verified address, which
    a new user needs; or they are an operator.
    """
    user_id = await identities.find(desk.database, claim.issuer, claim.subject)
    if user_id is None:
        user_id = await _introduce(desk, claim, client, registered)
    user = await users.by_id(desk.database, user_id)
    assert user is not None
    if user.operator:
        raise InvalidRequest(OF_OPERATORS)
    return await login.enter(desk, user, client)


async def _introduce(desk: Desk, claim: Claim, client: Client, registered: User | None) -> int:
    """The id of the user, found by the address or created."""
    if claim.email is None:
        raise InvalidRequest("You have no verified e-mail address there. Verify one, or register with a password.")
    email = accounts.normalise(claim.email)
    now = await desk.database.now()
    known = await users.by_email(desk.database, email)
    if known is not None and known.operator:
        raise InvalidRequest(OF_OPERATORS)
    gift = 0 if known is not None else await register.first_credit(desk, email, client, now)
    letter = letters.way_in(desk, email, f"{label(desk.settings, claim.issuer)} was added")

    async def use_case(transaction: Transaction) -> tuple[int, bool]:
        row = NewUser(public_id=accounts.new_id("user"), email=email, verified_at=now, consented_at=now)
        before = await users.by_email(transaction, email)
        user = before or await users.create(transaction, row, now)
        if user.verified_at is None and registered is not None:
            if not await users.replace_password(transaction, user.id, registered.password, registered.password):
                raise InvalidRequest(login.WRONG, param="password")
            if not await users.was_taken_over(transaction, user.id):
                await users.set_verified(transaction, user.id, now)
                user = msgspec.structs.replace(user, verified_at=now)
        if user.verified_at is None:
            # Whoever chose the password has not shown that the address is theirs.
            await users.drop_password(transaction, user.id)
        await register.admit(desk, transaction, user, gift, now, other=True)
        await identities.add(transaction, claim.issuer, claim.subject, user.id, now)
        if before is not None and user.verified_at is not None:
            # Only the service knows who that was: the user has to be able to say that it was not them.
            await deeds.note_of_user(transaction, user, "identity.added", client, now)
            await desk.post.put(transaction, letter, now)
            return user.id, True
        return user.id, False

    try:
        user_id, told = await run(desk.database, use_case)
    except Duplicate:
        raise InvalidRequest("Another log-in with this is running. Please try again.") from None
    if told:
        desk.post.hurry(letter)
    return user_id


async def remove(desk: Desk, presence: Presence, issuer: str, client: Client) -> None:
    """Let nobody in any more by what `issuer` says. NotFound; InvalidRequest: they have no other way in."""
    user, now = presence.user, await desk.database.now()
    letter = letters.way_in(desk, user.email, f"{label(desk.settings, issuer)} was removed")

    async def use_case(transaction: Transaction) -> None:
        if not await identities.remove(transaction, user.id, issuer):
            raise NotFound("You do not log in with this service.")
        await login.keep_a_way_in(transaction, user)
        await deeds.note_of_user(transaction, user, "identity.removed", client, now)
        await desk.post.put(transaction, letter, now)

    await run(desk.database, use_case)
    desk.post.hurry(letter)


def label(settings: Settings, issuer: str) -> str:
    """What users know an issuer as; its own name if it is no longer configured."""
    names = [each.label for each in settings.login.values() if each.issuer == issuer.rstrip("/")]
    return names[0] if names else issuer
