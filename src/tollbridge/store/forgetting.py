"""What nobody needs any more: old sessions, void links and invitations, kept answers, old counts, old mail."""

from tollbridge.store.db import Database

DAY_MS = 86_400_000
SESSIONS_MS = 14 * DAY_MS
THROTTLES_MS = 2 * DAY_MS
# An outbox is no archive, and the links in it are void by then anyway.
LETTERS_MS = 7 * DAY_MS
# The longest that `idempotency.keep` can be, plus as long as a request can run.
ANSWERS_MS = 2 * 3_600_000
# Kept for ever: a mailbox gets its first credit only once.
KEPT = "grant-mailbox/%"


async def forget(database: Database) -> None:
    """Delete it all, one kind after the other."""
    now = await database.now()
    await database.execute("DELETE FROM session WHERE created_at < $1", now - SESSIONS_MS)
    await database.execute("DELETE FROM mail_token WHERE expires_at < $1", now)
    await database.execute("DELETE FROM invitation WHERE expires_at < $1", now)
    await database.execute("DELETE FROM outbox WHERE created_at < $1", now - LETTERS_MS)
    await database.execute("DELETE FROM kept_answer WHERE created_at < $1", now - ANSWERS_MS)
    await database.execute("DELETE FROM claim WHERE created_at < $1", now - ANSWERS_MS)
    await database.execute("DELETE FROM throttle WHERE last < $1 AND name NOT LIKE $2", now - THROTTLES_MS, KEPT)
