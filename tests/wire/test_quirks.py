import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.streams import MODEL, route

from tollbridge.values import Route
from tollbridge.wire import openai_chat, openai_completions, openai_embeddings, quirks
from tollbridge.wire.quirks import body_for, target_for
from tollbridge.wire.request import Request

USER = {"role": "user", "content": 'Say "model":"x" and "stream_options"'}


def sent(fields: dict[str, Any], *, money: int | None = None, **quirks: Any) -> dict[str, Any]:
    """What goes out of a chat with these fields beside model and messages: the same members, as far as they differ."""
    body = {"model": MODEL, "messages": [USER], **fields}
    out: dict[str, Any] = json.loads(
        body_for(openai_chat.parse(json.dumps(body).encode()), route(upstream_model=MODEL, **quirks), money)
    )
    assert out.pop("messages") == [USER]
    assert out.pop("model") == MODEL
    return out


BODIES = [
    b'{"model":"m","messages":[{"role":"user","content":"a"}]}',
    b' {\n  "model": "m" ,\n\t"messages": [ {"role":"user","content":"\\u00e9 \xc3\xa9"} ],\r\n"seed": 1e2 }\n',
    b'{"messages":[{"role":"user","content":"a"}],"stream":false,"stream_options":null,"max_tokens":5,"model":"m"}',
    b'{"model":"m","messages":[{"role":"user","content":"a"}],"stream":true,"stream_options":{"include_usage":true}}',
]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_needs_no_change_keeps_every_member_byte_for_byte(body: bytes) -> None:
    request = openai_chat.parse(body)
    sent = body_for(request, route(upstream_model="m"), None)
    assert msgspec.json.decode(sent, type=dict[str, msgspec.Raw]) == request.fields
    assert sent == body or b" " in body


@pytest.mark.parametrize("body", BODIES)
def test_another_model_name_is_all_that_changes(body: bytes) -> None:
    before = openai_chat.parse(body)
    after = openai_chat.parse(body_for(before, route(upstream_model='their/"name"'), None))
    assert after.model == 'their/"name"'
    assert list(after.fields) == list(before.fields)
    assert {n: bytes(v) for n, v in after.fields.items() if n != "model"} == {
        n: bytes(v) for n, v in before.fields.items() if n != "model"
    }


def test_what_other_models_thought_does_not_reach_a_provider_that_refuses_it() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"reasoning":1}'}}
    said = {"role": "assistant", "content": 'of "reasoning"', "tool_calls": [call]}
    thought = said | {
        "reasoning_content": "hm",
        "reasoning_details": [{"type": "reasoning.text", "text": "hm", "signature": "s"}],
        "tool_calls": [call | {"extra_content": {"google": {"thought_signature": "s"}}}],
    }
    odd = {"role": "assistant", "content": None, "tool_calls": "extra_content"}

    def messages(*given: Any, drops: tuple[str, ...]) -> list[Any]:
        body = {"model": MODEL, "messages": [USER, *given], "reasoning": {"effort": "low"}}
        out = json.loads(body_for(openai_chat.parse(json.dumps(body).encode()), route(drops=drops), None))
        assert out["reasoning"] == {"effort": "low"}
        return list(out["messages"])

    assert messages(thought, odd, drops=("reasoning_content",)) == [USER, said, odd]
    assert messages(thought, odd, drops=("user",)) == [USER, thought, odd]


def test_a_name_that_stood_twice_is_sent_once_as_it_was_checked() -> None:
    body = b'{"model":"m","max_tokens":7,"messages":[{"role":"user","content":"a"}],"max_tokens":5}'
    out = body_for(openai_chat.parse(body), route(upstream_model="m"), None)
    assert out == b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"a"}]}'


EFFORT: dict[str, Any] = {"renames": (("reasoning", "reasoning_effort"),)}


