import base64
import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.streams import CREATED, ID, MODEL, RECEIPT, route

from tollbridge.errors import ProtocolError, UnsupportedField
from tollbridge.values import Usage
from tollbridge.wire import openai_embeddings, translate
from tollbridge.wire.errors import UpstreamSaid
from tollbridge.wire.exchange import Exchange, Receipt

VECTORS = [[0.25, -1.5, 3.0], [1e-3, 0.0, 2.5]]


def exchange(**fields: Any) -> Exchange:
    body = json.dumps({"model": MODEL, "input": ["a", "b"], **fields}).encode()
    gemini = route(dialect="gemini", upstream_model="gemini-embedding-001")
    return translate.exchange(openai_embeddings.parse(body), gemini, ID, CREATED, None)


def reply(*vectors: Any, **more: Any) -> bytes:
    return json.dumps({"embeddings": [{"values": vector} for vector in vectors], **more}).encode()


def test_all_inputs_go_in_one_batch() -> None:
    outgoing = exchange(dimensions=768, user="u", encoding_format="base64").request()
    assert outgoing.target == b"/models/gemini-embedding-001:batchEmbedContents"
    assert outgoing.dropped == ("user",)
    one = {"model": "models/gemini-embedding-001", "outputDimensionality": 768}
    assert json.loads(outgoing.body) == {
        "requests": [{**one, "content": {"parts": [{"text": text}]}} for text in ("a", "b")]
    }
    assert json.loads(exchange(input="ä", dimensions=None).request().body) == {
        "requests": [{"model": "models/gemini-embedding-001", "content": {"parts": [{"text": "ä"}]}}]
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": [1, 2, 3]}, "input"),
        ({"input": [[1], [2]]}, "input"),
        ({"dimensions": "many"}, "dimensions"),
        ({"dimensions": 0}, "dimensions"),
        ({"truncate": True}, "truncate"),
    ],
)
def test_what_gemini_cannot_do_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedField) as caught:
        exchange(**fields).request()
    assert caught.value.param == param


def test_one_dimension_is_enough_and_a_row_may_add_members() -> None:
    request = openai_embeddings.parse(json.dumps({"model": MODEL, "input": "a", "dimensions": 1}).encode())
    gemini = route(dialect="gemini", adds=(("labels", '{"a":"b"}'),))
    body = json.loads(translate.exchange(request, gemini, ID, CREATED, None).request().body)
    assert (body["requests"][0]["outputDimensionality"], body["labels"]) == (1, {"a": "b"})


def test_vectors_come_as_they_were_asked_for() -> None:
    shown = json.loads(exchange().response(reply(*VECTORS)).render(None))
    assert shown == {
        "object": "list",
        "model": MODEL,
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(VECTORS)],
    }
    packed = json.loads(exchange(encoding_format="base64").response(reply(*VECTORS)).render(None))
    first = base64.b64decode(packed["data"][0]["embedding"])
    assert list(struct.unpack("<3f", first)) == VECTORS[0]


def test_no_usage_is_counted_here_and_shown() -> None:
    answer = exchange().response(reply(*VECTORS))
    assert (answer.usage, answer.suspect, answer.reported, answer.finish) == (None, False, b"", None)
    receipt = Receipt(charge=b"0.1", cost=b"0.05", usage=Usage(input=4, estimated=True))
    assert json.loads(answer.render(receipt))["usage"]["prompt_tokens"] == 4


def test_usage_that_is_reported_counts() -> None:
    answer = exchange().response(reply(*VECTORS, usageMetadata={"promptTokenCount": 7}))
    assert answer.usage is not None
    assert (answer.usage.input, answer.usage.output) == (7, 0)
    shown = json.loads(answer.render(RECEIPT))["usage"]
    assert (shown["prompt_tokens"], shown["total_tokens"], shown["cost"]) == (7, 7, 0.000123)


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b"[]", reply(VECTORS[0]), reply(VECTORS[0], "x"), reply(None, None), b'{"embeddings":7}'],
)
def test_what_is_no_answer_makes_no_sense(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        exchange().response(body)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_vector_of_something_else_makes_no_sense(encoding: str) -> None:
    answer = exchange(encoding_format=encoding).response(reply(["a"], [1.0]))
    with pytest.raises(ProtocolError):
        answer.render(None)


def test_what_gemini_does_not_know_is_left_out_where_that_is_allowed() -> None:
    request = openai_embeddings.parse(b'{"model":"m","input":"a","user":"u","input_type":"query"}')
    with pytest.raises(UnsupportedField):
        translate.exchange(request, route(dialect="gemini"), ID, CREATED, None).request()
    outgoing = translate.exchange(request, route(dialect="gemini", leaves_out=True), ID, CREATED, None).request()
    assert outgoing.dropped == ("user", "input_type")


def test_an_error_is_said() -> None:
    body = b'{"error":{"code":404,"message":"models/x is not found","status":"NOT_FOUND"}}'
    for each in (body, b"[" + body + b"]"):
        with pytest.raises(UpstreamSaid) as caught:
            exchange().response(each)
        assert caught.value.status == 404


@given(st.recursive(st.none() | st.integers() | st.text(max_size=3) | st.floats(), st.lists, max_leaves=4))
def test_garbage_raises_nothing_but_what_it_may(value: Any) -> None:
    for body in (reply(value, value), json.dumps(value).encode(), json.dumps({"embeddings": value}).encode()):
        with contextlib.suppress(ProtocolError, UpstreamSaid):
            exchange(encoding_format="base64").response(body).render(None)
