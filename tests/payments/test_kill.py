"""I8, T-KILL: a gateway is killed while it handles webhooks; the next one finishes what it began, once."""

import asyncio
import multiprocessing
import os
import random
import signal
from multiprocessing.synchronize import Event

import pytest
from tests.payments.conftest import USD, opened_till, with_stripe
from tests.payments.fake_stripe import FakeStripe, Object
from tests.services.conftest import World

from tollbridge.services.payments import open_payments
from tollbridge.store.db import open_database


def handle(url: str, stripe_url: str, events: list[tuple[bytes, str]], ready: Event) -> None:
    """A gateway that does nothing but take webhooks, until it is killed."""

    async def main() -> None:
        database = open_database(url)
        await database.start()
        fake = FakeStripe()
        fake.url = stripe_url
        till = open_payments(database, with_stripe(fake), "http://x")
        await database.now()
        ready.set()
        for body, signature in events:
            await till.receive(signature, body)
        os._exit(0)

    asyncio.run(main())


async def one_life(world: World, chance: random.Random) -> None:
    async with opened_till(world) as till:
        checkout = await till.order()
        session = till.stripe.pay(till.session(checkout))
        till.stripe.refund(session["payment_intent"], 300)
        events: list[Object] = till.stripe.events * 2
        chance.shuffle(events)
        spawn = multiprocessing.get_context("spawn")
        sent, ready = [till.stripe.sign(event) for event in events], spawn.Event()
        child = spawn.Process(target=handle, args=(world.url, till.stripe.url, sent, ready))
        child.start()
        assert child.pid is not None
        assert await asyncio.to_thread(ready.wait, 30)
        await asyncio.sleep(chance.uniform(0, 0.25))
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
        await asyncio.to_thread(child.join)
        await till.database.execute("UPDATE payment_event SET retry_at = 1 WHERE done_at IS NULL")
        await till.database.execute("UPDATE payment SET check_at = 1 WHERE check_at IS NOT NULL")
        await till.ways.reconcile()
        await till.ways.find_missed()
        assert (await till.state()).paid == 7 * USD
        assert await till.database.fetch("SELECT kind, count(*) FROM invoice GROUP BY kind ORDER BY kind") == [
            ("credit_note", 1),
            ("invoice", 1),
        ]


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(30))
def test_a_killed_gateway_leaves_one_credit(world: World, seed: int) -> None:
    asyncio.run(one_life(world, random.Random(seed)))
