import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.wire.streams import CREATED, ID, MODEL, MONEY, RECEIPT, route, stream_of

from tollbridge.errors import ConnectionLost, ProtocolError
from tollbridge.values import Usage
from tollbridge.wire import openai_answer, openai_chat, openai_completions, translate
from tollbridge.wire.errors import UpstreamSaid
from tollbridge.wire.exchange import Answer, Receipt
from tollbridge.wire.openai_reply import read_whole_chat

CHAT = openai_chat.parse(json.dumps({"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}).encode())
COMPLETIONS = openai_completions.parse(json.dumps({"model": MODEL, "prompt": "Hi"}).encode())
USAGE = {"prompt_tokens": 9, "completion_tokens": 7, "total_tokens": 16}


def answer(body: Any, request: Any = CHAT) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    return translate.exchange(request, route(), ID, CREATED, None).response(raw)


def rendered(found: Answer, receipt: Receipt | None = RECEIPT) -> Any:
    return json.loads(found.render(receipt))


def completion(message: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": message or {"role": "assistant", "content": "Hello!"}, "finish_reason": "stop"}
    head = {"id": "theirs", "object": "chat.completion", "created": 7, "model": "their-name"}
    return {**head, "choices": [choice], "usage": USAGE, "system_fingerprint": "fp"} | more


def test_names_and_usage_are_ours_and_the_rest_passes_byte_for_byte() -> None:
    body = (
        b'{"id":"x","object":"chat.completion","created":7,"model":"y","choices":[ {"index":0, "message":{'
        b'"role":"assistant","content":"\\u00e9 \\"id\\":\\"x\\"","annotations":[]},'
        b'"logprobs":null,"finish_reason":"stop"} ],'
        b'"usage":{"prompt_tokens":9,"completion_tokens":7,"total_tokens":16},"system_fingerprint":"fp","x":1.50}'
    )
    usage = (
        b'"completion_tokens":7,"total_tokens":16,"cost":0.000123,"cost_details":{"upstream_inference_cost":0.0001,'
        b'"upstream_inference_prompt_cost":0.00006,"upstream_inference_completions_cost":0.00004},'
    )
    expected = (
        body.replace(b'"id":"x",', f'"id":"{ID}",'.encode())
        .replace(b'"model":"y"', f'"model":"{MODEL}"'.encode())
        .replace(b'"completion_tokens":7,"total_tokens":16', usage + b'"balance":9.999877')
    )
    assert answer(body).render(RECEIPT) == expected


def test_what_an_answer_says_is_read() -> None:
    found = answer(completion())
    assert found.usage is not None
    assert (found.usage.prompt, found.usage.output, found.finish, found.suspect) == (9, 7, "stop", False)
    assert json.loads(found.reported) == USAGE
    assert found.text() == b"Hello!"
    assert rendered(found) == completion() | {"id": ID, "model": MODEL, "usage": USAGE | MONEY}


def test_what_the_server_left_out_is_added() -> None:
    found = answer({"choices": [{"message": {"content": "a"}}, {"message": {"tool_calls": []}, "finish_reason": None}]})
    assert (found.usage, found.finish) == (None, None)
    assert rendered(found, None) == {
        "choices": [
            {"message": {"content": "a", "role": "assistant"}, "index": 0, "finish_reason": "stop"},
            {
                "message": {"tool_calls": [], "role": "assistant", "content": None},
                "finish_reason": None,
                "index": 1,
            },
        ],
        "object": "chat.completion",
        "system_fingerprint": "",
        "id": ID,
        "created": CREATED,
        "model": MODEL,
    }


def test_completions_have_text() -> None:
    choices = [
        {"text": "Once", "finish_reason": "length"},
        {"text": "", "index": 1, "finish_reason": "stop", "message": None},
        {"finish_reason": "content_filter"},
    ]
    found = answer({"choices": choices, "usage": USAGE}, COMPLETIONS)
    assert (found.text(), found.finish) == (b"Once\n", "length")
    shown = rendered(found)
    assert shown["object"] == "text_completion"
    assert [(choice["index"], choice["text"]) for choice in shown["choices"]] == [(0, "Once"), (1, ""), (2, "")]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "assistant", "content": "a"}, "a"),
        ({"content": None, "refusal": "no"}, "no"),
        ({"content": "a", "reasoning_content": "b", "reasoning": "b"}, "a\nb"),
        ({"content": "a", "reasoning": "b", "reasoning_details": [{"text": "b"}]}, "a\nb"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": [{"text": "b"}]}]}, "a\nb"),
        ({"tool_calls": [{"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}, "f\n{}"),
        ({"function_call": {"name": "f", "arguments": "{}"}}, "f\n{}"),
        ({"content": None, "audio": {"id": "x", "data": "AAAA", "transcript": "a"}}, "a"),
    ],
)
def test_all_kinds_of_produced_text_are_counted(message: Any, text: str) -> None:
    assert answer(completion(message)).text().decode() == text


def test_usage_may_stand_in_a_choice() -> None:
    body = completion()
    del body["usage"]
    body["choices"][0]["usage"] = USAGE
    found = answer(body)
    assert found.usage is not None
    assert found.usage.output == 7


def test_absurd_usage_is_replaced_by_what_was_counted_here() -> None:
    found = answer(completion(usage=USAGE | {"completion_tokens": -7}))
    assert (found.usage, found.suspect) == (None, True)
    counted = Usage(input=3, output=2, estimated=True, suspect=True)
    shown = rendered(found, Receipt(charge=b"1", cost=b"1", usage=counted))["usage"]
    assert (shown["prompt_tokens"], shown["completion_tokens"], shown["total_tokens"]) == (3, 2, 5)


def test_an_answer_cut_in_the_middle_of_a_character_is_mended() -> None:
    body = json.dumps(completion()).replace("Hello!", "Hello \\ud83d").encode()
    found = answer(body)
    assert rendered(found)["choices"][0]["message"]["content"] == "Hello ?"
    assert found.text() == b"Hello ?"


def test_an_answer_that_is_withheld_needs_no_message() -> None:
    body = completion(choices=[{"index": 0, "finish_reason": "content_filter"}])
    found = answer(body)
    assert (found.finish, found.text(), found.pictures()) == ("content_filter", b"", 0)
    message = {"role": "assistant", "content": None}
    assert rendered(found)["choices"] == [{"index": 0, "finish_reason": "content_filter", "message": message}]


# --- What goes wrong (E8, E19) ---

NONSENSE: list[Any] = [
    b"",
    b"<!doctype html><html><body>Welcome</body></html>",
    b"[]",
    b"null",
    b'"text"',
    b"7",
    b"{}",
    b'{"choices":null}',
    b'{"choices":[]}',
    b'{"choices":{}}',
    b'{"choices":[null]}',
    b'{"choices":["text"]}',
    b'{"choices":[{}]}',
    b'{"choices":[{"message":null}]}',
    b'{"choices":[{"message":"text"}]}',
    b'{"choices":[{"text":"a completion"}]}',
    b'{"choices":[{"delta":{"content":"a chunk"}}]}',
    b'{"choices":[{"message":{"content":"a"},"finish_reason":7}]}',
    b'{"choices":[{"message":{"content":"a"},"index":"0"}]}',
    b'{"choices":[{"message":{"content":"a"}}]',
    b'{"choices":[{"message":{"content":"a"}}]} trailing',
    b'{"choices":[{"message":{"content":"\xff"}}]}',
    b'{"choices":[{"message":{"content":NaN}}]}',
    b'{"choices":[{"index":0,"message":{"role":"assistant","content":"\xff"},"finish_reason":"stop"}]}',
    b'{"choices":' + b"[" * 100_000,
    b'{"object":"list","data":[]}',
    b"data: {}\n\n",
]


@pytest.mark.parametrize("body", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_with_a_200_makes_no_sense(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        answer(body)


def test_a_chat_is_no_completion() -> None:
    with pytest.raises(ProtocolError):
        answer(completion(), COMPLETIONS)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"error": {"message": "secret words", "code": 429}}, 429),
        ({"error": {"message": "secret words", "type": "overloaded_error"}, "choices": None}, 529),
        ({"error": "secret words"}, 502),
        ({"error": {"code": "oops"}, "choices": 7}, 502),
        (completion(error={"message": "secret words", "code": 503}), 503),
        ({"choices": [{"message": {"content": "half"}, "finish_reason": "error"}]}, 502),
        ({"choices": [{"message": {"content": "half"}, "finish_reason": "network_error"}]}, 502),
        ({"choices": [{"message": None, "error": {"code": 504, "message": "secret words"}}]}, 504),
    ],
)
def test_an_error_with_a_200_is_an_error(body: Any, status: int) -> None:
    with pytest.raises(UpstreamSaid) as raised:
        answer(body)
    assert raised.value.status == status
    assert "secret" not in raised.value.message


@pytest.mark.parametrize("error", [None, {}, "", False])
def test_an_empty_error_is_none(error: Any) -> None:
    assert answer(completion(error=error)).finish == "stop"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
messages = st.fixed_dictionaries({}, optional=dict.fromkeys(("role", "content", "refusal", "tool_calls"), values))
choices = st.fixed_dictionaries(
    {},
    optional={"message": messages | values, "text": values, "finish_reason": values, "index": values, "usage": values},
)
replies = st.fixed_dictionaries(
    {"choices": st.lists(choices | values, max_size=2) | values},
    optional=dict.fromkeys(("id", "object", "created", "model", "usage", "error"), values),
)


@settings(max_examples=300)
@given(replies.map(lambda value: json.dumps(value).encode()) | st.binary(), st.booleans())
@example(b":", False)
def test_no_bytes_break_the_reader(body: bytes, is_chat: bool) -> None:
    try:
        found = answer(body, CHAT if is_chat else COMPLETIONS)
    except (ProtocolError, ConnectionLost, UpstreamSaid):
        return
    shown = rendered(found)
    assert (shown["id"], shown["model"]) == (ID, MODEL)
    assert found.text() is not None


_ODD: Any = st.sampled_from([None, "", "error", "x", 0, 7, True, [], {}, {"message": "no", "code": 429}, 1.5])
_PARTS: Any = st.fixed_dictionaries({}, optional={"role": _ODD, "content": _ODD})
_CHOICES: Any = st.fixed_dictionaries(
    {
        "index": st.one_of(st.integers(0, 3), _ODD),
        "message": st.one_of(st.just({"role": "assistant", "content": "Hi"}), _PARTS, _ODD),
        "finish_reason": st.sampled_from(["stop", "length", "eos", "error", None, 7]),
    },
    optional={"text": _ODD, "usage": st.one_of(st.just(USAGE), _ODD), "error": _ODD},
)
_CHOICES = st.one_of(_CHOICES, _CHOICES.map(lambda choice: dict(list(choice.items())[1:])))
_BODIES: Any = st.fixed_dictionaries(
    {"choices": st.one_of(st.lists(_CHOICES, min_size=1, max_size=2), _ODD, st.just([]))},
    optional={"usage": st.one_of(st.just(USAGE), _ODD), "error": _ODD, "created": _ODD},
)


def _told(body: bytes) -> Any:
    try:
        found = answer(body)
        return found.usage, found.suspect, found.reported, found.finish, found.text(), found.render(RECEIPT)
    except (ProtocolError, UpstreamSaid) as error:
        return type(error), str(error)


@settings(max_examples=500)
@given(_BODIES, st.booleans())
def test_a_whole_answer_is_read_as_it_would_be_with_care(document: Any, escaped: bool) -> None:
    document["x"] = "é"
    body = json.dumps(document, ensure_ascii=escaped).encode()
    at_once = _told(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openai_answer, "read_whole_chat", lambda _: None)
        assert _told(body) == at_once


@pytest.mark.parametrize("failed", [0, 1])
def test_a_choice_that_ended_in_an_error_is_one(failed: int) -> None:
    choices = [{**completion()["choices"][0], "finish_reason": "error" if n == failed else "stop"} for n in range(2)]
    with pytest.raises(UpstreamSaid):
        answer(completion(choices=choices))


def test_nearly_every_answer_is_whole() -> None:
    body = completion(choices=[{**completion()["choices"][0], "logprobs": None}] * 2, service_tier=None)
    assert read_whole_chat(json.dumps(body).encode()) is not None
    for part in ("index", "message", "finish_reason"):
        choice = {name: value for name, value in body["choices"][0].items() if name != part}
        assert read_whole_chat(json.dumps(completion(choices=[choice])).encode()) is None


@pytest.mark.parametrize(
    ("images", "count"),
    [(None, 0), ("picture", 0), ([1], 0), ([{"url": "x"}], 0), ([], 0), ([{"image_url": {"url": "x"}}] * 2, 2)],
)
def test_drawn_pictures_are_counted_where_they_are_pictures(images: Any, count: int) -> None:
    assert answer(completion({"role": "assistant", "content": "", "images": images})).pictures() == count
    for odd in ({}, {"content": [{"type": "text", "text": ""}]}):
        choice = {"index": 0, "delta": {"content": "", "images": images, **odd}, "finish_reason": None}
        event = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        stream = stream_of()
        stream.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
        assert (stream.failed, stream.output.pictures, stream.chunks) == (None, count, int(count > 0))
