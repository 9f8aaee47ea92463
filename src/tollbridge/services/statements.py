"""Printable books: an account's month, the trial balance of a period, the journal line by line.

    month = parse_month("2026-11")
    statement = await account_statement(database, account, month)     # opening + all movements = closing
    parts = statement_csv(statement)

Amounts are nano-USD; in CSV they are decimal USD to the last digit. Months and days are UTC.
"""

import csv
import io
import re
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import UTC, datetime

import msgspec

from tollbridge.core.ledger import Book, Kind, usage_entries
from tollbridge.core.money import format_usd
from tollbridge.core.periods import day_text, time_text
from tollbridge.core.words import plural
from tollbridge.errors import InvalidRequest
from tollbridge.services.balance_changes import Line, changes_within
from tollbridge.store import journal, reports, retention, rollups, usage_days
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database
from tollbridge.store.rollups import Sums
from tollbridge.store.usage_days import Days, Group
from tollbridge.values import DAY_MS

_MONTH = re.compile(r"(20[0-9]{2})-(0[1-9]|1[0-2])")
_PAGE = 1_000
# Lines packed and written at once.
_AT_ONCE = 500
# What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Period(msgspec.Struct, frozen=True):
    """From a time on and before another, in milliseconds; `name`: how it was asked for."""

    name: str
    since: int
    until: int


class Movement(msgspec.Struct, frozen=True):
    """What one kind of transaction, or all usage, did to the balance in total."""

    kind: str
    amount: int


class ModelUse(msgspec.Struct, frozen=True):
    """What one model was used for."""

    model: str
    requests: int
    prompt: int
    output: int
    charge: int


class Lines(msgspec.Struct):
    """The lines of a statement, packed: a month may have half a million, which would fill hundreds of megabytes.

    They are read at one moment and kept until they are sent: were they read while they are, a slow reader would keep a
    connection to the database, and a view that everybody else's changes pile up behind.
    """

    count: int = 0
    packed: list[bytes] = []
    last: list[Line] = []

    def add(self, line: Line) -> None:
        self.count += 1
        self.last.append(line)
        if len(self.last) == _AT_ONCE:
            self.packed.append(zlib.compress(msgspec.msgpack.encode(self.last), 1))
            self.last = []

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Line]:
        for some in self.parts():
            yield from some

    def parts(self) -> Iterator[list[Line]]:
        """Some lines at a time."""
        for packed in self.packed:
            yield msgspec.msgpack.decode(zlib.decompress(packed), type=list[Line])
        if self.last:
            yield self.last


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """An account's month: `opening` plus all `movements` is `closing`, as with the lines if not `shortened`."""

    email: str
    period: Period
    opening: int
    closing: int
    movements: tuple[Movement, ...]
    models: tuple[ModelUse, ...]
    lines: Lines
    shortened: bool = False


class TrialLine(msgspec.Struct, frozen=True):
    """One ledger account over a period; credits are positive. In each column, all lines sum to zero."""

    book: Book
    opening: int
    moved: int

    @property
    def closing(self) -> int:
        return self.opening + self.moved


