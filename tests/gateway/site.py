"""A whole gateway for tests: real server, real database, real HTTP, and an upstream that does what a script says.

    async with Site(script) as site:
        reply = await site.post("/v1/chat/completions", chat("hi"))
        assert reply.status == 200
        [row] = await site.usage()

Everything runs on one event loop. `Site` verifies the books on exit: no test needs to ask for it.
"""

import asyncio
import atexit
import contextlib
import itertools
import json
import re
import shutil
import socket
import sqlite3
import struct
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar
from unittest import mock

import uvloop
from tests.upstream.bad_server import BadServer, Peer, Request

from tollbridge.app import Gateway
from tollbridge.config import Source, read
from tollbridge.core import money
from tollbridge.edge.server import Server, ServerLimits, listen
from tollbridge.gateway.streams import Timing
from tollbridge.services import accounts, credit, keys, secrets
from tollbridge.store import schema
from tollbridge.store.db import Database, open_database, sqlite_path
from tollbridge.store.verify import verify

T = TypeVar("T")
Json = dict[str, Any]

# 1 USD per million input tokens, 2 per million output tokens: 1,000 and 2,000 nano-USD a token.
EMAIL = "someone@example.com"
INPUT_NANO = 1_000
OUTPUT_NANO = 2_000

CONFIG = """
[providers.up]
dialect = "{dialect}"
base_url = "{url}/v1"
api_key = "env:TEST_UPSTREAM_KEY"
cancel_stops_billing = {cancel_stops_billing}
timeout = "3s"
gap_timeout = "3s"
connect_timeout = "1s"
{more_providers}

[[models]]
id = "m"
context_window = 100000
output_limit = 4096
price = {{ input = "1", output = "2", cache_read = "0.1" }}
routes = [{{ provider = "up", model = "upstream-m" }}{more_routes}]

[[models]]
id = "e"
type = "embedding"
context_window = 8192
price = {{ input = "1" }}
routes = [{{ provider = "up", model = "e" }}]
{more}
"""


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        return dict(json.loads(self.body))

    @property
    def events(self) -> list[str]:
        """The data of each event of a stream."""
        return [event[6:] for event in self.body.decode().split("\n\n") if event.startswith("data: ")]

    @property
    def chunks(self) -> list[Json]:
        return [json.loads(event) for event in self.events if event != "[DONE]"]

    @property
    def text(self) -> str:
        """The text of a stream."""
        said = [chunk["choices"][0]["delta"].get("content") or "" for chunk in self.chunks if chunk["choices"]]
        return "".join(said)


def run(test: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine on the loop that the product uses."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(asyncio.wait_for(test, 60))


# --- what clients ask and upstreams answer ------------------------------------------------------------------------


def chat(text: str = "hi", **fields: Any) -> Json:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **fields}


def completion(text: str = "Hello!", usage: Any = (10, 5), finish: str | None = "stop", **fields: Any) -> Json:
    """A chat completion as an OpenAI-like provider sends it. `usage`: (prompt, completion) tokens, or sent as it is."""
    answer = {
        "id": "up-1",
        "object": "chat.completion",
        "created": 1,
        "model": "upstream-m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}],
    }
    if usage is not None:
        answer["usage"] = used(*usage) if isinstance(usage, tuple) else usage
    return {**answer, **fields}


def used(prompt: int, output: int) -> Json:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}


def chunk(text: str | None = None, finish: str | None = None, **fields: Any) -> bytes:
    delta: Json = {} if text is None else {"content": text}
    whole = {
        "id": "up-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "upstream-m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **fields,
    }
    return event(whole)


def event(data: Any) -> bytes:
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def usage_chunk(prompt: int, output: int) -> bytes:
    return chunk(choices=[], usage=used(prompt, output))


DONE = event(b"[DONE]")


def stream(words: Sequence[str] = ("Hel", "lo", "!"), usage: tuple[int, int] | None = (10, 5)) -> list[bytes]:
    """The events of a whole stream."""
    tail = [usage_chunk(*usage)] if usage is not None else []
    return [*(chunk(word) for word in words), chunk(finish="stop"), *tail, DONE]


STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def http(status: int, body: bytes | Json, headers: Mapping[str, str] | None = None) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    own = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
    head = f"HTTP/1.1 {status} Status\r\n" + "".join(f"{name}: {value}\r\n" for name, value in own.items())
    return head.encode() + b"\r\n" + data


Answer = Callable[[Request, Peer], Coroutine[Any, Any, None]]


def always(answer: Answer) -> Callable[[Peer], Coroutine[Any, Any, None]]:
    """A script that gives `answer` to each request of each connection."""

    async def script(peer: Peer) -> None:
        while True:
            await answer(await peer.request(), peer)

    return script


def says(body: bytes | Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(http(status, body, headers))

    return answer


def streams(events: Sequence[bytes], pause: float = 0.0) -> Answer:
    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD)
        for each in events:
            await peer.send(framed(each))
            await asyncio.sleep(pause)
        await peer.send(b"0\r\n\r\n")

    return answer


