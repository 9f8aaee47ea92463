"""A copy of each request in another place: hourly files, or ClickHouse.

    sink = open_sink("clickhouse://user:password@host:8123/default")
    await keep_up(database, sink, ids)       # a job: everything settled that is not there yet

Rule 1  Time is cut into windows. Each is written in turn, once nothing can end in it any more, and a watermark
        (`meta.exported/…`, one for each place) follows.
Rule 2  A window may be written again, after a crash or by two processes at once, with the same result. A file is
        replaced whole. ClickHouse recognises a block by its token or, if it comes too late for that, rows by key.
Rule 3  If the clock is set back, the watermark is set back with it, and the windows after it are written again: more
        may end in them. Each run leaves its time (`meta.export_ran/…`), which tells the next one. A clock that goes
        back by less than the time between two runs goes unnoticed, but not back to a window that is written.
"""

import asyncio
import contextlib
import gzip
import hashlib
import io
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import msgspec

from tollbridge.config import UsageSettings
from tollbridge.core.ids import Ids
from tollbridge.errors import ConfigError, Unavailable
from tollbridge.services.statements import no_formula, to_csv
from tollbridge.store import disk, export, retention
from tollbridge.store.db import Database
from tollbridge.store.export import Line
from tollbridge.store.meta import put, value
from tollbridge.store.prices import Terms
from tollbridge.store.usage_days import EVER
from tollbridge.values import DAY_MS, HOUR_MS, MINUTE_MS

EVERY_S = 30.0
# A window is over this long after its end: no batch of the ledger takes so long to arrive, and no two runs are so far
# apart.
SETTLED_MS = MINUTE_MS
# Another process may have run this long after one has read the time.
_APART_MS = 5_000
TABLE = "tollbridge_usage"
_ENCODE = msgspec.json.Encoder().encode_lines

# The columns of the ClickHouse table that are not Int64. `at` is for people.
_TYPES = {"late": "Bool", "status": "Int16", "streamed": "Bool", "estimated": "Bool", "byok": "Bool"}
_TYPES |= dict.fromkeys(("account", "key", "model", "provider", "upstream_model"), "LowCardinality(String)")
_TYPES |= dict.fromkeys(("outcome", "finish"), "LowCardinality(String)")
_TYPES |= {"first_byte_ms": "Nullable(Int64)", "id": "String"}
_COLUMNS = ", ".join(f"`{name}` {_TYPES.get(name, 'Int64')}" for name in Line.__struct_fields__)
_AT = "fromUnixTimestamp64Milli(ended_at, 'UTC')"
# The sorting key identifies a row, so that the same row written twice becomes one.
CREATE_TABLE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} ({_COLUMNS}, `at` DateTime64(3, 'UTC') MATERIALIZED {_AT}) "
    f"ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM({_AT}) ORDER BY (account, ended_at, hold, late) "
    "SETTINGS non_replicated_deduplication_window = 10000"
)
# An older version's table must be altered, which a user that may create tables is not always allowed to do.
HAS_ID = f"SELECT count() FROM system.columns WHERE database = currentDatabase() AND table = '{TABLE}' AND name = 'id'"  # noqa: S608
ADD_ID = f"ALTER TABLE {TABLE} ADD COLUMN IF NOT EXISTS `id` String"


class Sink(Protocol):
    """A place to write to. `name` identifies it; `window_ms`: how much time is written to it at once."""

    @property
    def name(self) -> str: ...

    @property
    def window_ms(self) -> int: ...

    async def write(self, since: int, parts: AsyncIterator[list[Line]]) -> None:
        """Write one window, whole or not at all. Unavailable: it cannot be written now."""


def open_sink(url: str) -> Sink:
    """The place at `url`, as in the setting `usage.export`. ConfigError: a package is missing."""
    parts = urlsplit(url)
    if parts.scheme == "directory":
        return Files(Path(unquote(parts.path)))
    return ClickHouse(url)


async def watermark(database: Database, sink: Sink) -> int:
    """The time up to which everything is there, in milliseconds."""
    return await value(database, _mark(sink)) or 0


