"""Can a gateway work here? Checked from the outside, while one runs or before the first start; changes nothing."""

import os
import platform
import socket
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec

from tollbridge.config import Settings
from tollbridge.config.kinds import is_for_this_machine
from tollbridge.errors import ConfigError, TollbridgeError, Unavailable
from tollbridge.services import secrets
from tollbridge.store import accounts, schema
from tollbridge.store.db import Contended, Database, open_database, sqlite_path
from tollbridge.store.processes import FileLock, clock, require_unmoved, serving

LEAST_PYTHON = (3, 11)

_SYNCS = 200
_SYNC_SECONDS = 1.0
_BLOCK = bytes(4096)
_LIMITS_WITHIN_S = 2.0
# Each request waits for two of them.
_SLOW_SYNC_MS = 10


# SQLSTATE of PostgreSQL or error name of SQLite, and what to do about it.
_REMEDIES = {
    "28P01": "it does not accept the user or the password of database_url",
    "28000": "it does not accept the user of database_url from here (see its pg_hba.conf)",
    "3D000": "there is no database of this name: createdb makes one",
    "53300": "it has no connection left: raise its max_connections, or close others",
    "25006": "it takes no writes: it is a replica, or was made read-only",
    "57P03": "it is starting or stopping: try again shortly",
    "SQLITE_READONLY": "it cannot be written: does it belong to the user who runs this?",
    "SQLITE_CANTOPEN": "it cannot be opened: does it, and its directory, belong to the user who runs this?",
    "SQLITE_FULL": "the disk is full",
    "SQLITE_IOERR": "its disk fails, most often because it is full: check with df",
    "SQLITE_CORRUPT": "the file is damaged: tollbridge restore BACKUP puts a copy in its place",
    "SQLITE_NOTADB": "the file is damaged, or was never a database: tollbridge restore BACKUP puts a copy in its place",
}


class Finding(msgspec.Struct, frozen=True):
    name: str
    ok: bool
    detail: str


def diagnose(error: TollbridgeError, url: str, name: str = "database_url") -> TollbridgeError:
    """`error` in words for an operator, who may know what no customer is told: which database fails, and why.

    Unchanged if no database fails: others are writing, or it is a processor of payments, say. `name`: what `url` was
    called where it was given.
    """
    cause = error.__cause__
    if not isinstance(error, Unavailable) or error.code != "ledger_unavailable" or cause is None:
        return error
    if isinstance(error, Contended):
        return error
    if url.startswith("sqlite:"):
        place = str(sqlite_path(url))
    else:
        parts = urlsplit(url)
        place = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    return ConfigError(f"the database {place}: {_reason(cause).replace('database_url', name)}")


def _reason(cause: BaseException) -> str:
    name = getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None) or ""
    for code, remedy in _REMEDIES.items():
        if name.startswith(code):
            return remedy
    if isinstance(cause, socket.gaierror):
        return "its host is not known: is the name in database_url right?"
    if isinstance(cause, TimeoutError):
        return "it does not answer: is the address in database_url right, and is there a firewall in between?"
    if isinstance(cause, OSError):
        return "nothing answers there: is PostgreSQL running, and is the address in database_url right?"
    return f"{type(cause).__name__}: {str(cause).partition(chr(10))[0]}"


async def examine(settings: Settings) -> list[Finding]:
    """One finding for each thing that a gateway needs, in the order in which to fix them."""
    findings = [_python(), _configuration(settings), _data_directory(settings.data_dir)]
    if findings[-1].ok:
        findings.append(_disk(_existing(settings.data_dir)))
    findings += await _database(settings)
    if settings.redis_url is not None:
        findings.append(await _limits(settings.redis_url.reveal()))
    if settings.usage.export is not None:
        findings += _export(settings.usage.export.reveal())
    if not is_for_this_machine(settings.public_url, settings.host):
        findings += [_mail(settings), _texts(settings)]
    return [*findings, _providers(settings)]


