"""What customers may ask: one request, their credit, their key, and what a request would cost."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.gateway.site import (
    INPUT_NANO,
    OUTPUT_NANO,
    STREAM_HEAD,
    Json,
    Site,
    always,
    by_kind,
    chat,
    chunk,
    completion,
    framed,
    lock_books,
    nano,
    run,
    says,
    stream,
    streams,
    used,
)
from tests.servers import Postgres
from tests.upstream.bad_server import Peer, Request

from tollbridge.core import periods
from tollbridge.core.ledger import top_up
from tollbridge.core.periods import Reset
from tollbridge.errors import Unavailable
from tollbridge.gateway.recent import SLOTS
from tollbridge.gateway.streams import Timing
from tollbridge.services import accounts, byok
from tollbridge.store import journal
from tollbridge.store.db import run as run_in
from tollbridge.store.keys import Rules
from tollbridge.store.lookups import Spending

PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO
OK = always(by_kind(says(completion()), streams(stream())))
CHAT = "/v1/chat/completions"
LIMITED = """
[plans.default]
rpm = 5
tpm = 1000
concurrency = 3
strict = true
"""


async def generation(site: Site, id_: str) -> Json:
    reply = await site.get(f"/v1/generation?id={id_}")
    assert reply.status == 200, reply.body
    return dict(reply.json["data"])


async def nothing_taken(site: Site) -> None:
    rows = await site.database.fetch("SELECT (SELECT COUNT(*) FROM hold), (SELECT SUM(held) FROM balance)")
    assert rows == [(0, 0)]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_request_is_known_the_moment_it_has_ended(streamed: bool) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            for _ in range(20):
                reply = await site.post(CHAT, chat(stream=streamed, stream_options={"include_usage": True}))
                answer = reply.chunks[-1] if streamed else reply.json
                found = await generation(site, reply.headers["x-tollbridge-generation-id"])
                assert found["id"] == answer["id"]
                assert (
                    found["total_cost"] == found["usage"] == found["charge"] == answer["usage"]["cost"] == PRICE / 1e9
                )
                assert found["upstream_inference_cost"] == found["cost"] == PRICE / 1e9
                assert (found["model"], found["provider_name"], found["route"]) == ("m", "up", "up/upstream-m")
                assert (found["native_tokens_prompt"], found["native_tokens_completion"]) == (10, 5)
                assert (found["tokens"]["input"], found["tokens"]["output"]) == (10, 5)
                assert (found["streamed"], found["cancelled"], found["is_byok"]) == (streamed, False, False)
                assert (found["outcome"], found["status"], found["finish_reason"]) == ("completed", 200, "stop")
                assert found["native_finish_reason"] == "stop"
                assert (found["time_to_first_token"] is not None) == streamed
                assert found["attempts"] == []

    run(test())


@pytest.mark.parametrize(
    ("native", "word"),
    [("sensitive", "content_filter"), ("model_length", "length"), ("tool_calls", "tool_calls"), ("new", "new")],
)
def test_how_a_request_ended_is_told_in_openai_s_word(native: str, word: str) -> None:
    async def test() -> None:
        async with Site(always(says(completion(finish=native)))) as site:
            reply = await site.post(CHAT, chat())
            found = await generation(site, reply.json["id"])
            assert (found["finish_reason"], found["native_finish_reason"]) == (word, native)

    run(test())


def test_all_that_was_read_and_written_stands_in_two_sums() -> None:
    usage = {
        **used(100, 50),
        "prompt_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20, "audio_tokens": 10},
        "completion_tokens_details": {"audio_tokens": 10, "image_tokens": 15},
    }

    async def test() -> None:
        async with Site(always(says(completion(usage=usage)))) as site:
            reply = await site.post(CHAT, chat())
            found = await generation(site, reply.json["id"])
            assert (found["native_tokens_prompt"], found["native_tokens_completion"]) == (100, 50)
            assert (found["tokens"]["input"], found["tokens"]["output"]) == (30, 25)

    run(test())


def test_it_is_known_while_the_books_are_behind_and_the_same_when_they_are_not() -> None:
    locks = contextlib.ExitStack()
    sites: list[Site] = []

    async def answer(request: Request, peer: Peer) -> None:
        locks.enter_context(await lock_books(sites[0]))
        await says(completion())(request, peer)

    async def test() -> None:
        async with Site(always(answer)) as site:
            sites.append(site)
            with locks:
                reply = await site.post(CHAT, chat())
                before = await generation(site, reply.json["id"])
            assert "x-tollbridge-balance-usd" not in reply.headers
            await site.settled(1)
            after = await generation(site, reply.json["id"])
            assert (before.pop("settled"), after.pop("settled")) == (False, True)
            assert before == after

    run(test())


def test_nobody_sees_the_request_of_another_account() -> None:
    async def test() -> None:
        async with Site(OK) as site:
            reply = await site.post(CHAT, chat())
            id_ = reply.json["id"]
            second_key = await site.make_key()
            of_same = await site.get(f"/v1/generation?id={id_}", {"authorization": f"Bearer {second_key}"})
            assert of_same.status == 200
            site.account = await accounts.create(
                site.database, "other@example.com", plans=site.settings.plans, actor="test"
            )
            stranger = {"authorization": f"Bearer {await site.make_key()}"}
            unknown = await site.get(f"/v1/generation?id=chatcmpl-{'0' * 32}", stranger)
            foreign = await site.get(f"/v1/generation?id={id_}", stranger)
            assert (foreign.status, foreign.json) == (unknown.status, unknown.json)
            assert (foreign.status, foreign.json["error"]["code"]) == (404, "generation_not_found")
            assert (await site.get("/v1/generation?id=" + id_, {"authorization": ""})).status == 401

    run(test())


def test_nothing_on_the_way_may_keep_what_was_told() -> None:
    async def test() -> None:
        async with Site(OK) as site:
            id_ = (await site.post(CHAT, chat())).json["id"]
            for path in (f"/v1/generation?id={id_}", "/v1/credits", "/v1/key", "/health", "/ready"):
                headers = (await site.get(path)).headers
                assert (headers["cache-control"], headers["content-type"]) == ("no-store", "application/json")
            assert (await site.get("/v1/models")).headers["content-type"] == "application/json"

    run(test())


@pytest.mark.parametrize("has_ended", [True, False])
def test_nobody_sees_the_request_of_another_account_that_only_the_books_know(has_ended: bool) -> None:
    go_on = asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + b"".join(framed(each) for each in stream()))
        await go_on.wait()
        await peer.send(b"0\r\n\r\n")

    async def test() -> None:
        async with Site(always(answer), timing=Timing(tick=20)) as site:
            call = await site.open(CHAT, chat(stream=True))
            _, headers = await call.head()
            id_ = headers["x-tollbridge-generation-id"]
            if has_ended:
                go_on.set()
                await site.settled(1)
                # As if another process had answered it.
                site.gateway._recent._slots = [None] * SLOTS
                assert (await generation(site, id_))["settled"] is True
            site.account = await accounts.create(
                site.database, "other@example.com", plans=site.settings.plans, actor="test"
            )
            foreign = await site.get(f"/v1/generation?id={id_}", {"authorization": f"Bearer {await site.make_key()}"})
            assert (foreign.status, foreign.json["error"]["code"]) == (404, "generation_not_found")
            go_on.set()
            await site.settled(1)
            call.close()

    run(test())


def test_what_ended_here_is_known_while_the_database_is_away_and_nothing_is_said_of_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("The database cannot be reached.", code="ledger_unavailable")

    async def test() -> None:
        async with Site(OK) as site:
            id_ = (await site.post(CHAT, chat())).json["id"]
            await site.settled(1)
            known = await generation(site, id_)
            monkeypatch.setattr("tollbridge.store.lookups.ended", away)
            assert await generation(site, id_) == {**known, "settled": False}
            site.gateway._recent._slots = [None] * SLOTS
            reply = await site.get(f"/v1/generation?id={id_}")
            assert (reply.status, reply.json["error"]["code"]) == (503, "ledger_unavailable")

    run(test())


@pytest.mark.parametrize("query", ["", "?id=", "?ID=x"])
def test_an_id_must_be_given(query: str) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            reply = await site.get(f"/v1/generation{query}")
            assert (reply.status, reply.json["error"]["param"]) == (400, "id")

    run(test())


@pytest.mark.parametrize(
    "id_", ["x", "chatcmpl-", "msg_" + "f" * 32, "%00", "'; DROP TABLE usage; --".replace(" ", "+")]
)
def test_made_up_ids_lead_nowhere(id_: str) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            reply = await site.get(f"/v1/generation?id={id_}")
            assert (reply.status, reply.json["error"]["code"]) == (404, "generation_not_found")

    run(test())


def test_what_was_tried_before_stands_with_it() -> None:
    async def test() -> None:
        fails = always(says({"error": {"message": "sk-secret down"}}, 503))
        async with Site(fails, others={"second": OK}) as site:
            found = await generation(site, (await site.post(CHAT, chat())).json["id"])
            assert found["provider_name"] == "second"
            [attempt] = found["attempts"]
            assert attempt.pop("ms") >= 0
            assert attempt == {"route": "up/upstream-m", "error": "server_error", "status": 503}

    run(test())


def test_a_failed_request_is_known_too() -> None:
    async def test() -> None:
        async with Site(always(says({"error": {"message": "down"}}, 500))) as site:
            reply = await site.post(CHAT, chat())
            assert reply.status == 502
            found = await generation(site, reply.headers["x-tollbridge-generation-id"])
            assert (found["status"], found["charge"], found["outcome"]) == (502, 0, "no_output")
            assert len(found["attempts"]) == 3

    run(test())


def test_a_running_request_has_not_ended_and_one_that_was_left_is_cancelled() -> None:
    async def endless(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + framed(chunk("word")))
        await asyncio.sleep(20)

    async def test() -> None:
        async with Site(always(endless)) as site:
            call = await site.open(CHAT, chat(stream=True))
            _, headers = await call.head()
            id_ = headers["x-tollbridge-generation-id"]
            running = await site.get(f"/v1/generation?id={id_}")
            assert (running.status, running.json["error"]["code"]) == (404, "generation_not_ended")
            call.reset()
            await site.settled(1)
            found = await generation(site, id_)
            assert (found["cancelled"], found["outcome"], found["estimated"]) == (True, "client_left", True)
            assert found["charge"] > 0

    run(test())


def test_credit_is_what_was_given_less_what_was_used() -> None:
    async def test() -> None:
        async with Site(OK, credit_usd="0.25") as site:
            await site.grant("1")
            for number in range(4):
                reply = await site.post(CHAT, chat())
                credit = (await site.get("/v1/credits")).json
                assert credit["data"] == {"total_credits": 1.25, "total_usage": (number + 1) * PRICE / 1e9}
                assert nano(reply.headers["x-tollbridge-balance-usd"]) == round(credit["balance_usd"] * 1e9)
                assert credit["held_usd"] == 0

    run(test())


def test_what_was_paid_what_was_given_and_what_is_held_stand_apart() -> None:
    go_on = asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        await go_on.wait()
        await says(completion())(request, peer)

    async def test() -> None:
        async with Site(always(answer), credit_usd="0.25") as site:
            paid = top_up(site.account.id, 10**9, idempotency_key="paid", reason="test", actor="test")
            now = await site.database.now()
            await run_in(site.database, lambda books: journal.post(site.database, books, paid, now))
            call = await site.open(CHAT, chat(max_tokens=1_000))
            while not await site.database.fetch("SELECT 1 FROM hold"):  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.01)
            shown = (await site.get("/v1/credits")).json
            [(held,)] = await site.database.fetch("SELECT held FROM balance")
            assert 0 < held < 10**9
            assert round(shown.pop("balance_usd") * 1e9) == 1_250_000_000 - held
            assert round(shown.pop("held_usd") * 1e9) == held
            data = {"total_credits": 1.25, "total_usage": 0}
            assert shown == {"data": data, "paid_usd": 1, "promo_usd": 0.25, "frozen": False}
            assert (await site.get("/v1/key")).json["data"]["is_free_tier"] is False
            go_on.set()
            assert (await call.rest()).status == 200
            call.close()

    run(test())


def test_what_a_key_spent_in_each_time_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [
        *("total", "daily", "weekly", "monthly"),
        *("byok_total", "byok_daily", "byok_weekly", "byok_monthly"),
    ]
    since: list[tuple[int, ...]] = []

    async def spending(_database: object, account_id: int, key_id: int, began: tuple[int, ...]) -> Spending:
        since.append((account_id, key_id, *began))
        return Spending(**{name: number * 10**9 for number, name in enumerate(names, 1)})

    async def test() -> None:
        async with Site(OK) as site:
            other = await site.make_key()
            reply = await site.get("/v1/key", {"authorization": f"Bearer {other}"})
            data = reply.json["data"]
            shown = [
                f"{kind}{span}" for kind in ("usage", "byok_usage") for span in ("", "_daily", "_weekly", "_monthly")
            ]
            assert [data[name] for name in shown] == [1, 2, 3, 4, 5, 6, 7, 8]
            (account, key, day, week, month) = since[0]
            assert (account, key) == (site.account.id, 2)
            assert max(week, month) <= day <= int(time.time() * 1000)
            assert [periods.began(each, day) for each in Reset] == [day, week, month]

    monkeypatch.setattr("tollbridge.store.lookups.spending", spending)
    run(test())


def test_a_key_knows_its_limit_its_use_and_what_is_left_of_its_plan() -> None:
    async def test() -> None:
        async with Site(OK, config=LIMITED) as site:
            key = await site.make_key(rules=Rules(limit=10**9), label="laptop")
            own = {"authorization": f"Bearer {key}"}
            for _ in range(2):
                assert (await site.post(CHAT, chat(max_tokens=10), own)).status == 200
            assert (await site.post(CHAT, chat(max_tokens=10))).status == 200
            data = (await site.get("/v1/key", own)).json["data"]
            spent = 2 * PRICE / 1e9
            assert (data["label"], data["limit"], data["limit_remaining"]) == ("laptop", 1, 1 - spent)
            for name in ("usage", "usage_daily", "usage_weekly", "usage_monthly"):
                assert data[name] == spent
            assert data["byok_usage"] == 0
            assert data["limits"]["requests"]["limit"] == 5
            assert data["limits"]["requests"]["remaining"] == 2
            assert data["limits"]["tokens"]["remaining"] == 1000 - 3 * 15
            assert data["limits"]["concurrency"] == 3
            assert (data["rate_limit"]["requests"], data["rate_limit"]["interval"]) == (5, "60s")
            assert data["budgets"] == [data["effective_budget"]]
            budget = data["effective_budget"]
            assert (budget["limit_usd"], budget["spend_usd"], budget["remaining_usd"]) == (1, spent, 1 - spent)
            assert (data["is_free_tier"], data["plan"]) == (True, "default")
            assert key not in str(data)
            for _ in range(10):
                data = (await site.get("/v1/key", own)).json["data"]
            assert data["limits"]["requests"]["remaining"] == 2
            unlimited = (await site.get("/v1/key")).json["data"]
            assert (unlimited["limit"], unlimited["limit_remaining"]) == (None, None)
            assert unlimited["usage"] == PRICE / 1e9
            assert unlimited["included_tokens"] is None
            assert (unlimited["cost_cap_usd"], unlimited["expires_at"]) == (None, None)
            assert unlimited["label"] == unlimited["key"]
            assert unlimited["created_at"].endswith("+00:00")
            assert (unlimited["include_byok_in_limit"], unlimited["is_provisioning_key"]) == (True, False)
            assert round(unlimited["balance_usd"] * 1e9) == await site.balance()

    run(test())


def test_an_estimate_counts_a_prompt_as_count_tokens_does() -> None:
    async def test() -> None:
        async with Site(OK) as site:
            estimate = (await site.post("/v1/estimate", chat())).json
            counted = await site.post("/v1/messages/count_tokens", chat())
            assert estimate["tokens"]["prompt"] == counted.json["input_tokens"]
            assert round(estimate["least_usd"] * 1e9) == counted.json["input_tokens"] * 100  # read from the cache

    run(test())


def test_an_estimate_counts_all_answers_and_stays_below_the_cap() -> None:
    async def test() -> None:
        async with Site(OK) as site:
            two = (await site.post("/v1/estimate", chat(max_tokens=100, n=2))).json
            assert (two["object"], two["model"], two["endpoint"], two["provider"]) == ("estimate", "m", "chat", "up")
            assert (two["tokens"]["max_output"], two["tokens"]["choices"]) == (200, 2)
            assert round(two["greatest_usd"] * 1e9) > 200 * OUTPUT_NANO
            # Without a limit of the caller's, as much is written as the cap pays for.
            cap = 1_000_000
            capped = (await site.post("/v1/estimate", chat(), {"X-Tollbridge-Max-Cost-USD": "0.001"})).json
            assert round(capped["cap_usd"] * 1e9) == cap
            for each in (capped, *capped["routes"]):
                assert 0 < round(each["greatest_usd"] * 1e9) <= cap
            assert capped["tokens"]["max_output"] * OUTPUT_NANO <= cap
            refused = (await site.post("/v1/estimate", {**chat(), "model": "none"})).json
            assert (refused["object"], refused["model"], refused["admitted"]) == ("estimate", "none", False)

    run(test())


@pytest.mark.parametrize("fields", [{"endpoint": "completions"}, {"body": chat()}])
def test_an_estimate_for_an_endpoint_names_it_and_has_its_body(fields: Json) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            # Otherwise it is for a chat, whose fields these are not, or are taken for the provider's.
            assert (await site.post("/v1/estimate", fields)).status == 400
            assert (await site.post("/v1/estimate", {**chat(), **fields})).json["endpoint"] == "chat"

    run(test())


def test_a_providers_own_word_for_the_end_is_told_where_it_was_passed_on() -> None:
    async def test() -> None:
        async with Site(OK) as site:
            for path in (CHAT, "/v1/messages"):
                reply = await site.post(path, chat(max_tokens=50))
                found = await generation(site, reply.headers["x-tollbridge-generation-id"])
                told = (found["finish_reason"], found["native_finish_reason"])
                assert told == ("stop", "stop" if path == CHAT else None)

    run(test())


def test_count_tokens_counts_what_anthropic_says_about_tools() -> None:
    async def test() -> None:
        async with Site(OK) as site:
            few, none = [
                (await site.post("/v1/messages/count_tokens", chat(tools=tools))).json["input_tokens"]
                for tools in ([{"name": "f", "input_schema": {"type": "object"}}], [])
            ]
            assert 290 <= few - none <= 804

    run(test())


@pytest.mark.parametrize("fields", [{"max_tokens": 100}, {}, {"n": 3, "max_tokens": 7}])
def test_an_estimate_is_what_the_request_then_holds(fields: Json) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            estimate = (await site.post("/v1/estimate", chat(**fields))).json
            await nothing_taken(site)
            assert (estimate["admitted"], estimate["error"], estimate["provider"]) == (True, None, "up")
            assert (await site.post(CHAT, chat(**fields))).status == 200
            [row] = await site.settled(1)
            assert round(estimate["held_usd"] * 1e9) == row["held"]
            assert estimate["least_usd"] <= row["charge"] / 1e9 <= estimate["greatest_usd"]

    run(test())


def test_an_estimate_says_why_not_in_the_words_of_the_refusal() -> None:
    async def test() -> None:
        async with Site(OK, config=LIMITED, credit_usd="0.0003") as site:
            for body, headers in (
                ({**chat(), "model": "nothing"}, {}),
                ({**chat(), "provider": {"only": ["nobody"]}}, {}),
                (chat(max_tokens=4096), {}),
                (chat("word " * 4000, max_tokens=1), {}),
                (chat(max_tokens=100), {"X-Tollbridge-Max-Cost-USD": "0.0001"}),
                ({"model": "e", "messages": [{"role": "user", "content": "x"}]}, {}),
            ):
                estimate = (await site.post("/v1/estimate", body, headers)).json
                real = await site.post(CHAT, body, headers)
                assert estimate["admitted"] is False
                assert estimate["status"] == real.status, body
                wanted, found = real.json["error"], estimate["error"]
                assert (found["code"], found["type"], found["param"]) == (
                    wanted["code"],
                    wanted["type"],
                    wanted["param"],
                )
            assert await site.usage() == []

    run(test())


def test_estimates_take_nothing_of_limits() -> None:
    async def test() -> None:
        async with Site(OK, config=LIMITED) as site:
            for _ in range(20):
                assert (await site.post("/v1/estimate", chat(max_tokens=100))).json["admitted"] is True
            for _ in range(5):
                assert (await site.post(CHAT, chat(max_tokens=5))).status == 200
            estimate = (await site.post("/v1/estimate", chat(max_tokens=5))).json
            assert (estimate["status"], estimate["error"]["type"]) == (429, "requests")
            assert 1 <= estimate["retry_after"] <= 60

    run(test())


@pytest.mark.parametrize(
    ("body", "endpoint"),
    [
        ({"endpoint": "chat/completions", "body": chat()}, "chat"),
        ({"endpoint": "/v1/completions", "body": {"model": "m", "prompt": "x"}}, "completions"),
        ({"endpoint": "embeddings", "body": {"model": "e", "input": ["x", "y"]}}, "embeddings"),
    ],
)
def test_any_endpoint_can_be_estimated(body: Json, endpoint: str) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            estimate = (await site.post("/v1/estimate", body)).json
            assert (estimate["admitted"], estimate["endpoint"]) == (True, endpoint)
            assert estimate["greatest_usd"] >= estimate["least_usd"] > 0
            assert (estimate["tokens"]["max_output"] == 0) == (endpoint == "embeddings")

    run(test())


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"endpoint": "images", "body": {}}, "endpoint"),
        ({"endpoint": 1, "body": {}}, "endpoint"),
        ({"endpoint": "chat", "body": []}, None),
        ({"model": "m"}, "messages"),
        (b"{", None),
    ],
)
def test_what_cannot_be_estimated_is_refused(body: Any, param: str | None) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            reply = await site.post("/v1/estimate", body)
            assert (reply.status, reply.json["error"]["param"]) == (400, param)

    run(test())


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    if request.param == "sqlite":
        yield None
    else:
        server: Postgres = request.getfixturevalue("postgres_server")
        with server.database() as url:
            yield url


def test_either_database_tells_the_same(database_url: str | None) -> None:
    async def test() -> None:
        async with Site(OK, database_url=database_url) as site:
            own = {"authorization": f"Bearer {await site.make_key(rules=Rules(limit=10**9))}"}
            providers = byok.providers(site.settings)
            await byok.add(
                site.database,
                site._master,
                site.account,
                provider="up",
                credential="sk-own",
                providers=providers,
                actor="test",
            )
            site.gateway._forget()
            first = await site.post(CHAT, chat(), own)
            second = await site.post(CHAT, {**chat(), "model": "e", "messages": [], "input": "x"}, own)
            assert (first.status, second.status) == (200, 400)
            found = await generation(site, first.json["id"])
            assert (found["charge"], found["is_byok"], found["provider_name"]) == (PRICE / 20 / 1e9, True, "up")
            credit = (await site.get("/v1/credits", own)).json
            assert credit["data"] == {"total_credits": 1, "total_usage": PRICE / 20 / 1e9}
            data = (await site.get("/v1/key", own)).json["data"]
            assert data["usage_monthly"] == data["byok_usage"] == PRICE / 20 / 1e9
            assert data["limit_remaining"] == 1 - PRICE / 20 / 1e9
            estimate = (await site.post("/v1/estimate", chat(max_tokens=10), own)).json
            assert (estimate["admitted"], [each["is_byok"] for each in estimate["routes"]]) == (True, [True, False])
            missing = await site.get(f"/v1/generation?id=msg_{'0' * 32}", own)
            assert missing.status == 404

    run(test())


def test_asking_never_writes() -> None:
    """A13: no answer here makes a journal transaction, a hold or a usage row."""

    async def test() -> None:
        async with Site(OK) as site:
            id_ = (await site.post(CHAT, chat())).json["id"]
            await site.settled(1)
            query = "SELECT (SELECT COUNT(*) FROM journal), (SELECT COUNT(*) FROM usage), (SELECT COUNT(*) FROM hold)"
            before = await site.database.fetch(query)
            for _ in range(20):
                for path in (f"/v1/generation?id={id_}", "/v1/credits", "/v1/key"):
                    assert (await site.get(path)).status == 200
                assert (await site.post("/v1/estimate", chat())).status == 200
            assert await site.database.fetch(query) == before
            for path in ("/v1/credits", "/v1/key", "/v1/generation"):
                assert (await site.post(path, {})).status == 405
            assert (await site.get("/v1/estimate")).status == 405

    run(test())
