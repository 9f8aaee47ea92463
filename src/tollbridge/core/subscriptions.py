"""A plan that is paid for by the month, and what follows from what its processor says about it.

Rule 1  A month counts once its payment is in the books, like any payment (`core.payments`): what a processor says about
        a subscription gives nothing by itself.
Rule 2  The account has the plan until the end of what was paid for, and for a time of grace after that while the
        processor tries to collect the next month.
Rule 3  What has ended stays ended: a customer who wants the plan again orders it again.
"""

from datetime import date
from enum import StrEnum

import msgspec

from tollbridge.values import DAY_MS, HOUR_MS, MINUTE_MS

EPOCH = date(1970, 1, 1).toordinal()
# How often a processor is asked about an order that waits to be paid, and about what should have happened by now.
ASK_SOON_MS = 5 * MINUTE_MS


class Stage(StrEnum):
    """How far a subscription is. The last two are final."""

    PENDING = "pending"
    ACTIVE = "active"
    PAST_DUE = "past_due"
    ENDED = "ended"
    ABANDONED = "abandoned"  # nothing was ever paid


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `subscription`. `amount` is nano-USD per month before tax, times are milliseconds since the epoch.

    `session` and `external_id` are the processor's ids: of the page on which it was ordered, and of the subscription.
    `paid_until`: the end of the last month that was paid. `ending`: it ends then.
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
        """Whether the account has its plan."""
        return self.stage in {Stage.ACTIVE, Stage.PAST_DUE}


class Bill(msgspec.Struct, frozen=True):
    """A month that was paid, according to the processor: its invoice, and when the month ends."""

    external_id: str
    until: int


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription as its processor has it now. `late`: a month is due that it is still trying to collect."""

    external_id: str | None
    over: bool
    late: bool = False
    ending: bool = False
    bills: tuple[Bill, ...] = ()


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What to write. `begins`, `ends`: the account gets or loses the plan. `warns`: a month could not be collected.

    `stop`: the processor must stop collecting.
    """

    subscription: Subscription
    begins: bool = False
    ends: bool = False
    warns: bool = False
    stop: bool = False


def turn(subscription: Subscription, heard: Heard, paid_until: int | None, now: int, grace: int) -> Turn:
    """What follows. `paid_until`: the end of the last month that is in the books; `grace`: milliseconds."""
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
    """The same time of the same day a month later (UTC, milliseconds), or of the last day of a shorter month."""
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
    # A processor takes about an hour from the beginning of a month to collecting it.
    soonest = now + HOUR_MS
    return soonest if stage is Stage.PAST_DUE else max(soonest, until)
