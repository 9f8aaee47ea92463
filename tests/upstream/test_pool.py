"""Connections: how they are made, shared, waited for, reused and thrown away."""

import asyncio
import random

import pytest
from tests.upstream.bad_server import (
    LOOPS,
    BadServer,
    Peer,
    always,
    eventually,
    once,
    response,
    run,
    silent,
)
from tests.upstream.callers import BRISK, HEADERS, LATE, ask, post, serving

from tollbridge import __version__
from tollbridge.errors import ConfigError, ConnectError, ConnectionLost, PoolBusy, RoomElsewhere
from tollbridge.upstream import connection as connection_module
from tollbridge.upstream.pool import Limits, Pool

both_loops = pytest.mark.parametrize("loop", LOOPS)
OK = response(body=b"ok")


def named(peer: Peer) -> bytes:
    return response(body=b"%d" % peer.number)


# ── Requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@both_loops
def test_a_request_is_written_as_one_head_and_its_body(loop: str) -> None:
    seen: list[tuple[bytes, bytes]] = []

    async def script(peer: Peer) -> None:
        request = await peer.request()
        seen.append((request.head, request.body))
        await peer.send(OK)

    async def main() -> None:
        async with serving(script, path="/v1/") as (server, pool):
            assert await ask(pool, b'{"a":1}', b"/chat/completions") == (200, b"ok")
            assert pool.path_prefix == b"/v1"
            lines = [
                b"POST /v1/chat/completions HTTP/1.1",
                b"Host: 127.0.0.1:%d" % server.port,
                b"User-Agent: tollbridge/" + __version__.encode(),
                b"Accept-Encoding: identity",
                b"Connection: keep-alive",
                b"authorization: Bearer sk-secret",
                b"content-type: application/json",
                b"Content-Length: 7",
            ]
            assert seen == [(b"\r\n".join(lines), b'{"a":1}')]

    run(loop, main())


@both_loops
def test_a_get_states_no_length(loop: str) -> None:
    async def script(peer: Peer) -> None:
        request = await peer.request()
        await peer.send(response(body=b"%d" % (b"content-length" in request.headers)))

    async def main() -> None:
        async with serving(script) as (_, pool):
            got = await pool.open(b"GET", b"/models?limit=1", [], b"")
            assert await got.read() == b"0"

    run(loop, main())


@both_loops
@pytest.mark.parametrize(
    ("target", "name", "value"),
    [
        (b"/x", b"authorization", b"Bearer a\r\nX-Injected: 1"),
        (b"/x", b"authorization", b"Bearer a\n"),
        (b"/x", b"authorization", b"Bearer a\r"),
        (b"/x", b"authorization", b"Bearer \0a"),
        (b"/x", b"bad name", b"a"),
        (b"/x", b"bad:name", b"a"),
        (b"/x", b"bad\r\nname", b"a"),
        (b"/x", b"", b"a"),
        (b"/x", b"Content-Length", b"0"),
        (b"/x", b"transfer-encoding", b"chunked"),
        (b"/x", b"Host", b"elsewhere"),
        (b"/x HTTP/1.1\r\nHost: elsewhere\r\n\r\n", b"a", b"a"),
        (b"/x HTTP/1.0", b"a", b"a"),
        (b"//elsewhere\n", b"a", b"a"),
        (b"x", b"a", b"a"),
        (b"", b"a", b"a"),
    ],
)
def test_what_could_split_a_request_is_refused_before_anything_is_sent(
    loop: str, target: bytes, name: bytes, value: bytes
) -> None:
    async def main() -> None:
        async with serving(once(OK)) as (server, pool):
            with pytest.raises(ValueError, match=r"target|header") as caught:
                await pool.open(b"POST", target, [(name, value)], b"{}")
            assert b"Bearer" not in str(caught.value).encode()
            assert pool.opened_total == server.accepted == 0

    run(loop, main())


