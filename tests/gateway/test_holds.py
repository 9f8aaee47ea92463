"""Money before and while a request runs: caps, holds that fit, holds that grow."""

import asyncio
import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateway.site import (
    DONE,
    INPUT_NANO,
    OUTPUT_NANO,
    STREAM_HEAD,
    Json,
    Site,
    always,
    chat,
    chunk,
    completion,
    framed,
    nano,
    run,
    says,
    stream,
    streams,
)
from tests.upstream.bad_server import Peer, Request

from tollbridge.core import money, pricing
from tollbridge.core.ledger import Extend, Held, Hold
from tollbridge.gateway.holds import Holds
from tollbridge.gateway.policy import Policy
from tollbridge.gateway.streams import Timing
from tollbridge.services import accounts
from tollbridge.store.keys import Rules
from tollbridge.values import Outcome, Price, Route


def seeing(bodies: list[Any], answer: Any = None) -> Any:
    async def script(request: Request, peer: Peer) -> None:
        bodies.append(json.loads(request.body))
        await (answer or says(completion()))(request, peer)

    return always(script)


def usd(nano_usd: int) -> str:
    return money.format_usd(nano_usd)


def test_request_above_the_operators_cap_is_refused_unsent() -> None:
    bodies: list[Any] = []

    async def test() -> None:
        config = '[billing]\ncost_cap_usd = "0.001"\n'
        async with Site(seeing(bodies), config=config) as site:
            reply = await site.post("/v1/chat/completions", chat(max_tokens=1000))
            assert reply.status == 400
            assert reply.json["error"]["code"] == "cost_cap_exceeded"
            assert (await site.post("/v1/chat/completions", chat(max_tokens=100))).status == 200
            assert len(bodies) == 1

    run(test())


def test_a_picture_that_the_model_counts_dearly_is_not_looked_at_on_too_little_credit() -> None:
    """gpt-4o-mini reads a small one as 8,500 tokens, a large one as nearly 50,000."""
    bodies: list[Any] = []
    mini = """
        [[models]]
        id = "mini"
        price = { input = "1", output = "2" }
        routes = [{ provider = "up", model = "gpt-4o-mini" }]
    """
    png = b"\x89PNG\r\n\x1a\n" + bytes(8) + (512).to_bytes(4, "big") * 2
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    shown = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]

    async def test() -> None:
        async with Site(seeing(bodies), config=mini, credit_usd="0.04") as site:
            reply = await site.post("/v1/chat/completions", chat(model="mini", messages=shown, max_tokens=10))
            assert (reply.status, reply.json["error"]["code"]) == (402, "insufficient_credits")
            assert (await site.post("/v1/chat/completions", chat(messages=shown, max_tokens=10))).status == 200
            assert len(bodies) == 1

    run(test())


def test_callers_own_cap_bounds_their_request() -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            cap = {"X-Tollbridge-Max-Cost-USD": "0.001"}
            assert (await site.post("/v1/chat/completions", chat(max_tokens=1000), cap)).status == 400
            assert (await site.post("/v1/chat/completions", chat(max_tokens=100), cap)).status == 200
            for garbage in ("1e-3", "-1", "NaN", "", " ", "0.0000000001", "one"):
                reply = await site.post("/v1/chat/completions", chat(), {"X-Tollbridge-Max-Cost-USD": garbage})
                assert reply.status in (200, 400)
                assert reply.status == 400 or not garbage.strip()

    run(test())


@pytest.mark.parametrize("second", ["9", "0.001"])
def test_cap_that_is_sent_twice_is_refused_and_not_guessed_at(second: str) -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            # A dictionary can hold both: names of headers know no case.
            caps = {"X-Tollbridge-Max-Cost-USD": "0.001", "x-tollbridge-max-cost-usd": second}
            for path in ("/v1/chat/completions", "/v1/estimate"):
                reply = await site.post(path, chat(max_tokens=100), caps)
                assert reply.status == 400
                assert reply.json["error"]["param"] == "x-tollbridge-max-cost-usd"
                assert "once" in reply.json["error"]["message"]

    run(test())


