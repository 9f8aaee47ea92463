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
from tests.web.test_account import reset_token
from tests.web.town import secret_of
from tests.web.visitors import PASSWORD, Visitor, house, letters, registered, shown
from tools.npm_install import install

from tollbridge.core import totp
from tollbridge.services import operators
from tollbridge.services.throttle import FAILURES_A_MINUTE

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
                assert (await walk(ada, "ada")).headers["location"] == "/dashboard"
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
            async with Visitor(site) as ada:
                # Neither keeps the owner out …
                assert (await walk(ada, "ada")).headers["location"] == "/dashboard"
                assert (await ada.get("/dashboard")).status_code == 200
            # … nor spends what they pay in.
            reply = await site.post("/v1/chat/completions", chat("hi"), headers={"authorization": f"Bearer {key}"})
            assert reply.status == 401

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
