"""Which plan an account is on, and what was agreed with it beside that."""

from collections.abc import Container

from tollbridge.core.plans import Agreed
from tollbridge.errors import InvalidRequest
from tollbridge.store import accounts, activity
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Transaction, run

_MOST = 1_000_000_000


async def change_plan(
    database: Database, account: Account, plan: str, plans: Container[str], *, actor: str, agreed: Agreed | None = None
) -> Account:
    """Put `account` on one of `plans`, with `agreed` in place of all that was agreed before. Calls obey it at once.

    InvalidRequest: there is no such plan, or what was agreed cannot be. Repeating it changes nothing.
    """
    if plan not in plans:
        raise InvalidRequest(
            f"there is no plan {plan[:60]!r}: the configuration names them under [plans]", param="plan"
        )
    if agreed is not None:
        _check(agreed)
    now = await database.now()

    async def change(transaction: Transaction) -> None:
        before = await accounts.by_id(transaction, account.id)
        had = await accounts.agreed_with(transaction, account.id)
        if before is not None and (before.plan, had) == (plan, agreed):
            return
        await accounts.set_plan(transaction, account.id, plan, agreed)
        deed = NewDeed(account_id=account.id, actor=actor, action="plan.changed", detail=plan)
        await activity.add(transaction, deed, now)

    await run(database, change)
    changed = await accounts.by_id(database, account.id)
    assert changed is not None
    return changed


def _check(agreed: Agreed) -> None:
    for name in ("rpm", "tpm", "concurrency"):
        limit = getattr(agreed, name)
        if limit is not None and not 0 < limit <= _MOST:
            raise InvalidRequest(f"{name} is a whole number from 1 to {_MOST}", param=name)
    if agreed.since >= agreed.until:
        raise InvalidRequest("what was agreed begins before it ends", param="until")