def test_request_without_a_limit_is_limited_to_what_its_cap_pays_for() -> None:
    bodies: list[Any] = []

    async def test() -> None:
        async with Site(seeing(bodies)) as site:
            reply = await site.post("/v1/chat/completions", chat(), {"X-Tollbridge-Max-Cost-USD": "0.002"})
            assert reply.status == 200
            applied = int(reply.headers["x-tollbridge-max-tokens-applied"])
            assert bodies[0]["max_tokens"] == applied
            assert 900 < applied <= 1000
            [row] = await site.settled(1)
            assert row["held"] <= 2_000_000

    run(test())


def test_request_without_a_limit_is_sent_without_one_when_money_allows() -> None:
    bodies: list[Any] = []

    async def test() -> None:
        async with Site(seeing(bodies)) as site:
            reply = await site.post("/v1/chat/completions", chat())
            assert "x-tollbridge-max-tokens-applied" not in reply.headers
            assert "max_tokens" not in bodies[0]

    run(test())


@pytest.mark.parametrize("asked", [None, 4000])
def test_what_the_balance_affords_is_what_may_be_written(asked: int | None) -> None:
    bodies: list[Any] = []

    async def test() -> None:
        async with Site(seeing(bodies), credit_usd="0.004") as site:
            fields: Json = {} if asked is None else {"max_tokens": asked}
            reply = await site.post("/v1/chat/completions", chat(**fields))
            assert reply.status == 200
            applied = int(reply.headers["x-tollbridge-max-tokens-applied"])
            assert bodies[0]["max_tokens"] == applied
            assert 1900 < applied <= 2000
            [row] = await site.settled(1)
            assert row["held"] == 4_000_000

    run(test())


def test_balance_that_is_too_small_is_said_with_what_is_there() -> None:
    async def test() -> None:
        async with Site(always(says(completion())), credit_usd="0.0001") as site:
            reply = await site.post("/v1/chat/completions", chat())
            assert reply.status == 402
            assert reply.json["error"]["code"] == "insufficient_credits"
            assert reply.json["balance_usd"] == 0.0001
            assert "retry-after" not in reply.headers
            assert await site.usage() == []

    run(test())


@pytest.mark.parametrize("credit", ["1", "0.004", "0.0001", "0"])
@pytest.mark.parametrize("asked", [None, 100, 4000])
def test_a_request_with_a_claim_is_held_for_like_one_without(credit: str, asked: int | None) -> None:
    """Nearly every request has none, and its hold is asked for by a shorter way."""
    bodies: list[Any] = []

    async def test() -> None:
        fields: Json = {} if asked is None else {"max_tokens": asked}
        found = []
        for headers in ({}, {"Idempotency-Key": "one"}):
            async with Site(seeing(bodies), credit_usd=credit) as site:
                reply = await site.post("/v1/chat/completions", chat(**fields), headers)
                rows = await site.settled(1) if reply.status == 200 else []
                refusal = reply.json.get("error"), reply.json.get("balance_usd")
                found.append((reply.status, refusal, [row["held"] for row in rows]))
        assert found[0] == found[1]
        assert len(bodies) in (0, 2)
        assert all(body == bodies[0] for body in bodies)

    run(test())


def test_a_refused_request_asks_for_its_hold_once(monkeypatch: pytest.MonkeyPatch) -> None:
    holds: list[Hold] = []

    async def test() -> None:
        async with Site(always(says(completion())), credit_usd="0.0001") as site:
            assert site.gateway.ledger is not None
            submit = site.gateway.ledger.submit

            def seen(op: Any) -> Any:
                holds.append(op)
                return submit(op)

            monkeypatch.setattr(site.gateway.ledger, "submit", seen)
            assert (await site.post("/v1/chat/completions", chat())).status == 402
            monkeypatch.undo()

    run(test())
    assert [type(op) for op in holds] == [Hold]


def test_credit_that_running_calls_hold_comes_back_and_the_error_says_so() -> None:
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        asked.set()
        await go_on.wait()
        await says(completion())(request, peer)

    async def test() -> None:
        async with Site(always(answer), credit_usd="0.0009") as site:
            running = asyncio.create_task(site.post("/v1/chat/completions", chat(max_tokens=400)))
            await asked.wait()
            refused = await site.post("/v1/chat/completions", chat(max_tokens=400))
            assert refused.status == 402
            assert refused.json["error"]["code"] == "in_flight_budget_exhausted"
            assert int(refused.headers["retry-after"]) > 0
            go_on.set()
            assert (await running).status == 200
            assert (await site.post("/v1/chat/completions", chat(max_tokens=400))).status == 200

    run(test())


