"""Who came by an address before the one whose it is: what they made there is not left to them."""

import re

import pytest
from tests.gateway.site import run
from tests.web.town import secret_of
from tests.web.visitors import (
    NEW,
    PASSWORD,
    SETTINGS,
    Visitor,
    add_passkey,
    house,
    registered,
    reset_token,
    shown,
    token_to,
)

from tollbridge.core import totp
from tollbridge.services import accounts, operators


def test_who_shows_that_an_address_is_theirs_shuts_out_whoever_came_by_it_before() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as ada:
            eve = await registered(site, "ada@example.com")
            await add_passkey(site, "ada@example.com")
            await eve.post(f"{SETTINGS}/email", {"email": "eve@example.com"})
            stolen = await token_to(site, "eve@example.com")
            token = await reset_token(site, "ada@example.com")
            assert (await ada.post("/auth/reset", {"token": token, "password": NEW})).status_code == 303
            assert (await eve.get("/dashboard")).status_code == 303
            assert (await ada.post("/auth/email", {"token": stolen})).status_code == 400
            assert await site.database.fetch("SELECT * FROM passkey") == []
            # Once it is known whose it is, theirs stays.
            await add_passkey(site, "ada@example.com")
            token = await reset_token(site, "ada@example.com")
            assert (await ada.post("/auth/reset", {"token": token, "password": PASSWORD})).status_code == 303
            assert len(await site.database.fetch("SELECT * FROM passkey")) == 1

    run(test())


@pytest.mark.parametrize("another", [True, False])
def test_keys_that_somebody_made_before_addresses_were_verified_stay_only_who_proves_to_be_them(another: bool) -> None:
    async def test() -> None:
        async with house('require_verified_email = "always"\n') as site, Visitor(site) as ada:
            eve = await registered(site, "ada@example.com")
            made = shown(await eve.post("/dashboard/keys/management", {"label": "ci"}))
            manager = re.findall(r"tb_live_manage_[A-Za-z0-9]+", made)[0]
            await eve.post("/dashboard/keys", {"label": "mine"})
            # As if nobody had been asked for it when they came.
            await site.database.execute('UPDATE "user" SET verified_at = NULL')
            password = NEW if another else PASSWORD
            if another:
                fields = {"email": "ada@example.com", "password": password, "consent": "1"}
                assert (await ada.post("/auth/register", fields)).status_code == 200
            # A second link, by a log-in, forgets nothing of this.
            await ada.log_in("ada@example.com", password)
            fields = {"token": await token_to(site, "ada@example.com"), "password": password}
            assert (await ada.post("/auth/verify", fields)).status_code == 303
            reply = await ada.client.get("/api/keys", headers={"authorization": f"Bearer {manager}"})
            assert reply.status_code == (401 if another else 200)
            live = await site.database.fetch("SELECT count(*) FROM api_key WHERE revoked_at IS NULL")
            # The site's own account has one more.
            assert live == [(1 if another else 3,)]
            noted = await site.database.fetch(
                "SELECT action FROM activity WHERE action LIKE '%revoked' AND actor = 'ada@example.com' ORDER BY id"
            )
            gone = ["key.revoked", "key.revoked", "management_key.revoked"]
            assert [action for (action,) in noted] == (gone if another else [])

    run(test())


def test_keys_that_somebody_made_before_addresses_were_verified_end_with_a_reset_by_mail() -> None:
    async def test(required: bool) -> None:
        wanted = "always" if required else "never"
        async with house(f'require_verified_email = "{wanted}"\n') as site, Visitor(site) as ada:
            await registered(site, "ada@example.com")
            await site.database.execute('UPDATE "user" SET verified_at = NULL')
            for _ in range(2):
                token = await reset_token(site, "ada@example.com")
                assert (await ada.post("/auth/reset", {"token": token, "password": NEW})).status_code == 303
            revoked = await site.database.fetch("SELECT count(*) FROM api_key WHERE revoked_at IS NOT NULL")
            assert revoked == [(1 if required else 0,)]

    run(test(required=True))
    run(test(required=False))


