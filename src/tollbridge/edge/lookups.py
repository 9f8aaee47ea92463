"""What a customer may ask the gateway itself about: a request, their credit, their key, and what a request would cost.

Rule 1  A key sees what belongs to its account; for it, nothing else exists.
Rule 2  Read only: no answer here makes a hold, takes from a limit or writes to the books.
Rule 3  Amounts are JSON numbers, USD, printed from integers of nano-USD.

Field names are OpenRouter's where it has a name for the thing; ours stand beside them.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec
from msgspec import Raw

from tollbridge.core import periods, pricing, tokens
from tollbridge.core.ledger import Record, Verdict
from tollbridge.core.money import format_usd
from tollbridge.core.periods import Reset
from tollbridge.core.pricing import TokenBound
from tollbridge.errors import ApiError, InvalidRequest, NotFound, Unavailable
from tollbridge.gateway.admission import Admission, Estimate
from tollbridge.gateway.callers import Caller
from tollbridge.gateway.holds import hold_of
from tollbridge.gateway.recent import Recent
from tollbridge.limits.base import Limiter, Room
from tollbridge.store import account_keys, lookups
from tollbridge.store.db import Database
from tollbridge.values import Meters, Outcome, Route, Usage
from tollbridge.wire import anthropic_client, anthropic_messages, preferences
from tollbridge.wire import errors as wire_errors
from tollbridge.wire.body import NULL, read_object
from tollbridge.wire.openai_reply import finish_reason
from tollbridge.wire.request import Request

Parse = Callable[[bytes], Request]
ReadBody = Callable[[], Awaitable[bytes]]

COUNT = "/v1/messages/count_tokens"
# The method that each path takes.
PATHS = {"/v1/generation": "GET", "/v1/credits": "GET", "/v1/key": "GET", "/v1/estimate": "POST", COUNT: "POST"}

OUTCOME_TEXTS = {
    Outcome.COMPLETED: "completed",
    Outcome.CLIENT_LEFT: "the caller left before the end",
    Outcome.UPSTREAM_DIED: "the provider broke off in the middle of its answer",
    Outcome.NO_OUTPUT: "the provider answered nothing",
    Outcome.OUR_FAULT: "this gateway failed",
    Outcome.SWEPT: "this gateway stopped in the middle of the answer",
}
# Where the books have a provider's own word for the end: its dialect, and the endpoints that speak the same.
_SPOKEN_HERE = "openai_chat"
_PASSED_ON = frozenset({"chat", "completions"})

# What OpenRouter has and we have not. Its SDK refuses answers without them.
_NOT_OF_A_KEY = {
    "allowed_data_regions": ["global"],
    "free_model_daily_requests": {"limit": -1, "remaining": -1, "used": 0},  # nor is their use bounded by the day
    **dict.fromkeys(("creator_user_id", "organization_id", "workspace_id")),
}
_NOT_OF_A_REQUEST = {
    "data_region": "global",
    "origin": "",
    **dict.fromkeys(
        (
            *("app_id", "cache_discount", "external_user", "http_referer", "moderation_latency", "num_fetches"),
            *("num_input_audio_prompt", "num_media_completion", "num_media_prompt", "preset_id", "provider_responses"),
            *("router", "service_tier", "upstream_id", "user_agent", "web_search_engine", "workspace_id"),
        )
    ),
}


class Lookups:
    """`decode` turns a public id into its hold; `parsers`, by path, read the bodies of the inference endpoints;
    `dialects` are those of the providers, by name.
    """

    def __init__(
        self,
        *,
        database: Database,
        admission: Admission,
        limiter: Limiter,
        recent: Recent,
        decode: Callable[[str], int | None],
        parsers: Mapping[str, Parse],
        dialects: Mapping[str, str],
    ) -> None:
        self._database = database
        self._admission = admission
        self._limiter = limiter
        self._recent = recent
        self._decode = decode
        self._parsers = parsers
        self._dialects = dialects

    async def answer(self, path: str, query: bytes, caller: Caller, read_body: ReadBody, cap: int | None) -> bytes:
        """The body of a 200 for one of `PATHS`; raises `ApiError`. `cap`: the caller's, for an estimate, nano-USD."""
        match path:
            case "/v1/generation":
                answer: dict[str, Any] | Raw = await self._generation(query, caller)
            case "/v1/credits":
                answer = await self._credits(caller)
            case "/v1/key":
                answer = await self._key(caller)
            case _ if path == COUNT:
                answer = _count(await read_body())
            case _:
                answer = await self._estimate(await read_body(), caller, cap)
        return msgspec.json.encode(answer)

    # --- one request ---

    async def _generation(self, query: bytes, caller: Caller) -> dict[str, Any]:
        asked = parse_qs(query.decode("latin-1")).get("id")
        if not asked:
            raise InvalidRequest("Missing 'id': ask for /v1/generation?id=chatcmpl-….", param="id")
        hold = self._decode(asked[-1])
        found = None if hold is None else await self._find(hold, asked[-1], caller)
        if found is None:
            raise NotFound("There is no request with this id.", code="generation_not_found", param="id")
        return {"data": found}

    async def _find(self, hold: int, id_: str, caller: Caller) -> dict[str, Any] | None:
        """The request as the books have it; if they do not have it yet, as this process remembers it."""
        kept = self._recent.find(hold)
        if kept is not None and kept.end.account_id != caller.account_id:
            return None
        try:
            ended = await lookups.ended(self._database, caller.account_id, hold)
        except Unavailable:
            if kept is None:
                raise
            ended = None
        if ended is not None:
            terms = ended.terms
            names = ("", "", "") if terms is None else (terms.model, terms.provider, terms.upstream_model)
            found = _generation(id_, names, ended.end.record, ended.end.charge, settled=True)
            return found | self._ended_with(ended.end.record, names[1])
        if kept is not None:
            route = kept.route
            names = (route.model, route.upstream.provider, route.upstream_model)
            found = _generation(id_, names, kept.end.record, kept.end.charge, settled=False)
            return found | self._ended_with(kept.end.record, names[1])
        if await lookups.running(self._database, caller.account_id, hold):
            raise NotFound("This request has not ended yet.", code="generation_not_ended", param="id")
        return None

    def _ended_with(self, record: Record, provider: str) -> dict[str, str | None]:
        """How the answer ended, in OpenAI's word and in the provider's own: None where that was not kept."""
        is_own = self._dialects.get(provider) == _SPOKEN_HERE and record.endpoint in _PASSED_ON
        return {
            "finish_reason": finish_reason(record.finish),
            "native_finish_reason": record.finish if is_own else None,
        }

    # --- credit and key ---

    async def _credits(self, caller: Caller) -> dict[str, Any]:
        credit = await lookups.credit(self._database, caller.account_id)
        return {
            "data": {
                "total_credits": _usd(credit.given),
                "total_usage": _usd(credit.given - credit.paid - credit.promo),
            },
            "balance_usd": _usd(credit.available),
            "held_usd": _usd(credit.held),
            "paid_usd": _usd(credit.paid),
            "promo_usd": _usd(credit.promo),
            "frozen": credit.frozen,
        }

    async def _key(self, caller: Caller) -> dict[str, Any]:
        now = await self._database.now()
        key = await account_keys.by_id(self._database, caller.key_id)
        credit = await lookups.credit(self._database, caller.account_id)
        day, week, month = (periods.began(each, now) for each in Reset)
        spent = await lookups.spending(self._database, caller.account_id, caller.key_id, (day, week, month))
        found = await self._limiter.look(caller.scopes, 0, 0)
        plan = caller.plan
        rpm = _least_of(plan.rpm, key.rpm)
        return {
            "data": {
                "id": key.public_id,
                "key": key.hint,
                "label": key.label or key.hint,
                "limit": None if key.limit is None else _usd(key.limit),
                "limit_remaining": None if key.limit is None else _usd(key.left(now)),
                "limit_reset": key.reset,
                "limit_resets_at": None if key.reset is None else _time(periods.ends(Reset(key.reset), now)),
                "models": key.models,
                "addresses": key.addresses,
                "cost_cap_usd": None if caller.cost_cap is None else _usd(caller.cost_cap),
                "include_byok_in_limit": True,
                "usage": _usd(spent.total),
                "usage_daily": _usd(spent.daily),
                "usage_weekly": _usd(spent.weekly),
                "usage_monthly": _usd(spent.monthly),
                "byok_usage": _usd(spent.byok_total),
                "byok_usage_daily": _usd(spent.byok_daily),
                "byok_usage_weekly": _usd(spent.byok_weekly),
                "byok_usage_monthly": _usd(spent.byok_monthly),
                "is_free_tier": not credit.has_paid,
                "is_management_key": False,
                "is_provisioning_key": False,
                "created_at": _time(key.created_at),
                "expires_at": None if key.expires_at is None else _time(key.expires_at),
                "rate_limit": {
                    "requests": -1 if rpm is None else rpm,
                    "interval": "60s",
                    "note": "Requests that the plan and the key allow in this time; -1: as many as you like.",
                },
                "budgets": [] if key.limit is None else [_budget(key, now)],
                "effective_budget": None if key.limit is None else _budget(key, now),
                **_NOT_OF_A_KEY,
                "plan": plan.name,
                "included_tokens": await self._included(caller, now),
                "limits": {
                    "requests": _room(found.requests_room),
                    "tokens": _room(found.tokens_room),
                    "concurrency": _least_of(plan.concurrency, key.concurrency),
                },
                "balance_usd": _usd(credit.available),
            }
        }

    async def _included(self, caller: Caller, now: int) -> dict[str, Any] | None:
        """The tokens that the plan includes this month, and what is left of them; None if it includes none."""
        included = caller.plan.included_tokens
        if not included:
            return None
        had = await lookups.allowance(self._database, caller.account_id, periods.month(now))
        used, held = (0, 0) if had is None else (had.used, had.held)
        return {
            "limit": included,
            "used": used,
            "held": held,
            "remaining": max(0, included - used - held),
            "resets_at": _time(periods.ends(Reset.MONTHLY, now)),
        }

    # --- what it would cost ---

    async def _estimate(self, body: bytes, caller: Caller, cap: int | None) -> dict[str, Any]:
        parse, inner = self._asked_for(body)
        request = preferences.read(parse(inner))
        now = await self._database.now()

        async def ask(want: int, least: int, included: TokenBound) -> Verdict:
            return await lookups.would_hold(self._database, hold_of(0, caller, (want, least), included, now), now)

        try:
            estimate = await self._admission.estimate(caller, request, cap, ask)
        except ApiError as refusal:
            return {"object": "estimate", "model": request.model, **_refusal(refusal)}
        return _estimated(request, estimate)

    def _asked_for(self, body: bytes) -> tuple[Parse, bytes]:
        """The endpoint's parser and its body, out of `{endpoint, body}` or a plain chat body."""
        fields = read_object(body)
        if "body" not in fields or "endpoint" not in fields:
            return self._parsers["/v1/chat/completions"], body
        try:
            path = msgspec.json.decode(fields["endpoint"], type=str)
        except msgspec.ValidationError:
            path = ""
        path = path if path.startswith("/v1/") else f"/v1/{'chat/completions' if path == 'chat' else path}"
        parse = self._parsers.get(path)
        if parse is None:
            known = ", ".join(each.removeprefix("/v1/") for each in self._parsers)
            raise InvalidRequest(f"Invalid value for 'endpoint': it must be one of {known}.", param="endpoint")
        return parse, bytes(fields["body"])


