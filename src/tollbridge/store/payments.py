"""Orders for credit, the inbox of processors' events, and money that went back."""

import msgspec

from tollbridge.core.payments import CURRENCY, Payment, Reversal, State
from tollbridge.store.db import Database, Transaction
from tollbridge.store.rows import read, read_all, read_first

_SELECT = (
    "SELECT id, public_id, account_id, once, method, origin, amount, currency, status, external_id, intent, url, "
    "save_card, tax, fee, note, created_at, paid_at, check_at, subscription_id FROM payment"
)
_REVERSALS = (
    "SELECT id, public_id, payment_id, kind, external_id, amount, credit, fee, state, froze, created_at FROM reversal"
)

# In addition to those in review: paid for an account that was closed, and neither given back nor written off.
TO_LOOK_AT = (
    "(status = 'review' OR (status = 'paid' AND note <> '' AND NOT EXISTS "
    "(SELECT 1 FROM reversal WHERE payment_id = payment.id AND state <> 'returned')))"
)
OF_STATUS = f"($1 = '' OR status = $1 OR ($1 = 'review' AND {TO_LOOK_AT}))"

_BALANCE = "SELECT paid, promo, held FROM balance"


class New(msgspec.Struct, frozen=True, kw_only=True):
    """An order to be written. `once`: what identifies it when the same order is requested again."""

    public_id: str
    account_id: int
    once: str
    method: str
    origin: str
    amount: int
    save_card: bool = False
    subscription_id: int | None = None


class Waiting(msgspec.Struct, frozen=True):
    """An event that has not been dealt with yet."""

    id: str
    kind: str
    object_id: str
    intent: str | None
    tries: int


# --- orders -------------------------------------------------------------------------------------------------------


async def create(transaction: Transaction, new: New, now: int, check_at: int | None) -> Payment:
    """The order, or the one that this account already made with the same `once`."""
    await transaction.execute(
        "INSERT INTO payment (public_id, account_id, once, method, origin, amount, currency, status, save_card, tax, "
        "fee, note, created_at, check_at, subscription_id) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, 'pending', $8, 0, 0, '', $9, $10, $11) "
        "ON CONFLICT (account_id, once) DO NOTHING",
        *(new.public_id, new.account_id, new.once, new.method, new.origin, new.amount, CURRENCY, new.save_card, now),
        *(check_at, new.subscription_id),
    )
    rows = await transaction.fetch(f"{_SELECT} WHERE account_id = $1 AND once = $2", new.account_id, new.once)
    return read(Payment, rows[0])


async def count_pending(transaction: Transaction, account_id: int, since: int) -> int:
    """How many checkout orders made after `since` are still pending."""
    rows = await transaction.fetch(
        "SELECT count(*) FROM payment "
        "WHERE account_id = $1 AND status = 'pending' AND origin = 'checkout' AND created_at > $2",
        *(account_id, since),
    )
    return int(rows[0][0])


async def by_public_id(database: Transaction, public_id: str) -> Payment | None:
    rows = await database.fetch(f"{_SELECT} WHERE public_id = $1", public_id)
    return read_first(Payment, rows)


async def by_id(database: Transaction, id_: int) -> Payment:
    rows = await database.fetch(f"{_SELECT} WHERE id = $1", id_)
    return read(Payment, rows[0])


async def by_external_id(database: Transaction, external_id: str) -> Payment | None:
    """The order that its processor knows by this id, either the order's or the payment's."""
    rows = await database.fetch(f"{_SELECT} WHERE external_id = $1 OR intent = $1", external_id)
    return read_first(Payment, rows)


async def locked(database: Database, transaction: Transaction, id_: int) -> Payment:
    """The order, locked until the transaction ends."""
    lock = " FOR UPDATE" if database.dialect == "postgresql" else ""
    rows = await transaction.fetch(f"{_SELECT} WHERE id = $1{lock}", id_)
    return read(Payment, rows[0])


async def of_account(database: Transaction, account_id: int, before: int, count: int) -> list[Payment]:
    """Up to `count` orders of an account below id `before`, newest first."""
    rows = await database.fetch(
        f"{_SELECT} WHERE account_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        *(account_id, before, count),
    )
    return read_all(Payment, rows)


