"""All of a SQLite database into an empty one of PostgreSQL.

Rule 1  The file is only read, under its write lock: what others would write meanwhile would be missing in the copy.
Rule 2  The copy, and the proof that it is right, are one transaction of PostgreSQL: what breaks off leaves it empty.
Rule 3  Every table of `store.tables` is copied, and ids that PostgreSQL gives by itself go on behind the highest.
Rule 4  Whoever served from the file has stopped: the first start on the copy ends at once what they left open.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable

import asyncpg
import msgspec
from sqlalchemy import Boolean, Table, delete, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.sql import ClauseElement

from tollbridge.core.words import plural
from tollbridge.errors import ConfigError
from tollbridge.store import meta, schema
from tollbridge.store.db import PostgresDatabase, PostgresTransaction, Row, SqliteDatabase, Transaction
from tollbridge.store.tables import metadata
from tollbridge.store.verify import Report, verify_view

# Of rows that are read at once, and how many are copied between two that are told of.
_PAGE = 5_000
TOLD_EVERY = 1_000_000
# No statement ends by itself: a page of rows, a proof and an index take as long as they take.
TIMEOUT_S = 86_400.0

_DIALECT = make_url("postgresql://").get_dialect()()
_NAMES = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
_LOCK = "LOCK TABLE " + _NAMES + " IN EXCLUSIVE MODE"
_ANALYZE = "ANALYZE " + _NAMES
_SETTINGS = (
    "SET LOCAL lock_timeout = '10s'",
    # While a page is read from the file, and while the proof computes.
    "SET LOCAL idle_in_transaction_session_timeout = '10min'",
)
# What migrations write into `meta`.
_FIRST = {meta.CACHE_EPOCH, schema.OLDEST_ROW}
_STOPPED = "UPDATE process SET stopped_at = heartbeat_at WHERE stopped_at IS NULL"
_CONTINUE = "SELECT setval(pg_get_serial_sequence($1, $2), $3)"
# Vacuum does it later, but a proof and a page may be read before.
_SUMMARIZE = "SELECT brin_summarize_new_values('usage_by_time')"
_TABLES = """
SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'f') AND relnamespace = current_schema()::regnamespace
  AND NOT EXISTS (
    SELECT 1 FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = pg_class.oid AND deptype = 'e'
  )
ORDER BY relname
"""
_ANEW = "Copy into a new one: createdb makes it (dropdb before that, if nothing in it is needed)"


class Transferred(msgspec.Struct, frozen=True):
    """How many rows each table has on both sides, and what the proof of the copy says."""

    rows: dict[str, int]
    report: Report


async def require_empty(target: PostgresDatabase) -> None:
    """ConfigError: something is in the database, or a newer Tollbridge made its tables."""
    found = {name for (name,) in await target.fetch(_TABLES)}
    others = sorted(found - {*metadata.tables, "alembic_version"})
    if others:
        raise ConfigError(
            f"the target is not empty: it has the table {others[0]}, which is none of Tollbridge's. {_ANEW}"
        )
    revision = await schema.current(target)
    if revision is not None and revision > schema.HEAD:
        raise ConfigError(f"the target has schema {revision}, of a newer Tollbridge than this one: {_ANEW}")
    if revision == schema.HEAD:
        await _require_no_rows(target)
    elif found & metadata.tables.keys():
        raise ConfigError(f"the target was used by an older Tollbridge, or its tables are half made: {_ANEW}")


async def transfer(source: SqliteDatabase, target: PostgresDatabase, tell: Callable[[str], object]) -> Transferred:
    """Copy and prove all of it; both databases have the schema of this code, and nobody serves from either.

    ConfigError: the books are wrong, the target is not empty, or does not take a row. Then it is as it was before.
    """
    async with source.transaction() as there:
        tell("proving the books")
        before = await verify_view(there, source.dialect)
        if not before.ok:
            raise ConfigError(
                f"the books are wrong in {plural(before.found, 'place')}, and are not copied so: {before.problems[0]}; "
                "tollbridge ledger verify names them all"
            )
        tell("copying")
        async with target.transaction() as here:
            for setting in (*_SETTINGS, _LOCK):
                await here.execute(setting)
            await _require_no_rows(here)
            await here.execute(_text(delete(metadata.tables["meta"])))
            rows = {}
            for table in metadata.sorted_tables:
                kept = there.stream(_text(select(table).order_by(*table.primary_key)), _PAGE)
                await _fill(here, table, _told(table.name, kept, tell))
                rows[table.name] = await _count_alike(there, here, table)
            await here.execute(_STOPPED)
            await here.fetch(_SUMMARIZE)
            await here.execute(_ANALYZE)
            tell("proving the books of the copy")
            after = await verify_view(here, target.dialect)
            if not after.ok or after != before:
                wrong = after.problems[0] if after.problems else "its sums are others"
                raise ConfigError(f"the copy was not right, and is not kept: {wrong}")
    return Transferred(rows, after)


def is_of_file(error: BaseException) -> bool:
    """Whether it is the SQLite database that fails."""
    return isinstance(error.__cause__, sqlite3.Error | UnicodeDecodeError)


async def _require_no_rows(target: Transaction) -> None:
    names = {name for (name,) in await target.fetch("SELECT name FROM meta")} - _FIRST
    full = ["meta"] if names else []
    others = [table for table in metadata.sorted_tables if table.name != "meta"]
    full += [table.name for table in others if await target.fetch(_text(select(1).select_from(table).limit(1)))]
    if full:
        raise ConfigError(
            f"the target is not empty: a gateway has used it, or a copy was made before (rows in {', '.join(full[:5])}"
            f"{', …' if len(full) > 5 else ''}). {_ANEW}"
        )


async def _fill(here: PostgresTransaction, table: Table, rows: AsyncIterator[Row]) -> None:
    flags = [at for at, column in enumerate(table.columns) if isinstance(column.type, Boolean)]
    try:
        await here.take_in(table.name, table.columns.keys(), _with_flags(rows, flags) if flags else rows)
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
        raise ConfigError(f"PostgreSQL does not take a row of {table.name}: {error}") from error
    counter = table.autoincrement_column
    if counter is not None:
        [(last,)] = await here.fetch(_text(select(func.max(counter))))
        if last is not None:
            await here.fetch(_CONTINUE, f'"{table.name}"', counter.name, last)


async def _with_flags(rows: AsyncIterator[Row], flags: list[int]) -> AsyncIterator[Row]:
    async for row in rows:
        changed = list(row)
        for at in flags:
            changed[at] = bool(row[at])
        yield tuple(changed)


async def _told(name: str, rows: AsyncIterator[Row], tell: Callable[[str], object]) -> AsyncIterator[Row]:
    count = 0
    async for row in rows:
        count += 1
        if count % TOLD_EVERY == 0:
            tell(f"copying {name}: {plural(count, 'row')}")
        yield row


async def _count_alike(there: Transaction, here: Transaction, table: Table) -> int:
    count = _text(select(func.count()).select_from(table))
    [(before,)], [(after,)] = await there.fetch(count), await here.fetch(count)
    if before != after:
        raise ConfigError(f"of {plural(before, 'row')} of {table.name}, {after:,} arrived: nothing was kept")
    return int(after)


def _text(statement: ClauseElement) -> str:
    """The statement, as both databases understand it; it holds no values but numbers of this module."""
    return str(statement.compile(dialect=_DIALECT, compile_kwargs={"literal_binds": True}))
