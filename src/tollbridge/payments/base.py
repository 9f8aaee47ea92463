"""What every payment method takes and gives."""

from typing import Protocol

import msgspec

from tollbridge.core.payments import Payment
from tollbridge.core.subscriptions import Subscription
from tollbridge.errors import TollbridgeError, Unavailable
from tollbridge.values import HOUR_MS

# After a day, Stripe forgets an Idempotency-Key (the same call would then be another one) and closes an unpaid page.
SAME_CALL_MS = 23 * HOUR_MS


class ProcessorUnavailable(Unavailable):
    """The processor could not be asked, or its answer makes no sense: whether it did anything is unknown."""

    code = "payments_unavailable"

    def __init__(self, message: str = "Payments cannot be reached just now. Try again shortly.") -> None:
        super().__init__(message, retry_after=30)


class ProcessorRefused(TollbridgeError):
    """The processor said no, for good: a card was declined, or the call was wrong.

    `code` is the processor's word for it (`card_declined`); the message is ours and safe to show.
    """

    def __init__(self, message: str, code: str = "", *, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class Purchase(msgspec.Struct, frozen=True, kw_only=True):
    """Who buys, and what it is called. `account`: the public id; the URLs: where the customer comes back to."""

    account: str
    customer: str | None
    product: str
    success_url: str
    cancel_url: str


class Order(Purchase, frozen=True, kw_only=True):
    """An order for credit, on its way to a method."""

    payment: Payment


class Subscribing(Purchase, frozen=True, kw_only=True):
    """An order for a plan, on its way to a processor."""

    subscription: Subscription


class Started(msgspec.Struct, frozen=True):
    """Where the customer pays. `external_id`: the method's id of the order."""

    external_id: str
    url: str


class Method(Protocol):
    """One way to pay."""

    @property
    def name(self) -> str:
        """As stored in `payment.method`."""

    async def start(self, order: Order) -> Started:
        """Begin a payment; the same order again is the same payment.

        ProcessorUnavailable: it may have begun. ProcessorRefused: it has not.
        """
