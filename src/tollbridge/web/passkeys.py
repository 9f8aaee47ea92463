"""The two ends of a passkey: adding one, and logging in with it. Both are asked for by static/passkeys.js."""

from typing import Any

import msgspec
from starlette.responses import Response

from tollbridge.errors import InvalidRequest
from tollbridge.services import passkeys
from tollbridge.services.passkeys import Asked
from tollbridge.web.page import ANYONE, USER, Page
from tollbridge.web.visit import Visit

COOKIE = "passkey"
PASSKEYS = "/dashboard/settings/passkeys"


async def ask_new(visit: Visit) -> Response:
    return _options(visit, await passkeys.ask_new(visit.shared.desk, visit.somebody))


async def add(visit: Visit) -> Response:
    body = await _body(visit)
    label = str(body.get("label", ""))
    credential = body.get("credential")
    await passkeys.add(visit.shared.desk, visit.somebody, visit.cookie(COOKIE), credential, label, visit.client)
    return _go(visit, "/dashboard/settings?saved=passkey")


async def remove(visit: Visit) -> Response:
    await passkeys.remove(visit.shared.desk, visit.somebody, visit.path("passkey"), visit.client)
    return visit.redirect("/dashboard/settings?saved=passkey-removed")


async def ask_log_in(visit: Visit) -> Response:
    return _options(visit, await passkeys.ask_log_in(visit.shared.desk))


async def log_in(visit: Visit) -> Response:
    body = await _body(visit)
    entered = await passkeys.log_in(visit.shared.desk, visit.cookie(COOKIE), body.get("credential"), visit.client)
    if not entered.token:
        return _go(visit, "/auth/login?notice=unconfirmed")
    visit.log_in(entered.token, entered.device)
    return _go(visit, visit.next_path())


async def _body(visit: Visit) -> dict[str, Any]:
    body = await visit.json()
    if not isinstance(body, dict):
        raise InvalidRequest("Send a JSON object.")
    return body


def _options(visit: Visit, asked: Asked) -> Response:
    visit.set_cookie(COOKIE, asked.sealed, passkeys.PATIENCE_MS // 1000)
    return Response(asked.options, media_type="application/json")


def _go(visit: Visit, path: str) -> Response:
    visit.set_cookie(COOKIE, "", 0)
    return Response(msgspec.json.encode({"location": path}), media_type="application/json")


PAGES = (
    Page("POST", f"{PASSKEYS}/options", USER, ask_new, fresh=True),
    Page("POST", PASSKEYS, USER, add, fresh=True),
    Page("POST", f"{PASSKEYS}/{{passkey}}/remove", USER, remove, fresh=True),
    Page("POST", "/auth/passkey/options", ANYONE, ask_log_in),
    Page("POST", "/auth/passkey", ANYONE, log_in),
)
