"""`tollbridge operator`, and customers who are brought from elsewhere."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Shell

PAGE = Path(__file__).parents[2] / "docs" / "operate" / "login.md"


def test_a_link_lets_an_operator_choose_a_password(shell: Shell) -> None:
    done = shell.ok(
        *("operator", "link", "ada@example.com", "--create"), env={"TOLLBRIDGE_PUBLIC_URL": "https://ours.example"}
    )
    assert done.out.startswith("https://ours.example/auth/reset?token=")
    assert "works once" in done.err
    assert shell.ok("operator", "link").out.startswith("http://127.0.0.1:8000/auth/reset?token=")
    assert "not an e-mail address" in shell.refused("operator", "link", "nobody")


def test_an_address_that_nobody_has_is_made_an_operator_only_when_asked(shell: Shell) -> None:
    says = "nobody here has the address eve@example.com; --create makes a new operator with it"
    assert says in shell.refused("operator", "link", "eve@example.com")
    shell.ok("operator", "link", "eve@example.com", "--create")
    assert "eve@example.com is an operator" in shell.ok("operator", "link", "Eve@example.com").err.lower()


def test_a_link_leads_to_where_the_gateway_was_served_last(shell: Shell) -> None:
    (shell.directory / "data" / "address").write_text("http://127.0.0.1:8123\n")
    assert shell.ok("operator", "link").out.startswith("http://127.0.0.1:8123/auth/reset?token=")


def test_who_has_lost_authenticator_and_recovery_codes_is_let_in_without(shell: Shell) -> None:
    drop = ("account", "drop-factor", "Ada@example.com")
    assert "nobody here has the address ada@example.com" in shell.refused(*drop)
    shell.ok("account", "create", "ada@example.com")
    shell.ok("operator", "link", "ada@example.com", "--create")
    assert "ada@example.com has no second factor" in shell.refused(*drop)
    with shell.database() as database:
        database.execute("UPDATE user SET totp_secret = x'00', totp_since = 1")
        database.execute("INSERT INTO recovery_code (digest, user_id) SELECT x'00', id FROM user")
    shell.ok(*drop)
    with shell.database() as database:
        assert database.execute("SELECT totp_secret, totp_since FROM user").fetchall() == [(None, None)]
        assert database.execute("SELECT * FROM recovery_code").fetchall() == []
        noted = "SELECT detail FROM activity WHERE action = 'two_factor.dropped' ORDER BY account_id"
        [account] = database.execute("SELECT public_id FROM account").fetchone()
        assert database.execute(noted).fetchall() == [(account,), ("ada@example.com",)]


def test_who_cannot_log_in_any_more_is_given_another_address(shell: Shell) -> None:
    move = ("account", "address", "ada@old.example", "ada@example.com")
    assert "nobody here has the address ada@old.example" in shell.refused(*move)
    shell.ok("account", "create", "ada@old.example")
    assert "ada@old.example is ada@example.com now" in shell.ok(*move).err
    shell.ok("operator", "link", "ada@example.com", "--create")
    back = ("account", "address", "ada@example.com", "ada@old.example")
    ours = {"TOLLBRIDGE_PUBLIC_URL": "https://ours.example"}
    done = shell.ok(*back, env=ours)
    assert "hand over the link" in done.err
    assert done.out.startswith("https://ours.example/auth/reset?token=")
    sends = {"TOLLBRIDGE_MAIL__HOST": "smtp.example", "TOLLBRIDGE_MAIL__FROM": "Ours <no-reply@ours.example>"}
    done = shell.ok(*back, env={**ours, **sends})
    # Who gets it has shown that the mailbox is theirs.
    assert (done.out, "a link goes to ada@old.example" in done.err) == ("", True)
    assert "No mail can be sent to 'ada@old'" in shell.refused("account", "address", "ada@example.com", "ada@old")


def test_an_account_is_closed_for_who_does_not_come_to_do_it(shell: Shell) -> None:
    close = ("account", "close", "ada@example.com")
    assert "ada@example.com has no account" in shell.refused(*close)
    account = json.loads(shell.ok("account", "create", "ada@example.com", "--credit", "5", "--json").out)["id"]
    shell.ok("key", "create", "--account", "ada@example.com")
    with shell.database() as database:
        database.execute(
            "INSERT INTO user (public_id, email, operator, created_at, totp_step) "
            "VALUES ('user_1', 'ada@example.com', 0, 1, 0)"
        )
        database.execute("INSERT INTO membership SELECT account.id, user.id, 'owner', 1 FROM account, user")
    shell.ok("credit", "grant", "ada@example.com", "1", "--reason", "an apology")
    with shell.database() as database:
        database.execute("UPDATE balance SET paid = 2000000000")
    assert "2 USD of paid credit is left: refund it first" in shell.refused(*close)
    with shell.database() as database:
        database.execute("UPDATE balance SET paid = 0")
    assert f"is closed, and is {account} in the books; 6 USD of promotional credit are lost" in shell.ok(*close).err
    shown = shell.ok("account", "show", account).out
    assert "ada@" not in shown
    assert "revoked" in shown
    with shell.database() as database:
        assert database.execute("SELECT email FROM user").fetchall() == []
        closed = "SELECT actor FROM activity WHERE action = 'account.closed'"
        assert database.execute(closed).fetchall()[0][0].startswith("cli")
        assert not [row for row in database.iterdump() if "ada@example.com" in row]
    assert "is closed already" in shell.refused("account", "close", account)
    shell.ok("ledger", "verify")
    shell.ok("audit", "verify")


def test_customers_are_brought_from_elsewhere_by_the_loop_in_the_documentation(shell: Shell) -> None:
    section = PAGE.read_text("utf-8").partition("## Customers from elsewhere")[2]
    loop = section.partition("```sh\n")[2].partition("```")[0]
    (shell.directory / "customers.csv").write_text(
        "ada@example.com,12.50,100,60\r\nnobody,1,,\nbob@example.com,2,,many\neve@example.com,1,,"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for _ in range(2):
        done = subprocess.run(
            ["sh", "-c", loop], cwd=shell.directory, env={"PATH": path}, capture_output=True, text=True, check=False
        )
        assert "'nobody' is not an e-mail address" in done.stderr
    assert "ada@example.com already has an account" in done.stderr
    made = [line.split(",") for line in (shell.directory / "keys.csv").read_text().splitlines()]
    assert [email for email, _ in made] == ["ada@example.com", "eve@example.com"]
    assert all(key.startswith("tb_live_") for _, key in made)
    assert (shell.directory / "keys.csv").stat().st_mode & 0o777 == 0o600
    ada, eve, bob = (
        json.loads(shell.ok("account", "show", f"{name}@example.com", "--json").out) for name in ("ada", "eve", "bob")
    )
    assert [each["available_usd"] for each in (ada, eve, bob)] == ["12.5", "1", "2"]
    assert [[key["limit_usd"] for key in each["keys"]] for each in (ada, eve, bob)] == [["100"], [None], []]


def test_at_a_terminal_closing_an_account_asks_first(shell: Shell) -> None:
    shell.ok("account", "create", "ada@example.com")

    def answered(answer: bytes, *more: str) -> tuple[int, bytes]:
        ours, theirs = pty.openpty()
        with os.fdopen(ours, "wb", buffering=0) as terminal:
            words = [sys.executable, "-m", "tollbridge", "account", "close", "ada@example.com", *more]
            process = subprocess.Popen(
                words, cwd=shell.directory, stdin=theirs, stderr=subprocess.PIPE, env={"PATH": os.environ["PATH"]}
            )
            os.close(theirs)
            terminal.write(answer)
            _, said = process.communicate(timeout=60)
        return process.returncode, said

    code, said = answered(b"n\n")
    assert code != 0
    assert b"Close the account ada@example.com for good? [y/N]" in said
    assert shell.ok("account", "show", "ada@example.com").code == 0
    code, said = answered(b"y\n")
    assert (code, b"is closed, and is acct_" in said) == (0, True)
    shell.ok("account", "create", "ada@example.com")
    code, said = answered(b"", "--yes")
    assert (code, b"for good?" in said) == (0, False)
