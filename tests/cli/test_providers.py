"""`tollbridge provider check`: says who answers, what that costs, and fails if one does not."""

import asyncio

import msgspec
from tests.cli.conftest import Shell
from tests.gateway.site import always, completion, run, says
from tests.upstream.bad_server import BadServer

KEY = "sk-operators-own-0123456789"
CONFIG = """
[providers.well]
base_url = "{url}/v1"
api_key = "env:TEST_KEY"

[providers.gone]
base_url = "http://127.0.0.1:9/v1"

[[models]]
id = "m"
price = {{ input = "1", output = "2" }}
routes = [{{ provider = "well", model = "theirs" }}, {{ provider = "gone", model = "x" }}]
"""


def test_who_answers_is_shown_and_one_that_does_not_fails_it(shell: Shell) -> None:
    async def test() -> None:
        async with BadServer(always(says(completion()))) as server:
            (shell.directory / "tollbridge.toml").write_text(CONFIG.format(url=server.url))
            env = {"TEST_KEY": KEY}
            both = await asyncio.to_thread(shell, "provider", "check", env=env)
            assert both.code == 1
            assert [line.split()[:4] for line in both.lines[1:]] == [
                ["well", "m", "theirs", "ok"],
                ["gone", "m", "x", "BAD"],
            ]
            assert both.err == "your providers bill you USD 0.00002 for the answers\n"
            well = await asyncio.to_thread(shell, "provider", "check", "well", "--json", env=env)
            [found] = msgspec.json.decode(well.out)
            assert (well.code, found["ok"], found["cost_usd"]) == (0, True, "0.00002")
            assert KEY not in repr((both, well))

    run(test())


def test_mistakes_are_said(shell: Shell) -> None:
    assert "the built-in demo provider answers" in shell.refused("provider", "check")
    (shell.directory / "tollbridge.toml").write_text(CONFIG.format(url="http://127.0.0.1:9"))
    env = {"TEST_KEY": KEY}
    assert "no provider 'wel'" in shell.refused("provider", "check", "wel", env=env)
    assert "--model or --all" in shell.refused("provider", "check", "--model", "m", "--all", env=env)
