"""What is said of paths that are nearly right."""

import pytest

from tollbridge.edge.inference import ENDPOINTS, KNOWN_PATHS
from tollbridge.edge.paths import ends_like_one, is_of_the_api, not_here


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/chat/completions", "/v1/chat/completions: the base URL of OpenAI's clients ends with /v1."),
        ("/openai/completions", "/v1/completions: the base URL of OpenAI's clients ends with /v1."),
        (
            "/v1/v1/messages",
            "/v1/messages: a client that adds /v1 itself, as Anthropic's do, wants a base URL without.",
        ),
        ("/v1/v1/messages/count_tokens", "/v1/messages/count_tokens: a client that adds /v1 itself, as"),
        ("/api/v1/chat/completions", "/v1/chat/completions."),
        ("/v1/chat/completions/", "/v1/chat/completions."),
        ("/v1/chat/completion", "/v1/chat/completions."),
        ("/v1/embedings", "/v1/embeddings."),
        ("/v1/model", "/v1/models."),
    ],
)
def test_the_right_one_is_named(path: str, says: str) -> None:
    assert f"There is no POST {path} here. You want {says}" in not_here("POST", path, KNOWN_PATHS)


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/images/generations", "/v1/audio/speech", "/v1/" + "x" * 9_999])
def test_what_is_like_none_is_referred_to_the_documentation(path: str) -> None:
    said = not_here("GET", path, KNOWN_PATHS)
    assert said.endswith("The API is described under /docs.")
    assert len(said) < 300


@pytest.mark.parametrize("path", ["/", "/models", "/docs", "/dashboard/usage", "/admin/payments", "/api/keys"])
def test_pages_are_not_taken_for_endpoints(path: str) -> None:
    assert not ends_like_one(path, ENDPOINTS)
    assert not is_of_the_api(path, ENDPOINTS)


@pytest.mark.parametrize(
    ("path", "is_one"),
    [
        *[("/v1", True), ("/v1/", True), ("/v1/models/x", True), ("/v1x", False), ("/chat/completions", True)],
        *[("/api/v1/chat/completions", True), ("/docs/chat/completions", False), ("/models/a/embeddings", False)],
    ],
)
def test_what_is_nearly_right_is_of_the_api_and_the_page_about_it_is_not(path: str, is_one: bool) -> None:
    assert is_of_the_api(path, ENDPOINTS) is is_one
