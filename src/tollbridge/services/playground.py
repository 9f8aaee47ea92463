"""The key with which an account's playground calls models: it pays and is limited like any other key.

Nobody is ever shown it, and only its digest is stored, as for all keys: it is derived from the master secret and its
own id, which is derived from the account. It is created when the playground is first used, and again after it was
revoked.
"""

from collections.abc import Collection, Iterator
from itertools import count, takewhile

import msgspec

from tollbridge.core import keys as form
from tollbridge.services.desk import Desk
from tollbridge.services.keys import make
from tollbridge.services.secrets import Secrets
from tollbridge.store import account_keys, keys
from tollbridge.store.accounts import Account
from tollbridge.store.db import Duplicate, run

LABEL = "Playground"
_ID_LENGTH = 22


async def key_of(desk: Desk, account: Account) -> str:
    """The account's key, usable for calls from now on. Never to be sent to anybody."""
    prefix = desk.settings.brand.key_prefix
    while True:
        known = {key.public_id: key for key in await account_keys.of_account(desk.database, account.id)}
        for public_id in _ids(desk.master, account.public_id, prefix):
            if public_id not in known:
                break
            if known[public_id].revoked_at is None:
                return _text(desk, prefix, public_id)
        try:
            await _create(desk, account, prefix, public_id)
        except Duplicate:
            continue  # another call was quicker
        return _text(desk, prefix, public_id)


def own_keys(desk: Desk, account: Account, known: Collection[str]) -> set[str]:
    """Which of an account's keys, by their ids, the playground created for itself."""
    return made_for(desk.master, account.public_id, desk.settings.brand.key_prefix, known)


def made_for(master: Secrets, account: str, prefix: str, known: Collection[str]) -> set[str]:
    """Like `own_keys`, for the account with this public id; with either master secret while there are two."""
    ways = len(master.signatures("playground/id", ""))
    return {
        public_id
        for way in range(ways)
        for public_id in takewhile(lambda each: each in known, _ids(master, account, prefix, way))
    }


def _ids(master: Secrets, account: str, prefix: str, way: int = 0) -> Iterator[str]:
    """The account's key ids, each used once the one before was revoked. `way`: which of the secrets to use."""
    for number in count():
        chance = int(master.signatures("playground/id", f"{account}/{prefix}/{number}")[way], 16)
        yield f"key_{form.base62(chance, _ID_LENGTH)}"


def _text(desk: Desk, prefix: str, public_id: str) -> str:
    return form.make(prefix, bytes.fromhex(desk.master.sign("playground/key", public_id)))


async def _create(desk: Desk, account: Account, prefix: str, public_id: str) -> None:
    text = _text(desk, prefix, public_id)
    _, row = make(desk.master, account.id, prefix, LABEL)
    own = msgspec.structs.replace(
        row, public_id=public_id, digest=desk.master.digest(text), hint=form.hint(prefix, text)
    )
    now = await desk.database.now()
    await run(desk.database, lambda transaction: keys.create(transaction, own, now))
