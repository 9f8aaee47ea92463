"""What depends on the master secret: sealed texts, digests of keys, and which secret the database uses."""

import msgspec

from tollbridge.store import meta
from tollbridge.store.db import Database, Transaction

# Of the secret in use, and of the previous one for as long as it is needed (0: no longer).
FINGERPRINT, PREVIOUS = "secret_fingerprint", "secret_previous"
# How many secrets there have been: the `pepper_id` of what is digested with the current one.
GENERATION = "secret_generation"

# For each column that holds output of `Secrets.seal`: a statement for a page of its rows with what they were sealed
# for, and one that replaces a seal that was read.
_COLUMNS = {
    "byok.sealed": (
        "SELECT id, 'byok/' || account_id || '/' || public_id, sealed FROM byok WHERE id > $1 ORDER BY id LIMIT $2",
        "UPDATE byok SET sealed = $3 WHERE id = $1 AND sealed = $2",
    ),
    "key_copy.sealed": (
        """SELECT key_id, 'key/' || public_id, sealed FROM key_copy JOIN api_key ON api_key.id = key_id
        WHERE key_id > $1 ORDER BY key_id LIMIT $2""",
        "UPDATE key_copy SET sealed = $3 WHERE key_id = $1 AND sealed = $2",
    ),
    "user.totp_secret": (
        """SELECT id, 'totp/' || public_id, totp_secret FROM "user" WHERE id > $1 AND totp_secret IS NOT NULL
        ORDER BY id LIMIT $2""",
        'UPDATE "user" SET totp_secret = $3 WHERE id = $1 AND totp_secret = $2',
    ),
    "user.totp_proposed": (
        """SELECT id, 'totp/' || public_id, totp_proposed FROM "user" WHERE id > $1 AND totp_proposed IS NOT NULL
        ORDER BY id LIMIT $2""",
        'UPDATE "user" SET totp_proposed = $3 WHERE id = $1 AND totp_proposed = $2',
    ),
    "outbox.sealed": (
        "SELECT id, 'outbox/' || id, sealed FROM outbox WHERE id > $1 AND sealed IS NOT NULL ORDER BY id LIMIT $2",
        "UPDATE outbox SET sealed = $3 WHERE id = $1 AND sealed = $2",
    ),
    "kept_answer.sealed": (
        "SELECT hold_id, 'answer/' || hold_id, sealed FROM kept_answer WHERE hold_id > $1 ORDER BY hold_id LIMIT $2",
        "UPDATE kept_answer SET sealed = $3 WHERE hold_id = $1 AND sealed = $2",
    ),
}
SEALED = tuple(_COLUMNS)
KEY_COPIES = "key_copy.sealed"


class Standing(msgspec.Struct, frozen=True):
    """The secrets that a database uses. `fingerprint` None: it is new; `previous` None: it is no longer needed."""

    fingerprint: int | None
    previous: int | None
    generation: int


class SealedText(msgspec.Struct, frozen=True):
    """`use`: what it was sealed for."""

    id: int
    use: str
    sealed: bytes


class Derived(msgspec.Struct, frozen=True):
    """A key that may be the playground's, and its account."""

    id: int
    public_id: str
    account_id: int
    account: str


async def standing(database: Transaction) -> Standing:
    rows = await database.fetch(
        "SELECT name, value FROM meta WHERE name IN ($1, $2, $3)", FINGERPRINT, PREVIOUS, GENERATION
    )
    known = {name: int(number) for name, number in rows}
    return Standing(known.get(FINGERPRINT), known.get(PREVIOUS) or None, known.get(GENERATION, 1))


async def go_over(transaction: Transaction, before: int, after: int) -> bool:
    """Switch the database to the secret `after`; whether it used `before` (fingerprints). All processes hear of it.

    The first statement writes, so of two at once the second sees what the first did.
    """
    moved = await transaction.execute(
        "UPDATE meta SET value = $3 WHERE name = $1 AND value = $2", FINGERPRINT, before, after
    )
    if not moved:
        return False
    found = await standing(transaction)
    await meta.put(transaction, PREVIOUS, before)
    await meta.put(transaction, GENERATION, found.generation + 1)
    await meta.raise_cache_epoch(transaction)
    return True


async def forget_previous(transaction: Transaction) -> None:
    await meta.put(transaction, PREVIOUS, 0)


async def sealed_page(database: Database, column: str, after: int, count: int) -> list[SealedText]:
    """Up to `count` rows of a column of `SEALED` with ids above `after`, in order."""
    rows = await database.fetch(_COLUMNS[column][0], after, count)
    return [SealedText(int(id_), str(use), bytes(sealed)) for id_, use, sealed in rows]


async def put_sealed(transaction: Transaction, column: str, text: SealedText, fresh: bytes) -> None:
    """Replace `text` by `fresh`, unless something else is there by now."""
    await transaction.execute(_COLUMNS[column][1], text.id, text.sealed, fresh)


async def renew_digest(database: Database, key_id: int, digests: tuple[bytes, bytes], fingerprint: int) -> None:
    """Change the API key's digest from the second of `digests` to the first, if the database uses that secret."""
    # The generation is read here, so that it matches the fingerprint, whatever the caller remembers.
    await database.execute(
        "UPDATE api_key SET digest = $2, pepper_id = (SELECT value FROM meta WHERE name = $6) "
        "WHERE id = $1 AND digest = $3 AND EXISTS (SELECT 1 FROM meta WHERE name = $4 AND value = $5)",
        *(key_id, *digests, FINGERPRINT, fingerprint, GENERATION),
    )


async def renew_management_digest(
    database: Database, key_id: int, digests: tuple[bytes, bytes], fingerprint: int
) -> None:
    """As `renew_digest`."""
    await database.execute(
        "UPDATE management_key SET digest = $2, pepper_id = (SELECT value FROM meta WHERE name = $6) "
        "WHERE id = $1 AND digest = $3 AND EXISTS (SELECT 1 FROM meta WHERE name = $4 AND value = $5)",
        *(key_id, *digests, FINGERPRINT, fingerprint, GENERATION),
    )


async def waiting(database: Transaction, generation: int, now: int) -> tuple[int, int]:
    """(API keys, management keys) that could be used at `now` and were digested with the secret of `generation`."""
    [(keys,)] = await database.fetch(
        "SELECT COUNT(*) FROM api_key WHERE pepper_id = $1 AND revoked_at IS NULL "
        "AND (expires_at IS NULL OR expires_at > $2)",
        *(generation, now),
    )
    [(managers,)] = await database.fetch(
        "SELECT COUNT(*) FROM management_key WHERE COALESCE(pepper_id, 1) = $1 AND revoked_at IS NULL", generation
    )
    return int(keys), int(managers)


async def labelled(database: Database, label: str, generation: int, after: int, count: int) -> list[Derived]:
    """Up to `count` keys with this label, ids above `after`, not revoked, digested with the secret of `generation`."""
    rows = await database.fetch(
        "SELECT api_key.id, api_key.public_id, account_id, account.public_id FROM api_key "
        "JOIN account ON account.id = account_id "
        "WHERE label = $1 AND pepper_id = $2 AND revoked_at IS NULL AND api_key.id > $3 ORDER BY api_key.id LIMIT $4",
        *(label, generation, after, count),
    )
    return [Derived(*row) for row in rows]
