"""The pages at Stripe on which customers pay: https://docs.stripe.com/api/checkout/sessions."""

from collections.abc import Mapping, Sequence
from typing import Any

from tollbridge.core.payments import Payment
from tollbridge.core.subscriptions import Subscription
from tollbridge.payments.base import ProcessorRefused, ProcessorUnavailable, Purchase, Started
from tollbridge.payments.stripe_api import StripeApi, cents, safe
from tollbridge.payments.stripe_objects import Session

_PATH = "/v1/checkout/sessions"


class Checkout:
    """The pages of one Stripe account. Calls raise as those of `StripeApi` do."""

    def __init__(self, api: StripeApi, *, automatic_tax: bool) -> None:
        self._api = api
        self._automatic_tax = automatic_tax

    async def open(self, purchase: Purchase, sold: Payment | Subscription, own: Mapping[str, Any]) -> Started:
        """A page that sells `sold`, monthly if it is a subscription; `own`: further parameters of the session."""
        price = {
            "currency": sold.currency,
            "unit_amount": cents(sold.amount),
            "recurring": {"interval": "month"} if isinstance(sold, Subscription) else None,
            "product_data": {"name": purchase.product},
            "tax_behavior": "exclusive",
        }
        params = {
            "client_reference_id": sold.public_id,
            "customer": purchase.customer,
            "customer_update": {"name": "auto", "address": "auto"},
            "line_items": [{"quantity": 1, "price_data": price}],
            # The amount that we ordered must be the amount that is paid.
            "adaptive_pricing": {"enabled": False},
            "automatic_tax": {"enabled": self._automatic_tax},
            "billing_address_collection": "required" if self._automatic_tax else "auto",
            "tax_id_collection": {"enabled": True},
            "success_url": purchase.success_url,
            "cancel_url": purchase.cancel_url,
            **own,
        }
        session = await self._api.post(_PATH, params, sold.public_id, Session)
        if session.url is None:
            raise ProcessorUnavailable
        return Started(session.id, session.url)

    async def find(self, id_: str, expand: Sequence[str] = ()) -> Session:
        return await self._api.get(f"{_PATH}/{safe(id_)}", expand, Session)

    async def expire(self, id_: str) -> None:
        """Let nobody pay on this page any more. A page that was paid, has expired or does not exist stays as it is."""
        try:
            await self._api.post(f"{_PATH}/{safe(id_)}/expire", {}, None, Session)
        except ProcessorRefused as refused:
            if refused.status not in {400, 404}:
                raise
