"""Answers as callers of Messages get them, whoever gave them."""

import json
from typing import Any

import pytest
from tests.wire import streams
from tests.wire.messages import events, message_of, route
from tests.wire.streams import CREATED, ID, MODEL, MONEY, RECEIPT

from tollbridge.errors import (
    ApiError,
    ContextTooLong,
    Forbidden,
    InternalError,
    InvalidApiKey,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PaymentRequired,
    RateLimited,
    Unavailable,
    UpstreamFailed,
    UpstreamTimedOut,
)
from tollbridge.values import Usage
from tollbridge.wire import translate
from tollbridge.wire.anthropic_client import AnthropicClient, AnthropicWriter, render_error
from tollbridge.wire.anthropic_messages import parse
from tollbridge.wire.conversation import (
    Choice,
    Citation,
    Cited,
    Drawn,
    Event,
    Finish,
    Image,
    Part,
    Refusal,
    RefusalDelta,
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
from tollbridge.wire.dialect import Tail
from tollbridge.wire.exchange import Names, Receipt

NAMES = Names(id=ID, model=MODEL, created=CREATED)
REQUEST = parse(
    b'{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"Hello, how are you?"}]}'
)
USAGE = Usage(input=10, cache_read=5, cache_write=3, cache_write_1h=2, output=20, reasoning=8, searches=1)
SHOWN = {
    "input_tokens": 10,
    "cache_creation_input_tokens": 5,
    "cache_read_input_tokens": 5,
    "output_tokens": 20,
    "cache_creation": {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 2},
    "output_tokens_details": {"thinking_tokens": 8},
    "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0},
    **MONEY,
}
PICTURE = Image(data="aGk=", media_type="image/png")
CITATION = Citation(url="https://x.org", title="X", quote="x")
CITED = {
    "type": "web_search_result_location",
    "cited_text": "x",
    "encrypted_index": "",
    "title": "X",
    "url": "https://x.org",
}


def written(
    said: list[Event], finish: Finish | None = None, receipt: Receipt | None = RECEIPT, detail: str = ""
) -> bytes:
    """One event a call: the blocks must not depend on how they came."""
    writer = AnthropicWriter(REQUEST, NAMES)
    out = b"".join(writer.write([event]) for event in said)
    tail = Tail(finishes=(finish or Finish("stop"),), usage=USAGE, receipt=receipt, detail=detail)
    return out + writer.end(tail)


def rendered(*parts: Part, receipt: Receipt | None = RECEIPT, **choice: Any) -> dict[str, Any]:
    reply = Reply(choices=(Choice(**{"parts": parts, "reason": "stop"} | choice),), usage=USAGE)
    shown: dict[str, Any] = json.loads(AnthropicClient().render(REQUEST, NAMES, reply, receipt))
    return shown


SAID: list[tuple[list[Event], tuple[Part, ...], list[dict[str, Any]]]] = [
    ([], (), []),
    ([TextDelta("a"), TextDelta("b\n🎉")], (Text(text="ab\n🎉"),), [{"type": "text", "text": "ab\n🎉"}]),
    (
        [TextDelta("a"), Drawn(PICTURE), Drawn(Image(url="https://x.org/y.png")), TextDelta("b")],
        (Text(text="a"), PICTURE, Image(url="https://x.org/y.png"), Text(text="b")),
        [
            {"type": "text", "text": "a"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
            {"type": "image", "source": {"type": "url", "url": "https://x.org/y.png"}},
            {"type": "text", "text": "b"},
        ],
    ),
    (
        [ThinkingDelta("h"), ThinkingDelta("m"), ThinkingEnd(signature="Eq", origin="anthropic"), TextDelta("a")],
        (Thinking(text="hm", signature="Eq", origin="anthropic"), Text(text="a")),
        [{"type": "thinking", "thinking": "hm", "signature": "Eq"}, {"type": "text", "text": "a"}],
    ),
    (
        [ThinkingDelta("hm"), TextDelta("a"), ThinkingDelta("hm")],
        (Thinking(text="hm"), Text(text="a"), Thinking(text="hm", origin="openai_chat")),
        [
            {"type": "thinking", "thinking": "hm", "signature": ""},
            {"type": "text", "text": "a"},
            {"type": "thinking", "thinking": "hm", "signature": ""},
        ],
    ),
    (
        [ThinkingEnd(signature="abc", origin="gemini"), ThinkingEnd(redacted="xyz", origin="openai_responses")],
        (Thinking(signature="abc", origin="gemini"), Thinking(redacted="xyz", origin="openai_responses")),
        [
            {"type": "thinking", "thinking": "", "signature": "gemini:abc"},
            {"type": "redacted_thinking", "data": "openai_responses:xyz"},
        ],
    ),
    (
        [
            TextDelta("a"),
            ToolStart(0, "c1", "f"),
            ToolDelta(0, '{"x":'),
            ToolDelta(0, " 1}"),
            ToolStart(1, "c2", "g", signature="sig", origin="gemini"),
        ],
        (
            Text(text="a"),
            ToolCall(id="c1", name="f", arguments='{"x": 1}'),
            ToolCall(id="c2", name="g", arguments="", signature="sig", origin="gemini"),
        ),
        [
            {"type": "text", "text": "a"},
            {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": 1}},
            {"type": "redacted_thinking", "data": "gemini:call:sig"},
            {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
        ],
    ),
    ([RefusalDelta("No"), RefusalDelta(".")], (Refusal(text="No."),), [{"type": "text", "text": "No."}]),
    (
        [TextDelta("a"), Cited(CITATION)],
        (Text(text="a", citations=(CITATION,)),),
        [{"type": "text", "text": "a", "citations": [CITED]}],
    ),
]


def spoken(whole: dict[str, Any]) -> dict[str, Any]:
    """A whole answer without the members that only Anthropic's schema demands, and that say nothing."""
    assert whole.pop("container") is None
    assert whole.pop("stop_details") is None
    for block in whole["content"]:
        if block["type"] == "tool_use":
            assert block.pop("caller") == {"type": "direct"}
        elif block["type"] == "text" and block["citations"] == []:
            del block["citations"]
    demanded = {"cache_creation", "inference_geo", "output_tokens_details", "server_tool_use", "service_tier"}
    assert demanded <= whole["usage"].keys()
    whole["usage"] = {name: value for name, value in whole["usage"].items() if value is not None}
    return whole


@pytest.mark.parametrize(("said", "parts", "content"), SAID)
def test_a_stream_and_a_whole_answer_say_the_same(
    said: list[Event], parts: tuple[Part, ...], content: list[dict[str, Any]]
) -> None:
    whole = spoken(rendered(*parts))
    assert whole == {
        "id": ID,
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": content,
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": SHOWN,
    }
    assert message_of(written(said)) == whole


@pytest.mark.parametrize(
    ("reason", "native"),
    [
        ("stop", "end_turn"),
        ("length", "max_tokens"),
        ("tool_calls", "tool_use"),
        ("paused", "pause_turn"),
        ("stop_sequence", "stop_sequence"),
    ],
)
def test_each_reason_has_its_word(reason: Any, native: str) -> None:
    sequence = "END" if reason == "stop_sequence" else None
    expected = {"stop_reason": native, "stop_sequence": sequence}
    assert rendered(reason=reason, stop_sequence=sequence).items() >= expected.items()
    assert message_of(written([], Finish(reason, sequence))).items() >= expected.items()


@pytest.mark.parametrize("reason", ["refused", "filtered"])
def test_a_refusal_is_explained(reason: Any) -> None:
    expected = {
        "stop_reason": "refusal",
        "stop_details": {"type": "refusal", "category": None, "explanation": "No."},
    }
    assert rendered(Refusal(text="No."), reason=reason).items() >= expected.items()
    assert message_of(written([RefusalDelta("No.")], Finish(reason))).items() >= expected.items()


def test_the_first_event_estimates_what_was_read() -> None:
    first = events(written([TextDelta("a")]))[0]
    assert first["message"]["usage"]["input_tokens"] > 5
    assert first["message"]["usage"]["output_tokens"] == 0
    assert first["message"] | {"usage": None} == {
        "id": ID,
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": None,
    }


def test_an_end_of_which_nothing_is_known_has_all_that_clients_need() -> None:
    data = AnthropicWriter(REQUEST, NAMES).end(Tail(finishes=(Finish("stop"),), usage=None, receipt=None))
    usage = events(data)[-2]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (0, 0)


def test_what_was_counted_here_is_shown() -> None:
    counted = Receipt(charge=b"1", cost=b"1", usage=Usage(input=7, output=8, estimated=True))
    for shown in (rendered(receipt=counted), message_of(written([], receipt=counted))):
        usage = shown["usage"]
        assert (usage["input_tokens"], usage["output_tokens"], usage["cache_read_input_tokens"]) == (7, 8, 0)
        assert "balance" not in usage


def test_why_it_was_ended_is_said() -> None:
    assert (
        message_of(written([], Finish("length"), detail="Your credit is used up."))["detail"]
        == "Your credit is used up."
    )


@pytest.mark.parametrize(
    "mixed",
    [
        [ToolStart(0, "a", "f"), ToolStart(1, "b", "g"), ToolDelta(1, "{}"), ToolDelta(0, '{"x":1}')],
        [
            *(ToolStart(0, "a", "f"), ToolDelta(0, '{"x"'), ToolStart(1, "b", "g"), ToolDelta(1, "{")),
            *(ToolDelta(0, ":1}"), ToolDelta(1, "}")),
        ],
        [ToolStart(0, "a", "f"), ToolStart(1, "b", "g"), ToolDelta(0, '{"x":1'), ToolDelta(0, "}"), ToolDelta(1, "{}")],
    ],
)
def test_calls_that_come_mixed_go_out_one_after_another(mixed: list[Event]) -> None:
    mixed = [*mixed, ToolStart(2, "c", "h"), TextDelta("So")]
    told: list[tuple[str, int, str]] = [
        (each["type"], each["index"], each.get("delta", {}).get("partial_json", ""))
        for each in events(written(mixed))
        if each["type"].startswith("content_block")
    ]
    assert [index for _, index, _ in told] == sorted(index for _, index, _ in told)
    blocks = message_of(written(mixed))["content"]
    assert [(block.get("name"), block.get("input")) for block in blocks] == [
        *(("f", {"x": 1}), ("g", {}), ("h", {}), (None, None)),
    ]


def test_calls_that_wait_go_out_before_the_text_that_follows_them() -> None:
    writer = AnthropicWriter(REQUEST, NAMES)
    waiting: list[Event] = [ToolStart(0, "a", "f"), ToolStart(1, "b", "g"), ToolDelta(1, "{}")]
    assert b'"id":"b"' not in writer.write(waiting)
    assert b'"id":"b"' in writer.write([TextDelta("So")])


def test_a_call_that_follows_a_whole_one_does_not_wait() -> None:
    writer = AnthropicWriter(REQUEST, NAMES)
    said: list[Event] = [ToolStart(0, "a", "f"), ToolDelta(0, '{"x":'), ToolDelta(0, "1}")]
    assert b'"id":"a"' in writer.write(said)
    assert b'"id":"b"' in writer.write([ToolStart(1, "b", "g")])
    assert b'"index":1' in writer.write([ToolDelta(1, "{")])


# --- From servers of another dialect ---


@pytest.mark.parametrize(
    "transcript", [each for each in streams.TRANSCRIPTS if each.endpoint == "chat"], ids=lambda t: t.name
)
def test_streams_of_chat_reach_callers_of_messages(transcript: streams.Transcript) -> None:
    def told(cut: int) -> dict[str, Any]:
        stream = translate.exchange(REQUEST, route(dialect="openai_chat"), ID, CREATED, None).stream(streams.Text())
        got = stream.feed(transcript.raw[:cut]) + stream.feed(transcript.raw[cut:]) + stream.eof()
        assert stream.failed is None
        return message_of(got + stream.end(RECEIPT))

    whole = told(0)
    text = "".join(
        block.get("thinking", "") + block.get("text", "") + block.get("name", "") for block in whole["content"]
    )
    for piece in text.split("{"):
        assert piece in transcript.text
    prompt, cached, output, _ = transcript.usage
    usage = whole["usage"]
    assert usage["input_tokens"] + usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"] == prompt
    assert (usage["cache_read_input_tokens"], usage["output_tokens"], usage["cost"]) == (cached, output, 0.000123)
    for cut in range(0, len(transcript.raw), 7):
        assert told(cut) == whole


# --- Errors ---

ERRORS: list[tuple[ApiError, str]] = [
    (InvalidRequest("Wrong.", param="x"), "invalid_request_error"),
    (ContextTooLong("Too long."), "invalid_request_error"),
    (InvalidApiKey("Incorrect API key provided."), "authentication_error"),
    (PaymentRequired("No credit.", extra={"balance_usd": b"0.25"}), "billing_error"),
    (Forbidden("Frozen."), "permission_error"),
    (NotFound("No such model."), "not_found_error"),
    (PayloadTooLarge("Too large."), "request_too_large"),
    (RateLimited("Too many."), "rate_limit_error"),
    (InternalError("Ours."), "api_error"),
    (UpstreamFailed("Theirs."), "api_error"),
    (Unavailable("Busy."), "overloaded_error"),
    (UpstreamTimedOut("Slow."), "timeout_error"),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda value: type(value).__name__)
def test_errors_have_anthropic_s_form(error: ApiError, kind: str) -> None:
    shown = json.loads(render_error(error, "req_1"))
    assert shown["type"] == "error"
    assert shown["error"] == {"type": kind, "message": error.message}
    assert shown["request_id"] == "req_1"
    assert shown.get("balance_usd") == (0.25 if error.extra else None)
    (event,) = events(AnthropicWriter(REQUEST, NAMES).fail(error))
    assert event == {"type": "error", "error": {"type": kind, "message": error.message}}
