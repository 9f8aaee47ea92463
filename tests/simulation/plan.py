"""What will happen in a simulation, drawn from a seed before anything does: events in the order of time.

An event is data, so that a failing plan can be made smaller by leaving events out (`tests.simulation.shrink`).
"""

from random import Random
from typing import Any

import msgspec

NODES = 3
LASTS_S = 100.0
CUSTOMERS = ("rich", "poor", "limited", "tokens", "paid")


# At once, or this many statements later: then it happens in the middle of something.
_NEXT = (0, 1, 2, 3, 5, 8)


class Event(msgspec.Struct, frozen=True):
    """At `at` seconds `kind` happens to `who`. `simulation` says what that means."""

    at: float
    kind: str
    who: Any = None
    more: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.at:8.3f} {self.kind} {'' if self.who is None else self.who} {self.more or ''}".rstrip()


def draw(seed: int) -> list[Event]:
    chance = Random(seed)
    events = [event for _ in range(chance.choice((6, 20, 40))) for event in _calls(chance)]
    for _ in range(chance.choice((0, 2, 5, 8))):
        events += _fault(chance)
    for number in range(chance.choice((0, 1, 4))):
        events += _office(chance, number)
    if chance.random() < 0.15:
        events += _long_absence(chance)
    return sorted(events, key=lambda event: event.at)


def _calls(
    chance: Random, at: float | None = None, customer: str | None = None, node: int | None = None
) -> list[Event]:
    """One request; or several at once, which tests limits and balances; or one that is repeated."""
    at = chance.uniform(0, LASTS_S) if at is None else at
    customer = customer or chance.choice(CUSTOMERS)
    repeated = chance.random() < 0.15
    name = f"again-{chance.randrange(10**6)}" if repeated else ""
    most, stream = chance.choice((None, 1, 50, 1_000)), chance.random() < 0.6
    calls = []
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        leaves_after = chance.choice((0.0, 0.01, 0.3, 2.0, 8.0)) if chance.random() < 0.2 else None
        later = chance.choice((0.0, 0.001, 5.0)) if repeated else chance.uniform(0, 0.02)
        where = chance.randrange(NODES) if node is None else node
        calls.append(Event(round(at + later, 6), "call", customer, (where, stream, most, leaves_after, name)))
    return calls


def _fault(chance: Random) -> list[Event]:
    at, node = round(chance.uniform(0, LASTS_S), 6), chance.randrange(NODES)
    short = round(chance.choice((0.1, 1.0, 5.0, 30.0)) * chance.uniform(0.5, 2), 6)
    match chance.randrange(10):
        case 0:
            return [Event(at, "power cut", node, (chance.choice((0.5, 20.0)), chance.choice(_NEXT)))]
        case 1:
            return [Event(at, "cut off", node, (short,))]
        case 2:
            return [Event(at, "clock", node, (chance.choice((-3_600.0, -10.0, 10.0, 3_600.0)),))]
        case 3:
            return [Event(at, "database dies", None, (short, chance.choice(_NEXT)))]
        case 4:
            return [Event(at, "database hangs", None, (short,))]
        case 5 | 6:
            weather = {chance.choice(("lost", "mute", "slow")): chance.choice((0.02, 0.1, 0.3))}
            calls = [event for _ in range(3) for event in _calls(chance, at + chance.uniform(0, short))]
            return [Event(at, "network", None, (weather, short)), *calls]
        case 7:
            return [Event(at, "storm", None, (short,))]
        case 8:
            # What ended while the database was away is only on the disk of a node, which then loses power.
            calls = [event for _ in range(4) for event in _calls(chance, at - chance.uniform(0, 2), None, node)]
            dies = Event(at, chance.choice(("database dies", "database hangs")), None, (5.0 + short, 0))
            return [*calls, dies, Event(round(at + chance.uniform(0.2, 4), 6), "power cut", node, (2.0, 0))]
        case _:
            return [Event(at, "restart", node)]


def _office(chance: Random, number: int) -> list[Event]:
    at, customer = round(chance.uniform(0, LASTS_S), 6), chance.choice(CUSTOMERS)
    kind = chance.choice(("grant", "top-up", "refund", "dispute", "revoke", "revoke", "prices"))
    # Nodes that still know the key are asked with it at once.
    near = [event for _ in range(6) for event in _calls(chance, max(0.0, at + chance.uniform(-2, 2)), customer)]
    more = near if kind == "revoke" else []
    return [*more, Event(at, kind, customer, (chance.choice((1_000_000, 20_000_000)), f"office-{number}"))]


def _long_absence(chance: Random) -> list[Event]:
    """A node is away for so long that the others end what it left; then it returns and is asked at once."""
    node, at, back = chance.randrange(NODES), LASTS_S - 2, LASTS_S + 1_300
    events = [event for _ in range(4) for event in _calls(chance, at - chance.uniform(0, 6), None, node)]
    if chance.random() < 0.5:
        events.append(Event(at - 0.2, "database dies", None, (3.0, 0)))
    if chance.random() < 0.5:
        events.append(Event(at, "cut off", node, (back - at,)))
    else:
        events.append(Event(at + 1.0, "power cut", node, (back - at, 0)))
    return events + [event for _ in range(4) for event in _calls(chance, back + chance.uniform(0, 8), None, node)]
