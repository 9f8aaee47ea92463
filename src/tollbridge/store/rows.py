"""Rows as values: their columns are the fields of a type, in its order. What SQLite has as 0 and 1 becomes a flag.

And the rows of a query that are too many to be read at once.
"""

from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import msgspec

from tollbridge.store.db import Row, Transaction

T = TypeVar("T", bound=msgspec.Struct)


def read(type_: type[T], row: Row) -> T:
    return msgspec.convert(dict(zip(type_.__struct_fields__, row, strict=True)), type_, strict=False)


def read_first(type_: type[T], rows: Sequence[Row]) -> T | None:
    return read(type_, rows[0]) if rows else None


def read_all(type_: type[T], rows: Sequence[Row]) -> list[T]:
    return [read(type_, row) for row in rows]


async def pages(view: Transaction, sql: str, size: int) -> AsyncIterator[Row]:
    """The rows of a query with the bounds `> $1` on its first column and `LIMIT $2`, so many at a time."""
    after = 0
    while rows := await view.fetch(sql, after, size):
        for row in rows:
            yield row
        after = rows[-1][0]
