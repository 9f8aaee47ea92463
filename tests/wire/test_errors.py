import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.effort import growth

from tollbridge.errors import InvalidRequest, PaymentRequired, UpstreamFailed
from tollbridge.wire.errors import MAX_MESSAGE, NONE_CAN, UpstreamSaid, classify, redact, render, said_beside, said_in

NOW = 784_111_777.0  # Sun, 06 Nov 1994 08:49:37 GMT


def classified(status: int, body: Any = b"", **headers: str) -> UpstreamSaid:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    given = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return classify(status, given, raw, NOW)


# --- Ours ---


@pytest.mark.parametrize("sdk", [b"typescript 1.3.19 2.914.0 1.0.0 @openrouter/sdk", b"python 1.3.84 1.0.0 openrouter"])
def test_openrouters_sdks_get_the_status_as_code_and_ours_beside_it(sdk: bytes) -> None:
    body = json.loads(render(InvalidRequest("Wrong."), [(b"host", b"x"), (b"user-agent", b"speakeasy-sdk/" + sdk)]))
    assert body["error"]["code"] == 400
    assert body["error"]["metadata"] == dict.fromkeys(("code", "error_type"), "invalid_request_error")
    for other in (b"OpenAI/JS 7.0 openrouter", b"speakeasy-sdk/typescript 1.0 @mistralai/mistralai"):
        assert render(InvalidRequest("Wrong."), [(b"user-agent", other)]) == render(InvalidRequest("Wrong."))


def test_an_error_has_openai_s_four_keys_and_a_detail() -> None:
    assert json.loads(render(InvalidRequest("Wrong.", param="n"))) == {
        "error": {"message": "Wrong.", "type": "invalid_request_error", "param": "n", "code": "invalid_request_error"},
        "detail": "Wrong.",
    }


def test_money_in_an_error_is_printed_as_it_was_given() -> None:
    error = PaymentRequired("No credit.", extra={"balance_usd": b"0.250000001"})
    assert b'"balance_usd":0.250000001' in render(error)
    assert json.loads(render(error))["error"]["param"] is None


def test_text_in_an_error_stays_text() -> None:
    message = '"</script>\r\n\x00'
    assert json.loads(render(UpstreamFailed(message)))["error"]["message"] == message


# --- What a provider means ---

TEMPERATURE = "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead."

PASSED_ON: list[tuple[int, Any, str, str | None, str | None]] = [
    (
        400,
        {
            "error": {
                "message": TEMPERATURE,
                "type": "invalid_request_error",
                "param": "temperature",
                "code": "decimal_above_max_value",
            }
        },
        TEMPERATURE,
        "temperature",
        "decimal_above_max_value",
    ),
    (
        400,
        {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "messages.0: role is wrong"},
            "request_id": "req_1",
        },
        "messages.0: role is wrong",
        None,
        None,
    ),
    (
        400,
        {"error": {"code": 400, "message": "Unknown name", "status": "INVALID_ARGUMENT"}},
        "Unknown name",
        None,
        None,
    ),
    (400, [{"error": {"code": 400, "message": "In a list", "status": "INVALID_ARGUMENT"}}], "In a list", None, None),
    (
        400,
        {"object": "error", "message": "vLLM says no", "type": "BadRequestError", "param": None, "code": 400},
        "vLLM says no",
        None,
        None,
    ),
    (422, {"detail": "Input should be valid"}, "Input should be valid", None, None),
    (
        400,
        {"code": "InvalidParameter", "message": "n must be 1", "request_id": "9"},
        "n must be 1",
        None,
        "InvalidParameter",
    ),
    (
        404,
        {"error": 'model "x" not found, try pulling it first'},
        'model "x" not found, try pulling it first',
        None,
        None,
    ),
    (400, {"error": "n is odd", "code": "invalid_argument"}, "n is odd", None, "invalid_argument"),
    (413, {"error": {"message": "too big", "code": "request_too_large"}}, "too big", None, "request_too_large"),
    (400, b"<html>Bad Request</html>", "The provider refused the request with status 400.", None, None),
    (400, b"", "The provider refused the request with status 400.", None, None),
    (
        400,
        {"error": {"message": ["odd"], "param": 7, "code": ["x"]}},
        "The provider refused the request with status 400.",
        None,
        None,
    ),
    (400, {"error": None}, "The provider refused the request with status 400.", None, None),
    (400, "only a string", "only a string", None, None),
    (451, {"error": {"message": "Not here"}}, "Not here", None, None),
]


