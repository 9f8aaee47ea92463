"""Payments without a processor: the operator confirms a bank transfer, the customer a demo payment."""

from tollbridge.core.payments import Payment, Report, Status
from tollbridge.payments.base import Order, Started

BANK_TRANSFER = "bank_transfer"
DEMO = "demo"

# This much of the order's id is enough to tell transfers apart, and short enough to type.
_REFERENCE = 10


class BankTransfer:
    """The customer is shown where to send the money and under which reference."""

    name = BANK_TRANSFER

    async def start(self, order: Order) -> Started:
        return Started(reference(order.payment), order.success_url)


class Demo:
    """Pays with nothing, so that the whole process can be tried. Only for gateways that nobody else can reach."""

    name = DEMO

    async def start(self, order: Order) -> Started:
        return Started(f"demo_{order.payment.public_id}", order.success_url)


def reference(payment: Payment) -> str:
    """What the customer writes on the transfer: `TB` and letters and digits from the order's id."""
    return f"TB-{payment.public_id.rpartition('_')[2][:_REFERENCE].upper()}"


def received(payment: Payment, account: str) -> Report:
    """The report of a payment that somebody has confirmed as received."""
    return Report(
        status=Status.PAID,
        external_id=payment.external_id or reference(payment),
        amount=payment.amount,
        currency=payment.currency,
        order=payment.public_id,
        account=account,
    )
