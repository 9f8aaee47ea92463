import json
import string
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.wire.streams import (
    CREATED,
    ID,
    MODEL,
    MONEY,
    RECEIPT,
    TRANSCRIPTS,
    Text,
    Transcript,
    events,
    stream_of,
    text_of,
)

from tollbridge.errors import ProtocolError, UpstreamFailed
from tollbridge.values import Usage
from tollbridge.wire.errors import UpstreamSaid
from tollbridge.wire.exchange import Receipt, Stream
from tollbridge.wire.sse import MAX_EVENT

BROKE_OFF = UpstreamFailed("The provider broke off.")
each_transcript = pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)
each_wish = pytest.mark.parametrize("asked", [None, True, False], ids=["says nothing", "asks", "refuses"])


def meters(usage: Usage | None) -> tuple[int, int, int, int]:
    assert usage is not None
    return usage.prompt, usage.cache_read, usage.output, usage.reasoning


def complete(stream: Stream) -> bool:
    return stream.complete


def suspect(stream: Stream) -> bool:
    return stream.suspect


def run(stream: Stream, pieces: list[bytes], receipt: Receipt | None = RECEIPT) -> bytes:
    out = b"".join([*(stream.feed(piece) for piece in pieces), stream.eof()])
    assert stream.failed is None
    return out + stream.end(receipt)


def chunk(content: str = "", finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    return sse(
        {"id": "x1", "object": "chat.completion.chunk", "created": 5, "model": "m1", "choices": [choice], **more}
    )


def sse(*payloads: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(payload, separators=(",", ":")).encode() + b"\n\n" for payload in payloads)


DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}


# --- What each provider sends ---


@each_wish
@each_transcript
def test_every_provider_is_read_and_passed_on(transcript: Transcript, asked: bool | None) -> None:
    text = Text()
    stream = stream_of(transcript.endpoint, asked, output=text)
    read = events(run(stream, [transcript.raw]))
    assert text_of(read) == transcript.text
    assert stream.output.tokens > 0
    assert text.text.decode() == transcript.text
    assert stream.finish == transcript.finish
    assert complete(stream)
    assert stream.done
    assert not suspect(stream)
    assert meters(stream.usage) == transcript.usage
    assert read.pop() == "[DONE]"
    assert {event["id"] for event in read} == {ID}
    assert {event["model"] for event in read} == {MODEL}
    assert {event["created"] for event in read} <= {1749999999, 0}
    finishes = [choice["finish_reason"] for event in read for choice in event["choices"] if choice["finish_reason"]]
    assert set(finishes) == {transcript.finish}


@each_wish
@each_transcript
def test_usage_stands_where_the_caller_expects_it(transcript: Transcript, asked: bool | None) -> None:
    read = events(run(stream_of(transcript.endpoint, asked), [transcript.raw]))[:-1]
    if asked:
        *chunks, tail = read
        assert tail["choices"] == []
        assert all(event.get("usage") is None for event in chunks if event["choices"] and finishes(event))
    else:
        assert all(event["choices"] for event in read)
        *chunks, tail = read
        if asked is False:
            assert all("usage" not in event or event["usage"] is None for event in read)
            return
        assert finishes(tail)
        assert all(event.get("usage") is None for event in chunks if finishes(event))
    prompt, cached, output, _ = transcript.usage
    usage = tail["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (prompt, output)
    assert usage["total_tokens"] == prompt + output
    assert (usage["cost"], usage["balance"]) == (0.000123, 9.999877)
    assert usage["cost_details"] == MONEY["cost_details"]
    assert usage.get("prompt_tokens_details", {}).get("cached_tokens", 0) == cached


def finishes(event: Any) -> bool:
    return any(choice["finish_reason"] for choice in event["choices"])


# --- However it is cut ---


@each_wish
@each_transcript
def test_a_cut_at_any_byte_changes_nothing(transcript: Transcript, asked: bool | None) -> None:
    whole = run(stream_of(transcript.endpoint, asked), [transcript.raw])
    for cut in range(len(transcript.raw) + 1):
        stream = stream_of(transcript.endpoint, asked)
        assert run(stream, [transcript.raw[:cut], transcript.raw[cut:]]) == whole
        assert meters(stream.usage) == transcript.usage


@each_transcript
@each_wish
def test_byte_by_byte_it_is_the_same(transcript: Transcript, asked: bool | None) -> None:
    whole = run(stream_of(transcript.endpoint, asked), [transcript.raw])
    pieces = [transcript.raw[at : at + 1] for at in range(len(transcript.raw))]
    text = Text()
    assert run(stream_of(transcript.endpoint, asked, output=text), pieces) == whole


@given(st.sampled_from(TRANSCRIPTS), st.sampled_from([None, True, False]), st.data())
def test_many_cuts_and_other_line_ends_change_nothing(
    transcript: Transcript, asked: bool | None, data: st.DataObject
) -> None:
    whole = run(stream_of(transcript.endpoint, asked), [transcript.raw])
    ends = data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    raw = transcript.raw.replace(b"\r\n", b"\n").replace(b"\n", ends)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=12)))
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert run(stream_of(transcript.endpoint, asked), pieces) == whole


