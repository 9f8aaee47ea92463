"""Leaving: with a copy of one's data, and forgotten but for the books."""

import json
import re

from tests.gateway.site import chat, run
from tests.web.town import operator
from tests.web.visitors import (
    PASSWORD,
    SETTINGS,
    Visitor,
    add_passkey,
    hired,
    house,
    registered,
    reset_token,
    shown,
    token_to,
)

from tollbridge.services import accounts
from tollbridge.store.forgetting import forget
from tollbridge.values import DAY_MS


def test_who_leaves_takes_their_data_along_and_is_forgotten_but_for_the_books() -> None:
    """C7, J18."""

    async def test() -> None:
        async with house(credit_usd="0") as site:
            ada = await registered(site, "ada@example.com")
            [key] = set(re.findall(r"tb_live_\w+", shown(await ada.get("/dashboard"))))
            bearer = {"authorization": f"Bearer {key}"}
            assert (await site.post("/v1/chat/completions", chat(), bearer)).status == 200
            await site.settled(1)
            await add_passkey(site, "ada@example.com")
            await site.database.execute(
                "INSERT INTO identity (issuer, subject, user_id, created_at) VALUES ('https://id', 'hidden', 1, 5)"
            )
            order = await ada.post(
                "/dashboard/billing/checkout", {"pack": "10000000000", "once": "1", "method": "demo"}
            )
            payment = order.headers["location"].partition("payment=")[2]
            await ada.post(f"/dashboard/billing/payments/{payment}/demo")
            await ada.post("/dashboard/billing/details", {"name": "Ada Ltd", "address": "1 Street", "tax_id": ""})
            export = await ada.get(f"{SETTINGS}/export")
            lines = [json.loads(line) for line in export.text.splitlines()]
            personal = {"user", "session", "passkey", "log_in_by", "membership"}
            of_account = {"account", "buyer", "payment", "invoice", "member", "key", "activity", "statement"}
            assert {line["kind"] for line in lines} == personal | of_account
            by_kind = {line["kind"]: line for line in lines}
            assert by_kind["log_in_by"] == {"kind": "log_in_by", "issuer": "https://id", "created_at": 5}
            assert (by_kind["payment"]["id"], by_kind["payment"]["amount_usd"]) == (payment, "10")
            assert (by_kind["invoice"]["paper"], by_kind["invoice"]["amount_usd"]) == ("invoice", "10")
            assert by_kind["buyer"]["name"] == "Ada Ltd"
            assert key not in export.text
            assert "hidden" not in export.text
            page = shown(await ada.get(SETTINGS))
            assert "$10.00 of paid credit can no longer be spent, and does not come back by itself" in page
            assert "$0.49998 of promotional credit is lost" in page
            assert (await ada.post(f"{SETTINGS}/close", {"typed": "yes"})).status_code == 400
            assert (await ada.post(f"{SETTINGS}/close", {"typed": "ada@example.com"})).status_code == 303
            assert (await ada.get("/dashboard")).status_code == 303
            assert (await site.post("/v1/chat/completions", chat(), bearer)).status in {401, 403}
            tables = await site.database.fetch("SELECT name FROM sqlite_master WHERE type = 'table'")
            for (table,) in tables:
                text = str(await site.database.fetch(f'SELECT * FROM "{table}"'))
                # Invoices must be kept as they were issued.
                assert ("ada@example.com" in text) == (table == "invoice"), table
            assert len(await site.usage()) == 1
            assert (await registered(site, "ada@example.com")) is not None

    run(test())


