"""What must survive a loss of power."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Return once a file's content, or a directory's list of names, is on disk. OSError: it may not be."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
