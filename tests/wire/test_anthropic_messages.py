"""What callers of Messages ask for: read, refused, estimated, and as a conversation."""

import json
import random
from typing import Any

import pytest
from msgspec import Raw
from tests.wire.messages import OPUS, SONNET, route

from tollbridge.errors import InvalidRequest, UnsupportedField
from tollbridge.values import Preferences
from tollbridge.wire import anthropic_messages
from tollbridge.wire.anthropic_client import render_count
from tollbridge.wire.anthropic_messages import MessagesRequest, parse, parse_count
from tollbridge.wire.anthropic_provider import AnthropicProvider
from tollbridge.wire.conversation import (
    Citation,
    Conversation,
    Document,
    Fit,
    Format,
    Image,
    Opaque,
    Part,
    Reasoning,
    Text,
    Thinking,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from tollbridge.wire.openai_chat_provider import OpenAiChat

BODY: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "Hi"}]}


def read(**members: Any) -> MessagesRequest:
    return parse(json.dumps(BODY | members).encode())


def said(**members: Any) -> Conversation:
    return read(**members).conversation()


def parts(*blocks: dict[str, Any], role: str = "user") -> tuple[Part, ...]:
    turns = said(messages=[{"role": role, "content": list(blocks)}]).turns
    return tuple(part for turn in turns for part in turn.parts)


def wrong(**members: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        said(**members)
    assert caught.value.param is not None
    assert caught.value.param in caught.value.message
    assert not caught.value.message.endswith("is not right.")
    return caught.value.param


# --- What is refused ---


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"model": "a\nb"}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": ["Hi"]}, "messages[0]"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "tool", "content": "Hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["Hi"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "messages[0].content[0].text"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].source"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": "x"}]}]},
            "messages[0].content[0].source",
        ),
        (
            {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f"}]}]},
            "messages[0].content[0].input",
        ),
        (
            {
                "messages": [
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": "x"}]}
                ]
            },
            "messages[0].content[0].input",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages[0].content[0].tool_use_id"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": 5}]}]},
            "messages[0].content[0].content",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": [5]}]}]},
            "messages[0].content[0].content[0]",
        ),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"system": 5}, "system"),
        ({"system": ["x"]}, "system[0]"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": 1.1}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"stop_sequences": [1]}, "stop_sequences[0]"),
        ({"metadata": "x"}, "metadata"),
        ({"metadata": {"user_id": 5}}, "metadata.user_id"),
        ({"tools": {}}, "tools"),
        ({"tools": [5]}, "tools[0]"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "f", "input_schema": "x"}]}, "tools[0].input_schema"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice.name"),
        ({"thinking": True}, "thinking"),
        ({"thinking": {"type": "enabled"}}, "thinking"),
        ({"thinking": {"type": "loud"}}, "thinking"),
        ({"thinking": {"type": "enabled", "budget_tokens": "many"}}, "thinking.budget_tokens"),
        ({"output_config": []}, "output_config"),
        ({"output_config": {"effort": 5}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
        ({"cache_control": "5m"}, "cache_control"),
        ({"api_base": "http://x"}, "api_base"),
        ({"fallbacks": [{"model": "claude-fable-5"}]}, "fallbacks"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"speed": "fast"}, "speed"),
        ({"thread": {"type": "create"}}, "thread"),
        # The rest of a tool loop that paused: nothing new to say.
        ({"thread": {"type": "continue", "previous_message_id": "msg_1"}, "messages": []}, "thread"),
    ],
)
def test_what_is_wrong_is_named(members: dict[str, Any], param: str) -> None:
    assert wrong(**members) == param


def test_a_limit_must_be_said() -> None:
    body = {name: value for name, value in BODY.items() if name != "max_tokens"}
    with pytest.raises(InvalidRequest, match="Missing 'max_tokens'") as caught:
        parse(json.dumps(body).encode())
    assert caught.value.param == "max_tokens"


