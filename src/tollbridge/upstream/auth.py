"""How each provider takes its credential: a name in the provider's row → the headers to send.

Most credentials are keys, whose headers never change. A Google service account has a private key instead, which signs
a request for an access token that lasts an hour (`AccessToken`).
"""

import asyncio
import base64
import time
from collections.abc import Callable
from urllib.parse import urlencode, urlsplit

import msgspec

from tollbridge.errors import ConfigError, ProtocolError, UpstreamError
from tollbridge.upstream.pool import Limits, Pool
from tollbridge.values import Upstream
from tollbridge.wire.errors import classify

Headers = tuple[tuple[bytes, bytes], ...]

GOOGLE = "google-service-account"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_FORM = ((b"content-type", b"application/x-www-form-urlencoded"),)
_ASSERTION_S = 3600
# How long before its end a token is renewed, while calls still use it; and how long before its end it is used no more.
_RENEW_S = 300.0
_MARGIN_S = 30.0
_BACK_OFF_S = 5.0


def bearer(credential: str) -> Headers:
    return ((b"authorization", b"Bearer " + credential.encode("latin-1")),)


def api_key(credential: str) -> Headers:
    """Azure OpenAI."""
    return ((b"api-key", credential.encode("latin-1")),)


def x_api_key(credential: str) -> Headers:
    """Anthropic."""
    return ((b"x-api-key", credential.encode("latin-1")),)


def x_goog_api_key(credential: str) -> Headers:
    """Gemini, and Vertex in express mode."""
    return ((b"x-goog-api-key", credential.encode("latin-1")),)


def none(credential: str) -> Headers:
    """For the operator's own server that asks for nothing, and for those with a renewed token (`access_token`)."""
    return ()


SCHEMES: dict[str, Callable[[str], Headers]] = {
    "bearer": bearer,
    "api-key": api_key,
    "x-api-key": x_api_key,
    "x-goog-api-key": x_goog_api_key,
    GOOGLE: none,
    "none": none,
}


def headers(upstream: Upstream) -> Headers:
    """The fixed headers of every call to `upstream`. Raises `ConfigError` for an unknown scheme."""
    scheme = SCHEMES.get(upstream.auth)
    if scheme is None:
        known = ", ".join(SCHEMES)
        raise ConfigError(f"provider {upstream.name}: auth = {upstream.auth!r} is not known; one of {known}")
    extra = tuple((name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in upstream.headers)
    signed = scheme(upstream.credential) if upstream.credential else ()
    return ((b"content-type", b"application/json"), *signed, *extra)


def takes_key(scheme: str) -> bool:
    """Whether `scheme` sends a credential as it is, so that a customer's own can replace it."""
    return scheme not in (GOOGLE, "none")


def access_token(upstream: Upstream) -> "AccessToken | None":
    """The source of `upstream`'s changing headers; None if it has none. Raises `ConfigError`."""
    if upstream.auth != GOOGLE:
        return None
    try:
        account = _decode_account(upstream.credential.encode())
        assertion(account, 0)
        return AccessToken(account)
    except (msgspec.MsgspecError, ConfigError):
        raise ConfigError(
            f"provider {upstream.name}: api_key must be a service account's key as Google's console writes it, like"
            ' api_key = "file:key.json"'
        ) from None


class ServiceAccount(msgspec.Struct, frozen=True):
    """A service account's key in the form that Google's console writes; `private_key` is PEM."""

    client_email: str
    private_key: str
    private_key_id: str = ""
    token_uri: str = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address

    def __repr__(self) -> str:
        return f"ServiceAccount({self.client_email})"


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: float


_decode_account = msgspec.json.Decoder(ServiceAccount).decode
_decode_granted = msgspec.json.Decoder(_Granted).decode


class AccessToken:
    """An access token of a Google service account, kept fresh by one exchange an hour for all calls.

    From https://developers.google.com/identity/protocols/oauth2/service-account#httprest. `clock`: seconds that no
    setting of the machine's time changes; the owner of this object closes `pool`.
    """

    def __init__(self, account: ServiceAccount, clock: Callable[[], float] | None = None) -> None:
        parts = urlsplit(account.token_uri)
        self.pool = Pool(f"{parts.scheme}://{parts.netloc}", Limits(first_byte=10.0, total=20.0, max_connections=2))
        self._target = (parts.path or "/").encode("ascii")
        self._account = account
        self._clock = clock or _uptime
        self._headers: Headers = ()
        self._expires = 0.0
        self._try_at = 0.0
        self._failure: UpstreamError | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def headers(self) -> Headers:
        """The headers to add to a call. Waits only if there is no usable token, and raises `UpstreamError` if none can
        be had.
        """
        now = self._clock()
        if now < self._expires - _RENEW_S:
            return self._headers
        if now >= self._try_at and (self._renewal is None or self._renewal.done()):
            self._renewal = asyncio.get_running_loop().create_task(self._renew(now))
        if now < self._expires - _MARGIN_S:
            return self._headers
        if self._renewal is not None:
            await asyncio.shield(self._renewal)
        if self._failure is not None:
            raise self._failure
        return self._headers

    async def _renew(self, now: float) -> None:
        self._try_at = now + _BACK_OFF_S
        try:
            granted = await self._exchange(int(time.time()))
        except UpstreamError as error:
            self._failure = error
            return
        self._failure = None
        self._headers = bearer(granted.access_token)
        self._expires = now + granted.expires_in
        self._try_at = 0.0

    async def _exchange(self, now: int) -> _Granted:
        form = urlencode({"grant_type": _GRANT, "assertion": assertion(self._account, now)}).encode("ascii")
        response = await self.pool.open(b"POST", self._target, _FORM, form)
        body = await response.read()
        if response.status != 200:
            raise classify(response.status, response.headers, body, now)
        try:
            return _decode_granted(body)
        except msgspec.DecodeError:
            raise ProtocolError("the token endpoint's answer holds no token") from None


def _uptime() -> float:
    """Seconds, those included in which the machine slept: a token does not wait for it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def assertion(account: ServiceAccount, now: int) -> str:
    """The signed request for a token: an RS256 JWT (RFC 7523). `now`: epoch seconds. Raises `ConfigError`."""
    # Imported here, because most gateways start and run without them.
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding, rsa

    try:
        key = serialization.load_pem_private_key(account.private_key.encode(), password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ConfigError("the service account's private_key is no RSA key in PEM")
    head = {"alg": "RS256", "typ": "JWT", "kid": account.private_key_id}
    claims = {
        "iss": account.client_email,
        "scope": _SCOPE,
        "aud": account.token_uri,
        "iat": now,
        "exp": now + _ASSERTION_S,
    }
    signed = b".".join(_base64url(msgspec.json.encode(each)) for each in (head, claims))
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return (signed + b"." + _base64url(signature)).decode("ascii")


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")
