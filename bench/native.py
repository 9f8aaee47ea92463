"""The two C programs: compiled on demand into `bench/bin`, and driven."""

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import process

HERE = Path(__file__).parent
BIN = HERE / "bin"
CHUNKS = 64
PACE_US = 20_000
TAIL_EVENTS = 3  # the finish chunk, the usage chunk and [DONE]; a gateway may send the first two as one


class Load(msgspec.Struct, frozen=True):
    """What the load generator saw. Times are microseconds. `asked` = `answered` + `errors`; only whole answers with
    status 200 are `answered`, and only they are in the latencies."""

    asked: int
    answered: int
    errors: int
    non_200: int
    timeouts: int
    events: int
    seconds: float
    cpu_us: float
    latency_p50: int
    latency_p90: int
    latency_p99: int
    latency_max: int
    first_event_p50: int
    first_event_p90: int
    first_event_p99: int
    first_event_max: int
    first_error: str


@dataclass(frozen=True)
class Target:
    """Where to send requests: `POST 127.0.0.1:port/path`, with further headers ("name: value")."""

    port: int
    path: str
    headers: tuple[str, ...]
    # One header per line: requests take them in turn.
    turns: Path | None = None


def build() -> None:
    """Compile what is older than its source. Raises CalledProcessError if the compiler refuses."""
    BIN.mkdir(exist_ok=True)
    for name in ("mock", "load"):
        source, program = HERE / f"{name}.c", BIN / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            command = ["cc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(program), str(source)]
            subprocess.run(command, check=True)


def start_mock(*, core: int, log: Path) -> tuple[process.Tree, int]:
    """The mock upstream and its port."""
    tree = process.start([BIN / "mock", "-c", str(CHUNKS), "-i", str(PACE_US)], core=core, log=log)
    while tree.running:
        first_line, ended, _ = log.read_text().partition("\n")
        if ended:
            return tree, int(first_line)
    raise RuntimeError(f"the mock did not start: {tree.last_words()}")


def requests(
    target: Target, body: Path, *, core: int, connections: int, seconds: float = 0, count: int = 0, rest_us: int = 0
) -> Load:
    """One request after the other on each connection, `rest_us` between them, for `seconds` or until `count` were
    sent."""
    limits = ["-d", str(seconds)] if seconds else []
    limits += ["-n", str(count)] if count else []
    limits += ["-w", str(rest_us)] if rest_us else []
    return _load("requests", target, body, core, ["-c", str(connections), "-e", '"finish_reason"', *limits])


def streams(target: Target, body: Path, *, core: int, concurrency: int, count: int, spread_us: int = 0) -> Load:
    """`count` streams, `concurrency` at a time; the first ones begin within `spread_us`, so that their chunks arrive
    evenly (`PACE_US`) or all in step (0)."""
    least = str(CHUNKS + TAIL_EVENTS - 1)
    options = ["-c", str(concurrency), "-n", str(count), "-k", least, "-g", str(spread_us)]
    return _load("streams", target, body, core, options)


def _load(mode: str, target: Target, body: Path, core: int, options: Sequence[str]) -> Load:
    headers = [word for header in target.headers for word in ("-H", header)]
    headers += ["-F", str(target.turns)] if target.turns else []
    command = ["taskset", "-c", str(core), str(BIN / "load"), *options, *headers]
    command += [mode, str(target.port), target.path, str(body)]
    done = subprocess.run(command, check=True, capture_output=True)
    return msgspec.json.decode(done.stdout, type=Load)
