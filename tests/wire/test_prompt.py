import base64
import json
from typing import Any

import pytest
from tests.effort import growth

from tollbridge.wire import anthropic_messages, openai_chat, openai_completions, openai_embeddings, responses_request
from tollbridge.wire.prompt import MEDIA_BYTES_PER_TOKEN, TOKENS_ELSEWHERE, Prompt

PICTURE = "data:image/png;base64," + base64.b64encode(b"\x89PNG" * 5000).decode()
SOUND = base64.b64encode(b"RIFF" * 4000).decode()


def chat(*contents: Any, **more: Any) -> Prompt:
    messages = [{"role": "user", "content": content} for content in contents]
    return openai_chat.parse(json.dumps({"model": "m", "messages": messages, **more}).encode()).prompt()


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "high"}}


def test_text_is_the_messages_as_they_came() -> None:
    prompt = chat("Hello", "there")
    assert (prompt.messages, len(prompt.pictures), prompt.tokens) == (2, 0, 0)
    assert json.loads(prompt.text) == [{"role": "user", "content": "Hello"}, {"role": "user", "content": "there"}]


def test_nothing_hides_from_the_count() -> None:
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"function": {"arguments": "ARGUMENTS"}}],
        "x": {"y": "UNKNOWN"},
    }
    body = {
        "model": "m",
        "messages": [message, {"role": "user", "content": [{"type": "mystery", "deep": {"er": ["PART"]}}]}],
        "tools": [{"type": "function", "function": {"description": "TOOL"}}],
        "functions": [{"name": "FUNCTION"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "SCHEMA"}},
    }
    text = openai_chat.parse(json.dumps(body).encode()).prompt().text
    for word in (b"ARGUMENTS", b"UNKNOWN", b"PART", b"TOOL", b"FUNCTION", b"SCHEMA"):
        assert word in text


def test_escapes_do_not_spoil_the_estimate() -> None:
    text = '中文 "quoted"\nline\\' * 50
    assert len(chat(text).text) <= len(text.encode()) + 60
    assert "中文".encode() in chat(text).text


def test_a_number_that_no_float_holds_does_not_spoil_it() -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"\\u00e9","x":1e999}]}'
    assert b"1e999" in openai_chat.parse(body).prompt().text


@pytest.mark.parametrize("escaped", [False, True])
def test_pictures_are_counted_and_their_data_is_not_text(escaped: bool) -> None:
    parts = [
        {"type": "text", "text": "What is this?"},
        picture(PICTURE),
        picture("https://x.test/a.png"),
        picture(PICTURE),
    ]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]})
    if escaped:
        body = body.replace("/", r"\/")
    prompt = openai_chat.parse(body.encode()).prompt()
    assert len(prompt.pictures) == 3
    assert prompt.tokens == 0
    assert b"What is this?" in prompt.text
    assert b"x.test" in prompt.text
    assert len(prompt.text) < 500


def test_picture_given_as_a_plain_string_counts() -> None:
    prompt = chat([{"type": "image_url", "image_url": PICTURE}])
    assert len(prompt.pictures) == 1
    assert len(prompt.text) < 200


@pytest.mark.parametrize("content", [None, "Here it is.", [picture(PICTURE)]])
def test_pictures_that_a_model_drew_are_pictures_when_they_are_sent_back(content: Any) -> None:
    drawn = [{**picture(PICTURE), "index": 0}, {"type": "image_url", "image_url": "https://x.test/a.png"}]
    message = {"role": "assistant", "content": content, "images": drawn}
    body = {"model": "m", "messages": [message, {"role": "user", "content": "Bluer!"}]}
    prompt = openai_chat.parse(json.dumps(body).encode()).prompt()
    assert (len(prompt.pictures), prompt.tokens) == (3 if isinstance(content, list) else 2, 0)
    assert b"Bluer!" in prompt.text
    assert len(prompt.text) < 500


