"""Changing what people log in with: a forgotten password, a new password, a new e-mail address."""

import msgspec

from tollbridge.core.roles import Role
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.services import accounts, deeds, letters, login, passwords, register, sessions, throttle
from tollbridge.services.desk import Desk
from tollbridge.services.mail import Mail, verification_required
from tollbridge.services.sessions import Client, Presence
from tollbridge.store import accounts as account_rows
from tollbridge.store import activity, identities, mail, members, users
from tollbridge.store import sessions as session_rows
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Duplicate, Transaction, run
from tollbridge.store.users import User
from tollbridge.values import DAY_MS

RESET = "reset"
EMAIL = "email"
# As long as the limit on these mails: who is sent no more of them, because strangers asked, has one that is good.
RESET_MS = throttle.MAILS_TO_ADDRESS.window_ms
EMAIL_MS = DAY_MS
MOVE_MS = DAY_MS
SPENT = "This link no longer works. Ask for a new one."
_TAKEN = "Somebody else uses this address by now."


async def forgot(desk: Desk, email: str, client: Client) -> None:
    """Send a link for choosing a new password, if the address is somebody's. Callers do not learn whether it is."""
    try:
        address = accounts.normalise(email)
    except InvalidRequest:
        return
    now = await desk.database.now()
    # In this order: a sender at their limit must not use up what the address may receive.
    if not throttle.is_local(client.address) and not await throttle.spend(
        desk.database, "mail-from", throttle.whose(client.address), throttle.MAILS_FROM_ADDRESS, now
    ):
        return
    # By itself: no other mail that strangers have sent there helps whoever has forgotten their password.
    if await throttle.spend(desk.database, "reset-to", address, throttle.MAILS_TO_ADDRESS, now):
        user = await users.by_email(desk.database, address)
        if user is not None:
            await _put(desk, letters.reset(desk, address, await reset_token(desk, user, RESET_MS)), now)


async def reset_token(desk: Desk, user: User, good_for_ms: int) -> str:
    """The token for a link to choose a new password. Whichever is used first makes the others void."""
    now = await desk.database.now()
    token = sessions.new_token()
    holder = (user.id, user.email)
    await run(
        desk.database,
        lambda transaction: mail.add_token(transaction, sessions.digest(token), RESET, holder, now + good_for_ms),
    )
    return token


async def address_of(desk: Desk, token: str, kind: str) -> str | None:
    """The address that a link of this kind was made for; None if it cannot be used any more."""
    found = await mail.find_token(desk.database, sessions.digest(token), kind, await desk.database.now())
    return found[1] if found else None


async def reset(desk: Desk, token: str, password: str, client: Client) -> str:
    """Choose a new password by a link. All sessions end, and all other links become void.

    A link of `move` leads to another address than the user's: they have that one from now on.
    Returns the mark of a known browser: the failures of strangers must not keep out whoever has the mailbox.
    InvalidRequest: the link or the password is not acceptable, or the address is taken.
    """
    now = await desk.database.now()
    digest = sessions.digest(token)
    found = await mail.find_token(desk.database, digest, RESET, now)
    user = await users.by_id(desk.database, found[0]) if found else None
    if found is None or user is None:
        raise InvalidRequest(SPENT, param="token")
    checked = passwords.check(password, found[1], desk.settings.brand.name)
    hashed = await desk.passwords.hash(checked)
    moved = msgspec.structs.replace(user, email=found[1])

    async def use_case(transaction: Transaction) -> tuple[bool, Mail | None]:
        if await mail.take_token(transaction, digest, RESET, now) is None:
            return False, None
        await users.set_password(transaction, user.id, hashed)
        # Whoever was logged in may have seen it.
        await users.drop_proposed_totp(transaction, user.id)
        await session_rows.end_all(transaction, user.id)
        # Including one that leads to somebody else's mailbox.
        await mail.void_tokens(transaction, user.id)
        told = None
        if moved != user:
            # Who had the old mailbox, or their password, is not who has this one: they may have left.
            await users.drop_ways_in(transaction, user.id)
            await identities.remove_all(transaction, user.id)
            told = await _change(desk, transaction, user, moved.email, client, now)
        # Whoever has the link has the mailbox, unless the operator gave it to who said that they forgot their password.
        # The operator has asked who is moved whether the account is theirs.
        other = verification_required(desk.settings) and moved == user
        await register.admit(desk, transaction, moved, 0, now, other=other)
        await deeds.note_of_user(transaction, moved, "password.reset", client, now)
        return True, told

    try:
        done, told = await run(desk.database, use_case)
    except Duplicate:
        raise InvalidRequest(_TAKEN, param="token") from None
    if not done:
        raise InvalidRequest(SPENT, param="token")
    if told is not None:
        desk.post.hurry(told)
    return login.device_mark(desk, user)


