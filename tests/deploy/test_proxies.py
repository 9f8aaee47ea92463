"""nginx and Caddy, run by the project's own files, before two gateways over PostgreSQL."""

import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.deploy.gates import Gate, Site, two_gates
from tests.edge.test_connection_framing import AMBIGUOUS_CHUNKS, AMBIGUOUS_HEADS, HEAD
from tests.gateway.site import always, by_kind, chat, completion, says, stream, streams

pytestmark = pytest.mark.deploy

WORDS = [f"word{number}" for number in range(10)]
PAUSE_S = 0.2
SCRIPT = always(by_kind(says(completion(usage=(10, 5))), streams(stream(WORDS), PAUSE_S)))
EMAIL = "someone@example.com"


@pytest.fixture(scope="module")
def gates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Gate], int]]:
    with two_gates(tmp_path_factory.mktemp("gates"), SCRIPT) as found:
        gate = found[0][0]
        gate.run("account", "create", EMAIL, "--credit", "1000")
        yield found


@pytest.fixture(scope="module")
def key(gates: tuple[list[Gate], int]) -> str:
    return gates[0][0].run("key", "create", "--account", EMAIL)


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def site(request: pytest.FixtureRequest, gates: tuple[list[Gate], int], tmp_path_factory: Any) -> Iterator[Site]:
    with Site(request.param, tmp_path_factory.mktemp(request.param), *gates).serving() as serving:
        yield serving


