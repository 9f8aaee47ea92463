"""How a pool gets its connections and gives them up: refusals, TLS, cancelled calls, closing."""

import asyncio
import contextlib
import resource
import socket
import ssl
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.upstream.bad_server import (
    CHUNKED,
    LOOPS,
    BadServer,
    Peer,
    always,
    black_hole,
    certificate,
    chunk,
    eventually,
    once,
    response,
    run,
    silent,
)
from tests.upstream.callers import HEADERS, Sink, ask, post, serving, trusting

from tollbridge.errors import ConnectError, ConnectionLost, PoolBusy, UpstreamError, UpstreamTimeout
from tollbridge.upstream.pool import Limits, Pool, tls_context

both_loops = pytest.mark.parametrize("loop", LOOPS)
OK = response(body=b"ok")


def named(peer: Peer) -> bytes:
    return response(body=b"%d" % peer.number)


# ── Connecting ───────────────────────────────────────────────────────────────────────────────────────────────────────


@both_loops
def test_a_refused_connection_says_so(loop: str) -> None:
    async def main() -> None:
        async with BadServer(silent) as server:
            server.stop_listening()
            pool = Pool(server.url, Limits())
            with pytest.raises(ConnectError, match=f"cannot connect to 127.0.0.1:{server.port}: .*refused"):
                await post(pool)
            assert pool.connections == 0
            await pool.close()

    run(loop, main())


@both_loops
def test_having_no_more_files_is_not_the_upstreams_fault(loop: str) -> None:
    async def main() -> None:
        async with BadServer(always(OK)) as server:
            pool = Pool(server.url, Limits())
            limits = resource.getrlimit(resource.RLIMIT_NOFILE)
            with socket.socket() as last:
                next_one = last.fileno()
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, limits[1]))
                with pytest.raises(PoolBusy, match=f"cannot connect to 127.0.0.1:{server.port}: too many open files"):
                    await post(pool)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            assert (await post(pool)).status == 200
            await pool.close()

    run(loop, main())


@both_loops
def test_a_name_that_does_not_resolve_says_so(loop: str) -> None:
    async def main() -> None:
        pool = Pool("http://nowhere.invalid/v1", Limits())
        with pytest.raises(ConnectError, match=r"cannot connect to nowhere.invalid: the name cannot be looked up"):
            await post(pool)
        await pool.close()

    run(loop, main())


@both_loops
def test_a_connection_that_does_not_come_about_times_out(loop: str) -> None:
    async def main() -> None:
        with black_hole() as port:
            pool = Pool(f"http://127.0.0.1:{port}", Limits(connect=0.2))
            with pytest.raises(UpstreamTimeout) as caught:
                await post(pool)
            assert caught.value.kind == "connect"
            await pool.close()

    run(loop, main())


