"""What somebody did in an account, noted where its members can read it."""

from collections.abc import Sequence

import msgspec

from tollbridge.services.sessions import Client
from tollbridge.store import activity, members
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.members import Belonging
from tollbridge.store.users import User


class Actor(msgspec.Struct, frozen=True):
    """Who does it, and the network address that they do it from."""

    name: str
    address: str

    def deed(self, account_id: int, action: str, detail: str) -> NewDeed:
        return NewDeed(account_id=account_id, actor=self.name, action=action, detail=detail, address=self.address)


async def note(database: Database, account: Account, actor: Actor, action: str, detail: str = "") -> None:
    """Note that `actor` did `action` (`voucher.redeemed`), once it is done."""
    now = await database.now()
    deed = actor.deed(account.id, action, detail)
    await run(database, lambda transaction: activity.add(transaction, deed, now))


async def note_of_user(transaction: Transaction, user: User, action: str, client: Client, now: int) -> None:
    """Note in all accounts of `user` what they did to their log-in (`password.changed`), in the same transaction."""
    for each in await members.of_user(transaction, user.id):
        deed = NewDeed(account_id=each.account_id, actor=user.email, action=action, address=client.address)
        await activity.add(transaction, deed, now)


def known_as(belongings: Sequence[Belonging], otherwise: str) -> str:
    """Whom something was done to, by their accounts: so says the gateway's own activity, which forgets nobody.

    `otherwise`: what says who they are if they belong to none.
    """
    return ", ".join(each.public_id for each in belongings) or otherwise
