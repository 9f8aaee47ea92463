"""Copies of a SQLite database: taken while it is in use, restored while it is not."""

import os
import secrets
import sqlite3
from pathlib import Path

from tollbridge.errors import ConfigError
from tollbridge.store import disk
from tollbridge.store.db import sqlite_path

# A database in use is three files.
_ENDS = ("", "-wal", "-shm")


def back_up(url: str, target: Path) -> None:
    """Write the database at `url`, as it is at this moment, into the new file `target`. Writers are not held up.

    ConfigError: it is not a SQLite database, `target` exists or cannot be written, or the copy is damaged.
    """
    source = file_of(url)
    if not source.exists():
        raise ConfigError(f"{source}: there is no database to back up")
    if target.exists():
        raise ConfigError(f"{target} exists already: choose another name")
    if not os.access(source, os.R_OK):
        raise ConfigError(f"{source}: it cannot be read: does it belong to the user who runs this?")
    draft = _beside(target)
    try:
        _copy(source, draft)
        _check(draft)
        disk.sync(draft)
        draft.rename(target)
        disk.sync(target.parent)
    except (OSError, sqlite3.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{target}: the backup could not be written: {reason}") from error
    finally:
        discard(draft)


def stage(source: Path, place: Path) -> Path:
    """Put a checked copy of the backup `source` beside `place`, to be inspected; then `put_in_place` or `discard` it.

    ConfigError: it cannot be read or written, or is not an intact Tollbridge database.
    """
    if not source.is_file():
        raise ConfigError(f"{source}: there is no such file")
    draft = _beside(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _copy(source, draft)
        _check(draft)
    except (OSError, sqlite3.Error) as error:
        discard(draft)
        raise ConfigError(f"{source}: it cannot be restored: {error}") from error
    except ConfigError as error:
        discard(draft)
        raise ConfigError(f"{source}: {error}") from error
    return draft


def discard(draft: Path) -> None:
    for end in _ENDS:
        draft.with_name(draft.name + end).unlink(missing_ok=True)


def put_in_place(draft: Path, place: Path) -> Path | None:
    """Make `draft` the database at `place`, which nobody may have open; where the old one went, if there was one."""
    if draft.with_name(f"{draft.name}-wal").exists():
        raise ConfigError(f"{draft} is still in use")
    disk.sync(draft)
    kept = place.with_name(f"{place.name}.before-restore-{secrets.token_hex(4)}") if place.exists() else None
    if kept is not None:
        place.rename(kept)
    log = place.with_name(f"{place.name}-wal")
    if log.exists():
        # This log belongs to the old database, and would be applied to the new one.
        log.rename(f"{kept or draft}-wal")
    place.with_name(f"{place.name}-shm").unlink(missing_ok=True)
    disk.sync(place.parent)
    draft.rename(place)
    disk.sync(place.parent)
    return kept


def file_of(url: str) -> Path:
    """The file of a SQLite URL; ConfigError for any other."""
    if not url.startswith("sqlite:"):
        raise ConfigError(
            "backup and restore are for SQLite: use pg_dump --format=custom and pg_restore for a PostgreSQL database"
        )
    return sqlite_path(url)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def _copy(source: Path, target: Path) -> None:
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    reader = sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)
    try:
        writer = sqlite3.connect(target)
        try:
            reader.backup(writer)
            # The copy must be complete in one file.
            writer.execute("PRAGMA journal_mode=DELETE")
        finally:
            writer.close()
    finally:
        reader.close()


def _check(path: Path) -> None:
    connection = sqlite3.connect(path)
    try:
        found = connection.execute("PRAGMA integrity_check").fetchone()[0]
        if found != "ok":
            raise ConfigError(f"the copy is damaged: {str(found).splitlines()[0]}")
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    finally:
        connection.close()
    if not {"alembic_version", "journal", "usage"} <= tables:
        raise ConfigError("this is no database of Tollbridge")
