"""An HTTP server that does exactly what a script says, byte by byte: an upstream with whatever fault a test needs.

    async def script(peer: Peer) -> None:                 # runs once per connection
        request = await peer.request()
        await peer.send(response(body=b"half of it", headers=[(b"Content-Length", b"100")]))
        await peer.reset()

    async with BadServer(script) as server:
        pool = Pool(server.url, Limits())

When the script returns, the connection is closed; when the test ends, all of them are. A peer that goes away (`Gone`)
ends its script in silence; any other exception in a script fails the test at the end of the `async with`.
"""

import asyncio
import contextlib
import datetime
import ipaddress
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPS = ("asyncio", "uvloop")
SETTLE_SECONDS = 30.0


class Gone(Exception):
    """The client closed or reset the connection."""


class Request(NamedTuple):
    method: bytes
    target: bytes
    headers: dict[bytes, bytes]  # names in lower case
    body: bytes
    head: bytes  # as it came, without the empty line


class Peer:
    """The server's end of one connection."""

    def __init__(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.number = number  # 0 for the first connection that the server accepted
        self._reader = reader
        self._writer = writer

    async def head(self) -> Request:
        """The next request's head, its body left unread."""
        with _gone():
            head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head[:-4].split(b"\r\n")
        method, target, _ = first.split(b" ")
        headers = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines)}
        return Request(method, target, headers, b"", head[:-4])

    async def request(self) -> Request:
        """The next request, with its body."""
        request = await self.head()
        return request._replace(body=await self.receive(int(request.headers.get(b"content-length", b"0"))))

    async def receive(self, size: int) -> bytes:
        with _gone():
            return await self._reader.readexactly(size)

    async def send(self, data: bytes) -> None:
        """Return when the kernel (or a buffer of at most 64 KiB) has taken the bytes."""
        if self._writer.is_closing():  # otherwise uvloop raises RuntimeError, which should not be caught
            raise Gone
        with _gone():
            self._writer.write(data)
            await self._writer.drain()

    async def closed(self) -> None:
        """Wait until the client has gone; anything it still sends is discarded."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await self._reader.read(65536):
                pass

    async def reset(self) -> None:
        """End the connection with RST instead of FIN, after everything sent has left."""
        with _gone():
            await self._writer.drain()
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def tls(self) -> ssl.SSLObject:
        """The TLS parameters agreed on; only for a server with TLS."""
        tls = self._writer.get_extra_info("ssl_object")
        assert tls is not None
        return cast(ssl.SSLObject, tls)

    def close(self) -> None:
        """FIN; anything sent before still leaves."""
        self._writer.close()

    async def wait_closed(self) -> None:
        self._writer.close()
        closed = asyncio.ensure_future(self._writer.wait_closed())
        closed.add_done_callback(asyncio.Future.exception)
        # Neither raises what broke the connection, nor passes on a cancellation.
        await asyncio.wait([closed])


Script = Callable[[Peer], Coroutine[Any, Any, None]]


class BadServer:
    """Listens on a free port of 127.0.0.1 and runs `script` for each connection."""

    def __init__(self, script: Script, *, tls: ssl.SSLContext | None = None) -> None:
        self.accepted = 0
        self._script = script
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: set[Peer] = set()
        self._failures: list[BaseException] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await asyncio.sleep(0)  # connections already accepted still get their task
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for peer in tuple(self._peers):  # including those whose script never began
            await peer.wait_closed()
        await self._server.wait_closed()
        if self._failures and error is None:
            raise self._failures[0]

    def stop_listening(self) -> None:
        """New connections are refused from now on."""
        self._server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(self.accepted, reader, writer)
        self.accepted += 1
        self._peers.add(peer)
        task = asyncio.get_running_loop().create_task(self._run(peer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, peer: Peer) -> None:
        try:
            await self._script(peer)
        except Gone:
            pass
        except Exception as error:
            self._failures.append(error)
        finally:
            await peer.wait_closed()
            self._peers.discard(peer)


@contextlib.contextmanager
def _gone() -> Iterator[None]:
    try:
        yield
    except (OSError, asyncio.IncompleteReadError) as error:
        raise Gone from error


def response(
    status: int = 200, body: bytes = b"", headers: Sequence[tuple[bytes, bytes]] | None = None, version: bytes = b"1.1"
) -> bytes:
    """A response as bytes; `headers` instead of the right Content-Length when they are given."""
    if headers is None:
        headers = [(b"Content-Length", b"%d" % len(body))]
    lines = b"".join(b"%b: %b\r\n" % pair for pair in headers)
    return b"HTTP/%b %d Whatever\r\n%b\r\n%b" % (version, status, lines, body)


CHUNKED = [(b"Content-Type", b"text/event-stream"), (b"Transfer-Encoding", b"chunked")]


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body; `chunk(b"")` ends the body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(*parts: bytes) -> bytes:
    """A whole 200 response with a chunked body."""
    return response(headers=CHUNKED) + b"".join(map(chunk, parts)) + chunk(b"")


def always(data: bytes) -> Script:
    """Answer every request of every connection with these bytes."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(data)

    return script


def once(data: bytes) -> Script:
    """Answer the first request with these bytes and close the connection."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(data)

    return script


async def silent(peer: Peer) -> None:
    """Accept, and never say anything."""
    await peer.closed()


@contextlib.contextmanager
def black_hole() -> Iterator[int]:
    """A port whose listener lets SYN packets go unanswered, because its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until `condition()` is true; fails after 30 s."""
    async with asyncio.timeout(SETTLE_SECONDS):
        while not condition():  # noqa: ASYNC110 (there is no event for it)
            await asyncio.sleep(0.002)


def run(loop: str, main: Awaitable[None]) -> None:
    """Run a test on the named loop (one of LOOPS).

    It fails if a task is left running, or if the loop logs something, such as an exception in a callback.
    """
    logged: list[dict[str, Any]] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        await main
        await eventually(lambda: asyncio.all_tasks() == {asyncio.current_task()})

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else None) as runner:
        runner.run(guarded())
    assert not logged, logged


class Certificate(NamedTuple):
    """A server's TLS context, and the file a client has to trust for it."""

    server: ssl.SSLContext
    authority: Path


def certificate(directory: Path, *hosts: str) -> Certificate:
    """A new self-signed certificate for these names and addresses."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0])])
    now = datetime.datetime.now(datetime.UTC)
    alternatives: list[x509.GeneralName] = []
    for host in hosts:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            alternatives.append(x509.DNSName(host))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority = directory / "certificate.pem"
    authority.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret = directory / "key.pem"
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority, secret)
    server.set_alpn_protocols(["http/1.1"])
    return Certificate(server, authority)
