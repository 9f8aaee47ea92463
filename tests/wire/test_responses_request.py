import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.errors import InvalidRequest
from tollbridge.wire import responses_request
from tollbridge.wire.prompt import TOKENS_ELSEWHERE
from tollbridge.wire.responses_request import ResponsesRequest


def parsed(**fields: Any) -> ResponsesRequest:
    return responses_request.parse(json.dumps({"model": "m", "input": "Hi", **fields}).encode())


def test_what_the_gateway_needs_to_know_is_read() -> None:
    request = parsed(stream=True, max_output_tokens=9, input=[{"role": "user", "content": "a"}] * 3)
    assert (request.endpoint, request.model, request.stream) == ("responses", "m", True)
    assert (request.max_tokens, request.choices, request.inputs) == (9, 1, 3)


@pytest.mark.parametrize("name", ["previous_response_id", "conversation", "prompt", "background", "store", "stream"])
def test_null_means_not_given(name: str) -> None:
    assert parsed(**{name: None}).stream is False


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [5]}, "input[0]"),
        ({"input": [{}]}, "input[0]"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0]"),
        ({"input": [{"role": "robot", "content": "a"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"model": ""}, "model"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"tool_choice": "perhaps"}, "tool_choice"),
        ({"truncation": "some"}, "truncation"),
        ({"text": {"format": 5}}, "text.format"),
        ({"include": "x"}, "include"),
        ({"metadata": {"a": 1}}, "metadata[...]"),
        ({"api_base": "http://a"}, "api_base"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parsed(**fields)
    assert caught.value.param == param
    assert "must" in caught.value.message or "send" in caught.value.message or "leave it out" in caught.value.message


def test_who_refers_to_items_is_told_how_clients_stop_doing_so() -> None:
    body = {"model": "m", "input": [{"role": "user", "content": "a"}, {"type": "item_reference", "id": "msg_1"}]}
    with pytest.raises(InvalidRequest, match="`store: false`") as caught:
        responses_request.parse(json.dumps(body).encode())
    assert caught.value.param == "input[1]"


def test_input_is_required() -> None:
    with pytest.raises(InvalidRequest, match="input"):
        responses_request.parse(b'{"model":"m"}')


def test_the_prompt_is_all_text_without_media() -> None:
    picture, sound = "data:image/png;base64," + "A" * 9000, "B" * 1600
    request = parsed(
        instructions="Be brief",
        input=[
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is it?"},
                    {"type": "input_image", "image_url": picture},
                    {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}},
                ],
            },
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image", "image_url": picture}]},
            {"type": "function_call_output", "call_id": "d", "output": "seen"},
        ],
        tools=[{"type": "function", "name": "weather"}],
        text={"format": {"type": "json_schema", "name": "shape", "schema": {}}},
    )
    prompt = request.prompt()
    for word in (b"Be brief", b"What is it?", b"seen", b"weather", b"shape"):
        assert word in prompt.text
    assert b"AAAA" not in prompt.text
    assert b"BBBB" not in prompt.text
    assert (len(prompt.pictures), prompt.messages, prompt.tokens) == (2, 3, (len(sound) + 2) // 16 + 1)


@pytest.mark.parametrize(
    ("file", "is_elsewhere"),
    [
        ({"file_url": "https://a.b/c.pdf"}, True),
        ({"file_id": "file_1"}, True),
        ({"file_data": "https://a.b/c.pdf"}, True),
        ({"file_data": "data:application/pdf;base64,AAAA"}, False),
        ({"file_url": None, "file_id": None, "filename": "a.pdf"}, False),
    ],
)
def test_files_that_the_provider_gets_from_elsewhere_are_not_free(file: dict[str, Any], is_elsewhere: bool) -> None:
    part = {"type": "input_file", **file}
    for item in (
        {"role": "user", "content": [part]},
        {"type": "function_call_output", "call_id": "c", "output": [part]},
    ):
        assert parsed(input=[item, item]).prompt().tokens == (2 * TOKENS_ELSEWHERE if is_elsewhere else 0)


def test_a_text_that_looks_like_a_picture_is_text() -> None:
    text = "data:image/png;base64," + "A" * 900
    assert text.encode() in parsed(input=text).prompt().text
    assert text.encode() in parsed(input=[{"role": "user", "content": text}]).prompt().text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["a", "message", "user", "function_call"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "type",
                        "role",
                        "content",
                        "text",
                        "call_id",
                        "name",
                        "arguments",
                        "output",
                        "summary",
                        "image_url",
                    ),
                    *("input_audio", "data", "encrypted_content", "action", "format", "tools", "schema"),
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)
TYPES = st.sampled_from(
    [
        *("message", "reasoning", "function_call", "function_call_output", "custom_tool_call", "local_shell_call"),
        *("custom_tool_call_output", "web_search_call", "compaction", "function", "custom", "namespace"),
    ]
)
ITEM = st.tuples(JSON, TYPES).map(
    lambda made: {"role": "user", **(made[0] if isinstance(made[0], dict) else {}), "type": made[1]}
)


@given(
    st.lists(ITEM, min_size=1, max_size=3),
    st.dictionaries(
        st.sampled_from(["tools", "tool_choice", "text", "reasoning", "include", "service_tier", "truncation", "x"]),
        JSON | st.lists(ITEM, max_size=2),
        max_size=3,
    ),
)
def test_whatever_comes_is_a_conversation_or_refused(items: list[Any], fields: dict[str, Any]) -> None:
    try:
        request = parsed(input=items, **fields)
        request.prompt()
        request.conversation()
    except InvalidRequest:
        return
