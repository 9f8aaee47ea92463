"""Plans that once failed, reduced, with their seeds. `python -m tests.simulation` prints such a plan.

They are kept as events because what a seed draws changes whenever a kind of event is added; the seed still determines
how long things take.
"""

from tests.simulation.plan import Event

FAILED_ONCE: dict[str, tuple[int, list[Event]]] = {
    "an extension of which nobody knew was stored, and its hold was given back without it": (
        8,
        [
            Event(77.916488, "call", "tokens", (2, True, 1, None, "")),
            Event(85.048253, "network", None, ({"mute": 0.3}, 7.188341)),
            Event(85.243669, "call", "limited", (0, True, None, None, "")),
            Event(86.071439, "call", "limited", (0, True, 1000, None, "")),
            Event(86.871201, "revoke", "limited", (1000000, "office-0")),
        ],
    ),
    "a ledger that was told to stop threw away what nobody waited for, and slept": (
        484,
        [
            Event(11.100868, "call", "rich", (0, False, 1000, None, "")),
            Event(29.068534, "database hangs", None, (48.000253,)),
            Event(31.05441, "call", "rich", (0, False, 1, None, "")),
            Event(34.111181, "call", "rich", (0, False, 1, None, "again-882910")),
            Event(61.451126, "restart", 0, ()),
            Event(65.010139, "database dies", None, (0.181374, 3)),
        ],
    ),
    "a late end booked anew what its sweep could not charge and had written off": (
        1939,
        [
            Event(1.37207, "call", "limited", (0, False, 1000, None, "")),
            Event(1.374512, "call", "limited", (2, False, 1000, None, "")),
            Event(1.386701, "call", "limited", (1, False, 1000, None, "")),
            Event(2.649684, "call", "paid", (2, False, 1, None, "")),
            Event(2.66558, "call", "paid", (0, False, 1, 8.0, "")),
            Event(3.481494, "power cut", 1, (20.0, 0)),
            Event(7.326731, "call", "poor", (0, True, 1, None, "again-708410")),
            Event(9.077577, "call", "limited", (0, True, 1000, 0.01, "")),
            Event(10.02295, "call", "rich", (0, False, 50, None, "")),
            Event(16.824402, "call", "paid", (0, False, 1, 8.0, "")),
            Event(23.569062, "call", "rich", (0, True, 50, None, "")),
            Event(23.571814, "call", "rich", (1, True, 50, 0.0, "")),
            Event(23.576238, "call", "rich", (1, True, 50, None, "")),
            Event(23.581901, "call", "rich", (2, True, 50, None, "")),
            Event(33.024895, "call", "tokens", (0, False, 50, 0.3, "")),
            Event(33.025519, "call", "tokens", (1, False, 50, None, "")),
            Event(33.029181, "call", "tokens", (0, False, 50, 0.01, "")),
            Event(33.02952, "call", "tokens", (2, False, 50, None, "")),
            Event(33.032169, "call", "tokens", (0, False, 50, 2.0, "")),
            Event(33.037992, "call", "tokens", (2, False, 50, None, "")),
            Event(33.039269, "call", "tokens", (2, False, 50, None, "")),
            Event(41.214049, "network", None, ({"lost": 0.3}, 9.070666)),
            Event(41.231775, "call", "paid", (2, True, 1, None, "")),
            Event(47.794454, "network", None, ({"slow": 0.3}, 52.278262)),
            Event(48.81626, "cut off", 2, (8.667729,)),
            Event(51.850823, "call", "poor", (1, True, 1000, None, "")),
            Event(51.851548, "call", "poor", (2, True, 1000, 8.0, "")),
            Event(58.128982, "call", "tokens", (0, True, 50, None, "")),
            Event(58.134698, "call", "tokens", (0, True, 50, None, "")),
            Event(58.139431, "call", "tokens", (2, True, 50, None, "")),
            Event(65.575321, "call", "paid", (2, True, None, None, "")),
            Event(65.6502, "call", "limited", (2, True, 50, None, "")),
            Event(65.656881, "call", "limited", (2, True, 50, None, "")),
            Event(65.658692, "call", "limited", (0, True, 50, None, "")),
            Event(65.661263, "call", "limited", (2, True, 50, None, "")),
            Event(65.662969, "call", "limited", (2, True, 50, None, "")),
            Event(65.664239, "call", "limited", (0, True, 50, None, "")),
            Event(70.017867, "call", "rich", (1, False, 50, 8.0, "")),
            Event(70.106829, "call", "tokens", (0, True, None, None, "")),
            Event(70.11406, "call", "tokens", (0, True, None, None, "")),
            Event(70.749748, "call", "rich", (1, False, None, None, "")),
            Event(71.295363, "call", "paid", (2, False, None, None, "")),
            Event(77.418193, "database dies", None, (4.221759, 3)),
            Event(89.973266, "call", "poor", (1, True, None, None, "again-133915")),
            Event(95.745033, "dispute", "poor", (20000000, "office-0")),
            Event(98.0, "cut off", 1, (1302.0,)),
            Event(1407.351951, "call", "rich", (1, False, 1000, None, "again-319155")),
        ],
    ),
}
