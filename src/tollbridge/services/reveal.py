"""Showing an API key in full: once, or as often as the operator allows (`keys.reveal`)."""

import msgspec

from tollbridge.services.desk import Desk
from tollbridge.store import key_copies
from tollbridge.store.db import run


class Revealed(msgspec.Struct, frozen=True):
    """`text` is the key itself. `again`: it can be shown later too."""

    public_id: str
    text: str
    again: bool

    def __repr__(self) -> str:
        return f"Revealed({self.public_id})"


async def keys_to_show(desk: Desk, account_id: int) -> list[Revealed]:
    """The account's keys that may be shown in full now, the oldest first. With `reveal = "once"` this was the time."""
    again = desk.settings.keys.reveal == "always"
    shown = []
    for public_id, sealed in await key_copies.of_account(desk.database, account_id):
        if not again and not await _used_up(desk, account_id, public_id):
            continue
        shown.append(Revealed(public_id, desk.master.open(f"key/{public_id}", sealed).decode(), again))
    return shown


async def _used_up(desk: Desk, account_id: int, public_id: str) -> bool:
    return await run(desk.database, lambda transaction: key_copies.drop(transaction, account_id, public_id))
