"""Requests: a list that is filtered and paged, one request in all its parts, the list as CSV and as JSON."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import msgspec
from starlette.responses import Response, StreamingResponse

from tollbridge.core import money
from tollbridge.core.ledger import EndRow, Record
from tollbridge.core.money import format_usd
from tollbridge.core.words import read_whole
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.services.statements import no_formula, to_csv
from tollbridge.services.usage import RANGES
from tollbridge.store import account_keys, lookups, prices, requests
from tollbridge.store.account_keys import AccountKey
from tollbridge.store.prices import Terms
from tollbridge.store.requests import NEWEST, Filter, Found, Line, Place
from tollbridge.values import Outcome
from tollbridge.web.page import MEMBER, Page
from tollbridge.web.usage import iso, json_response
from tollbridge.web.visit import Visit
from tollbridge.wire.openai_reply import finish_reason

PATH = "/dashboard/requests"
PAGE = 50
MOST = 200
EXPORT_PAGE = 1_000
STATUSES = {"": "All", "ok": "Succeeded", "failed": "Failed"}
# An outcome in words, and whether it is good, the caller's doing, or bad.
OUTCOMES = {
    Outcome.COMPLETED: ("Completed", "good"),
    Outcome.CLIENT_LEFT: ("The caller left before the end", "warn"),
    Outcome.UPSTREAM_DIED: ("The provider broke off in the middle of its answer", "bad"),
    Outcome.NO_OUTPUT: ("The provider answered nothing", "bad"),
    Outcome.OUR_FAULT: ("This gateway failed", "bad"),
    Outcome.SWEPT: ("This gateway stopped in the middle of the answer", "bad"),
}
METERS = {
    "input": "Input",
    "cache_read": "Input, read from the cache",
    "cache_write": "Input, written to the cache",
    "cache_write_1h": "Input, written to the cache for an hour",
    "audio_input": "Audio input",
    "output": "Output",
    "audio_output": "Audio output",
    "image_output": "Image output",
    "searches": "Searches",
}
_COLUMNS = (
    *("id", "ended_at", "model", "key", "charge_usd", "cost_usd", "prompt_tokens", "cached_tokens"),
    *("completion_tokens", "reasoning_tokens", "latency_ms", "first_token_ms", "outcome", "status", "finish_reason"),
)


class Names(msgspec.Struct, frozen=True):
    """What to call the prices and keys of some requests."""

    models: dict[int, str]
    keys: dict[int, AccountKey]

    def model(self, line: Line) -> str:
        return self.models.get(line.price_version, "")

    def key(self, line: Line) -> str:
        key = self.keys.get(line.key_id)
        return key.name if key is not None else ""


class Metered(msgspec.Struct, frozen=True):
    """A meter of one request: how many, the price per million (per thousand searches), and what they come to."""

    name: str
    count: int
    price: str
    amount: int


def public_id(visit: Visit, endpoint: str, hold: int) -> str:
    """The id that the caller was told, which `/v1/generation` accepts too."""
    return visit.shared.master.ids().encode(endpoint, hold)


async def asked(visit: Visit) -> Filter:
    """What the visitor wants to see. InvalidRequest names the part that is not possible."""
    database, account = visit.shared.database, visit.account
    key_id, versions = None, None
    if name := visit.query("key"):
        key = await account_keys.find(database, account.id, name)
        if key is None:
            raise InvalidRequest("There is no such key in this account.", param="key")
        key_id = key.id
    if text := visit.query("model"):
        versions = await prices.of_model(database, text)
    status = visit.query("status")
    if status not in STATUSES:
        raise InvalidRequest("status is ok, failed, or left out", param="status")
    since, period = moment(visit, "since") or 0, visit.query("range")
    if period:
        if period not in RANGES:
            raise InvalidRequest(f"range is one of {', '.join(RANGES)}, or left out", param="range")
        since = max(since, RANGES[period].period(visit.now).since)
    return Filter(since=since, key_id=key_id, versions=versions, failed=None if not status else status == "failed")


def moment(visit: Visit, name: str, later: timedelta = timedelta()) -> int | None:
    """A time in the address, epoch milliseconds; None: there is none. Of a day (UTC): its begin, `later` by this."""
    text = visit.query(name)
    if not text:
        return None
    try:
        said = datetime.fromisoformat(text)
    except ValueError:
        said = datetime(1, 1, 1, tzinfo=UTC)
    if len(text) == len("2026-11-30"):
        said = said.replace(tzinfo=UTC)
    else:
        later = timedelta()
    if said.tzinfo is None or not 1970 < said.year < 3000:
        raise InvalidRequest(
            f"{name} is a day (UTC), such as 2026-11-30, or a time with its zone, such as 2026-11-30T08:00:00Z.",
            param=name,
        )
    return int((said + later).timestamp() * 1000)


def newest(visit: Visit) -> Place:
    """Before what time all must have ended. A last day is included."""
    until = moment(visit, "until", timedelta(days=1))
    return NEWEST if until is None else (until, 0)


def cursor(visit: Visit, hold: Place) -> str:
    at, id_ = hold
    return f"{at}.{visit.shared.master.ids().encode('chat', max(id_, 0))[-32:]}"


def place(visit: Visit) -> Place:
    """Where the page begins. InvalidRequest: the cursor is not one of ours."""
    text = visit.query("cursor")
    if not text:
        return newest(visit)
    at, _, id_ = text.partition(".")
    hold = visit.shared.master.ids().decode(f"chatcmpl-{id_}")
    ended_at = read_whole(at, 15)
    if hold is None or ended_at is None:
        raise InvalidRequest("This cursor is none that was given out.", param="cursor")
    return ended_at, hold


async def names(visit: Visit, lines: list[Line]) -> Names:
    database = visit.shared.database
    models = await prices.models(database, (line.price_version for line in lines))
    keys = {key.id: key for key in await account_keys.of_account(database, visit.account.id)}
    return Names(models, keys)


async def page(visit: Visit) -> Response:
    if search := visit.query("q").strip():
        if visit.shared.master.ids().decode(search) is not None:
            return visit.redirect(f"{PATH}/{search}")
        said = "There is no request with this id in this account."
        if search.startswith("req_"):
            said = "An x-request-id is for the operator. Search for the id of the answer, such as chatcmpl-…"
        raise NotFound(said, param="q")
    wanted = await asked(visit)
    found = await requests.page(visit.shared.database, visit.account.id, wanted, place(visit), PAGE)
    called = await names(visit, found.lines)
    fields = {name: visit.query(name) for name in ("range", "since", "until", "status", "model", "key")}
    kept = urlencode({name: value for name, value in fields.items() if value})
    older = "" if found.next is None else urlencode({"cursor": cursor(visit, found.next)})
    return visit.render(
        "usage/requests.html",
        found=found,
        names=called,
        ids=[public_id(visit, line.endpoint, line.hold) for line in found.lines],
        outcomes=OUTCOMES,
        fields=fields,
        keys=called.keys.values(),
        statuses=STATUSES,
        ranges=RANGES.values(),
        kept=kept,
        older="&".join(part for part in (kept, older) if part) if older else "",
        first=not visit.query("cursor"),
    )


async def export(visit: Visit) -> Response:
    wanted = await asked(visit)
    name = f"requests-{iso(visit.now)[:10]}.csv"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(rows(visit, wanted, newest(visit)), media_type="text/csv; charset=utf-8", headers=headers)


async def rows(visit: Visit, wanted: Filter, before: Place | None) -> AsyncIterator[str]:
    """The lines of a CSV file, some at a time: nobody holds all of them."""
    yield to_csv([_COLUMNS])
    while before is not None:
        found: Found = await requests.page(visit.shared.database, visit.account.id, wanted, before, EXPORT_PAGE)
        called = await names(visit, found.lines)
        lines = (line_json(visit, line, called) for line in found.lines)
        yield to_csv([_plain(line[column]) for column in _COLUMNS] for line in lines)
        before = found.next


def _plain(value: object) -> object:
    return no_formula(value) if isinstance(value, str) else value


# --- one request ----------------------------------------------------------------------------------------------------


async def ended(visit: Visit) -> lookups.Ended:
    """The request that the path names. Raises `NotFound`."""
    hold = visit.shared.master.ids().decode(visit.path("request"))
    found = None
    if hold is not None:
        found = await lookups.ended(visit.shared.database, visit.account.id, hold)
        if found is None and await lookups.running(visit.shared.database, visit.account.id, hold):
            raise NotFound("This request has not ended yet.", param="id")
    if found is None:
        raise NotFound("There is no request with this id in this account.", param="id")
    return found


def metered(record: Record, terms: Terms) -> list[Metered]:
    """The meters that were not zero, at the price charged. Each is rounded up by itself here."""
    price = money.tier(terms.price, record.prompt)
    found = []
    for name in METERS:
        count = getattr(record, name)
        if not count:
            continue
        rate = getattr(price, name)
        if rate is None:
            rate = price.input if name == "audio_input" else price.output
        each = -(-rate * terms.multiplier_ppm // money.PPM)
        shown = money.dollars(money.format_price(-(-each // 1_000) if name == "searches" else each))
        amount = money.round_up(rate * count, terms.multiplier_ppm)
        found.append(Metered(METERS[name], count, shown, amount))
    return found


async def one(visit: Visit) -> Response:
    found = await ended(visit)
    record = found.end.record
    keys = await account_keys.of_account(visit.shared.database, visit.account.id)
    return visit.render(
        "usage/request.html",
        id=public_id(visit, record.endpoint, found.end.hold),
        end=found.end,
        record=record,
        terms=found.terms,
        late=found.late,
        meters=[] if found.terms is None else metered(record, found.terms),
        outcome=OUTCOMES[record.outcome],
        attempts=attempts(record),
        finish=finish_reason(record.finish),
        key=next((key for key in keys if key.id == found.end.key_id), None),
    )


def attempts(record: Record) -> list[dict[str, Any]]:
    """The attempts that got no answer: route, why, the provider's status and milliseconds."""
    stored = [] if record.attempts is None else msgspec.json.decode(record.attempts)
    return [
        {
            "route": each["route"],
            "error": each["failed"],
            "status": each.get("status") or None,
            "latency_ms": each.get("ms", 0),
        }
        for each in stored
    ]


