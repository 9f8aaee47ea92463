"""Buying credit, as customers do it: through the hosted page of a Stripe of our own, by transfer, by voucher."""

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page
from tests.gateway.site import Site, chat, run
from tests.payments.conftest import USD
from tests.payments.fake_stripe import SECRET_KEY, SIGNING_SECRET, FakeStripe
from tests.web.browser import Chromium, axe, browser, picture, pictures_wanted, run_long
from tests.web.visitors import Visitor, house, letters, link_to, registered, shown

from tollbridge.edge.webhooks import PATH
from tollbridge.services import vouchers
from tollbridge.services.notices import tell_low_balances

BILLING = "/dashboard/billing"
TRANSFER = '[bank_transfer]\ninstructions = """\nExample Ltd\nIBAN DE00 0000"""\n'


def config(stripe: FakeStripe) -> str:
    return f"""
[stripe]
secret_key = "{SECRET_KEY}"
webhook_secret = "{SIGNING_SECRET}"
base_url = "{stripe.url}"
"""


async def logged_in(chromium: Chromium, visitor: Visitor, path: str) -> Page:
    context = await chromium.context()
    await visitor.log_in_browser(context)
    return await chromium.open(visitor.url + path, context)


def amounts(text: str) -> list[str]:
    """The amounts on a page, as decimal USD."""
    return re.findall(r'<data class="amount" value="([^"]+)"', text)


async def ordered(visitor: Visitor, **fields: str) -> str:
    """The path at which an order ends."""
    response = await visitor.post(f"{BILLING}/checkout", {"pack": "10000000000", "once": "1", **fields})
    assert response.status_code == 303, shown(response)
    return response.headers["location"].partition(visitor.url)[2]


def test_a_pack_is_bought_on_stripes_page_and_the_credit_is_seen() -> None:
    async def test() -> None:
        with FakeStripe.beside() as stripe:
            async with house(config(stripe)) as site, browser() as chromium:
                ada = await registered(site, "ada@example.com")
                page = await logged_in(chromium, ada, BILLING)
                stripe.webhook_url = ""
                await page.check("input[name=pack][value='50000000000']", force=True)
                await page.check("input[name=save_card]")
                await page.click("text=Continue to payment")
                await page.wait_for_selector("text=Pay 50.00 USD")
                await page.click("text=Pay by card")
                # Paid, and the webhook has not come: Stripe is asked, so that nobody waits for it.
                await page.wait_for_selector("#payment[data-state=paid]")
                assert await page.inner_text("#payment h2") == "50.00 USD of credit is yours"
                assert (await page.inner_text(".stats")).split()[1] == "50.50"
                await page.fill("#auto-threshold", "5")
                await page.fill("#auto-amount", "20")
                await page.fill("#auto-daily_cap", "40")
                await page.click("text=Switch on")
                await page.wait_for_selector("text=Automatic top-ups are on.")
                assert "Card visa 4242" in await page.inner_text("main")
                await page.click("nav[aria-label=Billing] >> text=Invoices")
                await page.click("text=INV-000001")
                assert "50.00" in await page.inner_text("article tr.total")
                # Paying is where our pages lead elsewhere, and only there.
                chromium.complaints[:] = [each for each in chromium.complaints if stripe.url not in each]

    run(test())


def test_the_page_says_honestly_that_it_waits_and_notices_the_payment_by_itself() -> None:
    async def test() -> None:
        with FakeStripe.beside() as stripe:
            async with house(config(stripe)) as site, browser() as chromium:
                ada = await registered(site, "ada@example.com")
                response = await ada.post(
                    f"{BILLING}/checkout", {"pack": "10000000000", "method": "stripe", "once": "1"}
                )
                session = response.headers["location"].rpartition("/")[2]
                [(order,)] = await site.database.fetch("SELECT public_id FROM payment")
                page = await logged_in(chromium, ada, f"{BILLING}?payment={order}")
                assert "Waiting for the confirmation of 10.00 USD" in await page.inner_text("#payment")
                assert (await page.inner_text(".stats")).split()[1] == "0.50"
                stripe.pay(session)
                for event in list(stripe.events):
                    body, signature = stripe.sign(event)
                    assert (await site.post(PATH, body, {"stripe-signature": signature})).status == 200
                await page.wait_for_selector("#payment[data-state=paid]", timeout=10_000)
                assert (await page.inner_text(".stats")).split()[1] == "10.50"
                left = await ada.get(f"{BILLING}?payment={order}&canceled=1")
                assert "is yours" in shown(left)

    run(test())


