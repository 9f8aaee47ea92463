"""`Idempotency-Key` (A16, F8): the same request twice is one request, one charge and one answer."""

import asyncio
import itertools
import json
import random
import time
from typing import Any

import pytest
from tests.gateway.site import (
    INPUT_NANO,
    OUTPUT_NANO,
    Json,
    Reply,
    Site,
    always,
    by_kind,
    chat,
    completion,
    event,
    run,
    says,
    stream,
    streams,
)
from tests.upstream.bad_server import Peer, Request

from tollbridge.core.ledger import Claim
from tollbridge.errors import Unavailable
from tollbridge.services import accounts, credit
from tollbridge.store.db import sqlite_path
from tollbridge.store.forgetting import ANSWERS_MS, forget

CHAT = "/v1/chat/completions"
PRICE = 10 * INPUT_NANO + 5 * OUTPUT_NANO
KEY = {"Idempotency-Key": "6f0e8c1e-1111-4444-8888-000000000001"}
REPLAYED = "x-tollbridge-idempotent-replayed"
OF_ONE_REQUEST = {REPLAYED, "x-request-id", "request-id", "date"}
EMBEDDED = {"object": "list", "data": [], "model": "e", "usage": {"prompt_tokens": 10, "total_tokens": 10}}


def key(number: int) -> dict[str, str]:
    return {"Idempotency-Key": f"key-{number}"}


