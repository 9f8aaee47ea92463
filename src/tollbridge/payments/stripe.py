"""Payment by card: a thin client for the dozen Stripe calls that are needed (docs/decisions/).

Field names and statuses are those of https://docs.stripe.com/api in the version that each call names, so that a change
at Stripe changes nothing here.

Nothing in an event is believed except which object it is about: that object is then fetched. `stripe_api` has the rules
of each call.
"""

from tollbridge.core.payments import Buyer, Card, Payment, Report, Reported, Return, Status
from tollbridge.payments.base import Order, Started
from tollbridge.payments.stripe_api import BASE_URL, StripeApi, cents, nano, safe
from tollbridge.payments.stripe_checkout import Checkout
from tollbridge.payments.stripe_objects import (
    Address,
    BalanceTransaction,
    Charge,
    Customer,
    CustomerDetails,
    Dispute,
    Invoice,
    InvoicePayments,
    PaymentIntent,
    PaymentMethod,
    Recurring,
    Refund,
    Session,
    StripeEvent,
)
from tollbridge.payments.stripe_subscriptions import ACCOUNT, SUBSCRIPTION, StripeSubscriptions
from tollbridge.payments.webhook import Event

NAME = "stripe"

ORDER, REFUND = "tollbridge_payment", "tollbridge_refund"
# What an endpoint must be subscribed to; each of these only leads to asking for the payment. One list of events can ask
# for at most 20 types.
EVENTS = (
    "checkout.session.completed",
    "checkout.session.async_payment_succeeded",
    "checkout.session.async_payment_failed",
    "checkout.session.expired",
    "payment_intent.succeeded",
    "payment_intent.payment_failed",
    "charge.updated",
    "charge.refunded",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.dispute.created",
    "charge.dispute.updated",
    "charge.dispute.closed",
    "charge.dispute.funds_withdrawn",
    "charge.dispute.funds_reinstated",
    "customer.subscription.updated",
    "customer.subscription.deleted",
    "invoice.paid",
    "invoice.payment_failed",
)
_EXPAND_CHARGE = ("latest_charge.balance_transaction", "payment_method")


