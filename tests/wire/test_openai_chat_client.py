import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from tests.wire.streams import CREATED, ID, MODEL, MONEY, RECEIPT, events

from tollbridge.errors import InvalidRequest, UpstreamFailed
from tollbridge.values import Preferences, Usage
from tollbridge.wire import openai_chat
from tollbridge.wire.conversation import (
    Audio,
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
    Part,
    Reasoning,
    Refusal,
    RefusalDelta,
    Reply,
    Text,
    TextDelta,
    Thinking,
    ThinkingDelta,
    ThinkingEnd,
    Tool,
    ToolCall,
    ToolChoice,
    ToolDelta,
    ToolResult,
    ToolStart,
    Turn,
)
from tollbridge.wire.dialect import Tail
from tollbridge.wire.exchange import Names, Receipt
from tollbridge.wire.openai_chat_client import ChatClient

NAMES = Names(id=ID, model=MODEL, created=CREATED)
USAGE = Usage(input=10, cache_read=5, output=7, reasoning=3)
LOGPROBS = Raw(b'{"content":[{"token":"a","logprob":-0.5,"bytes":[97],"top_logprobs":[]}],"refusal":null}')


def request(messages: Any = None, **more: Any) -> openai_chat.ChatRequest:
    body = {"model": MODEL, "messages": messages or [{"role": "user", "content": "Hi"}], **more}
    return openai_chat.parse(json.dumps(body).encode())


def conversation(messages: Any = None, **more: Any) -> Conversation:
    return request(messages, **more).conversation()


def parts_of(message: dict[str, Any]) -> tuple[Part, ...]:
    return conversation([message]).turns[0].parts


