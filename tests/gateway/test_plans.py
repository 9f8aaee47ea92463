"""What a plan and a key say, on the way of a request."""

import asyncio
import contextlib
import json
from functools import partial
from typing import Any

import pytest
from tests.gateway.site import (
    INPUT_NANO,
    OUTPUT_NANO,
    Site,
    always,
    chat,
    completion,
    lock_books,
    nano,
    run,
    says,
    stream,
    streams,
)
from tests.upstream.bad_server import Peer, Request

from tollbridge.core.periods import Reset
from tollbridge.core.plans import Agreed
from tollbridge.gateway.streams import Timing
from tollbridge.services.plans import change_plan
from tollbridge.store import accounts
from tollbridge.store.db import run as run_in
from tollbridge.store.keys import Rules

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
            while b"".join(site.log).count(b"\n") < 3:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.01)
            lines = [json.loads(line) for line in b"".join(site.log).splitlines()]
            assert [line.get("would_refuse", "") for line in lines] == ["", "requests", "requests"]

    run(test())


def test_the_limits_of_a_key_refuse_while_those_of_its_plan_are_tried_out() -> None:
    async def test() -> None:
        async with Site(OK, config=CONFIG) as site:
            await put_on(site, "tried")
            await use_key(site, Rules(rpm=2))
            replies = [await site.post(CHAT, chat()) for _ in range(3)]
            assert [reply.status for reply in replies] == [200, 200, 429]
            assert replies[2].headers["x-ratelimit-limit-requests"] == "2"
            assert len(await site.settled(2)) == 2
            # Who asks on regardless cools down, as after refusals by any limit.
            assert site.gateway._abuse.refusals.minutes

    run(test())


def test_a_plan_that_has_ended_limits_nobody_and_what_was_agreed_does() -> None:
    async def test() -> None:
        async with Site(OK, config=CONFIG) as site:
            await put_on(site, "old")
            assert [(await site.post(CHAT, chat())).status for _ in range(2)] == [200, 200]
            await put_on(site, "default", Agreed(rpm=1))
            assert [(await site.post(CHAT, chat())).status for _ in range(2)] == [200, 429]
            # As if the day until which it was agreed were over.
            over = Agreed(rpm=1, until=1)
            await run_in(site.database, lambda each: accounts.set_plan(each, site.account.id, "default", over))
            site.gateway._forget()
            assert (await site.post(CHAT, chat())).status == 200

    run(test())


def test_a_model_outside_of_the_plan_is_neither_listed_nor_called() -> None:
    async def test() -> None:
        async with Site(OK, config=CONFIG) as site:
            assert (await site.post(CHAT, chat())).status == 200
            await put_on(site, "some")
            for _ in range(2):  # what was allowed before is not remembered, nor is what was refused
                refused = await site.post(CHAT, chat())
                assert (refused.status, refused.json["error"]["code"]) == (403, "model_not_allowed")
            assert [each["id"] for each in (await site.get("/v1/models")).json["data"]] == ["e"]
            assert (await site.get("/v1/models/m")).status == 404
            await put_on(site, "default")
            assert (await site.post(CHAT, chat())).status == 200

    run(test())


# --- keys ---------------------------------------------------------------------------------------------------------


async def use_key(site: Site, rules: Rules, **options: Any) -> None:
    site.key = await site.make_key(rules=rules, **options)


def test_a_key_calls_its_own_models_alone() -> None:
    async def test() -> None:
        async with Site(OK) as site:
            await use_key(site, Rules(models=("x-*", "e")))
            refused = await site.post(CHAT, chat())
            assert (refused.status, refused.json["error"]["code"]) == (403, "model_not_allowed")
            assert "API key" in refused.json["error"]["message"]
            assert [each["id"] for each in (await site.get("/v1/models")).json["data"]] == ["e"]
            await use_key(site, Rules(models=("m",)))
            assert (await site.post(CHAT, chat())).status == 200

    run(test())


