"""`tollbridge ledger`, `audit` and `catalog`."""

import itertools
import sys
from typing import TYPE_CHECKING, Any

import click

from tollbridge.cli.shell import (
    COUNTS,
    DATE,
    Whole,
    as_json,
    configured,
    json_text,
    one_form,
    print_data,
    print_fields,
    print_json,
    print_row,
    print_table,
    say,
    time,
    with_database,
)

if TYPE_CHECKING:
    from tollbridge.config import Settings
    from tollbridge.services.balance_changes import Line
    from tollbridge.services.catalog import Offer, Terms
    from tollbridge.store.db import Database


@click.group()
def ledger() -> None:
    """Prove the books, and print statements.

    \b
    Example:
      tollbridge ledger verify
      tollbridge ledger statement ada@example.com
    """


@ledger.command("verify")
@as_json
@configured
def ledger_verify(settings: "Settings", as_json: bool) -> None:
    """Prove the books.

    Recomputes every balance and checks every rule. Exits with 1 when one is broken.

    \b
    Example:
      tollbridge ledger verify
    """
    from tollbridge.core.money import format_usd
    from tollbridge.core.words import plural
    from tollbridge.store.verify import verify

    report = with_database(settings, verify)
    books = {book.value: format_usd(amount) for book, amount in report.trial_balance.items()}
    if as_json:
        counts = {name: getattr(report, name) for name in COUNTS}
        print_json(
            {"ok": report.ok, **counts, "trial_balance_usd": books, "found": report.found, "problems": report.problems}
        )
    else:
        print_table(("ledger account", "USD"), list(books.items()))
        say(", ".join(f"{name.replace('_', ' ')} {getattr(report, name):,}" for name in COUNTS))
        for problem in report.problems:
            click.echo(problem)
        named = "" if len(report.problems) == report.found else f"; the first {len(report.problems):,} are named above"
        say("the books are right" if report.ok else f"the books are wrong in {plural(report.found, 'place')}{named}")
    if not report.ok:
        sys.exit(1)


@ledger.command("statement")
@click.argument("account")
@click.option("--since", type=DATE, default=0, metavar="DATE", help="From this day (UTC) on.")
@click.option("--month", metavar="MONTH", help="A calendar month such as 2026-11, with its totals.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV; needs --month.")
@as_json
@configured
def ledger_statement(
    settings: "Settings", account: str, since: int, month: str | None, as_csv: bool, as_json: bool
) -> None:
    """Show every change of an account's balance.

    Each line shows the balance after it. ACCOUNT is an e-mail address, an id (acct_…), or the number that the log
    shows.

    \b
    Example:
      tollbridge ledger statement ada@example.com --month 2026-11 --csv
    """
    one_form(as_csv, as_json)
    if month is not None:
        if since:
            raise click.UsageError("use either --since or --month, not both")
        _print_month(settings, account, month, as_csv, as_json)
        return
    if as_csv:
        raise click.UsageError("--csv needs --month")
    from tollbridge.services import accounts
    from tollbridge.services.balance_changes import balance_changes

    async def show(database: "Database") -> None:
        found = await accounts.named(database, account)
        lines = balance_changes(database, found.id, since)
        if as_json:
            names = ("at", "amount_usd", "balance_usd", "what")
            count = 0
            async for line in lines:
                # A list of one, whose brackets belong to all of them.
                print_data((b",\n" if count else b"[\n") + json_text([dict(zip(names, _row(line), strict=True))])[2:-2])
                count += 1
            print_data(b"\n]\n" if count else b"[]\n")
        else:
            print_row(_HEAD, _WIDTHS)
            async for line in lines:
                print_row(_row(line), _WIDTHS)

    with_database(settings, show)


_HEAD = ("at", "amount USD", "balance USD", "what")
# Of a time, and of amounts up to 10,000 USD to the last digit: lines are shown before the widest is known.
_WIDTHS = (20, 15, 15)


def _row(line: "Line") -> tuple[str, ...]:
    from tollbridge.core.money import format_usd

    return time(line.at), format_usd(line.amount), format_usd(line.balance), line.what


def _print_month(settings: "Settings", account: str, month: str, as_csv: bool, as_json: bool) -> None:
    from tollbridge.core.money import format_usd
    from tollbridge.services import accounts, statements

    async def read(database: "Database") -> statements.Statement:
        found = await accounts.named(database, account)
        return await statements.account_statement(database, found, statements.parse_month(month))

    made = with_database(settings, read)
    if as_csv:
        for part in statements.statement_csv(made):
            print_data(part.encode())
    elif as_json:
        for data in statements.statement_json(made):
            print_data(data)
        print_data(b"\n")
    else:
        print_fields({
            "opening USD": format_usd(made.opening),
            **{f"{each.kind.replace('_', ' ')} USD": format_usd(each.amount) for each in made.movements},
            "closing USD": format_usd(made.closing),
        })  # fmt: skip
        click.echo()
        for row in itertools.chain([_HEAD], map(_row, made.lines)):
            print_row(row, _WIDTHS)


@click.group()
def audit() -> None:
    """Prove what people did.

    \b
    Example:
      tollbridge audit verify
    """


@audit.command("verify")
@as_json
@configured
def audit_verify(settings: "Settings", as_json: bool) -> None:
    """Prove that the record of what people did is unchanged.

    Covers every log-in, key, payment and operator's deed. Exits with 1 when a row was changed or is missing.

    \b
    Example:
      tollbridge audit verify
    """
    from tollbridge.core.words import plural
    from tollbridge.store.verify import verify_activity

    report = with_database(settings, verify_activity)
    if as_json:
        print_json({"ok": report.ok, "deeds": report.deeds, "seals": report.seals, "problems": report.problems})
    else:
        for problem in report.problems:
            click.echo(problem)
        say(f"deeds {report.deeds:,}, seals {report.seals:,}")
        say(
            "the activity is unchanged" if report.ok else f"the activity was changed in {plural(report.found, 'place')}"
        )
    if not report.ok:
        sys.exit(1)