# --- What passes, passes as it is ---

names = st.text(string.ascii_letters + '/-"\\é', max_size=6)
contents = st.one_of(
    st.text(),
    st.sampled_from(
        ['"id":"x"', '{"id":"x1","model":"m1"}', "x1", '"m1"', '\\"model\\":\\"m1\\"', '"', "data: [DONE]", "\n\n"]
    ),
)


@given(
    theirs=st.tuples(names, names), texts=st.lists(contents, min_size=1), odd=st.booleans(), ascii_only=st.booleans()
)
def test_only_id_and_model_change_whatever_the_text_looks_like(
    theirs: tuple[str, str], texts: list[str], odd: bool, ascii_only: bool
) -> None:
    def event(name: str, model: str, text: str) -> bytes:
        call = {"index": 0, "id": theirs[0], "function": {"name": theirs[1], "arguments": text}}
        members = {
            "object": "chat.completion.chunk",
            "model": model,
            "id": name,
            "created": 5,
            "choices": [
                {"index": 0, "delta": {"content": text, "tool_calls": [call]}, "finish_reason": None, "x": theirs}
            ],
            "usage": None,
        }
        if odd:
            members = dict(reversed(members.items()))
        return b"data: " + json.dumps(members, separators=(",", ":"), ensure_ascii=ascii_only).encode() + b"\n\n"

    received = [event(*theirs, text) for text in texts]
    expected = [event(ID, MODEL, text) for text in texts]
    output = Text()
    stream = stream_of(output=output)
    assert b"".join(map(stream.feed, received)) == b"".join(expected)
    assert stream.output.tokens >= 0
    assert output.text.decode() == "".join(text + theirs[1] + text for text in texts)


def test_white_space_between_members_stays() -> None:
    data = b'data: { "id" : "x1",  "object":"o","created": 1, "model":\t"m1","choices":[ {"index":0,"delta":{} } ]}\n\n'
    expected = data.replace(b'"x1"', f'"{ID}"'.encode()).replace(b'"m1"', f'"{MODEL}"'.encode())
    assert stream_of().feed(data) == expected


def test_half_a_surrogate_pair_passes_as_it_is() -> None:
    text = Text()
    stream = stream_of(output=text)
    first, second = (chunk().replace(b'"content":""', b'"content":"%s"' % half) for half in (rb"\ud83d", rb"\ude00"))
    out = stream.feed(first) + stream.feed(second)
    assert rb'"content":"\ud83d"' in out
    assert rb'"content":"\ude00"' in out
    assert stream.output.tokens > 0


def test_events_over_several_lines_become_one_line() -> None:
    stream = stream_of()
    pretty = json.dumps(json.loads(chunk("a")[6:]), indent=1)
    data = "".join(f"data:{line}\n" for line in pretty.split("\n")) + "\n"
    assert text_of(events(stream.feed(data.encode()))) == "a"


def test_comments_and_other_fields_of_the_provider_do_not_pass() -> None:
    out = stream_of().feed(b": PROVIDER PROCESSING\nid: 7\nretry: 10\nevent: message\n" + chunk("a"))
    assert len(events(out)) == 1
    assert b"PROVIDER" not in out