async def keep_up(database: Database, sink: Sink, ids: Ids | None = None) -> int:
    """Write all windows that are over; how many held anything. `ids`: see `store.export.ended`."""
    width, count = sink.window_ms, 0
    terms: dict[int, Terms] = {}
    while True:
        now = await database.now()
        limit = (now - SETTLED_MS) // width * width
        before = await watermark(database, sink)
        if now < max(before, (await value(database, _ran(sink)) or 0) - _APART_MS):
            before = min(before, limit)
            await put(database, _mark(sink), before)
        await put(database, _ran(sink), now)
        first = await export.first(database, before)
        start = limit if first is None else min(limit, max(before, first // width * width))
        if start >= limit:
            if before < limit:
                await put(database, _mark(sink), limit)
            return count
        await sink.write(start, parts(database, start, start + width, ids, terms))
        count += 1
        await put(database, _mark(sink), start + width)


async def drop_old(database: Database, settings: UsageSettings) -> int:
    """Drop requests that are too old, once they have been exported; how many. Raises as `retention.drop_old`."""
    if settings.retention_days is None:
        return 0
    there = EVER if settings.export is None else await watermark(database, open_sink(settings.export.reveal()))
    return await retention.drop_old(database, settings.retention_days * DAY_MS, there)


async def parts(
    database: Database, since: int, until: int, ids: Ids | None = None, terms: dict[int, Terms] | None = None
) -> AsyncIterator[list[Line]]:
    """The lines of a period, a minute at a time; minutes without any are skipped."""
    known = {} if terms is None else terms
    while since < until:
        first = await export.first(database, since)
        if first is None or first >= until:
            return
        since = max(since, first // MINUTE_MS * MINUTE_MS)
        end = min(until, since // MINUTE_MS * MINUTE_MS + MINUTE_MS)
        if lines := await export.ended(database, since, end, known, ids):
            yield lines
        since = end


def as_json_lines(lines: list[Line]) -> bytes:
    return _ENCODE(lines)


def as_csv(lines: list[Line]) -> bytes:
    """Without a header: see `csv_head`. Booleans are `true` and `false`, as in JSON; no text is one that spreadsheets
    evaluate: how an answer ended is the provider's own word.
    """
    return to_csv(map(_cell, msgspec.structs.astuple(line)) for line in lines).encode()


def _cell(value: object) -> object:
    if isinstance(value, str):
        return no_formula(value)
    return str(value).lower() if isinstance(value, bool) else value


def csv_head() -> bytes:
    return to_csv([Line.__struct_fields__]).encode()


def _mark(sink: Sink) -> str:
    return f"exported/{_digest(sink.name)}"


def _ran(sink: Sink) -> str:
    return f"export_ran/{_digest(sink.name)}"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


# --- files --------------------------------------------------------------------------------------------------------


class Files:
    """A directory: `2026-11-22/05.jsonl.gz` has everything that ended in that hour, one JSON object a line."""

    window_ms = HOUR_MS

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.name = f"directory://{directory.absolute()}"

    async def write(self, since: int, parts: AsyncIterator[list[Line]]) -> None:
        path = self.directory / datetime.fromtimestamp(since / 1000, UTC).strftime("%Y-%m-%d/%H.jsonl.gz")
        unfinished = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        try:
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
            with unfinished.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as file:
                async for lines in parts:
                    await asyncio.to_thread(file.write, as_json_lines(lines))
                file.close()
                await asyncio.to_thread(_sync, raw)
            unfinished.rename(path)
            await asyncio.to_thread(disk.sync, path.parent)
        except OSError as error:
            raise Unavailable(f"{path}: requests cannot be exported: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)


def _sync(file: io.BufferedWriter) -> None:
    file.flush()
    os.fsync(file.fileno())


# --- ClickHouse ---------------------------------------------------------------------------------------------------


class ClickHouse:
    """A table in a ClickHouse database, over HTTP; created if missing.

    Query it with FINAL, or sum over `LIMIT 1 BY hold, late`: rows written twice become one only at a merge.
    """

    window_ms = MINUTE_MS

    def __init__(self, url: str) -> None:
        try:
            import clickhouse_connect
        except ImportError:
            raise ConfigError(
                "usage.export is ClickHouse, for which a package is missing: pip install clickhouse-connect"
            ) from None
        parts = urlsplit(url)
        secure = parts.scheme == "clickhouses"
        self.name = f"clickhouse://{parts.hostname}:{parts.port}{parts.path}"
        self._arguments: dict[str, Any] = {
            "host": parts.hostname,
            "port": parts.port or (8443 if secure else 8123),
            "secure": secure,
            "username": unquote(parts.username or "default"),
            "password": unquote(parts.password or ""),
            "database": unquote(parts.path.lstrip("/")),
            "autogenerate_session_id": False,
        }
        self._open = clickhouse_connect.get_client
        self._client: Any = None

    async def write(self, since: int, parts: AsyncIterator[list[Line]]) -> None:
        block = b"".join([as_json_lines(lines) async for lines in parts])
        if block:
            await asyncio.to_thread(self._insert, since, block)

    def _insert(self, since: int, block: bytes) -> None:
        from clickhouse_connect.driver.exceptions import ClickHouseError

        try:
            if self._client is None:
                client = self._open(**self._arguments)
                client.command(CREATE_TABLE)
                if client.command(HAS_ID) == 0:
                    client.command(ADD_ID)
                self._client = client
            # Of a window to which something was added, the block is another one.
            digest = hashlib.sha256(block).hexdigest()[:16]
            token = {"insert_deduplication_token": f"{TABLE}/{since}/{digest}", "async_insert": 0}
            self._client.raw_insert(TABLE, insert_block=block, fmt="JSONEachRow", settings=token)
        except (ClickHouseError, OSError) as error:
            self._client = None
            raise Unavailable(f"{self.name}: requests cannot be exported: {str(error).splitlines()[0]}") from error
