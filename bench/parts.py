"""Tollbridge's parts, each alone in a process of its own: CPU per operation beside the whole.

`run_all` starts one child per part (`python -m bench.parts NAME …`) on the gateway's core; a child exercises its part
with 64 concurrent tasks and prints what an operation cost it.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path

import msgspec
import uvloop

from bench import process
from bench.measure import Bench
from bench.peers import NotRunError
from tollbridge.upstream.pool import Limits, Pool

TASKS = 64
OPERATIONS = 40_000


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
    body_file: str
    scratch: str

    @property
    def body(self) -> bytes:
        return Path(self.body_file).read_bytes()


Measurement = Callable[[Setting], Coroutine[None, None, float]]


async def _upstream(setting: Setting) -> float:
    body = setting.body
    headers = [(b"authorization", b"Bearer sk-mock"), (b"content-type", b"application/json")]
    pool = Pool(f"http://127.0.0.1:{setting.mock_port}/v1", Limits())

    async def call() -> None:
        response = await pool.open(b"POST", b"/chat/completions", headers, body)
        await response.read()

    used = await _cpu_per_operation(call)
    await pool.close()
    return used


# name → (what it is, its budget in µs, how it is measured)
PARTS: dict[str, tuple[str, float, Measurement]] = {
    "upstream": ("upstream client: a call over a kept connection, its answer read whole", 19, _upstream),
}


def run_all(on: Bench) -> list[Part]:
    """Measures every part. Raises NotRunError when a child fails."""
    setting = Setting(on.mock_port, on.load_core, str(on.body), str(on.scratch))
    return [Part(name, what, budget, _run_child(name, setting, on)) for name, (what, budget, _) in PARTS.items()]


def _run_child(name: str, setting: Setting, on: Bench) -> float:
    log = on.scratch / f"part-{name}.log"
    told = msgspec.json.encode(setting).decode()
    root = Path(__file__).parent.parent
    child = process.start(
        [sys.executable, "-m", "bench.parts", name, told], core=on.gateway_core, log=log, directory=root
    )
    try:
        child.process.wait(120)
    finally:
        child.stop()
    if child.process.returncode != 0:
        raise NotRunError(f"part {name}: {child.last_words()}")
    return float(child.last_words())


async def _cpu_per_operation(operation: Callable[[], Awaitable[None]]) -> float:
    """Microseconds of this process per `operation`, `TASKS` at a time, warmed up."""

    async def several(count: int) -> None:
        for _ in range(count):
            await operation()

    async def everybody(count: int) -> None:
        await asyncio.gather(*(several(count // TASKS) for _ in range(TASKS)))

    await everybody(OPERATIONS // 10)
    begun = time.process_time()
    await everybody(OPERATIONS)
    return (time.process_time() - begun) / (OPERATIONS // TASKS * TASKS) * 1e6


def _child(name: str, told: str) -> None:
    _, _, measurement = PARTS[name]
    print(uvloop.run(measurement(msgspec.json.decode(told, type=Setting))))


if __name__ == "__main__":
    _child(*sys.argv[1:])
