import json
from typing import Any

import pytest

from tollbridge.errors import InvalidRequest
from tollbridge.wire import openai_completions


def parse(**fields: Any) -> Any:
    return openai_completions.parse(json.dumps({"model": "m", "prompt": "Once"} | fields).encode())


@pytest.mark.parametrize(
    ("prompt", "inputs", "tokens"),
    [
        ("Once upon", 1, 0),
        ("", 1, 0),
        (["a"], 1, 0),
        (["a", "", "c"], 3, 0),
        ([1, 2, 0], 1, 3),
        ([[1, 2], [3]], 2, 3),
        (["a"] * 2048, 2048, 0),
        ([[1]] * 2048, 2048, 2048),
        (["{[" * 40] * 3, 3, 0),
    ],
)
def test_every_form_of_prompt_is_counted(prompt: Any, inputs: int, tokens: int) -> None:
    request = parse(prompt=prompt)
    assert (request.inputs, request.input_tokens, request.choices) == (inputs, tokens, inputs)


BAD: dict[tuple[str, str], list[Any]] = {
    ("prompt", "array of token ids"): [
        *(None, 7, True, {}, [], [[]], [None], ["a", 7], [1, "a"], [1.5], [True], [-1], [[1], "a"], [[1], 2], [{}]),
        *(["a"] * 2049, [[1]] * 2049, [[["a"]]]),
    ],
    ("n", "from 1 to 8"): [0, 9, "1"],
    ("best_of", "from 1 to 8"): [0, 9, 1.5],
    ("max_tokens", "at least 1"): [0, 2**31, "5"],
    ("temperature", "from 0 to 2"): [2.5],
    ("top_p", "from 0 to 1"): [-1],
    ("presence_penalty", "from -2 to 2"): [3],
    ("frequency_penalty", "from -2 to 2"): [-3],
    ("stop", "at most 4"): [7, ["a"] * 5],
    ("stream", "true or false"): ["yes"],
    ("stream_options", "object"): ["yes"],
    ("model", "name of a model"): ["", "a\nb"],
}


@pytest.mark.parametrize(
    ("param", "right", "bad"),
    [(*key, bad) for key, values in BAD.items() for bad in values],
    ids=lambda v: repr(v)[:30],
)
def test_a_wrong_field_is_named_with_what_would_be_right(param: str, right: str, bad: Any) -> None:
    with pytest.raises(InvalidRequest, match=right) as raised:
        parse(**{param: bad})
    assert raised.value.param == param


def test_a_missing_prompt_is_named() -> None:
    with pytest.raises(InvalidRequest, match="Missing 'prompt'") as raised:
        openai_completions.parse(b'{"model":"m"}')
    assert raised.value.param == "prompt"


def test_a_prompt_that_nests_too_deep_is_refused() -> None:
    for levels in (70, 990, 100_000):
        with pytest.raises(InvalidRequest):
            openai_completions.parse(b'{"model":"m","prompt":%b}' % (b"[" * levels + b"]" * levels))


def test_every_answer_that_may_be_written_is_a_choice() -> None:
    assert parse(n=2).choices == 2
    assert parse(n=2, best_of=5).choices == 5
    assert parse(prompt=["a", "b"], n=2, best_of=5).choices == 10


def test_what_a_request_asks_for_is_read() -> None:
    request = parse(stream=True, stream_options={"include_usage": True}, max_tokens=16, echo=True, logprobs=5)
    assert request.endpoint == "completions"
    assert (request.model, request.stream, request.include_usage, request.max_tokens) == ("m", True, True, 16)
    assert bytes(request.fields["logprobs"]) == b"5"
