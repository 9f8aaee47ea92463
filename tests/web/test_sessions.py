"""Sessions: where they come from, how they are listed, and how they end."""

import asyncio
import re
import time

import pytest
from tests.gateway.site import run
from tests.web.test_passkeys import Device, send
from tests.web.town import operator, secret_of
from tests.web.visitors import NEW, PASSWORD, SETTINGS, Visitor, house, letters, registered, reset_token, shown

from tollbridge.core import totp
from tollbridge.services.sessions import MOST_SESSIONS


def test_a_request_that_arrives_slowly_does_nothing_with_a_session_that_ends_meanwhile() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as owner:
            thief = await registered(site, "ada@example.com")
            token = await thief.token(SETTINGS)
            assert (await owner.log_in("ada@example.com")).status_code == 303
            body = b"email=eve%40example.com"
            cookies = "; ".join(f"{name}={value}" for name, value in thief.client.cookies.items())
            reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
            head = f"POST {SETTINGS}/email HTTP/1.1\r\nhost: 127.0.0.1:{site.port}\r\ncookie: {cookies}\r\n"
            head += f"x-csrf-token: {token}\r\ncontent-type: application/x-www-form-urlencoded\r\n"
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:5])
            await asyncio.sleep(0.5)
            assert (await owner.post(f"{SETTINGS}/sessions/others")).status_code == 303
            writer.write(body[5:])
            answer = await reader.readuntil(b"\r\n\r\n")
            assert b"/auth/login" in answer, answer
            writer.close()
            assert await letters(site) == []

    run(test())


@pytest.mark.parametrize("path", ["/auth/confirm", f"{SETTINGS}/password"])
def test_what_is_done_with_a_session_during_a_reset_does_not_outlive_it(path: str) -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as owner, Visitor(site) as stranger:
            thief = await registered(site, "ada@example.com")
            for each in (thief, owner, stranger):
                await each.token(SETTINGS if each is thief else "/auth/login")
            token = await reset_token(site, "ada@example.com")
            password = PASSWORD if path == "/auth/confirm" else "the password of a thief"

            async def after(seconds: float, visitor: Visitor, path: str, fields: dict[str, str]) -> int:
                await asyncio.sleep(seconds)
                return (await visitor.post(path, fields)).status_code

            # Passwords are hashed one after the other: those of strangers, the owner's, the thief's.
            guesses = {"email": "nobody@example.com", "password": PASSWORD}
            crowd = [after(0, stranger, "/auth/login", guesses) for _ in range(12)]
            await asyncio.gather(
                *crowd,
                reset := asyncio.create_task(after(0.05, owner, "/auth/reset", {"token": token, "password": NEW})),
                after(0.15, thief, path, {"password": password}),
            )
            assert reset.result() == 303
            assert (await thief.get("/dashboard")).status_code == 303
            assert (await owner.log_in("ada@example.com", "the password of a thief")).status_code == 400
            assert (await owner.log_in("ada@example.com", NEW)).status_code == 303

    run(test())