def test_garbage_is_refused_in_plain_words() -> None:
    full = json.dumps(BODY | FULL).encode()
    chance = random.Random(3)
    words = (
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"null",
        b"-1",
        b"1e999",
        b'"x"',
        b"\\",
        b"\xff",
        b"\\ud800",
        b"true",
        b"",
    )
    refused = 0
    for _ in range(3_000):
        garbage = full
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(garbage) + 1)
            garbage = garbage[:at] + chance.choice(words) + garbage[at + chance.randint(0, 8) :]
        try:
            request = parse(garbage)
            request.prompt()
            conversation = request.conversation()
            AnthropicProvider().outgoing(conversation, route(SONNET), None)
        except InvalidRequest:
            refused += 1
    assert 1_000 < refused < 3_000


def test_any_value_anywhere_is_read_or_refused() -> None:
    values = [None, True, -1, 1.5, 10**30, "x", [], {}, [None], {"type": "x"}, [{"type": "text"}], {"type": ["x"]}]

    def variants(value: Any) -> Any:
        yield from values
        if isinstance(value, dict):
            for name, inner in value.items():
                for variant in variants(inner):
                    yield value | {name: variant}
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                for variant in variants(inner):
                    yield [*value[:index], variant, *value[index + 1 :]]

    tried = 0
    for body in variants(BODY | FULL):
        tried += 1
        try:
            request = parse(json.dumps(body).encode())
            request.prompt()
            AnthropicProvider().outgoing(request.conversation(), route(OPUS), None)
        except InvalidRequest:
            pass
    assert tried > 1_000


# --- What is read ---

FULL: dict[str, Any] = {
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "document", "source": {"type": "url", "url": "https://x.org/a.pdf"}, "title": "A"},
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Once"}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "EqQB+/="},
                {"type": "redacted_thinking", "data": "Em="},
                {"type": "text", "text": "I look."},
                {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}},
                {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": [{"type": "x"}]},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1.50]}},
                {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [
                        {"type": "text", "text": "42"},
                        {"type": "image", "source": {"type": "url", "url": "https://x.org/a.png"}},
                        {"type": "search_result", "source": "s", "title": "t", "content": []},
                    ],
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no", "is_error": True},
                {"type": "text", "text": "Well?"},
            ],
        },
    ],
    "tools": [
        {"name": "f", "description": "F", "input_schema": {"type": "object"}, "cache_control": {"type": "ephemeral"}},
        {"type": "custom", "name": "g", "input_schema": {"type": "object", "properties": {}}, "strict": True},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 3},
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "max_tokens": 4000,
    "stop_sequences": ["END"],
    "stream": True,
    "metadata": {"user_id": "u-1"},
    "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    "mcp_servers": [{"type": "url", "url": "https://x.org"}],
    "service_tier": "auto",
    "cache_control": {"type": "ephemeral"},
}


def test_the_request_says_what_the_gateway_needs() -> None:
    request = read(**FULL)
    assert (request.endpoint, request.model, request.stream, request.max_tokens) == ("messages", "m", True, 4000)
    assert (request.choices, request.inputs, request.has_parts) == (1, 3, True)


