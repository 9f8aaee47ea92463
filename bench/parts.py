"""Tollbridge's parts, each alone in a process of its own: CPU per operation beside the whole.

`run_all` starts one child per part (`python -m bench.parts NAME …`) on the gateway's core; a child exercises its part
with 64 operations at a time and prints what one cost it.
"""

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from bench import native, process
from bench.gateways import CHAT
from bench.measure import Bench
from bench.peers import NotRunError
from tollbridge.edge.downstream import Downstream
from tollbridge.edge.server import Server, listen
from tollbridge.upstream.pool import Limits, Pool

AT_ONCE = 64
OPERATIONS = 64_000
WARM_UP = 8_000

ANSWER = b'{"choices":[{"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}]}' % (
    b"x" * 450
)
ANSWER_HEADERS = ((b"content-type", b"application/json"), (b"x-request-id", b"req_8f31c2"))


@dataclass(frozen=True)
class Part:
    """A measured part. `budget_us` and `cpu_us` are microseconds of CPU per request."""

    name: str
    what: str
    budget_us: float
    cpu_us: float


class Setting(msgspec.Struct, frozen=True):
    """What a child is told."""

    mock_port: int
    load_core: int
    body: str
    scratch: str


def run_all(on: Bench) -> list[Part]:
    """Measures every part. Raises NotRunError when a child fails."""
    setting = Setting(on.mock_port, on.load_core, str(on.body), str(on.scratch))
    return [Part(name, what, budget, _run_child(name, setting, on)) for name, (what, budget, _) in PARTS.items()]


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
        raise NotRunError(f"part {name}: {child.last_words()}")
    return float(child.last_words())


def _server(setting: Setting) -> float:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
            return
        downstream: Downstream = scope["extensions"]["tollbridge"]
        await downstream.read_body()
        downstream.respond(200, ANSWER_HEADERS, ANSWER)

    server = Server(app, listen("127.0.0.1", 0))
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


# name → (what it is, its budget in µs, how it is measured)
PARTS: dict[str, tuple[str, float, Callable[[Setting], float]]] = {
    "server": ("a request read whole, a fixed answer written", 41, _server),
    "upstream client": ("a call over a kept connection, its answer read whole", 19, _upstream),
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
