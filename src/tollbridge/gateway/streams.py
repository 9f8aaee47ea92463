"""Running answers: from the provider's socket to the caller's, by callbacks alone.

A `StreamCall` is one streamed answer. The pool calls it for each read of the provider's socket, and what it writes goes
to the caller's transport in the same turn of the loop. The only decision it takes about money is when to ask for more.
`LiveStreams` has the one timer that looks after all of them.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from tollbridge.core import pricing
from tollbridge.core.pricing import Cause
from tollbridge.core.tokens import PER_DRAWN, SOUND_PER_TOKEN, TextClasses
from tollbridge.errors import ApiError, ClientGone, ConnectionLost, UpstreamError, UpstreamFailed
from tollbridge.gateway.holds import Holds
from tollbridge.gateway.relay import Relay
from tollbridge.gateway.settlement import Settlement
from tollbridge.gateway.ticket import Ticket
from tollbridge.upstream.pool import Response
from tollbridge.values import Route, Usage
from tollbridge.wire.exchange import Exchange, Outgoing, Stream

KEEP_ALIVE = b": keep-alive\n\n"
# A hold is extended when this share of it is used.
EXTEND_AT_PERCENT = 75
# An answer whose hold cannot be extended is ended when this share of it is used.
END_AT_PERCENT = 95
# A stream that outruns the tick is looked at this many times for each extension's worth of chunks.
LOOKS_PER_EXTENSION = 32
# A provider that goes on past its output limit regardless is cut off here.
CUT_AT_PERCENT = 120
CUT_SLACK_TOKENS = 64
# Bytes for the caller that wait for the first text. More than a start may have is something else, such as a picture.
MOST_OPENING = 16 * 1024
BEYOND_ITS_LIMIT = "the answer went beyond its limit of tokens"
_STOPPED_BY_US = frozenset({Cause.CUT, Cause.MONEY_RAN_OUT})

SSE_HEADERS = (
    b"content-type: text/event-stream; charset=utf-8",
    b"cache-control: no-cache, no-transform",
    b"x-accel-buffering: no",
)


class Timing(msgspec.Struct, frozen=True, kw_only=True):
    """Times in seconds. `max_drains`: how many answers are read to their end at one time after their callers left."""

    tick: float = 1.0
    keep_alive: float = 15.0
    checkpoint: float = 5.0
    drain: float = 60.0
    max_drains: int = 64
    silent_provider: float = 30.0  # after this, a caller who leaves before the first token owes nothing


class Downstream(Protocol):
    """The caller's side of an exchange (edge.downstream)."""

    @property
    def paused(self) -> bool: ...

    def start(self, status: int, headers: list[bytes], data: bytes = b"") -> None: ...

    def write(self, data: bytes) -> bool: ...

    def on_disconnect(self, callback: Callable[[], None]) -> None: ...

    def on_resume(self, callback: Callable[[], None]) -> None: ...


