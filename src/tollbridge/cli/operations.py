"""`tollbridge serve`, and the commands that keep it running."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tollbridge.cli.shell import COUNTS, Whole, as_json, configured, places, print_json, print_table, read_settings, say
from tollbridge.errors import TollbridgeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tollbridge.config import Settings

# What a worker may take on top of the time for its requests: settling what was cut off, letting go of everything.
ENDING_S = 30.0


@click.command()
@places
@click.option("--preset", metavar="NAME", help="A product to start from: model-database or modelbridge.")
@click.option("--host", help="The address to listen on.")
@click.option("--port", type=Whole(0, 65535), help="The port to listen on; 0 takes a free one.")
@click.option("--workers", type=Whole(1, 256), help="How many processes serve; more than 1 needs PostgreSQL.")
@click.option("--worker", hidden=True)
def serve(config: Path | None, data_dir: str | None, worker: str | None, **options: str | int | None) -> None:
    """Start the gateway.

    \b
    Example:
      tollbridge serve --config tollbridge.toml --port 8000
      tollbridge serve --preset modelbridge
      tollbridge serve --workers 4
    """
    from tollbridge.telemetry import log_json

    log_json()
    if worker is not None:
        sys.exit(_work(worker, lambda: read_settings(config, data_dir, **options)))
    settings = read_settings(config, data_dir, **options)
    if settings.workers > 1:
        sys.exit(_supervise(settings))
    from tollbridge.app import serve as run

    sys.exit(run(settings))


def _supervise(settings: "Settings") -> int:
    """Without all that a gateway imports."""
    from tollbridge.edge.listening import listen_for
    from tollbridge.edge.workers import Supervisor, worker_command

    sockets = listen_for(settings.workers, settings.host, settings.port)
    patience = settings.server.drain_pause + settings.server.drain + ENDING_S
    return Supervisor(sockets, worker_command, patience).run()


def _work(berth_text: str, read: "Callable[[], Settings]") -> int:
    """One of several. What is wrong is told by the supervisor, and not by each."""
    from tollbridge.edge.workers import Berth

    berth = Berth(berth_text)
    try:
        settings = read()
        from tollbridge.app import serve as run

        return run(settings, berth)
    except TollbridgeError as error:
        berth.failed(str(error))
        return 1


@click.command()
@configured
def migrate(settings: "Settings") -> None:
    """Bring the database to the schema that this version needs.

    \b
    Example:
      tollbridge migrate
    """
    from tollbridge.services.doctor import diagnose
    from tollbridge.store import schema

    url = settings.database_url.reveal()
    try:
        changed = asyncio.run(schema.migrate(url))
    except TollbridgeError as error:
        raise diagnose(error, url) from error
    say(f"the schema is {schema.HEAD}{' now' if changed else ' already'}")


@click.command()
@as_json
@configured
def doctor(settings: "Settings", as_json: bool) -> None:
    """Check whether a gateway can work here. Exits with 1 when it cannot.

    \b
    Example:
      tollbridge doctor
    """
    from tollbridge.services.doctor import examine

    findings = asyncio.run(examine(settings))
    if as_json:
        print_json(findings)
    else:
        rows = [(each.name, "ok" if each.ok else "BAD", each.detail) for each in findings]
        print_table(("what", "", "found"), rows)
    if not all(each.ok for each in findings):
        sys.exit(1)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@configured
def backup(settings: "Settings", file: Path) -> None:
    """Copy the SQLite database into a new file.

    The gateway may run meanwhile. The master secret is not in it: keep the file `secret` of the data directory too.

    \b
    Example:
      tollbridge backup /backups/tollbridge-2027-01-31.db
    """
    from tollbridge.services import secrets
    from tollbridge.store.backup import back_up

    back_up(settings.database_url.reveal(), file)
    say(f"{file} is a complete copy of the database")
    if settings.secret is None:
        say(f"also keep {settings.data_dir / secrets.FILE}: without it, no key in the copy works")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@configured
def restore(settings: "Settings", file: Path) -> None:
    """Replace the SQLite database with a backup. The gateway must not be running.

    The backup and its books are checked first. The database that was there is kept beside it.

    \b
    Example:
      tollbridge restore /backups/tollbridge-2027-01-31.db
    """
    from tollbridge.services.restore import restore as put_back

    kept = asyncio.run(put_back(settings, file))
    say(f"{file} is now the database")
    if kept is not None:
        say(f"the database that was there is kept as {kept}")


@click.command("move")
@click.argument("url")
@as_json
@configured
def move(settings: "Settings", url: str, as_json: bool) -> None:
    """Move from SQLite to PostgreSQL. The gateway must not be running.

    Copies all there is into an empty PostgreSQL database. URL is what database_url will be:
    postgresql://user:password@host/name, or better env:NAME or file:PATH, since others on this machine see what a
    command is given. The books are proved before and after. A copy that breaks off leaves nothing, and can be started
    again. The SQLite file stays as it was, but no gateway will serve from it again.

    \b
    Example:
      tollbridge move env:DATABASE_URL
    """
    from tollbridge.config import read_database_url
    from tollbridge.core.money import format_usd
    from tollbridge.services.transfer import file_of, to_postgresql

    target, shown = read_database_url(url, settings.source)
    done = asyncio.run(to_postgresql(settings, target, say))
    counts = {name: getattr(done.report, name) for name in COUNTS}
    books = {book.value: format_usd(amount) for book, amount in done.report.trial_balance.items()}
    if as_json:
        print_json({"rows": done.rows, **counts, "trial_balance_usd": books})
    else:
        print_table(("table", "rows"), [(name, count) for name, count in done.rows.items() if count])
        click.echo()
        print_table(("ledger account", "USD"), list(books.items()))
    total = sum(done.rows.values())
    say(", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()))
    say(f"{total:,} rows are on PostgreSQL, as many as in {file_of(settings)}; the books are right there, and the same")
    _tell_what_next(settings, shown, done.report.open_holds)


def _tell_what_next(settings: "Settings", shown: str, open_holds: int) -> None:
    from tollbridge.services import secrets
    from tollbridge.services.transfer import file_of, spools

    say("")
    say(f'next: set database_url = "{shown}" and start the gateway')
    if settings.secret is None:
        say(f"it needs {settings.data_dir / secrets.FILE} as before: each machine that serves needs the same file")
    else:
        say("it needs the setting secret as before: each machine that serves needs the same one")
    if open_holds:
        say(f"requests that were cut off: {open_holds:,}; its first start settles them at what they had produced")
    for path in spools(settings):
        say(f"{path} holds ends of requests: start a gateway with this data directory, which replays them")
    say(f"keep {file_of(settings)} as a backup: it is as it was, but no gateway will serve from it again")


@click.group("config")
def configuration() -> None:
    """Show the settings.

    \b
    Example:
      tollbridge config show
    """


@configuration.command("show")
@as_json
@configured
def config_show(settings: "Settings", as_json: bool) -> None:
    """Show all settings in effect and where each comes from, secrets masked.

    \b
    Example:
      tollbridge config show
    """
    if as_json:
        print_json([{"name": each.name, "value": each.shown, "origin": each.origin} for each in settings.entries])
    else:
        for each in settings.entries:
            click.echo(f"{each.name} = {each.shown}  # {each.origin}")


COMMANDS = (serve, migrate, doctor, backup, restore, move, configuration)
