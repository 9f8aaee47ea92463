"""The servers of the test set really run, and really break when told to."""

import time

import pytest
from tests.servers import Postgres, ServerError, Valkey


def test_postgres_commits_durably_and_survives_a_kill_of_the_whole_node(postgres_server: Postgres) -> None:
    assert postgres_server.sql("SHOW fsync") == "on"
    assert postgres_server.sql("SHOW synchronous_commit") == "on"
    with Postgres() as server:
        server.sql("CREATE TABLE kept (n int)")
        server.sql("INSERT INTO kept VALUES (7)")
        server.kill()
        with pytest.raises(ServerError):
            server.sql("SELECT 1")
        server.start()
        assert server.sql("SELECT n FROM kept") == "7"


def test_each_test_gets_a_database_of_its_own(postgres_server: Postgres) -> None:
    template = postgres_server.template("prepared", lambda url: _fill(postgres_server, url))
    assert postgres_server.template("prepared", lambda url: pytest.fail(f"{url} prepared twice")) == template
    with postgres_server.database(template) as first, postgres_server.database(template) as second:
        postgres_server.sql("UPDATE facts SET n = 2", database=_name(first))
        assert postgres_server.sql("SELECT n FROM facts", database=_name(second)) == "1"


def test_a_suspended_server_hangs_and_a_resumed_one_goes_on() -> None:
    with Valkey() as server:
        assert server.command("SET", "a", "1") == b"+OK\r\n"
        server.suspend()
        started = time.monotonic()
        with pytest.raises(TimeoutError):
            server.command("GET", "a", timeout=0.3)
        assert time.monotonic() - started >= 0.3
        server.resume()
        assert server.command("GET", "a") == b"$1\r\n1\r\n"


def test_valkey_forgets_everything_when_it_is_killed(valkey_server: Valkey) -> None:
    assert b"version" in valkey_server.command("INFO", "server")
    with Valkey() as server:
        server.command("SET", "a", "1")
        server.kill()
        server.start()
        assert server.command("GET", "a") == b"$-1\r\n"


def _fill(server: Postgres, url: str) -> None:
    server.sql("CREATE TABLE facts (n int)", database=_name(url))
    server.sql("INSERT INTO facts VALUES (1)", database=_name(url))


def _name(url: str) -> str:
    return url.rsplit("/", 1)[1]
