"""Messages on both sides: events of a stream that pass without being read whole."""

import itertools
import json
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.wire.messages import PING, STREAM, TEXT, asked, block, event, finish, start
from tests.wire.streams import Text, told

from tollbridge.wire import anthropic_passing
from tollbridge.wire.anthropic_reply import read_event
from tollbridge.wire.exchange import Stream

DELTAS = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}


def delta(text: str, member: str = "text", index: int = 0, **more: Any) -> bytes:
    return event("content_block_delta", index=index, delta={"type": DELTAS[member], **more, member: text})


def spaced(data: bytes) -> bytes:
    """As other servers write it: spaces after commas and colons."""
    name, _, payload = data.partition(b"\ndata: ")
    return name + b"\ndata: " + json.dumps(json.loads(payload)).encode() + b"\n\n"


FORMS: list[Callable[[bytes], bytes]] = [bytes, spaced]


def reads(stream: Stream, data: bytes) -> tuple[bytes, int]:
    """What passes, and how many events were read whole for that."""
    with mock.patch("tollbridge.wire.anthropic_passing.read_event", side_effect=read_event) as reader:
        out = stream.feed(data)
    return out, reader.call_count


def taught(member: str = "text") -> Stream:
    """A stream that has learnt."""
    stream = asked().stream(Text())
    stream.feed(start() + event("content_block_start", index=0, content_block=TEXT))
    assert reads(stream, delta("a", member)) == (delta("a", member), 2)  # it and the probe
    return stream


@pytest.mark.parametrize("member", DELTAS)
@pytest.mark.parametrize("form", FORMS)
def test_the_second_plain_event_is_not_read_whole(member: str, form: Any) -> None:
    output = Text()
    stream = asked().stream(output)
    stream.feed(start())
    texts = ["Once", " upon", 'q"\u00e9\n\\/', "\U0001f389", '"text":"x"', '"}}', "probe"]
    whole = []
    for text in texts:
        out, count = reads(stream, form(delta(text, member)))
        assert out == form(delta(text, member))
        whole.append(count)
    assert whole == [2, 0, 0, 0, 0, 0, 0]
    assert stream.chunks == len(texts)
    assert stream.output is output
    assert output.text.decode() == "".join(texts)


def test_however_many_spaces_hide_its_length_an_event_is_plain() -> None:
    stream = taught()
    for spaces in (b"}}", b"} }", b" }}", b" }      }"):
        data = delta("b").replace(b"}   }", spaces)
        assert reads(stream, data) == (data, 0)


@pytest.mark.parametrize(
    "data",
    [
        delta(""),
        delta("b", index=1),
        delta("b", note="x"),
        delta("b", "thinking"),
        delta("b") + delta("c"),
        delta("b").replace(b'"b"', b'"b","text":"c"'),
        delta("b").replace(b'"b"', b'"b","partial_json":"c"'),
        delta("b").replace(b'"b"', b'"b" "'),
        delta("b").replace(b'"b"', b'"\\ud83d"'),
        delta("b").replace(b'"b"', b'"\xff"'),
        delta("b").replace(b'"b"', b'"b\\"'),
        delta("b").replace(b"}\n\n", b"}\n \n"),
        delta("b").replace(b"}\n\n", b"} \n\n"),
        delta("b").replace(b"}\n\n", b"}}\n\n"),
        delta("x" * 70_000),
        delta("b")[:-1],
        PING,
        finish(),
    ],
)
def test_what_is_not_plain_is_read_whole_and_leaves_what_was_learnt_as_it_was(data: bytes) -> None:
    stream, other = taught(), taught()
    other._before = b""  # type: ignore[attr-defined]
    out, count = reads(stream, data)
    assert (out, stream.chunks, str(stream.failed)) == (other.feed(data), other.chunks, str(other.failed))
    assert count or not data.endswith(b"}\n\n")
    assert (stream.feed(delta("d")), stream.chunks) == (other.feed(delta("d")), other.chunks)


def test_nothing_passes_after_the_end_was_announced_or_made() -> None:
    for end in (event("message_stop"), event("error", error={"type": "api_error", "message": "x"})):
        stream = taught()
        assert stream.feed(end) == b""
        assert stream.feed(delta("late")) == b""
        assert stream.chunks == 1
    stream = taught()
    stream.stop("the credit ran out")
    assert stream.feed(delta("late")) == b""


