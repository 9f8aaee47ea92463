"""Automatic top-ups: when little is left, the saved card is charged while nobody is there.

One payment at a time, never more than the daily cap in any 24 hours, and none after three failures in a row until the
customer switches them on again.
"""

import logging

from tollbridge.core.money import format_usd
from tollbridge.core.payments import Card, Origin, Payment
from tollbridge.errors import Faults, InvalidRequest, TollbridgeError
from tollbridge.payments.base import ProcessorRefused, ProcessorUnavailable
from tollbridge.payments.stripe import NAME as STRIPE
from tollbridge.services.accounts import new_id
from tollbridge.services.payments import Payments
from tollbridge.store import accounts, invoices, payments, top_ups
from tollbridge.store.accounts import Account
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.top_ups import AutoTopUp
from tollbridge.values import DAY_MS, MINUTE_MS

log = logging.getLogger("tollbridge")

_ASK_AFTER_MS = 5 * MINUTE_MS
_BATCH = 100


class _NotNeeded(TollbridgeError):
    """Somebody else was quicker, or the cap is reached; what was begun is rolled back."""


async def card(database: Database, account: Account) -> Card | None:
    """The card that an account has saved; its `hint` may be shown."""
    return await invoices.card(database, account.id)


async def current(database: Database, account: Account) -> AutoTopUp | None:
    """The settings switched on; `stopped` says why they no longer do anything."""
    return await top_ups.get(database, account.id)


async def switch_on(ways: Payments, account: Account, *, threshold: int, amount: int, daily_cap: int) -> None:
    """Buy `amount` whenever less than `threshold` is left, for at most `daily_cap` a day (nano-USD).

    InvalidRequest: an amount is not acceptable, no card is saved, or it is not offered here.
    """
    check(ways, threshold=threshold, amount=amount, daily_cap=daily_cap)
    if await card(ways.database, account) is None:
        raise InvalidRequest("no card is saved: save one with your next payment", param="card")
    wanted = AutoTopUp(account_id=account.id, threshold=threshold, amount=amount, daily_cap=daily_cap)
    await run(ways.database, lambda transaction: top_ups.put(transaction, wanted))


def check(ways: Payments, *, threshold: int, amount: int, daily_cap: int) -> None:
    """InvalidRequest names all amounts that are not acceptable, or says that it is not offered here."""
    if not offered(ways):
        raise InvalidRequest("automatic top-ups are not offered here")
    most = ways.bounds[1]
    with Faults() as faults:
        if not 0 < threshold <= most:
            faults.add(f"a threshold must be above 0 and at most {format_usd(most)} USD", "threshold")
        faults.of(None, ways.check_amount, amount)
        if not amount <= daily_cap <= 100 * most:
            faults.add("the daily cap must be at least what one top-up buys", "daily_cap")


async def switch_off(database: Database, account: Account) -> None:
    await run(database, lambda transaction: top_ups.remove(transaction, account.id))


async def forget_card(ways: Payments, account: Account) -> None:
    """Remove the saved card, here and at Stripe, and automatic top-ups with it."""
    saved = await card(ways.database, account)

    async def use_case(transaction: Transaction) -> None:
        await top_ups.remove(transaction, account.id)
        await invoices.put_card(transaction, account.id, None)

    await run(ways.database, use_case)
    if saved is not None and ways.stripe is not None:
        try:
            await ways.stripe.forget(saved)
        except (ProcessorRefused, ProcessorUnavailable) as error:
            log.warning("the card of account %s could not be removed at Stripe: %s", account.public_id, error)


async def run_due(ways: Payments) -> int:
    """Charge the cards of all accounts with too little left; how many. Runs every minute; several processes may."""
    if not offered(ways):
        return 0
    charged = after = 0
    while found := await top_ups.due(ways.database, after, _BATCH):
        for account_id in found:
            charged += await _run(ways, account_id)
        after = found[-1]
    return charged


async def _run(ways: Payments, account_id: int) -> bool:
    """Charge the account's card if that is still due; whether it was."""
    now = await ways.database.now()
    try:
        payment = await run(ways.database, lambda transaction: _order(transaction, account_id, now))
    except _NotNeeded:
        return False
    if payment is None:
        return False
    try:
        await ways.charge(payment, await accounts.known(ways.database, account_id))
    except ProcessorUnavailable as error:
        # Whether it was charged is not known: the reconciler asks, under the same key.
        log.warning("whether top-up %s was paid is not known yet, Stripe will be asked: %s", payment.public_id, error)
    return True


def offered(ways: Payments) -> bool:
    """Whether customers here can have their card charged automatically."""
    # Stripe computes tax on its pages only: nothing could add it to a charge without one.
    return ways.stripe is not None and STRIPE in ways.methods and not ways.stripe.automatic_tax


async def _order(transaction: Transaction, account_id: int, now: int) -> Payment | None:
    """The next top-up of an account, claimed; None: switched off, or one is running. `_NotNeeded` rolls it back."""
    wanted = await top_ups.get(transaction, account_id)
    if wanted is None or wanted.stopped is not None or wanted.payment_id is not None:
        return None
    public_id = new_id("pay")
    new = payments.New(
        public_id=public_id,
        account_id=account_id,
        once=f"auto/{public_id}",
        method=STRIPE,
        origin=Origin.AUTO,
        amount=wanted.amount,
    )
    payment = await payments.create(transaction, new, now, now + _ASK_AFTER_MS)
    # Somebody quicker may be done already: only with the claim in hand is it certain that their result is seen.
    if not await top_ups.claim(transaction, account_id, payment.id) or not await top_ups.is_low(
        transaction, account_id
    ):
        raise _NotNeeded
    if await payments.spent_automatically(transaction, account_id, now - DAY_MS) > wanted.daily_cap:
        raise _NotNeeded
    return payment
