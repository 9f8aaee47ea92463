import base64
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.streams import ID, MODEL, MONEY, RECEIPT, route

from tollbridge.errors import InvalidRequest, ProtocolError
from tollbridge.values import Usage
from tollbridge.wire import openai_embeddings, translate
from tollbridge.wire.errors import UpstreamSaid
from tollbridge.wire.exchange import Answer, Receipt
from tollbridge.wire.request import Request

USAGE = {"prompt_tokens": 4, "total_tokens": 4}
FLOATS = [0.5, -0.25, 1.0]
PACKED = base64.b64encode(struct.pack("<3f", *FLOATS)).decode()


def parse(**fields: Any) -> Request:
    return openai_embeddings.parse(json.dumps({"model": MODEL, "input": "text"} | fields).encode())


def answer(reply: Any, **fields: Any) -> Answer:
    body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    return translate.exchange(parse(**fields), route(), ID, 5, None).response(body)


def reply(*vectors: Any, **more: Any) -> dict[str, Any]:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "their-name", "usage": USAGE} | more


def rendered(found: Answer) -> Any:
    return json.loads(found.render(RECEIPT))


# --- Requests ---


@pytest.mark.parametrize(
    ("given", "inputs", "tokens"),
    [("text", 1, 0), (["a", "b"], 2, 0), ([1, 2], 1, 2), ([[1], [2, 3]], 2, 3), (["a"] * 2048, 2048, 0)],
)
def test_every_form_of_input_is_counted(given: Any, inputs: int, tokens: int) -> None:
    request = parse(input=given)
    assert (request.inputs, request.input_tokens) == (inputs, tokens)
    assert (request.endpoint, request.stream, request.max_tokens, request.choices) == ("embeddings", False, None, 1)


BAD: dict[str, list[Any]] = {
    "input": [None, "", [], ["a", ""], [[]], [[], [1]], 7, {}, [1, "a"], ["a"] * 2049, [-1], [True]],
    "encoding_format": ["int8", 7, ""],
    "model": [None, "", "a\nb"],
}


@pytest.mark.parametrize(
    ("param", "bad"),
    [(param, bad) for param, values in BAD.items() for bad in values],
    ids=lambda value: repr(value)[:30],
)
def test_a_wrong_field_is_named(param: str, bad: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse(**{param: bad})
    assert raised.value.param == param


def test_a_missing_input_is_named() -> None:
    with pytest.raises(InvalidRequest, match="Missing 'input'"):
        openai_embeddings.parse(b'{"model":"m"}')


def test_the_format_that_was_asked_for_is_read_and_other_fields_pass() -> None:
    assert parse().encoding_format is None
    assert parse(encoding_format=None).encoding_format is None
    assert parse(encoding_format="base64").encoding_format == "base64"
    assert bytes(parse(dimensions=256, task="query").fields["dimensions"]) == b"256"


# --- Answers ---


@pytest.mark.parametrize(
    ("wanted", "sent", "expected"),
    [
        (None, FLOATS, FLOATS),
        ("float", FLOATS, FLOATS),
        ("base64", PACKED, PACKED),
        ("base64", FLOATS, PACKED),
        ("float", PACKED, FLOATS),
        (None, PACKED, FLOATS),
    ],
)
def test_the_caller_gets_the_format_that_was_asked_for(wanted: str | None, sent: Any, expected: Any) -> None:
    found = rendered(answer(reply(sent, sent), input=["a", "b"], encoding_format=wanted))
    assert found["model"] == MODEL
    assert [item["embedding"] for item in found["data"]] == [expected, expected]
    assert [item["index"] for item in found["data"]] == [0, 1]
    assert found["usage"] == {
        **USAGE,
        **MONEY,
    }
    assert "id" not in found


def test_vectors_of_both_kinds_in_one_answer_are_made_one() -> None:
    found = rendered(answer(reply(PACKED, FLOATS), input=["a", "b"]))
    assert [item["embedding"] for item in found["data"]] == [FLOATS, FLOATS]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_both_formats_hold_the_same_floats(floats: list[float]) -> None:
    packed = openai_embeddings.to_base64(json.dumps(floats).encode())
    assert json.loads(bytes(openai_embeddings.to_floats(bytes(packed)))) == floats


def test_a_passing_vector_is_not_touched() -> None:
    body = b'{"object":"list","data":[{"embedding":[ 1.50, -0.0e-1],"index":0,"x":1}],"usage":{"total_tokens":1}}'
    assert b'"data":[{"embedding":[ 1.50, -0.0e-1],"index":0,"x":1}]' in answer(body).render(RECEIPT)


def test_an_id_is_replaced_where_there_is_one() -> None:
    assert rendered(answer(reply(FLOATS, id="theirs")))["id"] == ID


def test_usage_is_read_or_absent() -> None:
    found = answer(reply(FLOATS))
    assert found.usage is not None
    assert (found.usage.input, found.usage.output) == (4, 0)
    found = answer({"data": [{"embedding": FLOATS}]})
    assert (found.usage, found.suspect, found.text()) == (None, False, b"")
    counted = Receipt(charge=b"0", cost=b"0", usage=Usage(input=7, estimated=True))
    shown = json.loads(found.render(counted))
    assert shown["usage"]["prompt_tokens"] == shown["usage"]["total_tokens"] == 7
    assert shown["object"] == "list"
    assert answer(reply(FLOATS, usage={"prompt_tokens": -1})).suspect


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"data":null}',
        b'{"data":[]}',
        b'{"data":{}}',
        b'{"data":[{}]}',
        b'{"data":[7]}',
        b'{"data":[{"embedding":7}]}',
        b'{"data":[{"embedding":null}]}',
        b'{"data":[{"embedding":{}}]}',
        b'{"data":[{"embedding":[1]},{"embedding":[2]}]}',
        b'{"data":[{"embedding":[1]}',
    ],
)
def test_an_answer_without_the_vectors_makes_no_sense(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        answer(body)


@pytest.mark.parametrize(
    "vector", ["not base64!", "AAA", "AAAA", base64.b64encode(struct.pack("<f", float("nan"))).decode()]
)
def test_base64_that_holds_no_floats_makes_no_sense(vector: str) -> None:
    with pytest.raises(ProtocolError):
        answer(reply(vector))


@pytest.mark.parametrize("vector", [["a"], [1e300], [None], [[1.0]]])
def test_numbers_that_do_not_fit_make_no_sense(vector: Any) -> None:
    with pytest.raises(ProtocolError):
        answer(reply(vector), encoding_format="base64")


@pytest.mark.parametrize("error", [{"message": "no", "code": 429}, "no"])
@pytest.mark.parametrize("more", [{}, {"data": None}, {"data": 7}])
def test_an_error_with_a_200_is_an_error(error: Any, more: dict[str, Any]) -> None:
    with pytest.raises(UpstreamSaid):
        answer({"error": error} | more)


def test_embeddings_do_not_stream() -> None:
    with pytest.raises(TypeError):
        translate.exchange(parse(), route(), ID, 5, None).stream(None)  # type: ignore[arg-type]
