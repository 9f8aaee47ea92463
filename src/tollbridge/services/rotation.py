"""Rotating the master secret: another one replaces it while everything keeps running.

Step 1  A new secret is stored beside the present one, and every gateway learns of it. Nothing is made with it yet.
Step 2  The database switches to it. What is sealed is sealed again; a key is known by the new one from its next use on.
Step 3  The previous one is dropped, once nothing needs it.

Each step may be killed anywhere and repeated. `rotate` does the first or the second, whichever is next.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec

from tollbridge.config import Settings
from tollbridge.core.words import plural
from tollbridge.errors import ConfigError
from tollbridge.services import playground, secrets
from tollbridge.services.secrets import Secrets
from tollbridge.store import account_keys, keys, rotation
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.rotation import SEALED, SealedText

SET_BOTH = (
    "the master secret is the setting secret: put a new one there and the present one into secret_previous, "
    "have every gateway read that (SIGHUP or restart), then run this again"
)
TOO_EARLY = "the database does not use the new master secret yet: run tollbridge secrets rotate first"
NOTHING = "the master secret is not being rotated: tollbridge secrets rotate begins it"

_BATCH = 100


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is. `unreadable`: rows that neither secret opens. `keys`, `management_keys`: usable ones not used
    since the database switched, so that only the previous secret knows them."""

    stage: Literal["begun", "moved", "ended"]
    sealed_anew: int = 0
    unreadable: int = 0
    keys: int = 0
    management_keys: int = 0


async def rotate(database: Database, settings: Settings) -> Rotation:
    """Begin (`begun`), or switch (`moved`). ConfigError: the operator must set the new secret first."""
    with _alone(settings):
        master = await secrets.load_for(database, settings)
        await secrets.belongs_to(database, master)
        before, after = master.fingerprint(), master.newest
        previous = (await rotation.standing(database)).previous
        if before == after and previous is None:
            if settings.secret is not None:
                raise ConfigError(SET_BOTH)
            secrets.add_to_file(settings)
            return Rotation(stage="begun")
        if before != after:
            await run(database, lambda transaction: rotation.go_over(transaction, before, after))
            await secrets.belongs_to(database, master)
        return await _renew(database, settings, master)


async def finish(database: Database, settings: Settings, *, force: bool = False) -> Rotation:
    """Drop the previous secret. ConfigError: keys are known only by it, and `force` is not set."""
    with _alone(settings):
        master = await secrets.load_for(database, settings)
        await secrets.belongs_to(database, master)
        if master.fingerprint() != master.newest:
            raise ConfigError(TOO_EARLY)
        found = Rotation(stage="ended")
        needed = (await rotation.standing(database)).previous is not None
        if needed:
            found = msgspec.structs.replace(await _renew(database, settings, master), stage="ended")
            now = await database.now()

            async def end(transaction: Transaction) -> None:
                if not force:
                    _refuse(await rotation.waiting(transaction, master.generation - 1, now))
                await rotation.forget_previous(transaction)

            await run(database, end)
        dropped = settings.secret is None and secrets.drop_from_file(settings)
        if not (needed or dropped or settings.secret_previous is not None):
            raise ConfigError(NOTHING)
        return found


def _refuse(left: tuple[int, int]) -> None:
    if any(left):
        raise ConfigError(
            f"{_counted(*left)} not used since the master secret was rotated: without the one before "
            "they stop working. Wait until they are used, revoke them, or add --force"
        )


def _counted(keys: int, managers: int) -> str:
    counts = ((keys, "API key"), (managers, "management key"))
    text = " and ".join(plural(count, name) for count, name in counts if count)
    return f"{text} {'was' if keys + managers == 1 else 'were'}"


async def _renew(database: Database, settings: Settings, master: Secrets) -> Rotation:
    """Renew everything that can be renewed without its owner."""
    anew = unreadable = 0
    for column in SEALED:
        after = -1
        while page := await rotation.sealed_page(database, column, after, _BATCH):
            after = page[-1].id
            fresh, closed = await _seal_anew(database, master, column, page)
            anew, unreadable = anew + fresh, unreadable + closed
    await _end_playgrounds(database, settings, master)
    left = await rotation.waiting(database, master.generation - 1, await database.now())
    return Rotation(stage="moved", sealed_anew=anew, unreadable=unreadable, keys=left[0], management_keys=left[1])


async def _seal_anew(database: Database, master: Secrets, column: str, page: list[SealedText]) -> tuple[int, int]:
    """How many of the rows were sealed again, and how many cannot be opened at all."""
    fresh: list[tuple[SealedText, bytes]] = []
    unreadable = 0
    for each in page:
        try:
            sealed = master.sealed_anew(each.use, each.sealed)
            if column == rotation.KEY_COPIES:
                # The copy reveals the key.
                digests = master.digests(master.open(each.use, each.sealed).decode())
                await rotation.renew_digest(database, each.id, digests, master.fingerprint())
        except ConfigError:
            unreadable += 1
            continue
        if sealed is not None:
            fresh.append((each, sealed))

    async def put(transaction: Transaction) -> None:
        for text, sealed in fresh:
            await rotation.put_sealed(transaction, column, text, sealed)

    if fresh:
        await run(database, put)
    return len(fresh), unreadable


async def _end_playgrounds(database: Database, settings: Settings, master: Secrets) -> None:
    """Revoke the keys derived from the previous secret: the playground creates a new one when it is next used."""
    after, prefix = -1, settings.brand.key_prefix
    while page := await rotation.labelled(database, playground.LABEL, master.generation - 1, after, _BATCH):
        after = page[-1].id
        for each in page:
            known = {key.public_id for key in await account_keys.of_account(database, each.account_id)}
            if each.public_id in playground.made_for(master, each.account, prefix, known):
                await _revoke(database, each.public_id)


async def _revoke(database: Database, public_id: str) -> None:
    now = await database.now()
    await run(database, lambda transaction: keys.revoke(transaction, None, public_id, now))


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    if settings.secret is None:
        secrets.load(settings)  # creates the directory
        with secrets.alone(settings):
            yield
    else:
        yield
