"""A stream that learns what its plain events have in common says the same as one that reads each of them whole."""

import itertools
import json
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.wire.streams import ID, MODEL, Text, stream_of, told

from tollbridge.wire.exchange import Stream
from tollbridge.wire.openai_plain import around_text
from tollbridge.wire.openai_reply import read_chunk
from tollbridge.wire.sse import MAX_EVENT

USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
THEIRS = {"id": "chatcmpl-x1", "object": "chat.completion.chunk", "created": 5, "model": "m-1"}
OURS = THEIRS | {"id": ID, "model": MODEL}
DONE = b"data: [DONE]\n\n"
# Where servers put the names, and whether they hide how long the text is.
FORMS = ("names first", "names last", "one on each side", "padded", "padded, names last")


def event(form: str, text: str = "", head: dict[str, Any] = THEIRS, spaced: bool = False, **more: Any) -> bytes:
    delta = more.pop("delta", {"content": text})
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} | more.pop("choice", {})
    padding = {"obfuscation": more.pop("padding", "x7")}
    if not form.startswith("padded"):
        padding = {}
    choices = {"choices": [choice], "usage": None}
    if form.endswith("names last"):
        members = choices | more | padding | head
    elif form == "one on each side":
        members = {"id": head["id"]} | choices | head | more
    else:
        members = head | choices | more | padding
    return framed(members, spaced)


def framed(members: Any, spaced: bool = False) -> bytes:
    separators = None if spaced else (",", ":")
    return b"data: %b\n\n" % json.dumps(members, separators=separators, ensure_ascii=False).encode("utf-8", "replace")


def reads(stream: Stream, data: bytes) -> tuple[bytes, int]:
    """What passes, and how many events were read whole for that."""
    with mock.patch("tollbridge.wire.openai_stream.read_chunk", side_effect=read_chunk) as reader:
        out = stream.feed(data)
    return out, reader.call_count


def unlearning(stream: Stream) -> Stream:
    """It reads each event whole."""
    stream._learn = lambda _data: None  # type: ignore[attr-defined]
    return stream


def taught(form: str = "names first", **wishes: Any) -> Stream:
    """A stream that has learnt."""
    stream = stream_of(**wishes)
    assert stream.feed(event(form, "a") + event(form, "b"))
    return stream


# --- It is learnt, and from nothing else ---


@pytest.mark.parametrize("spaced", [False, True])
@pytest.mark.parametrize("asked", [None, True, False])
@pytest.mark.parametrize("form", FORMS[:-1])
def test_the_third_plain_event_is_not_read_whole(form: str, asked: bool | None, spaced: bool) -> None:
    output = Text()
    stream = stream_of(asked=asked, output=output)
    texts = ["Once", " upon", 'q"é\n\\/', "\U0001f389", "[DONE]", "m-1", '"id":"chatcmpl-x1"']
    whole = []
    for number, text in enumerate(texts):
        padding = "x" * (number + 1)
        out, count = reads(stream, event(form, text, spaced=spaced, padding=padding))
        assert out == event(form, text, OURS, spaced, padding=padding)
        whole.append(count)
    assert whole == [1, 2, 0, 0, 0, 0, 0]  # the second and the probe
    assert stream.chunks == len(texts)
    assert stream.output.tokens > 0
    assert output.text.decode() == "".join(texts)


@pytest.mark.parametrize(
    "delta",
    [
        {"content": None, "reasoning_content": "t"},
        {"reasoning": "t"},
        {"role": "assistant", "content": "t"},
        {"tool_calls": [{"index": 0, "function": {"arguments": "t"}}]},
    ],
)
def test_other_texts_are_learnt_too(delta: dict[str, Any]) -> None:
    stream = stream_of()
    stream.feed(event("names first", delta=delta) * 2)
    assert reads(stream, event("names first", delta=delta)) == (event("names first", delta=delta, head=OURS), 0)


def test_all_events_of_a_read_pass_at_once() -> None:
    output = Text()
    stream = taught(output=output)
    data = [event("names first", text) for text in "cdefg"]
    assert reads(stream, b"".join(data)) == (b"".join(event("names first", text, OURS) for text in "cdefg"), 0)
    assert stream.chunks == 7
    assert stream.output.tokens > 0
    assert output.text == b"abcdefg"


@pytest.mark.parametrize(
    "data",
    [
        event("names first", choice={"finish_reason": "stop"}, text="t"),
        event("names first", "t", usage=USAGE),
        event("names first", "t", error={"message": "no"}),
        event("names first", "t", note="x" * 9000),
        event("names first", delta={"content": "t", "refusal": "u"}),
        event("names first", delta={"content": "t", "reasoning": "u"}),
        event("names first", delta={"content": "t"}).replace(b'"content":"t"', b'"content":"t","content":"u"'),
        event("names first", delta={"content": [{"type": "text", "text": "t"}, {"type": "text", "text": "u"}]}),
        event("names first", "probe", note="probe"),
        event("names last", "t", head=THEIRS | {"model": "probe"}),
        event("padded, names last", "t"),
    ],
)
def test_what_is_not_plain_is_not_learnt(data: bytes) -> None:
    for asked in (None, True, False):
        stream = stream_of(n=8, asked=asked)
        stream.feed(data * 3)
        again = data.replace(b'"t"', b'"v"')
        assert stream.failed is not None or reads(stream, again)[1] == 1


