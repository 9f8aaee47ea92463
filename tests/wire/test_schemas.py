from tollbridge.wire.schemas import each, mapped


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
