"""What users change of their own: password, address, second factor, sessions; and members of accounts."""

import asyncio
import base64
import html
import json
import re

import pytest
from tests.gateway.site import Site, chat, run
from tests.web.test_passkeys import Device, send
from tests.web.town import operator, secret_of
from tests.web.visitors import PASSWORD, Visitor, house, letters, link_to, registered, shown

from tollbridge.core import totp
from tollbridge.services import accounts, credentials, operators
from tollbridge.services.sessions import MOST_SESSIONS
from tollbridge.services.throttle import FAILURES_A_DAY, MAILS_BY_USER, MAILS_TO_ADDRESS, Door, spend
from tollbridge.store import throttle, users
from tollbridge.values import DAY_MS
from tollbridge.web import render

NEW = "another fine password"
SETTINGS = "/dashboard/settings"


async def token_to(site: Site, email: str) -> str:
    return (await link_to(site, email)).partition("token=")[2]


async def reset_token(site: Site, email: str) -> str:
    """What the link holds that somebody gets who has forgotten their password."""
    desk = site.gateway._desk
    assert desk is not None
    user = await users.by_email(site.database, email)
    assert user is not None
    return await credentials.reset_token(desk, user, credentials.RESET_MS)


# --- passwords and links ------------------------------------------------------------------------------------------


def test_a_reset_link_is_good_once_ends_all_sessions_and_lets_the_new_password_in() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            ada = await registered(site, "ada@example.com")
            await visitor.post("/auth/forgot", {"email": "Ada@Example.com "})
            token = await token_to(site, "ada@example.com")
            page = await visitor.get(f"/auth/reset?token={token}")
            short = await visitor.post("/auth/reset", {"token": token, "password": "short"})
            assert (page.status_code, short.status_code) == (200, 400)
            assert all("You will log in with it as ada@example.com." in shown(each) for each in (page, short))
            answers = [visitor.post("/auth/reset", {"token": token, "password": NEW}) for _ in range(5)]
            statuses = sorted(response.status_code for response in await asyncio.gather(*answers))
            assert statuses == [303, 400, 400, 400, 400]
            assert (await ada.get("/dashboard")).status_code == 303
            assert (await visitor.log_in("ada@example.com")).status_code == 400
            assert (await visitor.log_in("ada@example.com", NEW)).status_code == 303

    run(test())


def test_who_logs_in_with_the_old_password_during_a_reset_is_out_after_it() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as owner:
            await registered(site, "ada@example.com")
            fields = {"token": await reset_token(site, "ada@example.com"), "password": NEW}
            thieves = [Visitor(site) for _ in range(12)]
            for each in (owner, *thieves):
                await each.token()
            # Passwords are checked one after the other: some log-ins are checked before the reset and begin after it.
            ways_in = [each.post("/auth/login", {"email": "ada@example.com", "password": PASSWORD}) for each in thieves]
            reset, *answers = await asyncio.gather(owner.post("/auth/reset", fields), *ways_in)
            assert reset.status_code == 303
            assert {answer.status_code for answer in answers} <= {303, 400, 429}
            assert {(await each.get("/dashboard")).status_code for each in thieves} == {303}
            assert (await owner.log_in("ada@example.com", NEW)).status_code == 303

    run(test())


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


@pytest.mark.parametrize("way", ["email", "passkeys", "two-factor"])
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
                if way == "email":
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

    run(test())


def test_who_is_locked_out_by_the_failures_of_strangers_gets_in_by_a_link() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as stranger, Visitor(site) as ada:
            await registered(site, "ada@example.com")
            _, failures, _ = Door(account="ada@example.com", client="10.6.6.6").names()
            now = await site.database.now()
            for _ in range(FAILURES_A_DAY):
                await throttle.add(site.database, failures, DAY_MS, now)
            assert (await ada.log_in("ada@example.com")).status_code == 429
            fields = {"token": await reset_token(site, "ada@example.com"), "password": NEW}
            assert (await ada.post("/auth/reset", fields)).status_code == 303
            assert (await ada.log_in("ada@example.com", NEW)).status_code == 303
            assert (await stranger.log_in("ada@example.com", NEW)).status_code == 429

    run(test())


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