def test_who_belongs_to_no_account_any_more_opens_another_or_deletes_their_log_in() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            bob, member = await hired(site, ada, "bob@example.com", "viewer")
            # They belong to one: nothing is opened, nobody forgotten.
            for path in ("/dashboard/accounts", f"{SETTINGS}/forget"):
                assert (await bob.post(path)).status_code == 400
            [own] = re.findall(r"/dashboard/accounts/(acct_\w+)", (await bob.get("/dashboard/accounts")).text)
            await bob.post(f"/dashboard/accounts/{own}")
            assert (await bob.post(f"{SETTINGS}/close", {"typed": "bob@example.com"})).status_code == 303
            await bob.log_in("bob@example.com")
            assert "ada@example.com" in shown(await bob.get("/dashboard"))
            await ada.post(f"/dashboard/members/{member}/remove")
            assert (await bob.get("/dashboard/accounts")).headers["location"] == "/dashboard/no-account"
            assert "open one of your own" in shown(await bob.get("/dashboard/no-account"))
            assert (await bob.post("/dashboard/accounts")).headers["location"] == "/dashboard"
            page = shown(await bob.get("/dashboard"))
            assert "bob@example.com" in page
            # The first credit was theirs already.
            assert "$0.00 available" in page
            # One whose address has an account, which is somebody else's by now, gets no other.
            await ada.post("/dashboard/members", {"email": "bob@example.com", "role": "owner"})
            await bob.post("/auth/invitation", {"token": await token_to(site, "bob@example.com")})
            [ada_id] = re.findall(r"/members/(user_\w+)/remove", (await bob.get("/dashboard/members")).text)[:1]
            assert (await bob.post(f"/dashboard/members/{ada_id}/remove")).status_code == 303
            for verified_at in (None, 1):
                await site.database.execute('UPDATE "user" SET verified_at = $1', verified_at)
                refused = await ada.post("/dashboard/accounts")
                assert refused.status_code == 400
                assert "There is an account with your address already" in shown(refused)
            assert (await ada.post(f"{SETTINGS}/forget")).headers["location"] == "/auth/login?notice=forgotten"
            assert await site.database.fetch('SELECT email FROM "user"') == [("bob@example.com",)]
            assert await site.database.fetch("SELECT count(*) FROM activity WHERE actor LIKE 'ada@%'") == [(0,)]
            async with Visitor(site) as visitor:
                assert (await visitor.log_in("ada@example.com")).status_code == 400

    run(test())


def test_who_closes_an_account_and_opens_another_has_what_a_plan_includes_only_once() -> None:
    async def test() -> None:
        async with house("[plans.free]\nincluded_tokens = 1000\n") as site:
            ada = await registered(site, "ada@gmail.com")
            assert "1,000" in shown(await ada.get("/dashboard/billing/plan"))
            assert (await ada.post(f"{SETTINGS}/close", {"typed": "ada@gmail.com"})).status_code == 303
            for number, email in enumerate(("ada@gmail.com", "a.da+1@googlemail.com")):
                again = await registered(site, email)
                assert "/no-account" in (await again.get("/dashboard")).headers["location"]
                refused = await again.post("/dashboard/accounts")
                assert (refused.status_code, "in the last 31 days" in shown(refused)) == (400, True)
                # Nor by a link for a new password, which somebody may use who has never confirmed their address.
                token = await reset_token(site, email)
                assert (await again.post("/auth/reset", {"token": token, "password": PASSWORD})).status_code == 303
                await again.log_in(email)
                assert "/no-account" in (await again.get("/dashboard")).headers["location"]
                assert await site.database.fetch("SELECT count(*) FROM account") == [(2,)], number
            assert (await registered(site, "bob@gmail.com")).client.cookies
            # A month later, whatever else was forgotten.
            await site.database.execute("UPDATE throttle SET since = since - $1, last = last - $1", 30 * DAY_MS)
            await forget(site.database)
            assert (await again.post("/dashboard/accounts")).status_code == 400
            await site.database.execute("UPDATE throttle SET since = since - $1, last = last - $1", DAY_MS)
            assert (await again.post("/dashboard/accounts")).headers["location"] == "/dashboard"

    run(test())


def test_what_others_did_to_an_account_is_still_theirs_when_it_is_closed() -> None:
    """An operator's grant is not the customer's doing afterwards, and the closing itself is noted."""

    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            account = await accounts.get(site.database, "ada@example.com")
            grant = {"amount": "1", "reason": "for Ada", "once": "x"}
            assert (await boss.post(f"/admin/accounts/{account.public_id}/grant", grant)).status_code == 303
            await accounts.set_frozen(site.database, "ada@example.com", True, actor="cli/root")
            page = shown(await ada.get(SETTINGS))
            assert "of promotional credit is lost" in page
            assert "of paid credit" not in page
            assert (await ada.post(f"{SETTINGS}/close", {"typed": "ada@example.com"})).status_code == 303
            closed = f"{account.public_id}@closed.invalid"
            assert (await accounts.named(site.database, closed)).promo == 0
            noted = await site.database.fetch(
                "SELECT action, actor, detail FROM activity WHERE account_id = $1 ORDER BY id", account.id
            )
            assert noted[-3:] == [
                ("credit.granted", "boss@example.com", ""),
                ("account.frozen", "cli/root", ""),
                ("account.closed", closed, ""),
            ]
            assert {actor for _, actor, _ in noted} == {closed, "boss@example.com", "cli/root"}
            assert "closed the account" in shown(await boss.get("/admin/activity"))

    run(test())
