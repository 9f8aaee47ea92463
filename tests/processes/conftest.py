from collections.abc import Iterator

import pytest
from tests.processes.fleet import Fleet


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Four processes, shared by the tests of a file: each test uses its own accounts, and leaves everything running."""
    with Fleet(4, tmp_path_factory.mktemp("fleet")) as made:
        yield made