def test_the_same_form_sent_twice_is_one_order() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            assert len({await ordered(ada, method="demo") for _ in range(3)}) == 1
            refused = await ada.post(f"{BILLING}/checkout", {"pack": "50000000000", "method": "demo", "once": "1"})
            assert refused.status_code == 422
            assert "sent before with other values" in shown(refused)
            noted = await site.database.fetch("SELECT 1 FROM activity WHERE action = 'payment.ordered'")
            assert len(noted) == 1

    run(test())


def test_a_demo_payment_says_what_it_is_and_credits_once() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            assert "a demo payment that costs nothing" in shown(await ada.get(BILLING))
            back = await ordered(ada, method="demo")
            assert "No money is paid" in shown(await ada.get(back))
            payment = back.partition("payment=")[2]
            for _ in range(2):
                assert (await ada.post(f"{BILLING}/payments/{payment}/demo")).status_code == 303
            page = await ada.get(back)
            assert amounts(page.text)[:3] == ["10", "10.5", "10"]
            assert "demo payment (no money was paid)" in shown(await ada.get(f"{BILLING}/invoices/INV-000001"))

    run(test())


def test_older_invoices_can_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.web.billing_papers.MOST_PAPERS", 2)

    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            listed = re.compile(r">(INV-\d+)</a>")
            assert "?before=" not in (await ada.get(f"{BILLING}/invoices")).text
            for number in range(3):
                back = await ordered(ada, method="demo", once=str(number))
                await ada.post(f"{BILLING}/payments/{back.partition('payment=')[2]}/demo")
            page = (await ada.get(f"{BILLING}/invoices")).text
            assert listed.findall(page) == ["INV-000003", "INV-000002"]
            [older] = re.findall(r'href="(/dashboard/billing/invoices\?before=\d+)"', page)
            page = (await ada.get(older)).text
            assert (listed.findall(page), "?before=" in page, "Newest" in page) == (["INV-000001"], False, True)
            assert "There are no older ones" in shown(await ada.get(f"{BILLING}/invoices?before=1"))

    run(test())


def test_a_demo_payment_is_not_taken_through_a_proxy_whose_operator_forgot_the_public_url() -> None:
    """Many proxies send their own name for the gateway as `Host`, and then it looks like the operator's browser."""

    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            back = await ordered(ada, method="demo")
            payment = back.partition("payment=")[2]
            for name in ("x-forwarded-for", "x-real-ip", "via"):
                refused = await ada.post(f"{BILLING}/payments/{payment}/demo", {}, **{name: "203.0.113.9"})
                assert refused.status_code == 403
            assert await site.database.fetch("SELECT status FROM payment") == [("pending",)]
            assert (await ada.post(f"{BILLING}/payments/{payment}/demo")).status_code == 303
            assert await site.database.fetch("SELECT status FROM payment") == [("paid",)]

    run(test())


def test_where_others_can_reach_it_there_is_no_demo_payment() -> None:
    async def test() -> None:
        async with house('public_url = "https://api.example.com"\n') as site:
            assert site.gateway._payments().methods == ()
        async with house(TRANSFER) as site:
            ada = await registered(site, "ada@example.com")
            back = await ordered(ada, method="bank_transfer")
            page = await ada.get(back)
            [(reference,)] = await site.database.fetch("SELECT external_id FROM payment")
            assert f"Reference {reference}" in shown(page)
            assert "IBAN DE00 0000" in page.text
            await site.gateway._payments().confirm(reference, 10 * USD, actor="test")
            assert "is yours" in shown(await ada.get(back))

    run(test())


