"""Prompts whose length only their reader knows: how much of such guesses an account may have running."""

import asyncio
from typing import Any

import pytest
from tests.gateway.site import Site, always, chat, completion, run, says
from tests.upstream.bad_server import Peer, Request

Json = dict[str, Any]

READ = 89_990
PDF = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0x"}
DATA_URL = "data:application/pdf;base64,JVBERi0x"
OF_FILES = """
[[models]]
id = "reader"
context_window = 100000
output_limit = 4096
input_modalities = ["text", "file"]
price = { input = "1", output = "2" }
routes = [{ provider = "up", model = "upstream-m" }]
"""


def _chat(file: Json) -> Json:
    content = [{"type": "file", "file": file}]
    return {"model": "reader", "max_tokens": 10, "messages": [{"role": "user", "content": content}]}


BODIES: dict[str, tuple[str, Json]] = {
    "chat": ("/v1/chat/completions", _chat({"file_data": "https://example.com/a.pdf", "filename": "a.pdf"})),
    "a small file": ("/v1/chat/completions", _chat({"file_data": DATA_URL})),
    "messages": (
        "/v1/messages",
        {
            "model": "reader",
            "max_tokens": 10,
            "messages": [
                {
                    "role": "user",
                    "content": [{"type": "document", "source": PDF}],
                }
            ],
        },
    ),
    "responses": (
        "/v1/responses",
        {
            "model": "reader",
            "max_output_tokens": 16,
            "input": [
                {"role": "user", "content": [{"type": "input_file", "filename": "a.pdf", "file_data": DATA_URL}]},
            ],
        },
    ),
}


class Slow:
    """An upstream that answers once it may, and says that it has read very much."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.asked = 0

    async def __call__(self, request: Request, peer: Peer) -> None:
        self.asked += 1
        await self.may.wait()
        await says(completion(usage=(READ, 5)))(request, peer)

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(5):
            while self.asked < times:  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("body", BODIES)
def test_files_at_once_on_little_credit_lose_what_one_of_them_does(body: str) -> None:
    path, asked = BODIES[body]

    async def main() -> None:
        upstream = Slow()
        async with Site(always(upstream), credit_usd="0.08", config=OF_FILES) as site:
            first = asyncio.create_task(site.post(path, asked))
            await upstream.until_asked(1)
            others = await asyncio.gather(*(site.post(path, asked) for _ in range(4)))
            assert [reply.status for reply in others] == [402] * 4
            if path != "/v1/messages":  # whose errors have no codes
                assert {reply.json["error"]["code"] for reply in others} == {"in_flight_budget_exhausted"}
            assert "filled the model" in others[0].body.decode()
            assert others[0].headers["retry-after"] == "2"
            estimate = (await site.post("/v1/estimate", asked)).json if body == "chat" else {"admitted": False}
            assert estimate["admitted"] is False
            # What is no guess goes on as before.
            plain = asyncio.create_task(site.post("/v1/chat/completions", chat(max_tokens=10)))
            await upstream.until_asked(2)
            upstream.may.set()
            assert (await first).status == (await plain).status == 200
            rows = await site.settled(2)
            assert sum(row["charge"] for row in rows) == 80_000_000
        assert upstream.asked == 2

    run(main())


def test_when_one_has_ended_however_it_did_the_next_may_be_a_guess_again() -> None:
    path, asked = BODIES["chat"]

    async def main() -> None:
        upstream = Slow()
        async with Site(always(upstream), credit_usd="0.3", config=OF_FILES) as site:
            dear = {"X-Tollbridge-Max-Cost-USD": "0.0001"}
            assert (await site.post(path, asked, dear)).json["error"]["code"] == "cost_cap_exceeded"
            upstream.may.set()
            for number in range(2):
                assert (await site.post(path, asked)).status == 200
                await site.settled(number + 1)
            upstream.may.clear()
            leaving = await site.open(path, {**asked, "stream": True})
            await upstream.until_asked(3)
            leaving.reset()
            upstream.may.set()
            await site.settled(3)
            assert (await site.post(path, asked)).status == 200

    run(main())


def test_who_can_pay_for_files_that_fill_the_model_has_many_at_once() -> None:
    path, asked = BODIES["chat"]

    async def main() -> None:
        upstream = Slow()
        async with Site(always(upstream), credit_usd="1", config=OF_FILES) as site:
            calls = [asyncio.create_task(site.post(path, asked)) for _ in range(5)]
            await upstream.until_asked(5)
            upstream.may.set()
            assert [reply.status for reply in await asyncio.gather(*calls)] == [200] * 5
            assert [row["charge"] for row in await site.settled(5)] == [READ * 1_000 + 10_000] * 5

    run(main())


@pytest.mark.parametrize("given", ["0.03", "0.02"])
def test_included_tokens_that_do_not_suffice_are_a_loss_as_credit_is(given: str) -> None:
    path, asked = BODIES["a small file"]
    config = OF_FILES + f'[billing]\nfree_loss_per_day_usd = "{given}"\n[plans.default]\nincluded_tokens = 60_000\n'

    async def main() -> None:
        upstream = Slow()
        upstream.may.set()
        async with Site(always(upstream), credit_usd="0.05", config=config) as site:
            assert (await site.post(path, asked)).status == 200
            [row] = await site.settled(1)
            assert (row["charge"], row["loss"]) == (0, 0)
            # Some 30,000 of the tokens that it took were not included, at 1 USD a million.
            reply = await site.post("/v1/chat/completions", chat(max_tokens=10))
            assert reply.status == (200 if given == "0.03" else 429)

    run(main())