def test_who_has_asked_for_too_many_links_keeps_nobody_from_asking_for_theirs() -> None:
    async def test() -> None:
        async with house('[server]\ntrusted_proxies = ["127.0.0.1"]\n') as site:
            await registered(site, "ada@example.com")
            async with Visitor(site, **{"x-forwarded-for": "10.6.6.6"}) as stranger:
                for address in (*(f"nobody{number}@example.com" for number in range(10)), *["ada@example.com"] * 3):
                    assert (await stranger.post("/auth/forgot", {"email": address})).status_code == 200
            async with Visitor(site, **{"x-forwarded-for": "10.1.1.1"}) as ada:
                assert (await ada.post("/auth/forgot", {"email": "ada@example.com"})).status_code == 200
                assert (await ada.get(await link_to(site, "ada@example.com"))).status_code == 200
            assert [recipient for recipient, _, _ in await letters(site)] == ["ada@example.com"]

    run(test())


def test_strangers_who_have_mails_sent_to_somebody_keep_them_from_no_reset() -> None:
    async def test() -> None:
        async with house('[server]\ntrusted_proxies = ["127.0.0.1"]\n') as site:
            await registered(site, "ada@example.com")
            before = await site.database.now()
            for _ in range(5):  # invitations, say
                await spend(site.database, "mail-to", "ada@example.com", MAILS_TO_ADDRESS, before)
            for number in range(5):
                async with Visitor(site, **{"x-forwarded-for": f"10.7.7.{number}"}) as stranger:
                    await stranger.post("/auth/forgot", {"email": "ada@example.com"})
            async with Visitor(site) as ada:
                assert (await ada.get(await link_to(site, "ada@example.com"))).status_code == 200
            # Until she can be sent another one.
            [(until,)] = await site.database.fetch("SELECT MAX(expires_at) FROM mail_token WHERE kind = 'reset'")
            [(since,)] = await site.database.fetch("SELECT since FROM throttle WHERE name LIKE 'reset-to/%'")
            assert before <= since <= until - MAILS_TO_ADDRESS.window_ms

    run(test())


def test_an_earlier_reset_link_stays_good_until_one_is_used() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            await registered(site, "ada@example.com")
            first, second, third = [await reset_token(site, "ada@example.com") for _ in range(3)]
            assert (await visitor.post("/auth/reset", {"token": second, "password": NEW})).status_code == 303
            for token in (first, second, third):
                assert (await visitor.get(f"/auth/reset?token={token}")).status_code == 410

    run(test())


def test_links_end_with_their_time_and_are_not_in_the_database_as_they_are() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            await registered(site, "ada@example.com")
            await visitor.post("/auth/forgot", {"email": "ada@example.com"})
            token = await token_to(site, "ada@example.com")
            for table in ("mail_token", "outbox"):
                for row in await site.database.fetch(f"SELECT * FROM {table}"):
                    assert token not in str(row)
                    assert token.encode() not in b"".join(bytes(cell) for cell in row if isinstance(cell, bytes))
            await site.database.execute("UPDATE mail_token SET expires_at = $1", await site.database.now())
            response = await visitor.post("/auth/reset", {"token": token, "password": NEW})
            assert "no longer works" in shown(response)

    run(test())


def test_no_header_changes_where_links_lead() -> None:
    """B12."""
    names = (
        "host",
        "x-forwarded-host",
        "x-host",
        "forwarded",
        "x-original-host",
        "x-forwarded-server",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-original-url",
        "x-rewrite-url",
        "x-http-host-override",
        "origin",
        "referer",
    )
    values = ("evil.example", "http://evil.example/", "127.0.0.1:1@evil.example", "host=evil.example")
    assert len(names) * len(values) >= 50

    async def test() -> None:
        async with house('public_url = "http://127.0.0.1:1"\n') as site, Visitor(site) as visitor:
            await registered(site, "ada@example.com")
            token = await visitor.token()
            for name in names:
                for value in values:
                    await site.database.execute("DELETE FROM throttle")
                    fields = {"csrf": token, "email": "ada@example.com"}
                    await visitor.raw_post("/auth/forgot", fields, **{name: value})
            await visitor.raw_post("/auth/forgot", {"csrf": token, "email": "ada@example.com"})
            await link_to(site, "ada@example.com")
            await asyncio.sleep(0.05)
            found = re.findall(r"\w+://\S+", " ".join(text for _, _, text in await letters(site)))
            assert found
            assert all(link.startswith("http://127.0.0.1:1/auth/") for link in found)

    run(test())


def test_a_new_password_ends_the_other_sessions_and_is_told() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            async with Visitor(site) as elsewhere:
                await elsewhere.log_in("ada@example.com")
                before = ada.client.cookies["sid"]
                assert (await ada.post(f"{SETTINGS}/password", {"password": NEW})).status_code == 303
                assert ada.client.cookies["sid"] != before
                assert (await ada.get("/dashboard")).status_code == 200
                assert (await elsewhere.get("/dashboard")).status_code == 303
            assert "password was changed" in (await letters(site))[0][1]

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


