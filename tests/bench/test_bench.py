"""The instruments of `bench/`: they answer, they count, and the load generator believes nothing."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from bench.gateways import CHAT, GATEWAYS
from bench.measure import LEVELS, Cost, Memory, Row

from bench import native, parts, postgres, process, report, storm, translation, turns

CORE = min(os.sched_getaffinity(0))
JSON_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
WHOLE = b'{"choices":[{"finish_reason":"stop"}]}'
SSE_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = b'data: {"choices":[]}\n\n' * (native.CHUNKS + 2)


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    native.build()


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[process.Tree, native.Target]]:
    tree, port = native.start_mock(core=CORE, log=tmp_path_factory.mktemp("mock") / "log")
    yield tree, native.Target(port, CHAT, ())
    tree.stop()


def body(directory: Path, *, stream: bool = False) -> Path:
    path = directory / "body.json"
    path.write_bytes(
        msgspec.json.encode(
            {"model": "gpt-4o-mini", "stream": stream, "messages": [{"role": "user", "content": "Hello"}]}
        )
    )
    return path


def test_a_load_of_a_second_is_answered_whole(mock: tuple[process.Tree, native.Target], tmp_path: Path) -> None:
    tree, target = mock
    before = tree.cpu_seconds()
    load = native.requests(target, body(tmp_path), core=CORE, connections=8, seconds=1)
    spent_us = (tree.cpu_seconds() - before) * 1e6
    assert (load.errors, load.first_error) == (0, "")
    assert load.answered == load.asked > 1_000
    assert load.latency_p50 <= load.latency_p99 <= load.latency_max
    assert spent_us / load.answered < 200
    assert load.cpu_us / load.answered < 200


def test_streams_are_paced_and_whole(mock: tuple[process.Tree, native.Target], tmp_path: Path) -> None:
    paced_seconds = native.CHUNKS * native.PACE_US / 1e6
    load = native.streams(
        mock[1], body(tmp_path, stream=True), core=CORE, concurrency=16, count=16, spread_us=native.PACE_US
    )
    assert (load.answered, load.errors, load.first_error) == (16, 0, "")
    assert load.events == 16 * (native.CHUNKS + native.TAIL_EVENTS)
    assert load.latency_p50 / 1e6 == pytest.approx(paced_seconds, rel=0.2)


def test_the_mock_waits_for_the_body_and_answers_pipelined_requests_in_order(
    mock: tuple[process.Tree, native.Target],
) -> None:
    with socket.create_connection(("127.0.0.1", mock[1].port), timeout=5) as client:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n".encode()
        client.sendall(head + b"content-length: 2\r\n\r\n{")
        client.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(5)
        chunked = head + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        client.sendall(b"}" + chunked + b"GET /none HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answers = b"".join(iter(lambda: client.recv(65536), b""))
    assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"404"]


@contextmanager
def answering(answer: bytes) -> Iterator[native.Target]:
    """A server that says `answer`, whatever it is asked, and closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                connection.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        yield native.Target(listener.getsockname()[1], CHAT, ())
        thread.join()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (JSON_HEAD + b"content-length: 38\r\n\r\n" + WHOLE, ""),
        (JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(WHOLE[:9]) + chunk(WHOLE[9:]) + chunk(b""), ""),
        (JSON_HEAD + b"content-length: 39\r\n\r\n" + WHOLE, "answer cut short"),
        (JSON_HEAD + b"transfer-encoding: chunked\r\n\r\n" + chunk(WHOLE), "answer cut short"),
        (JSON_HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n", "malformed answer"),
        (JSON_HEAD + b"content-length: 38\r\n\r\n" + WHOLE + b"more", "malformed answer"),
        (JSON_HEAD + b"content-length: 14\r\n\r\n" + b'{"choices":[]}', "incomplete body"),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy", "status 503"),
        (b"", "closed without an answer"),
    ],
)
def test_only_a_whole_answer_counts(answer: bytes, problem: str, tmp_path: Path) -> None:
    with answering(answer) as target:
        load = native.requests(target, body(tmp_path), core=CORE, connections=1, count=1)
    assert load.first_error.partition(":")[0] == problem
    assert (load.answered, load.errors) == ((0, 1) if problem else (1, 0))


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        (EVENTS + b"data: [DONE]\n\n", ""),
        (EVENTS.replace(b"\n", b"\r\n") + b": comment\r\n\r\ndata: [DONE]\r\n\r\n", ""),
        (EVENTS, "incomplete stream"),
        (EVENTS[:400] + b"data: [DONE]\n\n", "incomplete stream"),
        (EVENTS + b'data: {"error":{"message":"no"}}\n\ndata: [DONE]\n\n', "incomplete stream"),
        (EVENTS + b'data: [DONE]\n\ndata: {"choices":[]}\n\n', "incomplete stream"),
    ],
)
def test_only_a_whole_stream_counts(events: bytes, problem: str, tmp_path: Path) -> None:
    pieces = [events[at : at + 97] for at in range(0, len(events), 97)]
    answer = SSE_HEAD + b"".join(map(chunk, pieces)) + chunk(b"")
    with answering(answer) as target:
        load = native.streams(target, body(tmp_path, stream=True), core=CORE, concurrency=1, count=1)
    assert load.first_error.partition(":")[0] == problem
    assert (load.answered, load.errors) == ((0, 1) if problem else (1, 0))


