"""Restoring a backup, which is checked before it replaces anything."""

from pathlib import Path

from tollbridge.config import Settings
from tollbridge.core.words import plural
from tollbridge.errors import ConfigError
from tollbridge.services import secrets
from tollbridge.store import backup, schema
from tollbridge.store.db import open_database
from tollbridge.store.processes import FileLock
from tollbridge.store.verify import verify


async def restore(settings: Settings, source: Path) -> Path | None:
    """Make the backup `source` the SQLite database; where the previous one was put, if there was one.

    A backup of an older version is brought to this one's schema. ConfigError: a gateway runs on the database, or the
    backup is damaged, newer or of another master secret, or its books are wrong. In that case nothing has changed.
    """
    url = settings.database_url.reveal()
    place = backup.file_of(url)
    lock = FileLock(place)
    # Where nobody ever served, the lock's file is not made before the backup has proved good.
    if lock.path.exists():
        lock.acquire()
    try:
        draft = backup.stage(source, place)
        try:
            await _look_through(f"sqlite:///{draft}", settings)
            lock.acquire()
            kept = backup.put_in_place(draft, place)
            # What it says about the latest heartbeat is true only of the old database.
            lock.path.write_bytes(b"")
        finally:
            backup.discard(draft)
    finally:
        lock.release()
    return kept


async def _look_through(url: str, settings: Settings) -> None:
    await schema.migrate(url)
    database = open_database(url)
    await database.start()
    try:
        await secrets.check(database, await secrets.load_for(database, settings))
        report = await verify(database)
        if not report.ok:
            raise ConfigError(
                f"the books of the backup are wrong in {plural(report.found, 'place')}: {report.problems[0]}"
            )
    finally:
        await database.close()
