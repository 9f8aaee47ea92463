"""Periodic work beside the requests. Each job runs on its own; a failure is logged and tried again at the next turn.

With many processes on PostgreSQL, one process at a time has the turn of a job, and the first to ask gets the next.
Turns only save work: a job is correct however many processes do it at once. Each process itself reports that it is
alive, looks for changes, and sweeps what dead ones left.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence

from tollbridge.config import UsageSettings
from tollbridge.core.ids import Ids
from tollbridge.core.plans import Plan
from tollbridge.core.words import plural
from tollbridge.errors import TollbridgeError, Unavailable
from tollbridge.services import credit, export, notices, refunds, top_ups
from tollbridge.services.desk import Desk
from tollbridge.services.payments import Payments
from tollbridge.services.plans import fill_up_all
from tollbridge.store import meta, retention, rollups, seal, usage_days
from tollbridge.store.audit import audit
from tollbridge.store.db import Database
from tollbridge.store.forgetting import forget
from tollbridge.store.ledger import Ledger
from tollbridge.store.processes import BEAT_S, Fenced, Process

log = logging.getLogger("tollbridge")

POLL_S = 0.5
SWEEP_S = 30.0
# How long after the start, which `prepare` must not delay.
PREPARE_S = 1.0
MONEY_S = 60.0
MISSED_S = 600.0
PLANS_S = 600.0
SEAL_S = 3_600.0
AUDIT_S = 3_600.0
FORGET_S = 3_600.0
# A failure that goes on is logged no more often than this: the poll alone would log two lines a second in an outage.
REPEAT_S = 60.0

# Its name, the seconds between two turns, and what it does.
Job = tuple[str, float, Callable[[], Awaitable[object]]]


def of_money(till: Callable[[], Payments], desk: Desk) -> tuple[Job, ...]:
    """What payments need done. `till` returns them as configured at that moment."""
    return (
        ("payments", MONEY_S, lambda: till().reconcile()),
        ("refunds", MONEY_S, lambda: refunds.retry(till())),
        ("top-ups", MONEY_S, lambda: top_ups.run_due(till())),
        ("subscriptions", MONEY_S, lambda: till().subscriptions.reconcile()),
        ("missed payments", MISSED_S, lambda: till().find_missed()),
        ("closed accounts", MISSED_S, lambda: credit.take_back_all(desk.database)),
        ("low balances", MONEY_S, lambda: notices.tell_low_balances(desk)),
    )


def of_plans(database: Database, plans: Callable[[], Mapping[str, Plan]]) -> Job:
    """The credit that plans include."""
    return ("included credit", PLANS_S, lambda: fill_up_all(database, plans().values()))


def of_usage(database: Database, settings: UsageSettings, ids: Callable[[], Ids]) -> tuple[Job, ...]:
    """What is to be done with records of ended requests: exporting them, dropping old ones."""
    jobs: list[Job] = []
    if settings.export is not None:
        sink = export.open_sink(settings.export.reveal())
        jobs.append(("export", export.EVERY_S, lambda: export.keep_up(database, sink, ids())))
    if settings.retention_days is not None:
        jobs.append(("retention", retention.EVERY_S, lambda: export.drop_old(database, settings)))
    return tuple(jobs)


class _Failures:
    """What the log says of a job's failures: the first of its kind, how often it came again, and that it is over.

    What nobody expected comes with its traceback, each kind no more than once a minute even if it comes and goes.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0
        self._told = ""
        self._told_at = 0.0
        self._shown = ""
        self._shown_at = 0.0

    def add(self, error: Exception) -> None:
        self._count += 1
        now = time.monotonic()
        is_expected = isinstance(error, TollbridgeError)
        what = str(error) if is_expected else _place(error)
        if what == self._told and now - self._told_at < REPEAT_S:
            return
        self._told, self._told_at = what, now
        if is_expected:
            log.warning("%s: %s", self._name, error)
        elif what == self._shown and (self._count > 1 or now - self._shown_at < REPEAT_S):
            log.error("%s failed again, %s since it was well: %s", self._name, plural(self._count, "time"), what)
        else:
            log.error("%s failed", self._name, exc_info=error)
            self._shown, self._shown_at = what, now

    def are_over(self) -> None:
        if self._count:
            log.info("%s is well again after %s", self._name, plural(self._count, "failure"))
        self._count, self._told = 0, ""


