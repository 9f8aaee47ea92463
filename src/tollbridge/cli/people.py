"""`tollbridge operator`."""

from typing import TYPE_CHECKING

import click

from tollbridge.cli.shell import configured, say, with_database

if TYPE_CHECKING:
    from tollbridge.config import Settings


@click.group()
def operator() -> None:
    """Who runs this gateway."""


@operator.command("link")
@click.argument("email", default="operator@localhost")
@configured
def operator_link(settings: "Settings", email: str) -> None:
    """Make the user of an address an operator, and print a link to choose a password.

    The link is good once, for 24 hours. A second factor stays: who has lost it enters a recovery code.

    \b
    Example:
      tollbridge operator link ada@example.com
    """
    from tollbridge.services import operators

    token = with_database(settings, lambda database: operators.link(database, email))
    url = settings.public_url or f"http://{settings.host}:{settings.port}"
    say(f"{email} is an operator; the link is good once, for 24 hours")
    click.echo(f"{url}/auth/reset?token={token}")


COMMANDS = (operator,)