@pytest.mark.parametrize("images", [PICTURE, [PICTURE], [{"url": PICTURE}], {"image_url": PICTURE}])
def test_what_is_no_drawn_picture_is_text(images: Any) -> None:
    body = {"model": "m", "messages": [{"role": "assistant", "content": "", "images": images}]}
    assert len(openai_chat.parse(json.dumps(body).encode()).prompt().text) > len(PICTURE)
    body["messages"] = [{"role": "user", "content": "", "images": [picture(PICTURE)]}]
    assert len(openai_chat.parse(json.dumps(body).encode()).prompt().text) > len(PICTURE)


def test_pictures_before_the_text_they_usually_follow_are_counted_twice_rather_than_not() -> None:
    other = PICTURE.replace("iVBO", "jVBO")
    message = {"role": "assistant", "images": [picture(PICTURE)], "content": [picture(other)]}
    prompt = openai_chat.parse(json.dumps({"model": "m", "messages": [message]}).encode()).prompt()
    assert len(prompt.pictures) == 2
    assert len(PICTURE) < len(prompt.text) < len(PICTURE) + 500
    part = {"type": "input_image", "image_url": other}
    item = {"type": "message", "role": "user", "result": PICTURE, "content": [part]}
    body = json.dumps({"model": "m", "input": [{**item, "content": [part, part]}]}).encode()
    assert len(responses_request.parse(body).prompt().pictures) == 3


@pytest.mark.parametrize(
    "content",
    [
        PICTURE,
        [{"type": "text", "text": PICTURE}],
        [picture("data:text/plain;base64," + PICTURE)],
        [{"type": "file", "file": {"file_data": PICTURE}}],
        [picture("x"), {"type": "text", "text": PICTURE}],
    ],
)
def test_base64_anywhere_else_is_text(content: Any) -> None:
    assert len(chat(content).text) > len(PICTURE)


def test_what_only_begins_like_a_picture_is_text() -> None:
    prompt = chat([{"type": "mystery", "url": PICTURE[:-4] + "abcd"}, picture(PICTURE)])
    assert len(prompt.pictures) == 1
    assert b"abcd" in prompt.text
    assert prompt.text.count(b"data:image") == 1


def test_a_text_that_begins_like_a_medium_everywhere_takes_no_longer() -> None:
    def body(size: int) -> bytes:
        parts = [
            {"type": "text", "text": '"' * size},
            {"type": "input_audio", "input_audio": {"data": '"' * size + "."}},
        ]
        return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()

    bodies = {size: body(size) for size in (40_000, 240_000)}
    assert growth(lambda size: openai_chat.parse(bodies[size]).prompt(), *bodies) < 14


def test_a_twin_of_a_picture_in_a_text_is_still_counted_once() -> None:
    twice = [{"type": "text", "text": PICTURE}, picture(PICTURE)]
    prompt = chat(twice, [picture(PICTURE)])
    assert len(prompt.pictures) == 2
    assert len(PICTURE) < len(prompt.text) < len(PICTURE) + 500


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + SOUND}},
    ],
)
def test_sound_and_film_are_bounded_by_their_size(part: dict[str, Any]) -> None:
    prompt = chat([part, {"type": "text", "text": "Listen!"}])
    assert len(prompt.pictures) == 0
    assert prompt.tokens >= len(SOUND) // MEDIA_BYTES_PER_TOKEN
    assert prompt.unmeasured is (part["type"] == "video_url")
    assert b"Listen!" in prompt.text
    assert len(prompt.text) < 300


@pytest.mark.parametrize("odd", [None, 7, [], {}, {"url": 7}, {"data": None}, "", {"url": ""}])
@pytest.mark.parametrize("name", ["image_url", "input_audio", "video_url"])
def test_odd_parts_are_counted_as_text(name: str, odd: Any) -> None:
    prompt = chat([{"type": name, name: odd, "text": "words"}])
    assert b"words" in prompt.text


def test_parts_with_two_media_in_any_order_are_read() -> None:
    part = {"input_audio": {"data": SOUND}, "image_url": {"url": PICTURE}, "type": "both"}
    prompt = chat([part, dict(reversed(part.items()))])
    assert len(prompt.pictures) == 2
    assert len(prompt.text) > 2 * len(SOUND)