@pytest.mark.parametrize(("status", "body", "message", "param", "code"), PASSED_ON)
def test_what_the_caller_did_wrong_is_passed_on(
    status: int, body: Any, message: str, param: str | None, code: str | None
) -> None:
    said = classified(status, body)
    assert (said.status, said.message, said.param, said.code) == (status, message, param, code)


@pytest.mark.parametrize("status", [401, 402, 403, 407, 408, 429, 500, 502, 503, 504, 529, 302])
def test_what_is_not_the_caller_s_business_is_not_passed_on(status: int) -> None:
    said = classified(status, {"error": {"message": "Secret of the house", "param": "secret", "code": "secret"}})
    assert said.status == status
    assert "ecret" not in said.message
    assert (said.param, said.code) == (None, None)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (
            400,
            {"code": 400, "message": "API key not valid. Please pass a valid API key.", "status": "INVALID_ARGUMENT"},
        ),
        (400, {"message": "x", "code": "invalid_api_key"}),
        (400, {"message": "Incorrect API key provided: ab***yz", "type": "invalid_request_error"}),
        (400, {"message": "x", "type": "authentication_error"}),
        (401, {"message": "x"}),
    ],
)
def test_a_bad_credential_is_401_whatever_they_call_it(status: int, error: Any) -> None:
    assert classified(status, {"error": error}).status == 401


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (
            429,
            {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"},
        ),
        (429, {"message": "账户余额不足", "code": "1113"}),
        (429, {"message": "x", "type": "exceeded_current_quota_error"}),
        (400, {"type": "invalid_request_error", "message": "Your credit balance is too low to access the API."}),
        (400, {"code": "Arrearage", "message": "Access denied"}),
        (403, {"message": "Insufficient balance"}),
        (402, {"message": "Insufficient Balance", "type": "unknown_error", "code": "invalid_request_error"}),
        (
            400,
            {
                "type": "invalid_request_error",
                "message": "You have reached your specified API usage limits. You will regain access on 2026-12-01.",
            },
        ),
        (
            412,
            {
                "message": "Account me-1 is suspended, possibly due to reaching the monthly spending limit or failure"
                " to pay past invoices.",
                "code": "PRECONDITION_FAILED",
                "type": "error",
            },
        ),
        (429, "Your team 16f2 has either used all available credits or reached its monthly spending limit."),
        (403, "You have run out of credits"),
        (403, {"message": "Sorry, your account balance is insufficient", "code": 30001}),
        (429, {"message": "Your account is not active", "type": "billing_not_active", "code": "billing_not_active"}),
        (403, {"message": "The request failed", "type": "Forbidden", "code": "AccountOverdueError"}),
        (403, {"message": "用户额度不足, 剩余额度: 0", "type": "new_api_error", "code": "insufficient_user_quota"}),
        (403, {"message": "x", "type": "new_api_error", "code": "pre_consume_token_quota_failed"}),
        (401, {"message": "[sk-abc***xyz] 该令牌额度已用尽", "type": "one_api_error"}),
    ],
)
def test_an_empty_account_is_402_whatever_they_call_it(status: int, error: Any) -> None:
    assert classified(status, {"error": error}).status == 402


@pytest.mark.parametrize(("status", "meant"), [(401, 402), (403, 402), (429, 402), (400, 400), (412, 412), (500, 500)])
def test_only_an_error_about_the_account_says_anywhere_that_it_is_empty(status: int, meant: int) -> None:
    assert classified(status, {"error": {"message": "Denied, as you have run out of credits"}}).status == meant


MORE = " To learn more about provider routing, visit: https://openrouter.ai/docs/guides/routing/provider-selection"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("No endpoints found that support image input", "No endpoints found that support image input"),
        ("No endpoints found that support tool use." + MORE, "No endpoints found that support tool use."),
        (
            "No endpoints found that can handle the requested parameters." + MORE,
            "No endpoints found that can handle the requested parameters.",
        ),
    ],
)
def test_what_no_host_of_a_known_model_can_do_is_told_apart_from_an_unknown_model(message: str, told: str) -> None:
    said = classified(404, {"error": {"message": message, "code": 404}})
    assert (said.status, said.message, said.code) == (404, told, NONE_CAN)
    said = classified(404, {"error": {"message": "No endpoints found for maker/model.", "code": 404}})
    assert (said.status, said.code) == (404, None)


