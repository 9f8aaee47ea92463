"""The operator's pages: what was earned, who owes what, and the deeds that move money."""

import csv
import html
import io
import re
from pathlib import Path

from tests.gateway.site import Site, chat, run
from tests.payments.conftest import USD
from tests.web.browser import axe, browser, picture, pictures_wanted, run_long
from tests.web.test_billing import BILLING, amounts, logged_in, ordered
from tests.web.town import operator
from tests.web.visitors import Visitor, house, registered, shown

from tollbridge.core.money import format_usd, parse_usd
from tollbridge.jobs import Jobs
from tollbridge.services import vouchers
from tollbridge.store import meta
from tollbridge.store.accounts import by_email
from tollbridge.store.gauges import gauges

TRANSFER = '[bank_transfer]\ninstructions = "To us"\n'


async def path_of(site: Site, email: str = "ada@example.com") -> str:
    account = await by_email(site.database, email)
    assert account is not None
    return f"/admin/accounts/{account.public_id}"


async def call(site: Site, visitor: Visitor, count: int = 1) -> str:
    """The visitor's key, once it has called."""
    key = re.findall(r"tb_live_\w+", (await visitor.get("/dashboard")).text)[0]
    for _ in range(count):
        assert (await site.post("/v1/chat/completions", chat(), {"authorization": f"Bearer {key}"})).status == 200
    return str(key)


def test_credit_is_granted_once_with_a_reason_that_everybody_can_read() -> None:
    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            path = await path_of(site)
            assert (await boss.post(f"{path}/grant", {"amount": "2.5", "once": "1"})).status_code == 400
            for saved in ("The credit is granted.", "The form was sent twice; the credit was granted once."):
                fields = {"amount": "2.5", "reason": "an apology", "once": "2"}
                sent = await boss.post(f"{path}/grant", fields)
                assert sent.status_code == 303
                assert saved in shown(await boss.get(sent.headers["location"]))
            changed = await boss.post(f"{path}/grant", {"amount": "3", "reason": "an apology", "once": "2"})
            assert (changed.status_code, "This form was sent before" in shown(changed)) == (422, True)
            assert amounts((await boss.get(path)).text)[:3] == ["3", "0", "3"]
            activity = shown(await ada.get("/dashboard/activity"))
            assert activity.count("granted credit 2.5 USD: an apology") == 1
            assert "boss@example.com" in activity
            assert "an apology" in shown(await ada.get(f"{BILLING}/statement"))
            assert "an apology" in shown(await boss.get("/admin/activity"))

    run(test())


def test_a_frozen_account_calls_no_more_and_an_unfrozen_one_does() -> None:
    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            headers = {"authorization": f"Bearer {await call(site, ada)}"}
            path = await path_of(site)
            assert (await boss.post(f"{path}/freeze")).status_code == 400
            assert (await boss.post(f"{path}/freeze", {"reason": "spam"})).status_code == 303
            assert (await site.post("/v1/chat/completions", chat(), headers)).status == 403
            assert "This account is frozen" in shown(await ada.get(BILLING))
            assert 'href="/admin/accounts?frozen=1"' in (await boss.get("/admin")).text
            listed = shown(await boss.get("/admin/accounts?frozen=1"))
            assert ("ada@example.com" in listed, "boss@example.com" in listed.partition("<tbody>")[2]) == (True, False)
            assert "No frozen account matches" in shown(await boss.get("/admin/accounts?frozen=1&q=boss"))
            [[number]] = await site.database.fetch("SELECT id FROM account WHERE email = 'ada@example.com'")
            logged = (await boss.get(f"/admin/accounts?q={number}")).text
            assert f'<a href="{path}">ada@example.com</a>' in logged
            assert "No account matches" in shown(await boss.get(f"/admin/accounts?q={'9' * 40}"))
            assert (await boss.post(f"{path}/unfreeze", {"reason": "sorry"})).status_code == 303
            assert (await site.post("/v1/chat/completions", chat(), headers)).status == 200
            [key] = re.findall(r"/keys/(key_\w+)/revoke", (await boss.get(path)).text)
            assert (await boss.post(f"{path}/keys/{key}/revoke")).status_code == 303
            assert (await site.post("/v1/chat/completions", chat(), headers)).status == 401

    run(test())


