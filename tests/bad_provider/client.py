"""The customer: sends one request to the gateway and keeps every byte that comes back."""

import asyncio
import contextlib
import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.bad_provider.case import QUESTION, Case

SECONDS = 60.0


class Target(NamedTuple):
    """The gateway. `url` ends before `/chat/completions`; `models`: its names for the provider's model, by dialect."""

    url: str
    key: str
    models: dict[str, str]


class Seen(NamedTuple):
    """What came back. `cut`: the connection ended before the answer did."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool = False


def question(case: Case, model: str, *, asked: bool) -> dict[str, Any]:
    """The request's body. `asked`: whether it asks for a stream's usage."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": f"[[{case.name}]] {QUESTION}"}],
        "max_tokens": 200,
        **case.fields,
    }
    if case.stream:
        body["stream"] = True
        if asked:
            body["stream_options"] = {"include_usage": True}
    return body


async def ask(target: Target, case: Case, *, asked: bool = True, model: str | None = None) -> Seen:
    body = json.dumps(question(case, model or target.models[case.dialect], asked=asked)).encode()
    async with asyncio.timeout(SECONDS):
        return await post(target, "/chat/completions", body)


async def post(target: Target, path: str, body: bytes) -> Seen:
    parts = urlsplit(target.url)
    is_secure = parts.scheme == "https"
    port = parts.port or (443 if is_secure else 80)
    reader, writer = await asyncio.open_connection(parts.hostname, port, ssl=is_secure or None, limit=1 << 24)
    try:
        lines = [
            f"POST {parts.path.rstrip('/')}{path} HTTP/1.1",
            *(f"Host: {parts.netloc}", f"Authorization: Bearer {target.key}", "Content-Type: application/json"),
            *(f"Content-Length: {len(body)}", "Connection: close"),
        ]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *fields = text.strip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        received, cut = await _body(reader, headers)
        return Seen(int(first.split()[1]), headers, received, cut)
    except (asyncio.IncompleteReadError, ConnectionError):
        return Seen(0, {}, b"", cut=True)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str]) -> tuple[bytes, bool]:
    body = b""
    try:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
                body += (await reader.readexactly(size + 2))[:-2]
        elif "content-length" in headers:
            body = await reader.readexactly(int(headers["content-length"]))
        else:
            body = await reader.read()
    except asyncio.IncompleteReadError as error:
        return body + error.partial, True
    except ConnectionError:
        return body, True
    return body, False
