"""An account's books as its owner would want them: what came, what went, and what was left after each."""

import heapq
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec

from tollbridge.store import journal, usage, usage_days
from tollbridge.store.db import Database

_PAGE = 500

T = TypeVar("T", journal.Line, usage.Charge)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """`at` in milliseconds; `amount` (below zero: spent) and `balance` in nano-USD."""

    at: int
    what: str
    amount: int
    balance: int


async def statement(
    database: Database, account_id: int, since: int = 0, before: int | None = None
) -> AsyncIterator[Line]:
    """All that changed an account's balance from the time `since` (milliseconds) until now or `before`, oldest first.

    With `since` the first line brings forward what was there. Read in pages, so that a long history needs little
    memory; requests that were free are left out.
    """
    until = await database.now() + 1 if before is None else before
    async with usage_days.reading(database) as days:
        used = await days.of_account(account_id, 0, since)
        balance = await journal.total(days.view, account_id, since) - used.charge
    if since:
        yield Line(at=since, what="brought forward", amount=0, balance=balance)
    start = (since, -1)

    async def journal_page(after: tuple[int, int]) -> list[journal.Line]:
        return await journal.lines(database, account_id, after, until, _PAGE)

    async def usage_page(after: tuple[int, int]) -> list[usage.Charge]:
        return await usage.charges(database, account_id, after, until, _PAGE)

    transactions = _paged(journal_page, start, lambda line: (line.at, line.id))
    requests = _paged(usage_page, start, lambda charge: (charge.at, charge.hold))
    async for line in _merged(transactions, requests):
        balance += line.amount
        yield msgspec.structs.replace(line, balance=balance)


async def _paged(
    read: Callable[[tuple[int, int]], Awaitable[list[T]]], after: tuple[int, int], place: Callable[[T], tuple[int, int]]
) -> AsyncIterator[T]:
    while page := await read(after):
        for row in page:
            yield row
        after = place(page[-1])


async def _merged(
    transactions: AsyncIterator[journal.Line], requests: AsyncIterator[usage.Charge]
) -> AsyncIterator[Line]:
    """Both in order of time; at the same time what came goes first."""
    waiting: list[tuple[int, int, Line]] = []
    sources = (
        _lines(transactions, lambda row: Line(at=row.at, what=_of_journal(row), amount=row.amount, balance=0)),
        _lines(requests, lambda row: Line(at=row.at, what=_of_usage(row), amount=-row.amount, balance=0)),
    )
    for rank, source in enumerate(sources):
        if (first := await anext(source, None)) is not None:
            heapq.heappush(waiting, (first.at, rank, first))
    while waiting:
        _, rank, line = heapq.heappop(waiting)
        yield line
        if (following := await anext(sources[rank], None)) is not None:
            heapq.heappush(waiting, (following.at, rank, following))


async def _lines(rows: AsyncIterator[T], make: Callable[[T], Line]) -> AsyncIterator[Line]:
    async for row in rows:
        yield make(row)


def _of_journal(line: journal.Line) -> str:
    return f"{line.kind.replace('_', ' ')}: {line.reason}" if line.reason else line.kind.replace("_", " ")


def _of_usage(charge: usage.Charge) -> str:
    model = msgspec.json.decode(charge.terms, type=dict[str, object]).get("model", "unknown model")
    return f"{model}: {charge.prompt:,} tokens in, {charge.output:,} out"
