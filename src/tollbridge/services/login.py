"""Logging in: a password, then a second factor if there is one."""

import hmac

import msgspec

from tollbridge.core import totp
from tollbridge.errors import InvalidRequest
from tollbridge.services import accounts, deeds, letters, register, sessions, throttle
from tollbridge.services.desk import Desk
from tollbridge.services.mail import verification_required
from tollbridge.services.sessions import Client, Presence
from tollbridge.services.throttle import Door
from tollbridge.store import identities, members, passkeys, users
from tollbridge.store.db import Transaction, run
from tollbridge.store.users import User

WRONG = "The e-mail address or the password is wrong."


class Entered(msgspec.Struct, frozen=True):
    """A session's token, and a mark by which this browser is recognised later.

    `half`: a second factor is still needed, and the mark comes with it: no stranger who has the password gets one.
    No token: the address is not verified yet, and a new link was sent to it.
    """

    token: str = ""
    device: str = ""
    half: bool = False


async def log_in(desk: Desk, email: str, password: str, client: Client, device: str = "") -> Entered:
    """Raises as `by_password`."""
    return await enter(desk, await by_password(desk, email, password, client, device), client)


async def by_password(desk: Desk, email: str, password: str, client: Client, device: str = "") -> User:
    """Who has this address and this password.

    InvalidRequest: address or password is wrong, without saying which. RateLimited: after too many failures.
    """
    try:
        address = accounts.normalise(email)
    except InvalidRequest:
        address = ""
    with desk.passwords.turn(throttle.taker(client.address)):
        now = await desk.database.now()
        user = await users.by_email(desk.database, address) if address else None
        door = Door(account=address, client=client.address, device=user is not None and is_known(desk, user, device))
        await throttle.check_door(desk.database, door, now)
        right = await desk.passwords.matches(user.password if user else None, password)
        if user is None or not right:
            await throttle.failed(desk.database, door, now)
            raise InvalidRequest(WRONG, param="password")
    await throttle.opened(desk.database, door)
    assert user.password is not None
    if desk.passwords.is_old(user.password):
        user_id, before, renewed = user.id, user.password, await desk.passwords.hash(password)
        await run(desk.database, lambda transaction: users.replace_password(transaction, user_id, before, renewed))
        user = msgspec.structs.replace(user, password=renewed)
    return user


async def enter(desk: Desk, user: User, client: Client, *, factors: int = 1) -> Entered:
    """Let in a user who has proved who they are, with one factor or two.

    InvalidRequest: their password was changed since `user` was read, which ended all sessions and must end this one.
    """
    if user.verified_at is None and (
        verification_required(desk.settings) or not await members.of_user(desk.database, user.id)
    ):
        await register.send_link(desk, user)
        return Entered()
    now = await desk.database.now()
    half = user.totp_since is not None and factors < 2

    async def use_case(transaction: Transaction) -> str:
        if not await users.replace_password(transaction, user.id, user.password, user.password):
            raise InvalidRequest(sessions.CHANGED, param="password")
        token = await sessions.begin(transaction, user, client, factors, now)
        # One factor of two does not let anybody in, and the owner should see that somebody has it.
        await deeds.note_of_user(transaction, user, "login.half" if half else "login", client, now)
        return token

    token = await run(desk.database, use_case)
    return Entered(token, "" if half else device_mark(desk, user), half=half)


async def prove(desk: Desk, presence: Presence, code: str, client: Client, device: str = "") -> Entered:
    """Trade the right code, or one of the recovery codes, for a whole session.

    InvalidRequest: wrong, or already used. RateLimited: after too many failures.
    """
    user, now = presence.user, await desk.database.now()
    known = is_known(desk, user, device)
    door = Door(account=f"totp/{user.public_id}", client=client.address, device=known)
    await throttle.check_door(desk.database, door, now)
    recovered = False
    if not await _takes(desk, user, code, now):
        recovered = await _takes_recovery_code(desk, user, code)
        if not recovered:
            await throttle.failed(desk.database, door, now)
            raise InvalidRequest("This code is wrong or has already been used. Wait for the next one.", param="code")
    await throttle.opened(desk.database, door)
    deed = "login.recovery" if recovered else "login"
    await run(desk.database, lambda transaction: deeds.note_of_user(transaction, user, deed, client, now))
    if recovered:
        await _tell_of_recovery(desk, user, now)
    return Entered(await sessions.renew(desk.database, presence, client, factors=2), device_mark(desk, user))


async def prove_again(desk: Desk, presence: Presence, password: str, client: Client) -> str:
    """Trade the password, given once more, for the token of a fresh session. InvalidRequest, RateLimited: as above."""
    user, now = presence.user, await desk.database.now()
    door = Door(account=user.email, client=client.address, device=True)
    with desk.passwords.turn(throttle.taker(client.address)):
        await throttle.check_door(desk.database, door, now)
        if not await desk.passwords.matches(user.password, password):
            await throttle.failed(desk.database, door, now)
            raise InvalidRequest("This is not your password.", param="password")
    await throttle.opened(desk.database, door)
    return await sessions.renew(desk.database, presence, client, factors=presence.session.factors)


async def _takes(desk: Desk, user: User, code: str, now: int) -> bool:
    sealed = await users.totp_secret(desk.database, user.id)
    if sealed is None or user.totp_since is None:
        return False
    secret = desk.master.open(f"totp/{user.public_id}", sealed)
    step = totp.matching_step(secret, code, now, user.totp_step)
    return step is not None and await run(
        desk.database, lambda transaction: users.take_step(transaction, user.id, step)
    )


async def _takes_recovery_code(desk: Desk, user: User, code: str) -> bool:
    digest = sessions.digest(code.strip().lower().replace("-", "").replace(" ", ""))
    return await run(desk.database, lambda transaction: users.take_recovery_code(transaction, user.id, digest))


async def _tell_of_recovery(desk: Desk, user: User, now: int) -> None:
    """In case that it was somebody else, who has found the list of codes and knows the password too."""
    left = await users.count_recovery_codes(desk.database, user.id)
    letter = letters.way_in(desk, user.email, f"A recovery code was used ({left} left)")
    await run(desk.database, lambda transaction: desk.post.put(transaction, letter, now))
    desk.post.hurry(letter)


async def keep_a_way_in(transaction: Transaction, user: User) -> None:
    """After one was removed. InvalidRequest: it was the only one."""
    if user.password is None:
        others = await identities.of_user(transaction, user.id) or await passkeys.of_user(transaction, user.id)
        if not others:
            raise InvalidRequest("This is the only way in that you have: choose a password first.")


def device_mark(desk: Desk, user: User) -> str:
    """What a browser keeps to show that this user has logged in with it."""
    return desk.master.sign("device", user.public_id)


def is_known(desk: Desk, user: User, device: str) -> bool:
    marks = desk.master.signatures("device", user.public_id)
    return any(hmac.compare_digest(mark.encode(), device.encode()) for mark in marks)
