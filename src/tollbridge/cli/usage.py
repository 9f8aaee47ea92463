"""`tollbridge usage`: single requests, taken out and dropped."""

import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from tollbridge.cli.shell import DATE, configured, say, with_database

if TYPE_CHECKING:
    from tollbridge.config import Settings
    from tollbridge.store.db import Database


@click.group()
def usage() -> None:
    """Export single requests, and drop old ones.

    \b
    Example:
      tollbridge usage export --since 2026-11-01 --format csv --to november.csv
    """


@usage.command("export")
@click.option("--since", type=DATE, default=0, metavar="DATE", help="From this day (UTC) on.")
@click.option("--until", type=DATE, metavar="DATE", help="Before this day (UTC).  [default: until now]")
@click.option("--format", "form", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option(
    "--to",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write.  [default: standard output]",
)
@configured
def usage_export(settings: "Settings", since: int, until: int | None, form: str, file: Path | None) -> None:
    """Export the ended requests of all accounts, with what each cost. Amounts are in billionths of a USD.

    \b
    Example:
      tollbridge usage export --since 2026-11-01 --until 2026-12-01 --format csv --to november.csv
    """
    from tollbridge.core.periods import day_text
    from tollbridge.core.words import plural
    from tollbridge.services import export, secrets
    from tollbridge.store import retention

    if until is not None and until <= since:
        raise click.UsageError("--until must be after --since")

    async def write(database: "Database") -> tuple[int, int]:
        count = 0
        end = await database.now() + 1 if until is None else until
        ids = await secrets.ids_at_hand(database, settings)
        if ids is None:
            say("the master secret of this database is not here: the ids of answers are left out")
        with _opened(file) as out:
            if form == "csv":
                out.write(export.csv_head())
            async for lines in export.parts(database, since, end, ids):
                out.write(export.as_csv(lines) if form == "csv" else export.as_json_lines(lines))
                count += len(lines)
        return count, await retention.horizon(database)

    count, gone = with_database(settings, write)
    say(plural(count, "request"))
    if gone >= since and gone:
        say(f"old requests that ended up to {day_text(gone)} are missing: they were dropped")


def _opened(file: Path | None) -> AbstractContextManager[BinaryIO]:
    if file is None:
        if sys.stdout is None:
            raise click.ClickException("there is no standard output: name a file by --to")
        return nullcontext(sys.stdout.buffer)
    try:
        return file.open("wb")
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from None


@usage.command("sync")
@configured
def usage_sync(settings: "Settings") -> None:
    """Write the requests that have not yet been exported.

    Where to is the setting `usage.export`. A running gateway does this by itself.

    \b
    Example:
      tollbridge usage sync
    """
    from tollbridge.core.words import plural
    from tollbridge.services import export, secrets

    if settings.usage.export is None:
        raise click.ClickException("the setting usage.export is not set: there is nowhere to write to")
    sink = export.open_sink(settings.usage.export.reveal())

    async def write(database: "Database") -> int:
        master = secrets.load(settings)
        await secrets.belongs_to(database, master)
        return await export.keep_up(database, sink, master.ids())

    count = with_database(settings, write)
    say(f"{plural(count, 'window of time was', 'windows of time were')} written")


@usage.command("drop")
@configured
def usage_drop(settings: "Settings") -> None:
    """Drop requests that are too old.

    How old is the setting `usage.retention_days`. A running gateway does this by itself.

    \b
    Example:
      tollbridge usage drop
    """
    from tollbridge.core.words import plural
    from tollbridge.services.export import drop_old

    if settings.usage.retention_days is None:
        raise click.ClickException("the setting usage.retention_days is not set: requests are kept for ever")
    count = with_database(settings, lambda database: drop_old(database, settings.usage))
    say(f"{plural(count, 'request was', 'requests were')} dropped")


COMMANDS = (usage,)