def test_requests_take_turns_with_headers(tmp_path: Path) -> None:
    seen: list[str | None] = []

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            seen.append(self.headers["authorization"])
            self.wfile.write(JSON_HEAD + b"content-length: 38\r\n\r\n" + WHOLE)

        def log_message(self, *_: object) -> None: ...

    lines = tmp_path / "lines"
    lines.write_text("authorization: Bearer one\nauthorization: Bearer two\nauthorization: Bearer three")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        target = native.Target(server.server_port, CHAT, (), turns=lines)
        load = native.requests(target, body(tmp_path), core=CORE, connections=1, count=5)
        server.shutdown()
        thread.join()
    assert load.answered == 5
    assert seen == [f"Bearer {name}" for name in ("one", "two", "three", "one", "two")]


def test_connections_rest_between_requests(mock: tuple[process.Tree, native.Target], tmp_path: Path) -> None:
    load = native.requests(mock[1], body(tmp_path), core=CORE, connections=4, seconds=1, rest_us=100_000)
    assert (load.errors, load.first_error) == (0, "")
    assert 4 <= load.answered <= 4 * 10


def test_cpu_counts_children_that_live_and_children_that_ended(tmp_path: Path) -> None:
    burn = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
    for script in (f"sh -c '{burn}; sleep 60'", f"sh -c '{burn}'; sleep 60"):
        tree = process.start(["sh", "-c", f"{script}; true"], core=CORE, log=tmp_path / "log")
        try:
            deadline = time.monotonic() + 10
            while tree.cpu_seconds() < 0.05 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert tree.cpu_seconds() >= 0.05
            assert tree.memory_mb() > 0
        finally:
            tree.stop()
        assert not tree.running


def test_a_tree_stands_still_until_it_may_go_on(tmp_path: Path) -> None:
    def state() -> str:
        return Path(f"/proc/{tree.process.pid}/stat").read_text().rpartition(")")[2].split()[0]

    tree = process.start(["sh", "-c", "while :; do :; done"], core=CORE, log=tmp_path / "log")
    try:
        for change, is_still in ((tree.freeze, True), (tree.go_on, False)):
            change()
            deadline = time.monotonic() + 5
            while (state() == "T") is not is_still:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    finally:
        tree.stop()


