"""Plans paid for by the month."""

import msgspec

from tollbridge.core.payments import CURRENCY
from tollbridge.core.subscriptions import Subscription
from tollbridge.store.db import Database, Transaction
from tollbridge.store.rows import read, read_all, read_first

_SELECT = (
    "SELECT id, public_id, account_id, method, plan, amount, currency, stage, session, external_id, url, paid_until, "
    "ending, created_at, ended_at, check_at FROM subscription"
)


class New(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription to be written."""

    public_id: str
    account_id: int
    method: str
    plan: str
    amount: int


class Subscriber(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription and its account."""

    subscription: Subscription
    account: str
    email: str


async def create(transaction: Transaction, new: New, now: int, check_at: int) -> Subscription:
    """Create one that waits for its payment. `Duplicate`: the account has one that has not ended."""
    rows = await transaction.fetch(
        "INSERT INTO subscription (public_id, account_id, method, plan, amount, currency, stage, ending, created_at, "
        "check_at) VALUES ($1, $2, $3, $4, $5, $6, 'pending', $7, $8, $9) RETURNING id",
        *(new.public_id, new.account_id, new.method, new.plan, new.amount, CURRENCY, False, now, check_at),
    )
    return await by_id(transaction, rows[0][0])


async def by_id(database: Transaction, id_: int) -> Subscription:
    rows = await database.fetch(f"{_SELECT} WHERE id = $1", id_)
    return read(Subscription, rows[0])


async def by_public_id(database: Transaction, public_id: str) -> Subscription | None:
    return read_first(Subscription, await database.fetch(f"{_SELECT} WHERE public_id = $1", public_id))


async def by_external_id(database: Transaction, name: str) -> Subscription | None:
    """The one that its processor knows by this id: the subscription's, or that of the page on which it was ordered."""
    return read_first(Subscription, await database.fetch(f"{_SELECT} WHERE external_id = $1 OR session = $1", name))


async def open_of(database: Transaction, account_id: int) -> Subscription | None:
    """An account's subscription that has not ended; there is at most one."""
    return read_first(
        Subscription, await database.fetch(f"{_SELECT} WHERE account_id = $1 AND ended_at IS NULL", account_id)
    )


async def in_arrears(database: Transaction, account_id: int, plan: str, now: int) -> bool:
    """Whether an account still has this plan although the month that it paid for is over."""
    ours = await open_of(database, account_id)
    return ours is not None and ours.plan == plan and ours.paid_until is not None and ours.paid_until <= now


async def locked(database: Database, transaction: Transaction, id_: int) -> Subscription:
    """The subscription, locked until the transaction ends."""
    lock = " FOR UPDATE" if database.dialect == "postgresql" else ""
    rows = await transaction.fetch(f"{_SELECT} WHERE id = $1{lock}", id_)
    return read(Subscription, rows[0])


async def due(database: Transaction, now: int, count: int) -> list[Subscription]:
    """Up to `count` whose processor is due to be asked, the longest overdue first."""
    rows = await database.fetch(f"{_SELECT} WHERE check_at <= $1 ORDER BY check_at LIMIT $2", now, count)
    return read_all(Subscription, rows)


async def postpone(database: Transaction, subscription: Subscription, check_at: int) -> bool:
    """Claim the turn to ask about one that was read as due; False: somebody else has it."""
    changed = await database.execute(
        "UPDATE subscription SET check_at = $2 WHERE id = $1 AND check_at = $3",
        *(subscription.id, check_at, subscription.check_at),
    )
    return changed == 1


async def update(transaction: Transaction, subscription: Subscription) -> None:
    """Write the mutable parts of one."""
    await transaction.execute(
        "UPDATE subscription SET stage = $2, session = $3, external_id = $4, url = $5, paid_until = $6, ending = $7, "
        "ended_at = $8, check_at = $9 WHERE id = $1",
        *(subscription.id, subscription.stage.value, subscription.session, subscription.external_id, subscription.url),
        *(subscription.paid_until, subscription.ending, subscription.ended_at, subscription.check_at),
    )


async def page(database: Transaction, before: int, count: int) -> list[Subscriber]:
    """Up to `count` that were ever paid or may yet be, below id `before`, newest first."""
    rows = await database.fetch(
        "SELECT subscription.id, subscription.public_id, account_id, method, subscription.plan, amount, currency, "
        "stage, session, external_id, url, paid_until, ending, subscription.created_at, ended_at, check_at, "
        "account.public_id, email FROM subscription JOIN account ON account.id = account_id "
        "WHERE subscription.id < $1 AND stage <> 'abandoned' ORDER BY subscription.id DESC LIMIT $2",
        *(before, count),
    )
    return [Subscriber(subscription=read(Subscription, row[:-2]), account=row[-2], email=row[-1]) for row in rows]
