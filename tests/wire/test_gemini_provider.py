"""Answers after Google's documentation and the recordings of googleapis/python-genai: whole, and as streams."""

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.streams import CREATED, MODEL, route
from tests.wire.streams import ID as OURS

from tollbridge.errors import ProtocolError, UpstreamError
from tollbridge.wire import openai_chat, translate
from tollbridge.wire.conversation import (
    Choice,
    Drawn,
    Event,
    Finish,
    Image,
    Part,
    Reply,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolCall,
    ToolDelta,
    ToolStart,
)
from tollbridge.wire.errors import ModelFailed, UpstreamSaid
from tollbridge.wire.gemini_provider import GeminiProvider, GeminiReader

Json = dict[str, Any]
ID = "kT9NaPrkN6WsqtsPkJ2s4A8"


def candidate(*parts: Json, finish: str | None = None, **more: Any) -> Json:
    content: Json = {"content": {"role": "model", "parts": list(parts)}} if parts else {}
    reason = {"finishReason": finish} if finish else {}
    return {**content, **reason, "index": 0, **more}


def answer(*candidates: Json, usage: Json | None = None, **more: Any) -> Json:
    metadata = {} if usage is None else {"usageMetadata": usage}
    return {"candidates": list(candidates), **metadata, "modelVersion": "gemini-3-flash", "responseId": ID, **more}


def counted(prompt: int, written: int | None = None, thought: int | None = None) -> Json:
    report = {"promptTokenCount": prompt, "candidatesTokenCount": written, "thoughtsTokenCount": thought}
    known = {name: count for name, count in report.items() if count is not None}
    return {**known, "totalTokenCount": sum(known.values())}


def body(*events: Json, end: str = "\r\n\r\n", indent: int | None = None) -> bytes:
    return "".join("data: " + json.dumps(event, ensure_ascii=False, indent=indent) + end for event in events).encode()


CALL = {"functionCall": {"name": "weather", "args": {"city": "Zürich", "days": 2}}, "thoughtSignature": "c2lnLTE="}
SECOND = {"functionCall": {"name": "time", "args": {}, "id": "their-id"}}


@dataclass(frozen=True)
class Case:
    """`events`: what the provider streams. `parts`, `reason`, `usage` (prompt, output, reasoning): what it means."""

    name: str
    events: tuple[Json, ...]
    parts: tuple[Part, ...]
    reason: str
    usage: tuple[int, int, int]


CASES = (
    Case(
        "text in pieces, usage cumulative",
        (
            answer(candidate({"text": "Zwölf"}), usage=counted(11)),
            answer(candidate({"text": " Boxkämpfer 🥊"}), usage=counted(11, 3)),
            answer(candidate({"text": " jagen"}, finish="STOP"), usage=counted(11, 6)),
        ),
        (Text(text="Zwölf Boxkämpfer 🥊 jagen"),),
        "stop",
        (11, 6, 0),
    ),
    Case(
        "thoughts, then text, then a signature on an empty part",
        (
            answer(candidate({"text": "Let me ", "thought": True}), usage=counted(9, None, 4)),
            answer(candidate({"text": "think", "thought": True}), usage=counted(9, None, 9)),
            answer(candidate({"text": "42"}), usage=counted(9, 1, 9)),
            answer(candidate({"text": "", "thoughtSignature": "c2lnLTI="}, finish="STOP"), usage=counted(9, 2, 9)),
        ),
        (Thinking(text="Let me think"), Text(text="42"), Thinking(signature="c2lnLTI=", origin="gemini")),
        "stop",
        (9, 11, 9),
    ),
    Case(
        "parallel calls, which finish with STOP",
        (
            answer(candidate({"text": "Looking."}), usage=counted(50, 2, 30)),
            answer(candidate(CALL, SECOND), usage=counted(50, 30, 30)),
            answer(candidate({"text": ""}, finish="STOP"), usage=counted(50, 31, 30)),
        ),
        (
            Text(text="Looking."),
            ToolCall(
                id="call_gemini_",
                name="weather",
                arguments='{"city": "Zürich", "days": 2}',
                signature="c2lnLTE=",
                origin="gemini",
            ),
            ToolCall(id="their-id", name="time", arguments="{}"),
        ),
        "tool_calls",
        (50, 61, 30),
    ),
    Case(
        "cut by its limit",
        (
            answer(candidate({"text": "a"}), usage=counted(5, 1)),
            answer(candidate(finish="MAX_TOKENS"), usage=counted(5, 1, 20)),
        ),
        (Text(text="a"),),
        "length",
        (5, 21, 20),
    ),
    Case(
        "filtered in the middle",
        (
            answer(candidate({"text": "a"}), usage=counted(5, 1)),
            answer(candidate(finish="SAFETY", safetyRatings=[]), usage=counted(5, 1)),
        ),
        (Text(text="a"),),
        "filtered",
        (5, 1, 0),
    ),
    Case(
        "a prompt that was blocked",
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": counted(7), "responseId": ID},),
        (),
        "filtered",
        (7, 0, 0),
    ),
)
BY_NAME = pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])