def test_other_events_between_plain_ones_of_a_read_pass_as_they_are() -> None:
    for form in ("names first", "names last", "padded"):
        for odd in (
            event(form, "o", THEIRS | {"created": 6}),
            event(form, "o", choice={"index": 1}),
            event(form, "o", choice={"finish_reason": "stop"}),
            event(form, "o").replace(b"data: ", b"data:"),
            event(form, "o").replace(b"x7", b'x7","extra":"y'),
            event(form, "o").replace(b'"o"', b'"o","extra":"y"'),
        ):
            stream = taught(form, asked=True, n=2)
            out = stream.feed(event(form, "c") + odd + event(form, "d"))
            framed_odd = odd.replace(b"data:{", b"data: {")
            ours = framed_odd.replace(b'"chatcmpl-x1"', b'"%b"' % ID.encode()).replace(
                b'"m-1"', b'"%b"' % MODEL.encode()
            )
            assert out == event(form, "c", OURS) + ours + event(form, "d", OURS)
            assert stream.chunks == 5


@pytest.mark.parametrize("padding", [b'x","error":{"message":"no"},"y":"z', b"\xff", b"x\ny", b'\\"', b'x"', b""])
def test_padding_is_read_too(padding: bytes) -> None:
    data = event("padded", "c").replace(b"x7", padding)
    learnt, other = taught("padded"), unlearning(stream_of())
    other.feed(event("padded", "a") + event("padded", "b"))
    assert reads(learnt, data)[0] == other.feed(data)
    assert (learnt.chunks, str(learnt.failed)) == (other.chunks, str(other.failed))


def test_an_event_over_two_lines_teaches_nothing_about_one_with_a_line_end_in_it() -> None:
    data = event("names first", "t").replace(b",", b",\ndata: ", 1)
    stream = stream_of()
    assert stream.feed(data * 3) == event("names first", "t", OURS).replace(b",", b", ", 1) * 3
    assert stream.feed(data.replace(b"\ndata: ", b"\n")) == b""
    assert stream.failed is not None


@pytest.mark.parametrize("between", [event("names first", choice={"finish_reason": "stop"}), framed({"choices": []})])
def test_nothing_plain_passes_while_something_is_withheld(between: bytes) -> None:
    stream = taught(n=2)
    held = between.replace(b"[]", b'[],"note":1')
    assert stream.feed(held) == b""
    out, whole = reads(stream, event("names first", "c"))
    assert whole
    assert b'"note":1' in out or b'"stop"' in out
    assert reads(stream, event("names first", "d")) == (event("names first", "d", OURS), 0)


def test_what_cannot_be_learnt_does_not_leave_what_was_learnt_before_it_unwatched() -> None:
    stream = taught(n=2)
    stream.feed(event("names first", "a", note="probe") * 2)
    stream.feed(event("names first", choice={"finish_reason": "stop"}))
    assert b'"stop"' in stream.feed(event("names first", "c"))


def test_nothing_passes_after_the_end_was_announced_or_made() -> None:
    stream = taught()
    stream.feed(DONE)
    assert stream.feed(event("names first", "late")) == b""
    stream = taught()
    stream.stop("the credit ran out")
    assert stream.feed(event("names first", "late")) == b""
    stream = taught()
    stream.feed(framed({"error": "secret"}))
    assert stream.feed(event("names first", "late")) == b""
    assert stream.chunks == 2


def test_a_plain_event_above_the_limit_breaks_the_stream_as_any_other() -> None:
    stream = taught()
    assert stream.feed(event("names first", "x" * MAX_EVENT)) == b""
    assert stream.failed is not None


def test_the_time_that_events_of_our_own_bear_is_that_of_the_last_event() -> None:
    for end in (6, 5):
        stream = taught(asked=True)
        for created in (6, 5, end):
            stream.feed(event("names first", "c", THEIRS | {"created": created}))
        assert b'"created":%d' % end in stream.stop("the credit ran out")


def test_what_stands_around_a_text_with_any_escapes_is_found() -> None:
    for text in (rb"\\", rb"\"", rb"\\\"content\":\"", rb"\u0022", b"a" * 4000, rb"\n" * 2000):
        around = around_text(b'{"content": "%b","x":"y"}' % text)
        assert around is not None
        assert (around.before, around.after) == (b'{"content": "', b'","x":"y"}')


# --- Whatever comes ---

