"""What callers may say of routes: read by name, refused by name, and never sent on."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.errors import InvalidRequest
from tollbridge.values import Preferences
from tollbridge.wire import openai_chat, openai_completions, openai_embeddings
from tollbridge.wire.preferences import MAX_MODELS, read
from tollbridge.wire.request import Request

USER = {"role": "user", "content": "Hello!"}


def parsed(**fields: Any) -> Request:
    return read(openai_chat.parse(json.dumps({"model": "m", "messages": [USER], **fields}).encode()))


def preferences(**provider: Any) -> Preferences:
    found = parsed(provider=provider).preferences
    assert found is not None
    return found


def test_a_request_without_preferences_is_left_as_it_is() -> None:
    request = openai_chat.parse(json.dumps({"model": "m", "messages": [USER]}).encode())
    assert read(request) is request
    assert request.require_parameters is None


def test_the_wish_for_usage_which_always_comes_is_not_sent_on() -> None:
    found = parsed(usage={"include": True}, seed=1)
    assert found.fields.keys() == {"model", "messages", "seed"}
    assert found.preferences is None


def test_everything_that_can_be_said_is_read() -> None:
    found = parsed(
        models=["b", "c", "b"],
        provider={
            "order": ["DeepSeek", "together"],
            "only": ["deepseek", "together", "x"],
            "ignore": ["X"],
            "sort": "latency",
            "max_price": {"prompt": 0.27, "completion": "1.1"},
            "require_parameters": True,
            "allow_fallbacks": False,
        },
    )
    assert found.preferences == Preferences(
        models=("b", "c"),
        order=("deepseek", "together"),
        only=frozenset({"deepseek", "together", "x"}),
        ignore=frozenset({"x"}),
        sort="latency",
        max_prompt=270_000,
        max_completion=1_100_000,
        require_parameters=True,
        allow_fallbacks=False,
    )
    assert found.require_parameters is True


def test_models_may_be_named_alone_and_a_price_may_be_nothing() -> None:
    assert parsed(models=["b", "c"]).preferences == Preferences(models=("b", "c"))
    assert preferences(max_price={"prompt": 0, "completion": 0}) == Preferences(max_prompt=0, max_completion=0)


@pytest.mark.parametrize("value", [True, False, None])
def test_whether_parameters_are_required_has_three_states(value: bool | None) -> None:
    assert parsed(provider={"require_parameters": value}).require_parameters is value


@pytest.mark.parametrize(
    "body",
    [
        openai_chat.parse(json.dumps({"model": "m", "messages": [USER], "models": ["b"], "provider": {}}).encode()),
        openai_completions.parse(json.dumps({"model": "m", "prompt": "x", "models": ["b"], "provider": {}}).encode()),
        openai_embeddings.parse(json.dumps({"model": "m", "input": "x", "models": ["b"], "provider": {}}).encode()),
    ],
)
def test_they_are_no_part_of_what_is_sent_on(body: Request) -> None:
    request = read(body)
    assert request.preferences == Preferences(models=("b",))
    assert not {"models", "provider"} & request.fields.keys()


@pytest.mark.parametrize("fields", [{"models": None}, {"provider": None}, {"models": None, "provider": None}])
def test_null_means_that_nothing_was_said(fields: dict[str, Any]) -> None:
    request = parsed(**fields)
    assert request.preferences is None
    assert not {"models", "provider"} & request.fields.keys()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"models": "b"}, "models"),
        ({"models": [1]}, "models[0]"),
        ({"models": ["b", "c\n"]}, "models[1]"),
        ({"models": [""]}, "models[0]"),
        ({"models": ["b"] * (MAX_MODELS + 1)}, "models"),
        ({"provider": "deepseek"}, "provider"),
        ({"provider": ["deepseek"]}, "provider"),
        ({"provider": {"api_base": "http://evil"}}, "provider.api_base"),
        ({"provider": {"quantizations": ["int4"]}}, "provider.quantizations"),
        ({"provider": {"order": "deepseek"}}, "provider.order"),
        ({"provider": {"only": [1]}}, "provider.only[0]"),
        ({"provider": {"sort": "taste"}}, "provider.sort"),
        ({"provider": {"max_price": 1}}, "provider.max_price"),
        ({"provider": {"max_price": {"image": 1}}}, "provider.max_price.image"),
        ({"provider": {"max_price": {"prompt": -1}}}, "provider.max_price.prompt"),
        ({"provider": {"max_price": {"prompt": "NaN"}}}, "provider.max_price.prompt"),
        ({"provider": {"max_price": {"completion": "1e999999"}}}, "provider.max_price.completion"),
        ({"provider": {"require_parameters": "yes"}}, "provider.require_parameters"),
        ({"provider": {"allow_fallbacks": 0}}, "provider.allow_fallbacks"),
    ],
)
def test_what_is_wrong_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parsed(**fields)
    assert raised.value.param == param
    assert param in raised.value.message


def test_the_dearest_price_is_never_rounded_up() -> None:
    assert preferences(max_price={"prompt": "0.0000019"}).max_prompt == 1


@given(st.dictionaries(st.text(max_size=12), st.none() | st.booleans() | st.text(max_size=8), max_size=4))
def test_any_object_is_read_or_refused(provider: dict[str, Any]) -> None:
    try:
        found = parsed(provider=provider)
    except InvalidRequest as error:
        param = error.param or ""
    else:
        param = "provider"
        assert "provider" not in found.fields
    assert param.startswith("provider")
