"""A model that costs nothing asks for no money, and stays as far from the books as any other."""

from tests.gateway.site import Site, always, by_kind, chat, completion, run, says, stream, streams

FREE = """
[[models]]
id = "free"
output_limit = 4096
price = { input = "0", output = "0" }
routes = [{ provider = "up", model = "free" }]
"""


def test_model_that_costs_nothing_answers_an_empty_account() -> None:
    """litellm#10973."""

    async def test() -> None:
        script = always(by_kind(says(completion()), streams(stream())))
        async with Site(script, config=FREE, credit_usd="0") as site:
            for fields in ({}, {"stream": True}, {"max_tokens": 4096}):
                reply = await site.post("/v1/chat/completions", {**chat(**fields), "model": "free"})
                assert reply.status == 200
            assert [(row["held"], row["charge"]) for row in await site.settled(3)] == [(0, 0)] * 3
            refused = await site.post("/v1/chat/completions", chat())
            assert (refused.status, refused.json["error"]["code"]) == (402, "insufficient_credits")

    run(test())
