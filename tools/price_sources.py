"""What the two price lists say about one model of one provider, in the catalog's terms.

genai-prices (a package for development) and LiteLLM's `model_prices_and_context_window.json` are both MIT. A price that
the catalog cannot hold exactly (per request, per page, per second, a picture's own price) makes the model unknown here:
what cannot be charged to the digit is not sold.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any

import msgspec
from genai_prices import data as genai
from genai_prices.types import (
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TimeOfDateConstraint,
)

from tollbridge.core.catalog import PeriodRow, PriceRow

_MICRO = Decimal("0.000001")
_GENAI_METERS = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "audio_input",
    "output_audio_mtok": "audio_output",
    "output_image_mtok": "image_output",
    "web_searches_kcount": "searches",
}
# Prices that need no meter of their own as long as they equal another one's; and prices of what is never charged here.
_GENAI_SAME = {
    "input_image_mtok": "input_mtok",
    "input_video_mtok": "input_mtok",
    "output_reasoning_mtok": "output_mtok",
    "output_citation_mtok": "output_mtok",
    "cache_image_read_mtok": "cache_read_mtok",
}
_GENAI_APART = {"storage_searches_kcount", "cache_audio_read_mtok"}

_LITELLM_METERS = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h",
    "input_cost_per_audio_token": "audio_input",
    "output_cost_per_audio_token": "audio_output",
    "output_cost_per_image_token": "image_output",
}
_LITELLM_SAME = {
    "input_cost_per_image_token": "input_cost_per_token",
    "input_cost_per_video_token": "input_cost_per_token",
    "output_cost_per_reasoning_token": "output_cost_per_token",
}
_LITELLM_UNKNOWN = (
    "input_cost_per_request",
    "input_cost_per_query",
    "input_cost_per_character",
    "input_cost_per_second",
)
_LITELLM_ABOVE = re.compile(r"_above_(\d+)k_tokens$")

_CAPABILITIES = {
    "supports_function_calling": "tools",
    "supports_tool_choice": "tool_choice",
    "supports_parallel_function_calling": "parallel_tools",
    "supports_response_schema": "structured_output",
    "supports_reasoning": "reasoning",
    "supports_vision": "vision",
    "supports_pdf_input": "documents",
    "supports_prompt_caching": "prompt_caching",
    "supports_web_search": "web_search",
    "supports_computer_use": "computer_use",
}
_MODALITIES = ("text", "image", "audio", "video", "file")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a model can do, as far as a list says."""

    mode: str = "chat"
    context_window: int | None = None
    output_limit: int | None = None
    input_modalities: tuple[str, ...] = ("text",)
    output_modalities: tuple[str, ...] = ("text",)
    capabilities: tuple[str, ...] = ()
    gone_on: str = ""


# --- genai-prices -------------------------------------------------------------------------------------------------


class GenaiPrices:
    """The models of genai-prices: those of the installed package."""

    def __init__(self, day: date, providers: Iterable[Provider] = genai.providers) -> None:
        self._day = day
        self._models = {provider.id: provider.models for provider in providers}

    def names(self, provider: str) -> Iterator[str]:
        for model in self._models.get(provider, ()):
            if not model.deprecated:
                yield model.id

    def find(self, provider: str, name: str) -> ModelInfo | None:
        """The model that the list means by a provider's name."""
        return next((model for model in self._models.get(provider, ()) if model.is_match(name)), None)

    def price(self, model: ModelInfo, days: str = "") -> PriceRow | None:
        """What it costs from the day on, hourly prices on `days` only; None: not something the catalog can hold."""
        try:
            return self._price(model, days)
        except ValueError:
            return None

    def _price(self, model: ModelInfo, days: str) -> PriceRow:
        if isinstance(model.prices, ModelPrice):
            return _genai_row(model.prices)
        # The last price that applies counts: anything before one that applies from now on is history.
        prices = [(0, each) for each in model.prices[:1]] + list(enumerate(model.prices))
        start, base = [(place, each) for place, each in prices if place == 0 or self._applies_always(each)][-1]
        periods = tuple(_period(each, days) for each in model.prices[start + 1 :])
        return msgspec.structs.replace(_genai_row(base.prices), periods=periods)

    def _applies_always(self, price: ConditionalPrice) -> bool:
        when = price.constraint
        return when is None or (isinstance(when, StartDateConstraint) and when.start_date <= self._day)


def _period(price: ConditionalPrice, days: str) -> PeriodRow:
    row = msgspec.to_builtins(_genai_row(price.prices))
    row.pop("periods", None)
    match price.constraint:
        case StartDateConstraint(start_date=start):
            row["since"] = start.isoformat()
        case TimeOfDateConstraint(start_time=start_time, end_time=end_time):
            row["hours"], row["days"] = f"{start_time:%H:%M}-{end_time:%H:%M}", days
        case _:
            raise ValueError("a price of no time")
    return msgspec.convert(row, PeriodRow)


def _genai_row(price: ModelPrice) -> PriceRow:
    values = {key: value for key, value in vars(price).items() if value is not None}
    for key, twin in _GENAI_SAME.items():
        if key in values and values.pop(key) != values.get(twin):
            raise ValueError(f"a price of its own for {key}")
    unknown = values.keys() - _GENAI_METERS.keys() - _GENAI_APART
    if unknown or "input_mtok" not in values:
        raise ValueError(f"prices that have no meter: {unknown}")
    meters = {_GENAI_METERS[key]: value for key, value in values.items() if key in _GENAI_METERS}
    starts = sorted({tier.start for value in meters.values() if hasattr(value, "tiers") for tier in value.tiers})

    def at(start: int) -> dict[str, str]:
        return {meter: _exact(_genai_value(value, start)) for meter, value in meters.items()}

    tiers = [{"above": start, **at(start)} for start in starts]
    return _row(at(0), tiers)


