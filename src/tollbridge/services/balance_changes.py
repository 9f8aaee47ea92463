"""An account's books as its owner wants to see them: what came in, what went out, and what was left after each."""

import heapq
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import msgspec

from tollbridge.core.periods import day_text
from tollbridge.core.words import plural
from tollbridge.store import journal, retention, usage, usage_days
from tollbridge.store.db import Database, Transaction
from tollbridge.store.rollups import first_whole_day
from tollbridge.store.usage_days import Days
from tollbridge.values import DAY_MS

_PAGE = 500

T = TypeVar("T", journal.Line, usage.Charge)


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """`at` in milliseconds; `amount` (below zero: spent) and `balance` in nano-USD."""

    at: int
    what: str
    amount: int
    balance: int


async def balance_changes(database: Database, account_id: int, since: int = 0) -> AsyncIterator[Line]:
    """Every change of an account's balance from `since` (milliseconds) until now, oldest first.

    With `since`, the first line brings the balance forward. Read in pages, so that a long history needs little memory;
    free requests are left out. Where requests were dropped (`store.retention`), a day is one line.
    """
    until = await database.now() + 1
    async with usage_days.reading(database) as days:
        opening = await _opened(days, account_id, since)
    async for line in _walk(database, account_id, opening, until):
        yield line


async def changes_within(days: Days, account_id: int, since: int, until: int) -> AsyncIterator[Line]:
    """Like `balance_changes`, all as of the moment of `days`: what is charged meanwhile is not in it."""
    async for line in _walk(days.view, account_id, await _opened(days, account_id, since), until):
        yield line


class _Opening(msgspec.Struct, frozen=True):
    """Where a statement begins: the time, the balance, and the start of the first day with nothing dropped."""

    since: int
    balance: int
    whole: int


async def _opened(days: Days, account_id: int, since: int) -> _Opening:
    whole = first_whole_day(await retention.horizon(days.view))
    if since < whole:
        since -= since % DAY_MS
    used = await days.of_account(account_id, 0, since)
    return _Opening(since, await journal.total(days.view, account_id, since) - used.charge, whole)


async def _walk(source: Transaction, account_id: int, opening: _Opening, until: int) -> AsyncIterator[Line]:
    since, balance, whole = opening.since, opening.balance, opening.whole
    if since:
        yield Line(at=since, what="brought forward", amount=0, balance=balance)
    start = (since, -1)

    async def journal_page(after: tuple[int, int]) -> list[journal.Line]:
        return await journal.lines(source, account_id, after, until, _PAGE)

    async def usage_page(after: tuple[int, int]) -> list[usage.Charge]:
        return await usage.charges(source, account_id, after, until, _PAGE)

    transactions = _paged(journal_page, start, lambda line: (line.at, line.id))
    requests = _paged(usage_page, max(start, (whole, -1)), lambda charge: (charge.at, charge.hold))
    gone_days = [] if since >= whole else await usage.daily(source, account_id, since, min(whole, until))
    async for line in _merged(transactions, _used(gone_days, requests)):
        balance += line.amount
        yield msgspec.structs.replace(line, balance=balance)


async def _paged(
    read: Callable[[tuple[int, int]], Awaitable[list[T]]], after: tuple[int, int], place: Callable[[T], tuple[int, int]]
) -> AsyncIterator[T]:
    while page := await read(after):
        for row in page:
            yield row
        after = place(page[-1])


async def _used(days: list[tuple[int, int, int]], requests: AsyncIterator[usage.Charge]) -> AsyncIterator[Line]:
    """Days whose requests are gone, one line each; then the requests."""
    for start, count, amount in days:
        what = f"{plural(count, 'request')} on {day_text(start)}"
        yield Line(at=start + DAY_MS - 1, what=what, amount=-amount, balance=0)
    async for row in requests:
        yield Line(at=row.at, what=_of_usage(row), amount=-row.amount, balance=0)


async def _merged(transactions: AsyncIterator[journal.Line], used: AsyncIterator[Line]) -> AsyncIterator[Line]:
    """Both in order of time; at the same time, what came in goes first."""
    waiting: list[tuple[int, int, Line]] = []
    sources = (_lines(transactions), used)
    for rank, source in enumerate(sources):
        if (first := await anext(source, None)) is not None:
            heapq.heappush(waiting, (first.at, rank, first))
    while waiting:
        _, rank, line = heapq.heappop(waiting)
        yield line
        if (following := await anext(sources[rank], None)) is not None:
            heapq.heappush(waiting, (following.at, rank, following))


async def _lines(transactions: AsyncIterator[journal.Line]) -> AsyncIterator[Line]:
    async for row in transactions:
        yield Line(at=row.at, what=_of_journal(row), amount=row.amount, balance=0)


def _of_journal(line: journal.Line) -> str:
    return f"{line.kind.replace('_', ' ')}: {line.reason}" if line.reason else line.kind.replace("_", " ")


def _of_usage(charge: usage.Charge) -> str:
    model = msgspec.json.decode(charge.terms, type=dict[str, object]).get("model", "unknown model")
    return f"{model}: {plural(charge.prompt, 'token')} in, {charge.output:,} out"
