"""`/api/keys`: what the pages of API keys do, for programs, which show a session or a management key."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from starlette.responses import Response

from tollbridge.core.money import format_usd, parse_usd
from tollbridge.errors import InvalidRequest
from tollbridge.gateway.replays import LONGEST
from tollbridge.services import account_keys
from tollbridge.services.keys import MadeKey
from tollbridge.services.usage import RANGES
from tollbridge.store import account_keys as key_rows
from tollbridge.store import rollups
from tollbridge.store.account_keys import AccountKey
from tollbridge.store.keys import Rules
from tollbridge.web.page import DEVELOPER, Page
from tollbridge.web.requests import read_limit
from tollbridge.web.usage import iso, json_response
from tollbridge.web.visit import Visit

Body = TypeVar("Body", bound=msgspec.Struct)
_AT = re.compile(r"`\$\.(\w+)")
_A_TIME = "a time is a string with a time zone, such as 2027-01-31T00:00:00Z, or null."
_MISSING = re.compile(r"missing required field `(\w+)`")
_UNKNOWN = re.compile(r"unknown field `(\w+)`")


class KeyBody(msgspec.Struct, forbid_unknown_fields=True):
    """What may be said of a key. Left out: as it is; null: no such bound."""

    label: str | UnsetType = UNSET
    limit_usd: str | UnsetType | None = UNSET
    limit_reset: str | UnsetType | None = UNSET
    expires_at: datetime | UnsetType | None = UNSET
    models: list[str] | UnsetType | None = UNSET
    addresses: list[str] | UnsetType | None = UNSET
    rpm: int | UnsetType | None = UNSET
    tpm: int | UnsetType | None = UNSET
    concurrency: int | UnsetType | None = UNSET
    cost_cap_usd: str | UnsetType | None = UNSET
    disabled: bool | UnsetType = UNSET


class RotateBody(msgspec.Struct, forbid_unknown_fields=True):
    overlap: str = ""


async def list_keys(visit: Visit) -> Response:
    """All keys, or a page of them where `limit` is said."""
    database, account = visit.shared.database, visit.account
    limit, name, before = read_limit(visit), visit.query("cursor"), None
    if name:
        before = await key_rows.find(database, account.id, name)
        if before is None:
            raise InvalidRequest("This cursor is none that was given out.", param="cursor")
    # One more than wished for says whether there are further ones.
    keys = await key_rows.page(database, account.id, before, None if limit is None else limit + 1)
    more = limit is not None and len(keys) > limit
    uses = await rollups.last_uses(database, account.id)
    return json_response(
        {
            "data": [_key_json(visit, key, uses) for key in keys[:limit]],
            "next_cursor": keys[:limit][-1].public_id if more else None,
        }
    )


async def one(visit: Visit) -> Response:
    return json_response(await _shown(visit, visit.path("key")))


async def create(visit: Visit) -> Response:
    """A new key. `Idempotency-Key`: sent again it is the same key, shown in full only if `keys.reveal` allows it."""
    body = await read_body(visit, KeyBody)
    label = "" if isinstance(body.label, UnsetType) else body.label
    made = await account_keys.create(
        visit.shared.desk,
        visit.account.id,
        label,
        _rules(body, Rules()),
        visit.actor,
        disabled=body.disabled is True,
        once=idempotency_name(visit),
    )
    return await _made(visit, made)


async def change(visit: Visit) -> Response:
    body, desk, account = await read_body(visit, KeyBody), visit.shared.desk, visit.account
    public_id = visit.path("key")

    def wanted(key: AccountKey) -> tuple[str, Rules]:
        return key.label if isinstance(body.label, UnsetType) else body.label, _rules(body, key)

    await account_keys.change(desk, account.id, public_id, wanted, visit.actor)
    if not isinstance(body.disabled, UnsetType):
        await account_keys.set_disabled(desk, account.id, public_id, body.disabled, visit.actor)
    return json_response(await _shown(visit, public_id))


async def rotate(visit: Visit) -> Response:
    """A key in the place of this one. `Idempotency-Key`: as of `create`."""
    # Without a body all is as it is by default.
    body = await read_body(visit, RotateBody) if visit.content_type or await visit.body() else RotateBody()
    made = await account_keys.rotate(
        visit.shared.desk,
        visit.account.id,
        visit.path("key"),
        body.overlap,
        visit.actor,
        once=idempotency_name(visit),
    )
    return await _made(visit, made)


async def revoke(visit: Visit) -> Response:
    await account_keys.revoke(visit.shared.desk, visit.account.id, visit.path("key"), visit.actor)
    return json_response(await _shown(visit, visit.path("key")))


async def read_body(visit: Visit, kind: type[Body]) -> Body:
    """What was sent as JSON. InvalidRequest names the field that cannot be."""
    try:
        return msgspec.convert(await visit.json(), kind)
    except msgspec.ValidationError as error:
        raise _unreadable(str(error), kind) from None


def idempotency_name(visit: Visit) -> str:
    """By what a repetition of this request is known; "": it is none. InvalidRequest: the header cannot be."""
    once = visit.request.headers.get("idempotency-key")
    # An empty one is a mistake of whoever sends it, and would be no key at all.
    if once is not None and not (once.strip() and len(once) <= LONGEST and once.isprintable()):
        raise InvalidRequest(
            f"An Idempotency-Key must have 1 to {LONGEST} printable characters.", param="Idempotency-Key"
        )
    return "" if once is None else f"api/{once}"


def _unreadable(why: str, kind: type[msgspec.Struct]) -> InvalidRequest:
    """What msgspec says of a body, as people read it."""
    if unknown := _UNKNOWN.search(why):
        fields = ", ".join(kind.__struct_fields__)
        return InvalidRequest(f"There is no field {unknown[1]} here. The fields are: {fields}.", param=unknown[1])
    if missing := _MISSING.search(why):
        return InvalidRequest(f"{missing[1]} is missing.", param=missing[1])
    at = _AT.search(why)
    if at is None:
        return InvalidRequest(f"The body is not valid: {why}")
    if at[1] == "expires_at":
        return InvalidRequest(f"{at[1]}: {_A_TIME}", param=at[1])
    if at[1].endswith("_usd"):
        null = ", or null" if "null`, got" in why else ""
        return InvalidRequest(f'{at[1]}: an amount is a string, such as "5.00"{null}.', param=at[1])
    return InvalidRequest(f"{at[1]}: {why.partition(' - at ')[0]}", param=at[1])


def _rules(body: KeyBody, before: Rules) -> Rules:
    """The rules that were there, with what the body says in their place."""

    def said(value: Any, there: Any) -> Any:
        return there if isinstance(value, UnsetType) else value

    limit, cap, expires = body.limit_usd, body.cost_cap_usd, body.expires_at
    models, addresses = body.models, body.addresses
    return Rules(
        limit=before.limit if isinstance(limit, UnsetType) else _usd(limit, "limit_usd"),
        reset=said(body.limit_reset, before.reset),
        models=before.models if isinstance(models, UnsetType) else _texts(models, "models"),
        addresses=before.addresses if isinstance(addresses, UnsetType) else _texts(addresses, "addresses"),
        rpm=said(body.rpm, before.rpm),
        tpm=said(body.tpm, before.tpm),
        concurrency=said(body.concurrency, before.concurrency),
        cost_cap=before.cost_cap if isinstance(cap, UnsetType) else _usd(cap, "cost_cap_usd"),
        expires_at=before.expires_at if isinstance(expires, UnsetType) else _time(expires),
    )


def _usd(text: str | None, name: str) -> int | None:
    """Only null is no bound: a text that is empty by mistake must not take one away."""
    if text is None:
        return None
    try:
        return parse_usd(text)
    except ValueError as error:
        raise InvalidRequest(f"{name}: {error}", param=name) from None


def _texts(values: list[str] | None, name: str) -> tuple[str, ...] | None:
    """As of `_usd`: a list that names nothing is no bound either, which nobody should get by mistake."""
    if values is None:
        return None
    if not values or not all(each.strip() for each in values):
        raise InvalidRequest(f"{name}: name what is allowed, or send null for all.", param=name)
    return tuple(values)


def _time(value: datetime | None) -> int | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise InvalidRequest(f"expires_at: {_A_TIME}", param="expires_at")
    return int(value.timestamp() * 1000)


async def _made(visit: Visit, made: MadeKey) -> Response:
    """A new key with its text, which is shown only now: a repetition may have to do without."""
    text = {"key": made.text} if made.text else {}
    response = json_response(text | await _shown(visit, made.public_id), 201)
    if made.repeated:
        response.headers["idempotent-replayed"] = "true"
    return response


async def _shown(visit: Visit, public_id: str) -> dict[str, Any]:
    key = await account_keys.find(visit.shared.desk, visit.account.id, public_id)
    return _key_json(visit, key, await rollups.last_uses(visit.shared.database, visit.account.id))


def _key_json(visit: Visit, key: AccountKey, uses: dict[int, int]) -> dict[str, Any]:
    def time(at: int | None) -> str | None:
        return None if at is None else iso(at)

    return {
        "id": key.public_id,
        "hint": key.hint,
        "label": key.label,
        "state": key.state(visit.now),
        "limit_usd": None if key.limit is None else format_usd(key.limit),
        "limit_reset": key.reset,
        "spent_usd": None if key.limit is None else format_usd(key.spent_by(visit.now)),
        "models": key.models,
        "addresses": key.addresses,
        "rpm": key.rpm,
        "tpm": key.tpm,
        "concurrency": key.concurrency,
        "cost_cap_usd": None if key.cost_cap is None else format_usd(key.cost_cap),
        "created_at": iso(key.created_at),
        "last_used_at": time(uses.get(key.id)),
        "expires_at": time(key.expires_at),
        "disabled": key.disabled_at is not None,
        "revoked_at": time(key.revoked_at),
    }


PAGES = (
    Page("GET", "/api/keys", DEVELOPER, list_keys, manage=True),
    Page("POST", "/api/keys", DEVELOPER, create, manage=True),
    Page("GET", "/api/keys/{key}", DEVELOPER, one, manage=True),
    Page("PATCH", "/api/keys/{key}", DEVELOPER, change, manage=True),
    Page("DELETE", "/api/keys/{key}", DEVELOPER, revoke, manage=True),
    Page("POST", "/api/keys/{key}/rotate", DEVELOPER, rotate, manage=True),
)


# --- the document ---------------------------------------------------------------------------------------------------


class Described(msgspec.Struct, frozen=True):
    """An operation under `/api/`, for the OpenAPI document: `query` and `headers` its parameters, `body` what it takes
    as JSON."""

    method: str
    path: str
    summary: str
    query: Mapping[str, str] = {}
    headers: Mapping[str, str] = {}
    body: type[msgspec.Struct] | None = None


_FILTER = {
    "range": f"Only the last {', '.join(RANGES)}.",
    "since": "Only what ended from this day (UTC) or time on: `2026-11-01`, `2026-11-01T08:00:00Z`.",
    "until": "Only what ended by this day, which is included, or before this time.",
    "status": "`ok` or `failed`.",
    "model": "A part of the model's name.",
    "key": "The id of a key.",
}
_ONCE = {
    "Idempotency-Key": "Sending the same request again with it makes no second key. Its answer has the header "
    "`Idempotent-Replayed: true`, and no `key` unless keys are always shown here."
}
OPERATIONS = (
    Described(
        "GET",
        "/api/usage",
        "Requests, tokens, spend and latency in a period, in steps of time, by model and by key.",
        {"range": f"One of {', '.join(RANGES)}; 7d when left out."},
    ),
    Described(
        "GET",
        "/api/requests",
        "Requests, newest first. `next_cursor` leads to older ones; null: there are none.",
        {
            **_FILTER,
            "limit": "How many at most, up to 200; 50 when left out.",
            "cursor": "`next_cursor` of the previous page.",
        },
    ),
    Described(
        "GET", "/api/requests/{request}", "One request: tokens by meter, charge, cost, route, attempts, outcome."
    ),
    Described(
        "GET",
        "/api/keys",
        "All API keys of the account, newest first; never the keys themselves.",
        {
            "limit": "How many at most, up to 200; all when left out. `next_cursor` leads to older ones; null: "
            "there are none.",
            "cursor": "`next_cursor` of the previous page.",
        },
    ),
    Described(
        "POST",
        "/api/keys",
        "Create an API key. `key` in the answer is shown only now.",
        headers=_ONCE,
        body=KeyBody,
    ),
    Described("GET", "/api/keys/{key}", "One API key."),
    Described("PATCH", "/api/keys/{key}", "Change the fields that are sent; null removes a bound.", body=KeyBody),
    Described("DELETE", "/api/keys/{key}", "Revoke a key for good, from its next call on."),
    Described(
        "POST",
        "/api/keys/{key}/rotate",
        "A new key with the label and bounds of this one, which has spent nothing of its limit yet. `overlap`: how "
        "long the old one keeps working: `none`, `1h`, `24h`; left out: until it is revoked.",
        headers=_ONCE,
        body=RotateBody,
    ),
    Described("GET", "/api/billing", "The balance and what is in it, the plan, ways to pay, packs."),
)
_REFUSED = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}


def openapi_paths() -> dict[str, Any]:
    """`paths` of an OpenAPI 3.1 document for `OPERATIONS`. The scheme `managementKey` is HTTP bearer."""
    paths: dict[str, Any] = {}
    for each in OPERATIONS:
        names = re.findall(r"\{(\w+)\}", each.path)
        parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]
        parameters += [
            {"name": name, "in": where, "description": text, "schema": {"type": "string"}}
            for where, texts in (("query", each.query), ("header", each.headers))
            for name, text in texts.items()
        ]
        done: dict[str, Any] = {
            "description": "Done.",
            "content": {"application/json": {"schema": {"type": "object"}}},
        }
        refused = {401: "Neither a session nor a management key.", 503: "The database is away: try again."}
        if each.query or each.headers or each.body:
            refused[400] = "What was sent is not valid: `error.param` names it."
        if names:
            refused[404] = "The account has no such object."
        if each.body is not None:
            refused |= {413: "The body is too large.", 415: "The body is not JSON."}
        if each.headers:
            refused[422] = "`idempotency_key_reused`: the `Idempotency-Key` was used for another request."
            text = "`true` if the first request with this `Idempotency-Key` did it."
            done["headers"] = {"Idempotent-Replayed": {"description": text, "schema": {"type": "string"}}}
        operation: dict[str, Any] = {
            "operationId": re.sub(r"\W+", "-", f"{each.method.lower()}{each.path}").strip("-"),
            "summary": each.summary,
            "tags": ["Management"],
            "security": [{"managementKey": []}],
            "parameters": parameters,
            "responses": {"201" if each.method == "POST" else "200": done}
            | {str(status): {"description": refused[status], "content": _REFUSED} for status in sorted(refused)},
        }
        if each.body is not None:
            _, schemas = msgspec.json.schema_components([each.body])
            operation["requestBody"] = {"content": {"application/json": {"schema": schemas[each.body.__name__]}}}
        paths.setdefault(each.path, {})[each.method.lower()] = operation
    return paths
