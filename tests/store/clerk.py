"""The command line at work beside a server: grants, new keys and revocations on the same SQLite file.

    python -m tests.store.clerk URL ACCOUNT_ID COUNT

It says how much it granted.
"""

import asyncio
import os
import sys

from tollbridge.core.ledger import Posted, grant
from tollbridge.store import journal
from tollbridge.store.db import Transaction, open_database, run


async def main(url: str, account_id: int, count: int) -> None:
    database = open_database(url)
    await database.start()
    name = os.urandom(4).hex()
    for number in range(count):
        now = await database.now()
        post = grant(account_id, 7, idempotency_key=f"{name}-{number}", reason="r", actor="clerk")

        async def work(transaction: Transaction, number: int = number, post: object = post, now: int = now) -> None:
            assert isinstance(await journal.post(database, transaction, post, now), Posted)  # type: ignore[arg-type]
            rows = await transaction.fetch(
                "INSERT INTO api_key (public_id, account_id, digest, pepper_id, hint, label, created_at) "
                "VALUES ($1, $2, $3, 1, '', '', $4) RETURNING id",
                *(f"{name}-{number}", account_id, os.urandom(32), now),
            )
            await transaction.execute("UPDATE api_key SET revoked_at = $2 WHERE id = $1", rows[0][0], now)

        await run(database, work)
    await database.close()
    print(7 * count)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
