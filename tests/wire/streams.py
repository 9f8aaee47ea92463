"""Streams as providers send them, after their published formats, and a client that reads what we make of them."""

import json
from dataclasses import dataclass
from typing import Any

from tollbridge.core.tokens import TextClasses
from tollbridge.errors import UpstreamFailed
from tollbridge.values import Price, Route, Upstream
from tollbridge.wire import openai_chat, openai_completions, translate
from tollbridge.wire.exchange import Receipt, Stream
from tollbridge.wire.request import Request

ID = "chatcmpl-ours-0123456789"
MODEL = "acme/public-name"
CREATED = 1_750_000_000
RECEIPT = Receipt(
    charge=b"0.000123",
    cost=b"0.0001",
    balance=b"9.999877",
    read_cost=b"0.00006",
    written_cost=b"0.00004",
    ended=CREATED + 9,
)
MONEY = {
    "cost": 0.000123,
    "cost_details": {
        "upstream_inference_cost": 0.0001,
        "upstream_inference_prompt_cost": 0.00006,
        "upstream_inference_completions_cost": 0.00004,
    },
    "balance": 9.999877,
}
PRICE = Price(input=1, output=1, cache_read=1, cache_write=1, cache_write_1h=1)


@dataclass(frozen=True)
class Transcript:
    """A provider's body, and what a reader must find in it. `usage`: prompt, cached, output, reasoning."""

    name: str
    raw: bytes
    text: str
    finish: str
    usage: tuple[int, int, int, int]
    endpoint: str = "chat"


class Text:
    """Keeps the text that it is given (a `Counter`)."""

    def __init__(self) -> None:
        self.text = b""
        self.pictures = 0
        self.sound = 0

    def add(self, text: bytes) -> None:
        self.text += text

    @property
    def tokens(self) -> int:
        counter = TextClasses()
        counter.add(self.text)
        return counter.tokens


def upstream(**changes: Any) -> Upstream:
    known: dict[str, Any] = {"name": "u", "provider": "p", "dialect": "openai_chat", "base_url": "http://127.0.0.1/v1"}
    return Upstream(**(known | {"auth": "bearer", "credential": "k"} | changes))


def route(**changes: Any) -> Route:
    model = changes.pop("upstream_model", "upstream-name")
    return Route(model=MODEL, upstream=upstream(**changes), upstream_model=model, price=PRICE, cost=PRICE)


def stream_of(endpoint: str = "chat", asked: bool | None = None, n: int = 1, output: Text | None = None) -> Stream:
    """The reader of a stream for a caller who wants usage or not (`asked`), or does not say (None)."""
    body: dict[str, Any] = {"model": MODEL, "stream": True, "n": n}
    if asked is not None:
        body["stream_options"] = {"include_usage": asked}
    request: Request
    if endpoint == "chat":
        request = openai_chat.parse(json.dumps(body | {"messages": [{"role": "user", "content": "Hi"}]}).encode())
    else:
        request = openai_completions.parse(json.dumps(body | {"prompt": "Hi"}).encode())
    return translate.exchange(request, route(), ID, CREATED, None).stream(output or Text())


def events(data: bytes) -> list[Any]:
    """What a simple client reads: lines that begin with `data: `. "[DONE]" is kept as it is."""
    read: list[Any] = []
    assert data == b"" or data.endswith(b"\n\n")
    for event in data.split(b"\n\n")[:-1]:
        assert event.startswith(b"data: "), event
        assert b"\n" not in event
        assert b"\r" not in event
        payload = event[len(b"data: ") :].decode()
        read.append(payload if payload == "[DONE]" else json.loads(payload))
    return read


def text_of(read: list[Any]) -> str:
    """The text that a client assembles, including reasoning and tool calls, in order of arrival."""
    text = ""
    for event in read:
        for choice in event["choices"] if event != "[DONE]" else ():
            text += choice.get("text") or ""
            delta = choice.get("delta") or {}
            text += delta.get("reasoning_content") or delta.get("reasoning") or ""
            content = delta.get("content") or ""
            if isinstance(content, list):
                content = "".join(part.get("text") or part["thinking"][0]["text"] for part in content)
            text += content
            for call in delta.get("tool_calls") or ():
                text += (call["function"].get("name") or "") + (call["function"].get("arguments") or "")
    return text


