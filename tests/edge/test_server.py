"""Running, draining and starving a server."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from tests.edge.raw import GET, HEADERS, Asgi, Client, ask, echo, eventually, running

from tollbridge.edge.downstream import Downstream
from tollbridge.edge.server import LoopLag, Server, listen
from tollbridge.errors import ConfigError

APPLICATION = """
import asyncio, resource, sys
from tests.edge.raw import Asgi, echo
from tollbridge.edge.server import Server, listen

soft, hard = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

async def app(downstream, scope):
    if scope["path"] == "/files":
        downstream.respond(200, [], b"%d %d" % (
            resource.getrlimit(resource.RLIMIT_NOFILE)[0], downstream.connection.shared.max_connections
        ))
    elif scope["path"] == "/stream":
        downstream.start(200, [], b"first ")
        await asyncio.sleep(0.6)
        downstream.end(b"last")
    elif scope["path"] == "/endless":
        await asyncio.sleep(60)
    else:
        await echo(downstream, scope)

sock = listen("127.0.0.1", 0)
print(sock.getsockname()[1], flush=True)
asgi = Asgi(app)
Server(
    asgi, sock,
    on_drain=lambda: print("draining", flush=True),
    on_reload=lambda: print("reload", flush=True),
).run()
print("stopped" if asgi.stopped else "cut off", flush=True)
names = {name.partition(".")[0] for name in sys.modules} & {"h11", "websockets", "wsproto", "starlette", "sqlalchemy"}
print("imported", *names, flush=True)
"""


class Process:
    """A server in a process of its own. `port` is where it listens."""

    def __init__(self, soft: int, hard: int) -> None:
        command = [sys.executable, "-c", APPLICATION, str(soft), str(hard)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["src", "."])}
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())
        self.server: Any = self
        eventually(self.answers, 20)

    def answers(self) -> bool:
        try:
            return ask(self.server).status == 200
        except OSError:
            return False

    def end(self, *signals: int) -> tuple[int, list[str], str]:
        """Exit status, lines printed and what stands on stderr."""
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.3)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out.splitlines(), err


@contextmanager
def process(soft: int = 1024, hard: int = 1024) -> Iterator[Process]:
    """With these limits of open files."""
    started = Process(soft, hard)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def test_sigterm_drains_sighup_reloads_and_nothing_else_is_printed() -> None:
    with process() as serving:
        with Client(serving.server) as streaming, Client(serving.server) as idle:
            idle.send(GET).response()
            streaming.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
            assert streaming.socket.recv(65536)
            status, lines, err = serving.end(signal.SIGHUP, signal.SIGTERM)
            assert b"last" in streaming.file.read()
            assert idle.closed()
        assert (status, err) == (0, "")
        assert lines == ["reload", "draining", "stopped", "imported"]


def test_a_signal_for_supervisors_cuts_nothing() -> None:
    with process() as serving, Client(serving.server) as streaming:
        streaming.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert streaming.socket.recv(65536)
        status, lines, err = serving.end(signal.SIGUSR2, signal.SIGTERM)
        assert b"last" in streaming.file.read()
        assert (status, lines[:2]) == (0, ["draining", "stopped"])
        assert err.startswith("SIGUSR2 changes nothing here")


def test_a_second_signal_does_not_wait() -> None:
    with process() as serving, Client(serving.server) as waiting:
        waiting.send(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        started = time.monotonic()
        status, lines, _ = serving.end(signal.SIGINT, signal.SIGINT)
        assert status == 0
        assert lines[:2] == ["draining", "stopped"]
        assert time.monotonic() - started < 5


def test_a_second_sigterm_changes_nothing() -> None:
    """Some managers of processes send it to all of them at once, and then a supervisor passes it on."""
    with process() as serving, Client(serving.server) as streaming:
        streaming.send(b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n")
        assert streaming.socket.recv(65536)
        serving.process.send_signal(signal.SIGTERM)
        time.sleep(0.15)
        status, lines, _ = serving.end(signal.SIGTERM)
        assert b"last" in streaming.file.read()
        assert (status, lines[:2]) == (0, ["draining", "stopped"])


def test_a_taken_port_is_a_mistake_of_the_configuration() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="in use"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_any_address_takes_both_families() -> None:
    server = Server(Asgi(echo), listen("::", 0))
    server.config.load()
    with socket.socket(socket.AF_INET6) as six, socket.socket() as four:
        six.connect(("::1", server.port))
        four.connect(("127.0.0.1", server.port))
    server._sock.close()


def test_a_failed_start_of_the_application_is_a_system_exit() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed"})

    with listen("127.0.0.1", 0) as sock, pytest.raises(SystemExit) as exit_:
        Server(fails, sock).run()
    assert exit_.value.code == 3


def test_draining_ends_idle_connections_and_lets_the_others_finish() -> None:
    drained: list[float] = []

    async def slow(downstream: Downstream, _scope: Any) -> None:
        downstream.start(200, HEADERS, b"a")
        await asyncio.sleep(0.5)
        downstream.end(b"b")

    with running(slow) as server, Client(server) as busy, Client(server) as beginning, Client(server) as idle:
        server._on_drain = lambda: drained.append(time.monotonic())
        busy.send(GET)
        beginning.send(GET[:10])
        eventually(lambda: len(server.server_state.connections) == 3)
        eventually(lambda: server.server_state.tasks)
        server.should_exit = True
        assert idle.closed()
        assert len(drained) == 1
        # A request that had begun to come is still answered, and told that the connection ends.
        answer = beginning.send(GET[10:]).response()
        assert (answer.body, answer.headers["connection"]) == (b"ab", "close")
        assert busy.response().body == b"ab"
        with pytest.raises(ConnectionError):
            Client(server)


def test_a_draining_server_answers_what_still_comes_and_says_that_it_closes() -> None:
    with (
        running(echo, drain_pause=1.5, drain_idle=3.5, drain=20) as server,
        Client(server) as idle,
        Client(server) as silent,
    ):
        assert "connection" not in idle.send(GET).response().headers
        server.should_exit = True
        eventually(lambda: server.shared.draining)
        with Client(server) as late:
            assert late.send(GET).response().headers["connection"] == "close"
            assert late.closed()
        eventually(lambda: not accepts(server))
        answer = idle.send(GET).response()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert idle.closed()
        assert silent.closed()


def test_an_answer_that_promised_to_keep_its_connection_keeps_it_for_a_while() -> None:
    async def slow(downstream: Downstream, _scope: Any) -> None:
        downstream.start(200, HEADERS, b"a")
        await asyncio.sleep(0.5)
        downstream.end(b"b")

    with running(slow, drain_idle=5.0, drain=20) as server, Client(server) as client:
        client.send(GET)
        eventually(lambda: server.server_state.tasks)
        eventually(lambda: client.socket.recv(1, socket.MSG_PEEK))
        server.should_exit = True
        answer = client.response()
        assert (answer.body, "connection" in answer.headers) == (b"ab", False)
        assert client.send(GET).response().headers["connection"] == "close"
        assert client.closed()


def accepts(server: Any) -> bool:
    try:
        Client(server).close()
    except OSError:
        return False
    return True


def test_what_does_not_finish_in_time_is_cancelled_and_settled_before_the_lifespan_ends() -> None:
    order: list[str] = []

    class Ordered(Asgi):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await super().__call__(scope, receive, send)
            if scope["type"] == "lifespan":
                order.append("lifespan ended")

    async def endless(downstream: Downstream, scope: Any) -> None:
        if scope["path"] == "/":
            downstream.start(200, HEADERS, b"a")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            if scope["path"] == "/":
                downstream.end(b"error event")
            await asyncio.sleep(0.1)
            order.append("settled")
            raise

    app = Ordered(endless)
    with running(app, drain=0.3) as server, Client(server) as begun, Client(server) as waiting:
        begun.send(GET)
        waiting.send(b"GET /waiting HTTP/1.1\r\nHost: a\r\n\r\n")
        eventually(lambda: len(server.server_state.tasks) == 2)
        server.should_exit = True
        assert begun.response().body == b"aerror event"
        answer = waiting.response()
        assert (answer.status, answer.error["code"]) == (503, "overloaded")
    assert order == ["settled", "settled", "lifespan ended"]


def test_running_out_of_files_neither_ends_nor_blocks_the_server() -> None:
    with process(64, 64) as serving, ExitStack() as stack:
        held = stack.enter_context(Client(serving.server))
        assert held.send(GET).response().status == 200
        clients = []
        for _ in range(200):
            with_timeout = stack.enter_context(socket.socket())
            with_timeout.settimeout(2)
            try:
                with_timeout.connect(("127.0.0.1", serving.port))
            except OSError:
                continue
            clients.append(with_timeout)
        time.sleep(0.3)
        busy = cpu_seconds(serving.process.pid)
        assert held.send(GET).response().status == 200  # as /health does
        time.sleep(0.5)
        assert cpu_seconds(serving.process.pid) - busy < 0.3, "it spins"
        for client in clients:
            client.close()
        eventually(serving.answers)


def test_a_busy_server_accepts_what_waits_together() -> None:
    """Otherwise a load balancer's probe waits for as many turns of the loop as connections came before it."""
    come = threading.Event()
    turns = 0

    async def busy(downstream: Downstream, _scope: Any) -> None:
        nonlocal turns
        downstream.respond(200, HEADERS)
        come.wait(30)
        while downstream.connection.shared.connections < 201 and turns < 1000:
            turns += 1
            time.sleep(0.02)  # noqa: ASYNC251 a long turn of the loop
            await asyncio.sleep(0)

    with running(busy) as server, ExitStack() as stack:
        stack.enter_context(Client(server)).send(GET).response()
        for _ in range(200):
            stack.enter_context(Client(server))
        come.set()
        eventually(lambda: server.shared.connections == 201)
        assert turns < 50


def test_more_files_are_opened_where_that_is_allowed_and_half_are_for_clients() -> None:
    with process(100, 900) as serving:
        assert ask(serving.server, b"GET /files HTTP/1.1\r\nHost: a\r\n\r\n").body == b"900 386"


def cpu_seconds(pid: int) -> float:
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_lag_of_a_loop_is_what_its_timers_were_late() -> None:
    seen: list[float] = []

    async def blocked() -> None:
        lag = LoopLag()
        lag.start()
        await asyncio.sleep(0.6)
        seen.append(lag.seconds)
        time.sleep(1.6)  # noqa: ASYNC251
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen.append(lag.seconds)
        await asyncio.sleep(0.6)
        seen.append(lag.seconds)
        lag.stop()

    asyncio.run(blocked())
    assert seen[0] < 0.8
    assert 1.2 < seen[1] < 5
    assert seen[2] < 0.8


def test_the_date_is_there_from_the_first_answer_and_moves() -> None:
    with running(echo) as server:
        first = ask(server).headers["date"]
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", first)
        eventually(lambda: ask(server).headers["date"] != first)
