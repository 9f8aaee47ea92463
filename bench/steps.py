"""Which functions a request or a chunk passes through, in bytecodes: `python -m bench.steps [streams] [--top N]`.

CPU time varies by a tenth from one minute to the next; these counts do not, so even a change of one percent shows. They
count Python only: what a call costs below it (C, the kernel, cold caches) does not show.
"""

import argparse
import collections
import os
import runpy
import signal
import sys
import threading
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import msgspec

from bench import native, process
from bench.gateways import Place, tollbridge_config, tollbridge_launch
from bench.measure import await_first_answer, bench, free_port

COUNTS = "BENCH_STEPS"
AT_ONCE = 32
REQUESTS, STREAMS = 2_000, 96


class Function(msgspec.Struct, frozen=True):
    """What one function was seen to do."""

    name: str
    calls: int
    steps: int


class _Counter:
    """Counts only while told to: the first SIGUSR1 begins, the second writes to `path`. (SIGUSR2 is the server's.)"""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counting = False
        self._calls: collections.Counter[CodeType] = collections.Counter()
        self._steps: collections.Counter[CodeType] = collections.Counter()
        signal.signal(signal.SIGUSR1, self._turn)
        threading.settrace(self._called)
        sys.settrace(self._called)

    def _called(self, frame: FrameType, _event: str, _arg: Any) -> Any:
        if self._counting:
            self._calls[frame.f_code] += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._stepped

    def _stepped(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if self._counting and event == "opcode":
            self._steps[frame.f_code] += 1
        return self._stepped

    def _turn(self, _signal: int, _frame: FrameType | None) -> None:
        self._counting = not self._counting
        if self._counting:
            return
        functions = [Function(_name(code), self._calls[code], steps) for code, steps in self._steps.items()]
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(functions))
        fresh.replace(self._path)


def _name(code: CodeType) -> str:
    path = code.co_filename
    for root in ("/src/tollbridge/", "/site-packages/", f"/python3.{sys.version_info.minor}/"):
        path = path.rpartition(root)[2]
    return f"{path}:{code.co_firstlineno} {code.co_qualname}"


def _count(mode: str) -> tuple[int, list[Function]]:
    """Requests or chunks, and what they passed through."""
    with bench((0, 1)) as on:
        place = Place(free_port(), on.mock_port, on.scratch)
        launch = tollbridge_launch(place, tollbridge_config(place))
        counts = on.scratch / "steps.json"
        _, _, _, *words = launch.command  # python -m tollbridge
        launch = replace(launch, command=(sys.executable, "-m", "bench.steps", *words))
        tree = process.start(
            launch.command,
            core=on.gateway_core,
            log=on.scratch / "output.log",
            environment={**launch.environment, COUNTS: str(counts), "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        try:
            target = native.Target(place.port, launch.path, launch.headers)
            await_first_answer(tree, target, on.body.read_bytes(), time.perf_counter())
            native.requests(target, on.body, core=on.load_core, connections=AT_ONCE, count=REQUESTS // 4)
            # Loads the pages, which would otherwise be loaded, and counted, a second after the start.
            with urllib.request.urlopen(f"http://127.0.0.1:{place.port}/") as page:
                page.read()
            os.kill(tree.process.pid, signal.SIGUSR1)
            if mode == "streams":
                load = native.streams(
                    target, on.stream_body, core=on.load_core, concurrency=AT_ONCE, count=STREAMS, spread_us=0
                )
            else:
                load = native.requests(target, on.body, core=on.load_core, connections=AT_ONCE, count=REQUESTS)
            os.kill(tree.process.pid, signal.SIGUSR1)
            while not counts.exists():
                time.sleep(0.05)
        finally:
            tree.stop()
        if load.errors:
            raise SystemExit(f"{load.errors} of {load.asked} failed: {load.first_error}")
        each = load.events if mode == "streams" else load.answered
        return each, msgspec.json.decode(counts.read_bytes(), type=list[Function])


def main() -> int:
    if path := os.environ.get(COUNTS):
        _Counter(Path(path))
        sys.argv[0] = "tollbridge"
        runpy.run_module("tollbridge", run_name="__main__", alter_sys=True)
        return 0
    parser = argparse.ArgumentParser(prog="python -m bench.steps", description="Bytecodes by function.")
    parser.add_argument("mode", nargs="?", choices=("requests", "streams"), default="requests")
    parser.add_argument("--top", type=int, default=60, metavar="N", help="functions to show (default: 60)")
    wanted = parser.parse_args()
    each, functions = _count(wanted.mode)
    steps, calls = sum(one.steps for one in functions), sum(one.calls for one in functions)
    what = "chunk" if wanted.mode == "streams" else "request"
    print(f"{steps / each:,.0f} steps and {calls / each:.1f} calls per {what}, of {each:,}")
    for one in sorted(functions, key=lambda one: -one.steps)[: wanted.top]:
        print(f"{one.steps / each:8.1f} steps {one.calls / each:7.2f} calls  {one.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
