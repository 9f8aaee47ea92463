"""H10: the schema that migrations build is the schema of `store.tables`, on both databases, and no cut leaves half."""

import ast
import asyncio
import contextlib
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alembic.autogenerate
import alembic.migration
import pytest
import sqlalchemy
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable
from tests.servers import Postgres

import tollbridge.store
from tollbridge.store import schema
from tollbridge.store.db import Row, open_database
from tollbridge.store.migrations.__main__ import statements, steps
from tollbridge.store.tables import metadata

STORE = Path(tollbridge.store.__file__).parent
COUNT = len(metadata.tables) + 1


def fetch(url: str, *queries: str) -> list[list[Row]]:
    async def main() -> list[list[Row]]:
        database = open_database(url)
        await database.start()
        try:
            return [await database.fetch(query) for query in queries]
        finally:
            await database.close()

    return asyncio.run(main())


def created(url: str) -> None:
    """The schema as `store.tables` says it, without migrations."""
    dialect: Any = (sqlite if url.startswith("sqlite") else postgresql).dialect

    async def main() -> None:
        database = open_database(url)
        await database.start()
        for table in metadata.sorted_tables:
            await database.execute(str(CreateTable(table).compile(dialect=dialect())))
            for index in table.indexes:
                if index._ddl_if is None or index._ddl_if.dialect == dialect().name:
                    await database.execute(str(CreateIndex(index).compile(dialect=dialect())))
        await database.close()

    asyncio.run(main())


@pytest.fixture
def fresh(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'new' / 'tollbridge.db'}"


def test_migrations_build_the_tables_of_sqlite(fresh: str, tmp_path: Path) -> None:
    asyncio.run(schema.migrate(fresh))
    other = f"sqlite:///{tmp_path / 'created.db'}"
    created(other)
    query = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE '%alembic%' ORDER BY type, name"
    ours, theirs = (
        [(*row[:2], " ".join((row[2] or "").split())) for row in fetch(url, query)[0]] for url in (fresh, other)
    )
    assert ours == theirs
    assert all("STRICT" in sql for kind, _, sql in ours if kind == "table")
    engine = sqlalchemy.create_engine(fresh.replace("sqlite:", "sqlite+pysqlite:"))
    with engine.connect() as connection:
        # What only the other database has.
        foreign = {index.name for table in metadata.tables.values() for index in table.indexes if index._ddl_if}
        options = {"include_object": lambda _object, name, *_rest: name not in foreign}
        context = alembic.migration.MigrationContext.configure(connection, opts=options)
        assert alembic.autogenerate.compare_metadata(context, metadata) == []
    engine.dispose()


def test_migrations_build_the_tables_of_postgresql(postgres_server: Postgres) -> None:
    columns = """
        SELECT table_name, column_name, data_type, is_nullable, column_default, is_identity
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
        ORDER BY table_name, ordinal_position
    """
    constraints = """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
        ORDER BY conrelid::regclass::text, conname
    """
    indexes = "SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY indexname"
    with postgres_server.database() as migrated, postgres_server.database() as other:
        asyncio.run(schema.migrate(migrated))
        created(other)
        ours, theirs = (fetch(url, columns, constraints, indexes) for url in (migrated, other))
        ours[2] = [row for row in ours[2] if row[0] != "alembic_version"]
        assert ours == theirs
        assert len(ours[0]) == sum(len(table.columns) for table in metadata.tables.values())


def test_head_is_the_newest_revision() -> None:
    assert f"'{schema.HEAD}'" in steps("sqlite", None).rpartition("UPDATE alembic_version SET")[2].partition("WHERE")[0]
    assert steps("sqlite", schema.HEAD) == ""


