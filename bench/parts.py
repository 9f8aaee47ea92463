"""Tollbridge's parts, each alone in a process of its own: CPU per operation beside the whole.

`run` starts a child (`python -m bench.parts NAME …`) on the gateway's core; it exercises its part with 64 operations at
a time and prints what one cost it.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench import native, process
from bench.gateways import CHAT, MODEL
from bench.measure import Bench
from bench.peers import NotRunError
from tollbridge.core import pricing
from tollbridge.core.abuse import MOST_REFUSALS, Cuts, Refusals
from tollbridge.core.ledger import End, Ended, Held, Hold, Record
from tollbridge.core.plans import Plan
from tollbridge.edge.downstream import Downstream
from tollbridge.edge.server import Server, listen
from tollbridge.gateway.callers import Caller
from tollbridge.gateway.holds import hold_of
from tollbridge.limits.base import Grant, Rule, Scope
from tollbridge.limits.memory import MemoryLimiter
from tollbridge.services import accounts
from tollbridge.store import keys, processes, schema
from tollbridge.store.db import open_database
from tollbridge.store.keys import NewKey
from tollbridge.store.ledger.sqlite import SqliteLedger
from tollbridge.upstream.pool import Limits, Pool
from tollbridge.values import Model, Outcome, Price, Route, Upstream
from tollbridge.wire import openai_chat, translate
from tollbridge.wire.exchange import Receipt

AT_ONCE = 64
OPERATIONS = 64_000
WARM_UP = 8_000
# Readings of the limits' clock: two per request, so that a minute sees 6,000 requests.
LIMITED_PER_SECOND = 200

ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}]}' % (
    b"x" * 450
)
ANSWER_HEADERS = (b"content-type: application/json", b"x-request-id: req_8f31c2")
USAGE = b'{"prompt_tokens":31,"completion_tokens":24,"total_tokens":55,"prompt_tokens_details":{"cached_tokens":0}}'


@dataclass(frozen=True)
class Part:
    """A measured part. `budget_us` and `cpu_us` are microseconds of CPU per request; a part without a budget of its own
    shares what the others leave."""

    name: str
    what: str
    budget_us: float | None
    cpu_us: float


class Setting(msgspec.Struct, frozen=True):
    """What a child is told."""

    mock_port: int
    load_core: int
    body: str
    scratch: str


def run(name: str, on: Bench) -> Part:
    """Measures one of `PARTS`. Raises NotRunError when its process fails."""
    what, budget_us, _ = PARTS[name]
    setting = Setting(on.mock_port, on.load_core, str(on.body), str(on.scratch))
    return Part(name, what, budget_us, _run_child(name, setting, on))


def _run_child(name: str, setting: Setting, on: Bench) -> float:
    child = process.start(
        [sys.executable, "-m", "bench.parts", name, msgspec.json.encode(setting).decode()],
        core=on.gateway_core,
        log=on.scratch / f"part-{name}.log",
        directory=Path(__file__).parent.parent,
    )
    try:
        child.process.wait(120)
    finally:
        child.stop()
    if child.process.returncode != 0:
        raise NotRunError(child.last_words())
    return float(child.last_words())


def _server(setting: Setting) -> float:
    class App:
        async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})

        async def answer(self, downstream: Downstream) -> None:
            await downstream.read_body()
            downstream.respond(200, ANSWER_HEADERS, ANSWER)

    server = Server(App(), listen("127.0.0.1", 0))
    thread = threading.Thread(target=server.run)
    thread.start()
    target = native.Target(server.port, CHAT, ("authorization: Bearer tb_live_0123456789",))

    def load(count: int) -> None:
        seen = native.requests(
            target, Path(setting.body), core=setting.load_core, connections=AT_ONCE, seconds=60, count=count
        )
        if seen.errors:
            raise NotRunError(seen.first_error)

    try:
        return _cpu_us(load)
    finally:
        server.should_exit = True
        thread.join()


def _upstream(setting: Setting) -> float:
    body = Path(setting.body).read_bytes()
    headers = [(b"authorization", b"Bearer sk-mock"), (b"content-type", b"application/json")]
    pool = Pool(f"http://127.0.0.1:{setting.mock_port}/v1", Limits())

    async def call() -> None:
        response = await pool.open(b"POST", b"/chat/completions", headers, body)
        await response.read()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        used = _cpu_us(lambda count: runner.run(_at_once(call, count)))
        runner.run(pool.close())
    return used


def _ledger(setting: Setting) -> float:
    path = Path(setting.scratch) / "ledger" / "tollbridge.db"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        ledger, account_id, key_id = runner.run(_open_books(path))

        async def call() -> None:
            hold = Hold(id=ledger.next_id(), account_id=account_id, key_id=key_id, want=200_000, least=200_000)
            held = await ledger.submit(hold)
            assert isinstance(held, Held), held
            await asyncio.sleep(0)  # others arrive while the provider works, and share the commit
            record = Record(
                started_at=1_800_000_000_000,
                duration_ms=1,
                price_version=1,
                input=31,
                output=24,
                cost=19_050,
                outcome=Outcome.COMPLETED,
                finish="stop",
                raw=USAGE,
            )
            end = End(hold=hold.id, account_id=account_id, key_id=key_id, charge=19_050, record=record)
            ended = await ledger.submit(end)
            assert isinstance(ended, Ended), ended

        used = _cpu_us(lambda count: runner.run(_at_once(call, count)))
        runner.run(ledger.stop())
    return used


async def _open_books(path: Path) -> tuple[SqliteLedger, int, int]:
    """A new database with one rich account and its key: the ledger, the account's and the key's id."""
    url = f"sqlite:///{path}"
    await schema.migrate(url)
    database = open_database(url)
    await database.start()
    account = await accounts.create(
        database, "bench@example.com", plan="bench", plans=("bench",), credit=10**15, actor="bench"
    )
    key = NewKey(
        public_id="key_bench",
        account_id=account.id,
        digest=bytes(32),
        pepper_id=1,
        hint="tb_live_…",
        label="",
    )
    await keys.create(database, key, account.created_at)
    known = await keys.find_key(database, key.digest)
    assert known is not None
    ledger = SqliteLedger(path, (await processes.begin(database)).epoch)
    await ledger.start()
    await database.close()
    return ledger, account.id, known.key_id


def _route() -> Route:
    price = Price(input=150_000, output=600_000, cache_read=150_000, cache_write=150_000, cache_write_1h=150_000)
    upstream = Upstream(
        name="mock",
        provider="mock",
        dialect="openai_chat",
        base_url="http://mock/v1",
        auth="bearer",
        credential="sk-mock",
    )
    return Route(model=MODEL, upstream=upstream, upstream_model=MODEL, price=price, cost=price)


def _wire(setting: Setting) -> float:
    body, answer = Path(setting.body).read_bytes(), ANSWER.replace(b"}]}", b'}],"usage":%s}' % USAGE)
    route = _route()
    receipt = Receipt(charge=b"0.00001905", cost=b"0.00001905", balance=b"999999.99998095")

    def call(count: int) -> None:
        for _ in range(count):
            request = openai_chat.parse(body)
            exchange = translate.exchange(
                request, route, "chatcmpl-6be84cfe244d86e8d042f4100f635387", 1_800_000_000, None
            )
            exchange.request()
            reply = exchange.response(answer)
            assert reply.usage is not None
            reply.render(receipt)

    return _cpu_us(call)


def _limits(strict: bool, _: Setting) -> float:
    limiter = MemoryLimiter(_Clock(1 / LIMITED_PER_SECOND))
    rule = Rule(requests=12_000, tokens=20_000_000, concurrency=200, strict=strict)
    scopes = (Scope("account/1", rule), Scope("key/1", rule))
    requests = iter(range(1 << 62))

    async def call() -> None:
        grant = await limiter.take(next(requests), scopes, 31, 131)
        assert isinstance(grant, Grant), grant
        limiter.give_back(grant, 55)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return _cpu_us(lambda count: runner.run(_at_once(call, count)))


def _plans(_: Setting) -> float:
    """Everything that a plan can check of a request besides its limits: models, included tokens, abuse limits."""
    plan = Plan(name="pro", models=("deepseek-*", "qwen-*"), included_tokens=1_000_000, cost_cap=10**9)
    caller = Caller(key_id=1, account_id=1, plan=plan, scopes=())
    route, demand = _route(), pricing.Demand(prompt=31, output_limit=100)
    cuts, refusals = Cuts(), Refusals[int](MOST_REFUSALS)
    money = pricing.bound(demand, route, default_hold=16_384, strict=False)
    model = Model(id="qwen-plus", type="chat", context_window=128_000, output_limit=8_192, routes=(route,))

    def call(count: int) -> None:
        for moment in range(count):
            assert not cuts.cool_down(1, moment)
            assert not refusals.cool_down(1, moment)
            assert caller.may_call(model)
            tokens = pricing.token_bound(demand, route, money, cap=10**9, default_hold=16_384)
            hold_of(moment, caller, (money.want, money.least), tokens, 1_800_000_000_000)

    return _cpu_us(call)


class _Clock:
    """Advances by `step` seconds when read, so that what was taken leaves the minute during the measurement."""

    def __init__(self, step: float) -> None:
        self._now = 0.0
        self._step = step

    def __call__(self) -> float:
        self._now += self._step
        return self._now


# name → (what it is, its budget in µs, how it is measured)
PARTS: dict[str, tuple[str, float | None, Callable[[Setting], float]]] = {
    "server": ("a request read whole, a fixed answer written", 41, _server),
    "ledger": ("hold and settle, each awaited until it is on the disk", 26, _ledger),
    "upstream client": ("a call over a kept connection, its answer read whole", 19, _upstream),
    "wire": ("of all else: parsing the request, reading the answer, writing the receipt into it", None, _wire),
    "limits, strict": ("of all else: a plan's and a key's limits, taken and given back", 15, partial(_limits, True)),
    "limits": ("of all else: the same as even refill", 15, partial(_limits, False)),
    "plans": ("of all else: a plan's models, included tokens and abuse limits", 15, _plans),
}


async def _at_once(operation: Callable[[], Awaitable[None]], count: int) -> None:
    async def several() -> None:
        for _ in range(count // AT_ONCE):
            await operation()

    await asyncio.gather(*(several() for _ in range(AT_ONCE)))


def _cpu_us(operate: Callable[[int], None]) -> float:
    """Microseconds of this process per operation, after a warm-up. `operate` does as many as it is told."""
    operate(WARM_UP)
    begun = time.process_time()
    operate(OPERATIONS)
    return (time.process_time() - begun) / OPERATIONS * 1e6


def _child(name: str, told: str) -> None:
    _, _, measurement = PARTS[name]
    print(measurement(msgspec.json.decode(told, type=Setting)))


if __name__ == "__main__":
    _child(*sys.argv[1:])