def _place(error: Exception) -> str:
    """What went wrong, and where, without the text of the error: that may differ each time."""
    *_, last = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} in {last.filename}:{last.lineno}"


class Jobs:
    """Heartbeat, sweep, sums of usage, seals, the proof of the books, the poll that notices changed keys and accounts.

    `url`: the database's. `on_change`: what was cached may be stale. `on_fatal`: this process must not take any more
    paid work. `more`: further jobs, run by turns. `prepare`: called once, soon after the start, because files read
    later may belong to another version, installed meanwhile.
    """

    def __init__(
        self,
        database: Database,
        process: Process,
        ledger: Ledger,
        *,
        url: str,
        on_change: Callable[[], None],
        on_fatal: Callable[[TollbridgeError], None],
        more: Sequence[Job] = (),
        prepare: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self._url = url
        self._database = database
        self._process = process
        self._ledger = ledger
        self._on_change = on_change
        self._on_fatal = on_fatal
        self._more = more
        self._prepare = prepare
        self._cache_epoch: int | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        jobs: tuple[Job, ...] = (
            ("heartbeat", BEAT_S, self._process.beat),
            ("changes", POLL_S, self._look_for_changes),
            ("sweep", SWEEP_S, lambda: self._process.sweep(self._ledger)),
        )
        by_turns: tuple[Job, ...] = (
            ("roll-ups", rollups.EVERY_S, lambda: rollups.roll_up(self._database)),
            ("sums by day", rollups.EVERY_S, lambda: usage_days.roll_up(self._database)),
            ("seal", SEAL_S, lambda: seal.seal(self._database)),
            ("forget", FORGET_S, lambda: forget(self._database)),
            *self._more,
        )
        jobs += tuple((name, seconds, self._in_turn(name, seconds, job)) for name, seconds, job in by_turns)
        self._tasks = [asyncio.create_task(self._repeat(*job)) for job in jobs]
        self._tasks.append(asyncio.create_task(self._audit()))
        if self._prepare is not None:
            self._tasks.append(asyncio.create_task(self._once(self._prepare)))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _once(self, prepare: Callable[[], Awaitable[object]]) -> None:
        await asyncio.sleep(PREPARE_S)
        try:
            await prepare()
        except Exception:
            log.exception("the pages cannot be opened")

    async def _repeat(self, name: str, seconds: float, job: Callable[[], Awaitable[object]]) -> None:
        failures = _Failures(name)
        while True:
            try:
                await job()
            except Fenced as error:
                log.critical("%s", error)
                self._on_fatal(error)
                return
            except Exception as error:
                failures.add(self._explained(error))
            else:
                failures.are_over()
            await asyncio.sleep(seconds)

    def _explained(self, error: Exception) -> Exception:
        """`error` as the operator should read it: which database fails, and why."""
        if not isinstance(error, Unavailable):
            return error
        from tollbridge.services.doctor import diagnose

        return diagnose(error, self._url)

    def _in_turn(
        self, name: str, seconds: float, job: Callable[[], Awaitable[object]]
    ) -> Callable[[], Awaitable[object]]:
        """`job`, done by only one of all processes."""
        if self._database.dialect == "sqlite":
            return job

        async def if_ours() -> None:
            if await meta.take_turn(self._database, name, seconds):
                await job()

        return if_ours

    async def _audit(self) -> None:
        prove = self._in_turn("audit", AUDIT_S, self.prove)
        while True:
            await asyncio.sleep(AUDIT_S)
            try:
                await prove()
            except TollbridgeError as error:
                log.warning("audit: %s", error)
            except Exception:
                log.exception("audit failed")

    async def prove(self) -> None:
        """Prove the books, every hour. What is wrong is left to people: nothing is mended, and nothing is hidden."""
        problems = await audit(self._url)
        for problem in problems:
            log.critical("the books are wrong: %s", problem)
        await meta.put(self._database, meta.AUDIT_PROBLEMS, len(problems))
        await meta.put(self._database, meta.AUDITED_AT, await self._database.now())

    async def _look_for_changes(self) -> None:
        epoch = await meta.value(self._database, meta.CACHE_EPOCH)
        if epoch != self._cache_epoch:
            self._cache_epoch = epoch
            self._on_change()
