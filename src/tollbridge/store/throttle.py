"""Counts of what must not happen too often, shared by all processes."""

from tollbridge.store.db import Transaction


async def count(database: Transaction, name: str, window_ms: int, now: int) -> tuple[int, int]:
    """How often within the current window, and when last (milliseconds); (0, 0): never."""
    rows = await database.fetch(
        "SELECT count, last FROM throttle WHERE name = $1 AND since > $2", name, now - window_ms
    )
    return (int(rows[0][0]), int(rows[0][1])) if rows else (0, 0)


async def add(database: Transaction, name: str, window_ms: int, now: int) -> int:
    """Count once more; how often by now. A window begins with the first count after the previous window has run out."""
    rows = await database.fetch(
        "INSERT INTO throttle (name, count, since, last) VALUES ($1, 1, $2, $2) "
        "ON CONFLICT (name) DO UPDATE SET "
        "count = CASE WHEN throttle.since > $3 THEN throttle.count + 1 ELSE 1 END, "
        "since = CASE WHEN throttle.since > $3 THEN throttle.since ELSE $2 END, last = $2 "
        "RETURNING count",
        *(name, now, now - window_ms),
    )
    return int(rows[0][0])


async def take_back(database: Transaction, name: str) -> None:
    """Count once less."""
    await database.execute("UPDATE throttle SET count = count - 1 WHERE name = $1 AND count > 0", name)


async def clear(database: Transaction, name: str) -> None:
    await database.execute("DELETE FROM throttle WHERE name = $1", name)
