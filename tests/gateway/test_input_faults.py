"""What may be sent to a gateway, on every route: only documented answers, in one shape. Rows J1 to J3 and J6."""

import asyncio
import json
import time
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest
import uvloop
from hypothesis import strategies as st
from tests.gateway.site import (
    Call,
    Json,
    Reply,
    Site,
    always,
    chat,
    completion,
    run,
    says,
    stream,
    streams,
    used,
)
from tests.test_http_contract import documented
from tests.upstream.bad_server import Peer, Request

PATH = "/v1/chat/completions"
POSTS = [PATH, "/v1/completions", "/v1/embeddings"]
GETS = ["/health", "/v1/health", "/ready", "/v1/models", "/v1/models/m"]
MORE_POSTS = ["/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/v1/estimate"]
MORE_GETS = ["/v1/credits", "/v1/key", "/v1/generation", "/v1/generation?id=chatcmpl-1"]
CODES = documented()
DOCUMENTED = {200, 204, 400, 401, 402, 404, 405, 413, 415}
SLASHED = """
[[models]]
id = "maker/model:free"
best_for = "tests"
price = { input = "0.5", output = "1.25" }
routes = [{ provider = "up", model = "x" }]
"""


async def answer(request: Request, peer: Peer) -> None:
    """An upstream that can do everything."""
    asked = json.loads(request.body)
    if request.target.endswith(b"/embeddings"):
        given = asked["input"]
        several = isinstance(given, list) and not isinstance(given[0], int)
        data = [
            {"object": "embedding", "index": index, "embedding": [0.5]} for index in range(len(given) if several else 1)
        ]
        await says({"object": "list", "data": data, "model": "e", "usage": used(3, 0)})(request, peer)
    elif request.target.endswith(b"/chat/completions"):
        await (streams(stream()) if asked.get("stream") else says(completion()))(request, peer)
    else:
        choice = {"index": 0, "text": "Hello", "finish_reason": "stop"}
        whole = {**completion(), "object": "text_completion", "choices": [choice]}
        await (streams([b"data: " + json.dumps(whole).encode() + b"\n\n"]) if asked.get("stream") else says(whole))(
            request, peer
        )


async def send(site: Site, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Reply:
    """Any request at all; a header that is None is left out."""
    own = {"host": "a", "authorization": f"Bearer {site.key}", "connection": "close"}
    if body:
        own |= {"content-type": "application/json", "content-length": str(len(body))}
    own |= headers or {}
    lines = "".join(f"{name}: {value}\r\n" for name, value in own.items() if value)
    call = Call(*await asyncio.open_connection("127.0.0.1", site.port))
    try:
        call.writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + body)
        if method == "HEAD":
            status, found = await call.head()
            return Reply(status, found, await call.reader.read())
        return await call.rest()
    finally:
        call.close()


def check_error(reply: Reply, path: str = PATH) -> Json:
    """An error has one shape, whoever says it; callers of Messages read Anthropic's."""
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    error = reply.json["error"]
    if path.startswith("/v1/messages"):
        assert reply.json["type"] == "error"
        assert reply.json["request_id"] == reply.headers["x-request-id"]
        assert error["type"]
        assert error["message"]
        assert reply.json["detail"] == error["message"]
        return dict(error)
    assert set(error) == {"message", "type", "param", "code"}
    assert all(isinstance(error[name], str) and error[name] for name in ("message", "type", "code"))
    assert error["param"] is None or isinstance(error["param"], str)
    assert (reply.status, error["code"]) in CODES
    assert reply.json["detail"] == error["message"]
    assert set(reply.json) - {"error", "detail"} <= ({"balance_usd"} if reply.status == 402 else set())
    assert "Traceback" not in error["message"]
    if reply.status == 401:
        assert error["code"] == "invalid_api_key"
        assert error["message"].startswith("Incorrect API key provided")
        assert reply.headers["www-authenticate"] == "Bearer"
    if reply.status == 405:
        assert reply.headers["allow"]
    return dict(error)


def refused(reply: Reply, status: int, code: str, param: str | None = None) -> None:
    error = check_error(reply)
    assert (reply.status, error["code"], error["param"]) == (status, code, param)


