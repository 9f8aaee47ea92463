"""J9: what operators change is noted: who did it, what, from where, and in the same transaction."""

import asyncio
import re
from typing import Any

from tests.gateway.site import Site, run
from tests.payments.conftest import USD, Till, at_till
from tests.services.conftest import World, migrated_file, sqlite_world, world
from tests.web.test_billing import BILLING, TRANSFER, ordered
from tests.web.town import operator
from tests.web.visitors import Visitor, house, registered

from tollbridge.services import credit, refunds, vouchers
from tollbridge.store import activity
from tollbridge.web.admin_books import PAGES as BOOKS
from tollbridge.web.admin_catalog import PAGES as CATALOG
from tollbridge.web.page import OPERATOR
from tollbridge.web.pages import PAGES

__all__ = ["migrated_file", "sqlite_world", "world"]

# What asks with a form, and changes nothing.
READS = {f"POST {page.path}" for page in (*BOOKS, *CATALOG) if page.method == "POST"}


async def town(site: Site, ada: Visitor, boss: Visitor) -> dict[str, tuple[str, dict[str, str], str]]:
    """Each write of an operator: where it goes, what its form says, and the action that is noted."""
    for once in ("1", "2", "3"):
        await ordered(ada, method="bank_transfer", once=once)
    payments = await site.database.fetch("SELECT public_id, external_id FROM payment ORDER BY id")
    await site.gateway._payments().confirm(payments[0][1], 10 * USD, actor="test")
    await site.gateway._payments().subscriptions._create(await account_of(site), "pro", 20 * USD, "demo")
    await site.database.execute("UPDATE subscription SET stage = 'active', paid_until = 9000000000000")
    account = f"/admin/accounts/{(await account_of(site)).public_id}"
    [(key,)] = await site.database.fetch(
        "SELECT public_id FROM api_key WHERE account_id = $1", (await account_of(site)).id
    )
    await boss.post("/admin/vouchers", {"amount": "3", "count": "1", "kind": "promo", "note": ""})
    why = {"reason": "because"}
    base = "/admin/accounts/{account}"
    return {
        f"{base}/plan": (f"{account}/plan", {"plan": "pro"}, "plan.changed"),
        f"{base}/freeze": (f"{account}/freeze", why, "account.frozen"),
        f"{base}/unfreeze": (f"{account}/unfreeze", why, "account.unfrozen"),
        f"{base}/grant": (f"{account}/grant", {"amount": "1", "once": "x", **why}, "credit.granted"),
        f"{base}/keys/{{key}}/revoke": (f"{account}/keys/{key}/revoke", {}, "key.revoked"),
        "/admin/payments/confirm": (
            "/admin/payments/confirm",
            {"reference": payments[1][1], "amount": "10"},
            "payment.confirmed",
        ),
        "/admin/payments/refund": (
            "/admin/payments/refund",
            {"payment": payments[0][0], "amount": "2", **why},
            "payment.refunded",
        ),
        "/admin/payments/{payment}/dismiss": (f"/admin/payments/{payments[2][0]}/dismiss", {}, "payment.dismissed"),
        "/admin/vouchers": (
            "/admin/vouchers",
            {"amount": "3", "count": "2", "kind": "promo", "note": ""},
            "vouchers.created",
        ),
        "/admin/vouchers/{voucher}/withdraw": ("/admin/vouchers/1/withdraw", {}, "voucher.withdrawn"),
        "/admin/subscribers/{account}/cancel": (
            account.replace("accounts", "subscribers") + "/cancel",
            {},
            "subscription.cancelled",
        ),
    }


async def account_of(site: Site) -> Any:
    from tollbridge.services import accounts

    return await accounts.get(site.database, "ada@example.com")


def test_every_write_of_an_operator_is_noted() -> None:
    async def test() -> None:
        async with house(TRANSFER) as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            writes = await town(site, ada, boss)
            every = {page.path for page in PAGES if page.who == OPERATOR and page.method != "GET"}
            assert writes.keys() == every - {each.partition(" ")[2] for each in READS}
            for path, fields, action in writes.values():
                [(last,)] = await site.database.fetch("SELECT COALESCE(MAX(id), 0) FROM activity")
                response = await boss.post(path, fields)
                assert response.status_code in {200, 303}, (path, response.text)
                noted = await site.database.fetch(
                    "SELECT action, actor, address FROM activity WHERE id > $1 ORDER BY id", last
                )
                assert noted == [(action, "boss@example.com", "127.0.0.1")], path

    run(test())


class Cut(Exception):
    """The process was gone before the transaction was done."""


def test_what_moves_money_and_its_note_are_one_transaction(world: World, monkeypatch: Any) -> None:
    async def scenario(till: Till) -> None:
        payment = await till.paid()
        before = await till.books()

        async def cut(*_: Any) -> None:
            raise Cut

        monkeypatch.setattr(activity, "add", cut)
        database, account = till.database, till.account
        for deed in (
            lambda: credit.grant(database, account, USD, reason="r", actor="a", idempotency_key="k"),
            lambda: refunds.refund(till.ways, payment.public_id, USD, actor="a"),
            lambda: vouchers.create(database, USD, actor="a"),
        ):
            try:
                await deed()
            except Cut:
                continue
            raise AssertionError("it was done, and nothing was noted")
        monkeypatch.undo()
        assert (await till.books(), await till.count("reversal"), await till.count("voucher")) == (before, 0, 0)

    at_till(world, scenario)


def test_a_double_click_on_the_credit_page_credits_once() -> None:
    """A16: the form's own token is its idempotency key; a changed form under the same token is refused."""

    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            path = f"/admin/accounts/{(await account_of(site)).public_id}"
            once = re.findall(r'name="once" value="([^"]+)"', (await boss.get(path)).text)[0]
            form = {"amount": "2", "reason": "an apology", "once": once}
            token = await boss.token(path)
            clicks = (boss.raw_post(f"{path}/grant", {**form, "csrf": token}) for _ in range(50))
            assert {each.status_code for each in await asyncio.gather(*clicks)} == {303}
            assert (await account_of(site)).promo == 500_000_000 + 2 * USD
            for changed in ({"amount": "3"}, {"amount": "2.01"}):
                refused = await boss.post(f"{path}/grant", {**form, **changed})
                assert refused.status_code == 422
                assert "This form was sent before" in refused.text
            assert (await account_of(site)).promo == 500_000_000 + 2 * USD
            deeds = await site.database.fetch(
                "SELECT 1 FROM activity WHERE action = 'credit.granted' AND actor LIKE 'boss%'"
            )
            assert len(deeds) == 1
            assert (await ada.get(BILLING)).status_code == 200

    run(test())
