"""What is to outlive a loss of power."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Returns once a file's content, or a directory's list of names, is on the disk. OSError: it may not be."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
