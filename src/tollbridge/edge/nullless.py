"""A `Downstream` for OpenRouter's SDKs, which refuse a chunk of chat that says null where OpenAI does."""

import re
from collections.abc import Callable

from tollbridge.edge.downstream import Downstream, Headers
from tollbridge.edge.recorder import Recorder

# Within a string of JSON the quotes would be escaped.
_NULLS = re.compile(rb',\s?"(?:usage|system_fingerprint)":\s?null')


class Nullless:
    """The part of `Downstream` that streams need, without these members. All that is written is whole events."""

    def __init__(self, out: "Downstream | Recorder | Nullless") -> None:
        self._out = out

    @property
    def paused(self) -> bool:
        return self._out.paused

    @property
    def response_started(self) -> bool:
        return self._out.response_started

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        self._out.on_disconnect(callback)

    def on_resume(self, callback: Callable[[], None]) -> None:
        self._out.on_resume(callback)

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self._out.respond(status, headers, body)

    def start(self, status: int, headers: Headers, data: bytes = b"") -> None:
        self._out.start(status, headers, _NULLS.sub(b"", data))

    def write(self, data: bytes) -> bool:
        return self._out.write(_NULLS.sub(b"", data))

    def end(self, data: bytes = b"") -> None:
        self._out.end(_NULLS.sub(b"", data))

    def abort(self) -> None:
        self._out.abort()
