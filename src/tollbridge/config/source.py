"""Where settings come from."""

from pathlib import Path

import msgspec


class Source(msgspec.Struct, frozen=True):
    """Where settings were read from, besides the environment. `options`: (setting, value) from the command line."""

    path: Path | None = None
    options: tuple[tuple[str, str | int], ...] = ()


class Entry(msgspec.Struct, frozen=True):
    """One effective value as it may be shown, and where it comes from."""

    name: str
    shown: str
    origin: str
