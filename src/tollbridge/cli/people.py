"""`tollbridge operator`."""

from typing import TYPE_CHECKING

import click

from tollbridge.cli.shell import actor, configured, say, with_database

if TYPE_CHECKING:
    from tollbridge.config import Settings

# Also `services.first_run.EMAIL`, which takes longer to import.
FIRST = "operator@localhost"


@click.group()
def operator() -> None:
    """Manage the operators of this gateway.

    \b
    Example:
      tollbridge operator link ada@example.com
    """


@operator.command("link")
@click.argument("email", default=FIRST)
@click.option("--create", is_flag=True, help="Create a user if nobody has this address.")
@configured
def operator_link(settings: "Settings", email: str, create: bool) -> None:
    """Make a user an operator, and print a login link.

    With the link they choose a password; it works once, for 24 hours. A second factor stays: if it is lost, enter
    a recovery code. Without an address it is for the operator of the first start.

    \b
    Example:
      tollbridge operator link ada@example.com --create
    """
    from tollbridge.services import operators

    may_create = create or email == FIRST
    token = with_database(
        settings, lambda database: operators.link(database, email, create=may_create, actor=actor()), new=create
    )
    say(f"{email} is an operator; the link works once, for 24 hours")
    click.echo(f"{operators.address(settings)}/auth/reset?token={token}")


COMMANDS = (operator,)
