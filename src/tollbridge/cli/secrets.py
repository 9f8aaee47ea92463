"""`tollbridge secrets`."""

from typing import TYPE_CHECKING

import click

from tollbridge.cli.shell import as_json, configured, print_json, say, with_database

if TYPE_CHECKING:
    from tollbridge.config import Settings
    from tollbridge.services.rotation import Rotation


@click.group("secrets")
def secrets() -> None:
    """Rotate the master secret.

    \b
    Example:
      tollbridge secrets rotate
    """


@secrets.command("rotate")
@click.option("--finish", is_flag=True, help="Drop the previous secret.")
@click.option(
    "--force", is_flag=True, help="With --finish: do so even if keys that were not used since then stop working."
)
@as_json
@configured
def secrets_rotate(settings: "Settings", finish: bool, force: bool, as_json: bool) -> None:
    """Replace the master secret with a new one.

    Run it once to make the new secret, again once every gateway has read it, and with --finish when the keys in use
    are known by it. Nothing stops meanwhile, and each step can be run again.

    \b
    Example:
      tollbridge secrets rotate
      tollbridge secrets rotate --finish
    """
    from tollbridge.services import rotation

    if force and not finish:
        raise click.UsageError("--force needs --finish")
    found = with_database(
        settings,
        lambda database: (
            rotation.finish(database, settings, force=force) if finish else rotation.rotate(database, settings)
        ),
    )
    if as_json:
        print_json(found)
    else:
        _tell(settings, found)


def _tell(settings: "Settings", found: "Rotation") -> None:
    from tollbridge.services.secrets import FILE

    if found.stage == "begun":
        say(f"{settings.data_dir / FILE} holds a new master secret and the present one: keep a copy of it")
        say("have every gateway read it (SIGHUP or restart), then run tollbridge secrets rotate again")
        return
    say(f"rows sealed anew: {found.sealed_anew:,}")
    if found.unreadable:
        say(f"rows that neither secret opens, left as they are: {found.unreadable:,}")
    counts = f"API keys {found.keys:,}, management keys {found.management_keys:,}"
    if found.stage == "moved":
        say("the database now uses the new master secret")
        say(f"known by the previous one until they are next used: {counts}")
        say("later run tollbridge secrets rotate --finish")
        return
    say("the previous master secret is no longer needed")
    if found.keys or found.management_keys:
        say(f"these no longer work: {counts}")
    if settings.secret_previous is not None:
        say("remove secret_previous from the configuration")


COMMANDS = (secrets,)
