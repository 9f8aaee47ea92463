"""`tollbridge byok`: a credential comes in by a pipe or the environment, and never goes out."""

import msgspec
import pytest
from click.testing import CliRunner
from tests.cli.conftest import Shell

from tollbridge.cli import main

TEXT = "sk-customers-own-0123456789"
CONFIG = """
[providers.mine]
base_url = "http://127.0.0.1:9/v1"
"""


@pytest.fixture
def site(shell: Shell) -> Shell:
    (shell.directory / "tollbridge.toml").write_text(CONFIG)
    shell.ok("account", "create", "ada@example.com")
    return shell


def test_a_credential_is_added_listed_and_removed_without_being_shown(site: Shell) -> None:
    words = ("byok", "add", "mine", "--account", "ada@example.com", "--label", "laptop")
    piped = CliRunner().invoke(main, words, input=f"{TEXT}\n")
    assert piped.exit_code == 0, piped.output
    by_name = site.ok(*words, "--only", "--env", "THEIRS", "--json", env={"THEIRS": TEXT + "-2"})
    assert msgspec.json.decode(by_name.out)["only"] is True
    listed = site.ok("byok", "list", "--account", "ada@example.com", "--json")
    first, second = msgspec.json.decode(listed.out)
    assert [(each["provider"], each["credential"], each["only"], each["label"]) for each in (first, second)] == [
        ("mine", "…6789", False, "laptop"),
        ("mine", "…89-2", True, "laptop"),
    ]
    shown = site.ok("byok", "list", "--account", "ada@example.com")
    assert shown.lines[1].split()[0] == first["id"]
    for done in (by_name, listed, shown):
        assert TEXT not in done.out + done.err
    assert TEXT not in piped.output
    site.ok("byok", "remove", first["id"])
    assert [each["id"] for each in msgspec.json.decode(
        site.ok("byok", "list", "--account", "ada@example.com", "--json").out
    )] == [second["id"]]  # fmt: skip


def test_mistakes_are_said_without_the_credential(site: Shell) -> None:
    words = ("--account", "ada@example.com", "--env", "THEIRS")
    assert "not set" in site.refused("byok", "add", "mine", *words)
    refused = site.refused("byok", "add", "nobody", *words, env={"THEIRS": TEXT})
    assert "no provider 'nobody'" in refused
    assert TEXT not in refused
    assert "no credential" in site.refused("byok", "remove", "byok_none")
