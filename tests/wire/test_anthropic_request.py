"""What callers of chat ask for, as Anthropic is asked for it."""

import base64
import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw
from tests.wire.messages import OPUS, SONNET, route, sent

from tollbridge.errors import UnsupportedField
from tollbridge.wire.anthropic_provider import AnthropicProvider
from tollbridge.wire.conversation import (
    Audio,
    Conversation,
    Document,
    Format,
    Image,
    Opaque,
    Part,
    Reasoning,
    Refusal,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from tollbridge.wire.exchange import Outgoing

OPUS_5_5 = "claude-opus-5-5"
SONNET_5_5 = "claude-sonnet-5-5"
OPUS_4_6 = "claude-opus-4-6"
HI = Turn(role="user", parts=(Text(text="Hi"),))
SHAPE = {"type": "object", "properties": {}, "additionalProperties": False}
SCHEMA = Raw(json.dumps(SHAPE).encode())
TOOL = Tool(name="f", description="Does f", parameters=SCHEMA)


def turn(role: Role, *parts: Part | str) -> Turn:
    return Turn(role=role, parts=tuple(Text(text=part) if isinstance(part, str) else part for part in parts))


def outgoing(*turns: Turn, model: str = SONNET, **members: Any) -> Outgoing:
    said: dict[str, Any] = {"origin": "openai_chat", "turns": turns or (HI,), "max_tokens": 4_000} | members
    conversation = Conversation(**said)
    return AnthropicProvider().outgoing(conversation, route(model), None)


def body(*turns: Turn, model: str = SONNET, **members: Any) -> dict[str, Any]:
    written: dict[str, Any] = json.loads(outgoing(*turns, model=model, **members).body)
    return written


def refused(*turns: Turn, model: str = SONNET, **members: Any) -> str | None:
    """The field that an error names; that callers who let it be left out get an answer without it."""
    with pytest.raises(UnsupportedField) as caught:
        outgoing(*turns, model=model, **members)
    assert caught.value.param in outgoing(*turns, model=model, **members, lenient=True).dropped
    assert caught.value.param is not None
    return caught.value.param


# --- Turns ---


def test_instructions_alone_are_what_a_user_says() -> None:
    written = body(turn("system", "Write a poem."), turn("developer", "Of toll."))
    assert written["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Write a poem."}, {"type": "text", "text": "Of toll."}]}
    ]
    assert "system" not in written
    assert body(turn("system", "Hi"), turn("user", ""))["messages"] == [{"role": "user", "content": "Hi"}]


def test_instructions_after_the_model_s_last_words_are_what_a_user_says() -> None:
    for model in (SONNET, OPUS):
        turns = (
            turn("system", "Be brief."),
            HI,
            turn("assistant", "Yes?"),
            turn("developer", "Ask."),
            turn("system", "Now."),
        )
        written = body(*turns, model=model)
        assert written["system"] == "Be brief."
        last = {"role": "user", "content": [{"type": "text", "text": "Ask."}, {"type": "text", "text": "Now."}]}
        assert written["messages"][1:] == [{"role": "assistant", "content": "Yes?"}, last]


def test_a_model_that_only_answers_a_user_is_told_to_continue() -> None:
    said = (HI, turn("assistant", "Thought: "))
    own = {"role": "assistant", "content": "Thought:"}
    assert body(*said, model=SONNET)["messages"][1:] == [own]
    assert body(*said, model=OPUS_4_6)["messages"][1:] == [own, {"role": "user", "content": "Continue."}]
    assert body(HI, turn("assistant", " "), model=OPUS_4_6)["messages"] == [{"role": "user", "content": "Hi"}]


def test_instructions_that_come_first_are_the_system_prompt() -> None:
    assert body(turn("system", "Be brief."), HI)["system"] == "Be brief."
    first = turn("system", Text(text="Be brief.", cache="1h"))
    written = body(first, turn("developer", "Be kind."), HI)
    assert written["system"] == [
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        {"type": "text", "text": "Be kind."},
    ]
    assert written["messages"] == [{"role": "user", "content": "Hi"}]


def test_later_instructions_stay_where_the_model_takes_them() -> None:
    turns = (
        HI,
        turn("developer", "In French."),
        turn("assistant", "Salut"),
        turn("user", "And?"),
        turn("system", "Now."),
    )
    written = body(*turns, model=OPUS)
    assert [message["role"] for message in written["messages"]] == ["user", "system", "assistant", "user", "system"]
    assert "system" not in written
    written = body(*turns, model=SONNET)
    assert [message["role"] for message in written["messages"]] == ["user", "assistant", "user"]
    assert [part["text"] for part in written["system"]] == ["In French.", "Now."]


