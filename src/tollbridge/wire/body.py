"""Unchecked JSON from outside: what it may be, and what is wrong with it, in plain words."""

import re

import msgspec
from msgspec import Raw

from tollbridge.errors import InvalidRequest

MAX_DEPTH = 64
MAX_CONTAINERS = 100_000
MAX_MEMBERS = 1_000
NULL = Raw(b"null")
# A type's default for a member that is absent.
NOTHING = Raw(b"")

# A shorter body has no room for the brackets of more than `MAX_CONTAINERS`.
_MAY_HOLD_TOO_MANY = 2 * MAX_CONTAINERS
# How much of a body is searched for containers at a time: if there are too many, the first pieces tell.
_PIECE = 256 * 1024

_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode

# What is removed from a document when only its nesting matters: all but brackets, quotes, and whatever may follow a
# backslash, so that an escaped quote is not mistaken for the end of a string.
_UNSTRUCTURAL = bytes(set(range(256)) - set(b'{}[]"\\/bfnrtu'))
_NEITHER_BRACKET_NOR_QUOTE = bytes(set(range(256)) - set(b'{}[]"'))
_UNQUOTED = bytes(set(range(256)) - set(b'()"'))
_AS_ONE_KIND = bytes.maketrans(b"{[}]", b"(())")

_HALF_A_PAIR = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]"
)


def read_object(body: bytes) -> dict[str, Raw]:
    """The top-level members of a request's body, for a repeated name the last one; raises `InvalidRequest`.

    Every value is valid JSON in valid UTF-8, and there are at most `MAX_CONTAINERS` containers. How deep they nest has
    not been checked: whether decoding notices depends on the version of Python.
    """
    if len(body) > _MAY_HOLD_TOO_MANY:
        _check_containers(body)
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest(f"The request body is not UTF-8: byte {error.start} is wrong.") from None
    try:
        fields = _decode_fields(body)
    except msgspec.ValidationError:
        raise InvalidRequest("The request body must be a JSON object, like {…}.") from None
    except msgspec.DecodeError as error:
        if not body.strip():
            raise InvalidRequest("The request body is empty; it must be a JSON object.") from None
        if _HALF_A_PAIR.search(body):
            raise InvalidRequest("The request body holds half of a surrogate pair, like \\ud83d alone.") from None
        raise InvalidRequest(f"The request body is not valid JSON: {error}.") from None
    except RecursionError:
        raise too_deep() from None
    if len(fields) > MAX_MEMBERS:
        raise InvalidRequest(f"The request body has more than {MAX_MEMBERS:,} fields.")
    return fields


def check_nesting(body: bytes, siblings: int) -> None:
    """Refuse a body that nests deeper than `MAX_DEPTH`; `read_object` has taken it.

    `siblings`: how many of its containers are known to stand beside another one. A document cannot be deeper than its
    number of opening brackets less those side by side, so few documents need a closer look.
    """
    too_many = MAX_DEPTH + siblings + 1
    # Several times as fast as counting them: memchr finds brackets, and no more of them than needed.
    rest = body.replace(b"{", b"", too_many).replace(b"[", b"", too_many)
    if len(body) - len(rest) < too_many:
        return
    structure = body.translate(_AS_ONE_KIND, _UNSTRUCTURAL).replace(b"\\\\", b"").replace(b'\\"', b"")
    # Nearly all strings hold no bracket. Two quotes side by side can go, even if they end one string and begin another.
    structure = structure.translate(None, _UNQUOTED).replace(b'""', b"")
    brackets = b"".join(structure.split(b'"')[::2])
    for _ in range(MAX_DEPTH):
        if not brackets:
            return
        # Removes all innermost pairs, and those that become innermost as their neighbours go: at least one level.
        brackets = brackets.replace(b"()", b"")
    if brackets:
        raise too_deep()


def _check_containers(body: bytes) -> None:
    """Refuse what is made of more than `MAX_CONTAINERS` containers, before decoding, which would take long for them.

    `body` need not be JSON.
    """
    most = MAX_CONTAINERS + 1
    # As in `check_nesting`: much faster than counting where there are few.
    rest = body.replace(b"{", b"", most).replace(b"[", b"", most)
    if len(body) - len(rest) < most:
        return
    containers, in_string, start = 0, 0, 0
    while start < len(body):
        piece = body[start : start + _PIECE]
        if (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # what the last backslash escapes belongs to the same piece
            piece = body[start : start + _PIECE + 1]
        start += len(piece)
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
        # Most strings hold no bracket, and vanish. What is left is inside a string, or not, as it was before.
        parts = piece.translate(_AS_ONE_KIND, _NEITHER_BRACKET_NOR_QUOTE).replace(b'""', b"").split(b'"')
        containers += b"".join(parts[in_string::2]).count(b"(")
        if containers > MAX_CONTAINERS:
            raise InvalidRequest(f"The request body contains more than {MAX_CONTAINERS:,} arrays and objects.")
        in_string ^= (len(parts) - 1) % 2


def too_deep() -> InvalidRequest:
    return InvalidRequest(f"The request body nests deeper than {MAX_DEPTH} levels.")
