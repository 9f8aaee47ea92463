"""From SQLite to PostgreSQL: what must be true first, and what becomes of the file."""

from collections.abc import Callable
from pathlib import Path

from tollbridge.config import Secret, Settings
from tollbridge.errors import ConfigError, Unavailable
from tollbridge.services.doctor import diagnose
from tollbridge.store import processes, schema
from tollbridge.store.db import Database, PostgresDatabase, SqliteDatabase, sqlite_path
from tollbridge.store.processes import FileLock
from tollbridge.store.transfer import TIMEOUT_S, Transferred, is_of_file, require_empty, transfer

_AGAIN = ". Nothing was copied, unless it broke off at the very last moment: run this again, and it says so"


async def to_postgresql(settings: Settings, target: Secret, tell: Callable[[str], object]) -> Transferred:
    """Copy everything that the gateway keeps in SQLite into the empty database `target`, and mark the file as left.

    `tell` is called with each step. ConfigError: a gateway serves from the file, the file is damaged or of another
    schema, or the target is not empty or cannot be used. In that case both are as they were.
    """
    path, url = file_of(settings), target.reveal()
    if not url.startswith("postgres"):
        raise ConfigError("the target must be a PostgreSQL database: postgresql://user:password@host/name")
    lock = FileLock(path)
    _acquire(lock, path)
    source, there = SqliteDatabase(path), PostgresDatabase(url, TIMEOUT_S)
    hint = ""
    try:
        await source.start()
        await _require_whole(source, lock, path)
        await there.start()
        await require_empty(there)
        await _prepare(url)
        hint = _AGAIN
        done = await transfer(source, there, tell)
        await processes.mark_moved(source, lock)
    except Unavailable as error:
        if is_of_file(error):
            raise diagnose(error, settings.database_url.reveal()) from error
        raise ConfigError(f"{diagnose(error, url, 'the target')}{hint}") from error
    finally:
        await there.close()
        await source.close()
        lock.release()
    return done


def file_of(settings: Settings) -> Path:
    """The gateway's SQLite file. ConfigError: it uses PostgreSQL already, or the file does not exist."""
    url = settings.database_url.reveal()
    if not url.startswith("sqlite:"):
        raise ConfigError(
            "database_url is already PostgreSQL: this copies the SQLite database that it names "
            "(by default tollbridge.db in data_dir)"
        )
    path = sqlite_path(url)
    if not path.exists():
        raise ConfigError(
            f"there is no database {path} to copy: is this the gateway's directory (or --data-dir, or --config)?"
        )
    return path


def spools(settings: Settings) -> list[Path]:
    """Files in the data directory with ends of requests that a PostgreSQL database could not take."""
    return sorted(path for path in settings.data_dir.glob("*.spool") if path.stat().st_size)


async def _prepare(url: str) -> None:
    try:
        await schema.migrate(url)
    except schema.MigrationFailed as error:
        raise ConfigError(
            f"the target: {error}. Its role must own the database, or at least be allowed to create tables"
        ) from error


def _acquire(lock: FileLock, path: Path) -> None:
    try:
        lock.acquire()
    except ConfigError:
        raise ConfigError(
            f"a gateway serves from {path}: stop it, copy, and start it again on PostgreSQL. What it takes meanwhile "
            "would be missing from the copy"
        ) from None
    except OSError as error:
        raise ConfigError(f"{lock.path} cannot be written: {error.strerror}") from error


async def _require_whole(source: Database, lock: FileLock, path: Path) -> None:
    revision = await schema.current(source)
    if revision != schema.HEAD:
        mend = "run tollbridge migrate first" if (revision or "") < schema.HEAD else "copy it by the version that did"
        what = "has no tables" if revision is None else f"has schema {revision}, not {schema.HEAD}"
        raise ConfigError(f"{path} {what}: {mend}")
    await processes.require_newest(source, lock)