# --- What clients need is there ---


def test_what_the_server_left_out_is_added() -> None:
    stream = stream_of()
    (event,) = events(stream.feed(sse({"choices": [{"delta": {"content": "a"}}, {"delta": None}]})))
    assert event["id"] == ID
    assert event["model"] == MODEL
    assert event["created"] == CREATED
    assert event["object"] == "chat.completion.chunk"
    assert [choice["index"] for choice in event["choices"]] == [0, 1]
    assert event["choices"][1]["delta"] == {}


def test_null_id_and_model_are_replaced() -> None:
    (event,) = events(stream_of().feed(chunk("a", id=None, model=None)))
    assert (event["id"], event["model"]) == (ID, MODEL)


def test_numbers_as_id_do_not_touch_other_numbers() -> None:
    stream = stream_of()
    for number in (5, 9, 97, 976, 9):
        event = {"created": 15, "object": "o", "model": "m1", "id": number}
        choice = {"index": 0, "delta": {"content": "a"}, "finish_reason": None}
        assert events(stream.feed(sse(event | {"choices": [choice]}))) == [
            event | {"id": ID, "model": MODEL, "choices": [choice]}
        ]


def test_usage_is_refused_in_every_choice() -> None:
    choices = [{"index": index, "delta": {"content": "a"}, "usage": USAGE} for index in range(3)]
    (event,) = events(stream_of(asked=False, n=3).feed(chunk(choices=choices, x_groq={"usage": USAGE}, usage=USAGE)))
    assert "usage" not in json.dumps(event)


def test_events_without_choices_do_not_pile_up() -> None:
    stream = stream_of()
    for number in range(1000):
        assert stream.feed(sse({"choices": [], f"x{number}": "x" * 1000})) == b""
    assert len(stream.feed(chunk("a"))) < 50_000


@pytest.mark.parametrize("asked", [None, False])
def test_what_an_event_without_choices_says_joins_the_next(asked: bool | None) -> None:
    stream = stream_of(asked=asked)
    assert stream.feed(sse({"id": "", "model": "", "choices": [], "prompt_filter_results": [{"a": 1}]})) == b""
    (event,) = events(stream.feed(chunk("a")))
    assert event["prompt_filter_results"] == [{"a": 1}]
    assert event["id"] == ID
    (event,) = events(stream.feed(chunk("b")))
    assert "prompt_filter_results" not in event


@each_wish
def test_an_event_whose_choices_are_null_has_none(asked: bool | None) -> None:
    stream = stream_of(asked=asked)
    out = stream.feed(chunk("a") + sse({"id": "x", "object": "", "model": "y", "choices": None}) + chunk("b", "stop"))
    out += stream.feed(DONE) + stream.end(RECEIPT)
    assert stream.failed is None
    assert text_of(events(out)) == "ab"
    assert all(event == "[DONE]" or isinstance(event["choices"], list) for event in events(out))


def test_all_choices_finish_before_it_is_complete() -> None:
    def event(index: int, finish: str | None) -> bytes:
        return chunk(choices=[{"index": index, "delta": {"content": str(index)}, "finish_reason": finish}])

    stream = stream_of(n=2)
    sent = events(stream.feed(event(0, None) + event(0, "stop")))
    assert not complete(stream)
    sent += events(stream.feed(event(1, None) + event(1, "length")))
    assert complete(stream)
    sent += events(stream.end(RECEIPT))
    assert [event["choices"][0]["index"] for event in sent[:-1]] == [0, 0, 1, 1]
    assert ["usage" in event for event in sent[:-1]] == [False, False, False, True]


# --- Usage (E9 to E12) ---


def test_usage_given_twice_counts_once_and_the_last_time() -> None:
    stream = stream_of(asked=True)
    out = stream.feed(chunk("a", usage={**USAGE, "completion_tokens": 1}) + chunk("", "stop", usage=USAGE))
    out += stream.feed(sse({"choices": [], "usage": {**USAGE, "completion_tokens": 9}}) + DONE)
    assert meters(stream.usage) == (10, 0, 9, 0)
    tails = [event for event in events(out + stream.end(RECEIPT)) if event != "[DONE]" and not event["choices"]]
    assert len(tails) == 1
    assert tails[0]["usage"]["completion_tokens"] == 9


