"""What a request cost, on the books: exactly once, whatever happened to it.

`close` decides the bill and hands it to the ledger before it returns, so that nothing that is awaited later (a client
that leaves, a task that is cancelled) can come between an answer and its charge.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence

import msgspec

from tollbridge.core import pricing
from tollbridge.core.ledger import Checkpoint, End, Ended, Record, Verdict
from tollbridge.core.money import format_usd
from tollbridge.gateway.admission import Admission, Policy, Ticket
from tollbridge.gateway.recent import Recent
from tollbridge.limits.base import Limiter
from tollbridge.store.ledger import Ledger
from tollbridge.upstream.health import Health
from tollbridge.values import Outcome, Route, Usage
from tollbridge.wire.exchange import Receipt

# How long an answer waits to tell the balance after it. The charge goes on to the books, waited for or not.
SETTLE_WAIT_S = 0.25
# Providers count hidden tokens too, and some overshoot a limit; nobody writes several times what a model can.
SLACK = 2
# A model that searches gives up after tens of calls.
MOST_SEARCHES = 1_000
DAY_MS = 86_400_000
_ACCOUNTS_REMEMBERED = 100_000


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try of one route that did not answer: kept with the request's record."""

    route: str
    failed: str
    status: int = 0
    ms: int = 0
    # What the provider bills for it, as far as can be known; nano-USD.
    cost: int = 0


class Closed(msgspec.Struct, kw_only=True):
    """A bill that is with the ledger. `verdict` resolves once it is durable."""

    ticket: Ticket
    bill: pricing.Bill
    charge: int
    cost: int
    byok: bool
    verdict: asyncio.Future[Verdict]