@both_loops
def test_a_head_that_is_known_is_the_head_that_a_first_call_sends(loop: str) -> None:
    """Also when only one thing of it changes from call to call."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append((await peer.request()).head)
            await peer.send(OK)

    one, other = ((b"a", b"1"), (b"b", b"2")), ((b"a", b"1"), (b"b", b"3"))
    calls = [
        (method, target, headers, body)
        for headers in (one, one, other, one, list(one))
        for method in (b"POST", b"PUT", b"GET", b"POST")
        for target in (b"/x", b"/y")
        for body in (b"", b"{}", b"x" * 100_000)
    ]

    async def main() -> None:
        async with serving(script, path="/v1") as (server, pool):
            for method, target, headers, body in calls * 2:
                await (await pool.open(method, target, headers, body)).read()
            known = seen.copy()
            seen.clear()
            for method, target, headers, body in calls * 2:
                first = Pool(server.url + "/v1", Limits())
                await (await first.open(method, target, headers, body)).read()
                await first.close()
            assert known == seen

    run(loop, main())


@both_loops
def test_headers_that_can_change_are_read_at_each_call(loop: str) -> None:
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append((await peer.request()).headers[b"a"])
            await peer.send(OK)

    async def main() -> None:
        async with serving(script) as (_, pool):
            headers = [(b"a", b"1")]
            for value in (b"1", b"2", b"2\r\nb: c"):
                headers[0] = (b"a", value)
                if b"\n" in value:
                    with pytest.raises(ValueError, match="CR, LF"):
                        await pool.open(b"POST", b"/x", headers, b"")
                else:
                    await (await pool.open(b"POST", b"/x", headers, b"")).read()
            assert seen == [b"1", b"2"]

    run(loop, main())


@both_loops
def test_known_heads_are_bounded_and_old_credentials_forgotten(loop: str) -> None:
    async def main() -> None:
        async with serving(always(OK)) as (_, pool):
            for number in range(200):
                token = ((b"authorization", b"Bearer %d" % number),)
                await (await pool.open(b"POST", b"/x", token, b"")).read()
            assert list(pool._heads) == [b"/x"]
            for number in range(200):
                await (await pool.open(b"POST", b"/%d" % number, token, b"")).read()
                assert len(pool._heads) <= 64

    run(loop, main())


@pytest.mark.parametrize(
    "url",
    [
        *("", "host", "ftp://host", "http://", "http://user:secret@host", "http://host/?key=secret"),
        *("http://host/#secret", "http://host:99999", "http://host:x", "http://[::1", "http://" + "a" * 64),
        *("http://host/ö", "http://host/a b"),
    ],
)
def test_a_base_url_that_cannot_be_called_is_the_operators_mistake(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Pool(url, Limits())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "origin", "prefix"),
    [
        ("https://api.example.com/v1/", "api.example.com", b"/v1"),
        ("https://api.example.com:443", "api.example.com", b""),
        ("http://api.example.com:443/a/b", "api.example.com:443", b"/a/b"),
        ("http://[::1]:8080/", "[::1]:8080", b""),
        ("http://BÜCHER.example", "xn--bcher-kva.example", b""),
    ],
)
def test_a_base_url_gives_the_origin_and_the_prefix(url: str, origin: str, prefix: bytes) -> None:
    pool = Pool(url, Limits())
    assert (pool.origin, pool.path_prefix) == (origin, prefix)


@both_loops
def test_proxies_of_the_environment_are_not_used(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    async def main() -> None:
        async with serving(always(OK)) as (_, pool):
            assert await ask(pool) == (200, b"ok")

    run(loop, main())


# ── Reuse ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@both_loops
def test_requests_one_after_the_other_share_a_connection(loop: str) -> None:
    async def main() -> None:
        async with serving(always(OK)) as (server, pool):
            for _ in range(5):
                assert await ask(pool) == (200, b"ok")
            assert (server.accepted, pool.opened_total, pool.reused_total) == (1, 1, 4)
            assert (pool.connections, pool.idle, pool.waiting) == (1, 1, 0)

    run(loop, main())


@both_loops
def test_the_connection_used_last_is_reused_first(loop: str) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(named(peer))

    async def main() -> None:
        async with serving(script) as (_, pool):
            await asyncio.gather(*(ask(pool) for _ in range(3)))
            assert pool.idle == 3
            used = {(await ask(pool))[1] for _ in range(6)}
            assert len(used) == 1

    run(loop, main())


@both_loops
def test_an_idle_connection_that_the_server_closes_is_forgotten(loop: str) -> None:
    async def main() -> None:
        async with serving(once(OK)) as (server, pool):
            for number in range(1, 4):
                assert await ask(pool) == (200, b"ok")
                await eventually(lambda: pool.connections == 0)
                assert server.accepted == number
                assert pool.idle == 0

    run(loop, main())


@both_loops
def test_an_idle_connection_on_which_something_arrives_is_dropped(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await asyncio.sleep(0.01)
        await peer.send(response(408, b"too late"))
        await peer.closed()

    async def main() -> None:
        async with serving(script) as (server, pool):
            for number in (1, 2):
                assert await ask(pool) == (200, b"ok")
                await eventually(lambda: pool.connections == 0)
                assert server.accepted == number

    run(loop, main())


@both_loops
def test_bytes_behind_an_answer_keep_its_connection_from_being_reused(loop: str) -> None:
    for extra in (b"H", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nforeign", b"\0", b"garbage" * 5000):

        async def script(peer: Peer, extra: bytes = extra) -> None:
            await peer.request()
            await peer.send(named(peer) + extra)
            await peer.closed()

        async def main() -> None:
            async with serving(script) as (_, pool):
                for number in range(3):
                    assert await ask(pool) == (200, b"%d" % number)
                assert pool.reused_total == 0

        run(loop, main())


@both_loops
def test_an_unused_connection_is_closed_after_its_idle_time(loop: str) -> None:
    async def main() -> None:
        async with serving(always(OK), BRISK) as (_, pool):
            await ask(pool)
            begin = asyncio.get_running_loop().time()
            assert pool.idle == 1
            await eventually(lambda: pool.connections == 0)
            assert BRISK.idle <= asyncio.get_running_loop().time() - begin < BRISK.idle + LATE
            assert pool.idle == 0
            await asyncio.sleep(BRISK.idle / 2)  # the clock stops when nothing is open
            assert await ask(pool) == (200, b"ok")
            await eventually(lambda: pool.connections == 0)

    run(loop, main())


@both_loops
@pytest.mark.parametrize("ending", ["close", "reset"])
def test_a_reused_connection_that_dies_unheard_is_replaced_once(loop: str, ending: str) -> None:
    requests: list[tuple[int, bytes]] = []

    async def script(peer: Peer) -> None:
        requests.append((peer.number, (await peer.request()).body))
        await peer.send(OK)
        requests.append((peer.number, (await peer.request()).body))
        if ending == "reset":
            await peer.reset()

    async def main() -> None:
        async with serving(script) as (_, pool):
            assert await ask(pool, b"1") == (200, b"ok")
            assert await ask(pool, b"2") == (200, b"ok")
            assert requests == [(0, b"1"), (0, b"2"), (1, b"2")]

    run(loop, main())


@both_loops
def test_a_replaced_connection_that_dies_too_is_an_error(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number == 0:
            await peer.send(OK)
            await peer.request()

    async def main() -> None:
        async with serving(script) as (server, pool):
            await ask(pool)
            with pytest.raises(ConnectionLost):
                await ask(pool)
            assert server.accepted == 2

    run(loop, main())


@both_loops
@pytest.mark.parametrize("said", [b"", b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_request_that_may_have_been_worked_on_is_not_sent_twice(
    loop: str, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either the server had said something, or it was silent for longer than a dead connection takes to be seen."""
    monkeypatch.setattr(connection_module, "_STALE_SECONDS", 0.02)

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.send(said)
        await asyncio.sleep(0 if said else 0.05)

    async def main() -> None:
        async with serving(script) as (server, pool):
            await ask(pool)
            with pytest.raises(ConnectionLost):
                await ask(pool)
            assert server.accepted == 1

    run(loop, main())


