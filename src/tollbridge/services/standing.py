"""Where an account stands now: its plan, and how much of it is left."""

from collections.abc import Mapping

import msgspec

from tollbridge.core.periods import month
from tollbridge.core.plans import DEFAULT_PLAN, Plan, in_effect
from tollbridge.limits.base import Limiter, Room, Rule, Scope
from tollbridge.store import accounts, lookups
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """`plan` as it is in effect. None: not limited. `included_left`: tokens left of this month's."""

    plan: Plan
    requests: Room | None = None
    tokens: Room | None = None
    included_left: int | None = None


async def standing(database: Database, limiter: Limiter, plans: Mapping[str, Plan], account: Account) -> Standing:
    """Asks the limiter without taking anything from it."""
    now = await database.now()
    fallback = plans[DEFAULT_PLAN]
    agreed = await accounts.agreed_with(database, account.id)
    plan = in_effect(plans.get(account.plan) or fallback, fallback, agreed, now)
    rule = Rule(requests=plan.rpm, tokens=plan.tpm, concurrency=plan.concurrency, strict=plan.strict)
    found = await limiter.look((Scope(f"account/{account.id}", rule),), 0, 0)
    left = None
    if plan.included_tokens:
        left = max(0, plan.included_tokens - await lookups.allowance_used(database, account.id, month(now)))
    return Standing(plan=plan, requests=found.requests_room, tokens=found.tokens_room, included_left=left)