def _python() -> Finding:
    return Finding("python", sys.version_info >= LEAST_PYTHON, f"{platform.python_version()} on {platform.system()}")


def _configuration(settings: Settings) -> Finding:
    written = f"{settings.source.path}" if settings.source.path else "no file, only defaults and the environment"
    return Finding("configuration", True, "; ".join([written, *settings.warnings]))


def _data_directory(path: Path) -> Finding:
    return _directory("data directory", path, "the first start creates it")


def _directory(name: str, path: Path, made: str) -> Finding:
    """Whether `path` can be written; `made` says when it will be created if it does not exist."""
    there = _existing(path)
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".doctor-"):
            found = "can be written" if there == path else f"does not exist: {made}"
            return Finding(name, True, f"{path.resolve()} {found}")
    except OSError as error:
        return Finding(name, False, f"{there.resolve()} cannot be written: {error.strerror}")


def _existing(path: Path) -> Path:
    """`path`, or the nearest directory above it that exists."""
    return next(each for each in (path, *path.absolute().parents) if each.exists())


def _disk(path: Path) -> Finding:
    """How long this disk takes to make a write durable: half of what a request waits for."""
    try:
        taken = sorted(_syncs(path))
    except OSError as error:
        return Finding("disk", False, f"{path.resolve()} cannot take another 800 KB: {error.strerror}")
    middle, high = (taken[int(len(taken) * share)] * 1000 for share in (0.5, 0.99))
    slow = "" if middle < _SLOW_SYNC_MS else "; that is slow: each request waits for two"
    return Finding("disk", True, f"fsync p50 {middle:.2f} ms, p99 {high:.2f} ms of {len(taken)}{slow}")


def _syncs(path: Path) -> list[float]:
    """The seconds that each of up to `_SYNCS` writes to a file in `path` takes to reach the disk."""
    taken: list[float] = []
    with tempfile.TemporaryFile(dir=path, prefix=".doctor-") as file:
        end = time.perf_counter() + _SYNC_SECONDS
        while len(taken) < _SYNCS and time.perf_counter() < end:
            os.write(file.fileno(), _BLOCK)
            start = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - start)
    return taken


async def _database(settings: Settings) -> list[Finding]:
    url = settings.database_url.reveal()
    if url.startswith("sqlite:"):
        path = sqlite_path(url)
        try:
            there = path.exists()
        except OSError as error:  # a parent directory that is not ours
            return [Finding("database", False, f"the database {path}: {error.strerror}")]
        if not there:
            return [Finding("database", True, f"{path} does not exist: the first start creates it")]
        if not os.access(path, os.W_OK):
            # It can be read without writing, but no gateway starts.
            return [Finding("database", False, f"the database {path}: {_REMEDIES['SQLITE_READONLY']}")]
    database = open_database(url)
    try:
        if url.startswith("sqlite:"):
            require_unmoved(FileLock(sqlite_path(url)))
        await database.start()
    except TollbridgeError as error:
        return [Finding("database", False, str(diagnose(error, url)))]
    try:
        reached = await _reached(database)
        revision = await schema.current(database)
        fits = await schema.fits(database, revision)
        findings = [reached, *await _clock(database)]
        if revision is None:
            return [*findings, Finding("schema", True, "none yet: the first start creates it")]
        findings += [_schema(revision, fits), await _secret(database, settings)]
        if not fits:
            return findings
        findings.append(await _plans(database, settings))
        if settings.redis_url is None and (several := await serving(database)) > 1:
            what = f"{several} processes serve from this database and redis_url is not set: each limits by itself"
            findings.append(Finding("limits", False, what))
        return findings
    finally:
        await database.close()


async def _reached(database: Database) -> Finding:
    if database.dialect == "postgresql":
        [[read_only]] = await database.fetch("SELECT current_setting('transaction_read_only')")
        if read_only == "on":
            return Finding("database", False, f"{database.dialect} can be reached, but {_REMEDIES['25006']}")
    return Finding("database", True, f"{database.dialect} can be reached")


