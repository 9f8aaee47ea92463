"""Forms with more than one wrong field: all are named at once, each beside its field, and what was typed is kept."""

import html
import re
from collections.abc import Mapping

import httpx
from tests.gateway.site import Site, run
from tests.payments.fake_stripe import FakeStripe
from tests.web.test_admin import path_of
from tests.web.test_billing import BILLING, config
from tests.web.town import operator
from tests.web.visitors import Visitor, house, registered, shown

from tollbridge.core.payments import Card
from tollbridge.errors import InvalidRequest
from tollbridge.store import invoices
from tollbridge.store.accounts import by_email
from tollbridge.store.db import run as in_transaction
from tollbridge.web.forms import Form

ADA = "ada@example.com"
KEYS = "/dashboard/keys"
# Never shown again, or one of a list, which what was never offered is not in.
CHOSEN = {"password", "consent", "limit_reset", "role", "plan", "kind"}
WRONG_KEY = {
    "label": "x" * 101,
    "limit_usd": "many",
    "limit_reset": "hourly",
    "expires_at": "2020-01-01",
    "rpm": "1,5",
    "tpm": "0",
    "concurrency": "-1",
    "cost_cap_usd": "0",
    "models": "a b",
    "addresses": "10.0.0.300",
}
TOP_UP = {"threshold": "nothing", "amount": "1", "daily_cap": "0.5"}


def check(response: httpx.Response, typed: Mapping[str, str], *right: str) -> None:
    """Every field that is not `right` is named, and all are shown as they were filled in."""
    assert response.status_code == 400, shown(response)
    named = re.findall(r'id="([\w-]+)-note" class="field-error"', response.text)
    names = [name.rpartition("-")[2] for name in named]
    assert sorted(names) == sorted(typed.keys() - set(right)), shown(response)
    for name, value in typed.items():
        if name not in CHOSEN:
            assert html.escape(value).replace("&#x27;", "&#39;") in response.text, name


def filled(number: int) -> dict[str, str]:
    """The wrong key's form, with all but some of its fields left empty."""
    names = sorted(WRONG_KEY)
    return {name: WRONG_KEY[name] for name in (names[number], names[number - 3], names[number - 5])}


def test_a_key_s_form_names_all_its_wrong_fields() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, ADA)
            check(await ada.post(KEYS, WRONG_KEY), WRONG_KEY)
            for number in range(len(WRONG_KEY)):
                check(await ada.post(KEYS, filled(number)), filled(number))
            assert (await ada.post(KEYS, {"label": "good", "rpm": "60"})).status_code == 200
            [path] = re.findall(r'href="(/dashboard/keys/key_\w+)">good', (await ada.get(KEYS)).text)
            check(await ada.post(path, WRONG_KEY), WRONG_KEY)
            right = {"label": "still good", "rpm": "70"}
            check(await ada.post(path, {**WRONG_KEY, **right}), {**WRONG_KEY, **right}, *right)
            assert "still good" not in (await ada.get(KEYS)).text

    run(test())


def test_a_customer_s_other_forms_do_too() -> None:
    async def test() -> None:
        with FakeStripe.beside() as stripe:
            async with house(config(stripe)) as site:
                visitor = Visitor(site)
                sign_up = {"email": "nobody", "password": "short", "consent": ""}
                check(await visitor.post("/auth/register", sign_up), sign_up)
                ada = await registered(site, ADA)
                invitation = {"email": "nobody", "role": "king"}
                invited = await ada.post("/dashboard/members", invitation)
                check(invited, invitation)
                details = {"name": "n" * 201, "address": "a" * 501, "tax_id": "t" * 61}
                check(await ada.post(f"{BILLING}/details", details), details)
                await _save_card(site)
                check(await ada.post(f"{BILLING}/top-up", TOP_UP), TOP_UP)
                check(
                    await ada.post(f"{BILLING}/top-up", {**TOP_UP, "amount": "10"}),
                    {**TOP_UP, "amount": "10"},
                    "amount",
                )

    run(test())


async def _save_card(site: Site) -> None:
    account = await by_email(site.database, ADA)
    assert account is not None
    card = Card(customer="cus_1", id="pm_1", hint="visa 4242")
    await in_transaction(site.database, lambda each: invoices.put_customer(each, account.id, card.customer))
    await in_transaction(site.database, lambda each: invoices.put_card(each, account.id, card))


def test_the_operator_s_forms_do_too() -> None:
    async def test() -> None:
        async with house() as site:
            boss, _ = await operator(site), await registered(site, ADA)
            path = await path_of(site, ADA)
            limits = {"rpm": "many", "tpm": "0", "concurrency": "2,0"}
            check(await boss.post(f"{path}/plan", {"plan": "free", **limits}), {"plan": "free", **limits}, "plan")
            check(await boss.post(f"{path}/plan", {"plan": "gold", **limits}), {"plan": "gold", **limits})
            for amount in ("ten", "0", "5000000000"):
                check(
                    await boss.post(f"{path}/grant", {"amount": amount, "reason": " "}),
                    {"amount": amount, "reason": " "},
                )
            refund = {"payment": "pay_none", "amount": "ten", "reason": "r" * 301}
            check(await boss.post("/admin/payments/refund", refund), refund, "payment")
            made = {"amount": "ten", "count": "0", "kind": "gold", "expires_at": "2001-01-01", "note": "n" * 201}
            check(await boss.post("/admin/vouchers", made), made)
            check(
                await boss.post("/admin/vouchers", {**made, "expires_at": "soon"}),
                {**made, "expires_at": "soon"},
            )
            drift = {"month": "soon", "file": "model;amount"}
            check(await boss.post("/admin/drift", drift), drift)

    run(test())


def test_what_names_no_field_of_the_form_stands_above_it_beside_what_does() -> None:
    first = InvalidRequest("too much", param="amount")
    first.others = [InvalidRequest("no card"), InvalidRequest("not here", param="elsewhere")]
    form = Form({"amount": "1"}).refused(first, "amount")
    assert (form.errors, form.problem, form["amount"]) == ({"amount": "too much"}, "no card", "1")