def _generation(id_: str, names: tuple[str, str, str], record: Record, charge: int, *, settled: bool) -> dict[str, Any]:
    """`names`: of the model, its provider, and the provider's name for it. `settled`: the charge is in the books."""
    model, provider, upstream_model = names
    first = record.first_byte_ms if record.streamed else None
    attempts = [] if record.attempts is None else msgspec.json.decode(record.attempts)
    return {
        "id": id_,
        "model": model,
        "provider_name": provider,
        "route": f"{provider}/{upstream_model}",
        "created_at": _time(record.started_at),
        "total_cost": _usd(charge),
        "usage": _usd(charge),
        "charge": _usd(charge),
        "cost": _usd(record.cost),
        "upstream_inference_cost": _usd(record.cost),
        "is_byok": record.byok,
        "settled": settled,
        "streamed": record.streamed,
        "cancelled": record.outcome is Outcome.CLIENT_LEFT,
        "outcome": record.outcome.name.lower(),
        "outcome_text": OUTCOME_TEXTS[record.outcome],
        "status": record.status,
        "latency": record.duration_ms,
        "generation_time": record.duration_ms - (first or 0),
        "time_to_first_token": first,
        "tokens_prompt": record.prompt,
        "tokens_completion": record.completion,
        "native_tokens_prompt": record.prompt,
        "native_tokens_completion": record.completion,
        "native_tokens_reasoning": record.reasoning,
        "native_tokens_cached": record.cache_read,
        "native_tokens_completion_images": record.image_output,
        "num_search_results": record.searches,
        "tokens": {meter: getattr(record, meter) for meter in Meters.__struct_fields__},
        "estimated": record.estimated,
        "suspect": record.suspect,
        "attempts": [_attempt(each) for each in attempts],
        "api_type": "embeddings" if record.endpoint == "embeddings" else "completions",
        **_NOT_OF_A_REQUEST,
    }


