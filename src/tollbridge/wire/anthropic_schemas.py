"""Schemas as Claude promises to keep to them: those of `output_config.format` and of strict tools.

Anthropic answers 400 to a schema that its grammar cannot keep to: one with bounds of numbers, of lengths or of counts,
with a format that it does not know, with `oneOf`, or with an object that is not closed. OpenAI takes all of these. So
an object that lists its properties is closed, `oneOf` becomes `anyOf`, and bounds go into the description, where the
model reads them, as Anthropic's own SDKs do. Anything else stays: what Anthropic says to it is clear enough.

There is a limit to what it promises in one request, too (`Promises`).

From platform.claude.com/docs, build-with-claude/structured-outputs, and anthropic-sdk-python, lib/_parse/_transform.py.
"""

from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.wire.schemas import each, mapped

_Json = dict[str, Any]

_BOUNDS = frozenset(
    {
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minLength", "maxLength"),
        *("maxItems", "uniqueItems", "minProperties", "maxProperties", "pattern"),
    }
)
_FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"},
)


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
    written = mapped(schema, lambda inner: _fitted(inner, described))
    if "oneOf" in written and "anyOf" not in written:
        written["anyOf"] = written.pop("oneOf")
    if "properties" in written:
        written.setdefault("additionalProperties", False)
    bounds = [name for name, value in written.items() if _is_bound(name, value)]
    if bounds:
        told = ", ".join(f"{name}: {msgspec.json.encode(written.pop(name)).decode()}" for name in bounds)
        before = written.get("description")
        written["description"] = f"{before} ({told})" if isinstance(before, str) and before else f"({told})"
        described += bounds
    return written


def _is_bound(name: str, value: Any) -> bool:
    if name == "minItems":
        return value not in (0, 1)
    if name == "format":
        return value not in _FORMATS
    return name in _BOUNDS


class Promises:
    """How many strict tools, optional members and members of several types a request may still have."""

    def __init__(self, schema: Raw | None) -> None:
        """`schema`: that of the answer, which counts too."""
        _, optional, mixed = (0, 0, 0) if schema is None else _needs(schema)
        self._left: tuple[int, ...] = (20, 24 - optional, 16 - mixed)

    def take(self, schema: Raw) -> bool:
        """Whether one more tool of `schema` can be strict; if so, it is counted."""
        left = tuple(have - need for have, need in zip(self._left, _needs(schema), strict=True))
        if min(left) < 0:
            return False
        self._left = left
        return True


def _needs(schema: Raw) -> tuple[int, int, int]:
    """Tools, optional members, members of several types."""
    try:
        document = msgspec.json.decode(schema)
    except (msgspec.DecodeError, RecursionError):
        return 1, 0, 0
    optional = mixed = 0
    for inner in each(document):
        members = inner.get("properties")
        if isinstance(members, dict):
            required = inner.get("required")
            optional += len(members.keys() - set(required if isinstance(required, list) else ()))
            mixed += sum(isinstance(one, dict) and _is_mixed(one) for one in members.values())
    return 1, optional, mixed


def _is_mixed(schema: _Json) -> bool:
    return "anyOf" in schema or isinstance(schema.get("type"), list)
