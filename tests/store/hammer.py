"""A server to be killed: it works on one SQLite file, and reports each event when it has been acknowledged.

    python -m tests.store.hammer URL [POINT COUNT]

A line is one event: `hold ID`, `step ID N`, `note ID CHARGE`, `end ID CHARGE`, `post KEY`. With a POINT, it kills
itself when it gets there for the COUNTth time.
"""

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from tests.store.books import Books, Customer, Engine

from tollbridge.core.ledger import Checkpoint, Ended, Held, Noted, Posted, top_up
from tollbridge.errors import Unavailable
from tollbridge.store.db import sqlite_path
from tollbridge.values import Outcome

TASKS = 8
# Before it, nothing of the batch is on disk; after it, all of it is, and nobody has been told.
POINTS = {
    "load": ("books", "_load"),
    "write": ("books", "_write"),
    "commit": ("books", "_commit"),
    "told": ("ledger", "_tell"),
}


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def call(books: Books, customer: Customer, chance: random.Random) -> None:
    hold = await books.held(customer, chance.randrange(1, 2_000), least=0)
    say("hold", hold)
    ids = {"hold": hold, "account_id": customer.account_id, "key_id": customer.key_id}
    for step in range(1, chance.choice([1, 1, 3])):
        verdict = await books.ledger.submit(books.extend_op(hold, customer, step, 500, least=0))
        assert isinstance(verdict, Held), verdict
        say("step", hold, step)
        charge = step * 100
        note = Checkpoint(**ids, charge=charge, record=books.record(charge, Outcome.OUR_FAULT))
        assert isinstance(await books.ledger.submit(note), Noted)
        say("note", hold, charge)
    if chance.random() < 0.9:
        charge = chance.randrange(0, 1_500)
        assert isinstance(await books.ledger.submit(books.end_op(hold, customer, charge)), Ended)
        say("end", hold, charge)
    if chance.random() < 0.1:
        key = f"key-{hold}"
        post = top_up(customer.account_id, 5_000, idempotency_key=key, reason="", actor="")
        assert isinstance(await books.ledger.submit(post), Posted)
        say("post", key)


async def main(url: str) -> None:
    books = Books(Engine(url, Path(sqlite_path(url)).parent))
    await books.start()
    if len(sys.argv) > 2:
        ledger: Any = books.ledger
        where, method = POINTS[sys.argv[2]]
        kill_at(ledger if where == "ledger" else ledger._books, method, int(sys.argv[3]))
    customers = [await books.customer(paid=10**6, promo=10**4, limit=limit) for limit in (None, 10**6, None)]
    say("ready")

    async def work(number: int) -> None:
        chance = random.Random(os.urandom(8))
        while True:
            try:
                await call(books, customers[number % len(customers)], chance)
            except Unavailable as error:
                if error.code != "overloaded":  # a slow disk is not a failing one
                    raise

    await asyncio.gather(*map(work, range(TASKS)))


def kill_at(ledger: Any, method: str, count: int) -> None:
    real, left = getattr(ledger, method), count

    def wrapped(*args: Any, **names: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **names)

    setattr(ledger, method, wrapped)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
