import json
from typing import Any

import pytest
from msgspec import Raw

from tollbridge.wire.anthropic_schemas import Promises, fitted

CLOSED: dict[str, Any] = {"additionalProperties": False}


def fit(schema: Any) -> Any:
    return json.loads(bytes(fitted(Raw(json.dumps(schema).encode()))[0]))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string", "format": "date", "default": "x"}}} | CLOSED,
        {"type": "array", "items": {"type": ["string", "null"], "enum": ["a", None]}, "minItems": 1},
        {"anyOf": [{"$ref": "#/$defs/x"}, {"const": 1}], "$defs": {"x": {"type": "number"}}, "title": "T"},
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object"},
        True,
    ],
)
def test_what_anthropic_takes_passes_byte_for_byte(schema: Any) -> None:
    raw = Raw(json.dumps(schema, indent=1).encode())
    assert fitted(raw) == (raw, False)


def test_what_cannot_be_read_passes() -> None:
    assert fitted(Raw(b"{")) == (Raw(b"{"), False)


@pytest.mark.parametrize(
    ("schema", "description"),
    [
        ({"type": "number", "minimum": 0.5, "maximum": 3}, "(minimum: 0.5, maximum: 3)"),
        ({"type": "string", "maxLength": 3, "description": "A word."}, "A word. (maxLength: 3)"),
        ({"type": "array", "items": {}, "minItems": 2, "uniqueItems": True}, "(minItems: 2, uniqueItems: true)"),
        ({"type": "integer", "format": "int32"}, '(format: "int32")'),
        ({"type": "string", "pattern": "^a"}, '(pattern: "^a")'),
    ],
)
def test_a_bound_goes_into_the_description(schema: dict[str, Any], description: str) -> None:
    written, is_looser = fitted(Raw(json.dumps(schema).encode()))
    kept = {name: value for name, value in schema.items() if name in ("type", "items")}
    assert json.loads(bytes(written)) == kept | {"description": description}
    assert is_looser


def test_members_are_not_mistaken_for_bounds() -> None:
    schema = {"type": "object", "properties": {"minimum": {"type": "number"}, "format": {"type": "string"}}} | CLOSED
    assert fit(schema) == schema


def test_objects_that_list_their_properties_are_closed_wherever_they_are() -> None:
    inner = {"type": "object", "properties": {}}
    schema = {"$defs": {"a": inner}, "properties": {"b": inner, "c": {"type": "array", "items": inner}}}
    closed = inner | CLOSED
    assert (
        fit(schema)
        == {
            "$defs": {"a": closed},
            "properties": {"b": closed, "c": {"type": "array", "items": closed}},
        }
        | CLOSED
    )
    assert not fitted(Raw(json.dumps(schema).encode()))[1]


def test_one_of_several_shapes_is_any_of_them() -> None:
    assert fit({"oneOf": [{"type": "string", "minLength": 1}]}) == {
        "anyOf": [{"type": "string", "description": "(minLength: 1)"}]
    }


def members(count: int, schema: Any, *, required: bool) -> Raw:
    names = {f"m{number}": schema for number in range(count)}
    return Raw(json.dumps({"properties": names, "required": list(names) if required else None}).encode())


def test_a_request_is_promised_so_much_and_no_more() -> None:
    plain = Raw(b'{"type":"object","properties":{}}')
    promises = Promises(None)
    assert [promises.take(plain) for _ in range(21)] == [True] * 20 + [False]
    assert Promises(None).take(Raw(b"{"))
    for most, schema, required in (
        (24, {}, False),
        (16, {"type": ["string", "null"]}, True),
        (16, {"anyOf": [{"type": "string"}, {"type": "null"}]}, True),
    ):
        assert Promises(None).take(members(most, schema, required=required))
        assert not Promises(None).take(members(most + 1, schema, required=required))
        promises = Promises(members(most - 1, schema, required=required))
        assert not promises.take(members(2, schema, required=required))
        assert promises.take(members(1, schema, required=required))
        assert promises.take(plain)
        assert not promises.take(members(1, schema, required=required))


def test_members_count_however_deep_they_are() -> None:
    inner = json.loads(bytes(members(13, {}, required=False)))
    outer = {"properties": {"a": {"type": "array", "items": inner}}, "required": ["a"], "$defs": {"b": inner}}
    assert not Promises(None).take(Raw(json.dumps(outer).encode()))
    del outer["$defs"]
    assert Promises(None).take(Raw(json.dumps(outer).encode()))
