"""The form of an API key: `{prefix}` + 32 random characters + a checksum of 6, both base62.

    tb_live_ 7Hq0…(32) 0aZ19x

With the checksum (CRC32 of all before it), a key that was mistyped, cut short or made up is refused without asking the
database, and scanners for leaked secrets can be sure. It protects nothing: 190 random bits do.
"""

import string
import zlib

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
RANDOM_BYTES = 32
# Follows the brand's prefix in a management key, so that nobody mistakes it for a key of `/v1`.
MANAGES = "manage_"

_CHANCE = 32
_CHECK = 6
_TAIL = _CHANCE + _CHECK
_HINT = 4


def make(prefix: str, random: bytes) -> str:
    """A key from `RANDOM_BYTES` random bytes (more than 62³² needs, so that no character is likelier than another)."""
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
    # The checksum is no secret, so a plain comparison reveals nothing.
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
