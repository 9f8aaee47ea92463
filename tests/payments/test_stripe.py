"""The thin client: what it reads is what Stripe documents, and each change happens once."""

import asyncio
import importlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.payments.fake_stripe import SECRET_KEY, FakeStripe

from tollbridge.core.payments import Card, Origin, Payment, Report, Status
from tollbridge.payments import stripe, stripe_api
from tollbridge.payments import stripe_objects as objects
from tollbridge.payments.base import Order, ProcessorRefused, ProcessorUnavailable
from tollbridge.payments.stripe import Stripe
from tollbridge.payments.stripe_api import StripeApi

USD = 1_000_000_000

OFFICIAL = {
    objects.Session: "checkout._session:Session",
    objects.PaymentIntent: "_payment_intent:PaymentIntent",
    objects.Charge: "_charge:Charge",
    objects.BalanceTransaction: "_balance_transaction:BalanceTransaction",
    objects.PaymentMethod: "_payment_method:PaymentMethod",
    objects.CardDetails: "_payment_method:PaymentMethod.Card",
    objects.Refund: "_refund:Refund",
    objects.Dispute: "_dispute:Dispute",
    objects.Customer: "_customer:Customer",
    objects.StripeEvent: "_event:Event",
    objects.CustomerDetails: "checkout._session:Session.CustomerDetails",
    objects.Address: "checkout._session:Session.CustomerDetails.Address",
    objects.TaxId: "checkout._session:Session.CustomerDetails.TaxId",
    objects.TotalDetails: "checkout._session:Session.TotalDetails",
    stripe_api.Listed: "_list_object:ListObject",
    objects.Subscription: "_subscription:Subscription",
    objects.Invoice: "_invoice:Invoice",
    objects.Parent: "_invoice:Invoice.Parent",
    objects.Recurring: "_invoice:Invoice.Parent.SubscriptionDetails",
    objects.InvoiceTax: "_invoice:Invoice.TotalTax",
    objects.InvoiceLine: "_invoice_line_item:InvoiceLineItem",
    objects.Span: "_invoice_line_item:InvoiceLineItem.Period",
    objects.InvoicePayment: "_invoice_payment:InvoicePayment",
    objects.PaidWith: "_invoice_payment:InvoicePayment.Payment",
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tollbridge.payments.stripe_api._PAUSE_S", 0.001)


def order(**changes: Any) -> Order:
    payment = Payment(
        id=1,
        public_id="pay_1",
        account_id=1,
        once="x",
        method="stripe",
        origin=Origin.CHECKOUT,
        amount=10 * USD,
        currency="usd",
        status=Status.PENDING,
        external_id=None,
        intent=None,
        url=None,
        save_card=False,
        tax=0,
        fee=0,
        note="",
        created_at=0,
        paid_at=None,
        check_at=None,
    )
    return Order(
        payment=msgspec.structs.replace(payment, **changes),
        account="acct_1",
        customer=None,
        product="credit",
        success_url="http://127.0.0.1/back",
        cancel_url="http://127.0.0.1/no",
    )


def with_client(use: Callable[[FakeStripe, Stripe], Awaitable[Any]]) -> None:
    async def main() -> None:
        async with FakeStripe() as fake:
            client = Stripe(SECRET_KEY, base_url=fake.url)
            try:
                await use(fake, client)
            finally:
                await client.close()

    asyncio.run(main())


async def customer(client: Stripe) -> str:
    return await client.create_customer("acct_1", "ada@example.com")


@pytest.mark.parametrize("ours", OFFICIAL, ids=lambda each: each.__name__)
def test_every_field_that_is_read_is_one_of_stripes(ours: type[msgspec.Struct]) -> None:
    module, _, path = OFFICIAL[ours].partition(":")
    theirs: Any = importlib.import_module(f"stripe.{module}")
    for name in path.split("."):
        theirs = getattr(theirs, name)
    known = {name for each in theirs.__mro__ for name in getattr(each, "__annotations__", {})}
    assert set(ours.__struct_fields__) <= known


def test_the_events_that_are_handled_are_events_of_stripes() -> None:
    path = importlib.import_module("stripe.params._webhook_endpoint_create_params").__file__
    assert path is not None
    known = set(re.findall(r'"([a-z_.]+)"', Path(path).read_text()))
    assert set(stripe.EVENTS) <= known
    assert len(stripe.EVENTS) <= 20  # as many as a list of events can be asked for


def test_the_version_is_one_that_stripes_own_library_speaks() -> None:
    assert stripe_api.API_VERSION == importlib.import_module("stripe._api_version")._ApiVersion.CURRENT


def test_a_session_is_asked_for_with_what_was_ordered() -> None:
    async def use(fake: FakeStripe, client: Stripe) -> None:
        wanted = msgspec.structs.replace(order(save_card=True), customer=await customer(client))
        started = await client.start(wanted)
        session = fake.objects[started.external_id]
        assert (session["amount_total"], session["currency"], session["mode"]) == (1000, "usd", "payment")
        assert session["client_reference_id"] == session["metadata"]["tollbridge_payment"] == "pay_1"
        assert (session["future"], session["marks"]) == ("off_session", session["metadata"])
        assert started.url == session["url"]

    with_client(use)


@pytest.mark.parametrize("fault", ["500", "drop", "lost"])
def test_a_call_that_gets_lost_is_made_again_and_happens_once(fault: str) -> None:
    async def use(fake: FakeStripe, client: Stripe) -> None:
        fake.faults = [fault, fault]
        made = await customer(client)
        assert [id_ for id_ in fake.objects if id_.startswith("cus_")] == [made]
        assert len(fake.calls) == 3

    with_client(use)


def test_stripe_that_stays_away_is_told_from_stripe_that_says_no() -> None:
    async def use(fake: FakeStripe, client: Stripe) -> None:
        fake.faults = ["500"] * 3
        with pytest.raises(ProcessorUnavailable):
            await customer(client)
        with pytest.raises(ProcessorRefused) as refused:
            await client.start(msgspec.structs.replace(order(), customer="cus_none"))
        assert (refused.value.code, refused.value.status) == ("resource_missing", 400)
        assert "in words" not in str(refused.value)

    with_client(use)


def test_a_stripe_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stripe_api, "TIMEOUT_S", 0.05)

    async def use(fake: FakeStripe, client: Stripe) -> None:
        fake.faults = ["hang"] * 3
        with pytest.raises(ProcessorUnavailable):
            await customer(client)

    with_client(use)


