"""Plans paid for by the month.

    begun = await ways.subscriptions.start(account, "pro")       → begun.url, where its customer pays
    await ways.subscriptions.set_ending(account, True)           no further month; False: go on after all
    await ways.subscriptions.hear(object_id)                     a webhook; False: it is about something else
    await ways.subscriptions.reconcile()                         every minute: what webhooks did not report

What a processor reports is asked for again, as with payments. Each month that it says was paid is first booked as a
payment of its own, checked against what was ordered; how far the booked months reach decides (`core.subscriptions`).
"""

import logging
from collections.abc import Mapping
from typing import Protocol

import msgspec

from tollbridge.core.payments import Origin, Payment, Report
from tollbridge.core.payments import Status as Paid
from tollbridge.core.plans import DEFAULT_PLAN, Plan
from tollbridge.core.subscriptions import ASK_SOON_MS, Bill, Heard, Stage, Subscription, Turn, month_after, turn
from tollbridge.errors import InvalidRequest
from tollbridge.payments import manual
from tollbridge.payments.base import SAME_CALL_MS, ProcessorRefused, ProcessorUnavailable, Subscribing
from tollbridge.payments.stripe import NAME as STRIPE
from tollbridge.payments.stripe import Stripe
from tollbridge.payments.stripe_subscriptions import StripeSubscriptions
from tollbridge.services import notices
from tollbridge.services.accounts import new_id
from tollbridge.services.deeds import Actor
from tollbridge.services.mail import Mail
from tollbridge.services.plans import fill_up_within
from tollbridge.store import accounts, activity, members, payments, subscriptions
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Duplicate, Transaction, run
from tollbridge.values import DAY_MS

log = logging.getLogger("tollbridge")

ACTOR = "payments"
PAGE = "/dashboard/billing/plan"
_BATCH = 100
_TRIES = 4


class Till(Protocol):
    """What a subscription needs from the payments that it belongs to."""

    database: Database
    stripe: Stripe | None

    @property
    def methods(self) -> tuple[str, ...]: ...
    async def customer(self, account: Account) -> str: ...
    async def write_down(self, new: payments.New) -> Payment: ...
    async def ask(self, payment: Payment) -> Payment: ...
    async def settle(self, payment: Payment, report: Report) -> Payment: ...
    async def write(self, transaction: Transaction, letter: Mail, now: int) -> None: ...


class Terms(msgspec.Struct, frozen=True):
    """`plans` by name; `after`: the plan of accounts that pay for none; how mails are signed, and where links lead."""

    plans: Mapping[str, Plan]
    after: str
    brand: str
    url: str
    grace_days: int


class _Stale(Exception):
    """It was changed while its processor was being asked."""


