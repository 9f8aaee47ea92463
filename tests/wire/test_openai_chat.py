import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollbridge.errors import InvalidRequest
from tollbridge.wire import openai_chat, openai_completions, openai_embeddings

USER = {"role": "user", "content": "Hello!"}


def parse(**fields: Any) -> Any:
    return openai_chat.parse(json.dumps({"model": "m", "messages": [USER]} | fields).encode())


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as raised:
        openai_chat.parse(body)
    return raised.value


# --- What is wrong is named ---


def each(make: Callable[[Any], Any], *bad: Any) -> list[Any]:
    return list(map(make, bad))


BAD: dict[tuple[str, str], list[Any]] = {
    ("model", "name of a model"): [
        None,
        7,
        True,
        "",
        " ",
        "a\nb",
        "a\r\nX-Y: z",
        "\x00b",
        "a\x7f",
        "\u200b",
        "x" * 257,
        ["m"],
    ],
    ("messages", "array of 1 to 4,096"): [None, "Hello!", {}, [], {"role": "user"}, 7, [USER] * 4097],
    ("messages[0]", "object"): [["Hello!"], [None], [7], [[USER]]],
    ("messages[1].role", "developer, system, user"): each(lambda bad: [USER, {"role": bad}], "robot", "", None, 7),
    ("messages[0].role", "developer, system, user"): [[{"content": "Hello!"}]],
    ("messages[0].content", "string"): each(lambda bad: [USER | {"content": bad}], 7, True, {}),
    ("messages[2].content", "string"): [[USER, USER, {"role": bad}] for bad in ("tool", "user", "system")],
    ("messages[0].content[1]", "object"): each(lambda bad: [USER | {"content": [{}, bad]}], "text", 7, None, []),
    ("messages[0].content[0].type", "string"): [[USER | {"content": [{"type": 7}]}]],
    ("stream", "true or false"): ["true", 1, 0, [], {}],
    ("stream_options", "object"): [True, "x", [], 7],
    ("stream_options.include_usage", "true or false"): each(lambda bad: {"include_usage": bad}, "true", 1, {}),
    ("temperature", "from 0 to 2"): [-0.1, 2.1, "1", True, [], 3, -1e300],
    ("top_p", "from 0 to 1"): [-0.1, 1.1, "1", False, {}],
    ("presence_penalty", "from -2 to 2"): [-2.1, 2.1, "0", True],
    ("frequency_penalty", "from -2 to 2"): [-3, 3, "0", []],
    ("max_tokens", "at least 1"): [0, -1, 2**31, 10**30, 1.5, 1.0, "5", True, []],
    ("max_completion_tokens", "at least 1"): [0, -1, 2**31, 1.0, "5", False],
    ("n", "from 1 to 8"): [0, 9, -1, 1.0, "1", True],
    ("stop", "at most 4"): [7, True, {}, ["a"] * 5],
    ("stop[1]", "string"): [["a", 7]],
    ("tools", "at most 256"): ["x", {}, 7, [{}] * 257],
    ("tools[0]", "object"): [["x"], [7], [None], [[]]],
}
BAD_FIELDS = [(param, value, right) for (param, right), values in BAD.items() for value in values]


@pytest.mark.parametrize(("param", "value", "right"), BAD_FIELDS, ids=lambda value: repr(value)[:40])
def test_a_wrong_field_is_named_with_what_would_be_right(param: str, value: Any, right: str) -> None:
    name = param.partition("[")[0].partition(".")[0]
    error = refusal(json.dumps({"model": "m", "messages": [USER]} | {name: value}).encode())
    assert error.param == param
    assert f"'{param}'" in error.message
    assert right in error.message
    assert (error.status, error.type, error.code) == (400, "invalid_request_error", "invalid_request_error")


def test_there_are_enough_bad_bodies() -> None:
    assert len(BAD_FIELDS) > 100


@pytest.mark.parametrize("name", ["model", "messages"])
def test_a_missing_field_is_named(name: str) -> None:
    body: dict[str, Any] = {"model": "m", "messages": [USER]}
    del body[name]
    error = refusal(json.dumps(body).encode())
    assert error.param == name
    assert error.message.startswith(f"Missing '{name}'")


@pytest.mark.parametrize("kind", [b"openrouter:advisor", rb"\u006fpenrouter:fusion", b"openrouter:image_generation"])
def test_tools_that_would_call_other_models_are_refused(kind: bytes) -> None:
    head = b'{"model":"m","messages":[{"role":"user","content":"a"}],"tools":['
    error = refusal(head + b'{"type":"function"},{"type":"%b","parameters":{"model":"x"}}]}' % kind)
    assert (error.param, error.status) == ("tools[1]", 400)
    for other in (b'"openrouter:web_search"', b'"openrouter:datetime"', b'"openrouter"', b'["openrouter:advisor"]'):
        assert openai_chat.parse(head + b'{"type":%b}]}' % other)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e400"])
def test_numbers_that_no_float_holds_are_refused_where_they_are_read(number: str) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"a"}],"temperature":%b}' % number.encode()
    assert refusal(body).param == "temperature"
    assert openai_chat.parse(body.replace(b"temperature", b"seed"))


def test_a_body_that_nests_too_deep_is_refused() -> None:
    def body(levels: int) -> bytes:
        return b'{"model":"m","messages":[{"role":"user","content":"a","x":%b}]}' % (b"[" * levels + b"]" * levels)

    assert openai_chat.parse(body(61))
    for levels in (62, 500, 990, 90_000):
        assert "64 levels" in refusal(body(levels)).message