@pytest.mark.parametrize("way", ["register", "reset"])
def test_second_factor_and_people_of_who_came_by_an_address_before_go_when_its_owner_comes(way: str) -> None:
    """Neither keeps the owner out, nor lets the other one in."""

    async def test() -> None:
        async with house('require_verified_email = "always"\n') as site, Visitor(site) as ada:
            eve, mate = await registered(site, "ada@example.com"), await registered(site, "mate@example.com")
            boss = await registered(site, "boss@example.com")
            await eve.post("/dashboard/members", {"email": "mate@example.com", "role": "owner"})
            await mate.post("/auth/invitation", {"token": await token_to(site, "mate@example.com")})
            await eve.post("/dashboard/members", {"email": "later@example.com", "role": "admin"})
            later = await token_to(site, "later@example.com")
            # An account to which the owner of the address was invited is nobody's prey.
            await boss.post("/dashboard/members", {"email": "ada@example.com", "role": "owner"})
            await eve.post("/auth/invitation", {"token": await token_to(site, "ada@example.com")})
            secret = secret_of(await eve.get(f"{SETTINGS}/two-factor"))
            step = await site.database.now() // 1000 // totp.STEP_S
            assert "recovery" in shown(await eve.post(f"{SETTINGS}/two-factor", {"code": totp.code(secret, step)}))
            # As if nobody had been asked for it when they came.
            await site.database.execute('UPDATE "user" SET verified_at = NULL WHERE email = $1', "ada@example.com")
            if way == "register":
                fields = {"email": "ada@example.com", "password": NEW, "consent": "1"}
                await ada.post("/auth/register", fields)
                fields = {"token": await token_to(site, "ada@example.com"), "password": NEW}
                assert (await ada.post("/auth/verify", fields)).status_code == 303
            else:
                token = await reset_token(site, "ada@example.com")
                assert (await ada.post("/auth/reset", {"token": token, "password": NEW})).status_code == 303
                await ada.log_in("ada@example.com", NEW)
            # Its keys work on: whoever registers with the address of one of its owners must not end them.
            live = await site.database.fetch(
                "SELECT email, COUNT(*) - COUNT(revoked_at) FROM account JOIN api_key ON account_id = account.id "
                "WHERE email IN ('ada@example.com', 'boss@example.com') GROUP BY email ORDER BY email"
            )
            assert live == [("ada@example.com", 0), ("boss@example.com", 1)]
            account = (await accounts.get(site.database, "ada@example.com")).public_id
            await ada.post(f"/dashboard/accounts/{account}")
            assert (await ada.get("/dashboard")).status_code == 200
            assert await site.database.fetch("SELECT * FROM recovery_code") == []
            assert secret_of(await ada.get(f"{SETTINGS}/two-factor")) != secret
            page = await ada.get("/dashboard/members")
            assert "mate@example.com" not in shown(page)
            assert "later@example.com" not in shown(page)
            assert (await mate.post(f"/dashboard/accounts/{account}")).status_code == 404
            assert (await mate.get(f"/auth/invitation?token={later}")).status_code == 400
            noted = await ada.get("/dashboard/activity")
            assert all(word in shown(noted) for word in ("removed a member", "withdrew an invitation"))
            assert "ada@example.com" in shown(await boss.get("/dashboard/members"))
            assert (await boss.get("/dashboard")).status_code == 200

    run(test())


def test_whoever_registered_by_the_address_of_a_new_operator_is_none() -> None:
    """Nobody had to show that it is theirs."""

    async def test() -> None:
        async with house() as site, Visitor(site) as boss:
            eve = await registered(site, "boss@example.com")
            secret = secret_of(await eve.get(f"{SETTINGS}/two-factor"))
            step = await site.database.now() // 1000 // totp.STEP_S
            assert "recovery" in shown(await eve.post(f"{SETTINGS}/two-factor", {"code": totp.code(secret, step)}))
            await add_passkey(site, "boss@example.com")
            token = await operators.link(site.database, "boss@example.com", create=False)
            assert (await eve.get("/admin")).headers["location"].startswith("/auth/login")
            assert (await eve.log_in("boss@example.com")).status_code == 400
            assert await site.database.fetch("SELECT * FROM passkey") == []
            assert (await boss.post("/auth/reset", {"token": token, "password": NEW})).status_code == 303
            assert (await boss.log_in("boss@example.com", NEW)).status_code == 303
            # The next link, of somebody who is known, leaves them where they are.
            await operators.link(site.database, "boss@example.com", create=False)
            assert (await boss.get("/dashboard")).status_code == 200

    run(test())