def _lines(*payloads: object, before: str = "data: ", after: str = "\n\n") -> bytes:
    texts = [p if isinstance(p, str) else json.dumps(p, separators=(",", ":"), ensure_ascii=False) for p in payloads]
    return "".join(before + text + after for text in texts).encode()


def _openai() -> Transcript:
    def chunk(delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        head = {
            "id": "chatcmpl-Bx9",
            "object": "chat.completion.chunk",
            "created": 1749999999,
            "model": "gpt-9-mini-2026-01-02",
        }
        return {
            **head,
            "service_tier": "default",
            "system_fingerprint": "fp_1",
            "choices": choices,
            "usage": None,
            **more,
        }

    usage = {
        "prompt_tokens": 1117,
        "completion_tokens": 46,
        "total_tokens": 1163,
        "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 30, "audio_tokens": 0, "accepted_prediction_tokens": 0},
    }
    raw = _lines(
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": 'He said "id":"chatcmpl-Bx9"'}),
        chunk({"content": " – très bien 🎉\n"}),
        chunk({}, "stop"),
        chunk(None, usage=usage),
        "[DONE]",
    )
    return Transcript("openai", raw, 'He said "id":"chatcmpl-Bx9" – très bien 🎉\n', "stop", (1117, 1024, 46, 30))


def _deepseek() -> Transcript:
    def chunk(content: str | None, thought: str | None, finish: str | None = None, usage: Any = None) -> dict[str, Any]:
        delta = {"content": content, "reasoning_content": thought}
        return {
            "id": "8f9d5f2c-6f0e-4d6a-8d6a-1c8f7f1f0a11",
            "object": "chat.completion.chunk",
            "created": 1749999999,
            "model": "deepseek-reasoner",
            "system_fingerprint": "fp_ds",
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
            "usage": usage,
        }

    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 64},
        "completion_tokens_details": {"reasoning_tokens": 12},
        "prompt_cache_hit_tokens": 64,
        "prompt_cache_miss_tokens": 36,
    }
    raw = (
        b": keep-alive\n\n"
        + _lines(chunk(None, "想一"), chunk(None, "想。"), chunk("答案", None))
        + b": keep-alive\n\n"
        + _lines(chunk(" 42", None), chunk("", None, "stop", usage), "[DONE]")
    )
    return Transcript("deepseek", raw, "想一想。答案 42", "stop", (100, 64, 20, 12))


