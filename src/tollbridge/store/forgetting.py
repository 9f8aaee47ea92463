"""What nobody needs any more: old sessions, void links and invitations, kept answers, old counts, old mail."""

from tollbridge.store.db import Database
from tollbridge.values import DAY_MS, HOUR_MS

SESSIONS_MS = 14 * DAY_MS
THROTTLES_MS = 2 * DAY_MS
# An outbox is no archive, and the links in it are void by then anyway.
LETTERS_MS = 7 * DAY_MS
# The longest that `idempotency.keep` can be, plus as long as a request can run.
ANSWERS_MS = 2 * HOUR_MS
# Kept for ever: a mailbox gets its first credit only once, and accounts with something in them not one after the other.
KEPT = "%-mailbox/%"


# What one statement deletes at most (`$2`): neither the ledger nor anybody else waits long for it.
BATCH = 1_000

_SESSIONS = "DELETE FROM session WHERE id IN (SELECT id FROM session WHERE created_at < $1 LIMIT $2)"
_TOKENS = "DELETE FROM mail_token WHERE digest IN (SELECT digest FROM mail_token WHERE expires_at < $1 LIMIT $2)"
_INVITATIONS = "DELETE FROM invitation WHERE id IN (SELECT id FROM invitation WHERE expires_at < $1 LIMIT $2)"
_LETTERS = "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE created_at < $1 LIMIT $2)"
_ANSWERS = "DELETE FROM kept_answer WHERE hold_id IN (SELECT hold_id FROM kept_answer WHERE created_at < $1 LIMIT $2)"
_CLAIMS = """
DELETE FROM claim WHERE (account_id, name) IN (SELECT account_id, name FROM claim WHERE created_at < $1 LIMIT $2)
"""
_THROTTLES = """
DELETE FROM throttle WHERE name IN (SELECT name FROM throttle WHERE last < $1 AND name NOT LIKE $3 LIMIT $2)
"""


async def forget(database: Database) -> None:
    """Delete it all, one kind after the other."""
    now = await database.now()
    await _delete(database, _SESSIONS, now - SESSIONS_MS)
    await _delete(database, _TOKENS, now)
    await _delete(database, _INVITATIONS, now)
    await _delete(database, _LETTERS, now - LETTERS_MS)
    await _delete(database, _ANSWERS, now - ANSWERS_MS)
    await _delete(database, _CLAIMS, now - ANSWERS_MS)
    await _delete(database, _THROTTLES, now - THROTTLES_MS, KEPT)


async def _delete(database: Database, statement: str, before: int, *more: str) -> None:
    while await database.execute(statement, before, BATCH, *more) == BATCH:
        pass
