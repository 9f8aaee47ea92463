"""A supervisor and its workers, which here are small programs: what it starts, when, and how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tollbridge.edge.listening import listen, listen_for, steer
from tollbridge.edge.workers import Berth
from tollbridge.errors import ConfigError

# A worker answers each connection with its process id and its life so far, and writes a line for each thing it does.
WORKER = """
import os, select, signal, sys, time
from tollbridge.edge.workers import Berth

def say(what):
    os.write(1, f"{os.getpid()} {what}\\n".encode())

berth = Berth(sys.argv[1])
plan = open(sys.argv[2]).read().split()
say("first" if berth.first else "started")
if "refuse" in plan or ("later" in plan and not berth.first):
    berth.failed("the database\\nis not there")
    sys.exit(1)
if "die" in plan:
    os.kill(os.getpid(), signal.SIGKILL)
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append("drained"))
signal.signal(signal.SIGINT, lambda *_: ended.append("hurried"))
signal.signal(signal.SIGHUP, lambda *_: say("reload"))
berth.ready()
berth.socket.setblocking(False)
while not ended:
    readable, _, _ = select.select([berth.socket, berth], [], [], 0.02)
    if berth in readable:
        ended.append("left alone")
    if berth.socket in readable:
        try:
            connection, _ = berth.socket.accept()
        except BlockingIOError:
            continue
        connection.sendall(b"%d" % os.getpid())
        connection.close()
say(ended[0])
while "stubborn" in plan:
    time.sleep(0.05)
"""

SUPERVISOR = """
import logging, sys
from tollbridge.edge.listening import listen_for
from tollbridge.edge import workers
from tollbridge.errors import TollbridgeError

logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
count, program, plan, unit = int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4])
sockets = listen_for(count, "127.0.0.1", 0)
print(sockets[0].getsockname()[1], flush=True)
workers._PAUSE_S = unit
try:
    def command(text):
        return [sys.executable + "-gone" * ("gone" in open(plan).read().split()), program, text, plan]

    status = workers.Supervisor(sockets, command, drain=1.0).run()
except TollbridgeError as error:
    print("refused:", error, flush=True)
    status = 1
