"""One gateway through the whole programme: start, requests at each level, paced streams, memory."""

import http.client
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import native, process
from bench.gateways import MODEL, Gateway, Launch, Place
from bench.peers import NotRunError

LEVELS = (1, 8, 64)
STREAMS_AT_ONCE = 64
STREAM_ROUNDS = 5
WARM_UP_S = 4.0  # a just-in-time compiler needs this long
START_LIMIT_S = 120.0
SOAK_REQUESTS = 100_000
SOAK_LIMIT_S = 300.0
SOAK_SAMPLES = 10


@dataclass(frozen=True)
class Bench:
    """What all measurements share: the two cores, the mock and the request bodies."""

    gateway_core: int
    load_core: int
    mock: process.Tree
    mock_port: int
    body: Path
    stream_body: Path
    scratch: Path


@dataclass(frozen=True)
class Cost:
    """One load with the CPU that the gateway's process tree and the mock spent on it, in microseconds."""

    load: native.Load
    gateway_us: float
    mock_us: float

    @property
    def per_request_us(self) -> float:
        return self.gateway_us / max(1, self.load.answered)

    @property
    def per_chunk_us(self) -> float:
        return self.per_request_us / native.CHUNKS

    @property
    def per_second(self) -> float:
        return self.load.answered / self.load.seconds if self.load.seconds else 0.0


@dataclass(frozen=True)
class Memory:
    """Memory in MB before a long load and after each tenth of it."""

    requests: int
    samples: tuple[float, ...]

    @property
    def growth(self) -> float:
        """From the minimum of the second to fourth tenths to the minimum of the last three, as a fraction.

        The first tenth fills caches. Memory needed for some seconds now and then, as while usage is summed, can outlast
        a tenth, and is not growth.
        """
        return min(self.samples[-3:]) / min(self.samples[2:5]) - 1


@dataclass(frozen=True)
class Row:
    """All figures of one gateway. `spread` and `in_step`: streams whose chunks arrive evenly, or all at once."""

    gateway: Gateway
    version: str
    start_seconds: float
    memory_start_mb: float
    memory_end_mb: float
    levels: dict[int, Cost]
    in_step: Cost
    spread: Cost
    soak: Memory | None

    @property
    def errors(self) -> dict[str, str]:
        """What went wrong: name of the load → number of errors and the first of them."""
        loads = {f"{n} connections": cost.load for n, cost in self.levels.items()}
        loads |= {"streams in step": self.in_step.load, "streams spread": self.spread.load}
        return {
            name: f"{load.errors} of {load.asked}: {load.first_error}" for name, load in loads.items() if load.errors
        }


@contextmanager
def bench(cores: tuple[int, int]) -> Iterator[Bench]:
    """Start the mock, in a directory of the run's own that is removed at its end. `cores`: the gateway's, and the one
    that mock and load generator share."""
    native.build()
    with tempfile.TemporaryDirectory(prefix="run-", dir=native.BIN) as directory:
        scratch = Path(directory)
        body, stream_body = _write_bodies(scratch)
        mock, port = native.start_mock(core=cores[1], log=scratch / "mock.log")
        try:
            yield Bench(*cores, mock, port, body, stream_body, scratch)
        finally:
            mock.stop()


def _write_bodies(directory: Path) -> tuple[Path, Path]:
    """The files of the plain request and of the streamed one."""
    body, stream_body = directory / "request.json", directory / "stream.json"
    question: dict[str, object] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant who answers in one sentence."},
            {"role": "user", "content": "What is a toll bridge, and who pays for it? Please keep to the point."},
        ],
        "temperature": 0.7,
        "max_tokens": 256,
    }
    body.write_bytes(msgspec.json.encode(question))
    stream_body.write_bytes(msgspec.json.encode(question | {"stream": True, "stream_options": {"include_usage": True}}))
    return body, stream_body


def run(gateway: Gateway, on: Bench, *, seconds: float, soak: bool) -> Row:
    """Measures one gateway. Raises NotRunError when it cannot be installed, started or called."""
    place = place_of(gateway, on)
    launch = gateway.prepare(place)
    with started(launch, place, on) as (trial, start_seconds):
        memory_start = trial.tree.memory_mb()
        warm = trial.requests(connections=max(LEVELS), seconds=WARM_UP_S)
        if not warm.load.answered:
            raise NotRunError(f"{gateway.name} answers, but not wholly: {warm.load.first_error}")
        levels = {connections: trial.requests(connections=connections, seconds=seconds) for connections in LEVELS}
        in_step, spread = trial.streams(spread_us=0), trial.streams(spread_us=native.PACE_US)
        return Row(
            gateway=gateway,
            version=launch.version,
            start_seconds=start_seconds,
            memory_start_mb=memory_start,
            memory_end_mb=trial.tree.memory_mb(),
            levels=levels,
            in_step=in_step,
            spread=spread,
            soak=trial.soak() if soak else None,
        )


