"""Accounts: who may buy and use, and who must stop."""

import re
import secrets
import unicodedata
from collections.abc import AsyncIterator, Collection

from tollbridge.core.keys import ALPHABET
from tollbridge.core.ledger import Posted, grant
from tollbridge.core.plans import DEFAULT_PLAN
from tollbridge.core.words import read_whole
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.store import accounts, activity, journal, payments
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Duplicate, Transaction, run

_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f<>\"(),:;\\]{1,64}@[^@\s\x00-\x1f\x7f<>\"(),:;\\]{1,189}")
_LABEL = re.compile(r"(?!-)[a-z0-9\-\x80-\U0010ffff]{1,63}(?<!-)")
# Composing makes a text four times shorter at most: what is longer than this has too many characters for `_EMAIL`.
_LONGEST_TYPED = 4 * 254
_PAGE = 500
# More than 128 random bits.
_ID_LENGTH = 22


def new_id(kind: str) -> str:
    """A public id that nobody can guess: `acct_…`, `key_…`."""
    return kind + "_" + "".join(secrets.choice(ALPHABET) for _ in range(_ID_LENGTH))


def normalise(email: str) -> str:
    """The one form in which an address is stored and looked up; raises `InvalidRequest`."""
    typed = email.strip()
    # Sorting a run of accents takes the square of its length, on the event loop.
    read = unicodedata.normalize("NFC", typed[: _LONGEST_TYPED + 1]).lower()
    if _EMAIL.fullmatch(read) is None or not read.isprintable():
        said = f"{email[:80]!r} is not an e-mail address" if typed else "An e-mail address is needed,"
        raise InvalidRequest(f"{said} such as you@example.com", param="email")
    return read


def mailable(email: str) -> str:
    """As `normalise`, for an address that mail will go to: no mail goes to a domain that the internet cannot have."""
    address = normalise(email)
    labels = address.partition("@")[2].split(".")
    if len(labels) < 2 or not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit():
        raise InvalidRequest(f"No mail can be sent to {address[:80]!r}: check what comes after the @", param="email")
    return address


async def create(
    database: Database, email: str, *, plan: str = DEFAULT_PLAN, plans: Collection[str], credit: int = 0, actor: str
) -> Account:
    """A new account on one of `plans`, with `credit` nano-USD of promotional credit. InvalidRequest: not possible."""
    address = normalise(email)
    check_plan(plan, plans)
    now = await database.now()
    try:
        await run(database, lambda transaction: add(database, transaction, address, plan, credit, actor, now))
    except Duplicate:
        raise InvalidRequest(f"{address} already has an account", param="email") from None
    return await get(database, address)


def check_plan(plan: str, plans: Collection[str]) -> None:
    """InvalidRequest: there is no such plan."""
    if plan not in plans:
        raise InvalidRequest(
            f"there is no plan {plan[:60]!r}, only {', '.join(plans)}: plans are configured under [plans]",
            param="plan",
        )


async def add(
    database: Database, transaction: Transaction, email: str, plan: str, credit: int, actor: str, now: int
) -> int:
    """Create an account with its first credit within `transaction`; its id. `Duplicate`: the address has one."""
    public_id = new_id("acct")
    account_id = await accounts.create(transaction, public_id=public_id, email=email, plan=plan, now=now)
    if credit:
        gift = grant(account_id, credit, idempotency_key=f"grant/start/{public_id}", reason="first credit", actor=actor)
        verdict = await journal.post(database, transaction, gift, now)
        assert isinstance(verdict, Posted), verdict
    await activity.add(transaction, NewDeed(account_id=account_id, actor=actor, action="account.opened"), now)
    return account_id


async def get(database: Database, email: str) -> Account:
    """The account with this address; raises `NotFound`."""
    address = normalise(email)
    account = await accounts.by_email(database, address)
    if account is None:
        raise NotFound(f"{address} has no account", param="email")
    return account


async def named(database: Database, text: str) -> Account:
    """The account with this address, this public id, or this number, by which the request log identifies it.

    Also a closed one, by the address that it has since: for reading. Raises `NotFound`.
    """
    if text.startswith("acct_") and "@" not in text:
        account = await accounts.by_public_id(database, text)
    elif (number := read_whole(text)) is not None:
        account = await accounts.by_id(database, number)
    else:
        normalise(text)
        # What a closed account is called holds its public id, whose case counts.
        return await accounts.by_email(database, text.strip()) or await get(database, text)
    if account is None:
        raise NotFound(f"there is no account {text}", param="account")
    return account


async def in_use(database: Database, text: str) -> Account:
    """As `named`, for changing something: InvalidRequest if the account is closed."""
    account = await named(database, text)
    check_open(account)
    return account


def check_open(account: Account) -> None:
    """InvalidRequest: it is closed."""
    if account.closed:
        raise InvalidRequest(f"{account.public_id} is closed", param="account")


async def every(database: Database) -> AsyncIterator[Account]:
    """All accounts, oldest first."""
    after = 0
    while found := await accounts.page(database, after, _PAGE):
        for account in found:
            yield account
        after = found[-1].id


async def set_frozen(
    database: Database, text: str, frozen: bool, *, actor: str, address: str = "", reason: str = ""
) -> Account:
    """Refuse an account's calls from the next one on, or accept them again. Repeating it changes nothing.

    `text`, and what is raised: see `in_use`. `actor`, `address`: who does it, and from where, for the account's
    activity, in which its members read the reason too.
    """
    account, now = await in_use(database, text), await database.now()

    async def use_case(transaction: Transaction) -> None:
        if await accounts.set_frozen(transaction, account.id, frozen):
            if not frozen:
                await payments.forget_freezes(transaction, account.id)
            action = "account.frozen" if frozen else "account.unfrozen"
            deed = NewDeed(account_id=account.id, actor=actor, action=action, detail=reason, address=address)
            await activity.add(transaction, deed, now)

    await run(database, use_case)
    return await accounts.known(database, account.id)
