"""Gateways as separate processes over one PostgreSQL, behind somebody else's proxy, with the project's own files."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from tests.deploy.programs import DEPLOY, ROOT, program
from tests.gateway.site import CONFIG
from tests.servers import Postgres, free_port
from tests.upstream.bad_server import BadServer, certificate

START_S = 90.0
KEY = "test-master-secret-of-all-gateways-0123456789"


class Upstream:
    """A provider on a thread of its own; `script`: as for a `BadServer`."""

    def __init__(self, script: Callable[..., Any]) -> None:
        self._script = script
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        with contextlib.suppress(ExceptionGroup):
            async with BadServer(self._script) as server:
                self.url = server.url
                self._ready.set()
                await self._over.wait()


class Gate:
    """One gateway: `tollbridge serve` with `config`, its files in `folder`."""

    def __init__(self, folder: Path, config: str) -> None:
        folder.mkdir()
        self.port = free_port()
        self.file = folder / "tollbridge.toml"
        self.file.write_text(f'port = {self.port}\ndata_dir = "{folder}"\n{config}')
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tollbridge", "serve", "--config", str(self.file)],
                stdout=log,
                stderr=log,
                cwd=self.file.parent,
                env={**os.environ, "TEST_UPSTREAM_KEY": "upstream-secret", "PYTHONPATH": str(ROOT / "src")},
            )
        wait_for(lambda: answers(self.port), self._process, self.log)

    def stop(self) -> int:
        """Send SIGTERM; its exit status once it has drained."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(150)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)

    def run(self, *words: str) -> str:
        """A command of tollbridge's on the same configuration."""
        done = subprocess.run(
            [sys.executable, "-m", "tollbridge", *words, "--config", str(self.file)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "TEST_UPSTREAM_KEY": "upstream-secret", "PYTHONPATH": str(ROOT / "src")},
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


class Site:
    """`name` (nginx or caddy) on `port`, in front of `gates`, with TLS that `trust` verifies. `log`: the proxy's."""

    def __init__(self, name: str, folder: Path, gates: list[Gate], port: int) -> None:
        self.name = name
        self.gates = gates
        self.port = port
        certificate(folder, "localhost")
        self.trust = folder / "certificate.pem"
        self.log = folder / "proxy.log"
        self._folder = folder

    @contextlib.contextmanager
    def serving(self) -> Iterator[Self]:
        command, env = self._nginx() if self.name == "nginx" else self._caddy()
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **env})
        try:
            wait_for(lambda: answers(self.port), process, self.log)
            yield self
        finally:
            process.terminate()
            process.wait(30)

    def _replaced(self, file: Path, *pairs: tuple[str, str]) -> str:
        """The project's own file with only places replaced. Each must be in it, so that this cannot drift from it."""
        text = file.read_text()
        for number, gate in enumerate(self.gates):
            pairs += ((f"gateway-{'ab'[number]}:8000", f"127.0.0.1:{gate.port}"),)
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        return text

    def _nginx(self) -> tuple[list[str], dict[str, str]]:
        tls = self._folder / "tls"
        tls.mkdir(exist_ok=True)
        (tls / "fullchain.pem").write_bytes(self.trust.read_bytes())
        (tls / "privkey.pem").write_bytes((self._folder / "key.pem").read_bytes())
        file = self._folder / "nginx.conf"
        file.write_text(
            self._replaced(
                DEPLOY / "nginx" / "nginx.conf",
                ("listen 80;", f"listen 127.0.0.1:{free_port()};"),
                ("listen 443 ssl http2;", f"listen 127.0.0.1:{self.port} ssl http2;"),
                ("/etc/nginx/tls", str(tls)),
                ("/tmp/nginx", str(self._folder / "nginx")),
                ("/dev/stdout", str(self._folder / "access.log")),
                ("/dev/stderr", str(self._folder / "error.log")),
                ("worker_processes auto;", "worker_processes 2; daemon off; user root;"),
            )
        )
        nginx = program("nginx")
        subprocess.run([nginx, "-t", "-q", "-e", "stderr", "-c", file], check=True)
        return [nginx, "-e", str(self._folder / "error.log"), "-c", str(file)], {}

    def _caddy(self) -> tuple[list[str], dict[str, str]]:
        file = self._folder / "Caddyfile"
        site = "{$TOLLBRIDGE_DOMAIN} {\n"
        file.write_text(
            self._replaced(
                DEPLOY / "caddy" / "Caddyfile",
                ("\tgrace_period 150s\n", "\tgrace_period 150s\n\tadmin off\n\tauto_https disable_redirects\n"),
                (site, f"{site}\ttls {self.trust} {self._folder / 'key.pem'}\n\tbind 127.0.0.1\n"),
            )
        )
        home = {"HOME": str(self._folder), "XDG_DATA_HOME": str(self._folder), "XDG_CONFIG_HOME": str(self._folder)}
        command = [program("caddy"), "run", "--adapter", "caddyfile", "--config", str(file)]
        return command, {**home, "TOLLBRIDGE_DOMAIN": f"https://localhost:{self.port}"}


@contextlib.contextmanager
def two_gates(folder: Path, script: Callable[..., Any], more: str = "") -> Iterator[tuple[list[Gate], int]]:
    """Two gateways over one database, and the port of the proxy that they trust."""
    port = free_port()
    with Upstream(script) as upstream, Postgres() as server, server.database() as url:
        models = CONFIG.format(
            url=upstream.url,
            dialect="openai_chat",
            cancel_stops_billing="true",
            more_providers="",
            more_routes="",
            more="",
        )
        top = (
            f'database_url = "{url}"\nsecret = "{KEY}"\nallow_plain_http = true\n'
            f'public_url = "https://localhost:{port}"\n{more}'
            '[server]\ntrusted_proxies = ["127.0.0.1"]\ndrain_pause = "3s"\n'
        )
        gates = [Gate(folder / name, top + models) for name in ("a", "b")]
        try:
            for gate in gates:
                gate.start()
            yield gates, port
        finally:
            for gate in gates:
                gate.kill()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def wait_for(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not ready():
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)
