import tomllib
from importlib.resources import files
from typing import Any

import msgspec
import pytest

from tollbridge.core import catalog, pricing
from tollbridge.core.catalog import ModelRow, PeriodRow, PriceRow, RouteRow, TierRow
from tollbridge.errors import ConfigError, NotFound
from tollbridge.services.catalog import shipped_models
from tollbridge.values import DAY_MS, Upstream, When

DATA = files("tollbridge") / "data"


def upstream(name: str) -> Upstream:
    return Upstream(name=name, provider=name, dialect="openai_chat", base_url="", auth="none", credential="")


def shipped_providers() -> dict[str, dict[str, Any]]:
    return tomllib.loads((DATA / "providers.toml").read_text())


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
        "zai",
        "minimax",
        "cerebras",
        "deepinfra",
        "novita",
        "nebius",
        "sambanova",
        "hyperbolic",
        "cohere",
        "openrouter",
    ]
    assert all(rows[name]["env"] and rows[name]["base_url"].startswith("https://") for name in hosted)
    assert all(rows[name]["base_url"].startswith("http://127.0.0.1") for name in ("ollama", "vllm", "llamacpp"))
    assert all(row["source"] for row in rows.values())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("deepsek-chat", "deepseek-chat"),
        ("DeepSeek-Chat", "deepseek-chat"),
        ("someone/gpt-4o", "openai/GPT-4o"),
        ("gpt4o", "openai/GPT-4o"),
        ("nothing-like-it", None),
        ("", None),
        ("x" * 256, None),
    ],
)
def test_a_name_that_is_nearly_right_is_told_the_right_one(written: str, meant: str | None) -> None:
    known = ["deepseek-chat", "openai/GPT-4o"]
    assert catalog.nearest(written, known) == meant


def test_model_is_listed_when_one_of_its_routes_is_configured() -> None:
    row = ModelRow(
        id="m",
        price=PriceRow(input="0.50", output="1.50"),
        routes=(RouteRow(provider="here", model="a"), RouteRow(provider="there", model="b")),
    )
    listed = catalog.build([row], {"there": upstream("there")}, 1_000_000)
    assert [route.upstream_model for route in listed.resolve("m").routes] == ["b"]
    with pytest.raises(NotFound, match=r"do not have access to it\. GET /v1/models lists those that you can call\.$"):
        catalog.build([row], {}, 1_000_000).resolve("m")


def test_model_without_a_price_is_not_served() -> None:
    row = ModelRow(id="m", routes=(RouteRow(provider="here", model="a"),))
    assert not catalog.build([row], {"here": upstream("here")}, 1_000_000).models


def test_prices_are_exact_integers_and_meters_default_to_input() -> None:
    price = catalog.price(PriceRow(input="0.27", output="1.10", cache_write="0.3"))
    assert (price.input, price.output, price.cache_read) == (270_000, 1_100_000, 270_000)
    assert (price.cache_write, price.cache_write_1h) == (300_000, 300_000)


def test_a_tier_has_its_own_prices_but_for_searches() -> None:
    tier = TierRow(above=200_000, input="6", output="22.50", cache_read="0.60")
    price = catalog.price(PriceRow(input="3", output="15", searches="10", tiers=(tier,)))
    assert price.searches == 10**10  # 0.01 USD a call
    (step,) = price.tiers
    assert (step.above, step.price.input, step.price.cache_read, step.price.cache_write) == (
        200_000,
        *(6_000_000, 600_000, 6_000_000),
    )
    assert step.price.searches == price.searches
    for wrong in ((tier, tier), (msgspec.structs.replace(tier, above=0), tier)):
        with pytest.raises(ValueError, match="another number"):
            catalog.price(PriceRow(input="3", tiers=wrong))


