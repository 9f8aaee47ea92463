"""What a plan says, on the way of a request."""

import asyncio
import json

from tests.gateway.site import INPUT_NANO, OUTPUT_NANO, Site, always, chat, completion, nano, run, says

from tollbridge.core.plans import Agreed
from tollbridge.services.plans import change_plan

OK = always(says(completion()))
CHAT = "/v1/chat/completions"
PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO
CONFIG = """
[plans.dear]
markup_percent = "12.3456"
[plans.capped]
cost_cap_usd = "0.000001"
[plans.tried]
rpm = 1
shadow = true
[plans.old]
rpm = 1
until = "2020-01-01"
[plans.some]
models = ["e"]
"""


async def put_on(site: Site, plan: str, agreed: Agreed | None = None) -> None:
    """And wait until the gateway has heard of it."""
    await change_plan(site.database, site.account, plan, site.settings.plans, actor="test", agreed=agreed)
    site.gateway._forget()


def test_a_plans_markup_is_on_the_bill_the_list_and_the_books() -> None:
    async def test() -> None:
        async with Site(OK, config=CONFIG) as site:
            await put_on(site, "dear")
            reply = await site.post(CHAT, chat())
            due = -(-PRICE * 1_123_456 // 1_000_000)
            assert nano(reply.headers["x-tollbridge-charged-usd"]) == due > PRICE
            listed = (await site.get("/v1/models/m")).json
            assert listed["price"]["input"] == "1.123456"
            await put_on(site, "default")
            reply = await site.post(CHAT, chat())
            assert nano(reply.headers["x-tollbridge-charged-usd"]) == PRICE
            assert (await site.get("/v1/models/m")).json["price"]["input"] == "1"
            assert [row["charge"] for row in await site.settled(2)] == [due, PRICE]

    run(test())


def test_the_smallest_cost_cap_counts() -> None:
    async def test() -> None:
        async with Site(OK, config=CONFIG) as site:
            await put_on(site, "capped")
            refused = await site.post(CHAT, chat(max_tokens=100), {"X-Tollbridge-Max-Cost-USD": "1"})
            assert (refused.status, refused.json["error"]["code"]) == (400, "cost_cap_exceeded")
            assert "0.000001" in refused.json["error"]["message"]
            await put_on(site, "default", Agreed(cost_cap=1))
            assert (await site.post(CHAT, chat(max_tokens=100))).json["error"]["code"] == "cost_cap_exceeded"
            await put_on(site, "default")
            assert (await site.post(CHAT, chat(max_tokens=100))).status == 200

    run(test())


def test_limits_that_are_tried_out_are_counted_and_refuse_nobody() -> None:
    async def test() -> None:
        async with Site(OK, config=CONFIG) as site:
            await put_on(site, "tried")
            assert [(await site.post(CHAT, chat())).status for _ in range(3)] == [200] * 3
            await asyncio.sleep(0.6)
            lines = [json.loads(line) for line in b"".join(site.log).splitlines()]
            assert [line.get("would_refuse", "") for line in lines] == ["", "requests", "requests"]

    run(test())


def test_a_plan_that_has_ended_limits_nobody_and_what_was_agreed_does() -> None:
    async def test() -> None:
        async with Site(OK, config=CONFIG) as site:
            await put_on(site, "old")
            assert [(await site.post(CHAT, chat())).status for _ in range(2)] == [200, 200]
            await put_on(site, "default", Agreed(rpm=1))
            assert [(await site.post(CHAT, chat())).status for _ in range(2)] == [200, 429]
            await put_on(site, "default", Agreed(rpm=1, until=1))
            assert (await site.post(CHAT, chat())).status == 200

    run(test())


def test_a_model_outside_of_the_plan_is_neither_listed_nor_called() -> None:
    async def test() -> None:
        async with Site(OK, config=CONFIG) as site:
            await put_on(site, "some")
            refused = await site.post(CHAT, chat())
            assert (refused.status, refused.json["error"]["code"]) == (403, "model_not_allowed")
            assert [each["id"] for each in (await site.get("/v1/models")).json["data"]] == ["e"]
            assert (await site.get("/v1/models/m")).status == 404

    run(test())