def test_an_account_that_its_owner_closed_is_not_called_frozen() -> None:
    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            path = await path_of(site)
            sent = await ada.post("/dashboard/settings/close", {"typed": "ada@example.com"})
            assert sent.status_code == 303
            assert "0 frozen accounts" in shown(await boss.get("/admin"))
            assert "No frozen account" in shown(await boss.get("/admin/accounts?frozen=1"))
            [[number]] = await site.database.fetch("SELECT id FROM account WHERE email LIKE '%@closed.invalid'")
            assert "No frozen account" in shown(await boss.get(f"/admin/accounts?frozen=1&q={number}"))
            for page in (path, "/admin/accounts"):
                text = shown(await boss.get(page))
                assert ("Closed" in text, "Frozen Freeze" in text) == (True, False)
            assert (await gauges(site.database)).frozen == 0
            # Nothing is offered that it cannot have, nor done by a page that was open before.
            assert not re.search("Grant|Unfreeze|Save", shown(await boss.get(path)))
            for deed, fields in (("unfreeze", {"reason": "an error"}), ("plan", {"plan": "pro", "was": ""})):
                sent = await boss.post(f"{path}/{deed}", fields)
                assert sent.status_code == 400
            assert await site.database.fetch("SELECT frozen FROM balance WHERE account_id = $1", number) == [(1,)]

    run(test())


def test_freezing_an_account_that_is_frozen_is_no_deed() -> None:
    async def test() -> None:
        async with house() as site:
            boss, _ = await operator(site), await registered(site, "ada@example.com")
            path = await path_of(site)
            for _ in range(2):
                assert (await boss.post(f"{path}/freeze", {"reason": "spam"})).status_code == 303
            assert shown(await boss.get(path)).count("froze the account") == 1

    run(test())


def test_the_operator_sees_what_each_key_spent_with_or_without_a_limit_and_which_is_disabled() -> None:
    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            path = await path_of(site)
            await call(site, ada)
            [[charged]] = await site.database.fetch("SELECT SUM(charge) FROM usage")
            # Where amounts are aligned, the places beyond cents stand apart and are filled up.
            spent = format_usd(charged).replace("0.00", r"0\.00 ") + "[ 0]*"
            page = await boss.get(path)
            assert re.search(rf"Active {spent} –", shown(page))
            [key] = re.findall(r"/keys/(key_\w+)/revoke", page.text)
            assert (await ada.post(f"/dashboard/keys/{key}/disable")).status_code == 303
            assert re.search(rf"Disabled {spent} –", shown(await boss.get(path)))

    run(test())


def test_a_plan_that_is_gone_is_not_changed_by_saving_something_else() -> None:
    async def test() -> None:
        async with house() as site:
            boss, _ = await operator(site), await registered(site, "ada@example.com")
            path = await path_of(site)
            await site.database.execute("UPDATE account SET plan = 'gone' WHERE email = 'ada@example.com'")
            page = (await boss.get(path)).text
            assert re.search(r'<option value="gone"[^>]* selected', page)
            assert "gone: no longer configured, so default applies" in page
            assert (await boss.post(f"{path}/plan", {"plan": "gone", "rpm": "5"})).status_code == 400

    run(test())


def test_limits_are_agreed_with_one_account_and_given_up_again() -> None:
    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            path = await path_of(site)
            assert (await boss.post(f"{path}/plan", {"plan": "gold"})).status_code == 400
            assert (await boss.post(f"{path}/plan", {"plan": "pro", "rpm": "many"})).status_code == 400
            assert (await boss.post(f"{path}/plan", {"plan": "pro", "rpm": "1,500"})).status_code == 303
            page = shown(await ada.get(f"{BILLING}/plan"))
            assert "Your plan Pro Requests per minute 1,500 Tokens per minute 200,000" in page
            assert "changed the plan pro; agreed: 1,500 requests a minute" in shown(
                await ada.get("/dashboard/activity")
            )
            assert "Agreed: 1,500 requests a minute." in shown(await boss.get(path))
            assert (await boss.post(f"{path}/plan", {"plan": "pro"})).status_code == 303
            assert "Requests per minute 60" in shown(await ada.get(f"{BILLING}/plan"))

    run(test())


