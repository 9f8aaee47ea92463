"""What answers look like in the OpenAPI document: their schemas and their headers."""

from typing import Any

from tollbridge.core.catalog import TYPES

Json = dict[str, Any]

TEXT: Json = {"type": "string"}
_NUMBER: Json = {"type": "number"}
_WHOLE: Json = {"type": "integer"}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties}


def _list(items: Json) -> Json:
    return {"type": "array", "items": items}


def ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _money(read: str = "prompt", written: str = "completions") -> Json:
    details = {
        "upstream_inference_cost": {**_NUMBER, "description": "What the provider bills, USD."},
        f"upstream_inference_{read}_cost": {**_NUMBER, "description": "Of this, for what was read."},
        f"upstream_inference_{written}_cost": {**_NUMBER, "description": "And for what was written and searched for."},
    }
    return {
        "cost": {**_NUMBER, "description": "What this request took from your balance, USD."},
        "cost_details": _object(**details),
        "balance": {**_NUMBER, "description": "What you can spend now, USD."},
    }


_CHOICE = _object(index=_WHOLE, message=_object(role=TEXT, content=TEXT), finish_reason=TEXT)
SCHEMAS: Json = {
    "Error": _object(
        error=_object(message=TEXT, type=TEXT, param={"type": ["string", "null"]}, code=TEXT),
        detail={**TEXT, "description": "The same message again."},
        balance_usd={**_NUMBER, "description": "On 402: what can be spent."},
    ),
    "MessagesError": _object(
        type=TEXT, error=_object(type=TEXT, message=TEXT, details={"type": "object"}), request_id=TEXT, detail=TEXT
    ),
    "Usage": _object(prompt_tokens=_WHOLE, completion_tokens=_WHOLE, total_tokens=_WHOLE, **_money()),
    "ChatCompletion": _object(
        id=TEXT, object=TEXT, created=_WHOLE, model=TEXT, choices=_list(_CHOICE), usage=ref("Usage")
    ),
    "Completion": _object(
        id=TEXT,
        object=TEXT,
        created=_WHOLE,
        model=TEXT,
        choices=_list(_object(index=_WHOLE, text=TEXT, finish_reason=TEXT)),
        usage=ref("Usage"),
    ),
    "Embeddings": _object(
        object=TEXT,
        model=TEXT,
        data=_list(_object(object=TEXT, index=_WHOLE, embedding=_list(_NUMBER))),
        usage=ref("Usage"),
    ),
    "Response": _object(
        id=TEXT,
        object=TEXT,
        status=TEXT,
        model=TEXT,
        output=_list({"type": "object"}),
        usage=_object(input_tokens=_WHOLE, output_tokens=_WHOLE, total_tokens=_WHOLE, **_money("input", "output")),
    ),
    "Message": _object(
        id=TEXT,
        type=TEXT,
        role=TEXT,
        model=TEXT,
        content=_list({"type": "object"}),
        stop_reason=TEXT,
        usage=_object(input_tokens=_WHOLE, output_tokens=_WHOLE, **_money()),
    ),
    "TokenCount": _object(input_tokens=_WHOLE),
    "Model": _object(
        id=TEXT,
        object=TEXT,
        created=_WHOLE,
        owned_by=TEXT,
        type={**TEXT, "enum": list(TYPES)},
        context_window=_WHOLE,
        max_output_tokens={"type": ["integer", "null"], "description": "null where nothing is written."},
        best_for=TEXT,
        input_modalities=_list(TEXT),
        output_modalities=_list(TEXT),
        capabilities=_list(TEXT),
        aliases=_list(TEXT),
        price=_object(
            unit=TEXT,
            input={**TEXT, "description": "A decimal: USD per million tokens, what you pay."},
            output=TEXT,
            cache_read=TEXT,
            cache_write=TEXT,
            tiers=_list({"type": "object"}),
            periods=_list({"type": "object"}),
        ),
        context_length=_WHOLE,
        pricing={"type": "object", "description": "As OpenRouter has it: decimals, USD per token or search."},
        supported_parameters=_list(TEXT),
    ),
    "ModelList": _object(object=TEXT, data=_list(ref("Model")), total_count=_WHOLE),
    "Credits": _object(
        data=_object(total_credits=_NUMBER, total_usage=_NUMBER),
        balance_usd=_NUMBER,
        held_usd=_NUMBER,
        paid_usd=_NUMBER,
        promo_usd=_NUMBER,
        frozen={"type": "boolean"},
    ),
    "Key": _object(
        data=_object(
            id=TEXT,
            label=TEXT,
            limit={"type": ["number", "null"]},
            limit_remaining={"type": ["number", "null"]},
            usage=_NUMBER,
            usage_daily=_NUMBER,
            usage_weekly=_NUMBER,
            usage_monthly=_NUMBER,
            plan=TEXT,
            limits={"type": "object"},
            balance_usd=_NUMBER,
        )
    ),
    "Generation": _object(
        data=_object(
            id=TEXT,
            model=TEXT,
            provider_name=TEXT,
            total_cost=_NUMBER,
            tokens_prompt=_WHOLE,
            tokens_completion=_WHOLE,
            latency={**_WHOLE, "description": "Milliseconds."},
            outcome=TEXT,
            finish_reason=TEXT,
            attempts=_list({"type": "object"}),
        )
    ),
    "Estimate": _object(
        object=TEXT,
        model=TEXT,
        least_usd=_NUMBER,
        greatest_usd=_NUMBER,
        held_usd={"type": ["number", "null"]},
        cap_usd=_NUMBER,
        admitted={"type": "boolean"},
        status=_WHOLE,
        routes=_list({"type": "object"}),
    ),
    "Health": _object(status=TEXT),
}


_OF_CALLS = {
    "Upstream-Cost-USD": "What the provider bills the operator.",
    "Charged-USD": "What this request took from your balance.",
    "Balance-USD": "What you can spend now.",
    "Cost-Basis": "`final`; `hold` on a stream, whose headers leave before its cost is known.",
    "Generation-Id": "The `id` of the answer.",
    "Provider": "Who answered.",
    "Attempts": "Only if routes were tried that did not answer: each with its status or the reason.",
    "Dropped-Fields": "Only if fields could not be sent to the provider: their names.",
    "Max-Tokens-Applied": "Only if credit, included tokens or a cost cap set a lower limit than was asked for.",
    "Idempotent-Replayed": "`true` if this is the answer to the first request with this `Idempotency-Key`.",
}
_OF_LIMITS = {
    f"x-ratelimit-{what}-{of}": f"Only if {of} a minute are limited."
    for of in ("requests", "tokens")
    for what in ("limit", "remaining", "reset")
}
_WAIT = {"Retry-After": "Seconds after which trying again makes sense, where that is known."}
_WAITING = frozenset({402, 409, 429, 503})
_LIMITED = 429


def headers(status: int, prefix: str, *, paid: bool) -> Json:
    """The headers of an answer with this status; `prefix`: the operator's; `paid`: of an endpoint that is charged."""
    said = {"x-request-id": "Quote it when you ask about a request."}
    if paid and status == 200:
        said |= {f"{prefix}-{name}": text for name, text in _OF_CALLS.items()}
    if paid and status in (200, _LIMITED):
        said |= _OF_LIMITS
    if status in _WAITING:
        said |= _WAIT
    return {name: {"description": text, "schema": TEXT} for name, text in said.items()}
