"""Messages on both sides."""

import json
import random
from typing import Any

import msgspec
import pytest
from tests.wire.messages import (
    COUNTED,
    OPUS,
    PING,
    SONNET,
    STREAM,
    TEXT,
    USAGE,
    asked,
    block,
    event,
    events,
    finish,
    message_of,
    replayed,
    route,
    sent,
    start,
)
from tests.wire.streams import CREATED, ID, MODEL, MONEY, PRICE, RECEIPT, Text

from tollbridge.errors import ProtocolError, UnsupportedField, UpstreamFailed
from tollbridge.values import Preferences, Price, Usage
from tollbridge.wire import anthropic_messages, translate
from tollbridge.wire.anthropic_messages import parse
from tollbridge.wire.errors import UpstreamSaid
from tollbridge.wire.exchange import Receipt

# --- Requests ---


def test_a_request_passes_but_for_the_model() -> None:
    messages = b'[{"role":"user","content":"\\u0041"}]'
    body = b'{"model":"acme/public-name","max_tokens":9,"new":{"b":1.50,"a":null},"messages":%b}' % messages
    outgoing = translate.exchange(parse(body), route(), ID, CREATED, None).request()
    assert outgoing.body == body.replace(b"acme/public-name", SONNET.encode())
    assert (outgoing.target, outgoing.dropped) == (b"/messages", ())


def test_blocks_and_tools_that_nobody_knows_pass() -> None:
    members: dict[str, Any] = {
        "messages": [{"role": "user", "content": [{"type": "hologram", "text": None, "x": [1]}]}],
        "tools": [{"type": "telepathy_20270101", "name": "t"}],
        "thinking": {"type": "later"},
        "context_management": {"edits": []},
    }
    assert sent("messages", OPUS, **members) == {"model": OPUS, "max_tokens": 4_000} | members


@pytest.mark.parametrize(("limit", "expected"), [(None, 4_000), (5_000, 4_000), (50, 50)])
def test_the_smaller_limit_is_sent(limit: int | None, expected: int) -> None:
    assert sent("messages", limit=limit)["max_tokens"] == expected


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (None, {"type": "enabled", "budget_tokens": 3_000}),
        (3_500, {"type": "enabled", "budget_tokens": 3_000}),
        (2_000, {"type": "enabled", "budget_tokens": 1_999}),
        (1_024, None),
    ],
)
def test_money_limits_thinking_too(limit: int | None, expected: dict[str, Any] | None) -> None:
    outgoing = asked(limit=limit, thinking={"type": "enabled", "budget_tokens": 3_000}).request()
    assert json.loads(outgoing.body).get("thinking") == expected
    assert outgoing.dropped == (() if expected else ("thinking",))
    for unlimited in ({"type": "adaptive"}, {"type": "enabled"}):
        assert sent("messages", OPUS, limit=10, thinking=unlimited)["thinking"] == unlimited


def test_what_other_models_thought_and_their_ids_of_calls_do_not_reach_claude() -> None:
    own = [
        {"type": "thinking", "thinking": "hm", "signature": "Eq+/=="},
        {"type": "redacted_thinking", "data": "Em=="},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}},
        {"type": "text", "text": 'a "signature":"" of thinking'},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"signature": "", "n": 1.50}},
    ]
    foreign = [
        {"type": "thinking", "thinking": "hm", "signature": "gemini:abc+/="},
        {"type": "redacted_thinking", "data": "openai_responses:xyz"},
        {"type": "redacted_thinking", "data": "gemini:call:sig"},
    ]
    unsigned = {"type": "thinking", "thinking": "so", "signature": ""}
    call = {"type": "tool_use", "id": "functions.f:0", "name": "f", "input": {"id": "a.b"}}
    result = {
        "type": "tool_result",
        "tool_use_id": "functions.f:0",
        "content": "1",
        "cache_control": {"type": "ephemeral"},
    }
    user = {"role": "user", "content": "Hi"}
    turns = [
        user,
        {"role": "assistant", "content": [*own, *foreign, unsigned, call]},
        {"role": "user", "content": [result]},
    ]
    written = sent("messages", SONNET, messages=[*turns, {"role": "assistant", "content": [*foreign, unsigned]}, user])
    assert written["messages"] == [
        user,
        {"role": "assistant", "content": [*own, call | {"id": "functions_f_0"}]},
        {"role": "user", "content": [result | {"tool_use_id": "functions_f_0"}]},
        user,
    ]
    # Other servers of this dialect may give no proofs, and want their thoughts and ids as they were.
    written = sent("messages", "deepseek-chat", messages=turns)
    assert written["messages"] == [user, {"role": "assistant", "content": [*own, unsigned, call]}, turns[2]]


