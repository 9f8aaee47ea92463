"""`tollbridge move` as an operator reads it."""

import msgspec
from tests.cli.conftest import Shell


def test_books_are_copied_to_postgresql(shell: Shell, postgres_url: str) -> None:
    shell.ok("account", "create", "ada@example.com", "--credit", "5")
    shell.ok("key", "create", "--account", "ada@example.com")
    (shell.directory / "target").write_text(postgres_url.replace("postgres@", "postgres:canary@") + "\n")
    done = shell.ok("move", "file:target")
    assert ["account", "1"] in [line.split() for line in done.lines]
    assert "customer_promo        5" in done.lines
    said = done.err.splitlines()
    assert said[:3] == ["proving the books", "copying", "proving the books of the copy"]
    assert said[3] == "accounts 1, holds 0, open holds 0, transactions 1, deeds 2, seals 0"
    assert said[4].endswith(
        " are on PostgreSQL, as many as in data/tollbridge.db; the books are right there, and the same"
    )
    assert said[6:] == [
        'next: set database_url = "file:target" and start the gateway',
        "it needs data/secret as before: each machine that serves needs the same file",
        "keep data/tollbridge.db as a backup: it is as it was, but no gateway will serve from it again",
    ]
    examined = shell("doctor")
    assert examined.code == 1
    assert "this database was copied to PostgreSQL: set database_url to that one" in examined.out
    assert "set database_url to that one" in shell.refused("credit", "grant", "ada@example.com", "1", "--reason", "hi")
    env = {"TOLLBRIDGE_DATABASE_URL": postgres_url}
    assert "it belongs to this database" in shell.ok("doctor", env=env).out
    (account,) = msgspec.json.decode(shell.ok("account", "list", "--json", env=env).out)
    assert (account["email"], account["available_usd"]) == ("ada@example.com", "5")
    assert "the target is not empty: " in shell.refused("move", "file:target")
    assert "database_url is already PostgreSQL" in shell.refused("move", "file:target", env=env)


def test_what_was_copied_is_told_as_json(shell: Shell, postgres_url: str) -> None:
    shell.ok("account", "create", "ada@example.com", "--credit", "0.25")
    (shell.directory / "data" / "9-17.spool").write_bytes(b"ends")
    url = postgres_url.replace("postgres@", "postgres:canary@")
    done = shell.ok("move", url, "--json", env={"TOLLBRIDGE_SECRET": "0123456789abcdef" * 4})
    told = msgspec.json.decode(done.out)
    assert (told["rows"]["account"], told["rows"]["usage"], told["open_holds"]) == (1, 0, 0)
    assert told["trial_balance_usd"]["customer_promo"] == "0.25"
    assert f'set database_url = "{url.replace("canary", "***")}"' in done.err
    assert "the setting secret" in done.err
    assert "data/9-17.spool holds ends of requests" in done.err
    assert "canary" not in done.out + done.err