def test_revoked_key_and_frozen_account_stop_at_their_next_call() -> None:
    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            assert (await site.post("/v1/chat/completions", chat())).status == 200
            await accounts.set_frozen(site.database, site.account.email, True, actor="test")
            frozen = await site.post("/v1/chat/completions", chat())
            assert (frozen.status, frozen.json["error"]["code"]) == (403, "account_frozen")
            await accounts.set_frozen(site.database, site.account.email, False, actor="test")
            await site.database.execute("UPDATE api_key SET revoked_at = 1")
            revoked = await site.post("/v1/chat/completions", chat())
            assert (revoked.status, revoked.json["error"]["code"]) == (401, "invalid_api_key")

    run(test())


def long_stream(words: int, pause: float) -> Any:
    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD)
        for _ in range(words):
            await peer.send(framed(chunk("word ")))
            await asyncio.sleep(pause)
        await peer.send(framed(chunk(finish="stop")) + framed(DONE) + b"0\r\n\r\n")

    return always(answer)


QUICK = Timing(tick=0.05, checkpoint=0.1)


def test_hold_of_a_long_stream_grows_with_it() -> None:
    async def test() -> None:
        config = "[billing]\ndefault_hold_tokens = 100\n"
        async with Site(long_stream(400, 0.003), config=config, timing=QUICK) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            assert reply.events[-1] == "[DONE]"
            [row] = await site.settled(1)
            assert row["held"] >= row["charge"] > 400 * OUTPUT_NANO
            [(steps,)] = await site.database.fetch("SELECT COUNT(*) FROM hold_step")
            assert steps >= 2

    run(test())


def test_stream_whose_hold_cannot_grow_ends_with_length_and_says_why() -> None:
    async def test() -> None:
        config = "[billing]\ndefault_hold_tokens = 300\n"
        # Enough for the first hold and one step of 256 tokens, not for a second.
        async with Site(long_stream(4000, 0.002), config=config, credit_usd="0.0013", timing=QUICK) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            last = reply.chunks[-1]
            assert reply.events[-1] == "[DONE]"
            assert last["choices"][0]["finish_reason"] == "length"
            assert "credit" in json.dumps(last)
            [row] = await site.settled(1)
            assert (row["outcome"], row["finish"]) == (Outcome.COMPLETED, "length")
            assert row["charge"] <= 1_300_000
            assert await site.balance() >= 0

    run(test())


NEVER = Timing(tick=3_600.0)


def test_hold_of_a_burst_grows_with_it_between_two_ticks() -> None:
    async def test() -> None:
        config = "[billing]\ndefault_hold_tokens = 100\n"
        async with Site(long_stream(3000, 0.0), config=config, timing=NEVER) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            assert reply.text == "word " * 3000
            assert reply.events[-1] == "[DONE]"
            [row] = await site.settled(1)
            assert row["held"] >= row["charge"] > 3000 * OUTPUT_NANO

    run(test())


def test_nothing_more_is_read_while_a_hold_is_extended_whatever_the_caller_can_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[tuple[int, int]] = []

    async def test() -> None:
        config = "[billing]\ndefault_hold_tokens = 100\n"
        async with Site(long_stream(1_000, 0.0), config=config, timing=NEVER) as site:
            assert site.gateway.ledger is not None
            assert site.gateway._line is not None
            submit, live = site.gateway.ledger.submit, site.gateway._line.edge._live

            async def slowly(op: Extend) -> Any:
                [call] = live._calls
                assert call.stream is not None
                before = call.stream.chunks
                call._resume()  # the caller's socket has room again
                await asyncio.sleep(0.2)
                read.append((before, call.stream.chunks))
                return await submit(op)

            monkeypatch.setattr(
                site.gateway.ledger, "submit", lambda op: slowly(op) if isinstance(op, Extend) else submit(op)
            )
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            monkeypatch.undo()
            assert reply.text == "word " * 1_000
            await site.settled(1)

    run(test())
    assert read
    assert all(before == after for before, after in read)


