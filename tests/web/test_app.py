"""What every page has in common: headers, errors, files, and who is asked for what."""

import asyncio
import logging
import re
from functools import partial

import pytest
from tests.effort import compared
from tests.gateway.site import run
from tests.web.town import operator
from tests.web.visitors import Visitor, house, registered, shown

from tollbridge.web.guard import HEADERS
from tollbridge.web.requests import PATH as REQUESTS


def test_every_answer_has_the_headers_of_the_rules() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            ada = await registered(site, "ada@example.com")
            for who, path, status in ((visitor, "/auth/login", 200), (visitor, "/no", 404), (ada, "/dashboard", 200)):
                response = await who.get(path)
                assert response.status_code == status
                for name, value in HEADERS.items():
                    assert response.headers[name] == value
                assert "unsafe" not in response.headers["content-security-policy"]
                assert response.headers["cache-control"] == "no-store"
                assert "strict-transport-security" not in response.headers
                assert "access-control-allow-origin" not in response.headers

    run(test())


def test_programs_get_json_and_people_get_pages() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            program = await visitor.get("/nothing", accept="*/*")
            assert program.json()["error"]["code"] == "not_found"
            person = await visitor.get("/nothing")
            assert person.headers["content-type"].startswith("text/html")
            assert "Page not found" in shown(person)
            wrong = await visitor.client.put("/auth/login", headers={"accept": "*/*"})
            assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
            head = await visitor.client.head("/auth/login")
            assert (head.status_code, head.content) == (200, b"")

    run(test())


def test_our_own_mistakes_are_a_page_with_a_number_and_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the reason of it")

    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            monkeypatch.setattr("tollbridge.store.sessions.of_user", broken)
            with caplog.at_level(logging.ERROR):
                response = await ada.get("/dashboard/settings")
            assert response.status_code == 500
            assert "Something went wrong" in shown(response)
            assert response.headers["x-request-id"] in shown(response)
            assert "the reason of it" not in response.text
            assert "the reason of it" in caplog.text

    run(test())


def test_too_much_and_what_is_no_form_is_refused() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            large = await visitor.post("/auth/login", {"email": "x" * 300_000})
            assert large.status_code == 413
            token = await visitor.token()
            odd = await visitor.client.post(
                "/auth/login", content=b"{}", headers={"content-type": "application/json", "x-csrf-token": token}
            )
            assert odd.status_code == 415
            nul = await visitor.client.post(
                "/auth/login",
                content=f"csrf={token}&email=%00".encode(),
                headers={"content-type": "application/x-www-form-urlencoded"},
            )
            assert nul.status_code == 400

    run(test())


def test_a_cookie_of_nothing_but_escapes_costs_no_more_than_another() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            await visitor.get("/auth/login")

            async def show(value: str) -> None:
                cookies = {"cookie": f'visitor="{value}"; sid="{value}"'}
                assert (await visitor.client.get("/auth/login", headers=cookies)).status_code == 200

            for value in ("\\" * 15_000, "\\a" * 7_500, '"'):
                assert await compared(partial(show, value), partial(show, "a" * len(value))) < 10

    run(test())


def test_cookies_are_found_among_others_however_they_are_written() -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            sid = ada.client.cookies["sid"]
            ada.client.cookies.clear()
            for written, status in {
                f"sid={sid}": 200,
                f'a=b;sid="{sid}" ;c': 200,
                f"asid=x; sid = {sid}; sidb=x; =": 200,
                f"sid={sid}; sid=x": 303,
                f"Sid={sid}": 303,
                f"xsid={sid}": 303,
                "sid=": 303,
            }.items():
                response = await ada.client.get("/dashboard", headers={"cookie": written})
                assert response.status_code == status, written

    run(test())


def test_pages_of_two_people_at_once_are_not_mixed_up() -> None:
    """C4."""

    async def test() -> None:
        async with house() as site:
            people = {email: await registered(site, email) for email in ("ada@example.com", "eve@example.com")}

            async def look(email: str) -> None:
                text = shown(await people[email].get("/dashboard/settings"))
                assert email in text
                assert not any(other in text for other in people if other != email)

            await asyncio.gather(*(look(email) for _ in range(50) for email in people))

    run(test())


def test_a_part_of_a_page_is_sent_on_by_a_header() -> None:
    """htmx follows redirects by itself, and would put the log-in page into a table."""

    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            response = await visitor.get("/dashboard", **{"hx-request": "true"})
            assert (response.status_code, response.headers["hx-redirect"]) == (204, "/auth/login?next=/dashboard")

    run(test())


def test_the_menu_shows_what_one_may_open() -> None:
    async def test() -> None:
        async with house() as site:
            ada, boss = await registered(site, "ada@example.com"), await operator(site)
            assert "Outbox" not in shown(await ada.get("/dashboard"))
            assert "Outbox" in shown(await boss.get("/dashboard"))

    run(test())


def test_parts_of_a_file_are_not_served() -> None:
    """However many are asked for: the file comes whole, and at once."""

    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            page = await visitor.get("/auth/login")
            style = re.search(r'href="(/static/[^"]+\.css)"', page.text)
            assert style is not None
            whole = await visitor.client.get(style[1])
            ranges = "bytes=" + ",".join(f"{start}-" for start in range(4_000))
            asked = await visitor.client.get(style[1], headers={"range": ranges})
            assert (asked.status_code, asked.content) == (200, whole.content)
            assert "accept-ranges" not in asked.headers

    run(test())


def test_what_is_searched_for_is_text_and_no_pattern() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            ada = await registered(site, "ada@example.com")
            for text in ("%", "_" * 200, "%_" * 500, "*"):
                found = await ada.client.get(REQUESTS, params={"q": text}, headers={"accept": "text/html"})
                assert found.status_code == 404
            everything = await visitor.client.get("/models", headers={"accept": "text/html"})
            nothing = await visitor.client.get("/models", params={"q": "%_%"}, headers={"accept": "text/html"})
            assert "/models/m" in everything.text
            assert "/models/m" not in nothing.text

    run(test())


def test_people_and_programs_are_told_in_their_own_words_that_there_is_nothing() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            page = await visitor.get("/nope")
            assert page.status_code == 404
            assert "GET" not in shown(page)
            assert all(f'href="{path}"' in page.text for path in ("/", "/models", "/docs"))
            page = await visitor.get("/auth/logout")
            assert (page.status_code, page.headers["allow"]) == (405, "POST")
            assert "Use POST" not in shown(page)
            answer = await visitor.get("/nope", accept="application/json")
            assert "There is no GET /nope here" in answer.json()["error"]["message"]
            answer = await visitor.get("/auth/logout", accept="application/json")
            assert "Use POST here" in answer.json()["error"]["message"]

    run(test())