def read(*pieces: bytes) -> tuple[list[Event], GeminiReader]:
    reader = GeminiProvider().reader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events + reader.eof(), reader


def gathered(events: list[Event]) -> dict[int, Choice]:
    """What a caller puts together from a stream, as a whole answer has it."""
    parts: dict[int, list[Part]] = {}
    ends: dict[int, Finish] = {}
    for event in events:
        mine = parts.setdefault(event.choice, [])
        last = mine[-1] if mine else None
        match event:
            case TextDelta():
                before = mine.pop().text if isinstance(last, Text) else ""  # type: ignore[union-attr]
                mine.append(Text(text=before + event.text))
            case ThinkingDelta():
                before = mine.pop().text if isinstance(last, Thinking) and not last.signature else ""  # type: ignore[union-attr]
                mine.append(Thinking(text=before + event.text))
            case ThinkingEnd():
                text = mine.pop().text if isinstance(last, Thinking) and not last.signature else ""  # type: ignore[union-attr]
                mine.append(Thinking(text=text, signature=event.signature, origin=event.origin))
            case ToolStart():
                call = ToolCall(
                    id=event.id, name=event.name, arguments="", signature=event.signature, origin=event.origin
                )
                mine.append(call)
            case ToolDelta():
                assert isinstance(last, ToolCall)
                mine[-1] = ToolCall(
                    id=last.id,
                    name=last.name,
                    arguments=last.arguments + event.arguments,
                    signature=last.signature,
                    origin=last.origin,
                )
            case Finish():
                ends[event.choice] = event
    return {
        choice: Choice(parts=tuple(mine), reason=ends[choice].reason, native=ends[choice].native)
        for choice, mine in parts.items()
    }


def known(parts: tuple[Part, ...]) -> list[Any]:
    """Parts without what cannot be told beforehand: the rest of an id that was made here."""
    shown = []
    for part in parts:
        if isinstance(part, ToolCall):
            identity = part.id[:12] if part.id.startswith("call_gemini_") else part.id
            shown.append((identity, part.name, json.loads(part.arguments), part.signature, part.origin))
        else:
            shown.append(part)  # type: ignore[arg-type]
    return shown


@BY_NAME
def test_a_stream_is_read(case: Case) -> None:
    events, reader = read(body(*case.events))
    assert reader.failed is None
    assert reader.done
    choice = gathered(events)[0]
    assert known(choice.parts) == known(case.parts)
    assert choice.reason == case.reason
    usage = reader.usage
    assert usage is not None
    assert (usage.prompt, usage.completion, usage.reasoning) == case.usage


@BY_NAME
@pytest.mark.parametrize("end", ["\r\n\r\n", "\n\n", "\r\r"])
def test_a_stream_cut_anywhere_says_the_same(case: Case, end: str) -> None:
    whole = body(*case.events, end=end)
    expected, reader = read(whole)
    for cut in range(1, len(whole)):
        events, other = read(whole[:cut], whole[cut:])
        assert events == expected
        assert (other.usage, other.done, other.reported) == (reader.usage, reader.done, reader.reported)
    events, other = read(*(whole[i : i + 1] for i in range(len(whole))))
    assert events == expected
    assert other.usage == reader.usage


@BY_NAME
def test_a_stream_that_breaks_off_is_not_done(case: Case) -> None:
    whole = body(*case.events)
    last = len(body(*case.events[:-1]))
    for end in range(last):
        _, reader = read(whole[:end])
        assert not reader.done


