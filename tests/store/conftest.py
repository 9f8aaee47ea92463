"""Both engines, migrated and empty."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.servers import Postgres
from tests.store.books import Engine

from tollbridge.store import schema


def migrate(url: str) -> None:
    asyncio.run(schema.migrate(url))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file as the first start leaves it, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "tollbridge.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_engine(tmp_path: Path, migrated_file: Path) -> Engine:
    path = tmp_path / "tollbridge.db"
    shutil.copy(migrated_file, path)
    return Engine(f"sqlite:///{path}", tmp_path)


@pytest.fixture
def postgres_engine(tmp_path: Path, postgres_server: Postgres) -> Iterator[Engine]:
    template = postgres_server.template("migrated", migrate)
    with postgres_server.database(template) as url:
        yield Engine(url, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def ledger_engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Each engine in turn: what is asserted with it is what `Ledger` promises.

    However slow the machine is: what an engine does when it is behind has tests of its own.
    """
    engine: Engine = request.getfixturevalue(f"{request.param}_engine")
    monkeypatch.setattr("tollbridge.store.ledger.sqlite._MOST_WAITING_S", 30.0)
    for name, value in {"MOST_WAITING_MS": 30_000, "MOST_PATIENCE_S": 30.0, "SPOOL_AFTER_S": 30.0}.items():
        monkeypatch.setattr(f"tollbridge.store.ledger.postgres.{name}", value)
    return engine