async def waiting_of(database: Transaction, account_id: int, method: str) -> list[Payment]:
    """Pending orders of an account that their processor knows."""
    rows = await database.fetch(
        f"{_SELECT} WHERE account_id = $1 AND method = $2 AND status = 'pending' AND external_id IS NOT NULL",
        *(account_id, method),
    )
    return read_all(Payment, rows)


async def of_status(database: Transaction, status: str, before: int, count: int) -> list[Payment]:
    """Up to `count` orders with a status (empty: any) below id `before`, newest first.

    `review`: everything that a person should look at.
    """
    rows = await database.fetch(
        f"{_SELECT} WHERE {OF_STATUS} AND id < $2 ORDER BY id DESC LIMIT $3",
        *(status, before, count),
    )
    return read_all(Payment, rows)


async def due(database: Transaction, now: int, count: int) -> list[Payment]:
    """Up to `count` orders whose processor is due to be asked, the longest overdue first."""
    rows = await database.fetch(f"{_SELECT} WHERE check_at <= $1 ORDER BY check_at LIMIT $2", now, count)
    return read_all(Payment, rows)


async def postpone(database: Transaction, payment: Payment, check_at: int) -> bool:
    """Claim the turn to ask about an order that was read as due; False: somebody else has it."""
    changed = await database.execute(
        "UPDATE payment SET check_at = $2 WHERE id = $1 AND check_at = $3", payment.id, check_at, payment.check_at
    )
    return changed == 1


async def update(transaction: Transaction, payment: Payment) -> None:
    """Write the mutable parts of an order."""
    await transaction.execute(
        "UPDATE payment SET status = $2, external_id = $3, intent = $4, url = $5, tax = $6, fee = $7, note = $8, "
        "paid_at = $9, check_at = $10 WHERE id = $1",
        *(payment.id, payment.status.value, payment.external_id, payment.intent, payment.url, payment.tax),
        *(payment.fee, payment.note, payment.paid_at, payment.check_at),
    )


async def months_of(transaction: Transaction, subscription_id: int) -> list[Payment]:
    """Every payment, made or intended, of a subscription."""
    rows = await transaction.fetch(f"{_SELECT} WHERE subscription_id = $1 ORDER BY id", subscription_id)
    return read_all(Payment, rows)


async def spent_automatically(database: Transaction, account_id: int, since: int) -> int:
    """What automatic top-ups since a time took, or may still take."""
    rows = await database.fetch(
        "SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) FROM payment "
        "WHERE account_id = $1 AND origin = 'auto' AND created_at >= $2 AND status <> 'failed'",
        *(account_id, since),
    )
    return int(rows[0][0])


# --- what went back -----------------------------------------------------------------------------------------------


async def reversals(transaction: Transaction, payment_id: int) -> list[Reversal]:
    rows = await transaction.fetch(f"{_REVERSALS} WHERE payment_id = $1 ORDER BY id", payment_id)
    return read_all(Reversal, rows)


async def gone_back(database: Database, account_id: int) -> dict[int, int]:
    """What went back of an account's payments, or is on its way: nano-USD, tax included, by the payment's row."""
    rows = await database.fetch(
        "SELECT payment_id, CAST(SUM(reversal.amount) AS BIGINT) FROM reversal JOIN payment ON payment.id = payment_id "
        "WHERE payment.account_id = $1 AND reversal.state <> $2 GROUP BY payment_id",
        *(account_id, State.RETURNED.value),
    )
    return {int(payment): int(amount) for payment, amount in rows}


async def requested(database: Transaction, before: int) -> list[Reversal]:
    """Up to 100 refunds requested before a time that the processor has not acknowledged."""
    rows = await database.fetch(
        f"{_REVERSALS} WHERE state = $1 AND created_at < $2 ORDER BY id LIMIT 100",
        *(State.REQUESTED.value, before),
    )
    return read_all(Reversal, rows)


