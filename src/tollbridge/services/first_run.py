"""What a new gateway begins with: an account for its operator and a key, so that a first call works at once."""

import msgspec

from tollbridge.config import Settings
from tollbridge.core.money import dollars, format_usd
from tollbridge.core.plans import DEFAULT_PLAN
from tollbridge.services.accounts import add
from tollbridge.services.keys import MadeKey, keep_copy, make
from tollbridge.services.secrets import Secrets, belongs_to
from tollbridge.store import accounts, keys
from tollbridge.store.db import Database, Duplicate, Transaction, run

EMAIL = "operator@localhost"
ACTOR = "first start"
LABEL = "first"


class First(msgspec.Struct, frozen=True):
    """What was created. `credit` in nano-USD. `again`: the dashboard shows the key too."""

    key: MadeKey
    credit: int
    again: bool = False


async def begin(database: Database, settings: Settings, master: Secrets) -> First | None:
    """Create the first account and key in one transaction; None if there is an account already.

    ConfigError: the database's keys were made with another master secret.
    """
    await belongs_to(database, master)
    if await accounts.page(database, 0, 1):
        return None
    now = await database.now()
    credit, again = settings.billing.signup_grant, settings.keys.reveal == "always"

    async def use_case(transaction: Transaction) -> MadeKey:
        account_id = await add(database, transaction, EMAIL, DEFAULT_PLAN, credit, ACTOR, now)
        made, row = make(master, account_id, settings.brand.key_prefix, LABEL)
        await keys.create(transaction, row, now)
        if again:
            await keep_copy(master, transaction, made)
        return made

    try:
        return First(await run(database, use_case), credit, again)
    except Duplicate:
        return None  # another process was quicker


def welcome(first: First, url: str, model: str) -> str:
    """What is printed about it, once: the key, and a call that works as pasted."""
    shown = "which its dashboard shows too" if first.again else "which is shown only now"
    body = msgspec.json.encode({"model": model, "messages": [{"role": "user", "content": "Hello!"}]}).decode()
    return f"""\
This is the first start. {EMAIL} has an account with {dollars(format_usd(first.credit))} of credit and this API key,
{shown}:

    {first.key.text}

Try it:

    curl {url}/v1/chat/completions \\
      -H 'Authorization: Bearer {first.key.text}' \\
      -H 'Content-Type: application/json' \\
      -d '{body}'
"""
