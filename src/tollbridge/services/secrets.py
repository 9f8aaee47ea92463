"""The master secret: one random text from which all of this gateway's own keys are derived.

It is kept beside the database, never in it, so that stealing the database is not enough to check guesses at API keys.
Losing the secret means losing all API keys: `belongs_to` makes sure that this is noticed at start, not by customers.

While it is rotated (`services.rotation`) there are two. The database says which one is in use: everything is made with
that one, and read with either. So processes that know both agree, whenever each of them learned of it.
"""

import fcntl
import hmac
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tollbridge.config import Settings
from tollbridge.core.ids import KEY_BYTES, Ids
from tollbridge.errors import ConfigError
from tollbridge.store import disk, meta, rotation
from tollbridge.store.db import Database, run
from tollbridge.store.rotation import FINGERPRINT, Standing

FILE = "secret"

FOREIGN = (
    "this is not the master secret that the keys in this database were made with: "
    f"bring back the file {FILE} of its data directory, or the setting secret"
)
UNFINISHED = (
    "the master secret of this database was rotated, and the one before it is needed until tollbridge secrets rotate "
    f"--finish: bring back the second line of the file {FILE} of its data directory, or the setting secret_previous"
)

_NONCE_BYTES = 12
_FINGERPRINT_BITS = 62


class _Keys:
    """What is derived from one secret, by HKDF-SHA256 (RFC 5869) with one label for each use."""

    def __init__(self, master: str) -> None:
        self._root = hmac.digest(b"tollbridge", master.encode(), "sha256")
        self._pepper = self.derived("pepper/1")
        self.cipher = AESGCM(self.derived("seal/1"))
        self.fingerprint = int.from_bytes(self.derived("fingerprint")[:8]) >> (64 - _FINGERPRINT_BITS)

    def digest(self, key: str) -> bytes:
        return hmac.digest(self._pepper, key.encode(), "sha256")

    def sign(self, use: str, text: str) -> str:
        return hmac.digest(self.derived(f"sign/{use}"), text.encode(), "sha256").hex()

    def derived(self, label: str) -> bytes:
        return hmac.digest(self._root, label.encode() + b"\x01", "sha256")


class Secrets:
    """The master secret, and the other one while it is rotated: `follow` chooses which of them is in use.

    `generation` is the number of the one in use, counted from 1. Until a database has been asked (`belongs_to`), the
    newest one is in use.
    """

    def __init__(self, newest: str, before: str | None = None) -> None:
        self._lead = _Keys(newest)
        self._other = None if before is None else _Keys(before)
        self._newest = self._lead.fingerprint
        self.generation = 1

    def digest(self, key: str) -> bytes:
        """What is stored of an API key, and looked up: 32 bytes."""
        return self._lead.digest(key)

    def digests(self, key: str) -> tuple[bytes, bytes]:
        """Like `digest`, with the digest by the other secret; if there is none, the same twice."""
        return self._lead.digest(key), (self._other or self._lead).digest(key)

    def ids(self) -> Ids:
        before = None if self._other is None else Ids(self._other.derived("ids")[:KEY_BYTES])
        return Ids(self._lead.derived("ids")[:KEY_BYTES], before)

    def seal(self, use: str, text: bytes) -> bytes:
        """Encrypt `text` so that only `open` with the same `use` (which row, which column) recovers it: AES-256-GCM."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + self._lead.cipher.encrypt(nonce, text, use.encode())

    def open(self, use: str, sealed: bytes) -> bytes:
        """What was sealed for this `use`. Raises `ConfigError` if it was not, or by another secret."""
        for keys in filter(None, (self._lead, self._other)):
            with suppress(InvalidTag):
                return keys.cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], use.encode())
        raise ConfigError(f"what is stored for {use} cannot be read with this master secret")

    def sealed_anew(self, use: str, sealed: bytes) -> bytes | None:
        """What the other secret sealed, sealed again by the one in use; None: it already is. Raises as `open`."""
        with suppress(InvalidTag):
            self._lead.cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], use.encode())
            return None
        return self.seal(use, self.open(use, sealed))

    def sign(self, use: str, text: str) -> str:
        """A text that nobody else can derive from `text` for this `use`."""
        return self._lead.sign(use, text)

    def signatures(self, use: str, text: str) -> list[str]:
        """All texts that `sign` may have made of it, the current one first."""
        return [keys.sign(use, text) for keys in (self._lead, self._other) if keys is not None]

    def fingerprint(self) -> int:
        """A number that tells secrets apart but reveals nothing about them; of the one in use."""
        return self._lead.fingerprint

    @property
    def newest(self) -> int:
        """The fingerprint of the secret that comes first where secrets are kept."""
        return self._newest

    @property
    def other(self) -> int | None:
        """The fingerprint of the secret that is not in use."""
        return None if self._other is None else self._other.fingerprint

    def become(self, fresh: "Secrets") -> None:
        """Hold from now on what `fresh` holds."""
        self._lead, self._other, self._newest = fresh._lead, fresh._other, fresh._newest
        self.generation = fresh.generation

    def follow(self, standing: Standing) -> None:
        """Use the secret that the database uses. ConfigError: it is not here, or one that is still needed is not."""
        if self._other is not None and standing.fingerprint == self._other.fingerprint:
            self._lead, self._other = self._other, self._lead
        if standing.fingerprint not in {None, self._lead.fingerprint}:
            raise ConfigError(FOREIGN)
        if standing.previous not in {None, self.other}:
            raise ConfigError(UNFINISHED)
        self.generation = standing.generation


def load(settings: Settings) -> Secrets:
    """From the configuration, or else from the file in the data directory, which is created if missing."""
    if settings.secret is not None:
        before = settings.secret_previous
        return Secrets(settings.secret.reveal(), None if before is None else before.reveal())
    path = settings.data_dir / FILE
    try:
        lines = _read(path)
    except FileNotFoundError:
        _create(path)
        lines = _read(path)
    except OSError as error:
        raise ConfigError(f"{path}: the master secret cannot be read: {error.strerror}") from error
    return Secrets(*lines)


async def load_for(database: Database, settings: Settings) -> Secrets:
    """Like `load`, but creates no secret if the database already uses one, as a new one would only get in the way."""
    path = settings.data_dir / FILE
    try:
        there = settings.secret is not None or path.exists()
    except OSError:
        there = True  # `load` reports the problem
    if not there and await is_claimed(database):
        raise ConfigError(f"{path} is gone: bring back this master secret, no key works without it")
    return load(settings)


async def belongs_to(database: Database, master: Secrets) -> None:
    """Make `master` use the secret that the database uses. A new database is claimed for the newest secret.

    ConfigError: the database's keys were made with another secret.
    """
    standing = await rotation.standing(database)
    if standing.fingerprint is None:
        newest = master.newest
        await run(database, lambda transaction: meta.first_value(transaction, FINGERPRINT, newest))
        standing = await rotation.standing(database)
    master.follow(standing)


async def check(database: Database, master: Secrets) -> None:
    """ConfigError as in `belongs_to`; nothing is claimed."""
    master.follow(await rotation.standing(database))


async def ids_at_hand(database: Database, settings: Settings) -> Ids | None:
    """How answers are named; None: the database's secret is not here. No secret is created."""
    if settings.secret is None and not (settings.data_dir / FILE).exists():
        return None
    try:
        master = load(settings)
        await check(database, master)
    except ConfigError:
        return None
    return master.ids()


