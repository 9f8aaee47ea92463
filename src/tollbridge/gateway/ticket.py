"""Permission to run one request, and what happened to it on the way."""

from collections.abc import Sequence

import msgspec

from tollbridge.core.ledger import Refusal
from tollbridge.core.pricing import Demand
from tollbridge.gateway.callers import Caller
from tollbridge.gateway.large import Share
from tollbridge.limits.base import Grant
from tollbridge.values import Model, Route
from tollbridge.wire.request import Request


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try of a route that did not answer; kept with the request's record."""

    route: str
    failed: str
    status: int = 0
    ms: int = 0


class Ticket(msgspec.Struct, kw_only=True):
    """Permission to run one request: its hold, its routes in order, and the output limit that money sets (None: none).

    The routes may belong to several models, in the caller's order; `model` is that of the route being tried. `waits`:
    for a connection to the provider, even while another route has room. `share`: of the memory for large answers.
    `cap`: the most that the request may cost, nano-USD.
    `held` and `step` grow when the hold is extended. `tokens`: the included tokens held, with `held` 0; 0: the hold is
    on money. `exposure`: what it may cost beyond what is held, because nobody knows how long its prompt is; nano-USD.
    `refusal`: why the hold could not be extended. `dropped`: the caller's fields that could not be sent.
    `tried`: the routes that did not answer, each with the reason, worded for a header; `attempts`: the same for the
    record, set once the attempts are over.
    `started` is monotonic seconds, `started_at` epoch milliseconds.
    """

    id: str
    hold: int
    caller: Caller
    request: Request
    model: Model
    routes: Sequence[Route]
    demand: Demand
    held: int
    available: int
    cap: int
    limit: int | None
    grant: Grant
    started: float
    started_at: int
    step: int = 0
    tokens: int = 0
    exposure: int = 0
    refusal: Refusal | None = None
    waits: bool = False
    share: Share | None = None
    dropped: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()
    attempts: Sequence[Attempt] = ()

    def let_go(self) -> None:
        """Its large answer, if there is one, needs no memory any more."""
        if self.share is not None:
            self.share.give_back()
