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


def _free_loss(usd: str) -> str:
    return OF_FILES + f'[billing]\nfree_loss_per_day_usd = "{usd}"\n'


# As much as the model reads costs some 0.11 USD.
@pytest.mark.parametrize("body", BODIES)
def test_files_at_once_on_little_credit_lose_what_one_of_them_does(body: str) -> None:
    path, asked = BODIES[body]

    async def main() -> None:
        upstream = Slow()
        async with Site(always(upstream), credit_usd="0.08", config=_free_loss("0.1")) as site:
            first = asyncio.create_task(site.post(path, asked))
            await upstream.until_asked(1)
            others = await asyncio.gather(*(site.post(path, asked) for _ in range(4)))
            assert [reply.status for reply in others] == [402] * 4
            if path != "/v1/messages":  # whose errors have no codes
                assert {reply.json["error"]["code"] for reply in others} == {"in_flight_budget_exhausted"}
            assert "while others of your requests with one are running" in others[0].body.decode()
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


def test_of_a_file_alone_so_much_must_be_covered_that_too_much_cannot_be_lost() -> None:
    path, asked = BODIES["chat"]

    async def main() -> None:
        upstream = Slow()
        upstream.may.set()
        async with Site(always(upstream), credit_usd="0.07", config=_free_loss("0.03")) as site:
            refused = await site.post(path, asked)
            assert (refused.status, refused.json["error"]["code"]) == (402, "insufficient_credits")
            assert "shows only when a model has read it" in refused.json["error"]["message"]
            cap = {"X-Tollbridge-Max-Cost-USD": "0.07"}
            capped = await site.post(path, asked, cap)
            assert (capped.status, capped.json["error"]["code"]) == (400, "cost_cap_exceeded")
            estimate = (await site.post("/v1/estimate", asked)).json
            assert (estimate["admitted"], estimate["error"]["code"]) == (False, "insufficient_credits")
            # 1 USD a million, and a margin of the estimate's.
            needed = float(refused.json["error"]["message"].partition("at least ")[2].split()[0])
            assert 0.07 < needed < 0.09
            await site.grant("0.02")
            assert (await site.post(path, asked)).status == 200
            [row] = await site.settled(1)
            assert row["charge"] + row["loss"] == READ * 1_000 + 10_000
            assert row["loss"] <= 30_000_000

    run(main())


@pytest.mark.parametrize("end", ["refused", "answered", "left"])
def test_when_one_has_ended_however_it_did_as_much_may_be_lost_as_before(end: str) -> None:
    path, asked = BODIES["chat"]

    async def main() -> None:
        upstream = Slow()
        async with Site(always(upstream), credit_usd="0.3", config=_free_loss("0.1")) as site:
            if end == "refused":
                dear = {"X-Tollbridge-Max-Cost-USD": "0.000001"}
                for _ in range(3):
                    assert (await site.post(path, asked, dear)).json["error"]["code"] == "cost_cap_exceeded"
            elif end == "answered":
                upstream.may.set()
                assert (await site.post(path, asked)).status == 200
                await site.settled(1)
            else:
                leaving = await site.open(path, {**asked, "stream": True})
                await upstream.until_asked(1)
                leaving.reset()
                upstream.may.set()
                await site.settled(1)
            estimate = (await site.post("/v1/estimate", asked)).json
            assert estimate["admitted"]
            assert float(estimate["held_usd"]) < 0.05

    run(main())


@pytest.mark.parametrize(("credit", "given"), [("1", "0.1"), ("0.5", "1")])
def test_who_can_pay_or_could_not_lose_much_has_many_files_read_at_once(credit: str, given: str) -> None:
    path, asked = BODIES["chat"]

    async def main() -> None:
        upstream = Slow()
        async with Site(always(upstream), credit_usd=credit, config=_free_loss(given)) as site:
            calls = [asyncio.create_task(site.post(path, asked)) for _ in range(5)]
            await upstream.until_asked(5)
            upstream.may.set()
            assert [reply.status for reply in await asyncio.gather(*calls)] == [200] * 5
            assert sum(row["charge"] for row in await site.settled(5)) == 5 * (READ * 1_000 + 10_000)

    run(main())


@pytest.mark.parametrize("given", ["0.03", "0.02"])
def test_included_tokens_that_do_not_suffice_are_a_loss_as_credit_is(given: str) -> None:
    config = _free_loss(given) + "[plans.default]\nincluded_tokens = 60_000\n"

    async def main() -> None:
        upstream = Slow()
        upstream.may.set()
        async with Site(always(upstream), credit_usd="0.05", config=config) as site:
            plain = "/v1/chat/completions", chat(max_tokens=10)
            assert (await site.post(*plain)).status == 200
            [row] = await site.settled(1)
            assert (row["charge"], row["loss"]) == (0, 0)
            # Some 30,000 of the tokens that it took were not included, at 1 USD a million.
            reply = await site.post(*plain)
            assert reply.status == (200 if given == "0.03" else 429)

    run(main())
