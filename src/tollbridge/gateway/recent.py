"""This process's last requests, to answer questions about those that the database cannot show yet.

An end is handed to the ledger before its answer goes out, but it may wait there, or in the spool while the database is
away. Each of the last holds has a slot; holds are numbered consecutively, so a new one overwrites the oldest.
"""

import msgspec

from tollbridge.core.ledger import End
from tollbridge.values import Route

SLOTS = 4_096


class Kept(msgspec.Struct, frozen=True, gc=False):
    """An end as it was handed to the ledger. Its charge is what should be paid: the books may have taken less."""

    end: End
    route: Route


class Recent:
    def __init__(self) -> None:
        self._slots: list[Kept | None] = [None] * SLOTS

    def keep(self, end: End, route: Route) -> None:
        self._slots[end.hold % SLOTS] = Kept(end, route)

    def find(self, hold: int) -> Kept | None:
        kept = self._slots[hold % SLOTS]
        return kept if kept is not None and kept.end.hold == hold else None
