"""Passkeys with a real browser and its virtual authenticator, and what is no passkey."""

import base64
import hashlib
import json
import secrets
import time
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from playwright.async_api import BrowserContext, Page
from tests.gateway.site import Site, run
from tests.web.browser import browser
from tests.web.visitors import PASSWORD, Visitor, house, letters, registered, shown

from tollbridge.services.throttle import FAILURES_A_MINUTE

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


# Three kilobytes of a regular expression, as a tag: making it takes a general decoder seconds.
SLOW = b"\xd8\x23" + cbor2.dumps("(?i)" + "[\u00e0-\U0010ffff]" * 300)


@pytest.mark.parametrize("where", ["statement", "extensions", "key"])
def test_what_is_slow_to_decode_is_refused_before_it_is_decoded(where: str) -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            token = await ada.token(SETTINGS)
            for device, status in ((Device(site), 200), (Device(site, **{where: SLOW}), 400)):
                asked = (await send(ada, f"{SETTINGS}/passkeys/options", token, {})).json()
                began = time.process_time()
                response = await send(ada, f"{SETTINGS}/passkeys", token, {"credential": device.create(asked)})
                assert response.status_code == status
                assert time.process_time() - began < 0.5
            assert await site.database.fetch("SELECT count(*) FROM passkey") == [(1,)]

    run(test())


def test_a_log_in_with_extensions_that_are_slow_to_decode_is_refused() -> None:
    async def test() -> None:
        async with house() as site:
            ada, device = await registered(site, "ada@example.com"), Device(site)
            token = await ada.token(SETTINGS)
            asked = (await send(ada, f"{SETTINGS}/passkeys/options", token, {})).json()
            await send(ada, f"{SETTINGS}/passkeys", token, {"credential": device.create(asked)})
            for extensions, status in ((SLOW, 400), (cbor2.dumps({"credProtect": 2}), 200)):
                device.extensions = extensions
                async with Visitor(site) as visitor:
                    token = await visitor.token()
                    asked = (await send(visitor, "/auth/passkey/options", token, {})).json()
                    began = time.process_time()
                    response = await send(visitor, "/auth/passkey", token, {"credential": device.get(asked)})
                    assert response.status_code == status
                    assert time.process_time() - began < 0.5

    run(test())


def test_who_has_to_confirm_their_address_first_is_told_so() -> None:
    """As they had not to when they registered."""

    async def test() -> None:
        async with house('require_verified_email = "always"\n') as site, Visitor(site) as again:
            ada, device = await registered(site, "ada@example.com"), Device(site)
            token = await ada.token(SETTINGS)
            asked = (await send(ada, f"{SETTINGS}/passkeys/options", token, {})).json()
            await send(ada, f"{SETTINGS}/passkeys", token, {"credential": device.create(asked)})
            await site.database.execute('UPDATE "user" SET verified_at = NULL')
            token = await again.token()
            asked = (await send(again, "/auth/passkey/options", token, {})).json()
            led = (await send(again, "/auth/passkey", token, {"credential": device.get(asked)})).json()["location"]
            assert "is not confirmed yet" in shown(await again.get(led))
            assert (await letters(site))[0][1] == "Tollbridge: Confirm your e-mail address"

    run(test())


def test_who_fails_again_and_again_is_soon_not_listened_to_and_costs_no_rows() -> None:
    async def test() -> None:
        async with house('[server]\ntrusted_proxies = ["127.0.0.1"]\n') as site:
            async with Visitor(site, **{"x-forwarded-for": "10.6.6.6"}) as stranger:
                token = await stranger.token()
                statuses = []
                for _ in range(FAILURES_A_MINUTE + 3):
                    asked = (await send(stranger, "/auth/passkey/options", token, {})).json()
                    answer = {"credential": Device(site).get(asked)}
                    statuses.append((await send(stranger, "/auth/passkey", token, answer)).status_code)
                assert statuses == [400] * FAILURES_A_MINUTE + [429] * 3
            assert await site.database.fetch("SELECT count(*) FROM throttle") == [(FAILURES_A_MINUTE + 1,)]

            device, ada = Device(site), Visitor(site, **{"x-forwarded-for": "10.1.1.1"})
            await ada.post("/auth/register", {"email": "ada@example.com", "password": PASSWORD, "consent": "1"})
            token = await ada.token(SETTINGS)
            asked = (await send(ada, f"{SETTINGS}/passkeys/options", token, {})).json()
            await send(ada, f"{SETTINGS}/passkeys", token, {"credential": device.create(asked)})
            for _ in range(FAILURES_A_MINUTE + 3):
                async with Visitor(site, **{"x-forwarded-for": "10.1.1.1"}) as visitor:
                    token = await visitor.token()
                    asked = (await send(visitor, "/auth/passkey/options", token, {})).json()
                    response = await send(visitor, "/auth/passkey", token, {"credential": device.get(asked)})
                    assert response.status_code == 200

    run(test())


class Device:
    """An authenticator in software. `statement`, `extensions`, `key`: CBOR that it adds there."""

    def __init__(self, site: Site, *, statement: bytes = b"", extensions: bytes = b"", key: bytes = b"") -> None:
        self.origin = f"http://localhost:{site.port}"
        self.secret = ec.generate_private_key(ec.SECP256R1())
        self.id = secrets.token_bytes(16)
        self.statement, self.extensions, self.key = statement, extensions, key
        self.count = 0

    def create(self, asked: Any) -> Any:
        point = self.secret.public_key().public_numbers()
        key = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: point.x.to_bytes(32), -3: point.y.to_bytes(32)})
        if self.key:
            key = b"\xa6" + key[1:] + cbor2.dumps(-9) + self.key
        about = self._data(0x45, bytes(16) + len(self.id).to_bytes(2) + self.id + key)
        made = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": about})
        if self.statement:
            made = b"\xa4" + made[1:] + cbor2.dumps("x") + self.statement
        return self._credential("create", asked, {"attestationObject": made})

    def get(self, asked: Any) -> Any:
        self.count += 1
        return self._credential("get", asked, {"authenticatorData": self._data(0x05)})

    def _data(self, flags: int, more: bytes = b"") -> bytes:
        flags |= 0x80 if self.extensions else 0
        name = hashlib.sha256(b"localhost").digest()
        return name + bytes([flags]) + self.count.to_bytes(4) + more + self.extensions

    def _credential(self, what: str, asked: Any, answer: dict[str, bytes]) -> Any:
        said = {"type": f"webauthn.{what}", "challenge": asked["challenge"], "origin": self.origin}
        answer["clientDataJSON"] = json.dumps(said).encode()
        if what == "get":
            signed = answer["authenticatorData"] + hashlib.sha256(answer["clientDataJSON"]).digest()
            answer["signature"] = self.secret.sign(signed, ec.ECDSA(SHA256()))
        texts = {name: _text(value) for name, value in answer.items()}
        return {"id": _text(self.id), "rawId": _text(self.id), "type": "public-key", "response": texts}


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


async def send(visitor: Visitor, path: str, token: str, body: Any) -> Any:
    text = body if isinstance(body, str) else json.dumps(body)
    headers = {"content-type": "application/json", "accept": "application/json", "x-csrf-token": token}
    return await visitor.client.post(path, content=text, headers=headers)
