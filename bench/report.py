"""The results as Markdown: the machine, the tables, and the targets with the figures reached."""

import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench import storm, turns
from bench.measure import LEVELS, SOAK_REQUESTS, STREAMS_AT_ONCE, Row
from bench.native import CHUNKS, PACE_US
from bench.parts import Part
from bench.postgres import ACCOUNTS, CONNECTIONS, PROCESSES, Figures
from bench.translation import Pair

FULL = max(LEVELS)


@dataclass(frozen=True)
class Results:
    """All that one run found out. `not_run`, `failed_parts`: name → why. `fsync_us`: this disk's, in this run."""

    rows: Mapping[str, Row]
    not_run: Mapping[str, str]
    parts: Sequence[Part]
    pairs: Sequence[Pair]
    failed_parts: Mapping[str, str]
    fsync_us: float
    load_before: tuple[float, float, float]
    seconds_per_level: float
    in_turns: turns.Figures | None = None
    in_storm: storm.Figures | None = None
    postgres: Figures | None = None


@dataclass(frozen=True)
class Check:
    """A target of the project: what was to be reached, and what was. `met` is None if it was not measured."""

    name: str
    limit: str
    reached: str
    met: bool | None


def render(results: Results) -> str:
    """The whole report."""
    sections = [
        "# What Tollbridge costs, beside others",
        _machine(results),
        "## Targets\n\n" + _table(("target", "limit", "reached", ""), (_check_cells(c) for c in checks(results))),
        "## Requests, not streamed\n\n" + _requests(results),
        f"## {STREAMS_AT_ONCE} concurrent streams of {CHUNKS} chunks, one every {PACE_US // 1000} ms\n\n"
        + _streams(results),
        *(["## In turns\n\n" + _in_turns(results.in_turns)] if results.in_turns else []),
        "## Start and memory\n\n" + _footprint(results),
    ]
    if results.parts:
        sections.append("## Where Tollbridge's time goes\n\n" + _parts(results))
    if results.pairs:
        sections.append("## What translating adds\n\n" + _translating(results))
    if results.postgres:
        sections.append("## On PostgreSQL\n\n" + _on_postgres(results.postgres))
    sections.append("## Not as it should be\n\n" + "\n".join(_problems(results)))
    return "\n\n".join(sections) + "\n"


def checks(results: Results) -> list[Check]:
    """The targets, in the order in which the project states them."""
    ours, direct = results.rows.get("tollbridge"), results.rows.get("direct")
    added = None
    if ours and direct:
        added = (ours.levels[1].load.latency_p50 - direct.levels[1].load.latency_p50) / 1000
    growth = ours.soak.growth * 100 if ours and ours.soak else None
    soak = f"growth of memory over {SOAK_REQUESTS:,} requests (after the first fifth)"
    return [
        *_checks_in_turns(results),
        _most("added p50 at 1 connection (0.4 ms + 2 fsyncs)", 0.4 + 2 * results.fsync_us / 1000, added, "ms"),
        _most("start to first answer", 1.5, _of(ours, lambda row: row.start_seconds), "s"),
        _most("memory after the load", 90, _of(ours, lambda row: row.memory_end_mb), "MB"),
        _most(soak, 5, growth, "%"),
        _most("translating adds per request, dearest pair", 150, _dearest(results, lambda p: p.request_us), "µs"),
        _most("translating adds per chunk, dearest pair", 8, _dearest(results, lambda p: p.chunk_us), "µs"),
        *_checks_in_storm(results.in_storm),
        *_checks_on_postgres(results.postgres),
    ]


def _checks_in_turns(results: Results) -> list[Check]:
    figures = results.in_turns or turns.Figures({}, {}, {}, {})
    request, in_step, spread = figures.request, figures.chunk_in_step, figures.chunk_spread
    litellm = results.rows.get("litellm")
    theirs = None if litellm is None else litellm.levels[FULL].per_request_us
    return [
        _ratio("CPU per request ÷ nginx's", 7, request("tollbridge"), request("nginx")),
        _ratio("CPU per request ÷ LiteLLM's", 1 / 80, request("tollbridge"), theirs),
        _ratio("CPU per chunk ÷ nginx's, chunks in step", 2.5, in_step("tollbridge"), in_step("nginx")),
        _ratio("CPU per chunk ÷ nginx's, chunks spread", 2.5, spread("tollbridge"), spread("nginx")),
    ]


