"""Refunds by the operator: out of paid credit that is still there, and never twice.

The credit is taken first, in one transaction with the request; then the processor is asked. If it refuses, the credit
is given back; if it does not answer, it is asked again (`retry`), under the same key.
"""

import hashlib
import logging

import msgspec

from tollbridge.core import payments as rules
from tollbridge.core.ledger import Posted
from tollbridge.core.money import NANO_PER_CENT, format_usd
from tollbridge.core.payments import Payment, Return, Reversal, State, Status
from tollbridge.errors import InvalidRequest, KeyReused, NotFound
from tollbridge.payments.base import SAME_CALL_MS, ProcessorRefused, ProcessorUnavailable
from tollbridge.payments.stripe import NAME as STRIPE
from tollbridge.services.accounts import new_id
from tollbridge.services.invoices import reverse
from tollbridge.services.payments import Payments
from tollbridge.store import accounts, activity, invoices, journal, payments
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Transaction, run
from tollbridge.values import MINUTE_MS

log = logging.getLogger("tollbridge")

_PATIENCE_MS = MINUTE_MS


async def refund(
    ways: Payments,
    public_id: str,
    amount: int | None,
    *,
    actor: str,
    address: str = "",
    reason: str = "",
    once: str = "",
) -> Reversal:
    """Give back `amount` nano-USD of a payment, tax included; None: all that is left of it. Its account can read why.

    Repeated with the same text `once` it changes nothing; "" is never a repetition.

    InvalidRequest: it is more than is left of the payment, or of the credit. KeyReused: `once` stands for another
    amount. ProcessorUnavailable: the credit is taken and the refund will happen. A refund by bank transfer is only
    booked: the operator sends the money.
    """
    database = ways.database
    now = await database.now()

    async def use_case(transaction: Transaction) -> tuple[Payment, Reversal, bool]:
        found = await payments.by_public_id(transaction, public_id)
        if found is None:
            raise NotFound(f"there is no payment {public_id[:40]!r}", param="payment")
        payment = await payments.locked(database, transaction, found.id)
        id_of_it = _id(payment, once)
        gone = await payments.reversals(transaction, payment.id)
        for before in gone:
            if before.public_id == id_of_it:
                if amount not in {None, before.amount}:
                    raise KeyReused("another amount was refunded with this idempotency key", param="idempotency_key")
                return payment, before, False
        left = _left(payment, gone)
        wanted = left if amount is None else amount
        if not 0 < wanted <= left or wanted % NANO_PER_CENT:
            raise InvalidRequest(f"{format_usd(left)} USD of it can be refunded, in whole cents", param="amount")
        made = Reversal(
            public_id=id_of_it,
            payment_id=payment.id,
            kind=Return.REFUND,
            external_id=None,
            amount=wanted,
            credit=rules.credit_of(payment, wanted, gone),
            state=State.REQUESTED if payment.method == STRIPE else State.TAKEN,
            created_at=now,
        )
        credited = payment.subscription_id is None
        if credited and made.credit > await payments.refundable(database, transaction, payment.account_id):
            raise InvalidRequest(
                "the account does not have that much paid credit left that is not reserved", param="amount"
            )
        post = msgspec.structs.replace(rules.taken(payment, made), actor=actor)
        verdict = await journal.post(database, transaction, post, now)
        assert isinstance(verdict, Posted), verdict
        id_ = await payments.put_reversal(transaction, made)
        stored = msgspec.structs.replace(made, id=id_)
        await _paper(ways, transaction, payment, stored, now)
        what = f"{format_usd(wanted)} USD of {public_id}" + (f": {reason}" if reason else "")
        deed = NewDeed(
            account_id=payment.account_id, actor=actor, action="payment.refunded", detail=what, address=address
        )
        await activity.add(transaction, deed, now)
        return payment, stored, True

    payment, made, new = await run(database, use_case)
    if new and made.state is State.REQUESTED:
        await _request(ways, payment, made)
    return made


async def retry(ways: Payments) -> None:
    """Ask again for refunds that the processor has not confirmed, each by itself. Runs every minute."""
    if ways.stripe is None:
        return
    now = await ways.database.now()
    for waiting in await payments.requested(ways.database, now - _PATIENCE_MS):
        try:
            await _retry(ways, waiting, now)
        except (ProcessorRefused, ProcessorUnavailable, InvalidRequest) as error:
            log.warning("refund %s: %s", waiting.public_id, error)


async def _retry(ways: Payments, waiting: Reversal, now: int) -> None:
    assert ways.stripe is not None
    payment = await payments.by_id(ways.database, waiting.payment_id)
    assert payment.intent is not None
    there = any(each.ours == waiting.public_id for each in await ways.stripe.refunds(payment.intent))
    if there:
        await ways.ask(payment)
    elif waiting.created_at > now - SAME_CALL_MS:
        await _request(ways, payment, waiting)
    else:
        await _undo(ways, payment, waiting)


async def _request(ways: Payments, payment: Payment, made: Reversal) -> None:
    assert ways.stripe is not None
    try:
        await ways.stripe.refund(payment, made.amount, made.public_id)
    except ProcessorRefused as error:
        await _undo(ways, payment, made)
        raise InvalidRequest(f"{error} Nothing was refunded.", param="payment") from error
    except ProcessorUnavailable as error:
        raise ProcessorUnavailable(
            "Stripe cannot be reached. The refund is booked and will be requested later."
        ) from error
    await ways.ask(payment)


async def _undo(ways: Payments, payment: Payment, made: Reversal) -> None:
    """The processor will not: the credit comes back."""
    now = await ways.database.now()

    async def use_case(transaction: Transaction) -> None:
        await payments.locked(ways.database, transaction, payment.id)
        current = next(each for each in await payments.reversals(transaction, payment.id) if each.id == made.id)
        if current.state is not State.REQUESTED:
            return
        returned = msgspec.structs.replace(current, state=State.RETURNED)
        await journal.post(ways.database, transaction, rules.given_back(payment, returned), now)
        await payments.put_reversal(transaction, returned)
        await _paper(ways, transaction, payment, returned, now)

    await run(ways.database, use_case)


def _id(payment: Payment, once: str) -> str:
    """What the refund will be called: a repetition finds it by that name."""
    if not once:
        return new_id("refund")
    return "refund_" + hashlib.sha256(f"{payment.public_id}/{once}".encode()).hexdigest()[:22]


def _left(payment: Payment, gone: list[Reversal]) -> int:
    if payment.status is not Status.PAID:
        raise InvalidRequest(f"the payment is {payment.status.value}, not paid", param="payment")
    return max(0, payment.total - sum(each.amount for each in gone if each.state is not State.RETURNED))


async def _paper(ways: Payments, transaction: Transaction, payment: Payment, made: Reversal, now: int) -> None:
    account = await accounts.known(transaction, payment.account_id)
    draft = ways.issuer.draft(payment, account, await invoices.buyer(transaction, account.id), now)
    kind = "correction" if made.state is State.RETURNED else "credit_note"
    await reverse(transaction, draft, kind, made, made.id)