@BY_NAME
def test_a_whole_answer_says_what_its_stream_says(case: Case) -> None:
    merged = dict(case.events[-1])
    if "candidates" in merged:
        parts = [
            part for event in case.events for part in event["candidates"][0].get("content", {"parts": []})["parts"]
        ]
        merged["candidates"] = [{**merged["candidates"][0], "content": {"parts": parts}}]
    reply = GeminiProvider().reply(json.dumps(merged, indent=2, ensure_ascii=False).encode())
    (choice,) = reply.choices
    streamed = gathered(read(body(*case.events))[0])[0]
    assert known(choice.parts) == known(case.parts)
    assert (choice.reason, choice.native) == (case.reason, streamed.native)
    assert reply.usage is not None
    assert (reply.usage.prompt, reply.usage.completion, reply.usage.reasoning) == case.usage


def test_the_id_of_a_call_is_the_same_whole_and_in_a_stream_and_another_elsewhere() -> None:
    event = answer(candidate(CALL, CALL, finish="STOP"))
    whole = [part.id for part in GeminiProvider().reply(body(event)[6:]).choices[0].parts]  # type: ignore[union-attr]
    events, _ = read(body(event))
    assert [each.id for each in events if isinstance(each, ToolStart)] == whole
    assert len(set(whole)) == 2
    assert all(len(each) <= 40 for each in whole)
    other = GeminiProvider().reply(json.dumps(event | {"responseId": "another"}).encode()).choices[0].parts
    assert {part.id for part in other}.isdisjoint(whole)  # type: ignore[union-attr]


def test_arguments_come_without_the_white_space_of_a_pretty_answer() -> None:
    reply = GeminiProvider().reply(json.dumps(answer(candidate(CALL)), indent=2).encode())
    (call,) = reply.choices[0].parts
    assert isinstance(call, ToolCall)
    assert call.arguments.encode() == b'{"city":"Z\\u00fcrich","days":2}'


def test_calls_without_arguments_have_an_empty_object() -> None:
    for function in ({"name": "now"}, {"name": "now", "args": None}):
        events, _ = read(body(answer(candidate({"functionCall": function}, finish="STOP"))))
        assert ToolDelta(0, "{}") in events


REASONS = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"),
            *("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "MODEL_ARMOR"),
        ),
        "filtered",
    ),
    **dict.fromkeys(("OTHER", "LANGUAGE", "NO_IMAGE", "IMAGE_OTHER", "FINISH_REASON_UNSPECIFIED", "NEW"), "stop"),
}


@pytest.mark.parametrize(("native", "reason"), REASONS.items())
def test_finish_reasons(native: str, reason: str) -> None:
    event = answer(candidate({"text": "a"}, finish=native))
    (choice,) = GeminiProvider().reply(json.dumps(event).encode()).choices
    assert (choice.reason, choice.native) == (reason, native)
    assert read(body(event))[0][-1] == Finish(reason, None, native)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "native",
    ["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS", "MISSING_THOUGHT_SIGNATURE"],
)
def test_a_call_that_went_wrong_is_the_model_s_failure(native: str) -> None:
    event = answer(candidate(finish=native), usage=counted(5, 9))
    with pytest.raises(ModelFailed):
        GeminiProvider().reply(json.dumps(event).encode())
    _, reader = read(body(event))
    assert isinstance(reader.failed, ModelFailed)
    assert reader.usage is not None
    assert not reader.done


def test_a_call_of_a_tool_that_is_not_there_is_for_the_caller() -> None:
    event = answer(candidate(CALL, finish="UNEXPECTED_TOOL_CALL"), usage=counted(5, 9))
    (choice,) = GeminiProvider().reply(json.dumps(event).encode()).choices
    assert (choice.reason, choice.native, len(choice.parts)) == ("tool_calls", "UNEXPECTED_TOOL_CALL", 1)
    assert gathered(read(body(event))[0])[0].reason == "tool_calls"


