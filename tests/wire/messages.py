"""Anthropic's Messages as its servers send them and its clients read them, after the published types and examples."""

import json
from typing import Any

from tests.wire.streams import CREATED, ID, MODEL, PRICE, Text, upstream

from tollbridge.values import Route
from tollbridge.wire import anthropic_messages, openai_chat, translate
from tollbridge.wire.exchange import Exchange
from tollbridge.wire.request import Request

OPUS = "claude-opus-4-8"
SONNET = "claude-sonnet-4-5-20250929"


def route(model: str = SONNET, dialect: str = "anthropic", **changes: Any) -> Route:
    target = upstream(dialect=dialect, **changes)
    return Route(model=MODEL, upstream=target, upstream_model=model, price=PRICE, cost=PRICE, output_limit=8_192)


def asked(endpoint: str = "messages", model: str = SONNET, limit: int | None = None, **members: Any) -> Exchange:
    """The exchange for a caller of Messages or chat who sends `members` along with a greeting."""
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    if endpoint == "messages":
        body["max_tokens"] = 4_000
    written = json.dumps(body | members).encode()
    request: Request = anthropic_messages.parse(written) if endpoint == "messages" else openai_chat.parse(written)
    return translate.exchange(request, route(model), ID, CREATED, limit)


def sent(endpoint: str = "chat", model: str = SONNET, limit: int | None = None, **members: Any) -> dict[str, Any]:
    """What Anthropic is then sent."""
    body: dict[str, Any] = json.loads(asked(endpoint, model, limit, **members).request().body)
    return body


def event(kind: str, **members: Any) -> bytes:
    """As Anthropic writes it: named, and padded with spaces at the end."""
    data = json.dumps({"type": kind, **members}, ensure_ascii=False, separators=(",", ":"))
    return f"event: {kind}\ndata: {data[:-1]}   }}\n\n".encode()


def start(usage: dict[str, Any] | None = None) -> bytes:
    message: dict[str, Any] = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": SONNET,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 25, "output_tokens": 1} if usage is None else usage,
    }
    return event("message_start", message=message)


def block(index: int, content_block: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    """A block from start to stop."""
    middle = b"".join(event("content_block_delta", index=index, delta=delta) for delta in deltas)
    begin = event("content_block_start", index=index, content_block=content_block)
    return begin + middle + event("content_block_stop", index=index)


def finish(reason: str = "end_turn", usage: dict[str, Any] | None = None, **delta: Any) -> bytes:
    given = {"output_tokens": 89} if usage is None else usage
    members = {"stop_reason": reason, "stop_sequence": None, **delta}
    return event("message_delta", delta=members, usage=given) + event("message_stop")


PING = b'event: ping\ndata: {"type": "ping"}\n\n'
TEXT = {"type": "text", "text": ""}
USAGE = {
    "input_tokens": 25,
    "cache_creation_input_tokens": 10,
    "cache_read_input_tokens": 7,
    "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 6},
    "output_tokens": 1,
    "service_tier": "standard",
}

# Thinking, text, two calls and a search of Anthropic's own.
STREAM = (
    start(USAGE)
    + block(
        0,
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "Let me "},
        {"type": "thinking_delta", "thinking": "see: ≈ 7"},
        {"type": "signature_delta", "signature": "EqQBCgIYAhIM/1gBcDa9GJwZA2b3+="},
    )
    + PING
    + block(1, {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4aDFIT2Xlxh0L5L8rLVyI="})
    + block(2, TEXT, {"type": "text_delta", "text": "Très "}, {"type": "text_delta", "text": "bien 🎉\n"})
    + block(
        3,
        {"type": "server_tool_use", "id": "srvtoolu_01", "name": "web_search", "input": {}},
        {"type": "input_json_delta", "partial_json": '{"query": "weather"}'},
    )
    + block(4, {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_01", "content": []})
    + block(
        5,
        TEXT,
        {
            "type": "citations_delta",
            "citation": {
                "type": "web_search_result_location",
                "cited_text": "mild",
                "url": "https://example.org/w",
                "title": "Weather",
                "encrypted_index": "Eo8B",
            },
        },
        {"type": "text_delta", "text": "Mild."},
    )
    + block(
        6,
        {"type": "tool_use", "id": "toolu_01T1x1fJ34qAmk2tNTrN7Up6", "name": "get_weather", "input": {}},
        {"type": "input_json_delta", "partial_json": ""},
        {"type": "input_json_delta", "partial_json": '{"location": "San'},
        {"type": "input_json_delta", "partial_json": ' Francisco"}'},
    )
    + block(7, {"type": "tool_use", "id": "toolu_02", "name": "now", "input": {}})
    + finish("tool_use", {"output_tokens": 89, "server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0}})
)
COUNTED = "Let me see: ≈ 7Très bien 🎉\nMild.get_weather" + '{"location": "San Francisco"}' + "now"


def events(data: bytes) -> list[dict[str, Any]]:
    """What a client reads: named events with one line of JSON, whose type is the name."""
    read: list[dict[str, Any]] = []
    assert data == b"" or data.endswith(b"\n\n")
    for raw in data.split(b"\n\n")[:-1]:
        name, _, payload = raw.partition(b"\n")
        assert name.startswith(b"event: "), raw
        assert payload.startswith(b"data: "), raw
        assert b"\n" not in payload
        read.append(json.loads(payload[6:]))
        assert read[-1]["type"] == name[7:].decode()
    return read


def message_of(data: bytes) -> dict[str, Any]:
    """The message that a client assembles, as Anthropic's SDK does; fails if the order violates the protocol."""
    read = [each for each in events(data) if each["type"] != "ping"]
    assert read[0]["type"] == "message_start"
    message: dict[str, Any] = read[0]["message"]
    partial: dict[int, str] = {}
    is_open: int | None = None
    for each in read[1:]:
        kind = each["type"]
        if kind == "content_block_start":
            assert is_open is None
            assert each["index"] == len(message["content"])
            is_open = each["index"]
            message["content"].append(each["content_block"])
        elif kind == "content_block_delta":
            assert each["index"] == is_open
            _add(message["content"][each["index"]], each["delta"], partial, each["index"])
        elif kind == "content_block_stop":
            assert each["index"] == is_open
            is_open = None
        elif kind == "message_delta":
            assert is_open is None
            message |= each["delta"]
            message["usage"] |= each["usage"]
            if "detail" in each:
                message["detail"] = each["detail"]
    assert read[-1]["type"] == "message_stop"
    for index, text in partial.items():
        message["content"][index]["input"] = json.loads(text)
    return message


def _add(content: dict[str, Any], delta: dict[str, Any], partial: dict[int, str], index: int) -> None:
    match delta:
        case {"type": "text_delta", "text": text}:
            content["text"] += text
        case {"type": "thinking_delta", "thinking": text}:
            content["thinking"] += text
        case {"type": "signature_delta", "signature": signature}:
            content["signature"] = signature
        case {"type": "citations_delta", "citation": citation}:
            content.setdefault("citations", []).append(citation)
        case {"type": "input_json_delta", "partial_json": text}:
            if text:
                partial[index] = partial.get(index, "") + text


def replayed(exchange: Exchange, raw: bytes, cut: int | None = None) -> tuple[bytes, Any, Text]:
    """What the caller of `exchange` gets for `raw`, cut in two at `cut`."""
    output = Text()
    stream = exchange.stream(output)
    pieces = [raw] if cut is None else [raw[:cut], raw[cut:]]
    got = b"".join(map(stream.feed, pieces))
    got += stream.eof()
    return got, stream, output
