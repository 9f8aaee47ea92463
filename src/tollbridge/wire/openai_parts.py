"""What OpenAI's two dialects, Chat and Responses, share: pictures, files, formats, citations, custom tools.

A custom tool takes any text, or what a grammar allows. For models that only know functions, it is a function with one
parameter, `input`.
"""

import re
from typing import Any

import msgspec
from msgspec import Raw

from tollbridge.errors import InvalidRequest
from tollbridge.wire.body import NULL
from tollbridge.wire.conversation import Cache, Citation, Document, Format, Image, Tool

# The base64 itself is left for its decoder to check. One parameter is usual, and millions would take seconds to read.
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]++=[^;,]*+){0,16};base64,", re.ASCII | re.IGNORECASE)
_MEDIA_TYPES = {
    "pdf": "application/pdf",
    "txt": "text/plain",
    "md": "text/markdown",
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
# What pictures begin like, in base64.
_PICTURES = {"iVBOR": "image/png", "/9j/": "image/jpeg", "UklGR": "image/webp", "R0lG": "image/gif"}


class CacheMark(msgspec.Struct, gc=False):
    """A prompt-cache marker: OpenRouter's `cache_control` or OpenAI's `prompt_cache_breakpoint`."""

    type: str | None = None
    mode: str | None = None
    ttl: str | None = None


def cache_of(control: CacheMark | None, mark: CacheMark | None) -> Cache | None:
    """How long to cache. OpenAI keeps what comes before a breakpoint for at least half an hour, so 5m is too short."""
    if control is not None:
        return "1h" if control.ttl == "1h" else "5m"
    return None if mark is None else "1h"


def split_data_url(url: str) -> tuple[str, str] | None:
    """Media type and base64 of a data URL; None for any other."""
    found = _DATA_URL.match(url)
    return None if found is None else ((found[1] or "").lower(), url[found.end() :])


def image_of(url: str, detail: str | None, cache: Cache | None, param: str) -> Image:
    found = split_data_url(url)
    if found is not None and found[1]:
        return Image(data=found[1], media_type=media_type_of(found[1], found[0]), detail=detail, cache=cache)
    if url.startswith(("https://", "http://")):
        return Image(url=url, detail=detail, cache=cache)
    raise InvalidRequest(
        f"Invalid value for '{param}': it must be a URL (https://…) or a data URL with a picture's base64"
        " (data:image/png;base64,…).",
        param=param,
    )


def drawn_image(url: str) -> Image:
    """A picture of a model's, which may stand elsewhere."""
    found = split_data_url(url)
    return Image(url=url) if found is None else Image(data=found[1], media_type=media_type_of(found[1], found[0]))


def drawn_member(image: Image, index: int) -> dict[str, Any]:
    """A picture of a model's in `images` of its message, as OpenRouter has them."""
    return {"type": "image_url", "image_url": {"url": image_url(image)}, "index": index}


def document_of(data: str, title: str, cache: Cache | None) -> Document:
    """A file from `data`: a data URL, plain base64 (then its type follows from `title`), or a URL."""
    found = split_data_url(data)
    if found is not None:
        return Document(data=found[1], media_type=found[0] or _media_type(title), title=title, cache=cache)
    if data.startswith(("https://", "http://")):
        return Document(url=data, title=title, cache=cache)
    return Document(data=data, media_type=_media_type(title), title=title, cache=cache)


def _media_type(title: str) -> str:
    return _MEDIA_TYPES.get(title.rpartition(".")[2].lower(), "application/pdf")


def media_type_of(picture: str, said: str = "") -> str:
    """What kind of picture its base64 begins like; if that is not known, what is said of it.

    Anthropic refuses a picture whose type is not what its bytes are, and `image/jpg`, which many write.
    """
    if said == "image/jpg":
        said = "image/jpeg"
    return next((kind for start, kind in _PICTURES.items() if picture.startswith(start)), said or "image/png")


def image_url(image: Image) -> str:
    return image.url or f"data:{image.media_type};base64,{image.data}"


def url_citation(citation: Citation, start: int, end: int) -> dict[str, Any]:
    """`start`, `end`: the characters of the text that it supports, unless the citation says them itself."""
    members: dict[str, Any] = {
        "start_index": start if citation.start is None else citation.start,
        "end_index": end if citation.end is None else citation.end,
        "url": citation.url,
        "title": citation.title,
    }
    if citation.quote:
        members["content"] = citation.quote
    return members


class JsonSchema(msgspec.Struct, gc=False):
    """Chat's `json_schema`. In Responses, its members are in `text.format` itself, with a type."""

    type: str | None = None
    name: str | None = None
    description: str | None = None
    schema: Raw = NULL
    strict: bool | None = None


def schema_format(schema: JsonSchema) -> Format:
    return Format(
        kind="schema",
        name=schema.name or "",
        description=schema.description or "",
        schema=None if schema.schema == NULL else schema.schema,
        strict=schema.strict,
    )


def given(raw: Raw) -> Raw | None:
    """A member's JSON; None if it was not given."""
    return None if raw == NULL else raw


# --- Custom tools ---


class Grammar(msgspec.Struct, gc=False):
    """What a custom tool takes. In Responses, the members of `grammar` are in the format itself."""

    type: str | None = None
    syntax: str | None = None
    definition: str | None = None
    grammar: "Grammar | None" = None


class _Input(msgspec.Struct):
    input: str


_decode_input = msgspec.json.Decoder(_Input).decode
_INPUT_SCHEMA = Raw(
    b'{"type":"object","properties":{"input":{"type":"string"}},"required":["input"],"additionalProperties":false}'
)


def custom_tool(name: str, description: str, taken: Grammar | None) -> Tool:
    rules = taken if taken is None or taken.grammar is None else taken.grammar
    if rules is not None and rules.definition:
        description += f"\n\n`input` must follow this {rules.syntax or ''} grammar:\n{rules.definition}"
    return Tool(name=name, description=description, parameters=_INPUT_SCHEMA)


def custom_arguments(text: str) -> str:
    """A custom tool's input as the arguments of its function."""
    return msgspec.json.encode({"input": text}).decode()


def custom_input(arguments: str) -> str:
    """A custom tool's input, out of the arguments that a model wrote; all of them if they are not as expected."""
    try:
        return _decode_input(arguments).input
    except msgspec.DecodeError:
        return arguments
