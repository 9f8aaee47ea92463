"""Streams that fall silent, and those that end in an unusual way."""

import asyncio
import json
from typing import Any

import pytest
from tests.gateway.site import (
    INPUT_NANO,
    OUTPUT_NANO,
    STREAM_HEAD,
    Site,
    always,
    chat,
    chunk,
    event,
    framed,
    run,
    says,
    stream,
    streams,
    used,
)
from tests.upstream.bad_server import Peer, Request

from tollbridge.core.ledger import Extend
from tollbridge.errors import Unavailable
from tollbridge.gateway.streams import KEEP_ALIVE, Timing
from tollbridge.values import Outcome

TIMING = Timing(tick=0.02, keep_alive=0.8)


def test_a_comment_comes_when_a_stream_is_silent_and_not_while_it_flows() -> None:
    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD)
        await asyncio.sleep(1.0)
        for _ in range(50):
            await peer.send(framed(chunk("word ")))
            await asyncio.sleep(0.025)
        await asyncio.sleep(1.0)
        for each in stream(["end"]):
            await peer.send(framed(each))
        await peer.send(b"0\r\n\r\n")

    async def test() -> None:
        async with Site(always(answer), timing=TIMING) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            assert reply.text == "word " * 50 + "end"
            before, *flowing, after = reply.body.split(b"word ")
            assert KEEP_ALIVE in before
            assert not any(KEEP_ALIVE in each for each in flowing)
            assert KEEP_ALIVE in after
            await site.settled(1)

    run(test())


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "one"}])
def test_who_got_a_comment_is_told_in_the_stream_that_no_provider_answered_and_pays_nothing(
    key: dict[str, str],
) -> None:
    silence_was_heard = asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        await silence_was_heard.wait()
        await says({"error": {"message": "no"}}, 400)(request, peer)

    async def test() -> None:
        async with Site(always(answer), timing=Timing(tick=0.02, keep_alive=0.05)) as site:
            call = await site.open("/v1/chat/completions", chat(stream=True), key)
            status, headers = await call.head()
            assert (status, headers["x-tollbridge-cost-basis"]) == (200, "hold")
            body = b""
            async for piece in call.pieces():
                body += piece
                silence_was_heard.set()
            said = body.replace(KEEP_ALIVE, b"").decode()
            assert said.startswith("data: {")
            assert json.loads(said.split("\n\n")[0][6:])["error"]["message"] == "no"
            assert "[DONE]" not in said
            call.close()
            [row] = await site.settled(1)
            assert (row["charge"], row["status"]) == (0, 400)
            site.gateway._log.flush()
            [line] = [json.loads(each) for each in b"".join(site.log).splitlines() if b"chat/completions" in each]
            assert (line["status"], line["code"]) == (200, "invalid_request_error")
            assert (line["outcome"], line["attempts"], "charge" in line) == ("no_output", 1, False)

    run(test())


QUICK = Timing(tick=0.02, silent_provider=30.0)


def test_an_answer_that_is_whole_ends_although_the_provider_keeps_the_line_open() -> None:
    go_on = asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + b"".join(framed(each) for each in stream()))
        await go_on.wait()

    async def test() -> None:
        async with Site(always(answer), timing=QUICK) as site:
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            assert (reply.text, reply.events[-1]) == ("Hello!", "[DONE]")
            [row] = await site.settled(1)
            assert (row["outcome"], row["charge"]) == (Outcome.COMPLETED, 10 * INPUT_NANO + 5 * OUTPUT_NANO)
            assert row["duration_ms"] < 2_500  # the provider's own time is over after 3 s
            go_on.set()

    run(test())


