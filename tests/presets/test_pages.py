"""The pages of each preset say what its product is, and nothing that it is not."""

import html
import re

import pytest
from tests.gateway.site import run
from tests.presets.shop import Customer, Shop, hello
from tests.web.visitors import registered, shown

from tollbridge.config.table import PRESETS


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
                "Requests per minute 20 Tokens per minute 50,000",
                "Requests per minute 60 Tokens per minute 200,000",
                "Requests per minute As agreed Tokens per minute As agreed",
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


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("modelbridge", "the answer is 400 , and param names the field."),
        ("model-database", "is left out; X-MDB-Dropped-Fields then names it."),
    ],
)
def test_the_guide_says_what_becomes_of_a_field_that_a_provider_cannot_take(preset: str, words: str) -> None:
    async def test() -> None:
        async with Shop(preset) as shop:
            assert words in shown(await shop.visitor().get("/docs/models-and-routing"))

    run(test())


def test_model_database_sells_credit_in_packs_and_no_plans() -> None:
    async def test() -> None:
        async with Shop("model-database") as shop:
            pricing = shown(await shop.visitor().get("/pricing"))
            assert "$10 · $50 · $200" in pricing
            assert "It never expires." in pricing
            assert "Pay as you go" in pricing
            assert "Custom Limits" not in pricing
            quick_start = shown(await shop.visitor().get("/docs"))
            assert "anthropic/claude-opus-4-8" in quick_start
            assert "X-MDB-Charged-USD" in quick_start

    run(test())


def test_examples_tell_the_window_that_the_model_has() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            visitor = shop.visitor()
            assert "context_window = 64000 ," in shown(await visitor.get("/docs/tools"))

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


def test_who_has_no_credit_but_included_tokens_is_not_told_that_calls_are_refused() -> None:
    small = '[billing]\nsignup_grant_usd = "0"\n[plans.free]\nincluded_tokens = 300\n'

    async def test() -> None:
        async with Shop("modelbridge", config=small) as shop:
            visitor = await registered(shop, "ada@example.com")
            before = await visitor.get("/dashboard")
            [key] = shop.keys_on(before.text)
            assert "Calls are refused until" not in shown(before)
            assert "Your credit is used up: calls that your plan's included tokens do not cover" in shown(before)
            assert (await shop.post("/v1/chat/completions", hello("deepseek-chat"), Customer(key).bearer)).status == 200
            await shop.database.execute("UPDATE allowance SET held = 300 - used")
            assert "Calls are refused until credit is added." in shown(await visitor.get("/dashboard"))
            await shop.database.execute("UPDATE allowance SET held = 0")

    run(test())


def test_a_key_that_was_disabled_does_not_stand_on_the_dashboard_of_modelbridge() -> None:
    async def test() -> None:
        async with Shop("modelbridge") as shop:
            visitor = await registered(shop, "ada@example.com")
            [first] = shop.keys_on((await visitor.get("/dashboard")).text)
            [id_] = set(re.findall(r"/dashboard/keys/(key_\w+)", (await visitor.get("/dashboard/keys")).text))
            [second] = shop.keys_on((await visitor.post("/dashboard/keys", {"label": "second"})).text)
            assert shop.keys_on((await visitor.get("/dashboard")).text) == [first, second]
            await visitor.post(f"/dashboard/keys/{id_}/disable")
            assert shop.keys_on((await visitor.get("/dashboard")).text) == [second]
            # It can still be looked up.
            assert shop.keys_on((await visitor.get(f"/dashboard/keys/{id_}")).text) == [first]
            await visitor.post(f"/dashboard/keys/{id_}/enable")
            assert shop.keys_on((await visitor.get("/dashboard")).text) == [first, second]

    run(test())
