"""Callers choose among models and providers: each route is paid for before it is called, and one answer is charged."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from tests.gateway.site import (
    INPUT_NANO,
    OUTPUT_NANO,
    Json,
    Site,
    always,
    by_kind,
    chat,
    chunk,
    completion,
    run,
    says,
    stream,
    streams,
    usage_chunk,
)
from tests.upstream.bad_server import Peer, Request

PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO
MODELS = """
[[models]]
id = "free"
output_limit = 4096
price = { input = "0", output = "0" }
routes = [{ provider = "up", model = "free" }]

[[models]]
id = "dear"
context_window = 100000
output_limit = 4096
price = { input = "100", output = "200" }
routes = [{ provider = "other", model = "dear-m" }]

[[models]]
id = "choice"
context_window = 100000
output_limit = 4096
routes = [
  { provider = "up", model = "one", price = { input = "3", output = "6" } },
  { provider = "other", model = "two", price = { input = "1", output = "2" } },
  { provider = "third", model = "three", price = { input = "2", output = "4" } },
]
"""
Script = Callable[[Peer], Coroutine[Any, Any, None]]
OK: Script = always(by_kind(says(completion()), streams(stream())))
FAILS: Script = always(says({"error": {"message": "down"}}, 500))


def noting(bodies: list[Json]) -> Script:
    """`OK`, with what is asked of it put into `bodies`."""

    async def answer(request: Request, peer: Peer) -> None:
        bodies.append(json.loads(request.body))
        await by_kind(says(completion()), streams(stream()))(request, peer)

    return always(answer)


def three(up: Script = OK, other: Script = OK, third: Script = OK, **options: Any) -> Site:
    return Site(up, others={"other": other, "third": third}, config=MODELS, **options)


async def by(site: Site, **fields: Any) -> tuple[int, str, str]:
    """Status, who answered, and which model the answer names."""
    reply = await site.post("/v1/chat/completions", {**chat(), "model": "choice", **fields})
    named = reply.json.get("model", "") if reply.status == 200 else reply.json["error"]["code"]
    return reply.status, reply.headers.get("x-tollbridge-provider", ""), named


def test_callers_choose_among_the_configured_providers() -> None:
    async def test() -> None:
        async with three() as site:
            for provider, first in (
                ({}, "up"),
                ({"order": ["third"]}, "third"),
                ({"order": ["nobody", "Other"]}, "other"),
                ({"only": ["other", "third"]}, "other"),
                ({"ignore": ["up", "other"]}, "third"),
                ({"sort": "price"}, "other"),
                ({"sort": "price", "ignore": ["other"]}, "third"),
                ({"max_price": {"prompt": 2}}, "other"),
                ({"max_price": {"completion": 5.5}, "order": ["third"]}, "third"),
                ({"allow_fallbacks": False}, "up"),
            ):
                assert await by(site, provider=provider) == (200, first, "choice"), provider
            assert await by(site, model="choice:floor") == (200, "other", "choice")
            for nothing in (
                {"only": ["nobody"]},
                {"max_price": {"prompt": "0.9"}},
                {"ignore": ["up", "other", "third"]},
                {"order": ["nobody"], "allow_fallbacks": False},
            ):
                assert await by(site, provider=nothing) == (404, "", "no_allowed_provider")

    run(test())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"provider": {"api_base": "http://127.0.0.1:1"}}, "provider.api_base"),
        ({"provider": {"order": "up"}}, "provider.order"),
        ({"provider": "http://127.0.0.1:1"}, "provider"),
        ({"models": "free"}, "models"),
        ({"route": "fallback"}, "route"),
    ],
)
@pytest.mark.parametrize("path", ["chat/completions", "completions", "embeddings"])
def test_what_cannot_be_wished_is_refused_by_name(path: str, fields: Json, param: str) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            good: Json = {"chat/completions": chat(), "completions": {"model": "m", "prompt": "x"}}.get(
                path, {"model": "e", "input": "x"}
            )
            reply = await site.post(f"/v1/{path}", {**good, **fields})
            assert (reply.status, reply.json["error"]["param"]) == (400, param)
            assert await site.usage() == []

    run(test())


def test_preferences_are_not_sent_on() -> None:
    bodies: list[Json] = []

    async def test() -> None:
        async with three(noting(bodies)) as site:
            assert (await by(site, provider={"only": ["up"]}, models=["free"], seed=1))[0] == 200
            assert bodies == [{**chat(seed=1), "model": "one"}]

    run(test())


@pytest.mark.parametrize("streamed", [False, True])
def test_the_next_model_answers_under_its_own_name_and_price(streamed: bool) -> None:
    """Fall-backs: the answer names what served, is priced as that, and the record says what was tried."""

    async def test() -> None:
        async with three(other=FAILS) as site:
            body = {**chat(stream=streamed), "model": "dear", "models": ["free", "m"]}
            reply = await site.post("/v1/chat/completions", body)
            assert reply.status == 200
            assert {each["model"] for each in (reply.chunks if streamed else [reply.json])} == {"free"}
            [row] = await site.settled(1)
            assert (row["charge"], row["cost"]) == (0, 0)
            tried = json.loads(row["attempts"])
            assert [(each["route"], each["failed"], each["status"]) for each in tried] == [
                ("other/dear-m", "server_error", 500)
            ]
            body = {**body, "models": ["m"]}
            reply = await site.post("/v1/chat/completions", body)
            assert {each["model"] for each in (reply.chunks if streamed else [reply.json])} == {"m"}
            _, row = await site.settled(2)
            assert row["charge"] == PRICE

    run(test())


@pytest.mark.parametrize("streamed", [False, True])
def test_models_that_the_caller_named_are_no_storm_of_retries(streamed: bool) -> None:
    """Also while little is going on, and before the breaker opens."""

    async def test() -> None:
        async with three(other=FAILS) as site:
            for _ in range(12):
                body = {
                    **chat(stream=streamed),
                    "model": "dear",
                    "models": ["m"],
                    "provider": {"only": ["up", "other"]},
                }
                reply = await site.post("/v1/chat/completions", body)
                assert reply.status == 200
            rows = await site.settled(12)
            assert [row["charge"] for row in rows] == [PRICE] * 12

    run(test())


@pytest.mark.parametrize("first", ["nowhere", "e", "dear"])
def test_a_model_that_cannot_be_served_is_passed_over(first: str) -> None:
    """Unknown, of another type, or with no provider that can be called."""

    async def test() -> None:
        async with three(other=always(says({"error": {"message": "no money"}}, 402))) as site:
            if first == "dear":
                await site.post("/v1/chat/completions", {**chat(), "model": "dear"})
            reply = await site.post("/v1/chat/completions", {**chat(), "model": first, "models": ["nothing", "m"]})
            assert (reply.status, reply.json.get("model")) == (200, "m")
            alone = await site.post("/v1/chat/completions", {**chat(), "model": "nowhere", "models": ["nothing"]})
            assert (alone.status, alone.json["error"]["code"]) == (404, "model_not_found")
            assert "nowhere" in alone.json["error"]["message"]

    run(test())


def test_what_one_model_rejects_is_asked_of_the_next_and_of_no_other_route() -> None:
    """A prompt may be too long, or against the rules, for one model and right for another."""

    async def test() -> None:
        rejects = always(says({"error": {"message": "too long"}}, 400))
        async with three(rejects) as site:
            assert (await by(site))[0] == 400
            for _ in range(30):  # takes nothing of what is kept for retries
                status, provider, model = await by(site, models=["dear"])
                assert (status, provider, model) == (200, "other", "dear")
            assert site.others["third"].accepted == 0
            rows = await site.settled(31)
            assert [row["charge"] for row in rows] == [0] + [PRICE * 100] * 30

    run(test())


def test_who_wishes_for_a_provider_that_rests_is_told_when_to_come_again() -> None:
    limits = always(says({"error": {"message": "slow down"}}, 429, {"Retry-After": "7"}))

    async def test() -> None:
        async with Site(limits) as site:
            body = {**chat(), "provider": {"order": ["up"]}}
            replies = [await site.post("/v1/chat/completions", body) for _ in range(2)]
            assert [reply.status for reply in replies] == [429, 503]
            assert replies[1].json["error"]["code"] == "no_available_provider"
            assert 5 <= int(replies[1].headers["retry-after"]) <= 7
            assert site.upstream.accepted == 1

    run(test())


def test_without_fallbacks_no_other_provider_is_tried() -> None:
    async def test() -> None:
        async with three(FAILS) as site:
            assert await by(site) == (200, "other", "choice")
            status, _, code = await by(site, provider={"allow_fallbacks": False})
            assert (status, code) == (502, "upstream_unavailable")
            status, _, code = await by(site, provider={"order": ["up"], "allow_fallbacks": False})
            assert (status, code) == (502, "upstream_unavailable")

    run(test())


def test_free_model_that_fails_never_leads_to_a_paid_call_without_money() -> None:
    """A11, a hundred times: no unpaid call of the dear provider."""

    async def test() -> None:
        async with three(FAILS, credit_usd="0") as site:
            seen = Counter[int]()
            for number in range(100):
                body = {**chat(stream=number % 2 == 1), "model": "free", "models": ["dear"]}
                seen[(await site.post("/v1/chat/completions", body)).status] += 1
            assert site.others["other"].accepted == 0
            assert set(seen) <= {402, 502}
            await site.grant("1")
            reply = await site.post("/v1/chat/completions", {**chat(), "model": "free", "models": ["dear"]})
            assert (reply.status, reply.json["model"]) == (200, "dear")
            rows = await site.settled(1)
            assert sum(row["charge"] for row in rows) == 100 * PRICE

    run(test())


def test_hold_is_extended_before_a_dearer_model_is_called() -> None:
    """A11: what is held when the dear provider has the request covers the request there."""
    held: list[int] = []

    async def test() -> None:
        async def note(request: Request, peer: Peer) -> None:
            [(amount,)] = await site.database.fetch("SELECT held FROM balance")
            held.append(amount)
            await says(completion())(request, peer)

        async with three(FAILS, other=always(note)) as site:
            body = {**chat(max_tokens=100), "model": "free", "models": ["dear"]}
            assert (await site.post("/v1/chat/completions", body)).status == 200
            assert held[0] >= 100 * OUTPUT_NANO * 100
            [row] = await site.settled(1)
            assert row["held"] == held[0]

    run(test())


def test_a_model_that_the_balance_cannot_pay_gives_way_to_one_that_it_can() -> None:
    async def test() -> None:
        async with three(credit_usd="0.01") as site:
            body = {**chat(max_tokens=1000), "model": "dear"}
            assert (await site.post("/v1/chat/completions", body)).status == 402
            reply = await site.post("/v1/chat/completions", {**body, "models": ["m"]})
            assert (reply.status, reply.json["model"]) == (200, "m")
            reply = await site.post(
                "/v1/chat/completions", {**body, "models": ["m"]}, {"X-Tollbridge-Max-Cost-USD": "0.005"}
            )
            assert (reply.status, reply.json["model"]) == (200, "m")
            assert site.others["other"].accepted == 0
            assert [row["charge"] for row in await site.settled(2)] == [PRICE] * 2

    run(test())


def test_a_request_that_is_tried_again_is_charged_once_for_what_answered() -> None:
    """A12, two hundred requests, some with one or two attempts that fail before the one that answers."""
    chance = random.Random(20260704)
    failing = {"up": 0, "other": 0, "third": 0}

    def flaky(name: str) -> Script:
        async def answer(request: Request, peer: Peer) -> None:
            if failing[name]:
                failing[name] -= 1
                await says({"error": {"message": "busy"}}, 503)(request, peer)
            else:
                await by_kind(says(completion()), streams(stream()))(request, peer)

        return always(answer)

    prices = {"up": 3 * PRICE, "other": PRICE, "third": 2 * PRICE}

    async def test() -> None:
        async with three(flaky("up"), flaky("other"), flaky("third"), credit_usd="100") as site:
            expected = []
            for number in range(200):
                # What fails stays below what opens a breaker and within what is kept for retries.
                order = chance.sample(list(prices), 3)
                down = order[: chance.randint(0, 2)] if number % 12 == 11 else []
                failing.update(dict.fromkeys(prices, 0) | dict.fromkeys(down, 1))
                body = {**chat(stream=bool(number % 2)), "model": "choice", "provider": {"order": order}}
                reply = await site.post("/v1/chat/completions", body)
                assert reply.status == 200
                answered = reply.headers["x-tollbridge-provider"]
                assert answered not in down
                expected.append((prices[answered], len(down)))
            rows = await site.settled(200)
            found = [(row["charge"], len(json.loads(row["attempts"] or "[]"))) for row in rows]
            assert found == expected
            assert await site.balance() == 100 * 10**9 - sum(charge for charge, _ in expected)

    run(test())


def test_an_upstream_without_credit_is_left_alone() -> None:
    calls: list[Json] = []

    async def test() -> None:
        async def broke(request: Request, peer: Peer) -> None:
            calls.append(json.loads(request.body))
            await says({"error": {"message": "Insufficient Balance"}}, 402)(request, peer)

        async with three(always(broke)) as site:
            for _ in range(20):
                assert await by(site) == (200, "other", "choice")
            assert len(calls) == 1

    run(test())


def test_a_limited_upstream_cools_and_the_next_one_answers() -> None:
    """E3."""
    calls: list[int] = []

    async def test() -> None:
        async def limited(request: Request, peer: Peer) -> None:
            calls.append(1)
            await says({"error": {"message": "slow down"}}, 429, {"Retry-After": "3"})(request, peer)

        async with three(always(limited)) as site:
            for _ in range(10):
                assert await by(site) == (200, "other", "choice")
            assert len(calls) == 1
            await asyncio.sleep(3.05)
            assert await by(site) == (200, "other", "choice")
            assert len(calls) == 2

    run(test())


@pytest.mark.parametrize(("required", "provider"), [(None, "up"), (False, "up"), (True, "other")])
def test_required_parameters_leave_out_who_drops_them(
    monkeypatch: pytest.MonkeyPatch, required: bool | None, provider: str
) -> None:
    monkeypatch.setenv("TOLLBRIDGE_PROVIDERS__UP__DROPS", '["seed"]')
    bodies: list[Json] = []

    async def test() -> None:
        async with three(noting(bodies)) as site:
            assert await by(site, seed=1, provider={"require_parameters": required}) == (200, provider, "choice")
            assert await by(site, provider={"require_parameters": required}) == (200, "up", "choice")
            assert all("seed" not in body for body in bodies)

    run(test())


def test_the_fastest_provider_is_found_by_its_answers() -> None:
    """`:nitro` goes to who writes fastest, `latency` to who begins first; who was never measured is tried."""
    words = ["some words that are more than a few tokens in all"] * 4

    def writing(before: float, between: float) -> Script:
        async def answer(request: Request, peer: Peer) -> None:
            await asyncio.sleep(before)
            await streams([*(chunk(word) for word in words), chunk(finish="stop"), usage_chunk(10, 40)], between)(
                request, peer
            )

        return always(answer)

    async def test() -> None:
        async with three(writing(0.0, 0.2), writing(0.6, 0.02), writing(0.3, 0.1)) as site:

            async def first(**fields: Any) -> str:
                body = {**chat(stream=True), "model": "choice", **fields}
                return (await site.post("/v1/chat/completions", body)).headers["x-tollbridge-provider"]

            tried = {await first(provider={"sort": "latency"}) for _ in range(3)}
            assert tried == {"up", "other", "third"}
            assert await first(provider={"sort": "latency"}) == "up"
            assert await first(model="choice:nitro") == "other"
            assert await first(provider={"sort": "throughput", "ignore": ["other"]}) == "third"

    run(test())
