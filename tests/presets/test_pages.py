"""The pages of each preset say what its product is, and nothing that it is not."""

import html

import pytest
from tests.gateway.site import run
from tests.presets.shop import Shop
from tests.web.visitors import registered, shown

from tollbridge.config.settings import PRESETS


@pytest.mark.parametrize("preset", PRESETS)
def test_the_home_page_has_the_product_s_own_words(preset: str) -> None:
    async def test() -> None:
        async with Shop(preset) as shop:
            brand = shop.settings.brand
            page = await shop.visitor().get("/")
            text = shown(page)
            assert page.status_code == 200
            for words in (brand.name, brand.tagline, brand.lead, *brand.steps):
                assert words is not None
                assert words in text
            # The code on it is ready to be copied.
            assert brand.example_model in html.unescape(page.text)

    run(test())


def test_modelbridge_offers_its_three_plans_and_lists_its_statuses() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            visitor = shop.visitor()
            pricing = shown(await visitor.get("/pricing"))
            for words in (
                "Requests a minute 20 Tokens a minute 50,000",
                "Requests a minute 60 Tokens a minute 200,000",
                "Requests a minute As agreed Tokens a minute As agreed",
            ):
                assert words in pricing
            assert pricing.index("Free To") < pricing.index("Pro For") < pricing.index("Custom Limits")
            assert "Pay as you go" not in pricing
            errors = shown(await visitor.get("/docs/errors"))
            assert "500 upstream_unavailable the provider had an error" in errors
            assert "502 no_available_provider" in errors
            assert "503 no_available_provider" not in errors
            assert "500 upstream_unavailable the provider had an error" in shown(await visitor.get("/docs/api"))
            document = (await visitor.get("/openapi.json")).json()
            answers = document["paths"]["/v1/chat/completions"]["post"]["responses"]
            assert "`upstream_unavailable`" in answers["500"]["description"]
            assert "`no_available_provider`" in answers["502"]["description"]

    run(test())


def test_model_database_sells_credit_in_packs_and_no_plans() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            pricing = shown(await shop.visitor().get("/pricing"))
            assert "$10 · $50 · $200" in pricing
            assert "Pay as you go" in pricing
            assert "Custom Limits" not in pricing
            quick_start = shown(await shop.visitor().get("/docs"))
            assert "anthropic/claude-opus-4-8" in quick_start
            assert "X-MDB-Charged-USD" in quick_start

    run(test())


def test_nobody_leaves_the_limits_of_modelbridge_behind_for_nothing() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            visitor = await registered(shop, "ada@example.com")
            assert "Pro" in shown(await visitor.get("/dashboard/billing/plan"))
            for plan in ("pro", "custom", "default"):
                assert (await visitor.post("/dashboard/billing/plan", {"plan": plan})).status_code == 400
            plans = await shop.database.fetch("SELECT plan FROM account WHERE email = 'ada@example.com'")
            assert plans == [("free",)]

    run(test())
