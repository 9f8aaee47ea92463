"""Clients that leave, clients that do not read, and too many of them (F1–F4, F6, F7)."""

import asyncio
import resource
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from tests.edge.raw import GET, HEADERS, Client, ask, echo, eventually, post, running

from tollbridge.edge.connection import ServerLimits, Shared
from tollbridge.edge.downstream import Downstream
from tollbridge.edge.server import Server
from tollbridge.errors import ClientGone


def reset(client: Client) -> None:
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def close(client: Client) -> None:
    client.close()


def half_close(client: Client) -> None:
    client.socket.shutdown(socket.SHUT_WR)


LEAVING = pytest.mark.parametrize("leave", [close, reset, half_close])


class Watched:
    """An application that streams `before` pieces, then waits to see its client leave."""

    def __init__(self, before: int) -> None:
        self.before = before
        self.begun = False
        self.left: list[float] = []
        self.after: list[bool] = []

    async def __call__(self, downstream: Downstream, _scope: Any) -> None:
        gone = asyncio.Event()

        def note() -> None:
            self.left.append(time.monotonic())
            gone.set()

        await downstream.read_body()
        downstream.on_disconnect(note)
        if self.before:
            downstream.start(200, HEADERS)
        for _ in range(self.before):
            downstream.write(b"data: x\n\n")
        self.begun = True
        await asyncio.wait_for(gone.wait(), 30)
        self.after.append(downstream.disconnected)
        downstream.write(b"into the void") if self.before else downstream.respond(200, HEADERS, b"nobody")
        downstream.end()


@LEAVING
@pytest.mark.parametrize("before", [0, 3], ids=["before the answer", "in the middle of it"])
def test_a_client_that_leaves_is_noticed_once_and_at_once(leave: Callable[[Client], None], before: int) -> None:
    app = Watched(before)
    with running(app) as server:
        client = Client(server)
        client.send(post(b"abc"))
        eventually(lambda: app.begun)
        left = time.monotonic()
        leave(client)
        eventually(lambda: app.after)
        eventually(lambda: not server.server_state.connections)
        client.close()
    assert len(app.left) == 1
    assert app.left[0] - left < 5
    assert app.after == [True]


@LEAVING
def test_a_client_that_leaves_after_its_answer_is_nobodys_business(leave: Callable[[Client], None]) -> None:
    called: list[int] = []

    async def answer(downstream: Downstream, _scope: Any) -> None:
        downstream.on_disconnect(lambda: called.append(1))
        downstream.respond(200, HEADERS, b"done")

    with running(answer) as server, Client(server) as client:
        assert client.send(GET).response().body == b"done"
        leave(client)
        eventually(lambda: not server.server_state.connections)
    assert called == []


def test_who_asks_late_is_told_at_once() -> None:
    called: list[str] = []

    async def late(downstream: Downstream, _scope: Any) -> None:
        with suppress(ClientGone):
            await downstream.read_body()
        downstream.on_disconnect(lambda: called.append("left"))
        called.append("asked")

    with running(late) as server:
        client = Client(server)
        client.send(post(b"abc")[:-1])
        eventually(lambda: server.server_state.tasks)
        client.close()
        eventually(lambda: "asked" in called)
    assert called == ["left", "asked"]


@LEAVING
def test_a_client_that_leaves_in_the_middle_of_its_body_raises_client_gone(leave: Callable[[Client], None]) -> None:
    raised: list[type[Exception]] = []

    async def reading(downstream: Downstream, _scope: Any) -> None:
        try:
            await downstream.read_body()
        except ClientGone as error:
            raised.append(type(error))

    with running(reading) as server:
        client = Client(server)
        client.send(post(b"x" * 100)[:-1])
        eventually(lambda: server.server_state.tasks)
        leave(client)
        eventually(lambda: raised)
        client.close()
    assert raised == [ClientGone]


