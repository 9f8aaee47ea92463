"""Whether a failed attempt is tried again, and where. Pure; clock and counts are arguments.

Rule 1  Nothing is tried again once output has reached the caller (`gateway.relay` sees to it).
Rule 2  A mistake of the caller's (400, 413, 422 …) is the same everywhere: it is passed on at once, unless the caller
        named another model for that case, which may have a longer context or other rules.
Rule 3  Trouble with a credential (401, 402, 403) and a limit (429) are never tried again on the same route.
Rule 4  A request is tried at most twice more for each model, and all retries together stay within 20 % of the traffic
        (or 3 per window, if that is more), so that we do not add a storm of our own to a failing provider's trouble.
        Moving on to another model that the caller named is not a retry, nor is moving on when nothing was sent, for
        want of a connection or because a route cannot do what was asked for.
"""

from collections import deque
from enum import Enum
from math import inf

import msgspec

MAX_RETRIES = 2
BUDGET_PERCENT = 20
BUDGET_LEAST = 3
BUDGET_WINDOW_S = 60.0

# A breaker's limits, in seconds and calls.
FAILURES_IN_A_ROW = 5
WINDOW_S = 30.0
WINDOW_CALLS = 20
WINDOW_MOST = 1_000
OPEN_S = 10.0
PROBE_S = 10.0
MAX_COOL_S = 60.0
# An upstream that is out of credit stays so until somebody pays: one probe per this interval.
EXHAUSTED_S = 300.0
SHAKY_FAILURES = 3
SHAKY_SHARE = 10
SHAKY_S = 60.0


class Kind(Enum):
    """What went wrong with one attempt."""

    BUSY = "busy"  # we have no connection to spare for it: nothing was sent
    UNREACHED = "unreached"  # nothing was sent
    LOST = "lost"  # sent, and the answer never came or was not whole
    TIMED_OUT = "timed_out"
    SERVER_ERROR = "server_error"
    LIMITED = "limited"
    CREDENTIAL = "credential"
    OUT_OF_CREDIT = "out_of_credit"
    UNKNOWN_MODEL = "unknown_model"
    INVALID_RESPONSE = "invalid_response"
    MODEL_FAILED = "model_failed"  # the provider is well, and what the model wrote cannot be used
    REJECTED = "rejected"  # the provider blames the caller's request
    UNSUPPORTED = "unsupported"  # this route cannot do what was asked for; most often nothing was sent


class Step(Enum):
    SAME_ROUTE = "same_route"
    NEXT_ROUTE = "next_route"
    NEXT_MODEL = "next_model"
    GIVE_UP = "give_up"


_AGAIN_HERE = frozenset({Kind.UNREACHED, Kind.LOST, Kind.SERVER_ERROR, Kind.MODEL_FAILED})
COUNTS_AGAINST_UPSTREAM = frozenset(
    {Kind.UNREACHED, Kind.LOST, Kind.TIMED_OUT, Kind.SERVER_ERROR, Kind.INVALID_RESPONSE}
)


# Nothing was sent, or the provider did nothing with it.
NEEDS_NO_BUDGET = frozenset({Kind.UNSUPPORTED, Kind.BUSY})


def decide(kind: Kind, *, retries: int, more_routes: bool, more_models: bool) -> Step:
    """The next step after an attempt failed with `kind`.

    `retries`: how often the request has been retried on this model. `more_routes`, `more_models`: whether there are
    further routes of any model, and of another model.
    """
    if kind in NEEDS_NO_BUDGET:
        return Step.NEXT_ROUTE if more_routes else Step.GIVE_UP
    if kind is Kind.REJECTED or retries >= MAX_RETRIES:
        return Step.NEXT_MODEL if more_models else Step.GIVE_UP
    if more_routes:
        return Step.NEXT_ROUTE
    return Step.SAME_ROUTE if kind in _AGAIN_HERE else Step.GIVE_UP


