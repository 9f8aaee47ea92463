import json
from typing import Any

import pytest
from msgspec import Raw

from tollbridge.errors import InvalidRequest
from tollbridge.wire import responses_request
from tollbridge.wire.conversation import (
    Audio,
    Conversation,
    Document,
    Format,
    Image,
    Opaque,
    Reasoning,
    Refusal,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from tollbridge.wire.responses_conversation import sealed

FUNCTION = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}


def conversation(input_: Any = "Hi", **fields: Any) -> Conversation:
    return responses_request.parse(json.dumps({"model": "m", "input": input_, **fields}).encode()).conversation()


def turns(*items: dict[str, Any], **fields: Any) -> tuple[Turn, ...]:
    return conversation(list(items), **fields).turns


def test_a_text_is_what_the_user_says() -> None:
    assert conversation("Hi", instructions="Be brief").turns == (
        Turn(role="system", parts=(Text(text="Be brief"),)),
        Turn(role="user", parts=(Text(text="Hi"),)),
    )


def test_items_of_every_kind_become_turns() -> None:
    found = turns(
        {"type": "message", "role": "developer", "content": "Be brief"},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Look"},
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
                {"type": "input_image", "image_url": "https://a.b/c.png"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,BBBB"},
                {"type": "input_file", "file_url": "https://a.b/d.pdf"},
                {"type": "input_audio", "input_audio": {"data": "CCCC", "format": "mp3"}},
            ],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Wait", "annotations": []}],
        },
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a":1}'},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": ""},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "2"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
    )
    assert found == (
        Turn(role="developer", parts=(Text(text="Be brief"),)),
        Turn(
            role="user",
            parts=(
                Text(text="Look"),
                Image(data="AAAA", media_type="image/png", detail="low"),
                Image(url="https://a.b/c.png"),
                Document(data="BBBB", media_type="application/pdf", title="a.pdf"),
                Document(url="https://a.b/d.pdf"),
                Audio(data="CCCC", format="mp3"),
            ),
        ),
        Turn(
            role="assistant",
            parts=(
                Thinking(text="Hm"),
                Text(text="Wait"),
                ToolCall(id="c1", name="f", arguments='{"a":1}'),
                ToolCall(id="c2", name="f", arguments="{}"),
            ),
        ),
        Turn(role="tool", parts=(ToolResult(id="c1", name="f", parts=(Text(text="1"),)),)),
        Turn(role="tool", parts=(ToolResult(id="c2", name="f", parts=(Text(text="2"),)),)),
        Turn(role="assistant", parts=(Refusal(text="No"),)),
    )


def test_settings_have_their_places() -> None:
    found = conversation(
        tools=[FUNCTION],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "s", "schema": {"a": 1}, "strict": True}, "verbosity": "low"},
        reasoning={"effort": "high", "summary": "auto", "mode": "standard", "context": "all_turns"},
        max_output_tokens=9,
        temperature=0.5,
        top_p=0.9,
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        top_logprobs=3,
        safety_identifier="u1",
        metadata={"a": "b"},
        store=True,
        truncation="disabled",
        service_tier="auto",
    )
    assert found.tools == (Tool(name="f", description="d", parameters=Raw(b'{"type": "object"}'), strict=True),)
    assert found.tool_choice == ToolChoice(mode="one", name="f")
    assert found.format == Format(kind="schema", name="s", schema=Raw(b'{"a": 1}'), strict=True)
    assert found.reasoning == Reasoning(effort="high", shown=True)
    assert (found.parallel_tools, found.verbosity, found.end_user) == (False, "low", "u1")
    assert (found.max_tokens, found.temperature, found.top_p) == (9, 0.5, 0.9)
    assert (found.logprobs, found.top_logprobs) == (True, 3)
    assert found.extras == {}
    assert set(found.hints) >= {"metadata", "store", "service_tier", "reasoning.context"}


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [FUNCTION, {"type": "mcp", "server_label": "x"}]}, "tools[1]"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "file_search"}]}]}, "tools[0].tools[0]"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "priority"}, "service_tier"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"reasoning": {"effort": "high", "mode": "pro"}}, "reasoning.mode"),
    ],
)
def test_what_only_openai_does_is_an_extra_by_its_place(fields: dict[str, Any], name: str) -> None:
    assert set(conversation(**fields).extras) == {name}


def test_a_search_that_codex_offers_with_every_request_is_a_hint() -> None:
    found = conversation(tools=[{"type": "web_search", "external_web_access": False}, FUNCTION])
    assert (found.extras, len(found.tools)) == ({}, 1)
    assert "tools[0]" in found.hints


@pytest.mark.parametrize(("type_", "kind"), [("json_object", "json"), ("text", "text")])
def test_a_plain_format_is_only_its_type(type_: str, kind: Any) -> None:
    assert conversation(text={"format": {"type": type_}}).format == Format(kind=kind)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ({}, None),
        ({"effort": "low"}, Reasoning(effort="low")),
        ({"summary": "auto"}, Reasoning(shown=True)),
        ({"effort": "low", "summary": "auto"}, Reasoning(effort="low", shown=True)),
    ],
)
def test_thoughts_are_asked_for_by_their_effort_or_to_be_shown(asked: dict[str, str], meant: Reasoning | None) -> None:
    assert conversation(reasoning=asked).reasoning == meant


