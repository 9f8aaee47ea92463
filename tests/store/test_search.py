"""H12: what is looked for is text. Wildcards in it find themselves, and nobody can make a search take long."""

import asyncio
import itertools
import time

import pytest
from tests.store.books import Engine

from tollbridge.store import accounts
from tollbridge.store.db import Database

# How long one search may take among a million accounts.
MOST_S = 0.2
_PARTS = ("%", "_", "\\", "a%", "%_%", "[a-z]", "*", "?", "'", '"', "%%%%%%%%", "_a_", "\\%", "é")
PATTERNS = ["".join(each) for each in itertools.product(_PARTS, repeat=2)] + list(_PARTS)
ADDRESSES = ("plain@example.com", "50%_off@example.com", "back\\slash@example.com", "under_score@example.com")


async def fill(database: Database, count: int) -> None:
    """Accounts by one statement: a million of them one by one would take an hour."""
    await database.execute(
        "WITH RECURSIVE number(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < $1) "
        "INSERT INTO account (public_id, email, plan, created_at) "
        "SELECT 'acct_' || n, 'customer' || n || '@example.com', 'default', 0 FROM number",
        count,
    )
    await database.execute(
        "INSERT INTO balance (account_id, paid, promo, held, frozen) SELECT id, 0, 0, 0, $1 FROM account", False
    )


async def add(database: Database, email: str) -> None:
    async with database.transaction() as transaction:
        await accounts.create(transaction, public_id=f"acct-{email}", email=email, plan="default", now=0)


def test_wildcards_find_themselves(ledger_engine: Engine) -> None:
    async def main() -> None:
        database = ledger_engine.database()
        await database.start()
        for email in ADDRESSES:
            await add(database, email)
        assert len(PATTERNS) >= 200
        for pattern in PATTERNS:
            found = {each.email for each in await accounts.search(database, pattern, 1 << 62, 100)}
            assert found == {email for email in ADDRESSES if pattern in email}, pattern
        await database.close()

    asyncio.run(main())


@pytest.mark.soak
@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_no_pattern_makes_a_search_long(engine: str, request: pytest.FixtureRequest) -> None:
    """Among a million accounts. A busy machine is no fault of a pattern: SQLite's CPU counts, and of PostgreSQL, whose
    is another process's, the fastest of some tries.
    """
    clock = time.process_time if engine == "sqlite" else time.perf_counter
    at: Engine = request.getfixturevalue(f"{engine}_engine")

    async def main() -> None:
        from tollbridge.store.db import open_database

        database = open_database(at.url, statement_timeout=120)
        await database.start()
        await fill(database, 1_000_000)
        slowest = 0.0
        for pattern in PATTERNS[::7]:
            took = MOST_S + 1
            for _ in range(5):
                started = clock()
                await accounts.search(database, pattern, 1 << 62, 50)
                took = min(took, clock() - started)
                if took <= MOST_S:
                    break
            slowest = max(slowest, took)
        print(f"{engine}: the slowest of {len(PATTERNS[::7])} patterns took {slowest * 1000:.0f} ms")
        assert slowest <= MOST_S
        await database.close()

    asyncio.run(main())
