"""Limits shared by many processes, in one Redis or Valkey: `take.lua` is the limit, this module is the way to it.

Rule 1  One call of the script at a time, carrying everything that queued while the last one ran: a take is atomic, and
        the price of a round trip is shared.
Rule 2  Nobody waits long for a limit. If the server fails, whatever the failure, or does not answer within 50 ms, this
        process enforces each limit divided by the number of nodes last seen: it fails neither open nor closed. From
        then on no request waits at all, until the server has answered a probe in time.
Rule 3  Each side hears what the other admits: takes at the server are recorded here, so that when the server goes away
        this node has only the rest of its share; what was admitted here is noted there when it is back.
Rule 4  A place among running calls is kept alive by its process (`KEEP_EVERY_S`) and expires without it, so a process
        that dies gives its places back. Places of calls that end while the server is away are freed later.

Time is the server's (`TIME`), so no node's clock matters. Keys are not declared to the script: a Redis Cluster would
refuse them. One server is enough for more requests than one gateway can be asked.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

import msgspec

from tollbridge.limits.base import Exceeded, Free, Grant, Room, Rule, Scope, unlimited
from tollbridge.limits.memory import MemoryLimiter

_log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 0.05
# The last part of that, in which an answer that came while this process was busy is still read.
LAST_LOOK_S = 0.005
# The least time a call is given, even if those who ask have already waited.
LEAST_WITHIN_S = 0.01
# Between probes of a server that failed, and how long one may take.
PROBE_EVERY_S = 1.0
PROBE_WITHIN_S = 1.0
KEEP_EVERY_S = 30.0
# By then all nodes have probed a server that is back: each then asks how many there are.
MEET_AFTER_S = 2 * PROBE_EVERY_S
MOST_AT_ONCE = 128
IDS_AT_ONCE = 500
MOST_FREED = 100_000
# How often a server is asked to find out how fast it is.
_LOOKS = 3
# Of all keys at the server.
_PREFIX = "tollbridge:"
_TYPES: dict[int, Any] = {1: "requests", 2: "tokens", 3: "tokens", 4: "concurrency"}
_TAKEN, _HOPELESS = 0, 3

_Answer = list[int]
_Place = tuple[str, str]  # scope, request


class _Asked(msgspec.Struct, frozen=True):
    """`waiter`: for a take or a look, else None. `at`: monotonic seconds."""

    operation: dict[str, Any]
    waiter: "asyncio.Future[_Answer] | None"
    at: float


class RedisLimiter:
    """A `Limiter` for all processes that share a server. `start` and `stop` it on the loop.

    `url`: redis://… or rediss://…; `node`: a name unique to this process.
    """

    def __init__(self, url: str, node: str) -> None:
        self._url = url
        self._node = node
        self._local = MemoryLimiter()
        self._nodes = 1
        self._open = True  # nobody has answered yet
        self._queue: list[_Asked] = []
        # Calls that have places, wherever they were admitted.
        self._running: dict[int, Sequence[Scope]] = {}
        # What to tell the server when it is back: places that were given back, and what was admitted here.
        self._freed: dict[_Place, None] = {}
        self._away = MemoryLimiter()
        self._notes = itertools.count()
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._client: Any = None
        self._script: Any = None

    @property
    def degraded(self) -> bool:
        return self._open

    async def start(self) -> None:
        """Connect. The gateway starts even if the server is away."""
        from redis.asyncio import Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff

        self._client = Redis.from_url(
            self._url,
            retry=Retry(NoBackoff(), 0),
            socket_connect_timeout=PROBE_WITHIN_S,
            health_check_interval=0,
        )
        self._script = self._client.register_script((files("tollbridge.limits") / "take.lua").read_text())
        await self._probe()
        self._tasks = [asyncio.create_task(work()) for work in (self._call_for_ever, self._look_after)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        left = [asked.operation for asked in self._queue if asked.waiter is None]
        self._queue.clear()
        if left and not self._open:
            with contextlib.suppress(Exception):
                await self._call(left, PROBE_WITHIN_S)
        if self._client is not None:
            with contextlib.suppress(Exception):
                await self._client.aclose()

    async def take(self, request: int, scopes: Sequence[Scope], least: int, tokens: int) -> Grant | Exceeded:
        if not scopes:
            return unlimited(request)
        answer = await self._ask(_asked("take", str(request), scopes, least, tokens))
        if answer is None:
            return await self._take_here(request, scopes, least, tokens)
        if answer[0] != _TAKEN:
            return _exceeded(answer)
        self._runs(request, scopes)
        notes = self._local.record(request, self._share(scopes), tokens)
        return Grant(request, scopes, tokens, *_rooms(answer), notes)

    async def look(self, scopes: Sequence[Scope], least: int, tokens: int) -> Free | Exceeded:
        answer = await self._ask(_asked("look", "", scopes, least, tokens))
        if answer is None:
            found = await self._local.look(self._share(scopes), _hopeless(scopes, least), tokens)
            return found if isinstance(found, Free) else msgspec.structs.replace(found, degraded=True)
        return Free(*_rooms(answer)) if answer[0] == _TAKEN else _exceeded(answer)

    def give_back(self, grant: Grant, used: int) -> None:
        if not grant.scopes:
            return
        taken = grant.tokens
        self._local.give_back(grant, used)
        places = _places(grant.request, self._running.pop(grant.request, ()))
        if self._open:
            self._free_later(places)  # the tokens stay taken for their minute
        elif not grant.degraded:
            back = {"op": "back", "id": str(grant.request), "used": used, "taken": taken}
            self._enqueue({**back, "scopes": _written(grant.scopes)}, None)
        elif places:
            self._enqueue({"op": "free", "ids": places}, None)

    async def _take_here(self, request: int, scopes: Sequence[Scope], least: int, tokens: int) -> Grant | Exceeded:
        taken = await self._local.take(request, self._share(scopes), _hopeless(scopes, least), tokens)
        if isinstance(taken, Exceeded):
            return msgspec.structs.replace(taken, degraded=True)
        self._away.record(request, scopes, tokens)
        self._runs(request, scopes)
        taken.scopes, taken.degraded = scopes, True
        return taken

    def _runs(self, request: int, scopes: Sequence[Scope]) -> None:
        if any(scope.rule.concurrency is not None for scope in scopes):
            self._running[request] = scopes

    def _free_later(self, places: Sequence[_Place]) -> None:
        if len(self._freed) < MOST_FREED:
            self._freed.update(dict.fromkeys(places))

    # --- asking ---

    async def _ask(self, operation: dict[str, Any]) -> _Answer | None:
        """The server's answer; None when it has none to give."""
        if self._open:
            return None
        waiter: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._enqueue(operation, waiter)
        try:
            return await waiter
        except _Away:
            return None
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._undo(operation, waiter.result())
            raise

    def _undo(self, operation: dict[str, Any], answer: _Answer) -> None:
        """Give back a take whose request no longer waits for it."""
        if operation["op"] == "take" and answer[0] == _TAKEN:
            self._enqueue({**operation, "op": "back", "used": 0, "taken": operation["tokens"]}, None)

    def _enqueue(self, operation: dict[str, Any], waiter: "asyncio.Future[_Answer] | None") -> None:
        self._queue.append(_Asked(operation, waiter, time.monotonic()))
        self._wake.set()

    async def _call_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch, self._queue = self._queue[:MOST_AT_ONCE], self._queue[MOST_AT_ONCE:]
                # A request that was cancelled while waiting has taken nothing, and must not.
                batch = [asked for asked in batch if asked.waiter is None or not asked.waiter.done()]
                if batch:
                    await self._serve(batch)

    async def _serve(self, batch: Sequence[_Asked]) -> None:
        waited = time.monotonic() - batch[0].at
        try:
            within = max(LEAST_WITHIN_S, ANSWER_WITHIN_S - waited)
            answers = iter(await self._call([asked.operation for asked in batch], within))
        except Exception as error:
            self._fail(error)
            answers = iter(())
            # It may or may not have been done. Only what is harmless twice, freeing places, is done again.
            for asked in batch:
                self._free_later(_places_of(asked.operation))
        for asked in batch:
            if asked.waiter is None:
                continue
            answer = next(answers, None)
            if not asked.waiter.done():
                _tell(asked.waiter, answer)
            elif answer is not None:
                self._undo(asked.operation, answer)
        if self._open:
            for asked in self._queue:
                if asked.waiter is None:
                    self._free_later(_places_of(asked.operation))
                elif not asked.waiter.done():
                    _tell(asked.waiter, None)
            self._queue.clear()

    async def _call(self, operations: Sequence[dict[str, Any]], within: float) -> list[_Answer]:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(None) as deadline:
            # In two steps: if this process itself was busy that long, the answer may be there, unread.
            end = loop.call_later(within - LAST_LOOK_S, lambda: deadline.reschedule(loop.time() + LAST_LOOK_S))
            try:
                said = await self._script(args=[msgspec.json.encode(operations), _PREFIX, self._node])
            finally:
                end.cancel()
        self._nodes = max(1, said[0])
        answers: list[_Answer] = said[1:]
        return answers

    def _fail(self, error: Exception) -> None:
        if not self._open:
            _log.warning(
                "redis_url: the server does not answer (%s); until it does, each of %d processes applies its share",
                type(error).__name__,
                self._nodes,
            )
        self._open = True

    # --- looking after it ---

    async def _look_after(self) -> None:
        loop = asyncio.get_running_loop()
        keep_at = loop.time() + MEET_AFTER_S
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            if self._open:
                await self._probe()
                # The first node to reach a server that has forgotten everything has met no other yet.
                keep_at = loop.time() + MEET_AFTER_S
            elif loop.time() >= keep_at:
                keep_at = loop.time() + KEEP_EVERY_S
                # Even with nothing to keep, this says that the node is there.
                self._enqueue({"op": "keep", "ids": []}, None)
                for operation in self._keeps():
                    self._enqueue(operation, None)
                    await asyncio.sleep(LEAST_WITHIN_S)

    async def _probe(self) -> None:
        try:
            await self._call([], PROBE_WITHIN_S)  # connects
            await self._call([], ANSWER_WITHIN_S)  # a server that is slow is as good as none
            for operation in self._owed():
                await self._call([operation], PROBE_WITHIN_S)
        except Exception as error:
            self._fail(error)
            with contextlib.suppress(Exception):
                await self._client.connection_pool.disconnect()
            return
        if self._tasks:
            _log.warning("redis_url: the server answers again")
        self._open = False
        for operation in self._frees():  # of calls that ended meanwhile
            self._enqueue(operation, None)

    def _owed(self) -> Iterator[dict[str, Any]]:
        """What the server does not know yet. Each operation is called only after the one before it has succeeded."""
        yield from self._frees()
        admitted, self._away = self._away.taken(), MemoryLimiter()
        scopes = [
            {**written, "taken": (requests, tokens)}
            for scope, requests, tokens in admitted
            for written in _written([scope])
        ]
        for start in range(0, len(scopes), IDS_AT_ONCE):
            id_ = f"{self._node}/{next(self._notes)}"
            yield {"op": "note", "id": id_, "scopes": scopes[start : start + IDS_AT_ONCE]}
        yield from self._keeps()

    def _frees(self) -> Iterator[dict[str, Any]]:
        while self._freed:
            places = list(itertools.islice(self._freed, IDS_AT_ONCE))
            yield {"op": "free", "ids": places}
            for place in places:
                self._freed.pop(place, None)

    def _keeps(self) -> Iterator[dict[str, Any]]:
        running = list(self._running)
        for start in range(0, len(running), IDS_AT_ONCE):
            some = running[start : start + IDS_AT_ONCE]
            ids = [place for request in some for place in _places(request, self._running.get(request, ()))]
            yield {"op": "keep", "ids": ids}

    def _share(self, scopes: Sequence[Scope]) -> list[Scope]:
        return [Scope(scope.name, _divided(scope.rule, self._nodes)) for scope in scopes]


