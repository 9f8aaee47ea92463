"""Bring the database named by `TOLLBRIDGE_DATABASE_URL` to the newest revision. On failure: one line on stderr, exit 1.

A process of its own, so that `serve` need not import SQLAlchemy and Alembic. A second one waits. Everything happens in
one transaction: a migration that was cut off has not happened. Only an index on the rows of all requests is built
beforehand, on PostgreSQL, in a way that does not block writers.
"""

import asyncio
import os
import sqlite3
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import asyncpg
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory

from tollbridge.errors import ConfigError, TollbridgeError
from tollbridge.store import db, schema

LOCK_NAME = 0x746F6C6C  # "toll"
WAIT_SECONDS = 60
# A table that is in use is not waited for: everybody would queue behind the migration.
LOCK_TIMEOUT = "2s"
_OLDEST = (
    f"INSERT INTO meta (name, value) VALUES ('{schema.OLDEST_ROW}', CAST('{schema.OLDEST}' AS BIGINT)) "  # noqa: S608 - constants
    "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
)
TRY_SECONDS = 0.1

# An index that its revision creates only if the table is empty.
TIME_INDEX = "usage_by_time"
_LACKS = """
SELECT index.relname, pg_index.indisvalid FROM pg_class AS index
RIGHT JOIN (SELECT 1) AS one ON index.oid = to_regclass($1)
LEFT JOIN pg_index ON indexrelid = index.oid WHERE to_regclass('usage') IS NOT NULL
"""


def main() -> int:
    url = os.environ.get(schema.URL_VARIABLE, "")
    try:
        if url.startswith("sqlite:"):
            _migrate_sqlite(db.sqlite_path(url))
        else:
            asyncio.run(_migrate_postgres(url))
    except (TollbridgeError, OSError, sqlite3.Error, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return 1
    return 0


def steps(dialect: str, revision: str | None) -> str:
    """The SQL that leads from `revision` (None: an empty database) to the newest one."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    if revision is not None and revision not in known:
        raise ConfigError(
            f"the database has schema {revision}, which this version of Tollbridge does not know: "
            "it was used by a newer one. Run that one, or restore a backup from before"
        )
    text = StringIO()
    with EnvironmentContext(
        config,
        scripts,
        fn=lambda at, _: scripts._upgrade_revs("head", at),
        as_sql=True,
        starting_rev=revision,
        destination_rev="head",
    ) as environment:
        environment.configure(dialect_name=dialect, output_buffer=text, transactional_ddl=False)
        environment.run_migrations()
    return f"{text.getvalue()}{_OLDEST};\n" if text.getvalue() else ""


def statements(text: str) -> Iterator[str]:
    """The statements of a script for SQLite, one by one: its own `executescript` would commit what came before."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _migrate_sqlite(path: Path) -> None:
    connection = db.connect_sqlite(path, busy_timeout=WAIT_SECONDS)
    try:
        connection.execute("BEGIN IMMEDIATE")
        found = connection.execute(schema.SQLITE_TABLE).fetchone()
        revision = connection.execute(schema.REVISION).fetchone() if found else None
        for statement in statements(steps("sqlite", revision[0] if revision else None)):
            connection.execute(statement)
        connection.execute("COMMIT")
    finally:
        connection.close()


async def _migrate_postgres(url: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    connection = await asyncpg.connect(url, timeout=10)
    try:
        # Poll for the lock: a statement that waits for it would hold up the building of an index.
        while not await connection.fetchval(f"SELECT pg_try_advisory_lock({LOCK_NAME})"):
            if time.monotonic() > deadline:
                raise ConfigError("another process has been migrating the database for a minute: try again later")
            await asyncio.sleep(TRY_SECONDS)
        await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
        await _build_beside(connection)
        while True:
            try:
                async with connection.transaction():
                    found = await connection.fetchval(schema.POSTGRES_TABLE)
                    revision = await connection.fetchval(schema.REVISION) if found else None
                    if text := steps("postgresql", revision):
                        await connection.execute(text)
            except asyncpg.LockNotAvailableError:
                if time.monotonic() > deadline:
                    raise
            else:
                return
    finally:
        await connection.close()


async def _build_beside(connection: asyncpg.Connection) -> None:
    """Build the index that a table full of rows lacks; one whose building was cut off is built anew."""
    found = await connection.fetchrow(_LACKS, TIME_INDEX)
    if found is None or found["indisvalid"]:
        return
    await connection.execute("SET lock_timeout = 0")
    await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {TIME_INDEX}")
    await connection.execute(
        f"CREATE INDEX CONCURRENTLY {TIME_INDEX} ON usage USING brin (ended_at) WITH (autosummarize = on)"
    )
    await connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")


if __name__ == "__main__":
    sys.exit(main())