def test_burst_ends_where_its_money_does_not_at_the_next_tick() -> None:
    async def test() -> None:
        config = "[billing]\ndefault_hold_tokens = 100\n"
        async with Site(long_stream(3500, 0.0), config=config, credit_usd="0.003", timing=NEVER) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            assert reply.chunks[-1]["choices"][0]["finish_reason"] == "length"
            assert "credit" in json.dumps(reply.chunks[-1])
            [(charge, loss)] = await site.database.fetch("SELECT charge, loss FROM usage")
            # What came in the same read (64 KiB) as the word at which the money ended.
            assert loss <= 64 * 1024 // len(framed(chunk("word "))) * OUTPUT_NANO
            assert 2_500_000 < charge <= 3_000_000

    run(test())


def test_who_is_told_that_an_answer_was_cut_is_told_by_which_limit() -> None:
    async def test() -> None:
        config = "[billing]\ndefault_hold_tokens = 100\n"
        async with Site(long_stream(3000, 0.0), config=config, timing=NEVER) as site:
            key = await site.make_key(rules=Rules(limit=1_000_000))
            reply = await site.post("/v1/chat/completions", chat(stream=True), {"authorization": f"Bearer {key}"})
            last = reply.chunks[-1]
            assert last["detail"] == "the spend limit of this API key ran out"

    run(test())


@pytest.mark.parametrize("wants_usage", [None, True, False])
def test_stream_of_a_provider_that_ignores_its_limit_ends_with_length_and_says_why(wants_usage: bool | None) -> None:
    async def test() -> None:
        asked: Json = {} if wants_usage is None else {"stream_options": {"include_usage": wants_usage}}
        async with Site(long_stream(400, 0.001)) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True, max_tokens=20, **asked))
            assert reply.events[-1] == "[DONE]"
            [last] = [each for each in reply.chunks if each["choices"] and each["choices"][0]["finish_reason"]]
            assert (last["choices"][0]["finish_reason"], "limit" in last["detail"]) == ("length", True)
            [row] = await site.settled(1)
            assert (row["outcome"], row["finish"]) == (Outcome.COMPLETED, "length")
            assert row["output"] < 200

    run(test())


def test_message_of_a_provider_that_ignores_its_limit_ends_with_max_tokens() -> None:
    async def test() -> None:
        async with Site(long_stream(400, 0.001)) as site:
            reply = await site.post("/v1/messages", chat(stream=True, max_tokens=20))
            assert b'"stop_reason":"max_tokens"' in reply.body
            [row] = await site.settled(1)
            assert row["finish"] == "length"

    run(test())


def test_stream_never_grows_beyond_its_cap() -> None:
    async def test() -> None:
        config = '[billing]\ndefault_hold_tokens = 100\ncost_cap_usd = "0.001"\n'
        async with Site(long_stream(600, 0.002), config=config, timing=QUICK) as site:
            await site.post("/v1/chat/completions", chat(stream=True))
            [row] = await site.settled(1)
            assert row["held"] <= 1_000_000

    run(test())


def test_strict_holds_cover_all_that_the_model_may_write() -> None:
    async def test() -> None:
        async with Site(always(streams(stream())), config="[billing]\nstrict_holds = true\n") as site:
            await site.post("/v1/chat/completions", chat(stream=True))
            [row] = await site.settled(1)
            assert row["held"] >= 4096 * OUTPUT_NANO

    run(test())


def test_balance_in_a_streams_head_is_what_is_left_beside_its_hold() -> None:
    async def test() -> None:
        async with Site(always(streams(stream()))) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True, max_tokens=100))
            held = nano(reply.headers["x-tollbridge-charged-usd"])
            assert held > 100 * OUTPUT_NANO + INPUT_NANO
            assert nano(reply.headers["x-tollbridge-balance-usd"]) == 10**9 - held

    run(test())


TWO_ROUTES = """
[billing]
default_hold_tokens = 300

[plans.default]
included_tokens = {included}

[[models]]
id = "two"
output_limit = 1000
price = {{ input = "1", output = "2" }}
routes = [
  {{ provider = "up", model = "a", price = {first} }},
  {{ provider = "next", model = "b", price = {second} }},
]
"""
ONCE, TWICE, TENFOLD, HALF = (f'{{ input = "{n}", output = "{2 * n}" }}' for n in (1, 2, 10, 0.5))
UNKNOWN = always(says({"error": {"message": "no such model"}}, 404))
# Of "hi", with the margin.
PROMPT = 29
# The cost of the shortest answer to it that is worth a call.
SHORT = PROMPT * INPUT_NANO + pricing.LEAST_OUTPUT_TOKENS * OUTPUT_NANO
# Of a small picture at gpt-4o-mini, with the margin of what it counts as elsewhere.
PICTURE = 48_192