@pytest.mark.parametrize("path", ["/v1/models", "/v1/key", "/v1/nothing", CHAT])
def test_a_key_is_used_from_its_own_addresses_alone(path: str) -> None:
    async def test() -> None:
        async with Site(OK, config='[server]\ntrusted_proxies = ["127.0.0.1"]\n') as site:
            await use_key(site, Rules(addresses=("203.0.113.0/24", "2001:db8::/32")))
            asks = partial(site.post, path, chat()) if path == CHAT else partial(site.get, path)
            allowed = 404 if path == "/v1/nothing" else 200
            for forwarded, status in {
                "203.0.113.9": allowed,
                "2001:db8::1": allowed,
                "::ffff:203.0.113.9": allowed,
                "203.0.114.1": 403,
                "203.0.113.9, 198.51.100.1": 403,
                "": 403,
            }.items():
                reply = await asks(headers={"x-forwarded-for": forwarded})
                assert reply.status == status, forwarded
                assert status != 403 or reply.json["error"]["code"] == "address_not_allowed"

    run(test())


def test_nobody_is_believed_to_come_from_elsewhere() -> None:
    async def test() -> None:
        async with Site(OK) as site:
            await use_key(site, Rules(addresses=("203.0.113.0/24",)))
            assert (await site.post(CHAT, chat(), {"x-forwarded-for": "203.0.113.9"})).status == 403
            await use_key(site, Rules(addresses=("127.0.0.0/8",)))
            assert (await site.post(CHAT, chat())).status == 200

    run(test())


def test_a_keys_limits_are_taken_with_its_accounts_or_not_at_all() -> None:
    """D9: two keys share what the account has, and each has its own bound."""

    async def test() -> None:
        async with Site(OK, config="[plans.default]\nrpm = 3\nstrict = true\n") as site:
            other = site.key
            await use_key(site, Rules(rpm=2))
            statuses = [(await site.post(CHAT, chat())).status for _ in range(4)]
            assert statuses == [200, 200, 429, 429]
            assert (await site.get("/v1/key")).json["data"]["rate_limit"]["requests"] == 2
            site.key = other
            assert [(await site.post(CHAT, chat())).status for _ in range(2)] == [200, 429]

    run(test())


def test_what_a_key_obeys_is_shown() -> None:
    async def test() -> None:
        async with Site(OK) as site:
            rules = Rules(
                limit=10**9, reset=Reset.MONTHLY, models=("m",), addresses=("127.0.0.1",), tpm=9_000, cost_cap=10**9
            )
            await use_key(site, rules)
            await site.post(CHAT, chat())
            shown = (await site.get("/v1/key")).json["data"]
            assert (shown["limit"], shown["limit_remaining"], shown["limit_reset"]) == (1, 1 - PRICE / 10**9, "monthly")
            assert shown["limit_resets_at"].endswith("-01T00:00:00.000+00:00")
            assert (shown["models"], shown["addresses"], shown["cost_cap_usd"]) == (["m"], ["127.0.0.1/32"], 1)
            assert shown["limits"]["tokens"]["limit"] == 9_000
            refused = await site.post(CHAT, chat("word " * 20_000, max_tokens=4000))
            assert refused.json["error"]["type"] == "tokens"

    run(test())


# --- tokens that are included -------------------------------------------------------------------------------------

INCLUDED = """
[plans.default]
included_tokens = {}
"""


async def quota(site: Site) -> tuple[int, int]:
    """What is used, and what is left."""
    shown = (await site.get("/v1/key")).json["data"]["included_tokens"]
    return shown["used"], shown["remaining"]


