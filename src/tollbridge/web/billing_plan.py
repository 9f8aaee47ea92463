"""The account's plan: what it allows, how it compares, changing it, and paying for it by the month."""

from collections.abc import Mapping

from starlette.responses import Response

from tollbridge.config import Settings
from tollbridge.core.plans import DEFAULT_PLAN, Agreed, Plan, in_effect
from tollbridge.core.subscriptions import Subscription
from tollbridge.errors import InvalidRequest
from tollbridge.services import plans
from tollbridge.store import accounts, subscriptions
from tollbridge.store.accounts import Account
from tollbridge.store.db import Transaction
from tollbridge.web.billing import BILLING
from tollbridge.web.forms import Form
from tollbridge.web.page import PAYER, Page
from tollbridge.web.visit import Visit

PLAN = f"{BILLING}/plan"
NOT_CHOOSABLE = "This plan is by arrangement: write to the operator."
SAVED = {
    "changed": "The plan is changed. It applies from the next call.",
    "cancelled": "Your plan is cancelled: nothing more is charged. You keep it until the time you paid for is over.",
    "resumed": "Your plan goes on.",
}


async def plan(visit: Visit) -> Response:
    return await _plan(visit, Form())


async def _plan(visit: Visit, form: Form, status: int = 200) -> Response:
    shared = visit.shared
    bought = shared.payments().subscriptions
    subscription = await bought.look(visit.account)
    # Read after the look, which may have given it its plan.
    account = await accounts.known(shared.database, visit.account.id)
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
        choosable=choosable(shared.settings, agreed, subscription, visit.now),
        sold=[] if agreed is not None or _runs(subscription) else bought.offered(visit.now),
        subscription=subscription,
        subscribed=every.get(subscription.plan) if subscription is not None else None,
        shown=shown(every, mine, shared.settings.billing.signup_plan, visit.now),
        default=DEFAULT_PLAN,
        saved=SAVED.get(visit.query("saved"), ""),
    )


async def change(visit: Visit) -> Response:
    form = await visit.form()
    settings = visit.shared.settings

    async def check(transaction: Transaction, account: Account, agreed: Agreed | None) -> None:
        # A plan that is being paid for at this very moment must not be lost.
        subscription = await subscriptions.open_of(transaction, account.id)
        if form["plan"] not in choosable(settings, agreed, subscription, visit.now):
            raise InvalidRequest(NOT_CHOOSABLE)

    try:
        await plans.change_plan(
            visit.shared.database,
            visit.account,
            form["plan"],
            settings.plans,
            actor=visit.actor.name,
            address=visit.actor.address,
            check=check,
        )
    except InvalidRequest:
        # The message about a plan that does not exist must not list the others either.
        form.problem = NOT_CHOOSABLE
        return await _plan(visit, form, 400)
    return visit.redirect(f"{PLAN}?saved=changed")


async def subscribe(visit: Visit) -> Response:
    """Go on to the payment of the first month; the same form sent twice is one order."""
    form = await visit.form()
    try:
        begun = await visit.shared.payments().subscriptions.start(visit.account, form["plan"])
    except InvalidRequest as error:
        form.problem = str(error)
        return await _plan(visit, form, error.status)
    await visit.note("subscription.ordered", begun.plan)
    return visit.redirect(begun.url or PLAN)


async def pay_demo(visit: Visit) -> Response:
    visit.check_demo_payment()
    await visit.shared.payments().subscriptions.pay_demo(visit.account)
    return visit.redirect(f"{PLAN}?saved=changed")


async def cancel(visit: Visit) -> Response:
    return await _set_ending(visit, True)


async def resume(visit: Visit) -> Response:
    return await _set_ending(visit, False)


async def _set_ending(visit: Visit, ending: bool) -> Response:
    form = await visit.form()
    try:
        await visit.shared.payments().subscriptions.set_ending(visit.account, ending, visit.actor)
    except InvalidRequest as error:
        form.problem = str(error)
        return await _plan(visit, form, error.status)
    return visit.redirect(f"{PLAN}?saved={'cancelled' if ending else 'resumed'}")


def choosable(settings: Settings, agreed: Agreed | None, subscription: Subscription | None, now: int) -> list[str]:
    """Plans that customers may switch to by themselves and for free.

    None if limits were agreed, which a change would end, or while a plan is paid for: that is cancelled instead.
    """
    if agreed is not None or _runs(subscription):
        return []
    named = (settings.plans.get(name) for name in settings.billing.customer_plans)
    return [each.name for each in named if each is not None and not each.price and each.applies(now)]


def shown(every: Mapping[str, Plan], mine: Plan, first: str, now: int) -> list[Plan]:
    """The plans to compare: what is offered, beginning with `first` as /pricing does, and the account's own."""
    offered = [each for each in every.values() if each.listed and each.applies(now) and each.name != DEFAULT_PLAN]
    offered.sort(key=lambda each: each.name != first)
    return offered if mine in offered else [mine, *offered]


def _runs(subscription: Subscription | None) -> bool:
    return subscription is not None and subscription.runs


PAGES = (
    Page("GET", PLAN, PAYER, plan),
    Page("POST", PLAN, PAYER, change),
    Page("POST", f"{PLAN}/subscribe", PAYER, subscribe),
    Page("POST", f"{PLAN}/demo", PAYER, pay_demo),
    Page("POST", f"{PLAN}/cancel", PAYER, cancel),
    Page("POST", f"{PLAN}/resume", PAYER, resume),
)
