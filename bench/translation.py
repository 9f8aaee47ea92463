"""What translation costs compared with passing through: the CPU of reading a request, asking the provider, reading its
answer and writing it for the caller, for each pair of dialects, minus the same from OpenAI's to OpenAI's.

Everything else on the way of a request is the same whether it is translated or not. `run` starts a child
(`python -m bench.translation`) on the gateway's core.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bench import native, process
from bench.gateways import MODEL
from bench.measure import Bench
from bench.peers import NotRunError
from tollbridge.core.tokens import TextClasses
from tollbridge.values import Price, Route, Upstream
from tollbridge.wire import anthropic_messages, openai_chat, responses_request, translate
from tollbridge.wire.exchange import Receipt
from tollbridge.wire.request import Request

REQUESTS, STREAMS, ROUNDS = 1_500, 60, 5
PLAIN = ("chat", "openai_chat")
PAIRS = (
    PLAIN,
    ("chat", "anthropic"),
    ("chat", "gemini"),
    ("messages", "openai_chat"),
    ("messages", "gemini"),
    ("responses", "openai_chat"),
    ("responses", "anthropic"),
    ("responses", "gemini"),
)
RECEIPT = Receipt(charge=b"0.00001905", cost=b"0.00001905", balance=b"999999.99998095")

_SYSTEM = "You are a helpful assistant who answers in one sentence."
_QUESTION = "Explain quantum computing in three sentences, please, and be brief about it. " * 4
_TEXT = "x" * 450
_TOOL = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
_WORD = " token"


@dataclass(frozen=True)
class Pair:
    """A caller's endpoint and a provider's dialect. Microseconds of CPU beyond passing through."""

    endpoint: str
    dialect: str
    request_us: float
    chunk_us: float


def run(on: Bench) -> list[Pair]:
    """Measures every pair. Raises NotRunError when the process fails."""
    found = on.scratch / "translation.json"
    child = process.start(
        [sys.executable, "-m", "bench.translation", str(found)],
        core=on.gateway_core,
        log=on.scratch / "translation.log",
        directory=Path(__file__).parent.parent,
    )
    try:
        child.process.wait(180)
    finally:
        child.stop()
    if child.process.returncode != 0:
        raise NotRunError(child.last_words())
    return msgspec.json.decode(found.read_bytes(), type=list[Pair])


# --- What is asked and answered, in each dialect ---


def _asked(endpoint: str, *, stream: bool) -> bytes:
    common: dict[str, Any] = {"model": MODEL, "temperature": 0.7, "stream": stream}
    if endpoint == "messages":
        tool: dict[str, Any] = {"name": "weather", "description": "The weather.", "input_schema": _TOOL}
        own: dict[str, Any] = {
            "max_tokens": 500,
            "system": _SYSTEM,
            "messages": [{"role": "user", "content": _QUESTION}],
            "tools": [tool],
        }
    elif endpoint == "responses":
        tool = {"type": "function", "name": "weather", "description": "The weather.", "parameters": _TOOL}
        own = {"max_output_tokens": 500, "instructions": _SYSTEM, "input": _QUESTION, "tools": [tool]}
    else:
        function = {"name": "weather", "description": "The weather.", "parameters": _TOOL}
        own = {
            "max_tokens": 500,
            "messages": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _QUESTION}],
            "tools": [{"type": "function", "function": function}],
        }
    return json.dumps(common | own).encode()


_MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODEL, "stop_sequence": None}
_USED = {"input_tokens": 131, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 124}
_GEMINI_USED = {"promptTokenCount": 131, "candidatesTokenCount": 124, "totalTokenCount": 255}
_OPENAI_USED = {"prompt_tokens": 131, "completion_tokens": 124, "total_tokens": 255}


def _gemini(text: str, **more: str) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}
    return {"candidates": [candidate], "usageMetadata": _GEMINI_USED, "modelVersion": MODEL, "responseId": "r1"}


ANSWERS: dict[str, dict[str, Any]] = {
    "openai_chat": {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": _TEXT}, "finish_reason": "stop"}],
        "usage": _OPENAI_USED,
    },
    "anthropic": {
        **_MESSAGE,
        "content": [{"type": "text", "text": _TEXT}],
        "stop_reason": "end_turn",
        "usage": _USED,
    },
    "gemini": _gemini(_TEXT, finishReason="STOP"),
}


def _chunk(choices: Sequence[dict[str, Any]], **more: Any) -> bytes:
    whole = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": choices, **more}
    return b"data: " + json.dumps(whole).encode() + b"\n\n"


def _event(kind: str, **data: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def _pieces(dialect: str) -> tuple[bytes, list[bytes], bytes]:
    """The start of a stream, its chunks of text, and the end."""
    if dialect == "openai_chat":
        piece = _chunk([{"index": 0, "delta": {"content": _WORD}, "finish_reason": None}])
        end = _chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]) + _chunk([], usage=_OPENAI_USED)
        return b"", [piece] * native.CHUNKS, end + b"data: [DONE]\n\n"
    if dialect == "gemini":
        piece = b"data: " + json.dumps(_gemini(_WORD)).encode() + b"\r\n\r\n"
        return (
            b"",
            [piece] * native.CHUNKS,
            b"data: " + json.dumps(_gemini("", finishReason="STOP")).encode() + b"\r\n\r\n",
        )
    start = _event("message_start", message={**_MESSAGE, "content": [], "stop_reason": None, "usage": _USED})
    start += _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    piece = _event("content_block_delta", index=0, delta={"type": "text_delta", "text": _WORD})
    end = _event("content_block_stop", index=0)
    end += _event(
        "message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 124}
    )
    return start, [piece] * native.CHUNKS, end + _event("message_stop")


# --- Measuring ---

_PARSE: dict[str, Callable[[bytes], Request]] = {
    "chat": openai_chat.parse,
    "messages": anthropic_messages.parse,
    "responses": responses_request.parse,
}


def _route(dialect: str) -> Route:
    price = Price(input=150_000, output=600_000, cache_read=150_000, cache_write=150_000, cache_write_1h=150_000)
    upstream = Upstream(
        name="mock", provider="mock", dialect=dialect, base_url="http://mock", auth="bearer", credential="sk-mock"
    )
    return Route(model=MODEL, upstream=upstream, upstream_model=MODEL, price=price, cost=price)


def _request(endpoint: str, dialect: str) -> Callable[[], None]:
    body, answer = _asked(endpoint, stream=False), json.dumps(ANSWERS[dialect]).encode()
    parse, route = _PARSE[endpoint], _route(dialect)

    def call() -> None:
        exchange = translate.exchange(parse(body), route, "id-6be84cfe244d86e8d042f4100f635387", 1_800_000_000, None)
        exchange.request()
        reply = exchange.response(answer)
        assert reply.usage is not None
        reply.render(RECEIPT)

    return call


def _stream(endpoint: str, dialect: str) -> Callable[[], None]:
    start, pieces, end = _pieces(dialect)
    request, route = _PARSE[endpoint](_asked(endpoint, stream=True)), _route(dialect)
    exchange = translate.exchange(request, route, "id-6be84cfe244d86e8d042f4100f635387", 1_800_000_000, None)

    def call() -> None:
        stream = exchange.stream(TextClasses())
        stream.feed(start)
        for piece in pieces:
            stream.feed(piece)
        stream.feed(end)
        stream.eof()
        assert stream.failed is None
        assert stream.complete
        stream.end(RECEIPT)

    return call


def _least_us(call: Callable[[], None], count: int) -> float:
    """The minimum over several rounds: anything above it is other programs' doing."""
    least = float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(count):
            call()
        least = min(least, (time.process_time() - begun) / count * 1e6)
    return least


def measured() -> list[Pair]:
    whole = {pair: _least_us(_request(*pair), REQUESTS) for pair in PAIRS}
    streamed = {pair: _least_us(_stream(*pair), STREAMS) / native.CHUNKS for pair in PAIRS}
    return [
        Pair(*pair, whole[pair] - whole[PLAIN], streamed[pair] - streamed[PLAIN]) for pair in PAIRS if pair != PLAIN
    ]


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(measured()))
