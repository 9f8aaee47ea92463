"""Bytes that providers send: HTTP and events. Nothing here knows a dialect."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bad_provider.case import Pause, Step


def dump(value: Any) -> bytes:
    """JSON as most servers write it. Bytes are taken as they are."""
    return value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def http(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole answer with the right length, unless `headers` say otherwise."""
    data = dump(body)
    fields = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
    return head(fields, status) + data


def head(headers: Mapping[str, str], status: int = 200) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode()


EVENTS_HEAD = head({"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
LAST_CHUNK = b"0\r\n\r\n"


def framed(data: bytes) -> bytes:
    """A chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: Any, name: str = "", line_end: bytes = b"\n") -> bytes:
    named = b"event: %b%b" % (name.encode(), line_end) if name else b""
    return named + b"data: " + dump(data) + line_end * 2


def events(parts: Sequence[bytes], *, ends: bool = True) -> tuple[Step, ...]:
    """A stream, each part in a chunk of its own. `ends`: it is terminated as HTTP requires."""
    sent = [EVENTS_HEAD + framed(parts[0]) if parts else EVENTS_HEAD, *map(framed, parts[1:])]
    return (*sent, LAST_CHUNK) if ends else tuple(sent)


def byte_by_byte(data: bytes) -> tuple[Step, ...]:
    """Each byte in a chunk, and in a segment, of its own."""
    steps: list[Step] = [EVENTS_HEAD]
    for offset in range(len(data)):
        steps += (framed(data[offset : offset + 1]), Pause(0.0004))
    return (*steps, LAST_CHUNK)