@pytest.mark.parametrize("name", parts.PARTS)
def test_each_part_can_be_measured_alone(
    name: str, mock: tuple[process.Tree, native.Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "OPERATIONS", 640)
    monkeypatch.setattr(parts, "WARM_UP", 64)
    _, _, measurement = parts.PARTS[name]
    used_us = measurement(parts.Setting(mock[1].port, CORE, str(body(tmp_path)), str(tmp_path)))
    assert 1 < used_us < 5_000


def row(name: str, *, request_us: float, chunk_us: float) -> Row:
    """A row of a gateway that answered 1,000 requests at each level."""
    fields: dict[str, float | str] = dict.fromkeys(native.Load.__struct_fields__, 0)
    load = msgspec.convert(fields | {"asked": 1000, "answered": 1000, "seconds": 1, "first_error": ""}, native.Load)
    levels = {connections: Cost(load, request_us * 1000, 5000) for connections in LEVELS}
    streams = Cost(load, chunk_us * native.CHUNKS * 1000, 5000)
    gateway = next(gateway for gateway in GATEWAYS if gateway.name == name)
    return Row(gateway, "1.0", 0.5, 50, 60, levels, streams, streams, None)


def reading(*, gateway_us: float = 1, server_us: float = 1, per_second: float = 1) -> postgres.Reading:
    return postgres.Reading("a load", gateway_us, server_us, per_second, p50_ms=1, p99_ms=2, errors="")


def test_the_report_says_which_targets_were_met_and_what_was_not_run() -> None:
    rows = {
        "direct": row("direct", request_us=5, chunk_us=5),
        "nginx": row("nginx", request_us=16, chunk_us=14),
        "tollbridge": row("tollbridge", request_us=96, chunk_us=42),
    }
    results = report.Results(
        rows=rows,
        not_run={"litellm": "no network"},
        parts=[parts.Part("server", "", 41, 20.0), parts.Part("wire", "", None, 12.0)],
        pairs=[translation.Pair("chat", "anthropic", 20.0, 9.0), translation.Pair("messages", "gemini", 12.0, 2.0)],
        failed_parts={},
        fsync_us=100.0,
        load_before=(0.0, 0.0, 0.0),
        seconds_per_level=4.0,
        in_turns=turns.Figures(
            requests={"nginx": [16, 12, 19], "tollbridge": [96, 80, 300]},
            later={"nginx": 0.0, "tollbridge": 3.2},
            in_step={"nginx": [14], "tollbridge": [28]},
            spread={"nginx": [14], "tollbridge": [42]},
        ),
        in_storm=storm.Figures(alone_us=4_000, storm_us=9_000, grown_mb=20.0),
        postgres=postgres.Figures(
            sqlite=reading(gateway_us=100),
            one=reading(gateway_us=120, server_us=70),
            alone=reading(gateway_us=200),
            apart=reading(gateway_us=260),
            together=reading(gateway_us=280),
            hot={0: reading(per_second=1000), 10: reading(per_second=500)},
            many={0: reading(per_second=1000), 10: reading(per_second=1000)},
        ),
    )
    met = {check.name: check.met for check in report.checks(results)}
    assert met["CPU per request ÷ nginx's"] is True
    assert met["CPU per chunk ÷ nginx's, chunks spread"] is False
    assert met["CPU per request ÷ LiteLLM's"] is None
    assert met["memory after the load"] is True
    assert met["translating adds per request, dearest pair"] is True
    assert met["translating adds per chunk, dearest pair"] is False
    assert met["CPU per request on PostgreSQL ÷ SQLite's"] is True
    assert met["the PostgreSQL server's CPU per request"] is False
    assert met["CPU per request, 4 processes on one database ÷ 4 that share nothing"] is True
    assert met["p99 of calls beside 200 log-ins at once ÷ alone"] is False
    assert met["memory that 200 log-ins at once add"] is True
    assert met["one account ÷ 1,000, 4 processes, commits + 0 ms"] is True
    assert met["one account ÷ 1,000, 4 processes, commits + 10 ms"] is False
    text = report.render(results)
    assert "6.00 × (96.0 µs to 16.0 µs)" in text
    assert "| tollbridge | 96.0 (80.0 to 300)" in text
    assert "litellm was not run: no network" in text
    assert [line.split("|")[3].strip() for line in text.splitlines() if line.startswith("| all else")] == ["76.0"]


def test_memory_that_keeps_growing_is_seen_and_caches_that_fill_are_not() -> None:
    flat = Memory(100_000, (50, 58, *[60.0] * 9))
    assert flat.growth == 0
    assert replace(flat, samples=(50, *[60.0 + n for n in range(10)])).growth > 0.09
    peaks = (50.0, 60.0, 65.0, 60.0, 60.0, 65.0, 65.0, 60.0, 60.0, 65.0, 65.0)
    assert replace(flat, samples=peaks).growth == 0
