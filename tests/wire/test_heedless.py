import json
from typing import Any

import pytest
from tests.wire.streams import CREATED, ID, Text, route

from tollbridge.errors import ConnectionLost, ProtocolError, UpstreamError
from tollbridge.wire import anthropic_messages, openai_chat, openai_completions, translate
from tollbridge.wire.anthropic_provider import AnthropicReader
from tollbridge.wire.conversation import Choice, Citation, Refusal, Thinking, ToolCall
from tollbridge.wire.conversation import Text as Said
from tollbridge.wire.errors import UpstreamSaid
from tollbridge.wire.exchange import Answer, Stream
from tollbridge.wire.gemini_provider import GeminiReader
from tollbridge.wire.heedless import anthropic_events, is_stream, joined
from tollbridge.wire.openai_chat_provider import ChatReader
from tollbridge.wire.request import Request
from tollbridge.wire.sse import MAX_EVENT

Json = dict[str, Any]

CALLS = [
    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
    {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
]
USED = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
ANSWER: Json = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "y",
    "choices": [
        {
            "index": 0,
            "message": {"content": "Hi", "reasoning_content": "Hm", "tool_calls": CALLS},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": USED,
}
MESSAGE: Json = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "y",
    "content": [
        {"type": "thinking", "thinking": "Hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "r"},
        {
            "type": "text",
            "text": "Hi",
            "citations": [{"type": "web_search_result_location", "url": "https://a.example", "cited_text": "q"}],
        },
        {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 10, "output_tokens": 5},
}


def asked(**fields: Any) -> Request:
    body = {"model": "m", "messages": [{"role": "user", "content": "a"}], "stream": True, **fields}
    return openai_chat.parse(json.dumps(body).encode())


def stream_of(request: Request, answer: Any, dialect: str = "openai_chat") -> tuple[Stream, list[Json]]:
    """The stream after a provider of `dialect` sent `answer`, and what the caller gets of it."""
    stream = translate.exchange(request, route(dialect=dialect), ID, CREATED, None).stream(Text())
    body = answer if isinstance(answer, bytes) else json.dumps(answer, indent=1).encode()
    out = stream.feed(body[:100]) + stream.feed(body[100:])
    assert out == b""
    out = stream.eof()
    if stream.failed is None:
        assert stream.done
        out += stream.end(None)
    lines = [line[6:] for line in out.decode().split("\n") if line.startswith("data: ")]
    return stream, [json.loads(line) for line in lines if line != "[DONE]"]


def test_a_whole_answer_becomes_chunks_as_openai_sends_them() -> None:
    _, chunks = stream_of(asked(stream_options={"include_usage": True}), ANSWER)
    said, end, usage = chunks
    assert {each["object"] for each in chunks} == {"chat.completion.chunk"}
    assert said["choices"][0]["delta"] == {
        "role": "assistant",
        "content": "Hi",
        "reasoning_content": "Hm",
        "tool_calls": [{"index": index, **call} for index, call in enumerate(CALLS)],
    }
    assert said["choices"][0]["finish_reason"] is None
    assert end["choices"] == [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]
    assert (usage["choices"], usage["usage"]) == ([], USED)


def test_each_choice_has_chunks_of_its_own() -> None:
    choices = [{"message": {"content": text}} for text in ("a", "b")]
    stream, chunks = stream_of(asked(n=2), {"choices": choices, "usage": USED})
    assert [each["choices"][0]["index"] for each in chunks] == [0, 1, 0, 1]
    assert all(len(each["choices"]) == 1 for each in chunks)
    assert [each["choices"][0]["finish_reason"] for each in chunks] == [None, None, "stop", "stop"]
    assert stream.complete
    assert stream.usage is not None
    assert (stream.usage.input, stream.usage.output) == (10, 5)


def test_a_whole_completion_becomes_a_stream() -> None:
    request = openai_completions.parse(b'{"model":"m","prompt":"a","stream":true}')
    answer = {"choices": [{"text": "Hi", "index": 0, "finish_reason": "length"}], "usage": USED}
    stream, chunks = stream_of(request, answer)
    assert [each["choices"][0]["text"] for each in chunks] == ["Hi", ""]
    assert (stream.finish, chunks[-1]["usage"]) == ("length", USED)


def test_a_long_answer_is_read_to_its_end() -> None:
    _, chunks = stream_of(asked(), {"choices": [{"message": {"content": "x" * 100_000}}]})
    assert len(chunks[0]["choices"][0]["delta"]["content"]) == 100_000


def test_a_whole_message_becomes_the_events_of_one() -> None:
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}], "stream": True}
    request = anthropic_messages.parse(json.dumps(body).encode())
    stream, events = stream_of(request, MESSAGE, "anthropic")
    assert (events[0]["type"], events[0]["message"]["content"]) == ("message_start", [])
    deltas = [each["delta"] for each in events if each["type"] == "content_block_delta"]
    kinds = ["thinking_delta", "signature_delta", "text_delta", "citations_delta", "input_json_delta"]
    assert [each["type"] for each in deltas] == kinds
    opened = [each["content_block"]["type"] for each in events if each["type"] == "content_block_start"]
    assert opened == [block["type"] for block in MESSAGE["content"]]
    assert json.loads(deltas[-1]["partial_json"]) == {"a": 1}
    assert (events[-2]["delta"]["stop_reason"], events[-1]["type"]) == ("tool_use", "message_stop")
    assert stream.usage is not None
    assert (stream.usage.input, stream.usage.output) == (10, 5)


