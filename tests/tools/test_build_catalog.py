"""Which names are of one model, and what becomes of offers."""

from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from genai_prices.types import ClauseStartsWith, ModelInfo, ModelPrice, Provider
from tools.build_catalog import Lists, build, key_of, maker_of
from tools.price_sources import GenaiPrices, LiteLLM

from tollbridge.core.catalog import ModelRow, PriceRow, RouteRow, TierRow

DAY = date(2026, 11, 21)


@pytest.mark.parametrize(
    "names",
    [
        ("claude-opus-4-8", "anthropic/claude-opus-4.8", "global.anthropic.claude-opus-4-8", "claude-opus-4-8@default"),
        (
            "llama-3.3-70b-versatile",
            "meta-llama/Llama-3.3-70B-Instruct-Turbo",
            "accounts/fireworks/models/llama-v3p3-70b-instruct",
            "Meta-Llama-3.3-70B-Instruct",
        ),
        ("gpt-oss-120b", "openai/gpt-oss-120b", "openai.gpt-oss-120b-1:0", "gpt-oss-120b"),
        ("GLM-4.6", "zai-org/GLM-4.6", "glm-4.6"),
        ("gemini-2.5-pro", "google/gemini-2.5-pro"),
    ],
)
def test_names_of_one_model_have_one_key(names: tuple[str, ...]) -> None:
    plain = {key_of(name) for name in names if not name.endswith("-1:0")}
    assert len(plain) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gpt-4", "gpt-4-turbo"),
        ("gpt-4o", "gpt-4o-2024-05-13"),
        ("deepseek-chat", "deepseek-reasoner"),
        ("qwen3-235b-a22b-2507", "qwen3-235b-a22b-thinking-2507"),
        ("grok-4-fast-reasoning", "grok-4-fast-non-reasoning"),
        ("claude-opus-4-5", "claude-opus-4-5-20251101"),
    ],
)
def test_names_of_two_models_have_two_keys(one: str, other: str) -> None:
    assert key_of(one) != key_of(other)


def test_makers_are_told_by_names() -> None:
    assert maker_of("gpt-oss-20b") == ("openai", "openai")
    assert maker_of("gemma-4-31b") == ("google", "gemini")
    assert maker_of("llama-3-3-70b") == ("meta-llama", "")
    assert maker_of("something-else") is None


def entry(provider: str, dollars: float = 1.0, **more: Any) -> dict[str, Any]:
    return {
        "litellm_provider": provider,
        "mode": "chat",
        "max_input_tokens": 1000,
        "input_cost_per_token": dollars * 1e-06,
        "output_cost_per_token": dollars * 2e-06,
        **more,
    }


def built(entries: dict[str, dict[str, Any]], *by_hand: ModelRow) -> dict[str, ModelRow]:
    rows = build(Lists(GenaiPrices(DAY, ()), LiteLLM(entries), DAY), list(by_hand), DAY.isoformat())
    return {row.id: row for row in rows}


def test_the_maker_comes_first_then_clouds_then_resellers_by_price() -> None:
    rows = built(
        {
            "fireworks_ai/accounts/fireworks/models/claude-zz": entry("fireworks_ai", 0.5),
            "deepinfra/anthropic/claude-zz": entry("deepinfra", 0.4),
            "global.anthropic.claude-zz": entry("bedrock_converse"),
            "claude-zz": entry("anthropic", 2.0, supports_vision=True, supports_function_calling=True),
        }
    )
    row = rows["anthropic/claude-zz"]
    assert [route.provider for route in row.routes] == ["anthropic", "bedrock-anthropic", "deepinfra", "fireworks"]
    assert (row.price, row.routes[0].price) == (PriceRow(input="2", output="4"), None)
    assert row.routes[2].price == PriceRow(input="0.4", output="0.8")
    assert (row.aliases, row.source, row.checked) == (("claude-zz",), "LiteLLM", "2026-11-21")
    assert (row.input_modalities, row.capabilities) == (("text", "image"), ("tools", "vision"))
    assert row.best_for == "Conversation with tools; reads pictures"