@LEAVING
def test_the_running_request_is_told_also_when_others_wait_behind_it(leave: Callable[[Client], None]) -> None:
    app = Watched(3)
    with running(app) as server:
        client = Client(server)
        client.send(GET + GET + GET)
        eventually(lambda: app.begun)
        leave(client)
        eventually(lambda: app.after)
        client.close()
    assert len(app.left) == 1


class Pump:
    """An application that streams pieces of 4 KiB for as long as it may, as the gateway does."""

    def __init__(self, total: int, *, obeys: bool = True) -> None:
        self.total = total
        self.obeys = obeys
        self.sent = 0
        self.most_unsent = 0
        self.pauses = 0
        self.resumes = 0
        self.left = 0
        self.told_apart = 0  # writes that said something else than `paused`

    async def __call__(self, downstream: Downstream, _scope: Any) -> None:
        go_on = asyncio.Event()

        def resume() -> None:
            self.resumes += 1
            go_on.set()

        def leave() -> None:
            self.left += 1
            go_on.set()

        downstream.on_disconnect(leave)
        downstream.on_resume(resume)
        downstream.start(200, HEADERS)
        while self.sent < self.total and not downstream.disconnected:
            behind = downstream.write(b"x" * 4096)
            self.told_apart += behind != downstream.paused
            self.sent += 4096
            self.most_unsent = max(self.most_unsent, downstream.transport.get_write_buffer_size())
            if behind and self.obeys:
                self.pauses += 1
                go_on.clear()
                await go_on.wait()
            await asyncio.sleep(0)
        downstream.end()


def at_rest(count: Callable[[], int]) -> int:
    """`count()`, once it has stayed as it is: a kernel may take a little more after the first pause."""
    before, looks = -1, 0
    while looks < 5:
        looks = looks + 1 if before == count() else 0
        before = count()
        time.sleep(0.03)
    return before


@pytest.mark.parametrize("asked", [GET, GET.replace(b"1.1", b"1.0")], ids=["chunked", "unframed"])
def test_a_slow_reader_pauses_the_application_and_resumes_it(asked: bytes) -> None:
    pump = Pump(20_000_000)
    with running(pump) as server, Client(server, receive_buffer=4096) as client:
        client.send(asked)
        eventually(lambda: pump.pauses)
        assert at_rest(lambda: pump.sent) < pump.total, "it went on while its client was behind"
        body = client.response().body
    assert len(body) == pump.total // 4096 * 4096 + 4096 * (pump.total % 4096 > 0)
    assert pump.resumes >= 1
    assert pump.most_unsent <= 64 * 1024 + 8192
    assert pump.left == 0
    assert pump.told_apart == 0


def test_how_much_may_wait_for_a_client_is_a_setting() -> None:
    pump = Pump(20_000_000)
    with running(pump, high_water=16 * 1024) as server, Client(server, receive_buffer=4096) as client:
        client.send(GET)
        eventually(lambda: pump.pauses)
        client.response()
    assert pump.most_unsent <= 16 * 1024 + 8192


def test_a_reader_that_takes_nothing_is_cut() -> None:
    pump = Pump(50_000_000)
    with running(pump, stall=0.4) as server, Client(server, receive_buffer=4096) as client:
        client.send(GET)
        eventually(lambda: pump.left)
        eventually(lambda: not server.server_state.connections)
        assert pump.left == 1
        data = client.file.read()
        assert not data.endswith(b"0\r\n\r\n")


def test_a_reader_that_takes_a_little_now_and_then_is_not() -> None:
    pump = Pump(8_000_000)
    with running(pump, stall=1.5) as server, Client(server, receive_buffer=65536) as client:
        client.send(GET)
        eventually(lambda: pump.pauses)
        for _ in range(4):
            time.sleep(0.5)
            taken = 0
            while taken < 1_000_000:
                taken += len(client.socket.recv(65536))
        assert pump.left == 0
        while not client.socket.recv(1 << 20).endswith(b"0\r\n\r\n"):
            pass
    assert pump.left == 0


