"""`tollbridge ledger` and `catalog`."""

import sys
from typing import TYPE_CHECKING, Any

import click

from tollbridge.cli.shell import (
    DATE,
    as_json,
    configured,
    print_fields,
    print_json,
    print_table,
    say,
    time,
    with_database,
)

if TYPE_CHECKING:
    from tollbridge.config import Settings
    from tollbridge.services.catalog import Offer
    from tollbridge.store.db import Database
    from tollbridge.values import Price

_COUNTS = ("accounts", "holds", "open_holds", "transactions", "seals")


@click.group()
def ledger() -> None:
    """The books."""


@ledger.command("verify")
@as_json
@configured
def ledger_verify(settings: "Settings", as_json: bool) -> None:
    """Prove the books: compute every balance again, and look for every broken rule. Exits with 1 when there is one.

    \b
    Example:
      tollbridge ledger verify
    """
    from tollbridge.core.money import format_usd
    from tollbridge.store.verify import verify

    report = with_database(settings, verify)
    books = {book.value: format_usd(amount) for book, amount in report.trial_balance.items()}
    if as_json:
        counts = {name: getattr(report, name) for name in _COUNTS}
        print_json({"ok": report.ok, **counts, "trial_balance_usd": books, "problems": report.problems})
    else:
        print_table(("ledger account", "USD"), list(books.items()))
        say(", ".join(f"{getattr(report, name):,} {name.replace('_', ' ')}" for name in _COUNTS))
        for problem in report.problems:
            click.echo(problem)
        say("the books are right" if report.ok else f"the books are wrong in {report.found:,} places")
    if not report.ok:
        sys.exit(1)


@ledger.command("statement")
@click.argument("email")
@click.option("--since", type=DATE, default=0, metavar="DATE", help="From this day on, UTC.")
@as_json
@configured
def ledger_statement(settings: "Settings", email: str, since: int, as_json: bool) -> None:
    """All that changed an account's balance, and what was left after each.

    \b
    Example:
      tollbridge ledger statement ada@example.com --since 2027-01-01
    """
    from tollbridge.core.money import format_usd
    from tollbridge.services import accounts
    from tollbridge.services.statement import statement

    async def read(database: "Database") -> list[dict[str, str]]:
        found = await accounts.get(database, email)
        return [
            {
                "at": time(line.at),
                "amount_usd": format_usd(line.amount),
                "balance_usd": format_usd(line.balance),
                "what": line.what,
            }
            async for line in statement(database, found.id, since)
        ]

    lines = with_database(settings, read)
    if as_json:
        print_json(lines)
    else:
        print_table(("at", "amount USD", "balance USD", "what"), [list(line.values()) for line in lines])


@click.group()
def catalog() -> None:
    """What is for sale."""


@catalog.command("list")
@click.option("--all", "everything", is_flag=True, help="Models too that no configured provider serves.")
@as_json
@configured
def catalog_list(settings: "Settings", everything: bool, as_json: bool) -> None:
    """The models that customers can call, and what they pay.

    \b
    Example:
      tollbridge catalog list --all
    """
    from tollbridge.services.catalog import offers

    found = [_offer_fields(each) for each in offers(settings) if each.listed or everything]
    if as_json:
        print_json(found)
        return
    rows = []
    for each in found:
        price = each["routes"][0]["price_usd_per_million"] or {}
        providers = ", ".join(route["provider"] for route in each["routes"])
        facts = [each[name] for name in ("id", "listed", "type", "context_window")]
        rows.append([*facts, price.get("input"), price.get("output"), providers])
    print_table(("model", "listed", "type", "context", "USD/M in", "USD/M out", "providers"), rows)


@catalog.command("show")
@click.argument("model")
@as_json
@configured
def catalog_show(settings: "Settings", model: str, as_json: bool) -> None:
    """One model: its limits, its routes, and what each costs.

    \b
    Example:
      tollbridge catalog show deepseek-chat
    """
    from tollbridge.services.catalog import offer

    fields = _offer_fields(offer(settings, model))
    if as_json:
        print_json(fields)
        return
    routes = fields.pop("routes")
    print_fields(fields)
    for number, route in enumerate(routes, 1):
        state = "" if route["open"] else " (no credential)"
        click.echo(f"\nroute {number}: {route['model']} at {route['provider']}{state}")
        prices, costs = route["price_usd_per_million"] or {}, route["cost_usd_per_million"] or {}
        print_table(
            ("USD per million tokens", "price", "cost"), [(meter, prices[meter], costs[meter]) for meter in prices]
        )


@catalog.command("check")
@as_json
@configured
def catalog_check(settings: "Settings", as_json: bool) -> None:
    """Look for models sold below their cost, and for prices read long ago. Exits with 1 when money is lost.

    \b
    Example:
      tollbridge catalog check
    """
    from datetime import UTC, datetime

    from tollbridge.services.catalog import complaints

    found = list(complaints(settings, datetime.now(UTC).date()))
    if as_json:
        print_json([{"serious": serious, "complaint": complaint} for serious, complaint in found])
    else:
        for serious, complaint in found:
            click.echo(f"{'BAD ' if serious else 'old '} {complaint}")
        say("the catalog is right" if not found else f"{len(found):,} to look at")
    if any(serious for serious, _ in found):
        sys.exit(1)


def _offer_fields(offer: "Offer") -> dict[str, Any]:
    row = offer.row
    return {
        "id": row.id,
        "listed": offer.listed,
        "type": row.type,
        "context_window": row.context_window,
        "output_limit": row.output_limit or row.context_window,
        "best_for": row.best_for,
        "source": row.source,
        "checked": row.checked,
        "routes": [
            {
                "provider": way.provider,
                "model": way.model,
                "open": way.open,
                "price_usd_per_million": _meters(way.price),
                "cost_usd_per_million": _meters(way.cost),
            }
            for way in offer.ways
        ],
    }


def _meters(price: "Price | None") -> dict[str, str] | None:
    from tollbridge.core.money import format_price

    if price is None:
        return None
    return {meter: format_price(getattr(price, meter)) for meter in price.__struct_fields__}


COMMANDS = (ledger, catalog)