# --- J1: anything, anywhere ---------------------------------------------------------------------------------------

NUMBERS = st.integers() | st.integers(-(2**70), 2**70) | st.floats()
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from(["user", "system", "assistant", "tool", "developer", "function", "x"]) | VALUES,
            "content": st.text(max_size=50)
            | st.lists(st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url", "input_audio"]) | VALUES}))
            | VALUES,
            "tool_calls": VALUES,
            "name": VALUES,
        },
    )
    | VALUES,
    max_size=4,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["m", "e", "none", "maker/model:free"]) | VALUES,
        "messages": MESSAGES | VALUES,
        "prompt": VALUES | st.lists(st.integers(0, 9), max_size=3),
        "input": VALUES | st.lists(st.text(max_size=5), max_size=3),
        "stream": st.booleans() | VALUES,
        "stream_options": st.fixed_dictionaries({}, optional={"include_usage": st.booleans() | VALUES}) | VALUES,
        "max_tokens": st.integers(-2, 100) | VALUES,
        "max_completion_tokens": st.integers(1, 100) | VALUES,
        "temperature": st.floats(0, 2) | VALUES,
        "top_p": NUMBERS | VALUES,
        "n": st.integers(0, 10) | VALUES,
        "stop": st.text(max_size=3) | st.lists(st.text(max_size=3), max_size=6) | VALUES,
        "tools": VALUES,
        "logprobs": VALUES,
        "best_of": st.integers(0, 10) | VALUES,
        "encoding_format": st.sampled_from(["float", "base64", "x"]) | VALUES,
        "dimensions": VALUES,
        "user": VALUES,
        "api_base": VALUES,
        "system": VALUES,
        "instructions": st.text(max_size=5) | VALUES,
        "reasoning": st.fixed_dictionaries({}, optional={"effort": st.sampled_from(["low", "x"]) | VALUES}) | VALUES,
        "thinking": VALUES,
        "tool_choice": st.sampled_from(["auto", "none", "required"]) | VALUES,
        "response_format": VALUES,
        "models": VALUES,
        "provider": st.fixed_dictionaries({}, optional={"only": VALUES, "sort": VALUES}) | VALUES,
        "endpoint": VALUES,
        "body": VALUES,
    },
)
GOOD: dict[str, Json] = {
    PATH: {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"model": "m", "prompt": "hi"},
    "/v1/embeddings": {"model": "e", "input": "hi"},
    "/v1/responses": {"model": "m", "input": "hi"},
    "/v1/messages": {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "/v1/messages/count_tokens": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
    "/v1/estimate": {"model": "m", "messages": [{"role": "user", "content": "hi"}]},
}


@st.composite
def bodies(draw: st.DrawFn, path: str) -> bytes:
    """Mostly a good body with something else in it, sometimes damaged, sometimes nothing of the kind."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=200))
    if kind == 1:
        return json.dumps(draw(VALUES)).encode()
    fields = {**GOOD.get(path, {}), **draw(FIELDS)}
    body = json.dumps(fields, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    if kind == 2:
        start = draw(st.integers(0, len(body)))
        body = body[:start] + draw(st.binary(max_size=3)) + body[start + draw(st.integers(0, 3)) :]
    return body


PATHS = (
    st.sampled_from((POSTS + MORE_POSTS) * 3 + GETS + MORE_GETS)
    | st.sampled_from(["/v1", "/v1/", "/v1/x", "/v1/models/", "/v1/models/none", "/v1/engines", "/v1/chat/completion"])
    | st.text("abc/%2F.:~é\u2028", max_size=12).map(lambda text: "/v1/models/" + text)
    | st.text("abc/%20?&=;", max_size=12).map(lambda text: "/v1/" + text)
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from(["application/json; charset=utf-8", "text/plain", "APPLICATION/JSON", "x"]),
        "content-encoding": st.sampled_from(["identity", "gzip"]),
        "x-tollbridge-max-cost-usd": st.sampled_from(["0.5", "0", "-1", "1e3", "NaN", "x" * 100, "9" * 40, " "]),
        "authorization": st.sampled_from(["Bearer x", "Basic x", "Bearer", "bearer  ", "é", "Bearer é"]),
        "x-api-key": st.sampled_from(["x", ""]),
        "origin": st.sampled_from(["https://a.example", "null", "é"]),
        "accept": st.sampled_from(["text/event-stream", "*/*"]),
    },
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes, dict[str, str]]:
    path = draw(PATHS)
    usual = "POST" if path in GOOD else "GET"
    method = draw(st.sampled_from([usual] * 9 + ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"]))
    body = draw(bodies(path)) if method == "POST" else b""
    headers = draw(HEADERS) if draw(st.integers(0, 3)) == 0 else {}
    return method, path, body, headers


async def fuzz_once(site: Site, request: tuple[str, str, bytes, dict[str, str]]) -> int:
    method, path, body, headers = request
    for _ in range(100):
        start = time.perf_counter()
        reply = await send(site, method, path, body, headers)
        assert time.perf_counter() - start < 20
        # The loop stands still while requests are made up, and may be called overloaded for that.
        if reply.status != 503:
            break
        await asyncio.sleep(0.3)
    assert reply.status in DOCUMENTED, (request, reply)
    assert reply.headers["x-request-id"].startswith("req_")
    if reply.status >= 400 and method != "HEAD":
        check_error(reply, path)
    return reply.status


def fuzz(cases: int) -> None:
    """`cases` requests, ten to an example, at one gateway, whose books are checked at the end."""
    seen: set[int] = set()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        site = Site(always(answer), credit_usd="1000", config=SLASHED)
        runner.run(site.__aenter__())

        @hypothesis.settings(
            max_examples=cases // 10,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(st.lists(requests(), min_size=10, max_size=10))
        def trial(several: list[Any]) -> None:
            async def all_of_them() -> None:
                seen.update(await asyncio.gather(*(fuzz_once(site, each) for each in several)))

            runner.run(all_of_them())

        try:
            trial()
        finally:
            runner.run(site.__aexit__(None, None, None))
    assert {200, 400, 401, 404, 405, 415} <= seen


def test_every_route_gives_only_documented_answers_to_anything() -> None:
    """J1."""
    fuzz(2_000)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_route_gives_only_documented_answers_to_a_hundred_thousand_requests() -> None:
    fuzz(100_000)


# --- J2: JSON that readers disagree about -------------------------------------------------------------------------

HELLO = b'"messages":[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b" ", None),
        (b"null", None),
        (b"[]", None),
        (b'"x"', None),
        (b"{", None),
        (b'{"model":"m",' + HELLO + b",}", None),
        (b'{"model":"m",' + HELLO + b"} x", None),
        (b'{"model":"m",/**/' + HELLO + b"}", None),
        (b"\xef\xbb\xbf" + b'{"model":"m",' + HELLO + b"}", None),
        (('{"model":"m",' + HELLO.decode() + "}").encode("utf-16"), None),
        (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', None),
        (b'{"model":"m","messages":[{"role":"user","content":"\\ud83d"}]}', None),
        (b'{"model":"m","user":"\\udc00x",' + HELLO + b"}", None),
        (b'{"model":"m","temperature":NaN,' + HELLO + b"}", None),
        (b'{"model":"m","x":Infinity,' + HELLO + b"}", None),
        (b'{"model":"m","temperature":1e999,' + HELLO + b"}", "temperature"),
        (b'{"model":"m","temperature":true,' + HELLO + b"}", "temperature"),
        (b'{"model":"m","temperature":"1",' + HELLO + b"}", "temperature"),
        (b'{"model":"m","max_tokens":true,' + HELLO + b"}", "max_tokens"),
        (b'{"model":"m","max_tokens":1.5,' + HELLO + b"}", "max_tokens"),
        (b'{"model":"m","max_tokens":' + b"9" * 400 + b"," + HELLO + b"}", "max_tokens"),
        (b'{"model":"m","max_tokens":18446744073709551616,' + HELLO + b"}", "max_tokens"),
        (b'{"model":"m","max_tokens":-1,' + HELLO + b"}", "max_tokens"),
        (b'{"model":"m","stream":1,' + HELLO + b"}", "stream"),
        (b'{"model":"m","n":0,' + HELLO + b"}", "n"),
        (b'{"model":["m"],' + HELLO + b"}", "model"),
        (b'{"model":"",' + HELLO + b"}", "model"),
        (b'{"model":"m"}', "messages"),
        (b'{"model":"m","messages":[]}', "messages"),
        (b'{"model":"m","messages":[null]}', "messages[0]"),
        (b'{"model":"m","messages":[{"role":"user","content":5}]}', "messages[0].content"),
        (b'{"model":"m","messages":[{"role":"root","content":""}]}', "messages[0].role"),
        (b"{" + HELLO + b"}", "model"),
    ],
)
def test_odd_json_is_refused_by_the_name_of_what_is_wrong(body: bytes, param: str | None) -> None:
    """J2."""

    async def test() -> None:
        async with Site(always(answer)) as site:
            reply = await send(site, "POST", PATH, body, {"content-type": "application/json"})
            refused(reply, 400, "invalid_request_error", param)
            assert await site.usage() == []

    run(test())


def test_member_that_stands_twice_means_the_same_to_everybody() -> None:
    """J2: the gateway and the provider must not read different limits, models or messages."""
    seen: list[bytes] = []

    async def noted(request: Request, peer: Peer) -> None:
        seen.append(request.body)
        await answer(request, peer)

    async def test() -> None:
        async with Site(always(noted)) as site:
            body = b'{"model":"none","max_tokens":4000,"n":8,"model":"m","max_tokens":1,"n":1,' + HELLO + b"}"
            assert (await send(site, "POST", PATH, body)).status == 200
            [row] = await site.settled(1)
            assert row["held"] < 100_000
        pairs = json.loads(seen[0], object_pairs_hook=list)
        assert sorted(name for name, _ in pairs) == ["max_tokens", "messages", "model", "n"]
        assert dict(pairs)["max_tokens"] == 1

    run(test())


# --- J3: where requests go is the operator's business -------------------------------------------------------------

# The parameters by which clients of LiteLLM's proxy have chosen hosts, credentials, prices and answers.
ROUTING = """
api_base base_url api_key api_version api_type organization custom_llm_provider model_list fallbacks deployment_id
context_window_fallback_dict context_window_fallbacks content_policy_fallbacks default_fallbacks extra_headers
extra_body extra_query headers default_headers default_query proxy proxies http_client client ssl_verify endpoint_url
azure_ad_token azure_ad_token_provider azure_username azure_password azure_scope tenant_id client_id client_secret
aws_access_key_id aws_secret_access_key aws_session_token aws_region_name aws_session_name aws_profile_name
aws_role_name aws_web_identity_token aws_sts_endpoint aws_bedrock_runtime_endpoint aws_external_id bedrock_model_id
sagemaker_base_url vertex_project vertex_location vertex_credentials vertex_ai_project vertex_ai_location region_name
watsonx_region_name oci_region oci_user oci_fingerprint oci_key gcs_bucket_name s3_bucket_name s3_endpoint_url
litellm_params litellm_credential_name litellm_call_id litellm_metadata litellm_logging_obj litellm_proxy
use_litellm_proxy proxy_server_request configurable_clientside_auth_params user_config mock_response mock_tool_calls
mock_timeout mock_testing_fallbacks mock_testing_rate_limit_error num_retries max_retries input_cost_per_token
output_cost_per_token input_cost_per_second output_cost_per_second base_model rpm tpm route preset
plugins
""".split()  # noqa: SIM905 - a hundred quotes would hide them


@pytest.mark.parametrize("path", POSTS)
def test_callers_cannot_choose_host_credential_price_or_answer(path: str) -> None:
    """J3, CVE-2024-6587: each parameter names a server of the attacker's, which nobody ever calls."""
    seen: list[Json] = []

    async def noted(request: Request, peer: Peer) -> None:
        seen.append(json.loads(request.body))
        await answer(request, peer)

    async def never(peer: Peer) -> None:
        await peer.request()

    config = SLASHED.replace('"up"', '"other"')

    async def test() -> None:
        async with Site(always(noted), others={"other": never}, config=config) as site:
            evil = site.others["other"].url
            for name in ROUTING:
                for value in (evil, {"api_base": evil, "Authorization": "Bearer x"}, [evil]):
                    reply = await send(site, "POST", path, json.dumps({**GOOD[path], name: value}).encode())
                    refused(reply, 400, "invalid_request_error", name)
            assert site.others["other"].accepted == 0
        assert seen == []

    run(test())


def test_headers_of_the_caller_stay_here() -> None:
    """Nothing that a caller puts into the head of a request reaches a provider, least of all the caller's key."""
    seen: list[dict[bytes, bytes]] = []

    async def noted(request: Request, peer: Peer) -> None:
        seen.append(request.headers)
        await answer(request, peer)

    async def test() -> None:
        async with Site(always(noted)) as site:
            headers = {
                "host": "evil.example",
                "cookie": "a=b",
                "api-base": "http://evil.example",
                "x-forwarded-host": "evil.example",
                "forwarded": "host=evil.example",
                "openai-organization": "org-evil",
                "x-litellm-api-base": "http://evil.example",
                "user-agent": "evil",
                "accept-encoding": "gzip",
            }
            assert (await send(site, "POST", PATH, json.dumps(chat()).encode(), headers)).status == 200
        [found] = seen
        assert not any(b"evil" in value for value in found.values())
        assert set(found) <= {
            *(b"host", b"user-agent", b"accept-encoding", b"connection", b"content-length"),
            *(b"authorization", b"content-type", b"accept"),
        }

    run(test())


# --- J6: what must not get into a header --------------------------------------------------------------------------

CONTROLS = ["\r\nx-evil: 1", "\n", "\r", "\0", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u200b", "\u202e", "\ufeff"]


@pytest.mark.parametrize("control", CONTROLS)
def test_control_characters_get_nowhere(control: str) -> None:
    """J6: refused in a model's name; in a field that passes, it is JSON to everybody."""
    seen: list[Json] = []

    async def noted(request: Request, peer: Peer) -> None:
        assert b"x-evil" not in request.headers
        seen.append(json.loads(request.body))
        await answer(request, peer)

    async def test() -> None:
        async with Site(always(noted)) as site:
            for name in (control, f"m{control}", f"{control}m", f"m{control}m"):
                reply = await send(site, "POST", PATH, json.dumps({**chat(), "model": name}).encode())
                refused(reply, 400, "invalid_request_error", "model")
                assert "x-evil" not in reply.headers
            reply = await send(site, "POST", PATH, json.dumps(chat(user=control, organization_=control)).encode())
            assert reply.status == 200
            assert "x-evil" not in reply.headers
            path = "/v1/models/" + "".join(f"%{byte:02X}" for byte in f"m{control}".encode())
            refused(await send(site, "GET", path), 404, "model_not_found", "model")
        assert [each["user"] for each in seen] == [control]

    run(test())


@pytest.mark.parametrize("value", [b"a\rb", b"a\nb", b"a\0b", b"a\x01b", b"a\x7fb"])
@pytest.mark.parametrize("name", [b"authorization", b"x-tollbridge-max-cost-usd", b"x-anything", b"host"])
def test_control_characters_in_headers_are_refused(name: bytes, value: bytes) -> None:
    async def test() -> None:
        async with Site(always(answer)) as site:
            call = Call(*await asyncio.open_connection("127.0.0.1", site.port))
            call.writer.write(b"GET /v1/models HTTP/1.1\r\n%b: %b\r\nconnection: close\r\n\r\n" % (name, value))
            reply = await call.rest()
            call.close()
            assert reply.status == 400
            check_error(reply)

    run(test())


# --- keys, routes and methods -------------------------------------------------------------------------------------

BAD_KEYS = [
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": "Bearer "},
    {"authorization": "Basic dXNlcjpwYXNz"},
    {"authorization": "Bearer sk-proj-abc"},
    {"authorization": "Bearer tb_live_" + "a" * 40},
    {"authorization": "", "x-api-key": "tb_live_x"},
    {"authorization": "Bearer \xe9"},
    {"authorization": "x" * 20_000},
]


@pytest.mark.parametrize("headers", BAD_KEYS, ids=range(len(BAD_KEYS)))
def test_bad_key_is_refused_in_openais_words_before_the_body_is_read(headers: dict[str, str]) -> None:
    async def test() -> None:
        async with Site(always(answer)) as site:
            for path in POSTS:
                unread = {**headers, "content-type": "application/json", "content-length": "5000000"}
                refused(await send(site, "POST", path, b"", unread), 401, "invalid_api_key")
            for path in ("/v1/models", "/v1/models/m", "/v1/models/none", "/v1/nothing", "/v1"):
                refused(await send(site, "GET", path, b"", headers), 401, "invalid_api_key")
            for path in ("/health", "/v1/health", "/ready"):
                assert (await send(site, "GET", path, b"", headers)).status == 200

    run(test())


def test_two_different_keys_are_refused_and_the_same_one_twice_is_fine() -> None:
    async def test() -> None:
        async with Site(always(answer)) as site:
            both = await send(site, "GET", "/v1/models", b"", {"x-api-key": await site.make_key()})
            refused(both, 400, "ambiguous_credentials")
            assert (await send(site, "GET", "/v1/models", b"", {"x-api-key": site.key})).status == 200
            alone = {"authorization": "", "x-api-key": site.key}
            assert (await send(site, "GET", "/v1/models", b"", alone)).status == 200

    run(test())


def test_unknown_paths_and_methods_are_told_what_is_right() -> None:
    async def test() -> None:
        async with Site(always(answer)) as site:
            for path in ("/v1/nothing", "/v1", "/v1/chat", "/v1/chat/completions/"):
                refused(await send(site, "GET", path), 404, "not_found")
                refused(await send(site, "POST", path, b"{}"), 404, "not_found")
            for path in (
                "/v1/chat/completion",
                "/v1/chat/completions/",
                "/v1/v1/chat/completions",
                "/v1/engines/e/chat/completions",
            ):
                assert "You want /v1/chat/completions" in (await send(site, "POST", path, b"{}")).json["detail"]
            for path in ("/chat/completions", "/api/v1/chat/completions", "/messages", "/embeddings"):
                # Without a key too: a client that has its base URL wrong should not hunt for the fault in its key.
                reply = await send(site, "POST", path, b"{}", {"authorization": ""})
                refused(reply, 404, "not_found")
                assert f"You want /v1{path.removeprefix('/api/v1')}" in reply.json["detail"]
            for path in POSTS:
                for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
                    reply = await send(site, method, path)
                    refused(reply, 405, "method_not_allowed")
                    assert reply.headers["allow"] == "POST"
                assert (await send(site, "HEAD", path)).status == 405
            for path in GETS:
                reply = await send(site, "POST", path, b"{}")
                refused(reply, 405, "method_not_allowed")
                assert reply.headers["allow"] == "GET, HEAD"

    run(test())


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx", "json"])
def test_body_that_is_not_called_json_is_refused(kind: str) -> None:
    async def test() -> None:
        async with Site(always(answer)) as site:
            body = json.dumps(chat()).encode()
            for path in POSTS:
                refused(await send(site, "POST", path, body, {"content-type": kind}), 415, "unsupported_media_type")
            good = {"content-type": "Application/JSON ; charset=UTF-8"}
            assert (await send(site, "POST", PATH, body, good)).status == 200

    run(test())


def test_head_has_the_headers_of_get_and_no_body() -> None:
    async def test() -> None:
        async with Site(always(answer)) as site:
            for path in GETS:
                got, head = await send(site, "GET", path), await send(site, "HEAD", path)
                assert (head.status, head.body) == (200, b"")
                assert head.headers["content-length"] == str(len(got.body))
            missing = await send(site, "HEAD", "/v1/models/none")
            assert (missing.status, missing.body) == (404, b"")

    run(test())


def test_browsers_may_call_from_anywhere_without_credentials_of_their_own() -> None:
    async def test() -> None:
        async with Site(always(answer)) as site:
            origin = {"origin": "https://app.example"}
            for path in (*POSTS, *GETS):
                preflight = await send(site, "OPTIONS", path, b"", {**origin, "authorization": ""})
                assert (preflight.status, preflight.body) == (204, b"")
                assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
                assert "POST" in preflight.headers["access-control-allow-methods"]
            for stream_it in (False, True):
                reply = await send(site, "POST", PATH, json.dumps(chat(stream=stream_it)).encode(), origin)
                assert reply.headers["access-control-allow-origin"] == "*"
                assert reply.headers["access-control-expose-headers"] == "*"
                assert "access-control-allow-credentials" not in reply.headers
            bad = await send(site, "POST", PATH, b"{}", {**origin, "authorization": "Bearer x"})
            assert bad.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-origin" not in (await send(site, "GET", "/v1/models")).headers

    run(test())


def test_models_are_listed_and_found_by_ids_with_slashes() -> None:
    async def test() -> None:
        async with Site(always(answer), config=SLASHED) as site:
            listed = (await send(site, "GET", "/v1/models")).json
            assert listed["object"] == "list"
            by_id = {each["id"]: each for each in listed["data"]}
            assert {"m", "e", "maker/model:free"} <= set(by_id)
            for path in ("maker/model:free", "maker%2Fmodel:free", "maker%2fmodel%3Afree"):
                assert (await send(site, "GET", f"/v1/models/{path}")).json == by_id["maker/model:free"]
            model = by_id["maker/model:free"]
            assert (model["object"], model["type"], model["best_for"]) == ("model", "chat", "tests")
            assert (model["price"]["input"], model["price"]["output"]) == ("0.5", "1.25")
            for missing in ("none", "maker", "maker%252Fmodel:free", "m%00", "%2e%2e", "m/"):
                refused(await send(site, "GET", f"/v1/models/{missing}"), 404, "model_not_found", "model")
            refused(await site.post(PATH, {**chat(), "model": "none"}), 404, "model_not_found", "model")

    run(test())


def test_model_outside_the_plan_is_not_shown_and_says_its_name() -> None:
    plan = '[plans.default]\nmodels = ["e"]\n'

    async def test() -> None:
        async with Site(always(answer), config=plan) as site:
            assert [each["id"] for each in (await send(site, "GET", "/v1/models")).json["data"]] == ["e"]
            reply = await send(site, "GET", "/v1/models/m")
            refused(reply, 404, "model_not_found", "model")
            assert "`m`" in reply.json["detail"]
            refused(await site.post(PATH, chat()), 403, "model_not_allowed", "model")

    run(test())


def test_draining_server_is_alive_and_not_ready() -> None:
    async def test() -> None:
        async with Site(always(answer)) as site:
            site.gateway.drain()
            for path in ("/health", "/v1/health"):
                assert (await send(site, "GET", path, b"", {"authorization": ""})).json == {"status": "ok"}
            for reply in (await send(site, "GET", "/ready"), await site.post(PATH, chat())):
                refused(reply, 503, "overloaded")
                assert int(reply.headers["retry-after"]) > 0

    run(test())


@pytest.mark.parametrize(
    ("trouble", "code", "serves"),
    [
        ("is behind", "overloaded", False),
        ("has no ledger", "ledger_unavailable", False),
        ("leaves", "overloaded", True),
    ],
)
def test_server_in_trouble_is_not_ready_and_only_one_that_leaves_serves(trouble: str, code: str, serves: bool) -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            line = site.gateway._line
            assert line is not None
            edge: Any = line.edge
            if trouble == "is behind":
                edge._vital.lag = SimpleNamespace(seconds=60.0)
            elif trouble == "has no ledger":
                edge._ledger = SimpleNamespace(failed=True)
            else:
                edge._vital.leaving = True
            refused(await send(site, "GET", "/ready"), 503, code)
            assert (await send(site, "GET", "/health")).status == 200
            reply = await site.post(PATH, chat())
            if serves:
                assert reply.status == 200
            else:
                refused(reply, 503, code)

    run(test())


def test_mistake_of_ours_is_a_500_that_says_nothing_and_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """G-8: whatever fails in the middle, the hold goes back, and the log has the id that the caller was told."""

    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            line = site.gateway._line
            assert line is not None
            line.edge._relay.run = broken  # type: ignore[method-assign, assignment]
            reply = await site.post("/v1/chat/completions", chat())
            assert reply.status == 500
            assert reply.json["error"]["code"] == "internal_error"
            assert b"secret detail" not in reply.body
            assert reply.headers["x-request-id"] in caplog.text
            [row] = await site.settled(1)
            assert row["charge"] == 0

    async def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    run(test())
