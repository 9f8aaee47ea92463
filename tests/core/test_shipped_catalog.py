"""The shipped catalog: what it promises, that it is whole, and that genai-prices charges what it charges."""

import time
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from typing import Any

import msgspec
import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import data as genai
from genai_prices.types import ModelInfo, Provider
from tools.build_catalog import SOURCES, Source

from tollbridge.core import catalog, pricing
from tollbridge.core.catalog import CAPABILITIES, MODALITIES, TYPES, ModelRow, RouteRow
from tollbridge.services.catalog import shipped_models
from tollbridge.values import Route, Upstream, Usage

DATA = files("tollbridge") / "data"

# The models that the first of the two published contracts lists: type, window, what each is best for.
PROMISED = {
    "deepseek-chat": ("chat", 64_000, "General purpose, coding (V3)"),
    "deepseek-reasoner": ("reasoning", 64_000, "Complex reasoning, math, logic"),
    "deepseek-coder": ("coding", 64_000, "Code generation and debugging (V2.5)"),
    "deepseek-v4-pro": ("chat", 128_000, "Flagship reasoning model, top-tier performance"),
    "deepseek-v4-flash": ("chat", 128_000, "Fast and lightweight, quick responses"),
    "qwen-max": ("chat", 32_768, "Multilingual tasks, long context"),
    "qwen-plus": ("chat", 131_000, "Cost-effective general usage"),
    "qwen3-235b-a22b": ("chat", 128_000, "Flagship Qwen3 model, best overall"),
    "glm-4-plus": ("chat", 128_000, "Advanced reasoning, complex tasks"),
    "glm-4-air": ("chat", 128_000, "Balanced performance and speed"),
    "glm-4-flash": ("chat", 128_000, "Fast and lightweight, cost-effective"),
    "moonshot-v1-8k": ("chat", 8_192, "Quick conversations"),
    "moonshot-v1-32k": ("chat", 32_768, "Medium context length"),
    "moonshot-v1-128k": ("chat", 131_072, "Long documents, deep analysis"),
    "text-embedding-ada-002": ("embedding", 8_192, "Embeddings, 1,536 dimensions"),
}
ROWS = shipped_models()
BY_ID = {row.id: row for row in ROWS}


def shipped_providers() -> dict[str, dict[str, Any]]:
    return tomllib.loads((DATA / "providers.toml").read_text())


def upstream(name: str) -> Upstream:
    return Upstream(name=name, provider=name, dialect="openai_chat", base_url="", auth="none", credential="")


EVERYWHERE = {name: upstream(name) for name in {route.provider for row in ROWS for route in row.routes}}
LISTED = catalog.build(ROWS, EVERYWHERE, 1_000_000)


def test_every_model_is_whole() -> None:
    assert len(BY_ID) == len(ROWS)
    for row in ROWS:
        assert row.source, row.id
        assert row.checked, row.id
        assert row.best_for, row.id
        assert row.owned_by, row.id
        assert row.type in TYPES, row.id
        assert set(row.capabilities) <= set(CAPABILITIES), row.id
        assert {"text"} <= {*row.input_modalities, *row.output_modalities} <= set(MODALITIES), row.id
        assert (row.output_limit or 1) <= row.context_window, row.id
        assert len(LISTED.models[row.id].routes) == len(row.routes) == len({route.provider for route in row.routes})


def test_it_has_hundreds_of_models_of_more_than_fifteen_providers_that_are_known() -> None:
    assert len(ROWS) >= 300
    used = {route.provider for row in ROWS for route in row.routes}
    assert len(used) >= 15
    assert used <= shipped_providers().keys()


def test_promised_models_are_there_as_they_were_promised() -> None:
    found = {id_: (BY_ID[id_].type, BY_ID[id_].context_window, BY_ID[id_].best_for) for id_ in PROMISED}
    assert found == PROMISED
    assert BY_ID["anthropic/claude-opus-4-8"].routes[0] == RouteRow(provider="anthropic", model="claude-opus-4-8")


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("claude-opus-4-8", "anthropic/claude-opus-4-8"),
        ("anthropic/claude-opus-4.8", "anthropic/claude-opus-4-8"),
        ("openai/gpt-4o", "gpt-4o"),
        ("deepseek/deepseek-chat", "deepseek-chat"),
        ("gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("moonshotai/kimi-k2.5", "kimi-k2.5"),
    ],
)
def test_models_are_found_by_openrouters_names_and_by_bare_ones(name: str, id_: str) -> None:
    assert LISTED.resolve(name).id == id_


def test_no_name_is_of_two_models() -> None:
    names = [name for row in ROWS for name in (row.id, *row.aliases)]
    assert len(set(names)) == len(names)


def test_it_is_read_fast() -> None:
    def seconds() -> float:
        started = time.process_time()
        catalog.build(catalog.serve_all_by(shipped_models(), "demo"), {"demo": upstream("demo")}, 1_000_000)
        return time.process_time() - started

    assert min(seconds() for _ in range(3)) < 0.05


# --- the oracle ---------------------------------------------------------------------------------------------------

