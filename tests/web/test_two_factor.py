"""The second factor: how it is switched on, asked for, replaced and noted."""

import base64
import html
import re

import pytest
from tests.gateway.site import run
from tests.web.town import operator, secret_of
from tests.web.visitors import NEW, SETTINGS, Visitor, house, letters, registered, reset_token, shown

from tollbridge.core import totp
from tollbridge.services.throttle import FAILURES_A_DAY, Door
from tollbridge.store import throttle
from tollbridge.values import DAY_MS
from tollbridge.web import render


def test_who_guesses_second_factors_keeps_out_nobody_who_has_given_theirs_in_this_browser_before() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as thief:
            ada = await registered(site, "ada@example.com")
            secret = secret_of(await ada.get(f"{SETTINGS}/two-factor"))
            step = await site.database.now() // 1000 // totp.STEP_S
            code = {"code": totp.code(secret, step - 1)}
            codes = re.findall(r"\b\w{5}-\w{5}\b", shown(await ada.post(f"{SETTINGS}/two-factor", code)))
            await ada.post("/auth/logout")
            assert "/auth/second" in (await ada.log_in("ada@example.com")).headers["location"]
            assert (await ada.post("/auth/second", {"code": codes[0]})).headers["location"] == "/dashboard"
            await ada.post("/auth/logout")

            rows = await site.database.fetch('SELECT public_id FROM "user" WHERE email = $1', "ada@example.com")
            _, failures, _ = Door(account=f"totp/{rows[0][0]}", client="10.6.6.6").names()
            now = await site.database.now()
            for _ in range(FAILURES_A_DAY):
                await throttle.add(site.database, failures, DAY_MS, now)
            for visitor, status in ((thief, 429), (ada, 303)):
                assert "/auth/second" in (await visitor.log_in("ada@example.com")).headers["location"]
                assert ("device" in visitor.client.cookies) is (visitor is ada)
                assert (await visitor.post("/auth/second", {"code": codes[1]})).status_code == status

    run(test())


def test_a_second_factor_is_asked_for_and_each_code_is_good_once() -> None:
    """B16."""

    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            secret = secret_of(await ada.get(f"{SETTINGS}/two-factor"))
            assert secret_of(await ada.get(f"{SETTINGS}/two-factor")) == secret
            assert (await ada.post(f"{SETTINGS}/two-factor", {"code": "000000"})).status_code == 400
            # Of now and of the next half minute: both are still good when that begins meanwhile.
            step = await site.database.now() // 1000 // totp.STEP_S
            page = await ada.post(f"{SETTINGS}/two-factor", {"code": totp.code(secret, step)})
            codes = re.findall(r"[a-z2-9]{5}-[a-z2-9]{5}", shown(page))
            assert len(set(codes)) == 10
            async with Visitor(site) as visitor:
                assert (await visitor.log_in("ada@example.com")).headers["location"] == "/auth/second"
                assert (await visitor.get("/dashboard")).headers["location"].startswith("/auth/login")
                await visitor.get("/auth/second")
                for code in (totp.code(secret, step), "123456", ""):
                    assert (await visitor.post("/auth/second", {"code": code})).status_code == 400
                code = totp.code(secret, step + 1)
                assert (await visitor.post("/auth/second", {"code": code})).headers["location"] == "/dashboard"
                assert (await visitor.get("/dashboard")).status_code == 200
            for code, status in (
                (totp.code(secret, step + 1), 400),
                (codes[0], 303),
                (codes[0], 400),
                (codes[1].upper(), 303),
            ):
                async with Visitor(site) as visitor:
                    await visitor.log_in("ada@example.com")
                    await visitor.get("/auth/second")
                    assert (await visitor.post("/auth/second", {"code": code})).status_code == status

    run(test())


