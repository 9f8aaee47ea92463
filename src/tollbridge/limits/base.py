"""What a limiter is: one atomic `take` of everything that a request needs, all or nothing.

A *scope* is what is limited: an account, a key. Its *rule* says how much per minute. `strict` rules never admit more
than the limit in any 60 seconds (the window is kept as a log). The others are a bucket as large as the limit that
refills evenly (GCRA), so a burst after a pause may bring up to twice the limit into one minute, and for tokens also
what earlier calls give back in it.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

WINDOW_S = 60.0
# When all places are taken, nobody knows when one will be free: this is a guess.
FULL_RETRY_S = 1.0

Kind = Literal["requests", "tokens", "concurrency"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Per minute, each at least 1; None is no limit. `concurrency`: calls running at one time."""

    requests: int | None = None
    tokens: int | None = None
    concurrency: int | None = None
    strict: bool = False


class Scope(msgspec.Struct, frozen=True):
    name: str
    rule: Rule


class Room(msgspec.Struct, frozen=True, gc=False):
    """What the tightest scope has left: limit, remaining, and seconds until it is full again."""

    limit: int
    remaining: int
    reset: float


class Grant(msgspec.Struct):
    """What was taken, to be given back exactly once. Without scopes it is nothing."""

    request: int
    scopes: Sequence[Scope]
    tokens: int
    requests_room: Room | None
    tokens_room: Room | None
    # The limiter's own notes on what it must correct later.
    notes: list[Any]
    # Limited by this process's share, because the shared counters are away.
    degraded: bool = False
    # The limit, only tried out so far, that would have refused it.
    would_refuse: str = ""


def unlimited(request: int) -> Grant:
    """The grant of a request without scopes."""
    return Grant(request, (), 0, None, None, [])


class Exceeded(msgspec.Struct, frozen=True):
    """Why nothing was taken: the limit with the longest wait. `hopeless`: it will not fit later either.

    `retry_after`: seconds.
    """

    type: Kind
    limit: int
    retry_after: float
    hopeless: bool
    requests_room: Room | None
    tokens_room: Room | None
    # As in `Grant`.
    degraded: bool = False


class Free(msgspec.Struct, frozen=True):
    """A request would be admitted now, and what would be left before it."""

    requests_room: Room | None
    tokens_room: Room | None


class Limiter(Protocol):
    @property
    def degraded(self) -> bool:
        """Whether, for now, this process enforces its share of the limits."""

    async def take(self, request: int, scopes: Sequence[Scope], least: int, tokens: int) -> Grant | Exceeded:
        """Take one request, `tokens` tokens and one place among the running calls, in every scope or in none.

        `least` of the tokens are certain (the input): if they alone exceed a whole limit, it is hopeless.
        """

    async def look(self, scopes: Sequence[Scope], least: int, tokens: int) -> Free | Exceeded:
        """What `take` would say now. Takes nothing."""

    def give_back(self, grant: Grant, used: int) -> None:
        """The call ended and used `used` tokens: return the difference (or take it, if it is more), and the place."""
