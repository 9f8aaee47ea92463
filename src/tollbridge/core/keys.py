"""The form of an API key: `{prefix}` + 32 characters of chance + 6 of checksum, all of the latter base62.

    tb_live_ 7Hq0…(32) 0aZ19x

The checksum (CRC32 of all before it) lets a key that was mistyped, cut or made up be refused without asking the
database, and lets scanners for leaked secrets be sure. It protects nothing: 190 bits of chance do.
"""

import string
import zlib

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_BYTES = 32
# Stands behind the brand's own prefix in a management key, so that nobody takes one for a key of `/v1`.
MANAGES = "manage_"

_CHANCE = 32
_CHECK = 6
_TAIL = _CHANCE + _CHECK
_HINT = 4


def make(prefix: str, random: bytes) -> str:
    """A key of `RANDOM_BYTES` random bytes (more than 62³² needs, so that no character is likelier than another)."""
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"a key takes {RANDOM_BYTES} random bytes")
    body = prefix + base62(int.from_bytes(random), _CHANCE)
    return body + _checksum(body)


def well_formed(prefix: str, text: str) -> bool:
    """Whether `text`, which may be anything, can be a key at all."""
    if len(text) != len(prefix) + _TAIL or not text.startswith(prefix):
        return False
    if not text.isascii() or not text[-_TAIL:].isalnum():
        return False
    # Public arithmetic, no secret: a plain comparison tells nobody anything.
    return _checksum(text[:-_CHECK]) == text[-_CHECK:]


def hint(prefix: str, key: str) -> str:
    """What may be shown of a key later: `tb_live_…0aZ1`."""
    return f"{prefix}…{key[-_HINT:]}"


def base62(number: int, length: int) -> str:
    """The last `length` digits of a number."""
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def _checksum(body: str) -> str:
    return base62(zlib.crc32(body.encode()), _CHECK)