# --- JSON -----------------------------------------------------------------------------------------------------------


def read_limit(visit: Visit) -> int | None:
    """How many a program wants at once; None: it said nothing. Raises `InvalidRequest`."""
    text = visit.query("limit")
    if not text:
        return None
    if not 0 < (limit := read_whole(text) or 0) <= MOST:
        raise InvalidRequest(f"limit is a whole number from 1 to {MOST}", param="limit")
    return limit


async def list_json(visit: Visit) -> Response:
    limit, wanted = read_limit(visit) or PAGE, await asked(visit)
    found = await requests.page(visit.shared.database, visit.account.id, wanted, place(visit), limit)
    called = await names(visit, found.lines)
    return json_response(
        {
            "data": [line_json(visit, line, called) for line in found.lines],
            "next_cursor": None if found.next is None else cursor(visit, found.next),
        }
    )


def line_json(visit: Visit, line: Line, called: Names) -> dict[str, Any]:
    key = called.keys.get(line.key_id)
    return {
        "id": public_id(visit, line.endpoint, line.hold),
        "started_at": iso(line.started_at),
        "ended_at": iso(line.ended_at),
        "model": called.model(line) or None,
        "key": None if key is None else key.public_id,
        "charge_usd": format_usd(line.charge),
        "cost_usd": format_usd(line.cost),
        "prompt_tokens": line.prompt,
        "cached_tokens": line.cached,
        "completion_tokens": line.output,
        "reasoning_tokens": line.reasoning,
        "latency_ms": line.duration_ms,
        "first_token_ms": line.first_byte_ms if line.streamed else None,
        "streamed": line.streamed,
        "outcome": line.outcome.name.lower(),
        "status": line.status,
        "finish_reason": finish_reason(line.finish),
    }


