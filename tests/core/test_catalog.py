import tomllib
from importlib.resources import files
from typing import Any

import msgspec
import pytest

from tollbridge.core import catalog
from tollbridge.core.catalog import ModelRow, PriceRow, RouteRow
from tollbridge.errors import ConfigError, NotFound
from tollbridge.values import Upstream

DATA = files("tollbridge") / "data"

# The chat models that the first of the two published contracts lists, with their windows.
PROMISED = {
    "deepseek-chat": 64_000,
    "deepseek-reasoner": 64_000,
    "deepseek-coder": 64_000,
    "deepseek-v4-pro": 128_000,
    "deepseek-v4-flash": 128_000,
    "qwen-max": 32_768,
    "qwen-plus": 131_072,
    "qwen3-235b-a22b": 128_000,
    "glm-4-plus": 128_000,
    "glm-4-air": 128_000,
    "glm-4-flash": 128_000,
    "moonshot-v1-8k": 8_192,
    "moonshot-v1-32k": 32_768,
    "moonshot-v1-128k": 131_072,
}


class Shipped(msgspec.Struct, forbid_unknown_fields=True):
    models: tuple[ModelRow, ...]


def upstream(name: str) -> Upstream:
    return Upstream(name=name, provider=name, dialect="openai_chat", base_url="", auth="none", credential="")


def shipped_models() -> tuple[ModelRow, ...]:
    return msgspec.json.decode((DATA / "catalog.json").read_bytes(), type=Shipped).models


def shipped_providers() -> dict[str, dict[str, Any]]:
    return tomllib.loads((DATA / "providers.toml").read_text())


def test_every_shipped_model_is_whole() -> None:
    models = shipped_models()
    assert len({row.id for row in models}) == len(models)
    providers = shipped_providers()
    for row in models:
        assert row.source
        assert row.checked
        assert row.best_for
        assert row.routes
        assert all(route.provider in providers for route in row.routes)


def test_promised_models_are_shipped_with_their_windows() -> None:
    shipped = {row.id: row for row in shipped_models()}
    assert {id_: shipped[id_].context_window for id_ in PROMISED} == PROMISED
    assert "anthropic/claude-opus-4-8" in shipped
    assert shipped["text-embedding-ada-002"].type == "embedding"


def test_promised_providers_are_shipped_with_their_variables() -> None:
    rows = shipped_providers()
    hosted = [
        "deepseek",
        "qwen",
        "zhipu",
        "moonshot",
        "openai",
        "mistral",
        "groq",
        "xai",
        "together",
        "fireworks",
        "openrouter",
    ]
    assert all(rows[name]["env"] and rows[name]["base_url"].startswith("https://") for name in hosted)
    assert all(rows[name]["base_url"].startswith("http://127.0.0.1") for name in ("ollama", "vllm", "llamacpp"))
    assert all(row["source"] for row in rows.values())


def test_model_is_listed_when_one_of_its_routes_is_configured() -> None:
    row = ModelRow(
        id="m",
        price=PriceRow(input="0.50", output="1.50"),
        routes=(RouteRow(provider="here", model="a"), RouteRow(provider="there", model="b")),
    )
    listed = catalog.build([row], {"there": upstream("there")}, 1_000_000)
    assert [route.upstream_model for route in listed.resolve("m").routes] == ["b"]
    with pytest.raises(NotFound, match="does not exist"):
        catalog.build([row], {}, 1_000_000).resolve("m")


def test_model_without_a_price_is_not_served() -> None:
    row = ModelRow(id="m", routes=(RouteRow(provider="here", model="a"),))
    assert not catalog.build([row], {"here": upstream("here")}, 1_000_000).models


def test_prices_are_exact_integers_and_meters_default_to_input() -> None:
    price = catalog.price(PriceRow(input="0.27", output="1.10", cache_write="0.3"))
    assert (price.input, price.output, price.cache_read) == (270_000, 1_100_000, 270_000)
    assert (price.cache_write, price.cache_write_1h) == (300_000, 300_000)


def test_bad_price_names_its_model() -> None:
    row = ModelRow(id="m", price=PriceRow(input="1e5"), routes=(RouteRow(provider="here", model="a"),))
    with pytest.raises(ConfigError, match=r"model m: .*plain decimal"):
        catalog.build([row], {"here": upstream("here")}, 1_000_000)


def test_operators_row_replaces_the_shipped_one() -> None:
    shipped, own = ModelRow(id="m", best_for="a"), ModelRow(id="m", best_for="b")
    assert catalog.overlay([shipped], [own]) == [own]


def test_demo_serves_every_model_at_its_price() -> None:
    rows = catalog.serve_all_by(shipped_models(), "demo")
    listed = catalog.build(rows, {"demo": upstream("demo")}, 1_000_000)
    assert len(listed.models) == len(shipped_models())


def test_versions_go_to_their_routes() -> None:
    row = ModelRow(
        id="m",
        price=PriceRow(input="1"),
        routes=(RouteRow(provider="a", model="x"), RouteRow(provider="b", model="y")),
    )
    built = catalog.build([row], {"a": upstream("a"), "b": upstream("b")}, 1_000_000)
    versioned = catalog.with_versions(built, [7, 9])
    assert [route.version for route in versioned.resolve("m").routes] == [7, 9]
