"""`tollbridge usage`: what it prints, what it writes, and what it refuses."""

import gzip
import json
from pathlib import Path

import pytest
from tests.cli.conftest import Shell
from tests.store.books import Books, Engine, with_books
from tests.store.test_rollups import spend

HOUR_MS = 3_600_000


@pytest.fixture
def used(shell: Shell) -> Shell:
    """Two requests, of three hours ago."""

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        for charge in (5, 7):
            await spend(books, ada, charge)
        ended_at = await books.database.now() - 3 * HOUR_MS
        await books.database.execute("UPDATE usage SET ended_at = $1", ended_at)

    data = shell.directory / "data"
    with_books(Engine(f"sqlite:///{data}/tollbridge.db", data), scenario)
    return shell


def test_requests_are_taken_out_as_json_lines_or_csv(used: Shell) -> None:
    done = used.ok("usage", "export")
    assert [json.loads(line)["charge"] for line in done.lines] == [5, 7]
    assert done.err.splitlines()[-1] == "2 requests"
    used.ok("usage", "export", "--format", "csv", "--to", "out.csv")
    head, *rows = (used.directory / "out.csv").read_text().splitlines()
    assert head.startswith("hold,late,ended_at")
    assert len(rows) == 2
    assert used.ok("usage", "export", "--since", "2099-01-01").out == ""
    assert "no/such" in used.refused("usage", "export", "--to", "no/such/file")
    backwards = ("--since", "2026-12-01", "--until", "2026-11-01")
    assert "--until must be after --since" in used.refused("usage", "export", *backwards)


def test_lists_of_keys_say_what_each_has_spent(used: Shell) -> None:
    """With a limit or without one."""
    (key,) = json.loads(used.ok("key", "list", "--account", "1", "--json").out)
    assert (key["limit_usd"], key["spent_usd"]) == (None, "0.000000012")
    assert "0.000000012" in used.ok("account", "show", "1").out


def test_what_no_setting_asks_for_is_refused(used: Shell) -> None:
    assert "usage.export" in used.refused("usage", "sync")
    assert "usage.retention_days" in used.refused("usage", "drop")
    wrong = {"TOLLBRIDGE_USAGE__EXPORT": "s3://bucket"}
    assert "directory:///" in used.refused("usage", "sync", env=wrong)


def test_what_is_missing_in_the_other_place_is_written(used: Shell, tmp_path: Path) -> None:
    place = {"TOLLBRIDGE_USAGE__EXPORT": f"directory://{tmp_path}/out", "TOLLBRIDGE_USAGE__RETENTION_DAYS": "7"}
    assert "1 window of time was written" in used.ok("usage", "sync", env=place).err
    (file,) = (tmp_path / "out").rglob("*.gz")
    assert len(gzip.decompress(file.read_bytes()).splitlines()) == 2
    assert "0 requests" in used.ok("usage", "drop", env=place).err
    with used.database() as database:
        assert database.execute("SELECT COUNT(*) FROM usage").fetchone() == (2,)


def test_whoever_takes_out_days_of_which_requests_are_gone_is_told(used: Shell) -> None:
    with used.database() as database:
        database.execute("INSERT INTO closing VALUES (1, 'usage/9', 1, 1, 1, 1790000000000, x'', x'', 0)")
    assert "up to 2026-09-21 are missing" in used.ok("usage", "export", "--since", "2026-09-21").err
    assert "missing" not in used.ok("usage", "export", "--since", "2026-09-22").err