def test_a_citation_comes_once() -> None:
    starts = [event["content_block"] for event in anthropic_events(MESSAGE) if event["type"] == "content_block_start"]
    assert [start["citations"] for start in starts if start["type"] == "text"] == [[]]


def test_gemini_sends_events_in_a_list() -> None:
    answers = [
        {"candidates": [{"content": {"parts": [{"text": text}]}, **finish}]}
        for text, finish in (("a", {}), ("b", {"finishReason": "STOP"}))
    ]
    _, chunks = stream_of(asked(), answers, "gemini")
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in chunks) == "ab"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"error": {"message": "no", "code": 429}}, UpstreamSaid),
        ({"choices": [{"message": {"content": "a"}}, {"error": {"message": "no"}, "message": {}}]}, UpstreamSaid),
        ({"choices": [{"message": {"content": "a"}, "finish_reason": "error"}]}, UpstreamSaid),
        ({"choices": [{"message": None}]}, ProtocolError),
        ({"choices": ["a"]}, ProtocolError),
        ({"choices": None}, ProtocolError),
        (b"[" * 50_000, ProtocolError),
    ],
)
@pytest.mark.parametrize("path", ["passes", "translated"])
def test_a_whole_answer_that_failed_has_no_output(answer: Any, error: type[UpstreamError], path: str) -> None:
    request = asked()
    if path == "translated":
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}], "stream": True}
        request = anthropic_messages.parse(json.dumps(body).encode())
    stream, events = stream_of(request, answer)
    assert isinstance(stream.failed, error)
    assert events == []


@pytest.mark.parametrize("citations", [5, True, "x", {"a": 1}])
def test_citations_that_are_no_list_are_an_error(citations: Any) -> None:
    message = {**MESSAGE, "content": [{"type": "text", "text": "a", "citations": citations}]}
    stream, events = stream_of(asked(), message, "anthropic")
    assert isinstance(stream.failed, ProtocolError)
    assert events == []


