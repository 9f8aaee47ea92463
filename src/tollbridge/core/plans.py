"""What a plan allows, and what was agreed with one account on top of it."""

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Protocol

import msgspec

from tollbridge.core.money import format_usd
from tollbridge.core.words import plural
from tollbridge.values import DAY_MS, FOR_EVER, Model

# The plan of an account that was given no other.
DEFAULT_PLAN = "default"
_YEAR_10000 = 253_402_300_800_000
_COUNTED = {
    "rpm": ("request a minute", "requests a minute"),
    "tpm": ("token a minute", "tokens a minute"),
    "concurrency": ("call at once", "calls at once"),
    "included_tokens": ("token included a month", "tokens included a month"),
}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What its accounts may do, and what they pay. Amounts are nano-USD, times milliseconds since the epoch, UTC.

    `rpm`, `tpm`, `concurrency`: None is no limit. `models`: patterns (`*`, `deepseek-*`) of what may be called.
    `included_tokens` and `included_credit` are granted anew each month. `markup_ppm`: what prices are multiplied by;
    None: by the deployment's markup. `cost_cap`: the most that one request may cost. Outside of `since` to `until` the
    plan is not in effect. `shadow`: its limits refuse nobody; what they would have refused is counted.
    `title`, `description` and `price` (per month) are for pages, which show plans that are `listed`.
    `by_agreement`: limits that it leaves open are agreed with each account; they are not unlimited.
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
    """What was agreed with one account: from `since` to `until`, each value that is set overrides the plan's."""

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
        """`"500 requests a minute, until 2027-06-30"`: for people; dates only if there are any."""
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
    """The plan in effect for an account on `plan` at `now` (milliseconds): `fallback` outside of the plan's dates."""
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


class _Named(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...


def matches(patterns: tuple[str, ...], model: _Named) -> bool:
    """Whether one of `patterns` matches the model's id or one of its aliases."""
    if patterns == ("*",):
        return True
    return any(fnmatchcase(name, pattern) for name in (model.id, *model.aliases) for pattern in patterns)