async def is_claimed(database: Database) -> bool:
    """Whether the database already uses a master secret."""
    return (await rotation.standing(database)).fingerprint is not None


async def is_behind(database: Database, master: Secrets) -> bool:
    """Whether the database now uses another secret than `master`."""
    return (await rotation.standing(database)).fingerprint != master.fingerprint()


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Keep everybody else on this machine from changing the file. ConfigError: somebody is doing so."""
    descriptor = os.open(settings.data_dir, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError("the master secret is being rotated by another tollbridge secrets rotate") from None
    finally:
        os.close(descriptor)


def add_to_file(settings: Settings) -> None:
    """Put a new secret before the one in the file, which stays as the second."""
    path = (settings.data_dir / FILE).resolve()
    _replace(path, f"{secrets.token_hex(32)}\n{_read(path)[0]}\n")


def drop_from_file(settings: Settings) -> bool:
    """Keep only the first secret in the file; whether there was a second."""
    path = (settings.data_dir / FILE).resolve()
    lines = _read(path)
    if len(lines) > 1:
        _replace(path, f"{lines[0]}\n")
    return len(lines) > 1


def _read(path: Path) -> list[str]:
    """The secrets in the file, newest first: one, or two while it is rotated."""
    if path.stat().st_mode & 0o007:
        raise ConfigError(f"{path}: everybody on this machine can read the master secret: chmod 600 {path}")
    lines = path.read_text("ascii", "replace").strip().splitlines()
    if not lines or any(len(line) < 2 * KEY_BYTES for line in lines):
        raise ConfigError(f"{path}: the master secret is cut off: bring it back from your copy")
    if len(lines) > 2:
        raise ConfigError(f"{path}: the file holds the master secret, and in a second line the one before: no more")
    return lines


def _create(path: Path) -> None:
    """Create it whole or not at all, and durably: keys that depend on it are about to be handed out."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # If another process was quicker, its secret counts.
        with _draft(path, secrets.token_hex(32) + "\n") as (draft, _), suppress(FileExistsError):
            path.hardlink_to(draft)
    except OSError as error:
        raise ConfigError(f"{path}: the master secret cannot be written: {error.strerror}") from error


def _replace(path: Path, text: str) -> None:
    """Like `_create`, but replaces what is there, keeping it readable for those who could read it."""
    try:
        before = path.stat()
        with _draft(path, text) as (draft, descriptor):
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, before.st_uid, before.st_gid)
            os.fchmod(descriptor, before.st_mode & 0o660)
            draft.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: the master secret cannot be written: {error.strerror}") from error


@contextmanager
def _draft(path: Path, text: str) -> Iterator[tuple[Path, int]]:
    """A file beside `path` containing `text`, and its descriptor. What the caller makes of it is durable afterwards."""
    draft = path.with_name(f".{FILE}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, text.encode())
        os.fsync(descriptor)
        yield draft, descriptor
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
    disk.sync(path.parent)
