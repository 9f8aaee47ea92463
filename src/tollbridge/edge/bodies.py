"""The bodies of paid calls: large ones are read when there is memory for them, and worked on one after the other.

Rule 1  A large body is read only when there is room for it. It has that until its call has ended, because another
        provider may have to be asked. And it is read only when all of it may arrive, with what else is arriving.
Rule 2  Until then its client waits to send it, for `PATIENCE_S` at most. Then the call is refused.
Rule 3  Room that becomes free goes to the account that has the least of it, so that the calls of one customer do not
        keep out all others. Whoever comes meanwhile waits too, or a large body would wait for ever beside small ones.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from functools import partial

import msgspec

from tollbridge.edge.downstream import Downstream
from tollbridge.errors import ClientGone, Unavailable
from tollbridge.gateway.large import LARGE, LargeBodies

PATIENCE_S = 10.0
# Between two warnings that there is no room.
REPEAT_S = 60.0

_LOGGER = logging.getLogger("tollbridge")


class _Place(msgspec.Struct, eq=False):
    """Where a call waits."""

    account: int
    size: int
    may_arrive: Callable[[], bool]
    waiter: asyncio.Future[None]


class Bodies:
    """For one event loop. `most`: bytes of large bodies that running calls may have. One is let in however large it is.

    `large` says whose turn it is to be worked on.
    """

    def __init__(self, most: int, large: LargeBodies) -> None:
        self.held = 0
        self._most = most
        self._large = large
        self._of_account: Counter[int] = Counter()
        self._waiting: list[_Place] = []
        self._next_word = 0.0

    async def read(self, downstream: Downstream, account: int) -> bytes:
        """The whole body of a call of this account, read by the task that answers the call.

        Raises as `Downstream.read_body` does, and `Unavailable` if there is no room.
        """
        size, body = downstream.length, None
        if size < 0:  # in chunks: only its end tells how large it is
            body = await downstream.read_body()
            size = len(body)
        if size > LARGE:
            await self._enter(account, size, downstream.may_arrive)
            task = asyncio.current_task()
            assert task is not None
            task.add_done_callback(partial(self._leave, account, size))
        if body is None:
            body = await downstream.read_body()
        if size > LARGE:
            self._let_in()  # others may arrive now
            await self._large.begin()
            if downstream.disconnected:
                raise ClientGone
        return body

    async def _enter(self, account: int, size: int, may_arrive: Callable[[], bool]) -> None:
        place = _Place(account, size, may_arrive, asyncio.get_running_loop().create_future())
        self._waiting.append(place)
        self._let_in()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await place.waiter
        except BaseException as error:
            if place in self._waiting:
                self._waiting.remove(place)
            else:
                self._count(account, -size)  # it was let in at the same moment
            self._let_in()
            if not isinstance(error, TimeoutError):
                raise
            self._warn()
            raise Unavailable(
                "Too many large requests are running here. Nothing was charged; please try again.", retry_after=5
            ) from None

    def _leave(self, account: int, size: int, _task: object) -> None:
        self._count(account, -size)
        self._let_in()

    def _let_in(self) -> None:
        while (place := self._next()) is not None:
            self._waiting.remove(place)
            self._count(place.account, place.size)
            place.waiter.set_result(None)

    def _next(self) -> _Place | None:
        """Who comes next, if there is room for it. A client that sends as much as it may holds up nobody else."""
        for place in sorted(self._waiting, key=lambda each: self._of_account[each.account]):
            if place.waiter.done():
                continue  # cancelled, or out of patience: it leaves in the next turn of the loop
            if self.held and self.held + place.size > self._most:
                return None
            if place.may_arrive():
                return place
        return None

    def _count(self, account: int, size: int) -> None:
        self.held += size
        self._of_account[account] += size
        if not self._of_account[account]:
            del self._of_account[account]

    def _warn(self) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next_word:
            self._next_word = now + REPEAT_S
            _LOGGER.warning("large requests are refused: too many arrive at once, or run (see server.max_bodies)")
