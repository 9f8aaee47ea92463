"""Puts what a request cost on the books: exactly once, whatever happened to it.

`close` decides the bill and hands it to the ledger before it returns, so nothing that happens during a later await (a
client leaves, a task is cancelled) can come between an answer and its charge.
"""

import asyncio
import time
from collections import deque
from functools import partial
from itertools import filterfalse

import msgspec

from tollbridge.core import pricing
from tollbridge.core.abuse import Abuse
from tollbridge.core.ledger import Checkpoint, End, Ended, Record, Verdict
from tollbridge.core.means import Means
from tollbridge.core.money import usd_bytes
from tollbridge.gateway.policy import Policy
from tollbridge.gateway.recent import Recent
from tollbridge.gateway.ticket import Ticket
from tollbridge.limits.base import Limiter
from tollbridge.store.ledger import Ledger
from tollbridge.upstream.health import Health
from tollbridge.values import DAY_MS, Route, Usage
from tollbridge.wire.exchange import Receipt

# How long an answer waits in order to state the balance after it. The charge reaches the books regardless.
SETTLE_WAIT_S = 0.25
_STRETCHES = 5
# A report of output above the limit times this is not believed. Providers count hidden tokens too, and some overshoot
# a limit, but none writes several times what a model can.
SLACK = 2
# A provider that runs tools itself reads the conversation again with each result. Anthropic pauses after ten rounds.
MOST_ROUNDS = 16
# A model that searches gives up after tens of calls.
MOST_SEARCHES = 1_000
# How long models that do not think take until their first text, and tokens a second of those that do. Roughly: they
# decide only whether a stream is read to its end after its caller left, never a charge.
USUAL_START_MS = 2_000
THOUGHT_PER_S = 100


class Closed(msgspec.Struct):
    """A bill handed to the ledger. `verdict` resolves once it is durable. `prompt`: all tokens that were read;
    `read_cost`: how much of `cost` is for them.
    """

    ticket: Ticket
    bill: pricing.Bill
    prompt: int
    charge: int
    cost: int
    read_cost: int
    byok: bool
    verdict: asyncio.Future[Verdict]


