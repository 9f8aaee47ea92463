"""What a plan allows."""

from fnmatch import fnmatchcase

import msgspec

# An account's plan when nothing else was said.
DEFAULT_PLAN = "default"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`rpm`, `tpm`, `concurrency`: None is no limit. `models`: patterns (`*`, `deepseek-*`) of what may be called."""

    name: str
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    strict: bool = False
    models: tuple[str, ...] = ("*",)

    def allows(self, model: str) -> bool:
        return self.models == ("*",) or any(fnmatchcase(model, pattern) for pattern in self.models)
