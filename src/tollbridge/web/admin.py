"""The operator's first page: what was earned and what waits for a person; and what was done in any account."""

from datetime import UTC, date, datetime, timedelta

import msgspec
from starlette.responses import Response

from tollbridge.errors import InvalidRequest
from tollbridge.services import margins
from tollbridge.services.catalog import complaints
from tollbridge.services.statements import Period, no_formula, to_csv
from tollbridge.store import oversight
from tollbridge.store.rows import ABOVE_ALL
from tollbridge.web.page import OPERATOR, Page
from tollbridge.web.status import snapshot
from tollbridge.web.visit import Visit

ADMIN = "/admin"
A_PAGE = 50
BY = {"day": "Day", "model": "Model", "provider": "Provider", "account": "Account"}
# For somebody who goes back to a form that was sent, and changes it.
SENT_BEFORE = "This form was sent before with other values, and that has been done. Send it again to do this as well."
_DAY = timedelta(days=1)


class Dates(msgspec.Struct, frozen=True):
    """Days from one to another, both included, UTC."""

    since: date
    until: date

    @property
    def period(self) -> Period:
        return Period(f"{self.since}/{self.until}", _start(self.since), _start(self.until + _DAY))


def asked_dates(visit: Visit) -> Dates:
    """The days in the address; by default this month so far. InvalidRequest: they are not days."""
    today = visit.today
    since, until = visit.query("since"), visit.query("until")
    try:
        asked = Dates(
            date.fromisoformat(since) if since else today.replace(day=1), date.fromisoformat(until) if until else today
        )
    except ValueError:
        raise InvalidRequest("Write days like 2026-11-30.", param="since") from None
    if not 2000 <= asked.since.year <= asked.until.year < 3000 or asked.since > asked.until:
        raise InvalidRequest("The first day must not be after the last.", param="since")
    return asked


def _start(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000


def quick(visit: Visit) -> list[tuple[str, Dates]]:
    """Ranges that are often asked for."""
    today = visit.today
    first = today.replace(day=1)
    before = first - _DAY
    return [
        ("Today", Dates(today, today)),
        ("7 days", Dates(today - 6 * _DAY, today)),
        ("This month", Dates(first, today)),
        ("Last month", Dates(before.replace(day=1), before)),
    ]


async def overview(visit: Visit) -> Response:
    database, settings = visit.shared.database, visit.shared.settings
    dates, by = asked_dates(visit), _asked_by(visit)
    if by == "account":
        rows, total = await margins.by_account(database, dates.period)
    else:
        rows = await margins.margins(database, dates.period, by)
        total = margins.total(rows)
    return visit.render(
        "admin/overview.html",
        dates=dates,
        quick=quick(visit),
        by=by,
        groups=BY,
        rows=rows,
        total=total,
        waiting=await oversight.waiting(database),
        serious=sum(each.serious for each in complaints(settings, visit.today)),
        seen=snapshot(visit.shared.catalog(), visit.shared.health),
    )


async def overview_csv(visit: Visit) -> Response:
    by = _asked_by(visit)
    rows = await margins.margins(visit.shared.database, asked_dates(visit).period, by)
    lines = ((no_formula(row.name), *margins.columns(row).values()) for row in rows)
    headers = {"content-disposition": f'attachment; filename="margin-by-{by}.csv"'}
    return Response(to_csv([(by, *margins.COLUMNS), *lines]), media_type="text/csv; charset=utf-8", headers=headers)


def _asked_by(visit: Visit) -> str:
    by = visit.query("by") or "day"
    if by not in BY:
        raise InvalidRequest(f"A report is by {', '.join(BY)}.", param="by")
    return by


async def deeds(visit: Visit) -> Response:
    before = visit.before()
    found = await oversight.deeds(visit.shared.database, before, A_PAGE)
    return visit.render("admin/activity.html", deeds=found, more=len(found) == A_PAGE, first=before == ABOVE_ALL)


PAGES = (
    Page("GET", ADMIN, OPERATOR, overview),
    Page("GET", f"{ADMIN}/margins.csv", OPERATOR, overview_csv),
    Page("GET", f"{ADMIN}/activity", OPERATOR, deeds),
)
