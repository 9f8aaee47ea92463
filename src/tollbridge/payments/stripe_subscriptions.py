"""Plans that are paid for by the month, at Stripe: https://docs.stripe.com/api/subscriptions.

What each month's invoice brought is a payment like others (`Stripe.report`). Here is the subscription itself.
"""

from tollbridge.core.subscriptions import Bill, Heard, Subscription
from tollbridge.payments.base import ProcessorRefused, ProcessorUnavailable, Started, Subscribing
from tollbridge.payments.stripe_api import StripeApi, cents, safe
from tollbridge.payments.stripe_objects import Invoice, Session
from tollbridge.payments.stripe_objects import Subscription as Theirs

ACCOUNT, SUBSCRIPTION = "tollbridge_account", "tollbridge_subscription"
# https://docs.stripe.com/billing/subscriptions/overview#subscription-statuses
_OVER = frozenset({"canceled", "incomplete_expired"})
_LATE = frozenset({"past_due", "unpaid", "paused"})


class StripeSubscriptions:
    """The subscriptions of one Stripe account. Calls raise as those of `StripeApi` do."""

    def __init__(self, api: StripeApi, *, automatic_tax: bool) -> None:
        self._api = api
        self._automatic_tax = automatic_tax

    async def start(self, order: Subscribing) -> Started:
        """A Checkout session in which a customer pays the first month, and leaves what pays the next ones."""
        ours = order.subscription
        marks = {SUBSCRIPTION: ours.public_id, ACCOUNT: order.account}
        price = {
            "currency": ours.currency,
            "unit_amount": cents(ours.amount),
            "recurring": {"interval": "month"},
            "product_data": {"name": order.product},
            "tax_behavior": "exclusive",
        }
        params = {
            "mode": "subscription",
            "client_reference_id": ours.public_id,
            "customer": order.customer,
            "customer_update": {"name": "auto", "address": "auto"},
            "metadata": marks,
            "subscription_data": {"metadata": marks},
            "line_items": [{"quantity": 1, "price_data": price}],
            "adaptive_pricing": {"enabled": False},
            "automatic_tax": {"enabled": self._automatic_tax},
            "billing_address_collection": "required" if self._automatic_tax else "auto",
            "tax_id_collection": {"enabled": True},
            "success_url": order.success_url,
            "cancel_url": order.cancel_url,
        }
        session = await self._api.post("/v1/checkout/sessions", params, ours.public_id, Session)
        if session.url is None:
            raise ProcessorUnavailable
        return Started(session.id, session.url)

    async def follow(self, ours: Subscription) -> Heard | None:
        """How a subscription stands, and which months of it were paid; None: Stripe was never asked for it."""
        name = ours.external_id
        if name is None:
            if ours.session is None:
                return None
            session = await self._api.get(f"/v1/checkout/sessions/{safe(ours.session)}", (), Session)
            if session.subscription is None:
                return Heard(external_id=None, over=session.status == "expired")
            name = session.subscription
        found = await self._api.get(f"/v1/subscriptions/{safe(name)}", (), Theirs)
        paid = await self._api.listed("/v1/invoices", {"subscription": name, "status": "paid"}, Invoice)
        return Heard(
            external_id=found.id,
            over=found.status in _OVER,
            late=found.status in _LATE,
            # A customer of Stripe's own portal may have named a day.
            ending=found.cancel_at_period_end or found.cancel_at is not None,
            bills=tuple(Bill(each.id, 1000 * max(line.period.end for line in each.lines.data)) for each in paid),
        )

    async def origin(self, object_id: str) -> tuple[str | None, str | None, str | None]:
        """What an event's object belongs to: (session, Stripe's id of the subscription, ours as Stripe has it).

        Our id is no proof of anything. All None: it is of no subscription.
        """
        if object_id.startswith("cs_"):
            session = await self._api.get(f"/v1/checkout/sessions/{safe(object_id)}", (), Session)
            ours = (session.metadata or {}).get(SUBSCRIPTION)
            return (session.id, session.subscription, ours) if ours is not None else (None, None, None)
        if object_id.startswith("in_"):
            invoice = await self._api.get(f"/v1/invoices/{safe(object_id)}", (), Invoice)
            about = invoice.parent.subscription_details if invoice.parent is not None else None
            return (None, about.subscription, (about.metadata or {}).get(SUBSCRIPTION)) if about else (None,) * 3
        if object_id.startswith("sub_"):
            found = await self._api.get(f"/v1/subscriptions/{safe(object_id)}", (), Theirs)
            return None, found.id, found.metadata.get(SUBSCRIPTION)
        return None, None, None

    async def set_ending(self, ours: Subscription, ending: bool) -> None:
        """Whether it ends when what was paid for is over. ProcessorRefused: it has ended."""
        assert ours.external_id is not None
        path = f"/v1/subscriptions/{safe(ours.external_id)}"
        await self._api.post(path, {"cancel_at_period_end": ending}, None, Theirs)

    async def stop(self, ours: Subscription) -> None:
        """End it now: nothing is charged any more. Again, it changes nothing."""
        try:
            if ours.external_id is not None:
                await self._api.delete(f"/v1/subscriptions/{safe(ours.external_id)}", Theirs)
            elif ours.session is not None:
                await self._api.post(f"/v1/checkout/sessions/{safe(ours.session)}/expire", {}, None, Session)
        except ProcessorRefused as refused:
            if refused.status not in {400, 404}:
                raise
