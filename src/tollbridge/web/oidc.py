"""Logging in with OpenID Connect (any issuer) or GitHub: authorization code with PKCE, state and nonce.

Rules
1. Where to go and whom to believe is configured; nothing from a request becomes part of an address.
2. What the answer must match (state, nonce, verifier) is kept in the browser, sealed, for ten minutes.
3. An address counts only if the issuer says that it is verified.
"""

import base64
import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from tollbridge.config import LoginSettings
from tollbridge.core import jwt
from tollbridge.errors import ConfigError, InvalidRequest, NotFound, UpstreamFailed
from tollbridge.services import identities, throttle
from tollbridge.services.identities import Claim
from tollbridge.services.sessions import new_token
from tollbridge.web.issuers import UNREADABLE, ask
from tollbridge.web.page import ANYONE, Page
from tollbridge.web.visit import Visit

if TYPE_CHECKING:
    import httpx2

COOKIE = "oidc"
PATIENCE_S = 600
_GITHUB = "https://github.com"


class Pending(msgspec.Struct, frozen=True):
    """A log-in in progress, as the browser keeps it."""

    provider: str
    state: str
    nonce: str
    verifier: str
    next: str
    until: int


async def start(visit: Visit) -> Response:
    """On to the provider."""
    name, settings = _provider(visit)
    endpoints = await visit.shared.issuers.endpoints(settings)
    pending = Pending(
        provider=name,
        state=new_token(),
        nonce=new_token(),
        verifier=new_token() + new_token(),
        next=visit.next_path(),
        until=int(time.time()) + PATIENCE_S,
    )
    sealed = visit.shared.master.seal(COOKIE, msgspec.json.encode(pending))
    visit.set_cookie(COOKIE, base64.urlsafe_b64encode(sealed).decode(), PATIENCE_S)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(pending.verifier.encode()).digest()).decode().rstrip("=")
    query = {
        "response_type": "code",
        "client_id": settings.client_id,
        "redirect_uri": _redirect_uri(visit, name),
        "scope": "read:user user:email" if settings.kind == "github" else "openid email",
        "state": pending.state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    if settings.kind == "oidc":
        query["nonce"] = pending.nonce
    joint = "&" if "?" in endpoints.authorization_endpoint else "?"
    return Response(
        status_code=303, headers={"location": f"{endpoints.authorization_endpoint}{joint}{urlencode(query)}"}
    )


async def finish(visit: Visit) -> Response:
    """Back from the provider."""
    name, settings = _provider(visit)
    pending = _pending(visit, name)
    visit.set_cookie(COOKIE, "", 0)
    if not hmac.compare_digest(pending.state.encode(), visit.query("state").encode()):
        raise InvalidRequest("This answer does not belong to your log-in. Please start again.")
    if not visit.query("code"):
        return visit.redirect("/auth/login")
    database, address = visit.shared.database, visit.client.address
    await throttle.check_client(database, address, visit.now)
    claim = await _claim(visit, settings, pending)
    await throttle.opened_client(database, address)
    entered = await identities.enter(visit.shared.desk, claim, visit.client)
    if not entered.token:
        return visit.redirect("/auth/login")
    visit.log_in(entered.token, entered.device)
    if entered.half:
        return visit.redirect(f"/auth/second?{urlencode({'next': pending.next})}")
    return visit.redirect(pending.next)


def _provider(visit: Visit) -> tuple[str, LoginSettings]:
    name = visit.path("provider")
    settings = visit.shared.settings.login.get(name)
    if settings is None:
        raise NotFound("There is no such log-in provider here.")
    return name, settings


def _redirect_uri(visit: Visit, name: str) -> str:
    return f"{visit.shared.desk.url}/auth/with/{name}/back"


def _pending(visit: Visit, name: str) -> Pending:
    try:
        sealed = base64.urlsafe_b64decode(visit.cookie(COOKIE))
        pending = msgspec.json.decode(visit.shared.master.open(COOKIE, sealed), type=Pending)
    except (ValueError, ConfigError, msgspec.MsgspecError):
        pending = None
    if pending is None or pending.provider != name or pending.until < time.time():
        raise InvalidRequest("This log-in took too long or began in another browser. Please start again.")
    return pending


# --- what the provider says ---------------------------------------------------------------------------------------


async def _claim(visit: Visit, settings: LoginSettings, pending: Pending) -> Claim:
    endpoints = await visit.shared.issuers.endpoints(settings)
    fields = {
        "grant_type": "authorization_code",
        "code": visit.query("code"),
        "redirect_uri": _redirect_uri(visit, pending.provider),
        "client_id": settings.client_id,
        "client_secret": settings.client_secret.reveal(),
        "code_verifier": pending.verifier,
    }
    async with visit.shared.issuers.client() as client:
        tokens = _object(await ask(client, "POST", endpoints.token_endpoint, data=fields))
        if settings.kind == "github":
            return await _github_claim(client, settings, tokens.get("access_token"))
        keys = _object(await ask(client, "GET", endpoints.jwks_uri)).get("keys")
    expected = jwt.Expected(
        issuer=endpoints.issuer, audience=settings.client_id, nonce=pending.nonce, now=int(time.time())
    )
    try:
        claims = jwt.verify(str(tokens.get("id_token", "")), keys if isinstance(keys, list) else [], expected)
    except jwt.WrongToken as error:
        raise UpstreamFailed(f"The answer of {settings.label} cannot be trusted: {error}.") from error
    email = claims.get("email") if claims.get("email_verified") is True else None
    return Claim(issuer=endpoints.issuer, subject=claims["sub"], email=email if isinstance(email, str) else None)


async def _github_claim(client: "httpx2.AsyncClient", settings: LoginSettings, token: Any) -> Claim:
    """As in https://docs.github.com/en/rest/users: the permanent id, and the primary address if it is verified."""
    api = "https://api.github.com" if settings.issuer == _GITHUB else f"{settings.issuer}/api/v3"
    headers = {"authorization": f"Bearer {token}", "accept": "application/vnd.github+json"}
    who = _object(await ask(client, "GET", f"{api}/user", headers=headers))
    mails = await ask(client, "GET", f"{api}/user/emails", headers=headers)
    if not isinstance(who.get("id"), int) or not isinstance(mails, list):
        raise UpstreamFailed(f"{settings.label} does not say who logged in.")
    listed = (each for each in mails if isinstance(each, dict))
    verified = [each.get("email") for each in listed if each.get("primary") is True and each.get("verified") is True]
    email = verified[0] if verified and isinstance(verified[0], str) else None
    return Claim(issuer=settings.issuer, subject=str(who["id"]), email=email)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UpstreamFailed(UNREADABLE)
    return value


PAGES = (
    Page("GET", "/auth/with/{provider}", ANYONE, start),
    Page("GET", "/auth/with/{provider}/back", ANYONE, finish),
)
