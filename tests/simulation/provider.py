"""Providers whose answers a seed chooses, replacing `upstream.pool.Pool`: they do what pools report."""

import asyncio
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.simulation.loop import VirtualLoop

from tollbridge.errors import (
    ConnectError,
    ConnectionLost,
    PoolBusy,
    ProtocolError,
    RoomElsewhere,
    UpstreamError,
    UpstreamTimeout,
)

# How likely each is depends on how bad the weather is among providers.
ANSWERS = ("ok", "refused", "busy", "timeout", "lost", "nonsense", "500", "429", "401", "400")
CALM = (90, 1, 1, 1, 1, 1, 2, 2, 0, 1)
STORM = (40, 8, 4, 6, 8, 6, 12, 10, 2, 4)
MOST_WORDS = 300


class Providers:
    """All providers. `on_call` is told when a request reaches one, with its body."""

    def __init__(self, loop: VirtualLoop, chance: Random) -> None:
        self.loop = loop
        self.chance = chance
        self.weights: Sequence[int] = CALM
        self.calls = 0
        self.on_call: Callable[[dict[str, Any]], None] = lambda body: None

    def pool(self) -> "SimulatedPool":
        return SimulatedPool(self)


class SimulatedPool:
    def __init__(self, providers: Providers) -> None:
        self._providers = providers
        self.room = 1

    async def open(
        self,
        method: bytes,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        on_sent: Callable[[], None] | None = None,
        elsewhere: Callable[[], object] | None = None,
    ) -> "Answer":
        providers, chance = self._providers, self._providers.chance
        does = chance.choices(ANSWERS, providers.weights)[0]
        if does == "busy":
            raise RoomElsewhere("others are free") if elsewhere and elsewhere() else PoolBusy("the queue is full")
        await asyncio.sleep(0.002 + 0.01 * chance.random())
        if does == "refused":
            raise ConnectError("connection refused")
        if on_sent is not None:
            on_sent()
        request = json.loads(body)
        providers.calls += 1
        providers.on_call(request)
        await asyncio.sleep(chance.choice((0.05, 0.4, 2.0, 40.0 if chance.random() < 0.1 else 0.1)))
        if does == "timeout":
            raise UpstreamTimeout("first byte", 1.0)
        if does == "lost":
            raise ConnectionLost("the connection was closed")
        if does == "nonsense":
            raise ProtocolError("not HTTP")
        if does != "ok":
            said = json.dumps({"error": {"message": "no", "type": "x", "code": None}}).encode()
            return Answer(providers, int(does), [said])
        return _answer(providers, request)

    async def close(self) -> None:
        return


class Answer:
    """Like `upstream.pool.Response`. `error` comes after the pieces."""

    def __init__(
        self, providers: Providers, status: int, pieces: list[bytes], error: UpstreamError | None = None
    ) -> None:
        self.status = status
        self.headers = [(b"content-type", b"application/json")]
        self._providers = providers
        self._pieces = pieces
        self._error = error
        self._open = True

    def whole_body(self) -> None:
        """It must be awaited."""

    async def read_up_to(self, most: float) -> bytes:
        return await self.read()

    async def read(self) -> bytes:
        await asyncio.sleep(0.001 * len(self._pieces))
        if self._error is not None:
            raise self._error
        return b"".join(self._pieces)

    def pipe(self, on_data: Callable[[bytes], None], on_end: Callable[[UpstreamError | None], None]) -> None:
        self._on_data, self._on_end = on_data, on_end
        self._pause()

    def pause(self) -> None:
        return

    def resume(self) -> None:
        return

    def close(self) -> None:
        self._open = False

    def _pause(self) -> None:
        chance = self._providers.chance
        self._providers.loop.call_later(chance.choice((0.0, 0.02, 0.02, 0.5, 3.0)), self._next)

    def _next(self) -> None:
        if not self._open:
            return
        if self._pieces:
            self._on_data(self._pieces.pop(0))
            if self._open:
                self._pause()
        else:
            self._open = False
            self._on_end(self._error)


def _answer(providers: Providers, request: dict[str, Any]) -> Answer:
    chance = providers.chance
    most = request.get("max_tokens") or request.get("max_completion_tokens") or MOST_WORDS
    # Some keep writing past every limit.
    words = min(most, chance.choice((0, 1, 5, 40, MOST_WORDS))) + (chance.random() < 0.05) * 30
    output = max(0, words + chance.choice((0, 0, 0, 3, 200)))
    usage: dict[str, int] | None = {"prompt_tokens": chance.choice((8, 12, 90)), "completion_tokens": output}
    odd = chance.random()
    if odd < 0.08:
        usage = None
    elif odd < 0.11:
        usage = {"prompt_tokens": -5, "completion_tokens": 10**12}
    elif odd < 0.14:
        usage = {"prompt_tokens": 0, "completion_tokens": 0}
    if not request.get("stream"):
        whole = {
            **_HEAD,
            "object": "chat.completion",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "w " * words}, "finish_reason": "stop"}
            ],
        }
        if usage is not None:
            whole["usage"] = usage
        error = ConnectionLost("cut") if chance.random() < 0.03 else None
        return Answer(providers, 200, [json.dumps(whole).encode()], error)
    pieces, left = [], words
    while left > 0:
        said = min(left, chance.choice((1, 20, 60)))
        pieces.append(_event({**_CHUNK, "choices": [{"index": 0, "delta": {"content": "w " * said}}]}))
        left -= said
    if chance.random() < 0.1:
        return Answer(providers, 200, pieces[: chance.randint(0, len(pieces))], ConnectionLost("cut"))
    pieces.append(_event({**_CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    if usage is not None:
        pieces.append(_event({**_CHUNK, "choices": [], "usage": usage}))
    return Answer(providers, 200, [*pieces, b"data: [DONE]\n\n"])


_HEAD: dict[str, Any] = {"id": "up", "created": 1, "model": "am"}
_CHUNK: dict[str, Any] = {**_HEAD, "object": "chat.completion.chunk"}


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"