def test_text_in_a_last_event_without_its_empty_line_arrives_and_is_charged() -> None:
    def said(text: str, **fields: Any) -> bytes:
        return event({"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, **fields}]})

    last = said("and all the words of its end", finishReason="STOP")

    async def test() -> None:
        charges = []
        for end in (last, last.rstrip()):
            answer = always(streams([said("a good beginning "), end]))
            async with Site(answer, dialect="gemini") as site:
                reply = await site.post("/v1/chat/completions", chat(stream=True))
                assert reply.text == "a good beginning and all the words of its end"
                [row] = await site.settled(1)
                assert row["outcome"] == Outcome.COMPLETED
                charges.append(row["charge"])
        assert charges[0] == charges[1] > 0

    run(test())


def test_zeros_that_a_provider_reports_until_its_last_event_are_no_free_answer_for_who_leaves_before() -> None:
    sent = asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + b"".join(framed(chunk("word ", usage=used(10, 0))) for _ in range(100)))
        sent.set()
        await asyncio.sleep(30)

    async def test() -> None:
        async with Site(always(answer)) as site:
            call = await site.open("/v1/chat/completions", chat(stream=True))
            await call.head()
            await sent.wait()
            async for piece in call.pieces():
                if b"word" in piece:
                    break
            call.reset()
            [row] = await site.settled(1)
            assert row["outcome"] == Outcome.CLIENT_LEFT
            assert row["charge"] >= 100 * OUTPUT_NANO

    run(test())


def test_an_answer_goes_on_while_the_ledger_cannot_be_asked_for_more(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[Extend] = []

    async def test() -> None:
        config = "[billing]\ndefault_hold_tokens = 100\n"
        async with Site(always(streams([chunk("word ")] * 1_000 + stream(["end"], None))), config=config) as site:
            assert site.gateway.ledger is not None
            submit = site.gateway.ledger.submit

            def away(op: Any) -> Any:
                if isinstance(op, Extend) and len(refused) < 30:  # until more is used than is held
                    refused.append(op)
                    raise Unavailable("The ledger is busy.")
                return submit(op)

            monkeypatch.setattr(site.gateway.ledger, "submit", away)
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            assert reply.text == "word " * 1_000 + "end"
            [row] = await site.settled(1)
            assert row["outcome"] == Outcome.COMPLETED
            # It was asked again, and told that all is well.
            assert row["held"] >= row["charge"] > 1_000 * OUTPUT_NANO
            monkeypatch.undo()

    run(test())
    assert len(refused) == 30


def test_nothing_remembers_an_answer_whose_caller_left_before_it_began() -> None:
    asked = asyncio.Event()

    async def answer(request: Request, peer: Peer) -> None:
        asked.set()
        await peer.closed()

    async def test() -> None:
        async with Site(always(answer)) as site:
            assert site.gateway._line is not None
            live = site.gateway._line.edge._live
            call = await site.open("/v1/chat/completions", chat(stream=True))
            await asked.wait()
            assert len(live._calls) == 1
            call.reset()
            await site.settled(1)
            assert not live._calls

    run(test())


def test_one_extension_of_a_hold_is_asked_for_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Extend] = []
    running = [0]

    async def answer(request: Request, peer: Peer) -> None:
        await peer.send(STREAM_HEAD + b"".join(framed(chunk("word ")) for _ in range(100)))
        await asyncio.sleep(0.5)
        await peer.send(b"".join(framed(each) for each in stream(["end"], None)) + b"0\r\n\r\n")

    async def test() -> None:
        config = "[billing]\ndefault_hold_tokens = 100\n"
        async with Site(always(answer), config=config, timing=QUICK) as site:
            assert site.gateway.ledger is not None
            submit = site.gateway.ledger.submit

            async def slowly(op: Extend) -> Any:
                asked.append(op)
                running[0] += 1
                assert running[0] == 1
                await asyncio.sleep(0.3)  # many ticks
                running[0] -= 1
                return await submit(op)

            monkeypatch.setattr(
                site.gateway.ledger, "submit", lambda op: slowly(op) if isinstance(op, Extend) else submit(op)
            )
            reply = await site.post("/v1/chat/completions", chat(stream=True))
            monkeypatch.undo()
            assert reply.text == "word " * 100 + "end"
            await site.settled(1)

    run(test())
    assert [op.step for op in asked] == [1]


@pytest.mark.parametrize("key", [{}, {"Idempotency-Key": "one"}])
def test_mistake_of_ours_in_the_middle_of_an_answer_is_seen_to_break_it_off(
    key: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is on the books as what it was, and nobody is given the half of it as the whole."""

    async def test() -> None:
        async with Site(always(streams(stream(["some ", "words"])))) as site:
            line = site.gateway._line
            assert line is not None
            line.edge._settlement.receipt = broken  # type: ignore[method-assign, assignment]
            call = await site.open("/v1/chat/completions", chat(stream=True), key)
            status, headers = await call.head()
            assert status == 200
            body = await call.reader.read()
            call.close()
            assert not body.endswith(b"0\r\n\r\n")
            assert b"words" in body
            assert b"[DONE]" not in body
            assert b"secret detail" not in body
            [logged] = [record for record in caplog.records if record.levelname == "ERROR"]
            assert headers["x-request-id"] in logged.getMessage()
            [row] = await site.settled(1)
            assert row["charge"] > 0
            site.gateway._log.flush()
            [said] = [json.loads(each) for each in b"".join(site.log).splitlines() if b"chat/completions" in each]
            assert (said["status"], said["code"], said["key"]) == (500, "internal_error", row["key_id"])
            assert await site.database.fetch("SELECT 1 FROM kept_answer") == []

    async def broken(*_: object) -> None:
        raise RuntimeError("secret detail")

    run(test())