def test_periods_become_variants_with_versions_of_their_own() -> None:
    peak = PeriodRow(days="mon-fri", hours="01:00-04:00", input="2", output="4")
    later = PeriodRow(since="2027-01-01", until="2027-02-01", input="3", output="6")
    row = ModelRow(
        id="m",
        price=PriceRow(input="1", output="2", periods=(peak, later)),
        routes=(RouteRow(provider="a", model="x"), RouteRow(provider="b", model="y")),
    )
    built = catalog.build([row], {"a": upstream("a"), "b": upstream("b")}, 1_000_000)
    first, second = catalog.with_versions(built, range(1, 7)).resolve("m").routes
    assert [first.version, *(each.route.version for each in first.variants)] == [1, 2, 3]
    assert [second.version, *(each.route.version for each in second.variants)] == [4, 5, 6]
    assert [each.route.price.input for each in first.variants] == [3_000_000, 2_000_000]
    assert all(each.route.cost is each.route.price for each in first.variants)
    (january,), (mornings,) = (each.when for each in first.variants)
    assert january == When(since=1_798_761_600_000, until=1_798_761_600_000 + 31 * DAY_MS)
    assert mornings == When(days=0b11111, start=3_600_000, end=4 * 3_600_000)


def test_price_and_cost_may_each_have_their_times() -> None:
    def priced(base: str, changed: str, **when: str) -> PriceRow:
        return PriceRow(input=base, periods=(msgspec.convert({"input": changed, **when}, PeriodRow),))

    row = ModelRow(
        id="m",
        price=priced("5", "7", since="2026-12-01"),
        cost=priced("3", "4", hours="12:00-24:00"),
        routes=(RouteRow(provider="a", model="x"),),
    )
    (route,) = catalog.build([row], {"a": upstream("a")}, 1_000_000).resolve("m").routes
    december = 1_796_083_200_000

    def terms(moment: int) -> tuple[int, int]:
        found = pricing.at(route, moment)
        return found.price.input // 1_000_000, found.cost.input // 1_000_000

    half = DAY_MS // 2
    assert [terms(december + offset) for offset in (-DAY_MS, -half, 0, half)] == [(5, 3), (5, 4), (7, 3), (7, 4)]


@pytest.mark.parametrize(
    ("period", "complaint"),
    [
        ({"since": "1.2.2027"}, "a date is written"),
        ({"since": "2027-02-01", "until": "2027-01-01"}, "ends before it begins"),
        ({"since": "2027-02-01", "until": "2027-02-01"}, "ends before it begins"),
        ({"days": "monday"}, "days are written"),
        ({"days": "mon-"}, "days are written"),
        ({"days": "sat-mon"}, None),
        ({"hours": "1:00-2:00"}, "hours are written"),
        ({"hours": "01:00-01:00"}, "hours are written"),
        ({"hours": "24:00-01:00"}, "hours are written"),
    ],
)
def test_a_bad_period_names_its_model(period: dict[str, str], complaint: str | None) -> None:
    price = PriceRow(input="1", periods=(msgspec.convert({"input": "1", **period}, PeriodRow),))
    row = ModelRow(id="m", price=price, routes=(RouteRow(provider="here", model="a"),))
    if complaint is None:
        assert catalog.build([row], {"here": upstream("here")}, 1_000_000).models
        return
    with pytest.raises(ConfigError, match=f"model m: .*{complaint}"):
        catalog.build([row], {"here": upstream("here")}, 1_000_000)


def test_an_alias_finds_its_model_and_an_id_beats_it() -> None:
    def row(id_: str, *aliases: str) -> ModelRow:
        return ModelRow(id=id_, aliases=aliases, price=PriceRow(input="1"), routes=(RouteRow(provider="a", model="x"),))

    listed = catalog.build([row("v/m", "m", "n"), row("n", "v/m"), row("o", "m")], {"a": upstream("a")}, 1_000_000)
    assert [listed.resolve(name).id for name in ("v/m", "n", "m")] == ["v/m", "n", "o"]
    # A model has the names by which it is found, and no other: patterns of keys and plans go by them.
    assert [listed.models[name].aliases for name in ("v/m", "n", "o")] == [(), (), ("m",)]


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
