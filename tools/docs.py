"""Write the pages of docs/reference/ that are generated from the program: every setting, command and provider.

    python -m tools.docs

A test fails if a page differs from this output.
"""

import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from pathlib import Path

import click
from tools.locks import ROOT

from tollbridge.cli import main
from tollbridge.config import kinds
from tollbridge.config.table import GROUPS, SETTINGS, Group, Setting

PLACE = ROOT / "docs" / "reference"
NOTE = "<!-- Written by `make docs`; do not edit. -->\n"


SETTINGS_HEAD = """\
# Settings

One TOML file, all of it optional. Every value can also come from the environment, which beats the file:
`TOLLBRIDGE_SECTION__NAME`, at the top level `TOLLBRIDGE_NAME`. `tollbridge config show` prints what is in effect and
where each value comes from.
"""
TABLE_HEAD = "| setting | kind | default | |\n|---|---|---|---|\n"


def settings() -> str:
    """One table for each table of the configuration file."""
    parts = [NOTE, SETTINGS_HEAD]
    for group in GROUPS:
        rows = "\n".join(map(_row, _within(group)))
        parts.append(f"## {_heading(group)}\n\n{group.help}\n\n{TABLE_HEAD}{rows}\n")
    return "\n".join(parts)


def _heading(group: Group) -> str:
    if not group.name:
        return "Top level"
    table = group.name.removesuffix("[]")
    return f"`[[{table.replace('[]', '')}]]`" if group.listed else f"`[{table}]`"


def _within(group: Group) -> list[Setting]:
    return [setting for setting in SETTINGS if setting.name.rpartition(".")[0] == group.name]


def _row(setting: Setting) -> str:
    name = setting.name.rpartition(".")[2]
    default = "" if setting.default is None else f"`{kinds.toml(setting.default)}`"
    cells = (f"`{name}`", setting.kind.name, default, setting.help)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def commands(root: click.Command = main) -> str:
    """What `--help` says, for every command."""
    parts = [NOTE, "# Commands\n"]
    for command, context in _walk(root, click.Context(root, info_name="tollbridge", **root.context_settings)):
        path = context.command_path.split()
        parts.append(f"{'#' * (1 + len(path))} `{' '.join(path)}`\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def _walk(command: click.Command, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    context.terminal_width = context.max_content_width = 100
    yield command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None and not child.hidden:
                yield from _walk(child, click.Context(child, info_name=name, parent=context, **child.context_settings))


PROVIDERS_HEAD = """\
# Providers

What is known of each provider in `src/tollbridge/data/providers.toml`. *Stops*: cancelling a call stops its bill;
elsewhere an answer whose caller leaves is read to its end and charged as used. *Usage in streams*: asked for with
`stream_options.include_usage`, or reported unasked. *Never sent*: fields that it refuses, or that change what it bills;
what else it refuses it says itself.

| provider | variables | dialect | stops | usage in streams | called otherwise | never sent | source |
|---|---|---|---|---|---|---|---|
"""


def providers() -> str:
    """One row for each shipped provider."""
    rows = tomllib.loads((files("tollbridge") / "data" / "providers.toml").read_text("utf-8"))
    lines = []
    for name, row in rows.items():
        dialect = row.get("dialect", "openai_chat")
        cells = (
            f"`{name}`",
            _listed(row.get("env", [])),
            f"`{dialect}`",
            "yes" if row.get("cancel_stops_billing") else "no",
            "asked for" if row.get("stream_usage", True) and dialect == "openai_chat" else "unasked",
            _listed(f"{theirs} for {ours}" for ours, theirs in row.get("renames", {}).items()),
            _listed(row.get("drops", [])),
            row["source"],
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return NOTE + "\n" + PROVIDERS_HEAD + "".join(lines)


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(f"`{text}`" for text in texts)


PAGES: dict[str, Callable[[], str]] = {"settings.md": settings, "commands.md": commands, "providers.md": providers}


def write(place: Path = PLACE) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, page in PAGES.items():
        (place / name).write_text(page())


if __name__ == "__main__":
    write()