@pytest.mark.parametrize(
    ("given", "expected", "left"),
    [
        ({"reasoning": {"effort": "low", "exclude": True}}, {"reasoning_effort": "low"}, ()),
        ({"reasoning": {"max_tokens": 8_000}}, {"reasoning_effort": "medium"}, ()),
        ({"reasoning": {"max_tokens": 9_000}}, {"reasoning_effort": "high"}, ()),
        ({"reasoning": {"effort": "low"}, "reasoning_effort": "high"}, {"reasoning_effort": "high"}, ()),
        ({"reasoning": {"enabled": True}}, {}, ("reasoning",)),
        ({"reasoning": None}, {}, ()),
        # The provider says what is wrong with it.
        ({"reasoning": "low"}, {"reasoning_effort": "low"}, ()),
    ],
)
def test_of_a_wish_to_think_the_effort_is_sent_where_there_is_only_a_word_for_it(
    given: dict[str, Any], expected: dict[str, Any], left: tuple[str, ...]
) -> None:
    assert sent(given, **EFFORT) == expected
    asked = openai_chat.parse(json.dumps({"model": MODEL, "messages": [USER], **given}).encode())
    assert quirks.left_out(asked, route(**EFFORT).upstream) == left
    assert sent(given) == given


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"include_usage": True}),
        ({"stream_options": None}, {"include_usage": True}),
        ({"stream_options": {}}, {"include_usage": True}),
        ({"stream_options": {"include_usage": False}}, {"include_usage": True}),
        (
            {"stream_options": {"include_usage": None, "include_obfuscation": False}},
            {"include_usage": True, "include_obfuscation": False},
        ),
        ({"stream_options": {"x": [1]}}, {"include_usage": True, "x": [1]}),
    ],
)
def test_usage_is_asked_for_on_every_stream(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sent({"stream": True, **given}) == {"stream": True, "stream_options": expected}
    assert sent({"stream": True, **given}, stream_usage=False) == {"stream": True}
    assert sent({"stream": False, **given}) == {"stream": False, **given}
    assert sent(given) == given


@pytest.mark.parametrize(
    ("given", "money", "expected"),
    [
        ({}, None, {}),
        ({"max_tokens": 50}, None, {"max_tokens": 50}),
        ({"max_completion_tokens": 50}, None, {"max_completion_tokens": 50}),
        ({}, 40, {"max_tokens": 40}),
        ({"max_tokens": None}, 40, {"max_tokens": 40}),
        ({"max_tokens": 50}, 40, {"max_tokens": 40}),
        ({"max_tokens": 30}, 40, {"max_tokens": 30}),
        ({"max_completion_tokens": 50}, 40, {"max_completion_tokens": 40}),
        ({"max_tokens": 50, "max_completion_tokens": 60}, None, {"max_tokens": 50, "max_completion_tokens": 50}),
        ({"max_tokens": 50, "max_completion_tokens": 60}, 40, {"max_tokens": 40, "max_completion_tokens": 40}),
    ],
)
def test_a_limit_is_sent_where_the_caller_or_money_sets_one(
    given: dict[str, Any], money: int | None, expected: dict[str, Any]
) -> None:
    assert sent(given, money=money) == expected
    renamed = sent(given, money=money, renames=(("max_tokens", "max_completion_tokens"),))
    limits = set(expected.values())
    assert renamed == ({"max_completion_tokens": limits.pop()} if limits else {})
    renamed = sent(given, money=money, renames=(("max_completion_tokens", "max_tokens"),))
    assert renamed == ({"max_tokens": max(expected.values())} if expected else {})


def test_members_are_renamed_and_dropped() -> None:
    assert sent(
        {"user": "u", "seed": 1, "top_k": None}, renames=(("seed", "random_seed"), ("top_k", "k")), drops=("user",)
    ) == {"random_seed": 1}


@pytest.mark.parametrize(
    ("quirks", "expected"),
    [
        ({"renames": (("seed", "random_seed"),)}, {"random_seed": 1}),
        ({"drops": ("seed",)}, {}),
        ({"adds": (("x", "2"),)}, {"seed": 1, "x": 2}),
        ({}, {"seed": 1}),
    ],
)
def test_each_of_a_provider_s_wishes_is_enough_to_change_a_body(quirks: Any, expected: dict[str, int]) -> None:
    request = openai_chat.parse(b'{"model":"%b","messages":[{"role":"user","content":"a"}],"seed":1}' % MODEL.encode())
    before = dict(request.fields)
    out = json.loads(body_for(request, route(upstream_model=MODEL, **quirks), None))
    assert {name: value for name, value in out.items() if name not in ("model", "messages")} == expected
    assert request.fields == before


def test_completions_and_embeddings_go_out_too() -> None:
    completion = openai_completions.parse(b'{"model":"m","prompt":"a","stream":true}')
    assert json.loads(body_for(completion, route(), 9)) == {
        "model": "upstream-name",
        "prompt": "a",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
    }
    embedding = openai_embeddings.parse(b'{"model":"m","input":"a","encoding_format":"base64"}')
    assert body_for(embedding, route(drops=("encoding_format",)), 9) == b'{"model":"upstream-name","input":"a"}'


names = st.sampled_from(["seed", "user", "x", 'odd"name', "é", "model_", "metadata"])
values = st.recursive(
    st.none() | st.integers() | st.text() | st.sampled_from(["m", '"model":"m"', '","model":"x"']),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "stream", "m"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@given(
    st.dictionaries(names, values), values, st.booleans(), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " : ")])
)
def test_splices_change_nothing_but_what_they_should(
    fields: dict[str, Any], content: Any, stream: bool, separators: tuple[str, str]
) -> None:
    body = {"model": "m", **fields, "messages": [{"role": "user", "content": json.dumps(content), "x": content}]}
    if stream:
        body["stream"] = True
    raw = json.dumps(body, separators=separators).encode()
    request = openai_chat.parse(raw)
    if not stream:
        assert json.loads(body_for(request, route(upstream_model="m"), None)) == body
    out = json.loads(body_for(request, route(), 5))
    assert out.pop("model") == "upstream-name"
    assert out.pop("max_tokens") == 5
    assert out.pop("stream_options", None) == ({"include_usage": True} if stream else None)
    del body["model"]
    assert out == body


