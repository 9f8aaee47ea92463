"""Schemas in the words that Gemini heeds.

It takes any JSON schema, but ignores words that it does not know, among them `const`, without which a union cannot be
told apart. An `enum` of one says the same. It knows enums of texts and numbers
(https://ai.google.dev/api/generate-content#FIELDS.response_json_schema).
"""

from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.wire.schemas import mapped

_CONST = b'"const"'


def heeded(schema: Raw) -> Raw:
    """`schema` with its constants as enums; byte for byte if it has none."""
    if _CONST not in bytes(schema):
        return schema
    try:
        return Raw(msgspec.json.encode(_heeded(msgspec.json.decode(schema))))
    except (msgspec.DecodeError, RecursionError):
        return schema


def _heeded(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    written = mapped(schema, _heeded)
    constant = written.get("const")
    if isinstance(constant, str | int | float) and not isinstance(constant, bool) and "enum" not in written:
        written["enum"] = [written.pop("const")]
    return written
