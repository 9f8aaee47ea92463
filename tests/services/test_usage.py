"""Reports of usage: arranged from sums, named, the dearest first, folded where there are many."""

from typing import Any

from tollbridge.services import usage
from tollbridge.services.usage import GONE_KEY, MOST_SERIES, NO_MODEL, RANGES, REST, arrange, lines
from tollbridge.store.managed_keys import ManagedKey
from tollbridge.store.rollups import Period, Sums, Used
from tollbridge.values import DAY_MS, HOUR_MS

PERIOD = Period(10 * DAY_MS, 13 * DAY_MS, DAY_MS)


def key(id_: int, label: str) -> ManagedKey:
    nothing = dict.fromkeys(ManagedKey.__struct_fields__)
    fields: dict[str, Any] = {
        **nothing,
        "id": id_,
        "public_id": f"key_{id_}",
        "hint": "tb_…x",
        "label": label,
        "created_at": 0,
    }
    return ManagedKey(**fields)


def sums(charge: int) -> Sums:
    return Sums(requests=1, charge=charge)


def test_models_and_keys_sum_to_the_total() -> None:
    by_price = {
        (10 * DAY_MS, 1): sums(5),
        (12 * DAY_MS, 1): sums(1),
        (12 * DAY_MS, 2): sums(2),
        (12 * DAY_MS, 3): sums(9),
    }
    by_key = {(10 * DAY_MS, 7): sums(5), (12 * DAY_MS, 8): sums(12)}
    # Versions 1 and 2 are two prices of one model; key 8 is not there any more.
    report = arrange(Used(by_price, by_key), PERIOD, {1: "m", 2: "m"}, {7: key(7, "")})
    assert report.starts == [10 * DAY_MS, 11 * DAY_MS, 12 * DAY_MS]
    assert [step.charge for step in lines([report.total], PERIOD)[0].steps] == [5, 0, 12]
    assert [(each.id, each.label, each.total.charge) for each in report.models] == [("", NO_MODEL, 9), ("m", "m", 8)]
    assert [(each.id, each.label, each.total.charge) for each in report.keys] == [
        ("", GONE_KEY, 12),
        ("key_7", "tb_…x", 5),
    ]
    assert report.total.total.requests == 4


def test_nothing_used_is_a_report_too() -> None:
    report = arrange(Used({}, {}), PERIOD, {}, {})
    assert report.total.total == Sums()
    assert [each.steps for each in lines([report.total], PERIOD)] == [[Sums()] * 3]
    assert report.models == report.keys == []


def test_what_is_too_much_for_a_chart_is_one_series() -> None:
    count = MOST_SERIES + 4
    by_price = {(12 * DAY_MS, version): sums(version) for version in range(1, count + 1)}
    report = arrange(Used(by_price, {}), PERIOD, {version: f"m{version}" for version in range(1, count + 1)}, {})
    drawn = lines(report.models, PERIOD)
    assert [each.label for each in drawn] == [*(f"m{count - index}" for index in range(MOST_SERIES - 1)), REST]
    assert [[step.charge for step in each.steps] for each in drawn[:-1]] == [
        [0, 0, count - index] for index in range(MOST_SERIES - 1)
    ]
    assert [step.charge for step in drawn[-1].steps] == [0, 0, 1 + 2 + 3 + 4 + 5]
    assert [each.label for each in lines(report.models[:MOST_SERIES], PERIOD)][-1] == f"m{count - MOST_SERIES + 1}"


def test_a_period_ends_with_the_step_that_has_begun() -> None:
    now = 100 * DAY_MS + 5 * HOUR_MS + 1
    assert RANGES["24h"].period(now) == Period(100 * DAY_MS + 6 * HOUR_MS - DAY_MS, 100 * DAY_MS + 6 * HOUR_MS, HOUR_MS)
    for each in usage.RANGES.values():
        period = each.period(now)
        assert period.since % period.step == 0
        assert period.until - period.step <= now < period.until
