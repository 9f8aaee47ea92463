"""Many callers over few connections, many of whom leave: nobody sees a byte of anybody else's. Rows C4 and C5."""

import asyncio
import json
import random
import re
from typing import Any

import pytest
from tests.edge.raw import post
from tests.gateway.site import Site, always, chat, chunk, completion, run, says, streams, usage_chunk
from tests.upstream.bad_server import Peer, Request

from tollbridge.services import accounts

PATH = "/v1/chat/completions"
CALLERS = 5


async def echo(request: Request, peer: Peer) -> None:
    """Answers with the caller's marker, again and again."""
    asked = json.loads(request.body)
    marker = f"<{asked['user']}>"
    await asyncio.sleep(random.random() * 0.003)
    if asked.get("stream"):
        await streams([*[chunk(marker)] * 20, chunk(finish="stop"), usage_chunk(10, 20)], 0.0005)(request, peer)
    else:
        await says(completion(marker * 20))(request, peer)


async def interleave(requests: int, seed: int) -> None:
    chance = random.Random(seed)
    async with Site(always(echo)) as site:
        keys = []
        for number in range(CALLERS):
            mail = f"caller{number}@example.com"
            site.account = await accounts.create(site.database, mail, plans=site.settings.plans, actor="test")
            await site.grant("100")
            keys.append((site.account, await site.make_key()))
        room = asyncio.Semaphore(40)
        whole = [0] * CALLERS

        async def one(number: int) -> None:
            caller = number % CALLERS
            marker = f"<c{caller}-{number}>"
            streamed, cut = chance.random() < 0.7, chance.random() < 0.4
            at = chance.randrange(1, 5_000)
            async with room:
                own = {"authorization": f"Bearer {keys[caller][1]}"}
                call = await site.open(PATH, chat(stream=streamed, user=marker[1:-1]), own)
                received = await (call.reader.read(at) if cut else call.reader.read())
                while not cut and (more := await call.reader.read()):
                    received += more
                (call.reset if cut and not call.reader.at_eof() else call.close)()
            assert set(re.findall(rb"<c[^>]*>", received)) <= {marker.encode()}
            if not cut:
                assert received.count(marker.encode()) == 20
                whole[caller] += 1

        await asyncio.gather(*map(one, range(requests)))
        for _ in range(300):
            [(held,)] = await site.database.fetch("SELECT SUM(held) FROM balance")
            if held == 0:
                break
            await asyncio.sleep(0.01)
        rows = await site.usage()
        owners = {row["key_id"]: row["account_id"] for row in rows}
        assert len(set(owners.values())) == CALLERS
        for account, count in zip(sorted(set(owners.values())), whole, strict=True):
            assert sum(row["account_id"] == account for row in rows) >= count > 0


def test_interleaved_callers_never_see_each_others_bytes() -> None:
    run(interleave(500, 1))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(10))
def test_many_interleaved_callers_never_see_each_others_bytes(seed: int) -> None:
    run(interleave(1_000, 100 + seed))


def test_what_a_page_asks_for_is_not_taken_from_the_head_of_its_visitor() -> None:
    """The browser's head repeats; with whose key its page calls may have changed meanwhile."""

    async def test() -> None:
        async with Site(always(says(completion()))) as site:
            keys = [await site.make_key() for _ in range(3)]
            wanted = iter(keys)

            async def page(scope: Any, receive: Any, send: Any) -> None:
                headers = [
                    (b"content-type", b"application/json"),
                    (b"authorization", b"Bearer " + next(wanted).encode()),
                ]
                await site.gateway._call_edge({**scope, "path": PATH, "headers": headers}, receive, send)

            site.gateway._web = page  # type: ignore[assignment]
            call, request = await site._connect(), post(json.dumps(chat()).encode(), "/page")
            for _ in keys:
                call.writer.write(request)
                assert (await call.rest()).status == 200
            call.close()
            assert len({row["key_id"] for row in await site.settled(len(keys))}) == len(keys)

    run(test())
