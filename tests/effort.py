"""How work grows with what it is given, in processor time of this thread.

On a busy machine the same work takes more of that time too, but hardly ever in each of several tries, and then the
small and the large alike: of each the quickest counts, and what is compared is one with the other.
"""

import time
from collections.abc import Awaitable, Callable

TRIES = 7


def growth(work: Callable[[int], object], small: int, large: int) -> float:
    """How many times as long `work(large)` takes as `work(small)`."""
    least = [float("inf")] * 2
    for _ in range(TRIES):
        for place, size in enumerate((small, large)):
            before = time.thread_time_ns()
            work(size)
            least[place] = min(least[place], time.thread_time_ns() - before)
    return least[1] / least[0]


async def compared(one: Callable[[], Awaitable[object]], other: Callable[[], Awaitable[object]]) -> float:
    """How many times as long `one` takes as `other`."""
    least = [float("inf")] * 2
    for _ in range(TRIES):
        for place, work in enumerate((other, one)):
            before = time.thread_time_ns()
            await work()
            least[place] = min(least[place], time.thread_time_ns() - before)
    return least[1] / least[0]