def _qwen() -> Transcript:
    def chunk(choices: list[Any], usage: Any = None) -> dict[str, Any]:
        return {
            "choices": choices,
            "object": "chat.completion.chunk",
            "usage": usage,
            "created": 1749999999,
            "system_fingerprint": None,
            "model": "qwen-plus",
            "id": "chatcmpl-3f2a",
        }

    def choice(content: str, finish: str | None = None) -> list[Any]:
        return [{"finish_reason": finish, "logprobs": None, "delta": {"content": content}, "index": 0}]

    usage = {
        "prompt_tokens": 22,
        "completion_tokens": 17,
        "total_tokens": 39,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    raw = _lines(chunk(choice("我是")), chunk(choice("通义")), chunk(choice("", "stop")), chunk([], usage), "[DONE]")
    return Transcript("qwen", raw, "我是通义", "stop", (22, 0, 17, 0))


def _moonshot() -> Transcript:
    def chunk(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": None} | more
        head = {"id": "cmpl-a1", "object": "chat.completion.chunk", "created": 1749999999, "model": "moonshot-v1-8k"}
        return {**head, "choices": [choice], "system_fingerprint": "fpv0"}

    usage = {"prompt_tokens": 19, "completion_tokens": 13, "total_tokens": 32, "cached_tokens": 16}
    raw = _lines(
        chunk({"role": "assistant", "content": ""}),
        chunk({"content": "你好"}),
        chunk({"content": "!"}),
        chunk({}, finish_reason="stop", usage=usage),
        "[DONE]",
    )
    return Transcript("moonshot", raw, "你好!", "stop", (19, 16, 13, 0))


def _groq() -> Transcript:
    head = {"id": "chatcmpl-g", "object": "chat.completion.chunk", "created": 1749999999, "model": "llama-4-70b"}

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "system_fingerprint": "fp_g", "choices": [choice], **more}

    call = {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": "weather", "arguments": '{"city":"Zürich"}'},
    }
    usage = {
        "queue_time": 0.01,
        "prompt_tokens": 200,
        "prompt_time": 0.02,
        "completion_tokens": 30,
        "total_tokens": 230,
    }
    raw = _lines(
        chunk({"role": "assistant", "content": None}, x_groq={"id": "req_01"}),
        chunk({"tool_calls": [call]}),
        chunk({}, "tool_calls", x_groq={"id": "req_01", "usage": usage}),
        {**head, "system_fingerprint": "fp_g", "choices": [], "usage": usage},
        "[DONE]",
    )
    return Transcript("groq", raw, 'weather{"city":"Zürich"}', "tool_calls", (200, 0, 30, 0))


def _openrouter() -> Transcript:
    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "native_finish_reason": finish, "logprobs": None}
        head = {"id": "gen-17", "provider": "SomeHost", "model": "some/model", "object": "chat.completion.chunk"}
        return {**head, "created": 1749999999, "choices": [choice], **more}

    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "cost": 0.77,
        "is_byok": False,
        "cost_details": {"upstream_inference_cost": None},
    }
    raw = (
        b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"
        + _lines(
            chunk({"role": "assistant", "content": "", "reasoning": "Hm."}),
            chunk({"role": "assistant", "content": "Yes"}),
        )
        + _lines(chunk({"role": "assistant", "content": ""}, "stop"))
        + _lines(chunk({"role": "assistant", "content": ""}, "stop", usage=usage), "[DONE]")
    )
    return Transcript("openrouter", raw, "Hm.Yes", "stop", (10, 0, 5, 0))


def _vllm() -> Transcript:
    head = {"id": "chatcmpl-v", "object": "chat.completion.chunk", "created": 1749999999, "model": "Qwen/Qwen4-8B"}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    usage = {"prompt_tokens": 31, "total_tokens": 35, "completion_tokens": 4}
    raw = _lines(
        chunk({"role": "assistant", "content": ""}), chunk({"content": "a"}), chunk({"content": "\\b\""}),
        chunk({"content": ""}, "length"), {**head, "choices": [], "usage": usage}, "[DONE]",
    )  # fmt: skip
    return Transcript("vllm", raw, 'a\\b"', "length", (31, 0, 4, 0))


def _llama_cpp() -> Transcript:
    def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
        head = {"choices": choices, "created": 1749999999, "id": "chatcmpl-l", "model": "gpt-3.5-turbo"}
        return {**head, "system_fingerprint": "b6000", "object": "chat.completion.chunk", **more}

    def choice(delta: dict[str, Any], finish: str | None = None) -> list[Any]:
        return [{"finish_reason": finish, "index": 0, "delta": delta}]

    usage = {"completion_tokens": 2, "prompt_tokens": 11, "total_tokens": 13}
    raw = _lines(
        chunk(choice({"role": "assistant", "content": None})), chunk(choice({"content": "Hel"})),
        chunk(choice({"content": "lo"})), chunk(choice({}, "stop")),
        chunk([], usage=usage, timings={"prompt_n": 11, "predicted_ms": 3.5}), "[DONE]",
    )  # fmt: skip
    return Transcript("llama.cpp", raw, "Hello", "stop", (11, 0, 2, 0))


