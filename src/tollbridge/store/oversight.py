"""What operators look up across all accounts."""

import msgspec

from tollbridge.core.payments import State, Status
from tollbridge.store import payments
from tollbridge.store.accounts import IS_CLOSED
from tollbridge.store.activity import Deed
from tollbridge.store.db import Transaction
from tollbridge.store.rows import read, read_all


class Returned(msgspec.Struct, frozen=True, kw_only=True):
    """Money that went back, with its payment and account. Amounts in nano-USD."""

    public_id: str
    kind: str
    state: str
    amount: int
    credit: int
    fee: int
    froze: bool
    created_at: int
    payment: str
    account: str
    email: str


class DeedOf(Deed, frozen=True, kw_only=True):
    """What was done, and in whose account; both empty: to the gateway itself."""

    account: str
    email: str


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """How many things are waiting for a person. `disputes`: those that hold money."""

    review: int
    transfers: int
    disputes: int
    frozen: int


async def waiting(database: Transaction) -> Waiting:
    rows = await database.fetch(
        f"SELECT (SELECT COUNT(*) FROM payment WHERE {payments.TO_LOOK_AT}), "  # noqa: S608
        "(SELECT COUNT(*) FROM payment WHERE status = $1 AND method = 'bank_transfer'), "
        "(SELECT COUNT(*) FROM reversal WHERE kind = 'dispute' AND state = $2), "
        f"(SELECT COUNT(*) FROM balance JOIN account ON account.id = account_id WHERE frozen = $3 AND NOT {IS_CLOSED})",
        *(Status.PENDING.value, State.TAKEN.value, True),
    )
    return read(Waiting, rows[0])


async def payers(database: Transaction, status: str, before: int, count: int) -> dict[int, tuple[str, str]]:
    """(public id, address) of the accounts of the payments listed by `payments.of_status`, by account id."""
    rows = await database.fetch(
        "SELECT id, public_id, email FROM account WHERE id IN (SELECT account_id FROM payment "  # noqa: S608
        f"WHERE {payments.OF_STATUS} AND id < $2 ORDER BY id DESC LIMIT $3)",
        *(status, before, count),
    )
    return {int(id_): (public_id, email) for id_, public_id, email in rows}


async def redeemers(database: Transaction, count: int) -> dict[int, tuple[str, str]]:
    """(public id, address) of the accounts that redeemed any of the latest `count` vouchers, by account id."""
    rows = await database.fetch(
        "SELECT id, public_id, email FROM account WHERE id IN "
        "(SELECT account_id FROM voucher ORDER BY id DESC LIMIT $1)",
        count,
    )
    return {int(id_): (public_id, email) for id_, public_id, email in rows}


async def returned(database: Transaction, count: int) -> list[Returned]:
    """The latest refunds and disputes, newest first."""
    rows = await database.fetch(
        "SELECT reversal.public_id, kind, state, reversal.amount, credit, reversal.fee, froze, reversal.created_at, "
        "payment.public_id, account.public_id, email FROM reversal JOIN payment ON payment.id = payment_id "
        "JOIN account ON account.id = payment.account_id ORDER BY reversal.id DESC LIMIT $1",
        count,
    )
    return read_all(Returned, rows)


async def deeds(database: Transaction, before: int, count: int) -> list[DeedOf]:
    """What was done in any account, below id `before`, newest first."""
    rows = await database.fetch(
        "SELECT activity.id, at, actor, action, detail, address, COALESCE(public_id, ''), COALESCE(email, '') "
        "FROM activity LEFT JOIN account ON account.id = account_id WHERE activity.id < $1 "
        "ORDER BY activity.id DESC LIMIT $2",
        *(before, count),
    )
    return read_all(DeedOf, rows)
