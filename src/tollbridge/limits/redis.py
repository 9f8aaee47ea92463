"""Limits of many processes, in one Redis or Valkey: `take.lua` is the limit, this is the way to it.

Rule 1  One call of the script at a time, and it carries everything that queued while the last one ran: a take is
        atomic, and the price of a round trip is shared.
Rule 2  Nobody waits long for a limit. When the server does not answer within 50 ms, or fails, requests are limited
        here by each limit divided by the number of nodes that were last seen: neither open nor closed. Every failure
        counts, whatever it is. From then on no request waits at all, until the server has answered a probe.
Rule 3  A place among running calls is kept alive by its process (`KEEP_EVERY_S`) and expires without it, so that a
        process that dies gives its places back.

Time is the server's (`TIME`), so that no node's clock matters. Keys are not declared to the script: a Redis Cluster
would refuse them. One server is enough for more requests than one gateway can be asked.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import msgspec

from tollbridge.limits.base import Exceeded, Free, Grant, Room, Rule, Scope
from tollbridge.limits.memory import MemoryLimiter

_log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 0.05
# Between probes of a server that failed, and how long one may take.
PROBE_EVERY_S = 1.0
PROBE_WITHIN_S = 1.0
KEEP_EVERY_S = 30.0
MOST_AT_ONCE = 128

_TYPES: dict[int, Any] = {1: "requests", 2: "tokens", 3: "tokens", 4: "concurrency"}
_TAKEN, _HOPELESS = 0, 3

_Answer = list[int]


class RedisLimiter:
    """A `Limiter` for all processes that share a server. `start` and `stop` it on the loop.

    `url`: redis://… or rediss://…; `node`: this process, unlike any other; `prefix` of all keys.
    """

    def __init__(self, url: str, node: str, prefix: str = "tollbridge:", local: MemoryLimiter | None = None) -> None:
        self._url = url
        self._node = node
        self._prefix = prefix
        self._local = local or MemoryLimiter()
        self._nodes = 1
        self._open = True  # nobody has answered yet
        self._queue: list[tuple[dict[str, Any], asyncio.Future[_Answer] | None]] = []
        self._running: dict[str, Sequence[Scope]] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._client: Any = None
        self._script: Any = None

    @property
    def degraded(self) -> bool:
        """Whether limits are this process's share for now."""
        return self._open

    async def start(self) -> None:
        """Connect. A server that is away does not keep the gateway from starting."""
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
        left = [operation for operation, waiter in self._queue if waiter is None]
        self._queue.clear()
        if left and not self._open:
            with contextlib.suppress(Exception):
                await self._call(left, PROBE_WITHIN_S)
        if self._client is not None:
            with contextlib.suppress(Exception):
                await self._client.aclose()

    async def take(self, request: int, scopes: Sequence[Scope], least: int, tokens: int) -> Grant | Exceeded:
        operation = _asked("take", str(request), scopes, least, tokens)
        answer = await self._ask(operation)
        if answer is None:
            taken = await self._local.take(request, self._share(scopes), least, tokens)
            if isinstance(taken, Grant):
                taken.degraded = True
            return taken
        if answer[0] != _TAKEN:
            return _exceeded(answer)
        if any(scope.rule.concurrency is not None for scope in scopes):
            self._running[operation["id"]] = scopes
        return Grant(request, scopes, tokens, *_rooms(answer), [])

    async def look(self, scopes: Sequence[Scope], least: int, tokens: int) -> Free | Exceeded:
        answer = await self._ask(_asked("look", "", scopes, least, tokens))
        if answer is None:
            return await self._local.look(self._share(scopes), least, tokens)
        return Free(*_rooms(answer)) if answer[0] == _TAKEN else _exceeded(answer)

    def give_back(self, grant: Grant, used: int) -> None:
        if grant.degraded:
            self._local.give_back(grant, used)
            return
        request = str(grant.request)
        self._running.pop(request, None)
        if self._open:
            return  # the tokens stay taken for their minute; the place expires
        back = {"op": "back", "id": request, "used": used, "taken": grant.tokens, "scopes": _written(grant.scopes)}
        self._enqueue(back, None)

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
        """Nobody waited for this any more."""
        if operation["op"] == "take" and answer[0] == _TAKEN:
            self._enqueue({**operation, "op": "back", "used": 0, "taken": operation["tokens"]}, None)

    def _enqueue(self, operation: dict[str, Any], waiter: "asyncio.Future[_Answer] | None") -> None:
        self._queue.append((operation, waiter))
        self._wake.set()

    async def _call_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                batch, self._queue = self._queue[:MOST_AT_ONCE], self._queue[MOST_AT_ONCE:]
                # Who was cancelled while waiting has taken nothing, and must not.
                batch = [item for item in batch if item[1] is None or not item[1].done()]
                await self._serve(batch)

    async def _serve(self, batch: "list[tuple[dict[str, Any], asyncio.Future[_Answer] | None]]") -> None:
        try:
            answers = iter(await self._call([operation for operation, _ in batch], ANSWER_WITHIN_S))
        except Exception as error:
            self._fail(error)
            answers = iter(())
        for operation, waiter in batch:
            if waiter is None:
                continue
            answer = next(answers, None)
            if not waiter.done():
                if answer is None:
                    waiter.set_exception(_Away())
                else:
                    waiter.set_result(answer)
            elif answer is not None:
                self._undo(operation, answer)
        if self._open:
            for _, waiter in self._queue:
                if waiter is not None and not waiter.done():
                    waiter.set_exception(_Away())
            self._queue.clear()

    async def _call(self, operations: Sequence[dict[str, Any]], within: float) -> list[_Answer]:
        async with asyncio.timeout(within):
            said = await self._script(args=[msgspec.json.encode(operations), self._prefix, self._node])
        self._nodes = max(1, said[0])
        answers: list[_Answer] = said[1:]
        return answers

    def _fail(self, error: Exception) -> None:
        if not self._open:
            _log.warning(
                "the limits' server does not answer (%s): each of %d nodes limits its share until it does",
                type(error).__name__,
                self._nodes,
            )
        self._open = True

    # --- looking after it ---

    async def _look_after(self) -> None:
        loop = asyncio.get_running_loop()
        keep_at = loop.time() + KEEP_EVERY_S
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            if self._open:
                await self._probe()
            elif loop.time() >= keep_at:
                keep_at = loop.time() + KEEP_EVERY_S
                ids = [
                    (scope.name, request)
                    for request, scopes in self._running.items()
                    for scope in scopes
                    if scope.rule.concurrency is not None
                ]
                # Also says that this node is there, when it has nothing to keep.
                self._enqueue({"op": "keep", "ids": ids}, None)

    async def _probe(self) -> None:
        try:
            await self._call([], PROBE_WITHIN_S)
        except Exception as error:
            self._fail(error)
            with contextlib.suppress(Exception):
                await self._client.connection_pool.disconnect()
            return
        if self._tasks:
            _log.warning("the limits' server answers again")
        self._open = False

    def _share(self, scopes: Sequence[Scope]) -> list[Scope]:
        return [Scope(scope.name, _divided(scope.rule, self._nodes)) for scope in scopes]


class _Away(Exception):
    """The server did not answer in time."""


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
