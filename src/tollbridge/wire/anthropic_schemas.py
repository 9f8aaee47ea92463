"""Schemas as Claude promises to keep to them: those of `output_config.format` and of strict tools.

Anthropic answers 400 to a schema that its grammar cannot keep to: one with bounds of numbers, of lengths or of counts,
with a format that it does not know, with `oneOf`, or with an object that is not closed. OpenAI takes all of these. So
an object that lists its properties is closed, `oneOf` becomes `anyOf`, and bounds go into the description, where the
model reads them, as Anthropic's own SDKs do. Anything else stays: what Anthropic says to it is clear enough.

From platform.claude.com/docs, build-with-claude/structured-outputs, and anthropic-sdk-python, lib/_parse/_transform.py.
"""

from typing import Any

import msgspec
from msgspec import Raw

_Json = dict[str, Any]

_BOUNDS = frozenset(
    {
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
        *("maxItems", "uniqueItems", "minProperties", "maxProperties"),
    }
)
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"},
)
_BY_NAME = frozenset({"properties", "$defs", "definitions"})
_CHOICES = frozenset({"anyOf", "allOf", "oneOf"})


def fitted(schema: Raw) -> tuple[Raw, bool]:
    """`schema` as Anthropic takes it (byte for byte if it does already), and whether bounds were only described."""
    try:
        given = msgspec.json.decode(schema)
    except (msgspec.DecodeError, RecursionError):
        return schema, False
    described: list[str] = []
    written = _fitted(given, described)
    return (schema if written == given else Raw(msgspec.json.encode(written))), bool(described)


def _fitted(schema: Any, described: list[str]) -> Any:
    if not isinstance(schema, dict):
        return schema
    written: _Json = {}
    bounds: list[str] = []
    for name, value in schema.items():
        if name in _BY_NAME and isinstance(value, dict):
            written[name] = {each: _fitted(inner, described) for each, inner in value.items()}
        elif name in _CHOICES and isinstance(value, list):
            to = "anyOf" if name == "oneOf" and "anyOf" not in schema else name
            written[to] = [_fitted(each, described) for each in value]
        elif name == "items":
            written[name] = _fitted(value, described)
        elif _is_bound(name, value):
            bounds.append(f"{name}: {msgspec.json.encode(value).decode()}")
        else:
            written[name] = value
    if "properties" in written:
        written.setdefault("additionalProperties", False)
    if bounds:
        described += bounds
        before = written.get("description")
        told = f"({', '.join(bounds)})"
        written["description"] = f"{before} {told}" if isinstance(before, str) and before else told
    return written


def _is_bound(name: str, value: Any) -> bool:
    if name == "minItems":
        return value not in (0, 1)
    if name == "format":
        return value not in _FORMATS
    return name in _BOUNDS
