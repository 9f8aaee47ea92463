"""JSON schemas, as far as providers want them in words of their own."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.wire.conversation import Fit

_BY_NAME = frozenset({"properties", "$defs", "definitions"})
_LISTS = frozenset({"anyOf", "allOf", "oneOf", "prefixItems"})
_ONES = frozenset({"items", "additionalProperties"})

_EMPTY = Raw(b'""')
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


def described(schema: Raw, description: str, fit: Fit) -> Raw:
    """A format's `schema` with the format's `description` before its own, for targets that have no place beside it.

    OpenAI's models read both.
    """
    if not description:
        return schema
    try:
        members = _decode_members(schema)
        own = _decode_text(members.get("description", _EMPTY))
    except (msgspec.DecodeError, RecursionError):
        members, own = {"$ref": _EMPTY}, ""
    if "$ref" in members:  # no other word is read beside it
        fit.hint("format")
        return schema
    told = f"{description}\n\n{own}" if own else description
    return Raw(msgspec.json.encode(members | {"description": told}))


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