def test_who_writes_on_to_a_client_that_is_behind_is_cut_at_the_limit() -> None:
    pump = Pump(50_000_000, obeys=False)
    with running(pump) as server, Client(server, receive_buffer=4096) as client:
        client.send(GET)
        eventually(lambda: pump.left)
    assert pump.left == 1
    assert pump.most_unsent <= 256 * 1024 + 8192


def test_slow_readers_cost_bounded_memory() -> None:
    pumps: list[Pump] = []

    async def each(downstream: Downstream, scope: Any) -> None:
        pump = Pump(20_000_000)
        pumps.append(pump)
        await pump(downstream, scope)

    with running(each) as server, ExitStack() as stack:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for _ in range(100):
            stack.enter_context(Client(server, receive_buffer=4096)).send(GET)
        eventually(lambda: len(pumps) == 100 and all(pump.pauses for pump in pumps), 20)
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 64 * 1024  # KiB
        stack.close()
        eventually(lambda: all(pump.left for pump in pumps))


def test_a_large_whole_answer_reaches_a_slow_reader_beyond_every_deadline() -> None:
    async def large(downstream: Downstream, _scope: Any) -> None:
        downstream.respond(200, HEADERS, b"x" * 20_000_000)

    with running(large, stall=1.5, keep_alive=0.2, linger=0.2) as server:
        for request in (GET, GET[:-2] + b"Connection: close\r\n\r\n"):
            with Client(server, receive_buffer=65536) as client:
                client.send(request)
                received = b""
                for _ in range(4):
                    time.sleep(0.5)
                    received += client.file.read(4_000_000)
                received += client.file.read()
                assert len(received.partition(b"\r\n\r\n")[2]) == 20_000_000


def test_an_error_behind_a_large_answer_waits_until_that_is_taken() -> None:
    async def large(downstream: Downstream, _scope: Any) -> None:
        downstream.respond(200, HEADERS, b"x" * 20_000_000)

    with running(large, high_water=1 << 30, linger=0.2) as server, Client(server, receive_buffer=65536) as client:
        client.send(GET + b"nonsense\r\n\r\n")
        time.sleep(0.8)
        assert len(client.response().body) == 20_000_000
        assert client.response().status == 400


def test_a_whole_answer_that_nobody_reads_is_dropped() -> None:
    async def large(downstream: Downstream, _scope: Any) -> None:
        downstream.respond(200, HEADERS, b"x" * 20_000_000)

    with running(large, stall=0.3, keep_alive=0.2) as server, Client(server, receive_buffer=4096) as client:
        client.send(GET)
        eventually(lambda: server.server_state.connections)
        eventually(lambda: not server.server_state.connections)


def test_connections_of_one_client_are_capped_and_counted_down() -> None:
    with running(echo, max_connections_per_client=3) as server, ExitStack() as stack:
        held = [stack.enter_context(Client(server, source="127.0.0.2")) for _ in range(3)]
        assert [client.send(GET).response().status for client in held] == [200] * 3
        with Client(server, source="127.0.0.2") as fourth:
            answer = fourth.send(post(b"x" * 1000)).response()
            assert (answer.status, answer.error["code"]) == (503, "overloaded")
            assert int(answer.headers["retry-after"]) >= 1
            assert fourth.closed()
        with Client(server, source="127.0.0.3") as other:
            assert other.send(GET).response().status == 200
        held[0].close()
        eventually(lambda: server.shared.per_client == {"127.0.0.2": 2})
        with Client(server, source="127.0.0.2") as again:
            assert again.send(GET).response().status == 200
        stack.close()
        eventually(lambda: not server.shared.per_client)


def test_a_local_reverse_proxy_is_not_capped() -> None:
    with running(echo, max_connections_per_client=3) as server, ExitStack() as stack:
        for _ in range(10):
            assert stack.enter_context(Client(server)).send(GET).response().status == 200


