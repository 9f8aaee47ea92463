"""What is offered: nothing half-configured, no demo where strangers come, no route without its secret (I1)."""

import pytest
from tests.payments.conftest import USD, Till, at_till, settings, with_stripe
from tests.payments.fake_stripe import SECRET_KEY, SIGNING_SECRET, FakeStripe
from tests.payments.test_webhook import event, signed
from tests.services.conftest import World
from tests.services.test_accounts import make

from tollbridge.core.payments import Buyer, Status
from tollbridge.errors import ConfigError, InvalidRequest, NotFound
from tollbridge.services import accounts, invoices
from tollbridge.services.payments import MOST_PENDING, PENDING_DAYS, open_payments
from tollbridge.store.db import Database

KEY, SECRET = {"stripe__secret_key": SECRET_KEY}, {"stripe__webhook_secret": SIGNING_SECRET}


@pytest.mark.parametrize(
    "given",
    [
        KEY,
        SECRET,
        {**KEY, "stripe__webhook_secret": ""},
        {**KEY, "stripe__webhook_secret": "whsec_"},
        {**KEY, "stripe__webhook_secret": "whsec_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"},
        {**KEY, "stripe__webhook_secret": "changeme"},
        {**KEY, "stripe__webhook_secret": SECRET_KEY},
        {**SECRET, "stripe__secret_key": "sk_test_xxxxxxxxxxxxxxxxxxxx"},
        {**SECRET, "stripe__secret_key": "sk_test_..."},
        {**SECRET, "stripe__secret_key": "pk_test_aB3dE5gH7jK9mN1p"},
        {**SECRET, "stripe__secret_key": SIGNING_SECRET},
        {"stripe__old_webhook_secret": SIGNING_SECRET},
        {**KEY, **SECRET, "stripe__old_webhook_secret": "whsec_old"},
        {**KEY, **SECRET, "stripe__base_url": "http://stripe.example.com"},
        {"billing__least_top_up_usd": "20", "billing__most_top_up_usd": "10"},
        {"billing__least_top_up_usd": "0.001"},
        {"billing__packs_usd": "[50, 10]"},
        {"billing__packs_usd": "[10, 10]"},
        {"billing__packs_usd": "[0]"},
        {"billing__packs_usd": "[true]"},
        {"billing__packs_usd": "[10.5]"},
    ],
    ids=str,
)
def test_half_a_configuration_stops_the_start(given: dict[str, str]) -> None:
    with pytest.raises(ConfigError) as refused:
        settings(**given)
    assert not any(secret in str(refused.value) for secret in given.values() if len(secret) > 12 and "_" in secret)


def test_packs_are_amounts_in_dollars() -> None:
    assert settings().billing.packs == (10 * USD, 50 * USD, 200 * USD)
    assert settings(billing__packs_usd='["9.99", 25]').billing.packs == (9_990_000_000, 25 * USD)


def test_without_stripe_there_is_no_webhook(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        ways = open_payments(database, settings(), "http://127.0.0.1")
        assert await ways.receive(*signed(event())) == 404
        assert await ways.receive("", b"") == 404
        assert await database.fetch("SELECT 1 FROM payment_event") == []

    sqlite_world.run(use)


@pytest.mark.parametrize(
    ("given", "offered"),
    [
        ({}, True),
        ({"public_url": "http://localhost:8000"}, True),
        ({"public_url": "http://127.0.0.1:8000"}, True),
        ({"public_url": "https://api.example.com"}, False),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "0.0.0.0", "public_url": "http://[::1]:8000"}, True),
        ({**KEY, **SECRET}, False),
    ],
    ids=str,
)
def test_the_demo_payment_is_only_for_machines_of_ones_own(
    sqlite_world: World, given: dict[str, str], offered: bool
) -> None:
    async def use(database: Database) -> None:
        ways = open_payments(database, settings(**given), "http://127.0.0.1")
        assert ("demo" in ways.methods) is offered
        account = await make(database)
        if offered:
            checkout = await ways.start_checkout(account, 10 * USD, method="demo")
            assert (await ways.pay_demo(account, checkout.payment.public_id)).status is Status.PAID
            assert (await ways.pay_demo(account, checkout.payment.public_id)).status is Status.PAID
            assert (await accounts.get(database, account.email)).paid == 10 * USD
        else:
            with pytest.raises(InvalidRequest, match="not offered here"):
                await ways.start_checkout(account, 10 * USD, method="demo")

    sqlite_world.run(use)


