"""A plan that is paid for by the month, and what follows from what its processor says of it.

Rule 1  A month counts once its payment is in the books, as payments do (`core.payments`): what a processor says of a
        subscription alone gives nothing.
Rule 2  The plan is had until what was paid for is over, and for a time of grace beyond while the processor tries to
        have the next month paid.
Rule 3  What has ended stays ended: whoever wants the plan again orders it again.
"""

from datetime import date
from enum import StrEnum

import msgspec

from tollbridge.values import DAY_MS

HOUR_MS = 3_600_000
EPOCH = date(1970, 1, 1).toordinal()
# How often a processor is asked: for an order that waits to be paid, and for what should have happened by now.
ASK_SOON_MS = 5 * 60_000


class Stage(StrEnum):
    """How far a subscription is. Nothing follows on the last two."""

    PENDING = "pending"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    ENDED = "ended"
    ABANDONED = "abandoned"  # nothing was ever paid


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `subscription`. `amount` is nano-USD a month before tax, times are milliseconds.

    `session` and `external_id` are the processor's: of the page on which it was ordered, and its own. `paid_until`:
    the end of the last month that was paid. `ending`: it ends then.
    """

    id: int
    public_id: str
    account_id: int
    method: str
    plan: str
    amount: int
    currency: str
    stage: Stage
    session: str | None
    external_id: str | None
    url: str | None
    paid_until: int | None
    ending: bool
    created_at: int
    ended_at: int | None
    check_at: int | None

    @property
    def runs(self) -> bool:
        """Whether its plan is had."""
        return self.stage in {Stage.ACTIVE, Stage.PAST_DUE}


class Bill(msgspec.Struct, frozen=True):
    """A month that the processor says was paid: its invoice, and when the month ends."""

    external_id: str
    until: int


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription as its processor has it now. `late`: it tries to have a month paid that is due."""

    external_id: str | None
    over: bool
    late: bool = False
    ending: bool = False
    bills: tuple[Bill, ...] = ()


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What to write. `begins`, `ends`: the account gets or loses the plan. `warns`: a month could not be paid.

    `stop`: the processor is to have nothing paid any more.
    """

    subscription: Subscription
    begins: bool = False
    ends: bool = False
    warns: bool = False
    stop: bool = False


def turn(subscription: Subscription, heard: Heard, paid_until: int | None, now: int, grace: int) -> Turn:
    """What follows. `paid_until`: how far the months reach that are in the books; `grace` in milliseconds."""
    again = None if heard.over else now + ASK_SOON_MS
    if subscription.ended_at is not None:
        return Turn(subscription=msgspec.structs.replace(subscription, check_at=again), stop=not heard.over)
    until = max((each for each in (subscription.paid_until, paid_until) if each is not None), default=None)
    stage = _stage(heard, until, now, grace)
    closed = stage in {Stage.ENDED, Stage.ABANDONED}
    after = msgspec.structs.replace(
        subscription,
        stage=stage,
        external_id=subscription.external_id or heard.external_id,
        paid_until=until,
        ending=heard.ending,
        ended_at=now if closed else None,
        check_at=again if closed else _ask_at(stage, until, now),
    )
    return Turn(
        subscription=after,
        begins=after.runs and not subscription.runs,
        ends=stage is Stage.ENDED and subscription.runs,
        warns=stage is Stage.PAST_DUE and subscription.stage is not Stage.PAST_DUE,
        stop=closed and not heard.over,
    )


def month_after(time: int) -> int:
    """The same time of the same day a month later (UTC, milliseconds); the month's last day where it is shorter."""
    day, clock = divmod(time, DAY_MS)
    began = date.fromordinal(day + EPOCH)
    month = began.year * 12 + began.month
    first, next_first = (date(each // 12, each % 12 + 1, 1).toordinal() for each in (month, month + 1))
    return (min(first + began.day, next_first) - 1 - EPOCH) * DAY_MS + clock


def _stage(heard: Heard, until: int | None, now: int, grace: int) -> Stage:
    if until is None:
        return Stage.ABANDONED if heard.over else Stage.PENDING
    if heard.over or now >= until + (0 if heard.ending else grace):
        return Stage.ENDED
    return Stage.PAST_DUE if heard.late else Stage.ACTIVE


def _ask_at(stage: Stage, until: int | None, now: int) -> int:
    if until is None:
        return now + ASK_SOON_MS
    # A processor takes about an hour from a month's beginning to having it paid.
    soonest = now + HOUR_MS
    return soonest if stage is Stage.PAST_DUE else max(soonest, until)
