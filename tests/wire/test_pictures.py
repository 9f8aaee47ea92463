import base64
import struct

import pytest

from tollbridge.wire.pictures import pixels

PNG = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 640, 480) + bytes(9)
GIF = b"GIF89a" + struct.pack("<HH", 640, 480) + bytes(9)


def jpeg(*segments: tuple[int, bytes]) -> bytes:
    frame = (0xC2, struct.pack(">BHHB", 8, 480, 640, 3) + bytes(9))
    parts = [struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data for marker, data in (*segments, frame)]
    return b"\xff\xd8" + b"".join(parts) + bytes(9)


def webp(kind: bytes, data: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I4s4sI", 50, b"WEBP", kind, 40) + data + bytes(9)


def inline(file: bytes, kind: str = "image/png") -> bytes:
    return b'"data:%b;base64,%b"' % (kind.encode(), base64.b64encode(file))


FILES = [
    PNG,
    GIF,
    jpeg((0xE0, b"JFIF\0" + bytes(9))),
    jpeg((0xE1, b"Exif\0\0" + jpeg((0xE0, b"a small copy"))), (0xC4, bytes(30))),
    b"\xff\xd8\xff" + jpeg()[2:],
    webp(b"VP8 ", bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", 640, 480 | 1 << 14)),
    webp(b"VP8L", b"\x2f" + struct.pack("<I", 639 | 479 << 14)),
    webp(b"VP8X", bytes(4) + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")),
]


@pytest.mark.parametrize("file", FILES)
def test_the_size_stands_in_the_first_bytes(file: bytes) -> None:
    whole = file + bytes(200_000)
    assert pixels(inline(whole)) == 640 * 480
    assert pixels(b'"%b"' % base64.b64encode(whole)) == 640 * 480
    escaped = inline(whole).replace(b"/", rb"\/")
    assert pixels(escaped[:90] + rb"\r\n" + escaped[90:]) == 640 * 480


@pytest.mark.parametrize(
    "file", [b"", b"%PDF", PNG[:20], GIF[:8], jpeg()[:7], jpeg((0xE1, bytes(3)))[:5], b"\xff\xd8ab", webp(b"VP9 ", b"")]
)
def test_what_tells_no_size_has_none(file: bytes) -> None:
    assert pixels(inline(file)) == 0


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_cut_has_its_size_or_none(file: bytes) -> None:
    assert {pixels(inline(file[:cut])) for cut in range(0, len(file), 3)} == {0, 640 * 480}


def test_what_stands_elsewhere_has_none() -> None:
    assert pixels(b"") == 0
    assert pixels(b'"https://a.example/b.png"') == 0


def test_no_more_than_the_beginning_is_read() -> None:
    late = [(0xE2, bytes(60_000))] * 3
    assert pixels(inline(jpeg(*late))) == 0
    assert pixels(inline(jpeg(late[0]))) == 640 * 480
