"""D11 and B2: refused calls cost nothing, and whoever floods the gateway with them is no longer asked about."""

import pytest
from tests.gateway.site import Site, always, chat, completion, run, says

from tollbridge.core import abuse
from tollbridge.core.abuse import MOST_WRONG_KEYS

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
            # To read the configuration again lets nobody off.
            await site.gateway.reload()
            again = await site.post("/v1/chat/completions", chat())
            assert (again.status, again.json["error"]["code"]) == (429, "abuse_cooldown")
            estimate = (await site.post("/v1/estimate", chat())).json
            assert (estimate["admitted"], estimate["status"]) == (False, 429)
            assert estimate["error"]["code"] == "abuse_cooldown"

    run(main())


def test_who_tries_many_keys_is_told_to_stop_while_good_keys_from_there_are_answered() -> None:
    async def main() -> None:
        async with Site(always(says(completion())), config='[server]\ntrusted_proxies = ["127.0.0.1"]\n') as site:

            async def tried(address: str, key: str) -> int:
                headers = {"authorization": f"Bearer {key}", "x-forwarded-for": address}
                reply = await site.post("/v1/chat/completions", chat(), headers)
                assert reply.status != 429 or 0 < int(reply.headers["retry-after"]) <= 60
                return reply.status

            for address, neighbour in (("198.51.100.7", "198.51.100.7"), ("2001:db8::1", "2001:db8::2")):
                found = [await tried(address, f"tb_live_{number:038}") for number in range(MOST_WRONG_KEYS + 3)]
                assert found == [401] * MOST_WRONG_KEYS + [429] * 3
                assert await tried(neighbour, site.key) == 200
                assert await tried(neighbour, "tb_live_wrong") == 429
                assert await tried("203.0.113.5", "tb_live_wrong") == 401
                await site.gateway.reload()
                assert await tried(neighbour, "tb_live_wrong") == 429
            # A proxy that says nothing of its callers is not many callers.
            assert {await tried("", "tb_live_wrong") for _ in range(MOST_WRONG_KEYS + 3)} == {401}

    run(main())