URL = "https://example.com/long"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "video_url", "video_url": {"url": URL}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": URL}},
        {"type": "file", "file": {"file_id": "file-123"}},
        {"type": "file_url", "file_url": {"url": URL}},
        {"type": "document_url", "document_url": URL},
        {"type": "audio_url", "audio_url": {"url": URL}},
        {"type": "input_audio", "input_audio": {"data": URL}},
        {"type": "video", "video": [URL, URL]},
    ],
)
@pytest.mark.parametrize("start", ["https://", r"\u0068ttps:\/\/", "  https://", r"\n\thttps://", r"\u000ahttps://"])
def test_what_the_provider_fetches_counts_though_nobody_knows_how_long_it_is(part: dict[str, Any], start: str) -> None:
    content = json.dumps([{"type": "text", "text": "What?"}, part, part]).replace("https://", start)
    body = '{"model":"m","messages":[{"role":"user","content":%s}]}' % content  # noqa: UP031
    prompt = openai_chat.parse(body.encode()).prompt()
    assert 2 * TOKENS_ELSEWHERE <= prompt.tokens <= 2 * TOKENS_ELSEWHERE + 10
    assert prompt.unmeasured


def test_media_that_are_sent_along_and_urls_in_a_text_are_not_elsewhere() -> None:
    film = {"type": "video_url", "video_url": {"url": "data:video/mp4;base64," + SOUND}}
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"}}
    assert chat([film, file, {"type": "text", "text": URL}, picture(URL)], URL).tokens < TOKENS_ELSEWHERE
    items = [
        {"role": "user", "content": [{"type": "input_file", "file_url": URL}, {"type": "input_text", "text": URL}]}
    ]
    body = {"model": "m", "input": items}
    prompt = responses_request.parse(json.dumps(body).encode()).prompt()
    assert (prompt.tokens, prompt.unmeasured) == (TOKENS_ELSEWHERE, True)


def test_only_films_and_files_are_unmeasured() -> None:
    data = "data:application/pdf;base64,JVBERi0x"
    absent = dict.fromkeys(("file", "file_url", "document_url", "video", "video_url"))
    plain = [{"type": "text", "text": data, **absent}, picture(PICTURE), picture(URL)]
    assert not chat(plain).unmeasured
    for name in absent:
        assert chat([*plain, {"type": name, name: data}]).unmeasured

    def items(part: dict[str, Any]) -> bytes:
        return json.dumps({"model": "m", "input": [{"role": "user", "content": [part]}]}).encode()

    image = {"type": "input_image", "image_url": PICTURE, "file_url": None}
    assert not responses_request.parse(items(image)).prompt().unmeasured
    assert responses_request.parse(items({"type": "input_file", "file_data": data})).prompt().unmeasured

    def document(**source: str) -> bytes:
        content = [{"type": "document", "source": source}]
        body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": content}]}
        return json.dumps(body).encode()

    text = document(type="text", media_type="text/plain", data="words")
    assert not anthropic_messages.parse(text).prompt().unmeasured
    for source in (
        {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"},
        {"type": "url", "url": URL},
        {"type": "file", "file_id": "file_1"},
    ):
        assert anthropic_messages.parse(document(**source)).prompt().unmeasured


def test_token_ids_are_counted_exactly() -> None:
    body = {"model": "m", "prompt": [[1, 2, 3], [4]], "suffix": "ignored"}
    assert openai_completions.parse(json.dumps(body).encode()).prompt() == Prompt(text=b"", tokens=4)
    assert openai_embeddings.parse(b'{"model":"m","input":[1,2,3]}').prompt() == Prompt(text=b"", tokens=3)


def test_plain_inputs_are_text_without_a_template() -> None:
    body = {"model": "m", "prompt": "Once", "suffix": "end"}
    assert openai_completions.parse(json.dumps(body).encode()).prompt() == Prompt(text=b"Once\nend")
    assert openai_embeddings.parse(b'{"model":"m","input":["a","b"]}').prompt() == Prompt(text=b"a\nb")
    assert openai_embeddings.parse(b'{"model":"m","input":"\\u00e9\\n\\"\\ud83d\\ude00"}').prompt() == Prompt(
        text='é\n"😀'.encode()
    )