def _azure() -> Transcript:
    def chunk(choices: list[Any], **more: Any) -> dict[str, Any]:
        head = {
            "id": "chatcmpl-az",
            "object": "chat.completion.chunk",
            "created": 1749999999,
            "model": "gpt-9-mini-2026-01-02",
        }
        return {"choices": choices, **head, **more}

    def choice(delta: dict[str, Any], finish: str | None = None) -> list[Any]:
        return [{"content_filter_results": {}, "delta": delta, "finish_reason": finish, "index": 0, "logprobs": None}]

    usage = {"completion_tokens": 1, "prompt_tokens": 8, "total_tokens": 9}
    filtered = [{"prompt_index": 0, "content_filter_results": {"hate": {"filtered": False, "severity": "safe"}}}]
    raw = _lines(
        {"choices": [], "created": 0, "id": "", "model": "", "object": "", "prompt_filter_results": filtered},
        chunk(choice({"content": "", "role": "assistant"})), chunk(choice({"content": "Hi"})),
        chunk(choice({}, "stop")), chunk([], usage=usage), "[DONE]",
    )  # fmt: skip
    return Transcript("azure", raw, "Hi", "stop", (8, 0, 1, 0))


def _mistral() -> Transcript:
    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
        head = {"id": "m1", "object": "chat.completion.chunk", "created": 1749999999, "model": "magistral"}
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}

    thought = [{"type": "thinking", "thinking": [{"type": "text", "text": "Let me see"}]}]
    usage = {"prompt_tokens": 7, "total_tokens": 12, "completion_tokens": 5}
    raw = _lines(
        chunk({"role": "assistant", "content": ""}), chunk({"content": thought}),
        chunk({"content": [{"type": "text", "text": " it."}]}), chunk({"content": ""}, "stop", usage=usage), "[DONE]",
    )  # fmt: skip
    return Transcript("mistral", raw, "Let me see it.", "stop", (7, 0, 5, 0))


def _gemini() -> Transcript:
    def chunk(content: str, output: int, finish: str | None = None) -> dict[str, Any]:
        usage = {"completion_tokens": output, "prompt_tokens": 6, "total_tokens": 6 + output}
        head = {"created": 1749999999, "id": "gg", "model": "gemini-3-flash", "object": "chat.completion.chunk"}
        choice = {"delta": {"content": content, "role": "assistant"}, "index": 0, "finish_reason": finish}
        return {"choices": [choice], **head, "usage": usage}

    raw = _lines(chunk("One", 1), chunk(" two", 2), chunk(" three", 3, "stop"), "[DONE]", after="\r\n\r\n")
    return Transcript("gemini compatible, CRLF", raw, "One two three", "stop", (6, 0, 3, 0))


def _text_completion() -> Transcript:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1749999999, "model": "base"}

    def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
        return {
            **head,
            "choices": [{"index": 0, "text": text, "logprobs": None, "finish_reason": finish, "stop_reason": None}],
        }

    usage = {"prompt_tokens": 5, "total_tokens": 8, "completion_tokens": 3}
    raw = _lines(
        chunk("Once"), chunk(" upon"), chunk(" a", "length"), {**head, "choices": [], "usage": usage}, "[DONE]"
    )
    return Transcript("completions of vllm", raw, "Once upon a", "length", (5, 0, 3, 0), endpoint="completions")


TRANSCRIPTS = (
    _openai(),
    _deepseek(),
    _qwen(),
    _moonshot(),
    _groq(),
    _openrouter(),
    _vllm(),
    _llama_cpp(),
    _azure(),
    _mistral(),
    _gemini(),
    _text_completion(),
)


def told(stream: Stream, output: Text, pieces: list[bytes], stop_at: int) -> list[Any]:
    """Everything that is known about a stream, after each read."""
    known: list[Any] = []
    for number, piece in enumerate(pieces):
        known.append(stream.feed(piece))
        if number == stop_at:
            known.append(stream.stop("the credit ran out"))
        failed = stream.failed
        known += [stream.chunks, stream.complete, stream.done, stream.finish, type(failed), str(failed)]
        known += [stream.usage, stream.suspect, stream.reported]
    known += [stream.eof(), str(stream.failed), stream.complete, stream.output.tokens, output.text, stream.usage]
    known.append(stream.end(RECEIPT) if stream.failed is None else stream.fail(UpstreamFailed("It broke off.")))
    return known
