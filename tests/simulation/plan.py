"""What will happen in a simulation, drawn from a seed before anything does: events in the order of time.

An event is data, so that a failing plan can be made smaller by leaving events out (`tests.simulation.shrink`).
"""

from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec

NODES = 3
LASTS_S = 100.0
CUSTOMERS = ("rich", "poor", "limited", "tokens", "paid")


# At once, or so many statements later: then it happens in the middle of something.
_NEXT = (0, 1, 2, 3, 5, 8)


class Event(msgspec.Struct, frozen=True):
    """At `at` seconds `kind` happens, to `who`. What it means is said in `simulation`."""

    at: float
    kind: str
    who: Any = None
    more: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:8.3f} {self.kind} {'' if self.who is None else self.who} {self.more or ''}".rstrip()


def draw(seed: int) -> list[Event]:
    chance = Random(seed)
    events = [event for _ in range(chance.choice((6, 20, 40))) for event in _call(chance)]
    for _ in range(chance.choice((0, 2, 5, 8))):
        events.append(_fault(chance))
    for number in range(chance.choice((0, 1, 4))):
        events.append(_office(chance, number))
    return sorted(events, key=lambda event: event.at)


def _call(chance: Random) -> Sequence[Event]:
    """A request; or some at once, which is when limits and balances are tried; or one that is asked again."""
    at, customer = chance.uniform(0, LASTS_S), chance.choice(CUSTOMERS)
    count = chance.choice((1, 1, 1, 2, 8))
    repeated = chance.random() < 0.15
    name = f"again-{chance.randrange(10**6)}" if repeated else ""
    most = chance.choice((None, 1, 50, 1_000))
    stream = chance.random() < 0.6
    calls = []
    for _ in range(count):
        leaves_after = chance.choice((0.0, 0.01, 0.3, 2.0, 8.0)) if chance.random() < 0.2 else None
        later = chance.choice((0.0, 0.001, 5.0)) if repeated else chance.uniform(0, 0.02)
        calls.append(
            Event(round(at + later, 6), "call", customer, (chance.randrange(NODES), stream, most, leaves_after, name))
        )
    return calls


def _fault(chance: Random) -> Event:
    at, node = round(chance.uniform(0, LASTS_S), 6), chance.randrange(NODES)
    short = round(chance.choice((0.1, 1.0, 5.0, 30.0)) * chance.uniform(0.5, 2), 6)
    match chance.randrange(9):
        case 0:
            return Event(at, "power cut", node, (chance.choice((0.5, 20.0, 20.0, 1_500.0)), chance.choice(_NEXT)))
        case 1:
            return Event(at, "cut off", node, (chance.choice((short, short, 1_400.0)),))
        case 2:
            return Event(at, "clock", node, (chance.choice((-3_600.0, -10.0, 10.0, 3_600.0)),))
        case 3:
            return Event(at, "database dies", None, (short, chance.choice(_NEXT)))
        case 4:
            return Event(at, "database hangs", None, (short,))
        case 5 | 6:
            weather = {chance.choice(("lost", "mute", "slow")): chance.choice((0.02, 0.1, 0.3))}
            return Event(at, "network", None, (weather, short))
        case 7:
            return Event(at, "storm", None, (short,))
        case _:
            return Event(at, "restart", node)


def _office(chance: Random, number: int) -> Event:
    at, customer = round(chance.uniform(0, LASTS_S), 6), chance.choice(CUSTOMERS)
    kind = chance.choice(("grant", "top-up", "refund", "dispute", "revoke", "prices"))
    return Event(at, kind, customer, (chance.choice((1_000_000, 20_000_000)), f"office-{number}"))
