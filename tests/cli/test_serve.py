"""`tollbridge serve` as an operator starts it, and every other command beside it while it runs."""

import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from tests.cli.conftest import Shell

HOST = "127.0.0.1"
START_S, STOP_S = 30.0, 30.0


class Gateway:
    """A gateway in a process of its own, with everything that it prints."""

    def __init__(self, directory: Path, *words: str, env: Mapping[str, str], sock: socket.socket | None = None) -> None:
        command = [sys.executable, "-m", "tollbridge", "serve", "--port", "0", *words]
        if sock is not None:
            handed_over = f'export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&{sock.fileno()}'
            command = ["bash", "-c", handed_over, "bash", *command]
        self.process = subprocess.Popen(
            command,
            pass_fds=[] if sock is None else [sock.fileno()],
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
            found = re.search(r"serves \d+ models? on http://127\.0\.0\.1:(\d+)", line)
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
        # Not communicate(): it would take what the reader of the other pipe is waiting for.
        if not self.process.stdout.closed:
            self.out += self.process.stdout.read()
            self.process.stdout.close()
        self.process.wait(STOP_S)
        self._reader.join(STOP_S)
        self._errors.close()


@contextmanager
def running(
    shell: Shell, *words: str, env: Mapping[str, str] | None = None, sock: socket.socket | None = None
) -> Iterator[Gateway]:
    gateway = Gateway(shell.directory, *words, env=env or {}, sock=sock)
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
    assert done.err.startswith("tollbridge: another Tollbridge serves from data")
    assert done.err.count("\n") == 1


def test_all_that_is_logged_is_json(shell: Shell, gateway: Gateway) -> None:
    assert gateway.ask(gateway.key)[0] == 200
    gateway.stop()
    lines = [msgspec.json.decode(line) for line in gateway.err.splitlines()]
    said, [asked] = lines[0], [line for line in lines if line.get("path") == "/v1/chat/completions"]
    assert (said["level"], said["logger"]) == ("warning", "tollbridge")
    assert "the built-in demo provider answers" in said["message"]
    assert asked["status"] == 200
    assert said["ts"] <= asked["ts"]


def test_a_link_of_an_operator_leads_to_the_running_gateway(shell: Shell, gateway: Gateway) -> None:
    assert shell.ok("operator", "link").out.startswith(f"http://127.0.0.1:{gateway.port}/auth/reset?token=")


def test_a_port_in_use_is_said_in_one_line(shell: Shell, gateway: Gateway) -> None:
    done = shell.process("serve", "--port", str(gateway.port))
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        f"tollbridge: cannot listen on 127.0.0.1:{gateway.port}: Address already in use; "
        "stop what is listening there, or choose another port with --port (make serve: PORT=)\n"
    )


def test_a_gateway_on_all_addresses_shows_one_that_can_be_opened(shell: Shell) -> None:
    with running(shell, "--host", "0.0.0.0") as gateway:
        assert gateway.ask(gateway.key)[0] == 200
        assert f"http://127.0.0.1:{gateway.port}/auth/reset?" in gateway.out
        assert "0.0.0.0" not in gateway.out


def test_a_gateway_whose_words_nobody_reads_serves(tmp_path: Path) -> None:
    """`tollbridge serve | head`: what is printed at the start has nowhere to go."""
    probe = socket.create_server(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tollbridge", "serve", "--port", str(port)]
    env = {"PATH": os.environ["PATH"]}
    process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    try:
        assert process.stderr is not None
        said = next(line for line in process.stderr if "not shown" in line)
        assert "Broken pipe" in said
        assert "tollbridge key create" in said
        until = time.monotonic() + STOP_S
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(0.1)
        else:
            raise AssertionError("it does not serve")
    finally:
        process.terminate()
        process.communicate(timeout=STOP_S)


FAILED_STARTS = [
    ((), {"TOLLBRIDGE_DATABASE_URL": "postgresql://me:canary@127.0.0.1:1/books"},
     "the database 127.0.0.1:1/books: nothing answers there: is PostgreSQL running, and is the address"),
    ((), {"TOLLBRIDGE_DATABASE_URL": "postgresql://me:canary@nobody.invalid/books"},
     "the database nobody.invalid/books: its host is not known"),
    (("--data-dir", "file"), {}, "file/tollbridge.db: the database cannot be made: a file is where its directory"),
    (("--data-dir", "broken"), {}, "the database broken/tollbridge.db: the file is damaged, or was never a database"),
    (("--data-dir", "open"), {}, "open/secret: everybody on this machine can read the master secret: chmod 600 "),
    ((), {"TOLLBRIDGE_PUBLIC_URL": "https://api.example.com"},
     "no provider is configured (is its key missing?), and others than you reach this gateway (public_url)"),
    (("--host", "192.0.2.1"), {}, "cannot listen on 192.0.2.1:0: Cannot assign requested address; --host takes"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "env", "says"), FAILED_STARTS, ids=lambda value: str(value)[-30:])
def test_a_start_that_fails_says_why_in_one_line(
    shell: Shell, words: tuple[str, ...], env: dict[str, str], says: str
) -> None:
    (shell.directory / "file").touch()
    for name, file, text in (("broken", "tollbridge.db", "no database at all" * 99), ("open", "secret", "s" * 64)):
        (shell.directory / name).mkdir()
        (shell.directory / name / file).write_text(text)
    done = shell.process("serve", "--port", "0", *words, env=env)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"tollbridge: {says}")
    assert done.err.count("\n") == 1
    assert "canary" not in done.err


