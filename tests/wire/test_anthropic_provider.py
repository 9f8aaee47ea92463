import json
from typing import Any

import pytest
from tests.wire.messages import OPUS, SONNET, STREAM, TEXT, block, event, finish, route, start

from tollbridge.errors import ProtocolError
from tollbridge.wire import heedless
from tollbridge.wire.anthropic_provider import AnthropicProvider, AnthropicReader
from tollbridge.wire.conversation import (
    Citation,
    Cited,
    Conversation,
    Event,
    Finish,
    Refusal,
    RefusalDelta,
    Text,
    TextDelta,
    TextStart,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    ToolCall,
    ToolDelta,
    ToolStart,
    Turn,
)
from tollbridge.wire.errors import UpstreamSaid
from tollbridge.wire.sse import MAX_EVENT

PROVIDER = AnthropicProvider()
SIGNATURE = "EqQBCgIYAhIM/1gBcDa9GJwZA2b3+="
REDACTED = "EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyI="
CITATION = Citation(url="https://example.org/w", title="Weather", quote="mild")
BEST: list[Event] = [
    ThinkingDelta("Let me "),
    ThinkingDelta("see: ≈ 7"),
    ThinkingEnd(signature=SIGNATURE, origin="anthropic"),
    ThinkingEnd(redacted=REDACTED, origin="anthropic"),
    TextDelta("Très "),
    TextDelta("bien 🎉\n"),
    TextStart(),
    TextDelta("Mild."),
    Cited(CITATION),
    ToolStart(0, "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "get_weather"),
    ToolDelta(0, '{"location": "San'),
    ToolDelta(0, ' Francisco"}'),
    ToolStart(1, "toolu_02", "now"),
    Finish("tool_calls", None, "tool_use"),
]


def read(*pieces: bytes) -> tuple[list[Event], AnthropicReader]:
    reader = PROVIDER.reader()
    found = [each for piece in pieces for each in reader.feed(piece)]
    return found + reader.eof(), reader


def joined(found: list[Event]) -> list[Any]:
    """Without where text was cut."""
    whole: list[Any] = []
    for each in found:
        before = whole[-1] if whole else None
        if isinstance(each, TextDelta | ThinkingDelta) and type(before) is type(each):
            whole[-1] = type(each)(before.text + each.text)
        elif isinstance(each, ToolDelta) and isinstance(before, ToolDelta) and before.index == each.index:
            whole[-1] = ToolDelta(each.index, before.arguments + each.arguments)
        else:
            whole.append(each)
    return whole


# --- Streams ---


def test_a_stream_is_read() -> None:
    found, reader = read(STREAM)
    assert found == BEST
    assert reader.done
    assert reader.failed is None
    usage = reader.usage
    assert usage is not None
    assert (usage.input, usage.cache_read, usage.cache_write, usage.cache_write_1h, usage.output) == (25, 7, 4, 6, 89)
    assert usage.searches == 1
    assert json.loads(reader.reported)["output_tokens"] == 89


def test_citations_which_come_before_their_text_follow_it() -> None:
    cited = {"type": "citations_delta", "citation": {"url": CITATION.url, "title": "Weather", "cited_text": "mild"}}
    raw = start() + block(0, TEXT, cited, {"type": "text_delta", "text": "Mild."}) + finish()
    assert read(raw)[0][:2] == [TextDelta("Mild."), Cited(CITATION)]
    [choice] = heedless.joined(PROVIDER.reader(), raw).choices
    assert choice.parts == (Text(text="Mild.", citations=(CITATION,)),)


def test_a_stream_is_the_same_wherever_it_is_cut() -> None:
    for raw in (STREAM, STREAM.replace(b"\n", b"\r\n")):
        for cut in range(len(raw) + 1):
            found, reader = read(raw[:cut], raw[cut:])
            assert found == BEST, cut
            assert reader.done
            assert reader.usage is not None
    found, reader = read(*(STREAM[i : i + 1] for i in range(len(STREAM))))
    assert found == BEST


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("end_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("pause_turn", "paused"),
        ("refusal", "refused"),
        ("something_new", "stop"),
    ],
)
def test_each_reason_to_stop_has_its_meaning(native: str, reason: str) -> None:
    found, _ = read(start() + finish(native))
    assert found == [Finish(reason, None, native)]  # type: ignore[arg-type]


