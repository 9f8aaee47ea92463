"""The master secret: made once, whole, for its owner alone, and missed as soon as it is another."""

import hmac
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from tests.services.conftest import World

from tollbridge.config import Settings, Source, read
from tollbridge.core.ids import Ids
from tollbridge.errors import ConfigError
from tollbridge.services import secrets
from tollbridge.services.secrets import Secrets, belongs_to, check
from tollbridge.store.db import Database

LONG = "wq8ZrJ2mB5tYxN0aKcVfLdPsHuGeTo4R"


def settings(data_dir: Path, **environ: str) -> Settings:
    return read(Source(None, (("data_dir", str(data_dir)),)), environ)


def test_the_first_start_makes_it_for_its_owner_alone(tmp_path: Path) -> None:
    """B18: nothing is built in; each gateway has its own."""
    first = secrets.load(settings(tmp_path / "a" / "b"))
    file = tmp_path / "a" / "b" / "secret"
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert len(file.read_text().strip()) == 64
    assert list(file.parent.iterdir()) == [file]
    assert secrets.load(settings(tmp_path / "a" / "b")).fingerprint() == first.fingerprint()
    assert secrets.load(settings(tmp_path / "other")).fingerprint() != first.fingerprint()


def test_one_secret_for_several_machines_comes_from_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "given").write_text(LONG)
    by_value = secrets.load(settings(tmp_path / "a", TOLLBRIDGE_SECRET=LONG))
    by_file = secrets.load(settings(tmp_path / "b", TOLLBRIDGE_SECRET=f"file:{tmp_path}/given"))
    assert by_value.digest("key") == by_file.digest("key")
    assert not (tmp_path / "a").exists()


def derived(label: bytes) -> bytes:
    """The same by another implementation."""
    return HKDF(SHA256(), 32, b"tollbridge", label).derive(LONG.encode())


def test_what_follows_from_it_never_changes() -> None:
    """Digests are stored for ever."""
    master = Secrets(LONG)
    assert master.digest("tb_live_x") == hmac.digest(derived(b"pepper/1"), b"tb_live_x", "sha256")
    assert master.digest("tb_live_x").hex().startswith("36d09d3b7388c234")
    assert master.fingerprint() == int.from_bytes(derived(b"fingerprint")[:8]) >> 2
    assert Ids(derived(b"ids")[:16]).decode(master.ids().encode("chat", 77)) == 77


def test_nothing_of_it_is_shown() -> None:
    assert LONG not in repr(Secrets(LONG))
    assert Secrets(LONG).digest("").hex() not in repr(Secrets(LONG))


def test_a_secret_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    secrets.load(settings(tmp_path))
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(ConfigError, match=r"everybody on this machine can read .*: chmod 600"):
        secrets.load(settings(tmp_path))


@pytest.mark.parametrize("text", ["", "\n", "abc"])
def test_a_secret_that_was_cut_off_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").touch(0o600)
    (tmp_path / "secret").write_text(text)
    with pytest.raises(ConfigError, match="is cut off"):
        secrets.load(settings(tmp_path))


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the master secret cannot be"):
        secrets.load(settings(tmp_path / "file" / "data"))


def _load(data_dir: Path, start: Barrier, found: "multiprocessing.Queue[int]") -> None:
    start.wait()
    found.put(secrets.load(settings(data_dir)).fingerprint())


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    start, found = spawn.Barrier(4), spawn.Queue()
    workers = [spawn.Process(target=_load, args=(tmp_path / "data", start, found)) for _ in range(4)]
    for worker in workers:
        worker.start()
    assert len({found.get(timeout=60) for _ in workers}) == 1
    for worker in workers:
        worker.join(60)
    assert list((tmp_path / "data").iterdir()) == [tmp_path / "data" / "secret"]


def test_a_database_belongs_to_one_secret(world: World) -> None:
    async def use(database: Database) -> None:
        mine, other = Secrets(LONG), Secrets("x" * 64)
        await check(database, mine)
        await check(database, other)
        await belongs_to(database, mine)
        await belongs_to(database, mine)
        await check(database, mine)
        with pytest.raises(ConfigError, match="not the master secret"):
            await check(database, other)
        with pytest.raises(ConfigError, match="not the master secret that the keys in this database were made with"):
            await belongs_to(database, other)

    world.run(use)
