"""Server-sent events, as far as answers need them.

Rule 1  Lines end with CR, LF or CRLF, in any mixture; an empty line ends an event; input may be cut anywhere, even
        between CR and LF or within a character.
Rule 2  `data` lines are joined by LF. One space after the colon is removed, as are comments, fields that nobody asked
        for, and a byte order mark at the start.
Rule 3  An event above `MAX_EVENT` bytes breaks the decoder: events before it stand, and none come after it.

From https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from typing import TypeAlias

from tollbridge.errors import ProtocolError

# A picture that a model drew comes in one event.
MAX_EVENT = 1 << 24
DONE = b"data: [DONE]\n\n"

# An event's name (empty: none), and its data.
Event: TypeAlias = tuple[bytes, bytes]

_MARK = b"\xef\xbb\xbf"
# Numbers, because CPython raises and drops a TypeError on the way when it looks for bytes in bytes, for every chunk.
LF, CR = 10, 13


def encode(data: bytes) -> bytes:
    """One event of JSON `data`, in a form that even the simplest reader accepts: one line, a space after the colon."""
    if LF in data:
        data = data.replace(b"\n", b" ")  # between tokens: within a string JSON has no line feed
    return b"data: %b\n\n" % data


class Decoder:
    """Bytes in, events out. `broken` says why nothing more will come."""

    def __init__(self) -> None:
        self.broken: ProtocolError | None = None
        self._start: bytes | None = b""  # what could still become a byte order mark
        self._pending = bytearray()  # never holds the end of an event
        self._after_cr = False

    @property
    def is_between_events(self) -> bool:
        """Whether what comes next is read as if it came first (except that it can be no byte order mark)."""
        return not self._pending and self._start is None and not self._after_cr

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        if self.broken is not None:
            return []
        if self._start is not None:
            data = self._start + data
            if len(data) < len(_MARK) and _MARK.startswith(data):
                self._start = data
                return []
            self._start = None
            data = data.removeprefix(_MARK)
        if self._after_cr or CR in data:
            data = self._with_plain_ends(data)
        pending = self._pending
        if not pending:
            event = _only_event(data)
            if event is not None:
                return [event]
            end = data.rfind(b"\n\n")
            if end < 0:
                pending += data
                return self._nothing_yet()
            ready = data[:end]
            if end + 2 < len(data):
                pending += data[end + 2 :]
        else:
            searched = len(pending) - 1
            pending += data
            end = pending.rfind(b"\n\n", searched)
            if end < 0:
                return self._nothing_yet()
            ready = bytes(pending[:end])
            del pending[: end + 2]
        events: list[Event] = []
        for block in ready.split(b"\n\n"):
            if len(block) > MAX_EVENT:
                return self._break(events)
            if block.startswith(b"data: ") and LF not in block:
                events.append((b"", block[6:]))
            elif (event := _read(block)) is not None:
                events.append(event)
        if len(pending) > MAX_EVENT + 1:
            return self._break(events)
        return events

    def end(self) -> Event | None:
        """The last event, if the bytes ended before its empty line. It may be truncated."""
        if self.broken is not None:
            return None
        return _read(bytes(self._pending))

    def _nothing_yet(self) -> list[Event]:
        return self._break([]) if len(self._pending) > MAX_EVENT + 1 else []

    def _break(self, events: list[Event]) -> list[Event]:
        self.broken = ProtocolError(f"the upstream sent an event of more than {MAX_EVENT} bytes")
        self._pending.clear()
        return events

    def _with_plain_ends(self, data: bytes) -> bytes:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            if not data:
                self._after_cr = False
                return data
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _only_event(data: bytes) -> Event | None:
    """The one event that `data` consists of, a line of data that may follow a name: what nearly every read brings.
    None: `data` is anything else.
    """
    last = len(data) - 2
    if not data.endswith(b"\n\n") or last > MAX_EVENT:
        return None
    line_end = data.find(b"\n")
    start = line_end + 1
    if line_end == last and data.startswith(b"data: "):
        return b"", data[6:last]
    if data.startswith(b"event: ") and data.startswith(b"data: ", start) and data.find(b"\n", start) == last:
        return data[7:line_end], data[start + 6 : last]
    return None


def _read(block: bytes) -> Event | None:
    name = b""
    parts = []
    for line in block.split(b"\n"):
        field, _, value = line.partition(b":")
        if field == b"data":
            parts.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.removeprefix(b" ")
    return (name, b"\n".join(parts)) if parts else None
