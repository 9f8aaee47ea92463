"""Closing an account: the books stay as they are, and whom they were kept for is forgotten."""

from tollbridge.store import activity
from tollbridge.store.accounts import CLOSED, Account
from tollbridge.store.db import Transaction
from tollbridge.store.meta import raise_cache_epoch


def pseudonym(account: Account) -> str:
    """What replaces the address of a closed account."""
    return f"{account.public_id}{CLOSED}"


async def close_account(transaction: Transaction, account_id: int, pseudonym: str, now: int) -> None:
    """Its calls are refused from the next one on, and nobody belongs to it any more. Charges, grants and payments stay.

    Unpaid orders are closed, except those whose processor will be asked what became of them.
    """
    await transaction.execute("UPDATE balance SET frozen = $2 WHERE account_id = $1", account_id, True)
    await transaction.execute(
        "UPDATE api_key SET revoked_at = COALESCE(revoked_at, $2), label = '' WHERE account_id = $1", account_id, now
    )
    await transaction.execute(
        "UPDATE management_key SET revoked_at = COALESCE(revoked_at, $2), label = '' WHERE account_id = $1",
        *(account_id, now),
    )
    await transaction.execute(
        "DELETE FROM key_copy WHERE key_id IN (SELECT id FROM api_key WHERE account_id = $1)", account_id
    )
    await transaction.execute("UPDATE session SET account_id = NULL WHERE account_id = $1", account_id)
    await transaction.execute("DELETE FROM membership WHERE account_id = $1", account_id)
    await transaction.execute("DELETE FROM invitation WHERE account_id = $1", account_id)
    await transaction.execute("DELETE FROM byok WHERE account_id = $1", account_id)
    await activity.forget(transaction, account_id, pseudonym)
    await transaction.execute("DELETE FROM auto_top_up WHERE account_id = $1", account_id)
    await transaction.execute("DELETE FROM balance_alert WHERE account_id = $1", account_id)
    await transaction.execute(
        "UPDATE payment SET status = 'failed', note = 'the account was closed', check_at = NULL "
        "WHERE account_id = $1 AND status = 'pending' AND (method <> 'stripe' OR external_id IS NULL)",
        account_id,
    )
    # Invoices keep what they said when issued: the law requires it.
    await transaction.execute(
        "UPDATE buyer SET name = '', address = '', tax_id = '', card = NULL, card_hint = NULL WHERE account_id = $1",
        account_id,
    )
    await transaction.execute(
        "UPDATE account SET email = $2, email_verified_at = NULL WHERE id = $1", account_id, pseudonym
    )
    await raise_cache_epoch(transaction)


async def forget_letters(transaction: Transaction, recipient: str) -> None:
    await transaction.execute("DELETE FROM outbox WHERE recipient = $1", recipient)
