"""`tollbridge secrets`."""

import json

from tests.cli.conftest import Shell

OLD, NEW = "wq8ZrJ2mB5tYxN0aKcVfLdPsHuGeTo4R", "pL3kXv9QnWb7RtYh2McZs6DfGj8UaEiO"


def test_the_secret_is_rotated_in_steps_that_say_what_comes_next(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    made = shell.ok("key", "create", "--account", "ada@example.com").out.strip()
    file = shell.directory / "data" / "secret"
    told = [made]
    said = shell.ok("secrets", "rotate")
    told += file.read_text().split()
    assert "then run tollbridge secrets rotate again" in said.err
    assert "does not use the new master secret yet" in shell.refused("secrets", "rotate", "--finish")
    moved = shell.ok("secrets", "rotate")
    assert "known by the previous one until they are next used: API keys 1, management keys 0" in moved.err
    assert "it belongs to this database" in shell("doctor").out
    again = shell.ok("secrets", "rotate", "--json")
    facts = {"sealed_anew": 0, "unreadable": 0, "keys": 1, "management_keys": 0}
    assert json.loads(again.out) == {"stage": "moved", **facts}
    refusal = shell.refused("secrets", "rotate", "--finish")
    assert refusal.startswith("tollbridge: 1 API key was not used since the master secret was rotated")
    ended = shell.ok("secrets", "rotate", "--finish", "--force")
    assert "these no longer work: API keys 1, management keys 0" in ended.err
    assert file.read_text().split() == [told[1]]
    assert "--force needs --finish" in shell.refused("secrets", "rotate", "--force")
    for done in (said, moved, again, ended):
        assert not any(text in done.out + done.err for text in told)


def test_a_backup_from_before_is_good_while_the_previous_secret_is_there(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    shell.ok("key", "create", "--account", "ada@example.com")
    shell.ok("backup", "before.db")
    for _ in range(2):
        shell.ok("secrets", "rotate")
    shell.ok("restore", "before.db")
    assert "it belongs to this database" in shell("doctor").out
    assert "sealed anew" in shell.ok("secrets", "rotate").err
    shell.ok("secrets", "rotate", "--finish", "--force")
    assert "not the master secret" in shell.refused("restore", "before.db")


def test_secrets_of_the_configuration_are_checked_and_never_shown(shell: Shell) -> None:
    old = {"TOLLBRIDGE_SECRET": OLD}
    shell.ok("account", "create", "ada@example.com", env=old)
    shell.ok("key", "create", "--account", "ada@example.com", env=old)
    assert "the present one into secret_previous" in shell.refused("secrets", "rotate", env=old)
    both = {"TOLLBRIDGE_SECRET": NEW, "TOLLBRIDGE_SECRET_PREVIOUS": OLD}
    shown = shell.ok("config", "show", env=both)
    moved = shell.ok("secrets", "rotate", env=both)
    ended = shell.ok("secrets", "rotate", "--finish", "--force", env=both)
    assert "remove secret_previous from the configuration" in ended.err
    for done in (shown, moved, ended):
        assert not any(text in done.out + done.err for text in (OLD, NEW))
    alone = {"TOLLBRIDGE_SECRET_PREVIOUS": OLD}
    assert "secret is missing" in shell.refused("config", "show", env=alone)
    twice = {"TOLLBRIDGE_SECRET": OLD, "TOLLBRIDGE_SECRET_PREVIOUS": OLD}
    assert "it must be another than secret" in shell.refused("config", "show", env=twice)
    weak = {"TOLLBRIDGE_SECRET": OLD, "TOLLBRIDGE_SECRET_PREVIOUS": "short"}
    assert "secret_previous: it must be at least 32 random characters" in shell.refused("config", "show", env=weak)
