"""Logging in elsewhere: by a real OpenID Connect provider, and as GitHub does it."""

import asyncio
import html
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import parse_qs, quote, urljoin, urlsplit

import httpx
import pytest
from tests.gateway.site import Site, chat, http, run
from tests.servers import free_port
from tests.upstream.bad_server import BadServer, Peer
from tests.web.browser import axe, browser, picture, pictures_wanted, run_long
from tests.web.town import secret_of
from tests.web.visitors import PASSWORD, Visitor, add_passkey, house, letters, registered, reset_token, shown
from tools.npm_install import install

from tollbridge.core import totp
from tollbridge.services import accounts, byok, operators
from tollbridge.services.throttle import FAILURES_A_MINUTE
from tollbridge.store import top_ups
from tollbridge.store.db import run as run_within
from tollbridge.store.top_ups import AutoTopUp

HERE = Path(__file__).parent / "oidc"


@pytest.fixture(scope="session")
def oidc_provider() -> Path:
    """The installed `oidc-provider`."""
    return install(HERE)


@asynccontextmanager
async def provider(redirect: str, port: int) -> AsyncIterator[None]:
    environment = {**os.environ, "PORT": str(port), "REDIRECT": redirect}
    process = await asyncio.create_subprocess_exec(
        *("node", "provider.mjs"),
        cwd=HERE,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()


def config(port: int) -> str:
    return (
        f'[login.test]\nlabel = "Test"\nissuer = "http://127.0.0.1:{port}"\n'
        'client_id = "tollbridge"\nclient_secret = "a-secret-of-the-test"\n'
    )


async def walk(visitor: Visitor, login: str, start: str = "/auth/with/test") -> httpx.Response:
    """Through the provider's own pages and back; our answer to where it sent the visitor."""
    response = await visitor.get(start)
    assert response.status_code == 303
    async with httpx.AsyncClient(trust_env=False, timeout=10) as there:
        url = response.headers["location"]
        response = await there.get(url)
        for _ in range(12):
            if "location" in response.headers:
                url = urljoin(url, response.headers["location"])
                if url.startswith(visitor.url):
                    return await visitor.get(url.removeprefix(visitor.url))
                response = await there.get(url)
                continue
            action = re.findall(r'action="([^"]+)"', response.text)[0]
            fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', response.text))
            fields |= {"login": login, "password": "x"} if fields.get("prompt") == "login" else {}
            url = urljoin(url, html.unescape(action))
            response = await there.post(url, data=fields)
    raise AssertionError("the provider sends nobody back")


async def start_anew(visitor: Visitor, login: str) -> httpx.Response:
    """As `walk`, for who says that it was somebody else who registered with their address."""
    asked = (await walk(visitor, login)).headers["location"]
    assert asked == "/auth/claim?next=%2Fdashboard"
    assert "Is this account yours?" in shown(await visitor.get(asked))
    return await visitor.post(asked, {"anew": "1"})


@asynccontextmanager
async def site_with_provider() -> AsyncIterator[Site]:
    port = free_port()
    async with house(config(port)) as site, provider(f"{site.url}/auth/with/test/back", port):
        yield site


def test_a_new_user_has_an_account_and_comes_back_to_it(oidc_provider: Path) -> None:
    async def test() -> None:
        async with site_with_provider() as site:
            async with Visitor(site) as ada:
                assert "Continue with Test" in shown(await ada.get("/auth/login"))
                assert (await walk(ada, "ada", "/auth/with/test?next=/dashboard/settings")).headers["location"] == (
                    "/dashboard/settings"
                )
                page = shown(await ada.get("/dashboard"))
                assert "ada@example.com" in page
                assert "$0.50" in page
            async with Visitor(site) as again:
                assert (await walk(again, "ada")).headers["location"] == "/dashboard"
            assert await site.database.fetch('SELECT count(*) FROM "user"') == [(1,)]
            async with Visitor(site) as unverified:
                assert "no verified e-mail address" in shown(await walk(unverified, "unverified-eve"))

    run(test())


@pytest.mark.parametrize("letter", ["a", '"', "é", "\U0001f600"])
def test_however_long_the_way_back_the_browser_keeps_what_the_answer_must_match(letter: str) -> None:
    async def test() -> None:
        async with issuer_that_says({}) as site, Visitor(site) as visitor:
            for length in (1, 200, 290, 590, 1_100, 1_199, 1_300, 5_000):
                await visitor.get(f"/auth/with/test?next=/{quote(letter * length)}")
                assert len(f"__Host-oidc={visitor.client.cookies['oidc']}") <= 4_096

    run(test())


def test_a_verified_address_leads_to_the_user_who_has_it_but_never_to_an_operator(oidc_provider: Path) -> None:
    async def test() -> None:
        async with site_with_provider() as site:
            await registered(site, "ada@example.com")
            await registered(site, "boss@example.com")
            await site.database.execute('UPDATE "user" SET operator = 1 WHERE email = $1', "boss@example.com")
            async with Visitor(site) as ada, Visitor(site) as boss, Visitor(site) as thief:
                assert (await start_anew(ada, "ada")).headers["location"] == "/dashboard"
                assert (await walk(boss, "boss")).status_code == 400
                # Nobody had shown that the address was theirs: the password that was chosen then is void.
                assert (await thief.log_in("ada@example.com", PASSWORD)).status_code == 400
            assert await letters(site) == []

    run(test())


def test_who_registered_with_an_address_before_its_owner_came_keeps_nothing_of_theirs(oidc_provider: Path) -> None:
    """Not where nobody can be sent a link either: the issuer has shown whose it is."""

    async def test() -> None:
        async with site_with_provider() as site:
            eve = await registered(site, "ada@example.com")
            secret = secret_of(await eve.get("/dashboard/settings/two-factor"))
            step = await site.database.now() // 1000 // totp.STEP_S
            code = {"code": totp.code(secret, step)}
            assert "recovery" in shown(await eve.post("/dashboard/settings/two-factor", code))
            made = shown(await eve.post("/dashboard/keys", {"label": "mine"}))
            key = re.findall(r"tb_live_[A-Za-z0-9]+", made)[0]
            account = await accounts.get(site.database, "ada@example.com")
            desk = site.gateway._desk
            assert desk is not None
            await byok.add(
                *(site.database, desk.master, account),
                provider="deepseek",
                credential="sk-of-eve",
                providers=["deepseek"],
                actor="cli/root",
            )
            await site.database.execute(
                "INSERT INTO buyer (account_id, name, address, tax_id, customer, card, card_hint) "
                "VALUES ($1, '', '', '', 'cus_1', 'pm_1', 'visa 4242')",
                account.id,
            )
            every = AutoTopUp(account_id=account.id, threshold=1, amount=1, daily_cap=1)
            await run_within(site.database, lambda transaction: top_ups.put(transaction, every))
            async with Visitor(site) as ada:
                # Neither keeps the owner out …
                assert (await start_anew(ada, "ada")).headers["location"] == "/dashboard"
                assert (await ada.get("/dashboard")).status_code == 200
                # … nor pays for what the owner does …
                for table in ("byok", "auto_top_up", "buyer WHERE card IS NOT NULL"):
                    assert await site.database.fetch(f"SELECT 1 FROM {table}") == []
                deeds = shown(await ada.get("/dashboard/activity"))
                assert "removed a credential" in deeds
                assert "removed the saved card" in deeds
            # … nor spends what they pay in.
            reply = await site.post("/v1/chat/completions", chat("hi"), headers={"authorization": f"Bearer {key}"})
            assert reply.status == 401

    run(test())


async def key_works(site: Site, key: str) -> bool:
    reply = await site.post("/v1/chat/completions", chat("hi"), headers={"authorization": f"Bearer {key}"})
    return reply.status == 200


def test_who_registered_by_a_password_and_knows_it_keeps_everything_when_they_log_in_elsewhere(
    oidc_provider: Path,
) -> None:
    async def test() -> None:
        async with site_with_provider() as site:
            first = await registered(site, "ada@example.com")
            made = shown(await first.post("/dashboard/keys", {"label": "mine"}))
            key = re.findall(r"tb_live_[A-Za-z0-9]+", made)[0]
            await first.post("/dashboard/members", {"email": "bob@example.com", "role": "viewer"})
            secret = secret_of(await first.get("/dashboard/settings/two-factor"))
            step = await site.database.now() // 1000 // totp.STEP_S
            await first.post("/dashboard/settings/two-factor", {"code": totp.code(secret, step)})
            async with Visitor(site) as ada:
                asked = (await walk(ada, "ada", "/auth/with/test?next=/dashboard/keys")).headers["location"]
                assert asked == "/auth/claim?next=%2Fdashboard%2Fkeys"
                assert "ada@example.com" in shown(await ada.get(asked))
                refused = await ada.post(asked, {"password": "not the password"})
                assert refused.status_code == 400
                assert "This is not the password" in shown(refused)
                assert await site.database.fetch("SELECT * FROM identity") == []
                assert (await ada.get("/dashboard")).status_code == 303
                second = (await ada.post(asked, {"password": PASSWORD})).headers["location"]
                assert second == "/auth/second?next=%2Fdashboard%2Fkeys"
                await ada.get(second)
                await site.database.execute('UPDATE "user" SET totp_step = 0')
                entered = await ada.post(second, {"code": totp.code(secret, step)})
                assert entered.headers["location"] == "/dashboard/keys"
                assert "bob@example.com" in shown(await ada.get("/dashboard/members"))
                assert "logged in with another service" in shown(await ada.get("/dashboard/activity"))
                assert "claim" not in ada.client.cookies
            assert await key_works(site, key)
            assert (await first.get("/dashboard")).status_code == 200
            async with Visitor(site) as again:
                assert (await walk(again, "ada")).headers["location"].startswith("/auth/second")
            async with Visitor(site) as again:
                assert (await again.log_in("ada@example.com", PASSWORD)).headers["location"] == "/auth/second"

    run(test())


def test_a_browser_comes_back_from_the_provider_to_the_question_whose_the_account_is(
    oidc_provider: Path, axe_core: Path
) -> None:
    async def test() -> None:
        async with site_with_provider() as site, browser() as chromium:
            await registered(site, "ada@example.com")
            page = await chromium.open(f"{site.url}/auth/login")
            await page.click("text=Continue with Test")
            await page.fill("[name=login]", "ada")
            await page.fill("[name=password]", "x")
            await page.click("button:text-is('Sign-in')")
            await page.click("button:text-is('Continue')")
            await page.wait_for_url("**/auth/claim?*")
            problems = await axe(page)
            if pictures_wanted():
                await picture(page, "claim")
            await page.fill("#password", "not the password")
            await page.click("button:text-is('Continue')")
            assert "This is not the password" in await page.inner_text("#password-note")
            page.once("dialog", lambda dialog: dialog.dismiss())
            await page.click("text=Start anew")
            await page.fill("#password", PASSWORD)
            await page.click("button:text-is('Continue')")
            await page.wait_for_url("**/dashboard")
            assert problems == []
            # The provider is another site, where the browser was sent.
            chromium.complaints = [each for each in chromium.complaints if site.url in each.split(" asks ")[-1]]

    run_long(test())


def test_the_password_that_shows_who_registered_is_not_to_be_guessed(oidc_provider: Path) -> None:
    async def test() -> None:
        async with site_with_provider() as site, Visitor(site) as ada, Visitor(site) as stranger:
            await registered(site, "ada@example.com")
            asked = (await walk(ada, "ada")).headers["location"]
            statuses = [(await ada.post(asked, {"password": f"guess {n}"})).status_code for n in range(6)]
            assert statuses == [400] * 5 + [429]
            # The address is theirs all the same.
            assert (await ada.post(asked, {"anew": "1"})).headers["location"] == "/dashboard"
            # Whom no service has sent back is asked for nothing.
            for response in (await stranger.get("/auth/claim"), await stranger.post("/auth/claim", {"anew": "1"})):
                assert response.status_code == 400
                assert "Please start again" in shown(response)

    run(test())


@pytest.mark.parametrize("meanwhile", ["another password", "registered again"])
def test_what_becomes_of_an_account_while_its_owner_is_asked_for_its_password(
    oidc_provider: Path, meanwhile: str
) -> None:
    async def test() -> None:
        async with site_with_provider() as site, Visitor(site) as ada:
            eve = await registered(site, "ada@example.com")
            key = re.findall(r"tb_live_[A-Za-z0-9]+", shown(await eve.post("/dashboard/keys", {"label": "mine"})))[0]
            asked = (await walk(ada, "ada")).headers["location"]
            if meanwhile == "another password":
                await eve.post("/dashboard/settings/password", {"password": f"{PASSWORD}, another"})
                assert (await ada.post(asked, {"password": PASSWORD})).status_code == 400
                assert await key_works(site, key)
            else:
                # As Ada does, where links are sent by now: it is her password, but she has not made the keys.
                await site.database.execute('UPDATE "user" SET consented_at = created_at + 1')
                assert (await ada.post(asked, {"password": PASSWORD})).headers["location"] == "/dashboard"
                assert not await key_works(site, key)
                # So she is not asked either.
                await site.database.execute('UPDATE "user" SET verified_at = NULL, password = $1', "x")
                await site.database.execute("DELETE FROM identity")
                async with Visitor(site) as again:
                    assert (await walk(again, "ada")).headers["location"] == "/dashboard"

    run(test())


def test_who_has_opened_no_account_is_asked_for_no_password(oidc_provider: Path) -> None:
    """Somebody registered with the address, and the link that would open an account lies in its mailbox."""

    async def test() -> None:
        port = free_port()
        settings = f'require_verified_email = "always"\n{config(port)}'
        async with house(settings) as site, provider(f"{site.url}/auth/with/test/back", port), Visitor(site) as ada:
            eve = Visitor(site)
            fields = {"email": "ada@example.com", "password": PASSWORD, "consent": "1"}
            assert (await eve.post("/auth/register", fields)).status_code == 200
            assert (await walk(ada, "ada")).headers["location"] == "/dashboard"
            assert (await eve.log_in("ada@example.com")).status_code == 400

    run(test())


def test_who_logs_in_elsewhere_for_the_first_time_is_told_and_can_end_it(oidc_provider: Path) -> None:
    async def test() -> None:
        async with site_with_provider() as site, Visitor(site) as ada, Visitor(site) as eve:
            await registered(site, "ada@example.com")
            token = await reset_token(site, "ada@example.com")
            assert (await ada.post("/auth/reset", {"token": token, "password": PASSWORD})).status_code == 303
            assert (await ada.log_in("ada@example.com")).status_code == 303
            assert "Other services" not in shown(await ada.get("/dashboard/settings"))
            # Somebody who has shown to the provider, one day, that this address is theirs.
            assert (await walk(eve, "ada")).headers["location"] == "/dashboard"
            assert [subject for _, subject, _ in await letters(site)] == ["Tollbridge: Test was added"]
            assert "logged in with another service" in shown(await ada.get("/dashboard/activity"))
            page = await ada.get("/dashboard/settings")
            assert "Other services" in shown(page)
            [issuer] = re.findall(r'name="issuer" value="([^"]+)"', page.text)
            # Their address is another one by now, and who has the old one does not come in by it.
            await site.database.execute('UPDATE "user" SET email = $1', "ada@example.org")
            remove = "/dashboard/settings/identities/remove"
            assert (await ada.post(remove, {"issuer": "https://another.example"})).status_code == 404
            assert (await ada.post(remove, {"issuer": issuer})).status_code == 303
            assert "Other services" not in shown(await ada.get("/dashboard/settings"))
            async with Visitor(site) as again:
                await walk(again, "ada")
                assert "ada@example.com" in shown(await again.get("/dashboard/settings"))

    run(test())


def test_who_has_no_password_proves_who_they_are_where_they_log_in(oidc_provider: Path) -> None:
    async def test() -> None:
        async with site_with_provider() as site, Visitor(site) as ada:
            await walk(ada, "ada")
            await site.database.execute("UPDATE session SET proved_at = 0")
            asked = await ada.get("/dashboard/settings/two-factor")
            page = await ada.get(asked.headers["location"])
            assert "you have no password" in shown(page)
            [again] = re.findall(r'href="(/auth/with/test[^"]*)"', page.text)
            back = await walk(ada, "ada", html.unescape(again))
            assert back.headers["location"].startswith("/dashboard/settings/two-factor")
            assert (await ada.get(back.headers["location"])).status_code == 200
            await site.database.execute("DELETE FROM identity")
            text = shown(await ada.get("/auth/confirm"))
            assert "Log out, and log in again as you always do." in text
            assert "Continue with" not in text

    run(test())


def test_the_only_way_in_cannot_be_removed(oidc_provider: Path) -> None:
    async def test() -> None:
        async with site_with_provider() as site, Visitor(site) as ada:
            await walk(ada, "ada")
            [issuer] = re.findall(r'name="issuer" value="([^"]+)"', (await ada.get("/dashboard/settings")).text)
            refused = await ada.post("/dashboard/settings/identities/remove", {"issuer": issuer})
            assert refused.status_code == 400
            assert "choose a password first" in shown(refused)
            # With a passkey it can, and then the passkey cannot.
            await add_passkey(site, "ada@example.com")
            await ada.post("/dashboard/settings/identities/remove", {"issuer": issuer})
            page = (await ada.get("/dashboard/settings")).text
            [passkey] = re.findall(r"/dashboard/settings/passkeys/\d+/remove", page)
            refused = await ada.post(passkey)
            assert refused.status_code == 400
            assert "choose a password first" in shown(refused)
            async with Visitor(site) as again:
                assert (await walk(again, "ada")).headers["location"] == "/dashboard"
            assert (await ada.post(passkey)).status_code == 303
            await ada.post("/dashboard/settings/password", {"password": PASSWORD})
            removed = await ada.post("/dashboard/settings/identities/remove", {"issuer": issuer})
            assert removed.headers["location"] == "/dashboard/settings?saved=identity-removed"

    run(test())


def test_who_has_become_an_operator_no_longer_logs_in_by_what_they_used_before(oidc_provider: Path) -> None:
    async def test() -> None:
        async with site_with_provider() as site:
            async with Visitor(site) as boss:
                assert (await walk(boss, "boss")).headers["location"] == "/dashboard"
            await operators.link(site.database, "boss@example.com", create=False)
            async with Visitor(site) as boss:
                assert "Operators log in with their password" in shown(await walk(boss, "boss"))
                assert (await boss.get("/dashboard")).status_code == 303

    run(test())


def test_who_turns_back_at_the_other_service_is_told_and_goes_on_to_where_they_wanted() -> None:
    async def test() -> None:
        async with issuer_that_says({}) as site, Visitor(site) as ada:
            await registered(site, "ada@example.com")
            asked = await ada.get("/auth/with/test?next=/dashboard/keys")
            state = parse_qs(urlsplit(asked.headers["location"]).query)["state"][0]
            back = await ada.get(f"/auth/with/test/back?error=access_denied&state={state}")
            assert "The other service did not log you in" in shown(await ada.get(back.headers["location"]))
            fields = {"email": "ada@example.com", "password": PASSWORD}
            assert (await ada.post(back.headers["location"], fields)).headers["location"] == "/dashboard/keys"

    run(test())


def test_an_answer_counts_once_for_the_browser_that_asked(oidc_provider: Path) -> None:
    async def test() -> None:
        async with site_with_provider() as site, Visitor(site) as ada, Visitor(site) as eve:
            asked = parse_qs(urlsplit((await ada.get("/auth/with/test")).headers["location"]).query)
            assert asked["code_challenge_method"] == ["S256"]
            assert asked["redirect_uri"] == [f"{site.url}/auth/with/test/back"]
            assert len(asked["state"][0]) > 40
            for visitor, state in ((eve, asked["state"][0]), (ada, "another"), (ada, "")):
                response = await visitor.get(f"/auth/with/test/back?code=x&state={state}")
                assert response.status_code == 400
                assert "sid" not in visitor.client.cookies
            await ada.get("/auth/with/test")
            wrong = await ada.get(f"/auth/with/test/back?code=made-up&state={asked['state'][0]}")
            assert wrong.status_code in {400, 502}
            assert (await ada.get("/auth/with/nobody")).status_code == 404

    run(test())


def test_a_provider_that_is_away_or_talks_nonsense_is_a_page_that_says_so() -> None:
    async def nonsense(peer: Peer) -> None:
        await peer.request()
        await peer.send(
            http(200, b'{"issuer": "http://somebody.else", "authorization_endpoint": "x", "token_endpoint": "y"}')
        )

    async def test() -> None:
        async with house(config(free_port())) as site, Visitor(site) as visitor:
            response = await visitor.get("/auth/with/test")
            assert response.status_code == 502
            assert "cannot be reached" in shown(response)
        async with BadServer(nonsense) as server, house(config(server.port)) as site, Visitor(site) as visitor:
            response = await visitor.get("/auth/with/test")
            assert response.status_code == 502
            assert "says that it is http://somebody.else" in shown(response)

    run(test())


def test_however_many_begin_to_log_in_the_issuer_is_asked_once() -> None:
    asked = []

    async def test() -> None:
        async def script(peer: Peer) -> None:
            asked.append((await peer.request()).target)
            here = f"http://127.0.0.1:{server.port}"
            said = {"authorization_endpoint": f"{here}/a", "token_endpoint": f"{here}/t", "jwks_uri": f"{here}/k"}
            await peer.send(http(200, json.dumps({"issuer": here, **said}).encode()))

        async with BadServer(script) as server, house(config(server.port)) as site, Visitor(site) as visitor:
            answers = await asyncio.gather(*(visitor.get("/auth/with/test") for _ in range(20)))
            assert {each.status_code for each in answers} == {303}
            assert len(asked) == 1

    run(test())


def test_an_issuer_that_is_away_is_not_asked_again_by_each_who_waits() -> None:
    asked = []

    async def script(peer: Peer) -> None:
        asked.append((await peer.request()).target)
        await asyncio.sleep(0.2)
        await peer.send(http(500, b"{}"))

    async def test() -> None:
        async with BadServer(script) as server, house(config(server.port)) as site, Visitor(site) as visitor:
            answers = await asyncio.gather(*(visitor.get("/auth/with/test") for _ in range(20)))
            assert {each.status_code for each in answers} == {502}
            assert len(asked) == 1

    run(test())


def test_an_answer_that_never_ends_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.web.issuers.TIMEOUT_S", 1.0)

    async def drops(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(100):
            await peer.send(b" ")
            await asyncio.sleep(0.3)

    async def test() -> None:
        async with BadServer(drops) as server, house(config(server.port)) as site, Visitor(site) as visitor:
            began = time.monotonic()
            response = await visitor.get("/auth/with/test")
            assert response.status_code == 502
            assert time.monotonic() - began < 10

    run(test())


def test_who_brings_answers_that_no_provider_gave_is_soon_not_listened_to() -> None:
    asked = []

    async def hub(peer: Peer) -> None:
        while True:
            asked.append((await peer.request()).target)
            await peer.send(http(200, b'{"error":"bad_verification_code"}' if len(asked) % 2 else b"[]"))

    async def test() -> None:
        async with BadServer(hub) as server:
            settings = config(server.port).replace('label = "Test"', 'label = "GitHub"\nkind = "github"')
            async with house('[server]\ntrusted_proxies = ["127.0.0.1"]\n' + settings) as site:
                async with Visitor(site, **{"x-forwarded-for": "10.6.6.6"}) as stranger:
                    statuses = [await _bring(stranger) for _ in range(FAILURES_A_MINUTE + 3)]
                    assert statuses == [502] * FAILURES_A_MINUTE + [429] * 3
                    assert len(asked) == 2 * FAILURES_A_MINUTE
                async with Visitor(site, **{"x-forwarded-for": "10.1.1.1"}) as somebody:
                    assert await _bring(somebody) == 502

    run(test())


async def _bring(visitor: Visitor) -> int:
    asked = parse_qs(urlsplit((await visitor.get("/auth/with/test")).headers["location"]).query)
    return (await visitor.get(f"/auth/with/test/back?code=made-up&state={asked['state'][0]}")).status_code


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("authorization_endpoint", "javascript:alert(1)"),
        ("authorization_endpoint", "http://127.0.0.1/\r\nset-cookie: sid=1"),
        ("authorization_endpoint", "http://127.0.0.1/\u0416"),
        ("token_endpoint", "/token"),
        ("jwks_uri", "file:///etc/passwd"),
        ("jwks_uri", ""),
    ],
)
def test_an_issuer_that_leads_to_no_address_is_a_page_that_says_so(name: str, url: str) -> None:
    async def test() -> None:
        async def script(peer: Peer) -> None:
            await peer.request()
            here = f"http://127.0.0.1:{server.port}"
            said = {"authorization_endpoint": f"{here}/a", "token_endpoint": f"{here}/t", "jwks_uri": f"{here}/k"}
            await peer.send(http(200, json.dumps({"issuer": here, **said, name: url}).encode()))

        async with BadServer(script) as server, house(config(server.port)) as site, Visitor(site) as visitor:
            response = await visitor.get("/auth/with/test")
            assert response.status_code == 502
            assert "says to log in at" in shown(response)
            assert "which is not a valid address" in shown(response)

    run(test())


