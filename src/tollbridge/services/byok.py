"""Bring your own key: a customer's credential at a provider, which pays for the customer's calls there."""

from collections.abc import Collection

from tollbridge.config import Settings
from tollbridge.errors import InvalidRequest, NotFound
from tollbridge.services.accounts import new_id
from tollbridge.services.secrets import Secrets, belongs_to
from tollbridge.store import activity, byok
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.byok import NewOwn, Own
from tollbridge.store.db import Database, Transaction, run
from tollbridge.upstream.auth import takes_key

MOST = 20
_LONGEST_LABEL = 100
_LONGEST_CREDENTIAL = 4_096
# In a shorter one, the last characters would give away too much.
_LEAST_HINTED = 16


def providers(settings: Settings) -> list[str]:
    """Providers that a customer may bring a credential for: the configured ones that are called with a key."""
    return [name for name, row in settings.providers.items() if takes_key(row.auth)]


async def add(
    database: Database,
    master: Secrets,
    account: Account,
    *,
    provider: str,
    credential: str,
    providers: Collection[str],
    label: str = "",
    exclusive: bool = False,
    actor: str,
) -> Own:
    """Use `credential` for the account's calls to `provider`, one of `providers`, from the next one on.

    `exclusive`: if it fails, models that it serves are not called with the operator's credential instead.
    InvalidRequest: not possible. ConfigError: the database uses another master secret. `actor`: see
    `accounts.set_frozen`.
    """
    text = credential.strip()
    if provider not in providers:
        known = f"only {', '.join(sorted(providers))}" if providers else "nor is any other"
        raise InvalidRequest(
            f"no provider {provider[:60]!r} that takes a key is configured here, {known}", param="provider"
        )
    if not text or len(text) > _LONGEST_CREDENTIAL or not (text.isascii() and text.isprintable()):
        raise InvalidRequest(
            f"a credential is 1 to {_LONGEST_CREDENTIAL:,} visible characters of ASCII in one line", param="credential"
        )
    if len(label) > _LONGEST_LABEL or not label.isprintable():
        raise InvalidRequest(f"a label is at most {_LONGEST_LABEL} characters in one line", param="label")
    await belongs_to(database, master)
    public_id = new_id("byok")
    row = NewOwn(
        public_id=public_id,
        account_id=account.id,
        provider=provider,
        label=label,
        hint=f"…{text[-4:]}" if len(text) >= _LEAST_HINTED else "…",
        sealed=master.seal(_use(public_id, account.id), text.encode()),
        exclusive=exclusive,
    )
    now = await database.now()

    async def keep(transaction: Transaction) -> list[Own]:
        if len(await byok.of_account(transaction, account.id)) >= MOST:
            raise InvalidRequest(f"an account has at most {MOST} credentials of its own; remove one first")
        await byok.add(transaction, row, now)
        deed = NewDeed(account_id=account.id, actor=actor, action="byok.added", detail=f"{provider} {row.hint}")
        await activity.add(transaction, deed, now)
        return await byok.of_account(transaction, account.id)

    [kept] = [each for each in await run(database, keep) if each.public_id == public_id]
    return kept


async def opened(database: Database, master: Secrets, account_id: int) -> list[tuple[Own, str]]:
    """An account's credentials and their secrets, in the order to try them. ConfigError: another master secret."""
    return [
        (own, master.open(_use(own.public_id, account_id), own.sealed).decode())
        for own in await byok.of_account(database, account_id)
    ]


async def remove(database: Database, account_id: int | None, public_id: str, *, actor: str) -> None:
    """Forget a credential; the next call is made without it. Raises `NotFound`.

    `account_id`: see `keys.revoke`; `actor`: see `accounts.set_frozen`.
    """
    now = await database.now()

    async def forget(transaction: Transaction) -> int | None:
        owner = await byok.remove(transaction, account_id, public_id)
        if owner is not None:
            deed = NewDeed(account_id=owner, actor=actor, action="byok.removed", detail=public_id)
            await activity.add(transaction, deed, now)
        return owner

    known = public_id.isascii() and public_id.isprintable()
    if not known or await run(database, forget) is None:
        raise NotFound(f"there is no credential {public_id[:60]!r}", param="id")


def _use(public_id: str, account_id: int) -> str:
    """What a sealed credential is bound to, so that a row moved to another account cannot be opened."""
    return f"byok/{account_id}/{public_id}"