def search_of(price: Price, tools: list[Any], *, required: bool | None = False, owner: int = 0, **more: Any) -> Any:
    """What is sent, and what is left out, of a request that offers `tools` to a model with that price."""
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}], "tools": tools, **more}
    request = msgspec.structs.replace(
        parse(json.dumps(body).encode()), preferences=Preferences(require_parameters=required)
    )
    to = msgspec.structs.replace(route(owner=owner), price=price)
    outgoing = translate.exchange(request, to, ID, CREATED, None).request()
    return json.loads(outgoing.body), outgoing.dropped


def test_a_search_without_a_price_is_refused_or_left_out_where_anything_has_one() -> None:
    search: Any = {"type": "web_search_20260209", "name": "web_search"}
    own: Any = {"name": "web_search_of_mine", "input_schema": {"type": "object"}}
    chosen: Any = {"tool_choice": {"type": "tool", "name": "web_search"}}
    for price, owner in (
        (msgspec.structs.replace(PRICE, searches=1), 0),
        (Price(input=0, output=0, cache_read=0, cache_write=0, cache_write_1h=0), 0),
        (PRICE, 7),
    ):
        sent, dropped = search_of(price, [own, search], required=True, owner=owner, **chosen)
        assert (sent["tools"], sent["tool_choice"], dropped) == ([own, search], chosen["tool_choice"], ())
    assert search_of(PRICE, [own], required=True)[0]["tools"] == [own]
    for required in (None, True):
        with pytest.raises(UnsupportedField) as caught:
            search_of(PRICE, [own, search], required=required)
        assert caught.value.param == "tools[1]"
    sent, dropped = search_of(PRICE, [own, search], **chosen)
    escaped = parse(
        b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"a"}],'
        rb'"tools":[{"type":"web\u005fsearch_20250305","name":"\u0077eb_search"}]}'
    )
    with pytest.raises(UnsupportedField):
        translate.exchange(escaped, msgspec.structs.replace(route(), price=PRICE), ID, CREATED, None).request()
    assert (sent["tools"], "tool_choice" in sent, dropped) == ([own], False, ("tools[1]",))
    sent, dropped = search_of(PRICE, [own, search], tool_choice={"type": "auto"})
    assert (sent["tools"], sent["tool_choice"]) == ([own], {"type": "auto"})
    assert search_of(PRICE, [search])[0].keys() == {"model", "max_tokens", "messages"}


def test_an_advisor_is_refused_or_left_out_because_another_model_s_price_is_billed_for_it() -> None:
    advisor: Any = {"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-8"}
    own: Any = {"name": "advisor_of_mine", "input_schema": {"type": "object"}}
    priced = msgspec.structs.replace(PRICE, searches=1)
    for price in (PRICE, priced):
        with pytest.raises(UnsupportedField, match="another model") as caught:
            search_of(price, [own, advisor], required=True)
        assert caught.value.param == "tools[1]"
        sent, dropped = search_of(price, [own, advisor])
        assert (sent["tools"], dropped) == ([own], ("tools[1]",))
    assert search_of(priced, [own, advisor], required=True, owner=7)[0]["tools"] == [own, advisor]
    assert search_of(priced, [own], required=True)[0]["tools"] == [own]


