"""The ASGI application of all pages.

In this order: is it our host, all of the body, who asks, which page, may they, is it really them (CSRF), the page.
Whatever goes wrong becomes a page that says so, or JSON if the answer is not for a browser.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from tollbridge.core.catalog import Catalog
from tollbridge.errors import (
    ApiError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    TollbridgeError,
    Unavailable,
)
from tollbridge.limits.base import Limiter
from tollbridge.services import management_keys, sessions
from tollbridge.services.desk import Desk
from tollbridge.services.payments import Payments
from tollbridge.telemetry import RequestIds, RequestLine, RequestLog, now_ms
from tollbridge.upstream.health import Health
from tollbridge.web import access, guard, render
from tollbridge.web.issuers import Issuers
from tollbridge.web.pace import Pace
from tollbridge.web.page import ANYONE, Page
from tollbridge.web.pages import PAGES
from tollbridge.web.static import Static
from tollbridge.web.visit import Edge, Shared, Visit
from tollbridge.wire import errors as wire_errors

_LOGGER = logging.getLogger("tollbridge")
_STATIC = "/static/"


class Web:
    """Everything that is not `/v1`. `catalog`, `health`, `edge`, `payments` and `limiter` as in `Shared`."""

    def __init__(
        self,
        desk: Desk,
        catalog: Callable[[], Catalog],
        health: Health,
        edge: Edge,
        log: RequestLog,
        *,
        payments: Callable[[], Payments],
        limiter: Limiter,
    ) -> None:
        static = Static()
        templates = render.environment(static)
        self._shared = Shared(desk, catalog, health, edge, templates, static, payments, limiter, Issuers())
        self._log = log
        self._request_id = RequestIds()
        self._pace = Pace()
        self._routes = [(Route(page.path, _unused, methods=[page.method]), page) for page in PAGES]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        started = time.monotonic()
        visit = Visit(self._shared, Request(scope, receive), self._request_id())
        response = visit.finish(await self._answer(visit))
        response.headers["x-request-id"] = visit.request_id
        for name, value in guard.HEADERS.items():
            response.headers.setdefault(name, value)
        if (self._shared.settings.public_url or "").startswith("https:"):
            response.headers.setdefault(*guard.HSTS)
        response.headers.setdefault("cache-control", "no-store")
        await response(scope, receive, send)
        self._note(visit, response.status_code, started)
        for work in visit.afterwards:
            try:
                await work
            except TollbridgeError as error:
                _LOGGER.warning("request %s, afterwards: %s", visit.request_id, error)

    async def _answer(self, visit: Visit) -> Response:
        try:
            return await self._page(visit)
        except access.Elsewhere as elsewhere:
            return self._elsewhere(visit, elsewhere)
        except ApiError as error:
            return self._refuse(visit, error)
        except Exception:
            _LOGGER.exception("request %s failed", visit.request_id)
            return self._refuse(visit, InternalError("Something went wrong here. We have a record of it."))

    async def _page(self, visit: Visit) -> Response:
        shared, request = self._shared, visit.request
        guard.check_host(request.headers.get("host", ""), shared.settings.public_url)
        if request.scope["path"].startswith(_STATIC) and request.method in guard.SAFE_METHODS:
            version, _, name = request.scope["path"].removeprefix(_STATIC).partition("/")
            return shared.static.answer(name, version, request.headers.get("accept-encoding", ""))
        await self._read(visit)
        await self._pace.begin()
        try:
            await self._recognize(visit)
        except Unavailable as error:
            # What a stranger may read works without the database too, by this process's own clock.
            page = self._find(visit)
            if page.who != ANYONE or request.method not in guard.SAFE_METHODS or visit.cookie("sid"):
                raise
            visit.now, visit.outage = now_ms(), error
        visit.page = page = self._find(visit)
        if page.manage and "authorization" in request.headers:
            # No browser sends this header by itself: there is no session to forge a request with.
            visit.manager = await management_keys.find(shared.desk, request.headers["authorization"])
            return await page.handler(visit)
        access.require(page, visit.presence, visit.now)
        if request.method not in guard.SAFE_METHODS:
            await visit.check_csrf()
        return await page.handler(visit)

    async def _read(self, visit: Visit) -> None:
        """All that is sent, before anybody is recognized: who takes a minute to send it may be logged out by then."""
        if visit.request.method in guard.SAFE_METHODS:
            return
        # What is wrong with either is said later.
        with suppress(NotFound, MethodNotAllowed, PayloadTooLarge):
            if not self._find(visit).passes:
                await visit.body()

    async def _recognize(self, visit: Visit) -> None:
        """Find out who asks, and when, according to the database."""
        database = self._shared.database
        visit.now = await database.now()
        token = visit.cookie("sid")
        presence = await sessions.find(database, token) if token else None
        if presence is not None and presence.half:
            visit.half = presence
        else:
            visit.presence = presence

    def _find(self, visit: Visit) -> Page:
        request, others = visit.request, set()
        for route, page in self._routes:
            match, child = route.matches(request.scope)
            if match is Match.FULL:
                request.scope.update(child)
                return page
            if match is Match.PARTIAL:
                others.add(page.method)
        if others:
            allow = ", ".join(sorted(others | ({"HEAD"} if "GET" in others else set())))
            said = (
                "This page can only be reached by a button on another page."
                if visit.wants_html
                else f"Use {allow} here."
            )
            raise MethodNotAllowed(said, headers={"allow": allow})
        path = request.scope["path"][:200]
        if visit.wants_html:
            raise NotFound("The address may be mistyped, or the page may be gone.")
        raise NotFound(f"There is no {request.method} {path} here. The API is described under /docs.")

    def _elsewhere(self, visit: Visit, elsewhere: access.Elsewhere) -> Response:
        request = visit.request
        # What was filled in is lost: back to the page with the form.
        where, notice = request.headers.get("referer", "/dashboard"), "&notice=lost"
        if request.method in guard.SAFE_METHODS:
            where, notice = f"{request.scope['path']}?{request.url.query}", ""
        try:
            asked = urlsplit(where)
        except ValueError:
            asked = urlsplit("/dashboard")
        back = asked.path + (f"?{asked.query}" if asked.query else "")
        return visit.redirect(f"{elsewhere.path}?next={quote(back, safe='/')}{notice}")

    def _refuse(self, visit: Visit, error: ApiError) -> Response:
        if visit.wants_html:
            try:
                response = visit.render("error.html", status=error.status, error=error)
            except Exception:
                _LOGGER.exception("request %s: the error page failed", visit.request_id)
                response = Response(error.message, error.status, media_type="text/plain")
        else:
            response = Response(wire_errors.render(error), error.status, media_type="application/json")
        for name, value in error.headers.items():
            response.headers[name] = value
        return response

    def _note(self, visit: Visit, status: int, started: float) -> None:
        if visit.page is None and status < 500:
            return  # a file, or a path that is free text from the visitor
        path = visit.page.path if visit.page is not None else ""
        elapsed = int((time.monotonic() - started) * 1000)
        line = RequestLine(now_ms(), visit.request_id, status, elapsed, path)
        if visit.presence is not None and visit.presence.account is not None:
            line.account = visit.presence.account.id
        self._log.add(line)


async def _unused(request: Request) -> Response:
    """Matched by Starlette's routes, but `Web` calls the page itself."""
    raise AssertionError(request.scope["path"])
