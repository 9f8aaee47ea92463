"""What people and programs do with the API keys of their account: create, change, rotate, disable, revoke.

Each deed is noted in the account's activity, and takes effect from the key's next call on.
"""

import hashlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from tollbridge.core import keys as form
from tollbridge.errors import InvalidRequest, KeyReused, NotFound
from tollbridge.services import key_rules, keys, reveal
from tollbridge.services.deeds import Actor
from tollbridge.services.desk import Desk
from tollbridge.services.keys import MadeKey
from tollbridge.store import account_keys as rows
from tollbridge.store import activity
from tollbridge.store import keys as key_rows
from tollbridge.store.account_keys import AccountKey
from tollbridge.store.db import Duplicate, Transaction, run
from tollbridge.store.keys import Rules
from tollbridge.values import DAY_MS, HOUR_MS

T = TypeVar("T")

# How long a rotated key lives on: "" for good, until it is revoked.
OVERLAPS = {"none": 0, "1h": HOUR_MS, "24h": DAY_MS, "": None}
MOST_KEYS = 500
_OVER = frozenset({"revoked", "expired"})
_ID_LENGTH = 22


async def create(
    desk: Desk,
    account_id: int,
    label: str,
    rules: Rules,
    actor: Actor,
    *,
    disabled: bool = False,
    once: str = "",
) -> MadeKey:
    """A new key. InvalidRequest: the label or a rule cannot be.

    Repeated with the same text `once` it is the key that was made first; "" is never a repetition. KeyReused: that
    key differs from what is asked for now.
    """
    now = await desk.database.now()
    label, rules = key_rules.check(label, rules, now)

    async def use_case(transaction: Transaction) -> MadeKey:
        if once and (there := await rows.find(transaction, account_id, _id(account_id, once))) is not None:
            return _as_wished(there, label, rules, disabled)
        await _require_room(transaction, account_id, now)
        made = await _add(desk, transaction, account_id, (label, rules), now, _id(account_id, once) if once else "")
        await activity.add(transaction, actor.deed(account_id, "key.created", label), now)
        if disabled:
            key = _known(await rows.find(transaction, account_id, made.public_id))
            await rows.set_disabled(transaction, key.id, now)
            await activity.add(transaction, actor.deed(account_id, "key.disabled", key.name), now)
        return made

    try:
        made = await run(desk.database, use_case)
    except Duplicate:
        # The same request came twice at once, and the other one was quicker.
        made = await run(desk.database, use_case)
    return await _shown_again(desk, account_id, made)


async def change(
    desk: Desk, account_id: int, public_id: str, wanted: Callable[[AccountKey], tuple[str, Rules]], actor: Actor
) -> None:
    """Give a key the label and the rules that are `wanted` of the key as it is. NotFound; InvalidRequest as for
    `create`."""
    now = await desk.database.now()

    async def use_case(transaction: Transaction, key: AccountKey) -> None:
        label, rules = wanted(key)
        # A key that has expired may keep its date.
        label, checked = key_rules.check(label, rules, 0 if rules.expires_at == key.expires_at else now)
        if label == key.label and all(getattr(checked, name) == getattr(key, name) for name in Rules.__struct_fields__):
            return
        await rows.rename(transaction, key.id, label)
        await rows.set_rules(transaction, key, checked)
        await activity.add(transaction, actor.deed(account_id, "key.changed", label or key.hint), now)

    await _with_key(desk, account_id, public_id, use_case)


async def rotate(desk: Desk, account_id: int, public_id: str, overlap: str, actor: Actor, *, once: str = "") -> MadeKey:
    """A new key with the label and the rules of this one, which lives on for as long as `OVERLAPS` says.

    InvalidRequest: no such overlap, or the key does not work. What the old key spent of a limit, it spent:
    the new one begins with the whole of it. `once`: as for `create`, for each key that is rotated. KeyReused: this
    key was rotated by it with another overlap.
    """
    if overlap not in OVERLAPS:
        names = ", ".join(repr(each) for each in OVERLAPS if each)
        raise InvalidRequest(f"overlap is one of {names}, or left out", param="overlap")
    lives = OVERLAPS[overlap]
    now = await desk.database.now()

    async def use_case(transaction: Transaction, key: AccountKey) -> MadeKey:
        # First of all: what is repeated may have revoked this key. The key is locked, so two at once come one by one.
        for each in OVERLAPS if once else ():
            there = await rows.find(transaction, account_id, _successor(account_id, public_id, each, once))
            if there is not None and each != overlap:
                raise KeyReused(
                    f"This Idempotency-Key rotated this key with another overlap, into {there.public_id}.",
                    param="Idempotency-Key",
                )
            if there is not None:
                return MadeKey(there.public_id, "", repeated=True)
        if key.state(now) in _OVER:
            raise InvalidRequest("This key no longer works: create a new one.", param="id")
        if key.disabled_at is not None:
            # A new one that works would undo the disabling, and one that does not looks like it does.
            raise InvalidRequest("This key is disabled: enable it first, or create a new one.", param="id")
        if lives is None:
            await _require_room(transaction, account_id, now)
        named = _successor(account_id, public_id, overlap, once) if once else ""
        made = await _add(desk, transaction, account_id, (key.label, key), now, named)
        if lives == 0:
            await key_rows.revoke(transaction, account_id, public_id, now)
        elif lives is not None:
            await rows.end(transaction, key.id, now + lives)
        await activity.add(transaction, actor.deed(account_id, "key.rotated", key.name), now)
        return made

    return await _shown_again(desk, account_id, await _with_key(desk, account_id, public_id, use_case))