def _checks_in_storm(figures: storm.Figures | None) -> list[Check]:
    if figures is None:
        return []
    what = f"p99 of calls beside {storm.CROWD} log-ins at once ÷ alone"
    return [
        _ratio(what, 2, figures.storm_us, figures.alone_us),
        _most(f"memory that {storm.CROWD} log-ins at once add", 67.1, figures.grown_mb, "MB"),
    ]


def _checks_on_postgres(figures: Figures | None) -> list[Check]:
    if figures is None:
        return []
    several = f"CPU per request, {PROCESSES} processes on one database ÷ {PROCESSES} that share nothing"
    hot = f"one account ÷ {ACCOUNTS:,}"
    shares = [
        _least(f"{hot}, {PROCESSES} processes, commits + {delay} ms", 0.6, figures.hot_share(delay))
        for delay in figures.hot
    ]
    return [
        _ratio("CPU per request on PostgreSQL ÷ SQLite's", 1.3, figures.one.gateway_us, figures.sqlite.gateway_us),
        _most("the PostgreSQL server's CPU per request", 60, figures.one.server_us, "µs"),
        _ratio(several, 1.1, figures.together.gateway_us, figures.apart.gateway_us),
        *shares,
    ]


def _request(results: Results, row: Row) -> float:
    in_turns = None if results.in_turns is None else results.in_turns.request(row.gateway.name)
    return in_turns or row.levels[FULL].per_request_us


def _in_step(row: Row) -> float:
    return row.in_step.per_chunk_us


def _spread(row: Row) -> float:
    return row.spread.per_chunk_us


def _of(row: Row | None, figure: Callable[[Row], float]) -> float | None:
    return None if row is None else figure(row)


def _ratio(name: str, limit: float, ours: float | None, theirs: float | None) -> Check:
    inverse = limit < 1
    shown = f"≤ 1/{1 / limit:.0f}" if inverse else f"≤ {limit:g} ×"
    if not ours or not theirs:
        return Check(name, shown, "not measured", None)
    ratio = ours / theirs
    reached = f"1/{1 / ratio:.0f}" if inverse else f"{ratio:.2f} ×"
    return Check(name, shown, f"{reached} ({ours:,.1f} µs to {theirs:,.1f} µs)", ratio <= limit)


def _most(name: str, limit: float, reached: float | None, unit: str) -> Check:
    if reached is None:
        return Check(name, f"≤ {limit:.3g} {unit}", "not measured", None)
    return Check(name, f"≤ {limit:.3g} {unit}", f"{reached:.3g} {unit}", reached <= limit)


def _least(name: str, limit: float, reached: float) -> Check:
    return Check(name, f"≥ {limit:.0%} of requests/s", f"{reached:.0%}", reached >= limit)


def _dearest(results: Results, figure: Callable[[Pair], float]) -> float | None:
    return max(map(figure, results.pairs), default=None)


def _check_cells(check: Check) -> tuple[str, ...]:
    return check.name, check.limit, check.reached, {True: "met", False: "**missed**", None: "–"}[check.met]