@pytest.mark.parametrize(
    ("second", "credit", "cap", "asked", "written", "held"),
    [
        # There is enough for what the dearer route wants.
        (TWICE, 10_000_000, None, None, None, 2 * (PROMPT * INPUT_NANO + 300 * OUTPUT_NANO)),
        (TWICE, 10_000_000, None, 500, 500, 2 * (PROMPT * INPUT_NANO + 500 * OUTPUT_NANO)),
        # The rest of the credit pays for a part of it.
        (TWICE, 3_000_000, None, 1_000, 735, 3_000_000),
        # Nothing is left, but what is held is enough for a shorter answer.
        (TWICE, 2_016_000, None, 1_000, 489, 2_016_000),
        # A cheaper route gives nothing back before the end.
        (HALF, 10_000_000, None, 500, 500, PROMPT * INPUT_NANO + 500 * OUTPUT_NANO),
        # The cap bounds what is held, and what may be written.
        (TWICE, 10_000_000, 1_100_000, None, 260, 1_100_000),
        (TWICE, 10_000_000, 3_000_000, None, 735, 2 * (PROMPT * INPUT_NANO + 300 * OUTPUT_NANO)),
        (TENFOLD, 10_000_000, 10 * SHORT, None, 256, 10 * SHORT),
        (TENFOLD, 10_000_000, 10 * SHORT - 1, None, 0, 0),
        # Even a short answer would cost more than the cap allows, or than the credit pays for.
        (TENFOLD, 10_000_000, 3_000_000, None, 0, 0),
        (TENFOLD, 3_000_000, None, None, 0, 0),
    ],
)
def test_what_the_next_route_may_write_is_what_can_be_held_for_it(
    second: str, credit: int, cap: int | None, asked: int | None, written: int | None, held: int
) -> None:
    """`written` 0: it is not asked."""
    bodies: list[Any] = []

    async def test() -> None:
        config = TWO_ROUTES.format(first=ONCE, second=second, included=0)
        async with Site(UNKNOWN, config=config, credit_usd=usd(credit), others={"next": seeing(bodies)}) as site:
            headers = {} if cap is None else {"X-Tollbridge-Max-Cost-USD": usd(cap)}
            body = {**chat(max_tokens=asked), "model": "two"}
            reply = await site.post("/v1/chat/completions", body, headers)
            if written == 0:
                assert (reply.status, bodies) == (404, [])
                assert await site.balance() == credit
                return
            assert (reply.status, [each["max_tokens"] for each in bodies]) == (200, [written])
            [row] = await site.settled(1)
            assert row["held"] == held

    run(test())