@both_loops
def test_a_first_request_on_a_connection_is_not_sent_twice(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()

    async def main() -> None:
        async with serving(script) as (server, pool):
            with pytest.raises(ConnectionLost):
                await ask(pool)
            assert server.accepted == 1

    run(loop, main())


@both_loops
def test_when_all_idle_connections_are_dead_each_call_gets_a_fresh_one(loop: str) -> None:
    """A restarted server: every pooled connection is stale at once, and the pool is full of them."""
    size = 8
    together = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        if peer.number < size:
            if peer.number == size - 1:
                together.set()
            await together.wait()
            await peer.send(OK)
            await peer.request()
        else:
            await peer.send(OK)
            await peer.closed()

    async def main() -> None:
        async with serving(script, Limits(max_connections=size)) as (_, pool):
            await asyncio.gather(*(ask(pool) for _ in range(size)))
            assert pool.idle == size
            assert await asyncio.gather(*(ask(pool) for _ in range(size))) == [(200, b"ok")] * size

    run(loop, main())


@both_loops
def test_a_connection_that_has_just_been_dropped_is_not_reused(loop: str) -> None:
    """Its socket is closed one turn of the loop later, and a call may come between."""

    async def main() -> None:
        async with serving(always(OK)) as (server, pool):
            await ask(pool)
            pool._idle[0].drop()
            assert await ask(pool) == (200, b"ok")
            assert (server.accepted, pool.reused_total) == (2, 0)

    run(loop, main())


@both_loops
def test_a_fresh_connection_takes_the_place_of_an_idle_one(loop: str) -> None:
    async def main() -> None:
        async with serving(always(OK), Limits(max_connections=1)) as (_, pool):
            await ask(pool)
            async with asyncio.timeout(30):
                connection = await pool._acquire(fresh=True)
            assert connection.served == 0
            connection.drop()

    run(loop, main())


# ── Limits and the queue ─────────────────────────────────────────────────────────────────────────────────────────────


@both_loops
def test_never_more_connections_than_allowed(loop: str) -> None:
    now, most = 0, 0

    async def script(peer: Peer) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        try:
            for _ in range(random.randint(1, 3)):
                await peer.request()
                await asyncio.sleep(0.001)
                await peer.send(OK)
        finally:
            now -= 1

    async def main() -> None:
        async with serving(script, Limits(max_connections=3)) as (_, pool):
            assert await asyncio.gather(*(ask(pool) for _ in range(100))) == [(200, b"ok")] * 100
            assert most <= 3

    run(loop, main())


@both_loops
def test_waiting_calls_are_served_in_order(loop: str) -> None:
    order: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            order.append((await peer.request()).body)
            await peer.send(OK)

    async def main() -> None:
        async with serving(script, Limits(max_connections=1)) as (server, pool):
            bodies = [b"%d" % number for number in range(10)]
            await asyncio.gather(*(ask(pool, body) for body in bodies))
            assert order == bodies
            assert server.accepted == 1

    run(loop, main())


@both_loops
def test_a_call_whose_connection_was_dead_comes_before_those_that_wait(loop: str) -> None:
    order: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            body = (await peer.request()).body
            order.append(body)
            if body == b"2" and peer.number == 0:
                return
            await asyncio.sleep(0.01)
            await peer.send(OK)

    async def main() -> None:
        async with serving(script, Limits(max_connections=1)) as (server, pool):
            await ask(pool, b"1")
            assert await asyncio.gather(*(ask(pool, body) for body in (b"2", b"3", b"4"))) == [(200, b"ok")] * 3
            assert order == [b"1", b"2", b"3", b"2", b"4"]
            assert server.accepted == 3

    run(loop, main())


@both_loops
def test_a_full_queue_refuses_at_once(loop: str) -> None:
    async def main() -> None:
        async with serving(silent, Limits(max_connections=2, max_waiting=3)) as (server, pool):
            calls = [asyncio.create_task(post(pool)) for _ in range(5)]
            await eventually(lambda: (server.accepted, pool.waiting) == (2, 3))
            with pytest.raises(PoolBusy):
                await post(pool)
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)
            assert pool.waiting == 0

    run(loop, main())


