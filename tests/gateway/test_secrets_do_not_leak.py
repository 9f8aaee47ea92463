"""Canaries in every place where something comes in: none of them comes out where it should not. J15, J16, G13."""

import json
import logging

import pytest
from tests.gateway.site import DONE, Site, always, by_kind, chat, chunk, completion, event, run, says, streams
from tests.upstream.bad_server import Peer, Request

PATH = "/v1/chat/completions"
PROVIDER_KEY = "upstream-secret"
PROMPT = "canary-prompt-5931"
ANSWER = "canary-answer-7714"
UPSTREAM = "sk-proj-CANARY00000000000000000000000001"
TROUBLE = {
    "error": {"message": f"bad key {UPSTREAM} of org-CANARY123 at http://10.1.2.3/canary-host", "code": UPSTREAM}
}
CANARIES = (PROVIDER_KEY, PROMPT, ANSWER, UPSTREAM, "org-CANARY123", "canary-host", "10.1.2.3")


async def look(site: Site, *more: str) -> None:
    """No canary in the request log or in any column of any row that a request wrote."""
    site.gateway._log.flush()
    log = b"".join(site.log).decode()
    tables = ("hold", "usage", "balance")
    rows = repr([await site.database.fetch(f"SELECT * FROM {table}") for table in tables])
    master = next(site.settings.data_dir.glob("*secret*"), None)
    own = (site.key, site.key[-20:], *((master.read_text().strip(),) if master is not None else ()))
    for canary in (*CANARIES, *own, *more):
        assert canary not in log, canary
        assert canary not in rows, canary


FAILURES = [
    *(says(TROUBLE, status, {"x-canary": UPSTREAM}) for status in (200, 400, 401, 402, 403, 404, 413, 422, 429, 500)),
    says(UPSTREAM.encode(), 500),
    says(UPSTREAM.encode()),
    says(b"", 302, {"location": "http://10.1.2.3/canary-host"}),
    streams([event(TROUBLE)]),
    streams([chunk("Hi"), event(TROUBLE)]),
    streams([b"data: " + UPSTREAM.encode() + b"\n\n"]),
]


@pytest.mark.parametrize("number", range(len(FAILURES)))
def test_what_a_provider_says_in_its_troubles_stays_here(number: int, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with Site(always(FAILURES[number])) as site:
            for streamed in (False, True):
                reply = await site.post(PATH, chat(PROMPT, stream=streamed))
                said = repr((reply.headers, reply.body))
                assert not any(canary in said for canary in (*CANARIES, site.key))
            await look(site)

    caplog.set_level(logging.DEBUG)
    run(test())
    assert not any(canary in caplog.text for canary in CANARIES)


def test_prompts_answers_and_keys_are_nowhere_but_where_they_belong(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Request] = []
    answer = by_kind(says(completion(ANSWER)), streams([chunk(ANSWER), chunk(finish="stop"), DONE]))

    async def noted(request: Request, peer: Peer) -> None:
        seen.append(request)
        await answer(request, peer)

    async def test() -> None:
        async with Site(always(noted)) as site:
            for streamed in (False, True):
                reply = await site.post(PATH, chat(PROMPT, stream=streamed, user=PROMPT))
                assert ANSWER in reply.body.decode()
                assert not any(each in repr(reply) for each in (PROVIDER_KEY, PROMPT, site.key))
            assert not any(site.key.encode() in request.head + request.body for request in seen)
            # A key and a prompt in every place where they do not belong.
            for text in (site.key, PROMPT):
                await site.get(f"/v1/models/{text}")
                await site.get(f"/{text}?key={text}")
                await site.get(f"/v1/{text}")
                await site.get("/v1/models", {"authorization": f"Bearer x{text}"})
                await site.get("/v1/models", {"authorization": f"Basic {text}"})
                for name in ("x-tollbridge-max-cost-usd", "content-type", "content-encoding", "x-api-key", "origin"):
                    await site.post(PATH, chat(), {name: text})
                for field in ("model", "messages", "temperature", "api_base", text):
                    await site.post(PATH, {**chat(), field: text})
                await site.post(PATH, json.dumps(chat(text)).encode()[:-3])
                await site.get("/v1/models", {"x-request-id": text, "user-agent": text, "referer": text})
            await look(site)
            key = site.key
            assert key not in caplog.text

    caplog.set_level(logging.DEBUG)
    run(test())
    assert not any(canary in caplog.text for canary in CANARIES)
