"""`GET /metrics`: what this process did, and its state and that of the whole gateway, in Prometheus' text format 0.0.4.

Rule 1  Nothing is counted while a request runs. Answered requests are added up from the lines of the request log when
        those are written, twice a second; everything else is read from its owner when somebody asks.
Rule 2  A label has few values: models, upstreams, endpoints, outcomes. Never an account, a key or a caller's text.
        Beyond `MOST_KINDS` kinds of requests, model and upstream are `other`.
Rule 3  A process answers for itself; if it shares its address with other workers, also for those on its machine, and
        then each sample says whose it is. What METRICS calls `whole` concerns the whole gateway: take the maximum of
        it over processes, and the sum of everything else.
Rule 4  Amounts are whole nano-USD. Times are seconds.

From https://prometheus.io/docs/instrumenting/exposition_formats/ and …/practices/naming/.
"""

import asyncio
import contextlib
import hmac
import logging
import os
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from operator import add, attrgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from tollbridge import __version__
from tollbridge.core.catalog import Catalog
from tollbridge.core.retry import Kind
from tollbridge.errors import TollbridgeError
from tollbridge.limits.base import Limiter
from tollbridge.store.db import Database
from tollbridge.store.gauges import Gauges, gauges
from tollbridge.store.ledger import Ledger
from tollbridge.telemetry import RequestIds, RequestLine, RequestLog
from tollbridge.upstream.health import Health
from tollbridge.upstream.opening import OpenUpstream

_log = logging.getLogger("tollbridge")

PATH = "/metrics"
MOST_KINDS = 5_000
# The sums over the database are at most this old, and a scrape waits for them at most that long.
GAUGES_EVERY_S = 30.0
GAUGES_WITHIN_S = 1.0
# How long another worker may take to answer, and the age from which a socket that nobody listens on is removed.
SIBLING_WITHIN_S = 3.0
FORSAKEN_S = 60.0

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_MS = tuple(int(bound * 1000) for bound in _SECONDS)
_OTHER = "other"
_KIND = attrgetter("path", "status", "model", "route", "outcome")
_LOOPBACK = frozenset({"127.0.0.1", "::1"})
# A proxy that passes a request on says so in one of these.
_FORWARDED = frozenset({b"x-forwarded-for", b"forwarded", b"x-real-ip", b"via"})