texts = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["", " the", "é", "\U0001f389", '"', "\\", "probe", "data: [DONE]\n\n", '","content":"', "x" * 300]
    ),
)
# What stands for the text in the bytes of an event, its quotes included: some of it is not JSON, or not one string.
raw_texts = st.sampled_from(
    [
        *(rb'"\ud83d"', rb'"\ude00"', rb'"\ud83d\ude00"', rb'"\u0000"', rb'"\x"', rb'"\"', rb'"\\"', rb'"a\nb"'),
        *(b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"a\nb"', b'"a\x00"', b'"a" ', b'"a"\n', b'"a"\r', b'"a\rb"'),
        *(b' "a"', b'"a","b":"c"', b'"a"b"', b'"', b"null", b"7", b"[]", b'"a"\n\ndata: {"choices":[]}\n\n"b"'),
    ]
)


@st.composite
def bodies(draw: st.DrawFn) -> list[bytes]:
    """The events of one server, in order: most of them plain."""
    form = draw(st.sampled_from(FORMS))
    spaced = draw(st.booleans())
    member = draw(st.sampled_from(["content", "content", "reasoning_content", "reasoning"]))
    many = draw(st.booleans())

    def plain(text: str, **more: Any) -> bytes:
        padding = draw(st.sampled_from(["a", "bC", "d3f"]))
        return event(form, delta={member: text}, spaced=spaced, padding=padding, **more)

    def one() -> bytes:
        kind = draw(st.sampled_from(["plain"] * 12 + ["raw", "raw", "bent", "odd", "rare"]))
        if kind == "plain":
            return plain(draw(texts), **({"choice": {"index": draw(st.integers(0, 1))}} if many else {}))
        if kind == "raw":
            return plain("@").replace(b'"@"', draw(raw_texts))
        if kind == "bent":
            bytes_ = plain("some text")
            at, to = draw(st.integers(0, len(bytes_))), draw(st.integers(0, 2))
            return bytes_[:at] + draw(st.sampled_from([b"", b'"', b"\\", b"x", b"\n", b"\xc3"])) + bytes_[at + to :]
        if kind == "odd":
            return draw(
                st.sampled_from(
                    [
                        plain("u", usage=USAGE),
                        plain("", usage=USAGE),
                        plain("t", choice={"usage": USAGE}),
                        plain("i", choice={"index": 1}),
                        plain("n", created=6),
                        plain("p", note="probe"),
                        plain("", choice={"finish_reason": "stop"}),
                        plain("f", choice={"finish_reason": "length", "index": 1}),
                        event(form, delta={"content": "c", "reasoning": "r"}),
                        event(form, delta={"tool_calls": [{"index": 0, "function": {"name": "n", "arguments": "{"}}]}),
                        framed(THEIRS | {"choices": [], "note": [1]}),
                        framed({"choices": [], "usage": USAGE}),
                        framed({"choices": [{"delta": {"content": "bare"}}]}),
                    ]
                )
            )
        return draw(
            st.sampled_from(
                [
                    *(DONE, b": comment\n\n", b"\n", b"\r", b"event: x\n", b"data: ", b"\xef\xbb\xbf"),
                    *(framed({"error": "no"}), plain("e", choice={"finish_reason": "error"}), b"event: error\n"),
                ]
            )
        )

    return [one() for _ in range(draw(st.integers(3, 25)))]


def says_the_same(asked: bool | None, choices: int, pieces: list[bytes], stop_at: int) -> None:
    both = []
    for learns in (True, False):
        output = Text()
        stream = stream_of(asked=asked, n=choices, output=output)
        both.append(told(stream if learns else unlearning(stream), output, pieces, stop_at))
    assert both[0] == both[1]


def cut(events: list[bytes], draw: st.DrawFn) -> list[bytes]:
    """Reads: mostly whole events, one or several at a time."""
    if draw(st.booleans()):
        return events
    body = b"".join(events)
    ends = [0]
    for each in events:
        ends.append(ends[-1] + len(each))
    cuts = set(
        draw(st.lists(st.sampled_from(ends), max_size=12)) + draw(st.lists(st.integers(0, len(body)), max_size=2))
    )
    cuts |= {0, len(body)}
    order = sorted(cuts)
    return [body[start:end] for start, end in itertools.pairwise(order)]


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    return cut(draw(bodies()), draw)


each_wish = st.sampled_from([None, True, False])


@settings(max_examples=400)
@given(each_wish, st.integers(1, 2), streams(), st.integers(-20, 20))
@example(None, 1, [event("names first", "a")] * 3 + [event("names first", "a").replace(b'"a"', b'"a"\n')], -1)
def test_what_is_learnt_changes_nothing(asked: bool | None, choices: int, pieces: list[bytes], stop_at: int) -> None:
    says_the_same(asked, choices, pieces, stop_at)


@pytest.mark.soak
@pytest.mark.timeout(7200)
@settings(max_examples=50_000)
@given(each_wish, st.integers(1, 2), streams(), st.integers(-20, 20))
def test_what_is_learnt_changes_nothing_soak(
    asked: bool | None, choices: int, pieces: list[bytes], stop_at: int
) -> None:
    says_the_same(asked, choices, pieces, stop_at)
