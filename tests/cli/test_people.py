"""`tollbridge operator`."""

from tests.cli.conftest import Shell


def test_a_link_lets_an_operator_choose_a_password(shell: Shell) -> None:
    done = shell.ok("operator", "link", "ada@example.com", env={"TOLLBRIDGE_PUBLIC_URL": "https://ours.example"})
    assert done.out.startswith("https://ours.example/auth/reset?token=")
    assert "good once" in done.err
    assert shell.ok("operator", "link").out.startswith("http://127.0.0.1:8000/auth/reset?token=")
    assert "not an e-mail address" in shell.refused("operator", "link", "nobody")