def test_several_choices_are_kept_apart() -> None:
    events, reader = read(
        body(
            answer(candidate({"text": "a"}), candidate({"text": "b"}, index=1)),
            answer(candidate(CALL, finish="STOP")),
            answer(candidate({"text": "c"}, finish="MAX_TOKENS", index=1)),
        )
    )
    choices = gathered(events)
    assert choices[0].reason == "tool_calls"
    assert (choices[1].parts, choices[1].reason) == ((Text(text="bc"),), "length")
    assert reader.done


def test_a_drawn_picture_is_read_whole_and_in_a_stream_but_for_what_was_drawn_in_thought() -> None:
    blob = {"mimeType": "image/png", "data": "iVBOR"}
    event = answer(candidate({"inlineData": blob, "thought": True}, {"inlineData": blob}, finish="STOP"))
    picture = Image(data="iVBOR", media_type="image/png")
    reply = GeminiProvider().reply(json.dumps(event).encode())
    assert reply.choices[0].parts == (picture,)
    assert read(body(event))[0] == [Drawn(picture), Finish("stop", native="STOP")]


@pytest.mark.parametrize(("said", "kind"), [({"mimeType": "image/jpeg"}, "image/jpeg"), ({}, "image/png")])
def test_a_drawn_picture_is_of_the_kind_that_is_said(said: dict[str, str], kind: str) -> None:
    event = answer(candidate({"inlineData": {"data": "AAAA", **said}}, finish="STOP"))
    assert read(body(event))[0][0] == Drawn(Image(data="AAAA", media_type=kind))


def test_a_word_about_the_prompt_beside_an_answer_blocks_nothing() -> None:
    told = answer(candidate({"text": "a"}), promptFeedback={"safetyRatings": []})
    events, _ = read(body(told, answer(candidate({"text": "b"}, finish="STOP"))))
    assert events == [TextDelta("a"), TextDelta("b"), Finish("stop", native="STOP")]


def test_log_probabilities_are_openai_s() -> None:
    result = {
        "chosenCandidates": [
            {"token": "é", "tokenId": 5, "logProbability": -0.25},
            {"token": "b", "logProbability": -1},
        ],
        "topCandidates": [{"candidates": [{"token": "é", "logProbability": -0.25}, {"token": "x"}]}],
    }
    event = answer(candidate({"text": "éb"}, finish="STOP", logprobsResult=result))
    expected = {
        "content": [
            {
                "token": "é",
                "logprob": -0.25,
                "bytes": [195, 169],
                "top_logprobs": [
                    {"token": "é", "logprob": -0.25, "bytes": [195, 169]},
                    {"token": "x", "logprob": 0.0, "bytes": [120]},
                ],
            },
            {"token": "b", "logprob": -1.0, "bytes": [98], "top_logprobs": []},
        ],
        "refusal": None,
    }
    raw = GeminiProvider().reply(json.dumps(event).encode()).choices[0].logprobs
    assert raw is not None
    assert json.loads(bytes(raw)) == expected
    delta = read(body(event))[0][0]
    assert isinstance(delta, TextDelta)
    assert delta.logprobs is not None
    assert json.loads(bytes(delta.logprobs)) == expected


QUOTA = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"}],
    }
}


@pytest.mark.parametrize("wrapped", [QUOTA, [QUOTA], QUOTA | {"candidates": 7}], ids=["object", "array", "odd"])
def test_an_error_with_a_200_is_said(wrapped: Any) -> None:
    data = json.dumps(wrapped, indent=2).encode()
    with pytest.raises(UpstreamSaid) as caught:
        GeminiProvider().reply(data)
    assert (caught.value.status, caught.value.retry_after) == (429, 34.4)
    _, reader = read(data)
    assert isinstance(reader.failed, UpstreamSaid)
    assert reader.failed.status == 429


