"""Plans paid for by the month, at Stripe: https://docs.stripe.com/api/subscriptions.

The money of each month's invoice is a payment like any other (`Stripe.report`). This is the subscription itself.
"""

from tollbridge.core.subscriptions import Bill, Heard, Subscription
from tollbridge.payments.base import ProcessorRefused, Started, Subscribing
from tollbridge.payments.stripe_api import StripeApi, safe
from tollbridge.payments.stripe_checkout import Checkout
from tollbridge.payments.stripe_objects import Invoice
from tollbridge.payments.stripe_objects import Subscription as Theirs

ACCOUNT, SUBSCRIPTION = "tollbridge_account", "tollbridge_subscription"
# https://docs.stripe.com/billing/subscriptions/overview#subscription-statuses
_OVER = frozenset({"canceled", "incomplete_expired"})
_LATE = frozenset({"past_due", "unpaid", "paused"})


class StripeSubscriptions:
    """The subscriptions of one Stripe account. Calls raise as those of `StripeApi` do."""

    def __init__(self, api: StripeApi, checkout: Checkout) -> None:
        self._api = api
        self._checkout = checkout

    async def start(self, order: Subscribing) -> Started:
        """A Checkout session in which a customer pays the first month, and leaves a card for the next ones."""
        ours = order.subscription
        marks = {SUBSCRIPTION: ours.public_id, ACCOUNT: order.account}
        own = {"mode": "subscription", "metadata": marks, "subscription_data": {"metadata": marks}}
        return await self._checkout.open(order, ours, own)

    async def follow(self, ours: Subscription) -> Heard | None:
        """The state of a subscription, and which months of it were paid; None: Stripe was never asked for it."""
        name = ours.external_id
        if name is None:
            if ours.session is None:
                return None
            session = await self._checkout.find(ours.session)
            if session.subscription is None:
                return Heard(external_id=None, over=session.status == "expired")
            name = session.subscription
        found = await self._api.get(f"/v1/subscriptions/{safe(name)}", (), Theirs)
        paid = await self._api.listed("/v1/invoices", {"subscription": name, "status": "paid"}, Invoice)
        return Heard(
            external_id=found.id,
            over=found.status in _OVER,
            late=found.status in _LATE,
            # A customer may have set a date in Stripe's own portal.
            ending=found.cancel_at_period_end or found.cancel_at is not None,
            bills=tuple(Bill(each.id, 1000 * max(line.period.end for line in each.lines.data)) for each in paid),
        )

    async def origin(self, object_id: str) -> tuple[str | None, str | None, str | None]:
        """What an event's object belongs to: (session, Stripe's id of the subscription, ours as Stripe has it).

        Our id proves nothing. All None: it belongs to no subscription.
        """
        if object_id.startswith("cs_"):
            session = await self._checkout.find(object_id)
            ours = session.mark(SUBSCRIPTION)
            return (session.id, session.subscription, ours) if ours is not None else (None, None, None)
        if object_id.startswith("in_"):
            invoice = await self._api.get(f"/v1/invoices/{safe(object_id)}", (), Invoice)
            about = invoice.recurring
            return (None, about.subscription, about.mark(SUBSCRIPTION)) if about is not None else (None,) * 3
        if object_id.startswith("sub_"):
            found = await self._api.get(f"/v1/subscriptions/{safe(object_id)}", (), Theirs)
            return None, found.id, found.mark(SUBSCRIPTION)
        return None, None, None

    async def set_ending(self, ours: Subscription, ending: bool) -> None:
        """Set whether it ends when the paid period is over. ProcessorRefused: it has ended."""
        assert ours.external_id is not None
        path = f"/v1/subscriptions/{safe(ours.external_id)}"
        await self._api.post(path, {"cancel_at_period_end": ending}, None, Theirs)

    async def stop(self, ours: Subscription) -> None:
        """End it now: nothing more is charged. Repeating it changes nothing."""
        if ours.external_id is None:
            if ours.session is not None:
                await self._checkout.expire(ours.session)
            return
        try:
            await self._api.delete(f"/v1/subscriptions/{safe(ours.external_id)}", Theirs)
        except ProcessorRefused as refused:
            if refused.status not in {400, 404}:
                raise
