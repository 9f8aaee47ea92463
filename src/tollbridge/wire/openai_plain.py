"""Events of one stream that are the same except for their text: what surrounds the text is learnt once for all of them.

Rule 1  Surroundings are learnt when two consecutive events share them, and only if an event with another text in them
        (the probe) is read and passed on as expected: that proves that only the text depends on what is in its place.
Rule 2  Whatever is in that place later is proven to be one string by the decoder that reads whole events: it holds no
        quote, no line end and no half of a character.
"""

import re

import msgspec

from tollbridge.wire.sse import LF, MAX_EVENT

PROBE = "probe"

# A member that may be the text, and its value without quotes. In JSON, a quote after a letter ends a string, and a
# colon after that makes the string a name, so this matches nothing within a string.
_TEXT = re.compile(rb'(?:content|reasoning|text|arguments)": ?"((?!")[^"\\]*+(?:\\.[^"\\]*+)*+)"')
# Random letters that hide the length of the text: OpenAI's events end with them.
_PADDING = re.compile(rb'"obfuscation": ?"([A-Za-z0-9]+)"')
# An event longer than `_LONG` is not learnt, and a read above `_LARGE` is not passed: an event in it may be too long.
_LONG = 8_192
_LARGE = MAX_EVENT - 2 * _LONG

_decode_text = msgspec.json.Decoder(str).decode


class Around(msgspec.Struct, frozen=True):
    """An event (JSON) without its text: what comes before the text, what is between it and the padding (nothing if
    there is no padding), and the end.
    """

    before: bytes
    padded: bytes
    after: bytes

    def probe(self) -> bytes:
        return b"".join((self.before, PROBE.encode(), self._end()))

    def learn(self, passed: bytes) -> "Plain | None":
        """How plain events pass. `passed`: what the caller would get for the probe; None if that is not as expected."""
        parts = passed.split(PROBE.encode())
        if len(parts) != 2 or (self.padded and parts[1] != self._end() + b"\n\n"):
            return None
        after_for_caller = self.after + b"\n\n" if self.padded else parts[1]
        return Plain(b"data: " + self.before, self.padded, self.after + b"\n\n", parts[0], after_for_caller)

    def _end(self) -> bytes:
        return self.padded + b"x" + self.after if self.padded else self.after


class Plain:
    """Whole events that are the same except for their text; `…_for_caller`: with our names.

    If a read begins with `before` and ends with `after`, its texts are in `read[start:stop]`.
    """

    __slots__ = (
        *("before", "after", "before_for_caller", "after_for_caller", "start", "stop"),
        *("_padded", "_seam", "_seam_for_caller", "_line_end"),
    )

    def __init__(
        self, before: bytes, padded: bytes, after: bytes, before_for_caller: bytes, after_for_caller: bytes
    ) -> None:
        self.before = before
        self.after = after
        self.before_for_caller = before_for_caller
        self.after_for_caller = after_for_caller
        self.start = len(before)
        self.stop = -len(after)
        self._padded = padded
        # What is between the text of one event and that of the next, and where the first line in it ends.
        self._seam = after + before
        self._seam_for_caller = after_for_caller + before_for_caller
        self._line_end = self._seam.index(b"\n")

    def read(self, between: bytes) -> tuple[list[str], bytes] | None:
        """The texts in `between`, which is `read[start:stop]`, and what replaces it for the caller; None: not all of
        these events are of this kind and bring text.
        """
        if not between or len(between) > _LARGE:
            return None
        try:
            if not self._padded and between.find(b"\n") < 0:
                return [_decode_text(b'"%b"' % between)], between  # what nearly every read brings
            return self._read_any(between)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _read_any(self, between: bytes) -> tuple[list[str], bytes] | None:
        pieces = []
        start = 0
        while (line_end := between.find(b"\n", start)) >= 0:
            end = line_end - self._line_end
            if end <= start or not between.startswith(self._seam, end):
                return None
            pieces.append(between[start:end])
            start = end + len(self._seam)
        pieces.append(between[start:])
        texts = []
        for piece in pieces:
            text = piece
            if self._padded:
                text, _, padding = piece.partition(self._padded)
                if not padding.isalnum():
                    return None
            texts.append(_decode_text(b'"%b"' % text))
        return None if "" in texts else (texts, self._seam_for_caller.join(pieces))


def around_text(data: bytes) -> Around | None:
    """What surrounds the text of an event (JSON), if that can be told."""
    found = _TEXT.search(data) if len(data) <= _LONG and LF not in data else None
    if found is None:
        return None
    start, end = found.span(1)
    padding = _PADDING.search(data, end)
    if padding is None:
        return Around(data[:start], b"", data[end:])
    return Around(data[:start], data[end : padding.start(1)], data[padding.end(1) :])
