"""Journal transactions made outside the running ledger: grants and corrections, under the ledger's own rules.

The hot writers take `Post` too; this is the way for callers other than the server: the command line, a page.
"""

import msgspec

from tollbridge.core.ledger import Balance, Book, Entry, Kind, Post, Posted, Refused, State, decide
from tollbridge.store.db import Database, Transaction

# What a transaction charged (with the gifts in that), lost and cost, in statements that group entries by transaction.
CHARGE = "CAST(-SUM(CASE WHEN book IN ('customer_paid', 'customer_promo') THEN entry.amount ELSE 0 END) AS BIGINT)"
PROMO = "CAST(-SUM(CASE WHEN book = 'customer_promo' THEN entry.amount ELSE 0 END) AS BIGINT)"
LOSS = "CAST(-SUM(CASE WHEN book = 'loss' THEN entry.amount ELSE 0 END) AS BIGINT)"
COST = "CAST(-SUM(CASE WHEN book = 'provider_cost' THEN entry.amount ELSE 0 END) AS BIGINT)"
_CUSTOMER = "book IN ('customer_paid', 'customer_promo')"
# The entries of each transaction are looked up by themselves: a join grouped and sorted all that follow for each page.
_LINES = f"""
SELECT id, created_at, kind, reason, amount FROM (
    SELECT id, created_at, kind, reason,
      (SELECT CAST(SUM(amount) AS BIGINT) FROM entry WHERE journal_id = journal.id AND {_CUSTOMER}) AS amount
    FROM journal WHERE account_id = $1 AND (created_at, id) > ($2, $3) AND created_at < $4
) AS line WHERE amount <> 0 ORDER BY created_at, id LIMIT $5
"""  # noqa: S608 - constants
# A statement that sums up more transactions would run into its time limit at an account with a million of them.
_PART = 50_000
_PART_END = (
    "SELECT created_at, id FROM journal WHERE account_id = $1 AND (created_at, id) > ($2, $3) AND created_at < $4 "
    "ORDER BY created_at, id LIMIT 1 OFFSET $5"
)
_MOVED = (
    "SELECT kind, CAST(SUM(amount) AS BIGINT) FROM journal JOIN entry ON journal_id = journal.id "  # noqa: S608
    f"WHERE account_id = $1 AND (created_at, id) > ($2, $3) AND (created_at, id) <= ($4, $5) AND {_CUSTOMER} "
    "GROUP BY kind"
)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What one journal transaction did to a customer's balance."""

    id: int
    at: int
    kind: str
    reason: str
    amount: int


async def post(database: Database, transaction: Transaction, op: Post, now: int) -> Posted | Refused | None:
    """Decide and write `op` within `transaction`; None: its idempotency key was used for something else.

    The balance (on SQLite, the whole database) is locked until the transaction ends, so that no hold is granted on its
    earlier state.
    """
    lock = " FOR UPDATE" if database.dialect == "postgresql" else ""
    balances = await transaction.fetch(
        f"SELECT account_id, paid, promo, held, frozen FROM balance WHERE account_id = $1{lock}",  # noqa: S608
        op.account_id,
    )
    stored = await _stored(transaction, op.idempotency_key)
    if stored is not None and stored != _content(op):
        return None
    state = State(
        balances={id_: Balance(id_, paid, promo, held, bool(frozen)) for id_, paid, promo, held, frozen in balances},
        keys={},
        holds={},
        ends={},
        posted=set() if stored is None else {op.idempotency_key},
    )
    decision = decide(state, [op], now)
    for each in decision.posts:
        await _write(transaction, each, now)
    for balance in decision.balances.values():
        await transaction.execute(
            "UPDATE balance SET paid = $2, promo = $3 WHERE account_id = $1",
            *(balance.account_id, balance.paid, balance.promo),
        )
    verdict = decision.verdicts[0]
    assert isinstance(verdict, Posted | Refused)
    return verdict


async def lines(database: Transaction, account_id: int, after: tuple[int, int], until: int, count: int) -> list[Line]:
    """Up to `count` transactions of an account before the time `until`, in order, after (time, id) `after`.

    Those that leave its balance unchanged (a processor's fees) are left out.
    """
    rows = await database.fetch(_LINES, account_id, *after, until, count)
    return [Line(id=row[0], at=row[1], kind=row[2], reason=row[3], amount=row[4]) for row in rows]


async def moved(database: Transaction, account_id: int, since: int, until: int) -> dict[str, int]:
    """What each kind of transaction from `since` on and before `until` did to an account's balance."""
    sums: dict[str, int] = {}
    after, last = (since, -1), (until, -1)
    while after != last:
        found = await database.fetch(_PART_END, account_id, *after, until, _PART)
        end = (found[0][0], found[0][1]) if found else last
        for kind, amount in await database.fetch(_MOVED, account_id, *after, *end):
            sums[kind] = sums.get(kind, 0) + amount
        after = end
    return sums


async def total(database: Transaction, account_id: int, until: int) -> int:
    """What all transactions of an account before `until` did to its balance."""
    return sum((await moved(database, account_id, 0, until)).values())


async def last(transaction: Transaction, account_id: int) -> int:
    """The id of an account's last transaction; 0: it has none."""
    rows = await transaction.fetch("SELECT COALESCE(MAX(id), 0) FROM journal WHERE account_id = $1", account_id)
    return int(rows[0][0])


async def _stored(transaction: Transaction, idempotency_key: str) -> tuple[int, str, tuple[Entry, ...]] | None:
    rows = await transaction.fetch(
        "SELECT account_id, kind, book, amount FROM journal JOIN entry ON entry.journal_id = journal.id "
        "WHERE idempotency_key = $1 ORDER BY line",
        idempotency_key,
    )
    if not rows:
        return None
    return rows[0][0], Kind(rows[0][1]), tuple(Entry(Book(row[2]), row[3]) for row in rows)


def _content(op: Post) -> tuple[int, str, tuple[Entry, ...]]:
    return op.account_id, op.kind, op.entries


async def _write(transaction: Transaction, op: Post, now: int) -> None:
    rows = await transaction.fetch(
        "INSERT INTO journal (idempotency_key, kind, account_id, reason, actor, created_at) "
        "VALUES ($1, $2, $3, $4, $5, $6) RETURNING id",
        *(op.idempotency_key, op.kind.value, op.account_id, op.reason, op.actor, now),
    )
    for line, entry in enumerate(op.entries):
        await transaction.execute(
            "INSERT INTO entry (journal_id, line, book, amount) VALUES ($1, $2, $3, $4)",
            *(rows[0][0], line, entry.book.value, entry.amount),
        )
