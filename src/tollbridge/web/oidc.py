"""Logging in with OpenID Connect (any issuer) or GitHub: authorization code with PKCE, state and nonce.

Rules
1. Where to go and whom to believe is configured; nothing from a request becomes part of an address.
2. What the answer must match (state, nonce, verifier) is kept in the browser, sealed, for ten minutes.
3. An address counts only if the issuer says that it is verified.
4. Whoever registered with it before, by a password alone, is asked for that password, or loses what they have set up.
"""

import base64
import hashlib
import hmac
import time
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response

from tollbridge.config import LoginSettings
from tollbridge.core import jwt
from tollbridge.errors import ConfigError, InvalidRequest, NotFound, RateLimited, UpstreamFailed
from tollbridge.services import identities, login, throttle
from tollbridge.services.identities import Claim
from tollbridge.services.login import Entered
from tollbridge.services.sessions import new_token
from tollbridge.web.forms import Form
from tollbridge.web.issuers import UNREADABLE, ask
from tollbridge.web.page import ANYONE, Page
from tollbridge.web.visit import Visit

if TYPE_CHECKING:
    import httpx2

COOKIE = "oidc"
CLAIM = "claim"
PATIENCE_S = 600
_GITHUB = "https://github.com"
_LATE = "This log-in took too long or began in another browser. Please start again."

T = TypeVar("T", bound=msgspec.Struct)


class Pending(msgspec.Struct, frozen=True):
    """A log-in in progress, as the browser keeps it."""

    provider: str
    state: str
    nonce: str
    verifier: str
    next: str
    until: int


class Waiting(msgspec.Struct, frozen=True):
    """What a provider said (`claim`) about somebody who is asked for a password now, as the browser keeps it."""

    claim: Claim
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
    _keep(visit, COOKIE, pending)
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
        return visit.redirect(f"/auth/login?{urlencode({'notice': 'elsewhere', 'next': pending.next})}")
    database, address = visit.shared.database, visit.client.address
    await throttle.check_client(database, address, visit.now)
    claim = await _claim(visit, settings, pending)
    await throttle.opened_client(database, address)
    if await identities.is_taken(visit.shared.desk, claim):
        _keep(visit, CLAIM, Waiting(claim, int(time.time()) + PATIENCE_S))
        return visit.redirect(f"/auth/claim?{urlencode({'next': pending.next})}")
    return _enter(visit, await identities.enter(visit.shared.desk, claim, visit.client), pending.next)


async def claim_form(visit: Visit) -> Response:
    return _claim_page(visit, _waiting(visit), Form())


async def claim(visit: Visit) -> Response:
    """Let in who has the address, with what was set up by the password that they know, or without."""
    form, waiting, desk = await visit.form(), _waiting(visit), visit.shared.desk
    try:
        if form.flag("anew"):
            entered = await identities.enter(desk, waiting.claim, visit.client)
        else:
            device = visit.cookie("device")
            entered = await identities.enter_as_before(desk, waiting.claim, form["password"], visit.client, device)
    except (InvalidRequest, RateLimited) as error:
        if error.message == login.WRONG:
            error = InvalidRequest("This is not the password that was chosen here.", param="password")
        return _claim_page(visit, waiting, form.refused(error, "password"), error.status)
    visit.set_cookie(CLAIM, "", 0)
    return _enter(visit, entered, visit.next_path())


def _claim_page(visit: Visit, waiting: Waiting, form: Form, status: int = 200) -> Response:
    shared, claim = visit.shared, waiting.claim
    service = identities.label(shared.settings, claim.issuer)
    sends = shared.desk.post.sends
    return visit.render("login/claim.html", status=status, form=form, email=claim.email, service=service, sends=sends)


def _enter(visit: Visit, entered: Entered, path: str) -> Response:
    if not entered.token:
        return visit.redirect("/auth/login")
    visit.log_in(entered.token, entered.device)
    return visit.redirect(f"/auth/second?{urlencode({'next': path})}" if entered.half else path)


def _provider(visit: Visit) -> tuple[str, LoginSettings]:
    name = visit.path("provider")
    settings = visit.shared.settings.login.get(name)
    if settings is None:
        raise NotFound("There is no such log-in provider here.")
    return name, settings


def _redirect_uri(visit: Visit, name: str) -> str:
    return f"{visit.shared.desk.url}/auth/with/{name}/back"


def _pending(visit: Visit, name: str) -> Pending:
    pending = _kept(visit, COOKIE, Pending)
    if pending is None or pending.provider != name or pending.until < time.time():
        raise InvalidRequest(_LATE)
    return pending


def _waiting(visit: Visit) -> Waiting:
    waiting = _kept(visit, CLAIM, Waiting)
    if waiting is None or waiting.until < time.time():
        raise InvalidRequest(_LATE)
    return waiting


def _keep(visit: Visit, name: str, value: Pending | Waiting) -> None:
    sealed = visit.shared.master.seal(name, msgspec.json.encode(value))
    visit.set_cookie(name, base64.urlsafe_b64encode(sealed).decode(), PATIENCE_S)


def _kept(visit: Visit, name: str, kind: type[T]) -> T | None:
    try:
        sealed = base64.urlsafe_b64decode(visit.cookie(name))
        return msgspec.json.decode(visit.shared.master.open(name, sealed), type=kind)
    except (ValueError, ConfigError, msgspec.MsgspecError):
        return None


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
    Page("GET", "/auth/claim", ANYONE, claim_form),
    Page("POST", "/auth/claim", ANYONE, claim),
)
