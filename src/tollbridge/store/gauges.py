"""A few sums over the whole database, for monitoring."""

import msgspec

from tollbridge.store import meta, payments
from tollbridge.store.accounts import IS_CLOSED
from tollbridge.store.db import Database


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the whole gateway, all its processes together. Amounts in nano-USD, times in milliseconds.

    `paid`, `promo`: credit that customers have; `held`: the part of it reserved for running calls. `audited_at` and
    `audit_problems`: the last proof of the books; None: there has been none.
    """

    paid: int
    promo: int
    held: int
    frozen: int
    mail_waiting: int
    webhooks_waiting: int
    payments_in_review: int
    processes: int
    audited_at: int | None
    audit_problems: int | None


async def gauges(database: Database) -> Gauges:
    """Read them. Every balance is looked at, so do not call this often. Raises `Unavailable`."""
    rows = await database.fetch(
        "SELECT (SELECT CAST(COALESCE(SUM(paid), 0) AS BIGINT) FROM balance), "  # noqa: S608
        "(SELECT CAST(COALESCE(SUM(promo), 0) AS BIGINT) FROM balance), "
        "(SELECT CAST(COALESCE(SUM(held), 0) AS BIGINT) FROM balance), "
        "(SELECT COUNT(*) FROM balance JOIN account ON account.id = account_id "
        f"WHERE frozen = $1 AND NOT {IS_CLOSED}), "
        "(SELECT COUNT(*) FROM outbox WHERE sent_at IS NULL), "
        "(SELECT COUNT(*) FROM payment_event WHERE retry_at IS NOT NULL), "
        f"(SELECT COUNT(*) FROM payment WHERE {payments.TO_LOOK_AT}), "
        "(SELECT COUNT(*) FROM process WHERE stopped_at IS NULL AND fenced_at IS NULL)",
        True,
    )
    sums = dict(zip(Gauges.__struct_fields__, rows[0], strict=False))
    return Gauges(
        **sums,
        audited_at=await meta.value(database, meta.AUDITED_AT),
        audit_problems=await meta.value(database, meta.AUDIT_PROBLEMS),
    )
