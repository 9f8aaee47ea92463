"""The demo provider: answers for every model when no real provider is configured.

It speaks OpenAI's protocol over real HTTP on a loopback port, so that everything between a key and a charge can be
tried without a provider's key. Each answer says that it is a demo; no model is called. It refuses what real providers
refuse and counts tokens as they do, so that neither errors nor costs come as a surprise later.
"""

import asyncio
import base64
import contextlib
import hashlib
import struct
import time
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any, Literal

import msgspec
import uvicorn
from msgspec import Meta, Struct, field

from tollbridge.core import tokens
from tollbridge.edge.server import listen
from tollbridge.values import Upstream

NAME = "demo"
_PACE_S = 0.02
_DIMENSIONS = 1536
_MOST_DIMENSIONS = 3072
# Tokens for each picture or other medium: what a picture costs at low detail.
_PER_MEDIUM = 85


class _Url(Struct):
    url: Annotated[str, Meta(pattern=r"^(https?://|data:)")]


class _Text(Struct, tag_field="type", tag="text"):
    text: str


class _Image(Struct, tag_field="type", tag="image_url"):
    image_url: _Url


class _Video(Struct, tag_field="type", tag="video_url"):
    video_url: _Url


class _Audio(Struct, tag_field="type", tag="input_audio"):
    input_audio: dict[str, Any]


class _File(Struct, tag_field="type", tag="file"):
    file: dict[str, Any]


class _Refusal(Struct, tag_field="type", tag="refusal"):
    refusal: str


class _Function(Struct):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


class _Tool(Struct):
    type: Literal["function", "custom"]
    function: _Function | None = None


class _Call(Struct):
    id: str


class _Message(Struct):
    role: str = ""
    content: str | list[_Text | _Image | _Video | _Audio | _File | _Refusal] | None = None
    tool_calls: list[_Call] | None = None
    function_call: _Function | None = None
    refusal: str | None = None
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return " ".join(part.text for part in self.content if isinstance(part, _Text))
        return self.content or ""

    @property
    def media(self) -> int:
        return sum(not isinstance(part, _Text) for part in self.content) if isinstance(self.content, list) else 0


class _Format(Struct):
    type: Literal["text", "json_object", "json_schema"]


class _Asked(Struct):
    """The fields of a request that the demo reads; it ignores all others."""

    model: str = ""
    messages: list[_Message] = field(default_factory=list)
    prompt: Any = ""
    input: Any = ""
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    tools: list[_Tool] | None = None
    response_format: _Format | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    seed: int | None = None
    encoding_format: str | None = None
    dimensions: Annotated[int, Meta(ge=1, le=_MOST_DIMENSIONS)] | None = None


class DemoProvider:
    """Runs beside the gateway, on its event loop. `base_url` is known before `start`."""

    def __init__(self) -> None:
        self._socket = listen("127.0.0.1", 0)
        self._server: uvicorn.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def base_url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://{host}:{port}/v1"

    @property
    def upstream(self) -> Upstream:
        return Upstream(
            name=NAME,
            provider=NAME,
            dialect="openai_chat",
            base_url=self.base_url,
            auth="none",
            credential="",
            cancel_stops_billing=True,
        )

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
    path: str = scope["path"]
    try:
        asked = msgspec.json.decode(body or b"{}", type=_Asked)
        _check(asked, embeds=path.endswith("/embeddings"))
    except msgspec.ValidationError as error:
        await _refuse(send, str(error))
        return
    if path.endswith("/embeddings"):
        await _whole(send, _embeddings(asked))
    elif asked.stream:
        await _stream(send, asked, chat=path.endswith("/chat/completions"))
    else:
        await _whole(send, _completion(asked, chat=path.endswith("/chat/completions")))


