"""The description of `/api/`."""

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