def test_usage_after_the_end_was_announced_counts_and_nothing_else_does() -> None:
    stream = stream_of(asked=True)
    stream.feed(chunk("a", "stop") + DONE)
    assert stream.feed(chunk("late") + sse({"choices": [], "usage": USAGE}) + b"data: nonsense\n\n") == b""
    assert stream.failed is None
    assert meters(stream.usage) == (10, 0, 4, 0)
    assert stream.chunks == 1


def test_usage_without_a_choice_list_is_read() -> None:
    stream = stream_of()
    stream.feed(chunk("a", "stop") + sse({"usage": USAGE}))
    assert stream.failed is None
    assert meters(stream.usage) == (10, 0, 4, 0)


@pytest.mark.parametrize("bad", [-1, "4", True, 1e12, 4.5, [], {}])
def test_absurd_usage_is_not_believed_and_a_valid_one_before_it_stands(bad: Any) -> None:
    stream = stream_of(asked=True)
    stream.feed(chunk("a", "stop", usage={**USAGE, "completion_tokens": bad}))
    assert stream.usage is None
    assert suspect(stream)
    assert b"completion_tokens" in stream.reported
    stream.feed(sse({"choices": [], "usage": USAGE}))
    assert meters(stream.usage) == (10, 0, 4, 0)
    assert not suspect(stream)
    stream.feed(sse({"choices": [], "usage": {**USAGE, "prompt_tokens": bad}}))
    assert meters(stream.usage) == (10, 0, 4, 0)