def test_instructions_between_two_turns_of_a_user_have_no_place_there() -> None:
    written = body(HI, turn("system", "In French."), turn("user", "And?"), model=OPUS)
    assert written["system"] == "In French."
    assert [message["role"] for message in written["messages"]] == ["user"]


def test_turns_of_one_role_are_one_message() -> None:
    written = body(HI, turn("user", "Who are you?"), turn("assistant", "I"), turn("assistant", "am"), turn("user", "?"))
    texts = [
        [part["text"] for part in m["content"]] if isinstance(m["content"], list) else m["content"]
        for m in written["messages"]
    ]
    assert texts == [["Hi", "Who are you?"], ["I", "am"], "?"]


def test_all_results_of_tools_stand_first_in_one_message() -> None:
    calls = turn(
        "assistant", ToolCall(id="a", name="f", arguments='{"x": 1}'), ToolCall(id="b", name="g", arguments="")
    )
    results = [
        turn("tool", ToolResult(id="a", name="f", parts=(Text(text="1"),), cache="5m")),
        turn("tool", ToolResult(id="b", parts=(Image(url="https://example.org/a.png"),), is_error=True)),
    ]
    written = body(HI, calls, *results, turn("user", "Well?"))
    assert written["messages"][1]["content"] == [
        {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}},
        {"type": "tool_use", "id": "b", "name": "g", "input": {}},
    ]
    picture = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    assert written["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "a", "content": "1", "cache_control": {"type": "ephemeral"}},
        {"type": "tool_result", "tool_use_id": "b", "content": [picture], "is_error": True},
        {"type": "text", "text": "Well?"},
    ]


def test_ids_of_others_fit_and_still_belong_together() -> None:
    call = turn("assistant", ToolCall(id="functions.f:0", name="f", arguments="{}"))
    written = body(HI, call, turn("tool", ToolResult(id="functions.f:0")))
    assert written["messages"][1]["content"][0]["id"] == "functions_f_0"
    assert written["messages"][2]["content"][0] == {"type": "tool_result", "tool_use_id": "functions_f_0"}


@pytest.mark.parametrize("arguments", ["not json", "[1]", '"x"', '{"a":', "7", "\ud83d"])
def test_arguments_that_are_no_object_are_kept_in_one(arguments: str) -> None:
    written = body(HI, turn("assistant", ToolCall(id="a", name="f", arguments=arguments)))
    assert written["messages"][1]["content"][0]["input"] == {"invalid_arguments": arguments}


@pytest.mark.parametrize("arguments", ["", " ", "\n"])
def test_no_arguments_are_an_empty_object(arguments: str) -> None:
    written = body(HI, turn("assistant", ToolCall(id="a", name="f", arguments=arguments)))
    assert written["messages"][1]["content"][0]["input"] == {}


def test_arguments_stay_as_they_were_written() -> None:
    arguments = '{"n": 1.50, "big": 123456789012345678901234567890}'
    assert (
        f'"input":{arguments}'.encode()
        in outgoing(HI, turn("assistant", ToolCall(id="a", name="f", arguments=arguments))).body
    )


def test_empty_text_is_left_out() -> None:
    written = body(HI, turn("assistant", "", ToolCall(id="a", name="f", arguments="{}")), turn("assistant", " \n"))
    assert [part["type"] for part in written["messages"][1]["content"]] == ["tool_use"]
    assert [m["role"] for m in body(turn("system", ""), HI, turn("assistant", ""), turn("user", "?"))["messages"]] == [
        "user",
        "user",
    ]


def test_thoughts_go_back_to_anthropic_alone() -> None:
    thoughts = turn(
        "assistant",
        Thinking(text="hm", signature="Eq", origin="anthropic"),
        Thinking(redacted="Em", origin="anthropic"),
        Thinking(text="hm", signature="x", origin="gemini"),
        Thinking(text="hm", origin="anthropic"),
        Thinking(text="hm"),
        "Hello",
    )
    assert body(HI, thoughts)["messages"][1]["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": "Eq"},
        {"type": "redacted_thinking", "data": "Em"},
        {"type": "text", "text": "Hello"},
    ]


