"""Tollbridge on PostgreSQL: beside SQLite; four processes that share everything; one account and a thousand.

Each trial starts its processes on a real server (`tests.servers`), in front of the run's mock. All processes of a trial
share the gateway's core; the servers share the other one with mock and load generators. On two cores, requests/s of
several processes say little if commits are fast: CPU per request is the figure. If a commit takes 10 ms, CPU is not
scarce: then requests/s show who waits for whom.

Four processes on one core cost each other its caches, whatever they do. So four that share a database are compared with
four that share nothing but the cores: each has accounts, a database and a Valkey of its own.

Things that are compared are loaded in turns, so that whatever else the machine does affects both.
"""

import asyncio
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import Postgres, ServerError, Valkey

from bench import native, process
from bench.gateways import CHAT, UPSTREAM_KEY, Launch, Place, tollbridge_config
from bench.measure import Bench, await_first_answer, free_port
from bench.peers import NotRunError
from tollbridge.config import Source, read
from tollbridge.services import accounts, keys, secrets
from tollbridge.store import keys as key_rows
from tollbridge.store import schema
from tollbridge.store.db import Database, open_database, run

CONNECTIONS = 64
PROCESSES = 4
ACCOUNTS = 1_000
ROUNDS = 4
SLOW_COMMIT_US = 10_000
WARM_UP_S = 2.0
# Leaves the gateway's core partly idle even with four processes.
REST_US = 256_000
# A load with batches that take turns at 10 ms each needs whole seconds.
SLOW_S = 3.0

# As `docs/operate/postgresql.md` recommends for a server of this size; everything else is the default.
SERVER = {"shared_buffers": "256MB", "wal_compression": "off", "max_wal_size": "4GB", "checkpoint_timeout": "15min"}


@dataclass(frozen=True)
class Reading:
    """Loads under one condition. CPU in µs per whole answer: of all gateway processes, and of all of the server's.

    `per_second`: of all processes together. `p50_ms`, `p99_ms`: of the process that was slowest.
    """

    what: str
    gateway_us: float
    server_us: float
    per_second: float
    p50_ms: float
    p99_ms: float
    errors: str


@dataclass(frozen=True)
class Figures:
    """What was measured. `hot` and `many`: one account and a thousand, by the delay of a commit in ms."""

    sqlite: Reading
    one: Reading
    alone: Reading
    apart: Reading
    together: Reading
    hot: dict[int, Reading]
    many: dict[int, Reading]

    @property
    def readings(self) -> list[Reading]:
        pairs = [reading for delay in self.hot for reading in (self.many[delay], self.hot[delay])]
        return [self.sqlite, self.one, self.alone, self.apart, self.together, *pairs]

    def hot_share(self, delay: int) -> float:
        """Throughput on one account as a fraction of that on a thousand."""
        return self.hot[delay].per_second / self.many[delay].per_second


