"""What browser tests need."""

from pathlib import Path

import pytest
from tools.npm_install import install


@pytest.fixture(scope="session")
def axe_core() -> Path:
    """`tests/web/node_modules` with axe-core; fails where npm is missing."""
    return install(Path(__file__).parent)
