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
}
