"""`tollbridge operator`."""

from tests.cli.conftest import Shell


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
