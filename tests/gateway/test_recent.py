"""What this process remembers of the last requests is found by their own holds alone."""

from typing import Any

from tests.gateway.test_settlement import ROUTE

from tollbridge.core.ledger import End
from tollbridge.gateway.recent import SLOTS, Recent

RECORD: Any = None


def test_a_hold_whose_place_another_has_taken_is_not_known() -> None:
    recent = Recent()
    ends = [End(hold, 1, 2, 3, RECORD, 4) for hold in (5, 5 + SLOTS)]
    for end in ends:
        recent.keep(end, ROUTE)
    assert recent.find(5) is None
    assert recent.find(5 + 2 * SLOTS) is None
    found = recent.find(5 + SLOTS)
    assert found is not None
    assert (found.end, found.route) == (ends[1], ROUTE)
