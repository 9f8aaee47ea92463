import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.errors import ProtocolError
from tollbridge.wire.sse import MAX_EVENT, Decoder, Event, encode


def decode(*pieces: bytes) -> list[Event]:
    decoder = Decoder()
    read = [event for piece in pieces for event in decoder.feed(piece)]
    assert decoder.broken is None
    return read


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"data: a\n\n", [(b"", b"a")]),
        (b"data:a\n\n", [(b"", b"a")]),
        (b"data:  a\n\n", [(b"", b" a")]),
        (b"data: a \n\n", [(b"", b"a ")]),
        (b"data: a\ndata: b\n\n", [(b"", b"a\nb")]),
        (b"data\n\n", [(b"", b"")]),
        (b"data:\ndata:\n\n", [(b"", b"\n")]),
        (b"data: a:b\n\n", [(b"", b"a:b")]),
        (b"event: e\ndata: a\n\n", [(b"e", b"a")]),
        (b"event: e\ndata: a\ndata: b\n\n", [(b"e", b"a\nb")]),
        (b"event: e\ndata: a\n\ndata: b\n\n", [(b"e", b"a"), (b"", b"b")]),
        (b"event: e:f\ndata: a\n\n", [(b"e:f", b"a")]),
        (b"data: a\nevent:e\n\n", [(b"e", b"a")]),
        (b"event: e\n\ndata: a\n\n", [(b"", b"a")]),
        (b"id: 1\nretry: 3\nother\ndata: a\n\n", [(b"", b"a")]),
        (b": comment\n\n: another\ndata: a\n\n", [(b"", b"a")]),
        (b" data: a\n\n", []),
        (b"Data: a\n\n", []),
        (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [(b"", b"a"), (b"", b"b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"", b"a")]),
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [(b"", b"b")]),
        (b"data: \xef\xbb\xbf\n\n", [(b"", b"\xef\xbb\xbf")]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\r\ndata: d\r\n\n", [(b"", bytes([c])) for c in b"abcd"]),
        (b"data: a\rdata: b\r\ndata: c\n\r\n", [(b"", b"a\nb\nc")]),
        (b"data: \x00\n\n", [(b"", b"\x00")]),
        ("data: é🎉\n\n".encode(), [(b"", "é🎉".encode())]),
        (b"data: a\n\ndata: never closed\n", [(b"", b"a")]),
        (b"", []),
    ],
)
def test_events_are_read_as_the_standard_says_however_they_are_cut(raw: bytes, expected: list[Event]) -> None:
    assert decode(raw) == expected
    assert decode(*(raw[at : at + 1] for at in range(len(raw)))) == expected
    for cut in range(len(raw)):
        assert decode(raw[:cut], raw[cut:]) == expected
        assert decode(raw[:cut], b"", raw[cut:]) == expected


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]))), st.data())
def test_what_was_encoded_comes_back(texts: list[str], data: st.DataObject) -> None:
    raw = b"".join(encode(text.encode()) for text in texts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)))))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert [event[1].decode() for event in decode(*pieces)] == texts


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"data: x", b"data", b":", b" ", b"event: e", b"\xef\xbb\xbf", b"\x00"]))
)
def test_any_bytes_read_the_same_however_they_are_cut(pieces: list[bytes]) -> None:
    raw = b"".join(pieces)
    assert decode(*pieces) == decode(raw) == decode(*(raw[at : at + 1] for at in range(len(raw))))


def by_the_standard(raw: bytes) -> list[Event]:
    """The standard's algorithm as it stands there, line by line."""
    *lines, _ = re.split(rb"\r\n|\n|\r", raw.removeprefix(b"\xef\xbb\xbf"))
    events: list[Event] = []
    name: bytes = b""
    data: list[bytes] = []
    for line in lines:
        field, _, value = line.partition(b":")
        if not line:
            if data:
                events.append((name, b"\n".join(data)))
            name, data = b"", []
        elif field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return events


SHREDS = (
    *(b"\r", b"\n", b"\r\n", b"\n\n", b"data: x", b"data:", b"data", b":", b" ", b"event: e", b"\xef\xbb\xbf"),
    *(
        b"\x00",
        b"\xc3",
        b"\xa9",
        b"\xf0\x9f\x8e",
        b"\x89",
        b"id: 1",
        b"retry: 5",
        b'{"a":1}',
        b"[DONE]",
        b"\xff",
        b"x" * 99,
    ),
)


@pytest.mark.parametrize("streams", [20_000, pytest.param(1_000_000, marks=pytest.mark.soak)])
@pytest.mark.timeout(7200)
def test_malformed_streams_are_read_as_the_standard_says_however_they_are_cut(streams: int) -> None:
    """E13, by a seed."""
    chance = random.Random(13)
    for _ in range(streams):
        raw = b"".join(chance.choices(SHREDS, k=chance.randrange(1, 25)))
        cuts = sorted(chance.randrange(len(raw) + 1) for _ in range(chance.randrange(4)))
        pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
        # A last CR may yet be half of a line's end.
        assert decode(*pieces) == by_the_standard(raw), (raw, cuts)


def test_the_end_gives_what_was_not_closed() -> None:
    decoder = Decoder()
    assert decoder.feed(b"data: a\n\nevent: e\ndata: b") == [(b"", b"a")]
    assert decoder.end() == (b"e", b"b")
    assert Decoder().end() is None


LONGEST = b"data: " + b"x" * (MAX_EVENT - 6)


def test_the_longest_event_is_read() -> None:
    assert decode(LONGEST + b"\n\n") == decode(LONGEST[:9], LONGEST[9:], b"\n", b"\n") == [(b"", LONGEST[6:])]


@pytest.mark.parametrize(
    "pieces",
    [
        [b"data: a\n\n" + LONGEST + b"x\n\n" + b"data: b\n\n"],
        [b"data: a\n\n", LONGEST + b"x\n\n", b"data: b\n\n"],
        [b"data: a\n\n", LONGEST, b"x\n", b"\n", b"data: b\n\n"],
        [b"data: a\n\n" + LONGEST + b"xxx", b"x" * MAX_EVENT, b"\n\ndata: b\n\n"],
        [b"data: a\n\n", *[b"data: x\n" * 100_000] * 22, b"data: b\n\n"],
        [b"data: a\n\n", *[b": comment\n" * 100_000] * 18, b"data: b\n\n"],
    ],
    ids=range(6),
)
def test_an_event_above_the_limit_breaks_it_after_what_came_before(pieces: list[bytes]) -> None:
    decoder = Decoder()
    assert [event for piece in pieces for event in decoder.feed(piece)] == [(b"", b"a")]
    assert isinstance(decoder.broken, ProtocolError)
    assert decoder.end() is None


def test_a_long_line_in_small_pieces_takes_no_longer_than_it_must() -> None:
    decoder = Decoder()
    for _ in range(100_000):
        assert decoder.feed(b"xxxxxxxxxx") == [] or decoder.broken
    assert decoder.feed(b"x" * MAX_EVENT) == []
    assert decoder.broken is not None


def test_json_over_lines_is_encoded_as_one_line() -> None:
    assert encode(b'{\n"a": 1\n}') == b'data: { "a": 1 }\n\n'
