"""`tollbridge ledger`."""

import sys
from typing import TYPE_CHECKING

import click

from tollbridge.cli.shell import DATE, as_json, configured, print_json, print_table, say, time, with_database

if TYPE_CHECKING:
    from tollbridge.config import Settings
    from tollbridge.store.db import Database

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


COMMANDS = (ledger,)
