"""`tollbridge payment`, `voucher` and `report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tollbridge.cli.shell import (
    DATE,
    USD,
    Whole,
    actor,
    as_json,
    at_till,
    configured,
    one_form,
    print_data,
    print_json,
    print_table,
    say,
    time,
    with_database,
)

if TYPE_CHECKING:
    from tollbridge.config import Settings
    from tollbridge.core.payments import Payment
    from tollbridge.services.invoices import Paper
    from tollbridge.services.statements import Period
    from tollbridge.store.db import Database
    from tollbridge.store.vouchers import Voucher

T = TypeVar("T")

_COLUMNS = ("payment", "account", "status", "amount_usd", "method", "reference", "created_at", "note")
_DRIFT = ("model", "invoiced_usd", "recorded_usd", "difference_usd", "percent")
_PAPER_BRIEF = ("number", "issued_at", "what", "of_invoice", "buyer", "net_usd", "tax_usd", "total_usd")
_PAPER = (*_PAPER_BRIEF, "paid_by", "payment", "item", "buyer_email", "buyer_address", "buyer_tax_id")
# What customers or operators write into an invoice.
_WRITTEN = frozenset({"number", "of_invoice", "buyer", "item", "buyer_email", "buyer_address", "buyer_tax_id"})
_LISTED = 200
# As of `credit grant`.
_LONGEST_ONCE = 500
_month = click.option("--month", required=True, metavar="MONTH", help="A calendar month such as 2026-11, UTC.")
_csv = click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")


@click.group()
def payment() -> None:
    """Manage payments of customers.

    \b
    Example:
      tollbridge payment list --status review
      tollbridge payment confirm TB-7HQ0SZKT2M 50
    """


@payment.command("list")
@click.option(
    "--status", default="", metavar="STATUS", help="Only payments in this state: pending, processing, review, paid, …"
)
@as_json
@configured
def payment_list(settings: "Settings", status: str, as_json: bool) -> None:
    """The latest payments. With `review` those that wait for a person: not what was ordered, or of a closed account.

    \b
    Example:
      tollbridge payment list --status review
    """
    from tollbridge.core.payments import Status
    from tollbridge.store import oversight, payments
    from tollbridge.store.rows import ABOVE_ALL

    if status not in {"", *Status}:
        raise click.BadParameter(f"a status is one of {', '.join(Status)}, not {status!r}", param_hint="'--status'")

    async def read(database: "Database") -> list[dict[str, Any]]:
        which = (status, ABOVE_ALL, _LISTED)
        payers = await oversight.payers(database, *which)
        listed = await payments.of_status(database, *which)
        return [_fields(each, payers.get(each.account_id, ("", "-"))[1]) for each in listed]

    found = with_database(settings, read)
    if as_json:
        print_json(found)
    else:
        print_table(_COLUMNS, [[each[name] for name in _COLUMNS] for each in found])


@payment.command("confirm")
@click.argument("reference")
@click.argument("amount", type=USD, metavar="USD")
@configured
def payment_confirm(settings: "Settings", reference: str, amount: int) -> None:
    """Credit a bank transfer that has arrived. USD is what arrived: it must be what was ordered.

    \b
    Example:
      tollbridge payment confirm TB-7HQ0SZKT2M 50
    """
    done = at_till(settings, lambda till: till.confirm(reference, amount, actor=actor()))
    say(f"{done.public_id} is {done.status.value}")


@payment.command("refund")
@click.argument("payment", metavar="PAYMENT")
@click.option("--amount", type=USD, metavar="USD", help="The amount, tax included.  [default: all that is left]")
@click.option(
    "--idempotency-key",
    metavar="TEXT",
    help="Repeating a refund with the same text changes nothing; without one, each is another refund.",
)
@configured
def payment_refund(settings: "Settings", payment: str, amount: int | None, idempotency_key: str | None) -> None:
    """Refund a payment out of paid credit that was not spent. A bank transfer is only booked: send it yourself.

    \b
    Example:
      tollbridge payment refund pay_7Hq0sZkT2mWb9XcLpR4vNe --amount 5 --idempotency-key "ticket 81"
    """
    from tollbridge.core.money import format_usd
    from tollbridge.services.refunds import refund

    once = idempotency_key or ""
    if idempotency_key is not None and not (once.strip() and len(once) <= _LONGEST_ONCE and once.isprintable()):
        # An empty one, of a variable that is not set, would be no key at all.
        raise click.BadParameter(f"it is 1 to {_LONGEST_ONCE} characters in one line", param_hint="'--idempotency-key'")
    made = at_till(settings, lambda till: refund(till, payment, amount, actor=actor(), once=once))
    say(f"{format_usd(made.amount)} USD of {payment} go back as {made.public_id}")


@payment.command("dismiss")
@click.argument("payment", metavar="PAYMENT")
@configured
def payment_dismiss(settings: "Settings", payment: str) -> None:
    """Close a payment without crediting anything.

    It must wait, or be in review.

    \b
    Example:
      tollbridge payment dismiss pay_7Hq0sZkT2mWb9XcLpR4vNe
    """
    at_till(settings, lambda till: till.dismiss(payment, actor=actor()))
    say(f"{payment} is closed, and nothing was credited")


@click.group()
def voucher() -> None:
    """Manage vouchers: codes that can be redeemed once for credit.

    \b
    Example:
      tollbridge voucher create 10 --count 50
    """


@voucher.command("create")
@click.argument("amount", type=USD, metavar="USD")
@click.option("--count", type=Whole(1, 1000), default=1, show_default=True, help="How many.")
@click.option("--paid", is_flag=True, help="Somebody has paid for them: paid credit, not a gift.")
@click.option("--expires", type=DATE, metavar="DATE", help="When they expire: the start of that day, UTC.")
@click.option("--note", default="", help="What they are for; only operators see it.")
@as_json
@configured
def voucher_create(
    settings: "Settings", amount: int, count: int, paid: bool, expires: int | None, note: str, as_json: bool
) -> None:
    """Make codes worth USD each. They are printed one a line, and never again.

    \b
    Example:
      tollbridge voucher create 10 --count 50 --expires 2027-01-01
    """
    from tollbridge.core.money import format_usd
    from tollbridge.services import vouchers

    kind = vouchers.PAID if paid else vouchers.PROMO
    made = with_database(
        settings,
        lambda database: vouchers.create(
            database, amount, kind=kind, count=count, expires_at=expires, note=note, actor=actor()
        ),
    )
    if as_json:
        same = {
            "kind": kind,
            "amount_usd": format_usd(amount),
            "expires_at": time(expires) if expires else None,
            "note": note,
        }
        print_json([{"id": each.id, "code": each.code, **same} for each in made])
        return
    for each in made:
        click.echo(each.code)


@voucher.command("list")
@as_json
@configured
def voucher_list(settings: "Settings", as_json: bool) -> None:
    """The latest vouchers: of a code only its end is kept.

    \b
    Example:
      tollbridge voucher list
    """
    from tollbridge.core.money import format_usd
    from tollbridge.services import vouchers

    async def read(database: "Database") -> "tuple[list[Voucher], int]":
        return await vouchers.listed(database), await database.now()

    listed, now = with_database(settings, read)
    found = [
        {
            "id": each.id,
            "code": each.hint,
            "kind": each.kind,
            "amount_usd": format_usd(each.amount),
            "status": _status(each, now),
            "expires_at": time(each.expires_at) if each.expires_at else None,
            "note": each.note,
        }
        for each in listed
    ]
    if as_json:
        print_json(found)
    else:
        head = ("id", "code", "kind", "amount USD", "status", "expires", "note")
        print_table(head, [[str(value or "") for value in each.values()] for each in found])


def _status(one: "Voucher", now: int) -> str:
    if one.redeemed_at:
        return "redeemed"
    if one.withdrawn_at:
        return "withdrawn"
    return "expired" if one.expires_at and one.expires_at <= now else "open"


@voucher.command("withdraw")
@click.argument("id_", metavar="ID")
@configured
def voucher_withdraw(settings: "Settings", id_: str) -> None:
    """Make a voucher worthless that was not redeemed.

    \b
    Example:
      tollbridge voucher withdraw 17
    """
    from tollbridge.core.words import read_whole
    from tollbridge.errors import InvalidRequest
    from tollbridge.services import vouchers

    number = read_whole(id_, 15)
    if number is None:
        raise InvalidRequest(f"an id is a number of `voucher list`, not {id_[:20]!r}", param="id")
    with_database(settings, lambda database: vouchers.withdraw(database, number, actor=actor()))
    say(f"voucher {id_} is withdrawn: its code is worth nothing now")


@click.group()
def report() -> None:
    """Report what the operator earns and owes.

    \b
    Example:
      tollbridge report margin --month 2026-11 --by provider
    """


@report.command("margin")
@_month
@click.option("--by", default="model", show_default=True, metavar="WHAT", help="day, model, provider or account.")
@_csv
@as_json
@configured
def report_margin(settings: "Settings", month: str, by: str, as_csv: bool, as_json: bool) -> None:
    """Print the revenue, cost and margin of a month.

    \b
    Example:
      tollbridge report margin --month 2026-11 --by provider
    """
    from tollbridge.services.margins import COLUMNS, columns, margins
    from tollbridge.services.statements import no_formula

    one_form(as_csv, as_json)
    rows = [
        {by: no_formula(row.name) if as_csv else row.name, **columns(row)}
        for row in with_database(settings, lambda database: margins(database, _period(month), by))
    ]
    _print((by, *COLUMNS), rows, as_csv, as_json)


@report.command("invoices")
@_month
@_csv
@as_json
@configured
def report_invoices(settings: "Settings", month: str, as_csv: bool, as_json: bool) -> None:
    """List the invoices, credit notes and corrections of a month.

    As they were issued, by number, with whom they are made out to. Without --csv or --json, the main columns.

    \b
    Example:
      tollbridge report invoices --month 2026-11 --csv > invoices.csv
    """
    from tollbridge.services.invoices import Issuer, issued
    from tollbridge.services.statements import no_formula

    one_form(as_csv, as_json)
    issuer, period = Issuer(settings.invoices, settings.brand.name), _period(month)

    async def read(database: "Database") -> list[dict[str, Any]]:
        return [_paper_fields(each) async for each in issued(database, issuer, period.since, period.until)]

    rows = with_database(settings, read)
    if as_csv:
        rows = [{name: no_formula(text) if name in _WRITTEN else text for name, text in row.items()} for row in rows]
    columns = _PAPER if as_csv or as_json else _PAPER_BRIEF
    _print(columns, [{name: row[name] for name in columns} for row in rows], as_csv, as_json)


@report.command("drift")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--provider", required=True, metavar="NAME", help="The provider that sent the invoice: a name from `providers`."
)
@_month
@_csv
@as_json
@configured
def report_drift(settings: "Settings", file: Path, provider: str, month: str, as_csv: bool, as_json: bool) -> None:
    """Compare a provider's invoice with the books.

    FILE is CSV whose first line names the columns `model` (the provider's name of it) and `amount_usd`.

    \b
    Example:
      tollbridge report drift invoice.csv --provider deepseek --month 2026-11
    """
    from tollbridge.core.money import format_usd
    from tollbridge.errors import ConfigError
    from tollbridge.services.margins import drift
    from tollbridge.services.statements import no_formula

    one_form(as_csv, as_json)
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: it is not UTF-8 text") from error
    rows = [
        {
            "model": no_formula(row.model) if as_csv else row.model,
            "invoiced_usd": format_usd(row.invoiced),
            "recorded_usd": format_usd(row.recorded),
            "difference_usd": format_usd(row.difference),
            "percent": "" if row.ppm is None else f"{format_usd(row.ppm * 100_000)}",
        }
        for row in with_database(settings, lambda database: drift(database, _period(month), provider, text))
    ]
    _print(_DRIFT, rows, as_csv, as_json)


@report.command("trial-balance")
@_month
@_csv
@as_json
@configured
def report_trial_balance(settings: "Settings", month: str, as_csv: bool, as_json: bool) -> None:
    """Every ledger account before, during and after a month. Credits are positive.

    \b
    Example:
      tollbridge report trial-balance --month 2026-11
    """
    from tollbridge.core.money import format_usd
    from tollbridge.services.statements import trial_balance

    one_form(as_csv, as_json)
    rows = [
        {
            "book": line.book.value,
            "opening_usd": format_usd(line.opening),
            "moved_usd": format_usd(line.moved),
            "closing_usd": format_usd(line.closing),
        }
        for line in with_database(settings, lambda database: trial_balance(database, _period(month)))
    ]
    _print(tuple(rows[0]), rows, as_csv, as_json)


@report.command("journal")
@_month
@configured
def report_journal(settings: "Settings", month: str) -> None:
    """Every entry of a month as CSV, for accountants.

    The journal's entries, and those that requests stand for.

    \b
    Example:
      tollbridge report journal --month 2026-11 > journal.csv
    """
    from tollbridge.services.statements import JOURNAL_HEAD, journal_lines, journal_row, to_csv

    period = _period(month)

    async def write(database: "Database") -> None:
        print_data(to_csv([JOURNAL_HEAD]).encode())
        async for line in journal_lines(database, period):
            print_data(to_csv([journal_row(line)]).encode())

    with_database(settings, write)


def _paper_fields(paper: "Paper") -> dict[str, Any]:
    from tollbridge.core.money import format_usd

    return {
        "number": paper.number,
        "issued_at": time(paper.issued_at),
        "what": paper.title.lower(),
        "of_invoice": paper.of,
        "buyer": paper.buyer.name,
        "net_usd": format_usd(paper.net),
        "tax_usd": format_usd(paper.tax),
        "total_usd": format_usd(paper.total),
        "paid_by": paper.paid_by,
        "payment": paper.payment,
        "item": paper.item,
        "buyer_email": paper.buyer.email,
        "buyer_address": paper.buyer.address,
        "buyer_tax_id": paper.buyer.tax_id,
    }


def _period(month: str) -> "Period":
    from tollbridge.services.statements import parse_month

    return parse_month(month)


def _print(head: tuple[str, ...], rows: list[dict[str, Any]], as_csv: bool, as_json: bool) -> None:
    from tollbridge.services.statements import to_csv

    if as_json:
        print_json(rows)
    elif as_csv:
        print_data(to_csv([head, *(row.values() for row in rows)]).encode())
    elif rows:
        print_table(head, [list(row.values()) for row in rows])
    else:
        say("there is nothing in this month")


def _fields(each: "Payment", email: str) -> dict[str, Any]:
    from tollbridge.core.money import format_usd

    return {
        "payment": each.public_id,
        "account": email,
        "status": each.status.value,
        "amount_usd": format_usd(each.amount),
        "tax_usd": format_usd(each.tax),
        "fee_usd": format_usd(each.fee),
        "method": each.method,
        "origin": each.origin.value,
        "reference": each.external_id or "",
        "created_at": time(each.created_at),
        "paid_at": time(each.paid_at) if each.paid_at else None,
        "note": each.note,
    }


COMMANDS = (payment, voucher, report)
