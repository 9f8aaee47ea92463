import pytest
from msgspec import Raw

from tollbridge.wire.conversation import Conversation, Fit
from tollbridge.wire.schemas import described, each, mapped


def test_each_schema_in_a_schema_is_changed_once() -> None:
    schema = {
        "type": "object",
        "properties": {"items": 1, "const": 2},
        "$defs": {"a": 3},
        "anyOf": [4, 5],
        "items": 6,
        "additionalProperties": False,
        "enum": [7],
        "default": {"items": 8},
    }
    assert mapped(schema, lambda inner: [inner]) == {
        "type": "object",
        "properties": {"items": [1], "const": [2]},
        "$defs": {"a": [3]},
        "anyOf": [[4], [5]],
        "items": [6],
        "additionalProperties": [False],
        "enum": [7],
        "default": {"items": 8},
    }


def test_all_schemas_in_a_schema_are_found() -> None:
    leaf = {"type": "string"}
    union = {"anyOf": [leaf, True]}
    schema = {"properties": {"a": union}, "items": leaf, "default": {"items": leaf}}
    assert list(each(schema)) == [schema, union, leaf, leaf]
    assert not list(each(False))


@pytest.mark.parametrize("schema", [b'{"$ref":"#/$defs/a","$defs":{"a":{}}}', b"true", b'{"description":7}'])
def test_a_description_for_which_there_is_no_place_is_noted(schema: bytes) -> None:
    fit = Fit(Conversation(origin="openai_chat", turns=(), names={"format": "response_format"}), "it")
    assert described(Raw(schema), "For a cat.", fit) == Raw(schema)
    assert fit.dropped == ["response_format"]
    assert described(Raw(schema), "", fit) == Raw(schema)
    assert len(fit.dropped) == 1