def test_what_is_wrong_stands_beside_the_field() -> None:
    async def test() -> None:
        async with house(TRANSFER) as site:
            ada = await registered(site, "ada@example.com")
            cases: tuple[tuple[str, dict[str, str], str], ...] = (
                ("checkout", {"pack": "other", "amount": "ten", "method": "demo"}, "such as 25 or 12.50"),
                ("checkout", {"pack": "other", "amount": "4.99", "method": "demo"}, "from 5 to 1000 USD"),
                ("checkout", {"pack": "11000000000", "method": "demo"}, "one of the packs"),
                ("checkout", {"pack": "other", "amount": "25", "method": "gold"}, "is not offered here"),
                ("voucher", {"code": "AAAA"}, "not valid, has expired, or has already been used"),
                ("top-up", {"threshold": "1", "amount": "10", "daily_cap": "10"}, "are not offered here"),
                ("alert", {"alert": "-1"}, "such as 25 or 12.50"),
            )
            for path, fields, words in cases:
                response = await ada.post(f"{BILLING}/{path}", fields)
                assert response.status_code == 400, path
                assert words in shown(response), (path, shown(response))
            await ada.post(f"{BILLING}/details", {"name": "x" * 201})
            assert await site.database.fetch("SELECT 1 FROM payment") == []

    run(test())


def test_a_voucher_is_worth_its_amount_once() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            [made] = await vouchers.create(site.database, 3 * USD, kind="paid", actor="test")
            assert (await ada.post(f"{BILLING}/voucher", {"code": made.code.lower()})).status_code == 303
            assert (await ada.post(f"{BILLING}/voucher", {"code": made.code})).status_code == 400
            assert amounts((await ada.get(BILLING)).text)[:3] == ["3.5", "3", "0.5"]
            assert "redeemed a voucher" in shown(await ada.get("/dashboard/activity"))

    run(test())


def test_who_left_an_account_to_somebody_else_is_not_told_what_it_has_left() -> None:
    async def test() -> None:
        async with house() as site:
            desk = site.gateway._desk
            assert desk is not None
            ada, bob = await registered(site, "ada@example.com"), await registered(site, "bob@example.com")
            await ada.post("/dashboard/members", {"email": "bob@example.com", "role": "owner"})
            link = await link_to(site, "bob@example.com")
            await bob.get(link)
            assert (await bob.post("/auth/invitation", {"token": link.partition("=")[2]})).status_code == 303
            for threshold, recipient in (("0.75", "ada@example.com"), ("0.8", "bob@example.com")):
                await bob.post(f"{BILLING}/alert", {"alert": threshold})
                assert await tell_low_balances(desk) == 1
                assert (await letters(site))[0][0] == recipient
                [(member,)] = await site.database.fetch(
                    'SELECT public_id FROM "user" WHERE email = $1', "ada@example.com"
                )
                await bob.post(f"/dashboard/members/{member}/remove")
            assert "ada@example.com" in shown(await bob.get("/dashboard/settings"))

    run(test())


def test_nobody_is_told_what_a_closed_account_has_left() -> None:
    async def test() -> None:
        async with house("[billing]\nlow_balance_usd = [50]\n") as site:
            desk = site.gateway._desk
            assert desk is not None
            for email in ("ada@example.com", "eve@example.com"):
                visitor = await registered(site, email)
                payment = (await ordered(visitor, method="demo")).partition("payment=")[2]
                await visitor.post(f"{BILLING}/payments/{payment}/demo")
                if email == "ada@example.com":
                    assert (await visitor.post("/dashboard/settings/close", {"typed": email})).status_code == 303
            assert await tell_low_balances(desk) == 1
            assert (await letters(site))[0][0] == "eve@example.com"

    run(test())


