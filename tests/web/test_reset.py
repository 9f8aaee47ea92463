"""Links for who has forgotten their password: what they are good for, how long, and who is kept from them."""

import asyncio
import re

from tests.gateway.site import run
from tests.web.visitors import (
    NEW,
    PASSWORD,
    SETTINGS,
    Visitor,
    house,
    letters,
    link_to,
    registered,
    reset_token,
    shown,
    token_to,
)

from tollbridge.services.throttle import FAILURES_A_DAY, MAILS_TO_ADDRESS, Door, spend
from tollbridge.store import throttle
from tollbridge.values import DAY_MS


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
