"""What an account used: totals, over time, by model and by key. Exact when asked (`store.rollups`)."""

from collections.abc import Callable, Iterable
from enum import IntEnum

import msgspec

from tollbridge.store import account_keys, prices, rollups
from tollbridge.store.account_keys import AccountKey
from tollbridge.store.db import Database
from tollbridge.store.rollups import Cells, Period, Sums
from tollbridge.values import DAY_MS, HOUR_MS

# If there are more series than this, the rest become one.
MOST_SERIES = 6
REST = "All others"
NO_MODEL = "No model"
GONE_KEY = "A key that is gone"


class Range(msgspec.Struct, frozen=True):
    """`count` steps of `step` milliseconds, of which the last is in progress."""

    name: str
    title: str
    step: int
    count: int

    def period(self, now: int) -> Period:
        until = now // self.step * self.step + self.step
        return Period(until - self.count * self.step, until, self.step)


RANGES = {
    each.name: each
    for each in (
        Range("24h", "24 hours", HOUR_MS, 24),
        Range("7d", "7 days", 6 * HOUR_MS, 28),
        Range("30d", "30 days", DAY_MS, 30),
        Range("90d", "90 days", DAY_MS, 90),
    )
}


class Series(msgspec.Struct, frozen=True):
    """What one model or key used. `id`: its name or public id, "" if it has none.

    `parts`: sums by the number of their step, in no order, several for a step or none. Of keys, only `Keys.STEPS` has
    any: those of the first `MOST_SERIES - 1`, and in the next one those of all others, as a chart shows them.
    """

    id: str
    label: str
    total: Sums
    parts: list[tuple[int, Sums]]


class Line(msgspec.Struct, frozen=True):
    """One line of a chart, a value for each step."""

    label: str
    steps: list[Sums]


class Report(msgspec.Struct, frozen=True):
    """`total` is the sum of `models`, and of `keys` if it has any; both are sorted, most expensive first."""

    period: Period
    total: Series
    models: list[Series]
    keys: list[Series]

    @property
    def starts(self) -> list[int]:
        """When each step begins, in milliseconds."""
        return list(range(self.period.since, self.period.until, self.period.step))


class Keys(IntEnum):
    """What a report says of keys: nothing, each one's total, or also the steps that a chart of them shows."""

    NONE = 0
    TOTALS = 1
    STEPS = 2


async def report(database: Database, account_id: int, period: Period, keys: Keys = Keys.NONE) -> Report:
    async with database.snapshot() as view:
        by_price = await rollups.by_price(view, account_id, period)
        models = await prices.models(view, (version for _, version in by_price))
        made = Report(period, _total(by_price, period), _by_model(by_price, period, models), [])
        if keys is Keys.NONE:
            return made
        by_key = await rollups.by_key(view, account_id, period)
        named = _names(await account_keys.of_account(view, account_id), by_key)
        found = _series({(period.since, key_id): each for key_id, each in by_key.items()}, period, named.__getitem__)
        drawn: Cells = {}
        if keys is Keys.STEPS:
            shown = {each.id for each in found[: MOST_SERIES - 1]}
            ids = [key_id for key_id, (public_id, _) in named.items() if public_id in shown]
            drawn = await rollups.of_keys(view, account_id, period, ids)
    steps = {each.id: each.parts for each in _series(drawn, period, named.__getitem__)}
    made.keys.extend(msgspec.structs.replace(each, parts=steps.get(each.id, [])) for each in found)
    if keys is Keys.STEPS and len(found) >= MOST_SERIES:
        made.keys[MOST_SERIES - 1].parts.extend(_rest(made.total, drawn, period))
    return made


def _total(by_price: Cells, period: Period) -> Series:
    total = _series(by_price, period, lambda _: ("", "Total"))
    return total[0] if total else Series("", "Total", Sums(), [])


def _by_model(by_price: Cells, period: Period, models: dict[int, str]) -> list[Series]:
    return _series(by_price, period, lambda version: (models.get(version, ""), models.get(version) or NO_MODEL))


def _names(keys: list[AccountKey], used: Iterable[int]) -> dict[int, tuple[str, str]]:
    """The public id and the name of each key that was used."""
    there = {key.id: (key.public_id, key.name) for key in keys}
    return {key_id: there.get(key_id, ("", GONE_KEY)) for key_id in used}


def _rest(total: Series, drawn: Cells, period: Period) -> list[tuple[int, Sums]]:
    """The steps of everything but what is drawn by itself."""
    every, shown = _steps(total, period), [Sums() for _ in range(period.since, period.until, period.step)]
    for (start, _), each in drawn.items():
        shown[(start - period.since) // period.step].add(each)
    return [(number, all_.less(some)) for number, (all_, some) in enumerate(zip(every, shown, strict=True))]


def lines(series: list[Series], period: Period) -> list[Line]:
    """At most `MOST_SERIES` lines: the excess is folded into one, the last."""
    if len(series) > MOST_SERIES:
        rest = [part for each in series[MOST_SERIES - 1 :] for part in each.parts]
        series = [*series[: MOST_SERIES - 1], Series("", REST, Sums(), rest)]
    return [Line(each.label, _steps(each, period)) for each in series]


def _steps(series: Series, period: Period) -> list[Sums]:
    steps = [Sums() for _ in range(period.since, period.until, period.step)]
    for number, each in series.parts:
        steps[number].add(each)
    return steps


def _series(sums: Cells, period: Period, name: Callable[[int], tuple[str, str]]) -> list[Series]:
    made: dict[str, Series] = {}
    for (start, group), each in sums.items():
        id_, label = name(group)
        series = made.get(id_)
        if series is None:
            series = made[id_] = Series(id_, label, Sums(), [])
        series.total.add(each)
        series.parts.append(((start - period.since) // period.step, each))
    return sorted(made.values(), key=lambda each: (-each.total.charge, -each.total.requests, each.label))
