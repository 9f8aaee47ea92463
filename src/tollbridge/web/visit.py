"""What a page's function is given."""

from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, date, datetime
from typing import Any
from urllib.parse import quote, unquote

import msgspec
from jinja2 import Environment
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tollbridge.config import Settings
from tollbridge.core import roles
from tollbridge.core.addresses import client_address
from tollbridge.core.catalog import Catalog
from tollbridge.core.plans import DEFAULT_PLAN
from tollbridge.core.words import read_whole
from tollbridge.errors import Forbidden, InvalidRequest, PayloadTooLarge, Unavailable, UnsupportedMediaType
from tollbridge.limits.base import Limiter
from tollbridge.services import deeds, notices
from tollbridge.services.deeds import Actor
from tollbridge.services.desk import Desk
from tollbridge.services.management_keys import Manager
from tollbridge.services.payments import Payments
from tollbridge.services.secrets import Secrets
from tollbridge.services.sessions import Client, Presence, new_token
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database
from tollbridge.store.rows import ABOVE_ALL
from tollbridge.store.users import User
from tollbridge.upstream.health import Health
from tollbridge.values import DAY_MS
from tollbridge.web import forms, guard
from tollbridge.web.forms import Form
from tollbridge.web.issuers import Issuers
from tollbridge.web.menu import Link, menu
from tollbridge.web.page import Page
from tollbridge.web.static import Static

