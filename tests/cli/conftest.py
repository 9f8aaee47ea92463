"""Commands as an operator types them, in the test's own directory."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from tollbridge.cli import main
from tollbridge.store.schema import migrate


class Done(msgspec.Struct):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Shell(msgspec.Struct):
    """Runs commands within `directory`, whose `data` holds a migrated database."""

    directory: Path

    def __call__(self, *words: str, env: Mapping[str, str] | None = None) -> Done:
        """Run in this process: quick."""
        clean = {name: None for name in os.environ if name.startswith("TOLLBRIDGE_") or name.endswith("_API_KEY")}
        result = CliRunner().invoke(main, words, env={**clean, **(env or {})}, prog_name="tollbridge")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    def ok(self, *words: str, env: Mapping[str, str] | None = None) -> Done:
        done = self(*words, env=env)
        assert done.code == 0, done.err
        return done

    def refused(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        """The one line that says why."""
        done = self(*words, env=env)
        assert done.code != 0
        assert done.out == ""
        line = done.err.splitlines()[-1]
        assert line.startswith("tollbridge: "), done.err
        return line

    def database(self) -> contextlib.closing[sqlite3.Connection]:
        """The books, to look into or to change by hand; what is changed is committed at once."""
        return contextlib.closing(sqlite3.connect(self.directory / "data" / "tollbridge.db", isolation_level=None))

    def process(self, *words: str, env: Mapping[str, str] | None = None) -> Done:
        """Run in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "tollbridge", *words],
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], **(env or {})},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def migrated_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("template") / "data"
    asyncio.run(migrate(f"sqlite:///{data}/tollbridge.db"))
    return data


@pytest.fixture
def shell(migrated_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    shutil.copytree(migrated_data, tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path)
