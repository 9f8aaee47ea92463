"""What somebody did in an account, noted where its members read it."""

from tollbridge.services.key_management import Actor
from tollbridge.store import activity
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database, run


async def note(database: Database, account: Account, actor: Actor, action: str, detail: str = "") -> None:
    """Write down that `actor` did `action` (`voucher.redeemed`), once it is done."""
    now = await database.now()
    deed = actor.deed(account.id, action, detail)
    await run(database, lambda transaction: activity.add(transaction, deed, now))
