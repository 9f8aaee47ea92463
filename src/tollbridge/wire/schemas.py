"""JSON schemas, as far as providers want them in words of their own."""

from collections.abc import Callable, Iterator
from typing import Any

_BY_NAME = frozenset({"properties", "$defs", "definitions"})
_LISTS = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})
_ONES = frozenset({"items", "additionalProperties"})


def mapped(schema: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """`schema` with each schema that stands directly in it changed by `change`. Its own words stay as they are."""
    written: dict[str, Any] = {}
    for name, value in schema.items():
        if name in _BY_NAME and isinstance(value, dict):
            written[name] = {each: change(inner) for each, inner in value.items()}
        elif name in _LISTS and isinstance(value, list):
            written[name] = [change(each) for each in value]
        elif name in _ONES:
            written[name] = change(value)
        else:
            written[name] = value
    return written


def each(schema: Any) -> Iterator[dict[str, Any]]:
    """`schema` and all schemas in it."""
    if not isinstance(schema, dict):
        return
    yield schema
    inner: list[Any] = []
    mapped(schema, inner.append)
    for one in inner:
        yield from each(one)
