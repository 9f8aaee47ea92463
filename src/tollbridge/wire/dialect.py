"""The two sides of a dialect. Modules that speak one have a class for each side that makes sense (see `translate`).

Both are stateless; objects with state (`Reader`, `Writer`) are made for one answer.
"""

from typing import Protocol

import msgspec

from tollbridge.errors import ApiError, UpstreamError
from tollbridge.values import Route, Usage
from tollbridge.wire.conversation import Conversation, Document, Event, Finish, Image, Reply
from tollbridge.wire.exchange import Headers, Names, Outgoing, Receipt
from tollbridge.wire.request import Request


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """How a stream ended. `usage`: None if nothing is known. `detail`: why it was ended early, or ""."""

    finishes: tuple[Finish, ...]
    usage: Usage | None
    receipt: Receipt | None
    detail: str = ""


class Writer(Protocol):
    """Writes one stream for a caller."""

    def write(self, events: list[Event]) -> bytes:
        """Whole events of the caller's dialect. `events` never holds a `Finish`: that is for `end`."""
        ...

    def end(self, tail: Tail) -> bytes:
        """Close what is open, then finish, usage and the end."""
        ...

    def fail(self, error: ApiError, asked: Headers = ()) -> bytes:
        """As of `exchange.Stream`."""
        ...


class Client(Protocol):
    """A caller's dialect: how answers are written for it."""

    def render(self, request: Request, names: Names, reply: Reply, receipt: Receipt | None) -> bytes:
        """A whole answer. The usage is `receipt.usage` if it was counted here, else `reply.usage`."""
        ...

    def writer(self, request: Request, names: Names) -> Writer: ...


class Reader(Protocol):
    """Reads one stream of a provider.

    `usage`, `suspect`, `reported`, `told_first`: as in `exchange.Stream`. `done`: the provider announced the end.
    `failed`: it said that it failed (`UpstreamSaid`), or sent what makes no sense (`ProtocolError`); nothing more is
    read then.
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
    def done(self) -> bool: ...

    @property
    def failed(self) -> UpstreamError | None: ...

    def feed(self, data: bytes) -> list[Event]:
        """What `data` completes. Never raises: look at `failed` afterwards. However the bytes are cut, the events are
        the same, except for where text is cut.
        """
        ...

    def eof(self) -> list[Event]:
        """The body is over: the events in what was still incomplete."""
        ...


class Provider(Protocol):
    """A provider's dialect: how it is asked, and how its answers are read."""

    def outgoing(self, conversation: Conversation, route: Route, limit: int | None) -> Outgoing:
        """The call. `limit`: the output limit that money sets, None if it sets none; the smaller of it and the caller's
        is sent. Raises `UnsupportedField`.
        """
        ...

    def takes_url(self, part: Image | Document, route: Route) -> bool:
        """Whether the provider itself fetches what the URL of `part` points to; otherwise it wants the data."""
        ...

    def reply(self, body: bytes) -> Reply:
        """Read the body of a 200. Raises `UpstreamSaid` (an error in it) or `ProtocolError` (it makes no sense)."""
        ...

    def reader(self) -> Reader: ...
