"""Credit that the operator gives."""

from tollbridge.core import ledger
from tollbridge.core.ledger import MAX_AMOUNT, Posted
from tollbridge.core.money import format_usd
from tollbridge.errors import InvalidRequest, KeyReused
from tollbridge.store import activity, journal
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Duplicate, Transaction, run

_LONGEST = 500


async def grant(
    database: Database,
    account: Account,
    amount: int,
    *,
    reason: str,
    actor: str,
    idempotency_key: str,
    address: str = "",
) -> Posted:
    """Give promotional credit, once per idempotency key: a repetition changes nothing and says `repeated`.

    InvalidRequest: the amount or reason is not acceptable. KeyReused: the key was used for something else.
    """
    check_amount(account, amount)
    for name, text in (("reason", reason), ("idempotency_key", idempotency_key)):
        if not text.strip() or len(text) > _LONGEST or not text.isprintable():
            raise InvalidRequest(f"{name} must be 1 to {_LONGEST} characters in one line", param=name)
    now = await database.now()
    gift = ledger.grant(
        account.id, amount, idempotency_key=f"grant/{idempotency_key}", reason=reason.strip(), actor=actor
    )

    async def use_case(transaction: Transaction) -> ledger.Verdict | None:
        verdict = await journal.post(database, transaction, gift, now)
        if isinstance(verdict, Posted) and not verdict.repeated:
            what = f"{format_usd(amount)} USD: {reason.strip()}"
            deed = NewDeed(account_id=account.id, actor=actor, action="credit.granted", detail=what, address=address)
            await activity.add(transaction, deed, now)
        return verdict

    try:
        verdict = await run(database, use_case)
    except Duplicate:
        verdict = None  # for another account, at this very moment
    if verdict is None:
        raise KeyReused("this idempotency key was already used for another grant", param="idempotency_key")
    assert isinstance(verdict, Posted), verdict
    return verdict


def check_amount(account: Account, amount: int) -> None:
    """InvalidRequest: `account` cannot be given `amount`, or anything: it is closed."""
    if account.closed:
        raise InvalidRequest("this account is closed: nobody could use the credit", param="account")
    if not 0 < amount < MAX_AMOUNT - account.paid - account.promo:
        raise InvalidRequest("an amount must be above zero and keep the balance below 4 billion USD", param="amount")
