import json
from typing import Any

import msgspec
import pytest
from tests.wire import messages
from tests.wire.streams import CREATED, ID, MODEL, PRICE, Text, route

from tollbridge.errors import ConfigError, UnsupportedField
from tollbridge.values import Price, Route
from tollbridge.wire import (
    openai_chat,
    openai_completions,
    openai_embeddings,
    preferences,
    responses_request,
    translate,
)
from tollbridge.wire.request import Request

REQUESTS: list[tuple[Request, bytes]] = [
    (openai_chat.parse(b'{"model":"m","messages":[{"role":"user","content":"a"}]}'), b"/chat/completions"),
    (openai_completions.parse(b'{"model":"m","prompt":"a"}'), b"/completions"),
    (openai_embeddings.parse(b'{"model":"m","input":"a"}'), b"/embeddings"),
]


@pytest.mark.parametrize(("request_", "path"), REQUESTS, ids=["chat", "completions", "embeddings"])
def test_each_endpoint_has_its_path_below_the_base_url(request_: Request, path: bytes) -> None:
    outgoing = translate.exchange(request_, route(), ID, CREATED, None).request()
    assert outgoing.target == path
    assert json.loads(outgoing.body)["model"] == "upstream-name"


@pytest.mark.parametrize(("request_", "path"), REQUESTS, ids=["chat", "completions", "embeddings"])
def test_a_row_may_say_another_path(request_: Request, path: bytes) -> None:
    elsewhere = route(paths=((request_.endpoint, "/deployments/{model}?v=1"),))
    outgoing = translate.exchange(request_, elsewhere, ID, CREATED, None).request()
    assert outgoing.target == b"/deployments/upstream-name?v=1"
    elsewhere = route(paths=(("messages", "/other"),))
    assert translate.exchange(request_, elsewhere, ID, CREATED, None).request().target == path


@pytest.mark.parametrize(("request_", "path"), REQUESTS, ids=["chat", "completions", "embeddings"])
def test_a_dialect_that_nobody_speaks_is_the_operator_s_mistake(request_: Request, path: bytes) -> None:
    with pytest.raises(ConfigError, match="telepathy"):
        translate.exchange(request_, route(dialect="telepathy"), ID, CREATED, None)


FREE = Price(input=0, output=0, cache_read=0, cache_write=0, cache_write_1h=0)
FUNCTION = {"type": "function", "function": {"name": "f"}}
SEARCH = {"type": "openrouter:web_search"}
DATE = {"type": "openrouter:datetime"}
BROWSER = {"type": "browser_search"}
BUILT_IN = {"type": "builtin_function", "function": {"name": "$web_search"}}


def priced(owner: int = 0, **prices: int) -> Route:
    return msgspec.structs.replace(route(owner=owner), price=msgspec.structs.replace(PRICE, **prices))


