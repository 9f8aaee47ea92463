"""The master secret: one random text from which every key of this gateway's own follows.

It is beside the database, never in it, so that who steals the one cannot check guesses at API keys by it. Who loses
the secret has lost all API keys: `belongs_to` makes sure that this is noticed at the start and not by customers.
"""

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tollbridge.config import Settings
from tollbridge.core.ids import KEY_BYTES, Ids
from tollbridge.errors import ConfigError
from tollbridge.store import meta
from tollbridge.store.db import Database, run

FILE = "secret"
# There is one pepper by now; a row says which of them its digest was made with.
PEPPER_ID = 1

FOREIGN = (
    "this is not the master secret that the keys in this database were made with: "
    f"bring back the file {FILE} of its data directory, or the setting secret"
)

_NONCE_BYTES = 12
_FINGERPRINT = "secret_fingerprint"
_FINGERPRINT_BITS = 62


class Secrets:
    """What follows from the master secret, by HKDF-SHA256 (RFC 5869) with one label for each use."""

    def __init__(self, master: str) -> None:
        self._root = hmac.digest(b"tollbridge", master.encode(), "sha256")
        self._pepper = self._derived("pepper/1")

    def digest(self, key: str) -> bytes:
        """What is stored of an API key, and looked for: 32 bytes."""
        return hmac.digest(self._pepper, key.encode(), "sha256")

    def ids(self) -> Ids:
        return Ids(self._derived("ids")[:KEY_BYTES])

    def seal(self, use: str, text: bytes) -> bytes:
        """`text` so that only `open` with the same `use` (which row, which column) gets it back: AES-256-GCM."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return nonce + AESGCM(self._derived("seal/1")).encrypt(nonce, text, use.encode())

    def open(self, use: str, sealed: bytes) -> bytes:
        """What was sealed for this `use`; raises `ConfigError` when it was not, or by another secret."""
        try:
            return AESGCM(self._derived("seal/1")).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], use.encode())
        except InvalidTag:
            raise ConfigError(f"what is stored for {use} cannot be read with this master secret") from None

    def sign(self, use: str, text: str) -> str:
        """A text that nobody else can make of `text` for this `use`."""
        return hmac.digest(self._derived(f"sign/{use}"), text.encode(), "sha256").hex()

    def fingerprint(self) -> int:
        """A number that tells two secrets apart, and nothing about either."""
        return int.from_bytes(self._derived("fingerprint")[:8]) >> (64 - _FINGERPRINT_BITS)

    def _derived(self, label: str) -> bytes:
        return hmac.digest(self._root, label.encode() + b"\x01", "sha256")


def load(settings: Settings) -> Secrets:
    """From the configuration, or else from the file in the data directory, which is made when there is none."""
    if settings.secret is not None:
        return Secrets(settings.secret.reveal())
    path = settings.data_dir / FILE
    try:
        text = _read(path)
    except FileNotFoundError:
        _create(path)
        text = _read(path)
    except OSError as error:
        raise ConfigError(f"{path}: the master secret cannot be read: {error.strerror}") from error
    return Secrets(text)


async def belongs_to(database: Database, master: Secrets) -> None:
    """ConfigError unless the database's keys were made with this secret. A new database is claimed for it."""
    fingerprint = master.fingerprint()
    known = await meta.value(database, _FINGERPRINT)
    if known is None:
        known = await run(database, lambda transaction: meta.first_value(transaction, _FINGERPRINT, fingerprint))
    if known != fingerprint:
        raise ConfigError(FOREIGN)


async def known_to(database: Database, master: Secrets) -> bool:
    """Whether `belongs_to` would accept the secret; nothing is claimed."""
    return await meta.value(database, _FINGERPRINT) in {None, master.fingerprint()}


def _read(path: Path) -> str:
    if path.stat().st_mode & 0o007:
        raise ConfigError(f"{path}: everybody on this machine can read the master secret: chmod 600 {path}")
    text = path.read_text("ascii", "replace").strip()
    if len(text) < 2 * KEY_BYTES:
        raise ConfigError(f"{path}: the master secret is cut off: bring it back from where it was kept")
    return text


def _create(path: Path) -> None:
    """Whole or not at all, and on the disk: keys that depend on it are handed out in a moment."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{FILE}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "w", encoding="ascii") as file:  # noqa: PTH123 (a descriptor)
                file.write(secrets.token_hex(32) + "\n")
                file.flush()
                os.fsync(descriptor)
            # Whoever was quicker has made the one that counts.
            with suppress(FileExistsError):
                path.hardlink_to(draft)
        finally:
            draft.unlink()
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise ConfigError(f"{path}: the master secret cannot be written: {error.strerror}") from error
