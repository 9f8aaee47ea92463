"""D11: refused calls cost nothing, and whoever floods the gateway with them is no longer asked about."""

import pytest
from tests.gateway.site import Site, always, chat, completion, run, says

from tollbridge.core import abuse

LIMITED = "[plans.default]\nrpm = 2\nstrict = true\n"


def test_who_asks_on_after_a_429_cools_down_and_has_lost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abuse, "MOST_REFUSALS", 20)

    async def main() -> None:
        async with Site(always(says(completion())), config=LIMITED) as site:
            replies = [await site.post("/v1/chat/completions", chat()) for _ in range(25)]
            codes = [reply.json["error"]["code"] if reply.status == 429 else reply.status for reply in replies]
            assert codes == [200] * 2 + ["rate_limit_exceeded"] * 21 + ["abuse_cooldown"] * 2
            assert 0 < int(replies[-1].headers["retry-after"]) <= 60
            assert len(await site.settled(2)) == 2

    run(main())