def test_an_account_is_warned_where_it_wants_to_be() -> None:
    async def test() -> None:
        async with house() as site:
            desk = site.gateway._desk
            assert desk is not None
            ada = await registered(site, "ada@example.com")
            warning = "of credit left. When it is used up, calls are refused"
            assert warning not in shown(await ada.get("/dashboard"))
            told = await ada.post(f"{BILLING}/alert", {"alert": "0.75"})
            assert "when less than that is left" in shown(await ada.get(told.headers["location"]))
            assert warning in shown(await ada.get("/dashboard"))
            assert [await tell_low_balances(desk) for _ in range(2)] == [1, 0]
            told = await ada.post(f"{BILLING}/alert", {"alert": "0"})
            assert "We will not write to you" in shown(await ada.get(told.headers["location"]))
            assert await tell_low_balances(desk) == 0
            assert warning not in shown(await ada.get("/dashboard"))
            await ada.post(f"{BILLING}/alert", {"alert": "0.6"})
            assert await tell_low_balances(desk) == 1
            subjects = [subject for recipient, subject, _ in await letters(site) if recipient == "ada@example.com"]
            assert subjects == ["Tollbridge: 0.5 USD of credit left"] * 2
            told = await ada.post(f"{BILLING}/alert", {"alert": ""})
            assert "Your own threshold is removed" in shown(await ada.get(told.headers["location"]))
            await site.database.execute("UPDATE balance SET promo = 0, paid = 0")
            assert "Your credit is used up" in shown(await ada.get("/dashboard"))
            await site.database.execute("UPDATE balance SET promo = 500000000 WHERE promo = 0")
            await site.database.execute("UPDATE balance SET promo = 1000000000 WHERE account_id = $1", site.account.id)

    run(test())


def test_customers_change_to_the_plans_that_they_may_choose() -> None:
    async def test() -> None:
        more = '[billing]\ncustomer_plans = ["free", "pro", "gold"]\n[plans.gold]\nprice_usd = "20"\n'
        async with house(more) as site:
            ada = await registered(site, "ada@example.com")
            page = shown(await ada.get(f"{BILLING}/plan"))
            assert "Change to Pro" in page
            assert "Change to Gold" not in page
            assert (await ada.post(f"{BILLING}/plan", {"plan": "pro"})).status_code == 303
            assert "Your plan Pro" in shown(await ada.get(f"{BILLING}/plan"))
            for plan in ("custom", "default", "gold", "nothing"):
                assert (await ada.post(f"{BILLING}/plan", {"plan": plan})).status_code == 400
            await site.database.execute(
                "INSERT INTO account_plan (account_id, rpm, since, until) SELECT id, 7, 0, $1 FROM account", 1 << 62
            )
            assert "were agreed with you" in shown(await ada.get(f"{BILLING}/plan"))
            assert (await ada.post(f"{BILLING}/plan", {"plan": "free"})).status_code == 400

    run(test())


def test_programs_order_once_by_their_idempotency_key() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            token = await ada.token(BILLING)
            headers = {"x-csrf-token": token, "sec-fetch-site": "same-origin", "idempotency-key": "k1"}
            headers["accept"] = "application/json"
            body: dict[str, Any] = {"amount_usd": "12.34", "method": "demo"}
            made = [await ada.client.post("/api/billing/payments", json=body, headers=headers) for _ in range(2)]
            assert [each.status_code for each in made] == [201, 201]
            assert made[0].json() == made[1].json()
            assert made[0].json()["amount_usd"] == "12.34"
            wrong = await ada.client.post("/api/billing/payments", json={"amount_usd": 5}, headers=headers)
            assert wrong.status_code == 400
            listed = (await ada.get("/api/billing/payments")).json()["data"]
            assert [each["id"] for each in listed] == [made[0].json()["id"]]
            for wish, param in (
                ({"amount_usd": None}, "amount_usd"),
                ({"amount_usd": 5}, "amount_usd"),
                ({"amount_usd": "5,00"}, "amount_usd"),
                ({"amount_usd": "4.99"}, "amount_usd"),
                ({"method": 5}, "method"),
                ({"method": "paypal"}, "method"),
                ({"save_card": "yes"}, "save_card"),
                ({"amount": "5"}, "amount"),
            ):
                answer = await ada.client.post("/api/billing/payments", json=body | wish, headers=headers)
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
            answer = await ada.client.post("/api/billing/payments", json={"method": "demo"}, headers=headers)
            assert (answer.json()["error"]["param"], answer.json()["detail"]) == (
                "amount_usd",
                "amount_usd is missing.",
            )
            # A script whose variable is empty would order twice.
            for length, status in ((0, 400), (255, 201), (256, 400)):
                headers["idempotency-key"] = "k" * length
                answer = await ada.client.post("/api/billing/payments", json=body, headers=headers)
                assert answer.status_code == status, answer.text
            assert answer.json()["error"]["param"] == "Idempotency-Key"
            assert answer.json()["error"]["message"] == "An Idempotency-Key must have 1 to 255 printable characters."

    run(test())