@click.group()
def catalog() -> None:
    """Show and check what is for sale.

    \b
    Example:
      tollbridge catalog list
      tollbridge catalog show deepseek-chat
    """


@catalog.command("list")
@click.option("--all", "everything", is_flag=True, help="Include models that no configured provider serves.")
@as_json
@configured
def catalog_list(settings: "Settings", everything: bool, as_json: bool) -> None:
    """List the models that customers can call, and what they pay.

    \b
    Example:
      tollbridge catalog list --all
    """
    from tollbridge.services.catalog import offers

    markup = settings.billing.markup_ppm
    found = [_offer_fields(each, markup) for each in offers(settings) if each.listed or everything]
    if as_json:
        print_json(found)
        return
    rows = []
    for each in found:
        price = each["routes"][0]["price_usd_per_million"] or {}
        providers = ", ".join(route["provider"] for route in each["routes"])
        facts = [each[name] for name in ("id", "listed", "type", "context_window")]
        changes = " ".join(name for name in ("tiers", "periods") if price.get(name))
        rows.append([*facts, price.get("input"), price.get("output"), changes, providers])
    print_table(("model", "listed", "type", "context", "USD/M in", "USD/M out", "and", "providers"), rows)


@catalog.command("show")
@click.argument("model")
@as_json
@configured
def catalog_show(settings: "Settings", model: str, as_json: bool) -> None:
    """Show a model, by any of its names.

    Shows what it can do, its routes, and what each costs.

    \b
    Example:
      tollbridge catalog show deepseek-chat
    """
    from tollbridge.services.catalog import offer

    fields = _offer_fields(offer(settings, model), settings.billing.markup_ppm)
    if as_json:
        print_json(fields)
        return
    routes = fields.pop("routes")
    print_fields({name: ", ".join(value) if isinstance(value, tuple) else value for name, value in fields.items()})
    for number, route in enumerate(routes, 1):
        state = "" if route["open"] else " (no credential)"
        click.echo(f"\nroute {number}: {route['model']} at {route['provider']}{state}")
        if route["doubt"]:
            click.echo(f"in doubt: {route['doubt']}")
        price, cost = route["price_usd_per_million"] or {}, route["cost_usd_per_million"] or {}
        _print_prices("", price, cost)
        for tier in price.get("tiers", []):
            _print_prices(f"above {tier['above']:,} tokens of prompt", tier, {})
        for period in price.get("periods", []):
            _print_prices(period["when"], period, {})
            for tier in period.get("tiers", []):
                _print_prices(f"{period['when']}, above {tier['above']:,} tokens of prompt", tier, {})


def _print_prices(when: str, prices: dict[str, Any], costs: dict[str, Any]) -> None:
    if when:
        click.echo(f"\n{when}:")
    meters = [meter for meter, value in prices.items() if isinstance(value, str) and meter != "when"]
    columns = ("USD per million tokens", "price", *(("cost",) if costs else ()))
    print_table(columns, [(meter, prices[meter], *((costs.get(meter, ""),) if costs else ())) for meter in meters])


@catalog.command("check")
@click.option("--days", type=Whole(1), default=180, show_default=True, help="How old a price may be, in days.")
@as_json
@configured
def catalog_check(settings: "Settings", days: int, as_json: bool) -> None:
    """Look for prices that lose money.

    Finds models sold below their cost, and missing, conflicting, doubtful and old prices. Exits with 1 when money or
    a sale is lost.

    \b
    Example:
      tollbridge catalog check --days 90
    """
    from datetime import UTC, datetime

    from tollbridge.services.catalog import complaints

    found = list(complaints(settings, datetime.now(UTC).date(), days))
    if as_json:
        print_json([{"kind": each.kind, "serious": each.serious, "complaint": each.text} for each in found])
    else:
        for each in found:
            click.echo(f"{each.kind:<8} {each.text}")
        say("the catalog is right" if not found else f"{len(found):,} to review")
    if any(each.serious for each in found):
        sys.exit(1)


def _offer_fields(offer: "Offer", markup_ppm: int) -> dict[str, Any]:
    row = offer.row
    return {
        "id": row.id,
        "aliases": row.aliases,
        "listed": offer.listed,
        "type": row.type,
        "context_window": row.context_window,
        "output_limit": row.output_limit or row.context_window,
        "input_modalities": row.input_modalities,
        "output_modalities": row.output_modalities,
        "capabilities": row.capabilities,
        "best_for": row.best_for,
        "source": row.source,
        "checked": row.checked,
        "routes": [
            {
                "provider": way.provider,
                "model": way.model,
                "open": way.open,
                "price_usd_per_million": _meters(way.sold, markup_ppm),
                "cost_usd_per_million": _meters(way.cost),
                "source": way.source,
                "doubt": way.doubt,
            }
            for way in offer.ways
        ],
    }


def _meters(terms: "Terms | None", markup_ppm: int = 1_000_000) -> dict[str, Any] | None:
    from tollbridge.core.listing import price_fields, when_text

    if terms is None:
        return None
    fields = price_fields(terms.price, markup_ppm)
    if terms.periods:
        fields["periods"] = [
            {"when": when_text(when), **price_fields(price, markup_ppm)} for when, price in terms.periods
        ]
    return fields


COMMANDS = (ledger, audit, catalog)
