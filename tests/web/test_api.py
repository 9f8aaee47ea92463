"""The description of `/api/`."""

import pytest
from tests.gateway.site import run
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
