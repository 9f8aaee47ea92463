"""What the doctor finds, and that looking changes nothing."""

import asyncio
import errno
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.servers import HOST, Valkey
from tests.services.conftest import PLANS, World

from tollbridge.config import Settings, Source, read
from tollbridge.errors import ConfigError, Unavailable
from tollbridge.services import accounts, secrets
from tollbridge.services.doctor import Finding, diagnose, examine
from tollbridge.store.db import Database, open_database
from tollbridge.store.processes import begin


def found(settings: Settings) -> dict[str, Finding]:
    return {each.name: each for each in asyncio.run(examine(settings))}


def settings(world: World, **environ: str) -> Settings:
    return read(Source(None, (("data_dir", str(world.directory)), ("database_url", world.url))), environ)


def test_a_gateway_that_can_work_is_well(world: World) -> None:
    findings = found(settings(world, DEEPSEEK_API_KEY="canary-key"))
    assert [name for name, each in findings.items() if not each.ok] == []
    assert findings["providers"].detail == "deepseek (tollbridge provider check asks them)"
    assert "fsync p50 " in findings["disk"].detail
    assert findings["schema"].detail
    assert "canary" not in repr(findings)


def test_what_strangers_would_miss_is_said_where_they_can_come(world: World) -> None:
    here = found(settings(world))
    assert here["providers"].ok
    assert not {"mail", "texts"} & here.keys()
    elsewhere = found(settings(world, TOLLBRIDGE_PUBLIC_URL="https://api.example.com"))
    assert not elsewhere["providers"].ok
    assert "customers pay for what it makes up" in elsewhere["providers"].detail
    assert "Outbox" in elsewhere["mail"].detail
    assert elsewhere["texts"].detail.startswith("not written: terms, privacy, refunds, contact")
    terms = world.directory / "terms.md"
    terms.write_text("# Terms")
    written = {f"TOLLBRIDGE_PAGES__{name}": str(terms) for name in ("TERMS", "PRIVACY", "REFUNDS", "CONTACT")}
    mail = {"TOLLBRIDGE_MAIL__HOST": "smtp.example.com", "TOLLBRIDGE_MAIL__FROM": "a@example.com"}
    ready = {"TOLLBRIDGE_PUBLIC_URL": "https://api.example.com", "DEEPSEEK_API_KEY": "canary-key"}
    findings = found(settings(world, **written, **mail, **ready))
    assert findings["texts"].detail == "all of [pages] are written"
    assert findings["mail"].detail == "sent by smtp.example.com"
    assert findings["providers"].ok


def test_before_the_first_start_nothing_is_made(tmp_path: Path) -> None:
    findings = found(read(Source(None, (("data_dir", str(tmp_path / "data")),)), {}))
    assert findings["data directory"].ok
    assert "the first start creates it" in findings["database"].detail
    assert "demo" in findings["providers"].detail
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_beside_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    findings = found(read(Source(None, (("data_dir", str(tmp_path)),)), {}))
    assert (findings["disk"].ok, findings["providers"].ok) == (False, True)
    assert findings["disk"].detail == f"{tmp_path} cannot take another 800 KB: No space left on device"


def test_a_master_secret_that_is_gone_is_found_and_none_is_made_for_it(sqlite_world: World) -> None:
    async def claim(database: Database) -> None:
        await secrets.belongs_to(database, secrets.load(settings(sqlite_world)))

    assert found(settings(sqlite_world))["master secret"].detail == "none yet: the first start creates it"
    sqlite_world.run(claim)
    assert found(settings(sqlite_world))["master secret"].ok
    file = sqlite_world.directory / "secret"
    file.unlink()
    finding = found(settings(sqlite_world))["master secret"]
    assert (finding.ok, finding.detail) == (
        False,
        f"{file} is gone: bring back this master secret, no key works without it",
    )
    assert not file.exists()

    async def load(database: Database) -> None:
        await secrets.load_for(database, settings(sqlite_world))

    with pytest.raises(ConfigError, match="is gone"):
        sqlite_world.run(load)
    assert not file.exists()