@both_loops
def test_waiting_for_a_connection_has_an_end(loop: str) -> None:
    async def main() -> None:
        limits = Limits(max_connections=1, queue=0.1)
        async with serving(silent, limits) as (_, pool):
            first = asyncio.create_task(post(pool))
            await eventually(lambda: pool.connections == 1)
            begin = asyncio.get_running_loop().time()
            with pytest.raises(PoolBusy):
                await post(pool)
            assert 0.1 <= asyncio.get_running_loop().time() - begin < 0.1 + LATE
            assert pool.waiting == 0
            first.cancel()
            await asyncio.wait([first])

    run(loop, main())


@both_loops
def test_no_more_calls_leave_the_queue_than_find_room_elsewhere(loop: str) -> None:
    async def main() -> None:
        small, large = Limits(max_connections=1, queue=2.0), Limits(max_connections=2)
        async with serving(silent, small) as (_, full), serving(silent, large) as (_, other):
            held = asyncio.create_task(post(full))
            await eventually(lambda: full.room == 0)
            open_elsewhere = False
            calls = [
                asyncio.create_task(
                    full.open(b"POST", b"/x", HEADERS, b"{}", elsewhere=lambda: other if open_elsewhere else None)
                )
                for _ in range(4)
            ]
            await eventually(lambda: (full.waiting, full.room) == (4, -4))
            open_elsewhere = True
            done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            assert done == set(calls[:2])  # the first of them
            for call in done:
                with pytest.raises(RoomElsewhere):
                    await call
            with pytest.raises(RoomElsewhere):  # who comes later does not queue at all
                await full.open(b"POST", b"/x", HEADERS, b"{}", elsewhere=lambda: other)
            for call in (held, *calls):
                call.cancel()
            await asyncio.wait([held, *calls])

    run(loop, main())


