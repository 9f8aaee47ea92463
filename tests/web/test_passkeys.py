"""Passkeys with a real browser and its virtual authenticator, and what is no passkey."""

import base64
import json
from typing import Any

from playwright.async_api import BrowserContext, Page
from tests.gateway.site import run
from tests.web.browser import browser
from tests.web.visitors import PASSWORD, Visitor, house, letters, registered, shown

SETTINGS = "/dashboard/settings"


async def authenticator(context: BrowserContext, page: Page) -> None:
    """A device that unlocks itself when it is asked."""
    devtools = await context.new_cdp_session(page)
    await devtools.send("WebAuthn.enable")
    options = {
        "protocol": "ctap2",
        "transport": "internal",
        "hasResidentKey": True,
        "hasUserVerification": True,
        "isUserVerified": True,
        "automaticPresenceSimulation": True,
    }
    await devtools.send("WebAuthn.addVirtualAuthenticator", {"options": options})


def test_a_passkey_is_added_lets_in_as_two_factors_and_is_removed() -> None:
    async def test() -> None:
        async with house() as site, browser() as chromium:
            here = f"http://localhost:{site.port}"
            context = await chromium.context()
            page = await chromium.open(f"{here}/auth/register", context)
            await authenticator(context, page)
            await page.fill("#email", "ada@example.com")
            await page.fill("#password", PASSWORD)
            await page.check("#consent")
            await page.click("text=Create account")
            await page.wait_for_url("**/dashboard")
            await page.goto(here + SETTINGS)
            assert "To add one, open this page" not in await page.inner_text("main")
            await page.click("text=Add a passkey")
            await page.wait_for_selector("text=Your passkey is ready")
            assert "Chrome on Linux since" in await page.inner_text("main")
            # A second factor is set up too: the passkey is as good as both.
            await site.database.execute('UPDATE "user" SET totp_since = 1, totp_secret = $1', b"x")
            await context.clear_cookies()
            await page.goto(f"{here}/auth/login?next={SETTINGS}")
            await page.click("text=Log in with a passkey")
            await page.wait_for_url(here + SETTINGS)
            assert await site.database.fetch("SELECT factors FROM session ORDER BY id DESC LIMIT 1") == [(2,)]
            [(used,)] = await site.database.fetch("SELECT used_at FROM passkey")
            assert used is not None
            page.on("dialog", lambda dialog: dialog.accept())
            await page.click("button:has-text('Remove')")
            await page.wait_for_selector("text=The passkey is removed")
            noted = await site.database.fetch("SELECT action FROM activity ORDER BY id")
            assert [action for (action,) in noted if action.startswith("passkey")] == [
                "passkey.added",
                "passkey.removed",
            ]
            subjects = [subject for _, subject, _ in await letters(site)]
            assert subjects == [f"Tollbridge: A passkey was {each}" for each in ("removed", "added")]
            await context.clear_cookies()
            await page.goto(f"{here}/auth/login")
            await page.click("text=Log in with a passkey")
            await page.wait_for_selector("text=This passkey was not accepted")

    run(test())


def test_what_is_no_passkey_lets_nobody_in() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            await site.database.execute(
                "INSERT INTO passkey (user_id, credential, public_key, counter, label, created_at) "
                "SELECT id, $1, $1, 0, '', 0 FROM \"user\"",
                b"known",
            )
            async with Visitor(site) as visitor:
                token = await visitor.token()
                known = base64.urlsafe_b64encode(b"known").decode().rstrip("=")
                answer = {"clientDataJSON": "e30", "authenticatorData": "e30", "signature": "e30", "userHandle": "e30"}
                whole = {"id": known, "rawId": known, "type": "public-key", "response": answer}
                tries: list[Any] = [None, {}, "x", 7, [], {"rawId": 7}, {"rawId": "!"}, {"rawId": known}, whole]
                for credential in tries:
                    for asked in (True, False):
                        if asked:
                            assert (await send(visitor, "/auth/passkey/options", token, {})).status_code == 200
                        response = await send(visitor, "/auth/passkey", token, {"credential": credential})
                        assert response.status_code == 400, credential
                        assert "sid" not in visitor.client.cookies
                for body in ("null", "[]", "{", '"x"'):
                    assert (await send(visitor, "/auth/passkey", token, body)).status_code == 400
            token = await ada.token(SETTINGS)
            for credential in tries:
                await send(ada, f"{SETTINGS}/passkeys/options", token, {})
                response = await send(ada, f"{SETTINGS}/passkeys", token, {"credential": credential, "label": "x"})
                assert response.status_code == 400
            assert "Passkeys" in shown(await ada.get(SETTINGS))

    run(test())


async def send(visitor: Visitor, path: str, token: str, body: Any) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": "application/json", "accept": "application/json", "x-csrf-token": token}
    return await visitor.client.post(path, content=text, headers=headers)