class StreamCall:
    """One streamed answer.

    `begun`: there has been output, so no other route may be tried. What comes before the first text (a role, the start
    of a message) waits for it, because providers send that at once and may fail afterwards. `started`: the head has
    been sent (it may go out before any output, to keep a silent line open). `asked`: a provider has the request and has
    not refused it. `ending` is set once an `attempt` has returned and the answer has ended.
    """

    def __init__(
        self,
        ticket: Ticket,
        downstream: Downstream,
        headers: Callable[[Route], list[bytes]],
        live: "LiveStreams",
    ) -> None:
        self.ticket = ticket
        self.route: Route | None = None
        self.stream: Stream | None = None
        self.begun = False
        self.started = False
        self.left = False
        self.asked = False
        self.first_byte_ms: int | None = None
        self.ending: asyncio.Future[pricing.Ending] = asyncio.get_running_loop().create_future()
        self._downstream = downstream
        self._headers = headers
        self._live = live
        self._loop = self.ending.get_loop()
        self._task = asyncio.current_task()
        self._response: Response | None = None
        self._opening = b""  # what waits for the first text
        self._ready: asyncio.Future[None] | None = None
        self._last_data = self._last_write = self._checkpointed = time.monotonic()
        # Something was passed on since the last tick, which looks at the clock: for each chunk that would cost more.
        self._moved = False
        self._drain_until: float | None = None
        self._extending = False
        self._cut_at = self._look_at = 0
        downstream.on_disconnect(self._client_left)
        downstream.on_resume(self._resume)
        live.add(self)

    async def attempt(self, route: Route, exchange: Exchange, outgoing: Outgoing) -> None:
        """Try one route: returns once output has begun or the answer has ended well; raises if it fails before that."""
        if self.left:
            raise ClientGone
        self.route = route
        self._opening = b""
        self.stream = exchange.stream(TextClasses())
        self._cut_at = _cut_at(self.ticket)
        self._look_at = min(self._cut_at, self._live.look_every)
        self._last_data = time.monotonic()
        self._ready = self._loop.create_future()
        try:
            response = self._response = await self._live.relay.open(self.ticket, route, outgoing, self._sent)
            response.pipe(self._on_data, self._on_end)
            if not self._ready.done() and self._downstream.paused:
                response.pause()
            await self._ready
        except UpstreamError:
            self.asked = False
            raise

    @property
    def is_draining(self) -> bool:
        return self._drain_until is not None

    def start(self, data: bytes = b"") -> None:
        """Send `data`, and in the same write the head if it has not been sent."""
        if self.started:
            self._downstream.write(data)
            return
        self.started = True
        assert self.route is not None
        self._downstream.start(200, self._headers(self.route), data)

    def give_up(self) -> None:
        """No route answered."""
        self._live.discard(self)

    def abandon(self) -> pricing.Ending:
        """Stop now, because the caller left or we must: the ending with what has come so far."""
        self._hang_up()
        self._live.discard(self)
        return self._end_as(Cause.CLIENT_LEFT if self.left else Cause.OUR_FAULT)

    def counted(self, *, suspect: bool = False) -> Usage:
        """The usage so far, counted here, except for the input that the provider reported at its start, if credible."""
        stream = self.stream
        output, drawn, spoken = _produced(stream)
        raw = stream.reported if stream is not None and suspect else b""
        told = stream.told_first if stream is not None else None
        read = None if told is None else self._live.settlement.credible(self.ticket, told)
        if read is None:
            read = Usage(input=self.ticket.demand.read)
        return msgspec.structs.replace(
            read, output=output, image_output=drawn, audio_output=spoken, estimated=True, suspect=suspect, raw=raw
        )

    # --- the provider's side ---

    def _sent(self) -> None:
        self.asked = True

    def _on_data(self, data: bytes) -> None:
        stream = self.stream
        assert stream is not None
        out = stream.feed(data)
        if out and self.begun and not self.left:
            self._moved = True
            if self._downstream.write(out):
                self._pause()
        else:
            self._last_data = time.monotonic()
            self._pass_on(out)
        if stream.failed is not None:
            self._stop(stream.failed)
        elif stream.chunks >= self._look_at:
            self._look(stream.chunks)

    def _look(self, chunks: int) -> None:
        """Decide after so many `chunks` whether the stream goes on."""
        if chunks >= self._cut_at:
            self._finish(Cause.CUT)
        else:
            self._look_at = min(self._cut_at, chunks + self._live.look_every)
            self._see_to_hold()

    def _pass_on(self, out: bytes) -> None:
        """Pass on `out`, which may be empty, the first output, or for a caller who has left."""
        if out and not self.begun:
            out = self._opening + out
            assert self.stream is not None
            if not self.stream.chunks and len(out) <= MOST_OPENING:
                self._opening = out
                return
            self._opening = b""
        if out and not self.left:
            self._last_write = self._last_data
            if self.begun:
                self._downstream.write(out)
            else:
                self._begin(out)
            if self._downstream.paused:
                self._pause()
        elif out:
            self.begun = True
            self._set_ready()

    def _on_end(self, error: UpstreamError | None) -> None:
        self._response = None
        stream = self.stream
        assert stream is not None
        if error is None:
            self._pass_on(stream.eof())
        if stream.failed is not None:
            self._stop(stream.failed)
        elif stream.complete:
            self._finish(Cause.FINISHED)
        else:
            self._stop(error or ConnectionLost("the stream ended in the middle"))

    def _begin(self, out: bytes) -> None:
        self.begun = True
        self.first_byte_ms = int((time.monotonic() - self.ticket.started) * 1000)
        self.start(out)
        self._set_ready()

    def _set_ready(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _stop(self, error: UpstreamError) -> None:
        """The provider failed: another route may be tried unless output has begun."""
        self._hang_up()
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(error)
        else:
            self._finish(Cause.UPSTREAM_FAILED)

    def _hang_up(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _finish(self, cause: Cause) -> None:
        self._hang_up()
        if self.ending.done():
            return
        self._live.discard(self)
        if self._opening and not self.left:
            opening, self._opening = self._opening, b""
            self._begin(opening)  # it ends without any text
        ending = self._end_as(Cause.CLIENT_LEFT if self.left else cause)
        if ending.cause is Cause.CUT:
            assert self.stream is not None
            # Only now: the ending had to be read from the stream first.
            self.start(self.stream.stop(BEYOND_ITS_LIMIT))
        self.ending.set_result(ending)
        self._set_ready()

    def _end_as(self, cause: Cause) -> pricing.Ending:
        stream = self.stream
        reported, suspect = (stream.usage, stream.suspect) if stream is not None else (None, False)
        if reported is not None:
            reported = self._live.settlement.credible(self.ticket, reported)
            suspect = suspect or reported is None
        output, drawn, spoken = _produced(stream)
        if reported is not None and stream is not None and not stream.complete and reported.output * 2 < output:
            reported = None  # a report from the start of the stream, or the zeros that some send until the last one
        finish = stream.finish if stream is not None else None
        if (output or drawn or spoken) and cause in _STOPPED_BY_US:
            finish = "length"  # what the caller is told
        return pricing.Ending(
            cause=cause,
            reported=reported,
            counted=self.counted(suspect=suspect),
            produced=output + drawn + spoken > 0,
            delivered=self.begun,
            silent_ms=int((time.monotonic() - self._last_data) * 1000),
            finish=finish,
        )

    # --- the caller's side ---

    def _client_left(self) -> None:
        if self.left or self.ending.done():
            return
        self.left = True
        route = self.route
        stops = route is None or (route.upstream.cancel_stops_billing and self._may_be_cut(route))
        if stops or not self.asked or not self._live.may_drain():
            self._let_go()
        else:
            self._drain_until = time.monotonic() + self._live.timing.drain
            self._live.drains += 1
            self._resume()

    def _may_be_cut(self, route: Route) -> bool:
        """Whether nothing is lost by it, or so little that it is given: what a model thought unseen is known only from
        the usage at the end.
        """
        if self.first_byte_ms is None or self.stream is None or self.stream.usage is not None:
            return True
        return self._live.settlement.may_leave_thoughts(self.ticket, route, self.first_byte_ms)

    def _let_go(self) -> None:
        """Nobody waits for this any more: end it, or if no provider has answered yet, cancel the request's task."""
        if self._response is not None:
            self._finish(Cause.CLIENT_LEFT)
        elif self._task is not None:
            self._task.cancel()

    def _pause(self) -> None:
        if self._response is not None:
            self._response.pause()

    def _resume(self) -> None:
        if self._response is not None and not self._extending:
            self._response.resume()

    # --- looked at every second ---

    def tick(self, now: float) -> None:
        if self._moved:
            self._moved = False
            self._last_data = self._last_write = now
        if self._drain_until is not None:
            if now >= self._drain_until:
                self._let_go()
            return
        timing = self._live.timing
        is_silent = now - self._last_write >= timing.keep_alive and not self._downstream.paused
        if is_silent and self.route is not None and not self.left:
            self.start(KEEP_ALIVE)
            self._last_write = now
        if self.begun and now - self._checkpointed >= timing.checkpoint:
            self._checkpointed = now
            assert self.route is not None
            self._live.settlement.checkpoint(self.ticket, self.route, self.counted())
        if self.begun and self.stream is not None and self.stream.done:
            self._finish(Cause.FINISHED)
        else:
            self._see_to_hold()

    def _see_to_hold(self) -> None:
        """Extend the hold if most of it is used. Nothing more is read until that is done."""
        if self.begun and not self._extending and self._has_used(EXTEND_AT_PERCENT):
            self._extending = True
            self._pause()
            self._live.keep(self._loop.create_task(self._extend()))

    def _has_used(self, percent: int) -> bool:
        """Whether that share of the hold, money or tokens, is used."""
        assert self.route is not None
        counted = self.counted()
        if self.ticket.tokens:
            return counted.tokens * 100 >= self.ticket.tokens * percent
        return pricing.charge(counted, self.route) * 100 >= self.ticket.held * percent

    async def _extend(self) -> None:
        assert self.route is not None
        ticket, extended, before = self.ticket, True, -1
        try:
            # In a loop, because one read may use up more than one extension.
            while before != ticket.held + ticket.tokens and self._has_used(EXTEND_AT_PERCENT):
                before = ticket.held + ticket.tokens
                extended = await self._live.holds.grow(ticket, self.route, self._live.extend_by)
        except ApiError:
            # The ledger cannot be asked now: the running answer goes on, and the next look asks again.
            extended = True
        self._extending = False
        if not extended and self._has_used(END_AT_PERCENT):
            self._finish(Cause.MONEY_RAN_OUT)
        elif not self._downstream.paused:
            self._resume()


class LiveStreams:
    """All running streams, and the timer that looks after them.

    `extend_by`: tokens of one extension of a hold. `look_every`: chunks after which a stream is looked at without
    waiting for the timer.
    """

    def __init__(self, relay: Relay, holds: Holds, settlement: Settlement, extend_by: int, timing: Timing) -> None:
        self.relay = relay
        self.holds = holds
        self.settlement = settlement
        self.extend_by = extend_by
        self.look_every = max(1, extend_by // LOOKS_PER_EXTENSION)
        self.timing = timing
        self.drains = 0  # answers whose callers left, read on because the provider bills anyway
        self._calls: set[StreamCall] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: StreamCall) -> None:
        self._calls.add(call)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.timing.tick, self._tick)

    def discard(self, call: StreamCall) -> None:
        if call in self._calls:
            self._calls.remove(call)
            self.drains -= call.is_draining

    def may_drain(self) -> bool:
        return self.drains < self.timing.max_drains

    def keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tick(self) -> None:
        now = time.monotonic()
        for call in list(self._calls):
            call.tick(now)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.timing.tick, self._tick) if self._calls else None


def _cut_at(ticket: Ticket) -> int:
    limit = ticket.limit if ticket.limit is not None else ticket.demand.output_limit
    most = limit if limit is not None else ticket.model.output_limit
    return (most * CUT_AT_PERCENT // 100 + CUT_SLACK_TOKENS) * ticket.demand.choices


def _produced(stream: Stream | None) -> tuple[int, int, int]:
    """Tokens of text, of drawn pictures, and of sound."""
    if stream is None:
        return 0, 0, 0
    output = stream.output
    return output.tokens, output.pictures * PER_DRAWN, -(-output.sound // SOUND_PER_TOKEN)


def failed_midway(route: Route) -> ApiError:
    return UpstreamFailed(f"The provider of {route.model} broke off in the middle of its answer.")
