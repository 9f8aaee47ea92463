"""Printable invoices, whom they are made out to, and the account's monthly statement."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import TypeVar

from starlette.responses import Response, StreamingResponse

from tollbridge.core.payments import Buyer
from tollbridge.errors import ApiError, InvalidRequest
from tollbridge.services import invoices, statements
from tollbridge.services.statements import Period, Statement
from tollbridge.store.rows import ABOVE_ALL
from tollbridge.web.billing import BILLING
from tollbridge.web.forms import Form
from tollbridge.web.page import PAYER, Page
from tollbridge.web.visit import Visit

MOST_LINES = 200
MOST_PAPERS = 100
MOST_MONTHS = 120
CSV = "text/csv; charset=utf-8"

T = TypeVar("T", str, bytes)


async def list_invoices(visit: Visit, refused: ApiError | None = None) -> Response:
    database, account = visit.shared.database, visit.account
    buyer = await invoices.buyer(database, account)
    form = Form({"name": buyer.name, "address": buyer.address, "tax_id": buyer.tax_id})
    if refused is not None:
        form = (await visit.form()).refused(refused, "name", "address", "tax_id")
    before, issuer = visit.before(), visit.shared.payments().issuer
    papers = await invoices.papers(database, issuer, account, MOST_PAPERS + 1, before)
    return visit.render(
        "billing/invoices.html",
        status=refused.status if refused is not None else 200,
        form=form,
        saved=bool(visit.query("saved")),
        papers=papers[:MOST_PAPERS],
        more=len(papers) > MOST_PAPERS,
        first=before == ABOVE_ALL,
    )


async def invoice(visit: Visit) -> Response:
    issuer = visit.shared.payments().issuer
    paper = await invoices.paper(visit.shared.database, issuer, visit.account, visit.path("invoice"))
    return visit.render("billing/invoice.html", paper=paper)


async def set_details(visit: Visit) -> Response:
    form = await visit.form()
    details = Buyer(name=form["name"], address=form["address"], tax_id=form["tax_id"])
    try:
        await invoices.set_buyer(visit.shared.database, visit.account, details)
    except InvalidRequest as error:
        return await list_invoices(visit, error)
    await visit.note("details.changed")
    return visit.redirect(f"{BILLING}/invoices?saved=1")


async def statement(visit: Visit) -> Response:
    period = asked_month(visit)
    made = await statements.account_statement(visit.shared.database, visit.account, period, MOST_LINES)
    return visit.render("billing/statement.html", made=made, months=months(visit.account.created_at, visit.now))


async def statement_csv(visit: Visit) -> Response:
    made = await _whole(visit)
    headers = {"content-disposition": f'attachment; filename="statement-{made.period.name}.csv"'}
    return StreamingResponse(_in_turns(statements.statement_csv(made)), media_type=CSV, headers=headers)


async def statement_json(visit: Visit) -> Response:
    parts = statements.statement_json(await _whole(visit))
    return StreamingResponse(_in_turns(parts), media_type="application/json")


async def _in_turns(parts: Iterator[T]) -> AsyncIterator[T]:
    """A month may have half a million lines: calls are served between its parts."""
    for part in parts:
        yield part
        await asyncio.sleep(0)


async def _whole(visit: Visit) -> Statement:
    return await statements.account_statement(visit.shared.database, visit.account, asked_month(visit))


def asked_month(visit: Visit) -> Period:
    """The month in the address, or this one."""
    return statements.parse_month(visit.query("month") or statements.month_of(visit.now))


def months(first: int, last: int) -> list[str]:
    """The months from one time (milliseconds) to another, newest first."""
    end = datetime.fromtimestamp(last / 1000, UTC)
    begin = datetime.fromtimestamp(first / 1000, UTC)
    count = (end.year - begin.year) * 12 + end.month - begin.month + 1
    numbers = (end.year * 12 + end.month - 1 - back for back in range(min(count, MOST_MONTHS)))
    return [f"{number // 12:04d}-{number % 12 + 1:02d}" for number in numbers]


PAGES = (
    Page("GET", f"{BILLING}/invoices", PAYER, list_invoices),
    Page("GET", f"{BILLING}/invoices/{{invoice}}", PAYER, invoice),
    Page("POST", f"{BILLING}/details", PAYER, set_details),
    Page("GET", f"{BILLING}/statement", PAYER, statement),
    Page("GET", f"{BILLING}/statement.csv", PAYER, statement_csv),
    Page("GET", f"{BILLING}/statement.json", PAYER, statement_json),
)