def test_a_refusal_is_what_was_said() -> None:
    assert body(HI, turn("assistant", Refusal(text="No.")))["messages"][1]["content"] == "No."


def test_a_name_of_a_speaker_is_only_noted() -> None:
    sent_ = outgoing(Turn(role="user", name="Ann", parts=(Text(text="Hi"),)))
    assert sent_.dropped == ("messages[].name",)


# --- Pictures and documents ---


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (Image(url="https://x.org/a"), {"type": "image", "source": {"type": "url", "url": "https://x.org/a"}}),
        (
            Image(data="aGk=", media_type="image/png", cache="5m"),
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
                "cache_control": {"type": "ephemeral"},
            },
        ),
        (
            Document(data="JVBERi0=", media_type="application/pdf", title="A"),
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
                "title": "A",
            },
        ),
        (
            Document(url="https://x.org/a.pdf"),
            {"type": "document", "source": {"type": "url", "url": "https://x.org/a.pdf"}},
        ),
        (
            Document(text="Once"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Once"}},
        ),
        (
            Document(data=base64.b64encode("Ünce".encode()).decode(), media_type="text/markdown"),
            {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "Ünce"}},
        ),
    ],
)
def test_pictures_and_documents_have_their_form(part: Part, block: dict[str, Any]) -> None:
    assert body(turn("user", part))["messages"] == [{"role": "user", "content": [block]}]


@pytest.mark.parametrize(
    "part",
    [
        Audio(data="aGk=", format="wav"),
        Document(data="aGk=", media_type="application/msword"),
        Document(data="/w==", media_type="text/plain"),
        Document(data="no base64", media_type="text/plain"),
    ],
)
def test_what_it_does_not_read_is_said(part: Part) -> None:
    assert refused(turn("user", "Hi", part)) == "turns"
    assert refused(turn("user", "Hi", part), names={"turns": "messages"}) == "messages"


def test_pictures_in_its_own_turns_are_refused() -> None:
    assert refused(HI, turn("assistant", "Look", Image(url="https://x.org/a"))) == "turns"


def test_what_only_another_dialect_knows_is_refused_by_its_place() -> None:
    opaque = Opaque(origin="openai_chat", json=Raw(b"{}"), param="messages[0].content[1]")
    assert refused(turn("user", "Hi", opaque)) == "messages[0].content[1]"
    own = Opaque(origin="anthropic", json=Raw(b'{"type":"search_result"}'), param="messages[0].content[1]")
    assert body(turn("user", "Hi", own))["messages"][0]["content"][1] == {"type": "search_result"}


# --- Tools ---


def test_tools_have_a_schema_of_an_object() -> None:
    tools = (
        TOOL,
        Tool(name="g", cache="5m"),
        Tool(name="h", parameters=Raw(b"{}")),
        Tool(name="i", parameters=Raw(b'{"properties":{}}')),
    )
    nothing = {"type": "object", "properties": {}}
    assert body(tools=tools)["tools"] == [
        {"name": "f", "description": "Does f", "input_schema": SHAPE},
        {"name": "g", "input_schema": nothing, "cache_control": {"type": "ephemeral"}},
        {"name": "h", "input_schema": nothing},
        {"name": "i", "input_schema": nothing},
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice(mode="auto"), None, {"type": "auto"}),
        (ToolChoice(mode="none"), False, {"type": "none"}),
        (ToolChoice(mode="required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice(mode="one", name="f"), None, {"type": "tool", "name": "f"}),
    ],
)
def test_the_choice_of_tools_is_kept(choice: ToolChoice | None, parallel: bool | None, expected: Any) -> None:
    assert body(tools=(TOOL,), tool_choice=choice, parallel_tools=parallel).get("tool_choice") == expected


def test_without_tools_there_is_no_choice() -> None:
    assert "tool_choice" not in body(tool_choice=ToolChoice(mode="none"), parallel_tools=False)


def test_models_that_cannot_be_forced_say_so() -> None:
    forced = {"tools": (TOOL,), "tool_choice": ToolChoice(mode="required")}
    assert refused(model=OPUS_5_5, **forced) == "tool_choice"
    assert refused(model=SONNET, reasoning=Reasoning(budget=2_000), **forced) == "tool_choice"
    assert body(model="claude-opus-5", **forced)["tool_choice"] == {"type": "any"}


