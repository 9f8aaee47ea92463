"""The operator's books: trial balance, journal, the last proof, and providers' invoices beside them."""

from collections.abc import AsyncIterator

from starlette.responses import Response, StreamingResponse

from tollbridge.errors import Faults, InvalidRequest
from tollbridge.services import margins, statements
from tollbridge.services.statements import Period
from tollbridge.store import meta
from tollbridge.web.admin import ADMIN, asked_dates, quick
from tollbridge.web.forms import Form
from tollbridge.web.page import OPERATOR, Page
from tollbridge.web.visit import Visit

LEDGER = f"{ADMIN}/ledger"
DRIFT = f"{ADMIN}/drift"
_AT_ONCE = 500


async def ledger(visit: Visit) -> Response:
    database, dates = visit.shared.database, asked_dates(visit)
    lines = await statements.trial_balance(database, dates.period)
    return visit.render(
        "admin/ledger.html",
        dates=dates,
        quick=quick(visit),
        lines=lines,
        sums=[sum(getattr(line, name) for line in lines) for name in ("opening", "moved", "closing")],
        audited_at=await meta.value(database, meta.AUDITED_AT),
        problems=await meta.value(database, meta.AUDIT_PROBLEMS),
    )


async def journal(visit: Visit) -> Response:
    dates = asked_dates(visit)
    headers = {"content-disposition": f'attachment; filename="journal-{dates.since}-{dates.until}.csv"'}
    return StreamingResponse(_rows(visit, dates.period), media_type="text/csv; charset=utf-8", headers=headers)


async def _rows(visit: Visit, period: Period) -> AsyncIterator[str]:
    """The lines of a CSV file, many at a time: sending each by itself costs more than reading it."""
    rows: list[tuple[str, ...]] = [statements.JOURNAL_HEAD]
    async for line in statements.journal_lines(visit.shared.database, period):
        rows.append(statements.journal_row(line))
        if len(rows) == _AT_ONCE:
            yield statements.to_csv(rows)
            rows.clear()
    yield statements.to_csv(rows)


async def drift_form(visit: Visit) -> Response:
    return _drift(visit, Form({"month": statements.month_of(visit.now)}))


async def drift(visit: Visit) -> Response:
    """What a provider billed, beside what the books say, model by model."""
    form = await visit.form()
    try:
        with Faults() as faults:
            now = statements.parse_month(statements.month_of(visit.now))
            period = faults.of(now, statements.parse_month, form["month"])
            faults.of(None, margins.read_invoice, form["file"])
        found = await margins.drift(visit.shared.database, period, form["provider"].strip(), form["file"])
    except InvalidRequest as error:
        return _drift(visit, form.refused(error, "month", "provider", "file"), status=error.status)
    return _drift(visit, form, found)


def _drift(visit: Visit, form: Form, rows: list[margins.Drift] | None = None, status: int = 200) -> Response:
    providers = [(name, name) for name in sorted(visit.shared.settings.providers)]
    return visit.render("admin/drift.html", status=status, form=form, rows=rows, providers=providers)


PAGES = (
    Page("GET", LEDGER, OPERATOR, ledger),
    Page("GET", f"{LEDGER}/journal.csv", OPERATOR, journal),
    Page("GET", DRIFT, OPERATOR, drift_form),
    Page("POST", DRIFT, OPERATOR, drift),
)