async def put_reversal(transaction: Transaction, reversal: Reversal) -> int:
    """Write a new one, or the changes of one; its id."""
    if reversal.id:
        await transaction.execute(
            "UPDATE reversal SET external_id = $2, fee = $3, state = $4 WHERE id = $1",
            *(reversal.id, reversal.external_id, reversal.fee, reversal.state.value),
        )
        return reversal.id
    rows = await transaction.fetch(
        "INSERT INTO reversal (public_id, payment_id, kind, external_id, amount, credit, fee, state, froze, "
        "created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) RETURNING id",
        *(reversal.public_id, reversal.payment_id, reversal.kind.value, reversal.external_id, reversal.amount),
        *(reversal.credit, reversal.fee, reversal.state.value, reversal.froze, reversal.created_at),
    )
    return int(rows[0][0])


async def refundable(database: Database, transaction: Transaction, account_id: int) -> int:
    """How much paid credit an account has that no running call has reserved; locked until the transaction ends."""
    lock = " FOR UPDATE" if database.dialect == "postgresql" else ""
    rows = await transaction.fetch(f"{_BALANCE} WHERE account_id = $1{lock}", account_id)
    paid, promo, held = rows[0]
    return int(min(paid, paid + promo - held))


async def nothing_to_return(transaction: Transaction, account_id: int) -> None:
    """Nobody has to look at what was paid for this account, which is closed, any more."""
    await transaction.execute(
        "UPDATE payment SET note = '' WHERE account_id = $1 AND status = 'paid' AND note <> ''", account_id
    )


async def frozen_by_disputes_that_are_over(transaction: Transaction, account_id: int) -> bool:
    """Whether a dispute froze this account, and neither it nor one that came after it holds money any longer.

    When it came, the account was free: the operator had forgiven those before it, if there were any.
    """
    rows = await transaction.fetch(
        "SELECT state, froze FROM reversal JOIN payment ON payment.id = payment_id "
        "WHERE payment.account_id = $1 AND kind = 'dispute' ORDER BY reversal.id DESC",
        account_id,
    )
    for state, froze in rows:
        if state != State.RETURNED:
            return False
        if froze:
            return True
    return False


async def forget_freezes(transaction: Transaction, account_id: int) -> None:
    """What disputes froze is free again: whatever freezes the account from now on is not theirs to end."""
    await transaction.execute(
        "UPDATE reversal SET froze = $2 WHERE froze = $3 AND payment_id IN "
        "(SELECT id FROM payment WHERE account_id = $1)",
        *(account_id, False, True),
    )


# --- the inbox ----------------------------------------------------------------------------------------------------


async def receive(transaction: Transaction, event: Waiting, now: int) -> bool:
    """Write down an event, due at once; whether it is new."""
    changed = await transaction.execute(
        "INSERT INTO payment_event (id, kind, object_id, intent, received_at, retry_at, tries) "
        "VALUES ($1, $2, $3, $4, $5, $5, 0) ON CONFLICT (id) DO NOTHING",
        *(event.id, event.kind, event.object_id, event.intent, now),
    )
    return changed == 1


async def waiting(database: Transaction, now: int, count: int) -> list[Waiting]:
    rows = await database.fetch(
        "SELECT id, kind, object_id, intent, tries FROM payment_event WHERE retry_at <= $1 ORDER BY retry_at LIMIT $2",
        *(now, count),
    )
    return [Waiting(*row) for row in rows]


async def is_waiting(database: Transaction, event_id: str) -> bool:
    return bool(await database.fetch("SELECT 1 FROM payment_event WHERE id = $1 AND done_at IS NULL", event_id))


async def seen_to(transaction: Transaction, event_id: str, now: int) -> None:
    await transaction.execute(
        "UPDATE payment_event SET done_at = $2, retry_at = NULL WHERE id = $1 AND done_at IS NULL", event_id, now
    )


async def try_again(transaction: Transaction, event_id: str, at: int) -> None:
    await transaction.execute(
        "UPDATE payment_event SET retry_at = $2, tries = tries + 1 WHERE id = $1 AND done_at IS NULL", event_id, at
    )