def with_tools(tools: list[Any], to: Route, **fields: Any) -> tuple[Any, tuple[str, ...]]:
    """The body that is sent, and what was left out."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "tools": tools, **fields}
    request = preferences.read(openai_chat.parse(json.dumps(body).encode()))
    outgoing = translate.exchange(request, to, ID, CREATED, None).request()
    return json.loads(outgoing.body), outgoing.dropped


@pytest.mark.parametrize(
    "tool", [SEARCH, BROWSER, BUILT_IN, {"type": "web_search"}, {"type": "code_interpreter"}, {"type": 7}]
)
def test_a_tool_that_the_provider_runs_is_not_sent_where_it_has_no_price(tool: Any) -> None:
    with pytest.raises(UnsupportedField, match="no price for it") as refused:
        with_tools([FUNCTION, tool], priced())
    assert refused.value.param == "tools[1]"
    lets = {"provider": {"require_parameters": False}}
    sent, dropped = with_tools([FUNCTION, tool, DATE], priced(), **lets)
    assert (sent["tools"], dropped) == ([FUNCTION, DATE], ("tools[1]",))
    sent, dropped = with_tools([tool], priced(), tool_choice="required", parallel_tool_calls=True, **lets)
    assert (set(sent), dropped) == ({"model", "messages"}, ("tools[0]",))
    # Where nothing has a price, or somebody else pays the provider, it is theirs to use.
    for to in (msgspec.structs.replace(route(), price=FREE), priced(owner=7)):
        assert with_tools([FUNCTION, tool], to)[0]["tools"] == [FUNCTION, tool]


def test_searches_that_have_a_price_are_sent_and_what_callers_run_always_is() -> None:
    tools = [FUNCTION, {"type": "custom", "custom": {"name": "c"}}, {}, DATE]
    assert with_tools(tools, priced())[0]["tools"] == tools
    assert with_tools([SEARCH, {"type": "web_search"}], priced(searches=10**10))[0]["tools"]
    with pytest.raises(UnsupportedField):
        with_tools([BROWSER], priced(searches=10**10))


def test_the_caller_gets_the_name_that_they_asked_for() -> None:
    request = openai_chat.parse(json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "a"}]}).encode())
    body = b'{"id":"x","model":"dated-2026-01-02","choices":[{"index":0,"message":{"role":"assistant","content":"a"}}]}'
    shown = json.loads(translate.exchange(request, route(), ID, CREATED, None).response(body).render(None))
    assert (shown["id"], shown["model"], shown["created"]) == (ID, MODEL, CREATED)


@pytest.mark.parametrize(
    ("asked", "money", "sent"),
    [(None, None, None), (99, None, 99), (100, None, 100), (101, None, 100), (101, 7, 7), (5, 7, 5), (None, 7, 7)],
)
def test_no_more_output_is_asked_of_another_dialect_than_the_model_can_write(
    asked: int | None, money: int | None, sent: int | None
) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": asked}
    to = msgspec.structs.replace(route(dialect="gemini"), output_limit=100)
    exchange = translate.exchange(openai_chat.parse(json.dumps(body).encode()), to, ID, CREATED, money)
    assert json.loads(exchange.request().body).get("generationConfig", {}).get("maxOutputTokens") == sent


# --- One call at a time, of a provider that cannot be told so ---

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "g")]
TWO_CALLS = {
    "candidates": [
        {
            "index": index,
            "content": {
                "parts": [
                    {"text": "Let me see."},
                    {"functionCall": {"name": first, "args": {"a": 1}}},
                    {"functionCall": {"name": "g", "args": {}}},
                ]
            },
            "finishReason": "STOP",
        }
        for index, first in enumerate(("f", "g"))
    ]
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("said", "calls"), [({"parallel_tool_calls": False}, 1), ({}, 2)])
def test_who_wants_one_call_at_a_time_gets_the_first(said: dict[str, bool], calls: int, stream: bool) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "tools": TOOLS, "n": 2, "stream": stream}
    exchange = translate.exchange(
        openai_chat.parse(json.dumps(body | said).encode()), route(dialect="gemini"), ID, CREATED, None
    )
    answer = json.dumps(TWO_CALLS).encode()
    found: dict[int, list[str]] = {0: [], 1: []}
    if stream:
        flow = exchange.stream(Text())
        lines = (flow.feed(b"data: " + answer + b"\n\n") + flow.eof() + flow.end(None)).split(b"\n\n")
        chunks = [json.loads(line.removeprefix(b"data: ")) for line in lines if line.startswith(b"data: {")]
        choices = [(choice, choice["delta"]) for chunk in chunks for choice in chunk["choices"]]
    else:
        shown = json.loads(exchange.response(answer).render(None))
        choices = [(choice, choice["message"]) for choice in shown["choices"]]
    for choice, part in choices:
        for call in part.get("tool_calls") or ():
            if "name" in call["function"]:
                found[choice["index"]].append(call["function"]["name"])
    assert found == {0: ["f", "g"][:calls], 1: ["g", "g"][:calls]}
    assert {choice["finish_reason"] for choice, _ in choices if choice["finish_reason"]} == {"tool_calls"}


# --- What a text's sources stand at ---


def _source(name: str) -> dict[str, str]:
    return {"type": "web_search_result_location", "url": f"https://{name}.example", "title": name, "cited_text": name}


CITED: list[tuple[str, list[str]]] = [
    ("By all accounts ", []),
    ("it was mild", ["a", "b"]),
    (", and ", []),
    ("dry", ["c"]),
    (".", []),
]
RANGES = [("https://a.example", 16, 27), ("https://b.example", 16, 27), ("https://c.example", 33, 36)]


def _cited_whole() -> bytes:
    content = [{"type": "text", "text": text, "citations": list(map(_source, names))} for text, names in CITED]
    usage = {"input_tokens": 1, "output_tokens": 1}
    return json.dumps(
        {"type": "message", "role": "assistant", "content": content, "stop_reason": "end_turn", "usage": usage}
    ).encode()


def _cited_stream() -> bytes:
    blocks = [
        messages.block(
            index,
            {"type": "text", "text": "", **({"citations": []} if names else {})},
            *({"type": "citations_delta", "citation": _source(name)} for name in names),
            *({"type": "text_delta", "text": piece} for piece in (text[:1], text[1:]) if piece),
        )
        for index, (text, names) in enumerate(CITED)
    ]
    return messages.start() + b"".join(blocks) + messages.finish()


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
@pytest.mark.parametrize("comes", [_cited_whole, _cited_stream])
@pytest.mark.parametrize("goes", [False, True])
def test_each_source_stands_at_the_words_that_it_backs(endpoint: str, comes: Any, goes: bool) -> None:
    said: dict[str, Any] = {
        "model": MODEL,
        "input": "a",
        "messages": [{"role": "user", "content": "a"}],
        "stream": goes,
    }
    parse = responses_request.parse if endpoint == "responses" else openai_chat.parse
    exchange = translate.exchange(parse(json.dumps(said).encode()), messages.route(), ID, CREATED, None)
    if goes:
        flow = exchange.stream(Text())
        shown = flow.feed(comes()) + flow.eof() + flow.end(None)
        lines = [line.removeprefix(b"data: ") for line in shown.split(b"\n") if line.startswith(b"data: {")]
        read = list(map(json.loads, lines))
    else:
        read = [json.loads(exchange.response(comes()).render(None))]
    if endpoint == "chat":
        pieces = [choice.get("delta") or choice.get("message") or {} for each in read for choice in each["choices"]]
        text = "".join(each.get("content") or "" for each in pieces)
        found = [note["url_citation"] for each in pieces for note in each.get("annotations") or ()]
    else:
        [item] = read[-1].get("response", read[-1])["output"]
        [part] = item["content"]
        text, found = part["text"], part["annotations"]
        if goes:
            added = [each for each in read if each["type"] == "response.output_text.annotation.added"]
            assert [each["annotation"] for each in added] == found
    assert text == "By all accounts it was mild, and dry."
    assert [(each["url"], each["start_index"], each["end_index"]) for each in found] == RANGES