@pytest.mark.parametrize(
    "message",
    [
        "Invalid value: 'insufficient balance'. Supported values are: 'none', 'auto', and 'required'.",
        "insufficient balance: Extra inputs are not permitted",
        "Your credit balance is too low: Extra inputs are not permitted",
        "messages.0.content.0.type: Input should be 'text', not 'you have reached your specified API usage limits'",
        'Unknown name "insufficient credits": Cannot find field.',
    ],
)
def test_what_a_caller_wrote_never_empties_the_account(message: str) -> None:
    assert classified(400, {"error": {"message": message, "type": "invalid_request_error"}}).status == 400


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "The model `x` has been decommissioned and is no longer supported.", "type": "x"}),
        (400, {"message": "x", "type": "invalid_request_error", "code": "model_decommissioned"}),
        (400, {"message": "x/y is not a valid model ID", "code": 400}),
        (400, {"message": "Model Not Exist", "type": "invalid_request_error", "code": "invalid_request_error"}),
        (400, {"message": "Invalid model: x", "type": "invalid_model", "code": "1500"}),
        (400, {"message": "The model grok-x does not exist or your team does not have access to it."}),
        (410, {"message": "The model 'x' has reached its end of life and is no longer available."}),
        (405, "Method Not Allowed"),
    ],
)
def test_a_model_that_the_provider_does_not_serve_is_404_whatever_they_call_it(status: int, error: Any) -> None:
    assert classified(status, {"error": error}).status == 404


@pytest.mark.parametrize(
    "error",
    [
        {"message": "x", "code": "context_length_exceeded"},
        {"message": "x", "type": "too_many_prompt_tokens", "code": 400},
        {"message": "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."},
        {"message": "prompt is too long: 250000 tokens > 200000 maximum", "type": "invalid_request_error"},
        {"message": "the request exceeds the available context size. try increasing the context size"},
        {"message": "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576)."},
    ],
)
def test_a_prompt_that_is_too_long_has_openai_s_code(error: Any) -> None:
    assert classified(400, {"error": error}).code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ({"code": 429, "message": "x"}, 429),
        ({"code": 402, "message": "x"}, 402),
        ({"code": 99, "message": "x"}, 502),
        ({"code": True, "message": "x"}, 502),
        ({"type": "rate_limit_error"}, 429),
        ({"type": "overloaded_error"}, 529),
        ({"type": "invalid_request_error", "code": "tool_use_failed"}, 400),
        ({"type": "insufficient_quota"}, 402),
        ({"type": "server_error"}, 502),
        ("plain text", 502),
        (None, 502),
        (["odd"], 502),
    ],
)
def test_an_error_that_came_with_a_200_has_the_status_that_it_means(error: Any, status: int) -> None:
    assert said_in(error).status == status


@pytest.mark.parametrize(
    ("beside", "status", "message", "code"),
    [
        ({"status_code": 2013, "status_msg": "n is odd"}, 400, "n is odd", None),
        ({"status_code": 1026, "status_msg": "new_sensitive"}, 400, "new_sensitive", "content_filter"),
        ({"status_code": 1002, "status_msg": "secret"}, 429, "The provider answered with status 429.", None),
        ({"status_code": 7, "status_msg": "secret"}, 502, "The provider answered with status 502.", None),
    ],
)
def test_what_minimax_says_beside_an_answer_is_an_error(
    beside: Any, status: int, message: str, code: str | None
) -> None:
    said = said_beside(beside)
    assert said is not None
    assert (said.status, said.message, said.code) == (status, message, code)


@pytest.mark.parametrize("beside", [None, "no", {}, {"status_code": 0}, {"status_code": "1004"}])
def test_nothing_is_wrong_where_minimax_names_no_error(beside: Any) -> None:
    assert said_beside(beside) is None


def test_other_statuses_keep_their_meaning() -> None:
    assert classified(500, {"error": {"message": "no API key configured", "code": "invalid_api_key"}}).status == 500
    assert classified(422, {"error": {"message": "the field 'x' holds an invalid api key"}}).status == 422
    assert classified(500, {"error": {"message": "x", "code": "insufficient_quota"}}).status == 500


