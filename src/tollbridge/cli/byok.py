"""`tollbridge byok`: customers' own credentials at providers. One is read from a pipe, a prompt or the environment,
never from the command line, where everybody on the machine could read it; and none is ever shown.
"""

from typing import TYPE_CHECKING, Any

import click

from tollbridge.cli.shell import (
    actor,
    as_json,
    configured,
    print_json,
    print_table,
    say,
    time,
    to_account,
    with_database,
)

if TYPE_CHECKING:
    from tollbridge.config import Settings
    from tollbridge.store.accounts import Account
    from tollbridge.store.byok import Own
    from tollbridge.store.db import Database

_COLUMNS = ("id", "provider", "credential", "only", "created_at", "label")


@click.group()
def byok() -> None:
    """Manage credentials that customers bring along.

    \b
    Example:
      tollbridge byok add deepseek --account ada@example.com < credential.txt
      tollbridge byok list --account ada@example.com
    """


@byok.command("add")
@click.argument("provider")
@to_account
@click.option("--label", default="", help="What it is for.")
@click.option("--only", is_flag=True, help="Never fall back to the operator's credential for what it serves.")
@click.option(
    "--env", "variable", metavar="NAME", help="Read it from this environment variable instead of the standard input."
)
@as_json
@configured
def byok_add(
    settings: "Settings", provider: str, account: str, label: str, only: bool, variable: str | None, as_json: bool
) -> None:
    """Store a customer's credential for a provider.

    The provider bills the customer for calls with it; you take a fee.

    \b
    Example:
      tollbridge byok add deepseek --account ada@example.com --only < credential.txt
    """
    from tollbridge.services import accounts, byok, secrets

    async def keep(database: "Database") -> tuple["Account", "Own"]:
        owner = await accounts.in_use(database, account)
        return owner, await byok.add(
            database,
            await secrets.load_for(database, settings),
            owner,
            provider=provider,
            credential=credential,
            providers=byok.providers(settings),
            label=label,
            exclusive=only,
            actor=actor(),
        )

    credential = _read(variable)
    owner, kept = with_database(settings, keep)
    if as_json:
        print_json(_fields(kept))
    else:
        say(f"{kept.public_id}: {owner.email} calls {provider} with {kept.hint} from the next call on")


@byok.command("list")
@to_account
@as_json
@configured
def byok_list(settings: "Settings", account: str, as_json: bool) -> None:
    """List an account's own credentials, in the order of use.

    Each line begins with the id.

    \b
    Example:
      tollbridge byok list --account ada@example.com
    """
    from tollbridge.services import accounts
    from tollbridge.store import byok

    async def read(database: "Database") -> list[dict[str, Any]]:
        owner = await accounts.named(database, account)
        return [_fields(each) for each in await byok.of_account(database, owner.id)]

    found = with_database(settings, read)
    if as_json:
        print_json(found)
        return
    head = ("id", "provider", "credential", "only", "created", "label")
    print_table(head, [[each[name] for name in _COLUMNS] for each in found])


@byok.command("remove")
@click.argument("id_", metavar="ID")
@configured
def byok_remove(settings: "Settings", id_: str) -> None:
    """Remove a credential; the next call is made without it.

    \b
    Example:
      tollbridge byok remove byok_7Hq0sZkT2mWb9XcLpR4vNe
    """
    from tollbridge.services import byok

    with_database(settings, lambda database: byok.remove(database, None, id_, actor=actor()))
    say(f"{id_} is removed")


def _read(variable: str | None) -> str:
    import os
    import sys

    if variable is not None:
        found = os.environ.get(variable)
        if not found:
            raise click.ClickException(f"the environment variable {variable} is not set")
        return found
    if sys.stdin.isatty():
        return str(click.prompt("Credential", hide_input=True, err=True))
    return sys.stdin.read()


def _fields(own: "Own") -> dict[str, Any]:
    return {
        "id": own.public_id,
        "provider": own.provider,
        "credential": own.hint,
        "label": own.label,
        "only": own.exclusive,
        "created_at": time(own.created_at),
    }


COMMANDS = (byok,)