def test_of_two_operators_who_change_one_plan_at_once_the_second_is_told() -> None:
    async def test() -> None:
        async with house() as site:
            boss, _ = await operator(site), await registered(site, "ada@example.com")
            path = await path_of(site)

            async def was() -> str:
                return html.unescape(re.findall(r'name="was" value="([^"]*)"', (await boss.get(path)).text)[0])

            seen = await was()
            mine = {"plan": "pro", "rpm": "1500", "was": seen}
            for _ in range(2):  # a double click is one change
                assert (await boss.post(f"{path}/plan", mine)).status_code == 303
            refused = await boss.post(f"{path}/plan", {"plan": "free", "was": seen})
            assert refused.status_code == 400
            assert "changed this in the meantime: it is now pro, agreed: 1,500 requests a minute. Save again" in shown(
                refused
            )
            # What was typed is still there, and goes through once the other's is known.
            assert re.search(r'<option value="free"[^>]* selected', refused.text)
            assert (await boss.post(f"{path}/plan", {"plan": "free", "was": await was()})).status_code == 303
            assert '"free"' in await was()

    run(test())


def test_a_transfer_is_confirmed_refunded_and_no_more_than_it_was() -> None:
    async def test() -> None:
        async with house(TRANSFER) as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            payment = (await ordered(ada, method="bank_transfer")).partition("payment=")[2]
            [(reference,)] = await site.database.fetch("SELECT external_id FROM payment")
            assert "1 transfer expected" in shown(await boss.get("/admin"))
            wrong = await boss.post("/admin/payments/confirm", {"reference": reference, "amount": "9"})
            assert (wrong.status_code, "another amount was ordered" in shown(wrong).lower()) == (400, True)
            for _ in range(2):
                fields = {"reference": reference, "amount": "10"}
                assert (await boss.post("/admin/payments/confirm", fields)).status_code == 303
            assert amounts((await ada.get(BILLING)).text)[:2] == ["10.5", "10"]
            for amount, status in (("11", 400), ("4", 303), ("7", 400), ("", 303), ("", 400)):
                fields = {"payment": payment, "amount": amount, "reason": "asked for"}
                assert (await boss.post("/admin/payments/refund", fields)).status_code == status, amount
            assert amounts((await ada.get(BILLING)).text)[:2] == ["0.5", "0"]
            assert shown(await ada.get("/dashboard/activity")).count("refunded a payment") == 2
            assert "Credit note" in shown(await ada.get(f"{BILLING}/invoices"))

    run(test())


def test_a_part_of_a_payment_that_is_refunded_twice_by_the_same_form_goes_back_once() -> None:
    async def test() -> None:
        async with house(TRANSFER) as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            payment = (await ordered(ada, method="bank_transfer")).partition("payment=")[2]
            [(reference,)] = await site.database.fetch("SELECT external_id FROM payment")
            await site.gateway._payments().confirm(reference, 10 * USD, actor="test")
            [once] = re.findall(r'name="once" value="([^"]+)"', (await boss.get("/admin/payments")).text)
            for amount, status in (("4", 303), ("4", 303), ("3", 422)):
                fields = {"payment": payment, "amount": amount, "reason": "asked for", "once": once}
                assert (await boss.post("/admin/payments/refund", fields)).status_code == status, amount
            page = await ada.get(BILLING)
            assert amounts(page.text)[1] == "6"
            assert "Paid 4.00 returned" in shown(page)
            [again] = re.findall(r'name="once" value="([^"]+)"', (await boss.get("/admin/payments")).text)
            fields = {"payment": payment, "amount": "4", "reason": "and this", "once": again}
            assert (await boss.post("/admin/payments/refund", fields)).status_code == 303
            assert amounts((await ada.get(BILLING)).text)[1] == "2"

    run(test())