def test_long_and_wide_bodies_are_not_deep() -> None:
    parts = [{"type": "text", "text": "{[" * 50}] * 10
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
    assert parse(messages=[USER | {"content": parts}] * 500, tools=[tool] * 200)


# --- What is right passes ---


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0}, {"temperature": 2}, {"temperature": 0.7}, {"temperature": -0.0}, {"top_p": 1}, {"n": 8},
        {"presence_penalty": -2}, {"frequency_penalty": 2.0}, {"stop": "a"}, {"stop": []}, {"stop": ["a"] * 4},
        {"max_tokens": 1}, {"max_tokens": 2**31 - 1}, {"max_completion_tokens": 1}, {"stream": False}, {"tools": []},
        {"stream_options": {}}, {"stream_options": {"include_usage": None, "include_obfuscation": True}},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "tool_choice": "auto"},
        {"response_format": {"type": "json_schema", "json_schema": {}}, "seed": -5, "logit_bias": {"50256": -100}},
        {"logprobs": True, "top_logprobs": 20, "user": "u", "metadata": {}, "anything": [{"at": ["all", None]}]},
        {"model": "anthropic/claude-opus-4-8"}, {"model": "模型:latest"}, {"model": "x" * 256},
    ],
)  # fmt: skip
def test_every_allowed_value_passes(fields: dict[str, Any]) -> None:
    request = parse(**fields)
    assert request.endpoint == "chat"
    assert {name: json.loads(bytes(request.fields[name])) for name in fields} == fields


NULLABLE = [
    *("stream", "stream_options", "temperature", "top_p", "presence_penalty", "frequency_penalty", "max_tokens"),
    *("max_completion_tokens", "n", "stop", "tools", "seed"),
]


@pytest.mark.parametrize("name", NULLABLE)
def test_null_is_not_given(name: str) -> None:
    request = parse(**{name: None})
    assert (request.stream, request.max_tokens, request.choices, request.include_usage) == (False, None, 1, None)


@pytest.mark.parametrize(
    "message",
    [
        *({"role": role, "content": "a"} for role in ("developer", "system", "user", "assistant", "tool", "function")),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "assistant", "tool_calls": []},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}, {"text": "a"}]},
        {"role": "user", "content": []},
        {"role": "user", "content": None},
        {"content": "role comes last", "name": "n", "role": "user"},
        {"role": "user", "content": "a", "unknown": {"kept": True}},
    ],
)
def test_every_form_of_message_passes(message: dict[str, Any]) -> None:
    assert parse(messages=[message]).inputs == 1


def test_what_a_request_asks_for_is_read() -> None:
    request = parse(
        model="a/b", stream=True, stream_options={"include_usage": False}, max_tokens=50, max_completion_tokens=40, n=3
    )
    assert (request.model, request.stream, request.include_usage) == ("a/b", True, False)
    assert (request.max_tokens, request.choices, request.inputs) == (40, 3, 1)
    assert parse(max_tokens=40, max_completion_tokens=50).max_tokens == 40
    assert parse(max_completion_tokens=50).max_tokens == 50
    assert parse(max_tokens=None, max_completion_tokens=50).max_tokens == 50


def test_the_last_of_a_name_is_what_was_checked() -> None:
    body = b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"a"}],"max_tokens":9}'
    assert openai_chat.parse(body).max_tokens == 9
    assert refusal(body.replace(b"9}", b"0}")).param == "max_tokens"


# --- Anything at all ---

names = st.sampled_from(
    [
        *("model", "messages", "role", "content", "type", "stream", "stream_options", "include_usage", "temperature"),
        *("max_tokens", "max_completion_tokens", "n", "stop", "tools", "prompt", "best_of", "input", "encoding_format"),
        *("image_url", "url", "api_base", "aws_x"),
    ]
)
values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
        st.sampled_from(["user", "assistant", "m", "text", 1, 0.5, 2**31, 10**400]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | st.text(max_size=5), inner, max_size=4),
    max_leaves=6,
)  # fmt: skip
usual = st.fixed_dictionaries(
    {"model": st.just("m") | values, "messages": st.lists(st.just(USER) | values) | values},
    optional=dict.fromkeys(
        ("prompt", "input", "stream", "stream_options", "temperature", "n", "tools", "stop"), values
    ),
)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON of the right kind and of any, whole or spoiled, and bytes."""
    body = draw(st.one_of(st.binary(max_size=50), (values | usual).map(lambda value: json.dumps(value).encode())))
    if draw(st.booleans()):
        body = json.dumps(draw(usual), ensure_ascii=False).encode(errors="surrogatepass")
    if draw(st.integers(0, 3)) == 0:
        at, junk = draw(st.integers(0, len(body))), draw(st.binary(max_size=4))
        body = body[:at] + junk + body[at + draw(st.integers(0, 4)) :]
    if draw(st.integers(0, 3)) == 0:
        body = body.replace(
            b'"m"', draw(st.sampled_from([b'"\\ud800"', b"NaN", b'"\xff"', b"[" * 70, b"1e999", b"-0"]))
        )
    return body


def survives(body: bytes) -> None:
    for endpoint in (openai_chat, openai_completions, openai_embeddings):
        try:
            request = endpoint.parse(body)
        except InvalidRequest:
            continue
        prompt = request.prompt()
        assert prompt.tokens >= 0
        assert request.choices >= 1
        assert request.model.isprintable()
        assert json.loads(body)["model"] == request.model


@settings(max_examples=500)
@given(bodies())
def test_no_bytes_break_the_parsers(body: bytes) -> None:
    survives(body)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@settings(max_examples=200_000)
@given(bodies())
def test_no_bytes_break_the_parsers_soak(body: bytes) -> None:
    survives(body)
