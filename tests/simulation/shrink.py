"""Reduce a failing plan to the fewest events with which the same seed still fails."""

from collections.abc import Callable, Sequence

from tests.simulation.plan import Event

MOST_RUNS = 200


def shrink(events: Sequence[Event], fails: Callable[[Sequence[Event]], bool]) -> list[Event]:
    """Leave out halves, quarters … and single events, for as long as it `fails` without them."""
    kept, size, runs = list(events), max(1, len(events) // 2), 0
    while size and runs < MOST_RUNS:
        start, left_out = 0, False
        while start < len(kept) and runs < MOST_RUNS:
            runs += 1
            without = kept[:start] + kept[start + size :]
            if fails(without):
                kept, left_out = without, True
            else:
                start += size
        if not left_out or size > 1:
            size //= 2
    return kept
