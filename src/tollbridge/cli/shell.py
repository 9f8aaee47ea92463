"""What commands share: their options, the way to the database, how things are printed and mistakes told."""

import asyncio
import functools
import io
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.exceptions import NoArgsIsHelpError, NoSuchOption

from tollbridge.errors import ConfigError, InvalidRequest, TollbridgeError, Unavailable

if TYPE_CHECKING:
    from tollbridge.config import Settings
    from tollbridge.services.payments import Payments
    from tollbridge.store.db import Database

T = TypeVar("T")
Function = Callable[..., Any]

INTERRUPTED = 130
# Longer than a gateway would wait: a whole history may be read.
PATIENCE_S = 60.0
# What a proof of the books says that it looked at.
COUNTS = ("accounts", "holds", "open_holds", "transactions", "deeds", "seals")


class Commands(click.Group):
    """Mistakes in one line, whoever makes them."""

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        extra["standalone_mode"] = False
        if isinstance(sys.stdout, io.TextIOWrapper):
            # Addresses and labels may hold what a terminal of another encoding cannot show.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            code = super().main(*args, **extra)
        except NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
        except click.ClickException as error:
            where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
            message = error.format_message()
            if isinstance(error, NoSuchOption) and error.option_name[1:2].isdigit():
                message = f"{error.option_name} is negative: amounts and numbers must be above zero."
            _complain(message + (f" (see {where} --help)" if where else ""))
            sys.exit(error.exit_code)
        except TollbridgeError as error:
            for each in (error, *(error.others if isinstance(error, InvalidRequest) else ())):
                _complain(str(each))
            sys.exit(1)
        except OSError as error:  # what is printed goes to a disk that is full, say
            where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
            _complain(where + (error.strerror or str(error) or type(error).__name__))
            sys.exit(1)
        except click.Abort:
            sys.exit(INTERRUPTED)
        sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    click.echo(f"tollbridge: {' '.join(message.split())}", err=True)


# --- options ------------------------------------------------------------------------------------------------------


def places(function: Function) -> Function:
    """`--config` and `--data-dir`, which every command takes."""
    data_dir = click.option(
        "--data-dir", metavar="DIR", help="The directory for files (also TOLLBRIDGE_DATA_DIR).  [default: data]"
    )
    config = click.option(
        "--config",
        metavar="FILE",
        type=click.Path(path_type=Path),
        envvar="TOLLBRIDGE_CONFIG",
        help="The configuration file (also TOLLBRIDGE_CONFIG).  [default: tollbridge.toml, if there is one]",
    )
    return config(data_dir(function))


def configured(function: Function) -> Function:
    """A command that takes `places` and is called with the `Settings` that they lead to."""

    @functools.wraps(function)
    def run(config: Path | None, data_dir: str | None, **arguments: Any) -> Any:
        settings = read_settings(config, data_dir)
        for warning in settings.warnings:
            say(f"warning: {warning}")
        return function(settings, **arguments)

    return places(run)


def read_settings(config: Path | None, data_dir: str | None, **options: str | int | None) -> "Settings":
    """The settings of this run. `options`: what the command line says of top-level settings; None: nothing."""
    from tollbridge.config import DEFAULT_FILE, Source, read

    if config is None and DEFAULT_FILE.exists():
        config = DEFAULT_FILE
    given = {"data_dir": data_dir, **options}
    return read(Source(config, tuple((name, value) for name, value in given.items() if value is not None)))


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
to_account = click.option(
    "--account", required=True, metavar="ACCOUNT", help="Its e-mail address, its id (acct_…) or its number."
)


def one_form(as_csv: bool, as_json: bool) -> None:
    if as_csv and as_json:
        raise click.UsageError("use either --csv or --json, not both")


