"""Buying credit.

    payments = open_payments(database, settings, url)
    payments.methods, payments.packs, payments.bounds                 what can be bought, and how
    checkout = await payments.start_checkout(account, amount, method="stripe", once=form_token)   → checkout.url
    await payments.order(account, checkout.payment.public_id)         how far it is
    status = await payments.receive(signature_header, body)           Stripe's webhook: the HTTP status to answer with
        await payments.reconcile()                                        every minute: what webhooks did not report

Rule 1  An order is written down before a processor hears of it, and a processor is asked before anything is credited.
Rule 2  A webhook is written down before it is answered. If processing it then fails, it is tried again from the inbox.
Rule 3  Everything that one report causes happens in one transaction, which locks the order first, then the balance.
"""

import logging
import time

import msgspec

from tollbridge.config import Settings, kinds
from tollbridge.core import payments as rules
from tollbridge.core.ledger import Posted
from tollbridge.core.money import NANO_PER_CENT, format_usd
from tollbridge.core.payments import Expected, Origin, Payment, Report, Return, Reversal, Settlement, State, Status
from tollbridge.errors import InvalidRequest, KeyReused, NotFound, TollbridgeError, Unavailable
from tollbridge.payments import manual, webhook
from tollbridge.payments.base import SAME_CALL_MS, Method, Order, ProcessorRefused, ProcessorUnavailable
from tollbridge.payments.stripe import EVENTS, Stripe
from tollbridge.payments.stripe import NAME as STRIPE
from tollbridge.services import notices
from tollbridge.services.accounts import new_id
from tollbridge.services.invoices import Issuer, reverse
from tollbridge.services.mail import Mail, Post
from tollbridge.services.subscriptions import Subscriptions, Terms
from tollbridge.store import accounts, activity, invoices, journal, members, meta, payments, subscriptions, top_ups
from tollbridge.store.accounts import Account
from tollbridge.store.activity import NewDeed
from tollbridge.store.db import Database, Transaction, run
from tollbridge.store.payments import Waiting
from tollbridge.store.rows import ABOVE_ALL
from tollbridge.values import DAY_MS, HOUR_MS, MINUTE_MS

log = logging.getLogger("tollbridge")

MOST_FAILURES = 3
# The note on a payment that is in the books but has nobody left to spend it.
TO_RETURN = "the account is closed: refund it"
# Stripe closes an unpaid session after 24 hours, and says so when asked after that.
_ASK_AGAIN, _ASK_SLOW = 5 * MINUTE_MS, HOUR_MS
# How far back missed events are looked for, since a listing may lag behind.
_OVERLAP_S = 3_600
_SINCE = "stripe_events_since"
_BATCH = 100
_LONGEST_ONCE = 300
# Unpaid orders of one account in recent days. An order for a bank transfer waits for ever.
MOST_PENDING = 100
PENDING_DAYS = 30


class Checkout(msgspec.Struct, frozen=True):
    """An order that was begun, and where its customer goes next. `repeated`: it already existed."""

    payment: Payment
    url: str
    repeated: bool = False


class _Conflict(TollbridgeError):
    """An idempotency key of the journal stands for something else."""


def open_payments(database: Database, settings: Settings, url: str, post: Post | None = None) -> "Payments":
    """Payments as configured; `url`: where customers reach the gateway if `public_url` is not set.

    `post` takes receipts and warnings; without it nobody is written to.
    """
    stripe = None
    if settings.stripe.secret_key is not None:
        stripe = Stripe(
            settings.stripe.secret_key.reveal(),
            base_url=settings.stripe.base_url,
            automatic_tax=settings.stripe.automatic_tax,
        )
    return Payments(database, settings, settings.public_url or url, stripe, post)