def test_an_error_in_the_middle_ends_a_stream() -> None:
    events, reader = read(
        body(answer(candidate({"text": "a"}), usage=counted(3, 1)), {"error": {"code": 503, "status": "UNAVAILABLE"}})
    )
    assert events == [TextDelta("a")]
    assert isinstance(reader.failed, UpstreamSaid)
    assert reader.failed.status == 503
    assert not reader.done
    assert reader.feed(body(answer(candidate({"text": "b"})))) == []


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b"7", b'{"candidates":[]}', b'{"candidates":7}', b"\xff"])
def test_what_is_no_answer_makes_no_sense(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        GeminiProvider().reply(data)
    assert isinstance(read(data)[1].failed, ProtocolError)
    if data and data != b'{"candidates":[]}':
        assert isinstance(read(b"data: " + data + b"\n\n")[1].failed, ProtocolError)


def test_half_of_a_surrogate_pair_becomes_a_question_mark() -> None:
    data = json.dumps(answer(candidate({"text": "HALF"}, finish="STOP"))).replace("HALF", "a\\ud83d").encode()
    assert GeminiProvider().reply(data).choices[0].parts == (Text(text="a?"),)


garbage = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5) | st.sampled_from(["STOP", "{}"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *("candidates", "content", "parts", "text", "thought", "thoughtSignature", "functionCall", "name"),
                    *("args", "finishReason", "index", "usageMetadata", "promptTokenCount", "promptFeedback", "error"),
                    *("inlineData", "data", "logprobsResult", "chosenCandidates", "token", "blockReason"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(garbage, garbage, st.binary(max_size=8))
def test_garbage_raises_nothing_but_what_it_may(first: Any, second: Any, noise: bytes) -> None:
    for document in (first, {"candidates": [second]}, {"candidates": [{"content": {"parts": [first, second]}}]}):
        data = json.dumps(document).encode()
        try:
            reply = GeminiProvider().reply(data)
        except UpstreamError:
            pass
        else:
            assert isinstance(reply, Reply)
        for stream in (b"data: " + data + b"\r\n\r\n" + noise, noise + data, data[: len(data) // 2]):
            _, reader = read(stream)
            assert reader.failed is None or isinstance(reader.failed, UpstreamError)


@given(st.lists(st.integers(0, 400), max_size=6))
def test_any_cuts_say_the_same(cuts: list[int]) -> None:
    whole = body(*CASES[2].events)
    places = sorted({0, len(whole), *(cut % len(whole) for cut in cuts)})
    pieces = [whole[start:end] for start, end in pairwise(places)]
    assert read(*pieces)[0] == read(whole)[0]


def test_a_drawn_picture_reaches_a_caller_of_chat() -> None:
    event = answer(
        candidate({"text": "Here:"}, {"inlineData": {"mimeType": "image/png", "data": "iVBOR"}}, finish="STOP"),
        usage=counted(5, 1290) | {"candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 1288}]},
    )
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Draw"}], "modalities": ["text", "image"]}
    gemini = route(dialect="gemini", upstream_model="gemini-2.5-flash-image")
    exchange = translate.exchange(openai_chat.parse(json.dumps(body).encode()), gemini, OURS, CREATED, None)
    assert json.loads(exchange.request().body)["generationConfig"] == {"responseModalities": ["IMAGE", "TEXT"]}
    read = exchange.response(json.dumps(event).encode())
    assert read.usage is not None
    assert (read.usage.output, read.usage.image_output) == (2, 1288)
    message = json.loads(read.render(None))["choices"][0]["message"]
    assert message["content"] == "Here:"
    assert message["images"] == [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBOR"}, "index": 0}]


def test_a_report_that_most_of_the_answer_followed_does_not_count() -> None:
    early = answer(candidate({"text": "a"}), usage=counted(11, 1))
    more = [answer(candidate({"text": "b"})), answer(candidate({"text": "c"}, finish="STOP"))]
    assert read(body(early, *more))[1].usage is None
    late = answer(candidate({"text": "c"}, finish="STOP"), usage=counted(11, 3))
    assert read(body(early, more[0], late))[1].usage is not None


@pytest.mark.parametrize("odd", [{}, {"totalTokenCount": 14}, {"promptTokenCount": 11}, counted(11, -3), 7])
def test_a_report_that_is_not_believed_covers_no_output(odd: Any) -> None:
    early = answer(candidate({"text": "a"}), usage=counted(11, 1))
    more = [answer(candidate({"text": "b"}), usage=odd), answer(candidate({"text": "c"}, finish="STOP"), usage=odd)]
    assert read(body(early, *more))[1].usage is None


def test_an_announced_end_is_no_event_of_gemini_s_and_does_no_harm() -> None:
    events, reader = read(body(*CASES[0].events) + b"data: [DONE]\n\n")
    assert (reader.failed, reader.done) == (None, True)
    assert events == read(body(*CASES[0].events))[0]