def test_connections_are_capped_in_all_and_beyond_the_answer_too() -> None:
    with running(echo, max_connections=5, linger=30.0) as server, ExitStack() as stack:
        held = [stack.enter_context(Client(server)) for _ in range(5)]
        assert [client.send(GET).response().status for client in held] == [200] * 5
        refused = [stack.enter_context(Client(server)) for _ in range(64)]
        assert {client.send(GET).response().status for client in refused} == {503}
        with Client(server) as cut, pytest.raises((ConnectionError, IndexError)):
            cut.send(GET).response()
        assert held[0].send(GET).response().status == 200
        for client in refused:
            client.close()
        eventually(lambda: server.shared.connections == 5)
        held[1].close()
        eventually(lambda: server.shared.connections == 4)
        assert ask(server).status == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_a_full_server_still_says_how_it_is(path: str) -> None:
    """Otherwise whoever watches it takes it for a dead one, and restarts it with all that it is doing."""
    with running(echo, max_connections=1) as server, Client(server) as held:
        assert held.send(GET).response().status == 200
        for _ in range(3):
            with Client(server) as probe:
                answer = probe.send(GET.replace(b"/ ", path.encode() + b" ", 1)).response()
                assert (answer.status, answer.headers["connection"]) == (200, "close")
                assert probe.closed()
            assert ask(server).status == 503


@pytest.mark.parametrize(
    ("caps", "said"),
    [
        ({"max_connections": 2}, "2 are open, as many as server.max_connections allows"),
        ({"max_connections_per_client": 2}, "127.0.0.2 has as many as server.max_connections_per_client allows. If"),
    ],
)
def test_the_log_says_now_and_then_why_connections_are_refused(
    caps: dict[str, int], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with running(echo, **caps) as server, ExitStack() as stack:
        for _ in range(2):
            held = stack.enter_context(Client(server, source="127.0.0.2"))
            assert held.send(GET).response().status == 200
        for _ in range(20):
            with Client(server, source="127.0.0.2") as refused:
                assert refused.send(GET).response().status == 503
        eventually(lambda: caplog.messages)
    [message] = caplog.messages
    assert message.startswith("connections are refused: " + said)


def test_the_limit_of_open_files_is_named_where_it_is_what_refuses() -> None:
    shared = Shared(ServerLimits(), 1)
    assert (shared.enter(""), shared.enter("")) == (0, 1)
    assert shared.refused == "1 are open, as many as the limit of open files (ulimit -n) allows"


def test_thousands_of_idle_connections_cost_nothing_but_themselves() -> None:
    with running(echo, max_connections=600) as server, ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(Client(server))
        eventually(lambda: server.shared.connections == 600)
        with Client(server) as late:
            assert late.send(GET).response().status == 503


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::"),
        ("127.0.0.1", ""),
        ("::1", ""),
    ],
)
def test_whom_a_connection_is_counted_for(address: str, counted: str) -> None:
    assert Shared(ServerLimits(), 10).counted_as(address) == counted
    assert Shared(ServerLimits(max_connections_per_client=0), 10).counted_as(address) == ""


# --- The sum of bodies that are arriving ---

LARGE = 100 * 1024
# Room for 8 bodies of the largest size, of which a client may take 2.
ROOM = {"max_body": LARGE, "max_arriving": 0}


def arriving(server: Server) -> int:
    assert server.shared.arriving >= sum(server.shared.arriving_per_client.values())
    return server.shared.arriving


def started(server: Server, stack: ExitStack, count: int, source: str = "127.0.0.1") -> list[Client]:
    """`count` clients whose large bodies lack the last byte, all taken in."""
    before = arriving(server)
    clients = [stack.enter_context(Client(server, source=source)) for _ in range(count)]
    for client in clients:
        client.send(post(b"x" * LARGE)[:-1])
    eventually(lambda: arriving(server) == before + count * (LARGE - 1))
    return clients


