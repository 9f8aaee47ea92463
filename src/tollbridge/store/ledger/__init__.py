"""The hot statements: what happens to the books of a running gateway.

`Ledger` what every engine can do · `rows` how values become rows · `sqlite`, `postgres` the engines, `sqlite_books` and
`postgres_books` one batch in each · `spool` what cannot be written now.
"""

import asyncio
import time
from typing import Protocol

import msgspec

from tollbridge.core.ledger import End, Hold, Operation, Record, Verdict
from tollbridge.errors import InternalError, Unavailable
from tollbridge.values import Outcome

# A hold or an extension is refused while this many operations wait, or once the first has waited this long.
MOST_WAITING = 4_096
MOST_WAITING_MS = 250
# The most that one transaction takes.
MOST_IN_BATCH = 512


class Counters(msgspec.Struct):
    """Plain integers, read on demand. `commit_us`: microseconds that the last transaction took (SQLite: its COMMIT)."""

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
        """The books can no longer be trusted, or nobody knows what was written: the process must end."""

    @property
    def counters(self) -> Counters: ...

    def next_id(self) -> int:
        """The id of a new hold."""

    def submit(self, op: Operation) -> asyncio.Future[Verdict]:
        """Hand `op` over, in order; the future resolves when it is durable.

        A hold or an extension is refused while the ledger is behind: this raises `Unavailable` (`overloaded`, or
        `ledger_unavailable` when the database is away). Any other failure is the future's. Cancelling the future of a
        hold ends the hold.
        """

    def depth(self) -> int:
        """How many operations are waiting."""

    async def start(self) -> None: ...

    async def stop(self) -> None:
        """Accept nothing more, and write what is waiting."""


def away() -> Unavailable:
    """The database cannot be written."""
    return Unavailable("The ledger is not available. Nothing was charged.", code="ledger_unavailable")


def behind() -> Unavailable:
    return Unavailable("Too many requests are waiting. Try again shortly.")


def broken(error: Exception) -> Exception:
    """What is told of an operation that failed by itself: a mistake in it, or one of ours."""
    return error if isinstance(error, ValueError) else InternalError("The ledger failed.")


def refuse(future: asyncio.Future[Verdict], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        # Not everybody waits: do not complain that nobody looked.
        future.exception()


def given_back(op: Hold) -> End:
    """The end of a hold that nobody waits for."""
    record = Record(
        started_at=time.time_ns() // 1_000_000, duration_ms=0, price_version=0, outcome=Outcome.CLIENT_LEFT, status=499
    )
    return End(hold=op.id, account_id=op.account_id, key_id=op.key_id, charge=0, record=record)