async def trouble(url: str, within: float) -> str:
    """Why gateways cannot use the server at `url`; "" if they can. `within`: seconds to wait for it.

    What it writes to find out is gone a second later.
    """
    from redis.asyncio import Redis
    from redis.exceptions import RedisError, ResponseError

    client = Redis.from_url(url, socket_connect_timeout=within, socket_timeout=within)
    script = client.register_script("return redis.call('SET', ARGV[1] .. 'doctor', '1', 'PX', 1000)")
    fastest = within
    try:
        await script(args=[_PREFIX])  # connects
        for _ in range(_LOOKS):
            began = time.monotonic()
            await script(args=[_PREFIX])
            fastest = min(fastest, time.monotonic() - began)
    except ResponseError as error:  # it is read-only, full, or forbids us to write
        return f"{type(error).__name__}: {str(error).partition(' script: ')[0]}"
    # TypeError: the URL has an unknown option.
    except (RedisError, OSError, TypeError) as error:
        return type(error).__name__
    finally:
        await client.aclose()
    if fastest > ANSWER_WITHIN_S:
        return f"it takes {fastest * 1000:.0f} ms to answer, and is waited for {ANSWER_WITHIN_S * 1000:.0f} ms"
    return ""


class _Away(Exception):
    """The server did not answer in time."""