def _budget(key: account_keys.AccountKey, now: int) -> dict[str, Any]:
    """The limit of a key that has one, as OpenRouter's SDK for Python wants to read it again."""
    limit, reset = key.limit or 0, key.reset
    return {
        "scope": "key_limit",
        "limit_usd": _usd(limit),
        "spend_usd": _usd(key.spent_by(now)),
        "remaining_usd": _usd(key.left(now)),
        "reset_interval": reset,
        "resets_at": None if reset is None else _time(periods.ends(Reset(reset), now)),
        "include_byok": True,
        "budget_id": None,
        "guardrail_id": None,
    }


def _attempt(stored: dict[str, Any]) -> dict[str, Any]:
    """An attempt that did not answer (`gateway.ticket.Attempt` as stored)."""
    return {
        "route": stored["route"],
        "error": stored["failed"],
        "status": stored.get("status", 0) or None,
        "ms": stored.get("ms", 0),
    }


def _estimated(request: Request, estimate: Estimate) -> dict[str, Any]:
    demand = estimate.demand
    (route, bound), *_ = estimate.routes
    most = bound.limit if estimate.limit is None else min(bound.limit, estimate.limit)
    return {
        "object": "estimate",
        "model": route.model,
        "endpoint": request.endpoint,
        "provider": route.upstream.name,
        "tokens": {
            "prompt": demand.read,
            "max_output": most * demand.choices,
            "choices": demand.choices,
        },
        "least_usd": _usd(_least(demand, route)),
        "greatest_usd": _usd(min(bound.whole, estimate.cap)),
        "held_usd": None if estimate.held is None else _usd(estimate.held),
        "cap_usd": _usd(estimate.cap),
        "routes": [
            {
                "model": each.model,
                "provider": each.upstream.name,
                "is_byok": each.upstream.owner != 0,
                "least_usd": _usd(_least(demand, each)),
                "greatest_usd": _usd(min(its.whole, estimate.cap)),
            }
            for each, its in estimate.routes
        ],
        **_refusal(estimate.refusal),
    }