@pytest.mark.parametrize(
    "odd",
    [
        delta("b").replace(b'"text":"b"', b'"text":"b","thinking":"c"'),
        delta("b").replace(b'"text":"b"', b'"text":"b","more":{"text":"c"}'),
        delta("b").replace(b'"index":0,"delta"', b'"delta"').replace(b"}   }", b'},"index":0}'),
        delta("b").replace(b'"text":"b"', b'"partial_json":"b","thinking":"c"'),
        delta("b").replace(b'"delta"', b'"other"'),
        event("vibe", delta={"text": "b"}),
        event("content_block_delta", index=0, delta={"type": "x"}, other={"text": "b"}),
        delta("b", "partial_json", note="x").replace(b'"note"', rb'"\u0074ext"'),
    ],
)
def test_what_cannot_be_told_is_not_learnt(odd: bytes) -> None:
    stream = asked().stream(Text())
    stream.feed(start() + odd)
    stream.feed(odd)
    assert reads(stream, odd)[1]


def test_only_what_a_block_says_is_a_text() -> None:
    data = delta("b")
    assert data.startswith(before := anthropic_passing.before_text(data))
    assert before.endswith(b'"text":"')
    assert anthropic_passing.before_text(data.replace(b'"type":"content_block_delta"', b'"type":"vibe"')) == b""


# --- Whatever comes ---

texts = st.one_of(
    st.text(max_size=6),
    st.sampled_from(["", " the", "\u00e9", "\U0001f389", '"', "\\", "probe", "\r", "\n\n", '"}}\n\n', "x" * 300]),
)
raw_texts = st.sampled_from(
    [
        *(rb'"\ud83d"', rb'"\ude00"', rb'"\ud83d\ude00"', rb'"\u0000"', rb'"\x"', rb'"\"', rb'"\\"', b'"a\nb"'),
        *(b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"a\x00"', b'"a" ', b'"a"\n', b'"a"\r', b'"a\rb"', b'"a"}'),
        *(b' "a"', b'"a","b":"c"', b'"a"b"', b'"', b"null", b"7", b"[]", b'"a"}}\n\nevent: ping\ndata: {"b":"c"'),
    ]
)


@st.composite
def bodies(draw: st.DrawFn) -> list[bytes]:
    """The events of one server, in order: most of them plain."""
    form = draw(st.sampled_from([FORMS[0], *FORMS]))
    member = draw(st.sampled_from([*DELTAS, "text"]))

    def one() -> bytes:
        kind = draw(st.sampled_from(["plain"] * 12 + ["raw", "raw", "bent", "odd"]))
        if kind == "plain":
            return form(delta(draw(texts), member, draw(st.sampled_from([0, 0, 0, 1]))))
        if kind == "raw":
            return form(delta("@", member)).replace(b'"@"', draw(raw_texts))
        if kind == "bent":
            whole = delta("some text", member)
            at, to = draw(st.integers(0, len(whole))), draw(st.integers(0, 2))
            bent = draw(st.sampled_from([b"", b'"', b"\\", b"x", b" ", b"\n", b"\r", b"}", b"\xc3"]))
            return whole[:at] + bent + whole[at + to :]
        return draw(
            st.sampled_from(
                [
                    *(PING, finish(), b"\n", b"\r", b"event: x\n", b"data: ", b": comment\n\n", b"\xef\xbb\xbf"),
                    *(block(1, TEXT, {"type": "text_delta", "text": "t"}), start(), event("message_stop")),
                    *(event("error", error={"type": "api_error", "message": "x"}), delta("t", thinking="u")),
                ]
            )
        )

    return [start(), *(one() for _ in range(draw(st.integers(3, 25))))]


def says_the_same(pieces: list[bytes], stop_at: int) -> None:
    learnt, whole = Text(), Text()
    with mock.patch.object(anthropic_passing, "before_text", return_value=b""):
        expected = told(asked().stream(whole), whole, pieces, stop_at)
    assert told(asked().stream(learnt), learnt, pieces, stop_at) == expected


@settings(max_examples=400)
@given(bodies(), st.lists(st.integers(0, 5_000), max_size=3), st.integers(-20, 20))
def test_what_is_learnt_changes_nothing(events: list[bytes], cuts: list[int], stop_at: int) -> None:
    says_the_same(events, stop_at)
    body = b"".join(events)
    ends = sorted({0, len(body), *(min(at, len(body)) for at in cuts), *itertools.accumulate(map(len, events[::2]))})
    says_the_same([body[begin:end] for begin, end in itertools.pairwise(ends)], stop_at)


def test_a_stream_of_many_kinds_of_blocks_is_the_same_event_by_event() -> None:
    says_the_same([each + b"\n\n" for each in STREAM.split(b"\n\n")[:-1]], -1)
