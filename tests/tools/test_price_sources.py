"""What the price lists say, in the words of the catalog: exactly, or not at all."""

from datetime import date, time
from decimal import Decimal
from typing import Any

import pytest
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from tools.price_sources import Facts, GenaiPrices, facts, litellm_price

from tollbridge.core.catalog import PeriodRow, PriceRow, TierRow

LIST = GenaiPrices(date(2026, 11, 21))


def model(prices: ModelPrice | list[ConditionalPrice]) -> ModelInfo:
    return ModelInfo(id="m", match=ClauseEquals("m"), prices=prices)


def dollars(input_: str, **more: Any) -> ModelPrice:
    given = {name: Decimal(value) if isinstance(value, str) else value for name, value in more.items()}
    return ModelPrice(input_mtok=Decimal(input_), **given)


def test_meters_keep_their_prices_and_what_is_the_default_is_left_out() -> None:
    price = dollars(
        "3",
        output_mtok="15",
        cache_write_mtok="3.75",
        cache_write_1h_mtok="6.00",
        input_audio_mtok="3",
        output_image_mtok="30",
        web_searches_kcount="10",
    )
    assert LIST.price(model(price)) == PriceRow(
        input="3", output="15", cache_write="3.75", cache_write_1h="6", image_output="30", searches="10"
    )


@pytest.mark.parametrize(
    "more",
    [
        {"requests_kcount": "5"},
        {"input_image_mtok": "8"},
        {"output_reasoning_mtok": "3"},
        {"cache_read_mtok": "0.1234567"},
    ],
)
def test_a_price_that_the_catalog_cannot_hold_is_none(more: dict[str, str]) -> None:
    assert LIST.price(model(dollars("1", output_mtok="2", **more))) is None


def test_prices_that_are_those_of_their_whole_need_no_meter() -> None:
    price = dollars("1", output_mtok="2", input_image_mtok="1", output_reasoning_mtok="2")
    assert LIST.price(model(price)) == PriceRow(input="1", output="2")


def test_tiers_of_single_meters_become_tiers_of_all() -> None:
    def tiered(base: str, *tiers: tuple[int, str]) -> TieredPrices:
        return TieredPrices(Decimal(base), [Tier(start, Decimal(price)) for start, price in tiers])

    price = ModelPrice(
        input_mtok=tiered("1", (128_000, "2"), (256_000, "3")),
        output_mtok=tiered("4", (256_000, "8")),
        cache_read_mtok=Decimal("0.1"),
    )
    assert LIST.price(model(price)) == PriceRow(
        input="1",
        output="4",
        cache_read="0.1",
        tiers=(
            TierRow(above=128_000, input="2", output="4", cache_read="0.1"),
            TierRow(above=256_000, input="3", output="8", cache_read="0.1"),
        ),
    )


def test_history_is_left_out_and_the_future_and_the_hours_are_periods() -> None:
    prices = [
        ConditionalPrice(prices=dollars("9")),
        ConditionalPrice(TimeOfDateConstraint(time(1), time(2)), prices=dollars("8")),
        ConditionalPrice(StartDateConstraint(date(2026, 9, 10)), prices=dollars("1")),
        ConditionalPrice(TimeOfDateConstraint(time(16, 30), time(0, 30)), prices=dollars("2")),
        ConditionalPrice(StartDateConstraint(date(2027, 1, 1)), prices=dollars("3")),
    ]
    assert LIST.price(model(prices), "mon-fri") == PriceRow(
        input="1",
        periods=(
            PeriodRow(input="2", hours="16:30-00:30", days="mon-fri"),
            PeriodRow(input="3", since="2027-01-01"),
        ),
    )
    assert LIST.price(model(prices[:2])) == PriceRow(input="9", periods=(PeriodRow(input="8", hours="01:00-02:00"),))


def test_noisy_floats_are_rounded_and_noughts_of_caches_mean_nothing() -> None:
    entry = {
        "input_cost_per_token": 2.9999999999999997e-07,
        "output_cost_per_token": 1e-05,
        "cache_read_input_token_cost": 2.5e-09,
        "cache_creation_input_token_cost": 0.0,
        "search_context_cost_per_query": {"search_context_size_low": 0.01, "search_context_size_high": 0.014},
    }
    assert litellm_price(entry) == PriceRow(input="0.3", output="10", cache_read="0.0025", searches="14")


def test_both_ways_of_writing_tiers_are_read() -> None:
    above = {
        "input_cost_per_token": 1e-06,
        "output_cost_per_token": 2e-06,
        "input_cost_per_token_above_200k_tokens": 2e-06,
        "output_cost_per_token_above_200k_tokens": 3e-06,
        "cache_creation_input_token_cost_above_1hr": 4e-06,
        "cache_creation_input_token_cost_above_1hr_above_200k_tokens": 8e-06,
    }
    assert litellm_price(above) == PriceRow(
        input="1",
        output="2",
        cache_write_1h="4",
        tiers=(TierRow(above=200_000, input="2", output="3", cache_write_1h="8"),),
    )
    ranges = [
        {"range": [0, 32000.0], "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06},
        {"range": [32000.0, 128000.0], "input_cost_per_token": 2e-06, "output_cost_per_token": 4e-06},
    ]
    assert litellm_price({"tiered_pricing": ranges}) == PriceRow(
        input="1", output="2", tiers=(TierRow(above=32_000, input="2", output="4"),)
    )


@pytest.mark.parametrize(
    "entry",
    [
        {"output_cost_per_token": 1e-06},
        {"input_cost_per_token": 1e-06, "input_cost_per_request": 0.005},
        {"input_cost_per_token": 1e-06, "input_cost_per_image_token": 2e-06},
    ],
)
def test_an_entry_without_a_price_by_the_token_is_none(entry: dict[str, float]) -> None:
    assert litellm_price(entry) is None


def test_facts_are_put_in_the_order_of_the_catalog() -> None:
    entry = {
        "mode": "chat",
        "max_input_tokens": 1000,
        "max_output_tokens": 100,
        "supports_audio_output": True,
        "supports_vision": True,
        "supports_function_calling": True,
        "supports_reasoning": False,
        "deprecation_date": "2027-01-01",
    }
    assert facts(entry) == Facts(
        context_window=1000,
        output_limit=100,
        input_modalities=("text", "image"),
        output_modalities=("text", "audio"),
        capabilities=("tools", "vision"),
        gone_on="2027-01-01",
    )
