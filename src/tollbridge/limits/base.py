"""What a limiter is: one atomic `take` of everything that a request needs, all or nothing.

A *scope* is what is limited: an account, a key. Its *rule* says how much a minute. `strict` rules never admit more
than the limit in any 60 seconds (the window is kept as a log); the others are a bucket of the size of the limit that
refills evenly (GCRA), so that a burst after a pause may bring up to twice the limit into one minute; of tokens also
what calls that began before that minute give back in it.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

WINDOW_S = 60.0
# When all places are taken, nobody knows when one is free: this is a guess.
FULL_RETRY_S = 1.0

Kind = Literal["requests", "tokens", "concurrency"]


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Per minute; None is no limit. `concurrency`: calls that run at one time."""

    requests: int | None = None
    tokens: int | None = None
    concurrency: int | None = None
    strict: bool = False


class Scope(msgspec.Struct, frozen=True):
    name: str
    rule: Rule


class Room(msgspec.Struct, frozen=True, gc=False):
    """What the tightest scope has left: limit, remaining, and seconds until it is whole again."""

    limit: int
    remaining: int
    reset: float


class Grant(msgspec.Struct):
    """What was taken. Give it back exactly once. Without scopes it is nothing."""

    request: int
    scopes: Sequence[Scope]
    tokens: int
    requests_room: Room | None
    tokens_room: Room | None
    # The limiter's own notes on what it must correct later.
    notes: list[Any]
    # Limited by a process's share, because the shared counters are away.
    degraded: bool = False
    # Which limit that is only tried out would have refused it.
    would_refuse: str = ""


def unlimited(request: int) -> Grant:
    """What is taken for a request without scopes."""
    return Grant(request, (), 0, None, None, [])


class Exceeded(msgspec.Struct, frozen=True):
    """Why nothing was taken: the limit that is in the way longest. `hopeless`: it will not fit later either."""

    type: Kind
    limit: int
    retry_after: float
    hopeless: bool
    requests_room: Room | None
    tokens_room: Room | None
    # As in `Grant`.
    degraded: bool = False


class Free(msgspec.Struct, frozen=True):
    """What a request would find: it would be admitted."""

    requests_room: Room | None
    tokens_room: Room | None


class Limiter(Protocol):
    async def take(self, request: int, scopes: Sequence[Scope], least: int, tokens: int) -> Grant | Exceeded:
        """Take one request, `tokens` tokens and one place among the running calls, in every scope or in none.

        `least` of the tokens are certain (the input): when they alone exceed a whole limit, it is hopeless.
        """

    async def look(self, scopes: Sequence[Scope], least: int, tokens: int) -> Free | Exceeded:
        """What `take` would say now. Takes nothing."""

    def give_back(self, grant: Grant, used: int) -> None:
        """The call ended and used `used` tokens: return the difference (or owe it), and the place."""
