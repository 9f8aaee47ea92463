"""The compose files, by Compose itself. No container was started: the machines that test this have no engine."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.deploy.programs import DEPLOY, output, program

from tollbridge.config import Source, read

pytestmark = pytest.mark.deploy


def composed(file: Path, *options: str) -> Any:
    env = {"TOLLBRIDGE_DOMAIN": "api.example.com"}
    return json.loads(output(program("docker-compose"), "-f", file, *options, "config", "--format", "json", env=env))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files, with secrets made by their own script."""
    folder = tmp_path_factory.mktemp("compose") / "deploy"
    shutil.copytree(DEPLOY, folder)
    output("sh", folder / "compose" / "secrets.sh")
    return folder


def test_compose_finds_no_fault(copy: Path) -> None:
    whole = composed(copy / "compose.yaml", "--profile", "nginx")
    assert set(whole["services"]) == {"gateway-a", "gateway-b", "postgres", "valkey", "caddy", "nginx"}
    assert set(composed(copy / "compose.dev.yaml")["services"]) == {"gateway"}


def test_without_a_domain_it_says_what_to_set() -> None:
    # The exit status says nothing: the package that brings Compose loses it.
    done = subprocess.run(
        [program("docker-compose"), "-f", DEPLOY / "compose.yaml", "config", "--format", "json"],
        env={**os.environ, "TOLLBRIDGE_DOMAIN": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "set TOLLBRIDGE_DOMAIN" in done.stderr
    assert done.stdout == ""


def test_what_it_sets_is_what_the_gateways_read(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = composed(copy / "compose.yaml", "--profile", "nginx")["services"]
    secrets = copy / "compose" / "secrets"
    for name, value in services["gateway-a"]["environment"].items():
        monkeypatch.setenv(name, value.replace("/run/secrets", str(secrets)))
    file = copy / "compose" / "tollbridge.toml"
    file.write_text(file.read_text().replace("/run/secrets", str(secrets)))
    settings = read(Source(file))
    assert settings.public_url == "https://api.example.com"
    password = (secrets / "database_password").read_text()
    assert settings.database_url.reveal() == f"postgresql://tollbridge:{password}@postgres:5432/tollbridge"
    proxies = {services[name]["networks"]["inside"]["ipv4_address"] for name in ("caddy", "nginx")}
    assert set(settings.server.trusted_proxies) == proxies
    assert proxies <= set(settings.server.exempt_clients)
    assert services["gateway-a"]["environment"] == services["gateway-b"]["environment"]
    for name in ("gateway-a", "gateway-b"):
        assert services[name]["stop_grace_period"] == "2m30s"
    server = settings.server
    assert server.drain_pause + server.drain_idle + server.drain + 10 <= 150


def test_no_gateway_shares_a_folder_with_another(copy: Path) -> None:
    services = composed(copy / "compose.yaml")["services"]
    volumes = [
        next(each["source"] for each in services[name]["volumes"] if each["target"] == "/data")
        for name in ("gateway-a", "gateway-b")
    ]
    assert len(set(volumes)) == 2


def test_gateways_have_no_right_and_nothing_to_write_on(copy: Path) -> None:
    for file, names in (("compose.yaml", ("gateway-a", "gateway-b")), ("compose.dev.yaml", ("gateway",))):
        for name in names:
            service = composed(copy / file)["services"][name]
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
            written = [each["target"] for each in service["volumes"] if not each.get("read_only")]
            assert written == ["/data"]


def test_secrets_are_random_kept_and_nobody_else_s(copy: Path) -> None:
    folder = copy / "compose" / "secrets"
    before = {file.name: file.read_text() for file in folder.iterdir()}
    assert len({before[name] for name in ("master", "metrics", "database_password")}) == 3
    assert all(len(before[name]) == 64 for name in ("master", "metrics", "database_password"))
    output("sh", copy / "compose" / "secrets.sh")
    assert {file.name: file.read_text() for file in folder.iterdir()} == before
    assert os.stat(folder).st_mode & 0o077 == 0
    # A provider's key is still to be written into one of them, by who is no root.
    assert {os.stat(file).st_mode & 0o777 for file in folder.iterdir()} == {0o644}
