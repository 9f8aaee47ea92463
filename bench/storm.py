"""Calls of the API beside a storm of log-ins (row B10 of the fault catalogue).

A gateway with its built-in demo provider, as it starts without any configuration, on its core; callers and guessers on
the other. Each round measures calls alone, then calls while a crowd of guessers logs in at once.
"""

import http.client
import re
import selectors
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import urlencode

from bench import native, process
from bench.gateways import CHAT, Place, tollbridge_launch
from bench.measure import Bench, await_first_answer, free_port
from bench.peers import NotRunError

CROWD = 200
ROUNDS = 7
CONNECTIONS = 8
REST_US = 20_000
SECONDS = 3.0
STORM_AFTER_S = 0.3


@dataclass(frozen=True)
class Figures:
    """p99 of calls over three seconds, in microseconds: medians over the rounds.

    `grown_mb`: by how much the storms raised the gateway's peak memory.
    """

    alone_us: float
    storm_us: float
    grown_mb: float


def run(on: Bench) -> Figures:
    """NotRunError: the gateway did not start, or did not answer a call or a log-in as it should."""
    directory = on.scratch / "storm"
    directory.mkdir()
    place = Place(free_port(), on.mock_port, directory)
    limits = "rpm = 100000000\ntpm = 1000000000\nconcurrency = 10000\n"
    launch = tollbridge_launch(place, place.write("tollbridge.toml", f"[plans.bench]\n{limits}"))
    target = native.Target(place.port, CHAT, launch.headers)
    begun = time.perf_counter()
    tree = process.start(launch.command, core=on.gateway_core, log=directory / "output.log", directory=directory)
    try:
        await_first_answer(tree, target, on.body.read_bytes(), begun)
        guesser = _Guesser(target.port)
        before = process.most_memory_mb(tree.process.pid)
        alone, during = zip(*(_round(on, target, guesser, number) for number in range(ROUNDS)), strict=True)
        grown = process.most_memory_mb(tree.process.pid) - before
    finally:
        tree.stop()
    return Figures(statistics.median(alone), statistics.median(during), grown)


def _round(on: Bench, target: native.Target, guesser: "_Guesser", number: int) -> tuple[int, int]:
    """p99 of calls alone, and beside a storm."""
    alone = _load(on, target)
    with ThreadPoolExecutor(1) as thread:
        storm = thread.submit(guesser.storm, number)
        during = _load(on, target)
        storm.result()
    return alone.latency_p99, during.latency_p99


def _load(on: Bench, target: native.Target) -> native.Load:
    load = native.requests(
        target, on.body, core=on.load_core, connections=CONNECTIONS, seconds=SECONDS, rest_us=REST_US
    )
    if load.errors:
        raise NotRunError(f"{load.errors} of {load.asked} calls failed: {load.first_error}")
    return load


class _Guesser:
    """Sends the form of the log-in page, as a browser would, a crowd at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/auth/login")
        answer = connection.getresponse()
        page = answer.read().decode()
        token = re.search(r'name="csrf" value="([^"]+)"', page)
        if token is None:
            raise NotRunError("the log-in page has no form")
        self._token = token[1]
        self._cookie = (answer.getheader("set-cookie") or "").partition(";")[0]

    def storm(self, number: int) -> None:
        """All at once; each is told that the password is wrong, or that too many are trying."""
        time.sleep(STORM_AFTER_S)
        forms = [self._form(f"guess{number}.{index}@example.com") for index in range(CROWD)]
        waiting = selectors.DefaultSelector()
        for form in forms:
            connection = socket.create_connection(("127.0.0.1", self._port), timeout=30)
            connection.sendall(form)
            waiting.register(connection, selectors.EVENT_READ, bytearray())
        statuses = []
        while waiting.get_map():
            for each, _ in waiting.select():
                assert isinstance(each.fileobj, socket.socket)
                data = each.fileobj.recv(65_536)
                each.data.extend(data)
                if not data:
                    statuses.append(bytes(each.data[9:12]))
                    waiting.unregister(each.fileobj)
                    each.fileobj.close()
        if set(statuses) != {b"400", b"503"}:
            raise NotRunError(f"log-ins were answered with {sorted(set(statuses))}")

    def _form(self, email: str) -> bytes:
        body = urlencode({"csrf": self._token, "email": email, "password": "one of many guesses"})
        lines = (
            "POST /auth/login HTTP/1.1",
            f"host: 127.0.0.1:{self._port}",
            f"origin: http://127.0.0.1:{self._port}",
            f"cookie: {self._cookie}",
            "accept: text/html",
            "content-type: application/x-www-form-urlencoded",
            f"content-length: {len(body)}",
            "connection: close",
        )
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