def test_a_stop_sequence_is_named() -> None:
    found, _ = read(start() + finish("stop_sequence", stop_sequence="END"))
    assert found == [Finish("stop_sequence", "END", "stop_sequence")]


def test_a_refusal_says_why() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    found, reader = read(start() + finish("refusal", {"output_tokens": 0}, stop_details=details))
    assert found == [RefusalDelta("Not this."), Finish("refused", None, "refusal")]
    assert reader.usage is not None
    assert reader.usage.output == 0


def test_a_call_that_comes_at_once_is_a_call() -> None:
    found, _ = read(start() + block(0, {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}))
    assert found == [ToolStart(0, "t", "f"), ToolDelta(0, '{"a":1}')]


def test_text_and_thoughts_that_come_at_once_are_read() -> None:
    thought = block(0, {"type": "thinking", "thinking": "Hm", "signature": "Eq"})
    found, _ = read(start() + thought + block(1, {"type": "text", "text": "Hi"}))
    assert found == [ThinkingDelta("Hm"), ThinkingEnd(signature="Eq", origin="anthropic"), TextDelta("Hi")]


def test_an_answer_ends_once_and_a_refusal_need_not_say_why() -> None:
    told = {"stop_reason": "refusal", "stop_details": {"type": "refusal"}}
    found, _ = read(start() + event("message_delta", delta=told) + finish())
    assert found == [Finish("refused", None, "refusal")]


def test_a_thought_that_is_not_shown_keeps_its_signature() -> None:
    delta = {"type": "signature_delta", "signature": "Eq"}
    found, _ = read(start() + block(0, {"type": "thinking", "thinking": "", "signature": ""}, delta))
    assert found == [ThinkingEnd(signature="Eq", origin="anthropic")]


def test_kinds_that_are_not_known_pass_by() -> None:
    raw = start() + event("vibe", level=3) + block(0, {"type": "hologram", "x": 1}, {"type": "hologram_delta"})
    found, reader = read(raw + block(1, TEXT, {"type": "text_delta", "text": "Hi"}) + finish())
    assert joined(found) == [TextDelta("Hi"), Finish("stop", None, "end_turn")]
    assert reader.failed is None


@pytest.mark.parametrize(
    ("kind", "status"),
    [("overloaded_error", 529), ("rate_limit_error", 429), ("invalid_request_error", 400), ("api_error", 502)],
)
def test_an_error_after_a_200_is_an_error(kind: str, status: int) -> None:
    raw = start() + event("error", error={"type": kind, "message": "Overloaded"})
    found, reader = read(raw + block(0, TEXT, {"type": "text_delta", "text": "no"}))
    assert found == []
    assert isinstance(reader.failed, UpstreamSaid)
    assert reader.failed.status == status
    assert reader.usage is None


@pytest.mark.parametrize("raw", [b'data: {"type":"error"}\n\n', b'event: error\ndata: {"type":"x"}\n\n'])
def test_an_error_without_words_is_an_error(raw: bytes) -> None:
    assert isinstance(read(start() + raw)[1].failed, UpstreamSaid)


def test_an_error_instead_of_a_stream_is_an_error() -> None:
    _, reader = read(b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}')
    assert isinstance(reader.failed, UpstreamSaid)
    assert reader.failed.status == 529


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        b"data: {\n\n",
        b"data: []\n\n",
        b"data: 7\n\n",
        b"data: {}\n\n",
        b'data: {"type":7}\n\n',
        b'data: {"type":"content_block_delta","index":"0","delta":{}}\n\n',
        b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":7}}\n\n',
        b"data: \xff\n\n",
        b'data: {"type":"ping","x":"\xff"}\n\n',
        b"data: " + b"[" * 5_000 + b"\n\n",
        b"data: " + b"x" * (MAX_EVENT + 1),
    ],
)
def test_what_makes_no_sense_is_a_protocol_error(raw: bytes) -> None:
    _, reader = read(raw)
    assert isinstance(reader.failed, ProtocolError)
    assert not reader.done


