"""What follows from what a processor says of a subscription."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from tollbridge.core.subscriptions import ASK_SOON_MS, Heard, Stage, Subscription, month_after, turn
from tollbridge.values import HOUR_MS

DAY_MS = 24 * HOUR_MS
GRACE = 7 * DAY_MS
NOW = 1_800_000_000_000
NEW = Subscription(
    id=1, public_id="plan_1", account_id=1, method="stripe", plan="pro", amount=20, currency="usd",
    stage=Stage.PENDING, session="cs_1", external_id=None, url=None, paid_until=None, ending=False, created_at=NOW,
    ended_at=None, check_at=NOW,
)  # fmt: skip
RUNS = msgspec.structs.replace(NEW, stage=Stage.ACTIVE, external_id="sub_1", paid_until=NOW)


def heard(**said: Any) -> Heard:
    return Heard(**{"external_id": "sub_1", "over": False, **said})


@pytest.mark.parametrize(
    ("before", "said", "paid", "later", "stage", "effects"),
    [
        (NEW, {}, None, 0, Stage.PENDING, ""),
        (NEW, {"over": True}, None, 0, Stage.ABANDONED, ""),
        (NEW, {"late": True}, None, 0, Stage.PENDING, ""),
        (NEW, {}, NOW + 30 * DAY_MS, 0, Stage.ACTIVE, "begins"),
        (NEW, {"over": True}, NOW + 30 * DAY_MS, 0, Stage.ENDED, ""),
        (RUNS, {}, None, GRACE - 1, Stage.ACTIVE, ""),
        (RUNS, {"late": True}, None, 1, Stage.PAST_DUE, "warns"),
        (RUNS, {"late": True}, None, GRACE, Stage.ENDED, "ends stop"),
        (RUNS, {}, None, GRACE, Stage.ENDED, "ends stop"),
        (RUNS, {"late": True}, NOW + 30 * DAY_MS, GRACE, Stage.PAST_DUE, "warns"),
        (RUNS, {"over": True}, None, -DAY_MS, Stage.ENDED, "ends"),
        (RUNS, {"ending": True}, None, -1, Stage.ACTIVE, ""),
        (RUNS, {"ending": True}, None, 0, Stage.ENDED, "ends stop"),
    ],
)
def test_what_was_paid_and_what_is_said_decide(
    before: Subscription, said: dict[str, Any], paid: int | None, later: int, stage: Stage, effects: str
) -> None:
    done = turn(before, heard(**said), paid, NOW + later, GRACE)
    assert done.subscription.stage is stage
    names = ("begins", "ends", "warns", "stop")
    assert [name for name in names if getattr(done, name)] == effects.split()
    assert (done.subscription.ended_at is None) is (stage not in {Stage.ENDED, Stage.ABANDONED})


def test_a_late_month_is_told_of_once_and_an_old_report_takes_no_month_back() -> None:
    late = turn(RUNS, heard(late=True), None, NOW + 1, GRACE).subscription
    assert not turn(late, heard(late=True), None, NOW + 2, GRACE).warns
    longer = turn(late, heard(), NOW + 30 * DAY_MS, NOW + 3, GRACE).subscription
    assert turn(longer, heard(late=True), NOW, NOW + 4, GRACE).subscription.paid_until == NOW + 30 * DAY_MS


def test_what_has_ended_stays_ended_and_is_stopped_until_it_is_over() -> None:
    ended = turn(RUNS, heard(late=True), None, NOW + GRACE, GRACE).subscription
    assert ended.check_at == NOW + GRACE + ASK_SOON_MS
    again = turn(ended, heard(), NOW + 99 * DAY_MS, NOW + GRACE, GRACE)
    assert (again.stop, again.begins, again.subscription.stage) == (True, False, Stage.ENDED)
    over = turn(ended, heard(over=True), None, NOW + GRACE, GRACE)
    assert (over.stop, over.subscription.check_at) == (False, None)


@pytest.mark.parametrize(
    ("before", "said", "later", "wait"),
    [
        # Nothing is paid yet.
        (NEW, {}, 0, ASK_SOON_MS),
        # The next month is due when the paid one ends, and its payment takes a while.
        (RUNS, {}, -30 * DAY_MS, 30 * DAY_MS),
        (RUNS, {}, -1, HOUR_MS),
        (RUNS, {}, 1, HOUR_MS),
        (RUNS, {"late": True}, -30 * DAY_MS, HOUR_MS),
        # Not yet over there, although it is here.
        (RUNS, {}, GRACE, ASK_SOON_MS),
    ],
)
def test_a_processor_is_asked_again_when_something_should_have_happened(
    before: Subscription, said: dict[str, Any], later: int, wait: int
) -> None:
    now = NOW + later
    assert turn(before, heard(**said), None, now, GRACE).subscription.check_at == now + wait


def test_a_subscription_keeps_the_first_id_that_its_processor_gave_it() -> None:
    known = turn(NEW, heard(), None, NOW, GRACE).subscription
    assert known.external_id == "sub_1"
    for later in (None, "sub_2"):
        assert turn(known, heard(external_id=later), None, NOW, GRACE).subscription.external_id == "sub_1"


@pytest.mark.parametrize("day", [1, 28, 29, 30, 31])
def test_two_hundred_months_follow_on_each_other(day: int) -> None:
    """A19: whatever day, over leap years, and where clocks change."""
    at = datetime(2024, 1, day, 2, 30, 15, tzinfo=UTC)
    time = int(at.timestamp()) * 1000
    for number in range(1, 201):
        time = month_after(time)
        found = datetime.fromtimestamp(time / 1000, UTC)
        assert (found.year, found.month) == (2024 + number // 12, number % 12 + 1)
        assert (found.hour, found.minute, found.second) == (2, 30, 15)
        assert found.day <= day
        assert found.day >= min(day, 28)
