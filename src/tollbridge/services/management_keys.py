"""Keys for programs that manage an account's API keys. They call no model and reach only `/api/`."""

import secrets

import msgspec

from tollbridge.core import keys as form
from tollbridge.errors import InvalidApiKey, InvalidRequest, NotFound
from tollbridge.services import key_rules
from tollbridge.services.accounts import new_id
from tollbridge.services.deeds import Actor
from tollbridge.services.desk import Desk
from tollbridge.services.keys import MadeKey
from tollbridge.store import accounts, activity, management_keys, rotation
from tollbridge.store.accounts import Account
from tollbridge.store.db import Transaction, run
from tollbridge.store.management_keys import ManagementKey
from tollbridge.values import MINUTE_MS

MOST_KEYS = 20
_TOUCH_MS = MINUTE_MS


class Manager(msgspec.Struct, frozen=True):
    """A program that presents a management key, and the account that it manages."""

    key: ManagementKey
    account: Account


async def create(desk: Desk, account_id: int, label: str, actor: Actor) -> MadeKey:
    """Create a key. It can be shown now, and never again."""
    label = key_rules.check_label(label)
    now = await desk.database.now()
    prefix = desk.settings.brand.key_prefix + form.MANAGES
    text = form.make(prefix, secrets.token_bytes(form.RANDOM_BYTES))
    row = ManagementKey(
        id=0,
        public_id=new_id("mgmt"),
        account_id=account_id,
        hint=form.hint(prefix, text),
        label=label,
        created_at=now,
        used_at=None,
        revoked_at=None,
    )

    async def use_case(transaction: Transaction) -> None:
        if len(await management_keys.of_account(transaction, account_id)) >= MOST_KEYS:
            raise InvalidRequest(f"An account has at most {MOST_KEYS} management keys. Revoke some first.")
        await management_keys.create(transaction, row, desk.master.digest(text), desk.master.generation)
        await activity.add(transaction, actor.deed(account_id, "management_key.created", label or row.hint), now)

    await run(desk.database, use_case)
    return MadeKey(row.public_id, text)


async def find(desk: Desk, authorization: str) -> Manager:
    """Who sent this `Authorization` header. Raises `InvalidApiKey`."""
    scheme, _, text = authorization.partition(" ")
    text = text.strip()
    key = None
    if scheme.lower() == "bearer" and form.well_formed(desk.settings.brand.key_prefix + form.MANAGES, text):
        key = await _known(desk, text)
    account = None if key is None else await accounts.by_id(desk.database, key.account_id)
    if key is None or account is None:
        raise InvalidApiKey(
            "This needs a management key (`Authorization: Bearer …`), which you can create on the dashboard under API "
            "keys. API keys for /v1 do not work here."
        )
    now = await desk.database.now()
    if key.used_at is None or now - key.used_at > _TOUCH_MS:
        await management_keys.touch(desk.database, key.id, now)
    return Manager(key, account)


async def _known(desk: Desk, text: str) -> ManagementKey | None:
    """Like `keys.find`."""
    digests = desk.master.digests(text)
    found = await management_keys.find(desk.database, digests)
    if found is None:
        return None
    key, pepper_id = found
    if pepper_id != desk.master.generation:
        await rotation.renew_management_digest(desk.database, key.id, digests, desk.master.fingerprint())
    return key


async def revoke(desk: Desk, account_id: int, public_id: str, actor: Actor) -> None:
    """Raises `NotFound`."""
    now = await desk.database.now()

    async def use_case(transaction: Transaction) -> bool:
        if not await management_keys.revoke(transaction, account_id, public_id, now):
            return False
        await activity.add(transaction, actor.deed(account_id, "management_key.revoked", public_id), now)
        return True

    if not await run(desk.database, use_case):
        raise NotFound("There is no such management key in this account.", param="id")
