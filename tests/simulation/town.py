"""Who lives where a simulation plays: a migrated database with customers, and a gateway's configuration for it.

Made once for each run of Python, by the product's own services, and copied for every seed.
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

from tollbridge.app import Gateway, _upstream
from tollbridge.config import Settings, Source, read
from tollbridge.core import money
from tollbridge.core.catalog import Catalog
from tollbridge.core.ledger import top_up
from tollbridge.core.periods import Reset
from tollbridge.services import accounts, credit, keys, secrets
from tollbridge.services.secrets import Secrets
from tollbridge.store import journal, schema
from tollbridge.store.db import Database, open_database, run
from tollbridge.store.keys import Rules
from tollbridge.store.ledger import postgres as _postgres  # imported before time is virtual

__all__ = ["CREDIT_USD", "Customer", "Town", "found"]

# The second list of prices is in force once an operator has changed them.
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
tpm = 60000
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
routes = [{{ provider = "a", model = "am" }}, {{ provider = "b", model = "bm", price = {{ input = "3", output = "6" }} }}]
"""

# What each has: much, hardly enough for a few calls, a key with a daily limit, included tokens, paid credit only.
CREDIT_USD = {"rich": "5", "poor": "0.012", "limited": "5", "tokens": "0.02", "paid": "0.5"}
KEY_LIMIT_USD = "0.02"
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
    # By the list of prices that is in force.
    catalogs: tuple[dict[int | None, Catalog], ...]


_towns: list[Town] = []


def found() -> Town:
    if not _towns:
        _towns.append(_build())
    return _towns[0]


def shared_memory() -> str | None:
    """Where files cost no disk."""
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
    account = await accounts.create(
        database, f"{name}@example.com", plan=PLANS.get(name, "default"), plans=settings.plans, actor="test"
    )
    amount = money.parse_usd(CREDIT_USD[name])
    if name == "paid":
        post = top_up(account.id, amount, idempotency_key="top_up/first", reason="test", actor="test")
        now = await database.now()
        await run(database, lambda transaction: journal.post(database, transaction, post, now))
    else:
        await credit.grant(database, account, amount, reason="test", actor="test", idempotency_key=name)
    prefix = settings.brand.key_prefix
    if name == "limited":
        limit = money.parse_usd(KEY_LIMIT_USD)
        made = await keys.create(database, master, account, prefix, limit=limit, rules=Rules(reset=Reset.DAILY))
    else:
        made = await keys.create(database, master, account, prefix)
    rows = await database.fetch("SELECT id FROM api_key WHERE public_id = $1", made.public_id)
    return Customer(name, account.id, rows[0][0], made.public_id, made.text)


async def _catalogs(database: Database, settings: Settings) -> dict[int | None, Catalog]:
    gateway = Gateway(settings, lambda _: None)
    gateway._database = database
    upstreams = gateway._open_upstreams({name: _upstream(name, row) for name, row in settings.providers.items()})
    return await gateway._read_catalogs(settings, upstreams)
