"""A `Downstream` that keeps what is written to it, and goes on when its caller has gone (`gateway.replays`)."""

from collections.abc import Callable

from tollbridge.edge.downstream import Downstream, Headers
from tollbridge.gateway.replays import KeptAnswer

# These headers belong to one request, not to the answer that is kept.
_OF_ONE_REQUEST = (b"x-request-id", b"request-id", b"x-ratelimit-", b"access-control-")


class Recorder:
    """The part of `Downstream` that answers need. `answer`: set once a 200 is whole, if of at most `most` bytes."""

    def __init__(self, downstream: Downstream, most: int) -> None:
        self.answer: KeptAnswer | None = None
        self._downstream = downstream
        self._most = most
        self._status = 0
        self._headers: Headers = ()
        self._pieces: list[bytes] = []
        self._size = 0
        self._resume: Callable[[], None] | None = None
        downstream.on_disconnect(self._gone)

    @property
    def paused(self) -> bool:
        return self._downstream.paused

    @property
    def response_started(self) -> bool:
        return self._downstream.response_started

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        """Never called: the caller will ask again for what they pay for."""

    def on_resume(self, callback: Callable[[], None]) -> None:
        self._resume = callback
        self._downstream.on_resume(callback)

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        self._begin(status, headers, body)
        self._downstream.respond(status, headers, body)
        self._finish(streamed=False)

    def start(self, status: int, headers: Headers, data: bytes = b"") -> None:
        self._begin(status, headers, data)
        self._downstream.start(status, headers, data)

    def write(self, data: bytes) -> bool:
        self._add(data)
        return self._downstream.write(data)

    def end(self, data: bytes = b"") -> None:
        self._add(data)
        self._downstream.end(data)
        self._finish(streamed=True)

    def abort(self) -> None:
        self._downstream.abort()

    def _gone(self) -> None:
        if self._resume is not None:
            self._resume()

    def _begin(self, status: int, headers: Headers, data: bytes) -> None:
        self._status = status
        self._headers = [each for each in headers if not each.startswith(_OF_ONE_REQUEST)]
        self._add(data)

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._most:
            self._pieces.append(data)
        else:
            self._pieces.clear()

    def _finish(self, *, streamed: bool) -> None:
        if self._status == 200 and self._size <= self._most:
            body = b"".join(self._pieces)
            headers = (each.partition(b": ") for each in self._headers)
            self.answer = KeptAnswer(self._status, tuple((name, value) for name, _, value in headers), body, streamed)