async def one_json(visit: Visit) -> Response:
    found = await ended(visit)
    keys = await account_keys.of_account(visit.shared.database, visit.account.id)
    end: EndRow = found.end
    record, terms = end.record, found.terms
    body = {
        "id": public_id(visit, record.endpoint, end.hold),
        "started_at": iso(record.started_at),
        "ended_at": iso(end.ended_at),
        "model": None if terms is None else terms.model,
        "route": None if terms is None else f"{terms.provider}/{terms.upstream_model}",
        "key": next((key.public_id for key in keys if key.id == end.key_id), None),
        "held_usd": format_usd(end.held),
        "charge_usd": format_usd(end.charge),
        "promo_usd": format_usd(end.promo),
        "included_tokens": end.allowance,
        "cost_usd": format_usd(record.cost),
        "tokens": {name: getattr(record, name) for name in METERS} | {"reasoning": record.reasoning},
        "latency_ms": record.duration_ms,
        "first_token_ms": record.first_byte_ms if record.streamed else None,
        "streamed": record.streamed,
        "estimated": record.estimated,
        "byok": record.byok,
        "outcome": record.outcome.name.lower(),
        "outcome_text": OUTCOMES[record.outcome][0],
        "status": record.status,
        "finish_reason": finish_reason(record.finish),
        "attempts": attempts(record),
    }
    return json_response(body)


PAGES = (
    Page("GET", PATH, MEMBER, page),
    Page("GET", f"{PATH}.csv", MEMBER, export),
    Page("GET", f"{PATH}/{{request}}", MEMBER, one),
    Page("GET", "/api/requests", MEMBER, list_json, manage=True),
    Page("GET", "/api/requests/{request}", MEMBER, one_json, manage=True),
)