def rendered(*parts: Part, reason: Any = "stop", asked: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The only choice of an answer."""
    reply = Reply(choices=(Choice(parts=parts, reason=reason, **more),), usage=USAGE)
    body = json.loads(ChatClient().render(request(**(asked or {})), NAMES, reply, RECEIPT))
    ChatCompletion.model_validate(body)
    choice: dict[str, Any] = body["choices"][0]
    return choice


def streamed(happened: list[Event], *finishes: Finish, asked: bool | None = None, **more: Any) -> list[Any]:
    """What a client reads of a stream, each event checked against the published types."""
    if asked is not None:
        more["stream_options"] = {"include_usage": asked}
    writer = ChatClient().writer(request(stream=True, **more), NAMES)
    data = b"".join(writer.write([event]) for event in happened)
    data += writer.end(Tail(finishes=finishes or (Finish("stop"),), usage=USAGE, receipt=RECEIPT))
    read = events(data)
    assert read.pop() == "[DONE]"
    for event in read:
        ChatCompletionChunk.model_validate(event)
    return read


def joined(read: list[Any]) -> dict[str, Any]:
    """What the pieces of the first choice make, put together as clients do it."""
    whole: dict[str, Any] = {"content": "", "calls": {}, "details": {}, "reasoning_content": "", "refusal": ""}
    for event in read:
        for choice in event["choices"]:
            delta = choice["delta"]
            for name in ("content", "reasoning_content", "refusal"):
                whole[name] += delta.get(name) or ""
            for call in delta.get("tool_calls", ()):
                known = whole["calls"].setdefault(call["index"], {"arguments": ""})
                known["arguments"] += call["function"].pop("arguments")
                known.update(call.get("function"), id=call.get("id", known.get("id")))
            for detail in delta.get("reasoning_details", ()):
                known = whole["details"].setdefault(detail["index"], {"text": ""})
                known["text"] += detail.pop("text", "")
                known.update(detail)
            whole["finish"] = choice["finish_reason"]
    return whole


# --- Requests ---


def test_everything_that_chat_can_say_is_in_the_conversation() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    found = conversation(
        [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief", "cache_control": {"type": "x"}}]},
            {
                "role": "user",
                "name": "ann",
                "content": [
                    {"type": "image_url", "image_url": {"url": "https://a.b/c.png", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,AAAA"}},
                    {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "wav"}},
                    {"type": "file", "file": {"file_data": "data:application/pdf;base64,CCCC", "filename": "a.pdf"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Hm",
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
        tools=[{"type": "function", "function": {"name": "weather", "parameters": schema, "strict": True}}],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.9,
        stop="end",
        seed=4,
        presence_penalty=1,
        frequency_penalty=-1,
        n=2,
        logprobs=True,
        top_logprobs=3,
        logit_bias={"5": -100},
        response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": True}},
        reasoning_effort="low",
        verbosity="high",
        user="u1",
        metadata={"a": "b"},
        modalities=["text"],
        # What the gateway does itself is no hint, so nobody is told that it could not be sent.
        stream_options={"include_usage": True},
        web_search_options={},
    )
    raw = Raw(json.dumps(schema).encode())
    assert found.turns == (
        Turn(role="developer", parts=(Text(text="Be brief", cache="5m"),)),
        Turn(
            role="user",
            name="ann",
            parts=(
                Image(url="https://a.b/c.png", detail="low"),
                Image(data="AAAA", media_type="image/jpeg"),
                Audio(data="BBBB", format="wav"),
                Document(data="CCCC", media_type="application/pdf", title="a.pdf"),
            ),
        ),
        Turn(
            role="assistant",
            parts=(Thinking(text="Hm"), ToolCall(id="c1", name="weather", arguments='{"city": "Bern"}')),
        ),
        Turn(role="tool", parts=(ToolResult(id="c1", name="weather", parts=(Text(text="sunny"),)),)),
    )
    assert found.tools == (Tool(name="weather", parameters=raw, strict=True),)
    assert found.tool_choice == ToolChoice(mode="one", name="weather")
    assert found.format == Format(kind="schema", name="s", schema=raw, strict=True)
    assert found.reasoning == Reasoning(effort="low")
    assert (found.max_tokens, found.choices, found.stop, found.seed) == (9, 2, ("end",), 4)
    assert (found.temperature, found.top_p, found.presence_penalty, found.frequency_penalty) == (0.5, 0.9, 1, -1)
    assert (found.logprobs, found.top_logprobs, found.logit_bias) == (True, 3, Raw(b'{"5": -100}'))
    assert (found.parallel_tools, found.verbosity, found.end_user, found.stream) == (False, "high", "u1", False)
    assert set(found.extras) == {"web_search_options"}
    assert set(found.hints) == {"metadata", "modalities"}
    assert found.names["max_tokens"] == "max_completion_tokens"


def test_functions_are_the_older_name_of_tools() -> None:
    found = conversation(
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
        ],
        functions=[{"name": "f", "parameters": {"type": "object"}}],
        function_call={"name": "f"},
    )
    assert found.tools[0].name == "f"
    assert found.tool_choice == ToolChoice(mode="one", name="f")
    assert found.parallel_tools is False
    call, result = found.turns[1].parts[0], found.turns[2].parts[0]
    assert isinstance(call, ToolCall)
    assert isinstance(result, ToolResult)
    assert (result.id, result.name) == (call.id, "f")


def test_functions_beside_tools_are_ignored() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert [tool.name for tool in conversation(tools=tools, functions=[{"name": "g"}]).tools] == ["f"]


def test_the_result_of_a_call_that_is_not_there_has_no_name() -> None:
    result = ToolResult(id="c", name="", parts=(Text(text="1"),))
    assert parts_of({"role": "tool", "tool_call_id": "c", "content": "1"}) == (result,)


def test_sound_in_the_result_of_a_tool_is_not_lost_without_a_word() -> None:
    calls = [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    content = [{"type": "text", "text": "a"}, sound]
    found = conversation(
        [{"role": "assistant", "tool_calls": calls}, {"role": "tool", "tool_call_id": "c", "content": content}]
    )
    result = found.turns[1].parts[0]
    assert isinstance(result, ToolResult)
    text, other = result.parts
    assert text == Text(text="a")
    assert isinstance(other, Opaque)
    assert (other.param, json.loads(bytes(other.json))) == ("messages[1].content[1]", sound)


def test_a_choice_among_some_tools_leaves_those() -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in "abc"]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "b"}}]}
    found = conversation(tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert [tool.name for tool in found.tools] == ["b"]
    assert found.tool_choice == ToolChoice(mode="required")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"reasoning": {"effort": "high"}}, Reasoning(effort="high")),
        ({"reasoning": {"max_tokens": 9, "exclude": True}}, Reasoning(budget=9, shown=False)),
        ({"reasoning": {"enabled": False}}, Reasoning(budget=0)),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, Reasoning(budget=5)),
        ({"thinking": {"type": "disabled"}}, Reasoning(budget=0)),
        ({"enable_thinking": True}, Reasoning()),
        ({"enable_thinking": False}, Reasoning(budget=0)),
        ({"reasoning": {"enabled": True}}, Reasoning()),
        ({"thinking": {"type": "enabled"}}, Reasoning()),
        ({"thinking": {"type": "adaptive"}}, Reasoning()),
        ({"reasoning": {"enabled": True, "exclude": True}}, Reasoning(shown=False)),
        ({"reasoning": {}}, None),
        ({"reasoning": {"exclude": True}}, None),
        ({"include_reasoning": False}, None),
        ({"include_reasoning": True}, Reasoning(shown=True)),
        ({"reasoning_effort": None}, None),
    ],
)
def test_reasoning_is_read_in_the_words_of_several_providers(fields: dict[str, Any], expected: Any) -> None:
    assert conversation(**fields).reasoning == expected


@pytest.mark.parametrize(
    ("fields", "meant", "name"),
    [
        ({"max_tokens": 5}, "max_tokens", "max_tokens"),
        ({"max_completion_tokens": 5}, "max_tokens", "max_completion_tokens"),
        ({"reasoning": {"effort": "high"}}, "reasoning", "reasoning"),
        ({"thinking": {"type": "enabled"}}, "reasoning", "thinking"),
        ({"enable_thinking": True}, "reasoning", "enable_thinking"),
        ({"reasoning_effort": "low"}, "reasoning", "reasoning_effort"),
    ],
)
def test_what_a_provider_cannot_do_is_named_as_the_caller_wrote_it(
    fields: dict[str, Any], meant: str, name: str
) -> None:
    assert conversation(**fields).names.get(meant, meant) == name


def test_what_mistral_s_clients_send_is_read() -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    document = {"type": "document_url", "document_url": "https://a.example/b.pdf", "document_name": "b.pdf"}
    picture = {"type": "image_url", "image_url": "https://a.example/c.png"}
    older = {"type": "thinking", "thinking": "So"}
    said = [
        {"role": "user", "content": [document, picture]},
        {"role": "assistant", "content": [thought, older, {"text": "a"}]},
    ]
    found = conversation(said, tools=[tool], tool_choice="any", random_seed=7)
    assert (found.tool_choice, found.seed, found.names["seed"]) == (ToolChoice(mode="required"), 7, "random_seed")
    assert found.turns[0].parts == (
        Document(url="https://a.example/b.pdf", title="b.pdf"),
        Image(url="https://a.example/c.png"),
    )
    assert found.turns[1].parts == (Thinking(text="Hm"), Thinking(text="So"), Text(text="a"))
    assert found.extras == {}
    [part] = parts_of({"role": "user", "content": [thought]})
    assert isinstance(part, Opaque)


def test_what_a_provider_runs_itself_is_an_extra_by_its_place() -> None:
    found = conversation(tools=[{"type": "web_search"}], tool_choice={"type": "web_search"})
    assert set(found.extras) == {"tools[0]", "tool_choice"}
    assert found.tools == ()


PATCH = {
    "type": "custom",
    "custom": {
        "name": "patch",
        "description": "Patches",
        "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": "start: x"}},
    },
}


def test_custom_tools_are_functions_to_the_model_and_custom_tools_to_the_caller() -> None:
    said = {
        "role": "assistant",
        "tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "patch", "input": "x"}}],
    }
    choice = {"type": "custom", "custom": {"name": "patch"}}
    found = conversation(
        [said, {"role": "tool", "tool_call_id": "c1", "content": "ok"}], tools=[PATCH], tool_choice=choice
    )
    assert found.tools[0].name == "patch"
    assert "start: x" in found.tools[0].description
    assert found.tool_choice == ToolChoice(mode="one", name="patch")
    assert found.turns[0].parts == (ToolCall(id="c1", name="patch", arguments='{"input":"x"}'),)
    function = {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    asked = {"tools": [PATCH, {"type": "function", "function": {"name": "f"}}]}
    called = (*found.turns[0].parts, ToolCall(id="c2", name="f", arguments="{}"))
    shown = rendered(*called, reason="tool_calls", asked=asked)
    assert shown["message"]["tool_calls"] == [*said["tool_calls"], function]


def test_a_custom_tool_s_input_is_streamed_whole() -> None:
    writer = ChatClient().writer(request(stream=True, tools=[PATCH]), NAMES)
    data = writer.write([ToolStart(0, "c1", "patch"), ToolDelta(0, '{"input":'), ToolDelta(0, '"x"}')])
    read = events(data + writer.end(Tail(finishes=(Finish("tool_calls"),), usage=None, receipt=None)))
    calls = [event["choices"][0]["delta"].get("tool_calls") for event in read[1:-2]]
    assert calls == [
        [{"index": 0, "id": "c1", "type": "custom", "custom": {"name": "patch", "input": ""}}],
        [{"index": 0, "custom": {"input": "x"}}],
    ]


def test_parts_that_nobody_knows_keep_their_words_and_place() -> None:
    [part] = parts_of({"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]})
    assert part == Opaque(
        origin="openai_chat",
        json=Raw(b'{"type": "video_url", "video_url": {"url": "x"}}'),
        param="messages[0].content[0]",
    )


@pytest.mark.parametrize("kind", ["file", "document_url", "thinking"])
def test_a_part_without_what_it_is_named_for_is_one_that_nobody_knows(kind: str) -> None:
    for empty in ({}, {kind: None}):
        [part] = parts_of({"role": "assistant", "content": [{"type": kind, **empty}]})
        assert isinstance(part, Opaque)


def test_a_sound_of_the_assistant_is_not_lost_without_a_word() -> None:
    [part] = parts_of({"role": "assistant", "content": None, "audio": {"id": "a1"}})
    assert part == Opaque(origin="openai_chat", json=Raw(b'{"id": "a1"}'), param="messages[0].audio")


def test_a_caller_may_allow_fields_to_be_left_out() -> None:
    plain = request()
    assert plain.conversation().lenient is False
    lenient = msgspec.structs.replace(plain, preferences=Preferences(require_parameters=False))
    assert lenient.conversation().lenient is True


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": 5}, "tool_choice"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "function", "function": {"name": 5}}]}, "tools[0].function.name"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"tool_choice": {"type": "function"}}, "tool_choice"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0].function"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}]},
            "messages[0].tool_calls[0].id",
        ),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        conversation(**fields)
    assert caught.value.param == param


# --- Whole answers ---


def test_an_answer_with_everything() -> None:
    choice = rendered(
        Thinking(text="Hm", signature="sig", origin="anthropic"),
        Text(text="It says ", citations=()),
        Text(text="so", citations=(Citation(url="https://a.b", title="T", quote="so it is"),)),
        ToolCall(id="c1", name="f", arguments='{"a":1}', signature="ts", origin="gemini"),
        reason="tool_calls",
        native="tool_use",
        logprobs=LOGPROBS,
    )
    assert choice["finish_reason"] == "tool_calls"
    assert choice["native_finish_reason"] == "tool_use"
    assert choice["logprobs"] == json.loads(bytes(LOGPROBS))
    message = choice["message"]
    assert (message["content"], message["refusal"], message["reasoning_content"]) == ("It says so", None, "Hm")
    assert message["annotations"][0]["url_citation"] == {
        "start_index": 8,
        "end_index": 10,
        "url": "https://a.b",
        "title": "T",
        "content": "so it is",
    }
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert message["reasoning_details"] == [
        {"type": "reasoning.text", "text": "Hm", "signature": "sig", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.encrypted", "data": "ts", "id": "c1", "format": "google-gemini-v1", "index": 1},
    ]


def test_thoughts_and_signatures_come_back_as_they_went_out() -> None:
    said: tuple[Part, ...] = (
        Thinking(text="Hm", signature="sig", origin="anthropic"),
        Thinking(redacted="xyz", origin="anthropic"),
        Text(text="so"),
        ToolCall(id="c1", name="f", arguments="{}", signature="ts", origin="gemini"),
    )
    assert parts_of(rendered(*said)["message"]) == said


def test_a_call_has_its_signature_with_it_where_no_thoughts_are_shown() -> None:
    """Google's place for it in this dialect: Gemini wants the signature back, also from who sees no thoughts."""
    signed, asked = ToolCall(id="c1", name="f", arguments="{}", signature="ts", origin="gemini"), {"exclude": True}
    message = rendered(signed, reason="tool_calls", asked={"reasoning": asked})["message"]
    assert "reasoning_details" not in message
    assert message["tool_calls"][0]["extra_content"] == {"google": {"thought_signature": "ts"}}
    assert parts_of(message) == (signed,)
    started = ToolStart(0, "c1", "f", signature="ts", origin="gemini")
    delta = streamed([started], Finish("tool_calls"), reasoning=asked)[1]["choices"][0]["delta"]
    assert "reasoning_details" not in delta
    assert delta["tool_calls"][0]["extra_content"] == message["tool_calls"][0]["extra_content"]


def test_pictures_are_said_alike_and_come_back_as_they_went_out() -> None:
    picture, elsewhere = Image(data="aGk=", media_type="image/jpeg"), Image(url="https://a.b/c.png")
    message = rendered(Text(text="so"), picture, elsewhere)["message"]
    assert parts_of(message) == (Text(text="so"), picture, elsewhere)
    read = streamed([TextDelta("so"), Drawn(picture), Drawn(elsewhere)], Finish("stop"))
    deltas = [event["choices"][0]["delta"] for event in read]
    assert [image for delta in deltas for image in delta.get("images", ())] == message["images"]
    assert [image["index"] for image in message["images"]] == [0, 1]


def test_usage_and_money_stand_beside_the_answer() -> None:
    reply = Reply(choices=(Choice(parts=(Text(text="a"),), reason="stop"),), usage=USAGE)
    body = json.loads(ChatClient().render(request(), NAMES, reply, RECEIPT))
    assert (body["id"], body["model"], body["created"]) == (ID, MODEL, CREATED)
    assert body["system_fingerprint"] == ""  # OpenRouter's SDK wants the member, and a string
    assert body["usage"] == {
        "prompt_tokens": 15,
        "completion_tokens": 7,
        "total_tokens": 22,
        "prompt_tokens_details": {"cached_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 3},
        **MONEY,
    }
    counted = Receipt(charge=b"1", cost=b"1", usage=Usage(input=1, output=1, estimated=True))
    assert json.loads(ChatClient().render(request(), NAMES, reply, counted))["usage"]["prompt_tokens"] == 1


@pytest.mark.parametrize(
    ("parts", "reason", "expected"),
    [
        ((Refusal(text="No"),), "refused", "stop"),
        ((), "refused", "content_filter"),
        ((), "filtered", "content_filter"),
        ((Text(text="a"),), "length", "length"),
        ((Text(text="a"),), "stop_sequence", "stop"),
        ((Text(text="a"),), "paused", "stop"),
    ],
)
def test_every_reason_has_its_word(parts: tuple[Part, ...], reason: Any, expected: str) -> None:
    choice = rendered(*parts, reason=reason)
    assert choice["finish_reason"] == expected
    assert choice["message"]["refusal"] == ("No" if parts and isinstance(parts[0], Refusal) else None)


def test_callers_who_know_functions_get_a_function_call() -> None:
    asked: dict[str, Any] = {"functions": [{"name": "f"}]}
    called = ToolCall(id="c", name="f", arguments="{}"), ToolCall(id="d", name="g", arguments="{}")
    choice = rendered(*called, reason="tool_calls", asked=asked)
    assert choice["message"]["function_call"] == {"name": "f", "arguments": "{}"}
    assert choice["finish_reason"] == "function_call"
    happened: list[Event] = [ToolStart(0, "c", "f"), ToolDelta(0, '{"a":'), ToolDelta(0, "1}")]
    read = streamed(happened, Finish("tool_calls"), **asked)
    deltas = [event["choices"][0]["delta"].get("function_call") for event in read[1:-1]]
    assert deltas == [{"name": "f", "arguments": ""}, {"arguments": '{"a":'}, {"arguments": "1}"}]


def test_callers_who_know_functions_are_told_of_the_first_call_alone() -> None:
    asked: dict[str, Any] = {"functions": [{"name": "f"}]}
    happened: list[Event] = [
        *(ToolStart(0, "c", "f"), ToolDelta(0, '{"a":1}')),
        *(ToolStart(1, "d", "g"), ToolDelta(1, '{"b":2}'), ToolStart(2, "e", "h")),
    ]
    read = streamed(happened, Finish("tool_calls"), **asked)
    deltas = [event["choices"][0]["delta"].get("function_call") for event in read[1:-1]]
    assert deltas == [{"name": "f", "arguments": ""}, {"arguments": '{"a":1}'}]


def test_a_stream_that_says_nothing_begins_with_its_role() -> None:
    first, last = streamed([], Finish("filtered", native="SAFETY"))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert last["choices"][0]["finish_reason"] == "content_filter"


def test_proofs_without_a_text_add_nothing_to_what_was_thought() -> None:
    proof = Thinking(signature="sig", origin="gemini")
    message = rendered(proof, Thinking(text="a"), Thinking(redacted="x", origin="anthropic"), Text(text="t"))["message"]
    assert message["reasoning_content"] == "a"
    assert len(message["reasoning_details"]) == 3


def test_the_end_of_a_thought_without_a_proof_says_nothing() -> None:
    read = streamed([ThinkingDelta("Hm"), ThinkingEnd(), TextDelta("a")])
    assert len(read) == len(streamed([ThinkingDelta("Hm"), TextDelta("a")]))


def test_callers_who_want_no_thoughts_get_none() -> None:
    asked: dict[str, Any] = {"reasoning": {"exclude": True}}
    message = rendered(Thinking(text="Hm"), Text(text="a"), asked=asked)["message"]
    assert set(message) == {"role", "content", "refusal"}
    happened: list[Event] = [ThinkingDelta("Hm"), ThinkingEnd("s"), TextDelta("a")]
    assert joined(streamed(happened, **asked))["reasoning_content"] == ""


# --- Streams ---

HAPPENED: list[Event] = [
    ThinkingDelta("H"),
    ThinkingDelta("m"),
    ThinkingEnd(signature="sig", origin="anthropic"),
    ThinkingEnd(redacted="xyz", origin="anthropic"),
    TextDelta("It "),
    TextDelta("is", logprobs=LOGPROBS),
    Cited(Citation(url="https://a.b")),
    ToolStart(0, "c1", "f"),
    ToolDelta(0, '{"a":'),
    ToolDelta(0, "1}"),
    ToolStart(1, "c2", "g", signature="ts", origin="gemini"),
]


def test_a_stream_says_what_the_whole_answer_says() -> None:
    read = streamed(HAPPENED, Finish("tool_calls"))
    whole = joined(read)
    assert read[0]["choices"][0]["delta"]["role"] == "assistant"
    assert (whole["content"], whole["reasoning_content"], whole["finish"]) == ("It is", "Hm", "tool_calls")
    assert whole["calls"] == {
        0: {"id": "c1", "name": "f", "arguments": '{"a":1}'},
        1: {"id": "c2", "name": "g", "arguments": "{}"},
    }
    thought, hidden, signed = whole["details"].values()
    assert (thought["text"], thought["signature"], thought["format"]) == ("Hm", "sig", "anthropic-claude-v1")
    assert (hidden["type"], hidden["data"]) == ("reasoning.encrypted", "xyz")
    assert (signed["data"], signed["id"], signed["format"]) == ("ts", "c2", "google-gemini-v1")
    cited = next(event for event in read if "annotations" in event["choices"][0]["delta"])
    assert cited["choices"][0]["delta"]["annotations"][0]["url_citation"]["end_index"] == 5


def test_each_choice_begins_with_its_role_and_ends_with_its_reason() -> None:
    read = streamed(
        [TextDelta("a"), TextDelta("b", choice=1), RefusalDelta("no", choice=1)],
        Finish("stop"),
        Finish("refused", choice=1, native="refusal"),
    )
    roles = [c["index"] for event in read for c in event["choices"] if c["delta"].get("role")]
    ends = [(c["index"], c["finish_reason"]) for event in read for c in event["choices"] if c["finish_reason"]]
    assert roles == [0, 1]
    assert ends == [(0, "stop"), (1, "stop")]


def test_usage_is_where_the_caller_expects_it() -> None:
    unsaid = streamed([TextDelta("a")])
    assert [bool(event.get("usage")) for event in unsaid] == [False, False, True]
    assert unsaid[-1]["choices"][0]["finish_reason"] == "stop"
    asked = streamed([TextDelta("a")], asked=True)
    assert [event["usage"] is not None for event in asked] == [False, False, False, True]
    assert asked[-1]["choices"] == []
    assert asked[-1]["usage"]["cost"] == 0.000123
    assert not any("usage" in event for event in streamed([TextDelta("a")], asked=False))


def test_an_end_before_its_time_says_why() -> None:
    writer = ChatClient().writer(request(stream=True), NAMES)
    tail = Tail(finishes=(Finish("length"),), usage=None, receipt=None, detail="credit ran out")
    last = events(writer.write([TextDelta("a")]) + writer.end(tail))[-2]
    assert (last["detail"], last["choices"][0]["finish_reason"]) == ("credit ran out", "length")


def test_an_answer_that_broke_off_says_so_in_its_last_event() -> None:
    writer = ChatClient().writer(request(stream=True), NAMES)
    [event] = events(writer.fail(UpstreamFailed("gone")))
    assert event["choices"][0]["finish_reason"] == "error"
    assert (event["error"]["message"], event["detail"]) == ("gone", "gone")


def test_clients_that_read_no_error_beside_choices_get_it_apart_too() -> None:
    agent = b"ai/7.0.173 ai-sdk-openai/4.0.118 runtime/node.js/22"
    ours = ChatClient().writer(request(stream=True), NAMES).fail(UpstreamFailed("gone"))
    event, again = events(
        ChatClient().writer(request(stream=True), NAMES).fail(UpstreamFailed("gone"), [(b"user-agent", agent)])
    )
    assert [event] == events(ours)
    assert again == {"error": event["error"], "detail": "gone"}
    other = [(b"user-agent", agent.replace(b"openai/", b"openai-compatible/"))]
    assert ChatClient().writer(request(stream=True), NAMES).fail(UpstreamFailed("gone"), other) == ours


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["a", "text", "function", "auto", "json_schema"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "role",
                        "content",
                        "type",
                        "text",
                        "image_url",
                        "url",
                        "file",
                        "function",
                        "name",
                        "arguments",
                        "id",
                    ),
                    *("tool_calls", "tool_call_id", "reasoning_details", "data", "effort", "json_schema", "schema"),
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    [
        *("tools", "tool_choice", "functions", "function_call", "response_format", "reasoning", "thinking", "stop"),
        *("reasoning_effort", "logit_bias", "modalities", "service_tier", "user", "include_reasoning", "seed"),
    ]
)


@given(st.lists(JSON, min_size=1, max_size=3), st.dictionaries(FIELDS, JSON, max_size=3))
def test_whatever_comes_is_a_conversation_or_refused(messages: list[Any], fields: dict[str, Any]) -> None:
    for message in messages:
        if isinstance(message, dict):
            message.setdefault("role", "user")
            message.setdefault("content", "a")
    try:
        asked = request(messages, **fields)
        asked.conversation()
    except InvalidRequest:
        return
    writer = ChatClient().writer(asked, NAMES)
    assert writer.write([TextDelta("a"), ToolStart(0, "i", "n")])
