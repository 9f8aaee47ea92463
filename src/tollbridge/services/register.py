"""Becoming a customer: a user, then an account with a key and the first credit.

A user who has to verify their address first has nothing but a row until they do.
"""

from contextlib import suppress

import msgspec

from tollbridge.config import Settings
from tollbridge.core import ledger
from tollbridge.core.roles import Role
from tollbridge.errors import Faults, InvalidRequest
from tollbridge.services import accounts, letters, passwords, sessions, throttle
from tollbridge.services.desk import Desk
from tollbridge.services.keys import keep_copy, make
from tollbridge.services.mail import Mail, verification_required
from tollbridge.services.sessions import Client, Presence
from tollbridge.services.throttle import Limit
from tollbridge.store import (
    account_keys,
    activity,
    byok,
    invoices,
    journal,
    keys,
    mail,
    management_keys,
    members,
    top_ups,
    users,
)
from tollbridge.store import accounts as account_rows
from tollbridge.store import sessions as session_rows
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Duplicate, Transaction, run
from tollbridge.store.users import NewUser, User
from tollbridge.values import DAY_MS, HOUR_MS

KEY_LABEL = "default"
LINK = "verify"
LINK_MS = DAY_MS
# First credit is given to so many new accounts a day.
GRANTS_TO_CLIENT = Limit(3, DAY_MS)
GRANTS_TO_DOMAIN = Limit(200, DAY_MS)
GRANTS_TO_MAILBOX = Limit(1, 3650 * DAY_MS)
# Where an account has something for nothing each month.
ACCOUNTS_OF_MAILBOX = Limit(1, 31 * DAY_MS)
_AGAIN = "An account was opened for your mailbox in the last 31 days. Open another later, or write to us."
_TAKEN = "There is an account with your address already: its owner can invite you, or write to us."


