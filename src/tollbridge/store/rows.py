"""Rows as values: columns are the fields of a type, in its order. SQLite's 0 and 1 become flags.

Also the rows of a query that are too many to read at once.
"""

import re
from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import msgspec

from tollbridge.errors import Unavailable
from tollbridge.store.db import Row, Transaction

# Above every id: a list that is read newest first begins below it.
ABOVE_ALL = 1 << 62
_LIST = re.compile(r"IN \(\$(\d+)\)")

T = TypeVar("T", bound=msgspec.Struct)
K = TypeVar("K", int, tuple[int, int])


def read(type_: type[T], row: Row) -> T:
    return msgspec.convert(dict(zip(type_.__struct_fields__, row, strict=True)), type_, strict=False)


def read_first(type_: type[T], rows: Sequence[Row]) -> T | None:
    return read(type_, rows[0]) if rows else None


def read_all(type_: type[T], rows: Sequence[Row]) -> list[T]:
    return [read(type_, row) for row in rows]


def with_list(sql: str, count: int) -> str:
    """`sql`, whose last parameter stands alone in `IN ($3)`, for `count` of them: `IN ($3, $4 …)`."""
    return _LIST.sub(
        lambda found: f"IN ({', '.join(f'${number}' for number in range(int(found[1]), int(found[1]) + count))})", sql
    )


async def pages(view: Transaction, sql: str, size: int) -> AsyncIterator[Row]:
    """The rows of a query with the bounds `> $1` on its first column and `LIMIT $2`, read `size` at a time."""
    after = 0
    while rows := await view.fetch(sql, after, size):
        after = further(rows[-1][0], after)
        for row in rows:
            yield row


def further(last: K, after: K) -> K:
    """The key of a page's last row, after which the next page begins.

    Unavailable: it is not greater than `after`, so an index of the database is damaged and reading on would never end.
    """
    if last <= after:
        message = f"The database is damaged: an index finds {last} behind {after}. Restore a backup."
        raise Unavailable(message, code="ledger_unavailable")
    return last
