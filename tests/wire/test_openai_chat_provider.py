import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from tests.wire.streams import MODEL, TRANSCRIPTS, Transcript, route

from tollbridge.errors import ProtocolError, UnsupportedField, UpstreamError
from tollbridge.wire import openai_chat
from tollbridge.wire.conversation import (
    Choice,
    Citation,
    Cited,
    Conversation,
    Document,
    Drawn,
    Event,
    Finish,
    Format,
    Image,
    Opaque,
    Reasoning,
    Refusal,
    RefusalDelta,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    Tool,
    ToolCall,
    ToolDelta,
    ToolResult,
    ToolStart,
    Turn,
)
from tollbridge.wire.errors import UpstreamSaid
from tollbridge.wire.openai_chat_provider import ChatReader, OpenAiChat

CHAT = tuple(transcript for transcript in TRANSCRIPTS if transcript.endpoint == "chat")
USER = Turn(role="user", parts=(Text(text="Hi"),))


def said(*turns: Turn, **more: Any) -> Conversation:
    return Conversation(origin="anthropic", turns=turns or (USER,), **more)


def sent(conversation: Conversation, limit: int | None = None, **changes: Any) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(OpenAiChat().outgoing(conversation, route(**changes), limit).body)
    return body


def messages(*turns: Turn, **changes: Any) -> list[Any]:
    found: list[Any] = sent(said(*turns), **changes)["messages"]
    return found


def read(*pieces: bytes) -> tuple[list[Event], ChatReader]:
    reader = ChatReader()
    events = [event for piece in pieces for event in reader.feed(piece)]
    return events + reader.eof(), reader