@pytest.mark.parametrize(
    ("included", "cap", "asked", "choices", "written"),
    [
        (2_000, None, None, 1, None),
        (2_000, None, 500, 1, 500),
        (300, None, None, 1, 300 - PROMPT),
        (400, None, 500, 1, 400 - PROMPT),
        (700, None, 380, 2, (700 - PROMPT) // 2),
        (PROMPT + 300, None, None, 1, None),
        (2_000, "0.0011", None, 1, 260),
    ],
)
def test_included_tokens_are_as_many_on_a_dearer_route(
    included: int, cap: str | None, asked: int | None, choices: int, written: int | None
) -> None:
    bodies: list[Any] = []

    async def test() -> None:
        config = TWO_ROUTES.format(first=ONCE, second=TWICE, included=included)
        async with Site(UNKNOWN, config=config, credit_usd="0", others={"next": seeing(bodies)}) as site:
            headers = {} if cap is None else {"X-Tollbridge-Max-Cost-USD": cap}
            body = {**chat(max_tokens=asked, n=choices), "model": "two"}
            assert (await site.post("/v1/chat/completions", body, headers)).status == 200
            assert [each["max_tokens"] for each in bodies] == [written]
            [row] = await site.settled(1)
            assert (row["held"], row["charge"]) == (0, 0)

    run(test())


def test_balance_in_a_streams_head_is_what_is_left_beside_the_hold_for_the_route_that_answers() -> None:
    async def test() -> None:
        config = TWO_ROUTES.format(first=ONCE, second=TWICE, included=0)
        async with Site(UNKNOWN, config=config, others={"next": always(streams(stream()))}) as site:
            reply = await site.post("/v1/chat/completions", {**chat(stream=True), "model": "two"})
            held = 2 * (PROMPT * INPUT_NANO + 300 * OUTPUT_NANO)
            assert nano(reply.headers["x-tollbridge-charged-usd"]) == held
            assert nano(reply.headers["x-tollbridge-balance-usd"]) == 10**9 - held

    run(test())


def test_who_can_pay_for_no_route_is_told_of_the_first() -> None:
    async def test() -> None:
        config = TWO_ROUTES.format(first=TENFOLD, second=ONCE, included=0)
        others = {"next": always(says(completion()))}
        async with Site(always(says(completion())), config=config, credit_usd=usd(1_000), others=others) as site:
            body = {**chat(max_tokens=100), "model": "two"}
            first = 10 * (PROMPT * INPUT_NANO + 100 * OUTPUT_NANO)
            poor = await site.post("/v1/chat/completions", body)
            assert poor.status == 402
            assert f"needs at least {usd(first)} USD" in poor.json["detail"]
            capped = await site.post("/v1/chat/completions", body, {"X-Tollbridge-Max-Cost-USD": usd(1_000)})
            assert capped.status == 400
            assert f"could cost up to {usd(first)} USD" in capped.json["detail"]
            assert site.upstream.accepted == site.others["next"].accepted == 0

    run(test())


# Of a stream that may write 1,000 tokens and holds for 300 at first, and for 300 more at a time.
FIRST, STEP = PROMPT * INPUT_NANO + 300 * OUTPUT_NANO, 300 * OUTPUT_NANO
LEAST_STEP = pricing.LEAST_OUTPUT_TOKENS * OUTPUT_NANO
WHOLE = PROMPT * INPUT_NANO + 1_000 * OUTPUT_NANO


@pytest.mark.parametrize(
    ("credit", "cap", "asked", "words", "held", "finish"),
    [
        # Who set a limit has all of it held at first.
        (10_000_000, None, 500, 495, PROMPT * INPUT_NANO + 500 * OUTPUT_NANO, "stop"),
        # Never for more than the answer may cost in all, or than its cap.
        (10_000_000, None, None, 950, WHOLE, "stop"),
        (10_000_000, 1_500_000, None, 730, PROMPT * INPUT_NANO + 735 * OUTPUT_NANO, "stop"),
        # As far as the credit goes, if that pays for more than a stub.
        (FIRST + STEP + LEAST_STEP - 1, None, None, 950, FIRST + STEP, "length"),
        (FIRST + LEAST_STEP, None, None, 950, FIRST + LEAST_STEP, "length"),
        (FIRST + LEAST_STEP - 1, None, None, 950, FIRST, "length"),
        # The provider was told how much is paid for, and keeps to it: it is not cut before.
        (600_000, None, None, 285, 600_000, "stop"),
    ],
)
def test_a_running_answer_holds_what_it_may_still_cost(
    credit: int, cap: int | None, asked: int | None, words: int, held: int, finish: str
) -> None:
    async def test() -> None:
        config = TWO_ROUTES.format(first=ONCE, second=ONCE, included=0)
        others = {"next": long_stream(1, 0.0)}
        async with Site(long_stream(words, 0.0), config=config, credit_usd=usd(credit), others=others) as site:
            headers = {} if cap is None else {"X-Tollbridge-Max-Cost-USD": usd(cap)}
            body = {**chat(stream=True, max_tokens=asked), "model": "two"}
            reply = await site.post("/v1/chat/completions", body, headers)
            [row] = await site.settled(1)
            assert (row["held"], row["finish"]) == (held, finish)
            if finish == "stop":
                assert reply.text == "word " * words

    run(test())


@pytest.mark.parametrize(
    ("included", "choices", "words", "held", "finish"),
    [
        (5_000, 1, 950, PROMPT + 1_000, "stop"),
        (5_000, 2, 1_900, PROMPT + 2_000, "stop"),
        (PROMPT + 300 + 256, 1, 950, PROMPT + 300 + 256, "length"),
        (PROMPT + 300 + 255, 1, 950, PROMPT + 300, "length"),
        (300, 1, 300 - PROMPT, 300, "stop"),
    ],
)
def test_a_running_answer_holds_the_included_tokens_that_it_may_still_write(
    included: int, choices: int, words: int, held: int, finish: str
) -> None:
    async def test() -> None:
        config = TWO_ROUTES.format(first=ONCE, second=ONCE, included=included)
        others = {"next": long_stream(1, 0.0)}
        async with Site(long_stream(words, 0.0), config=config, credit_usd="0", others=others) as site:
            reply = await site.post("/v1/chat/completions", {**chat(stream=True, n=choices), "model": "two"})
            [row] = await site.settled(1)
            assert row["finish"] == finish
            if finish == "stop":
                assert reply.text == "word " * words
            [(first,)] = await site.database.fetch("SELECT tokens FROM hold")
            [(more,)] = await site.database.fetch("SELECT COALESCE(SUM(amount), 0) FROM hold_step")
            assert first + more == held

    run(test())


@pytest.mark.parametrize(
    ("included", "written"),
    [(3_000, 0), (PICTURE, 0), (PICTURE + PROMPT + 255, 0), (PICTURE + PROMPT + 256, 256), (100_000, None)],
)
def test_included_tokens_suffice_for_a_picture_on_the_next_route_or_it_is_not_asked(
    included: int, written: int | None
) -> None:
    """`written` 0: it is not asked."""
    bodies: list[Any] = []
    png = b"\x89PNG\r\n\x1a\n" + bytes(8) + (512).to_bytes(4, "big") * 2
    url = "data:image/png;base64," + base64.b64encode(png).decode()
    shown = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]

    async def test() -> None:
        config = TWO_ROUTES.format(first=ONCE, second=ONCE, included=included)
        config = config.replace('"b"', '"gpt-4o-mini"').replace("output_limit", "context_window = 100000\noutput_limit")
        async with Site(UNKNOWN, config=config, credit_usd="0", others={"next": seeing(bodies)}) as site:
            reply = await site.post("/v1/chat/completions", {**chat(messages=shown), "model": "two"})
            if written == 0:
                assert (reply.status, bodies) == (404, [])
            else:
                assert (reply.status, [each.get("max_tokens") for each in bodies]) == (200, [written])

    run(test())


