"""Invoices: what was bought, from whom, by whom. Drafted here, and numbered in the payment's transaction."""

from collections.abc import AsyncIterator

import msgspec

from tollbridge.config.settings import Invoices as Seller
from tollbridge.core.payments import Buyer, Payment, Reversal
from tollbridge.core.words import read_whole
from tollbridge.errors import Faults, InvalidRequest, NotFound
from tollbridge.store import invoices
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.invoices import Invoice
from tollbridge.store.rows import ABOVE_ALL

_PAGE = 500
_MOST_NAME, _MOST_ADDRESS, _MOST_TAX_ID = 200, 500, 60


class Party(msgspec.Struct, frozen=True, kw_only=True):
    """One side of an invoice, as stored in it. `note`: the seller's last line."""

    name: str
    address: str = ""
    tax_id: str = ""
    email: str = ""
    note: str = ""


class Paper(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a printable page shows. Amounts in nano-USD, negative where money went back.

    `title`: "Invoice", "Credit note", or "Correction" where a credited sum came back. `id`: the number without prefix;
    `of`: the number of the invoice that it changes.
    """

    id: int
    number: str
    title: str
    issued_at: int
    seller: Party
    buyer: Party
    item: str
    net: int
    tax: int
    currency: str
    paid_by: str
    payment: str
    of: str = ""

    @property
    def total(self) -> int:
        return self.net + self.tax


_TITLES = {"invoice": "Invoice", "credit_note": "Credit note", "correction": "Correction"}
_METHODS = {"stripe": "card", "bank_transfer": "bank transfer", "demo": "demo payment (no money was paid)"}


class Issuer(msgspec.Struct, frozen=True):
    """Who sells: the operator's settings, with the brand as a fallback for the name."""

    settings: Seller
    brand: str

    def draft(self, payment: Payment, account: Account, buyer: Buyer | None, now: int) -> Invoice:
        """The invoice of a payment, not numbered yet."""
        seller = Party(
            name=self.settings.seller or self.brand,
            address=self.settings.address or "",
            tax_id=self.settings.tax_id or "",
            note=self.settings.note or "",
        )
        details = buyer or Buyer()
        customer = Party(
            name=details.name or account.email,
            address=details.address,
            tax_id=details.tax_id,
            email=account.email,
        )
        return Invoice(
            number=0,
            kind="invoice",
            payment_id=payment.id,
            reversal_id=None,
            account_id=payment.account_id,
            issued_at=now,
            amount=payment.amount,
            tax=payment.tax,
            currency=payment.currency,
            seller=msgspec.json.encode(seller).decode(),
            buyer=msgspec.json.encode(customer).decode(),
        )

    def number(self, number: int) -> str:
        """The number of an invoice, as customers see it."""
        return f"{self.settings.prefix}{number:06d}"

    def paper(self, invoice: Invoice) -> Paper:
        """What an invoice says, with its number as customers see it."""
        bought = "Prepaid credit" if not invoice.plan else f"One month of the plan {invoice.plan}"
        of = "" if invoice.kind == "invoice" else self.number(invoice.first)
        return Paper(
            id=invoice.number,
            number=self.number(invoice.number),
            title=_TITLES[invoice.kind],
            issued_at=invoice.issued_at,
            seller=msgspec.json.decode(invoice.seller, type=Party),
            buyer=msgspec.json.decode(invoice.buyer, type=Party),
            item=f"{bought}, refund of invoice {of}" if of else bought,
            net=invoice.amount,
            tax=invoice.tax,
            currency=invoice.currency,
            paid_by=_METHODS.get(invoice.method, invoice.method),
            payment=invoice.payment,
            of=of,
        )


async def reverse(transaction: Transaction, draft: Invoice, kind: str, reversal: Reversal, reversal_id: int) -> None:
    """Issue the credit note of a refund or, if a refund failed, its correction.

    It goes to whom the invoice was made out to, whatever their details are by now: the account may be closed.
    """
    sign = -1 if kind == "credit_note" else 1
    note = msgspec.structs.replace(
        draft,
        kind=kind,
        reversal_id=reversal_id,
        amount=sign * reversal.credit,
        tax=sign * (reversal.amount - reversal.credit),
        buyer=await invoices.buyer_of(transaction, draft.payment_id) or draft.buyer,
    )
    await invoices.issue(transaction, note)


async def papers(
    database: Database, issuer: Issuer, account: Account, count: int = 100, before: int = ABOVE_ALL
) -> list[Paper]:
    """An account's invoices and credit notes, newest first, below the number `before`."""
    found = await invoices.of_account(database, account.id, before, count)
    return [issuer.paper(each) for each in found]


async def issued(database: Database, issuer: Issuer, since: int, until: int) -> AsyncIterator[Paper]:
    """Every invoice, credit note and correction of a time, to anybody, by number."""
    after = 0
    while found := await invoices.of_period(database, since, until, after, _PAGE):
        for each in found:
            yield issuer.paper(each)
        after = found[-1].number


async def paper(database: Database, issuer: Issuer, account: Account, number: str) -> Paper:
    """One of an account's invoices, by the number printed on it. NotFound: it has none of that number."""
    digits = read_whole(number.removeprefix(issuer.settings.prefix), 15)
    found = None if digits is None else await invoices.by_number(database, digits)
    if found is None or found.account_id != account.id:
        raise NotFound(f"there is no invoice {number[:40]!r} in this account", param="number")
    return issuer.paper(found)


async def buyer(database: Database, account: Account) -> Buyer:
    """Whom an account's invoices are made out to; empty if nobody has said."""
    return await invoices.buyer(database, account.id) or Buyer()


async def set_buyer(database: Database, account: Account, details: Buyer) -> Buyer:
    """Set name, address (in lines) and tax id for invoices from now on. InvalidRequest names what is not acceptable."""
    with Faults() as faults:
        lines = [faults.of("", _text, "address", each, _MOST_ADDRESS) for each in details.address.splitlines()]
        clean = Buyer(
            name=faults.of("", _text, "name", details.name, _MOST_NAME),
            address="\n".join(line for line in lines if line),
            tax_id=faults.of("", _text, "tax_id", details.tax_id, _MOST_TAX_ID),
        )
        if len(clean.address) > _MOST_ADDRESS:
            faults.add(f"address has at most {_MOST_ADDRESS} characters", "address")
    await run(database, lambda transaction: invoices.put_buyer(transaction, account.id, clean))
    return clean


def _text(name: str, text: str, most: int) -> str:
    if len(text) > most or not text.isprintable():
        raise InvalidRequest(f"{name} has at most {most} printable characters", param=name)
    return text.strip()
