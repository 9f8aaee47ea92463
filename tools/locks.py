"""Read the lock files of requirements/."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LINE = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>.+))?")


class Locked(NamedTuple):
    """One version of a package; `marker` says on which machines (empty: all), `hashes` are SHA-256 in hex."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def read(name: str) -> list[Locked]:
    """What `requirements/<name>.lock` pins. Raises ValueError for anything but pinned versions and hashes."""
    locked = []
    for entry in (ROOT / "requirements" / f"{name}.lock").read_text().replace("\\\n", " ").splitlines():
        requirement, *hashes = re.split(r"\s+--hash=sha256:", entry.strip())
        found = LINE.fullmatch(requirement.strip())
        if found is None:
            raise ValueError(f"{name}.lock: not a pinned version: {entry[:100]}")
        if not hashes or not all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes):
            raise ValueError(f"{name}.lock: without hashes: {requirement}")
        locked.append(Locked(found["name"], found["version"], found["marker"] or "", tuple(hashes)))
    return locked
