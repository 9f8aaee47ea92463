"""The document says what is served: no path of the edge is missing, none is made up."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.gateway.site import run
from tests.web.visitors import Visitor, house

from tollbridge import errors
from tollbridge.edge.inference import ENDPOINTS, PROBES
from tollbridge.edge.lookups import PATHS
from tollbridge.errors import ApiError
from tollbridge.web import api, openapi

OF_MODELS = {("GET", "/v1/models"), ("GET", "/v1/models/{id}")}
OPERATIONS = {operation.path: operation for operation in openapi.OPERATIONS}


def test_every_path_that_the_edge_serves_is_described() -> None:
    served = {("POST", path) for path in ENDPOINTS} | {(method, path) for path, method in PATHS.items()}
    served |= {("GET", path) for path in PROBES} | OF_MODELS
    assert {(each.method, each.path) for each in openapi.OPERATIONS} == served


def test_every_error_stands_in_the_table_with_its_status() -> None:
    known = {(each.status, each.code) for each in openapi.PROBLEMS}
    found = {(each.status, each.code) for each in subclasses(ApiError)} - {(403, "account_frozen")}
    own = {(403, "account_frozen"), (402, "in_flight_budget_exhausted"), (402, "key_limit_exceeded")}
    own |= {(409, "idempotency_answer_not_kept")}
    assert found | own <= known | {(421, "unknown_host"), (403, "csrf")}
    assert {status for status, _ in known} >= {400, 401, 402, 403, 404, 429, 500, 502, 503, 504}


def subclasses(kind: type[ApiError]) -> Iterator[type[ApiError]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            yield each
        yield from subclasses(each)


@pytest.mark.parametrize("path", ENDPOINTS)
def test_the_example_of_an_endpoint_is_taken_by_it(path: str) -> None:
    example = (
        json.dumps(OPERATIONS[path].example, ensure_ascii=False).replace("«model»", "m").replace("«embedding»", "e")
    )
    assert ENDPOINTS[path](example.encode()).model in {"m", "e"}


@pytest.mark.parametrize("path", ENDPOINTS)
def test_what_must_be_there_is_called_required(path: str) -> None:
    operation = OPERATIONS[path]
    required = {name for name, _, must, _ in openapi.parameters(operation) if must}
    assert operation.example is not None
    assert required <= operation.example.keys()
    for name in required:
        body = {key: value for key, value in operation.example.items() if key != name}
        with pytest.raises(errors.InvalidRequest) as refused:
            ENDPOINTS[path](json.dumps(body).encode())
        assert refused.value.param == name


def test_parameters_have_their_types_and_rules() -> None:
    rows = {name: (kind, rule) for name, kind, _, rule in openapi.parameters(OPERATIONS["/v1/chat/completions"])}
    assert rows["temperature"] == ("number", "a number from 0 to 2")
    assert rows["stop"] == ("string or array", "a string or an array of at most 4 strings")
    assert rows["stream"][0] == "boolean"


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for each in node.values():
            yield from references(each)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


def test_the_document_is_served_whole_in_the_operators_brand() -> None:
    async def test() -> None:
        async with (
            house('[brand]\nname = "Model <b>Bridge</b>"\nheader_prefix = "X-MB"') as site,
            Visitor(site) as visitor,
        ):
            response = await visitor.get("/openapi.json")
            assert response.headers["content-type"] == "application/json"
            assert "«" not in response.text
            document = response.json()
            assert document["openapi"] == "3.1.0"
            assert document["info"]["title"] == "Model <b>Bridge</b>"
            assert document["servers"] == [{"url": site.url}]
            for reference in references(document):
                assert reference.rpartition("/")[2] in document["components"]["schemas"]
            chat = document["paths"]["/v1/chat/completions"]["post"]
            assert chat["requestBody"]["content"]["application/json"]["example"]["model"] == "m"
            assert "X-MB-Charged-USD" in chat["responses"]["200"]["headers"]
            assert {"400", "401", "402", "429", "503"} <= chat["responses"].keys()
            got = chat["responses"]
            assert got["429"]["headers"].keys() >= {"x-request-id", "Retry-After", "x-ratelimit-remaining-tokens"}
            assert "402" not in document["paths"]["/v1/credits"]["get"]["responses"]
            # What needs a provider, a hold or another path is said nowhere else.
            asked = document["paths"]["/v1/credits"]["get"]["responses"]
            assert set(asked) == {"200", "400", "401", "403", "404", "405", "408", "429", "431", "500", "503"}
            assert asked["404"]["description"] == "`not_found`"
            assert "503" in document["paths"]["/ready"]["get"]["responses"]
            of_estimate = document["paths"]["/v1/estimate"]["post"]["parameters"]
            assert [each["name"] for each in of_estimate] == ["X-MB-Max-Cost-USD"]
            two = {"authorization": f"Bearer {site.key}", "x-api-key": "another"}
            for path, asked in (("/v1/credits", two), ("/v1/generation", {})):
                refused = await site.get(path, asked)
                told = document["paths"][path]["get"]["responses"][str(refused.status)]["description"]
                assert f"`{refused.json['error']['code']}`" in told
            ids = [each["operationId"] for path in document["paths"].values() for each in path.values()]
            assert len(set(ids)) == len(ids)

    run(test())


def test_each_header_and_the_form_of_an_error_are_as_described() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            paths = (await visitor.get("/openapi.json")).json()
            schemas, paths = paths["components"]["schemas"], paths["paths"]
            for path in ("/v1/chat/completions", "/v1/messages"):
                answers = paths[path]["post"]["responses"]
                for model, status in (("m", "200"), ("nobody", "404")):
                    body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
                    answer = await site.post(path, body)
                    assert answer.status == int(status)
                    said = {name.lower() for name in answers[status]["headers"]}
                    assert {name for name in answer.headers if name.startswith("x-")} <= said
                    content = answers[status]["content"]["application/json"]["schema"]
                    assert answer.json.keys() >= {"error", "detail"} or status == "200"
                    if status != "200":
                        described = schemas[content["$ref"].rpartition("/")[2]]["properties"]
                        assert answer.json.keys() <= described.keys()
                        assert answer.json["error"].keys() <= described["error"]["properties"].keys()

    run(test())


def test_the_reference_shows_every_operation() -> None:
    async def test() -> None:
        async with house() as site, Visitor(site) as visitor:
            text = (await visitor.get("/docs/api")).text
            for operation in openapi.OPERATIONS:
                assert f'id="{operation.id}"' in text
            for described in api.OPERATIONS:
                assert f"<code>{described.method} {described.path}</code>" in text
            assert not re.search("«|»", text)
            for problem in openapi.PROBLEMS:
                assert f"<code>{problem.code}</code>" in text

    run(test())