def _tell(waiter: "asyncio.Future[_Answer]", answer: _Answer | None) -> None:
    if answer is None:
        waiter.set_exception(_Away())
    else:
        waiter.set_result(answer)


def _places(request: int, scopes: Sequence[Scope]) -> list[_Place]:
    return [(scope.name, str(request)) for scope in scopes if scope.rule.concurrency is not None]


def _places_of(operation: dict[str, Any]) -> list[_Place]:
    """The places that `operation` would leave without an owner if it failed."""
    if operation["op"] == "free":
        return list(operation["ids"])
    if operation["op"] not in ("take", "back"):
        return []
    return [(scope["name"], operation["id"]) for scope in operation["scopes"] if scope["places"] is not None]


def _hopeless(scopes: Sequence[Scope], least: int) -> int:
    """`least` if it exceeds a whole limit, else 0: what only exceeds a share fits later."""
    return least if any(scope.rule.tokens and least > scope.rule.tokens for scope in scopes) else 0


def _divided(rule: Rule, nodes: int) -> Rule:
    def share(limit: int | None) -> int | None:
        return limit if limit is None else max(1, limit // nodes)

    return Rule(
        requests=share(rule.requests),
        tokens=share(rule.tokens),
        concurrency=share(rule.concurrency),
        strict=rule.strict,
    )


def _written(scopes: Sequence[Scope]) -> list[dict[str, Any]]:
    return [
        {
            "name": scope.name,
            "requests": scope.rule.requests or None,
            "tokens": scope.rule.tokens or None,
            "places": scope.rule.concurrency,
            "strict": scope.rule.strict,
        }
        for scope in scopes
    ]


def _asked(op: str, request: str, scopes: Sequence[Scope], least: int, tokens: int) -> dict[str, Any]:
    return {"op": op, "id": request, "least": least, "tokens": tokens, "scopes": _written(scopes)}


def _rooms(answer: _Answer) -> tuple[Room | None, Room | None]:
    return _room(answer[1:4]), _room(answer[4:7])


def _room(three: _Answer) -> Room | None:
    limit, remaining, reset = three
    return None if limit < 0 else Room(limit, remaining, reset / 1e6)


def _exceeded(answer: _Answer) -> Exceeded:
    return Exceeded(_TYPES[answer[0]], answer[7], answer[8] / 1e6, answer[0] == _HOPELESS, *_rooms(answer))
