"""Play many seeds.

python -m tests.simulation --seeds 0:500        # says how fast, and stops at the first that fails
python -m tests.simulation --seeds 306 --keep   # the whole plan of one, not made smaller
"""

import argparse
import sys
import time

from tests.simulation.plan import Event, draw
from tests.simulation.shrink import shrink
from tests.simulation.simulation import Result, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", default="0:500", help="first:behind the last, or one")
    parser.add_argument("--keep", action="store_true", help="show the whole plan of a seed that fails")
    options = parser.parse_args()
    first, _, last = options.seeds.partition(":")
    began, sums = time.process_time(), {"seeds": 0}
    for seed in range(int(first), int(last or int(first) + 1)):
        result = simulate(seed)
        sums["seeds"] += 1
        for name, count in result.sums.items():
            sums[name] = sums.get(name, 0) + count
        if result.failure is not None:
            explain(result, keep=options.keep)
            return 1
    seconds = time.process_time() - began
    print(f"{sums['seeds']} seeds, {sums['seeds'] / seconds:.1f} a second of CPU")
    print(", ".join(f"{name}: {count:,}" for name, count in sorted(sums.items()) if name not in ("seeds", "digest")))
    return 0


def explain(result: Result, *, keep: bool) -> None:
    print(f"seed {result.seed}: {result.failure}")
    events: list[Event] = draw(result.seed)
    if not keep:
        events = shrink(events, lambda fewer: simulate(result.seed, fewer).failure is not None)
        result = simulate(result.seed, events)
        print(f"with {len(events)} events: {result.failure}")
    print("\n".join(result.trace))
    print("\n".join(f"{event!r}," for event in events))


if __name__ == "__main__":
    sys.exit(main())
