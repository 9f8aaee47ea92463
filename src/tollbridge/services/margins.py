"""What the operator earns: revenue, cost and margin, and whether providers bill what the books say they should."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence

import msgspec

from tollbridge.core.money import PPM, format_usd, parse_usd, without_thousands
from tollbridge.core.periods import day_text
from tollbridge.errors import InvalidRequest
from tollbridge.services.statements import Period, model_of
from tollbridge.store import reports, usage_days
from tollbridge.store.db import Database, Transaction
from tollbridge.store.reports import Late
from tollbridge.store.usage_days import Days, Group, Sums
from tollbridge.values import DAY_MS

BY = ("day", "model", "provider", "account")
# How a row is written, behind the name of its group.
COLUMNS = (
    "requests",
    "tokens_in",
    "tokens_out",
    "charged_usd",
    "of_it_promo_usd",
    "lost_usd",
    "cost_usd",
    "margin_usd",
)
# Accounts on one page.
MOST_ROWS = 100


class Margin(msgspec.Struct, frozen=True, kw_only=True):
    """One group's requests in a period. `charged`: what customers were charged; `promo`: the gifts in that.

    `lost`: used, but could not be charged. Tokens are counts, amounts nano-USD.
    """

    name: str
    requests: int = 0
    prompt: int = 0
    output: int = 0
    charged: int = 0
    promo: int = 0
    lost: int = 0
    cost: int = 0

    @property
    def revenue(self) -> int:
        """What was charged and paid for."""
        return self.charged - self.promo

    @property
    def margin(self) -> int:
        return self.revenue - self.cost


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """One model at one provider: what was billed, and what the books say should have been. nano-USD.

    `ppm`: the difference in parts per million of the books; None: the books have nothing.
    """

    model: str
    invoiced: int
    recorded: int

    @property
    def difference(self) -> int:
        return self.invoiced - self.recorded

    @property
    def ppm(self) -> int | None:
        return self.difference * PPM // self.recorded if self.recorded else None


async def margins(database: Database, period: Period, by: str) -> list[Margin]:
    """Revenue, cost and margin of a period by `day`, `model`, `provider` or `account`; late ends included."""
    if by not in BY:
        raise InvalidRequest(f"a report is by {', '.join(BY)}", param="by")
    async with usage_days.reading(database) as days:
        name = await _names(days.view, by)
        sums = await _sums(days, period, by)
        late = await reports.late(days.view, period.since, period.until)
    found: dict[str, Margin] = {}
    for each in sums:
        _add(found, name(each.group), each, requests=each.requests, prompt=each.prompt, output=each.output)
    for more in late:
        _add(found, name(_group(more, by)), more)
    ordered = sorted(found.values(), key=lambda row: row.name)
    return ordered if by == "day" else sorted(ordered, key=lambda row: -row.charged)


async def by_account(database: Database, period: Period) -> tuple[list[Margin], Margin]:
    """The first `MOST_ROWS` rows of `margins` by account, the rest as one, the last; and the sum of all."""
    async with usage_days.reading(database) as days:
        late = await reports.late(days.view, period.since, period.until)
        everything = await days.by(Group.PRICE, period.since, period.until)
        ids = {each.account_id for each in late}
        sums, count = await days.most_charged(period.since, period.until, MOST_ROWS, ids)
        found: dict[str, Margin] = {}
        for each in sums:
            _add(found, str(each.group), each, requests=each.requests, prompt=each.prompt, output=each.output)
        count += len(ids - {each.group for each in sums})
        whole: dict[str, Margin] = {}
        for each in everything:
            _add(whole, "", each, requests=each.requests, prompt=each.prompt, output=each.output)
        for more in late:
            _add(found, str(more.account_id), more)
            _add(whole, "", more)
        shown = sorted(found.values(), key=lambda row: -row.charged)[: MOST_ROWS - (count > MOST_ROWS)]
        emails = await reports.emails_of(days.view, [int(row.name) for row in shown])
    names = {row.name: emails.get(int(row.name), f"account {row.name}") for row in shown}
    rows = [msgspec.structs.replace(row, name=names[row.name]) for row in shown]
    rows.sort(key=lambda row: (-row.charged, row.name))
    every = whole.get("", Margin(name=""))
    return [*rows, *([_less(every, total(rows), f"{count - len(rows):,} more")] if count > len(rows) else [])], every


def _less(whole: Margin, part: Margin, name: str) -> Margin:
    fields = [field for field in Margin.__struct_fields__ if field != "name"]
    return Margin(name=name, **{field: getattr(whole, field) - getattr(part, field) for field in fields})


def total(rows: list[Margin], name: str = "") -> Margin:
    """The sum of all rows."""
    fields = [field for field in Margin.__struct_fields__ if field != "name"]
    return Margin(name=name, **{field: sum(getattr(row, field) for row in rows) for field in fields})


def columns(row: Margin) -> dict[str, int | str]:
    """A row by `COLUMNS`: counts, and amounts as decimal texts."""
    sums = (row.charged, row.promo, row.lost, row.cost, row.margin)
    return dict(zip(COLUMNS, (row.requests, row.prompt, row.output, *map(format_usd, sums)), strict=True))


async def drift(database: Database, period: Period, provider: str, invoice: str) -> list[Drift]:
    """Compare a provider's invoice with the books, model by model, largest difference first.

    `invoice` is CSV with a header: a column `model` (the provider's own name) and a column `amount_usd`, `cost` or
    `amount`; lines of one model are added up. InvalidRequest: not such a file, or an unknown provider.
    """
    billed = read_invoice(invoice)
    async with usage_days.reading(database) as days:
        terms = await reports.price_terms(days.view)
        sums = await days.by(Group.PRICE, period.since, period.until)
        late = await reports.late(days.view, period.since, period.until)
    theirs = {id_: each for id_, each in terms.items() if model_of(each, "provider") == provider}
    if not theirs:
        raise InvalidRequest(f"no request was ever priced for the provider {provider[:60]!r}", param="provider")
    recorded: dict[str, int] = {}
    costs = [*((each.group, each.cost) for each in sums), *((each.price_version, each.cost) for each in late)]
    for version, cost in costs:
        if version in theirs:
            model = model_of(theirs[version], "upstream_model")
            recorded[model] = recorded.get(model, 0) + cost
    rows = [
        Drift(model=model, invoiced=billed.get(model, 0), recorded=recorded.get(model, 0))
        for model in {*billed, *(model for model, cost in recorded.items() if cost)}
    ]
    return sorted(rows, key=lambda row: (-abs(row.difference), row.model))


def read_invoice(text: str) -> dict[str, int]:
    """Nano-USD by model, from a provider's CSV. InvalidRequest names the line."""
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff")))
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InvalidRequest(f"line {reader.line_num}: {error}", param="file") from None
    head = [name.strip().lower() for name in rows[0][1]] if rows else []
    amount = next((name for name in ("amount_usd", "cost_usd", "cost", "amount") if name in head), None)
    if "model" not in head or amount is None:
        raise InvalidRequest("the first line names the columns, with commas: model and amount_usd", param="file")
    model_at, amount_at = head.index("model"), head.index(amount)
    billed: dict[str, int] = {}
    for line, row in rows[1:]:
        if not any(row):
            continue
        if len(row) <= max(model_at, amount_at):
            raise InvalidRequest(f"line {line} has too few columns", param="file")
        if any(row[len(head) :]):  # an amount like 12,50 would be read as 12
            raise InvalidRequest(f"line {line} has more columns than the first", param="file")
        model = row[model_at].strip()
        billed[model] = billed.get(model, 0) + _amount(row[amount_at], line)
    return billed


def _amount(text: str, line: int) -> int:
    """An amount as invoices write it: with a currency symbol or a credit sign, and with commas between thousands."""
    plain = text.strip().replace("$", "").strip()
    sign = -1 if plain.startswith("-") else 1
    try:
        return sign * parse_usd(without_thousands(plain.removeprefix("-")))
    except ValueError as error:
        raise InvalidRequest(f"line {line}: {error}", param="file") from None


async def _names(view: Transaction, by: str) -> Callable[[int], str]:
    if by == "day":
        return lambda day: day_text(day * DAY_MS)
    if by == "account":
        emails = await reports.emails(view)
        return lambda account: emails.get(account, f"account {account}")
    terms = await reports.price_terms(view)
    return lambda version: model_of(terms.get(version), by)


async def _sums(days: Days, period: Period, by: str) -> Sequence[Sums]:
    if by == "day":
        return await days.by_day(period.since, period.until)
    return await days.by(Group.ACCOUNT if by == "account" else Group.PRICE, period.since, period.until)


def _group(late: Late, by: str) -> int:
    return {"day": late.day, "account": late.account_id}.get(by, late.price_version)


def _add(found: dict[str, Margin], name: str, more: Sums | Late, **counts: int) -> None:
    before = found.get(name, Margin(name=name))
    added: Mapping[str, int] = {
        "charged": before.charged + more.charge,
        "promo": before.promo + more.promo,
        "lost": before.lost + more.loss,
        "cost": before.cost + more.cost,
        **{field: getattr(before, field) + count for field, count in counts.items()},
    }
    found[name] = msgspec.structs.replace(before, **added)
