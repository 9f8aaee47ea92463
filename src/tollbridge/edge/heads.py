"""Headers: those of a request that matter here, and our own, in the operator's brand."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from tollbridge.core import money
from tollbridge.errors import InvalidRequest, UnsupportedMediaType
from tollbridge.gateway.replays import HEADER
from tollbridge.wire.errors import is_openrouters

FORWARDED = b"x-forwarded-for"
CORS = (b"access-control-allow-origin: *", b"access-control-expose-headers: *")
PREFLIGHT = [
    b"access-control-allow-methods: GET, POST, OPTIONS",
    b"access-control-allow-headers: *, Authorization",
    b"access-control-max-age: 86400",
]


class Head(NamedTuple):
    """The headers of a request that matter here."""

    authorization: bytes | None
    api_key: bytes | None
    content_type: bytes | None
    content_encoding: bytes | None
    max_cost: bytes | None
    origin: bytes | None
    forwarded: bytes | None
    idempotency_key: bytes | None
    beta: bytes | None
    # Whether it is plain JSON without a cap, so that there is no need for `check_head`.
    is_plain: bool = False
    # Whether it comes from a client of Anthropic's.
    is_anthropic: bool = False
    # Whether it comes from an SDK of OpenRouter's.
    is_openrouters: bool = False


class Names(msgspec.Struct, frozen=True):
    """How lines of our own headers begin, in the operator's brand. `max_cost`: the name of a caller's header."""

    cost: bytes
    charged: bytes
    balance: bytes
    basis: bytes
    generation: bytes
    limit: bytes
    dropped: bytes
    tried: bytes
    route: bytes
    replayed: bytes
    max_cost: bytes

    @classmethod
    def of(cls, prefix: str) -> "Names":
        def name(end: str) -> bytes:
            return f"{prefix}-{end}: ".encode()

        return cls(
            cost=name("Upstream-Cost-USD"),
            charged=name("Charged-USD"),
            balance=name("Balance-USD"),
            basis=name("Cost-Basis"),
            generation=name("Generation-Id"),
            limit=name("Max-Tokens-Applied"),
            dropped=name("Dropped-Fields"),
            tried=name("Attempts"),
            route=name("Provider"),
            replayed=name("Idempotent-Replayed"),
            max_cost=f"{prefix}-Max-Cost-USD".lower().encode(),
        )


def read_head(headers: list[tuple[bytes, bytes]], max_cost: bytes) -> Head:
    """If a header was sent twice, the last one counts; but caps are joined by a comma, so that `read_cap` refuses them,
    and so are the addresses of `X-Forwarded-For`: some proxies add a line of their own.

    `max_cost`: the name of the caller's header for its cap.
    """
    found: dict[bytes, bytes] = dict(headers)
    get = found.get
    if len(found) < len(headers):
        for each in (max_cost, FORWARDED):
            if each in found:
                found[each] = b", ".join(value for name, value in headers if name == each)
    return Head(
        get(b"authorization"),
        get(b"x-api-key"),
        get(b"content-type"),
        get(b"content-encoding"),
        get(max_cost),
        get(b"origin"),
        get(FORWARDED),
        get(HEADER),
        get(b"anthropic-beta"),
        get(b"content-type") == b"application/json" and b"content-encoding" not in found and max_cost not in found,
        b"anthropic-version" in found,
        is_openrouters(get(b"user-agent", b"")),
    )


def listable(names: Sequence[str]) -> bytes:
    """`names` as the value of a header, with nothing in it that a header may not hold; at most 512 bytes."""
    text = ", ".join(dict.fromkeys(names)).encode("ascii", "replace")[:512]
    return bytes(char if 32 <= char < 127 else 63 for char in text)


def check_head(head: Head, max_cost: bytes) -> int | None:
    """The caller's cap on what the request may cost, nano-USD; None: they set none. `max_cost`: its header's name.

    Raises `UnsupportedMediaType`, `InvalidRequest`.
    """
    check_media(head)
    return read_cap(head.max_cost, max_cost)


def check_media(head: Head) -> None:
    kind = head.content_type
    if kind is None or kind.partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMediaType("Send the body as JSON, with `Content-Type: application/json`.")
    if head.content_encoding is not None and head.content_encoding.lower() != b"identity":
        raise UnsupportedMediaType("Send the body uncompressed, without Content-Encoding.")


def read_cap(value: bytes | None, name: bytes) -> int | None:
    if value is None:
        return None
    if b"," in value:
        raise InvalidRequest(f"Send {name.decode()} once, with one amount in USD.", param=name.decode())
    try:
        return money.parse_usd(value.strip(b" \t").decode("latin-1"))
    except ValueError as error:
        raise InvalidRequest(f"{name.decode()}: {error}", param=name.decode()) from error