def test_a_wrong_key_is_our_trouble_and_not_the_customers() -> None:
    async def use(fake: FakeStripe, client: Stripe) -> None:
        stranger = Stripe("sk_test_somebodyelses00", base_url=fake.url)
        with pytest.raises(ProcessorUnavailable):
            await customer(stranger)
        await stranger.close()

    with_client(use)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"id": 5}', b"\xff", b'{"data": {}}'])
def test_an_answer_that_makes_no_sense_is_no_answer(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def nonsense(self: StripeApi, *_: Any) -> bytes:
        return body

    monkeypatch.setattr(StripeApi, "_call", nonsense)

    async def use(_: FakeStripe, client: Stripe) -> None:
        for call in (client.report(order(external_id="cs_1").payment, known=True), client.events(0), customer(client)):
            with pytest.raises(ProcessorUnavailable):
                await call

    with_client(use)


def test_a_card_is_charged_while_nobody_is_there() -> None:
    async def use(fake: FakeStripe, client: Stripe) -> None:
        owner = await customer(client)
        card = Card(owner, fake.card(owner)["id"], "visa 4242")
        report = await client.charge(order().payment, "acct_1", card)
        assert isinstance(report, Report)
        assert (report.status, report.amount, report.fee) == (Status.PAID, 10 * USD, 590_000_000)
        broke = Card(owner, fake.card(owner, refuses="insufficient_funds")["id"], "visa 0341")
        with pytest.raises(ProcessorRefused) as refused:
            await client.charge(order(public_id="pay_2").payment, "acct_1", broke)
        assert (refused.value.code, refused.value.status) == ("insufficient_funds", 402)

    with_client(use)


def test_a_long_list_is_read_to_its_end() -> None:
    async def use(fake: FakeStripe, client: Stripe) -> None:
        owner = await customer(client)
        session = await client.start(msgspec.structs.replace(order(amount=500 * USD), customer=owner))
        fake.pay(session.external_id)
        intent = fake.objects[session.external_id]["payment_intent"]
        for _ in range(230):
            fake.refund(intent, 100)
        assert len({each.id for each in await client.refunds(intent)}) == 230
        assert len(await client.events(0)) == 2 + 2 * 230
        report = await client.report(order(external_id=session.external_id).payment, known=False)
        assert report is not None
        assert sum(each.amount for each in report.reversals) == 230 * USD

    with_client(use)


@pytest.mark.parametrize("amount", [1, USD + 1, 9_999_999])
def test_what_is_no_whole_cent_is_never_asked_for(amount: int) -> None:
    with pytest.raises(ValueError, match="whole number of cents"):
        stripe_api.cents(amount)


def test_an_id_is_never_a_path() -> None:
    async def use(fake: FakeStripe, client: Stripe) -> None:
        for id_ in ("cs_../../v1/customers", "cs_1?expand=x", "cs_1/x", "cs_\n"):
            with pytest.raises(ProcessorRefused):
                await client.report(order(external_id=id_).payment, known=False)
        assert fake.calls == []

    with_client(use)


def test_a_fee_in_another_currency_is_not_booked_as_ours() -> None:
    async def use(fake: FakeStripe, client: Stripe) -> None:
        owner = await customer(client)
        session = await client.start(msgspec.structs.replace(order(), customer=owner))
        fake.pay(session.external_id)
        for each in fake.objects.values():
            if each["object"] == "balance_transaction":
                each["currency"] = "eur"
        report = await client.report(order(external_id=session.external_id).payment, known=False)
        assert report is not None
        assert (report.status, report.fee) == (Status.PAID, 0)

    with_client(use)