class Client:
    """One connection to the proxy, from `source`."""

    def __init__(self, site: Site, key: str = "", source: str = "127.0.0.1") -> None:
        context = ssl.create_default_context(cafile=str(site.trust))
        self._key = key
        self._connection = http.client.HTTPSConnection(
            "localhost", site.port, timeout=90, context=context, source_address=(source, 0)
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> http.client.HTTPResponse:
        own = {"authorization": f"Bearer {self._key}", "content-type": "application/json", **headers}
        self._connection.request(method, path, None if body is None else json.dumps(body), own)
        return self._connection.getresponse()

    def status(self, method: str, path: str, body: Any = None, **headers: str) -> int:
        answer = self.ask(method, path, body, **headers)
        answer.read()
        return answer.status


def test_a_call_is_answered_over_tls(site: Site, key: str) -> None:
    with Client(site, key) as client:
        for _ in range(3):  # on one connection
            answer = client.ask("POST", "/v1/chat/completions", chat())
            assert answer.status == 200
            assert json.loads(answer.read())["usage"]["total_tokens"] == 15
        assert client.status("GET", "/v1/models") == 200
        assert client.status("GET", "/auth/login") in (200, 303)


def test_chunks_of_a_stream_come_one_by_one(site: Site, key: str) -> None:
    with Client(site, key) as client:
        answer = client.ask("POST", "/v1/chat/completions", chat(stream=True))
        assert answer.headers["content-type"].startswith("text/event-stream")
        came = []
        while line := answer.readline():
            if b"word" in line:
                came.append(time.monotonic())
        assert len(came) == len(WORDS)
        # Buffered they would come together. The machine may be slow, so each gap is not looked at, but their sum is.
        assert came[-1] - came[0] > PAUSE_S * (len(WORDS) - 1) * 0.6


def test_the_gateway_hears_when_a_caller_leaves(site: Site, key: str, gates: tuple[list[Gate], int]) -> None:
    def left() -> int:
        lines = [line for gate in gates[0] for line in gate.log.read_text().splitlines()]
        return sum('"status":499' in line for line in lines)

    before = left()
    with Client(site, key) as client:
        answer = client.ask("POST", "/v1/chat/completions", chat(stream=True))
        answer.readline()
    deadline = time.monotonic() + 30
    while left() == before:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_body_of_eight_megabytes_passes_and_one_too_large_is_refused_in_json(site: Site, key: str) -> None:
    with Client(site, key) as client:
        embeddings = {"model": "e", "input": "x" * 8_000_000}
        assert client.status("POST", "/v1/embeddings", embeddings) in (200, 400, 402)
    with Client(site, key) as client:
        answer = client.ask("POST", "/v1/chat/completions", chat("x" * (10 << 20)))
        assert answer.status == 413
        assert json.loads(answer.read())["error"]["type"] == "invalid_request_error"


def test_a_caller_is_where_the_proxy_saw_it(site: Site, gates: tuple[list[Gate], int]) -> None:
    bound = gates[0][0].run("key", "create", "--account", EMAIL, "--address", "127.0.0.5/32")
    with Client(site, bound, source="127.0.0.5") as client:
        assert client.status("POST", "/v1/chat/completions", chat()) == 200
    said = {"x-forwarded-for": "127.0.0.5", "forwarded": "for=127.0.0.5", "x-real-ip": "127.0.0.5"}
    for headers in ({}, said, {"x-forwarded-for": "127.0.0.5, 127.0.0.1"}):
        with Client(site, bound, source="127.0.0.6") as client:
            assert client.status("POST", "/v1/chat/completions", chat(), **headers) == 403


def test_metrics_are_not_the_world_s(site: Site) -> None:
    with Client(site) as client:
        assert client.status("GET", "/metrics") == 404


def test_nothing_is_smuggled_past_it(site: Site, key: str, gates: tuple[list[Gate], int]) -> None:
    """F9: what is ambiguous is refused by one of the two, and no gateway sees a request that the proxy did not see."""
    own = gates[0][0].run("key", "create", "--account", EMAIL)
    with Client(site, own) as client:
        first = json.loads(client.ask("POST", "/v1/chat/completions", chat()).read())["id"]
    hidden = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    hidden += f"Authorization: Bearer {own}\r\nContent-Type: application/json\r\n".encode()
    body = json.dumps(chat("smuggled")).encode()
    hidden += b"Content-Length: %d\r\n\r\n" % len(body) + body
    answered = 1
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    cases = [*AMBIGUOUS_HEADS.values(), *(chunked + chunks for chunks in AMBIGUOUS_CHUNKS.values())]
    for path in (b"/", b"/v1/chat/completions"):
        for case in cases:
            told = raw(site, case.replace(b"Host: a", b"Host: localhost").replace(b" / ", b" %b " % path) + hidden)
            answered += told.count(b'"chat.completion"')
        with Client(site, key) as client:
            answer = client.ask("GET", "/v1/models/m")
            assert (answer.status, json.loads(answer.read())["id"]) == (200, "m")
    deadline = time.monotonic() + 5
    while paid_calls(gates, first) < answered and time.monotonic() < deadline:
        time.sleep(0.1)
    assert paid_calls(gates, first) == answered


def paid_calls(gates: tuple[list[Gate], int], first: str) -> int:
    """How many calls the gateways noted of the key that made the call `first`."""
    lines = [json.loads(line) for gate in gates[0] for line in gate.log.read_text().splitlines() if line[:1] == "{"]
    keys = {line["key"] for line in lines if line.get("id") == first}
    return sum(line.get("key") in keys and line.get("outcome") == "completed" for line in lines)


def raw(site: Site, data: bytes) -> bytes:
    """What the proxy says to bytes."""
    context = ssl.create_default_context(cafile=str(site.trust))
    received = b""
    plain = socket.create_connection(("127.0.0.1", site.port), 10)
    with context.wrap_socket(plain, server_hostname="localhost") as sock, contextlib.suppress(OSError):
        sock.settimeout(2)
        sock.sendall(data)
        while more := sock.recv(65536):
            received += more
    return received


def test_gateways_are_restarted_one_by_one_and_no_call_fails(site: Site, key: str) -> None:
    failed: list[str] = []
    done = [0, 0]
    over = threading.Event()

    def call(number: int) -> None:
        streamed = number % 2
        while not over.is_set():
            try:
                with Client(site, key) as client:
                    for _ in range(20):
                        answer = client.ask("POST", "/v1/chat/completions", chat(stream=bool(streamed)))
                        text = answer.read()
                        whole = text.endswith(b"data: [DONE]\n\n") and b"error" not in text if streamed else True
                        if answer.status != 200 or not whole:
                            failed.append(f"{answer.status} {text[-200:]!r}")
                        done[streamed] += 1
            except (OSError, http.client.HTTPException) as error:
                failed.append(repr(error))

    callers = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for caller in callers:
        caller.start()
    try:
        for _ in range(2):
            for gate in site.gates:
                time.sleep(3)
                gate.stop()
                gate.start()
        time.sleep(3)
    finally:
        over.set()
        for caller in callers:
            caller.join(90)
    assert not failed, (len(failed), sum(done), failed[:5])
    assert done[0] > 100
    assert done[1] > 10
