"""The inhabitants of a simulation: a migrated database with customers, and a gateway's configuration for it.

Made once per Python process, by the product's own services, and copied for every seed.
"""

import asyncio
import atexit
import contextlib
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import msgspec

from tollbridge.app import Gateway
from tollbridge.config import Settings, Source, read
from tollbridge.core import money
from tollbridge.core.catalog import Catalog
from tollbridge.core.ledger import grant, top_up
from tollbridge.core.periods import Reset
from tollbridge.services import keys, secrets
from tollbridge.services.providers import upstreams as upstreams_of
from tollbridge.services.secrets import Secrets
from tollbridge.store import accounts, journal, schema
from tollbridge.store import keys as key_rows
from tollbridge.store.db import Database, Transaction, open_database, run
from tollbridge.store.keys import Rules

__all__ = ["CREDIT_USD", "Customer", "Town", "found"]

# The second price list takes effect once an operator has changed the prices.
CONFIG = """
data_dir = "{folder}"
database_url = "sqlite:///{folder}/town.db"
allow_plain_http = true

[billing]
default_hold_tokens = 400

[providers.a]
dialect = "openai_chat"
base_url = "http://127.0.0.1:1/v1"
api_key = "env:SIMULATED_KEY"
cancel_stops_billing = true

[providers.b]
dialect = "openai_chat"
base_url = "http://127.0.0.1:2/v1"
api_key = "env:SIMULATED_KEY"
cancel_stops_billing = false

[plans.default]
rpm = 12
tpm = 2000
concurrency = 5
strict = true

[plans.loose]
rpm = 20

[plans.tokens]
included_tokens = 9000

[[models]]
id = "m"
context_window = 100000
output_limit = 4096
price = {{ input = "{input}", output = "{output}" }}
routes = [
  {{ provider = "a", model = "am" }},
  {{ provider = "b", model = "bm", price = {{ input = "3", output = "6" }} }},
]
"""

# What each has: plenty, hardly enough for a few calls, a key with a daily limit, included tokens, paid credit only.
CREDIT_USD = {"rich": "5", "poor": "0.003", "limited": "5", "tokens": "0.02", "paid": "0.5"}
KEY_LIMIT_USD = "0.004"
PLANS = {"poor": "loose", "tokens": "tokens", "paid": "loose"}


class Customer(msgspec.Struct, frozen=True):
    name: str
    account_id: int
    key_id: int
    public_key: str
    key: str


class Town(msgspec.Struct, frozen=True):
    file: bytes
    customers: tuple[Customer, ...]
    settings: Settings
    master: Secrets
    # By the price list in effect.
    catalogs: tuple[dict[int | None, Catalog], ...]


_towns: list[Town] = []


def found() -> Town:
    if not _towns:
        _towns.append(_build())
    return _towns[0]


def shared_memory() -> str | None:
    """A directory in which files cost no disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def _build() -> Town:
    folder = Path(tempfile.mkdtemp(dir=shared_memory()))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ.setdefault("SIMULATED_KEY", "x")
    lists = []
    for number, (input_, output) in enumerate((("1", "2"), ("1.5", "2.5"))):
        path = folder / f"{number}.toml"
        path.write_text(CONFIG.format(folder=folder, input=input_, output=output))
        lists.append(read(Source(path=path)))
    settings, url = lists[0], f"sqlite:///{folder}/town.db"
    asyncio.run(schema.migrate(url))
    master = secrets.load(settings)

    async def settle() -> tuple[tuple[Customer, ...], tuple[dict[int | None, Catalog], ...]]:
        database = open_database(url)
        await database.start()
        try:
            customers = tuple([await _customer(database, settings, master, name) for name in CREDIT_USD])
            catalogs = tuple([await _catalogs(database, each) for each in lists])
            return customers, catalogs
        finally:
            await database.close()

    customers, catalogs = asyncio.run(settle())
    with contextlib.closing(sqlite3.connect(folder / "town.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Town((folder / "town.db").read_bytes(), customers, settings, master, catalogs)


async def _customer(database: Database, settings: Settings, master: Secrets, name: str) -> Customer:
    now, amount = await database.now(), money.parse_usd(CREDIT_USD[name])
    limit = money.parse_usd(KEY_LIMIT_USD) if name == "limited" else None

    async def add(transaction: Transaction) -> Customer:
        plan = PLANS.get(name, "default")
        account = await accounts.create(
            transaction, public_id=f"acct_{name}", email=f"{name}@example.com", plan=plan, now=now
        )
        give = top_up if name == "paid" else grant
        await journal.post(
            database, transaction, give(account, amount, idempotency_key=f"first/{name}", reason="r", actor="a"), now
        )
        rules = Rules() if limit is None else Rules(limit=limit, reset=Reset.DAILY)
        made, row = keys.make(master, account, settings.brand.key_prefix, "", rules)
        await key_rows.create(transaction, row, now)
        [(key,)] = await transaction.fetch("SELECT id FROM api_key WHERE public_id = $1", made.public_id)
        return Customer(name, account, key, made.public_id, made.text)

    await secrets.belongs_to(database, master)
    return await run(database, add)


async def _catalogs(database: Database, settings: Settings) -> dict[int | None, Catalog]:
    gateway = Gateway(settings, lambda _: None)
    gateway._database = database
    upstreams = gateway._open_upstreams(upstreams_of(settings))
    return await gateway._read_catalogs(settings, upstreams)