def test_zero_usage_is_usage() -> None:
    stream = stream_of()
    stream.feed(chunk("a", "stop", usage={"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}))
    assert meters(stream.usage) == (0, 0, 0, 0)
    assert not suspect(stream)


@each_wish
def test_without_usage_what_was_counted_here_is_shown(asked: bool | None) -> None:
    stream = stream_of(asked=asked)
    receipt = msgspec.structs.replace(RECEIPT, usage=Usage(input=7, output=2, estimated=True))
    read = events(run(stream, [chunk("a"), chunk("b", "stop")], receipt))
    assert stream.usage is None
    assert not suspect(stream)
    assert complete(stream)
    assert not stream.done
    shown = [event["usage"] for event in read[:-1] if event.get("usage")]
    counted = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    assert shown == ([] if asked is False else [counted | MONEY])
    assert read[-1] == "[DONE]"


@each_wish
def test_without_usage_and_receipt_the_finish_still_comes(asked: bool | None) -> None:
    read = events(run(stream_of(asked=asked), [chunk("a"), chunk("", "stop"), DONE], None))
    assert [event["choices"][0]["finish_reason"] for event in read[:-1]] == [None, "stop"]


def test_usage_has_a_choice_to_ride_on_when_the_finish_is_already_out() -> None:
    stream = stream_of()
    out = stream.feed(chunk("a", "stop") + chunk("", usage=USAGE) + DONE)
    read = events(out + stream.end(RECEIPT))
    assert [event["choices"][0]["finish_reason"] for event in read[:-1]] == ["stop", None, "stop"]
    assert read[-2]["usage"]["completion_tokens"] == 4
    assert read[-2]["choices"][0]["delta"] == {}


def test_an_answer_that_never_said_why_it_ended_has_stopped() -> None:
    stream = stream_of()
    read = events(stream.feed(chunk("a") + chunk("", usage=USAGE) + DONE) + stream.end(RECEIPT))
    assert [event["choices"][0]["finish_reason"] for event in read[:-1]] == [None, None, "stop"]


def test_end_without_done_is_complete_when_a_finish_was_seen() -> None:
    stream = stream_of()
    stream.feed(chunk("a"))
    assert not complete(stream)
    stream.feed(chunk("", "stop"))
    assert complete(stream)


def test_last_event_counts_without_its_empty_line() -> None:
    stream = stream_of()
    assert stream.feed(chunk("a", "stop", usage=USAGE)[:-2]) == b""
    assert not complete(stream)
    stream.eof()
    assert complete(stream)
    assert meters(stream.usage) == (10, 0, 4, 0)


def test_truncated_last_event_is_dropped() -> None:
    stream = stream_of()
    out = stream.feed(chunk("a") + chunk("bcd", "stop")[:-9])
    assert stream.eof() == b""
    assert stream.failed is None
    assert not complete(stream)
    assert text_of(events(out)) == "a"


# --- What goes wrong (E8, E13, E19) ---

ERRORS = [
    sse({"error": {"message": "secret words", "type": "server_error", "code": 502}}),
    sse({"error": {"message": "secret words", "code": "overloaded"}, "choices": []}),
    sse({"error": "secret words"}),
    b"event: error\n" + sse({"code": "x", "message": "secret words"}),
    b"event: error\n" + sse({"error": {"type": "overloaded_error", "message": "secret words"}}),
    chunk("secret words", "error", error={"code": 429, "message": "secret words"}),
    chunk("secret words", "error"),
    chunk("secret words", "network_error"),
    sse({"choices": None, "base_resp": {"status_code": 1027, "status_msg": "secret words"}}),
    chunk("secret words", base_resp={"status_code": 1000, "status_msg": "unknown error"}),
    sse(
        json.loads(chunk("secret words")[6:])
        | {"choices": [{"index": 0, "delta": {}, "error": {"message": "secret words"}}]}
    ),
    sse(
        {
            "error": {
                "message": "Failed to call a function",
                "code": "tool_use_failed",
                "failed_generation": "secret words",
            }
        }
    ),
]


@each_wish
@pytest.mark.parametrize("error", ERRORS)
def test_error_text_is_never_output(error: bytes, asked: bool | None) -> None:
    text = Text()
    stream = stream_of(asked=asked, output=text)
    out = stream.feed(chunk("fine ")) + stream.feed(chunk("words") + error + chunk("after"))
    assert isinstance(stream.failed, UpstreamSaid)
    assert stream.feed(chunk("later")) == b""
    assert stream.eof() == b""
    out += stream.fail(BROKE_OFF)
    assert stream.output.tokens > 0
    assert text.text == b"fine words"
    assert text_of(events(out)) == "fine words"
    assert b"secret" not in out
    assert not complete(stream)


@each_wish
def test_broken_answer_ends_with_an_error_event_and_no_done(asked: bool | None) -> None:
    stream = stream_of(asked=asked)
    out = stream.feed(chunk("a"))
    *_, last = events(out + stream.fail(BROKE_OFF))
    assert last["error"] == {
        "message": "The provider broke off.",
        "type": "upstream_error",
        "param": None,
        "code": "upstream_unavailable",
    }
    assert last["choices"] == [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]
    assert (last["id"], last["model"], last["created"], last["object"]) == (ID, MODEL, 5, "chat.completion.chunk")


def test_broken_answer_gives_out_what_was_withheld() -> None:
    stream = stream_of()
    out = stream.feed(chunk("a")) + stream.feed(chunk("b", "stop", usage=USAGE))
    read = events(out + stream.fail(BROKE_OFF))
    assert text_of(read) == "ab"
    assert [choice["finish_reason"] for event in read for choice in event["choices"]] == [None, "stop", "error"]


def test_broken_completion_has_text() -> None:
    (last,) = events(stream_of("completions").fail(BROKE_OFF))
    assert last["choices"] == [{"index": 0, "text": "", "finish_reason": "error"}]
    assert last["object"] == "text_completion"


NONSENSE = [
    b"data: <html><body>Bad gateway</body></html>\n\n",
    b'data: "text"\n\n',
    b"data: [1]\n\n",
    b"data: 7\n\n",
    b"data: {}\n\n",
    b'data: {"object":"x","usage":null}\n\n',
    b'data: {"choices":{}}\n\n',
    b'data: {"choices":[7]}\n\n',
    b'data: {"choices":[{"delta":"text"}]}\n\n',
    b'data: {"choices":[{"delta":{},"finish_reason":7}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"a"},"x":"\xff"}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"a\x00"}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":NaN}}]}\n\n',
    b'data: {"choices":[{"delta":{"content":"a"}}]\n\n',
    b"data: " + b"[" * 100_000 + b"\n\n",
    b'data: {"choices":[{"delta":{"content":' + b"[" * 50_000 + b"]" * 50_000 + b"}}]}\n\n",
    b"data: " + b"x" * MAX_EVENT + b"\n\n",
    b'data: {"choices":[{"delta":{"content":"' + b"x" * MAX_EVENT,
    (b"data: " + b"x" * 100_000 + b"\n") * 170,
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_fails_after_what_came_before_it(nonsense: bytes) -> None:
    for pieces in ([chunk("a") + nonsense], [chunk("a"), nonsense], [chunk("a") + nonsense[:9], nonsense[9:]]):
        text = Text()
        stream = stream_of(output=text)
        out = b"".join(map(stream.feed, pieces))
        assert isinstance(stream.failed, ProtocolError)
        assert text_of(events(out)) == "a"
        assert stream.chunks == 1


@pytest.mark.parametrize(
    "page", [b"", b"<html>\n<body>\n\n502 Bad Gateway</body></html>\n\n", b": only\n\n: comments\n\n", b"{}", b"[]"]
)
def test_what_is_no_stream_at_all_makes_no_sense(page: bytes) -> None:
    stream = stream_of()
    assert stream.feed(page) == b""
    assert stream.eof() == b""
    assert isinstance(stream.failed, ProtocolError)


def test_error_in_json_instead_of_a_stream_is_understood() -> None:
    stream = stream_of()
    body = b'{"error": {"message": "Rate limit reached",\n\n "type": "rate_limit_error"}}'
    assert stream.feed(body[:20]) + stream.feed(body[20:]) + stream.eof() == b""
    assert isinstance(stream.failed, UpstreamSaid)
    assert stream.failed.status == 429


def test_events_that_are_none_of_ours_are_left_out() -> None:
    stream = stream_of()
    assert stream.feed(b'event: ping\ndata: {"type":"ping"}\n\n' + b"data:\n\n" + b"data: \n\n" + b"data\n\n") == b""
    assert stream.failed is None


def test_a_chunk_of_nothing_is_left_out() -> None:
    nothing = {"id": "x1", "object": "chat.completion.chunk", "created": 5, "model": "m1", "usage": None}
    stream = stream_of()
    assert text_of(events(stream.feed(sse(nothing) + chunk("a") + sse(nothing) + chunk("b", "stop")))) == "a"
    assert stream.failed is None


# --- Money runs out ---


@each_wish
def test_stop_ends_as_at_a_length_limit_and_says_why(asked: bool | None) -> None:
    stream = stream_of(asked=asked)
    out = stream.feed(chunk("a"))
    out += stream.stop("the credit ran out")
    assert complete(stream)
    assert stream.finish == "length"
    assert stream.feed(chunk("too late") + DONE) == b""
    receipt = Receipt(charge=b"1", cost=b"1", usage=Usage(input=7, output=2, estimated=True))
    read = events(out + stream.end(receipt))
    assert read.pop() == "[DONE]"
    last = next(event for event in read if event["choices"] and finishes(event))
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert last["detail"] == "the credit ran out"
    assert text_of(read) == "a"
    assert ("usage" in last) == (asked is None)
    assert sum(bool(event.get("usage")) for event in read) == (asked is not False)


def test_stop_names_the_choices_that_were_not_finished() -> None:
    stream = stream_of(n=3, asked=True)
    stream.feed(chunk("a", "stop"))
    (last,) = events(stream.stop("why"))
    assert [choice["index"] for choice in last["choices"]] == [1, 2]


# --- Counting ---


def test_chunks_are_events_with_text() -> None:
    stream = stream_of()
    stream.feed(chunk("") + chunk("a") + chunk("b") + chunk("", "stop"))
    assert stream.chunks == 2


def test_all_kinds_of_produced_text_are_counted() -> None:
    text = Text()
    stream = stream_of(output=text)
    deltas = [
        {"content": "1"},
        {"reasoning_content": "2", "reasoning": "2"},
        {"reasoning": "3", "reasoning_details": [{"type": "reasoning.text", "text": "3"}]},
        {"refusal": "4"},
        {"tool_calls": [{"index": 0, "id": "no", "type": "function", "function": {"name": "5", "arguments": "6"}}]},
        {"function_call": {"name": "7", "arguments": "8"}},
        {"content": [{"type": "text", "text": "9"}]},
        {"role": "assistant"},
    ]
    for delta in deltas:
        stream.feed(chunk(choices=[{"index": 0, "delta": delta}]))
    # Together says it twice.
    stream.feed(chunk(choices=[{"index": 0, "text": "10", "delta": {"role": "assistant", "content": "10"}}]))
    assert stream.output.tokens > 0
    assert text.text == b"12345678910"
    assert stream.chunks == 8


def test_text_is_counted_in_order_and_whole_however_long_it_gets() -> None:
    text = Text()
    stream = stream_of(output=text)
    for number in range(1000):
        stream.feed(chunk(f"{number},"))
    assert stream.output.tokens > 0
    assert text.text.decode() == "".join(f"{number}," for number in range(1000))


# --- Anything at all ---

member_names = st.sampled_from(
    [
        *(
            "id",
            "object",
            "created",
            "model",
            "choices",
            "usage",
            "error",
            "delta",
            "content",
            "index",
            "text",
            "x_groq",
        ),
        *("finish_reason", "tool_calls", "function", "prompt_tokens", "completion_tokens", "total_tokens"),
        *("prompt_tokens_details", "cached_tokens", "reasoning"),
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | member_names, inner, max_size=4),
    max_leaves=8,
)
chunks = st.fixed_dictionaries(
    {"choices": st.lists(st.dictionaries(member_names, anything, max_size=4) | anything, max_size=2) | anything},
    optional=dict.fromkeys(("id", "object", "created", "model", "usage", "error", "x_groq"), anything),
)
lines = st.one_of(
    st.builds(lambda value: b"data: " + json.dumps(value).encode() + b"\n\n", anything | chunks),
    st.sampled_from(
        [b"data: [DONE]\n\n", b"\n", b"\r", b"event: x\n", b"data: ", b"data", b":", b"\xef\xbb\xbf", b"\x00"]
    ),
    st.just(chunk("ok")),
    st.just(chunk("", "stop")),
    st.binary(max_size=8),
)


def survives(asked: bool | None, pieces: list[bytes]) -> None:
    for endpoint in ("chat", "completions"):
        stream = stream_of(endpoint, asked)
        out = b"".join(map(stream.feed, pieces)) + stream.eof()
        out += stream.end(RECEIPT) if stream.failed is None else stream.fail(BROKE_OFF)
        read = events(out)
        assert asked or all(event == "[DONE]" or event["choices"] for event in read)
        assert stream.failed is None or isinstance(stream.failed, ProtocolError | UpstreamSaid)
        together = stream_of(endpoint, asked)
        whole = together.feed(b"".join(pieces)) + together.eof()
        assert (together.failed is None) == (stream.failed is None)
        assert whole + (together.end(RECEIPT) if together.failed is None else together.fail(BROKE_OFF)) == out


@settings(max_examples=300)
@given(st.sampled_from([None, True, False]), st.lists(lines, max_size=6))
def test_no_bytes_break_the_reader(asked: bool | None, pieces: list[bytes]) -> None:
    survives(asked, pieces)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=50_000)
@given(st.sampled_from([None, True, False]), st.lists(lines, max_size=10))
def test_no_bytes_break_the_reader_soak(asked: bool | None, pieces: list[bytes]) -> None:
    survives(asked, pieces)


def test_half_of_a_character_does_not_break_a_stream_whatever_else_its_event_lacks() -> None:
    for choice in (
        r'{"delta":{"content":"x\ud83d"}}',
        r'{"index":0,"delta":{"content":"x\ud83d"},"usage":{"note":"\ud83d","prompt_tokens":1,"completion_tokens":1}}',
    ):
        stream = stream_of()
        out = stream.feed(b'data: {"id":"1","choices":[%b]}\n\n' % choice.encode())
        assert stream.failed is None
        assert b'"x?"' in out or b"x\\ud83d" in out
        assert stream.output.tokens > 0
