"""What operators do to accounts. Each deed is noted, with its reason, by the transaction that does it."""

from tollbridge.core.ledger import Posted
from tollbridge.core.payments import Reversal
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.services import accounts, credit, refunds
from tollbridge.services.deeds import Actor
from tollbridge.services.payments import Payments
from tollbridge.store import accounts as rows
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database

_LONGEST = 300


async def find(database: Database, public_id: str) -> Account:
    """The account with this public id; raises `NotFound`."""
    account = await rows.by_public_id(database, public_id)
    if account is None:
        raise NotFound("There is no such account.", param="account")
    return account


async def set_frozen(database: Database, account: Account, frozen: bool, reason: str, actor: Actor) -> None:
    """As `accounts.set_frozen`. InvalidRequest: a reason is missing, or the account is closed."""
    why = check_reason(reason)
    named = account.public_id
    await accounts.set_frozen(database, named, frozen, actor=actor.name, address=actor.address, reason=why)


async def grant(database: Database, account: Account, amount: int, reason: str, *, actor: Actor, once: str) -> Posted:
    """Give promotional credit, once per text `once`. InvalidRequest: not possible."""
    return await credit.grant(
        database,
        account,
        amount,
        reason=check_reason(reason),
        actor=actor.name,
        address=actor.address,
        idempotency_key=once,
    )


async def refund(
    ways: Payments, public_id: str, amount: int | None, reason: str, *, actor: Actor, once: str
) -> Reversal:
    """Give money back, once per text `once`; None: all that is left of the payment. Raises as `refunds.refund`."""
    return await refunds.refund(
        ways, public_id, amount, actor=actor.name, address=actor.address, reason=check_reason(reason), once=once
    )


def check_reason(text: str) -> str:
    text = text.strip()
    if not text or len(text) > _LONGEST or not text.isprintable():
        raise InvalidRequest(f"Say why, in 1 to {_LONGEST} characters in one line.", param="reason")
    return text