def test_codes_of_vouchers_are_shown_once() -> None:
    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            [once] = re.findall(r'name="once" value="([\w-]+)"', (await boss.get("/admin/vouchers")).text)
            fields = {"amount": "3", "count": "2", "kind": "promo", "expires_at": "2099-01-01", "note": "fair"}
            made = await boss.post("/admin/vouchers", {**fields, "once": once})
            codes = re.findall(r"(?:[2-9A-Z]{4}-){4}[2-9A-Z]{4}", shown(made))
            assert len(codes) == 2
            # The page is loaded anew, and the browser sends the form again.
            again = await boss.post("/admin/vouchers", {**fields, "once": once})
            assert again.status_code == 409
            assert "the form was sent twice" in shown(again)
            assert codes[0] not in shown(again)
            assert len(await vouchers.listed(site.database)) == 2
            assert codes[0] not in shown(await boss.get("/admin/vouchers"))
            assert (await ada.post(f"{BILLING}/voucher", {"code": codes[0]})).status_code == 303
            assert "ada@example.com" in shown(await boss.get("/admin/vouchers"))
            assert (await boss.post("/admin/vouchers/2/withdraw")).status_code == 303
            assert (await ada.post(f"{BILLING}/voucher", {"code": codes[1]})).status_code == 400
            for wrong in ({"amount": "0"}, {"count": "x"}, {"kind": "gold"}, {"expires_at": "2001-01-01"}):
                assert (await boss.post("/admin/vouchers", {**fields, **wrong})).status_code == 400, wrong

    run(test())


def test_every_view_of_the_margin_adds_up_to_the_same() -> None:
    async def test() -> None:
        async with house('[billing]\nmarkup_percent = "25"\n') as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            await call(site, ada, 3)
            [(charge, cost)] = await site.database.fetch("SELECT SUM(charge), SUM(cost) FROM usage")
            for by in ("day", "model", "provider", "account"):
                text = (await boss.get(f"/admin/margins.csv?by={by}")).text
                rows = list(csv.DictReader(io.StringIO(text)))
                assert sum(parse_usd(row["charged_usd"]) for row in rows) == charge, by
                assert sum(parse_usd(row["cost_usd"]) for row in rows) == cost, by
                assert (await boss.get(f"/admin?by={by}")).status_code == 200
            assert (await boss.get("/admin?by=gold")).status_code == 400
            assert (await boss.get("/admin?since=2026-02-30")).status_code == 400
            assert (await boss.get("/admin?since=2027-01-01&until=2026-01-01")).status_code == 400

    run(test())


def test_the_trial_balance_is_zero_and_says_when_it_was_proved() -> None:
    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            await call(site, ada)
            page = await boss.get("/admin/ledger")
            assert "Not proved yet" in shown(page)
            assert amounts(page.text)[-3:] == ["0", "0", "0"]
            journal = list(csv.DictReader(io.StringIO((await boss.get("/admin/ledger/journal.csv")).text)))
            amounts_ = [row["amount_usd"] for row in journal]
            assert sum(-parse_usd(text[1:]) if text[0] == "-" else parse_usd(text) for text in amounts_) == 0
            jobs = site.gateway._jobs
            assert isinstance(jobs, Jobs)
            await jobs.prove()
            assert "The books are right" in shown(await boss.get("/admin/ledger"))
            await meta.put(site.database, meta.AUDIT_PROBLEMS, 2)
            assert "The books are wrong" in shown(await boss.get("/admin/ledger"))

    run(test())


def test_the_journal_is_sent_many_lines_at_a_time() -> None:
    """A million lines are read within seconds. Sent one by one they took a minute more."""

    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            await call(site, ada, 10)
            async with boss.client.stream("GET", "/admin/ledger/journal.csv") as response:
                parts = [part async for part in response.aiter_raw()]
            assert len(parts) < 5 < 40 < b"".join(parts).count(b"\n")

    run(test())


def test_a_providers_invoice_is_compared_model_by_model() -> None:
    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            await call(site, ada)
            month = shown(await boss.get("/admin/ledger"))
            form = {"provider": "up", "month": re.findall(r"(\d{4}-\d\d)-\d\d", month)[0]}
            found = await boss.post("/admin/drift", {**form, "file": "model,amount_usd\nupstream-m,0.00003\n"})
            assert amounts(found.text) == ["0.00003", "0.00002", "0.00001"]
            assert "50 %" in shown(found)
            wrong = await boss.post("/admin/drift", {**form, "file": "model,amount_usd\nupstream-m,ten\n"})
            assert (wrong.status_code, "line 2" in shown(wrong)) == (400, True)

    run(test())