async def set_disabled(desk: Desk, account_id: int, public_id: str, disabled: bool, actor: Actor) -> None:
    """Refuse the key's calls until it is enabled again. NotFound."""
    now = await desk.database.now()

    async def use_case(transaction: Transaction, key: AccountKey) -> None:
        if (key.disabled_at is not None) == disabled:
            return
        await rows.set_disabled(transaction, key.id, now if disabled else None)
        await activity.add(
            transaction, actor.deed(account_id, "key.disabled" if disabled else "key.enabled", key.name), now
        )

    await _with_key(desk, account_id, public_id, use_case)


async def revoke(desk: Desk, account_id: int, public_id: str, actor: Actor) -> None:
    """For good. NotFound. Revoking again changes nothing."""
    now = await desk.database.now()

    async def use_case(transaction: Transaction, key: AccountKey) -> None:
        if key.revoked_at is None:
            await key_rows.revoke(transaction, account_id, public_id, now)
            await activity.add(transaction, actor.deed(account_id, "key.revoked", key.name), now)

    await _with_key(desk, account_id, public_id, use_case)


async def find(desk: Desk, account_id: int, public_id: str) -> AccountKey:
    """Raises `NotFound`."""
    return _known(await rows.find(desk.database, account_id, public_id))


async def _require_room(transaction: Transaction, account_id: int, now: int) -> None:
    """InvalidRequest: the account has as many keys as it may. Those that no longer work do not count."""
    if sum(key.state(now) not in _OVER for key in await rows.of_account(transaction, account_id)) >= MOST_KEYS:
        raise InvalidRequest(f"An account has at most {MOST_KEYS} keys. Revoke some first.")


def _id(account_id: int, once: str) -> str:
    """What the key will be called: a repetition finds it by that name, and no two keys can have it."""
    digest = hashlib.sha256(f"{account_id}/{once}".encode()).digest()
    return f"key_{form.base62(int.from_bytes(digest), _ID_LENGTH)}"


def _successor(account_id: int, public_id: str, overlap: str, once: str) -> str:
    return _id(account_id, f"rotate/{public_id}/{overlap}/{once}")


def _as_wished(key: AccountKey, label: str, rules: Rules, disabled: bool) -> MadeKey:
    asked, there = (label, disabled), (key.label, key.disabled_at is not None)
    if asked != there or any(getattr(rules, name) != getattr(key, name) for name in Rules.__struct_fields__):
        raise KeyReused(
            f"This Idempotency-Key created {key.public_id}, which differs from what this request asks for: "
            "the key was changed since, or this is another request.",
            param="Idempotency-Key",
        )
    return MadeKey(key.public_id, "", repeated=True)


async def _shown_again(desk: Desk, account_id: int, made: MadeKey) -> MadeKey:
    """A repeated key with its text, where keys are always shown."""
    if not made.repeated or desk.settings.keys.reveal != "always":
        return made
    shown = await reveal.keys_to_show(desk, account_id)
    return msgspec.structs.replace(
        made, text=next((each.text for each in shown if each.public_id == made.public_id), "")
    )


async def _add(
    desk: Desk, transaction: Transaction, account_id: int, wish: tuple[str, Rules], now: int, public_id: str = ""
) -> MadeKey:
    label, rules = wish
    made, row = keys.make(desk.master, account_id, desk.settings.brand.key_prefix, label, rules)
    if public_id:
        made = msgspec.structs.replace(made, public_id=public_id)
        row = msgspec.structs.replace(row, public_id=public_id)
    await key_rows.create(transaction, row, now)
    if desk.settings.keys.reveal == "always":
        await keys.keep_copy(desk.master, transaction, made)
    return made


async def _with_key(
    desk: Desk, account_id: int, public_id: str, work: Callable[[Transaction, AccountKey], Awaitable[T]]
) -> T:
    async def use_case(transaction: Transaction) -> T:
        # Of two deeds at once the second sees what the first one did.
        key = _known(await rows.locked(desk.database, transaction, account_id, public_id))
        return await work(transaction, key)

    return await run(desk.database, use_case)


def _known(key: AccountKey | None) -> AccountKey:
    if key is None:
        raise NotFound("There is no such key in this account.", param="id")
    return key