async def _clock(database: Database) -> list[Finding]:
    """Whether this machine's clock agrees with that of a database elsewhere."""
    if database.dialect == "sqlite":
        return []
    _, apart = await clock(database)
    if not apart:
        return [Finding("clock", True, "this machine's agrees with the database's")]
    theirs = "credit, limits and log-in codes go by the database's"
    ours = "dates of requests and plans, prices by hour, included tokens and what others sign go by this one"
    return [Finding("clock", False, f"this machine's is {apart}: set both by NTP ({theirs}; {ours})")]


def _schema(revision: str, fits: bool) -> Finding:
    if revision > schema.HEAD and not fits:
        return Finding("schema", False, f"{revision}, of a newer version: this one ({schema.HEAD}) cannot work on it")
    if not fits:
        return Finding("schema", False, f"{revision}, but this version needs {schema.HEAD}: run tollbridge migrate")
    return Finding("schema", True, revision)


async def _secret(database: Database, settings: Settings) -> Finding:
    path = settings.data_dir / secrets.FILE
    try:
        if settings.secret is None and not path.exists() and not await secrets.is_claimed(database):
            return Finding("master secret", True, "none yet: the first start creates it")
        await secrets.check(database, await secrets.load_for(database, settings))
    except TollbridgeError as error:
        return Finding("master secret", False, str(error))
    except OSError as error:
        return Finding("master secret", False, f"{path} cannot be read: {error.strerror}")
    return Finding("master secret", True, "it belongs to this database")


async def _plans(database: Database, settings: Settings) -> Finding:
    """Whether the plans of all accounts are configured; on any other, the limits of `default` apply, if it has any."""
    counts = await accounts.by_plan(database)
    gone = [f"{plan} ({count})" for plan, count in counts.items() if plan not in settings.plans]
    if gone:
        return Finding(
            "plans", False, f"accounts are on plans that are not configured: {', '.join(gone)}; default applies"
        )
    return Finding("plans", True, "the plans of all accounts are configured")


async def _limits(url: str) -> Finding:
    """Whether the server at `redis_url` can be used. Without it a gateway works, but limits less exactly."""
    from tollbridge.limits.redis import trouble

    parts = urlsplit(url)
    place = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    found = await trouble(url, _LIMITS_WITHIN_S)
    if found:
        return Finding("limits", False, f"redis_url {place} ({found}): each process allows its share meanwhile")
    return Finding("limits", True, f"{place} answers in time")


def _export(url: str) -> list[Finding]:
    """Whether `usage.export` can be written, if it is a directory."""
    parts = urlsplit(url)
    if parts.scheme != "directory":
        return []
    return [_directory("usage export", Path(unquote(parts.path)), "the first export creates it")]


def _mail(settings: Settings) -> Finding:
    if settings.mail.host is None:
        what = (
            "mail.host is not set: links for passwords and invitations are only in the log and under Operator → Outbox"
        )
        return Finding("mail", True, what)
    return Finding("mail", True, f"sent by {settings.mail.host}")


def _texts(settings: Settings) -> Finding:
    """Whether there is what customers agree to when they sign up."""
    missing = [name for name, text in msgspec.structs.asdict(settings.pages).items() if text is None]
    if missing:
        return Finding("texts", True, f"not written: {', '.join(missing)}; who signs up agrees to terms ([pages])")
    return Finding("texts", True, "all of [pages] are written")


def _providers(settings: Settings) -> Finding:
    """Not whether they answer: that costs a little."""
    names = ", ".join(settings.providers)
    if not names:
        demo = "none configured: the built-in demo provider answers"
        if is_for_this_machine(settings.public_url, settings.host):
            return Finding("providers", True, demo)
        return Finding("providers", False, f"{demo}, and customers pay for what it makes up")
    return Finding("providers", True, f"{names} (tollbridge provider check asks them)")
