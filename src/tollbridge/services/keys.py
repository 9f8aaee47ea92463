"""API keys: made once, shown once, revoked for good. What their owners do with them is in `account_keys`."""

import logging
import secrets

import msgspec

from tollbridge.core import keys as form
from tollbridge.errors import NotFound, TollbridgeError
from tollbridge.services import key_rules
from tollbridge.services.accounts import new_id
from tollbridge.services.secrets import Secrets, belongs_to
from tollbridge.store import activity, key_copies, keys, rotation
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.keys import NO_RULES, KnownKey, NewKey, Rules

log = logging.getLogger("tollbridge")


class MadeKey(msgspec.Struct, frozen=True):
    """A new key; `text` is the key itself, which nobody can show again.

    `repeated`: it was made before, by the same request; `text` is "" then where it cannot be shown again.
    """

    public_id: str
    text: str
    repeated: bool = False

    def __repr__(self) -> str:
        return f"MadeKey({self.public_id})"


async def create(
    database: Database,
    master: Secrets,
    account: Account,
    prefix: str,
    *,
    label: str = "",
    rules: Rules = NO_RULES,
    actor: str,
    shown_again: bool = False,
) -> MadeKey:
    """A key that may do what `rules` say.

    `actor`: as of `accounts.set_frozen`. `shown_again`: the dashboard shows it in full (`keys.reveal`).

    InvalidRequest names all that cannot be of label and rules. ConfigError: the database is not of this master secret.
    """
    now = await database.now()
    label, rules = key_rules.check(label, rules, now)
    await belongs_to(database, master)
    made, row = make(master, account.id, prefix, label, rules)

    async def use_case(transaction: Transaction) -> None:
        await keys.create(transaction, row, now)
        if shown_again:
            await keep_copy(master, transaction, made)
        deed = NewDeed(account_id=account.id, actor=actor, action="key.created", detail=label or row.hint)
        await activity.add(transaction, deed, now)

    await run(database, use_case)
    return made


def make(master: Secrets, account_id: int, prefix: str, label: str, rules: Rules = NO_RULES) -> tuple[MadeKey, NewKey]:
    """A new key, and the row that it is known by."""
    text = form.make(prefix, secrets.token_bytes(form.RANDOM_BYTES))
    row = NewKey(
        public_id=new_id("key"),
        account_id=account_id,
        digest=master.digest(text),
        pepper_id=master.generation,
        hint=form.hint(prefix, text),
        label=label,
        rules=rules,
    )
    return MadeKey(row.public_id, text), row


async def keep_copy(master: Secrets, transaction: Transaction, made: MadeKey) -> None:
    """Let a key, just made, be shown in full on the dashboard (`services.reveal`)."""
    sealed = master.seal(f"key/{made.public_id}", made.text.encode())
    await key_copies.put(transaction, made.public_id, sealed)


async def find(database: Database, master: Secrets, text: str) -> KnownKey | None:
    """The key `text`, in one statement. One that is still known by the previous master secret is by this one then."""
    digests = master.digests(text)
    found = await keys.find_key(database, *digests)
    if found is not None and found.pepper_id != master.generation:
        try:
            await rotation.renew_digest(database, found.key_id, digests, master.fingerprint())
        except TollbridgeError as error:
            log.warning("a key could not be moved to the new master secret; its next call tries again: %s", error)
    return found


async def revoke(database: Database, account_id: int | None, public_id: str, *, actor: str) -> None:
    """The key's next call is refused. `account_id`: whose keys are within reach; None: everybody's (the operator).

    Raises `NotFound`. Revoking again changes nothing. `actor`: as of `accounts.set_frozen`.
    """
    now = await database.now()

    async def use_case(transaction: Transaction) -> bool:
        found = await keys.revoke(transaction, account_id, public_id, now)
        if found is None:
            return False
        owner, changed = found
        if changed:
            deed = NewDeed(account_id=owner, actor=actor, action="key.revoked", detail=public_id)
            await activity.add(transaction, deed, now)
        return True

    # PostgreSQL takes no NUL in a text.
    known = public_id.isascii() and public_id.isprintable()
    if not known or not await run(database, use_case):
        # Who takes the key itself for its id must not find it in a log.
        shown = f" {public_id[:60]!r}" if public_id.startswith("key_") else ": give its id, key_…, not the key itself"
        raise NotFound(f"there is no key{shown}", param="id")