@pytest.mark.parametrize("known", [False, True], ids=["a new head", "a known head"])
def test_more_large_bodies_than_there_is_room_for_are_shed_while_they_arrive(known: bool) -> None:
    with running(echo, **ROOM) as server, ExitStack() as stack:
        waiting = started(server, stack, 8)
        with Client(server) as more:
            if known:
                assert more.send(post(b"abc" * 50)).response().status == 200
            more.send(post(b"x" * LARGE)[:-1])
            answer = more.response()
            assert (answer.status, answer.headers["retry-after"], answer.error["code"]) == (503, "2", "overloaded")
            assert answer.headers["connection"] == "close"
            assert more.closed()
        assert ask(server, post(b"x" * 60_000)).status == 200
        assert arriving(server) == 8 * (LARGE - 1)
        for client in waiting:
            assert len(client.send(b"x").response().body) == LARGE + 7
        assert arriving(server) == 0
        assert len(ask(server, post(b"x" * LARGE)).body) == LARGE + 7


def test_one_address_has_a_share_of_the_room() -> None:
    with running(echo, **ROOM, exempt_clients=frozenset({"127.0.0.3"})) as server, ExitStack() as stack:
        started(server, stack, 2)
        with Client(server) as more:
            assert more.send(post(b"x" * LARGE)[:-1]).response().status == 503
        started(server, stack, 2, "127.0.0.2")
        started(server, stack, 4, "127.0.0.3")
        assert server.shared.arriving_per_client.keys() == {"127.0.0.1", "127.0.0.2"}
        stack.close()
        eventually(lambda: arriving(server) == 0)
        assert not server.shared.arriving_per_client


def wrong_chunk(client: Client) -> None:
    client.send(b"no chunk\r\n")
    assert client.response().status == 400


def too_late(client: Client) -> None:
    assert client.response().status == 408


def too_large(client: Client) -> None:
    client.send(b"%x\r\n" % LARGE + b"x" * LARGE)
    assert client.response().status == 413


def end_of_it(client: Client) -> None:
    client.send(b"0\r\n\r\n")
    assert client.response().status == 200


@pytest.mark.parametrize("end", [close, reset, half_close, wrong_chunk, too_late, too_large, end_of_it])
def test_the_room_of_a_body_is_given_back_however_it_ends(end: Callable[[Client], None]) -> None:
    timeout = 0.5 if end is too_late else 60.0
    with running(echo, **ROOM, body_timeout=timeout, exempt_clients=frozenset()) as server, Client(server) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.send(b"%x\r\n" % (90 * 1024) + b"x" * (90 * 1024) + b"\r\n")
        eventually(lambda: arriving(server) == 90 * 1024)
        end(client)
        eventually(lambda: arriving(server) == 0)
        assert not server.shared.arriving_per_client


def test_the_room_of_a_body_that_nobody_wants_is_given_back_with_the_answer() -> None:
    enough = threading.Event()

    async def hasty(downstream: Downstream, scope: Any) -> None:
        reading = asyncio.ensure_future(downstream.read_body())
        if scope["path"] == "/hasty":
            await asyncio.to_thread(enough.wait, 30)
        else:
            await reading
        downstream.respond(200, HEADERS, b"done")
        await reading

    with running(hasty, **ROOM) as server, Client(server) as client:
        client.send(post(b"x" * LARGE, "/hasty")[:-1])
        eventually(lambda: arriving(server) == LARGE - 1)
        enough.set()
        assert client.response().body == b"done"
        eventually(lambda: arriving(server) == 0)
        client.send(b"x" + post(b"x" * LARGE))
        assert client.response().body == b"done"
        assert arriving(server) == 0


def test_a_body_that_waits_for_its_turn_on_a_connection_takes_room() -> None:
    turn = threading.Event()

    async def slow_first(downstream: Downstream, scope: Any) -> None:
        body = await downstream.read_body()
        if scope["path"] == "/first":
            await asyncio.to_thread(turn.wait, 30)
        downstream.respond(200, HEADERS, b"%d" % len(body))

    with running(slow_first, **ROOM) as server, Client(server) as client:
        client.send(post(b"abc", "/first") + post(b"x" * LARGE) + post(b"x" * LARGE))
        eventually(lambda: arriving(server) > 64 * 1024)
        turn.set()
        assert [client.response().body for _ in range(3)] == [b"3", *[b"%d" % LARGE] * 2]
        assert arriving(server) == 0