@both_loops
def test_a_cancelled_waiter_passes_its_turn_on(loop: str) -> None:
    """Cancelled at any moment around being served, the next in the queue is served all the same."""

    async def main() -> None:
        for turns in range(12):
            gate = asyncio.Event()

            async def script(peer: Peer, gate: asyncio.Event = gate) -> None:
                while True:
                    body = (await peer.request()).body
                    if body == b"first":
                        await gate.wait()
                    await peer.send(OK)

            async with serving(script, Limits(max_connections=1)) as (_, pool):
                first = asyncio.create_task(ask(pool, b"first"))
                await eventually(lambda pool=pool: pool.connections == 1)  # type: ignore[misc]
                second = asyncio.create_task(ask(pool, b"second"))
                third = asyncio.create_task(ask(pool, b"third"))
                await eventually(lambda pool=pool: pool.waiting == 2)  # type: ignore[misc]
                gate.set()
                for _ in range(turns):
                    await asyncio.sleep(0)
                second.cancel()
                assert await first == (200, b"ok")
                async with asyncio.timeout(30):
                    assert await third == (200, b"ok")
                await asyncio.wait([second])

    run(loop, main())


@both_loops
def test_a_waiter_gets_the_slot_of_a_connection_that_died(loop: str) -> None:
    async def main() -> None:
        async with serving(once(OK), Limits(max_connections=1)) as (server, pool):
            assert await asyncio.gather(*(ask(pool) for _ in range(10))) == [(200, b"ok")] * 10
            assert server.accepted == 10

    run(loop, main())


@both_loops
def test_a_waiter_does_not_use_a_connection_that_was_dropped_on_its_way(loop: str) -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(OK[:-1])
            await gate.wait()
            await peer.send(OK[-1:])

    async def main() -> None:
        async with serving(script, Limits(max_connections=1)) as (server, pool):
            first = await post(pool)
            second = asyncio.create_task(ask(pool))
            await eventually(lambda: pool.waiting == 1)
            connection = next(iter(pool._connections))
            first.pipe(lambda _: None, lambda _: connection.drop())
            gate.set()
            assert await second == (200, b"ok")
            assert (server.accepted, pool.reused_total) == (2, 0)

    run(loop, main())


@both_loops
def test_a_waiter_gets_the_slot_of_a_failed_connect(loop: str) -> None:
    async def main() -> None:
        async with BadServer(silent) as server:
            server.stop_listening()
            pool = Pool(server.url, Limits(max_connections=1))
            errors = await asyncio.gather(*(post(pool) for _ in range(5)), return_exceptions=True)
            assert [type(error) for error in errors] == [ConnectError] * 5
            await pool.close()

    run(loop, main())


@both_loops
def test_a_slow_upstream_does_not_slow_another_ones_pool(loop: str) -> None:
    """E20: each upstream has connections of its own."""

    async def main() -> None:
        async with (
            serving(silent, Limits(max_connections=4, max_waiting=4)) as (_, slow),
            serving(always(OK)) as (_, good),
        ):
            stuck = [asyncio.create_task(post(slow)) for _ in range(8)]
            await eventually(lambda: slow.waiting == 4)
            async with asyncio.timeout(30):
                for _ in range(50):
                    assert await ask(good) == (200, b"ok")
            for call in stuck:
                call.cancel()
            await asyncio.wait(stuck)

    run(loop, main())
