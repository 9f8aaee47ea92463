"""Accounts and their balances."""

import msgspec

from tollbridge.core.periods import month
from tollbridge.core.plans import Agreed
from tollbridge.store.db import Database, Transaction
from tollbridge.store.meta import raise_cache_epoch
from tollbridge.store.rows import read_all, read_first

# How the address of a closed account ends, after its public id.
CLOSED = "@closed.invalid"
IS_CLOSED = f"email = public_id || '{CLOSED}'"
_SELECT = """
SELECT account.id, public_id, email, plan, created_at, paid, promo, held, frozen, balance_alert.threshold
FROM account JOIN balance ON balance.account_id = account.id
LEFT JOIN balance_alert ON balance_alert.account_id = account.id
"""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `account` with its `balance`. `alert`: the balance below which its owner is told; None: not chosen."""

    id: int
    public_id: str
    email: str
    plan: str
    created_at: int
    paid: int
    promo: int
    held: int
    frozen: bool
    alert: int | None = None

    @property
    def available(self) -> int:
        return self.paid + self.promo - self.held

    @property
    def closed(self) -> bool:
        """Its owner has closed it: it is frozen too, and stays without members and keys."""
        return self.email == f"{self.public_id}{CLOSED}"


async def create(transaction: Transaction, *, public_id: str, email: str, plan: str, now: int) -> int:
    """Create an account with an empty balance; its id. `Duplicate`: the address already has one."""
    rows = await transaction.fetch(
        "INSERT INTO account (public_id, email, plan, created_at) VALUES ($1, $2, $3, $4) RETURNING id",
        *(public_id, email, plan, now),
    )
    account_id = int(rows[0][0])
    await transaction.execute(
        "INSERT INTO balance (account_id, paid, promo, held, frozen) VALUES ($1, 0, 0, 0, $2)", account_id, False
    )
    await raise_cache_epoch(transaction)
    return account_id


async def by_email(database: Transaction, email: str) -> Account | None:
    rows = await database.fetch(f"{_SELECT} WHERE email = $1", email)
    return read_first(Account, rows)


async def by_id(database: Transaction, account_id: int) -> Account | None:
    rows = await database.fetch(f"{_SELECT} WHERE account.id = $1", account_id)
    return read_first(Account, rows)


async def known(database: Transaction, account_id: int) -> Account:
    """The account with this id, which another row names."""
    account = await by_id(database, account_id)
    assert account is not None
    return account


async def by_public_id(database: Transaction, public_id: str) -> Account | None:
    rows = await database.fetch(f"{_SELECT} WHERE public_id = $1", public_id)
    return read_first(Account, rows)


async def search(database: Transaction, text: str, before: int, count: int, *, frozen: bool = False) -> list[Account]:
    """Up to `count` accounts whose address or public id contains `text`, below id `before`, newest first.

    `frozen`: only those that are frozen and not closed.
    """
    pattern = "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    rows = await database.fetch(
        f"{_SELECT} WHERE account.id < $1 AND (email LIKE $2 ESCAPE '\\' OR public_id LIKE $2 ESCAPE '\\') "
        f"{f'AND frozen = $4 AND NOT {IS_CLOSED} ' if frozen else ''}ORDER BY account.id DESC LIMIT $3",
        *(before, pattern, count, *((True,) if frozen else ())),
    )
    return read_all(Account, rows)


async def set_email(transaction: Transaction, account_id: int, email: str) -> None:
    """`Duplicate`: another account has the address."""
    await transaction.execute("UPDATE account SET email = $2 WHERE id = $1", account_id, email)


async def set_plan(transaction: Transaction, account_id: int, plan: str, agreed: Agreed | None) -> None:
    """`agreed` None: nothing beyond the plan. Caches of the account see the change."""
    await transaction.execute("UPDATE account SET plan = $2 WHERE id = $1", account_id, plan)
    await transaction.execute("DELETE FROM account_plan WHERE account_id = $1", account_id)
    if agreed is not None:
        await transaction.execute(
            "INSERT INTO account_plan "
            "(account_id, rpm, tpm, concurrency, included_tokens, cost_cap, since, until) "
            "VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            *(account_id, *msgspec.structs.astuple(agreed)),
        )
    await raise_cache_epoch(transaction)


async def agreed_with(database: Transaction, account_id: int) -> Agreed | None:
    """What was agreed with an account beyond its plan."""
    rows = await database.fetch(
        "SELECT rpm, tpm, concurrency, included_tokens, cost_cap, since, until FROM account_plan WHERE account_id = $1",
        account_id,
    )
    return read_first(Agreed, rows)


async def lock_plan(database: Database, transaction: Transaction, account_id: int) -> None:
    """Keep everybody else from changing the account's plan until the transaction ends."""
    lock = " FOR NO KEY UPDATE" if database.dialect == "postgresql" else ""
    await transaction.fetch(f"SELECT id FROM account WHERE id = $1{lock}", account_id)  # noqa: S608


