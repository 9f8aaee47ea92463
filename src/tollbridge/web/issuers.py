"""The services that users log in with elsewhere: what they say about themselves, and asking them.

Anybody can make us ask, without an account. So what an issuer says about itself is kept for a while, only so many are
asked at once, and each answer has an end in time and in length.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from tollbridge.config import LoginSettings
from tollbridge.errors import Unavailable, UpstreamFailed

if TYPE_CHECKING:
    import httpx2

KEPT_S = 300.0
# Who waits for an issuer that does not answer is told what the one before was told.
FAILED_S = 2.0
MOST_AT_ONCE = 32
TIMEOUT_S = 10.0
UNREADABLE = "The log-in provider's answer could not be understood."
_MOST_BYTES = 1 << 20


class Endpoints(msgspec.Struct, frozen=True):
    """What an issuer says about itself (OpenID Connect Discovery, section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str = ""


class Issuers:
    """For one event loop."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Endpoints | UpstreamFailed, float]] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._trust: ssl.SSLContext | None = None
        self._asking = 0

    async def endpoints(self, settings: LoginSettings) -> Endpoints:
        """Where to send a user, and where to ask about them. Raises `UpstreamFailed`."""
        issuer = settings.issuer
        if settings.kind == "github":
            path = f"{issuer}/login/oauth"
            return Endpoints(issuer, f"{path}/authorize", f"{path}/access_token")
        async with self._turns.setdefault(issuer, asyncio.Lock()):
            found, until = self._known.get(issuer, (None, 0.0))
            if found is None or until < time.monotonic():
                try:
                    found, kept = await self._discover(settings), KEPT_S
                except UpstreamFailed as error:
                    found, kept = error, FAILED_S
                self._known[issuer] = found, time.monotonic() + kept
        if isinstance(found, UpstreamFailed):
            raise UpstreamFailed(found.message)
        return found

    @asynccontextmanager
    async def client(self) -> AsyncIterator["httpx2.AsyncClient"]:
        """What `ask` asks with. Unavailable: too many are asking."""
        if self._asking >= MOST_AT_ONCE:
            raise Unavailable("Too many people are logging in right now. Please try again in a moment.")
        self._asking += 1
        try:
            if self._trust is None:
                self._trust = await asyncio.to_thread(_trusted)
            import httpx2

            async with httpx2.AsyncClient(
                verify=self._trust, timeout=TIMEOUT_S, trust_env=False, follow_redirects=False
            ) as client:
                yield client
        finally:
            self._asking -= 1

    async def _discover(self, settings: LoginSettings) -> Endpoints:
        issuer = settings.issuer
        async with self.client() as client:
            found = await ask(client, "GET", f"{issuer}/.well-known/openid-configuration")
        try:
            endpoints = msgspec.convert(found, Endpoints)
        except msgspec.ValidationError as error:
            raise UpstreamFailed(f"{settings.label} does not say where to log in.") from error
        # Some write their name with a trailing slash, and sign that.
        if endpoints.issuer.rstrip("/") != issuer:
            raise UpstreamFailed(f"{settings.label} says that it is {endpoints.issuer[:100]}, not {issuer}.")
        # Our secret and our users are sent there: nowhere less safe than the issuer, and into no other header.
        begin = "https://" if issuer.startswith("https://") else ("http://", "https://")
        for url in (endpoints.authorization_endpoint, endpoints.token_endpoint, endpoints.jwks_uri):
            if not url.startswith(begin) or not url.isascii() or not url.isprintable():
                raise UpstreamFailed(f"{settings.label} says to log in at {url[:100]!r}, which is not a valid address.")
        return endpoints


async def ask(client: "httpx2.AsyncClient", method: str, url: str, **options: Any) -> Any:
    """The JSON that it answers with. Raises `UpstreamFailed`, without quoting anything received."""
    import httpx2

    headers = {"accept": "application/json", **options.pop("headers", {})}
    try:
        # Of the whole: the client's own limit is one for each piece.
        async with asyncio.timeout(TIMEOUT_S), client.stream(method, url, headers=headers, **options) as response:
            body = b""
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > _MOST_BYTES:
                    raise UpstreamFailed("The log-in provider's answer is too large.")
        if not response.is_success:
            raise UpstreamFailed("The log-in provider refused. Please start again.")
    except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError) as error:
        raise UpstreamFailed("The log-in provider cannot be reached. Please try again.") from error
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise UpstreamFailed(UNREADABLE) from None


def _trusted() -> ssl.SSLContext:
    """Whom to trust: reading all certificates takes a hundred milliseconds, and so does loading the client."""
    import httpx2

    return httpx2.create_ssl_context(trust_env=False)