def test_a_sandbox_that_is_billed_by_the_hour_is_refused_or_left_out() -> None:
    """Anthropic bills none beside its newer search and fetch."""
    code: Any = {"type": "code_execution_20250825", "name": "code_execution"}
    fetch: Any = {"type": "web_fetch_20260209", "name": "web_fetch"}
    old: Any = {"type": "web_fetch_20250910", "name": "web_fetch"}
    search: Any = {"type": "web_search_20260318", "name": "web_search"}
    own: Any = {"name": "f", "input_schema": {"type": "object"}, "allowed_callers": ["code_execution_20250825"]}
    priced = msgspec.structs.replace(PRICE, searches=1)
    for tools, price in (([own, code], PRICE), ([old, code], priced)):
        with pytest.raises(UnsupportedField, match="web_fetch_20260209") as caught:
            search_of(price, tools, required=True)
        assert caught.value.param == "tools[1]"
        sent, dropped = search_of(price, tools)
        assert (sent["tools"], dropped) == (tools[:1], ("tools[1]",))
    assert search_of(PRICE, [search, code, own])[1] == ("tools[0]", "tools[1]")
    for tools, price in (([code, fetch], PRICE), ([search, code], priced), ([own], PRICE)):
        assert search_of(price, tools, required=True)[0]["tools"] == tools
    assert search_of(PRICE, [code], required=True, owner=7)[0]["tools"] == [code]


def test_fields_that_this_provider_refuses_are_left_out() -> None:
    request = parse(b'{"model":"m","max_tokens":9,"service_tier":"auto","messages":[{"role":"user","content":"a"}]}')
    exchange = translate.exchange(request, route(drops=("service_tier",)), ID, CREATED, None)
    assert json.loads(exchange.request().body).keys() == {"model", "max_tokens", "messages"}


# --- Whole answers ---

MESSAGE: dict[str, Any] = {
    "model": SONNET,
    "id": "msg_01",
    "type": "message",
    "role": "assistant",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "Eq"},
        {"type": "text", "text": "Hi"},
        {"type": "hologram", "x": 1},
        {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1.5}, "caller": {"type": "direct"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": USAGE | {"output_tokens": 9},
    "container": None,
}


def test_a_whole_answer_passes_with_our_names_and_money() -> None:
    answer = asked().response(json.dumps(MESSAGE).encode())
    assert answer.usage is not None
    assert (answer.usage.prompt, answer.usage.output, answer.finish) == (42, 9, "tool_calls")
    assert answer.text().decode().split("\n") == ["hm", "Hi", "f", '{"a": 1.5}']
    shown = json.loads(answer.render(RECEIPT))
    assert shown == MESSAGE | {"id": ID, "model": MODEL, "usage": MESSAGE["usage"] | MONEY}
    assert list(shown) == list(MESSAGE)