def merged(events: list[Event]) -> list[Event]:
    """The same events however their text was cut."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        match event, last:
            case TextDelta(), TextDelta():
                found[-1] = TextDelta(last.text + event.text, event.choice)
            case ThinkingDelta(), ThinkingDelta():
                found[-1] = ThinkingDelta(last.text + event.text, event.choice)
            case ToolDelta(), ToolDelta() if last.index == event.index:
                found[-1] = ToolDelta(event.index, last.arguments + event.arguments, event.choice)
            case _:
                found.append(event)
    return found


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish, **more}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


def calls(*pieces: dict[str, Any] | list[dict[str, Any]]) -> list[Event]:
    """What calls of tools in pieces are read as, one chunk a piece."""
    lists = [piece if isinstance(piece, list) else [piece] for piece in pieces]
    events, reader = read(*(chunk({"tool_calls": piece}) for piece in lists), chunk({}, "tool_calls"))
    assert reader.failed is None
    return merged(events)[:-1]


def call(name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {**more, "function": {key: value for key, value in function.items() if value is not None}}


# --- Requests ---


def test_what_chat_can_say_is_the_same_after_translation() -> None:
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": "Be brief"},
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "https://a.b/c.png", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}},
                    {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "wav"}},
                    {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,CCCC"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "not json"}},
                ],
                "reasoning_content": "Hm",
            },
            {"role": "tool", "tool_call_id": "c1", "content": "1"},
            {"role": "tool", "tool_call_id": "c2", "content": "2"},
            {"role": "assistant", "content": None, "refusal": "No"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 4,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "logprobs": True,
        "top_logprobs": 3,
        "logit_bias": {"5": -100},
        "stop": ["end"],
        "user": "u1",
        "n": 2,
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True},
            }
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"a": 1}, "strict": True}},
        "reasoning_effort": "low",
        "verbosity": "low",
    }
    asked = openai_chat.parse(json.dumps({"model": MODEL, **body}).encode())
    assert sent(asked.conversation()) == {"model": "upstream-name", **body}


def test_the_smaller_limit_goes_out_by_the_name_that_the_provider_reads() -> None:
    changes = {"renames": (("max_tokens", "max_completion_tokens"),)}
    assert sent(said(max_tokens=9), 5, **changes)["max_completion_tokens"] == 5
    assert sent(said(max_tokens=4), 5)["max_tokens"] == 4
    assert "max_tokens" not in sent(said())


def test_what_nobody_asked_for_is_not_sent() -> None:
    assert sent(said()) == {"model": "upstream-name", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(("kind", "type_"), [("text", "text"), ("json", "json_object")])
def test_a_plain_format_is_only_its_type(kind: Any, type_: str) -> None:
    assert sent(said(format=Format(kind=kind)))["response_format"] == {"type": type_}


@pytest.mark.parametrize(
    ("media_type", "title", "name"),
    [("text/csv", "a.csv", "a.csv"), ("text/csv", "", "document.csv"), ("", "", "document.pdf")],
)
def test_a_file_has_a_name(media_type: str, title: str, name: str) -> None:
    turn = Turn(role="user", parts=(Document(data="AAAA", media_type=media_type, title=title),))
    assert messages(turn)[0]["content"][0]["file"]["filename"] == name


def test_usage_is_asked_for_where_the_provider_lets_itself_be_asked() -> None:
    assert sent(said(stream=True))["stream_options"] == {"include_usage": True}
    assert "stream_options" not in sent(said(stream=True), stream_usage=False)


def test_fields_that_a_provider_refuses_are_left_out_and_noted() -> None:
    outgoing = OpenAiChat().outgoing(said(seed=5), route(drops=("seed", "user")), None)
    assert "seed" not in json.loads(outgoing.body)
    assert outgoing.dropped == ("seed",)


def test_marks_for_a_prompt_cache_are_noted_once_wherever_they_are() -> None:
    marked = Text(text="a", cache="5m")
    tools = (Tool(name="f", cache="5m"),)
    for role in ("system", "user", "assistant"):
        turns = (Turn(role=role, parts=(marked,)), Turn(role="user", parts=(Text(text="b"),)))
        for offered in ((), tools):
            outgoing = OpenAiChat().outgoing(said(*turns, tools=offered), route(), None)
            assert outgoing.dropped == ("cache_control",)
            assert b"cache_control" not in outgoing.body


def test_what_a_tool_showed_follows_in_a_message_of_the_user() -> None:
    result = ToolResult(id="c1", name="look", parts=(Text(text="seen"), Image(url="https://a.b/c.png")))
    other = ToolResult(id="c2", name="look", parts=(Text(text="nothing"),))
    shown = messages(USER, Turn(role="tool", parts=(result,)), Turn(role="tool", parts=(other,)))
    assert [message["role"] for message in shown] == ["user", "tool", "tool", "user"]
    assert [message["content"] for message in shown[1:3]] == ["seen", "nothing"]
    assert shown[3]["content"][1] == {"type": "image_url", "image_url": {"url": "https://a.b/c.png"}}


def test_thoughts_go_back_within_a_turn_of_the_user_where_they_are_taken() -> None:
    thought = Turn(role="assistant", parts=(Thinking(text="Hm"), Text(text="a")))
    foreign = Turn(role="assistant", parts=(Thinking(text="Hm", signature="s", origin="anthropic"), Text(text="a")))
    assert messages(USER, thought)[1]["reasoning_content"] == "Hm"
    assert "reasoning_content" not in messages(USER, thought, USER)[1]
    assert "reasoning_content" not in messages(USER, thought, drops=("reasoning_content",))[1]
    assert "reasoning_content" not in messages(USER, foreign)[1]
    proven = Turn(role="assistant", parts=(Thinking(text="Hm", signature="[1]", origin="openai_chat"), Text(text="a")))
    assert messages(USER, proven)[1]["reasoning_details"] == [1]
    assert "reasoning_details" not in messages(USER, proven, drops=("reasoning_content",))[1]


def test_a_document_of_text_is_text() -> None:
    turn = Turn(role="user", parts=(Document(text="Once", title="Tale"), Text(text="?")))
    assert messages(turn)[0]["content"][0] == {"type": "text", "text": "Tale\n\nOnce"}


@pytest.mark.parametrize(
    ("reasoning", "effort"),
    [
        (Reasoning(effort="xhigh"), "xhigh"),
        (Reasoning(budget=1024), "low"),
        (Reasoning(budget=8000), "medium"),
        (Reasoning(budget=32000), "high"),
        (Reasoning(budget=0), None),
        (Reasoning(shown=True), None),
    ],
)
def test_a_budget_of_thoughts_becomes_an_effort(reasoning: Reasoning, effort: str | None) -> None:
    assert sent(said(reasoning=reasoning)).get("reasoning_effort") == effort


@pytest.mark.parametrize(
    ("conversation", "param"),
    [
        (said(top_k=5), "top_k"),
        (said(extras={"thinking_mode": Raw(b"1")}), "thinking_mode"),
        (
            said(Turn(role="user", parts=(Opaque(origin="anthropic", json=Raw(b"{}"), param="messages[0]"),))),
            "messages[0]",
        ),
        (said(Turn(role="user", parts=(Document(url="https://a.b"), Text(text="a")))), "turns"),
        (said(Turn(role="assistant", parts=(Document(text="a"),))), "turns"),
    ],
)
def test_what_chat_cannot_say_is_named_or_left_out_where_that_is_allowed(
    conversation: Conversation, param: str
) -> None:
    with pytest.raises(UnsupportedField) as caught:
        sent(conversation)
    assert caught.value.param == param
    lenient = Conversation(
        **{**{name: getattr(conversation, name) for name in conversation.__struct_fields__}, "lenient": True}
    )
    assert param in OpenAiChat().outgoing(lenient, route(), None).dropped


def test_hints_of_openai_go_to_openai_alone() -> None:
    hints = {"prompt_cache_key": Raw(b'"k"'), "metadata": Raw(b"{}")}
    assert sent(said(hints=hints), provider="openai")["prompt_cache_key"] == "k"
    assert "prompt_cache_key" not in sent(said(hints=hints))


def test_a_tool_without_a_schema_takes_nothing() -> None:
    [tool] = sent(said(tools=(Tool(name="f"),)))["tools"]
    assert tool["function"]["parameters"] == {"type": "object", "properties": {}}


# --- Streams ---


@pytest.mark.parametrize("transcript", CHAT, ids=lambda transcript: transcript.name)
def test_streams_of_every_provider_are_read(transcript: Transcript) -> None:
    events, reader = read(transcript.raw)
    assert reader.failed is None
    text = ""
    for event in events:
        match event:
            case TextDelta() | ThinkingDelta():
                text += event.text
            case ToolStart():
                text += event.name
            case ToolDelta():
                text += event.arguments
    assert text == transcript.text
    assert isinstance(events[-1], Finish)
    assert events[-1].native == transcript.finish
    usage = reader.usage
    assert usage is not None
    assert (usage.prompt, usage.cache_read, usage.output, usage.reasoning) == transcript.usage


@pytest.mark.parametrize("transcript", CHAT, ids=lambda transcript: transcript.name)
def test_a_stream_cut_anywhere_is_the_same(transcript: Transcript) -> None:
    whole, reader = read(transcript.raw)
    expected = merged(whole)
    for cut in range(len(transcript.raw)):
        found, other = read(transcript.raw[:cut], transcript.raw[cut:])
        assert merged(found) == expected
        assert (other.usage, other.failed, other.done) == (reader.usage, None, reader.done)


WEATHER = [ToolStart(0, "c1", "f"), ToolDelta(0, '{"a":1}')]


@pytest.mark.parametrize(
    "pieces",
    [
        [call("f", "", index=0, id="c1"), call(None, '{"a"', index=0), call(None, ":1}", index=0)],
        [call("f", '{"a":1}', index=0, id="c1")],
        [call("f", '{"a"', id="c1"), call(None, ":1}")],
        [call("f", '{"a"', id="c1"), call(None, ":1}", id="c1")],
        [call("f", '{"a"', index=0, id="c1"), call("f", ":1}", index=0, id="c1")],
        [call(None, "", index=0, id="c1"), call("f", '{"a":1}', index=0)],
        [call(None, '{"a"', index=0, id="c1"), call("f", ":1}", index=0)],
        [call("f", {"a": 1}, index=0, id="c1")],
        [call("f", '{"a"', index=0, id="c1"), call(None, ":1}", index=0, id="other")],
    ],
)
def test_a_call_in_any_pieces_is_one_call(pieces: list[dict[str, Any]]) -> None:
    found = calls(*pieces)
    assert found[0] == WEATHER[0]
    assert json.loads(found[1].arguments) == {"a": 1}  # type: ignore[union-attr]
    assert len(found) == 2


@pytest.mark.parametrize(
    "pieces",
    [
        [call("f", "1", index=0, id="c1"), call("g", "2", index=1, id="c2")],
        [call("f", "1", index=0, id="c1"), call("g", "2", index=0, id="c2")],
        [[call("f", "1", id="c1"), call("g", "2", id="c2")]],
        [call("f", "1", index=0, id="c1"), call("g", "", index=1, id="c2"), call(None, "2", index=1)],
        [call("f", "", index=3, id="c1"), call(None, "1", index=3), call("g", "2", index=7, id="c2")],
    ],
)
def test_two_calls_are_told_apart(pieces: list[Any]) -> None:
    assert calls(*pieces) == [ToolStart(0, "c1", "f"), ToolDelta(0, "1"), ToolStart(1, "c2", "g"), ToolDelta(1, "2")]


def test_calls_without_ids_get_different_ones_that_do_not_change() -> None:
    pieces = [[call("f", "1"), call("f", "2")]]
    found = calls(*pieces)
    assert found == calls(*pieces)
    first, second = (event.id for event in found if isinstance(event, ToolStart))
    assert first != second


def test_pictures_are_read_and_go_back_where_they_had_stood() -> None:
    shown = [{"type": "image_url", "image_url": {"url": url}, "index": 0} for url in ("data:image/webp;base64,UklG",)]
    picture = Image(data="UklG", media_type="image/webp")
    streamed = chunk({"content": "Here", "images": shown}) + chunk({"images": "none of ours"}, "stop")
    assert read(streamed)[0] == [TextDelta("Here"), Drawn(picture), Finish("stop", native="stop")]
    message = {"role": "assistant", "content": "Here", "images": shown}
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    [choice] = OpenAiChat().reply(json.dumps(body).encode()).choices
    assert choice.parts == (Text(text="Here"), picture)
    assert messages(Turn(role="assistant", parts=choice.parts))[0] == message


def test_the_older_function_call_is_a_call() -> None:
    pieces = [{"function_call": {"name": "f", "arguments": ""}}, {"function_call": {"arguments": "{}"}}]
    events, _ = read(*(chunk(piece) for piece in pieces), chunk({}, "function_call"))
    start, delta, finish = events
    assert isinstance(start, ToolStart)
    assert (start.name, delta, finish) == ("f", ToolDelta(0, "{}"), Finish("tool_calls", native="function_call"))


def test_refusals_citations_and_logprobs_are_read() -> None:
    found = {
        "type": "url_citation",
        "url_citation": {"url": "https://a", "title": "T", "start_index": 0, "end_index": 1},
    }
    events, _ = read(
        chunk({"content": "a"}, logprobs={"content": []}),
        chunk({"annotations": [found]}),
        chunk({"refusal": "No"}),
        chunk({}, "stop"),
    )
    text, cited, refusal, finish = events
    assert isinstance(text, TextDelta)
    assert text.logprobs is not None
    assert json.loads(bytes(text.logprobs)) == {"content": []}
    assert cited == Cited(Citation(url="https://a", title="T", start=0, end=1))
    assert (refusal, finish) == (RefusalDelta("No"), Finish("refused", native="stop"))


DETAILS = [
    {
        "type": "reasoning.text",
        "text": "Hm",
        "signature": "sig",
        "id": "r1",
        "format": "anthropic-claude-v1",
        "index": 0,
    },
    {"type": "reasoning.encrypted", "data": "xyz", "id": "c1", "index": 1},
]


def test_addresses_beside_the_choices_are_citations() -> None:
    urls = ["https://a.example", "https://b.example"]
    sources = tuple(Citation(url=url) for url in urls)
    beside = [
        dict(json.loads(chunk({"content": text}, finish)[6:]), citations=urls)
        for text, finish in (("a", None), ("b", "stop"))
    ]
    events, _ = read(*(b"data: " + json.dumps(each).encode() + b"\n\n" for each in beside))
    assert merged(events) == [TextDelta("ab"), *map(Cited, sources), Finish("stop", native="stop")]
    body = {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}], "citations": urls}
    assert OpenAiChat().reply(json.dumps(body).encode()).choices[0].parts == (Text(text="a", citations=sources),)
    cited = {"type": "url_citation", "url_citation": {"url": "https://c.example"}}
    message = {"content": "a", "annotations": [cited]}
    with_both = {"choices": [{"message": message, "finish_reason": "stop"}], "citations": urls}
    own = (Citation(url="https://c.example"),)
    assert OpenAiChat().reply(json.dumps(with_both).encode()).choices[0].parts == (Text(text="a", citations=own),)
    body["citations"] = [{"text": "of another kind"}]
    assert OpenAiChat().reply(json.dumps(body).encode()).choices[0].parts == (Text(text="a"),)


def test_signatures_of_thoughts_come_back_as_the_server_wants_them() -> None:
    first, second = DETAILS
    events, _ = read(
        chunk({"reasoning": "H", "reasoning_details": [{**first, "text": "H", "signature": None}]}),
        chunk({"reasoning": "m", "reasoning_details": [{**first, "text": "m", "signature": None, "id": None}]}),
        chunk({"reasoning_details": [{**first, "text": None}]}),
        chunk({"reasoning_details": [second]}),
        chunk({"content": "a"}),
        chunk({}, "stop"),
    )
    thought, end, text, _ = merged(events)
    assert (thought, text) == (ThinkingDelta("Hm"), TextDelta("a"))
    assert isinstance(end, ThinkingEnd)
    assert json.loads(end.signature) == DETAILS
    whole = reply({"content": "a", "reasoning": "Hm", "reasoning_details": DETAILS}).parts[0]
    assert whole == Thinking(text="Hm", signature=end.signature, origin="openai_chat")
    [_, message] = messages(USER, Turn(role="assistant", parts=(whole, Text(text="a"))))
    assert (message["reasoning_content"], message["reasoning_details"]) == ("Hm", DETAILS)


def test_what_was_thought_before_the_text_stays_with_a_proof_that_comes_after_it() -> None:
    thought = {"type": "reasoning.text", "text": "Hm", "format": "google-gemini-v1", "index": 0}
    proof = {"type": "reasoning.encrypted", "data": "x", "format": "google-gemini-v1", "index": 1}
    events, _ = read(
        chunk({"reasoning": "Hm", "reasoning_details": [thought]}),
        chunk({"content": "a"}),
        chunk({"reasoning_details": [proof], "tool_calls": [{"index": 0, **call("f", "{}", id="c1")}]}),
        chunk({}, "tool_calls"),
    )
    [end] = [event for event in events if isinstance(event, ThinkingEnd)]
    assert json.loads(end.signature) == [thought, proof]


def test_thoughts_that_stand_in_details_alone_are_read() -> None:
    details = [{"type": "reasoning.summary", "summary": "Hm"}]
    assert read(chunk({"reasoning_details": details}))[0] == [ThinkingDelta("Hm")]
    assert read(chunk({"reasoning_details": "odd", "content": "a"}))[0] == [TextDelta("a")]


def test_half_a_character_becomes_a_question_mark() -> None:
    events, reader = read(b'data: {"choices":[{"index":0,"delta":{"content":"a\\ud83d"}}]}\n\n')
    assert (events, reader.failed) == ([TextDelta("a?")], None)


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (b'data: {"error":{"message":"overloaded","type":"overloaded_error"}}\n\n', UpstreamSaid),
        (b'event: error\ndata: {"message":"no"}\n\n', UpstreamSaid),
        (chunk({}, "error"), UpstreamSaid),
        (chunk({}, "network_error"), UpstreamSaid),
        (b'data: {"choices":null,"base_resp":{"status_code":1002}}\n\n', UpstreamSaid),
        (b'{"error":{"message":"no such model","code":404}}', UpstreamSaid),
        (b"<html>", ProtocolError),
        (b"data: {}\n\n", ProtocolError),
        (b"data: nonsense\n\n", ProtocolError),
        (b'data: {"choices":[{"delta":{"content":5}}]}\n\n', ProtocolError),
        (chunk({"tool_calls": [call(None, "1", index=0)]}) + chunk({}, "stop"), ProtocolError),
    ],
)
def test_what_goes_wrong_is_said(raw: bytes, kind: type[UpstreamError]) -> None:
    _, reader = read(raw)
    assert isinstance(reader.failed, kind)


def test_an_event_whose_choices_are_null_says_nothing() -> None:
    events, reader = read(chunk({"content": "a"}) + b'data: {"choices":null}\n\n')
    assert (events, reader.failed) == ([TextDelta("a")], None)


def test_a_chunk_of_nothing_says_nothing() -> None:
    nothing = b'data: {"object":"chat.completion.chunk","usage":null}\n\n'
    events, reader = read(nothing + chunk({"content": "a"}) + nothing)
    assert (events, reader.failed) == ([TextDelta("a")], None)


def test_after_the_end_only_usage_counts() -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    events, reader = read(chunk({"content": "a"}), b"data: [DONE]\n\n", chunk({"content": "b"}), usage)
    assert events == [TextDelta("a")]
    assert reader.done
    assert reader.usage is not None


@pytest.mark.parametrize(("between", "output"), [(b"", 3), (chunk({"content": "b"}), 2)])
def test_usage_after_the_end_corrects_what_was_said_unless_it_is_about_another_answer(
    between: bytes, output: int
) -> None:
    first, second = (
        b"data: " + json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": count}}).encode()
        for count in (2, 3)
    )
    _, reader = read(chunk({"content": "a"}), first + b"\n\ndata: [DONE]\n\n", between, second + b"\n\n")
    assert reader.usage is not None
    assert reader.usage.output == output


# --- Whole answers ---


def reply(message: dict[str, Any], finish: str = "stop", **more: Any) -> Choice:
    body = {"choices": [{"index": 0, "message": message, "finish_reason": finish, **more}], "usage": None}
    return OpenAiChat().reply(json.dumps(body).encode()).choices[0]


def test_a_whole_answer_is_read() -> None:
    choice = reply(
        {
            "content": "a",
            "reasoning": "Hm",
            "tool_calls": [call("f", '{"a":1}', id="c1"), call("g", {"b": 2}, id="c2"), call("h", id="c3")],
        },
        "stop",
    )
    assert choice.parts == (
        Thinking(text="Hm", origin="openai_chat"),
        Text(text="a"),
        ToolCall(id="c1", name="f", arguments='{"a":1}'),
        ToolCall(id="c2", name="g", arguments='{"b": 2}'),
        ToolCall(id="c3", name="h", arguments="{}"),
    )
    assert (choice.reason, choice.native) == ("tool_calls", "stop")


@pytest.mark.parametrize("native", ["length", "max_tokens", "model_length", "model_context_window_exceeded"])
def test_a_full_context_is_a_limit_like_any_other(native: str) -> None:
    assert reply({"content": "a"}, native).reason == "length"
    events, _ = read(chunk({"content": "a"}, native))
    assert events[-1] == Finish("length", native=native)


def test_a_refusal_is_one_whatever_the_reason_says() -> None:
    choice = reply({"content": None, "refusal": "No"})
    assert (choice.parts, choice.reason) == ((Refusal(text="No"),), "refused")


def test_an_answer_that_is_withheld_needs_no_message() -> None:
    body = {"choices": [{"index": 0, "finish_reason": "content_filter"}], "usage": None}
    choice = OpenAiChat().reply(json.dumps(body).encode()).choices[0]
    assert (choice.parts, choice.reason) == ((), "filtered")


def test_a_call_of_nothing_is_none() -> None:
    choice = reply({"content": "4", "function_call": {"name": "", "arguments": ""}, "tool_calls": None}, "")
    assert (choice.parts, choice.reason) == ((Text(text="4"),), "stop")


def test_thoughts_in_parts_of_content_are_thoughts() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "a"}]
    assert reply({"content": parts}).parts == (Thinking(text="Hm", origin="openai_chat"), Text(text="a"))


def test_usage_of_a_whole_answer_is_read() -> None:
    body = {"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    found = OpenAiChat().reply(json.dumps(body).encode())
    assert found.usage is not None
    assert (found.usage.prompt, found.usage.output, found.suspect) == (3, 4, False)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"choices":[]}',
        b'{"choices":[{}]}',
        b'{"choices":[{"message":{"tool_calls":[{"function":{}}]}}]}',
        b'{"choices":[{"message":{"content":5}}]}',
    ],
)
def test_an_answer_that_makes_no_sense_is_said_to_be_so(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        OpenAiChat().reply(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":"no"}',
        b'{"choices":[{"message":{"content":"a"},"finish_reason":"error"}]}',
        b'{"choices":[{"message":{"content":"a"},"finish_reason":"network_error"}]}',
        b'{"choices":[{"message":{"content":"a"},"error":{"code":504}}]}',
        b'{"choices":null,"base_resp":{"status_code":1004,"status_msg":"login fail"}}',
    ],
)
def test_an_error_in_an_answer_is_the_provider_s(body: bytes) -> None:
    with pytest.raises(UpstreamSaid):
        OpenAiChat().reply(body)


KEYS = ["choices", "delta", "message", "content", "tool_calls", "function", "name", "arguments", "index", "id", "usage"]
KEYS += [
    "finish_reason",
    "error",
    "reasoning_details",
    "annotations",
    "url_citation",
    "thinking",
    "refusal",
    "logprobs",
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "a", "stop", "\ud83d"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=15,
)


def _as_reply(body: bytes) -> None:
    OpenAiChat().reply(body)


def _as_stream(body: bytes) -> None:
    reader = ChatReader()
    reader.feed(b"data: " + body + b"\n\n")
    reader.eof()
    if reader.failed is not None:
        raise reader.failed


@pytest.mark.parametrize("attempt", [_as_reply, _as_stream])
@given(
    st.fixed_dictionaries({"choices": JSON | st.lists(st.fixed_dictionaries({"delta": JSON, "message": JSON}))}) | JSON
)
def test_whatever_comes_is_an_answer_or_said_to_be_none(attempt: Callable[[bytes], None], body: Any) -> None:
    try:
        attempt(json.dumps(body).encode())
    except (ProtocolError, UpstreamSaid):
        return
