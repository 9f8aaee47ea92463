"""Requests in a real ClickHouse: its engine as a library (`chdb`), behind as much HTTP as the client needs."""

import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.servers import free_port
from tests.services.test_export import history, holds
from tests.store.books import Books, Engine, with_books
from tests.store.conftest import migrated_file, sqlite_engine
from tests.store.test_rollups import spend

from tollbridge.core.ids import Ids
from tollbridge.errors import Unavailable
from tollbridge.services import export
from tollbridge.store.meta import put
from tollbridge.values import HOUR_MS

__all__ = ["migrated_file", "sqlite_engine"]
pytestmark = pytest.mark.real


class Server:
    """ClickHouse's HTTP interface: a statement with its data, or a statement alone. `port` is where it listens."""

    def __init__(self, directory: Path) -> None:
        self.session = importlib.import_module("chdb.session").Session(str(directory))
        self.lock = threading.Lock()
        self.inserts: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                named = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                try:
                    status, answer = 200, server.run(named, body)
                except Exception as error:
                    status, answer = 500, f"Code: 1. DB::Exception: {error}".encode()
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]

    def run(self, named: dict[str, str], body: bytes) -> bytes:
        sql = named.get("query", "")
        sql = f"{sql}\n{body.decode()}" if sql else body.decode()
        token = named.get("insert_deduplication_token")
        if token is not None:
            self.inserts.append(token)
            head, _, rest = sql.partition("FORMAT")
            sql = f"{head} SETTINGS insert_deduplication_token = '{token}' FORMAT{rest}"
        with self.lock:
            return bytes(self.session.query(sql, "TabSeparated").bytes())

    def rows(self, sql: str) -> list[list[str]]:
        return [line.split("\t") for line in self.run({}, sql.encode()).decode().splitlines()]


@contextmanager
def serving(directory: Path) -> Iterator[Server]:
    server = Server(directory)
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()
        server.session.close()


def test_each_request_is_there_once_however_often_it_is_sent(sqlite_engine: Engine, tmp_path: Path) -> None:
    with serving(tmp_path / "clickhouse") as server:

        async def scenario(books: Books) -> None:
            await history(books)
            sink = export.open_sink(f"clickhouse://127.0.0.1:{server.port}/default")
            assert await export.keep_up(books.database, sink) > 0
            until = await export.watermark(books.database, sink)
            expected = await holds(books, until)
            assert len(expected) > 4
            all_rows = f"SELECT hold FROM {export.TABLE} ORDER BY ended_at, hold"
            assert [int(row[0]) for row in server.rows(all_rows)] == expected
            sums = await books.database.fetch("SELECT SUM(charge), SUM(cost) FROM usage WHERE ended_at < $1", until)
            sql = f"SELECT sum(charge), sum(cost), min(toYear(at)) > 2000 FROM {export.TABLE} FINAL"
            assert [list(map(int, row)) for row in server.rows(sql)] == [[*sums[0], 1]]
            # As after a crash before the watermark was written; then with another cut of time.
            sent = len(server.inserts)
            await put(books.database, export._mark(sink), 0)
            await export.keep_up(books.database, sink)
            assert len(server.inserts) == 2 * sent
            assert [int(row[0]) for row in server.rows(all_rows)] == expected
            await sink.write(1, export.parts(books.database, 0, until))
            final = f"SELECT count(), sum(charge) FROM {export.TABLE} FINAL"
            assert [list(map(int, row)) for row in server.rows(final)] == [[len(expected), sums[0][0]]]

        with_books(sqlite_engine, scenario)


def test_what_is_added_to_a_minute_that_is_there_arrives(sqlite_engine: Engine, tmp_path: Path) -> None:
    """As after the clock was set back."""
    with serving(tmp_path / "clickhouse") as server:

        async def scenario(books: Books) -> None:
            ada = await books.customer(paid=10**9)
            sink = export.open_sink(f"clickhouse://127.0.0.1:{server.port}/default")
            for count in (1, 2, 3):
                await spend(books, ada, 5)
                await sink.write(0, export.parts(books.database, 0, 1 << 60))
                final = f"SELECT count(), sum(charge) FROM {export.TABLE} FINAL"
                assert [list(map(int, row)) for row in server.rows(final)] == [[count, 5 * count]]

        with_books(sqlite_engine, scenario)


def test_a_table_of_before_gets_the_new_column(sqlite_engine: Engine, tmp_path: Path) -> None:
    with serving(tmp_path / "clickhouse") as server:
        assert ", `id` String" in export.CREATE_TABLE
        server.rows(export.CREATE_TABLE.replace(", `id` String", ""))

        async def scenario(books: Books) -> None:
            await history(books)
            ids = Ids(bytes(16))
            for _ in range(2):  # a process after the other
                sink = export.open_sink(f"clickhouse://127.0.0.1:{server.port}/default")
                await put(books.database, export._mark(sink), 0)
                assert await export.keep_up(books.database, sink, ids) > 0
            named = server.rows(f"SELECT hold, id FROM {export.TABLE} FINAL")
            assert len(named) > 4
            assert [ids.encode("chat", int(hold)) for hold, _ in named] == [name for _, name in named]

        with_books(sqlite_engine, scenario)


def test_a_server_that_is_away_is_tried_again(sqlite_engine: Engine) -> None:
    async def scenario(books: Books) -> None:
        await history(books)
        sink = export.open_sink(f"clickhouse://127.0.0.1:{free_port()}/default")
        for _ in range(2):
            with pytest.raises(Unavailable, match="cannot be exported"):
                await export.keep_up(books.database, sink)
        assert await export.watermark(books.database, sink) < await books.database.now() - 49 * HOUR_MS

    with_books(sqlite_engine, scenario)
