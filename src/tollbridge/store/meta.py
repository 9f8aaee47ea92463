"""Single numbers that all processes share."""

from tollbridge.store.db import Database, Transaction

CACHE_EPOCH = "cache_epoch"
# When the books were last proved, in milliseconds, and how much was wrong with them.
AUDITED_AT, AUDIT_PROBLEMS = "audited_at", "audit_problems"


async def value(database: Transaction, name: str) -> int | None:
    rows = await database.fetch("SELECT value FROM meta WHERE name = $1", name)
    return int(rows[0][0]) if rows else None


async def raise_cache_epoch(transaction: Transaction) -> None:
    """Call this where a key, an account or a plan changes: caches of them see the change once it is committed."""
    await transaction.execute("UPDATE meta SET value = value + 1 WHERE name = $1", CACHE_EPOCH)


async def first_value(transaction: Transaction, name: str, number: int) -> int:
    """The number under `name`, which is set to `number` if there was none."""
    await transaction.execute("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, number)
    return await value(transaction, name) or 0


async def next_value(transaction: Transaction, name: str) -> int:
    """One more than the last, from 1 on; whoever takes it locks others out until the transaction ends."""
    await first_value(transaction, name, 0)
    rows = await transaction.fetch("UPDATE meta SET value = value + 1 WHERE name = $1 RETURNING value", name)
    return int(rows[0][0])


async def raise_to(database: Transaction, name: str, number: int) -> None:
    """Set `name` to `number`, unless it is as large already."""
    await database.execute("UPDATE meta SET value = $2 WHERE name = $1 AND value < $2", name, number)


async def put(transaction: Transaction, name: str, number: int) -> None:
    """Set `name` to `number`, whatever was there."""
    await transaction.execute(
        "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        *(name, number),
    )


async def take_turn(database: Database, name: str, seconds: float) -> bool:
    """Whether the caller, alone among all processes, shall do `name` now; then nobody else is told so for `seconds`.

    By the database's clock. If it was set back by more than `seconds`, a turn that lies in the future is void.
    """
    now = await database.now()
    row, period = f"turn/{name}", int(seconds * 1000)
    await database.execute("INSERT INTO meta (name, value) VALUES ($1, 0) ON CONFLICT DO NOTHING", row)
    return bool(
        await database.execute(
            "UPDATE meta SET value = $2 WHERE name = $1 AND (value <= $3 OR value > $4)",
            *(row, now, now - period, now + period),
        )
    )
