"""A plan that is paid for by the month, as customers and operators see it."""

import re
from typing import Any

import pytest
from tests.gateway.site import run
from tests.payments.fake_stripe import FakeStripe
from tests.web.browser import browser
from tests.web.test_billing import config, logged_in
from tests.web.town import operator
from tests.web.visitors import house, letters, registered, shown

from tollbridge.edge.webhooks import PATH
from tollbridge.services import plans
from tollbridge.store.accounts import Account

PLAN = "/dashboard/billing/plan"
PRICED = '\n[plans.pro]\nprice_usd = "20"\n'


def test_a_plan_is_bought_on_stripes_page_kept_and_cancelled() -> None:
    async def test() -> None:
        with FakeStripe.beside() as stripe:
            async with house(config(stripe) + PRICED) as site:
                boss, ada = await operator(site), await registered(site, "ada@example.com")

                async def deliver(seen: int) -> None:
                    for event in stripe.events[seen:]:
                        body, signature = stripe.sign(event)
                        assert (await site.post(PATH, body, {"stripe-signature": signature})).status == 200

                assert "Upgrade to Pro" in shown(await ada.get(PLAN))
                assert (await ada.post(PLAN, {"plan": "pro"})).status_code == 400  # not for nothing
                places = {(await ada.post(f"{PLAN}/subscribe", {"plan": "pro"})).headers["location"] for _ in range(2)}
                (place,) = places
                assert "Pro is ordered but not paid yet" in shown(await ada.get(PLAN))
                stripe.pay(place.rpartition("/")[2])
                # The page asks by itself; the webhook may come later.
                page = shown(await ada.get(f"{PLAN}?ordered=1"))
                assert "Pro, 20.00 USD a month" in page
                assert "Your plan Pro Requests per minute 60" in page
                assert "Upgrade to" not in page
                await deliver(0)
                invoice = shown(await ada.get("/dashboard/billing/invoices/INV-000001"))
                assert "One month of the plan pro" in invoice
                assert "20.00" in invoice
                assert (await ada.get("/api/billing")).json()["subscription"] == {
                    "plan": "pro",
                    "status": "active",
                    "amount_usd": "20",
                    "paid_until": (await ada.get("/api/billing")).json()["subscription"]["paid_until"],
                    "ending": False,
                }
                assert "ada@example.com" in shown(await boss.get("/admin/subscribers"))
                refused = await ada.post("/dashboard/settings/close", {"typed": "ada@example.com"})
                assert "Cancel your plan first" in shown(refused)
                await ada.post(f"{PLAN}/cancel")
                assert "Pro ends" in shown(await ada.get(PLAN))
                await ada.post(f"{PLAN}/resume")
                assert "Cancel Pro" in shown(await ada.get(PLAN))
                assert (await boss.post("/admin/subscribers/acct_none/cancel")).status_code == 404
                [(account,)] = await site.database.fetch("SELECT public_id FROM account WHERE email LIKE 'ada%'")
                assert (await boss.post(f"/admin/subscribers/{account}/cancel")).status_code == 303
                assert "Ending" in shown(await boss.get("/admin/subscribers"))
                seen = len(stripe.events)
                [name] = [each for each in stripe.objects if each.startswith("sub_")]
                stripe.end(name)
                await deliver(seen)
                assert "Upgrade to Pro" in shown(await ada.get(PLAN))
                subjects = [subject for recipient, subject, _ in await letters(site) if recipient.startswith("ada")]
                assert [each.partition(": ")[2] for each in subjects] == ["Pro has ended", "Receipt INV-000001"]
                deeds = shown(await ada.get("/dashboard/activity"))
                for action in ("ordered a plan", "cancelled a plan", "kept a plan"):
                    assert action in deeds

    run(test())


