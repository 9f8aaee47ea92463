"""Large bodies take turns: in work, and in memory.

Rule 1  They are worked on one after the other: each takes the event loop for as long as hundreds of usual calls do, and
        all those that came together would hold up everybody else.
Rule 2  A large answer that is read whole has a share of one budget, from its first piece until the caller has taken it.
        When the budget is used up, providers wait to send more. What is not large has no share, and waits for nothing.
        Nobody may keep a share by taking an answer a byte at a time: there is a time for it.
Rule 3  When all of the budget belongs to answers of which more is to come, one of them, the first that waits, is read
        to its end beyond it. So there is always one that goes on, and no more is used than the budget and one answer.
"""

import asyncio
from collections import deque

# Bytes. Fewer take about a millisecond.
LARGE = 256 * 1024
# Of the loop, between two large bodies. A usual call takes about as many.
TURNS = 4
# Bytes of large answers that are read, worked on or taken by their callers, at one time.
MOST = 256 * 1024 * 1024
# Seconds that a caller has to take a large answer, and bytes for each of which there is another second.
TAKE_S = 60.0
TAKE_RATE = 128 * 1024
# Bytes of an answer that are asked for at a time.
PIECE = 1024 * 1024


class LargeBodies:
    """Whose turn it is. For one event loop."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._resting = False
        # Bytes: of all shares, and of those of which more is to come.
        self.held = 0
        self._unread = 0
        self._readers: deque[tuple[Share, asyncio.Future[None]]] = deque()
        self._beyond: Share | None = None

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

    # --- shares, told by `Share` ---

    def may_have(self, share: "Share", size: int) -> bool:
        """Give `share` so many bytes more, unless others wait or there is no room."""
        return not self._readers and self._give(share, size)

    async def wait_for(self, share: "Share") -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._readers.append((share, waiter))
        self._serve()
        await waiter

    def count(self, share: "Share", *, held: int, unread: int) -> None:
        """These bytes more, or fewer, are held, and are held by answers of which more is to come."""
        self.held += held
        self._unread += unread
        if self._beyond is share and not share.unread:
            self._beyond = None
        if self._readers:
            self._serve()

    def _give(self, share: "Share", size: int) -> bool:
        if self.held + size > MOST:
            if self._beyond is None and self.held == self._unread:
                self._beyond = share
            if self._beyond is not share:
                return False
        share.unread += size
        self.held += size
        self._unread += size
        return True

    def _serve(self) -> None:
        """The first of those who wait, as far as there is room; and the one that may go beyond it, wherever it is."""
        for reader in tuple(self._readers):
            share, waiter = reader
            if waiter.done():
                self._readers.remove(reader)
            elif (share is self._beyond or reader is self._readers[0]) and self._give(share, PIECE):
                self._readers.remove(reader)
                waiter.set_result(None)


class Share:
    """What one answer has of the budget: `unread` while more of it is to come, then as much as it is long."""

    def __init__(self, large: LargeBodies) -> None:
        self.unread = 0
        self._size = 0
        self._large = large

    def may_have_more(self) -> bool:
        """Whether it has another `PIECE` now; else it has to be waited for."""
        return self._large.may_have(self, PIECE)

    async def more(self) -> None:
        """Wait for another `PIECE`."""
        await self._large.wait_for(self)

    def is_read(self, size: int) -> None:
        """There is no more to come: `size` bytes in all."""
        unread, self.unread, self._size = self.unread, 0, size
        self._large.count(self, held=size - unread, unread=-unread)

    def give_back(self) -> None:
        """The answer has gone, or never will. Does nothing the second time."""
        unread, self.unread = self.unread, 0
        size, self._size = self._size, 0
        self._large.count(self, held=-size - unread, unread=-unread)
