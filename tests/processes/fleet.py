"""Gateways as they are deployed: real `tollbridge serve` processes over one real PostgreSQL and one real Valkey.

    with Fleet(4, folder) as fleet:
        fleet.run(scenario)                 # `await scenario(fleet)`; afterwards the books must verify
        fleet.nodes[2].kill(); fleet.nodes[2].start()

The upstream charges what it is told: a call for `n` tokens is answered with a usage of `n` output tokens, so that each
charge can be told from all others, and every answer that a client got can be found in the books.
"""

import asyncio
import contextlib
import functools
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import uvloop
from tests.gateway.process import SERVES, command_line, configure, until
from tests.gateway.site import INPUT_NANO, OUTPUT_NANO, Call, Reply, _request, always, completion, http
from tests.servers import HOST, Postgres, Valkey
from tests.upstream.bad_server import BadServer, Peer, Request

from tollbridge.core.money import parse_usd
from tollbridge.services import accounts, keys
from tollbridge.services.secrets import Secrets
from tollbridge.store import schema
from tollbridge.store.db import Database, open_database
from tollbridge.store.keys import Rules
from tollbridge.store.verify import verify

START_S = 60.0
SECRET = "what-all-machines-of-a-gateway-share"
PROMPT = 10

STRICT_RPM = 40
PLANS = f"""
[plans.roomy]
concurrency = 10000

[plans.strict]
rpm = {STRICT_RPM}
strict = true
"""


def price(output: int) -> int:
    """What an answer with this many tokens costs, in nano-USD."""
    return PROMPT * INPUT_NANO + output * OUTPUT_NANO


class Customer(NamedTuple):
    account_id: int
    email: str
    key: str
    key_id: str