def test_a_model_of_one_reseller_alone_is_left_out_and_so_is_what_is_gone_or_free() -> None:
    assert not built({"deepinfra/meta-llama/llama-zz": entry("deepinfra")})
    assert not built({"claude-zz": entry("anthropic", deprecation_date="2026-11-21")})
    assert not built({"claude-zz": entry("anthropic", 0.0)})
    assert not built({"claude-zz": entry("anthropic", max_input_tokens=None)})
    assert built({"claude-zz": entry("anthropic", deprecation_date="2026-11-22")})


def test_a_route_at_the_makers_price_has_its_meters_and_a_dearer_one_that_lacks_them_is_none() -> None:
    sound = {"input_cost_per_audio_token": 9e-06, "cache_creation_input_token_cost": 3e-06}
    rows = built(
        {
            "gpt-zz": entry("openai", **sound),
            "azure/gpt-zz": entry("azure"),
            "deepinfra/openai/gpt-zz": entry("deepinfra", 1.5),
        }
    )
    routes = rows["openai/gpt-zz"].routes
    assert [(route.provider, route.price) for route in routes] == [("openai", None), ("azure", None)]


def test_what_openrouter_writes_to_geminis_cache_costs_reading_it_too() -> None:
    read, dear = {"cache_read_input_token_cost": 2e-07}, {"cache_creation_input_token_cost": 1.25e-06}
    written = {"cache_creation_input_token_cost": 3.75e-07}
    rows = built(
        {
            "gemini/gemini-zz": entry("gemini", **read),
            "openrouter/google/gemini-zz": entry("openrouter", **read, **written),
            "claude-zz": entry("anthropic", **read),
            "openrouter/anthropic/claude-zz": entry("openrouter", **read, **dear),
        }
    )
    assert [route.price and route.price.cache_write for row in rows.values() for route in row.routes] == [
        *(None, "1.25"),
        *(None, "0.575"),
    ]


def test_what_is_written_by_hand_wins_and_the_lists_add_to_it() -> None:
    hand = ModelRow(
        id="llama-zz",
        best_for="by hand",
        owned_by="groq",
        aliases=("meta-llama/llama-zz-instruct",),
        price=PriceRow(input="7", output="8", tiers=(TierRow(above=5, input="9"),)),
        routes=(RouteRow(provider="groq", model="llama-zz"),),
        source="by hand: somewhere",
    )
    rows = built({"deepinfra/meta-llama/Llama-zz-Instruct": entry("deepinfra", supports_reasoning=True)}, hand)
    row = rows["llama-zz"]
    assert (row.price, row.best_for, row.source) == (hand.price, "by hand", "by hand: somewhere")
    assert [route.provider for route in row.routes] == ["groq", "deepinfra"]
    assert row.capabilities == ("reasoning",)
    assert row.aliases == ("meta-llama/llama-zz-instruct", "llama-zz-instruct")


def test_a_row_by_hand_without_a_price_anywhere_is_an_error() -> None:
    hand = ModelRow(id="llama-zz", routes=(RouteRow(provider="groq", model="llama-zz"),))
    with pytest.raises(SystemExit, match="write one by hand"):
        built({}, hand)


def test_a_list_that_names_a_model_beats_one_that_takes_it_for_one_of_a_family() -> None:
    def listed(match: Any) -> dict[str, ModelRow]:
        theirs = ModelInfo(
            id="claude-zz", match=match, prices=ModelPrice(input_mtok=Decimal(3), output_mtok=Decimal(9))
        )
        genai = GenaiPrices(DAY, [Provider("anthropic", "Anthropic", "", models=[theirs])])
        lists = Lists(genai, LiteLLM({"claude-zz": entry("anthropic"), "claude-zz-2": entry("anthropic")}), DAY)
        return {row.id: row for row in build(lists, [], DAY.isoformat())}

    rows = listed(ClauseStartsWith("claude-zz"))
    named, family = rows["anthropic/claude-zz"], rows["anthropic/claude-zz-2"]
    assert (named.price, named.routes[0].doubt) == (PriceRow(input="3", output="9"), "LiteLLM: 1 in, 2 out")
    assert family.price == PriceRow(input="1", output="2")
    assert family.routes[0].doubt.endswith(": 3 in, 9 out")