def run_all(on: Bench, seconds: float) -> Figures:
    """Run everything here. NotRunError: a server or gateway did not start. About two minutes, at two seconds a load."""
    try:
        with ExitStack() as stack:
            server = stack.enter_context(Postgres(**SERVER))
            valkey = stack.enter_context(Valkey())
            sqlite, one = _engines(on, server, seconds)
            alone, apart, together = _processes(on, server, valkey, seconds)
            fast = _accounts(on, server, valkey, 0, seconds)
        with ExitStack() as stack:
            slow_server = stack.enter_context(_SlowPostgres(SLOW_COMMIT_US))
            valkey = stack.enter_context(Valkey())
            slow = _accounts(on, slow_server, valkey, SLOW_COMMIT_US // 1000, SLOW_S)
    except ServerError as error:
        raise NotRunError(str(error)) from error
    delay = SLOW_COMMIT_US // 1000
    return Figures(
        sqlite, one, alone, apart, together, hot={0: fast[1], delay: slow[1]}, many={0: fast[0], delay: slow[0]}
    )


def _engines(on: Bench, server: Postgres, seconds: float) -> tuple[Reading, Reading]:
    """One process on SQLite, and one on PostgreSQL."""
    with server.database() as url, _site(on, "") as sqlite, _site(on, url, server=server) as postgres:
        readings = _in_turns(
            _Trial(sqlite, sqlite.targets(), "SQLite, one process"),
            _Trial(postgres, postgres.targets(), "PostgreSQL, one process"),
            seconds=seconds,
        )
    return readings[0], readings[1]


def _processes(on: Bench, server: Postgres, valkey: Valkey, seconds: float) -> tuple[Reading, Reading, Reading]:
    """One process; four that share nothing; four that share everything. Each gets the same rate, with shared limits.

    The same rate, because the less a process has to do, the fewer requests it sends its database at once; and two
    cores are not enough for four processes at full speed.
    """
    told = f"{CONNECTIONS * 1_000_000 // REST_US} requests/s each"
    with ExitStack() as stack:
        whole = stack.enter_context(
            _site(on, stack.enter_context(server.database()), server, valkey, PROCESSES, ACCOUNTS)
        )
        parts = [
            stack.enter_context(
                _site(
                    on,
                    stack.enter_context(server.database()),
                    server,
                    stack.enter_context(Valkey()),
                    many=ACCOUNTS,
                )
            )
            for _ in range(PROCESSES)
        ]
        apart = _Site.of(parts)
        readings = _in_turns(
            _Trial(parts[0], parts[0].targets(many=True), f"one process, {told}", REST_US),
            _Trial(apart, apart.targets(many=True), f"{PROCESSES} processes that share nothing, {told}", REST_US),
            _Trial(whole, whole.targets(many=True), f"{PROCESSES} processes on one database, {told}", REST_US),
            seconds=seconds,
        )
    return readings[0], readings[1], readings[2]


def _accounts(on: Bench, server: Postgres, valkey: Valkey, delay: int, seconds: float) -> tuple[Reading, Reading]:
    """Four processes: a thousand accounts, and one."""
    told = f"{PROCESSES} processes, commits {f'+ {delay} ms' if delay else 'as they are'}"
    with server.database() as url, _site(on, url, server, valkey, PROCESSES, ACCOUNTS) as site:
        readings = _in_turns(
            _Trial(site, site.targets(many=True), f"{told}, {ACCOUNTS:,} accounts"),
            _Trial(site, site.targets(), f"{told}, one account"),
            seconds=seconds,
        )
    return readings[0], readings[1]


class _SlowPostgres(Postgres):
    """A server whose disk takes longer to sync (`slow_sync.c`)."""

    def __init__(self, delay_us: int) -> None:
        super().__init__(**SERVER)
        built = native.BIN / "slow_sync.so"
        command = ["cc", "-O2", "-std=gnu11", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(built)]
        subprocess.run([*command, str(native.HERE / "slow_sync.c"), "-ldl"], check=True)
        self._library = shutil.copy(built, self.directory)
        self._delay_us = delay_us

    def _command(self) -> list[str]:
        return ["env", f"LD_PRELOAD={self._library}", f"SLOW_SYNC_US={self._delay_us}", *super()._command()]


# --- a trial ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Site:
    """Gateway processes on one database. `lines`: by process, headers that each have the key of a separate account."""

    on: Bench
    trees: Sequence[process.Tree]
    ports: Sequence[int]
    header: str
    lines: Sequence[Path]
    server: Postgres | None

    @staticmethod
    def of(parts: Sequence["_Site"]) -> "_Site":
        """Sites on one server as one, for loads on `many` accounts."""
        trees = [tree for part in parts for tree in part.trees]
        ports = [port for part in parts for port in part.ports]
        lines = [line for part in parts for line in part.lines]
        return _Site(parts[0].on, trees, ports, "", lines, parts[0].server)

    def targets(self, *, many: bool = False) -> list[native.Target]:
        if many:
            return [native.Target(port, CHAT, (), file) for port, file in zip(self.ports, self.lines, strict=True)]
        return [native.Target(port, CHAT, (self.header,)) for port in self.ports]

    def load(self, targets: Sequence[native.Target], seconds: float, rest_us: int = 0) -> "_Load":
        """Load all targets at once, each with a load generator of its own."""
        before = self._used()
        with ThreadPoolExecutor(len(targets)) as threads:
            started = [
                threads.submit(
                    native.requests,
                    target,
                    self.on.body,
                    core=self.on.load_core,
                    connections=CONNECTIONS,
                    seconds=seconds,
                    rest_us=rest_us,
                )
                for target in targets
            ]
            seen = [one.result() for one in started]
        time.sleep(0.3)  # work that follows the last answer belongs to the load
        gateway, server = (after - then for after, then in zip(self._used(), before, strict=True))
        return _Load(seen, gateway * 1e6, server * 1e6)

    def _used(self) -> tuple[float, float]:
        server = 0.0 if self.server is None else process.cpu_seconds(self.server.pid)
        return sum(tree.cpu_seconds() for tree in self.trees), server


@dataclass(frozen=True)
class _Load:
    seen: Sequence[native.Load]
    gateway_us: float
    server_us: float

    @property
    def answered(self) -> int:
        return max(1, sum(load.answered for load in self.seen))


@dataclass(frozen=True)
class _Trial:
    site: _Site
    targets: Sequence[native.Target]
    what: str
    rest_us: int = 0


def _in_turns(*trials: _Trial, seconds: float) -> list[Reading]:
    """Each trial's load in each round; medians over the rounds."""
    loads: list[list[_Load]] = [[] for _ in trials]
    for trial in trials:
        trial.site.load(trial.targets, WARM_UP_S)
    for _ in range(ROUNDS):
        for trial, kept in zip(trials, loads, strict=True):
            kept.append(trial.site.load(trial.targets, seconds, trial.rest_us))
    return [_reading(trial.what, kept) for trial, kept in zip(trials, loads, strict=True)]


def _reading(what: str, loads: Sequence[_Load]) -> Reading:
    each = [seen for load in loads for seen in load.seen]
    wrong = [seen for seen in each if seen.errors]
    median = statistics.median
    return Reading(
        what=what,
        gateway_us=median(load.gateway_us / load.answered for load in loads),
        server_us=median(load.server_us / load.answered for load in loads),
        per_second=median(sum(s.answered / s.seconds for s in load.seen if s.seconds) for load in loads),
        p50_ms=median(max(s.latency_p50 for s in load.seen) for load in loads) / 1000,
        p99_ms=median(max(s.latency_p99 for s in load.seen) for load in loads) / 1000,
        errors=f"{sum(s.errors for s in wrong)} of {sum(s.asked for s in each)}: {wrong[0].first_error}"
        if wrong
        else "",
    )


@contextmanager
def _site(
    on: Bench,
    url: str,
    server: Postgres | None = None,
    valkey: Valkey | None = None,
    processes: int = 1,
    many: int = 0,
) -> Iterator[_Site]:
    """Processes on the database at `url`, or on a SQLite file; all answer. With one rich account and `many` others."""
    number = len(list(on.scratch.glob("site-*")))
    directory = on.scratch / f"site-{number}"
    directory.mkdir()
    place = Place(0, on.mock_port, directory)
    url = url or f"sqlite:///{directory / 'tollbridge.db'}"
    config = tollbridge_config(place, database_url=url, **({"redis_url": valkey.url()} if valkey else {}))
    texts = asyncio.run(_customers(config, directory, url, 1 + many))
    header, *others = [f"authorization: Bearer {text}" for text in texts]
    ports = [free_port() for _ in range(processes)]
    lines = []
    for turn in range(processes):
        # Each process meets the accounts in a different order.
        begin = turn * many // processes
        lines.append(place.write(f"keys-{turn}", "\n".join(others[begin:] + others[:begin])))
    with ExitStack() as stack:
        trees = []
        for port in ports:
            launch = _launch(config, directory, port, header)
            begun = time.perf_counter()
            tree = process.start(
                launch.command,
                core=on.gateway_core,
                log=directory / f"output-{port}.log",
                environment=launch.environment,
                directory=directory,
            )
            stack.callback(tree.stop)
            await_first_answer(tree, native.Target(port, CHAT, (header,)), on.body.read_bytes(), begun)
            trees.append(tree)
        yield _Site(on, trees, ports, header, lines, server)


def _launch(config: Path, directory: Path, port: int, header: str) -> Launch:
    where = ("--config", config, "--data-dir", directory / "data", "--port", str(port))
    return Launch((sys.executable, "-m", "tollbridge", "serve", *where), "", UPSTREAM_KEY, (header,))


async def _customers(config: Path, directory: Path, url: str, count: int) -> list[str]:
    """The keys of `count` new accounts, each with more money than it can spend."""
    await schema.migrate(url)
    settings = read(Source(config, (("data_dir", str(directory / "data")),)), UPSTREAM_KEY)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    master = secrets.load(settings)
    database = open_database(url)
    await database.start()
    try:
        await secrets.belongs_to(database, master)
        texts = []
        for number in range(count):
            account = await accounts.create(
                database, f"bench{number}@example.com", plan="bench", plans=("bench",), credit=10**15, actor="bench"
            )
            made, row = keys.make(master, account.id, settings.brand.key_prefix, "")
            await _add_key(database, row, account.created_at)
            texts.append(made.text)
        return texts
    finally:
        await database.close()


async def _add_key(database: Database, key: key_rows.NewKey, now: int) -> None:
    await run(database, lambda transaction: key_rows.create(transaction, key, now))