class Settlement:
    def __init__(
        self, *, ledger: Ledger, limiter: Limiter, admission: Admission, policy: Policy, health: Health, recent: Recent
    ) -> None:
        self._ledger = ledger
        self._limiter = limiter
        self._admission = admission
        self._policy = policy
        self._health = health
        self._recent = recent
        self._patience = _Patience(SETTLE_WAIT_S)
        self._free_losses: dict[int, tuple[int, int]] = {}  # account: day, nano-USD

    def close(
        self,
        ticket: Ticket,
        route: Route | None,
        ending: pricing.Ending,
        *,
        status: int = 200,
        first_byte_ms: int | None = None,
        attempts: Sequence[Attempt] = (),
    ) -> Closed:
        """Settle `ticket` as `ending` says. `route`: the one that was asked last; None: nothing was sent, no charge."""
        policy = self._policy
        bill = pricing.bill(ending, charge_partial=policy.charge_partial, silence_ms=policy.silence_ms)
        if route is None:
            bill = msgspec.structs.replace(bill, charged=False)
        priced_by = route or ticket.routes[0]
        charge, cost = pricing.charge_and_cost(bill.usage, priced_by)
        if route is None:
            cost = 0
        if bill.free_loss and not self._may_lose(ticket, charge):
            bill = msgspec.structs.replace(bill, charged=True)
        charge = charge if bill.charged else 0
        record = self._record(ticket, priced_by, bill, ending, status, first_byte_ms, cost, attempts)
        end = End(
            hold=ticket.hold,
            account_id=ticket.caller.account_id,
            key_id=ticket.caller.key_id,
            charge=charge,
            record=record,
        )
        verdict = self._ledger.submit(end)
        if ticket.tokens:
            # The ledger takes included tokens for it.
            charge, end = 0, msgspec.structs.replace(end, charge=0)
        self._recent.keep(end, priced_by)
        self._limiter.give_back(ticket.grant, bill.usage.prompt + bill.usage.output if bill.charged else 0)
        if bill.outcome is Outcome.COMPLETED and ticket.demand.produces:
            self._admission.remember(ticket, bill.usage.output)
            if not attempts:
                self._measure(priced_by, record)
        elif ending.cause is pricing.Cause.CLIENT_LEFT and route is not None and not ending.produced:
            self._admission.cut(ticket)
        return Closed(ticket=ticket, bill=bill, charge=charge, cost=cost, byok=record.byok, verdict=verdict)

    def _measure(self, route: Route, record: Record) -> None:
        """Tell how fast this answer was: of one that came whole only how long all of it took."""
        first = record.first_byte_ms if record.streamed else None
        self._health.measured(route, first_byte_ms=first, tokens=record.output, ms=record.duration_ms - (first or 0))

    def checkpoint(self, ticket: Ticket, route: Route, counted: Usage) -> None:
        """Note what a running stream would be charged if this process died now."""
        ending = pricing.Ending(cause=pricing.Cause.OUR_FAULT, reported=None, counted=counted, produced=True)
        bill = pricing.bill(ending, charge_partial=True)
        self._ledger.submit(
            Checkpoint(
                hold=ticket.hold,
                account_id=ticket.caller.account_id,
                key_id=ticket.caller.key_id,
                charge=pricing.charge(counted, route),
                record=self._record(ticket, route, bill, ending, 200, None, pricing.cost(counted, route), ()),
            )
        )

    async def receipt(self, closed: Closed) -> Receipt:
        """What the caller is told. Waits for the books, but not for long: then the balance is left out."""
        charge, balance = closed.charge, None
        try:
            ended = await self._patience.wait(closed.verdict)
        except Exception:  # the books said no, or nothing in time: the charge goes on to them all the same
            ended = None
        if isinstance(ended, Ended):
            charge, balance = ended.charged, format_usd(ended.available).encode()
        usage = closed.bill.usage
        charged = format_usd(charge).encode()
        return Receipt(
            charge=charged,
            cost=charged if closed.cost == charge else format_usd(closed.cost).encode(),
            balance=balance,
            usage=usage if usage.estimated else None,
            byok=closed.byok,
        )

    def believes(self, ticket: Ticket, reported: Usage) -> bool:
        """The last gate of reported usage: no more than what was sent and asked for allows."""
        model, demand = ticket.model, ticket.demand
        most_read = max(len(ticket.request.body), model.context_window)
        limit = max(model.output_limit, ticket.limit or 0, demand.output_limit or 0)
        return (
            reported.prompt <= most_read
            and reported.completion <= limit * demand.choices * SLACK
            and reported.searches <= MOST_SEARCHES
        )

    def _may_lose(self, ticket: Ticket, charge: int) -> bool:
        """Whether this account may be given one more answer whose upstream died, today."""
        day = ticket.started_at // DAY_MS
        account = ticket.caller.account_id
        known_day, lost = self._free_losses.get(account, (day, 0))
        lost = lost + charge if known_day == day else charge
        if lost > self._policy.free_loss_per_day:
            return False
        if len(self._free_losses) >= _ACCOUNTS_REMEMBERED:
            self._free_losses = {a: entry for a, entry in self._free_losses.items() if entry[0] == day}
        self._free_losses[account] = (day, lost)
        return True

    def _record(
        self,
        ticket: Ticket,
        route: Route,
        bill: pricing.Bill,
        ending: pricing.Ending,
        status: int,
        first_byte_ms: int | None,
        cost: int,
        attempts: Sequence[Attempt],
    ) -> Record:
        usage = bill.usage
        return Record(
            started_at=ticket.started_at,
            duration_ms=int((time.monotonic() - ticket.started) * 1000),
            first_byte_ms=first_byte_ms,
            price_version=route.version,
            input=usage.input,
            cache_read=usage.cache_read,
            cache_write=usage.cache_write,
            cache_write_1h=usage.cache_write_1h,
            output=usage.output,
            reasoning=usage.reasoning,
            audio_input=usage.audio_input,
            audio_output=usage.audio_output,
            image_output=usage.image_output,
            searches=usage.searches,
            cost=cost,
            outcome=bill.outcome,
            status=status,
            streamed=ticket.request.stream,
            estimated=usage.estimated,
            suspect=usage.suspect,
            byok=route.upstream.owner != 0,
            endpoint=ticket.request.endpoint,
            finish=ending.finish,
            raw=usage.raw or None,
            attempts=msgspec.json.encode(attempts) if attempts else None,
        )


class _Patience:
    """Ends waits that take too long: one timer for all of them, none while nobody waits."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: deque[tuple[float, asyncio.Future[Verdict]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, verdict: asyncio.Future[Verdict]) -> Verdict:
        """The verdict on an end, which nobody else waits for. TimeoutError, which stays its result, when it is late.

        The ledger carries an end out whether or not there is anybody left to tell.
        """
        if not verdict.done():
            loop = verdict.get_loop()
            self._waiting.append((loop.time() + self._seconds, verdict))
            if self._timer is None:
                self._timer = loop.call_later(self._seconds, self._wake, loop)
        return await verdict

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting, now = self._waiting, loop.time()
        while waiting and (waiting[0][0] <= now or waiting[0][1].done()):
            _, verdict = waiting.popleft()
            if not verdict.done():
                verdict.set_exception(TimeoutError())
        self._timer = loop.call_at(waiting[0][0], self._wake, loop) if waiting else None