async def move(desk: Desk, old: str, new: str, *, actor: str) -> str | None:
    """For the operator: give who has lost their old mailbox, and their way in with it, another address.

    Nothing changes until they choose a password by a link that is sent to `new`, whose token is returned. Their second
    factor stays. None: nobody logs in by `old`, which was only an account's address and is `new` at once. `actor`: see
    `accounts.set_frozen`. InvalidRequest: not an address, or taken. NotFound: nobody has `old`.
    """
    before, after = accounts.normalise(old), accounts.mailable(new)
    now = await desk.database.now()
    token = sessions.new_token()

    async def use_case(transaction: Transaction) -> str | None:
        user, account = await users.by_email(transaction, before), await account_rows.by_email(transaction, before)
        if user is None and account is None:
            raise NotFound(f"nobody here has the address {before}", param="email")
        if await users.by_email(transaction, after) or await account_rows.by_email(transaction, after):
            raise InvalidRequest(
                f"{after} has an account or a login here already: whoever has it deletes that first, in their settings",
                param="email",
            )
        theirs = [] if user is None else [each.account_id for each in await members.of_user(transaction, user.id)]
        if account is not None and account.id not in theirs:
            user, theirs = None, [account.id]
            await account_rows.set_email(transaction, account.id, after)
        if user is not None:
            await mail.void_tokens_of(transaction, user.id, RESET)
            await mail.add_token(transaction, sessions.digest(token), RESET, (user.id, after), now + MOVE_MS)
            await desk.post.put(transaction, letters.moved(desk, after, token), now)
        action = "account.moved" if user is None else "email.offered"
        for account_id in theirs:
            deed = NewDeed(account_id=account_id, actor=actor, action=action, detail=f"{before} → {after}")
            await activity.add(transaction, deed, now)
        return None if user is None else token

    return await run(desk.database, use_case)


async def change_password(desk: Desk, presence: Presence, password: str, client: Client) -> str:
    """The token of the session that continues; all others end, and links become void.

    InvalidRequest: unsuitable, or somebody else was quicker: with a link for choosing a new one, or by ending this
    session.
    """
    user, now = presence.user, await desk.database.now()
    checked = passwords.check(password, user.email, desk.settings.brand.name)
    with desk.passwords.turn(throttle.taker(client.address)):
        hashed = await desk.passwords.hash(checked)
    letter = letters.password_changed(desk, user.email)

    async def use_case(transaction: Transaction) -> None:
        await sessions.keep(transaction, presence, now)
        if not await users.replace_password(transaction, user.id, user.password, hashed):
            raise InvalidRequest(sessions.CHANGED, param="password")
        await users.drop_proposed_totp(transaction, user.id)
        await session_rows.end_all(transaction, user.id, but=presence.session.id)
        await mail.void_tokens(transaction, user.id)
        await deeds.note_of_user(transaction, user, "password.changed", client, now)
        await desk.post.put(transaction, letter, now)

    await run(desk.database, use_case)
    desk.post.hurry(letter)
    presence = msgspec.structs.replace(presence, user=msgspec.structs.replace(user, password=hashed))
    return await sessions.renew(desk.database, presence, client, factors=presence.session.factors)


async def change_email(desk: Desk, presence: Presence, email: str) -> None:
    """Send a link to the new address. Nothing changes until the link is followed, and then the old address is told.

    InvalidRequest: not an address, or already theirs. RateLimited: too many.
    """
    user, now = presence.user, await desk.database.now()
    address = accounts.mailable(email)
    if address == user.email:
        raise InvalidRequest("This is already your address.", param="email")
    await throttle.spend_mail(desk.database, user.public_id, address, now)
    token = sessions.new_token()
    taken = await users.by_email(desk.database, address) is not None
    letter = letters.already_registered(desk, address) if taken else letters.confirm_email(desk, address, token)

    async def use_case(transaction: Transaction) -> None:
        await sessions.keep(transaction, presence, now)
        if not taken:
            # The one before may have gone to a mailbox that was a slip of the pen.
            await mail.void_tokens_of(transaction, user.id, EMAIL)
            await mail.add_token(transaction, sessions.digest(token), EMAIL, (user.id, address), now + EMAIL_MS)
        await desk.post.put(transaction, letter, now)

    await run(desk.database, use_case)
    desk.post.hurry(letter)


async def confirm_email(desk: Desk, token: str, client: Client) -> None:
    """Change to the address that a link confirms. InvalidRequest: the link is void, or the address is taken."""
    now = await desk.database.now()

    async def use_case(transaction: Transaction) -> Mail | None:
        found = await mail.take_token(transaction, sessions.digest(token), EMAIL, now)
        user = await users.by_id(transaction, found[0]) if found else None
        if found is None or user is None:
            return None
        await users.set_verified(transaction, user.id, now)
        # Those in the old mailbox.
        await mail.void_tokens(transaction, user.id)
        return await _change(desk, transaction, user, found[1], client, now)

    try:
        letter = await run(desk.database, use_case)
    except Duplicate:
        raise InvalidRequest(_TAKEN, param="token") from None
    if letter is None:
        raise InvalidRequest(SPENT, param="token")
    desk.post.hurry(letter)


async def _change(desk: Desk, transaction: Transaction, user: User, email: str, client: Client, now: int) -> Mail:
    """Give a user, and the account of theirs that has their address, another one. `Duplicate`: it is taken.

    The letter that tells the old mailbox, for `hurry`.
    """
    await users.set_email(transaction, user.id, email)
    own = await account_rows.by_email(transaction, user.email)
    if own is not None and await members.role_of(transaction, own.id, user.id) is Role.OWNER:
        await account_rows.set_email(transaction, own.id, email)
    await deeds.note_of_user(transaction, user, "email.changed", client, now)
    letter = letters.email_changed(desk, user.email)
    await desk.post.put(transaction, letter, now)
    return letter


async def _put(desk: Desk, letter: Mail, now: int) -> None:
    await run(desk.database, lambda transaction: desk.post.put(transaction, letter, now))
    desk.post.hurry(letter)
