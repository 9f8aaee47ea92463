"""What an account used: totals, over time, by model and by key. Exact when asked (`store.rollups`)."""

from collections.abc import Callable

import msgspec

from tollbridge.store import managed_keys, prices, rollups
from tollbridge.store.db import Database
from tollbridge.store.managed_keys import ManagedKey
from tollbridge.store.rollups import Period, Sums, Used
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

    `parts`: sums by the number of their step, in no order, several for a step or none.
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
    """`total` is the sum of `models`, and of `keys`; both are sorted, most expensive first."""

    period: Period
    total: Series
    models: list[Series]
    keys: list[Series]

    @property
    def starts(self) -> list[int]:
        """When each step begins, in milliseconds."""
        return list(range(self.period.since, self.period.until, self.period.step))


async def report(database: Database, account_id: int, period: Period) -> Report:
    used = await rollups.read(database, account_id, period)
    models = await prices.models(database, (version for _, version in used.by_price))
    keys = await managed_keys.of_account(database, account_id)
    return arrange(used, period, models, {key.id: key for key in keys})


def arrange(used: Used, period: Period, models: dict[int, str], keys: dict[int, ManagedKey]) -> Report:
    """The report, from sums and the names of price versions and keys."""

    def of_version(version: int) -> tuple[str, str]:
        model = models.get(version, "")
        return model, model or NO_MODEL

    def of_key(key_id: int) -> tuple[str, str]:
        key = keys.get(key_id)
        return (key.public_id, key.name) if key is not None else ("", GONE_KEY)

    total = _series(used.by_price, period, lambda _: ("", "Total"))
    return Report(
        period,
        total[0] if total else Series("", "Total", Sums(), []),
        _series(used.by_price, period, of_version),
        _series(used.by_key, period, of_key),
    )


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


def _series(sums: dict[tuple[int, int], Sums], period: Period, name: Callable[[int], tuple[str, str]]) -> list[Series]:
    made: dict[str, Series] = {}
    for (start, group), each in sums.items():
        id_, label = name(group)
        series = made.get(id_)
        if series is None:
            series = made[id_] = Series(id_, label, Sums(), [])
        series.total.add(each)
        series.parts.append(((start - period.since) // period.step, each))
    return sorted(made.values(), key=lambda each: (-each.total.charge, -each.total.requests, each.label))