def _least(demand: pricing.Demand, route: Route) -> int:
    """The charge for the prompt alone, read from the cache if that is cheaper, with an empty answer; nano-USD."""
    return min(pricing.charge(Usage(input=demand.read), route), pricing.charge(Usage(cache_read=demand.read), route))


def _refusal(error: ApiError | None) -> dict[str, Any]:
    """Whether the request would be admitted, and if not, what the answer would be."""
    if error is None:
        return {"admitted": True, "status": 200, "error": None}
    retry_after = error.headers.get("retry-after")
    return {
        "admitted": False,
        "status": error.status,
        **wire_errors.members(error),
        "retry_after": None if retry_after is None else int(retry_after),
    }


def _least_of(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _room(room: Room | None) -> dict[str, Any] | None:
    if room is None:
        return None
    return {"limit": room.limit, "remaining": room.remaining, "reset_seconds": round(room.reset, 3)}


def _usd(nano: int) -> Raw:
    return Raw(format_usd(nano).encode())


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")


def _count(body: bytes) -> Raw:
    """Anthropic's count_tokens: an estimate of what the provider would count. A hold covers more."""
    request = anthropic_messages.parse_count(body)
    prompt = request.prompt()
    counted = tokens.count_read(prompt.text, prompt.messages) + len(prompt.pictures) * tokens.PER_IMAGE
    if request.fields.get("tools", NULL) not in (NULL, Raw(b"[]")):
        counted += tokens.PER_TOOLS
    return Raw(anthropic_client.render_count(prompt.tokens + counted))