def _machine(results: Results) -> str:
    direct = results.rows.get("direct")
    load = ", ".join(f"{n:.2f}" for n in results.load_before)
    facts = [
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"{_processor()}, {os.cpu_count()} cores",
        f"{platform.system()} {platform.release()}",
        f"Python {platform.python_version()}{', the distribution’s' if sys.base_prefix == '/usr' else ''}",
        f"load before the run {load}",
        f"one fsync of this disk {results.fsync_us:.0f} µs (median of 300)",
    ]
    method = (
        "Gateway pinned to one core, mock upstream and load generator to another; "
        f"{results.seconds_per_level:g} s per level. CPU is that of the gateway's whole process tree and the figure to "
        "trust; requests per second and latencies suffer from whatever else runs. Trust ratios, not absolutes."
    )
    lines = [" · ".join(facts), method]
    if direct:
        cost = direct.levels[FULL]
        generator, mock = cost.load.cpu_us / max(1, cost.load.asked), cost.mock_us / max(1, cost.load.asked)
        lines.append(
            f"The instruments themselves cost {generator:.1f} µs (load generator) and {mock:.1f} µs (mock) per request."
        )
    return "\n\n".join(lines)


def _requests(results: Results) -> str:
    nginx, litellm = results.rows.get("nginx"), results.rows.get("litellm")
    head = ["gateway", "version"]
    head += (
        [f"req/s at {n}" for n in LEVELS]
        + [f"p50 / p99 ms at {n}" for n in LEVELS]
        + [f"CPU µs/req at {n}" for n in LEVELS]
    )
    head += [f"× nginx at {FULL}", f"÷ LiteLLM at {FULL}"]

    def cells(row: Row) -> list[str]:
        levels = [row.levels[n] for n in LEVELS]
        mine = row.levels[FULL].per_request_us
        return [
            row.gateway.name,
            row.version,
            *(f"{cost.per_second:,.0f}" for cost in levels),
            *(f"{cost.load.latency_p50 / 1000:.2f} / {cost.load.latency_p99 / 1000:.2f}" for cost in levels),
            *(_micros(cost.per_request_us) for cost in levels),
            f"{mine / nginx.levels[FULL].per_request_us:.1f}" if nginx else "–",
            f"1/{litellm.levels[FULL].per_request_us / mine:.0f}" if litellm else "–",
        ]

    notes = [f"- {row.gateway.name}: {row.gateway.note}" for row in results.rows.values()]
    notes += [f"- {name}: not run: {why}" for name, why in results.not_run.items()]
    return _table(head, map(cells, results.rows.values())) + "\n\n" + "\n".join(notes)


def _streams(results: Results) -> str:
    nginx = results.rows.get("nginx")
    head = (
        "gateway",
        "CPU µs/chunk in step",
        "× nginx",
        "CPU µs/chunk spread",
        "× nginx",
        "first chunk p50 / p99 ms",
        "stream p50 ms",
    )

    def ratio(row: Row, figure: Callable[[Row], float]) -> str:
        return f"{figure(row) / figure(nginx):.2f}" if nginx else "–"

    def cells(row: Row) -> list[str]:
        seen = row.spread.load
        return [
            row.gateway.name,
            _micros(row.in_step.per_chunk_us),
            ratio(row, _in_step),
            _micros(row.spread.per_chunk_us),
            ratio(row, _spread),
            f"{seen.first_event_p50 / 1000:.2f} / {seen.first_event_p99 / 1000:.2f}",
            f"{seen.latency_p50 / 1000:.0f}",
        ]

    explained = (
        "In step: the chunks of all streams arrive in the same moment, so that one wake-up serves many. "
        "Spread: evenly over the 20 ms, each chunk for itself, as real traffic comes. Latencies are those of the "
        "spread run. CPU per chunk includes the request's own share (1/64 of it)."
    )
    return _table(head, map(cells, results.rows.values())) + "\n\n" + explained


def _in_turns(figures: turns.Figures) -> str:
    head = ("gateway", f"CPU µs/req at {FULL}", "later", "CPU µs/chunk in step", "CPU µs/chunk spread")

    def cell(readings: Sequence[float]) -> str:
        return f"{_micros(median(readings))} ({_micros(min(readings))} to {_micros(max(readings))})"

    rows = [
        (name, cell(readings), f"{figures.later[name]:.1f}", cell(figures.in_step[name]), cell(figures.spread[name]))
        for name, readings in figures.requests.items()
    ]
    explained = (
        "What a request costs moves with what the machine's host does. So the two that the targets compare closest "
        "run at once here, and the one that is not under load stands still: "
        f"{turns.ROUNDS} rounds of {turns.SECONDS:g} s, or {turns.STREAM_ROUNDS} × {STREAMS_AT_ONCE} streams: the "
        "median, and the least and the most. The targets compare these medians, and ours with LiteLLM's figure above. "
        f"Later: what each request costs in the {turns.REST_S:g} s after the rounds, sums by hour and day above all."
    )
    return _table(head, rows) + "\n\n" + explained


