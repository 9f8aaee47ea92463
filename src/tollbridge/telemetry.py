"""What the operator sees of requests: for each an id and one structured line, written in batches.

A line is a JSON object with a fixed list of fields. There is no prompt, answer, key or provider's text among them.
Everything else that a gateway logs is JSON lines too (`log_json`), so that one program can read the whole log.
"""

import asyncio
import itertools
import json
import logging
import secrets
import sys
import time
from collections.abc import Callable, Sequence

import msgspec

FLUSH_S = 0.5
MOST_WAITING = 10_000


class RequestLine(msgspec.Struct, omit_defaults=True, gc=False):
    """One answered request. `ts`: epoch milliseconds; amounts in nano-USD, times in milliseconds."""

    ts: int
    request_id: str
    status: int
    ms: int
    path: str
    code: str = ""
    id: str = ""
    account: int = 0
    key: int = 0
    model: str = ""
    route: str = ""
    outcome: str = ""
    charge: int = 0
    cost: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    first_byte_ms: int | None = None
    attempts: int = 0
    # The limit, only tried out so far, that would have refused it: requests, tokens or concurrency.
    would_refuse: str = ""
    # Who sent a key that is not accepted, or not from there; of no other caller.
    address: str = ""


class RequestIds:
    """`req_` + 16 random hexadecimal digits, one set per process, + a counter: unique, made in half a microsecond."""

    def __init__(self) -> None:
        self._prefix = f"req_{secrets.token_hex(8)}"
        self._numbers = itertools.count(1)

    def __call__(self) -> str:
        return f"{self._prefix}{next(self._numbers):08x}"


class RequestLog:
    """Lines on their way to `write`. If it cannot keep up, lines are dropped and counted; requests never wait.

    `add_up` gets the same lines when they are written.
    """

    def __init__(
        self, write: Callable[[bytes], object], add_up: Callable[[Sequence[RequestLine]], object] | None = None
    ) -> None:
        self._write = write
        self._add_up = add_up
        self._lines: list[RequestLine] = []
        self.dropped = 0

    def add(self, line: RequestLine) -> None:
        lines = self._lines
        if not lines:
            asyncio.get_running_loop().call_later(FLUSH_S, self.flush)
        elif len(lines) >= MOST_WAITING:
            self.dropped += 1
            return
        lines.append(line)

    def flush(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            if self._add_up is not None:
                self._add_up(lines)
            self._write(msgspec.json.Encoder().encode_lines(lines))


class _JsonLine(logging.Formatter):
    """A record as one line of JSON, whatever it contains."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, str | int] = {
            "ts": int(record.created * 1000),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _readable(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = _readable(self.formatException(record.exc_info))
        # Escaped to ASCII, so that no byte can end the line, colour a terminal or fail to be written.
        return json.dumps(line)


def _readable(text: str) -> str:
    """`text` with lone surrogates escaped, which no JSON reader accepts."""
    return text.encode("utf-8", "backslashreplace").decode()


def log_json() -> None:
    """Write what this process logs to standard error as JSON lines: `ts`, `level`, `logger`, `message`, `exception`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # It writes a line for each call to Stripe, most of which only ask whether there is something new.
    logging.getLogger("httpx2").setLevel(logging.WARNING)


def now_ms() -> int:
    """Epoch milliseconds."""
    return time.time_ns() // 1_000_000
