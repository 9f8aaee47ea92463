"""Gateways that the targets compare closely, all running, loaded one after the other.

What a request costs varies by a fifth with what the machine's host is doing. If two gateways are measured minutes
apart, that goes into their ratio; if they take turns every few seconds, it affects both. A gateway that is not under
load is stopped: the threads of an idle one would spoil the other's caches.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench import native
from bench.gateways import Gateway
from bench.measure import LEVELS, WARM_UP_S, Bench, Cost, Trial, place_of, started
from bench.peers import NotRunError

ROUNDS = 5
SECONDS = 2.0
STREAM_ROUNDS = 2
# Until it has noticed that the clock went on.
AWAKE_S = 1.0
# Usage is summed some 30 to 40 s after it ended. Streams that come sooner would also be charged for the work left over
# from the plain requests before them.
REST_S = 50.0


@dataclass(frozen=True)
class Figures:
    """CPU microseconds of each round: per request at 64 connections, per chunk in step and spread; by gateway.

    `later`: per request, what was spent in the rest after all rounds of requests, idling included.
    """

    requests: dict[str, list[float]]
    later: dict[str, float]
    in_step: dict[str, list[float]]
    spread: dict[str, list[float]]

    def request(self, name: str) -> float | None:
        return _middle(self.requests, name)

    def chunk_in_step(self, name: str) -> float | None:
        return _middle(self.in_step, name)

    def chunk_spread(self, name: str) -> float | None:
        return _middle(self.spread, name)


def run(gateways: Sequence[Gateway], on: Bench) -> Figures:
    """The figures of all rounds. Raises NotRunError if a gateway cannot be started, or leaves a request unanswered."""
    with ExitStack() as stack:
        trials: dict[str, Trial] = {}
        for gateway in gateways:
            place = place_of(gateway, on, "turns")
            trial, _ = stack.enter_context(started(gateway.prepare(place), place, on))
            trial.requests(connections=max(LEVELS), seconds=WARM_UP_S)
            trial.tree.freeze()
            stack.callback(trial.tree.go_on)
            trials[gateway.name] = trial

        def requests(trial: Trial) -> Cost:
            return trial.requests(connections=max(LEVELS), seconds=SECONDS)

        def streams(spread_us: int) -> Callable[[Trial], Cost]:
            return lambda trial: trial.streams(spread_us=spread_us, rounds=STREAM_ROUNDS)

        plain = _in_turns(trials, requests)
        later = _rest(trials)
        in_step, spread = _in_turns(trials, streams(0)), _in_turns(trials, streams(native.PACE_US))
    return Figures(
        {name: [cost.per_request_us for cost in costs] for name, costs in plain.items()},
        {name: spent_us / sum(cost.load.answered for cost in plain[name]) for name, spent_us in later.items()},
        {name: [cost.per_chunk_us for cost in costs] for name, costs in in_step.items()},
        {name: [cost.per_chunk_us for cost in costs] for name, costs in spread.items()},
    )


def _in_turns(trials: dict[str, Trial], load: Callable[[Trial], Cost]) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {name: [] for name in trials}
    for _ in range(ROUNDS):
        for name, trial in trials.items():
            trial.tree.go_on()
            time.sleep(AWAKE_S)
            cost = load(trial)
            trial.tree.freeze()
            if cost.load.errors:
                raise NotRunError(f"{name}: {cost.load.errors} of {cost.load.asked}: {cost.load.first_error}")
            costs[name].append(cost)
    return costs


def _rest(trials: dict[str, Trial]) -> dict[str, float]:
    """Let all run without load: the CPU microseconds that each spends anyway."""
    for trial in trials.values():
        trial.tree.go_on()
    before = {name: trial.tree.cpu_seconds() for name, trial in trials.items()}
    time.sleep(REST_S)
    spent = {name: (trial.tree.cpu_seconds() - before[name]) * 1e6 for name, trial in trials.items()}
    for trial in trials.values():
        trial.tree.freeze()
    return spent


def _middle(figures: dict[str, list[float]], name: str) -> float | None:
    return median(figures[name]) if name in figures else None