def test_for_a_database_that_is_up_to_date_no_process_is_started(fresh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []

    async def apart(module: str, url: str) -> tuple[int, str, str]:
        started.append(module)
        return await run_apart(module, url)

    run_apart = schema.run_apart
    monkeypatch.setattr(schema, "run_apart", apart)

    async def main() -> None:
        assert await schema.migrate(fresh) is True
        assert len(started) == 1
        assert await schema.migrate(fresh) is False
        assert len(started) == 1

    asyncio.run(main())


def test_the_file_is_for_its_owner_alone(fresh: str) -> None:
    asyncio.run(schema.migrate(fresh))
    path = Path(fresh.removeprefix("sqlite:///"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_of_starters_at_once_one_migrates_and_the_others_wait(fresh: str, postgres_url: str) -> None:
    async def main(url: str) -> None:
        starters = [schema.migrate(url) for _ in range(3)]
        assert await asyncio.gather(*starters, return_exceptions=True) == [True] * 3
        database = open_database(url)
        await database.start()
        assert await schema.current(database) == schema.HEAD
        await database.close()

    asyncio.run(main(fresh))
    asyncio.run(main(postgres_url))


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_a_newer_database_is_refused_once_it_does_not_suit(
    dialect: str, fresh: str, request: pytest.FixtureRequest
) -> None:
    url = fresh if dialect == "sqlite" else request.getfixturevalue("postgres_url")
    asyncio.run(schema.migrate(url))

    async def main() -> None:
        database = open_database(url)
        await database.start()
        await database.execute("UPDATE alembic_version SET version_num = '9999'")
        # As long as that version says that this one can work on its schema, it does.
        assert await schema.migrate(url) is False
        await database.execute("UPDATE meta SET value = 9999 WHERE name = 'schema_oldest'")
        assert not await schema.fits(database, "9999")
        await database.close()
        with pytest.raises(schema.MigrationFailed, match=r"9999.*newer") as refused:
            await schema.migrate(url)
        assert "\n" not in str(refused.value)

    asyncio.run(main())


def test_a_failed_migration_says_why_in_one_line_and_changes_nothing(fresh: str) -> None:
    path = Path(fresh.removeprefix("sqlite:///"))
    path.parent.mkdir()

    async def main() -> None:
        database = open_database(fresh)
        await database.start()
        await database.execute("CREATE TABLE hold (mine TEXT)")
        with pytest.raises(schema.MigrationFailed, match="hold already exists") as failed:
            await schema.migrate(fresh)
        assert "\n" not in str(failed.value)
        assert await database.fetch("SELECT name FROM sqlite_master WHERE type = 'table'") == [("hold",)]
        await database.close()

    asyncio.run(main())


def test_a_file_that_is_no_database_is_refused(fresh: str) -> None:
    path = Path(fresh.removeprefix("sqlite:///"))
    path.parent.mkdir()
    path.write_bytes(b"this is not a database " * 1000)
    with pytest.raises(Exception, match="damaged"):
        asyncio.run(schema.migrate(fresh))


# Runs the migration once per step in a child that is killed after that step.
KILLED_AT_EACH_STEP = """
import os, signal, sys
from pathlib import Path
from tollbridge.store.migrations import __main__ as migration

def until(last):
    def statements(text):
        for number, statement in enumerate(whole(text)):
            if number == last:
                os.kill(os.getpid(), signal.SIGKILL)
            yield statement
    return statements

whole = migration.statements
folder, count = Path(sys.argv[1]), len(list(whole(migration.steps("sqlite", None))))
for last in range(count + 1):
    child = os.fork()
    if not child:
        migration.statements = until(last)
        migration._migrate_sqlite(folder / f"{last}.db")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert (os.WIFSIGNALED(status)) == (last < count), (last, status)
print(count)
"""


def test_a_killed_migration_of_sqlite_has_not_happened_and_happens_next_time(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, str(tmp_path)], capture_output=True, text=True, check=True
    )
    count = int(done.stdout)
    assert count > COUNT
    for step in range(count):
        url = f"sqlite:///{tmp_path / f'{step}.db'}"
        assert fetch(url, "SELECT count(*) FROM sqlite_master") == [[(0,)]]
    asyncio.run(schema.migrate(f"sqlite:///{tmp_path / f'{count - 1}.db'}"))
    assert fetch(f"sqlite:///{tmp_path / f'{count}.db'}", schema.REVISION) == [[(schema.HEAD,)]]


HANGING = """
import sys
from tollbridge.store.migrations import __main__ as migration

whole = migration.steps
def steps(dialect, revision):
    text = whole(dialect, revision)
    cut = [at for at in range(len(text)) if text.startswith(";\\n", at)][int(sys.argv[1])] + 2
    return text[:cut] + "SELECT pg_sleep(600);" + text[cut:]

migration.steps = steps
sys.exit(migration.main())
"""


def test_a_killed_migration_of_postgresql_has_not_happened_and_happens_next_time(
    postgres_server: Postgres,
) -> None:
    with postgres_server.database() as url:
        name = url.rpartition("/")[2]
        for cut in (0, 7, 14):
            environment = {**os.environ, schema.URL_VARIABLE: url}
            child = subprocess.Popen([sys.executable, "-c", HANGING, str(cut)], env=environment)
            sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
            deadline = time.monotonic() + 20
            while postgres_server.sql(f"{sleeping} AND datname = '{name}'") != "1":
                assert time.monotonic() < deadline
                assert child.poll() is None
                time.sleep(0.05)
            child.send_signal(signal.SIGKILL)
            child.wait()
            postgres_server.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
            assert fetch(url, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [[(0,)]]
        asyncio.run(schema.migrate(url))
        assert fetch(url, schema.REVISION) == [[(schema.HEAD,)]]


def test_a_script_is_cut_into_its_statements() -> None:
    script = "CREATE TABLE a (x TEXT DEFAULT ';');\n\nINSERT INTO a\nVALUES ('--;');\n"
    assert [" ".join(s.split()) for s in statements(script)] == [
        "CREATE TABLE a (x TEXT DEFAULT ';');",
        "INSERT INTO a VALUES ('--;');",
    ]


# --- statements that were written by hand --------------------------------------------------------------------------

SQL = re.compile(r"\s*(SELECT|INSERT INTO|UPDATE|DELETE FROM|WITH)\s")
# Reads what only its own database has.
CATALOGS = re.compile(r"sqlite_master|alembic_version|pragma_|to_regclass|pg_|brin_|extract\(epoch")


def written(path: Path) -> Iterator[str]:
    """Every statement in a file, with the constants that are put into it."""
    module = importlib.import_module("tollbridge.store." + str(path.relative_to(STORE))[:-3].replace("/", "."))

    def text(node: ast.AST) -> str:
        match node:
            case ast.Constant(value=str(value)):
                return value
            case ast.JoinedStr(values=parts):
                return "".join(map(text, parts))
            case ast.FormattedValue(value=value):
                with contextlib.suppress(NameError):  # what is known only where it runs: a lock, a placeholder
                    return str(eval(ast.unparse(value), vars(module)))
        return ""

    tree = ast.parse(path.read_text())
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and id(node) not in inner):
            statement = text(node)
            if SQL.match(statement) and not CATALOGS.search(statement):
                yield statement


def all_written(*, without: str) -> list[tuple[str, str]]:
    files = [
        path for path in sorted(STORE.rglob("*.py")) if without not in path.name and "migrations" not in path.parts
    ]
    return [(path.name, statement) for path in files for statement in written(path)]


def test_every_statement_is_understood_by_sqlite(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'created.db'}"
    created(url)
    found = all_written(without="postgres")
    assert len(found) > 30
    problems: list[Any] = []

    async def main() -> None:
        database = open_database(url)
        await database.start()
        for name, statement in found:
            try:
                count = max([statement.count("?"), *(int(n) for n in re.findall(r"\$(\d+)", statement))])
                named = "?" not in statement
                plain = re.sub(r"\$(\d+)", r"NULL", statement) if named else statement.replace("?", "NULL")
                await database.fetch(f"EXPLAIN {plain}")
                assert count <= 40
            except Exception as error:
                problems.append((name, statement, error))
        await database.close()

    asyncio.run(main())
    assert problems == []


def test_every_statement_is_understood_by_postgresql(postgres_server: Postgres) -> None:
    found = all_written(without="sqlite")
    assert len(found) > 30
    problems: list[Any] = []

    async def main(url: str) -> None:
        import asyncpg

        connection = await asyncpg.connect(url)
        for name, statement in found:
            try:
                await connection.prepare(statement)
            except asyncpg.PostgresError as error:
                problems.append((name, statement, error))
        await connection.close()

    with postgres_server.database() as url:
        created(url)
        asyncio.run(main(url))
    assert problems == []


def test_every_insert_names_its_columns() -> None:
    for name, statement in all_written(without="nothing"):
        for table, columns in re.findall(r"INSERT INTO (\w+) ?(\([^)]*\))?", statement):
            assert columns, (name, statement)
            names = [column.strip() for column in columns.strip("()").split(",")]
            required = {
                column.name
                for column in metadata.tables[table].columns
                if not column.nullable and column is not metadata.tables[table].autoincrement_column
            }
            assert required <= set(names) <= set(metadata.tables[table].columns.keys()), (name, table)


def test_the_index_by_time_is_built_beside_a_gateway_that_writes(postgres_url: str) -> None:
    """A database of before, full of rows: nobody waits for the index, and one that was cut off is made anew."""
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'usage_by_time'::regclass"

    async def main() -> None:
        database = open_database(postgres_url, statement_timeout=60)
        await database.start()
        await schema.migrate(postgres_url)
        for undo in (
            "DROP TABLE usage_day",
            "DROP TABLE carried",
            "DROP TABLE closing",
            "DROP INDEX journal_late",
            "DROP INDEX journal_by_account",
            "ALTER TABLE activity DROP COLUMN proof, DROP COLUMN salt",
            "ALTER TABLE management_key DROP COLUMN pepper_id",
            "ALTER TABLE invitation DROP COLUMN invited_by",
            'ALTER TABLE "user" DROP COLUMN totp_proposed',
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'usage_by_time'::regclass",
            "UPDATE alembic_version SET version_num = '0009'",
        ):
            await database.execute(undo)
        assert await schema.migrate(postgres_url) is True
        assert await database.fetch(valid) == [(True,)]
        await database.close()

    asyncio.run(main())
