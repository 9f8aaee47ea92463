"""Pages over ten million requests: each answers within 100 ms, on both databases.

    make soak ARGS="tests/web/test_many_requests.py -s"
    SOAK_ROWS=100000 …                               # fewer of them

Half of all requests are one account's, and its pages are asked for; the other half are those of 999 more. All of them
ended within the last 90 days. What is printed is CPU, which a busy machine does not blur, and the time from sending a
request to its last byte; both with the client's part, which is in the same process. The books of up to a million
requests are verified at the end.
"""

import asyncio
import contextlib
import os
import sqlite3
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import asyncpg
import msgspec
import psutil
import pytest
import uvloop
from tests.gateway.site import Site
from tests.servers import Postgres
from tests.store.books import NANO_A_TOKEN
from tests.web.town import operator
from tests.web.visitors import Visitor, house, registered

from tollbridge.core.ledger import hold_id
from tollbridge.store import meta, prices, rollups, schema, usage_days
from tollbridge.store.db import Database, PostgresDatabase, SqliteDatabase, Transaction, run
from tollbridge.store.verify import Report
from tollbridge.values import DAY_MS

ROWS = int(os.environ.get("SOAK_ROWS", "10000000"))
ACCOUNTS = 1_000
SPAN_MS = 90 * DAY_MS
TIMES = 15
MOST_MS = 100.0
MOST_BYTES = 150_000
# Above the ids of all that the site itself has written.
MUCH = 1_000_000
RAW = b'{"prompt_tokens":1234,"completion_tokens":567,"total_tokens":1801,"prompt_tokens_details":{"cached_tokens":0}}'
# Of row {i}: every other one is of the first account; charges are tokens, at one nano-USD each.
ACCOUNT = "({first} + CASE WHEN i % 2 = 0 THEN 0 ELSE 1 + (i / 2) % 999 END)"
CHARGE = "(200 + i % 3000)"
HOLDS = f"""
INSERT INTO hold (id, account_id, key_id, amount, limited, expires_at)
SELECT {{base}} + i, {ACCOUNT}, {ACCOUNT} * 2 + {{keys}} + (i / 7) % 2, {CHARGE}, {{no}}, {{at}}
FROM {{numbers}}
"""
USAGE = f"""
INSERT INTO usage (hold_id, account_id, key_id, ended_at, held, charge, promo, loss, cost, price_version, input,
    cache_read, cache_write, cache_write_1h, output, reasoning, started_at, duration_ms, first_byte_ms, outcome, status,
    flags, raw)
SELECT {{base}} + i, {ACCOUNT}, {ACCOUNT} * 2 + {{keys}} + (i / 7) % 2, {{at}}, {CHARGE},
    {CHARGE}, 0, 0, {CHARGE} / 2, {{price}} + (i / 3) % 3, 200, 0, 0, 0, i % 3000, 0, {{at}} - 900,
    900, 300, 1, 200, 1, {{raw}}
FROM {{numbers}}
"""
AMOUNTS = "SELECT account_id, SUM(charge) FROM usage GROUP BY account_id"
PAGES = (
    "/dashboard",
    *(f"/dashboard/usage?range={each}&by={by}" for each in ("24h", "7d", "30d", "90d") for by in ("", "model", "key")),
    "/dashboard/requests",
    "/dashboard/requests?status=failed",
    "/dashboard/requests?range=90d&key={key}",
    "/dashboard/requests?model=m1",
    "/dashboard/keys",
    "/dashboard/billing",
    "/dashboard/billing/statement?month={month}",
    "/admin",
    *(f"/admin?by={by}&since={{since}}" for by in ("day", "model", "provider", "account")),
    "/admin/ledger",
)
"""Filled in when it runs: a key's public id, a month, a day 89 days ago."""


def scripts(dialect: str, numbers: tuple[int, int], of: dict[str, int]) -> list[str]:
    """What makes the rows from one number to before another."""
    begin, end = numbers
    postgres = dialect == "postgresql"
    counted = f"WITH RECURSIVE n(i) AS (SELECT {begin} UNION ALL SELECT i + 1 FROM n LIMIT {end - begin})"
    series = f"generate_series({begin}::bigint, {end - 1}) AS n(i)" if postgres else f"({counted} SELECT i FROM n)"
    raw = f"'\\x{RAW.hex()}'::bytea" if postgres else f"x'{RAW.hex()}'"
    at = f"{of['start']} + i * {of['step']} / 1000"
    more = {"numbers": series, "raw": raw, "no": "false" if postgres else "0", "at": at}
    return [text.replace("{first}", str(of["first"])).format(**of, **more) for text in (HOLDS, USAGE)]