@both_loops
def test_a_connection_closed_at_once_is_a_connect_error_or_lost(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.reset()

    async def main() -> None:
        async with serving(script) as (_, pool):
            for _ in range(20):
                with pytest.raises((ConnectError, ConnectionLost)):
                    await post(pool)

    run(loop, main())


@both_loops
@pytest.mark.parametrize("secure", [False, True])
def test_sockets_send_at_once_and_notice_dead_peers(loop: str, secure: bool, tmp_path: Path) -> None:
    made = certificate(tmp_path, "127.0.0.1")

    async def main() -> None:
        async with BadServer(always(OK), tls=made.server if secure else None) as server:
            pool = Pool(server.url, Limits(), ssl_context=trusting(made.authority))
            await ask(pool)
            for connection in pool._connections:
                assert connection._transport is not None
                sock = connection._transport.get_extra_info("socket")
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            await pool.close()

    run(loop, main())


@both_loops
def test_a_connection_that_is_lost_before_its_first_request_is_not_used(
    loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        kind = type(asyncio.get_running_loop())
        create = kind.create_connection

        async def create_and_lose(*arguments: Any, **options: Any) -> Any:
            transport, connection = await create(*arguments, **options)
            connection.drop()
            return transport, connection

        monkeypatch.setattr(kind, "create_connection", create_and_lose)
        async with serving(always(OK)) as (_, pool):
            with pytest.raises(ConnectError):
                await post(pool)

    run(loop, main())


@both_loops
def test_tls_is_verified_and_names_its_server(loop: str, tmp_path: Path) -> None:
    made = certificate(tmp_path, "localhost")
    named: list[str | None] = []
    spoken: list[tuple[str | None, str | None]] = []
    made.server.sni_callback = lambda _socket, name, _context: named.append(name)

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            tls = peer.tls()
            spoken.append((tls.version(), tls.selected_alpn_protocol()))
            await peer.send(response(body=b"x" * 300_000))

    async def main() -> None:
        async with BadServer(script, tls=made.server) as server:
            pool = Pool(f"https://localhost:{server.port}", Limits(), ssl_context=trusting(made.authority))
            for _ in range(3):
                assert await ask(pool) == (200, b"x" * 300_000)
            assert server.accepted == 1
            await pool.close()
        assert named == ["localhost"]
        assert spoken == [("TLSv1.3", "http/1.1")] * 3

    run(loop, main())
    assert tls_context().minimum_version == ssl.TLSVersion.TLSv1_2


@both_loops
@pytest.mark.parametrize("trusted", [True, False])
def test_a_certificate_that_is_not_accepted_ends_the_call_before_anything_is_sent(
    loop: str, trusted: bool, tmp_path: Path
) -> None:
    """Self-signed by an unknown authority, or trusted but made for another host."""
    made = certificate(tmp_path, "elsewhere.example")
    asked = 0

    async def script(peer: Peer) -> None:
        nonlocal asked
        await peer.request()
        asked += 1

    async def main() -> None:
        async with BadServer(script, tls=made.server) as server:
            context = trusting(made.authority) if trusted else None
            pool = Pool(f"https://127.0.0.1:{server.port}", Limits(), ssl_context=context)
            with pytest.raises(ConnectError, match="certificate") as caught:
                await post(pool)
            assert "secret" not in str(caught.value)
            await eventually(lambda: pool.connections == 0)
            await pool.close()

    run(loop, main())
    assert asked == 0


@both_loops
def test_a_server_that_speaks_no_tls_is_a_connect_error(loop: str) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(response(400, b"this is plain HTTP"))
        await peer.closed()

    async def main() -> None:
        async with BadServer(script) as server:
            pool = Pool(f"https://127.0.0.1:{server.port}", Limits())
            with pytest.raises(ConnectError, match="cannot connect to 127"):
                await post(pool)
            await pool.close()

    run(loop, main())


@both_loops
def test_a_handshake_that_never_ends_times_out(loop: str) -> None:
    async def main() -> None:
        async with BadServer(silent) as server:
            pool = Pool(f"https://127.0.0.1:{server.port}", Limits(connect=0.2))
            with pytest.raises(UpstreamTimeout) as caught:
                await post(pool)
            assert caught.value.kind == "connect"
            await pool.close()

    run(loop, main())


# ── Cancelling and closing ───────────────────────────────────────────────────────────────────────────────────────────


def open_files() -> int:
    return psutil.Process().num_fds()


@both_loops
@pytest.mark.parametrize("secure", [False, True])
def test_a_call_cancelled_at_any_moment_leaks_nothing(loop: str, secure: bool, tmp_path: Path) -> None:
    made = certificate(tmp_path, "127.0.0.1")

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            for piece in (OK[:10], OK[10:-1], OK[-1:]):
                await peer.send(piece)
                await asyncio.sleep(0)

    async def main() -> None:
        limits = Limits(max_connections=1)
        async with BadServer(script, tls=made.server if secure else None) as server:
            pool = Pool(server.url, limits, ssl_context=trusting(made.authority) if secure else None)
            assert await ask(pool) == (200, b"ok")
            before = open_files()
            for turns in range(60):
                if turns % 2:  # the next call has to connect first
                    (await post(pool)).close()
                call = asyncio.create_task(ask(pool, b"x" * 1000))
                for _ in range(turns // 2):
                    await asyncio.sleep(0)
                if turns > 40:
                    await asyncio.sleep(0.0002 * (turns - 40))
                call.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    assert await call == (200, b"ok")
                async with asyncio.timeout(30):
                    assert await ask(pool) == (200, b"ok")
            await eventually(lambda: open_files() <= before)
            assert pool.connections == 1
            await pool.close()

    run(loop, main())


@both_loops
def test_a_call_cancelled_while_the_name_is_looked_up_leaks_nothing(loop: str) -> None:
    async def main() -> None:
        async with serving(always(OK), Limits(max_connections=1)) as (server, _):
            pool = Pool(f"http://localhost:{server.port}", Limits(max_connections=1))
            for turns in range(20):
                call = asyncio.create_task(post(pool))
                for _ in range(turns):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait([call])
                if not call.cancelled():
                    call.result().close()
                assert await ask(pool) == (200, b"ok")
                await asyncio.sleep(0)
            await pool.close()

    run(loop, main())


@both_loops
def test_closing_the_pool_ends_every_call(loop: str) -> None:
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        asked.append((await peer.request()).body)
        if asked[-1] == b"piped":
            await peer.send(response(headers=CHUNKED) + chunk(b"part"))
        await peer.closed()

    async def main() -> None:
        async with BadServer(script) as server:
            pool = Pool(server.url, Limits(max_connections=3))
            sink = Sink(await post(pool, b"piped"))
            begun = [asyncio.create_task(post(pool)) for _ in range(3)]
            await eventually(lambda: pool.waiting == 1 and len(asked) == 3)
            before = open_files()
            await pool.close()
            assert (pool.connections, pool.idle, pool.waiting) == (0, 0, 0)
            assert open_files() <= before - 3
            assert isinstance(await sink.end(), ConnectionLost)
            ended = await asyncio.gather(*begun, return_exceptions=True)
            assert sorted(type(error).__name__ for error in ended) == ["ConnectionLost", "ConnectionLost", "PoolBusy"]
            with pytest.raises(PoolBusy):
                await post(pool)

    run(loop, main())


@both_loops
def test_closing_the_pool_ends_a_call_that_is_connecting(loop: str) -> None:
    async def main() -> None:
        async with serving(always(OK)) as (_, pool):
            call = asyncio.create_task(post(pool))
            await asyncio.sleep(0)
            await pool.close()
            with pytest.raises(UpstreamError):
                await call

    run(loop, main())


@both_loops
def test_an_error_carries_no_credential(loop: str) -> None:
    async def main() -> None:
        async with serving(once(b"sk-secret\r\n\r\n")) as (_, pool):
            with pytest.raises(UpstreamError) as caught:
                await pool.open(b"POST", b"/x", HEADERS, b"")
            assert "secret" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"

    run(loop, main())
