"""What is read from Stripe's objects (https://docs.stripe.com/api), and nothing else of them.

A test compares these fields with the official library's. What a call may expand is either an id or the object.
"""

import msgspec


class Marked(msgspec.Struct, frozen=True, kw_only=True):
    """An object that can carry ids of ours; they prove nothing."""

    metadata: dict[str, str] | None = None

    def mark(self, name: str) -> str | None:
        return (self.metadata or {}).get(name)


class CardDetails(msgspec.Struct, frozen=True):
    brand: str = "card"
    last4: str = ""


class PaymentMethod(msgspec.Struct, frozen=True):
    id: str
    type: str = ""
    card: CardDetails | None = None


class BalanceTransaction(msgspec.Struct, frozen=True):
    id: str
    amount: int
    fee: int
    currency: str


class Charge(msgspec.Struct, frozen=True):
    id: str
    amount_refunded: int
    disputed: bool
    balance_transaction: BalanceTransaction | str | None = None


class PaymentIntent(Marked, frozen=True):
    id: str
    status: str
    amount: int
    amount_received: int
    currency: str
    livemode: bool
    customer: str | None = None
    latest_charge: Charge | str | None = None
    payment_method: PaymentMethod | str | None = None


class Address(msgspec.Struct, frozen=True):
    line1: str | None = None
    line2: str | None = None
    postal_code: str | None = None
    city: str | None = None
    state: str | None = None
    country: str | None = None


class TaxId(msgspec.Struct, frozen=True):
    value: str | None = None


class CustomerDetails(msgspec.Struct, frozen=True):
    name: str | None = None
    address: Address | None = None
    tax_ids: list[TaxId] | None = None


class TotalDetails(msgspec.Struct, frozen=True):
    amount_tax: int


class Session(Marked, frozen=True):
    id: str
    payment_status: str
    livemode: bool
    status: str | None = None
    url: str | None = None
    amount_total: int | None = None
    currency: str | None = None
    client_reference_id: str | None = None
    customer: str | None = None
    total_details: TotalDetails | None = None
    customer_details: CustomerDetails | None = None
    payment_intent: PaymentIntent | str | None = None
    subscription: str | None = None


class Refund(Marked, frozen=True):
    id: str
    amount: int
    currency: str
    status: str | None = None


class Dispute(msgspec.Struct, frozen=True):
    id: str
    amount: int
    currency: str
    status: str
    balance_transactions: list[BalanceTransaction]


class Customer(msgspec.Struct, frozen=True):
    id: str


class EventObject(msgspec.Struct, frozen=True):
    id: str
    payment_intent: PaymentIntent | str | None = None


class EventData(msgspec.Struct, frozen=True):
    object: EventObject


class StripeEvent(msgspec.Struct, frozen=True):
    id: str
    type: str
    data: EventData


class Recurring(Marked, frozen=True):
    """What an invoice belongs to: a subscription, and its marks when the invoice was made."""

    subscription: str


class Parent(msgspec.Struct, frozen=True):
    subscription_details: Recurring | None = None


class Span(msgspec.Struct, frozen=True):
    """Seconds since the epoch."""

    start: int
    end: int


class InvoiceLine(msgspec.Struct, frozen=True):
    period: Span


class InvoiceLines(msgspec.Struct, frozen=True):
    data: list[InvoiceLine]


class PaidWith(msgspec.Struct, frozen=True):
    payment_intent: str | None = None


class InvoicePayment(msgspec.Struct, frozen=True):
    status: str
    payment: PaidWith


class InvoicePayments(msgspec.Struct, frozen=True):
    data: list[InvoicePayment]


class InvoiceTax(msgspec.Struct, frozen=True):
    amount: int


class Invoice(msgspec.Struct, frozen=True):
    """The invoice of one month of a subscription. `payments` is only there if expanded."""

    id: str
    currency: str
    livemode: bool
    total: int
    lines: InvoiceLines
    status: str | None = None
    customer: str | None = None
    customer_name: str | None = None
    customer_address: Address | None = None
    customer_tax_ids: list[TaxId] | None = None
    total_taxes: list[InvoiceTax] | None = None
    parent: Parent | None = None
    payments: InvoicePayments | None = None

    @property
    def recurring(self) -> Recurring | None:
        return self.parent.subscription_details if self.parent is not None else None


class Subscription(Marked, frozen=True):
    id: str
    status: str
    cancel_at_period_end: bool
    cancel_at: int | None = None