def _check(asked: _Asked, *, embeds: bool) -> None:
    """Check what types cannot. Raises `ValidationError` in the form of msgspec's own."""
    if embeds and asked.input in ("", []):
        raise msgspec.ValidationError("Expected something to embed - at `$.input`")
    for index, message in enumerate(asked.messages):
        if message.role == "tool" and message.tool_call_id is None:
            raise msgspec.ValidationError(f"Object missing required field `tool_call_id` - at `$.messages[{index}]`")
        instead = message.tool_calls or message.function_call or message.refusal
        if message.content is None and not (message.role == "assistant" and instead):
            raise msgspec.ValidationError(f"Expected `str | array` - at `$.messages[{index}].content`")
    for index, tool in enumerate(asked.tools or ()):
        if tool.type == "function" and tool.function is None:
            raise msgspec.ValidationError(f"Object missing required field `function` - at `$.tools[{index}]`")


async def _refuse(send: Any, complaint: str) -> None:
    """A 400 in OpenAI's form. `complaint`: msgspec's, `what is wrong - at `$.place``."""
    what, _, place = complaint.partition(" - at `$")
    param = place.strip("`.") or None
    message = f"Invalid value for '{param}': {what}." if param else f"{what}."
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    await _whole(send, {"error": error}, 400)


async def _whole(send: Any, answer: dict[str, Any], status: int = 200) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
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
    choices = range(asked.n or 1)
    for position, word in enumerate(words):
        delta: dict[str, Any] = {"content": word}
        if position == 0:
            delta["role"] = "assistant"
        part = {"delta": delta} if chat else {"text": word}
        for index in choices:
            yield _chunk(asked, [{"index": index, **part, "finish_reason": None}], chat=chat)
        await asyncio.sleep(_PACE_S)
    end: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
    for index in choices:
        yield _chunk(asked, [{"index": index, **end, "finish_reason": finish}], chat=chat)
    yield {**_chunk(asked, [], chat=chat), "usage": _usage(asked, words)}
    yield b"[DONE]"


def _chunk(asked: _Asked, choices: list[dict[str, Any]], *, chat: bool) -> dict[str, Any]:
    return {
        "id": "demo-1",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": int(time.time()),
        "model": asked.model,
        "choices": choices,
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
        "choices": [{"index": index, **part, "finish_reason": finish} for index in range(asked.n or 1)],
        "usage": _usage(asked, words),
    }


def _reply(asked: _Asked) -> tuple[list[str], str]:
    said = _said(asked).strip()
    quoted = f" You said: “{said[:200]}”." if said else ""
    text = (
        f"Hello! This is the built-in demo provider, standing in for {asked.model}: no model was called.{quoted}"
        " Configure a provider to get real answers."
    )
    for stop in [asked.stop] if isinstance(asked.stop, str) else asked.stop or ():
        if stop:
            text = text.partition(stop)[0]
    words = [word if index == 0 else f" {word}" for index, word in enumerate(text.split())]
    limit = asked.max_completion_tokens or asked.max_tokens
    return (words[:limit], "length") if limit is not None and limit < len(words) else (words, "stop")


def _said(asked: _Asked) -> str:
    if asked.messages:
        return asked.messages[-1].text
    return asked.prompt if isinstance(asked.prompt, str) else ""


def _usage(asked: _Asked, words: list[str]) -> dict[str, int]:
    written = len(words) * (asked.n or 1)
    if asked.messages:
        shown = "\n".join(message.text for message in asked.messages).encode("utf-8", "replace")
        media = sum(message.media for message in asked.messages)
        tools = msgspec.json.encode(asked.tools) if asked.tools else b""
        read = tokens.count(shown + tools) + len(asked.messages) * tokens.PER_MESSAGE + tokens.PER_REQUEST
        read += media * _PER_MEDIUM
    else:
        read = _counted(asked.prompt)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _counted(text: Any) -> int:
    """The number of tokens in a text, or in a list of token ids."""
    return max(1, len(text) if isinstance(text, list) else tokens.count(str(text).encode("utf-8", "replace")))


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
    read = sum(map(_counted, texts))
    usage = {"prompt_tokens": read, "total_tokens": read}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _is_tokens(value: list[Any]) -> bool:
    return bool(value) and isinstance(value[0], int)


def _vector(text: str, size: int) -> list[float]:
    """A unit vector: the same for the same text, and close to that of no other."""
    noise = hashlib.shake_256(text.encode("utf-8", "replace")).digest(size)
    raw = [byte - 127.5 for byte in noise]
    norm = sum(value * value for value in raw) ** 0.5
    return [value / norm for value in raw]
