import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter
from tests.wire.streams import CREATED, MODEL, RECEIPT, TRANSCRIPTS, Transcript, route
from tests.wire.streams import Text as Counted

from tollbridge.errors import ContextTooLong, UpstreamFailed
from tollbridge.values import Usage
from tollbridge.wire import responses_request, translate
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
from tollbridge.wire.exchange import Names
from tollbridge.wire.responses_client import ResponsesClient
from tollbridge.wire.responses_request import ResponsesRequest

ID = "resp_0123456789abcdef"
NAMES = Names(id=ID, model=MODEL, created=CREATED)
USAGE = Usage(input=10, cache_read=5, cache_write=2, output=7, reasoning=3)
LOGPROBS = Raw(b'{"content":[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[]}]}')
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
PATCH = {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}}
NAMESPACE = {
    "type": "namespace",
    "name": "mcp__files__",
    "description": "Files",
    "tools": [{"type": "function", "name": "read", "parameters": {}}],
}


def request(**fields: Any) -> ResponsesRequest:
    return responses_request.parse(json.dumps({"model": MODEL, "input": "Hi", **fields}).encode())


def rendered(*parts: Part, reason: Any = "stop", asked: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    reply = Reply(choices=(Choice(parts=parts, reason=reason, **more),), usage=USAGE)
    body: dict[str, Any] = json.loads(ResponsesClient().render(request(**(asked or {})), NAMES, reply, RECEIPT))
    Response.model_validate(body)
    return body


def events(data: bytes) -> list[dict[str, Any]]:
    """A stream's events, each checked against the published types, in order."""
    read = []
    for number, block in enumerate(data.split(b"\n\n")[:-1]):
        name, _, payload = block.partition(b"\n")
        event = json.loads(payload.removeprefix(b"data: "))
        assert name == b"event: " + event["type"].encode()
        assert event["sequence_number"] == number
        EVENT.validate_python(event)
        read.append(event)
    return read


def streamed(happened: list[Event], finish: Finish | None = None, **fields: Any) -> list[dict[str, Any]]:
    writer = ResponsesClient().writer(request(stream=True, **fields), NAMES)
    data = b"".join(writer.write([event]) for event in happened)
    return events(data + writer.end(Tail(finishes=(finish or Finish("stop"),), usage=USAGE, receipt=RECEIPT)))


def put_together(read: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The items that the pieces make, as a client puts them together that looks at nothing but additions and pieces."""
    items: dict[int, dict[str, Any]] = {}
    for event in read:
        match event["type"].removeprefix("response."):
            case "output_item.added":
                items[event["output_index"]] = {"type": event["item"]["type"], "id": event["item"]["id"], "text": ""}
            case kind if kind.endswith(".delta"):
                item = items[event["output_index"]]
                assert item["id"] == event["item_id"]
                item["text"] += event["delta"]
    return [items[index] for index in sorted(items)]


def said_by(item: dict[str, Any]) -> str:
    match item["type"]:
        case "message":
            return "".join(part.get("text") or part.get("refusal") for part in item["content"])
        case "reasoning":
            return "".join(part["text"] for part in item.get("content") or item["summary"])
        case "custom_tool_call":
            return str(item["input"])
        case "function_call":
            return str(item["arguments"])
    return ""


# --- Whole answers ---


def test_a_response_says_all_that_was_asked_and_what_it_cost() -> None:
    function = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    body = rendered(
        Text(text="Hello"),
        asked={
            "instructions": "Be brief",
            "tools": [function],
            "temperature": 0.5,
            "max_output_tokens": 9,
            "metadata": {"a": "b"},
            "reasoning": {"effort": "low"},
            "text": {"verbosity": "low"},
            "store": True,
            "parallel_tool_calls": False,
        },
    )
    assert (body["id"], body["model"], body["created_at"], body["object"]) == (ID, MODEL, CREATED, "response")
    assert body["completed_at"] == CREATED + 9
    assert (body["status"], body["error"], body["incomplete_details"]) == ("completed", None, None)
    assert (body["instructions"], body["temperature"], body["max_output_tokens"]) == ("Be brief", 0.5, 9)
    assert (body["metadata"], body["parallel_tool_calls"], body["store"]) == ({"a": "b"}, False, False)
    assert body["reasoning"] == {"effort": "low", "summary": None}
    assert body["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert body["tools"] == [{**function, "description": None, "strict": None}]
    assert body["usage"] == {
        "input_tokens": 17,
        "input_tokens_details": {"cached_tokens": 5, "cache_write_tokens": 2},
        "output_tokens": 7,
        "output_tokens_details": {"reasoning_tokens": 3},
        "total_tokens": 24,
        "cost": 0.000123,
        "cost_details": {
            "upstream_inference_cost": 0.0001,
            "upstream_inference_input_cost": 0.00006,
            "upstream_inference_output_cost": 0.00004,
        },
        "balance": 9.999877,
    }
    [item] = body["output"]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert item["content"] == [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}]


SAID: tuple[Part, ...] = (
    Thinking(text="Hm", signature="sig", origin="anthropic"),
    Thinking(redacted="xyz", origin="anthropic"),
    Text(text="Wait"),
    ToolCall(id="c1", name="f", arguments='{"a":1}', signature="ts", origin="gemini"),
    ToolCall(id="c2", name="mcp__files__read", arguments="{}"),
    ToolCall(id="c3", name="apply_patch", arguments='{"input":"*** Begin"}'),
)


def test_what_was_said_comes_back_as_it_went_out() -> None:
    tools = [{"type": "function", "name": "f"}, NAMESPACE, PATCH]
    body = rendered(*SAID, reason="tool_calls", asked={"tools": tools})
    assert [item["type"] for item in body["output"]] == [
        *("reasoning", "reasoning", "message", "reasoning", "function_call", "function_call", "custom_tool_call"),
    ]
    assert len({item["id"] for item in body["output"]}) == len(body["output"])
    [turn] = request(input=body["output"], tools=tools).conversation().turns
    assert turn.parts == SAID


def test_clients_that_keep_only_what_is_encrypted_lose_nothing() -> None:
    output = rendered(*SAID)["output"]
    for item in output:
        item.pop("content", None) if item["type"] == "reasoning" else None
    [turn] = request(input=output).conversation().turns
    assert turn.parts[0] == SAID[0]


def test_tools_keep_the_names_that_the_caller_gave_them() -> None:
    output = rendered(*SAID[3:], asked={"tools": [NAMESPACE, PATCH]})["output"]
    assert (output[2]["namespace"], output[2]["name"]) == ("mcp__files__", "read")
    assert (output[3]["name"], output[3]["input"]) == ("apply_patch", "*** Begin")


def test_a_shell_on_the_caller_s_machine_is_called_in_its_own_words() -> None:
    call = ToolCall(id="c1", name="local_shell", arguments='{"command":["ls","-l"],"timeout_ms":5}')
    [item] = rendered(call, asked={"tools": [{"type": "local_shell"}]})["output"]
    assert item["type"] == "local_shell_call"
    assert item["action"] == {"type": "exec", "command": ["ls", "-l"], "env": {}, "timeout_ms": 5}


def test_a_search_for_tools_is_the_caller_s() -> None:
    search = {"type": "tool_search", "execution": "client", "parameters": {"type": "object"}}
    call = ToolCall(id="c1", name="tool_search", arguments='{"query": "files"}')
    [item] = rendered(call, asked={"tools": [search]})["output"]
    assert (item["type"], item["execution"], item["arguments"]) == ("tool_search_call", "client", {"query": "files"})
    read = streamed([ToolStart(0, "c1", "tool_search"), ToolDelta(0, '{"query": '), ToolDelta(0, "1}")], tools=[search])
    assert read[-1]["response"]["output"][0]["arguments"] == {"query": 1}


def test_thoughts_are_summaries_to_those_who_asked_for_them() -> None:
    [item] = rendered(Thinking(text="Hm"), asked={"reasoning": {"summary": "auto"}})["output"]
    assert item["summary"] == [{"type": "summary_text", "text": "Hm"}]
    [item] = rendered(Thinking(text="Hm"))["output"]
    assert (item["summary"], item["content"]) == ([], [{"type": "reasoning_text", "text": "Hm"}])


@pytest.mark.parametrize(
    ("parts", "reason", "status", "why"),
    [
        ((Text(text="a"),), "length", "incomplete", "max_output_tokens"),
        ((Text(text="a"),), "filtered", "incomplete", "content_filter"),
        ((), "refused", "incomplete", "content_filter"),
        ((Refusal(text="No"),), "refused", "completed", None),
        ((Text(text="a"),), "stop_sequence", "completed", None),
        ((), "stop", "completed", None),
    ],
)
def test_how_it_ended_is_said(parts: tuple[Part, ...], reason: Any, status: str, why: str | None) -> None:
    body = rendered(*parts, reason=reason)
    assert body["status"] == status
    assert (body["incomplete_details"] or {}).get("reason") == why
    if parts:
        assert body["output"][-1]["status"] == status


def test_tokens_without_bytes_have_a_list_of_none() -> None:
    other = {"token": "<|end|>", "logprob": -0.8, "bytes": None}
    given = {
        "content": [
            {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [other]},
            {"token": "b", "logprob": 0},
        ]
    }
    [item] = rendered(Text(text="ab"), logprobs=Raw(json.dumps(given).encode()))["output"]
    first, second = item["content"][0]["logprobs"]
    assert first == {**given["content"][0], "top_logprobs": [{**other, "bytes": []}]}
    assert second == {"token": "b", "logprob": 0, "bytes": [], "top_logprobs": []}


def test_citations_and_logprobs_stand_at_their_text() -> None:
    cited = Text(text="so", citations=(Citation(url="https://a.b", title="T"),))
    [item] = rendered(cited, logprobs=LOGPROBS)["output"]
    [part] = item["content"]
    assert part["annotations"] == [
        {"type": "url_citation", "start_index": 0, "end_index": 2, "url": "https://a.b", "title": "T"}
    ]
    assert part["logprobs"][0]["token"] == "a"


# --- Streams ---

HAPPENED: list[Event] = [
    ThinkingDelta("H"),
    ThinkingDelta("m"),
    ThinkingEnd(signature="sig", origin="anthropic"),
    ThinkingEnd(redacted="xyz", origin="anthropic"),
    TextDelta("Wa"),
    TextDelta("it", logprobs=LOGPROBS),
    Cited(Citation(url="https://a.b")),
    ToolStart(0, "c1", "f", signature="ts", origin="gemini"),
    ToolDelta(0, '{"a":'),
    ToolStart(1, "c2", "mcp__files__read"),
    ToolDelta(0, "1}"),
    ToolStart(2, "c3", "apply_patch"),
    ToolDelta(2, '{"input":"*** '),
    ToolDelta(2, 'Begin"}'),
]


@pytest.mark.parametrize("summary", [None, "auto"])
def test_a_stream_says_what_the_whole_answer_says(summary: str | None) -> None:
    asked = {"tools": [{"type": "function", "name": "f"}, NAMESPACE, PATCH], "reasoning": {"summary": summary}}
    read = streamed(HAPPENED, Finish("tool_calls"), **asked)
    final = read[-1]["response"]
    whole = rendered(*SAID, reason="tool_calls", asked=asked)
    text = whole["output"][2]["content"][0]
    text["logprobs"] = final["output"][2]["content"][0]["logprobs"]
    text["annotations"] = final["output"][2]["content"][0]["annotations"]
    assert final == whole
    assert len(text["annotations"]) == len(text["logprobs"]) == 1
    assert [event["type"] for event in read[:2]] == ["response.created", "response.in_progress"]
    assert read[-1]["type"] == "response.completed"
    done = [event["item"] for event in read if event["type"] == "response.output_item.done"]
    assert sorted(done, key=lambda item: str(item["id"])) == sorted(final["output"], key=lambda item: str(item["id"]))
    pieces = put_together(read)
    assert [(item["type"], item["text"]) for item in pieces] == [
        (item["type"], said_by(item)) for item in final["output"]
    ]


def test_pictures_are_items_of_their_own_and_come_back_as_they_went_out() -> None:
    picture, elsewhere = Image(data="/9j/x", media_type="image/jpeg"), Image(url="https://a.b/c.png")
    whole = rendered(Text(text="so"), picture, elsewhere, reason="length")
    read = streamed([TextDelta("so"), Drawn(picture), Drawn(elsewhere)], Finish("length"))
    said, drawn, other = read[-1]["response"]["output"]
    assert [item["content"][0]["text"] for item in (said, other)] == ["so", "![picture](https://a.b/c.png)"]
    shown = {"type": "image_generation_call", "status": "completed", "result": "/9j/x", "output_format": "jpeg"}
    assert drawn == whole["output"][1] == {**shown, "id": drawn["id"]}
    steps = [event["type"] for event in read if event.get("output_index") == 1]
    assert steps == [
        "response.output_item.added",
        *(f"response.image_generation_call.{step}" for step in ("in_progress", "generating", "completed")),
        "response.output_item.done",
    ]
    [turn] = request(input=whole["output"]).conversation().turns
    assert turn.parts == (Text(text="so"), picture, Text(text="![picture](https://a.b/c.png)"))
    assert len(request(input=[{**shown, "result": "/9j/" + "A" * 90_000}]).prompt().pictures) == 1
    assert len(request(input=[{**shown, "result": "/9j/" + "A" * 90_000}]).prompt().text) < 300


def test_everything_that_opens_closes() -> None:
    read = streamed([*HAPPENED, RefusalDelta("N"), TextDelta("o"), RefusalDelta("p")])
    opened = [event for event in read if event["type"].endswith(".added") and "annotation" not in event["type"]]
    closed = [event for event in read if event["type"].endswith(("item.done", "part.done"))]
    assert len(opened) == len(closed)
    [message] = [item for item in read[-1]["response"]["output"] if item["type"] == "message"][1:]
    assert [part["type"] for part in message["content"]] == ["refusal", "output_text", "refusal"]


@pytest.mark.parametrize(
    ("finish", "kind"),
    [
        (Finish("length"), "response.incomplete"),
        (Finish("filtered"), "response.incomplete"),
        (Finish("stop"), "response.completed"),
    ],
)
def test_the_last_event_says_how_it_ended(finish: Finish, kind: str) -> None:
    read = streamed([TextDelta("a")], finish)
    assert read[-1]["type"] == kind
    completed = CREATED + 9 if kind == "response.completed" else None
    assert [event["response"]["completed_at"] for event in (read[0], read[-1])] == [None, completed]
    assert read[-1]["response"]["usage"]["cost"] == 0.000123


def test_an_answer_of_nothing_is_a_whole_stream() -> None:
    assert [event["type"] for event in streamed([])] == [
        *("response.created", "response.in_progress", "response.completed"),
    ]


def test_an_answer_that_broke_off_fails_with_what_was_said() -> None:
    writer = ResponsesClient().writer(request(stream=True), NAMES)
    read = events(writer.write([TextDelta("a")]) + writer.fail(UpstreamFailed("gone")))
    error, failed = read[-2:]
    flat = {"code": "upstream_unavailable", "message": "gone", "param": None}
    assert {name: value for name, value in error.items() if name != "sequence_number"} == {
        "type": "error",
        **flat,
        "error": {"type": "upstream_error", **flat},
    }
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"] == {"code": "server_error", "message": "gone"}
    assert failed["response"]["output"][0]["status"] == "incomplete"


def test_codes_that_clients_act_on_are_kept() -> None:
    # Not in the published types, but sent by OpenAI, and what Codex makes room for.
    writer = ResponsesClient().writer(request(stream=True), NAMES)
    last = json.loads(writer.fail(ContextTooLong("long")).split(b"\n\n")[-2].partition(b"\ndata: ")[2])
    assert last["response"]["error"]["code"] == "context_length_exceeded"


def test_an_end_before_its_time_says_why() -> None:
    writer = ResponsesClient().writer(request(stream=True), NAMES)
    tail = Tail(finishes=(Finish("length"),), usage=None, receipt=None, detail="credit ran out")
    last = events(writer.write([TextDelta("a")]) + writer.end(tail))[-1]
    assert (last["type"], last["response"]["detail"]) == ("response.incomplete", "credit ran out")


CHAT = tuple(transcript for transcript in TRANSCRIPTS if transcript.endpoint == "chat")


@pytest.mark.parametrize("transcript", CHAT, ids=lambda transcript: transcript.name)
def test_streams_of_every_provider_reach_the_caller_cut_anywhere(transcript: Transcript) -> None:
    exchange = translate.exchange(request(stream=True), route(), ID, CREATED, None)

    def final(*pieces: bytes) -> dict[str, Any]:
        stream = exchange.stream(Counted())
        data = b"".join(stream.feed(piece) for piece in pieces) + stream.eof()
        assert stream.failed is None
        last = (data + stream.end(RECEIPT)).split(b"\n\n")[-2]
        response: dict[str, Any] = json.loads(last.partition(b"\ndata: ")[2])["response"]
        return response

    whole = final(transcript.raw)
    assert events_text(whole) == transcript.text
    assert whole["status"] == ("incomplete" if transcript.finish == "length" else "completed")
    for cut in range(0, len(transcript.raw), 1 if transcript.name == "groq" else 7):
        assert final(transcript.raw[:cut], transcript.raw[cut:]) == whole


def events_text(response: dict[str, Any]) -> str:
    return "".join(item.get("name", "") + said_by(item) for item in response["output"])


PIECE = st.one_of(
    st.builds(TextDelta, st.text(max_size=3), logprobs=st.none() | st.sampled_from([LOGPROBS, Raw(b"5"), Raw(b"{}")])),
    st.builds(ThinkingDelta, st.text(max_size=3)),
    st.builds(ThinkingEnd, st.sampled_from(["", "s"]), st.sampled_from(["", "r"])),
    st.builds(RefusalDelta, st.text(max_size=3)),
    st.builds(Cited, st.just(Citation(url="u"))),
    st.builds(
        ToolStart,
        st.integers(0, 2),
        st.just("c"),
        st.sampled_from(["f", "apply_patch"]),
        signature=st.sampled_from(["", "s"]),
    ),
    st.builds(ToolDelta, st.integers(0, 3), st.text(max_size=3)),
)


@given(st.lists(PIECE, max_size=8))
def test_whatever_happens_is_a_stream_that_a_client_can_read(happened: list[Event]) -> None:
    read = streamed(happened, tools=[PATCH])
    assert read[-1]["type"] == "response.completed"
    done = [event["item"]["id"] for event in read if event["type"] == "response.output_item.done"]
    assert sorted(done) == sorted(item["id"] for item in read[-1]["response"]["output"])


def test_line_ends_in_the_request_end_no_line_of_the_stream() -> None:
    body = json.dumps({"model": MODEL, "input": "Hi", "metadata": {"a": "b"}, "tools": [NAMESPACE]}, indent=1)
    asked = responses_request.parse(body.replace("\n", "\r\n").encode())
    writer = ResponsesClient().writer(asked, NAMES)
    data = writer.write([TextDelta("Hi")]) + writer.end(Tail(finishes=(Finish("stop"),), usage=None, receipt=None))
    assert b"\r" not in data
    created, *_, completed = events(data)
    assert created["response"]["metadata"] == completed["response"]["metadata"] == {"a": "b"}
