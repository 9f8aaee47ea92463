"""Which schema a database has, and bringing it to the one that this code needs.

Rule 1  Two versions run side by side while one replaces the other: a migration only adds, and what it adds is optional
        for the code before it. tests/store/test_migrations.py enforces this.
Rule 2  What is no longer used is removed in a later release, which raises `OLDEST`. The database remembers it, so that
        older code starts on a newer schema as long as it can work there, and is refused from then on.
"""

import asyncio
import os
import sys
from contextlib import suppress

from tollbridge.errors import ConfigError, TollbridgeError
from tollbridge.store.db import Database, open_database, sqlite_path
from tollbridge.store.meta import value

HEAD = "0015"
# The oldest revision whose code works on the schema of `HEAD`.
OLDEST = "0008"
OLDEST_ROW = "schema_oldest"
URL_VARIABLE = "TOLLBRIDGE_DATABASE_URL"

SQLITE_TABLE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
POSTGRES_TABLE = "SELECT 1 WHERE to_regclass('alembic_version') IS NOT NULL"
REVISION = "SELECT version_num FROM alembic_version"


class MigrationFailed(TollbridgeError):
    """The database could not be brought to the schema that this version needs; it is unchanged."""


async def current(database: Database) -> str | None:
    """The revision of a started database; None where there is no schema yet."""
    if not await database.fetch(SQLITE_TABLE if database.dialect == "sqlite" else POSTGRES_TABLE):
        return None
    rows = await database.fetch(REVISION)
    return rows[0][0] if rows else None


async def fits(database: Database, revision: str | None) -> bool:
    """Whether this code can work on a schema of this `revision`: its own, or a newer one that still suits it."""
    if revision is None or revision <= HEAD:
        return revision == HEAD
    oldest = await value(database, OLDEST_ROW)
    return oldest is not None and oldest <= int(HEAD)


async def migrate(url: str) -> bool:
    """Bring the database at `url` to `HEAD`, creating the file of SQLite; whether there was anything to do. A database
    migrated by newer code is left as it is if it suits this code.

    Safe to call from many processes at once, and to be killed. MigrationFailed: with one line that says why.
    """
    if url.startswith("sqlite:"):
        _create(url)
    database = open_database(url)
    await database.start()
    try:
        if await fits(database, await current(database)):
            return False
    finally:
        await database.close()
    status, _, complaint = await run_apart("tollbridge.store.migrations", url)
    if status:
        raise MigrationFailed(f"the database could not be migrated: {complaint}")
    return True


async def run_apart(module: str, url: str) -> tuple[int, str, str]:
    """Run `python -m module` for the database at `url`: its exit status, its output, and its last line of stderr."""
    # Through the environment, not as an argument: the URL may hold a password, and anybody can read arguments.
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module),
        env={**os.environ, URL_VARIABLE: url},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, complaint = await process.communicate()
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        raise
    assert process.returncode is not None
    lines = complaint.decode(errors="replace").strip().splitlines() or [f"it ended with {process.returncode}"]
    return process.returncode, said.decode(errors="replace"), lines[-1]


def _create(url: str) -> None:
    """Create the file, for its owner alone; SQLite gives its log the same permissions."""
    path = sqlite_path(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        reason = "a file is where its directory should be" if path.parent.is_file() else error.strerror
        what = "written" if os.access(path, os.F_OK) else "made"
        raise ConfigError(f"{path}: the database cannot be {what}: {reason}") from error