def test_a_conversation_has_all_of_it() -> None:
    conversation = said(**FULL)
    roles = [turn.role for turn in conversation.turns]
    assert roles == ["system", "user", "assistant", "tool", "user"]
    assert conversation.turns[0].parts == (Text(text="Be brief.", cache="1h"),)
    assert conversation.turns[1].parts == (
        Text(text="What is it?"),
        Image(data="aGk=", media_type="image/png", cache="5m"),
        Document(url="https://x.org/a.pdf", media_type="application/pdf", title="A"),
        Document(text="Once", media_type="text/plain"),
    )
    assistant = conversation.turns[2].parts
    assert assistant[:3] == (
        Thinking(text="hm", signature="EqQB+/=", origin="anthropic"),
        Thinking(redacted="Em=", origin="anthropic"),
        Text(text="I look."),
    )
    assert [(part.origin, part.param) for part in assistant[3:5] if isinstance(part, Opaque)] == [
        ("anthropic", "messages[1].content[3]"),
        ("anthropic", "messages[1].content[4]"),
    ]
    assert assistant[5:] == (
        ToolCall(id="toolu_1", name="f", arguments='{"a": [1.5]}'),
        ToolCall(id="toolu_2", name="g", arguments="{}"),
    )
    first, second = conversation.turns[3].parts
    assert isinstance(first, ToolResult)
    assert first.parts[:2] == (Text(text="42"), Image(url="https://x.org/a.png"))
    assert isinstance(first.parts[2], Opaque)
    assert (first.name, first.cache) == ("f", "5m")
    assert second == ToolResult(id="toolu_2", name="g", parts=(Text(text="no"),), is_error=True)
    assert [(tool.name, tool.strict, tool.cache) for tool in conversation.tools] == [
        ("f", None, "5m"),
        ("g", True, None),
    ]
    assert conversation.tool_choice == ToolChoice(mode="auto")
    assert conversation.parallel_tools is False
    assert conversation.reasoning == Reasoning(budget=2048)
    assert conversation.format == Format(kind="schema", schema=Raw(b'{"type": "object"}'), strict=True)
    assert (conversation.max_tokens, conversation.stop, conversation.end_user) == (4000, ("END",), "u-1")
    assert conversation.extras.keys() == {"tools[2]", "mcp_servers"}
    assert conversation.hints.keys() == {"service_tier", "cache_control"}


def test_a_round_trip_keeps_every_field() -> None:
    before = BODY | FULL
    after = json.loads(AnthropicProvider().outgoing(said(**FULL), route(SONNET), None).body)
    strict_type = [
        {name: value for name, value in tool.items() if (name, value) != ("type", "custom")} for tool in before["tools"]
    ]
    assert after == before | {"model": SONNET, "tools": strict_type}


@pytest.mark.parametrize(
    ("members", "model"),
    [
        ({"thinking": {"type": "adaptive", "display": "omitted"}, "output_config": {"effort": "max"}}, OPUS),
        ({"thinking": {"type": "adaptive"}}, OPUS),
        ({"thinking": {"type": "disabled"}}, OPUS),
        ({"thinking": {"type": "between_tools"}}, "claude-sonnet-5-5"),
        ({"temperature": 0.5, "top_k": 3}, SONNET),
        ({"top_p": 0.5}, SONNET),
        ({"tools": FULL["tools"][:1], "tool_choice": {"type": "tool", "name": "f"}}, SONNET),
        ({"tools": FULL["tools"][:1], "tool_choice": {"type": "none"}}, SONNET),
        ({"system": "Be brief.", "inference_geo": "global", "container": "c"}, SONNET),
        ({"context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}}, OPUS),
        ({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}}, OPUS),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
            OPUS,
        ),
    ],
)
def test_other_members_make_the_round_trip(members: dict[str, Any], model: str) -> None:
    after = json.loads(AnthropicProvider().outgoing(said(**members), route(model), None).body)
    assert after == BODY | members | {"model": model}


def test_who_wants_no_thoughts_says_nothing_of_effort_to_models_that_may_not_know_it() -> None:
    conversation = said(thinking={"type": "disabled"})
    assert conversation.reasoning == Reasoning(budget=0)
    outgoing = OpenAiChat().outgoing(conversation, route("m"), None)
    assert "reasoning_effort" not in json.loads(outgoing.body)


def test_hints_say_nothing_to_others_and_extras_are_named() -> None:
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    conversation = said(service_tier="auto", speed="standard", diagnostics={}, context_management=edits)
    assert not conversation.extras
    assert conversation.hints.keys() == {"service_tier", "speed", "diagnostics", "context_management"}
    other = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    assert said(context_management=other, new=1).extras.keys() == {"context_management", "new"}