def test_included_tokens_do_not_pay_for_searches_on_the_next_route() -> None:
    bodies: list[Any] = []

    async def test() -> None:
        second = '{ input = "1", output = "2", searches = "10" }'
        config = TWO_ROUTES.format(first=ONCE, second=second, included=100_000)
        async with Site(UNKNOWN, config=config, credit_usd="1", others={"next": seeing(bodies)}) as site:
            tools = [{"type": "web_search"}]
            reply = await site.post("/v1/chat/completions", {**chat(tools=tools), "model": "two"})
            assert (reply.status, bodies) == (400, [])
            assert (await site.post("/v1/chat/completions", {**chat(), "model": "two"})).status == 200

    run(test())


def test_only_cheaper_routes_within_the_cap_are_tried_for_want_of_credit(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = """
        [[models]]
        id = "four"
        output_limit = 1000
        price = { input = "1", output = "2" }
        routes = [
          { provider = "up", model = "a", price = { input = "100", output = "20" } },
          { provider = "same", model = "b", price = { input = "100", output = "20" } },
          { provider = "dearer", model = "c", price = { input = "200", output = "40" } },
          { provider = "capped", model = "d", price = { input = "1", output = "27" } },
          { provider = "cheaper", model = "e", price = { input = "10", output = "20" } },
        ]
    """
    answers = always(says(completion()))
    holds: list[Hold] = []

    async def test() -> None:
        others = dict.fromkeys(("same", "dearer", "capped", "cheaper"), answers)
        async with Site(answers, config=routes, credit_usd="0.0075", others=others) as site:
            assert site.gateway.ledger is not None
            submit = site.gateway.ledger.submit

            def seen(op: Any) -> Any:
                if isinstance(op, Hold):
                    holds.append(op)
                return submit(op)

            monkeypatch.setattr(site.gateway.ledger, "submit", seen)
            body = {**chat(max_tokens=1_000), "model": "four"}
            reply = await site.post("/v1/chat/completions", body, {"X-Tollbridge-Max-Cost-USD": "0.0229"})
            monkeypatch.undo()
            assert (reply.status, reply.headers["x-tollbridge-provider"]) == (200, "cheaper")
            assert len(holds) == 2

    run(test())


@pytest.mark.parametrize(
    ("cap", "asked", "status", "written"),
    [
        (SHORT - 1, None, 400, None),
        (SHORT, None, 200, 256),
        (WHOLE - 1, 1_000, 400, None),
        (WHOLE, 1_000, 200, 1_000),
    ],
)
def test_a_request_fits_its_cap_to_the_nanodollar(cap: int, asked: int | None, status: int, written: Any) -> None:
    bodies: list[Any] = []

    async def test() -> None:
        config = TWO_ROUTES.format(first=ONCE, second=ONCE, included=0)
        async with Site(seeing(bodies), config=config, others={"next": UNKNOWN}) as site:
            body = {**chat(max_tokens=asked), "model": "two"}
            reply = await site.post("/v1/chat/completions", body, {"X-Tollbridge-Max-Cost-USD": usd(cap)})
            assert (reply.status, [each["max_tokens"] for each in bodies]) == (status, [written] if written else [])

    run(test())


def test_where_included_tokens_do_not_suffice_credit_is_held_as_far_as_it_goes() -> None:
    bodies: list[Any] = []

    async def test() -> None:
        config = TWO_ROUTES.format(first=ONCE, second=ONCE, included=PROMPT + 255)
        async with Site(seeing(bodies), config=config, credit_usd="0.001", others={"next": UNKNOWN}) as site:
            reply = await site.post("/v1/chat/completions", {**chat(max_tokens=1_000), "model": "two"})
            assert (reply.status, [each["max_tokens"] for each in bodies]) == (200, [485])
            [row] = await site.settled(1)
            assert (row["held"], row["charge"]) == (1_000_000, 10 * INPUT_NANO + 5 * OUTPUT_NANO)

    run(test())


def test_an_answer_is_cut_by_the_limit_of_the_model_that_writes_it() -> None:
    async def only_m(request: Request, peer: Peer) -> None:
        known = json.loads(request.body)["model"] == "next-m"
        await (streams([chunk("word ")] * 400 + stream([])) if known else says({}, 404))(request, peer)

    async def test() -> None:
        config = TWO_ROUTES.format(first=ONCE, second=ONCE, included=0).replace("_limit = 1000", "_limit = 100")
        async with Site(UNKNOWN, config=config, others={"next": always(only_m)}) as site:
            body = {**chat(stream=True), "model": "two", "models": ["m"]}
            reply = await site.post("/v1/chat/completions", body)
            assert reply.text == "word " * 400

    run(test())


@given(
    prompt=st.integers(0, 5_000),
    asked=st.none() | st.integers(1, 5_000),
    choices=st.integers(1, 3),
    produces=st.booleans(),
    prices=st.tuples(st.integers(0, 9_000), st.integers(0, 9_000)),
    cap=st.integers(0, 30_000),
    given_short=st.integers(0, 3),
)
def test_nothing_is_capped_where_all_that_it_may_cost_is_held(
    prompt: int,
    asked: int | None,
    choices: int,
    produces: bool,
    prices: tuple[int, int],
    cap: int,
    given_short: int,
) -> None:
    """What `admit` need not ask."""
    nothing: Any = None
    holds = Holds(nothing, nothing, Policy(cost_cap=cap, default_hold_tokens=500))
    read, written = prices
    price = Price(input=read, output=written, cache_read=read, cache_write=read, cache_write_1h=read)
    upstream: Any = SimpleNamespace(owner=0)
    route = Route(model="m", upstream=upstream, upstream_model="m", price=price, cost=price, output_limit=2_000)
    demand = pricing.Demand(prompt=prompt, output_limit=asked, choices=choices, produces=produces)
    bound = pricing.bound(demand, route, default_hold=500, strict=False)
    amount = max(0, min(bound.want, cap) - given_short)
    if amount >= bound.whole:
        held = Held(amount=amount, available=0)
        assert holds.limit(demand, route, bound, held, cap) is None
