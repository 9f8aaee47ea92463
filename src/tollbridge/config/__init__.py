"""The configuration, read once: `read(Source(path))` gives one frozen `Settings` or a `ConfigError` with its line.

`settings` the table of all settings, and the Structs that hold them · `kinds` what a value may look like · `reading`
file, environment and command line into one · `lines` on which line each value of a TOML file is ·
`source` where settings come from.
"""

from tollbridge.config.kinds import Secret
from tollbridge.config.reading import DEFAULT_FILE, read, read_database_url
from tollbridge.config.settings import SETTINGS, LoginSettings, ProviderSettings, Settings, UsageSettings
from tollbridge.config.source import Entry, Source

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
