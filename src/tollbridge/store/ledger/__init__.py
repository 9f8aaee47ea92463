"""The hot statements: what happens to the books of a running gateway.

`Ledger` what every engine can do · `rows` how values become rows · `sqlite`, `postgres` the engines · `spool` what
cannot be written now.
"""

import asyncio
from typing import Protocol

import msgspec

from tollbridge.core.ledger import Operation, Verdict

# A hold or an extension is not taken while so many operations wait, or the first of them has waited so long.
MOST_WAITING = 4_096
MOST_WAITING_MS = 250
# What one transaction takes of them.
MOST_IN_BATCH = 512


class Counters(msgspec.Struct):
    """Plain integers, read when somebody asks. `commit_us` is how long the last transaction took."""

    batches: int = 0
    operations: int = 0
    retries: int = 0
    commit_us: int = 0


class Ledger(Protocol):
    """The books, for as long as a process serves. All of it belongs to one event loop."""

    @property
    def epoch(self) -> int:
        """This process's row in `process`."""

    @property
    def failed(self) -> bool:
        """The books may not be trusted any more, or nobody knows what was written: the process must end."""

    @property
    def counters(self) -> Counters: ...

    def next_id(self) -> int:
        """The id of a new hold."""

    def submit(self, op: Operation) -> asyncio.Future[Verdict]:
        """Hand `op` over, in order; the future resolves when it is durable.

        A hold or an extension is refused while the ledger is behind: raises `Unavailable` (`overloaded`, or
        `ledger_unavailable` when the database is away). Nothing else raises; its future may. Cancelling the future of
        a hold ends the hold.
        """

    def depth(self) -> int:
        """How many operations wait."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Take nothing more and write what waits."""