@pytest.mark.parametrize("way", ["password", "email", "passkeys", "two-factor"])
def test_no_way_in_is_added_by_a_session_that_ends_at_that_moment(way: str, postgres_url: str) -> None:
    async def test() -> None:
        async with house(database_url=postgres_url) as site:
            thief = await registered(site, "ada@example.com")
            token = await thief.token(SETTINGS)
            asked = (await send(thief, f"{SETTINGS}/passkeys/options", token, {})).json()
            secret = secret_of(await thief.get(f"{SETTINGS}/two-factor"))
            async with site.database.transaction() as transaction:
                # As a reset does it, whose transaction is about to end.
                await transaction.execute("DELETE FROM session")
                if way == "password":
                    late = asyncio.create_task(thief.post(f"{SETTINGS}/password", {"password": NEW}))
                elif way == "email":
                    late = asyncio.create_task(thief.post(f"{SETTINGS}/email", {"email": "eve@example.com"}))
                elif way == "two-factor":
                    code = totp.code(secret, await site.database.now() // 1000 // totp.STEP_S)
                    late = asyncio.create_task(thief.post(f"{SETTINGS}/two-factor", {"code": code}))
                else:
                    passkey = {"credential": Device(site).create(asked)}
                    late = asyncio.create_task(send(thief, f"{SETTINGS}/passkeys", token, passkey))
                await asyncio.sleep(1)
                assert not late.done()
            answer = await late
            assert answer.status_code == 400
            assert "You were logged out in the meantime" in answer.text
            assert await letters(site) == []
            assert await site.database.fetch("SELECT * FROM passkey") == []
            assert await site.database.fetch('SELECT totp_since FROM "user"') == [(None,)]
            assert (await thief.log_in("ada@example.com")).status_code == 303

    run(test())


def test_a_session_that_ends_at_that_moment_turns_no_second_factor_off(postgres_url: str) -> None:
    async def test() -> None:
        async with house(database_url=postgres_url) as site:
            thief = await registered(site, "ada@example.com")
            code = totp.code(secret_of(await thief.get(f"{SETTINGS}/two-factor")), int(time.time()) // totp.STEP_S)
            assert (await thief.post(f"{SETTINGS}/two-factor", {"code": code})).status_code == 200
            await thief.get(SETTINGS)
            async with site.database.transaction() as transaction:
                await transaction.execute("DELETE FROM session")
                late = asyncio.create_task(thief.post(f"{SETTINGS}/two-factor/off"))
                await asyncio.sleep(1)
                assert not late.done()
            answer = await late
            assert (answer.status_code, "You were logged out in the meantime" in answer.text) == (400, True)
            [(since,)] = await site.database.fetch('SELECT totp_since FROM "user"')
            assert since is not None

    run(test())


def test_what_cannot_be_undone_asks_for_the_password_when_it_was_long_ago() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            await site.database.execute("UPDATE session SET proved_at = proved_at - 700000")
            asked = await ada.post(f"{SETTINGS}/password", {"password": NEW}, referer=f"{site.url}{SETTINGS}")
            place = asked.headers["location"]
            assert place == f"/auth/confirm?next={SETTINGS}&notice=lost"
            assert "What you just sent was not done." in shown(await ada.get(place))
            wrong = await ada.post(place, {"password": "wrong"})
            assert (wrong.status_code, "What you just sent was not done." in shown(wrong)) == (400, True)
            confirmed = await ada.post(place, {"password": PASSWORD})
            assert confirmed.headers["location"] == SETTINGS
            assert (await ada.post(f"{SETTINGS}/password", {"password": NEW})).headers["location"].startswith(SETTINGS)

    run(test())


def test_a_session_has_a_new_id_at_each_log_in_and_a_cookie_that_scripts_and_other_sites_cannot_use() -> None:
    """B14."""

    async def test() -> None:
        async with house('public_url = "https://ours.example"\n') as site, Visitor(site) as visitor:
            host = {"host": "ours.example", "origin": "https://ours.example", "sec-fetch-site": "same-origin"}
            page = await visitor.client.get("/auth/register", headers=host)
            token = re.findall(r'name="csrf" value="(\w+)"', page.text)[0]
            [cookie] = page.headers.get_list("set-cookie")
            fields = {"csrf": token, "email": "ada@example.com", "password": PASSWORD, "consent": "1"}
            headers = {**host, "cookie": cookie.partition(";")[0] + "; __Host-sid=chosen-by-somebody-else"}
            response = await visitor.client.post("/auth/register", data=fields, headers=headers)
            assert response.status_code == 303, response.text
            [cookie] = [each for each in response.headers.get_list("set-cookie") if each.startswith("__Host-sid=")]
            assert "chosen-by-somebody-else" not in cookie
            parts = {part.strip().lower() for part in cookie.split(";")[1:]}
            assert {"secure", "httponly", "samesite=lax", "path=/"} <= parts
            assert not any(part.startswith("domain") for part in parts)
            assert response.headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"

    run(test())


def test_sessions_are_listed_and_can_be_ended() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            others = [
                Visitor(site, **{"user-agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0"}) for _ in range(2)
            ]
            for each in others:
                await each.log_in("ada@example.com")
            page = await ada.get(SETTINGS)
            assert shown(page).count("Firefox on Linux") == 2
            ids = re.findall(r"/settings/sessions/(ses_\w+)", page.text)
            assert (await ada.post(f"{SETTINGS}/sessions/{ids[0]}")).status_code == 303
            alive = [(await each.get("/dashboard")).status_code for each in others]
            assert sorted(alive) == [200, 303]
            await ada.post(f"{SETTINGS}/sessions/others")
            assert [(await each.get("/dashboard")).status_code for each in others] == [303, 303]
            assert (await ada.get("/dashboard")).status_code == 200

    run(test())


def test_who_has_only_one_of_two_factors_logs_nobody_out() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            secret = secret_of(await ada.get(f"{SETTINGS}/two-factor"))
            code = totp.code(secret, await site.database.now() // 1000 // totp.STEP_S)
            assert (await ada.post(f"{SETTINGS}/two-factor", {"code": code})).status_code == 200
            for _ in range(MOST_SESSIONS + 2):
                async with Visitor(site) as thief:
                    assert "/auth/second" in (await thief.log_in("ada@example.com")).headers["location"]
            assert (await ada.get("/dashboard")).status_code == 200
            assert await site.database.fetch("SELECT count(*) FROM session") == [(MOST_SESSIONS + 1,)]

    run(test())


def test_a_session_of_one_of_two_factors_is_not_listed_as_logged_in() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            async with Visitor(site) as other:
                await other.log_in("ada@example.com")
                assert "not logged in" not in shown(await ada.get(SETTINGS))
            secret = secret_of(await ada.get(f"{SETTINGS}/two-factor"))
            code = totp.code(secret, await site.database.now() // 1000 // totp.STEP_S)
            assert (await ada.post(f"{SETTINGS}/two-factor", {"code": code})).status_code == 200
            # The one of before has to show its second factor too.
            assert shown(await ada.get(SETTINGS)).count("Password only, not logged in") == 1
            async with Visitor(site) as other:
                await other.log_in("ada@example.com")
                assert shown(await ada.get(SETTINGS)).count("Password only, not logged in") == 2

    run(test())


def test_sessions_end_by_themselves() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            boss = await operator(site)
            for hours, visitor, column, status in (
                (0.6, ada, "seen_at", 200),
                (0.6, boss, "seen_at", 303),
                (25, ada, "seen_at", 303),
            ):
                now = await site.database.now()
                await site.database.execute(f"UPDATE session SET {column} = $1", now - int(hours * 3_600_000))
                assert (await visitor.get("/dashboard")).status_code == status
            for days, status in ((13, 200), (15, 303)):
                await ada.log_in("ada@example.com")
                await site.database.execute("UPDATE session SET created_at = created_at - $1", days * 86_400_000)
                assert (await ada.get("/dashboard")).status_code == status

    run(test())


def test_a_user_has_at_most_twenty_sessions() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            for _ in range(22):
                await site.database.execute(
                    "INSERT INTO session "
                    "(public_id, digest, user_id, created_at, seen_at, proved_at, factors, address, agent) "
                    "SELECT hex(randomblob(8)), randomblob(32), user_id, created_at, seen_at, proved_at, 1, '', '' "
                    "FROM session LIMIT 1"
                )
            await ada.post("/auth/confirm", {"password": PASSWORD})
            assert await site.database.fetch("SELECT count(*) FROM session") == [(20,)]
            assert (await ada.get("/dashboard")).status_code == 200

    run(test())
