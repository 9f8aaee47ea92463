"""C1, C2, C6: every page × every visitor × somebody else's objects. B15: every form × origins × content types."""

import re

import pytest
from tests.gateway.site import run
from tests.web.rows import EVERYBODY, ROWS, Row
from tests.web.town import Objects, Town, town
from tests.web.visitors import Visitor, house

from tollbridge.web.page import Page
from tollbridge.web.pages import PAGES

LOGIN = "/auth/login?next="


def name(page: Page) -> str:
    return f"{page.method} {page.path}"


def test_every_page_stands_in_the_table_and_the_other_way_round() -> None:
    assert sorted(map(name, PAGES)) == sorted(ROWS), "say in tests/web/rows.py who may open it"


def filled(path: str, objects: Objects | None) -> str:
    """The path with an object of somebody else's, or with one that nobody has."""

    def object_(match: re.Match[str]) -> str:
        return getattr(objects, match[1]) if objects is not None else "nothing"

    return re.sub(r"\{(\w+)(?::path)?\}", object_, path)


async def visit(visitor: Visitor, page: Page, row: Row, objects: Objects | None = None) -> tuple[int, str, str]:
    path = filled(page.path, objects)
    if page.method == "GET":
        response = await visitor.get(path)
    elif path.startswith("/api/"):
        response = await visitor.send_json(page.method, path, row.fields if objects is not None else {})
    else:
        response = await visitor.post(path, row.fields if objects is not None else {})
    return response.status_code, response.headers.get("location", ""), response.text


async def check(people: Town, page: Page, row: Row) -> list[str]:
    problems = []
    for who in EVERYBODY.split():
        if row.leaves and who in row.may.split():
            continue
        status, location, _ = await visit(people[who], page, row)
        if who in row.may.split():
            good = status not in {401, 403} and status < 500 and not (who != "anonymous" and location.startswith(LOGIN))
        elif who == "anonymous" and page.path.startswith("/api/"):
            good = status == 401
        elif who == "anonymous":
            good = status == 303 and location.startswith(LOGIN)
        else:
            good = status == 403
        if not good:
            problems.append(f"{name(page)} as {who}: {status} {location}")
    return problems


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_page_lets_in_whom_it_should_and_nobody_else(database: str, request: pytest.FixtureRequest) -> None:
    url = request.getfixturevalue("postgres_url") if database == "postgresql" else None

    async def test() -> None:
        async with town(database_url=url) as people:
            problems = [problem for page in PAGES for problem in await check(people, page, ROWS[name(page)])]
            assert problems == []

    run(test())


def test_nobody_reaches_what_is_somebody_elses() -> None:
    async def test() -> None:
        async with town() as people:
            theirs, before = people.theirs, await state(people)
            for page in PAGES:
                row = ROWS[name(page)]
                if not row.theirs:
                    if row.may in {EVERYBODY, "operator"}:
                        continue
                    assert "{" not in page.path, f"{name(page)}: say whose object it names (`theirs`)"
                    if page.method == "GET":
                        _, _, text = await visit(people["owner"], page, row)
                        assert theirs.marker not in text, name(page)
                    continue
                for who in ("owner", "operator"):
                    status, location, text = await visit(people[who], page, row, theirs)
                    assert (status, location) == (404, ""), f"{name(page)} as {who}: {status} {location}"
                    assert theirs.marker not in text
            assert await state(people) == before

    run(test())


async def state(people: Town) -> list[object]:
    """All rows that say who belongs where, who is logged in, and which keys there are."""
    queries = (
        "SELECT public_id, label, disabled_at, revoked_at, expires_at, limit_nano FROM api_key ORDER BY id",
        "SELECT public_id, revoked_at FROM management_key ORDER BY id",
        "SELECT account_id, user_id, role FROM membership ORDER BY account_id, user_id",
        "SELECT public_id FROM invitation ORDER BY id",
        "SELECT public_id, account_id FROM session ORDER BY id",
        "SELECT id, user_id FROM passkey ORDER BY id",
        "SELECT public_id, status FROM payment ORDER BY id",
        "SELECT account_id, paid, promo, frozen FROM balance ORDER BY account_id",
        "SELECT account_id, name FROM buyer ORDER BY account_id",
        "SELECT id, plan FROM account ORDER BY id",
    )
    return [await people.site.database.fetch(query) for query in queries]


ORIGINS = (
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    {"origin": "https://evil.example", "sec-fetch-site": ""},
    {"origin": "null", "sec-fetch-site": "cross-site"},
    {"origin": "", "sec-fetch-site": "same-site"},
    {"origin": "http://127.0.0.1.evil.example", "sec-fetch-site": ""},
    {"origin": "", "sec-fetch-site": "none"},
)
KINDS = ("application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=x")


def test_no_form_is_taken_from_another_site_or_without_its_token() -> None:
    async def test() -> None:
        async with town() as people:
            before = await state(people)
            visitor = people["operator"]
            token = await visitor.token("/dashboard/settings")
            somebody_elses = await people["viewer"].token("/dashboard")
            forms = [page for page in PAGES if page.method != "GET"]
            assert len(forms) > 15
            for page in forms:
                path = filled(page.path, people.theirs)
                for kind in KINDS:
                    for origin in ORIGINS:
                        headers = {key: value for key, value in origin.items() if value} | {"content-type": kind}
                        for body in ("csrf=" + token, "x=1"):
                            response = await visitor.client.request(page.method, path, content=body, headers=headers)
                            assert response.status_code in {403, 415}, (name(page), headers, body)
                    ours = {"sec-fetch-site": "same-origin", "content-type": kind}
                    for body in ("x=1", "csrf=", "csrf=" + "0" * 64, "csrf=" + somebody_elses):
                        response = await visitor.client.request(page.method, path, content=body, headers=ours)
                        assert response.status_code == 403, (name(page), kind, body)
            assert await state(people) == before

    run(test())


HOSTS = ("evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "[::1", "a@127.0.0.1", "127.0.0.1/x")


def test_a_host_that_is_not_ours_is_refused_on_every_page() -> None:
    """B6."""

    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            for page in PAGES:
                for host in HOSTS:
                    response = await visitor.client.request(
                        page.method, filled(page.path, None), headers={"host": host}
                    )
                    assert response.status_code in {400, 421}, (name(page), host)

    run(test())
