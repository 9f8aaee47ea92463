"""Automatic top-ups, and who was told that their balance is low."""

import msgspec

from tollbridge.store.accounts import IS_CLOSED
from tollbridge.store.db import Transaction
from tollbridge.store.rows import read_first

_SELECT = "SELECT account_id, threshold, amount, daily_cap, payment_id, failures, stopped FROM auto_top_up"


class AutoTopUp(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `auto_top_up`, amounts in nano-USD. `payment_id`: one in progress. `stopped`: why it does nothing."""

    account_id: int
    threshold: int
    amount: int
    daily_cap: int
    payment_id: int | None = None
    failures: int = 0
    stopped: str | None = None


class Low(msgspec.Struct, frozen=True, kw_only=True):
    """An account with less than `threshold` left that has not been told."""

    account_id: int
    email: str
    available: int
    threshold: int


async def get(database: Transaction, account_id: int) -> AutoTopUp | None:
    rows = await database.fetch(f"{_SELECT} WHERE account_id = $1", account_id)
    return read_first(AutoTopUp, rows)


async def put(transaction: Transaction, wanted: AutoTopUp) -> None:
    """Switch it on, or on again; a payment in progress continues."""
    await transaction.execute(
        "INSERT INTO auto_top_up (account_id, threshold, amount, daily_cap, failures) VALUES ($1, $2, $3, $4, 0) "
        "ON CONFLICT (account_id) DO UPDATE SET threshold = excluded.threshold, amount = excluded.amount, "
        "daily_cap = excluded.daily_cap, failures = 0, stopped = NULL",
        *(wanted.account_id, wanted.threshold, wanted.amount, wanted.daily_cap),
    )


async def remove(transaction: Transaction, account_id: int) -> None:
    await transaction.execute("DELETE FROM auto_top_up WHERE account_id = $1", account_id)


async def due(database: Transaction, after: int, count: int) -> list[int]:
    """Up to `count` accounts behind id `after` that are below their threshold, in order: with a card and no payment in
    progress, not frozen or stopped.
    """
    rows = await database.fetch(
        "SELECT auto_top_up.account_id FROM auto_top_up JOIN balance ON balance.account_id = auto_top_up.account_id "
        "JOIN buyer ON buyer.account_id = auto_top_up.account_id "
        "WHERE stopped IS NULL AND payment_id IS NULL AND card IS NOT NULL AND frozen = $1 "
        "AND paid + promo - held < threshold AND auto_top_up.account_id > $2 ORDER BY auto_top_up.account_id LIMIT $3",
        *(False, after, count),
    )
    return [int(row[0]) for row in rows]


async def claim(transaction: Transaction, account_id: int, payment_id: int) -> bool:
    """Start a payment for an account; False: another one is in progress, or top-ups were switched off."""
    changed = await transaction.execute(
        "UPDATE auto_top_up SET payment_id = $2 WHERE account_id = $1 AND payment_id IS NULL AND stopped IS NULL",
        *(account_id, payment_id),
    )
    return changed == 1


async def is_low(transaction: Transaction, account_id: int) -> bool:
    """Whether less than the threshold is left now."""
    rows = await transaction.fetch(
        "SELECT 1 FROM auto_top_up JOIN balance ON balance.account_id = auto_top_up.account_id "
        "WHERE auto_top_up.account_id = $1 AND paid + promo - held < threshold",
        account_id,
    )
    return bool(rows)


async def succeeded(transaction: Transaction, payment_id: int) -> None:
    await transaction.execute(
        "UPDATE auto_top_up SET payment_id = NULL, failures = 0 WHERE payment_id = $1", payment_id
    )


async def failed(transaction: Transaction, payment_id: int, most: int, why: str) -> bool:
    """Count a failure; after `most` in a row, top-ups stop and say why. Whether they have stopped."""
    rows = await transaction.fetch(
        "UPDATE auto_top_up SET payment_id = NULL, failures = failures + 1, "
        "stopped = CASE WHEN failures + 1 >= $2 THEN $3 ELSE stopped END WHERE payment_id = $1 RETURNING stopped",
        *(payment_id, most, why),
    )
    return bool(rows) and rows[0][0] is not None


# --- little is left -----------------------------------------------------------------------------------------------


async def low(database: Transaction, threshold: int, count: int) -> list[Low]:
    """Accounts that bought credit, have less than `threshold` left, and were not told of this threshold or a lower one.

    Accounts that chose a threshold of their own are left out, and closed ones, whose address is nobody's.
    """
    rows = await database.fetch(
        "SELECT account.id, email, paid + promo - held FROM account "  # noqa: S608
        "JOIN balance ON balance.account_id = account.id LEFT JOIN low_balance ON low_balance.account_id = account.id "
        f"WHERE paid + promo - held < $1 AND NOT {IS_CLOSED} AND (threshold IS NULL OR threshold > $1) AND EXISTS "
        "(SELECT 1 FROM payment WHERE payment.account_id = account.id AND status = 'paid' "
        "AND origin <> 'subscription') AND NOT EXISTS "
        "(SELECT 1 FROM balance_alert WHERE balance_alert.account_id = account.id) ORDER BY account.id LIMIT $2",
        *(threshold, count),
    )
    return [Low(account_id=row[0], email=row[1], available=row[2], threshold=threshold) for row in rows]


async def low_by_choice(database: Transaction, count: int) -> list[Low]:
    """Accounts with less left than the threshold they chose, and not yet told."""
    rows = await database.fetch(
        "SELECT account.id, email, paid + promo - held, chosen.threshold FROM balance_alert AS chosen "
        "JOIN account ON account.id = chosen.account_id JOIN balance ON balance.account_id = account.id "
        "LEFT JOIN low_balance ON low_balance.account_id = account.id WHERE paid + promo - held < chosen.threshold "
        "AND (low_balance.threshold IS NULL OR low_balance.threshold > chosen.threshold) "
        "ORDER BY account.id LIMIT $1",
        count,
    )
    return [Low(account_id=row[0], email=row[1], available=row[2], threshold=row[3]) for row in rows]


async def choose_threshold(transaction: Transaction, account_id: int, threshold: int | None) -> None:
    """Set the balance below which an account is told; 0: never, None: as the operator says. It will be told anew."""
    await transaction.execute("DELETE FROM balance_alert WHERE account_id = $1", account_id)
    await transaction.execute("DELETE FROM low_balance WHERE account_id = $1", account_id)
    if threshold is not None:
        await transaction.execute(
            "INSERT INTO balance_alert (account_id, threshold) VALUES ($1, $2)", account_id, threshold
        )


async def told(transaction: Transaction, account_id: int, threshold: int, now: int) -> bool:
    """Remember that an account was told; False: somebody else has told it meanwhile."""
    changed = await transaction.execute(
        "INSERT INTO low_balance (account_id, threshold, told_at) VALUES ($1, $2, $3) ON CONFLICT (account_id) "
        "DO UPDATE SET threshold = excluded.threshold, told_at = excluded.told_at "
        "WHERE low_balance.threshold > excluded.threshold",
        *(account_id, threshold, now),
    )
    return changed == 1


async def forget_told(transaction: Transaction, highest: int) -> None:
    """Accounts above all thresholds again, or above the one they chose, will be told again."""
    await transaction.execute(
        "DELETE FROM low_balance WHERE account_id IN (SELECT balance.account_id FROM balance "
        "LEFT JOIN balance_alert ON balance_alert.account_id = balance.account_id "
        "WHERE paid + promo - held >= COALESCE(balance_alert.threshold, $1))",
        highest,
    )