class Stripe:
    """Payments through one Stripe account. `automatic_tax`: Stripe adds the tax due."""

    name = NAME

    def __init__(self, secret_key: str, *, base_url: str = BASE_URL, automatic_tax: bool = False) -> None:
        self.live = "_live_" in secret_key[:9]
        self.automatic_tax = automatic_tax
        self._api = StripeApi(secret_key, base_url)
        self._checkout = Checkout(self._api, automatic_tax=automatic_tax)
        self.subscriptions = StripeSubscriptions(self._api, self._checkout)

    async def close(self) -> None:
        await self._api.close()

    # --- paying -------------------------------------------------------------------------------------------------

    async def start(self, order: Order) -> Started:
        """A Checkout session: a page at Stripe on which the customer pays."""
        payment = order.payment
        marks = {ORDER: payment.public_id, ACCOUNT: order.account}
        intent = {"metadata": marks, "setup_future_usage": "off_session" if payment.save_card else None}
        own = {"mode": "payment", "metadata": marks, "payment_intent_data": intent}
        return await self._checkout.open(order, payment, own)

    async def withdraw(self, payment: Payment) -> None:
        """Close the page of an unpaid order."""
        if payment.external_id is not None and payment.external_id.startswith("cs_"):
            await self._checkout.expire(payment.external_id)

    async def create_customer(self, account: str, email: str) -> str:
        """Stripe's id of our account."""
        params = {"email": email, "metadata": {ACCOUNT: account}}
        return (await self._api.post("/v1/customers", params, f"customer/{account}", Customer)).id

    async def charge(self, payment: Payment, account: str, card: Card) -> Report:
        """Charge a saved card while nobody is there. ProcessorRefused: declined, or the bank wants its owner."""
        params = {
            "amount": cents(payment.amount),
            "currency": payment.currency,
            "customer": card.customer,
            "payment_method": card.id,
            "off_session": True,
            "confirm": True,
            "metadata": {ORDER: payment.public_id, ACCOUNT: account},
            "expand": _EXPAND_CHARGE,
        }
        intent = await self._api.post("/v1/payment_intents", params, payment.public_id, PaymentIntent)
        return await self._report_intent(intent, known=False)

    async def forget(self, card: Card) -> None:
        """Detach a saved card."""
        await self._api.post(f"/v1/payment_methods/{safe(card.id)}/detach", {}, None, PaymentMethod)

    async def refund(self, payment: Payment, amount: int, ours: str) -> Reported:
        """Give back `amount` nano-USD of a payment, tax included; `ours`: the id that makes it happen only once."""
        params = {"payment_intent": payment.intent, "amount": cents(amount), "metadata": {REFUND: ours}}
        return _refund(await self._api.post("/v1/refunds", params, ours, Refund))

    # --- asking -------------------------------------------------------------------------------------------------

    async def report(self, payment: Payment, *, known: bool) -> Report | None:
        """Everything that Stripe knows about one of our payments; None: nothing.

        `known`: money went back before, so this must be looked up again even if none seems to be gone now.
        """
        if payment.external_id is None:
            return None
        if payment.external_id.startswith("pi_"):
            return await self._report_intent(await self._intent(payment.external_id), known=known)
        if payment.external_id.startswith("in_"):
            invoice = await self._api.get(f"/v1/invoices/{safe(payment.external_id)}", ("payments",), Invoice)
            return await self._report_invoice(invoice, known=known)
        expand = [f"payment_intent.{each}" for each in _EXPAND_CHARGE]
        session = await self._checkout.find(payment.external_id, expand)
        return await self._report_session(session, known=known, card=payment.save_card)

    async def order_of(self, event: Event) -> tuple[str, str | None]:
        """What an event's object belongs to: (Stripe's id of the order, our id as Stripe has it).

        The order is a session or, for a charge without one, the PaymentIntent. Our id proves nothing.
        """
        if event.object_id.startswith("cs_"):
            session = await self._checkout.find(event.object_id)
            return session.id, session.mark(ORDER)
        intent_id = event.object_id if event.object_id.startswith("pi_") else event.intent
        if intent_id is None:
            return event.object_id, None
        sessions = await self._api.listed("/v1/checkout/sessions", {"payment_intent": intent_id}, Session)
        if sessions:
            return sessions[0].id, sessions[0].mark(ORDER)
        intent = await self._api.get(f"/v1/payment_intents/{safe(intent_id)}", (), PaymentIntent)
        return intent.id, intent.mark(ORDER)

    async def events(self, since: int) -> list[Event]:
        """Events from `since` on (seconds), newest first. Stripe keeps them for 30 days."""
        params = {"created": {"gte": since}, "types": EVENTS}
        return [
            Event(each.id, each.type, each.data.object.id, _id_of(each.data.object.payment_intent))
            for each in await self._api.listed("/v1/events", params, StripeEvent)
        ]

    async def refunds(self, intent: str) -> tuple[Reported, ...]:
        """What was refunded of a payment."""
        return tuple(map(_refund, await self._api.listed("/v1/refunds", {"payment_intent": intent}, Refund)))

    async def _report_session(self, session: Session, *, known: bool, card: bool) -> Report:
        intent = session.payment_intent if isinstance(session.payment_intent, PaymentIntent) else None
        tax = session.total_details.amount_tax if session.total_details is not None else 0
        total = session.amount_total or 0
        status = _session_status(session, intent)
        ours = session.livemode is self.live and session.client_reference_id == session.mark(ORDER)
        if status is Status.PAID and intent is not None:
            # What the page showed must be what arrived.
            ours &= (total, session.currency) == (intent.amount_received, intent.currency)
            total = intent.amount_received
        return Report(
            status=status,
            external_id=session.id,
            intent=intent.id if intent is not None else _id_of(session.payment_intent),
            amount=nano(total - tax),
            tax=nano(tax),
            currency=session.currency or "",
            order=session.mark(ORDER) if ours else None,
            account=session.mark(ACCOUNT),
            customer=session.customer,
            fee=_fee(intent, session.currency),
            reversals=await self._reversals(intent, known=known),
            card=_card(intent) if card else None,
            buyer=_buyer(session.customer_details),
            note="the payment was not completed" if status is Status.FAILED else "",
        )

    async def _report_invoice(self, invoice: Invoice, *, known: bool) -> Report:
        """For one month of a subscription. Our id of it is the subscription's."""
        paid_with = (each.payment.payment_intent for each in (invoice.payments or _NONE).data if each.status == "paid")
        name = next(filter(None, paid_with), None)
        intent = await self._intent(name) if name is not None else None
        tax = sum(each.amount for each in invoice.total_taxes or ())
        # Money paid outside Stripe, or out of credit there, has not arrived: it is not what was ordered.
        total = intent.amount_received if intent is not None else 0
        status = _INVOICE_STATUS.get(invoice.status or "", Status.PROCESSING)
        about = invoice.recurring or Recurring("")
        return Report(
            status=status,
            external_id=invoice.id,
            intent=name,
            amount=nano((total if status is Status.PAID else invoice.total) - tax),
            tax=nano(tax),
            currency=invoice.currency,
            order=about.mark(SUBSCRIPTION) if invoice.livemode is self.live else None,
            account=about.mark(ACCOUNT),
            customer=invoice.customer,
            fee=_fee(intent, invoice.currency),
            reversals=await self._reversals(intent, known=known),
            buyer=_buyer(CustomerDetails(invoice.customer_name, invoice.customer_address, invoice.customer_tax_ids)),
            note="the month was not paid" if status is Status.FAILED else "",
        )

    async def _intent(self, id_: str) -> PaymentIntent:
        return await self._api.get(f"/v1/payment_intents/{safe(id_)}", _EXPAND_CHARGE, PaymentIntent)

    async def _report_intent(self, intent: PaymentIntent, *, known: bool) -> Report:
        status = _INTENT_STATUS.get(intent.status, Status.PROCESSING)
        received = intent.amount_received if status is Status.PAID else intent.amount
        return Report(
            status=status,
            external_id=intent.id,
            intent=intent.id,
            amount=nano(received),
            currency=intent.currency,
            order=intent.mark(ORDER) if intent.livemode is self.live else None,
            account=intent.mark(ACCOUNT),
            customer=intent.customer,
            fee=_fee(intent, intent.currency),
            reversals=await self._reversals(intent, known=known),
            note="the card could not be charged" if status is Status.FAILED else "",
        )

    async def _reversals(self, intent: PaymentIntent | None, *, known: bool) -> tuple[Reported, ...]:
        charge = intent.latest_charge if intent is not None else None
        if intent is None or not isinstance(charge, Charge):
            return ()
        found: tuple[Reported, ...] = ()
        if known or charge.amount_refunded:
            found += await self.refunds(intent.id)
        if known or charge.disputed:
            disputes = await self._api.listed("/v1/disputes", {"payment_intent": intent.id}, Dispute)
            found += tuple(filter(None, map(_dispute, disputes)))
        return found