def test_a_new_address_is_theirs_once_its_link_is_followed() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            await registered(site, "eve@example.com")
            taken = await ada.post(f"{SETTINGS}/email", {"email": "eve@example.com"})
            free = await ada.post(f"{SETTINGS}/email", {"email": "new@example.com"})
            assert taken.headers["location"] == free.headers["location"]
            assert "tried to register" in (await letters(site))[1][2]
            token = await token_to(site, "new@example.com")
            assert "ada@example.com" in shown(await ada.get(SETTINGS))
            assert (await ada.post("/auth/email", {"token": token})).status_code == 303
            assert "new@example.com" in shown(await ada.get(SETTINGS))
            assert (await ada.post("/auth/email", {"token": token})).status_code == 400
            # No link for a new password would come to the old address: it is not told to ask for one.
            told = (await letters(site))[0]
            assert told[:2] == ("ada@example.com", "Tollbridge: Your e-mail address was changed")
            assert "/contact" in told[2]
            assert "/auth/forgot" not in told[2]
            async with Visitor(site) as visitor:
                assert (await visitor.log_in("ada@example.com")).status_code == 400
                assert (await visitor.log_in("new@example.com")).status_code == 303

    run(test())


def test_a_new_password_or_address_voids_the_links_of_before() -> None:
    """Such as one to a mailbox of who was in the session."""

    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            ada = await registered(site, "ada@example.com")

            async def moving_to(address: str) -> str:
                await ada.post(f"{SETTINGS}/email", {"email": address})
                return await token_to(site, address)

            async def refused(path: str, token: str) -> bool:
                answer = await visitor.post(path, {"token": token, "password": "yet another password"})
                return answer.status_code == 400 and "no longer works" in shown(answer)

            first = await moving_to("eve@example.com")
            assert (await ada.post(f"{SETTINGS}/password", {"password": NEW})).status_code == 303
            assert await refused("/auth/email", first)
            second = await moving_to("eve2@example.com")
            reset = await reset_token(site, "ada@example.com")
            assert (await visitor.post("/auth/reset", {"token": reset, "password": PASSWORD})).status_code == 303
            assert await refused("/auth/email", second)
            await ada.log_in("ada@example.com")
            third = await moving_to("ada@example.org")
            reset = await reset_token(site, "ada@example.com")
            assert (await visitor.post("/auth/email", {"token": third})).status_code == 303
            assert await refused("/auth/reset", reset)

    run(test())


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


async def add_passkey(site: Site, email: str) -> None:
    await site.database.execute(
        "INSERT INTO passkey (user_id, credential, public_key, counter, label, created_at) "
        "SELECT id, $2, $2, 0, '', created_at FROM \"user\" WHERE email = $1",
        *(email, b"credential"),
    )


# --- sessions -----------------------------------------------------------------------------------------------------


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


# --- the second factor --------------------------------------------------------------------------------------------


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


def test_a_link_that_is_no_longer_good_says_so_and_leads_to_a_new_one() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            ada = await registered(site, "ada@example.com")
            await visitor.post("/auth/forgot", {"email": "ada@example.com"})
            token = await token_to(site, "ada@example.com")
            assert (await visitor.post("/auth/reset", {"token": token, "password": NEW})).status_code == 303
            for path, again in (
                (f"/auth/reset?token={token}", "/auth/forgot"),
                (f"/auth/verify?token={token}", "/auth/login"),
                (f"/auth/email?token={token}", SETTINGS),
            ):
                page = await visitor.get(path)
                assert page.status_code == 410
                assert "This link no longer works" in shown(page)
                assert f'href="{again}"' in page.text
                assert "<form" not in page.text
            assert (await ada.get(SETTINGS)).status_code == 303

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


# --- members ------------------------------------------------------------------------------------------------------


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


def test_who_is_invited_joins_with_their_role_and_can_be_removed() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            bob = await registered(site, "bob@example.com")
            assert "This gateway does not send mail" in shown(await ada.get("/dashboard/members"))
            await ada.post("/dashboard/members", {"email": "bob@example.com", "role": "billing"})
            token = await token_to(site, "bob@example.com")
            wrong = await registered(site, "eve@example.com")
            assert (await wrong.post("/auth/invitation", {"token": token})).status_code == 400
            assert "billing" in shown(await bob.get(f"/auth/invitation?token={token}"))
            assert (await bob.post("/auth/invitation", {"token": token})).status_code == 303
            assert "ada@example.com" in shown(await bob.get("/dashboard"))
            assert (await bob.get("/dashboard/members")).status_code == 403
            page = await ada.get("/dashboard/members")
            # The only owner stays one, and is not asked.
            [member] = re.findall(r"/members/(user_\w+)/role", page.text)
            await ada.post(f"/dashboard/members/{member}/role", {"role": "admin"})
            assert (await bob.get("/dashboard/members")).status_code == 200
            takeover = await bob.post("/dashboard/members", {"email": "x@example.com", "role": "owner"})
            assert takeover.status_code == 403
            own = await bob.post(f"/dashboard/members/{member}/role", {"role": "owner"})
            assert own.status_code == 403
            await ada.post(f"/dashboard/members/{member}/remove")
            assert (await bob.get("/dashboard")).headers["location"].startswith("/dashboard/no-account")
            assert "bob@example.com" in shown(await bob.get("/dashboard/accounts"))
            words = shown(await ada.get("/dashboard/activity"))
            assert all(word in words for word in ("opened the account", "invited", "joined", "changed a role"))

    run(test())