class Payments:
    """All payment methods of one gateway."""

    def __init__(
        self, database: Database, settings: Settings, url: str, stripe: Stripe | None, post: Post | None
    ) -> None:
        self.database = database
        self._post = post
        self.stripe = stripe
        self.issuer = Issuer(settings.invoices, settings.brand.name)
        self.packs = settings.billing.packs
        self.bounds = (settings.billing.least_top_up, settings.billing.most_top_up)
        self.instructions = settings.bank_transfer.instructions
        self._brand = settings.brand.name
        self._url = url
        signing = (settings.stripe.webhook_secret, settings.stripe.old_webhook_secret)
        self._signing = tuple(secret.reveal() for secret in signing if secret is not None)
        self._methods: dict[str, Method] = {}
        if stripe is not None and self._signing:
            self._methods[STRIPE] = stripe
        if self.instructions is not None:
            self._methods[manual.BANK_TRANSFER] = manual.BankTransfer()
        if stripe is None and kinds.is_for_this_machine(settings.public_url, settings.host):
            self._methods[manual.DEMO] = manual.Demo()
        terms = Terms(settings.plans, settings.billing.signup_plan, self._brand, url, settings.billing.grace_days)
        self.subscriptions = Subscriptions(self, terms)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods available here, best first: stripe, bank_transfer, demo. Empty: nothing can be bought."""
        return tuple(self._methods)

    async def close(self) -> None:
        if self.stripe is not None:
            await self.stripe.close()

    # --- the customer -------------------------------------------------------------------------------------------

    async def start_checkout(
        self, account: Account, amount: int, *, method: str, once: str = "", save_card: bool = False
    ) -> Checkout:
        """Order `amount` nano-USD of credit. `once`: a text unique to the submitted form; resubmitted, it is one order.

        InvalidRequest: amount or method not acceptable, or too many orders unpaid. ProcessorUnavailable (503): nothing
        was paid, try again.
        """
        self.check_amount(amount)
        way = self._method(method)
        if len(once) > _LONGEST_ONCE or not once.isprintable():
            raise InvalidRequest(f"once has at most {_LONGEST_ONCE} printable characters", param="once")
        public_id = new_id("pay")
        new = payments.New(
            public_id=public_id,
            account_id=account.id,
            once=f"checkout/{once or public_id}",
            method=method,
            origin=Origin.CHECKOUT,
            amount=amount,
            save_card=save_card and method == STRIPE,
        )
        payment = await self.write_down(new)
        if (payment.amount, payment.method, payment.save_card) != (amount, method, new.save_card):
            raise KeyReused("this form was sent before with other values")
        if payment.url is None:
            payment = await self._begin(way, payment, account)
        assert payment.url is not None
        return Checkout(payment, payment.url, repeated=payment.public_id != public_id)

    async def order(self, account: Account, public_id: str) -> Payment:
        """One of an account's orders. NotFound: it has none with that id."""
        found = await payments.by_public_id(self.database, public_id)
        if found is None or found.account_id != account.id:
            raise NotFound("There is no such payment in this account.", param="payment")
        return found

    async def orders(self, account: Account, count: int = 100) -> list[Payment]:
        """An account's orders, newest first."""
        return await payments.of_account(self.database, account.id, ABOVE_ALL, count)

    async def look(self, account: Account, public_id: str) -> Payment:
        """The order, for the page that a customer comes back to; the processor is asked again if it is pending.

        If the processor cannot be asked, what is already known.
        """
        payment = await self.order(account, public_id)
        if payment.method == STRIPE and payment.status in {Status.PENDING, Status.PROCESSING}:
            try:
                return await self.ask(payment)
            except (ProcessorUnavailable, ProcessorRefused) as error:
                log.warning("Stripe could not be asked about payment %s: %s", public_id, error)
        return payment

    async def pay_demo(self, account: Account, public_id: str) -> Payment:
        """Pay an order with nothing. NotFound: demo payments are not offered here, or it is not such an order."""
        payment = await self.order(account, public_id)
        if manual.DEMO not in self._methods or payment.method != manual.DEMO:
            raise NotFound("there is no such demo payment", param="payment")
        return await self.settle(payment, manual.received(payment, account.public_id))

    async def withdraw(self, account: Account) -> None:
        """Close the pages of an account's unpaid orders. ProcessorUnavailable: one of them may still be paid."""
        if self.stripe is None:
            return
        for payment in await payments.waiting_of(self.database, account.id, STRIPE):
            await self.stripe.withdraw(payment)
            # It may have been paid at this very moment.
            await self.look(account, payment.public_id)

    # --- the operator -------------------------------------------------------------------------------------------

    async def confirm(self, reference: str, amount: int, *, actor: str, address: str = "") -> Payment:
        """Credit a bank transfer of `amount` nano-USD that has arrived. InvalidRequest: another amount was ordered.

        Repeating it changes nothing.
        """
        wanted = reference.strip().upper()
        payment = await payments.by_external_id(self.database, wanted)
        if payment is None or payment.method != manual.BANK_TRANSFER:
            raise NotFound(f"no order has the reference {wanted[:40]!r}", param="reference")
        if payment.amount != amount:
            raise InvalidRequest(
                "another amount was ordered: send the difference back, or grant it, and confirm what was ordered",
                param="amount",
            )
        account = await accounts.known(self.database, payment.account_id)
        what = f"{format_usd(amount)} USD, {wanted}"
        deed = NewDeed(account_id=account.id, actor=actor, action="payment.confirmed", detail=what, address=address)
        return await self.settle(payment, manual.received(payment, account.public_id), deed=deed)

    async def dismiss(self, public_id: str, *, actor: str, address: str = "") -> Payment:
        """Close an order that is unpaid or under review: nothing is credited. InvalidRequest: it is paid."""
        now = await self.database.now()

        async def use_case(transaction: Transaction) -> Payment:
            found = await payments.by_public_id(transaction, public_id)
            if found is None:
                raise NotFound(f"there is no payment {public_id[:40]!r}", param="payment")
            payment = await payments.locked(self.database, transaction, found.id)
            if payment.status is Status.PAID:
                raise InvalidRequest("it has been paid: refund it instead", param="payment")
            note = payment.note if payment.status in {Status.REVIEW, Status.FAILED} else "dismissed by the operator"
            closed = msgspec.structs.replace(payment, status=Status.FAILED, note=note, check_at=None)
            await payments.update(transaction, closed)
            if closed != payment:
                deed = NewDeed(
                    account_id=payment.account_id,
                    actor=actor,
                    action="payment.dismissed",
                    detail=public_id,
                    address=address,
                )
                await activity.add(transaction, deed, now)
            return closed

        return await run(self.database, use_case)

    # --- what processors say ------------------------------------------------------------------------------------

    async def receive(self, signature: str, body: bytes) -> int:
        """Stripe's webhook: the status to answer with. `signature`: the header `Stripe-Signature`; `body`: raw.

        404: Stripe is not used here. 400: not from Stripe, nothing was done. 503: send it again.
        """
        if STRIPE not in self._methods or self.stripe is None:
            return 404
        try:
            event = webhook.read(
                signature, body, self._signing, live=self.stripe.live, now=time.time_ns() // 1_000_000_000
            )
        except webhook.Forged as error:
            log.warning("a webhook was refused: %s", error)
            return 400
        if event.kind not in EVENTS:
            return 200
        try:
            await self._take(event)
        except Unavailable as error:
            log.warning("a webhook could not be stored, Stripe will send it again: %s", error)
            return 503
        return 200

    async def reconcile(self) -> None:
        """Ask about everything that should have been reported by now. Runs every minute; several processes may."""
        if self.stripe is None:
            return
        now = await self.database.now()
        for event in await payments.waiting(self.database, now, _BATCH):
            await self._see_to(event)
        for payment in await payments.due(self.database, now, _BATCH):
            if not await payments.postpone(self.database, payment, now + _wait(payment.status)):
                continue  # another process asks
            try:
                await self._catch_up(payment, now)
            except (ProcessorUnavailable, ProcessorRefused) as error:
                log.warning("Stripe could not be asked about payment %s: %s", payment.public_id, error)

    async def find_missed(self) -> int:
        """Process events that Stripe has but that never arrived; how many. Runs every ten minutes."""
        if self.stripe is None:
            return 0
        now = await self.database.now() // 1000
        since = await run(self.database, lambda transaction: meta.first_value(transaction, _SINCE, now - _OVERLAP_S))
        missed = 0
        for event in reversed(await self.stripe.events(since)):
            missed += await self._take(event)
        await meta.raise_to(self.database, _SINCE, now - _OVERLAP_S)
        return missed

    async def settle(
        self, payment: Payment, report: Report, event: str | None = None, deed: NewDeed | None = None
    ) -> Payment:
        """Do what a report says, once; the order afterwards. `deed`: who caused it, noted if anything changes."""
        now = await self.database.now()

        async def use_case(transaction: Transaction) -> Payment:
            before = await payments.locked(self.database, transaction, payment.id)
            after = await self._settle(transaction, payment, report, event, now)
            if deed is not None and after.status is not before.status:
                await activity.add(transaction, deed, now)
            return after

        try:
            return await run(self.database, use_case)
        except _Conflict as error:
            why = str(error)
        log.critical("payment %s is set aside for you to review: %s", payment.public_id, why)

        async def set_aside(transaction: Transaction) -> Payment:
            current = await payments.locked(self.database, transaction, payment.id)
            if current.status is Status.PAID:
                # A later version, or one in which the books were put right, may book what this report says.
                if event is not None:
                    await payments.try_again(transaction, event, now + HOUR_MS)
                return current
            if event is not None:
                await payments.seen_to(transaction, event, now)
            aside = msgspec.structs.replace(current, status=Status.REVIEW, note=why, check_at=None)
            await payments.update(transaction, aside)
            return aside

        return await run(self.database, set_aside)

    async def ask(self, payment: Payment, event: str | None = None) -> Payment:
        """Ask Stripe for all it knows about a payment, and act on it."""
        assert self.stripe is not None
        known = await payments.reversals(self.database, payment.id)
        report = await self.stripe.report(payment, known=bool(known))
        if report is None:
            return payment
        return await self.settle(payment, report, event)

    async def write_down(self, new: payments.New) -> Payment:
        """The order, written to the database before anybody else hears of it."""
        now = await self.database.now()
        # A month of a subscription is already paid when we hear of it.
        waits = now + _ASK_AGAIN if new.method == STRIPE and new.subscription_id is None else None

        async def use_case(transaction: Transaction) -> Payment:
            payment = await payments.create(transaction, new, now, waits)
            if new.origin is Origin.CHECKOUT and payment.public_id == new.public_id:
                since = now - PENDING_DAYS * DAY_MS
                if await payments.count_pending(transaction, new.account_id, since) > MOST_PENDING:
                    raise InvalidRequest(
                        f"{MOST_PENDING} orders of the last {PENDING_DAYS} days are still unpaid: pay one of them, "
                        "or ask whoever runs this gateway to close some."
                    )
            return payment

        return await run(self.database, use_case)

    # --- within -------------------------------------------------------------------------------------------------

    def _method(self, name: str) -> Method:
        way = self._methods.get(name)
        if way is None:
            raise InvalidRequest(
                f"payment by {name[:40]!r} is not offered here, only: {', '.join(self.methods) or 'none'}",
                param="method",
            )
        return way

    def check_amount(self, amount: int) -> None:
        """InvalidRequest: `amount` nano-USD cannot be bought at once."""
        least, most = self.bounds
        if amount not in self.packs and (not least <= amount <= most or amount % NANO_PER_CENT):
            raise InvalidRequest(
                f"an amount must be from {format_usd(least)} to {format_usd(most)} USD, in whole cents", param="amount"
            )

    async def _begin(self, way: Method, payment: Payment, account: Account) -> Payment:
        customer = await self.customer(account) if way.name == STRIPE else None
        back = f"{self._url}/dashboard/billing?payment={payment.public_id}"
        order = Order(
            payment=payment,
            account=account.public_id,
            customer=customer,
            product=f"{self._brand} credit",
            success_url=back,
            cancel_url=f"{back}&canceled=1",
        )
        try:
            started = await way.start(order)
        except ProcessorRefused as error:
            log.warning("payment %s could not be started: %s (%s)", payment.public_id, error, error.code)
            raise ProcessorUnavailable from error

        async def use_case(transaction: Transaction) -> Payment:
            current = await payments.locked(self.database, transaction, payment.id)
            begun = msgspec.structs.replace(
                current, url=started.url, external_id=current.external_id or started.external_id
            )
            await payments.update(transaction, begun)
            return begun

        begun = await run(self.database, use_case)
        if begun.status is Status.FAILED and way.name == STRIPE and self.stripe is not None:
            # Its account was closed meanwhile.
            await self.stripe.withdraw(begun)
        return begun

    async def customer(self, account: Account) -> str:
        """Stripe's id of an account, which is created at Stripe if it has none."""
        assert self.stripe is not None
        known = await invoices.customer(self.database, account.id)
        if known is not None:
            return known
        made = await self.stripe.create_customer(account.public_id, account.email)
        await run(self.database, lambda transaction: invoices.put_customer(transaction, account.id, made))
        return made

    async def _take(self, event: webhook.Event) -> bool:
        """Write an event down and process it; whether it was new."""
        now = await self.database.now()
        written = Waiting(event.id, event.kind, event.object_id, event.intent, 0)
        new = await run(self.database, lambda transaction: payments.receive(transaction, written, now))
        if new or await payments.is_waiting(self.database, event.id):
            await self._see_to(written)
        return new

    async def _see_to(self, event: Waiting) -> None:
        """Ask about the payment that an event concerns. A failure is not raised: the event is tried again later."""
        try:
            payment = await self._known(event)
            if payment is None and not await self.subscriptions.hear(event.object_id):
                payment = await self._payment_of(event)
            if payment is None:
                now = await self.database.now()
                await run(self.database, lambda transaction: payments.seen_to(transaction, event.id, now))
            else:
                await self.ask(payment, event.id)
        except (ProcessorUnavailable, ProcessorRefused) as error:
            log.warning("event %s (%s) could not be processed and will be tried again: %s", event.id, event.kind, error)
            at = await self.database.now() + min(HOUR_MS, MINUTE_MS << min(event.tries, 6))
            await run(self.database, lambda transaction: payments.try_again(transaction, event.id, at))

    async def _known(self, event: Waiting) -> Payment | None:
        """The order that an event concerns, if its ids are known here."""
        for name in (event.object_id, event.intent):
            found = await payments.by_external_id(self.database, name) if name is not None else None
            if found is not None:
                return found
        return None

    async def _payment_of(self, event: Waiting) -> Payment | None:
        """The order that an event concerns according to Stripe; None: it concerns nothing of ours."""
        assert self.stripe is not None
        about = webhook.Event(event.id, event.kind, event.object_id, event.intent)
        try:
            external_id, ours = await self.stripe.order_of(about)
        except ProcessorRefused as error:
            if error.status == 404:
                return None  # gone, or not within reach of our key
            raise
        found = await payments.by_external_id(self.database, external_id)
        if found is None and ours is not None:
            # We died between creating the session and writing down its id. Everything else about it must be as ordered.
            lost = await payments.by_public_id(self.database, ours)
            if lost is not None and lost.method == STRIPE and lost.external_id is None:
                found = msgspec.structs.replace(lost, external_id=external_id)
        return found

    async def _catch_up(self, payment: Payment, now: int) -> None:
        if self.stripe is None:
            return
        if payment.external_id is not None:
            await self.ask(payment)
        elif payment.created_at < now - SAME_CALL_MS:
            await self._fail(payment, "the processor could not be reached")
        elif payment.origin is Origin.CHECKOUT:
            await self._begin(self.stripe, payment, await accounts.known(self.database, payment.account_id))
        elif payment.origin is Origin.AUTO:
            await self.charge(payment, await accounts.known(self.database, payment.account_id))

    async def charge(self, payment: Payment, account: Account) -> Payment:
        """Charge the saved card for an order; a decline ends the order."""
        assert self.stripe is not None
        card = await invoices.card(self.database, account.id)
        if card is None:
            return await self._fail(payment, "no card is saved")
        try:
            report = await self.stripe.charge(payment, account.public_id, card)
        except ProcessorRefused as error:
            return await self._fail(payment, f"{error} ({error.code})" if error.code else str(error))
        return await self.settle(payment, report)

    async def _fail(self, payment: Payment, why: str) -> Payment:
        """Close an order that failed, unless it has succeeded meanwhile."""
        now = await self.database.now()

        async def use_case(transaction: Transaction) -> Payment:
            current = await payments.locked(self.database, transaction, payment.id)
            if current.status in {Status.PAID, Status.REVIEW}:
                return current
            closed = msgspec.structs.replace(current, status=Status.FAILED, note=why, check_at=None)
            await payments.update(transaction, closed)
            await self._count_failure(transaction, closed, await accounts.known(transaction, closed.account_id), now)
            return closed

        return await run(self.database, use_case)

    async def _count_failure(self, transaction: Transaction, payment: Payment, account: Account, now: int) -> None:
        """Too many failures in a row stop automatic top-ups, and the customer is told."""
        if await top_ups.failed(transaction, payment.id, MOST_FAILURES, payment.note):
            to = await members.recipient(transaction, account.id, account.email)
            letter = notices.stopped(self._brand, self._url, to, payment.note)
            await self.write(transaction, letter, now)

    async def write(self, transaction: Transaction, letter: Mail, now: int) -> None:
        """Have a mail sent if the transaction commits: it leaves with the post's next round."""
        if self._post is not None:
            await self._post.put(transaction, letter, now)

    async def _settle(
        self, transaction: Transaction, payment: Payment, report: Report, event: str | None, now: int
    ) -> Payment:
        current = await payments.locked(self.database, transaction, payment.id)
        account = await accounts.known(transaction, current.account_id)
        customer = await invoices.customer(transaction, account.id) if current.method == STRIPE else None
        known = await payments.reversals(transaction, current.id)
        order = None
        if current.subscription_id is not None:
            order = (await subscriptions.by_id(transaction, current.subscription_id)).public_id
        done = rules.settle(current, known, report, Expected(account.public_id, customer, order), now)
        for post in done.posts:
            verdict = await journal.post(self.database, transaction, post, now)
            if not isinstance(verdict, Posted):
                raise _Conflict(f"{post.idempotency_key} stands for something else")
        note = TO_RETURN if done.credited and account.closed else done.payment.note
        after = msgspec.structs.replace(done.payment, check_at=_next(done.payment, now), note=note)
        if after != current:
            await payments.update(transaction, after)
        await self._keep(transaction, done, account, report, now)
        if event is not None:
            await payments.seen_to(transaction, event, now)
        return after

    async def _keep(
        self, transaction: Transaction, done: Settlement, account: Account, report: Report, now: int
    ) -> None:
        """What follows from a settlement: papers, the freeze, the card, the automatic top-up."""
        payment = done.payment
        buyer = await invoices.buyer(transaction, account.id)
        if buyer is None or not buyer.name:
            buyer = report.buyer
        draft = self.issuer.draft(payment, account, buyer, now)
        if done.credited:
            number = await invoices.issue(transaction, draft)
            shown = self.issuer.number(number)
            make = notices.receipt if payment.subscription_id is None else notices.month_paid
            if not account.closed:
                to = await members.recipient(transaction, account.id, account.email)
                await self.write(transaction, make(self._brand, self._url, to, payment, shown), now)
                if report.card is not None:
                    await invoices.put_card(transaction, account.id, report.card)
            await top_ups.succeeded(transaction, payment.id)
        elif payment.status is Status.FAILED:
            await self._count_failure(transaction, payment, account, now)
        froze = False
        if done.freeze:
            current = await accounts.by_id(transaction, account.id)
            froze = current is not None and not current.frozen
            if froze:
                await accounts.set_frozen(transaction, account.id, True)
        for reversal in done.reversals:
            marked = reversal
            if froze and reversal.kind is Return.DISPUTE and not reversal.id:
                marked = msgspec.structs.replace(reversal, froze=True)
            id_ = await payments.put_reversal(transaction, marked)
            if reversal.kind is Return.REFUND:
                await self._note(transaction, draft, reversal, id_)
        if done.thaw and await payments.frozen_by_disputes_that_are_over(transaction, account.id):
            await accounts.set_frozen(transaction, account.id, False)
            await payments.forget_freezes(transaction, account.id)

    async def _note(self, transaction: Transaction, draft: invoices.Invoice, reversal: Reversal, id_: int) -> None:
        """The credit note of a refund, once; or the correction, if the refund failed."""
        issued = await invoices.of_reversal(transaction, id_)
        kind = "correction" if reversal.state is State.RETURNED else "credit_note"
        if kind == "correction" and "credit_note" not in issued:
            return
        if kind not in issued:
            await reverse(transaction, draft, kind, reversal, id_)


def _wait(status: Status) -> int:
    return _ASK_SLOW if status is Status.PROCESSING else _ASK_AGAIN


def _next(payment: Payment, now: int) -> int | None:
    """When to ask again; None: nothing more is expected."""
    if payment.method != STRIPE or payment.status not in {Status.PENDING, Status.PROCESSING}:
        return None
    return now + _wait(payment.status)
