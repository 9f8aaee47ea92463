"""Heads that repeat. Nearly every request on a connection has the same head as the one before it, byte for byte except
for the length of its body. Neither the parser nor the application need read it again.

Rule 1  A head is known only after the parser has accepted it, and only if its message ends by a length and leaves the
        connection open. The parser begins every message in the same state, so the same bytes mean the same again.
Rule 2  A head that differs in anything but the digits of its length goes to the parser, from its first byte on.
"""

from typing import Any

__all__ = ["KnownHead", "learn"]

# The longest head that is kept, for each connection as long as it is open.
_LONGEST = 4 * 1024
_MOST_DIGITS = 9
_LENGTH = b"\r\ncontent-length:"


class KnownHead:
    """A head: the bytes `before` and `after` the digits of its length, the ASGI scope made from it, and the most bytes
    that a body may have.

    `scope`: that of the latest request that matched. `digest`: what the application has read from the head, kept for
    the next request.
    """

    __slots__ = ("_after", "_before", "_found", "_last", "_max_body", "_place", "digest", "scope")

    def __init__(self, before: bytes, digits: bytes, after: bytes, scope: dict[str, Any], max_body: int) -> None:
        self._before = before
        self._after = after
        # The whole head that matched last, and what `match` returned for it: lengths repeat too.
        self._last = before + digits + after
        self._found = len(self._last), int(digits)
        self._max_body = max_body
        self.scope = scope
        self._place = next(at for at, (name, _) in enumerate(scope["headers"]) if name == b"content-length")
        self.digest: Any = None

    def match(self, data: bytes) -> tuple[int, int]:
        """Where the body begins in `data`, and how long it is; (0, 0) if `data` does not begin with this head, or the
        body is empty or too long.
        """
        if data.startswith(self._last):
            return self._found
        before = self._before
        if not data.startswith(before):
            return 0, 0
        begin = len(before)
        end = data.find(b"\r", begin, begin + _MOST_DIGITS + 1)
        if end < 0 or not data.startswith(self._after, end):
            return 0, 0
        digits = data[begin:end]
        if not digits.isdigit() or not 0 < int(digits) <= self._max_body:
            return 0, 0
        headers = self.scope["headers"].copy()
        headers[self._place] = (b"content-length", digits)
        self.scope = {**self.scope, "headers": headers}
        self._last = data[: end + len(self._after)]
        self._found = len(self._last), int(digits)
        return self._found


def learn(data: bytes, scope: dict[str, Any], max_body: int) -> KnownHead | None:
    """The head that `data` begins with, from which `scope` was made; None if it is too long, incomplete or without a
    plain length.

    `max_body`: the most bytes that a body after it may have.
    """
    end = data.find(b"\r\n\r\n", 0, _LONGEST)
    if end < 0:
        return None
    head = data[: end + 4]
    at = head.lower().find(_LENGTH)
    if at < 0:
        return None
    begin = at + len(_LENGTH)
    line = head[begin : head.index(b"\r", begin)]
    digits = line.lstrip(b" \t")
    if not digits.isdigit() or len(digits) > _MOST_DIGITS:
        return None
    begin += line.index(digits)
    return KnownHead(head[:begin], digits, head[begin + len(digits) :], scope, max_body)