MOST_BODY = 256 * 1024
# Bytes. A log-in elsewhere keeps the path in a cookie, sealed, and browsers keep none of more than 4 KiB.
MOST_NEXT = 1_200
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
# What reverse proxies add. nginx says HTTP/1.0 and adds nothing, unless told otherwise.
_FORWARDED = ("x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "forwarded", "x-real-ip", "via")
COOKIE_AGE_S = 14 * 86_400
DEVICE_AGE_S = 365 * 86_400


Edge = Callable[[Any, Any, Any], Awaitable[None]]


class Shared(msgspec.Struct, frozen=True):
    """What all pages share. `catalog`: what can be called now; `health`: what is known about its routes.

    `edge`: the application below `/v1`, for the playground, which calls it as any client does. `payments`: the ways to
    pay now. `limiter`: knows what is left of the limits of plans. `issuers`: where else users log in.
    """

    desk: Desk
    catalog: Callable[[], Catalog]
    health: Health
    edge: Edge
    templates: Environment
    static: Static
    payments: Callable[[], Payments]
    limiter: Limiter
    issuers: Issuers

    @property
    def database(self) -> Database:
        return self.desk.database

    @property
    def master(self) -> Secrets:
        return self.desk.master

    @property
    def settings(self) -> Settings:
        return self.desk.settings


class Visit:
    """One request for a page: who asks (`presence`, None for a stranger), for what, and the ways to answer.

    `half`: somebody who has given a password but not yet the second factor; nobody, for every page but that one.
    `manager`: a program that asks instead of a person, with a management key.
    `outage`: why the database does not answer, on a page that can do without.
    """

    def __init__(self, shared: Shared, request: Request, request_id: str) -> None:
        self.shared = shared
        self.request = request
        self.request_id = request_id
        self.presence: Presence | None = None
        self.half: Presence | None = None
        self.manager: Manager | None = None
        self.now = 0
        self.outage: Unavailable | None = None
        self.page: Page | None = None
        self.afterwards: list[Coroutine[Any, Any, object]] = []
        self._body: bytes | None = None
        self._cookies: list[tuple[str, str, int]] = []

    @property
    def today(self) -> date:
        """The day of this visit, UTC."""
        return datetime.fromtimestamp(self.now / 1000, UTC).date()

    # --- who asks -------------------------------------------------------------------------------------------------

    @property
    def somebody(self) -> Presence:
        """Who is logged in. Only for pages that require a user."""
        assert self.presence is not None
        return self.presence

    @property
    def user(self) -> User:
        return self.somebody.user

    @property
    def account(self) -> Account:
        """The account that they look at. Only for pages that require a member."""
        if self.manager is not None:
            return self.manager.account
        account = self.somebody.account
        assert account is not None
        return account

    @property
    def actor(self) -> Actor:
        """Who does what is done here, for the account's activity."""
        name = self.user.email if self.manager is None else f"management key {self.manager.key.hint}"
        return Actor(name, self.client.address)

    async def note(self, action: str, detail: str = "") -> None:
        """Note in the account's activity what was just done (`voucher.redeemed`)."""
        await deeds.note(self.shared.database, self.account, self.actor, action, detail)

    def check_demo_payment(self) -> None:
        """Raises `Forbidden` if a reverse proxy brings this request. A payment that costs nothing is meant for nobody
        but the operator, and must not be there for everybody else where `public_url` was forgotten.
        """
        if self.request.scope["http_version"] == "1.0" or any(name in self.request.headers for name in _FORWARDED):
            raise Forbidden("Demo payments are not taken through a proxy. The operator can set public_url.")

    @property
    def client(self) -> Client:
        headers = self.request.headers
        peer = self.request.client.host if self.request.client else ""
        trusted = self.shared.settings.server.trusted_proxies
        # Some proxies add a line of their own instead of going on with the one that the visitor sent.
        address = client_address(peer, ", ".join(headers.getlist("x-forwarded-for")), trusted)
        agent = headers.get("user-agent", "")
        return Client(address, "".join(each for each in agent if each.isprintable()))

    # --- what they send -------------------------------------------------------------------------------------------

    def query(self, name: str) -> str:
        value = self.request.query_params.get(name, "")
        if "\0" in value:
            raise InvalidRequest("This address cannot be read.")
        return value

    def before(self) -> int:
        """The id below which a list goes on, from the address; `ABOVE_ALL`: it begins. Raises `InvalidRequest`."""
        text = self.query("before")
        if not text:
            return ABOVE_ALL
        if (before := read_whole(text)) is None:
            raise InvalidRequest("This page does not exist.", param="before")
        return before

    def path(self, name: str) -> str:
        """The part of the path that matches the page's `{name}`."""
        value = str(self.request.path_params[name])
        if "\0" in value:
            raise InvalidRequest("This address cannot be read.")
        return value

    async def body(self) -> bytes:
        """At most 256 KiB; the same each time. Raises `PayloadTooLarge`."""
        if self._body is None:
            data = b""
            async for piece in self.request.stream():
                data += piece
                if len(data) > MOST_BODY:
                    break
            self._body = data
        if len(self._body) > MOST_BODY:
            raise PayloadTooLarge("This is more than a form may hold.")
        return self._body

    async def form(self) -> Form:
        """What was filled in; the same object each time. Raises `InvalidRequest`."""
        known: Form | None = getattr(self.request.state, "form", None)
        if known is None:
            if self.content_type != FORM:
                raise UnsupportedMediaType("Send the form as browsers do.")
            known = self.request.state.form = forms.parse(await self.body())
        return known

    async def json(self) -> Any:
        """The JSON body; the same object each time. Raises `InvalidRequest`."""
        if not hasattr(self.request.state, "json"):
            if self.content_type != JSON:
                raise UnsupportedMediaType("Send the body as JSON, with `Content-Type: application/json`.")
            try:
                self.request.state.json = msgspec.json.decode(await self.body())
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise InvalidRequest("The body is not JSON.") from None
        return self.request.state.json

    @property
    def content_type(self) -> str:
        return self.request.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def wants_html(self) -> bool:
        """Whether the answer is for a browser to show."""
        return "text/html" in self.request.headers.get("accept", "")

    @property
    def by_htmx(self) -> bool:
        """Whether only a part of a page is asked for."""
        return "hx-request" in self.request.headers

    # --- what they get --------------------------------------------------------------------------------------------

    def render(self, template: str, *, status: int = 200, **values: Any) -> Response:
        """A page from `templates/`. Every template knows `visit`, `brand`, `user`, `account`, `csrf`, `menu`, `now`.

        A page with the status of an error is a form that was refused: its title says so.
        """
        known = self._known() | {"failed": status >= 400}
        text = self.shared.templates.get_template(template).render(known | values)
        return Response(text, status, media_type="text/html; charset=utf-8")

    def redirect(self, path: str) -> Response:
        """On to another page of ours, by GET."""
        response = RedirectResponse(path, 303)
        if self.by_htmx:
            # As it may stand in a header: a path may have been what a visitor wrote.
            return Response(status_code=204, headers={"hx-redirect": response.headers["location"]})
        return response

    def later(self, work: Coroutine[Any, Any, object]) -> None:
        """Have this done after the answer is on its way."""
        self.afterwards.append(work)

    def next_path(self) -> str:
        """Where the visitor wanted to go before they had to log in: a path of ours, the dashboard if it is not."""
        return _ours(self.query("next"))

    def keep_next_path(self) -> None:
        """Have the browser keep it for as long as the link in a mail is good, which says nothing of it."""
        if self.query("next"):
            self.set_cookie("next", quote(self.next_path()), DAY_MS // 1000)

    def kept_next_path(self) -> str:
        """What was kept by `keep_next_path`, once."""
        if self.cookie("next"):
            self.set_cookie("next", "", 0)
        return _ours(unquote(self.cookie("next")))

    # --- cookies --------------------------------------------------------------------------------------------------

    @property
    def _secure(self) -> bool:
        return (self.shared.settings.public_url or "").startswith("https:")

    def cookie(self, name: str) -> str:
        """What the browser kept under this name; "" if nothing."""
        wanted = self._cookie_name(name)
        found = ""
        # `Request.cookies` resolves escapes, which some Pythons do in the square of their number (CVE-2024-7592). Our
        # own cookies have none.
        for line in self.request.headers.getlist("cookie"):
            for each in line.split(";"):
                key, _, value = each.partition("=")
                if key.strip() == wanted:
                    found = value.strip().strip('"')
        return found

    def set_cookie(self, name: str, value: str, age_s: int) -> None:
        """Set a cookie with the answer. Age 0 deletes it."""
        self._cookies.append((self._cookie_name(name), value, age_s))

    def log_in(self, token: str, device: str = "") -> None:
        """Give the browser this session."""
        self.set_cookie("sid", token, COOKIE_AGE_S)
        if device:
            self.remember(device)

    def remember(self, device: str) -> None:
        """Have the browser show by this mark that a user is known in it."""
        self.set_cookie("device", device, DEVICE_AGE_S)

    def log_out(self) -> None:
        self.set_cookie("sid", "", 0)

    def finish(self, response: Response) -> Response:
        """The answer with its cookies."""
        for name, value, age in self._cookies:
            response.set_cookie(name, value, max_age=age, path="/", secure=self._secure, httponly=True, samesite="lax")
        return response

    def _cookie_name(self, name: str) -> str:
        # Browsers accept a `__Host-` cookie only from this very host, over TLS.
        return f"__Host-{name}" if self._secure else name

    # --- CSRF -----------------------------------------------------------------------------------------------------

    def csrf_token(self) -> str:
        """The token that a form of this visitor must contain: bound to the session or, for a stranger, to a cookie."""
        return self._csrf_tokens()[0]

    def _csrf_tokens(self) -> list[str]:
        # Cookies set by this answer come first: forms that it shows will be sent with them.
        pending = {name: value for name, value, _ in self._cookies}
        known = self.cookie("sid") if self.presence or self.half else ""
        sid = pending.get(self._cookie_name("sid"), known)
        if not sid:
            sid = pending.get(self._cookie_name("visitor")) or self.cookie("visitor")
        if not sid:
            sid = new_token()
            self.set_cookie("visitor", sid, COOKIE_AGE_S)
        return self.shared.master.signatures("csrf", sid)

    async def check_csrf(self) -> None:
        """Raises `CrossSite`. A form carries the token in `csrf`, anything else in the header `X-CSRF-Token`."""
        guard.check_origin(self.request.headers, self.shared.settings.public_url)
        given = self.request.headers.get("x-csrf-token", "")
        if not given and self.content_type == FORM:
            given = (await self.form())["csrf"]
        guard.check_token(self._csrf_tokens(), given)

    def _known(self) -> dict[str, Any]:
        presence = self.presence
        account = presence.account if presence is not None else None
        links: tuple[tuple[str, tuple[Link, ...]], ...] = menu(presence) if presence is not None else ()
        plans = self.shared.settings.plans
        plan = None if account is None else plans.get(account.plan) or plans[DEFAULT_PLAN]
        return {
            "visit": self,
            "brand": self.shared.settings.brand,
            "user": presence.user if presence else None,
            "account": account,
            "role": presence.role if presence else None,
            "low": account is not None and notices.is_low(account, self.shared.settings.billing.low_balance),
            "includes": plan is not None and plan.included_tokens,
            "may_pay": presence is not None and presence.role in roles.PAYERS,
            "csrf": self.csrf_token,
            "menu": links,
            "path": self.request.scope["path"],
            "now": self.now,
        }


def _ours(path: str) -> str:
    if len(path.encode()) > MOST_NEXT:
        return "/dashboard"
    # A path with a single leading slash has neither scheme nor host.
    ours = path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
    return path if ours else "/dashboard"
