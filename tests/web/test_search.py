"""What is searched for is a text: no pattern in it makes the database think for long (H12)."""

import random
import shutil
import time
from pathlib import Path

import pytest
from tests.gateway.site import migrated_file
from tests.web.browser import run_long

from tollbridge.store import accounts, prices, requests
from tollbridge.store.db import open_database
from tollbridge.store.requests import NEWEST, Filter

PATTERNS = 200
LETTERS = "%_*\\[]^%_%_aeo.@1"
# 200 ms on a free machine: a busy one takes more processor time for the same work.
MOST_S = 0.3
ROWS = """
WITH RECURSIVE number(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM number WHERE i < {rows})
"""


@pytest.mark.parametrize("rows", [2_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
def test_no_pattern_takes_long(tmp_path: Path, rows: int) -> None:
    """Each in processor time, of the whole process: who else is busy does not count."""

    async def test() -> None:
        shutil.copy(await migrated_file(), tmp_path / "tollbridge.db")
        database = open_database(f"sqlite:///{tmp_path}/tollbridge.db")
        await database.start()
        numbers = ROWS.format(rows=rows)
        await database.execute(
            f"{numbers} INSERT INTO account (id, public_id, email, plan, created_at) SELECT i, "
            "'acc_' || lower(hex(randomblob(11))), 'somebody.' || i || '@customer' || (i % 1000) || '.example', "
            "'default', 0 FROM number"
        )
        await database.execute(
            "INSERT INTO balance (account_id, paid, promo, held, frozen) SELECT id, 0, 0, 0, 0 FROM account"
        )
        columns = "held, charge, promo, loss, cost, input, cache_read, cache_write, cache_write_1h, output, reasoning"
        await database.execute(
            f"{numbers} INSERT INTO usage (hold_id, account_id, key_id, ended_at, price_version, started_at, "
            f"duration_ms, outcome, status, flags, {columns}) "
            f"SELECT i, 1, 1, i, 1, i, 1, 1, 200, 0{', 0' * len(columns.split(', '))} FROM number"
        )
        chance = random.Random(20261122)
        slowest = 0.0
        for _ in range(PATTERNS):
            text = "".join(chance.choices(LETTERS, k=chance.randint(2, 80)))
            started = time.process_time()
            found = await accounts.search(database, text, 1 << 62, 50)
            slowest = max(slowest, time.process_time() - started)
            assert all(text in each.email or text in each.public_id for each in found)
            started = time.process_time()
            versions = await prices.of_model(database, text)
            page = await requests.page(database, 1, Filter(versions=versions), NEWEST, 50)
            slowest = max(slowest, time.process_time() - started)
            assert page.lines == []
        print(f"the slowest of {2 * PATTERNS} searches in {rows} rows: {slowest * 1000:.0f} ms")
        await database.close()
        assert slowest < MOST_S

    run_long(test())