async def hired(site: Site, owner: Visitor, email: str, role: str) -> tuple[Visitor, str]:
    """A member of the owner's account, and their id."""
    member = await registered(site, email)
    await owner.post("/dashboard/members", {"email": email, "role": role})
    await member.post("/auth/invitation", {"token": await token_to(site, email)})
    rows = re.findall(r"<tr>.*?</tr>", (await owner.get("/dashboard/members")).text, re.DOTALL)
    return member, next(re.findall(r"/members/(user_\w+)/remove", row)[0] for row in rows if email in row)


@pytest.mark.parametrize("way", ["remove", "leave", "admin", "viewer"])
def test_an_invitation_is_good_as_long_as_whoever_sent_it_may_give_its_role(way: str) -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            eve, member = await hired(site, ada, "eve@example.com", "owner")
            friend = await registered(site, "friend@example.com")
            for email, role in (("friend@example.com", "owner"), ("other@example.com", "viewer")):
                await eve.post("/dashboard/members", {"email": email, "role": role})
            token, viewers = await token_to(site, "friend@example.com"), await token_to(site, "other@example.com")
            await ada.post("/dashboard/members", {"email": "own@example.com", "role": "viewer"})
            page = shown(await ada.get("/dashboard/members"))
            assert "friend@example.com as owner, by eve@example.com, until" in page
            if way == "remove":
                await ada.post(f"/dashboard/members/{member}/remove")
            elif way == "leave":
                assert (await eve.post("/dashboard/leave")).status_code == 303
            else:
                await ada.post(f"/dashboard/members/{member}/role", {"role": way})
            refused = await friend.post("/auth/invitation", {"token": token})
            assert refused.status_code == 400
            assert "no longer valid" in shown(refused)
            page = shown(await ada.get("/dashboard/members"))
            assert "friend@example.com" not in page
            assert ("other@example.com" in page) is (way == "admin")
            assert (await friend.get(f"/auth/invitation?token={viewers}")).status_code == (
                200 if way == "admin" else 400
            )
            assert "own@example.com as viewer, by ada@example.com" in page
            noted = shown(await ada.get("/dashboard/activity"))
            assert "withdrew an invitation friend@example.com as owner" in noted

    run(test())


def test_who_is_removed_at_that_moment_invites_nobody(postgres_url: str) -> None:
    async def test() -> None:
        async with house(database_url=postgres_url) as site:
            ada = await registered(site, "ada@example.com")
            eve, _ = await hired(site, ada, "eve@example.com", "admin")
            await eve.token("/dashboard/members")
            async with site.database.transaction() as transaction:
                await transaction.execute("DELETE FROM membership WHERE role = 'admin'")
                late = asyncio.create_task(
                    eve.post("/dashboard/members", {"email": "friend@example.com", "role": "admin"})
                )
                await asyncio.sleep(1)
                assert not late.done()
            assert (await late).status_code == 403
            assert await site.database.fetch("SELECT * FROM invitation") == []

    run(test())


