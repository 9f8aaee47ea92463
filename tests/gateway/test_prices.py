"""Prices that depend on the length of a prompt, on time and on what a request is made of: on the books, end to end."""

import json

from tests.gateway.site import Json, Site, always, chat, completion, run, says
from tests.store.books import assert_verified

CONFIG = """
[[models]]
id = "v/tiered"
aliases = ["tiered"]
context_window = 100000
output_limit = 1000
routes = [{ provider = "up", model = "x" }]
[models.price]
input = "1"
output = "2"
cache_read = "0.1"
audio_input = "5"
tiers = [{ above = 1000, input = "2", output = "3", cache_read = "0.2", audio_input = "10" }]

[[models]]
id = "timed"
context_window = 100000
output_limit = 1000
routes = [{ provider = "up", model = "x" }]
[models.price]
input = "1"
output = "2"
periods = [{ until = "2020-01-01", input = "5", output = "6" }, { since = "2020-01-01", input = "3", output = "4" }]
"""


def reported(prompt: int, cached: int, heard: int, output: int) -> Json:
    return {
        "prompt_tokens": prompt,
        "prompt_tokens_details": {"cached_tokens": cached, "audio_tokens": heard},
        "completion_tokens": output,
        "total_tokens": prompt + output,
    }


def test_a_prompt_beyond_a_tier_is_charged_by_it_as_a_whole() -> None:
    async def test() -> None:
        answers = iter([reported(1000, 300, 100, 10), reported(1001, 300, 100, 10)])

        async def script(request: object, peer: object) -> None:
            await says(completion(usage=next(answers)))(request, peer)  # type: ignore[arg-type]

        async with Site(always(script), config=CONFIG) as site:
            for _ in range(2):
                reply = await site.post("/v1/chat/completions", chat(model="tiered"))
                assert reply.status == 200
            short, long = await site.settled(2)
            assert short["charge"] == 600 * 1000 + 300 * 100 + 100 * 5000 + 10 * 2000
            assert long["charge"] == 601 * 2000 + 300 * 200 + 100 * 10_000 + 10 * 3000
            rows = await site.database.fetch("SELECT input, meters FROM usage ORDER BY hold_id")
            assert [tuple(row) for row in rows] == [(600, '{"audio_input":100}'), (601, '{"audio_input":100}')]
            await assert_verified(site.database)

    run(test())


def test_a_request_is_held_at_the_tier_that_it_can_reach() -> None:
    async def test() -> None:
        async with Site(always(says(completion(usage=(10, 5)))), config=CONFIG) as site:
            await site.post("/v1/chat/completions", chat("word " * 200, model="v/tiered", max_tokens=100))
            await site.post("/v1/chat/completions", chat("word " * 4000, model="v/tiered", max_tokens=100))
            short, long = await site.settled(2)
            assert short["held"] < 1000 * 1000 + 100 * 2000
            assert long["held"] > 1000 * 2000 + 100 * 3000

    run(test())


def test_a_request_is_charged_by_the_terms_of_its_time_and_keeps_them() -> None:
    async def test() -> None:
        async with Site(always(says(completion(usage=(10, 5)))), config=CONFIG) as site:
            await site.post("/v1/chat/completions", chat(model="timed"))
            (row,) = await site.settled(1)
            assert row["charge"] == 10 * 3000 + 5 * 4000
            ((terms,),) = await site.database.fetch(
                "SELECT terms FROM usage JOIN price_version ON price_version.id = usage.price_version"
            )
            assert json.loads(terms)["price"]["input"] == 3_000_000
            await assert_verified(site.database)

    run(test())


def test_models_are_listed_with_what_they_can_do_and_found_by_their_aliases() -> None:
    async def test() -> None:
        async with Site(always(says(completion())), config=CONFIG) as site:
            listed = {each["id"]: each for each in (await site.get("/v1/models")).json["data"]}
            tiered = listed["v/tiered"]
            assert (tiered["aliases"], tiered["input_modalities"]) == (["tiered"], ["text"])
            assert tiered["price"]["tiers"][0] == {
                "above": 1000,
                "input": "2",
                "output": "3",
                "cache_read": "0.2",
                "cache_write": "2",
                "cache_write_1h": "2",
                "audio_input": "10",
            }
            assert [each["when"] for each in listed["timed"]["price"]["periods"]] == [
                "from 2020-01-01",
                "until 2020-01-01",
            ]
            assert (await site.get("/v1/models/tiered")).json == tiered
            assert (await site.get("/v1/models/v%2Ftiered")).json == tiered

    run(test())
