"""What a plan allows, and what was agreed with one account beside it."""

from datetime import UTC, datetime
from fnmatch import fnmatchcase

import msgspec

from tollbridge.core.money import format_usd
from tollbridge.core.words import plural
from tollbridge.values import DAY_MS, Model

# An account's plan when nothing else was said.
DEFAULT_PLAN = "default"
FOR_EVER = 1 << 62
_YEAR_10000 = 253_402_300_800_000
_COUNTED = {
    "rpm": ("request a minute", "requests a minute"),
    "tpm": ("token a minute", "tokens a minute"),
    "concurrency": ("call at once", "calls at once"),
    "included_tokens": ("token included a month", "tokens included a month"),
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What accounts on it may do, and what they pay. Amounts are nano-USD, times milliseconds since the epoch, UTC.

    `rpm`, `tpm`, `concurrency`: None is no limit. `models`: patterns (`*`, `deepseek-*`) of what may be called.
    `included_tokens` and `included_credit` are had anew each month. `markup_ppm` is what prices are multiplied by in
    place of the deployment's; None: that. `cost_cap`: the most that one request may cost. Outside of `since` to
    `until` the plan is not in effect. `shadow`: who would be limited is counted, and nobody is.
    `title`, `description` and `price` (a month) are for pages, which show what is `listed`.
    `by_agreement`: what it leaves open is agreed with each account, and not without limit.
    """

    name: str
    title: str | None = None
    description: str | None = None
    price: int | None = msgspec.field(name="price_usd", default=None)
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    strict: bool = False
    models: tuple[str, ...] = ("*",)
    included_tokens: int = 0
    included_credit: int = msgspec.field(name="included_credit_usd", default=0)
    markup_ppm: int | None = msgspec.field(name="markup_percent", default=None)
    cost_cap: int | None = msgspec.field(name="cost_cap_usd", default=None)
    since: int = msgspec.field(name="from", default=0)
    until: int = FOR_EVER
    shadow: bool = False
    listed: bool = True
    by_agreement: bool = False

    def allows(self, model: Model) -> bool:
        return matches(self.models, model)

    def applies(self, now: int) -> bool:
        return self.since <= now < self.until


class Agreed(msgspec.Struct, frozen=True, kw_only=True):
    """What was agreed with one account: from `since` to `until` this counts where its plan says otherwise."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None
    included_tokens: int | None = None
    cost_cap: int | None = None
    since: int = 0
    until: int = FOR_EVER

    def applies(self, now: int) -> bool:
        return self.since <= now < self.until

    def describe(self) -> str:
        """`"500 requests a minute, until 2027-06-30"`: for people, dates only where there are some."""
        said = [plural(value, *what) for name, what in _COUNTED.items() if (value := getattr(self, name)) is not None]
        if self.cost_cap is not None:
            said.append(f"at most {format_usd(self.cost_cap)} USD a request")
        if self.since > 0:
            said.append(f"from {_moment(self.since)}")
        if self.until < _YEAR_10000:
            said.append(f"until {_moment(self.until)}")
        return ", ".join(said)


def _moment(at: int) -> str:
    moment = datetime.fromtimestamp(min(at, _YEAR_10000 - 1) / 1000, UTC)
    midnight = at % DAY_MS == 0
    return f"{moment:%Y-%m-%d}" if midnight else f"{moment:%Y-%m-%dT%H:%M}Z"


def in_effect(plan: Plan, fallback: Plan, agreed: Agreed | None, now: int) -> Plan:
    """What an account on `plan` may do at `now` (milliseconds): outside of the plan's dates, what `fallback` allows."""
    if not plan.applies(now):
        plan = fallback
    if agreed is None or not agreed.applies(now):
        return plan
    return msgspec.structs.replace(
        plan,
        rpm=plan.rpm if agreed.rpm is None else agreed.rpm,
        tpm=plan.tpm if agreed.tpm is None else agreed.tpm,
        concurrency=plan.concurrency if agreed.concurrency is None else agreed.concurrency,
        included_tokens=plan.included_tokens if agreed.included_tokens is None else agreed.included_tokens,
        cost_cap=plan.cost_cap if agreed.cost_cap is None else agreed.cost_cap,
    )


def matches(patterns: tuple[str, ...], model: Model) -> bool:
    """Whether one of `patterns` is like a name that the model can be called by."""
    if patterns == ("*",):
        return True
    return any(fnmatchcase(name, pattern) for name in (model.id, *model.aliases) for pattern in patterns)
