"""The account's plan: what it allows, how it compares, and changing it."""

from collections.abc import Mapping

from starlette.responses import Response

from tollbridge.config import Settings
from tollbridge.core.plans import DEFAULT_PLAN, Agreed, Plan, in_effect
from tollbridge.services import plans
from tollbridge.store import accounts
from tollbridge.web.billing import BILLING
from tollbridge.web.forms import Form
from tollbridge.web.page import PAYER, Page
from tollbridge.web.visit import Visit


async def plan(visit: Visit) -> Response:
    return await _plan(visit, Form())


async def _plan(visit: Visit, form: Form, status: int = 200) -> Response:
    shared, account = visit.shared, visit.account
    agreed = await accounts.agreed_with(shared.database, account.id)
    every = shared.settings.plans
    mine = every.get(account.plan, every[DEFAULT_PLAN])
    return visit.render(
        "billing/plan.html",
        status=status,
        form=form,
        mine=mine,
        now_in_effect=in_effect(mine, every[DEFAULT_PLAN], agreed, visit.now),
        agreed=agreed,
        choosable=choosable(shared.settings, agreed, visit.now),
        shown=shown(every, mine, visit.now),
        default=DEFAULT_PLAN,
        saved=bool(visit.query("saved")),
    )


async def change(visit: Visit) -> Response:
    form = await visit.form()
    database, settings = visit.shared.database, visit.shared.settings
    agreed = await accounts.agreed_with(database, visit.account.id)
    if form["plan"] not in choosable(settings, agreed, visit.now):
        form.problem = "This plan is made by arrangement: write to the operator."
        return await _plan(visit, form, 400)
    await plans.change_plan(database, visit.account, form["plan"], settings.plans, actor=visit.actor.name)
    return visit.redirect(f"{BILLING}/plan?saved=1")


def choosable(settings: Settings, agreed: Agreed | None, now: int) -> list[str]:
    """Plans to which customers may change by themselves; none where limits were agreed, which a change would end."""
    if agreed is not None:
        return []
    named = (settings.plans.get(name) for name in settings.billing.customer_plans)
    return [each.name for each in named if each is not None and not each.price and each.applies(now)]


def shown(every: Mapping[str, Plan], mine: Plan, now: int) -> list[Plan]:
    """The plans to compare: what is offered, and the account's own."""
    offered = [each for each in every.values() if each.listed and each.applies(now) and each.name != DEFAULT_PLAN]
    return offered if mine in offered else [mine, *offered]


PAGES = (
    Page("GET", f"{BILLING}/plan", PAYER, plan),
    Page("POST", f"{BILLING}/plan", PAYER, change),
)
