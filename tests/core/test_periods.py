from datetime import UTC, datetime, timedelta

import pytest

from tollbridge.core.periods import Reset, began, counts, day_text, ends, month, time_text


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("reset", "now", "begun", "ended"),
    [
        (Reset.DAILY, "2024-02-29T23:59:59.999", "2024-02-29", "2024-03-01"),
        (Reset.WEEKLY, "2026-11-22T23:59:59.999", "2026-11-16", "2026-11-23"),
        (Reset.WEEKLY, "2026-11-23T00:00:00", "2026-11-23", "2026-11-30"),
        (Reset.WEEKLY, "1970-01-01T00:00:00", "1969-12-29", "1970-01-05"),
        (Reset.MONTHLY, "2024-02-29T12:00:00", "2024-02-01", "2024-03-01"),
        (Reset.MONTHLY, "2026-12-31T23:59:59.999", "2026-12-01", "2027-01-01"),
        (Reset.MONTHLY, "2026-10-25T02:30:00", "2026-10-01", "2026-11-01"),
    ],
)
def test_a_period_begins_and_ends_at_midnight_in_utc(reset: Reset, now: str, begun: str, ended: str) -> None:
    assert (began(reset, at(now)), ends(reset, at(now))) == (at(begun), at(ended))


def test_a_hundred_years_of_days_agree_with_the_calendar() -> None:
    day = datetime(1970, 1, 1, tzinfo=UTC)
    for _ in range(36_525):
        now = int(day.timestamp()) * 1000 + 86_399_999
        assert began(Reset.DAILY, now) == int(day.timestamp()) * 1000
        assert began(Reset.WEEKLY, now) == int((day - timedelta(days=day.weekday())).timestamp()) * 1000
        assert began(Reset.MONTHLY, now) == int(day.replace(day=1).timestamp()) * 1000
        assert month(now) == int(f"{day:%Y%m}")
        day += timedelta(days=1)


@pytest.mark.parametrize(
    ("reset", "now", "counted"),
    [
        (None, "2030-01-01", 5),
        (Reset.DAILY, "2026-11-22T23:59:59.999", 5),
        (Reset.DAILY, "2026-11-23", 0),
        (Reset.WEEKLY, "2026-11-22T23:59:59.999", 5),
        (Reset.WEEKLY, "2026-11-23", 0),
        (Reset.MONTHLY, "2026-11-30T23:59:59.999", 5),
        (Reset.MONTHLY, "2026-12-01", 0),
    ],
)
def test_what_was_spent_counts_until_the_limit_begins_anew(reset: Reset | None, now: str, counted: int) -> None:
    assert counts(5, reset, at("2026-11-22T16:00"), at(now)) == counted


@pytest.mark.parametrize("reset", list(Reset))
def test_what_was_spent_from_the_first_moment_of_a_period_counts_in_it(reset: Reset) -> None:
    begun = began(reset, at("2026-11-22T16:00"))
    assert counts(5, reset, begun, begun) == counts(5, reset, begun, ends(reset, begun) - 1) == 5


def test_days_and_times_are_written_in_utc() -> None:
    last = at("2026-12-31T23:59:59.999")
    assert (day_text(last), time_text(last)) == ("2026-12-31", "2026-12-31T23:59:59Z")
    assert (day_text(last + 1), time_text(last + 1)) == ("2027-01-01", "2027-01-01T00:00:00Z")
    assert (day_text(0), day_text(-1)) == ("1970-01-01", "1969-12-31")
