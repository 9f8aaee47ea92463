"""What things cost: plans, credit, prices of models."""

from collections.abc import Collection, Iterable

import msgspec
from starlette.responses import Response

from tollbridge.core import money
from tollbridge.core.plans import DEFAULT_PLAN, Plan
from tollbridge.web import models
from tollbridge.web.billing_plan import choosable
from tollbridge.web.page import ANYONE, Page
from tollbridge.web.render import plan_name
from tollbridge.web.visit import Visit

SHOWN = 20


class Offer(msgspec.Struct, frozen=True):
    """A plan in words. `limits`: what, and how much of it. `open`: customers can switch to it by themselves."""

    name: str
    description: str
    limits: tuple[tuple[str, str], ...]
    open: bool = False


async def pricing(visit: Visit) -> Response:
    settings, (catalog, plan) = visit.shared.settings, models.for_visitor(visit)
    free = choosable(settings, None, None, visit.now)
    sold = visit.shared.payments().subscriptions.offered(visit.now)
    plans = [plan for plan in settings.plans.values() if plan.applies(visit.now)]
    shown = list(catalog.models.values())[:SHOWN]
    return visit.render(
        "public/pricing.html",
        plan=plan,
        offers=offers(plans, settings.billing.signup_plan, free=free, sold=sold),
        monthly=any(plan.price for plan in plans if plan.listed),
        billing=settings.billing,
        fee_percent=f"{(settings.billing.byok_fee_ppm - money.PPM) * 100 / money.PPM:g}",
        by_card=settings.stripe.secret_key is not None,
        by_transfer=settings.bank_transfer.instructions is not None,
        rows=[models.row(model) for model in shown],
        count=len(catalog.models),
    )


def offers(
    plans: Iterable[Plan], first: str = DEFAULT_PLAN, *, free: Collection[str] = (), sold: Collection[str] = ()
) -> list[Offer]:
    """What is listed, beginning with the plan that every new account gets. `free`, `sold`: open to everybody.

    The plan `default` is an offer only to those who can get it: it always exists, limits or not.
    """
    here = (plan for plan in plans if plan.listed and (plan.name != DEFAULT_PLAN or plan.name in {first, *free, *sold}))
    listed = sorted(here, key=lambda plan: plan.name != first)
    return [
        msgspec.structs.replace(offer(plan, free=plan.name in free), open=plan.name in free or plan.name in sold)
        for plan in listed
    ]


def offer(plan: Plan, *, free: bool = False) -> Offer:
    """`free`: it costs nothing, whether or not it says so."""
    none = "As agreed" if plan.by_agreement else "No limit"
    limits = [
        ("Requests per minute", _limit(plan.rpm, none)),
        ("Tokens per minute", _limit(plan.tpm, none)),
        ("Calls at once", _limit(plan.concurrency, none)),
        ("Models", "All" if plan.models == ("*",) else ", ".join(plan.models)),
    ]
    if plan.included_credit:
        limits.insert(0, ("Included credit per month", f"${money.format_usd(plan.included_credit)}"))
    if plan.included_tokens:
        limits.insert(0, ("Included tokens per month", f"{plan.included_tokens:,}"))
    if plan.price is not None or free:
        limits.insert(0, ("Per month", f"${money.format_usd(plan.price)}" if plan.price else "Free"))
    return Offer(plan_name(plan), plan.description or "", tuple(limits))


def _limit(number: int | None, none: str) -> str:
    return none if number is None else f"{number:,}"


PAGES = (Page("GET", "/pricing", ANYONE, pricing),)