class Metric(NamedTuple):
    """A row of METRICS. `type` is Prometheus' name for it."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


METRICS = (
    Metric("tollbridge_info", "gauge", ("version", "database"), "Always 1; the labels say what runs."),
    Metric("tollbridge_draining", "gauge", (), "1 when this process takes no more paid calls."),
    Metric("tollbridge_loop_lag_seconds", "gauge", (), "How late the event loop was at its last tick."),
    Metric("tollbridge_log_lines_dropped_total", "counter", (), "Lines of the request log that could not be written."),
    Metric("tollbridge_requests_total", "counter", ("endpoint", "status"), "Answered requests."),
    Metric("tollbridge_request_seconds", "histogram", ("endpoint",), "From a request's head to its answer's end."),
    Metric("tollbridge_calls_total", "counter", ("model", "upstream", "outcome"), "Paid calls that ended."),
    Metric(
        "tollbridge_first_byte_seconds", "histogram", ("upstream",), "From a request's head to a stream's first output."
    ),
    Metric("tollbridge_tokens_total", "counter", ("model", "kind"), "Tokens of paid calls, `input` and `output`."),
    Metric("tollbridge_charged_nanousd_total", "counter", ("model",), "What customers paid for calls."),
    Metric("tollbridge_cost_nanousd_total", "counter", ("upstream",), "What providers bill for calls."),
    Metric(
        "tollbridge_would_refuse_total",
        "counter",
        ("limit",),
        "Requests that a limit with `shadow = true` would have refused.",
    ),
    Metric("tollbridge_upstream_attempts_total", "counter", ("upstream",), "Attempts to call an upstream."),
    Metric("tollbridge_upstream_failures_total", "counter", ("upstream", "kind"), "Attempts that failed, and how."),
    Metric("tollbridge_upstream_state", "gauge", ("upstream",), "0: called; 1: after the others; 2: not called."),
    Metric("tollbridge_upstream_connections", "gauge", ("upstream", "state"), "Open connections, `busy` and `idle`."),
    Metric("tollbridge_upstream_waiting", "gauge", ("upstream",), "Calls that wait for a connection."),
    Metric("tollbridge_upstream_connections_opened_total", "counter", ("upstream",), "Connections that were opened."),
    Metric(
        "tollbridge_ledger_failed", "gauge", (), "1 when this process will never take paid calls again: see its log."
    ),
    Metric("tollbridge_ledger_waiting", "gauge", (), "Operations that wait to be written."),
    Metric("tollbridge_ledger_operations_total", "counter", (), "Operations that were written."),
    Metric("tollbridge_ledger_batches_total", "counter", (), "Transactions that wrote them."),
    Metric("tollbridge_ledger_retries_total", "counter", (), "Transactions that had to be tried again."),
    Metric("tollbridge_ledger_commit_seconds", "gauge", (), "How long the last transaction took."),
    Metric("tollbridge_spool_files", "gauge", ("state",), "Spool files: `waiting` for the database, `damaged`."),
    Metric("tollbridge_spool_bytes", "gauge", (), "Size of the spool files in this data directory."),
    Metric("tollbridge_limits_degraded", "gauge", (), "1 while each process applies its share of the limits."),
    Metric("tollbridge_database_up", "gauge", (), "1 when what begins with `Whole` could be read."),
    Metric(
        "tollbridge_heartbeat_age_seconds",
        "gauge",
        (),
        "Time since this process last wrote to the database.",
    ),
    Metric("tollbridge_credit_nanousd", "gauge", ("kind",), "Whole: credit, `paid` and `promo`, and `held` of it."),
    Metric("tollbridge_accounts_frozen", "gauge", (), "Whole: accounts that are frozen and not closed."),
    Metric("tollbridge_mail_waiting", "gauge", (), "Whole: letters that have not been sent yet."),
    Metric("tollbridge_webhooks_waiting", "gauge", (), "Whole: webhooks that have not been processed yet."),
    Metric("tollbridge_payments_in_review", "gauge", (), "Whole: payments that wait for a person."),
    Metric("tollbridge_processes", "gauge", (), "Whole: processes that have not ended."),
    Metric("tollbridge_audit_problems", "gauge", (), "Whole: problems found by the last proof of the books."),
    Metric("tollbridge_audit_age_seconds", "gauge", (), "Whole: time since the last proof of the books."),
    Metric("process_cpu_seconds_total", "counter", (), "CPU time of this process."),
    Metric("process_resident_memory_bytes", "gauge", (), "Memory of this process."),
    Metric("process_open_fds", "gauge", (), "Open files and connections of this process."),
    Metric("process_start_time_seconds", "gauge", (), "When this process started, in seconds since the epoch."),
)


Sample = tuple[str, tuple[str, ...], int | float]
_Count = tuple[str, tuple[str, ...], int]
_Pairs = Sequence[tuple[str, str]]


class _Sums(msgspec.Struct, gc=False):
    """The sums over requests of one kind: counts by the bounds of `_MS`, milliseconds, tokens, nano-USD."""

    times: list[int]
    first_times: list[int]
    ms: int = 0
    first_ms: int = 0
    input: int = 0
    output: int = 0
    charge: int = 0
    cost: int = 0


def _note_times(counts: list[int], times: Sequence[int]) -> int:
    """Count `times` (milliseconds) by the bounds of `_MS`, and return their sum."""
    for ms, count in Counter(times).items():
        counts[bisect_left(_MS, ms)] += count
    return sum(times)


class Traffic:
    """Sums over the lines of the request log. A kind of request is (endpoint, status, model, upstream, outcome)."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, int, str, str, str], _Sums] = {}
        self._would_refuse: dict[str, int] = {}

    def add(self, lines: Sequence[RequestLine]) -> None:
        by_kind: defaultdict[tuple[str, int, str, str, str], list[RequestLine]] = defaultdict(list)
        for line in lines:
            by_kind[_KIND(line)].append(line)
            if line.would_refuse:
                self._would_refuse[line.would_refuse] = self._would_refuse.get(line.would_refuse, 0) + 1
        for kind, alike in by_kind.items():
            sums = self._kinds.get(kind) or self._new(kind)
            sums.ms += _note_times(sums.times, list(map(attrgetter("ms"), alike)))
            if kind[-1]:
                sums.input += sum(map(attrgetter("prompt_tokens"), alike))
                sums.output += sum(map(attrgetter("output_tokens"), alike))
                sums.charge += sum(map(attrgetter("charge"), alike))
                sums.cost += sum(map(attrgetter("cost"), alike))
            firsts = [line.first_byte_ms for line in alike if line.first_byte_ms is not None]
            sums.first_ms += _note_times(sums.first_times, firsts)

    def _new(self, kind: tuple[str, int, str, str, str]) -> _Sums:
        path, status, _, _, outcome = kind
        if len(self._kinds) >= MOST_KINDS:
            kind = (path, status, _OTHER, _OTHER, outcome)
        return self._kinds.setdefault(kind, _Sums([0] * (len(_MS) + 1), [0] * (len(_MS) + 1)))

    def samples(self) -> Iterator[Sample]:
        totals: dict[tuple[str, tuple[str, ...]], int] = {}
        for (path, status, model, route, outcome), sums in self._kinds.items():
            upstream, count = route or "none", sum(sums.times)
            counted: list[_Count] = [("tollbridge_requests_total", (path or _OTHER, str(status)), count)]
            if outcome:
                counted += [
                    ("tollbridge_calls_total", (model, upstream, outcome), count),
                    ("tollbridge_tokens_total", (model, "input"), sums.input),
                    ("tollbridge_tokens_total", (model, "output"), sums.output),
                    ("tollbridge_charged_nanousd_total", (model,), sums.charge),
                    ("tollbridge_cost_nanousd_total", (upstream,), sums.cost),
                ]
            for name, labels, number in counted:
                totals[name, labels] = totals.get((name, labels), 0) + number
        yield from ((name, labels, number) for (name, labels), number in totals.items())
        yield from (("tollbridge_would_refuse_total", (limit,), number) for limit, number in self._would_refuse.items())

    def histograms(self) -> Iterator["_Histogram"]:
        found: dict[tuple[str, str], _Histogram] = {}
        for (path, _, _, route, _), sums in self._kinds.items():
            for name, label, times, ms in (
                ("tollbridge_request_seconds", path or _OTHER, sums.times, sums.ms),
                ("tollbridge_first_byte_seconds", route or "none", sums.first_times, sums.first_ms),
            ):
                if any(times):
                    before = found.get((name, label), _Histogram(name, (label,), (0,) * len(times), 0))
                    counts = tuple(map(add, before.counts, times))
                    found[name, label] = _Histogram(name, (label,), counts, before.ms + ms)
        return iter(found.values())


