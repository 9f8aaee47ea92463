"""API keys: made once, shown once, revoked for good."""

import logging
import secrets
from ipaddress import ip_network

import msgspec

from tollbridge.core import keys as form
from tollbridge.core.ledger import MAX_AMOUNT
from tollbridge.errors import InvalidRequest, NotFound, TollbridgeError
from tollbridge.services.accounts import new_id
from tollbridge.services.secrets import Secrets, belongs_to
from tollbridge.store import activity, key_copies, keys, rotation
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.keys import NO_RULES, KnownKey, NewKey, Rules
from tollbridge.values import LATEST_MS

log = logging.getLogger("tollbridge")

LONGEST_LABEL = 100
LONGEST_PATTERN = 200
MOST_PATTERNS = 100
MOST_RATE = 1_000_000_000


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

    InvalidRequest: the label or a rule cannot be. ConfigError: the database is not of this master secret.
    """
    if len(label) > LONGEST_LABEL or not label.isprintable():
        raise InvalidRequest(f"a label is at most {LONGEST_LABEL} characters in one line", param="label")
    now = await database.now()
    _check(rules, now)
    if rules.addresses is not None:
        rules = msgspec.structs.replace(rules, addresses=tuple(map(_network, rules.addresses)))
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


def _check(rules: Rules, now: int) -> None:
    """InvalidRequest: a rule that nobody could change again, for it is none that `key_management` takes."""
    if rules.limit is not None and not 0 < rules.limit < MAX_AMOUNT:
        raise InvalidRequest("a limit must be above zero", param="limit")
    if rules.expires_at is not None and not now < rules.expires_at < LATEST_MS:
        raise InvalidRequest("a key must expire in the future, before the year 9999", param="expires")
    if rules.reset is not None and rules.limit is None:
        raise InvalidRequest("a limit that starts over needs an amount", param="limit")
    for name in ("rpm", "tpm", "concurrency"):
        rate = getattr(rules, name)
        if rate is not None and not 0 < rate <= MOST_RATE:
            raise InvalidRequest(f"{name} must be a whole number from 1 to {MOST_RATE}", param=name)
    for each in rules.models or ():
        if not each or len(each) > LONGEST_PATTERN or not each.isprintable() or " " in each:
            raise InvalidRequest(
                f"{each[:60]!r} is neither a model's name nor a pattern such as openai/*", param="models"
            )
    if max(len(rules.models or ()), len(rules.addresses or ())) > MOST_PATTERNS:
        raise InvalidRequest(f"a key names at most {MOST_PATTERNS} models, and as many addresses", param="models")


def _network(text: str) -> str:
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise InvalidRequest(
            f"{text[:60]!r} is not an address or a network like 203.0.113.0/24", param="addresses"
        ) from None


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

    async def use_case(transaction: Transaction) -> int | None:
        owner = await keys.revoke(transaction, account_id, public_id, now)
        if owner is not None:
            deed = NewDeed(account_id=owner, actor=actor, action="key.revoked", detail=public_id)
            await activity.add(transaction, deed, now)
        return owner

    # PostgreSQL takes no NUL in a text.
    known = public_id.isascii() and public_id.isprintable()
    if not known or await run(database, use_case) is None:
        raise NotFound(f"there is no key {public_id[:60]!r}", param="id")
