"""The description of `/api/`."""

import asyncio

import pytest
from tests.gateway.site import run
from tests.servers import Postgres
from tests.web.visitors import house, registered

from tollbridge.web import api, requests, usage
from tollbridge.web.api import openapi_paths


def test_every_operation_for_programs_is_described() -> None:
    pages = (*api.PAGES, *requests.PAGES, *usage.PAGES)
    served = {(page.path, page.method.lower()) for page in pages if page.manage}
    described = {(path, method) for path, methods in openapi_paths().items() for method in methods}
    assert described == served


def test_a_body_is_described_by_its_fields() -> None:
    paths = openapi_paths()
    body = paths["/api/keys"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) >= {"label", "limit_usd", "limit_reset", "models", "addresses", "rpm", "tpm"}
    [key, *rest] = paths["/api/keys/{key}"]["get"]["parameters"]
    assert (key["name"], key["in"], rest) == ("key", "path", [])


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"label":' * 20_000, b"\xff", b"", b'{"label":"\\ud800"}'], ids=range(5)
)
def test_what_is_no_json_is_refused_however_deep_it_is(body: bytes) -> None:
    async def test() -> None:
        async with house() as site:
            ada = await registered(site, "ada@example.com")
            headers = {"content-type": "application/json", "x-csrf-token": await ada.token("/auth/confirm")}
            answer = await ada.client.post("/api/keys", content=body, headers=headers)
            assert answer.status_code == 400, answer.text

    run(test())


def test_what_is_done_to_a_key_at_once_is_done_one_after_the_other(postgres_server: Postgres) -> None:
    """On PostgreSQL, where transactions do not wait for each other by themselves."""

    async def test(url: str) -> None:
        async with house(database_url=url) as site:
            ada = await registered(site, "ada@example.com")
            key = (await ada.send_json("POST", "/api/keys", {"label": "one"})).json()["id"]
            for number in range(10):
                changes = ({"limit_usd": f"{number + 1}"}, {"rpm": number + 1}, {"models": [f"model-{number}"]})
                await asyncio.gather(*(ada.send_json("PATCH", f"/api/keys/{key}", each) for each in changes))
                found = (await ada.client.get(f"/api/keys/{key}")).json()
                assert {**found, **changes[0], **changes[1], **changes[2]} == found
            rotate = [ada.send_json("POST", f"/api/keys/{key}/rotate", {"overlap": "none"}) for _ in range(4)]
            assert sorted(each.status_code for each in await asyncio.gather(*rotate)) == [201, 400, 400, 400]

    with postgres_server.database() as url:
        run(test(url))
