"""Large bodies are worked on one after the other: each takes the event loop for as long as hundreds of usual calls do,
and all those that came together would hold up everybody else.
"""

import asyncio
from collections import deque

# Bytes. Fewer take about a millisecond.
LARGE = 256 * 1024
# Of the loop, between two large bodies. A usual call takes about as many.
TURNS = 4


class LargeBodies:
    """Whose turn it is. For one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._resting = False

    async def begin(self) -> None:
        """Wait until a large body may be worked on: until the caller awaits something, it is the only one."""
        loop = asyncio.get_running_loop()
        if self._resting:
            waiter = loop.create_future()
            self._waiting.append(waiter)
            await waiter
        else:
            self._resting = True
            loop.call_soon(self._rest, loop, TURNS)

    def _rest(self, loop: asyncio.AbstractEventLoop, turns: int) -> None:
        waiter = self._next() if turns == 0 else None
        if waiter is not None:
            waiter.set_result(None)
            turns = TURNS + 1  # it begins in the next one
        if turns:
            loop.call_soon(self._rest, loop, turns - 1)
        else:
            self._resting = False

    def _next(self) -> asyncio.Future[None] | None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                return waiter
        return None