class _Histogram(NamedTuple):
    """How many took how long, by the bounds of `_MS`; `ms`: milliseconds in all."""

    name: str
    labels: tuple[str, ...]
    counts: tuple[int, ...]
    ms: int


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What is read at a scrape. `lag`, `unheard`: in seconds; `spool`: the directory of the spool files."""

    draining: bool
    given_up: bool
    lag: float
    unheard: float
    log: RequestLog
    ledger: Ledger
    limiter: Limiter
    upstreams: Mapping[str, OpenUpstream]
    catalog: Catalog
    health: Health
    database: Database
    spool: Path


class Metrics:
    """A raw ASGI application. `token`: what callers must send; None: callers on this machine need none.

    Without a token, only calls from a loopback address that no proxy passed on are answered, and if `public` (a proxy
    on this machine may not say that it passes requests on) none at all. Others are told that there is nothing here
    (404), or if there is a token, that theirs is wrong (401).
    """

    def __init__(
        self, traffic: Traffic, observe: Callable[[], Observed], token: Callable[[], str | None], *, public: bool
    ) -> None:
        self._traffic = traffic
        self._observe = observe
        self._token = token
        self._public = public
        self._started = time.time()
        self._request_id = RequestIds()
        self._gauges: Gauges | None = None
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._process = ""
        self._socket: Path | None = None
        self._server: asyncio.Server | None = None

    async def share(self, folder: Path, process: int) -> None:
        """Answer for all processes that share `folder` too, and let them answer for this one, number `process`."""
        self._process, self._socket = str(process), _place(folder, process)
        try:
            self._server = await asyncio.start_unix_server(self._tell, self._socket)
        except OSError as error:  # the longest name of a socket has 107 bytes
            _log.warning(
                "/metrics will show only the worker that answers: the socket %s cannot be opened: %s",
                self._socket,
                error,
            )

    async def close(self) -> None:
        if self._server is not None and self._socket is not None:
            self._server.close()
            self._socket.unlink(missing_ok=True)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        status = self._may(scope)
        if status == 200 and scope["method"] not in ("GET", "HEAD"):
            status = 405
        body = b""
        if status == 200:
            body = await self._text()
            if self._socket is not None:
                others = (path for path in self._socket.parent.glob("*.sock") if path != self._socket)
                body = merged([body, *await asyncio.gather(*map(_told, others))])
        headers = [
            (b"content-type", b"text/plain; version=0.0.4; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"x-request-id", self._request_id().encode()),
        ]
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _text(self) -> bytes:
        observed = self._observe()
        await self._read_gauges(observed.database)
        observed.log.flush()
        return render(self._samples(observed), self._traffic.histograms(), self._process)

    async def _tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(await self._text())
            await writer.drain()
        writer.close()

    def _may(self, scope: Any) -> int:
        token = self._token()
        if token is not None:
            given = [value for name, value in scope["headers"] if name == b"authorization"]
            right = len(given) == 1 and hmac.compare_digest(given[0], b"Bearer " + token.encode())
            return 200 if right else 401
        here = scope["client"] is not None and scope["client"][0] in _LOOPBACK and not self._public
        return 200 if here and not any(name in _FORWARDED for name, _ in scope["headers"]) else 404

    async def _read_gauges(self, database: Database) -> None:
        """Refresh the sums if they are too old. A database that is slow or away does not hold up a scrape for long."""
        if self._reading is None and time.monotonic() - self._read_at >= GAUGES_EVERY_S:
            self._reading = asyncio.create_task(self._refresh(gauges(database)))
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=GAUGES_WITHIN_S)

    async def _refresh(self, read: Awaitable[Gauges]) -> None:
        try:
            self._gauges = await read
            self._read_at = time.monotonic()
        except TollbridgeError:
            self._gauges = None
        finally:
            self._reading = None

    def _samples(self, observed: Observed) -> Iterator[Sample]:
        yield "tollbridge_info", (__version__, observed.database.dialect), 1
        yield "tollbridge_draining", (), int(observed.draining)
        yield "tollbridge_loop_lag_seconds", (), observed.lag
        yield "tollbridge_log_lines_dropped_total", (), observed.log.dropped
        yield from self._traffic.samples()
        yield from _upstreams(observed)
        yield from _ledger(observed)
        yield "tollbridge_limits_degraded", (), int(observed.limiter.degraded)
        yield "tollbridge_heartbeat_age_seconds", (), observed.unheard
        fresh = self._reading is None and self._gauges is not None
        yield "tollbridge_database_up", (), int(fresh)
        if self._gauges is not None and fresh:
            yield from _whole(self._gauges)
        yield from _process(self._started)


# What wakes somebody is there before it happens: what Prometheus meets at 1 has not increased.
_ALERTED = {Kind.CREDENTIAL: 0, Kind.OUT_OF_CREDIT: 0}


def _upstreams(observed: Observed) -> Iterator[Sample]:
    health = observed.health
    for name, tally in health.tallies.items():
        yield "tollbridge_upstream_attempts_total", (name,), tally.attempts
    for name in dict.fromkeys((*observed.upstreams, *health.tallies)):
        found = health.tallies[name].failures if name in health.tallies else {}
        for kind, failures in {**_ALERTED, **found}.items():
            yield "tollbridge_upstream_failures_total", (name, kind.value), failures
    routes = {route.upstream.name: route for route in observed.catalog.routes()}
    for name, upstream in observed.upstreams.items():
        pool = upstream.pool
        if name in routes:
            rank = health.rank(routes[name])
            yield "tollbridge_upstream_state", (name,), 2 if rank is None else rank
        yield "tollbridge_upstream_connections", (name, "busy"), pool.connections - pool.idle
        yield "tollbridge_upstream_connections", (name, "idle"), pool.idle
        yield "tollbridge_upstream_waiting", (name,), pool.waiting
        yield "tollbridge_upstream_connections_opened_total", (name,), pool.opened_total


def _ledger(observed: Observed) -> Iterator[Sample]:
    ledger = observed.ledger
    counters = ledger.counters
    yield "tollbridge_ledger_failed", (), int(ledger.failed or observed.given_up)
    yield "tollbridge_ledger_waiting", (), ledger.depth()
    yield "tollbridge_ledger_operations_total", (), counters.operations
    yield "tollbridge_ledger_batches_total", (), counters.batches
    yield "tollbridge_ledger_retries_total", (), counters.retries
    yield "tollbridge_ledger_commit_seconds", (), counters.commit_us / 1e6
    sizes = list(_sizes(observed.spool.glob("*.spool")))
    yield "tollbridge_spool_files", ("damaged",), len(list(observed.spool.glob("*.damaged")))
    yield "tollbridge_spool_files", ("waiting",), sum(size > 0 for size in sizes)
    yield "tollbridge_spool_bytes", (), sum(sizes)


def _whole(sums: Gauges) -> Iterator[Sample]:
    for kind, nano in (("paid", sums.paid), ("promo", sums.promo), ("held", sums.held)):
        yield "tollbridge_credit_nanousd", (kind,), nano
    yield "tollbridge_accounts_frozen", (), sums.frozen
    yield "tollbridge_mail_waiting", (), sums.mail_waiting
    yield "tollbridge_webhooks_waiting", (), sums.webhooks_waiting
    yield "tollbridge_payments_in_review", (), sums.payments_in_review
    yield "tollbridge_processes", (), sums.processes
    if sums.audited_at is not None and sums.audit_problems is not None:
        yield "tollbridge_audit_problems", (), sums.audit_problems
        yield "tollbridge_audit_age_seconds", (), max(0.0, time.time() - sums.audited_at / 1000)


def _process(started: float) -> Iterator[Sample]:
    """What any program reports about itself. Memory and files only if there is a /proc."""
    yield "process_cpu_seconds_total", (), time.process_time()
    yield "process_start_time_seconds", (), started
    with contextlib.suppress(OSError):
        resident = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        yield "process_resident_memory_bytes", (), resident * os.sysconf("SC_PAGE_SIZE")
        yield "process_open_fds", (), sum(1 for _ in Path("/proc/self/fd").iterdir())


async def _told(socket: Path) -> bytes:
    """What another worker reports; b"" if it has gone or hangs."""
    try:
        async with asyncio.timeout(SIBLING_WITHIN_S):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                return await reader.read(-1)
            finally:
                writer.close()
    except ConnectionRefusedError:
        _remove_forsaken(socket)
    except OSError:
        pass
    return b""


def _remove_forsaken(socket: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if time.time() - socket.stat().st_mtime > FORSAKEN_S:
            socket.unlink()


def _place(folder: Path, process: int) -> Path:
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{process}.sock"


def _sizes(files: Iterable[Path]) -> Iterator[int]:
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            yield file.stat().st_size


# --- the text -----------------------------------------------------------------------------------------------------


def render(samples: Iterable[Sample], histograms: Iterable[_Histogram], process: str = "") -> bytes:
    """The exposition, without metrics that have no samples. `process`: a label of every sample."""
    extra = [("process", process)] if process else []
    lines: dict[str, list[str]] = {}
    for name, labels, number in samples:
        lines.setdefault(name, []).append(f"{name}{_labelled(name, labels, extra)} {number}\n")
    for histogram in histograms:
        lines.setdefault(histogram.name, []).extend(_buckets(histogram, extra))
    return _ordered(lines)


def merged(texts: Iterable[bytes]) -> bytes:
    """Several expositions as one."""
    lines: dict[str, list[str]] = {}
    for text in texts:
        name = ""
        for line in text.decode().splitlines(keepends=True):
            if line.startswith("# TYPE "):
                name = line.split()[2]
            elif not line.startswith("#"):
                lines.setdefault(name, []).append(line)
    return _ordered(lines)


def _ordered(lines: Mapping[str, list[str]]) -> bytes:
    """In the order of METRICS, all samples of a metric together."""
    text = []
    for metric in METRICS:
        if metric.name in lines:
            text += [f"# HELP {metric.name} {metric.help}\n", f"# TYPE {metric.name} {metric.type}\n"]
            text += lines[metric.name]
    return "".join(text).encode()


def _buckets(histogram: _Histogram, extra: _Pairs) -> Iterator[str]:
    name, labels = histogram.name, histogram.labels
    totals = list(accumulate(histogram.counts))
    for bound, total in zip((*map(str, _SECONDS), "+Inf"), totals, strict=True):
        yield f"{name}_bucket{_labelled(name, labels, [*extra, ('le', bound)])} {total}\n"
    yield f"{name}_sum{_labelled(name, labels, extra)} {histogram.ms / 1000}\n"
    yield f"{name}_count{_labelled(name, labels, extra)} {totals[-1]}\n"


def _labelled(name: str, values: tuple[str, ...], extra: _Pairs) -> str:
    pairs = [*zip(_LABELS[name], values, strict=True), *extra]
    return "{" + ",".join(f'{label}="{_escaped(value)}"' for label, value in pairs) + "}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


_LABELS = {metric.name: metric.labels for metric in METRICS}