def test_providers_are_asked_one_or_all_and_what_they_say_is_shown() -> None:
    gone = '[providers.gone]\nbase_url = "http://127.0.0.1:9"\n'

    async def test() -> None:
        async with house(gone) as site:
            boss = await operator(site)
            before = len(await site.usage())
            page = await boss.post("/admin/providers", {"provider": ""})
            assert page.status_code == 200
            assert re.findall(r"(up|gone) (m|–) (Answers|Does not answer)", shown(page)) == [
                ("up", "m", "Answers"),
                ("gone", "–", "Does not answer"),
            ]
            one = await boss.post("/admin/providers", {"provider": "up"})
            assert "Does not answer" not in shown(one)
            assert amounts(one.text) == ["0.00002"]
            wrong = await boss.post("/admin/providers", {"provider": "nobody"})
            assert (wrong.status_code, "no provider" in shown(wrong)) == (404, True)
            assert len(await site.usage()) == before

    run(test())


PAGES = (
    *("/admin", "/admin?by=account", "/admin/accounts", "/admin/accounts?q=nobody", "/admin/payments"),
    *(
        "/admin/vouchers",
        "/admin/subscribers",
        "/admin/catalog",
        "/admin/providers",
        "/admin/ledger",
        "/admin/drift",
        "/admin/activity",
    ),
)


def test_every_page_of_the_operator_can_be_used_by_everybody(axe_core: Path) -> None:
    async def test() -> None:
        async with house(TRANSFER) as site, browser() as chromium:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            await call(site, ada, 2)
            await ordered(ada, method="bank_transfer")
            till = site.gateway._payments()
            [(reference,)] = await site.database.fetch("SELECT external_id FROM payment")
            await till.confirm(reference, 10 * USD, actor="test")
            await ordered(ada, method="bank_transfer", once="2")
            await boss.post("/admin/vouchers", {"amount": "3", "count": "2", "kind": "promo", "note": "fair"})
            account = await path_of(site)
            await boss.post(f"{account}/grant", {"amount": "2.5", "reason": "an apology", "once": "1"})
            problems = []
            for path in (*PAGES, account):
                page = await logged_in(chromium, boss, path)
                problems += [f"{path}: {problem}" for problem in await axe(page)]
                await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
                problems += [f"{path} dark: {problem}" for problem in await axe(page, "color-contrast")]
                if pictures_wanted():
                    await picture(page, re.sub(r"\W+", "-", path.replace(account, "/admin/account")).strip("-"))
                await page.close()
            assert problems == []

    run_long(test())


def test_tables_are_no_wider_than_a_laptop_shows_them() -> None:
    """Also with every model that ships, and a customer whose address is long."""

    async def test() -> None:
        async with house() as site, browser() as chromium:
            boss = await operator(site)
            ada = await registered(site, f"ada.{'of.the.long.name.' * 2}@customers.of.example.com")
            payment = (await ordered(ada, method="demo")).partition("payment=")[2]
            await ada.post(f"{BILLING}/payments/{payment}/demo")
            made = await boss.post("/admin/vouchers", {"amount": "3", "count": "1", "kind": "promo", "note": "fair"})
            code = re.findall(r'data-copy="([\w-]+)"', made.text)[0]
            assert (await ada.post(f"{BILLING}/voucher", {"code": code})).status_code == 303
            for path in ("/admin/catalog?all=1", "/admin/payments", "/admin/vouchers", "/admin/accounts"):
                page = await logged_in(chromium, boss, path)
                tables = await page.locator(".table-container").all()
                wider = [await each.evaluate("each => each.scrollWidth - each.clientWidth") for each in tables]
                assert wider == [0] * len(tables) != [], path
                if "catalog" in path:
                    cells = await page.locator("tr", has_text="gpt-4.1-mini").first.locator("td").all_inner_texts()
                    assert cells[3:5] == ["$0.40", "$0.40"]

    run_long(test())
