"""Pages begin one after the other: a burst of them must not hold up the calls served by the same loop.

A page takes about a millisecond of the loop, on which a call needs several turns.
"""

import asyncio

from tollbridge.errors import Unavailable

SPACING_S = 0.002
# This many may begin at once: what a browser asks for when one page is opened.
BURST = 4
LONGEST_WAIT_S = 5.0


class Pace:
    """When the next page may begin. For one event loop."""

    def __init__(self) -> None:
        self._free_at = 0.0

    async def begin(self) -> None:
        """Wait for this page's turn. Unavailable: too many are waiting already."""
        now = asyncio.get_running_loop().time()
        free_at = max(self._free_at, now - BURST * SPACING_S) + SPACING_S
        if free_at - now > LONGEST_WAIT_S:
            raise Unavailable("Too many pages are asked for right now. Please try again in a moment.", retry_after=5)
        self._free_at = free_at
        if free_at > now:
            await asyncio.sleep(free_at - now)
