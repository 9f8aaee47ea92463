"""Each row of data/providers.toml: where and how it is called, and what its streams look like.

Streams are after each provider's documentation. Those that the older rows need stand in `streams`.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.wire.streams import CREATED, ID, PRICE, RECEIPT, Text, events, stream_of, text_of

from tollbridge.config import Source, read
from tollbridge.services.providers import upstreams
from tollbridge.upstream import auth
from tollbridge.values import Route, Upstream
from tollbridge.wire import openai_chat, openai_embeddings, translate

ROWS: dict[str, dict[str, Any]] = tomllib.loads(
    (Path(__file__).parents[2] / "src/tollbridge/data/providers.toml").read_text()
)
PLACES = {"region": "eu-west-1", "project": "my-project", "resource": "my-resource", "api_version": "2024-10-21"}
ACCOUNT = json.dumps({"client_email": "bot@example.test", "private_key": "none"})

Json = dict[str, Any]


def configured(tmp_path: Path, name: str) -> Upstream:
    key = "" if not ROWS[name].get("env") else "api_key = 'KEY'\n"
    if ROWS[name].get("auth") == auth.GOOGLE:
        key = f"api_key = '{ACCOUNT}'\n"
    places = "".join(f'{place} = "{PLACES[place]}"\n' for place in ROWS[name].get("places", {}))
    file = tmp_path / "tollbridge.toml"
    file.write_text(f"[providers.{name}]\n{key}{places}")
    return upstreams(read(Source(file), {}))[name]


def route(upstream: Upstream, model: str) -> Route:
    return Route(model="public", upstream=upstream, upstream_model=model, price=PRICE, cost=PRICE)


def called(to: Route, **fields: Any) -> tuple[str, Mapping[bytes, bytes], Json]:
    """(URL, headers, body) of a chat."""
    body = {"model": "public", "messages": [{"role": "user", "content": "Hi"}], **fields}
    outgoing = translate.exchange(openai_chat.parse(json.dumps(body).encode()), to, ID, CREATED, None).request()
    return to.upstream.base_url + outgoing.target.decode(), dict(auth.headers(to.upstream)), json.loads(outgoing.body)


# What changes the price of a call, or what is written beyond what was checked, at those who know it.
DEARER = {
    "service_tier": (
        *("openai", "azure", "azure-deployments", "bedrock", "bedrock-mantle", "openrouter", "xai", "groq"),
        *("fireworks", "deepinfra", "cerebras"),
    ),
    "web_search_options": ("openai", "azure", "azure-deployments", "openrouter", "xai"),
    "search_parameters": ("xai",),
    "enable_search": ("qwen",),
    "n_predict": ("llamacpp",),
    "n_cmpl": ("llamacpp",),
}


@pytest.mark.parametrize(("field", "name"), [(field, name) for field, names in DEARER.items() for name in names])
def test_no_caller_makes_a_call_dearer_than_its_price(field: str, name: str, tmp_path: Path) -> None:
    _, _, body = called(route(configured(tmp_path, name), "m-1"), **{field: "priority"})
    assert field not in body


GOOGLE = "https://aiplatform.googleapis.com/v1/projects/my-project/locations/global"
# Where a chat goes, where a streamed one does if elsewhere, the header of the credential.
CALLS: dict[str, tuple[str, str | None, tuple[bytes, bytes] | None]] = {
    "gemini": (
        "https://generativelanguage.googleapis.com/v1beta/models/m-1:generateContent",
        "https://generativelanguage.googleapis.com/v1beta/models/m-1:streamGenerateContent?alt=sse",
        (b"x-goog-api-key", b"KEY"),
    ),
    "azure": ("https://my-resource.openai.azure.com/openai/v1/chat/completions", None, (b"api-key", b"KEY")),
    "azure-deployments": (
        "https://my-resource.openai.azure.com/openai/deployments/m-1/chat/completions?api-version=2024-10-21",
        None,
        (b"api-key", b"KEY"),
    ),
    "bedrock": (
        "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1/chat/completions",
        None,
        (b"authorization", b"Bearer KEY"),
    ),
    "bedrock-mantle": (
        "https://bedrock-mantle.eu-west-1.api.aws/v1/chat/completions",
        None,
        (b"authorization", b"Bearer KEY"),
    ),
    "bedrock-anthropic": (
        "https://bedrock-runtime.eu-west-1.amazonaws.com/anthropic/v1/messages",
        None,
        (b"authorization", b"Bearer KEY"),
    ),
    "anthropic": ("https://api.anthropic.com/v1/messages", None, (b"x-api-key", b"KEY")),
    "vertex": (
        f"{GOOGLE}/publishers/google/models/m-1:generateContent",
        f"{GOOGLE}/publishers/google/models/m-1:streamGenerateContent?alt=sse",
        None,
    ),
    "vertex-anthropic": (
        f"{GOOGLE}/publishers/anthropic/models/m-1:rawPredict",
        f"{GOOGLE}/publishers/anthropic/models/m-1:streamRawPredict",
        None,
    ),
    "vertex-openai": (f"{GOOGLE}/endpoints/openapi/chat/completions", None, None),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_chat_goes_where_the_provider_takes_it(tmp_path: Path, name: str) -> None:
    upstream = configured(tmp_path, name)
    usual = (f"{ROWS[name]['base_url']}/chat/completions", None, (b"authorization", b"Bearer KEY"))
    whole, streamed, credential = CALLS.get(name, usual)
    to = route(upstream, "m-1")
    url, headers, body = called(to)
    assert url == whole
    assert headers[b"content-type"] == b"application/json"
    if credential is not None and upstream.credential:
        assert headers[credential[0]] == credential[1]
    assert "{" not in url
    assert body
    assert called(to, stream=True)[0] == (streamed or whole)
    assert (b"anthropic-version" in headers) == (upstream.dialect == "anthropic" and "vertex" not in name)


def test_vertex_wants_the_version_of_anthropic_in_the_body_and_the_model_outside(tmp_path: Path) -> None:
    to = route(configured(tmp_path, "vertex-anthropic"), "claude-opus-4-1@20250805")
    url, _, body = called(to, stream=True)
    assert url.endswith("/publishers/anthropic/models/claude-opus-4-1@20250805:streamRawPredict")
    assert body["anthropic_version"] == "vertex-2023-10-16"
    assert body["stream"] is True
    assert "model" not in body


def test_a_deployment_of_azure_serves_embeddings_too(tmp_path: Path) -> None:
    to = route(configured(tmp_path, "azure-deployments"), "my embeddings")
    request = openai_embeddings.parse(b'{"model":"public","input":"a"}')
    target = translate.exchange(request, to, ID, CREATED, None).request().target
    assert target == b"/my%20embeddings/embeddings?api-version=2024-10-21"


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if "dialect" not in row])
def test_a_limit_has_the_name_that_the_provider_reads(tmp_path: Path, name: str) -> None:
    upstream = configured(tmp_path, name)
    to = route(upstream, "m-1")
    for given in ("max_tokens", "max_completion_tokens"):
        _, _, body = called(to, **{given: 7, "stream": True})
        assert body[dict(upstream.renames).get(given, given)] == 7
        assert not set(upstream.drops) & set(body)
        assert ("stream_options" in body) == upstream.stream_usage


def test_every_row_says_where_its_facts_stand_and_is_whole() -> None:
    for row in ROWS.values():
        assert row["source"].endswith("2026-11")
        assert set(row.get("places", {})) == {
            place for place in PLACES if f"{{{place}}}" in row["base_url"] + "".join(row.get("paths", {}).values())
        }


# --- Streams ---


def chunk(*choices: Json, model: str = "m-1", **more: Any) -> Json:
    head = {"id": "cmpl-7", "object": "chat.completion.chunk", "created": 1749999999, "model": model}
    return {**head, "choices": list(choices), **more}


def delta(content: str | None = None, finish: str | None = None, **more: Any) -> Json:
    inner = {} if content is None else {"content": content}
    return {"index": 0, "delta": {**inner, **more}, "finish_reason": finish}


def usage(prompt: int, output: int, **more: Any) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output, **more}


SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
VLLM = (
    chunk(delta("", role="assistant"), usage=None),
    chunk({**delta("Hello"), "logprobs": None, "stop_reason": None}),
    chunk({**delta(" world", "stop"), "stop_reason": None}),
    chunk(usage=usage(9, 3, prompt_tokens_details=None)),
)
# Name → (events, text, finish, (prompt, cached, output, reasoning)).
STREAMS: dict[str, tuple[tuple[Json, ...], str, str, tuple[int, int, int, int]]] = {
    # The first event has only what was found in the prompt; results follow the text that they are about.
    "azure": (
        (
            {
                **chunk(model=""),
                "id": "",
                "object": "",
                "created": 0,
                "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}],
            },
            chunk({**delta("", role="assistant", refusal=None), "content_filter_results": {}}, usage=None),
            chunk({**delta("Hello"), "content_filter_results": SAFE}, usage=None),
            {
                **chunk(model=""),
                "id": "",
                "object": "",
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": None,
                        "content_filter_offsets": {"check_offset": 0, "start_offset": 0, "end_offset": 5},
                        "content_filter_results": SAFE,
                    }
                ],
            },
            chunk({**delta(None, "content_filter"), "content_filter_results": SAFE}, usage=None),
            chunk(usage=usage(12, 2, prompt_tokens_details={"cached_tokens": 0})),
        ),
        "Hello",
        "content_filter",
        (12, 0, 2, 0),
    ),
    "bedrock": (
        (
            chunk(delta("", role="assistant"), service_tier="default"),
            chunk(delta(None, reasoning="Greet.")),
            chunk(delta("Hello")),
            chunk(delta(None, "stop")),
            chunk(usage=usage(70, 30, completion_tokens_details={"reasoning_tokens": 20})),
        ),
        "Greet.Hello",
        "stop",
        (70, 0, 30, 20),
    ),
    # It cannot be asked for usage: where it says nothing, the tokens are counted here.
    "cohere": (
        (
            chunk(delta("", role="assistant")),
            chunk(delta("Hello")),
            chunk(delta(None, "stop"), usage=usage(5, 2)),
        ),
        "Hello",
        "stop",
        (5, 0, 2, 0),
    ),
    "deepinfra": (
        (
            chunk(delta("", role="assistant")),
            chunk(delta("Hello")),
            chunk(delta("", "stop")),
            chunk(usage=usage(15, 2, estimated_cost=0.0000012)),
        ),
        "Hello",
        "stop",
        (15, 0, 2, 0),
    ),
    "cerebras": (
        (
            chunk(delta(None, role="assistant"), system_fingerprint="fp_1"),
            chunk(delta("Hello"), system_fingerprint="fp_1"),
            chunk(
                delta(None, "stop"),
                usage=usage(20, 4, prompt_tokens_details={"cached_tokens": 16}),
                time_info={"queue_time": 0.001, "prompt_time": 0.002, "completion_time": 0.003, "total_time": 0.01},
            ),
        ),
        "Hello",
        "stop",
        (20, 16, 4, 0),
    ),
    "sambanova": (
        (
            chunk(delta("Hello", role="assistant"), system_fingerprint="fastcoe"),
            chunk(delta("", "stop"), system_fingerprint="fastcoe"),
            chunk(
                is_last_response=True,
                usage=usage(
                    30, 2, acceptance_rate=4.05, end_time=1.5, total_tokens_per_sec=300.5, is_last_response=True
                ),
            ),
        ),
        "Hello",
        "stop",
        (30, 0, 2, 0),
    ),
    "minimax": (
        (
            chunk(delta("<think>\nHm.\n</think>\n\nHello", role="assistant", name="MiniMax AI", audio_content="")),
            chunk(delta("!", "stop")),
            chunk(usage=usage(40, 12, total_characters=0, completion_tokens_details={"reasoning_tokens": 8})),
        ),
        "<think>\nHm.\n</think>\n\nHello!",
        "stop",
        (40, 0, 12, 8),
    ),
    "zai": (
        (
            chunk(delta(None, role="assistant", reasoning_content="Greet.")),
            chunk(delta("Hello", role="assistant")),
            chunk(delta("", "stop", role="assistant"), usage=usage(8, 6, prompt_tokens_details={"cached_tokens": 4})),
        ),
        "Greet.Hello",
        "stop",
        (8, 4, 6, 0),
    ),
    **dict.fromkeys(
        (
            *("novita", "hyperbolic", "friendli", "chutes", "nebius", "baseten", "nvidia", "huggingface"),
            *("bedrock-mantle", "azure-deployments", "vertex-openai"),
        ),
        (VLLM, "Hello world", "stop", (9, 0, 3, 0)),
    ),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("asked", [None, True], ids=["unasked", "asked"])
def test_a_stream_is_read_and_passed_on_however_it_is_cut(name: str, asked: bool | None) -> None:
    sent, text, finish, counted = STREAMS[name]
    whole = "".join(f"data: {json.dumps(each, ensure_ascii=False)}\n\n" for each in sent).encode() + b"data: [DONE]\n\n"
    expected = None
    for cut in (0, *range(1, len(whole), 3)):
        output = Text()
        stream = stream_of(asked=asked, output=output)
        out = stream.feed(whole[:cut]) + stream.feed(whole[cut:]) + stream.eof()
        assert stream.failed is None
        assert stream.complete
        assert stream.finish == finish
        shown = stream.usage
        assert shown is not None
        assert (shown.prompt, shown.cache_read, shown.output, shown.reasoning) == counted
        got = events(out + stream.end(RECEIPT))
        assert text_of(got) == text
        expected = expected or got
        assert got == expected
    assert expected is not None
    if asked is None:
        assert all(each["choices"] for each in expected if each != "[DONE]")
    assert all(each == "[DONE]" or each["model"] == "acme/public-name" for each in expected)


def test_what_azure_s_filter_says_reaches_the_caller() -> None:
    stream = stream_of()
    sent = STREAMS["azure"][0]
    out = b"".join(stream.feed(f"data: {json.dumps(each)}\n\n".encode()) for each in sent) + stream.eof()
    read = events(out + stream.end(None))
    assert [each for each in read if each != "[DONE]" and "prompt_filter_results" in each]
    results = [choice.get("content_filter_results") for each in read if each != "[DONE]" for choice in each["choices"]]
    assert results.count(SAFE) == 3