# --- pure ---------------------------------------------------------------------------------------------------------


_INVOICE_STATUS = {"paid": Status.PAID, "void": Status.FAILED, "uncollectible": Status.FAILED}
_NONE = InvoicePayments([])
_INTENT_STATUS = {
    "succeeded": Status.PAID,
    "processing": Status.PROCESSING,
    # Off-session, nobody is there to act.
    "requires_action": Status.FAILED,
    "requires_payment_method": Status.FAILED,
    "canceled": Status.FAILED,
}


def _session_status(session: Session, intent: PaymentIntent | None) -> Status:
    if session.payment_status == "paid" and session.status == "complete":
        # Paid without a payment means paid with a discount that we never gave.
        return Status.PAID if intent is not None and intent.status == "succeeded" else Status.PROCESSING
    if session.status == "expired":
        return Status.EXPIRED
    if session.status != "complete":
        return Status.PENDING
    failed = intent is not None and intent.status in {"requires_payment_method", "canceled"}
    return Status.FAILED if failed else Status.PROCESSING


def _fee(intent: PaymentIntent | None, currency: str | None) -> int:
    """Stripe's fee, once known. If it is in another currency than the payment, it is left to the payout report."""
    charge = intent.latest_charge if intent is not None else None
    booked = charge.balance_transaction if isinstance(charge, Charge) else None
    if not isinstance(booked, BalanceTransaction) or booked.currency != currency:
        return 0
    return nano(booked.fee)


def _card(intent: PaymentIntent | None) -> Card | None:
    method = intent.payment_method if intent is not None else None
    if intent is None or intent.customer is None or not isinstance(method, PaymentMethod) or method.card is None:
        return None
    return Card(intent.customer, method.id, f"{method.card.brand} {method.card.last4}".strip())


def _buyer(details: CustomerDetails | None) -> Buyer | None:
    if details is None:
        return None
    address = details.address or Address()
    town = " ".join(filter(None, (address.postal_code, address.city, address.state)))
    lines = filter(None, (address.line1, address.line2, town, address.country))
    tax_id = next((each.value for each in details.tax_ids or () if each.value), "")
    return Buyer(name=details.name or "", address="\n".join(lines), tax_id=tax_id)


def _refund(refund: Refund) -> Reported:
    return Reported(
        id=refund.id,
        kind=Return.REFUND,
        amount=nano(refund.amount),
        currency=refund.currency,
        returned=refund.status in {"failed", "canceled"},
        ours=refund.mark(REFUND),
    )


def _dispute(dispute: Dispute) -> Reported | None:
    """None: an inquiry, for which no money was taken (yet)."""
    booked = [each for each in dispute.balance_transactions if each.amount]
    if not booked and dispute.status not in {"needs_response", "under_review", "lost"}:
        return None
    return Reported(
        id=dispute.id,
        kind=Return.DISPUTE,
        amount=nano(dispute.amount),
        currency=dispute.currency,
        returned=any(each.amount > 0 for each in booked),
        fee=nano(sum(each.fee for each in booked if each.currency == dispute.currency)),
    )


def _id_of(object_: PaymentIntent | str | None) -> str | None:
    return object_.id if isinstance(object_, PaymentIntent) else object_