# --- When to come back (E3) ---


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("2", 2.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("61", 60.0),
        ("1e9", 60.0),
        ("1000000000", 60.0),
        ("9" * 400, None),
        ("1e999", None),
        ("-5", None),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("1_0", None),
        ("٣", None),
        ("", None),
        ("Sun, 06 Nov 1994 08:49:47 GMT", 10.0),
        ("Sun, 06 Nov 1994 08:49:07 GMT", 0.0),
        ("Mon, 07 Nov 1994 08:49:37 GMT", 60.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 60.0),
        ("Sun, 31 Feb 1994 08:49:37 GMT", None),
        ("Sun, 06 Foo 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 1994 99:49:37 GMT", None),
        ("Sunday, 06-Nov-94 08:49:37 GMT", None),
    ],
)
def test_retry_after_is_read_and_capped(value: str, seconds: float | None) -> None:
    assert classified(429, retry_after=value).retry_after == seconds


def test_milliseconds_come_first() -> None:
    assert classified(429, retry_after_ms="1500", retry_after="20").retry_after == 1.5
    assert classified(429, retry_after_ms="1e9", retry_after="20").retry_after == 60
    assert classified(429, retry_after_ms="odd", retry_after="20").retry_after == 20


@pytest.mark.parametrize(
    ("details", "seconds"),
    [
        ([{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"}], 34.4),
        ([{"@type": "x"}, 7, {"retryDelay": "90s"}], 60.0),
        ([{"retryDelay": "odd"}], None),
        ([{"retryDelay": 5}], None),
        ({"retryDelay": "5s"}, None),
        (None, None),
    ],
)
def test_gemini_says_it_in_the_body(details: Any, seconds: float | None) -> None:
    error = {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED", "details": details}
    assert classified(429, {"error": error}).retry_after == seconds
    assert said_in(error).retry_after == seconds


def test_header_names_that_repeat_or_are_missing_do_not_matter() -> None:
    assert classify(503, [(b"server", b"x"), (b"retry-after", b"3")], b"", NOW).retry_after == 3
    assert classify(503, [], b"", NOW).retry_after is None


# --- Redacting (J16) ---

SECRETS = [
    "sk-proj-abcdefghijklmnop",
    "sk-ant-api03-abc_def-123456789",
    "sk-or-v1-0123456789abcdef",
    "sk-****************abcd",
    "gsk_ABCDEFGH12345678",
    "xai-abcdefgh12345678",
    "AIzaSyA1234567890abcdefghijklmnopqrstuv",
    "AKIAIOSFODNN7EXAMPLE",
    "hf_abcdefghijklmnop",
    "nvapi-abcdefgh12345678",
    "Bearer abcdef123456",
    "bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
    "api_key=hunter2hunter2",
    "api key: hunter2",
    '"password": "hunter2"',
    "Authorization: hunter2",
    "0123456789abcdef0123456789abcdef",
    "8f9d5f2c-6f0e-4d6a-8d6a-1c8f7f1f0a11",
    "tb_live_abcdefghijklmnopqrstuvwx0123456789",
    "org-AbCdEfGhIjKl",
    "proj_AbCdEfGhIj12",
    "req_011CabcdefGhij",
    "request-12ab34cd",
    "acct_1A2b3C4d",
    "https://internal.example.com/v1/chat?key=abc",
    "http://10.0.0.5:8080/v1",
    "ftp://user:pass@host/x",
    "10.0.0.5",
    "192.168.1.1:8080",
    "[2001:db8::8a2e:370:7334]:443",
    "fe80:0:0:0:1:2:3:4",
    "localhost:11434",
    "upstream.svc.cluster.local:8000",
    "llm.corp.internal",
    "api.deepseek.com",
    "my-resource.openai.azure.com/openai",
    "operator@example.org",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "around", ["{}", "See {} for more.", "at '{}'", "({})", "key:{},", "a\n{}\nb", "{}" + " x" * 300]
)
def test_nothing_of_the_operator_s_is_left(secret: str, around: str) -> None:
    message = redact(around.format(secret))
    words = secret.replace('"', " ").replace(":", " ").replace("=", " ").split()
    assert words[-1] not in message
    assert "hunter2" not in message
    assert "[…]" in message


@pytest.mark.parametrize(
    "message",
    [
        TEMPERATURE,
        "This model's maximum context length is 8192 tokens. However, you asked for 9000 (8000 in the messages).",
        "messages[3].content[0].image_url: unsupported image type, use one of png, jpeg, gif or webp",
        "messages.0.content.1.text is required; tool_calls.2.function.arguments must be a JSON string",
        "'max_tokens' and 'max_completion_tokens' cannot both be set. Use max_completion_tokens instead.",
        "Invalid schema for function 'get_weather': additionalProperties must be false. See user-defined types.",
        "The model `gpt-9-mini` does not support tools at 12:34:56 (ratio 1:2:3).",
        "未知的参数：stop",
    ],
)
def test_what_callers_need_to_know_stays(message: str) -> None:
    assert redact(message) == message


def test_a_message_is_one_short_line_of_visible_text() -> None:
    assert redact("a\r\n\tb\x00\x1b[31mc\u202ed\u200b") == "a b [31mc d"
    long = redact("word " * 1000)
    assert len(long) <= MAX_MESSAGE
    assert long.endswith("…")


@pytest.mark.parametrize("piece", ["a.", "a@", "a-1", "a1_", "1", ":", "[", "http:/", "1.", "a ", "sk-", "é."])
def test_hostile_messages_are_read_in_little_time(piece: str) -> None:
    """Twelve times as long takes as long as one that is cut: eight times as long as an eighth of that."""
    assert growth(lambda size: redact(piece * (size // len(piece))), 150, 12_000) < 16


@pytest.mark.parametrize("name", ["code", "param"])
@pytest.mark.parametrize(
    "value", ["has space", "x" * 65, "a\nb", "sk-abcdefghijkl", "http://x.test", "", 7, None, ["a"], "1abc", "é"]
)
def test_only_short_identifiers_pass_as_code_and_param(name: str, value: Any) -> None:
    said = classified(400, {"error": {"message": "m", name: value}})
    assert getattr(said, name) is None


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "param", "status", "details", "retryDelay", "detail"]),
            inner,
        )
    ),
    max_leaves=6,
)


@given(st.integers(201, 599), st.binary() | values.map(lambda value: json.dumps(value).encode()), st.text())
def test_no_answer_breaks_the_reader(status: int, body: bytes, header: str) -> None:
    said = classify(status, [(b"retry-after", header.encode(errors="replace"))], body, NOW)
    assert said.message
    assert len(said.message) <= MAX_MESSAGE
    assert said.message.isprintable()
    assert said.retry_after is None or 0 <= said.retry_after <= 60


GOOGLE = "type.googleapis.com/google.rpc."


@pytest.mark.parametrize(
    ("status", "body", "meaning"),
    [
        (
            400,
            {
                "code": 400,
                "message": "API key not valid. Please pass a valid API key.",
                "status": "INVALID_ARGUMENT",
                "details": [{"@type": f"{GOOGLE}ErrorInfo", "reason": "API_KEY_INVALID"}],
            },
            401,
        ),
        (400, {"code": 400, "message": "API key expired. Please renew it.", "status": "INVALID_ARGUMENT"}, 401),
        (
            400,
            {
                "code": 400,
                "message": "User location is not supported for the API use.",
                "status": "FAILED_PRECONDITION",
            },
            403,
        ),
        (
            429,
            {"code": 429, "message": "Your prepayment credits are depleted.", "status": "RESOURCE_EXHAUSTED"},
            402,
        ),
        (403, {"code": 403, "message": "Your API key was reported as leaked.", "status": "PERMISSION_DENIED"}, 403),
        (400, {"code": 400, "message": "Invalid JSON payload received.", "status": "INVALID_ARGUMENT"}, 400),
    ],
)
def test_what_google_s_errors_mean(status: int, body: dict[str, Any], meaning: int) -> None:
    for document in ({"error": body}, [{"error": body}]):
        assert classify(status, [], json.dumps(document).encode(), 0).status == meaning


@pytest.mark.parametrize(
    ("status", "body", "meaning", "code"),
    [
        (401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key."}}, 401, None),
        (404, {"error": {"code": "DeploymentNotFound", "message": "It does not exist."}}, 404, "DeploymentNotFound"),
        (
            400,
            {"error": {"message": "The response was filtered.", "code": "content_filter", "status": 400}},
            400,
            "content_filter",
        ),
        (403, {"Message": "Authentication failed: the bearer token is not valid."}, 403, None),
        (429, {"message": "Too many requests, please wait before trying again."}, 429, None),
        (400, {"message": "The provided model identifier is invalid."}, 404, None),
    ],
    ids=["azure key", "azure deployment", "azure filter", "bedrock key", "bedrock limit", "bedrock model"],
)
def test_what_errors_of_clouds_mean(status: int, body: dict[str, Any], meaning: int, code: str | None) -> None:
    said = classify(status, [], json.dumps(body).encode(), 0)
    assert said.status == meaning
    assert said.code == code
    if meaning == 400:
        assert said.message.startswith("The ")