class Settlement:
    def __init__(
        self,
        *,
        ledger: Ledger,
        limiter: Limiter,
        lengths: Means,
        policy: Policy,
        health: Health,
        recent: Recent,
        abuse: Abuse,
    ) -> None:
        self._ledger = ledger
        self._limiter = limiter
        self._lengths = lengths
        self._policy = policy
        self._health = health
        self._recent = recent
        self._patience = _Patience(SETTLE_WAIT_S)
        self._cuts, self._gifts, self._overruns = abuse.cuts, abuse.gifts, abuse.overruns
        self._exposures = abuse.exposures

    def close(
        self,
        ticket: Ticket,
        route: Route | None,
        ending: pricing.Ending,
        *,
        status: int = 200,
        first_byte_ms: int | None = None,
    ) -> Closed:
        """Settle `ticket` as `ending` says. `route`: the one asked last; None: nothing was sent, so nothing is charged.

        `first_byte_ms`: of a stream that has begun.
        """
        policy = self._policy
        bill = pricing.bill(ending, policy.charge_partial, policy.silence_ms)
        usage = bill.usage
        if route is not None:
            priced_by = route
            charge, cost, read_cost = pricing.charge_and_cost(usage, priced_by)
        else:
            priced_by, bill = ticket.routes[0], msgspec.structs.replace(bill, charged=False)
            charge, cost, read_cost = pricing.charge(usage, priced_by), 0, 0
        if not bill.charged:
            if bill.free_loss and not self._may_lose(ticket, charge):
                bill = msgspec.structs.replace(bill, charged=True)
            else:
                charge = 0
        record = self._record(ticket, priced_by, bill, ending, status, first_byte_ms, cost)
        caller = ticket.caller
        end = End(ticket.hold, caller.account_id, caller.key_id, charge, record, ticket.cap)
        verdict = self._ledger.submit(end)
        if (record.tokens > ticket.tokens if ticket.tokens else charge > ticket.held) or ticket.exposure:
            verdict.add_done_callback(partial(self._note_end, ticket))
        if ticket.tokens:
            # The ledger takes included tokens in place of money.
            charge, end = 0, msgspec.structs.replace(end, charge=0)
        self._recent.keep(end, priced_by)
        prompt, written = usage.prompt, usage.completion
        self._limiter.give_back(ticket.grant, prompt + written if bill.charged else 0)
        if bill.outcome is pricing.COMPLETED and ticket.demand.produces:
            self._lengths.learn(caller.key_id, written)
            if not ticket.attempts:
                took = record.duration_ms - (first_byte_ms or 0)
                self._health.measured(priced_by, first_byte_ms, written, took)
        elif ending.cause is pricing.Cause.CLIENT_LEFT and route is not None and not ending.produced:
            self._cuts.note(caller.account_id, ticket.demand.prompt, time.monotonic())
        return Closed(ticket, bill, prompt, charge, cost, read_cost, record.byok, verdict)

    def checkpoint(self, ticket: Ticket, route: Route, counted: Usage) -> None:
        """Note what a running stream would be charged if this process died now, unless that exceeds its cap."""
        ending = pricing.Ending(cause=pricing.Cause.OUR_FAULT, reported=None, counted=counted, produced=True)
        bill = pricing.bill(ending, True)
        charge, cost, _ = pricing.charge_and_cost(counted, route)
        if charge > ticket.cap:
            return
        record = self._record(ticket, route, bill, ending, 200, None, cost)
        caller = ticket.caller
        self._ledger.submit(
            Checkpoint(
                hold=ticket.hold, account_id=caller.account_id, key_id=caller.key_id, charge=charge, record=record
            )
        )

    async def receipt(self, closed: Closed) -> Receipt:
        """What the caller is told. Waits up to about `SETTLE_WAIT_S` for the books; then the balance is left out."""
        charge, balance = closed.charge, None
        try:
            ended = await self._patience.watch(closed.verdict)
        except Exception:  # the ledger failed, or did not answer in time: the charge is still with it
            ended = None
        if isinstance(ended, Ended):
            charge, balance = ended.charged, usd_bytes(ended.available)
        elif charge > closed.ticket.cap:
            charge = closed.ticket.cap
        usage, cost = closed.bill.usage, closed.cost
        charged = usd_bytes(charge)
        return Receipt(
            charged,
            charged if cost == charge else usd_bytes(cost),
            balance,
            usage if usage.estimated else None,
            closed.byok,
            usd_bytes(closed.read_cost),
            usd_bytes(cost - closed.read_cost),
            int(time.time()),
        )

    def credible(self, ticket: Ticket, reported: Usage) -> Usage | None:
        """The last gate for reported usage: None if it exceeds what was sent and asked for. If it says that an answer
        was given to nothing, the prompt is that counted here.
        """
        model, read, written = ticket.model, reported.prompt, reported.completion
        if read > model.context_window and read > len(ticket.request.body):
            rounds = MOST_ROUNDS if ticket.request.offers_providers_tools() else 1
            if read > model.context_window * rounds:
                return None
        if written > model.output_limit:
            demand = ticket.demand
            limit = max(model.output_limit, ticket.limit or 0, demand.output_limit or 0)
            if written > (limit * demand.choices + demand.predicted) * SLACK:
                return None
        if reported.searches > MOST_SEARCHES:
            return None
        if read or not written:
            return reported
        return msgspec.structs.replace(reported, input=ticket.demand.read, estimated=True)

    def may_leave_thoughts(self, ticket: Ticket, route: Route, silent_ms: int) -> bool:
        """Whether a caller who leaves is given what the model may have thought in the time before its first text.

        If True, it is counted as given.
        """
        tokens = min(max(0, silent_ms - USUAL_START_MS) * THOUGHT_PER_S // 1_000, ticket.model.output_limit)
        return not tokens or self._may_lose(ticket, pricing.further_output(route, ticket.demand.prompt, tokens))

    def _note_end(self, ticket: Ticket, verdict: asyncio.Future[Verdict]) -> None:
        if ticket.exposure:
            self._exposures.end(ticket.caller.account_id, ticket.exposure)
        ended = verdict.result() if not verdict.cancelled() and verdict.exception() is None else None
        if isinstance(ended, Ended) and ended.loss and not ended.repeated:
            self._overruns.add(ticket.caller.account_id, ticket.started_at // DAY_MS, ended.loss)

    def _may_lose(self, ticket: Ticket, charge: int) -> bool:
        """Whether this account may be given one more answer whose upstream died today."""
        day, most = ticket.started_at // DAY_MS, self._policy.free_loss_per_day
        return self._gifts.may_give(ticket.caller.account_id, day, charge, most)

    def _record(
        self,
        ticket: Ticket,
        route: Route,
        bill: pricing.Bill,
        ending: pricing.Ending,
        status: int,
        first_byte_ms: int | None,
        cost: int,
    ) -> Record:
        usage, request, finish = bill.usage, ticket.request, ending.finish
        if finish is not None and "\0" in finish:
            # PostgreSQL's text cannot hold it: the end would never be stored.
            finish = finish.replace("\0", "")
        took = int((time.monotonic() - ticket.started) * 1000)
        if ending.cause is pricing.FINISHED and not request.stream:
            first_byte_ms = took  # it came all at once
        # Half of them positional: with more than 15 keyword arguments CPython builds a dict first, for each request.
        return Record(
            ticket.started_at,
            took,
            route.version,
            bill.outcome,
            status,
            first_byte_ms,
            cost,
            request.stream,
            usage.estimated,
            usage.suspect,
            route.upstream.owner != 0,
            request.endpoint,
            finish,
            usage.raw or None,
            msgspec.json.encode(ticket.attempts) if ticket.attempts else None,
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
        )


class _Patience:
    """Ends waits that take too long, with one timer for all of them and none while nobody waits.

    `_waiting`: the waits grouped by the stretch of time in which they began, the oldest first. A wait ends after a
    fixed number of whole stretches: never early, and at most one stretch late.
    """

    def __init__(self, seconds: float) -> None:
        self._stretch_s = seconds / _STRETCHES
        self._waiting: deque[list[asyncio.Future[Verdict]]] = deque([[]])
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, verdict: asyncio.Future[Verdict]) -> asyncio.Future[Verdict]:
        """The verdict on an end, to be awaited. If it is late, its result becomes TimeoutError, for good.

        The ledger carries the end out whether or not anybody is left to be told.
        """
        self._waiting[-1].append(verdict)
        if self._timer is None:
            loop = verdict.get_loop()
            self._timer = loop.call_later(self._stretch_s, self._turn, loop)
        return verdict

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        waiting = self._waiting
        waiting.append([])
        if len(waiting) > _STRETCHES + 1:
            for late in filterfalse(asyncio.Future.done, waiting.popleft()):
                late.set_exception(TimeoutError())
        self._timer = loop.call_later(self._stretch_s, self._turn, loop) if any(waiting) else None
