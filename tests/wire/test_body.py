import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollbridge.errors import InvalidRequest
from tollbridge.wire import (
    anthropic_messages,
    openai_chat,
    openai_completions,
    openai_embeddings,
    responses_request,
)
from tollbridge.wire.body import MAX_CONTAINERS, MAX_DEPTH, check_nesting, read_object

MESSAGES = b'{"model":"m","messages":[{"role":"user","content":"Hello"}]'
DIALECTS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "chat": (openai_chat.parse, MESSAGES),
    "messages": (anthropic_messages.parse, MESSAGES + b',"max_tokens":5'),
    "count_tokens": (anthropic_messages.parse_count, MESSAGES),
    "responses": (responses_request.parse, b'{"model":"m","input":"Hello"'),
    "completions": (openai_completions.parse, b'{"model":"m","prompt":"Hello"'),
    "embeddings": (openai_embeddings.parse, b'{"model":"m","input":"Hello"'),
}


def depth(value: Any) -> int:
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return 1 + max(map(depth, inner), default=0)
    return 0


def is_too_deep(body: bytes, siblings: int = 0) -> bool:
    try:
        check_nesting(body, siblings)
    except InvalidRequest:
        return True
    return False


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "not valid JSON"),
        (b"hello", "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": 1,}', "not valid JSON"),
        (b'{"a": 1} {"b": 2}', "not valid JSON"),
        (b'{"a": 1}x', "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": [Infinity]}', "not valid JSON"),
        (b'{"a": 01}', "not valid JSON"),
        (b'{"a": "\x00"}', "not valid JSON"),
        (b'{"a": "\n"}', "not valid JSON"),
        (b'{"a": "\\x"}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"a": ["\\ude00 and more"]}', "surrogate"),
        (b'{"\\ud800": 1}', "surrogate"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7"),
        (b'{"a": "\xed\xa0\x80"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"[]", "must be a JSON object"),
        (b"7", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused_in_plain_words(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as raised:
        read_object(body)
    assert raised.value.param is None
    assert "expected ident" not in raised.value.message


def test_members_are_kept_byte_for_byte() -> None:
    fields = read_object(
        b' {"a": 1e400, "b" : [ 1.0 ,"\\u00e9"],\n"\\u0063": "\xc3\xa9", "d": 123456789012345678901234567890} '
    )
    assert {name: bytes(raw) for name, raw in fields.items()} == {
        "a": b"1e400",
        "b": b'[ 1.0 ,"\\u00e9"]',
        "c": b'"\xc3\xa9"',
        "d": b"123456789012345678901234567890",
    }


def test_the_last_of_a_name_counts() -> None:
    assert bytes(read_object(b'{"a": 1, "b": 2, "a": 3}')["a"]) == b"3"


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"[{":'])
def test_depth_is_counted_exactly(opening: str) -> None:
    closing = opening.replace('"a":', "").replace('"[{":', "").translate(str.maketrans("[{", "]}"))[::-1]
    levels = len(closing)
    for count in range(MAX_DEPTH - 3, MAX_DEPTH + 4):
        times = count // levels
        body = opening * times + '"]}\\"[{\\\\"' + closing * times
        assert is_too_deep(body.encode()) == (times * levels > MAX_DEPTH)


def test_brackets_in_strings_are_no_levels() -> None:
    text = '{[\\"[{\\\\' * 200
    assert not is_too_deep(f'{{"a": "{text}", "{text}": ["{text}"]}}'.encode())


def test_many_neighbours_are_not_deep() -> None:
    assert not is_too_deep(json.dumps([[[{"a": [{}, {}]}]] * 50] * 50).encode())


@pytest.mark.parametrize("levels", [1, 2, 60])
def test_a_body_of_too_many_containers_is_refused_before_it_costs_much(levels: int) -> None:
    inner = b"[" * levels + b"]" * levels
    times = MAX_CONTAINERS // levels - 2
    read_object(b'{"a": [' + b",".join([inner] * times) + b"]}")
    with pytest.raises(InvalidRequest, match="100,000 arrays and objects"):
        read_object(b'{"a": [' + b",".join([inner] * (times + 3)) + b"]}")
    read_object(b'{"a": "' + inner * (times + 3) + b'"}')


@pytest.mark.parametrize("member", [rb'"[\\"', rb'"\"[{"', rb'"\\\""', rb'"\u005b"', r'"é\\é\"["'.encode()])
def test_brackets_in_strings_are_no_containers_wherever_a_piece_ends(member: bytes) -> None:
    """The containers of a large body are counted piece by piece, and pieces may end inside a string or an escape."""
    for shift in range(12):
        start = b'{"' + b"x" * shift + b'": ['
        full = (b"{" + member + b":" + member + b"},") * (MAX_CONTAINERS - 2) + b'"[[[["]}'
        read_object(start + full)
        with pytest.raises(InvalidRequest, match="100,000 arrays and objects"):
            read_object(start + b"[]," + full)


def test_a_large_body_that_is_no_json_is_said_to_be_none() -> None:
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        read_object(b'{"a": ["' + b"[" * 300_000 + b"\\" * 600_001)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_dialect_reads_a_body_that_nests_too_deep_or_is_made_of_too_many_containers(dialect: str) -> None:
    """Whether decoding notices endless nesting depends on the version of Python."""
    parse, start = DIALECTS[dialect]
    for levels in (MAX_DEPTH, 1_000, 90_000):
        for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
            value = opening * levels + (b"1" if opening != b"[" else b"") + closing * levels
            with pytest.raises(InvalidRequest, match="64 levels"):
                parse(start + b',"metadata2":' + value + b"}")
    with pytest.raises(InvalidRequest, match="100,000 arrays and objects"):
        parse(start + b',"metadata2":[' + b"{}," * MAX_CONTAINERS + b"1]}")


def test_a_body_of_too_many_fields_is_refused() -> None:
    fields = {str(number): number for number in range(1000)}
    assert len(read_object(json.dumps(fields).encode())) == 1000
    with pytest.raises(InvalidRequest, match="1,000 fields"):
        read_object(json.dumps(fields | {"one": "more"}).encode())


values = st.recursive(
    st.none() | st.text('{}[]"\\nu/x', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('{["\\', max_size=3), inner, max_size=3),
)


@given(values, st.integers(0, 70), st.randoms())
def test_depth_is_what_a_reader_finds(value: Any, more: int, choose: random.Random) -> None:
    for _ in range(more):
        value = choose.choice([[value], {"k": value}, [{}, value], {'"]': value, "[": []}])
    body = json.dumps(value).encode()
    assert is_too_deep(body) == (depth(value) > MAX_DEPTH)
    if isinstance(value, list) and value:
        assert is_too_deep(body, sum(isinstance(item, dict | list) for item in value) - 1) == (depth(value) > MAX_DEPTH)
