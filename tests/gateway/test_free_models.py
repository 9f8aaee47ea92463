"""A model that costs nothing asks for no money, and stays as far from the books as any other."""

import pytest
from tests.gateway.site import Site, always, by_kind, chat, completion, run, says, stream, streams

from tollbridge.store.keys import NO_RULES, Rules

FREE = """
[[models]]
id = "free"
output_limit = 4096
price = { input = "0", output = "0" }
routes = [{ provider = "up", model = "free" }]
"""


@pytest.mark.parametrize("rules", [NO_RULES, Rules(limit=10**9)])
def test_model_that_costs_nothing_answers_an_empty_account(rules: Rules) -> None:
    """litellm#10973; with a spend limit on the key, too, which is looked at in another place."""

    async def test() -> None:
        script = always(by_kind(says(completion()), streams(stream())))
        async with Site(script, config=FREE, credit_usd="0") as site:
            site.key = await site.make_key(rules=rules)
            for fields in ({}, {"stream": True}, {"max_tokens": 4096}):
                reply = await site.post("/v1/chat/completions", {**chat(**fields), "model": "free"})
                assert reply.status == 200
            assert [(row["held"], row["charge"]) for row in await site.settled(3)] == [(0, 0)] * 3
            refused = await site.post("/v1/chat/completions", chat())
            assert (refused.status, refused.json["error"]["code"]) == (402, "insufficient_credits")

    run(test())
