"""What all readers of a provider's event stream share, whatever its dialect and whatever they turn it into."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

from tollbridge.errors import ProtocolError, UpstreamError
from tollbridge.values import Usage
from tollbridge.wire import errors, sse
from tollbridge.wire.exchange import Counter
from tollbridge.wire.openai_reply import read_any

T = TypeVar("T")

PIECES = 128


class Meter(Protocol):
    """What a dialect's meter provides; see `exchange.Answer` and `exchange.Stream`."""

    usage: Usage | None
    reported: bytes
    told_first: Usage | None

    @property
    def suspect(self) -> bool: ...


class Metered:
    """Something whose usage a meter has read."""

    _meter: Meter

    @property
    def usage(self) -> Usage | None:
        return self._meter.usage

    @property
    def suspect(self) -> bool:
        return self._meter.suspect

    @property
    def reported(self) -> bytes:
        return self._meter.reported

    @property
    def told_first(self) -> Usage | None:
        return self._meter.told_first

    def pictures(self) -> int:
        """Most dialects have none."""
        return 0


class Produced:
    """Something that produces text: pieces are counted together, `PIECES` at a time. See `exchange.Stream`."""

    _output: Counter
    _pieces: list[str]

    @property
    def output(self) -> Counter:
        if self._pieces:
            self._output.add("".join(self._pieces).encode("utf-8", "surrogatepass"))
            self._pieces.clear()
        return self._output


class Events(Metered, ABC, Generic[T]):
    """Splits a body into events and has `_take` turn each into something."""

    def __init__(self) -> None:
        self.done = False
        self.failed: UpstreamError | None = None
        self._decoder = sse.Decoder()
        self._head: bytearray | None = bytearray()  # until the first event

    @abstractmethod
    def _take(self, name: bytes, data: bytes, out: list[T]) -> UpstreamError | None:
        """Append to `out` what an event says; return what is wrong with it. A real event sets `_head` to None."""

    @abstractmethod
    def _events_of(self, answer: Any) -> Iterable[Any]:
        """The events, as JSON, that would have said what a whole `answer` (JSON) says. Raises `UpstreamError`."""

    def _read(self, data: bytes) -> list[T]:
        out: list[T] = []
        if self.failed is not None:
            return out
        if self._head is not None and len(self._head) <= sse.MAX_EVENT:
            self._head += data
        for name, payload in self._decoder.feed(data):
            failed = self._take(name, payload, out)
            if failed is not None:
                self.failed = failed
                return out
        self.failed = self._decoder.broken
        return out

    def _rest(self) -> list[T]:
        out: list[T] = []
        if self.failed is not None:
            return out
        event = self._decoder.end()
        if event is not None and is_whole(event[1]):
            self.failed = self._take(*event, out)
        if self._head is not None and self.failed is None:
            self._take_whole(bytes(self._head), out)
        return out

    def _take_whole(self, body: bytes, out: list[T]) -> None:
        """Not one event came: the answer came whole, or this is an error in JSON, a page of HTML, nothing."""
        try:
            for event in self._events_of(whole_answer(body)):
                data = json.dumps(event, ensure_ascii=False).encode(errors="replace")
                self.failed = self.failed or self._take(b"", data, out)
            self.done = True
        except UpstreamError as error:
            self.failed = error
        except RecursionError:
            self.failed = ProtocolError("the upstream's answer nests too deep")
        except UnicodeEncodeError:  # half a pair of surrogates, in the input of a tool
            self.failed = ProtocolError("the upstream's answer is no Unicode")
        if self.failed is not None:
            out.clear()  # no output yet, so that another route may be tried


class EventReader(Events[T]):
    """See `dialect.Reader`."""

    def feed(self, data: bytes) -> list[T]:
        return self._read(data)

    def eof(self) -> list[T]:
        return self._rest()


class EventStream(Events[bytes]):
    """See `exchange.Stream`: each event is turned into events for the caller."""

    def feed(self, data: bytes) -> bytes:
        return b"".join(self._read(data))

    def eof(self) -> bytes:
        return b"".join(self._rest())


def is_whole(data: bytes) -> bool:
    """Whether an event without the empty line that ends it is complete all the same."""
    if data.strip() == b"[DONE]":
        return True
    try:
        read_any(data)
    except ProtocolError:
        return False
    return True


def whole_answer(body: bytes) -> Any:
    """An answer that is not a stream, as JSON; raises `UpstreamSaid` if it is an error, or `ProtocolError`."""
    try:
        document = read_any(body)
    except ProtocolError:
        raise ProtocolError("the upstream's answer is not a stream of events") from None
    first = document[0] if isinstance(document, list) and document else document  # Gemini's are in a list
    if isinstance(first, dict) and first.get("error"):
        raise errors.said_in(first["error"])
    failed = errors.said_beside(first.get("base_resp")) if isinstance(first, dict) else None
    if failed is not None:
        raise failed
    return document
