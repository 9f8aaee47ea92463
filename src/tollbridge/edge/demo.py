"""The demo provider: answers for every model when no real provider is configured.

It speaks OpenAI's protocol over real HTTP on a loopback port, so that everything between a key and a charge can be
tried before anyone has a provider's key. It says in each answer what it is; no model is called.
"""

import asyncio
import base64
import contextlib
import hashlib
import struct
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import msgspec
import uvicorn

from tollbridge.edge.server import listen

NAME = "demo"
_PACE_S = 0.02
_DIMENSIONS = 1536
_PER_TOKEN = 4


class _Message(msgspec.Struct):
    role: str = ""
    content: Any = None


class _Asked(msgspec.Struct):
    """What the demo reads of a request; everything else is ignored."""

    model: str = ""
    messages: list[_Message] = []
    prompt: Any = ""
    input: Any = ""
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    encoding_format: str | None = None
    dimensions: int | None = None


class DemoProvider:
    """Started beside the gateway, on its event loop. `base_url` is known once it is made."""

    def __init__(self) -> None:
        self._socket = listen("127.0.0.1", 0)
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}/v1"

    async def start(self) -> None:
        config = uvicorn.Config(_app, lifespan="off", ws="none", log_config=None, access_log=False)
        self._server = _QuietServer(config)
        self._task = asyncio.create_task(self._server.serve([self._socket]))
        while not self._server.started:  # noqa: ASYNC110 - uvicorn has no other sign
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task


class _QuietServer(uvicorn.Server):
    """A second server in a process must leave the signals to the first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def _app(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    asked = msgspec.json.decode(body or b"{}", type=_Asked)
    path: str = scope["path"]
    if path.endswith("/embeddings"):
        await _whole(send, _embeddings(asked))
    elif asked.stream:
        await _stream(send, asked, chat=path.endswith("/chat/completions"))
    else:
        await _whole(send, _completion(asked, chat=path.endswith("/chat/completions")))


async def _whole(send: Any, answer: dict[str, Any]) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": msgspec.json.encode(answer)})


async def _stream(send: Any, asked: _Asked, *, chat: bool) -> None:
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async for event in _events(asked, chat=chat):
        data = b"data: " + (event if isinstance(event, bytes) else msgspec.json.encode(event)) + b"\n\n"
        await send({"type": "http.response.body", "body": data, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _events(asked: _Asked, *, chat: bool) -> AsyncIterator[dict[str, Any] | bytes]:
    words, finish = _reply(asked)
    for index, word in enumerate(words):
        delta: dict[str, Any] = {"content": word}
        if index == 0:
            delta["role"] = "assistant"
        yield _chunk(asked, {"delta": delta} if chat else {"text": word}, None, chat=chat)
        await asyncio.sleep(_PACE_S)
    yield _chunk(asked, {"delta": {}} if chat else {"text": ""}, finish, chat=chat)
    yield {**_chunk(asked, {}, None, chat=chat), "choices": [], "usage": _usage(asked, words)}
    yield b"[DONE]"


def _chunk(asked: _Asked, part: dict[str, Any], finish: str | None, *, chat: bool) -> dict[str, Any]:
    return {
        "id": "demo-1",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [{"index": 0, **part, "finish_reason": finish}],
    }


def _completion(asked: _Asked, *, chat: bool) -> dict[str, Any]:
    words, finish = _reply(asked)
    text = "".join(words)
    part: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {
        "id": "demo-1",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": [{"index": 0, **part, "finish_reason": finish}],
        "usage": _usage(asked, words),
    }


def _reply(asked: _Asked) -> tuple[list[str], str]:
    said = _said(asked).strip()
    quoted = f" You said: “{said[:200]}”." if said else ""
    text = (
        f"Hello! This is Tollbridge's demo provider, standing in for {asked.model}: no model was called.{quoted}"
        " Configure a provider to get real answers."
    )
    words = [word if index == 0 else f" {word}" for index, word in enumerate(text.split())]
    limit = asked.max_completion_tokens or asked.max_tokens
    return (words[:limit], "length") if limit is not None and limit < len(words) else (words, "stop")


def _said(asked: _Asked) -> str:
    if asked.messages:
        content = asked.messages[-1].content
        if isinstance(content, list):
            return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        return content if isinstance(content, str) else ""
    return asked.prompt if isinstance(asked.prompt, str) else ""


def _usage(asked: _Asked, words: list[str]) -> dict[str, int]:
    prompt = sum(len(str(message.content)) for message in asked.messages) + len(str(asked.prompt)) + _PER_TOKEN
    read = max(1, prompt // _PER_TOKEN)
    return {"prompt_tokens": read, "completion_tokens": len(words), "total_tokens": read + len(words)}


def _embeddings(asked: _Asked) -> dict[str, Any]:
    texts = asked.input if isinstance(asked.input, list) and not _is_tokens(asked.input) else [asked.input]
    size = asked.dimensions or _DIMENSIONS
    data = []
    for index, text in enumerate(texts):
        vector = _vector(str(text), size)
        packed: Any = vector
        if asked.encoding_format == "base64":
            packed = base64.b64encode(struct.pack(f"<{size}f", *vector)).decode()
        data.append({"object": "embedding", "index": index, "embedding": packed})
    read = sum(max(1, len(str(text)) // _PER_TOKEN) for text in texts)
    usage = {"prompt_tokens": read, "total_tokens": read}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _is_tokens(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], int)


def _vector(text: str, size: int) -> list[float]:
    """The same unit vector for the same text; close to nothing else."""
    noise = hashlib.shake_256(text.encode("utf-8", "replace")).digest(size)
    raw = [byte - 127.5 for byte in noise]
    norm = sum(value * value for value in raw) ** 0.5
    return [value / norm for value in raw]