def test_strict_tools_are_strict() -> None:
    tool = msgspec.structs.replace(TOOL, strict=True)
    assert body(tools=(tool,))["tools"][0]["strict"] is True
    assert refused(tools=(TOOL, tool), model="claude-sonnet-4-20250514") == "tools[1].strict"


# --- How the answer is written ---


@pytest.mark.parametrize(
    ("reasoning", "model", "thinking", "config"),
    [
        (Reasoning(effort="low"), OPUS, {"type": "adaptive"}, {"effort": "low"}),
        (Reasoning(effort="minimal"), OPUS, {"type": "adaptive"}, {"effort": "low"}),
        (Reasoning(effort="xhigh"), OPUS, {"type": "adaptive"}, {"effort": "xhigh"}),
        (Reasoning(effort="xhigh"), OPUS_4_6, {"type": "adaptive"}, {"effort": "high"}),
        (
            Reasoning(budget=2_048, effort="low"),
            OPUS_4_6,
            {"type": "enabled", "budget_tokens": 2_048},
            {"effort": "low"},
        ),
        (Reasoning(effort="max"), OPUS_4_6, {"type": "adaptive"}, {"effort": "max"}),
        (Reasoning(), OPUS, {"type": "adaptive"}, None),
        (Reasoning(), SONNET, {"type": "enabled", "budget_tokens": 3_200}, None),
        (Reasoning(shown=True), OPUS, {"type": "adaptive", "display": "summarized"}, None),
        (Reasoning(effort="high", shown=False), OPUS, {"type": "adaptive", "display": "omitted"}, {"effort": "high"}),
        (Reasoning(budget=2_048), OPUS, {"type": "adaptive"}, {"effort": "low"}),
        (Reasoning(budget=20_000), OPUS, {"type": "adaptive"}, {"effort": "high"}),
        (Reasoning(budget=2_048), OPUS_4_6, {"type": "enabled", "budget_tokens": 2_048}, None),
        (Reasoning(budget=2_048), SONNET, {"type": "enabled", "budget_tokens": 2_048}, None),
        (Reasoning(budget=100), SONNET, {"type": "enabled", "budget_tokens": 1_024}, None),
        (Reasoning(budget=90_000), SONNET, {"type": "enabled", "budget_tokens": 3_999}, None),
        (Reasoning(effort="low"), SONNET, {"type": "enabled", "budget_tokens": 1_024}, None),
        (Reasoning(effort="medium"), SONNET, {"type": "enabled", "budget_tokens": 2_000}, None),
        (Reasoning(effort="high"), SONNET, {"type": "enabled", "budget_tokens": 3_200}, None),
        (Reasoning(effort="high"), "deepseek-v9", {"type": "enabled", "budget_tokens": 3_200}, None),
        (Reasoning(effort="none"), SONNET, {"type": "disabled"}, None),
        (Reasoning(budget=0), "claude-opus-5", {"type": "disabled"}, None),
        (Reasoning(effort="none"), SONNET_5_5, {"type": "between_tools"}, None),
        (Reasoning(effort="none"), "claude-haiku-5-5", {"type": "disabled"}, None),
    ],
)
def test_reasoning_is_asked_for_as_the_model_takes_it(
    reasoning: Reasoning, model: str, thinking: Any, config: Any
) -> None:
    written = body(model=model, reasoning=reasoning)
    assert written["thinking"] == thinking
    assert written.get("output_config") == config


@pytest.mark.parametrize("model", [OPUS_5_5, "claude-fable-5-1", "claude-mythos-preview"])
def test_models_that_always_think_say_so(model: str) -> None:
    assert refused(model=model, reasoning=Reasoning(effort="none")) == "reasoning"


def test_where_nothing_is_left_to_think_with_it_is_noted() -> None:
    written = outgoing(model=SONNET, max_tokens=1_024, reasoning=Reasoning(effort="high"))
    assert "thinking" not in json.loads(written.body)
    assert written.dropped == ("reasoning",)


def test_a_schema_is_kept_to() -> None:
    wanted = Format(kind="schema", name="x", schema=SCHEMA, strict=True)
    assert body(format=wanted)["output_config"] == {"format": {"type": "json_schema", "schema": SHAPE}}
    written = body(format=wanted, model=OPUS, reasoning=Reasoning(effort="low"))
    assert written["output_config"].keys() == {"effort", "format"}
    assert "output_config" not in body(format=Format(kind="text"))
    assert refused(format=Format(kind="json")) == "format"
    assert refused(format=wanted, model="claude-opus-4-1") == "format"


