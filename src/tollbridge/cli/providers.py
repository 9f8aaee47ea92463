"""`tollbridge provider`: whether providers do what the configuration says of them."""

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import click

from tollbridge.cli.shell import as_json, configured, print_json, print_table, say

if TYPE_CHECKING:
    from tollbridge.config import Settings
    from tollbridge.services.providers import Answered


@click.group()
def provider() -> None:
    """Try the configured providers.

    \b
    Example:
      tollbridge provider check
    """


@provider.command("check")
@click.argument("names", metavar="[PROVIDER]...", nargs=-1)
@click.option("--model", "models", metavar="ID", multiple=True, help="Ask by this model; may be given several times.")
@click.option("--all", "every", is_flag=True, help="Ask by every model, except those that speak.")
@as_json
@configured
def provider_check(
    settings: "Settings", names: tuple[str, ...], models: tuple[str, ...], every: bool, as_json: bool
) -> None:
    """Ask providers a short question. Exits with 1 if one does not answer it.

    Each is called as for a customer, by the cheapest model that it serves: that tries its address, your credential and
    its name for the model. The provider bills you for it, usually far less than a cent; no customer pays, and the books
    do not change.

    \b
    Example:
      tollbridge provider check
      tollbridge provider check deepseek openai --all
    """
    from tollbridge.core.money import format_usd
    from tollbridge.services.providers import check

    if models and every:
        raise click.UsageError("use either --model or --all, not both")
    found = asyncio.run(check(settings, names, models, every=every))
    if as_json:
        print_json([_fields(each) for each in found])
    else:
        rows = [
            (
                each.provider,
                each.model or "–",
                each.upstream_model or "–",
                "ok" if each.ok else "BAD",
                f"{each.ms} ms",
                each.detail,
            )
            for each in found
        ]
        print_table(("provider", "model", "its name there", "", "took", "found"), rows)
    cost = sum(each.cost or 0 for each in found)
    if cost:
        say(f"your providers bill you USD {format_usd(cost)} for the answers")
    if not all(each.ok for each in found):
        sys.exit(1)


def _fields(answered: "Answered") -> dict[str, Any]:
    from tollbridge.core.money import format_usd

    return {
        "provider": answered.provider,
        "model": answered.model or None,
        "upstream_model": answered.upstream_model or None,
        "ok": answered.ok,
        "found": answered.detail,
        "ms": answered.ms,
        "cost_usd": None if answered.cost is None else format_usd(answered.cost),
    }


COMMANDS = (provider,)