class SignUp(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody fills in."""

    email: str
    password: str
    consent: bool

    def __repr__(self) -> str:
        return "SignUp(…)"


async def register(desk: Desk, form: SignUp, client: Client) -> str | None:
    """A session's token; None: a link went to the address, and nobody learns whether it was known already.

    InvalidRequest: a field is wrong. RateLimited: too many sign-ups from there.
    """
    with Faults() as faults:
        email = faults.of("", accounts.mailable, form.email)
        password = faults.of("", passwords.check, form.password, email, desk.settings.brand.name)
        if not form.consent:
            faults.add("Please agree to the terms to continue.", "consent")
    with desk.passwords.turn(throttle.taker(client.address)):
        now = await desk.database.now()
        if not throttle.is_local(client.address) and not await throttle.spend(
            desk.database, "sign-up", throttle.whose(client.address), throttle.SIGN_UPS, now
        ):
            raise throttle.too_many("Too many sign-ups from your network", HOUR_MS)
        hashed = await desk.passwords.hash(password)
    must_verify = verification_required(desk.settings)
    # Whose account was made by the operator proves that they are meant.
    if not must_verify and await account_rows.by_email(desk.database, email) is not None:
        must_verify = await users.by_email(desk.database, email) is None
    if not must_verify:
        return await _register_now(desk, email, hashed, client)
    if await throttle.spend(desk.database, "mail-to", email, throttle.MAILS_TO_ADDRESS, now):
        await _register_later(desk, email, hashed, now)
    return None


async def _register_now(desk: Desk, email: str, hashed: str, client: Client) -> str:
    now = await desk.database.now()
    gift = await first_credit(desk, email, client, now)

    async def use_case(transaction: Transaction) -> str:
        row = NewUser(public_id=accounts.new_id("user"), email=email, password=hashed, consented_at=now)
        user = await users.create(transaction, row, now)
        await open_account(desk, transaction, user, gift, now)
        return await sessions.begin(transaction, user, client, 1, now)

    try:
        return await run(desk.database, use_case)
    except Duplicate:
        raise InvalidRequest("This address already has an account: log in instead.", param="email") from None


async def _register_later(desk: Desk, email: str, hashed: str, now: int) -> None:
    token = sessions.new_token()

    async def use_case(transaction: Transaction) -> Mail:
        user = await users.by_email(transaction, email)
        if user is None:
            row = NewUser(public_id=accounts.new_id("user"), email=email, password=hashed, consented_at=now)
            user_id = (await users.create(transaction, row, now)).id
        elif user.verified_at is None and await users.take_over(transaction, user.id, hashed, now):
            user_id = user.id
            # Whoever was here before has not shown that the address is theirs.
            await mail.void_tokens_of(transaction, user_id, LINK)
        else:
            user_id = 0
        letter = letters.verify(desk, email, token) if user_id else letters.already_registered(desk, email)
        if user_id:
            await mail.add_token(transaction, sessions.digest(token), LINK, (user_id, email), now + LINK_MS)
        await desk.post.put(transaction, letter, now)
        return letter

    try:
        letter = await run(desk.database, use_case)
    except Duplicate:
        letter = await run(desk.database, use_case)  # the form was sent twice: there is a user now
    desk.post.hurry(letter)


async def send_link(desk: Desk, user: User) -> None:
    """The link once more, to somebody who has just given the right password."""
    now = await desk.database.now()
    if not await throttle.spend(desk.database, "mail-to", user.email, throttle.MAILS_TO_ADDRESS, now):
        return
    token = sessions.new_token()
    letter = letters.verify(desk, user.email, token)

    async def use_case(transaction: Transaction) -> None:
        await mail.add_token(transaction, sessions.digest(token), LINK, (user.id, user.email), now + LINK_MS)
        await desk.post.put(transaction, letter, now)

    await run(desk.database, use_case)
    desk.post.hurry(letter)


async def verify(desk: Desk, token: str, password: str, client: Client) -> str:
    """A session's token for who follows the link and knows the password that was chosen with it.

    The password keeps a stranger from opening an account in somebody's name and have them confirm it.
    InvalidRequest: the link is not good (any more), or the password is wrong.
    """
    now = await desk.database.now()
    found = await mail.find_token(desk.database, sessions.digest(token), LINK, now)
    user = await users.by_id(desk.database, found[0]) if found else None
    if user is None:
        raise InvalidRequest("This link no longer works. Log in to get a new one.", param="token")
    door = throttle.Door(account=user.email, client=client.address)
    await throttle.check_door(desk.database, door, now)
    if not await desk.passwords.matches(user.password, password):
        await throttle.failed(desk.database, door, now)
        raise InvalidRequest("This is not the password that you chose when you registered.", param="password")
    await throttle.opened(desk.database, door)
    gift = await first_credit(desk, user.email, client, now)

    async def use_case(transaction: Transaction) -> str | None:
        if await mail.take_token(transaction, sessions.digest(token), LINK, now) is None:
            return None
        # Who registered first and knows the password has made the keys themselves, when nobody had to verify yet.
        other = verification_required(desk.settings) and await users.was_taken_over(transaction, user.id)
        await admit(desk, transaction, user, gift, now, other=other)
        return await sessions.begin(transaction, user, client, 1, now)

    session = await run(desk.database, use_case)
    if session is None:
        raise InvalidRequest("This link has already been used. Log in.", param="token")
    return session


async def admit(desk: Desk, transaction: Transaction, user: User, gift: int, now: int, *, other: bool) -> None:
    """The address is theirs: it gets an account, or the one that the operator made for it.

    `other`: they need not be who registered with the address. If nobody has shown before that it is theirs, the second
    factor goes then, and of the address's own account its keys and people, and whatever it pays with elsewhere.

    They get none if `open_account` opens none.
    """
    if await users.set_verified(transaction, user.id, now):
        # Whoever came in by this address before has not shown that it is theirs.
        await users.drop_ways_in(transaction, user.id)
        if other:
            await users.end_totp(transaction, user.id)
            for each in await members.of_user(transaction, user.id):
                # An account of somebody else's they joined by a link to this address, as its owner would. Nothing there
                # is touched: a stranger who registers with the address of one of its people, or locks them out, could
                # make its keys stop.
                if each.role is Role.OWNER and each.email == user.email:
                    await _revoke_keys(transaction, each.account_id, user, now)
                    await _give_back(transaction, each.account_id, user, now)
                    await _send_away(transaction, each.account_id, user, now)
    if await members.of_user(transaction, user.id):
        return
    waiting = await account_rows.by_email(transaction, user.email)
    if waiting is None:
        await open_account(desk, transaction, user, gift, now)
    elif not await members.of_account(transaction, waiting.id):
        await members.add(transaction, waiting.id, user.id, Role.OWNER, now)
        await activity.add(transaction, NewDeed(account_id=waiting.id, actor=user.email, action="account.claimed"), now)


async def open_own(desk: Desk, presence: Presence, client: Client) -> None:
    """An account for a user who belongs to none any more; they look at it from now on.

    InvalidRequest: they belong to one, another account has their address, their mailbox had one too lately, or they
    have to confirm it first.
    """
    user, now = presence.user, await desk.database.now()
    if user.verified_at is None and verification_required(desk.settings):
        raise InvalidRequest("Confirm your address first: log out, and log in again.")
    gift = await first_credit(desk, user.email, client, now)

    async def use_case(transaction: Transaction) -> None:
        await sessions.keep(transaction, presence, now)
        if await members.of_user(transaction, user.id):
            raise InvalidRequest("You belong to an account already.")
        if user.verified_at is None:
            await open_account(desk, transaction, user, gift, now)
        else:
            await admit(desk, transaction, user, gift, now, other=False)
        opened = await members.of_user(transaction, user.id)
        if not opened:
            taken = await account_rows.by_email(transaction, user.email) is not None
            raise InvalidRequest(_TAKEN if taken else _AGAIN)
        await session_rows.move(transaction, presence.session.id, opened[0].account_id)

    try:
        await run(desk.database, use_case)
    except Duplicate:
        raise InvalidRequest(_TAKEN) from None


async def _revoke_keys(transaction: Transaction, account_id: int, user: User, now: int) -> None:
    """All of an account, of both kinds."""
    for key in await account_keys.of_account(transaction, account_id):
        if key.revoked_at is None:
            await keys.revoke(transaction, account_id, key.public_id, now)
            await _note(transaction, account_id, user, ("key.revoked", key.name), now)
    for manager in await management_keys.of_account(transaction, account_id):
        await management_keys.revoke(transaction, account_id, manager.public_id, now)
        await _note(transaction, account_id, user, ("management_key.revoked", manager.public_id), now)


async def _give_back(transaction: Transaction, account_id: int, user: User, now: int) -> None:
    """What would have the one before pay for the one who is here now: their keys at providers, and their card."""
    for own in await byok.of_account(transaction, account_id):
        await byok.remove(transaction, account_id, own.public_id)
        await _note(transaction, account_id, user, ("byok.removed", own.public_id), now)
    await top_ups.remove(transaction, account_id)
    if await invoices.card(transaction, account_id) is not None:
        await invoices.put_card(transaction, account_id, None)
        await _note(transaction, account_id, user, ("card.removed", ""), now)


async def _send_away(transaction: Transaction, account_id: int, user: User, now: int) -> None:
    """All other members of an account, and whoever is invited to it."""
    for member in await members.of_account(transaction, account_id):
        found = await members.find(transaction, account_id, member.public_id)
        if found is not None and found[0] != user.id:
            await members.remove(transaction, account_id, found[0])
            await _note(transaction, account_id, user, ("member.removed", member.email), now)
    for invitation in await members.invitations(transaction, account_id):
        await members.take_back(transaction, account_id, invitation.public_id)
        await _note(transaction, account_id, user, ("member.uninvited", invitation.email), now)


async def _note(transaction: Transaction, account_id: int, user: User, deed: tuple[str, str], now: int) -> None:
    """`deed`: (action, detail)."""
    action, detail = deed
    await activity.add(transaction, NewDeed(account_id=account_id, actor=user.email, action=action, detail=detail), now)


async def open_account(desk: Desk, transaction: Transaction, user: User, gift: int, now: int) -> None:
    """A new account of `user` with a key labelled `default`, which can be shown once.

    None is opened if their mailbox had one in the last 31 days, and each would have something for nothing: who closed
    one and opened another, again and again, would have it as often.
    """
    if _gives_each_month(desk.settings) and not await throttle.spend(
        transaction, "account-mailbox", mailbox(user.email), ACCOUNTS_OF_MAILBOX, now
    ):
        return
    plan = desk.settings.billing.signup_plan
    account_id = await accounts.add(desk.database, transaction, user.email, plan, 0, user.email, now)
    await members.add(transaction, account_id, user.id, Role.OWNER, now)
    made, row = make(desk.master, account_id, desk.settings.brand.key_prefix, KEY_LABEL)
    await keys.create(transaction, row, now)
    await keep_copy(desk.master, transaction, made)
    if gift:
        first = ledger.grant(
            account_id, gift, idempotency_key=f"grant/sign-up/{user.public_id}", reason="first credit", actor="sign-up"
        )
        await journal.post(desk.database, transaction, first, now)


def _gives_each_month(settings: Settings) -> bool:
    """Whether a plan that costs nothing, and that customers may choose, includes tokens or credit."""
    names = {settings.billing.signup_plan, *settings.billing.customer_plans}
    plans = (settings.plans.get(name) for name in names)
    return any(plan is not None and not plan.price and (plan.included_tokens or plan.included_credit) for plan in plans)


async def first_credit(desk: Desk, email: str, client: Client, now: int) -> int:
    """Nano-USD that a new account of this address begins with; nothing where somebody makes many."""
    amount = desk.settings.billing.signup_grant
    if not amount:
        return 0
    box = mailbox(email)
    counted = [("grant-mailbox", box, GRANTS_TO_MAILBOX), ("grant-domain", box.rpartition("@")[2], GRANTS_TO_DOMAIN)]
    if not throttle.is_local(client.address):
        counted.append(("grant-client", throttle.whose(client.address), GRANTS_TO_CLIENT))
    allowed = [await throttle.spend(desk.database, what, who, limit, now) for what, who, limit in counted]
    return amount if all(allowed) else 0


def mailbox(email: str) -> str:
    """The same text for addresses that mostly lead to one mailbox: without `+tag`, without Google's dots, and with its
    domain as mail servers look it up, however it is written.
    """
    name, _, domain = email.rpartition("@")
    name = name.partition("+")[0]
    with suppress(UnicodeError):
        domain = domain.encode("idna").decode("ascii")
    if domain in {"gmail.com", "googlemail.com"}:
        name, domain = name.replace(".", ""), "gmail.com"
    return f"{name}@{domain}"