def test_included_tokens_cost_nothing_then_credit_is_used_then_nothing_is_left() -> None:
    async def test() -> None:
        async with Site(OK, config=INCLUDED.format(300), credit_usd="0.00085") as site:
            reply = await site.post(CHAT, chat(max_tokens=260))
            assert reply.headers["x-tollbridge-charged-usd"] == "0"
            assert reply.headers["x-tollbridge-upstream-cost-usd"] != "0"
            assert reply.json["usage"]["cost"] == 0
            assert await quota(site) == (15, 285)
            assert (await site.get("/v1/key")).json["data"]["included_tokens"]["limit"] == 300
            told = await site.get(f"/v1/generation?id={reply.json['id']}")
            assert told.json["data"]["total_cost"] == 0
            # More than is left: credit is used.
            reply = await site.post(CHAT, chat(n=2, max_tokens=200))
            assert nano(reply.headers["x-tollbridge-charged-usd"]) == PRICE
            estimated = (await site.post("/v1/estimate", chat(n=2, max_tokens=500))).json
            assert (estimated["status"], estimated["error"]["code"]) == (429, "insufficient_quota")
            refused = await site.post(CHAT, chat(n=2, max_tokens=500))
            assert (refused.status, refused.json["error"]["code"]) == (429, "insufficient_quota")
            assert refused.json["error"]["type"] == "insufficient_quota"
            assert refused.headers["x-should-retry"] == "false"
            assert refused.json["balance_usd"] == 0.00083
            # Neither is used up: there are 285 tokens and some credit left.
            assert "used up" not in refused.json["detail"]
            assert "0.00083 USD are left" in refused.json["detail"]
            # What still fits, fits.
            assert (await site.post(CHAT, chat(max_tokens=100))).status == 200
            assert await quota(site) == (30, 270)
            assert [row["charge"] for row in await site.settled(3)] == [0, PRICE, 0]

    run(test())


def test_included_tokens_are_no_charge_while_the_books_are_behind_nor_in_the_log() -> None:
    locks = contextlib.ExitStack()
    sites: list[Site] = []

    async def answer(request: Request, peer: Peer) -> None:
        locks.enter_context(await lock_books(sites[0]))
        await says(completion())(request, peer)

    async def test() -> None:
        async with Site(always(answer), config=INCLUDED.format(30_000), credit_usd="0") as site:
            sites.append(site)
            with locks:
                reply = await site.post(CHAT, chat())
                told = (await site.get(f"/v1/generation?id={reply.json['id']}")).json["data"]
            assert (told["settled"], told["charge"]) == (False, 0)
            assert reply.headers["x-tollbridge-charged-usd"] == "0"
            await site.settled(1)
            site.gateway._log.flush()
            [line] = [json.loads(each) for each in b"".join(site.log).splitlines() if b"chat/completions" in each]
            assert "charge" not in line

    run(test())


def test_a_stranger_without_credit_calls_on_included_tokens() -> None:
    async def test() -> None:
        async with Site(OK, config=INCLUDED.format(1_000), credit_usd="0") as site:
            reply = await site.post(CHAT, chat())
            assert (reply.status, reply.headers["x-tollbridge-balance-usd"]) == (200, "0")
            # An answer is at most as long as tokens are left for.
            assert 900 < int(reply.headers["x-tollbridge-max-tokens-applied"]) < 1_000
            assert await quota(site) == (15, 985)

    run(test())


@pytest.mark.parametrize("usage", [{"prompt_tokens": 0, "completion_tokens": 0}, None])
def test_an_answer_that_is_not_charged_takes_no_included_tokens(usage: Any) -> None:
    answer = completion(usage=usage, text="", finish=None)

    async def test() -> None:
        async with Site(always(says(answer)), config=INCLUDED.format(1_000), credit_usd="0") as site:
            await site.post(CHAT, chat())
            await site.settled(1)
            assert await quota(site) == (0, 1_000)

    run(test())


def test_a_stream_on_included_tokens_grows_and_ends_where_they_do() -> None:
    words = [f" word{number}" for number in range(1_500)]

    async def test() -> None:
        script = always(streams(stream(words, usage=None), pause=0.001))
        config = INCLUDED.format(700) + "[billing]\ndefault_hold_tokens = 300\n"
        async with Site(script, config=config, credit_usd="0", timing=Timing(tick=0.02)) as site:
            reply = await site.post(CHAT, chat(stream=True))
            assert reply.status == 200
            assert reply.chunks[-1]["usage"]["cost"] == 0
            [row] = await site.settled(1)
            assert row["charge"] == 0
            used, left = await quota(site)
            # Of 629 tokens that can be held 95 % are used, or more.
            assert (used + left, left < 105) == (700, True)

    run(test())