def test_what_happens_to_members_is_noted_with_whom_and_when_it_happened() -> None:
    async def test() -> None:
        async with house() as site:
            ada, bob = await registered(site, "ada@example.com"), await registered(site, "bob@example.com")
            started = await site.database.now()

            async def post(path: str, fields: dict[str, str], status: int = 303) -> None:
                # The page was opened hours ago.
                await site.database.execute("UPDATE session SET seen_at = seen_at - 7200000")
                assert (await ada.post(f"/dashboard/members{path}", fields)).status_code == status

            await post("", {"email": "bob@example.com", "role": "billing"})
            await bob.post("/auth/invitation", {"token": await token_to(site, "bob@example.com")})
            [member] = set(re.findall(r"/members/(user_\w+)/role", (await ada.get("/dashboard/members")).text))
            await post(f"/{member}/role", {"role": "viewer"})
            await post(f"/{member}/remove", {})
            await post("", {"email": "eve@example.com", "role": "viewer"})
            [invitation] = re.findall(r"/invitations/(inv_\w+)", (await ada.get("/dashboard/members")).text)
            await post(f"/invitations/{invitation}", {})
            await post(f"/invitations/{invitation}", {}, 404)
            noted = await site.database.fetch(
                "SELECT action, detail, at FROM activity WHERE action LIKE 'member.%' ORDER BY id"
            )
            assert [each[:2] for each in noted] == [
                ("member.invited", "bob@example.com as billing"),
                ("member.joined", "as billing"),
                ("member.role", "bob@example.com: billing → viewer"),
                ("member.removed", "bob@example.com"),
                ("member.invited", "eve@example.com as viewer"),
                ("member.uninvited", "eve@example.com"),
            ]
            assert all(at >= started for *_, at in noted)

    run(test())


def test_a_user_has_mails_sent_to_so_many_addresses_a_day() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            await site.database.execute("DELETE FROM throttle")
            for number in range(MAILS_BY_USER.count):
                address = {"email": f"mate{number}@example.com"}
                place, fields = ("/dashboard/members", {"role": "viewer"}) if number % 2 else (f"{SETTINGS}/email", {})
                assert (await ada.post(place, address | fields)).status_code == 303
            sent = len(await letters(site))
            for place, fields in (("/dashboard/members", {"role": "viewer"}), (f"{SETTINGS}/email", {})):
                answer = await ada.post(place, {"email": "one-more@example.com"} | fields)
                assert answer.status_code == 429
                assert "many mails sent to others today. Please try again in 24 hours" in shown(answer)
            assert len(await letters(site)) == sent
            # Nobody else can send fewer for it, not even to the same address.
            bob = await registered(site, "bob@example.com")
            fields = {"email": "one-more@example.com", "role": "viewer"}
            assert (await bob.post("/dashboard/members", fields)).status_code == 303

    run(test())


def test_an_account_keeps_an_owner() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            page = await ada.get("/dashboard/members")
            assert "/role" not in page.text
            assert "An account needs an owner" in shown(page)
            [(member,)] = await site.database.fetch('SELECT public_id FROM "user"')
            assert (await ada.post(f"/dashboard/members/{member}/role", {"role": "viewer"})).status_code == 400
            assert (await ada.post(f"/dashboard/members/{member}/remove")).status_code == 400
            assert (await ada.post("/dashboard/leave")).status_code == 400

    run(test())


@pytest.mark.parametrize("deed", ["role", "remove"])
def test_of_two_owners_who_depose_each_other_one_stays(deed: str, postgres_url: str) -> None:
    async def test() -> None:
        async with house(database_url=postgres_url) as site:
            for number in range(5):
                emails = [f"{name}{number}@example.com" for name in ("ada", "bob")]
                ada, bob = [await registered(site, email) for email in emails]
                await ada.post("/dashboard/members", {"email": emails[1], "role": "owner"})
                await bob.post("/auth/invitation", {"token": await token_to(site, emails[1])})
                rows = await site.database.fetch('SELECT email, public_id FROM "user"')
                names = {str(email): str(public_id) for email, public_id in rows}
                await asyncio.gather(
                    ada.post(f"/dashboard/members/{names[emails[1]]}/{deed}", {"role": "viewer"}),
                    bob.post(f"/dashboard/members/{names[emails[0]]}/{deed}", {"role": "viewer"}),
                )
                owners = await site.database.fetch(
                    "SELECT 1 FROM membership JOIN account ON account.id = account_id WHERE email = $1 AND role = $2",
                    *(emails[0], "owner"),
                )
                assert len(owners) == 1

    run(test())


# --- leaving ------------------------------------------------------------------------------------------------------


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


def test_what_others_did_to_an_account_is_still_theirs_when_it_is_closed() -> None:
    """An operator's grant is not the customer's doing afterwards, and the closing itself is noted."""

    async def test() -> None:
        async with house() as site:
            boss, ada = await operator(site), await registered(site, "ada@example.com")
            account = await accounts.get(site.database, "ada@example.com")
            grant = {"amount": "1", "reason": "for Ada", "once": "x"}
            assert (await boss.post(f"/admin/accounts/{account.public_id}/grant", grant)).status_code == 303
            await accounts.set_frozen(site.database, "ada@example.com", True, actor="cli/root")
            assert (await ada.post(f"{SETTINGS}/close", {"typed": "ada@example.com"})).status_code == 303
            closed = f"{account.public_id}@closed.invalid"
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