class JournalLine(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. `id` is the transaction's: its number, or `usage/` and the number of a request's hold.

    For a day whose requests are gone, it is `usage/2026-11-22/` and the number of the account.
    """

    id: str
    at: int
    kind: str
    email: str
    book: str
    amount: int
    reason: str = ""
    actor: str = ""


def parse_month(text: str) -> Period:
    """A calendar month such as `2026-11`. InvalidRequest: it is not one."""
    found = _MONTH.fullmatch(text)
    if found is None:
        raise InvalidRequest(f"a month is like 2026-11, not {text[:20]!r}", param="month")
    year, month = int(found[1]), int(found[2])
    following = (year + 1, 1) if month == 12 else (year, month + 1)
    return Period(text, _start(year, month), _start(*following))


def month_of(at: int) -> str:
    """The month of a time in milliseconds, as `parse_month` reads it."""
    return day_text(at)[: len("2026-11")]


def _start(year: int, month: int) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000


# --- one account --------------------------------------------------------------------------------------------------


async def account_statement(
    database: Database, account: Account, period: Period, most_lines: int | None = None
) -> Statement:
    """What came in, went out and was left, with each change in order, of which at most the first `most_lines`."""
    async with usage_days.reading(database) as days:
        before = await days.of_account(account.id, 0, period.since)
        opening = await journal.total(days.view, account.id, period.since) - before.charge
        kinds = await journal.moved(days.view, account.id, period.since, period.until)
        month = rollups.Period(period.since, period.until, DAY_MS)
        used = await rollups.by_price(days.view, account.id, month)
        terms = await reports.price_terms(days.view)
        lines, shortened = Lines(), False
        async for line in changes_within(days, account.id, period.since, period.until):
            if not line.amount:
                continue  # it brings the balance forward: the opening
            if shortened := len(lines) == most_lines:
                break
            lines.add(line)
    # Already part of the usage.
    kinds.pop(Kind.LATE, None)
    spent = -sum(each.charge for each in used.values())
    movements = [Movement(kind, amount) for kind, amount in sorted(kinds.items()) if amount]
    movements.append(Movement("usage", spent))
    return Statement(
        email=account.email,
        period=period,
        opening=opening,
        closing=opening + sum(each.amount for each in movements),
        movements=tuple(movements),
        models=_models(used, terms),
        lines=lines,
        shortened=shortened,
    )


def _models(used: Mapping[tuple[int, int], Sums], terms: dict[int, str]) -> tuple[ModelUse, ...]:
    by_model: dict[str, Sums] = {}
    for (_, version), each in used.items():
        by_model.setdefault(model_of(terms.get(version)), Sums()).add(each)
    uses = (ModelUse(name, each.requests, each.prompt, each.completion, each.charge) for name, each in by_model.items())
    return tuple(sorted(uses, key=lambda use: -use.charge))


def model_of(terms: str | None, name: str = "model") -> str:
    """A field of a price version's terms; empty for a request that ended before any price was noted."""
    if not terms:
        return f"(broken off, {name} not known)"
    return str(msgspec.json.decode(terms, type=dict[str, object]).get(name, ""))


def statement_csv(made: Statement) -> Iterator[str]:
    """The statement as CSV, for spreadsheets, some lines at a time: all of them would keep the gateway for seconds."""
    yield to_csv(
        [
            ("at", "what", "amount_usd", "balance_usd"),
            (time_text(made.period.since), "opening balance", "", format_usd(made.opening)),
        ]
    )
    for some in made.lines.parts():
        yield to_csv(
            (time_text(line.at), no_formula(line.what), format_usd(line.amount), format_usd(line.balance))
            for line in some
        )
    yield to_csv([(time_text(made.period.until), "closing balance", "", format_usd(made.closing))])


def statement_json(made: Statement) -> Iterator[bytes]:
    """The statement as JSON, some lines at a time: amounts are decimal texts."""
    totals = {
        "account": made.email,
        "month": made.period.name,
        "opening_usd": format_usd(made.opening),
        "closing_usd": format_usd(made.closing),
        "movements": [{"kind": each.kind, "amount_usd": format_usd(each.amount)} for each in made.movements],
        "models": [
            {
                "model": each.model,
                "requests": each.requests,
                "tokens_in": each.prompt,
                "tokens_out": each.output,
                "charged_usd": format_usd(each.charge),
            }
            for each in made.models
        ],
    }
    yield msgspec.json.encode(totals)[:-1] + b',"lines":['
    comma = b""
    for some in made.lines.parts():
        lines = [
            {
                "at": time_text(line.at),
                "what": line.what,
                "amount_usd": format_usd(line.amount),
                "balance_usd": format_usd(line.balance),
            }
            for line in some
        ]
        yield comma + msgspec.json.encode(lines)[1:-1]
        comma = b","
    yield b"]}"


# --- the operator's books -----------------------------------------------------------------------------------------


async def trial_balance(database: Database, period: Period) -> list[TrialLine]:
    """Every ledger account at the beginning of a period, and what moved, which gives its end."""
    async with usage_days.reading(database) as days:
        booked = await reports.books(days.view, period.since, period.until)
        used = [await _used(days, *each) for each in ((0, period.since), (period.since, period.until))]
    return [
        TrialLine(book, *(more + usage[book] for more, usage in zip(booked.get(book, (0, 0)), used, strict=True)))
        for book in Book
    ]


async def _used(days: Days, since: int, until: int) -> dict[Book, int]:
    """What requests moved on each ledger account."""
    moved = dict.fromkeys(Book, 0)
    for each in await days.by(Group.PRICE, since, until):
        for entry in usage_entries(each.charge, each.promo, each.loss, each.cost):
            moved[entry.book] += entry.amount
    return moved


async def journal_lines(database: Database, period: Period) -> AsyncIterator[JournalLine]:
    """Every entry of a period: the journal's, in order, then those that requests stand for.

    Where requests were dropped (`store.retention`), an account's requests of one day are one transaction.
    """
    async with usage_days.reading(database) as days:
        view, after = days.view, (0, -1)
        while rows := await reports.entries(view, period.since, period.until, after, _PAGE):
            for id_, _, at, kind, email, book, amount, reason, actor in rows:
                yield JournalLine(
                    id=str(id_),
                    at=at,
                    kind=kind,
                    email=email or "",
                    book=book,
                    amount=amount,
                    reason=reason,
                    actor=actor,
                )
            after = (rows[-1][0], rows[-1][1])
        whole = rollups.first_whole_day(await retention.horizon(view))
        async for line in _gone(days, period.since, min(period.until, whole)):
            yield line
        since, last = max(period.since, whole), 0
        while rows := await reports.ends(view, since, period.until, last, _PAGE):
            for hold, at, email, charge, promo, loss, cost in rows:
                for entry in usage_entries(charge, promo, loss, cost):
                    yield JournalLine(
                        id=f"usage/{hold}",
                        at=at,
                        kind="usage",
                        email=email or "",
                        book=entry.book,
                        amount=entry.amount,
                    )
            last = rows[-1][0]


async def _gone(days: Days, since: int, until: int) -> AsyncIterator[JournalLine]:
    """The entries of days whose requests are gone, by account."""
    emails = await reports.emails(days.view) if since < until else {}
    while since < until:
        end = min(since // DAY_MS * DAY_MS + DAY_MS, until)
        day = day_text(since)
        for each in await days.by(Group.ACCOUNT, since, end):
            for entry in usage_entries(each.charge, each.promo, each.loss, each.cost):
                yield JournalLine(
                    id=f"usage/{day}/{each.group}",
                    at=end - 1,
                    kind="usage",
                    email=emails.get(each.group, ""),
                    book=entry.book,
                    amount=entry.amount,
                    reason=f"{plural(each.requests, 'request')} on {day}",
                )
        since = end


def journal_row(line: JournalLine) -> tuple[str, ...]:
    """A line of the journal for CSV, under JOURNAL_HEAD."""
    return (
        *(line.id, time_text(line.at), line.kind, no_formula(line.email), line.book, format_usd(line.amount)),
        *(no_formula(line.reason), no_formula(line.actor)),
    )


JOURNAL_HEAD = ("transaction", "at", "kind", "account", "book", "amount_usd", "reason", "actor")


def to_csv(rows: Iterable[Iterable[object]]) -> str:
    """RFC 4180, with its line ends."""
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue()


def no_formula(text: str) -> str:
    """Free text that no spreadsheet evaluates."""
    return f"'{text}" if text.startswith(_FORMULA) else text
