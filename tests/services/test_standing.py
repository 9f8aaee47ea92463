"""Where an account stands: what its plan leaves it at this moment."""

import re

from tests.gateway.site import run
from tests.web.test_dashboard import call, key_of
from tests.web.visitors import house, registered, shown

PLAN = "[plans.free]\nrpm = 5\ntpm = 100000\nconcurrency = 2\nstrict = true\nincluded_tokens = 1000\n"


def test_the_dashboard_says_what_is_left_of_the_plan() -> None:
    async def test() -> None:
        async with house(PLAN) as site:
            ada = await registered(site, "ada@example.com")
            key = await key_of(ada)
            before = shown(await ada.get("/dashboard"))
            assert "5 of 5 requests left" in before
            assert "100,000 of 100,000 tokens left" in before
            assert "2 calls" in before
            assert "1,000 of 1,000 tokens left" in before
            assert await call(site, key) == 200
            after = shown(await ada.get("/dashboard"))
            assert "4 of 5 requests left" in after
            [left] = re.findall(r"Included, this month ([\d,]+) of 1,000", after)
            assert left in {"985", "1,000"}

    run(test())