def test_members_of_blocks_that_others_lack_are_named_by_their_place() -> None:
    document = {
        "type": "document",
        "source": {"type": "url", "url": "u"},
        "citations": {"enabled": True},
        "context": "c",
    }
    tool = {"name": "f", "input_schema": {}, "input_examples": [{"a": 1}], "eager_input_streaming": True}
    conversation = said(messages=[{"role": "user", "content": [document]}], tools=[tool])
    assert list(conversation.extras) == [
        "messages[0].content[0].citations",
        "messages[0].content[0].context",
        "tools[0].input_examples",
    ]
    plain = {**document, "citations": {"enabled": False}, "context": None}
    assert not said(messages=[{"role": "user", "content": [plain]}]).extras
    with pytest.raises(UnsupportedField, match=r"tools\[0\].input_examples"):
        AnthropicProvider().outgoing(said(tools=[tool]), route(), None)


@pytest.mark.parametrize(
    ("member", "name"),
    [
        ("stop", "stop_sequences"),
        ("format", "output_config.format"),
        ("end_user", "metadata.user_id"),
        ("parallel_tools", "tool_choice.disable_parallel_tool_use"),
        ("reasoning", "thinking"),
        ("turns", "messages"),
        ("top_k", "top_k"),
    ],
)
def test_errors_name_the_caller_s_field(member: str, name: str) -> None:
    with pytest.raises(UnsupportedField) as caught:
        Fit(said(thinking={"type": "adaptive"}), "X").lacks(member)
    assert caught.value.param == name


def test_effort_alone_is_named_as_it_was_said() -> None:
    conversation = said(output_config={"effort": "low"})
    assert conversation.reasoning == Reasoning(effort="low")
    assert conversation.names["reasoning"] == "output_config.effort"


def test_what_may_be_left_out_is_the_caller_s_to_say() -> None:
    assert not said().lenient
    request = read()
    for required, lenient in ((True, False), (False, True), (None, False)):
        changed = MessagesRequest(
            **{name: getattr(request, name) for name in MessagesRequest.__struct_fields__}
            | {"preferences": Preferences(require_parameters=required)}
        )
        assert changed.conversation().lenient is lenient


def test_cited_text_keeps_its_sources() -> None:
    citations = [
        {"type": "web_search_result_location", "url": "https://x.org", "title": None, "cited_text": "a"},
        {"type": "search_result_location", "source": "s", "title": "t", "cited_text": "b"},
        {"type": "char_location", "document_index": 0, "cited_text": "c"},
        {"type": "web_search_result_location", "url": "https://y.org"},
    ]
    assert parts({"type": "text", "text": "x", "citations": citations}, role="assistant") == (
        Text(
            text="x",
            citations=(
                Citation(url="https://x.org", quote="a"),
                Citation(url="s", title="t", quote="b"),
                Citation(url="https://y.org"),
            ),
        ),
    )


@pytest.mark.parametrize(
    ("block", "is_foreign"),
    [
        ({"type": "text", "text": "a"}, False),
        ({"type": "thinking", "thinking": "a", "signature": "Eq+/=="}, False),
        ({"type": "thinking", "thinking": "a", "signature": "gemini:abc"}, True),
        ({"type": "thinking", "thinking": "a", "signature": ""}, True),
        ({"type": "redacted_thinking", "data": "Em=="}, False),
        ({"type": "redacted_thinking", "data": "gemini:abc"}, True),
        ({"type": "tool_result", "tool_use_id": "toolu_1", "content": "1"}, False),
        ({"type": "tool_result", "tool_use_id": "functions.f:0", "content": "1"}, True),
    ],
)
def test_one_block_of_another_model_s_is_noticed(block: dict[str, Any], is_foreign: bool) -> None:
    content = [{"type": "text", "text": "a"}, block, {"type": "text", "text": "b"}]
    assert read(messages=[{"role": "user", "content": content}]).has_foreign is is_foreign


