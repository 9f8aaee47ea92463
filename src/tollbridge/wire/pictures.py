"""How large a picture is, from the first bytes of its file, as it stands inline in a request."""

import binascii

# Base64 characters that are looked at. What cameras write before the size of a JPEG (a small copy, colours) seldom
# takes more.
_HEAD = 128 * 1024
_BASE64 = b";base64,"
_PNG = b"\x89PNG\r\n\x1a\n"
# Markers of a JPEG after which its size stands, and those that nothing belongs to.
_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x01, *range(0xD0, 0xDA)})


def pixels(inline: bytes) -> int:
    """The pixels of a picture that is `inline` as a JSON string, base64 or a data URL; 0 if they cannot be told."""
    begin = inline.find(_BASE64, 0, 100)
    begin = begin + len(_BASE64) if begin > 0 else 1
    text = inline[begin : begin + _HEAD].replace(rb"\n", b"").replace(rb"\r", b"").translate(None, b'\\"')
    try:
        width, height = _size(binascii.a2b_base64(text[: len(text) // 4 * 4]))
    except (binascii.Error, IndexError):
        return 0
    return width * height


def _size(head: bytes) -> tuple[int, int]:
    """Width and height; zeros for what is none of these. Raises `IndexError` for what ends too early."""
    if head.startswith(_PNG):
        return _big(head, 16, 4), _big(head, 20, 4)
    if head.startswith(b"\xff\xd8"):
        return _jpeg(head)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _little(head, 6, 2), _little(head, 8, 2)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp(head)
    return 0, 0


def _jpeg(head: bytes) -> tuple[int, int]:
    at = 2
    while head[at] == 0xFF:
        marker = head[at + 1]
        if marker in _SIZES:
            return _big(head, at + 7, 2), _big(head, at + 5, 2)
        if marker == 0xFF:
            at += 1
        else:
            at += 2 if marker in _ALONE else 2 + _big(head, at + 2, 2)
    return 0, 0


def _webp(head: bytes) -> tuple[int, int]:
    match head[12:16]:
        case b"VP8 ":
            return _little(head, 26, 2) & 0x3FFF, _little(head, 28, 2) & 0x3FFF
        case b"VP8L":
            both = _little(head, 21, 4)
            return (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
        case b"VP8X":
            return _little(head, 24, 3) + 1, _little(head, 27, 3) + 1
    return 0, 0


def _big(head: bytes, at: int, size: int) -> int:
    return int.from_bytes(_cut(head, at, size), "big")


def _little(head: bytes, at: int, size: int) -> int:
    return int.from_bytes(_cut(head, at, size), "little")


def _cut(head: bytes, at: int, size: int) -> bytes:
    if len(head) < at + size:
        raise IndexError(at)
    return head[at : at + size]