async def lock_promo(database: Database, transaction: Transaction, account_id: int) -> int:
    """An account's promotional credit, locked until the transaction ends."""
    lock = " FOR UPDATE" if database.dialect == "postgresql" else ""
    rows = await transaction.fetch(f"SELECT promo FROM balance WHERE account_id = $1{lock}", account_id)  # noqa: S608
    return int(rows[0][0])


async def not_filled_up(database: Transaction, plan: str, now: int, after: int, count: int) -> list[int]:
    """Up to `count` accounts on `plan` above id `after`, not frozen and not in arrears (`subscriptions.in_arrears`),
    still without the credit of this month.
    """
    rows = await database.fetch(
        "SELECT account.id FROM account JOIN balance ON balance.account_id = account.id "
        "WHERE plan = $1 AND account.id > $2 AND frozen = $3 AND NOT EXISTS (SELECT 1 FROM journal "
        "WHERE idempotency_key = 'plan/' || CAST(account.id AS TEXT) || '/' || plan || '/' || CAST($4 AS TEXT)) "
        "AND NOT EXISTS (SELECT 1 FROM subscription WHERE account_id = account.id AND ended_at IS NULL "
        "AND subscription.plan = account.plan AND paid_until <= $6) "
        "ORDER BY account.id LIMIT $5",
        *(plan, after, False, str(month(now)), count, now),
    )
    return [row[0] for row in rows]


async def closed_with_promo(database: Transaction, after: int, count: int) -> list[int]:
    """Up to `count` closed accounts above id `after` with promotional credit that no running call has reserved."""
    rows = await database.fetch(
        "SELECT account.id FROM balance JOIN account ON account.id = account_id WHERE account_id > $1 "  # noqa: S608
        f"AND frozen = $2 AND promo > 0 AND paid + promo > held AND {IS_CLOSED} ORDER BY account_id LIMIT $3",
        *(after, True, count),
    )
    return [row[0] for row in rows]


async def by_plan(database: Transaction) -> dict[str, int]:
    """How many accounts are on each plan."""
    return dict(await database.fetch("SELECT plan, COUNT(*) FROM account GROUP BY plan ORDER BY plan"))


async def page(database: Transaction, after: int, count: int) -> list[Account]:
    """Up to `count` accounts above id `after`, oldest first."""
    rows = await database.fetch(f"{_SELECT} WHERE account.id > $1 ORDER BY account.id LIMIT $2", after, count)
    return read_all(Account, rows)


async def set_frozen(transaction: Transaction, account_id: int, frozen: bool) -> bool:
    """Freeze or unfreeze; a frozen account's next hold is refused. Whether this changed anything.

    A closed account stays frozen, also when the dispute that froze it before is won.
    """
    changed = await transaction.execute(
        "UPDATE balance SET frozen = $2 WHERE account_id = $1 AND frozen <> $2 "  # noqa: S608
        f"AND NOT EXISTS (SELECT 1 FROM account WHERE id = $1 AND {IS_CLOSED})",
        *(account_id, frozen),
    )
    await raise_cache_epoch(transaction)
    return changed > 0
