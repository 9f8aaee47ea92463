"""G19: a migration only adds, so that the version before goes on beside the new one (`store.schema`)."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tollbridge.store.migrations
from tollbridge.store import schema
from tollbridge.store.migrations.__main__ import statements, steps

FOLDER = Path(tollbridge.store.migrations.__file__).parent / "versions"
REVISIONS = sorted(re.match(r"r(\d+)_", path.name)[1] for path in FOLDER.glob("r*.py"))  # type: ignore[index]
# Revision of a migration that takes something away → the revision whose code was the first to do without it.
CONTRACTIONS: dict[str, str] = {}

_TABLE = r"\"?(?P<table>\w+)\"?"
_CREATES = re.compile(rf"CREATE TABLE {_TABLE}")
_INDEXES = re.compile(rf"CREATE (?P<unique>UNIQUE )?INDEX (IF NOT EXISTS )?\w+ ON {_TABLE}")
_ADDS = re.compile(rf"ALTER TABLE {_TABLE} ADD COLUMN (?P<column>.*)", re.DOTALL)
_OWN = re.compile(r"(INSERT INTO|UPDATE|CREATE TABLE) (alembic_version|meta)\b")


def of_revision(dialect: str, revision: str) -> list[str]:
    """The statements of one migration."""
    at = REVISIONS.index(revision)
    text = steps(dialect, REVISIONS[at - 1] if at else None)
    mine = re.split(rf"-- Running upgrade .* -> {revision}\b", text)[1].partition("-- Running upgrade")[0]
    return [" ".join(line for line in each.split() if line) for each in statements(mine)]


def breaks(sql: list[str]) -> Iterator[str]:
    """What code that does not know of these statements would not survive."""
    new = {found["table"] for each in sql if (found := _CREATES.match(each))}
    for each in sql:
        if _OWN.match(each) or _CREATES.match(each):
            continue
        if found := _INDEXES.match(each):
            if found["unique"] and found["table"] not in new:
                yield f"older code may write what this index forbids: {each}"
        elif found := _ADDS.match(each):
            column = found["column"].upper()
            if "NOT NULL" in column and "DEFAULT" not in column:
                yield f"older code writes rows without this column: {each}"
            if re.search(r"\b(CHECK|UNIQUE)\b", column):
                yield f"older code may write what this forbids: {each}"
        else:
            yield f"this is more than adding: {each}"


@pytest.mark.parametrize("revision", REVISIONS[1:])
@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_a_migration_only_adds(dialect: str, revision: str) -> None:
    if revision in CONTRACTIONS:
        assert CONTRACTIONS[revision] <= schema.OLDEST, "raise schema.OLDEST: older code does not work on it"
    else:
        assert list(breaks(of_revision(dialect, revision))) == []


def test_the_oldest_code_that_works_is_one_that_there_was() -> None:
    assert schema.OLDEST in REVISIONS
    assert schema.OLDEST <= schema.HEAD == REVISIONS[-1]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE hold;",
        "ALTER TABLE hold DROP COLUMN amount;",
        "ALTER TABLE hold RENAME COLUMN amount TO sum;",
        "ALTER TABLE hold RENAME TO reservation;",
        "ALTER TABLE hold ALTER COLUMN amount SET NOT NULL;",
        "ALTER TABLE hold ALTER COLUMN amount TYPE TEXT;",
        "ALTER TABLE hold ADD CONSTRAINT positive CHECK (amount > 0);",
        "ALTER TABLE hold ADD COLUMN colour TEXT NOT NULL;",
        "CREATE UNIQUE INDEX only_one ON hold (account_id);",
        "DELETE FROM hold;",
    ],
)
def test_a_migration_that_does_more_is_found(statement: str) -> None:
    assert list(breaks([statement]))


def test_what_is_new_may_be_as_it_likes() -> None:
    ours = ["CREATE TABLE colour (id BIGINT NOT NULL);", "CREATE UNIQUE INDEX one ON colour (id);"]
    ours += ["ALTER TABLE hold ADD COLUMN colour BIGINT;", "ALTER TABLE hold ADD COLUMN n BIGINT DEFAULT 0 NOT NULL;"]
    assert list(breaks(ours)) == []