async def answers(request: Request, peer: Peer) -> None:
    """Each answer another one."""
    text = f"number {next(_numbers)}"
    if b"/embeddings" in request.target:
        await says({**EMBEDDED, "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}]})(request, peer)
    elif b"/chat/" not in request.target:
        choice = {"index": 0, "text": text, "finish_reason": "stop", "logprobs": None}
        await says(completion(text, object="text_completion", choices=[choice]))(request, peer)
    else:
        await by_kind(says(completion(text)), streams(stream([text])))(request, peer)


_numbers = itertools.count()
OK = always(answers)
MESSAGE = {"model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "hi"}]}
BODIES: list[tuple[str, Json]] = [
    (CHAT, chat()),
    (CHAT, chat(stream=True)),
    ("/v1/completions", {"model": "m", "prompt": "hi"}),
    ("/v1/embeddings", {"model": "e", "input": "hi"}),
    ("/v1/responses", {"model": "m", "input": "hi"}),
    ("/v1/responses", {"model": "m", "input": "hi", "stream": True}),
    ("/v1/messages", MESSAGE),
    ("/v1/messages", {**MESSAGE, "stream": True}),
]


async def until_answered(site: Site, path: str, body: Json, headers: dict[str, str]) -> Reply:
    """As a client does that was told to wait."""
    while True:
        reply = await site.post(path, body, headers)
        if reply.status != 409:
            return reply
        assert reply.json["error"].get("code", "idempotency_in_progress") == "idempotency_in_progress"
        assert reply.headers["retry-after"] == "1"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(("path", "body"), BODIES, ids=lambda each: str(each)[:40])
def test_a_request_that_is_sent_again_gets_its_answer_again_to_the_byte(path: str, body: Json) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            first = await site.post(path, body, KEY)
            assert (first.status, REPLAYED in first.headers) == (200, False)
            await site.settled(1)
            for _ in range(2):
                again = await until_answered(site, path, body, KEY)
                assert (again.status, again.body, again.headers[REPLAYED]) == (200, first.body, "true")
                assert again.headers["x-request-id"] != first.headers["x-request-id"]
                kept = {name: value for name, value in first.headers.items() if name not in OF_ONE_REQUEST}
                assert {name: again.headers[name] for name in kept} == kept
            assert len(await site.usage()) == 1
            assert (await site.post(path, body, key(2))).status == 200
            assert len(await site.settled(2)) == 2

    run(test())


def test_whose_claim_is_lost_to_one_who_is_answered_meanwhile_gets_that_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            first = await site.post(CHAT, chat(), KEY)
            await until_answered(site, CHAT, chat(), KEY)
            assert site.gateway._line is not None
            replays = site.gateway._line.edge._replays
            find = replays.find

            async def too_early(_account: int, _claim: Claim) -> None:
                replays.find = find  # type: ignore[method-assign]

            replays.find = too_early  # type: ignore[method-assign, assignment]
            again = await site.post(CHAT, chat(), KEY)
            assert (again.status, again.body, again.headers[REPLAYED]) == (200, first.body, "true")
            assert len(await site.settled(1)) == 1
            # Each has its own line, and nothing went wrong.
            site.gateway._log.flush()
            lines = [json.loads(each) for each in b"".join(site.log).splitlines() if b"chat/completions" in each]
            assert [line["status"] for line in lines if line["status"] != 409] == [200] * 3
            assert [line["account"] for line in lines] == [site.account.id] * len(lines)
            assert not [record for record in caplog.records if record.levelname == "ERROR"]

    run(test())


def test_a_key_stands_for_one_request_of_one_account() -> None:
    async def test() -> None:
        async with Site(OK) as site:
            first = await site.post(CHAT, chat(), KEY)
            await site.settled(1)
            for path, body in ((CHAT, chat("ho")), ("/v1/messages", chat()), (CHAT, chat(stream=True))):
                reply = await site.post(path, {**body, "max_tokens": 9}, KEY)
                assert reply.status == 422
                assert "Idempotency-Key" in reply.json["error"]["message"]
            site.account = await accounts.create(site.database, "b@example.com", plans=site.settings.plans, actor="t")
            await credit.grant(site.database, site.account, 10**9, reason="test", actor="test", idempotency_key="for b")
            site.key = await site.make_key()
            theirs = await site.post(CHAT, chat(), KEY)
            assert theirs.status == 200
            assert theirs.body != first.body
            assert len(await site.settled(2)) == 2

    run(test())


@pytest.mark.parametrize("pairs", [60, pytest.param(1_000, marks=pytest.mark.soak)])
def test_a_kept_answer_is_given_to_its_own_account_alone(pairs: int) -> None:
    """C3: accounts that use the same few keys for the same few requests, in a random order."""

    async def test() -> None:
        async with Site(OK) as site:
            chance = random.Random(pairs)
            keys = []
            for name in ("a", "b", "c", "d"):
                site.account = await accounts.create(
                    site.database, f"{name}@c3.example", plans=site.settings.plans, actor="t"
                )
                await credit.grant(
                    site.database, site.account, 10**9, reason="test", actor="test", idempotency_key=f"for {name}"
                )
                keys.append(await site.make_key())
            known: dict[tuple[int, int], bytes] = {}
            for _ in range(pairs):
                owner, number = chance.randrange(len(keys)), chance.randrange(max(2, pairs // 16))
                headers = {**key(number), "authorization": f"Bearer {keys[owner]}"}
                reply = await until_answered(site, CHAT, chat(), headers)
                assert reply.status == 200
                assert (REPLAYED in reply.headers) == ((owner, number) in known)
                assert reply.body not in {body for pair, body in known.items() if pair != (owner, number)}
                assert known.setdefault((owner, number), reply.body) == reply.body
            assert len(await site.settled(len(known))) == len(known)

    run(test())


@pytest.mark.parametrize("streamed", [False, True])
def test_who_asks_again_at_the_end_gets_the_answer_although_it_is_not_kept_yet(streamed: bool) -> None:
    async def test() -> None:
        async with Site(OK) as site:
            body = chat(stream=streamed)
            for number in range(5):  # whatever is kept by then
                first = await site.post(CHAT, body, key(number))
                again = await site.post(CHAT, body, key(number))
                assert (again.status, again.body, again.headers[REPLAYED]) == (200, first.body, "true")
            [row] = await site.database.fetch(
                "SELECT * FROM kept_answer WHERE hold_id = (SELECT MAX(hold_id) FROM claim)"
            )
            await site.database.execute("DELETE FROM kept_answer")
            asked = asyncio.create_task(site.post(CHAT, body, key(number)))
            await asyncio.sleep(0.2)
            assert not asked.done()
            marks = ", ".join(f"${at + 1}" for at in range(len(row)))
            await site.database.execute(f"INSERT INTO kept_answer VALUES ({marks})", *row)
            assert (await asked).body == first.body
            assert len(await site.settled(5)) == 5

    run(test())


def test_who_asks_again_after_a_failure_is_answered_at_once() -> None:
    async def test() -> None:
        fail = [True] * 10

        async def script(request: Request, peer: Peer) -> None:
            await (says({"error": {"message": "no"}}, 400) if fail else answers)(request, peer)

        async with Site(always(script)) as site:
            for _ in range(10):
                assert (await site.post(CHAT, chat(), KEY)).status == 400
            fail.clear()
            assert (await site.post(CHAT, chat(), KEY)).status == 200
            await site.settled(11)

    run(test())


def test_who_asks_again_while_it_runs_is_told_so_at_once() -> None:
    async def slow(request: Request, peer: Peer) -> None:
        await asyncio.sleep(1)
        await answers(request, peer)

    async def test() -> None:
        async with Site(always(slow)) as site:
            first = asyncio.create_task(site.post(CHAT, chat(), KEY))
            await asyncio.sleep(0.2)
            began = time.monotonic()
            assert (await site.post(CHAT, chat(), KEY)).status == 409
            assert time.monotonic() - began < 0.5
            assert (await first).status == 200
            await site.settled(1)

    run(test())


@pytest.mark.parametrize("streamed", [False, True])
def test_of_fifty_at_once_one_is_answered_and_charged(streamed: bool) -> None:
    async def slow(request: Request, peer: Peer) -> None:
        await asyncio.sleep(0.1)
        await answers(request, peer)

    async def test() -> None:
        async with Site(always(slow)) as site:
            body = chat(stream=streamed)
            replies = await asyncio.gather(*(site.post(CHAT, body, KEY) for _ in range(50)))
            first = [reply for reply in replies if reply.status == 200 and REPLAYED not in reply.headers]
            assert len(first) == 1
            for reply in replies:
                assert reply.status == 409 or reply.body == first[0].body
            assert (await until_answered(site, CHAT, body, KEY)).body == first[0].body
            [row] = await site.settled(1)
            assert row["charge"] == PRICE

    run(test())


def test_two_hundred_callers_who_gave_up_and_asked_again_are_charged_once_each() -> None:
    """F8: whenever they left."""

    async def test() -> None:
        async with Site(OK) as site:

            async def impatient(number: int) -> None:
                body = chat(f"call {number}", stream=bool(number % 2))
                call = await site.open(CHAT, body, key(number))
                await asyncio.sleep((number % 10) / 1_000)
                call.reset() if number % 3 else call.close()
                replies = [await until_answered(site, CHAT, body, key(number)) for _ in range(2)]
                assert [reply.status for reply in replies] == [200, 200]
                assert replies[0].body == replies[1].body

            for start in range(0, 200, 20):
                await asyncio.gather(*map(impatient, range(start, start + 20)))
            rows = await site.settled(200)
            assert [row["charge"] for row in rows if row["charge"]] == [PRICE] * 200

    run(test())


def test_a_request_that_failed_and_cost_nothing_may_be_sent_again() -> None:
    async def test() -> None:
        fail = [says({"error": {"message": "no"}}, 400), says({"error": {"message": "no"}}, 422)]

        async def script(request: Request, peer: Peer) -> None:
            await (fail.pop() if fail else answers)(request, peer)

        async with Site(always(script)) as site:
            statuses = [(await until_answered(site, CHAT, chat(), KEY)).status for _ in range(4)]
            assert statuses == [400, 400, 200, 200]
            assert [row["charge"] for row in await site.settled(3)] == [0, 0, PRICE]

    run(test())


def test_a_stream_that_broke_off_and_cost_nothing_may_be_sent_again() -> None:
    async def test() -> None:
        broken = [True]

        async def script(request: Request, peer: Peer) -> None:
            if broken:
                broken.clear()
                await streams([*stream(["Hel"])[:1], event(b'{"error":{"message":"no"}}')])(request, peer)
            else:
                await answers(request, peer)

        async with Site(always(script)) as site:
            first = await site.post(CHAT, chat(stream=True), KEY)
            assert b"error" in first.body
            second = await until_answered(site, CHAT, chat(stream=True), KEY)
            assert "number" in second.text
            assert (await until_answered(site, CHAT, chat(stream=True), KEY)).body == second.body
            assert [row["charge"] for row in await site.settled(2)] == [0, PRICE]

    run(test())


def test_an_answer_that_is_too_large_is_not_kept_and_not_charged_again() -> None:
    async def test() -> None:
        async with Site(OK, config='[idempotency]\nmax_answer = "100B"\n') as site:
            first = await site.post(CHAT, chat(), KEY)
            await site.settled(1)
            await site.database.execute("UPDATE usage SET ended_at = ended_at - 20000")
            again = await site.post(CHAT, chat(), KEY)
            assert (again.status, again.json["error"]["code"]) == (409, "idempotency_answer_not_kept")
            assert first.json["id"] in again.json["error"]["message"]
            assert again.headers["x-should-retry"] == "false"
            assert len(await site.usage()) == 1

    run(test())


def test_answers_are_kept_sealed_and_not_for_long() -> None:
    async def test() -> None:
        async with Site(
            always(says(completion("canary in the answer"))), config='[idempotency]\nkeep = "1s"\n'
        ) as site:
            await site.post(CHAT, chat(), KEY)
            await site.settled(1)
            again = await until_answered(site, CHAT, chat(), KEY)
            assert b"canary in the answer" in again.body
            path = sqlite_path(site.settings.database_url.reveal())
            stored = b"".join(each.read_bytes() for each in path.parent.glob(f"{path.name}*"))
            assert b"canary" not in stored
            await asyncio.sleep(1.1)
            assert REPLAYED not in (await site.post(CHAT, chat(), KEY)).headers
            await site.settled(2)
            for table in ("claim", "kept_answer"):
                await site.database.execute(f"UPDATE {table} SET created_at = created_at - {ANSWERS_MS + 1}")
            await forget(site.database)
            for table in ("claim", "kept_answer"):
                assert await site.database.fetch(f"SELECT 1 FROM {table}") == []

    run(test())


@pytest.mark.parametrize("bad", ["", "a b", "x" * 256, "schl\u00fcssel"])
def test_a_key_that_is_none_is_refused(bad: str) -> None:
    async def test() -> Any:
        async with Site(OK) as site:
            data = json.dumps(chat()).encode()
            call = await site._connect()
            head = (
                f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {site.key}\r\nidempotency-key: {bad}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(data)}\r\nconnection: close\r\n\r\n"
            )
            call.writer.write(head.encode("latin-1") + data)
            reply = await call.rest()
            call.close()
            assert (reply.status, reply.json["error"]["param"]) == (400, "Idempotency-Key")
            assert await site.usage() == []

    run(test())


def test_an_answer_that_was_sent_is_no_error_when_it_cannot_be_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The database went away between the charge and the keeping: nothing is left to be told to the caller."""

    async def away(*_: object) -> None:
        raise Unavailable("The database cannot be reached.", code="ledger_unavailable")

    async def test() -> None:
        async with Site(OK) as site:
            reply = await site.post(CHAT, chat(), KEY)
            assert reply.status == 200
            while "cannot be repeated" not in caplog.text:  # noqa: ASYNC110 - a log has no event
                await asyncio.sleep(0.01)
            assert not [record for record in caplog.records if record.levelname == "ERROR"]

    monkeypatch.setattr("tollbridge.store.answers.keep", away)
    run(test())