MISTAKES = [
    ("[billing\nx = 1", {}, "bad.toml:1: this is not TOML"),
    ('\n[billing]\nmarkup = "1"', {}, "bad.toml:3: unknown setting billing.markup; did you mean markup_percent?"),
    ('port = "80a"', {}, "bad.toml:1: port: expected a whole number"),
    ('[provider.deepseek]\napi_key = "canary"', {}, "bad.toml:1: unknown setting provider; did you mean providers?"),
    ('[providers.deepsek]\napi_key = "canary"', {}, "did you mean deepseek?"),
    ('[providers.deepseek]\napi_key = "env:NOT_THERE"', {}, "the environment variable 'NOT_THERE' is not set"),
    ('[providers.deepseek]\napi_key = "file:/no/file"', {}, "the file '/no/file' cannot be read"),
    ('database_url = "mysql://me:canary@x/y"', {}, 'expected "sqlite:///path/of/a/file.db" or "postgresql://'),
    ('redis_url = "http://:canary@x/y"', {}, 'expected "redis://:password@host:6379/0"'),
    ('secret = "canary"', {}, "at least 32 random characters"),
    ('public_url = "http://api.example.com"', {}, "https:// is needed here"),
    ('preset = "modelbrige"', {}, "did you mean modelbridge?"),
    ('[mail]\nhost = "smtp.example.com"', {}, 'bad.toml:1: mail.from: write from = "Name '),
    ("", {"TOLLBRIDGE_PROT": "1"}, "TOLLBRIDGE_PROT: unknown setting; did you mean TOLLBRIDGE_PORT?"),
    ("", {"TOLLBRIDGE_BILING__MARKUP_PERCENT": "1"}, "did you mean TOLLBRIDGE_BILLING__MARKUP_PERCENT?"),
]


@pytest.mark.parametrize(("text", "env", "says"), MISTAKES, ids=[says[-40:] for _, _, says in MISTAKES])
def test_a_mistake_in_the_configuration_is_said_with_its_line(
    shell: Shell, text: str, env: dict[str, str], says: str
) -> None:
    (shell.directory / "bad.toml").write_text(text)
    line = shell.refused("serve", "--config", "bad.toml", env=env)
    assert says in line
    assert "canary" not in line


def test_it_is_quick_to_answer(shell: Shell) -> None:
    """From the command to the first answer, whatever else the machine does. The schema is there; making it takes a
    second more.
    """
    with running(shell) as gateway:
        assert gateway.ask(gateway.key)[0] == 200
        work = psutil.Process(gateway.process.pid).cpu_times()
        assert work.user + work.system + work.children_user + work.children_system < 5.0


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


def test_workers_on_sqlite_are_refused_with_what_to_set(shell: Shell) -> None:
    done = shell.process("serve", "--workers", "2")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "tollbridge: --workers: 2 workers need a database for many processes: "
        "set database_url = postgresql://user:password@host/name (and redis_url)\n"
    )


def test_the_option_of_workers_is_for_nobody_else(shell: Shell) -> None:
    done = shell.process("serve", "--worker", "0,0,0")
    assert done.code == 1
    assert done.err.startswith("tollbridge: --worker is for the workers")
    assert "--worker " not in shell.ok("serve", "--help").out


def test_with_a_socket_handed_over_callers_wait_while_nobody_serves(shell: Shell) -> None:
    with socket.create_server((HOST, 0)) as sock:
        for _ in range(2):
            waiting = socket.create_connection(sock.getsockname(), timeout=START_S)
            waiting.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            with running(shell, sock=sock) as gateway:
                assert gateway.port == sock.getsockname()[1]
                assert waiting.recv(65536).startswith(b"HTTP/1.1 200 ")
            waiting.close()