async def fill(site: Site, account_id: int) -> None:
    """The requests, the money for them, and everybody who made them."""
    database = site.database
    now = await database.now()
    versions = await prices.register(
        database,
        [
            prices.Terms(model=f"m{n}", provider="p", upstream_model="u", price=NANO_A_TOKEN, cost=NANO_A_TOKEN)
            for n in (1, 2, 3)
        ],
    )
    assert list(versions) == list(range(versions[0], versions[0] + 3))
    [(epoch,)] = await database.fetch(
        "INSERT INTO process (host, pid, started_at, heartbeat_at, fenced_at, swept_at) VALUES ('', 0, $1, $1, $1, $1) "
        "RETURNING epoch",
        now,
    )
    [(keys,)] = await database.fetch("SELECT MAX(id) + 1 FROM api_key")

    async def people(transaction: Transaction) -> None:
        for id_ in range(account_id, account_id + ACCOUNTS):
            if id_ > account_id:
                await _account(transaction, id_)
            for each in (0, 1):
                await transaction.execute(
                    "INSERT INTO api_key (id, public_id, account_id, digest, pepper_id, hint, label, created_at) "
                    "VALUES ($1, $2, $3, $4, 1, 'tb_live_…', $2, 0)",
                    *(id_ * 2 + keys + each, f"key_{id_ - account_id}_{each}", id_, os.urandom(32)),
                )

    await run(database, people)
    of = {
        "first": account_id,
        "keys": keys,
        "price": versions[0],
        "base": hold_id(epoch, 1),
        "start": now - SPAN_MS,
        "step": SPAN_MS * 1000 // ROWS,
    }
    await make_rows(database, of)
    amounts = await _amounts(database)

    async def money(transaction: Transaction) -> None:
        for account, amount in amounts:
            id_ = MUCH + account
            await transaction.execute(
                "INSERT INTO journal (id, idempotency_key, kind, account_id, reason, actor, created_at) "
                "VALUES ($1, $2, 'top_up', $3, '', '', 0)",
                *(id_, f"many/{account}", account),
            )
            for line, (book, sign) in enumerate((("processor_clearing", -1), ("customer_paid", 1))):
                await transaction.execute(
                    "INSERT INTO entry (journal_id, line, book, amount) VALUES ($1, $2, $3, $4)",
                    *(id_, line, book, sign * int(amount)),
                )

    await run(database, money)


async def _account(transaction: Transaction, id_: int) -> None:
    await transaction.execute(
        "INSERT INTO account (id, public_id, email, plan, created_at) VALUES ($1, $2, $3, 'default', 0)",
        *(id_, f"acct_{id_}", f"{id_}@many.example"),
    )
    await transaction.execute(
        "INSERT INTO balance (account_id, paid, promo, held, frozen) VALUES ($1, 0, 0, 0, $2)", id_, False
    )


async def make_rows(database: Database, of: dict[str, int]) -> None:
    index = "CREATE INDEX usage_by_account ON usage (account_id, ended_at)"
    steps = [(begin, min(ROWS, begin + 500_000)) for begin in range(0, ROWS, 500_000)]
    made = [script for step in steps for script in scripts(database.dialect, step, of)]
    if isinstance(database, PostgresDatabase):
        connection = await asyncpg.connect(database.url)
        await connection.execute("SET synchronous_commit = off; SET maintenance_work_mem = '512MB'")
        for statement in ("DROP INDEX usage_by_account", *made, index, "VACUUM ANALYZE usage"):
            await connection.execute(statement)
        await connection.close()
    else:
        await asyncio.to_thread(_run_all, database, ["DROP INDEX usage_by_account", *made, index])


async def _amounts(database: Database) -> list[tuple[int, int]]:
    if isinstance(database, PostgresDatabase):
        connection = await asyncpg.connect(database.url)
        rows = await connection.fetch(AMOUNTS)
        await connection.close()
        return [tuple(row) for row in rows]
    return [(row[0], row[1]) for row in await database.fetch(AMOUNTS)]


async def settle(database: Database) -> None:
    """Sum all that there is anew, it came from the past: in one step, which a gateway that serves would not take."""
    latest = await database.now() - rollups.SETTLED_MS
    statements = ["DELETE FROM usage_rollup", "DELETE FROM usage_day"]
    for add in (rollups._ADD, usage_days._ADD):
        sums = rollups.by_time(database.dialect, add)
        statements.append(sums.replace("$1", "0").replace("$2", str(latest)))
    if isinstance(database, PostgresDatabase):
        connection = await asyncpg.connect(database.url)
        for statement in statements:
            await connection.execute(statement)
        await connection.execute("ANALYZE")
        await connection.close()
    else:
        await asyncio.to_thread(_run_all, database, statements)
    for watermark in (rollups.WATERMARK, usage_days.WATERMARK):
        await meta.put(database, watermark, latest)


def _run_all(database: Database, statements: list[str]) -> None:
    assert isinstance(database, SqliteDatabase)
    with sqlite3.connect(database.path, timeout=60) as file:
        file.execute("PRAGMA synchronous=OFF")
        for statement in statements:
            file.execute(statement)
    file.close()