NESTED = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


@pytest.mark.parametrize("wrong", [NESTED, b'{"issuer":"\xff"}', b"<html>", b"[]"])
@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/t", "/k"])
def test_an_answer_that_cannot_be_read_is_a_page_that_says_so(path: str, wrong: bytes) -> None:
    async def test() -> None:
        async with issuer_that_says({path: wrong}) as site, Visitor(site) as visitor:
            response = await visitor.get("/auth/with/test")
            if path != "/.well-known/openid-configuration":
                state = parse_qs(urlsplit(response.headers["location"]).query)["state"][0]
                response = await visitor.get(f"/auth/with/test/back?code=x&state={state}")
            assert response.status_code == 502
            assert "could not be understood" in shown(response) or "does not say where to log in" in shown(response)

    run(test())


@asynccontextmanager
async def issuer_that_says(answers: dict[str, bytes]) -> AsyncIterator[Site]:
    """A gateway and an issuer that answers with this at these paths, and properly at the others."""

    async def script(peer: Peer) -> None:
        while True:
            target = (await peer.request()).target.decode()
            here = f"http://127.0.0.1:{server.port}"
            said = {"authorization_endpoint": f"{here}/a", "token_endpoint": f"{here}/t", "jwks_uri": f"{here}/k"}
            proper = {"/t": b"{}", "/k": b'{"keys":[]}'}.get(target, json.dumps({"issuer": here, **said}).encode())
            await peer.send(http(200, answers.get(target, proper)))

    async with BadServer(script) as server, house(config(server.port)) as site:
        yield site


