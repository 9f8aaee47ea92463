"""`tollbridge serve` as an operator starts it, and every other command beside it while it runs."""

import http.client
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.cli.conftest import Shell

HOST = "127.0.0.1"
START_S, STOP_S = 30.0, 30.0


class Gateway:
    """A gateway in a process of its own, with everything that it prints."""

    def __init__(self, directory: Path, *words: str, env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tollbridge", "serve", "--port", "0", *words],
            cwd=directory,
            env={"PATH": os.environ["PATH"], **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._errors = self.process.stderr
        self.err = ""
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        self.out = ""
        for line in self.process.stdout:
            self.out += line
            found = re.search(r"serves \d+ models on http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                return
        self.process.wait(STOP_S)
        self._reader.join(STOP_S)
        raise AssertionError(f"it did not start: {self.out}{self.err}")

    def _read_errors(self) -> None:
        for line in self._errors:
            self.err += line

    @property
    def key(self) -> str:
        """The key of the first start, as printed."""
        found = re.search(r"^    (tb_live_\w+)$", self.out, re.MULTILINE)
        assert found, self.out
        return found[1]

    def post(self, path: str, key: str, body: Any) -> tuple[int, dict[str, str], Any]:
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection.request("POST", path, msgspec.json.encode(body), headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), msgspec.json.decode(answer.read())
        finally:
            connection.close()

    def ask(self, key: str) -> tuple[int, Any]:
        body = {"model": "deepseek-chat", "messages": [{"role": "user", "content": "Hello!"}]}
        status, _, answer = self.post("/v1/chat/completions", key, body)
        return status, answer

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        assert self.process.stdout is not None
        try:
            self.out += self.process.communicate(timeout=STOP_S)[0] if not self.process.stdout.closed else ""
        except ValueError:
            self.process.wait(STOP_S)
        self._reader.join(STOP_S)


@contextmanager
def running(shell: Shell, *words: str, env: Mapping[str, str] | None = None) -> Iterator[Gateway]:
    gateway = Gateway(shell.directory, *words, env=env or {})
    try:
        yield gateway
    finally:
        gateway.stop()
        if gateway.process.poll() is None:
            gateway.process.kill()


@pytest.fixture
def gateway(shell: Shell) -> Iterator[Gateway]:
    with running(shell) as one:
        yield one


def test_the_first_start_prints_a_call_that_works_as_pasted(shell: Shell, gateway: Gateway) -> None:
    pasted = gateway.out[gateway.out.index("curl") :].partition("\n\n")[0]
    words = shlex.split(pasted.replace("\\\n", " "))
    done = subprocess.run([*words, "--silent", "--fail"], capture_output=True, text=True, check=True, timeout=30)
    answer = msgspec.json.decode(done.stdout)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["cost"] > 0
    shown = msgspec.json.decode(shell.ok("account", "show", "operator@localhost", "--json").out)
    assert float(shown["available_usd"]) == pytest.approx(0.5 - answer["usage"]["cost"])


def test_the_second_start_makes_nothing_new(shell: Shell, gateway: Gateway) -> None:
    key = gateway.key
    gateway.stop()
    with running(shell) as second:
        assert "tb_live_" not in second.out
        assert second.ask(key)[0] == 200
    assert len(msgspec.json.decode(shell.ok("account", "list", "--json").out)) == 1


def test_every_command_works_while_the_gateway_runs(shell: Shell, gateway: Gateway) -> None:
    shell.ok("account", "create", "ada@example.com")
    (key,) = shell.ok("key", "create", "--account", "ada@example.com").lines
    status, answer = gateway.ask(key)
    assert (status, answer["error"]["code"]) == (402, "insufficient_credits")
    shell.ok("credit", "grant", "ada@example.com", "5", "--reason", "hello")
    status, answer = gateway.ask(key)
    assert status == 200
    charged = answer["usage"]["cost"]
    *_, last = msgspec.json.decode(shell.ok("ledger", "statement", "ada@example.com", "--json").out)
    assert float(last["amount_usd"]) == -charged
    assert last["what"].startswith("deepseek-chat: ")
    shell.ok("ledger", "verify")
    shell.ok("doctor")
    shell.ok("backup", "copy.db")
    shell.ok("migrate")
    assert "another Tollbridge serves" in shell.refused("restore", "copy.db")
    assert gateway.ask(key)[0] == 200


def test_a_revoked_key_and_a_frozen_account_stop_within_a_second(shell: Shell, gateway: Gateway) -> None:
    """B4, G20."""
    shell.ok("account", "create", "ada@example.com", "--credit", "5")
    for _ in range(5):
        (key,) = shell.ok("key", "create", "--account", "ada@example.com").lines
        assert gateway.ask(key)[0] == 200
        *_, listed = msgspec.json.decode(shell.ok("key", "list", "--account", "ada@example.com", "--json").out)
        shell.ok("key", "revoke", listed["id"])
        assert gateway.ask(key)[0] == 401
    (key,) = shell.ok("key", "create", "--account", "ada@example.com").lines
    shell.ok("account", "freeze", "ada@example.com")
    status, answer = gateway.ask(key)
    assert (status, answer["error"]["code"]) == (403, "account_frozen")
    shell.ok("account", "unfreeze", "ada@example.com")
    assert gateway.ask(key)[0] == 200


def test_a_key_asked_for_too_early_works_once_it_is_made(shell: Shell, gateway: Gateway) -> None:
    """What is remembered of a stranger's key does not outlive its making."""
    shell.ok("account", "create", "ada@example.com", "--credit", "5")
    (key,) = shell.ok("key", "create", "--account", "ada@example.com").lines
    assert gateway.ask(key[:-1] + ("a" if key[-1] != "a" else "b"))[0] == 401
    assert gateway.ask(key)[0] == 200


def test_two_gateways_on_one_database_are_refused(shell: Shell, gateway: Gateway) -> None:
    done = shell.process("serve", "--port", "0")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("tollbridge: another Tollbridge serves from data")


def test_a_port_in_use_is_said_in_one_line(shell: Shell, gateway: Gateway) -> None:
    done = shell.process("serve", "--port", str(gateway.port))
    assert (done.code, done.out) == (1, "")
    assert done.err == f"tollbridge: cannot listen on 127.0.0.1:{gateway.port}: Address already in use\n"


def test_it_is_quick_to_answer(shell: Shell) -> None:
    """From the command to the first answer. The schema is there; making it takes a second more."""
    started = time.monotonic()
    with running(shell) as gateway:
        assert gateway.ask(gateway.key)[0] == 200
        assert time.monotonic() - started < 5.0


def test_a_running_gateway_prints_no_secret(shell: Shell) -> None:
    """J16, G13: the one key of the first start, once, and nothing else."""
    canary = "canary-5f0c2b7e91d84a36b1c7ZqKx90wMvT"
    env = {"TOLLBRIDGE_SECRET": canary, "TOLLBRIDGE_PROVIDERS__BOX__BASE_URL": "http://127.0.0.1:1/v1"}
    env |= {"TOLLBRIDGE_PROVIDERS__BOX__API_KEY": f"{canary}-key"}
    env |= {
        "TOLLBRIDGE_MODELS": '[{ id = "deepseek-chat", price = { input = "1", output = "1" },'
        ' routes = [{ provider = "box", model = "m" }] }]'
    }
    with running(shell, env=env) as gateway:
        key = gateway.key
        prompt = f"{canary}-prompt"
        body: Any = {"model": "deepseek-chat", "messages": [{"role": "user", "content": prompt}]}
        answers = [gateway.post("/v1/chat/completions", key, body)]
        answers.append(gateway.post("/v1/chat/completions", f"{key[:-1]}!", body))
        answers.append(gateway.post("/v1/chat/completions", key, {**body, "model": f"{canary}-model"}))
        answers.append(gateway.post("/v1/chat/completions", key, {**body, "temperature": f"{canary}-value"}))
        assert [status for status, _, _ in answers] == [502, 401, 404, 400]
    assert gateway.out.count(key) == 2
    assert key not in gateway.err
    assert canary not in gateway.out + gateway.err
    # What a caller sent may come back to that caller, secrets of ours never.
    for _, headers, answer in answers:
        assert f"{canary}-key" not in f"{headers}{answer}"
        assert key not in f"{headers}{answer}"