def test_an_answer_without_usage_gets_what_was_counted() -> None:
    body = json.dumps({name: value for name, value in MESSAGE.items() if name != "usage"}).encode()
    answer = asked().response(body)
    assert answer.usage is None
    counted = Receipt(charge=b"1", cost=b"1", usage=Usage(input=3, output=4, estimated=True))
    usage = json.loads(answer.render(counted))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["cost"]) == (3, 4, 1)
    assert "usage" not in json.loads(answer.render(None))


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"content":"Hi"}'])
def test_an_answer_that_makes_no_sense_is_a_protocol_error(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        asked().response(body)


def test_an_error_with_a_200_is_an_error() -> None:
    with pytest.raises(UpstreamSaid):
        asked().response(b'{"type":"error","error":{"type":"api_error","message":"x"}}')


# --- Streams ---


def test_a_stream_passes_as_it_came() -> None:
    got, stream, output = replayed(asked(), STREAM)
    first, rest = STREAM.split(b"\n\n", 1)
    assert got.split(b"\n\n", 1)[1] == rest[: rest.index(b"event: message_delta")]
    begun = json.loads(first.partition(b"data: ")[2])
    begun["message"] |= {"id": ID, "model": MODEL}
    assert events(got)[0] == begun
    assert (stream.done, stream.complete, stream.finish, stream.failed) == (True, True, "tool_calls", None)
    assert stream.chunks == 11
    assert stream.output is output
    assert output.text.decode() == COUNTED.replace("Mild", 'web_search{"query": "weather"}Mild')
    tail = stream.end(RECEIPT)
    delta, stop = events(tail)
    assert delta["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    searched = {"server_tool_use": {"web_search_requests": 1, "web_fetch_requests": 0}}
    assert delta["usage"] == USAGE | {"output_tokens": 89} | searched | MONEY
    assert stop == {"type": "message_stop"}
    assert message_of(got + tail)["content"][6]["input"] == {"location": "San Francisco"}


def test_a_stream_is_the_same_wherever_it_is_cut() -> None:
    best, whole, counted = replayed(asked(), STREAM)
    for cut in range(len(STREAM) + 1):
        got, stream, output = replayed(asked(), STREAM, cut)
        assert got == best, cut
        assert stream.usage == whole.usage
        assert stream.output is output
    for text in (STREAM.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + STREAM, STREAM.rstrip(b"\n")):
        got, stream, output = replayed(asked(), text)
        assert got == best
        assert stream.done
        assert stream.output.tokens == whole.output.tokens
        assert output.text == counted.text


def test_events_of_kinds_to_come_pass() -> None:
    vibe = event("vibe", level=3)
    got, _, _ = replayed(asked(), start() + vibe + PING)
    assert got.endswith(vibe + PING)


def test_no_type_can_forge_an_event() -> None:
    data = json.dumps({"type": "x\n\nevent: message_stop\ndata: {}\n\n"}).encode()
    got, stream, _ = replayed(asked(), start() + b"data: " + data + b"\n\n")
    assert [each["type"] for each in events(got)] == ["message_start"]
    assert stream.failed is None


def test_nothing_counts_after_the_end() -> None:
    late = finish("max_tokens", {"output_tokens": 5_000}) + event("error", error={"type": "api_error", "message": "x"})
    got, stream, _ = replayed(asked(), STREAM + late)
    assert got == replayed(asked(), STREAM)[0]
    assert stream.usage.output == 89
    assert stream.finish == "tool_calls"
    assert stream.failed is None


def test_a_second_message_delta_is_the_one_that_counts() -> None:
    early = event("message_delta", delta={"stop_reason": None, "stop_sequence": None}, usage={"output_tokens": 5})
    got, stream, _ = replayed(asked(), start() + early + finish())
    assert [each["type"] for each in events(got)] == ["message_start", "message_delta"]
    assert stream.usage.output == 89
    assert events(stream.end(RECEIPT))[0]["delta"]["stop_reason"] == "end_turn"


def test_without_usage_the_tail_has_what_was_counted() -> None:
    raw = start({}) + block(0, TEXT, {"type": "text_delta", "text": "Hi"}) + finish("end_turn", {})
    _, stream, _ = replayed(asked(), raw)
    assert stream.usage is None
    assert stream.complete
    counted = Receipt(charge=b"1", cost=b"1", usage=Usage(input=3, output=4, estimated=True))
    usage = events(stream.end(counted))[0]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["cost"]) == (3, 4, 1)


@pytest.mark.parametrize("usage", [{"output_tokens": -5}, {"output_tokens": "x"}, 7])
def test_usage_that_cannot_be_true_is_suspect(usage: Any) -> None:
    _, stream, _ = replayed(asked(), start() + finish("end_turn", usage))
    assert stream.usage is None
    assert stream.suspect


def test_a_stream_that_is_stopped_closes_what_is_open() -> None:
    cut = STREAM.index(b'"bien')
    before = STREAM[: STREAM.rindex(b"event: ", 0, cut)]
    stream = asked().stream(Text())
    got = stream.feed(before)
    got += stream.stop("Your credit is used up.")
    assert stream.complete
    assert stream.feed(STREAM[len(before) :]) == b""
    message = message_of(got + stream.end(RECEIPT))
    assert (message["stop_reason"], message["detail"]) == ("max_tokens", "Your credit is used up.")
    assert message["content"][2] == {"type": "text", "text": "Très "}
    assert message["usage"]["cost"] == 0.000123
    assert stream.finish == "length"


@pytest.mark.parametrize(
    "raw",
    [
        event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
        start() + event("error", error={"type": "overloaded_error", "message": "Overloaded"}),
        b'data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
        b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}',
    ],
)
def test_an_error_is_never_passed_on(raw: bytes) -> None:
    got, stream, output = replayed(asked(), raw + (STREAM if raw.startswith(b"event") else b""))
    assert isinstance(stream.failed, UpstreamSaid)
    assert stream.failed.status == 529
    assert b"verloaded" not in got
    assert output.text == b""
    (shown,) = events(stream.fail(UpstreamFailed("It broke off.")))
    assert shown == {"type": "error", "error": {"type": "api_error", "message": "It broke off."}}