def test_half_a_pair_of_surrogates_in_the_input_of_a_tool_is_an_error() -> None:
    body = json.dumps({**MESSAGE, "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {"a": "\ud800"}}]})
    stream, events = stream_of(asked(), body.encode(), "anthropic")
    assert isinstance(stream.failed, ProtocolError)
    assert events == []


# --- A stream where a whole answer was asked for ---


def sse(*events: Any) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)


@pytest.mark.parametrize("start", [b"data: {", b"event: a", b": hello", b"\n\ndata:", b"\xef\xbb\xbfid: 1"])
def test_a_stream_is_told_by_its_first_line(start: bytes) -> None:
    assert is_stream(start)


@pytest.mark.parametrize("start", [b"", b'{"a":1}', b"\n {", b"<html>", b"database", b"[1]"])
def test_what_is_no_stream(start: bytes) -> None:
    assert not is_stream(start)


def delta(finish: str | None = None, index: int = 0, **fields: Any) -> Json:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish}]}


def test_the_pieces_of_a_stream_are_joined() -> None:
    calls = [{"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a"'}}]
    logprobs = {"content": [{"token": "H"}], "refusal": None}
    said = delta(content="H")
    said["choices"][0]["logprobs"] = logprobs
    more = delta(content="i")
    more["choices"][0]["logprobs"] = {"content": [{"token": "i"}], "refusal": None}
    body = sse(
        delta(role="assistant", reasoning_content="H"),
        delta(reasoning_content="m"),
        said,
        more,
        delta(tool_calls=calls),
        delta(tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
        delta(index=1, refusal="No"),
        delta("tool_calls"),
        {**delta("stop", 1), "usage": USED},
    )
    reply = joined(ChatReader(), body)
    first, second = reply.choices
    assert first.parts == (
        Thinking(text="Hm"),
        Said(text="Hi"),
        ToolCall(id="c1", name="f", arguments='{"a":1}'),
    )
    assert (first.reason, first.native) == ("tool_calls", "tool_calls")
    assert first.logprobs is not None
    assert json.loads(bytes(first.logprobs)) == {"content": [{"token": "H"}, {"token": "i"}], "refusal": None}
    assert (second.parts, second.reason) == ((Refusal(text="No"),), "refused")
    assert reply.usage is not None
    assert (reply.usage.input, reply.usage.output) == (10, 5)


def test_logprobs_of_another_form_are_left_out() -> None:
    pieces: list[Any] = [5, [1], {"content": "a"}, {"content": None}, {"content": [{"token": "a"}]}, {"content": None}]
    chunks = [delta(content="a") for _ in pieces]
    for chunk, piece in zip(chunks, pieces, strict=True):
        chunk["choices"][0]["logprobs"] = piece
    [choice] = joined(ChatReader(), sse(*chunks, delta("stop"))).choices
    assert choice.parts == (Said(text="a" * len(pieces)),)
    assert choice.logprobs is not None
    assert json.loads(bytes(choice.logprobs)) == {"content": [{"token": "a"}]}


def test_proofs_and_citations_stay_with_what_they_prove() -> None:
    [choice] = joined(AnthropicReader(), sse(*anthropic_events(MESSAGE))).choices
    assert choice == Choice(
        parts=(
            Thinking(text="Hm", signature="s", origin="anthropic"),
            Thinking(redacted="r", origin="anthropic"),
            Said(text="Hi", citations=(Citation(url="https://a.example", quote="q"),)),
            ToolCall(id="c1", name="f", arguments='{"a":1}'),
        ),
        reason="tool_calls",
        native="tool_use",
    )


def test_citations_that_come_before_the_text_stay_with_it() -> None:
    cited = [{"type": "url_citation", "url_citation": {"url": f"https://{name}.example"}} for name in "ab"]
    early = delta(content="", annotations=cited)
    [choice] = joined(ChatReader(), sse(early, delta(content="H"), delta(content="i"), delta("stop"))).choices
    sources = Citation(url="https://a.example"), Citation(url="https://b.example")
    assert choice.parts == (Said(text="Hi", citations=sources),)


def test_a_picture_comes_whole() -> None:
    part = {"inlineData": {"mimeType": "image/png", "data": "aGk="}}
    body = sse({"candidates": [{"content": {"parts": [{"text": "a"}, part]}, "finishReason": "STOP"}]})
    [choice] = joined(GeminiReader(), body).choices
    assert [type(part).__name__ for part in choice.parts] == ["Text", "Image"]


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (sse(delta(content="a")), ConnectionLost),
        (sse(delta(content="a"), {"error": {"message": "no"}}), UpstreamSaid),
        (sse(delta(content="a")) + b"data: x\n\n", ProtocolError),
    ],
)
def test_a_stream_that_broke_off_is_no_answer(body: bytes, error: type[UpstreamError]) -> None:
    request = asked(stream=False)
    with pytest.raises(error):
        translate.exchange(request, route(), ID, CREATED, None).response(body)


def text(said: str, finish: str | None = None, index: int = 0, **fields: Any) -> Json:
    return {"choices": [{"index": index, "text": said, "finish_reason": finish, "logprobs": None, **fields}]}


def completed(body: bytes) -> Answer:
    request = openai_completions.parse(b'{"model":"m","prompt":"a"}')
    return translate.exchange(request, route(), ID, CREATED, None).response(body)


def test_the_pieces_of_a_completion_are_joined() -> None:
    first = {"tokens": ["H"], "token_logprobs": [-1.5], "top_logprobs": None}
    second = {"tokens": ["i"], "token_logprobs": [None], "text_offset": [1]}
    body = sse(
        {**text("H", logprobs=first), "id": "x", "object": "text_completion", "created": 7, "model": "y"},
        {**text("N", index=1), "usage": None},
        text("i", logprobs=second),
        text("\ud83d", index=1),
        text("\ude00", "length", index=1),
        text("", "stop"),
        {"choices": [], "usage": USED},
    )
    for whole in (body, body + b"data: [DONE]\n\n", body + b"data: [DONE]", body.removesuffix(b"\n\n")):
        answer = completed(whole)
        assert (answer.finish, answer.text()) == ("stop", "Hi\nN\U0001f600".encode())
        assert answer.usage is not None
        assert (answer.usage.input, answer.usage.output) == (10, 5)
        rendered = json.loads(answer.render(None))
        assert rendered == {
            "id": ID,
            "object": "text_completion",
            "created": 7,
            "model": "acme/public-name",
            "choices": [
                {
                    "index": 0,
                    "text": "Hi",
                    "finish_reason": "stop",
                    "logprobs": {"tokens": ["H", "i"], "token_logprobs": [-1.5, None], "text_offset": [1]},
                },
                {"index": 1, "text": "N\U0001f600", "finish_reason": "length", "logprobs": None},
            ],
            "usage": USED,
        }


def test_a_completion_without_a_reason_or_usage_ends_all_the_same() -> None:
    answer = completed(sse(text("Hi")) + b"data: [DONE]\n\n")
    assert (answer.finish, answer.usage) == (None, None)
    assert json.loads(answer.render(None))["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (sse(text("a")), ConnectionLost),
        (sse(text("a")) + b'data: {"choices"', ConnectionLost),
        (b"data: [DONE]\n\n", ProtocolError),
        (sse(text("a"), {"error": {"message": "no"}}), UpstreamSaid),
        (sse(text("a", "error")), UpstreamSaid),
        (sse(text("a"), text("", "stop", error={"message": "no"})), UpstreamSaid),
        (sse(text("a"), [1]), ProtocolError),
        (sse(text("a"), {"choices": 5}), ProtocolError),
        (sse(text("a"), {"choices": [5]}), ProtocolError),
        (sse(text("a", "stop", index=None)), ProtocolError),  # type: ignore[arg-type]
        (sse(text("a")) + b"data: x\n\n", ProtocolError),
        (b"data: " + b"x" * (MAX_EVENT + 1) + b"\n\n", ProtocolError),
    ],
)
def test_a_completion_that_broke_off_is_no_answer(body: bytes, error: type[UpstreamError]) -> None:
    with pytest.raises(error):
        completed(body)