class Subscriptions:
    """All subscriptions of one gateway."""

    def __init__(self, till: Till, terms: Terms) -> None:
        self._till = till
        self._terms = terms
        self._grace = terms.grace_days * DAY_MS

    def offered(self, now: int) -> list[str]:
        """The plans that can be subscribed to: those with a price, if there is a way to pay it."""
        if self._method() is None:
            return []
        every = self._terms.plans.values()
        return [each.name for each in every if each.price and each.listed and each.applies(now)]

    async def current(self, account: Account) -> Subscription | None:
        """The subscription that an account has, or has ordered."""
        return await subscriptions.open_of(self._till.database, account.id)

    # --- the customer -------------------------------------------------------------------------------------------

    async def start(self, account: Account, name: str) -> Subscription:
        """Order a plan: its `url` is where the first month is paid. Ordered again, it is the same order.

        InvalidRequest: not offered, or one is running. ProcessorUnavailable (503): nothing was paid, try again.
        """
        database = self._till.database
        now, method = await database.now(), self._method()
        if method is None or name not in self.offered(now):
            raise InvalidRequest("This plan cannot be bought here: write to the operator.", param="plan")
        if await accounts.agreed_with(database, account.id) is not None:
            raise InvalidRequest("Limits were agreed with you: the operator changes your plan.", param="plan")
        price = self._terms.plans[name].price
        assert price is not None
        before = await self.current(account)
        if before is not None and (before.plan, before.amount, before.method) != (name, price, method):
            before = await self._withdraw(before)
        if before is not None and before.runs:
            raise InvalidRequest(
                "You already pay for a plan. Cancel it; you can buy another when it has ended.", param="plan"
            )
        ours = before or await self._create(account, name, price, method)
        if ours is not None and (ours.plan, ours.amount, ours.method) == (name, price, method):
            begun = ours if ours.url is not None else await self._begin(ours, account)
            if begun.ended_at is None:
                return begun
        raise InvalidRequest("Another plan was ordered at the same moment. Check which, and try again.", param="plan")

    async def look(self, account: Account) -> Subscription | None:
        """The current one; its processor is asked again while it is unpaid, if it can be."""
        ours = await self.current(account)
        if ours is not None and ours.stage is Stage.PENDING and ours.method == STRIPE:
            try:
                await self.follow(ours)
            except (ProcessorUnavailable, ProcessorRefused) as error:
                log.warning("Stripe could not be asked about subscription %s: %s", ours.public_id, error)
            return await self.current(account)
        return ours

    async def withdraw(self, account: Account) -> None:
        """Cancel an unpaid order. ProcessorUnavailable: it is unknown whether it can still be paid."""
        ours = await self.current(account)
        if ours is not None:
            await self._withdraw(ours)

    async def set_ending(self, account: Account, ending: bool, actor: Actor) -> Subscription:
        """Have no further month paid, or go on after all. InvalidRequest: none is running, or no longer."""
        database, ours = self._till.database, await self.current(account)
        if ours is None or not ours.runs:
            raise InvalidRequest("This account does not pay for a plan.", param="plan")
        if ours.method == STRIPE:
            try:
                await self._stripe.set_ending(ours, ending)
            except ProcessorRefused as error:
                log.warning("subscription %s cannot be changed: %s (%s)", ours.public_id, error, error.code)
                # We missed something, most likely its end.
                await self.follow(ours)
                raise InvalidRequest(
                    "It can no longer be changed. Reload the page to see its state.", param="plan"
                ) from None
        now = await database.now()

        async def use_case(transaction: Transaction) -> Subscription:
            current = await subscriptions.locked(database, transaction, ours.id)
            changed = msgspec.structs.replace(current, ending=ending)
            await subscriptions.update(transaction, changed)
            action = "subscription.cancelled" if ending else "subscription.resumed"
            await activity.add(transaction, actor.deed(account.id, action, ours.plan), now)
            return changed

        return await run(database, use_case)

    async def pay_demo(self, account: Account) -> Subscription:
        """Pay the first month with nothing. InvalidRequest: demo payments are not offered here, or none is pending."""
        ours = await self.current(account)
        demo = manual.DEMO in self._till.methods
        if ours is None or not demo or (ours.method, ours.stage) != (manual.DEMO, Stage.PENDING):
            raise InvalidRequest("there is no demo payment to make", param="plan")
        return await self._pay_demo(ours, await self._till.database.now())

    # --- what processors say ------------------------------------------------------------------------------------

    async def hear(self, object_id: str) -> bool:
        """Something changed at Stripe; whether it concerns a subscription of ours. Raises as Stripe's calls do."""
        stripe, database = self._till.stripe, self._till.database
        if stripe is None:
            return False
        ours = await subscriptions.by_external_id(database, object_id)
        if ours is None:
            try:
                session, theirs, public_id = await stripe.subscriptions.origin(object_id)
            except ProcessorRefused as error:
                if error.status == 404:
                    return False
                raise
            if theirs is not None:
                ours = await subscriptions.by_external_id(database, theirs)
            if ours is None and public_id is not None:
                # Its ids were never written down here; what it says is checked with each month that is booked.
                lost = await subscriptions.by_public_id(database, public_id)
                if lost is not None and lost.method == STRIPE and lost.external_id is None:
                    session = lost.session or session
                    ours = await self._learn(msgspec.structs.replace(lost, session=session, external_id=theirs))
        if ours is None:
            return False
        await self.follow(ours)
        return True

    async def follow(self, ours: Subscription) -> Subscription:
        """Ask Stripe for all it knows about a subscription, and act on it."""
        for attempt in range(_TRIES):
            heard = await self._stripe.follow(ours)
            if heard is None:
                return ours
            await self._book(ours, heard)
            try:
                return await self._take(ours, heard, strict=attempt < _TRIES - 1)
            except _Stale:
                ours = await subscriptions.by_id(self._till.database, ours.id)
        raise AssertionError("the last attempt is never stale")

    async def reconcile(self) -> None:
        """Ask about everything that should have been reported by now. Several processes may do so."""
        database = self._till.database
        now = await database.now()
        for ours in await subscriptions.due(database, now, _BATCH):
            if not await subscriptions.postpone(database, ours, now + ASK_SOON_MS):
                continue  # another process asks
            try:
                await self._catch_up(await subscriptions.by_id(database, ours.id), now)
            except (ProcessorUnavailable, ProcessorRefused) as error:
                log.warning("Stripe could not be asked about subscription %s: %s", ours.public_id, error)

    # --- within -------------------------------------------------------------------------------------------------

    @property
    def _stripe(self) -> StripeSubscriptions:
        assert self._till.stripe is not None
        return self._till.stripe.subscriptions

    def _method(self) -> str | None:
        return next((name for name in (STRIPE, manual.DEMO) if name in self._till.methods), None)

    async def _create(self, account: Account, plan: str, amount: int, method: str) -> Subscription | None:
        """A new order, or the one made at the same moment, for this plan or another; None: that one is gone."""
        database = self._till.database
        now = await database.now()
        new = subscriptions.New(
            public_id=new_id("plan"), account_id=account.id, method=method, plan=plan, amount=amount
        )
        try:
            return await run(
                database, lambda transaction: subscriptions.create(transaction, new, now, now + ASK_SOON_MS)
            )
        except Duplicate:
            return await self.current(account)

    async def _begin(self, ours: Subscription, account: Account) -> Subscription:
        """Get its page. If it was cancelled meanwhile, it has ended and its page is closed: nobody pays for it."""
        back = f"{self._terms.url}{PAGE}?ordered=1"
        if ours.method != STRIPE:
            return await self._learn(msgspec.structs.replace(ours, url=back))
        plan = self._terms.plans.get(ours.plan)
        order = Subscribing(
            subscription=ours,
            account=account.public_id,
            customer=await self._till.customer(account),
            product=f"{self._terms.brand} {plan.title or plan.name if plan is not None else ours.plan}",
            success_url=back,
            cancel_url=f"{self._terms.url}{PAGE}",
        )
        try:
            started = await self._stripe.start(order)
        except ProcessorRefused as error:
            log.warning("subscription %s could not be started: %s (%s)", ours.public_id, error, error.code)
            raise ProcessorUnavailable from error
        begun = await self._learn(msgspec.structs.replace(ours, session=started.external_id, url=started.url))
        if begun.ended_at is not None:
            await self._stripe.stop(begun)
        return begun

    async def _learn(self, known: Subscription) -> Subscription:
        """Write down the processor's ids of it."""
        database = self._till.database

        async def use_case(transaction: Transaction) -> Subscription:
            current = await subscriptions.locked(database, transaction, known.id)
            learned = msgspec.structs.replace(
                current,
                session=current.session or known.session,
                external_id=current.external_id or known.external_id,
                url=current.url or known.url,
            )
            await subscriptions.update(transaction, learned)
            return learned

        return await run(database, use_case)

    async def _withdraw(self, before: Subscription) -> Subscription | None:
        """Cancel an unpaid order; what became of it, None: it is gone."""
        if before.runs:
            return before
        if before.method == STRIPE and before.session is not None and self._till.stripe is not None:
            await self._stripe.stop(before)
            # It may have been paid at this very moment.
            after = await self.follow(before)
        else:
            after = await self._take(before, Heard(external_id=None, over=True))
        return None if after.ended_at is not None else after

    async def _catch_up(self, ours: Subscription, now: int) -> None:
        if ours.method == manual.DEMO:
            await self._renew_demo(ours, now)
        elif self._till.stripe is None:
            return
        elif ours.session is not None or ours.external_id is not None:
            await self.follow(ours)
        elif ours.created_at < now - SAME_CALL_MS:
            await self._take(ours, Heard(external_id=None, over=True))
        else:
            account = await accounts.known(self._till.database, ours.account_id)
            await self._begin(ours, account)

    async def _renew_demo(self, ours: Subscription, now: int) -> None:
        if ours.paid_until is None:
            over = ours.created_at < now - DAY_MS
            await self._take(ours, Heard(external_id=None, over=over))
        elif now < ours.paid_until:
            await self._take(ours, Heard(external_id=None, over=False, ending=ours.ending))
        elif ours.ending or manual.DEMO not in self._till.methods:
            await self._take(ours, Heard(external_id=None, over=True))
        else:
            await self._pay_demo(ours, ours.paid_until)

    async def _pay_demo(self, ours: Subscription, since: int) -> Subscription:
        account = await accounts.known(self._till.database, ours.account_id)
        until = month_after(since)
        # Two clicks are one month, even at different times.
        name = "first" if ours.paid_until is None else str(since)
        payment = await self._till.write_down(self._month(ours, name))
        report = msgspec.structs.replace(manual.received(payment, account.public_id), order=ours.public_id)
        await self._till.settle(payment, report)
        bills = (Bill(report.external_id, until),)
        return await self._take(ours, Heard(external_id=None, over=False, ending=ours.ending, bills=bills))

    def _month(self, ours: Subscription, name: str) -> payments.New:
        return payments.New(
            public_id=new_id("pay"),
            account_id=ours.account_id,
            once=f"{ours.public_id}/{name}",
            method=ours.method,
            origin=Origin.SUBSCRIPTION,
            amount=ours.amount,
            subscription_id=ours.id,
        )

    async def _book(self, ours: Subscription, heard: Heard) -> None:
        """Book each month that was paid, once."""
        known = await payments.months_of(self._till.database, ours.id)
        done = {each.external_id for each in known if each.status in {Paid.PAID, Paid.REVIEW, Paid.FAILED}}
        for bill in heard.bills:
            if bill.external_id not in done:
                payment = await self._till.write_down(self._month(ours, bill.external_id))
                await self._till.ask(msgspec.structs.replace(payment, external_id=bill.external_id))

    async def _take(self, ours: Subscription, heard: Heard, *, strict: bool = False) -> Subscription:
        """Act on what was heard. `_Stale`, if `strict`: somebody else has done so meanwhile."""
        database = self._till.database
        now = await database.now()

        async def use_case(transaction: Transaction) -> Turn:
            current = await subscriptions.locked(database, transaction, ours.id)
            if strict and current != ours:
                raise _Stale
            months = await payments.months_of(transaction, ours.id)
            booked = {each.external_id for each in months if each.status is Paid.PAID}
            reach = max((each.until for each in heard.bills if each.external_id in booked), default=None)
            done = turn(current, heard, reach, now, self._grace)
            await subscriptions.update(transaction, done.subscription)
            await self._tell(transaction, done, now)
            return done

        done = await run(database, use_case)
        if done.stop and ours.method == STRIPE:
            await self._stripe.stop(done.subscription)
        return done.subscription

    async def _tell(self, transaction: Transaction, done: Turn, now: int) -> None:
        """The account gets the plan, or loses it, and its owner is told whatever needs their attention."""
        ours, database, terms = done.subscription, self._till.database, self._terms
        account = await accounts.known(transaction, ours.account_id)
        plan, after = terms.plans.get(ours.plan), terms.plans.get(terms.after) or terms.plans[DEFAULT_PLAN]
        title = plan.title or plan.name if plan is not None else ours.plan
        if done.begins:
            await self._put_on(transaction, account, ours.plan, now)
            if plan is not None and plan.included_credit:
                await fill_up_within(database, transaction, account.id, plan, now)
        # An account that the operator put on another plan meanwhile stays there.
        if done.ends and account.plan == ours.plan:
            await self._put_on(transaction, account, after.name, now)
        if account.closed:
            return  # its address is nobody's
        to = await members.recipient(transaction, account.id, account.email)
        if done.ends:
            letter = notices.plan_ended(terms.brand, terms.url, to, (title, after.title or "pay as you go"))
            await self._till.write(transaction, letter, now)
        if done.warns:
            assert ours.paid_until is not None
            until = ours.paid_until + self._grace
            await self._till.write(transaction, notices.plan_unpaid(terms.brand, terms.url, to, title, until), now)

    async def _put_on(self, transaction: Transaction, account: Account, plan: str, now: int) -> None:
        await accounts.set_plan(transaction, account.id, plan, await accounts.agreed_with(transaction, account.id))
        deed = NewDeed(account_id=account.id, actor=ACTOR, action="plan.changed", detail=plan)
        await activity.add(transaction, deed, now)
