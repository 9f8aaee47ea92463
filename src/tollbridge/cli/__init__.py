"""The command line. What a command needs is imported when it runs, so that `--help` and the start of `serve` are quick.

Rule 1  Data go to standard output, everything else to standard error; a new key stands alone on standard output.
Rule 2  A mistake is one line on standard error and an exit code above zero.
Rule 3  Every command works while the server runs; those that cannot, `restore` and `move`, say so.

`shell` what commands share · `accounts` accounts, keys and credit · `people` operators · `byok` customers' own
credentials · `providers` whether they answer · `money` payments, vouchers, reports · `books` the ledger and the
catalog · `usage` single requests · `operations` serving, and keeping it running · `secrets` the master secret.
"""

import click

from tollbridge import __version__
from tollbridge.cli import accounts, books, byok, money, operations, people, providers, secrets, usage
from tollbridge.cli.shell import Commands

__all__ = ["main"]


@click.group(cls=Commands, context_settings={"max_content_width": 100, "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="tollbridge")
def main() -> None:
    """Run a gateway to language models, and keep its books.

    \b
    Example:
      tollbridge serve --port 8000
      tollbridge account create ada@example.com --credit 5
      tollbridge key create --account ada@example.com
    """


for command in (
    *operations.COMMANDS,
    *secrets.COMMANDS,
    *accounts.COMMANDS,
    *people.COMMANDS,
    *byok.COMMANDS,
    *providers.COMMANDS,
    *money.COMMANDS,
    *books.COMMANDS,
    *usage.COMMANDS,
):
    main.add_command(command)
