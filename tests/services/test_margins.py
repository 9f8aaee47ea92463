"""The margin by account, of which one page shows the dearest: the same as if all were read."""

import pytest
from tests.store.books import Books, Engine, with_books
from tests.store.conftest import ledger_engine, migrated_file, postgres_engine, sqlite_engine
from tests.store.test_rollups import age, spend

from tollbridge.core.ledger import End
from tollbridge.services import margins
from tollbridge.services.margins import Margin
from tollbridge.services.statements import Period
from tollbridge.store import usage_days
from tollbridge.values import DAY_MS, Outcome

__all__ = ["ledger_engine", "migrated_file", "postgres_engine", "sqlite_engine"]


@pytest.mark.parametrize("most", [3, 7, 8, 100])
def test_the_dearest_accounts_are_shown_and_the_rest_is_one_row(
    ledger_engine: Engine, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(margins, "MOST_ROWS", most)

    async def scenario(books: Books) -> None:
        period = Period("all", 0, (await books.database.now() // DAY_MS + 2) * DAY_MS)
        assert await margins.by_account(books.database, period) == ([], Margin(name=""))
        people = [await books.customer(paid=10**9) for _ in range(7)]
        # Charged long ago, and summed; the cheapest of them is the dearest by what it was charged since.
        for number, each in enumerate(people[:6], 1):
            await spend(books, each, 100 * number, input=50 * number, output=40 * number, audio_input=10 * number)
        await age(books, 3 * DAY_MS)
        await usage_days.roll_up(books.database)
        await spend(books, people[0], 2_000)
        await spend(books, people[6], 50)
        # Charged late, for a request that had been swept.
        hold = await books.held(people[1], 10_000)
        await books.ledger.submit(books.end_op(hold, people[1], 10, Outcome.SWEPT))
        late = {"hold": hold, "account_id": people[1].account_id, "key_id": people[1].key_id, "charge": 1_000}
        await books.ledger.submit(End(**late, record=books.record(1_000)))
        every = await margins.margins(books.database, period, "account")
        rows, total = await margins.by_account(books.database, period)
        assert total == margins.total(every)
        if most >= 7:
            assert rows == every
        else:
            assert rows == [*every[: most - 1], margins.total(every[most - 1 :], f"{7 - most + 1} more")]
        # As when the sums are so far behind that most accounts have requests that are in none.
        monkeypatch.setattr(usage_days, "_MOST_IDS", 0)
        assert await margins.by_account(books.database, period) == (rows, total)

    with_books(ledger_engine, scenario)
