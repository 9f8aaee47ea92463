"""One seed, from its plan to the proof of its books.

result = simulate(seed)              # or simulate(seed, events): the same dice, other events
assert result.failure is None, result.trace
"""

import asyncio
import contextlib
import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import msgspec
from tests.core.posts import refund
from tests.simulation import town
from tests.simulation.invariants import Books, Broken, Witness
from tests.simulation.loop import LIFE, VirtualLoop, virtual
from tests.simulation.node import Node, SimulatedSpool, World, simulated_leftovers
from tests.simulation.plan import LASTS_S, NODES, Event, draw
from tests.simulation.provider import CALM, STORM, Providers
from tests.simulation.server import NOBODY, Network, Server, SimulatedDatabase

from tollbridge import jobs
from tollbridge.core.ledger import Kind, Post, Posted, grant, top_up
from tollbridge.errors import TollbridgeError, Unavailable
from tollbridge.limits.base import WINDOW_S, Exceeded, Grant
from tollbridge.limits.memory import MemoryLimiter
from tollbridge.store import journal, keys, processes, rollups, seal
from tollbridge.store.db import run
from tollbridge.store.ledger import postgres, spool
from tollbridge.store.verify import verify
from tollbridge.values import Outcome

# The periods of jobs, long enough that time in which nothing happens costs little.
PERIODS = {"POLL_S": 20.0, "BEAT_S": 25.0, "SWEEP_S": 60.0, "SEAL_S": 700.0, "FORGET_S": 1e6, "AUDIT_S": 1e6}
ROLL_UP_S = 90.0
_TRACED = 400


class Result(msgspec.Struct):
    seed: int
    failure: str | None
    trace: list[str]
    # What happened, for comparing runs: commits, requests by status, calls to providers, virtual seconds.
    sums: dict[str, int]


class Client:
    """A caller, as `edge.downstream.Downstream` presents it."""

    client = "127.0.0.1"
    paused = False
    known = None

    def __init__(self, name: str, scope: dict[str, Any], body: bytes) -> None:
        self.name = name
        self.scope = scope
        self.body = body
        self.disconnected = False
        self.response_started = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.data = b""
        self.whole = False
        self._gone: Callable[[], None] = lambda: None

    def whole_body(self) -> bytes:
        return self.body

    async def read_body(self) -> bytes:
        return self.body

    def on_disconnect(self, callback: Callable[[], None]) -> None:
        self._gone = callback

    def on_resume(self, callback: Callable[[], None]) -> None:
        return

    def respond(self, status: int, headers: Any, body: bytes = b"") -> None:
        self.start(status, headers, body)
        self.whole = True

    def start(self, status: int, headers: Any, data: bytes = b"") -> None:
        assert not self.response_started
        self.response_started, self.status, self.data = True, status, data
        self.headers = {name.lower(): value for name, _, value in (each.partition(b": ") for each in headers)}

    def write(self, data: bytes) -> bool:
        assert self.response_started
        self.data += data
        return False

    def end(self, data: bytes = b"") -> None:
        self.write(data)
        self.whole = True

    def abort(self) -> None:
        self.whole = True

    def leave(self) -> None:
        if not self.whole and not self.disconnected:
            self.disconnected = True
            self._gone()


