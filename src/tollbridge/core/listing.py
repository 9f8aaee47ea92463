"""Models, prices and times in a form for people: decimal strings in USD, dates and hours in UTC."""

from datetime import date, timedelta
from typing import Any

from tollbridge.core import money
from tollbridge.values import DAY_MS, FOR_EVER, Model, Price, Route, When

_EPOCH = date(1970, 1, 1)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ALWAYS = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
_OWN = ("audio_input", "audio_output", "image_output")
_SEARCHES = 1_000
# What a capability lets a caller send, in OpenRouter's words.
_PARAMETERS = {
    "tools": ("tools",),
    "tool_choice": ("tool_choice",),
    "parallel_tools": ("parallel_tool_calls",),
    "structured_output": ("response_format", "structured_outputs"),
    "reasoning": ("reasoning", "include_reasoning"),
    "web_search": ("web_search_options",),
}
# The meters of OpenRouter's prices.
_OPENROUTERS = {
    "prompt": "input",
    "completion": "output",
    "input_cache_read": "cache_read",
    "input_cache_write": "cache_write",
    "input_cache_write_1h": "cache_write_1h",
    "audio": "audio_input",
    "audio_output": "audio_output",
    "image_output": "image_output",
    "web_search": "searches",
}


def model_fields(model: Model) -> dict[str, Any]:
    """A model as `/v1/models` shows it, at its first route's price: what the customer pays, markup included."""
    first = model.routes[0]
    price = {"unit": "USD per 1M tokens", **price_fields(first.price, first.multiplier_ppm)}
    if first.variants:
        price["periods"] = periods_of(first)
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": model.owned_by,
        "type": model.type,
        "context_window": model.context_window,
        "max_output_tokens": None if model.type == "embedding" else model.output_limit,
        "best_for": model.best_for,
        "input_modalities": model.input_modalities,
        "output_modalities": model.output_modalities,
        "capabilities": model.capabilities,
        "aliases": model.aliases,
        "price": price,
        **_openrouter_fields(model),
    }


def _openrouter_fields(model: Model) -> dict[str, Any]:
    """What OpenRouter's list says of a model, and its SDK needs (openrouter.ai/docs/api/api-reference/models)."""
    first = model.routes[0]
    taken, given = model.input_modalities, model.output_modalities
    writes = model.type != "embedding"
    given = given if writes else ("embeddings",)
    sent = ("max_tokens",) if writes else ()
    return {
        "canonical_slug": model.id,
        "name": model.id,
        "context_length": model.context_window,
        "architecture": {
            "modality": f"{'+'.join(taken)}->{'+'.join(given)}",
            "input_modalities": taken,
            "output_modalities": given,
            "instruct_type": None,
        },
        "pricing": _token_prices(first.price, first.multiplier_ppm),
        "supported_parameters": [*sent, *(name for each in model.capabilities for name in _PARAMETERS.get(each, ()))],
        "top_provider": {
            "context_length": model.context_window,
            "max_completion_tokens": model.output_limit if writes else None,
            "is_moderated": False,
        },
        "links": {"details": f"/v1/models/{model.id}"},
        "default_parameters": None,
        "per_request_limits": None,
        "supported_voices": None,
    }


def anthropic_fields(model: Model) -> dict[str, Any]:
    """A model as Anthropic's list of models shows one (platform.claude.com/docs/en/api/models/list)."""
    return {
        "type": "model",
        "id": model.id,
        "display_name": model.id,
        "created_at": f"{_date(model.created * 1000)}T00:00:00Z",
        "max_input_tokens": model.context_window,
        "max_tokens": model.output_limit,
    }


def price_fields(price: Price, multiplier_ppm: int = money.PPM) -> dict[str, Any]:
    """USD per million tokens by meter, times the multiplier, and per thousand searches; `tiers` with their bounds.

    Rounded up to a pico-USD per token, for display only: a charge is rounded once per request. A meter without a price
    of its own is left out.
    """

    def shown(pico: int) -> str:
        return money.format_price(-(-pico * multiplier_ppm // money.PPM))

    fields: dict[str, Any] = {meter: shown(getattr(price, meter)) for meter in _ALWAYS}
    fields |= {meter: shown(pico) for meter in _OWN if (pico := getattr(price, meter)) is not None}
    if price.searches:
        fields["searches_per_thousand"] = shown(-(-price.searches // _SEARCHES))
    if price.tiers:
        fields["tiers"] = [{"above": tier.above, **price_fields(tier.price, multiplier_ppm)} for tier in price.tiers]
    return fields


def _token_prices(price: Price, multiplier_ppm: int) -> dict[str, str]:
    """As `price_fields`, but in USD per token and per search, in OpenRouter's words. Its tiers are only in ours."""
    prices = ((name, getattr(price, meter)) for name, meter in _OPENROUTERS.items())
    return {
        name: money.format_token_price(-(-pico * multiplier_ppm // money.PPM))
        for name, pico in prices
        if pico or name in ("prompt", "completion")
    }


def periods_of(route: Route) -> list[dict[str, Any]]:
    """When customers pay a price other than the route's: `when`, and the price. The first that applies counts."""
    return [
        {"when": when_text(variant.when[0]), **price_fields(variant.route.price, route.multiplier_ppm)}
        for variant in route.variants
        if variant.route.price is not route.price
    ]


def when_text(when: When) -> str:
    """`from 2027-01-01, mon-fri, 01:00-04:00 UTC`."""
    parts = []
    if when.since:
        parts.append(f"from {_date(when.since)}")
    if when.until < FOR_EVER:
        parts.append(f"until {_date(when.until)}")
    if when.days != 127:
        parts.append(_days(when.days))
    if (when.start, when.end) != (0, DAY_MS):
        parts.append(f"{_time(when.start)}-{_time(when.end)} UTC")
    return ", ".join(parts) or "always"


def _date(moment: int) -> str:
    return (_EPOCH + timedelta(days=moment // DAY_MS)).isoformat()


def _days(bits: int) -> str:
    """`mon-fri`, `sun`: the one run of days in `bits`, which begins after a day that is not in it."""
    on = [bits >> day & 1 for day in range(7)]
    first = next(day for day in range(7) if on[day] and not on[day - 1])
    last = next(day for day in range(first, first + 7) if not on[(day + 1) % 7]) % 7
    return _DAYS[first] if first == last else f"{_DAYS[first]}-{_DAYS[last]}"


def _time(milliseconds: int) -> str:
    hours, minutes = divmod(milliseconds // 60_000, 60)
    return f"{hours:02}:{minutes:02}"