def test_a_choice_among_no_tools_leaves_none() -> None:
    assert conversation(tools=[FUNCTION], tool_choice={"type": "allowed_tools", "mode": "auto"}).tools == ()


def test_calls_that_say_nothing_have_an_empty_object() -> None:
    said = turns(
        {"type": "local_shell_call", "call_id": "c1"},
        {"type": "tool_search_call", "execution": "client", "call_id": "c2"},
    )
    assert said[0].parts == (
        ToolCall(id="c1", name="local_shell", arguments="{}"),
        ToolCall(id="c2", name="tool_search", arguments="{}"),
    )


def test_custom_tools_and_namespaces_are_functions() -> None:
    found = conversation(
        [
            {"type": "custom_tool_call", "call_id": "c1", "name": "apply_patch", "input": "*** Begin"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "done"},
            {"type": "function_call", "call_id": "c2", "namespace": "mcp__files__", "name": "read", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c2", "output": "text"},
            {"type": "local_shell_call", "call_id": "c3", "action": {"type": "exec", "command": ["ls"], "env": {}}},
            {"type": "local_shell_call_output", "id": "c3", "output": "a b"},
        ],
        tools=[
            {
                "type": "custom",
                "name": "apply_patch",
                "description": "Patches",
                "format": {"type": "grammar", "syntax": "lark", "definition": "start: x"},
            },
            {"type": "namespace", "name": "mcp__files__", "description": "Files", "tools": [FUNCTION]},
            {"type": "local_shell"},
        ],
    )
    assert [tool.name for tool in found.tools] == ["apply_patch", "mcp__files__f", "local_shell"]
    assert "start: x" in found.tools[0].description
    said = [part for turn in found.turns for part in turn.parts]
    assert [part.name for part in said if isinstance(part, ToolCall | ToolResult)] == [
        *("apply_patch", "apply_patch", "mcp__files__read", "mcp__files__read", "local_shell", "local_shell"),
    ]
    patch = said[0]
    assert isinstance(patch, ToolCall)
    assert json.loads(patch.arguments) == {"input": "*** Begin"}


SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds tools", "parameters": {"type": "object"}}


def test_tools_that_a_search_found_are_offered_from_then_on() -> None:
    found = conversation(
        [
            {"type": "tool_search_call", "call_id": "c1", "execution": "client", "arguments": {"query": "files"}},
            {
                "type": "tool_search_output",
                "call_id": "c1",
                "execution": "client",
                "status": "completed",
                "tools": [{"type": "namespace", "name": "mcp__files__", "tools": [FUNCTION]}, FUNCTION],
            },
        ],
        tools=[SEARCH, FUNCTION],
    )
    assert [tool.name for tool in found.tools] == ["tool_search", "f", "mcp__files__f"]
    call, result = found.turns[0].parts[0], found.turns[1].parts[0]
    assert isinstance(call, ToolCall)
    assert isinstance(result, ToolResult)
    assert (call.name, json.loads(call.arguments)) == ("tool_search", {"query": "files"})
    assert result.parts == (Text(text="You can call these now: mcp__files__f, f"),)


def test_without_openai_s_search_for_tools_all_are_offered() -> None:
    later = {**FUNCTION, "name": "later", "defer_loading": True}
    more = {**FUNCTION, "name": "more"}
    ran = {"call_id": "c1", "execution": "server", "status": "completed"}
    found = conversation(
        [
            {"role": "user", "content": "Hi"},
            {"type": "tool_search_call", "arguments": {"queries": ["x"]}, **ran},
            {"type": "tool_search_output", "tools": [later], **ran},
            {"type": "additional_tools", "role": "developer", "tools": [more]},
        ],
        tools=[{"type": "tool_search"}, FUNCTION, later],
    )
    assert [tool.name for tool in found.tools] == ["f", "later", "more"]
    assert (found.extras, list(found.hints)) == ({}, ["tools[0]"])
    assert [turn.role for turn in found.turns] == ["user"]


def test_a_call_of_a_tool_that_a_search_found_is_one_of_that_tool() -> None:
    def name_of(tool: dict[str, Any]) -> str:
        call = {"type": "function_call", "call_id": "c1", "name": "f", "namespace": "f", "arguments": "{}"}
        [part] = conversation([call], tools=[tool]).turns[0].parts
        assert isinstance(part, ToolCall)
        return part.name

    assert name_of({**FUNCTION, "defer_loading": True}) == "f"
    assert name_of({"type": "namespace", "name": "f", "tools": [FUNCTION]}) == "f__f"


def test_what_codex_sends_can_be_said_to_any_model() -> None:
    strict = {"type": "function", "name": "exec_command", "description": "d", "strict": False, "parameters": {}}
    patch = {"type": "custom", "name": "apply_patch", "description": "d", "format": {"type": "grammar"}}
    web = {"type": "web_search", "external_web_access": True, "search_content_types": ["text", "image"]}
    found = conversation(
        [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Rules"}]}],
        instructions="You are a coding agent",
        tools=[strict, patch, {"type": "namespace", "name": "multi_agent", "tools": [FUNCTION]}, SEARCH, web],
        tool_choice="auto",
        parallel_tool_calls=True,
        reasoning={"effort": "medium"},
        store=False,
        include=["reasoning.encrypted_content"],
        prompt_cache_key="01a2009f",
        text={"verbosity": "low"},
        client_metadata={"session_id": "x", "turn_id": "y"},
    )
    assert found.extras == {}
    assert len(found.tools) == 4


def test_names_that_grow_too_long_stay_different() -> None:
    tools = [{"type": "function", "name": f"{'x' * 60}{end}"} for end in "ab"]
    found = conversation(tools=[{"type": "namespace", "name": "mcp__server__", "tools": tools}])
    assert len({tool.name for tool in found.tools}) == 2
    assert all(len(tool.name) <= 64 for tool in found.tools)


def test_what_was_thought_comes_back_with_its_signature() -> None:
    thought = Thinking(text="Hm", signature="sig", origin="anthropic")
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed(thought)}
    [turn] = turns(item)
    assert turn.parts == (thought,)


def test_a_signature_of_a_call_comes_back_to_the_call() -> None:
    seal = sealed(Thinking(signature="sig", origin="gemini"), "c1")
    [turn] = turns(
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
    )
    assert turn.parts == (ToolCall(id="c1", name="f", arguments="{}", signature="sig", origin="gemini"),)


@pytest.mark.parametrize("encrypted", ["gAAAA", "tb1.", "tb1.!!!", "tb1.AAAA", "tb1.W10="])
def test_what_others_encrypted_goes_back_to_them_alone(encrypted: str) -> None:
    [turn] = turns({"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": encrypted})
    assert turn.parts == (Thinking(redacted=encrypted, origin="openai_responses"),)


def test_items_that_a_model_would_have_to_understand_are_opaque_and_others_are_left_out() -> None:
    [turn] = turns(
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
        {"type": "compaction", "encrypted_content": "x"},
    )
    [part] = turn.parts
    assert isinstance(part, Opaque)
    assert part.param == "input[1]"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input_": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input[0].call_id"),
        ({"input_": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input[0].name"),
        ({"input_": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": 5}]}, "input[0].arguments"),
        ({"input_": [{"type": "function_call", "call_id": "c", "name": "f"}]}, "input[0].arguments"),
        ({"input_": [{"type": "custom_tool_call", "call_id": "c", "name": "f"}]}, "input[0].input"),
        ({"input_": [{"type": "function_call_output", "output": "a"}]}, "input[0].call_id"),
        ({"input_": [{"type": "function_call_output", "call_id": "c"}]}, "input[0].output"),
        ({"input_": [{"type": "function_call_output", "call_id": "c", "output": [5]}]}, "input[0].output"),
        ({"input_": [{"role": "user"}]}, "input[0].content"),
        ({"input_": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "yaml"}}}, "text.format"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        conversation(**fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("part", "param", "says"),
    [
        (
            {"type": "input_image"},
            "image_url",
            "Missing 'input[0].content[0].image_url': it must be a URL or a data URL",
        ),
        (
            {"type": "input_image", "image_url": "cat.png"},
            "image_url",
            "it must be a URL (https://…) or a data URL",
        ),
        ({"type": "input_image", "image_url": "data:image/png;base64,"}, "image_url", "a picture's base64"),
        ({"type": "input_image", "file_id": "file-1"}, "file_id", "no files are kept here, so send image_url"),
        ({"type": "input_file", "file_id": "file-1"}, "file_id", "no files are kept here, so send image_url"),
        (
            {"type": "input_file"},
            "file_data",
            "Missing 'input[0].content[0].file_data': it must be a data URL or base64",
        ),
        ({"type": "input_text"}, "text", "Missing 'input[0].content[0].text': it must be a string"),
    ],
)
def test_a_part_without_what_it_is_for_is_refused_by_that_name(part: dict[str, str], param: str, says: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        conversation([{"role": "user", "content": [part]}])
    assert refused.value.param == f"input[0].content[0].{param}"
    assert says in refused.value.message
    answer = {"type": "function_call_output", "call_id": "1", "output": [part]}
    with pytest.raises(InvalidRequest) as refused:
        conversation([answer])
    assert refused.value.param == f"input[0].output[0].{param}"
    assert says.replace("content[", "output[") in refused.value.message


def test_sound_in_the_result_of_a_tool_is_not_lost_without_a_word() -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    output = {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "a"}, sound]}
    result = turns(call, output)[1].parts[0]
    assert isinstance(result, ToolResult)
    text, other = result.parts
    assert text == Text(text="a")
    assert isinstance(other, Opaque)
    assert other.param == "input[1].output[1]"
