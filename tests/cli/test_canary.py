"""J16: a secret given in any place is printed by no command, whether it succeeds or fails."""

import itertools

import pytest
from tests.cli.conftest import Shell

CANARY = "canary-5f0c2b7e91d84a36b1c7ZqKx90wMvT"
CONFIGURATIONS = {
    "provider's key": f'[providers.deepseek]\napi_key = "{CANARY}"\n',
    "provider's header": f'[providers.b]\nbase_url = "https://a.b"\nheaders = {{ x-key = "{CANARY}" }}\n',
    "provider's URL": f'[providers.b]\nbase_url = "https://u:{CANARY}@a.b"\n',
    "master secret": f'secret = "{CANARY}"\n',
    "short master secret": f'secret = "{CANARY[:20]}"\n',
    "database's password": f'database_url = "postgresql://me:{CANARY}@127.0.0.1:1/x"\n',
    "database's parameter": f'database_url = "postgresql://127.0.0.1:1/x?password={CANARY}"\n',
    "wrong database": f'database_url = "mysql://me:{CANARY}@127.0.0.1:1/x"\n',
    "broken file": f'[providers.deepseek]\napi_key = "{CANARY}\n',
    "broken value": f'[providers.deepseek]\napi_key = ["{CANARY}"]\n',
    "another mistake": f'secret = "{CANARY}"\nport = "{8000}"\n',
}
COMMANDS = (
    *(("config", "show"), ("config", "show", "--json"), ("doctor",), ("doctor", "--json"), ("catalog", "list")),
    *(("account", "create", "ada@example.com"), ("account", "list"), ("account", "show", "ada@example.com")),
    *(("key", "create", "--account", "ada@example.com"), ("key", "list", "--account", "ada@example.com")),
    *(("credit", "grant", "ada@example.com", "5", "--reason", "x"), ("ledger", "statement", "ada@example.com")),
    *(("ledger", "verify"), ("migrate",), ("backup", "copy.db"), ("restore", "copy.db"), ("catalog", "check")),
)
TARGETS = (
    *(f"postgresql://me:{CANARY}@127.0.0.1:1/x", f"postgresql://127.0.0.1:1/x?password={CANARY}"),
    *(f"postgresql://me:12/{CANARY}@127.0.0.1:1/x", f"postgresql://me:{CANARY}/y@127.0.0.1:1/x"),
    *(f"postgresql://me:{CANARY}#y@127.0.0.1:1/x", f"mysql://me:{CANARY}@127.0.0.1:1/x", f"postgresql://{CANARY}]@[/x"),
)


@pytest.mark.parametrize("target", TARGETS)
def test_where_books_are_copied_to_is_not_printed(shell: Shell, target: str) -> None:
    for word, env in ((target, {}), ("env:TARGET", {"TARGET": target})):
        done = shell("move", word, env=env)
        assert done.code == 1
        assert CANARY[:20] not in done.out + done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize("place", CONFIGURATIONS)
def test_no_command_prints_a_secret_of_the_configuration(shell: Shell, place: str) -> None:
    (shell.directory / "tollbridge.toml").write_text(CONFIGURATIONS[place])
    for command in COMMANDS:
        done = shell(*command)
        assert CANARY[:20] not in done.out + done.err, command


def test_no_command_prints_a_secret_of_the_environment(shell: Shell) -> None:
    env = {
        "DEEPSEEK_API_KEY": CANARY,
        "TOLLBRIDGE_SECRET": CANARY,
        "TOLLBRIDGE_PROVIDERS__MYBOX__BASE_URL": "https://a.b",
        "TOLLBRIDGE_PROVIDERS__MYBOX__API_KEY": CANARY,
    }
    for command in COMMANDS:
        done = shell(*command, env=env)
        assert (done.code, CANARY in done.out + done.err) == (0, False), command


def test_no_command_prints_a_key_again_or_the_master_secret(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")
    (key,) = shell.ok("key", "create", "--account", "ada@example.com").lines
    secret = (shell.directory / "data" / "secret").read_text().strip()
    others = (command for command in COMMANDS if command[:2] != ("key", "create"))
    for command in itertools.chain(
        others, (("key", "revoke", key), ("account", "show", key), ("catalog", "show", key))
    ):
        done = shell(*command)
        shown = done.out + done.err
        assert secret not in shown, command
        # Who pastes a key in the wrong place may see what they pasted, on their own screen.
        assert key not in shown or key in command, command
