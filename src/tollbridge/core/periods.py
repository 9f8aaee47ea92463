"""Days, weeks and months in UTC: when limits and allowances renew, and how books name them. Times are milliseconds
since the epoch."""

from datetime import UTC, date, datetime
from enum import StrEnum

from tollbridge.values import DAY_MS

_EPOCH = date(1970, 1, 1).toordinal()
# 1 January 1970 was a Thursday, three days after a Monday.
_AFTER_MONDAY = 3


class Reset(StrEnum):
    """How often a limit starts over."""

    DAILY = "daily"
    WEEKLY = "weekly"
    MONTHLY = "monthly"


def began(reset: Reset, now: int) -> int:
    """When the day, the week (on Monday) or the month of `now` began."""
    day = now // DAY_MS
    if reset is Reset.WEEKLY:
        day -= (day + _AFTER_MONDAY) % 7
    elif reset is Reset.MONTHLY:
        day -= date.fromordinal(day + _EPOCH).day - 1
    return day * DAY_MS


def ends(reset: Reset, now: int) -> int:
    """When the next day, week or month begins."""
    longest = {Reset.DAILY: 1, Reset.WEEKLY: 7, Reset.MONTHLY: 31}[reset]
    # The longest possible length after this one began, we are in the next one for certain, and never beyond it.
    return began(reset, began(reset, now) + longest * DAY_MS)


def counts(spent: int, reset: Reset | None, since: int, now: int) -> int:
    """How much of what was `spent` from `since` on counts at `now`: nothing once the limit has started over."""
    return 0 if reset is not None and began(reset, now) > since else spent


def month(now: int) -> int:
    """The month of `now` as a readable number: 202701."""
    day = date.fromordinal(now // DAY_MS + _EPOCH)
    return day.year * 100 + day.month


def day_text(at: int) -> str:
    """`2027-01-31`."""
    return date.fromordinal(at // DAY_MS + _EPOCH).isoformat()


def time_text(at: int) -> str:
    """`2027-01-31T18:00:59Z`."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