def test_what_a_format_is_for_stands_in_its_schema() -> None:
    written = outgoing(format=Format(kind="schema", description="For a cat.", schema=SCHEMA))
    schema = json.loads(written.body)["output_config"]["format"]["schema"]
    assert schema == {**SHAPE, "description": "For a cat."}
    assert not written.dropped


BOUNDED = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}
FITTED = {
    "type": "object",
    "properties": {"n": {"type": "integer", "description": "(minimum: 1)"}},
    "required": ["n"],
    "additionalProperties": False,
}


def test_bounds_that_claude_refuses_are_described_to_it() -> None:
    bounded = Raw(json.dumps(BOUNDED).encode())
    wanted = Format(kind="schema", name="x", schema=bounded)
    written = outgoing(format=wanted, tools=(Tool(name="f", parameters=bounded, strict=True),))
    sent = json.loads(written.body)
    assert (sent["output_config"]["format"]["schema"], sent["tools"][0]["input_schema"]) == (FITTED, FITTED)
    assert written.dropped == ("tools[0].strict", "format")
    closed = body(tools=(Tool(name="f", strict=True),))["tools"][0]["input_schema"]
    assert closed == {"type": "object", "properties": {}, "additionalProperties": False}


def test_a_promise_too_many_is_refused_or_left_out() -> None:
    tools = tuple(Tool(name=f"f{number}", parameters=SCHEMA, strict=True) for number in range(21))
    assert all(tool["strict"] for tool in body(tools=tools[:20])["tools"])
    assert refused(tools=tools) == "tools[20].strict"
    written = outgoing(tools=tools, lenient=True)
    assert ["strict" in tool for tool in json.loads(written.body)["tools"]] == [True] * 20 + [False]
    assert len(body(tools=tools, model="deepseek-chat")["tools"]) == 21


def test_schemas_without_a_promise_stay_as_they_are() -> None:
    bounded = Raw(json.dumps(BOUNDED).encode())
    assert body(tools=(Tool(name="f", parameters=bounded),))["tools"][0]["input_schema"] == BOUNDED
    wanted = Format(kind="schema", name="x", schema=bounded)
    assert body(format=wanted, model="deepseek-chat")["output_config"]["format"]["schema"] == BOUNDED


def test_sampling_within_its_range_is_kept() -> None:
    written = body(temperature=0.5, top_k=5, stop=("END", "STOP"), model="claude-3-5-haiku-latest")
    assert (written["temperature"], written["top_k"], written["stop_sequences"]) == (0.5, 5, ["END", "STOP"])
    assert body(temperature=0.5, top_p=0.5, model="claude-3-opus-latest")["top_p"] == 0.5
    for near in (0.95, 0.97):
        assert body(top_p=near, reasoning=Reasoning(budget=2_000), model=SONNET)["top_p"] == near


@pytest.mark.parametrize(
    ("members", "model", "field"),
    [
        ({"temperature": 1.5}, SONNET, "temperature"),
        ({"temperature": 0.5, "top_p": 0.5}, SONNET, "top_p"),
        ({"temperature": 0.5}, OPUS, "temperature"),
        ({"temperature": 0}, "claude-haiku-5-5", "temperature"),
        ({"top_p": 0.99}, OPUS, "top_p"),
        ({"top_k": 40}, OPUS, "top_k"),
        ({"temperature": 0.5, "reasoning": Reasoning(budget=2_000)}, SONNET, "temperature"),
        ({"top_k": 40, "reasoning": Reasoning(budget=2_000)}, SONNET, "top_k"),
        ({"top_p": 0.9, "reasoning": Reasoning(budget=2_000)}, SONNET, "top_p"),
        ({"seed": 0}, SONNET, "seed"),
        ({"presence_penalty": 0.5}, SONNET, "presence_penalty"),
        ({"frequency_penalty": -1}, SONNET, "frequency_penalty"),
        ({"choices": 2}, SONNET, "choices"),
        ({"logprobs": True}, SONNET, "logprobs"),
        ({"top_logprobs": 3}, SONNET, "top_logprobs"),
        ({"logit_bias": Raw(b'{"50256":-100}')}, SONNET, "logit_bias"),
        ({"extras": {"modalities": Raw(b'["audio"]')}}, SONNET, "modalities"),
    ],
)
def test_what_it_cannot_do_is_said(members: dict[str, Any], model: str, field: str) -> None:
    assert refused(model=model, **members) == field
    assert field not in body(model=model, **members, lenient=True)


