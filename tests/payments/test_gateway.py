"""A whole gateway and Stripe's webhook: from the order to a call that the credit pays for."""

from tests.gateway.site import Site, always, chat, completion, run, says
from tests.payments.conftest import USD
from tests.payments.fake_stripe import SECRET_KEY, SIGNING_SECRET, FakeStripe

from tollbridge.core.payments import Status
from tollbridge.edge.webhooks import PATH
from tollbridge.payments.webhook import MOST_BODY
from tollbridge.services import top_ups
from tollbridge.services.notices import tell_low_balances

ANSWERS = always(says(completion()))


def config(stripe: FakeStripe) -> str:
    return f"""
[stripe]
secret_key = "{SECRET_KEY}"
webhook_secret = "{SIGNING_SECRET}"
base_url = "{stripe.url}"
"""


def test_credit_that_was_bought_pays_for_calls() -> None:
    async def main() -> None:
        async with FakeStripe() as stripe, Site(ANSWERS, credit_usd="0.0001", config=config(stripe)) as site:
            assert (await site.post("/v1/chat/completions", chat("x" * 4000))).status == 402
            till = site.gateway._payments()
            checkout = await till.start_checkout(site.account, 10 * USD, method="stripe")
            stripe.pay(checkout.url.rpartition("/")[2])
            for event in stripe.events:
                body, signature = stripe.sign(event)
                reply = await site.post(PATH, body, {"stripe-signature": signature})
                assert (reply.status, reply.json) == (200, {"received": True})
            assert (await till.order(site.account, checkout.payment.public_id)).status is Status.PAID
            assert (await site.post("/v1/chat/completions", chat())).status == 200
            letters = await site.database.fetch("SELECT recipient, subject FROM outbox")
            assert letters == [(site.account.email, "Tollbridge: Receipt INV-000001")]

    run(main())


def test_after_a_refund_calls_want_money_and_after_a_dispute_they_are_refused() -> None:
    """I10: of an account below zero, and of one that is frozen; both are let in again when money is there."""

    async def main() -> None:
        async with FakeStripe() as stripe, Site(ANSWERS, credit_usd="0", config=config(stripe)) as site:
            till = site.gateway._payments()
            statuses = []
            for back in ("refund", "dispute"):
                checkout = await till.start_checkout(site.account, 10 * USD, method="stripe")
                session = stripe.pay(checkout.url.rpartition("/")[2])
                await till.look(site.account, checkout.payment.public_id)
                statuses.append((await site.post("/v1/chat/completions", chat())).status)
                seen = len(stripe.events)
                intent = session["payment_intent"]
                taken = stripe.refund(intent, 1000) if back == "refund" else stripe.dispute(intent)
                for event in stripe.events[seen:]:
                    body, signature = stripe.sign(event)
                    assert (await site.post(PATH, body, {"stripe-signature": signature})).status == 200
                [(paid, frozen)] = await site.database.fetch("SELECT paid, frozen FROM balance WHERE paid <> 0")
                assert (paid < 0, bool(frozen)) == (True, back == "dispute")
                statuses.append((await site.post("/v1/chat/completions", chat())).status)
            stripe.close_dispute(taken["id"], won=True)
            body, signature = stripe.sign(stripe.events[-1])
            assert (await site.post(PATH, body, {"stripe-signature": signature})).status == 200
            statuses.append((await site.post("/v1/chat/completions", chat())).status)
            assert statuses == [200, 402, 200, 403, 200]

    run(main())


def test_what_is_no_webhook_of_stripes_is_refused_at_the_door() -> None:
    async def main() -> None:
        async with FakeStripe() as stripe, Site(ANSWERS, config=config(stripe)) as site:
            assert (await site.post(PATH, b"{}")).status == 400
            assert (await site.post(PATH, b"x" * (MOST_BODY + 1))).status == 413
            assert (await site.get(PATH)).status == 405
            assert await site.database.fetch("SELECT 1 FROM payment_event") == []

    run(main())


def test_without_a_secret_there_is_no_route() -> None:
    async def main() -> None:
        async with Site(ANSWERS) as site:
            assert (await site.post(PATH, b"{}", {"stripe-signature": "t=1,v1=x"})).status == 404

    run(main())


def test_who_has_little_left_gets_one_mail() -> None:
    async def main() -> None:
        async with FakeStripe() as stripe, Site(ANSWERS, credit_usd="0.5", config=config(stripe)) as site:
            till, desk = site.gateway._payments(), site.gateway._desk
            assert desk is not None
            assert await tell_low_balances(desk) == 0  # nothing was ever bought
            checkout = await till.start_checkout(site.account, 5 * USD, method="stripe", save_card=True)
            stripe.pay(checkout.url.rpartition("/")[2])
            await till.look(site.account, checkout.payment.public_id)
            assert await tell_low_balances(desk) == 0
            await site.database.execute("UPDATE balance SET paid = 100000000, promo = 0")
            assert [await tell_low_balances(desk) for _ in range(3)] == [1, 0, 0]
            await site.database.execute("UPDATE balance SET paid = 5000000000, promo = 500000000")
            assert await tell_low_balances(desk) == 0
            subjects = [row[0] for row in await site.database.fetch("SELECT subject FROM outbox ORDER BY id")]
            assert subjects == ["Tollbridge: Receipt INV-000001", "Tollbridge: 0.1 USD of credit left"]

    run(main())


def test_top_ups_that_stop_say_so_by_mail() -> None:
    async def main() -> None:
        async with FakeStripe() as stripe, Site(ANSWERS, config=config(stripe)) as site:
            till = site.gateway._payments()
            checkout = await till.start_checkout(site.account, 5 * USD, method="stripe", save_card=True)
            stripe.pay(checkout.url.rpartition("/")[2])
            await till.look(site.account, checkout.payment.public_id)
            await top_ups.switch_on(till, site.account, threshold=50 * USD, amount=10 * USD, daily_cap=100 * USD)
            for each in stripe.objects.values():
                each["refuses"] = "expired_card"
            for _ in range(4):
                await top_ups.run_due(till)
            subjects = [row[0] for row in await site.database.fetch("SELECT subject FROM outbox ORDER BY id")]
            assert subjects[1:] == ["Tollbridge: Automatic top-ups have stopped"]

    run(main())
