import json
from typing import Any

import pytest
from msgspec import Raw

from tollbridge.wire.gemini_schemas import heeded


def heed(schema: Any) -> Any:
    return json.loads(bytes(heeded(Raw(json.dumps(schema).encode()))))


def test_a_schema_without_constants_passes_byte_for_byte() -> None:
    raw = Raw(b'{ "type": "object", "minLength": 3 }')
    assert heeded(raw) is raw
    assert heeded(Raw(b'{"const"')) == Raw(b'{"const"')


def test_a_constant_is_an_enum_of_one_wherever_it_stands() -> None:
    kind = {"type": "string", "const": "cat"}
    schema = {
        "anyOf": [{"type": "object", "properties": {"kind": kind, "const": kind}}],
        "$defs": {"n": {"const": 1.5}},
        "items": kind,
    }
    listed = {"type": "string", "enum": ["cat"]}
    assert heed(schema) == {
        "anyOf": [{"type": "object", "properties": {"kind": listed, "const": listed}}],
        "$defs": {"n": {"enum": [1.5]}},
        "items": listed,
    }


@pytest.mark.parametrize(
    "schema", [{"const": True}, {"const": None}, {"const": "a", "enum": ["a", "b"]}, {"const": {}}]
)
def test_a_constant_that_no_enum_of_gemini_s_can_hold_stays(schema: Any) -> None:
    assert heed(schema) == schema