def test_defaults_are_no_mistake() -> None:
    members: dict[str, Any] = {
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "logprobs": False,
        "top_logprobs": 0,
        "logit_bias": Raw(b"{}"),
        "verbosity": "medium",
    }
    assert outgoing(model=OPUS, **members).dropped == ()
    assert body(model=OPUS, **members).keys() == {"model", "max_tokens", "messages"}
    assert body(model=SONNET, temperature=0.5, top_p=1)["temperature"] == 0.5


def test_the_end_user_is_named() -> None:
    assert body(end_user="u-1")["metadata"] == {"user_id": "u-1"}


def test_how_wordy_an_answer_should_be_is_a_hint_that_is_named() -> None:
    assert outgoing(verbosity="low").dropped == ("verbosity",)


def test_hints_of_others_stay_behind() -> None:
    assert "store" not in body(hints={"store": Raw(b"true")})
    assert outgoing(hints={"store": Raw(b"true")}).dropped == ("store",)


# --- The whole way from a caller of chat ---


def test_a_request_of_chat_becomes_one_of_messages() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": SHAPE}}]
    written = sent(messages=messages, tools=tools, tool_choice="required", stop="END", user="u", stream=True, limit=77)
    assert written == {
        "model": SONNET,
        "max_tokens": 77,
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                ],
            },
            {"role": "assistant", "content": [{"type": "tool_use", "id": "call_1", "name": "f", "input": {"a": 1}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "42"}]},
        ],
        "system": "Be brief.",
        "stream": True,
        "tools": [{"name": "f", "input_schema": SHAPE}],
        "tool_choice": {"type": "any"},
        "stop_sequences": ["END"],
        "metadata": {"user_id": "u"},
    }


def test_an_answer_that_was_begun_ends_without_a_space() -> None:
    """Anthropic: "final assistant content cannot end with trailing whitespace"."""
    begun = Turn(role="assistant", parts=(Text(text="Sure: \n"),))
    assert body(HI, begun)["messages"][-1] == {"role": "assistant", "content": "Sure:"}
    assert body(HI, begun, HI)["messages"][1]["content"] == "Sure: \n"


THOUGHT = Turn(
    role="assistant",
    parts=(
        Thinking(text="Hm", signature="c2ln", origin="anthropic"),
        ToolCall(id="toolu_1", name="weather", arguments="{}"),
    ),
)
ANSWERED = (
    HI,
    THOUGHT,
    Turn(role="tool", parts=(ToolResult(id="toolu_1", name="weather", parts=(Text(text="sunny"),)),)),
)
GO = {"prefix_mismatch_behavior": "drop_block"}


@pytest.mark.parametrize(
    ("model", "members", "thinking"),
    [
        ("claude-opus-5-5", {}, {"type": "adaptive", "block_binding": GO}),
        ("claude-fable-5-1", {}, {"type": "adaptive", "block_binding": GO}),
        ("claude-sonnet-5-5", {"reasoning": Reasoning(effort="low")}, {"type": "adaptive", "block_binding": GO}),
        # Not told to think, it is not told so by us.
        ("claude-sonnet-5-5", {}, None),
        ("claude-opus-5", {}, None),
        ("claude-fable-5", {}, None),
    ],
)
def test_thoughts_that_no_longer_fit_what_was_said_before_them_may_be_left_out(
    model: str, members: dict[str, Any], thinking: dict[str, Any] | None
) -> None:
    conversation = Conversation(origin="openai_chat", turns=ANSWERED, max_tokens=4_000, **members)
    sent = AnthropicProvider().outgoing(conversation, route(model, provider="anthropic"), None)
    assert json.loads(sent.body).get("thinking") == thinking
    assert sent.headers == (((b"anthropic-beta", b"thinking-binding-controls-2026-08-01"),) if thinking else ())
    elsewhere = AnthropicProvider().outgoing(conversation, route(model, provider="bedrock"), None)
    assert elsewhere.headers == ()
    silent = Conversation(origin="openai_chat", turns=(HI,), max_tokens=4_000, **members)
    assert AnthropicProvider().outgoing(silent, route(model, provider="anthropic"), None).headers == ()