def test_proofs_of_other_dialects_come_back_as_they_were() -> None:
    found = parts(
        {"type": "thinking", "thinking": "hm", "signature": "gemini:abc+/="},
        {"type": "thinking", "thinking": "so", "signature": ""},
        {"type": "redacted_thinking", "data": "openai_responses:xyz"},
        {"type": "redacted_thinking", "data": "gemini:call:sig"},
        {"type": "tool_use", "id": "a", "name": "f", "input": {}},
        {"type": "tool_use", "id": "b", "name": "f", "input": {}},
        role="assistant",
    )
    assert found == (
        Thinking(text="hm", signature="abc+/=", origin="gemini"),
        Thinking(text="so"),
        Thinking(redacted="xyz", origin="openai_responses"),
        ToolCall(id="a", name="f", arguments="{}", signature="sig", origin="gemini"),
        ToolCall(id="b", name="f", arguments="{}"),
    )


# --- Estimates ---


def test_an_estimate_sees_all_text_and_counts_pictures_and_files_apart() -> None:
    data = "QUJD" * 5_000
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}
    remote = {"type": "image", "source": {"type": "url", "url": "https://x.org/a.png"}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": data}}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [picture, {"type": "text", "text": "deep"}]}
    content = [{"type": "text", "text": 'Say "hi"'}, picture, remote, pdf, result]
    prompt = read(
        system="Be brief.", messages=[{"role": "user", "content": content}], tools=[{"name": "f", "input_schema": {}}]
    ).prompt()
    assert (prompt.messages, len(prompt.pictures)) == (1, 3)
    assert prompt.tokens == (len(data) + 2) // 4
    for text in (b"Be brief.", b'Say "hi"', b"deep", b"input_schema", b"https://x.org/a.png"):
        assert text in prompt.text
    assert b"QUJD" not in prompt.text


def test_pictures_and_files_in_results_count_wherever_they_stand() -> None:
    picture, pdf, odd = (
        {"type": kind, "source": {"type": "base64", "media_type": "x/y", "data": data}}
        for kind, data in (("image", "QUJD"), ("document", "QUJD" * 10), ("document", 7))
    )
    odd["source"] = "not to be read"
    results = [
        {"type": "tool_result", "tool_use_id": "a", "content": content}
        for content in ([odd, pdf], "text", [{"type": 7}], [picture, {"type": "text", "text": "t"}, pdf])
    ]
    prompt = read(messages=[{"role": "user", "content": results}, {"role": "user", "content": [odd, picture]}]).prompt()
    assert (len(prompt.pictures), prompt.tokens) == (2, 2 * (42 // 4))
    assert b"QUJD" not in prompt.text


def test_base64_in_a_text_is_text() -> None:
    data = "QUJD" * 5_000
    prompt = read(messages=[{"role": "user", "content": [{"type": "text", "text": data}]}]).prompt()
    assert data.encode() in prompt.text
    assert prompt.tokens == 0


def test_documents_elsewhere_are_not_free() -> None:
    block = {"type": "document", "source": {"type": "url", "url": "https://x.org/a.pdf"}}
    assert read(messages=[{"role": "user", "content": [block]}]).prompt().tokens >= 10_000


def test_counting_asks_for_no_limit_and_gives_a_number() -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "system": "Be brief."}
    request = parse_count(json.dumps(body).encode())
    assert b"Be brief." in request.prompt().text
    assert json.loads(render_count(12)) == {"input_tokens": 12}
    with pytest.raises(InvalidRequest) as caught:
        parse_count(b'{"model":"m"}')
    assert caught.value.param == "messages"
    assert anthropic_messages.parse(json.dumps(body | {"max_tokens": 1}).encode()).prompt() == request.prompt()
