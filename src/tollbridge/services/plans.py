"""Which plan an account is on, what was agreed with it beyond that, and the credit that plans include."""

from collections.abc import Awaitable, Callable, Collection, Iterable

from tollbridge.core.ledger import Book, Entry, Kind, Post, Posted
from tollbridge.core.periods import month
from tollbridge.core.plans import Agreed, Plan
from tollbridge.errors import Faults, InvalidRequest
from tollbridge.services.accounts import check_open, check_plan
from tollbridge.store import accounts, activity, journal, subscriptions
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Transaction, run

# Raises if the account as it stands, with what was agreed with it, must not be changed.
Check = Callable[[Transaction, Account, Agreed | None], Awaitable[None]]

_MOST = 1_000_000_000
# The same limit as in the configuration.
_MOST_TOKENS = 1_000_000_000_000
_PAGE = 500


async def change_plan(
    database: Database,
    account: Account,
    plan: str,
    plans: Collection[str],
    *,
    actor: str,
    address: str = "",
    agreed: Agreed | None = None,
    check: Check | None = None,
) -> Account:
    """Put `account` on one of `plans`, with `agreed` replacing everything agreed before. Calls obey it at once.

    `check` is called once more before anything changes. Repeating this changes nothing. InvalidRequest: there is no
    such plan, the agreement is not acceptable, or the account is closed.
    """
    check_open(account)
    check_change(plan, plans, agreed)
    now = await database.now()
    if agreed is not None and agreed.until <= now:
        raise InvalidRequest("what is agreed must end in the future", param="until")

    async def change(transaction: Transaction) -> None:
        await accounts.lock_plan(database, transaction, account.id)
        before = await accounts.known(transaction, account.id)
        had = await accounts.agreed_with(transaction, account.id)
        if check is not None:
            await check(transaction, before, had)
        if (before.plan, had) == (plan, agreed):
            return
        await accounts.set_plan(transaction, account.id, plan, agreed)
        detail = plan if agreed is None else f"{plan}; agreed: {agreed.describe()}"
        deed = NewDeed(account_id=account.id, actor=actor, action="plan.changed", detail=detail, address=address)
        await activity.add(transaction, deed, now)

    await run(database, change)
    return await accounts.known(database, account.id)


async def fill_up(database: Database, account_id: int, plan: Plan) -> bool:
    """Raise promotional credit to what `plan` includes, once in a month; whether there is now more of it.

    Once for each plan that the account is on during that month. An account that already has that much gets nothing,
    and has still used up this month's turn.
    """
    now = await database.now()
    return await run(database, lambda transaction: fill_up_within(database, transaction, account_id, plan, now))


async def fill_up_within(database: Database, transaction: Transaction, account_id: int, plan: Plan, now: int) -> bool:
    """`fill_up` in the month of `now`, within a transaction that does more.

    Not while a month is due that the processor still tries to collect: the plan goes on, the gift waits.
    """
    if await subscriptions.in_arrears(transaction, account_id, plan.name, now):
        return False
    promo = await accounts.lock_promo(database, transaction, account_id)
    amount = max(0, plan.included_credit - promo)
    gift = Post(
        idempotency_key=f"plan/{account_id}/{plan.name}/{month(now)}",
        kind=Kind.GRANT,
        account_id=account_id,
        entries=(Entry(Book.PROMO_EXPENSE, -amount), Entry(Book.CUSTOMER_PROMO, amount)),
        reason=f"credit of the plan {plan.title or plan.name}",
        actor="plan",
    )
    verdict = await journal.post(database, transaction, gift, now)
    return isinstance(verdict, Posted) and not verdict.repeated and amount > 0


async def fill_up_all(database: Database, plans: Iterable[Plan]) -> None:
    """`fill_up` for every account that has not had this month's."""
    now = await database.now()
    for plan in plans:
        after = 0
        while plan.included_credit and plan.applies(now):
            found = await accounts.not_filled_up(database, plan.name, now, after, _PAGE)
            for account_id in found:
                await fill_up(database, account_id, plan)
            if len(found) < _PAGE:
                break
            after = found[-1]


def check_change(plan: str, plans: Collection[str], agreed: Agreed | None) -> None:
    """InvalidRequest names all that `change_plan` would refuse at any time."""
    with Faults() as faults:
        faults.of(None, check_plan, plan, plans)
        if agreed is not None:
            faults.of(None, _check, agreed)


def _check(agreed: Agreed) -> None:
    with Faults() as faults:
        for name in ("rpm", "tpm", "concurrency"):
            limit = getattr(agreed, name)
            if limit is not None and not 0 < limit <= _MOST:
                faults.add(f"{name} is a whole number from 1 to {_MOST}", name)
        if not 0 <= (agreed.included_tokens or 0) <= _MOST_TOKENS:
            faults.add(f"included_tokens is a whole number from 0 to {_MOST_TOKENS}", "included_tokens")
        if agreed.since >= agreed.until:
            faults.add("what was agreed begins before it ends", "until")
