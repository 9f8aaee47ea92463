"""The list of models, for clients of Anthropic's. OpenAI's form is tested with the gateway."""

from fnmatch import fnmatchcase

import pytest
from tests.gateway.site import Site, always, completion, run, says

from tollbridge.store.keys import Rules

HEADERS = {"anthropic-version": "2023-06-01"}
DATED = """
[[models]]
id = "maker/second"
context_window = 9000
output_limit = 500
price = { input = "1", output = "2" }
routes = [{ provider = "up", model = "second" }]
"""


def test_anthropics_clients_get_the_models_that_they_can_call() -> None:
    async def test() -> None:
        async with Site(always(says(completion())), config=DATED) as site:
            listed = (await site.get("/v1/models?limit=1000", HEADERS)).json
            assert [model["id"] for model in listed["data"]] == ["m", "maker/second"]
            assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("m", "maker/second", False)
            assert (await site.get("/v1/models/maker/second", HEADERS)).json == {
                "type": "model",
                "id": "maker/second",
                "display_name": "maker/second",
                "created_at": "1970-01-01T00:00:00Z",
                "max_input_tokens": 9000,
                "max_tokens": 500,
            }
            ours = (await site.get("/v1/models")).json
            assert (ours["object"], [model["id"] for model in ours["data"]]) == ("list", ["m", "e", "maker/second"])

    run(test())


def test_a_plan_without_chat_models_lists_none() -> None:
    async def test() -> None:
        async with Site(always(says(completion())), config='[plans.default]\nmodels = ["e"]\n') as site:
            listed = (await site.get("/v1/models", HEADERS)).json
            assert listed == {"data": [], "has_more": False, "first_id": None, "last_id": None}
            assert (await site.get("/v1/models/m", HEADERS)).status == 404

    run(test())


def test_which_models_a_key_may_call_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    matched: list[str] = []

    def match(name: str, pattern: str) -> bool:
        matched.append(name)
        return fnmatchcase(name, pattern)

    async def test() -> None:
        async with Site(always(says(completion())), config=DATED) as site:
            keys = [await site.make_key(rules=Rules(models=(pattern,))) for pattern in ("maker/*", "m")]
            monkeypatch.setattr("tollbridge.core.plans.fnmatchcase", match)
            for each in range(3):
                for key, expected in zip(keys, ("maker/second", "m"), strict=True):
                    listed = (await site.get("/v1/models", {"authorization": f"Bearer {key}"})).json
                    assert [model["id"] for model in listed["data"]] == [expected], each
            assert sorted(matched) == 2 * ["e"] + 2 * ["m"] + 2 * ["maker/second"]

    run(test())
