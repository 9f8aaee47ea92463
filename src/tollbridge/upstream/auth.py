"""How a provider wants to be shown its credential: a name in the provider's row → the headers to send."""

from collections.abc import Callable

from tollbridge.errors import ConfigError
from tollbridge.values import Upstream

Headers = tuple[tuple[bytes, bytes], ...]


def bearer(credential: str) -> Headers:
    return ((b"authorization", b"Bearer " + credential.encode("latin-1")),)


def api_key(credential: str) -> Headers:
    """Azure OpenAI."""
    return ((b"api-key", credential.encode("latin-1")),)


def x_api_key(credential: str) -> Headers:
    """Anthropic."""
    return ((b"x-api-key", credential.encode("latin-1")),)


def none(credential: str) -> Headers:
    """A server of one's own that asks for nothing."""
    return ()


SCHEMES: dict[str, Callable[[str], Headers]] = {
    "bearer": bearer,
    "api-key": api_key,
    "x-api-key": x_api_key,
    "none": none,
}


def headers(upstream: Upstream) -> Headers:
    """The headers of every call to `upstream`, made once; raises `ConfigError` for a scheme that nobody knows."""
    scheme = SCHEMES.get(upstream.auth)
    if scheme is None:
        known = ", ".join(SCHEMES)
        raise ConfigError(f"provider {upstream.name}: auth = {upstream.auth!r} is not known; one of {known}")
    extra = tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in upstream.headers)
    signed = scheme(upstream.credential) if upstream.credential else ()
    return ((b"content-type", b"application/json"), *signed, *extra)
