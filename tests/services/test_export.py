"""Each request is written once, wherever it goes: after a crash, by two at once, when the clock goes back."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from tests.store.books import Books, Engine, with_books
from tests.store.conftest import ledger_engine, migrated_file, postgres_engine, sqlite_engine
from tests.store.test_rollups import age, spend

from tollbridge.config import UsageSettings
from tollbridge.config.kinds import Secret
from tollbridge.core.ids import Ids
from tollbridge.core.ledger import End
from tollbridge.errors import Unavailable
from tollbridge.services import export
from tollbridge.services.export import Files
from tollbridge.store import rollups, seal, usage_days
from tollbridge.store.export import Line
from tollbridge.store.meta import put
from tollbridge.values import DAY_MS, HOUR_MS, MINUTE_MS, Outcome

__all__ = ["ledger_engine", "migrated_file", "postgres_engine", "sqlite_engine"]


async def history(books: Books) -> None:
    """Requests of some days; the newest are not settled."""
    ada, other = await books.customer(paid=10**9), await books.customer(paid=10**9)
    for hours in (50, 3, 1, 0):
        for number in range(3):
            await spend(books, ada, 100 + number, searches=2)
        await spend(books, other, 7, outcome=Outcome.OUR_FAULT)
        if hours:
            await age(books, hours * HOUR_MS)


def written(directory: Path) -> list[dict[str, object]]:
    files = sorted(directory.rglob("*"))
    assert all(path.is_dir() or path.name.endswith(".jsonl.gz") for path in files), files
    texts = [gzip.decompress(path.read_bytes()).decode() for path in files if path.is_file()]
    return [json.loads(line) for text in texts for line in text.splitlines()]


async def holds(books: Books, before: int) -> list[int]:
    rows = await books.database.fetch(
        "SELECT hold_id FROM usage WHERE ended_at < $1 ORDER BY ended_at, hold_id", before
    )
    return [row[0] for row in rows]


def test_files_hold_each_settled_request_once(ledger_engine: Engine, tmp_path: Path) -> None:
    async def scenario(books: Books) -> None:
        await history(books)
        sink = Files(tmp_path / "out")
        assert await export.keep_up(books.database, sink) > 0
        until = await export.watermark(books.database, sink)
        assert until % HOUR_MS == 0
        assert [row["hold"] for row in written(sink.directory)] == await holds(books, until)
        assert await export.keep_up(books.database, sink) == 0
        first = written(sink.directory)[0]
        assert first["charge"] == 100
        assert first["searches"] == 2
        assert first["model"] == "m"
        assert (first["late"], first["outcome"], str(first["account"])[-4:] != "") == (False, "completed", True)

    with_books(ledger_engine, scenario)


def test_a_window_that_was_cut_off_is_written_again_and_whole(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(books: Books) -> None:
        await history(books)
        sink = Files(tmp_path / "out")

        async def dies(*_: object) -> None:
            raise Unavailable("the machine stops")

        monkeypatch.setattr("tollbridge.services.export.put", dies)
        for _ in range(2):
            with pytest.raises(Unavailable):
                await export.keep_up(books.database, sink)
        monkeypatch.undo()
        await asyncio.gather(*(export.keep_up(books.database, sink) for _ in range(3)))
        until = await export.watermark(books.database, sink)
        assert [row["hold"] for row in written(sink.directory)] == await holds(books, until)

        async def torn(since: int) -> AsyncIterator[list[Line]]:
            yield [line async for lines in export.parts(books.database, 0, since) for line in lines]
            raise Unavailable("the database is gone")

        before = written(sink.directory)
        with pytest.raises(Unavailable):
            await sink.write(until - HOUR_MS, torn(until))
        assert written(sink.directory) == before
        await put(books.database, export._mark(sink), until + 100 * DAY_MS)
        await export.keep_up(books.database, sink)
        assert await export.watermark(books.database, sink) <= await books.database.now()

    with_books(sqlite_engine, scenario)


class Minutes:
    """A place that keeps each window that it was given last."""

    name = "minutes"
    window_ms = MINUTE_MS

    def __init__(self) -> None:
        self.windows: dict[int, list[int]] = {}

    async def write(self, since: int, parts: AsyncIterator[list[Line]]) -> None:
        self.windows[since] = [line.hold async for lines in parts for line in lines]


@pytest.mark.parametrize("back_s", [5, 35, 45, 65, 100, 200])
@pytest.mark.parametrize("after_s", [1, 20, 29])
def test_a_clock_that_is_set_back_neither_skips_nor_doubles(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch, back_s: int, after_s: int
) -> None:
    """A request ends each second. The job runs every 30 s, and `after_s` after a run the clock is set back."""

    async def scenario(books: Books) -> None:
        ada, sink = await books.customer(paid=10**9), Minutes()
        start = 1_700_000_000_000 // HOUR_MS * HOUR_MS
        clock, back_at = start, 310 + after_s

        async def now() -> int:
            return clock

        monkeypatch.setattr(books.database, "now", now)
        ids = [await books.held(ada, 1) for _ in range(600)]
        await asyncio.gather(*(books.ledger.submit(books.end_op(id_, ada, 1)) for id_ in ids))
        await books.database.execute("UPDATE usage SET ended_at = $1", start + DAY_MS)
        for second, id_ in enumerate(ids):
            clock += 1_000 if second != back_at else 1_000 - back_s * 1_000
            await books.database.execute("UPDATE usage SET ended_at = $2 WHERE hold_id = $1", id_, clock)
            if second % 30 == 10:
                await export.keep_up(books.database, sink)
        clock += 600_000
        await export.keep_up(books.database, sink)
        assert sorted(hold for window in sink.windows.values() for hold in window) == sorted(ids)

    with_books(sqlite_engine, scenario)


def test_what_was_charged_late_has_a_line_of_its_own(ledger_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        hold = await books.held(ada, 1000)
        await books.ledger.submit(books.end_op(hold, ada, 100, Outcome.SWEPT))
        late = End(hold=hold, account_id=ada.account_id, key_id=ada.key_id, charge=700, record=books.record(700))
        await books.ledger.submit(late)
        ids = Ids(bytes(16))
        lines = [line async for part in export.parts(books.database, 0, 1 << 60, ids) for line in part]
        # As the customer was told.
        assert [line.id for line in lines] == [ids.encode("chat", hold)] * 2
        assert [line.id async for part in export.parts(books.database, 0, 1 << 60) for line in part] == ["", ""]
        assert [(line.hold, line.late, line.charge, line.cost, line.output) for line in lines] == [
            (hold, False, 100, 50, 100),
            (hold, True, 600, 300, 0),
        ]
        rows = (export.csv_head() + export.as_csv(lines)).decode().splitlines()
        assert [len(row.split(",")) for row in rows] == [len(Line.__struct_fields__)] * 3
        assert [row.split(",")[1] for row in rows] == ["late", "false", "true"]
        assert [row.split(",")[-1] for row in rows] == ["id", lines[0].id, lines[1].id]
        evil = msgspec.structs.replace(lines[0], finish="=1+1")
        assert ",'=1+1," in export.as_csv([evil]).decode()

    with_books(ledger_engine, scenario)


def test_nothing_is_dropped_before_it_is_written(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollups, "SETTLED_MS", -1)
    url = f"directory://{tmp_path / 'out'}"
    settings = UsageSettings(retention_days=7, export=Secret(url))

    async def scenario(books: Books) -> None:
        ada = await books.customer(paid=10**9)
        await spend(books, ada, 5)
        await asyncio.sleep(0.01)
        await seal.seal(books.database, settled_ms=0)
        week = await books.database.now() + 8 * DAY_MS

        async def later() -> int:
            return week

        monkeypatch.setattr(books.database, "now", later)
        await rollups.roll_up(books.database)
        await usage_days.roll_up(books.database)
        assert await export.drop_old(books.database, UsageSettings()) == 0
        assert await export.drop_old(books.database, settings) == 0
        await export.keep_up(books.database, export.open_sink(url))
        assert await export.drop_old(books.database, settings) == 1
        assert [row["charge"] for row in written(tmp_path / "out")] == [5]
        monkeypatch.undo()

    with_books(sqlite_engine, scenario)