print("heavy:", *sorted({"asyncio", "uvicorn", "uvloop", "sqlite3", "tollbridge.app"} & set(sys.modules)), flush=True)
sys.exit(status)
"""


class Supervised:
    """What a supervisor and its workers print is in a file. `plan`: words that say how workers behave."""

    def __init__(self, folder: Path, count: int, plan: str, second: float) -> None:
        self._file, self._plan = folder / "said", folder / "plan"
        self.plan(plan)
        program = folder / "worker.py"
        program.write_text(WORKER)
        with self._file.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SUPERVISOR, str(count), program, self._plan, str(second)],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                stdout=said,
                stderr=said,
            )

    def plan(self, words: str) -> None:
        self._plan.write_text(words)

    @property
    def lines(self) -> list[str]:
        return self._file.read_text().splitlines()

    @property
    def port(self) -> int:
        return int(self.lines[0])

    def count(self, what: str) -> int:
        return sum(bool(re.search(what, line)) for line in self.lines)

    def until(self, what: str, times: int = 1) -> None:
        end = time.monotonic() + 60
        while self.count(what) < times:
            assert time.monotonic() < end, self.lines
            time.sleep(0.01)

    def pids(self, what: str) -> list[int]:
        return [int(line.split()[0]) for line in self.lines if re.fullmatch(rf"\d+ {what}", line)]

    def ask(self) -> int:
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            return int(connection.recv(64))

    def end(self, *signals: int) -> int:
        for number in signals:
            self.process.send_signal(number)
            time.sleep(0.2)
        return self.process.wait(60)


@contextmanager
def supervised(folder: Path, count: int = 2, plan: str = "", second: float = 0.02) -> Iterator[Supervised]:
    """`second`: how long what is called a second takes, for the pauses before a worker is started again."""
    one = Supervised(folder, count, plan, second)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
        one.process.wait()
        for pid in {*one.pids("first"), *one.pids("started")}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def test_the_first_starts_alone_all_answer_and_are_drained(tmp_path: Path) -> None:
    with supervised(tmp_path, 3) as one:
        one.until("answers", 3)
        assert (len(one.pids("first")), len(one.pids("started"))) == (1, 2)
        assert one.lines.index(f"{one.pids('first')[0]} first") < one.lines.index(f"{one.pids('started')[0]} started")
        answered = Counter(one.ask() for _ in range(90))
        assert len(answered) == 3
        assert min(answered.values()) > 5
        assert one.end(signal.SIGTERM) == 0
        assert one.count("drained") == 3
        # It is small because it has none of these.
        assert one.lines[-1] == "heavy:"


def test_what_the_first_worker_says_is_wrong_is_said_once_in_one_line(tmp_path: Path) -> None:
    with supervised(tmp_path, 4, "refuse") as one:
        assert one.process.wait(60) == 1
        assert one.count("refused: the database is not there$") == 1
        assert one.count("database") == 1
        assert len(one.pids("first")) == 1


def test_a_worker_that_dies_is_replaced_and_nobody_waits_for_it(tmp_path: Path) -> None:
    with supervised(tmp_path, 2, second=60.0) as one:
        one.until("answers", 2)
        victim = one.ask()
        os.kill(victim, signal.SIGKILL)
        one.until(rf"worker \d \(process {victim}\) was lost, by SIGKILL; the next one starts in 1 s")
        # Its second has sixty here: the other has all connections meanwhile.
        other = {*one.pids("first"), *one.pids("started")} - {victim}
        assert {one.ask() for _ in range(20)} == other


def test_pauses_between_starts_double_and_all_failing_for_good_ends_it(tmp_path: Path) -> None:
    with supervised(tmp_path, 2, "later") as one:
        one.until("next one starts in 16 s")
        found = re.findall(r"in (\d+) s", "\n".join(one.lines))
        assert found[:5] == ["1", "2", "4", "8", "16"]
        # One of two still serves: that is no reason to end.
        first = one.pids("first")[0]
        assert one.ask() == first
        one.plan("refuse")
        os.kill(first, signal.SIGKILL)
        assert one.process.wait(60) == 1
        assert one.count("refused: the database is not there") == 1
        assert max(int(pause) for pause in re.findall(r"in (\d+) s", "\n".join(one.lines))) <= 30


def test_a_rolling_restart_replaces_each_and_refuses_nobody(tmp_path: Path) -> None:
    with supervised(tmp_path, 3) as one:
        one.until("answers", 3)
        before = {*one.pids("first"), *one.pids("started")}
        one.process.send_signal(signal.SIGUSR2)
        while one.count("drained") < 3:
            one.ask()
        one.until("answers", 6)
        after = {one.ask() for _ in range(30)}
        assert len(after) > 1
        assert not after & before
        # Each was told to go when its successor answered.
        events = [line.split()[-1] for line in one.lines if line.endswith(("answers", "drained"))]
        assert all(events[:at].count("drained") <= events[:at].count("answers") - 3 for at in range(3, len(events)))
        assert len(one.pids("first")) == 1


def test_a_rolling_restart_that_fails_leaves_the_others_as_they_are(tmp_path: Path) -> None:
    with supervised(tmp_path, 2) as one:
        one.until("answers", 2)
        one.plan("refuse")
        one.process.send_signal(signal.SIGUSR2)
        one.until("the replacement was given up, the workers stay as they are: the database is not there")
        assert one.ask() in {*one.pids("first"), *one.pids("started")}
        assert one.count("drained") == 0
        one.plan("")
        one.process.send_signal(signal.SIGUSR2)
        one.until("drained", 2)


def test_where_the_program_has_gone_those_that_run_go_on(tmp_path: Path) -> None:
    with supervised(tmp_path, 2) as one:
        one.until("answers", 2)
        one.plan("gone")
        one.process.send_signal(signal.SIGUSR2)
        one.until("the replacement was given up, the workers stay as they are: .*No such file")
        victim, other = one.pids("first")[0], one.pids("started")[0]
        os.kill(victim, signal.SIGKILL)
        one.until("worker 1 cannot be started, .*; tried again in 2 s")
        assert one.ask() == other
        one.plan("")
        one.until("answers", 3)
        assert one.end(signal.SIGTERM) == 0


def test_a_first_worker_that_cannot_be_started_is_the_end(tmp_path: Path) -> None:
    with supervised(tmp_path, 2, "gone") as one:
        assert one.process.wait(60) == 1
        assert one.count("refused: .*No such file") == 1


def test_sighup_goes_to_all(tmp_path: Path) -> None:
    with supervised(tmp_path, 2) as one:
        one.until("answers", 2)
        one.process.send_signal(signal.SIGHUP)
        one.until("reload", 2)
        assert set(one.pids("reload")) == {*one.pids("first"), *one.pids("started")}


def test_an_interrupt_goes_to_the_supervisor_which_passes_it_on(tmp_path: Path) -> None:
    with supervised(tmp_path, 2) as one:
        one.until("answers", 2)
        groups = {os.getpgid(pid) for pid in (*one.pids("first"), *one.pids("started"))}
        assert os.getpgid(one.process.pid) not in groups
        assert one.end(signal.SIGINT) == 0
        assert one.count("hurried") == 2


def test_who_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    with supervised(tmp_path, 2, "stubborn") as one:
        one.until("answers", 2)
        assert one.end(signal.SIGTERM) == 0
        assert one.count("does not end: it is killed") == 2


def test_workers_whose_supervisor_was_killed_drain(tmp_path: Path) -> None:
    with supervised(tmp_path, 2) as one:
        one.until("answers", 2)
        one.process.kill()
        one.until("left alone", 2)


def test_a_berth_is_made_by_a_supervisor_only() -> None:
    for text in ("", "1", "a,b,c", "900,901,0"):
        with pytest.raises(ConfigError, match="leave it out"):
            Berth(text)


def test_workers_find_a_taken_port_taken() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match=r"cannot listen on .*in use"):
        listen_for(2, *taken.getsockname())
    shared = listen_for(2, "127.0.0.1", 0)
    with pytest.raises(ConfigError, match=r"cannot listen on .*in use"):
        listen_for(2, *shared[0].getsockname())
    for each in shared:
        each.close()


def test_connections_are_dealt_out_evenly_and_only_to_who_takes_them() -> None:
    sockets = listen_for(4, "::", 0)
    port = sockets[0].getsockname()[1]
    for each in sockets:
        each.setblocking(False)

    def dealt(address: str) -> list[int]:
        clients = [socket.create_connection((address, port)) for _ in range(256)]
        counts = [sum(1 for _ in accepted(each)) for each in sockets]
        for client in clients:
            client.close()
        return counts

    for address in ("127.0.0.1", "::1"):
        # By chance: 256 in 4 are 64 each, with a deviation of 7.
        assert min(dealt(address)) >= 16
        steer(sockets, [1, 3])
        counts = dealt(address)
        assert counts[0] == counts[2] == 0
        assert min(counts[1], counts[3]) >= 64
        steer(sockets, [0, 1, 2, 3])
    for each in sockets:
        each.close()


def accepted(listener: socket.socket) -> Iterator[Any]:
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return
        connection.close()
        yield connection
