"""Vouchers. Only the digest of a code is kept."""

import msgspec

from tollbridge.store.db import Transaction
from tollbridge.store.rows import read_all, read_first

_COLUMNS = "id, hint, kind, amount, note, actor, created_at, expires_at, withdrawn_at, redeemed_at, account_id"
_SELECT = f"SELECT {_COLUMNS} FROM voucher"  # noqa: S608 - constants


class Voucher(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `voucher` without its digest. `amount` in nano-USD, `kind`: promo or paid."""

    id: int
    hint: str
    kind: str
    amount: int
    note: str
    actor: str
    created_at: int
    expires_at: int | None
    withdrawn_at: int | None
    redeemed_at: int | None
    account_id: int | None


async def create(transaction: Transaction, voucher: Voucher, digest: bytes) -> int:
    """Create a voucher; its id. What `voucher` says about id and redemption is ignored."""
    rows = await transaction.fetch(
        "INSERT INTO voucher (digest, hint, kind, amount, note, actor, created_at, expires_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
        *(digest, voucher.hint, voucher.kind, voucher.amount, voucher.note, voucher.actor, voucher.created_at),
        voucher.expires_at,
    )
    return int(rows[0][0])


async def redeem(transaction: Transaction, digest: bytes, account_id: int, now: int) -> Voucher | None:
    """Give a voucher to an account; None: none is left to redeem. Of many callers at once, one gets it."""
    rows = await transaction.fetch(
        "UPDATE voucher SET redeemed_at = $3, account_id = $2 WHERE digest = $1 AND redeemed_at IS NULL "  # noqa: S608
        f"AND withdrawn_at IS NULL AND (expires_at IS NULL OR expires_at > $3) RETURNING {_COLUMNS}",
        *(digest, account_id, now),
    )
    return read_first(Voucher, rows)


async def withdraw(transaction: Transaction, id_: int, now: int) -> bool:
    """Make a voucher worthless; False: it was redeemed or withdrawn before, or does not exist."""
    changed = await transaction.execute(
        "UPDATE voucher SET withdrawn_at = $2 WHERE id = $1 AND redeemed_at IS NULL AND withdrawn_at IS NULL", id_, now
    )
    return changed == 1


async def page(database: Transaction, before: int, count: int) -> list[Voucher]:
    """Up to `count` vouchers below id `before`, newest first."""
    rows = await database.fetch(f"{_SELECT} WHERE id < $1 ORDER BY id DESC LIMIT $2", before, count)
    return read_all(Voucher, rows)
