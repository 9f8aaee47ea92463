"""What a statement says of requests: all tokens of each, and each day's sum, of one account alone."""

from tests.store.books import Books, Engine, with_books
from tests.store.test_rollups import MIDNIGHT, spend_at

from tollbridge.store import rollups, usage
from tollbridge.values import DAY_MS


def test_charges_and_days_are_those_of_one_account_in_order(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada, _ = await books.customer(paid=10**9), await books.customer(paid=10**9)
        second = await books.key(ada.account_id)
        other = await books.customer(paid=10**9)
        assert other.account_id == second.key_id
        for customer, at, charge in (
            *((ada, MIDNIGHT + 1, 32), (second, MIDNIGHT + 1, 64), (second, MIDNIGHT, 16)),
            *((other, MIDNIGHT, 160), (ada, MIDNIGHT + DAY_MS, 48), (other, MIDNIGHT + 2 * DAY_MS, 80)),
        ):
            await spend_at(books, customer, at, charge)
        found = await usage.charges(books.database, ada.account_id, (MIDNIGHT, -1), MIDNIGHT + DAY_MS, 10)
        # 10 of 16 tokens are read, whatever kind they are, and 6 are written.
        assert [(each.at, each.amount, each.prompt, each.output) for each in found] == [
            (MIDNIGHT, 16, 10, 6),
            (MIDNIGHT + 1, 32, 20, 12),
            (MIDNIGHT + 1, 64, 40, 24),
        ]
        after = (found[1].at, found[1].hold)
        assert await usage.charges(books.database, ada.account_id, after, MIDNIGHT + DAY_MS, 10) == found[2:]
        await rollups.roll_up(books.database)
        days = await usage.daily(books.database, ada.account_id, MIDNIGHT, MIDNIGHT + 3 * DAY_MS)
        assert days == [(MIDNIGHT, 3, 112), (MIDNIGHT + DAY_MS, 1, 48)]
        assert await usage.daily(books.database, ada.account_id, MIDNIGHT + 1, MIDNIGHT + DAY_MS) == []

    with_books(ledger_engine, scenario)
