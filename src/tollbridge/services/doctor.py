"""Can a gateway work here? Looked at from the outside, while one runs or before the first start; nothing is changed."""

import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tollbridge.config import Settings
from tollbridge.errors import TollbridgeError
from tollbridge.services import secrets
from tollbridge.store import schema
from tollbridge.store.db import Database, open_database, sqlite_path

LEAST_PYTHON = (3, 11)

_SYNCS = 200
_SYNC_SECONDS = 1.0
_BLOCK = bytes(4096)
# Each request waits for two.
_SLOW_SYNC_MS = 10


class Finding(msgspec.Struct, frozen=True):
    name: str
    ok: bool
    detail: str


async def examine(settings: Settings) -> list[Finding]:
    """One finding for each thing that a gateway needs, in the order in which to mend them."""
    findings = [_python(), _configuration(settings), _data_directory(settings.data_dir)]
    if findings[-1].ok:
        findings.append(_disk(_existing(settings.data_dir)))
    findings += await _database(settings)
    return [*findings, _providers(settings)]


def _python() -> Finding:
    return Finding("python", sys.version_info >= LEAST_PYTHON, f"{platform.python_version()} on {platform.system()}")


def _configuration(settings: Settings) -> Finding:
    written = f"{settings.source.path}" if settings.source.path else "no file, all by default and environment"
    return Finding("configuration", True, "; ".join([written, *settings.warnings]))


def _data_directory(path: Path) -> Finding:
    there = _existing(path)
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor-"):
            found = "can be written" if there == path else "does not exist: the first start makes it"
            return Finding("data directory", True, f"{path.resolve()} {found}")
    except OSError as error:
        return Finding("data directory", False, f"{there.resolve()} cannot be written: {error.strerror}")


def _existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _disk(path: Path) -> Finding:
    """How long this disk takes to promise that something is on it: half of what a request waits for."""
    taken: list[float] = []
    with tempfile.TemporaryFile(dir=path, prefix=".doctor-") as file:
        end = time.perf_counter() + _SYNC_SECONDS
        while len(taken) < _SYNCS and time.perf_counter() < end:
            file.write(_BLOCK)
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - start)
    taken.sort()
    middle, high = (taken[int(len(taken) * share)] * 1000 for share in (0.5, 0.99))
    slow = "" if middle < _SLOW_SYNC_MS else "; that is slow: each request waits for two"
    return Finding("disk", True, f"fsync p50 {middle:.2f} ms, p99 {high:.2f} ms of {len(taken)}{slow}")


async def _database(settings: Settings) -> list[Finding]:
    url = settings.database_url.reveal()
    if url.startswith("sqlite:") and not sqlite_path(url).exists():
        return [Finding("database", True, f"{sqlite_path(url)} does not exist: the first start makes it")]
    database = open_database(url)
    try:
        await database.start()
    except TollbridgeError as error:
        return [Finding("database", False, str(error))]
    try:
        reached = Finding("database", True, f"{database.dialect} can be reached")
        revision = await schema.current(database)
        if revision is None:
            return [reached, Finding("schema", True, "none yet: the first start makes it")]
        return [reached, _schema(revision), await _secret(database, settings)]
    finally:
        await database.close()


def _schema(revision: str) -> Finding:
    if revision != schema.HEAD:
        return Finding("schema", False, f"{revision}, but this version needs {schema.HEAD}: tollbridge migrate")
    return Finding("schema", True, revision)


async def _secret(database: Database, settings: Settings) -> Finding:
    if settings.secret is None and not (settings.data_dir / secrets.FILE).exists():
        return Finding("master secret", True, "none yet: the first start makes it")
    try:
        master = secrets.load(settings)
        known = await secrets.known_to(database, master)
    except TollbridgeError as error:
        return Finding("master secret", False, str(error))
    return Finding("master secret", known, "the one of this database" if known else secrets.FOREIGN)


def _providers(settings: Settings) -> Finding:
    names = ", ".join(settings.providers)
    return Finding("providers", True, names or "none configured: the built-in demo provider answers")