def test_included_tokens_that_running_calls_hold_come_back_and_the_error_says_so() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        asked.set()
        await go_on.wait()
        await says(completion())(request, peer)

    async def test() -> None:
        async with Site(always(answer), config=INCLUDED.format(500), credit_usd="0") as site:
            running = asyncio.create_task(site.post(CHAT, chat(max_tokens=400)))
            await asked.wait()
            refused = await site.post(CHAT, chat(max_tokens=400))
            assert (refused.status, refused.json["error"]["type"]) == (429, "tokens")
            assert refused.json["error"]["code"] == "rate_limit_exceeded"
            assert "running requests hold the rest of this month's included tokens" in refused.json["detail"]
            # OpenAI's clients wait for so long and ask again by themselves.
            assert int(refused.headers["retry-after"]) > 0
            assert "x-should-retry" not in refused.headers
            shown = (await site.get("/v1/key")).json["data"]["included_tokens"]
            assert (shown["limit"], shown["used"], shown["held"] > 400) == (500, 0, True)
            assert shown["remaining"] == 500 - shown["held"]
            go_on.set()
            assert (await running).status == 200
            assert (await site.post(CHAT, chat(max_tokens=400))).status == 200

    run(test())


def test_what_costs_nothing_takes_no_included_tokens() -> None:
    free = """
[[models]]
id = "free"
context_window = 1000
price = { input = "0", output = "0" }
routes = [{ provider = "up", model = "x" }]
"""

    async def test() -> None:
        async with Site(OK, config=INCLUDED.format(1_000) + free, credit_usd="0") as site:
            assert (await site.post(CHAT, {**chat(), "model": "free"})).status == 200
            assert await quota(site) == (0, 1_000)

    run(test())


def test_credit_that_is_included_comes_at_the_first_refusal_and_once_a_month() -> None:
    async def test() -> None:
        config = '[plans.gift]\nincluded_credit_usd = "0.0001"\n'
        async with Site(OK, config=config, credit_usd="0") as site:
            assert (await site.post(CHAT, chat(max_tokens=10))).status == 402
            await put_on(site, "gift")
            replies = [await site.post(CHAT, chat(max_tokens=10)) for _ in range(6)]
            assert [reply.status for reply in replies] == [200] * 3 + [402] * 3
            assert await site.balance() == 100_000 - 3 * PRICE

    run(test())


def test_a_new_months_credit_comes_to_whoever_was_refused_just_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database says when a month begins: a gateway whose clock is ahead has asked too early."""
    monkeypatch.setattr("tollbridge.gateway.admission._FILL_UP_AGAIN_S", 0.2)

    async def test() -> None:
        config = '[plans.gift]\nincluded_credit_usd = "0.0001"\n'
        async with Site(OK, config=config, credit_usd="0") as site:
            await put_on(site, "gift")
            replies = [await site.post(CHAT, chat(max_tokens=10)) for _ in range(4)]
            assert [reply.status for reply in replies] == [200] * 3 + [402]
            await site.database.execute("UPDATE journal SET idempotency_key = 'of last month' WHERE actor = 'plan'")
            await asyncio.sleep(0.2)
            assert (await site.post(CHAT, chat(max_tokens=10))).status == 200

    run(test())


def test_calls_that_are_refused_at_once_all_get_the_months_credit() -> None:
    async def test() -> None:
        config = '[plans.gift]\nincluded_credit_usd = "0.01"\n'
        async with Site(OK, config=config, credit_usd="0") as site:
            await put_on(site, "gift")
            replies = await asyncio.gather(*(site.post(CHAT, chat(max_tokens=10)) for _ in range(8)))
            assert [reply.status for reply in replies] == [200] * 8

    run(test())


def test_a_second_plan_in_the_same_month_gives_its_own_credit_at_the_first_refusal() -> None:
    async def test() -> None:
        config = "".join(f'[plans.{name}]\nincluded_credit_usd = "0.0001"\n' for name in ("gift", "other"))
        async with Site(OK, config=config, credit_usd="0") as site:
            for name in ("gift", "other"):
                await put_on(site, name)
                while (await site.post(CHAT, chat(max_tokens=10))).status == 200:
                    pass
            assert len(await site.settled(6)) == 6  # three each time: what is left is filled up to 0.0001

    run(test())
