"""The configuration, read once: `read(Source(path))` gives one frozen `Settings` or a `ConfigError` with its line.

`table` all settings, row by row · `settings` the Structs that they become · `kinds` what a value may look like ·
`reading` file, environment and command line into one · `lines` on which line each value of a TOML file is ·
`source` where settings come from.
"""

from tollbridge.config.kinds import Secret
from tollbridge.config.reading import DEFAULT_FILE, read, read_database_url
from tollbridge.config.settings import LoginSettings, ProviderSettings, Settings, UsageSettings
from tollbridge.config.source import Entry, Source
from tollbridge.config.table import SETTINGS

__all__ = [
    "DEFAULT_FILE",
    "SETTINGS",
    "Entry",
    "LoginSettings",
    "ProviderSettings",
    "Secret",
    "Settings",
    "Source",
    "UsageSettings",
    "read",
    "read_database_url",
]
