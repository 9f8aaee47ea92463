"""A15, T-KILL: a process is gone between any two statements of a refund; there is one refund, or none."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.payments.conftest import USD, settings
from tests.services.conftest import World
from tests.services.test_accounts import make

from tollbridge.errors import InvalidRequest
from tollbridge.services import accounts, refunds
from tollbridge.services.payments import open_payments
from tollbridge.store import activity, invoices, journal, payments
from tollbridge.store.db import Database
from tollbridge.store.verify import verify

TRIALS = 30
# Where a refund writes: behind any of them the process may be gone, and behind all of them too.
STEPS: tuple[tuple[Any, str], ...] = (
    (payments, "locked"),
    (journal, "post"),
    (payments, "put_reversal"),
    (invoices, "issue"),
    (activity, "add"),
    (refunds, "run"),
)


async def _buy(database: Database) -> str:
    account = await make(database)
    ways = open_payments(database, settings(), "http://127.0.0.1:8000")
    order = await ways.start_checkout(account, 50 * USD, method="demo")
    await ways.pay_demo(account, order.payment.public_id)
    return order.payment.public_id


def _die_behind(step: int, told: int) -> None:
    """In the process that is to be killed: stand still behind a step, and tell that it is reached."""
    module, name = STEPS[step]
    real: Callable[..., Awaitable[Any]] = getattr(module, name)

    async def reached(*given: Any, **more: Any) -> Any:
        found = await real(*given, **more)
        os.write(told, b"!")
        signal.pause()
        return found

    setattr(module, name, reached)


def _kill_at(world: World, payment: str, step: int) -> None:
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        _die_behind(step, told)

        async def refund() -> None:
            async with world.opened() as database:
                ways = open_payments(database, settings(), "http://127.0.0.1:8000")
                await refunds.refund(ways, payment, USD, actor="test")

        try:
            asyncio.run(refund())
        finally:
            os._exit(1)
    try:
        assert os.read(heard, 1) == b"!"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(heard)
        os.close(told)


@pytest.mark.timeout(300)
def test_a_refund_that_was_cut_off_happened_once_or_not_at_all(world: World) -> None:
    payment = world.run(_buy)
    expected = 50 * USD
    for trial in range(TRIALS):
        step = trial % len(STEPS)
        _kill_at(world, payment, step)
        # Only who died behind the whole transaction has refunded.
        expected -= USD if STEPS[step][1] == "run" else 0

        async def look(database: Database, left: int = expected) -> None:
            account = await accounts.get(database, "ada@example.com")
            counts = [
                (await database.fetch(f"SELECT count(*) FROM {name}"))[0][0]
                for name in ("reversal", "invoice WHERE kind = 'credit_note'", "journal WHERE kind = 'refund'")
            ]
            done = (50 * USD - left) // USD
            assert (account.paid, counts) == (left, [done] * 3)

        world.run(look)

    async def at_the_end(database: Database) -> None:
        ways = open_payments(database, settings(), "http://127.0.0.1:8000")
        made = await refunds.refund(ways, payment, None, actor="test")
        assert made.amount == expected
        with pytest.raises(InvalidRequest):
            await refunds.refund(ways, payment, USD, actor="test")
        report = await verify(database)
        assert report.ok, report.problems

    world.run(at_the_end)