class Found(msgspec.Struct):
    """What one thing took: the times in milliseconds, CPU of client and servers for one in milliseconds, KB sent."""

    name: str
    times: list[float]
    cpu_ms: float
    size: int = 0

    def line(self) -> str:
        p95 = self.times[min(len(self.times) - 1, int(len(self.times) * 0.95))]
        return (
            f"{self.cpu_ms:8.1f} {statistics.median(self.times):8.1f} {p95:8.1f} {self.size / 1000:6.0f}  {self.name}"
        )


class Clock:
    """Measures what is awaited. `server`: a PostgreSQL whose processes count too."""

    def __init__(self, server: Postgres | None) -> None:
        self._server = server
        self.found: list[Found] = []

    async def measure(self, name: str, ask: Callable[[], Awaitable[int]], times: int = TIMES) -> None:
        await ask()
        cpu, taken, size = self._cpu(), [], 0
        for _ in range(times):
            started = time.perf_counter()
            size = max(size, await ask())
            taken.append((time.perf_counter() - started) * 1000)
        self.found.append(Found(name, sorted(taken), (self._cpu() - cpu) * 1000 / times, size))

    def _cpu(self) -> float:
        used = time.process_time()
        for process in [] if self._server is None else self._server._family():
            with contextlib.suppress(psutil.Error):
                spent = process.cpu_times()
                used += spent.user + spent.system
        return used


async def get(visitor: Visitor, path: str) -> int:
    response = await visitor.client.get(path, headers={"accept-encoding": "gzip"})
    assert response.status_code == 200, (path, response.status_code, response.text[:300])
    return int(response.headers.get("content-length", len(response.content)))


async def first_byte(visitor: Visitor, path: str) -> int:
    async with visitor.client.stream("GET", path) as response:
        assert response.status_code == 200
        await anext(response.aiter_raw())
    return 0


class Pages:
    """One page of 200 requests after the other."""

    def __init__(self, visitor: Visitor) -> None:
        self._visitor = visitor
        self._after = ""

    async def turn(self) -> int:
        response = await self._visitor.client.get(f"/api/requests?limit=200{self._after}")
        assert response.status_code == 200, response.text
        cursor = response.json()["next_cursor"]
        self._after = "" if cursor is None else f"&cursor={cursor}"
        return 0


@pytest.mark.soak
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_no_page_takes_longer_than_100_ms(dialect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def look(site: Site, clock: Clock) -> None:
        boss = await operator(site)
        owner = await registered(site, "big@example.com")
        [(account_id,)] = await site.database.fetch("SELECT id FROM account WHERE email = 'big@example.com'")
        await fill(site, account_id)
        await settle(site.database)
        print(f"\n{dialect}: {ROWS:,} requests")
        now = time.time()
        names = {
            "key": "key_0_1",
            "month": time.strftime("%Y-%m", time.gmtime(now - 30 * 86_400)),
            "since": time.strftime("%Y-%m-%d", time.gmtime(now - 89 * 86_400)),
        }
        for page in PAGES:
            path = page.format(**names)
            await clock.measure(path, partial(get, boss if path.startswith("/admin") else owner, path))
        newest = (await owner.client.get("/api/requests?limit=1")).json()["data"][0]["id"]
        await clock.measure("/dashboard/requests/{id}", partial(get, owner, f"/dashboard/requests/{newest}"))
        csv = "/dashboard/requests.csv"
        await clock.measure(f"{csv} (first byte)", partial(first_byte, owner, csv))
        await clock.measure("/api/requests, page after page", Pages(owner).turn, 100)
        for turn in (rollups.roll_up, usage_days.roll_up):

            async def once(turn: Callable[[Database], Awaitable[None]] = turn) -> int:
                await turn(site.database)
                return 0

            await clock.measure(f"a turn of {turn.__module__}", once)
        print(f"{'CPU ms':>8} {'ms':>8} {'p95':>8} {'KB':>6}", *(found.line() for found in clock.found), sep="\n")

    async def unverified(_: Database) -> Report:
        return Report()

    if ROWS > 1_000_000:
        # It would take longer than all the rest.
        monkeypatch.setattr("tests.gateway.site.verify", unverified)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            server = stack.enter_context(Postgres()) if dialect == "postgresql" else None
            options = {}
            if server is not None:
                options["database_url"] = stack.enter_context(server.database())
                await schema.migrate(options["database_url"])
            clock = Clock(server)
            site = await stack.enter_async_context(house(**options))
            await look(site, clock)
        assert not {found.name: found.cpu_ms for found in clock.found if found.cpu_ms > MOST_MS}
        assert not {found.name: found.size for found in clock.found if found.size > MOST_BYTES}

    # As in production: asyncio's own loop leaves small packets waiting for 40 ms.
    uvloop.run(main())