@pytest.mark.parametrize("raw", [b"", b"<html>", b"data: {\n\n", b"data: []\n\n", b"data: {}\n\n", b"data: \xff\n\n"])
def test_what_makes_no_sense_is_a_protocol_error(raw: bytes) -> None:
    _, stream, _ = replayed(asked(), raw)
    assert isinstance(stream.failed, ProtocolError)


def test_a_stream_that_breaks_off_is_not_complete() -> None:
    cut = STREAM.index(b"event: message_delta")
    got, stream, _ = replayed(asked(), STREAM[: cut + 60])
    assert got == replayed(asked(), STREAM)[0]
    assert not stream.complete
    assert stream.failed is None
    assert stream.usage is None


def test_garbage_never_raises() -> None:
    chance = random.Random(5)
    words = (
        b'"',
        b"{",
        b"}",
        b"[",
        b"\n\n",
        b"data: ",
        b"null",
        b"-1",
        b"1e999",
        b'"x"',
        b"\\",
        b"\xff",
        b"\\ud800",
        b"",
    )
    whole = json.dumps(MESSAGE).encode()

    def damaged(raw: bytes) -> bytes:
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(raw) + 1)
            raw = raw[:at] + chance.choice(words) + raw[at + chance.randint(0, 9) :]
        return raw

    failed = 0
    for number in range(1_500):
        raw = damaged(STREAM)
        for endpoint in ("messages", "chat"):
            got, stream, _ = replayed(asked(endpoint), raw, chance.randrange(len(raw)))
            got += stream.stop("x") + stream.end(RECEIPT) if number % 2 else stream.end(None)
            assert b"data: " in got
            failed += stream.failed is not None
        body = damaged(whole)
        for endpoint in ("messages", "chat"):
            try:
                answer = asked(endpoint).response(body)
            except (ProtocolError, UpstreamSaid):
                failed += 1
            else:
                answer.text()
                json.loads(answer.render(RECEIPT))
    assert failed > 1_000


def test_trials_pass_where_they_change_a_form_and_are_named_where_they_cost_or_reach_something() -> None:
    asked = b"interleaved-thinking-2025-05-14, claude-code-20250219,files-api-2025-04-14, context-1m-2025-08-07, x: y"
    also = b"mid-conversation-tool-changes-2026-07-01,per-turn-control-2026-07-01,thinking-token-count-2026-05-13"
    asked += b", " + also
    added = b'{"type":"tool_addition","tool":{"type":"tool_reference","name":"f"}}'
    body = b"""{"model":"m","max_tokens":5,"tools":[{"name":"f","input_schema":{},"defer_loading":true}],
        "messages":[{"role":"user","content":"a"},{"role":"system","content":[%b]}]}"""
    body %= added
    request = anthropic_messages.with_betas(anthropic_messages.parse(body), asked)
    outgoing = translate.exchange(request, route(SONNET), "msg_1", 1, None).request()
    passed = b"interleaved-thinking-2025-05-14,claude-code-20250219,context-1m-2025-08-07"
    assert outgoing.headers == ((b"anthropic-beta", passed + b"," + also),)
    assert outgoing.dropped == ("anthropic-beta: files-api-2025-04-14", "anthropic-beta: x: y")
    assert added in outgoing.body
