"""What an account uses over time: charts, each with a table beside it, and the same as JSON."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from starlette.responses import Response

from tollbridge.core.money import format_usd
from tollbridge.errors import InvalidRequest
from tollbridge.services import usage as service
from tollbridge.services.usage import RANGES, Keys, Line, Range, Report
from tollbridge.store.rollups import Sums
from tollbridge.values import DAY_MS
from tollbridge.web import render
from tollbridge.web.page import MEMBER, Page
from tollbridge.web.visit import Visit

GROUPS = {"": "Total", "model": "By model", "key": "By key"}
DEFAULT_RANGE = "7d"


class Chart(msgspec.Struct, frozen=True):
    """What a chart shows; `value`: taken from the sums of one step. `kind`: `bars`, stacked, or `lines`.

    `unit`: how the script writes a value: `count`, `usd` (from nano-USD) or `ms`.
    """

    name: str
    title: str
    kind: str
    unit: str
    value: Callable[[Sums], int | None]


def latency(sums: Sums) -> int | None:
    """The mean in milliseconds; None if there was nothing."""
    return sums.duration_ms // sums.requests if sums.requests else None


def first_token(sums: Sums) -> int | None:
    return sums.first_byte_ms // sums.first_bytes if sums.first_bytes else None


CHARTS = (
    Chart("spend", "Spend", "bars", "usd", lambda sums: sums.charge),
    Chart("requests", "Requests", "bars", "count", lambda sums: sums.requests),
    Chart("tokens", "Tokens", "bars", "count", lambda sums: sums.prompt + sums.completion),
    Chart("latency", "Mean latency", "lines", "ms", latency),
)


WRITTEN: dict[str, Callable[[int], str]] = {"usd": render.usd, "count": render.number, "ms": render.span}


class Drawn(msgspec.Struct, frozen=True):
    """A chart as a template needs it: `data` for the script, `rows` for the table."""

    chart: Chart
    data: str
    labels: list[str]
    rows: list[tuple[str, list[str]]]


def draw(chart: Chart, report: Report, lines: Sequence[Line]) -> Drawn:
    columns = [[chart.value(step) for step in each.steps] for each in lines]
    labels = [each.label for each in lines]
    starts = report.starts
    data = {
        "kind": chart.kind,
        "unit": chart.unit,
        "step": report.period.step // 1000,
        "x": [start // 1000 for start in starts],
        "series": [{"label": label, "values": values} for label, values in zip(labels, columns, strict=True)],
    }
    written = [["–" if value is None else WRITTEN[chart.unit](value) for value in column] for column in columns]
    rows = [
        (step_name(start, report.period.step), [column[index] for column in written])
        for index, start in enumerate(starts)
    ]
    return Drawn(chart, msgspec.json.encode(data).decode(), labels, rows[::-1])


def step_name(start: int, step: int) -> str:
    form = "%Y-%m-%d" if step % DAY_MS == 0 else "%Y-%m-%d %H:%M"
    return datetime.fromtimestamp(start / 1000, UTC).strftime(form)


def asked_range(visit: Visit) -> Range:
    name = visit.query("range") or DEFAULT_RANGE
    if name not in RANGES:
        raise InvalidRequest(f"range is one of {', '.join(RANGES)}", param="range")
    return RANGES[name]


def grouped(report: Report, by: str) -> list[Line]:
    if by not in GROUPS:
        raise InvalidRequest("by is model, key, or left out", param="by")
    series = {"": [report.total], "model": report.models, "key": report.keys}[by]
    return service.lines(series or [report.total], report.period)


async def page(visit: Visit) -> Response:
    asked, by = asked_range(visit), visit.query("by")
    keys = Keys.STEPS if by == "key" else Keys.TOTALS
    report = await service.report(visit.shared.database, visit.account.id, asked.period(visit.now), keys)
    lines = grouped(report, by)
    return visit.render(
        "usage/usage.html",
        asked=asked,
        by=by,
        ranges=RANGES.values(),
        groups=GROUPS,
        report=report,
        total=report.total.total,
        drawn=[draw(chart, report, lines) for chart in CHARTS],
        latency=latency,
        first_token=first_token,
    )


# --- JSON -----------------------------------------------------------------------------------------------------------


async def as_json(visit: Visit) -> Response:
    asked = asked_range(visit)
    report = await service.report(visit.shared.database, visit.account.id, asked.period(visit.now), Keys.TOTALS)
    step, [total] = report.period.step, service.lines([report.total], report.period)
    body = {
        "range": asked.name,
        "since": iso(report.period.since),
        "until": iso(report.period.until),
        "step_seconds": step // 1000,
        "total": sums_json(report.total.total),
        "steps": [
            {"start": iso(start), **sums_json(sums)} for start, sums in zip(report.starts, total.steps, strict=True)
        ],
        "models": [{"model": each.id or None, **sums_json(each.total)} for each in report.models],
        "keys": [{"key": each.id or None, "label": each.label, **sums_json(each.total)} for each in report.keys],
    }
    return json_response(body)


def sums_json(sums: Sums) -> dict[str, Any]:
    return {
        "requests": sums.requests,
        "errors": sums.errors,
        "charge_usd": format_usd(sums.charge),
        "cost_usd": format_usd(sums.cost),
        "prompt_tokens": sums.prompt,
        "cached_tokens": sums.cache_read,
        "completion_tokens": sums.completion,
        "reasoning_tokens": sums.reasoning,
        "searches": sums.searches,
        "mean_latency_ms": latency(sums),
        "mean_first_token_ms": first_token(sums),
    }


def json_response(body: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def iso(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


PAGES = (
    Page("GET", "/dashboard/usage", MEMBER, page),
    Page("GET", "/api/usage", MEMBER, as_json, manage=True),
)