def general(request: Request, to: Route, money: int | None) -> bytes:
    """The body with every rule of a row applied, whether it has something to say or not."""
    fields = dict(request.fields)
    fields["model"] = msgspec.Raw(msgspec.json.encode(to.upstream_model))
    if request.stream:
        quirks._ask_for_usage(fields, request, to.upstream)
    quirks._limit(fields, request, money)
    quirks._rename(fields, request, to.upstream)
    quirks.change(fields, to.upstream)
    return msgspec.json.encode(fields)


LIMITS = st.none() | st.integers(1, 9)


@given(
    st.sampled_from(["m", "upstream-name", 'their/"name"']),
    st.dictionaries(st.sampled_from(["max_tokens", "max_completion_tokens"]), LIMITS),
    st.dictionaries(st.sampled_from(["user", "seed", "stream_options"]), st.none()),
    st.booleans(),
    LIMITS,
    st.sampled_from([(), (("max_tokens", "max_completion_tokens"),), (("seed", "random_seed"),)]),
    st.sampled_from([(), ("user",), ("stream_options", "max_tokens")]),
    st.sampled_from([(), (("a", "[1]"),)]),
)
def test_a_rule_that_has_nothing_to_say_may_be_left_out(
    model: str,
    limits: dict[str, int | None],
    others: dict[str, None],
    stream: bool,
    money: int | None,
    renames: tuple[tuple[str, str], ...],
    drops: tuple[str, ...],
    adds: tuple[tuple[str, str], ...],
) -> None:
    to = route(upstream_model=model, renames=renames, drops=drops, adds=adds)
    chat = {"model": "m", **limits, "messages": [USER], **others, "stream": stream}
    for request in (
        openai_chat.parse(json.dumps(chat).encode()),
        openai_completions.parse(json.dumps({"model": "m", "prompt": "a", **limits, **others}).encode()),
        openai_embeddings.parse(json.dumps({"model": "m", "input": "a", **limits, **others}).encode()),
    ):
        assert body_for(request, to, money) == general(request, to, money)


def test_older_endpoints_keep_their_names() -> None:
    body = b'{"model":"m","prompt":"a","max_tokens":5}'
    renaming = route(upstream_model="m", renames=(("max_tokens", "max_completion_tokens"),))
    assert body_for(openai_completions.parse(body), renaming, None) == body


def test_members_are_added_to_every_body() -> None:
    out = sent({"user": "u"}, drops=("user",), adds=(("a", '{"b":[1]}'), ("seed", "7")))
    assert out == {"a": {"b": [1]}, "seed": 7}


PATHS = (("chat", "/{model}/chat?v=1"), ("stream", "/{model}/stream"))


@pytest.mark.parametrize(
    ("endpoint", "stream", "model", "expected"),
    [
        ("chat", False, "m", b"/m/chat?v=1"),
        ("chat", True, "m", b"/m/stream"),
        ("embeddings", False, "m", b"/usual"),
        ("chat", False, "a/b c:1@2", b"/a%2Fb%20c%3A1@2/chat?v=1"),
        ("chat", False, "é?x=1#y", b"/%C3%A9%3Fx%3D1%23y/chat?v=1"),
    ],
)
def test_an_endpoint_is_called_where_the_row_says(endpoint: str, stream: bool, model: str, expected: bytes) -> None:
    assert target_for(route(upstream_model=model, paths=PATHS), endpoint, "/usual", stream=stream) == expected
    assert target_for(route(upstream_model=model), endpoint, "/usual", stream=stream) == b"/usual"