def test_github_says_who_by_number_and_address_by_its_list() -> None:
    mails = '[{"email":"old@example.com","primary":false,"verified":true},'
    mails += '{"email":"ada@example.com","primary":true,"verified":true}]'
    answers = {
        b"/login/oauth/access_token": b'{"access_token":"gho_1","token_type":"bearer"}',
        b"/api/v3/user": b'{"id":7,"login":"ada","email":null}',
        b"/api/v3/user/emails": mails.encode(),
    }
    asked = []

    async def hub(peer: Peer) -> None:
        while True:
            request = await peer.request()
            asked.append(request)
            await peer.send(http(200, answers[request.target]))

    async def test() -> None:
        async with BadServer(hub) as server:
            settings = config(server.port).replace('label = "Test"', 'label = "GitHub"\nkind = "github"')
            async with house(settings) as site, Visitor(site) as ada:
                there = urlsplit((await ada.get("/auth/with/test")).headers["location"])
                assert there.path == "/login/oauth/authorize"
                state = parse_qs(there.query)["state"][0]
                back = await ada.get(f"/auth/with/test/back?code=abc&state={state}")
                assert back.headers["location"] == "/dashboard"
                assert "ada@example.com" in shown(await ada.get("/dashboard"))
                assert await site.database.fetch("SELECT subject FROM identity") == [("7",)]
            assert b"code_verifier=" in asked[0].body
            assert b"code=abc" in asked[0].body

    run(test())