def test_a_database_that_can_only_be_read_is_found(sqlite_world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    finding = found(settings(sqlite_world))["database"]
    assert (finding.ok, "it cannot be written: does it belong to" in finding.detail) == (False, True)


def test_a_database_that_cannot_be_reached_is_found(tmp_path: Path) -> None:
    options = (("data_dir", str(tmp_path)), ("database_url", "postgresql://me:canary@127.0.0.1:1/x"))
    findings = found(read(Source(None, options), {}))
    assert not findings["database"].ok
    assert findings["database"].detail.startswith("the database 127.0.0.1:1/x: nothing answers there")
    assert "canary" not in repr(findings)


def test_a_server_of_limits_that_is_away_is_found(tmp_path: Path, valkey_url: str) -> None:
    for url, well in (
        ("redis://:canary@127.0.0.1:1/0", False),
        ("redis://127.0.0.1:1/0?no_such=1", False),
        (valkey_url, True),
    ):
        options = (("data_dir", str(tmp_path)), ("redis_url", url))
        finding = found(read(Source(None, options), {}))["limits"]
        assert finding.ok is well, finding
        assert "canary" not in repr(finding)
    assert "limits" not in found(read(Source(None, (("data_dir", str(tmp_path)),)), {}))


def test_a_server_of_limits_that_gateways_cannot_use_is_found(tmp_path: Path) -> None:
    with Valkey() as server:

        def limits() -> Finding:
            options = (("data_dir", str(tmp_path)), ("redis_url", server.url()))
            return found(read(Source(None, options), {}))["limits"]

        assert limits().ok
        for trouble, says, over in (
            (
                ("REPLICAOF", HOST, "1"),
                "ReadOnlyError: You can't write against a read only replica",
                "REPLICAOF NO ONE",
            ),
            (("CONFIG", "SET", "maxmemory", "1"), "OutOfMemoryError", "CONFIG SET maxmemory 0"),
        ):
            assert server.command(*trouble) == b"+OK\r\n"
            finding = limits()
            assert (finding.ok, says in finding.detail) == (False, True), finding
            assert server.command(*over.split()) == b"+OK\r\n"
            assert limits().ok
        time.sleep(1.1)
        assert server.command("DBSIZE") == b":0\r\n"


def test_a_server_of_limits_that_is_slow_is_found(tmp_path: Path, valkey_url: str) -> None:
    parts = urlsplit(valkey_url)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while said := await reader.read(65536):
            await asyncio.sleep(0.06)
            writer.write(said)
        writer.close()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(pass_on(reader, server_writer), pass_on(server_reader, writer))

    async def look() -> Finding:
        async with await asyncio.start_server(meet, HOST, 0) as slow:
            url = f"redis://{HOST}:{slow.sockets[0].getsockname()[1]}{parts.path}"
            options = (("data_dir", str(tmp_path)), ("redis_url", url))
            return {each.name: each for each in await examine(read(Source(None, options), {}))}["limits"]

    finding = asyncio.run(look())
    assert not finding.ok
    assert "ms to answer, and is waited for 50 ms" in finding.detail


def test_a_place_of_exported_requests_that_is_no_directory_is_found(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place, well, says in (
        (tmp_path, True, "can be written"),
        (tmp_path / "a%20new/one", True, "a new/one does not exist"),
        (tmp_path / "file", False, "file cannot be written: Not a directory"),
        (tmp_path / "file/below", False, "file cannot be written: Not a directory"),
    ):
        environ = {"TOLLBRIDGE_USAGE__EXPORT": f"directory://{place}"}
        finding = found(read(Source(None, (("data_dir", str(tmp_path)),)), environ))["usage export"]
        assert finding.ok is well, finding
        assert says in finding.detail
    assert "usage export" not in found(read(Source(None, (("data_dir", str(tmp_path)),)), {}))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_clock_that_differs_from_the_databases_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = found(settings(world)).get("clock")
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() - 7200)
    wrong = found(settings(world)).get("clock")
    if world.url.startswith("sqlite:"):
        assert (clock, wrong) == (None, None)
        return
    assert clock is not None
    assert clock.ok
    assert wrong is not None
    assert (wrong.ok, "7,200 s behind the database's" in wrong.detail) == (False, True)


def test_processes_that_do_not_share_their_limits_are_found(world: World, valkey_url: str) -> None:
    assert "limits" not in found(settings(world))
    for _ in range(2):
        world.run(begin)
    finding = found(settings(world)).get("limits")
    if world.url.startswith("sqlite:"):
        assert finding is None  # they cannot be alive
        return
    assert finding is not None
    assert (finding.ok, "2 processes serve from this database" in finding.detail) == (False, True)
    assert found(settings(world, TOLLBRIDGE_REDIS_URL=valkey_url))["limits"].ok


def test_a_schema_of_a_newer_version_is_not_to_be_migrated(world: World) -> None:
    async def age(database: Database) -> None:
        await database.execute("UPDATE alembic_version SET version_num = '9999'")
        await database.execute("UPDATE meta SET value = 9999 WHERE name = 'schema_oldest'")

    assert found(settings(world))["schema"].ok
    world.run(age)
    finding = found(settings(world))["schema"]
    assert not finding.ok
    assert "9999, of a newer version" in finding.detail
    assert "migrate" not in finding.detail


def test_what_a_database_refuses_is_said_with_what_helps(tmp_path: Path, postgres_url: str) -> None:
    parts = urlsplit(postgres_url)
    host = f"{parts.hostname}:{parts.port}"
    for url, says in (
        (f"postgresql://{parts.username}:canary@{host}/missing", f"{host}/missing: there is no database of this name"),
        (f"postgresql://stranger:canary@{host}{parts.path}", "it does not accept the user"),
    ):
        detail = found(read(Source(None, (("data_dir", str(tmp_path)), ("database_url", url))), {}))["database"].detail
        assert says in detail
        assert "canary" not in detail


def test_a_database_that_takes_no_writes_is_found(tmp_path: Path, postgres_url: str) -> None:
    async def make_read_only() -> None:
        database = open_database(postgres_url)
        await database.start()
        [(name,)] = await database.fetch("SELECT current_database()")
        await database.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await database.close()

    asyncio.run(make_read_only())
    finding = found(read(Source(None, (("data_dir", str(tmp_path)), ("database_url", postgres_url))), {}))["database"]
    assert not finding.ok
    assert finding.detail == "postgresql can be reached, but it takes no writes: it is a replica, or was made read-only"


def test_a_database_without_a_schema_is_found(tmp_path: Path, postgres_url: str) -> None:
    findings = found(read(Source(None, (("data_dir", str(tmp_path)), ("database_url", postgres_url))), {}))
    assert findings["schema"].detail == "none yet: the first start creates it"


def test_accounts_on_a_plan_that_is_gone_are_found(world: World) -> None:
    async def two(database: Database) -> None:
        for name in ("default", "gold"):
            await accounts.create(database, f"{name}@example.com", plan=name, plans=PLANS, actor="test")

    world.run(two)
    finding = found(settings(world))["plans"]
    assert not finding.ok
    assert finding.detail == "accounts are on plans that are not configured: gold (1); default applies"
    assert found(settings(world, TOLLBRIDGE_PLANS__GOLD__RPM="5"))["plans"].ok


def test_another_schema_is_found(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        await database.execute("UPDATE alembic_version SET version_num = '0000'")

    sqlite_world.run(use)
    assert not found(settings(sqlite_world))["schema"].ok


def test_another_master_secret_is_found(world: World) -> None:
    mine = settings(world)
    world.run(lambda database: secrets.belongs_to(database, secrets.load(mine)))
    assert found(mine)["master secret"].ok
    (world.directory / "secret").unlink()
    secrets.load(mine)
    assert not found(mine)["master secret"].ok


def test_a_directory_that_cannot_be_written_is_found(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    findings = found(read(Source(None, (("data_dir", str(tmp_path / "data")),)), {}))
    assert not findings["data directory"].ok
    assert "disk" not in findings


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("sqlstate", "28P01", "it does not accept the user or the password of database_url"),
        ("sqlstate", "53300", "it has no connection left"),
        ("sqlstate", "57P03", "it is starting or stopping"),
        ("sqlite_errorname", "SQLITE_READONLY_DIRECTORY", "it cannot be written: does it belong to the user"),
        ("sqlite_errorname", "SQLITE_CANTOPEN", "it cannot be opened"),
        ("sqlite_errorname", "SQLITE_FULL", "the disk is full"),
        ("sqlstate", "XX000", "RuntimeError: it broke"),
    ],
)
def test_each_trouble_of_a_database_has_its_remedy(name: str, code: str, says: str) -> None:
    cause = RuntimeError("it broke\nand the rest is long")
    setattr(cause, name, code)
    error = Unavailable("The database cannot be reached.", code="ledger_unavailable")
    error.__cause__ = cause
    url = "postgresql://me:canary@db:5432/books" if name == "sqlstate" else "sqlite:///data/books.db"
    place = "db:5432/books" if name == "sqlstate" else "data/books.db"
    assert str(diagnose(error, url)).startswith(f"the database {place}: {says}")
    assert "canary" not in str(diagnose(error, url))


def test_what_is_no_trouble_of_a_database_is_said_as_it_is() -> None:
    elsewhere = Unavailable("Stripe does not answer.")
    elsewhere.__cause__ = TimeoutError()
    for error in (ConfigError("mend it"), Unavailable("nothing behind it"), elsewhere):
        assert diagnose(error, "sqlite:///x.db") is error