def _footprint(results: Results) -> str:
    head = (
        "gateway",
        "start to first answer s",
        "memory MB after start",
        "after the load",
        "long load: requests",
        "MB",
        "growth",
    )

    def cells(row: Row) -> list[str]:
        soak = row.soak
        long = (
            [f"{soak.requests:,}", " → ".join(f"{mb:.1f}" for mb in soak.samples[::5]), f"{soak.growth:+.1%}"]
            if soak
            else ["–"] * 3
        )
        return [
            row.gateway.name,
            f"{row.start_seconds:.2f}",
            f"{row.memory_start_mb:.0f}",
            f"{row.memory_end_mb:.0f}",
            *long,
        ]

    return _table(head, (cells(row) for row in results.rows.values() if row.gateway.name != "direct"))


def _parts(results: Results) -> str:
    ours = results.rows.get("tollbridge")

    def cells(part: Part) -> list[str]:
        budget = "–" if part.budget_us is None else f"{part.budget_us:g}"
        return [part.name, budget, _micros(part.cpu_us), part.what]

    main = [part for part in results.parts if part.budget_us is not None]
    rows = [cells(part) for part in main]
    if ours and not results.failed_parts:
        whole = _request(results, ours)
        rest = whole - sum(part.cpu_us for part in main)
        rows.append(["all else", "30", _micros(rest), "the whole less the parts above"])
    rows += [cells(part) for part in results.parts if part.budget_us is None]
    if ours:
        rows.append(["the whole", "115", _micros(_request(results, ours)), f"per request at {FULL} connections"])
    return _table(("part", "budget µs", "CPU µs", "what"), rows)


def _translating(results: Results) -> str:
    rows = [(pair.endpoint, pair.dialect, _micros(pair.request_us), _micros(pair.chunk_us)) for pair in results.pairs]
    table = _table(("callers of", "a provider's dialect", "CPU µs per request", "CPU µs per chunk"), rows)
    explained = "Over OpenAI's dialect on both sides, where the bytes pass; requests with a tool, answers of 450 bytes."
    return f"{table}\n\n{explained}"


def _on_postgres(figures: Figures) -> str:
    head = ("what", "CPU µs/req", "the server's", "req/s", "p50 / p99 ms")
    rows = [
        (
            reading.what,
            _micros(reading.gateway_us),
            _micros(reading.server_us) if reading is not figures.sqlite else "–",
            f"{reading.per_second:,.0f}",
            f"{reading.p50_ms:.1f} / {reading.p99_ms:.1f}",
        )
        for reading in figures.readings
    ]
    explained = (
        f"{CONNECTIONS} connections a process, all processes on the gateway's core, the servers on the other with mock "
        "and load generators; median of several rounds in turns. A server's CPU is that of all its processes, its "
        "disk's work included. Commits + 10 ms: its disk takes so much longer for each sync."
    )
    return _table(head, rows) + "\n\n" + explained


def _problems(results: Results) -> Iterable[str]:
    found = [f"- {name} was not run: {why}" for name, why in results.not_run.items()]
    found += [f"- part {name} was not measured: {why}" for name, why in results.failed_parts.items()]
    found += [f"- {name}, {load}: {what}" for name, row in results.rows.items() for load, what in row.errors.items()]
    found += [f"- {r.what}: {r.errors}" for r in (results.postgres.readings if results.postgres else ()) if r.errors]
    return found or ["Nothing: every gateway ran, and every answer was whole."]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose columns also line up in a terminal."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _micros(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
