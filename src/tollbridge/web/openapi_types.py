"""JSON schemas of the types that bodies are checked against, described by what their rules say."""

from collections.abc import Mapping
from typing import Any

from msgspec import inspect

Json = dict[str, Any]

# Below this depth, a schema is only called an object.
DEPTH = 4


def typed(info: inspect.Type, rules: Mapping[str, str], path: str, depth: int) -> Json:
    """The schema of a type; its description is what `rules` say about `path`."""
    made = _plain(info, rules, path, depth)
    if path in rules:
        made["description"] = f"It {rules[path]}."
    return made


def _plain(info: inspect.Type, rules: Mapping[str, str], path: str, depth: int) -> Json:
    match info:
        case inspect.Metadata():
            return _plain(info.type, rules, path, depth)
        case inspect.UnionType():
            kinds = [each for each in info.types if not isinstance(each, inspect.NoneType)]
            made = [_plain(each, rules, path, depth) for each in kinds]
            return made[0] if len(made) == 1 else {"anyOf": made}
        case inspect.StructType() if depth:
            fields = {
                field.encode_name: typed(field.type, rules, f"{path}.{field.encode_name}".lstrip("."), depth - 1)
                for field in info.fields
            }
            return {
                "type": "object",
                "properties": fields,
                "required": [field.encode_name for field in info.fields if field.required],
            }
        case inspect.ListType():
            items = typed(info.item_type, rules, f"{path}[]", depth - 1) if depth else {}
            return _bounded({"type": "array", "items": items}, minItems=info.min_length, maxItems=info.max_length)
        case inspect.StrType():
            return _bounded({"type": "string"}, minLength=info.min_length, maxLength=info.max_length)
        case inspect.IntType():
            return _bounded({"type": "integer"}, minimum=info.ge, exclusiveMaximum=info.lt, maximum=info.le)
        case inspect.FloatType():
            return _bounded({"type": "number"}, minimum=info.ge, maximum=info.le)
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.LiteralType():
            return {"type": "string", "enum": list(info.values)}
        case inspect.StructType() | inspect.DictType():
            return {"type": "object"}
        case _:
            return {}


def _bounded(schema: Json, **bounds: Any) -> Json:
    return schema | {name: value for name, value in bounds.items() if value is not None}
