"""What a customer may ask about: one request, its credit, its key. Read-only, and off the hot path."""

import msgspec

from tollbridge.core.ledger import Allowance, Balance, EndRow, Hold, State, Verdict, decide
from tollbridge.store import requests, usage_days
from tollbridge.store.db import Database, Transaction
from tollbridge.store.ledger.rows import KEY, USAGE_COLUMNS, end_row, key_state
from tollbridge.store.prices import Terms
from tollbridge.store.usage_days import Group, Sums
from tollbridge.values import Outcome

_USAGE = ", ".join(f"usage.{column}" for column in USAGE_COLUMNS.split(", "))


class Ended(msgspec.Struct, frozen=True):
    """A request that has ended, and the terms that priced it (None: its row refers to none that exist).

    `late`: the part of its charge that came after its sweep, nano-USD.
    """

    end: EndRow
    terms: Terms | None
    late: int = 0


class Credit(msgspec.Struct, frozen=True, kw_only=True):
    """Nano-USD. `given`: all credit ever added, less what went back; what is left of it is `paid` + `promo`.

    `has_paid`: whether the account was ever topped up.
    """

    paid: int
    promo: int
    held: int
    frozen: bool
    given: int
    has_paid: bool

    @property
    def available(self) -> int:
        return self.paid + self.promo - self.held


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """What a key has spent, in total and since each of the three requested times; nano-USD.

    `byok_…`: the part that was fees for calls paid for by the customer's own credential.
    """

    total: int
    daily: int
    weekly: int
    monthly: int
    byok_total: int
    byok_daily: int
    byok_weekly: int
    byok_monthly: int


# What was charged for requests of an account after their sweep. These are few.
_LATE = """
SELECT COALESCE(usage.key_id, carried.amount, 0), journal.created_at, -CAST(SUM(entry.amount) AS BIGINT) FROM journal
LEFT JOIN usage ON usage.hold_id = CAST(SUBSTR(idempotency_key, 6) AS BIGINT)
LEFT JOIN carried ON carried.kind = 'late' AND carried.id = journal.id
JOIN entry ON entry.journal_id = journal.id AND book IN ('customer_paid', 'customer_promo')
WHERE journal.account_id = $1 AND journal.kind = 'late'
GROUP BY journal.id, journal.created_at, usage.key_id, carried.amount
"""


async def ended(database: Transaction, account_id: int, hold: int) -> Ended | None:
    """The end of a request of this account; None: the books have none, or not yet."""
    rows = await database.fetch(
        f"SELECT {_USAGE}, terms FROM usage LEFT JOIN price_version ON price_version.id = usage.price_version "  # noqa: S608
        "WHERE hold_id = $1 AND account_id = $2",
        *(hold, account_id),
    )
    if not rows:
        return None
    *row, terms = rows[0]
    end = end_row(tuple(row))
    more = requests.Late()
    if end.record.outcome is Outcome.SWEPT:
        more = (await requests.late(database, account_id, end.ended_at)).get(hold, more)
        record = msgspec.structs.replace(end.record, cost=end.record.cost + more.cost)
        end = msgspec.structs.replace(end, charge=end.charge + more.charge, promo=end.promo + more.promo, record=record)
    return Ended(end, msgspec.json.decode(terms, type=Terms) if terms else None, more.charge)


async def running(database: Transaction, account_id: int, hold: int) -> bool:
    """Whether, according to the books, this account has a request that has not ended."""
    return bool(await database.fetch("SELECT 1 FROM hold WHERE id = $1 AND account_id = $2", hold, account_id))


async def credit(database: Transaction, account_id: int) -> Credit:
    """Read in one statement, so that the numbers agree with each other."""
    rows = await database.fetch(
        "SELECT paid, promo, held, frozen, (SELECT CAST(COALESCE(SUM(amount), 0) AS BIGINT) "
        "FROM journal JOIN entry ON entry.journal_id = journal.id WHERE journal.account_id = $1 "
        "AND kind <> 'late' AND book IN ('customer_paid', 'customer_promo')), "
        "EXISTS (SELECT 1 FROM journal WHERE journal.account_id = $1 AND kind = 'top_up') "
        "FROM balance WHERE balance.account_id = $1",
        account_id,
    )
    paid, promo, held, frozen, given, has_paid = rows[0]
    return Credit(paid=paid, promo=promo, held=held, frozen=bool(frozen), given=int(given), has_paid=bool(has_paid))


async def allowance_used(database: Transaction, account_id: int, month: int) -> int:
    """Tokens, of those that the account's plan includes, that are used or reserved in a month (YYYYMM)."""
    rows = await database.fetch(
        "SELECT used + held FROM allowance WHERE account_id = $1 AND period = $2", account_id, month
    )
    return int(rows[0][0]) if rows else 0


async def spending(database: Database, account_id: int, key_id: int, since: tuple[int, int, int]) -> Spending:
    """`since`: when the day, the week and the month began, in milliseconds."""
    sums: dict[Group, list[int]] = {}
    async with usage_days.reading(database) as days:
        for group in (Group.KEY, Group.OWN):
            of_key = [await days.of_key((account_id, key_id), start, group) for start in (0, *since)]
            sums[group] = [each.charge for each in of_key]
        late = await days.view.fetch(_LATE, account_id)
    total, daily, weekly, monthly = (
        charge + sum(amount for key, at, amount in late if key == key_id and at >= start)
        for charge, start in zip(sums[Group.KEY], (0, *since), strict=True)
    )
    own = sums[Group.OWN]
    return Spending(
        total=total,
        daily=daily,
        weekly=weekly,
        monthly=monthly,
        byok_total=own[0],
        byok_daily=own[1],
        byok_weekly=own[2],
        byok_monthly=own[3],
    )


async def uses_of_keys(database: Database, account_id: int) -> dict[int, Sums]:
    """All usage of each key of an account since it was created, by key id; keys without calls are left out."""
    async with usage_days.reading(database) as days:
        sums = {each.group: each for each in await days.of_keys(account_id, 0, usage_days.EVER)}
        for key_id, _, amount in await days.view.fetch(_LATE, account_id):
            if key_id in sums:
                sums[key_id] = msgspec.structs.replace(sums[key_id], charge=sums[key_id].charge + amount)
    return sums


async def allowance(database: Transaction, account_id: int, period: int) -> Allowance | None:
    """The account's allowance of tokens for a month; None: it has used none."""
    rows = await database.fetch(
        "SELECT account_id, period, included, used, held FROM allowance WHERE account_id = $1 AND period = $2",
        *(account_id, period),
    )
    return Allowance(*rows[0]) if rows else None


async def would_hold(database: Transaction, hold: Hold, now: int) -> Verdict:
    """What the ledger would say to `hold`, by the same rules. Nothing is held."""
    balances = await database.fetch(
        "SELECT paid, promo, held, frozen FROM balance WHERE account_id = $1", hold.account_id
    )
    keys = await database.fetch(f"{KEY} WHERE api_key.id = $1", hold.key_id)
    state = State(balances={}, keys={}, holds={}, ends={}, posted=set())
    for paid, promo, held, frozen in balances:
        state.balances[hold.account_id] = Balance(hold.account_id, paid, promo, held, bool(frozen))
    for row in keys:
        state.keys[hold.key_id] = key_state(hold.key_id, *row)
    of_month = await allowance(database, hold.account_id, hold.period) if hold.period else None
    if of_month is not None:
        state.allowances[hold.account_id, hold.period] = of_month
    return decide(state, [hold], now).verdicts[0]