class Whole(click.IntRange):
    """A whole number within bounds; the error names them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            bounds = f"of at least {self.min}" if self.max is None else f"from {self.min} to {self.max}"
            self.fail(f"it is a whole number {bounds}, not {str(value)!r}", param, ctx)


class _Usd(click.ParamType[int]):
    name = "usd"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from tollbridge.core.money import parse_usd

        if isinstance(value, int):
            return value
        try:
            amount = parse_usd(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if amount == 0:
            self.fail("an amount must be above zero", param, ctx)
        return amount


class _Date(click.ParamType[int]):
    name = "date"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from datetime import UTC, datetime

        from tollbridge.values import LATEST_MS

        if isinstance(value, int):
            return value
        try:
            read = datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"a date must be like 2027-01-31 or 2027-01-31T18:00Z, not {value[:40]!r}", param, ctx)
        at = int((read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp() * 1000)
        # As a time of the books; and a zone more must not lead to a year that no date can name.
        if not 0 <= at < LATEST_MS:
            self.fail(f"a date must be from 1970 to 9998, not {value[:40]!r}", param, ctx)
        return at


# Nano-USD above zero, from a plain decimal.
USD = _Usd()
# Milliseconds since the epoch, from a day (its first moment) or a time, in UTC unless it says otherwise.
DATE = _Date()


def actor() -> str:
    """Who is at the keyboard, as the journal remembers it."""
    import getpass

    try:
        return f"cli/{getpass.getuser()}"
    except (OSError, KeyError):  # a user id without a name, as in containers
        return "cli"


# --- the database -------------------------------------------------------------------------------------------------


def with_database(settings: "Settings", use: "Callable[[Database], Awaitable[T]]", *, new: bool = False) -> T:
    """What `use` returns, run with a database that is ready. `new`: one is made where there is none.

    ConfigError: there is none, it has another schema, or it was left behind for PostgreSQL. In the wrong directory
    nobody should be told of empty books that they are right, and no credit should go to books that nobody serves from.
    """

    url = settings.database_url.reveal()

    async def run() -> T:
        async with _opened(url, new) as database:
            try:
                return await use(database)
            except Unavailable as error:
                from tollbridge.services.doctor import diagnose

                raise diagnose(error, url) from error

    return asyncio.run(run())


def at_till(settings: "Settings", use: "Callable[[Payments], Awaitable[T]]") -> T:
    """What `use` returns, given the payments of this gateway. Receipts are left to the serving process to send."""
    from tollbridge.services import secrets
    from tollbridge.services.mail import Post
    from tollbridge.services.payments import open_payments

    url = f"http://{settings.host}:{settings.port}"

    async def run(database: "Database") -> T:
        master = await secrets.load_for(database, settings)
        await secrets.belongs_to(database, master)
        till = open_payments(database, settings, url, Post(database, master, None))
        try:
            return await use(till)
        finally:
            await till.close()

    return with_database(settings, run)


@asynccontextmanager
async def _opened(url: str, new: bool) -> "AsyncIterator[Database]":
    from tollbridge.services.doctor import diagnose
    from tollbridge.store import schema
    from tollbridge.store.db import open_database, sqlite_path
    from tollbridge.store.processes import FileLock, require_unmoved

    if url.startswith("sqlite:"):
        path = sqlite_path(url)
        require_unmoved(FileLock(path))
        if not path.exists():
            if not new:
                raise ConfigError(
                    f"there is no database {path}: is this the gateway's directory (or --data-dir, or --config)? "
                    "Its first start creates one, as does tollbridge migrate"
                )
            try:
                await schema.migrate(url)
            except TollbridgeError as error:
                raise diagnose(error, url) from error
            say(f"{path} is a new database")
    database = open_database(url, statement_timeout=PATIENCE_S)
    try:
        await database.start()
    except TollbridgeError as error:
        raise diagnose(error, url) from error
    try:
        revision = await schema.current(database)
        if revision is None:
            if not new:
                raise ConfigError(
                    "the database is empty: the first start creates its tables, as does tollbridge migrate"
                )
            await schema.migrate(url)
        elif not await schema.fits(database, revision):
            mend = (
                "run tollbridge migrate"
                if revision < schema.HEAD
                else "it was used by a newer Tollbridge: run that version"
            )
            raise ConfigError(f"the database has schema {revision}, not {schema.HEAD}: {mend}")
        yield database
    finally:
        await database.close()


# --- printing -----------------------------------------------------------------------------------------------------


def say(message: str) -> None:
    """What is no data."""
    click.echo(message, err=True)


def print_json(data: Any) -> None:
    print_data(json_text(data) + b"\n")


def json_text(data: Any) -> bytes:
    import msgspec

    return msgspec.json.format(msgspec.json.encode(data))


def print_data(data: bytes) -> None:
    """What programs read: UTF-8, whatever the terminal takes."""
    click.echo(data, nl=False)


def print_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as their longest cell; nothing but the head when there are no rows."""
    cells = [head, *([_cell(value) for value in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_row(row: Sequence[Any], widths: Sequence[int]) -> None:
    """A row of a table that is shown as it comes. `widths`: of all columns but the last; nothing is cut off."""
    click.echo("  ".join(_cell(value).ljust(width) for value, width in zip(row, (*widths, 0), strict=True)).rstrip())


def print_fields(fields: dict[str, Any]) -> None:
    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f"{name.ljust(width)}  {_cell(value)}")


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else value or "-"


def time(milliseconds: int) -> str:
    from tollbridge.core.periods import time_text

    return time_text(milliseconds)