def test_a_stream_that_breaks_off_is_not_done() -> None:
    found, reader = read(STREAM[: STREAM.index(b"event: message_delta")])
    assert found == BEST[:-1]
    assert not reader.done
    assert reader.failed is None
    assert reader.usage is None


def test_half_a_character_becomes_a_question_mark() -> None:
    raw = b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a\\ud83d"}}\n\n'
    found, reader = read(start() + raw)
    assert found == [TextDelta("a?")]
    assert reader.failed is None


# --- Whole answers ---

MESSAGE: dict[str, Any] = {
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "model": SONNET,
    "content": [
        {"type": "thinking", "thinking": "Let me see", "signature": SIGNATURE},
        {"type": "redacted_thinking", "data": REDACTED},
        {"type": "server_tool_use", "id": "srvtoolu_01", "name": "web_search", "input": {"query": "x"}},
        {
            "type": "text",
            "text": "Mild.",
            "citations": [
                {"type": "web_search_result_location", "url": CITATION.url, "title": "Weather", "cited_text": "mild"},
                {"type": "char_location", "document_index": 0, "cited_text": "x"},
                {"type": "search_result_location", "source": "a book"},
            ],
        },
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"b": 1, "a": [1.50]}},
        {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 25, "output_tokens": 89},
}


def test_a_whole_answer_is_read() -> None:
    reply = PROVIDER.reply(json.dumps(MESSAGE).encode())
    assert reply.choices[0].parts == (
        Thinking(text="Let me see", signature=SIGNATURE, origin="anthropic"),
        Thinking(redacted=REDACTED, origin="anthropic"),
        Text(text="Mild.", citations=(CITATION, Citation(url="a book"))),
        ToolCall(id="toolu_1", name="f", arguments='{"b": 1, "a": [1.5]}'),
        ToolCall(id="toolu_2", name="g", arguments="{}"),
    )
    assert (reply.choices[0].reason, reply.choices[0].native) == ("tool_calls", "tool_use")
    assert reply.usage is not None
    assert (reply.usage.input, reply.usage.output) == (25, 89)


def test_a_whole_refusal_says_why() -> None:
    details = {"type": "refusal", "category": None, "explanation": "Not this."}
    reply = PROVIDER.reply(
        json.dumps(MESSAGE | {"content": [], "stop_reason": "refusal", "stop_details": details}).encode()
    )
    assert reply.choices[0].parts == (Refusal(text="Not this."),)
    assert reply.choices[0].reason == "refused"


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": 5}])
def test_an_answer_without_usage_has_none(usage: Any) -> None:
    reply = PROVIDER.reply(json.dumps(MESSAGE | {"usage": usage}).encode())
    assert reply.usage is None
    assert not reply.suspect


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"content":7}', b'{"content":null}', b"\xff", b"[" * 9_999]
)
def test_an_answer_that_makes_no_sense_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        PROVIDER.reply(body)


def test_an_error_with_a_200_is_an_error() -> None:
    with pytest.raises(UpstreamSaid) as caught:
        PROVIDER.reply(b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"},"request_id":"r"}')
    assert caught.value.status == 529


def test_fields_that_this_provider_refuses_are_left_out() -> None:
    conversation = Conversation(
        origin="x", turns=(Turn(role="user", parts=(Text(text="Hi"),)),), max_tokens=9, temperature=0.5
    )
    outgoing = PROVIDER.outgoing(conversation, route(drops=("temperature",)), None)
    assert json.loads(outgoing.body).keys() == {"model", "max_tokens", "messages"}
    assert outgoing.target == b"/messages"


def test_the_smaller_limit_is_sent_and_always_one() -> None:
    turns = (Turn(role="user", parts=(Text(text="Hi"),)),)

    def limit(asked: int | None, money: int | None) -> int:
        conversation = Conversation(origin="x", turns=turns, max_tokens=asked)
        sent: int = json.loads(PROVIDER.outgoing(conversation, route(OPUS), money).body)["max_tokens"]
        return sent

    assert [limit(None, None), limit(None, 50), limit(20, None), limit(20, 50), limit(60, 50)] == [8192, 50, 20, 20, 50]