def test_a_management_key_reads_the_balance_and_nothing_that_only_payers_may_see() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            made = shown(await ada.post("/dashboard/keys/management", {"label": "ci"}))
            headers = {"authorization": f"Bearer {re.findall(r'tb_live_manage_[A-Za-z0-9]+', made)[0]}"}
            reply = await site.get("/api/billing", headers)
            assert (reply.status, reply.json["balance_usd"]) == (200, "0.5")
            for path in ("payments", "invoices", "statement"):
                assert (await site.get(f"/api/billing/{path}", headers)).status == 401, path

    run(test())


def test_whoever_closes_their_account_leaves_no_card_behind() -> None:
    async def test() -> None:
        with FakeStripe.beside() as stripe:
            async with house(config(stripe)) as site:
                ada = await registered(site, "ada@example.com")
                await filled(site, ada, stripe)
                (method,) = [each for each in stripe.objects.values() if each["object"] == "payment_method"]
                assert method["customer"] is not None
                assert (await ada.post("/dashboard/settings/close", {"typed": "ada@example.com"})).status_code == 303
                assert method["customer"] is None

    run(test())


def test_who_prints_from_a_dark_screen_gets_black_on_white_and_reads_whose_statement_it_is() -> None:
    async def test() -> None:
        async with house() as site, browser() as chromium:
            ada = await registered(site, "ada@example.com")
            page = await logged_in(chromium, ada, f"{BILLING}/statement")
            await page.click("[data-theme-toggle]")
            await page.evaluate(
                "addEventListener('beforeprint', () => { window.paper = document.documentElement.className })"
            )
            assert not await page.is_visible("text=account ada@example.com")
            await page.pdf()
            assert (await page.evaluate("[window.paper, document.documentElement.className]")) == ["", "dark"]
            await page.emulate_media(media="print")
            month = await page.input_value("select[name=month]")
            assert await page.is_visible(f"text=Statement of {month} (UTC), Tollbridge, account ada@example.com")

    run(test())


PAGES = (BILLING, f"{BILLING}/plan", f"{BILLING}/invoices", f"{BILLING}/invoices/INV-000001", f"{BILLING}/statement")


def test_every_page_of_money_can_be_used_by_everybody(axe_core: Path) -> None:
    async def test() -> None:
        with FakeStripe.beside() as stripe:
            async with house(config(stripe) + TRANSFER) as site, browser() as chromium:
                ada = await registered(site, "ada@example.com")
                waiting = await ordered(ada, method="bank_transfer")
                await filled(site, ada, stripe)
                problems = []
                for path in (*PAGES, waiting):
                    page = await logged_in(chromium, ada, path)
                    problems += [f"{path}: {problem}" for problem in await axe(page)]
                    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
                    problems += [f"{path} dark: {problem}" for problem in await axe(page, "color-contrast")]
                    if pictures_wanted():
                        await picture(page, re.sub(r"\W+", "-", path.replace(waiting, "waiting")).strip("-"))
                    await page.close()
                assert problems == []

    run_long(test())


async def filled(site: Site, ada: Visitor, stripe: FakeStripe) -> None:
    """An account that has paid, used, and switched on a top-up."""
    response = await ada.post(
        f"{BILLING}/checkout", {"pack": "50000000000", "method": "stripe", "once": "2", "save_card": "1"}
    )
    stripe.pay(response.headers["location"].rpartition("/")[2])
    orders = await site.database.fetch("SELECT public_id FROM payment WHERE method = 'stripe'")
    await ada.get(f"{BILLING}?payment={orders[0][0]}")
    fields = {"name": "Lovelace Ltd", "address": "1 Engine Street\nLondon", "tax_id": "GB123456789"}
    assert (await ada.post(f"{BILLING}/details", fields)).status_code == 303
    switched = await ada.post(f"{BILLING}/top-up", {"threshold": "5", "amount": "20", "daily_cap": "40"})
    assert switched.status_code == 303, shown(switched)
    key = re.findall(r"tb_live_\w+", (await ada.get("/dashboard")).text)[0]
    for text in ("hi", "there"):
        reply = await site.post("/v1/chat/completions", chat(text), {"authorization": f"Bearer {key}"})
        assert reply.status == 200
