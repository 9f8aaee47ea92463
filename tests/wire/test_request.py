import json

import pytest

from tollbridge.errors import InvalidRequest
from tollbridge.wire import openai_chat, openai_completions
from tollbridge.wire.request import read_fields

# Parameters by which callers of LiteLLM's proxy (CVE-2024-6587 and its kin) or of OpenRouter direct a request.
OPERATORS = [
    *("api_base", "api_key", "api_version", "api_type", "base_url", "base_model", "organization", "deployment_id"),
    *(
        "extra_headers",
        "extra_body",
        "extra_query",
        "headers",
        "default_headers",
        "default_query",
        "client",
        "http_client",
    ),
    *("custom_llm_provider", "model_list", "fallbacks", "context_window_fallbacks", "content_policy_fallbacks"),
    *(
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "aws_region_name",
        "aws_bedrock_runtime_endpoint",
    ),
    *(
        "aws_role_name",
        "aws_profile_name",
        "aws_web_identity_token",
        "aws_sts_endpoint",
        "region_name",
        "proxy",
        "proxies",
    ),
    *("azure_ad_token", "azure_ad_token_provider", "azure_endpoint", "azure_password", "tenant_id", "client_id"),
    *(
        "client_secret",
        "vertex_credentials",
        "vertex_project",
        "vertex_location",
        "vertex_ai_project",
        "watsonx_region",
    ),
    *(
        "litellm_params",
        "litellm_metadata",
        "litellm_credential_name",
        "sagemaker_base_url",
        "gcs_bucket_name",
        "oci_key",
    ),
    *("mock_response", "input_cost_per_token", "output_cost_per_token", "input_cost_per_second", "rpm", "tpm"),
    *("ssl_verify", "user_config", "num_retries", "endpoint_url", "route", "preset", "plugins"),
]


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("value", ["http://169.254.169.254/latest", {"a": "b"}, None])
def test_fields_of_the_operator_are_refused(name: str, value: object) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], name: value}
    for text in (json.dumps(body), json.dumps(body).replace(f'"{name}"', f'"\\u{ord(name[0]):04x}{name[1:]}"')):
        with pytest.raises(InvalidRequest, match="set by the operator") as raised:
            openai_chat.parse(text.encode())
        assert raised.value.param == name


@pytest.mark.parametrize(
    "name", ["metadata", "store", "service", "enable_thinking", "top_k", "providers", "api", "azure", "ö", ""]
)
def test_other_unknown_fields_pass(name: str) -> None:
    assert name in read_fields(json.dumps({"model": "m", name: {"any": [1]}}).encode())


def test_a_very_long_name_is_not_repeated_whole() -> None:
    with pytest.raises(InvalidRequest) as raised:
        read_fields(json.dumps({"aws_" + "x" * 5000: 1}).encode())
    assert len(raised.value.message) < 200
    assert len(raised.value.param or "") == 64


@pytest.mark.parametrize("tools", [[1], [None], ["web_search"], {"type": "web_search"}, "web_search", None])
def test_no_tools_are_offered_where_there_are_none(tools: object) -> None:
    request = openai_completions.parse(json.dumps({"model": "m", "prompt": "a", "tools": tools}).encode())
    assert request.offers_providers_tools() is False


@pytest.mark.parametrize(
    ("kinds", "offered"),
    [(["function", "custom"], False), (["function", "web_search"], True), (["web_search_20250305"], True)],
)
def test_tools_are_the_caller_s_or_the_provider_s(kinds: list[str], offered: bool) -> None:
    tools = [{"type": kind} for kind in kinds]
    request = openai_completions.parse(json.dumps({"model": "m", "prompt": "a", "tools": tools}).encode())
    assert request.offers_providers_tools() is offered
