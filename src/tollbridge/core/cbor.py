"""What authenticators write: the canonical CBOR of CTAP 2.1, section 8, and nothing more of RFC 8949.

A general decoder makes whatever a tag names: regular expressions, decimal numbers, mails. Some of these take minutes to
make out of a few kilobytes, so what a stranger sends has to pass here first.
"""

from typing import Any

# Authenticators nest at most four.
DEEPEST = 8
_SIMPLE = {20: False, 21: True, 22: None}
# What a length or number needs to be written in 1, 2, 4 or 8 bytes of its own.
_LEAST = (24, 1 << 8, 1 << 16, 1 << 32)


def read(data: bytes, at: int = 0, depth: int = 0) -> tuple[Any, int]:
    """The item that begins at `at`, and where it ends. ValueError: it is not what authenticators write.

    Each value has one way to be written, so decoding an item and encoding it again gives as many bytes.
    """
    if depth > DEEPEST:
        raise ValueError("nested too deeply")
    kind, number, at = _head(data, at)
    match kind:
        case 0:
            return number, at
        case 1:
            return -1 - number, at
        case 2 | 3:
            raw = data[at : at + number]
            if len(raw) != number:
                raise ValueError("cut off")
            return raw if kind == 2 else raw.decode(), at + number
        case 4:
            items = []
            for _ in range(number):
                item, at = read(data, at, depth + 1)
                items.append(item)
            return items, at
        case 5:
            return _map(data, at, number, depth)
        case 7 if number in _SIMPLE:
            return _SIMPLE[number], at
    raise ValueError("a tag, a float or nothing known")


def _map(data: bytes, at: int, number: int, depth: int) -> tuple[dict[int | str, Any], int]:
    found: dict[int | str, Any] = {}
    for _ in range(number):
        key, at = read(data, at, depth + 1)
        if not isinstance(key, int | str) or isinstance(key, bool) or key in found:
            raise ValueError("a key that is neither a number nor a text, or is there twice")
        found[key], at = read(data, at, depth + 1)
    return found, at


def _head(data: bytes, at: int) -> tuple[int, int, int]:
    """(kind, its number or length, where the rest begins)."""
    if at >= len(data):
        raise ValueError("cut off")
    kind, short = data[at] >> 5, data[at] & 0x1F
    at += 1
    if short < _LEAST[0]:
        return kind, short, at
    size = 1 << (short - _LEAST[0])
    if short >= _LEAST[0] + len(_LEAST) or kind == 7 or len(data) < at + size:
        raise ValueError("a length that is not given, or cut off")
    number = int.from_bytes(data[at : at + size])
    if number < _LEAST[short - _LEAST[0]]:
        raise ValueError("longer than it has to be")
    return kind, number, at + size