@pytest.mark.parametrize("way", ["reset", "change"])
def test_a_secret_that_was_shown_before_the_password_changed_is_proposed_no_more(way: str) -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as owner:
            thief = await registered(site, "ada@example.com")
            await owner.log_in("ada@example.com")
            secret = secret_of(await thief.get(f"{SETTINGS}/two-factor"))
            if way == "reset":
                token = await reset_token(site, "ada@example.com")
                assert (await owner.post("/auth/reset", {"token": token, "password": NEW})).status_code == 303
                await owner.log_in("ada@example.com", NEW)
            else:
                assert (await owner.post(f"{SETTINGS}/password", {"password": NEW})).status_code == 303
            code = {"code": totp.code(secret, await site.database.now() // 1000 // totp.STEP_S)}
            refused = await owner.post(f"{SETTINGS}/two-factor", code)
            assert refused.status_code == 400
            assert secret_of(refused) != secret
            # What is in use stays.
            page = await owner.get(f"{SETTINGS}/two-factor")
            code = {"code": totp.code(secret_of(page), await site.database.now() // 1000 // totp.STEP_S)}
            assert "recovery" in shown(await owner.post(f"{SETTINGS}/two-factor", code))
            assert (await owner.post(f"{SETTINGS}/password", {"password": f"{NEW}, again"})).status_code == 303
            async with Visitor(site) as again:
                assert (await again.log_in("ada@example.com", f"{NEW}, again")).headers["location"] == "/auth/second"
                sealed = await site.database.fetch('SELECT totp_secret FROM "user" WHERE totp_since > 0')
                assert sealed[0][0] is not None

    run(test())


def test_what_is_done_with_a_second_factor_is_noted_and_nobody_logs_in_by_one_of_two() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            secret = secret_of(await ada.get(f"{SETTINGS}/two-factor"))
            [(before,)] = await site.database.fetch("SELECT MAX(id) FROM activity")
            step = await site.database.now() // 1000 // totp.STEP_S
            shown_codes = shown(await ada.post(f"{SETTINGS}/two-factor", {"code": totp.code(secret, step)}))
            recovery = re.findall(r"[a-z2-9]{5}-[a-z2-9]{5}", shown_codes)[0]
            for codes in (["123456", totp.code(secret, step + 1)], [recovery]):
                async with Visitor(site) as visitor:
                    await visitor.log_in("ada@example.com")
                    await visitor.get("/auth/second")
                    for code in codes:
                        await visitor.post("/auth/second", {"code": code})
            assert (await ada.post(f"{SETTINGS}/two-factor/off")).status_code == 303
            noted = await site.database.fetch(
                "SELECT action, actor, address FROM activity WHERE id > $1 ORDER BY id", before
            )
            actions = ["two_factor.on", "login.half", "login", "login.half", "login.recovery", "two_factor.off"]
            assert noted == [(each, "ada@example.com", "127.0.0.1") for each in actions]
            page = shown(await ada.get("/dashboard/activity"))
            assert "turned the second factor off" in page
            mails = [(recipient, subject) for recipient, subject, _ in await letters(site)]
            words = ["The second factor was turned off", "A recovery code was used (9 left)"]
            words.append("The second factor was turned on")
            assert mails == [("ada@example.com", f"Tollbridge: {each}") for each in words]
            assert "began to log in, and was asked for the second factor" in page

    run(test())


def test_an_authenticator_is_shown_the_key_as_a_picture() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            page = await ada.get(f"{SETTINGS}/two-factor")
            link = html.unescape(re.findall(r'href="(otpauth:[^"]+)"', page.text)[0])
            assert base64.b32encode(secret_of(page)).decode() in link
            picture = html.unescape(re.findall(r'<img class="qr" src="([^"]+)"', page.text)[0])
            assert picture == render.qr(link)
            assert picture.startswith("data:image/svg+xml")
            assert picture != render.qr(f"{link}x")

    run(test())


def test_operators_work_with_a_second_factor_only_and_keep_it() -> None:
    async def test() -> None:
        async with house() as site:
            boss = await operator(site)
            assert (await boss.get("/admin/outbox")).status_code == 200
            assert (await boss.post(f"{SETTINGS}/two-factor/off")).status_code == 400
            await site.database.execute('UPDATE "user" SET totp_since = NULL WHERE operator')
            asked = await boss.get("/admin/outbox")
            assert asked.headers["location"].startswith(f"{SETTINGS}/two-factor")

    run(test())


def test_who_has_another_authenticator_replaces_the_second_factor_and_gets_new_recovery_codes(
    postgres_url: str,
) -> None:
    """Operators too, who cannot be without one: their recovery codes would come to an end."""

    async def test() -> None:
        async with house(database_url=postgres_url) as site:
            boss = await operator(site)
            used = await site.database.fetch('SELECT totp_secret FROM "user" WHERE operator')
            assert "Replace it" in shown(await boss.get(SETTINGS))
            page = await boss.get(f"{SETTINGS}/two-factor")
            assert "Replace your second factor" in shown(page)
            secret = secret_of(page)
            # Until a code of the new one is given, the one before is good.
            assert (await boss.post(f"{SETTINGS}/two-factor", {"code": "000000"})).status_code == 400
            assert await site.database.fetch('SELECT totp_secret FROM "user" WHERE operator') == used
            step = await site.database.now() // 1000 // totp.STEP_S
            page = await boss.post(f"{SETTINGS}/two-factor", {"code": totp.code(secret, step)})
            codes = re.findall(r"[a-z2-9]{5}-[a-z2-9]{5}", shown(page))
            assert len(set(codes)) == 10
            assert (await boss.get("/admin/outbox")).status_code == 200
            [email] = (await site.database.fetch('SELECT email FROM "user" WHERE operator'))[0]
            assert (await letters(site))[0][:2] == (email, "Tollbridge: The second factor was replaced")
            async with Visitor(site) as again:
                assert (await again.log_in(email)).headers["location"] == "/auth/second"
                await again.get("/auth/second")
                code = totp.code(secret, step + 1)
                assert (await again.post("/auth/second", {"code": code})).headers["location"] == "/dashboard"
                assert (await again.get("/admin/outbox")).status_code == 200
            rows = await site.database.fetch("SELECT count(*) FROM recovery_code")
            assert rows == [(10,)]

    run(test())
