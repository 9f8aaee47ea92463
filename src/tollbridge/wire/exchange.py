"""One call of one route: what is sent, and what its answer means, in one form for every dialect."""

from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from tollbridge.errors import ApiError, UpstreamError
from tollbridge.values import Usage

# Those of a request, their names in lower case.
Headers = Iterable[tuple[bytes, bytes]]


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What the caller is told about money: JSON numbers, USD. `balance`: None if it is not known in time.

    `usage`: what was charged for, if it was counted here; None: what the provider reported. `byok`: the caller's own
    credential paid the provider, and the charge is the fee. `read_cost`, `written_cost`: what `cost` is the sum of.
    `ended`: when the answer was complete, in epoch seconds.
    """

    charge: bytes
    cost: bytes
    balance: bytes | None = None
    usage: Usage | None = None
    byok: bool = False
    read_cost: bytes = b"0"
    written_cost: bytes = b"0"
    ended: int | None = None


class Names(msgspec.Struct, frozen=True, gc=False):
    """The names that this gateway gives an answer: its public id, its model, and its creation time (epoch seconds)."""

    id: str
    model: str
    created: int

    def put_on(self, fields: dict[str, Any]) -> None:
        fields["id"] = self.id
        if "created" not in fields:
            fields["created"] = self.created
        fields["model"] = self.model


class Outgoing(msgspec.Struct, frozen=True, gc=False):
    """What is sent: the target below the upstream's base URL, the body, headers in addition to the upstream's, and the
    caller's fields that were left out (`dropped`).
    """

    target: bytes
    body: bytes
    dropped: tuple[str, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Counter(Protocol):
    """Takes the text that a model produced, in order, in pieces of any size (UTF-8), how many pictures it drew, and how
    many base64 characters of sound it spoke.
    """

    pictures: int
    sound: int

    def add(self, text: bytes) -> None: ...

    @property
    def tokens(self) -> int:
        """How many tokens the text is, as nearly as can be told here."""
        ...


class Answer(Protocol):
    """An answer that came whole.

    `usage`: what the provider reported; None if it reported nothing, or what cannot be true (`suspect`). `reported`:
    its own words, JSON, at most 1 KiB. `finish`: the first choice's finish reason.
    """

    @property
    def usage(self) -> Usage | None: ...

    @property
    def suspect(self) -> bool: ...

    @property
    def reported(self) -> bytes: ...

    @property
    def finish(self) -> str | None: ...

    def text(self) -> bytes:
        """What was produced, to be counted here. Computed on each call."""
        ...

    def pictures(self) -> int:
        """How many pictures were drawn, as `text`."""
        ...

    def render(self, receipt: Receipt | None) -> bytes:
        """The body for the caller."""
        ...


class Stream(Protocol):
    """An answer that comes in pieces.

    `usage`, `suspect`, `reported`, `finish`: as in `Answer`, so far. `told_first`: what was read, if the provider
    reports it before it writes; nothing about what it writes. `complete`: every choice has finished, or the end was
    announced; `done`: it was announced. `chunks`: how many events brought text. `failed`: the provider said that it
    failed (`UpstreamSaid`), or sent what makes no sense (`ProtocolError`); nothing more is read then.
    """

    @property
    def usage(self) -> Usage | None: ...

    @property
    def suspect(self) -> bool: ...

    @property
    def reported(self) -> bytes: ...

    @property
    def told_first(self) -> Usage | None: ...

    @property
    def finish(self) -> str | None: ...

    @property
    def complete(self) -> bool: ...

    @property
    def done(self) -> bool: ...

    @property
    def chunks(self) -> int: ...

    @property
    def failed(self) -> UpstreamError | None: ...

    @property
    def output(self) -> Counter:
        """All that was produced: reasoning and the arguments of tool calls included, errors never."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Whole events for the caller that the provider's `data` completes. What belongs to the tail is withheld.

        Never raises: look at `failed` afterwards.
        """
        ...

    def eof(self) -> bytes:
        """The provider's body is over: as `feed`, with what was still incomplete. Look at `failed` and `complete`."""
        ...

    def end(self, receipt: Receipt | None) -> bytes:
        """The tail: what was withheld, the usage in the place where this caller expects it, and the end."""
        ...

    def stop(self, reason: str) -> bytes:
        """End it early, as if a length limit had been reached, and say why. `end` follows."""
        ...

    def fail(self, error: ApiError, asked: Headers = ()) -> bytes:
        """The end of an answer that broke off: an event that says so. Nothing follows. `asked`: the headers of the
        caller's request, which tell whose client reads it.
        """
        ...


class Exchange(Protocol):
    """A request on its way to one route, and the reader of its answer."""

    def request(self) -> Outgoing:
        """What is sent. Raises `UnsupportedField` when this route cannot do what the caller asks for."""
        ...

    def response(self, body: bytes) -> Answer:
        """Read the body of a 200. Raises `UpstreamSaid` (an error in it) or `ProtocolError` (it makes no sense)."""
        ...

    def stream(self, output: Counter) -> Stream:
        """A reader for the body of a 200 to a request that streams; `output` gets the text."""
        ...