def test_a_demo_order_is_not_paid_where_demo_payments_have_ended(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        account = await make(database)
        before = open_payments(database, settings(), "http://127.0.0.1")
        checkout = await before.start_checkout(account, 10 * USD, method="demo")
        after = open_payments(database, settings(public_url="https://api.example.com"), "")
        with pytest.raises(NotFound):
            await after.pay_demo(account, checkout.payment.public_id)
        assert (await accounts.get(database, account.email)).paid == 0

    sqlite_world.run(use)


def test_only_demo_orders_are_paid_by_demo(sqlite_world: World) -> None:
    async def use(database: Database) -> None:
        ways = open_payments(database, settings(bank_transfer__instructions="Bank"), "http://127.0.0.1")
        account = await make(database)
        transfer = await ways.start_checkout(account, 10 * USD, method="bank_transfer")
        with pytest.raises(NotFound):
            await ways.pay_demo(account, transfer.payment.public_id)

    sqlite_world.run(use)


def test_an_account_has_so_many_orders_that_nobody_pays(world: World) -> None:
    async def use(database: Database) -> None:
        ways = open_payments(database, settings(bank_transfer__instructions="Bank"), "http://127.0.0.1")
        account = await make(database)
        orders = [
            (await ways.start_checkout(account, 10 * USD, method="bank_transfer", once=f"form {number}")).payment
            for number in range(MOST_PENDING)
        ]
        with pytest.raises(InvalidRequest, match="100 orders of the last 30 days are still unpaid"):
            await ways.start_checkout(account, 10 * USD, method="bank_transfer", once="one more")
        assert len(await ways.orders(account, 1_000)) == MOST_PENDING
        # The same form again is the same order, and who pays one may order one.
        again = await ways.start_checkout(account, 10 * USD, method="bank_transfer", once="form 3")
        assert again.payment.public_id == orders[3].public_id
        assert orders[0].external_id is not None
        await ways.confirm(orders[0].external_id, 10 * USD, actor="test")
        await ways.start_checkout(account, 10 * USD, method="bank_transfer", once="one more")
        # What nobody has paid for long keeps nobody from ordering.
        await database.execute("UPDATE payment SET created_at = created_at - $1", PENDING_DAYS * 86_400_000)
        await ways.start_checkout(account, 10 * USD, method="bank_transfer", once="much later")

    world.run(use)


def test_test_keys_and_live_keys_are_told_apart() -> None:
    stripe = FakeStripe()
    stripe.url = "http://127.0.0.1:1"
    ways = open_payments(None, with_stripe(stripe), "")  # type: ignore[arg-type]
    assert ways.stripe is not None
    assert ways.stripe.live is False
    assert ways.methods == ("stripe",)


def test_an_invoice_says_who_bought_of_whom(sqlite_world: World) -> None:
    async def scenario(till: Till) -> None:
        details = Buyer(name=" Lovelace Ltd ", address="1 Engine St\n\nLondon ", tax_id="GB123")
        await invoices.set_buyer(till.database, till.account, details)
        await till.paid()
        another = Buyer(name="Another", address="2 Engine St", tax_id="GB456")
        await invoices.set_buyer(till.database, till.account, another)
        assert await invoices.buyer(till.database, till.account) == another
        (paper,) = await invoices.papers(till.database, till.ways.issuer, till.account)
        assert (paper.number, paper.buyer.name, paper.buyer.address) == (
            "R-000001",
            "Lovelace Ltd",
            "1 Engine St\nLondon",
        )
        assert (paper.buyer.tax_id, paper.buyer.email) == ("GB123", "ada@example.com")
        assert (paper.seller.name, paper.seller.address, paper.seller.tax_id) == (
            "Example Ltd",
            "Street 1\nTown",
            "DE1",
        )
        for wrong in (Buyer(name="x" * 201), Buyer(name="a\x00b"), Buyer(address="x\n" * 400), Buyer(tax_id="\u202e")):
            with pytest.raises(InvalidRequest):
                await invoices.set_buyer(till.database, till.account, wrong)

    at_till(
        sqlite_world,
        scenario,
        invoices__seller="Example Ltd",
        invoices__address="Street 1\nTown",
        invoices__tax_id="DE1",
        invoices__prefix="R-",
    )