def test_a_browser_is_led_to_a_payment_page_on_another_domain_than_stripes_own() -> None:
    """No form may be redirected there (`form-action`), and Stripe serves the page from the operator's domain too."""

    async def test() -> None:
        with FakeStripe.beside() as stripe:
            async with house(config(stripe) + PRICED) as site, browser() as chromium:
                ada = await registered(site, "ada@example.com")
                page = await logged_in(chromium, ada, PLAN)
                await page.click("text=Upgrade to Pro")
                await page.wait_for_selector("text=Pay by card")
                assert page.url.startswith(stripe.url)
                await page.goto(site.url + PLAN)
                # A refusal is shown in place: somebody else has paid for it meanwhile.
                place = await page.get_attribute("#subscription a", "href")
                assert place is not None
                stripe.pay(place.rpartition("/")[2])
                assert "20.00 USD a month" in shown(await ada.get(f"{PLAN}?ordered=1"))
                await page.click("text=Upgrade to Pro")
                await page.wait_for_selector("#content [role=alert]")
                chromium.complaints[:] = [each for each in chromium.complaints if stripe.url not in each]

    run(test())


def test_who_leaves_cannot_pay_for_what_they_had_ordered() -> None:
    async def test() -> None:
        with FakeStripe.beside() as stripe:
            async with house(config(stripe) + PRICED) as site:
                ada = await registered(site, "ada@example.com")
                session = (await ada.post(f"{PLAN}/subscribe", {"plan": "pro"})).headers["location"].rpartition("/")[2]
                assert (await ada.post("/dashboard/settings/close", {"typed": "yes"})).status_code == 400
                assert stripe.objects[session]["status"] == "open"
                fields = {"pack": "10000000000", "method": "stripe", "once": "x"}
                credit = (await ada.post("/dashboard/billing/checkout", fields)).headers["location"].rpartition("/")[2]
                stripe.faults.extend(["500"] * 10)
                assert (await ada.post("/dashboard/settings/close", {"typed": "ada@example.com"})).status_code == 503
                stripe.faults.clear()
                assert (await ada.post("/dashboard/settings/close", {"typed": "ada@example.com"})).status_code == 303
                assert stripe.objects[session]["status"] == stripe.objects[credit]["status"] == "expired"
                # Who has paid by then has a plan, which is cancelled first.
                bob = await registered(site, "bob@example.com")
                session = (await bob.post(f"{PLAN}/subscribe", {"plan": "pro"})).headers["location"].rpartition("/")[2]
                stripe.pay(session)
                refused = await bob.post("/dashboard/settings/close", {"typed": "bob@example.com"})
                assert "Cancel your plan first" in shown(refused)

    run(test())


def test_a_plan_that_is_paid_for_at_the_moment_of_a_change_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with house('[billing]\ncustomer_plans = ["default"]\n' + PRICED) as site:
            ada = await registered(site, "ada@example.com")
            await ada.post(f"{PLAN}/subscribe", {"plan": "pro"})
            change = plans.change_plan

            async def paid_first(*args: Any, **options: Any) -> Account:
                assert (await ada.post(f"{PLAN}/demo")).status_code == 303
                return await change(*args, **options)

            monkeypatch.setattr(plans, "change_plan", paid_first)
            assert (await ada.post(PLAN, {"plan": "default"})).status_code == 400
            assert "Pro, 20.00 USD a month" in shown(await ada.get(PLAN))
            [(name,)] = await site.database.fetch("SELECT plan FROM account WHERE email LIKE 'ada%'")
            assert name == "pro"

    run(test())


def test_where_nothing_is_configured_the_demo_pays() -> None:
    async def test() -> None:
        async with house(PRICED) as site:
            ada = await registered(site, "ada@example.com")
            await ada.post(f"{PLAN}/subscribe", {"plan": "pro"})
            assert "No money is paid" in shown(await ada.get(PLAN))
            for expected in (303, 400):
                assert (await ada.post(f"{PLAN}/demo")).status_code == expected
            assert "Pro, 20.00 USD a month" in shown(await ada.get(PLAN))

    run(test())


def test_plans_are_compared_from_the_one_that_everybody_begins_with_and_the_offer_looks_like_a_button() -> None:
    async def test() -> None:
        async with house(PRICED) as site:
            ada = await registered(site, "ada@example.com")
            page = await ada.get(PLAN)
            assert re.findall(r'plan-name">(\w+)', page.text) == ["Free", "Pro", "Custom"]
            assert re.search(r'<button class="btn" data-variant="primary"[^>]*>Upgrade to Pro', page.text)

    run(test())