class Node:
    """One process. `data_dir` outlives it."""

    def __init__(self, data_dir: Path, config: Path) -> None:
        self._data_dir = data_dir
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def begin(self) -> None:
        """Start without waiting for it."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command_line(self._config, "serve", "--data-dir", str(self._data_dir)),
                env={"PATH": os.environ["PATH"], "TOLLBRIDGE_SECRET": SECRET},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def await_start(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + START_S
        while not (found := SERVES.search(self.said)):
            assert self._process.poll() is None, self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)
        self.port = int(found[1])

    def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def _log(self) -> Path:
        return self._data_dir.with_suffix(".log")


class Upstream:
    """Answers in a thread of its own, for as long as the fleet lives.

    `pause`: before each answer, in seconds; `prompt`: the input tokens that it reports.
    """

    def __init__(self) -> None:
        self.pause = 0.0
        self.prompt = PROMPT
        self.asked = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))
        self._thread.start()
        self._ready.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        async with BadServer(always(self._answer)) as server:
            self.url = server.url
            self._ready.set()
            await self._over.wait()

    async def _answer(self, request: Request, peer: Peer) -> None:
        self.asked += 1
        await asyncio.sleep(self.pause)
        output = int(json.loads(request.body)["messages"][0]["content"])
        await peer.send(http(200, completion(usage=(self.prompt, output))))


class Fleet:
    def __init__(self, size: int, folder: Path, **settings: str) -> None:
        self._folder = folder
        self._size = size
        # Servers die with the thread that started them.
        self._thread = ThreadPoolExecutor(1)
        self.postgres = Postgres(**settings)
        self.valkey = Valkey()
        self.upstream = Upstream()
        self.nodes: list[Node] = []
        self.database: Database
        self._count = 0

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _start(self) -> None:
        self.do(self.postgres.start)
        self.do(self.valkey.start)
        asyncio.run(schema.migrate(self.postgres.url()))
        servers = f'database_url = "{self.postgres.url()}"\nredis_url = "{self.valkey.url()}"\n'
        config = configure(self._folder, self.upstream.url, f'{servers}require_verified_email = "never"\n', PLANS)
        self.nodes = [Node(self._folder / f"node-{number}", config) for number in range(self._size)]
        self.start(self.nodes)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for node in self.nodes:
            node.stop()
        self.upstream.close()
        self.do(self.valkey.stop)
        self.do(self.postgres.stop)
        self._thread.shutdown()

    def start(self, nodes: Iterable[Node]) -> None:
        """Start all of them at once."""
        nodes = list(nodes)
        for node in nodes:
            node.begin()
        for node in nodes:
            node.await_start()

    def do(self, what: Callable[[], object]) -> None:
        """Do something to a server; blocks."""
        self._thread.submit(what).result()

    async def during(self, what: Callable[[], object]) -> None:
        """Do something to a server while everything else goes on."""
        await asyncio.get_running_loop().run_in_executor(self._thread, what)

    def run(self, scenario: Callable[["Fleet"], Awaitable[None]]) -> None:
        async def main() -> None:
            self.upstream.pause, self.upstream.prompt = 0.0, PROMPT
            self.database = open_database(self.postgres.url())
            await self.database.start()
            try:
                await scenario(self)
                await self.books_are_right()
            finally:
                await self.database.close()

        uvloop.run(main())

    # --- customers ------------------------------------------------------------------------------------------------

    async def customer(self, nano: int, *, limit: int | None = None, plan: str = "roomy") -> Customer:
        """A new account with this much credit, and a key."""
        self._count += 1
        account = await accounts.create(
            self.database,
            f"customer{self._count}@example.com",
            plan=plan,
            plans=("roomy", "strict"),
            credit=nano,
            actor="test",
        )
        made = await keys.create(
            self.database, Secrets(SECRET), account, "tb_live_", rules=Rules(limit=limit), actor="test"
        )
        return Customer(account.id, account.email, made.text, made.public_id)

    async def ask(self, node: Node, customer: Customer, output: int = 5) -> Reply:
        """One call for an answer of `output` tokens, and no more. OSError: the node is not there."""
        body = {"model": "m", "max_tokens": output, "messages": [{"role": "user", "content": str(output)}]}
        return await self.send(node, customer, "POST", "/v1/chat/completions", json.dumps(body).encode())

    async def send(self, node: Node, customer: Customer, method: str, path: str, body: bytes = b"") -> Reply:
        reader, writer = await asyncio.open_connection(HOST, node.port)
        call = Call(reader, writer)
        try:
            headers = {"authorization": f"Bearer {customer.key}", "content-type": "application/json"}
            writer.write(_request(method, path, body, headers))
            try:
                return await call.rest()
            except asyncio.IncompleteReadError as error:
                raise ConnectionResetError("the answer was cut") from error
        finally:
            call.close()

    # --- the books ------------------------------------------------------------------------------------------------

    async def ends(self, customer: Customer) -> list[dict[str, Any]]:
        names = ("held", "charge", "output", "outcome")
        rows = await self.database.fetch(
            "SELECT held, charge, output, outcome FROM usage WHERE account_id = $1 ORDER BY hold_id",
            customer.account_id,
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    async def balance(self, customer: Customer) -> tuple[int, int]:
        """What is there, and how much of it is held."""
        rows = await self.database.fetch(
            "SELECT paid + promo, held FROM balance WHERE account_id = $1", customer.account_id
        )
        return rows[0][0], rows[0][1]

    async def money(self, customer: Customer) -> tuple[int, int, int]:
        """What is there, how much of it is held, and what requests have taken, all at one moment.

        On a busy machine an end can come after its process was killed, started again and swept: it is booked as late.
        """
        rows = await self.database.fetch(
            "SELECT paid + promo, held, "
            "(SELECT COALESCE(SUM(charge), 0) FROM usage WHERE account_id = $1) - "
            "(SELECT COALESCE(SUM(amount), 0) FROM journal JOIN entry ON journal_id = journal.id "
            "WHERE account_id = $1 AND kind = 'late' AND book IN ('customer_paid', 'customer_promo')) "
            "FROM balance WHERE account_id = $1",
            customer.account_id,
        )
        return rows[0][0], rows[0][1], int(rows[0][2])

    async def await_balance(self, customer: Customer, nano: int) -> None:
        """Wait until so much is there and nothing is held: a busy machine may book later than it answers."""
        with contextlib.suppress(AssertionError):
            await until(functools.partial(self._is, customer, nano))
        assert await self.balance(customer) == (nano, 0)

    async def _is(self, customer: Customer, nano: int) -> bool:
        return await self.balance(customer) == (nano, 0)

    async def open_holds(self) -> int:
        rows = await self.database.fetch(
            "SELECT count(*) FROM hold LEFT JOIN usage ON usage.hold_id = hold.id WHERE usage.hold_id IS NULL"
        )
        return int(rows[0][0])

    async def books_are_right(self) -> None:
        await until(self.nothing_open, 30.0)
        report = await verify(self.database)
        assert report.ok, report.problems

    async def nothing_open(self) -> bool:
        return await self.open_holds() == 0


def charged(reply: Reply) -> int:
    """The nano-USD reported by the headers."""
    assert reply.headers["x-tollbridge-cost-basis"] == "final"
    return parse_usd(reply.headers["x-tollbridge-charged-usd"])


def degraded(replies: Iterable[Reply]) -> bool:
    """Whether a process had to count for itself."""
    return any(reply.headers.get("x-ratelimit-mode") == "degraded" for reply in replies)