class Budget(msgspec.Struct):
    """Retries allowed per minute: `BUDGET_PERCENT` of its requests or, if they are more, of those in the minute before;
    at least `BUDGET_LEAST`.
    """

    requests: int = 0
    retries: int = 0
    window_start: float = 0.0
    last_requests: int = 0

    def request(self, now: float) -> None:
        if now - self.window_start >= BUDGET_WINDOW_S:
            self._turn(now)
        self.requests += 1

    def take(self, now: float) -> bool:
        """Take one retry if the budget allows it."""
        if now - self.window_start >= BUDGET_WINDOW_S:
            self._turn(now)
        allowed = max(BUDGET_LEAST, max(self.requests, self.last_requests) * BUDGET_PERCENT // 100)
        if self.retries >= allowed:
            return False
        self.retries += 1
        return True

    def _turn(self, now: float) -> None:
        self.last_requests = self.requests if now - self.window_start < 2 * BUDGET_WINDOW_S else 0
        self.requests = self.retries = 0
        self.window_start = now


class Breaker(msgspec.Struct):
    """Whether an upstream may be called: a breaker for failures, and a cool-down for limits. `now`: monotonic seconds.

    It opens for 10 s after 5 failures in a row, or if at least half of at least 20 calls in the last 30 s failed; then
    one probe decides. Well before that, the upstream is *shaky*: after three failures, in a row or a tenth of its calls
    in the last 30 s, others go first for a minute, so that its failures cost few retries. Our own refusals (no money,
    our limits) never count.

    A call that hung may fail minutes after the trouble is over. It counts for nothing if the breaker has opened since
    it began, and not in a row if a call has succeeded since.
    """

    in_a_row: int = 0
    open_until: float = 0.0
    cool_until: float = 0.0
    probing_until: float = 0.0
    shaky_until: float = 0.0
    closed_at: float = -inf
    recent: deque[tuple[float, bool]] = msgspec.field(default_factory=deque)

    def usable(self, now: float) -> bool:
        if now < self.cool_until or now < self.open_until:
            return False
        return not self.open_until or now >= self.probing_until

    def shaky(self, now: float) -> bool:
        """Whether others should be asked first."""
        return now < self.shaky_until

    def begin(self, now: float) -> None:
        """A call starts. If the breaker is half open, that call is the probe, and others wait for its result."""
        if self.open_until:
            self.probing_until = now + PROBE_S

    def succeeded(self, now: float) -> None:
        self.in_a_row = 0
        if self.open_until:
            self.open_until = self.probing_until = 0.0
            self.closed_at = now
            self.recent.clear()
        if self.recent:
            self._note(now, failed=False)

    def doubt(self, now: float) -> None:
        """It refused a call and may do so again: others go first for a while."""
        self.shaky_until = now + SHAKY_S

    def exhausted(self, now: float) -> None:
        """It is out of credit."""
        self.open_until = now + EXHAUSTED_S

    def reconsider(self, now: float) -> None:
        """What was wrong may have been mended: the next call finds out."""
        self.open_until = min(self.open_until, now)
        self.probing_until = 0.0

    def failed(self, now: float, began: float | None = None, well_at: float = -inf) -> None:
        """A call that began at `began` (None: now) failed. `well_at`: when a call succeeded last."""
        began = now if began is None else began
        if began < max(self.open_until, self.closed_at):
            return
        self.in_a_row += began >= well_at
        self._note(now, failed=True)
        failures = sum(failed for _, failed in self.recent)
        if self.in_a_row >= SHAKY_FAILURES or (
            failures >= SHAKY_FAILURES and failures * SHAKY_SHARE >= len(self.recent)
        ):
            self.shaky_until = now + SHAKY_S
        mostly = len(self.recent) >= WINDOW_CALLS and failures * 2 >= len(self.recent)
        if self.open_until or self.in_a_row >= FAILURES_IN_A_ROW or mostly:
            self.open_until = now + OPEN_S
            self.probing_until = 0.0

    def cool(self, now: float, seconds: float) -> None:
        self.cool_until = max(self.cool_until, now + min(seconds, MAX_COOL_S))

    def abandoned(self) -> None:
        """The call ended without telling anything about the upstream: let another one be the probe."""
        self.probing_until = 0.0

    def opens_in(self, now: float) -> float:
        """Seconds until it may be called again; 0 if it may be called now."""
        return max(0.0, self.cool_until - now, self.open_until - now, self.probing_until - now)

    def _note(self, now: float, *, failed: bool) -> None:
        recent = self.recent
        recent.append((now, failed))
        while recent[0][0] < now - WINDOW_S or len(recent) > WINDOW_MOST:
            recent.popleft()
