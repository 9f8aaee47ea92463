"""The demo provider: what is right or wrong with real providers is so with it, and it counts as they do."""

import http.client
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import uvloop

from tollbridge.edge.demo import DemoProvider

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoProvider]:
    provider = DemoProvider()
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)

    def do(work: Any) -> None:
        done = threading.Event()
        loop.call_soon_threadsafe(lambda: loop.create_task(work).add_done_callback(lambda _: done.set()))
        assert done.wait(30)

    thread.start()
    do(provider.start())
    yield provider
    do(provider.stop())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


def ask(demo: DemoProvider, path: str, body: dict[str, Any]) -> tuple[int, bytes]:
    host = demo.base_url.removeprefix("http://").removesuffix("/v1")
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request("POST", path, msgspec.json.encode(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def answered(demo: DemoProvider, path: str, body: dict[str, Any]) -> dict[str, Any]:
    status, text = ask(demo, path, body)
    assert status == 200, text
    return dict(msgspec.json.decode(text))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "tool", "content": "4"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "picture"}]}]}, "messages[0].content[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "cat.png"}}]}]},
            "messages[0].content[0].image_url.url",
        ),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "two words"}}]}, "tools[0].function.name"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_what_providers_refuse_is_refused(demo: DemoProvider, fields: dict[str, Any], param: str) -> None:
    status, text = ask(demo, CHAT, {"model": "m", "messages": HI, **fields})
    error = msgspec.json.decode(text)["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param in error["message"]


@pytest.mark.parametrize("fields", [{"input": ""}, {"input": []}, {"input": "a", "dimensions": 100_000_000}])
def test_what_cannot_be_embedded_is_refused(demo: DemoProvider, fields: dict[str, Any]) -> None:
    assert ask(demo, "/v1/embeddings", {"model": "e", **fields})[0] == 400


def test_conversations_with_tools_and_pictures_are_answered(demo: DemoProvider) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    usage = answered(demo, CHAT, {"model": "m", "messages": messages, "tools": tools})["usage"]
    assert 85 < usage["prompt_tokens"] < 150


@pytest.mark.parametrize(("text", "tokens"), [("hi", 8), ("Hello, how are you doing today?", 15)])
def test_prompts_are_counted_with_the_template_around_them(demo: DemoProvider, text: str, tokens: int) -> None:
    """`tokens`: what OpenAI reports for it."""
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 2}
    usage = answered(demo, CHAT, body)["usage"]
    assert abs(usage["prompt_tokens"] - tokens) <= 1
    assert usage["completion_tokens"] == 2


def test_each_of_several_answers_is_given_and_counted(demo: DemoProvider) -> None:
    body = {"model": "m", "messages": HI, "n": 3, "max_tokens": 2}
    answer = answered(demo, CHAT, body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 6
    _, text = ask(demo, CHAT, {**body, "stream": True})
    *chunks, done = [event.removeprefix(b"data: ") for event in text.split(b"\n\n") if event]
    assert done == b"[DONE]"
    ends = [choice for chunk in chunks for choice in msgspec.json.decode(chunk)["choices"] if choice["finish_reason"]]
    assert [(choice["index"], choice["finish_reason"]) for choice in ends] == [(n, "length") for n in range(3)]
    assert msgspec.json.decode(chunks[-1])["usage"] == answer["usage"]


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("!", "Hello"),
        (["built-in", "demo"], "Hello! This is the"),
        (["demo", "built-in"], "Hello! This is the"),
        ("not said", None),
        ("", None),
        ([], None),
    ],
)
def test_an_answer_ends_before_a_stop_sequence(demo: DemoProvider, stop: object, text: str | None) -> None:
    body = {"model": "m", "messages": HI}
    whole = answered(demo, CHAT, body)["choices"][0]["message"]["content"]
    answer = answered(demo, CHAT, {**body, "stop": stop})
    [choice] = answer["choices"]
    assert choice["message"]["content"] == (whole if text is None else text)
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == len(choice["message"]["content"].split())
    _, streamed = ask(demo, CHAT, {**body, "stop": stop, "stream": True})
    events = [event.removeprefix(b"data: ") for event in streamed.split(b"\n\n") if event][:-1]
    deltas = [choice["delta"] for event in events for choice in msgspec.json.decode(event)["choices"]]
    assert "".join(delta.get("content", "") for delta in deltas) == choice["message"]["content"]