class WatchedLimiter(MemoryLimiter):
    """Never more than the limit in any 60 seconds, nor more at a time; counted here independently."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        # For each scope: when each request was let in, and the tokens it took or, once it has ended, used.
        self._taken: dict[str, dict[int, list[float]]] = {}
        self._running: dict[str, set[int]] = {}

    async def take(self, request: int, scopes: Any, least: int, tokens: int) -> Grant | Exceeded:
        taken = await super().take(request, scopes, least, tokens)
        if isinstance(taken, Grant):
            now = asyncio.get_running_loop().time()
            for scope in scopes:
                rule, log = scope.rule, self._taken.setdefault(scope.name, {})
                log[request] = [now, tokens]
                inside = [each[1] for each in log.values() if each[0] > now - WINDOW_S]
                # A limit that is not strict may double within a minute.
                most = rule.requests and (rule.requests if rule.strict else 2 * rule.requests)
                if most is not None and len(inside) > most:
                    raise Broken(f"{scope.name}: {len(inside)} requests in a minute, limit {rule.requests}")
                if rule.strict and rule.tokens is not None and sum(inside) > rule.tokens:
                    raise Broken(f"{scope.name}: {sum(inside)} tokens in a minute, limit {rule.tokens}")
                running = self._running.setdefault(scope.name, set())
                running.add(request)
                if rule.concurrency is not None and len(running) > rule.concurrency:
                    raise Broken(f"{scope.name}: {len(running)} run at a time, limit {rule.concurrency}")
        return taken

    def give_back(self, grant: Grant, used: int) -> None:
        for scope in grant.scopes:
            running = self._running.get(scope.name, set())
            if grant.request not in running:
                raise Broken(f"{scope.name}: request {grant.request} gave its place back twice")
            running.discard(grant.request)
            self._taken[scope.name][grant.request][1] = used
        super().give_back(grant, used)


class Simulation:
    def __init__(self, loop: VirtualLoop, seed: int, folder: Path) -> None:
        self.loop = loop
        loop.set_exception_handler(self._unexpected)
        self.trace: list[str] = []
        self.sums: dict[str, int] = {}
        self.failure: str | None = None
        self._chance = Random(f"dice {seed}")
        self._town = town.found()
        path = folder / "database"
        path.write_bytes(self._town.file)
        self._network = Network()
        self.server = Server(loop, self._chance, path, self._network)
        self.providers = Providers(loop, self._chance)
        self.world = World(loop, self._chance, self.server, self.providers, self._town)
        self.books = Books()
        self.witness = Witness()
        self.server.on_commit = self._look
        self.world.saw = self.witness.see
        self.world.limiter = WatchedLimiter
        self.providers.on_call = self._called
        self._asked: dict[str, set[str]] = {}
        self.nodes = [Node(self.world, f"node{number}", folder / f"node{number}") for number in range(NODES)]
        self._office = SimulatedDatabase(self.server)
        self._customers = {customer.name: customer for customer in self._town.customers}
        self._calls: list[Client] = []
        self._work: list[asyncio.Task[None]] = []

    def _unexpected(self, loop: Any, context: dict[str, Any]) -> None:
        """An exception that nobody caught."""
        error = context.get("exception")
        life = LIFE.get()
        if life is None or not life.dead:
            self.failure = self.failure or f"{context['message']}: {error!r}"

    def note(self, text: str) -> None:
        self.trace.append(f"{self.loop.time() - 1_000:8.3f} {text}")

    def digest(self) -> int:
        """A digest of everything that ended, and when."""
        return zlib.crc32(repr(self.server.reader.execute("SELECT * FROM usage ORDER BY hold_id").fetchall()).encode())

    def count(self, what: str) -> None:
        self.sums[what] = self.sums.get(what, 0) + 1

    async def play(self, events: Sequence[Event]) -> None:
        for node in self.nodes:
            node.start()
        began = self.loop.time() + 2.0
        for event in events:
            await self._until(began + event.at)
            self.note(str(event)[9:])
            self._happen(event)
            self._require_sound()
        await self._until(began + max([LASTS_S, *(event.at for event in events)]))
        await self._recover()
        await self._prove()

    async def _until(self, at: float) -> None:
        await asyncio.sleep(max(0.0, at - self.loop.time()))

    # --- what happens ---

    def _happen(self, event: Event) -> None:
        more = event.more
        match event.kind:
            case "call":
                self._call(self.nodes[more[0]], event.who, *more[1:])
            case "power cut":
                node = self.nodes[event.who]
                self._soon(more[1], node, partial(self._cut_power, node, more[0]))
            case "cut off":
                self._for(more[0], self.nodes[event.who], "online", value=False, then=True)
            case "clock":
                self.nodes[event.who].machine.offset_s = more[0]
            case "database dies":
                self._soon(more[1], None, partial(self._kill_database, more[0]))
            case "database hangs":
                self.server.hang()
                self.loop.call_later(more[0], self.server.go_on)
            case "network":
                self._network.update(more[0])
                self.loop.call_later(more[1], self._network.clear)
            case "storm":
                self._for(more[0], self.providers, "weights", value=STORM, then=CALM)
            case "restart":
                self._spawn(self._restart(self.nodes[event.who]))
            case "prices":
                self.world.prices = 1 - self.world.prices
                for node in self.nodes:
                    if node.gateway is not None and node._context is not None:
                        price = node.gateway.price()
                        self._spawn(self._allowed_to_fail(price), node._context.copy())
            case _:
                self._spawn(self._clerk(event.kind, event.who, *more))

    def _soon(self, statements: int, node: Node | None, then: Callable[[], None]) -> None:
        """Call `then` now, or a moment after this many more statements (the last one a COMMIT) were executed."""
        left = statements

        def watch(life: Any, commits: bool) -> None:
            nonlocal left
            if node is None or life is node.life:
                left -= 1
                if left <= 0 and commits:
                    self.server.watchers.remove(watch)
                    self.loop.call_later(self._chance.choice((0.0, 0.0004, 0.003)), then, context=NOBODY)

        if statements:
            self.server.watchers.append(watch)
        else:
            then()

    def _cut_power(self, node: Node, seconds: float) -> None:
        self.note(f"power cut of {node.machine.name}")
        node.crash()
        self.loop.call_later(seconds, node.start, context=NOBODY)

    def _kill_database(self, seconds: float) -> None:
        self.note("the database dies")
        self.server.crash()
        self.loop.call_later(seconds, self.server.start, context=NOBODY)

    def _for(self, seconds: float, what: Any, name: str, *, value: Any, then: Any) -> None:
        setattr(what, name, value)
        self.loop.call_later(seconds, setattr, what, name, then)

    def _spawn(self, work: Any, context: Any = None) -> None:
        self._work.append(self.loop.create_task(work, context=context))

    async def _allowed_to_fail(self, work: Any) -> None:
        with contextlib.suppress(TollbridgeError):
            await work

    async def _restart(self, node: Node) -> None:
        node.stop()
        await asyncio.sleep(5.0)
        node.start()

    def _call(
        self, node: Node, who: str, stream: bool, most: int | None, leaves_after: float | None, name: str
    ) -> None:
        if node.gateway is None or not node.up:
            self.count("no gateway")
            return
        number = name or str(len(self._calls))
        body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": f"hello {number} {who}"}]}
        if stream:
            body["stream"] = True
        if most is not None:
            body["max_tokens"] = most
        headers = [
            (b"authorization", b"Bearer " + self._customers[who].key.encode()),
            (b"content-type", b"application/json"),
        ]
        if name:
            headers.append((b"idempotency-key", name.encode()))
        scope = {"method": "POST", "path": "/v1/chat/completions", "headers": headers, "query_string": b""}
        client = Client(name, scope, json.dumps(body).encode())
        self._calls.append(client)
        node.call(client)  # whatever it raises arrives in `_unexpected`
        if leaves_after is not None:
            # The connection's, which is the process's.
            self.loop.call_later(leaves_after, self._leave, node, client, node.life)

    def _leave(self, node: Node, client: Client, life: Any) -> None:
        if life is not None and node.life is life and node._context is not None:
            self.loop.call_soon(client.leave, context=node._context.copy())

    def _called(self, request: dict[str, Any]) -> None:
        """A provider is called only behind a stored hold: never for more requests than there are holds."""
        who = request["messages"][0]["content"]
        customer = self._customers[who.rpartition(" ")[2]]
        asked = self._asked.setdefault(customer.name, set())
        asked.add(who)
        [(holds,)] = self.server.reader.execute("SELECT COUNT(*) FROM hold WHERE key_id = ?", (customer.key_id,))
        if holds < len(asked):
            self.failure = self.failure or f"{customer.name}: {len(asked)} requests reached a provider, {holds} holds"

    async def _clerk(self, kind: str, who: str, amount: int, name: str) -> None:
        """The operator, who retries under the same name until the work is known to be done."""
        customer = self._customers[who]
        if kind in ("refund", "dispute"):
            self.books.overdrawn.add(customer.account_id)
        for _ in range(200):
            try:
                await self._do(kind, customer, amount, name)
            except Unavailable:
                await asyncio.sleep(1.0)
            else:
                return

    async def _do(self, kind: str, customer: town.Customer, amount: int, name: str) -> None:
        database = self._office
        # Not the names used by `payments`, under which refunds have rows beside the journal.
        key = f"office/{kind}/{name}"
        if kind == "revoke":
            now = await database.now()
            await run(database, lambda transaction: keys.revoke(transaction, None, customer.public_key, now))
            # It was committed before this moment; what the database does from now on comes after it.
            self.books.revoked.setdefault(customer.key_id, self.server.now)
            return
        make = {"grant": grant, "top-up": top_up}.get(kind, refund)
        post = make(customer.account_id, amount, idempotency_key=key, reason="r", actor="office")
        if kind == "dispute":
            post = msgspec.structs.replace(post, kind=Kind.DISPUTE)
        if isinstance(await _posted(database, post), Posted):
            self.witness.posted.add(key)

    # --- what must be so ---

    def _look(self) -> None:
        if self.failure is None:
            try:
                self.books.check(self.server.reader)
            except Broken as error:
                self.failure = str(error)

    def _require_sound(self) -> None:
        if self.failure is not None:
            raise Broken(self.failure)

    async def _recover(self) -> None:
        """Everything is repaired; then those who wait are served, and those who are dead are found."""
        self.note("everything is mended")
        self.server.watchers.clear()
        self._network.clear()
        self.server.start()
        self.server.go_on()
        self.providers.weights = CALM
        for node in self.nodes:
            node.online = True
            node.machine.offset_s = 0.0
        await asyncio.sleep(150.0)
        for node in self.nodes:
            node.start()
        await asyncio.sleep(30.0)
        for _ in range(40):
            if not self._open():
                break
            await asyncio.sleep(100.0)
        self._require_sound()
        # Once more, for what a machine keeps on its disk until its next start.
        for node in self.nodes:
            node.stop()
        await asyncio.sleep(60.0)
        for node in self.nodes:
            if node.up:
                raise Broken(f"{node.machine.name} does not stop")
            node.start()
        await asyncio.sleep(30.0)
        for node in self.nodes:
            if node.gateway is None:
                raise Broken(f"{node.machine.name} does not serve")
            node.stop()
        await asyncio.sleep(60.0)
        self._require_sound()

    def _open(self) -> int:
        [(count,)] = self.server.reader.execute(
            "SELECT COUNT(*) FROM hold LEFT JOIN usage ON usage.hold_id = hold.id WHERE usage.hold_id IS NULL"
        )
        return int(count)

    async def _prove(self) -> None:
        for work in self._work:
            if not work.done():
                raise Broken(f"{work} goes on for ever")
            work.result()
        if self._open():
            raise Broken(f"{self._open()} holds are open")
        left = [path.name for node in self.nodes for path in node.directory.iterdir()]
        if left:
            raise Broken(f"spools are left: {left}")
        for client in self._calls:
            self.count(f"{client.status}" + ("" if client.whole else " cut"))
            if client.status == 500:
                raise Broken(f"an answer with status 500: {client.data!r}")
        self.witness.check(self.server.reader)
        self._check_told()
        self._check_claims()
        await rollups.roll_up(self._office)
        await asyncio.sleep(2 * seal.SETTLED_MS / 1000)
        await seal.seal(self._office)
        report = await verify(self._office)
        if report.problems:
            raise Broken(f"verify: {report.problems}")

    def _check_claims(self) -> None:
        """Requests repeated under the same Idempotency-Key were charged once."""
        rows = self.server.reader.execute("SELECT hold_id, charge, outcome FROM usage").fetchall()
        charged = {hold for hold, charge, outcome in rows if charge and outcome != Outcome.SWEPT}
        ids = self._town.master.ids()
        answered: dict[bytes, set[int | None]] = {}
        for client in self._calls:
            name = client.headers.get(b"x-tollbridge-generation-id")
            hold = None if name is None else ids.decode(name.decode())
            if client.name and hold in charged:
                answered.setdefault(client.body, set()).add(hold)
        for body, holds in answered.items():
            if len(holds) > 1:
                raise Broken(f"charged {len(holds)} times under one Idempotency-Key, as holds {holds}: {body!r}")

    def _check_told(self) -> None:
        """Nobody is charged more than the answer said, nor by a later correction."""
        ids = self._town.master.ids()
        charges = dict(self.server.reader.execute("SELECT hold_id, charge FROM usage").fetchall())
        for client in self._calls:
            says = client.headers
            if client.status == 200 and says.get(b"x-tollbridge-cost-basis") == b"final":
                hold = ids.decode(says[b"x-tollbridge-generation-id"].decode())
                told = says[b"x-tollbridge-charged-usd"].decode()
                self.count("charges told")
                if hold is None or charges[hold] > _nano(told):
                    raise Broken(f"hold {hold}: told {told}, charged {charges.get(hold or 0)}")


def _nano(text: str) -> int:
    whole, _, fraction = text.partition(".")
    return int(whole) * 10**9 + int(fraction.ljust(9, "0") or "0")


async def _posted(database: SimulatedDatabase, post: Post) -> Any:
    now = await database.now()
    return await run(database, lambda transaction: journal.post(database, transaction, post, now))


@contextlib.contextmanager
def _acted(chance: Random) -> Iterator[None]:
    """Replace threads, processes and machines by their simulations."""

    def pid() -> int:
        life = LIFE.get()
        assert life is not None
        return life.pid

    def gone(host: str, pid: int) -> bool:
        life = LIFE.get()
        assert life is not None
        return host == life.machine.name and pid != life.pid

    SimulatedSpool.chance, SimulatedSpool.all = chance, []
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        enter(patch.object(postgres, "Spool", SimulatedSpool))
        enter(patch.object(postgres, "leftovers", simulated_leftovers))
        enter(patch.object(spool, "threading", SimpleNamespace(Thread=_NoThread)))
        enter(patch.object(processes, "_identity", lambda: LIFE.get().machine.name))  # type: ignore[union-attr]
        enter(patch.object(processes, "_gone", gone))
        enter(patch.object(processes, "os", SimpleNamespace(getpid=pid)))
        for name, value in PERIODS.items():
            enter(patch.object(jobs, name, value))
        enter(patch.object(rollups, "EVERY_S", ROLL_UP_S))
        yield


class _NoThread:
    def __init__(self, **_: Any) -> None:
        return

    def start(self) -> None:
        return

    def join(self) -> None:
        return


def simulate(seed: int, events: Sequence[Event] | None = None, *, logged: bool = False) -> Result:
    town.found()
    events = draw(seed) if events is None else events
    folder = Path(tempfile.mkdtemp(dir=town.shared_memory()))
    logging.disable(logging.NOTSET if logged else logging.CRITICAL)
    simulation: Simulation | None = None
    try:
        with virtual(seed) as loop, _acted(Random(f"disk {seed}")):
            simulation = Simulation(loop, seed, folder)
            failure = None
            try:
                loop.run_until_complete(simulation.play(events))
            except AssertionError as error:
                failure = f"{type(error).__name__}: {error}"
            simulation.sums |= {
                "commits": simulation.server.commits,
                "provider calls": simulation.providers.calls,
                "commits forgotten": simulation.server.forgotten,
                "virtual seconds": int(loop.time()),
                # For checking that two runs were the same.
                "digest": simulation.digest(),
            }
        simulation.server.close()
        return Result(seed, failure, simulation.trace, simulation.sums)
    finally:
        logging.disable(logging.NOTSET)
        shutil.rmtree(folder, ignore_errors=True)