GENAI = {provider.id: provider for provider in genai.providers}
# Working hours, working days, and the night; after the last date that the catalog knows, and before it.
MOMENTS = [
    datetime(2026, 11, 23, 2, 30, tzinfo=UTC),
    datetime(2026, 11, 23, 12, 0, tzinfo=UTC),
    datetime(2026, 11, 27, 9, 59, 59, tzinfo=UTC),
    datetime(2027, 1, 4, 23, 0, tzinfo=UTC),
]
USAGES = [
    Usage(input=1_000, output=500),
    Usage(input=7, cache_read=99_000, output=3),
    Usage(input=100_000, cache_read=28_000, output=8_001),
    Usage(input=128_001, output=1),
    Usage(input=200_000, output=10),
    Usage(input=150_000, cache_read=50_001, output=10),
    Usage(input=272_001, output=64_000),
    Usage(input=900_000, cache_read=1, output=7),
]


def shared() -> list[tuple[ModelRow, RouteRow, Route, Provider, ModelInfo]]:
    """The routes whose price is said to be of genai-prices."""
    sources: dict[str, Source] = {source.provider: source for source in SOURCES}
    found = []
    for row in ROWS:
        for route, made in zip(row.routes, LISTED.models[row.id].routes, strict=True):
            source = route.source or row.source
            provider = GENAI.get(sources[route.provider].genai)
            if not source.startswith("genai-prices") or provider is None:
                continue
            model = next(each for each in provider.models if each.is_match(route.model))
            found.append((row, route, made, provider, model))
    return found


def test_genai_prices_charges_the_same_for_every_shared_model() -> None:
    compared = 0
    for row, route, made, provider, model in shared():
        for moment in MOMENTS:
            terms = pricing.at(made, int(moment.timestamp()) * 1000)
            for usage in USAGES:
                theirs = model.calc_price(_their_usage(usage, model, moment), provider, genai_request_timestamp=moment)
                exact = theirs.total_price * 10**9
                ours = pricing.charge(usage, terms)
                assert 0 <= ours - exact < 1, (row.id, route.provider, moment, usage, ours, exact)
                compared += 1
    assert compared > 10_000


def test_seldom_used_meters_cost_what_genai_prices_says() -> None:
    compared = 0
    for row, route, made, provider, model in shared():
        terms = pricing.at(made, int(MOMENTS[1].timestamp()) * 1000)
        written = model.get_prices(MOMENTS[1])
        usage = Usage(
            input=1_000,
            output=500,
            cache_write=300 if written.cache_write_mtok is not None else 0,
            cache_write_1h=200 if written.cache_write_1h_mtok is not None else 0,
            audio_input=50 if written.input_audio_mtok is not None else 0,
            audio_output=40 if written.output_audio_mtok is not None else 0,
            searches=3 if written.web_searches_kcount is not None else 0,
        )
        if usage == Usage(input=1_000, output=500):
            continue
        theirs = model.calc_price(
            TheirUsage(
                input_tokens=usage.prompt,
                cache_write_tokens=usage.cache_write + usage.cache_write_1h,
                cache_write_1h_tokens=usage.cache_write_1h,
                input_audio_tokens=usage.audio_input,
                output_tokens=usage.completion,
                output_audio_tokens=usage.audio_output,
                web_searches=usage.searches,
            ),
            provider,
            genai_request_timestamp=MOMENTS[1],
        )
        exact: Decimal = theirs.total_price * 10**9
        if route.provider == "openrouter" and row.id.startswith("google/gemini-3"):
            exact += usage.cache_write * terms.price.cache_read / Decimal(1_000)  # read as it is written
        assert 0 <= pricing.charge(usage, terms) - exact < 1, (row.id, route.provider, usage)
        compared += 1
    assert compared > 100


def _their_usage(usage: Usage, model: ModelInfo, moment: datetime) -> TheirUsage:
    """Where they have no price for what is read from a cache they need it as plain input."""
    cached = usage.cache_read if model.get_prices(moment).cache_read_mtok is not None else 0
    return TheirUsage(input_tokens=usage.prompt, cache_read_tokens=cached, output_tokens=usage.output)


def test_weekends_are_off_peak_at_deepseek() -> None:
    route = LISTED.models["deepseek-v4-pro"].routes[0]
    saturday = int(datetime(2026, 11, 28, 2, 30, tzinfo=UTC).timestamp()) * 1000
    monday = saturday + 2 * 86_400_000
    assert pricing.at(route, monday).price.output == 2 * pricing.at(route, saturday).price.output


def test_a_version_is_exactly_the_terms_of_a_moment() -> None:
    versioned = catalog.with_versions(LISTED, range(1, sum(1 for _ in LISTED.routes()) + 1))
    ids = [route.version for route in versioned.routes()]
    assert ids == list(range(1, len(ids) + 1))
    plain = [msgspec.structs.replace(route, version=0, variants=()) for route in versioned.routes()]
    assert plain == [msgspec.structs.replace(route, variants=()) for route in LISTED.routes()]