def _genai_value(value: Any, above: int) -> Decimal:
    """The price of a request longer than `above`."""
    if isinstance(value, Decimal):
        return value
    reached: Decimal = value.base
    for tier in value.tiers:
        if above >= tier.start:
            reached = tier.price
    return reached


# --- LiteLLM ------------------------------------------------------------------------------------------------------


class LiteLLM:
    """The entries of LiteLLM's price file."""

    def __init__(self, document: Mapping[str, dict[str, Any]]) -> None:
        self._entries = document

    def names(self, providers: Iterable[str], prefix: str) -> Iterator[str]:
        wanted = set(providers)
        for name, entry in self._entries.items():
            if entry.get("litellm_provider") in wanted and name.startswith(prefix):
                yield name.removeprefix(prefix)

    def get(self, name: str) -> dict[str, Any] | None:
        return self._entries.get(name)


def litellm_price(entry: Mapping[str, Any]) -> PriceRow | None:
    """None: it has no price that the catalog can hold."""
    if any(entry.get(key) for key in _LITELLM_UNKNOWN):
        return None
    if any(key in entry and entry[key] != entry.get(twin) for key, twin in _LITELLM_SAME.items()):
        return None
    ranges = entry.get("tiered_pricing")
    first = {**entry, **ranges[0]} if ranges else entry
    if first.get("input_cost_per_token") is None:
        return None
    base = _litellm_meters(first, "")
    queries = (entry.get("search_context_cost_per_query") or {}).values()
    if queries and entry.get("web_search_billing_unit") in (None, "query"):
        base["searches"] = _rounded(max(queries), 1_000)
    tiers = [{"above": int(each["range"][0]), **_litellm_meters({**entry, **each}, "")} for each in (ranges or [])[1:]]
    steps = sorted({int(found[1]) for key in entry if (found := _LITELLM_ABOVE.search(key))})
    tiers += [
        {"above": step * 1000, **_litellm_meters(entry, f"_above_{step}k_tokens")}
        for step in steps
        if f"input_cost_per_token_above_{step}k_tokens" in entry
    ]
    return _row(base, tiers)


def _litellm_meters(entry: Mapping[str, Any], suffix: str) -> dict[str, str]:
    meters = {}
    for key, meter in _LITELLM_METERS.items():
        value = entry.get(key + suffix, entry.get(key))
        # A zero is written there for what a provider does not bill separately, as if it were free.
        if value is not None and (value or meter in ("input", "output")):
            meters[meter] = _rounded(value, 1_000_000)
    return meters


def facts(entry: Mapping[str, Any]) -> Facts:
    """What LiteLLM's entry says that the model can do."""
    capabilities = tuple(name for key, name in _CAPABILITIES.items() if entry.get(key) is True)
    reads = set(entry.get("supported_modalities") or ["text"])
    reads |= {"image"} if entry.get("supports_vision") else set()
    reads |= {"audio"} if entry.get("supports_audio_input") else set()
    reads |= {"video"} if entry.get("supports_video_input") else set()
    reads |= {"file"} if entry.get("supports_pdf_input") else set()
    writes = set(entry.get("supported_output_modalities") or ["text"])
    writes |= {"audio"} if entry.get("supports_audio_output") else set()
    return Facts(
        mode=entry.get("mode") or "",
        context_window=_whole(entry.get("max_input_tokens") or entry.get("max_tokens")),
        output_limit=_whole(entry.get("max_output_tokens")),
        input_modalities=tuple(each for each in _MODALITIES if each in reads),
        output_modalities=tuple(each for each in _MODALITIES if each in writes) or ("text",),
        capabilities=capabilities,
        gone_on=entry.get("deprecation_date") or "",
    )


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and value > 0 else None


# --- both ---------------------------------------------------------------------------------------------------------


def _row(base: dict[str, str], tiers: list[dict[str, Any]]) -> PriceRow:
    """The row without defaults."""
    changed = [tier for tier in tiers if any(tier[meter] != base.get(meter) for meter in tier if meter != "above")]
    return msgspec.convert(
        {**_short(base), "tiers": [{"above": tier["above"], **_short(tier, base)} for tier in changed]}, PriceRow
    )


def _short(meters: dict[str, Any], base: dict[str, Any] | None = None) -> dict[str, Any]:
    kept = {meter: value for meter, value in meters.items() if meter != "above"}
    for meter, default in (("cache_write_1h", "cache_write"), ("cache_write", "input"), ("cache_read", "input")):
        if meter in kept and kept[meter] == kept.get(default, kept["input"]):
            del kept[meter]
    for meter, default in (("audio_input", "input"), ("audio_output", "output"), ("image_output", "output")):
        if meter in kept and kept[meter] == kept.get(default):
            del kept[meter]
    if base is not None and kept.get("searches") == base.get("searches"):
        kept.pop("searches", None)
    if kept.get("searches") == "0":
        del kept["searches"]
    return kept


def _exact(value: Decimal) -> str:
    if value != value.quantize(_MICRO):
        raise ValueError(f"more than six decimal places: {value}")
    return _text(value)


def _rounded(value: float, times: int) -> str:
    """Floats there are noisy: 2.9999999999999997e-07."""
    return _text((Decimal(repr(value)) * times).quantize(_MICRO, ROUND_HALF_EVEN))


def _text(value: Decimal) -> str:
    text = f"{value:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text or "0"