def by_kind(whole: Answer, streamed: Answer) -> Answer:
    """One answer for requests that ask for a stream, another for the rest."""

    async def answer(request: Request, peer: Peer) -> None:
        await (streamed if json.loads(request.body).get("stream") else whole)(request, peer)

    return answer


# --- the site -----------------------------------------------------------------------------------------------------


DAY_S = 86_400
# Refusals by a gateway that is behind have tests of their own. A busy machine is no reason to refuse.
NEVER_BEHIND = {
    "tollbridge.edge.inference.MOST_LAG_S": 30.0,
    "tollbridge.store.ledger.sqlite._MOST_WAITING_S": 30.0,
    "tollbridge.store.ledger.postgres.MOST_WAITING_MS": 30_000,
}


class Site:
    """`script` is the upstream's; `others`: those of further upstreams, which also serve its model, by name."""

    def __init__(
        self,
        script: Callable[[Peer], Coroutine[Any, Any, None]],
        *,
        credit_usd: str = "1",
        cancel_stops_billing: bool = True,
        dialect: str = "openai_chat",
        config: str = "",
        others: Mapping[str, Callable[[Peer], Coroutine[Any, Any, None]]] | None = None,
        database_url: str | None = None,
        timing: Timing | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        self.requests: list[Request] = []
        self.log: list[bytes] = []
        self._script = script
        self._credit = credit_usd
        self._cancel = cancel_stops_billing
        self._dialect = dialect
        self._more = config
        self._others = dict(others or {})
        self._database_url = database_url
        self._timing = timing
        self._limits = limits
        self._stack = contextlib.AsyncExitStack()
        self._counter = itertools.count()
        self._serving: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await self._begin()
        except BaseException:
            # A test that has begun would only keep waiting, and hide what was wrong.
            if self._serving is not None:
                self._server.should_exit = True
                await self._serving
            await self._stack.aclose()
            raise
        return self

    async def _begin(self) -> None:
        stack = self._stack
        # Daily and monthly counts begin anew at midnight: not in the middle of a test.
        left = DAY_S - time.time() % DAY_S
        if left < 15:
            await asyncio.sleep(left)
        for name, value in NEVER_BEHIND.items():
            stack.enter_context(mock.patch(name, value))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.upstream = await stack.enter_async_context(BadServer(self._script))
        self.others = {
            name: await stack.enter_async_context(BadServer(script)) for name, script in self._others.items()
        }
        self.file = file = folder / "tollbridge.toml"
        file.write_text(self._config(folder))
        stack.enter_context(_environment(TEST_UPSTREAM_KEY="upstream-secret"))
        self.settings = read(Source(path=file))
        if self._database_url is None:
            shutil.copy(await migrated_file(), folder / "tollbridge.db")
        sock = listen("127.0.0.1", 0)
        self.port = sock.getsockname()[1]
        self.url = self.settings.public_url or f"http://127.0.0.1:{self.port}"
        self.gateway = Gateway(self.settings, self.log.append, timing=self._timing, url=self.url)
        self._server = Server(self.gateway, sock, self._limits)
        self._serving = serving = asyncio.create_task(self._serve(sock))
        while not self._server.started and not serving.done():  # noqa: ASYNC110 - uvicorn has no other sign
            await asyncio.sleep(0.002)
        if serving.done():
            sock.close()
            raise self.gateway.failure or AssertionError("the gateway ended before it served")
        self.database: Database = open_database(self.settings.database_url.reveal())
        await self.database.start()
        stack.push_async_callback(self.database.close)
        self._master = secrets.load(self.settings)
        self.account = await accounts.create(self.database, EMAIL, plans=self.settings.plans, actor="test")
        await self.grant(self._credit)
        self.key = await self.make_key()

    async def _serve(self, sock: socket.socket) -> None:
        # uvicorn ends with SystemExit if the start failed; the reason is in `failure`.
        with contextlib.suppress(SystemExit):
            await self._server.serve([sock])

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._server.should_exit = True
            assert self._serving is not None
            await self._serving
            if error is None:
                report = await verify(self.database)
                assert not report.problems, report.problems
        finally:
            await self._stack.aclose()

    async def grant(self, usd: str) -> None:
        if usd != "0":
            amount = money.parse_usd(usd)
            key = f"test/{next(self._counter)}"
            await credit.grant(self.database, self.account, amount, reason="test", actor="test", idempotency_key=key)

    async def make_key(self, **options: Any) -> str:
        prefix = self.settings.brand.key_prefix
        made = await keys.create(self.database, self._master, self.account, prefix, actor="test", **options)
        return made.text

    async def usage(self) -> list[Json]:
        """The rows of the ended requests, in order, with `outcome` and meters by name."""
        names = (
            "hold_id, account_id, key_id, held, charge, promo, loss, cost, input, cache_read, output, reasoning,"
            " outcome, status, flags, finish, attempts, duration_ms, first_byte_ms"
        )
        rows = await self.database.fetch(f"SELECT {names} FROM usage ORDER BY hold_id")
        return [dict(zip(names.replace("\n", "").split(", "), row, strict=True)) for row in rows]

    async def settled(self, count: int, seconds: float = 30.0) -> list[Json]:
        """The usage rows, once there are `count` of them and no hold is open."""
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while True:
            rows = await self.usage()
            if len(rows) >= count:
                [(held,)] = await self.database.fetch("SELECT SUM(held) FROM balance")
                if held == 0:
                    return rows
            if clock() > end:
                break
            await asyncio.sleep(0.01)
        raise AssertionError(f"{len(rows)} of {count} requests were settled after {seconds} s: {rows}")

    async def balance(self) -> int:
        """Nano-USD that the account has, holds included."""
        [(paid, promo)] = await self.database.fetch("SELECT paid, promo FROM balance")
        return int(paid + promo)

    async def post(self, path: str, body: Json | bytes, headers: Mapping[str, str] | None = None) -> Reply:
        call = await self.open(path, body, headers)
        try:
            return await call.rest()
        finally:
            call.close()

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        call = await self._connect()
        call.writer.write(_request("GET", path, b"", {"authorization": f"Bearer {self.key}", **(headers or {})}))
        try:
            return await call.rest()
        finally:
            call.close()

    async def open(self, path: str, body: Json | bytes, headers: Mapping[str, str] | None = None) -> "Call":
        """Send a request; its answer can be read, or not."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        own = {"authorization": f"Bearer {self.key}", "content-type": "application/json", **(headers or {})}
        call = await self._connect()
        call.writer.write(_request("POST", path, data, own))
        return call

    async def _connect(self) -> "Call":
        return Call(*await asyncio.open_connection("127.0.0.1", self.port))

    def _config(self, folder: Path) -> str:
        providers = "".join(
            f'\n[providers.{name}]\nbase_url = "{server.url}/v1"\ncancel_stops_billing = true\ntimeout = "3s"\n'
            for name, server in self.others.items()
        )
        routes = "".join(f', {{ provider = "{name}", model = "{name}-m" }}' for name in self.others)
        top = f'data_dir = "{folder}"\nallow_plain_http = true\n'
        if self._database_url is not None:
            top += f'database_url = "{self._database_url}"\n'
        # In TOML, top-level settings must come first.
        more_top, _, more = self._more.partition("[") if not self._more.lstrip().startswith("[") else ("", "", "")
        rest = f"[{more}" if more else ("" if more_top else self._more)
        return (
            top
            + more_top
            + CONFIG.format(
                url=self.upstream.url,
                dialect=self._dialect,
                cancel_stops_billing=str(self._cancel).lower(),
                more_providers=providers,
                more_routes=routes,
                more=rest,
            )
        )


async def migrated_file() -> Path:
    """An empty database with the newest schema: migrating takes longer than most tests."""
    global _migrated
    if _migrated is None:
        folder = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, folder)
        path = folder / "empty.db"
        await schema.migrate(f"sqlite:///{path}")
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _migrated = path
    return _migrated


_migrated: Path | None = None


class Call:
    """One request's connection, to be read slowly, cut or reset."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> tuple[int, dict[str, str]]:
        text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = text.strip().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {name.lower(): value for name, value in headers.items()}

    async def rest(self) -> Reply:
        status, headers = await self.head()
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            async for piece in self.pieces():
                body += piece
        else:
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(status, headers, body)

    async def pieces(self) -> AsyncIterator[bytes]:
        """The chunks of a chunked body; stops at its end, raises IncompleteReadError if it is cut."""
        while size := int((await self.reader.readuntil(b"\r\n")).strip(), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def _request(method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
    own = {"host": "localhost", "content-length": str(len(body)), "connection": "close", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in own.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


@contextlib.contextmanager
def _environment(**values: str) -> Any:
    import os

    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def nano(text: str) -> int:
    """Nano-USD from a money header."""
    whole, _, fraction = text.partition(".")
    assert re.fullmatch(r"\d+(\.\d{1,9})?", text), text
    return int(whole) * 1_000_000_000 + int(fraction.ljust(9, "0") or "0")


async def lock_books(site: Site) -> contextlib.ExitStack:
    """Lock everybody else out of writing to the site's database until the result is closed. For SQLite."""

    def lock() -> contextlib.ExitStack:
        with contextlib.ExitStack() as stack:
            path = sqlite_path(site.settings.database_url.reveal())
            database = stack.enter_context(contextlib.closing(sqlite3.connect(path, check_same_thread=False)))
            database.execute("BEGIN IMMEDIATE")
            stack.callback(database.rollback)
            return stack.pop_all()

    # Not on this loop: an open transaction may need it in order to end.
    return await asyncio.to_thread(lock)
