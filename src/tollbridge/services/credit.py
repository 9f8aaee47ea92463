"""Credit that the operator gives, and what becomes of it when an account is closed."""

from functools import partial

from tollbridge.core import ledger
from tollbridge.core.ledger import MAX_AMOUNT, Posted
from tollbridge.core.money import format_usd
from tollbridge.errors import InvalidRequest, KeyReused
from tollbridge.store import accounts, activity, journal, payments
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Duplicate, Transaction, run

_LONGEST = 500
_PAGE = 500


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
    _check_text("reason", reason)
    _check_text("idempotency_key", idempotency_key)
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


def _check_text(name: str, text: str) -> None:
    if not text.strip() or len(text) > _LONGEST or not text.isprintable():
        raise InvalidRequest(f"{name} must be 1 to {_LONGEST} characters in one line", param=name)


# --- closed accounts ----------------------------------------------------------------------------------------------


async def take_back(database: Database, transaction: Transaction, account_id: int, now: int) -> None:
    """Book the promotional credit of a closed account back, but for what running calls have reserved."""
    await accounts.lock_promo(database, transaction, account_id)
    account = await accounts.known(transaction, account_id)
    amount = min(account.promo, account.available)
    if amount > 0:
        post = ledger.taken_back(account_id, amount, idempotency_key=await _next_key(transaction, account_id))
        verdict = await journal.post(database, transaction, post, now)
        assert isinstance(verdict, Posted), verdict


async def take_back_all(database: Database) -> None:
    """`take_back` for whatever calls gave back, or somebody gave, after their account was closed."""
    after, now = 0, await database.now()
    while found := await accounts.closed_with_promo(database, after, _PAGE):
        for account_id in found:
            await run(database, partial(_take_back_in, database, account_id, now))
        after = found[-1]


async def _take_back_in(database: Database, account_id: int, now: int, transaction: Transaction) -> None:
    await take_back(database, transaction, account_id, now)


async def write_off(database: Database, account: Account, *, reason: str, actor: str) -> int:
    """End what is owed between a closed account and the operator: its paid credit, or what it is overdrawn by (< 0).

    InvalidRequest: it is not closed, calls of it are running, nothing is owed, or the reason is not acceptable.
    """
    _check_text("reason", reason)
    now = await database.now()

    async def use_case(transaction: Transaction) -> int:
        # Before the balance is locked: whoever books a payment locks in this order.
        await payments.nothing_to_return(transaction, account.id)
        await accounts.lock_promo(database, transaction, account.id)
        current = await accounts.known(transaction, account.id)
        if not current.closed:
            raise InvalidRequest("only what a closed account has left can be written off", param="account")
        if current.held:
            raise InvalidRequest("calls of this account are still running: try again when they have ended")
        if not current.paid:
            raise InvalidRequest(f"nothing is owed to or by {current.public_id}", param="account")
        post = ledger.written_off(
            current.id, current.paid, current.promo,
            idempotency_key=await _next_key(transaction, current.id), reason=reason.strip(), actor=actor,
        )  # fmt: skip
        verdict = await journal.post(database, transaction, post, now)
        assert isinstance(verdict, Posted), verdict
        what = f"{format_usd(current.paid)} USD: {reason.strip()}"
        deed = NewDeed(account_id=current.id, actor=actor, action="credit.written_off", detail=what)
        await activity.add(transaction, deed, now)
        return current.paid

    return await run(database, use_case)


async def _next_key(transaction: Transaction, account_id: int) -> str:
    """A key for the transaction that follows on the account's last one; the balance is locked."""
    return f"closed/{account_id}/{await journal.last(transaction, account_id)}"
