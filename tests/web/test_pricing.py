"""Plans, credit and fees as they are configured."""

import pytest
from tests.gateway.site import run
from tests.web.visitors import Visitor, house, registered, shown

from tollbridge.core.plans import Plan
from tollbridge.web import pricing

CONFIG = """
[billing]
packs_usd = [10, 50, 200]
signup_grant_usd = "0.25"
cost_cap_usd = "7.50"
byok_fee_percent = "2.5"
[plans.trial]
rpm = 20
tpm = 50000
models = ["m"]
[bank_transfer]
instructions = "To our account"
"""


def test_the_page_says_what_is_configured() -> None:
    async def test() -> None:
        async with house(CONFIG) as site, Visitor(site) as visitor:
            text = shown(await visitor.get("/pricing"))
            for words in (
                "$10 · $50 · $200",
                "$0.25 free",
                "more than $7.50",
                "takes 2.5% of the price",
                "Bank transfer",
                "Requests per minute 20 Tokens per minute 50,000 Calls at once No limit Models m",
            ):
                assert words in text, words

    run(test())


def test_the_plan_of_every_account_comes_first() -> None:
    offers = pricing.offers([Plan(name="big_team", rpm=1_000), Plan(name="default"), Plan(name="free")])
    assert [offer.name for offer in offers] == ["Pay as you go", "Big team", "Free"]
    assert offers[1].limits[0] == ("Requests per minute", "1,000")


def test_the_plan_default_is_offered_only_to_those_who_can_get_it() -> None:
    plans = [Plan(name="default"), Plan(name="free")]
    assert [offer.name for offer in pricing.offers(plans, "free")] == ["Free"]
    assert [offer.name for offer in pricing.offers(plans, "free", free=["default"])] == ["Free", "Pay as you go"]


def test_the_price_list_and_the_page_of_plans_say_the_same() -> None:
    async def test() -> None:
        config = """
[billing]
customer_plans = ["free", "pro"]
[plans.pro]
included_credit_usd = "3"
[plans.gone]
until = 2026-01-01
"""
        async with house(config) as site:
            visitor = await registered(site, "ada@example.com")
            prices, plans = shown(await visitor.get("/pricing")), shown(await visitor.get("/dashboard/billing/plan"))
            assert "Get Pro" in prices
            assert "Change to Pro" in plans
            assert "Per month Free Included credit per month $3" in prices
            assert "Price Free Free –" in plans
            assert "Requests per minute As agreed" in prices
            assert "Requests per minute 20 60 As agreed" in plans
            assert "Gone" not in prices + plans

    run(test())


@pytest.mark.parametrize("models", [("*",), ("a-*", "b")])
def test_a_plan_names_its_models(models: tuple[str, ...]) -> None:
    assert dict(pricing.offer(Plan(name="x", models=models)).limits)["Models"] in {"All", "a-*, b"}
