"""Prices and times as people read them."""

import pytest

from tollbridge.core import catalog, listing
from tollbridge.core.catalog import ModelRow, PeriodRow, PriceRow, RouteRow, TierRow
from tollbridge.values import Upstream

HERE = Upstream(name="here", provider="here", dialect="openai_chat", base_url="", auth="none", credential="")


def built(row: ModelRow, multiplier: int = 1_000_000) -> catalog.Catalog:
    return catalog.build([row], {"here": HERE}, multiplier)


def test_a_model_is_listed_with_all_that_its_price_depends_on() -> None:
    row = ModelRow(
        id="v/m",
        aliases=("m",),
        context_window=1000,
        output_limit=100,
        best_for="this",
        owned_by="v",
        input_modalities=("text", "image"),
        capabilities=("tools",),
        price=PriceRow(
            input="1",
            output="2",
            cache_read="0.1",
            audio_input="3",
            searches="10",
            tiers=(TierRow(above=500, input="2", output="3"),),
            periods=(PeriodRow(days="mon-fri", hours="16:30-00:30", input="4", output="5"),),
        ),
        routes=(RouteRow(provider="here", model="x"),),
    )
    tier = {"above": 500, "input": "2.2", "output": "3.3", **dict.fromkeys(listing._ALWAYS[2:], "2.2")}
    assert listing.model_fields(built(row, 1_100_000).resolve("m")) == {
        "id": "v/m",
        "object": "model",
        "created": 0,
        "owned_by": "v",
        "type": "chat",
        "context_window": 1000,
        "max_output_tokens": 100,
        "best_for": "this",
        "input_modalities": ("text", "image"),
        "output_modalities": ("text",),
        "capabilities": ("tools",),
        "aliases": ("m",),
        "price": {
            "unit": "USD per 1M tokens",
            "input": "1.1",
            "output": "2.2",
            "cache_read": "0.11",
            "cache_write": "1.1",
            "cache_write_1h": "1.1",
            "audio_input": "3.3",
            "searches_per_thousand": "11",
            "tiers": [{**tier, "searches_per_thousand": "11"}],
            "periods": [
                {
                    "when": "mon-fri, 16:30-00:30 UTC",
                    "input": "4.4",
                    "output": "5.5",
                    **dict.fromkeys(listing._ALWAYS[2:], "4.4"),
                }
            ],
        },
        "canonical_slug": "v/m",
        "name": "v/m",
        "context_length": 1000,
        "architecture": {
            "modality": "text+image->text",
            "input_modalities": ("text", "image"),
            "output_modalities": ("text",),
            "instruct_type": None,
        },
        "pricing": {
            "prompt": "0.0000011",
            "completion": "0.0000022",
            "input_cache_read": "0.00000011",
            "input_cache_write": "0.0000011",
            "input_cache_write_1h": "0.0000011",
            "audio": "0.0000033",
            "web_search": "0.011",
        },
        "supported_parameters": ["max_tokens", "tools"],
        "top_provider": {"context_length": 1000, "max_completion_tokens": 100, "is_moderated": False},
        "links": {"details": "/v1/models/v/m"},
        **dict.fromkeys(("default_parameters", "per_request_limits", "supported_voices")),
    }


def test_openrouters_words_say_what_embeddings_are() -> None:
    row = ModelRow(
        id="e",
        type="embedding",
        context_window=1000,
        price=PriceRow(input="0.02"),
        routes=(RouteRow(provider="here", model="x"),),
    )
    shown = listing.model_fields(built(row).resolve("e"))
    assert shown["architecture"]["modality"] == "text->embeddings"
    assert (shown["pricing"]["prompt"], shown["pricing"]["completion"]) == ("0.00000002", "0")
    assert (shown["supported_parameters"], shown["top_provider"]["max_completion_tokens"]) == ([], None)


@pytest.mark.parametrize(
    ("period", "text"),
    [
        (PeriodRow(input="1", since="2027-01-31"), "from 2027-01-31"),
        (PeriodRow(input="1", since="2027-01-31", until="2028-02-29"), "from 2027-01-31, until 2028-02-29"),
        (PeriodRow(input="1", days="sat-mon"), "sat-mon"),
        (PeriodRow(input="1", days="sun"), "sun"),
        (PeriodRow(input="1", hours="12:00-24:00"), "12:00-24:00 UTC"),
        (PeriodRow(input="1"), "always"),
    ],
)
def test_a_period_reads_as_it_is_written(period: PeriodRow, text: str) -> None:
    assert listing.when_text(catalog.when(period)) == text