def place_of(gateway: Gateway, on: Bench, what: str = "") -> Place:
    """A free port and a new directory, below one called `what` if it is measured more than once in a run."""
    directory = on.scratch / what / gateway.name
    directory.mkdir(parents=True)
    return Place(free_port(), on.mock_port, directory)


@contextmanager
def started(launch: Launch, place: Place, on: Bench) -> Iterator[tuple["Trial", float]]:
    """The running gateway, and the seconds from its start to its first answer."""
    if not launch.command:
        yield Trial(on, on.mock, native.Target(on.mock_port, launch.path, launch.headers)), 0.0
        return
    target = native.Target(place.port, launch.path, launch.headers)
    begun = time.perf_counter()
    tree = process.start(
        launch.command,
        core=on.gateway_core,
        log=place.directory / "output.log",
        environment=launch.environment,
        directory=place.directory,
    )
    try:
        await_first_answer(tree, target, on.body.read_bytes(), begun)
        yield Trial(on, tree, target), time.perf_counter() - begun
    finally:
        tree.stop()


@dataclass(frozen=True)
class Trial:
    """A running gateway under loads."""

    on: Bench
    tree: process.Tree
    target: native.Target

    def requests(self, *, connections: int, seconds: float) -> Cost:
        return self._metered(
            lambda: native.requests(
                self.target, self.on.body, core=self.on.load_core, connections=connections, seconds=seconds
            )
        )

    def streams(self, *, spread_us: int, rounds: int = STREAM_ROUNDS) -> Cost:
        return self._metered(
            lambda: native.streams(
                self.target,
                self.on.stream_body,
                core=self.on.load_core,
                concurrency=STREAMS_AT_ONCE,
                count=rounds * STREAMS_AT_ONCE,
                spread_us=spread_us,
            )
        )

    def soak(self) -> Memory:
        """A long load at eight connections, cut short for slow gateways; the minimum memory in each tenth of it."""
        answered, samples = 0, [self.tree.memory_mb()]
        for _ in range(SOAK_SAMPLES):
            with _Floor(self.tree) as floor:
                load = native.requests(
                    self.target,
                    self.on.body,
                    core=self.on.load_core,
                    connections=8,
                    count=SOAK_REQUESTS // SOAK_SAMPLES,
                    seconds=SOAK_LIMIT_S / SOAK_SAMPLES,
                )
            answered += load.answered
            samples.append(floor.least_mb)
        return Memory(answered, tuple(samples))

    def _metered(self, load: Callable[[], native.Load]) -> Cost:
        gateway, mock = self.tree.cpu_seconds(), self.on.mock.cpu_seconds()
        seen = load()
        time.sleep(0.1)  # work that follows the last answer (settling, logging) belongs to the load
        gateway, mock = self.tree.cpu_seconds() - gateway, self.on.mock.cpu_seconds() - mock
        return Cost(seen, gateway * 1e6, mock * 1e6)


class _Floor:
    """The minimum memory of a tree, sampled four times a second and at the end."""

    def __init__(self, tree: process.Tree) -> None:
        self.least_mb = float("inf")
        self._tree = tree
        self._over = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Floor":
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._watch.join()

    def _look(self) -> None:
        over = False
        while not over:
            over = self._over.wait(0.25)
            self.least_mb = min(self.least_mb, self._tree.memory_mb())


def await_first_answer(tree: process.Tree, target: native.Target, body: bytes, begun: float) -> None:
    headers = {"content-type": "application/json"}
    headers |= dict(header.split(": ", 1) for header in target.headers)
    said = "nothing listens"
    while time.perf_counter() - begun < START_LIMIT_S:
        if not tree.running:
            raise NotRunError(f"ended while starting: {tree.last_words()}")
        connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
        try:
            connection.request("POST", target.path, body, headers)
            answer = connection.getresponse()
            said = f"{answer.status}: {answer.read(300).decode(errors='replace')}"
            if answer.status == 200:
                return
        except (OSError, http.client.HTTPException) as error:
            said = str(error)
        finally:
            connection.close()
        time.sleep(0.005)
    raise NotRunError(f"no answer within {START_LIMIT_S:g} s: {said}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
