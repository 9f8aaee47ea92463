"""Coding agents as people start them: Claude Code by Messages, Codex by Responses, aider by chat.

Each is given a question. The first two call a tool of theirs, because the scripted model asks for that; all answer.
"""

import json
import platform
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from tests.gateway.site import Site, always, run
from tests.sdk.programs import output
from tests.sdk.scripted import TEXT, openai_provider
from tests.upstream.bad_server import Peer, Request
from tools.npm_install import install

QUESTION = "What is the weather in Paris?"
HERE = Path(__file__).parent

# What is pinned is a program, not a package for all.
one_platform = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="the agents' programs are pinned for one platform"
)


@pytest.fixture(scope="session")
def programs() -> Path:
    """`tests/sdk/cli/node_modules`, with the programs that `tests/sdk/cli/package.json` names."""
    return install(HERE / "cli")


def trial(use: Callable[[Site], Coroutine[Any, Any, str]], calls: int) -> tuple[str, list[Any]]:
    """What the agent said, and the questions that reached the provider; `calls` of them are charged."""
    asked: list[Any] = []

    async def provider(request: Request, peer: Peer) -> None:
        asked.append(json.loads(request.body))
        await openai_provider(request, peer)

    async def test() -> str:
        async with Site(always(provider)) as site:
            said = await use(site)
            rows = await site.settled(calls)
            assert all(row["charge"] > 0 for row in rows)
            return said

    return run(test()), asked


def results(question: Any) -> list[str]:
    return [str(message["content"]) for message in question["messages"] if message["role"] == "tool"]


@one_platform
def test_claude_code_uses_a_tool_and_answers(programs: Path, tmp_path: Path) -> None:
    async def use(site: Site) -> str:
        return await output(
            *(str(programs / "@anthropic-ai/claude-code-linux-x64/claude"), "-p", QUESTION, "--model", "m"),
            *("--tools", "Bash", "--allowedTools", "Bash"),
            cwd=tmp_path,
            HOME=str(tmp_path),
            CLAUDE_CONFIG_DIR=str(tmp_path / "config"),
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            ANTHROPIC_BASE_URL=f"http://127.0.0.1:{site.port}",
            ANTHROPIC_AUTH_TOKEN=site.key,
            ANTHROPIC_DEFAULT_HAIKU_MODEL="m",
        )

    said, asked = trial(use, 2)
    assert said.strip().endswith(TEXT)
    assert any("toll" in result for result in results(asked[-1]))


@one_platform
def test_codex_uses_a_tool_and_answers(programs: Path, tmp_path: Path) -> None:
    async def use(site: Site) -> str:
        settings = [
            "model_provider=bridge",
            "model_providers.bridge.name=bridge",
            f"model_providers.bridge.base_url=http://127.0.0.1:{site.port}/v1",
            "model_providers.bridge.env_key=BRIDGE_KEY",
            "model_providers.bridge.wire_api=responses",
        ]
        return await output(
            *(str(programs / "@openai/codex/vendor/x86_64-unknown-linux-musl/bin/codex"), "exec", "-m", "m"),
            *("--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
            *(part for setting in settings for part in ("-c", setting)),
            QUESTION,
            cwd=tmp_path,
            HOME=str(tmp_path),
            CODEX_HOME=str(tmp_path),
            BRIDGE_KEY=site.key,
        )

    said, asked = trial(use, 2)
    assert said.strip().endswith(TEXT)
    assert any("toll" in result for result in results(asked[-1]))


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="aider does not run on it")
def test_aider_answers(tmp_path: Path) -> None:
    program = HERE / "aider" / ".venv" / "bin" / "aider"
    assert program.exists(), "aider is missing: `make test` installs it"

    async def use(site: Site) -> str:
        return await output(
            *(str(program), "--model", "openai/m", "--message", QUESTION, "--no-git", "--yes-always", "--no-pretty"),
            *("--no-check-update", "--no-show-model-warnings", "--analytics-disable", "--no-show-release-notes"),
            cwd=tmp_path,
            HOME=str(tmp_path),
            OPENAI_API_BASE=f"http://127.0.0.1:{site.port}/v1",
            OPENAI_API_KEY=site.key,
        )

    said, asked = trial(use, 1)
    assert TEXT in said
    assert asked[0]["stream"]
